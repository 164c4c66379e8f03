"""The data-flow diagram: files, what became of them, cases, patients, sides (CONSORT; CLAIM 2024, item 35)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from builder.evidence.charts import COLOURS, svg, text

_WIDTH, _GAP = 860.0, 34.0
_LINE, _PANEL, _FAINT = "#98a2b6", "#f6f8fc", "#667085"
_SIDES = {"train": ("Training", COLOURS[0]), "val": ("Validation", COLOURS[4]), "test": ("Test", COLOURS[2])}


def drawn(flow: Mapping[str, Any]) -> str:
    """The diagram of `facts.flow` as an SVG."""
    parts: list[str] = []
    files = flow["files"]
    whole = sum(files.values())
    middle, wide = 250.0, 300.0
    y = _box(parts, middle - wide / 2, 8, wide, [f"{whole:,} files came in"], bold=True)
    out = [row for row in flow["reasons"] if row["status"] in ("refused", "skipped")]
    gone = sum(files.get(s, 0) for s in ("refused", "skipped"))
    told = [f"{files.get(s, 0):,} {s}" for s in ("refused", "skipped") if files.get(s)]
    lines = [", ".join(told) or "None refused"]
    lines += [_cut(f"{row['n']:,}: {row['reason']}", 66) for row in out[:5]]
    if len(out) > 5:
        lines.append("further reasons: see the table")
    side_y = y + 14
    end = _box(parts, 470, side_y, 382, lines, first_bold=bool(gone))
    at = side_y + 14
    _way(parts, [(middle, y), (middle, at), (470, at)])
    below = max(end, at) + 20
    kept = [f"{files.get(s, 0):,} {s}" for s in ("accepted", "repaired") if files.get(s)]
    _way(parts, [(middle, at), (middle, below)])
    y = _box(parts, middle - wide / 2, below, wide, [", ".join(kept) or "none accepted"], bold=True)
    if files.get("repaired"):
        mended = [row for row in flow["reasons"] if row["status"] == "repaired"][:4]
        if mended:
            rows = [_cut(f"{row['n']:,}: {row['reason']}", 66) for row in mended]
            last = _box(parts, 470, below, 382, ["Repaired", *rows], first_bold=True)
            _way(parts, [(middle + wide / 2, below + 14), (470, below + 14)])
            y = max(y, last)
    _way(parts, [(middle, below + 30), (middle, y + _GAP)])
    words = [f"{flow['cases']:,} cases of {flow['patients']:,} patients"]
    y = _box(parts, middle - wide / 2, y + _GAP, wide, words, bold=True)
    unused = flow["cases"] - flow["labelled"]
    if unused:
        _box(parts, 470, y - 30, 382, [f"{unused:,} cases without a usable label take no part"])
        _way(parts, [(middle + wide / 2, y - 16), (470, y - 16)])
    top, room = y + 52, (_WIDTH - 2 * 16) / 3
    ends = []
    for number, (side, (title, colour)) in enumerate(_SIDES.items()):
        row, x = flow["sides"][side], 8 + number * (room + 8)
        said = [title, f"{row['used']:,} of {row['cases']:,} cases used", f"{row['patients']:,} patients"]
        said += [f"{name}: {n:,}" for name, n in row["classes"].items() if any(row["classes"].values())][:10]
        said += [f"boxes, {name}: {n:,}" for name, n in row["boxes"].items()][:8]
        said += [f"outlined, {name}: {n:,}" for name, n in row["masks"].items()][:8]
        if row.get("pairs"):
            said.append(f"pairs: {row['pairs']:,}")
        if side == "train" and flow["left_out"]:
            said.append(f"left out by a person: {flow['left_out']:,}")
        ends.append(_box(parts, x, top, room, [_cut(words, 42) for words in said], first_bold=True, edge=colour))
        _way(parts, [(middle, y), (middle, y + 26), (x + room / 2, y + 26), (x + room / 2, top)])
    head = (
        '<defs><marker id="flow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0,0.6 L7.4,4 L0,7.4 z" fill="{_LINE}"/></marker></defs>'
    )
    return svg([head, *parts], _WIDTH, max(ends) + 10, "From files to sides")


def _box(
    parts: list[str],
    x: float,
    y: float,
    width: float,
    lines: Sequence[str],
    *,
    bold: bool = False,
    first_bold: bool = False,
    edge: str = "",
) -> float:
    """Adds a box with lines of words; returns its lower edge."""
    height = 13 + 17.0 * len(lines)
    stroke = edge or "#cfd6e4"
    parts.append(
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="7" fill="{_PANEL}" '
        f'stroke="{stroke}" stroke-width="{1.8 if edge else 1.2}"/>'
    )
    for number, words in enumerate(lines):
        first = number == 0 and (bold or first_bold)
        place = (x + width / 2, "middle") if bold else (x + 12, "start")
        parts.append(text(place[0], y + 19 + 17 * number, words, anchor=place[1], bold=first, size=12))
    return y + height


def _way(parts: list[str], points: Sequence[tuple[float, float]]) -> None:
    way = "L".join(f"{x:.1f},{y:.1f}" for x, y in points)
    parts.append(f'<path d="M{way}" fill="none" stroke="{_LINE}" stroke-width="1.5" marker-end="url(#flow)"/>')


def _cut(words: str, most: int) -> str:
    return words if len(words) <= most else words[: most - 1] + "…"
