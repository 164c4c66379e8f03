"""What a reading comes to: reader alone, model alone and reader with model on the same cases, with paired intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from builder import marked
from builder.measures import bootstrap
from builder.reader import ALONE, BOTH, CLASSES, Answers, Case, Reading

__all__ = ["report"]


def report(reading: Reading, resamples: int = bootstrap.RESAMPLES, seed: int = 0) -> dict[str, Any]:
    """Reader alone, model alone and reader with model on the cases that were read to the end.

    Returns, as JSON data: {reading, run, split, classes, cases, interval, readers: [of each reader {reader, n,
    patients, alone, model, with_model: {figure: {value, low, high}}, differences: {"with_model - alone",
    "with_model - model", "alone - model": {figure: {difference, low, high, words}}}, changes: {to_right, to_wrong,
    kept_right, kept_wrong, followed_wrong (right alone, then wrong with the model, as the model said), rescued (wrong
    alone, then right, as the model said)}, seconds: {alone, with_model} (medians)}], together: the same figures and
    differences averaged over the readers, on the cases that all have read, None with fewer
    than two}. Where lesions are marked, figures are those of `marked.figures` and changes those of `marked.moves`.
    """
    found = {name: mine for name, mine in reading.answers().items() if mine.said[BOTH]}
    return {
        "reading": reading.id,
        "run": reading.run,
        "split": reading.split,
        "kind": reading.kind,
        "classes": list(reading.classes),
        "cases": len(reading.cases),
        "interval": bootstrap.described(resamples),
        "readers": [_of_reader(reading, name, mine, resamples, seed) for name, mine in sorted(found.items())],
        "together": _together(reading, list(found.values()), resamples, seed) if len(found) > 1 else None,
    }


def _of_reader(reading: Reading, name: str, mine: Answers, resamples: int, seed: int) -> dict[str, Any]:
    cases = [case for case in reading.cases if case.id in mine.said[BOTH]]
    alone, both = ([mine.said[stage][case.id] for case in cases] for stage in (ALONE, BOTH))
    told = _compared(reading, cases, [alone], [both], resamples, seed)
    seconds = {
        key: float(np.median([mine.seconds[stage][case.id] for case in cases]))
        for key, stage in (("alone", ALONE), ("with_model", BOTH))
    }
    if reading.kind == CLASSES:
        moves = _moves(cases, alone, both)
    else:
        moves = marked.moves([case.truth for case in cases], alone, both, [case.slices for case in cases])
    return {"reader": name, **told, "changes": moves, "seconds": seconds}


def _moves(cases: list[Case], alone: list[tuple[Any, ...]], both: list[tuple[Any, ...]]) -> dict[str, int]:
    """How the network's answer moved a reader who names classes."""
    moves = {"to_right": 0, "to_wrong": 0, "kept_right": 0, "kept_wrong": 0, "followed_wrong": 0, "rescued": 0}
    for case, before, after in zip(cases, alone, both, strict=True):
        right, still = before == case.truth, after == case.truth
        moved = before != after
        moves["kept_right"] += right and not moved
        moves["kept_wrong"] += not still and not right
        moves["to_right"] += still and not right
        moves["to_wrong"] += right and not still
        moves["followed_wrong"] += right and not still and after == case.model
        moves["rescued"] += still and not right and after == case.model
    return moves


def _counts(cases: list[Case], answers: list[list[tuple[Any, ...]]]) -> np.ndarray:
    """(readers, N, 3): lesions found, lesions there, false alarms (`marked.counted`)."""
    rows = [
        [marked.counted(case.truth, said, case.slices) for case, said in zip(cases, one, strict=True)]
        for one in answers
    ]
    return np.array(rows, np.int64).reshape(len(answers), len(cases), 3)


def _together(reading: Reading, found: list[Answers], resamples: int, seed: int) -> dict[str, Any] | None:
    cases = [case for case in reading.cases if all(case.id in mine.said[BOTH] for mine in found)]
    if not cases:
        return None
    alone, both = ([[mine.said[stage][c.id] for c in cases] for mine in found] for stage in (ALONE, BOTH))
    return {"readers": len(found), **_compared(reading, cases, alone, both, resamples, seed)}


def _compared(
    reading: Reading,
    cases: list[Case],
    alone: list[list[tuple[Any, ...]]],
    both: list[list[tuple[Any, ...]]],
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """{n, patients, alone, model, with_model, differences}; `alone` and `both` hold one list of answers a reader."""
    patients = np.array([case.patient for case in cases])
    sides = {"alone": alone, "model": [[case.model for case in cases]], "with_model": both}
    shares: tuple[str, ...] | None = None
    events: tuple[str, ...] = ()
    if reading.kind == CLASSES:
        truth = _table([case.truth for case in cases], len(reading.classes))
        figures = {name: _figures(reading, truth, answers) for name, answers in sides.items()}
        rests_on = _rests_on(reading, truth, patients)
    else:
        figures = {name: marked.figures(_counts(cases, answers)) for name, answers in sides.items()}
        having = np.array([bool(case.truth) for case in cases])
        rests_on = {"sensitivity": len(np.unique(patients[having]))}
        rests_on |= {"image_specificity": len(np.unique(patients[~having]))}
        shares, events = marked.SHARES, marked.EVENTS
    asked = {name: bootstrap.Asked(one, patients, None, 0) for name, one in figures.items()}
    told: dict[str, Any] = {"n": len(cases), "patients": len(np.unique(patients))}
    for name, side in asked.items():
        told[name] = bootstrap.intervals(
            side.figures, patients, resamples, seed, rests_on=rests_on, shares=shares, events=events
        )
    told["differences"] = {}
    for one, other in (("with_model", "alone"), ("with_model", "model"), ("alone", "model")):
        apart = bootstrap.differences(asked[other], asked[one], resamples, seed)
        told["differences"][f"{one} - {other}"] = {
            name: {key: figure[key] for key in ("difference", "low", "high")}
            | {"words": _words(one, other, figure, name)}
            for name, figure in apart.items()
        }
    return told


def _rests_on(reading: Reading, truth: np.ndarray, patients: np.ndarray) -> dict[str, int]:
    """How many patients each figure rests on, for intervals of shares that are 0 or 1 on every draw."""
    having = [len(np.unique(patients[truth[:, k]])) for k in range(truth.shape[1])]
    lacking = [len(np.unique(patients[~truth[:, k]])) for k in range(truth.shape[1])]
    found = {"balanced_accuracy": min(count for count in (*having, *lacking, len(truth)) if count)}
    for name, one, other in zip(reading.classes, having, lacking, strict=True):
        found |= {f"sensitivity of {name}": one, f"specificity of {name}": other}
    return found


def _table(answers: list[tuple[Any, ...]], num_classes: int) -> np.ndarray:
    """(N, K) bool: which classes each answer names."""
    table = np.zeros((len(answers), num_classes), bool)
    for row, picked in zip(table, answers, strict=True):
        row[list(picked)] = True
    return table


def _figures(reading: Reading, truth: np.ndarray, answers: list[list[tuple[Any, ...]]]) -> bootstrap.Figures:
    """The figures of answers, averaged over the readers who gave them: accuracy (all labels of a scan right), balanced
    accuracy, and of each class sensitivity and specificity."""
    tables = [_table(said, len(reading.classes)) for said in answers]
    yes = truth.astype(np.float64)

    def figures(weights: np.ndarray) -> dict[str, np.ndarray]:
        parts: dict[str, list[np.ndarray]] = {}
        whole, positive, negative = weights.sum(1), weights @ yes, weights @ (1 - yes)
        for table in tables:
            sensitivity = bootstrap.ratio(weights @ (truth & table).astype(np.float64), positive)
            specificity = bootstrap.ratio(weights @ (~truth & ~table).astype(np.float64), negative)
            right = (truth == table).all(1).astype(np.float64)
            told = {"accuracy": bootstrap.ratio(weights @ right, whole)}
            spread = (sensitivity + specificity) / 2 if reading.multi_label else sensitivity
            told["balanced_accuracy"] = bootstrap.mean_defined(spread)
            for k, name in enumerate(reading.classes):
                told[f"sensitivity of {name}"] = sensitivity[:, k]
                told[f"specificity of {name}"] = specificity[:, k]
            for name, value in told.items():
                parts.setdefault(name, []).append(value)
        return {name: np.mean(values, 0) for name, values in parts.items()}

    return figures


_WHO = {"alone": "The reader alone", "with_model": "The reader with the network"}


def _words(one: str, other: str, figure: Mapping[str, float | None], name: str = "") -> str:
    """A paired difference of the figure `name` in a sentence."""
    who = _WHO[one]
    than = {"alone": "alone", "model": "the network"}[other]
    difference, low, high = figure["difference"], figure["low"], figure["high"]
    if difference is None:
        return "There is no such case among those that were read."
    if low is None or high is None:
        return "One patient: nothing can be said about others."
    span = f"{difference:+.3f}, 95 % interval {low:+.3f} to {high:+.3f}"
    if low == high == 0:
        return f"{who}: the same as {than} on every draw of patients."
    if low <= 0 <= high:
        return f"{who} is not shown to be better or worse than {than}: {span}."
    better = (difference > 0) != (name in marked.FEWER)
    return f"{who} is {'better' if better else 'worse'} than {than}: {span}."
