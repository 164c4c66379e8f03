"""What the trials of a search say once they are over, on scores that were made by known choices."""

from __future__ import annotations

import numpy as np

from builder.hindsight import best_so_far, together


def test_the_best_so_far_never_gets_worse_and_skips_trials_without_a_score() -> None:
    assert best_so_far([None, 0.3, 0.2, None, 0.5]) == [None, 0.3, 0.3, 0.3, 0.5]
    assert best_so_far([0.3, 0.4, 0.1], larger_better=False) == [0.3, 0.3, 0.1]


def test_a_map_of_two_choices_is_high_where_the_good_trials_lie_and_empty_where_none_do() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.random(300) * 0.6, rng.random(300)
    means = together(x.tolist(), y.tolist(), (-((x - 0.3) ** 2) - (y - 0.8) ** 2).tolist())
    row, column = np.unravel_index(np.nanargmax(means), means.shape)
    assert abs(column / 39 - 0.3) < 0.1 and abs(row / 39 - 0.8) < 0.1
    assert np.isnan(means[:, -1]).all() and not np.isnan(means[:, 10]).any()
