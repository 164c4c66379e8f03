"""From a scan to the network's input: the one preprocessing of training, test page and export.

Order: slices, window, inversion, colour, resize, each slice alike. The result is quantized once (8 bits for 8-bit
sources, else 16) and kept in a memory-mapped array, so that training only gathers rows; `quantize` gives a new scan
exactly the same values.
"""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from builder import voxels
from builder.scan import Scan, display
from builder.spec import Data

Progress = Callable[[int, int], None]
"""Called with (scans done, scans in all)."""

_GREY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as Pillow and DICOM PS3.3 C.7.6.3.1.2
_VERSION = 1  # of the steps below: a change makes old caches unreachable


class UnusableScan(ValueError):
    """A scan that cannot become an input. Its text is a sentence for people."""


@dataclass(frozen=True)
class Placement:
    """Where a picture lands in the square: its box in the source and its box in the result, all in pixels.

    `source` is (x0, y0, x1, y1) of the part used, floats; `left, top, width, height` is where it goes.
    """

    source: tuple[float, float, float, float]
    left: int
    top: int
    width: int
    height: int

    def to_source(self, x: float, y: float) -> tuple[float, float]:
        """A point of the result (pixels, corners of pixels at integers) in the source's pixels."""
        x0, y0, x1, y1 = self.source
        return x0 + (x - self.left) * (x1 - x0) / self.width, y0 + (y - self.top) * (y1 - y0) / self.height

    def _scale(self) -> tuple[float, float]:
        x0, y0, x1, y1 = self.source
        return self.width / (x1 - x0), self.height / (y1 - y0)

    def boxes_in(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (n, 4) float, x0 y0 x1 y1 in the source's pixels, in pixels of the result; not cut at its border."""
        x, y = self._scale()
        begin = np.array([self.source[0], self.source[1]] * 2)
        return (boxes - begin) * np.array([x, y, x, y]) + np.array([self.left, self.top] * 2)

    def boxes_out(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (n, 4) float in pixels of the result, in the source's pixels: the inverse of `boxes_in`."""
        x, y = self._scale()
        begin = np.array([self.source[0], self.source[1]] * 2)
        return (boxes - np.array([self.left, self.top] * 2)) / np.array([x, y, x, y]) + begin

    def mask_in(self, mask: np.ndarray, side: int) -> np.ndarray:
        """A mask (h, w) of the source as (side, side) uint8: the nearest pixel's value, 0 outside of the source."""
        from PIL import Image

        result = np.zeros((side, side), np.uint8)
        whole = Image.fromarray(np.ascontiguousarray(mask, np.uint8))
        part = whole.resize((self.width, self.height), Image.Resampling.NEAREST, box=self.source)
        result[self.top : self.top + self.height, self.left : self.left + self.width] = np.asarray(part)
        return result

    def map_out(self, values: np.ndarray, height: int, width: int) -> np.ndarray:
        """Values (side, side) float of the result on the source's grid (height, width): bilinear, 0 where the source
        was cut off.

        Sampled at the centre of each pixel of the source, so that nothing shifts (half-pixel convention).
        """
        x0, y0, x1, y1 = self.source
        x, y = self._scale()
        columns = (np.arange(width) + 0.5 - x0) * x + self.left - 0.5
        rows = (np.arange(height) + 0.5 - y0) * y + self.top - 0.5
        inside_rows = (np.arange(height) + 0.5 >= y0) & (np.arange(height) + 0.5 <= y1)
        inside_columns = (np.arange(width) + 0.5 >= x0) & (np.arange(width) + 0.5 <= x1)
        # Beyond the outermost centres the picture goes on as it is there, not on the border's black.
        rows = rows.clip(self.top, self.top + self.height - 1)
        columns = columns.clip(self.left, self.left + self.width - 1)
        found = _between(_between(np.asarray(values, np.float32), rows, 0), columns, 1)
        return np.where(inside_rows[:, None] & inside_columns[None], found, np.float32(0))


def _between(values: np.ndarray, at: np.ndarray, axis: int) -> np.ndarray:
    """Values at fractional positions along an axis, linear between neighbours."""
    low = np.floor(at).astype(np.int64)
    high = np.minimum(low + 1, values.shape[axis] - 1)
    share = (at - low).astype(np.float32)
    share = share[:, None] if axis == 0 else share[None]
    return values.take(low, axis) * (1 - share) + values.take(high, axis) * share


def place(height: int, width: int, data: Data, aspect: float = 1.0) -> Placement:
    """Where a (height, width) picture goes under `data.fit`.

    Args:
        aspect: height of a pixel over its width in mm; "pad" and "crop" keep the shape of the body, not of the grid.
    """
    size = data.size_px
    whole = (0.0, 0.0, float(width), float(height))
    if data.fit == "stretch":
        return Placement(whole, 0, 0, size, size)
    tall = height * aspect
    if data.fit == "pad":
        scale = size / max(tall, width)
        new_height = min(size, max(1, round(tall * scale)))
        new_width = min(size, max(1, round(width * scale)))
        return Placement(whole, (size - new_width) // 2, (size - new_height) // 2, new_width, new_height)
    if data.fit == "patches":
        return Placement(whole, 0, 0, width, height)
    if data.fit == "crop":
        side = min(tall, float(width))
        x0, y0 = (width - side) / 2, (height - side / aspect) / 2
        return Placement((x0, y0, x0 + side, y0 + side / aspect), 0, 0, size, size)
    raise ValueError(f"The fit {data.fit!r} is unknown: choose pad, stretch, crop or patches.")


def size_in(size_px: Sequence[float], picture_px: Sequence[int], data: Data) -> tuple[float, float]:
    """Height and width, in pixels of the prepared picture, of what is `size_px` high and wide in one of `picture_px`
    (square pixels)."""
    height, width = size_px
    where = place(picture_px[0], picture_px[1], data)
    x0, y0, x1, y1 = where.boxes_in(np.array([[0.0, 0.0, width, height]]))[0]
    return float(y1 - y0), float(x1 - x0)


def chosen(num_slices: int, data: Data) -> tuple[int, ...]:
    """Positions of the slices of a scan that the network sees as a series or volume; -1 stands for a black slice.

    "spread" cuts the scan into `data.num_slices` equal parts and takes the slice in the middle of each: all slices
    where the numbers agree, and some of them several times where the scan has fewer. Of two slices that are equally
    near it takes the one nearer to the middle of the scan: a scan read backwards gives the same slices backwards.
    "middle" takes neighbours from the middle; where the scan has fewer, black slices lie at both ends.
    """
    wanted = data.num_slices
    if data.slice_choice == "spread":
        first = [(2 * k + 1) * num_slices // (2 * wanted) for k in range((wanted + 1) // 2)]
        return (*first, *(num_slices - 1 - k for k in reversed(first[: wanted // 2])))
    if data.slice_choice == "middle":
        begin = (num_slices - wanted) // 2
        return tuple(k if 0 <= k < num_slices else -1 for k in range(begin, begin + wanted))
    raise ValueError(f"The choice of slices {data.slice_choice!r} is unknown: choose spread or middle.")


def prepare(scan: Scan, data: Data, index: int | None = None) -> np.ndarray:
    """The scan as the network sees it.

    Args:
        index: which slice, where `data.slices` is "each" (None: the middle one).
    Returns: float32 in [0, 1] of `data.shape`: (C, H, W), a series (S, C, H, W) or a volume (C, D, H, W); C is 1 for
    grey, 3 for rgb and for a slice with its neighbours. With `data.fit` "patches" height and width are the scan's own,
    and of a volume all slices are there, on the grid of `voxels.grid`.

    Steps: grey values through the window and inversion (`scans.display`), slices to one picture or the chosen slices,
    colour, then an antialiased bilinear resize (Pillow, mode "F": the kernel grows with the reduction). A picture that
    already has the wanted size is passed on untouched.

    Raises:
        UnusableScan: NaN or infinite pixels, or neither one nor three channels, or no spacing where one is needed.
    """
    if scan.pixels.dtype.kind == "f" and not np.isfinite(scan.pixels).all():
        raise UnusableScan("The scan holds pixel values that are not finite numbers (NaN or infinity).")
    if scan.pixels.shape[1] not in (1, 3):
        raise UnusableScan(
            f"The scan has {scan.pixels.shape[1]} channels; expected one (grey) or three (red, green, blue)."
        )
    if data.layout == "maps":
        return np.clip(_square(_picture(scan, data, index), scan, data), 0.0, 1.0)
    if data.blocks:
        return _volume(scan, data)
    wanted = chosen(len(scan.pixels), data)
    taken = sorted({index for index in wanted if index >= 0})
    shown = dict(zip(taken, display(scan, data.window, taken), strict=True))
    stack: np.ndarray = np.zeros((data.num_slices, data.channels, data.size_px, data.size_px), np.float32)
    made, last = stack[0], -1
    for position, index in enumerate(wanted):
        if index >= 0:  # ascending: a slice that is shown twice follows itself
            stack[position] = made = made if index == last else _square(shown.pop(index), scan, data)
            last = index
    if data.layout == "volume":
        stack = np.ascontiguousarray(np.moveaxis(stack, 0, 1))
    return np.clip(stack, 0.0, 1.0, out=stack)


def _volume(scan: Scan, data: Data) -> np.ndarray:
    """A whole volume (C, D, H, W) in [0, 1], of which patches are cut."""
    shape = (len(scan.pixels), *scan.pixels.shape[2:])
    try:
        size = voxels.grid(shape, scan.spacing_mm, data)
    except voxels.NoSpacing as error:
        raise UnusableScan(str(error)) from None
    stack = np.stack([_square(shown, scan, data) for shown in display(scan, data.window)], 1)
    return np.clip(voxels.resampled(stack, size), 0.0, 1.0)


def _square(picture: np.ndarray, scan: Scan, data: Data) -> np.ndarray:
    """One picture (1 or 3, h, w) of `scan` as float32 (C, size_px, size_px): its colours, then its size."""
    if data.colour != "rgb" and picture.shape[0] == 3 and scan.pixels.shape[1] == 3:
        same = np.array_equal(picture[0], picture[1]) and np.array_equal(picture[0], picture[2])
        picture = picture[:1] if same else np.tensordot(_GREY, picture, 1)[None]
    if data.fit != "patches":
        picture = _resized(picture, place(picture.shape[1], picture.shape[2], data, pixel_aspect(scan)), data.size_px)
    if data.colour != "grey" and picture.shape[0] == 1:
        picture = np.repeat(picture, 3, axis=0)
    return np.ascontiguousarray(picture, np.float32)


class Spaced(Protocol):
    """Whatever says how far its pixels lie apart: a scan, or a case of a dataset."""

    @property
    def spacing_mm(self) -> tuple[float | None, float | None, float | None]: ...


def pixel_aspect(scan: Spaced) -> float:
    """Height of a pixel over its width; 1.0 where unknown or within 1 % of square."""
    _, y, x = scan.spacing_mm
    if not y or not x or not (np.isfinite(y) and np.isfinite(x)) or y <= 0 or x <= 0:
        return 1.0
    aspect = y / x
    return 1.0 if abs(aspect - 1) < 0.01 or not 0.1 < aspect < 10 else float(aspect)


def _picture(scan: Scan, data: Data, index: int | None) -> np.ndarray:
    """One picture (C, H, W) in [0, 1] of all slices, or of slice `index`; with its neighbours as channels if wanted."""
    if data.slices in ("middle", "each") or len(scan.pixels) == 1:
        at = len(scan.pixels) // 2 if index is None else index
        if data.colour == "neighbours" and scan.pixels.shape[1] == 1:
            last = len(scan.pixels) - 1
            return display(scan, data.window, (max(at - 1, 0), at, min(at + 1, last)))[:, 0]
        return display(scan, data.window, (at,))[0]
    if data.slices == "mean":
        return display(scan, data.window).mean(axis=0, dtype=np.float64).astype(np.float32)
    if data.slices == "maximum":
        return display(scan, data.window).max(axis=0)
    raise ValueError(
        f"The use of slices {data.slices!r} is unknown: choose middle, mean, maximum, each, series or volume."
    )


def _resized(picture: np.ndarray, placement: Placement, size: int) -> np.ndarray:
    height, width = picture.shape[1:]
    whole = (0.0, 0.0, float(width), float(height))
    unchanged = placement.source == whole and (placement.width, placement.height) == (width, height)
    if unchanged and (width, height) == (size, size):
        return picture
    from PIL import Image

    result = np.zeros((picture.shape[0], size, size), np.float32)
    rows = slice(placement.top, placement.top + placement.height)
    columns = slice(placement.left, placement.left + placement.width)
    for channel, out in zip(picture, result, strict=True):
        if unchanged:
            out[rows, columns] = channel
            continue
        image = Image.fromarray(np.ascontiguousarray(channel, np.float32))
        wanted = (placement.width, placement.height)
        out[rows, columns] = np.asarray(image.resize(wanted, Image.Resampling.BILINEAR, box=placement.source))
    return result


def quantize(image: np.ndarray, unit: int) -> np.ndarray:
    """Values in [0, 1] as integers: uint8 for unit 255, uint16 for 65535.

    `quantize(prepare(scan, data), prepared.unit)` equals the row of `prepared.images` that training saw, bit for bit;
    divide by `unit` to be back in [0, 1].
    """
    if unit not in (255, 65535):
        raise ValueError(f"The unit is {unit}; expected 255 (8 bits) or 65535 (16 bits).")
    return np.rint(np.clip(image, 0.0, 1.0) * np.float32(unit)).astype(np.uint8 if unit == 255 else np.uint16)


@dataclass(frozen=True)
class Prepared:
    """Every case of a dataset as network input.

    Attributes:
        images: memory map uint8 or uint16, one row a case in the order of `Dataset.cases`, or (`Data.slices` "each")
            one row a slice, case after case: (N, C, H, W), of series (N, S, C, H, W), of volumes (N, C, D, H, W);
            value / unit is in [0, 1]. With `Data.fit` "patches" H and W (and D) are those of the largest scan; a
            smaller one lies in the top left corner of the first slices.
        unit: 255 or 65535.
        mean, std: (C,) float64 over all pixels of the train split, of value / unit.
        file: the array's file, open: it stays readable when the dataset grows and drops its caches. None for arrays
            that lie in memory.
        places: int64 (N, 2): of each row the position of its case and of its slice (-1: not one slice). None: the rows
            are the cases.
        sizes: int64 (N, 2) height and width of each row's own picture, (N, 3) with depth before of volumes, with
            "patches"; else None.
    """

    images: np.ndarray
    unit: int
    mean: np.ndarray
    std: np.ndarray
    file: BinaryIO | None = None
    places: np.ndarray | None = None
    sizes: np.ndarray | None = None

    def rows_of(self, cases: np.ndarray) -> np.ndarray:
        """int64 positions of the rows that belong to these cases, in their order."""
        if self.places is None:
            return np.asarray(cases, np.int64)
        begin = np.searchsorted(self.places[:, 0], cases, "left")
        end = np.searchsorted(self.places[:, 0], cases, "right")
        parts = [np.arange(b, e) for b, e in zip(begin, end, strict=True)]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def place_of(self, row: int) -> tuple[int, int]:
        """Of a row: the position of its case, and which slice it shows (-1: not one slice)."""
        return (int(row), -1) if self.places is None else (int(self.places[row, 0]), int(self.places[row, 1]))

    def rows(self, indices: Sequence[int] | np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """The images at `indices` as (len(indices), ...), read from the file rather than through the map.

        A process that gathers through a map counts every page it ever touched as its own; this one stays flat.
        """
        shape = (len(indices), *self.images.shape[1:])
        if out is None:
            out = np.empty(shape, self.images.dtype)
        if out.shape != shape or out.dtype != self.images.dtype or not out.flags.c_contiguous:
            raise ValueError(f"out must be a contiguous {self.images.dtype} array of shape {shape}")
        if self.file is None:
            np.take(self.images, np.asarray(indices, np.int64), axis=0, out=out)
            return out
        size = int(np.prod(self.images.shape[1:])) * self.images.dtype.itemsize
        target = out.reshape(-1).view(np.uint8).data
        total, number = len(self.images), self.file.fileno()
        for position, index in enumerate(indices):
            row = int(index) + (total if index < 0 else 0)
            if not 0 <= row < total:
                raise IndexError(f"image {index} of {total}")
            begin = position * size
            read = os.preadv(number, [target[begin : begin + size]], _offset(self.images) + row * size)
            if read != size:
                raise OSError(
                    "The prepared images are shorter than their header says: delete them, they are built anew."
                )
        return out

    def patches(self, indices: Sequence[int] | np.ndarray, corners: np.ndarray, side: int) -> np.ndarray:
        """Squares (len(indices), C, side, side) cut out of the images at `indices`; only their lines are read.

        Args:
            corners: int (len(indices), 2), row and column of each square's first pixel; it lies inside its image.
        """
        channels, height, width = self.images.shape[1:]
        corners = np.asarray(corners, np.int64).reshape(-1, 2)
        if len(corners) and (corners.min() < 0 or (corners + side > (height, width)).any()):
            raise ValueError(f"A square of {side} px reaches beyond a picture of {width} x {height} px.")
        out = np.empty((len(indices), channels, side, side), self.images.dtype)
        line = width * self.images.dtype.itemsize
        band = bytearray(side * line)
        for found, index, (top, left) in zip(out, indices, corners, strict=True):
            if self.file is None:
                found[:] = self.images[index, :, top : top + side, left : left + side]
                continue
            for channel in range(channels):
                begin = _offset(self.images) + ((int(index) * channels + channel) * height + int(top)) * line
                if os.preadv(self.file.fileno(), [band], begin) != len(band):
                    raise OSError(
                        "The prepared images are shorter than their header says: delete them, they are built anew."
                    )
                lines = np.frombuffer(band, self.images.dtype).reshape(side, width)
                found[channel] = lines[:, left : left + side]
        return out

    def block(self, index: int, corner: Sequence[int], size: Sequence[int]) -> np.ndarray:
        """The part (C, *size) of the volume at `index` that begins at `corner` (depth, height, width): 0, black, beyond
        the volume. Only the lines of its slices are read."""
        assert self.sizes is not None
        channels, depth, height, width = self.images.shape[1:]
        low = [max(0, int(c)) for c in corner]
        high = [min(int(own), int(c) + s) for own, c, s in zip(self.sizes[index], corner, size, strict=True)]
        out = np.zeros((channels, *size), self.images.dtype)
        if any(a >= b for a, b in zip(low, high, strict=True)):
            return out
        rows, line = high[1] - low[1], width * self.images.dtype.itemsize
        place = tuple(slice(a - int(c), b - int(c)) for a, b, c in zip(low, high, corner, strict=True))
        band = bytearray(rows * line)
        for channel in range(channels):
            for at in range(low[0], high[0]):
                if self.file is None:
                    lines = self.images[index, channel, at, low[1] : high[1]]
                else:
                    first = ((int(index) * channels + channel) * depth + at) * height + low[1]
                    if os.preadv(self.file.fileno(), [band], _offset(self.images) + first * line) != len(band):
                        raise OSError(
                            "The prepared images are shorter than their header says: delete them, they are built anew."
                        )
                    lines = np.frombuffer(band, self.images.dtype).reshape(rows, width)
                out[channel, at - int(corner[0])][place[1:]] = lines[:, low[2] : high[2]]
        return out

    def volume(self, index: int) -> np.ndarray:
        """The whole volume (C, D, H, W) at `index`, of patches."""
        assert self.sizes is not None
        return self.block(index, (0, 0, 0), [int(s) for s in self.sizes[index]])


def _offset(images: np.ndarray) -> int:
    return int(getattr(images, "offset", 0))


def digest(data: Data, unit: int, num_cases: int) -> str:
    """Names the cache folder: everything that decides the pixels, and the number of cases (adding makes a new one)."""
    size = data.size_px if data.fit != "patches" else 0  # what is cut out is decided while it learns
    settings = [_VERSION, size, data.fit, data.colour, data.window, data.slices, unit, num_cases]
    if data.blocks:
        settings += [data.pixel_mm, data.slice_mm]
    elif data.layout != "maps":
        settings += [data.num_slices, data.slice_choice]
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]


def build(
    folder: Path,
    scans: Iterable[Scan],
    num_cases: int,
    data: Data,
    unit: int,
    train: np.ndarray,
    progress: Progress | None = None,
    shapes: Sequence[tuple[int, ...]] = (),
    spacings: Sequence[Sequence[float | None]] = (),
) -> Prepared:
    """Opens `folder`, or builds it: atomically, and safely when two processes build at once.

    Args:
        scans: the cases in order, read one at a time. shapes: (S, C, H, W) of each; needed for each slice and patches.
        spacings: (z, y, x) in mm of each, None where unknown; needed for patches of volumes.
        train: bool (N,), over which mean and std are taken (over all cases where none is True).
        progress: called after each scan.
    """
    grids = _grids(shapes, spacings, data) if data.fit == "patches" else np.zeros((0, 2), np.int64)
    if not (folder / "stats.json").exists():
        _build(folder, scans, num_cases, data, unit, train, progress, shapes, grids)
    stats = json.loads((folder / "stats.json").read_text())
    images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
    file = open(folder / "images.npy", "rb", buffering=0)  # noqa: SIM115  lives as long as the Prepared
    places = sizes = None
    if data.slices == "each":
        counts = [shape[0] for shape in shapes]
        of_slice = np.concatenate([np.arange(count) for count in counts])
        places = np.stack([np.repeat(np.arange(len(counts)), counts), of_slice], 1)
    if data.fit == "patches":
        sizes = grids if places is None else grids[places[:, 0]]
    moments = np.array(stats["mean"]), np.array(stats["std"])
    return Prepared(images, int(stats["unit"]), *moments, file, places, sizes)


def normalized_over(found: Prepared, folder: Path, data: Data, train: np.ndarray) -> Prepared:
    """The same pictures with the mean and spread of other training cases, kept beside them by who these are: a run with
    sides of its own must not be normalized by what it is tested on.

    Args:
        train: bool (N,) over cases; with none, `found` comes back as it is.
    """
    if not train.any():
        return found
    packed = np.packbits(train).tobytes()
    kept = folder / f"stats-{hashlib.sha256(packed + str(len(train)).encode()).hexdigest()[:16]}.json"
    try:
        stats = json.loads(kept.read_text())
        return replace(found, mean=np.array(stats["mean"]), std=np.array(stats["std"]))
    except (OSError, ValueError, KeyError):
        pass  # not there yet
    rows = np.flatnonzero(train)
    if found.places is not None:
        rows = np.flatnonzero(train[found.places[:, 0]])
    seen: np.ndarray = np.zeros((data.channels, found.unit + 1), np.int64)
    for row in rows:
        image = found.volume(int(row)) if data.blocks else found.rows(np.array([row]))[0]
        if found.sizes is not None and not data.blocks:
            height, width = found.sizes[row]
            image = image[..., :height, :width]
        for channel, values in zip(seen, np.moveaxis(image, data.channel_axis, 0), strict=True):
            channel += np.bincount(values.reshape(-1), minlength=found.unit + 1)
    mean, std = _moments(seen, found.unit)
    draft = folder / f".{kept.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}"
    draft.write_text(json.dumps({"unit": found.unit, "mean": mean.tolist(), "std": std.tolist()}))
    os.replace(draft, kept)
    return replace(found, mean=mean, std=std)


def _grids(shapes: Sequence[tuple[int, ...]], spacings: Sequence[Sequence[float | None]], data: Data) -> np.ndarray:
    """int64 (N, 2) height and width of each case, of volumes (N, 3) with depth before, where patches are cut."""
    if not data.blocks:
        return np.array([shape[2:] for shape in shapes], np.int64).reshape(-1, 2)
    try:
        own = [((s[0], *s[2:]), spacing) for s, spacing in zip(shapes, spacings, strict=True)]
        return np.array([voxels.grid(shape, spacing, data) for shape, spacing in own], np.int64).reshape(-1, 3)
    except voxels.NoSpacing as error:
        raise UnusableScan(str(error)) from None


def _build(
    folder: Path,
    scans: Iterable[Scan],
    num_cases: int,
    data: Data,
    unit: int,
    train: np.ndarray,
    progress: Progress | None,
    shapes: Sequence[tuple[int, ...]],
    grids: np.ndarray,
) -> None:
    if not num_cases:
        raise UnusableScan("The dataset has no scans: import some first.")
    draft = folder.parent / f".building-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    draft.mkdir(parents=True)
    try:
        num_rows = sum(shape[0] for shape in shapes) if data.slices == "each" else num_cases
        shape = (num_rows, *data.shape)
        if data.fit == "patches":
            shape = (num_rows, data.channels, *(int(size) for size in grids.max(0)))
        kind = np.uint8 if unit == 255 else np.uint16
        needed, free = int(np.prod(shape)) * kind().itemsize, shutil.disk_usage(draft).free
        if data.blocks:  # the slices that a scan does not have are holes in the file
            needed = int(grids[:, 0].sum()) * int(np.prod(shape[3:])) * data.channels * kind().itemsize
        if needed * 1.05 + 50e6 > free:
            raise UnusableScan(
                f"Preparing {num_cases} scans at {_size(data)} needs {needed / 1e9:.1f} GB; the disk has "
                f"{free / 1e9:.1f} GB free. Choose a smaller size{'' if data.layout == 'maps' else ', fewer slices'} "
                "or make room."
            )
        seen: np.ndarray = np.zeros((data.channels, unit + 1), np.int64)
        everything = not np.any(train)
        with open(draft / "images.npy", "wb") as file:
            header = {"descr": np.lib.format.dtype_to_descr(np.dtype(kind)), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            count = 0
            for count, scan in enumerate(scans, 1):
                for index in range(len(scan.pixels)) if data.slices == "each" else (None,):
                    image = quantize(prepare(scan, data, index), unit)
                    if everything or train[count - 1]:
                        for channel, values in zip(seen, np.moveaxis(image, data.channel_axis, 0), strict=True):
                            channel += np.bincount(values.reshape(-1), minlength=unit + 1)
                    if data.fit == "patches":
                        sides = zip(image.shape[-2:], shape[-2:], strict=True)
                        image = np.pad(image, [*[(0, 0)] * (image.ndim - 2), *((0, w - h) for h, w in sides)])
                    for part in image if data.blocks else (image,):
                        file.write(part.tobytes())
                        if data.blocks:
                            file.seek((shape[2] - part.shape[0]) * part[0].nbytes, os.SEEK_CUR)
                if progress:
                    progress(count, num_cases)
            file.truncate()  # a last volume with fewer slices than others ends in a hole
            file.flush()
            os.fsync(file.fileno())
        if count != num_cases:
            raise UnusableScan(f"The dataset lists {num_cases} scans but only {count} could be read.")
        mean, std = _moments(seen, unit)
        stats: dict[str, Any] = {"unit": unit, "mean": mean.tolist(), "std": std.tolist()}
        with open(draft / "stats.json", "w") as text:
            json.dump(stats, text)
            text.flush()
            os.fsync(text.fileno())
        try:
            os.rename(draft, folder)
        except OSError:
            if not (folder / "stats.json").exists():  # anything but another process that was first
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _size(data: Data) -> str:
    return f"{data.size_px} px" if data.layout == "maps" else f"{data.num_slices} slices of {data.size_px} px"


def _moments(seen: np.ndarray, unit: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation per channel from counts of each value: exact, whatever the number of pixels."""
    values = np.arange(unit + 1) / unit
    total = seen.sum(axis=1)
    mean = seen @ values / total
    variance = np.array([(counts * (values - m) ** 2).sum() for counts, m in zip(seen, mean, strict=True)]) / total
    return mean, np.maximum(np.sqrt(variance), 1e-6)
