"""Runs that have saved a network: which there are, what they are called, and the one that a page is about."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import streamlit as st

from builder.execute import home
from builder.runs import Run, RunStore
from builder.spec import SpecError
from pages.kit import address
from pages.kit.run_groups import own

__all__ = [
    "askable_runs",
    "by_words",
    "choose_state",
    "chosen_run",
    "name_of",
    "names_of",
    "state_of",
    "states",
    "usable_runs",
]

_STATE = "state"  # in the URL
_STATES = {"best": "Best epoch", "last": "Last saved"}


def usable_runs() -> list[Run]:
    """The runs that have saved a best network, the newest first; of the trials of a search only the one in the URL."""
    return [run for run in _known() if "best" in states(run)]


def askable_runs() -> list[Run]:
    """The runs that have saved any state, the newest first: those of `usable_runs`, and some that still learn."""
    return [run for run in _known() if states(run)]


def _known() -> list[Run]:
    return own(RunStore(home()).runs(), address.get("run").split(","))


def states(run: Run) -> list[str]:
    """Which saved states of a run can be asked: "best" and "last", as there are."""
    best = (run.folder / "best.safetensors").is_file()
    last = next(run.folder.glob("last-*.pt"), None) is not None
    return [name for name, there in (("best", best), ("last", last)) if there]


def state_of(run: Run) -> str:
    """The state that is asked: the best epoch where nobody has chosen the last one."""
    there = states(run) or ["best"]
    asked = address.get(_STATE)
    return asked if asked in there else there[0]


def choose_state(run: Run, on_switch: Callable[[], None] = lambda: None) -> None:
    """The choice of the state of a run that answers; only drawn where there is one."""
    there = states(run)
    if len(there) < 2:
        return
    key = f"state-{run.id}"
    if st.session_state.get(key) != state_of(run):
        st.session_state[key] = state_of(run)

    def switch() -> None:
        address.put(_STATE, st.session_state[key])
        on_switch()

    st.segmented_control(
        "Which of its networks",
        there,
        key=key,
        required=True,
        format_func=_STATES.__getitem__,
        on_change=switch,
        help="The best epoch is what is kept of a run. The last saved state is where it is now: of a run that is "
        "paused or still learns, it shows what it has become.",
    )


def by_words(by: Mapping[str, Any]) -> str:
    """Says which state answered: {state, epoch, step}."""
    if by["state"] == "best":
        return f"the best epoch, {by['epoch']}."
    return f"the state saved last: epoch {by['epoch']}, step {by['step']}."


def name_of(run: Run) -> str:
    """What the run is called in the list."""
    try:
        name = run.experiment.name
    except (SpecError, OSError):
        name = "Unreadable experiment"
    begun = time.localtime((run.folder / "experiment.json").stat().st_mtime)
    # No "3 min ago": a choice is told by its words, and words that change would count as another choice.
    return f"{name}, {time.strftime('%d %b %H:%M', begun)}"


def names_of(runs: Sequence[Run]) -> dict[str, str]:
    """{id: what the run is called in the list}, no two alike: a browser names its choice by these very words, so runs
    of several seeds, begun in one minute, would be taken for each other."""
    names = {run.id: name_of(run) for run in runs}
    told = list(names.values())
    return {id: f"{name} ({id[-6:]})" if told.count(name) > 1 else name for id, name in names.items()}


def chosen_run(
    runs: Sequence[Run], key: str, first: str = "", on_switch: Callable[[], None] = lambda: None, help: str = ""
) -> Run:
    """Draws the choice of a run, made to agree with the URL; returns the chosen one.

    Args:
        runs: at least one. key: of the widget. first: id of the run where the URL names none; "" the first of `runs`.
        on_switch: called when a person has chosen another, after the URL says so.
    """
    by_id, names = {run.id: run for run in runs}, names_of(runs)
    asked = address.get("run").split(",")[0]
    id = asked if asked in by_id else first or runs[0].id
    if address.get("run") != id:
        address.put("run", id)
    if st.session_state.get(key) != id:
        st.session_state[key] = id

    def switch() -> None:
        if st.session_state[key] != address.get("run"):
            address.put("run", st.session_state[key])
            on_switch()

    st.selectbox(
        "Network",
        list(by_id),
        key=key,
        format_func=names.__getitem__,
        on_change=switch,
        help=help or None,
    )
    return by_id[id]
