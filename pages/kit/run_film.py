"""The film of a run: what the network says of a few scans, epoch by epoch, and which scans these are."""

from __future__ import annotations

import streamlit as st

from builder import film
from builder.data import Dataset, UnknownDataset
from builder.execute import home
from builder.runs import Run, RunView
from builder.spec import Experiment
from builder.task import find
from pages.kit import films, style
from pages.kit.run_list import experiment_of
from pages.kit.words import plain

__all__ = ["screened"]


def screened(run: Run, view: RunView, whose: str = "") -> None:
    """Draws the film of a run as far as it is; nothing before the first epoch has ended. `whose`: behind the title."""
    experiment = experiment_of(run)
    if not view.film or experiment is None:
        return
    import scanloom_components

    dataset = _dataset(experiment)
    with style.card(f"What it says of these scans{f' · {plain(whose)}' if whose else ''}", key="film"):
        _choice(run, view, experiment, dataset)
        base, mark = films.address(run.id)
        epochs = sorted(view.film)
        scanloom_components.film(
            base,
            mark,
            key="run-film-screen",
            run=run.id,
            epochs=epochs,
            steps=[view.film[epoch] for epoch in epochs],
            best=int((view.best or {}).get("epoch") or 0) or None,
            classes=list(dataset.classes) if dataset else [],
        )


def _dataset(experiment: Experiment) -> Dataset | None:
    """The data set of an experiment; None where it is gone. Opened once for each session."""
    kept: dict[str, Dataset | None] = st.session_state.setdefault("film-datasets", {})
    id = experiment.data.dataset
    if id not in kept:
        kept.clear()
        try:
            kept[id] = Dataset.open(home(), id)
        except (UnknownDataset, OSError):
            kept[id] = None
    return kept[id]


def _choice(run: Run, view: RunView, experiment: Experiment, dataset: Dataset | None) -> None:
    """A line that says what is seen, and the choice of scans while the run can still be told."""
    left, right = st.columns([3, 1], vertical_alignment="center")
    left.caption(
        "Validation scans, as the network sees them, asked anew after every epoch. Dashed or green: what is known; "
        "orange: what the network says."
        if find(experiment.task).label_kind in ("boxes", "outline")
        else "Validation scans, as the network sees them, asked anew after every epoch."
    )
    if not view.active or dataset is None:
        return
    with right.popover("Choose scans", icon=":material/push_pin:", width="stretch"):
        ids = [dataset.cases[i].id for i in find(experiment.task).cases(dataset, experiment, "val")]
        picked = st.multiselect(
            "Scans of the film",
            ids,
            default=[id for id in film.chosen(run.folder) if id in set(ids)],
            max_selections=film.MOST_SCANS,
            key=f"film-pins-{run.id}",
            help="Validation scans by the numbers that the Data page and the worst cases show. None: some of every "
            "kind. The choice counts from the next epoch on.",
        )
        if picked != film.chosen(run.folder):
            film.pin(run.folder, picked)
