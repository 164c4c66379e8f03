"""Charts: points thinned for the eye, smoothing, and still pictures in the theme's colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import streamlit as st

__all__ = ["Points", "bars", "palette", "smooth", "thinned"]

_LIGHT = ("#2456d6", "#d1477a", "#0e8a5f", "#c26a07", "#6d4bd1", "#0f8aa6")
_DARK = ("#6f9bff", "#f07aa5", "#3fc796", "#f0a24a", "#a68bff", "#4fc3dc")


def palette() -> tuple[str, ...]:
    """Returns the categorical colours of the theme that the browser shows now."""
    return _DARK if st.context.theme.type == "dark" else _LIGHT


def thinned(
    x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray, num: int = 400
) -> tuple[np.ndarray, np.ndarray]:
    """Returns at most about 2 * num points that draw the same picture: the lowest and highest of each of `num` buckets.

    Args:
        x: (N,) rising. y: (N,); NaN marks a gap and is kept as such only where a whole bucket is missing.
    Returns:
        x and y, float64, in order, ends included.
    """
    xs, ys = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if len(ys) <= 2 * num:
        return xs, ys
    width = len(ys) // num
    whole = width * num
    blocks = ys[:whole].reshape(num, width)
    starts = np.arange(num) * width
    low = np.where(np.isnan(blocks), np.inf, blocks).argmin(1) + starts
    high = np.where(np.isnan(blocks), -np.inf, blocks).argmax(1) + starts
    kept = np.unique(np.concatenate([[0], low, high, np.arange(whole, len(ys)), [len(ys) - 1]]))
    return xs[kept], ys[kept]


class Points:
    """A curve as arrays. Thinned to what an eye can see it still shows every peak; what is looked at closely is shown
    finer.

    Attributes:
        x: (N,) float64, rising. y: (N,) float64. Where `x` or `y` grew meanwhile, N is what both have.
    """

    def __init__(self, x: Sequence[float], y: Sequence[float]) -> None:
        num = min(len(x), len(y))
        self.x, self.y = np.array(x, np.float64)[:num], np.array(y, np.float64)[:num]

    def thinned(self, num: int, window: tuple[float, float] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """As the function of that name; inside `window` of x with `num` buckets of its own."""
        x, y = self.x, self.y
        if window is None or len(y) <= 2 * num:
            return thinned(x, y, num)
        low, high = np.searchsorted(x, window)
        low, high = max(0, int(low) - 1), min(len(x), int(high) + 1)
        coarse_x, coarse_y = thinned(x, y, num)
        fine_x, fine_y = thinned(x[low:high], y[low:high], num)
        if not len(fine_x):
            return coarse_x, coarse_y
        before, after = coarse_x < fine_x[0], coarse_x > fine_x[-1]
        parts = ((coarse_x[before], fine_x, coarse_x[after]), (coarse_y[before], fine_y, coarse_y[after]))
        return np.concatenate(parts[0]), np.concatenate(parts[1])

    def means(self, num: int) -> tuple[np.ndarray, np.ndarray]:
        """The mean of each of at most about `num` buckets, at the bucket's end: what a smoothed line is drawn from."""
        x, y = self.x, self.y
        width = len(y) // num
        if width < 2:
            return x, y
        edges = np.arange(0, len(y), width)
        known = ~np.isnan(y)
        sums, counts = np.add.reduceat(np.where(known, y, 0.0), edges), np.add.reduceat(known, edges)
        ends = np.minimum(edges + width, len(y)) - 1
        return x[ends], np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)


def smooth(y: Sequence[float], weight: float) -> np.ndarray:
    """Returns the running mean with memory `weight` in [0, 1), unbiased at the start (as Adam's moments); NaN is passed
    over.

    Returns:
        (N,) float64.
    """
    ys = np.asarray(y, np.float64)
    out = np.empty_like(ys)
    mean, seen = 0.0, 0.0
    for i, value in enumerate(ys):
        if not np.isnan(value):
            mean = weight * mean + (1 - weight) * value
            seen = weight * seen + (1 - weight)
        out[i] = mean / seen if seen else np.nan
    return out


def bars(
    counts: Mapping[str, Mapping[str, float]],
    *,
    key: str,
    y_title: str = "",
    x_title: str = "",
    height: int = 260,
) -> None:
    """Draws grouped bars: a group per outer key, a colour per inner key. For finished numbers, not for live ones."""
    import plotly.graph_objects as go

    inner = list(dict.fromkeys(name for row in counts.values() for name in row))
    colours = palette()
    groups = [_escaped(group) for group in counts]
    figure = go.Figure(
        [
            go.Bar(
                name=_escaped(name),
                x=groups,
                y=[row.get(name, 0) for row in counts.values()],
                marker={"color": colours[i % len(colours)], "cornerradius": 3},
            )
            for i, name in enumerate(inner)
        ]
    )
    figure.update_layout(**_quiet(height, x_title, y_title), barmode="group", showlegend=len(inner) > 1)
    figure.update_xaxes(type="category")
    st.plotly_chart(figure, key=key, config={"displayModeBar": False})


def _quiet(height: int, x_title: str, y_title: str) -> dict[str, Any]:
    return {
        "height": height,
        "margin": {"l": 8, "r": 8, "t": 28, "b": 8},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "xaxis_title": x_title or None,
        "yaxis_title": y_title or None,
        "bargap": 0.3,
    }


def _escaped(text: str) -> str:
    """Plotly reads tags and links in texts; names come from files and people, so they must not become any."""
    return str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
