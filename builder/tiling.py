"""Whole scans through a network that was taught with patches: tiles with overlap, blended into one picture.

The picture is mirrored beyond its edges. Of each tile a margin is thrown away, where the network saw the tile's edge
instead of what lies beyond it; across a ramp inside of it neighbouring tiles are mixed, their shares adding up to one.
Where the margin is as wide as the network can see (a network of convolutions alone), the result is the same however the
picture is cut, up to the rounding of float32 (1e-5 of the grey range). Where every answer depends on the whole tile (a
mean over it, attention), tiles stay as large as the patches it was taught with, and neighbours are blended over a
quarter of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

TOLERANCE = 1e-5
"""Largest difference, as a share of the grey range, that tiles of another size make where `Cut.exact`."""
LARGEST_PX = 576
"""Side of the largest tile: what a CPU holds at ease."""


@dataclass(frozen=True)
class Cut:
    """How pictures are cut.

    Attributes:
        side, margin, ramp: px of the network's input; side > 2 margin + ramp. align: tiles begin at multiples of it, so
            that a network which halves its maps meets the same grid in each.
        exact: the margin covers all that the network sees around a pixel.
    """

    side: int
    margin: int
    ramp: int
    align: int = 1
    exact: bool = False

    @property
    def step(self) -> int:
        """Px from one tile to the next."""
        return self.side - 2 * self.margin - self.ramp


def taught(side: int) -> Cut:
    """Tiles as large as the patches of the training, for networks whose answers depend on the whole tile."""
    margin, ramp = side // 8, side // 4
    return Cut(side, margin, ramp)


def seeing(reach: int, align: int, largest_side: int) -> Cut | None:
    """Tiles for a network that sees `reach` px in all around a pixel, just large enough for pictures of
    `largest_side` px where that is possible; None where it sees so far that tiles would be mostly margin.

    Args:
        align: how many times the network halves its maps, as a factor: 1, 2, 4, ...
    """
    grid = max(8, align)
    margin = -(-(reach // 2 + align) // grid) * grid
    side = min(LARGEST_PX // grid * grid, -(-(largest_side + 2 * margin + grid) // grid) * grid)
    return Cut(side, margin, grid, grid, exact=True) if side >= 4 * margin + grid else None


def whole(picture: np.ndarray, run: Callable[[np.ndarray], np.ndarray], cut: Cut, scale: int = 1) -> np.ndarray:
    """One picture through a network, tile by tile.

    Args:
        picture: (C, H, W) float32. run: (1, C, side, side) -> (1, C', scale side, scale side).
    Returns: (C', scale H, scale W) float32.
    """
    height, width = picture.shape[-2:]
    tops, lefts = _starts(height, cut), _starts(width, cut)
    padding = [(0, 0)]
    for starts, length in ((tops, height), (lefts, width)):
        padding.append((cut.margin, starts[-1] + cut.side - cut.margin - length))
    spread = np.pad(picture, padding, mode="symmetric")  # repeats itself where a picture is smaller than its border
    share = np.outer(*[_shares(cut, scale)] * 2)
    total: np.ndarray | None = None
    weight = np.zeros((spread.shape[-2] * scale, spread.shape[-1] * scale), np.float32)
    for top in tops:
        for left in lefts:
            tile = spread[None, :, top : top + cut.side, left : left + cut.side]
            found = run(np.ascontiguousarray(tile))[0]
            if total is None:
                total = np.zeros((len(found), *weight.shape), np.float32)
            place = np.s_[top * scale : (top + cut.side) * scale, left * scale : (left + cut.side) * scale]
            total[(slice(None), *place)] += found * share
            weight[place] += share
    assert total is not None
    inside = np.s_[
        cut.margin * scale : (cut.margin + height) * scale, cut.margin * scale : (cut.margin + width) * scale
    ]
    return total[(slice(None), *inside)] / weight[inside]


def _starts(length: int, cut: Cut) -> list[int]:
    """Where tiles begin along a side, counted in the picture with its margin before it."""
    step = max(cut.align, cut.step // cut.align * cut.align)
    # A tile answers for what lies between its margins; the last one must reach the end.
    count = max(1, -(-(length - (cut.side - 2 * cut.margin)) // step) + 1)
    return [k * step for k in range(count)]


def _shares(cut: Cut, scale: int) -> np.ndarray:
    """How much each pixel of a tile counts, along one side: nothing in the margin, rising over the ramp, then all."""
    places = np.arange(cut.side * scale) + 0.5
    edge = np.minimum(places, cut.side * scale - places) - cut.margin * scale
    return np.clip(edge / max(1, cut.ramp * scale), 0.0, 1.0).astype(np.float32)
