"""Import: from files that people have to a dataset, with a ledger in which every file appears.

The files are arranged (`sources`), decoded one scan at a time in the sandbox, written as arrays, grouped by patient and
by duplicates, and split. Names, paths and identities stay in memory; on disk they are pseudonyms (`data.Pseudonyms`).
"""

import errno
import hashlib
import shutil
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from builder.data import (
    SPLITS,
    Case,
    Dataset,
    Draft,
    Entry,
    Pseudonyms,
    UnusableScan,
    drafting,
    pixels_digest,
)
from builder.duplicates import near_duplicates
from builder.fingerprint import fingerprint
from builder.medmnist import MedMNIST, NotMedMNIST
from builder.sandbox import Sandbox
from builder.scan import Header, Scan, Unreadable, Window, display
from builder.sources import Arrangement, Item, Source, SourceRefused, arrange, detect, known_suffix
from builder.splits import assign, join

__all__ = ["ImportFailed", "Report", "Source", "SourceRefused", "Step", "detect", "import_scans"]

MIN_ALIKE_PX = 48
"""Smaller pictures are not searched for near-duplicates: too many different ones look the same."""

_THUMB_PX = 64
_RESERVE_BYTES = 256 << 20
_HEADERS_AT_ONCE = 200
_REPAIRS = ("left out", "converted", "turned upright", "laid over", "sorted by their number", "of a float")
_MAY_SHOW_NAMES = {"US", "SC", "ES", "OT"}


class ImportFailed(SourceRefused):
    """Nothing could be imported. `ledger` says why for each file (with names, in memory only)."""

    def __init__(self, message: str, ledger: Sequence[Entry] = ()) -> None:
        super().__init__(message)
        self.ledger = tuple(ledger)


@dataclass(frozen=True)
class Step:
    """How far an import is: files done, files in all, and what is happening, in words without names."""

    done: int
    total: int
    note: str


@dataclass(frozen=True)
class Report:
    """What an import came to. Counts are of files (of pictures for a MedMNIST file); `ledger` holds their names."""

    dataset: str
    accepted: int
    repaired: int
    refused: int
    skipped: int
    cases: int
    patients: int
    ledger: tuple[Entry, ...] = field(repr=False)
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """What may be written down: no names."""
        return {
            "dataset": self.dataset,
            "accepted": self.accepted,
            "repaired": self.repaired,
            "refused": self.refused,
            "skipped": self.skipped,
            "cases": self.cases,
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
) -> Generator[Step, None, Report]:
    """Imports a source as a new dataset, or into an existing one.

    Args:
        name: of the new dataset, as people will read it.
        into: id (or name) of a dataset to add to; its cases keep their sides, and its classes stay.
        split: shares of train, val and test for groups that the source itself does not place.

    Yields: Step. Returns (as the generator's value): Report.
    Raises:
        SourceRefused: the source cannot be imported; nothing was written.
        ImportFailed: no file of it could be read; nothing was written.
    """
    name = name.strip()
    if not into and (not name or len(name) > 120 or not name.isprintable()):
        raise SourceRefused("Give the dataset a name of 1 to 120 printable characters.")
    if len(split) != 3 or min(split) < 0 or sum(split) <= 0:
        raise SourceRefused("The shares of train, val and test must be three numbers from 0 on, not all zero.")
    try:
        with drafting(Path(home), name, task, into) as draft:
            yield Step(0, 0, "looking at the files")
            arrangement = arrange(source, draft.scratch)
            intake = _Intake(draft, arrangement, source.synthetic)
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
        raise


@dataclass
class _Reading:
    """Files that become one case: a picture, a volume, or the slices of a series."""

    items: list[Item]
    series: bool = False
    fallback: str = ""  # why the files of a series stand alone


class _Intake:
    """One import in the making."""

    def __init__(self, draft: Draft, arrangement: Arrangement, synthetic: bool) -> None:
        self.draft = draft
        self.arrangement = arrangement
        self.synthetic = synthetic
        self.pseudonyms = Pseudonyms(draft.home)
        self.base: Dataset | None = draft.base
        self.old: tuple[Case, ...] = self.base.cases if self.base else ()
        self.known = {(case.content, case.label) for case in self.old}
        self.cases: list[Case] = []
        self.entries: list[Entry] = []
        self.first_entry = len(self.base.ledger()) if self.base else 0
        self.classes, self.multi_label = arrangement.classes, arrangement.multi_label
        self.told_patient: list[bool] = []
        self.thumbs = _Thumbs(draft.scratch / "thumbs")
        self.written = 0
        self.folder_patients: dict[str, set[str]] = {}
        self._check_classes()

    # -- files into cases --------------------------------------------------------------------------------------------

    def read_items(self) -> Iterator[Step]:
        items = self.arrangement.items
        total = len(items) + len(self.arrangement.left)
        for left in self.arrangement.left:
            self._enter(left.name, left.bytes, left.status, left.reason)
        self._check_disk(2 * sum(item.found.bytes for item in items))
        with Sandbox(folder=self.draft.scratch) as box:
            yield Step(len(self.entries), total, "reading the headers")
            for reading in self._readings(box):
                self._read(box, reading)
                yield Step(len(self.entries), total, f"{len(self.cases):,} scans read")

    def _readings(self, box: Sandbox) -> list[_Reading]:
        """Which files belong together, in the order in which they were found; what is no scan is refused here."""
        headers: dict[str, Header | Unreadable] = {}
        dicom = iter([item for item in self.arrangement.items if _is_dicom(item.found.path)])
        while batch := list(islice(dicom, _HEADERS_AT_ONCE)):
            read = box.headers([item.found.path for item in batch])
            headers.update(zip((item.found.name for item in batch), read, strict=True))
        readings: dict[Any, _Reading] = {}
        instances: dict[str, Item] = {}
        for item in self.arrangement.items:
            header = headers.get(item.found.name)
            if isinstance(header, Unreadable):
                self._enter_item(item, "refused", header.reason)
                continue
            if header is None:
                readings[item.found.name] = _Reading([item])
                continue
            if header.modality == "SEG":
                self._enter_item(item, "refused", "This is a segmentation: its values are labels, not a scan.")
                continue
            if header.instance:
                first = instances.setdefault(header.instance, item)
                if first is not item:
                    self._enter_copy(item, first)
                    continue
            alone = item.bundle is None or not header.series or header.slices > 1
            key = item.found.name if alone else _stack(item, header)
            readings.setdefault(key, _Reading([], series=not alone)).items.append(item)
        return list(readings.values())

    def _enter_copy(self, item: Item, first: Item) -> None:
        if _file_digest(item.found.path) == _file_digest(first.found.path):
            self._enter_item(item, "skipped", "an exact copy of another file of this import")
        else:
            self._enter_item(
                item, "refused", "it claims to be the same image as another file (SOP instance) but differs"
            )

    def _read(self, box: Sandbox, reading: _Reading) -> None:
        if not reading.series or len(reading.items) == 1:
            self._read_alone(box, reading.items[0], reading.fallback)
            return
        try:
            self._accept(box.read([item.found.path for item in reading.items], series=True), reading.items)
            return
        except Unreadable as error:
            whole = error.reason
        kept = []
        for item in reading.items:  # one bad slice must not cost the others
            try:
                box.read([item.found.path])
                kept.append(item)
            except Unreadable as error:
                self._enter_item(item, "refused", error.reason)
        if not kept:
            return
        lost = len(reading.items) - len(kept)
        if lost and len(kept) > 1:
            try:
                scan = box.read([item.found.path for item in kept], series=True)
            except Unreadable as error:
                whole = error.reason
            else:
                note = f"{lost} of {len(reading.items)} slices could not be read and were left out."
                self._accept(replace(scan, notes=(note, *scan.notes)), kept)
                return
        for item in kept:
            self._read_alone(box, item, f"The series could not be put together and was left out as such: {whole}")

    def _read_alone(self, box: Sandbox, item: Item, note: str = "") -> None:
        try:
            scan = box.read([item.found.path])
        except Unreadable as error:
            self._enter_item(item, "refused", error.reason)
            return
        self._accept(replace(scan, notes=(note, *scan.notes)) if note else scan, [item])

    def _accept(self, scan: Scan, items: Sequence[Item]) -> None:
        if scan.pixels.dtype.kind == "f" and not np.isfinite(scan.pixels).all():
            for item in items:
                self._enter_item(item, "refused", "It holds pixel values that are not finite numbers.")
            return
        first = items[0]
        self._check_folder(first, scan)
        label = self._label(first.labels)
        content = pixels_digest(scan.pixels)
        if self.base and (content, label) in self.known:
            for item in items:
                self._enter_item(item, "skipped", "This scan is already in the dataset.")
            return
        case = self._store(scan, content, label, first.split, self._identity(first, scan))
        repaired = any(words in note for note in scan.notes for words in _REPAIRS)
        for item in items:
            self._enter_item(item, "repaired" if repaired else "accepted", " ".join(scan.notes), case)

    def _identity(self, item: Item, scan: Scan) -> tuple[str, str] | None:
        if item.patient:
            return "patient", item.patient
        if scan.patient and scan.patient.strip():
            return "patient", scan.patient
        if scan.study and scan.study.strip():
            return "study", scan.study
        return None

    def _store(
        self,
        scan: Scan,
        content: str,
        label: int | tuple[int, ...] | None,
        split: str | None,
        identity: tuple[str, str] | None,
    ) -> str:
        if self.written > _RESERVE_BYTES // 4:
            self._check_disk(0)
            self.written = 0
        id = f"c{len(self.old) + len(self.cases):06d}"
        before = self.draft.sizes["pixels.bin"]
        offset = self.draft.append_array(scan.pixels)
        valid = None if scan.valid is None else self.draft.append_array(np.packbits(scan.valid.reshape(-1)))
        low, high = float(scan.pixels.min()), float(scan.pixels.max())
        case = Case(
            id=id,
            patient=self.pseudonyms(*(identity or ("picture", f"{content}/{id}"))),
            group="",
            label=label,
            split=split or "",
            shape=tuple(int(n) for n in scan.pixels.shape),  # type: ignore[arg-type]
            dtype=scan.pixels.dtype.name,
            offset=offset,
            valid_offset=valid,
            spacing_mm=tuple(None if v is None else float(v) for v in scan.spacing_mm),  # type: ignore[arg-type]
            modality=scan.modality,
            photometric=scan.photometric,
            bits=scan.bits,
            format=scan.format,
            windows=tuple(self._window(window) for window in scan.windows),
            value_range=(low, high),
            content=content,
            alike=content,
            series=self.pseudonyms("series", scan.series) if scan.series else "",
            notes=scan.notes,
        )
        self.written += self.draft.sizes["pixels.bin"] - before
        self.cases.append(case)
        self.told_patient.append(identity is not None)
        if identity is None:
            self.thumbs.add(len(self.old) + len(self.cases) - 1, scan)
        return id

    def _window(self, window: Window) -> tuple[float, float, str, str, int, int]:
        offset = self.draft.append_array(np.array(window.table, np.float64)) if window.table else 0
        return window.center, window.width, window.function, window.name, offset, len(window.table)

    # -- MedMNIST ----------------------------------------------------------------------------------------------------

    def read_npz(self) -> Iterator[Step]:
        assert self.arrangement.npz is not None
        for left in self.arrangement.left:
            self._enter(left.name, left.bytes, left.status, left.reason)
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
        if self.base and (content, label) in self.known:
            self._enter(name, pixels.nbytes, "skipped", "This scan is already in the dataset.")
            return
        scan = Scan(
            pixels,
            photometric="RGB" if pixels.shape[1] == 3 else "MONOCHROME2",
            bits=8 * pixels.dtype.itemsize,
            format="medmnist",
        )
        case = self._store(scan, content, label, split, None)
        self._enter(name, pixels.nbytes, "accepted", "", case)

    # -- labels ------------------------------------------------------------------------------------------------------

    def _check_classes(self) -> None:
        if not self.base or not self.classes:
            if self.base and not self.classes:
                self.classes, self.multi_label = self.base.classes, self.base.multi_label
            return
        if self.multi_label and not self.base.multi_label:
            raise SourceRefused(
                "The dataset has one label a scan, but this source gives several: import it on its own."
            )
        unknown = [name for name in self.classes if name not in self.base.classes]
        if unknown:
            raise SourceRefused(
                f"The dataset knows the classes {', '.join(self.base.classes) or '(none)'}; this source has "
                f"{len(unknown)} other{'s' if len(unknown) > 1 else ''}. Rename them, or import it as a new dataset."
            )
        self.classes, self.multi_label = self.base.classes, self.base.multi_label

    def _label(self, names: tuple[str, ...] | None) -> int | tuple[int, ...] | None:
        if names is None:
            return None
        found = tuple(sorted(self.classes.index(name) for name in names))
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
        if not self.cases:
            self._fail(counts)
        cases = [*self.old, *self._with_alike()]
        cases, registry = self._placed(cases, shares, seed)
        self.cases = cases[len(self.old) :]
        self.draft.append_lines("cases.jsonl", [case.to_json() for case in self.cases])
        self.draft.append_lines("ledger.jsonl", [entry.to_json() for entry in self.entries])
        self.draft.append_lines("splits.jsonl", registry)
        found = fingerprint(
            [case.fact for case in cases],
            self.classes,
            multi_label=self.multi_label,
            patient_source=self._patient_source(),
            official_split=self.arrangement.official_split
            or bool(self.arrangement.npz)
            or bool(self.base and self.base.fingerprint.official_split),
            synthetic=self.synthetic and (self.base is None or self.base.synthetic),
            warnings=self._warnings(cases, counts),
        )
        self.draft.commit(len(cases), found)
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
        )

    def _fail(self, counts: Counter[str]) -> None:
        reasons = Counter(entry.reason for entry in self.entries if entry.status in ("refused", "skipped"))
        why = "; ".join(f"{n} x {reason.rstrip('.')}" for reason, n in reasons.most_common(3))
        more = f"; and {len(reasons) - 3} other reasons" if len(reasons) > 3 else ""
        num = len(self.entries)
        head = "The one file was not imported" if num == 1 else f"None of the {num:,} files was imported"
        raise ImportFailed(f"{head}: {why}{more}.", self.entries)

    def _with_alike(self) -> list[Case]:
        """The new cases, each told which earlier picture it equals or almost equals."""
        everyone = [*self.old, *self.cases]
        first: dict[str, int] = {}
        for index, case in enumerate(everyone):
            first.setdefault(case.content, index)
        since = len(self.old)
        belongs = self._near(everyone, since)
        alike = [case.alike for case in everyone]
        for index in range(since, len(everyone)):
            equal = first[everyone[index].content]
            other = equal if equal < index else belongs[index]
            alike[index] = alike[other]
        return [replace(case, alike=alike[since + n]) for n, case in enumerate(self.cases)]

    def _near(self, everyone: Sequence[Case], since: int) -> list[int]:
        if not self.thumbs.count:
            return list(range(len(everyone)))
        if self.base:
            for index, case in enumerate(self.old):
                if min(case.shape[2:]) >= MIN_ALIKE_PX:
                    self.thumbs.add(index, self.base.scan(index))
        thumbs, positions = self.thumbs.all()
        order = np.argsort(positions, kind="stable")
        positions = positions[order]
        found = near_duplicates(thumbs, order, since=int(np.searchsorted(positions, since)))
        belongs = list(range(len(everyone)))
        for row, other in enumerate(found):
            belongs[int(positions[row])] = int(positions[other])
        return belongs

    def _placed(self, cases: list[Case], shares: dict[str, float], seed: int) -> tuple[list[Case], list[str]]:
        """Every case in its group and on its side, and the lines that remember the new groups' sides."""
        since = len(self.old)
        alike = [None if case.value_range[0] == case.value_range[1] else case.alike for case in cases]
        old_groups = [case.group or None for case in cases]
        roots = join(len(cases), [case.patient for case in cases], alike, old_groups)
        groups = _group_names(cases, roots, since)
        registry = dict(self.base.registry) if self.base else {}
        remembered = set(registry)
        ties: dict[str, str] = {}
        for case, group in zip(cases, groups, strict=True):
            ties[group] = min(ties.get(group, case.content), case.content)
        labels = [_label_list(case.label) for case in cases]
        sides = self._official(cases, groups, labels, registry, shares, seed, ties)
        if sides is None:
            registry.update(assign(groups, labels, registry=registry, shares=shares, seed=seed, ties=ties))
            sides = [registry[group] for group in groups]
        for group, side in zip(groups, sides, strict=True):
            registry.setdefault(group, side)
        placed = [
            case if index < since else replace(case, group=groups[index], split=sides[index])
            for index, case in enumerate(cases)
        ]
        lines = [f'{{"group":"{g}","split":"{side}"}}' for g, side in registry.items() if g not in remembered]
        return placed, lines

    def _official(
        self,
        cases: Sequence[Case],
        groups: Sequence[str],
        labels: Sequence[Sequence[int]],
        registry: dict[str, str],
        shares: dict[str, float],
        seed: int,
        ties: dict[str, str],
    ) -> list[str] | None:
        """Sides as the source gives them; a side it leaves out is taken from its train. None where it gives none.

        A group that already has a side in this dataset keeps it, whatever the source says.
        """
        since = len(self.old)
        given = {case.split for case in cases[since:]} - {""}
        if not given:
            return None
        sides = [case.split if n < since else registry.get(groups[n], case.split) for n, case in enumerate(cases)]
        absent = [side for side in SPLITS if side not in given and shares[side] > 0]
        if absent and "train" in given and not self.base:
            rows = [n for n in range(since, len(cases)) if cases[n].split == "train"]
            wished = {side: shares[side] for side in ("train", *absent)}
            own = [groups[n] for n in rows]
            fresh = assign(own, [labels[n] for n in rows], registry={}, shares=wished, seed=seed, ties=ties)
            for n in rows:
                sides[n] = fresh[groups[n]]
        return sides

    def _patient_source(self) -> str:
        if self.arrangement.patient_source:
            source = self.arrangement.patient_source
        elif any(self.told_patient):
            source = "dicom"
        elif self.arrangement.official_split or self.arrangement.npz:
            source = "official split"
        else:
            source = "one image = one patient"
        if self.base and self.base.fingerprint.patient_source != source:
            both = {self.base.fingerprint.patient_source, source}
            return "one image = one patient" if "one image = one patient" in both else source
        return source

    def _warnings(self, cases: Sequence[Case], counts: Counter[str]) -> list[str]:
        said = [f"{note[0].upper()}{note[1:]}." for note in self.arrangement.notes]
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
        if counts["refused"]:
            said.append(f"{counts['refused']} of {len(self.entries)} files were refused: the ledger says why.")
        return said

    def _check_disk(self, needed: int) -> None:
        free = shutil.disk_usage(self.draft.folder).free
        if needed + _RESERVE_BYTES > free:
            raise SourceRefused(
                f"The import needs {(needed + _RESERVE_BYTES) / 1e9:.1f} GB of disk, {free / 1e9:.1f} GB are free: "
                "nothing was imported. Make room and import again."
            )


class _Thumbs:
    """Grey previews of the scans without a known patient, in a file: memory does not grow with the import."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.positions: list[int] = []

    @property
    def count(self) -> int:
        return len(self.positions)

    def add(self, position: int, scan: Scan) -> None:
        if min(scan.pixels.shape[2:]) < MIN_ALIKE_PX:
            return
        with open(self.path, "ab") as file:
            file.write(_thumbnail(scan).tobytes())
        self.positions.append(position)

    def all(self) -> tuple[np.ndarray, np.ndarray]:
        shape = (len(self.positions), _THUMB_PX, _THUMB_PX)
        return np.memmap(self.path, np.uint8, "r", shape=shape), np.array(self.positions, np.int64)


def _thumbnail(scan: Scan) -> np.ndarray:
    """uint8 (64, 64): the middle slice in grey, stretched to a square."""
    from PIL import Image

    middle = scan.pixels.shape[0] // 2
    valid = None if scan.valid is None else scan.valid[middle : middle + 1]
    shown = display(replace(scan, pixels=scan.pixels[middle : middle + 1], valid=valid))[0].mean(axis=0)
    image = Image.fromarray(np.ascontiguousarray(shown * 255, np.float32))
    small = np.asarray(image.resize((_THUMB_PX, _THUMB_PX), Image.Resampling.BOX))
    return np.rint(np.clip(small, 0, 255)).astype(np.uint8)


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


def _label_list(label: int | tuple[int, ...] | None) -> tuple[int, ...]:
    if label is None:
        return ()
    return label if isinstance(label, tuple) else (label,)


def _stack(item: Item, header: Header) -> tuple[Any, ...]:
    """What slices of one volume have in common."""
    orientation = tuple(np.round(header.orientation, 2) + 0.0) if header.orientation else None
    size = header.rows, header.cols, header.channels
    told = item.labels, item.patient, item.split
    return item.bundle, told, header.series, header.modality, size, orientation, header.localizer


def _is_dicom(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def _file_digest(path: Path) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _burnt(case: Case) -> bool:
    return any("burnt into" in note for note in case.notes)
