"""Undo and redo of the open experiment, in the sidebar of every page that edits it."""

from __future__ import annotations

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from pages.kit.draft import Draft, spared
from pages.kit.words import plain

__all__ = ["buttons", "draw", "place"]

_PLACE = "steps-place"


def place(draft: Draft, *, drawn: bool) -> None:
    """The place of the two buttons. `drawn`: they are drawn at once; else the page does it by `draw`, in the part of it
    that an edit draws anew, so that a step costs no more than that part."""
    found = st.container(horizontal=True, gap="small")
    st.session_state[_PLACE] = found
    if drawn:
        buttons(draft, found)


def draw(draft: Draft) -> None:
    """Draws the buttons in their place, from within a part of the page; pressed, they draw that part alone."""
    found = st.session_state.get(_PLACE)
    if isinstance(found, DeltaGenerator):
        buttons(draft, found)


def buttons(draft: Draft, found: DeltaGenerator) -> None:
    """Undo and redo, which say what they would take back or bring back."""
    for name, does, words, act, shortcut in (
        ("undo", "Take back", draft.undo_words, draft.undo, "Alt+Z"),
        ("redo", "Bring back", draft.redo_words, draft.redo, "Alt+Shift+Z"),
    ):
        found.button(
            name.capitalize(),
            key=name,
            icon=f":material/{name}:",
            help=f"{does}: {plain(words)} ({shortcut})" if words else f"Nothing to {does.lower()}",
            disabled=not words,
            on_click=spared(act),
            shortcut=shortcut,
        )
