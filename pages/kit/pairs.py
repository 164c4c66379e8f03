"""Facts as name and value, in a small list or in a band, where metric cards would be too large."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

import streamlit as st

__all__ = ["band", "pairs"]

_CSS = """<style>
.stHtml dl.scanloom-pairs{padding:0;display:grid;grid-template-columns:max-content minmax(0,1fr);gap:.3rem .8rem;
 margin:.1rem 0;
 font-size:.9rem;line-height:1.45}
.stHtml .scanloom-pairs dt{opacity:.7;padding:0;margin:0;font-weight:400}
.stHtml .scanloom-pairs dd{margin:0;padding:0;text-align:right;overflow-wrap:break-word;
 font-variant-numeric:tabular-nums}
.stHtml dl.scanloom-figures{grid-template-columns:minmax(0,1fr) max-content}
.stHtml .scanloom-figures dd{white-space:nowrap}
@media (max-width:1150px){.stHtml dl.scanloom-pairs:not(.scanloom-figures){
 grid-template-columns:minmax(min-content,max-content) minmax(6rem,1fr)}}
.stHtml dl.scanloom-band{padding:0;margin:0;display:flex;flex-wrap:wrap;gap:.5rem 1.8rem}
.scanloom-band dt{opacity:.7;font-size:.85rem;font-weight:400}
.stHtml .scanloom-band dd{margin:0;padding:0;font-size:1.25rem;font-weight:620;font-variant-numeric:tabular-nums}
</style>"""


def pairs(rows: Iterable[tuple[str, str]], *, figures: bool = False) -> None:
    """Draws (name, value) rows; both are shown letter by letter, whatever is in them.

    Args:
        figures: the values are numbers that must not wrap; long names do instead.
    """
    lines = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in rows)
    kind = "scanloom-pairs scanloom-figures" if figures else "scanloom-pairs"
    st.html(f'{_CSS}<dl class="{kind}">{lines}</dl>')


def band(rows: Iterable[tuple[str, str]]) -> None:
    """Draws (name, value) side by side, the value large below its name; they wrap where there is little room."""
    lines = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in rows)
    st.html(f'{_CSS}<dl class="scanloom-band">{lines}</dl>')
