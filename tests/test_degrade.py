"""Good scans made poor: the stated amounts, in the stated units, from the stated source of chance."""

import math

import numpy as np
import pytest
import torch

from builder.degrade import CT_LOW_HU, CT_RANGE_HU, degrade
from builder.grain import own_grain
from builder.parts.images import DEGRADATIONS
from builder.spec import Choice, Data


def flat(value: float, count: int = 4, side: int = 128) -> torch.Tensor:
    return torch.full((count, 1, side, side), value)


def made(images: torch.Tensor, name: str, source=None, **params) -> torch.Tensor:
    source = torch.Generator().manual_seed(3) if source is None else source
    return degrade(images, Choice(name=name, params=params), source)


def hu(value: float) -> float:
    return (value - CT_LOW_HU) / CT_RANGE_HU


def test_noise_has_the_stated_variance_in_the_dark_and_in_the_bright():
    for value in (0.3, 0.7):
        sigma = made(flat(value), "noise", dark=0.02, bright=0.05).std().item()
        assert sigma == pytest.approx(math.sqrt(0.02**2 + 0.05**2 * value), rel=0.02)


@pytest.mark.parametrize("grain", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("dose", [0.25, 0.1])
def test_low_dose_adds_the_stated_hounsfield_units_in_water_whatever_its_grain(dose, grain):
    poor = made(flat(hu(0.0), 8), "low_dose_ct", dose=dose, sigma_hu=12.0, grain_px=grain)
    assert (poor * CT_RANGE_HU).std().item() == pytest.approx(12.0 * math.sqrt(1 / dose - 1), rel=0.02)
    assert (poor * CT_RANGE_HU + CT_LOW_HU).mean().item() == pytest.approx(
        0.0, abs=1.5
    )  # the mean of a grain is uncertain


def test_low_dose_is_quieter_in_air_and_louder_in_bone():
    sigmas = [made(flat(hu(v)), "low_dose_ct", grain_px=0.0).std().item() * CT_RANGE_HU for v in (-800, 0, 1000)]
    assert sigmas == pytest.approx([12 * math.sqrt(3 * (0.5 + 0.5 * a)) for a in (0.2, 1.0, 2.0)], rel=0.02)


def test_grain_joins_neighbours():
    def alike(grain: float) -> float:
        added = made(flat(hu(0.0)), "low_dose_ct", grain_px=grain)[:, 0] - hu(0.0)
        return ((added[:, :, 1:] * added[:, :, :-1]).mean() / added.var()).item()

    assert abs(alike(0.0)) < 0.02
    assert alike(1.0) == pytest.approx(math.exp(-1 / 4), abs=0.03)  # of white noise smoothed by a Gaussian of 1 px


def test_rician_noise_lifts_the_dark_and_leaves_the_bright_alone():
    poor = made(flat(0.0), "rician_noise", sigma=0.05)
    assert poor.mean().item() == pytest.approx(0.05 * math.sqrt(math.pi / 2), rel=0.02)  # Rayleigh
    assert made(flat(0.6), "rician_noise", sigma=0.05).std().item() == pytest.approx(0.05, rel=0.03)


def test_a_truncated_k_space_keeps_slow_waves_and_drops_fast_ones():
    x = torch.arange(64) + 0.5
    slow, fast = (0.5 + 0.3 * torch.cos(math.pi * k * x / 64).expand(1, 1, 64, 64) for k in (8, 48))
    assert torch.allclose(made(slow, "kspace_truncation", kept=0.5), slow, atol=1e-5)
    assert torch.allclose(made(fast, "kspace_truncation", kept=0.5), torch.full_like(fast, 0.5), atol=1e-5)


def test_blur_spreads_a_point_by_the_stated_width():
    point = torch.zeros(1, 1, 65, 65)
    point[..., 32, 32] = 1.0
    soft = made(point, "blur", sigma_px=2.0, sigma=0.0)[0, 0]
    squares = (torch.arange(65) - 32.0) ** 2
    assert soft.sum().item() == pytest.approx(1.0, abs=1e-4)
    assert (soft.sum(0) @ squares).sqrt().item() == pytest.approx(2.0, rel=0.02)


@pytest.mark.parametrize("scale", [2, 4])
def test_a_coarser_grid_holds_the_mean_of_the_pixels_it_covers(scale):
    images = torch.rand(2, 1, 32, 32)
    coarse = made(images, "downsample", scale=scale)
    assert coarse.shape == (2, 1, 32 // scale, 32 // scale)
    assert coarse[1, 0, 1, 2].item() == pytest.approx(
        images[1, 0, scale : 2 * scale, 2 * scale : 3 * scale].mean().item(), abs=1e-6
    )
    assert Data(degrade=Choice(name="downsample", params={"scale": scale})).scale == scale
    assert Data().scale == 1


def noisy_scan(sigma_hu: float, grain_px: tuple[float, float], seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """(a body of even organs, with a lung, in padding; the same with noise), both in HU: the noise goes by matter."""
    from scipy.ndimage import gaussian_filter, zoom

    chance = np.random.default_rng(seed)
    true = zoom(chance.integers(0, 80, (4, 4)).astype(float), 64, order=0)
    true[40:90, 30:220] = -850.0
    noise = gaussian_filter(chance.standard_normal(true.shape), grain_px, mode="wrap")
    seen = true + sigma_hu * noise / noise.std() * np.sqrt(0.5 + 0.5 * (1 + true / 1000))
    frame = np.full((300, 300), -1024.0)
    good, poor = frame.copy(), frame.copy()
    good[20:276, 20:276], poor[20:276, 20:276] = true, seen
    return good, poor


def as_picture(values_hu: np.ndarray) -> torch.Tensor:
    return torch.from_numpy((values_hu - CT_LOW_HU) / CT_RANGE_HU).float()[None, None]


def alike(noise: np.ndarray, axis: int) -> float:
    """How much neighbours along an axis have in common."""
    here, there = noise.take(range(noise.shape[axis] - 1), axis), noise.take(range(1, noise.shape[axis]), axis)
    return float((here * there).mean() / noise.var())


@pytest.mark.parametrize("grain", [(0.0, 0.0), (0.6, 0.6), (0.5, 1.2)])
@pytest.mark.parametrize("sigma", [8.0, 30.0])
def test_a_quarter_of_the_dose_makes_the_variance_of_a_scan_four_times_what_it_was_and_keeps_its_grain(sigma, grain):
    true, good = noisy_scan(sigma, grain)
    assert np.sqrt((own_grain(good) ** 2).sum()) == pytest.approx(sigma, rel=0.1)
    poor = made(as_picture(good), "low_dose_ct_own", [3], dose=0.25)[0, 0].numpy() * CT_RANGE_HU + CT_LOW_HU
    soft = np.s_[110:270, 30:270]
    before, after = (good - true)[soft], (poor - true)[soft]
    assert after.var() / before.var() == pytest.approx(4.0, rel=0.2)
    added = (poor - good)[soft]
    assert [alike(added, axis) for axis in (0, 1)] == pytest.approx([alike(before, axis) for axis in (0, 1)], abs=0.06)
    lung = np.s_[64:106, 60:230]
    assert (poor - good)[lung].std() / added.std() == pytest.approx(np.sqrt(0.575 / 1.02), rel=0.1)


def test_a_scan_without_noise_gets_none_and_padding_tells_nothing():
    true, good = noisy_scan(20.0, (0.6, 0.6))
    assert not own_grain(np.full((64, 64), -1024.0)).any()
    assert np.sqrt((own_grain(true) ** 2).sum()) < 0.5
    assert own_grain(good[20:276, 20:276]) == pytest.approx(own_grain(good), abs=0.6)
    assert own_grain(good[:, ::-1]).sum() == pytest.approx(own_grain(good).sum(), rel=0.1)


def test_a_patch_gets_the_noise_of_its_scan_not_of_what_it_shows():
    _, good = noisy_scan(20.0, (0.6, 0.6))
    grains = torch.from_numpy(own_grain(good))[None]
    edge = as_picture(good)[..., 20:84, 20:84]  # half of it lung, with its border
    choice, chance = Choice(name="low_dose_ct_own", params={"dose": 0.5}), torch.Generator().manual_seed(1)
    added = (degrade(edge, choice, chance, grains) - edge)[0, 0, :16] * CT_RANGE_HU
    assert added.std().item() == pytest.approx(20.0, rel=0.12)


LOUD = [name for name in DEGRADATIONS.names if name not in ("none",)]


@pytest.mark.parametrize("name", LOUD)
def test_the_same_seed_makes_the_same_poor_scan_whatever_else_is_in_the_batch(name):
    params = {"sigma": 0.02} if any(p.name == "sigma" for p in DEGRADATIONS[name].params) else {}
    images = torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    kept = images.clone()
    whole = made(images, name, [5, 6, 7], **params)
    assert torch.allclose(whole[1:2], made(images[1:2], name, [6], **params), atol=1e-6)
    assert not torch.allclose(whole[1:2], made(images[1:2], name, [8], **params), atol=1e-3)
    assert torch.equal(images, kept)
    assert whole.min() >= 0 and whole.max() <= 1


@pytest.mark.parametrize("name", LOUD)
def test_a_generator_gives_new_noise_at_each_call_and_the_same_after_a_restart(name):
    params = {"sigma": 0.02} if any(p.name == "sigma" for p in DEGRADATIONS[name].params) else {}
    images, chance = torch.rand(2, 1, 32, 32), torch.Generator().manual_seed(4)
    first, second = made(images, name, chance, **params), made(images, name, chance, **params)
    assert not torch.equal(first, second)
    assert torch.equal(first, made(images, name, torch.Generator().manual_seed(4), **params))


def test_the_strength_varies_while_learning_and_never_while_judging():
    images = flat(0.5, 64)
    learning = made(images, "noise", dark=0.05, bright=0.0, spread=0.8).flatten(1).std(1)
    judging = made(images, "noise", list(range(64)), dark=0.05, bright=0.0, spread=0.8).flatten(1).std(1)
    assert learning.min() < 0.03 and learning.max() > 0.07
    assert judging.min() > 0.045 and judging.max() < 0.055


def test_pairs_are_left_as_they_are():
    images = torch.rand(2, 1, 8, 8)
    assert made(images, "none") is images
