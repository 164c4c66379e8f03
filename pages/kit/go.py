"""Ways from page to page, and the experiments one can begin with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import streamlit as st

from builder.data import Summary
from builder.spec import Experiment
from builder.task import TASKS, find
from pages.kit import draft
from pages.kit.draft import Draft

__all__ = ["begin", "exists", "newest", "starters", "to"]

_PAGES = Path(__file__).parents[1]


def exists(page: str) -> bool:
    """Says whether a page of this name is there."""
    return (_PAGES / f"{page}.py").is_file()


def to(page: str, **params: str) -> None:
    """Switches to a page by its name ("data", "training", ...), with `params` in the URL. Never returns."""
    st.switch_page(_PAGES / f"{page}.py", query_params=params)


def starters() -> dict[str, Experiment]:
    """Returns every task's ready experiments by name, the simplest first."""
    return {starter.name: starter for task in TASKS for starter in find(task).starters()}


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
