"""What lies behind a canvas: a slice under its window, with a margin, a mask and boxes painted into it."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

from builder.labels import Box
from builder.scans import Scan, Window
from builder.strokes import View
from pages.kit import scans
from pages.kit.marks import INSIDE
from pages.kit.viewer import COLOURS, colour_of

__all__ = ["Frame", "backdrop", "framed"]

_MARGIN_PX = 20  # of the canvas around the picture, so that a box may begin and end at its very edge
_MARGIN_GREY = 24


@dataclass(frozen=True)
class Frame:
    """A canvas for a slice.

    Attributes:
        view: where the slice lies on it. width, height: of the canvas, in its pixels.
        margin_x, margin_y: beside and above the slice, in pixels of the scan.
    """

    view: View
    width: int
    height: int
    margin_x: int
    margin_y: int


def framed(scan: Scan, side_px: int) -> Frame:
    """Returns a canvas on which the longer side of a slice has about `side_px` pixels, in its true proportions."""
    height, width = scan.pixels.shape[2:]
    down, across = scan.spacing_mm[1], scan.spacing_mm[2]
    stretch = down / across if down and across and 0.1 < down / across < 10 else 1.0
    scale = side_px / max(width, height * stretch)
    margin_x, margin_y = (math.ceil(_MARGIN_PX / s) for s in (scale, scale * stretch))
    canvas_width = round((width + 2 * margin_x) * scale)
    canvas_height = round((height + 2 * margin_y) * scale * stretch)
    view = View(canvas_width / (width + 2 * margin_x), canvas_height / (height + 2 * margin_y))
    view = replace(view, left=margin_x * view.across, top=margin_y * view.down)
    return Frame(view, canvas_width, canvas_height, margin_x, margin_y)


def backdrop(
    scan: Scan, index: int, window: Window | None, frame: Frame, mask: np.ndarray | None, boxes: Sequence[Box]
) -> bytes:
    """Returns slice `index` as a PNG of its own size with the frame's margin; the canvas stretches it.

    Args:
        mask: uint8 (H, W), painted in the colours of its structures. boxes: painted as thin lines.
    """
    picture = scans.shown(scan, index, window)
    if mask is not None and mask.any():
        picture = with_mask(picture, mask)
    margins = ((frame.margin_y,) * 2, (frame.margin_x,) * 2, *((0, 0),) * (picture.ndim - 2))
    image = Image.fromarray(np.pad(picture, margins, constant_values=_MARGIN_GREY))
    if boxes:
        image = image.convert("RGB")
        pen = ImageDraw.Draw(image)
        for box in boxes:
            x0, y0 = round(box.x0) + frame.margin_x, round(box.y0) + frame.margin_y
            x1, y1 = max(x0, round(box.x1 - 1) + frame.margin_x), max(y0, round(box.y1 - 1) + frame.margin_y)
            pen.rectangle((x0, y0, x1, y1), outline=colour_of(box.label))
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


def with_mask(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Returns uint8 (H, W, 3): the inside of each structure lets the picture through, its outermost pixels less so.

    Args:
        picture: uint8 (H, W) or (H, W, 3). mask: uint8 (H, W), 0 = nothing.
    """
    colours = np.array([[int(c[at : at + 2], 16) for at in (1, 3, 5)] for c in COLOURS], np.float32)
    rgb = (np.repeat(picture[..., None], 3, 2) if picture.ndim == 2 else picture).astype(np.float32)
    around, inner = np.pad(mask, 1), np.ones(mask.shape, bool)
    for near, middle in ((slice(0, -2), slice(1, -1)), (slice(2, None), slice(1, -1))):
        inner &= (around[near, middle] == mask) & (around[middle, near] == mask)
    where = mask > 0
    alpha = np.where(inner, INSIDE, 0.85)[where][:, None]
    rgb[where] = rgb[where] * (1 - alpha) + colours[(mask[where].astype(int) - 1) % len(COLOURS)] * alpha
    return rgb.round().astype(np.uint8)
