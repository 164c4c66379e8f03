"""Whether an enhanced picture is still a scan: how its noise is spread over fineness, and how sharp its edges are.

Both are read where the true picture says so: noise in its flattest squares, edges where it is steepest.
"""

from __future__ import annotations

import numpy as np

SIDE = 32  # of a flat square, px
SQUARES = 12
_PARTS = 4  # a square is looked at in so many parts each way
_ALIKE = 2.0  # times the median part that the most restless part of pure noise may spread
FREQUENCIES = np.arange(1, SIDE // 2 + 1) / SIDE
"""Middles of the rings of the noise power, cycles per pixel, up to 0.5."""
_REACH, _STEP = 8, 0.25  # of a profile across an edge, px
_PLATEAU = 6.0  # from here outward the profile is taken as flat
EDGES = 80
_APART = 6  # px between two edges
_FEW = 10  # edges
_CANDIDATES = 4000


def flat_squares(
    target: np.ndarray, source: np.ndarray, within: tuple[float, float] = (-np.inf, np.inf), most: int = SQUARES
) -> list[tuple[int, int]]:
    """Upper left corners of the flattest squares of `SIDE` px of a true picture (H, W); [] where none is flat.

    Flat is a square in which the true picture, less its plane, spreads at most half as much as `source` differs from
    it (there is little structure), or spreads as much in every part as on the whole (what there is, is noise: a true
    scan has some, too). They may overlap by half.

    Args:
        source: the picture as it came; squares of a single value in it (the padding around a scan) tell no noise.
        within: between which values the mean of a square must lie, the ends left out: the window of the reader, so
            that noise is read in tissue and not in the air around it.
    """
    low, high = within
    height, width = target.shape
    found = []
    for top in range(0, height - SIDE + 1, SIDE // 2):
        for left in range(0, width - SIDE + 1, SIDE // 2):
            place = (slice(top, top + SIDE), slice(left, left + SIDE))
            if not np.ptp(source[place]) or not low < target[place].mean() < high:
                continue
            spread = _spread(target[place])
            if spread <= _spread(source[place] - target[place]) / 2 or _restless(target[place]) <= _ALIKE:
                found.append((spread, top, left))
    return [(top, left) for _, top, left in sorted(found)[:most]]


def noise_power(picture: np.ndarray, squares: list[tuple[int, int]]) -> np.ndarray:
    """Radial noise power spectrum of a picture (H, W) in given squares: (SIDE / 2,) in stored values squared times px
    squared, at `FREQUENCIES`; NaN without squares.

    Each square loses its plane, then |DFT|^2 / number of pixels is averaged over squares and rings (Samei et al., AAPM
    TG-233, Med Phys 46:e735-e756, 2019).
    """
    if not squares:
        return np.full(len(FREQUENCIES), np.nan)
    power = np.zeros((SIDE, SIDE))
    for top, left in squares:
        power += np.abs(np.fft.fft2(_without_plane(picture[top : top + SIDE, left : left + SIDE]))) ** 2
    power /= len(squares) * SIDE * SIDE
    line = np.fft.fftfreq(SIDE)
    ring = np.rint(np.hypot(line[:, None], line[None]) * SIDE).astype(int).ravel()
    inside = (ring > 0) & (ring <= len(FREQUENCIES))
    sums, counts = (np.bincount(ring[inside] - 1, values) for values in (power.ravel()[inside], inside[inside]))
    return sums / counts


def noise_std(picture: np.ndarray, squares: list[tuple[int, int]]) -> float:
    """Standard deviation around the planes of the squares, in stored values; NaN without squares."""
    if not squares:
        return float("nan")
    parts = [_without_plane(picture[top : top + SIDE, left : left + SIDE]) for top, left in squares]
    return float(np.sqrt(np.mean(np.square(parts)) * SIDE**2 / (SIDE**2 - 3)))


def mean_frequency(power: np.ndarray) -> float:
    """The mean frequency of a noise power spectrum, cycles per pixel: lower is blotchier; NaN without noise."""
    total = power.sum()
    return float((power * FREQUENCIES).sum() / total) if np.isfinite(total) and total > 0 else float("nan")


def _spread(square: np.ndarray) -> float:
    """Standard deviation around the plane of a square."""
    return float(np.sqrt(np.square(_without_plane(square)).mean()))


def _restless(square: np.ndarray) -> float:
    """How many times more a square (n, n) or its most restless part spreads than the median part: 1 to 2 for noise."""
    parts = square.reshape(_PARTS, len(square) // _PARTS, _PARTS, -1).swapaxes(1, 2).reshape(_PARTS**2, -1)
    side = len(square) // _PARTS
    spreads = [_spread(part.reshape(side, side)) for part in parts]
    middle = float(np.median(spreads))
    return max(_spread(square), *spreads) / middle if middle > 0 else np.inf


def _without_plane(square: np.ndarray) -> np.ndarray:
    """A square (n, n) less the plane that fits it best."""
    line = np.arange(len(square)) - (len(square) - 1) / 2
    square = square - square.mean()
    down, right = line @ square.sum(1), square.sum(0) @ line
    return square - (down * line[:, None] + right * line[None]) / (len(square) * np.square(line).sum())


Edges = tuple[np.ndarray, np.ndarray]
"""Where profiles cross the edges, rows and columns: two (n, points)."""


def strong_edges(target: np.ndarray, most: int = EDGES) -> Edges:
    """Profiles across the steepest edges of a true picture (H, W), from its dark to its bright side.

    Kept are edges whose two sides are flat enough to be called one: along the profile the picture stays between both
    sides, give or take a quarter of the step. Edges to a side at the very end of the picture's values, such as the
    padding around a scan, are drawn by a program and not by a scanner: they count only where there are few others.
    """
    from scipy import ndimage

    target = np.asarray(target, np.float64)
    t = np.arange(-_REACH, _REACH + _STEP / 2, _STEP)
    slope = [ndimage.gaussian_filter(target, 1.0, order=order) for order in ((1, 0), (0, 1))]
    steep = np.hypot(*slope)
    margin = _REACH + 1
    inner = np.zeros_like(steep)
    inner[margin:-margin, margin:-margin] = steep[margin:-margin, margin:-margin]
    peaks = np.flatnonzero((inner == ndimage.maximum_filter(inner, 3)) & (inner > 0))
    peaks = peaks[np.argsort(-inner.ravel()[peaks], kind="stable")][:_CANDIDATES]
    at = np.unravel_index(peaks, target.shape)
    rows, columns = (
        place[:, None] + t * (part[at] / steep[at])[:, None] for place, part in zip(at, slope, strict=True)
    )
    profiles = ndimage.map_coordinates(target, (rows, columns), order=1)
    dark, bright = _sides(profiles)
    slack = (bright - dark) / 4
    clean = (bright > dark) & (profiles.min(1, initial=np.inf) >= dark - slack)
    clean &= profiles.max(1, initial=-np.inf) <= bright + slack
    near = 1e-6 * np.ptp(target)
    drawn = (dark <= target.min() + near) | (bright >= target.max() - near)
    taken = np.zeros(target.shape, bool)
    kept: list[int] = []
    for usable in (clean & ~drawn, clean & drawn):
        for k in np.flatnonzero(usable):
            row, column = at[0][k], at[1][k]
            if len(kept) < most and not taken[row, column]:
                taken[max(0, row - _APART) : row + _APART + 1, max(0, column - _APART) : column + _APART + 1] = True
                kept.append(int(k))
        if len(kept) >= _FEW:
            break
    return rows[kept], columns[kept]


def edge_width(picture: np.ndarray, target: np.ndarray, edges: Edges) -> float:
    """Width in px over which the mean edge of a picture (H, W) rises from 10 to 90 %; NaN without edges.

    Every profile is put on the scale of the true picture's two sides, then all are averaged, which takes the noise
    away, and the mean profile is put on the scale of its own sides.
    """
    from scipy import ndimage

    if not len(edges[0]):
        return float("nan")
    true, seen = (ndimage.map_coordinates(np.asarray(p, np.float64), edges, order=1) for p in (target, picture))
    dark, bright = _sides(true)
    mean = ((seen - dark[:, None]) / (bright - dark)[:, None]).mean(0)
    low, high = (side[0] for side in _sides(mean[None]))
    if high <= low:
        return float("nan")
    mean = (mean - low) / (high - low)
    middle = int(np.abs(mean - 0.5)[len(mean) // 4 : -(len(mean) // 4)].argmin()) + len(mean) // 4
    before, after = np.flatnonzero(mean[:middle] <= 0.1), np.flatnonzero(mean[middle:] >= 0.9)
    if not len(before) or not len(after):
        return float("nan")
    start, end = int(before[-1]), middle + int(after[0])
    at_10 = start + (0.1 - mean[start]) / (mean[start + 1] - mean[start])
    at_90 = end - (mean[end] - 0.9) / (mean[end] - mean[end - 1])
    return float((at_90 - at_10) * _STEP)


def _sides(profiles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of both ends of profiles (n, points): two (n,)."""
    ends = round((_REACH - _PLATEAU) / _STEP) + 1
    return profiles[:, :ends].mean(1), profiles[:, -ends:].mean(1)
