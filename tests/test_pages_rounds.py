"""The cards of cross-validation and forecast: begin, watch, stop, go on, what went wrong, and the answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_intake import nearby  # noqa: F401 (a fixture)
from test_pages_build import no_supervisor  # noqa: F401 (a fixture)

from builder import folding, forecast, nested, seeds
from builder.forecast import told
from builder.rounds import RoundStore
from builder.runs import EpochEnded, Finished, Record, Run, RunStore, Saved, Started
from builder.search.studies import StudyStore
from builder.spec import Dimension, Search
from pages.kit import rounds
from tests.test_curve_fit import measured
from tests.test_pages_shell import opened
from tests.test_pages_shell import said as shown
from tests.test_seeds import figures as figures_of
from tests.tiny_runs import small_set

pytestmark = pytest.mark.usefixtures("nearby", "no_supervisor")


def ended(run: Run, status: str = "done", reason: str = "") -> None:
    with Record(run.folder / "events.jsonl") as record:
        record.append(Started(device="cpu"))
        record.append(EpochEnded(1, 4, {"train/loss": 0.9, "val/loss": 0.8, "val/auc": 0.7}, 1.0))
        record.append(Saved(4, 1, True, "best.safetensors"))
        record.append(Finished(status, reason))
    run.marker.unlink(missing_ok=True)


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run on 36 phantoms that looks as if it had learned."""
    from builder import task

    home = tmp_path / "home"
    monkeypatch.setenv("SCANLOOM_HOME", str(home))
    dataset = small_set(home, "recognition", tmp_path / "source")
    starter = next(s for s in task.find("recognition").starters() if s.name == "tiny-cnn")
    run = RunStore(home).create(starter.replace("data.dataset", dataset.id), queue=False)
    (run.folder / "best.safetensors").write_bytes(b"")
    ended(run)
    return run


def said(session) -> str:
    return shown(session).replace("\\", "")


def press(session, key: str):
    return session.button(key=key).click().run(timeout=60)


def test_a_press_begins_the_folds_which_can_be_stopped_and_go_on(trained: Run):
    session = opened("results", run=trained.id)
    assert "Would it hold on other patients?" in said(session) and "5 trainings" in said(session)
    session = press(session, "folding-begin")
    (one,) = RoundStore(trained.home).rounds(folding.KIND)
    assert one.plan["of"] == trained.id and len(one.runs()) == 5
    assert "fold 3 of 5" in said(session) and not session.exception
    listed = opened("runs")  # the folds stand under their question, not among the runs
    assert [b.key for b in listed.button if str(b.key).startswith("only-")] == [f"only-{trained.id}"]
    listed = press(listed, f"round-{one.id}")
    assert {f"of-round-{run.id}" for run in one.runs()} <= {str(b.key) for b in listed.button}
    assert "0 of 5" in listed.button(key=f"round-{one.id}").label and not listed.exception
    listed = press(listed, f"of-round-{one.runs()[2].id}")
    assert "fold 3 of 5" in said(listed) and not listed.exception
    session = press(session, "folding-stop")
    for run in one.runs():
        assert run.stop_wanted
        ended(run, "stopped", "It was taken out of the queue before it began.")
    session = opened("results", run=trained.id)
    assert "0 of 5 trainings have ended" in said(session) and "fold 1 of 5: stopped" in said(session)
    session = press(session, "folding-resume")
    assert [run.view().status for run in one.runs()] == ["queued"] * 5 and not session.exception


def test_the_second_press_of_a_double_click_begins_nothing(trained: Run):
    def press_() -> None:
        rounds.begin(
            lambda: folding.begin(trained.home, trained.experiment, 2),
            "key",
            lambda: rounds.is_going(trained.experiment, folding.KIND),
        )

    press_()
    press_()
    (one,) = RoundStore(trained.home).rounds(folding.KIND)
    for run in one.runs():
        ended(run)
    press_()  # once more, with other folds
    assert len(RoundStore(trained.home).rounds(folding.KIND)) == 2


def test_too_few_patients_are_refused_in_words_on_the_card(trained: Run):
    session = opened("results", run=trained.id)
    session.segmented_control(key="folding-folds").set_value(10).run(timeout=60)
    session = press(session, "forecast-begin")
    assert "24 training patients at least" in said(session) and not session.exception
    assert not RoundStore(trained.home).rounds(forecast.KIND)


def test_when_all_have_ended_the_answers_are_asked_for_once_and_then_drawn(trained: Run):
    one = folding.begin(trained.home, trained.experiment, 2, of=trained.id, queue=False)
    assert not folding._begun(one)
    for run in one.runs():
        ended(run)
    session = opened("results", run=trained.id)
    session.run(timeout=60)
    assert "went on from another one" not in said(session)
    jobs = [job for job in RunStore(trained.home).jobs() if job.kind == "gather"]
    assert len(jobs) == 1 and jobs[0].payload == {"round": one.id}
    slot = f"folding-{one.id}"  # where no answer can be had, the question does not stand in the way for ever
    with Record(jobs[0].folder / "events.jsonl") as record:
        record.append(Finished("failed", "There is no answer."))
    jobs[0].marker.unlink()
    session.run(timeout=60)
    assert "There is no answer" in said(session)
    session = press(session, f"forget-{slot}")
    assert {"folding-gather", "folding-forget"} <= {str(b.key) for b in session.button}
    figure = {"value": 0.81, "low": 0.7, "high": 0.9, "mean": 0.83, "sd": 0.02, "folds": [0.81, 0.85], "ranked": True}
    members = [
        {"run": run.id, "words": f"fold {k + 1} of 2", "n": 15, "value": 0.8} for k, run in enumerate(one.runs())
    ]
    found = {
        "folds": 2, "repeats": 1, "headline": "auc", "n": 30, "patients": 12, "metrics": {"auc": figure},
        "members": members, "notes": ["A note."], "synthetic": True,
        "single": {"run": trained.id, "split": "val", "n": 6, "metrics": {"auc": {"value": 1.0, "low": 1, "high": 1}}},
    }  # fmt: skip
    one.keep(found)
    session = opened("results", run=trained.id)
    text = said(session)
    assert (
        "AUC 0.810 (0.700–0.900) over 30 scans of 12 patients" in text and "0.830 ± 0.020" in text and "A note." in text
    )
    assert not session.exception and "each held out once" in text
    one.keep({**found, "repeats": 3})
    # ---- folds of a branch begin anew, and the card and the answer say so
    (trained.folder / "branch.json").write_text(json.dumps({"parent": "0", "step": 4, "epoch": 1, "changes": {}}))
    text = said(opened("results", run=trained.id))
    assert "each held out 3 times" in text and "went on from another one" in text
    assert "went on from another one" in folding._begun(one)[0]


@pytest.mark.parametrize(("noise", "law"), [(0.0, lambda n: 0.95 - 0.9 * n**-0.45), (0.001, lambda n: 0.8)])
def test_a_forecast_is_drawn_with_its_answer_in_words(trained: Run, monkeypatch, noise: float, law):
    monkeypatch.setattr(forecast, "_FEWEST", 4)
    one = forecast.begin(trained.home, trained.experiment, (0.25, 0.5, 1.0), draws=1, queue=False)
    for run in one.runs():
        ended(run)
    points, values = measured(0, noise, law)
    for point in points:
        point["words"] = "a part"
    found = told(points, values, "auc", {"ill": 100, "well": 300})
    one.keep({**found, "headline": "auc", "synthetic": False})
    session = opened("results", run=trained.id)
    text = said(session)
    assert ("further cases are needed" in text) == (found["verdict"] == "needs")
    assert ("More of the same data will not help" in text) == (found["verdict"] == "enough")
    assert not session.exception and json.dumps(found)


def test_the_page_of_a_fold_says_what_it_is_and_offers_no_folds_of_folds(trained: Run):
    one = folding.begin(trained.home, trained.experiment, 2, queue=False)
    part = one.runs()[0]
    (part.folder / "best.safetensors").write_bytes(b"")
    ended(part)
    session = opened("results", run=part.id)
    assert "fold 1 of 2" in said(session) and "Would it hold on other patients?" not in said(session)


def test_the_winner_of_a_search_is_set_against_the_default_and_tried_inside_folds(
    trained: Run, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(nested.Study, "resume", lambda self: None)
    search = Search(dimensions=(Dimension(path="training.optimizer.params.lr", low=1e-4, high=1e-2, log=True),))
    study = StudyStore(trained.home).create(
        trained.experiment.replace("search", search.model_dump(mode="json")), queue=False
    )
    params = {"training.optimizer.params.lr": 0.004}
    document = trained.experiment.replace(*params.popitem()).replace("name", "tiny-cnn, trial 0")
    winner = RunStore(trained.home).create(document, queue=False)
    (winner.folder / "trial.json").write_text(json.dumps({"study": study.id, "trial": 0}))
    (winner.folder / "best.safetensors").write_bytes(b"")
    ended(winner)
    lines = (
        {"event": "asked", "trial": 0, "run": winner.id, "params": {"training.optimizer.params.lr": 0.004}},
        {"event": "ended", "trial": 0, "status": "done", "values": [0.9], "best_epoch": 1, "seconds": 60},
        {"event": "finished", "status": "done"},
    )
    (study.folder / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    session = opened("results", run=winner.id)
    assert "What is the winner worth?" in said(session) and "6 trainings" in said(session)
    session = press(session, "worth-seeds-begin")
    (one,) = RoundStore(trained.home).rounds("seeds")
    assert [member.about["arm"] for member in one.members()] == ["default", "winner"] * 3
    assert not session.exception
    assert "winner, seed 1" in said(session), session.query_params
    for run in one.runs():
        ended(run)
    said_of = seeds.told(*figures_of(0.05, 0.005, 3, 0), name="auc")
    rows_of = [{**row, "seed": k} for k, row in enumerate(said_of["by_seed"])]
    one.keep({**said_of, "by_seed": rows_of, "headline": "auc"})
    session = press(opened("results", run=winner.id), "worth-nested-begin")
    assert "The winner is better than the default" in said(session) and not session.exception
    (inside,) = nested.known(trained.home, study.id)
    assert len(inside.studies()) == 3 and "searches have ended" in said(session)
    rows = [{"words": f"fold {k}", "own": 0.95 + k / 100, "held_out": 0.86 + k / 100} for k in range(3)]
    told_ = {**nested.told(rows, None, "auc", 0.9), "objective": "auc", "members": rows}
    (inside.folder / "result.json").write_text(json.dumps(told_))
    session = opened("results", run=winner.id)
    assert "has over-fitted its validation scans" in said(session) and not session.exception

    # ---- a search inside a fold is part of that answer: nothing of the kind is asked about its own winner
    fold = inside.studies()[0]
    (fold.folder / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "The winner" in said(opened("search", study=study.id)) and "worth?" in said(opened("search", study=study.id))
    looked = opened("search", study=fold.id)
    assert "The winner" in said(looked) and "worth?" not in said(looked) and not looked.exception
    (fold.folder / "events.jsonl").unlink()

    # ---- the searches inside folds stand under the one that they are about, and go and come back with it
    listed = opened("search")
    (box,) = (box for box in listed.expander if box.label == "Inside 3 folds")
    inside_ids = {f"study-{fold.id}" for fold in inside.studies()}
    assert {str(b.key) for b in box.button} == inside_ids and "delete-search" in {str(b.key) for b in listed.button}
    cards = [str(b.key) for b in opened("runs").button if str(b.key).startswith("search-")]
    assert cards == [f"search-{study.id}"]
    everything = places(trained.home)
    listed = press(opened("search", study=study.id), "delete-search")
    assert "its 7 trainings" in said(listed)
    listed = press(listed, "really-delete-study")
    assert places(trained.home) == {f"runs/{trained.id}", f"bin/{study.id}"}
    assert "is deleted" in said(listed) and not listed.exception
    listed = press(listed, "undo-delete-study")
    assert places(trained.home) == everything and not listed.exception
    assert not [box.label for box in listed.expander if box.label.startswith("Deleted searches")]


def places(home: Path) -> set[str]:
    """The folders of all that a search leaves behind."""
    kept = ("runs", "studies", "rounds", "nested", "bin")
    return {f"{place}/{path.name}" for place in kept for path in home.glob(f"{place}/[0-9]*")}
