"""Curves thinned for the eye: every peak is kept, and a long run takes hardly more memory than a short one."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from builder.growing import Growing
from pages.kit import charts
from pages.kit.charts import Points, reached, thinned

COUNTS = (1, 2, 7, 600, 601, 8191, 8192, 8193, 20_011, 60_000)


def rows(count: int) -> tuple[np.ndarray, np.ndarray]:
    """(count,) steps with holes and values with gaps."""
    chance = np.random.default_rng(count)
    steps, values = np.cumsum(chance.integers(1, 4, count)), chance.normal(size=count)
    values[chance.random(count) < 0.1] = np.nan
    return steps, values


def at_once(x: np.ndarray, y: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray]:
    """What `thinned` is said to give, bucket by bucket."""
    if len(y) <= 2 * num:
        return x.astype(float), y
    kept = {0, len(y) - 1}
    for first, last in buckets(len(y), num):
        bucket = y[first:last]
        kept |= {first + int(np.argmin(np.where(np.isnan(bucket), np.inf, bucket)))}
        kept |= {first + int(np.argmax(np.where(np.isnan(bucket), -np.inf, bucket)))}
    places = sorted(kept)
    return x[places].astype(float), y[places]


def buckets(count: int, num: int) -> list[tuple[int, int]]:
    """At most `num` of equal width; the last one reaches back where it would be shorter."""
    width = -(-count // num)
    whole = [(first, first + width) for first in range(0, count - width + 1, width)]
    return whole + [(count - width, count)] * bool(count % width)


@pytest.mark.parametrize("count", COUNTS)
def test_a_curve_is_thinned_alike_in_pieces_and_at_once(count: int) -> None:
    x, y = rows(count)
    for both in ((x, y), (x.tolist(), y.tolist()), (Growing(int, x.tolist()), Growing(float, y.tolist()))):
        for told, right in zip(thinned(both[0], both[1], 300), at_once(x, y, 300), strict=True):
            np.testing.assert_array_equal(told, right)
    low, high = count // 3, 2 * count // 3
    for told, right in zip(thinned(x, y, 300, low, high), at_once(x[low:high], y[low:high], 300), strict=True):
        np.testing.assert_array_equal(told, right)


@pytest.mark.parametrize("count", COUNTS)
def test_means_of_buckets_are_those_of_their_numbers(count: int) -> None:
    x, y = rows(count)
    ends, means = Points(Growing(int, x.tolist()), Growing(float, y.tolist())).means(750)
    there = [slice(*bucket) for bucket in buckets(count, 750)]
    np.testing.assert_array_equal(ends, [x[bucket][-1] for bucket in there])
    right = [np.nanmean(y[bucket]) if not np.isnan(y[bucket]).all() else np.nan for bucket in there]
    np.testing.assert_allclose(means, right, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("count", COUNTS)
def test_a_value_is_looked_up_at_the_first_place_that_is_not_before(count: int) -> None:
    known, _ = rows(count)
    values = np.arange(count) / 7
    steps = np.unique(np.concatenate([[0], known[:: max(1, count // 50)], known[-1:] + 5, known[count // 2 :][:9] + 1]))
    right = values[np.minimum(np.searchsorted(known, steps), count - 1)]
    grown = Growing(int, known.tolist()), Growing(float, [*values.tolist(), 99.0])  # one row may have grown meanwhile
    np.testing.assert_array_equal(reached(steps.tolist(), *grown), right)
    np.testing.assert_array_equal(reached(steps.tolist(), known.tolist(), values.tolist()), right)


def test_where_nothing_is_known_nothing_is_looked_up() -> None:
    assert np.isnan(reached([1, 2], [], [])).all() and not len(reached([], [1], [2.0]))


def test_a_long_curve_is_drawn_in_little_more_memory_than_a_short_one() -> None:
    def most(count: int) -> int:
        x, y = Growing(int, range(count)), Growing(float, (at % 97 / 97 for at in range(count)))
        draw(x, y)
        tracemalloc.start()
        draw(x, y)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    def draw(x: Sequence[int], y: Sequence[float]) -> None:
        curve = Points(x, y)
        curve.thinned(300, (100.0, len(x) - 100.0))
        curve.means(750)
        reached([1, len(x) // 2, len(x)], x, y)

    assert most(200_000) - most(50_000) < 4 * (200_000 - 50_000)  # bytes: one row of numbers would be twice as much


def test_a_curve_that_grows_is_drawn_by_arrays_of_the_same_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    # numpy keeps seven freed arrays of each length below a kilobyte: new lengths at each drawing would pile up
    lengths: set[tuple[int, ...]] = set()
    real = charts._buckets

    def told(*about: Any) -> Iterator[tuple[int, np.ndarray, np.ndarray, int]]:
        for piece in real(*about):
            lengths.add(piece[2].shape)
            yield piece

    monkeypatch.setattr(charts, "_buckets", told)
    x, y = rows(60_000)
    for count in range(41_000, 42_000, 7):  # a bucket of 300 is 137 to 140 wide, one of 750 is 55 or 56
        curve = Points(x[:count].tolist(), y[:count].tolist())
        curve.thinned(300)
        curve.means(750)
    assert lengths <= {(rows, width) for rows in (16, 1) for width in (137, 138, 139, 140, 55, 56)}
