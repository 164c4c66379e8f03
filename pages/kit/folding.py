"""Would it hold on other patients? Cross-validation of a run's document, and what is said on the page of a fold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from builder import folding
from builder.execute import home
from builder.parting import Parting
from builder.runs import Run, RunView
from builder.spec import Experiment
from pages.kit import charts, figures, go, rounds, style
from pages.kit.words import plain

__all__ = ["card", "told"]

KEY = "folding"
_FOLDS = (3, 5, 10)
_REPEATS = (1, 2, 3, 5)


def told(run: Run) -> None:
    """Says what a run is a part of, where its sides are not those of its data set."""
    try:
        own = Parting.of(run.folder)
    except ValueError as error:
        st.error(plain(str(error)), icon=":material/error:")
        return
    if own is not None:
        st.info(
            f"This run is {plain(own.words)} of a question that several runs answer. What is called its test scans "
            "here was held out of it; the test scans of the data set stay closed.",
            icon=":material/splitscreen:",
        )


def card(experiment: Experiment, of: Run | None = None, view: RunView | None = None) -> None:
    """The card: what it is, the choice of folds, how it is going, or the figures over all held-out scans.

    Args:
        of: the run whose document this is: its own figure is set beside. view: of that run.
    """
    with style.card("Would it hold on other patients?", key=KEY):
        st.caption(
            "Cross-validation: the scans outside the test side are parted into folds of whole patients; each fold is "
            "held out of one training and answered by it. So every scan is judged once, by a network that never saw "
            "its patient, and one lucky or unlucky validation side cannot mislead. The test scans stay closed."
        )
        rounds.refused(KEY)
        one = rounds.newest(experiment, folding.KIND)
        answered = one is None or rounds.followed(one, KEY, "Cross-validation", _drawn)
        if one is None:
            _choice(experiment, of, view, "Cross-validate", primary=True)
        elif answered:
            with st.expander("Once more, with other folds", icon=":material/replay:"):
                _choice(experiment, of, view, "Cross-validate again", primary=False)


def _choice(experiment: Experiment, of: Run | None, view: RunView | None, words: str, primary: bool) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        folds = st.segmented_control(
            "Folds", _FOLDS, default=5, key=f"{KEY}-folds", required=True,
            help="5 is usual; 10 where there are few patients, 3 where a training takes long.",
        )  # fmt: skip
        repeats = st.segmented_control(
            "Repeats", _REPEATS, default=1, key=f"{KEY}-repeats", required=True,
            help="Each repeat parts the patients anew and begins with other weights.",
        )  # fmt: skip
        num = int(folds or 5) * int(repeats or 1)

        def start() -> None:
            id = of.id if of is not None else ""
            rounds.begin(
                lambda: folding.begin(home(), experiment, int(folds or 5), int(repeats or 1), of=id),
                KEY,
                lambda: rounds.is_going(experiment, folding.KIND),
            )

        st.button(
            words, key=f"{KEY}-begin", icon=":material/splitscreen:", type="primary" if primary else "secondary",
            on_click=start,
        )  # fmt: skip
    st.caption(rounds.cost(num, view.seconds if view is not None else 0.0))


def _drawn(found: Mapping[str, Any]) -> None:
    """The answer: a sentence, the figures, the folds."""
    st.markdown(f"**{plain(_sentence(found))}**")
    if found.get("synthetic"):
        st.caption(":orange[:material/science: Synthetic scans: these numbers say nothing about real ones.]")
    left, right = st.columns([1.3, 1], gap="medium")
    with left:
        _chart(found)
    with right:
        for note in found["notes"]:
            st.caption(plain(note))
    _table(found)
    _folds(found["members"], str(found["headline"]))


def _sentence(found: Mapping[str, Any]) -> str:
    name = str(found["headline"])
    figure = found["metrics"].get(name)
    if not figure or figure["value"] is None:
        return "No figure is defined on the held-out scans."
    spread = "" if figure["sd"] is None else f" From fold to fold: {figure['mean']:.3f} ± {figure['sd']:.3f}."
    repeats = int(found.get("repeats", 1))
    times = "once" if repeats == 1 else f"{repeats} times"
    return (
        f"{figures.metric_words(name)} {figures.interval(figure)} over {found['n']:,} scans of {found['patients']:,} "
        f"patients, each held out {times}.{spread}"
    )


def _table(found: Mapping[str, Any]) -> None:
    """A row a figure: pooled with its interval, mean and spread over folds, and the single run's own."""
    single = found.get("single")
    rows = []
    for name, figure in found["metrics"].items():
        row = {
            "Figure": figures.metric_words(name),
            "All held-out scans": figures.interval(figure),
            "Mean over folds": "–" if figure["mean"] is None else f"{figure['mean']:.3f}",
            "Spread": "–" if figure["sd"] is None else f"± {figure['sd']:.3f}",
        }
        if single is not None:
            row["One validation side"] = figures.interval(single["metrics"].get(name))
        rows.append(row)
    st.dataframe(
        rows,
        hide_index=True,
        key=f"{KEY}-table",
        column_config={
            "All held-out scans": st.column_config.TextColumn(
                help="All answers to held-out scans in one pool, the mean over repeats; in brackets the 95 % interval "
                "over patients."
            ),
            "Spread": st.column_config.TextColumn(help="Standard deviation from fold to fold."),
            "One validation side": st.column_config.TextColumn(
                help="What this run reached on its own validation scans, which also chose its best epoch."
            ),
        },
    )


def _chart(found: Mapping[str, Any]) -> None:
    """The headline: a dot a fold, the pooled figure with its interval, the single run's own."""
    import plotly.graph_objects as go_

    name = str(found["headline"])
    figure = found["metrics"].get(name)
    if not figure or figure["value"] is None:
        return
    colours, words = charts.palette(), figures.metric_words(name)
    drawn = go_.Figure()
    known = [
        (m["words"], value) for m, value in zip(found["members"], figure["folds"], strict=True) if value is not None
    ]
    drawn.add_scatter(
        x=[value for _, value in known], y=["Each fold"] * len(known), mode="markers", name="Each fold",
        marker={"size": 11, "color": colours[5], "opacity": 0.75, "line": {"width": 1, "color": "#ffffff"}},
        text=[label for label, _ in known], hovertemplate=f"%{{text}}: {words} %{{x:.3f}}<extra></extra>",
    )  # fmt: skip
    rows = [("All held-out scans", figure, colours[0])]
    if found.get("single") and (own := found["single"]["metrics"].get(name)) and own["value"] is not None:
        rows.append(("One validation side", own, "#8a94a6"))
    for label, told, colour in rows:
        drawn.add_scatter(
            x=[told["value"]], y=[label], mode="markers", name=label,
            marker={"size": 13, "color": colour, "symbol": "diamond"},
            error_x={
                "type": "data", "symmetric": False, "color": colour, "thickness": 2.5, "width": 7,
                "array": [(told["high"] or told["value"]) - told["value"]],
                "arrayminus": [told["value"] - (told["low"] or told["value"])],
            },
            hovertemplate=f"{label}: {words} {figures.interval(told)}<extra></extra>",
        )  # fmt: skip
    drawn.update_layout(
        height=90 + 46 * (len(rows) + 1), showlegend=False, margin={"l": 8, "r": 16, "t": 8, "b": 8},
        xaxis={"title": words}, yaxis={"autorange": "reversed", "showgrid": False},
    )  # fmt: skip
    told_words = (
        f"{words} of each fold: {', '.join(f'{value:.3f}' for _, value in known)}; pooled {figures.interval(figure)}"
    )
    st.plotly_chart(drawn, key=f"{KEY}-chart", config={"displayModeBar": False}, alt=told_words)


def _folds(members: Sequence[Mapping[str, Any]], headline: str) -> None:
    """The way to each fold's own run."""
    with st.expander(f"The {len(members)} runs", icon=":material/list:"):
        for number, member in enumerate(members):
            value = "–" if member["value"] is None else f"{member['value']:.3f}"
            with st.container(horizontal=True, vertical_alignment="center", gap="small"):
                st.markdown(
                    f"{plain(str(member['words']))} · {figures.metric_words(headline)} {value} on {member['n']} scans",
                    width="stretch",
                )
                if st.button("Its run", key=f"{KEY}-run-{number}", type="tertiary", icon=":material/show_chart:"):
                    go.to("runs", run=str(member["run"]))
