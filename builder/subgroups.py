"""A run's figures group by group: by the size of the lesion, the size of the picture, and how the file was made.

A figure over everybody hides the people a network fails on. Only what is stored without a person in it is looked at; a
group with few cases has a wide interval, and says so by it (Oakden-Rayner et al., CHIL 2020).
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from builder.data import Case, Dataset
from builder.fingerprint import facets
from builder.measures import bootstrap
from builder.measures.classes import Predictions, figures

__all__ = ["subgroups"]

FEWEST = 10
"""Cases of a group, below which nothing is told of it."""
_RESAMPLES = 500
_MOST_VALUES = 6
_BANDS_MM = (10.0, 20.0)
_SHOWN = ("auc", "accuracy", "balanced_accuracy")
_TITLES = {"colour": "Colour", "bit depth": "Bit depth", "format": "File format", "modality": "Modality"}


def subgroups(dataset: Dataset, examined: dict[str, np.ndarray], resamples: int = _RESAMPLES) -> list[dict[str, Any]]:
    """Figures of each group that has at least ten of the examined cases, where there are two such groups.

    Args:
        examined: {probabilities (N, K), labels, patients, cases (N,) ids}, as `evaluate` keeps it.
    Returns: [{about (what the groups differ in), name, n, patients, auc, accuracy, balanced_accuracy: {value, low,
        high}}]; [] for tasks that do not tell classes case by case.
    """
    if any(name not in examined for name in ("probabilities", "labels", "patients", "cases")):
        return []
    chances = np.asarray(examined["probabilities"])
    if chances.ndim != 2 or len(chances) != len(examined["labels"]):
        return []
    by_id = {case.id: index for index, case in enumerate(dataset.cases)}
    places = [by_id.get(str(id)) for id in examined["cases"]]
    if None in places:
        return []
    indices = [place for place in places if place is not None]
    found = []
    for about, values in _groupings(dataset, indices).items():
        counts = Counter(value for value in values if value)
        names = [name for name, count in counts.most_common(_MOST_VALUES) if count >= FEWEST]
        if len(names) < 2:
            continue
        for name in sorted(names, key=_in_order):
            rows = np.array([value == name for value in values])
            found.append({"about": about, "name": name, **_figures(examined, chances, rows, resamples)})
    return found


def _figures(examined: dict[str, np.ndarray], chances: np.ndarray, rows: np.ndarray, resamples: int) -> dict[str, Any]:
    own = Predictions(
        *(np.asarray(part)[rows] for part in (chances, *map(examined.get, ("labels", "patients", "cases"))))
    )

    def told(weights: np.ndarray) -> dict[str, np.ndarray]:
        return {name: values for name, values in figures(own, weights).items() if name in _SHOWN}

    return {
        "n": int(rows.sum()),
        "patients": len(np.unique(own.patients)),
        **bootstrap.intervals(told, own.patients, resamples),
    }


def _groupings(dataset: Dataset, indices: list[int]) -> dict[str, list[str]]:
    """{what groups differ in: name of each case's group, "" for none}."""
    cases = [dataset.cases[index] for index in indices]
    facts = facets([case.fact for case in cases])
    found = {"Size of the lesion": [_lesion(dataset, index, dataset.cases[index]) for index in indices]}
    found["Size of the picture"] = _thirds([max(case.shape[2:]) for case in cases])
    found |= {title: list(facts[name]) for name, title in _TITLES.items()}
    return found


def _lesion(dataset: Dataset, index: int, case: Case) -> str:
    """The band of the largest lesion that people drew: of its diameter, else of its share of the picture."""
    _, _, height, width = case.shape
    areas = [(box.x1 - box.x0) * (box.y1 - box.y0) * np.pi / 4 for box in case.boxes or ()]
    mask = dataset.mask(index) if case.mask is not None and case.mask.present else None
    if mask is not None:
        areas.append(float((mask > 0).sum((1, 2)).max()))
    if not areas:
        return ""
    down, across = case.spacing_mm[1:]
    if down and across:
        diameter = 2 * np.sqrt(max(areas) * down * across / np.pi)
        low, high = _BANDS_MM
        return (
            f"under {low:g} mm"
            if diameter < low
            else f"{low:g} to {high:g} mm"
            if diameter < high
            else f"over {high:g} mm"
        )
    share = max(areas) / (height * width)
    return "under 1 % of the picture" if share < 0.01 else "1 to 5 % of it" if share < 0.05 else "over 5 % of it"


def _thirds(sides: list[int]) -> list[str]:
    low, high = (int(edge) for edge in np.quantile(sides, (1 / 3, 2 / 3)))
    if min(sides) == max(sides):
        return [""] * len(sides)
    return [
        f"up to {low} px" if side <= low else f"{low + 1} to {high} px" if side <= high else f"over {high} px"
        for side in sides
    ]


def _in_order(name: str) -> tuple[int, float, str]:
    """Bands from small to large, other names by the alphabet."""
    kinds = ("under", "up to", "over")
    numbers = [float(word) for word in name.split() if word.replace(".", "").isdigit()]
    place = 2 if name.startswith("over") else 0 if name.startswith(kinds) else 1
    return place, numbers[0] if numbers else 0.0, name
