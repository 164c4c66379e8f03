"""The driver of a search: strategies, pruning, limits, stopping and going on, whatever is killed and when."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import pytest
from little_run import starter
from planted import BLUR, LR, RATE, SMOOTHING, Killed, Planted, bowl, driven, driver_of, learning, study_of

from builder.search.driver import costs_of, storage_at
from builder.search.studies import Study, StudyView, trial_of
from builder.spec import Dimension, Experiment, Objective


@pytest.fixture
def memory():
    """Storages that live as long as the test: quicker than a file."""
    import optuna

    return optuna.storages.InMemoryStorage


def values(study: Study) -> list[dict[str, object]]:
    return [trial.params for trial in study.view().trials]


# ---- strategies -----------------------------------------------------------------------------------------------------


def test_a_grid_of_three_by_three_visits_each_point_once_and_then_ends(tmp_path: Path, memory):
    study, ground = study_of(tmp_path, strategy="grid", num_trials=20), Planted()
    driven(study, ground, memory())
    points = {tuple(sorted(point.items())) for point in values(study)}
    assert len(points) == len(values(study)) == len(ground.begun) == 9
    assert "9 points" in study.view().reason and study.view().status == "done"


@pytest.mark.parametrize("strategy", ["random", "tpe", "cmaes"])
def test_the_same_seed_gives_the_same_search_and_another_one_another(tmp_path: Path, memory, strategy: str):
    found = []
    for seed in (1, 1, 2):
        study = study_of(tmp_path, strategy=strategy, num_trials=14, seed=seed)
        driven(study, Planted(), memory())
        found.append(values(study))
    assert found[0] == found[1] != found[2] and len(found[0]) == 14


def test_tpe_finds_a_planted_optimum_in_fewer_trials_than_random_draws(tmp_path: Path, memory):
    """Trials until 0.97 of at most 1, over 20 seeds."""
    needed: dict[str, list[int]] = {"random": [], "tpe": []}
    for strategy, counts in needed.items():
        for seed in range(20):
            study = study_of(tmp_path, strategy=strategy, num_trials=30, seed=seed)
            driver = driver_of(study, Planted(), memory())
            for _ in driver.steps():
                best = driver._fold.view([], status="running", reason="").best
                if best is not None and best.values[0] >= 0.97:
                    break
            counts.append(len(driver._fold.trials))
    assert median(needed["tpe"]) < 0.8 * median(needed["random"]), needed


def test_as_many_trials_are_at_work_at_once_as_were_asked_for(tmp_path: Path, memory):
    study, ground, most = study_of(tmp_path, epochs=9, num_trials=10, parallel=4), Planted(), 0
    for done, wanted in driver_of(study, ground, memory()).steps():
        most = max(most, len(ground.begun) - done)
        assert wanted == 10
    assert most == 4 and sorted(ground.begun) == list(range(10)) and study.view().trained == 10


def test_momentum_is_chosen_only_with_an_optimizer_that_has_one(tmp_path: Path, memory):
    momentum = "training.optimizer.params.momentum"
    optimizer = Dimension(path="training.optimizer", choices=("momentum", "adamw"))
    study = study_of(tmp_path, Dimension(path=momentum, low=0.5, high=0.9), RATE, optimizer, num_trials=15)
    ground = Planted()
    driven(study, ground, memory())
    found = values(study)
    assert {"momentum", "adamw"} == {params["training.optimizer"] for params in found}
    assert all((momentum in params) == (params["training.optimizer"] == "momentum") for params in found)
    for params, made in zip(found, ground.documents.values(), strict=True):
        assert made.training.optimizer.params.get("momentum") == params.get(momentum)


# ---- pruning --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pruner", ["asha", "hyperband", "median"])
def test_pruning_saves_half_of_the_epochs_and_keeps_the_winner(tmp_path: Path, memory, pruner: str):
    asked = {"strategy": "random", "pruner": pruner, "num_trials": 40}
    study, ground = study_of(tmp_path, epochs=27, id="abc", **asked), Planted(learning)
    driven(study, ground, memory())
    view = study.view()
    assert view.best is not None and view.epochs_planned == 27 * 40
    assert view.epochs_run <= 0.5 * view.epochs_planned
    assert view.best.run == max(ground.documents, key=lambda name: bowl(ground.documents[name], 27))
    early = next(trial for trial in view.trials if trial.pruned)
    assert not early.values and early.epochs < 27 and len(early.curve[0]) == early.epochs and "others" in early.reason


# ---- limits and objectives ------------------------------------------------------------------------------------------


def test_a_network_over_a_limit_is_refused_before_training_and_does_not_count(tmp_path: Path, memory):
    study, ground = study_of(tmp_path, strategy="random", num_trials=5, max_parameters=1000), Planted()
    driver = driver_of(study, ground, memory())
    driver.costs = lambda made, names: {"parameters": 500.0 if made.training.label_smoothing < 0.25 else 5000.0}
    for _ in driver.steps():
        pass
    view = study.view()
    refused = [trial for trial in view.trials if trial.status == "refused"]
    assert view.trained == 5 == len(ground.begun) and refused
    assert all(trial.params[SMOOTHING] >= 0.25 and not trial.run for trial in refused)
    assert refused[0].reason == "Parameters: 5,000 where at most 1,000 are wanted."
    with pytest.raises(ValueError, match="would be refused again. Parameters: 5,000"):
        study.requeue(refused[0].number)
    assert study.view().wanted == 5


def test_costs_are_known_without_training_and_time_is_measured():
    experiment = starter()
    found = costs_of(experiment, ["parameters", "memory_mb", "milliseconds"], 2)
    assert found["parameters"] > 1000 and 0.1 < found["memory_mb"] < 1000 and 0 < found["milliseconds"] < 10_000
    twice = costs_of(experiment.replace("training.batch_size", 2 * experiment.training.batch_size), ["memory_mb"])
    assert found["memory_mb"] < twice["memory_mb"]


def test_a_document_that_cannot_be_trained_is_no_trial_and_an_empty_space_ends_in_words(tmp_path: Path, memory):
    study = study_of(tmp_path, strategy="random", num_trials=5)
    driven(study, Planted(), memory(), sound=lambda made: ["The kernel does not fit."])
    view = study.view()
    assert view.trained == 0 and view.trials[0].reason == "The kernel does not fit." and "too narrow" in view.reason


def test_two_objectives_give_a_front_of_compromises(tmp_path: Path, memory):
    objectives = (Objective(metric="auc"), Objective(metric="parameters"))
    study = study_of(tmp_path, num_trials=15, objectives=objectives)
    driver = driver_of(study, Planted(), memory())
    driver.costs = lambda made, names: {"parameters": round(1000 * made.training.label_smoothing)}
    for _ in driver.steps():
        pass
    view = study.view()
    assert view.best is None and len(view.front) > 1 and view.rising == (True, False)
    kept = {trial.number: trial.values for trial in view.trials}
    for number in view.front:
        assert not any(a > kept[number][0] and b < kept[number][1] for a, b in kept.values())


def test_a_budget_of_computing_hours_ends_the_search(tmp_path: Path, memory):
    study, ground = study_of(tmp_path, epochs=3, num_trials=50, max_gpu_hours=10 / 3600), Planted()
    driven(study, ground, memory())  # a trial says that it has computed for three seconds
    assert len(ground.begun) == 4 and "hours together" in study.view().reason


# ---- stopping, going on, more ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["tpe", "grid"])
def test_wherever_the_driver_is_killed_the_next_one_goes_on_and_nothing_counts_twice(
    tmp_path: Path, memory, strategy: str
):
    whole = study_of(tmp_path, epochs=2, strategy=strategy, num_trials=9)
    driven(whole, Planted(), memory())
    for kill_at in (1, 2, 3, 5, 8, 17):
        study, ground, storage = study_of(tmp_path, epochs=2, strategy=strategy, num_trials=9), Planted(), memory()
        ground.kill_at = kill_at
        with pytest.raises(Killed):
            driven(study, ground, storage)
        ground.kill_at = ground._calls + 4
        with pytest.raises(Killed):
            driven(study, ground, storage)
        driven(study, ground, storage)
        view = study.view()
        assert values(study) == values(whole), kill_at
        assert sorted(ground.begun) == list(range(9)) and view.trained == 9
        assert [trial.status for trial in view.trials] == ["done"] * 9 and all(t.epochs == 2 for t in view.trials)


def test_a_driver_killed_while_values_are_drawn_draws_the_same_ones_again(tmp_path: Path, memory):
    whole, study, storage = study_of(tmp_path, num_trials=12), study_of(tmp_path, num_trials=12), memory()
    driven(whole, Planted(), memory())
    ground, driver = Planted(), driver_of(study, Planted(), storage)
    driver.ground = ground

    def sound(made: Experiment) -> list[str]:
        if len(ground.begun) == 11:
            raise Killed
        return []

    driver.sound = sound
    with pytest.raises(Killed):
        for _ in driver.steps():
            pass
    driven(study, ground, storage)
    assert values(study) == values(whole) and len(ground.begun) == 12


def test_a_trial_that_was_to_end_early_does_so_though_the_driver_was_killed_before_it_said_so(tmp_path: Path, memory):
    asked = {"epochs": 27, "id": "abc", "strategy": "random", "pruner": "asha", "num_trials": 6}
    whole, study, storage = study_of(tmp_path / "whole", **asked), study_of(tmp_path, **asked), memory()
    driven(whole, Planted(learning), memory())

    class Deaf(Planted):
        def stop(self, name: str) -> None:
            raise Killed

    ground = Deaf(learning)
    with pytest.raises(Killed):
        driven(study, ground, storage)
    ground.__class__ = Planted
    driven(study, ground, storage)
    ended = [(trial.status, trial.epochs) for trial in whole.view().trials]
    assert [trial.status for trial in study.view().trials] == [status for status, _ in ended]
    assert ("pruned", 1) in ended


def test_only_one_driver_drives_a_study(tmp_path: Path, memory):
    study = study_of(tmp_path, num_trials=3)
    first = driver_of(study, Planted(), memory()).steps()
    next(first)
    with pytest.raises(ValueError, match="driven already"):
        driven(study, Planted(), memory())
    first.close()
    driven(study, Planted(), memory(), wait_s=5)
    assert study.view().status == "done"


def test_a_stopped_study_keeps_its_running_trials_and_goes_on_with_them(tmp_path: Path):
    study, ground = study_of(tmp_path, epochs=5, num_trials=4), Planted()
    for _ in driver_of(study, ground, stop=lambda: len(ground.begun) == 3).steps():
        pass
    view = study.view()
    assert view.status == "stopped" and [t.status for t in view.trials] == ["done", "done", "running"]
    driven(study, ground)
    trials = study.view().trials
    assert [t.status for t in trials] == ["done"] * 4 and ground.begun == [0, 1, 2, 3]
    assert not any(t.retried for t in trials), "whoever stops a search ends no process"


def test_a_trial_that_still_saves_when_its_study_goes_on_goes_on_too(tmp_path: Path):
    study, ground = study_of(tmp_path, epochs=5, num_trials=4), Planted()
    for _ in driver_of(study, ground, stop=lambda: len(ground.begun) == 3).steps():
        pass
    ground.saving = set(ground.documents)  # the next driver comes while the stopped trial is not through
    driven(study, ground)
    trials = study.view().trials
    assert [t.status for t in trials] == ["done"] * 4 and ground.begun == [0, 1, 2, 3]
    assert not any(t.retried for t in trials)


def test_a_killed_trial_is_retried_once_and_marked(tmp_path: Path, memory):
    study, ground = study_of(tmp_path, num_trials=3), Planted()
    ground.ends = {0: ["lost"], 1: ["lost", "lost"]}
    driven(study, ground, memory())
    trials = study.view().trials
    assert [(trial.status, trial.retried) for trial in trials] == [("done", 1), ("failed", 1), ("done", 0)]
    assert ground.begun == [0, 1, 2]


def test_a_trial_that_fails_or_is_stopped_by_hand_is_told_and_the_search_goes_on(tmp_path: Path, memory):
    study, ground = study_of(tmp_path, num_trials=4), Planted()
    ground.ends = {0: ["failed"], 2: ["stopped"]}
    driven(study, ground, memory())
    view = study.view()
    assert [trial.status for trial in view.trials] == ["failed", "done", "stopped", "done"]
    assert view.status == "done" and view.best is not None and view.best.number in (1, 3)


def test_a_study_is_extended_and_a_trial_tried_again_once_each(tmp_path: Path, memory, monkeypatch):
    monkeypatch.setattr(Study, "resume", lambda self: None)  # this test drives by itself
    study, ground, storage = study_of(tmp_path, num_trials=3), Planted(), memory()
    driven(study, ground, storage)
    study.extend(2)
    study.requeue(1)
    with pytest.raises(ValueError, match="no trial 9"):
        study.requeue(9)
    driven(study, ground, storage)
    driven(study, ground, storage)  # the wish is heeded, not heeded again
    trials = study.view().trials
    assert len(trials) == 6 == study.view().wanted
    again = next(trial for trial in trials if trial.requeued_from == 1)
    assert again.params == trials[1].params and again.values == trials[1].values
    assert study.trial(again.number).at(LR) == trials[1].params[LR]


def test_a_trial_is_an_experiment_of_its_own(tmp_path: Path, memory):
    study = study_of(tmp_path, num_trials=2)
    driven(study, Planted(), memory())
    made = study.trial(1)
    assert made.search is None and made.training.label_smoothing == study.view().trials[1].params[SMOOTHING]
    assert trial_of(tmp_path) is None


# ---- what is kept, and what is drawn of it --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def searched(tmp_path_factory) -> tuple[Study, StudyView]:
    optimizer = Dimension(path="training.optimizer", choices=("momentum", "adamw"))
    home = tmp_path_factory.mktemp("searched")
    study = study_of(home, RATE, BLUR, optimizer, epochs=3, strategy="random", num_trials=30)
    driven(study, Planted(learning))
    return study, study.view()


def test_optuna_and_its_dashboard_read_the_storage(searched):
    import optuna

    study, view = searched
    stored = optuna.load_study(study_name=study.id, storage=storage_at(study.storage_url))
    assert stored.metric_names == ["auc"] and len(stored.trials) == 30
    assert view.best is not None and stored.best_trial.number == view.best.number
    for trial, seen in zip(stored.trials, view.trials, strict=True):
        assert trial.params == seen.params and trial.user_attrs["run"] == seen.run
        assert list(trial.intermediate_values.values()) == seen.curve[1] and trial.values == list(seen.values)


def test_importance_tells_which_choice_mattered(searched):
    _, view = searched
    assert set(view.importance) == {LR, SMOOTHING, "training.optimizer"}
    assert view.importance["training.optimizer"] == min(view.importance.values())
    assert sum(view.importance.values()) == pytest.approx(1, abs=0.001)
