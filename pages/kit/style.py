"""The look that all pages share: heading, empty state, facts, badges. Colours and fonts are in config.toml."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from pages.kit.words import plain

__all__ = ["LOGO", "apply", "badge", "card", "empty", "facts", "heading"]

_HERE = Path(__file__).parent
LOGO = _HERE / "logo.svg"
LOGO_SMALL = _HERE / "mark.svg"
ICON = _HERE / "icon.png"

_KINDS = {
    "queued": ("gray", "schedule", "waiting"),
    "starting": ("blue", "hourglass_top", "starting"),
    "running": ("blue", "play_circle", "running"),
    "paused": ("violet", "pause_circle", "paused"),
    "restarting": ("orange", "replay", "restarting"),
    "done": ("green", "check_circle", "done"),
    "stopped": ("gray", "stop_circle", "stopped"),
    "failed": ("red", "error", "failed"),
    "lost": ("orange", "link_off", "lost"),
    "interrupted": ("orange", "link_off", "interrupted"),
    "accepted": ("green", "check_circle", "accepted"),
    "repaired": ("orange", "build", "repaired"),
    "refused": ("red", "block", "refused"),
    "skipped": ("gray", "skip_next", "skipped"),
}


def apply() -> None:
    """Adds the few style rules that the theme has no setting for. The shell calls it once a run."""
    st.html(
        """<style>
.stMainBlockContainer{max-width:1320px}
[data-testid=stSidebarNav] [data-testid=stNavSectionHeader]{margin-top:.35rem}
[data-testid=stMetric]{min-width:9.5rem}
.stHeading h1{letter-spacing:-.015em}
.st-key-page-actions button,.st-key-page-actions a{white-space:nowrap}
[data-testid=stSidebarContent],[data-testid=stSidebarUserContent],[data-testid=stSidebarUserContent]>div{
display:flex;flex-direction:column}
[data-testid=stSidebarUserContent],[data-testid=stSidebarUserContent]>div,
[data-testid=stSidebarUserContent]>div>[data-testid=stVerticalBlock]{flex:1}
[data-testid=stSidebarUserContent]{padding-bottom:1.2rem}
[data-testid=stLayoutWrapper]:has(>.st-key-seal){margin-top:auto}
[class*=st-key-ways] [data-testid=stHorizontalBlock]{flex-wrap:wrap}
[class*=st-key-ways] [data-testid=stColumn]{flex:1 1 12.5rem;min-width:12.5rem}
.st-key-undo kbd,.st-key-redo kbd{display:none}
.st-key-seal p{font-size:.8rem;line-height:1.35}
@media (max-width:1150px){
[data-testid=stHorizontalBlock]:has(>[data-testid=stColumn]):not(:has(>:nth-child(5)),[class*=st-key-ways] *){
flex-wrap:wrap}
[data-testid=stHorizontalBlock]:has(>[data-testid=stColumn]):not(:has(>:nth-child(5)),[class*=st-key-ways] *)>
[data-testid=stColumn]{min-width:min(100%,20rem);position:static!important;max-height:none!important}
[data-testid=stColumn]
[data-testid=stHorizontalBlock]:has(>[data-testid=stColumn]):not(:has(>:nth-child(5)),[class*=st-key-ways] *)>
[data-testid=stColumn]{min-width:min(100%,12.5rem)}
}
.scanloom-mono{font-family:var(--st-code-font);font-variant-numeric:tabular-nums}
</style>"""
    )


def heading(title: str, caption: str = "") -> DeltaGenerator:
    """Draws a page's title with a grey line below; returns the place on the right for at most three buttons.

    `caption` is our own text; put `words.plain(...)` around anything a user typed.
    """
    with st.container(horizontal=True, vertical_alignment="bottom", horizontal_alignment="distribute"):
        with st.container(width="content", gap=None):
            st.title(title, anchor=False)
            if caption:
                st.caption(caption)
        return st.container(horizontal=True, width="content", vertical_alignment="bottom", key="page-actions")


def card(title: str = "", *, key: str | None = None, height: str | int = "content") -> DeltaGenerator:
    """Returns a bordered container, with a small heading where a title is given."""
    box = st.container(border=True, key=key, height=height)  # type: ignore[arg-type]
    if title:
        box.subheader(title, anchor=False)
    return box


def empty(icon: str, title: str, text: str, *, key: str = "empty") -> DeltaGenerator:
    """Draws what an empty page says: what is missing and what to do; returns the row for its (two) buttons."""
    with st.container(border=True, horizontal_alignment="center", key=key, gap="small"):
        st.space("small")
        st.markdown(f"### :material/{icon}: {title}", width="content")
        st.caption(text, width="content", text_alignment="center")
        row = st.container(horizontal=True, horizontal_alignment="center")
        st.space("small")
    return row


def facts(entries: Sequence[tuple[str, str, str]]) -> None:
    """Draws numbers side by side: (label, value, help) each, wrapping on narrow screens."""
    with st.container(horizontal=True):
        for label, value, help in entries:
            st.metric(label, value, help=help or None, border=True, height="stretch", width="stretch")


def badge(status: str) -> str:
    """Returns the markdown badge of a run's or a file's status, with a word beside the colour."""
    colour, icon, word = _KINDS.get(status, ("gray", "help", status))
    return f":{colour}-badge[:material/{icon}: {plain(word)}]"
