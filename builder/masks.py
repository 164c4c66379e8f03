"""Masks as files tell them: whole numbers for each pixel of a scan, 0 for nothing; what is none is refused in words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from builder.scan import Scan, Unreadable

MAX_VALUE = 65535
_MANY_IN_PICTURE = 32  # values; a picture with more is smooth at its edges, or no mask
_MANY = 255
_NEAR = 0.2  # of the way from black to white: what a smooth edge or JPEG may make of black and white
_MOSTLY = 0.9
_PICTURES = ("png", "jpeg", "bmp", "tiff")
_SMOOTH = "The mask has grey edges; it was cut at half."


def mask_values(scan: Scan) -> tuple[np.ndarray, tuple[str, ...]]:
    """A scan that is a mask as uint16 (S, H, W), and what was done to it in words.

    Smooth edges of a black-and-white picture (resized, or JPEG) are cut at half. Raises Unreadable for what is no mask:
    colours, fractions, negative numbers, or too many different values.
    """
    pixels = scan.pixels
    if pixels.shape[1] == 3 and not (pixels == pixels[:, :1]).all():
        raise Unreadable("The mask is in colours; expected one whole number a pixel: 0 for nothing, 1, 2, ...")
    values = pixels[:, 0]
    if values.dtype.kind == "f" and not (np.isfinite(values).all() and np.array_equal(values, np.rint(values))):
        raise Unreadable("The mask holds fractions; expected one whole number a pixel: 0 for nothing, 1, 2, ...")
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > MAX_VALUE:
        raise Unreadable(f"The mask holds values below 0 or above {MAX_VALUE:,}; expected 0 for nothing, 1, 2, ...")
    values = values.astype(np.uint16)
    different = int(np.count_nonzero(np.bincount(values.reshape(-1))))
    is_picture = scan.format in _PICTURES
    if different > 2 and is_picture and (scan.format == "jpeg" or different > _MANY_IN_PICTURE):
        share = values / max(high, 1.0)
        clear = float(np.mean((share < _NEAR) | (share > 1 - _NEAR)))
        if clear < _MOSTLY:
            raise Unreadable("The mask has many shades of grey, as a picture has; expected a few whole numbers.")
        return np.where(share > 0.5, np.uint16(round(high)), np.uint16(0)).astype(np.uint16), (_SMOOTH,)
    if different > _MANY + 1:
        raise Unreadable(
            f"The mask holds {different:,} different values; at most {_MANY} structures can be told apart."
        )
    return values, ()


def fitting(values: np.ndarray, scan: Scan) -> np.ndarray:
    """The mask, if it has as many pixels as the scan. Raises Unreadable for another size."""
    slices, _, height, width = scan.pixels.shape
    if values.shape != (slices, height, width):
        raise Unreadable(
            f"The mask has {_size(values.shape)}, but its scan {_size((slices, height, width))}: they must be equal."
        )
    return values


def united(masks: Sequence[np.ndarray]) -> np.ndarray:
    """Several masks of one scan as one. Raises Unreadable where two name different structures for one pixel."""
    whole = masks[0]
    for mask in masks[1:]:
        if np.any((whole != 0) & (mask != 0) & (whole != mask)):
            raise Unreadable(
                "Two masks of this scan contradict each other: they name different structures at one place."
            )
        whole = np.where(whole != 0, whole, mask)
    return whole


def _size(shape: tuple[int, ...]) -> str:
    slices, height, width = shape
    return f"{width} x {height} pixels" + (f" in {slices} slices" if slices != 1 else "")
