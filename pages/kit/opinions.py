"""A second opinion: does a network that tells classes change its mind on the restored scan?"""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from builder.runs import Run, StoreError
from builder.spec import SpecError
from builder.task import TASKS, find
from pages.kit import answers, jobs, style
from pages.kit.answers import Answer
from pages.kit.words import plain

__all__ = ["SLOT", "draw", "judges"]

SLOT = "opinion"


def judges(runs: Sequence[Run]) -> dict[str, str]:
    """Returns {id: name} of the runs whose task tells classes."""
    found = {}
    for run in runs:
        try:
            experiment = run.experiment
        except (SpecError, OSError):
            continue
        if experiment.task in TASKS and "class" in find(experiment.task).learns:
            found[run.id] = experiment.name
    return found


def draw(answer: Answer, runs: Sequence[Run]) -> None:
    """Draws the choice of the other network, and what it says before and after; nothing where none tells classes."""
    there = judges(runs)
    if not there:
        return
    slot = f"{SLOT}-{answer.job}"
    with style.card("Does a diagnosis change its mind?", key="opinion"):
        st.caption(
            "Another network is asked about the scan as it was and as it is now: a good figure does not tell whether "
            "what it needs is still there."
        )
        with st.container(horizontal=True, vertical_alignment="bottom"):
            st.selectbox(
                "Network that tells classes", list(there), key="judge", format_func=lambda id: there[id], width=320
            )
            job = jobs.of_slot(slot)
            st.button(
                "Ask it",
                key="ask-opinion",
                icon=":material/forum:",
                disabled=job is not None and job.view().active,
                on_click=_ask,
                args=(answer, slot),
            )
        refused = st.session_state.pop("opinion-refused", "")
        if refused:
            st.error(plain(refused), icon=":material/error:")
        jobs.watch(slot, "Asking the other network")
        told = jobs.result(slot)
        if told is None:
            return
        colour, icon = ("orange", "warning") if told["changed"] else ("green", "check_circle")
        st.markdown(f":{colour}[:material/{icon}:] {plain(told['sentence'])}")
        one, two = st.columns(2, gap="medium")
        for place, words, name in ((one, "Before", "before"), (two, "After", "after")):
            with place:
                st.caption(words)
                answers.bars(told[name], told[f"top_{name}"], key=f"opinion-{name}")


def _ask(answer: Answer, slot: str) -> None:
    judge = st.session_state["judge"]  # as it is now: the button may be from before the last choice
    try:
        jobs.submit("opinion", {"job": answer.job, "judge": judge}, slot)
    except StoreError as error:
        st.session_state["opinion-refused"] = str(error)
