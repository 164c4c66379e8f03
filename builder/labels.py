"""What is known of a case beyond its scan: boxes, a mask, corrections; how they are kept, and who drew them when.

    <dataset>/masks.bin      the masks that came with an import, packed one after the other
              edits.jsonl    one edit a line: at, who, origin, case, what it is now; append-only, the newest holds
              drawn/<sha>    masks that were drawn later, packed, named by the SHA-256 of what they show

What holds is the fold: the case as it was imported, and every edit on top of it.

Boxes: x0, y0, x1, y1 in pixels of the stored slice, edges, x before y, origin top left: the picture spans 0..W and
0..H, and a box over pixel columns 3 and 4 goes from 3.0 to 5.0. Masks: uint8 (S, H, W), 0 for background, k for
structure k.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import secrets
import time
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

__all__ = [
    "KINDS", "ORIGINS", "Box", "Edit", "Edits", "LabelRefused", "Packed", "checked_boxes", "edits_size", "name_classes",
    "pack", "read_edits", "read_mask", "record", "structures", "unpack",
]  # fmt: skip

KINDS = ("class", "boxes", "mask", "target")
"""What a case may be labelled with."""

ORIGINS = ("drawn", "corrected", "cleared", "imported", "named")
"""drawn: made anew by a person. corrected: a person changed what a model or somebody else proposed. cleared: taken
away. imported: came with a later import. named: a class or structure was named."""

MAX_STRUCTURES = 255
_MAX_NAME = 100
_CLEARABLE = ("class", "boxes", "mask")


class LabelRefused(ValueError):
    """A label that cannot be. Its text is a sentence for people."""


@dataclass(frozen=True)
class Box:
    """A box in one slice of a scan: edges in pixels, `label` an index into `Dataset.classes`."""

    x0: float
    y0: float
    x1: float
    y1: float
    label: int
    slice: int = 0

    def to_json(self) -> list[float | int]:
        """[x0, y0, x1, y1, label, slice]."""
        return [self.x0, self.y0, self.x1, self.y1, self.label, self.slice]

    @classmethod
    def from_json(cls, found: Sequence[Any]) -> Box:
        """Reads `to_json`."""
        x0, y0, x1, y1, label, at = found
        return cls(float(x0), float(y0), float(x1), float(y1), int(label), int(at))


# -- masks as bytes ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Packed:
    """Where a packed mask lies: at `offset` in masks.bin, or, drawn later, in the file drawn/<drawn>.

    `present` are the structures it shows, ascending; () for a mask that is empty: looked at, nothing there.
    """

    offset: int
    bytes: int
    present: tuple[int, ...]
    drawn: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain data for json.dumps."""
        return {"offset": self.offset, "bytes": self.bytes, "present": list(self.present), "drawn": self.drawn}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Packed:
        """Reads `to_json`."""
        return cls(int(found["offset"]), int(found["bytes"]), tuple(found["present"]), str(found.get("drawn", "")))


def pack(mask: np.ndarray) -> bytes:
    """A mask, uint8, as few bytes (zlib)."""
    return zlib.compress(np.ascontiguousarray(mask, np.uint8).data, 6)


def unpack(packed: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """Reads `pack`; uint8 of `shape`, read-only. Raises OSError for bytes that hold another number of pixels."""
    size = math.prod(shape)
    plain = b""
    try:
        unpacker = zlib.decompressobj()
        plain = unpacker.decompress(packed, size + 1)
    except zlib.error:
        plain = b""
    if len(plain) != size:
        raise OSError("A stored mask is damaged: its pixels are not as many as the scan's.")
    return np.frombuffer(plain, np.uint8).reshape(shape)


def structures(mask: np.ndarray) -> tuple[int, ...]:
    """The structures of a mask, ascending, without the background."""
    return tuple(int(value) for value in np.flatnonzero(np.bincount(mask.reshape(-1), minlength=1)) if value)


# -- edits ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Edit:
    """One edit of one case (or, without a case, of the names). What is not set stays as it was; `cleared` is no more.

    Attributes:
        at: seconds since 1970. who: whom the person said to be, "" where nobody asked. origin: one of `ORIGINS`.
        case: id of the case. label: as `data.Case.label`.
        classes, structures: names that are added to those of the dataset.
        attributes: what is kept of person, machine and site, as `data.Case.attributes`; what is not named stays.
    """

    at: float
    who: str
    origin: str
    case: str = ""
    label: int | tuple[int, ...] | None = None
    boxes: tuple[Box, ...] | None = None
    mask: Packed | None = None
    cleared: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    structures: tuple[str, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """One line of edits.jsonl; only what is set."""
        found: dict[str, Any] = {"at": round(self.at, 3), "who": self.who, "origin": self.origin}
        if self.case:
            found["case"] = self.case
        if self.label is not None:
            found["class"] = self.label
        if self.boxes is not None:
            found["boxes"] = [box.to_json() for box in self.boxes]
        if self.mask is not None:
            found["mask"] = self.mask.to_json()
        for name in ("cleared", "classes", "structures"):
            if getattr(self, name):
                found[name] = list(getattr(self, name))
        if self.attributes:
            found["attributes"] = dict(self.attributes)
        return json.dumps(found, separators=(",", ":"), ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> Edit:
        """Reads one line of edits.jsonl."""
        found = json.loads(line)
        label = found.get("class")
        boxes, mask = found.get("boxes"), found.get("mask")
        return cls(
            float(found["at"]),
            str(found["who"]),
            str(found["origin"]),
            str(found.get("case", "")),
            tuple(label) if isinstance(label, list) else label,
            None if boxes is None else tuple(Box.from_json(box) for box in boxes),
            None if mask is None else Packed.from_json(mask),
            tuple(found.get("cleared", ())),
            tuple(found.get("classes", ())),
            tuple(found.get("structures", ())),
            dict(found.get("attributes", {})),
        )


@dataclass(frozen=True)
class Edits:
    """All edits of a dataset, folded. `num` counts them: a higher number means that labels have changed.

    Attributes:
        of_case: {case id: its edits, the oldest first}.
        classes, structures: names that were added.
    """

    num: int = 0
    of_case: Mapping[str, tuple[Edit, ...]] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    structures: tuple[str, ...] = ()

    def state(self, case: str, **known: Any) -> dict[str, Any]:
        """`known` (label, boxes, mask, attributes as imported) with the edits of the case on top."""
        for edit in self.of_case.get(case, ()):
            for name in ("label", "boxes", "mask"):
                if getattr(edit, name) is not None:
                    known[name] = getattr(edit, name)
            if edit.attributes:
                known["attributes"] = {**known.get("attributes", {}), **edit.attributes}
            for name in edit.cleared:
                known["label" if name == "class" else name] = None
        return known


def edits_size(folder: Path) -> int:
    """Bytes of edits.jsonl, 0 without one: whether labels were edited, and whether again since."""
    try:
        return os.stat(folder / "edits.jsonl").st_size
    except FileNotFoundError:
        return 0


def read_edits(folder: Path) -> Edits:
    """The edits of the dataset in `folder`; a line that was cut off while it was written counts as not there."""
    if not edits_size(folder):
        return Edits()
    whole = (folder / "edits.jsonl").read_bytes().rpartition(b"\n")[0]
    of_case: dict[str, list[Edit]] = {}
    classes: dict[str, None] = {}
    named: dict[str, None] = {}
    num = 0
    for line in whole.splitlines():
        edit = Edit.from_json(line.decode())
        num += 1
        if edit.case:
            of_case.setdefault(edit.case, []).append(edit)
        classes.update(dict.fromkeys(edit.classes))
        named.update(dict.fromkeys(edit.structures))
    return Edits(num, {case: tuple(found) for case, found in of_case.items()}, tuple(classes), tuple(named))


def read_mask(folder: Path, packed: Packed, shape: tuple[int, ...]) -> np.ndarray:
    """A stored mask, uint8 of `shape`, read-only."""
    if packed.drawn:
        return unpack((folder / "drawn" / packed.drawn).read_bytes(), shape)
    with open(folder / "masks.bin", "rb", buffering=0) as file:
        return unpack(os.pread(file.fileno(), packed.bytes, packed.offset), shape)


class Labelled(Protocol):
    """What an edit needs to know of a dataset: `data.Dataset` is one."""

    folder: Path
    multi_label: bool

    @property
    def cases(self) -> Sequence[Any]:
        """Its cases: `id` and `shape` are asked for."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""

    @property
    def mask_names(self) -> tuple[str, ...]:
        """Names of the structures."""

    def refresh(self) -> None:
        """Makes the newest edits seen."""


# -- writing edits ----------------------------------------------------------------------------------------------------


def record(
    dataset: Labelled,
    index: int,
    *,
    label: int | tuple[int, ...] | None = None,
    boxes: Iterable[Box] | None = None,
    mask: np.ndarray | None = None,
    clear: Collection[str] = (),
    attributes: Mapping[str, str] | None = None,
    who: str = "",
    origin: str = "drawn",
) -> Edit:
    """Keeps what a person says of the case at `index`; `dataset` shows it at once, every other one when it is opened.

    Args:
        label: class index, or indices for a multi-label dataset (() for none of them).
        boxes: all boxes of the scan; () says that there is nothing on it.
        mask: uint8 or bool (S, H, W); all zero says that there is nothing on it.
        clear: any of "class", "boxes", "mask", which the case carries no more: as if nobody had looked.
        attributes: what is kept of person, machine and site, made by `attributes`.
        who: whom the person says to be. origin: one of `ORIGINS`.
    Raises:
        LabelRefused: a label that does not fit the scan or the dataset, with the reason.
    """
    case = dataset.cases[index]
    unknown = sorted(set(clear) - set(_CLEARABLE))
    if unknown or origin not in ORIGINS or len(who) > _MAX_NAME or not (who.isprintable() or not who):
        raise LabelRefused(
            f"An edit clears any of {', '.join(_CLEARABLE)}, comes from one of {', '.join(ORIGINS)}, and its author's "
            f"name has up to {_MAX_NAME} printable characters."
        )
    checked = None if boxes is None else checked_boxes(boxes, case.shape, dataset.classes)
    if label is not None:
        label = _checked_label(label, len(dataset.classes), dataset.multi_label)
    drawn = None if mask is None else _checked_mask(mask, case.shape, dataset.mask_names)
    if label is None and checked is None and drawn is None and not clear and not attributes:
        raise LabelRefused("An edit must say something: give a class, boxes, a mask, or what is to be cleared.")
    edit = Edit(
        time.time(), who, origin, case.id, label, checked, None, tuple(sorted(clear)), attributes=dict(attributes or {})
    )
    with _appending(dataset.folder) as append:
        if drawn is not None:
            edit = replace(edit, mask=_keep(dataset.folder, drawn))
        append(edit)
    dataset.refresh()
    return edit


def name_classes(
    dataset: Labelled, classes: Iterable[str] = (), structures: Iterable[str] = (), who: str = ""
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Adds names of classes (of scans and boxes) and of structures (in masks); returns all names of both.

    Names that are there already stay where they are: an index once given never changes its meaning.

    Raises:
        LabelRefused: a name that is empty, too long or unprintable, or too many.
    """
    wanted, named = (tuple(dict.fromkeys(name.strip() for name in names)) for names in (classes, structures))
    if any(not name or len(name) > _MAX_NAME or not name.isprintable() for name in (*wanted, *named)):
        raise LabelRefused(f"A class has a name of 1 to {_MAX_NAME} printable characters.")
    with _appending(dataset.folder) as append:
        dataset.refresh()
        new_classes = tuple(name for name in wanted if name not in dataset.classes)
        new_structures = tuple(name for name in named if name not in dataset.mask_names)
        if len(dataset.mask_names) + len(new_structures) > MAX_STRUCTURES:
            raise LabelRefused(f"A mask can tell {MAX_STRUCTURES} structures apart, not more.")
        if new_classes or new_structures:
            append(Edit(time.time(), who, "named", classes=new_classes, structures=new_structures))
    dataset.refresh()
    return dataset.classes, dataset.mask_names


def checked_boxes(boxes: Iterable[Box], shape: tuple[int, int, int, int], classes: Sequence[str]) -> tuple[Box, ...]:
    """The boxes with floats rounded to a thousandth of a pixel. Raises LabelRefused for one that cannot be."""
    slices, _, height, width = shape
    checked = []
    for number, box in enumerate(boxes, 1):
        x0, y0, x1, y1 = (round(float(edge), 3) for edge in (box.x0, box.y0, box.x1, box.y1))
        if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):  # NaN fails each comparison
            raise LabelRefused(
                f"Box {number} does not lie in the picture: its edges must be numbers with x0 < x1 and y0 < y1, within "
                f"{width} x {height} pixels."
            )
        if not 0 <= box.slice < slices:
            raise LabelRefused(f"Box {number} lies in slice {box.slice}, but the scan has slices 0 to {slices - 1}.")
        if not 0 <= box.label < len(classes):
            raise LabelRefused(
                f"Box {number} is of class {box.label}, but the dataset has {len(classes)} classes: name it first."
            )
        checked.append(Box(x0, y0, x1, y1, int(box.label), int(box.slice)))
    return tuple(checked)


def _checked_label(label: int | tuple[int, ...], num_classes: int, multi_label: bool) -> int | tuple[int, ...]:
    if isinstance(label, tuple) != multi_label:
        kind = "several classes a scan: give a tuple" if multi_label else "one class a scan: give one number"
        raise LabelRefused(f"The dataset has {kind}.")
    indices = label if isinstance(label, tuple) else (label,)
    if any(not 0 <= index < num_classes for index in indices):
        raise LabelRefused(f"The dataset has {num_classes} classes, counted from 0: name a new one first.")
    return tuple(sorted({int(index) for index in indices})) if isinstance(label, tuple) else int(label)


def _checked_mask(mask: np.ndarray, shape: tuple[int, int, int, int], names: Sequence[str]) -> np.ndarray:
    slices, _, height, width = shape
    if mask.shape != (slices, height, width) or mask.dtype not in (np.dtype(bool), np.dtype(np.uint8)):
        raise LabelRefused(
            f"The mask is {mask.dtype} {mask.shape}; expected one whole number a pixel (uint8 or bool) for each of "
            f"{slices} x {height} x {width}."
        )
    mask = mask.astype(np.uint8, copy=False)
    if int(mask.max()) > len(names):
        raise LabelRefused(
            f"The mask shows structure {int(mask.max())}, but the dataset has {len(names)} structures: name it first."
        )
    return mask


def _keep(folder: Path, mask: np.ndarray) -> Packed:
    """Stores a drawn mask under the SHA-256 of its pixels; one that is there already is not written again."""
    packed, name = pack(mask), hashlib.sha256(np.ascontiguousarray(mask).data).hexdigest()
    path = folder / "drawn" / name
    if not path.exists():
        path.parent.mkdir(exist_ok=True, mode=0o700)
        draft = path.parent / f".{name}-{secrets.token_hex(4)}"
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(packed)
            file.flush()
            os.fsync(file.fileno())
        os.rename(draft, path)
    return Packed(0, path.stat().st_size, structures(mask), name)


@contextmanager
def _appending(folder: Path) -> Iterator[Any]:
    """A function that appends an edit to edits.jsonl: one writer at a time, and each edit is on the disk at once."""
    try:
        number = os.open(folder / "edits.jsonl", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    except FileNotFoundError:
        raise LabelRefused("The dataset is gone: it was deleted while you labelled it.") from None
    try:
        fcntl.flock(number, fcntl.LOCK_EX)
        size = os.fstat(number).st_size
        if size and os.pread(number, 1, size - 1) != b"\n":  # a writer died in the middle of a line
            os.ftruncate(number, (folder / "edits.jsonl").read_bytes().rfind(b"\n") + 1)

        def append(edit: Edit) -> None:
            data = edit.to_json().encode() + b"\n"
            if os.write(number, data) != len(data):
                raise OSError("An edit could not be written in full: the disk may be full.")
            os.fsync(number)

        yield append
    finally:
        os.close(number)
