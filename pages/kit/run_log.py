"""What happened to a run, in words."""

from __future__ import annotations

import time

import streamlit as st

from builder.runs import RunView
from pages.kit.words import plain

__all__ = ["happened"]

_LOGGED = 40


def happened(view: RunView, whose: str = "") -> None:
    """The run's log in words, the newest line first. `whose`: the run's name, where several are shown."""
    if not view.log:
        return
    with st.expander(f"What happened · {plain(whose)}" if whose else "What happened", icon=":material/list:"):
        lines = [f"`{time.strftime('%H:%M:%S', time.localtime(at))}` {plain(words)}" for at, words in view.log]
        st.markdown("\n\n".join(reversed(lines[-_LOGGED:])))
        if len(lines) > _LOGGED:
            st.caption(f"And {len(lines) - _LOGGED} earlier lines.")
