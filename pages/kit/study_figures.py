"""The pictures of a search, made from its trials: plain figures of Plotly, drawn anew only when a trial has ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, log10
from typing import Any

import numpy as np
import streamlit as st

from builder.hindsight import best_so_far, together
from builder.search.studies import TrialView
from builder.spec import Dimension
from pages.kit.charts import palette
from pages.kit.study_words import option_words
from pages.kit.words import path_words

__all__ = [
    "contour",
    "faint",
    "gridded",
    "grades",
    "importance",
    "over",
    "pareto",
    "places",
    "progress",
    "running",
    "short",
    "scale",
    "slices",
    "ticks",
    "unit",
]

_AXIS_CHARS, _TICK_CHARS = 22, 17
_MARGIN = {"l": 64, "r": 12, "t": 12, "b": 48}  # to find them itself, Plotly needs as long as for a picture
_FEW_DOTS = 200
_DOTS_ACROSS, _DOTS_UPWARDS = 28, 28  # cells of one picture of a choice, each about as large as a dot
_STROKE = 0.0025  # half of a stroke that stands for a trial, in shares of an axis
_POINTS = 40  # of a map over two choices, along each
_CELLS_BETWEEN = 8  # from one choice to the next one beside it


def _theme() -> dict[str, Any]:
    dark = st.context.theme.type == "dark"
    return {
        "text": "#e7ecf3" if dark else "#16202e",
        "faint": "#5a6779" if dark else "#b3bccb",
        "grid": "#2c3644" if dark else "#dfe4ec",
        "scale": (
            [[0, "#33405a"], [0.5, "#5f7fc4"], [0.85, "#6f9bff"], [1, "#ffd479"]]
            if dark
            else [[0, "#ccd5e6"], [0.5, "#7f9ee6"], [0.85, "#2456d6"], [1, "#c26a07"]]
        ),
    }


def grades() -> list[str]:
    """Returns five colours from poor to good, as the scale of all pictures has them."""
    return [colour for _, colour in scale()]


def scale() -> list[tuple[float, str]]:
    """Returns (place in 0..1, colour) from poor to good, as all pictures have them."""
    return [(float(place), colour) for place, colour in _theme()["scale"]]


def faint() -> str:
    """Returns the colour of what was ended early."""
    return str(_theme()["faint"])


def running() -> str:
    """Returns the colour of what is running."""
    return palette()[1]


def short(path: str, titles: Mapping[str, str] | None = None) -> str:
    """Returns the words of a choice, short enough for an axis."""
    words = (titles or {}).get(path) or path_words(path)
    return _cut(words, _AXIS_CHARS)


def _cut(words: str, most: int) -> str:
    return words if len(words) <= most else words[: most - 1] + "…"


def unit(dimension: Dimension, value: Any) -> float | None:
    """Returns where a value lies between the ends of its range, 0 to 1; of options the number of the option. None for
    none, or for an option that is offered no more."""
    if value is None:
        return None
    if dimension.choices:
        return float(dimension.choices.index(value)) if value in dimension.choices else None
    low, high = float(dimension.low or 0), float(dimension.high or 0)
    if dimension.log:
        low, high, value = log10(low), log10(high), log10(max(float(value), 1e-300))
    return min(1.0, max(0.0, (value - low) / (high - low))) if high > low else 0.5


def places(dimension: Dimension, trials: Sequence[TrialView]) -> list[float | None]:
    """Returns each trial's place in [0, 1] along a choice, options evenly spread; None where it has none."""
    found = [unit(dimension, trial.params.get(dimension.path)) for trial in trials]
    most = max(1, len(dimension.choices or ()) - 1)
    return [v / most if v is not None and dimension.choices else v for v in found]


def ticks(dimension: Dimension) -> tuple[list[float], list[str]]:
    """Returns where an axis in [0, 1] has marks, and their words."""
    if dimension.choices:
        most = max(1, len(dimension.choices) - 1)
        return [k / most for k in range(len(dimension.choices))], [
            _cut(option_words(dimension.path, c), _TICK_CHARS) for c in dimension.choices
        ]
    low, high = float(dimension.low or 0), float(dimension.high or 0)
    if dimension.log:
        first, last = ceil(log10(low) - 1e-9), int(np.floor(log10(high) + 1e-9))
        inner = [10.0**k for k in range(first, last + 1)]
    else:
        every = 10.0 ** np.floor(log10((high - low) / 3)) if high > low else 1.0
        every *= next(k for k in (5, 2, 1) if k == 1 or (high - low) / (k * every) >= 3)
        inner = np.arange(ceil(low / every) * every, high, every).tolist()
    at: dict[float, str] = {}
    for value in (low, high, *inner):  # the ends before what would stand too close to them
        place = unit(dimension, value)
        if place is not None and all(abs(place - known) > 0.1 for known in at):
            at[place] = f"{value:g}"
    return sorted(at), [at[place] for place in sorted(at)]


def over(trials: Sequence[TrialView], objective: int = 0) -> list[TrialView]:
    """Returns the trials that have reached something in this objective."""
    return [t for t in trials if t.status == "done" and len(t.values) > objective]


def _figure(traces: Sequence[Any], height: int, **layout: Any) -> Any:
    import plotly.graph_objects as go

    theme = _theme()
    figure = go.Figure(list(traces))
    figure.update_layout(
        height=height,
        margin={"l": 8, "r": 8, "t": 28, "b": 8},
        font={"color": theme["text"], "size": 12},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        hovermode="closest",
        **layout,
    )
    return figure


def _hover(trial: TrialView, words: Mapping[str, str]) -> str:
    lines = [f"Trial {trial.number}"]
    lines += [f"{_safe(short(p, words))}: {_safe(option_words(p, v))}" for p, v in list(trial.params.items())[:8]]
    return "<br>".join(lines)


def _safe(text: str) -> str:
    return str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def progress(trials: Sequence[TrialView], name: str, larger: bool, titles: Mapping[str, str], at: int = 0) -> Any:
    """Every trial's score in their order, and the best up to then as a line of steps."""
    import plotly.graph_objects as go

    theme, colours = _theme(), palette()
    scores = [t.values[at] if t.status == "done" and len(t.values) > at else None for t in trials]
    pruned = [t for t in trials if t.pruned and t.curve[1] and not at]
    done = over(trials, at)
    numbers = [t.number for t in trials]
    best = best_so_far(scores, larger_better=larger)
    reached = [t.curve[1][-1] for t in pruned] + [t.values[at] for t in done]
    within = (min(reached), max(reached)) if reached else None
    early = _dots(
        [t.number for t in pruned],
        [t.curve[1][-1] for t in pruned],
        [f"{_hover(t, titles)}<br>ended early<br>{t.curve[1][-1]:.4g}" for t in pruned],
        colours=[(0, theme["faint"]), (1, theme["faint"])],
        marker={"size": 7, "symbol": "x"},
        across=4 * _DOTS_ACROSS,
        within=within,
    )
    all_done = _dots(
        [t.number for t in done],
        [t.values[at] for t in done],
        [f"{_hover(t, titles)}<br>{t.values[at]:.4g}" for t in done],
        colours=[(0, colours[0]), (1, colours[0])],
        marker={"size": 8, "opacity": 0.75},
        across=4 * _DOTS_ACROSS,
        within=within,
    )
    steps = [k for k, value in enumerate(best) if not k or k == len(best) - 1 or value != best[k - 1]]
    line = go.Scatter(
        x=[numbers[k] for k in steps],
        y=[best[k] for k in steps],
        mode="lines",
        line={"color": colours[3], "width": 2.5, "shape": "hv"},
        hovertemplate="best up to trial %{x}: %{y:.4g}<extra></extra>",
    )
    figure = _figure(
        [early, all_done, line],
        360,
        xaxis={"title": "Trial", "automargin": False},
        yaxis={"title": _safe(name), "automargin": False},
        showlegend=False,
    )
    return figure.update_layout(margin=_MARGIN)


def importance(found: Mapping[str, float], titles: Mapping[str, str]) -> Any:
    """The share of each choice in what was reached, as bars, the largest on top."""
    import plotly.graph_objects as go

    order = list(found)[::-1]
    bars = go.Bar(
        x=[found[p] for p in order],
        y=[_safe(short(p, titles)) for p in order],
        orientation="h",
        marker={"color": palette()[0], "cornerradius": 3},
        text=[f"{found[p]:.0%}" for p in order],
        textposition="outside",
        cliponaxis=False,
        hovertemplate="%{y}: %{text}<extra></extra>",
    )
    figure = _figure([bars], 110 + 36 * len(order), xaxis={"range": [0, 1.08 * max(found.values())], "visible": False})
    figure.update_yaxes(automargin=True)
    return figure


def slices(
    trials: Sequence[TrialView], dimensions: Sequence[Dimension], name: str, titles: Mapping[str, str], at: int = 0
) -> Any:
    """For each choice all trials: what was chosen across, what was reached upwards; later trials are darker.

    Of many trials the latest in each place is drawn. The choices of a row lie side by side on one pair of axes: to draw
    a pair of axes takes a browser as long as what lies on it.
    """
    import plotly.graph_objects as go

    theme, done = _theme(), over(trials, at)
    columns = min(3, max(1, len(dimensions)))
    num_rows = ceil(len(dimensions) / columns)
    scale = [(0.0, theme["faint"]), (1.0, palette()[0])]
    last = max((t.number for t in done), default=1) or 1
    scores = [t.values[at] for t in done]
    high = 1 / (num_rows + (num_rows - 1) * 0.3)  # of a row, in shares of all: the words below one take 0.3 of it
    beside = 1 + _CELLS_BETWEEN / _DOTS_ACROSS
    traces, titles_there = [], []
    layout: dict[str, Any] = {}
    for row in range(num_rows):
        axis, some = str(row + 1) if row else "", dimensions[row * columns : (row + 1) * columns]
        dots: list[tuple[float, float, str, float]] = []
        marks: list[float] = []
        said: list[str] = []
        for k, dimension in enumerate(some):
            path, words = dimension.path, _safe(short(dimension.path, titles))
            for trial, place in zip(done, places(dimension, done), strict=True):
                if place is not None:
                    told = f"Trial {trial.number}<br>{words}: {_safe(option_words(path, trial.params[path]))}"
                    value = trial.values[at]
                    dots.append((k * beside + place, value, f"{told}<br>{value:.4g}", trial.number / last))
            at_places, in_words = ticks(dimension)
            marks += [k * beside + place for place in at_places]
            said += [_safe(word) for word in in_words]
            titles_there.append(
                {"text": words, "x": k * beside + 0.5, "xref": f"x{axis}", "y": 1, "yref": f"y{axis} domain"}
                | {"yanchor": "bottom", "yshift": 4, "showarrow": False, "font": {"size": 12}}
            )
        across = len(some) * (_DOTS_ACROSS + _CELLS_BETWEEN) - _CELLS_BETWEEN
        xs, ys, words_of, shades = zip(*dots, strict=True) if dots else ((), (), (), ())
        cells = _dots(
            xs,
            ys,
            words_of,
            shades=shades,
            colours=scale,
            marker={"size": 7, "opacity": 0.8},
            across=across,
            ends=(0.0, across / _DOTS_ACROSS),
            within=(min(scores), max(scores)) if scores else None,
        )
        traces.append(cells.update(xaxis=f"x{axis}", yaxis=f"y{axis}"))
        top = 1 - row * 1.3 * high
        layout[f"xaxis{axis}"] = {
            "domain": [0, ((len(some) - 1) * beside + 1.12) / ((columns - 1) * beside + 1.12)],
            "range": [-0.06, (len(some) - 1) * beside + 1.06],
            "tickvals": marks,
            "ticktext": said,
            "anchor": f"y{axis}",
            "zeroline": False,
            "automargin": False,
            "tickangle": 0,
        }
        layout[f"yaxis{axis}"] = {
            "domain": [max(0.0, top - high), top],
            "anchor": f"x{axis}",
            "title": _safe(name),
            "automargin": False,
        }
    return go.Figure(
        traces,
        layout
        | {
            "height": 76 + 230 * num_rows,
            "margin": _MARGIN | {"t": 36, "b": 28},
            "font": {"color": theme["text"], "size": 11},
            "annotations": titles_there,
            "hovermode": "closest",
        },
    )


def gridded(
    xs: Sequence[float],
    ys: Sequence[float],
    across: int,
    ends: tuple[float, float] | None = None,
    within: tuple[float, float] | None = None,
) -> tuple[np.ndarray, np.ndarray, dict[Any, int]]:
    """Puts dots into cells as large as a dot, `across` of them side by side and 28 upwards.

    Args:
        xs, ys: (N,) places of the dots. ends, within: lowest and highest x and y of the cells, else of `xs` and `ys`.
    Returns:
        (across + 1,) and (29,) float64 middles of the cells, and {(row, column): index of the last dot there}.
    """
    middles, numbers = [], []
    for values, num, bounds in ((xs, across, ends), (ys, _DOTS_UPWARDS, within)):
        low, high = bounds or (min(values), max(values))
        step = ((high - low) or 1.0) / num
        middles.append(low + step * np.arange(num + 1))
        numbers.append([round((value - low) / step) for value in values])
    return middles[0], middles[1], {(row, column): k for k, (column, row) in enumerate(zip(*numbers, strict=True))}


def _dots(
    xs: Sequence[float],
    ys: Sequence[float],
    words: Sequence[str],
    *,
    colours: Sequence[tuple[float, str]],
    shades: Sequence[float] | None = None,
    marker: Mapping[str, Any],
    across: int,
    ends: tuple[float, float] | None = None,
    within: tuple[float, float] | None = None,
) -> Any:
    """Dots that tell `words` under the mouse, each in its shade (0 to 1; else 1) of `colours`; of many the last in each
    place.

    A browser draws each dot by itself, but thousands of cells as one picture. `across`: cells side by side; `ends`,
    `within`: the ranges across and upwards that are parted into cells, else those of `xs` and `ys`.
    """
    import plotly.graph_objects as go

    shades = [1.0] * len(ys) if shades is None else list(shades)
    look: dict[str, Any] = {"hovertemplate": "%{text}<extra></extra>", "showlegend": False}
    if len(ys) <= _FEW_DOTS:
        marker = {"color": shades, "colorscale": colours, "cmin": 0, "cmax": 1, **marker}
        return go.Scatter(x=list(xs), y=list(ys), text=list(words), mode="markers", marker=marker, **look)
    columns, rows, there = gridded(xs, ys, across, ends, within)
    shade, text = np.full((len(rows), len(columns)), np.nan), np.full((len(rows), len(columns)), "", object)
    for place, k in there.items():
        shade[place], text[place] = shades[k], words[k]
    cells = {"z": shade, "zmin": 0, "zmax": 1, "colorscale": colours, "showscale": False, "xgap": 1, "ygap": 1}
    return go.Heatmap(x=columns, y=rows, text=text, opacity=0.85, hoverongaps=False, **cells, **look)


def contour(
    trials: Sequence[TrialView],
    across: Dimension,
    upwards: Dimension,
    name: str,
    larger: bool,
    titles: Mapping[str, str],
    at: int = 0,
) -> Any:
    """Two choices together: a smooth map of what was reached, and the trials it was made from.

    Of many trials one line of strokes is drawn, and the map tells the latest in each place: each trial by itself would
    take a browser as long as all the rest.
    """
    import plotly.graph_objects as go

    theme, done = _theme(), over(trials, at)
    placed = [
        (t, x, y)
        for t, x, y in zip(done, places(across, done), places(upwards, done), strict=True)
        if x is not None and y is not None
    ]
    xs, ys, scores = [x for _, x, _ in placed], [y for _, _, y in placed], [t.values[at] for t, _, _ in placed]
    many = len(placed) > _FEW_DOTS
    at_points = np.linspace(0, 1, _POINTS)
    scale = theme["scale"][:3]
    scale = [[0, scale[0][1]], [0.6, scale[1][1]], [1, scale[2][1]]]
    if not larger:
        scale = [[1 - place, colour] for place, colour in reversed(scale)]
    map_: dict[str, Any] = {
        "type": "contour",
        "x": at_points,
        "y": at_points,
        "z": together(xs, ys, scores, num=_POINTS),
        "colorscale": scale,
        "line": {"width": 0.5, "color": theme["grid"]},
        "colorbar": {"title": {"text": _safe(name), "side": "right"}, "thickness": 12, "outlinewidth": 0},
        "hovertemplate": "about %{z:.4g}<extra></extra>",
    }
    layout: dict[str, Any] = {
        "height": 420,
        "margin": _MARGIN,
        "font": {"color": theme["text"], "size": 12},
        "hovermode": "closest",
    }
    traces: list[dict[str, Any]] = [map_] if placed else []
    if many:
        latest = {(round(y * (_POINTS - 1)), round(x * (_POINTS - 1))): t for t, x, y in placed}
        text = np.full((_POINTS, _POINTS), "", object)
        for place, trial in latest.items():
            text[place] = f"<br>{_hover(trial, titles)}<br>{trial.values[at]:.4g}"
        map_ |= {"text": text, "hovertemplate": "about %{z:.4g}%{text}<extra></extra>"}
        strokes = "".join(f"M{x - _STROKE:.4f},{y:.4f}L{x + _STROKE:.4f},{y:.4f}" for _, x, y in placed)
        line = {"color": theme["text"], "width": 4}
        layout["shapes"] = [{"type": "path", "path": strokes, "line": line, "opacity": 0.45}]
    else:
        circle = {"color": "rgba(0,0,0,0)", "size": 8, "line": {"color": theme["text"], "width": 1.4}}
        told = {
            "type": "scatter",
            "x": xs,
            "y": ys,
            "mode": "markers",
            "marker": circle,
            "opacity": min(1.0, max(0.3, 40 / max(1, len(placed)))),
            "text": [_hover(t, titles) for t, _, _ in placed],
            "customdata": scores,
            "hovertemplate": "%{text}<br>%{customdata:.4g}<extra></extra>",
            "showlegend": False,
        }
        traces.append(told)
    for axis, dimension in (("xaxis", across), ("yaxis", upwards)):
        marks, words = ticks(dimension)
        layout[axis] = {
            "title": _safe(short(dimension.path, titles)),
            "tickvals": marks,
            "ticktext": [_safe(w) for w in words],
            "range": [-0.03, 1.03],
            "zeroline": False,
            "showgrid": False,
        }
    return go.Figure(traces, layout)


def pareto(
    trials: Sequence[TrialView],
    kept: Sequence[int],
    names: Sequence[str],
    titles: Mapping[str, str],
    across: int = 0,
    upwards: int = 1,
) -> Any:
    """Two objectives against each other. `kept`: the numbers of the trials that no other one beats in everything; of
    two objectives a line joins them."""
    import plotly.graph_objects as go

    theme, colours = _theme(), palette()
    done = over(trials, max(across, upwards))
    first = sorted((t for t in done if t.number in set(kept)), key=lambda t: t.values[across])
    rest = [t for t in done if t.number not in set(kept)]
    joined = "lines+markers" if len(names) == 2 else "markers"
    traces = [
        go.Scatter(
            x=[t.values[across] for t in some],
            y=[t.values[upwards] for t in some],
            mode=mode,
            name=words,
            line={"color": colours[3], "width": 2, "dash": "dot"},
            marker={"color": colour, "size": size},
            text=[_hover(t, titles) for t in some],
            hovertemplate="%{text}<br>%{x:.4g}, %{y:.4g}<extra></extra>",
        )
        for some, mode, words, colour, size in (
            (rest, "markers", "beaten by another trial", theme["faint"], 7),
            (first, joined, "beaten by none", colours[3], 10),
        )
    ]
    return _figure(traces, 400, xaxis={"title": _safe(names[across])}, yaxis={"title": _safe(names[upwards])})
