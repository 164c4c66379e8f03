"""The gap between training and validation of a run, in words, with cures that open as a new document."""

from __future__ import annotations

import streamlit as st

from builder.check import ASSUMED_CLASSES
from builder.gap import Gap, cures, read
from builder.network import plan_of
from builder.runs import Run, RunView
from builder.spec import Experiment
from pages.kit import go
from pages.kit.run_list import experiment_of
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
    experiment = experiment_of(run)
    offered = _offered(found, experiment.dumps()) if experiment is not None else []
    if offered:
        with st.container(horizontal=True, vertical_alignment="center", key="gap-cures"):
            st.caption("As a new experiment:", width="content")
            for number, (words, cured) in enumerate(offered):
                if st.button(
                    words,
                    key=f"gap-cure-{number}",
                    icon=":material/healing:",
                    help="Opens the changed experiment as a draft of its own; nothing is started.",
                ):
                    go.begin(cured, words=f"from run {run.id}: {words}")
                    go.to("training")


@st.cache_data(max_entries=32, show_spinner=False)
def _offered(found: Gap, document: str) -> list[tuple[str, Experiment]]:
    experiment = Experiment.loads(document)
    return cures(found, experiment, plan_of(experiment, ASSUMED_CLASSES))
