"""Charts: points thinned for the eye, smoothing, and still pictures in the theme's colours."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import streamlit as st

from builder.growing import Growing

__all__ = ["Points", "bars", "palette", "reached", "smooth", "thinned"]

_TOGETHER = 16  # buckets of a curve that are looked at together
_PIECE = 8192  # numbers of it, where there are no buckets

_LIGHT = ("#2456d6", "#d1477a", "#0e8a5f", "#c26a07", "#6d4bd1", "#0f8aa6")
_DARK = ("#6f9bff", "#f07aa5", "#3fc796", "#f0a24a", "#a68bff", "#4fc3dc")


def palette() -> tuple[str, ...]:
    """Returns the categorical colours of the theme that the browser shows now."""
    return _DARK if st.context.theme.type == "dark" else _LIGHT


def part(row: Sequence[float] | np.ndarray, start: int, stop: int) -> np.ndarray:
    """Returns the numbers of a row from `start` up to `stop`, float64, without reading the others."""
    found = row.array(start, stop) if isinstance(row, Growing) else row[start:stop]
    return np.asarray(found, np.float64)


def thinned(
    x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray, num: int = 400, start: int = 0, stop: int = -1
) -> tuple[np.ndarray, np.ndarray]:
    """Returns at most about 2 * num points that draw the same picture: the lowest and highest of each of `num` buckets.

    Args:
        x: (N,) rising. y: (N,); NaN marks a gap and is kept as such only where a whole bucket is missing.
        start, stop: which of the N are drawn; -1: up to the last.
    Returns:
        x and y, float64, in order, ends included.
    """
    stop = len(y) if stop < 0 else stop
    if stop - start <= 2 * num:
        return part(x, start, stop), part(y, start, stop)
    places, kept_x, kept_y = [], [], []
    for first, xs, ys, skip in _buckets(x, y, num, start, stop):
        rows, missing = np.arange(len(ys)), np.isnan(ys)
        for at in (np.where(missing, np.inf, ys).argmin(1), np.where(missing, -np.inf, ys).argmax(1)):
            places.append((first + rows * ys.shape[1] + at)[skip:])
            kept_x.append(xs[rows, at][skip:])
            kept_y.append(ys[rows, at][skip:])
    for end in (start, stop - 1):
        places.append(np.array([end]))
        kept_x.append(part(x, end, end + 1))
        kept_y.append(part(y, end, end + 1))
    _, order = np.unique(np.concatenate(places), return_index=True)
    return np.concatenate(kept_x)[order], np.concatenate(kept_y)[order]


def _buckets(
    x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray, num: int, start: int, stop: int
) -> Iterator[tuple[int, np.ndarray, np.ndarray, int]]:
    """At most `num` buckets of equal width, some at a time: (where the first begins, x (rows, width), y (rows, width),
    how many of the rows were there before).

    So drawing a long run takes hardly more memory than a short one; and the arrays have always the same lengths while a
    run grows, since numpy keeps seven freed ones of each small length for ever. For that the last bucket reaches
    back into the one before it, and the last rows into those before them.
    """
    width = -(-(stop - start) // num)
    whole = (stop - start) // width
    rows = min(_TOGETHER, whole)
    pieces = [(start + min(k, whole - rows) * width, rows, max(0, k - whole + rows)) for k in range(0, whole, rows)]
    pieces += [(stop - width, 1, 0)] * bool((stop - start) % width)
    for first, count, skip in pieces:
        last = first + count * width
        yield first, part(x, first, last).reshape(count, width), part(y, first, last).reshape(count, width), skip


class Points:
    """A curve. Thinned to what an eye can see it still shows every peak; what is looked at closely is shown finer.

    Attributes:
        x: (N,) rising. y: (N,). num: N; where `x` or `y` grew meanwhile, what both have.
    """

    def __init__(self, x: Sequence[float], y: Sequence[float]) -> None:
        self.x, self.y, self.num = x, y, min(len(x), len(y))

    def thinned(self, num: int, window: tuple[float, float] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """As the function of that name; inside `window` of x with `num` buckets of its own."""
        coarse_x, coarse_y = thinned(self.x, self.y, num, 0, self.num)
        if window is None or self.num <= 2 * num:
            return coarse_x, coarse_y
        low, high = (bisect_left(self.x, at, 0, self.num) for at in window)
        low, high = max(0, low - 1), min(self.num, high + 1)
        fine_x, fine_y = thinned(self.x, self.y, num, low, high)
        if not len(fine_x):
            return coarse_x, coarse_y
        before, after = coarse_x < fine_x[0], coarse_x > fine_x[-1]
        parts = ((coarse_x[before], fine_x, coarse_x[after]), (coarse_y[before], fine_y, coarse_y[after]))
        return np.concatenate(parts[0]), np.concatenate(parts[1])

    def means(self, num: int) -> tuple[np.ndarray, np.ndarray]:
        """The mean of each of at most `num` buckets, at the bucket's end: what a smoothed line is drawn from."""
        if self.num <= num:
            return part(self.x, 0, self.num), part(self.y, 0, self.num)
        ends, means = [], []
        for _, xs, ys, skip in _buckets(self.x, self.y, num, 0, self.num):
            known = ~np.isnan(ys)
            sums, counts = np.where(known, ys, 0.0).sum(1), known.sum(1)
            ends.append(xs[skip:, -1].copy())  # a view would keep all that it is of
            means.append(np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)[skip:])
        return np.concatenate(ends), np.concatenate(means)


def reached(steps: Sequence[float], known: Sequence[float], values: Sequence[float]) -> np.ndarray:
    """Returns, of rising `steps`, the value at the first of `known` that is not before each; beyond them the last one.

    Args:
        steps: (M,). known: (N,) rising. values: (N,); where one of the two grew meanwhile, what both have counts.
    Returns:
        (M,) float64, NaN where nothing is known.
    """
    num, wanted = min(len(known), len(values)), np.asarray(steps, np.float64)
    found = np.full(len(wanted), float(values[num - 1]) if num else np.nan)
    left = np.ones(len(wanted), bool)
    for first in range(0, num, _PIECE):
        there, told = part(known, first, min(first + _PIECE, num)), part(values, first, min(first + _PIECE, num))
        at = np.searchsorted(there, wanted)
        now = left & (at < len(there))
        found = np.where(now, told[np.minimum(at, len(there) - 1)], found)
        left &= ~now
    return found


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
