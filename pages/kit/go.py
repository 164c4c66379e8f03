"""Ways from page to page, and the experiments one can begin with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import streamlit as st

from builder.check import problems
from builder.data import Summary
from builder.spec import Data, Experiment
from builder.task import TASKS, Task, find
from pages.kit import address, draft
from pages.kit.draft import Draft

__all__ = ["begin", "demos", "exists", "newest", "starters", "suited", "tasks", "to"]

_PAGES = Path(__file__).parents[1]


def exists(page: str) -> bool:
    """Says whether a page of this name is there."""
    return (_PAGES / f"{page}.py").is_file()


def to(page: str, **params: str) -> None:
    """Switches to a page by its name ("data", "training", ...), with `params` in the URL. Never returns."""
    address.renew()
    st.switch_page(_PAGES / f"{page}.py", query_params=params)


def starters() -> dict[str, Experiment]:
    """Returns every task's ready experiments by name, the simplest first."""
    return {starter.name: starter for task in TASKS for starter in find(task).starters()}


def tasks() -> tuple[Task, ...]:
    """Returns every task, in the order in which they are offered."""
    return tuple(find(name) for name in TASKS)


def demos() -> list[tuple[Task, str]]:
    """Returns every demo set as (task, kind), a task's first one with the kind ""."""
    return [(task, "" if number == 0 else kind) for task in tasks() for number, kind in enumerate(task.demos)]


def suited(summary: Summary) -> Experiment:
    """Returns the simplest starter of a data set's task that can learn from it as it is.

    Where none can (labels are missing) it is the task's first one: the pages then say what is wrong.
    """
    task = find(summary.task if summary.task in TASKS else TASKS.names[0])
    ready = task.starters()
    stacked = summary.fingerprint.num_slices.get("min", 1) > 1
    order = sorted(ready, key=lambda s: _of_stacks(s.data) != stacked)  # stable: the simplest first
    for starter in order:
        found = problems(starter.replace("data.dataset", summary.id), summary.fingerprint)
        if not any(problem.severity == "error" for problem in found):
            return starter
    return ready[0]


def _of_stacks(data: Data) -> bool:
    """Whether a preparation looks at more than one slice of a scan."""
    return data.layout != "maps" or data.slices == "each"


def newest(found: Sequence[Summary], starter: Experiment) -> str:
    """Returns the id of the newest of these data sets on which `starter` makes sense, "" where there is none.

    A network for series or volumes makes none on single pictures.
    """
    stacked = starter.data.layout != "maps"
    suits = (s for s in found if s.task == starter.task and (not stacked or s.fingerprint.num_slices.get("max", 1) > 1))
    return next((s.id for s in suits), "")


def begin(experiment: Experiment, dataset: str = "", words: str = "Started") -> Draft:
    """Makes a draft of `experiment` (on `dataset` where one is given), opens it in this tab and returns it."""
    if dataset:
        experiment = experiment.replace("data.dataset", dataset)
    begun = Draft.create(experiment, words)
    draft.choose(begun)
    return begun
