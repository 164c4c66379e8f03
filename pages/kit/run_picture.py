"""The curves of the runs that are looked at, growing while they learn."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from builder.runs import Run, RunView
from pages.kit import curves
from pages.kit.run_list import labels_of
from pages.kit.words import amount

__all__ = ["picture"]


def picture(runs: Sequence[Run], views: Sequence[RunView]) -> None:
    """The curves: losses on the left, a score or a measure of the steps on the right."""
    if not any(view.curves for view in views):
        st.caption("The curves begin with the first step.")
        return
    labels = labels_of(runs)
    offered = curves.axes(views)
    names = curves.scores(views)
    above = st.container(horizontal=True, vertical_alignment="bottom", gap="small")
    with above:
        axis = st.segmented_control("Along", offered, default="epoch", required=True, key="curve-axis", width="content")
        weight = st.slider("Smoothing of steps", 0.0, 0.98, 0.6, 0.02, key="curve-smoothing", width=125)
        log = st.toggle("Log. loss", key="curve-log", help="A logarithmic axis for the loss.", width="content")
    score = names[0] if names else ""
    if score.startswith("val/"):  # before the first epoch ends there is nothing to choose
        monitor = str((views[0].best or {}).get("metric") or "")
        first = names.index(monitor) if monitor in names else 0
        score = above.selectbox(
            "Beside it", names, index=first, key="curve-score", format_func=curves.name_words, width=160
        )
    axis = axis if axis in offered else "epoch"
    at = curves.best_at(views[0], axis) if len(views) == 1 else None  # of several runs each has a dot on its line
    marks = [] if at is None else [(at, "best")]
    losses = ["val/loss", "train/loss", *(["train_eval/loss"] if len(views) == 1 else [])]
    near = _zoomed("curves-loss")
    made = curves.lines(views, labels, losses, axis=axis, window=near)
    if len(views) == 1:
        fine = curves.lines(views, labels, ["step/loss"], axis=axis, smoothing=weight, first=3, window=near)
        made = [*fine, *made]
    one, two = st.columns(2, gap="small")
    with one:
        chart("curves-loss", made, marks, axis, "Loss", runs[0], log=log)
    if score:
        near = _zoomed("curves-score")
        told = curves.of_score(views, score)
        made = curves.lines(views, labels, told, axis=axis, smoothing=weight, window=near)
        with two:
            chart("curves-score", made, marks, axis, curves.title(score), runs[0])


def _zoomed(key: str) -> tuple[float, float] | None:
    """The part of the axis that a chart shows, None where it shows all: what is looked at closely is sent finer."""
    told = (st.session_state.get(key) or {}).get("range")
    return (float(told[0]), float(told[1])) if told else None


def chart(
    key: str,
    made: Sequence[curves.Line],
    marks: Sequence[tuple[float, str]],
    axis: str,
    title: str,
    run: Run,
    *,
    log: bool = False,
) -> None:
    """One live chart: it keeps its zoom while points come in and other runs are laid over `run`; of another run, which
    may be longer or shorter, the whole is shown."""
    import scanloom_components  # only where it is drawn: it registers itself with a running Streamlit

    scanloom_components.curves(
        [scanloom_components.Series(**vars(line)) for line in made],
        key=key,
        height=310,
        log=log,
        x_title={"step": "Step", "epoch": "Epoch", "minutes": "Minutes of computing"}[axis],
        y_title=title,
        marks=[scanloom_components.Mark(x, words) for x, words in marks],
        view=f"{axis} {run.id}",
        summary=f"{title} of {amount(len(made), 'line')}",
    )
