"""A run's figures group by group: who the people are, which scanner, how large the lesion, how the file was made.

A figure over everybody hides the people a network fails on (Oakden-Rayner et al., CHIL 2020). Only what is stored
without a person in it is looked at (see `attributes`). A group of few scans or few patients is named and counted, and
no figure is told of it; beside each other figure stands its difference to the rest, with an interval of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from builder import attributes
from builder.attributes import FEWEST_PATIENTS
from builder.data import Case, Dataset
from builder.fingerprint import facets
from builder.measures import bootstrap
from builder.measures.bootstrap import Figures
from builder.measures.judged import EVENTS, LESS_IS_BETTER, SHARES, SHIFTED, Judged

__all__ = ["COMPARED", "shown", "subgroups", "verdicts"]

FEWEST = 10
"""Cases of a group, below which no figure is told of it."""
_RESAMPLES = 500
_MOST_VALUES = 6
_BANDS_MM = (10.0, 20.0)
COMPARED = {
    "auc": ("AUC", "an"),
    "sensitivity": ("sensitivity", "a"),
    "false_alarms_per_image": ("number of false alarms an image", "a"),
    "dice": ("Dice", "a"),
    "psnr_gain_db": ("gain in PSNR (dB)", "a"),
}
"""{figure by which groups are compared: (what it is called in a sentence, its article)}."""
_TITLES = {"colour": "Colour", "bit depth": "Bit depth", "format": "File format", "modality": "Modality"}


def subgroups(dataset: Dataset, judged: Judged, resamples: int = _RESAMPLES) -> list[dict[str, Any]]:
    """Each group of the cases that were answered, where there are two and one of them is large enough for a figure.

    Returns: [{about (what the groups differ in), name, n (cases), patients, and either few: True or {figure: {value,
        low, high}} and rest {figure: {value (group - rest), low, high}}}], with those figures that enough of its cases
        have, and in rest those that enough of the others have, too.
    """
    by_id = {case.id: index for index, case in enumerate(dataset.cases)}
    places = [by_id.get(str(id)) for id in judged.cases]
    if None in places:
        return []
    indices = [place for place in places if place is not None]
    patients, cases = np.asarray(judged.patients), np.array(indices, np.int64)
    found = []
    for about, values in _groupings(dataset, indices, patients).items():
        known = np.array([bool(value) for value in values], bool)
        counts = Counter(value for value in values if value)
        names = [name for name, _ in counts.most_common(_MOST_VALUES)]
        rows = {name: np.array([value == name for value in values]) for name in names}
        told = {name: _figures(judged, cases, rows[name], resamples) for name in names} if len(names) > 1 else {}
        if not any(told.values()):
            continue
        for name in sorted(names, key=attributes.in_order):
            own = rows[name]
            row = {"about": about, "name": name, "n": _num(cases[own]), "patients": _num(patients[own])}
            if not told[name]:
                found.append({**row, "few": True})
                continue
            row |= told[name]
            if apart := _apart(judged, cases, own, known, resamples):
                row["rest"] = apart
            found.append(row)
    return found


def verdicts(rows: Sequence[dict[str, Any]], headlines: Sequence[str] = ("auc",)) -> list[str]:
    """In sentences: the groups on which a run is worse than on the rest by more than chance, and of how many."""
    asked = [(row, name) for row in rows for name in headlines if _known(row, name)]
    worse = []
    for row, name in asked:
        apart = row["rest"][name]
        if apart["low"] > 0 if name in LESS_IS_BETTER else apart["high"] < 0:
            worse.append((row, name))
    names = list(dict.fromkeys(name for _, name in asked))
    one = len(names) == 1
    if not worse:
        few = "In none of" if len(asked) > 1 else "Not in the"
        what = " or ".join(f"the {COMPARED[name][0]} {_worse(name)}" for name in names)
        num = f"{len(asked)} groups compared" if one else f"{len(asked)} comparisons"
        return [f"{few} {num} is {what} than on the rest by more than chance."] if asked else []
    lines = []
    for row, name in worse:
        apart, (what, article) = row["rest"][name], COMPARED[name]
        low, high = sorted((abs(apart["low"]), abs(apart["high"])))
        lines.append(
            f"{row['about']}, {row['name']}: {article} {what} of {row[name]['value']:.2f}, {abs(apart['value']):.2f} "
            f"{_worse(name)} than on the rest ({low:.2f} to {high:.2f}; {row['n']} "
            f"scans of {row['patients']} patients)."
        )
    were = "groups were compared" if one else "comparisons were made"
    return [*lines, f"{len(asked)} {were}: of 40 that differ in nothing, about one looks worse by chance."]


def shown(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The figures that any group has, in the order in which they are told."""
    told = (name for row in rows for name, value in row.items() if isinstance(value, Mapping))
    return [name for name in dict.fromkeys(told) if name != "rest"]


def _worse(name: str) -> str:
    return "higher" if name in LESS_IS_BETTER else "lower"


def _known(row: dict[str, Any], name: str) -> bool:
    return row.get("rest", {}).get(name, {}).get("low") is not None


def _num(codes: np.ndarray) -> int:
    return len(np.unique(codes))


def _enough(rows: np.ndarray, cases: np.ndarray, patients: np.ndarray) -> bool:
    return _num(cases[rows]) >= FEWEST and _num(patients[rows]) >= FEWEST_PATIENTS


def _figures(judged: Judged, cases: np.ndarray, rows: np.ndarray, resamples: int) -> dict[str, Any]:
    """{figure: {value, low, high}} of a group, those that enough of its cases have."""
    told: dict[str, Any] = {}
    for part in judged.parts:
        own = rows & part.rows
        if _enough(own, cases, judged.patients):
            told |= bootstrap.intervals(
                part.figures(own),
                judged.patients[own],
                resamples,
                shares=SHARES,
                shifted=SHIFTED,
                rests_on=part.rests_on(own),
                events=EVENTS,
            )
    return told


def _apart(judged: Judged, cases: np.ndarray, rows: np.ndarray, known: np.ndarray, resamples: int) -> dict[str, Any]:
    """{figure: {value, low, high}} of a group minus the rest; each draw of patients serves both."""
    told: dict[str, Any] = {}
    for part in judged.parts:
        group, rest = rows & part.rows, known & ~rows & part.rows
        if not (_enough(group, cases, judged.patients) and _enough(rest, cases, judged.patients)):
            continue
        everybody = group | rest
        one, other, inside = part.figures(group), part.figures(rest), group[everybody]

        def differences(
            weights: np.ndarray, one: Figures = one, other: Figures = other, inside: np.ndarray = inside
        ) -> dict[str, np.ndarray]:
            here, there = one(weights[:, inside]), other(weights[:, ~inside])
            return {name: here[name] - there[name] for name in here}

        told |= bootstrap.intervals(differences, judged.patients[everybody], resamples, shares=())
    return told


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
