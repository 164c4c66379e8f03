"""DICOM images as readings: header first, then pixels frame by frame.

Order (PS3.3 C.7.6.3, C.11.1): decode, palette and YBR to RGB, modality rescale. Window and inversion are left to
`scan.display`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels import get_decoder
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import as_pixel_options
from pydicom.uid import UID, JPEG2000TransferSyntaxes, JPEGExtended12Bit, UID_dictionary

from builder import dicom_attributes
from builder.dicom_file import (
    DicomFile,
    damaged,
    functional_group,
    items,
    no_image,
    numbers,
    open_dicom,
    text,
    value_of,
    vector,
    whole,
    words,
)
from builder.grey import MAX_TABLE, Rescale, rescale, windows
from builder.places import Place, frame_order, grid_of
from builder.scan import Header, Reading, Slice, Unreadable, check_size

MAX_FRAMES = 100_000


def read_header(path: Path) -> Header:
    """The header of one DICOM image. Raises Unreadable when it is damaged or holds no image."""
    return _header(open_dicom(path))


def read(path: Path) -> Reading:
    """One DICOM image; the frames of a multi-frame image become slices, in order of position where they have one.

    Raises: Unreadable, here or while the slices are decoded.
    """
    return _reading(open_dicom(path))


def stored_frames(path: Path) -> tuple[DicomFile, Header, Iterator[np.ndarray]]:
    """(file, header, frames in the order of the file, each (rows, cols) with its stored values). Raises Unreadable."""
    file = open_dicom(path)
    header = _header(file)
    if header.channels != 1 or header.slices > MAX_FRAMES:
        raise damaged("NumberOfFrames" if header.channels == 1 else "SamplesPerPixel")
    _check_pixels(file, header, [])

    def frames() -> Iterator[np.ndarray]:
        with file.open() as stream:
            yield from _frames(file, stream, header)

    return file, header, frames()


def frame_places(path: Path) -> tuple[list[int], list[Place]]:
    """(slice index of each frame of a multi-frame image, where each slice lies). Raises Unreadable."""
    file = open_dicom(path)
    places = [place_of(file.ds, frame) for frame in range(_header(file).slices)]
    order, _ = frame_order(places, [])
    return order, [places[frame] for frame in sorted(range(len(order)), key=order.__getitem__)]


def frame_slices(path: Path) -> list[int]:
    """For each frame of a multi-frame image, in the order of the file, which slice of the scan it is."""
    file = open_dicom(path)
    return frame_order([place_of(file.ds, frame) for frame in range(_header(file).slices)], [])[0]


# --- header


def sources_of(ds: Dataset, frame: int) -> list[tuple[str, int]]:
    """(SOP instance UID, frame from 1 on) of each image that a frame of a derived image was made from."""
    derivation = functional_group(ds, frame, "DerivationImageSequence")
    found = []
    for source in items(derivation, "SourceImageSequence"):
        instance = text(source, "ReferencedSOPInstanceUID")
        frames = numbers(source, "ReferencedFrameNumber") or (1,)
        found += [(instance, int(number)) for number in frames]
    return found


def _outlines(ds: Dataset) -> tuple[str, ...]:
    """The SOP instance UIDs of the images that a segmentation was drawn on, of its frames, else of its series."""
    frames = min(whole(ds, "NumberOfFrames", 1, 0, 2**31) or 1, MAX_FRAMES)
    found = dict.fromkeys(instance for frame in range(frames) for instance, _ in sources_of(ds, frame) if instance)
    for referred in items(ds, "ReferencedSeriesSequence"):
        found.update(dict.fromkeys(text(item, "ReferencedSOPInstanceUID") for item in items(referred, _INSTANCES)))
    return tuple(found)


_INSTANCES = "ReferencedInstanceSequence"


def place_of(ds: Dataset, frame: int = 0) -> Place:
    """Where a frame lies in the patient."""
    position = functional_group(ds, frame, "PlanePositionSequence")
    orientation = functional_group(ds, frame, "PlaneOrientationSequence")
    return Place(
        vector(ds if position is None else position, "ImagePositionPatient", 3),
        vector(ds if orientation is None else orientation, "ImageOrientationPatient", 6),
    )


def _plane_spacing(ds: Dataset, notes: list[str]) -> tuple[float | None, float | None]:
    measures = functional_group(ds, 0, "PixelMeasuresSequence")
    for owner, keyword in (
        (measures, "PixelSpacing"),
        (ds, "PixelSpacing"),
        (ds, "ImagerPixelSpacing"),
        (ds, "NominalScannedPixelSpacing"),
    ):
        steps = numbers(owner, keyword) if owner is not None else ()
        if len(steps) == 2:
            if min(steps) <= 0:
                raise Unreadable(
                    f"The header field {keyword} says that a pixel has no size; correct it or export the file again."
                )
            if keyword != "PixelSpacing":
                notes.append("The pixel spacing is that of the detector: sizes in the body are somewhat smaller.")
            return steps[0], steps[1]
    return None, None


def _header(file: DicomFile) -> Header:
    ds = file.ds
    if not file.pixels:
        raise Unreadable(no_image(text(ds, "SOPClassUID")))
    place = place_of(ds)
    y, x = _plane_spacing(ds, [])
    samples = whole(ds, "SamplesPerPixel", 1, 1, 4)
    kind = text(ds, "PhotometricInterpretation")
    colour = samples > 1 or kind == "PALETTE COLOR"
    grey = kind if kind in ("MONOCHROME1", "MONOCHROME2") else ""
    return Header(
        format="dicom",
        modality=_code(ds, "Modality"),
        rows=whole(ds, "Rows", None, 1, 65535),
        cols=whole(ds, "Columns", None, 1, 65535),
        slices=whole(ds, "NumberOfFrames", 1, 0, 2**31) or 1,
        channels=3 if colour else 1,
        bits=whole(ds, "BitsStored", whole(ds, "BitsAllocated", 8, 1, 64), 1, 64),
        photometric="RGB" if colour else grey,
        position=place.position,
        origin=place.origin,
        orientation=place.orientation,
        spacing_mm=(None, y, x),
        number=_number(ds),
        localizer="LOCALIZER" in (word.upper() for word in words(ds, "ImageType")),
        patient=text(ds, "PatientID") or None,
        study=text(ds, "StudyInstanceUID") or None,
        series=text(ds, "SeriesInstanceUID") or None,
        instance=text(ds, "SOPInstanceUID") or None,
        outlines=_outlines(ds) if "SegmentSequence" in ds else (),
        body=_code(ds, "BodyPartExamined"),
    )


def _number(ds: Dataset) -> int | None:
    """InstanceNumber, None where it is absent or none: it only orders images that have no position."""
    try:
        found = numbers(ds, "InstanceNumber")
    except Unreadable:
        return None
    return int(found[0]) if len(found) == 1 else None


def _code(ds: Dataset, name: str) -> str:
    """A short code, such as the modality; anything that is no code is left out, it could be anything."""
    code = text(ds, name).upper()
    return code if 0 < len(code) <= 16 and code.replace("_", "").isalnum() and code.isascii() else ""


# --- pixels


def _reading(file: DicomFile) -> Reading:
    ds, header = file.ds, _header(file)
    frames = header.slices
    notes: list[str] = []
    if frames > MAX_FRAMES:
        raise damaged("NumberOfFrames")
    _check_pixels(file, header, notes)
    rescales = [rescale(ds, frame, file) for frame in range(frames if _per_frame(ds) else 1)]
    places = [place_of(ds, frame) for frame in range(frames)] if frames > 1 else [place_of(ds)]
    order, depth = frame_order(places, notes)
    if depth is None and frames > 1:
        offsets = np.diff(numbers(ds, "GridFrameOffsetVector"))
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
    in_order = sorted(range(frames), key=order.__getitem__)
    return Reading(
        format="dicom",
        num_slices=frames,
        slices=_slices(file, header, rescales, order, notes),
        spacing_mm=(depth, y, x),
        modality=header.modality,
        photometric="RGB" if header.channels == 3 else header.photometric,
        bits=bits,
        windows=() if header.channels == 3 else windows(ds, file, notes),
        patient=header.patient,
        study=header.study,
        series=header.series,
        notes=notes,
        grid=grid_of([places[frame] for frame in in_order], y, x, depth),
        body=header.body,
        attributes=dicom_attributes.attributes(ds),
        unnumbered=dicom_attributes.unnumbered(ds),
    )


def _per_frame(ds: Dataset) -> bool:
    return len(items(ds, "PerFrameFunctionalGroupsSequence")) > 0


def _remark(ds: Dataset, header: Header, notes: list[str]) -> None:
    if text(ds, "BurnedInAnnotation").upper() == "YES":
        notes.append("The file says that text is burnt into the picture: it may name the patient.")
    if header.modality == "SEG":
        notes.append("This is a segmentation: its values are labels, not a scan.")
    if text(ds, "PresentationIntentType").upper() == "FOR PROCESSING":
        notes.append("This is a raw detector image (for processing): it looks different from the one that is shown.")
    if header.localizer:
        notes.append("This is a localizer (scout view), not a slice of the body.")


def _check_pixels(file: DicomFile, header: Header, notes: list[str]) -> None:
    """Refuse what cannot be decoded, before any memory is asked for."""
    ds = file.ds
    allocated = whole(ds, "BitsAllocated", {"PixelData": None, "FloatPixelData": 32}.get(file.pixels, 64), 1, 64)
    if allocated != 1 and allocated % 8:
        raise damaged("BitsAllocated")
    if file.pixels == "PixelData":
        if whole(ds, "BitsStored", None, 1, 64) > allocated:
            raise damaged("BitsStored")
        whole(ds, "PixelRepresentation", None, 0, 1)
    samples = whole(ds, "SamplesPerPixel", None, 1, 4)
    kind = text(ds, "PhotometricInterpretation")
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
    rest = file.size - file.at
    there = rest if file.length == 0xFFFFFFFF else min(file.length, rest)
    if 0xFFFFFFFF > file.length > rest >= expected:
        raise Unreadable("The file ends before its pixel data do, as its header describes them; export the file again.")
    if there < expected:
        raise Unreadable(
            f"The pixel data are cut short: {max(there, 0):,} of {expected:,} bytes are there; export the file again."
        )
    if kind == "YBR_FULL_422" and there >= expected // 2 * 3:
        raise Unreadable("There is more pixel data than the colour space YBR_FULL_422 allows; convert it to RGB.")
    if file.length != 0xFFFFFFFF and file.length > expected + 1:
        notes.append("The file holds more pixel data than its header describes; the rest was left out.")


def _check_codestreams(file: DicomFile, header: Header) -> None:
    name = UID_dictionary[str(file.syntax)][0]
    try:
        decoder = get_decoder(file.syntax)
        usable = decoder.is_available
    except NotImplementedError:
        usable = False
    if not usable:
        raise Unreadable(f"The compression of this DICOM file ({name}) is not supported; export it uncompressed.")
    if file.syntax == JPEGExtended12Bit and header.bits > 8:  # no free decoder that pydicom uses can do it
        raise Unreadable("JPEG Extended with 12 bits is not supported; export the file uncompressed or as JPEG 2000.")
    with file.open() as stream:
        for frame in _encoded(file, stream, header.slices):
            if "JPEG-LS" in file.syntax.name and b"\xff\xd9" not in frame[-16:]:  # CharLS would search for ever
                raise Unreadable("The compressed picture is cut short; copy or export the file again.")
            size = _codestream_size(frame, file.syntax)
            if size is not None and size != (header.rows, header.cols):
                raise Unreadable(
                    "The compressed picture has another size than the DICOM header says, so one of them is damaged; "
                    "export the file again."
                )


def _encoded(file: DicomFile, stream: BinaryIO, frames: int) -> Iterator[bytes]:
    offsets = value_of(file.ds, "ExtendedOffsetTable"), value_of(file.ds, "ExtendedOffsetTableLengths")
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
    file: DicomFile, header: Header, rescales: list[Rescale], order: list[int], notes: list[str]
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


def _frames(file: DicomFile, stream: BinaryIO, header: Header) -> Iterator[np.ndarray]:
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
        high_bit = whole(ds, "HighBit", stored - 1, 0, 63)
        if high_bit != stored - 1 and stored - 1 < high_bit < allocated and not _is_jpeg(file.syntax):
            shift = high_bit - stored + 1
            options["correct_unused_bits"] = False
    decoder = get_decoder(file.syntax)
    frames: Iterator[tuple[np.ndarray, dict]]
    if file.syntax.is_encapsulated and not _is_jpeg_ls_or_2000(file.syntax):
        frames = decoder.iter_array(stream, validate=True, **options)
    else:  # pydicom 3.0's iter_array fails on signed JPEG-LS, and on the second frame of native YBR_FULL_422
        frames = _one_by_one(decoder, stream, options)
    for pixels, properties in frames:
        if header.channels == 3 and pixels.ndim == 3 and properties.get("photometric_interpretation") not in ("RGB",):
            raise Unreadable("The colour space of this DICOM file is not supported; convert the file to RGB.")
        if shift:
            spare = pixels.dtype.itemsize * 8 - options["bits_stored"]
            pixels = (pixels << (spare - shift)) >> spare
        yield pixels


def _one_by_one(decoder: Any, stream: BinaryIO, options: dict[str, Any]) -> Iterator[tuple[np.ndarray, dict]]:
    start = stream.tell()
    for index in range(options["number_of_frames"]):
        stream.seek(start)
        yield decoder.as_array(stream, index=index, validate=True, **options)


def _is_jpeg_ls_or_2000(syntax: UID) -> bool:
    return "JPEG-LS" in syntax.name or "JPEG 2000" in syntax.name


def _is_jpeg(syntax: UID) -> bool:
    return syntax.is_encapsulated and "JPEG" in syntax.name


def _padding(file: DicomFile) -> tuple[float, float] | None:
    """The stored values that mean "nothing was measured here" (PS3.3 C.7.5.1.1.2), lowest and highest."""
    if file.pixels != "PixelData":
        return None
    first = numbers(file.ds, "PixelPaddingValue")
    if not first:
        return None
    last = numbers(file.ds, "PixelPaddingRangeLimit") or first
    bits = whole(file.ds, "BitsAllocated", 16)
    signed = whole(file.ds, "PixelRepresentation", 0) == 1
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
        if text(ds, "PixelPresentation") in ("MIXED", "COLOR"):
            raise Unreadable("This image colours only some grey values, which is not supported; export it as RGB.")
        pixels = apply_color_lut(pixels, ds)
        if pixels.shape[-1] == 4:
            notes.append("The palette has transparency, which was left out.")
            pixels = pixels[..., :3]
    return np.moveaxis(pixels, -1, 0)


def _palette_bits(ds: Dataset) -> int | None:
    descriptor = numbers(ds, "RedPaletteColorLookupTableDescriptor")
    if text(ds, "PhotometricInterpretation") != "PALETTE COLOR":
        return None
    if len(descriptor) != 3:
        raise Unreadable("The colour palette of this DICOM file is missing or damaged; export the file again as RGB.")
    entries = int(descriptor[0]) or MAX_TABLE
    data = value_of(ds, "RedPaletteColorLookupTableData")
    if data is None:
        return int(descriptor[2])
    if len(data) < entries:
        raise Unreadable("The colour palette of this DICOM file is cut short; export the file again as RGB.")
    return 16 if len(data) >= 2 * entries else 8
