"""Sets of classes that hold the truth as often as is said, and what a network gets right where it may keep silent.

Split conformal prediction: on the validation side it is found how likely the true class is called; every class that is
called at least that likely goes into the set (least ambiguous sets: Sadinle, Lei and Wasserman, J Am Stat Assoc
114:223, 2019). For scans that are drawn as the validation scans are, the set holds the truth with the stated chance or
more, however wrong the probabilities are. Cases of one patient go together: each patient counts once (pooled: Dunn,
Wasserman and Ramdas, J Am Stat Assoc 118:2491, 2023), and the promise is then over patients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from builder.measures import bootstrap
from builder.measures.bootstrap import ratio
from builder.measures.classes import Predictions, at_thresholds, calibration, temperature, youden

LEVELS = (0.8, 0.9, 0.95)
"""How often the truth shall be in the set."""
_POINTS = 60


def limit(before: Predictions, level: float) -> float | None:
    """The probability from which a class is in the set, chosen on the validation side; None where there are too few
    patients to promise anything but the set of all classes (fewer than level / (1 - level)).

    Args:
        before: of one label a case.
    """
    called = before.probabilities[np.arange(len(before.labels)), before.labels]
    _, codes, counts = np.unique(before.patients, return_inverse=True, return_counts=True)
    weights = 1 / counts[codes]
    wanted = level * (len(counts) + 1)  # of the patients and the one to come
    if not len(counts) or wanted > len(counts):
        return None
    order = np.argsort(-called, kind="stable")
    reached = np.cumsum(weights[order])
    return float(called[order][int(np.searchsorted(reached, wanted - 1e-9))])


def sets(probabilities: np.ndarray, least: float) -> np.ndarray:
    """(N, K) bool: which classes are in the set of each case. A set may be empty: nothing is likely enough."""
    return probabilities >= least


def report(
    before: Predictions,
    here: Predictions,
    levels: Sequence[float] = LEVELS,
    resamples: int = bootstrap.RESAMPLES,
    seed: int = 0,
) -> dict[str, Any] | None:
    """{levels: [{level, limit, coverage, single, right_when_single {value, low, high}, size (mean), empty (share)}],
    patients (of the validation side)}; None with several labels a case, or without a case on either side.

    A level that the validation side is too small for has the limit None and no figures.
    """
    if before.multi_label or not len(before.labels) or not len(here.labels):
        return None
    told: list[dict[str, Any]] = []
    for level in levels:
        least = limit(before, level)
        if least is None:
            told.append({"level": level, "limit": None})
            continue
        inside = sets(here.probabilities, least)
        sizes = inside.sum(1)
        held = inside[np.arange(len(here.labels)), here.labels]

        def shares(
            weights: np.ndarray, held: np.ndarray = held, single: np.ndarray = sizes == 1
        ) -> dict[str, np.ndarray]:
            total = weights.sum(1)
            return {
                "coverage": ratio(weights @ held, total),
                "single": ratio(weights @ single, total),
                "right_when_single": ratio(weights @ (held & single), weights @ single),
            }

        figures = bootstrap.intervals(shares, here.patients, resamples, seed)
        told.append(
            {
                "level": level,
                "limit": least,
                **figures,
                "size": float(sizes.mean()),
                "empty": float((sizes == 0).mean()),
            }
        )
    return {"levels": told, "patients": len(np.unique(before.patients))}


def silence(here: Predictions) -> dict[str, list[float]] | None:
    """What it gets right where it answers the surest cases only (El-Yaniv and Wiener, J Mach Learn Res 11:1605, 2010):
    {answered: share of the cases, right: share of those, from: the confidence it then answers from}; None with several
    labels a case or without any."""
    if here.multi_label or not len(here.labels):
        return None
    confidence = here.probabilities.max(1)
    order = np.argsort(-confidence, kind="stable")
    right = (here.probabilities.argmax(1) == here.labels)[order].cumsum() / np.arange(1, len(order) + 1)
    ends = np.flatnonzero(np.diff(confidence[order], append=-1.0) != 0)  # equal confidences are answered together
    ends = ends[np.unique(np.linspace(0, len(ends) - 1, min(_POINTS, len(ends))).round().astype(int))]
    return {
        "answered": ((ends + 1) / len(order)).tolist(),
        "right": right[ends].tolist(),
        "from": confidence[order][ends].tolist(),
    }


def carried(
    before: Predictions, here: Predictions, classes: Sequence[str], resamples: int = bootstrap.RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """{operating_points {class: ...}, calibration, sets, silence}: thresholds after Youden, a temperature and the
    limits of sets that hold the truth, all chosen on the validation side (`before`) and judged on another (`here`)."""
    points = at_thresholds(here, youden(before), resamples, seed)
    return {
        "operating_points": dict(zip(classes, points, strict=True)),
        "calibration": calibration(here, temperature(before)),
        "sets": report(before, here, resamples=resamples, seed=seed),
        "silence": silence(here),
    }
