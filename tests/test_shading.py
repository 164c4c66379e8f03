"""What MR, CT and ultrasound add of their own is what its name says, measured on planted pictures."""

import math

import pytest
import torch
import torch.nn.functional as F
from test_augment import always, fixed, scans, seeded


def test_a_bias_field_multiplies_smoothly_and_within_its_amount():
    images = torch.full((6, 1, 48, 40), 0.4)
    images[:, :, :4] = 0
    out = fixed(bias_field={"amount": 0.3})(images, seeded()).images
    assert float(out[:, :, :4].abs().max()) == 0, "black stays black"
    ratio = (out / 0.4)[:, :, 4:]
    assert float(ratio.max()) <= math.exp(0.3) + 1e-5 and float(ratio.min()) >= math.exp(-0.3) - 1e-5
    assert float((ratio.log().abs().amax((1, 2, 3)) > 0.2).float().mean()) > 0.6, "its far end is nearly reached"
    assert float((ratio[..., 1:] - ratio[..., :-1]).abs().max()) < 0.1, "neighbours hardly differ"


def test_ghosting_adds_faint_copies_a_fraction_of_the_picture_away_and_keeps_the_mean():
    images = torch.zeros(40, 1, 32, 32)
    images[:, :, 15:17, 15:17] = 1
    out = always(ghosting={"strength": 1.0, "ghosts": 2})(images, seeded()).images
    rows, columns = out.sum((1, 3)), out.sum((1, 2))
    copied = (rows[:, 0] + rows[:, 31] > 0.02) | (columns[:, 0] + columns[:, 31] > 0.02)  # half a picture away, wrapped
    assert float(copied.float().mean()) > 0.9
    grey = scans(8) * 0.6 + 0.2
    ghosted = always(ghosting={"strength": 0.5, "ghosts": 6})(grey, seeded()).images
    assert torch.allclose(ghosted.mean((1, 2, 3)), grey.mean((1, 2, 3)), atol=2e-3)
    assert float((ghosted - grey).abs().max()) > 0.01


def test_speckle_multiplies_and_leaves_black_alone():
    images = torch.full((1, 1, 200, 200), 0.25)
    images[..., 100:] = 0.5
    images[..., :10, :] = 0
    out = fixed(speckle={"sigma": 0.2, "grain_px": 0.0})(images, seeded()).images
    assert float(out[..., :10, :].abs().max()) == 0
    dark, bright = float(out[..., 10:, :100].std()), float(out[..., 10:, 100:].std())
    assert dark == pytest.approx(0.05, rel=0.05) and bright / dark == pytest.approx(2, rel=0.05)


def test_ct_noise_has_the_variance_it_says_and_its_grain_keeps_it():
    for grain in (0.0, 1.0):
        for value in (0.0, 0.5, 1.0):
            # at the ends of the range half of the noise is cut off: judged on the half that is left
            images = torch.full((1, 1, 240, 240), value)
            difference = fixed(ct_noise={"sigma": 0.1, "grain_px": grain})(images, seeded(3)).images - value
            expected = 0.1 * math.sqrt(0.25 + 0.75 * value)
            spread = float(difference.square().mean().sqrt()) * (1 if value == 0.5 else math.sqrt(2))
            assert spread == pytest.approx(expected, rel=0.08), (grain, value)
    coarse = fixed(ct_noise={"sigma": 0.1, "grain_px": 1.5})(torch.full((1, 1, 99, 99), 0.5), seeded()).images - 0.5
    neighbours = float((coarse[..., 1:] * coarse[..., :-1]).mean() / coarse.square().mean())
    assert neighbours > 0.6, "grain: neighbours are alike"


def test_low_resolution_is_the_coarser_grid_and_back():
    images = torch.rand(3, 2, 32, 48, generator=seeded())
    out = fixed(low_resolution={"factor": 2.0})(images, seeded()).images
    coarse = F.avg_pool2d(images, 2)
    assert torch.allclose(out, F.interpolate(coarse, scale_factor=2, mode="bilinear"), atol=1e-5)
    assert torch.equal(fixed(low_resolution={"factor": 1.0})(images, seeded()).images, images)


def test_erased_patches_are_of_the_mean_grey_and_not_larger_than_asked():
    images = torch.rand(50, 1, 40, 40, generator=seeded())
    out = always(cutout={"size": 0.25, "patches": 2})(images, seeded(1)).images
    changed = out != images
    mean = images.mean((1, 2, 3), keepdim=True).expand_as(images)
    assert torch.allclose(out[changed], mean[changed])
    areas = changed.sum((1, 2, 3))
    assert 1 < int(areas.max()) <= 2 * 11 * 11 and int(areas.min()) >= 1
    assert float((areas > 100).float().mean()) < 0.9, "some have one patch only"
