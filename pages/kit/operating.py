"""From which probability on a class is answered, and what that comes to among one's own patients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import streamlit as st

from builder import calibrate, operating
from builder.execute import home
from builder.measures.operating import PATIENTS, Separation
from builder.operating import Choice
from builder.runs import Run, RunStore, StoreError
from pages.kit import charts, figures, style
from pages.kit.words import plain

__all__ = ["at_my_prevalence", "in_words"]

_ROWS, _PEOPLE = 20, PATIENTS
_KINDS = (
    ("found", "have it and are found", "#0e8a5f"),
    ("missed", "have it and are missed", "#d1477a"),
    ("alarmed", "do not have it and are alarmed", "#e2a33b"),
    ("cleared", "do not have it and are cleared", "#9aa6ba77"),
)


def at_my_prevalence(run: Run, found: Mapping[str, Any]) -> None:
    """The card: threshold, prevalence and costs, and what they come to; nothing where a run answers with no classes."""
    usable = [name for name, row in (found.get("operating_points") or {}).items() if row]
    if not usable:
        return
    with style.card("For patients like mine", key="operating"):
        st.caption(
            "How often an answer is right depends on how common the class is where you work. Choose on the validation "
            "scans; the test scans, which had no say in it, show what it comes to."
        )
        st.fragment(_choosing)(run, tuple(usable), dict(found["operating_points"]))


def _choosing(run: Run, classes: tuple[str, ...], points: Mapping[str, Mapping[str, Any]]) -> None:
    kept = operating.chosen(run)
    first = next((name for name in classes if name in kept), _rarest(run, classes))
    label = st.segmented_control("Class", classes, default=first, required=True, key=f"operating-class-{run.id}")
    here, before = _separation(run, label, "test"), _separation(run, label, "val")
    if here is None or not here.usable:
        st.caption(f"The test scans hold no case with {plain(label)}, or none without: nothing can be told.")
        return
    mine = kept.get(label)
    key = f"{run.id}-{label}"
    one, two, three = st.columns([1, 1, 1.4], gap="medium", vertical_alignment="bottom")
    share = mine.prevalence if mine else round(here.prevalence, 3)
    with one:
        prevalence = st.number_input(
            "Of 100 of my patients have it", 0.01, 99.99, min(99.99, max(0.01, 100 * share)), 0.5, format="%.2f",
            key=f"prevalence-{key}",
            help=f"Among the test scans it is {100 * here.prevalence:.1f} of 100. Screening meets far fewer.",
        ) / 100  # fmt: skip
    with two:
        st.number_input(
            "One missed is as bad as ... false alarms", 0.1, 1000.0, mine.cost if mine else 1.0, 1.0, key=f"cost-{key}",
            format="%.1f",
        )  # fmt: skip
    slider = f"threshold-{key}"
    if slider not in st.session_state:
        st.session_state[slider] = float(mine.threshold if mine else points[label]["threshold"])
    with three, st.container(horizontal=True, vertical_alignment="bottom"):
        if before is not None and before.usable:
            st.button(
                "Best on the validation scans",
                key=f"best-{key}",
                icon=":material/target:",
                help="The threshold at which mistakes cost least there, at this prevalence and this price.",
                on_click=_set,
                args=(run, label, before),
            )
        st.button(
            "Keep this",
            key=f"keep-{key}",
            type="primary",
            icon=":material/push_pin:",
            help="The Test page and the export then say how often such an answer is false.",
            on_click=_keep,
            args=(run, label),
        )
    threshold = st.slider(
        f"Answer {plain(label)} from a probability of", 0.0, 1.0, st.session_state[slider], 0.001, format="%.5g",
        key=slider,
    )  # fmt: skip
    if refused := st.session_state.pop(f"refused-{run.id}", ""):
        st.error(plain(refused), icon=":material/error:")
    if mine:
        same = abs(mine.threshold - threshold) < 1e-9 and abs(mine.prevalence - prevalence) < 1e-6
        st.caption(
            f":material/push_pin: Kept: from {mine.threshold:.5g}, at {100 * mine.prevalence:.3g} in 100."
            + ("" if same else " What is shown now is not kept.")
        )
    _figures(here, before, threshold, prevalence)
    left, right = st.columns(2, gap="medium")
    with left:
        _people(here.at(threshold, prevalence)["people"], key)
    with right:
        which = st.segmented_control(
            "Drawn", ("Over the threshold", "Decision curve"), default="Over the threshold", required=True,
            key=f"drawn-{key}", label_visibility="collapsed",
        )  # fmt: skip
        if which == "Decision curve":
            _decision(here, threshold, prevalence, key)
        else:
            _course(here, threshold, prevalence, key)


def _rarest(run: Run, classes: tuple[str, ...]) -> str:
    shares = {}
    for name in classes:
        here = _separation(run, name, "test")
        if here is not None and here.usable:
            shares[name] = here.prevalence
    return min(shares, key=shares.__getitem__) if shares else classes[0]


def _typed(run: Run, label: str) -> tuple[float, float]:
    """Prevalence and price as they are now: a button may be from before the last was typed."""
    key = f"{run.id}-{label}"
    return float(st.session_state[f"prevalence-{key}"]) / 100, float(st.session_state[f"cost-{key}"])


def _set(run: Run, label: str, before: Separation) -> None:
    # Not rounded: the scores of a network that is very sure lie nearer to each other than a step of the slider.
    st.session_state[f"threshold-{run.id}-{label}"] = before.cheapest(*_typed(run, label))


def _keep(run: Run, label: str) -> None:
    threshold = float(st.session_state[f"threshold-{run.id}-{label}"])
    try:
        operating.choose(run, Choice(label, threshold, *_typed(run, label)))
    except (ValueError, OSError) as error:
        st.session_state[f"refused-{run.id}"] = str(error)


def _separation(run: Run, label: str, split: str) -> Separation | None:
    try:
        changed = (run.folder / f"predictions-{split}.npz").stat().st_mtime_ns
    except OSError:
        return None
    return _stored(run.id, label, split, changed)


@st.cache_resource(max_entries=64, show_spinner=False)
def _stored(id: str, label: str, split: str, changed: int) -> Separation | None:
    try:
        return operating.separation(RunStore(home()).run(id), label, split)
    except StoreError:
        return None


def _figures(here: Separation, before: Separation | None, threshold: float, prevalence: float) -> None:
    """What the threshold comes to, side by side on both sides."""
    sides = {"Test scans": here.at(threshold, prevalence)}
    if before is not None and before.usable:
        sides = {"Validation scans": before.at(threshold, prevalence), **sides}
    names = ("sensitivity", "specificity", "ppv", "npv")
    rows = [
        f"| {side} | " + " | ".join(figures.interval(told[name]) for name in names) + " |"
        for side, told in sides.items()
    ]
    head = " | ".join(figures.metric_words(name) for name in names)
    st.markdown(f"| | {head} |\n|:--|:--|:--|:--|:--|\n" + "\n".join(rows))


def _people(counts: Mapping[str, int], key: str) -> None:
    """A thousand people as squares, in the order found, missed, alarmed, cleared."""
    import plotly.graph_objects as go

    having = counts["found"] + counts["missed"]
    st.markdown(
        f"Of **{_PEOPLE:,}** people **{having:,}** have it: **{counts['found']:,}** are found, "
        f"**{counts['missed']:,}** missed. Of the other {_PEOPLE - having:,}, **{counts['alarmed']:,}** are alarmed "
        "for nothing."
    )
    places = np.arange(_PEOPLE)
    figure, begin = go.Figure(), 0
    for name, words, colour in _KINDS:
        mine = places[begin : begin + counts[name]]
        begin += counts[name]
        figure.add_scatter(
            x=mine // _ROWS, y=-(mine % _ROWS), mode="markers", name=f"{counts[name]:,} {words}", hoverinfo="name",
            marker={"symbol": "square", "size": 6.5, "color": colour},
        )  # fmt: skip
    figure.update_layout(
        height=300,
        margin={"l": 4, "r": 4, "t": 4, "b": 4},
        xaxis={"visible": False, "fixedrange": True},
        yaxis={"visible": False, "fixedrange": True},
        legend={"orientation": "h", "y": -0.02, "yanchor": "top", "entrywidth": 0.5, "entrywidthmode": "fraction"},
    )
    told = ", ".join(f"{counts[name]} {words}" for name, words, _ in _KINDS)
    st.plotly_chart(figure, key=f"people-{key}", config={"displayModeBar": False}, alt=f"Of {_PEOPLE} people: {told}")


def _course(here: Separation, threshold: float, prevalence: float, key: str) -> None:
    course = here.course(prevalence)
    names = ("sensitivity", "specificity", "ppv", "npv")
    _drawn(
        [(figures.metric_words(name), course["threshold"], course[name]) for name in names],
        threshold, "Answered from a probability of", "Share", (0.0, 1.02), f"course-{key}",
    )  # fmt: skip


def _decision(here: Separation, threshold: float, prevalence: float, key: str) -> None:
    told = here.decision_curve(prevalence)
    nobody = [0.0] * len(told["risk"])
    rows = [("This network", told["network"]), ("Act on everybody", told["everybody"]), ("Act on nobody", nobody)]
    low = -0.25 * prevalence
    _drawn(
        [(name, told["risk"], values) for name, values in rows],
        threshold, "Risk from which one would act", "Net benefit", (low, prevalence * 1.1), f"decision-{key}",
    )  # fmt: skip
    st.caption(
        "Above both other lines, acting on the network's answer does more good than acting on all or on none "
        "(Vickers and Elkin 2006). Its probabilities are taken at their word: see whether its confidence is right."
    )


def _drawn(
    rows: list[tuple[str, list[float], list[float]]],
    threshold: float,
    x_title: str,
    y_title: str,
    y_range: tuple[float, float],
    key: str,
) -> None:
    import plotly.graph_objects as go

    figure = go.Figure()
    for number, (name, x, y) in enumerate(rows):
        colour = charts.palette()[number % len(charts.palette())]
        figure.add_scatter(x=x, y=y, mode="lines", name=name, line={"color": colour, "width": 2})
    figure.add_vline(x=threshold, line={"color": "#8a94a6", "dash": "dot"})
    figure.update_layout(
        height=330,
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        xaxis={"title": x_title, "range": [0, 1]},
        yaxis={"title": y_title, "range": list(y_range)},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
        hovermode="x unified",
    )
    st.plotly_chart(figure, key=key, config={"displayModeBar": False}, alt=f"{y_title} by {x_title}")


def in_words(run: Run, probabilities: Mapping[str, float]) -> list[str]:
    """For each class with a kept threshold, and for the likeliest one at least, what its answer on one scan is worth.

    Args:
        probabilities: as the network gave them (not calibrated): that is what thresholds are chosen on.
    """
    said, top = [], max(probabilities, key=probabilities.__getitem__, default="")
    for label, told in (operating.worth(run, calibrate.weights_of(run)).get("classes") or {}).items():
        if label not in probabilities or (told["by"] == "validation" and label != top):
            continue
        yes = probabilities[label] >= told["threshold"]
        figure = told["false_discovery" if yes else "false_omission"]
        head = f"**{plain(label)}: {'yes' if yes else 'no'}** (answered from {100 * told['threshold']:.4g} %)."
        if figure["value"] is None:
            said.append(f"{head} No test scan was answered so: how often that is wrong is not known.")
            continue
        many = f"{100 * figure['value']:.3g} of 100 ({100 * figure['low']:.2g} to {100 * figure['high']:.2g})"
        what = f"such answers are false: {many}" if yes else f"people cleared like this have it all the same: {many}"
        said.append(f"{head} Where {100 * told['prevalence']:.3g} of 100 have it, {what}.")
    return said
