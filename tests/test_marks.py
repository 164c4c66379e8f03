"""The working copy of labels: what a canvas tells is taken once and for the right slice; every change can be undone."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from builder.labels import Box
from builder.scans import Scan
from builder.strokes import View
from pages.kit.backdrop import framed, with_mask
from pages.kit.marks import BOXES, ERASER, MASK, Marks, Work, ink_of, together

VIEW = View(4.0, 4.0, 8.0, 8.0)
NAMES = ("cell", "lesion")


class Ear:
    """Hears what a working copy tells."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, Any]] = []

    def __call__(self, marks: Marks, kind: str) -> None:
        self.heard.append((kind, marks.of(kind)))


def begun(*arguments: Any) -> tuple[Ear, Work]:
    """A working copy, and who hears of its changes."""
    work = Work.begin(*arguments)
    work.tell = Ear()
    return work.tell, work


def rect(x0: float, y0: float, x1: float, y1: float, label: str = "cell", stroke: str = "#ffb000") -> dict[str, Any]:
    (left, top), (right, bottom) = VIEW.to_canvas(np.array([(x0, y0), (x1, y1)])).tolist()
    size = {"left": left, "top": top, "width": right - left, "height": bottom - top}
    return {"type": "LabeledRect", "label": label, "stroke": stroke, **size}


def square(x0: float, y0: float, x1: float, y1: float, colour: str) -> dict[str, Any]:
    points = VIEW.to_canvas(np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)]))
    left, top = ((points.min(0) + points.max(0)) / 2).tolist()
    told = [{"x": x, "y": y} for x, y in points.tolist()]
    return {"type": "Polygon", "left": left, "top": top, "stroke": colour, "points": told}


def drawn(work: Work, *objects: dict[str, Any]) -> dict[str, Any]:
    """What the canvas tells after something was added to what it began with."""
    told = json.loads(json.dumps(work.start))
    told["objects"] += objects
    return dict(told)


def test_boxes_of_other_slices_stay_and_the_last_box_taken_away_says_nothing() -> None:
    other = Box(1, 1, 9, 9, 1, 0)
    ear, work = begun("a", (4, 30, 40), Marks(boxes=(other,)))
    assert work.slice == 0, "it begins where something is marked"
    work.slice = 2
    work.look(BOXES, "boxes", NAMES, VIEW)
    assert work.take(drawn(work, rect(5, 5, 20, 25))) == []
    assert work.marks.boxes == (other, Box(5, 5, 20, 25, 0, 2))
    work.take(drawn(work))
    assert work.marks.boxes == (other,)
    work.slice = 0
    work.look(BOXES, "boxes", NAMES, VIEW)
    emptied = {"objects": work.start["objects"][:1]}
    work.take(emptied)
    assert work.marks.boxes is None, "not (): nobody has said that there is none"
    work.negative(BOXES)
    assert work.marks.boxes == () and work.marks.is_negative(BOXES)
    assert [len(boxes or ()) for _, boxes in ear.heard] == [2, 1, 0, 0]
    for expected in (None, (other,), (other, Box(5, 5, 20, 25, 0, 2)), (other,)):
        work.take_back()
        assert work.marks.boxes == expected
    assert not work.can_undo


def test_a_new_beginning_is_made_only_where_the_canvas_has_to_show_something_else() -> None:
    ear, work = begun("a", (3, 30, 40), Marks())
    work.look(BOXES, "boxes", NAMES, VIEW)
    first = work.epoch
    work.take(drawn(work, rect(5, 5, 20, 25)))
    work.look(BOXES, "boxes", NAMES, VIEW)
    assert work.epoch == first, "a box that was drawn is on the canvas already"
    assert work.take(drawn(work, rect(5, 5, 20, 25, "tumour"))) == ["tumour"]
    work.look(BOXES, "boxes", NAMES, VIEW)
    assert work.epoch == first + 1, "its words are wrong"
    assert work.start["objects"][1]["label"] == "cell"
    work.take(drawn(work, rect(22, 5, 30, 25, "lesion", "#ffb000")))
    work.look(BOXES, "boxes", NAMES, VIEW)
    assert work.epoch == first + 2, "its colour is that of another class"
    work.slice = 2
    work.look(BOXES, "boxes", NAMES, VIEW)
    assert work.epoch == first + 3


def test_another_window_interrupts_a_hand_only_where_something_lies_on_the_canvas_alone() -> None:
    _, work = begun("a", (3, 30, 40), Marks(boxes=(Box(1, 1, 9, 9, 1, 1),)))
    work.look(BOXES, "boxes", NAMES, VIEW, "lung")
    first = work.epoch
    work.take(drawn(work))  # the canvas tells its beginning, too
    work.look(BOXES, "boxes", NAMES, VIEW, "bone")
    assert work.epoch == first
    work.take(drawn(work, rect(5, 5, 20, 25)))
    work.look(BOXES, "boxes", NAMES, VIEW, "bone")
    assert work.epoch == first
    work.look(BOXES, "boxes", NAMES, VIEW, "brain")
    assert work.epoch == first + 1 and len(work.start["objects"]) == 3


def test_a_mask_is_painted_slice_by_slice_and_undone_slice_by_slice() -> None:
    ear, work = begun("a", (3, 30, 40), Marks())
    work.slice = 1
    work.look(MASK, "polygon", ("tumour", "cyst"), VIEW)
    told = drawn(work, square(5, 5, 15, 12, ink_of(1)))
    work.take(told)
    work.take(told)
    assert len(ear.heard) == 1, "told again, nothing has changed"
    mask = work.marks.mask
    assert mask is not None and (mask[1, 5:12, 5:15] == 2).all() and mask.sum() == 2 * 70
    work.look(MASK, "eraser", ("tumour", "cyst"), VIEW)
    work.take(drawn(work, square(0, 0, 40, 8, ERASER)))
    assert work.marks.mask is not None and work.marks.mask.sum() == 2 * 40
    work.take(drawn(work, square(0, 0, 40, 30, ERASER)))
    assert work.marks.mask is None, "an empty mask would say that there is nothing"
    work.negative(MASK)
    assert work.marks.is_negative(MASK)
    work.take_back()
    work.take_back()
    assert work.marks.mask is not None and work.marks.mask.sum() == 2 * 40
    work.take_back()
    np.testing.assert_array_equal(work.marks.mask, mask)
    work.slice = 2
    work.take_over(MASK)
    assert work.marks.slices == [1, 2]
    assert work.marks.mask is not None
    np.testing.assert_array_equal(work.marks.mask[2], mask[1])


def test_what_the_canvas_tells_late_counts_for_the_slice_and_the_scan_it_was_drawn_on() -> None:
    ear, work = begun("a", (3, 30, 40), Marks())
    work.look(BOXES, "boxes", NAMES, VIEW, 0)
    work.take(drawn(work, rect(5, 5, 20, 25)))
    late = drawn(work, rect(5, 5, 20, 25), rect(22, 5, 30, 25))  # drawn just before the key for the next class
    work.look(BOXES, "boxes", NAMES, VIEW, 1)
    epoch = work.epoch
    assert len(work.start["objects"]) == 3 - 1, "what the canvas begins with holds what was drawn until then"
    work.take(late)
    first, second = Box(5, 5, 20, 25, 0, 1), Box(22, 5, 30, 25, 0, 1)
    assert work.marks.boxes == (first, second)
    work.look(BOXES, "boxes", NAMES, VIEW, 1)
    assert work.epoch == epoch + 1 and len(work.start["objects"]) == 3, "and is shown, too"
    later = drawn(work, rect(1, 1, 4, 4))
    work.slice = 2
    work.look(BOXES, "boxes", NAMES, VIEW, 1)
    work.take(later)
    assert work.marks.boxes == (first, second, Box(1, 1, 4, 4, 0, 1)), "of the slice before"
    following = Work.begin("b", (3, 30, 40), Marks(), None, (), work.epoch)
    following.look(BOXES, "boxes", NAMES, VIEW, 1)
    assert work.knows(later) and not following.knows(later), "of the scan before"
    assert following.take(later) == [] and following.marks.boxes is None
    assert following.take(None) == [] and following.take({"objects": []}) == []


def test_proposals_are_shown_as_such_until_somebody_agrees_or_changes_one() -> None:
    proposals = Marks(boxes=(Box(2, 2, 9, 9, 1, 1), Box(12, 2, 19, 9, 0, 1)), mask=np.zeros((2, 30, 40), np.uint8))
    ear, work = begun("a", (2, 30, 40), Marks(), proposals, (0.871, 0.5))
    assert set(work.proposed) == {BOXES}, "an empty mask proposes nothing"
    assert work.slice == 1
    work.look(BOXES, "boxes", NAMES, VIEW)
    shown = work.start["objects"][1:]
    assert [o["label"] for o in shown] == ["lesion 87 %", "cell 50 %"]
    assert all(o["strokeDashArray"] for o in shown)
    work.take(drawn(work))
    assert ear.heard == [], "nobody has said anything yet"
    assert work.said == Marks(), "what is only proposed is nobody's word"
    work.change(BOXES, work.marks.boxes)
    assert ear.heard == [(BOXES, proposals.boxes)] and not work.proposed
    assert work.said.boxes == proposals.boxes
    work.take_back()
    assert ear.heard[-1] == (BOXES, None) and work.said.boxes is None, "taken back, they are proposals again"
    assert work.marks.boxes == proposals.boxes and work.proposed[BOXES] == {0: "87 %", 1: "50 %"}
    kept = Work.begin("a", (2, 30, 40), Marks(boxes=()), proposals)
    assert kept.marks.boxes == () and not kept.proposed, "what a person has said is not proposed over"


@pytest.mark.parametrize("spacing", [(None, None, None), (1.0, 2.0, 1.0), (1.0, 0.5, 1.5)], ids=str)
def test_a_canvas_shows_the_slice_in_its_true_proportions_with_a_margin_all_round(spacing: tuple) -> None:
    scan = Scan(np.zeros((1, 1, 60, 90), np.uint8), spacing)
    frame = framed(scan, 600)
    down, across = (spacing[1] or 1.0), (spacing[2] or 1.0)
    assert frame.view.down / frame.view.across == pytest.approx(down / across, rel=0.01)
    (left, top), (right, bottom) = frame.view.to_canvas(np.array([(0, 0), (90, 60)]))
    assert min(left, top) >= 19.5
    assert (frame.width - right, frame.height - bottom) == pytest.approx((left, top))
    assert max(right - left, bottom - top) == pytest.approx(600, abs=3)


def test_the_mask_in_a_picture_has_its_outline_on_its_own_pixels() -> None:
    mask = np.zeros((10, 12), np.uint8)
    mask[2:8, 3:9] = 1
    seen = with_mask(np.full((10, 12), 100, np.uint8), mask)
    assert (seen[mask == 0] == 100).all()
    red = seen[..., 0].astype(int)
    assert (red[2, 3:9] > red[4, 5]).all() and (red[2:8, 8] > red[4, 5]).all()
    assert red[4, 5] > 100


def test_what_two_people_say_of_one_scan_stands_side_by_side() -> None:
    old, mine, theirs = Box(1, 1, 9, 9, 0, 0), Box(2, 2, 8, 8, 1, 0), Box(3, 3, 7, 7, 1, 0)
    assert together(BOXES, None, (mine,), (theirs,)) == (theirs, mine)
    assert together(BOXES, (old,), None, (old, theirs)) == (theirs,), "what I took away is away"
    assert together(BOXES, (old,), (old, mine), None) == (mine,), "and what they took away"
    assert together(BOXES, (old,), None, (old,)) is None and together(BOXES, None, (), None) == ()
    assert together(BOXES, (old, mine), (old,), (mine,)) is None, "each has taken one away"
    said = (old, mine)
    assert together(BOXES, (old,), said, (old,)) is said, "they said nothing"
    base, own, other = (np.zeros((1, 4, 6), np.uint8) for _ in range(3))
    base[0, 0] = own[0, 0] = other[0, 0] = 1
    own[0, 0, :3] = 0
    own[0, 2, 2] = 2
    other[0, 3] = 1
    whole = np.zeros((1, 4, 6), np.uint8)
    whole[0, 0, 3:] = whole[0, 3] = 1
    whole[0, 2, 2] = 2
    assert np.array_equal(together(MASK, base, own, other), whole)
    assert together(MASK, None, own, None) is own and together(MASK, base, own, base) is own
    assert np.array_equal(together(MASK, None, own, other)[0, 3], other[0, 3])
    assert together(MASK, base, None, base) is None and not together(MASK, base, None, other)[0, 0].any()
