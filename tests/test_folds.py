"""Folds keep patients and duplicates whole, hold each case out once, spread classes as evenly as groups allow."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.folds import FoldError, folded, groups_of, nested_subsets, set_aside

COHORTS = st.lists(  # groups: (classes of each case of the group), as patients with one or several scans have them
    st.lists(st.sets(st.sampled_from("abc"), max_size=2).map(tuple), min_size=1, max_size=5), min_size=4, max_size=40
)


def cases_of(cohort: list[list[tuple[str, ...]]]) -> tuple[list[int], list[tuple[str, ...]]]:
    rows = [(number, labels) for number, group in enumerate(cohort) for labels in group]
    return [group for group, _ in rows], [labels for _, labels in rows]


@given(COHORTS, st.integers(2, 4), st.integers(0, 3))
@settings(max_examples=150, deadline=None)
def test_every_group_is_in_exactly_one_fold_and_no_fold_is_empty(cohort, num, seed):
    groups, labels = cases_of(cohort)
    placed = folded(groups, labels, num, seed)
    assert set(placed) == set(groups) and set(placed.values()) == set(range(num))
    turned = list(range(len(groups)))[::-1]  # the order of cases says nothing
    assert folded([groups[i] for i in turned], [labels[i] for i in turned], num, seed) == placed


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 6)), min_size=6, max_size=50),
    st.integers(2, 5),
    st.integers(0, 3),
)
@settings(max_examples=150, deadline=None)
def test_classes_are_spread_as_evenly_as_the_groups_allow(patients, num, seed):
    groups = [number for number, (_, count) in enumerate(patients) for _ in range(count)]
    labels = [(label,) for label, count in patients for _ in range(count)]
    placed = folded(groups, labels, num, seed)
    for label in set("".join(label for label, _ in patients)):
        here = Counter({k: 0 for k in range(num)})
        for group, own in zip(groups, labels, strict=True):
            here[placed[group]] += own == (label,)
        largest = max(count for own, count in patients if own == label)
        assert max(here.values()) - min(here.values()) <= largest  # a group cannot be cut


@given(COHORTS, st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_smaller_parts_lie_within_larger_ones_and_hold_whole_groups(cohort, seed):
    groups, labels = cases_of(cohort)
    parts = nested_subsets(groups, labels, (0.12, 0.25, 0.5, 1.0), seed)
    assert all(a <= b for a, b in zip(parts, parts[1:], strict=False)) and parts[-1] == set(groups) and parts[0]
    for share, part in zip((0.12, 0.25, 0.5), parts, strict=False):
        held = sum(group in part for group in groups)
        assert share * len(groups) - 1e-9 <= held < share * len(groups) + 5  # at most one group too many


def test_a_small_part_holds_every_class_in_proportion():
    groups = list(range(400))
    labels = [("rare",) if k % 10 == 0 else ("common",) for k in groups]
    (eighth, _) = nested_subsets(groups, labels, (0.125, 1.0), seed=3)
    assert len(eighth) == 50 and sum(labels[k] == ("rare",) for k in groups if k in eighth) == 5


def test_too_few_patients_for_the_folds_are_told_in_words():
    with pytest.raises(FoldError, match="5 folds need 5 patients .* there are 3"):
        folded([0, 0, 1, 2], [("a",)] * 4, 5)


def test_the_parts_of_a_hundred_patients_differ_by_one_at_most():
    placed = folded(list(range(103)), [("a",) if k % 3 else ("b",) for k in range(103)], 5)
    sizes = np.bincount(list(placed.values()))
    assert sizes.max() - sizes.min() <= 1


def test_who_alone_shows_a_class_is_learned_from_and_never_only_looked_at():
    groups, labels = list(range(6)), [("a",)] * 5 + [("b",)]
    for seed in range(20):
        aside = set_aside(groups, labels, 0.2, seed, 0)
        assert aside and 5 not in aside


def test_copies_that_an_audit_found_stay_together_as_those_of_the_import(tmp_path: Path):
    cases = [SimpleNamespace(patient=f"p{k}", alike=f"a{k}", value_range=(0, int(k < 5)), group="") for k in range(7)]
    dataset = SimpleNamespace(cases=cases, folder=tmp_path)
    assert groups_of(dataset) == [0, 1, 2, 3, 4, 5, 6]  # type: ignore[arg-type]
    (tmp_path / "copies.json").write_text("[[0, 3], [3, 4], [1, 5], [5, 6]]")
    assert groups_of(dataset) == [0, 1, 2, 0, 0, 5, 6], "chains, too; a blank picture is nobody's"  # type: ignore[arg-type]
