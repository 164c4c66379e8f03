"""The gap between training and validation of a run, in words, with cures that open as a new document."""

from __future__ import annotations

import streamlit as st

from builder.gap import Gap, cures, read
from builder.network import plan_of
from builder.runs import Run, RunView
from builder.spec import Experiment
from pages.kit import findings, go
from pages.kit.words import plain

__all__ = ["box"]

_LOOKS = {
    "heart": ("warning", ":material/school:"),
    "wide": ("warning", ":material/unfold_more:"),
    "idle": ("warning", ":material/hourglass_disabled:"),
    "learning": ("info", ":material/trending_down:"),
    "together": ("success", ":material/handshake:"),
}


def box(run: Run, view: RunView) -> None:
    """What the curves say of the gap; nothing where there is nothing to say yet."""
    found = read(view.curves)
    if found is None or found.kind == "early":
        return
    kind, icon = _LOOKS[found.kind]
    getattr(st, kind)(plain(found.words), icon=icon)
    experiment = run.experiment
    offered = _offered(found, experiment)
    if offered:
        with st.container(horizontal=True, vertical_alignment="center", key="gap-cures"):
            st.caption("As a new experiment, this changed:", width="content")
            for number, (words, cured) in enumerate(offered):
                st.button(words, key=f"gap-cure-{number}", icon=":material/healing:", on_click=_open, args=(cured,))
    if st.session_state.pop("gap-opened", False):
        go.to("training")


def _offered(found: Gap, experiment: Experiment) -> list[tuple[str, Experiment]]:
    planned = plan_of(experiment, 2)
    return cures(found, experiment, planned)


def _open(cured: Experiment) -> None:
    findings.begin(cured)
    st.session_state["gap-opened"] = True
