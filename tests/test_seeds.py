"""A winner against the default over fresh seeds: planted gains are shown, lucky draws are not."""

from __future__ import annotations

import numpy as np
import pytest

from builder import seeds
from builder.folds import FoldError
from builder.spec import Experiment


def figures(gain: float, luck: float, num: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(default, winner), each (1 + 200, num): a training's own luck, and that of the patients, common to both."""
    rng = np.random.default_rng(seed)
    patients = rng.normal(0, 0.02, (201, 1))
    patients[0] = 0
    own = rng.normal(0, luck, (2, 1, num))
    return 0.8 + own[0] + patients, 0.8 + gain + own[1] + patients + rng.normal(0, 0.002, (201, num))


def test_a_planted_gain_is_shown_and_what_is_common_to_both_drops_out():
    found = seeds.told(*figures(0.05, 0.005, 5, 0), name="auc")
    assert found["verdict"] == "better" and found["low"] < 0.05 < found["high"] and found["high"] - found["low"] < 0.04
    assert found["words"].startswith("The winner is better") and len(found["by_seed"]) == 5


def test_without_a_gain_the_interval_misses_zero_in_about_one_of_twenty():
    shown = [seeds.told(*figures(0.0, 0.02, 3, seed), name="auc")["verdict"] != "not shown" for seed in range(200)]
    assert np.mean(shown) < 0.08


def test_where_less_is_better_a_fall_is_the_gain():
    default, winner = figures(-0.05, 0.004, 4, 1)
    assert seeds.told(default, winner, "rmse", higher=False)["verdict"] == "better"


def test_both_begin_with_the_same_fresh_seeds_and_a_winner_that_is_the_default_is_refused():
    default = Experiment(name="one")
    winner = default.replace("training.optimizer.params.lr", 0.01).replace("name", "one, trial 3")
    parts = seeds.members(default, winner, 2)
    assert [m.about["seed"] for m in parts] == [1, 1, 2, 2] and [m.about["arm"] for m in parts[:2]] == list(seeds.ARMS)
    assert all(m.experiment.training.seed == m.about["seed"] and m.sides is None for m in parts)
    with pytest.raises(FoldError, match="winner is the default"):
        seeds.members(default, default.replace("name", "other"))
    with pytest.raises(FoldError, match="between 2 and 20"):
        seeds.members(default, winner, 1)
