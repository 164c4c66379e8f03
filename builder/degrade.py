"""Good scans made poor: what image enhancement learns to undo, on the device, batch by batch.

Pictures come and go as float in [0, 1], where 0 and 1 are the ends of the window; every amount is stated in shares of
that grey range, in pixels, or (low dose) in Hounsfield units. What would leave the range is cut off, as a scanner's own
range does and as preparation does with a poor scan in use.

While a network learns, each step draws new degradations from the step's generator; to judge, each picture has a seed of
its own, so that epochs, runs and methods meet the very same poor scans, on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from builder.grain import own_grain
from builder.parts.images import DEGRADATIONS
from builder.scan import NAMED_WINDOWS

CT_LOW_HU, CT_RANGE_HU = -1024.0, NAMED_WINDOWS["ct full"][1] - 1.0
"""What 0 stands for, and how much 1 is more than 0, under the window "ct full"."""


class Chosen(Protocol):
    """What `spec.Choice` looks like from here."""

    @property
    def name(self) -> str: ...
    @property
    def params(self) -> Mapping[str, Any]: ...


class Chance:
    """Where random numbers come from: one generator for a batch, or one seed for each picture."""

    def __init__(self, images: Tensor, source: torch.Generator | Sequence[int]) -> None:
        self.images = images
        self.seeds: list[torch.Generator] = []
        if isinstance(source, torch.Generator):
            self.generator = source
            if images.device.type != "cpu":
                self.generator = torch.Generator(images.device)
                self.generator.manual_seed(int(torch.randint(2**62, (), generator=source)))
        else:
            if len(source) != len(images):
                raise ValueError(f"There are {len(images)} pictures, but {len(source)} seeds.")
            self.seeds = [torch.Generator().manual_seed(int(seed)) for seed in source]

    def normal(self, shape: Sequence[int]) -> Tensor:
        """(B, *shape) standard normal float32 on the device of the pictures."""
        device, count = self.images.device, len(self.images)
        if self.seeds:
            return torch.stack([torch.randn(*shape, generator=own) for own in self.seeds]).to(device)
        return torch.randn(count, *shape, generator=self.generator, device=device)

    def strength(self, spread: float) -> Tensor | float:
        """(B, 1, 1, 1) factors in 1 - spread .. 1 + spread; 1 where each picture has its seed."""
        if self.seeds or not spread:
            return 1.0
        draws = torch.rand(len(self.images), 1, 1, 1, generator=self.generator, device=self.images.device)
        return 1.0 + spread * (2 * draws - 1)


def degrade(
    images: Tensor, choice: Chosen, source: torch.Generator | Sequence[int], grains: Tensor | None = None
) -> Tensor:
    """Makes good pictures poor.

    Args:
        images: (B, C, H, W) float in [0, 1], on any device; never changed in place.
        choice: one of `parts.images.DEGRADATIONS` and its settings; "none" hands back what came.
        source: a CPU generator (new at each call), or one seed a picture (always the same).
        grains: (B, k, k) HU, the noise of the scans that patches are of (`grain.own_grain`), where the degradation goes
            by that; None: told from the pictures themselves, which must then be whole slices.
    Returns: (B, C, H, W) float in [0, 1]; with "downsample" (B, C, H // scale, W // scale).
    """
    part = DEGRADATIONS[choice.name]
    if not part.target or not len(images):
        return images
    settings = {**part.defaults, **choice.params} | ({} if grains is None else {"grains": grains})
    return part.load()(images, Chance(images, source), **settings).clamp_(0.0, 1.0)


def noise(images: Tensor, chance: Chance, dark: float, bright: float, spread: float = 0.0) -> Tensor:
    """Signal-dependent Gaussian noise: variance dark^2 + bright^2 * grey value (Foi et al., IEEE TIP 17:1737, 2008)."""
    sigma = (dark**2 + bright**2 * images).sqrt_() * chance.strength(spread)
    return images + sigma * chance.normal(images.shape[1:])


def rician_noise(images: Tensor, chance: Chance, sigma: float, spread: float = 0.0) -> Tensor:
    """Magnitude of a signal with Gaussian noise in both channels (Gudbjartsson, Magn Reson Med 34:910, 1995)."""
    strength = chance.strength(spread)
    real = images + sigma * strength * chance.normal(images.shape[1:])
    return torch.hypot(real, sigma * strength * chance.normal(images.shape[1:]))


def low_dose_ct(
    images: Tensor, chance: Chance, dose: float, sigma_hu: float, grain_px: float, spread: float = 0.0
) -> Tensor:
    """Noise that a share `dose` of the dose would add to CT pictures under the window "ct full".

    sigma_added(HU)^2 = sigma_hu^2 (1 / dose - 1) (1/2 + 1/2 attenuation), attenuation = 1 + HU / 1000 of water, at
    least
    0: the variance of a reconstruction goes with 1 / dose, and half of it is taken to follow the matter in the pixel
    itself, half the matter around it. In water this is exactly sigma_hu sqrt(1 / dose - 1). An image-domain stand-in
    for Poisson counts in the projections: no streaks, no electronic noise, one grain everywhere.
    """
    sigma = sigma_hu * math.sqrt(1 / dose - 1) / CT_RANGE_HU * chance.strength(spread)
    return images + sigma * _louder(images) * _grained(chance.normal(images.shape[1:]), grain_px)


def low_dose_ct_own(
    images: Tensor, chance: Chance, dose: float, spread: float = 0.0, grains: Tensor | None = None
) -> Tensor:
    """The noise that a share `dose` of the dose would add, by the noise that each CT scan has itself.

    A scan at this dose has 1 / dose times the variance that it has now, so (1 / dose - 1) times as much is added, with
    the scan's own grain (`grain.own_grain`; Britten et al., Br J Radiol 77:323, 2004; Yu et al., J Comput Assist Tomogr
    36:477, 2012). Where in the picture it is stronger goes by the matter, as in `low_dose_ct`: no streaks.
    """
    if grains is None:
        grains = torch.stack([_own(picture) for picture in images])
    count, channels, height, width = images.shape
    sigma = math.sqrt(1 / dose - 1) / CT_RANGE_HU * chance.strength(spread)
    reach = grains.shape[-1] - 1
    white = chance.normal((channels, height + reach, width + reach))
    white = white.reshape(1, count * channels, height + reach, width + reach)
    kernels = grains.to(images).repeat_interleave(channels, 0)[:, None]
    return images + sigma * _louder(images) * F.conv2d(white, kernels, groups=count * channels).view(images.shape)


def kspace_truncation(images: Tensor, chance: Chance, kept: float, sigma: float = 0.0) -> Tensor:
    """The middle share `kept` of the frequencies along both sides, the rest zero; the grid stays (zero filling).

    The picture is mirrored at its edges first, so that a patch has no jump where its ends meet.
    """
    height, width = images.shape[-2:]
    wide = torch.cat([images, images.flip(-1)], -1)
    whole = torch.cat([wide, wide.flip(-2)], -2)
    spectrum = torch.fft.rfft2(whole)
    rows = torch.fft.fftfreq(2 * height, device=images.device).abs() <= kept / 2
    columns = torch.fft.rfftfreq(2 * width, device=images.device) <= kept / 2
    soft = torch.fft.irfft2(spectrum * (rows[:, None] & columns), s=whole.shape[-2:])[..., :height, :width]
    return soft + sigma * chance.normal(images.shape[1:]) if sigma else soft


def blur(images: Tensor, chance: Chance, sigma_px: float, sigma: float = 0.0, spread: float = 0.0) -> Tensor:
    """A Gaussian of `sigma_px`, edges mirrored, then Gaussian noise of `sigma`."""
    widths = torch.as_tensor(sigma_px * chance.strength(spread), dtype=images.dtype, device=images.device)
    soft = _smoothed(images, widths.reshape(-1).expand(len(images)), sigma_px * (1 + spread), "reflect")
    return soft + sigma * chance.normal(images.shape[1:]) if sigma else soft


def downsample(images: Tensor, chance: Chance, scale: int, sigma: float = 0.0) -> Tensor:
    """Each pixel the mean of scale x scale; rows and columns that do not fill one are left out."""
    coarse = F.avg_pool2d(images, scale)
    return coarse + sigma * chance.normal(coarse.shape[1:]) if sigma else coarse


def _louder(images: Tensor) -> Tensor:
    """How much stronger than in water the noise of CT is taken to be, from the matter in each pixel."""
    attenuation = (1 + (images * CT_RANGE_HU + CT_LOW_HU) / 1000).clamp_(min=0)
    return (0.5 + 0.5 * attenuation).sqrt_()


def _own(picture: Tensor) -> Tensor:
    """(k, k) HU: the noise of one whole slice (C, H, W) float in [0, 1] under the window "ct full"."""
    return torch.from_numpy(own_grain(picture.mean(0).cpu().numpy() * np.float32(CT_RANGE_HU) + np.float32(CT_LOW_HU)))


def _smoothed(images: Tensor, sigma: Tensor, largest: float, beyond: str) -> Tensor:
    """Gaussian of sigma (B,) px, two passes of one dimension; `beyond` the edges: "reflect" or "circular"."""
    count, channels, height, width = images.shape
    radius = min(max(1, math.ceil(4 * largest)), height - 1, width - 1)
    offsets = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
    kernels = torch.exp(-0.5 * (offsets / sigma.clamp(min=1e-3).view(-1, 1)) ** 2)
    kernels = (kernels / kernels.sum(1, keepdim=True)).repeat_interleave(channels, 0).view(count * channels, 1, 1, -1)
    flat = images.reshape(1, count * channels, height, width)
    flat = F.conv2d(F.pad(flat, (radius, radius, 0, 0), mode=beyond), kernels, groups=count * channels)
    kernels = kernels.transpose(2, 3)
    flat = F.conv2d(F.pad(flat, (0, 0, radius, radius), mode=beyond), kernels, groups=count * channels)
    return flat.view(count, channels, height, width)


def _grained(white: Tensor, grain_px: float) -> Tensor:
    """White noise with a grain, of the same standard deviation (the ends meet, so that no edge is quieter)."""
    if grain_px < 0.1:
        return white
    radius = min(max(1, math.ceil(4 * grain_px)), white.shape[-2] - 1, white.shape[-1] - 1)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / grain_px) ** 2)
    kernel /= kernel.sum()
    sigma = torch.full((len(white),), grain_px, dtype=white.dtype, device=white.device)
    return _smoothed(white, sigma, grain_px, "circular") / float((kernel**2).sum())
