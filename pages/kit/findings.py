"""What is known of an experiment at this moment: its data set, its planned network, what is wrong. Cached."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import streamlit as st

from builder.augment_safety import Lesions, lesions, lost, verdicts
from builder.check import ASSUMED_CLASSES, problems
from builder.data import Dataset, Fingerprint, Summary, UnknownDataset, datasets
from builder.execute import home
from builder.network import Plan, plan_of
from builder.spec import Data, Experiment, Problem
from builder.task import TASKS, find
from pages.kit import go
from pages.kit.draft import Draft, spared
from pages.kit.words import plain

__all__ = ["Findings", "begin", "look", "mend", "repairs", "starters"]

_KEPT = 64
_found: dict[tuple[str, str, float], Findings] = {}
_lock = threading.Lock()


@dataclass(frozen=True)
class Findings:
    """An experiment looked at.

    Attributes:
        summary: its data set at a glance; None while none is chosen or the chosen one is gone.
        plan: shapes and cost of its network. problems: everything that is wrong, errors first.
        num_classes: of the data set, else the number that is assumed until one is chosen.
        experiment: what was looked at.
        verdicts: what is known of its augmentations, good and unknown things, too (see `builder.augment_safety`).
    """

    experiment: Experiment
    summary: Summary | None
    plan: Plan
    problems: tuple[Problem, ...]
    num_classes: int
    verdicts: tuple[Problem, ...] = ()

    @property
    def fingerprint(self) -> Fingerprint | None:
        """Facts about the data set, None without one."""
        return self.summary.fingerprint if self.summary else None

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems that forbid a start."""
        return tuple(p for p in self.problems if p.severity == "error")

    def about(self, *heads: str) -> list[Problem]:
        """The problems at one of these paths or below it."""
        return [p for p in self.problems if any(p.path == h or p.path.startswith(f"{h}.") for h in heads)]


def look(experiment: Experiment) -> Findings:
    """Plans and checks `experiment`; the same document with the same data set is looked at once."""
    summary = _summary(experiment.data.dataset)
    # The whole document, not its digest: that leaves out what means nothing, and repairs would bring it along.
    key = (experiment.dumps(), summary.id if summary else "", summary.changed if summary else 0.0)
    with _lock:
        kept = _found.get(key)
    if kept is not None:
        return kept
    fingerprint = summary.fingerprint if summary else None
    num_classes = len(fingerprint.classes) if fingerprint else ASSUMED_CLASSES
    planned = plan_of(experiment, num_classes)
    told = [*verdicts(experiment, fingerprint, summary.name if summary else ""), *_lost(experiment, summary)]
    wrong = problems(experiment, fingerprint, planned)
    wrong += [p for p in told if p.severity == "warning" and p not in wrong]
    found = Findings(experiment, summary, planned, tuple(wrong), num_classes, tuple(told))
    with _lock:
        while len(_found) >= _KEPT:
            _found.pop(next(iter(_found)))
        _found[key] = found
    return found


def _lost(experiment: Experiment, summary: Summary | None) -> tuple[Problem, ...]:
    """Lesions that the augmentations lose; the same choices on the same scans are counted once."""
    training = experiment.training
    if summary is None or not training.augment or experiment.task not in TASKS:
        return ()
    there = _lesions(summary.id, summary.changed, experiment.data.model_dump_json(), experiment.task)
    return tuple(lost(experiment, there))


@lru_cache(maxsize=8)
def _lesions(dataset: str, _changed: float, data: str, task: str) -> Lesions | None:
    try:
        return lesions(Dataset.open(home(), dataset), Data.model_validate_json(data), task)
    except (UnknownDataset, OSError, ValueError):
        return None


def _summary(dataset: str) -> Summary | None:
    if not dataset:
        return None
    try:
        return Dataset.open(home(), dataset).summary
    except (UnknownDataset, OSError, ValueError):
        return None


def repairs(draft: Draft, found: Iterable[Problem], place: str, *, where: bool = False) -> None:
    """Draws problems as lines with their repair buttons; `place` keeps the keys of two lists on one page apart.

    Args:
        where: names the choice a line is about, for lists that do not stand beside it.
    """
    for number, problem in enumerate(found):
        colour, icon = ("red", "error") if problem.severity == "error" else ("orange", "warning")
        head = f"`{problem.path}` " if where else ""
        st.markdown(f":{colour}[:material/{icon}: {plain(problem.message)}] {head}")
        if problem.fix is not None:
            st.button(
                problem.repair or "Repair",
                key=f"repair-{place}:{problem.path}:{number}",
                icon=":material/build:",
                on_click=spared(mend),
                args=(draft, problem.path, problem.repair),
            )


def mend(draft: Draft, path: str, repair: str) -> bool:
    """Makes the repair of this name of the problem at `path` in the newest document; returns whether there still was
    such a problem. What was changed since the button was drawn stays."""
    mended = False

    def change(now: Experiment) -> Experiment:
        nonlocal mended
        for problem in look(now).problems:
            if (problem.path, problem.repair) == (path, repair) and problem.fix is not None:
                mended = True
                return problem.fix
        return now

    draft.apply(change, repair or "repair")
    return mended


@lru_cache(maxsize=8)
def starters(task: str) -> tuple[Experiment, ...]:
    """The ready experiments of a task, the simplest first; those of the first task where it is unknown."""
    return find(task if task in TASKS else TASKS.names[0]).starters()


@spared
def begin(starter: Experiment, draft: Draft | None = None) -> None:
    """Makes `starter` the current document: in `draft`, keeping its name and data set, or in a new draft."""
    if draft is not None:

        def change(now: Experiment) -> Experiment:
            return starter.replace("name", now.name).replace("data.dataset", now.data.dataset)

        draft.apply(change, f"began from {starter.name}")
        return
    go.begin(starter, go.newest(datasets(home()), starter), f"began from {starter.name}")
