"""Who is held out when: folds of whole groups, every class in every fold as evenly as the groups allow.

A group is what must stay together: a patient, exact and near duplicates of a picture (those that an audit found, too),
chains of both. The test side of the data set is not folded; it stays closed. In each fold one part is held out (the
fold's "test"), and of the rest a part is set aside to choose the best epoch (its "val"): what was held out chooses
nothing, so what is said about it is what a new scan would be told.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Sequence

import numpy as np

from builder.data import Dataset, copies
from builder.splits import join

FOLDS = (2, 20)
REPEATS = (1, 20)
VALIDATION = 0.15
"""Share of what a fold learns from that chooses its best epoch, where the data set's own sides say nothing sensible."""


class FoldError(ValueError):
    """A data set that cannot be folded like this. Its text is one sentence for people."""


def folded(
    groups: Sequence[Hashable], labels: Sequence[Iterable[Hashable]], num: int, seed: int = 0
) -> dict[Hashable, int]:
    """{group: its fold, 0..num-1}: iterative stratification (Sechidis et al., ECML PKDD 2011) over groups.

    The rarest class first, its largest groups first, each to the fold that has least of the class (then the fewest
    cases). Ties are broken by a hash of seed and group, so the order of cases is irrelevant.

    Args:
        groups: group of each case. labels: the classes of each case: one, several, or none.
    Raises:
        FoldError: fewer groups than folds.
    """
    profiles: dict[Hashable, dict[Hashable, int]] = {}
    for group, own in zip(groups, labels, strict=True):
        profile = profiles.setdefault(group, {})
        for label in (_EVERY, *own):
            profile[label] = profile.get(label, 0) + 1
    if len(profiles) < num:
        raise FoldError(
            f"{num} folds need {num} patients (or groups of duplicates) at least; there are {len(profiles)}. "
            "Take fewer folds."
        )
    chance = {group: hashlib.sha256(f"{seed}\0{group}".encode()).hexdigest() for group in profiles}
    by_label: dict[Hashable, list[Hashable]] = {}
    for group, profile in profiles.items():
        for label in profile:
            by_label.setdefault(label, []).append(group)
    have: list[dict[Hashable, int]] = [{} for _ in range(num)]
    placed: dict[Hashable, int] = {}
    for label in sorted(by_label, key=lambda label: (label is _EVERY, len(by_label[label]), str(label))):
        left = [group for group in by_label[label] if group not in placed]
        for group in sorted(left, key=lambda group: (-profiles[group][label], chance[group])):
            fold = min(range(num), key=lambda k: (have[k].get(label, 0), have[k].get(_EVERY, 0), k))
            placed[group] = fold
            for of, n in profiles[group].items():
                have[fold][of] = have[fold].get(of, 0) + n
    return placed


_EVERY = ("every case",)  # a class that all cases carry: balances sizes, and places the unlabelled


def groups_of(dataset: Dataset) -> list[int]:
    """Of each case the position of the first case that it must stay together with: the same patient, an equal or almost
    equal picture (as the import or an audit found it), or a group that an import made; chains included."""
    cases = dataset.cases
    blank = [case.value_range[0] == case.value_range[1] for case in cases]  # such a picture is nobody's
    alike = [None if empty else case.alike for case, empty in zip(cases, blank, strict=True)]
    audited = [(one, other) for one, other in copies(dataset.folder) if not (blank[one] or blank[other])]
    patients, imported = [case.patient for case in cases], [case.group or None for case in cases]
    return join(len(cases), patients, alike, imported, pairs=audited)


def labels_of(dataset: Dataset) -> list[tuple[Hashable, ...]]:
    """Of each case what should be spread evenly: classes of scan and boxes, structures, and that there is none."""
    found: list[tuple[Hashable, ...]] = []
    for case in dataset.cases:
        of_scan = case.label if isinstance(case.label, tuple) else () if case.label is None else (case.label,)
        of_boxes: list[Hashable] = [*sorted({box.label for box in case.boxes or ()} - set(of_scan))]
        if case.boxes == ():
            of_boxes.append("no box")
        structures = () if case.mask is None else case.mask.present
        of_mask = () if case.mask is None else [f"structure {value}" for value in structures] or ["empty mask"]
        found.append((*of_scan, *of_boxes, *of_mask))
    return found


def pool(dataset: Dataset, cases: np.ndarray | None = None) -> np.ndarray:
    """int64 positions of the cases that are folded: those of train and val, without any whose group reaches into the
    closed test side (a source that parted one patient itself).

    Args:
        cases: those that a task can use; None: all.
    """
    sides, groups = dataset.splits, np.array(groups_of(dataset))
    closed = np.unique(groups[sides == "test"])
    chosen = np.isin(sides, ("train", "val")) & ~np.isin(groups, closed)
    if cases is not None:
        chosen &= np.isin(np.arange(len(dataset)), cases)
    return np.flatnonzero(chosen)


def validation_share(dataset: Dataset) -> float:
    """Which share of what is not held out chooses the best epoch: as on the data set's own sides, if that is between a
    twentieth and a third."""
    train, val = (int((dataset.splits == side).sum()) for side in ("train", "val"))
    share = val / max(1, train + val)
    return share if 0.05 <= share <= 1 / 3 else VALIDATION


def sides_of_folds(
    dataset: Dataset, cases: np.ndarray, num: int, seed: int = 0, unwanted: Iterable[str] = ()
) -> list[dict[str, str]]:
    """The sides of each fold, {id of a case: "train", "val" or "test"}: in all together each case is held out once.

    Args:
        cases: positions of the cases to fold (see `pool`). unwanted: ids of cases that are never learned from
            (`data.exclude`); they are held out and judged like any other.
    Raises:
        FoldError: fewer groups than the folds need, or folds out of range.
    """
    if not FOLDS[0] <= num <= FOLDS[1]:
        raise FoldError(f"The number of folds must lie between {FOLDS[0]} and {FOLDS[1]}, not {num}.")
    groups, labels = groups_of(dataset), labels_of(dataset)
    ids, away = [case.id for case in dataset.cases], set(unwanted)
    own = [groups[i] for i in cases]
    fold = folded(own, [labels[i] for i in cases], num, seed)
    found = []
    for k in range(num):
        rest = [i for i in cases if fold[groups[i]] != k]
        chosen = set_aside([groups[i] for i in rest], [labels[i] for i in rest], validation_share(dataset), seed, k)
        sides = {ids[i]: "test" for i in cases if fold[groups[i]] == k}
        for i in rest:
            if groups[i] in chosen:
                sides[ids[i]] = "val"
            elif ids[i] not in away:
                sides[ids[i]] = "train"
        found.append(sides)
    return found


def set_aside(
    groups: Sequence[Hashable], labels: Sequence[Iterable[Hashable]], share: float, seed: int, fold: int
) -> set[Hashable]:
    """The groups of about `share` of the cases, every class in proportion: some of many small parts."""
    parts = min(len(set(groups)), max(2, round(1 / share)))
    if parts < 2:
        raise FoldError("A fold leaves one patient to learn from: too few to set some aside for the best epoch.")
    placed = folded(groups, labels, parts, seed=seed * 1000 + fold + 1)
    carriers: dict[Hashable, set[Hashable]] = {}
    for group, own in zip(groups, labels, strict=True):
        for label in own:
            carriers.setdefault(label, set()).add(group)
    only = {group for found in carriers.values() if len(found) == 1 for group in found}
    chosen = {group for group, part in placed.items() if part == 0}
    return chosen - only or chosen  # who alone shows a class is learned from


def nested_subsets(
    groups: Sequence[Hashable], labels: Sequence[Iterable[Hashable]], shares: Sequence[float], seed: int = 0
) -> list[set[Hashable]]:
    """Groups that make up each share of the cases, every class in proportion, each set within the next larger one.

    Args:
        shares: rising, in 0..1; 1 is everybody.
    """
    own: dict[Hashable, set[Hashable]] = {}
    sizes: dict[Hashable, int] = {}
    for group, told in zip(groups, labels, strict=True):
        own.setdefault(group, set()).update(told)
        sizes[group] = sizes.get(group, 0) + 1
    common: dict[Hashable, int] = {}
    for found in own.values():
        for label in found:
            common[label] = common.get(label, 0) + 1
    kinds: dict[Hashable, list[Hashable]] = {}
    for group, found in own.items():  # a group counts for its rarest class
        kinds.setdefault(min(found, key=lambda label: (common[label], str(label)), default=None), []).append(group)
    chance = {group: hashlib.sha256(f"{seed}\0{group}".encode()).hexdigest() for group in own}
    rank: dict[Hashable, float] = {}
    for members in kinds.values():
        for place, group in enumerate(sorted(members, key=chance.__getitem__)):
            rank[group] = (place + 0.5) / len(members)
    order = sorted(own, key=lambda group: (rank[group], chance[group]))
    reach = np.cumsum([sizes[group] for group in order])
    return [
        set(order[: len(order) if share >= 1 else int(np.searchsorted(reach, share * reach[-1] - 1e-9)) + 1])
        for share in shares
    ]
