"""The space of a search: what can be unlocked, what is proposed, values put in, and bad spaces refused with words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from little_run import starter

from builder import task
from builder.__main__ import main
from builder.catalog import Text
from builder.check import problems
from builder.execute import LocalExecutor
from builder.parts.search import PRUNERS, STRATEGIES
from builder.runs import Finished, Record
from builder.search import grid, objectives, space
from builder.search.checks import faults
from builder.search.studies import Study, StudyFold, StudyStore, front
from builder.spec import Choice, Dimension, Experiment, Objective, Search, SpecError

LR = "training.optimizer.params.lr"
MOMENTUM = "training.optimizer.params.momentum"
RATE = Dimension(path=LR, low=1e-4, high=1e-1, log=True)
TINY = starter()


def asking(*dimensions: Dimension, **rest: object) -> Experiment:
    return TINY.replace("search", Search(dimensions=dimensions, **rest))


def said(experiment: Experiment) -> dict[str, str]:
    return {fault.path: fault.message for fault in faults(experiment)}


def test_a_search_is_no_part_of_what_a_run_does_and_survives_the_file():
    searching = asking(RATE, Dimension(path="training.batch_size", choices=(16, 32)))
    assert searching.digest == TINY.digest
    assert Experiment.loads(searching.dumps()) == searching
    assert searching.diff(TINY)[f"search.dimensions.{LR}.high"] == (0.1, None)


def test_whatever_can_be_unlocked_has_a_proposal_that_is_no_fault_and_can_be_put_in():
    for kind in task.TASKS:
        experiment = task.find(kind).starters()[0]
        found = space.unlockable(experiment)
        assert {LR, "training.optimizer", "training.batch_size", "training.augment.rotate"} <= set(found)
        dimensions = tuple(space.proposed(experiment, path) for path, domain in found.items())
        told = said(experiment.replace("search", Search(dimensions=dimensions)))
        told = {path: words for path, words in told.items() if "does not fit together" not in words}
        names = {f"search.{path}" for path, domain in found.items() if isinstance(domain, Text)}
        assert not set(told) - names, (kind, told)  # of a name from a long list the one there is may be all
        for dimension in dimensions:
            for value in grid.values(dimension, found[dimension.path], 2):
                assert space.apply(experiment, {dimension.path: value}).search is None


def test_a_proposed_range_lies_around_the_value_and_inside_what_the_catalog_allows():
    rate = space.proposed(TINY, LR)
    now = space.value_at(TINY, LR)
    assert rate.log and rate.low == pytest.approx(now / 10) and rate.high == pytest.approx(now * 10)
    size = space.proposed(TINY, "data.size_px")
    assert (size.low, size.high, size.step, size.log) == (16, 256, 8, False)
    assert space.proposed(TINY, "network.conv2d_2.params.kernel_size").step == 2  # odd ones stay odd
    assert space.proposed(TINY, "network.dropout_1").choices == ("present", "absent")


def test_a_setting_that_hangs_on_another_choice_is_there_only_with_it():
    assert space.reachable(asking(), MOMENTUM) is None  # Adam has none
    searching = asking(Dimension(path="training.optimizer", choices=("adamw", "momentum")))
    assert space.reachable(searching, MOMENTUM) is not None and MOMENTUM in space.unlockable(searching)
    made = space.apply(TINY, {MOMENTUM: 0.8, "training.optimizer": "momentum", LR: 0.01})
    assert made.training.optimizer == Choice(name="momentum", params={"momentum": 0.8, "lr": 0.01})
    with pytest.raises(SpecError, match="no choice at 'training.optimizer.params.momentum'"):
        space.apply(TINY, {MOMENTUM: 0.8, "training.optimizer": "adamw"})


def test_what_changes_the_measure_that_trials_are_scored_by_is_no_choice_of_a_search():
    enhancing, telling = (task.find(name).starters()[0] for name in ("image_enhancement", "recognition"))
    for path in ("data.degrade", "data.degrade.params.dark", "data.window"):
        assert space.reachable(enhancing, path) is None and path not in space.unlockable(enhancing), path
    assert "data.window" in space.unlockable(telling) and "data.size_px" in space.unlockable(enhancing)


def test_a_layer_can_be_left_out_and_another_one_can_stand_in_its_place():
    without = space.apply(TINY, {"network.dropout_1": "absent"})
    assert [n.id for n in without.network] == [n.id for n in TINY.network if n.id != "dropout_1"]
    assert space.apply(TINY, {"network.relu_1.name": "gelu"}).at("network.relu_1").name == "gelu"
    with pytest.raises(SpecError):
        space.apply(TINY, {"network.dropout_1": "absent", "network.dropout_1.params.p": 0.3})


def test_an_augmentation_can_be_tried_that_the_document_does_not_have():
    made = space.apply(TINY, {"training.augment.noise": "present"})
    assert "noise" in [choice.name for choice in made.training.augment]
    without = space.apply(made, {"training.augment.noise": "absent"})
    assert "noise" not in [choice.name for choice in without.training.augment]


def test_a_grid_visits_each_point_once_and_varies_a_hanging_choice_only_where_it_is():
    both = asking(
        Dimension(path=MOMENTUM, low=0.5, high=0.9),
        Dimension(path="training.optimizer", choices=("adamw", "momentum")),
        RATE,
        strategy=Choice(name="grid"),
    )
    points = grid.points_of(both)
    assert len(points) == 3 + 3 * 3
    assert len({space.apply(both, point).digest for point in points}) == len(points)
    assert sorted({point[LR] for point in points}) == pytest.approx([1e-4, 10**-2.5, 1e-1])


BAD = [
    ((), {}, "search.dimensions", "nothing to choose"),
    ((RATE.model_copy(update={"low": 0.1, "high": 1e-4}),), {}, f"search.{LR}", "inverted"),
    ((RATE.model_copy(update={"high": 1e-4}),), {}, f"search.{LR}", "empty"),
    ((RATE.model_copy(update={"high": 50.0}),), {}, f"search.{LR}", "must lie between"),
    ((RATE.model_copy(update={"high": None}),), {}, f"search.{LR}", "a lowest and a highest"),
    ((RATE, RATE), {}, f"search.{LR}", "twice"),
    ((Dimension(path="training.optimiser", choices=("a", "b")),), {}, "search.training.optimiser", "Did you mean"),
    ((Dimension(path=MOMENTUM, low=0.1, high=0.9),), {}, f"search.{MOMENTUM}", "never be used"),
    ((Dimension(path="training.seed", low=0, high=9),), {}, "search.training.seed", "no choice"),
    ((Dimension(path="training.optimizer", choices=("adam", "adm")),), {}, "search.training.optimizer", "Did you mean"),
    ((Dimension(path="training.optimizer", choices=("adam",)),), {}, "search.training.optimizer", "only one value"),
    ((Dimension(path="data.size_px", low=32, high=128, step=5),), {}, "search.data.size_px", "in steps of 8"),
    ((Dimension(path="training.clip_norm", low=0, high=5, log=True),), {}, "search.training.clip_norm", "above 0"),
    (
        (Dimension(path="network.global_pool_1", choices=("present", "absent")),),
        {},
        "search.network.global_pool_1",
        "does not fit together",
    ),
    ((RATE,), {"objectives": (Objective(metric="dice"),)}, "search.objectives", "has no 'dice'"),
    ((RATE,), {"strategy": Choice(name="bayes")}, "search.strategy.name", "no strategy called"),
    (
        (RATE,),
        {"pruner": Choice(name="asha", params={"factor": 99})},
        "search.pruner.params.factor",
        "between 2 and 10",
    ),
    ((RATE,), {"strategy": Choice(name="cmaes")}, "search.strategy", "at least two numbers"),
    ((RATE,), {"num_trials": 0}, "search.num_trials", "between 1 and"),
    (
        (RATE,),
        {"pruner": Choice(name="median"), "objectives": (Objective(metric="auc"), Objective(metric="parameters"))},
        "search.pruner",
        "several objectives",
    ),
    ((Dimension(path="training.processes", low=1, high=4),), {}, "search.training.processes", "no choice"),
    (
        (Dimension(path="training.label_smoothing", low=0.0, high=0.3),),
        {"objectives": (Objective(metric="loss"),)},
        "search.objectives",
        "With another label smoothing the loss is another measure",
    ),
]


@pytest.mark.parametrize(("dimensions", "rest", "path", "words"), BAD, ids=[f"{b[2]}-{b[3]}" for b in BAD])
def test_a_bad_search_is_refused_with_words_and_its_repairs_mend_it(dimensions, rest, path, words, tmp_path: Path):
    searching = asking(*dimensions, **rest)
    assert words in said(searching)[path]
    assert path in {problem.path for problem in problems(searching)}
    with pytest.raises(ValueError, match=words):
        StudyStore(tmp_path).create(searching, queue=False)
    for _ in range(4):  # each repair may leave room for the next
        found = faults(searching)
        if not found:
            break
        assert found[0].fix is not None and found[0].repair
        searching = found[0].fix
    assert not [fault for fault in faults(searching) if "nothing to choose" not in fault.message]


def test_each_strategy_and_pruner_says_in_one_sentence_when_to_use_it():
    for part in (*STRATEGIES.values(), *PRUNERS.values()):
        assert part.help.count(": ") == 1 and part.help.endswith((".", ")."))


def test_a_search_looks_for_what_the_training_watches_unless_it_says_otherwise():
    assert objectives.of(asking(RATE)) == ("auc",) and objectives.rising(asking(RATE)) == (True,)
    two = asking(RATE, objectives=(Objective(metric="loss"), Objective(metric="parameters")))
    assert objectives.rising(two) == (False, False)


def test_what_happened_folds_to_a_view_with_the_best_trial_and_what_it_cost():
    fold = StudyFold("a", asking(RATE).replace("training.epochs", 4))
    fold.add({"event": "began", "clock": 0.0})
    for number, (value, status) in enumerate([(0.7, "done"), (0.9, "done"), (0.5, "pruned"), (0.0, "refused")]):
        fold.add({"event": "asked", "trial": number, "params": {LR: 0.1}, "run": f"{number}"})
        for epoch in range(1, 3):
            fold.add({"event": "reported", "trial": number, "epoch": epoch, "value": value})
            fold.add({"event": "reported", "trial": number, "epoch": epoch, "value": 0.0})  # told again: once is enough
        values = [value] if status == "done" else []
        fold.add({"event": "ended", "trial": number, "status": status, "values": values, "epochs": 2, "clock": 5.0})
    fold.add({"event": "began", "clock": 0.0})
    fold.add({"event": "finished", "status": "done", "reason": "", "clock": 2.0})
    view = fold.view([{"extend": 5}, {"requeue": 1}], status="done", reason="")
    assert view.best is not None and view.best.number == 1 and view.best.curve == ([1, 2], [0.9, 0.9])
    assert (view.trained, view.wanted, view.seconds) == (3, 26, 7.0)
    assert (view.epochs_run, view.epochs_planned) == (6, 12)
    for number, status in ((4, "failed"), (5, "running")):  # neither was cut short to save anything
        fold.add({"event": "asked", "trial": number, "params": {LR: 0.1}, "run": f"{number}"})
        if status == "failed":
            fold.add({"event": "ended", "trial": number, "status": status})
    assert fold.view([], status="running", reason="").epochs_spared == pytest.approx(2 / 12)


def test_the_front_holds_what_nothing_else_beats_in_everything():
    fold = StudyFold("a", asking(RATE, objectives=(Objective(metric="auc"), Objective(metric="parameters"))))
    for number, values in enumerate([(0.9, 100), (0.8, 50), (0.7, 60), (0.9, 90), (0.6, 10)]):
        fold.add({"event": "asked", "trial": number, "params": {}})
        fold.add({"event": "ended", "trial": number, "status": "done", "values": values})
    trials = list(fold.view([], status="done", reason="").trials)
    assert front(trials, (True, False)) == (1, 3, 4)


def test_a_study_is_a_folder_that_is_found_again(tmp_path: Path):
    store = StudyStore(tmp_path)
    made = store.create(asking(RATE), queue=False)
    assert [study.id for study in store.studies()] == [made.id] and store.study(made.id).experiment == asking(RATE)
    assert Study(tmp_path, made.id).storage_url.startswith("sqlite:///")
    with pytest.raises(ValueError, match="no study"):
        store.study("0")
    with pytest.raises(ValueError, match="no search"):
        store.create(TINY, queue=False)


def test_a_driver_that_broke_off_is_told_whatever_the_one_before_it_had_said(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(LocalExecutor, "ensure", lambda self, wait_s=0.0: False)
    study = StudyStore(tmp_path).create(asking(RATE), queue=False)
    for ended, then in (("stopped", "stopped"), ("failed", "interrupted"), ("lost", "interrupted")):
        with Record(study.resume().folder / "events.jsonl") as record:
            record.append(Finished(ended, f"It {ended}."))
        Study(tmp_path, study.id).driver.marker.unlink()  # type: ignore[union-attr]
        assert (study.view().status, study.view().reason) == (then, f"It {ended}.")
        told = [{"event": "began"}, {"event": "finished", "status": "done", "reason": "All have been tried."}]
        (study.folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in told))
        assert study.view().status == ("done" if ended == "stopped" else "interrupted")


def test_the_command_line_refuses_what_cannot_be_searched(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setenv("SCANLOOM_HOME", str(tmp_path / "home"))
    file = tmp_path / "e.json"
    for experiment, words in ((TINY, "has no search"), (asking(RATE), "No data set is chosen")):
        file.write_text(experiment.dumps())
        assert main(["search", str(file), "--json"]) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "home" / "studies").exists()
    study = StudyStore(tmp_path / "home").create(asking(RATE), queue=False)
    assert main(["search", study.id, "--resume", "--strategy", "random", "--set", "training.epochs=2"]) == 2
    assert "goes on as it was begun: leave out --set, --strategy" in capsys.readouterr().err
    assert study.driver is None
