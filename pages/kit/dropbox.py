"""The dropzone of a page: one ticket per place, kept for the browser tab; what has arrived is read from the disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import streamlit as st

from pages.kit import uploads
from pages.kit.uploads import Received

__all__ = ["box", "empty", "newest", "ticket_of"]


@dataclass(frozen=True)
class _Drop:
    """The newest drop: files `first` to `end` of `ticket`; `report` is what the browser had told when it was taken."""

    ticket: str
    first: int
    end: int
    report: Any


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
    st.session_state[f"report-{slot}"] = scanloom_components.dropzone(
        f"{'/' + base if base else ''}/api/upload/{ticket}",
        key=f"dropzone-{slot}",
        label=label,
        help=help,
        most_bytes=uploads.Limits().file_bytes,
        folders=folders,
        several=several,
    )
    return uploads.received(ticket)


def newest(slot: str, arrived: Sequence[Received], *, used: bool) -> list[Received]:
    """The files of the last drop alone, where a new drop stands in for the one before; call it after `box`.

    While a drop is still coming in, the one before it is told. `used` says that the one before it has been dealt with;
    files that come until then belong to it, unless the browser had told that it was complete. Files that failed at
    first and come later belong to it, too.
    """
    key, ticket, report = f"drop-{slot}", ticket_of(slot), st.session_state.get(f"report-{slot}")
    last: _Drop | None = st.session_state.get(key)
    if last is None or last.ticket != ticket:
        last = _Drop(ticket, 0, 0, None)
    if report is None and last.report is not None:  # the dropzone was drawn anew and counts from the start
        last = st.session_state[key] = replace(last, report=None)
    coming = uploads.is_coming(ticket) or (report is not None and report == last.report)
    if len(arrived) > last.end and not coming:
        mended = report is not None and last.report is not None and len(report.failed) < len(last.report.failed)
        is_new = not mended and (used or last.report is not None)
        first = last.end if is_new else last.first
        last = st.session_state[key] = _Drop(ticket, first, len(arrived), report)
    return list(arrived[last.first : last.end])


def empty(slot: str) -> None:
    """Throws away what has arrived under the slot; the next run draws an empty dropzone."""
    ticket = st.session_state.pop(f"ticket-{slot}", None)
    if ticket:
        uploads.discard(ticket)
