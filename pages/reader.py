"""Who is right: the reader, the network, or both together? Scans are read blind, then once more beside its answer."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from builder import reader
from builder.reader import Reading
from builder.runs import Run
from builder.spec import SpecError
from pages.kit import go, jobs, reading_results, reading_scans, style
from pages.kit.readings import SLOT, begun, chosen, join, offer
from pages.kit.trained import chosen_run, usable_runs


def page(runs: Sequence[Run]) -> None:
    """The page."""
    place = st.container()
    run = chosen_run(runs, "read-run", help="Runs that name classes, or box or outline lesions.")
    with (
        place,
        style.heading(
            "Who is right?",
            "A reader answers first and the network second, on the same scans. For research and education only.",
        ),
    ):
        if st.button("Its results", key="to-results", icon=":material/verified:"):
            go.to("results", run=run.id)
        if st.button("Test a scan", key="to-test", icon=":material/biotech:"):
            go.to("test", run=run.id)
    begun(run)
    jobs.watch(SLOT, "The network reads first")
    found = reader.readings(run)
    reading = chosen(found)
    if reading is None:
        offer(run, found)
        return
    name = join(reading)
    if name:
        read(run, reading, name)


def read(run: Run, reading: Reading, name: str) -> None:
    """The reader's turn, or what it came to once all is read."""
    turn = reading.turn(name)
    if turn is not None:
        reading_scans.draw(reading, name, turn)
    reading_results.card(run, reading, open_at_once=turn is None)


def nothing_yet() -> None:
    """No network that readers could answer beside has learned anything yet: what to do."""
    style.heading("Who is right?", "A reader and a network on the same scans.")
    with style.empty(
        "visibility_off", "No trained network to read against yet", "Train one first; then read against it here."
    ):
        if st.button("Try a demo", key="to-home", type="primary", icon=":material/play_arrow:"):
            go.to("home")
        if st.button("Go to Training", key="to-training", icon=":material/model_training:"):
            go.to("training")


def readable(run: Run) -> bool:
    """Whether readers can answer as the run does."""
    try:
        return run.experiment.task in reader.TASKS
    except (SpecError, OSError):
        return False


jobs.keep_in_url(SLOT)
able = [run for run in usable_runs() if readable(run)]
if able:
    page(able)
else:
    nothing_yet()
