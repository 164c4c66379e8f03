"""Can the label be told without the scan: from how the file was made, or from its borders and what is written there?

If so, a network may learn that instead, and fail where scans are made otherwise (Zech et al., PLoS Med 15:e1002683,
2018; DeGrave et al., Nature Machine Intelligence 3:610, 2021). A small rule is fitted to such traces alone and asked
about scans of other patients. The test side takes no part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from builder import outside
from builder.measures import bootstrap
from builder.measures.classes import Predictions, figures, rests_on

__all__ = ["BORDER", "OF_MACHINES", "OF_PEOPLE", "asked", "border", "table"]

BORDER = 3
"""Of a picture of 32 x 32 pixels, how many pixels from the edge count as its border (about a tenth)."""
_TELLS, _NEARLY = 0.6, 0.8  # AUC from which traces tell the class, and from which they tell it nearly alone
_MOST_VALUES = 30
_RESAMPLES = 500
_ZONES = 8
OF_MACHINES = "A network may learn that instead of the disease, and fail on scans that were made otherwise."
OF_PEOPLE = (
    "That may be true of the disease, or come from how the scans were collected: a network may go by it alone, so read "
    "its figures group by group."
)
"""What it means where sex or age tell the class, as against how a scan was made."""
_BRIGHT, _STEP = 0.9, 0.6  # of 0..1: writing is as bright as can be, and ends within two pixels


def table(facets: Mapping[str, Sequence[Hashable]]) -> np.ndarray:
    """(N, F) float64, a column for each value of each facet that several cases, but not all, have."""
    columns = []
    for values in facets.values():
        counts = Counter(values)
        for value, count in counts.most_common(_MOST_VALUES):
            if 1 < count < len(values):
                columns.append([float(own == value) for own in values])
    num = len(next(iter(facets.values()), ()))
    return np.array(columns).T if columns else np.zeros((num, 0))


def border(thumb: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """(F,) float32: the grey values of a picture's border, and how much looks written in each zone near it.

    Args:
        thumb: uint8 (64, 64). shown: float (H, W) in 0..1, the picture at its own resolution.
    """
    coarse = thumb.reshape(32, 2, 32, 2).mean(axis=(1, 3)) / 255
    ring = np.ones((32, 32), bool)
    ring[BORDER:-BORDER, BORDER:-BORDER] = False
    written = np.zeros(shown.shape, bool)
    if min(shown.shape) > 4:
        step = np.maximum(np.abs(shown[:, 2:] - shown[:, :-2])[1:-1], np.abs(shown[2:] - shown[:-2])[:, 1:-1])
        written[1:-1, 1:-1] = (step > _STEP) & (shown[1:-1, 1:-1] > _BRIGHT)
    down, across = (np.linspace(0, side, _ZONES + 1).astype(int) for side in shown.shape)
    sums = np.add.reduceat(np.add.reduceat(written.astype(np.float32), down[:-1], 0), across[:-1], 1)
    outer = np.ones((_ZONES, _ZONES), bool)
    outer[1:-1, 1:-1] = False
    return np.concatenate([coarse[ring], np.sqrt(sums[outer] / written.size)]).astype(np.float32)


def asked(
    name: str,
    traces: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    patients: np.ndarray,
    classes: Sequence[str],
    meaning: str = OF_MACHINES,
) -> dict[str, Any]:
    """How well a rule that sees these traces alone tells the classes of patients it was not fitted to.

    Args:
        name: what the traces are, for the words ("How a file was made"). traces: (N, F). labels: (N,) class indices.
        meaning: a sentence on what it means where they tell the class.
    Returns: {auc {value, low, high}, per_class {class: the same}, tells: "nothing" | "something" | "nearly all",
        words}; auc is None where nothing varies or the classes have too few patients.
    """
    empty: dict[str, Any] = {"auc": None, "per_class": {}, "tells": "nothing"}
    if not len(traces) or not traces.shape[1] or float(np.ptp(traces, axis=0).max(initial=0)) == 0:
        return {**empty, "words": f"{name} is the same for every scan: it can tell nothing."}
    if not outside.enough(labels, groups):
        return {**empty, "words": f"{name}: too few patients of two classes to say anything."}
    chances = outside.out_of_fold(outside.main_axes(traces), labels, groups, len(classes))
    known = np.isfinite(chances).all(1)
    found = Predictions(chances[known], labels[known], patients[known], np.flatnonzero(known))

    def told(weights: np.ndarray) -> dict[str, np.ndarray]:
        return {n: values for n, values in figures(found, weights).items() if n in ("auc", "class/auc")}

    figure = bootstrap.intervals(told, found.patients, _RESAMPLES, rests_on=rests_on(found))
    auc = figure["auc"]
    of_class = dict(zip(classes, figure["class/auc"], strict=True))
    return {"auc": auc, "per_class": of_class, **_verdict(name, auc, of_class, meaning)}


def _verdict(name: str, auc: Mapping[str, float | None], of_class: Mapping[str, Any], meaning: str) -> dict[str, str]:
    value, low = auc["value"], auc["low"]
    # One class that stands out is a shortcut as well; of several, one seems to by chance, so more is asked of it.
    best = max((c for c in of_class if of_class[c]["low"] is not None), key=lambda c: of_class[c]["low"], default="")
    alone = bool(best) and len(of_class) > 2 and of_class[best]["low"] > 0.6 and of_class[best]["value"] > 0.7
    if value is None or low is None or not ((value >= _TELLS and low > 0.52) or alone):
        words = f"{name} alone does not tell the classes apart"
        return {"tells": "nothing", "words": words + (f" (AUC {value:.2f})." if value is not None else ".")}
    nearly = value >= _NEARLY or (alone and of_class[best]["value"] >= 0.9)
    whom = f", best of all {best} ({of_class[best]['value']:.2f})" if alone else ""
    words = (
        f"{name} alone tells the classes apart with an AUC of {value:.2f} ({low:.2f} to {auc['high']:.2f}){whom}, "
        f"without a look at the scan. {meaning}"
    )
    return {"tells": "nearly all" if nearly else "something", "words": words}
