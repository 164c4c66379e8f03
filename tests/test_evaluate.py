"""Figures and intervals: equal to scikit-learn, covering what they claim, computed once, openings counted."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import little_run
import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, f1_score, recall_score, roc_auc_score

from builder import evaluate as module
from builder.data import Dataset
from builder.evaluate import EvaluateError, evaluate, evaluation
from builder.measures.classes import (
    Predictions,
    areas,
    confusion,
    curve,
    draws,
    figures,
    intervals,
    majority,
    report,
)
from builder.runs import Run

NAMES = ("a", "b", "c")


def predictions(n: int = 300, k: int = 3, patients: int = 120, seed: int = 0, decimals: int = 2) -> Predictions:
    """Random answers with some skill; rounding makes ties."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, k, n)
    chances = random.dirichlet(np.ones(k), n) + 0.4 * np.eye(k)[labels]
    chances = np.round(chances / chances.sum(1, keepdims=True), decimals)
    return Predictions(chances, labels, random.integers(0, patients, n), np.arange(n).astype(str))


def values(found: Predictions) -> dict[str, np.ndarray]:
    return {name: value[0] for name, value in figures(found, np.ones((1, len(found.labels)))).items()}


# -- figures ----------------------------------------------------------------------------------------------------------


def test_figures_of_one_label_equal_those_of_scikit_learn():
    found = predictions()
    got, answered = values(found), found.probabilities.argmax(1)
    assert got["accuracy"] == pytest.approx((answered == found.labels).mean())
    assert got["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(found.labels, answered))
    assert got["f1"] == pytest.approx(f1_score(found.labels, answered, average="macro"))
    one_against_rest = [roc_auc_score(found.labels == c, found.probabilities[:, c]) for c in range(3)]
    assert got["class/auc"] == pytest.approx(one_against_rest)
    assert got["auc"] == pytest.approx(np.mean(one_against_rest))
    assert got["class/sensitivity"] == pytest.approx(recall_score(found.labels, answered, average=None))
    table = confusion_matrix(found.labels, answered)
    tp, fp = np.diag(table), table.sum(0) - np.diag(table)
    fn = table.sum(1) - tp
    tn = table.sum() - tp - fp - fn
    assert got["class/specificity"] == pytest.approx(tn / (tn + fp))
    assert got["class/ppv"] == pytest.approx(tp / (tp + fp))
    assert got["class/npv"] == pytest.approx(tn / (tn + fn))
    assert confusion(found) == table.tolist()


def test_figures_of_several_labels_equal_those_of_scikit_learn():
    random = np.random.default_rng(1)
    labels = (random.random((200, 4)) < 0.3).astype(np.uint8)
    chances = np.round(np.clip(0.3 * labels + 0.7 * random.random((200, 4)), 0, 1), 2)
    found = Predictions(chances, labels, np.arange(200), np.arange(200).astype(str))
    got = values(found)
    assert got["auc"] == pytest.approx(roc_auc_score(labels, chances, average="macro"))
    assert got["accuracy"] == pytest.approx(((chances >= 0.5) == labels).mean())
    assert got["f1"] == pytest.approx(f1_score(labels, chances >= 0.5, average="macro"))
    assert np.array(confusion(found)).shape == (4, 2, 2)
    share, _ = majority(found)
    assert share == pytest.approx(np.maximum(labels.mean(0), 1 - labels.mean(0)).mean())


def test_a_case_that_weighs_three_counts_like_three_cases():
    found = predictions(80, seed=4)
    weights = np.random.default_rng(2).integers(0, 4, (1, 80)).astype(float)
    times = weights[0].astype(int)
    repeated = Predictions(
        *(np.repeat(getattr(found, f), times, axis=0) for f in ("probabilities", "labels", "patients", "cases"))
    )
    weighed, counted = figures(found, weights), values(repeated)
    for name, value in counted.items():
        assert weighed[name][0] == pytest.approx(value), name


def test_ties_count_half_in_the_area():
    scores, positive = np.array([0.5, 0.5, 0.5, 0.5]), np.array([True, False, True, False])
    assert areas(np.ones((1, 4)), scores, positive) == pytest.approx([0.5])


def test_an_area_without_one_of_the_sides_is_undefined():
    assert np.isnan(areas(np.ones((1, 3)), np.array([0.1, 0.2, 0.3]), np.array([True, True, True]))).all()


def test_a_class_that_does_not_occur_is_told_in_words_and_never_as_nan():
    found = predictions(60, seed=3)
    found = Predictions(found.probabilities, np.minimum(found.labels, 1), found.patients, found.cases)
    told = report(found, NAMES, resamples=50)
    assert told["per_class"]["c"]["n"] == 0
    assert told["per_class"]["c"]["auc"] == {"value": None, "low": None, "high": None}
    assert told["metrics"]["auc"]["value"] == pytest.approx(np.mean(values(found)["class/auc"][:2]))
    assert any("'c' has no case" in note for note in told["notes"]) and told["roc"]["c"] is None
    json.dumps(told, allow_nan=False)


def test_the_majority_answer_is_the_share_of_the_commonest_class():
    labels = np.array([0, 0, 0, 1])
    found = Predictions(np.full((4, 2), 0.5), labels, np.arange(4), np.arange(4).astype(str))
    assert majority(found) == (0.75, 0)


def test_a_roc_curve_runs_from_corner_to_corner_in_at_most_the_points_asked_for():
    points = curve(predictions(2000, decimals=6), 0, most=50)
    assert points is not None and len(points["fpr"]) <= 50
    assert (points["fpr"][0], points["tpr"][0], points["fpr"][-1], points["tpr"][-1]) == (0, 0, 1, 1)
    assert np.all(np.diff(points["fpr"]) >= 0)


# -- intervals --------------------------------------------------------------------------------------------------------


def test_all_slices_of_a_patient_are_drawn_together_and_every_class_stays():
    labels = np.repeat([0, 0, 0, 1, 1], 3)
    patients = np.repeat([10, 11, 12, 20, 21], 3)
    found = Predictions(np.full((15, 2), 0.5), labels, patients, np.arange(15).astype(str))
    weights = np.concatenate(list(draws(found, 200, seed=0)))
    by_patient = weights.reshape(200, 5, 3)
    assert (by_patient == by_patient[:, :, :1]).all()
    assert (by_patient[:, :3, 0].sum(1) == 3).all() and (by_patient[:, 3:, 0].sum(1) == 2).all()


def test_intervals_hold_the_value_and_come_out_the_same_each_time():
    found = predictions()
    first, again = intervals(found, 300), intervals(found, 300)
    assert first == again
    for name in ("auc", "accuracy", "balanced_accuracy", "f1"):
        assert first[name]["low"] <= first[name]["value"] <= first[name]["high"]
        assert first[name]["low"] < first[name]["high"]


def test_intervals_of_patients_are_wider_than_those_of_images_where_slices_are_alike():
    one = predictions(60, patients=60, seed=7, decimals=6)
    alike = Predictions(
        *(np.repeat(getattr(one, f), 5, axis=0) for f in ("probabilities", "labels", "patients", "cases"))
    )
    apart = Predictions(alike.probabilities, alike.labels, np.arange(300), alike.cases)
    wide, narrow = intervals(alike, 400)["auc"], intervals(apart, 400)["auc"]
    assert wide["high"] - wide["low"] > 1.7 * (narrow["high"] - narrow["low"])


def test_a_95_percent_interval_covers_the_truth_about_95_times_in_a_hundred():
    random = np.random.default_rng(0)
    skill, trials, covered = 1.0, 300, 0
    truth = 0.5 * (1 + math.erf(skill / 2))  # AUC of two normal distributions one deviation apart: Phi(1 / sqrt 2)
    for _ in range(trials):
        labels = np.repeat(np.repeat([0, 1], 40), 2)
        patient = np.repeat(random.normal(0, math.sqrt(0.8), 80), 2)  # two alike slices of each of 80 patients
        score = patient + random.normal(0, math.sqrt(0.2), 160) + skill * labels
        chance = 1 / (1 + np.exp(-score))
        found = Predictions(
            np.stack([1 - chance, chance], 1), labels, np.repeat(np.arange(80), 2), np.arange(160).astype(str)
        )
        drawn = np.concatenate([areas(w, chance, labels == 1) for w in draws(found, 300, seed=1)])
        low, high = np.percentile(drawn, (2.5, 97.5))
        covered += low <= truth <= high
    assert 0.91 <= covered / trials <= 0.985, covered / trials


def test_a_network_that_always_answers_the_same_still_has_intervals():
    labels = np.repeat([0, 1], [140, 60])
    same = Predictions(np.tile([0.9, 0.1], (200, 1)), labels, np.arange(200), np.arange(200).astype(str))
    told = intervals(same, resamples=1000)
    assert told["accuracy"]["value"] == 0.7
    assert 0.62 < told["accuracy"]["low"] < 0.65 and 0.75 < told["accuracy"]["high"] < 0.78  # exact: 0.631 to 0.763
    assert told["class/ppv"][0] == told["accuracy"]
    assert told["balanced_accuracy"]["low"] < 0.5 < told["balanced_accuracy"]["high"]
    assert told["f1"]["low"] < told["f1"]["value"] < told["f1"]["high"]


def test_a_perfect_score_on_few_patients_is_no_certainty():
    labels = np.repeat([0, 1], 12)
    perfect = Predictions(np.eye(2)[labels], labels, np.arange(24) // 2, np.arange(24).astype(str))
    told = intervals(perfect, resamples=200)
    for name in ("auc", "balanced_accuracy"):  # six patients on each side
        assert told[name] == {"value": 1.0, "low": pytest.approx(0.025 ** (1 / 6)), "high": 1.0}
    assert told["accuracy"]["low"] == pytest.approx(0.025 ** (1 / 12))
    assert told["class/sensitivity"][0]["low"] == pytest.approx(0.025 ** (1 / 6))
    wrong = Predictions(np.eye(2)[1 - labels], labels, np.arange(24) // 2, np.arange(24).astype(str))
    told = intervals(wrong, resamples=200)["class/sensitivity"][1]
    assert told == {"value": 0.0, "low": 0.0, "high": pytest.approx(1 - 0.025 ** (1 / 6))}


def test_two_thousand_resamples_of_a_test_split_take_less_than_two_seconds():
    found = predictions(624, 2, 624)
    report(found, NAMES[:2], resamples=10)
    began = time.process_time()
    told = report(found, NAMES[:2])
    assert told["interval"]["resamples"] >= 1000
    assert time.process_time() - began < 2


def test_many_resamples_of_many_cases_are_drawn_in_pieces_of_bounded_memory():
    found = predictions(20_000, patients=20_000)
    assert max(weights.size for weights in draws(found, 1000, seed=0)) <= 4_000_000


# -- a run ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def little(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Dataset, Run]:
    home = tmp_path_factory.mktemp("evaluate") / "home"
    return home, *little_run.little(home)


def test_a_run_is_measured_on_its_test_split_and_the_figures_are_those_of_its_own_answers(little):
    home, dataset, run = little
    found = evaluate(run, home, resamples=100)
    rows = dataset.indices("test")
    assert (found["run"], found["split"], found["n"]) == (run.id, "test", len(rows))
    assert found["patients"] == len(set(dataset.patients[rows])) and found["synthetic"] is True
    with np.load(run.folder / "predictions-test.npz") as stored:
        answered = stored["probabilities"].argmax(1)
        assert (stored["labels"] == dataset.labels[rows]).all()
    assert found["metrics"]["accuracy"]["value"] == pytest.approx((answered == dataset.labels[rows]).mean())
    assert evaluation(run) == json.loads(json.dumps(found))


def test_answers_are_computed_once_and_each_opening_of_the_test_side_is_counted(little, monkeypatch):
    home, dataset, run = little
    before = evaluate(run, home, resamples=20)["openings"]
    monkeypatch.setattr(module.Predictor, "probabilities", lambda *_: pytest.fail("computed twice"))
    after = evaluate(run, home, resamples=20)["openings"]
    assert after == {"run": before["run"] + 1, "dataset": before["dataset"] + 1}
    assert "openings" in (evaluation(run) or {})
    lines = (dataset.folder / "test-openings.jsonl").read_text().splitlines()
    assert len(lines) == after["dataset"] and json.loads(lines[-1])["run"] == run.id


def test_looking_at_the_validation_split_opens_nothing(little):
    home, dataset, run = little
    before = (
        (dataset.folder / "test-openings.jsonl").read_text()
        if (dataset.folder / "test-openings.jsonl").exists()
        else ""
    )
    assert "openings" not in evaluate(run, home, "val", resamples=20)
    path = dataset.folder / "test-openings.jsonl"
    assert (path.read_text() if path.exists() else "") == before


def test_stored_answers_of_other_weights_are_not_used(little):
    from builder import checkpoint

    home, dataset, run = little
    old = evaluate(run, home, "val", resamples=20)
    path = run.folder / "best.safetensors"
    kept = path.read_bytes()
    stored = checkpoint.load_weights(path)
    tensors = {name: tensor * 0 if tensor.is_floating_point() else tensor for name, tensor in stored.tensors.items()}
    words = {k: v for k, v in stored.metadata.items() if k not in ("format", "version")}
    try:
        checkpoint.save_weights(path, tensors, words)
        new = evaluate(run, home, "val", resamples=20)
    finally:
        path.write_bytes(kept)
    assert new["checkpoint"] != old["checkpoint"]
    with np.load(run.folder / "predictions-val.npz") as found:
        assert np.allclose(found["probabilities"], 1 / 3)


def test_a_damaged_file_of_answers_is_computed_again(little):
    home, _, run = little
    first = evaluate(run, home, "val", resamples=20)["metrics"]
    path = run.folder / "predictions-val.npz"
    path.write_bytes(path.read_bytes()[:100])
    assert evaluate(run, home, "val", resamples=20)["metrics"] == first


def test_a_data_set_with_other_classes_is_refused_in_words(little, monkeypatch):
    home, _, run = little
    monkeypatch.setattr(
        module.Dataset,
        "open",
        classmethod(lambda cls, home, id: type("Other", (), {"classes": ("x",), "multi_label": False})()),
    )
    with pytest.raises(EvaluateError, match="was trained on the classes"):
        evaluate(run, home)
