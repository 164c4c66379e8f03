"""PNG, JPEG, BMP and TIFF pictures as readings: 16 bits stay 16 bits, nothing is clipped."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from builder.scan import Header, Reading, Slice, Unreadable, check_size

FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
MAX_PIXELS = 50_000_000
MAX_PAGES = 2000
_DAMAGED = "The picture is cut short or damaged and cannot be decoded; export it again from its source."
_TOO_LARGE = (
    f"The picture has more than {MAX_PIXELS // 10**6} million pixels; it may be malicious: scale it down or cut it up."
)
_ORIENTATION = 0x0112
_SUBFILE_TYPE = 0x00FE

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
        pages = _pages(image)
        depth = 16 if _sixteen_bit_colour(path, image) or image.mode.startswith("I") else 8
        colour = image.mode not in ("1", "L", "LA", "F") and not image.mode.startswith("I")
        return Header(
            format=(image.format or "").lower(),
            rows=image.height,
            cols=image.width,
            slices=len(pages),
            channels=3 if colour else 1,
            bits=32 if image.mode == "F" else depth,
            photometric="RGB" if colour else "MONOCHROME2",
        )


def read(path: Path) -> Reading:
    """A picture, (1, C, H, W), or the pages of a TIFF as slices. Raises Unreadable."""
    with _open(path) as image:
        if getattr(image, "is_animated", False) and image.format != "TIFF":
            raise Unreadable("This picture is animated, but a still picture was expected; save the frame you need.")
        pages = _pages(image)
        notes: list[str] = []
        if len(pages) > 1:
            notes.append(f"The {len(pages)} pages of the TIFF became slices.")
        sixteen = _sixteen_bit_colour(path, image)
        pixels = _png_colour(path, notes) if sixteen else _pixels(image, notes)
        if sixteen or not pages[0]:
            pixels = _upright(pixels, image, notes)
        bits = pixels.dtype.itemsize * 8 if pixels.dtype.itemsize <= 2 else 32
        reading = Reading(
            format=(image.format or "").lower(),
            num_slices=len(pages),
            slices=iter(()),
            spacing_mm=(None, None, None),
            photometric="RGB" if pixels.shape[0] == 3 else "MONOCHROME2",
            bits=bits,
            notes=notes,
        )
    reading.slices = _slices(path, pages, pixels, notes)
    return reading


def _slices(path: Path, pages: list[int], first: np.ndarray, notes: list[str]) -> Iterator[Slice]:
    yield Slice(0, first)
    if len(pages) == 1:
        return
    with _open(path) as image:
        for index, page in enumerate(pages[1:], start=1):
            try:
                image.seek(page)
            except Exception:
                return
            pixels = _upright(_pixels(image, notes), image, notes)
            yield Slice(index, pixels)


def _open(path: Path) -> Image.Image:
    reason = _DAMAGED
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(path, formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        reason = _TOO_LARGE
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, TypeError, KeyError, struct.error, zlib.error):
        reason = _DAMAGED
    else:
        check_size(image.height, image.width, 1, 4, 1)
        return image
    raise Unreadable(reason)


def _pages(image: Image.Image) -> list[int]:
    """The pages of a TIFF that are no thumbnails or masks of others."""
    if image.format != "TIFF":
        return [0]
    pages = []
    number = 0
    while True:
        try:
            image.seek(number)
        except EOFError:
            break
        except Exception:
            raise Unreadable(_DAMAGED) from None
        if number >= MAX_PAGES:
            raise Unreadable(f"The TIFF has more than {MAX_PAGES} pages; it is damaged, or must be split.")
        if not int(image.tag_v2.get(_SUBFILE_TYPE, 0)) & 5:  # type: ignore[attr-defined]
            pages.append(number)
        number += 1
    pages = pages or [0]
    image.seek(pages[0])
    return pages


def _pixels(image: Image.Image, notes: list[str]) -> np.ndarray:
    """(C, H, W) of the current page, as many bits as it has."""
    pixels: np.ndarray | None = None
    reason = _DAMAGED
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            _refuse_loss(image)
            image.load()
            pixels = _array(image, notes)
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
    except Exception:
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
    notes.append("The picture was turned upright as its EXIF data say.")
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
    """PNG filters undone, all rows at once along anti-diagonals: a pixel needs only its left, upper and upper left."""
    rows, cols, step = lines.shape
    if filters.max() > 4:
        raise Unreadable(_DAMAGED)
    out = np.zeros((rows + 1, cols + 1, step), np.int16)
    out[1:, 1:] = lines
    flat = out.reshape(-1, step)
    kinds = filters.astype(np.int64)
    for diagonal in range(rows + cols - 1):
        y = np.arange(max(0, diagonal - cols + 1), min(rows, diagonal + 1))
        here = (y + 1) * (cols + 1) + (diagonal - y + 1)
        left, above, corner = flat[here - 1], flat[here - cols - 1], flat[here - cols - 2]
        kind = kinds[y][:, None]
        to_left, to_above = np.abs(above - corner), np.abs(left - corner)
        to_corner = np.abs(left + above - 2 * corner)
        paeth = np.where(
            (to_left <= to_above) & (to_left <= to_corner), left, np.where(to_above <= to_corner, above, corner)
        )
        guess = np.select([kind == 1, kind == 2, kind == 3, kind == 4], [left, above, (left + above) >> 1, paeth], 0)
        flat[here] = (flat[here] + guess) & 255
    return np.ascontiguousarray(out[1:, 1:].astype(np.uint8))
