"""How large an outline is: volume, area and longest diameter, in mm where the scan says how large a pixel is."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Spacing = tuple[float | None, float | None, float | None]


def extent(outline: np.ndarray, spacing_mm: Spacing, whole: bool = True) -> tuple[dict[str, Any], list[str]]:
    """Facts about an outline, and in words what cannot be told.

    Args:
        outline: (S, H, W), anything but 0 is inside. spacing_mm: of slices, rows and columns; None where unknown.
        whole: every slice of the scan was looked at; else there is no volume.
    Returns: {volume_ml, longest_diameter_mm, area_mm2 (of the slice with the most), area_px (likewise), slices (how
        many it touches)}; None for what is unknown. The diameter is the longest line between two points of one
        connected piece in one slice, as RECIST 1.1 measures it (Eisenhauer et al. 2009), from edge to edge.
    """
    depth, height, width = (value if value and math.isfinite(value) and value > 0 else None for value in spacing_mm)
    inside = np.asarray(outline) != 0
    areas = inside.sum((1, 2))
    facts: dict[str, Any] = {
        "volume_ml": None,
        "longest_diameter_mm": None,
        "area_mm2": None,
        "area_px": int(areas.max()),
        "slices": int((areas > 0).sum()),
    }
    notes = [] if areas.any() else ["No tumor is outlined."]
    if not height or not width:
        return facts, [*notes, "The scan does not say how large a pixel is: sizes in millimetres are unknown."]
    facts["area_mm2"] = round(float(areas.max()) * height * width, 3)
    facts["longest_diameter_mm"] = round(longest_diameter(inside, height, width), 3)
    if not whole:
        notes.append(f"Only the middle one of {len(inside)} slices was looked at, so there is no volume.")
    elif not depth:
        notes.append("The scan does not say how far its slices lie apart, so there is no volume.")
    else:
        facts["volume_ml"] = round(float(areas.sum()) * depth * height * width / 1000, 6)
    return facts, notes


def longest_diameter(inside: np.ndarray, height: float = 1.0, width: float = 1.0) -> float:
    """The longest line within a connected piece of one slice of (S, H, W) bool; 0 where there is none.

    Args:
        height, width: of a pixel. Pieces touch by their edges or corners.
    """
    from scipy.ndimage import find_objects, label

    longest = 0.0
    for mask in inside:
        if not mask.any():
            continue
        pieces, _ = label(mask, np.ones((3, 3)))
        for number, (rows, columns) in enumerate(find_objects(pieces), 1):
            box = math.hypot((rows.stop - rows.start) * height, (columns.stop - columns.start) * width)
            if box > longest:
                longest = max(longest, _across(pieces[rows, columns] == number, height, width))
    return longest


def _across(piece: np.ndarray, height: float, width: float) -> float:
    """The longest line between two edges of pixels (their middles) of a piece (h, w) bool without an empty row or
    column. Corners would make every round piece more than a pixel too long."""
    rows, columns = (np.arange(side) + 0.5 for side in piece.shape)
    left, right = piece.argmax(1), piece.shape[1] - piece[:, ::-1].argmax(1)
    top, bottom = piece.argmax(0), piece.shape[0] - piece[::-1].argmax(0)
    y = np.concatenate([rows, rows, top, bottom])
    x = np.concatenate([left, right, columns, columns])
    points = np.stack([y * height, x * width], 1)
    # The outermost edges of each row and column hold the hull; all pairs of them, some at a time.
    most = 0.0
    for start in range(0, len(points), 512):
        apart = points[start : start + 512, None] - points[None]
        most = max(most, float((apart**2).sum(-1).max()))
    return math.sqrt(most)
