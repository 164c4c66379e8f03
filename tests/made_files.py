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


def segmentation(path: Path, files: list[Path], masks: dict[str, np.ndarray], **more: Any) -> Path:
    """Writes a binary DICOM segmentation with highdicom; masks are (S, H, W) in the order of `files`."""
    import highdicom
    import pydicom
    from highdicom.seg import Segmentation, SegmentDescription
    from pydicom.sr.codedict import codes

    sources = [pydicom.dcmread(file) for file in files]
    stack = np.stack([mask.astype(np.uint8) for mask in masks.values()], -1)
    made = Segmentation(
        source_images=sources,
        pixel_array=stack,
        segmentation_type="BINARY",
        segment_descriptions=[
            SegmentDescription(number, name, codes.SCT.MorphologicallyAbnormalStructure, codes.SCT.Lesion, "MANUAL")
            for number, name in enumerate(masks, 1)
        ],
        series_instance_uid=highdicom.UID(),
        series_number=9,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="x",
        manufacturer_model_name="x",
        software_versions="1",
        device_serial_number="1",
        **more,
    )
    made.save_as(path)
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


def case_of(dataset: Dataset, id: str) -> int:
    """The position of the case that the exported files of case `id` became."""
    names = (f"{id}.png", f"{id}_0000.nii.gz", f"{id}_image.nrrd", f"{id}.nrrd", f"{id}-0000.png", "0000.dcm")
    found = [entry for name in names for entry in dataset.find(name) if entry.case]
    if found and found[0].suffix == ".dcm":  # a series: the slices of each case are called alike
        found = [entry for side in ("train", "val", "test") for entry in dataset.find(f"{side}/{id}/0000.dcm")]
    assert len({entry.case for entry in found}) == 1, id
    assert found[0].case
    return int(found[0].case[1:])
