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
    "uncovered",
    "unit",
]

_AXIS_CHARS = 22
_FEW_DOTS = 200
_DOTS_ACROSS, _DOTS_UPWARDS = 56, 28  # dots side by side in one picture of a choice, each touched by the next


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
    return words if len(words) <= _AXIS_CHARS else words[: _AXIS_CHARS - 1] + "…"


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
    return float(np.clip((value - low) / (high - low), 0, 1)) if high > low else 0.5


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
            option_words(dimension.path, c)[:16] for c in dimension.choices
        ]
    low, high = float(dimension.low or 0), float(dimension.high or 0)
    if dimension.log:
        first, last = ceil(log10(low) - 1e-9), int(np.floor(log10(high) + 1e-9))
        values = [low, *(10.0**k for k in range(first, last + 1)), high]
    else:
        every = 10.0 ** np.floor(log10((high - low) / 3)) if high > low else 1.0
        every *= next(k for k in (5, 2, 1) if k == 1 or (high - low) / (k * every) >= 3)
        values = [low, *np.arange(ceil(low / every) * every, high, every).tolist(), high]
    at: dict[float, str] = {}
    for value in values:
        place = unit(dimension, value)
        if place is not None and all(abs(place - known) > 0.07 for known in at):
            at[place] = f"{value:g}"
    return list(at), list(at.values())


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
    traces = [
        go.Scatter(
            x=[t.number for t in pruned],
            y=[t.curve[1][-1] for t in pruned],
            mode="markers",
            name="ended early",
            marker={"color": theme["faint"], "size": 7, "symbol": "x"},
            text=[_hover(t, titles) for t in pruned],
            hovertemplate="%{text}<br>ended early at %{y:.4g}<extra></extra>",
        ),
        go.Scatter(
            x=[t.number for t in done],
            y=[t.values[at] for t in done],
            mode="markers",
            name="a trial",
            marker={"color": colours[0], "size": 8, "opacity": 0.75},
            text=[_hover(t, titles) for t in done],
            hovertemplate="%{text}<br>%{y:.4g}<extra></extra>",
        ),
        go.Scatter(
            x=numbers,
            y=best,
            mode="lines",
            name="best so far",
            line={"color": colours[3], "width": 2.5, "shape": "hv"},
            hovertemplate="best up to trial %{x}: %{y:.4g}<extra></extra>",
        ),
    ]
    return _figure(traces, 380, xaxis={"title": "Trial"}, yaxis={"title": _safe(name)})


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

    Of many trials a dot that others would cover is left out (see `uncovered`): a browser draws each by itself.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    theme, done = _theme(), over(trials, at)
    columns = min(3, max(1, len(dimensions)))
    rows = ceil(len(dimensions) / columns)
    figure = make_subplots(
        rows=rows,
        cols=columns,
        shared_yaxes=True,
        horizontal_spacing=0.06,
        vertical_spacing=min(0.24, 0.5 / rows),
        subplot_titles=[_safe(short(d.path, titles)) for d in dimensions],
    )
    scale = [[0, theme["faint"]], [1, palette()[0]]]
    for number, dimension in enumerate(dimensions):
        row, column = 1 + number // columns, 1 + number % columns
        placed = [(t, p) for t, p in zip(done, places(dimension, done), strict=True) if p is not None]
        there = [placed[k] for k in uncovered([p for _, p in placed], [t.values[at] for t, _ in placed])]
        path, words = dimension.path, _safe(short(dimension.path, titles))
        figure.add_trace(
            go.Scatter(
                x=[p for _, p in there],
                y=[t.values[at] for t, _ in there],
                mode="markers",
                marker={
                    "color": [t.number for t, _ in there],
                    "colorscale": scale,
                    "cmin": 0,
                    "cmax": max((t.number for t in done), default=1) or 1,
                    "size": 7,
                    "opacity": 0.8,
                },
                text=[f"Trial {t.number}<br>{words}: {_safe(option_words(path, t.params[path]))}" for t, _ in there],
                hovertemplate="%{text}<br>%{y:.4g}<extra></extra>",
                showlegend=False,
            ),
            row=row,
            col=column,
        )
        marks, said = ticks(dimension)
        figure.update_xaxes(
            range=[-0.06, 1.06], tickvals=marks, ticktext=[_safe(w) for w in said], row=row, col=column, zeroline=False
        )
        if column == 1:
            figure.update_yaxes(title=_safe(name), row=row, col=column)
    figure.update_annotations(font={"size": 12, "color": theme["text"]})
    figure.update_layout(
        height=60 + 230 * rows, margin={"l": 8, "r": 8, "t": 36, "b": 8}, font={"color": theme["text"], "size": 11}
    )
    return figure


def uncovered(xs: Sequence[float], ys: Sequence[float]) -> list[int]:
    """Returns which dots are drawn, in their order: all of a few; of many the last of those that lie on one another.

    Args:
        xs: (N,) places across, 0 to 1. ys: (N,) what was reached.
    Returns:
        indices; the first of the highest and of the lowest is always among them.
    """
    if len(ys) <= _FEW_DOTS:
        return list(range(len(ys)))
    low, high = min(ys), max(ys)
    span = high - low or 1.0
    last = {
        (round(x * _DOTS_ACROSS), round((y - low) / span * _DOTS_UPWARDS)): k
        for k, (x, y) in enumerate(zip(xs, ys, strict=True))
    }
    return sorted({*last.values(), ys.index(low), ys.index(high)})


def contour(
    trials: Sequence[TrialView],
    across: Dimension,
    upwards: Dimension,
    name: str,
    larger: bool,
    titles: Mapping[str, str],
    at: int = 0,
) -> Any:
    """Two choices together: a smooth map of what was reached, and the trials it was made from."""
    import plotly.graph_objects as go

    theme, done = _theme(), over(trials, at)
    placed = [
        (t, x, y)
        for t, x, y in zip(done, places(across, done), places(upwards, done), strict=True)
        if x is not None and y is not None
    ]
    xs, ys, scores = [x for _, x, _ in placed], [y for _, _, y in placed], [t.values[at] for t, _, _ in placed]
    at_points = np.linspace(0, 1, 40)
    scale = theme["scale"][:3]
    scale = [[0, scale[0][1]], [0.6, scale[1][1]], [1, scale[2][1]]]
    if not larger:
        scale = [[1 - place, colour] for place, colour in reversed(scale)]
    traces = []
    if placed:
        traces.append(
            go.Contour(
                x=at_points,
                y=at_points,
                z=together(xs, ys, scores),
                colorscale=scale,
                contours={"showlines": True},
                line={"width": 0.5, "color": theme["grid"]},
                colorbar={"title": {"text": _safe(name), "side": "right"}, "thickness": 12, "outlinewidth": 0},
                hovertemplate="about %{z:.4g}<extra></extra>",
            )
        )
    traces.append(
        go.Scatter(
            x=xs,
            y=ys,
            mode="markers",
            marker={"color": "rgba(0,0,0,0)", "size": 8, "line": {"color": theme["text"], "width": 1.4}},
            opacity=min(1.0, max(0.3, 40 / max(1, len(placed)))),
            text=[_hover(t, titles) for t, _, _ in placed],
            customdata=scores,
            hovertemplate="%{text}<br>%{customdata:.4g}<extra></extra>",
            showlegend=False,
        )
    )
    figure = _figure(traces, 420)
    for update, dimension in ((figure.update_xaxes, across), (figure.update_yaxes, upwards)):
        marks, words = ticks(dimension)
        update(
            title=_safe(short(dimension.path, titles)),
            tickvals=marks,
            ticktext=[_safe(w) for w in words],
            range=[-0.03, 1.03],
            zeroline=False,
            showgrid=False,
        )
    return figure


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
