"""Where letters are burnt into a picture: rows of thin bright strokes on a dark ground.

Nothing is read and no model is needed: a stroke is what an opening takes away (Serra, Image Analysis and Mathematical
Morphology, 1982), and letters are strokes that follow each other along a row. What is missed: pale or dark letters,
letters over bright tissue, one letter alone. What may be taken for letters: other rows of thin bright marks, such as a
ruler, calipers or wires.
"""

from __future__ import annotations

import numpy as np

_BRIGHT = 0.5  # the least height of a stroke over its ground, of the picture's own range
_GROUND = 0.45  # the brightest ground
_THICK = 1 / 28  # of the side: the thickest stroke
_HIGH = 1 / 6  # of the side: the highest row of letters
_STROKES = 3  # one after the other


def lettering(images: np.ndarray) -> np.ndarray:
    """(B, H, W) bool: where letters seem to be, as boxes around rows of them.

    Args:
        images: (B, ..., H, W) float32 in [0, 1]; of several slices or channels the mean is looked at, as letters stay
            where they are.
    """
    height, width = images.shape[-2:]
    grey = images.reshape(len(images), -1, height, width).mean(1)
    found = np.zeros((len(images), height, width), bool)
    for picture, out in zip(grey, found, strict=True):
        for top, bottom, left, right in _rows(picture):
            out[top:bottom, left:right] = True
    return found


def _rows(picture: np.ndarray) -> list[tuple[int, int, int, int]]:
    """(top, bottom, left, right) of each row of letters."""
    from scipy import ndimage

    height, width = picture.shape
    low, high = float(picture.min()), float(picture.max())
    if high <= low:
        return []
    scaled = (picture - low) / (high - low)
    thick = max(3, 2 * round(_THICK * max(height, width) / 2) + 1)
    ground = ndimage.grey_opening(scaled, size=(thick, thick))
    strokes = (scaled - ground > _BRIGHT) & (ground < _GROUND)
    if not strokes.any():
        return []
    joined = ndimage.binary_closing(np.pad(strokes, thick), np.ones((1, 2 * thick + 1), bool))
    joined = joined[thick:-thick, thick:-thick]
    named, _ = ndimage.label(joined, np.ones((3, 3)))
    boxes = []
    for number, place in enumerate(ndimage.find_objects(named), 1):
        rows, columns = place
        tall, wide = rows.stop - rows.start, columns.stop - columns.start
        if tall > max(5, _HIGH * height) or wide < 1.5 * tall or tall < 2:
            continue
        inside = strokes[place] & (named[place] == number)
        starts = (np.diff(np.pad(inside, ((0, 0), (1, 0))).astype(np.int8), axis=1) > 0).sum(1)
        if (starts >= _STROKES).sum() >= 2:
            pad = max(1, thick // 2)
            boxes.append(
                (
                    max(0, rows.start - pad),
                    min(height, rows.stop + pad),
                    max(0, columns.start - pad),
                    min(width, columns.stop + pad),
                )
            )
    return boxes
