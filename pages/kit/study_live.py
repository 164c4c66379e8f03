"""A search while it runs and afterwards: how it stands, and what can be done with it."""

from __future__ import annotations

import time
from collections import Counter

import streamlit as st

from builder.search.studies import Study, StudyView
from pages.kit import address, go, study_worth, style
from pages.kit.pairs import band
from pages.kit.study_bin import confirm_delete
from pages.kit.study_list import NEW, begun, view_of
from pages.kit.study_pictures import MANY, Picture
from pages.kit.study_trials import attempt, best, table
from pages.kit.study_words import experiment_of
from pages.kit.words import ago, amount, duration, plain

__all__ = ["heading", "page"]

_LOOK_S = 1.5
_REST_S, _LONG_REST_S = 2.5, 10.0  # between two drawings of the whole page, with few trials and with many
_COUNTED = {
    "done": "Done",
    "running": "Running",
    "pruned": "Ended early",
    "refused": "Over a limit",
    "failed": "Failed",
    "stopped": "Stopped",
}


def standing(view: StudyView) -> tuple[object, ...]:
    """What is drawn outside the live parts: when it changes the whole page is drawn anew."""
    return view.status, view.stopping, view.wanted, len(view.trials), sum(trial.ended for trial in view.trials)


def heading(study: Study) -> None:
    """The title, and what can be done with the search."""
    view = view_of(study)
    task = experiment_of(study).task.replace("_", " ")
    with style.heading(plain(view.name), f"A search · {plain(task)} · begun {ago(begun(study))}"):
        actions(study, view)


def actions(study: Study, view: StudyView) -> None:
    """Stop, or go on; more trials; anew with other choices; delete."""
    over = view.trained >= view.wanted
    if view.active:
        st.button(
            "Stopping ..." if view.stopping else "Stop",
            key="stop-search",
            icon=":material/stop:",
            help="Running trials save their state; Go on lets them continue from there.",
            disabled=view.stopping,
            on_click=attempt,
            args=(study.stop,),
        )
    elif not over or view.status != "done":
        st.button(
            "Go on",
            key="resume-search",
            type="primary",
            icon=":material/play_arrow:",
            on_click=attempt,
            args=(study.resume,),
        )
    with st.popover("More trials", icon=":material/add:", key="extend-search"):
        st.number_input("How many more", 1, 10_000, 10, key="extend-by")
        st.button("Add them", key="extend-now", type="primary", on_click=extend, args=(study,))
    with st.popover("More", icon=":material/more_horiz:"):
        st.button(
            "Open as an experiment",
            key="open-search",
            icon=":material/edit:",
            width="stretch",
            help="A new draft with the same choices open: to search anew with other ranges or another strategy.",
            on_click=reopen,
            args=(study,),
        )
        if st.button(
            "Delete",
            key="delete-search",
            icon=":material/delete:",
            width="stretch",
            disabled=view.active,
            help="Stop it first." if view.active else None,
        ):
            confirm_delete(study)


def reopen(study: Study) -> None:
    """Opens the document of a search as a draft, to search anew."""
    experiment = experiment_of(study)
    go.begin(experiment, words=f"opened from the search {experiment.name}")
    address.put("study", NEW)


def extend(study: Study) -> None:
    """Adds trials; a search that has ended goes on."""
    number = int(st.session_state["extend-by"])
    attempt(lambda: study.extend(number))


def page(study: Study) -> None:
    """How the search stands, live; below it what is drawn anew only when a trial has begun or ended.

    A browser takes long to draw a thousand trials: it is not asked to while nothing has changed, and then for the
    picture and for the rest of the page at different times.
    """
    view = view_of(study)
    refused = st.session_state.pop("study-refused", "")
    if refused:
        st.error(plain(refused), icon=":material/error:")
    drawn_at, picture = time.monotonic(), Picture.of(study)
    every = _LOOK_S if view.active else None
    st.fragment(run_every=every, key="live-study")(live)(study, standing(view), drawn_at, picture)
    with st.container(key="study-winner"):
        best(study, view)
    picture.show(view)
    study_worth.cards(study)
    table(study, view)


def live(study: Study, drawn: tuple[object, ...], drawn_at: float, picture: Picture) -> None:
    """How the search stands; asks for the whole page where what is below is out of date."""
    view = view_of(study)
    now = standing(view)
    pause_s = _REST_S if len(view.trials) < MANY else _LONG_REST_S
    if now[:2] != drawn[:2] or (now != drawn and time.monotonic() - drawn_at >= pause_s and picture.rests()):
        st.rerun()
    state(view)


def state(view: StudyView) -> None:
    """How the search stands, in words and numbers."""
    counts = Counter(trial.status for trial in view.trials)
    over = sum(trial.ended and trial.status != "refused" for trial in view.trials)
    told = [f"{over:,} of {amount(view.wanted, 'trial')}"]
    if counts["running"]:
        told.append(f"{counts['running']} running")
    if view.active:
        word = "Stopping: running trials save their state" if view.stopping else _ACTIVE.get(view.status, view.status)
        st.progress(min(1.0, over / view.wanted) if view.wanted else 0.0, text=f"**{word}** · {' · '.join(told)}")
        if view.reason:
            st.caption(plain(view.reason))
    elif view.status == "done":
        st.success(plain(view.reason) or f"Done: {told[0]}.", icon=":material/check_circle:")
    elif view.status == "stopped":
        st.info(f"Stopped after {told[0]}. {plain(view.reason)}", icon=":material/stop_circle:")
    else:
        word = "Interrupted" if view.status == "interrupted" else "It did not work"
        kept = "What was found is kept: press Go on, and nothing is counted twice."
        st.error(f"**{word}** after {told[0]}. {plain(view.reason)} {kept}", icon=":material/error:")
    numbers(view, counts)


_ACTIVE = {"queued": "Waiting for its turn", "starting": "Starting", "running": "Running", "restarting": "Going on"}


def numbers(view: StudyView, counts: Counter[str]) -> None:
    """The search in a few figures."""
    rows = [(words, f"{counts[status]:,}") for status, words in _COUNTED.items() if counts[status]]
    if not view.active:
        rows = [("Not over" if words == "Running" else words, value) for words, value in rows]
    if counts["pruned"]:
        rows.append(("Epochs spared", f"{view.epochs_spared:.0%}"))
    if view.seconds >= 1:
        rows.append(("Time", duration(view.seconds)))
    if rows:
        band(rows)
