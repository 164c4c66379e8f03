"""Import: from files that people have to a dataset, with a ledger in which every file appears.

The files are arranged (`sources`), decoded one scan at a time in the sandbox, written as arrays, grouped by patient and
by duplicates, and split. Names, paths and identities stay in memory; on disk they are pseudonyms (`data.Pseudonyms`).
"""

import errno
import math
import os
import shutil
import time
from collections import Counter
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from builder import attributes
from builder.arrangement import Arrangement, Item
from builder.boxfiles import BoxList
from builder.data import SPLITS, Case, Clean, Dataset, Entry, Pseudonyms, UnusableScan, pixels_digest
from builder.decoding import Outcome, decode
from builder.fingerprint import fingerprint
from builder.gathering import Found, SourceRefused, known_suffix
from builder.labelling import Masks, boxed, boxes_in_words
from builder.labels import Box, name_classes, read_mask, record
from builder.medmnist import MedMNIST, NotMedMNIST
from builder.scan import Scan, Window
from builder.sides import Thumbnails, compared, placed
from builder.sources import Source, arrange, detect
from builder.tables import MAX_CLASSES
from builder.writing import Draft, writing

__all__ = ["ImportFailed", "NewClasses", "Report", "Source", "SourceRefused", "Step", "detect", "import_scans"]

_RESERVE_BYTES = 256 << 20
_STEP_S = 0.2  # between two steps: whoever listens may write each of them down
_REPAIRS = ("left out", "converted", "turned upright", "laid over", "sorted by their number", "of a float")
_ODDITIES = {  # words of a scan's note: what is said of one series, and of several
    "unevenly spaced": ("has unevenly spaced slices", "have unevenly spaced slices"),
    "gantry was tilted": ("was taken with a tilted gantry", "were taken with a tilted gantry"),
}
_CLOSED = (
    "It belongs to the {} side, by its patient, as a copy or by its source; that side takes no more scans, and on any "
    "other it would give away the answer."
)
_THERE = "This scan is already in the dataset."
_TAUGHT = "This scan is already in the dataset; it got the {} told here."
_MAY_SHOW_NAMES = {"US", "SC", "ES", "OT"}


class ImportFailed(SourceRefused):
    """Nothing could be imported. `ledger` says why for each file (with names, in memory only)."""

    def __init__(self, message: str, ledger: Sequence[Entry] = ()) -> None:
        super().__init__(message)
        self.ledger = tuple(ledger)


class NewClasses(SourceRefused):
    """The source names classes that the dataset has not, and nobody said yes to them. `names`: in memory only, since a
    folder that was taken for a class may be called after a person."""

    def __init__(self, message: str, names: Sequence[str]) -> None:
        super().__init__(message)
        self.names = tuple(names)


@dataclass(frozen=True)
class Step:
    """How far an import is: files done, files in all, and what is happening, in words without names."""

    done: int
    total: int
    note: str


@dataclass(frozen=True)
class _News:
    """What is said of a scan that is there already: the fields of `labels.record`, None for what is not said."""

    index: int
    label: int | tuple[int, ...] | None
    boxes: tuple[Box, ...] | None
    mask: int | None  # its number among the waiting masks
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """What an import came to. Counts are of files (of pictures for a MedMNIST file); `ledger` holds their names.

    `cases` counts the new ones, `labelled` those that were there already and got labels.
    """

    dataset: str
    accepted: int
    repaired: int
    refused: int
    skipped: int
    cases: int
    patients: int
    ledger: tuple[Entry, ...] = field(repr=False)
    warnings: tuple[str, ...] = ()
    labelled: int = 0

    def to_json(self) -> dict[str, Any]:
        """What may be written down: no names."""
        return {
            "dataset": self.dataset,
            "accepted": self.accepted,
            "repaired": self.repaired,
            "refused": self.refused,
            "skipped": self.skipped,
            "cases": self.cases,
            "labelled": self.labelled,
            "patients": self.patients,
            "warnings": list(self.warnings),
        }


def import_scans(
    source: Source,
    name: str,
    home: Path,
    *,
    task: str = "recognition",
    into: str | None = None,
    split: tuple[float, float, float] = (0.7, 0.15, 0.15),
    seed: int = 0,
    keep_out_of: Collection[str] = (),
    new_classes: Collection[str] = (),
) -> Generator[Step, None, Report]:
    """Imports a source as a new dataset, or into an existing one.

    A scan that is there already (the same pixels) is not imported twice: what the source says of it, and it did not
    carry yet, becomes an edit of its labels, with its history.

    Args:
        name: of the new dataset, as people will read it.
        into: id (or name) of a dataset to add to; its cases keep their sides, and its classes their numbers.
        split: shares of train, val and test for groups that the source itself does not place.
        keep_out_of: sides that no scan may be added to, such as ("test",) for a dataset whose test side was opened. A
            scan that belongs there by its patient, as a copy, or by its source is refused: elsewhere it would leak.
        new_classes: names that may join the classes of the dataset that is added to, behind those that are there.

    Yields: Step. Returns (as the generator's value): Report.
    Raises:
        SourceRefused: the source cannot be imported; nothing was written.
        NewClasses: it names classes that are neither in the dataset nor in `new_classes`; nothing was written.
        ImportFailed: no file of it could be read; nothing was written.
    """
    name = name.strip()
    if not into and (not name or len(name) > 120 or not name.isprintable()):
        raise SourceRefused("Give the dataset a name of 1 to 120 printable characters.")
    if len(split) != 3 or not all(0 <= share < math.inf for share in split) or sum(split) <= 0:
        raise SourceRefused("The shares of train, val and test must be three numbers from 0 on, not all zero.")
    if not set(keep_out_of) < set(SPLITS):
        raise SourceRefused("Scans can be kept out of one or two of train, val and test, not of all of them.")
    try:
        with writing(Path(home), name, task, into) as draft:
            yield Step(0, 0, "looking at the files")
            arrangement = arrange(source, draft.scratch)
            intake = _Intake(draft, arrangement, source.synthetic, frozenset(keep_out_of), frozenset(new_classes))
            if arrangement.npz:
                yield from intake.read_npz()
            else:
                yield from intake.read_items()
            num = len(intake.entries)
            yield Step(num, num, "looking for duplicates and splitting by patient")
            return intake.finish(dict(zip(SPLITS, split, strict=True)), seed)
    except UnusableScan as error:
        raise SourceRefused(str(error)) from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise SourceRefused(
                "The disk became full during the import: nothing was imported. Make room and import again."
            ) from None
        words = os.strerror(error.errno) if error.errno else "unknown error"
        raise SourceRefused(f"The disk or drive failed during the import ({words}): nothing was imported.") from None


class _Intake:
    """One import in the making."""

    def __init__(
        self,
        draft: Draft,
        arrangement: Arrangement,
        synthetic: bool,
        keep_out_of: frozenset[str] = frozenset(),
        welcome: frozenset[str] = frozenset(),
    ) -> None:
        self.keep_out_of, self.welcome = keep_out_of, welcome
        self.draft = draft
        self.arrangement = arrangement
        self.synthetic = synthetic
        self.pseudonyms = Pseudonyms(draft.home)
        self.base: Dataset | None = draft.base
        self.numbers = attributes.Numbers(self.pseudonyms, self.base.numbered if self.base else None)
        self.old: tuple[Case, ...] = self.base.cases if self.base else ()
        self.there: dict[str, int] = {}
        for index, case in enumerate(self.old):
            self.there.setdefault(case.content, index)
        self.news: list[_News] = []
        closed = [case for case in self.old if case.split in keep_out_of]
        self.closed = {key: case.split for case in closed for key in (case.patient, case.content)}
        self.cases: list[Case] = []
        self.entries: list[Entry] = []
        self.first_entry = len(self.base.ledger()) if self.base else 0
        self.classes, self.multi_label = arrangement.classes, arrangement.multi_label
        self.told_patient: list[bool] = []
        self.thumbs = Thumbnails(draft.scratch / "thumbs")
        self.masks = Masks(draft.scratch / "masks", self.base.mask_names if self.base else ())
        self.mask_of: dict[str, int] = {}  # case id: number among the waiting masks
        self.told_aside: set[str] = set()
        self.bad_boxes: Counter[str] = Counter()
        self.num_clipped = 0
        self.written = 0
        self.folder_patients: dict[str, set[str]] = {}
        self._check_classes()
        for left in arrangement.left:
            self._enter(left.name, left.bytes, left.status, left.reason)

    # -- files into cases --------------------------------------------------------------------------------------------

    def read_items(self) -> Iterator[Step]:
        """Decodes the arranged files, one scan at a time."""
        items = self.arrangement.items
        beside = {f.name: f.bytes for item in items for f in (*item.masks, *([item.target] if item.target else ()))}
        told = {item.boxes.found.name for item in items if item.boxes and item.boxes.found}
        total = len(items) + len(self.arrangement.left) + len(beside) + len(told)
        self._check_disk(2 * (sum(item.found.bytes for item in items) + sum(beside.values())))
        yield Step(len(self.entries), total, "reading the headers")
        since = time.monotonic()
        for outcome in decode(items, self.draft.scratch):
            if outcome.scan is None:
                self._refuse(outcome, outcome.status, outcome.reason)
            else:
                self._accept(outcome, outcome.scan)
            if time.monotonic() - since >= _STEP_S:
                since = time.monotonic()
                yield Step(len(self.entries), total, f"{len(self.cases):,} scans read")

    def _refuse(self, outcome: Outcome, status: str, reason: str, case: str | None = None) -> None:
        """Enters all files of an outcome that becomes no case; `case`: the one that it is already."""
        for item in outcome.items:
            self._enter_item(item, status, reason, case)
        for found in self._label_files(outcome):
            self._enter_found(found, status, "its scan was not taken")
        for aside in outcome.asides:
            if aside.status == "refused":
                self._enter_found(aside.found, aside.status, aside.reason)
            else:
                self._enter_found(aside.found, status, "its scan was not taken")

    def _accept(self, outcome: Outcome, scan: Scan) -> None:
        items = outcome.items
        for read in (scan, outcome.target):
            if read is not None and read.pixels.dtype.kind == "f" and not np.isfinite(read.pixels).all():
                self._refuse(outcome, "refused", "It holds pixel values that are not finite numbers.")
                return
        first = items[0]
        self._check_folder(first, scan)
        label = self._label(first.labels)
        boxes, said = self._boxes(items, scan)
        content = pixels_digest(scan.pixels)
        if content in self.there:
            index = self.there[content]
            names = dict(outcome.names or self.arrangement.mask_names)
            status, reason = self._told(index, label, boxes, outcome.mask, names, self._attributes(first, scan))
            if status == "accepted":
                self._enter_all(outcome, self.old[index].id, reason, False, boxes, said)
            else:
                self._refuse(outcome, status, reason, self.old[index].id)
            return
        identity = self._identity(first, scan)
        keys = (content, self.pseudonyms(*identity)) if identity else (content,)
        closed = next((self.closed[key] for key in keys if key in self.closed), None)
        closed = first.split if first.split in self.keep_out_of else closed
        if closed:
            self._refuse(outcome, "refused", _CLOSED.format(closed))
            return
        told = self._attributes(first, scan)
        case = self._store(outcome, scan, content, label, boxes, first.split, identity, told)
        if outcome.mask is not None:
            names = dict(outcome.names or self.arrangement.mask_names)
            self.mask_of[case] = self.masks.add(outcome.mask, names)
        repaired = any(words in note for note in scan.notes for words in _REPAIRS)
        self._enter_all(outcome, case, " ".join(scan.notes), repaired, boxes, said)

    def _enter_all(
        self,
        outcome: Outcome,
        case: str,
        notes: str,
        repaired: bool,
        boxes: tuple[Box, ...] | None,
        said: dict[str, str],
    ) -> None:
        """Enters all files of an outcome that was taken: scans, label files, masks and clean scans."""
        for item in outcome.items:
            own = said.get(item.found.name, "") if not (item.boxes and item.boxes.found) else ""
            status = "repaired" if repaired or own else "accepted"
            self._enter_item(item, status, " ".join(filter(None, (notes, own))), case)
            if item.boxes and item.boxes.found:
                words = said.get(item.found.name, "")
                status = "refused" if words and boxes is None else "repaired" if words else "accepted"
                self._enter_found(item.boxes.found, status, words, case)
        for aside in outcome.asides:
            if aside.found.name not in self.told_aside:  # of a series that fell apart each slice tells of its mask
                self.told_aside.add(aside.found.name)
                took = aside.status != "refused"
                self._enter_found(aside.found, aside.status, aside.reason, case if took else None)

    def _told(
        self,
        index: int,
        label: int | tuple[int, ...] | None,
        boxes: tuple[Box, ...] | None = None,
        mask: np.ndarray | None = None,
        names: dict[int, str] | None = None,
        said: Mapping[str, str] | None = None,
    ) -> tuple[str, str]:
        """Keeps what is said of a scan that is there already, where it neither carries that now nor came with it.

        Returns: status and reason for the ledger.
        """
        assert self.base is not None
        now, came = self.old[index], self.base.imported[index]
        label = None if label in (now.label, came.label) else label
        boxes = None if boxes in (now.boxes, came.boxes) else boxes
        mask = None if mask is None or self._shows(now, mask) or self._shows(came, mask) else mask
        told = {"class": label, "boxes": boxes, "mask": mask}
        known = (now.attributes, came.attributes)
        new = {n: value for n, value in (said or {}).items() if value not in [one.get(n) for one in known]}
        given = [name for name, value in told.items() if value is not None]
        words = " and ".join([*given, *(attributes.title(name).lower() for name in sorted(new, key=attributes.place))])
        if not words:
            return "skipped", _THERE
        if given and now.split in self.keep_out_of:
            return "refused", f"{_THERE} It lies on the {now.split} side, which takes no more labels."
        self.news.append(_News(index, label, boxes, None if mask is None else self.masks.add(mask, names), new))
        return "accepted", _TAUGHT.format(words)

    def _shows(self, case: Case, mask: np.ndarray) -> bool:
        """Whether a case carries this mask (S, H, W), whatever numbers stand for its structures."""
        assert self.base is not None
        if case.mask is None:
            return False
        slices, _, height, width = case.shape
        there = read_mask(self.base.folder, case.mask, (slices, height, width))
        if not np.array_equal(there > 0, mask > 0):
            return False
        pairs = np.unique(np.stack([there[there > 0].astype(np.int64), mask[mask > 0].astype(np.int64)]), axis=1)
        return all(len(np.unique(row)) == pairs.shape[1] for row in pairs)

    def _boxes(self, items: Sequence[Item], scan: Scan) -> tuple[tuple[Box, ...] | None, dict[str, str]]:
        """The boxes of a scan, None where nobody looked, and what was done to them: {file: words}."""
        lists: list[tuple[str, BoxList, int | None]] = []
        for number, item in enumerate(items):
            if item.boxes is None or (lists and item.boxes.whole):
                continue  # a folder's boxes are told of each of its files
            whole = len(items) == 1 or item.boxes.whole
            place = number if not scan.order else scan.order.index(number) if number in scan.order else -1
            lists.append((item.found.name, item.boxes, None if whole else place))
        boxes: tuple[Box, ...] | None = None
        said: dict[str, str] = {}
        for name, told, at in lists:
            found = boxed(told, scan, self.classes, at)
            self.bad_boxes.update(found.bad)
            self.num_clipped += found.clipped
            if found.words:
                said[name] = found.words
            if found.boxes is not None:
                boxes = (boxes or ()) + found.boxes
        return boxes, said

    @staticmethod
    def _label_files(outcome: Outcome) -> list[Found]:
        found = {item.boxes.found.name: item.boxes.found for item in outcome.items if item.boxes and item.boxes.found}
        return list(found.values())

    def _identity(self, item: Item, scan: Scan) -> tuple[str, str] | None:
        if item.patient:
            return "patient", item.patient
        if scan.patient and scan.patient.strip():
            return "patient", scan.patient
        if scan.study and scan.study.strip():
            return "study", scan.study
        return None

    def _attributes(self, item: Item, scan: Scan) -> dict[str, str]:
        """What is kept of person, machine and site: as a table or folder says, else as the file does."""
        kept, named, _ = attributes.from_cells(item.attributes)
        said = {**kept, **named}
        named = {**{name: text for name, text in scan.unnumbered.items() if name not in said}, **named}
        return {
            **{name: value for name, value in scan.attributes.items() if name not in said},
            **kept,
            **{name: self.numbers(name, text) for name, text in named.items()},
        }

    def _store(
        self,
        outcome: Outcome,
        scan: Scan,
        content: str,
        label: int | tuple[int, ...] | None,
        boxes: tuple[Box, ...] | None,
        split: str | None,
        identity: tuple[str, str] | None,
        told: Mapping[str, str] | None = None,
    ) -> str:
        if self.written > _RESERVE_BYTES // 4:
            self._check_disk(0)
            self.written = 0
        id = f"c{len(self.old) + len(self.cases):06d}"
        before = self.draft.sizes["pixels.bin"]
        picture = self._picture(scan, content)
        target = outcome.target
        case = Case(
            id=id,
            patient=self.pseudonyms(*(identity or ("picture", f"{content}/{id}"))),
            group="",
            label=label,
            split=split or "",
            **picture,
            alike=content,
            series=self.pseudonyms("series", scan.series) if scan.series else "",
            boxes=boxes,
            target=None if target is None else Clean(**self._picture(target, pixels_digest(target.pixels))),
            attributes=dict(told or {}),
        )
        self.written += self.draft.sizes["pixels.bin"] - before
        self.cases.append(case)
        self.told_patient.append(identity is not None)
        if identity is None:
            self.thumbs.add(len(self.old) + len(self.cases) - 1, scan)
        return id

    def _picture(self, scan: Scan, content: str) -> dict[str, Any]:
        """Writes the pixels; returns the fields by which they are found and understood again."""
        offset = self.draft.append_array(scan.pixels)
        valid = None if scan.valid is None else self.draft.append_array(np.packbits(scan.valid.reshape(-1)))
        return {
            "shape": tuple(int(n) for n in scan.pixels.shape),
            "dtype": scan.pixels.dtype.name,
            "offset": offset,
            "valid_offset": valid,
            "spacing_mm": tuple(v and float(v) if math.isfinite(v or 0) else None for v in scan.spacing_mm),
            "modality": scan.modality,
            "photometric": scan.photometric,
            "bits": scan.bits,
            "format": scan.format,
            "windows": tuple(self._window(w) for w in scan.windows if math.isfinite(w.center + w.width)),
            "value_range": (float(scan.pixels.min()), float(scan.pixels.max())),
            "content": content,
            "notes": scan.notes,
            "grid": scan.grid,
            "body": scan.body,
        }

    def _window(self, window: Window) -> tuple[float, float, str, str, int, int]:
        offset = self.draft.append_array(np.array(window.table, np.float64)) if window.table else 0
        return window.center, window.width, window.function, window.name, offset, len(window.table)

    # -- MedMNIST ----------------------------------------------------------------------------------------------------

    def read_npz(self) -> Iterator[Step]:
        """Streams the pictures of a MedMNIST file."""
        assert self.arrangement.npz is not None
        try:
            npz = MedMNIST(self.arrangement.npz.path, PurePosixPath(self.arrangement.npz.name).name)
            self.classes, self.multi_label = npz.classes, npz.multi_label
            self._check_classes()
            picture = int(np.prod(npz.picture)) * npz.dtype.itemsize
            self._check_disk(sum(npz.splits.values()) * (picture + 16))
            total = sum(npz.splits.values()) + len(self.arrangement.left)
            for split in npz.splits:
                labels = npz.labels(split)
                position = 0
                for block in npz.images(split):
                    for pixels in block:
                        self._accept_picture(pixels, labels[position], split, position)
                        position += 1
                    yield Step(len(self.entries), total, f"{len(self.cases):,} pictures read")
        except NotMedMNIST as error:
            raise SourceRefused(str(error)) from None

    def _accept_picture(self, pixels: np.ndarray, row: np.ndarray, split: str, position: int) -> None:
        name = f"{split} {position}"
        if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
            self._enter(name, pixels.nbytes, "refused", "It holds pixel values that are not finite numbers.")
            return
        label = tuple(int(i) for i in np.flatnonzero(row)) if self.multi_label else int(row[0])
        content = pixels_digest(pixels)
        if content in self.there:
            index = self.there[content]
            self._enter(name, pixels.nbytes, *self._told(index, label), self.old[index].id)
            return
        scan = Scan(
            pixels,
            photometric="RGB" if pixels.shape[1] == 3 else "MONOCHROME2",
            bits=8 * pixels.dtype.itemsize,
            format="medmnist",
        )
        case = self._store(Outcome((), scan), scan, content, label, None, split, None)
        self._enter(name, pixels.nbytes, "accepted", "", case)

    # -- labels ------------------------------------------------------------------------------------------------------

    def _check_classes(self) -> None:
        if not self.base or not self.base.classes:  # a new dataset, or one that has no names yet
            return
        if not self.classes:
            self.classes, self.multi_label = self.base.classes, self.base.multi_label
            return
        if self.multi_label and not self.base.multi_label:
            raise SourceRefused(
                "The dataset has one label a scan, but this source gives several: import it on its own."
            )
        new = [name for name in self.classes if name not in self.base.classes]
        unknown = [name for name in new if name not in self.welcome]
        if unknown:
            raise NewClasses(
                f"The dataset knows the classes {', '.join(self.base.classes)}; this source has {len(unknown)} "
                f"other{'s' if len(unknown) > 1 else ''}. Say that they shall be added, rename them, or import it as a "
                "new dataset.",
                unknown,
            )
        if len(self.base.classes) + len(new) > MAX_CLASSES:
            raise SourceRefused(f"A dataset can have {MAX_CLASSES:,} classes, not more: import it as a new one.")
        self.classes, self.multi_label = (*self.base.classes, *new), self.base.multi_label

    def _name_classes(self) -> None:
        """Gives the new classes their numbers for good: behind those that somebody named while the import ran."""
        if self.base is None or not set(self.classes) - set(self.base.classes):
            return
        names, _ = name_classes(self.base, self.classes)
        number = [names.index(name) for name in self.classes]
        self.classes = names

        def again(label: int | tuple[int, ...] | None) -> int | tuple[int, ...] | None:
            if isinstance(label, tuple):
                return tuple(sorted(number[k] for k in label))
            return None if label is None else number[label]

        def redrawn(boxes: tuple[Box, ...] | None) -> tuple[Box, ...] | None:
            return boxes and tuple(replace(box, label=number[box.label]) for box in boxes)

        if number != list(range(len(number))):
            self.cases = [replace(c, label=again(c.label), boxes=redrawn(c.boxes)) for c in self.cases]
            self.news = [replace(n, label=again(n.label), boxes=redrawn(n.boxes)) for n in self.news]

    def _label(self, names: tuple[str, ...] | None) -> int | tuple[int, ...] | None:
        if names is None:
            return None
        found = tuple(sorted(self.classes.index(name) for name in names))
        if not found and not self.multi_label:
            return None
        return found if self.multi_label else found[0]

    def _check_folder(self, item: Item, scan: Scan) -> None:
        """Folders that are called like patients must not become class names that everybody reads."""
        if self.arrangement.kind != "classes" or not scan.patient or not item.labels:
            return
        if item.labels[0].strip().casefold() == scan.patient.strip().casefold():
            raise SourceRefused(
                "The folders are called like the patients in the files, so they are no classes: import the source as a "
                "plain folder, or with a label table."
            )
        self.folder_patients.setdefault(item.labels[0], set()).add(scan.patient)

    # -- ledger ------------------------------------------------------------------------------------------------------

    def _enter_item(self, item: Item, status: str, reason: str, case: str | None = None) -> None:
        self._enter(item.found.name, item.found.bytes, status, reason, case)

    def _enter_found(self, found: Found, status: str, reason: str, case: str | None = None) -> None:
        self._enter(found.name, found.bytes, status, reason, case)

    def _enter(self, name: str, num_bytes: int, status: str, reason: str, case: str | None = None) -> None:
        entry = Entry(
            n=self.first_entry + len(self.entries),
            key=self.pseudonyms("name", name),
            base=self.pseudonyms("name", PurePosixPath(name).name),
            suffix=known_suffix(name),
            bytes=num_bytes,
            status=status,
            reason=reason,
            case=case,
            name=name,
        )
        self.entries.append(entry)

    # -- groups, sides, the end --------------------------------------------------------------------------------------

    def finish(self, shares: dict[str, float], seed: int) -> Report:
        counts = Counter(entry.status for entry in self.entries)
        if not self.cases and not self.news:
            self._fail(counts)
        structures = self.masks.named()
        self.cases = [self._with_mask(case, structures) for case in self.cases]
        fresh = compared(self.base, self.cases, self.thumbs)
        self.cases, registry = placed(self.base, fresh, shares, seed, self.keep_out_of)
        self._leave_out_closed()
        counts = Counter(entry.status for entry in self.entries)
        if not self.cases and not self.news:
            self._fail(counts)
        self._name_classes()
        drawn = [None if new.mask is None else self.masks.read(new.mask, structures) for new in self.news]
        cases = [*self.old, *self.cases]
        self.draft.append_lines("cases.jsonl", [case.to_json() for case in self.cases])
        self.draft.append_lines("ledger.jsonl", [entry.to_json() for entry in self.entries])
        self.draft.append_lines("splits.jsonl", registry)
        said = self._warnings(cases, counts)
        found = fingerprint(
            [case.fact for case in cases],
            self.classes,
            multi_label=self.multi_label,
            patient_source=self._patient_source(),
            official_split=self.arrangement.official_split
            or bool(self.arrangement.npz)
            or bool(self.base and self.base.fingerprint.official_split),
            synthetic=self.synthetic and (self.base is None or self.base.synthetic),
            warnings=said,
            mask_names=structures,
        )
        self.draft.commit(len(cases), found, said, self.numbers.to_json())
        # Behind the commit: before it, the structures have no names. Killed in between, the import can be done again.
        grown = Dataset(self.draft.home, self.draft.folder)
        for new, mask in zip(self.news, drawn, strict=True):
            record(
                grown,
                new.index,
                label=new.label,
                boxes=new.boxes,
                mask=mask,
                attributes=new.attributes,
                origin="imported",
            )
        return Report(
            dataset=self.draft.id,
            accepted=counts["accepted"],
            repaired=counts["repaired"],
            refused=counts["refused"],
            skipped=counts["skipped"],
            cases=len(self.cases),
            patients=len({case.patient for case in self.cases}),
            ledger=tuple(self.entries),
            warnings=found.warnings,
            labelled=len({new.index for new in self.news}),
        )

    def _leave_out_closed(self) -> None:
        """Takes out what turned out to belong to a closed side: almost equal to a scan there."""
        kept = [case for case in self.cases if case.split not in self.keep_out_of]
        if len(kept) == len(self.cases):
            return
        ids = {case.id: f"c{len(self.old) + n:06d}" for n, case in enumerate(kept)}
        sides = {case.id: case.split for case in self.cases}
        self.told_patient = [told for told, case in zip(self.told_patient, self.cases, strict=True) if case.id in ids]
        self.cases = [replace(case, id=ids[case.id]) for case in kept]
        self.entries = [
            entry
            if entry.case is None or entry.case not in sides
            else replace(entry, case=ids[entry.case])
            if entry.case in ids
            else replace(entry, case=None, status="refused", reason=_CLOSED.format(sides[entry.case]))
            for entry in self.entries
        ]

    def _with_mask(self, case: Case, structures: Sequence[str]) -> Case:
        if case.id not in self.mask_of:
            return case
        number = self.mask_of[case.id]
        return replace(
            case, mask=self.masks.store(number, structures, lambda packed: self.draft.append("masks.bin", packed))
        )

    def _fail(self, counts: Counter[str]) -> None:
        reasons = Counter(entry.reason for entry in self.entries if entry.status in ("refused", "skipped"))
        why = "; ".join(f"{n} x {reason.rstrip('.')}" for reason, n in reasons.most_common(3))
        more = f"; and {len(reasons) - 3} other reasons" if len(reasons) > 3 else ""
        num = len(self.entries)
        head = "The one file was not imported" if num == 1 else f"None of the {num:,} files was imported"
        raise ImportFailed(f"{head}: {why}{more}.", self.entries)

    def _patient_source(self) -> str:
        if self.arrangement.patient_source:
            source = self.arrangement.patient_source
        elif any(self.told_patient):
            source = "dicom"
        elif self.arrangement.npz or (self.arrangement.official_split and self._says_test()):
            source = "official split"
        else:
            source = "one image = one patient"
        if self.base and self.base.fingerprint.patient_source != source:
            both = {self.base.fingerprint.patient_source, source}
            return "one image = one patient" if "one image = one patient" in both else source
        return source

    def _says_test(self) -> bool:
        """Whether the source's own split has the test side: one that it leaves out is drawn from its train part."""
        return not any(case.split == "test" for case in self.cases) or any(
            item.split == "test" for item in self.arrangement.items
        )

    def _warnings(self, cases: Sequence[Case], counts: Counter[str]) -> list[str]:
        said = [f"{note[0].upper()}{note[1:]}." for note in self.arrangement.notes]
        said += boxes_in_words(self.bad_boxes, self.num_clipped)
        untold = self.told_patient.count(False)
        if any(self.told_patient) and untold:
            said.append(f"{untold} of {len(self.cases)} scans name no patient: each of them counts as one patient.")
        shown = sum(case.modality in _MAY_SHOW_NAMES or _burnt(case) for case in cases)
        if shown:
            said.append(
                f"{shown} scan{'s are' if shown > 1 else ' is'} ultrasound, screen capture or marked as bearing text; "
                "names may be burnt into such pictures. Look at them before you share anything."
            )
        if len(self.folder_patients) > 2 and all(len(found) == 1 for found in self.folder_patients.values()):
            said.append("Each class folder holds exactly one patient: are the folders patients rather than classes?")
        for words, is_so in _ODDITIES.items():
            num = sum(any(words in note for note in case.notes) for case in cases)
            if num:
                said.append(f"{num} series {is_so[num > 1]}; see Scans.")
        if counts["refused"]:
            was = "was" if counts["refused"] == 1 else "were"
            said.append(f"{counts['refused']} of {len(self.entries)} files {was} refused: the tab Files says why.")
        return said

    def _check_disk(self, needed: int) -> None:
        free = shutil.disk_usage(self.draft.folder).free
        if needed + _RESERVE_BYTES > free:
            raise SourceRefused(
                f"The import needs {(needed + _RESERVE_BYTES) / 1e9:.1f} GB of disk, {free / 1e9:.1f} GB are free: "
                "nothing was imported. Make room and import again."
            )


def _burnt(case: Case) -> bool:
    return any("burnt into" in note for note in case.notes)
