"""Scans made by code for the tests of import: pictures, DICOM and MedMNIST files, and imports run to their end."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset as Dicom
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from builder import decoding, scans
from builder.data import Dataset
from builder.intake import Report, Source, Step, import_scans
from builder.scan import Unreadable


def texture(seed: int, size: tuple[int, int] = (64, 64)) -> np.ndarray:
    """A grey picture (H, W) uint8 that resembles no other seed's: coarse blobs with fine grain on them."""
    random = np.random.default_rng(seed)
    coarse = np.kron(random.normal(0, 40, (8, 8)), np.ones((-(-size[0] // 8), -(-size[1] // 8))))[: size[0], : size[1]]
    return np.clip(128 + coarse + random.normal(0, 25, size), 0, 255).astype(np.uint8)


def picture(path: Path, seed: int, size: tuple[int, int] = (64, 64), colour: bool = False) -> Path:
    """Writes `texture(seed)` in the format of the path's ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(texture(seed, size))
    (image.convert("RGB") if colour else image).save(path)
    return path


def dicom(path: Path, pixels: np.ndarray | int = 0, position: float | None = None, **tags: Any) -> Path:
    """Writes a small CT image; `pixels` is int16 (H, W) or a seed, `position` its place along z in mm."""
    data = Dicom()
    data.file_meta = FileMetaDataset()
    data.SOPClassUID = CTImageStorage
    data.SOPInstanceUID = generate_uid()
    data.Modality = "CT"
    data.PatientID = "p1"
    data.StudyInstanceUID = "1.2.3"
    data.SeriesInstanceUID = generate_uid()
    if isinstance(pixels, int):
        pixels = texture(pixels).astype(np.int16) * 4 - 400
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.PixelRepresentation = 15, 1
    data.RescaleSlope, data.RescaleIntercept = 1, 0
    data.PixelSpacing = [0.5, 0.5]
    if position is not None:
        data.ImagePositionPatient = [0, 0, position]
        data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    data.PixelData = pixels.astype("<i2").tobytes()
    for name, value in tags.items():
        setattr(data, name, value)
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def npz(
    path: Path, sizes: tuple[int, int, int] = (40, 10, 10), classes: int = 2, side: int = 28, seed: int = 0
) -> Path:
    """Writes a MedMNIST file with random pictures."""
    random = np.random.default_rng(seed)
    arrays: dict[str, Any] = {}
    for split, n in zip(("train", "val", "test"), sizes, strict=True):
        arrays[f"{split}_images"] = random.integers(0, 256, (n, side, side), dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(n) % classes).astype(np.uint8)[:, None]
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
    return path


class Nearby:
    """A `Sandbox` that reads in this process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> "Nearby":
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def read(self, paths: Any, series: bool = False, mask_of: Any = ()) -> Any:
        if mask_of:
            return scans.collect(scans.open_mask(paths[0], mask_of))
        files = paths if isinstance(paths, list) else [paths]
        return scans.read_series(files) if series else scans.read(files[0])

    def headers(self, paths: Any) -> list[Any]:
        return [self._header(path) for path in paths]

    def _header(self, path: Path) -> Any:
        try:
            return scans.read_header(path)
        except Unreadable as error:
            return error


def decode_nearby(monkeypatch: pytest.MonkeyPatch) -> None:
    """Imports decode in this process: the sandbox has its own tests, and the logic of import is quicker without it."""
    monkeypatch.setattr(decoding, "Sandbox", Nearby)


def drained(steps: Generator[Step, None, Report]) -> Report:
    """The report at the end of an import."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def imported(source: Source | Path, home: Path, kind: str = "files", **options: Any) -> tuple[Report, Dataset]:
    """Imports a source (a path is taken as whatever lies there) and opens the dataset."""
    if isinstance(source, Path):
        source = Source(kind, source)
    report = drained(import_scans(source, options.pop("name", "set"), home, **options))
    return report, Dataset.open(home, report.dataset)
