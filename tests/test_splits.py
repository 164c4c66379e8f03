"""Splitting by groups: nobody moves, no group is torn, every class is everywhere if it can be."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_files import texture

from builder.duplicates import near_duplicates
from builder.splits import SIDES, assign, join

SHARES = {"train": 0.7, "val": 0.15, "test": 0.15}

cases = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3)), min_size=1, max_size=80)


def _names(found: list[tuple[int, int]]) -> tuple[list[str], list[list[int]]]:
    return [f"g{group}" for group, _ in found], [[label] for _, label in found]


@settings(max_examples=150, deadline=None)
@given(first=cases, later=cases, seed=st.integers(0, 5))
def test_adding_data_never_moves_a_group(first, later, seed):
    groups, labels = _names(first)
    before = assign(groups, labels, registry={}, shares=SHARES, seed=seed)
    more, more_labels = _names([*first, *later])
    added = assign(more, more_labels, registry=before, shares=SHARES, seed=seed)
    assert not set(added) & set(before)
    assert set(added) | set(before) == set(more)
    assert set(added.values()) <= set(SIDES)


@settings(max_examples=100, deadline=None)
@given(found=cases, seed=st.integers(0, 5), random=st.randoms())
def test_the_order_of_files_does_not_decide_the_split(found, seed, random):
    groups, labels = _names(found)
    shuffled = list(found)
    random.shuffle(shuffled)
    again, again_labels = _names(shuffled)
    one = assign(groups, labels, registry={}, shares=SHARES, seed=seed)
    assert one == assign(again, again_labels, registry={}, shares=SHARES, seed=seed)


@settings(max_examples=100, deadline=None)
@given(sizes=st.lists(st.integers(3, 12), min_size=1, max_size=5), seed=st.integers(0, 5))
def test_a_class_with_three_groups_is_on_every_side(sizes, seed):
    groups = [f"c{label}-{n}" for label, size in enumerate(sizes) for n in range(size)]
    labels = [[label] for label, size in enumerate(sizes) for _ in range(size)]
    sides = assign(groups, labels, registry={}, shares=SHARES, seed=seed)
    for label in range(len(sizes)):
        assert {sides[g] for g in groups if g.startswith(f"c{label}-")} == set(SIDES)


def test_shares_are_kept_within_two_percent_for_many_single_cases():
    groups = [f"g{n}" for n in range(1000)]
    labels = [[0] if n % 10 else [1] for n in range(1000)]
    sides = assign(groups, labels, registry={}, shares=SHARES)
    for label in (0, 1):
        own = Counter(sides[g] for g, own in zip(groups, labels, strict=True) if own == [label])
        total = sum(own.values())
        for side, share in SHARES.items():
            assert abs(own[side] / total - share) <= 0.02


def test_another_seed_gives_another_split():
    groups, labels = [f"g{n}" for n in range(100)], [[n % 2] for n in range(100)]
    one = assign(groups, labels, registry={}, shares=SHARES, seed=0)
    assert one != assign(groups, labels, registry={}, shares=SHARES, seed=1)


def test_a_class_with_one_group_goes_to_train_and_with_two_to_train_and_test():
    sides = assign(["a", "b", "c"], [[0], [1], [1]], registry={}, shares=SHARES)
    assert sides["a"] == "train"
    assert {sides["b"], sides["c"]} == {"train", "test"}


def test_big_patients_do_not_fill_the_test_side():
    groups = [f"g{n}" for n in range(20) for _ in range(50 if n == 0 else 2)]
    sides = assign(groups, [[0]] * len(groups), registry={}, shares=SHARES)
    assert sides["g0"] == "train"


def test_a_side_without_a_share_gets_nothing():
    sides = assign([f"g{n}" for n in range(20)], [[0]] * 20, registry={}, shares={"train": 0.8, "val": 0.2, "test": 0})
    assert set(sides.values()) == {"train", "val"}


def test_all_shares_zero_is_refused():
    with pytest.raises(ValueError, match="all zero"):
        assign(["a"], [[0]], registry={}, shares={"train": 0, "val": 0, "test": 0})


def test_cases_with_several_labels_and_with_none_are_placed():
    groups = [f"g{n}" for n in range(60)]
    labels = [[0, 1] if n % 3 == 0 else [1] if n % 3 == 1 else [] for n in range(60)]
    assert len(assign(groups, labels, registry={}, shares=SHARES)) == 60


def test_join_follows_chains_over_different_keys():
    assert join(5, ["a", "a", None, "b", None], [None, "x", "x", None, None]) == [0, 0, 0, 3, 4]


# -- near-duplicates


def _thumbs(pictures: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    return np.stack(pictures), np.arange(len(pictures))


def test_a_copy_with_other_brightness_noise_and_caption_is_found():
    copy = np.clip(texture(1) * 0.9 + 12 + np.random.default_rng(0).normal(0, 3, (64, 64)), 0, 255).astype(np.uint8)
    copy[52:55, 4:18] = 255
    assert near_duplicates(*_thumbs([texture(0), texture(1), texture(2), copy])) == [0, 1, 2, 1]


def test_different_pictures_of_one_kind_are_not_near():
    body = np.kron(np.linspace(0, 120, 64)[None].repeat(64, 0), np.ones((1, 1)))
    pictures = [np.clip(body + texture(n) * 0.5, 0, 255).astype(np.uint8) for n in range(20)]
    assert near_duplicates(*_thumbs(pictures)) == list(range(20))


def test_flat_pictures_resemble_nobody():
    flat = np.full((64, 64), 7, np.uint8)
    assert near_duplicates(*_thumbs([flat, flat, flat])) == [0, 1, 2]


def test_neighbouring_slices_do_not_grow_into_one_chain():
    rng = np.random.default_rng(0)
    fields = rng.normal(0, 40, (12, 64, 64))
    mixed = [sum(fields[n + k] * w for k, w in enumerate((0.35, 1, 0.35))) for n in range(10)]
    belongs = near_duplicates(*_thumbs([np.clip(128 + m, 0, 255).astype(np.uint8) for m in mixed]))
    heads = [belongs[n] == n for n in range(10)]
    assert all(heads[head] for head in belongs), "a picture joins only one that joined nobody"


def test_a_common_overlay_does_not_make_a_giant_of_all():
    overlay = np.zeros((64, 64))
    overlay[::4] = 200
    pictures = [np.clip(overlay + texture(n) * 0.4, 0, 255).astype(np.uint8) for n in range(60)]
    largest = max(Counter(near_duplicates(*_thumbs(pictures))).values())
    assert largest <= 20


def test_older_pictures_stay_apart_and_newer_ones_join_them():
    thumbs, order = _thumbs([texture(0), texture(0), texture(1), texture(0)])
    assert near_duplicates(thumbs, order, since=2) == [0, 1, 2, 0]
