"""Which settings win: the lock beside a choice, the page of a search before, while and after it runs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest
from test_intake import nearby  # noqa: F401 (a fixture)

from builder.runs import Claim, Finished, Job, Record, RunStore, Started
from builder.search.studies import Study, StudyStore
from builder.spec import Dimension, Search
from builder.task import find
from pages.kit import locks, study_figures, study_pictures, study_strands
from pages.kit.draft import Draft
from tests.test_pages_build import a_run, buttons, label, pressed
from tests.test_pages_shell import cats, no_supervisor, opened, parameter, said, title_of  # noqa: F401 (two are fixtures)
from tests.told_study import document, told

pytestmark = pytest.mark.usefixtures("nearby", "no_supervisor")
RATE = "training.optimizer.params.lr"


def a_draft(home: Path, *unlocked: str) -> Draft:
    draft = Draft.create(document().replace("search", None), at_home=home)
    for path in unlocked:
        locks.toggle(draft, path)
    return draft


def search_of(draft: Draft) -> dict[str, tuple[object, ...]]:
    search = draft.experiment.search
    return {d.path: (d.low, d.high, d.choices) for d in search.dimensions} if search else {}


# -- the lock ---------------------------------------------------------------------------------------------------------


def test_a_lock_beside_a_choice_unlocks_it_and_an_undo_locks_it_again(home: Path) -> None:
    draft = a_draft(home)
    digest = draft.experiment.digest
    session = opened("training", draft=draft.id)
    for path in (RATE, "training.optimizer", "training.batch_size", "data.size_px", "training.augment.rotate"):
        assert f"unlock:{path}" in buttons(session), path
    pressed(session, f"unlock:{RATE}")
    assert list(search_of(draft)) == [RATE] and label(session, f"unlock:{RATE}") == "Lock learning rate again"
    assert draft.experiment.digest == digest  # what a search may try is no part of what a run does
    pressed(session, "undo")
    assert draft.experiment.search is None
    pressed(session, "redo")
    pressed(session, f"unlock:{RATE}")
    assert draft.experiment.search is None  # the last one locked: nothing is left behind


def test_the_range_of_an_unlocked_choice_is_changed_in_place(home: Path) -> None:
    draft = a_draft(home, RATE, "training.optimizer")
    session = opened("training", draft=draft.id)
    session.number_input(key=f"range-high-here:{RATE}").set_value(0.05).run()
    session.multiselect(key="range-choices-here:training.optimizer").set_value(["adam", "sgd"]).run()
    assert not session.exception
    assert search_of(draft)[RATE][1] == 0.05 and search_of(draft)["training.optimizer"][2] == ("adam", "sgd")
    assert locks.words_of(draft.experiment.search.dimensions[1]) == "Adam or SGD"  # type: ignore[union-attr]


def test_a_range_that_came_in_a_file_is_changed_to_any_number_and_an_open_end_is_filled_in(home: Path) -> None:
    brakes, batch = "training.clip_norm", "training.batch_size"
    dimensions = (
        Dimension(path=brakes, low=0, high=5),
        Dimension(path=RATE, low=0.001),
        Dimension(path=batch, low=4),
    )
    draft = Draft.create(document().replace("search", Search(dimensions=dimensions)), at_home=home)
    session = opened("search", study="new", draft=draft.id)
    assert not session.exception
    for path, high in ((brakes, 0.5), (RATE, 0.05), (batch, 16)):
        end = session.number_input(key=f"range-high-row:{path}")
        assert path == batch or isinstance(end.step, float), path
        end.set_value(high).run()
        assert not session.exception and search_of(draft)[path][1] == high


def test_a_layer_can_be_tried_with_and_without(home: Path) -> None:
    draft = Draft.create(find("recognition").starters()[0], at_home=home)
    layer = next(n.id for n in draft.experiment.network if n.name == "relu")
    session = opened("network", draft=draft.id, view="list")
    session.session_state[f"layer-of:{draft.id}"] = layer
    session.run()
    pressed(session, f"presence-network.{layer}")
    assert search_of(draft)[f"network.{layer}"][2] == ("present", "absent")


def test_a_bad_search_does_not_keep_an_ordinary_training_from_starting(home: Path) -> None:
    draft = a_draft(home, RATE)
    before = opened("training", draft=draft.id).button(key="start-training").disabled
    search = draft.experiment.search
    assert search is not None
    inverted = search.dimensions[0].model_copy(update={"low": 9})
    draft.replace("search", search.model_copy(update={"dimensions": (inverted,)}))
    session = opened("training", draft=draft.id)
    assert session.button(key="start-training").disabled == before and "Search" not in said(session)


# -- before it begins -------------------------------------------------------------------------------------------------


def test_without_an_experiment_the_page_says_how_to_begin(home: Path) -> None:
    session = opened("search")
    assert title_of(session) == "Which settings win?" and "No experiment is open" in said(session)
    pressed(session, "first-starter")
    assert "Nothing yet" in said(session) and session.button(key="start-search").disabled


def test_the_space_is_made_on_the_page_and_a_bad_one_is_mended_by_its_button(home: Path) -> None:
    draft = a_draft(home)
    session = opened("search", draft=draft.id)
    pressed(session, f"begin-with:{RATE}")
    session.selectbox(key="unlock-another").set_value("training.l2").run()
    assert list(search_of(draft)) == [RATE, "training.l2"]
    session.number_input(key=f"range-low-row:{RATE}").set_value(5.0).run()
    assert session.button(key="start-search").disabled
    repair = next(str(b.key) for b in session.button if f":search.{RATE}:" in str(b.key))
    pressed(session, repair)
    assert search_of(draft)[RATE][0] < search_of(draft)[RATE][1]  # type: ignore[operator]
    session.selectbox(key="search.strategy").set_value("random").run()
    session.multiselect(key="search.objectives").set_value(["auc", "parameters"]).run()
    assert not session.exception
    now = draft.experiment.search
    assert (
        now is not None
        and now.strategy.name == "random"
        and [o.metric for o in now.objectives] == ["auc", "parameters"]
    )
    pressed(session, f"relock:{RATE}")
    assert list(search_of(draft)) == ["training.l2"]


def test_a_start_begins_one_search_and_shows_it(home: Path, cats: str) -> None:  # noqa: F811
    starter = find("recognition").starters()[0].replace("data.dataset", cats)
    draft = Draft.create(starter, at_home=home)
    locks.toggle(draft, RATE)
    session = opened("search", draft=draft.id)
    pressed(session, "start-search")
    studies = StudyStore(home).studies()
    assert len(studies) == 1 and parameter(session, "study") == studies[0].id
    assert [job.kind for job in RunStore(home).jobs()] == ["search"] and "Waiting for its turn" in str(
        [p.proto.text for p in session.get("progress")]
    )


# -- while it runs, and after -----------------------------------------------------------------------------------------


def driven(home: Path, study: Study) -> Job:
    """Makes a study look as if a driver were at work on it."""
    job = study.resume()
    with Record(job.folder / "events.jsonl") as record:
        record.append(Started(attempt=1, device="cpu", pid=1))
    return job


def seen(session: AppTest, name: str) -> AppTest:
    """The page with this picture."""
    session.segmented_control(key="study-view").set_value(name).run()
    assert not session.exception, session.exception
    return session


def test_a_finished_search_shows_its_winner_its_pictures_and_opens_it_as_an_experiment(home: Path) -> None:
    study = told(home, 30)
    view = study.view()
    session = opened("search", study=study.id)
    assert "The winner" in said(session) and "Done" in said(session)
    for name in ("What matters", "Each choice", "In pairs"):
        assert len(seen(session, name).get("plotly_chart")) == 1, name
    for name in ("All choices", "Learning curves"):
        assert seen(session, name).main.get("bidi_component"), name
    assert len(session.dataframe[0].value) == 30
    pressed(session, "best-experiment")
    assert view.best is not None
    made = Draft.open(parameter(session, "draft"), at_home=home).experiment
    assert made.search is None and made.at(RATE) == pytest.approx(view.best.params[RATE])


def test_of_many_dots_each_place_keeps_the_latest_and_none_is_moved_by_more_than_half_a_cell() -> None:
    trials = range(3000)
    xs, ys = [(k % 3) / 2 for k in trials], [(k * 7919 % 1000) / 1000 for k in trials]
    columns, rows, there = study_figures.gridded(xs, ys, 56)
    assert (len(columns), len(rows)) == (57, 29) and columns[[0, -1]].tolist() == [0, 1] and rows[-1] == 0.999
    near = [(abs(rows - y).argmin(), abs(columns - x).argmin()) for x, y in zip(xs, ys, strict=True)]
    latest = {place: k for k, place in enumerate(near)}
    assert len(there) == 3 * 29 and all(latest[place] == k for place, k in there.items())
    assert study_figures.gridded([2.0] * 9, [0.1] * 9, 5)[2] == {(0, 0): 8}, "all in one place"


def test_all_choices_are_a_line_for_each_trial_that_is_over_the_best_on_top(home: Path) -> None:
    study = told(home, 30)
    seen(opened("search", study=study.id), "All choices")  # the component registers itself with a running page
    view, search = study.view(), study.experiment.search
    assert search is not None
    done = [trial for trial in view.trials if trial.status == "done"]
    for larger in (True, False):
        axes, lines = study_strands.strands(view.trials, search.dimensions, "AUC", larger, {})
        assert len(axes) == len(search.dimensions) + 1 == len(lines[0].places) == len(lines[0].told)
        assert {line.label for line in lines} == {f"Trial {trial.number}" for trial in done}
        best = (max if larger else min)(done, key=lambda trial: trial.values[0])
        assert lines[-1].label == f"Trial {best.number}" and lines[-1].shade == 1 and lines[0].shade == 0
        assert lines[-1].places[-1] == (1 if larger else 0) and lines[-1].told[-1] == f"{best.values[0]:.4g}"
    has_momentum = {f"Trial {trial.number}": "training.optimizer.params.momentum" in trial.params for trial in done}
    assert [axis.none for axis in axes] == [False, False, False, not all(has_momentum.values()), False]
    for line in lines:
        assert (line.places[3] is not None) == (line.told[3] != "none") == has_momentum[line.label]
        assert all(place is None or 0 <= place <= 1 for place in line.places)
    alike, _ = study_strands.strands(
        done[:1], search.dimensions, "AUC", True, {d.path: "Same" for d in search.dimensions}
    )
    assert len({axis.label for axis in alike}) == len(alike), "what is kept on an axis is known by its words"


def test_several_objectives_show_the_compromises(home: Path) -> None:
    study = told(home, 25, objectives=("auc", "parameters"))
    session = opened("search", study=study.id)
    assert session.segmented_control(key="study-view").value == "Compromises"
    assert session.selectbox(key="study-front").options == [f"Trial {n}" for n in study.view().front]


def test_a_running_search_can_be_stopped_and_extended(home: Path) -> None:
    study = told(home, 12, running=2, finished="")
    job = driven(home, study)
    (job.folder / "claim.json").write_text(json.dumps({}))
    session = opened("search", study=study.id)
    session.number_input(key="extend-by").set_value(4)
    pressed(session, "extend-now")
    assert study.view().wanted == 16
    pressed(session, "stop-search")
    assert job.stop_wanted


def test_a_search_whose_driver_is_gone_goes_on_with_one_press(home: Path) -> None:
    study = told(home, 10, running=1, finished="")
    session = opened("search", study=study.id)
    assert "Interrupted" in said(session) and "nothing is counted twice" in said(session)
    pressed(session, "resume-search")
    assert [job.kind for job in RunStore(home).jobs()] == ["search"] and study.view().active


def test_a_picked_trial_is_run_again(home: Path) -> None:
    study = told(home, 8)
    session = opened("search", study=study.id)
    session.session_state["trial-picked"] = 3
    session.run()
    pressed(session, "requeue-trial")
    assert study.wishes() == [{"requeue": 3}]


def ended(study: Study, number: int, reached: float) -> None:
    """A trial more that is over, as the driver tells it."""
    with (study.folder / "events.jsonl").open("a") as file:
        for event, facts in (
            ("asked", {"params": {RATE: 0.002}, "run": "", "costs": {}, "requeued_from": None}),
            ("ended", {"status": "done", "values": [reached], "epochs": 12, "seconds": 3.0}),
        ):
            file.write(json.dumps({"event": event, "at": 0.0, "clock": 9e4, "trial": number, **facts}) + "\n")


def test_a_tick_stays_with_its_trial_and_without_one_the_table_stays(home: Path) -> None:
    study = told(home, 8)
    session = opened("search", study=study.id)
    before = session.dataframe[0].proto.id
    ended(study, 8, 0.99)
    session.run()
    assert session.dataframe[0].value["Trial"][0] == 8 and session.dataframe[0].proto.id == before
    session.session_state["trial-picked"] = 8
    session.run()
    ticked = session.dataframe[0].proto
    assert ticked.id != before and json.loads(ticked.selection_default)["selection"]["rows"] == [0]
    session.run()
    assert session.dataframe[0].proto.id == ticked.id
    ended(study, 9, 1.0)
    session.run()
    moved = session.dataframe[0].proto
    assert session.dataframe[0].value["Trial"][:2].tolist() == [9, 8]
    assert moved.id != ticked.id and json.loads(moved.selection_default)["selection"]["rows"] == [1]
    assert "Trial 8" in said(session)


def test_with_many_trials_the_picture_and_the_rest_of_the_page_take_turns(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def counted() -> str:
        return str(session.get("plotly_chart")[0].proto.alt)

    def rows() -> int:
        return len(session.dataframe[0].value)

    for num in (study_pictures.MANY - 2, study_pictures.MANY):
        study = told(home, num, running=1, finished="")
        job = study.resume()
        Claim.of(os.getpid()).write(job.folder / "claim.json")
        with Record(job.folder / "events.jsonl") as record:
            record.append(Started(attempt=1, device="cpu", pid=os.getpid()))
        session = opened("search", study=study.id)
        assert study.view().active
        before = counted()
        ended(study, num, 0.99)
        session.run()
        assert rows() == num + 1
        assert (counted() == before) == (num == study_pictures.MANY), "drawn together only where it takes no time"
        with monkeypatch.context() as later:
            later.setattr(study_pictures, "_APART_S", 0.0)
            session.run()
        assert counted() != before


def test_of_several_searches_the_newest_is_shown_and_the_list_leads_to_the_others(home: Path) -> None:
    first, second = told(home, 8, name="first"), told(home, 8, name="second")
    session = opened("search")
    assert title_of(session) == "second" and parameter(session, "study") == second.id
    pressed(session, f"study-{first.id}")
    assert title_of(session) == "first"
    draft = a_draft(home, RATE)
    session = opened("search", draft=draft.id)
    pressed(session, "study-new")
    assert title_of(session) == "Which settings win?"


def test_the_runs_of_a_search_stand_together_on_the_runs_page(home: Path) -> None:
    study = told(home, 3)
    alone = a_run(home, "alone")
    trials = [a_run(home, "of the search") for _ in range(3)]
    for number, run in enumerate(trials):
        (run.folder / "trial.json").write_text(json.dumps({"study": study.id, "trial": number}))
        with Record(run.folder / "events.jsonl") as record:
            record.append(Finished("done", ""))
    told_of = study.folder / "events.jsonl"
    lines = [json.loads(line) for line in told_of.read_text().splitlines()]
    asked = [line | {"run": trials[line["trial"]].id} if line["event"] == "asked" else line for line in lines]
    told_of.write_text("".join(json.dumps(line) + "\n" for line in asked))
    session = opened("runs")
    assert f"only-{alone.id}" in buttons(session) and f"search-{study.id}" in buttons(session)
    assert not {f"only-{run.id}" for run in trials} & buttons(session)
    session = opened("runs", run=trials[1].id)
    assert title_of(session).endswith("trial 1") and f"only-{trials[1].id}" in buttons(session)
    pressed(session, f"search-{study.id}")  # opened, it names trials that the list shows as well
    assert {f"of-search-{run.id}" for run in trials} <= buttons(session)
