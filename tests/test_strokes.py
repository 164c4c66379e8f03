"""What is drawn on a canvas, taken to pixels of the scan: boxes exactly, masks by the centres of the pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from builder.labels import Box
from builder.strokes import View, boxes_of, drawing, epoch_of, objects_of, painted

NAMES = ("lesion", "lesion large", "cyst")
COLOURS = ("#ffb000", "#4fc3dc", "#f07aa5")
RED = "rgba(255,0,0,0.45)"


def polygon(*points: tuple[float, float], stroke: str = RED, **changed: Any) -> dict[str, Any]:
    """A closed polygon as the canvas tells it: its points, and its middle as left and top."""
    xy = np.array(points, float)
    middle = (xy.min(0) + xy.max(0)) / 2
    told = {"type": "Polygon", "left": middle[0], "top": middle[1], "originX": "center", "originY": "center"}
    return {**told, "stroke": stroke, "strokeWidth": 2, "points": [{"x": x, "y": y} for x, y in points], **changed}


def stroke(*points: tuple[float, float], width: float, colour: str = RED) -> dict[str, Any]:
    """A free-hand line of straight pieces."""
    xy = np.array(points, float)
    middle = (xy.min(0) + xy.max(0)) / 2
    path = [["M", *points[0]], *(["L", *point] for point in points[1:])]
    told = {"type": "Path", "left": middle[0], "top": middle[1], "originX": "center", "originY": "center"}
    return {**told, "stroke": colour, "strokeWidth": width, "path": path}


def centres(height: int, width: int) -> np.ndarray:
    """(height * width, 2): the middle of each pixel, x before y."""
    return np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), -1).reshape(-1, 2)


def winding(points: np.ndarray, places: np.ndarray) -> np.ndarray:
    """How often a closed line runs round each place: the sum of the angles, another way than the one that is tested."""
    rays = points[None] - places[:, None]
    after = np.roll(rays, -1, axis=1)
    turned = np.arctan2(rays[..., 0] * after[..., 1] - rays[..., 1] * after[..., 0], (rays * after).sum(-1))
    return np.rint(turned.sum(1) / (2 * np.pi))


def test_boxes_come_back_from_the_canvas_as_they_went_there() -> None:
    view = View(1.37, 2.11, 14.5, 11.25)
    random = np.random.default_rng(0)
    low = random.uniform(0, 60, (40, 2))
    boxes = [
        Box(round(x, 3), round(y, 3), round(x + w, 3), round(y + h, 3), int(k), 3)
        for (x, y), (w, h), k in zip(low, random.uniform(4, 30, (40, 2)), random.integers(0, 3, 40), strict=True)
    ]
    told = drawing(boxes, NAMES, COLOURS, view, epoch=7)
    assert epoch_of(told) == 7
    assert len(objects_of(told)) == 40
    found, unknown = boxes_of(told, view, (100, 100), NAMES, 3, before=boxes)
    assert (found, unknown) == (boxes, [])
    moved, _ = boxes_of(
        told, view, (100, 100), NAMES, 3
    )  # without the ones before, still within a hundredth of a pixel
    assert np.abs([[m.x0 - b.x0, m.y1 - b.y1] for m, b in zip(moved, boxes, strict=True)]).max() < 0.011


def test_a_box_is_cut_off_at_the_edge_and_a_click_or_a_box_outside_is_none() -> None:
    view = View(4.0, 2.0, 10.0, 10.0)

    def told(left: float, top: float, width: float, height: float, **changed: Any) -> dict[str, Any]:
        rect = {"type": "LabeledRect", "left": left, "top": top, "width": width, "height": height, "label": "cyst"}
        return {"objects": [{**rect, **changed}]}

    def found(drawn: dict[str, Any]) -> list[Box]:
        return boxes_of(drawn, view, (50, 60), NAMES, 0)[0]

    assert found(told(50, 50, 40, 20)) == [Box(10, 20, 20, 30, 2, 0)]
    assert found(told(0, 0, 50, 30)) == [Box(0, 0, 10, 10, 2, 0)]
    assert found(told(210, 90, 4000, 4000)) == [Box(50, 40, 60, 50, 2, 0)]
    assert found(told(50, 50, 4, 4)) == []
    assert found(told(300, 50, 40, 40)) == []
    assert found(told(50, 50, 20, 10, scaleX=2, scaleY=2)) == [Box(10, 20, 20, 30, 2, 0)], "drawn larger by its corner"
    assert found(told(70, 60, 40, 20, originX="center", originY="center")) == [Box(10, 20, 20, 30, 2, 0)]


def test_the_class_of_a_box_is_read_from_its_words_and_unknown_words_change_nothing() -> None:
    view = View(1.0, 1.0)
    before = [Box(1, 1, 20, 20, 1, 0)]
    for words, label in (("lesion", 0), ("LESION large", 1), ("lesion 87 %", 0), ("lesion large 0.5", 1), ("Cyst", 2)):
        told = {"objects": [{"type": "LabeledRect", "left": 1, "top": 1, "width": 19, "height": 19, "label": words}]}
        assert [b.label for b in boxes_of(told, view, (30, 30), NAMES, 0, before)[0]] == [label], words
    proposed = drawing([Box(1, 1, 20, 20, 1)], NAMES, COLOURS, view, 1, {0: "87 %"})
    assert objects_of(proposed)[0]["label"] == "lesion large 87 %"
    assert boxes_of(proposed, view, (30, 30), NAMES, 0)[0] == before
    told["objects"][0]["label"] = "tumour"
    assert boxes_of(told, view, (30, 30), NAMES, 0, before) == (before, ["tumour"])
    for words, label in (("mass", 1), ("mass 87 %", 1), ("Mass", 0), ("MASS", 0)):
        told["objects"][0]["label"] = words
        assert boxes_of(told, view, (30, 30), ("Mass", "mass"), 0)[0][0].label == label, words


@pytest.mark.parametrize("view", [View(1.0, 1.0), View(3.7, 3.7, 12, 9), View(2.0, 5.0, 12, 30)], ids=str)
def test_a_polygon_takes_the_pixels_whose_centre_lies_inside(view: View) -> None:
    random = np.random.default_rng(1)
    for corners in (3, 4, 7, 12):
        points = random.uniform(-3, 43, (corners, 2))
        told = {"objects": [polygon(*map(tuple, view.to_canvas(points).tolist()))]}
        mask = painted(np.zeros((40, 40), np.uint8), told, view, {RED: 2})
        expected = (winding(points, centres(40, 40)) != 0).reshape(40, 40)
        wrong = (mask == 2) != expected
        assert wrong.sum() <= 1, "only a centre on the line itself may fall either way"


def test_a_polygon_over_whole_pixels_is_exactly_these() -> None:
    view = View(2.5, 2.5, 10, 10)
    corners = view.to_canvas(np.array([(3, 4), (9, 4), (9, 7), (3, 7)]))
    mask = painted(np.zeros((12, 12), np.uint8), {"objects": [polygon(*map(tuple, corners.tolist()))]}, view, {RED: 1})
    assert (np.argwhere(mask) == np.argwhere(np.pad(np.ones((3, 6)), ((4, 5), (3, 3))))).all()


def test_a_polygon_that_was_moved_turned_and_scaled_is_where_it_is_seen() -> None:
    square = polygon((20, 20), (40, 20), (40, 40), (20, 40), left=60, top=50, scaleX=2, angle=90)
    mask = painted(np.zeros((80, 100), np.uint8), {"objects": [square]}, View(1.0, 1.0), {RED: 1})
    rows, columns = np.argwhere(mask).T
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (30, 70, 50, 70)


@pytest.mark.parametrize("view", [View(1.0, 1.0), View(3.0, 3.0, 5, 5), View(2.0, 6.0, 5, 5)], ids=str)
def test_a_stroke_takes_the_pixels_within_half_its_width(view: View) -> None:
    line = view.to_canvas(np.array([(5.2, 6.1), (25.7, 11.3), (18.4, 30.9)]))
    mask = painted(
        np.zeros((40, 40), np.uint8), {"objects": [stroke(*map(tuple, line.tolist()), width=9)]}, view, {RED: 1}
    )
    dense = np.concatenate([np.linspace(a, b, 4000) for a, b in zip(line, line[1:], strict=False)])
    places = view.to_canvas(centres(40, 40))
    far = np.sqrt(((places[:, None] - dense[None]) ** 2).sum(-1)).min(1).reshape(40, 40)
    assert mask[far < 4.49].all()
    under = {tuple(np.floor(p)[::-1].astype(int)) for p in view.to_scan(line)}
    outside = [place for place in np.argwhere(mask & (far > 4.51)) if tuple(place) not in under]
    assert not outside


def test_a_thin_brush_marks_the_pixel_under_it_and_curves_are_followed() -> None:
    view = View(8.0, 8.0)
    dot = {"objects": [stroke((15.9, 0.1), (15.9, 0.1), width=1)]}
    assert np.argwhere(painted(np.zeros((4, 4), np.uint8), dot, view, {RED: 1})).tolist() == [[0, 1]]
    curve = {**stroke((10, 50), (90, 50), width=4), "path": [["M", 10, 50], ["Q", 50, -30, 90, 50]], "top": 30}
    mask = painted(np.zeros((60, 100), np.uint8), {"objects": [curve]}, View(1.0, 1.0), {RED: 1})
    t = np.linspace(0, 1, 200)[:, None]
    places = (1 - t) ** 2 * (10, 50) + 2 * t * (1 - t) * (50, -30) + t**2 * (90, 50)
    assert mask[np.floor(places[:, 1]).astype(int), np.floor(places[:, 0]).astype(int)].all()
    assert not mask[:8].any() and not mask[53:].any()


def test_what_is_drawn_later_lies_over_what_was_drawn_before_and_an_eraser_takes_away() -> None:
    view, blue = View(1.0, 1.0), "rgba(0,0,255,0.45)"
    wide = polygon((2, 2), (18, 2), (18, 18), (2, 18))
    values = {RED: 1, blue: 3, "eraser": 0}
    told = {
        "objects": [
            wide,
            stroke((0, 10), (20, 10), width=4, colour=blue),
            stroke((10, 0), (10, 20), width=2, colour="eraser"),
        ]
    }
    before = np.full((20, 20), 2, np.uint8)
    mask = painted(before, told, view, values)
    assert (before == 2).all(), "the mask that was given stays"
    assert (mask[4, 4], mask[10, 4], mask[10, 10], mask[0, 0], mask[0, 10]) == (1, 3, 0, 2, 0)
    other = {"objects": [polygon((2, 2), (18, 2), (18, 18), stroke="green")]}
    assert (painted(before, other, view, values) == 2).all(), "a colour that means nothing draws nothing"
