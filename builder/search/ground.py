"""Where trials are carried out: as ordinary runs, through the executor. The driver knows no more than `Ground`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from builder.execute import Executor
from builder.runs import Run, RunFollower, RunStore, StoreError, write_atomic
from builder.spec import Experiment


@dataclass(frozen=True)
class Look:
    """How a trial is now.

    Attributes:
        status: as of a run (`RunView.status`); "gone" where somebody deleted it. reason: why it ended so.
        epochs: {epoch from 1: its metrics, "val/auc" and so on}, the follower's own: read it, never change it.
        best_epoch: of the model that is kept; 0 before there is one.
        seconds: of computing. attempts: 2 = its process was ended once and it went on. stopping: it was asked to stop
            and still saves.
    """

    status: str = "queued"
    epochs: dict[int, dict[str, float]] = field(default_factory=dict)
    best_epoch: int = 0
    seconds: float = 0.0
    attempts: int = 0
    reason: str = ""
    stopping: bool = False

    @property
    def ended(self) -> bool:
        return self.status in ("done", "stopped", "failed", "lost", "gone")


class Ground(Protocol):
    """What carries trials out. Beginning one twice begins it once."""

    def fresh(self) -> str:
        """A name for a trial that is not there yet."""

    def begin(self, name: str, experiment: Experiment, number: int) -> None:
        """Sees to it that the trial is carried out."""

    def look(self, name: str) -> Look:
        """How it is now; cheap enough for many times a second."""

    def stop(self, name: str) -> None:
        """Asks it to stop and keep its state; nothing happens to one that has ended."""

    def again(self, name: str) -> None:
        """Lets a stopped, failed or lost one go on from its state."""


class RunGround:
    """Trials as runs of a data folder."""

    def __init__(self, home: Path, study: str, executor: Executor) -> None:
        self.store, self.study, self.executor = RunStore(home), study, executor
        self._followers: dict[str, RunFollower] = {}

    def fresh(self) -> str:
        return self.store.fresh_id()

    def begin(self, name: str, experiment: Experiment, number: int) -> None:
        facts = json.dumps({"study": self.study, "trial": number})

        def fill(folder: Path) -> None:
            write_atomic(folder / "trial.json", facts)

        run = self.store.create(experiment, id=name, queue=False, fill=fill)
        self.executor.submit(run)

    def look(self, name: str) -> Look:
        run = Run(self.store.home, name)
        if not run.folder.is_dir():
            self._followers.pop(name, None)
            return Look("gone", reason="Its run was deleted.")
        follower = self._followers.setdefault(name, RunFollower(run))
        view = follower.refresh()
        best = int(view.best["epoch"]) if view.best else 0
        look = Look(view.status, follower.epochs, best, view.seconds, view.attempt, view.reason, view.stopping)
        if look.ended:
            del self._followers[name]
        return look

    def stop(self, name: str) -> None:
        run = Run(self.store.home, name)
        if run.folder.is_dir():
            self.executor.cancel(run)

    def again(self, name: str) -> None:
        run = Run(self.store.home, name)
        try:
            run.resume()
        except StoreError:  # it has ended otherwise meanwhile: the next look tells
            return
        self.executor.submit(run)
