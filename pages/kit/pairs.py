"""Facts as a small list of name and value, for side columns where metric cards would be too large."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

import streamlit as st

__all__ = ["pairs"]

_CSS = """<style>
.stHtml dl.scanloom-pairs{padding:0;display:grid;grid-template-columns:max-content minmax(0,1fr);gap:.3rem .8rem;margin:.1rem 0;
 font-size:.9rem;line-height:1.45}
.stHtml .scanloom-pairs dt{opacity:.7;padding:0;margin:0;font-weight:400}
.stHtml .scanloom-pairs dd{margin:0;padding:0;text-align:right;overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
</style>"""


def pairs(rows: Iterable[tuple[str, str]]) -> None:
    """Draws (name, value) rows; both are shown letter by letter, whatever is in them."""
    lines = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in rows)
    st.html(f'{_CSS}<dl class="scanloom-pairs">{lines}</dl>')
