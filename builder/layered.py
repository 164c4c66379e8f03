"""Where boxes go when a graph without loops is drawn from top to bottom.

Sugiyama's way (1981), as dagre and Graphviz do it: ranks by the longest path, long edges cut into pieces, rows ordered
by the barycentre of their neighbours, and x positions by least squares under the wish that edges run straight.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["Arranged", "arrange"]

Key = TypeVar("Key", bound=Hashable)
Point = tuple[float, float]

_SWEEPS = 8
_THIN = 14.0  # room for an edge that passes between boxes


@dataclass(frozen=True)
class Arranged(Generic[Key]):
    """Top left corners of boxes, the points that long edges pass between them, and the size of the whole."""

    places: dict[Key, Point]
    bends: dict[tuple[Key, Key], list[Point]]
    width: float
    height: float


def arrange(
    sizes: Mapping[Key, tuple[float, float]],
    edges: Sequence[tuple[Key, Key]],
    *,
    gap_x: float = 28.0,
    gap_y: float = 34.0,
) -> Arranged[Key]:
    """Places boxes of given (width, height) so that every edge runs downwards.

    Raises:
        ValueError: the edges run in a circle.
    """
    rank = _ranks(list(sizes), edges)
    num = max(rank.values(), default=-1) + 1
    rows: list[list[int]] = [[] for _ in range(num)]
    widths: list[float] = []
    heights = [0.0] * num
    number: dict[Key, int] = {}
    for key, (width, height) in sizes.items():
        number[key] = len(widths)
        rows[rank[key]].append(len(widths))
        widths.append(width)
        heights[rank[key]] = max(heights[rank[key]], height)
    links: list[tuple[int, int]] = []
    chains: dict[tuple[Key, Key], list[int]] = {}
    for a, b in dict.fromkeys(edges):
        chain = []
        for r in range(rank[a] + 1, rank[b]):
            chain.append(len(widths))
            rows[r].append(len(widths))
            widths.append(_THIN)
        chains[a, b] = chain
        way = [number[a], *chain, number[b]]
        links += zip(way, way[1:], strict=False)
    above: list[list[int]] = [[] for _ in widths]
    below: list[list[int]] = [[] for _ in widths]
    for a_, b_ in links:
        below[a_].append(b_)
        above[b_].append(a_)
    _order(rows, above, below)
    x = _columns(rows, widths, above, below, gap_x)
    tops, y = [], 0.0
    for height in heights:
        tops.append(y)
        y += height + gap_y
    row_of = {n: r for r, row in enumerate(rows) for n in row}
    places = {
        key: (x[n] - widths[n] / 2, tops[rank[key]] + (heights[rank[key]] - sizes[key][1]) / 2)
        for key, n in number.items()
    }
    bends = {
        edge: [p for n in chain for p in ((x[n], tops[row_of[n]]), (x[n], tops[row_of[n]] + heights[row_of[n]]))]
        for edge, chain in chains.items()
    }
    total = max((x[n] + w / 2 for n, w in enumerate(widths)), default=0.0)
    return Arranged(places, bends, total, max(0.0, y - gap_y))


def _ranks(keys: list[Key], edges: Sequence[tuple[Key, Key]]) -> dict[Key, int]:
    """The length of the longest way to each box."""
    after: dict[Key, list[Key]] = {key: [] for key in keys}
    waits = dict.fromkeys(keys, 0)
    for a, b in dict.fromkeys(edges):
        after[a].append(b)
        waits[b] += 1
    rank = dict.fromkeys(keys, 0)
    ready = [key for key in keys if not waits[key]]
    done = 0
    while ready:
        key = ready.pop()
        done += 1
        for other in after[key]:
            rank[other] = max(rank[other], rank[key] + 1)
            waits[other] -= 1
            if not waits[other]:
                ready.append(other)
    if done < len(keys):
        raise ValueError("A drawing from top to bottom cannot hold a circle.")
    return rank


def _order(rows: list[list[int]], above: list[list[int]], below: list[list[int]]) -> None:
    """Orders each row by where its neighbours stand, down and up again a few times; fewer crossings come of it."""
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        neighbours = above if down else below
        sequence = range(1, len(rows)) if down else range(len(rows) - 2, -1, -1)
        for r in sequence:
            fixed = rows[r - 1] if down else rows[r + 1]
            place = {n: k for k, n in enumerate(fixed)}
            now = {n: k for k, n in enumerate(rows[r])}

            wishes = {}
            for n in rows[r]:
                near = [place[m] for m in neighbours[n] if m in place]
                wishes[n] = (sum(near) / len(near) if near else float(now[n]), now[n])
            rows[r].sort(key=wishes.__getitem__)


def _columns(
    rows: list[list[int]], widths: list[float], above: list[list[int]], below: list[list[int]], gap: float
) -> list[float]:
    """The centre of each box: near its neighbours, in order, never overlapping."""
    x = [0.0] * len(widths)
    for row in rows:
        at = 0.0
        for n in row:
            x[n] = at + widths[n] / 2
            at += widths[n] + gap
    for sweep in range(12):
        neighbours = above if sweep % 2 == 0 else below
        for row in rows if sweep % 2 == 0 else rows[::-1]:
            wishes = []
            for n in row:
                near = neighbours[n] or above[n] or below[n]
                wishes.append(sum(x[m] for m in near) / len(near) if near else x[n])
            for n, value in zip(row, _apart(wishes, [widths[n] for n in row], gap), strict=True):
                x[n] = value
    left = min((x[n] - w / 2 for n, w in enumerate(widths)), default=0.0)
    return [value - left for value in x]


def _apart(wishes: list[float], widths: list[float], gap: float) -> list[float]:
    """Positions as near as can be to `wishes` (least squares) that keep order and distance: pool adjacent violators."""
    offsets = [0.0]
    for a, b in zip(widths, widths[1:], strict=False):
        offsets.append(offsets[-1] + (a + b) / 2 + gap)
    blocks: list[tuple[float, int]] = []
    for wish, offset in zip(wishes, offsets, strict=True):
        total, count = wish - offset, 1
        while blocks and blocks[-1][0] / blocks[-1][1] > total / count:
            more, others = blocks.pop()
            total, count = total + more, count + others
        blocks.append((total, count))
    bases = [total / count for total, count in blocks for _ in range(count)]
    return [base + offset for base, offset in zip(bases, offsets, strict=True)]
