"""The page of blind readings: nothing of the label or the network before the first answer, and all of it at the end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest
from test_pages_build import no_supervisor  # noqa: F401 (a fixture)

from builder import reader
from builder.runs import Run
from pages.kit import trained
from tests.little_run import little
from tests.test_pages_shell import opened, said, title_of
from tests.tiny_runs import tiny_run


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Run]]:
    home = tmp_path_factory.mktemp("read") / "home"
    _, run = little(home)
    yield home, run


def pressed(session: AppTest, key: str) -> AppTest:
    return next(button for button in session.button if button.key == key).click().run()


def test_a_reader_answers_blind_then_sees_the_network_and_in_the_end_what_it_came_to(
    learned: tuple[Path, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, run = learned
    monkeypatch.setenv("SCANLOOM_HOME", str(home))
    session = opened("reader", run=run.id)
    assert title_of(session) == "Who is right?" and "There is none yet" in said(session)
    reading = reader.begin(run, home, "val", num=2, seed=4)
    session = opened("reader", run=run.id, reading=reading.id)
    session.text_input(key="reader-code").input("A/B")
    session = next(b for b in session.button if b.label == "Begin").click().run()
    assert "initials or a code" in session.error[0].value and not reading.answers()
    session.text_input(key="reader-code").input("M.K.")
    session = next(b for b in session.button if b.label == "Begin").click().run()
    for number in range(2):
        turn = reading.turn("M.K.")
        assert turn is not None and turn.done == number
        before = said(session)
        assert "The network says" not in before and not session.get("plotly_chart"), "blind until the first answer"
        session = pressed(session, "say-1")
        assert f"You said **{reading.classes[1]}**" in said(session) and "The network says" in said(session)
        session = pressed(session, "say-1" if number else "say-0")
    assert not session.exception
    assert "What it came to" in said(session) and "The reader with the network" in said(session)
    answers = reading.answers()["M.K."].said
    order = [case.id for case in reading.order("M.K.")]
    assert [answers[reader.ALONE][id] for id in order] == [(1,), (1,)]
    assert [answers[reader.BOTH][id] for id in order] == [(0,), (1,)]
    resumed = opened("reader", run=run.id, reading=reading.id, reader="M.K.")
    assert "What it came to" in said(resumed) and not resumed.exception


def test_a_reader_of_boxes_sees_those_of_the_network_after_their_own_and_both_are_counted(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path_factory.mktemp("boxes") / "home"
    _, run = tiny_run(home, "lesion_detection", home.parent / "scans")
    monkeypatch.setenv("SCANLOOM_HOME", str(home))
    reading = reader.begin(run, home, "val", num=1)
    assert reading.kind == reader.BOXES and reading.cases[0].shape
    reading.join("MK", home)
    session = opened("reader", run=run.id, reading=reading.id, reader="MK")
    before = said(session)
    assert "every lesion that you see" in before and "The network marks" not in before and not session.exception
    session = pressed(session, "say-marks")
    assert "The network marks" in said(session) and not session.exception
    case = reading.cases[0]
    if case.model:
        session = pressed(session, "take-marks")
    session = pressed(session, "say-marks")
    assert "What it came to" in said(session) and "false alarms came in" in said(session) and not session.exception
    answers = reading.answers()["MK"].said
    assert answers[reader.ALONE][case.id] == () and len(answers[reader.BOTH][case.id]) == len(case.model)


def test_two_runs_of_one_name_and_minute_are_told_apart_in_the_list(
    learned: tuple[Path, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, _ = learned
    monkeypatch.setattr(trained, "name_of", lambda run: "seeds, 26 Nov 19:12" if run.id < "20270101" else "another")
    runs = [Run(home, f"{day}-191200-00000{k}") for k, day in enumerate(("20261126", "20261126", "20270102"))]
    assert list(trained.names_of(runs).values()) == [
        "seeds, 26 Nov 19:12 (000000)",
        "seeds, 26 Nov 19:12 (000001)",
        "another",
    ]
