"""Which case goes to train, val and test: groups of patients and duplicates, sides that stay, official splits kept."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from builder.data import SPLITS, Case, Dataset
from builder.duplicates import near_duplicates
from builder.scan import Scan, display
from builder.splits import assign, join

MIN_ALIKE_PX = 48
"""Smaller pictures are not searched for near-duplicates: too many different ones look the same."""

_THUMB_PX = 64


class Thumbnails:
    """Grey previews of the scans whose patient is unknown, in a file: memory does not grow with the import."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._positions: list[int] = []

    def add(self, position: int, scan: Scan) -> None:
        """Notes the picture of the case at `position`; small ones are passed over."""
        if min(scan.pixels.shape[2:]) < MIN_ALIKE_PX:
            return
        with open(self._path, "ab") as file:
            file.write(thumbnail(scan).tobytes())
        self._positions.append(position)

    def belongs(self, base: Dataset | None, num_cases: int) -> list[int]:
        """For each case the position of the picture it almost equals, or its own.

        The pictures of `base`, the dataset that is added to, are looked at too, but never told to belong to another.
        """
        belongs = list(range(num_cases))
        if not self._positions:
            return belongs
        for index, case in enumerate(base.cases if base else ()):
            if base and min(case.shape[2:]) >= MIN_ALIKE_PX:
                self.add(index, base.scan(index))
        shape = (len(self._positions), _THUMB_PX, _THUMB_PX)
        thumbs = np.memmap(self._path, np.uint8, "r", shape=shape)
        positions = np.array(self._positions, np.int64)
        order = np.argsort(positions, kind="stable")
        positions = positions[order]
        since = int(np.searchsorted(positions, len(base) if base else 0))
        for place, other in enumerate(near_duplicates(thumbs, order, since, self._path.parent)):
            belongs[int(positions[place])] = int(positions[other])
        return belongs


def thumbnail(scan: Scan) -> np.ndarray:
    """uint8 (64, 64): the middle slice in grey, stretched to a square."""
    return small(in_grey(scan))


def in_grey(scan: Scan) -> np.ndarray:
    """float32 (H, W) in 0..1: the middle slice as it is shown, in grey."""
    middle = scan.pixels.shape[0] // 2
    valid = None if scan.valid is None else scan.valid[middle : middle + 1]
    shown: np.ndarray = display(replace(scan, pixels=scan.pixels[middle : middle + 1], valid=valid))[0].mean(axis=0)
    return shown


def small(shown: np.ndarray) -> np.ndarray:
    """uint8 (64, 64): what `in_grey` makes, stretched to a square."""
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(shown * 255, np.float32))
    made = np.asarray(image.resize((_THUMB_PX, _THUMB_PX), Image.Resampling.BOX))
    return np.rint(np.clip(made, 0, 255)).astype(np.uint8)


def compared(base: Dataset | None, fresh: Sequence[Case], thumbs: Thumbnails) -> list[Case]:
    """The fresh cases, each told the first picture that it equals or almost equals (`Case.alike`)."""
    everyone = [*(base.cases if base else ()), *fresh]
    since = len(everyone) - len(fresh)
    belongs = thumbs.belongs(base, len(everyone))
    first: dict[str, int] = {}
    alike: list[str] = []
    for index, case in enumerate(everyone):
        equal = first.setdefault(case.content, index)
        other = equal if equal < index else belongs[index]
        alike.append(case.alike if index < since or other == index else alike[other])
    return [replace(case, alike=alike[since + n]) for n, case in enumerate(fresh)]


def placed(
    base: Dataset | None,
    fresh: Sequence[Case],
    shares: Mapping[str, float],
    seed: int,
    keep_out_of: Collection[str] = (),
) -> tuple[list[Case], Iterator[str]]:
    """The fresh cases with group and side, and the lines by which splits.jsonl remembers new groups.

    Patients, equal and almost equal pictures make a group; blank pictures bind nobody. A group that has a side keeps
    it. `Case.split` is what the source says ("" for nothing): kept as given, but a side that an official split leaves
    out is taken from its train part. No new group is placed on a side of `keep_out_of`; a case that belongs there all
    the same, by its patient or its source, comes back with that side, for the caller to leave out.
    """
    shares = {side: 0.0 if side in keep_out_of else share for side, share in shares.items()}
    if not any(shares.values()):
        shares = {**shares, **{side: 1.0 for side in SPLITS[:1] if side not in keep_out_of}}
    old = base.cases if base else ()
    cases = [*old, *fresh]
    since = len(old)
    alike = [None if case.value_range[0] == case.value_range[1] else case.alike for case in cases]
    roots = join(len(cases), [case.patient for case in cases], alike, [case.group or None for case in cases])
    groups = _group_names(cases, roots, since)
    registry = dict(base.registry) if base else {}
    remembered = set(registry)
    ties: dict[str, str] = {}
    for case, group in zip(cases, groups, strict=True):
        ties[group] = min(ties.get(group, case.content), case.content)
    labels = [_label_list(case) for case in cases]
    given = {case.split for case in fresh} - {""}
    if given:
        sides = [case.split if n < since else registry.get(groups[n], case.split) for n, case in enumerate(cases)]
        absent = [side for side in SPLITS if side not in given and shares[side] > 0]
        if absent and "train" in given and not base:
            rows = [n for n, case in enumerate(cases) if case.split == "train"]
            wished = {side: shares[side] for side in ("train", *absent)}
            own = [groups[n] for n in rows]
            parted = assign(own, [labels[n] for n in rows], registry={}, shares=wished, seed=seed, ties=ties)
            for n in rows:
                sides[n] = parted[groups[n]]
    else:
        registry.update(assign(groups, labels, registry=registry, shares=shares, seed=seed, ties=ties))
        sides = [registry[group] for group in groups]
    for group, side in zip(groups, sides, strict=True):
        registry.setdefault(group, side)
    found = [replace(case, group=groups[since + n], split=sides[since + n]) for n, case in enumerate(fresh)]
    lines = (f'{{"group":"{group}","split":"{side}"}}' for group, side in registry.items() if group not in remembered)
    return found, lines


def _group_names(cases: Sequence[Case], roots: Sequence[int], since: int) -> list[str]:
    """A name for each case's group: that of the older cases it belongs with, else its first patient's."""
    old: dict[int, Counter[str]] = {}
    of_patient: dict[str, str] = {}
    for index in range(since):
        old.setdefault(roots[index], Counter())[cases[index].group] += 1
        of_patient[cases[index].patient] = cases[index].group
    fresh: dict[int, str] = {}
    for index in range(since, len(cases)):
        patient = cases[index].patient
        fresh[roots[index]] = min(fresh.get(roots[index], patient), patient)
    names = []
    for index, case in enumerate(cases):
        if index < since:
            names.append(case.group)
        elif case.patient in of_patient:
            names.append(of_patient[case.patient])
        elif roots[index] in old:
            names.append(min(old[roots[index]].items(), key=lambda item: (-item[1], item[0]))[0])
        else:
            names.append(fresh[roots[index]])
    return names


def _label_list(case: Case) -> tuple[object, ...]:
    """What should be on every side: classes of scan and boxes, structures, and that somebody looked in vain."""
    of_scan = case.label if isinstance(case.label, tuple) else () if case.label is None else (case.label,)
    of_boxes = ("no box",) if case.boxes == () else sorted({box.label for box in case.boxes or ()} - set(of_scan))
    of_mask = () if case.mask is None else [f"structure {value}" for value in case.mask.present] or ("empty mask",)
    return (*of_scan, *of_boxes, *of_mask)
