"""Bad (and some odd but good) inputs, all made by code: the corpus of notes/reliability.md, section 8, numbers 1 to 70.

A `Case` says what is in the file and how it must end: R = refused, Q = this file is set aside and the others go on,
A = accepted (with the words of `note` in a note, where one is given). For a single file R and Q look the same: an
`Unreadable` with one plain sentence.
"""

from __future__ import annotations

import gzip
import io
import struct
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jpeg_ls
import numpy as np
from nibabel.nifti1 import Nifti1Header
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

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
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    ds.file_meta.MediaStorageSOPClassUID = ds.get("SOPClassUID", CT_IMAGE)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.get("SOPInstanceUID", "1.2.3")
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some values are wrong on purpose
        ds.save_as(file, enforce_file_format=True)
    return file.getvalue()


# --- DICOM, 1 to 41


def _replaced(data: bytes, old: bytes, new: bytes) -> bytes:
    assert data.count(old) == 1, "the element to change must be there once"
    return data.replace(old, new)


def _element(tag: int, vr: bytes, value: bytes) -> bytes:
    """One explicit little-endian element, written by hand so that it may be wrong."""
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
    if vr in (b"OB", b"OW", b"SQ", b"UN", b"UT"):
        return head + struct.pack("<HL", 0, len(value)) + value
    return head + struct.pack("<H", len(value)) + value


def _patched(tag: int, vr: bytes, value: bytes, **overrides: Any) -> bytes:
    """A valid file with the value of one short element replaced, whatever it is."""
    data = dicom_bytes(**overrides)
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    at = data.index(head, 132 + 12)
    while data[at + 4 : at + 6] not in (b"US", b"IS", b"DS", b"SS", b"OW", b"OB"):
        at = data.index(head, at + 1)
    length = int.from_bytes(data[at + 6 : at + 8], "little")
    return data[:at] + _element(tag, vr, value) + data[at + 8 + length :]


def _with_pixel_length(length: int) -> bytes:
    head = struct.pack("<HH2sH", 0x7FE0, 0x0010, b"OW", 0)
    return _replaced(dicom_bytes(), head + struct.pack("<L", 512), head + struct.pack("<L", length))


def _compressed(frames: list[bytes], syntax: str, **overrides: Any) -> bytes:
    pixels = overrides.pop("pixels", np.zeros((64, 64), np.uint8))
    ds = dicom_dataset(pixels, **overrides)
    del ds.PixelData
    ds.PixelData = encapsulate(frames)
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    return written(ds, syntax)


def picture_bytes(kind: str, pixels: np.ndarray | None = None, **options: Any) -> bytes:
    """An encoded picture: a 64 x 64 ramp unless told otherwise."""
    ramp = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(ramp if pixels is None else pixels).save(file, kind, **options)
    return file.getvalue()


def white_is_zero(data: bytes) -> bytes:
    """A little-endian TIFF of one page with its 0 declared white: Pillow itself writes none."""
    changed = bytearray(data)
    first = int.from_bytes(changed[4:8], "little")
    for entry in range(int.from_bytes(changed[first : first + 2], "little")):
        at = first + 2 + 12 * entry
        if int.from_bytes(changed[at : at + 2], "little") == 262:
            changed[at + 8 : at + 10] = b"\0\0"
    return bytes(changed)


def _jpeg2000(side: int) -> bytes:
    """A tiny JPEG 2000 codestream that claims to be side x side."""
    data = bytearray(picture_bytes("JPEG2000", no_jp2=True))
    at = data.index(b"\xff\x51") + 6
    for offset in (0, 4, 16, 20):
        data[at + offset : at + offset + 4] = struct.pack(">L", side)
    return bytes(data)


def _cut_jpeg_ls() -> bytes:
    """CharLS searches for seconds for the rest of such a picture."""
    frame = jpeg_ls.encode_array(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8))
    return _compressed([bytes(frame)], str(JPEGLSLossless))[:-2000]


def _rle(frames: int, planes: list[bytes]) -> list[bytes]:
    starts, at = [], 64
    for plane in planes:
        starts.append(at)
        at += len(plane)
    head = struct.pack("<16L", len(planes), *starts, *[0] * (15 - len(planes)))
    return [head + b"".join(planes)] * frames


def _zeros(wbits: int, mebibytes: int, before: bytes = b"") -> bytes:
    """A deflate stream of `before` and many zeros that never ends; made from one block, so it is made at once."""
    pack = zlib.compressobj(9, zlib.DEFLATED, wbits)
    start = pack.compress(before) + pack.flush(zlib.Z_FULL_FLUSH)
    return start + (pack.compress(bytes(2**20)) + pack.flush(zlib.Z_FULL_FLUSH)) * mebibytes


def _deflated_bomb() -> bytes:
    head = written(dicom_dataset(), DeflatedExplicitVRLittleEndian)
    plain = dicom_bytes()
    return head[: _meta_end(head)] + _zeros(-zlib.MAX_WBITS, 1000, plain[_meta_end(plain) :])


def _meta_end(data: bytes) -> int:
    return 132 + 12 + int.from_bytes(data[140:144], "little")


def _nested(depth: int) -> bytes:
    opening = struct.pack("<HH2sHLHHL", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF)
    closing = struct.pack("<HHLHHL", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    data = dicom_bytes()
    at = data.index(struct.pack("<HH2sH", 0x7FE0, 0x0010, b"OW", 0))
    return data[:at] + opening * depth + closing * depth + data[at:]


def _many_elements(count: int) -> bytes:
    data = dicom_bytes()
    at = data.index(struct.pack("<HH2sH", 0x7FE0, 0x0010, b"OW", 0))
    return data[:at] + _element(0x60010010, b"LO", b"") * count + data[at:]


def _palette(**overrides: Any) -> bytes:
    table = np.arange(256, dtype=np.uint8).tobytes()
    ds = dicom_dataset(np.arange(256, dtype=np.uint8).reshape(16, 16), PhotometricInterpretation="PALETTE COLOR")
    for colour in ("Red", "Green", "Blue"):
        setattr(ds, f"{colour}PaletteColorLookupTableDescriptor", overrides.get("descriptor", [256, 0, 8]))
        setattr(ds, f"{colour}PaletteColorLookupTableData", overrides.get("table", table))
    return written(ds)


def _ybr_422() -> bytes:
    ds = dicom_dataset(np.zeros((16, 16, 3), np.uint8), SamplesPerPixel=3, PhotometricInterpretation="YBR_FULL_422")
    ds.PixelData = bytes([80, 90, 128, 128]) * 128
    return written(ds)


def _private_element() -> bytes:
    ds = dicom_dataset()
    block = ds.private_block(0x0029, "SCANLOOM TEST", create=True)
    block.add_new(0x01, "LO", CANARY)
    return written(ds)


def _report(sop_class: str) -> bytes:
    ds = dicom_dataset(SOPClassUID=sop_class, Modality="SR")
    for keyword in ("PixelData", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"):
        delattr(ds, keyword)
    return written(ds)


def _dicomdir() -> bytes:
    record = Dataset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        record.ReferencedFileID = ["..", "..", "etc", "passwd"]
    record.DirectoryRecordType = "IMAGE"
    ds = Dataset()
    ds.SOPClassUID = "1.2.840.10008.1.3.10"
    ds.SOPInstanceUID = "1.2.3"
    ds.DirectoryRecordSequence = [record]
    return written(ds)


def _lying_offsets() -> bytes:
    frames = _rle(2, [b"\x81\x05" * 32])
    data = _compressed(frames, RLELossless, NumberOfFrames=2)
    offsets = struct.pack("<HHL", 0xFFFE, 0xE000, 8)
    at = data.index(offsets) + 8
    return data[:at] + struct.pack("<2L", 0x7FFFFFF0, 0x7FFFFFFF) + data[at + 8 :]


def _junk_bits() -> bytes:
    values = (np.arange(256, dtype=np.uint16).reshape(16, 16) * 16) & 0x0FFF
    return dicom_bytes(values | 0xA000, BitsStored=12, HighBit=11)


def _text_instead() -> bytes:
    return f"Patient: {CANARY}\nThis is not a scan.\n".encode() * 20


def dicom_cases() -> list[Case]:
    """Numbers 1 to 41 that are one file; those of several files are `series_cases`."""
    small = dicom_bytes()
    j2k = str(JPEG2000)
    random_bytes = np.random.default_rng(1).integers(0, 256, 5000, np.uint8).tobytes()
    one_pixel = {"pixels": np.zeros((64, 64), np.uint8)}
    return [
        Case(1, "empty file", lambda: b"", "R"),
        Case(2, "random bytes", lambda: random_bytes, "R"),
        Case(2, "random bytes after the magic", lambda: b"\0" * 128 + b"DICM" + random_bytes, "R"),
        Case(3, "text named dcm", _text_instead, "R"),
        Case(4, "no preamble", lambda: small[132:], "Q"),
        Case(4, "no preamble and no meta", lambda: small[_meta_end(small) :], "Q"),
        Case(5, "cut after the meta header", lambda: small[: _meta_end(small)], "R"),
        Case(5, "cut in the meta header", lambda: small[:150], "R"),
        Case(6, "pixels cut short", lambda: small[:-100], "Q"),
        Case(
            7,
            "65535 x 65535 with 8 kB",
            lambda: dicom_bytes(np.zeros((64, 64), np.uint16), Rows=65535, Columns=65535),
            "Q",
        ),
        Case(8, "Rows as UL 2^31+1", lambda: _patched(0x00280010, b"UL", struct.pack("<L", 2**31 + 1)), "Q"),
        Case(9, "2^31-1 frames", lambda: dicom_bytes(NumberOfFrames=2**31 - 1), "Q"),
        Case(10, "negative frames", lambda: dicom_bytes(NumberOfFrames=-5), "Q"),
        Case(11, "no rows", lambda: dicom_bytes(Rows=0), "Q"),
        Case(12, "7 bits allocated", lambda: dicom_bytes(BitsAllocated=7), "Q"),
        Case(12, "more bits stored than allocated", lambda: dicom_bytes(BitsStored=33), "Q"),
        Case(13, "pixel length 0xFFFFFFFE", lambda: _with_pixel_length(0xFFFFFFFE), "Q"),
        Case(13, "more pixels than are described", lambda: dicom_bytes(PixelData=b"\1" * 900), "A", "more pixel data"),
        Case(14, "deflated bomb", _deflated_bomb, "Q"),
        Case(
            15,
            "RLE bomb 30000 x 30000",
            lambda: _compressed(_rle(1, [b"\x81\0" * 1000]), RLELossless, Rows=30000, Columns=30000),
            "Q",
        ),
        Case(
            15,
            "RLE 5000 x 5000 of one value",
            lambda: _compressed(_rle(1, [b"\x81\0" * 200_000]), RLELossless, Rows=5000, Columns=5000),
            "A",
            "blank",
        ),
        Case(
            16,
            "JPEG 2000 of 60000 x 60000",
            lambda: _compressed([_jpeg2000(60000)], j2k, Rows=60000, Columns=60000),
            "Q",
        ),
        Case(
            16,
            "JPEG 2000 of 40000 x 40000",
            lambda: _compressed([_jpeg2000(40000)], j2k, Rows=40000, Columns=40000),
            "Q",
        ),
        Case(16, "JPEG 2000 larger than its header", lambda: _compressed([_jpeg2000(60000)], j2k, **one_pixel), "Q"),
        Case(17, "JPEG 2000 garbage", lambda: _compressed([b"\xff\x4f\xff\x51" + random_bytes], j2k), "Q"),
        Case(17, "JPEG-LS cut short", _cut_jpeg_ls, "Q"),
        Case(17, "JPEG-LS garbage", lambda: _compressed([random_bytes[:900]], str(JPEGLSLossless)), "Q"),
        Case(
            18,
            "JPEG of 64 with Rows 512",
            lambda: _compressed([picture_bytes("JPEG")], str(JPEGBaseline8Bit), Rows=512),
            "Q",
        ),
        Case(
            19,
            "unknown transfer syntax",
            lambda: _replaced(small, b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0"),
            "Q",
        ),
        Case(19, "video", lambda: _compressed([random_bytes], "1.2.840.10008.1.2.4.100"), "Q"),
        Case(20, "nested 2,000 deep", lambda: _nested(2000), "Q"),
        Case(20, "nested 100,000 deep", lambda: _nested(100_000), "Q"),
        Case(21, "a million tiny elements", lambda: _many_elements(1_000_000), "Q"),
        Case(22, "no pixel data", lambda: dicom_bytes(PixelData=None), "Q"),
        Case(23, "palette with two values", lambda: _palette(descriptor=[256, 0]), "Q"),
        Case(23, "palette cut short", lambda: _palette(table=b"\0" * 10), "Q"),
        Case(23, "palette without entries", lambda: _palette(descriptor=[0, 0, 8]), "Q"),
        Case(
            24,
            "unknown character set",
            lambda: _replaced(dicom_bytes(SpecificCharacterSet="ISO_IR 100"), b"ISO_IR 100", b"ISO_IR 999"),
            "A",
        ),
        Case(
            25,
            "HTML in the name",
            lambda: dicom_bytes(PatientName="<img src=x onerror=alert(1)>", SeriesDescription="<script>1</script>"),
            "A",
        ),
        Case(
            26, "slope 1e400", lambda: _patched(0x00281053, b"DS", b"1e400 ", RescaleSlope=1, RescaleIntercept=0), "Q"
        ),
        Case(
            26, "intercept NaN", lambda: _patched(0x00281052, b"DS", b"NaN ", RescaleSlope=1, RescaleIntercept=0), "Q"
        ),
        Case(26, "slope 0", lambda: dicom_bytes(RescaleSlope=0, RescaleIntercept=5), "Q"),
        Case(27, "pixel spacing 0", lambda: dicom_bytes(PixelSpacing=[0, 0]), "Q"),
        Case(28, "DICOMDIR that points out", _dicomdir, "R"),
        Case(29, "a Windows program in the preamble", lambda: b"MZ" + b"\x90" * 126 + small[128:], "A"),
        Case(29, "an ELF program in the preamble", lambda: b"\x7fELF" + b"\1" * 124 + small[128:], "A"),
        Case(33, "MONOCHROME1", lambda: dicom_bytes(PhotometricInterpretation="MONOCHROME1"), "A"),
        Case(34, "a name in a private element", _private_element, "A"),
        Case(35, "burnt-in text", lambda: dicom_bytes(BurnedInAnnotation="YES"), "A", "burnt into"),
        Case(36, "YBR_FULL_422", _ybr_422, "A"),
        Case(37, "12 bits with junk above", _junk_bits, "A"),
        Case(38, "big endian", lambda: _big_endian(), "A"),
        Case(39, "structured report", lambda: _report("1.2.840.10008.5.1.4.1.1.88.11"), "Q"),
        Case(39, "encapsulated PDF", lambda: _report("1.2.840.10008.5.1.4.1.1.104.1"), "Q"),
        Case(40, "offset table that points outside", _lying_offsets, "Q"),
        Case(41, "float pixels", lambda: dicom_bytes(np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)), "A"),
        Case(41, "float pixels with NaN", lambda: dicom_bytes(np.full((16, 16), np.nan, np.float32)), "Q"),
        Case(41, "double pixels", lambda: dicom_bytes(np.linspace(0, 1, 256).reshape(16, 16)), "A", "32-bit floats"),
    ]


def _big_endian() -> bytes:
    ds = dicom_dataset()
    ds.PixelData = np.arange(256, dtype=">i2").tobytes()
    return written(ds, ExplicitVRBigEndian)


@dataclass(frozen=True)
class SeriesCase:
    """Several files of one series: how they must end and the words of a note that must come."""

    number: int
    name: str
    make: Callable[[], list[bytes]]
    end: str
    note: str = ""
    slices: int = 0

    @property
    def id(self) -> str:
        return f"{self.number:02d}-{self.name}"


def slice_bytes(position: float, uid: int, *, tilt: float = 0.0, **overrides: Any) -> bytes:
    """One axial slice of a series at `position` mm; its pixels all hold `uid` in the corner, to tell slices apart."""
    pixels = np.arange(256, dtype=np.int16).reshape(16, 16)
    pixels[0, 0] = uid
    settings: dict[str, Any] = {
        "SOPInstanceUID": f"1.2.826.0.1.3680043.8.498.9.{uid}",
        "InstanceNumber": uid,
        "ImagePositionPatient": [0, tilt * position, position],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [0.5, 0.25],
    }
    return dicom_bytes(overrides.pop("pixels", pixels), **{**settings, **overrides})


def series_cases() -> list[SeriesCase]:
    """Numbers 30 to 32 and their kin."""
    straight = [slice_bytes(5.0 * i, i + 1) for i in range(6)]
    other = np.ones((16, 16), np.int16)
    return [
        SeriesCase(30, "one identity, two contents", lambda: [*straight, slice_bytes(0, 1, pixels=other)], "Q"),
        SeriesCase(30, "an exact copy", lambda: [*straight, straight[2]], "A", "exact copies", 6),
        SeriesCase(
            31,
            "two sizes",
            lambda: [*straight, slice_bytes(30, 9, pixels=np.ones((8, 8), np.int16))],
            "A",
            "another size",
            6,
        ),
        SeriesCase(
            31,
            "two orientations",
            lambda: [*straight, slice_bytes(30, 9, ImageOrientationPatient=[0, 1, 0, 0, 0, -1])],
            "A",
            "another orientation",
            6,
        ),
        SeriesCase(
            31,
            "a localizer",
            lambda: [*straight, slice_bytes(30, 9, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])],
            "A",
            "localizers",
            6,
        ),
        SeriesCase(
            32, "a slice is missing", lambda: straight[:3] + straight[4:], "A", "about 1 slice(s) seem to be missing", 5
        ),
        SeriesCase(
            32,
            "unequal spacing",
            lambda: [slice_bytes(z, i + 1) for i, z in enumerate((0, 5, 9, 15, 18))],
            "A",
            "unevenly spaced",
            5,
        ),
        SeriesCase(
            32,
            "tilted gantry",
            lambda: [slice_bytes(5.0 * i, i + 1, tilt=0.2) for i in range(5)],
            "A",
            "tilted by about 11.3",
            5,
        ),
        SeriesCase(32, "two slices in one place", lambda: [*straight, slice_bytes(10, 9)], "A", "at the same place", 7),
        SeriesCase(
            32,
            "no positions",
            lambda: [slice_bytes(5.0 * i, i + 1, ImagePositionPatient=None) for i in range(4)],
            "A",
            "sorted by their number",
            4,
        ),
        SeriesCase(32, "one file is no scan", lambda: [*straight, b"nothing"], "A", "could not be read", 6),
    ]


# --- NIfTI, 42 to 55


def nifti_bytes(voxels: np.ndarray | None = None, packed: bool = False, **fields: Any) -> bytes:
    """A small valid NIfTI-1 file, with header fields replaced without any check."""
    data = np.arange(8 * 10 * 4, dtype=np.int16).reshape(8, 10, 4) if voxels is None else voxels
    header = Nifti1Header()
    header.set_data_dtype(data.dtype)
    header.set_data_shape(data.shape)
    header.set_sform(np.diag([1.0, 1.5, 2.0, 1.0]), 1)
    header["pixdim"][1:4] = (1.0, 1.5, 2.0)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    for name, value in fields.items():
        header[name] = value
    content = header.binaryblock + b"\0" * 4 + data.tobytes(order="F")
    return gzip.compress(content) if packed else content


def _huge_nifti() -> bytes:
    return nifti_bytes(dim=[3, 32767, 32767, 32767, 1, 1, 1, 1])[: 352 + 128]


def _nifti_bomb() -> bytes:
    """1 MB that unpacks to 1 GiB, and says so."""
    head = nifti_bytes(dim=[3, 1024, 1024, 512, 1, 1, 1, 1])[:352]
    return gzip.compress(head) + gzip.compress(bytes(2**20)) * 1024


def _nifti_before_a_bomb() -> bytes:
    """A small volume before 1 GiB of zeros that belong to nothing."""
    return gzip.compress(nifti_bytes()) + gzip.compress(bytes(2**20)) * 1024


def nifti_cases() -> list[Case]:
    """Numbers 42 to 55; 51 and 52 are about labels and belong to the import."""
    rgb = np.zeros((8, 10, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nan = np.full((8, 10, 4), np.nan, np.float32)
    return [
        Case(42, "32767^3 with 128 bytes", _huge_nifti, "R"),
        Case(43, "a side of 0", lambda: nifti_bytes(dim=[3, 8, 0, 4, 1, 1, 1, 1]), "R"),
        Case(44, "a negative side", lambda: nifti_bytes(dim=[3, 8, -10, 4, 1, 1, 1, 1]), "R"),
        Case(45, "1 MB that grows to 1 GiB", _nifti_bomb, "R"),
        Case(45, "a bomb behind the voxels", _nifti_before_a_bomb, "A"),
        Case(46, "packed and cut short", lambda: nifti_bytes(packed=True)[:-60], "R"),
        Case(46, "cut short", lambda: nifti_bytes()[:-60], "R"),
        Case(47, "PNG named nii", lambda: picture_bytes("PNG"), "A"),
        Case(48, "NaN in the affine", lambda: nifti_bytes(srow_x=[np.nan, 0, 0, 0]), "R"),
        Case(48, "an affine of zeros", lambda: nifti_bytes(srow_x=[0] * 4, srow_y=[0] * 4, srow_z=[0] * 4), "R"),
        Case(49, "slope infinite", lambda: nifti_bytes(scl_slope=np.inf, scl_inter=0), "R"),
        Case(50, "two volumes", lambda: nifti_bytes(np.zeros((8, 10, 4, 2), np.int16)), "R"),
        Case(50, "five dimensions", lambda: nifti_bytes(np.zeros((8, 10, 4, 2, 3), np.int16)), "R"),
        Case(50, "a fourth dimension of 1", lambda: nifti_bytes(np.ones((8, 10, 4, 1), np.int16) * 3), "A"),
        Case(53, "RGB", lambda: nifti_bytes(rgb), "A"),
        Case(54, "complex", lambda: nifti_bytes(np.zeros((8, 10, 4), np.complex64)), "R"),
        Case(54, "an unknown type of voxel", lambda: nifti_bytes(datatype=9999), "R"),
        Case(55, "header without its img", lambda: nifti_bytes(magic=b"ni1"), "R"),
        Case(55, "voxels of NaN", lambda: nifti_bytes(nan), "R"),
        Case(55, "voxels begin nowhere", lambda: nifti_bytes(vox_offset=np.nan), "R"),
    ]


# --- pictures, 56 to 70


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))


def png_bytes(
    lines: np.ndarray, depth: int, colour: int, extra: bytes = b"", filters: np.ndarray | None = None
) -> bytes:
    """A PNG written by hand: `lines` (rows, bytes per row) as they are packed, `extra` chunks before the pixels."""
    rows, width = lines.shape
    cols = width * 8 // (depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour])
    kinds = np.zeros((rows, 1), np.uint8) if filters is None else filters.reshape(-1, 1).astype(np.uint8)
    head = struct.pack(">LLBBBBB", cols, rows, depth, colour, 0, 0, 0)
    packed = zlib.compress(np.hstack([kinds, lines]).tobytes(), 1)
    parts = _chunk(b"IHDR", head), extra, _chunk(b"IDAT", packed), _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _one_bit(side: int) -> bytes:
    return png_bytes(np.zeros((side, -(-side // 8)), np.uint8), 1, 0)


def _text_chunk(size: int) -> bytes:
    text = b"Comment\0\1\0\0\0" + _zeros(zlib.MAX_WBITS, size >> 20)
    return png_bytes(np.zeros((16, 16), np.uint8), 8, 0, _chunk(b"iTXt", text))


def _profile_bomb() -> bytes:
    profile = b"icc\0\0" + _zeros(zlib.MAX_WBITS, 100)
    return png_bytes(np.zeros((16, 16), np.uint8), 8, 0, _chunk(b"iCCP", profile))


def _loop_tiff() -> bytes:
    data = bytearray(picture_bytes("TIFF"))
    first = int.from_bytes(data[4:8], "little")
    entries = int.from_bytes(data[first : first + 2], "little")
    at = first + 2 + 12 * entries
    data[at : at + 4] = struct.pack("<L", first)
    return bytes(data)


def _pages(shapes: list[tuple[int, int]]) -> bytes:
    file = io.BytesIO()
    pages = [Image.fromarray(np.full(shape, 10 * i, np.uint8)) for i, shape in enumerate(shapes)]
    pages[0].save(file, "TIFF", save_all=True, append_images=pages[1:])
    return file.getvalue()


def _animated(kind: str) -> bytes:
    file = io.BytesIO()
    pages = [Image.fromarray(np.full((16, 16), 100 * i, np.uint8)) for i in range(2)]
    pages[0].save(file, kind, save_all=True, append_images=pages[1:])
    return file.getvalue()


def _turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    ramp = np.repeat(np.arange(0, 240, 15, dtype=np.uint8)[:, None], 32, axis=1)
    return picture_bytes("PNG", ramp, exif=exif)


def _palette_with_alpha() -> bytes:
    image = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16), "L").convert("P")
    image.putpalette([value for i in range(256) for value in (i, 255 - i, 7)])
    file = io.BytesIO()
    image.save(file, "PNG", transparency=3)
    return file.getvalue()


def image_cases() -> list[Case]:
    """Numbers 56 to 70."""
    rgb = np.zeros((32, 32, 3), np.uint8)
    rgb[..., 0] = np.arange(32)
    grey16 = (np.arange(32 * 32, dtype=np.uint16) * 64).reshape(32, 32)
    cmyk = io.BytesIO()
    Image.fromarray(rgb).convert("CMYK").save(cmyk, "JPEG")
    svg = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
    others = {
        "FITS": b"SIMPLE  =                    T".ljust(2880),
        "PSD": b"8BPS\0\1" + b"\0" * 100,
        "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n",
        "GD": b"\xff\xfe" + b"\0\x10\0\x10\1" + b"\xff" * 300,
        "PDF": b"%PDF-1.7\n",
        "WMF": b"\xd7\xcd\xc6\x9a" + b"\0" * 100,
        "WebP": b"RIFF\x24\0\0\0WEBPVP8 ",
        "zip": b"PK\x03\x04" + b"\0" * 60,
        "HTML": b"<!DOCTYPE html><html></html>",
    }
    return [
        Case(56, "12000 x 12000 of one bit", lambda: _one_bit(12000), "R"),
        Case(57, "20000 x 20000", lambda: _one_bit(20000), "R"),
        Case(58, "PNG cut short", lambda: picture_bytes("PNG", rgb)[:-40], "Q"),
        Case(58, "JPEG cut short", lambda: picture_bytes("JPEG")[:300], "Q"),
        Case(58, "TIFF cut short", lambda: picture_bytes("TIFF")[:1500], "Q"),
        Case(58, "BMP cut short", lambda: picture_bytes("BMP")[:1500], "Q"),
        Case(59, "16-bit grey PNG", lambda: picture_bytes("PNG", grey16), "A"),
        Case(60, "CMYK JPEG", cmyk.getvalue, "A", "CMYK"),
        Case(61, "palette with transparency", _palette_with_alpha, "A", "laid over black"),
        Case(62, "animated GIF", lambda: _animated("GIF"), "R"),
        Case(62, "animated PNG", lambda: _animated("PNG"), "R"),
        Case(62, "JPEG with a preview behind it", lambda: _animated("MPO"), "A", "more pictures behind the first"),
        Case(62, "TIFF of three pages", lambda: _pages([(16, 16)] * 3), "A", "became slices"),
        Case(62, "TIFF pages of two sizes", lambda: _pages([(16, 16), (20, 16)]), "R"),
        Case(63, "turned by EXIF", _turned, "A", "upright"),
        Case(64, "1 x 1", lambda: picture_bytes("PNG", np.zeros((1, 1), np.uint8)), "R"),
        *[Case(65, f"{name} named png", partial(bytes, data), "R") for name, data in others.items()],
        Case(66, "SVG with a script", lambda: svg, "R"),
        Case(67, "PNG with 100 MB of text", lambda: _text_chunk(100_000_000), "R"),
        Case(68, "TIFF whose pages go in a circle", _loop_tiff, "Q"),
        Case(69, "ICC profile bomb", _profile_bomb, "Q"),
        Case(70, "all black", lambda: picture_bytes("PNG", np.zeros((32, 32), np.uint8)), "A", "blank"),
    ]
