"""The dropzone of a page: one ticket per place, kept for the browser tab; what has arrived is read from the disk."""

from __future__ import annotations

import streamlit as st

from pages.kit import uploads
from pages.kit.uploads import Received

__all__ = ["box", "empty", "ticket_of"]


def ticket_of(slot: str) -> str:
    """Returns the open ticket of this tab's `slot`, a fresh one where there is none or the old one is used up."""
    key = f"ticket-{slot}"
    ticket = st.session_state.get(key)
    if not ticket or not uploads.is_open(ticket):
        ticket = st.session_state[key] = uploads.new_ticket()
    return ticket


def box(slot: str, *, label: str, help: str = "", several: bool = True, folders: bool = True) -> list[Received]:
    """Draws a dropzone and returns the files that have arrived, told once nothing is on its way any more."""
    import scanloom_components  # only where it is drawn: it registers itself with a running Streamlit

    ticket = ticket_of(slot)
    base = st.get_option("server.baseUrlPath").strip("/")
    scanloom_components.dropzone(
        f"{'/' + base if base else ''}/api/upload/{ticket}",
        key=f"dropzone-{slot}",
        label=label,
        help=help,
        most_bytes=uploads.Limits().file_bytes,
        folders=folders,
        several=several,
    )
    return uploads.received(ticket)


def empty(slot: str) -> None:
    """Throws away what has arrived under the slot; the next run draws an empty dropzone."""
    ticket = st.session_state.pop(f"ticket-{slot}", None)
    if ticket:
        uploads.discard(ticket)
