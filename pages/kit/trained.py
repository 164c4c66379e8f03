"""Runs that have saved a network: which there are, what they are called, and the one that a page is about."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import streamlit as st

from builder.execute import home
from builder.runs import Run, RunStore
from builder.spec import SpecError

__all__ = ["chosen_run", "name_of", "usable_runs"]


def usable_runs() -> list[Run]:
    """The runs that have saved a best network, the newest first."""
    return [run for run in RunStore(home()).runs() if (run.folder / "best.safetensors").is_file()]


def name_of(run: Run) -> str:
    """What the run is called in the list."""
    try:
        name = run.experiment.name
    except (SpecError, OSError):
        name = "Unreadable experiment"
    begun = time.localtime((run.folder / "experiment.json").stat().st_mtime)
    # No "3 min ago": a choice is told by its words, and words that change would count as another choice.
    return f"{name}, {time.strftime('%d %b %H:%M', begun)}"


def chosen_run(
    runs: Sequence[Run], key: str, first: str = "", on_switch: Callable[[], None] = lambda: None, help: str = ""
) -> Run:
    """Draws the choice of a run, made to agree with the URL; returns the chosen one.

    Args:
        runs: at least one. key: of the widget. first: id of the run where the URL names none; "" the first of `runs`.
        on_switch: called when a person has chosen another, after the URL says so.
    """
    by_id = {run.id: run for run in runs}
    asked = st.query_params.get("run", "").split(",")[0]
    id = asked if asked in by_id else first or runs[0].id
    if st.query_params.get("run") != id:
        st.query_params["run"] = id
    if st.session_state.get(key) != id:
        st.session_state[key] = id

    def switch() -> None:
        if st.session_state[key] != st.query_params.get("run"):
            st.query_params["run"] = st.session_state[key]
            on_switch()

    st.selectbox(
        "Network",
        list(by_id),
        key=key,
        format_func=lambda i: name_of(by_id[i]),
        on_change=switch,
        help=help or None,
    )
    return by_id[id]
