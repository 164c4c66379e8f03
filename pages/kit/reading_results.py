"""What a reading came to: readers alone, the network alone, and readers with the network, on the same scans."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from builder.execute import home
from builder.marked import FEWER
from builder.measures.named import interval, metric_words
from builder.reader import CLASSES, Reading, readings
from builder.reading_report import report
from builder.runs import Run, RunStore
from pages.kit import charts, style
from pages.kit.readings import leave
from pages.kit.words import amount, plain

__all__ = ["card"]

_SIDES = {"alone": "Reader alone", "model": "Network alone", "with_model": "Reader with the network"}
_ALL = "All readers"
_NAMED, _MARKED = ("accuracy", "balanced_accuracy"), ("sensitivity", "image_specificity")
_COMPARED = ("sensitivity", "false_alarms_per_image")


def card(run: Run, reading: Reading, open_at_once: bool) -> None:
    """The comparison; while one still reads it lies behind a button, because it tells about the scans to come."""
    if not open_at_once and not st.toggle(
        "Show what it came to until now", key="show-reading", help="For who does not read any more: it is not blind."
    ):
        return
    try:
        changed = (reading.folder / "answers.jsonl").stat().st_mtime_ns
    except OSError:
        changed = 0
    found = _report(run.id, reading.id, changed)
    with style.card("What it came to", key="reading-results"):
        if open_at_once:
            st.button("Other readings", key="after-reading", icon=":material/arrow_back:", on_click=leave)
        if not found["readers"]:
            st.caption("Nobody has read a scan to the end yet.")
            return
        told = {mine["reader"]: mine for mine in found["readers"]}
        if found["together"]:
            told = {_ALL: found["together"], **told}
        who = next(iter(told))
        if len(told) > 1:
            who = st.segmented_control("Whose", list(told), default=who, required=True, key="whose", format_func=plain)
        _one(found, told[who], who)


@st.cache_data(max_entries=32, show_spinner="Comparing")
def _report(run: str, reading: str, changed: int) -> dict[str, Any]:
    return report(next(r for r in readings(RunStore(home()).run(run)) if r.id == reading))


def _one(found: Mapping[str, Any], told: Mapping[str, Any], who: str) -> None:
    st.caption(
        f"{told['n']:,} of {amount(found['cases'], 'scan')} read to the end, {amount(told['patients'], 'patient')}"
        + (f", averaged over {told['readers']} readers" if who == _ALL else "")
        + ". 95 % intervals over patients: they speak of other patients, not of other readers."
    )
    left, right = st.columns([1.15, 1], gap="medium")
    marks = found.get("kind", CLASSES) != CLASSES
    with left:
        _intervals(told, _MARKED if marks else _NAMED)
    with right:
        for name in _COMPARED if marks else ("balanced_accuracy",):
            st.caption(f"{metric_words(name)}:" if marks else "Balanced accuracy (mean over the classes):")
            for pair in ("with_model - alone", "with_model - model", "alone - model"):
                _difference(told["differences"][pair][name], name in FEWER)
        if "changes" in told:
            (_moved if marks else _changes)(told)
    if marks:
        _counts(told)
        st.caption(
            "A mark finds a lesion where both share 30 % of what they cover together (IoU). An outline "
            "counts by the boxes around its parts."
        )
    else:
        _table(told, found["classes"])


def _difference(figure: Mapping[str, Any], fewer: bool) -> None:
    shown = figure["low"] is not None and not figure["low"] <= 0 <= figure["high"]
    better = ((figure["difference"] or 0) > 0) != fewer
    colour, icon = ("green", "trending_up") if better else ("orange", "trending_down")
    if not shown:
        colour, icon = "gray", "drag_handle"
    st.markdown(f":{colour}[:material/{icon}:] {plain(figure['words'])}")


def _moved(told: Mapping[str, Any]) -> None:
    """How the network's marks moved a reader who marks."""
    moves, seconds = told["changes"], told["seconds"]
    st.markdown(
        f"Having seen its marks, **{moves['gained']}** more lesions were found and **{moves['lost']}** given up; "
        f"**{moves['alarms_added']}** false alarms came in and **{moves['alarms_dropped']}** went."
    )
    st.caption(
        f"Half of the first answers took {seconds['alone']:.0f} s or less, of the second ones "
        f"{seconds['with_model']:.0f} s."
    )


def _counts(told: Mapping[str, Any]) -> None:
    rows = [
        {"Figure": metric_words(name), **{words: interval(told[side][name]) for side, words in _SIDES.items()}}
        for name in ("sensitivity", "false_alarms_per_image", "image_specificity")
    ]
    st.dataframe(rows, hide_index=True, key="reading-marks-table")


def _changes(told: Mapping[str, Any]) -> None:
    """How the network's answer moved the reader."""
    moves, seconds = told["changes"], told["seconds"]
    st.markdown(
        f"Having seen its answer, **{moves['to_right']}** became right and **{moves['to_wrong']}** wrong. "
        f"**{moves['followed_wrong']}** right answers were given up for a wrong one of the network; "
        f"**{moves['rescued']}** wrong ones were mended by it."
    )
    st.caption(
        f"Half of the first answers took {seconds['alone']:.0f} s or less, of the second ones "
        f"{seconds['with_model']:.0f} s."
    )


def _intervals(told: Mapping[str, Any], names: tuple[str, ...]) -> None:
    """Two shares of the three, each a point with its interval."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for number, (side, words) in enumerate(_SIDES.items()):
        rows = [told[side][name] for name in names]
        values = [row["value"] for row in rows]
        figure.add_scatter(
            x=values, y=[k + (1 - number) * 0.22 for k in range(len(names))], mode="markers", name=words,
            marker={"size": 11, "color": charts.palette()[number]},
            error_x={
                "type": "data", "symmetric": False, "thickness": 2, "color": charts.palette()[number],
                "array": [_reach(row, "high") for row in rows], "arrayminus": [_reach(row, "low") for row in rows],
            },
            customdata=[interval(row) for row in rows],
            hovertemplate=f"{words}: %{{customdata}}<extra></extra>",
        )  # fmt: skip
    figure.update_layout(
        height=290,
        margin={"l": 8, "r": 16, "t": 8, "b": 8},
        xaxis={"range": [0, 1.02], "title": "Share of right answers" if names == _NAMED else "Share"},
        yaxis={"tickvals": [0, 1], "ticktext": [metric_words(name) for name in names], "range": [-0.6, 1.6]},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "traceorder": "normal"},
    )
    words = "; ".join(f"{words} {interval(told[side][names[0]])}" for side, words in _SIDES.items())
    told_as = f"{metric_words(names[0])}: {words}"
    st.plotly_chart(figure, key="reading-intervals", config={"displayModeBar": False}, alt=told_as)


def _reach(row: Mapping[str, float | None], end: str) -> float:
    """How far the interval reaches from the value to one of its ends."""
    value, edge = row["value"], row[end]
    return 0.0 if value is None or edge is None else abs(edge - value)


def _table(told: Mapping[str, Any], classes: list[str]) -> None:
    rows = [
        {
            "Class": name,
            "Figure": kind.capitalize(),
            **{words: interval(told[side][f"{kind} of {name}"]) for side, words in _SIDES.items()},
        }
        for name in classes
        for kind in ("sensitivity", "specificity")
    ]
    st.dataframe(rows, hide_index=True, key="reading-classes")
