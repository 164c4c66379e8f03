"""What a convolution or a pooling does, place by place: the window on the picture, the numbers under it, their sum.

One Plotly figure with frames: "play" moves the window over the rows in the browser, without asking the server.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import streamlit as st

from builder.stepping import Geometry, Step, out_size, step
from pages.kit import charts, mosaic
from pages.kit.words import amount

__all__ = ["draw", "sentence"]

_FRAMES = 32  # places that "play" visits
_TEXT_UP_TO = 7  # larger windows are shown in colour only: their numbers would be too small to read
_GREY = [[0, "#0d0f14"], [1, "#f5f6f8"]]


def draw(
    source: str,
    id: str,
    x: np.ndarray,
    plain: Mapping[str, Any],
    weight: np.ndarray | None,
    bias: np.ndarray | None,
) -> None:
    """Draws the step through one layer with its controls.

    Args:
        source: names the look that the numbers are of. id: of the layer.
        x: (C, H, W), what goes into the layer. plain: its geometry as JSON. weight, bias: of a convolution.
    """
    geometry = Geometry.from_json(plain)
    height, width = out_size(geometry, x.shape[1:])
    num_out = geometry.channels_out or len(x)
    controls, picture = st.columns([1, 4.2], gap="medium")
    with controls:
        channel = _number("Channel that comes out", num_out, f"step-channel-{num_out}")
        row = _number("Row", height, f"step-row-{height}", (height + 1) // 2)
        column = _number("Column", width, f"step-column-{width}", max(1, (width + 1) // 2 - min(width // 2, 8)))
    at = step(x, geometry, channel, (row, column), weight, bias)
    with controls:
        shown = _input_channel(at, len(x))
        st.caption(_how(geometry))
    dark = st.context.theme.type == "dark"
    figure = _kept(
        f"{source} {id} {channel} {row} {column} {shown} {dark}",
        lambda: _figure(x, geometry, channel, (row, column), shown, weight, bias),
    )
    with picture:
        st.plotly_chart(
            figure,
            key="step-figure",
            config={"displayModeBar": False},
            alt=f"The window of {id} at row {row + 1}, column {column + 1}",
        )
        st.markdown(sentence(at, geometry))


@st.cache_resource(max_entries=12, show_spinner=False)
def _kept(key: str, _make: Callable[[], Any]) -> Any:
    """The figure made once: an edit elsewhere on the page draws it again, and its frames take a third of a second."""
    return _make()


def _number(words: str, count: int, key: str, begin: int = 1) -> int:
    """A number from 1 to `count` with arrow buttons; returned from 0."""
    if count < 2:
        return 0
    return int(st.number_input(words, 1, count, begin, key=key)) - 1


def _input_channel(at: Step, total: int) -> int:
    """Which of the channels that take part is drawn, as a place in the step's arrays: first the weightiest one."""
    count = len(at.channels)
    if count < 2:
        return 0
    ranked = np.argsort(-np.abs(at.sums))
    words = [f"{at.channels[k] + 1} ({_signed(at.sums[k])})" for k in ranked]
    chosen = st.selectbox(
        "Channel that goes in",
        range(len(ranked)),
        key="step-in",
        format_func=lambda k: words[k],
        help="All of them are summed; one is drawn. In brackets what each adds here, the weightiest first.",
    )
    return int(ranked[chosen])


def _signed(value: float) -> str:
    return f"{value:+.3g}"


def _how(geometry: Geometry) -> str:
    size = " x ".join(map(str, geometry.kernel))
    if geometry.out:
        return f"Windows of about {size}, so that {' x '.join(map(str, geometry.out))} come out."
    said = [f"Window {size}", f"step {_pair(geometry.stride)}"]
    if any(geometry.padding):
        border = {"zeros": "border of zeros", "reflect": "mirrored border", "replicate": "repeated border"}
        said.append(f"{border.get(geometry.mode, 'border from the other side')} {_pair(geometry.padding)}")
    if any(d > 1 for d in geometry.dilation):
        said.append(f"points {_pair(geometry.dilation)} apart")
    if geometry.groups > 1:
        said.append(f"{geometry.groups} groups")
    return ", ".join(said) + "."


def _pair(values: Sequence[int]) -> str:
    return str(values[0]) if len(set(values)) == 1 else " x ".join(map(str, values))


def sentence(at: Step, geometry: Geometry) -> str:
    """The sum in words and numbers, as markdown."""
    outside = int((~at.inside).sum())
    border = f" {amount(outside, 'place')} of the window lie{'s' if outside == 1 else ''} beyond the border."
    beyond = border if outside else ""
    if geometry.learned:
        count = len(at.channels)
        products = int(np.prod(at.values.shape))
        bias = f" {_signed(at.bias)} (bias)" if at.bias else ""
        if count == 1:
            return f"{products} products add up to {at.sums[0]:.4g}{bias} = **{at.total:.4g}**.{beyond}"
        parts = sorted(zip(at.sums, at.channels, strict=True), key=lambda p: -abs(p[0]))[:3]
        first = " ".join(f"{_signed(value)} (channel {k + 1})" for value, k in parts)
        rest = f" {_signed(at.sums.sum() - sum(v for v, _ in parts))} (the other {count - 3})" if count > 3 else ""
        return f"{products} products over {count} channels: {first}{rest}{bias} = **{at.total:.4g}**.{beyond}"
    if geometry.kind.endswith("maximum"):
        return f"The largest of {int(at.inside.sum())} values is **{at.total:.4g}**.{beyond}"
    return f"The sum {at.sums[0]:.4g} divided by {at.divisor} is the mean, **{at.total:.4g}**.{beyond}"


def _row(
    x: np.ndarray, geometry: Geometry, channel: int, row: int, weight: np.ndarray | None, bias: np.ndarray | None
) -> np.ndarray:
    """The whole row of outputs that "play" fills in, (W,)."""
    width = out_size(geometry, x.shape[1:])[1]
    return np.array([step(x, geometry, channel, (row, c), weight, bias).total for c in range(width)])


def _figure(
    x: np.ndarray,
    geometry: Geometry,
    channel: int,
    position: tuple[int, int],
    shown: int,
    weight: np.ndarray | None,
    bias: np.ndarray | None,
) -> Any:
    """The figure: the picture with the window, values, weights, products, and the row of outputs as it is filled."""
    import plotly.graph_objects as go_
    from plotly.subplots import make_subplots

    row, column = position
    outputs = _row(x, geometry, channel, row, weight, bias)
    width = len(outputs)
    learned = geometry.learned
    titles = [
        "What goes in",
        "Under the window",
        *(["Weights", "Products"] if learned else []),
        f"Row {row + 1} as it comes out",
    ]
    specs: list[list[dict[str, Any] | None]] = (
        [[{"rowspan": 2}, {}, {}, {}], [None, {"colspan": 3}, None, None]]
        if learned
        else [[{"rowspan": 2}, {}], [None, {}]]
    )
    figure = make_subplots(
        2,
        4 if learned else 2,
        specs=specs,
        subplot_titles=titles,
        column_widths=[0.43, 0.19, 0.19, 0.19] if learned else [0.5, 0.5],
        row_heights=[0.6, 0.4],
        horizontal_spacing=0.045,
        vertical_spacing=0.17,
    )
    start = max(0, min(column, width - _FRAMES))
    columns = list(range(start, min(width, start + _FRAMES)))
    steps = {c: step(x, geometry, channel, (row, c), weight, bias) for c in {*columns, column}}
    drawn = x[steps[column].channels[shown]]
    orange = charts.palette()[3]
    ranges = _ranges(steps.values(), shown)
    traces = [
        go_.Heatmap(
            z=drawn, colorscale=_GREY, showscale=False, hovertemplate="row %{y}, column %{x}: %{z:.4g}<extra></extra>"
        ),
        *_cells(steps[column], shown, ranges, learned),
        _outputs(outputs, column, orange),
    ]
    places = [(1, 1), (1, 2), (1, 3), (1, 4), (2, 2)] if learned else [(1, 1), (1, 2), (2, 2)]
    for trace, (r, c) in zip(traces, places, strict=True):
        figure.add_trace(trace, r, c)
    last = len(places)
    moving = list(range(1, last))
    figure.frames = [
        go_.Frame(
            name=str(c + 1),
            data=[*_cells(steps[c], shown, ranges, learned), _outputs(outputs, c, orange)],
            traces=moving,
            layout={"shapes": [_window(steps[c], orange)]},
        )
        for c in columns
    ]
    for k, (r, c) in enumerate(places[:-1], 1):
        anchor = "x" if k == 1 else f"x{k}"
        figure.update_yaxes(autorange="reversed", scaleanchor=anchor, visible=False, constrain="domain", row=r, col=c)
        figure.update_xaxes(visible=False, constrain="domain", row=r, col=c)
    figure.update_xaxes(title="Column", row=places[-1][0], col=places[-1][1])
    figure.update_layout(
        height=470,
        margin={"l": 8, "r": 8, "t": 34, "b": 8},
        shapes=[_window(steps[column], orange)],
        showlegend=False,
        updatemenus=[_buttons()],
        sliders=[_slider(columns, column)],
    )
    return figure


def _ranges(steps: Any, shown: int) -> tuple[float, float, float]:
    """The scales of values, weights and products, one for all frames, so that colours can be compared."""
    every = list(steps)
    values, weights, products = (
        max((float(np.abs(part[shown]).max()) for s in every if (part := getattr(s, name)) is not None), default=0.0)
        or 1.0
        for name in ("values", "weights", "products")
    )
    return values, weights, products


def _cells(at: Step, shown: int, ranges: tuple[float, float, float], learned: bool) -> list[Any]:
    """The tables of numbers under the window."""
    tables = [(at.values[shown], ranges[0])]
    if learned and at.weights is not None and at.products is not None:
        tables += [(at.weights[shown], ranges[1]), (at.products[shown], ranges[2])]
    return [_table(values, most, at) for values, most in tables]


def _table(values: np.ndarray, most: float, at: Step) -> Any:
    import plotly.graph_objects as go_

    dark = st.context.theme.type == "dark"
    stops = [
        [k / 4, "rgb({},{},{})".format(*mosaic.coloured(np.array(v), -1.0, 1.0, True, dark))]
        for k, v in enumerate((-1.0, -0.5, 0.0, 0.5, 1.0))
    ]
    words = [[_cell(v) for v in line] for line in values]
    if at.chosen:
        words[at.chosen[0]][at.chosen[1]] = f"<b>{words[at.chosen[0]][at.chosen[1]]}</b>"
    small = max(values.shape) <= _TEXT_UP_TO
    return go_.Heatmap(
        z=values,
        zmin=-most,
        zmax=most,
        colorscale=stops,
        showscale=False,
        text=words if small else None,
        texttemplate="%{text}" if small else None,
        textfont={"size": 13 if max(values.shape) <= 3 else 11 if max(values.shape) <= 5 else 9},
        xgap=2,
        ygap=2,
        hovertemplate="%{z:.5g}<extra></extra>",
    )


def _cell(value: float) -> str:
    """At most five letters: 0, 0.12, -1.3, 250."""
    if abs(value) < 0.005:
        return "0" if value == 0 else "0.00"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _outputs(outputs: np.ndarray, column: int, orange: str) -> Any:
    """The row that comes out, filled up to the place where the window stands."""
    import plotly.graph_objects as go_

    places = list(range(1, len(outputs) + 1))
    colours = [orange if c == column else "#8a94a6" for c in range(len(outputs))]
    opacity = [1.0 if c <= column else 0.22 for c in range(len(outputs))]
    return go_.Bar(
        x=places,
        y=outputs,
        marker={"color": colours, "opacity": opacity, "line": {"width": 0}},
        hovertemplate="column %{x}: %{y:.5g}<extra></extra>",
    )


def _window(at: Step, orange: str) -> dict[str, Any]:
    """The frame on the picture that goes in; with gaps between its points it spans all of them."""
    rows, columns = at.places
    return {
        "type": "rect",
        "xref": "x",
        "yref": "y",
        "x0": columns[0] - 0.5,
        "x1": columns[-1] + 0.5,
        "y0": rows[0] - 0.5,
        "y1": rows[-1] + 0.5,
        "line": {"color": orange, "width": 3},
        "fillcolor": "rgba(240,162,74,.18)",
    }


def _buttons() -> dict[str, Any]:
    moving = {"frame": {"duration": 320, "redraw": True}, "transition": {"duration": 0}, "fromcurrent": True}
    still = {"frame": {"duration": 0, "redraw": False}, "mode": "immediate"}
    return {
        "type": "buttons",
        "direction": "left",
        "showactive": False,  # the pressed one would be white, also on a dark page
        "bgcolor": "rgba(128,140,160,.14)",
        "bordercolor": "rgba(128,140,160,.5)",
        "x": 0,
        "y": -0.06,
        "xanchor": "left",
        "yanchor": "top",
        "pad": {"t": 8, "r": 8},
        "buttons": [
            {"label": "▶ Play", "method": "animate", "args": [None, moving]},
            {"label": "❚❚ Pause", "method": "animate", "args": [[None], still]},
        ],
    }


def _slider(columns: list[int], column: int) -> dict[str, Any]:
    still = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}
    return {
        "active": columns.index(column) if column in columns else 0,
        "x": 0.2,
        "len": 0.8,
        "y": -0.06,
        "pad": {"t": 4},
        "currentvalue": {"prefix": "Column ", "xanchor": "right"},
        "steps": [{"label": str(c + 1), "method": "animate", "args": [[str(c + 1)], still]} for c in columns],
    }
