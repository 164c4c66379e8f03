"""The Runs page: pausing, branching, comparing, keeping in order; runs are told by hand-written events."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_intake import nearby  # noqa: F401 (a fixture)

from builder.runs import Paused, Record, Resumed
from tests.test_pages_build import a_run, buttons, label, pressed, primaries, tell
from tests.test_pages_shell import no_supervisor, opened, said  # noqa: F401 (one is a fixture)

pytestmark = pytest.mark.usefixtures("nearby", "no_supervisor")


def test_a_running_run_can_be_paused_and_a_paused_one_goes_on(home: Path) -> None:
    run = a_run(home)
    tell(run, epochs=1, alive=True)
    session = opened("runs")
    pressed(session, "pause-run")
    assert run.pause_wanted and session.button(key="pause-run").disabled
    assert label(session, "pause-run") == "Pausing ..."
    with Record(run.folder / "events.jsonl") as record:
        record.append(Paused(10, 1, "Its state is saved."))
    session.run()
    assert "pause-run" not in buttons(session) and primaries(session) == ["Resume"]
    assert "Paused" in session.get("progress")[0].proto.text
    assert "paused" in label(session, f"only-{run.id}")
    pressed(session, "unpause-run")
    assert not run.pause_wanted
    with Record(run.folder / "events.jsonl") as record:
        record.append(Resumed(10, 1))
    session.run()
    assert "pause-run" in buttons(session)
