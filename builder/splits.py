"""Who goes to train, val and test: whole groups, every class on every side where numbers permit, and nobody moves.

A group is what must stay together (a patient, duplicates of a picture). Sides once given are kept for good: adding
cases only places new groups, towards the wished shares.
"""

import hashlib
from collections.abc import Hashable, Iterable, Mapping, Sequence

SIDES = ("train", "val", "test")
_FIRST = {"train": 0, "test": 1, "val": 2}  # who gets a class that is too rare for all three

Label = Hashable


def join(num: int, *keys: Sequence[Hashable | None], pairs: Iterable[tuple[int, int]] = ()) -> list[int]:
    """Groups of positions 0..num-1 that share a key in any of `keys` (None joins nothing) or are one of `pairs`, chains
    included.

    Returns: for each position the smallest position of its group.
    """
    parent = list(range(num))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = index = parent[parent[index]]
        return index

    def united(one: int, other: int) -> None:
        a, b = root(one), root(other)
        parent[max(a, b)] = min(a, b)

    for column in keys:
        first: dict[Hashable, int] = {}
        for index, key in enumerate(column):
            if key is not None:
                united(first.setdefault(key, index), index)
    for one, other in pairs:
        united(one, other)
    return [root(index) for index in range(num)]


def assign(
    groups: Sequence[str],
    labels: Sequence[Iterable[Label]],
    *,
    registry: Mapping[str, str],
    present: Mapping[str, Mapping[Label, int]] | None = None,
    shares: Mapping[str, float],
    seed: int = 0,
    ties: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Sides for the groups that have none yet.

    Iterative stratification (Sechidis et al. 2011) over groups: the rarest class first, its largest groups first, each
    to the side that lacks most of it. Ties are broken by a hash of seed and `ties[group]` (the group itself where that
    is not given), so the order of files is irrelevant.

    Args:
        groups: group of each case.
        labels: the classes of each case: one, several, or none.
        registry: sides already given; never changed.
        present: {side: {class: cases}} already there beside `groups` (a dataset that is added to).
        shares: wished share of each side, e.g. {"train": 0.7, "val": 0.15, "test": 0.15}; a side with 0 gets nothing.

    Returns: {group: side} for the groups absent from the registry.
    """
    sides = [side for side in SIDES if shares.get(side, 0) > 0]
    if not sides:
        raise ValueError("The shares of train, val and test are all zero: give at least one a share.")
    total_share = sum(shares[side] for side in sides)
    profiles: dict[str, dict[Label, int]] = {}
    for group, own in zip(groups, labels, strict=True):
        profile = profiles.setdefault(group, {})
        for label in (_EVERY, *own):
            profile[label] = profile.get(label, 0) + 1
    have: dict[str, dict[Label, int]] = {side: dict((present or {}).get(side, {})) for side in SIDES}
    for counts in have.values():
        counts[_EVERY] = counts.get(_EVERY, sum(counts.values()))
    waiting: dict[str, dict[Label, int]] = {}
    for group, profile in profiles.items():
        if group in registry:
            _add(have[registry[group]], profile)
        else:
            waiting[group] = profile
    total: dict[Label, int] = {}
    for profile in (*have.values(), *waiting.values()):
        _add(total, profile)
    wish = {side: {label: shares[side] / total_share * n for label, n in total.items()} for side in sides}
    order = {
        group: hashlib.sha256(f"{seed}\0{(ties or {}).get(group, group)}".encode()).hexdigest() for group in waiting
    }
    by_label: dict[Label, list[str]] = {}
    for group, profile in waiting.items():
        for label in profile:
            by_label.setdefault(label, []).append(group)
    placed: dict[str, str] = {}
    rarest_first = sorted(by_label, key=lambda label: (label is _EVERY, len(by_label[label]), str(label)))
    for label in rarest_first:
        left = [group for group in by_label[label] if group not in placed]
        left.sort(key=lambda group: (-waiting[group][label], order[group]))
        for position, group in enumerate(left):
            lacking = [side for side in sides if not have[side].get(label)]
            if lacking and len(left) - position <= len(lacking):
                side = min(lacking, key=_FIRST.__getitem__)
            else:
                side = _neediest(sides, wish, have, label)
            placed[group] = side
            _add(have[side], waiting[group])
    return placed


_EVERY = ("every case",)  # a class that all cases carry: balances sizes, and places the unlabelled


def _add(counts: dict[Label, int], profile: Mapping[Label, int]) -> None:
    for label, n in profile.items():
        counts[label] = counts.get(label, 0) + n


def _neediest(
    sides: Sequence[str],
    wish: Mapping[str, Mapping[Label, float]],
    have: Mapping[str, Mapping[Label, int]],
    label: Label,
) -> str:
    def need(side: str) -> tuple[float, float, int]:
        def lack(of: Label) -> float:
            return round(wish[side].get(of, 0.0) - have[side].get(of, 0), 9)

        return lack(label), lack(_EVERY), -_FIRST[side]

    return max(sides, key=need)
