"""The few forms of HTML that a report is made of; every word that goes in is escaped here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

__all__ = ["STYLE", "card", "figure", "items", "other", "p", "pairs", "section", "table"]

STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: #1a2233; font: 15px/1.55 Inter, 'Segoe UI', 'Helvetica Neue', Arial,
  sans-serif; }
main { max-width: 940px; margin: 0 auto; padding: 34px 28px 70px; }
h1 { font-size: 27px; line-height: 1.2; margin: 0 0 4px; letter-spacing: -.01em; }
h2 { font-size: 20px; margin: 42px 0 8px; padding-top: 14px; border-top: 2px solid #e4e8f0; }
h3 { font-size: 15.5px; margin: 24px 0 6px; }
p { margin: 6px 0 10px; max-width: 78ch; }
.faint, figcaption { color: #5b6475; font-size: 13.5px; }
.notice { border-left: 4px solid #c26a07; background: #fdf5e9; padding: 8px 14px; margin: 12px 0;
  border-radius: 0 6px 6px 0; }
.bad { border-color: #c8322b; background: #fdeeee; }
.good { border-color: #0e8a5f; background: #eaf7f1; }
.scroll { overflow-x: auto; margin: 8px 0 14px; }
table { border-collapse: collapse; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: 4px 14px 4px 0; border-bottom: 1px solid #e4e8f0; }
th { font-weight: 600; border-bottom: 1.5px solid #98a2b6; white-space: nowrap; }
td.mono, code { font: 12px/1.45 'JetBrains Mono', Menlo, Consolas, monospace; overflow-wrap: anywhere; }
figure { margin: 10px 0 18px; }
figure svg { max-width: 100%; height: auto; }
.pair { display: flex; flex-wrap: wrap; gap: 8px 26px; }
.pair > * { flex: 1 1 400px; min-width: 0; }
.key { display: flex; flex-wrap: wrap; gap: 10px; margin: 16px 0 6px; }
.key > div { border: 1px solid #dfe4ee; border-radius: 8px; padding: 9px 15px; }
.key b { display: block; font-size: 19px; }
.key span { color: #5b6475; font-size: 12.5px; }
.state { white-space: nowrap; font-weight: 600; }
.answered { color: #0a6e4b; } .partly { color: #9a5300; } .open { color: #b3261e; }
nav ol { columns: 2; margin: 6px 0; padding-left: 20px; font-size: 14px; }
nav a { color: #2456d6; text-decoration: none; }
ul { margin: 6px 0 10px; padding-left: 20px; max-width: 84ch; }
@page { size: A4; margin: 15mm 14mm 16mm; }
@media print {
  body { font-size: 10.4pt; } main { max-width: none; padding: 0; }
  h1 { font-size: 19pt; } h2 { font-size: 14pt; margin-top: 22pt; break-after: avoid; } h3 { break-after: avoid; }
  figure, tr, .notice, .key > div { break-inside: avoid; } .scroll { overflow: visible; }
  table { font-size: 8.4pt; width: 100%; } th { white-space: normal; } th, td { padding-right: 7pt; }
  thead { display: table-header-group; }
  nav { display: none; } .notice, .key > div { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
}
"""


def section(id: str, title: str, *parts: str) -> str:
    """A chapter of the report; "" where it has nothing to say."""
    inside = "".join(parts)
    return f'<section id="{escape(id)}"><h2>{escape(title)}</h2>{inside}</section>' if inside else ""


def p(words: str, kind: str = "") -> str:
    """A paragraph; kind: "", "faint", "notice", "notice bad" or "notice good"."""
    return f'<p class="{kind}">{escape(words)}</p>' if kind else f"<p>{escape(words)}</p>"


def h3(words: str) -> str:
    """A heading within a chapter."""
    return f"<h3>{escape(words)}</h3>"


def table(head: Sequence[str], rows: Sequence[Sequence[Any]], mono: Sequence[int] = ()) -> str:
    """A table; `mono`: columns with hashes and the like. "" without rows."""
    if not rows:
        return ""
    top = f"<thead><tr>{''.join(f'<th>{escape(str(cell))}</th>' for cell in head)}</tr></thead>" if head else ""
    body = "".join(
        "<tr>" + "".join(f"<td{_mono(k, mono)}>{_cell(cell)}</td>" for k, cell in enumerate(row)) + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table>{top}<tbody>{body}</tbody></table></div>'


def pairs(rows: Sequence[tuple[str, Any]], mono: Sequence[int] = ()) -> str:
    """What and how much, line by line."""
    return table((), rows, mono)


def items(rows: Sequence[str]) -> str:
    """A list of sentences."""
    return f"<ul>{''.join(f'<li>{escape(row)}</li>' for row in rows)}</ul>" if rows else ""


def figure(svg: str, words: str = "") -> str:
    """A drawing (an SVG of ours) with a caption; "" without a drawing."""
    caption = f"<figcaption>{escape(words)}</figcaption>" if words else ""
    return f"<figure>{svg}{caption}</figure>" if svg else ""


def beside(*parts: str) -> str:
    """Parts next to each other where there is room."""
    kept = [f"<div>{part}</div>" for part in parts if part]
    return f'<div class="pair">{"".join(kept)}</div>' if kept else ""


def card(words: str, number: str) -> str:
    """A figure that is looked at first."""
    return f"<div><b>{escape(number)}</b><span>{escape(words)}</span></div>"


def state(words: str, kind: str) -> str:
    """A state in its colour, to be put into a table as it is."""
    return _Raw(f'<span class="state {escape(kind)}">{escape(words)}</span>')


def other(value: Any) -> str:
    """Anything that has no form of its own, as tables; long lists of numbers are counted, pack.json has them."""
    if isinstance(value, Mapping):
        if set(value) == {"value", "low", "high"}:
            return escape(_plain(value))
        return pairs([(name, _Raw(other(inner))) for name, inner in value.items()])
    if isinstance(value, list):
        if value and all(isinstance(row, Mapping) for row in value):
            names = list(dict.fromkeys(name for row in value for name in row))
            return table(names, [[_plain(row.get(name)) for name in names] for row in value[:30]])
        if len(value) > 12 or any(isinstance(row, list | dict) for row in value):
            return escape(f"{len(value)} entries, in pack.json")
        return escape(", ".join(_plain(row) for row in value))
    return escape(_plain(value))


class _Raw(str):
    """HTML that was made here."""


def _cell(cell: Any) -> str:
    return str(cell) if isinstance(cell, _Raw) else escape(_plain(cell))


def _mono(column: int, mono: Sequence[int]) -> str:
    return ' class="mono"' if column in mono else ""


def _plain(value: Any) -> str:
    from builder.measures.named import interval

    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Mapping):
        if {"value", "low", "high"} <= set(value):
            return interval(value)
        return ", ".join(f"{name} {_plain(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        return ", ".join(_plain(inner) for inner in value)
    return str(value)
