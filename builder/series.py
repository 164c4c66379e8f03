"""The DICOM files of one series as one scan, sorted by position along the slice normal, never by name."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from builder.dicom import read, read_header
from builder.places import Place, depth_spacing, grid_of
from builder.scan import Header, Reading, Slice, Unreadable

_Found = list[tuple[Path, Header]]


def read_series(paths: Sequence[Path]) -> Reading:
    """The images of one series as one scan, sorted by their position along the slice normal.

    The largest group of images of one series, size and orientation is read; what is left out, gaps, uneven spacing,
    copies and gantry tilt are told in the notes. Raises: Unreadable when no image can be read, the images are of
    several patients, or two files that claim to be the same image differ.
    """
    notes: list[str] = []
    chosen = _chosen(paths, notes)
    if len(chosen) == 1:
        reading = read(chosen[0][0])
        reading.notes[:0] = notes
        return reading
    if any(header.slices > 1 for _, header in chosen):
        raise Unreadable("The series has several multi-frame files; read each of them as a scan of its own.")
    chosen, depth = _sorted(chosen, notes)
    first = read(chosen[0][0])
    notes.extend(first.notes)
    bits = max(header.bits for _, header in chosen)
    numbers = {path: number for number, path in enumerate(paths)}

    def slices() -> Iterator[Slice]:
        for index, (path, _) in enumerate(chosen):
            reading = read(path)
            if (reading.photometric, reading.modality) != (first.photometric, first.modality):
                raise Unreadable("The series mixes kinds of images (modality or grey scale); read them separately.")
            for piece in reading.slices:
                yield Slice(index, piece.pixels, piece.valid)
            notes.extend(reading.notes)

    return Reading(
        format="dicom",
        num_slices=len(chosen),
        slices=slices(),
        spacing_mm=(depth, *first.spacing_mm[1:]),
        modality=first.modality,
        photometric=first.photometric,
        bits=max(bits, first.bits) if first.photometric != "RGB" else first.bits,
        windows=first.windows,
        patient=first.patient,
        study=first.study,
        series=first.series,
        notes=notes,
        grid=grid_of([Place(h.origin, h.orientation) for _, h in chosen], *first.spacing_mm[1:], depth),
        order=tuple(numbers[path] for path, _ in chosen),
        body=first.body,
        attributes=first.attributes,
        unnumbered=first.unnumbered,
    )


def ordered(paths: Sequence[Path]) -> _Found:
    """The files that `read_series` makes slices of, in the order of these. Raises Unreadable."""
    chosen = _chosen(paths, [])
    return chosen if len(chosen) == 1 else _sorted(chosen, [])[0]


def members(paths: Sequence[Path]) -> list[Path]:
    """The files that `read_series` makes a scan of, one a slice, in the order of its slices."""
    return [path for path, _ in ordered(paths)]


def _chosen(paths: Sequence[Path], notes: list[str]) -> _Found:
    headers, refused = [], []
    for path in paths:
        try:
            headers.append((path, read_header(path)))
        except Unreadable as error:
            refused.append(error.reason)
    if not headers:
        raise Unreadable(refused[0] if refused else "There is no file to read; choose at least one.")
    if refused:
        notes.append(f"{len(refused)} of {len(paths)} files could not be read and were left out: {refused[0]}")
    patients = {header.patient for _, header in headers} - {None}
    if len(patients) > 1:
        raise Unreadable(f"These are images of {len(patients)} patients; take those of one patient at a time.")
    return _without_copies(_largest_stack(headers, notes), notes)


def _largest_stack(found: _Found, notes: list[str]) -> _Found:
    def stack(header: Header) -> tuple:
        orientation = tuple(np.round(header.orientation, 2) + 0.0) if header.orientation else None
        series = header.patient, header.series
        return series, header.rows, header.cols, header.channels, orientation, header.localizer

    groups: dict[tuple, _Found] = {}
    for path, header in found:
        groups.setdefault(stack(header), []).append((path, header))
    best = max(
        groups.values(), key=lambda group: (sum(h.slices for _, h in group), group[0][1].rows * group[0][1].cols)
    )
    tell: dict[str, Callable[[Header], Any]] = {
        "localizers": lambda header: header.localizer and not best[0][1].localizer,
        "of another series": lambda header: stack(header)[0] != stack(best[0][1])[0],
        "of another size": lambda header: (header.rows, header.cols) != (best[0][1].rows, best[0][1].cols),
        "in another orientation": lambda header: stack(header)[4] != stack(best[0][1])[4],
        "of another kind": lambda header: True,
    }
    left: dict[str, int] = {}
    for group in groups.values():
        if group is not best:
            words = next(words for words, test in tell.items() if test(group[0][1]))
            left[words] = left.get(words, 0) + len(group)
    if left:
        list_ = ", ".join(f"{count} {words}" for words, count in left.items())
        notes.append(f"The files are mixed: {sum(left.values())} of {len(found)} images were left out ({list_}).")
    return best


def _without_copies(found: _Found, notes: list[str]) -> _Found:
    kept: dict[str, Path] = {}
    result, copies = [], 0
    for path, header in found:
        if header.instance is None or header.instance not in kept:
            if header.instance is not None:
                kept[header.instance] = path
            result.append((path, header))
        elif _digest(path) == _digest(kept[header.instance]):
            copies += 1
        else:
            raise Unreadable(
                "Two files of the series claim to be the same image but show different pixels; remove the wrong one."
            )
    if copies:
        notes.append(f"{copies} file(s) are exact copies of others and were left out.")
    return result


def _digest(path: Path) -> bytes:
    digest = hashlib.sha256()
    for piece in read(path).slices:
        digest.update(piece.pixels.tobytes())
    return digest.digest()


def _sorted(found: _Found, notes: list[str]) -> tuple[_Found, float | None]:
    if any(header.position is None for _, header in found):
        notes.append("The images do not say where they lie in space; they are sorted by their number in the series.")
        return sorted(found, key=lambda item: item[1].number or 0), None
    ordered = sorted(found, key=lambda item: (item[1].position, item[1].number or 0))
    positions = np.array([header.position for _, header in ordered], float)
    depth = depth_spacing(positions, notes)
    same = int((np.diff(positions) <= 1e-3).sum())
    if same:
        notes.append(f"{same} image(s) lie at the same place as another one (several echoes, times or copies).")
    origins = np.array([header.origin for _, header in ordered], float)
    normal = Place(None, ordered[0][1].orientation).normal
    way = origins[-1] - origins[0]
    length = float(np.linalg.norm(way))
    if normal is not None and length > 1e-3:
        tilt = math.degrees(math.acos(min(1.0, abs(float(np.dot(way, normal))) / length)))
        if tilt > 1:
            notes.append(f"The gantry was tilted by about {tilt:.1f} degrees: the slices are shifted in their plane.")
    return ordered, depth
