"""The learning-rate finder on the Training page: a hundred real steps at a rising rate, their curve, the proposal."""

from __future__ import annotations

from math import log10
from typing import Any

import streamlit as st

from builder.finder import sentences
from builder.parts.training import OPTIMIZERS
from builder.preflight import subject_digest
from builder.runs import StoreError
from pages.kit import charts, jobs
from pages.kit import draft as drafts
from pages.kit.findings import Findings
from pages.kit.words import plain

__all__ = ["SLOT", "finder"]

SLOT = "finder"
_OF_RATE = "training.optimizer.params.lr"


def finder(draft: drafts.Draft, found: Findings) -> None:
    """The button, how it is going, the curve, and the button that takes the rate over."""
    job = jobs.of_slot(SLOT)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(
            "Find a learning rate",
            key="finder-go",
            icon=":material/troubleshoot:",
            disabled=bool(found.errors) or found.summary is None or (job is not None and job.view().active),
            help="Does a hundred real steps at a rate that rises from far too low to far too high and looks at the "
            "loss (Smith 2017). Nothing of it is kept but the curve.",
            on_click=ask,
            args=(draft,),
        )
    refused = st.session_state.pop("finder-refused", "")
    if refused:
        st.markdown(f":red[:material/error: {plain(refused)}]")
    jobs.watch(SLOT, "Looking for a learning rate")
    told = jobs.result(SLOT)
    if told is None:
        return
    if told["digest"] != _digest(draft):
        st.caption(":orange[:material/history: Found for other settings. Press Find a learning rate for the present.]")
    verdict, basis = sentences(told)
    suggestion, now = told["suggestion"], _rate(draft)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"**{plain(verdict)}** It is {now:g} now.", width="content")
        if suggestion and suggestion != now:
            st.button(
                f"Use {suggestion:g}",
                key="finder-use",
                icon=":material/build:",
                type="primary",
                on_click=use,
                args=(draft, suggestion),
            )
    curve(told, now)
    st.caption(plain(basis))


def curve(told: dict[str, Any], now: float) -> None:
    """The loss over the rate: single steps pale, their running mean, the proposal and the present rate."""
    import plotly.graph_objects as go

    colours = charts.palette()
    rates, top = told["rates"], 1.6 * max(told["smoothed"][:20])
    figure = go.Figure(
        [
            go.Scatter(x=rates, y=told["losses"], mode="lines", name="single steps", opacity=0.35),
            go.Scatter(x=rates, y=told["smoothed"], mode="lines", name="running mean"),
        ]
    )
    figure.update_traces(line={"color": colours[0], "width": 1.2}, selector=0)
    figure.update_traces(line={"color": colours[0], "width": 2.6}, selector=1)
    marks = [(now, colours[3], "now", "dot"), (told["suggestion"], colours[2], "proposed", "solid")]
    for value, colour, words, dash in marks:
        if value:
            figure.add_vline(x=value, line={"color": colour, "dash": dash, "width": 2})
            figure.add_annotation(
                x=log10(value), y=1, yref="paper", text=words, showarrow=False, xanchor="left", font={"color": colour}
            )
    figure.update_layout(
        height=230,
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        showlegend=False,
        xaxis={"type": "log", "title": "Learning rate", "exponentformat": "power"},
        yaxis={"title": "Loss", "range": [min(0.0, min(told["smoothed"])), top]},
    )
    alt = "The loss over the learning rate"
    st.plotly_chart(figure, key="finder-curve", config={"displayModeBar": False}, alt=alt)


def _rate(draft: drafts.Draft) -> float:
    choice = draft.experiment.training.optimizer
    usual = OPTIMIZERS[choice.name].defaults["lr"] if choice.name in OPTIMIZERS else 0.0
    return float(choice.params.get("lr", usual) or 0.0)


def _digest(draft: drafts.Draft) -> str:
    """Of the experiment as the finder sees it: whatever the rate is now, it tries all."""
    return subject_digest(draft.experiment.replace(_OF_RATE, 1.0))


@drafts.spared
def ask(draft: drafts.Draft) -> None:
    """Submits the job for the draft as it is now."""
    payload = {"experiment": draft.experiment.replace(_OF_RATE, 1.0).model_dump(mode="json")}
    try:
        jobs.submit("finder", payload, SLOT)
    except StoreError as error:
        st.session_state["finder-refused"] = str(error)


@drafts.spared
def use(draft: drafts.Draft, rate: float) -> None:
    """Writes the rate into the document."""
    draft.replace(_OF_RATE, rate, f"learning rate {rate:g}, from the finder")
