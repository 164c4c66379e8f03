"""Two runs on the same cases, what a run finds hardest, and the state that is asked while it learns."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from little_run import little, starter, trained

from builder import compare as comparing
from builder import leaks, task
from builder.checkpoint import CheckpointError
from builder.compare import CompareError, compare
from builder.data import Dataset
from builder.evaluate import EvaluateError, evaluate, evaluation
from builder.hardest import NothingSaved, hardest
from builder.labels import name_classes, record
from builder.measures import bootstrap, boxes, outlines, pictures
from builder.measures.bootstrap import Asked
from builder.predict import PredictError, Predictor
from builder.runs import Run, RunStore
from builder.spec import Experiment

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


# ---- judged alike ---------------------------------------------------------------------------------------------------


def told_apart(monkeypatch: pytest.MonkeyPatch, experiments: list[Experiment], answers: list[task.Examined]) -> dict:
    """What is said of two runs that answered their validation scans like this."""
    runs = [Run(Path("/nowhere"), f"20260101-000000-00000{k}") for k in range(2)]
    by_id = {run.id: k for k, run in enumerate(runs)}
    monkeypatch.setattr(Run, "experiment", property(lambda run: experiments[by_id[run.id]]))
    monkeypatch.setattr(comparing, "answered", lambda run, *_: ((), False, answers[by_id[run.id]]))
    monkeypatch.setattr(leaks, "of_run", lambda run: leaks.Leak())
    return compare(runs[0], runs[1], Path("/nowhere"), resamples=200)


def of_task(name: str, **data: object) -> Experiment:
    found = task.find(name).starters()[0]
    for path, value in data.items():
        found = found.replace(f"data.{path}", value)
    return found


def outlined(seen: list[int], empty: tuple[int, ...] = ()) -> task.Examined:
    """Answers to 30 volumes, every third hard, of whose slices these were shown; nothing is outlined in `empty`."""
    chance, found = np.random.default_rng(1), []
    for k in range(30):
        given = np.zeros((5, 40, 40), np.uint8)
        given[1:4, 10:25, 10:25] = 1
        answer = np.roll(given, 8 if k % 3 == 0 else int(chance.integers(0, 3)), 1) * (k not in empty)
        found.append(outlines.compare(answer[seen], given[seen], (5.0, 1.0, 1.0)))
    arrays = outlines.Outlines.of(found, np.arange(30)).arrays()
    return {
        "probabilities": np.zeros((30, 0)),
        "labels": np.full(30, -1),
        "patients": np.arange(30),
        "cases": np.array([f"c{k:02d}" for k in range(30)]),
        "masked": np.ones(30, bool),
        **{f"outline_{name}": values for name, values in arrays.items()},
    }


def test_who_outlines_nothing_where_it_is_hard_is_not_better_by_its_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    every, hard = list(range(5)), tuple(range(0, 30, 3))
    found = told_apart(monkeypatch, [of_task("tumor_diagnosis")] * 2, [outlined(every), outlined(every, hard)])
    figure = found["metrics"]["hd95_mm"]
    assert (figure["both"], figure["undefined_first"], figure["undefined_second"]) == (20, 0, 10)
    assert figure["verdict"] == "same" and "the 20 that have it in both" in figure["words"]
    assert "0 more for the first and in 10 more for the second" in figure["words"]
    assert {found["metrics"][name]["verdict"] for name in ("dice", "missed")} == {"worse"}
    assert "both" not in found["metrics"]["dice"]
    alone = asked(5, np.arange(5) > 0)
    with pytest.raises(ValueError, match="case by case"):
        bootstrap.differences(alone, asked(10, np.ones(10, bool)))


def asked(rows: int, defined: np.ndarray) -> Asked:
    figures = bootstrap.means({"x": np.arange(rows)})
    return Asked(figures, np.arange(rows) % 5, None, 0, defined={"x": defined})


def test_runs_that_were_judged_by_other_outlines_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    experiments = [of_task("tumor_diagnosis", slices=slices) for slices in ("middle", "each")]
    with pytest.raises(CompareError, match=r"different outlines.*Data settings differ \(slices: middle and each\)"):
        told_apart(monkeypatch, experiments, [outlined([2]), outlined(list(range(5)))])


def test_labels_that_were_corrected_between_two_evaluations_are_told(two: Two, tmp_path: Path) -> None:
    home = Path(shutil.copytree(two[0], tmp_path / "home"))
    first, second = (RunStore(home).run(run.id) for run in two[2:])
    dataset = Dataset.open(home, first.experiment.data.dataset)
    evaluate(first, home, "test", resamples=20)
    place = int(dataset.indices("test")[0])
    record(dataset, place, label=1 - int(dataset.labels[place] > 0), origin="corrected")
    evaluate(second, home, "test", resamples=20)
    with pytest.raises(CompareError, match="different classes.*changed between.*evaluate both again"):
        compare(first, second, home, "test", resamples=20)
    evaluate(first, home, "test", resamples=20)
    assert compare(first, second, home, "test", resamples=20)["metrics"]


def restored(noise: float, output: float) -> task.Examined:
    """Two pictures with so much noise in the poor one and in the answer."""
    chance, rows = np.random.default_rng(2), []
    windows = {"all values": (0.0, 100.0)}
    for _ in range(2):
        good = np.tile(np.repeat([20.0, 80.0], 24), (48, 1))
        grain = chance.normal(0, 1, good.shape)
        made = {"output": good + output * grain, "input": good + noise * grain}
        rows.append(pictures.compare(made, good, windows))
    about = {"slices": np.zeros(2, np.int64), "cases": np.array(["c0", "c1"])}
    return {**pictures.Pictures.of(rows, np.arange(2), ["output", "input"], windows).arrays(), **about}


def found_boxes(lesions: int) -> task.Examined:
    there = [
        (np.array([[k, k, k + 9, k + 9]], float)[: lesions - k], np.zeros(max(0, min(1, lesions - k)), int))
        for k in (0, 1)
    ]
    nothing = [(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))] * 2
    found = boxes.Detections.of(nothing, there, np.arange(2)).arrays()
    return {**found, "slices": np.zeros(2, np.int64), "cases": np.array(["c0", "c1"])}


def test_other_poor_pictures_and_other_lesions_are_refused_and_other_answers_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    experiments = [
        of_task("image_enhancement", degrade={"name": "noise", "params": {"dark": dark}}) for dark in (0.05, 0.1)
    ]
    with pytest.raises(CompareError, match=r"different pictures.*\(degrade.params.dark: 0.05 and 0.1\)"):
        told_apart(monkeypatch, experiments, [restored(5, 2), restored(10, 2)])
    with pytest.raises(CompareError, match="different lesions and boxes.*evaluate both again"):
        told_apart(monkeypatch, [of_task("lesion_detection")] * 2, [found_boxes(1), found_boxes(2)])
    kind = task.find("image_enhancement")
    same, other = (kind.truth(restored(5, output)) for output in (2, 3))
    assert all(np.array_equal(same[name], other[name], equal_nan=True) for name in same)


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
