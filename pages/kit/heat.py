"""Pictures of an answer: the scan as the network saw it, the heat map over it, both in one file to take away."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

__all__ = ["enlarged", "loaded", "overlay", "png", "sheet"]

_STOPS = np.array([[24, 15, 62], [120, 28, 109], [207, 68, 70], [251, 155, 6], [252, 255, 164]], np.float32)
"""Five colours from dark to bright whose lightness rises evenly, readable also without colour vision."""


def loaded(path: Path) -> np.ndarray:
    """Returns a PNG as uint8 (H, W) or (H, W, 3)."""
    with Image.open(path) as image:
        return np.asarray(image)


def enlarged(picture: np.ndarray, side_px: int) -> np.ndarray:
    """Returns the picture with its longer side `side_px` long, every pixel a sharp square."""
    height, width = picture.shape[:2]
    scale = side_px / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.NEAREST))


def overlay(picture: np.ndarray, heat: np.ndarray, opacity: float, greyed: bool = False) -> np.ndarray:
    """Returns uint8 (H, W, 3): the heat in colour over the picture, stronger where there is more of it.

    Args:
        picture: uint8 (H, W) or (H, W, 3). heat: uint8 (H, W), 255 = most. opacity: 0..1 of the hottest place.
        greyed: all in greys, the picture too: the map is not to be believed.
    """
    grey = np.repeat(picture[..., None], 3, 2) if picture.ndim == 2 else picture
    stops = _STOPS
    if greyed:
        grey = np.repeat(grey.mean(2, keepdims=True), 3, 2)
        stops = np.repeat(np.array([[70], [90], [110], [130], [150]], np.float32), 3, 1)
    if heat.shape != grey.shape[:2]:
        size = (grey.shape[1], grey.shape[0])
        heat = np.asarray(Image.fromarray(heat).resize(size, Image.Resampling.BILINEAR))
    share = heat.astype(np.float32) / 255
    at = share * (len(stops) - 1)
    low = np.clip(at.astype(int), 0, len(stops) - 2)
    part = (at - low)[..., None]
    colour = stops[low] * (1 - part) + stops[low + 1] * part
    alpha = (share * opacity)[..., None]
    return np.clip(grey * (1 - alpha) + colour * alpha, 0, 255).round().astype(np.uint8)


def png(picture: np.ndarray) -> bytes:
    """Returns the picture as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def sheet(picture: np.ndarray, over: np.ndarray | None, probabilities: Mapping[str, float], lines: list[str]) -> bytes:
    """Returns one PNG to take away: scan, heat map, probabilities in words, and what must be said with them."""
    side, margin = 360, 16
    shown = [enlarged(p, side) for p in (picture, over) if p is not None]
    ranked = sorted(probabilities.items(), key=lambda item: -item[1])
    texts = [f"{name}: {100 * value:.1f} %" for name, value in ranked] + ["", *lines]
    font = ImageFont.load_default(15)
    canvas = Image.new("RGB", (2 * side + 3 * margin, side + 3 * margin + 22 * len(texts)), "white")
    for place, part in enumerate(shown):
        canvas.paste(Image.fromarray(part).convert("RGB"), (margin + place * (side + margin), margin))
    draw = ImageDraw.Draw(canvas)
    for row, text in enumerate(texts):
        draw.text((margin, side + 2 * margin + 22 * row), text, fill="black", font=font)
    file = io.BytesIO()
    canvas.save(file, "PNG")
    return file.getvalue()
