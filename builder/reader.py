"""Blind reading: people answer first, the model second, and both are compared on the same cases.

A reading belongs to a run and one side of its data set. Each reader goes through the same cases in an order of their
own, sees neither label nor model, answers, then sees the model's answer and keeps or changes theirs. An answer is a
class, or lesions that are boxed or outlined (`marked`). What was answered is never rewritten. The design is that of a
sequential reading study (second reader; Beiden et al., Acad Radiol 2001): the same reader with and without the model on
the same cases, so differences are paired (`reading_report`). Intervals are drawn over patients: they speak of other
patients, not of other readers.

    runs/<id>/readings/<n>/reading.json    once: {run, dataset, split, seed, at, kind, classes, multi_label, cases}
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

from builder import calibrate, evaluate, marked
from builder.data import Dataset
from builder.parting import Parting, dataset_of
from builder.runs import Run, append_whole, write_atomic

__all__ = [
    "ALONE",
    "BOTH",
    "BOXES",
    "CLASSES",
    "OUTLINES",
    "Reading",
    "ReadingRefused",
    "Turn",
    "begin",
    "readings",
]

FOLDER, ALONE, BOTH = "readings", "alone", "with-model"
CLASSES, BOXES, OUTLINES = "classes", "boxes", "outlines"
KINDS = {
    "recognition": (CLASSES,),
    "tumor_diagnosis": (CLASSES, OUTLINES),
    "lesion_detection": (BOXES,),
}
"""{task: what its readers may answer with}."""
TASKS = tuple(KINDS)
_READER = re.compile(r"[^\W_][\w .-]{0,23}")
_MOST_S = 3600.0
_HALF = 0.5  # from which probability a model that tells several labels says one


class ReadingRefused(ValueError):
    """A reading that cannot be begun, or an answer that cannot be taken. Its text is one sentence for people."""


@dataclass(frozen=True)
class Case:
    """A scan that is read: its id and place in the data set, its patient as a number, what is true and what the model
    says, as class indices or `marked.Mark`s, the model's probabilities (of its marks: their scores).

    silent: why the model would say that it does not know, "" where it answers. shape: (S, H, W) of a scan that is
    marked; slices: those that count. packed: the model's outline (`marked.packed`)."""

    id: str
    index: int
    patient: int
    truth: tuple[Any, ...]
    model: tuple[Any, ...]
    probabilities: tuple[float, ...]
    silent: str = ""
    shape: tuple[int, ...] = ()
    slices: tuple[int, ...] = ()
    packed: str = ""

    def outlined(self) -> np.ndarray:
        """What the model outlines: uint8 (S, H, W), 1 inside."""
        return marked.unpacked(self.packed, self.shape)


@dataclass(frozen=True)
class Turn:
    """What a reader is to do now: which case, at which stage (`ALONE` or `BOTH`), and how many of all are done."""

    case: Case
    stage: str
    done: int
    of: int


@dataclass
class Answers:
    """What one reader said: {case id: class indices or marks} and {case id: seconds} for each stage."""

    said: dict[str, dict[str, tuple[Any, ...]]] = field(default_factory=lambda: {ALONE: {}, BOTH: {}})
    seconds: dict[str, dict[str, float]] = field(default_factory=lambda: {ALONE: {}, BOTH: {}})
    outlines: dict[str, dict[str, str]] = field(default_factory=lambda: {ALONE: {}, BOTH: {}})

    def outline(self, stage: str, case: Case) -> np.ndarray:
        """What was outlined: uint8 (S, H, W), 1 inside; empty where nothing was."""
        return marked.unpacked(self.outlines[stage].get(case.id, ""), case.shape)


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
        self.kind: str = told.get("kind", CLASSES)  # earlier versions knew classes alone
        self.cases = tuple(
            Case(
                c["id"],
                c["index"],
                c["patient"],
                self._answer(c["truth"]),
                self._answer(c["model"]),
                tuple(c["probabilities"]),
                str(c.get("silent", "")),
                tuple(c.get("shape", ())),
                tuple(c.get("slices", ())),
                str(c.get("outline", "")),
            )
            for c in told["cases"]
        )

    def _answer(self, plain: Any) -> tuple[Any, ...]:
        """An answer out of JSON."""
        if self.kind == CLASSES:
            return tuple(int(k) for k in plain)
        return tuple((*map(float, mark[:4]), int(mark[4]), int(mark[5])) for mark in plain)

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
                    mine.said[stage][case] = self._answer(entry["answer"])
                    mine.seconds[stage][case] = float(entry["seconds"])
                    mine.outlines[stage][case] = str(entry.get("outline", ""))
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
        """Writes down that a reader begins, and returns the name as it is kept; to begin again changes nothing, also
        with other capitals.

        On the test side the first time counts as an opening of it.

        Raises: ReadingRefused: a name that cannot be kept.
        """
        reader = " ".join(reader.split())
        if not _READER.fullmatch(reader):
            raise ReadingRefused(
                "A reader is told by initials or a code: 1 to 24 letters, digits, spaces, - and points."
            )
        there = self.answers()
        reader = next((name for name in there if name.casefold() == reader.casefold()), reader)
        if reader not in there:
            self._write({"reader": reader, "began": True})
            if self.split == "test" and Parting.of(self.folder.parents[1]) is None:  # else held out of the run itself
                evaluate.count_opening(Dataset.open(home, self.dataset), self.run)
        return reader

    def say(
        self, reader: str, case: str, stage: str, answer: tuple[Any, ...], seconds: float, outline: str = ""
    ) -> None:
        """Keeps an answer. The first one at a stage counts: nothing that was said is changed.

        Args:
            answer: class indices, exactly one unless scans may show several; or marks, none where there is no lesion.
            seconds: from sight to answer. outline: packed, of which the marks are (see `outline`).
        Raises:
            ReadingRefused: another case or stage than the reader's turn, or an answer that is none.
        """
        now = self.turn(reader)
        if now is None or (now.case.id, now.stage) != (case, stage):
            raise ReadingRefused("This case is answered already; the next one is here.")
        if self.kind != CLASSES:
            try:
                picked: tuple[Any, ...] = marked.checked(answer, len(self.classes), now.case.shape)
            except ValueError as error:
                raise ReadingRefused(str(error)) from error
        elif any(not 0 <= k < len(self.classes) for k in answer) or (not self.multi_label and len(set(answer)) != 1):
            raise ReadingRefused("Choose one of the classes first.")
        else:
            picked = tuple(sorted(set(answer)))
        took = round(min(max(float(seconds), 0.0), _MOST_S), 2)
        entry = {"reader": reader, "case": case, "stage": stage, "answer": list(picked), "seconds": took}
        self._write(entry | ({"outline": outline} if outline else {}))

    def outline(self, reader: str, case: str, stage: str, mask: np.ndarray | None, seconds: float) -> None:
        """Keeps what was outlined, uint8 (S, H, W); None or all zero: there is nothing. As `say` besides."""
        shape = self._by_id[case].shape if case in self._by_id else ()
        if mask is None:
            mask = np.zeros(shape or (1, 1, 1), np.uint8)
        inside = (mask > 0).astype(np.uint8)
        if inside.shape != shape:
            raise ReadingRefused("The outline is not of this scan's size.")
        self.say(reader, case, stage, marked.of_mask(inside), seconds, marked.packed(inside))

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
    kind: str = "",
) -> Reading:
    """A new reading of the labelled cases of a side: the model is asked about them now, before any reader.

    Args:
        num: how many cases, drawn by the seed evenly from the classes (of marks: with and without a lesion); 0 takes
            all. kind: one of `kinds_of`; its first one by default.
    Raises:
        ReadingRefused: a task whose answer readers cannot give. As `evaluate.answered` besides.
    """
    experiment = run.experiment
    if experiment.task not in TASKS:
        raise ReadingRefused(
            "Readers answer with classes, boxes or outlines: a run that tells none of these cannot be read against."
        )
    if split not in ("val", "test"):
        raise ReadingRefused("Only the validation or the test side can be read.")
    dataset = dataset_of(run.folder, home, experiment.data.dataset)
    there = kinds_of(experiment.task, len(dataset.classes))
    kind = kind or there[0]
    if kind not in there:
        raise ReadingRefused(f"A reading of this run is of {' or '.join(there)}, not of {kind!r}.")
    if kind != CLASSES:
        return _of_marks(run, home, dataset, split, kind, num, seed, progress)
    classes, multi_label, examined = evaluate.answered(run, home, split, progress)
    if len(classes) < 2:
        raise ReadingRefused("There is one class at most: nothing to choose from.")
    places = {case.id: k for k, case in enumerate(dataset.cases)}
    terms = calibrate.chosen(run)
    chances = np.asarray(examined["probabilities"], np.float64)[:, : len(classes)]
    truths = _sets(np.asarray(examined["labels"]), multi_label)
    _, patients = np.unique(examined["patients"], return_inverse=True)
    cases = []
    known = [k for k, truth in enumerate(truths) if min(truth, default=0) >= 0]  # others: nobody said of what kind
    for k in (known[place] for place in _drawn([truths[k] for k in known], num, seed)):
        said = np.flatnonzero(chances[k] >= _HALF) if multi_label else [int(chances[k].argmax())]
        id = str(examined["cases"][k])
        told_so = terms.said(dict(zip(classes, map(float, chances[k]), strict=True)), multi_label)
        cases.append(
            {
                "id": id,
                "index": places[id],
                "patient": int(patients[k]),
                "truth": list(truths[k]),
                "model": [int(label) for label in said],
                "probabilities": [round(p, 6) for p in told_so.probabilities.values()],
                "silent": told_so.reason,
            }
        )
    told = {"run": run.id, "dataset": dataset.id, "split": split, "seed": seed, "kind": CLASSES}
    return _begun(run, told | {"classes": list(classes), "multi_label": multi_label, "cases": cases})


def kinds_of(task: str, num_classes: int) -> tuple[str, ...]:
    """What readers may answer with against a run of a task; classes only where there are several."""
    return tuple(kind for kind in KINDS.get(task, ()) if kind != CLASSES or num_classes > 1) or (CLASSES,)


def _of_marks(
    run: Run,
    home: Path,
    dataset: Dataset,
    split: str,
    kind: str,
    num: int,
    seed: int,
    progress: Callable[[int, int], None] | None,
) -> Reading:
    """`begin` where readers box or outline lesions."""
    from builder import task

    experiment = run.experiment
    places = {case.id: k for k, case in enumerate(dataset.cases)}
    used = task.find(experiment.task).cases(dataset, experiment, split)
    classes: tuple[str, ...]
    truths: list[tuple[int, ...]]
    if kind == BOXES:
        flat = experiment.data.slices in ("mean", "maximum")
        if flat and any(dataset.cases[place].shape[0] > 1 for place in map(int, used)):
            raise ReadingRefused(
                "This network sees all slices of a scan as one picture and does not know on which of them a lesion "
                "lies: boxes that readers draw on slices cannot be compared with its own."
            )
        classes, _, examined = evaluate.answered(run, home, split, progress)
        cases = marked.of_detections(examined, dataset)
        truths = [(int(bool(case["truth"])),) for case in cases]
        cases = [cases[k] for k in _drawn(truths, num, seed)]
    else:
        classes = ("lesion",)
        known, truths = [], []
        for place in map(int, used):
            if (mask := dataset.mask(place)) is not None:
                known.append(place)
                truths.append((int(bool((mask > 0).any())),))
        drawn = [known[k] for k in _drawn(truths, num, seed)]
        cases = marked.of_outlines(run, home, drawn, progress)
    if not cases:
        raise ReadingRefused("No scan of this side carries what readers would mark: label some first.")
    for case in cases:
        case["index"] = places[case["id"]]
        slices, _, height, width = dataset.cases[case["index"]].shape
        case |= {"shape": [slices, height, width], "probabilities": case.pop("scores")}
    told = {"run": run.id, "dataset": dataset.id, "split": split, "seed": seed, "kind": kind}
    return _begun(run, told | {"classes": list(classes), "multi_label": False, "cases": cases})


def _begun(run: Run, told: dict[str, Any]) -> Reading:
    folder = _new_folder(run)
    write_atomic(folder / "reading.json", json.dumps({**told, "at": time.time()}))
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
