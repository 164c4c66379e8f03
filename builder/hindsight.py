"""What the trials of a search say once they are over, for a page to draw: the best so far, and two choices together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["best_so_far", "together"]

_NEAR = 0.3  # of the range of a choice: further from every trial a map says nothing


def best_so_far(scores: Sequence[float | None], *, larger_better: bool = True) -> list[float | None]:
    """Returns (N,) the best score up to each trial, itself included; None before the first that has one."""
    best: float | None = None
    found: list[float | None] = []
    for score in scores:
        if score is not None and (best is None or (score > best if larger_better else score < best)):
            best = score
        found.append(best)
    return found


def together(x: Sequence[float], y: Sequence[float], scores: Sequence[float], *, num: int = 40) -> np.ndarray:
    """Returns a smooth map of the scores over two choices: the mean of the trials around each point, weighed by a
    normal bump (Nadaraya and Watson 1964).

    Args:
        x, y, scores: (N,) each; x and y in [0, 1].
    Returns:
        (num, num) float64, rows along y; NaN where no trial lies within 0.3.
    """
    at = np.linspace(0, 1, num)
    width = max(0.06, 0.35 * max(1, len(scores)) ** (-1 / 6))
    far_x = (at[:, None] - np.asarray(x, np.float64)[None]) ** 2
    far_y = (at[:, None] - np.asarray(y, np.float64)[None]) ** 2
    near_x, near_y = np.exp(-far_x / (2 * width**2)), np.exp(-far_y / (2 * width**2))
    # No matrix product: the threads that OpenBLAS wakes for one keep a core busy for 0.1 s after its two milliseconds,
    # in the process that serves the pages and beside a training.
    weighed = near_y * np.asarray(scores, np.float64)
    total, weight = np.einsum("yn,xn->yx", weighed, near_x), np.einsum("yn,xn->yx", near_y, near_x)
    nearest = np.array([(far_x + row).min(1) for row in far_y]) if len(scores) else np.full((num, num), np.inf)
    return np.divide(total, weight, out=np.full_like(total, np.nan), where=nearest <= _NEAR**2)
