"""Where slices lie in space: order, spacing, gaps (DICOM PS3.3 C.7.6.2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


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


_TOWARDS = (("L", "R"), ("P", "A"), ("H", "F"))  # of the patient's axes x, y and z, DICOM PS3.3 C.7.6.2.1.1
_NEAREST = 0.75  # cosine from which a direction is called after the axis it is nearest to


def axes_of(place: Place, ordered: bool) -> str:
    """Where the next column, row and slice lie, as `Scan.axes`; `ordered`: the slices follow each other along the
    normal."""
    normal = place.normal
    if place.orientation is None or normal is None:
        return ""
    across, down = np.array(place.orientation[:3]), np.array(place.orientation[3:])
    letters = [_letter(across), _letter(down), _letter(normal) if ordered else "-"]
    return "".join(letters) if letters != ["-"] * 3 else ""


def _letter(direction: np.ndarray) -> str:
    length = float(np.linalg.norm(direction))
    axis = int(np.abs(direction).argmax())
    if length < 1e-6 or abs(direction[axis]) / length < _NEAREST:
        return "-"
    return _TOWARDS[axis][0 if direction[axis] > 0 else 1]


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
