"""One scan after the other, read blind: the reader's answer, then the network's, then the reader's last word."""

from __future__ import annotations

import time

import streamlit as st

from builder.data import Dataset
from builder.execute import home
from builder.reader import ALONE, CLASSES, Reading, ReadingRefused, Turn
from pages.kit import answers, reading_marks, readings, style, volumes
from pages.kit.words import plain

__all__ = ["draw"]

_HEIGHT = 560
_PICKED = "reading-picked"  # of a scan that may show several classes


def draw(reading: Reading, name: str, turn: Turn) -> None:
    """The scan whose turn it is and what can be said of it; nothing on the screen tells its label."""
    clock = f"reading-since-{reading.id}-{name}-{turn.case.id}-{turn.stage}"
    since = st.session_state.setdefault(clock, time.monotonic())
    st.progress(turn.done / turn.of, text=f"Scan {turn.done + 1:,} of {turn.of:,}, read by {plain(name)}")
    if said := st.session_state.pop("reading-refused", ""):
        st.error(plain(said), icon=":material/error:")
    if reading.kind != CLASSES:
        reading_marks.draw(reading, name, turn, since)
        return
    left, right = st.columns([1.9, 1], gap="medium")
    with left:
        _scan(reading, turn)
    with right, style.card("What is it?" if turn.stage == ALONE else "And now?", key="reading-answer"):
        if turn.stage == ALONE:
            st.caption("You see neither the label nor what the network says. Keys: 1, 2, 3, ...")
        else:
            _model(reading, name, turn)
        if reading.multi_label:
            _several(reading, name, turn, since)
        else:
            _one(reading, name, turn, since)
        st.button("Pause", key="leave-reading", icon=":material/pause:", type="tertiary", on_click=readings.leave)


def _scan(reading: Reading, turn: Turn) -> None:
    from scanloom_components import viewer

    dataset = Dataset.open(home(), reading.dataset)
    index = turn.case.index
    if index >= len(dataset) or dataset.imported[index].id != turn.case.id:
        st.error("This scan is no longer in the data set.", icon=":material/error:")
        return
    viewer(  # the scan alone: no boxes, no mask, no name
        f"{dataset.id}-{index}-{dataset.imported[index].content}",
        volumes.of_case(dataset, index),
        key="reading-scan",
        label=f"Scan {turn.done + 1}",
        height=_HEIGHT,
    )


def _model(reading: Reading, name: str, turn: Turn) -> None:
    """What the network says, beside what the reader said."""
    first = reading.answers()[name].said[ALONE][turn.case.id]
    st.markdown(f"You said **{_named(reading, first)}**. The network says **{_named(reading, turn.case.model)}**:")
    chances = dict(zip(reading.classes, turn.case.probabilities, strict=True))
    top = reading.classes[turn.case.model[0]] if turn.case.model else ""
    answers.bars(chances, top, key=f"reading-bars-{turn.case.id}")
    if turn.case.silent:
        st.caption(f":material/help: On its terms it would say that it does not know. {plain(turn.case.silent)}")
    st.caption("Keep your answer, or change it. It may be wrong, and so may you.")


def _named(reading: Reading, picked: tuple[int, ...]) -> str:
    return plain(", ".join(reading.classes[k] for k in picked)) if picked else "none of them"


def _one(reading: Reading, name: str, turn: Turn, since: float) -> None:
    """A button a class; one press answers."""
    first = () if turn.stage == ALONE else reading.answers()[name].said[ALONE][turn.case.id]
    with st.container(gap="xsmall"):
        for number, words in enumerate(reading.classes):
            kept = number in first
            st.button(
                f"Keep {plain(words)}" if kept else plain(words),
                key=f"say-{number}",
                type="primary" if kept else "secondary",
                shortcut=str(number + 1) if number < 9 else None,
                width="stretch",
                on_click=_say,
                args=(reading, name, turn, (number,), since),
            )


def _several(reading: Reading, name: str, turn: Turn, since: float) -> None:
    """Classes to be picked, and a button that answers."""
    key = f"{_PICKED}-{turn.case.id}-{turn.stage}"
    first = () if turn.stage == ALONE else reading.answers()[name].said[ALONE][turn.case.id]
    st.pills(
        "All that it shows; none if it shows none",
        list(range(len(reading.classes))),
        selection_mode="multi",
        default=list(first),
        format_func=lambda k: plain(reading.classes[k]),
        key=key,
    )
    st.button(
        "Answer", key="say-all", type="primary", icon=":material/check:", shortcut="Enter", on_click=_say_all,
        args=(reading, name, turn, key, since),
    )  # fmt: skip


def _say_all(reading: Reading, name: str, turn: Turn, key: str, since: float) -> None:
    """Answers with what is picked now: the button may be from before the last pick."""
    _say(reading, name, turn, tuple(st.session_state[key] or ()), since)


def _say(reading: Reading, name: str, turn: Turn, picked: tuple[int, ...], since: float) -> None:
    try:
        reading.say(name, turn.case.id, turn.stage, picked, time.monotonic() - since)
    except (ReadingRefused, OSError) as error:
        st.session_state["reading-refused"] = str(error)
