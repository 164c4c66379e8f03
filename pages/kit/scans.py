"""Scans as still pictures: one slice under a window, thumbnails and a gallery of them; what a scan is in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import streamlit as st
from PIL import Image

from builder.scans import NAMED_WINDOWS, Scan, Unreadable, Window, display, read
from pages.kit.words import amount, plain

__all__ = ["axes_of", "facts", "gallery", "picture", "range_of", "samples", "shown", "thumbnail", "windows_of"]

UNEVEN = "unevenly spaced"
"""The words by which a scan's note says so."""
_TILE = """<style>
[class*=st-key-tile-]{position:relative}
[class*=st-key-tile-] *{position:static!important}
[class*=st-key-tile-] button::after{content:"";position:absolute!important;inset:0;cursor:pointer;border-radius:.5rem}
[class*=st-key-tile-]:hover button::after{box-shadow:0 0 0 2px var(--st-primary-color)}
[class*=st-key-tile-] [data-testid=stElementToolbar]{display:none}
</style>"""  # the button under a picture reaches over the whole tile


def picture(scan: Scan, index: int = 0) -> np.ndarray:
    """Returns slice `index` of a scan as people see it first: under the file's own window, else its robust range.

    Returns: uint8 (H, W) grey or (H, W, 3) colour; rows are stretched where pixels are not square.
    """
    return square_pixels(shown(scan, index), scan.spacing_mm)


def shown(scan: Scan, index: int, window: Window | None = None) -> np.ndarray:
    """Returns slice `index` under a window, pixel for pixel: uint8 (H, W) grey or (H, W, 3) colour.

    Args:
        window: in stored units; None for the file's own, else one range for all slices, so that brightness does not
            jump from slice to slice.
    """
    if window is None and not scan.windows:
        low, high = range_of(scan, full=scan.pixels.dtype == np.uint8)
        window = Window((low + high) / 2, max(high - low, 1e-6), "LINEAR_EXACT")
    valid = None if scan.valid is None else scan.valid[index : index + 1]
    one = replace(scan, pixels=np.asarray(scan.pixels[index : index + 1]), valid=valid)
    if window is not None:
        one = replace(one, windows=(window,))
    grey = np.rint(display(one)[0] * 255).astype(np.uint8)
    return grey[0] if grey.shape[0] != 3 else np.moveaxis(grey, 0, -1)


_WINDOW_WORDS = {
    "ct full": "All of it (CT)",
    "ct lung": "Lung",
    "ct soft tissue": "Soft tissue",
    "ct brain": "Brain",
    "ct bone": "Bone",
}


def windows_of(scan: Scan) -> dict[str, tuple[str, Window]]:
    """Returns the windows to choose from, {name: (words, window)}, the one to begin with first; {} for colour.

    Ranges are those of the whole scan, not of a slice.
    """
    if scan.pixels.shape[1] == 3:
        return {}
    found = {}
    for number, own in enumerate(scan.windows[:8]):
        words = own.name or ("As the file says" if number == 0 else f"Window {number + 1} of the file")
        found[f"file {number}"] = (words[:40], own)
    names = [("percentile", "Robust range"), ("full", "Full range")]
    for name, words in names if scan.pixels.dtype != np.uint8 else reversed(names):
        low, high = range_of(scan, full=name == "full")
        width = max(high - low, 1e-6)
        found[name] = (words, Window(low + width / 2, width, "LINEAR_EXACT"))
    if scan.modality == "CT":
        found |= {name: (_WINDOW_WORDS[name], Window(*window)) for name, window in NAMED_WINDOWS.items()}
    return found


def range_of(scan: Scan, *, full: bool) -> tuple[float, float]:
    """Returns (low, high) for all slices together: what the stored bits can hold, or 0.5 % to 99.5 % of the pixels.

    Of signed and float pixels the full range is what is present in nine slices spread over the scan.
    """
    pixels = scan.pixels
    if full and pixels.dtype.kind == "u":
        return 0.0, float(max(2**scan.bits - 1, 1))
    slices = np.unique(np.linspace(0, len(pixels) - 1, min(len(pixels), 9)).astype(int))
    sample = np.asarray(pixels[slices][..., ::2, ::2], np.float32)
    if scan.valid is not None:
        sample = sample[np.broadcast_to(scan.valid[slices][:, None, ::2, ::2], sample.shape)]
    if not sample.size:
        return 0.0, 1.0
    if full:
        return float(sample.min()), float(sample.max())
    low, high = np.percentile(sample, (0.5, 99.5))
    return (float(low), float(high)) if high > low else (float(sample.min()), float(sample.max()))


_TOWARDS = (("L", "R"), ("P", "A"), ("H", "F"))  # of the patient's axes x, y and z, DICOM PS3.3 C.7.6.2.1.1
_NEAREST = 0.75  # cosine from which a direction is called after the axis it is nearest to


def axes_of(scan: Scan) -> str:
    """Returns where the next column, row and slice lie in the patient: a letter each out of L R P A H F (left, right,
    back, front, head, feet), "-" for an oblique one; "" where the file does not say how the scan lies."""
    if scan.grid is None:
        return ""
    letters = ""
    for step in reversed(scan.grid.steps):
        axis = int(np.abs(step).argmax())
        share = abs(step[axis]) / max(float(np.linalg.norm(step)), 1e-9)
        letters += _TOWARDS[axis][0 if step[axis] > 0 else 1] if share >= _NEAREST else "-"
    return letters


def square_pixels(grey: np.ndarray, spacing_mm: Sequence[float | None]) -> np.ndarray:
    down, across = spacing_mm[1], spacing_mm[2]
    if not down or not across or abs(down / across - 1) < 0.02 or not 0.1 < down / across < 10:
        return grey
    height, width = grey.shape[:2]
    size = (width, round(height * down / across)) if down > across else (round(width * across / down), height)
    return np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BILINEAR))


def facts(scan: Scan) -> str:
    """Returns what a scan is in one line of markdown: kind, size, slices, bits, and spacing where it is one."""
    slices, channels, height, width = scan.pixels.shape
    said = [
        plain(scan.modality or scan.format.upper()),
        f"{width} × {height} px",
        amount(slices, "slice") if slices > 1 else "",
        "colour" if channels > 1 else f"{scan.bits} bit",
    ]
    known = [f"{value:.2f}" for value in scan.spacing_mm[:0:-1] if value]  # width, then height, as the pixels
    if len(known) == 2:
        said.append(f"pixel {known[0]} × {known[1]} mm")
    if slices > 1 and scan.spacing_mm[0] and not any(UNEVEN in note for note in scan.notes):
        said.append(f"slices {scan.spacing_mm[0]:.2f} mm apart")
    return " · ".join(filter(None, said))


def thumbnail(scan: Scan, side_px: int = 160) -> np.ndarray:
    """Returns the middle slice small, on a black square: uint8 (side_px, side_px) or (side_px, side_px, 3)."""
    small = Image.fromarray(picture(scan, len(scan.pixels) // 2))
    small.thumbnail((side_px, side_px), Image.Resampling.BILINEAR)
    if max(small.size) < side_px:
        grown = side_px / max(small.size)
        small = small.resize((round(small.width * grown), round(small.height * grown)), Image.Resampling.BILINEAR)
    square = Image.new(small.mode, (side_px, side_px))
    square.paste(small, ((side_px - small.width) // 2, (side_px - small.height) // 2))
    return np.asarray(square)


def gallery(
    pictures: Sequence[np.ndarray], captions: Sequence[str], keys: Sequence[str], *, num_columns: int = 8
) -> str:
    """Draws thumbnails in rows, each with its name a button; returns the key whose tile was pressed, else ""."""
    pressed = ""
    st.html(_TILE)
    for start in range(0, len(pictures), num_columns):
        places = st.columns(num_columns, gap="small")
        row = slice(start, start + num_columns)
        for place, shown, caption, key in zip(places, pictures[row], captions[row], keys[row], strict=False):
            with place, st.container(key=f"tile-{key}"):
                st.image(shown, width="stretch")
                if st.button(plain(caption), key=key, type="tertiary", width="stretch", help="Look at this scan"):
                    pressed = key
    return pressed


@lru_cache(maxsize=1)
def samples() -> dict[str, Scan]:
    """Returns real DICOM files out of pydicom's own test files, by name; {} where pydicom came without them.

    They are read in this process: they are part of an installed package, not an upload.
    """
    from pydicom.data import get_testdata_file

    found = {}
    for title, name in {"CT": "CT_small.dcm", "MR": "MR_small.dcm"}.items():
        path = get_testdata_file(name, download=False)
        if path is not None:
            try:
                found[title] = read(Path(str(path)))
            except Unreadable:
                continue
    return found
