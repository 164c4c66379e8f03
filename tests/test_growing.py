"""A row of numbers that grows reads like the list of the same numbers."""

from __future__ import annotations

import functools
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder import growing
from builder.growing import PAGE, Growing

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


LONG = 5 * PAGE + 7
"""More than stays in memory."""
EDGES = PLACES | st.integers(-LONG - 3, LONG + 3) | st.sampled_from([PAGE - 1, PAGE, PAGE + 1, 4 * PAGE, -4 * PAGE])


@functools.cache
def long_row() -> tuple[Growing[float], list[float]]:
    numbers = np.random.default_rng(0).normal(size=LONG).tolist()
    return grown(numbers), numbers


@settings(max_examples=300)
@given(EDGES, EDGES, st.sampled_from([None, 1, 2, 7, -1, -5]))
def test_what_lies_in_the_scratch_file_reads_like_the_rest(start: int | None, stop: int | None, step: int) -> None:
    row, numbers = long_row()
    assert row[start:stop:step] == numbers[start:stop:step]


def test_a_long_row_is_the_same_to_the_bit_and_keeps_little_in_memory() -> None:
    row, numbers = long_row()
    assert len(row) == LONG and row == numbers and list(reversed(row)) == numbers[::-1]
    assert np.asarray(row).tolist() == numbers and np.asarray(row, np.float32).dtype == np.float32
    assert [row[at] for at in (0, PAGE - 1, PAGE, LONG - 1, -1, -LONG)] == [
        numbers[at] for at in (0, PAGE - 1, PAGE, LONG - 1, -1, -LONG)
    ]
    pages, newest = row._now
    assert len(newest) < 2 * PAGE and len(pages) * PAGE + len(newest) == LONG
    assert all(page._kept is None for page in pages)
    with pytest.raises(IndexError):
        row[-LONG - 1]


@pytest.mark.parametrize("num", [0, 5, PAGE, PAGE + 1, 3 * PAGE - 1, 3 * PAGE, LONG - 1, LONG, LONG + 1])
def test_a_part_of_a_long_row_goes_on_by_itself(num: int) -> None:
    row, numbers = long_row()
    part = row.until(num)
    assert part == numbers[:num]
    if num:
        last = part[-1]
        part.tell_anew(7.5)
        assert part == [*numbers[:num][:-1], 7.5] and row == numbers
        part.tell_anew(last)
    for _ in range(PAGE):
        part.append(7.5)
    assert part == [*numbers[:num], *[7.5] * PAGE] and row == numbers


def test_whole_numbers_are_whole_to_the_bit() -> None:
    numbers = [2**62 + at for at in range(3 * PAGE)]
    assert Growing(int, numbers) == numbers and np.asarray(Growing(int, numbers)).dtype == np.int64


def test_the_room_of_rows_that_are_gone_is_used_again() -> None:
    grown([1.0] * LONG)
    used = growing._here()._num
    for value in range(5):
        row = grown([float(value)] * LONG)
        assert row == [float(value)] * LONG
        del row
    assert growing._here()._num == used


def test_a_full_disk_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    numbers = [float(at) for at in range(LONG)]
    row = grown(numbers)
    monkeypatch.undo()
    row.append(1.5)
    assert row == [*numbers, 1.5] and row[PAGE] == numbers[PAGE] and row.until(PAGE + 1) == numbers[: PAGE + 1]


def test_who_reads_while_it_grows_sees_what_was_there() -> None:
    row: Growing[int] = Growing(int)
    wrong: list[str] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen = np.asarray(row)
            if not np.array_equal(seen, np.arange(len(seen))):
                wrong.append(f"{len(seen)} numbers, not in order")

    reading = threading.Thread(target=read)
    reading.start()
    for number in range(20 * PAGE):
        row.append(number)
    done.set()
    reading.join()
    assert not wrong
