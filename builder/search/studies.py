"""Studies on disk: what was asked, what came of each trial, and what people want of a study that is at work.

Layout of a study, and who writes what (one writer per file)::

    studies/<id>/experiment.json   whoever begins it, once: the document with its `search`
    studies/<id>/study.json        the same, once: where its storage is (a file here, or the server of SCANLOOM_STUDIES)
    studies/<id>/driver.json       whoever resumes it: which job of kind "search" drives it now
    studies/<id>/wishes.jsonl      whoever wants more trials, or one again: appended, never rewritten
    studies/<id>/events.jsonl      the driver: what happened, from which a view is folded
    studies/<id>/study.db          the driver: Optuna's storage, which optuna-dashboard reads

A trial is an ordinary run; `trial.json` in its folder says of which study, and which number. Nothing here imports
Optuna: a page reads a study of a thousand trials without it.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from builder.execute import executor
from builder.runs import Job, Run, RunStore, StoreError, append_whole, checked_id, read_json, write_atomic
from builder.search import objectives
from builder.search.checks import faults
from builder.search.space import apply
from builder.spec import Experiment

STORAGE_VARIABLE = "SCANLOOM_STUDIES"
ENDED = ("done", "pruned", "failed", "refused", "stopped")
ACTIVE = ("queued", "starting", "running", "restarting")


@dataclass(frozen=True)
class TrialView:
    """One trial.

    Attributes:
        number: from 0. run: its id, "" where nothing was trained. params: {path: value} of the choices it has.
        status: running; or done, pruned (ended early), failed, stopped (by hand), refused (over a limit, or a document
            that cannot be trained; it never began).
        values: one for each objective, () before the end. best_epoch: of the kept model, from 1; 0 without one.
        curve: (epochs, values of the first objective). costs: {name of `COSTS`: number}.
        retried: how often its process was ended and it went on. requeued_from: the trial whose values it has again.
        seconds: of computing. reason: why it ended so, in words.
    """

    number: int
    run: str = ""
    status: str = "running"
    values: tuple[float, ...] = ()
    best_epoch: int = 0
    params: dict[str, Any] = field(default_factory=dict)
    epochs: int = 0
    curve: tuple[list[int], list[float]] = field(default_factory=lambda: ([], []))
    costs: dict[str, float] = field(default_factory=dict)
    retried: int = 0
    requeued_from: int | None = None
    seconds: float = 0.0
    reason: str = ""

    @property
    def pruned(self) -> bool:
        return self.status == "pruned"

    @property
    def ended(self) -> bool:
        return self.status in ENDED


@dataclass(frozen=True)
class StudyView:
    """What a page shows of a study.

    Attributes:
        status: queued, starting, running, restarting; or done, stopped, failed, interrupted (its driver is gone).
        objectives, rising: what is looked for, and for each whether higher is better.
        best: the trial to open: with one objective the best, with several None. front: numbers of the best compromises.
        wanted: how many trials shall be trained. trained: how many were begun (refused ones never count).
        importance: {path: share of what the choice explains of the first objective}, the largest first; {} too early.
        seconds: that the search has worked. epochs_run, epochs_planned: of all trials that began. epochs_spared: by
            ending trials early, as a share of what was planned for these and for those that are done.
    """

    id: str
    name: str = ""
    status: str = "queued"
    reason: str = ""
    stopping: bool = False
    objectives: tuple[str, ...] = ()
    rising: tuple[bool, ...] = ()
    trials: tuple[TrialView, ...] = ()
    best: TrialView | None = None
    front: tuple[int, ...] = ()
    wanted: int = 0
    trained: int = 0
    importance: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    epochs_run: int = 0
    epochs_planned: int = 0
    epochs_spared: float = 0.0

    @property
    def active(self) -> bool:
        return self.status in ACTIVE

    @property
    def resumable(self) -> bool:
        return not self.active


class StudyStore:
    """The studies of one data folder."""

    def __init__(self, home: Path | str) -> None:
        self.home = Path(home)

    def create(
        self, experiment: Experiment, *, queue: bool = True, num_classes: int = 2, id: str | None = None
    ) -> Study:
        """A new study of `experiment`, begun at once (`queue=False`: only on disk). `id`: a name of one's own;
        Hyperband deals its brackets by it.

        Raises:
            StoreError: the experiment has no search, or one that cannot be carried out; it says why. The disk is full.
        """
        if experiment.search is None:
            raise StoreError("This experiment has no search: unlock a choice first.")
        wrong = [fault for fault in faults(experiment, num_classes) if fault.severity == "error"]
        if wrong:
            raise StoreError(" ".join(fault.message for fault in wrong))
        kept = "server" if os.environ.get(STORAGE_VARIABLE) else "file"
        texts = {"experiment.json": experiment.dumps(), "study.json": json.dumps({"storage": kept, "at": time.time()})}
        study = Study(self.home, RunStore(self.home).make("studies", id, texts))
        if queue:
            study.resume()
        return study

    def studies(self) -> list[Study]:
        """Every study, the newest first."""
        try:
            names = sorted(os.listdir(self.home / "studies"), reverse=True)
        except FileNotFoundError:
            return []
        found = (name for name in names if (self.home / "studies" / name / "experiment.json").is_file())
        return [Study(self.home, name) for name in found if not name.startswith(".")]

    def study(self, id: str) -> Study:
        """The study called `id`; StoreError when there is none."""
        found = Study(self.home, id)
        if not (found.folder / "experiment.json").is_file():
            raise StoreError(f"There is no study {id!r} in this data folder.")
        return found


class Study:
    """One study: a folder, and the job that drives it."""

    def __init__(self, home: Path, id: str) -> None:
        self.home, self.id = Path(home), checked_id(id)
        self.folder = self.home / "studies" / self.id

    @property
    def experiment(self) -> Experiment:
        return Experiment.loads((self.folder / "experiment.json").read_text(encoding="utf-8"))

    @property
    def storage_url(self) -> str:
        """Where Optuna's storage of this study is, as SQLAlchemy and optuna-dashboard name it."""
        if (read_json(self.folder / "study.json") or {}).get("storage") != "server":
            return f"sqlite:///{self.folder / 'study.db'}"
        url = os.environ.get(STORAGE_VARIABLE, "")
        if not url:
            raise StoreError(f"This study is kept on a database server; set {STORAGE_VARIABLE} to its address.")
        return url

    @property
    def driver(self) -> Job | None:
        """The job that drives it, or drove it last; None where none ever did, or where it is swept away."""
        id = (read_json(self.folder / "driver.json") or {}).get("job")
        job = Job(self.home, "search", str(id)) if id else None
        return job if job is not None and job.folder.is_dir() else None

    def view(self) -> StudyView:
        """What there is to show of it now. To look again and again, keep a `StudyFollower`."""
        return StudyFollower(self).refresh()

    def trial(self, number: int) -> Experiment:
        """The document of a trial, ready to be opened as an experiment of its own; StoreError where there is none."""
        for trial in self.view().trials:
            if trial.number == number:
                folder = Run(self.home, trial.run).folder if trial.run else None
                if folder is not None and (folder / "experiment.json").is_file():
                    return Experiment.loads((folder / "experiment.json").read_text(encoding="utf-8"))
                return apply(self.experiment, trial.params)
        raise StoreError(f"The study {self.id} has no trial {number}.")

    # -- what people want of it ---------------------------------------------------------------------------------------

    def resume(self) -> Job:
        """Lets it go on where it is: a driver is put into the queue unless one is at work. Nothing is counted twice."""
        now = self.driver
        if now is not None and now.view().active and not now.stop_wanted:
            executor(self.home).ensure()  # it may wait for a service that is gone
            return now
        plain = read_json(self.folder / "driver.json") or {}
        number = int(plain.get("number", 0)) + 1
        job = RunStore(self.home).submit_job("search", {"study": self.id}, id=f"{self.id}-{number:x}")
        write_atomic(self.folder / "driver.json", json.dumps({"job": job.id, "number": number}))
        executor(self.home).ensure()
        return job

    def stop(self) -> None:
        """Asks it to stop: running trials save their state; `resume` lets them go on from there."""
        if (job := self.driver) is not None:
            job.stop()

    def extend(self, num: int) -> None:
        """Wants `num` more trials, and lets it go on if it had ended."""
        if num < 1:
            raise StoreError(f"A study is extended by 1 or more trials, not by {num}.")
        self._wish({"extend": int(num)})

    def requeue(self, number: int) -> None:
        """Wants the values of a trial tried once more, as a new trial beyond those that were asked for."""
        trial = next((trial for trial in self.view().trials if trial.number == number), None)
        if trial is None:
            raise StoreError(f"The study {self.id} has no trial {number}.")
        if not trial.ended:
            raise StoreError(f"Trial {number} is still running; it can be tried again once it has ended.")
        if trial.status == "refused":  # another one would be drawn in its place
            raise StoreError(f"Trial {number} would be refused again. {trial.reason}")
        self._wish({"requeue": int(number)})

    def _wish(self, wish: dict[str, int]) -> None:
        descriptor = os.open(self.folder / "wishes.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            append_whole(descriptor, json.dumps(wish).encode() + b"\n")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if not self.view().stopping:
            self.resume()

    def wishes(self) -> list[dict[str, int]]:
        """What was wanted of it since it began, oldest first: {extend: how many} or {requeue: number of a trial}."""
        try:
            lines = (self.folder / "wishes.jsonl").read_bytes().splitlines()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines]


def trial_of(folder: Path) -> tuple[str, int] | None:
    """(study, number) of the run in `folder` where it is a trial; None for a run of its own."""
    plain = read_json(folder / "trial.json")
    return (str(plain["study"]), int(plain["trial"])) if plain and {"study", "trial"} <= set(plain) else None


class StudyFollower:
    """Follows one study: each `refresh` reads only what was appended since the last one."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.offset = 0
        experiment = study.experiment
        assert experiment.search is not None
        self._fold = StudyFold(study.id, experiment)

    def refresh(self) -> StudyView:
        # The driver first, the events last: its last word is written before its job ends.
        job = self.study.driver
        view = job.view() if job is not None else None
        path = self.study.folder / "events.jsonl"
        try:
            with open(path, "rb") as file:
                file.seek(self.offset)
                chunk = file.read()
        except FileNotFoundError:
            chunk = b""
        end = chunk.rfind(b"\n") + 1
        self.offset += end
        for event in told(chunk[:end]):
            self._fold.add(event)
        wishes = self.study.wishes()
        if view is not None and view.active:
            status, reason = ("running" if view.status == "paused" else view.status), view.reason
        elif view is not None and view.status in ("failed", "lost"):  # whatever the one before it had said
            status, reason = "interrupted", view.reason
        elif self._fold.finished is not None:
            status, reason = str(self._fold.finished["status"]), str(self._fold.finished.get("reason", ""))
        elif view is not None and view.status == "stopped":  # before it began
            status, reason = "stopped", view.reason
        else:
            status = "interrupted"
            reason = (view.reason if view is not None else "") or "What drives the search is gone."
        stopping = bool(view is not None and view.active and job is not None and job.stop_wanted)
        return self._fold.view(wishes, status=status, reason=reason, stopping=stopping)


class StudyFold:
    """Adds the events of a study one by one and can say at any time what they come to.

    Events: began {job}; asked {trial, params, run, costs, requeued_from}; reported {trial, epoch, value}; retried
    {trial, reason}; ended {trial, status, values, best_epoch, epochs, seconds, retried, reason}; weighed {importance};
    finished {status, reason}. Each has `at` (wall time) and `clock` (seconds since its driver began).
    """

    def __init__(self, id: str, experiment: Experiment) -> None:
        assert experiment.search is not None
        self.id, self.name = id, experiment.name
        self.objectives, self.rising = objectives.of(experiment), objectives.rising(experiment)
        self.num_trials, self.epochs = experiment.search.num_trials, experiment.training.epochs
        self.trials: dict[int, TrialView] = {}
        self.importance: dict[str, float] = {}
        self.finished: dict[str, Any] | None = None
        self._past = self.clock = 0.0

    def add(self, event: Mapping[str, Any]) -> None:
        kind, number = event.get("event"), int(event.get("trial", -1))
        if kind == "began":
            self._past, self.clock, self.finished = self._past + self.clock, 0.0, None
        self.clock = max(self.clock, float(event.get("clock", 0.0)))
        if kind == "finished":
            self.finished = dict(event)
        elif kind == "weighed":
            self.importance = dict(event["importance"])
        elif kind == "asked" and number not in self.trials:
            self.trials[number] = TrialView(
                number,
                str(event.get("run", "")),
                params=dict(event["params"]),
                costs=dict(event.get("costs") or {}),
                requeued_from=event.get("requeued_from"),
            )
        elif number in self.trials:
            trial = self.trials[number]
            if kind == "reported":
                epoch, (epochs, values) = int(event["epoch"]), trial.curve
                if not epochs or epoch > epochs[-1]:
                    epochs.append(epoch)
                    values.append(float(event["value"]))
            elif kind == "retried":
                self.trials[number] = replace(trial, retried=trial.retried + 1, reason=str(event.get("reason", "")))
            elif kind == "ended":
                self.trials[number] = replace(
                    trial,
                    status=str(event["status"]),
                    values=tuple(float(value) for value in event.get("values") or ()),
                    best_epoch=int(event.get("best_epoch") or 0),
                    epochs=int(event.get("epochs") or (trial.curve[0] or [0])[-1]),
                    seconds=float(event.get("seconds") or 0.0),
                    retried=max(trial.retried, int(event.get("retried") or 0)),
                    reason=str(event.get("reason", "")),
                )

    @property
    def seconds(self) -> float:
        """How long the drivers have worked."""
        return self._past + self.clock

    def view(self, wishes: list[dict[str, int]], **known: Any) -> StudyView:
        """The state so far. `known`: status, reason, stopping."""
        trials = tuple(_reached(self.trials[number]) for number in sorted(self.trials))
        done = [trial for trial in trials if trial.status == "done" and len(trial.values) == len(self.objectives)]
        begun = [trial for trial in trials if trial.status != "refused"]
        best = None
        if done and len(self.objectives) == 1:
            sign = -1 if self.rising[0] else 1
            best = min(done, key=lambda trial: (sign * trial.values[0], trial.number))
        more = sum(wish.get("extend", 0) + ("requeue" in wish) for wish in wishes)
        planned = {trial.number: int(trial.params.get("training.epochs", self.epochs)) for trial in begun}
        over = sum(planned[trial.number] for trial in begun if trial.status in ("done", "pruned"))
        spared = sum(planned[trial.number] - trial.epochs for trial in begun if trial.pruned)
        return StudyView(
            self.id,
            self.name,
            objectives=self.objectives,
            rising=self.rising,
            trials=trials,
            best=best,
            front=front(done, self.rising) if len(self.objectives) > 1 else (),
            wanted=self.num_trials + more,
            trained=len(begun),
            importance=self.importance,
            seconds=round(self.seconds, 3),
            epochs_run=sum(trial.epochs for trial in begun),
            epochs_planned=sum(planned.values()),
            epochs_spared=spared / over if over else 0.0,
            **known,
        )


def told(text: bytes) -> list[dict[str, Any]]:
    """The events in whole lines of a study's record."""
    found: list[dict[str, Any]] = json.loads(
        b"[" + b",".join(text.splitlines()) + b"]"
    )  # one call: a tenth of the time
    return found


def _reached(trial: TrialView) -> TrialView:
    """A trial at work with the epochs that it has told so far; one that has ended as it is."""
    return trial if trial.ended or not trial.curve[0] else replace(trial, epochs=trial.curve[0][-1])


def front(trials: list[TrialView], rising: tuple[bool, ...]) -> tuple[int, ...]:
    """Numbers of the trials than which no other is better in one objective and no worse in the rest (Pareto front)."""
    signs = [-1.0 if up else 1.0 for up in rising]
    points = [(tuple(s * v for s, v in zip(signs, t.values, strict=True)), t.number) for t in trials]
    points = sorted(point for point in points if all(math.isfinite(value) for value in point[0]))
    kept: list[tuple[tuple[float, ...], int]] = []
    for point, number in points:  # sorted: only an earlier one can be at least as good in everything
        if not any(all(a <= b for a, b in zip(other, point, strict=True)) and other != point for other, _ in kept):
            kept.append((point, number))
    return tuple(sorted(number for _, number in kept))
