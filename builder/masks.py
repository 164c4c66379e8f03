"""Masks as files tell them: whole numbers for each pixel of a scan, 0 for nothing; what is none is refused in words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from builder.scan import Grid, Scan, Unreadable

MAX_VALUE = 65535
_MANY_IN_PICTURE = 32  # values; a picture with more is smooth at its edges, or no mask
_MANY = 255
_NEAR = 0.2  # of the way from black to white: what a smooth edge or JPEG may make of black and white
_MOSTLY = 0.9
_NEARLY_WHOLE = 0.05  # what a scaling to 8 bits makes of up to 25 whole numbers: half a step of it
_PICTURES = ("png", "jpeg", "bmp", "tiff")
_SHIFT = 0.1  # of a voxel: what rounding in headers may make of a place
_ELSEWHERE = (
    "The mask lies elsewhere than its scan: its voxels are at other places in millimetres. Resample it onto the grid "
    "of the scan, with the program that made it, and import again."
)
_LAID = (
    "The mask is stored another way round, or covers a part of the scan; its voxels were laid over those of the scan."
)
_SMOOTH = "The mask has grey edges; it was cut at half."
_SCALED = "The mask is stored scaled, which made its whole numbers inexact; they were taken as they were meant."


def mask_values(scan: Scan) -> tuple[np.ndarray, tuple[str, ...]]:
    """A scan that is a mask as uint16 (S, H, W), and what was done to it in words.

    Smooth edges of a black-and-white picture (resized, or JPEG) are cut at half. Whole numbers that a scaling made
    inexact (nibabel's, under the header of a scan: 0, 0.996, 2) are those again. Raises Unreadable for what is no mask:
    colours, fractions, negative numbers, or too many different values.
    """
    pixels = scan.pixels
    if pixels.shape[1] == 3 and not (pixels == pixels[:, :1]).all():
        raise Unreadable("The mask is in colours; expected one whole number a pixel: 0 for nothing, 1, 2, ...")
    values = pixels[:, 0]
    whole = np.rint(values) if values.dtype.kind == "f" else values
    low, high = float(whole.min()), float(whole.max())
    if not (low >= 0 and high <= MAX_VALUE):
        raise Unreadable(f"The mask holds values below 0 or above {MAX_VALUE:,}; expected 0 for nothing, 1, 2, ...")
    stored, values, told = values, whole.astype(np.uint16), tuple[str, ...]()
    if not np.array_equal(stored, whole):
        if not _meant(stored, values):
            raise Unreadable("The mask holds fractions; expected one whole number a pixel: 0 for nothing, 1, 2, ...")
        told = (_SCALED,)
    different = int(np.count_nonzero(np.bincount(values.reshape(-1))))
    is_picture = scan.format in _PICTURES
    if different > 2 and is_picture and (scan.format == "jpeg" or different > _MANY_IN_PICTURE):
        share = values / max(high, 1.0)
        clear = float(np.mean((share < _NEAR) | (share > 1 - _NEAR)))
        if clear < _MOSTLY:
            raise Unreadable("The mask has many shades of grey, as a picture has; expected a few whole numbers.")
        return np.where(share > 0.5, np.uint16(round(high)), np.uint16(0)).astype(np.uint16), (*told, _SMOOTH)
    if different > _MANY + 1:
        raise Unreadable(
            f"The mask holds {different:,} different values; at most {_MANY} structures can be told apart."
        )
    return values, told


def _meant(stored: np.ndarray, whole: np.ndarray) -> bool:
    """Whether whole numbers (uint16) that were scaled came out as `stored`: near them, and each as one and the same.

    A mask of 1/255 is near 0 as well, but there it would be taken for the 0 beside it.
    """
    one_of_each = np.zeros(int(whole.max()) + 1, stored.dtype)
    one_of_each[whole] = stored
    near = np.abs(one_of_each - np.rint(one_of_each)).max() <= _NEARLY_WHOLE
    return bool(near and np.array_equal(one_of_each[whole], stored))


def fitting(values: np.ndarray, mask: Scan, scan: Scan) -> tuple[np.ndarray, tuple[str, ...]]:
    """The values of a mask on the grid of its scan, uint16 (S, H, W), and what was done to it in words.

    Where both say how they lie in the patient, each voxel must lie at the same place in millimetres. A mask whose
    voxels are voxels of the scan, but stored another way round or only a part of them, is laid into the scan's grid
    voxel by voxel; nothing is interpolated. Raises Unreadable for a mask of another size or place.
    """
    slices, _, height, width = scan.pixels.shape
    wanted = (slices, height, width)
    told = mask.grid is not None and scan.grid is not None
    if told and not (values.shape == wanted and _same_place(mask.grid, scan.grid, wanted)):
        return _laid_over(values, mask.grid, scan.grid, wanted)
    if values.shape != wanted:
        raise Unreadable(f"The mask has {_size(values.shape)}, but its scan {_size(wanted)}: they must be equal.")
    return values, ()


def _same_place(mask: Grid | None, scan: Grid | None, shape: tuple[int, ...]) -> bool:
    """Whether the voxels at all corners (of all slices, where these are unevenly spaced) lie at the same place."""
    assert mask is not None and scan is not None
    slices, height, width = shape
    planes = range(slices) if mask.origins or scan.origins else (0, slices - 1)
    corners = np.array([(s, r, c) for s in planes for r in (0, height - 1) for c in (0, width - 1)])
    apart = np.linalg.norm(mask.at(corners) - scan.at(corners), axis=1).max()
    return bool(apart <= _SHIFT * _finest(scan))


def _finest(grid: Grid) -> float:
    return float(np.linalg.norm(np.array(grid.steps), axis=1).min())


def _laid_over(
    values: np.ndarray, mask: Grid | None, scan: Grid | None, wanted: tuple[int, ...]
) -> tuple[np.ndarray, tuple[str, ...]]:
    assert mask is not None and scan is not None
    of_scan = np.array(scan.steps).T
    if mask.origins or scan.origins or abs(np.linalg.det(of_scan)) < 1e-9:
        raise Unreadable(_ELSEWHERE)
    # the place in the scan of the mask's first voxel, and of a step along each of its axes
    start = np.linalg.solve(of_scan, np.subtract(mask.origin, scan.origin))
    turn = np.linalg.solve(of_scan, np.array(mask.steps).T)
    whole, at = np.rint(turn), np.rint(start)
    is_turn = np.array_equal(np.abs(whole).sum(0), (1, 1, 1)) and np.array_equal(np.abs(whole).sum(1), (1, 1, 1))
    drift = np.abs(start - at) + np.abs(turn - whole) @ np.array(values.shape)
    if not is_turn or drift.max() > _SHIFT:
        raise Unreadable(_ELSEWHERE)
    axes = [int(np.argmax(np.abs(whole[axis]))) for axis in range(3)]  # of the mask, for each axis of the scan
    signs = [int(whole[axis, axes[axis]]) for axis in range(3)]
    turned = values.transpose(axes)[tuple(slice(None, None, sign) for sign in signs)]
    first = [int(at[n]) - (turned.shape[n] - 1 if signs[n] < 0 else 0) for n in range(3)]
    into = tuple(slice(max(0, f), max(0, f + n)) for f, n in zip(first, turned.shape, strict=True))
    taken = tuple(
        slice(max(0, -f), max(0, min(n, size - f))) for f, n, size in zip(first, turned.shape, wanted, strict=True)
    )
    if np.count_nonzero(turned[taken]) != np.count_nonzero(turned):
        raise Unreadable("A part of what the mask outlines lies outside its scan: check that both belong together.")
    laid: np.ndarray = np.zeros(wanted, np.uint16)
    laid[into] = turned[taken]
    return laid, (_LAID,)


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
