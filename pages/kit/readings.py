"""Readings of a run: a new one is begun, one is chosen, a reader says who they are."""

from __future__ import annotations

import time
from collections.abc import Sequence

import streamlit as st

from builder.data import Dataset, UnknownDataset
from builder.execute import home
from builder.reader import Reading, ReadingRefused, kinds_of
from builder.runs import Run, StoreError
from pages.kit import address, jobs, style
from pages.kit.words import amount, plain

__all__ = ["READER", "READING", "SLOT", "begun", "chosen", "join", "offer"]

SLOT, READING, READER = "reading", "reading", "reader"  # of the job; in the URL
SIDES = {"val": "Validation scans", "test": "Test scans"}
KIND_WORDS = {"classes": "A class", "boxes": "Boxes around lesions", "outlines": "Outlines of lesions"}
_ALL = 0
_ANSWERS = {"classes": "by class", "boxes": "by boxes", "outlines": "by outlines"}
_NUMBERS = (20, 50, 100, _ALL)


def begun(run: Run) -> None:
    """Goes to the reading that has just been made ready."""
    result = jobs.result(SLOT)
    if result is not None:
        jobs.forget(SLOT)
        if result["run"] == run.id:
            address.put(READING, result["reading"])
        st.rerun()


def chosen(found: Sequence[Reading]) -> Reading | None:
    """The reading that the URL names."""
    asked = address.get(READING)
    return next((reading for reading in found if reading.id == asked), None)


def offer(run: Run, found: Sequence[Reading]) -> None:
    """The readings that are there, and a new one."""
    left, right = st.columns([1, 1], gap="medium")
    with left, style.card("A new reading", key="new-reading"):
        st.caption(
            "Readers see one scan after the other without its label and without the network's answer, and answer. Then "
            "they see what the network says, and keep their answer or change it. In the end readers, network, and "
            "readers with the network are compared, with intervals."
        )
        side = st.segmented_control(
            "Which scans", list(SIDES), default="val", required=True, format_func=SIDES.__getitem__, key="reading-side"
        )
        st.segmented_control(
            "How many", _NUMBERS, default=50, required=True, key="reading-num",
            format_func=lambda num: str(num) if num else "All",
            help="Drawn by chance, the classes as evenly as there are scans: accuracy is then that of such a mixture.",
        )  # fmt: skip
        if side == "test":
            st.caption(
                ":orange[:material/warning: Each reader who begins counts as one opening of the test side: choose "
                "nothing about the network by what comes out.]"
            )
        else:
            st.caption(
                ":material/info: The network's best epoch was chosen on the validation scans, which flatters it a "
                "little; the test scans do not."
            )
        kind = _kind(run)
        job = jobs.of_slot(SLOT)
        st.button(
            "Prepare it",
            key="begin-reading",
            type="primary",
            icon=":material/play_arrow:",
            disabled=job is not None and job.view().active,
            on_click=_submit,
            args=(run, kind),
        )
        if refused := st.session_state.pop("reading-refused", ""):
            st.error(plain(refused), icon=":material/error:")
    with right, style.card("Readings of this network", key="readings"):
        if not found:
            st.caption("There is none yet.")
        for reading in reversed(found):
            _row(reading)


def _row(reading: Reading) -> None:
    told = reading.answers()
    day = time.strftime("%d %b %H:%M", time.localtime(reading.begun_at))
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        st.markdown(
            f"**{SIDES[reading.split]}**, {amount(len(reading.cases), 'scan')}, {_ANSWERS[reading.kind]}, {day}  \n"
            + (f"Readers: {plain(', '.join(sorted(told)))}" if told else "Nobody has begun")
        )
        st.button(
            "Open", key=f"open-reading-{reading.id}", icon=":material/arrow_forward:", on_click=_open, args=(reading,)
        )


def _open(reading: Reading) -> None:
    address.put(READING, reading.id)


def _kind(run: Run) -> str:
    """How readers answer: drawn where there is a choice."""
    try:
        dataset = Dataset.open(home(), run.experiment.data.dataset)
    except (UnknownDataset, OSError, ValueError):
        return ""
    kinds = kinds_of(run.experiment.task, len(dataset.classes))
    if len(kinds) == 1:
        return kinds[0]
    return str(
        st.segmented_control(
            "Readers answer with", kinds, default=kinds[0], required=True, key="reading-kind",
            format_func=KIND_WORDS.__getitem__,
        )
    )  # fmt: skip


def _submit(run: Run, kind: str) -> None:
    side, num = st.session_state["reading-side"], st.session_state["reading-num"]  # as they are now, not when drawn
    kind = st.session_state.get("reading-kind", kind)  # there only where there is a choice
    seed = int(time.time()) % 100_000  # kept in the reading: another one draws other scans
    try:
        jobs.submit("reading", {"run": run.id, "split": side, "num": num, "seed": seed, "kind": kind}, SLOT)
    except StoreError as error:
        st.session_state["reading-refused"] = str(error)


def join(reading: Reading) -> str:
    """Who reads, as the URL or the form says; "" until somebody has said so."""
    asked = address.get(READER)
    if asked and asked in reading.answers():
        return asked
    with style.card("Who reads?", key="who-reads"):
        st.caption(
            f"{SIDES[reading.split]}, {amount(len(reading.cases), 'scan')}. Every reader meets them in an order of "
            "their own. A first answer cannot be taken back. Come back at any time with the same code to go on."
        )
        with st.form("join", border=False):
            typed = st.text_input(
                "Your initials or a code", key="reader-code", max_chars=24, width=260, help="No full name: it is kept."
            )
            sent = st.form_submit_button("Begin", type="primary", icon=":material/play_arrow:")
        st.button("Other readings", key="other-readings", icon=":material/arrow_back:", on_click=leave)
        if sent:
            try:
                address.put(READER, reading.join(typed, home()))
            except (ReadingRefused, StoreError, ValueError, OSError) as error:
                st.error(plain(str(error)), icon=":material/error:")
            else:
                st.rerun()
    return ""


def leave() -> None:
    """Back to the list of readings."""
    for name in (READING, READER):
        address.drop(name)
