"""A dataset on disk: cases, their pixels in one memory-mapped file, the ledger of their import, and the split.

    home/salt                        32 random bytes (0600): keys every pseudonym
    home/datasets/<id>/dataset.json  the summary; replacing it commits an import
                       cases.jsonl   one Case a line       pixels.bin   their arrays, one after the other
                       ledger.jsonl  one file a line       splits.jsonl {group, split}: append-only, groups never move
                       prepared/<digest>/{images.npy, stats.json}

No original file name, path, tag value or UID is in any of them: names, patients and series are HMAC-SHA256 under the
salt.
"""

import hashlib
import hmac
import json
import os
import re
import secrets
import shutil
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from builder.fingerprint import SPLITS, Fact, Fingerprint
from builder.prepared import (
    Placement,
    Prepared,
    Progress,
    UnusableScan,
    build,
    chosen,
    digest,
    place,
    prepare,
    quantize,
)
from builder.scan import Scan, Window
from builder.spec import Data

__all__ = [
    "SPLITS",
    "Case",
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
    "datasets",
    "delete",
    "pixels_digest",
    "place",
    "prepare",
    "quantize",
]

_READ_BYTES = 8 << 20
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
        axes: as `scan.Scan`; "" also of cases that an earlier version imported.
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
    windows: tuple[tuple[float, float, str, str, int, int], ...]
    value_range: tuple[float, float]
    content: str
    alike: str
    series: str = ""
    notes: tuple[str, ...] = ()
    axes: str = ""

    def to_json(self) -> str:
        """One line of cases.jsonl."""
        return json.dumps(self.__dict__, separators=(",", ":"), ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> "Case":
        """Reads one line of cases.jsonl."""
        found = json.loads(line)
        for name in ("shape", "spacing_mm", "value_range", "notes"):
            found[name] = tuple(found[name])
        found["windows"] = tuple(tuple(window) for window in found["windows"])
        if isinstance(found["label"], list):
            found["label"] = tuple(found["label"])
        return cls(**found)

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
        )


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
    return Summary(
        id=folder.name,
        name=found["name"],
        task=found["task"],
        created=found["created"],
        changed=found["changed"],
        num_cases=found["num_cases"],
        bytes=sum(found["sizes"].values()),
        fingerprint=Fingerprint.from_json(found["fingerprint"]),
    )


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
    """A dataset opened for reading; pixels stay on disk until asked for."""

    def __init__(self, home: Path, folder: Path) -> None:
        self.home = Path(home)
        self.folder = folder
        self.id = folder.name
        found = json.loads((folder / "dataset.json").read_text())
        self.sizes: dict[str, int] = found["sizes"]
        self.summary = _summary(folder)
        self.name = self.summary.name
        self.task = self.summary.task
        self.fingerprint = self.summary.fingerprint
        self.classes = self.fingerprint.classes
        self.multi_label = self.fingerprint.multi_label
        self.synthetic = self.fingerprint.synthetic

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
        return self.summary.num_cases

    def _lines(self, name: str) -> list[str]:
        """The committed lines of a growing file; what a broken import left behind them is not read."""
        with open(self.folder / name, "rb") as file:
            return file.read(self.sizes[name]).decode().splitlines()

    @cached_property
    def cases(self) -> tuple[Case, ...]:
        """All cases, in the order of import."""
        return tuple(Case.from_json(line) for line in self._lines("cases.jsonl"))

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
        """str (N,): "train", "val" or "test"."""
        return np.array([case.split for case in self.cases], dtype="<U5")

    def indices(self, split: str, labelled: bool = True) -> np.ndarray:
        """int64 positions of the cases of a split; without those that carry no label unless `labelled` is False."""
        if split not in SPLITS:
            raise ValueError(f"The split {split!r} is unknown: choose train, val or test.")
        chosen = self.splits == split
        if labelled and self.classes:
            chosen = chosen & np.array([case.label is not None for case in self.cases], bool)
        return np.flatnonzero(chosen)

    def scan(self, index: int) -> Scan:
        """The scan as it was read at import; its pixels are read-only, those of a volume a map of the file."""
        case = self.cases[index]
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
            axes=case.axes,
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
        return build(folder, scans, len(self), data, self.unit, self.splits == "train", progress)

    def ledger(self) -> list[Entry]:
        """What became of each file of each import."""
        return [Entry(**json.loads(line)) for line in self._lines("ledger.jsonl")]

    def find(self, name: str) -> list[Entry]:
        """The ledger's entries for a file name or relative path as the person typed it."""
        key = Pseudonyms(self.home)("name", name.replace("\\", "/").removeprefix("./"))
        return [entry for entry in self.ledger() if key in (entry.key, entry.base)]

    @cached_property
    def registry(self) -> dict[str, str]:
        """{group: split}, the sides that never change."""
        found = (json.loads(line) for line in self._lines("splits.jsonl"))
        return {line["group"]: line["split"] for line in found}


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
