"""DICOM files as readings: header first, then pixels frame by frame.

Order (PS3.3 C.7.6.3, C.11.1): decode, palette and YBR to RGB, modality rescale. Window and inversion are left to
`scan.display`. Only the listed technical elements are ever loaded; pydicom's own log, which prints element values, is
silenced for the whole process, its warnings by `scans`, the only caller.
"""

from __future__ import annotations

import hashlib
import io
import logging
import math
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import generate_frames
from pydicom.filereader import read_dataset
from pydicom.pixels import get_decoder
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import as_pixel_options
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, JPEG2000TransferSyntaxes, UID_dictionary

from builder.scan import Header, Reading, Slice, Unreadable, Window, check_size

logging.getLogger("pydicom").addHandler(logging.NullHandler())
logging.getLogger("pydicom").propagate = False

MAX_INFLATED_BYTES = 64 * 2**20
MAX_META_BYTES = 2**20
MAX_ELEMENTS = 50_000
MAX_FRAMES = 100_000
MAX_TABLE = 2**16
_PIXEL_TAGS = {0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData", 0x7FE00010: "PixelData"}
_LONG_VRS = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
_KEYWORDS = (
    "SOPClassUID", "SOPInstanceUID", "ImageType", "Modality", "PatientID", "StudyInstanceUID", "SeriesInstanceUID",
    "InstanceNumber", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "ImagerPixelSpacing",
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
    "SegmentedAlphaPaletteColorLookupTableData",
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
class _File:
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


def read_header(path: Path) -> Header:
    """The header of one DICOM image. Raises Unreadable when it is damaged or holds no image."""
    return _header(_open(path))


def read(path: Path) -> Reading:
    """One DICOM image; the frames of a multi-frame image become slices, in order of position where they have one.

    Raises: Unreadable, here or while the slices are decoded.
    """
    return _reading(_open(path))


# --- the file up to its pixels


def _open(path: Path) -> _File:
    with open(path, "rb") as stream:
        return _parse(path, stream)


def _parse(path: Path, stream: BinaryIO) -> _File:
    source: Path | bytes = path
    size = os.fstat(stream.fileno()).st_size
    meta = _meta(stream)
    name = meta.get("TransferSyntaxUID")
    media = meta.get("MediaStorageSOPClassUID", "")
    if UID_dictionary.get(media, ("",))[0].startswith("Media Storage Directory"):
        raise Unreadable(_no_image(media))
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
    file = _File(source, size, syntax, ds)
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
            text = stream.read(length).rstrip(b"\0 ").decode("ascii", "replace")
            found["MediaStorageSOPClassUID" if element == 2 else "TransferSyntaxUID"] = text
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


# --- header fields; no reason may quote a value


def _no_image(sop_class: str) -> str:
    name = UID_dictionary.get(sop_class, ("",))[0]
    for part, words in _NO_IMAGE:
        if part in f"{name} ":
            return f"{words} holds no image, but a scan was expected; leave it out or export the images it refers to."
    return "This DICOM file holds no image (it has no pixel data), but a scan was expected; leave it out."


def _damaged(keyword: str) -> Unreadable:
    return Unreadable(f"The header field {keyword} is damaged or impossible; export the file again from its source.")


def _value(ds: Dataset, keyword: str) -> Any:
    try:
        return ds.get(keyword)
    except Exception:
        pass
    raise _damaged(keyword)


def _whole(ds: Dataset, keyword: str, default: int | None = None, low: int = 0, high: int = 2**31) -> int:
    value = _value(ds, keyword)
    if value is None or value == "":
        if default is None:
            raise Unreadable(f"The header field {keyword} is missing, so the pixels cannot be read; export it again.")
        return default
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        number = low - 1
    if not low <= number <= high:
        raise _damaged(keyword)
    return number


def _numbers(ds: Dataset, keyword: str) -> tuple[float, ...]:
    value = _value(ds, keyword)
    if value is None or value == "":
        return ()
    items = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    try:
        numbers = tuple(float(item) for item in items)
    except (TypeError, ValueError, OverflowError):
        numbers = (math.nan,)
    if not all(map(math.isfinite, numbers)):
        raise _damaged(keyword)
    return numbers


def _vector(ds: Dataset, keyword: str, length: int) -> tuple[float, ...] | None:
    numbers = _numbers(ds, keyword)
    return numbers if len(numbers) == length else None


def _text(ds: Dataset, keyword: str) -> str:
    value = _value(ds, keyword)
    return "" if value is None else str(value).strip()


def _words(ds: Dataset, keyword: str) -> list[str]:
    value = _value(ds, keyword)
    if value is None:
        return []
    return [str(item) for item in value] if isinstance(value, Sequence) and not isinstance(value, str) else [str(value)]


def _items(ds: Dataset | None, keyword: str) -> Sequence[Dataset]:
    value = None if ds is None else _value(ds, keyword)
    return value if value is not None and not isinstance(value, bytes | str) else ()


def _group(ds: Dataset, frame: int, keyword: str) -> Dataset | None:
    """The functional group of one frame, its own before the shared one (PS3.3 C.7.6.16)."""
    frames = _items(ds, "PerFrameFunctionalGroupsSequence")
    for owner in (frames[frame] if frame < len(frames) else None, *_items(ds, "SharedFunctionalGroupsSequence")[:1]):
        found = _items(owner, keyword)
        if len(found):
            return found[0]
    return None


@dataclass(frozen=True)
class _Place:
    origin: tuple[float, ...] | None
    orientation: tuple[float, ...] | None

    @property
    def normal(self) -> np.ndarray | None:
        if self.orientation is None:
            return None
        normal = np.cross(self.orientation[:3], self.orientation[3:])
        length = float(np.linalg.norm(normal))
        return normal / length if length > 0.5 else None

    @property
    def position(self) -> float | None:
        normal = self.normal
        return None if normal is None or self.origin is None else float(np.dot(self.origin, normal))


def _place(ds: Dataset, frame: int = 0) -> _Place:
    position = _group(ds, frame, "PlanePositionSequence")
    orientation = _group(ds, frame, "PlaneOrientationSequence")
    return _Place(
        _vector(ds if position is None else position, "ImagePositionPatient", 3),
        _vector(ds if orientation is None else orientation, "ImageOrientationPatient", 6),
    )


def _plane_spacing(ds: Dataset, notes: list[str]) -> tuple[float | None, float | None]:
    measures = _group(ds, 0, "PixelMeasuresSequence")
    for owner, keyword in (
        (measures, "PixelSpacing"),
        (ds, "PixelSpacing"),
        (ds, "ImagerPixelSpacing"),
        (ds, "NominalScannedPixelSpacing"),
    ):
        numbers = _numbers(owner, keyword) if owner is not None else ()
        if len(numbers) == 2:
            if min(numbers) <= 0:
                raise Unreadable(
                    f"The header field {keyword} says that a pixel has no size; correct it or export the file again."
                )
            if keyword != "PixelSpacing":
                notes.append("The pixel spacing is that of the detector: sizes in the body are somewhat smaller.")
            return numbers[0], numbers[1]
    return None, None


def _header(file: _File) -> Header:
    ds = file.ds
    if not file.pixels:
        raise Unreadable(_no_image(_text(ds, "SOPClassUID")))
    place = _place(ds)
    y, x = _plane_spacing(ds, [])
    samples = _whole(ds, "SamplesPerPixel", 1, 1, 4)
    kind = _text(ds, "PhotometricInterpretation")
    colour = samples > 1 or kind == "PALETTE COLOR"
    number = _value(ds, "InstanceNumber")
    return Header(
        format="dicom",
        modality=_modality(ds),
        rows=_whole(ds, "Rows", None, 1, 65535),
        cols=_whole(ds, "Columns", None, 1, 65535),
        slices=_whole(ds, "NumberOfFrames", 1, 0, 2**31) or 1,
        channels=3 if colour else 1,
        bits=_whole(ds, "BitsStored", _whole(ds, "BitsAllocated", 8, 1, 64), 1, 64),
        photometric="RGB" if colour else kind,
        position=place.position,
        origin=place.origin,
        orientation=place.orientation,
        spacing_mm=(None, y, x),
        number=_whole(ds, "InstanceNumber", 0, -(2**31)) if number not in (None, "") else None,
        localizer="LOCALIZER" in (word.upper() for word in _words(ds, "ImageType")),
        patient=_text(ds, "PatientID") or None,
        study=_text(ds, "StudyInstanceUID") or None,
        series=_text(ds, "SeriesInstanceUID") or None,
        instance=_text(ds, "SOPInstanceUID") or None,
    )


def _modality(ds: Dataset) -> str:
    """The modality as a short code; anything that is no code is left out, it could be anything."""
    code = _text(ds, "Modality").upper()
    return code if 0 < len(code) <= 16 and code.replace("_", "").isalnum() and code.isascii() else ""


# --- pixels


def _reading(file: _File) -> Reading:
    ds, header = file.ds, _header(file)
    frames = header.slices
    notes: list[str] = []
    if frames > MAX_FRAMES:
        raise _damaged("NumberOfFrames")
    _check_pixels(file, header, notes)
    rescales = [_rescale(ds, frame, file) for frame in range(frames if _per_frame(ds) else 1)]
    places = [_place(ds, frame) for frame in range(frames)] if frames > 1 else [_place(ds)]
    order, depth = _frame_order(places, notes)
    if depth is None and frames > 1:
        offsets = np.diff(_numbers(ds, "GridFrameOffsetVector"))
        depth = float(abs(np.median(offsets))) or None if offsets.size else None
    bits = header.bits
    if header.photometric == "RGB":
        bits = _palette_bits(ds) or bits
    elif rescales[0].bits:
        bits = rescales[0].bits
    if file.pixels != "PixelData":
        bits = 32
    _remark(ds, header, notes)
    y, x = _plane_spacing(ds, notes)
    return Reading(
        format="dicom",
        num_slices=frames,
        slices=_slices(file, header, rescales, order, notes),
        spacing_mm=(depth, y, x),
        modality=header.modality,
        photometric="RGB" if header.channels == 3 else header.photometric,
        bits=bits,
        windows=() if header.channels == 3 else _windows(ds, file),
        patient=header.patient,
        study=header.study,
        series=header.series,
        notes=notes,
    )


def _per_frame(ds: Dataset) -> bool:
    return len(_items(ds, "PerFrameFunctionalGroupsSequence")) > 0


def _remark(ds: Dataset, header: Header, notes: list[str]) -> None:
    if _text(ds, "BurnedInAnnotation").upper() == "YES":
        notes.append("The file says that text is burnt into the picture: it may name the patient.")
    if header.modality == "SEG":
        notes.append("This is a segmentation: its values are labels, not a scan.")
    if _text(ds, "PresentationIntentType").upper() == "FOR PROCESSING":
        notes.append("This is a raw detector image (for processing): it looks different from the one that is shown.")
    if header.localizer:
        notes.append("This is a localizer (scout view), not a slice of the body.")


def _check_pixels(file: _File, header: Header, notes: list[str]) -> None:
    """Refuse what cannot be decoded, before any memory is asked for."""
    ds = file.ds
    allocated = _whole(ds, "BitsAllocated", {"PixelData": None, "FloatPixelData": 32}.get(file.pixels, 64), 1, 64)
    if allocated != 1 and allocated % 8:
        raise _damaged("BitsAllocated")
    if file.pixels == "PixelData":
        if _whole(ds, "BitsStored", None, 1, 64) > allocated:
            raise _damaged("BitsStored")
        _whole(ds, "PixelRepresentation", None, 0, 1)
    samples = _whole(ds, "SamplesPerPixel", None, 1, 4)
    kind = _text(ds, "PhotometricInterpretation")
    if samples not in (1, 3) or (samples == 1) != (kind in ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")):
        raise Unreadable(
            "The pixels are neither grey, palette nor red-green-blue (an unusual colour space); convert it to RGB."
        )
    if kind in ("YBR_PARTIAL_422", "YBR_PARTIAL_420") or kind not in (
        "MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT",
    ):  # fmt: skip
        raise Unreadable("The colour space of this DICOM file is not supported; convert the file to RGB.")
    check_size(header.rows, header.cols, header.slices, samples, allocated / 8)
    if file.syntax.is_encapsulated:
        _check_codestreams(file, header)
        return
    sample_bytes = allocated / 8 * (2 / 3 if kind == "YBR_FULL_422" else 1)
    expected = math.ceil(header.rows * header.cols * header.slices * samples * sample_bytes)
    there = min(file.length, file.size - file.at) if file.length != 0xFFFFFFFF else file.size - file.at
    if there < expected:
        raise Unreadable(
            f"The pixel data are cut short: {max(there, 0):,} of {expected:,} bytes are there; export the file again."
        )
    if kind == "YBR_FULL_422" and there >= expected // 2 * 3:
        raise Unreadable("There is more pixel data than the colour space YBR_FULL_422 allows; convert it to RGB.")
    if file.length != 0xFFFFFFFF and file.length > expected + 1:
        notes.append("The file holds more pixel data than its header describes; the rest was left out.")


def _check_codestreams(file: _File, header: Header) -> None:
    name = UID_dictionary[str(file.syntax)][0]
    try:
        decoder = get_decoder(file.syntax)
        usable = decoder.is_available
    except NotImplementedError:
        usable = False
    if not usable:
        raise Unreadable(f"The compression of this DICOM file ({name}) is not supported; export it uncompressed.")
    with file.open() as stream:
        for frame in _encoded(file, stream, header.slices):
            size = _codestream_size(frame, file.syntax)
            if size is not None and size != (header.rows, header.cols):
                raise Unreadable(
                    "The compressed picture has another size than the DICOM header says, so one of them is damaged; "
                    "export the file again."
                )


def _encoded(file: _File, stream: BinaryIO, frames: int) -> Iterator[bytes]:
    offsets = _value(file.ds, "ExtendedOffsetTable"), _value(file.ds, "ExtendedOffsetTableLengths")
    extended = offsets if offsets[0] and offsets[1] else None
    return generate_frames(stream, number_of_frames=frames, extended_offsets=extended)


def _codestream_size(data: bytes, syntax: UID) -> tuple[int, int] | None:
    """(rows, cols) as the JPEG or JPEG 2000 data say, None where they do not."""
    if syntax in JPEG2000TransferSyntaxes or "High-Throughput" in syntax.name:
        at = data.find(b"\xff\x4f\xff\x51", 0, 4096)
        if at < 0 or len(data) < at + 24:
            return None
        right, bottom, left, top = struct.unpack(">4L", data[at + 8 : at + 24])
        return bottom - top, right - left
    if data[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 9 <= len(data):
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker in (0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF, 0xF7):
            rows, cols = struct.unpack(">HH", data[at + 5 : at + 9])
            return (rows, cols) if rows else None
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _slices(
    file: _File, header: Header, rescales: list[_Rescale], order: list[int], notes: list[str]
) -> Iterator[Slice]:
    padding = None if header.channels == 3 else _padding(file)
    with file.open() as stream:
        for frame, pixels in enumerate(_frames(file, stream, header)):
            if frame >= header.slices:
                notes.append("The file holds more frames than its header says; the rest was left out.")
                return
            valid = None
            if header.channels == 3:
                pixels = _colour(pixels, file.ds, notes)
            else:
                if padding is not None:
                    low, high = padding
                    valid = ~((pixels >= low) & (pixels <= high))
                    valid = None if valid.all() else valid
                pixels = rescales[frame if len(rescales) > 1 else 0].apply(pixels)[None]
            yield Slice(order[frame], pixels, valid)


def _frames(file: _File, stream: BinaryIO, header: Header) -> Iterator[np.ndarray]:
    """Decoded frames, (rows, cols) or (rows, cols, samples), YBR made RGB, only the stored bits."""
    ds = file.ds
    options: dict[str, Any] = as_pixel_options(ds)
    options.update(
        transfer_syntax_uid=file.syntax,
        pixel_keyword=file.pixels,
        pixel_vr=file.vr,
        number_of_frames=header.slices,
    )
    for key in ("rows", "columns", "bits_allocated", "bits_stored", "samples_per_pixel", "pixel_representation"):
        if options.get(key) is not None:
            options[key] = int(options[key])
    shift = 0
    if file.pixels == "PixelData":
        stored, allocated = options["bits_stored"], options["bits_allocated"]
        high_bit = _whole(ds, "HighBit", stored - 1, 0, 63)
        if high_bit != stored - 1 and stored - 1 < high_bit < allocated and not _is_jpeg(file.syntax):
            shift = high_bit - stored + 1
            options["correct_unused_bits"] = False
    decoder = get_decoder(file.syntax)
    if file.syntax.is_encapsulated:
        frames: Iterator[tuple[np.ndarray, dict]] = decoder.iter_array(stream, validate=True, **options)
    else:
        frames = (decoder.as_array(stream, index=i, validate=True, **options) for i in range(header.slices))
    for pixels, properties in frames:
        if header.channels == 3 and pixels.ndim == 3 and properties.get("photometric_interpretation") not in ("RGB",):
            raise Unreadable("The colour space of this DICOM file is not supported; convert the file to RGB.")
        if shift:
            spare = pixels.dtype.itemsize * 8 - options["bits_stored"]
            pixels = (pixels << (spare - shift)) >> spare
        yield pixels


def _is_jpeg(syntax: UID) -> bool:
    return syntax.is_encapsulated and "JPEG" in syntax.name


def _padding(file: _File) -> tuple[float, float] | None:
    """The stored values that mean "nothing was measured here" (PS3.3 C.7.5.1.1.2), lowest and highest."""
    if file.pixels != "PixelData":
        return None
    first = _numbers(file.ds, "PixelPaddingValue")
    if not first:
        return None
    last = _numbers(file.ds, "PixelPaddingRangeLimit") or first
    bits = _whole(file.ds, "BitsAllocated", 16)
    signed = _whole(file.ds, "PixelRepresentation", 0) == 1
    ends = []
    for value in (first[0], last[0]):
        if signed and value >= 2 ** (bits - 1):  # written unsigned though the pixels are signed
            value -= 2**bits
        elif not signed and value < 0:
            value += 2**bits
        ends.append(value)
    return min(ends), max(ends)


def _colour(pixels: np.ndarray, ds: Dataset, notes: list[str]) -> np.ndarray:
    """(3, rows, cols)."""
    if pixels.ndim == 2:
        if _text(ds, "PixelPresentation") in ("MIXED", "COLOR"):
            raise Unreadable("This image colours only some grey values, which is not supported; export it as RGB.")
        pixels = apply_color_lut(pixels, ds)
        if pixels.shape[-1] == 4:
            notes.append("The palette has transparency, which was left out.")
            pixels = pixels[..., :3]
    return np.moveaxis(pixels, -1, 0)


def _palette_bits(ds: Dataset) -> int | None:
    descriptor = _numbers(ds, "RedPaletteColorLookupTableDescriptor")
    if _text(ds, "PhotometricInterpretation") != "PALETTE COLOR":
        return None
    if len(descriptor) != 3:
        raise Unreadable("The colour palette of this DICOM file is missing or damaged; export the file again as RGB.")
    entries = int(descriptor[0]) or MAX_TABLE
    data = _value(ds, "RedPaletteColorLookupTableData")
    if data is None:
        return int(descriptor[2])
    if len(data) < entries:
        raise Unreadable("The colour palette of this DICOM file is cut short; export the file again as RGB.")
    return 16 if len(data) >= 2 * entries else 8


# --- modality rescale and windows


@dataclass(frozen=True)
class _Rescale:
    """Stored values to modality units: a table, or slope and intercept (PS3.3 C.11.1)."""

    slope: float = 1.0
    intercept: float = 0.0
    table: np.ndarray | None = None
    first: int = 0
    bits: int = 0

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        if self.table is not None:
            return self.table[np.clip(pixels.astype(np.int64) - self.first, 0, len(self.table) - 1)]
        if self.slope == 1 and self.intercept == 0:
            return pixels
        whole = self.slope.is_integer() and self.intercept.is_integer() and pixels.dtype.kind in "ui"
        if whole and pixels.dtype.itemsize <= 2 and abs(self.slope) < 2**14 and abs(self.intercept) < 2**30:
            return pixels.astype(np.int32) * np.int32(self.slope) + np.int32(self.intercept)
        return (pixels.astype(np.float64) * self.slope + self.intercept).astype(np.float32)


def _rescale(ds: Dataset, frame: int, file: _File) -> _Rescale:
    owner = _group(ds, frame, "PixelValueTransformationSequence") or ds
    tables = _items(owner, "ModalityLUTSequence")
    if len(tables):
        values, first, bits = _table(tables[0], file)
        return _Rescale(table=values, first=first, bits=bits)
    slope, intercept = _numbers(owner, "RescaleSlope"), _numbers(owner, "RescaleIntercept")
    if len(slope) != 1 or len(intercept) != 1:
        return _Rescale()
    if slope[0] == 0:
        raise Unreadable("The header says that every pixel has the same value (RescaleSlope 0); export the file again.")
    return _Rescale(slope[0], intercept[0])


def _table(item: Dataset, file: _File) -> tuple[np.ndarray, int, int]:
    """(values, first stored value mapped, bits per entry) of a modality or VOI LUT."""
    descriptor = _numbers(item, "LUTDescriptor")
    data = _value(item, "LUTData")
    if len(descriptor) != 3 or data is None or not 1 <= descriptor[2] <= 16:
        raise _damaged("LUTDescriptor")
    entries = int(descriptor[0]) % MAX_TABLE or MAX_TABLE
    if isinstance(data, bytes):
        narrow = len(data) < 2 * entries
        values = np.frombuffer(data, np.uint8 if narrow else f"{'<' if file.syntax.is_little_endian else '>'}u2")
    else:
        values = np.atleast_1d(np.asarray(data, dtype=np.int64))
    if len(values) < entries:
        raise _damaged("LUTData")
    return values[:entries].astype(np.uint16), int(descriptor[1]), int(descriptor[2])


def _windows(ds: Dataset, file: _File) -> tuple[Window, ...]:
    """VOI LUTs first, then windows, in the order of the file; unusable ones are skipped."""
    owner = _group(ds, 0, "FrameVOILUTSequence") or ds
    found = []
    for item in _items(owner, "VOILUTSequence"):
        values, first, bits = _table(item, file)
        if len(values) < 2:
            continue
        points = np.linspace(0, len(values) - 1, min(len(values), 4096))
        shown = np.interp(points, np.arange(len(values)), np.minimum(values / (2**bits - 1), 1))
        width = float(len(values) - 1)
        table = tuple(round(float(value), 6) for value in shown)
        found.append(Window(first + width / 2, width, "TABLE", "", table))
    function = _text(owner, "VOILUTFunction").upper() or "LINEAR"
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        function = "LINEAR"
    names = _words(owner, "WindowCenterWidthExplanation")
    pairs = list(zip(_numbers(owner, "WindowCenter"), _numbers(owner, "WindowWidth"), strict=False))
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


def _window_name(text: str) -> str:
    """The explanation is free text that could hold a name: only known words of it are kept."""
    lowered = text.lower().replace("_", " ")
    return " ".join(word for word in _WINDOW_WORDS if word in lowered)


# --- order in space


def _frame_order(places: list[_Place], notes: list[str]) -> tuple[list[int], float | None]:
    """(slice index of each frame, spacing along the normal in mm). Stored order where positions do not order them."""
    stored = list(range(len(places)))
    positions = [place.position for place in places]
    if len(places) < 2 or any(position is None for position in positions):
        return stored, None
    if len({tuple(np.round(place.orientation or (), 3)) for place in places}) > 1:
        notes.append("The frames lie in several orientations; they are kept in the order of the file.")
        return stored, None
    values = np.array(positions, float)
    if len(np.unique(values.round(3))) < len(values):
        notes.append("Several frames lie at the same position; they are kept in the order of the file.")
        return stored, None
    ranks = np.empty(len(values), int)
    ranks[np.argsort(values)] = stored
    return ranks.tolist(), _depth_spacing(np.sort(values), notes)


def _depth_spacing(positions: np.ndarray, notes: list[str]) -> float | None:
    """Median distance of sorted positions in mm; tells of gaps and of uneven spacing."""
    steps = np.diff(positions)
    steps = steps[steps > 1e-3]
    if not steps.size:
        return None
    median = float(np.median(steps))
    gaps = steps > 1.75 * median
    even = np.abs(steps[~gaps] - median) <= max(0.05 * median, 0.02)
    wholes = steps[gaps] / median
    if not even.all() or not np.allclose(wholes, wholes.round(), atol=0.1):
        notes.append(f"The slices are unevenly spaced: {steps.min():.2f} to {steps.max():.2f} mm.")
    elif gaps.any():
        missing = int(wholes.round().sum() - gaps.sum())
        notes.append(f"There are gaps in the series: about {missing} slice(s) seem to be missing.")
    return median


def read_series(paths: Sequence[Path]) -> Reading:
    """The images of one series as one scan, sorted by their position along the slice normal.

    The largest group of images of one size and orientation is read; what is left out, gaps, uneven spacing, copies and
    gantry tilt are told in the notes. Raises: Unreadable when no image can be read, or two files that claim to be the
    same image differ.
    """
    notes: list[str] = []
    headers, refused = [], []
    for path in paths:
        try:
            headers.append((path, read_header(path)))
        except Unreadable as error:
            refused.append(error.reason)
    if not headers:
        raise Unreadable(refused[0] if refused else "There is no file to read; choose at least one.")
    if refused:
        notes.append(f"{len(refused)} of {len(paths)} files could not be read and were left out: {refused[0]}")
    chosen = _largest_stack(headers, notes)
    chosen = _without_copies(chosen, notes)
    if len(chosen) == 1:
        reading = read(chosen[0][0])
        reading.notes[:0] = notes
        return reading
    if any(header.slices > 1 for _, header in chosen):
        raise Unreadable("The series has several multi-frame files; read each of them as a scan of its own.")
    chosen, depth = _sorted(chosen, notes)
    first = read(chosen[0][0])
    notes.extend(first.notes)
    bits = max(header.bits for _, header in chosen)

    def slices() -> Iterator[Slice]:
        for index, (path, _) in enumerate(chosen):
            reading = read(path)
            if (reading.photometric, reading.modality) != (first.photometric, first.modality):
                raise Unreadable("The series mixes kinds of images (modality or grey scale); read them separately.")
            for piece in reading.slices:
                yield Slice(index, piece.pixels, piece.valid)
            notes.extend(reading.notes)

    return Reading(
        format="dicom",
        num_slices=len(chosen),
        slices=slices(),
        spacing_mm=(depth, *first.spacing_mm[1:]),
        modality=first.modality,
        photometric=first.photometric,
        bits=max(bits, first.bits) if first.photometric != "RGB" else first.bits,
        windows=first.windows,
        patient=first.patient,
        study=first.study,
        series=first.series,
        notes=notes,
    )


_Found = list[tuple[Path, Header]]


def _largest_stack(found: _Found, notes: list[str]) -> _Found:
    def stack(header: Header) -> tuple:
        orientation = tuple(np.round(header.orientation, 2) + 0.0) if header.orientation else None
        return header.rows, header.cols, header.channels, orientation, header.localizer

    groups: dict[tuple, _Found] = {}
    for path, header in found:
        groups.setdefault(stack(header), []).append((path, header))
    best = max(groups.values(), key=lambda group: (len(group), group[0][1].rows * group[0][1].cols))
    tell: dict[str, Callable[[Header], Any]] = {
        "localizers": lambda header: header.localizer and not best[0][1].localizer,
        "of another size": lambda header: (header.rows, header.cols) != (best[0][1].rows, best[0][1].cols),
        "in another orientation": lambda header: stack(header)[3] != stack(best[0][1])[3],
        "of another kind": lambda header: True,
    }
    left: dict[str, int] = {}
    for group in groups.values():
        if group is not best:
            words = next(words for words, test in tell.items() if test(group[0][1]))
            left[words] = left.get(words, 0) + len(group)
    if left:
        list_ = ", ".join(f"{count} {words}" for words, count in left.items())
        notes.append(f"The series is mixed: {sum(left.values())} of {len(found)} images were left out ({list_}).")
    return best


def _without_copies(found: _Found, notes: list[str]) -> _Found:
    kept: dict[str, Path] = {}
    result, copies = [], 0
    for path, header in found:
        if header.instance is None or header.instance not in kept:
            if header.instance is not None:
                kept[header.instance] = path
            result.append((path, header))
        elif _digest(path) == _digest(kept[header.instance]):
            copies += 1
        else:
            raise Unreadable(
                "Two files of the series claim to be the same image but show different pixels; remove the wrong one."
            )
    if copies:
        notes.append(f"{copies} file(s) are exact copies of others and were left out.")
    return result


def _digest(path: Path) -> bytes:
    digest = hashlib.sha256()
    for piece in read(path).slices:
        digest.update(piece.pixels.tobytes())
    return digest.digest()


def _sorted(found: _Found, notes: list[str]) -> tuple[_Found, float | None]:
    if any(header.position is None for _, header in found):
        notes.append("The images do not say where they lie in space; they are sorted by their number in the series.")
        return sorted(found, key=lambda item: item[1].number or 0), None
    ordered = sorted(found, key=lambda item: (item[1].position, item[1].number or 0))
    positions = np.array([header.position for _, header in ordered], float)
    depth = _depth_spacing(positions, notes)
    same = int((np.diff(positions) <= 1e-3).sum())
    if same:
        notes.append(f"{same} image(s) lie at the same place as another one (several echoes, times or copies).")
    origins = np.array([header.origin for _, header in ordered], float)
    normal = _Place(None, ordered[0][1].orientation).normal
    way = origins[-1] - origins[0]
    length = float(np.linalg.norm(way))
    if normal is not None and length > 1e-3:
        tilt = math.degrees(math.acos(min(1.0, abs(float(np.dot(way, normal))) / length)))
        if tilt > 1:
            notes.append(f"The gantry was tilted by about {tilt:.1f} degrees: the slices are shifted in their plane.")
    return ordered, depth
