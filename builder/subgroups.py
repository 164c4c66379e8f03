"""A run's figures group by group: who the people are, which scanner, how large the lesion, how the file was made.

A figure over everybody hides the people a network fails on (Oakden-Rayner et al., CHIL 2020). Only what is stored
without a person in it is looked at (see `attributes`). A group of few scans or few patients is named and counted, and
no figure is told of it; beside each other figure stands its difference to the rest, with an interval of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from builder import attributes
from builder.attributes import FEWEST_PATIENTS
from builder.data import Case, Dataset
from builder.fingerprint import facets
from builder.measures import bootstrap
from builder.measures.classes import Predictions, figures

__all__ = ["subgroups", "verdicts"]

FEWEST = 10
"""Cases of a group, below which no figure is told of it."""
_RESAMPLES = 500
_MOST_VALUES = 6
_BANDS_MM = (10.0, 20.0)
SHOWN = ("auc", "accuracy", "balanced_accuracy")
"""Figures that are told of a group."""
_TITLES = {"colour": "Colour", "bit depth": "Bit depth", "format": "File format", "modality": "Modality"}


def subgroups(dataset: Dataset, examined: dict[str, np.ndarray], resamples: int = _RESAMPLES) -> list[dict[str, Any]]:
    """Each group of the examined cases, where there are two and one of them is large enough for a figure.

    Args:
        examined: {probabilities (N, K), labels, patients, cases (N,) ids}, as `evaluate` keeps it.
    Returns: [{about (what the groups differ in), name, n, patients, and either few: True or auc, accuracy,
        balanced_accuracy: {value, low, high} and rest {name: {value (group - rest), low, high}} (where the rest is
        large enough)}]; [] for tasks that do not tell classes case by case.
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
    patients = np.asarray(examined["patients"])
    found = []
    for about, values in _groupings(dataset, indices, patients).items():
        known = np.array([bool(value) for value in values])
        counts = Counter(value for value in values if value)
        names = [name for name, _ in counts.most_common(_MOST_VALUES)]
        rows = {name: np.array([value == name for value in values]) for name in names}
        large = {name for name in names if _enough(rows[name], patients)}
        if len(names) < 2 or not large:
            continue
        for name in sorted(names, key=attributes.in_order):
            own = rows[name]
            told = {"about": about, "name": name, "n": int(own.sum()), "patients": len(np.unique(patients[own]))}
            if name not in large:
                found.append({**told, "few": True})
                continue
            told |= _figures(_of(examined, chances, own), resamples)
            if _enough(known & ~own, patients):
                told["rest"] = _apart(_of(examined, chances, known), own[known], resamples)
            found.append(told)
    return found


def verdicts(rows: Sequence[dict[str, Any]]) -> list[str]:
    """In sentences: the groups on which a run is worse than on the rest by more than chance, and of how many."""
    asked = [row for row in rows if row.get("rest", {}).get("auc", {}).get("low") is not None]
    worse = [row for row in asked if row["rest"]["auc"]["high"] < 0]
    if not worse:
        few = "In none of" if len(asked) > 1 else "Not in the"
        return [f"{few} {len(asked)} groups compared is the AUC lower than on the rest by more than chance."] * bool(
            asked
        )
    said = []
    for row in worse:
        apart = row["rest"]["auc"]
        said.append(
            f"{row['about']}, {row['name']}: an AUC of {row['auc']['value']:.2f}, {-apart['value']:.2f} lower than on "
            f"the rest ({-apart['high']:.2f} to {-apart['low']:.2f}; {row['n']} scans of {row['patients']} patients)."
        )
    return [*said, f"{len(asked)} groups were compared: of 40 that differ in nothing, about one looks worse by chance."]


def _enough(rows: np.ndarray, patients: np.ndarray) -> bool:
    return int(rows.sum()) >= FEWEST and len(np.unique(patients[rows])) >= FEWEST_PATIENTS


def _of(examined: dict[str, np.ndarray], chances: np.ndarray, rows: np.ndarray) -> Predictions:
    parts = (chances, *(examined[name] for name in ("labels", "patients", "cases")))
    return Predictions(*(np.asarray(part)[rows] for part in parts))


def _told(own: Predictions, weights: np.ndarray) -> dict[str, np.ndarray]:
    return {name: values for name, values in figures(own, weights).items() if name in SHOWN}


def _figures(own: Predictions, resamples: int) -> dict[str, Any]:
    return bootstrap.intervals(lambda weights: _told(own, weights), own.patients, resamples)


def _apart(everybody: Predictions, rows: np.ndarray, resamples: int) -> dict[str, Any]:
    """{name: {value, low, high}} of the group minus the rest; each draw of patients serves both."""
    parts = everybody.probabilities, everybody.labels, everybody.patients, everybody.cases
    group, rest = (Predictions(*(part[side] for part in parts)) for side in (rows, ~rows))

    def told(weights: np.ndarray) -> dict[str, np.ndarray]:
        one, other = _told(group, weights[:, rows]), _told(rest, weights[:, ~rows])
        return {name: one[name] - other[name] for name in one}

    return bootstrap.intervals(told, everybody.patients, resamples, shares=())


def _groupings(dataset: Dataset, indices: list[int], patients: np.ndarray) -> dict[str, list[str]]:
    """{what groups differ in: name of each case's group, "" for none}."""
    cases = [dataset.cases[index] for index in indices]
    facts = facets([case.fact for case in cases])
    found = {}
    told = {name for case in cases for name in case.attributes}
    for name in sorted(told, key=attributes.place):
        values = attributes.folded([case.attributes.get(name, "") for case in cases], patients.tolist())
        found[attributes.title(name)] = values
    found["Size of the lesion"] = [_lesion(dataset, index, dataset.cases[index]) for index in indices]
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
