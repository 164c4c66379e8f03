"""The labels of an import: from what label files say to what is stored; what cannot be is counted and told in words."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from builder.boxfiles import BoxList, Drawn
from builder.gathering import SourceRefused
from builder.labels import MAX_STRUCTURES, Box, Packed, pack
from builder.scan import Scan

LEAST_INSIDE = 0.5
"""Share of a box that must lie in the picture: what reaches out of it is cut off, and told."""

LEAST_PX = 0.5
"""A box that is narrower has no area: somebody clicked instead of drawing."""

ONE_STRUCTURE = "lesion"
"""What the structure is called where all masks show one, and no file names it."""

_NO_AREA, _OUTSIDE, _MOSTLY_OUTSIDE = "no area", "outside the picture", "more than half outside the picture"
_NO_SLICE, _INVERTED = "in a slice that is not there", "its edges the wrong way round"
_CLIPPED = "cut off at the edge of the picture"


# -- boxes ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Boxed:
    """The boxes of one scan, None where nothing usable was said; how many were refused, and why, and how many cut."""

    boxes: tuple[Box, ...] | None
    bad: Counter[str]
    clipped: int = 0
    problem: str = ""

    @property
    def words(self) -> str:
        """What was done to the boxes, in a sentence; "" where all were taken as they were."""
        if self.problem:
            return self.problem
        said = [f"{n} box{'es were' if n > 1 else ' was'} refused ({why})" for why, n in self.bad.items()]
        if self.clipped:
            said.append(f"{self.clipped} box{'es were' if self.clipped > 1 else ' was'} {_CLIPPED}")
        if not said:
            return ""
        words = "; ".join(said)
        return f"{words[0].upper()}{words[1:]}."


def boxed(told: BoxList, scan: Scan, classes: Sequence[str], slice: int | None = None) -> Boxed:
    """The boxes of a scan in its pixels.

    Args:
        slice: the slice that all of them lie in, where the label file speaks of the file of one slice.
    """
    slices, _, height, width = scan.pixels.shape
    if told.problem:
        return Boxed(None, Counter(), problem=told.problem)
    if told.size_px and told.size_px != (width, height):
        return Boxed(None, Counter(), problem="Its boxes were drawn on a picture of another size.")
    bad: Counter[str] = Counter()
    kept: list[Box] = []
    clipped = 0
    for drawn in told.boxes:
        at = drawn.slice if slice is None else slice
        box, reason = _placed(drawn, (width, height), told.relative)
        if not reason and not 0 <= at < slices:
            reason = _NO_SLICE
        if reason == _CLIPPED:
            clipped, reason = clipped + 1, ""
        if reason:
            bad[reason] += 1
            continue
        kept.append(Box(*box, classes.index(drawn.name), at))
    nothing_left = bool(told.boxes) and not kept  # not the same as a picture on which there is nothing
    return Boxed(None if nothing_left else tuple(kept), bad, clipped)


def _placed(drawn: Drawn, size: tuple[int, int], relative: bool) -> tuple[tuple[float, float, float, float], str]:
    """The edges in pixels within the picture, and what is wrong with the box or was done to it ("" for nothing)."""
    across, down = size if relative else (1, 1)
    x0, y0, x1, y1 = drawn.x0 * across, drawn.y0 * down, drawn.x1 * across, drawn.y1 * down
    edges = (x0, y0, x1, y1)
    if x1 < x0 or y1 < y0:
        return edges, _INVERTED
    if x1 - x0 < LEAST_PX or y1 - y0 < LEAST_PX:
        return edges, _NO_AREA
    inside = (max(0.0, x0), max(0.0, y0), min(float(size[0]), x1), min(float(size[1]), y1))
    wide, high = inside[2] - inside[0], inside[3] - inside[1]
    if wide <= 0 or high <= 0:
        return edges, _OUTSIDE
    if wide * high < LEAST_INSIDE * (x1 - x0) * (y1 - y0) or wide < LEAST_PX or high < LEAST_PX:
        return edges, _MOSTLY_OUTSIDE
    rounded = tuple(round(edge, 3) for edge in inside)
    cut = any(abs(a - b) > 1e-3 for a, b in zip(inside, edges, strict=True))  # less is what writing decimals does
    return (rounded[0], rounded[1], rounded[2], rounded[3]), _CLIPPED if cut else ""


def boxes_in_words(bad: Counter[str], clipped: int) -> list[str]:
    """What an import did to boxes, for its warnings."""
    said = []
    if total := sum(bad.values()):
        why = ", ".join(f"{n} {reason}" for reason, n in bad.most_common())
        was, whose = ("boxes were", "their scans") if total > 1 else ("box was", "its scan")
        said.append(f"{total} {was} refused ({why}); the other boxes of {whose} were kept. The tab Files says where.")
    if clipped:
        were = "boxes reached out of the picture and were" if clipped > 1 else "box reached out of the picture and was"
        said.append(f"{clipped} {were} {_CLIPPED}.")
    return said


# -- masks ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Waiting:
    """A mask on disk that waits for the names of its structures."""

    at: int
    bytes: int
    shape: tuple[int, ...]
    values: tuple[int, ...]
    names: dict[int, str]


class Masks:
    """The masks of an import: they wait until all are there, as only then it is known what their values mean."""

    def __init__(self, path: Path, known: Sequence[str] = ()) -> None:
        """
        Args:
            path: where they wait, packed.
            known: the structures of the dataset that is added to, () for a new one.
        """
        self._path = path
        self._known = tuple(known)
        self._waiting: list[_Waiting] = []
        self._one: bool | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, mask: np.ndarray, names: dict[int, str] | None = None) -> int:
        """Keeps a mask, uint16 (S, H, W); `names` of its values where its file tells them. Returns its number."""
        packed = zlib.compress(np.ascontiguousarray(mask, "<u2").view(np.uint8).data, 1)
        at = self._waiting[-1].at + self._waiting[-1].bytes if self._waiting else 0
        with open(self._path, "ab") as file:
            file.write(packed)
        values = tuple(int(value) for value in np.flatnonzero(np.bincount(mask.reshape(-1))) if value)
        self._one = None
        self._waiting.append(_Waiting(at, len(packed), mask.shape, values, names or {}))
        return len(self._waiting) - 1

    def named(self) -> tuple[str, ...]:
        """The names of all structures, those of the dataset that is added to first.

        Raises:
            SourceRefused: a structure that the dataset does not know, or more than a mask can tell apart.
        """
        found = {name for mask in self._waiting for name in self._names(mask).values()}
        if not self._known:
            names = tuple(sorted(found, key=_natural))
            if len(names) > MAX_STRUCTURES:
                raise SourceRefused(
                    f"The masks show {len(names)} structures; at most {MAX_STRUCTURES} can be told apart."
                )
            return names
        unknown = found - set(self._known)
        if unknown:
            raise SourceRefused(
                f"The masks of the dataset show {', '.join(self._known)}; those of this source show {len(unknown)} "
                f"other{'s' if len(unknown) > 1 else ''}. Rename or renumber them, or import it as a new dataset."
            )
        return self._known

    def store(self, number: int, names: Sequence[str], append: Callable[[bytes], int]) -> Packed:
        """Writes a waiting mask with `append`, which returns the offset; its values are now places in `names`."""
        found = self.read(number, names)
        packed = pack(found)
        shown = {names.index(name) + 1 for name in self._names(self._waiting[number]).values()}
        return Packed(append(packed), len(packed), tuple(sorted(shown)))

    def read(self, number: int, names: Sequence[str]) -> np.ndarray:
        """A waiting mask, uint8 (S, H, W); its values are now places in `names`, counted from 1."""
        mask = self._waiting[number]
        with open(self._path, "rb") as file:
            file.seek(mask.at)
            plain = zlib.decompress(file.read(mask.bytes))
        places = np.zeros(1 << 16, np.uint8)
        own = self._names(mask)
        for value in mask.values:
            places[value] = names.index(own[value]) + 1
        return places[np.frombuffer(plain, "<u2")].reshape(mask.shape)

    def _names(self, mask: _Waiting) -> dict[int, str]:
        """{value: name of the structure} of a mask."""
        if self._is_one() and not mask.names and len(self._known) < 2:
            return dict.fromkeys(mask.values, self._known[0] if self._known else ONE_STRUCTURE)
        return {value: mask.names.get(value, str(value)) for value in mask.values}

    def _is_one(self) -> bool:
        """Whether the masks without names show one structure alone, as black and white or as 0 and 1."""
        if self._one is not None:
            return self._one
        unnamed = [mask.values for mask in self._waiting if not mask.names]
        different = {value for values in unnamed for value in values}
        self._one = len(different) <= 1 or (all(len(values) <= 1 for values in unnamed) and different <= {1, 255})
        return self._one


def _natural(name: str) -> tuple[int, int, str]:
    return (0, int(name), "") if name.isdecimal() else (1, 0, name.casefold())
