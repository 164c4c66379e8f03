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
    undo, redo = draft.undo_words, draft.redo_words
    found.button(
        "Undo",
        key="undo",
        icon=":material/undo:",
        help=f"Take back: {plain(undo)} (Alt+Z)" if undo else "Nothing to take back",
        disabled=not undo,
        on_click=spared(draft.undo),
        shortcut="Alt+Z",
    )
    found.button(
        "Redo",
        key="redo",
        icon=":material/redo:",
        help=f"Bring back: {plain(redo)} (Alt+Shift+Z)" if redo else "Nothing to bring back",
        disabled=not redo,
        on_click=spared(draft.redo),
        shortcut="Alt+Shift+Z",
    )
