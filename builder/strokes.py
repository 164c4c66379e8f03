"""What a hand drew on a canvas over a scan, as boxes and masks in pixels of the scan, and back.

The canvas (streamlit-drawable-canvas) tells its drawing as Fabric.js JSON: objects with a centre or corner, a scale, an
angle, and points of their own. Everything is taken to scan pixels by one affine map; a mask is rasterised there, at the
scan's resolution, never at the canvas's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from builder.labels import Box

__all__ = ["View", "boxes_of", "drawing", "epoch_of", "objects_of", "painted"]

_MARK = "#epoch "
_SAME_PX = 0.02
"""A canvas rounds its numbers; a box that moved by less than this of a scan's pixel was not moved."""
_PIECE_PX = 3.0
"""Of the canvas: as long are the straight pieces into which a curve is parted."""
_CLICK_PX = 4.5
"""Of the canvas: what is smaller on both sides is a click, not a box. (The canvas draws none smaller than 4.)"""


@dataclass(frozen=True)
class View:
    """How a slice lies on the canvas: its corner at (left, top), a pixel `across` wide and `down` high, in canvas
    pixels."""

    across: float
    down: float
    left: float = 0.0
    top: float = 0.0

    def to_scan(self, points: np.ndarray) -> np.ndarray:
        """Canvas points (N, 2), x before y, in pixels of the scan."""
        return (np.asarray(points, float) - (self.left, self.top)) / (self.across, self.down)

    def to_canvas(self, points: np.ndarray) -> np.ndarray:
        """Points of the scan (N, 2) in pixels of the canvas."""
        return np.asarray(points, float) * (self.across, self.down) + (self.left, self.top)


# -- what is drawn before ---------------------------------------------------------------------------------------------


def drawing(
    boxes: Iterable[Box],
    names: Sequence[str],
    colours: Sequence[str],
    view: View,
    epoch: int,
    proposed: Mapping[int, str] | None = None,
    font_px: int = 13,
) -> dict[str, Any]:
    """Returns what the canvas begins with: the boxes, and out of sight a mark that tells which beginning this was.

    Args:
        names, colours: of each class, colours as CSS.
        proposed: {number of a box that nobody has agreed to yet: what is said behind its name, such as "87 %"}; its
            line is broken.
    """
    proposed = proposed or {}
    objects = [_rect(-100, -100, 1, 1, f"{_MARK}{epoch}", "rgba(0,0,0,0)", font_px)]
    for number, box in enumerate(boxes):
        (left, top), (right, bottom) = view.to_canvas(np.array([(box.x0, box.y0), (box.x1, box.y1)])).tolist()
        text = f"{names[box.label]} {proposed.get(number, '')}".strip()
        rect = _rect(left, top, right - left, bottom - top, text, colours[box.label], font_px)
        if number in proposed:
            rect["strokeDashArray"] = [6, 4]
        objects.append(rect)
    return {"objects": objects}


def _rect(left: float, top: float, width: float, height: float, text: str, colour: str, font_px: int) -> dict[str, Any]:
    return {
        "type": "LabeledRect",
        "label": text,
        "fontSize": font_px,
        "left": round(left, 4),
        "top": round(top, 4),
        "width": round(width, 4),
        "height": round(height, 4),
        "originX": "left",
        "originY": "top",
        "scaleX": 1,
        "scaleY": 1,
        "angle": 0,
        "stroke": colour,
        "strokeWidth": 2,
        "fill": "rgba(0,0,0,0)",
        "lockRotation": True,
        "strokeUniform": True,
    }


def objects_of(told: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """The objects of a drawing but for the mark."""
    return [o for o in (told or {}).get("objects", []) if not str(o.get("label", "")).startswith(_MARK)]


def epoch_of(told: Mapping[str, Any] | None) -> int | None:
    """Which beginning a drawing grew from; None where it does not say."""
    for o in (told or {}).get("objects", []):
        if str(o.get("label", "")).startswith(_MARK):
            return int(str(o["label"]).removeprefix(_MARK))
    return None


# -- boxes ------------------------------------------------------------------------------------------------------------


def boxes_of(
    told: Mapping[str, Any] | None,
    view: View,
    size: tuple[int, int],
    names: Sequence[str],
    slice: int,
    before: Sequence[Box] = (),
) -> tuple[list[Box], list[str]]:
    """The boxes of a drawing on one slice, and the words on boxes that are the name of no class.

    A box is cut off at the picture's edge; one that lies outside is left out, and so is a click. A box that was not
    moved keeps its numbers exactly. One with unknown words keeps the class of the box of `before` that lies there, else
    it gets class 0.

    Args:
        size: (height, width) of the slice. names: of the classes; words after a name (a score) are not read.
    """
    height, width = size
    found, unknown = [], []
    for o in objects_of(told):
        if o.get("type") not in ("LabeledRect", "Rect"):
            continue
        corners = _placed(o, np.array([(0.0, 0.0), (float(o["width"]), float(o["height"]))]))
        (x0, y0), (x1, y1) = np.sort(view.to_scan(corners), axis=0).tolist()
        if (x1 - x0) * view.across < _CLICK_PX and (y1 - y0) * view.down < _CLICK_PX:
            continue
        same = next((b for b in before if b.slice == slice and _far(b, (x0, y0, x1, y1)) < _SAME_PX), None)
        text = str(o.get("label", "")).strip()
        label = _class_of(text, names)
        if label is None:
            unknown.append(text)
            label = same.label if same else 0
        if same is not None:
            found.append(Box(same.x0, same.y0, same.x1, same.y1, label, slice))
            continue
        x0, x1 = (min(max(x, 0.0), float(width)) for x in (x0, x1))
        y0, y1 = (min(max(y, 0.0), float(height)) for y in (y0, y1))
        if x1 - x0 > 0.05 and y1 - y0 > 0.05:
            found.append(Box(round(x0, 2), round(y0, 2), round(x1, 2), round(y1, 2), label, slice))
    return found, unknown


def _far(box: Box, edges: tuple[float, float, float, float]) -> float:
    return max(abs(a - b) for a, b in zip((box.x0, box.y0, box.x1, box.y1), edges, strict=True))


def _class_of(text: str, names: Sequence[str]) -> int | None:
    """The class whose name the words are or begin with, the longest name first; upper and lower case are alike, but of
    two names that differ in nothing else the one that is written so."""
    said = f"{text} "
    fits = [k for k, name in enumerate(names) if said.casefold().startswith(f"{name} ".casefold())]
    return max(fits, key=lambda k: (len(names[k]), said.startswith(f"{names[k]} "))) if fits else None


# -- masks ------------------------------------------------------------------------------------------------------------


def painted(mask: np.ndarray, told: Mapping[str, Any] | None, view: View, values: Mapping[str, int]) -> np.ndarray:
    """A mask with what was drawn laid over it, in the order in which it was drawn.

    A polygon takes the pixels whose centre lies inside it (non-zero winding). A stroke takes those whose centre is
    within half its width of the line, and the pixel under each of its points, so that a thin brush leaves no gap.

    Args:
        mask: uint8 (H, W). values: {stroke colour as CSS: structure, 0 = erase}; objects of another colour count not.
    Returns: a new mask, uint8 (H, W).
    """
    found = mask.copy()
    for o in objects_of(told):
        value = values.get(str(o.get("stroke", "")))
        if value is None:
            continue
        if o.get("type") == "Polygon":
            points = np.array([(p["x"], p["y"]) for p in o["points"]], float)
            middle = (points.min(0) + points.max(0)) / 2
            _fill(found, view.to_scan(_placed(o, points - middle, centred=True)), value)
        elif o.get("type") == "Path":
            pieces, middle = _lines(o["path"])
            closed = any(command[0] in "Zz" for command in o["path"])
            for piece in pieces:
                on_canvas = _placed(o, piece - middle, centred=True)
                if closed:
                    _fill(found, view.to_scan(on_canvas), value)
                else:
                    _stroke(found, on_canvas, float(o["strokeWidth"]) * _growth(o), view, value)
    return found


def _placed(o: Mapping[str, Any], points: np.ndarray, centred: bool = False) -> np.ndarray:
    """Points of an object, from its corner (or its middle) on, where they lie on the canvas."""
    angle = math.radians(float(o.get("angle", 0)))
    scale_x = float(o.get("scaleX", 1)) * (-1 if o.get("flipX") else 1)
    scale_y = float(o.get("scaleY", 1)) * (-1 if o.get("flipY") else 1)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    skew_x, skew_y = (math.tan(math.radians(float(o.get(name, 0)))) for name in ("skewX", "skewY"))
    matrix = turn @ np.diag([scale_x, scale_y]) @ np.array([[1, skew_x], [0, 1]]) @ np.array([[1, 0], [skew_y, 1]])
    at = np.array([float(o.get("left", 0)), float(o.get("top", 0))])
    if not centred:  # rectangles: left and top are of the corner, wherever they are measured from
        size = np.array([float(o["width"]) * scale_x, float(o["height"]) * scale_y])
        from_origin = {"left": 0.0, "top": 0.0, "center": 0.5, "right": 1.0, "bottom": 1.0}
        share = (from_origin[str(o.get("originX", "left"))], from_origin[str(o.get("originY", "top"))])
        at = at - turn @ (size * share)
    return points @ matrix.T + at


def _growth(o: Mapping[str, Any]) -> float:
    """By what a stroke's width has grown with its object."""
    if o.get("strokeUniform"):
        return 1.0
    return math.sqrt(abs(float(o.get("scaleX", 1)) * float(o.get("scaleY", 1))))


def _lines(path: Sequence[Sequence[Any]]) -> tuple[list[np.ndarray], np.ndarray]:
    """The points (N, 2) of each part of an SVG path of M, L, Q and Z, and the middle of its bounding box."""
    pieces: list[list[np.ndarray]] = []
    low, high = np.full(2, np.inf), np.full(2, -np.inf)
    for command in path:
        kind, numbers = str(command[0]).upper(), np.array(command[1:], float)
        if kind == "Z":
            continue
        end = numbers[-2:]
        if kind == "M" or not pieces:
            pieces.append([end])
        elif kind == "Q":
            start, turn = pieces[-1][-1], numbers[:2]
            length = np.linalg.norm(turn - start) + np.linalg.norm(end - turn)
            steps = max(2, math.ceil(length / _PIECE_PX))
            t = np.linspace(0, 1, min(steps, 64) + 1)[1:, None]
            pieces[-1].extend((1 - t) ** 2 * start + 2 * t * (1 - t) * turn + t**2 * end)
            bend = start - 2 * turn + end
            with np.errstate(divide="ignore", invalid="ignore"):
                turning = np.where(bend != 0, (start - turn) / bend, 0)
            turning = np.clip(np.nan_to_num(turning), 0, 1)
            there = (1 - turning) ** 2 * start + 2 * turning * (1 - turning) * turn + turning**2 * end
            low, high = np.minimum(low, there), np.maximum(high, there)
        else:
            pieces[-1].append(end)
        low, high = np.minimum(low, end), np.maximum(high, end)
    return [np.array(piece) for piece in pieces], (low + high) / 2


def _fill(mask: np.ndarray, points: np.ndarray, value: int) -> None:
    """Sets the pixels whose centre lies inside a polygon (N, 2) in pixels of the mask."""
    height, width = mask.shape
    starts, ends = points, np.roll(points, -1, axis=0)
    first = max(0, math.ceil(float(points[:, 1].min()) - 0.5))
    last = min(height - 1, math.floor(float(points[:, 1].max()) - 0.5))
    for row in range(first, last + 1):
        y = row + 0.5
        up = (starts[:, 1] <= y) & (ends[:, 1] > y)
        down = (ends[:, 1] <= y) & (starts[:, 1] > y)
        met = up | down
        share = (y - starts[met, 1]) / (ends[met, 1] - starts[met, 1])
        x = starts[met, 0] + share * (ends[met, 0] - starts[met, 0])
        order = np.argsort(x)
        winding = np.cumsum(np.where(up[met], 1, -1)[order])
        edges = x[order]
        for k in np.flatnonzero(winding[:-1]):
            left, right = math.ceil(edges[k] - 0.5), math.ceil(edges[k + 1] - 0.5)
            mask[row, max(0, left) : max(0, min(width, right))] = value


def _stroke(mask: np.ndarray, points: np.ndarray, width_px: float, view: View, value: int) -> None:
    """Sets the pixels under a line (N, 2) on the canvas, `width_px` wide there, with round ends."""
    height, width = mask.shape
    radius = width_px / 2
    for row, column in {(math.floor(y), math.floor(x)) for x, y in view.to_scan(points)}:
        if 0 <= row < height and 0 <= column < width:
            mask[row, column] = value
    follow = points[1:] if len(points) > 1 else points
    for start, end in zip(points, follow, strict=False):
        corners = view.to_scan(np.array([np.minimum(start, end) - radius, np.maximum(start, end) + radius]))
        x0, y0 = (max(0, math.floor(v)) for v in corners[0])
        x1, y1 = min(width, math.ceil(corners[1][0])), min(height, math.ceil(corners[1][1]))
        if x0 >= x1 or y0 >= y1:
            continue
        centres = np.stack(np.meshgrid(np.arange(x0, x1) + 0.5, np.arange(y0, y1) + 0.5), -1)
        at = centres * (view.across, view.down) + (view.left, view.top) - start
        way = end - start
        length = float(way @ way)
        share = np.clip(at @ way / length, 0, 1) if length > 0 else np.zeros(at.shape[:2])
        near = ((at - share[..., None] * way) ** 2).sum(-1) <= radius**2
        mask[y0:y1, x0:x1][near] = value
