"""A scan on which a reader marks lesions: boxes or outlines drawn on the canvas, then beside those of the network."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import streamlit as st

from builder.data import Dataset
from builder.execute import home
from builder.labels import Box
from builder.reader import ALONE, BOXES, OUTLINES, Reading, ReadingRefused, Turn
from pages.kit import labelling, readings
from pages.kit.labelling import MASK, Marks, Naming
from pages.kit.marks import Work
from pages.kit.viewer import colour_of
from pages.kit.words import amount

__all__ = ["draw"]

_KEY = "reading-marks"
_HEIGHT = 300


def draw(reading: Reading, name: str, turn: Turn, since: float) -> None:
    """The canvas with what the reader has marked so far, and the button that answers."""
    dataset = Dataset.open(home(), reading.dataset)
    index = turn.case.index
    if index >= len(dataset) or dataset.imported[index].id != turn.case.id:
        st.error("This scan is no longer in the data set.", icon=":material/error:")
        return
    kind = labelling.BOXES if reading.kind == BOXES else MASK
    taken = f"reading-taken-{reading.id}-{name}-{turn.case.id}"
    work = labelling.edit(
        dataset.scan(index),
        _beginning(reading, name, turn, bool(st.session_state.get(taken))),
        id=f"{reading.id}-{name}-{turn.case.id}-{turn.stage}-{st.session_state.get(taken, 0)}",
        key=_KEY,
        names=Naming(reading.classes, reading.classes),
        on_change=lambda marks, changed: None,  # it is kept by its button, all at once
        kinds=(kind,),
        aside=lambda _: _told(reading, dataset, turn, taken),
    )
    marks = work.marks
    num = len(_plain(reading, marks)) if kind == labelling.BOXES else int(marks.mask is not None and marks.mask.any())
    some = amount(num, "box", "boxes") if kind == labelling.BOXES else "this outline"
    with st.container(horizontal=True):
        st.button(
            f"Answer with {some}" if num else "Answer: there is nothing to mark",
            key="say-marks", type="primary", icon=":material/check:", on_click=_say,
            args=(reading, name, turn, work, since),
        )  # fmt: skip
        st.button("Pause", key="leave-reading", icon=":material/pause:", type="tertiary", on_click=readings.leave)


def _told(reading: Reading, dataset: Dataset, turn: Turn, taken: str) -> None:
    """What is asked, and in the second round what the network marks."""
    if turn.stage == ALONE:
        what = "Box" if reading.kind == BOXES else "Outline"
        st.markdown(f"**{what} every lesion that you see**")
        st.caption("You see neither the label nor what the network marks.")
        if 1 <= len(turn.case.slices) < turn.case.shape[0]:
            numbers = ", ".join(str(k + 1) for k in turn.case.slices)
            st.caption(f"What counts is slice {numbers}: the network saw no other.")
        return
    from scanloom_components import Box as Shown
    from scanloom_components import Layer, viewer

    from pages.kit import volumes

    found = turn.case.model
    st.markdown(f"**The network marks {amount(len(found), 'place') if found else 'nothing'}**")
    scores = turn.case.probabilities if len(turn.case.probabilities) == len(found) else [None] * len(found)
    boxes, layers = [], []
    if reading.kind == OUTLINES and found:
        number = reading.cases.index(turn.case)
        url = volumes.of_reading(reading.run, reading.id, number)
        colours = (colour_of(0),)
        layers = [Layer(f"{reading.run}-{reading.id}-{number}", url, "mask", "Outline", reading.classes, colours)]
    elif found:
        boxes = [
            Shown(x0, y0, x1, y1, reading.classes[label], colour_of(label), slice, score, dashed=True)
            for (x0, y0, x1, y1, label, slice), score in zip(found, scores, strict=True)
        ]
    at = found[0][5] if found else None  # where the first of its marks lies
    content = dataset.imported[turn.case.index].content
    viewer(
        f"{dataset.id}-{turn.case.index}-{content}", volumes.of_case(dataset, turn.case.index), key="reading-network",
        label="What the network marks", boxes=boxes, layers=layers, height=_HEIGHT, slice=at,
    )  # fmt: skip
    st.caption("Keep your answer on the canvas, or change it. The network may be wrong, and so may you.")
    if found and not st.session_state.get(taken):
        st.button(
            "Add its marks to mine", key="take-marks", icon=":material/add:", on_click=_take, args=(taken,),
            help="The canvas begins anew with your first answer and these: what you have changed since is left out.",
        )  # fmt: skip


def _take(taken: str) -> None:
    st.session_state[taken] = 1


def _beginning(reading: Reading, name: str, turn: Turn, taken: bool) -> Marks:
    """What is on the canvas at first: nothing, then the reader's own first answer, with the network's where asked."""
    if turn.stage == ALONE:
        return Marks()
    mine = reading.answers()[name]
    if reading.kind == BOXES:
        found = [*mine.said[ALONE][turn.case.id], *(turn.case.model if taken else ())]
        return Marks(tuple(Box(*mark) for mark in found))
    mask = mine.outline(ALONE, turn.case).copy()
    if taken:
        mask = np.maximum(mask, turn.case.outlined())
    return Marks(None, mask)


def _plain(reading: Reading, marks: Marks) -> tuple[Any, ...]:
    return tuple((box.x0, box.y0, box.x1, box.y1, box.label, box.slice) for box in marks.boxes or ())


def _say(reading: Reading, name: str, turn: Turn, work: Work, since: float) -> None:
    labelling.drawn(_KEY)  # the button may be from before the last stroke, and an answer is never taken back
    marks = work.marks
    took = time.monotonic() - since
    try:
        if reading.kind == BOXES:
            reading.say(name, turn.case.id, turn.stage, _plain(reading, marks), took)
        else:
            reading.outline(name, turn.case.id, turn.stage, marks.mask, took)
    except (ReadingRefused, OSError) as error:
        st.session_state["reading-refused"] = str(error)
