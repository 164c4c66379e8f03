"""Patches out of volumes: where they are cut while a network learns, is judged and is used, and how what is said of
patches that overlap becomes one answer.

A patch that is larger than the volume along an axis is centred on it, with black around; elsewhere it lies inside.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

Size = Sequence[int] | np.ndarray
"""Voxels along (depth, height, width)."""

MOST_JUDGED = 16
"""Patches of one volume that are judged after an epoch, where side by side more would be needed to cover it."""
OVERLAP = 0.5
"""Share of its side by which a patch of a volume reaches over the one before it, at least (as nnU-Net)."""


@dataclass(frozen=True)
class Outlined:
    """The outline of one volume, kept as the box it lies in: tumours are small beside their scans.

    Attributes:
        size: of the volume. begin: first voxel of the box. voxels: uint8, of the box, 1 inside.
    """

    size: tuple[int, ...]
    begin: tuple[int, ...] = (0, 0, 0)
    voxels: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0), np.uint8))

    @classmethod
    def of(cls, mask: np.ndarray) -> Outlined:
        """Of a mask (D, H, W), inside where it is not 0."""
        inside = mask > 0
        if not inside.any():
            return cls(tuple(mask.shape))
        edges = []
        for axis in range(3):
            at = np.flatnonzero(inside.any(tuple(k for k in range(3) if k != axis)))
            edges.append((int(at[0]), int(at[-1]) + 1))
        box = inside[tuple(slice(*edge) for edge in edges)]
        return cls(tuple(mask.shape), tuple(low for low, _ in edges), np.ascontiguousarray(box, np.uint8))

    def any(self) -> bool:
        """Whether something is inside."""
        return bool(self.voxels.any())

    def cut(self, corner: Size, size: Size) -> np.ndarray:
        """The part (size) that begins at `corner`, uint8; 0 beyond the volume."""
        made = np.zeros(tuple(size), np.uint8)
        into, out_of = [], []
        for first, length, begin, own in zip(corner, size, self.begin, self.voxels.shape, strict=True):
            low, high = max(first, begin), min(first + length, begin + own)
            if low >= high:
                return made
            into.append(slice(low - first, high - first))
            out_of.append(slice(low - begin, high - begin))
        made[tuple(into)] = self.voxels[tuple(out_of)]
        return made

    @property
    def places(self) -> np.ndarray:
        """int64, ascending: positions of all inside voxels in the flattened volume."""
        at = np.nonzero(self.voxels)
        return np.ravel_multi_index([a + b for a, b in zip(at, self.begin, strict=True)], self.size).astype(np.int64)


def centre(outline: Outlined | None, volume: Size, share: float, draws: np.ndarray) -> np.ndarray:
    """int64 (3,): the voxel that a patch is centred on, by the rule of MONAI's RandCropByPosNegLabel.

    With chance `share` any voxel of the outline, each alike; else any voxel outside of it. Without an outline any voxel
    at all.

    Args:
        volume: its size. draws: two numbers in [0, 1): which of both, and which voxel.
    """
    total = int(np.prod(volume))
    inside = outline.places if outline is not None else np.zeros(0, np.int64)
    if len(inside) and (draws[0] < share or len(inside) == total):
        at = int(inside[int(draws[1] * len(inside))])
    else:
        rank = int(draws[1] * (total - len(inside)))
        # Before the voxel of this rank among those outside lie as many inside ones as are not beyond it.
        at = rank + int(np.searchsorted(inside - np.arange(len(inside)), rank, side="right"))
    return np.array(np.unravel_index(at, tuple(volume)), np.int64)


def corner(middle: np.ndarray, volume: Size, patch: Size) -> np.ndarray:
    """int64 (3,): first voxel of the patch around `middle`, moved into the volume; negative where it is larger."""
    own, side = np.asarray(volume, np.int64), np.asarray(patch, np.int64)
    inside = np.clip(middle - side // 2, 0, np.maximum(own - side, 0))
    moved: np.ndarray = np.where(side > own, -((side - own) // 2), inside)
    return moved


def judged(outline: Outlined | None, volume: Size, patch: Size) -> np.ndarray:
    """int64 (n, 3): corners of the patches that are judged: side by side over the whole volume, the last ones moved in.

    Where more than `MOST_JUDGED` would be needed: those that show most of the outline, at most half of them, then
    evenly spread ones.
    """
    corners = starts(volume, patch, 0.0)
    if len(corners) <= MOST_JUDGED:
        return corners
    shown = np.zeros(len(corners), np.int64)
    if outline is not None and outline.any():
        shown = np.array([outline.cut(c, patch).sum(dtype=np.int64) for c in corners])
    first = [int(k) for k in np.argsort(-shown, kind="stable")[: MOST_JUDGED // 2] if shown[k]]
    rest = [k for k in range(len(corners)) if k not in first]
    spread = [rest[k] for k in np.linspace(0, len(rest) - 1, MOST_JUDGED - len(first)).astype(int)]
    return corners[sorted({*first, *spread})]


def starts(volume: Size, patch: Size, overlap: float) -> np.ndarray:
    """int64 (n, 3): corners of patches that cover a volume, each reaching over the last by `overlap` of its side or
    more; all are spread evenly, the last one ends where the volume does."""
    axes = []
    for length, side in zip(volume, patch, strict=True):
        if side >= length:
            axes.append(np.array([-((side - length) // 2)]))
            continue
        step = max(1, int(side * (1 - overlap)))
        count = -(-(length - side) // step) + 1
        axes.append(np.round(np.linspace(0, length - side, count)).astype(np.int64))
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3).astype(np.int64)


def block(volume: np.ndarray, corner: Size, size: Size) -> np.ndarray:
    """The part (C, *size) of a volume (C, D, H, W) that begins at `corner`; 0, black, beyond the volume."""
    made = np.zeros((len(volume), *size), volume.dtype)
    into, out_of = places(corner, size, volume.shape[1:])
    made[(slice(None), *into)] = volume[(slice(None), *out_of)]
    return made


def middle(volume: np.ndarray, size: Size) -> np.ndarray:
    """The patch (C, *size) in the middle of a volume (C, D, H, W)."""
    own = volume.shape[1:]
    return block(volume, corner(np.array(own) // 2, own, size), size)


def blended(pieces: Iterable[tuple[Size, np.ndarray]], size: Size) -> np.ndarray:
    """Values (*size) float32 out of those of patches that cover a volume: a mean where they overlap, in which a place
    near the middle of its patch counts more than one at its edge, where the network saw less of what surrounds it.

    The weight is a Gaussian of an eighth of the patch's side, as MONAI's sliding window and nnU-Net have it.

    Args:
        pieces: (first voxel, values of the patch). What reaches beyond the volume is left out.
    """
    total, weight = np.zeros(tuple(size), np.float32), np.zeros(tuple(size), np.float32)
    counts: dict[tuple[int, ...], np.ndarray] = {}
    for corner, values in pieces:
        if values.shape not in counts:
            counts[values.shape] = _gaussian(values.shape)
        into, out_of = places(corner, values.shape, size)
        share = counts[values.shape][into]
        total[out_of] += values[into].astype(np.float32) * share
        weight[out_of] += share
    return total / weight


def joined_row(pieces: Iterable[tuple[Size, np.ndarray]], patch: Size, size: Size, outlined: bool = True) -> np.ndarray:
    """What is said of a volume, float32 (K + voxels of the volume), out of rows (K + voxels of a patch) of chances: the
    K types are a mean in which each patch counts as many voxels as are inside by it (all alike where none has any).

    Args:
        pieces: (first voxel of a patch, its row). outlined: outlines were taught; else all patches count alike.
    """
    voxels = int(np.prod(patch))
    types, counts = [], []

    def insides() -> Iterator[tuple[Size, np.ndarray]]:
        for at, row in pieces:
            inside = row[len(row) - voxels :].reshape(tuple(patch))
            types.append(row[: len(row) - voxels].astype(np.float64))
            counts.append(float((inside >= 0.5).sum()) if outlined else 1.0)
            yield at, inside

    blend = blended(insides(), size)
    shares = np.array(counts if any(counts) else [1.0] * len(counts))
    mean = (shares[:, None] * np.stack(types)).sum(0) / shares.sum()
    return np.concatenate([mean.astype(np.float32), blend.reshape(-1)])


def _gaussian(size: Sequence[int]) -> np.ndarray:
    made = np.ones((1,) * len(size), np.float32)
    for axis, side in enumerate(size):
        at = np.arange(side) - (side - 1) / 2
        line = np.exp(-0.5 * (at / (0.125 * side)) ** 2).astype(np.float32)
        made = made * line.reshape([-1 if k == axis else 1 for k in range(len(size))])
    return np.maximum(made, 1e-3)


def places(corner: Size, size: Size, own: Size) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Where a patch lies: in itself, what is inside the volume; and in the volume."""
    low = [max(0, int(c)) for c in corner]
    high = [min(o, int(c) + s) for c, s, o in zip(corner, size, own, strict=True)]
    inside = zip(low, high, corner, strict=True)
    return tuple(slice(a - int(c), b - int(c)) for a, b, c in inside), tuple(map(slice, low, high))
