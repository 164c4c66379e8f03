"""From a network's picture back to the scan's stored values: the exact inverse of the preparation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from builder.scan import NAMED_WINDOWS, Scan, grey_range
from builder.spec import Data

STRAIGHT = ("ct full", "stored range")
"""Windows that cut nothing off and run in a straight line, so that they can be taken back."""


@dataclass(frozen=True)
class Restored:
    """Pixels (S, C, H', W') in the stored values of the scan, of its type; kept: how many pixels of the scan lay
    outside of the window, or were padding, and stayed as they are."""

    pixels: np.ndarray
    kept: int = 0


def restored(scan: Scan, pictures: Sequence[np.ndarray], data: Data) -> Restored:
    """The answer to each slice of `scan` as a scan again.

    Args:
        pictures: one a slice, (C, H', W') float32 where 0 and 1 are black and white of the window; what lies beyond is
            not cut off here.

    Steps, the preparation backwards: MONOCHROME1 turned back, then low + (high - low) * value with the ends of the
    window, then the nearest whole number where the scan holds whole numbers (an error of half a step at most, none on
    average). Values that the scan's own bits cannot hold are set to the nearest that they can. A pixel that the window
    had cut off (metal above 3071 HU, padding below -1024) says nothing the network could have seen: it keeps its value.

    Raises:
        ValueError: the window bends, or cannot be taken back.
    """
    line = grey_range(scan, data.window)
    if line is None or data.window not in STRAIGHT:
        raise ValueError(f"The window {data.window!r} cannot be taken back; choose {' or '.join(STRAIGHT)}.")
    low, high = line
    found = np.stack([np.asarray(picture, np.float32) for picture in pictures])
    if found.shape[1] == 3 and scan.pixels.shape[1] == 1:  # a grey scan that was shown as three equal channels
        found = found.mean(axis=1, keepdims=True)
    if scan.photometric == "MONOCHROME1":
        found = 1 - found
    values = np.float32(low) + np.float32(high - low) * found
    source = scan.pixels
    if values.shape[1] == source.shape[1]:
        outside = (source < low) | (source > high)
        if scan.valid is not None:
            outside |= ~scan.valid[:, None]
        scale = values.shape[-1] // source.shape[-1]
        kept, masked = source, outside
        if scale > 1:
            kept, masked = (array.repeat(scale, -2).repeat(scale, -1) for array in (source, outside))
        values = np.where(masked, kept.astype(np.float32), values)
        count = int(outside.sum())
    else:
        count = 0
    return Restored(as_stored(values, scan), count)


def as_stored(values: np.ndarray, scan: Scan) -> np.ndarray:
    """Values of any shape as the nearest that the scan's own type and bits can hold."""
    kind = scan.pixels.dtype
    if kind.kind == "f":
        return values.astype(np.float32)
    limits = np.iinfo(kind)
    low, high = limits.min, limits.max
    if kind.kind == "u" and kind.itemsize > 1:
        high = max(2**scan.bits - 1, int(scan.pixels.max()))
    return np.rint(values).clip(low, high).astype(kind)


def ct_range() -> tuple[float, float]:
    """Hounsfield units that are black and white under "ct full"."""
    center, width = NAMED_WINDOWS["ct full"]
    return center - width / 2, center + width / 2 - 1
