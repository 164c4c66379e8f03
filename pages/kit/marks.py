"""The working copy of a scan's labels while they are edited: changes, undo, and what the canvas is to begin with.

No widget is drawn here. A change is handed to whoever stores it; the canvas (`pages.kit.labelling`) is only a hand.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from builder.labels import Box
from builder.strokes import View, boxes_of, drawing, epoch_of, objects_of, painted
from pages.kit.viewer import COLOURS, colour_of

__all__ = ["BOXES", "ERASER", "INSIDE", "MASK", "Changed", "Marks", "Naming", "Work", "ink_of", "together"]

BOXES, MASK = "boxes", "mask"
ERASER = "rgba(255,255,255,0.25)"
INSIDE = 0.42  # opacity of a mask over the scan
_MOST_UNDO = 30
_MOST_BEGINNINGS = 12


@dataclass(frozen=True)
class Marks:
    """What a scan is labelled with.

    Attributes:
        boxes: None where nobody looked for any; () where somebody did and there are none.
        mask: uint8 (S, H, W), 0 background, k structure k; None likewise. All zero says that there is nothing.
    """

    boxes: tuple[Box, ...] | None = None
    mask: np.ndarray | None = None

    def of(self, kind: str) -> Any:
        """The boxes or the mask."""
        return self.boxes if kind == BOXES else self.mask

    def is_negative(self, kind: str) -> bool:
        """Whether somebody has looked and there is nothing."""
        return self.boxes == () if kind == BOXES else self.mask is not None and not self.mask.any()

    @property
    def slices(self) -> list[int]:
        """The slices on which something is marked, ascending."""
        found = {box.slice for box in self.boxes or ()}
        if self.mask is not None:
            found |= set(np.flatnonzero(self.mask.any((1, 2))).tolist())
        return sorted(found)


def together(kind: str, before: Any, mine: Any, theirs: Any) -> Any:
    """What two people make of one label when both began from `before`: all that either has added, without what either
    has taken away; of a mask, each pixel as I changed it, else as it is theirs.

    Args:
        kind: "boxes" or "mask". before, mine, theirs: as `Marks.of` tells it.
    Returns: `mine` itself where the other's word changes nothing in it.
    """
    if kind == BOXES:
        base, own, other = (tuple(boxes or ()) for boxes in (before, mine, theirs))
        found = [box for box in other if box in own or box not in base]
        found += [box for box in own if box not in base and box not in other]
        if sorted(map(repr, found)) == sorted(map(repr, own)):
            return mine
        return tuple(sorted(found, key=lambda box: box.slice)) or None  # the last one taken away says nothing
    masks = [mask for mask in (before, mine, theirs) if mask is not None]
    if theirs is None and before is None:
        return mine
    base, own, other = (np.zeros_like(masks[0]) if mask is None else mask for mask in (before, mine, theirs))
    whole = np.where(own != base, own, other)
    return mine if np.array_equal(whole, own) else whole


@dataclass(frozen=True)
class Naming:
    """The names that may be given: of classes (boxes) and of structures (masks). `add` takes (kind, new name) and makes
    it known; None where names are fixed."""

    classes: tuple[str, ...] = ()
    structures: tuple[str, ...] = ()
    add: Callable[[str, str], None] | None = None

    def of(self, kind: str) -> tuple[str, ...]:
        """The names for "boxes" or "mask"."""
        return self.classes if kind == BOXES else self.structures


Changed = Callable[[Marks, str], None]
"""Hears the labels as they are now, and the kind that has changed."""


def ink_of(number: int) -> str:
    """Returns the colour of a structure on the canvas, as CSS: also what tells the structures of a drawing apart."""
    red, green, blue = (int(colour_of(number)[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},{INSIDE - number // len(COLOURS) / 1000:g})"


@dataclass
class Beginning:
    """What the canvas began with, and for what: a drawing that grew from it belongs there, however late it arrives."""

    slice: int
    kind: str
    tool: str
    view: View
    names: tuple[str, ...]
    base: np.ndarray | None = None
    told: str = ""
    drawn: bool = False


@dataclass
class Work:
    """A scan's labels in the making.

    `epoch` counts what the canvas began with, through all scans: its drawing carries the number. So one that is told
    after somebody has moved on to another slice, tool or scan is still taken for the one it was drawn on.

    Attributes:
        id: of the scan. slice: the one that is shown. shape: (S, H, W). tell: hears of every change.
        proposed: of each kind that nobody has agreed to yet, {number of the box: what is said behind its name}.
        start: what the canvas begins with.
    """

    id: str
    shape: tuple[int, int, int]
    marks: Marks
    proposed: dict[str, dict[int, str]] = field(default_factory=dict)
    epoch: int = 0
    slice: int = 0
    start: dict[str, Any] = field(default_factory=dict)
    tell: Changed = field(default=lambda marks, kind: None)
    _context: tuple[Any, ...] = ()
    _more: tuple[Any, ...] = ()
    _beginnings: dict[int, Beginning] = field(default_factory=dict)
    _undo: list[tuple[str, Any, dict[int, str] | None]] = field(default_factory=list)

    @classmethod
    def begin(
        cls,
        id: str,
        shape: tuple[int, int, int],
        marks: Marks,
        proposals: Marks | None = None,
        scores: Sequence[float] = (),
        epoch: int = 0,
    ) -> Work:
        """A working copy of `marks`, with proposals for what they lack; it begins on the slice that shows most."""
        boxes, mask = marks.boxes, marks.mask
        proposed: dict[str, dict[int, str]] = {}
        if proposals is not None and boxes is None and proposals.boxes:
            boxes = proposals.boxes
            known = dict(enumerate(scores))
            proposed[BOXES] = {n: f"{100 * known[n]:.0f} %" if n in known else "?" for n in range(len(boxes))}
        if proposals is not None and mask is None and proposals.mask is not None and proposals.mask.any():
            mask = proposals.mask
            proposed[MASK] = {}
        work = cls(id, shape, Marks(boxes, mask), proposed, epoch)
        if mask is not None and mask.any():
            work.slice = int((mask > 0).sum((1, 2)).argmax())
        else:
            work.slice = min(box.slice for box in boxes) if boxes else shape[0] // 2
        return work

    @property
    def said(self) -> Marks:
        """What people have said: the labels without what is only proposed."""
        return replace(self.marks, **dict.fromkeys(self.proposed))

    @property
    def here(self) -> list[int]:
        """Numbers of the boxes on the slice that is shown."""
        return [n for n, box in enumerate(self.marks.boxes or ()) if box.slice == self.slice]

    @property
    def plane(self) -> np.ndarray | None:
        """The mask of the slice that is shown."""
        return None if self.marks.mask is None else self.marks.mask[self.slice]

    @property
    def base(self) -> np.ndarray | None:
        """The mask of the slice as it was when the canvas began; what was painted since lies on the canvas."""
        return self._beginnings[self.epoch].base

    @property
    def can_undo(self) -> bool:
        """Whether there is a change to take back."""
        return bool(self._undo)

    # -- the canvas ----------------------------------------------------------------------------------------------------

    def look(self, kind: str, tool: str, names: Sequence[str], view: View, *more: Any) -> None:
        """Gives the canvas a new beginning where anything of what it shows is to change.

        A canvas that is given something new may be built anew from its beginning (1.67: `BidiComponent`), so this
        must hold everything that was drawn: `more` is whatever else the canvas is given. Where nothing was drawn yet,
        nothing is begun anew, for a hand that draws just now would be interrupted.
        """
        context = (self.slice, kind, tool, view, tuple(names))
        if context == self._context and (more == self._more or not self._beginnings[self.epoch].drawn):
            self._more = more
            return
        self._context, self._more = context, more
        self.epoch += 1
        begun = Beginning(self.slice, kind, tool, view, tuple(names))
        self._beginnings[self.epoch] = begun
        for old in list(self._beginnings)[:-_MOST_BEGINNINGS]:
            del self._beginnings[old]
        if kind == MASK:
            begun.base = None if self.plane is None else self.plane.copy()
            self.start = drawing((), (), (), view, self.epoch)
            return
        said = self.proposed.get(BOXES, {})
        boxes = self.marks.boxes or ()
        colours = [colour_of(k) for k in range(len(names))]
        shown = {at: said[n] for at, n in enumerate(self.here) if n in said}
        self.start = drawing([boxes[n] for n in self.here], names, colours, view, self.epoch, shown)

    def knows(self, told: Any) -> bool:
        """Whether a drawing grew from a beginning of this scan."""
        return epoch_of(told) in self._beginnings

    def take(self, told: Any) -> list[str]:
        """Takes what the canvas tells; returns the words on boxes that name no class."""
        epoch = epoch_of(told)
        begun = self._beginnings.get(-1 if epoch is None else epoch)
        text = json.dumps(told)
        if begun is None or text == begun.told:
            return []
        begun.told = text
        late = epoch != self.epoch
        if begun.kind == BOXES:
            return self._take_boxes(told, begun, late)
        self._take_strokes(told, begun, late)
        return []

    def _take_boxes(self, told: Any, begun: Beginning, late: bool) -> list[str]:
        boxes = self.marks.boxes or ()
        before = [box for box in boxes if box.slice == begun.slice]
        found, unknown = boxes_of(told, begun.view, self.shape[1:], begun.names, begun.slice, before)
        rects = [o for o in objects_of(told) if o.get("type") == "LabeledRect"]
        wrong = any(o.get("stroke") != colour_of(box.label) for o, box in zip(rects, found, strict=False))
        anew = late or bool(unknown) or wrong or BOXES in self.proposed
        if found != before:
            begun.drawn = True
            rest = [box for box in boxes if box.slice != begun.slice]
            # Taking the last box away does not say that there is none to be found: that is a word of its own.
            self.change(BOXES, tuple(sorted((*rest, *found), key=lambda box: box.slice)) or None, anew=anew)
        elif unknown or wrong:
            self._context = ()
        return unknown

    def _take_strokes(self, told: Any, begun: Beginning, late: bool) -> None:
        base = np.zeros(self.shape[1:], np.uint8) if begun.base is None else begun.base
        values = {**{ink_of(k): k + 1 for k in range(len(begun.names))}, ERASER: 0}
        plane = painted(base, told, begun.view, values)
        mask = self.marks.mask
        if np.array_equal(plane, 0 * plane if mask is None else mask[begun.slice]):
            return
        begun.drawn = True
        whole = np.zeros(self.shape, np.uint8) if mask is None else mask.copy()
        whole[begun.slice] = plane
        # An outline is put into the picture at once: the canvas's own undo would not tell that it was taken away.
        self.change(MASK, whole if whole.any() else None, anew=late or begun.tool == "polygon")

    # -- changes -------------------------------------------------------------------------------------------------------

    def change(self, kind: str, value: Any, *, anew: bool = True) -> None:
        """Makes a change that can be taken back, and tells it.

        Args:
            value: all boxes, or the whole mask; None for none. anew: the canvas has to show it, too.
        """
        self._undo.append((kind, self._difference(kind, value), self.proposed.pop(kind, None)))
        del self._undo[:-_MOST_UNDO]
        self._put(kind, value)
        if anew:
            self._context = ()
        self.tell(self.said, kind)

    def take_back(self) -> None:
        """Undoes the last change, and tells it."""
        if not self._undo:
            return
        kind, before, proposed = self._undo.pop()
        if isinstance(before, dict):
            mask = np.array(self.marks.mask)
            for slice, plane in before.items():
                mask[slice] = plane
            before = mask
        self._put(kind, before)
        if proposed is not None:  # nobody has agreed to them
            self.proposed[kind] = proposed
        self._context = ()
        self.tell(self.said, kind)

    def take_over(self, kind: str) -> None:
        """Puts what is marked on the slice before onto this one, instead of what was there."""
        if kind == BOXES:
            rest = [box for box in self.marks.boxes or () if box.slice != self.slice]
            copies = [replace(box, slice=self.slice) for box in rest if box.slice == self.slice - 1]
            if copies:
                self.change(BOXES, tuple(sorted((*rest, *copies), key=lambda box: box.slice)))
        elif self.marks.mask is not None and self.marks.mask[self.slice - 1].any():
            whole = self.marks.mask.copy()
            whole[self.slice] = whole[self.slice - 1]
            self.change(MASK, whole)

    def negative(self, kind: str) -> None:
        """Says that the whole scan was looked at and that there is nothing of the kind."""
        self.change(kind, () if kind == BOXES else np.zeros(self.shape, np.uint8))

    def _put(self, kind: str, value: Any) -> None:
        self.marks = replace(self.marks, **{"boxes" if kind == BOXES else "mask": value})

    def _difference(self, kind: str, value: Any) -> Any:
        """What an undo needs: the boxes; of a mask only the slices that change, {slice: mask of it}."""
        before = self.marks.of(kind)
        if kind == BOXES or before is None or value is None:
            return before
        return {int(n): before[n].copy() for n in np.flatnonzero((before != value).any((1, 2)))}
