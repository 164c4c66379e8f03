"""From which probability on a class is answered, and what that comes to among patients like those one has.

Sensitivity and specificity belong to the network and its threshold; how often an answer is right belongs also to how
common the class is where it is used. Test sets are rarely as patients are: so PPV, NPV, what 1,000 patients come to and
the decision curve are told at a prevalence that is said, not at the test set's.

Intervals are closed formulas, so that a threshold can be moved at will: of a share Wilson's (J Am Stat Assoc 22:209,
1927) with the effective number of cases (Rao and Scott, Biometrics 48:577, 1992), as cases of one patient tell less
than cases of several; of PPV and NPV on the logit scale (Mercaldo, Lau and Zhou, Stat Med 26:2170, 2007).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

_Z = 1.959963984540054  # of a 95 % interval
PATIENTS = 1000
"""What counts of people are told for."""

Figure = dict[str, float | None]
"""{value, low, high}, None where undefined."""


@dataclass(frozen=True)
class Separation:
    """How the scores of one class lie among the cases that have it and those that have not.

    Attributes:
        scores: (N,) float in 0..1. positive: (N,) bool, the case is of the class. patients: (N,) int codes.
    """

    scores: np.ndarray
    positive: np.ndarray
    patients: np.ndarray

    @cached_property
    def prevalence(self) -> float:
        """Share of the cases here that are of the class; NaN without cases."""
        return float(self.positive.mean()) if len(self.positive) else float("nan")

    @cached_property
    def _ups(self) -> np.ndarray:
        return np.sort(self.scores[self.positive])

    @cached_property
    def _downs(self) -> np.ndarray:
        return np.sort(self.scores[~self.positive])

    @property
    def usable(self) -> bool:
        """Whether there are cases with and without the class."""
        return len(self._ups) > 0 and len(self._downs) > 0

    def shares(self, thresholds: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
        """Sensitivity and specificity where the class is answered at this score or more: two arrays as `thresholds`."""
        at = np.asarray(thresholds, np.float64)
        missed = np.searchsorted(self._ups, at, side="left")
        cleared = np.searchsorted(self._downs, at, side="left")
        return 1 - missed / max(1, len(self._ups)), cleared / max(1, len(self._downs))

    @cached_property
    def levels(self) -> np.ndarray:
        """Thresholds between which nothing changes: halfway between two scores that occur, and both ends; rising."""
        known = np.unique(self.scores)
        return np.concatenate([[0.0], (known[1:] + known[:-1]) / 2, [min(1.0, float(known[-1]) + 1e-6)]])

    # -- at one threshold ---------------------------------------------------------------------------------------------

    def at(self, threshold: float, prevalence: float) -> dict[str, Any]:
        """What answering the class from `threshold` on comes to, where a share `prevalence` of people have it.

        Returns:
            {threshold, prevalence, sensitivity, specificity, ppv, npv, false_discovery (share of such answers that are
            false), false_omission (share of the people not answered who have it): {value, low, high}; people {found,
            missed, alarmed, cleared}: of 1,000, whole numbers that add up}.
        Raises:
            ValueError: no case with, or none without the class; a prevalence that is not between 0 and 1.
        """
        if not self.usable:
            raise ValueError("There are no cases with this class here, or none without it.")
        if not 0 < prevalence < 1:
            raise ValueError(f"A prevalence lies between 0 and 1, not {prevalence:g}.")
        answered = self.scores >= threshold
        sensitivity = _share(answered[self.positive], self.patients[self.positive])
        specificity = _share(~answered[~self.positive], self.patients[~self.positive])
        ppv = _predictive(sensitivity, specificity, prevalence)
        npv = _predictive(specificity, sensitivity, 1 - prevalence)
        return {
            "threshold": float(threshold),
            "prevalence": float(prevalence),
            "sensitivity": sensitivity.plain(),
            "specificity": specificity.plain(),
            "ppv": ppv,
            "npv": npv,
            "false_discovery": rest(ppv),
            "false_omission": rest(npv),
            "people": people(sensitivity.value, specificity.value, prevalence),
        }

    def cheapest(self, prevalence: float, cost: float) -> float:
        """The threshold at which mistakes cost least, where one that is missed costs as much as `cost` false alarms.

        Of several that cost the same the lowest, which misses least. (With prevalence 1/2 and cost 1 it is Youden's.)
        """
        sensitivity, specificity = self.shares(self.levels)
        price = cost * prevalence * (1 - sensitivity) + (1 - prevalence) * (1 - specificity)
        return float(self.levels[int(np.argmin(np.round(price, 12)))])

    # -- over all thresholds ------------------------------------------------------------------------------------------

    def course(self, prevalence: float, most: int = 200) -> dict[str, list[float]]:
        """Sensitivity, specificity, PPV and NPV over the thresholds that occur, at most `most`: for a drawing."""
        at = self.levels[
            np.unique(np.linspace(0, len(self.levels) - 1, min(most, len(self.levels))).round().astype(int))
        ]
        sensitivity, specificity = self.shares(at)
        hits, alarms = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
        misses, clears = (1 - sensitivity) * prevalence, specificity * (1 - prevalence)
        with np.errstate(invalid="ignore", divide="ignore"):
            told = {"ppv": hits / (hits + alarms), "npv": clears / (clears + misses)}
        told |= {"threshold": at, "sensitivity": sensitivity, "specificity": specificity}
        return {name: [None if not np.isfinite(v) else float(v) for v in values] for name, values in told.items()}  # type: ignore[misc]

    def decision_curve(self, prevalence: float, points: int = 99) -> dict[str, list[float]]:
        """Net benefit of acting on the network's answer, of acting on everybody and (0) on nobody, over the risk from
        which one would act (Vickers and Elkin, Med Decis Making 26:565, 2006). In true positives for each person.

        The probabilities are taken at their word: a network that is not calibrated looks worse than it need be.
        """
        risk = np.arange(1, points + 1) / (points + 1)
        sensitivity, specificity = self.shares(risk)
        odds = risk / (1 - risk)
        own = sensitivity * prevalence - (1 - specificity) * (1 - prevalence) * odds
        everybody = prevalence - (1 - prevalence) * odds
        return {"risk": risk.tolist(), "network": own.tolist(), "everybody": everybody.tolist()}


def people(sensitivity: float, specificity: float, prevalence: float, of: int = PATIENTS) -> dict[str, int]:
    """{found, missed, alarmed, cleared}: what `of` people come to, whole numbers that add up to `of`."""
    having = round(of * prevalence)
    found, cleared = round(having * sensitivity), round((of - having) * specificity)
    return {"found": found, "missed": having - found, "alarmed": of - having - cleared, "cleared": cleared}


# -- shares and their intervals ---------------------------------------------------------------------------------------


def share(hits: np.ndarray, patients: np.ndarray) -> Figure:
    """The share of `hits` (n,) bool with its interval, as cases of these patients (n,) tell it; None without cases."""
    return _share(hits, patients).plain() if len(hits) else {"value": None, "low": None, "high": None}


@dataclass(frozen=True)
class _Share:
    """A share of cases, with the number of independent cases that would tell as much; variance of the share."""

    value: float
    effective: float

    @property
    def variance(self) -> float:
        """Of the share; of 0 and 1, where it would vanish, that of a share half a case away from it."""
        inside = min(max(self.value, 0.5 / (self.effective + 1)), 1 - 0.5 / (self.effective + 1))
        return inside * (1 - inside) / self.effective

    def plain(self) -> Figure:
        """{value, low, high}."""
        n, p = self.effective, self.value
        centre, reach = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n), _Z / (1 + _Z**2 / n)
        reach *= float(np.sqrt(p * (1 - p) / n + _Z**2 / (4 * n * n)))
        return {"value": p, "low": max(0.0, centre - reach), "high": min(1.0, centre + reach)}


def _share(hits: np.ndarray, patients: np.ndarray) -> _Share:
    """The share of `hits` (n,) bool; its variance over patients (linearized ratio) says how many cases count."""
    count = len(hits)
    value = float(hits.mean())
    _, codes = np.unique(patients, return_inverse=True)
    num = int(codes.max()) + 1
    off = np.bincount(codes, weights=hits - value, minlength=num)
    between = float((off**2).sum()) * num / max(1, num - 1) / count**2
    if between <= 0 or num < 2:  # all alike: each patient counts once
        return _Share(value, float(num))
    return _Share(value, float(np.clip(value * (1 - value) / between, 1.0, count)))


def _predictive(own: _Share, other: _Share, prevalence: float) -> Figure:
    """PPV from (sensitivity, specificity, prevalence); NPV from (specificity, sensitivity, 1 - prevalence)."""
    hits, alarms = own.value * prevalence, (1 - other.value) * (1 - prevalence)
    if hits + alarms <= 0:
        return {"value": None, "low": None, "high": None}
    value = hits / (hits + alarms)
    # On the logit scale, a share of 0 or 1 moved half a case inside, where a logarithm exists.
    right = min(max(own.value, 0.5 / (own.effective + 1)), 1.0)
    wrong = max(1 - other.value, 0.5 / (other.effective + 1))
    middle = np.log(right * prevalence) - np.log(wrong * (1 - prevalence))
    reach = _Z * float(np.sqrt(own.variance / right**2 + other.variance / wrong**2))
    low, high = (float(1 / (1 + np.exp(-(middle + side * reach)))) for side in (-1, 1))
    return {"value": value, "low": min(low, value), "high": max(high, value)}


def rest(figure: Figure) -> Figure:
    """What is left to 1."""
    low, high = figure["high"], figure["low"]
    return {
        "value": None if figure["value"] is None else 1 - figure["value"],
        "low": None if low is None else 1 - low,
        "high": None if high is None else 1 - high,
    }
