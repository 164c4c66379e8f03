"""What a scan is once it has been read, and how it becomes a picture.

A reader (`dicom`, `volumes`, `pictures`) hands back a `Reading`: facts first, then slices one at a time, so that a big
volume can be written to disk while it is decoded. `collect` turns a `Reading` into a `Scan` in memory; the sandbox
writes it to a file. `display` is the only place where a window is applied.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

MAX_DECODED_BYTES = 2 * 10**9
MAX_SLICE_PIXELS = 100_000_000
MIN_SIDE_PX = 4
NAMED_WINDOWS = {
    "ct lung": (-600.0, 1500.0),
    "ct soft tissue": (40.0, 400.0),
    "ct brain": (40.0, 80.0),
    "ct bone": (480.0, 2500.0),
    "ct full": (1024.0, 4096.0),  # -1024 to 3071 HU, all that 12 bits hold: nothing is lost, and every step is the same
}
WINDOWS = ("auto", "stored range", "percentile", *NAMED_WINDOWS)
_PERCENTILES = (0.5, 99.5)
_PERCENTILE_SAMPLE = 2_000_000


class Unreadable(Exception):
    """A file that cannot become a scan. `reason` is one plain sentence without any value out of the file."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason

    def __reduce__(self):
        return Unreadable, (self.reason,)


@dataclass(frozen=True)
class Window:
    """One grey-scale window of a file, in units after the modality rescale (DICOM PS3.3 C.11.2).

    `function` is LINEAR, LINEAR_EXACT, SIGMOID or TABLE. A TABLE (VOI LUT) maps `center - width/2 .. center + width/2`
    to the values of `table`, each in 0..1.
    """

    center: float
    width: float
    function: str = "LINEAR"
    name: str = ""
    table: tuple[float, ...] = ()


Vector = tuple[float, float, float]


@dataclass(frozen=True)
class Grid:
    """Where the pixels of a scan lie in the patient: mm in DICOM's left-posterior-superior space (PS3.3 C.7.6.2).

    Attributes:
        origin: centre of the pixel in slice 0, row 0, column 0.
        steps: the ways from one slice, row and column to the next.
        origins: of every slice, where these are not evenly spaced; else ().
    """

    origin: Vector
    steps: tuple[Vector, Vector, Vector]
    origins: tuple[Vector, ...] = ()

    def at(self, places: np.ndarray) -> np.ndarray:
        """The points in mm, float64 (N, 3), of places (N, 3): slice, row, column; slices are whole where uneven."""
        places = np.asarray(places, float)
        if not self.origins:
            return np.array(self.origin) + places @ np.array(self.steps)
        starts = np.array(self.origins)[np.rint(places[:, 0]).astype(int)]
        return starts + places[:, 1:] @ np.array(self.steps[1:])

    def to_json(self) -> dict[str, Any]:
        """Plain data for json.dumps, in millionths of a millimetre."""

        def short(vectors: Sequence[Vector]) -> list[list[float]]:
            return [[round(float(part), 6) for part in vector] for vector in vectors]

        found: dict[str, Any] = {"origin": short([self.origin])[0], "steps": short(self.steps)}
        return {**found, "origins": short(self.origins)} if self.origins else found

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Grid:
        """Reads `to_json`."""

        def vector(parts: Sequence[float]) -> Vector:
            x, y, z = parts
            return float(x), float(y), float(z)

        slices, rows, columns = found["steps"]
        return cls(
            vector(found["origin"]),
            (vector(slices), vector(rows), vector(columns)),
            tuple(vector(parts) for parts in found.get("origins", ())),
        )


@dataclass(frozen=True)
class Header:
    """What can be told without decoding pixels. Lengths in mm. `patient`, `study`, `series` and `instance` are raw."""

    format: str
    modality: str = ""
    rows: int = 0
    cols: int = 0
    slices: int = 1
    channels: int = 1
    bits: int = 8
    photometric: str = "MONOCHROME2"
    position: float | None = None  # along the normal of the slice, mm
    origin: tuple[float, ...] | None = None  # ImagePositionPatient
    orientation: tuple[float, ...] | None = None  # ImageOrientationPatient: along a row, down a column
    spacing_mm: tuple[float | None, float | None, float | None] = (None, None, None)
    number: int | None = None  # InstanceNumber: only to order pictures that have no position
    localizer: bool = False
    patient: str | None = None
    study: str | None = None
    series: str | None = None
    instance: str | None = None
    outlines: tuple[str, ...] = ()  # of a segmentation: the SOP instance UIDs of the images it was drawn on
    body: str = ""  # BodyPartExamined


@dataclass(frozen=True)
class Scan:
    """Decoded pixels and what must be known about them.

    pixels: (S, C, H, W), stored values after the modality rescale (Hounsfield units for CT); uint8, uint16, int16 or
    float32, never fewer bits than the source has. spacing_mm: (z, y, x), None where the file does not say. valid:
    (S, H, W) bool, False where the file marks padding, or None. patient, study, series are raw identities. grid: where
    it lies in the patient, where the file says so. order: for a series, which of the files each slice came from. names:
    of a mask, (value, name) of the structures that its file names. body: the part of the body, a short code such as
    "CHEST", "" where the file does not say. attributes: what may be kept of person, machine and place (see
    `attributes`); unnumbered: raw names of them, which an import turns into numbers and nobody writes down.
    """

    pixels: np.ndarray
    spacing_mm: tuple[float | None, float | None, float | None] = (None, None, None)
    modality: str = ""
    photometric: str = "MONOCHROME2"
    bits: int = 8
    windows: tuple[Window, ...] = ()
    patient: str | None = None
    study: str | None = None
    series: str | None = None
    format: str = ""
    notes: tuple[str, ...] = ()
    valid: np.ndarray | None = None
    grid: Grid | None = None
    order: tuple[int, ...] = ()
    names: tuple[tuple[int, str], ...] = ()
    body: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    unnumbered: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Slice:
    """One decoded slice: where it belongs, its pixels (C, H, W) and which of them are no padding (H, W)."""

    index: int
    pixels: np.ndarray
    valid: np.ndarray | None = None


@dataclass
class Reading:
    """A scan in the act of being read: facts, and `slices` still to be decoded. `notes` may grow while they are."""

    format: str
    num_slices: int
    slices: Iterator[Slice]
    spacing_mm: tuple[float | None, float | None, float | None] = (None, None, None)
    modality: str = ""
    photometric: str = "MONOCHROME2"
    bits: int = 8
    windows: tuple[Window, ...] = ()
    patient: str | None = None
    study: str | None = None
    series: str | None = None
    notes: list[str] = field(default_factory=list)
    grid: Grid | None = None
    order: tuple[int, ...] = ()
    names: tuple[tuple[int, str], ...] = ()
    body: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    unnumbered: Mapping[str, str] = field(default_factory=dict)

    def scan(self, pixels: np.ndarray, valid: np.ndarray | None) -> Scan:
        """The finished scan, with the pixels that were decoded meanwhile."""
        return Scan(
            pixels,
            self.spacing_mm,
            self.modality,
            self.photometric,
            self.bits,
            self.windows,
            self.patient,
            self.study,
            self.series,
            self.format,
            tuple(dict.fromkeys(self.notes)),
            valid,
            self.grid,
            self.order,
            self.names,
            self.body,
            self.attributes,
            self.unnumbered,
        )


def compact(pixels: np.ndarray) -> np.ndarray:
    """The same values as uint8, uint16, int16 or float32, whichever is the smallest that holds them.

    8-bit stays 8-bit and unsigned 16-bit stays unsigned; other integers become int16 or uint16 when they fit, else
    float32. Raises Unreadable for values that are no numbers and for complex ones.
    """
    kind, size = pixels.dtype.kind, pixels.dtype.itemsize
    if kind == "b" or (kind == "u" and size == 1):
        return pixels.astype(np.uint8, copy=False)
    if size == 2 and kind in "ui":
        return pixels.astype(np.uint16 if kind == "u" else np.int16, copy=False)
    if kind in "ui":
        low, high = (int(pixels.min()), int(pixels.max())) if pixels.size else (0, 0)
        if low >= -(2**15) and high < 2**15:
            return pixels.astype(np.int16)
        if low >= 0 and high < 2**16:
            return pixels.astype(np.uint16)
        return pixels.astype(np.float32)
    if kind == "f":
        with np.errstate(over="ignore"):
            values = pixels.astype(np.float32, copy=False)
        if not np.isfinite(values).all():
            raise Unreadable(
                "Some pixel values are not numbers (NaN or infinite), but every pixel must have a value; "
                "replace them and save the scan again."
            )
        return values
    raise Unreadable("The pixels are complex numbers, but grey values were expected; save the magnitude image instead.")


class Tally:
    """Watches the slices go by and knows at the end which one dtype holds them all."""

    def __init__(self) -> None:
        self._dtypes: set[str] = set()
        self._low = math.inf
        self._high = -math.inf
        self._shape: tuple[int, ...] | None = None
        self._rounded = False

    def add(self, pixels: np.ndarray) -> np.ndarray:
        """`pixels` made compact and counted. Raises Unreadable when the slice is tiny or of another size."""
        if pixels.ndim != 3 or min(pixels.shape[1:]) < MIN_SIDE_PX:
            raise Unreadable(
                f"The image is smaller than {MIN_SIDE_PX} x {MIN_SIDE_PX} pixels, too small to hold anything; "
                "check that this is the scan itself."
            )
        if self._shape not in (None, pixels.shape):
            raise Unreadable(
                "The slices of this scan differ in size, but all must have the same; save each size as a scan."
            )
        values = compact(pixels)
        if values.dtype.kind == "f" and (pixels.dtype.kind in "ui" or pixels.dtype.itemsize > 4):
            self._rounded = True
        self._shape = values.shape
        self._dtypes.add(values.dtype.str[1:])
        self._low = min(self._low, float(values.min()))
        self._high = max(self._high, float(values.max()))
        return values

    @property
    def dtype(self) -> np.dtype:
        """The dtype that holds every slice seen so far without loss."""
        kinds = self._dtypes
        if len(kinds) == 1:
            return np.dtype(next(iter(kinds)))
        if "f4" in kinds:
            return np.dtype(np.float32)
        if "i2" not in kinds:
            return np.dtype(np.uint16)
        return np.dtype(np.int16 if self._high < 2**15 else np.float32)

    @property
    def notes(self) -> list[str]:
        """Warnings about the values as a whole."""
        notes = []
        if self._rounded:
            notes.append("The values have 32 bits or more; they are kept as 32-bit floats, about seven digits.")
        if self._low == self._high:
            notes.append("Every pixel has the same value: the image is blank.")
        return notes


def collect(reading: Reading) -> Scan:
    """Decode every slice into memory. Raises Unreadable when fewer slices come than were promised."""
    tally = Tally()
    found: dict[int, tuple[np.ndarray, np.ndarray | None]] = {}
    for piece in reading.slices:
        found[piece.index] = (tally.add(piece.pixels), piece.valid)
    check_count(len(found), reading.num_slices)
    first = found[0][0]
    pixels = np.empty((len(found), *first.shape), tally.dtype)
    valid = None
    if any(mask is not None for _, mask in found.values()):
        valid = np.ones((len(found), *first.shape[1:]), bool)
    for index in range(len(found)):
        values, mask = found.pop(index)
        pixels[index] = values
        if valid is not None and mask is not None:
            valid[index] = mask
    reading.notes.extend(tally.notes)
    return reading.scan(pixels, valid)


def check_count(found: int, expected: int) -> None:
    """Raise Unreadable unless all slices came."""
    if found != expected or not found:
        raise Unreadable(
            f"Only {found} of {expected} slices could be decoded: the file is cut short or damaged; export it again."
        )


def check_size(rows: int, cols: int, slices: int, samples: int, bytes_per_sample: float) -> None:
    """Raise Unreadable when the decoded pixels would pass the cap, before anything is decoded."""
    if min(rows, cols, slices) < 1:
        raise Unreadable("The header says that the image has no rows, columns or slices: it is damaged.")
    decoded = rows * cols * slices * samples * bytes_per_sample
    if decoded > MAX_DECODED_BYTES:
        raise Unreadable(
            f"The header asks for {decoded / 1e9:,.1f} GB of pixels, more than the {MAX_DECODED_BYTES / 1e9:.0f} GB "
            "one scan may have; it is damaged, or must be split into smaller scans."
        )
    if rows * cols > MAX_SLICE_PIXELS:
        raise Unreadable(
            f"One slice has more than {MAX_SLICE_PIXELS // 10**6} million pixels; the file is damaged or malicious, "
            "or must be cut up."
        )
    if min(rows, cols) < MIN_SIDE_PX:
        raise Unreadable(
            f"The image is smaller than {MIN_SIDE_PX} x {MIN_SIDE_PX} pixels, too small to hold anything; "
            "check that this is the scan itself."
        )


def display(scan: Scan, window: str = "auto", only: Sequence[int] | None = None) -> np.ndarray:
    """The scan as a picture: windowed, MONOCHROME1 inverted, padding black.

    Args:
        only: positions of the slices that are wanted, in that order; None for all. Ranges that are taken from the
            pixels (full, percentile) are those of the whole scan all the same.
        window: "auto" (the first VOI LUT or window of the file; without one the full range for 8-bit, else
            "percentile"), "stored range" (all values the stored bits can hold; the values present for signed and
            float pixels), "percentile" (0.5 % to 99.5 % of the pixels that are no padding), one of `NAMED_WINDOWS`
            (center and width in Hounsfield units), or the name of a window of this file.

    Returns: (S, C, H, W) float32 in [0, 1]. Colour is never windowed.
    Raises: ValueError for a name that is neither listed nor in the file.
    Source: DICOM PS3.3 C.11.2.1.2, C.11.2.1.3.
    """
    pixels = scan.pixels if only is None else scan.pixels[list(only)]
    if scan.photometric == "RGB":
        return _stretch(pixels, *_stored_range(scan))
    if window == "auto" and scan.windows:
        picture = _apply(pixels, scan.windows[0])
    elif window == "stored range" or (window == "auto" and scan.pixels.dtype == np.uint8):
        picture = _stretch(pixels, *_stored_range(scan))
    elif window in ("auto", "percentile"):
        picture = _stretch(pixels, *_percentile_range(scan))
    elif window in NAMED_WINDOWS:
        picture = _apply(pixels, Window(*NAMED_WINDOWS[window]))
    else:
        named = [own for own in scan.windows if own.name and own.name == window]
        if not named:
            raise ValueError(f"There is no window called {window!r}; choose one of: {', '.join(WINDOWS)}.")
        picture = _apply(pixels, named[0])
    if scan.photometric == "MONOCHROME1":
        np.subtract(1, picture, out=picture)
    if scan.valid is not None:
        picture *= (scan.valid if only is None else scan.valid[list(only)])[:, None]
    return picture


def grey_range(scan: Scan, window: str = "auto") -> tuple[float, float] | None:
    """The stored values that `display` shows as black and as white, where it runs in a straight line between them.

    With it a picture can be taken back to stored values: low + (high - low) * picture. None where the window bends
    (SIGMOID, TABLE). What lies outside of the range is cut off by `display`.

    Raises: ValueError as `display`.
    """
    if scan.photometric == "RGB":
        return _stored_range(scan)
    if window == "auto" and scan.windows:
        return _line(scan.windows[0])
    if window == "stored range" or (window == "auto" and scan.pixels.dtype == np.uint8):
        return _stored_range(scan)
    if window in ("auto", "percentile"):
        return _percentile_range(scan)
    if window in NAMED_WINDOWS:
        return _line(Window(*NAMED_WINDOWS[window]))
    for own in scan.windows:
        if own.name and own.name == window:
            return _line(own)
    raise ValueError(f"There is no window called {window!r}; choose one of: {', '.join(WINDOWS)}.")


def as_monochrome2(pixels: np.ndarray, scan: Scan) -> np.ndarray:
    """Stored values of `scan`, of any shape, for formats in which the larger value is always the brighter one.

    Returns: those of MONOCHROME1 mirrored within the range of the stored values, of the same type; others as they are.
    """
    if scan.photometric != "MONOCHROME1":
        return pixels
    low, high = _stored_range(scan)
    ends = low + max(high, float(scan.pixels.max()))
    return (ends - pixels.astype(np.float64)).astype(pixels.dtype)


def _line(window: Window) -> tuple[float, float] | None:
    center, width = window.center, window.width
    if window.function == "LINEAR_EXACT":
        return center - width / 2, center + width / 2
    if window.function != "LINEAR" or width <= 1:
        return None
    return center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2


def _stored_range(scan: Scan) -> tuple[float, float]:
    if scan.pixels.dtype.kind == "u" or scan.photometric == "RGB":
        top = float(2**scan.bits - 1)
        return 0.0, top if scan.pixels.dtype == np.uint8 else max(top, float(scan.pixels.max()))
    return float(scan.pixels.min()), float(scan.pixels.max())


def _percentile_range(scan: Scan) -> tuple[float, float]:
    values = scan.pixels[:, 0]
    step = max(1, values.size // _PERCENTILE_SAMPLE)
    sample = values.reshape(-1)[::step]
    if scan.valid is not None:
        kept = sample[scan.valid.reshape(-1)[::step]]
        sample = kept if kept.size else sample
    low, high = np.percentile(sample, _PERCENTILES)
    if low == high:  # a few bright pixels on a flat ground: the percentiles would hide them
        low, high = sample.min(), sample.max()
    return float(low), float(high)


def _stretch(pixels: np.ndarray, low: float, high: float) -> np.ndarray:
    if high <= low:
        return np.zeros(pixels.shape, np.float32)
    picture = pixels.astype(np.float32)
    picture -= np.float32(low)
    picture /= np.float32(high - low)
    return np.clip(picture, 0, 1, out=picture)


def _apply(pixels: np.ndarray, window: Window) -> np.ndarray:
    center, width = window.center, window.width
    if window.function == "TABLE":
        points = np.linspace(center - width / 2, center + width / 2, len(window.table))
        return np.interp(pixels, points, window.table).astype(np.float32)
    if window.function == "SIGMOID":
        slope = -4 * (pixels.astype(np.float32) - np.float32(center)) / np.float32(width)
        return (1 / (1 + np.exp(np.clip(slope, -80, 80)))).astype(np.float32)
    if window.function == "LINEAR_EXACT":
        return _stretch(pixels, center - width / 2, center + width / 2)
    if width <= 1:  # C.11.2.1.2.1 with width 1: a step
        return (pixels > center - 0.5).astype(np.float32)
    return _stretch(pixels, center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2)
