"""Trials whose scores come from a formula: what a search does, without training anything."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from builder.search.driver import Driver
from builder.search.ground import Look
from builder.search.studies import Study, StudyStore
from builder.spec import Choice, Dimension, Experiment, Node, Search, Training

LR = "training.optimizer.params.lr"
SMOOTHING = "training.label_smoothing"
RATE = Dimension(path=LR, low=1e-5, high=1e-1, log=True)
BLUR = Dimension(path=SMOOTHING, low=0.0, high=0.5)


class Killed(Exception):
    """The driver was ended, as kill -9 ends it: nothing more is done."""


def bowl(experiment: Experiment, epoch: int) -> float:
    """At best 1, with a learning rate of 0.005 and a label smoothing of 0.1."""
    lr = experiment.training.optimizer.params.get("lr") or 0.001
    assert isinstance(lr, float | int)
    return 1 - ((math.log10(lr) + 2.3) / 2) ** 2 - (4 * (experiment.training.label_smoothing - 0.1)) ** 2


def learning(experiment: Experiment, epoch: int) -> float:
    """A curve that climbs towards `bowl`: early epochs tell already which end is the higher one."""
    return bowl(experiment, epoch) - math.exp(-epoch / 5)


class Planted:
    """A ground: each look at a trial is one epoch further.

    Args:
        ends: {number of a trial: how its run ends instead of "done", the first time, the second time, ...}.
        kill_at: the call of this ground at which the driver is ended. saving: trials that were asked to stop tell that
            they still save, once.
    """

    def __init__(self, score: Callable[[Experiment, int], float] = bowl) -> None:
        self.score = score
        self.documents: dict[str, Experiment] = {}
        self.begun: list[int] = []
        self.ends: dict[int, list[str]] = {}
        self.kill_at = -1
        self.saving: set[str] = set()
        self._calls = 0
        self._epoch: dict[str, int] = {}
        self._stopped: set[str] = set()
        self._numbers: dict[str, int] = {}
        self._attempts: dict[str, int] = {}

    def _called(self) -> None:
        self._calls += 1
        if self._calls == self.kill_at:
            raise Killed

    def fresh(self) -> str:
        return f"{len(self.documents) + 1:x}"

    def begin(self, name: str, experiment: Experiment, number: int) -> None:
        self._called()
        if name not in self.documents:
            self.documents[name], self._numbers[name], self._epoch[name] = experiment, number, 0
            self._attempts[name] = 1
            self.begun.append(number)
        self._called()  # also right after it has begun

    def look(self, name: str) -> Look:
        self._called()
        if name in self._stopped and name in self.saving:
            self.saving.discard(name)
            return Look("running", attempts=self._attempts[name], stopping=True)
        epochs, number = self.documents[name].training.epochs, self._numbers[name]
        if name not in self._stopped and self._epoch[name] < epochs:
            self._epoch[name] += 1
        told = {k: {"val/auc": self.score(self.documents[name], k)} for k in range(1, self._epoch[name] + 1)}
        best = max(told, key=lambda k: told[k]["val/auc"], default=0)
        status = "stopped" if name in self._stopped else "done" if self._epoch[name] == epochs else "running"
        if status == "done" and self.ends.get(number):
            status = self.ends[number][0]
        return Look(status, told, best, float(self._epoch[name]), self._attempts[name])

    def stop(self, name: str) -> None:
        self._called()
        self._stopped.add(name)

    def again(self, name: str) -> None:
        self._called()
        self._stopped.discard(name)
        self._attempts[name] += 1
        if ends := self.ends.get(self._numbers[name]):
            ends.pop(0)


def document(search: Search, epochs: int = 1) -> Experiment:
    """A small experiment with this search; its network is never built."""
    nodes = (Node(id="flatten", name="flatten"), Node(id="linear", name="linear", params={"out_features": 2}))
    return Experiment(network=nodes, search=search, training=Training(epochs=epochs))


def study_of(home: Path, *dimensions: Dimension, epochs: int = 1, id: str | None = None, **search: object) -> Study:
    """A study on disk that nobody drives yet."""
    for name in ("strategy", "pruner"):
        if isinstance(search.get(name), str):
            search[name] = Choice(name=str(search[name]))
    asked = Search(dimensions=dimensions or (RATE, BLUR), **search)  # type: ignore[arg-type]
    return StudyStore(home).create(document(asked, epochs), queue=False, id=id)


def driver_of(study: Study, ground: Planted, storage: object = None, **options: object) -> Driver:
    """A driver that waits for nothing; without `storage` it keeps its trials in the study's own file."""
    return Driver(study, ground, storage=storage, poll_s=0, costs=lambda made, names: {}, **options)  # type: ignore


def driven(study: Study, ground: Planted, storage: object = None, **options: object) -> None:
    """Drives a study to its end."""
    for _ in driver_of(study, ground, storage, **options).steps():
        pass
