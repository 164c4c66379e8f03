"""DICOM segmentations as masks on the series that they were drawn on (PS3.3 A.51, C.8.20)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from builder import dicom, series
from builder.dicom_file import functional_group, items, text, value_of, whole
from builder.places import Place
from builder.scan import Reading, Slice, Unreadable

_SHIFT = 0.1  # of a pixel: what rounding may make of a position
_MAX_LABEL = 64
_ANOTHER = "It was drawn on another series: none of the images that it refers to is among these."
_ANOTHER_GRID = "It was drawn on another grid of pixels than its series has: export it again on the images themselves."


@dataclass(frozen=True)
class _Series:
    """The slices of a scan: which image (and frame, from 1 on) each came from, and where it lies."""

    slices: dict[tuple[str, int], int]
    places: list[Place]
    spacing: tuple[float | None, float | None]
    size: tuple[int, int]


def read(path: Path, of: Sequence[Path]) -> Reading:
    """A segmentation as a mask, one slice for each slice of the scan that the files `of` hold.

    Its values are the numbers of its segments, 0 elsewhere; `names` are the labels of the segments. A frame belongs to
    the image that it refers to; one that refers to none, to the slice at its place in the patient.

    Raises: Unreadable when it is of another series, on another grid, fractional, or two segments share a pixel.
    """
    file, header, frames = dicom.stored_frames(path)
    kind = text(file.ds, "SegmentationType").upper()
    if kind not in ("BINARY", "LABELMAP"):
        raise Unreadable(
            "It says how likely each pixel is (fractional), but outlines were expected: export it as binary."
        )
    scan = _series(list(of))
    if (header.rows, header.cols) != scan.size:
        raise Unreadable(_ANOTHER_GRID)
    names = _names(file.ds)
    dtype = np.uint8 if max(names, default=1) < 256 else np.uint16
    mask = np.zeros((len(scan.places), *scan.size), dtype)
    matched = astray = 0
    for number, pixels in enumerate(frames):
        segment = 1 if kind == "LABELMAP" else _segment(file.ds, number)
        index = _slice_of(file.ds, number, scan)
        if index is None:
            astray += bool(pixels.any())
            continue
        matched += 1
        shown = pixels.astype(dtype) if kind == "LABELMAP" else (pixels != 0).astype(dtype) * dtype(segment)
        if np.any((mask[index] != 0) & (shown != 0) & (mask[index] != shown)):
            raise Unreadable("Two of its segments share a pixel, but a pixel can belong to one structure only.")
        mask[index] = np.where(shown != 0, shown, mask[index])
    if not matched:
        raise Unreadable(_ANOTHER)
    notes = [f"{astray} outlined image(s) of its series are not in this import."] if astray else []
    shown_values = {int(value) for value in np.flatnonzero(np.bincount(mask.reshape(-1))) if value}
    if shown_values - set(names):
        raise Unreadable("It shows segments that it does not describe; it is damaged: export it again.")

    def slices() -> Iterator[Slice]:
        for index, plane in enumerate(mask):
            yield Slice(index, plane[None])

    return Reading(
        format="dicom",
        num_slices=len(mask),
        slices=slices(),
        modality="SEG",
        bits=mask.dtype.itemsize * 8,
        notes=notes,
        names=tuple((value, names[value]) for value in sorted(names)),
    )


def _series(paths: list[Path]) -> _Series:
    found = series.ordered(paths)
    first = found[0][1]
    if len(found) == 1 and first.slices > 1:
        order, places = dicom.frame_places(found[0][0])
        instance = first.instance or ""
        slices = {(instance, frame + 1): index for frame, index in enumerate(order)}
    else:
        slices = {(header.instance or "", 1): index for index, (_, header) in enumerate(found)}
        places = [Place(header.origin, header.orientation) for _, header in found]
    slices = {key: index for key, index in slices.items() if key[0]}
    return _Series(slices, places, first.spacing_mm[1:], (first.rows, first.cols))


def _slice_of(ds: Dataset, frame: int, scan: _Series) -> int | None:
    """The slice that a frame lies on, None when its image is not among those of the scan. Raises Unreadable."""
    place = dicom.place_of(ds, frame)
    referred = dicom.sources_of(ds, frame)
    if referred:
        hits = [scan.slices[key] for key in referred if key in scan.slices]
        if hits and place.origin is not None and _offset(place, scan.places[hits[0]], scan) is None:
            raise Unreadable(_ANOTHER_GRID)
        return hits[0] if hits else None
    return next((n for n, own in enumerate(scan.places) if _offset(place, own, scan) is not None), None)


def _offset(place: Place, own: Place, scan: _Series) -> float | None:
    """How far two slices lie apart, mm; None where it is more than a fraction of a pixel, or their axes differ."""
    if place.origin is None or own.origin is None:
        return None
    if place.orientation is not None and own.orientation is not None:
        turned = np.abs(np.subtract(place.orientation, own.orientation)).max()
        if turned > _SHIFT / max(scan.size):
            return None
    apart = float(np.linalg.norm(np.subtract(place.origin, own.origin)))
    return apart if apart <= _SHIFT * min(scan.spacing[0] or 1.0, scan.spacing[1] or 1.0) else None


def _segment(ds: Dataset, frame: int) -> int:
    found = functional_group(ds, frame, "SegmentIdentificationSequence")
    if found is None:
        raise Unreadable("It does not say which segment a frame shows; it is damaged: export it again.")
    return whole(found, "ReferencedSegmentNumber", None, 1, 65535)


def _names(ds: Dataset) -> dict[int, str]:
    """{number: label} of the segments; a label that could name the patient, or is none, gives way to the number."""
    patient = text(ds, "PatientID").casefold()
    found: dict[int, str] = {}
    for item in items(ds, "SegmentSequence"):
        number = whole(item, "SegmentNumber", None, 0, 65535)
        label = str(value_of(item, "SegmentLabel") or "").strip()
        usable = 0 < len(label) <= _MAX_LABEL and label.isprintable()
        usable = usable and not (patient and patient in label.casefold())
        if number:
            found[number] = label if usable and label not in found.values() else str(number)
    return found
