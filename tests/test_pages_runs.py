"""The Runs page: pausing, branching, comparing, keeping in order; runs are told by hand-written events."""

from __future__ import annotations

from pathlib import Path

import pytest
from little_run import little
from test_intake import nearby  # noqa: F401 (a fixture)

from builder import notes, turns, wastebin
from builder.branch import Branch, branch
from builder.data import Dataset
from builder.hardest import hardest
from builder.runs import EpochEnded, Finished, Paused, Record, Resumed, Run, RunStore, Saved, Started
from builder.task import find
from pages.kit.draft import Draft
from tests.test_pages_build import a_run, buttons, label, pressed, primaries, tell
from tests.test_pages_shell import (  # noqa: F401 (two of them are fixtures)
    cats,
    finish,
    no_supervisor,
    opened,
    parameter,
    said,
)

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


def stopped(home: Path, name: str = "mine", **changes: object) -> Run:
    """A run that has ended and has a saved state to go on from (what is in it nobody reads here)."""
    run = a_run(home, name, **changes)
    tell(run, last=Finished("stopped", "Stopped on request."))
    for name in ("last-00000003", "peak-00000001"):  # the newest, and the end of its best epoch
        (run.folder / f"{name}.pt").write_bytes(b"state")
        (run.folder / f"{name}.json").write_text("{}")
    with Record(run.folder / "events.jsonl") as record:
        record.append(Saved(10, 1, False, "last-00000001.pt"))
        record.append(Saved(30, 3, False, "last-00000003.pt"))
        record.append(Finished("stopped", "Stopped on request."))
    return run


def test_edit_and_go_on_opens_the_training_page_whose_start_makes_a_branch(home: Path) -> None:
    parent = stopped(home)
    draft = Draft.create(parent.experiment.replace("training.batch_size", 4), at_home=home)
    draft.goes_on_from(parent.id)
    session = opened("training", draft=draft.id)  # on any day, in any tab
    assert "A branch of" in said(session) and "16 → 4" in said(session).replace("\\", "")
    assert label(session, "start-training") == "Start the branch"
    draft.replace("data.size_px", 48)
    session.run()
    assert "cannot be changed in a branch" in said(session) and session.button(key="start-training").disabled
    draft.undo()
    session.run()
    draft.goes_on_from(parent.id, best=True)
    session = opened("training", draft=draft.id)
    assert "from the end of epoch 1, its best so far" in said(session)
    pressed(session, "branch-forget")
    assert label(session, "start-training") == "Start training" and "A branch of" not in said(session)
    session = opened("runs", run=parent.id)
    pressed(session, "branch")
    begun = parameter(session, "draft")
    assert begun != draft.id and Draft.open(begun, at_home=home).origin == (parent.id, False)
    assert "A branch of" in said(opened("training", draft=begun)), "what it is lies with it, not in one tab's address"


def test_a_branch_of_a_run_that_was_deleted_does_not_begin_at_the_beginning_unasked(home: Path, cats: str) -> None:  # noqa: F811
    parent = stopped(home, data__dataset=cats, training__epochs=9)
    draft = Draft.create(parent.experiment.replace("training.batch_size", 4), at_home=home)
    draft.goes_on_from(parent.id)
    session = opened("training", draft=draft.id)
    wastebin.discard(RunStore(home), parent.id)  # in another tab
    pressed(session, "start-training")
    assert not RunStore(home).runs() and parent.id in said(session).replace("\\", "")
    assert "not there any more" in said(session) and session.button(key="start-training").disabled
    assert "Everything is in order" not in said(session)
    wastebin.restore(RunStore(home), parent.id)
    session.run()
    assert "A branch of" in said(session) and not session.button(key="start-training").disabled
    wastebin.discard(RunStore(home), parent.id)
    pressed(session, "branch-forget")
    pressed(session, "start-training")
    [run] = RunStore(home).runs()
    assert Branch.of(run.folder) is None


def test_branches_lie_below_their_parent_with_what_changed(home: Path) -> None:
    parent = stopped(home)
    child = branch(RunStore(home), parent, parent.experiment.replace("training.batch_size", 4))
    other = a_run(home, "another")
    session = opened("runs")
    cards = [b.key for b in session.button if str(b.key).startswith("only-")]
    assert cards == [f"only-{other.id}", f"only-{parent.id}", f"only-{child.id}"]
    assert "branch" in label(session, f"only-{child.id}") and "16 → 4" in label(session, f"only-{child.id}").replace(
        "\\", ""
    )
    orphan = branch(RunStore(home), parent, parent.experiment.replace("training.batch_size", 8))
    wastebin.discard(RunStore(home), parent.id)
    assert "branch of a deleted run" in label(opened("runs"), f"only-{orphan.id}")
    wastebin.restore(RunStore(home), parent.id)
    assert "16 → 8" in label(opened("runs"), f"only-{orphan.id}").replace("\\", "")
    session = opened("runs", run=parent.id)
    assert {"branch", "archive-run"} <= buttons(session)
    assert label(session, "branch-best") == "Edit and go on from epoch 1"


def test_a_deleted_run_comes_back_with_one_press_and_an_archived_one_too(home: Path) -> None:
    run, rest = stopped(home), stopped(home, "rest")
    session = opened("runs", run=run.id)
    pressed(session, "delete-run")
    pressed(session, "really-delete")
    assert [r.id for r in RunStore(home).runs()] == [rest.id] and "is deleted" in said(session)
    assert "There is no run" not in said(session), "he who deletes it knows"
    pressed(session, "undo-delete")
    assert len(RunStore(home).runs()) == 2 and "undo-delete" not in buttons(session)
    pressed(session, "archive-run")
    assert [r.id for r in RunStore(home).runs()] == [rest.id]
    assert "There is no run" not in said(session)
    pressed(session, f"unarchive-{run.id}")
    assert len(RunStore(home).runs()) == 2
    session = opened("runs", run="nothing")
    assert "There is no run nothing among these" in said(session) and "The newest is shown" in said(session)
    assert parameter(session, "run") in (run.id, rest.id)
    session.run()
    assert "There is no run" not in said(session)
    assert "The others are shown" in said(opened("runs", run=f"{rest.id},nothing"))


def test_waiting_runs_are_moved_and_taken_out(home: Path) -> None:
    first, second = a_run(home, "first"), a_run(home, "second")
    session = opened("runs")
    assert session.button(key=f"turn-sooner-{first.id}").disabled
    pressed(session, f"turn-sooner-{second.id}")
    assert [run.id for run in turns.waiting(home)] == [second.id, first.id]
    pressed(session, f"turn-out-{first.id}")
    assert first.stop_wanted


def test_tags_and_notes_are_kept_and_tags_stand_in_the_list(home: Path) -> None:
    run = stopped(home)
    session = opened("runs")
    session.text_input(key=f"tag-{run.id}").set_value("paper").run()
    session.text_input(key="note-who").set_value("Dr. A").run()
    session.text_input(key=f"note-{run.id}").set_value("the first good one").run()
    pressed(session, f"keep-note-{run.id}")
    held = notes.read(run)
    assert held.tags == ("paper",) and (held.notes[0].text, held.notes[0].who) == ("the first good one", "Dr. A")
    assert "paper" in label(session, f"only-{run.id}") and "the first good one" in said(session)
    assert session.text_input(key=f"note-{run.id}").value == ""
    (run.folder / "notes.jsonl").rename(run.folder / "kept")
    (run.folder / "notes.jsonl").mkdir()  # nothing can be written there
    session.text_input(key=f"note-{run.id}").set_value("typed for minutes").run()
    pressed(session, f"keep-note-{run.id}")
    assert "could not be kept" in said(session)
    assert session.text_input(key=f"note-{run.id}").value == "typed for minutes"


def test_two_runs_are_compared_by_a_job_and_told_in_words(home: Path) -> None:
    first, second = stopped(home, "one"), stopped(home, "two")
    session = opened("runs", run=f"{first.id},{second.id}")
    session.segmented_control(key="difference-side").set_value("test")  # and pressed before the page was drawn anew
    pressed(session, "compare-go")
    (job,) = RunStore(home).jobs()
    assert job.kind == "compare" and job.payload == {"first": first.id, "second": second.id, "split": "test"}
    figure = {"first": 0.8, "second": 0.81, "difference": 0.01, "low": -0.02, "high": 0.04, "better": "higher"}
    words = "The second is not shown to be better: +0.010, 95 % interval -0.020 to +0.040."
    metrics = {"auc": {**figure, "verdict": "not shown", "words": words}}
    finish(
        home, "compare", {"split": "val", "n": 30, "patients": 12, "metrics": metrics, "notes": ["Decide beforehand."]}
    )
    session.run()
    assert "two is not shown to be better" in said(session).replace("\\", "")


def test_the_last_saved_state_can_be_asked_on_the_test_page(home: Path) -> None:
    run = stopped(home)
    (run.folder / "best.safetensors").write_bytes(b"weights")
    session = opened("test", run=run.id)
    session.button_group(key=f"state-{run.id}").set_value("last").run()
    assert not session.exception, session.exception
    assert session.query_params["state"] == "last"


def test_hard_cases_are_left_out_and_relabelled_and_a_branch_comes_of_it(home: Path) -> None:
    dataset, run = little(home)
    with Record(run.folder / "events.jsonl") as record:
        last = max(run.folder.glob("last-*.pt")).name
        for event in (Started(), EpochEnded(1, 2), Saved(2, 1, False, last), Finished("done")):
            record.append(event)
    session = opened("runs", run=run.id)
    pressed(session, "look-hardest")
    (job,) = RunStore(home).jobs()
    told = hardest(run.experiment, find("recognition"), dataset, run.folder, job.folder)
    finish(home, "hardest", told)
    session.run()
    assert not session.exception, session.exception
    assert session.button(key="branch-hardest").disabled
    worst, next_one = told["cases"][:2]
    session.checkbox(key=f"out-{run.id}-{worst['case']}").set_value(True).run()
    other = (dataset.classes.index(next_one["label"]) + 1) % len(dataset.classes)
    session.selectbox(key=f"relabel-{run.id}-{next_one['case']}").set_value(other).run()
    assert not session.exception, session.exception
    assert Dataset.open(home, dataset.id).labels[next_one["index"]] == other
    assert "1 case left out, 1 label corrected" in said(session).replace("\\", "")
    pressed(session, "branch-hardest")
    assert (
        "1 case left out" in said(session).replace("\\", "") and label(session, "start-training") == "Start the branch"
    )
