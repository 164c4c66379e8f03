"""ScanLoom's own Streamlit components: `curves`, live charts that keep their zoom, `dropzone`, uploads that go to disk,
`network`, the canvas on which a network is clicked together, `viewer`, in which one looks through a scan, `compare`,
two pictures of one scan with a divider between them, `film`, what a network said of a few scans after every epoch,
`heatmap`, numbers in colours that grow, `strands`, a line for each of many things through the same axes, `hand`, which
lets a finger draw on a canvas and loses no stroke, and `history`, by which Back leads where a hand came from.

The JavaScript is built by `components/build.py` into `assets/` and fetched once by URL; nothing comes from a foreign
server.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import streamlit as st

__all__ = [
    "Axis",
    "Box",
    "Layer",
    "Mark",
    "Report",
    "Seen",
    "Series",
    "Strand",
    "compare",
    "curves",
    "dropzone",
    "film",
    "hand",
    "heatmap",
    "history",
    "network",
    "strands",
    "viewer",
]


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    Attributes:
        id: stays the same from update to update. label: text for the legend (never read as HTML).
        x, y: equally many numbers; None or NaN in y is a gap. Decimate them first (`pages.kit.charts.thinned`).
        color: a place in the theme's palette, or a CSS colour. dash: "solid", "dot", "dash".
        legend: whether it is listed in the legend and told on hovering.
    """

    id: str
    label: str
    x: Sequence[float]
    y: Sequence[float | None]
    color: int | str = 0
    dash: str = "solid"
    width: float = 2.0
    opacity: float = 1.0
    legend: bool = True


@dataclass(frozen=True)
class Axis:
    """An upright axis that lines pass.

    Attributes:
        label: differs from axis to axis. ticks: (place in 0..1, words).
        none: whether a line may lack a place here; it then passes below the range.
    """

    label: str
    ticks: Sequence[tuple[float, str]]
    none: bool = False


@dataclass(frozen=True)
class Strand:
    """A line through all axes.

    Attributes:
        label: what it is. places: in 0..1 on each axis, None where it has none. told: what it has there, in words.
        shade: 0..1, where its colour lies on the scale.
    """

    label: str
    places: Sequence[float | None]
    told: Sequence[str]
    shade: float


@dataclass(frozen=True)
class Mark:
    """A dotted vertical line at `x` with a short label, such as the best epoch."""

    x: float
    label: str


@dataclass(frozen=True)
class Report:
    """What a dropzone told when nothing was on its way any more: the number of files sent, their bytes, and those that
    failed.

    Attributes:
        failed: (name, reason) each; at most 100.
        seq: rises with each report of one dropzone.
    """

    done: int
    bytes: int
    failed: tuple[tuple[str, str], ...]
    seq: int


@dataclass(frozen=True)
class Box:
    """A box over a scan, in pixels of the stored slice; a box over pixel columns 3 and 4 goes from x0 = 3 to x1 = 5.

    Attributes:
        name: of its class. colour: "#rrggbb". slice: the one it lies on, None for all. score: 0..1, None for a label.
        dashed: drawn with a broken line, such as a model's proposal.
    """

    x0: float
    y0: float
    x1: float
    y1: float
    name: str
    colour: str
    slice: int | None = 0
    score: float | None = None
    dashed: bool = False


@dataclass(frozen=True)
class Layer:
    """A mask or a heat map over a scan, fetched by the browser like the scan itself.

    Attributes:
        id: changes with the content. url: of a uint8 volume, whose slices are stretched over those of the scan.
        kind: "mask" (0 = nothing, k = structure k) or "heat" (0..255).
        name: of the layer. names, colours ("#rrggbb"): of structure 1, 2, ... of a mask.
        slices: the scan's slices which the volume's slices belong to; None where they are the same.
    """

    id: str
    url: str
    kind: str
    name: str
    names: tuple[str, ...] = ()
    colours: tuple[str, ...] = ()
    slices: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Seen:
    """What a viewer shows: the slice (from 0), level and width of the window in stored units (None for colour)."""

    slice: int
    center: float | None
    width: float | None
    inverted: bool


_curves = st.components.v2.component(
    "scanloom-components.curves",
    js="curves.js",
    html='<div class="scanloom-curves" style="width:100%"></div>',
    isolate_styles=False,  # Plotly puts its style rules into the document's head
)
_dropzone = st.components.v2.component(
    "scanloom-components.dropzone",
    js="dropzone.js",
    css="dropzone.css",
    html="""<div class="zone" role="group" aria-label="Upload">
  <div class="row"><div class="words"><p class="lead"></p><p class="help"></p></div>
    <button type="button" class="pick" disabled>Choose files</button>
    <button type="button" class="pick-folder" disabled>Choose a folder</button></div>
  <input class="files" type="file" hidden><input class="folder" type="file" webkitdirectory multiple hidden>
  <div class="row" hidden><p class="state" role="status" aria-live="polite"></p>
    <button type="button" class="cancel" hidden>Cancel</button>
    <button type="button" class="again" hidden>Try the failed ones again</button></div>
  <ul hidden></ul></div>""",
    isolate_styles=True,
)
_network = st.components.v2.component(
    "scanloom-components.network",
    js="network.js",
    css="network.css",
    html='<div class="nw-mount"></div>',
    isolate_styles=True,
)


_viewer = st.components.v2.component(
    "scanloom-components.viewer",
    js="viewer.js",
    css="viewer.css",
    html='<div class="viewer"></div>',
    isolate_styles=True,
)


_compare = st.components.v2.component(
    "scanloom-components.compare",
    js="compare.js",
    css="compare.css",
    html='<div class="compare"></div>',
    isolate_styles=True,
)


_film = st.components.v2.component(
    "scanloom-components.film",
    js="film.js",
    css="film.css",
    html='<div class="film"></div>',
    isolate_styles=True,
)


_hand = st.components.v2.component("scanloom-components.hand", js="hand.js", html="<span hidden></span>")


_history = st.components.v2.component("scanloom-components.history", js="history.js", html="<span hidden></span>")


_heatmap = st.components.v2.component(
    "scanloom-components.heatmap",
    js="heatmap.js",
    css="heatmap.css",
    html='<div class="heatmap"></div>',
    isolate_styles=True,
)


_strands = st.components.v2.component(
    "scanloom-components.strands",
    js="strands.js",
    css="strands.css",
    html='<div class="strands"></div>',
    isolate_styles=True,
)


def curves(
    series: Sequence[Series],
    *,
    key: str,
    height: int = 320,
    log: bool = False,
    x_title: str = "",
    y_title: str = "",
    marks: Sequence[Mark] = (),
    view: str = "",
    summary: str = "",
    on_zoom: Callable[[], None] | None = None,
) -> tuple[float, float] | None:
    """Draws lines over each other; drawn again with more points it keeps zoom and hover.

    Args:
        key: fixed per chart; its state is `st.session_state[key].range`.
        log: a logarithmic y axis. view: a new value forgets the zoom; another `log` or `y_title` forgets that of the
            heights alone. summary: what a screen reader says.
        on_zoom: called after a zoom has rested, before the rerun.

    Returns:
        The zoomed x range (low, high), or None while the whole is shown.
    """
    data = {
        "series": [
            {
                "id": s.id,
                "label": s.label,
                "color": s.color,
                "dash": s.dash,
                "width": s.width,
                "opacity": s.opacity,
                "legend": s.legend,
                "x": [_short(v, _ALONG) for v in s.x],
                "y": [_short(v) for v in s.y],
            }
            for s in series
        ],
        "marks": [{"x": _short(m.x, _ALONG), "label": m.label} for m in marks],
        "height": height,
        "log": log,
        "x_title": x_title,
        "y_title": y_title,
        "view": view,
        "summary": summary or f"Chart of {', '.join(s.label for s in series if s.legend) or 'nothing yet'}",
    }
    state: Any = _curves(
        key=key, data=data, height=height, default={"range": None}, on_range_change=on_zoom or _nothing
    )
    told = state.range
    return (float(told[0]), float(told[1])) if told else None


def heatmap(
    rows: Mapping[str, Sequence[float | None]],
    columns: Sequence[str],
    *,
    key: str,
    ends: tuple[float, float],
    labels: Mapping[str, str] | None = None,
    log: bool = False,
    share: bool = False,
    picked: str = "",
    height: int = 420,
    x_title: str = "",
    summary: str = "",
    on_pick: Callable[[], None] | None = None,
) -> str | None:
    """Draws numbers as colours, a row each; drawn again with more of them the picture stays and only changes.

    Args:
        rows: by id, one number for each of `columns`; None or NaN is a gap. labels: of rows, where not the ids.
        key: fixed; its state is `st.session_state[key].row`.
        ends: what the first and the last colour stand for; with `log`, a logarithmic scale, both above 0.
        share: numbers lie in 0..1 and are told as per cent. picked: id of the row that is framed.
        height: at most, in pixels, as long as a row keeps five of them. summary: what a screen reader says.
        on_pick: called before the rerun when a row was pressed.

    Returns:
        The id of the row that was pressed last, None before.
    """
    data = {
        "rows": [{"id": id, "label": (labels or {}).get(id, id)} for id in rows],
        "columns": list(columns),
        "values": [[_short(v) for v in values] for values in rows.values()],
        "low": ends[0],
        "high": ends[1],
        "log": log,
        "format": "share" if share else "number",
        "picked": picked,
        "height": height,
        "x_title": x_title,
        "summary": summary,
    }
    state: Any = _heatmap(key=key, data=data, default={"row": None}, on_row_change=on_pick or _nothing)
    return state.row


def strands(
    axes: Sequence[Axis],
    lines: Sequence[Strand],
    *,
    key: str,
    scale: Sequence[tuple[float, str]],
    faint: str,
    height: int = 400,
    summary: str = "",
) -> None:
    """Draws lines through the same axes; along an axis one drags to keep those that pass there, which lasts while more
    lines come.

    Args:
        lines: the last ones lie on top. key: fixed. scale: (place in 0..1, colour as #rrggbb), rising from 0 to 1.
        faint: colour of the lines that are not kept. height: in pixels. summary: what a screen reader says.
    """
    data = {
        "axes": [
            {"label": a.label, "ticks": [[_short(at), said] for at, said in a.ticks], "none": a.none} for a in axes
        ],
        "lines": [
            {
                "label": line.label,
                "places": [_short(place) for place in line.places],
                "told": list(line.told),
                "shade": _short(line.shade),
            }
            for line in lines
        ],
        "scale": [list(stop) for stop in scale],
        "faint": faint,
        "height": height,
        "summary": summary,
    }
    _strands(key=key, data=data, height=height)


def dropzone(
    url: str,
    *,
    key: str,
    label: str = "Drop files, folders or a zip file here",
    help: str = "",
    most_bytes: int = 8 << 30,
    folders: bool = True,
    several: bool = True,
    on_report: Callable[[], None] | None = None,
) -> Report | None:
    """Draws an area that takes files by drop or by button and PUTs each to `url`, with its relative path in a header.

    Args:
        url: of one ticket, such as "/api/upload/<ticket>"; a new one empties the list.
        most_bytes: larger files are refused in the browser already.

    Returns:
        The last report for this `url`, or None before the first one.
    """
    data = {
        "url": url,
        "label": label,
        "help": help,
        "most_bytes": most_bytes,
        "folders": folders,
        "several": several,
    }
    state: Any = _dropzone(key=key, data=data, default={"report": None}, on_report_change=on_report or _nothing)
    told = state.report
    if not told or told.get("url") != url:
        return None
    failed = tuple((str(f["name"]), str(f["reason"])) for f in told["failed"])
    return Report(int(told["done"]), int(told["bytes"]), failed, int(told["seq"]))


def network(*, key: str, data: Mapping[str, Any], on_edits: Callable[[], None]) -> Any:
    """Draws the network canvas.

    Args:
        key: fixed; its state is `st.session_state[key].edits`, {mount, edits: [[number, edit]], selected}, where each
            edit is repeated until `data["heard"]` has reached its number.
        data: what `javascript/network.js` lists.
        on_edits: called before the rerun whenever the canvas told something.

    Returns:
        The last `edits` that the canvas told, or None before the first.
    """
    state: Any = _network(key=key, data=data, default={"edits": None}, on_edits_change=on_edits)
    return state.edits


def viewer(
    id: str,
    url: str,
    *,
    key: str,
    label: str = "Scan",
    boxes: Sequence[Box] = (),
    layers: Sequence[Layer] = (),
    height: int = 560,
    planes: bool = False,
    opacity: float = 0.6,
    slice: int | None = None,
    follow: bool = False,
    on_seen: Callable[[], None] | None = None,
) -> Seen | None:
    """Draws a scan to be looked through; the volume is fetched once from `url`, all else happens in the browser.

    Args:
        id: tells one scan from another: the browser fetches anew when it changes, and keeps what it had for a while.
        url: an address that answers in the form of `pages/kit/volumes.py`.
        label: what a screen reader says. height: of the picture, in pixels. planes: begin with three planes.
        opacity: of masks and heat maps at the beginning, 0..1.
        slice: the one to begin with, from 0, None for the middle; a change later on leads there.
        follow: tell Python what is seen, once the hand rests; otherwise looking around costs no rerun.
        on_seen: called before that rerun.

    Returns:
        What was told last for this `id`; None before, and always without `follow`.
    """
    before: Any = st.session_state.get(key)
    data = {
        "id": id,
        "url": url,
        "label": label,
        "heard": int(((before or {}).get("seen") or {}).get("seq", 0)),
        "height": height,
        "planes": planes,
        "opacity": opacity,
        "slice": slice,
        "follow": follow,
        "boxes": [asdict(box) for box in boxes],
        "layers": [asdict(layer) for layer in layers],
    }
    state: Any = _viewer(key=key, data=data, default={"seen": None}, on_seen_change=on_seen or _nothing)
    told = state.seen
    if not follow or not told or told.get("id") != id:
        return None
    return Seen(int(told["slice"]), told["center"], told["width"], bool(told["inverted"]))


def compare(
    id: str,
    before: tuple[str, str, str],
    after: tuple[str, str, str],
    *,
    key: str,
    change: tuple[str, str, str] | None = None,
    height: int = 520,
    slice: int | None = None,
) -> None:
    """Draws two pictures of one scan with a divider between them; everything happens in the browser.

    Args:
        id: tells one pair from another. before, after: (id, url, name) each; the second may be several times larger.
        change: a heat map as a `Layer` has it, laid over the second on request. slice: the one to begin with, from 0.
    """
    names = ("id", "url", "name")
    told = [None if part is None else dict(zip(names, part, strict=True)) for part in (before, after, change)]
    data = {"id": id, "before": told[0], "after": told[1], "change": told[2], "height": height, "slice": slice}
    _compare(key=key, data=data)


def film(
    base: str,
    mark: str,
    *,
    key: str,
    run: str,
    epochs: Sequence[int],
    steps: Sequence[int],
    best: int | None = None,
    classes: Sequence[str] = (),
) -> None:
    """Draws the film of a run with a slider over its epochs and a button that plays it; all happens in the browser.

    Args:
        base: the address of the film's folder. mark: what opens it. run: tells one film from another.
        epochs: those that it shows, rising; steps: the last step of each, which tells a picture from an earlier one.
        best: the epoch whose network is kept. classes: their names.
    """
    data = {"base": base, "key": mark, "run": run, "epochs": list(epochs), "steps": list(steps), "best": best}
    _film(key=key, data={**data, "classes": list(classes)})


def hand(*, key: str) -> None:
    """Lets a finger draw on the drawing canvases of the page, and a key that takes a canvas away wait until what was
    drawn is told. Shows nothing."""
    _hand(key=key)


def history(*, key: str) -> None:
    """Makes Back take the steps of a hand, not those of a page that completes its address. Shows nothing."""
    _history(key=key)


def _nothing() -> None:
    """Streamlit asks for a callback per state name."""


_ALONG = 9
"""Significant digits along an axis: who looks closely at the end of a long run sees single steps."""


def _short(value: float | None, digits: int = 5) -> float | int | None:
    """The number with so many significant digits: half the bytes, and no eye sees more. None for what is no number."""
    value = math.nan if value is None else float(value)
    if not math.isfinite(value):
        return None
    return int(value) if value.is_integer() and abs(value) < 2**53 else float(f"{value:.{digits}g}")
