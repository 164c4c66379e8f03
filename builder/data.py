"""A dataset on disk: cases, their pixels in one memory-mapped file, the ledger of their import, and the split.

    home/salt                        32 random bytes (0600): keys every pseudonym
    home/datasets/<id>/dataset.json  the summary; replacing it commits an import
                       cases.jsonl   one Case a line       pixels.bin   their arrays, one after the other
                       ledger.jsonl  one file a line       splits.jsonl {group, split}: append-only, groups never move
                       masks.bin, edits.jsonl, drawn/      masks, and what people labelled later: see `labels`
                       prepared/<digest>/{images.npy, stats.json}
                       audit.json, copies.json          what an audit found: see `audit`

No original file name, path, UID or free text of a tag is in any of them: names, patients and series are HMAC-SHA256
under the salt; what is kept of people, machines and sites is in `attributes`.
"""

import contextlib
import hashlib
import hmac
import json
import os
import re
import secrets
import shutil
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from builder.fingerprint import SPLITS, Fact, Fingerprint, fingerprint
from builder.labels import KINDS, Box, Edit, Edits, Packed, edits_size, read_edits, read_mask
from builder.prepared import (
    Placement,
    Prepared,
    Progress,
    UnusableScan,
    build,
    chosen,
    digest,
    normalized_over,
    pixel_aspect,
    place,
    prepare,
    quantize,
    size_in,
)
from builder.scan import Grid, Scan, Window, grey_range
from builder.spec import Data

__all__ = [
    "SPLITS",
    "Box",
    "Case",
    "Clean",
    "Dataset",
    "Entry",
    "Fingerprint",
    "Placement",
    "Prepared",
    "Pseudonyms",
    "Summary",
    "UnknownDataset",
    "UnusableScan",
    "chosen",
    "copies",
    "copies_found_since",
    "datasets",
    "delete",
    "pixel_aspect",
    "pixels_digest",
    "place",
    "prepare",
    "quantize",
    "size_in",
]

_READ_BYTES = 8 << 20
_COUNTED = 2  # of what a fingerprint counts: a change makes kept ones void
_ID = re.compile(r"^[0-9]{8}-[0-9]{6}-[0-9a-f]{6}$")


class UnknownDataset(LookupError):
    """No dataset of that id or name. Its text is a sentence for people."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else "There is no such dataset."


# -- pseudonyms ---------------------------------------------------------------------------------------------------


def _salt(home: Path) -> bytes:
    path = home / "salt"
    if not path.exists():
        home.mkdir(parents=True, exist_ok=True)
        draft = home / f".salt-{secrets.token_hex(8)}"
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(32))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)  # fails when another process was first: then theirs holds
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    salt = path.read_bytes()
    if len(salt) < 32:
        raise OSError("The file 'salt' in the data folder is damaged: patients could no longer be recognised.")
    return salt


class Pseudonyms:
    """Names, patients and UIDs as 32 hex digits: the same text gives the same digits on this machine, and only here."""

    def __init__(self, home: Path) -> None:
        self._salt = _salt(Path(home))

    def __call__(self, kind: str, text: str) -> str:
        """The digits for a text; equal texts of different kinds ("name", "patient", "series") get different ones."""
        normal = unicodedata.normalize("NFC", text).strip()
        found = hmac.new(self._salt, f"{kind}\0{normal}".encode(errors="surrogateescape"), hashlib.sha256)
        return found.hexdigest()[:32]


# -- what is stored --------------------------------------------------------------------------------------------------


_Windows = tuple[tuple[float, float, str, str, int, int], ...]


@dataclass(frozen=True)
class Clean:
    """The clean scan of a pair (image enhancement), stored like the pixels of its case; fields as in `Case`."""

    shape: tuple[int, int, int, int]
    dtype: str
    offset: int
    valid_offset: int | None
    spacing_mm: tuple[float | None, float | None, float | None]
    modality: str
    photometric: str
    bits: int
    format: str
    windows: _Windows
    value_range: tuple[float, float]
    content: str
    notes: tuple[str, ...] = ()
    grid: Grid | None = None
    body: str = ""


@dataclass(frozen=True)
class Case:
    """One scan of a dataset.

    Attributes:
        id: "c000000", counted within the dataset.
        patient: pseudonym; the case's own where the patient is unknown.
        group: what is split as one: patient and duplicates together.
        label: class index, indices (multi-label), or None.
        shape: (S, C, H, W) of the stored array; dtype its numpy name; offset its first byte in pixels.bin.
        valid_offset: first byte of the bit-packed mask of valid pixels, or None where all are.
        windows: (center, width, function, name, offset of the table in pixels.bin, its length) each.
        content: SHA-256 of the pixels, equal for a grey picture and the same picture saved as RGB.
        alike: content of the first picture that it equals or almost equals; its own where it is the first.
        notes: what was repaired or is to be known, in words.
        grid: where it lies in the patient, where its file says so.
        boxes: None where nobody looked for any, () where somebody did and there are none.
        mask: where it lies; None where there is none.
        target: the clean scan of a pair.
        body: the part of the body, where its file says so.
        attributes: what is kept of the person, the machine and the site, by name (see `attributes`).
    """

    id: str
    patient: str
    group: str
    label: int | tuple[int, ...] | None
    split: str
    shape: tuple[int, int, int, int]
    dtype: str
    offset: int
    valid_offset: int | None
    spacing_mm: tuple[float | None, float | None, float | None]
    modality: str
    photometric: str
    bits: int
    format: str
    windows: _Windows
    value_range: tuple[float, float]
    content: str
    alike: str
    series: str = ""
    notes: tuple[str, ...] = ()
    grid: Grid | None = None
    boxes: tuple[Box, ...] | None = None
    mask: Packed | None = None
    target: Clean | None = None
    body: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """One line of cases.jsonl; what the case does not carry is not named."""
        found = _plain(self)
        if self.boxes is not None:
            found["boxes"] = [box.to_json() for box in self.boxes]
        if self.mask is not None:
            found["mask"] = self.mask.to_json()
        if self.target is not None:
            found["target"] = _plain(self.target)
        return json.dumps(found, separators=(",", ":"), ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> "Case":
        """Reads one line of cases.jsonl, also of a version that knew classes only."""
        found = _with_tuples(json.loads(line))
        if isinstance(found["label"], list):
            found["label"] = tuple(found["label"])
        if found.get("boxes") is not None:
            found["boxes"] = tuple(Box.from_json(box) for box in found["boxes"])
        if found.get("mask") is not None:
            found["mask"] = Packed.from_json(found["mask"])
        if found.get("target") is not None:
            found["target"] = Clean(**_with_tuples(found["target"]))
        return cls(**found)

    def carries(self, by: str) -> bool:
        """Whether the case is labelled by "class", "boxes", "mask" or "target", or with "anything" of these."""
        if by == "anything":
            return any(map(self.carries, KINDS))
        if by not in KINDS:
            raise ValueError(f"Cases are labelled by {', '.join(KINDS)} or anything; {by!r} came.")
        return getattr(self, "label" if by == "class" else by) is not None

    @property
    def fact(self) -> Fact:
        """The part the fingerprint looks at."""
        return Fact(
            self.patient,
            self.label,
            self.split,
            self.shape,
            self.bits,
            self.modality,
            self.format,
            self.spacing_mm,
            self.value_range,
            self.content,
            self.alike,
            self.boxes,
            None if self.mask is None else self.mask.present,
            self.target is not None,
            self.body,
            self.id,
            self.attributes,
        )


def _plain(picture: Case | Clean) -> dict[str, Any]:
    """The fields of a stored picture as plain data, without those that are told apart."""
    found = {name: value for name, value in picture.__dict__.items() if name not in ("boxes", "mask", "target", "grid")}
    for name in ("body", "attributes"):
        if not found.get(name):
            found.pop(name, None)
    return found if picture.grid is None else {**found, "grid": picture.grid.to_json()}


def _with_tuples(found: dict[str, Any]) -> dict[str, Any]:
    if found.get("grid") is not None:
        found["grid"] = Grid.from_json(found["grid"])
    for name in ("shape", "spacing_mm", "value_range", "notes"):
        found[name] = tuple(found[name])
    found["windows"] = tuple(tuple(window) for window in found["windows"])
    return found


@dataclass(frozen=True)
class Entry:
    """What became of one file of an import.

    Attributes:
        key, base: pseudonyms of the relative path and of the bare file name.
        suffix: a known file ending, else "other" (an unknown one could be a name).
        status: "accepted", "repaired", "refused" or "skipped"; reason says why, in words without names.
        case: id of the case it became part of, or None.
        name: relative path; in memory only, for the person who chose the files.
    """

    n: int
    key: str
    base: str
    suffix: str
    bytes: int
    status: str
    reason: str
    case: str | None = None
    name: str = field(default="", compare=False, repr=False)

    def to_json(self) -> str:
        """One line of ledger.jsonl, without the name."""
        plain = {key: value for key, value in self.__dict__.items() if key != "name"}
        return json.dumps(plain, separators=(",", ":"), ensure_ascii=False)


@dataclass(frozen=True)
class Summary:
    """A dataset at a glance, from dataset.json alone."""

    id: str
    name: str
    task: str
    created: float
    changed: float
    num_cases: int
    bytes: int
    fingerprint: Fingerprint

    @property
    def synthetic(self) -> bool:
        """Whether the scans are made up (a demo set)."""
        return self.fingerprint.synthetic


def _summary(folder: Path) -> Summary:
    found = json.loads((folder / "dataset.json").read_text())
    edited = edits_size(folder)
    return Summary(
        id=folder.name,
        name=found["name"],
        task=found["task"],
        created=found["created"],
        changed=max(found["changed"], *(_mtime(folder / name) for name in ("edits.jsonl", "copies.json"))),
        num_cases=found["num_cases"],
        bytes=sum(found["sizes"].values()) + edited,
        fingerprint=_counted(folder, found, edited),
    )


def _counted(folder: Path, found: dict[str, Any], edited: int) -> Fingerprint:
    """As the import left it, or counted anew: with edits, with what an audit found, with what was not counted then."""
    kept = Fingerprint.from_json(found["fingerprint"])
    if (
        edited
        or copies_size(folder)
        or (not kept.leaks and (kept.duplicates.get("across_splits") or kept.num_patients_astride))
    ):
        return _edited(folder, found, edited)
    return kept


def _mtime(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def copies_size(folder: Path) -> int:
    """Bytes of what audits found to be almost the same; 0 where none looked."""
    try:
        return (folder / "copies.json").stat().st_size
    except FileNotFoundError:
        return 0


def copies(folder: Path) -> list[tuple[int, int]]:
    """Pairs of cases (places) of a dataset's folder that an audit found to be almost the same, beside the import's."""
    try:
        return [(int(one), int(other)) for one, other in json.loads((folder / "copies.json").read_text())]
    except (OSError, ValueError):
        return []


def copies_found_since(home: Path, id: str, file: Path) -> bool:
    """Whether an audit has found copies in a data set after `file` was written: what that says of leaks may hold no
    longer."""
    try:
        return (Path(home) / "datasets" / id / "copies.json").stat().st_mtime > file.stat().st_mtime
    except OSError:
        return False


def _edited(folder: Path, found: dict[str, Any], size: int) -> Fingerprint:
    """The fingerprint with edits and copies counted in; kept in labelled.json until the next of them or an import."""
    stamp = {"edits": size, "changed": found["changed"], "copies": copies_size(folder), "version": _COUNTED}
    kept: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        kept = json.loads((folder / "labelled.json").read_text())
    if {name: kept.get(name) for name in stamp} == stamp:
        return Fingerprint.from_json(kept["fingerprint"])
    dataset, before = Dataset(folder.parent.parent, folder, found), Fingerprint.from_json(found["fingerprint"])

    def counted(cases: Sequence[Case], classes: tuple[str, ...], structures: tuple[str, ...], said: Sequence[str]):
        return fingerprint(
            [case.fact for case in cases],
            classes,
            multi_label=before.multi_label,
            patient_source=before.patient_source,
            official_split=before.official_split,
            synthetic=before.synthetic,
            warnings=said,
            mask_names=structures,
            copies=copies(folder),
        )

    said = found.get("said")
    if said is None:  # a dataset of an earlier version: what the import said is what the cases alone do not say
        plain = counted(dataset.imported, before.classes, before.mask_names, ())
        said = [words for words in before.warnings if words not in plain.warnings]
    result = counted(dataset.cases, dataset.classes, dataset.mask_names, said)
    draft = folder / f".labelled-{secrets.token_hex(4)}"
    with contextlib.suppress(OSError):  # a full or read-only disk: it is counted again the next time
        draft.write_text(json.dumps({**stamp, "fingerprint": result.to_json()}, ensure_ascii=False, allow_nan=False))
        os.rename(draft, folder / "labelled.json")
    return result


def datasets(home: Path) -> list[Summary]:
    """Every dataset, newest first; reads only the small summaries."""
    found = []
    for path in (Path(home) / "datasets").glob("*/dataset.json"):
        if _ID.match(path.parent.name):
            found.append(_summary(path.parent))
    return sorted(found, key=lambda summary: summary.created, reverse=True)


def delete(home: Path, id: str) -> None:
    """Removes a dataset for good; runs trained on it keep their weights.

    Raises:
        UnknownDataset: no dataset has this id.
    """
    folder = _folder(home, id)
    grave = folder.parent / f".deleted-{secrets.token_hex(6)}"
    os.rename(folder, grave)  # gone at once for everybody, however long the removal takes
    shutil.rmtree(grave)


def _folder(home: Path, id: str) -> Path:
    folder = Path(home) / "datasets" / id
    if not _ID.match(id) or not (folder / "dataset.json").exists():
        raise UnknownDataset(
            "There is no dataset with this id: it may have been deleted. Choose another on the Data page."
        )
    return folder


# -- reading ---------------------------------------------------------------------------------------------------------


class Dataset:
    """A dataset opened for reading; pixels stay on disk until asked for.

    Labels are those of the moment in which they were first asked for, with all edits until then: they do not change
    under a training. `labels.record` and `refresh` make the newest ones seen.
    """

    def __init__(self, home: Path, folder: Path, found: dict[str, Any] | None = None) -> None:
        self.home = Path(home)
        self.folder = folder
        self.id = folder.name
        found = found or json.loads((folder / "dataset.json").read_text())
        self.sizes: dict[str, int] = found["sizes"]
        self.name: str = found["name"]
        self.task: str = found["task"]
        self.numbered: Mapping[str, Sequence[str]] = found.get("numbered", {})  # see `attributes.Numbers`
        self._plain = Fingerprint.from_json(found["fingerprint"])  # as the imports left it
        self._num_cases: int = found["num_cases"]
        self.multi_label = self._plain.multi_label
        self.synthetic = self._plain.synthetic
        self._sides: Mapping[str, str] | None = None

    def parted(self, sides: Mapping[str, str]) -> "Dataset":
        """The same scans on other sides: {id of a case: "train", "val" or "test"}; who is not named is on no side, so
        that nothing learns from it or is judged on it. On the disk nothing changes."""
        strange = set(sides.values()) - set(SPLITS)
        if strange:
            raise ValueError(f"The sides are {', '.join(SPLITS)}; {sorted(strange)[0]!r} came.")
        other = Dataset(self.home, self.folder)
        other._sides = dict(sides)
        return other

    @classmethod
    def open(cls, home: Path, id: str) -> "Dataset":
        """Opens a dataset by its id or, where one alone carries it, by its name.

        Raises:
            UnknownDataset: none or several match.
        """
        home = Path(home)
        if _ID.match(id):
            return cls(home, _folder(home, id))
        named = [summary for summary in datasets(home) if summary.name == id]
        if len(named) == 1:
            return cls(home, home / "datasets" / named[0].id)
        known = sorted({summary.name for summary in datasets(home)})
        if named:
            ids = ", ".join(summary.id for summary in named)
            raise UnknownDataset(f"{len(named)} datasets are called {id!r}: give the id instead ({ids}).")
        offer = f"known are: {', '.join(known[:20])}." if known else "there is none yet; import some scans first."
        raise UnknownDataset(f"There is no dataset called {id!r}; {offer}")

    def __len__(self) -> int:
        return self._num_cases

    def refresh(self) -> None:
        """Forgets the labels that were read: the next question is answered with the newest edits."""
        for name in ("edits", "cases", "labels", "summary"):
            self.__dict__.pop(name, None)

    @cached_property
    def summary(self) -> Summary:
        """The dataset at a glance."""
        return _summary(self.folder)

    @property
    def fingerprint(self) -> Fingerprint:
        """Facts about the dataset, edits counted in."""
        return self.summary.fingerprint

    @cached_property
    def edits(self) -> Edits:
        """What people labelled after the import."""
        return read_edits(self.folder)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes of scans and boxes; new ones only ever follow those that are there."""
        return _joined(self._plain.classes, self.edits.classes)

    @property
    def mask_names(self) -> tuple[str, ...]:
        """Names of the structures that masks show: value k of a mask is `mask_names[k - 1]`."""
        return _joined(self._plain.mask_names, self.edits.structures)

    def _lines(self, name: str) -> list[str]:
        """The committed lines of a growing file; what a broken import left behind them is not read."""
        with open(self.folder / name, "rb") as file:
            return file.read(self.sizes[name]).decode().splitlines()

    @cached_property
    def imported(self) -> tuple[Case, ...]:
        """All cases as they were imported, in that order."""
        return tuple(Case.from_json(line) for line in self._lines("cases.jsonl"))

    @cached_property
    def cases(self) -> tuple[Case, ...]:
        """All cases, in the order of import, with the labels they carry now."""
        edits, cases = self.edits, self.imported
        if edits.of_case:
            cases = tuple(
                replace(
                    case,
                    **edits.state(
                        case.id, label=case.label, boxes=case.boxes, mask=case.mask, attributes=case.attributes
                    ),
                )
                if case.id in edits.of_case
                else case
                for case in cases
            )
        if self._sides is None:
            return cases
        return tuple(replace(case, split=self._sides.get(case.id, "")) for case in cases)

    def history(self, index: int) -> tuple[Edit, ...]:
        """The edits of a case, the oldest first: who said what, and when."""
        return self.edits.of_case.get(self.imported[index].id, ())

    def boxes(self, index: int) -> tuple[Box, ...] | None:
        """The boxes of a case; None where nobody looked for any, () where somebody did and there are none."""
        return self.cases[index].boxes

    def mask(self, index: int) -> np.ndarray | None:
        """The mask of a case, uint8 (S, H, W), read-only: 0 background, k the structure `mask_names[k - 1]`.

        None where there is none, which says nothing; an empty mask says that there is nothing to outline.
        """
        case = self.cases[index]
        slices, _, height, width = case.shape
        return None if case.mask is None else read_mask(self.folder, case.mask, (slices, height, width))

    def target(self, index: int) -> Scan | None:
        """The clean scan of a pair, None where the case has none; its sides are a whole multiple of the case's."""
        case = self.cases[index]
        return None if case.target is None else self._scan(case.target)

    def progress(self, by: str = "anything") -> tuple[int, int]:
        """(cases labelled by "class", "boxes", "mask", "target" or "anything", cases in all)."""
        return sum(case.carries(by) for case in self.cases), len(self)

    @cached_property
    def labels(self) -> np.ndarray:
        """int64 (N,) class indices, -1 for none; uint8 (N, L) of 0 and 1 for a multi-label dataset."""
        if not self.multi_label:
            return np.array([-1 if case.label is None else case.label for case in self.cases], np.int64)
        table = np.zeros((len(self.cases), len(self.classes)), np.uint8)
        for row, case in zip(table, self.cases, strict=True):
            if isinstance(case.label, tuple):
                row[list(case.label)] = 1
        return table

    @cached_property
    def patients(self) -> np.ndarray:
        """int64 (N,): equal numbers are one patient."""
        return _codes([case.patient for case in self.cases])

    @cached_property
    def groups(self) -> np.ndarray:
        """int64 (N,): equal numbers must stay on one side of any split (patient or duplicates)."""
        return _codes([case.group for case in self.cases])

    @cached_property
    def splits(self) -> np.ndarray:
        """str (N,): "train", "val" or "test"; "" for a case that is on no side here (see `parted`)."""
        return np.array([case.split for case in self.cases], dtype="<U5")

    def indices(self, split: str, labelled: bool = True, by: str = "class") -> np.ndarray:
        """int64 positions of the cases of a split; without those that carry no label unless `labelled` is False.

        Args:
            by: the label that counts: "class" (in a dataset without classes every case counts), "boxes", "mask",
                "target", or "anything" of these.
        """
        if split not in SPLITS:
            raise ValueError(f"The split {split!r} is unknown: choose train, val or test.")
        chosen = self.splits == split
        if labelled and (self.classes or by != "class"):
            chosen = chosen & np.array([case.carries(by) for case in self.cases], bool)
        return np.flatnonzero(chosen)

    def examples(self, split: str) -> np.ndarray:
        """int64 positions of cases of a split to look at: those that carry any label or, where none does, all."""
        known = self.indices(split, by="anything")
        return known if len(known) else self.indices(split, labelled=False)

    def scan(self, index: int) -> Scan:
        """The scan as it was read at import; its pixels are read-only, those of a volume a map of the file."""
        return self._scan(self.imported[index])

    def _scan(self, case: Case | Clean) -> Scan:
        pixels = self._map(case.offset, np.dtype(case.dtype), case.shape)
        valid = None
        if case.valid_offset is not None:
            slices, _, height, width = case.shape
            num = slices * height * width
            packed = self._map(case.valid_offset, np.dtype(np.uint8), ((num + 7) // 8,))
            valid = np.unpackbits(packed, count=num).astype(bool).reshape(slices, height, width)
        return Scan(
            pixels=pixels,
            spacing_mm=case.spacing_mm,
            modality=case.modality,
            photometric=case.photometric,
            bits=case.bits,
            windows=tuple(self._window(*window) for window in case.windows),
            patient=None,
            study=None,
            series=None,
            format=case.format,
            notes=case.notes,
            valid=valid,
            grid=case.grid,
            body=case.body,
        )

    def _window(self, center: float, width: float, function: str, name: str, offset: int, length: int) -> Window:
        table = self._map(offset, np.dtype(np.float64), (length,)).tolist() if length else []
        return Window(center, width, function, name, tuple(table))

    def _map(self, offset: int, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        size = int(np.prod(shape)) * dtype.itemsize
        if size <= _READ_BYTES:  # a small array is read faster than it is mapped
            with open(self.folder / "pixels.bin", "rb", buffering=0) as file:
                found = os.pread(file.fileno(), size, offset)
            return np.frombuffer(found, dtype).reshape(shape)
        return np.memmap(self.folder / "pixels.bin", dtype=dtype, mode="r", offset=offset, shape=shape)

    @property
    def unit(self) -> int:
        """255 where every case is 8-bit, else 65535: the step of prepared images."""
        return 255 if all(case.dtype == "uint8" for case in self.cases) else 65535

    def prepared(self, data: Data, progress: Progress | None = None) -> Prepared:
        """Every case as network input, from the cache or built now (see `prepared.build`)."""
        folder = self.folder / "prepared" / digest(data, self.unit, len(self))
        scans = (self.scan(index) for index in range(len(self)))
        shapes = [case.shape for case in self.cases]
        spacings = [case.spacing_mm for case in self.cases]
        found = build(folder, scans, len(self), data, self.unit, self._taught, progress, shapes, spacings)
        return found if self._sides is None else normalized_over(found, folder, data, self.splits == "train")

    @property
    def _taught(self) -> np.ndarray:
        """bool (N,): the training cases as they were imported; what is kept beside prepared pictures rests on them."""
        return np.array([case.split == "train" for case in self.imported], bool)

    def goals(self, data: Data, progress: Progress | None = None) -> Prepared:
        """The good scans of pairs, prepared as `prepared` prepares the poor ones: same rows, same steps of grey.

        The range of grey values is the poor scan's (one step means the same on both sides); the grid may be
        `data.scale` times finer. A case without a good scan has a black one.

        Raises:
            UnusableScan: the good scan of a case is of another size than the poor one, or the window bends.
        """
        shapes = [(*case.shape[:2], *(side * data.scale for side in case.shape[2:])) for case in self.cases]
        own = data.model_copy(update={"window": f"pair {data.window} x{data.scale}"})
        folder = self.folder / "prepared" / digest(own, self.unit, len(self))
        scans = (self._goal(index, data, own.window) for index in range(len(self)))
        return build(folder, scans, len(self), own, self.unit, self._taught, progress, shapes)

    def _goal(self, index: int, data: Data, name: str) -> Scan:
        """The good scan of a case, with a window called `name` that spans the poor scan's range of grey values."""
        poor, good = self.scan(index), self.target(index)
        slices, channels, height, width = poor.pixels.shape
        wanted = (slices, channels, height * data.scale, width * data.scale)
        if good is None:
            return replace(
                poor, pixels=np.zeros(wanted, poor.pixels.dtype), valid=None, windows=(Window(0.5, 1, name=name),)
            )
        if good.pixels.shape != wanted:
            raise UnusableScan(
                f"The good scan of a pair must be {wanted[3]} x {wanted[2]} pixels in {slices} slices, "
                f"{data.scale} times as fine as the poor one; one is {good.pixels.shape[3]} x {good.pixels.shape[2]} "
                f"in {len(good.pixels)}."
            )
        line = grey_range(poor, data.window)
        if line is None:
            raise UnusableScan(f"The window {data.window!r} bends; pairs need one that runs in a straight line.")
        low, high = line
        if poor.photometric == "RGB":
            return replace(good, photometric="RGB", bits=poor.bits)
        window = Window((low + high) / 2, max(high - low, 1e-6), "LINEAR_EXACT", name)
        return replace(good, photometric=poor.photometric, valid=None, windows=(window,))

    def ledger(self) -> list[Entry]:
        """What became of each file of each import."""
        return [Entry(**json.loads(line)) for line in self._lines("ledger.jsonl")]

    def find(self, name: str) -> list[Entry]:
        """The ledger's entries for a file name or relative path as the person typed it."""
        key = Pseudonyms(self.home)("name", name.replace("\\", "/").removeprefix("./"))
        return [entry for entry in self.ledger() if key in (entry.key, entry.base)]

    @property
    def edited(self) -> int:
        """Bytes of what people have corrected since the import: changes whenever a label, or what is known of a case,
        does; 0 where none did."""
        try:
            return (self.folder / "edits.jsonl").stat().st_size
        except FileNotFoundError:
            return 0

    @cached_property
    def registry(self) -> dict[str, str]:
        """{group: split}, the sides that never change."""
        found = (json.loads(line) for line in self._lines("splits.jsonl"))
        return {line["group"]: line["split"] for line in found}


def _joined(names: tuple[str, ...], more: tuple[str, ...]) -> tuple[str, ...]:
    return (*names, *(name for name in more if name not in names))


def _codes(keys: Sequence[str]) -> np.ndarray:
    codes: dict[str, int] = {}
    return np.array([codes.setdefault(key, len(codes)) for key in keys], np.int64)


def pixels_digest(pixels: np.ndarray) -> str:
    """SHA-256 of an (S, C, H, W) array; three equal channels count as the one grey channel they are."""
    if (
        pixels.shape[1] == 3
        and np.array_equal(pixels[:, 0], pixels[:, 1])
        and np.array_equal(pixels[:, 0], pixels[:, 2])
    ):
        pixels = pixels[:, :1]
    found = hashlib.sha256(f"{pixels.dtype.name}{pixels.shape}".encode())
    found.update(np.ascontiguousarray(pixels).data)
    return found.hexdigest()
