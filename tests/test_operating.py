"""A threshold among one's own patients: Bayes, intervals that cover, a thousand people, costs, what was kept."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from builder import operating
from builder.measures.classes import Predictions, youden
from builder.measures.operating import Separation, people
from builder.operating import Choice
from builder.runs import Run


def drawn(seed: int, count: int = 200, share: float = 0.4, apart: float = 1.2) -> Separation:
    """Scores of cases that lie `apart` standard deviations apart on the logit scale; one case a patient."""
    rng = np.random.default_rng(seed)
    positive = rng.random(count) < share
    positive[:2] = True, False
    scores = 1 / (1 + np.exp(-(rng.normal(0, 1, count) + apart * (positive - 0.5))))
    return Separation(scores, positive, np.arange(count))


def test_the_shares_are_counted_and_the_predictive_values_follow_bayes():
    here = drawn(0)
    for threshold in (0.0, 0.3, 0.5, 0.77, 1.0):
        answered = here.scores >= threshold
        told = here.at(threshold, 0.05)
        sensitivity = answered[here.positive].mean()
        specificity = (~answered[~here.positive]).mean()
        assert told["sensitivity"]["value"] == pytest.approx(sensitivity)
        assert told["specificity"]["value"] == pytest.approx(specificity)
        hits, alarms = 0.05 * sensitivity, 0.95 * (1 - specificity)
        if hits + alarms:
            assert told["ppv"]["value"] == pytest.approx(hits / (hits + alarms))
            assert told["false_discovery"]["value"] == pytest.approx(alarms / (hits + alarms))
        else:
            assert told["ppv"]["value"] is None and told["false_discovery"]["low"] is None
        for name in ("sensitivity", "specificity", "ppv", "npv", "false_discovery", "false_omission"):
            low, value, high = (told[name][end] for end in ("low", "value", "high"))
            assert value is None or 0 <= low <= value <= high <= 1
    at_own = here.at(0.5, here.prevalence)
    answered = here.scores >= 0.5
    assert at_own["ppv"]["value"] == pytest.approx(here.positive[answered].mean())


def test_with_one_case_a_patient_a_share_has_wilsons_interval():
    here = drawn(1, 60)
    told = here.at(0.5, 0.3)["sensitivity"]
    hits, of = int((here.scores[here.positive] >= 0.5).sum()), int(here.positive.sum())
    low, high = binomtest(hits, of).proportion_ci(method="wilson")
    assert (told["low"], told["high"]) == pytest.approx((low, high), abs=0.01)  # n - 1 in the variance over patients


def test_the_same_cases_told_three_times_by_their_patients_prove_no_more():
    once = drawn(2, 90)
    thrice = Separation(*(np.repeat(part, 3) for part in (once.scores, once.positive, once.patients)))
    for name in ("sensitivity", "specificity", "ppv", "npv"):
        one, three = once.at(0.5, 0.2)[name], thrice.at(0.5, 0.2)[name]
        assert [one[end] for end in one] == pytest.approx([three[end] for end in three], abs=1e-9)


@pytest.mark.parametrize("figure", ["sensitivity", "specificity", "ppv", "npv"])
def test_intervals_cover_the_truth_as_often_as_they_say(figure: str):
    large, prevalence = drawn(99, 400_000), 0.1
    truth = large.at(0.55, prevalence)[figure]["value"]
    held = [
        told["low"] <= truth <= told["high"]
        for told in (drawn(k, 150).at(0.55, prevalence)[figure] for k in range(400))
    ]
    assert 0.92 <= np.mean(held) <= 0.985


def test_a_thousand_people_add_up():
    for sensitivity in (0.0, 0.333, 1.0):
        for prevalence in (0.0004, 0.05, 0.5):
            counts = people(sensitivity, 0.9, prevalence)
            assert sum(counts.values()) == 1000 and min(counts.values()) >= 0
    assert people(0.8, 0.9, 0.1) == {"found": 80, "missed": 20, "alarmed": 90, "cleared": 810}


def test_the_cheapest_threshold_is_found_and_is_youdens_where_both_mistakes_weigh_the_same():
    here = drawn(3)
    for cost, prevalence in ((1.0, 0.5), (20.0, 0.05), (0.2, 0.6)):
        every = np.linspace(0, 1.001, 4001)
        sensitivity, specificity = here.shares(every)
        price = cost * prevalence * (1 - sensitivity) + (1 - prevalence) * (1 - specificity)
        ours = here.shares(here.cheapest(prevalence, cost))
        assert cost * prevalence * (1 - ours[0]) + (1 - prevalence) * (1 - ours[1]) <= price.min() + 1e-12
    both = Predictions(
        np.stack([1 - here.scores, here.scores], 1), here.positive.astype(np.int64), here.patients, here.patients
    )
    chosen = youden(both)[1]
    assert chosen is not None
    assert sum(here.shares(here.cheapest(0.5, 1.0))) == pytest.approx(sum(here.shares(chosen)))
    dear, dreaded = here.cheapest(0.1, 1.0), here.cheapest(0.1, 50.0)
    assert dreaded < dear, "the worse it is to miss one, the sooner it is answered"


def test_net_benefit_is_that_of_counting_and_of_all_and_none():
    here = drawn(4, 500)
    told = here.decision_curve(here.prevalence)
    for risk, own, everybody in list(zip(*told.values(), strict=True))[::9]:
        answered, odds, n = here.scores >= risk, risk / (1 - risk), len(here.scores)
        counted = (answered & here.positive).sum() / n - (answered & ~here.positive).sum() / n * odds
        assert own == pytest.approx(counted)
        assert everybody == pytest.approx(here.prevalence - (1 - here.prevalence) * odds)


def test_one_side_alone_and_impossible_numbers_are_refused_in_words():
    alone = Separation(np.array([0.2, 0.9]), np.array([True, True]), np.arange(2))
    assert not alone.usable
    with pytest.raises(ValueError, match="none without it"):
        alone.at(0.5, 0.1)
    with pytest.raises(ValueError, match="between 0 and 1"):
        drawn(0).at(0.5, 0.0)


def test_what_was_kept_last_counts_and_a_damaged_line_is_passed_over(tmp_path: Path):
    run = Run(tmp_path, "20260101-000000-abcdef")
    run.folder.mkdir(parents=True)
    assert operating.chosen(run) == {}
    operating.choose(run, Choice("a", 0.4, 0.02, 5.0))
    with open(run.folder / operating.FILE, "a") as file:
        file.write('{"label": "a", "threshold":\n{"label": "b"}\n')
    operating.choose(run, Choice("a", 0.7, 0.02, 5.0))
    operating.choose(run, Choice("b", 0.5, 0.5, 1.0))
    kept = operating.chosen(run)
    assert (kept["a"].threshold, kept["b"].threshold) == (0.7, 0.5) and kept["a"].at > 1e9
    with pytest.raises(ValueError, match="threshold must lie between 0 and 1"):
        operating.choose(run, Choice("a", 1.4, 0.02, 5.0))
    with pytest.raises(ValueError, match="cost of a missed case"):
        operating.choose(run, Choice("a", 0.4, 0.02, 0.0))
    assert operating.told(run) == {}, "no answers are stored yet"
    np.savez(
        run.folder / "predictions-test.npz",
        probabilities=np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.5, 0.5]]),
        labels=np.array([0, 1, 1, -1]),
        patients=np.arange(4),
    )
    (run.folder / "evaluation-test.json").write_text(json.dumps({"classes": ["a", "b"]}))
    told = operating.told(run)["a"]
    assert told["sensitivity"]["value"] == 1.0 and told["specificity"]["value"] == 1.0
    assert told["threshold"] == 0.7 and told["prevalence"] == 0.02


def test_worth_is_told_of_the_weights_that_were_measured_alone(tmp_path: Path):
    run = Run(tmp_path, "20260101-000000-abcdef")
    run.folder.mkdir(parents=True)
    report = {
        "operating_point": {"threshold": 0.4},
        "metrics": {"ppv": {"value": 0.9, "low": 0.8, "high": 0.95}},
        "checkpoint": hashlib.sha256(b"then").hexdigest(),
    }
    (run.folder / "evaluation-test.json").write_text(json.dumps(report))
    then, now = (hashlib.sha256(weights).hexdigest() for weights in (b"then", b"now"))
    assert operating.worth(run, then)["boxes"]["threshold"] == 0.4
    assert operating.worth(run, now) == {}, "it has learned since"
