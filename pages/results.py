"""Can I trust it? A run on the test scans: figures with intervals, curves, tables, the worst cases, the baseline."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from builder.branch import Branch
from builder.evaluate import evaluation
from builder.execute import home
from builder.parting import Parting
from builder.runs import Run
from builder.search.studies import Study, trial_of
from builder.spec import SpecError
from builder.task import TASKS
from pages.kit import folding, forecast, go, study_worth, style, trust
from pages.kit.run_list import view_of
from pages.kit.trained import chosen_run, usable_runs
from pages.kit.words import plain


def page(runs: Sequence[Run]) -> None:
    """The page."""
    place = st.container()
    opened = next((run.id for run in runs if evaluation(run) is not None), "")
    run = chosen_run(runs, "trusted-run", opened)
    with place, style.heading("Can I trust it?", _caption(run)):
        if st.button("Its run", key="to-run", icon=":material/show_chart:"):
            go.to("runs", run=run.id)
        if st.button("Test a scan", key="to-test", type="primary", icon=":material/biotech:"):
            go.to("test", run=run.id)
    folding.told(run)
    trust.everything(run)
    _several(run)


def _several(run: Run) -> None:
    """Questions about a run's document that take several trainings; not of a run that is itself a part of one."""
    try:
        experiment, part = run.experiment, Parting.of(run.folder)
    except (SpecError, OSError, ValueError):
        return
    if part is None:
        view = view_of(run)
        if (trial := trial_of(run.folder)) is not None:
            study_worth.cards(Study(home(), trial[0]))
        if Branch.of(run.folder) is not None:
            st.caption(
                ":material/fork_right: This run went on from another one. The questions below begin its settings anew, "
                "without what that one had learned: their figures are those of another recipe."
            )
        folding.card(experiment, run, view)
        forecast.card(experiment, run, view)


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
