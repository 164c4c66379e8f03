"""One reader for scans: PNG, JPEG, BMP, TIFF, DICOM, NIfTI and NRRD, told apart by content and never by name.

`read`, `read_header` and `read_series` raise `Unreadable` with one plain sentence for anything that is no scan; no
value out of a file gets into a reason, a note, a log or a warning. Files of strangers are read through `sandbox`.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from builder import dicom, dicom_file, pictures, segmentation, series, volumes
from builder.scan import (
    NAMED_WINDOWS,
    WINDOWS,
    Header,
    Reading,
    Scan,
    Slice,
    Unreadable,
    Window,
    collect,
    display,
)

__all__ = [
    "NAMED_WINDOWS", "WINDOWS", "Header", "Reading", "Scan", "Slice", "Unreadable", "Window", "collect", "display",
    "open_mask", "open_scan", "open_series", "read", "read_header", "read_series",
]  # fmt: skip

_T = TypeVar("_T")
_HEAD_BYTES = 1024
_READABLE = "a PNG, JPEG, BMP, TIFF, DICOM, NIfTI or NRRD file was expected"
_DAMAGED = "The file is damaged or uses an unusual variant of its format and cannot be decoded; export it again."
TOO_MUCH_MEMORY = "The file needs more memory to decode than is allowed; it may be damaged or malicious."
_OTHER_KINDS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"GIF8", "a GIF animation"),
    (0, b"%PDF", "a PDF document"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"PK\x05\x06", "an empty zip archive"),
    (0, b"Rar!", "a RAR archive"),
    (0, b"7z\xbc\xaf", "a 7z archive"),
    (257, b"ustar", "a tar archive"),
    (0, b"\x1f\x8b", "a gzip archive without a NIfTI volume in it"),
    (0, b"BZh", "a bzip2 archive"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"%!PS", "a PostScript file"),
    (0, b"SIMPLE  =", "a FITS file"),
    (0, b"\x89HDF", "an HDF5 file"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"RIFF", "a RIFF file (WebP, AVI or WAV)"),
    (0, b"\0\0\0\x0cjP", "a bare JPEG 2000 file"),
    (0, b"\xff\x4f\xff\x51", "a bare JPEG 2000 file"),
    (4, b"ftyp", "an MP4, HEIC or AVIF file"),
    (0, b"MZ", "a Windows program"),
    (0, b"\x7fELF", "a program"),
    (0, b"ObjectType", "a MetaImage file"),
    (0, b"SQLite", "a database"),
)  # fmt: skip


def read(path: Path | str) -> Scan:
    """One file as a scan; the frames, pages or planes it has are its slices. Raises Unreadable."""
    return _told(lambda: collect(open_scan(path)))


def read_series(paths: Sequence[Path | str]) -> Scan:
    """The DICOM files of one series as one scan, sorted by position along the slice normal. Raises Unreadable.

    The notes tell what was left out (other sizes, orientations, localizers, copies), gaps, uneven spacing and tilt.
    """
    return _told(lambda: collect(open_series(paths)))


def read_header(path: Path | str) -> Header:
    """What can be told about a file without decoding its pixels. Raises Unreadable."""

    def header() -> Header:
        kind = recognise(Path(path))
        return {"dicom": dicom, "nifti": volumes, "nrrd": volumes, "picture": pictures}[kind].read_header(Path(path))

    return _told(header)


def open_scan(path: Path | str) -> Reading:
    """As `read`, but slice by slice: the facts now, the pixels while `slices` is walked through."""
    path = Path(path)
    kind = _told(lambda: recognise(path))
    reader = {"dicom": dicom.read, "nifti": volumes.read, "nrrd": volumes.read, "picture": pictures.read}[kind]
    return _watched(_told(lambda: reader(path)))


def open_series(paths: Sequence[Path | str]) -> Reading:
    """As `read_series`, but slice by slice."""

    def reading() -> Reading:
        files = [Path(path) for path in paths]
        kinds = []
        for file in files:
            try:
                kinds.append(recognise(file))
            except Unreadable:
                kinds.append("dicom")  # read_series counts it among the unreadable files
        if len(files) == 1 and kinds[0] != "dicom":
            return open_scan(files[0])
        if set(kinds) - {"dicom"}:
            raise Unreadable(
                f"These are {len(files)} files, and not all are DICOM: drop one picture, or all files of one DICOM "
                "series."
            )
        return series.read_series(files)

    return _watched(_told(reading))


def open_mask(path: Path | str, of: Sequence[Path | str]) -> Reading:
    """As `open_scan`, for a file that outlines something on the scan which the files `of` hold.

    Numbers of palette colours stay numbers; a DICOM segmentation is laid onto the slices of its series.
    """
    path, scan = Path(path), [Path(file) for file in of]

    def reading() -> Reading:
        kind = recognise(path)
        if kind == "picture":
            return pictures.read(path, as_mask=True)
        if kind in ("nifti", "nrrd"):
            like = scan[0] if len(scan) == 1 and recognise(scan[0]) in ("nifti", "nrrd") else None
            return volumes.read(path, like)
        if dicom.read_header(path).modality == "SEG":
            if any(recognise(file) != "dicom" for file in scan):
                raise Unreadable("It is a DICOM segmentation, but its scan is no DICOM series.")
            return segmentation.read(path, scan)
        return dicom.read(path)

    return _watched(_told(reading))


def recognise(path: Path) -> str:
    """ "dicom", "nifti", "nrrd" or "picture", by the first bytes. Raises Unreadable for anything else, by its name."""
    head = None
    with contextlib.suppress(OSError):
        if path.is_file():  # a named pipe would wait for ever
            with open(path, "rb") as stream:
                head = stream.read(_HEAD_BYTES)
    if head is None:
        raise Unreadable("The file could not be opened: it is gone or may not be read; choose it again.")
    if not head:
        raise Unreadable(f"The file is empty, but {_READABLE}; copy it again.")
    if dicom_file.is_dicom(head):
        return "dicom"
    if pictures.is_picture(head):
        return "picture"
    if volumes.is_nrrd(head):
        return "nrrd"
    if volumes.is_nifti(head) or volumes.is_nifti(volumes.head_of(path, 544)):
        return "nifti"
    raise Unreadable(_told_apart(head))


def _told_apart(head: bytes) -> str:
    for at, magic, words in _OTHER_KINDS:
        if head[at : at + len(magic)] == magic:
            return f"This is {words}, but {_READABLE}; convert or unpack it first."
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:256].lower()
    if b"<svg" in head.lower() or start.startswith((b"<?xml", b"<!doctype", b"<html")):
        return f"This is an SVG drawing or a web page, but {_READABLE}; export the picture itself."
    if head[:2] in (b"\x08\0", b"\x02\0") and (head[4:6].isalpha() or head[6:8] == b"\0\0"):
        return (
            "This looks like DICOM data without the file header (128 bytes and the letters DICM); "
            "export it again as a DICOM Part 10 file."
        )
    if int.from_bytes(head[:4], "little") == 348 or int.from_bytes(head[:4], "big") == 348:
        return "This is an Analyze 7.5 header, but a NIfTI file was expected; convert it to .nii."
    if all(byte in b"\t\r\n\f\x1b" or byte >= 32 for byte in head) and b"\x7f" not in head:
        return f"This is a text file, but {_READABLE}; choose the scan itself."
    return f"The content is of no known kind, but {_READABLE}; export it again in one of these formats."


def _told(work: Callable[[], _T]) -> _T:
    """What `work` returns; any failure as Unreadable. Failures and warnings may quote the file: none gets out."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return work()
    except Unreadable:
        raise
    except MemoryError:
        reason = TOO_MUCH_MEMORY
    except Exception:  # the libraries raise many kinds on damaged files, with texts that may quote them
        reason = _DAMAGED
    raise Unreadable(reason)


def _watched(reading: Reading) -> Reading:
    slices = reading.slices

    def watched() -> Iterator[Slice]:
        while (piece := _told(lambda: next(slices, None))) is not None:
            yield piece

    reading.slices = watched()
    return reading
