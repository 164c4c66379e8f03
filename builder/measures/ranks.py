"""How the scores of one class rank its cases among the others: worked out once, then read off for each draw of cases.

Cases with the class and those without are sorted apart, and for each of one side it is known how many of the other lie
below it. What is left for a draw are running sums: no score is compared again, so 2,000 draws of 20,000 cases take
seconds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from builder.measures.bootstrap import ratio

_NEAR = 1e-9  # shares of whole weights that differ by less are equal


class Ranks:
    """The order of the scores of one class.

    Attributes:
        ups, downs: positions of the cases with and without the class, each by rising score.
        below, upto: for each of `ups` how many of `downs` have a smaller score, and a smaller or the same.
        lost: for each of `downs` how many of `ups` have a smaller or the same score.
    """

    def __init__(self, scores: np.ndarray, positive: np.ndarray) -> None:
        order = np.argsort(scores, kind="stable")
        self.ups, self.downs = order[positive[order]], order[~positive[order]]
        high, low = scores[self.ups], scores[self.downs]
        self.below, self.upto = np.searchsorted(low, high, "left"), np.searchsorted(low, high, "right")
        self.lost = np.searchsorted(high, low, "right")
        self._tied = not np.array_equal(self.below, self.upto)

    def read(self, weights: np.ndarray, specificities: Sequence[float] = ()) -> tuple[np.ndarray, np.ndarray]:
        """For each row of `weights` (B, N) the area under the ROC curve (B,), ties counting half, and the highest
        sensitivity at no less than each specificity (B, S); NaN where one side has no weight."""
        return self.of_columns(np.ascontiguousarray(weights.T), specificities)

    def of_columns(self, weights: np.ndarray, specificities: Sequence[float] = ()) -> tuple[np.ndarray, np.ndarray]:
        """As `read`, of weights (N, B) with a draw a column: whole rows move then, much faster."""
        draws = np.arange(weights.shape[1])
        up, cleared = weights[self.ups], _running(weights, self.downs)
        all_downs = cleared[-1]
        under = cleared[self.below]
        if self._tied:
            under += cleared[self.upto]
            under /= 2
        above = np.einsum("ij,ij->j", up, under)
        missed = np.zeros((len(up) + 1, len(draws)))
        np.cumsum(up, axis=0, out=missed[1:])
        all_ups, found = missed[-1], np.zeros((len(draws), len(specificities)))
        for k, specificity in enumerate(specificities):
            gone = np.zeros(len(draws))
            if specificity > 0 and len(self.downs):
                gone = missed[self.lost[_first(cleared, specificity * all_downs - _NEAR)], draws]
            found[:, k] = np.where(all_downs > 0, 1 - ratio(gone, all_ups), np.nan)
        return ratio(above, all_ups * all_downs), found


def _running(weights: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Running sums of weights (N, B) in this order of rows, from 0 on: (len(order) + 1, B)."""
    sums = np.zeros((len(order) + 1, weights.shape[1]))
    np.cumsum(weights[order], axis=0, out=sums[1:])
    return sums


def _first(sums: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """In each column of rising `sums` (M + 1, B) the first of the M steps that reaches `wanted` (B,): int64 (B,)."""
    draws = np.arange(sums.shape[1])
    low, high = np.zeros(len(draws), np.int64), np.full(len(draws), len(sums) - 2, np.int64)
    while (low < high).any():
        middle = (low + high) // 2
        reached = sums[middle + 1, draws] >= wanted
        high, low = np.where(reached, middle, high), np.where(reached | (low >= high), low, middle + 1)
    return low
