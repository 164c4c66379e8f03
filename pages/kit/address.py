"""What the address of a page says: which run, experiment, job or scan is looked at. Pages read and write it here alone.

A browser sends the address along with every request. One that was under way when a page changed its address (a timer
of a live page, a second press) therefore carries the old one, and Streamlit takes the newest request's for true: the
page would fall back to what was looked at a moment ago, and stay there. What a page has written is therefore kept in
the session, and the value it replaced is not believed for a few seconds.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import streamlit as st
from streamlit.runtime.scriptrunner_utils.script_run_context import get_script_run_ctx

__all__ = ["drop", "get", "on_page", "put", "renew"]

_LATE_S = 5.0  # a request is under way this long at most
_KEPT = "address"
_PAGE = "address-page"


class Written(NamedTuple):
    """What a page has written under a name (None: taken away), what was there before, and when (monotonic seconds)."""

    value: str | None
    before: frozenset[str | None]
    when: float


def get(name: str) -> str:
    """Returns what the address says under `name`, "" where it says nothing."""
    told = st.query_params.get(name)
    kept = _recent(name)
    if kept is not None and told != kept.value and told in kept.before:
        told = kept.value
        _write(name, told)
    return told or ""


def put(name: str, value: str) -> None:
    """Writes `value` under `name`; nothing is sent where the address says so already."""
    _change(name, value)


def drop(*names: str) -> None:
    """Takes these names out of the address."""
    for name in names:
        _change(name, None)


def on_page(page: str) -> None:
    """Tells which page is drawn. The shell calls it before each page: another page has an address of its own, and who
    goes back in the browser's history means the address that stands there."""
    context = get_script_run_ctx(suppress_warning=True)
    if st.session_state.get(_PAGE) != page or (context is not None and context.is_history_navigation):
        st.session_state[_PAGE] = page
        renew()


def renew() -> None:
    """Believes the next address as it comes: one is about to be opened on purpose."""
    st.session_state.pop(_KEPT, None)


def _recent(name: str) -> Written | None:
    kept: Written | None = st.session_state.get(_KEPT, {}).get(name)
    return kept if kept is not None and time.monotonic() - kept.when < _LATE_S else None


def _change(name: str, value: str | None) -> None:
    told, kept = st.query_params.get(name), _recent(name)
    if told == value and (kept is None or kept.value == value):
        return
    before = {told} if kept is None else {told, kept.value, *kept.before}
    written = Written(value, frozenset(before - {value}), time.monotonic())
    st.session_state.setdefault(_KEPT, {})[name] = written
    _write(name, value)


def _write(name: str, value: str | None) -> None:
    if value is None:
        st.query_params.pop(name, None)
    else:
        st.query_params[name] = value
