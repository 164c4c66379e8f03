"""DeLong's test: whether two networks that answered the same cases have different areas under the ROC curve.

DeLong, DeLong and Clarke-Pearson, Biometrics 44:837-845, 1988. Cases of one patient are counted together (Obuchowski,
Biometrics 53:567-578, 1997); where each patient has one case, both are the same. It leans on large numbers, where the
bootstrap beside it draws patients; the two should agree.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from builder.measures.bootstrap import CONFIDENCE

__all__ = ["delong"]


def delong(
    first: np.ndarray, second: np.ndarray, positive: np.ndarray, patients: np.ndarray
) -> dict[str, float] | None:
    """The difference of two areas under the ROC curve, with its interval and a two-sided p.

    Args:
        first, second: (N,) scores of the same cases. positive: (N,) bool. patients: (N,), equal for one patient.
    Returns: {first, second, difference (second - first), low, high, p}; None where fewer than two patients have a
        positive or a negative case, or the difference does not vary.
    """
    _, codes = np.unique(patients, return_inverse=True)
    num_patients = int(codes.max(initial=-1)) + 1
    ups, downs = int(positive.sum()), int((~positive).sum())
    sizes = [np.bincount(codes[side], minlength=num_patients) for side in (positive, ~positive)]
    if min((size > 0).sum() for size in sizes) < 2:
        return None
    areas, of_ups, of_downs = [], [], []
    for scores in (first, second):
        placed_ups, placed_downs = _placements(np.asarray(scores, np.float64), positive)
        area = float(placed_ups.mean())
        areas.append(area)
        of_ups.append(np.bincount(codes[positive], placed_ups - area, num_patients))
        of_downs.append(np.bincount(codes[~positive], placed_downs - area, num_patients))
    up, down = of_ups[1] - of_ups[0], of_downs[1] - of_downs[0]  # what each patient adds to the difference
    with_ups, with_downs = ((size > 0).sum() for size in sizes)
    variance = with_ups / (with_ups - 1) * (up**2).sum() / ups**2
    variance += with_downs / (with_downs - 1) * (down**2).sum() / downs**2
    variance += 2 * num_patients / (num_patients - 1) * (up * down).sum() / (ups * downs)
    if not variance > 0:
        return None
    normal, error, difference = NormalDist(), float(np.sqrt(variance)), areas[1] - areas[0]
    reach = normal.inv_cdf((1 + CONFIDENCE) / 2) * error
    return {
        "first": areas[0],
        "second": areas[1],
        "difference": difference,
        "low": difference - reach,
        "high": difference + reach,
        "p": 2 * (1 - normal.cdf(abs(difference) / error)),
    }


def _placements(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each positive case the share of the negative ones below it, for each negative one that of the positive above
    it; ties count half."""
    ups, downs = np.sort(scores[positive]), np.sort(scores[~positive])

    def below(values: np.ndarray, others: np.ndarray) -> np.ndarray:
        lower, upper = (np.searchsorted(others, values, side) for side in ("left", "right"))
        share: np.ndarray = (lower + upper) / (2 * len(others))
        return share

    return below(scores[positive], downs), 1 - below(scores[~positive], ups)
