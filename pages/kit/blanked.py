"""What does it go by? A run's answers with parts of the scans taken away, and what they say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from builder import blanking, calibrate
from builder.blanking import PROBES
from builder.runs import Run, StoreError
from pages.kit import charts, figures, jobs, style
from pages.kit.words import plain

__all__ = ["card"]


def card(run: Run) -> None:
    """The card: a button that asks, or what was found."""
    found = blanking.kept(run)
    if found is not None and found.get("checkpoint") != calibrate.weights_of(run):
        found = None  # it was asked of other weights
    with style.card("What does it go by?", key="blanked"):
        st.caption(
            "The validation scans once more, with parts taken away. If it still tells the classes apart when the "
            "lesion or the middle is gone, it goes by something else: a marker, a border, the way the scan was made."
        )
        if found is not None:
            for words in found["verdicts"]:
                bad = "still AUC" in words or "AUC falls" in words
                st.markdown(f":{'orange' if bad else 'gray'}[:material/{'warning' if bad else 'info'}: {plain(words)}]")
            _bars(found)
            _pictures(run, found)
        slot = f"blanked-{run.id}"
        job = jobs.of_slot(slot)
        st.button(
            "Take parts away" if found is None else "Ask again",
            key="ask-blanked",
            icon=":material/content_cut:",
            type="secondary" if found is None else "tertiary",
            disabled=job is not None and job.view().active,
            on_click=_submit,
            args=(run, slot),
        )
        if refused := st.session_state.pop("blanked-refused", ""):
            st.error(plain(refused), icon=":material/error:")
        jobs.watch(slot, "Asking with parts taken away")


def _submit(run: Run, slot: str) -> None:
    try:
        jobs.submit("blanked", {"run": run.id}, slot)
    except StoreError as error:
        st.session_state["blanked-refused"] = str(error)


def _bars(found: Mapping[str, Any]) -> None:
    """AUC of each, with its interval; a line at guessing."""
    import plotly.graph_objects as go

    rows = [(PROBES[name].title, row["auc"]) for name, row in found["probes"].items() if name in PROBES]
    rows = [(title, auc) for title, auc in rows if auc["value"] is not None][::-1]
    values = [auc["value"] for _, auc in rows]
    colours = [charts.palette()[0] if title == PROBES["whole"].title else "#8a94a6" for title, _ in rows]
    figure = go.Figure(
        go.Bar(
            x=[value - 0.5 for value in values], base=0.5, y=[title for title, _ in rows], orientation="h",
            marker={"color": colours, "cornerradius": 3},
            error_x={
                "type": "data", "symmetric": False, "color": "#5b6577", "thickness": 1.4,
                "array": [max(0.0, (auc["high"] or auc["value"]) - auc["value"]) for _, auc in rows],
                "arrayminus": [max(0.0, auc["value"] - (auc["low"] or auc["value"])) for _, auc in rows],
            },
            customdata=[figures.interval(auc) for _, auc in rows],
            hovertemplate="%{y}: AUC %{customdata}<extra></extra>",
        )
    )  # fmt: skip
    figure.add_vline(x=0.5, line={"color": "#8a94a6", "dash": "dot"})
    figure.update_layout(
        height=60 + 38 * len(rows),
        margin={"l": 8, "r": 16, "t": 8, "b": 8},
        xaxis={"title": "AUC (0.5 is guessing)", "range": [min(0.4, *values) if values else 0.4, 1.02]},
    )
    told = ", ".join(f"{title} {figures.interval(auc)}" for title, auc in reversed(rows))
    st.plotly_chart(figure, key="blanked-bars", config={"displayModeBar": False}, alt=f"AUC: {told}")


def _pictures(run: Run, found: Mapping[str, Any]) -> None:
    with st.expander("How the scans were shown", icon=":material/visibility:"):
        for name in found["probes"]:
            file = blanking.drawn(run, name)
            if name in PROBES and file.is_file():
                st.caption(f"**{PROBES[name].title}.** {PROBES[name].help}")
                st.image(file.read_bytes(), width=420)
