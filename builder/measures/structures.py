"""Structures that an enhanced picture has and the true one has not, and the other way round: blobs that were made up or
taken away.

A mean error does not tell a lesion that was invented from noise that was left. Here the difference between what was
made and what is true is searched for blobs (differences of Gaussians over several sizes, Lindeberg, Int J Comput Vision
30:79, 1998) that stand out of that very difference's own unrest; each is then measured where it lies, as the mean of a
disk against the ring around it, in what came, in what was made and in what is true. Long things (a blurred edge) are no
blobs. Only differences count that a reader could see: a few per cent of the display window.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

SIZES_PX = (1.5, 2.5, 4.0, 6.0)
"""Widths (sigma) of the blobs that are looked for; a blob is told with a diameter of 2 sqrt(2) sigma."""
SEEN = 0.05
"""The least contrast that counts, of the width of the window."""
_RESTLESS = 6.0  # times the difference's own unrest (median absolute deviation) that a blob stands out
_ROUND = 0.4  # the least ratio of both bends of a blob: 1 is a ball, 0 a line
_WIDER = 1.6  # of the second Gaussian
_HALF = 0.5  # what is left of a contrast, below which the structure counts as gone
MADE_UP, FROM_NOISE, TAKEN_AWAY = "made_up", "from_noise", "taken_away"
KINDS = {
    MADE_UP: "Made up: neither in what came nor in the good scan",
    FROM_NOISE: "Made of noise: in what came, not in the good scan",
    TAKEN_AWAY: "Taken away: in the good scan, not in what was made",
}


@dataclass(frozen=True)
class Blob:
    """A structure that one picture has and the other has not.

    Attributes:
        kind: one of `KINDS`. y, x: its middle, in px from the corner. diameter_px; diameter_mm: None where the size of
        a pixel is unknown. contrast: mean inside minus mean around, of the picture that has it; before, after, true:
        the same place in what came, what was made, and what is true. All in stored values (Hounsfield units for CT).
    """

    kind: str
    y: float
    x: float
    diameter_px: float
    diameter_mm: float | None
    contrast: float
    before: float
    after: float
    true: float

    def plain(self) -> dict[str, Any]:
        """As JSON data."""
        return {name: round(v, 3) if isinstance(v, float) else v for name, v in asdict(self).items()}


def differing(
    made: np.ndarray,
    source: np.ndarray,
    true: np.ndarray,
    window: tuple[float, float],
    pixel_mm: float | None = None,
    counted: np.ndarray | None = None,
) -> list[Blob]:
    """The blobs that were made up, made of noise or taken away, the strongest first.

    Args:
        made, source, true: (H, W) in stored values. window: low and high of what a reader sees. counted: (H, W) bool,
            where it is looked; None: everywhere.
    """
    from scipy import ndimage

    shown = [np.clip(np.asarray(p, np.float64), *window) for p in (made, source, true)]
    wrong = shown[0] - shown[2]
    inside = np.ones(wrong.shape, bool) if counted is None else counted
    if not wrong[inside].any():
        return []
    stack = np.stack([_band(wrong, sigma) for sigma in SIZES_PX])
    peaks = np.abs(stack)
    best = peaks == ndimage.maximum_filter(peaks, size=(3, 5, 5))
    found: list[tuple[float, Blob]] = []
    least = SEEN * (window[1] - window[0])
    for level, sigma in enumerate(SIZES_PX):
        reach = math.ceil(2 * _WIDER * sigma)
        near = ndimage.binary_erosion(inside, iterations=max(1, round(sigma)))
        near[:reach], near[-reach:], near[:, :reach], near[:, -reach:] = False, False, False, False
        values = stack[level][near]
        if not values.size:
            continue
        unrest = 1.4826 * float(np.median(np.abs(values - np.median(values))))
        for y, x in np.argwhere(best[level] & near & (peaks[level] > _RESTLESS * unrest)):
            blob = _measured(shown, int(y), int(x), sigma, least, pixel_mm)
            if blob is not None and _round(wrong, int(y), int(x), sigma):
                found.append((float(peaks[level, y, x]), blob))
    return _apart([blob for _, blob in sorted(found, key=lambda pair: -pair[0])])


def _band(picture: np.ndarray, sigma: float) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    return np.asarray(gaussian_filter(picture, sigma) - gaussian_filter(picture, _WIDER * sigma))


def _measured(
    shown: list[np.ndarray], y: int, x: int, sigma: float, least: float, pixel_mm: float | None
) -> Blob | None:
    """What lies at a place, if it is a structure that one picture has and the other has not."""
    after, before, true = (_contrast(picture, y, x, sigma) for picture in shown)
    size = 2 * math.sqrt(2) * sigma
    place = (float(y), float(x), size, None if not pixel_mm else size * pixel_mm)
    if abs(after) >= least and not _same(after, true):
        kind = FROM_NOISE if _same(after, before) else MADE_UP
        return Blob(kind, *place, after, before, after, true)
    if abs(true) >= least and not _same(true, after):
        return Blob(TAKEN_AWAY, *place, true, before, after, true)
    return None


def _same(one: float, other: float) -> bool:
    """Whether at least half of a contrast is there, too."""
    return other / one >= _HALF


def _contrast(picture: np.ndarray, y: int, x: int, sigma: float) -> float:
    """Mean of a disk of the blob's size minus the mean of the ring around it."""
    radius = math.sqrt(2) * sigma
    outer = _WIDER * radius + 1
    reach = math.ceil(outer)
    top, left = max(0, y - reach), max(0, x - reach)
    part = picture[top : y + reach + 1, left : x + reach + 1]
    rows, columns = np.ogrid[top - y : top - y + part.shape[0], left - x : left - x + part.shape[1]]
    away = np.hypot(rows, columns)
    return float(part[away <= radius].mean() - part[(away > _WIDER * radius - 0.5) & (away <= outer)].mean())


def _round(wrong: np.ndarray, y: int, x: int, sigma: float) -> bool:
    """Whether the difference bends alike in all directions there: a ball, and no line."""
    from scipy.ndimage import gaussian_filter

    reach = math.ceil(4 * sigma) + 2
    top, left = max(0, y - reach), max(0, x - reach)
    part = gaussian_filter(wrong[top : y + reach + 1, left : x + reach + 1], sigma)
    row, column = y - top, x - left
    if not (0 < row < part.shape[0] - 1 and 0 < column < part.shape[1] - 1):
        return False
    middle = part[row, column]
    down = part[row + 1, column] - 2 * middle + part[row - 1, column]
    across = part[row, column + 1] - 2 * middle + part[row, column - 1]
    slanted = (
        part[row + 1, column + 1] + part[row - 1, column - 1] - part[row + 1, column - 1] - part[row - 1, column + 1]
    )
    bends = np.linalg.eigvalsh([[down, slanted / 4], [slanted / 4, across]])
    small, large = sorted(np.abs(bends))
    return bool(bends[0] * bends[1] > 0 and small >= _ROUND * large)


def _apart(blobs: list[Blob]) -> list[Blob]:
    """Without those whose middle lies within a stronger one."""
    kept: list[Blob] = []
    for blob in blobs:
        if all(math.hypot(blob.y - k.y, blob.x - k.x) > max(blob.diameter_px, k.diameter_px) / 2 for k in kept):
            kept.append(blob)
    return kept
