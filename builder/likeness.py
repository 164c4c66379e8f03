"""How near a restored slice comes to the good one: figures of one picture, in stated windows and units.

PSNR and SSIM are taken after a window, of whose width they are told (data range 1 after windowing), as in the
LDCT benchmark (Eulig et al., Med Phys 51:8776, 2024); RMSE and bias in stored values (Hounsfield units for CT), of the
pixels that lie inside of the preparation's range. Figures of different windows cannot be compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

WINDOWS_HU = {"lung": (-600.0, 1500.0), "soft tissue": (40.0, 400.0)}
"""Center and width of the windows in which CT is judged."""
TISSUES_HU = {"lung": (-950.0, -600.0), "soft tissue": (-150.0, 150.0)}
"""Hounsfield units of the good scan that count as a tissue, for the bias."""
BINS = 16
"""Rings of the noise power spectrum, from no frequency to the highest (half a cycle a pixel)."""
_MOST_DB = 100.0


@dataclass(frozen=True)
class Likeness:
    """Figures of one picture against the good one.

    psnr_db, ssim: by window. rmse, bias: stored values. tissue_bias: by tissue, NaN where the slice has none. noise:
    standard deviation of fine detail where the good picture is flat, stored values. edges: how steep edges are where
    the good picture has its steepest, as a share of theirs (1 is as sharp, less is softer). power: (BINS,) mean power
    of the difference in rings of frequency, stored values squared.
    """

    psnr_db: dict[str, float]
    ssim: dict[str, float]
    rmse: float
    bias: float
    tissue_bias: dict[str, float]
    noise: float
    edges: float
    power: np.ndarray


def windows(good: np.ndarray, is_ct: bool) -> dict[str, tuple[float, float]]:
    """{name: (low, high) in stored values}: those of CT, else the range of the good scan itself, "whole range"."""
    if is_ct:
        return {name: (center - width / 2, center + width / 2) for name, (center, width) in WINDOWS_HU.items()}
    low, high = float(good.min()), float(good.max())
    return {"whole range": (low, high if high > low else low + 1)}


def likeness(
    picture: np.ndarray, good: np.ndarray, counted: np.ndarray, within: Mapping[str, tuple[float, float]], is_ct: bool
) -> Likeness:
    """Compares (H, W) pictures of stored values.

    Args:
        counted: (H, W) bool, the pixels that are compared. within: windows as (low, high), see `windows`.
    """
    from scipy.ndimage import gaussian_filter

    picture, good = np.asarray(picture, np.float32), np.asarray(good, np.float32)
    picture = np.where(counted, picture, good)
    apart = picture - good
    some = max(1, int(counted.sum()))
    psnr, alike = {}, {}
    for name, (low, high) in within.items():
        one, other = ((np.clip(p, low, high) - low) / (high - low) for p in (picture, good))
        error = float(((one - other) ** 2).sum()) / some
        psnr[name] = min(_MOST_DB, -10 * float(np.log10(error))) if error > 0 else _MOST_DB
        alike[name] = _ssim(one, other)
    smooth = gaussian_filter(good, 2.0)
    across, down = np.gradient(smooth, axis=1), np.gradient(smooth, axis=0)
    steep = np.hypot(across, down)
    lying = counted & (good > good.min())
    flat = lying & (steep <= np.quantile(steep[lying], 0.3)) if lying.any() else counted
    fine = picture - gaussian_filter(picture, 2.0)
    # Edges: the slope of the picture along the good one's, so that noise, which has no side, cancels out.
    soft, wanted = gaussian_filter(picture, 0.7), gaussian_filter(good, 0.7)
    slopes = [np.gradient(p, axis=1) * across + np.gradient(p, axis=0) * down for p in (soft, wanted)]
    edge = counted & (steep >= np.quantile(steep, 0.98))
    below = float(slopes[1][edge].sum())
    tissue = {}
    for name, (low, high) in TISSUES_HU.items() if is_ct else ():
        inside = counted & (smooth >= low) & (smooth <= high)
        tissue[name] = float(apart[inside].mean()) if inside.any() else float("nan")
    return Likeness(
        psnr,
        alike,
        float(np.sqrt((apart**2).sum() / some)),
        float(apart.sum() / some),
        tissue,
        float(fine[flat].std()) if flat.any() else float("nan"),
        float(slopes[0][edge].sum()) / below if below > 0 else float("nan"),
        _power(apart),
    )


def _ssim(one: np.ndarray, other: np.ndarray) -> float:
    import torch

    from builder.restoration import ssim

    pair = (torch.from_numpy(np.ascontiguousarray(p, np.float32))[None, None] for p in (one, other))
    return float(ssim(*pair)[0])


def _power(apart: np.ndarray) -> np.ndarray:
    """Mean power of a difference (H, W) in rings of frequency."""
    spectrum = np.abs(np.fft.fft2(apart)) ** 2 / apart.size
    rows, columns = (np.fft.fftfreq(side) for side in apart.shape)
    ring = np.hypot(rows[:, None], columns[None])
    number = np.minimum((ring / 0.5 * BINS).astype(int), BINS)  # the corners, beyond every ring, are left out
    count = np.bincount(number.ravel(), minlength=BINS + 1)[:BINS]
    return np.bincount(number.ravel(), spectrum.ravel(), BINS + 1)[:BINS] / np.maximum(count, 1)
