"""PNG, JPEG, BMP and TIFF pictures as readings: 16 bits stay 16 bits, nothing is clipped."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from builder.scan import Header, Reading, Slice, Unreadable, check_size, compact

_JPEG_WITH_MORE = "MPO"
"""What Pillow calls a JPEG with more pictures behind the first: cameras put a preview there (CIPA DC-007)."""
FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
MAX_PIXELS = 50_000_000
MAX_PAGES = 2000
_DAMAGED = "The picture is cut short or damaged and cannot be decoded; export it again from its source."
_TOO_LARGE = (
    f"The picture has more than {MAX_PIXELS // 10**6} million pixels; it may be malicious: scale it down or cut it up."
)
_TURNED = "The picture was turned upright as its EXIF data say."
_ORIENTATION = 0x0112
_SUBFILE_TYPE = 0x00FE
_PHOTOMETRIC = 0x0106
_WHITE_IS_ZERO = 0
_BAND_ROWS = 256

Image.MAX_IMAGE_PIXELS = MAX_PIXELS


def is_picture(head: bytes) -> bool:
    """True for the first bytes of a PNG, JPEG, BMP or TIFF file."""
    return (
        head.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"))
        or (head[:2] == b"BM" and len(head) > 18 and 12 <= int.from_bytes(head[14:18], "little") <= 124)
    )  # fmt: skip


def read_header(path: Path) -> Header:
    """Size and kind of a picture. Raises Unreadable."""
    with _open(path) as image:
        pages = _pages(path, image)
        depth = 16 if _sixteen_bit_colour(path, image) or image.mode.startswith("I") else 8
        colour = image.mode not in ("1", "L", "LA", "F") and not image.mode.startswith("I")
        return Header(
            format=_format(image),
            rows=image.height,
            cols=image.width,
            slices=len(pages),
            channels=3 if colour else 1,
            bits=32 if image.mode == "F" else depth,
            photometric="RGB" if colour else "MONOCHROME2",
        )


def read(path: Path, as_mask: bool = False) -> Reading:
    """A picture, (1, C, H, W), or the pages of a TIFF as slices. Raises Unreadable.

    Args:
        as_mask: the numbers are what is meant, not the colours of a palette or how bright they are shown.
    """
    with _open(path) as image:
        if as_mask and image.mode == "P":
            image.putpalette([value for value in range(256) for _ in range(3)])
            image.info.pop("transparency", None)
        if image.format not in ("TIFF", _JPEG_WITH_MORE) and getattr(image, "is_animated", False):
            raise Unreadable("This picture is animated, but a still picture was expected; save the frame you need.")
        pages = _pages(path, image)
        notes: list[str] = []
        if image.format == _JPEG_WITH_MORE:
            notes.append("The JPEG holds more pictures behind the first, such as a preview; the first one was read.")
        if len(pages) > 1:
            notes.append(f"The {len(pages)} pages of the TIFF became slices.")
        sixteen = _sixteen_bit_colour(path, image)
        pixels = _upright(_png_colour(path, notes) if sixteen else _pixels(image, notes, as_mask), image, notes)
        bits = compact(pixels).dtype.itemsize * 8
        reading = Reading(
            format=_format(image),
            num_slices=len(pages),
            slices=iter(()),
            spacing_mm=(None, None, None),
            photometric="RGB" if pixels.shape[0] == 3 else "MONOCHROME2",
            bits=bits,
            notes=notes,
        )
    reading.slices = _slices(path, pages, pixels, notes, as_mask)
    return reading


def _slices(path: Path, pages: list[int], first: np.ndarray, notes: list[str], as_mask: bool) -> Iterator[Slice]:
    yield Slice(0, first)
    if len(pages) == 1:
        return
    with _open(path) as image:
        for index, page in enumerate(pages[1:], start=1):
            image.seek(page)
            pixels = _upright(_pixels(image, notes, as_mask), image, notes)
            yield Slice(index, pixels)


@contextmanager
def _open(path: Path) -> Iterator[Image.Image]:
    """The opened picture. From a stream: from a path, Pillow 13.0 maps turned TIFFs with sides exchanged."""
    with open(path, "rb") as stream:
        image: Image.Image | None = None
        reason = _DAMAGED
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                image = Image.open(stream, formats=FORMATS)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            reason = _TOO_LARGE
        except (
            UnidentifiedImageError,
            OSError,
            ValueError,
            SyntaxError,
            TypeError,
            KeyError,
            struct.error,
            zlib.error,
        ):
            reason = _DAMAGED
        if image is None:
            raise Unreadable(reason)
        check_size(image.height, image.width, 1, 4, 1)
        yield image


def _format(image: Image.Image) -> str:
    return "jpeg" if image.format == _JPEG_WITH_MORE else (image.format or "").lower()


def _pages(path: Path, image: Image.Image) -> list[int]:
    """The pages of a TIFF that are no thumbnails or masks of others."""
    if image.format != "TIFF":
        return [0]
    pages = []
    for number in range(_num_directories(path)):
        try:
            image.seek(number)
        except EOFError:
            break
        if not int(image.tag_v2.get(_SUBFILE_TYPE, 0)) & 5:  # type: ignore[attr-defined]
            pages.append(number)
    pages = pages or [0]
    image.seek(pages[0])
    return pages


def _num_directories(path: Path) -> int:
    """Directories of a TIFF or BigTIFF. Raises Unreadable when there are too many, or their chain has no end."""
    with open(path, "rb") as stream:
        head = stream.read(16)
        order = "<" if head[:1] == b"I" else ">"
        big = 43 in head[2:4]
        count_size, entry_size, offset = (8, 20, "Q") if big else (2, 12, "L")
        at = struct.unpack(f"{order}{offset}", head[8:16] if big else head[4:8])[0]
        seen: set[int] = set()
        while at:
            if at in seen:
                raise Unreadable("The pages of the TIFF go in a circle; it is damaged: export it again.")
            if len(seen) >= MAX_PAGES:
                raise Unreadable(f"The TIFF has more than {MAX_PAGES} pages; it is damaged, or must be split.")
            seen.add(at)
            stream.seek(at)
            count = int.from_bytes(stream.read(count_size), "little" if order == "<" else "big")
            stream.seek(at + count_size + count * entry_size)
            following = stream.read(struct.calcsize(order + offset))
            if len(following) < struct.calcsize(order + offset):
                raise Unreadable(_DAMAGED)
            (at,) = struct.unpack(f"{order}{offset}", following)
    return len(seen)


def _pixels(image: Image.Image, notes: list[str], as_mask: bool) -> np.ndarray:
    """(C, H, W) of the current page, as many bits as it has."""
    pixels: np.ndarray | None = None
    reason = _DAMAGED
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            _refuse_loss(image)
            if image.format == "TIFF" and image.tag_v2.get(_ORIENTATION, 1) in range(2, 9):  # type: ignore[attr-defined]
                notes.append(_TURNED)  # by Pillow, while it loads
            image.load()
            pixels = _array(image, notes)
            if not as_mask and image.format == "TIFF":
                pixels = _black_is_zero(pixels, image.tag_v2.get(_PHOTOMETRIC))  # type: ignore[attr-defined]
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        reason = _TOO_LARGE
    except (OSError, ValueError, SyntaxError, TypeError, KeyError, IndexError, struct.error, zlib.error, RuntimeError):
        reason = _DAMAGED
    if pixels is None:
        raise Unreadable(reason)
    return pixels


def _refuse_loss(image: Image.Image) -> None:
    """Pillow would drop half the bits of a 16-bit colour TIFF without a word."""
    if image.format == "TIFF" and image.mode in ("RGB", "RGBA", "RGBX", "CMYK", "LA"):
        bits = image.tag_v2.get(258, (8,))  # type: ignore[attr-defined]
        if max(bits if isinstance(bits, tuple) else (bits,)) > 8:
            raise Unreadable(
                "This TIFF has more than 8 bits per colour, which would be lost; save it as a 16-bit PNG or in grey."
            )


def _array(image: Image.Image, notes: list[str]) -> np.ndarray:
    mode = image.mode
    if mode == "P":
        if "transparency" in image.info:
            return _over_black(image.convert("RGBA"), notes)
        pixels = np.moveaxis(np.asarray(image.convert("RGB")), -1, 0)
        return pixels[:1] if (pixels == pixels[:1]).all() else pixels
    if mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        return _over_black(image, notes)
    if mode in ("CMYK", "YCbCr", "LAB", "HSV", "RGBX"):
        if mode != "YCbCr":
            notes.append(f"The colours were converted from {mode} to red, green and blue.")
        return np.moveaxis(np.asarray(image.convert("RGB")), -1, 0)
    if mode == "1":
        return np.asarray(image.convert("L"))[None]
    pixels = np.asarray(image)
    if pixels.dtype.byteorder not in "=|":
        pixels = pixels.astype(pixels.dtype.newbyteorder("="))
    if pixels.dtype.itemsize == 4 and pixels.dtype.kind in "ui" and image.format == "PNG":
        pixels = pixels.astype(np.uint16)
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)


def _black_is_zero(pixels: np.ndarray, photometric: int | None) -> np.ndarray:
    """Values of a TIFF, mirrored where its 0 is white: Pillow does it up to 8 bits, and leaves the others as stored."""
    if photometric != _WHITE_IS_ZERO or pixels.dtype == np.uint8:
        return pixels
    return np.asarray((1 if pixels.dtype.kind == "f" else np.iinfo(pixels.dtype).max) - pixels)


def _over_black(image: Image.Image, notes: list[str]) -> np.ndarray:
    grey = image.mode in ("LA", "La")
    pixels = np.moveaxis(np.asarray(image.convert("LA" if grey else "RGBA")), -1, 0)
    return _laid_over_black(pixels[:-1], pixels[-1], notes)


def _laid_over_black(colour: np.ndarray, alpha: np.ndarray, notes: list[str]) -> np.ndarray:
    top = int(np.iinfo(alpha.dtype).max)
    if (alpha == top).all():
        notes.append("The picture has an alpha channel without effect, which was left out.")
        return colour
    notes.append("The transparent parts of the picture were laid over black.")
    return ((colour.astype(np.uint64) * alpha + top // 2) // top).astype(colour.dtype)


def _upright(pixels: np.ndarray, image: Image.Image, notes: list[str]) -> np.ndarray:
    """Turned as the EXIF orientation says."""
    turn = 1
    try:
        turn = int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF raises many kinds; the pixels are whole all the same, and stay as they lie
        turn = 1
    steps = {
        2: lambda p: p[:, :, ::-1],
        3: lambda p: p[:, ::-1, ::-1],
        4: lambda p: p[:, ::-1],
        5: lambda p: p.transpose(0, 2, 1),
        6: lambda p: np.rot90(p, -1, (1, 2)),
        7: lambda p: p.transpose(0, 2, 1)[:, ::-1, ::-1],
        8: lambda p: np.rot90(p, 1, (1, 2)),
    }
    if turn not in steps:
        return pixels
    notes.append(_TURNED)
    return np.ascontiguousarray(steps[turn](pixels))


# --- 16-bit colour PNG, which Pillow would cut to 8 bits


def _sixteen_bit_colour(path: Path, image: Image.Image) -> bool:
    if image.format != "PNG":
        return False
    with open(path, "rb") as stream:
        head = stream.read(29)
    return head[12:16] == b"IHDR" and head[24] == 16 and head[25] in (2, 4, 6)


def _png_colour(path: Path, notes: list[str]) -> np.ndarray:
    """(C, H, W) uint16 of a 16-bit PNG with colour or alpha (PNG specification, sections 8 to 10)."""
    data = path.read_bytes()
    cols, rows, _, kind, _, _, interlace = struct.unpack(">LLBBBBB", data[16:29])
    channels = {2: 3, 4: 2, 6: 4}[kind]
    packed, at = [], 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == b"IDAT":
            packed.append(data[at + 8 : at + 8 + length])
        at += 12 + length
    passes = [(0, 0, 1, 1)] if not interlace else _ADAM7
    shapes = [(-(-(rows - y) // dy), -(-(cols - x) // dx)) for y, x, dy, dx in passes]
    step = channels * 2
    lengths = [height * (1 + width * step) if height > 0 and width > 0 else 0 for height, width in shapes]
    plain = b""
    try:
        plain = zlib.decompressobj().decompress(b"".join(packed), sum(lengths))
    except zlib.error:
        plain = b""
    if len(plain) != sum(lengths):
        raise Unreadable(_DAMAGED)
    pixels = np.zeros((rows, cols, channels), np.uint16)
    start = 0
    for (y, x, dy, dx), (height, width), length in zip(passes, shapes, lengths, strict=True):
        if length:
            lines = np.frombuffer(plain, np.uint8, length, start).reshape(height, 1 + width * step)
            values = _unfiltered(lines[:, 0], lines[:, 1:].reshape(height, width, step))
            pixels[y::dy, x::dx] = values.view(">u2").reshape(height, width, channels)
        start += length
    planes = np.moveaxis(pixels, -1, 0)
    return planes if kind == 2 else _laid_over_black(planes[:-1], planes[-1], notes)


_ADAM7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]


def _unfiltered(filters: np.ndarray, lines: np.ndarray) -> np.ndarray:
    """PNG filters undone, band by band; `lines` is (rows, cols, bytes per pixel)."""
    if filters.max() > 4:
        raise Unreadable(_DAMAGED)
    out = np.empty_like(lines)
    above = np.zeros(lines.shape[1:], np.int16)
    for top in range(0, len(lines), _BAND_ROWS):
        band = slice(top, top + _BAND_ROWS)
        out[band] = _unfiltered_band(filters[band], lines[band], above)
        above = out[band][-1].astype(np.int16)
    return out


def _unfiltered_band(filters: np.ndarray, lines: np.ndarray, above_band: np.ndarray) -> np.ndarray:
    """All rows at once along anti-diagonals: a pixel needs only its left, upper and upper left neighbour.

    The band is held askew, so that a diagonal is one contiguous row: place [x + y + 2, y + 1] is pixel (y, x).
    """
    rows, cols, step = lines.shape
    askew = np.zeros((rows + cols + 1, rows + 1, step), np.int16)
    askew[1 : cols + 1, 0] = above_band
    for y in range(rows):
        askew[y + 2 : y + 2 + cols, y + 1] = lines[y]
    kinds = filters[:, None]
    is_left, is_above, is_mean, is_paeth = ((kinds == kind).astype(np.int16) for kind in (1, 2, 3, 4))
    for diagonal in range(2, rows + cols + 1):
        first, last = max(0, diagonal - 1 - cols), min(rows, diagonal - 1)
        left = askew[diagonal - 1, first + 1 : last + 1]
        above = askew[diagonal - 1, first:last]
        corner = askew[diagonal - 2, first:last]
        to_left, to_above = np.abs(above - corner), np.abs(left - corner)
        to_corner = np.abs(left + above - 2 * corner)
        paeth = np.where(to_above <= to_corner, above, corner)
        np.copyto(paeth, left, where=(to_left <= to_above) & (to_left <= to_corner))
        here = askew[diagonal, first + 1 : last + 1]
        band = slice(first, last)
        here += is_left[band] * left
        here += is_above[band] * above
        here += is_mean[band] * ((left + above) >> 1)
        here += is_paeth[band] * paeth
        here &= 255
    out = np.empty((rows, cols, step), np.uint8)
    for y in range(rows):
        out[y] = askew[y + 2 : y + 2 + cols, y + 1]
    return out
