"""Learning curves: a planted law is found within the band, a flat one promises nothing, a noisy one is not believed."""

from __future__ import annotations

import numpy as np
import pytest

from builder.curve_fit import fit
from builder.forecast import told

SHARES = (0.125, 0.25, 0.5, 1.0)


def measured(seed: int, noise: float, law=lambda n: 0.95 - 0.9 * n**-0.45, cases: int = 400, draws: int = 3):
    """(points, values): as `forecast.gather` has them, of a training set of `cases`."""
    rng = np.random.default_rng(seed)
    points = [
        {"cases": round(cases * share), "share": share, "draw": draw} for share in SHARES for draw in range(draws)
    ]
    true = np.array([law(point["cases"]) for point in points])
    own = true + rng.normal(0, noise, len(points))  # the luck of each training
    return points, own + rng.normal(0, noise, (400, 1)) * np.r_[0.0, np.ones(399)][:, None]


def said(seed: int, noise: float, **planted):
    points, values = measured(seed, noise, **planted)
    return told(points, values, "auc", {"ill": 100, "well": 300})


def test_a_planted_law_lies_within_the_band_at_twice_and_four_times_the_cases():
    def law(n):
        return 0.95 - 0.9 * n**-0.45

    inside = []
    for seed in range(40):
        points, values = measured(seed, 0.006, law)
        curve = told(points, values, "auc", {})["curve"]
        for size in (800, 1600):
            low, high = (np.interp(size, curve["cases"], curve[end]) for end in ("low", "high"))
            inside.append(low <= law(size) <= high)
    assert np.mean(inside) >= 0.85


def test_without_noise_the_law_itself_is_found():
    points, values = measured(0, 0.0)
    found = told(points, values, "auc", {"ill": 100, "well": 300})
    assert found["law"]["rate"] == pytest.approx(0.45, rel=0.1)
    assert found["verdict"] == "needs"
    true = (0.9 / (0.9 * 400**-0.45 - 0.02)) ** (1 / 0.45) - 400
    assert found["needed"]["cases"] == pytest.approx(true, rel=0.15)
    per = found["needed"]["per_class"]
    assert per["well"] == pytest.approx(3 * per["ill"], abs=3)
    assert "further cases are needed" in found["words"] and "more ill" in found["words"]


def test_a_flat_curve_says_that_more_of_the_same_will_not_help():
    for seed in range(5):
        found = said(seed, 0.002, law=lambda n: 0.83)
        assert found["verdict"] == "enough" and found["needed"] is None
        assert found["words"].startswith("More of the same data will not help")


def test_a_figure_at_its_ceiling_is_said_to_be_there():
    found = said(0, 0.001, law=lambda n: 0.995)
    assert found["ceiling"] and "within 0.02 of the most that it can be" in found["words"]


def test_a_curve_that_drowns_in_noise_is_said_to_tell_nothing():
    verdicts = [said(seed, 0.04)["verdict"] for seed in range(10)]
    assert verdicts.count("cannot tell") >= 8
    found = said(verdicts.index("cannot tell"), 0.04)
    assert found["needed"]["high"] is None and "cannot tell" in found["words"]


def test_a_figure_of_which_less_is_better_is_turned_round():
    sizes = np.array([50, 100, 200, 400])
    curve = fit(sizes, 0.1 + 3 * sizes[None] ** -0.5, higher=False)
    assert curve.at(np.array([1600]))[0, 0] == pytest.approx(0.1 + 3 / 40, abs=0.01)


def test_two_sizes_make_no_curve():
    with pytest.raises(ValueError, match="three sizes"):
        fit(np.array([10, 20, 20]), np.array([0.5, 0.6, 0.7]))
