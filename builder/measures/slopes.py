"""Are probabilities too bold or too timid, too high or too low: calibration slope and intercept with intervals.

The truth is regressed on the log-odds that the network gave (Cox, Biometrika 45:562-565, 1958; Van Calster et al., BMC
Med 17:230, 2019): a slope under 1 says that it is too sure of itself; the intercept, found with the slope held at 1, is
above 0 where it names a class too seldom. Intervals are Wald's with a variance between patients (Liang and Zeger,
Biometrika 73:13-22, 1986), as several cases of one patient tell less than cases of several.
"""

from __future__ import annotations

import numpy as np

_Z = 1.959963984540054  # of a 95 % interval
_SURE = 1e-6  # probabilities nearer to 0 or 1 are moved here: 13.8 in log-odds
_STEPS = 60
_WILD = 50.0  # a slope beyond it belongs to classes that one threshold parts without a mistake: there is none
_FEW = 5  # cases with the class, and without it, below which nothing is said

Figure = dict[str, float | None]
"""{value, low, high}, None where undefined."""
_NONE: Figure = {"value": None, "low": None, "high": None}


def slope_and_intercept(chances: np.ndarray, positive: np.ndarray, patients: np.ndarray) -> dict[str, Figure]:
    """{slope, intercept: {value, low, high}} of one class; None where a class is too rare or parted without a mistake.

    Args:
        chances: (N,) probabilities of the class. positive: (N,) bool. patients: (N,) codes.
    """
    clipped = np.clip(np.asarray(chances, np.float64), _SURE, 1 - _SURE)
    odds = np.log(clipped / (1 - clipped))
    truth = np.asarray(positive, np.float64)
    if min(truth.sum(), len(truth) - truth.sum()) < _FEW:
        return {"slope": dict(_NONE), "intercept": dict(_NONE)}
    ones = np.ones((len(odds), 1))
    both = _fitted(np.column_stack([ones, odds]), truth, np.zeros(len(odds)), patients)
    alone = _fitted(ones, truth, odds, patients)
    return {"slope": _figure(both, 1), "intercept": _figure(alone, 0)}


def _fitted(
    columns: np.ndarray, truth: np.ndarray, offset: np.ndarray, patients: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Coefficients (P,) of a logistic regression by Newton's steps, and their standard errors; None without a fit."""
    beta = np.zeros(columns.shape[1])
    for _ in range(_STEPS):
        line = np.clip(columns @ beta + offset, -30, 30)
        chance = 1 / (1 + np.exp(-line))
        slope = columns.T @ (truth - chance)
        bend = columns.T @ (columns * (chance * (1 - chance))[:, None])
        try:
            step = np.linalg.solve(bend, slope)
        except np.linalg.LinAlgError:
            return None
        beta = beta + np.clip(step, -5, 5)
        if not np.isfinite(beta).all() or np.abs(beta).max() > _WILD:
            return None
        if np.abs(step).max() < 1e-9:
            break
    else:
        return None
    _, codes = np.unique(patients, return_inverse=True)
    num = int(codes.max()) + 1
    pulls = np.zeros((num, columns.shape[1]))
    np.add.at(pulls, codes, columns * (truth - chance)[:, None])
    turned = np.linalg.inv(bend)
    variance = turned @ (pulls.T @ pulls) @ turned * num / max(1, num - 1)
    return beta, np.sqrt(np.maximum(np.diag(variance), 0))


def _figure(fit: tuple[np.ndarray, np.ndarray] | None, at: int) -> Figure:
    if fit is None:
        return dict(_NONE)
    value, error = float(fit[0][at]), float(fit[1][at])
    return {"value": value, "low": value - _Z * error, "high": value + _Z * error}
