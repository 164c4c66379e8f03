"""Bad (and some odd but good) inputs, all made by code: the corpus of notes/reliability.md, section 8, numbers 1 to 70.

A `Case` says what is in the file and how it must end: R = refused, Q = this file is set aside and the others go on,
A = accepted (with the words of `note` in a note, where one is given). For a single file R and Q look the same: an
`Unreadable` with one plain sentence.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

CANARY = "ZZPHI^CANARY"
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"


@dataclass(frozen=True)
class Case:
    """One input: `number` in the notes, how it is made, how it must end ("R", "Q" or "A")."""

    number: int
    name: str
    make: Callable[[], bytes]
    end: str
    note: str = ""

    @property
    def id(self) -> str:
        return f"{self.number:02d}-{self.name}"


def dicom_dataset(pixels: np.ndarray | None = None, **overrides: Any) -> Dataset:
    """A small valid CT image; `overrides` are keywords of elements, None takes one away.

    pixels: (rows, cols), (frames, rows, cols), or with samples last when SamplesPerPixel=3; its dtype sets the bits.
    """
    frames = np.arange(16 * 16, dtype=np.int16).reshape(16, 16) if pixels is None else pixels
    ds = Dataset()
    ds.SOPClassUID = CT_IMAGE
    ds.SOPInstanceUID = "1.2.826.0.1.3680043.8.498.1"
    ds.StudyInstanceUID = "1.2.826.0.1.3680043.8.498.2"
    ds.SeriesInstanceUID = "1.2.826.0.1.3680043.8.498.3"
    ds.PatientName, ds.PatientID = CANARY, "ZZPHI-0001"
    ds.Modality = "CT"
    samples = int(overrides.get("SamplesPerPixel") or 1)
    size = frames.shape[-3:-1] if samples > 1 else frames.shape[-2:]
    ds.SamplesPerPixel = samples
    ds.PhotometricInterpretation = "MONOCHROME2" if samples == 1 else "RGB"
    if samples > 1:
        ds.PlanarConfiguration = 0
    ds.Rows, ds.Columns = (int(side) for side in size)
    if frames.ndim == 3 + (samples > 1):
        ds.NumberOfFrames = frames.shape[0]
    bits = frames.dtype.itemsize * 8
    if frames.dtype.kind == "f":
        ds.BitsAllocated = bits
        setattr(ds, "FloatPixelData" if bits == 32 else "DoubleFloatPixelData", frames.tobytes())
    else:
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = bits, bits, bits - 1
        ds.PixelRepresentation = int(frames.dtype.kind == "i")
        ds.add_new(0x7FE00010, "OW", frames.tobytes() + b"\0" * (frames.nbytes % 2))
    for keyword, value in overrides.items():
        if value is None:
            if keyword in ds:
                delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return ds


def dicom_bytes(pixels: np.ndarray | None = None, syntax: str = ExplicitVRLittleEndian, **overrides: Any) -> bytes:
    """`dicom_dataset` as the bytes of a DICOM file, e.g. `dicom_bytes(PatientID="P1", Rows=512)`."""
    ds = dicom_dataset(pixels, **overrides)
    return written(ds, syntax)


def written(ds: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    """A data set as the bytes of a DICOM Part 10 file."""
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.file_meta.MediaStorageSOPClassUID = ds.get("SOPClassUID", CT_IMAGE)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.get("SOPInstanceUID", "1.2.3")
    file = io.BytesIO()
    ds.save_as(file, enforce_file_format=True)
    return file.getvalue()
