"""NIfTI and NRRD volumes as readings, slice by slice, never the whole volume at once.

Slices are the planes of the third stored axis. Where the file says how it lies in the patient, each slice is turned so
that it looks like a DICOM slice of the same plane: columns run to the patient's left (sagittal: to the back), rows to
the back (coronal and sagittal: to the feet), and slices follow the DICOM normal (towards the head for axial ones).
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import itertools
import math
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from builder.scan import Grid, Header, Reading, Slice, Unreadable, Vector, check_size

_NIFTI_MAGIC = {344: (b"n+1\0", b"ni1\0"), 4: (b"n+2\0\r\n\x1a\n", b"ni2\0\r\n\x1a\n")}
MAX_RATIO = 500  # of a large packed volume; small ones, as masks, may shrink more
_SMALL_BYTES = 2**28
_MAX_HEADER_BYTES = 2**20
_CUT_SHORT = "The file is cut short: fewer voxels are there than its header says; copy or export it again."
_OTHER_FILE = (
    "The voxels of this {} header are in a second file, but one file was expected; save header and voxels as one file."
)


@dataclass(frozen=True)
class _Volume:
    """How the voxels lie in the file. `shape` is (i, j, k), fastest axis first; `matrix` (3, 3) takes voxel steps to
    mm in DICOM's left-posterior-superior space, `origin` is the first voxel's centre there; either may be None."""

    format: str
    shape: tuple[int, int, int]
    dtype: np.dtype
    channels: int
    at: int
    packing: str
    matrix: np.ndarray | None
    steps_mm: tuple[float | None, float | None, float | None]
    slope: float
    intercept: float
    origin: np.ndarray | None = None
    notes: tuple[str, ...] = ()


def is_nifti(head: bytes) -> bool:
    """True for the first bytes of an (unpacked) NIfTI-1 or NIfTI-2 file."""
    return head[344:348] in _NIFTI_MAGIC[344] or head[4:12] in _NIFTI_MAGIC[4]


def is_nrrd(head: bytes) -> bool:
    """True for the first bytes of an NRRD file."""
    return head[:7] == b"NRRD000"


def head_of(path: Path, length: int) -> bytes:
    """The first `length` bytes, unpacked when the file is gzip."""
    with open(path, "rb") as stream:
        head = stream.read(length)
        if head[:2] == b"\x1f\x8b":
            stream.seek(0)
            try:
                return gzip.GzipFile(fileobj=stream).read(length)
            except (OSError, EOFError, zlib.error):
                return b""
    return head


def read_header(path: Path) -> Header:
    """Size and spacing of a volume. Raises Unreadable."""
    volume = _open(path)
    turned = _Turn(volume)
    z, y, x = turned.spacing_mm
    return Header(
        format=volume.format,
        modality="",
        rows=turned.rows,
        cols=turned.cols,
        slices=volume.shape[2],
        channels=volume.channels,
        bits=volume.dtype.itemsize * 8,
        photometric="RGB" if volume.channels == 3 else "MONOCHROME2",
        spacing_mm=(z, y, x),
    )


def read(path: Path, like: Path | None = None) -> Reading:
    """A volume. Raises Unreadable, here or while the slices are read.

    Args:
        like: the volume that this one is a mask of. Where only one of the two says how it lies in the patient, their
            voxels are taken to be stored alike, so that both are turned in the same way.
    """
    volume = _open(path)
    if like is not None:
        scan = _open(like)
        if (scan.matrix is None) != (volume.matrix is None):
            volume = replace(volume, matrix=scan.matrix, origin=None)
    turn = _Turn(volume)
    return Reading(
        format=volume.format,
        num_slices=volume.shape[2],
        slices=_slices(path, volume, turn),
        spacing_mm=turn.spacing_mm,
        photometric="RGB" if volume.channels >= 3 else "MONOCHROME2",
        bits=min(volume.dtype.itemsize * 8, 32),
        notes=[*volume.notes, *turn.notes],
        grid=turn.grid(volume),
    )


def _open(path: Path) -> _Volume:
    volume = _nrrd(path) if is_nrrd(head_of(path, 16)) else _nifti(path)
    check_size(volume.shape[1], volume.shape[0], volume.shape[2], volume.channels, volume.dtype.itemsize)
    if volume.dtype.kind not in "uif" or volume.dtype.itemsize > 8:
        raise Unreadable(
            "The voxels are of an unusual type (complex, 128-bit or mixed), but grey or RGB values were expected; "
            "convert the volume to 16-bit integers or 32-bit floats."
        )
    there = os.stat(path).st_size
    voxels = math.prod(volume.shape) * volume.channels * volume.dtype.itemsize
    if volume.packing == "raw" and there - volume.at < voxels:
        raise Unreadable(_CUT_SHORT)
    if volume.packing != "raw" and voxels > max(_SMALL_BYTES, MAX_RATIO * there):
        raise Unreadable(
            f"The voxels would grow to more than {MAX_RATIO} times the size of the file; it is damaged or malicious."
        )
    return volume


class _Turn:
    """How stored planes are turned into slices as DICOM would show them."""

    def __init__(self, volume: _Volume):
        self.notes: list[str] = []
        i, j, k = volume.steps_mm
        self.swap, self.flip_rows, self.flip_cols, self.reverse = True, False, False, False
        if volume.matrix is not None:
            self._along(volume.matrix)
        elif volume.format == "nifti" or volume.shape[2] > 1:
            self.notes.append("The file does not say how it lies in the patient: left and right are not known.")
        self.rows, self.cols = (volume.shape[1], volume.shape[0]) if self.swap else volume.shape[:2]
        self.spacing_mm = (k, j, i) if self.swap else (k, i, j)

    def _along(self, matrix: np.ndarray) -> None:
        unit = matrix / np.linalg.norm(matrix, axis=0)
        # the patient axis each stored axis runs along, and in which direction; best of the six assignments
        axes = max(itertools.permutations(range(3)), key=lambda p: sum(abs(unit[p[a], a]) for a in range(3)))
        signs = [1 if unit[axes[a], a] > 0 else -1 for a in range(3)]
        if min(abs(unit[axes[a], a]) for a in range(3)) < 0.99:
            self.notes.append("The slices are oblique: they are shown as stored, not resampled.")
        # wanted direction of rows' columns (x of the picture) and of its rows (y), by plane: axial, coronal, sagittal
        plane = axes[2]
        across, down = {2: (0, 1), 1: (0, 2), 0: (1, 2)}[plane]
        self.swap = axes[0] == across
        across_sign, down_sign = (signs[0], signs[1]) if self.swap else (signs[1], signs[0])
        self.flip_cols = across_sign < 0
        self.flip_rows = down_sign < 0 if down == 1 else down_sign > 0  # superior-inferior is shown head up
        # DICOM normal of that picture: x (+) cross y; axial: L x P = S; coronal: L x I = P; sagittal: P x I = R
        towards = {2: 1, 1: 1, 0: -1}[plane]
        self.reverse = signs[2] != towards

    def grid(self, volume: _Volume) -> Grid | None:
        """Where the turned slices lie in the patient, None where the file does not say."""
        if volume.matrix is None or volume.origin is None:
            return None
        across, down = (0, 1) if self.swap else (1, 0)
        origin = np.array(volume.origin, float)
        steps = {}
        for axis, flipped in ((2, self.reverse), (down, self.flip_rows), (across, self.flip_cols)):
            way = volume.matrix[:, axis]
            origin = origin + (volume.shape[axis] - 1) * way if flipped else origin
            steps[axis] = -way if flipped else way
        return Grid(_vector(origin), (_vector(steps[2]), _vector(steps[down]), _vector(steps[across])))

    def apply(self, plane: np.ndarray) -> np.ndarray:
        """(C, i, j) as stored -> (C, rows, cols)."""
        if self.swap:
            plane = plane.transpose(0, 2, 1)
        return np.ascontiguousarray(plane[:, :: -1 if self.flip_rows else 1, :: -1 if self.flip_cols else 1])

    def back(self, plane: np.ndarray) -> np.ndarray:
        """(C, rows, cols) -> (C, i, j) as stored: the inverse of `apply`."""
        plane = plane[:, :: -1 if self.flip_rows else 1, :: -1 if self.flip_cols else 1]
        return plane.transpose(0, 2, 1) if self.swap else plane


def stored(path: Path, pixels: np.ndarray) -> np.ndarray:
    """Slices (S, C, rows, cols) of a scan that was read from `path`, or finer ones, as its voxels lie in that file:
    (C, i, j, k), its scaling taken back where the file scales whole numbers (else the values as they are)."""
    volume = _open(path)
    turn = _Turn(volume)
    planes = [turn.back(plane) for plane in (pixels[::-1] if turn.reverse else pixels)]
    found = np.stack(planes, axis=-1)
    if volume.slope == 1 and volume.intercept == 0:
        return found
    values = (found.astype(np.float64) - volume.intercept) / volume.slope
    if volume.dtype.kind not in "ui":
        return values.astype(volume.dtype)
    limits = np.iinfo(volume.dtype)
    return np.rint(values).clip(limits.min, limits.max).astype(volume.dtype)


def _vector(values: np.ndarray) -> Vector:
    x, y, z = (float(value) for value in values)
    return x, y, z


def _slices(path: Path, volume: _Volume, turn: _Turn) -> Iterator[Slice]:
    i, j, k = volume.shape
    size = i * j * volume.channels * volume.dtype.itemsize
    with open(path, "rb") as raw:
        stream = _unpacked(raw, volume)
        for index in range(k):
            data = _exactly(stream, size)
            plane = np.frombuffer(data, volume.dtype).reshape(j, i, volume.channels).transpose(2, 1, 0)
            pixels = turn.apply(plane)
            if not pixels.dtype.isnative:
                pixels = pixels.astype(pixels.dtype.newbyteorder("="))
            if volume.slope != 1 or volume.intercept != 0:
                pixels = _scaled(pixels, volume.slope, volume.intercept)
            yield Slice(k - 1 - index if turn.reverse else index, pixels[:3])


def _scaled(pixels: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    whole = slope.is_integer() and intercept.is_integer() and pixels.dtype.kind in "ui" and pixels.dtype.itemsize <= 2
    if whole and abs(slope) < 2**14 and abs(intercept) < 2**30:
        return pixels.astype(np.int32) * np.int32(slope) + np.int32(intercept)
    return (pixels * slope + intercept).astype(np.float32)


def _unpacked(raw: BinaryIO, volume: _Volume) -> Any:
    if volume.packing == "nifti-gzip":
        stream = gzip.GzipFile(fileobj=raw)
        _exactly(stream, volume.at)
        return stream
    raw.seek(volume.at)
    if volume.packing == "gzip":
        return gzip.GzipFile(fileobj=raw)
    if volume.packing == "bzip2":
        return bz2.BZ2File(raw)
    return raw


def _exactly(stream: Any, size: int) -> bytes:
    """`size` bytes. Never asks a stream for more, so a bomb cannot grow."""
    data = b""
    with contextlib.suppress(OSError, EOFError, zlib.error):
        data = stream.read(size)
    if len(data) != size:
        raise Unreadable(_CUT_SHORT)
    return data


# --- NIfTI


def nifti_image(path: Path) -> Any:
    """The NIfTI file as nibabel has it, told by its content, not its name; voxels are not read. Raises Unreadable.

    An upload or a file out of a zip lies under a name of our own, which `nibabel.load` would refuse.
    """
    from nibabel.nifti1 import Nifti1Image
    from nibabel.nifti2 import Nifti2Image
    from nibabel.spatialimages import HeaderDataError

    kind = Nifti1Image if head_of(path, 348)[344:] in _NIFTI_MAGIC[344] else Nifti2Image
    with open(path, "rb") as raw:
        try:
            return kind.from_stream(gzip.GzipFile(fileobj=raw) if _is_gzip(path) else raw)
        except HeaderDataError:
            raise Unreadable("The NIfTI header contradicts itself; export the file again.") from None


def _nifti(path: Path) -> _Volume:
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    head = head_of(path, 544)
    magic = head[344:348]
    if magic == b"ni1\0" or head[4:12] == b"ni2\0\r\n\x1a\n":
        raise Unreadable(_OTHER_FILE.format("NIfTI"))
    kind, length = (Nifti1Header, 348) if magic == b"n+1\0" else (Nifti2Header, 540)
    header = kind(head[:length].ljust(length, b"\0"), check=False)
    dim = [int(size) for size in header["dim"]]
    if not 2 <= dim[0] <= 7 or any(size < 1 for size in dim[1 : dim[0] + 1]):
        raise Unreadable("The NIfTI header has an impossible size (zero or negative); it is damaged: export it again.")
    shape = dim[1 : dim[0] + 1]
    notes: list[str] = []
    if len(shape) == 5 and shape[3] == 1 and shape[4] == 3 and header["intent_code"] != 1007:
        raise Unreadable("This NIfTI file has three values per voxel (a vector), but grey values were expected.")
    if math.prod(shape[3:]) != 1:
        raise Unreadable(
            f"This NIfTI file holds {math.prod(shape[3:])} volumes ({len(shape)}-D), but one was expected; "
            "save the one you need as its own file."
        )
    i, j, k = (*shape, 1, 1)[:3] if len(shape) > 2 else (*shape, 1)
    code = int(header["datatype"])
    channels = {128: 3, 2304: 4}.get(code, 1)
    if channels == 4:
        notes.append("The transparency of the voxels was left out.")
    if channels > 1:
        dtype = np.dtype(np.uint8)
    else:
        try:
            dtype = header.get_data_dtype()
        except Exception:  # an unknown type code raises several kinds; "V1" is refused in words further down
            dtype = np.dtype("V1")
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    scaled = not math.isnan(slope) and slope != 0
    if math.isinf(slope) or math.isinf(intercept) or (scaled and math.isnan(intercept)):
        raise Unreadable("The NIfTI header scales the voxels by something that is no number; correct scl_slope.")
    if not scaled:  # the standard: no scaling
        slope, intercept = 1.0, 0.0
    steps = [abs(float(size)) for size in header["pixdim"][1:4]]
    if not all(map(math.isfinite, steps[: min(3, len(shape))])):
        raise Unreadable("The voxel size in the NIfTI header is no number; correct pixdim or export the file again.")
    unit = {1: 1000.0, 3: 0.001}.get(int(header["xyzt_units"]) & 7, 1.0)
    spacing = tuple(step * unit if step > 0 else None for step in steps)
    at = float(header["vox_offset"])
    if not math.isfinite(at) or not length <= at <= 2**31:
        raise Unreadable("The NIfTI header does not say where the voxels begin; it is damaged: export it again.")
    gz = _is_gzip(path)
    matrix, origin = _nifti_space(header)
    return _Volume(
        "nifti", (i, j, k), dtype, channels, int(at), "nifti-gzip" if gz else "raw", matrix,
        (spacing[0], spacing[1], spacing[2]), slope, intercept, origin, tuple(notes),
    )  # fmt: skip


def _is_gzip(path: Path) -> bool:
    with open(path, "rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


def _nifti_space(header: Any) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Voxel steps and origin in left-posterior-superior mm, from the sform, else the qform; None without either.

    Raises Unreadable when they are not finite.
    """
    if int(header["sform_code"]) > 0:
        affine = np.array([header["srow_x"], header["srow_y"], header["srow_z"]], float)
    elif int(header["qform_code"]) > 0:
        quaternion = [float(header[name]) for name in ("quatern_b", "quatern_c", "quatern_d")]
        if not all(map(math.isfinite, quaternion)) or sum(value**2 for value in quaternion) > 1.01:
            raise _no_direction("NIfTI")
        # The standard: what is not negative counts as 1 (most often 0: never set); lengths have no sign.
        header["pixdim"][0] = -1 if header["pixdim"][0] < 0 else 1
        header["pixdim"][1:4] = np.abs(header["pixdim"][1:4])
        affine = np.asarray(header.get_qform()[:3], float)
    else:
        return None, None
    unit = {1: 1000.0, 3: 0.001}.get(int(header["xyzt_units"]) & 7, 1.0)
    affine = affine * np.array([[-unit], [-unit], [unit]])  # RAS to LPS
    matrix, origin = _checked(affine[:, :3], "NIfTI"), affine[:, 3]
    return matrix, origin if np.isfinite(origin).all() else None


def _checked(matrix: np.ndarray, kind: str) -> np.ndarray:
    if not np.isfinite(matrix).all() or np.linalg.norm(matrix, axis=0).min() < 1e-9:
        raise _no_direction(kind)
    return matrix


def _no_direction(kind: str) -> Unreadable:
    return Unreadable(
        f"The {kind} header says nothing sensible about how the volume lies in space (affine with NaN or zero); "
        "correct it or export the file again."
    )


# --- NRRD


def _nrrd(path: Path) -> _Volume:
    import nrrd

    with open(path, "rb") as stream:
        if b"\n\n" not in (start := stream.read(_MAX_HEADER_BYTES)) and b"\r\n\r\n" not in start:
            raise Unreadable("The NRRD header has no end; the file is damaged: export it again.")
        stream.seek(0)
        header: dict[str, Any] | None = None
        try:
            header = nrrd.read_header(stream)
        except Exception:  # pynrrd raises whatever its parsing meets; None is refused in words below
            header = None
        at = stream.tell()
    if header is None:
        raise Unreadable("The NRRD header is damaged; export the file again.")
    if "data file" in header or "datafile" in header:
        raise Unreadable(_OTHER_FILE.format("NRRD"))
    packing = str(header.get("encoding", "")).lower()
    packing = {"gz": "gzip", "bz2": "bzip2"}.get(packing, packing)
    if packing not in ("raw", "gzip", "bzip2") or header.get("line skip") or header.get("byte skip"):
        raise Unreadable("The voxels of this NRRD file are stored unusually; save it with raw or gzip encoding.")
    sizes = [int(size) for size in header.get("sizes", ())]
    if not sizes or min(sizes) < 1 or len(sizes) != header.get("dimension"):
        raise Unreadable("The NRRD header has an impossible size; the file is damaged: export it again.")
    directions = np.atleast_2d(header.get("space directions", np.empty((0, 0))))
    spacings = list(header.get("spacings", [math.nan] * len(sizes)))
    channels = 1
    kind = value_axis(header)
    if kind:
        channels = sizes[0]
        sizes, spacings = sizes[1:], spacings[1:]
        directions = directions[1:] if len(directions) > len(sizes) else directions
    if channels not in (1, 3, 4) or (channels != 1 and "color" not in kind):
        raise Unreadable("This NRRD file has several values per voxel, but grey or RGB values were expected.")
    if math.prod(sizes[3:]) != 1 or len(sizes) < 2:
        raise Unreadable(
            f"This NRRD file is {len(sizes)}-dimensional, but one 3-D volume or a picture was expected; "
            "save the volume you need as its own file."
        )
    i, j, k = sizes[:3] if len(sizes) > 2 else (*sizes, 1)
    matrix, steps, origin = _nrrd_space(header, directions, spacings)
    return _Volume(
        "nrrd", (i, j, k), _nrrd_dtype(header), channels, at, packing, matrix, steps, 1.0, 0.0, origin,
        ("The transparency of the voxels was left out.",) if channels == 4 else (),
    )  # fmt: skip


def value_axis(header: Mapping[str, Any]) -> str:
    """The kind of the first axis of an NRRD header where it holds the values of a voxel; "" where it lies in space."""
    kind = str(next(iter(header.get("kinds", ())), ""))
    return kind if kind in ("RGB-color", "RGBA-color", "vector", "list", "3-color", "4-color", "3-vector") else ""


def _nrrd_dtype(header: dict[str, Any]) -> np.dtype:
    import nrrd.reader

    try:
        return np.dtype(nrrd.reader._determine_datatype(header))
    except Exception:  # a missing or unknown type raises several kinds; "V1" is refused in words by the caller
        return np.dtype("V1")


def _nrrd_space(
    header: dict[str, Any], directions: np.ndarray, spacings: list[float]
) -> tuple[np.ndarray | None, tuple[float | None, float | None, float | None], np.ndarray | None]:
    """Voxel steps in left-posterior-superior mm, their lengths, and the origin; None for what the header leaves out."""
    signs = {
        "left-posterior-superior": (1, 1, 1), "lps": (1, 1, 1), "right-anterior-superior": (-1, -1, 1),
        "ras": (-1, -1, 1), "left-anterior-superior": (1, -1, 1), "las": (1, -1, 1),
    }.get(str(header.get("space", "")).lower())  # fmt: skip
    if directions.shape[:1] >= (3,) and directions.shape[1] == 3:
        matrix = _checked(np.array(directions[:3], float).T, "NRRD")
        lengths = [float(length) for length in np.linalg.norm(matrix, axis=0)]
        turned = matrix * np.array(signs, float)[:, None] if signs else None
        told = np.asarray(header.get("space origin", np.nan), float)
        known = signs is not None and told.shape == (3,) and bool(np.isfinite(told).all())
        origin = told * np.array(signs, float) if known else None
        return turned, (lengths[0], lengths[1], lengths[2]), origin
    steps = [float(step) if math.isfinite(step) and step > 0 else None for step in (*spacings, math.nan)[:3]]
    steps += [None] * (3 - len(steps))
    return None, (steps[0], steps[1], steps[2]), None
