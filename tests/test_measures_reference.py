"""Figures of classes against reference implementations on seeded cases (FROC against MONAI: test_measures_boxes), and
what an interval promises."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import mannwhitneyu
from sklearn.metrics import balanced_accuracy_score, brier_score_loss, f1_score, roc_auc_score, roc_curve

from builder.measures import bootstrap
from builder.measures.classes import Predictions, figures
from builder.measures.ranks import Ranks


def drawn(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, some of them tied, who has the class, and whole weights of 12 to 80 cases."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(12, 80))
    positive = rng.random(count) < rng.uniform(0.2, 0.8)
    positive[:2] = True, False
    scores = 1 / (1 + np.exp(-(rng.normal(0, 1, count) + rng.uniform(0, 2) * positive)))
    if seed % 2:
        scores = np.round(scores, 1)
    return scores, positive, rng.integers(0, 4, count).astype(float)


def test_200_seeded_cases_come_out_as_in_scikit_learn_and_scipy() -> None:
    for seed in range(200):
        scores, positive, weights = drawn(seed)
        weights[:2] = 1  # both sides keep a case
        area, at = Ranks(scores, positive).read(np.stack([np.ones_like(weights), weights]), (0.9, 0.95))
        assert area[0] == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)
        assert area[1] == pytest.approx(roc_auc_score(positive, scores, sample_weight=weights), abs=1e-9)
        statistic = mannwhitneyu(scores[positive], scores[~positive]).statistic
        assert area[0] == pytest.approx(statistic / (positive.sum() * (~positive).sum()), abs=1e-12)
        fpr, tpr, _ = roc_curve(positive, scores, drop_intermediate=False)
        for k, specificity in enumerate((0.9, 0.95)):
            assert at[0, k] == pytest.approx(tpr[1 - fpr >= specificity - 1e-9].max(), abs=1e-12)
        chances = np.stack([1 - scores, scores], 1)
        labels = positive.astype(np.int64)
        of = Predictions(chances, labels, np.arange(len(labels)), np.arange(len(labels)))
        told = {name: value[0] for name, value in figures(of, np.ones((1, len(labels)))).items()}
        answer = chances.argmax(1)
        assert told["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, answer))
        assert told["brier"] == pytest.approx(brier_score_loss(labels, scores))
        both = f1_score(labels, answer, average=None, zero_division=0)
        assert np.nan_to_num(told["class/f1"]) == pytest.approx(both)


def test_the_interval_of_a_known_area_holds_it_as_often_as_it_says() -> None:
    """300 simulations of 60 and 60 patients whose scores are normal, 1 apart: the true area is Phi(1 / sqrt 2)."""
    truth, held = 0.7602499389065233, 0
    positive = np.arange(120) < 60
    for seed in range(300):
        scores = np.random.default_rng(seed).normal(0, 1, 120) + positive
        ranks, strata = Ranks(scores, positive), [np.arange(60), np.arange(60, 120)]
        told = bootstrap.spread(lambda w, r=ranks: {"auc": r.read(w)[0]}, np.arange(120), 400, seed, strata)["auc"]  # type: ignore[misc]
        low, high = np.quantile(told, (0.025, 0.975))
        held += low <= truth <= high
    assert 0.93 <= held / 300 <= 0.97
