"""Grey values of DICOM files: the modality rescale, and the windows and tables to look at them (PS3.3 C.11)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

from builder.dicom_file import DicomFile, damaged, functional_group, items, numbers, text, value_of, words
from builder.scan import Unreadable, Window

MAX_TABLE = 2**16


@dataclass(frozen=True)
class Rescale:
    """Stored values to modality units: a table, or slope and intercept (PS3.3 C.11.1)."""

    slope: float = 1.0
    intercept: float = 0.0
    table: np.ndarray | None = None
    first: int = 0
    bits: int = 0

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """Modality units, integers while slope and intercept are."""
        if self.table is not None:
            return self.table[np.clip(pixels.astype(np.int64) - self.first, 0, len(self.table) - 1)]
        if self.slope == 1 and self.intercept == 0:
            return pixels
        whole = self.slope.is_integer() and self.intercept.is_integer() and pixels.dtype.kind in "ui"
        if whole and pixels.dtype.itemsize <= 2 and abs(self.slope) < 2**14 and abs(self.intercept) < 2**30:
            return pixels.astype(np.int32) * np.int32(self.slope) + np.int32(self.intercept)
        return (pixels.astype(np.float64) * self.slope + self.intercept).astype(np.float32)


def rescale(ds: Dataset, frame: int, file: DicomFile) -> Rescale:
    """How one frame becomes modality units. Raises Unreadable for slope 0 and values that are no numbers."""
    owner = functional_group(ds, frame, "PixelValueTransformationSequence") or ds
    tables = items(owner, "ModalityLUTSequence")
    if len(tables):
        values, first, bits = _table(tables[0], file)
        return Rescale(table=values, first=first, bits=bits)
    slope, intercept = numbers(owner, "RescaleSlope"), numbers(owner, "RescaleIntercept")
    if len(slope) != 1 or len(intercept) != 1:
        return Rescale()
    if slope[0] == 0:
        raise Unreadable("The header says that every pixel has the same value (RescaleSlope 0); export the file again.")
    return Rescale(slope[0], intercept[0])


def _table(item: Dataset, file: DicomFile) -> tuple[np.ndarray, int, int]:
    """(values, first stored value mapped, bits per entry) of a modality or VOI LUT."""
    descriptor = numbers(item, "LUTDescriptor")
    data = value_of(item, "LUTData")
    if len(descriptor) != 3 or data is None or not 1 <= descriptor[2] <= 16:
        raise damaged("LUTDescriptor")
    entries = int(descriptor[0]) % MAX_TABLE or MAX_TABLE
    if isinstance(data, bytes):
        narrow = len(data) < 2 * entries
        values = np.frombuffer(data, np.uint8 if narrow else f"{'<' if file.syntax.is_little_endian else '>'}u2")
    else:
        values = np.atleast_1d(np.asarray(data, dtype=np.int64))
    if len(values) < entries:
        raise damaged("LUTData")
    return values[:entries].astype(np.uint16), int(descriptor[1]), int(descriptor[2])


def windows(ds: Dataset, file: DicomFile, notes: list[str]) -> tuple[Window, ...]:
    """VOI LUTs first, then windows, in the order of the file; unusable ones are left out with a note."""
    try:
        return _windows(functional_group(ds, 0, "FrameVOILUTSequence") or ds, file)
    except Unreadable:
        notes.append("The windows in the file are damaged and were left out.")
        return ()


def _windows(owner: Dataset, file: DicomFile) -> tuple[Window, ...]:
    found = []
    for item in items(owner, "VOILUTSequence"):
        values, first, bits = _table(item, file)
        if len(values) < 2:
            continue
        points = np.linspace(0, len(values) - 1, min(len(values), 4096))
        shown = np.interp(points, np.arange(len(values)), np.minimum(values / (2**bits - 1), 1))
        width = float(len(values) - 1)
        table = tuple(round(float(value), 6) for value in shown)
        found.append(Window(first + width / 2, width, "TABLE", "", table))
    function = text(owner, "VOILUTFunction").upper() or "LINEAR"
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        function = "LINEAR"
    names = words(owner, "WindowCenterWidthExplanation")
    pairs = list(zip(numbers(owner, "WindowCenter"), numbers(owner, "WindowWidth"), strict=False))
    for number, (center, width) in enumerate(pairs):
        if width < 1 if function == "LINEAR" else width <= 0:
            continue
        name = f"window {number + 1}" if len(pairs) > 1 else ""
        if number < len(names):
            name = _window_name(names[number]) or name
        found.append(Window(center, width, function, name))
    return tuple(found)


_WINDOW_WORDS = (
    "lung", "mediastinum", "soft tissue", "softtissue", "bone", "brain", "abdomen", "liver", "angio", "head", "chest",
    "spine", "neck", "pelvis", "stroke", "subdural", "normal", "harder", "softer", "user", "window", "algo",
)  # fmt: skip


def _window_name(explanation: str) -> str:
    """The explanation is free text that could hold a name: only known words of it are kept."""
    lowered = explanation.lower().replace("_", " ")
    return " ".join(word for word in _WINDOW_WORDS if word in lowered)
