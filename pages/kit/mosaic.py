"""Arrays as pictures: values in colour, many small pictures in one grid."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, sqrt

import numpy as np

__all__ = ["bar", "coloured", "grid", "largest", "scale_of"]

_BRIGHT = np.array([[12, 10, 28], [66, 10, 104], [147, 38, 103], [221, 81, 58], [252, 165, 10], [252, 255, 190]])
"""From dark to bright with evenly rising lightness, readable without colour vision: for values from zero up."""
_SIGNED = {
    False: np.array([[18, 62, 160], [88, 140, 222], [246, 246, 248], [240, 158, 72], [176, 72, 8]]),
    True: np.array([[120, 178, 255], [44, 92, 176], [24, 27, 34], [186, 96, 22], [255, 184, 104]]),
}
"""From negative over nothing to positive, on a light and on a dark page."""


def scale_of(values: np.ndarray) -> tuple[float, float, bool]:
    """(low, high, signed): what the colours run over. Values of both signs get a scale with zero in its middle."""
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    if low < 0 < high:
        most = max(-low, high)
        return -most, most, True
    return low, high if high > low else low + 1.0, False


def coloured(values: np.ndarray, low: float, high: float, signed: bool, dark: bool = False) -> np.ndarray:
    """Values (..., ) as colours: uint8 (..., 3). What lies outside of low and high takes the end's colour."""
    stops = (_SIGNED[dark] if signed else _BRIGHT).astype(np.float32)
    share = np.clip((np.nan_to_num(values) - low) / max(high - low, 1e-12), 0, 1) * (len(stops) - 1)
    below = np.clip(share.astype(int), 0, len(stops) - 2)
    part = (share - below)[..., None]
    return np.rint(stops[below] * (1 - part) + stops[below + 1] * part).astype(np.uint8)


def bar(signed: bool, dark: bool = False, width: int = 180, height: int = 12) -> np.ndarray:
    """The scale itself, lowest on the left: uint8 (height, width, 3)."""
    return np.broadcast_to(coloured(np.linspace(0, 1, width)[None], 0.0, 1.0, signed, dark), (height, width, 3)).copy()


def largest(height: int, width: int, side: int) -> int:
    """By how much a picture of this size is enlarged to be about `side` px: a whole number, for sharp pixels."""
    return max(1, round(side / max(height, width)))


def grid(
    pictures: Sequence[np.ndarray], *, tile: int = 72, gap: int = 4, num_columns: int = 0, wide: float = 1.9
) -> np.ndarray:
    """Pictures uint8 (h, w, 3) of one size in rows: uint8 (H, W, 4), see-through between them.

    Args:
        tile: longest side of each in px, about. wide: how many times wider than high the whole is to be.
    """
    height, width = pictures[0].shape[:2]
    times = largest(height, width, tile)
    step = max(1, round(max(height, width) / (2.5 * tile))) if times == 1 else 1
    shown = [np.repeat(np.repeat(p[::step, ::step], times, 0), times, 1) for p in pictures]
    height, width = shown[0].shape[:2]
    columns = num_columns or min(len(shown), max(1, ceil(sqrt(len(shown) * wide * height / width))))
    rows = -(-len(shown) // columns)
    sheet = np.zeros((rows * (height + gap) - gap, columns * (width + gap) - gap, 4), np.uint8)
    for number, picture in enumerate(shown):
        top, left = (number // columns) * (height + gap), (number % columns) * (width + gap)
        sheet[top : top + height, left : left + width, :3] = picture
        sheet[top : top + height, left : left + width, 3] = 255
    return sheet
