"""Charts as SVG text that stands alone: no script, no font and no picture from elsewhere; sharp in print."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

import numpy as np

COLOURS = ("#2456d6", "#d1477a", "#0e8a5f", "#c26a07", "#6d4bd1", "#0f8aa6", "#5b6475", "#8a6d00")
_INK, _FAINT, _GRID = "#1a2233", "#667085", "#e4e8f0"
_FONT = "font-family=\"Inter,'Segoe UI','Helvetica Neue',Arial,sans-serif\""
_LEFT, _RIGHT, _TOP, _BOTTOM = 62.0, 16.0, 14.0, 48.0

Series = tuple[str, Sequence[float | None], Sequence[float | None]]


def svg(parts: Sequence[str], width: float, height: float, title: str) -> str:
    """Wraps parts into one SVG with a title that screen readers say."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img" {_FONT}><title>{escape(title)}</title>{"".join(parts)}</svg>'
    )


def text(
    x: float, y: float, words: str, *, size: float = 11.5, colour: str = _INK, anchor: str = "start", bold: bool = False
) -> str:
    """Words at a place; `anchor` is start, middle or end."""
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" fill="{colour}" text-anchor="{anchor}"{weight}>'
        f"{escape(words)}</text>"
    )


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from `low` to `high`, at most about `most`."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low]
    raw = (high - low) / most
    size = 10 ** math.floor(math.log10(raw))
    step = next(size * k for k in (1, 2, 2.5, 5, 10) if size * k >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


class _Axes:
    """A frame with two scales."""

    def __init__(
        self, x: tuple[float, float], y: tuple[float, float], width: float, height: float, log_x: bool, log_y: bool
    ) -> None:
        self.x, self.y, self.width, self.height, self.log_x, self.log_y = x, y, width, height, log_x, log_y
        self.parts: list[str] = []

    def at(self, x: float, y: float) -> tuple[float, float]:
        return self._along(x, self.x, self.log_x, _LEFT, self.width - _RIGHT), self._along(
            y, self.y, self.log_y, self.height - _BOTTOM, _TOP
        )

    @staticmethod
    def _along(value: float, ends: tuple[float, float], log: bool, begin: float, end: float) -> float:
        low, high = (math.log10(v) for v in ends) if log else ends
        value = math.log10(max(value, 1e-300)) if log else value
        share = 0.5 if high == low else (value - low) / (high - low)
        return begin + min(1.02, max(-0.02, share)) * (end - begin)

    def drawn(self, x_title: str, y_title: str, x_ticks: Sequence[float] | None = ()) -> None:
        """Lines and numbers of the scales; `x_ticks` None: the axis carries no numbers."""
        bottom, right = self.height - _BOTTOM, self.width - _RIGHT
        for value in self._ticks(self.y, self.log_y):
            _, at = self.at(self.x[0], value)
            self.parts.append(f'<path d="M{_LEFT},{at:.1f}H{right:.1f}" stroke="{_GRID}"/>')
            self.parts.append(text(_LEFT - 7, at + 4, _short(value), size=10.5, colour=_FAINT, anchor="end"))
        for value in () if x_ticks is None else x_ticks or self._ticks(self.x, self.log_x):
            at, _ = self.at(value, self.y[0])
            self.parts.append(f'<path d="M{at:.1f},{bottom}v4" stroke="{_FAINT}"/>')
            self.parts.append(text(at, bottom + 17, _short(value), size=10.5, colour=_FAINT, anchor="middle"))
        self.parts.append(f'<path d="M{_LEFT},{_TOP}V{bottom}H{right}" fill="none" stroke="{_FAINT}"/>')
        self.parts.append(text((_LEFT + right) / 2, self.height - 12, x_title, anchor="middle"))
        middle = (_TOP + bottom) / 2
        self.parts.append(
            f'<g transform="rotate(-90 14 {middle:.0f})">{text(14, middle, y_title, anchor="middle")}</g>'
        )

    @staticmethod
    def _ticks(ends: tuple[float, float], log: bool) -> list[float]:
        if not log:
            return ticks(*ends)
        low, high = math.floor(math.log10(ends[0])), math.ceil(math.log10(ends[1]))
        step = max(1, (high - low) // 6)
        return [10.0**k for k in range(low, high + 1, step) if ends[0] * 0.999 <= 10.0**k <= ends[1] * 1.001]


def lines(
    series: Sequence[Series],
    x_title: str,
    y_title: str,
    *,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    diagonal: bool = False,
    marks: Mapping[str, tuple[float, float]] | None = None,
    band: tuple[Sequence[float], Sequence[float], Sequence[float]] | None = None,
    levels: Sequence[tuple[float, str]] = (),
    upright: tuple[float, str] | None = None,
    dots: bool = False,
    joined: bool = True,
    log_x: bool = False,
    log_y: bool = False,
    x_ticks: Sequence[float] = (),
    width: float = 560,
    height: float = 330,
) -> str:
    """Curves, or with `joined` False points.

    Args:
        series: (name, x, y) each; what is None is left out. marks: {name of a series: a point on it}.
        band: (x, low, high) in grey. levels: (y, words) as dashed lines. upright: (x, words) likewise.
        x_ticks: where the axis is numbered; round numbers where not told.
    """
    kept = [(name, _known(x, y, log_x, log_y)) for name, x, y in series]
    pairs = [pair for _, rows in kept for pair in rows]
    if not pairs:
        return ""
    x_range = x_range or _reach([x for x, _ in pairs], log_x)
    y_range = y_range or _reach([y for _, y in pairs] + [y for y, _ in levels], log_y)
    axes = _Axes(x_range, y_range, width, height, log_x, log_y)
    axes.drawn(x_title, y_title, x_ticks)
    if band is not None:
        ring = [axes.at(x, v) for x, v in zip(band[0], band[2], strict=True)]
        ring += [axes.at(x, v) for x, v in zip(reversed(band[0]), reversed(band[1]), strict=True)]
        axes.parts.append(
            f'<path d="M{" L".join(f"{x:.1f},{y:.1f}" for x, y in ring)}Z" fill="#2456d6" opacity="0.13"/>'
        )
    if diagonal:
        (ax, ay), (bx, by) = axes.at(x_range[0], y_range[0]), axes.at(*[min(x_range[1], y_range[1])] * 2)
        axes.parts.append(f'<path d="M{ax:.1f},{ay:.1f}L{bx:.1f},{by:.1f}" stroke="{_FAINT}" stroke-dasharray="2 4"/>')
    for value, words in levels:
        (ax, ay), (bx, _) = axes.at(x_range[0], value), axes.at(x_range[1], value)
        axes.parts.append(f'<path d="M{ax:.1f},{ay:.1f}H{bx:.1f}" stroke="{COLOURS[1]}" stroke-dasharray="5 4"/>')
        axes.parts.append(text(bx - 4, ay - 4, words, size=10.5, colour=COLOURS[1], anchor="end"))
    if upright is not None:
        at, _ = axes.at(upright[0], y_range[0])
        axes.parts.append(f'<path d="M{at:.1f},{_TOP}V{height - _BOTTOM}" stroke="{_FAINT}" stroke-dasharray="2 4"/>')
        axes.parts.append(text(at + 4, _TOP + 10, upright[1], size=10.5, colour=_FAINT))
    for number, (name, rows) in enumerate(kept):
        colour = COLOURS[number % len(COLOURS)]
        places = [axes.at(x, y) for x, y in rows]
        if joined and places:
            way = " L".join(f"{x:.1f},{y:.1f}" for x, y in places)
            axes.parts.append(f'<path d="M{way}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        if dots or not joined:
            opacity = 0.75 if not joined else 1
            axes.parts += [
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}" opacity="{opacity}"/>' for x, y in places
            ]
        if marks and name in marks:
            x, y = axes.at(*marks[name])
            axes.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{colour}" stroke="#fff"/>')
    key, more = _key([name for name, _ in kept if name], width, height) if len(kept) > 1 else ([], 0.0)
    return svg([*axes.parts, *key], width, height + more, f"{y_title} by {x_title}")


def intervals(
    rows: Sequence[tuple[str, Mapping[str, float | None]]],
    x_title: str,
    *,
    x_range: tuple[float, float] | None = None,
    upright: float | None = None,
    width: float = 640,
) -> str:
    """Each figure as a dot with the reach of its interval, one below the other; undefined ones are left out."""
    known = [(name, row) for name, row in rows if row.get("value") is not None]
    if not known:
        return ""
    values = [float(row[end]) for _, row in known for end in ("value", "low", "high") if row.get(end) is not None]  # type: ignore[arg-type]
    x_range = x_range or _reach(values, False)
    left = min(300.0, 24 + max(len(name) for name, _ in known) * 6.4)
    height = 26.0 * len(known) + 46
    bottom, right = height - 38, width - 110

    def at(value: float) -> float:
        share = (value - x_range[0]) / ((x_range[1] - x_range[0]) or 1)
        return left + min(1.0, max(0.0, share)) * (right - left)

    parts = []
    for value in ticks(*x_range):
        parts.append(f'<path d="M{at(value):.1f},6V{bottom:.1f}" stroke="{_GRID}"/>')
        parts.append(text(at(value), bottom + 15, _short(value), size=10.5, colour=_FAINT, anchor="middle"))
    if upright is not None:
        parts.append(f'<path d="M{at(upright):.1f},6V{bottom:.1f}" stroke="{_FAINT}" stroke-dasharray="2 4"/>')
    for number, (name, row) in enumerate(known):
        y = 20 + 26.0 * number
        parts.append(text(left - 10, y + 4, name, anchor="end"))
        if row.get("low") is not None and row.get("high") is not None:
            low, high = at(float(row["low"])), at(float(row["high"]))  # type: ignore[arg-type]
            parts.append(
                f'<path d="M{low:.1f},{y}H{high:.1f}" stroke="{COLOURS[0]}" stroke-width="2.4" opacity="0.45"/>'
            )
        parts.append(f'<circle cx="{at(float(row["value"])):.1f}" cy="{y}" r="4.2" fill="{COLOURS[0]}"/>')  # type: ignore[arg-type]
        parts.append(text(right + 12, y + 4, _three(row["value"]), size=11))
    parts.append(text((left + right) / 2, height - 6, x_title, anchor="middle"))
    return svg(parts, width, height, x_title)


def matrix(names: Sequence[str], counts: Sequence[Sequence[int]], *, down: str = "Is", across: str = "Answered") -> str:
    """A table of counts, each field the darker the larger its share of its row."""
    side, left, top = 74.0, 40 + min(180.0, max(map(len, names)) * 6.8), 54.0
    size = min(side, max(40.0, 460 / len(names)))
    parts = [text(left + size * len(names) / 2, 16, across, anchor="middle", bold=True)]
    parts.append(text(4, top + size * len(names) / 2, down, bold=True))
    for k, name in enumerate(names):
        parts.append(text(left + size * (k + 0.5), 42, _cut(name, size), size=10.5, anchor="middle", colour=_FAINT))
        parts.append(text(left - 8, top + size * (k + 0.5) + 4, _cut(name, 190), size=11, anchor="end", colour=_FAINT))
    for i, row in enumerate(counts):
        for k, n in enumerate(row):
            share = n / max(1, sum(row))
            red, green, blue = (round(255 - share * (255 - c)) for c in (36, 86, 214))
            x, y = left + size * k, top + size * i
            parts.append(
                f'<rect x="{x + 1:.1f}" y="{y + 1:.1f}" width="{size - 2:.1f}" height="{size - 2:.1f}" rx="4" '
                f'fill="rgb({red},{green},{blue})" stroke="{_GRID}"/>'
            )
            ink = "#ffffff" if share > 0.55 else _INK
            parts.append(text(x + size / 2, y + size / 2 + 5, str(n), size=14, anchor="middle", colour=ink))
    return svg(parts, left + size * len(names) + 12, top + size * len(names) + 8, f"{across} by {down}")


def spread(rows: Mapping[str, Sequence[float | None]], y_title: str, *, width: float = 560, height: float = 300) -> str:
    """A box for each row (quartiles, middle), with whiskers to the least and most and each value as a dot."""
    known = {name: np.array([v for v in values if v is not None], float) for name, values in rows.items()}
    known = {name: values for name, values in known.items() if len(values)}
    if not known:
        return ""
    y_range = _reach([float(v) for values in known.values() for v in values], False)
    axes = _Axes((0.0, float(len(known))), y_range, width, height, False, False)
    axes.drawn("", y_title, x_ticks=None)
    for number, (name, values) in enumerate(known.items()):
        low, first, middle, third, high = (float(v) for v in np.quantile(values, (0, 0.25, 0.5, 0.75, 1)))
        x, _ = axes.at(number + 0.5, y_range[0])
        ys = [axes.at(0, v)[1] for v in (low, first, middle, third, high)]
        colour = COLOURS[number % len(COLOURS)]
        axes.parts.append(f'<path d="M{x:.1f},{ys[0]:.1f}V{ys[4]:.1f}" stroke="{colour}"/>')
        axes.parts.append(
            f'<rect x="{x - 18:.1f}" y="{ys[3]:.1f}" width="36" height="{max(1.0, ys[1] - ys[3]):.1f}" rx="3" '
            f'fill="#ffffff" stroke="{colour}" stroke-width="1.6"/>'
        )
        axes.parts.append(f'<path d="M{x - 18:.1f},{ys[2]:.1f}h36" stroke="{colour}" stroke-width="2.4"/>')
        axes.parts.append(text(x, height - _BOTTOM + 18, _cut(name, width / len(known)), size=10.5, anchor="middle"))
    return svg(axes.parts, width, height, y_title)


def bars(
    rows: Sequence[tuple[str, float]], x_title: str, y_title: str, *, width: float = 560, height: float = 280
) -> str:
    """A bar for each row."""
    if not rows:
        return ""
    top = max(1e-9, max(value for _, value in rows))
    axes = _Axes((0.0, float(len(rows))), (0.0, top * 1.08), width, height, False, False)
    axes.drawn(x_title, y_title, x_ticks=None)
    room = (width - _LEFT - _RIGHT) / len(rows)
    for number, (name, value) in enumerate(rows):
        x, y = axes.at(number + 0.5, value)
        tall = height - _BOTTOM - y
        axes.parts.append(
            f'<rect x="{x - room * 0.36:.1f}" y="{y:.1f}" width="{room * 0.72:.1f}" height="{tall:.1f}" rx="2" '
            f'fill="{COLOURS[0]}"/>'
        )
        axes.parts.append(text(x, height - _BOTTOM + 17, _cut(name, room), size=10, anchor="middle", colour=_FAINT))
    return svg(axes.parts, width, height, f"{y_title} by {x_title}")


# -- small parts ------------------------------------------------------------------------------------------------------


def _known(x: Sequence[float | None], y: Sequence[float | None], log_x: bool, log_y: bool) -> list[tuple[float, float]]:
    pairs = [(float(a), float(b)) for a, b in zip(x, y, strict=False) if a is not None and b is not None]
    return [
        (a, b)
        for a, b in pairs
        if math.isfinite(a) and math.isfinite(b) and (a > 0 or not log_x) and (b > 0 or not log_y)
    ]


def _reach(values: Sequence[float], log: bool) -> tuple[float, float]:
    low, high = min(values), max(values)
    if log:
        return low / 1.15, high * 1.15
    if low == high:
        return low - (abs(low) * 0.1 or 0.5), high + (abs(high) * 0.1 or 0.5)
    room = (high - low) * 0.06
    return (0.0 if 0 <= low < room * 4 else low - room), high + room


def _key(names: Sequence[str], width: float, height: float) -> tuple[list[str], float]:
    """The names of the series below a chart, and how much taller it becomes."""
    parts, x, y = [], _LEFT, height + 6.0
    for number, name in enumerate(names):
        wide = 30 + len(name) * 6.3
        if x + wide > width and x > _LEFT:
            x, y = _LEFT, y + 18
        colour = COLOURS[number % len(COLOURS)]
        parts.append(f'<rect x="{x:.1f}" y="{y - 8:.1f}" width="12" height="8" rx="2" fill="{colour}"/>')
        parts.append(text(x + 17, y, name, size=11))
        x += wide
    return parts, y - height + 10


def _cut(words: str, room: float) -> str:
    most = max(3, int(room / 6.2))
    return words if len(words) <= most else words[: most - 1] + "…"


def _short(value: float) -> str:
    if value and (abs(value) >= 1e5 or abs(value) < 1e-3):
        return f"{value:.0e}".replace("e+0", "e").replace("e-0", "e-").replace("e+", "e")
    return f"{value:g}" if abs(value) < 10 else f"{value:,.6g}"


def _three(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
