"""A row of numbers that grows reads like the list of the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.growing import Growing

NUMBERS = st.lists(st.floats(allow_nan=False), max_size=70)
PLACES = st.none() | st.integers(-80, 80)


def grown(numbers: list[float]) -> Growing[float]:
    row: Growing[float] = Growing(float)
    for number in numbers:
        row.append(number)
    return row


@given(NUMBERS, PLACES, PLACES, st.sampled_from([None, 1, 2, -1, -3]))
def test_it_reads_like_a_list(numbers: list[float], start: int | None, stop: int | None, step: int | None) -> None:
    row = grown(numbers)
    assert row == numbers and list(row) == numbers and len(row) == len(numbers) and repr(row) == repr(numbers)
    assert row[start:stop:step] == numbers[start:stop:step]
    assert list(reversed(row)) == numbers[::-1] and row == Growing(float, numbers)
    assert np.asarray(row).dtype == np.float64 and np.asarray(row).tolist() == numbers
    assert row.until(5) == numbers[:5] and row.until(1000) == numbers


@given(NUMBERS.filter(len))
def test_the_last_one_is_told_anew_and_what_was_taken_before_stays(numbers: list[float]) -> None:
    row = grown(numbers)
    before, as_array = row.until(len(row)), np.asarray(row)
    row.tell_anew(7.5)
    row.append(8.5)
    assert row == [*numbers[:-1], 7.5, 8.5]
    assert before == numbers and as_array.tolist() == numbers


def test_there_is_nothing_beyond_its_ends() -> None:
    row = grown([1.0, 2.0])
    assert (row[-2], row[1]) == (1.0, 2.0)
    for place in (2, -3):
        with pytest.raises(IndexError):
            row[place]
