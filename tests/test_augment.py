"""Augmentation moves scans, boxes and masks together, once resampled, and the same way every time."""

import math
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torchvision.transforms.v2.functional as reference

from builder.augment import Augment, _bent
from builder.parts.images import AUGMENTATIONS, MIXING

PARTS = [AUGMENTATIONS[name] for name in AUGMENTATIONS.names if name not in MIXING]


@dataclass
class Choice:
    name: str
    params: dict[str, Any] = field(default_factory=dict)


def always(**choices: dict[str, float]) -> Augment:
    return Augment([Choice(name, {"probability": 1.0, **params}) for name, params in choices.items()])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scans(count: int = 4, channels: int = 1, height: int = 32, width: int = 32) -> torch.Tensor:
    """Smooth random pictures in [0, 1], so that a resampling is comparable with another one."""
    noise = torch.rand(count, channels, height // 8, width // 8, generator=seeded(9))
    return torch.nn.functional.interpolate(noise, size=(height, width), mode="bicubic").clamp(0, 1)


class Fixed(Augment):
    """Augmentations whose amounts are not random: each draw is 1, the far end of its range."""

    def _draws(self, count, generator):
        return {name: (torch.ones(count, dtype=torch.bool), torch.ones(count, 2)) for name in self.settings}


def fixed(**choices: dict[str, float]) -> Augment:
    return Fixed([Choice(name, params) for name, params in choices.items()])


# ---- what is said holds ----


def test_every_augmentation_of_the_catalog_is_known_and_no_other():
    assert set(Augment.NAMES) == set(AUGMENTATIONS.names)
    with pytest.raises(ValueError, match="no augmentation 'wobble'"):
        Augment([Choice("wobble")])


def test_with_nothing_chosen_the_same_tensors_come_back():
    images, masks = scans(), torch.zeros(4, 1, 32, 32)
    boxes = [torch.tensor([[1.0, 2.0, 5.0, 6.0]])] * 4
    out = Augment()(images, seeded(), boxes, masks)
    assert out.images is images and out.masks is masks
    assert out.boxes is not None and all(a is b for a, b in zip(out.boxes, boxes, strict=True))
    assert out.kept is not None and all(bool(k.all()) for k in out.kept)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_every_augmentation_changes_scans_and_keeps_shape_type_range_and_the_input(part):
    images = scans(8, channels=3) * 0.8 + 0.1
    before = images.clone()
    augment = Augment([Choice(part.name, {**part.defaults, "probability": 1.0})])
    out = augment(images, seeded(3)).images
    assert out.shape == images.shape and out.dtype == torch.float32
    assert float(out.min()) >= 0 and float(out.max()) <= 1 and bool(out.isfinite().all())
    assert torch.equal(images, before), "the input is never changed in place"
    changed = (out - images).abs().amax((1, 2, 3)) > 1e-4
    assert changed.sum() >= 6  # a drawn amount may be next to nothing


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_a_probability_of_zero_changes_nothing_and_a_half_changes_about_half(part):
    images = scans(400, channels=3, height=16, width=16) * 0.8 + 0.1
    never = Augment([Choice(part.name, {**part.defaults, "probability": 0.0})])
    assert torch.equal(never(images, seeded()).images, images)
    half = Augment([Choice(part.name, {**part.defaults, "probability": 0.5})])
    out = half(images, seeded(1)).images
    changed = ((out - images).abs().amax((1, 2, 3)) > 1e-6).float().mean()
    assert 0.38 < changed < 0.62


def test_images_an_augmentation_does_not_fall_on_are_bit_equal():
    images = scans(64)
    augment = Augment([Choice("rotate", {"degrees": 20, "probability": 0.5})])
    out = augment(images, seeded()).images
    untouched = torch.tensor([torch.equal(a, b) for a, b in zip(out, images, strict=True)])
    assert 16 < untouched.sum() < 48


def test_the_same_seed_gives_the_same_batch_and_another_seed_another():
    everything = Augment([Choice(part.name, {**part.defaults, "probability": 0.7}) for part in PARTS])
    images = scans(8, channels=3)
    first, again, other = (everything(images, seeded(seed)).images for seed in (5, 5, 6))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_the_order_of_choices_does_not_matter_for_what_is_done():
    """Grey values always change in the same order; only the draws move, so fixed draws give equal pictures."""
    settings = {"gamma": {"amount": 0.3}, "brightness": {"amount": 0.2}, "blur": {"sigma_px": 1.0}}
    forward = fixed(**settings)(scans(), seeded()).images
    backward = fixed(**dict(reversed(settings.items())))(scans(), seeded()).images
    assert torch.equal(forward, backward)


# ---- geometry, against known answers and torchvision ----


def test_flips_are_exact():
    images = torch.rand(3, 1, 7, 5, generator=seeded())
    assert torch.equal(fixed(flip_horizontal={})(images, seeded()).images, images.flip(-1))
    assert torch.equal(fixed(flip_vertical={})(images, seeded()).images, images.flip(-2))
    both = fixed(flip_horizontal={}, flip_vertical={})(images, seeded()).images
    assert torch.equal(both, images.flip(-1).flip(-2))


@pytest.mark.parametrize("size", [8, 9])
def test_a_quarter_turn_is_the_quarter_turn(size):
    images = torch.rand(2, 1, size, size, generator=seeded())
    out = fixed(rotate={"degrees": 90})(images, seeded()).images
    assert torch.allclose(out, torch.rot90(images, 1, (2, 3)), atol=1e-5)


def test_a_shift_by_whole_pixels_moves_them_and_leaves_black():
    images = torch.rand(2, 1, 10, 20, generator=seeded())
    out = fixed(shift={"fraction": 0.2})(images, seeded()).images
    assert torch.allclose(out[:, :, 2:, 4:], images[:, :, :-2, :-4], atol=1e-5)
    assert float(out[:, :, :2].abs().max()) < 1e-5 and float(out[:, :, :, :4].abs().max()) < 1e-5


@pytest.mark.parametrize(
    ("augment", "affine"),
    [
        ({"rotate": {"degrees": 23.0}}, {"angle": -23.0}),
        ({"zoom": {"low": 0.9, "high": 1.3}}, {"scale": 1.3}),
        ({"zoom": {"low": 0.8, "high": 0.8}}, {"scale": 0.8}),
        ({"shear": {"degrees": 15.0}}, {"shear": [-15.0, 0.0]}),
        ({"shift": {"fraction": 0.125}}, {"translate": [6, 4]}),
        (
            {"rotate": {"degrees": 30.0}, "zoom": {"low": 1.2, "high": 1.2}, "shift": {"fraction": 0.125}},
            {"angle": -30.0, "scale": 1.2, "translate": [6, 4]},
        ),
    ],
    ids=["rotate", "zoom in", "zoom out", "shear", "shift", "composed"],
)
def test_geometry_agrees_with_torchvision_also_where_the_scan_is_not_square(augment, affine):
    images = scans(2, height=32, width=48)
    arguments: dict[str, Any] = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0], **affine}
    expected = reference.affine(images, **arguments, interpolation=reference.InterpolationMode.BILINEAR)
    out = fixed(**augment)(images, seeded()).images
    # The rim differs: torchvision blends against its border in its own way.
    inner = (slice(None), slice(None), slice(8, -8), slice(8, -8))
    assert torch.allclose(out[inner], expected[inner], atol=2e-3)
    assert float((out - images).abs().max()) > 0.05


def test_flips_inside_a_resampled_batch_come_first():
    images = scans(2)
    out = fixed(flip_horizontal={}, rotate={"degrees": 90})(images, seeded()).images
    assert torch.allclose(out, torch.rot90(images.flip(-1), 1, (2, 3)), atol=1e-5)


def test_only_one_resampling_is_paid_for_all_geometry(monkeypatch):
    import torch.nn.functional as functional

    calls = []
    real = functional.grid_sample

    def counted(*args, **settings):
        calls.append(1)
        return real(*args, **settings)

    monkeypatch.setattr(functional, "grid_sample", counted)
    everything = fixed(
        rotate={"degrees": 9},
        zoom={"low": 1, "high": 1.1},
        shift={"fraction": 0.1},
        shear={"degrees": 5},
        elastic={"spacing": 0.25, "amount": 0.2},
        flip_vertical={},
    )
    everything(scans(), seeded())
    assert len(calls) == 1
    fixed(flip_horizontal={}, flip_vertical={})(scans(), seeded())
    assert len(calls) == 1, "flips alone need none"


# ---- boxes and masks move along ----


@pytest.mark.parametrize("seed", range(12))
def test_a_planted_marker_its_box_and_its_mask_move_together(seed):
    """A bright rectangle, its box and its mask, moved by all geometry at once, still lie on one another."""
    height, width = 60, 80
    images, masks = torch.zeros(1, 1, height, width), torch.zeros(1, 1, height, width, dtype=torch.uint8)
    images[0, 0, 20:32, 30:48] = 1
    masks[0, 0, 20:32, 30:48] = 1
    augment = always(
        rotate={"degrees": 40},
        flip_horizontal={"probability": 0.5},
        flip_vertical={"probability": 0.5},
        zoom={"low": 0.8, "high": 1.2},
        shift={"fraction": 0.1},
        shear={"degrees": 10},
        elastic={"spacing": 0.25, "amount": 0.4 * (seed % 2)},
    )
    out = augment(images, seeded(seed), [torch.tensor([[30.0, 20.0, 48.0, 32.0]])], masks)
    assert out.masks is not None and out.boxes is not None and out.masks.dtype == torch.uint8
    bright, mask = out.images[0, 0] > 0.5, out.masks[0, 0] > 0
    overlap = (bright & mask).sum() / (bright | mask).sum()
    assert overlap > 0.93
    rows, columns = bright.nonzero().unbind(1)
    hull = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
    assert len(out.boxes[0]) == 1
    assert float((out.boxes[0][0] - hull).abs().max()) < 1.6  # corners of a turned rectangle fade into half pixels


def test_masks_stay_labels():
    masks = torch.randint(0, 4, (3, 1, 32, 32), generator=seeded())
    out = fixed(rotate={"degrees": 17.0})(scans(3), seeded(), masks=masks)
    assert out.masks is not None and out.masks.dtype == torch.int64
    assert set(out.masks.unique().tolist()) <= {0, 1, 2, 3}


def test_boxes_are_cut_at_the_border_and_dropped_when_little_is_left():
    boxes = [torch.tensor([[0.0, 0, 10, 10], [85, 40, 99, 60], [60, 40, 100, 60]]), torch.zeros(0, 4)]
    out = fixed(shift={"fraction": 0.13})(torch.zeros(2, 1, 100, 100), seeded(), boxes)
    assert out.boxes is not None and out.kept is not None
    assert out.kept[0].tolist() == [True, False, True]  # the second has 2 of its 14 columns left
    expected = torch.tensor([[13.0, 13, 23, 23], [73, 53, 100, 73]])
    assert torch.allclose(out.boxes[0], expected, atol=1e-4)
    assert out.boxes[1].shape == (0, 4) and out.kept[1].shape == (0,)


def test_boxes_move_with_a_flip():
    out = fixed(flip_horizontal={})(torch.zeros(1, 1, 50, 80), seeded(), [torch.tensor([[10.0, 5, 30, 15]])])
    assert out.boxes is not None and out.boxes[0].tolist() == [[50.0, 5, 70, 15]]


# ---- grey values ----


def test_each_change_of_grey_values_is_what_its_name_says():
    images = scans(3) * 0.4 + 0.3
    mean = images.mean((1, 2, 3), keepdim=True)
    assert torch.allclose(fixed(brightness={"amount": 0.1})(images, seeded()).images, images + 0.1, atol=1e-6)
    contrast = fixed(contrast={"amount": 0.3})(images, seeded()).images
    assert torch.allclose(contrast, (mean + (images - mean) * 1.3).clamp(0, 1), atol=1e-5)
    assert torch.allclose(fixed(gamma={"amount": 0.5})(images, seeded()).images, images**1.5, atol=1e-6)


def test_noise_has_no_bias_and_at_most_the_spread_that_was_asked_for():
    images = torch.full((1, 1, 200, 200), 0.5)
    difference = fixed(noise={"sigma": 0.05})(images, seeded()).images - images
    assert abs(float(difference.mean())) < 0.002 and 0.045 < float(difference.std()) < 0.055
    spreads = (always(noise={"sigma": 0.05})(images.repeat(50, 1, 1, 1), seeded()).images - 0.5).std((1, 2, 3))
    assert float(spreads.max()) < 0.052 and float(spreads.min()) < 0.02


@pytest.mark.parametrize("sigma", [0.7, 1.5])
def test_blur_agrees_with_torchvision(sigma):
    images = scans(2, height=40, width=40)
    radius = math.ceil(3 * sigma)
    expected = reference.gaussian_blur(images, [2 * radius + 1] * 2, [sigma] * 2)
    out = fixed(blur={"sigma_px": sigma})(images, seeded()).images
    inner = (slice(None), slice(None), slice(radius, -radius), slice(radius, -radius))
    assert torch.allclose(out[inner], expected[inner], atol=1e-4)


def test_colour_jitter_keeps_grey_grey_and_leaves_scans_without_colour_alone():
    grey = scans(2)
    assert fixed(colour={"saturation": 0.5, "hue": 0.2})(grey, seeded()).images is grey
    as_rgb = grey.repeat(1, 3, 1, 1)
    assert torch.allclose(fixed(colour={"saturation": 0.5, "hue": 0.2})(as_rgb, seeded()).images, as_rgb, atol=1e-3)
    colour = scans(2, channels=3) * 0.4 + 0.3
    doubled = fixed(colour={"saturation": 1.0, "hue": 0.0})(colour, seeded()).images
    spread, before = doubled.std(1).mean(), colour.std(1).mean()
    assert 1.8 < float(spread / before) < 2.05
    weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    turned = fixed(colour={"saturation": 0.0, "hue": 0.25})(colour * 0.5 + 0.25, seeded()).images
    assert torch.allclose((turned * weights).sum(1), ((colour * 0.5 + 0.25) * weights).sum(1), atol=2e-3)


def test_an_empty_batch_is_no_error():
    assert always(rotate={"degrees": 9}, noise={"sigma": 0.1})(torch.zeros(0, 1, 8, 8), seeded()).images.shape[0] == 0


# ---- contracts over the catalogue: layouts, borders ----


@pytest.mark.parametrize("layout", ["series", "volume"])
@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_every_augmentation_takes_series_and_volumes_and_is_the_same_each_time(part, layout):
    images = scans(3, channels=12).view(3, 4, 3, 32, 32) * 0.8 + 0.1
    images = images if layout == "series" else images.transpose(1, 2).contiguous()
    augment = Augment([Choice(part.name, {**part.defaults, "probability": 1.0})], layout)
    first, again = (augment(images, seeded(4)).images for _ in range(2))
    assert first.shape == images.shape and torch.equal(first, again) and not torch.equal(first, images)


def test_what_lies_beyond_the_border_is_black_the_edge_or_a_mirror_image():
    image = torch.arange(8.0).div(10).add(0.1).repeat(1, 1, 8, 1)  # each row 0.1 ... 0.8
    shift = {"fraction": 0.25}
    rows = {}
    for border in ("black", "edge", "mirror"):
        augment = Fixed([Choice("shift", shift)], border=border)
        rows[border] = augment(image, seeded()).images[0, 0, 4].mul(10).round().int().tolist()
    assert rows["black"] == [0, 0, 1, 2, 3, 4, 5, 6]
    assert rows["edge"] == [1, 1, 1, 2, 3, 4, 5, 6]
    assert rows["mirror"] == [2, 1, 1, 2, 3, 4, 5, 6]
    with pytest.raises(ValueError, match="no border 'torus'"):
        Augment(border="torus")


def test_an_elastic_field_bends_but_never_folds_also_at_its_strongest():
    images = scans(16, height=64, width=64)
    for spacing in (0.1, 0.25, 0.5):
        augment = always(elastic={"spacing": spacing, "amount": 0.4})
        moves = augment.moves(16, 64, 64, seeded(2))
        assert moves is not None and moves.bend is not None
        places = torch.cartesian_prod(torch.arange(64.0), torch.arange(64.0)).flip(1).double() + 0.5
        field = _bent(moves.bend, places.expand(16, -1, -1), (64, 64)).view(16, 64, 64, 2)
        (y_of_x, x_of_x), (y_of_y, x_of_y) = (torch.gradient(field[..., k], dim=(1, 2)) for k in (0, 1))
        determinant = (1 + x_of_x) * (1 + y_of_y) - y_of_x * x_of_y
        assert float(determinant.min()) > 0 and float(field.abs().max()) > 0.5
        assert not torch.equal(augment(images, seeded(2)).images, images)


# ---- two scans in one ----


def test_mixup_is_the_weighted_sum_and_cutmix_a_rectangle_of_its_share():
    images = torch.rand(6, 1, 20, 30, generator=seeded())
    for seed in range(6):
        mixed = always(mixup={"strength": 1.0}).mixed(images, seeded(seed))
        assert mixed is not None and sorted(mixed.partner.tolist()) == list(range(6))
        expected = mixed.share * images + (1 - mixed.share) * images[mixed.partner]
        assert torch.allclose(mixed.images, expected, atol=1e-6)
        cut = always(cutmix={"strength": 1.0}).mixed(images, seeded(seed))
        assert cut is not None
        own, other = cut.images == images, cut.images == images[cut.partner]
        assert bool((own | other).all())
        moved = cut.partner != torch.arange(6)
        assert float(own[moved].float().mean()) == pytest.approx(cut.share, abs=1e-6)


def test_nothing_is_mixed_without_a_partner_or_by_a_probability_of_zero_and_the_call_itself_never_mixes():
    images = scans(4)
    augment = always(mixup={"strength": 0.4})
    assert augment(images, seeded()).images is images
    assert augment.mixed(images[:1], seeded()) is None
    assert Augment([Choice("cutmix", {"strength": 1.0, "probability": 0.0})]).mixed(images, seeded()) is None
    first, again = (augment.mixed(images, seeded(3)) for _ in range(2))
    assert first is not None and again is not None and torch.equal(first.images, again.images)
    both = always(mixup={"strength": 1.0}, cutmix={"strength": 1.0})
    kinds = set()
    for seed in range(20):
        mixed = both.mixed(images, seeded(seed))
        assert mixed is not None
        kinds.add(bool(((mixed.images == images) | (mixed.images == images[mixed.partner])).all()))
    assert kinds == {True, False}, "where both fall on a batch, one of them is taken"
