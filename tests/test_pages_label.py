"""The Label tab as a browser session would run it: what is to do, classes by button, negatives, and who said so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import streamlit as st
from made_files import imported, picture
from streamlit.testing.v1 import AppTest
from test_pages_shell import no_supervisor, opened, parameter, said, tab  # noqa: F401 (a fixture)

from builder.data import Dataset
from builder.fingerprint import Fingerprint
from builder.labels import Box, name_classes, record
from pages.kit import annotating
from pages.kit.datasets import balances, words
from pages.kit.marks import BOXES, MASK, Marks


@pytest.fixture
def cells(home: Path, tmp_path: Path) -> Dataset:
    """Four pictures without labels."""
    for n in range(4):
        picture(tmp_path / "in" / f"{n}.png", n)
    return imported(tmp_path / "in", home)[1]


def label_tab(dataset: Dataset, what: str, **parameters: str) -> AppTest:
    session = tab(opened("data", dataset=dataset.id, **parameters), dataset.id, "Label")
    choice = next(control for control in session.button_group if control.key == f"label-what-{dataset.id}")
    choice.set_value(what).run()
    assert not session.exception, session.exception
    return session


def newest(dataset: Dataset) -> Dataset:
    return Dataset.open(dataset.home, dataset.id)


def press(session: AppTest, key: str) -> None:
    session.button(key=key).click().run()
    assert not session.exception, session.exception


def test_a_scan_gets_its_class_by_a_button_and_progress_is_told(cells: Dataset) -> None:
    name_classes(cells, classes=["clear", "infected"])
    session = label_tab(cells, "class")
    assert "0 of 4 scans labelled with a class" in progress(session)
    assert "Not labelled yet" in said(session)
    session.text_input(key="label-who").set_value("AB").run()
    press(session, "label-class-1")
    assert "1 of 4 scans labelled with a class" in progress(session)
    known = newest(cells)
    assert known.labels.tolist() == [1, -1, -1, -1]
    assert known.history(0)[-1].who == "AB"
    assert "by AB" in said(session) and parameter(session, "who") == "AB"
    somebody_else = label_tab(cells, "class")
    assert somebody_else.text_input(key="label-who").value == "", "who labelled last may be anybody"
    assert label_tab(cells, "class", who="AB").text_input(key="label-who").value == "AB", "a reload is the same person"
    session.switch_page("test.py").run()
    assert session.session_state["label-who-kept"] == "AB", "corrections on other pages are theirs, too"
    session = label_tab(cells, "class", who="AB")
    press(session, "label-go-U")
    assert "Scan c000001" in said(session)
    press(session, "label-go-P")
    press(session, "label-clear-class")
    assert newest(cells).labels.tolist() == [-1, -1, -1, -1]


def progress(session: AppTest) -> str:
    return str(session.get("progress")[0].proto.text)


def test_a_new_class_is_named_on_the_spot(cells: Dataset) -> None:
    session = label_tab(cells, "class")
    assert "No class has a name yet" in said(session)
    session.text_input(key="label-new-class-name").set_value("  infected ").run()
    assert newest(cells).classes == ("infected",)
    press(session, "label-class-0")
    assert newest(cells).labels.tolist() == [0, -1, -1, -1]


def test_boxes_want_a_class_first_and_a_negative_is_one_click(cells: Dataset) -> None:
    session = label_tab(cells, "boxes")
    assert "Name a class first" in "".join(element.value for element in session.info)
    assert not session.main.get("bidi_component")
    session.text_input(key="label-name-boxes").set_value("cell").run()
    there = [element.key for element in session.main.get("bidi_component")]
    assert there == ["label-canvas", "label-hand"], "now there is a canvas to draw on"
    press(session, "label-nothing-boxes")
    assert newest(cells).boxes(0) == ()
    assert session.button(key="label-nothing-boxes").disabled
    press(session, "label-undo")
    assert newest(cells).boxes(0) is None
    press(session, "label-nothing-boxes")
    press(session, "label-clear-boxes")
    assert newest(cells).boxes(0) is None
    assert [edit.origin for edit in newest(cells).history(0)] == ["drawn", "cleared", "drawn", "cleared"]


def test_only_what_is_still_to_do_is_gone_through(cells: Dataset) -> None:
    name_classes(cells, structures=["tumour"])
    record(cells, 1, mask=(cells.scan(1).pixels[:, 0] * 0).astype("uint8"))
    session = label_tab(cells, "mask")
    assert "1 of 4 scans labelled with outlines" in progress(session)
    show = next(control for control in session.button_group if control.key == "label-show")
    show.set_value("open").run()
    press(session, "label-go-N")
    assert "Scan c000002" in said(session), "the second scan is labelled already"
    press(session, "label-nothing-mask")
    mask = newest(cells).mask(2)
    assert mask is not None and not mask.any()
    assert "Scan c000002" in said(session), "it stays until one goes on"


def test_what_somebody_else_says_meanwhile_is_seen_and_not_drawn_over(cells: Dataset) -> None:
    name_classes(cells, classes=["cell"])
    session = label_tab(cells, "boxes")
    press(session, "label-nothing-boxes")
    record(newest(cells), 0, clear=("boxes",), who="CD", origin="cleared")
    session.run()
    assert "by CD" in said(session)
    assert not session.button(key="label-nothing-boxes").disabled
    assert session.button(key="label-undo").disabled, "there is nothing of one's own left to take back"


def test_two_people_who_draw_at_the_same_time_both_keep_their_boxes(
    cells: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(st, "session_state", {})
    name_classes(cells, classes=["cell"])
    old, mine, theirs = (Box(n, n, n + 9, n + 9, 0) for n in (1, 5, 9))
    record(cells, 0, boxes=[old])
    assert annotating._version(cells, 0) == 0
    record(newest(cells), 0, boxes=[old, theirs], who="CD")
    annotating._changed(cells, 0, Marks(boxes=(old, mine)), BOXES)
    assert newest(cells).boxes(0) == (old, theirs, mine)
    assert annotating._version(cells, 0) == 1, "the canvas has to show theirs"
    annotating._changed(cells, 0, Marks(boxes=(theirs, mine)), BOXES)
    assert newest(cells).boxes(0) == (theirs, mine) and annotating._version(cells, 0) == 1


def test_strokes_that_wait_are_stored_wherever_one_goes_on(
    cells: Dataset, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(st, "session_state", {})
    monkeypatch.setattr(annotating, "_AT_ONCE", 10)
    name_classes(cells, structures=["tumour"])
    picture(tmp_path / "other" / "0.png", 9)
    other = imported(tmp_path / "other", home, name="other")[1]
    mask = np.zeros((1, *cells.cases[0].shape[2:]), np.uint8)
    mask[0, 3:9, 4:12] = 1

    def stored(index: int) -> bool:
        found = newest(cells).mask(index)
        return found is not None and np.array_equal(found, mask)

    annotating._version(cells, 0)
    annotating._changed(cells, 0, Marks(mask=mask), MASK)
    assert not stored(0) and annotating.WAITING in st.session_state
    annotating._changed(cells, 1, Marks(mask=mask), MASK)
    assert stored(0) and not stored(1), "a late stroke on another scan"
    annotating.store_waiting(other)
    assert stored(1) and annotating.WAITING not in st.session_state, "another data set is on the page"
    annotating._version(cells, 2)
    annotating._changed(cells, 2, Marks(mask=mask), MASK)
    theirs = 0 * mask
    theirs[0, 20, 20] = 1
    record(newest(cells), 2, mask=theirs, who="CD")
    cells.refresh()
    assert annotating._version(cells, 2) == 1
    found = newest(cells).mask(2)
    assert found is not None and np.array_equal(found, np.maximum(mask, theirs))


def test_strokes_that_wait_are_stored_when_another_page_is_opened(cells: Dataset) -> None:
    name_classes(cells, structures=["tumour"])
    session = label_tab(cells, "mask")
    mask = np.ones((1, *cells.cases[0].shape[2:]), np.uint8)
    session.session_state[annotating.WAITING] = (cells.id, 0, mask)
    session.switch_page("training.py").run()
    assert not session.exception, session.exception
    found = newest(cells).mask(0)
    assert found is not None and found.all() and annotating.WAITING not in session.session_state


def test_each_kind_of_label_is_counted_by_itself() -> None:
    facts = Fingerprint(
        classes=("cell", "clot"),
        class_counts={"train": {"cell": 0}},  # no scan has a class, as with imported boxes
        box_counts={"train": {"cell": 9, "clot": 2}, "test": {"cell": 3}},
        mask_names=("tumour",),
        mask_counts={"val": {"tumour": 1}},
    )
    assert balances(facts) == {
        "Boxes": {
            "cell": {"Training": 9, "Validation": 0, "Test": 3},
            "clot": {"Training": 2, "Validation": 0, "Test": 0},
        },
        "Scans that show it": {"tumour": {"Training": 0, "Validation": 1, "Test": 0}},
    }
    assert balances(Fingerprint(classes=("a",))) == {}


def test_the_size_of_a_pixel_is_told_width_first_as_the_size_of_a_scan_is() -> None:
    spacing = {name: (None, 2.0, 1.0) for name in ("min", "median", "max")}
    told = words(Fingerprint(num_cases=1, sizes={name: (64, 128) for name in spacing}, spacing_mm=spacing))
    assert "All are 128 × 64 pixels." in told and "A pixel is about 1.00 × 2.00 mm." in told
