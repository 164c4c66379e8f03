"""A DICOM file up to its pixels, and a tolerant but strict look at its elements.

Only the listed elements are ever loaded: technical ones, and those of which `attributes` keeps a band or a number (day
of birth and of the study, institution); no patient's name gets into memory, and no reason quotes a value. pydicom's
log, which prints element values, is silenced for the whole process.
"""

from __future__ import annotations

import io
import logging
import math
import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, UID_dictionary

from builder.scan import Unreadable

logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
logging.getLogger("pydicom").propagate = False

MAX_INFLATED_BYTES = 64 * 2**20
MAX_META_BYTES = 2**20
MAX_ELEMENTS = 50_000
_PIXEL_TAGS = {0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData", 0x7FE00010: "PixelData"}
_LONG_VRS = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
_KEYWORDS = (
    "SOPClassUID", "SOPInstanceUID", "ImageType", "Modality", "PatientID", "StudyInstanceUID", "SeriesInstanceUID",
    "InstanceNumber", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "ImagerPixelSpacing",
    "BodyPartExamined", "PatientSex", "PatientAge", "PatientBirthDate", "StudyDate", "SeriesDate", "AcquisitionDate",
    "Manufacturer", "ManufacturerModelName", "MagneticFieldStrength", "KVP", "InstitutionName", "StationName",
    "NominalScannedPixelSpacing", "GridFrameOffsetVector", "BurnedInAnnotation", "PresentationIntentType",
    "PixelPresentation", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames",
    "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue",
    "PixelPaddingRangeLimit", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "WindowCenter",
    "WindowWidth", "WindowCenterWidthExplanation", "VOILUTFunction", "VOILUTSequence",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths", "RedPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor", "AlphaPaletteColorLookupTableDescriptor",
    "RedPaletteColorLookupTableData", "GreenPaletteColorLookupTableData", "BluePaletteColorLookupTableData",
    "AlphaPaletteColorLookupTableData", "SegmentedRedPaletteColorLookupTableData",
    "SegmentedGreenPaletteColorLookupTableData", "SegmentedBluePaletteColorLookupTableData",
    "SegmentedAlphaPaletteColorLookupTableData", "SegmentSequence", "SegmentationType", "ReferencedSeriesSequence",
)  # fmt: skip
_TAGS = [tag for tag in map(tag_for_keyword, _KEYWORDS) if tag is not None]
_NO_IMAGE = (
    ("Media Storage Directory", "A DICOMDIR"),
    (" SR ", "A structured report"),
    ("Key Object Selection", "A key object selection"),
    ("Encapsulated", "An encapsulated document"),
    ("Presentation State", "A presentation state"),
    ("RT Structure Set", "A radiotherapy structure set"),
    ("RT Plan", "A radiotherapy plan"),
    ("RT Ion Plan", "A radiotherapy plan"),
    ("RT Beams Treatment Record", "A radiotherapy treatment record"),
    ("RT Brachy Treatment Record", "A radiotherapy treatment record"),
    ("RT Treatment Summary Record", "A radiotherapy treatment record"),
    ("ECG", "An electrocardiogram"),
    ("Waveform", "A waveform"),
    ("Spectroscopy", "A spectroscopy data set"),
    ("Raw Data", "A raw data set"),
    ("Surface", "A surface model"),
    ("Registration", "A registration"),
    ("Fiducials", "A set of fiducials"),
)


@dataclass
class DicomFile:
    """A DICOM file that has been read up to its pixels; `source` is its path, or the inflated bytes."""

    source: Path | bytes
    size: int
    syntax: UID
    ds: Dataset
    pixels: str = ""  # keyword of the pixel element, "" where there is none
    vr: str = "OW"
    at: int = 0
    length: int = 0

    def open(self) -> BinaryIO:
        """A stream at the pixels."""
        stream: BinaryIO = io.BytesIO(self.source) if isinstance(self.source, bytes) else open(self.source, "rb")  # noqa: SIM115
        stream.seek(self.at)
        return stream


def is_dicom(head: bytes) -> bool:
    """True for the first 132 bytes of a DICOM Part 10 file."""
    return head[128:132] == b"DICM"


def open_dicom(path: Path) -> DicomFile:
    """The file up to its pixels. Raises Unreadable."""
    with open(path, "rb") as stream:
        return _parse(path, stream)


def _parse(path: Path, stream: BinaryIO) -> DicomFile:
    source: Path | bytes = path
    size = os.fstat(stream.fileno()).st_size
    meta = _meta(stream)
    name = meta.get("TransferSyntaxUID")
    media = meta.get("MediaStorageSOPClassUID", "")
    if UID_dictionary.get(media, ("",))[0].startswith("Media Storage Directory"):
        raise Unreadable(no_image(media))
    if not name:
        raise Unreadable("This DICOM file does not say how its data are stored (no transfer syntax); export it again.")
    syntax = UID(name)
    if syntax.is_private or name not in UID_dictionary:
        raise Unreadable("This DICOM file is stored in an unknown way (transfer syntax); export it again uncompressed.")
    if syntax == DeflatedExplicitVRLittleEndian:
        source = _inflated(stream)
        stream, size = io.BytesIO(source), len(source)
    pixel: list[tuple[int, str | None, int]] = []
    seen = 0

    def at_pixels(tag: Any, vr: str | None, length: int) -> bool:
        nonlocal seen
        seen += 1
        if seen > MAX_ELEMENTS:
            raise Unreadable(
                f"The DICOM header has more than {MAX_ELEMENTS:,} elements; it is damaged: export it again."
            )
        if tag in _PIXEL_TAGS:
            pixel.append((int(tag), vr, length))
        return bool(pixel)

    ds = read_dataset(
        stream, syntax.is_implicit_VR, syntax.is_little_endian, stop_when=at_pixels, specific_tags=list(_TAGS)
    )
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    if "SOPClassUID" not in ds and media:
        ds.SOPClassUID = media
    file = DicomFile(source, size, syntax, ds)
    if pixel:
        tag, vr, length = pixel[0]
        file.pixels = _PIXEL_TAGS[tag]
        file.vr = vr or "OW"
        file.at = stream.tell() + (12 if vr is not None and vr.encode() in _LONG_VRS else 8)
        file.length = length
    return file


def _meta(stream: BinaryIO) -> dict[str, str]:
    """The two elements of the file meta group that matter; leaves the stream at the first element after it."""
    stream.seek(132)
    found = {}
    while True:
        start = stream.tell()
        head = stream.read(8)
        if len(head) < 8:
            break
        group, element, vr, length = struct.unpack("<HH2sH", head)
        if group != 2 or start > MAX_META_BYTES:
            stream.seek(start)
            break
        if vr in _LONG_VRS:
            (length,) = struct.unpack("<L", stream.read(4).ljust(4, b"\0"))
        if element in (0x0002, 0x0010) and length <= 64:
            name = stream.read(length).rstrip(b"\0 ").decode("ascii", "replace")
            found["MediaStorageSOPClassUID" if element == 2 else "TransferSyntaxUID"] = name
        else:
            stream.seek(length, os.SEEK_CUR)
    return found


def _inflated(stream: BinaryIO) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    data = inflater.decompress(stream.read(MAX_INFLATED_BYTES), MAX_INFLATED_BYTES)
    if not inflater.eof and len(data) >= MAX_INFLATED_BYTES:
        raise Unreadable(
            f"This deflated DICOM file grows to more than {MAX_INFLATED_BYTES >> 20} MiB when unpacked; "
            "it is damaged or malicious: export it again uncompressed."
        )
    return data


# --- elements; no reason may quote a value


def no_image(sop_class: str) -> str:
    """The reason why a DICOM object of this SOP class is no scan, by its name."""
    name = UID_dictionary.get(sop_class, ("",))[0]
    for part, kind in _NO_IMAGE:
        if part in f"{name} ":
            return f"{kind} holds no image, but a scan was expected; leave it out or export the images it refers to."
    return "This DICOM file holds no image (it has no pixel data), but a scan was expected; leave it out."


def damaged(keyword: str) -> Unreadable:
    """The reason for an element with an impossible value, which is not quoted."""
    return Unreadable(f"The header field {keyword} is damaged or impossible; export the file again from its source.")


def value_of(ds: Dataset, keyword: str) -> Any:
    """The value of an element as pydicom converts it, None where it is absent. Raises Unreadable."""
    try:
        return ds.get(keyword)
    except Exception:  # a damaged value raises whatever its converter does, and the error's text may quote the file
        pass
    raise damaged(keyword)


def whole(ds: Dataset, keyword: str, default: int | None = None, low: int = 0, high: int = 2**31) -> int:
    """The integer of an element. Raises Unreadable outside low..high, or when absent without a default."""
    value = value_of(ds, keyword)
    if value is None or value == "":
        if default is None:
            raise Unreadable(f"The header field {keyword} is missing, so the pixels cannot be read; export it again.")
        return default
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        number = low - 1
    if not low <= number <= high:
        raise damaged(keyword)
    return number


def numbers(ds: Dataset, keyword: str) -> tuple[float, ...]:
    """The finite numbers of an element, () where it is absent or empty. Raises Unreadable."""
    value = value_of(ds, keyword)
    if value is None or value == "":
        return ()
    several = isinstance(value, Sequence) and not isinstance(value, str)
    try:
        found = tuple(float(item) for item in (value if several else [value]))
    except (TypeError, ValueError, OverflowError):
        found = (math.nan,)
    if not all(map(math.isfinite, found)):
        raise damaged(keyword)
    return found


def vector(ds: Dataset, keyword: str, length: int) -> tuple[float, ...] | None:
    """The numbers of an element when there are exactly `length`, else None."""
    found = numbers(ds, keyword)
    return found if len(found) == length else None


def text(ds: Dataset, keyword: str) -> str:
    """The text of an element, "" where it is absent."""
    value = value_of(ds, keyword)
    return "" if value is None else str(value).strip()


def words(ds: Dataset, keyword: str) -> list[str]:
    """The texts of an element with several values."""
    value = value_of(ds, keyword)
    if value is None:
        return []
    return [str(item) for item in value] if isinstance(value, Sequence) and not isinstance(value, str) else [str(value)]


def items(ds: Dataset | None, keyword: str) -> Sequence[Dataset]:
    """The items of a sequence, () where it is absent."""
    value = None if ds is None else value_of(ds, keyword)
    return value if value is not None and not isinstance(value, bytes | str) else ()


def functional_group(ds: Dataset, frame: int, keyword: str) -> Dataset | None:
    """The functional group of one frame, its own before the shared one (PS3.3 C.7.6.16)."""
    frames = items(ds, "PerFrameFunctionalGroupsSequence")
    for owner in (frames[frame] if frame < len(frames) else None, *items(ds, "SharedFunctionalGroupsSequence")[:1]):
        found = items(owner, keyword)
        if len(found):
            return found[0]
    return None
