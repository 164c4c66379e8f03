"""Short jobs from a page: submit, show progress in one flat fragment, hand back the result.

The job's id is kept under a slot name in the URL (and in the session for page switches): a reload finds the job again,
and the job itself needs no page at all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import streamlit as st

from builder.execute import executor, home
from builder.runs import Job, RunStore, RunView, StoreError
from pages.kit import address
from pages.kit.words import duration, plain

__all__ = ["forget", "keep_in_url", "of_slot", "result", "run_of", "submit", "watch"]

_PREFIX = "job-"
_UNSEEN = "job-unseen-"
"""Behind it the slot: the id of a job whose end this session has not drawn yet."""
_LOOK_S = 0.7


def submit(kind: str, payload: dict[str, Any], slot: str) -> Job:
    """Puts a short job into the queue, sees to it that somebody works, and remembers the job under `slot`.

    Raises:
        StoreError: the disk is full, or the service that works does not start; its text is a sentence for people.
    """
    where = home()
    job = RunStore(where).submit_job(kind, payload)
    st.session_state[_PREFIX + slot] = st.session_state[_UNSEEN + slot] = job.id
    address.put(_PREFIX + slot, job.id)
    executor(where).ensure()
    return job


def of_slot(slot: str) -> Job | None:
    """Returns the job that was submitted under `slot`, None where there is none (any more)."""
    id = address.get(_PREFIX + slot) or st.session_state.get(_PREFIX + slot)
    if not id:
        return None
    try:
        return RunStore(home()).job(id)
    except StoreError:
        forget(slot)
        return None


def forget(slot: str) -> None:
    """Empties the slot: its result has been used, or the person does not want to see it any more."""
    st.session_state.pop(_PREFIX + slot, None)
    st.session_state.pop(_UNSEEN + slot, None)
    address.drop(_PREFIX + slot)


def keep_in_url(slot: str) -> None:
    """Puts the slot's job back into the URL after a page switch: call it at the top of the page that shows the job."""
    id = st.session_state.get(_PREFIX + slot)
    if id and address.get(_PREFIX + slot) != id:
        address.put(_PREFIX + slot, id)


def result(slot: str) -> dict[str, Any] | None:
    """Returns the finished job's result; None while it works, when it failed, or when there is no job.

    Whatever it says, call `watch` below it: the job may end in between.
    """
    job = of_slot(slot)
    return job.result() if job is not None else None


def run_of(slot: str) -> str:
    """Returns the id of the run that the slot's job asks or has asked; "" where it does not say, or there is no job."""
    job = of_slot(slot)
    told = {} if job is None else job.payload or job.result() or {}
    return str(told.get("run") or "")


def watch(slot: str, title: str, on_forget: Callable[[], None] | None = None) -> RunView | None:
    """Draws how the slot's job is going and returns its view; None where the slot is empty.

    While it works, a fragment looks again every 0.7 s; at its end the whole page runs once more, also where it ends
    while the page is drawn: what stands above may have asked for the result a moment too early. A job that failed, was
    stopped or lost is shown with its reason and a button that clears it away and calls `on_forget`. Call it outside of
    any other fragment.
    """
    job = of_slot(slot)
    if job is None:
        return None
    view = job.view()
    if not view.active:
        if st.session_state.pop(_UNSEEN + slot, None) == job.id:
            st.rerun()
        if view.status != "done":
            _say_end(slot, view, on_forget)
        return view
    st.session_state[_UNSEEN + slot] = job.id
    looking = st.fragment(run_every=_LOOK_S, key=f"watch-{slot}")(_show)
    looking(slot, job, title)
    return view


def _show(slot: str, job: Job, title: str) -> None:
    view = job.view()
    if not view.active:
        st.session_state.pop(_UNSEEN + slot, None)
        st.rerun()
    with st.container(border=True, key=f"job-{slot}"):
        share = min(1.0, view.step / view.total) if view.total else 0.0
        counted = f" · {view.step:,} of {view.total:,}" if view.total else ""
        waiting = {"queued": "waiting for its turn", "starting": "starting", "restarting": "starting again"}
        state = waiting.get(view.status) or view.note
        st.progress(share, text=f"**{plain(title)}**{counted}{' · ' + plain(state) if state else ''}")
        with st.container(horizontal=True, vertical_alignment="center"):
            st.caption(f"{duration(view.seconds)} so far. You may leave this page; the work goes on.")
            if view.stopping:
                st.caption("Stopping ...")
            else:
                st.button("Stop", key=f"stop-{slot}", icon=":material/stop:", on_click=job.stop)
    for warning in view.warnings:
        st.caption(f":orange[:material/warning: {plain(warning)}]")


def _say_end(slot: str, view: RunView, on_forget: Callable[[], None] | None) -> None:
    words = {"stopped": "Stopped.", "lost": "Lost.", "failed": "This did not work."}.get(view.status, view.status)
    st.error(f"{words} {plain(view.reason)}", icon=":material/error:")
    st.button("Put away", key=f"forget-{slot}", on_click=_put_away, args=(slot, on_forget))


def _put_away(slot: str, on_forget: Callable[[], None] | None) -> None:
    forget(slot)
    if on_forget is not None:
        on_forget()
