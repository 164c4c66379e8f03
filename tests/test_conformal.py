"""Sets that hold the truth as often as is said; and what is right where a network may keep silent."""

from __future__ import annotations

import numpy as np
import pytest

from builder.measures.classes import Predictions
from builder.measures.conformal import limit, report, sets, silence


def answered(seed: int, patients: int, each: int = 1, sharp: float = 1.0) -> Predictions:
    """Three classes; cases of a patient share class and much of their difficulty. `sharp` lies about confidence."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(rng.integers(0, 3, patients), each)
    own = np.repeat(rng.normal(0, 1, (patients, 3)), each, 0)
    logits = 1.5 * np.eye(3)[labels] + own + rng.normal(0, 0.4, (len(labels), 3))
    powers = np.exp(sharp * logits)
    who = np.repeat(np.arange(patients), each)
    return Predictions(powers / powers.sum(1, keepdims=True), labels, who, np.arange(len(labels)))


@pytest.mark.parametrize("level", [0.8, 0.9, 0.95])
@pytest.mark.parametrize("sharp", [0.3, 4.0])
@pytest.mark.parametrize("each", [1, 4])
def test_the_truth_is_in_the_set_as_often_as_is_said_however_wrong_the_confidence(level, sharp, each):
    held = []
    for seed in range(120):
        least = limit(answered(seed, 60, each, sharp), level)
        assert least is not None
        here = answered(10_000 + seed, 200, each, sharp)
        inside = sets(here.probabilities, least)
        held.append(inside[np.arange(len(here.labels)), here.labels].mean())
    assert level - 0.01 <= np.mean(held) <= level + 0.03  # at least, and by little more than 1 / 61


def test_too_few_patients_promise_nothing():
    assert limit(answered(0, 8), 0.9) is None and limit(answered(0, 9), 0.9) is not None
    assert limit(answered(0, 8, each=40), 0.9) is None, "forty scans of one patient are one patient"
    told = report(answered(0, 12), answered(1, 50), resamples=50)
    assert told is not None and told["patients"] == 12
    assert [row["limit"] is None for row in told["levels"]] == [False, False, True]
    assert "coverage" not in told["levels"][2]


def test_one_single_set_that_is_right_is_no_proof():
    before = Predictions(np.full((40, 2), 0.5), np.repeat([0, 1], 20), np.arange(40), np.arange(40))
    chances = np.full((100, 2), 0.5)
    chances[0] = 0.9, 0.1
    told = report(before, Predictions(chances, np.zeros(100, int), np.arange(100), np.arange(100)), (0.9,), 200)
    assert told is not None
    (row,) = told["levels"]
    assert row["single"]["value"] == 0.01
    assert row["right_when_single"] == {"value": 1.0, "low": pytest.approx(0.025), "high": 1.0}
    assert row["coverage"]["low"] == pytest.approx(0.025 ** (1 / 100))


def test_the_report_counts_sets_and_what_is_right_when_one_class_is_left():
    before, here = answered(2, 200), answered(3, 150)
    told = report(before, here, resamples=100)
    assert told is not None
    row = told["levels"][1]
    inside = sets(here.probabilities, row["limit"])
    single = inside.sum(1) == 1
    truth = inside[np.arange(150), here.labels]
    assert row["coverage"]["value"] == pytest.approx(truth.mean())
    assert row["size"] == pytest.approx(inside.sum(1).mean()) and row["empty"] == (inside.sum(1) == 0).mean()
    assert row["right_when_single"]["value"] == pytest.approx(truth[single].mean())
    assert row["coverage"]["low"] <= row["coverage"]["value"] <= row["coverage"]["high"]
    several = Predictions(here.probabilities, np.eye(3, dtype=np.uint8)[here.labels], here.patients, here.cases)
    assert report(several, several) is None and silence(several) is None


def test_silence_is_counted_from_the_surest_on_and_ties_are_answered_together():
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.6, 0.4], [0.2, 0.8]])
    here = Predictions(probabilities, np.array([0, 1, 0, 1]), np.arange(4), np.arange(4))
    told = silence(here)
    assert told == {
        "answered": [0.25, 0.5, 1.0],
        "right": [1.0, 1.0, 0.75],
        "from": [0.9, 0.8, 0.6],
    }
