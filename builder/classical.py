"""Restoration without learning: what every learned one has to stand beside.

Pictures are (H, W) float32 in [0, 1] of the window. Each method has a strength; it is the one that served best on
pictures of another split (`tuned`), so that none is beaten for want of a good setting.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Method = Callable[[np.ndarray, float], np.ndarray]


def gaussian(picture: np.ndarray, sigma_px: float) -> np.ndarray:
    """Gaussian smoothing."""
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(picture, sigma_px, mode="mirror")


def median(picture: np.ndarray, side_px: float) -> np.ndarray:
    """The median of a square around each pixel."""
    from scipy.ndimage import median_filter

    return median_filter(picture, int(side_px), mode="mirror")


def non_local_means(picture: np.ndarray, strength: float, patch: int = 5, reach: int = 7) -> np.ndarray:
    """Mean of the pixels around whose own surroundings look alike (Buades, Coll and Morel, CVPR 2005).

    Args:
        strength: h, as a share of the grey range: differences of patches below it hardly count. patch: side of the
            surroundings compared. reach: how far away similar ones are looked for, px.
    """
    from scipy.ndimage import uniform_filter

    height, width = picture.shape
    spread = np.pad(picture, reach, mode="reflect")
    total, weights = np.zeros_like(picture), np.zeros_like(picture)
    most = np.zeros_like(picture)
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            if not (dy or dx):
                continue
            other = spread[reach + dy : reach + dy + height, reach + dx : reach + dx + width]
            apart = uniform_filter((picture - other) ** 2, patch, mode="mirror")
            weight = np.exp(apart / np.float32(-(strength**2)))
            total += weight * other
            weights += weight
            np.maximum(most, weight, out=most)
    most = np.maximum(most, np.float32(1e-6))  # the pixel itself counts as much as its best likeness
    return (total + most * picture) / (weights + most)


def enlarged(picture: np.ndarray, scale: int, how: str) -> np.ndarray:
    """The picture on a grid `scale` times as fine: "bilinear" or "bicubic" (Keys 1981), half-pixel convention."""
    import torch

    tensor = torch.from_numpy(np.ascontiguousarray(picture, np.float32))[None, None]
    size = [side * scale for side in picture.shape]
    return torch.nn.functional.interpolate(tensor, size, mode=how, align_corners=False)[0, 0].numpy()


def strengths(noise: float) -> dict[str, tuple[Method, tuple[float, ...]]]:
    """The methods and the strengths that are tried, for pictures of about this noise (share of the grey range)."""
    return {
        "gaussian": (gaussian, (0.5, 0.7, 0.9, 1.2, 1.6)),
        "median": (median, (3, 5)),
        "non-local means": (non_local_means, tuple(noise * k for k in (0.5, 0.8, 1.2, 1.8))),
    }


def tuned(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, tuple[Method, float]]:
    """Each method with the strength of the smallest mean squared error over pairs (poor, good) of pictures."""
    noise = float(np.sqrt(np.mean([np.mean((poor - good) ** 2) for poor, good in pairs]))) or 1e-3
    found: dict[str, tuple[Method, float]] = {}
    for name, (method, tried) in strengths(noise).items():
        errors = [np.mean([np.mean((method(poor, k) - good) ** 2) for poor, good in pairs]) for k in tried]
        found[name] = method, tried[int(np.argmin(errors))]
    return found
