"""Blind reading: people answer first, the model second, and both are compared on the same cases.

A reading belongs to a run and one side of its data set. Each reader goes through the same cases in an order of their
own, sees neither label nor model, answers, then sees the model's answer and keeps or changes theirs. What was answered
is never rewritten. The design is that of a sequential reading study (second reader; Beiden et al., Acad Radiol 2001):
the same reader with and without the model on the same cases, so differences are paired. Intervals are drawn over
patients: they speak of other patients, not of other readers.

    runs/<id>/readings/<n>/reading.json    once: {run, dataset, split, seed, at, classes, multi_label, cases}
    runs/<id>/readings/<n>/answers.jsonl   append-only: {at, reader, began}, then a line an answer:
                                           {at, reader, case, stage, answer, seconds}
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from builder import evaluate
from builder.data import Dataset
from builder.measures import bootstrap
from builder.parting import Parting
from builder.runs import Run, append_whole, write_atomic

__all__ = ["ALONE", "BOTH", "Reading", "ReadingRefused", "Turn", "begin", "readings", "report"]

FOLDER, ALONE, BOTH = "readings", "alone", "with-model"
TASKS = ("recognition", "tumor_diagnosis")
"""Tasks whose readers answer with classes."""
_READER = re.compile(r"[^\W_][\w .-]{0,23}")
_MOST_S = 3600.0
_HALF = 0.5  # from which probability a model that tells several labels says one


class ReadingRefused(ValueError):
    """A reading that cannot be begun, or an answer that cannot be taken. Its text is one sentence for people."""


@dataclass(frozen=True)
class Case:
    """A scan that is read: its id and place in the data set, its patient as a number, what is true and what the model
    says, as class indices, and the model's probabilities."""

    id: str
    index: int
    patient: int
    truth: tuple[int, ...]
    model: tuple[int, ...]
    probabilities: tuple[float, ...]


@dataclass(frozen=True)
class Turn:
    """What a reader is to do now: which case, at which stage (`ALONE` or `BOTH`), and how many of all are done."""

    case: Case
    stage: str
    done: int
    of: int


@dataclass
class Answers:
    """What one reader said: {case id: class indices} and {case id: seconds} for each stage."""

    said: dict[str, dict[str, tuple[int, ...]]] = field(default_factory=lambda: {ALONE: {}, BOTH: {}})
    seconds: dict[str, dict[str, float]] = field(default_factory=lambda: {ALONE: {}, BOTH: {}})


class Reading:
    """A reading of a run, opened from its folder."""

    def __init__(self, folder: Path) -> None:
        told = json.loads((folder / "reading.json").read_text())
        self.folder, self.id = folder, folder.name
        self.run: str = told["run"]
        self.dataset: str = told["dataset"]
        self.split: str = told["split"]
        self.seed: int = told["seed"]
        self.begun_at: float = told["at"]
        self.classes: tuple[str, ...] = tuple(told["classes"])
        self.multi_label: bool = told["multi_label"]
        self.cases = tuple(
            Case(c["id"], c["index"], c["patient"], tuple(c["truth"]), tuple(c["model"]), tuple(c["probabilities"]))
            for c in told["cases"]
        )

    @cached_property
    def _by_id(self) -> dict[str, Case]:
        return {case.id: case for case in self.cases}

    def answers(self) -> dict[str, Answers]:
        """What every reader has said until now, the first answer at each stage; a line that was cut off is not read."""
        found: dict[str, Answers] = {}
        for entry in self.lines():
            mine = found.setdefault(str(entry["reader"]), Answers())
            if "case" in entry and entry["case"] in self._by_id and entry.get("stage") in mine.said:
                stage, case = entry["stage"], entry["case"]
                if case not in mine.said[stage]:
                    mine.said[stage][case] = tuple(int(k) for k in entry["answer"])
                    mine.seconds[stage][case] = float(entry["seconds"])
        return found

    def order(self, reader: str) -> tuple[Case, ...]:
        """The cases as this reader meets them: shuffled by the seed and the reader, the same after every reload."""
        drawn = hashlib.sha256(f"{self.seed} {reader}".encode()).digest()
        places = np.random.default_rng(int.from_bytes(drawn[:8])).permutation(len(self.cases))
        return tuple(self.cases[k] for k in places)

    def turn(self, reader: str) -> Turn | None:
        """What this reader is to do now; None when all is read."""
        mine = self.answers().get(reader, Answers())
        for number, case in enumerate(self.order(reader)):
            if case.id not in mine.said[BOTH]:
                stage = BOTH if case.id in mine.said[ALONE] else ALONE
                return Turn(case, stage, number, len(self.cases))
        return None

    def join(self, reader: str, home: Path) -> str:
        """Writes down that a reader begins, and returns the name as it is kept; to begin again changes nothing.

        On the test side the first time counts as an opening of it.

        Raises: ReadingRefused: a name that cannot be kept.
        """
        reader = " ".join(reader.split())
        if not _READER.fullmatch(reader):
            raise ReadingRefused(
                "A reader is told by initials or a code: 1 to 24 letters, digits, spaces, - and points."
            )
        if reader not in self.answers():
            self._write({"reader": reader, "began": True})
            if self.split == "test" and Parting.of(self.folder.parents[1]) is None:  # else held out of the run itself
                evaluate.count_opening(Dataset.open(home, self.dataset), self.run)
        return reader

    def say(self, reader: str, case: str, stage: str, answer: tuple[int, ...], seconds: float) -> None:
        """Keeps an answer. The first one at a stage counts: nothing that was said is changed.

        Args:
            answer: class indices, exactly one unless scans may show several. seconds: from sight to answer.
        Raises:
            ReadingRefused: another case or stage than the reader's turn, or an answer that is none.
        """
        now = self.turn(reader)
        if now is None or (now.case.id, now.stage) != (case, stage):
            raise ReadingRefused("This case is answered already; the next one is here.")
        picked = tuple(sorted(set(answer)))
        if any(not 0 <= k < len(self.classes) for k in picked) or (not self.multi_label and len(picked) != 1):
            raise ReadingRefused("Choose one of the classes first.")
        took = round(min(max(float(seconds), 0.0), _MOST_S), 2)
        self._write({"reader": reader, "case": case, "stage": stage, "answer": list(picked), "seconds": took})

    def lines(self) -> list[dict[str, Any]]:
        """What was written until now, line by line; one that was cut off is left out."""
        try:
            whole = (self.folder / "answers.jsonl").read_bytes().rpartition(b"\n")[0]
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in whole.splitlines() if line]

    def _write(self, entry: Mapping[str, Any]) -> None:
        line = json.dumps({"at": round(time.time(), 3), **entry}, ensure_ascii=False) + "\n"
        descriptor = os.open(self.folder / "answers.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            append_whole(descriptor, line.encode())  # one write: lines of two readers never mix
        finally:
            os.close(descriptor)


def readings(run: Run) -> list[Reading]:
    """The readings of a run, the oldest first."""
    folders = [f.parent for f in (run.folder / FOLDER).glob("*/reading.json") if f.parent.name.isdigit()]
    return [Reading(folder) for folder in sorted(folders, key=lambda folder: int(folder.name))]


def begin(
    run: Run,
    home: Path,
    split: str = "val",
    num: int = 0,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Reading:
    """A new reading of the labelled cases of a side: the model is asked about them now, before any reader.

    Args:
        num: how many cases, drawn by the seed evenly from the classes; 0 takes all.
    Raises:
        ReadingRefused: a task whose answer is no class. As `evaluate.answered` besides.
    """
    experiment = run.experiment
    if experiment.task not in TASKS:
        raise ReadingRefused("Readers answer with classes: only a run that tells classes can be read against.")
    if split not in ("val", "test"):
        raise ReadingRefused("Only the validation or the test side can be read.")
    classes, multi_label, examined = evaluate.answered(run, home, split, progress)
    if len(classes) < 2:
        raise ReadingRefused("There is one class at most: nothing to choose from.")
    dataset = Dataset.open(home, experiment.data.dataset)
    places = {case.id: k for k, case in enumerate(dataset.cases)}
    chances = np.asarray(examined["probabilities"], np.float64)[:, : len(classes)]
    truths = _sets(np.asarray(examined["labels"]), multi_label)
    _, patients = np.unique(examined["patients"], return_inverse=True)
    cases = []
    for k in _drawn(truths, num, seed):
        if min(truths[k], default=0) < 0:
            continue  # outlined, but nobody said of what kind
        said = np.flatnonzero(chances[k] >= _HALF) if multi_label else [int(chances[k].argmax())]
        id = str(examined["cases"][k])
        cases.append(
            {
                "id": id,
                "index": places[id],
                "patient": int(patients[k]),
                "truth": list(truths[k]),
                "model": [int(label) for label in said],
                "probabilities": [round(float(p), 6) for p in chances[k]],
            }
        )
    folder = _new_folder(run)
    told = {"run": run.id, "dataset": dataset.id, "split": split, "seed": seed, "at": time.time()}
    told |= {"classes": list(classes), "multi_label": multi_label, "cases": cases}
    write_atomic(folder / "reading.json", json.dumps(told))
    return Reading(folder)


def _new_folder(run: Run) -> Path:
    place = run.folder / FOLDER
    place.mkdir(exist_ok=True, mode=0o700)
    number = 1 + max((int(f.name) for f in place.iterdir() if f.name.isdigit()), default=0)
    while True:
        try:
            (place / str(number)).mkdir(mode=0o700)
            return place / str(number)
        except FileExistsError:
            number += 1


def _sets(labels: np.ndarray, multi_label: bool) -> list[tuple[int, ...]]:
    if multi_label:
        return [tuple(int(k) for k in np.flatnonzero(row)) for row in labels]
    return [(int(label),) for label in labels]


def _drawn(truths: list[tuple[int, ...]], num: int, seed: int) -> list[int]:
    """Positions of the cases that are read, ascending: all, or `num` of them, one class after the other in turn."""
    if not 0 < num < len(truths):
        return list(range(len(truths)))
    shuffled = np.random.default_rng(seed).permutation(len(truths))
    piles: dict[tuple[int, ...], list[int]] = {}
    for k in shuffled:
        piles.setdefault(truths[k], []).append(int(k))
    taken: list[int] = []
    while len(taken) < num:
        for pile in piles.values():
            if pile and len(taken) < num:
                taken.append(pile.pop())
    return sorted(taken)


# ---- what it comes to -----------------------------------------------------------------------------------------------


def report(reading: Reading, resamples: int = bootstrap.RESAMPLES, seed: int = 0) -> dict[str, Any]:
    """Reader alone, model alone and reader with model on the cases that were read to the end.

    Returns, as JSON data: {reading, run, split, classes, cases, interval, readers: [of each reader {reader, n,
    patients, alone, model, with_model: {figure: {value, low, high}}, differences: {"with_model - alone",
    "with_model - model", "alone - model": {figure: {difference, low, high, words}}}, changes: {to_right, to_wrong,
    kept_right, kept_wrong, followed_wrong (right alone, then wrong with the model, as the model said), rescued (wrong
    alone, then right, as the model said)}, seconds: {alone, with_model} (medians)}], together: the same figures and
    differences averaged over the readers, on the cases that all have read, None with fewer than two}.
    """
    found = {name: mine for name, mine in reading.answers().items() if mine.said[BOTH]}
    return {
        "reading": reading.id,
        "run": reading.run,
        "split": reading.split,
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
    seconds = {
        key: float(np.median([mine.seconds[stage][case.id] for case in cases]))
        for key, stage in (("alone", ALONE), ("with_model", BOTH))
    }
    return {"reader": name, **told, "changes": moves, "seconds": seconds}


def _together(reading: Reading, found: list[Answers], resamples: int, seed: int) -> dict[str, Any] | None:
    cases = [case for case in reading.cases if all(case.id in mine.said[BOTH] for mine in found)]
    if not cases:
        return None
    alone, both = ([[mine.said[stage][c.id] for c in cases] for mine in found] for stage in (ALONE, BOTH))
    return {"readers": len(found), **_compared(reading, cases, alone, both, resamples, seed)}


def _compared(
    reading: Reading,
    cases: list[Case],
    alone: list[list[tuple[int, ...]]],
    both: list[list[tuple[int, ...]]],
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """{n, patients, alone, model, with_model, differences}; `alone` and `both` hold one list of answers a reader."""
    patients = np.array([case.patient for case in cases])
    truth = _table([case.truth for case in cases], len(reading.classes))
    sides = {"alone": alone, "model": [[case.model for case in cases]], "with_model": both}
    asked = {
        name: bootstrap.Asked(_figures(reading, truth, answers), patients, None, 0) for name, answers in sides.items()
    }
    told: dict[str, Any] = {"n": len(cases), "patients": len(np.unique(patients))}
    rests_on = _rests_on(reading, truth, patients)
    for name, side in asked.items():
        told[name] = bootstrap.intervals(side.figures, patients, resamples, seed, rests_on=rests_on)
    told["differences"] = {}
    for one, other in (("with_model", "alone"), ("with_model", "model"), ("alone", "model")):
        apart = bootstrap.differences(asked[other], asked[one], resamples, seed)
        told["differences"][f"{one} - {other}"] = {
            name: {key: figure[key] for key in ("difference", "low", "high")} | {"words": _words(one, other, figure)}
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


def _table(answers: list[tuple[int, ...]], num_classes: int) -> np.ndarray:
    """(N, K) bool: which classes each answer names."""
    table = np.zeros((len(answers), num_classes), bool)
    for row, picked in zip(table, answers, strict=True):
        row[list(picked)] = True
    return table


def _figures(reading: Reading, truth: np.ndarray, answers: list[list[tuple[int, ...]]]) -> bootstrap.Figures:
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


def _words(one: str, other: str, figure: Mapping[str, float | None]) -> str:
    """A paired difference in a sentence."""
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
    return f"{who} is {'better' if difference > 0 else 'worse'} than {than}: {span}."
