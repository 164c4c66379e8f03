"""A source, understood: the files to read, with what is said of each of them, and those left aside."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from builder.boxfiles import BoxList
from builder.gathering import Found, Left
from builder.tables import SIDES


@dataclass(frozen=True)
class Item:
    """A file to read. Files with the same `bundle` may be slices of one series; None stands alone.

    `boxes`: what a label file says of its boxes. `masks`: the files that outline something on it, several of them are
    united. `target`: the file of the clean scan. `attributes`: what a table or a folder says of person, machine and
    site, as it stands there.
    """

    found: Found
    labels: tuple[str, ...] | None = None
    patient: str | None = None
    split: str | None = None
    bundle: str | None = None
    boxes: BoxList | None = None
    masks: tuple[Found, ...] = ()
    target: Found | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Arrangement:
    """A source, understood. `npz` holds the MedMNIST file where that is the kind (then there are no items).

    `mask_names`: what the values of masks are called where a file of the source says so.
    """

    kind: str
    items: tuple[Item, ...]
    left: tuple[Left, ...]
    classes: tuple[str, ...] = ()
    multi_label: bool = False
    patient_source: str = ""
    official_split: bool = False
    npz: Found | None = None
    notes: tuple[str, ...] = ()
    mask_names: tuple[tuple[int, str], ...] = ()


def stem(name: str) -> str:
    """The bare name without its ending: "x" of "a/x.nii.gz"."""
    bare = PurePosixPath(name).name
    return bare[:-7] if bare.lower().endswith(".nii.gz") else PurePosixPath(bare).stem


def nearest(name: str, candidates: Sequence[Found]) -> list[Found]:
    """Those of the candidates whose folders share most with those of `name`: one of them, or several equally near."""

    def shared(found: Found) -> tuple[int, int]:
        ours, theirs = PurePosixPath(name).parts[:-1], PurePosixPath(found.name).parts[:-1]
        ahead = next(
            (n for n, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs))
        )
        rest = sum(a == b for a, b in zip(reversed(ours[ahead:]), reversed(theirs[ahead:]), strict=False))
        return ahead + rest, -len(theirs)

    if not candidates:
        return []
    best = max(map(shared, candidates))
    return [found for found in candidates if shared(found) == best]


def side_of_folder(name: str) -> str | None:
    """The side a folder of a path names: train/images/x, imagesTr/x, val2017/x. None for none or two."""
    sides = set()
    for part in PurePosixPath(name).parts[:-1]:
        plain = re.sub(r"(19|20)\d\d$", "", part.lower()).strip("_- ")
        plain = re.sub(r"^(images|labels|imgs|masks)[_-]?(?=tr$|ts$|val$|train$|test$|valid$)", "", plain)
        side = SIDES.get("te" if plain == "ts" else plain)
        sides |= {side} if side else set()
    return sides.pop() if len(sides) == 1 else None


def sides_of_folders(names: Sequence[str]) -> Mapping[str, str]:
    """{name: side} where every path names one side, and not all the same: then the source has a split of its own."""
    found = {name: side for name in names if (side := side_of_folder(name))}
    return found if len(found) == len(names) and len(set(found.values())) > 1 else {}
