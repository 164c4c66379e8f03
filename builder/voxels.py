"""The grid of a volume that is taught with patches: its own voxels, or voxels of a chosen size in millimetres.

Nothing is cut off and nothing is added: only the number of voxels along an axis may change. Where a voxel size is
chosen, slices between slices are computed (linear between neighbours); where it is 0, every voxel stays what it was.
The way back to the scan's own grid is linear between the middles of voxels and shifts nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from builder.spec import Data

Spacing = Sequence[float | None]
"""Distance of (slices, rows, columns) in mm; None where it is not known."""


class NoSpacing(ValueError):
    """A volume that does not say how far its voxels lie apart, though a size in mm is asked for. For people."""


def grid(shape: Sequence[int], spacing_mm: Spacing, data: Data) -> tuple[int, int, int]:
    """(D, H, W) of a prepared volume of (S, H, W) slices, rows and columns.

    Raises:
        NoSpacing: in words.
    """
    wanted = (data.slice_mm, data.pixel_mm, data.pixel_mm)
    found = []
    for size, known, chosen, what in zip(shape, spacing_mm, wanted, ("slices", "pixels", "pixels"), strict=True):
        if chosen and not (known and np.isfinite(known) and known > 0):
            raise NoSpacing(
                f"A scan does not say how far its {what} lie apart, so it cannot be brought to {chosen:g} mm. Keep the "
                "voxels as they are (0 mm), or leave the scan out."
            )
        found.append(max(1, round(size * float(known or 0) / chosen)) if chosen else int(size))
    return found[0], found[1], found[2]


def resampled(volume: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """A volume (C, S, H, W) float32 on the grid `size` (D, H', W'): linear, the kernel growing with the reduction."""
    if tuple(volume.shape[1:]) == tuple(size):
        return volume
    from PIL import Image

    depth, height, width = size

    def turned(plane: np.ndarray, rows: int, columns: int) -> np.ndarray:
        image = Image.fromarray(np.ascontiguousarray(plane, np.float32))
        return np.asarray(image.resize((columns, rows), Image.Resampling.BILINEAR))

    made = np.empty((len(volume), depth, height, width), np.float32)
    for channel, out in zip(volume, made, strict=True):
        flat = channel
        if channel.shape[1:] != (height, width):
            flat = np.stack([turned(plane, height, width) for plane in channel])
        # Slices as rows, all pixels as columns: the same kernel along the third axis.
        out[:] = (
            flat if len(flat) == depth else turned(flat.reshape(len(flat), -1), depth, height * width).reshape(size)
        )
    return made


def mask_in(mask: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """A mask (S, H, W) on the grid `size`: of each voxel the value at its middle."""
    for axis, (old, new) in enumerate(zip(mask.shape, size, strict=True)):
        if old != new:
            mask = mask.take(np.floor((np.arange(new) + 0.5) * old / new).astype(np.int64), axis)
    return mask


def chances_out(chances: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Values (D, H', W') float on the scan's own grid (S, H, W): linear between middles; as they are where it is the
    same."""
    found = np.asarray(chances, np.float32)
    for axis, (own, wanted) in enumerate(zip(chances.shape, shape, strict=True)):
        if own == wanted:
            continue
        at = ((np.arange(wanted) + 0.5) * own / wanted - 0.5).clip(0, own - 1)
        low = np.floor(at).astype(np.int64)
        high = np.minimum(low + 1, own - 1)
        share = (at - low).astype(np.float32).reshape([-1 if k == axis else 1 for k in range(3)])
        found = found.take(low, axis) * (1 - share) + found.take(high, axis) * share
    return found


def seen(depth: int, num_slices: int) -> tuple[int, ...]:
    """Of each of `depth` prepared slices, the nearest slice of a scan of `num_slices`, counted from 1."""
    return tuple(int((k + 0.5) * num_slices / depth) + 1 for k in range(depth))
