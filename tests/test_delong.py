"""DeLong's test equals the formula of the paper worked out pair by pair, and counts cases of one patient together."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from builder.compare import _delong_words, _tested
from builder.measures.delong import delong


def by_pairs(first: np.ndarray, second: np.ndarray, positive: np.ndarray) -> tuple[float, float]:
    """(difference, p) as in DeLong et al. 1988, equations 2 to 5: every positive against every negative."""
    components = []
    for scores in (first, second):
        kernel = np.sign(scores[positive][:, None] - scores[~positive][None]) / 2 + 0.5
        components.append((kernel.mean(1), kernel.mean(0), kernel.mean()))
    up = np.cov([components[0][0], components[1][0]])
    down = np.cov([components[0][1], components[1][1]])
    covariance = up / positive.sum() + down / (~positive).sum()
    difference = components[1][2] - components[0][2]
    error = math.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    return difference, 2 * stats.norm.sf(abs(difference) / error)


@pytest.mark.parametrize("seed", range(20))
def test_it_equals_the_paper_and_scikit_learn_on_seeded_cases_with_ties(seed):
    random = np.random.default_rng(seed)
    positive = random.random(60) < 0.4
    first = np.round(random.normal(size=60) + positive, 1)
    second = np.round(first + random.normal(size=60) * 0.7 + 0.3 * positive, 1)
    told = delong(first, second, positive, np.arange(60))
    assert told is not None
    difference, p = by_pairs(first, second, positive)
    assert told["first"] == pytest.approx(roc_auc_score(positive, first))
    assert told["second"] == pytest.approx(roc_auc_score(positive, second))
    assert told["difference"] == pytest.approx(difference)
    assert told["p"] == pytest.approx(p, abs=1e-9)


def test_where_nothing_differs_one_in_twenty_seems_to():
    random = np.random.default_rng(0)
    found = 0
    for _ in range(600):
        positive = np.arange(80) < 40
        shared = random.normal(size=80) + positive
        told = delong(shared + random.normal(size=80), shared + random.normal(size=80), positive, np.arange(80))
        found += told is not None and told["p"] < 0.05
    assert 0.03 <= found / 600 <= 0.075


def test_five_cases_of_each_patient_do_not_count_as_five_patients():
    random = np.random.default_rng(1)
    alone, together = 0, 0
    for _ in range(200):
        patients = np.repeat(np.arange(40), 5)
        positive = patients < 20
        shared = random.normal(size=40)[patients] + positive
        one, other = (shared + random.normal(size=40)[patients] for _ in range(2))
        for who in (np.arange(200), patients):
            told = delong(one, other, positive, who)
            assert told is not None
            if who is patients:
                together += told["p"] < 0.05
            else:
                alone += told["p"] < 0.05
    assert together / 200 < 0.11 < 0.3 < alone / 200


def test_two_runs_are_tested_class_by_class_whatever_the_order_of_their_cases():
    random = np.random.default_rng(2)
    labels = np.arange(90) % 3
    chances = random.dirichlet(np.ones(3), 90)
    cases = np.array([f"c{n:02d}" for n in range(90)])
    first = {"probabilities": chances, "labels": labels, "patients": np.arange(90), "cases": cases}
    better = chances.copy()
    better[np.arange(90), labels] += 0.5
    order = random.permutation(90)
    second = {"probabilities": better, "labels": labels, "patients": np.arange(90), "cases": cases}
    told = _tested(("a", "b", "c"), first, {name: values[order] for name, values in second.items()})
    assert set(told) == {"a", "b", "c"} and all(test["difference"] > 0 and test["p"] < 0.001 for test in told.values())
    assert "p < 0.001" in _delong_words(told)[0]
    two = _tested(("no", "yes"), *({**one, "probabilities": one["probabilities"][:, :2]} for one in (first, second)))
    assert set(two) == {"yes"}, "of two classes one area says it all"
    assert _tested(("a",), {"boxes": labels}, {"boxes": labels}) == {} and _delong_words({}) == []
    assert delong(chances[:, 0], chances[:, 0], labels == 0, np.arange(90)) is None, (
        "the same answers differ in nothing"
    )
    assert delong(chances[:, 0], better[:, 0], labels == 9, np.arange(90)) is None


def test_cases_of_unknown_class_are_left_out_and_one_class_has_no_test():
    """As a tumour that is outlined and whose type nobody told (-1)."""
    random = np.random.default_rng(5)
    labels = np.repeat([0, 1, -1], 30)
    chances = np.clip((labels != 0) * 0.4 + random.random((2, 90)) * 0.6, 0, 1)
    about = {"labels": labels, "patients": np.arange(90), "cases": np.array([f"c{n:02d}" for n in range(90)])}
    pair = [{**about, "probabilities": np.stack([1 - chance, chance], 1)} for chance in chances]
    known = [{name: values[labels >= 0] for name, values in one.items()} for one in pair]
    told = _tested(("benign", "malignant"), *pair)
    assert told and told == _tested(("benign", "malignant"), *known)
    assert told["malignant"]["first"] == pytest.approx(roc_auc_score(labels[:60], chances[0, :60]))
    single = {**about, "probabilities": np.zeros((90, 0))}
    assert _tested(("tumour",), single, single) == {}
