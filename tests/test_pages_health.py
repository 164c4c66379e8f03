"""The card that looks inside the layers of a run: findings in words, cures that start or open, the map."""

from __future__ import annotations

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest
from test_pages_shell import no_supervisor, opened, said  # noqa: F401 (a fixture)

from builder.runs import EpochEnded, Event, Finished, Probed, Progress, Record, Run, RunStore, Started
from builder.spec import Choice
from pages.kit.draft import Draft
from pages.kit.health import _ends
from tests.test_train import PLAIN, experiment


def ran(home: Path, *events: Event, lr: float = 1.0) -> Run:
    """A run of the past with this record."""
    document = experiment(PLAIN, optimizer=Choice(name="adamw", params={"lr": lr})).replace("name", "Ill")
    run = RunStore(home).create(document)
    with Record(run.folder / "events.jsonl") as record:
        for event in (Started(), *events, Finished("done", "All 3 epochs are done.")):
            record.append(event)
    run.marker.unlink()
    return run


def look(step: int, update: float) -> Probed:
    layers: dict[str, dict[str, float]] = {n.id: {"std": 1.0, "flow": 0.1 / step} for n in PLAIN}
    for id in ("conv", "conv_b", "head"):
        layers[id] |= {"gradient": 1.0 / step, "update": update}
    return Probed(step, 1, layers)


def told(update: float) -> list[Event]:
    looks = [look(step, update) for step in (1, 2, 3, 4, 6)]
    return [Progress(1, 6, 1, {"step/loss": 0.7}), *looks, EpochEnded(1, 6, {"train/loss": 9.0})]


def texts(session: AppTest) -> str:
    return said(session)


def test_an_ill_run_is_told_with_its_cures_and_one_press_starts_the_first(home: Path) -> None:
    run = ran(home, *told(0.8))
    session = opened("runs", run=run.id)
    assert "The learning rate is too high." in texts(session) and "80 %" in texts(session)
    assert "Learning rate 0.001, the usual one of AdamW" in texts(session)
    session.button(key="start-rate-high-0").click().run()
    assert not session.exception, session.exception
    new = next(other for other in RunStore(home).runs() if other.id != run.id)
    assert new.experiment.training.optimizer.params["lr"] == 0.001
    assert new.experiment.name == "Ill: Learning rate 0.001, the usual one of AdamW"
    assert run.experiment.training.optimizer.params["lr"] == 1.0
    assert session.query_params["run"] in (f"{new.id},{run.id}", [f"{new.id},{run.id}"])


def test_a_cure_is_opened_as_a_draft_of_its_own(home: Path) -> None:
    run = ran(home, *told(0.8))
    session = opened("runs", run=run.id)
    session.button(key="open-rate-high-1").click().run()
    assert not session.exception, session.exception
    files = list((home / "drafts").glob("*.jsonl"))
    assert len(files) == 1 and len(RunStore(home).runs()) == 1
    assert Draft.open(files[0].stem).experiment.training.optimizer.params["lr"] == 0.0001


def test_a_healthy_run_is_called_so_and_a_row_of_the_map_is_looked_at_closely(home: Path) -> None:
    run = ran(home, *told(0.003), lr=0.001)
    session = opened("runs", run=run.id)
    assert "Nothing unusual" in texts(session) and "up to step 6" in texts(session)
    assert [b for b in session.button if str(b.key).startswith("start-")] == []
    session.selectbox(key="health-measure").set_value("flow").run()
    session.selectbox(key="health-layer").set_value("act_b").run()
    assert "act\\_b" in texts(session) and "gradient that flows back 0.0167" in texts(session)
    session.selectbox(key="health-measure").set_value("gradient").run()
    assert session.selectbox(key="health-layer").value is None  # that layer has no weights


def test_a_run_from_before_says_that_nobody_looked(home: Path) -> None:
    run = ran(home, Progress(1, 6, 1, {"step/loss": 0.7}), EpochEnded(1, 6, {"train/loss": 0.7}))
    assert "Nobody looked into the layers of this run" in texts(opened("runs", run=run.id))


@pytest.mark.parametrize(
    ("rows", "log", "share", "ends"),
    [
        ([[2e-3, 5.0]], True, False, (1e-3, 10.0)),
        ([[0.0, float("nan")]], True, False, (1e-3, 1.0)),
        ([[1e-30, 1.0]], True, False, (1e-12, 1.0)),
        ([[0.2, 0.4]], False, True, (0.0, 1.0)),
        ([[-1.0, 3.0]], False, False, (-1.0, 3.0)),
    ],
)
def test_colours_span_what_there_is(rows: list[list[float]], log: bool, share: bool, ends: tuple[float, float]) -> None:
    assert _ends(rows, log=log, share=share) == pytest.approx(ends)
