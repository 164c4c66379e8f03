"""Figures of classes and their intervals: equal to scikit-learn and torchmetrics, covering what they claim."""

from __future__ import annotations

import json
import math
import time

import numpy as np
import pytest
import torch
from sklearn.metrics import (
    balanced_accuracy_score,
    brier_score_loss,
    confusion_matrix,
    f1_score,
    log_loss,
    recall_score,
    roc_auc_score,
    roc_curve,
)
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from builder.measures import bootstrap
from builder.measures.bootstrap import interval
from builder.measures.classes import (
    Predictions,
    areas,
    at_thresholds,
    calibration,
    calibration_error,
    confusion,
    curve,
    draws,
    figures,
    intervals,
    majority,
    reliability,
    report,
    sensitivity_at,
    temperature,
    tempered,
    youden,
)
from builder.measures.named import spoken, with_value

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


def test_ppv_rests_on_those_who_are_so_answered_and_npv_on_those_who_are_not():
    labels = np.repeat([0, 1], 50)
    second = np.where(labels == 1, 0.3, 0.2)
    second[50] = 0.95  # the only one that is answered
    told = Predictions(np.stack([1 - second, second], 1), labels, np.arange(100), np.arange(100).astype(str))
    _, row = at_thresholds(told, [None, 0.9], resamples=200)
    assert row is not None
    one = {"value": 1.0, "low": pytest.approx(0.025), "high": 1.0}
    assert row["ppv"] == one and row["specificity"]["low"] == pytest.approx(0.025 ** (1 / 50))
    whole = intervals(told, 200)
    assert whole["class/ppv"][1] == one
    least = np.where(np.arange(100) == 0, 0.1, 0.9)  # one alone is not answered, and has not the class
    other = Predictions(np.stack([1 - least, least], 1), labels, np.arange(100), np.arange(100).astype(str))
    assert intervals(other, 200)["class/npv"][1] == one
    _, row = at_thresholds(other, [None, 0.5], resamples=200)
    assert row is not None and row["npv"] == one


def test_a_class_without_cases_makes_the_means_of_the_others_no_less_sure():
    labels = np.repeat([0, 1], 40)
    three = np.eye(3)[labels] * 0.8 + 0.05
    told = [
        intervals(Predictions(chances, labels, np.arange(80), np.arange(80).astype(str)), 100)
        for chances in (three, three[:, :2])
    ]
    for name in ("auc", "balanced_accuracy"):
        assert told[0][name] == told[1][name] == {"value": 1.0, "low": pytest.approx(0.025 ** (1 / 40)), "high": 1.0}


def test_a_perfect_area_is_no_surer_than_its_smaller_side():
    labels = np.repeat([0, 1], [3, 57])
    told = intervals(Predictions(np.eye(2)[labels], labels, np.arange(60), np.arange(60).astype(str)), 100)
    for figure in (told["auc"], *told["class/auc"]):
        assert figure["low"] == pytest.approx(0.025 ** (1 / 3))


def test_what_nobody_counts_for_a_figure_rests_on_the_patients_who_alone_define_it():
    """Of forty patients (two cases each) three have a value, and it is 1."""
    values = {"some": np.where(np.arange(80) < 6, 1.0, np.nan), "all": np.ones(80)}
    told = bootstrap.intervals(bootstrap.means(values), np.arange(80) // 2, 200)
    assert told["some"] == {"value": 1.0, "low": pytest.approx(0.025 ** (1 / 3)), "high": 1.0}
    assert told["all"]["low"] == pytest.approx(0.025 ** (1 / 40))
    values["some"][2:] = np.nan
    alone = bootstrap.intervals(bootstrap.means(values), np.arange(80) // 2, 200, shares=())
    assert alone["some"] == {"value": 1.0, "low": None, "high": None}, "one patient has no interval"
    assert alone["all"] == {"value": 1.0, "low": 1.0, "high": 1.0}


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


# -- operating points and calibration ---------------------------------------------------------------------------------


def skilled(n: int, seed: int, sharp: float = 1.0) -> Predictions:
    """Two classes whose probabilities are true where `sharp` is 1, and too sure of themselves where it is more."""
    random = np.random.default_rng(seed)
    logit = random.normal(0, 1.5, n)
    labels = (random.random(n) < 1 / (1 + np.exp(-logit))).astype(np.int64)
    chance = 1 / (1 + np.exp(-sharp * logit))
    return Predictions(np.stack([1 - chance, chance], 1), labels, np.arange(n), np.arange(n).astype(str))


@pytest.mark.parametrize("specificity", [0.0, 0.5, 0.9, 0.95, 1.0])
def test_sensitivity_at_a_specificity_is_the_best_point_of_the_roc_curve_that_has_it(specificity: float):
    found = predictions(240, 2, decimals=1)
    positive, scores = found.labels == 1, found.probabilities[:, 1]
    fpr, tpr, _ = roc_curve(positive, scores, drop_intermediate=False)
    best = tpr[1 - fpr >= specificity - 1e-9].max()
    assert sensitivity_at(np.ones((1, 240)), scores, positive, (specificity,))[0, 0] == pytest.approx(best)


def test_sensitivity_at_a_specificity_counts_weights_like_repeated_cases():
    found = predictions(100, 2, seed=6)
    weights = np.random.default_rng(1).integers(0, 4, (3, 100)).astype(float)
    got = sensitivity_at(weights, found.probabilities[:, 1], found.labels == 1)
    for row, times in zip(got, weights.astype(int), strict=True):
        scores, positive = np.repeat(found.probabilities[:, 1], times), np.repeat(found.labels == 1, times)
        assert row == pytest.approx(sensitivity_at(np.ones((1, len(scores))), scores, positive)[0])


def test_the_threshold_of_youden_parts_the_sides_as_well_as_any_and_lies_between_two_scores():
    found = predictions(300, 2, seed=2)
    (zero, one) = youden(found)
    positive, scores = found.labels == 1, found.probabilities[:, 1]
    fpr, tpr, _ = roc_curve(positive, scores, drop_intermediate=False)
    assert zero is not None and one is not None and one not in scores
    answered = scores >= one
    assert answered[positive].mean() + (~answered)[~positive].mean() - 1 == pytest.approx((tpr - fpr).max())


def test_by_hand_the_threshold_of_youden_lies_halfway():
    chance = np.array([0.1, 0.2, 0.6, 0.8])
    found = Predictions(np.stack([1 - chance, chance], 1), np.array([0, 0, 1, 1]), np.arange(4), np.arange(4))
    assert youden(found)[1] == pytest.approx(0.4)
    alone = Predictions(found.probabilities, np.ones(4, np.int64), np.arange(4), np.arange(4))
    assert youden(alone) == [None, None]


def test_a_threshold_from_the_validation_side_is_carried_to_the_test_side_with_what_it_achieves():
    test = skilled(400, seed=1)
    (_, limit) = youden(skilled(400, seed=0))
    (nothing, told) = at_thresholds(test, (None, limit), resamples=200)
    answered, positive = test.probabilities[:, 1] >= limit, test.labels == 1
    assert nothing is None and told is not None and told["threshold"] == limit
    assert told["sensitivity"]["value"] == pytest.approx(answered[positive].mean())
    assert told["specificity"]["value"] == pytest.approx((~answered)[~positive].mean())
    assert told["ppv"]["value"] == pytest.approx(positive[answered].mean())
    assert told["npv"]["low"] < told["npv"]["value"] < told["npv"]["high"]


def test_the_brier_score_equals_that_of_scikit_learn():
    found = predictions(decimals=8)
    assert values(found)["brier"] == pytest.approx(brier_score_loss(found.labels, found.probabilities) / 2)
    two = skilled(200, 3)
    assert values(two)["brier"] == pytest.approx(brier_score_loss(two.labels, two.probabilities[:, 1]))


def test_the_calibration_error_equals_that_of_torchmetrics():
    found = predictions(decimals=8)
    given = torch.tensor(found.probabilities), torch.tensor(found.labels)
    theirs = multiclass_calibration_error(*given, num_classes=3, n_bins=15)
    assert values(found)["ece"] == pytest.approx(float(theirs), abs=1e-6)
    random = np.random.default_rng(0)
    labels, chances = (random.random((80, 2)) < 0.4).astype(np.uint8), random.random((80, 2))
    several = Predictions(chances, labels, np.arange(80), np.arange(80))
    # torchmetrics turns several labels into one long list too, once they are flattened
    theirs = binary_calibration_error(torch.tensor(chances.ravel()), torch.tensor(labels.ravel().astype(int)), 15)
    assert values(several)["ece"] == pytest.approx(float(theirs), abs=1e-6)


def test_the_reliability_diagram_counts_by_hand():
    chance = np.array([0.75, 0.72, 0.99, 1.0])
    found = Predictions(np.stack([chance, 1 - chance], 1), np.array([0, 1, 0, 0]), np.arange(4), np.arange(4))
    told = reliability(found, bins=5)
    assert told["n"] == [0, 0, 0, 2, 2] and told["right"] == [None, None, None, 0.5, 1.0]
    assert told["confidence"][3:] == [pytest.approx(0.735), pytest.approx(0.995)]
    assert calibration_error(found, np.ones((1, 4)), bins=5)[0] == pytest.approx((0.235 * 2 + 0.005 * 2) / 4)


def test_temperature_brings_back_the_confidence_that_is_true():
    validation, test = skilled(4000, 0, sharp=3.0), skilled(4000, 1, sharp=3.0)
    found = temperature(validation)
    assert found is not None and found == pytest.approx(3.0, rel=0.1)
    told = calibration(test, found)
    assert told["temperature"] == found
    assert told["tempered"]["ece"] < 0.25 * told["given"]["ece"]
    assert told["tempered"]["brier"] < told["given"]["brier"]
    moved = tempered(test.probabilities, found, multi_label=False)
    assert (moved.argmax(1) == test.probabilities.argmax(1)).all() and moved.sum(1) == pytest.approx(1)
    assert log_loss(test.labels, moved) < log_loss(test.labels, test.probabilities)
    several = Predictions(test.probabilities, np.eye(2, dtype=np.uint8)[test.labels], test.patients, test.cases)
    assert temperature(several) == pytest.approx(found, rel=1e-2)
    assert tempered(test.probabilities, found, True) == pytest.approx(moved)


def test_probabilities_of_nought_and_one_stay_finite_under_any_temperature():
    sure = np.array([[1.0, 0.0], [0.0, 1.0]])
    for several in (False, True):
        assert np.isfinite(tempered(sure, 0.05, several)).all() and np.isfinite(tempered(sure, 20.0, several)).all()


def test_the_report_tells_operating_points_and_calibration_only_where_they_were_chosen_before():
    found = skilled(200, 5)
    plain = report(found, NAMES[:2], resamples=50)
    assert plain["operating_points"] is None and plain["calibration"]["tempered"] is None
    told = report(found, NAMES[:2], resamples=50, thresholds=(0.5, None), fitted=2.0)
    assert told["operating_points"]["b"] is None and told["operating_points"]["a"]["threshold"] == 0.5
    assert told["calibration"]["tempered"]["brier"] > 0
    at = told["per_class"]["a"]["sensitivity_at_specificity_90"]
    assert at["low"] <= at["value"] <= at["high"]
    json.dumps(told, allow_nan=False)


def test_one_patient_has_a_value_and_no_interval():
    assert interval(0.7, np.full(100, 0.7), patients=1) == {"value": 0.7, "low": None, "high": None}
    assert interval(3.0, np.full(100, 3.0), patients=1, share=False) == {"value": 3.0, "low": None, "high": None}
    assert interval(1.0, np.full(100, 1.0), patients=5, share=False) == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert interval(math.nan, np.full(100, 1.0), 5) == interval(1.0, np.full(3, math.nan), 5)


def test_an_interval_of_what_resampling_shifts_is_corrected_and_still_holds_the_value():
    found = skilled(100, 8, sharp=1.6)
    drawn = np.concatenate([calibration_error(found, w) for w in draws(found, 1000, 0, stratified=False)])
    value = calibration_error(found, np.ones((1, 100)))[0]
    assert drawn.mean() > 1.15 * value
    plain, corrected = interval(value, drawn, 100), interval(value, drawn, 100, shifted=True)
    assert corrected["low"] < plain["low"] and corrected["high"] < plain["high"]  # type: ignore[operator]
    assert interval(0.0, drawn, 100, shifted=True)["low"] == pytest.approx(drawn.min(), abs=1e-3)
    even = np.random.default_rng(0).normal(0.5, 0.1, 20_000)
    plain, corrected = interval(0.5, even, 100), interval(0.5, even, 100, shifted=True)
    assert corrected["low"] == pytest.approx(plain["low"], abs=0.01)


def test_a_bias_corrected_interval_covers_the_calibration_error_far_more_often():
    truth = calibration_error(skilled(200_000, 9, sharp=1.6), np.ones((1, 200_000)))[0]
    plain = corrected = 0
    for seed in range(60):
        found = skilled(200, 100 + seed, sharp=1.6)
        drawn = np.concatenate([calibration_error(found, w) for w in draws(found, 300, 0, stratified=False)])
        value = calibration_error(found, np.ones((1, 200)))[0]
        for shifted in (False, True):
            told = interval(value, drawn, 200, shifted=shifted)
            held = told["low"] <= truth <= told["high"]  # type: ignore[operator]
            plain, corrected = plain + (held and not shifted), corrected + (held and shifted)
    assert corrected / 60 > 0.75 > plain / 60


def test_a_figure_is_called_the_same_in_a_sentence_its_unit_behind_the_value():
    assert [spoken(name) for name in ("balanced_accuracy", "auc", "map50", "dice")] == [
        "balanced accuracy",
        "AUC",
        "AP at IoU 0.5",
        "Dice",
    ]
    assert with_value("auc", 0.91234) == "AUC 0.912"
    assert with_value("psnr_db", 34.5) == "PSNR 34.500 dB"
    assert with_value("map50", 0.8871) == "AP at IoU 0.5: 0.887"
    assert [with_value("loss", value) for value in (0.000321, 0.0, 1.1)] == [
        "loss 0.000321",
        "loss 0.000",
        "loss 1.100",
    ]
