"""What happened to a run, in words."""

from __future__ import annotations

import time

import streamlit as st

from builder.events import LOG_KEPT
from builder.runs import RunView, Said
from pages.kit.words import amount, duration, plain

__all__ = ["happened"]

_KINDS: dict[str, tuple[str, ...]] = {
    "Main things": ("state", "best", "warning"),
    "Epochs": ("epoch", "best"),
    "Warnings": ("warning",),
    "Everything": (),
}
_ICONS = {"best": ":material/star:", "warning": ":material/warning:", "saved": ":material/save:", "state": "**·**"}


def happened(view: RunView, whose: str = "") -> None:
    """The run's log in words, the newest line first. `whose`: the run's name, where several are shown."""
    if not view.log:
        return
    with st.expander(f"What happened · {plain(whose)}" if whose else "What happened", icon=":material/list:"):
        asked = st.segmented_control(
            "Show", list(_KINDS), default="Main things", required=True, key="log-kinds", label_visibility="collapsed"
        )
        kinds = _KINDS.get(asked or "", ())
        lines = [line for line in view.log if not kinds or line.kind in kinds]
        if not lines:
            st.caption("Nothing of this kind so far.")
            return
        shown = lines[-LOG_KEPT:]
        st.markdown("\n\n".join(_in_words(line, view.began) for line in reversed(shown)))
        earlier = sum(number for kind, number in view.logged.items() if not kinds or kind in kinds) - len(shown)
        if earlier:
            st.caption(f"And {amount(earlier, 'earlier line')}.")


def _in_words(line: Said, began: float) -> str:
    """When it was (with the day where that is not the first one), how long after the beginning, and what."""
    then, first = time.localtime(line.at), time.localtime(began)
    day = "" if then[:3] == first[:3] else time.strftime("%d %b ", then)
    after = f" :gray[+{plain(duration(line.at - began))}]" if line.at - began >= 1 else ""
    return f"`{day}{time.strftime('%H:%M:%S', then)}`{after} {_ICONS.get(line.kind, '')} {plain(line.words)}"
