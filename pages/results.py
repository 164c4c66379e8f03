"""Can I trust it? A run on the test scans: figures with intervals, curves, tables, the worst cases, the baseline."""

from __future__ import annotations

import time
from collections.abc import Sequence

import streamlit as st

from builder.evaluate import evaluation
from builder.execute import home
from builder.runs import Run, RunStore
from builder.spec import SpecError
from builder.task import TASKS
from pages.kit import go, style, trust
from pages.kit.words import plain


def usable_runs() -> list[Run]:
    """The runs that have saved a best network, the newest first."""
    return [run for run in RunStore(home()).runs() if (run.folder / "best.safetensors").is_file()]


def name_of(run: Run) -> str:
    """What the run is called in the list, and whether its test side was opened."""
    try:
        name = run.experiment.name
    except (SpecError, OSError):
        name = "Unreadable experiment"
    begun = time.localtime((run.folder / "experiment.json").stat().st_mtime)
    return f"{name}, {time.strftime('%d %b %H:%M', begun)}"


def chosen_run(runs: Sequence[Run]) -> Run:
    """The run of the URL, else the newest whose test side was opened, else the newest."""
    by_id = {run.id: run for run in runs}
    asked = st.query_params.get("run", "").split(",")[0]
    first = next((run.id for run in runs if evaluation(run) is not None), runs[0].id)
    id = asked if asked in by_id else first
    if st.query_params.get("run") != id:
        st.query_params["run"] = id
    if st.session_state.get("trusted-run") != id:
        st.session_state["trusted-run"] = id
    st.selectbox(
        "Network",
        list(by_id),
        key="trusted-run",
        format_func=lambda i: name_of(by_id[i]),
        on_change=lambda: st.query_params.update(run=st.session_state["trusted-run"]),
    )
    return by_id[id]


def page(runs: Sequence[Run]) -> None:
    """The page."""
    place = st.container()
    run = chosen_run(runs)
    with place, style.heading("Can I trust it?", _caption(run)):
        if st.button("Its run", key="to-run", icon=":material/show_chart:"):
            go.to("runs", run=run.id)
        if st.button("Test a scan", key="to-test", type="primary", icon=":material/biotech:"):
            go.to("test", run=run.id)
    trust.everything(run)


def _caption(run: Run) -> str:
    try:
        task = run.experiment.task
    except (SpecError, OSError):
        return "Measured on scans that were kept aside."
    title = TASKS[task].title if task in TASKS else task
    return f"{plain(title)}, measured on scans that were kept aside. Not for clinical use."


def nothing_yet() -> None:
    """No network has learned anything yet: what to do."""
    style.heading("Can I trust it?", "A trained network, measured on scans that were kept aside.")
    with style.empty(
        "verified", "No trained network yet", "Train one first; then it is measured here on scans it has never seen."
    ):
        if st.button("Try a demo", key="to-home", type="primary", icon=":material/play_arrow:"):
            go.to("home")
        if st.button("Go to Training", key="to-training", icon=":material/model_training:"):
            go.to("training")


found = usable_runs()
if found:
    page(found)
else:
    nothing_yet()
