"""Where slices lie in space: order, spacing, gaps (DICOM PS3.3 C.7.6.2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from builder.scan import Grid, Vector

_EVEN = 0.01  # of the distance of slices
_EVEN_MM = 0.01


@dataclass(frozen=True)
class Place:
    """Corner and directions of a slice in the patient, mm (ImagePositionPatient, ImageOrientationPatient)."""

    origin: tuple[float, ...] | None
    orientation: tuple[float, ...] | None

    @property
    def normal(self) -> np.ndarray | None:
        """Unit vector across the slice, None where the orientation is missing or impossible."""
        if self.orientation is None:
            return None
        normal = np.cross(self.orientation[:3], self.orientation[3:])
        length = float(np.linalg.norm(normal))
        return normal / length if length > 0.5 else None

    @property
    def position(self) -> float | None:
        """Place along the normal, mm."""
        normal = self.normal
        return None if normal is None or self.origin is None else float(np.dot(self.origin, normal))


def frame_order(places: list[Place], notes: list[str]) -> tuple[list[int], float | None]:
    """(slice index of each frame, spacing along the normal in mm). Stored order where positions do not order them."""
    stored = list(range(len(places)))
    positions = [place.position for place in places]
    if len(places) < 2 or any(position is None for position in positions):
        return stored, None
    if len({tuple(np.round(place.orientation or (), 3)) for place in places}) > 1:
        notes.append("The frames lie in several orientations; they are kept in the order of the file.")
        return stored, None
    values = np.array(positions, float)
    if len(np.unique(values.round(3))) < len(values):
        notes.append("Several frames lie at the same position; they are kept in the order of the file.")
        return stored, None
    ranks = np.empty(len(values), int)
    ranks[np.argsort(values)] = stored
    return ranks.tolist(), depth_spacing(np.sort(values), notes)


def grid_of(places: list[Place], y_mm: float | None, x_mm: float | None, depth_mm: float | None) -> Grid | None:
    """The grid of slices that lie at `places`, in that order; None where the file does not say it all.

    Args:
        y_mm, x_mm: distance of rows and of columns.
        depth_mm: distance of slices, for a scan that has only one (1 mm where that is not known either).
    """
    first = places[0]
    if first.normal is None or first.orientation is None or not y_mm or not x_mm:
        return None
    if any(place.origin is None or place.orientation is None for place in places):
        return None
    if any(np.abs(np.subtract(place.orientation or (), first.orientation)).max() > 1e-3 for place in places):
        return None
    across, down = np.array(first.orientation[:3]), np.array(first.orientation[3:])
    across, down = across / np.linalg.norm(across) * x_mm, down / np.linalg.norm(down) * y_mm
    origins = np.array([place.origin for place in places], float)
    if len(places) == 1:
        return Grid(_vector(origins[0]), (_vector(first.normal * (depth_mm or 1.0)), _vector(down), _vector(across)))
    step = (origins[-1] - origins[0]) / (len(origins) - 1)
    wrong = np.linalg.norm(origins - (origins[0] + np.arange(len(origins))[:, None] * step), axis=1).max()
    even = float(np.linalg.norm(step)) > 1e-6 and wrong <= max(_EVEN_MM, _EVEN * float(np.linalg.norm(step)))
    uneven = () if even else tuple(_vector(origin) for origin in origins)
    return Grid(_vector(origins[0]), (_vector(step), _vector(down), _vector(across)), uneven)


def _vector(values: np.ndarray) -> Vector:
    x, y, z = (float(value) for value in values)
    return x, y, z


def depth_spacing(positions: np.ndarray, notes: list[str]) -> float | None:
    """Median distance of sorted positions in mm; tells of gaps and of uneven spacing."""
    steps = np.diff(positions)
    steps = steps[steps > 1e-3]
    if not steps.size:
        return None
    median = float(np.median(steps))
    gaps = steps > 1.75 * median
    even = np.abs(steps[~gaps] - median) <= max(0.05 * median, 0.02)
    wholes = steps[gaps] / median
    if not even.all() or not np.allclose(wholes, wholes.round(), atol=0.1):
        notes.append(f"The slices are unevenly spaced: {steps.min():.2f} to {steps.max():.2f} mm.")
    elif gaps.any():
        missing = int(wholes.round().sum() - gaps.sum())
        notes.append(f"There are gaps in the series: about {missing} slice(s) seem to be missing.")
    return median
