"""Scans and masks written as files that other programs read: PNG, NIfTI, NRRD, DICOM series and segmentation.

Values stay as they are where the format can hold them; what had to be changed comes back in words.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from builder.scan import Scan, as_monochrome2

_PNG_KINDS = {1: 0, 3: 2}
_MOVED = "Signed values were moved up by 32,768, as PNG holds none below zero."
_STRETCHED = "Fractions were stretched to 16 bits, as PNG holds whole numbers only."
_INVERTED = "Scans that are stored white on black were inverted, so that other programs show them as DICOM does."
_UNEVEN = "Unevenly spaced slices were written without their places, which the format cannot tell."
_SCALED = "Fractions were rounded to one of 65,536 steps, as DICOM stores whole numbers."


class Unwritable(ValueError):
    """A scan that a format cannot hold. Its text is a sentence for people."""


# -- PNG --------------------------------------------------------------------------------------------------------------


def write_png(path: Path, plane: np.ndarray) -> None:
    """Writes a picture (C, H, W), uint8 or uint16, one channel or three; all bits are kept (PNG specification)."""
    channels, height, width = plane.shape
    bits = plane.dtype.itemsize * 8
    rows = np.moveaxis(plane, 0, -1).astype(">u2" if bits == 16 else np.uint8).reshape(height, -1)
    lines = np.zeros((height, 1 + rows.shape[1] * rows.dtype.itemsize), np.uint8)  # the first byte: no filter
    lines[:, 1:] = np.ascontiguousarray(rows).view(np.uint8).reshape(height, -1)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">L", len(data)) + name + data + struct.pack(">L", zlib.crc32(name + data))

    head = struct.pack(">LLBBBBB", width, height, bits, _PNG_KINDS[channels], 0, 0, 0)
    packed = zlib.compress(lines.data, 6)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b""))


def as_picture(scan: Scan, index: int, notes: set[str]) -> np.ndarray:
    """One slice as (C, H, W) uint8 or uint16, ready for `write_png`; adds to `notes` what had to be changed."""
    plane = _brightness(scan.pixels[index], scan, notes)
    if plane.dtype == np.int16:
        notes.add(_MOVED)
        plane = (plane.astype(np.int32) + 32768).astype(np.uint16)
    elif plane.dtype.kind == "f":
        notes.add(_STRETCHED)
        low, high = float(scan.pixels.min()), float(scan.pixels.max())
        plane = np.rint((plane - low) / max(high - low, 1e-30) * 65535).astype(np.uint16)
    return plane


def _brightness(pixels: np.ndarray, scan: Scan, notes: set[str]) -> np.ndarray:
    """The scan's own values, the larger the brighter: none of PNG, NIfTI and NRRD can say that it is the other way."""
    if scan.photometric == "MONOCHROME1":
        notes.add(_INVERTED)
    return as_monochrome2(pixels, scan)


# -- volumes ----------------------------------------------------------------------------------------------------------


def _voxels(pixels: np.ndarray, scan: Scan, notes: set[str]) -> np.ndarray:
    """Pixels of the scan (S, C, H, W), or a mask (S, H, W), as voxels (C, i, j, k) or (i, j, k): column, row, slice."""
    if pixels.ndim == 3:
        return pixels.transpose(2, 1, 0)
    return _brightness(pixels, scan, notes).transpose(1, 3, 2, 0)


def _lps(scan: Scan, notes: set[str]) -> tuple[np.ndarray, np.ndarray] | None:
    """(steps of i, j, k as columns, origin) in left-posterior-superior mm; None where it is not known."""
    if scan.grid is None:
        return None
    if scan.grid.origins:
        notes.add(_UNEVEN)
        return None
    return np.array(scan.grid.steps[::-1]).T, np.array(scan.grid.origin)


def write_nifti(path: Path, pixels: np.ndarray, scan: Scan, notes: set[str]) -> None:
    """Writes pixels of `scan` (S, C, H, W), or a mask (S, H, W), as NIfTI-1 on its grid.

    Raises:
        Unwritable: colours of more than 8 bits.
    """
    import nibabel

    voxels = _voxels(pixels, scan, notes)
    if voxels.ndim == 4 and voxels.shape[0] == 3:
        if voxels.dtype != np.uint8:
            raise Unwritable("NIfTI holds 8 bits a colour, but a scan has more: export as nrrd or png.")
        voxels = np.ascontiguousarray(np.moveaxis(voxels, 0, -1)).view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0]
    elif voxels.ndim == 4:
        voxels = voxels[0]
    lps = _lps(scan, notes)
    affine = None
    if lps is not None:
        affine = np.eye(4)
        affine[:3] = np.diag([-1.0, -1.0, 1.0]) @ np.column_stack(lps)
    image = nibabel.Nifti1Image(np.asfortranarray(voxels), affine)
    if affine is None:
        image.header["pixdim"][1:4] = [step or 0 for step in scan.spacing_mm[::-1]]
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)


def write_nrrd(path: Path, pixels: np.ndarray, scan: Scan, notes: set[str]) -> None:
    """Writes pixels of `scan` (S, C, H, W), or a mask (S, H, W), as NRRD on its grid."""
    import nrrd

    voxels = _voxels(pixels, scan, notes)
    colour = voxels.ndim == 4 and voxels.shape[0] == 3
    if voxels.ndim == 4 and not colour:
        voxels = voxels[0]
    header: dict[str, Any] = {"encoding": "gzip", "kinds": ["domain"] * 3}
    lps = _lps(scan, notes)
    none = np.full((1, 3), np.nan)
    if lps is not None:
        header["space"] = "left-posterior-superior"
        header["space directions"] = np.vstack([none, lps[0].T]) if colour else lps[0].T
        header["space origin"] = lps[1]
    elif any(scan.spacing_mm):
        header["spacings"] = [*([np.nan] if colour else []), *(step or np.nan for step in scan.spacing_mm[::-1])]
    if colour:
        header["kinds"] = ["RGB-color", *header["kinds"]]
    nrrd.write(str(path), np.asfortranarray(voxels), header, index_order="F")


# -- DICOM ------------------------------------------------------------------------------------------------------------


def write_series(folder: Path, scan: Scan, patient: str, notes: set[str]) -> list[Any]:
    """Writes a scan as a DICOM series of single images, under new UIDs and without any name; returns its data sets.

    Modality, places, pixel spacing and values are the scan's; the images call themselves derived.

    Raises:
        Unwritable: colours of more than 8 bits.
    """
    from pydicom.uid import generate_uid

    if scan.pixels.shape[1] == 3 and scan.pixels.dtype != np.uint8:
        raise Unwritable("DICOM holds 8 bits a colour here, but a scan has more: export as nrrd or png.")
    pixels, slope, intercept = scan.pixels, 1.0, 0.0
    if pixels.dtype.kind == "f":
        notes.add(_SCALED)
        intercept = float(pixels.min())
        slope = max(float(pixels.max()) - intercept, 1e-6) / 65535
        pixels = np.rint((pixels - intercept) / slope).astype(np.uint16)
    uids = {name: generate_uid() for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")}
    folder.mkdir(parents=True)
    made = []
    for index in range(len(pixels)):
        data = _image(pixels[index], scan, index, patient, uids)
        if scan.pixels.shape[1] == 1:
            data.RescaleSlope, data.RescaleIntercept = _short(slope), _short(intercept)
            data.RescaleType = "HU" if scan.modality == "CT" else "US"
        data.save_as(folder / f"{index:04d}.dcm", enforce_file_format=True)
        made.append(data)
    return made


def _image(plane: np.ndarray, scan: Scan, index: int, patient: str, uids: Mapping[str, str]) -> Any:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import (
        CTImageStorage,
        ExplicitVRLittleEndian,
        MRImageStorage,
        SecondaryCaptureImageStorage,
        generate_uid,
    )

    placed = scan.grid is not None
    kinds = {"CT": CTImageStorage, "MR": MRImageStorage} if placed else {}
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = kinds.get(scan.modality, SecondaryCaptureImageStorage)
    data.SOPInstanceUID = generate_uid()
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.StudyInstanceUID, data.SeriesInstanceUID = uids["StudyInstanceUID"], uids["SeriesInstanceUID"]
    data.PatientID = patient
    for name in ("PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber"):
        setattr(data, name, "")
    data.StudyID, data.ReferringPhysicianName, data.Manufacturer = "", "", ""
    data.Modality = scan.modality or "OT"
    data.ConversionType = "WSD"
    data.ImageType = ["DERIVED", "SECONDARY"]
    data.SeriesNumber, data.InstanceNumber = 1, index + 1
    channels, data.Rows, data.Columns = plane.shape
    data.SamplesPerPixel = channels
    data.PhotometricInterpretation = "RGB" if channels == 3 else scan.photometric or "MONOCHROME2"
    if channels == 3:
        data.PlanarConfiguration = 0
    data.BitsAllocated = data.BitsStored = plane.dtype.itemsize * 8
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(plane.dtype.kind == "i")
    data.PixelData = _even(np.ascontiguousarray(np.moveaxis(plane, 0, -1)).tobytes())
    data["PixelData"].VR = "OB" if plane.dtype.itemsize == 1 else "OW"
    _, down_mm, across_mm = scan.spacing_mm
    if scan.grid is not None:
        data.FrameOfReferenceUID = uids["FrameOfReferenceUID"]
        data.PositionReferenceIndicator = ""
        step, down, across = (np.array(vector) for vector in scan.grid.steps)
        data.ImagePositionPatient = [_short(part) for part in scan.grid.at(np.array([[index, 0, 0]]))[0]]
        unit = [*(across / np.linalg.norm(across)), *(down / np.linalg.norm(down))]
        data.ImageOrientationPatient = [_short(part) for part in unit]
        data.PixelSpacing = [_short(float(np.linalg.norm(down))), _short(float(np.linalg.norm(across)))]
        data.SliceThickness = _short(scan.spacing_mm[0] or float(np.linalg.norm(step)))
    elif down_mm and across_mm:
        data.PixelSpacing = [_short(down_mm), _short(across_mm)]
    return data


def write_segmentation(path: Path, images: Sequence[Any], mask: np.ndarray, names: Sequence[str]) -> None:
    """Writes a mask (S, H, W) as a binary DICOM segmentation of the images that `write_series` made (PS3.3 A.51).

    Structure k becomes the segment that is called `names[k - 1]`; those that the mask does not show are left out, but
    for the first where it shows none: an empty outline is one.

    Raises:
        Unwritable: several slices without their places in the patient.
    """
    from highdicom.seg import Segmentation, SegmentDescription
    from pydicom.sr.codedict import codes
    from pydicom.uid import generate_uid

    if len(images) > 1 and "FrameOfReferenceUID" not in images[0]:
        raise Unwritable(
            "A scan of several slices does not say where it lies in the patient, which a DICOM segmentation needs: "
            "export as nifti or nrrd."
        )
    present = [int(value) for value in np.unique(mask) if value] or [1]
    stack = np.stack([mask == value for value in present], -1).astype(np.uint8)
    kind, category = codes.SCT.Lesion, codes.SCT.MorphologicallyAbnormalStructure
    segments = [
        SegmentDescription(number, names[value - 1][:64], category, kind, "MANUAL")
        for number, value in enumerate(present, 1)
    ]
    made = Segmentation(
        source_images=list(images),
        pixel_array=stack,
        segmentation_type="BINARY",
        segment_descriptions=segments,
        series_instance_uid=generate_uid(),
        series_number=2,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="ScanLoom",
        manufacturer_model_name="ScanLoom",
        software_versions="1",
        device_serial_number="0",
        omit_empty_frames=bool(mask.any()),
    )
    made.SpecificCharacterSet = "ISO_IR 192"  # UTF-8: names of structures may be of any script
    made.save_as(path, enforce_file_format=True)


def _short(value: float) -> str:
    """A decimal string of at most 16 characters (PS3.5, DS)."""
    for digits in range(14, 2, -1):
        text = f"{float(value):.{digits}g}"
        if len(text) <= 16:
            return text
    return f"{float(value):.2g}"


def _even(data: bytes) -> bytes:
    return data + b"\0" * (len(data) % 2)
