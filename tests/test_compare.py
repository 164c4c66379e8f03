"""Two runs on the same cases, what a run finds hardest, and the state that is asked while it learns."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from little_run import little, starter, trained

from builder import task
from builder.checkpoint import CheckpointError
from builder.compare import CompareError, compare
from builder.data import Dataset
from builder.evaluate import EvaluateError, evaluate, evaluation
from builder.hardest import NothingSaved, hardest
from builder.labels import name_classes, record
from builder.measures import bootstrap
from builder.measures.bootstrap import Asked
from builder.predict import PredictError, Predictor
from builder.runs import Run, RunStore

Two = tuple[Path, Dataset, Run, Run]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Two:
    """A data folder with a data set and two runs of one epoch on it, that differ in their seed."""
    home = tmp_path_factory.mktemp("compare") / "home"
    dataset, first = little(home)
    second = trained(home, first.experiment.replace("training.seed", 7), dataset)
    return home, dataset, first, second


def right(values: np.ndarray, patients: np.ndarray) -> Asked:
    return Asked(bootstrap.means({"accuracy": values.astype(float)}), patients, None, 0)


def test_the_interval_of_a_difference_is_that_of_a_paired_bootstrap_worked_out_by_hand() -> None:
    chance = np.random.default_rng(4)
    patients = np.repeat(np.arange(12), 3)
    hard = np.repeat(chance.random(12), 3)
    one, other = (chance.random(36) > hard * share for share in (0.9, 0.6))
    told = bootstrap.differences(right(one, patients), right(other, patients), resamples=500, seed=9)["accuracy"]
    drawn, again = [], np.random.default_rng(9)
    for members in again.integers(0, 12, (500, 12)):  # patients with replacement, both runs on the same ones
        rows = np.concatenate([np.flatnonzero(patients == who) for who in members])
        drawn.append(other[rows].mean() - one[rows].mean())
    low, high = np.quantile(drawn, (0.025, 0.975))
    assert told["difference"] == pytest.approx(other.mean() - one.mean())
    assert (told["low"], told["high"]) == (pytest.approx(low), pytest.approx(high))


def test_pairing_takes_out_what_makes_a_patient_hard_for_both() -> None:
    """Of 40 patients half are hopeless for both; the second run is right on a few more: unpaired it would not show."""
    patients = np.arange(40)
    one = np.array([0] * 20 + [1] * 20)
    other = np.array([0] * 14 + [1] * 26)
    told = bootstrap.differences(right(one, patients), right(other, patients))["accuracy"]
    assert told["low"] is not None and told["low"] > 0
    alone = [
        bootstrap.intervals(a.figures, patients)["accuracy"] for a in (right(one, patients), right(other, patients))
    ]
    assert alone[0]["high"] > alone[1]["low"], "the intervals of the two overlap"


def test_rows_may_differ_and_patients_may_not() -> None:
    few, many = np.array([3, 1, 2]), np.array([1, 1, 2, 2, 3, 3])
    told = bootstrap.differences(right(np.ones(3), few), right(np.array([1, 0] * 3), many))["accuracy"]
    assert (told["difference"], told["low"], told["high"]) == (-0.5, -0.5, -0.5)
    with pytest.raises(ValueError, match="same patients"):
        bootstrap.differences(right(np.ones(3), few), right(np.ones(2), np.array([1, 2])))
    alone = bootstrap.differences(right(np.ones(1), few[:1]), right(np.zeros(1), few[:1]))["accuracy"]
    assert alone["difference"] == -1 and alone["low"] is None, "one patient has no interval"


def test_every_figure_of_both_runs_is_compared_and_told_in_words(two: Two) -> None:
    home, _, first, second = two
    found = compare(first, second, home, resamples=100)
    judged = [evaluate(run, home, "val", resamples=20)["metrics"] for run in (first, second)]
    assert list(found["metrics"])[0] == "auc" and {"accuracy", "brier", "ece"} <= set(found["metrics"])
    for name, told in found["metrics"].items():
        for side, figures in zip(("first", "second"), judged, strict=True):
            assert told[side] == pytest.approx(figures[name]["value"]), name
        assert told["difference"] == pytest.approx(told["second"] - told["first"])
        assert told["words"] and (told["low"] is None or told["low"] <= told["difference"] <= told["high"])
    assert found["metrics"]["brier"]["better"] == "lower" and found["metrics"]["auc"]["better"] == "higher"
    assert json.loads(json.dumps(found)) == found
    assert any("by chance" in note for note in found["notes"])


def test_a_run_is_as_good_as_its_own_copy(two: Two) -> None:
    home, dataset, first, _ = two
    copy = trained(home, first.experiment, dataset)
    found = compare(first, copy, home, resamples=50)
    assert {told["verdict"] for told in found["metrics"].values()} <= {"same", "undefined"}


def test_comparing_opens_no_test_side(two: Two) -> None:
    home, dataset, first, second = two
    openings = dataset.folder / "test-openings.jsonl"
    with pytest.raises(CompareError, match="evaluated on the test scans first"):
        compare(first, second, home, "test")
    assert not openings.exists()
    for run in (first, second):
        evaluate(run, home, "test", resamples=20)
    before = openings.read_bytes()
    assert compare(first, second, home, "test", resamples=20)["split"] == "test"
    assert openings.read_bytes() == before
    with pytest.raises(CompareError, match="same run"):
        compare(first, first, home)


def test_runs_are_compared_by_the_classes_they_were_taught_though_the_data_set_has_more_by_now(
    two: Two, tmp_path: Path
) -> None:
    home = Path(shutil.copytree(two[0], tmp_path / "home"))
    first, second = (RunStore(home).run(run.id) for run in two[2:])
    for run in (first, second):
        if not evaluation(run):
            evaluate(run, home, "test", resamples=20)
    before = compare(first, second, home, "test", resamples=20)
    dataset = Dataset.open(home, first.experiment.data.dataset)
    name_classes(dataset, ["newt"])
    assert compare(first, second, home, "test", resamples=20)["metrics"] == before["metrics"]
    with pytest.raises(EvaluateError, match="now has .*newt. Train anew"):
        evaluate(first, home, "test", resamples=20)
    with pytest.raises(CheckpointError, match="was taught the classes"):
        hardest(first.experiment, task.find("recognition"), dataset, first.folder, tmp_path)


# ---- the hardest cases ----------------------------------------------------------------------------------------------


def test_the_hardest_cases_come_first_with_their_loss_and_picture(two: Two, tmp_path: Path) -> None:
    home, dataset, run, _ = two
    kind = task.find("recognition")
    found = hardest(run.experiment, kind, dataset, run.folder, tmp_path)
    losses = [entry["loss"] for entry in found["cases"]]
    assert losses == sorted(losses, reverse=True) and len(losses) == found["n"] == len(dataset.indices("train"))
    predictor = Predictor.open(run.folder, "last")
    top = found["cases"][0]
    image = predictor.prepared(dataset.scan(top["index"]))
    chances = dict(zip(predictor.classes, predictor.probabilities(image[None])[0], strict=True))
    assert top["loss"] == pytest.approx(-np.log(chances[top["label"]]), abs=2e-3)
    assert top["sure"] == pytest.approx(max(chances.values()), abs=2e-3)
    assert all((tmp_path / entry["picture"]).stat().st_size for entry in found["cases"])
    assert found["epoch"] == 1


def test_a_corrected_label_is_what_its_loss_is_of(two: Two, tmp_path: Path) -> None:
    home, dataset, run, _ = two
    kind = task.find("recognition")
    before = hardest(run.experiment, kind, dataset, run.folder, tmp_path)["cases"][0]
    fresh = Dataset.open(home, dataset.id)
    record(fresh, before["index"], label=fresh.classes.index(before["says"]), origin="corrected")
    again = {e["case"]: e for e in hardest(run.experiment, kind, fresh, run.folder, tmp_path)["cases"]}
    if before["says"] != before["label"]:
        assert again[before["case"]]["loss"] < before["loss"]
    assert again[before["case"]]["label"] == before["says"]
    assert fresh.history(before["index"])[-1].origin == "corrected"


def test_a_run_without_a_saved_state_has_no_hardest_cases(two: Two, tmp_path: Path) -> None:
    home, dataset, run, _ = two
    fresh = RunStore(home).create(run.experiment, queue=False)
    with pytest.raises(NothingSaved):
        hardest(fresh.experiment, task.find("recognition"), dataset, fresh.folder, tmp_path)
    RunStore(home).delete(fresh.id)


# ---- asked while it learns ------------------------------------------------------------------------------------------


def test_the_last_state_answers_with_its_own_weights_and_says_when_it_is_from(two: Two) -> None:
    from builder import checkpoint
    from builder.train import train

    home, dataset, first, _ = two
    run = RunStore(home).create(starter().replace("data.dataset", dataset.id).replace("data.size_px", 32), queue=False)
    with pytest.raises(PredictError, match="after its first epoch"):
        Predictor.open(run.folder, "last")
    list(train(run.experiment, task.find("recognition"), dataset, run.folder, stop=lambda: True))
    last = Predictor.open(run.folder, "last")
    assert (last.epoch, last.step) == (1, 1)
    saved = checkpoint.load_latest(run.folder, "last")
    assert saved is not None
    assert all(torch.equal(last.net.state_dict()[name], value) for name, value in saved.state["model"].items())
    finding = last.finding(dataset.scan(0))
    assert sum(finding.probabilities.values()) == pytest.approx(1, abs=1e-4)
    with pytest.raises(PredictError, match="no saved weights"):
        Predictor.open(run.folder)
    assert Predictor.open(first.folder).epoch == 1
    RunStore(home).delete(run.id)
