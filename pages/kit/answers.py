"""What a run found on one scan, drawn: the scan with it, and a part for each kind of thing that a task may tell.

Nothing here asks which task it is: a part is drawn where the finding has what it needs (`PARTS`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st

from builder import outputs
from builder.evaluate import current
from builder.runs import Run
from builder.terms import REFUSED, UNKNOWN
from pages.kit import charts, explained, figures, operating, viewer, volumes
from pages.kit.pairs import pairs
from pages.kit.words import amount, plain

__all__ = ["PARTS", "Answer", "bars", "given", "headline", "likeliest", "likeness", "scan", "silent", "threshold_of"]

_HEIGHT = 460
_LISTED = 40
_TOLD_ELSEWHERE = ("threshold", "found")
_FACTS = {
    "mean_change_stored": ("Mean change (stored values)", ""),
    "rms_change_stored": ("Usual change (stored values)", ""),
    "mean_change_hu": ("Mean change", "HU"),
    "rms_change_hu": ("Usual change", "HU"),
    "volume_ml": ("Volume", "ml"),
    "area_mm2": ("Area on its largest slice", "mm²"),
    "longest_diameter_mm": ("Longest diameter", "mm"),
    "area_px": ("The same in pixels", "px"),
    "slices": ("Slices it is on", ""),
}


@dataclass(frozen=True)
class Answer:
    """A finding and what a page needs beside it.

    Attributes:
        job: id of the job. folder: of the job. result: of the job, with the finding.
        classes: of the run. truth: what people said of the scan: {label, boxes, mask (address)}, {} where unknown.
    """

    run: Run
    job: str
    folder: Path
    result: Mapping[str, Any]
    classes: tuple[str, ...]
    multi_label: bool
    truth: Mapping[str, Any]

    @property
    def finding(self) -> Mapping[str, Any]:
        """What `predict.Finding.plain` told."""
        found: Mapping[str, Any] = self.result["finding"]
        return found

    @property
    def state(self) -> str:
        """Which saved state of the run answered: "best" or "last"; what was measured of a run is of its best one."""
        return str((self.result.get("by") or {}).get("state") or "best")

    def colour(self, name: str) -> str:
        """The colour of a class."""
        return viewer.colour_of(self.classes.index(name) if name in self.classes else len(self.classes))

    def has(self, output: str) -> bool:
        """Whether the job has kept an output of this name."""
        return output in self.result.get("outputs", ())


# -- confidence -------------------------------------------------------------------------------------------------------


def likeliest(finding: Mapping[str, Any]) -> str:
    """The class with the largest probability, told or kept silent about; "" where the task tells no classes."""
    return str(finding.get("top") or finding.get("likeliest") or "")


def given(finding: Mapping[str, Any]) -> dict[str, float]:
    """The probabilities as the network gives them, without a temperature: what thresholds are chosen on."""
    found: dict[str, float] = dict(finding.get("uncalibrated") or finding.get("probabilities") or {})
    return found


def greyed(answer: Answer) -> bool:
    """Whether the heat on the scan is a map that has failed its tests (see `sanity`): then it is not shown there."""
    method = (answer.result.get("heat") or {}).get("method")
    return bool(method and answer.state == "best" and explained.verdict(answer.run, method))


def silent(answer: Answer) -> None:
    """Why the run does not answer, where it does not."""
    reason = answer.finding.get("reason")
    if not reason:
        return
    st.markdown(f":orange[:material/front_hand:] {plain(reason)}")
    if answer.finding["status"] == REFUSED:
        st.caption("It is told to refuse such scans on its Results page, where that can be changed.")
    else:
        st.caption("From which confidence on it answers is chosen on its Results page.")


def likeness(answer: Answer) -> None:
    """How far out the scan lies among the training scans, as the network sees them."""
    like = answer.result.get("like")
    if not like:
        return
    share, of = 100 * like["farther_than"], like["of"]
    words = f"farther out than {share:.0f} % of {of} training scans" if share >= 50 else f"like its {of} training scans"
    if like.get("unlike"):
        words += ", and than new scans of that kind lie"
    st.caption(f":material/social_distance: To the network this scan is {words}.")


# -- the head ---------------------------------------------------------------------------------------------------------


def headline(answer: Answer) -> str:
    """What was found, in one line of markdown."""
    finding, said = answer.finding, []
    if finding.get("status") == REFUSED:
        return "Not answered: this scan is unlike those it has learned from"
    if finding.get("status") == UNKNOWN:
        said.append("I don't know")
    elif finding.get("top"):
        said.append(f"{plain(finding['top'])} · {100 * finding['probabilities'][finding['top']]:.1f} %")
    if finding.get("boxes") is not None:
        shown = boxes_from(answer, threshold_of(answer))
        said.append(amount(len(shown), "lesion") + " found" if shown else "No lesion found")
    if finding.get("outline") is not None:
        slices = finding["outline"]["slices"]
        size = next((f"{v:.3g} {u}" for _, v, u in facts(finding) if u in ("ml", "mm²", "px")), "")
        said.append(f"outlined{f', {size}' if size else ''}" if slices else "nothing outlined")
    if finding.get("enhanced") is not None:
        said.append("Enhanced")
    return " · ".join(said) or "An answer without words"


def facts(finding: Mapping[str, Any]) -> list[tuple[str, float, str]]:
    """(name, value, unit) of the numbers that the task tells."""
    found = []
    for name, value in (finding.get("facts") or {}).items():
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if number and name not in _TOLD_ELSEWHERE:
            words, unit = _FACTS.get(name, (name.replace("_", " ").capitalize(), ""))
            found.append((words, value, unit))
    return found


# -- the scan ---------------------------------------------------------------------------------------------------------


def scan(answer: Answer) -> None:
    """The scan with everything found on it; an enhanced one beside what it was made of, with a divider."""
    if answer.has("enhanced"):
        _before_and_after(answer)
        return
    if not answer.has("scan"):
        st.caption("The scan itself was not kept: ask again to see it.")
        return
    layers = []
    if answer.has("mask"):
        layers.append(viewer.mask_of_output(answer.job, ["Outlined by the network"]))
    if answer.truth.get("mask"):
        layers.append(answer.truth["mask"])
    if answer.has("heat") and not greyed(answer):
        told = answer.result["heat"]
        layers.append(viewer.heat_of_output(answer.job, told["title"], slices=told["slices"]))
    quiet = not answer.has("mask") and answer.finding.get("boxes") is None
    viewer.show_output(
        answer.job,
        "scan",
        f"viewer-{answer.job}",
        label="The scan that was asked about",
        boxes=[*_boxes(answer), *answer.truth.get("boxes", ())],
        layers=layers,
        height=_HEIGHT,
        slice=answer.result.get("telling"),
        opacity=0.45 if quiet else 0.55,
    )


def _before_and_after(answer: Answer) -> None:
    import scanloom_components

    def part(name: str, words: str) -> tuple[str, str, str]:
        return f"{answer.job}-{name}", volumes.of_output(answer.job, name), words

    scanloom_components.compare(
        f"{answer.job}-compare",
        part("scan", "Before"),
        part("enhanced", "After"),
        key=f"compare-{answer.job}",
        change=part("heat", "What has changed") if answer.has("heat") else None,
        height=_HEIGHT,
        slice=answer.result.get("telling"),
    )
    if answer.has("heat"):
        most = answer.result["heat"]["most"]
        much = f"{most:,.0f}" if most >= 10 else f"{most:.2g}"
        st.caption(f"Show what has changed: the brightest places by {much} stored values or more.")


# -- boxes ------------------------------------------------------------------------------------------------------------


def threshold_of(answer: Answer) -> float:
    """The score from which boxes are shown: what the slider says, else what the validation side chose, else 0.5."""
    kept, chosen = st.session_state.get(f"threshold-{answer.job}"), chosen_threshold(answer.finding)
    return chosen if kept is None or kept == _on_slider(chosen) else float(kept)


def chosen_threshold(finding: Mapping[str, Any]) -> float:
    """The score that the validation side chose, as the task tells it; 0.5 where it does not."""
    chosen = (finding.get("facts") or {}).get("threshold")
    return 0.5 if chosen is None else float(chosen)


def _on_slider(threshold: float) -> float:
    """The place on the slider that stands for a chosen score, which may lie between two steps or beyond its ends."""
    return min(0.98, max(0.02, round(threshold, 2)))


def boxes_from(answer: Answer, least: float) -> list[Mapping[str, Any]]:
    """The boxes with at least this score, the surest first."""
    found = answer.finding.get("boxes") or ()
    return sorted((box for box in found if box["score"] >= least), key=lambda box: -box["score"])


def _boxes(answer: Answer) -> list[Any]:
    from scanloom_components import Box

    made = []
    for box in boxes_from(answer, threshold_of(answer)):
        name, score = box["class"], box["score"]
        x0, y0, x1, y1 = box["box"]
        colour = answer.colour(name)
        made.append(Box(x0, y0, x1, y1, name=name, colour=colour, slice=box["slice"], score=score, dashed=True))
    return made


def box_list(answer: Answer) -> None:
    """The score from which boxes are shown, and the boxes in a table."""
    first = _on_slider(chosen_threshold(answer.finding))
    st.slider(
        "Show boxes from a score of",
        0.02,
        0.98,
        first,
        0.01,
        key=f"threshold-{answer.job}",
        help="A lower one finds more lesions and raises more false alarms. It begins where the validation scans chose "
        "it while the network learned.",
    )
    shown, every = boxes_from(answer, threshold_of(answer)), answer.finding.get("boxes") or ()
    if not shown:
        st.caption(f"No box reaches this score; {amount(len(every), 'box', 'boxes')} in all." if every else "No box.")
        return
    several = any(box["slice"] for box in every)
    st.dataframe(
        [
            {"Lesion": box["class"], "Score": 100 * box["score"]}
            | ({"Slice": box["slice"] + 1} if several else {})
            | {"Width": box["box"][2] - box["box"][0], "Height": box["box"][3] - box["box"][1]}
            for box in shown[:_LISTED]
        ],
        hide_index=True,
        key=f"boxes-{answer.job}",
        height="content" if len(shown) < 8 else 320,
        column_config={
            "Score": st.column_config.ProgressColumn(min_value=0, max_value=100, format="%.0f %%"),
            "Width": st.column_config.NumberColumn(format="%.0f px"),
            "Height": st.column_config.NumberColumn(format="%.0f px"),
        },
    )
    st.caption("Dashed: found by the network." + (" Whole: drawn by a person." if answer.truth.get("boxes") else ""))


# -- the other parts --------------------------------------------------------------------------------------------------


def probabilities(answer: Answer) -> None:
    """A bar a class, and what such an answer is worth."""
    finding, first = answer.finding, likeliest(answer.finding)
    bars(finding["probabilities"], finding["top"])
    if finding.get("uncalibrated"):
        st.caption(
            "Calibrated with the temperature that was fitted on its validation scans. The network itself says "
            f"{100 * finding['uncalibrated'][first]:.1f} %."
        )
    if answer.state != "best":
        return  # its promises were made for other weights
    if words := named(answer):
        st.caption(f":material/checklist: {words}")
    for words in operating.in_words(answer.run, given(finding)):
        st.caption(f":material/balance: {words}")


def named(answer: Answer, level: float = 0.9) -> str:
    """All classes that it may be, with the promise of the validation side; "" where none was made."""
    told = (current(answer.run) or {}).get("sets") or {}
    row = next((row for row in told.get("levels", ()) if row["level"] == level and row["limit"] is not None), None)
    if row is None:
        return ""
    raw = given(answer.finding)
    inside = [plain(name) for name in sorted(raw, key=lambda name: -raw[name]) if raw[name] >= row["limit"]]
    promise = (
        f"In {100 * level:.0f} of 100 scans that come as its validation scans came, the truth is among what it names"
    )
    if row.get("coverage") and not figures.kept_promise(row):
        promise += f" (on its test scans, in {100 * row['coverage']['value']:.0f})"
    if not inside:
        return f"{promise}. Here it names **nothing**: no class is likely enough, so this scan is unlike those."
    if len(inside) == len(raw):
        return f"{promise}. Here it names **every class**: it does not know."
    return f"{promise}. Here: **{', '.join(inside)}**."


def size_of_it(answer: Answer) -> None:
    """The numbers that the task tells."""
    pairs((name, f"{value:.4g} {unit}".strip()) for name, value, unit in facts(answer.finding))


def outlined(answer: Answer) -> None:
    """On which slices something is outlined."""
    slices = answer.finding["outline"]["slices"]  # none: the headline says so
    if len(slices) > 1:
        st.caption(f"Outlined on {amount(len(slices), 'slice')}, {slices[0] + 1} to {slices[-1] + 1}.")


def enhanced(answer: Answer) -> None:
    """How large the enhanced picture is, and that it is no measurement."""
    shape = answer.finding["enhanced"]["shape"]
    before = outputs.kept(answer.folder, "scan").pixels.shape if answer.has("scan") else shape
    times = shape[3] / before[3]
    grown = f", {times:g} times as fine" if times > 1 else ""
    st.caption(
        f"{shape[3]} × {shape[2]} px{grown}, in the stored values of the scan. Draw the divider across to compare. A "
        "network may invent or remove detail: keep the original beside it."
    )


def bars(chances: Mapping[str, float], top: str, before: Mapping[str, float] | None = None, key: str = "bars") -> None:
    """Draws a probability a class, the likeliest on top; `before` shows those of the whole scan behind."""
    import plotly.graph_objects as go_

    names = sorted(chances, key=lambda name: chances[name])[-12:]
    values = [100 * chances[name] for name in names]
    texts = [f"{value:.1f} %" for value in values]
    shown = [_escaped(name) for name in names]
    colours = [charts.palette()[0] if name == top else "#8a94a6" for name in names]
    traces = [
        go_.Bar(
            name="with areas covered" if before else "probability",
            x=values,
            y=shown,
            orientation="h",
            text=texts,
            textposition="outside",
            cliponaxis=False,
            marker={"color": colours, "cornerradius": 3},
        )
    ]
    if before is not None:
        old = [100 * before[name] for name in names]
        traces.insert(
            0, go_.Bar(name="whole scan", x=old, y=shown, orientation="h", marker={"color": "#8a94a6"}, opacity=0.55)
        )
    figure = go_.Figure(traces)
    figure.update_layout(
        height=70 + (52 if before else 44) * len(names),
        margin={"l": 8, "r": 44, "t": 8, "b": 8},
        xaxis={"range": [0, 108], "ticksuffix": " %", "tickvals": [0, 50, 100]},
        yaxis={"type": "category"},
        showlegend=before is not None,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
    )
    told = ", ".join(f"{name} {100 * chances[name]:.1f} %" for name in reversed(names))
    st.plotly_chart(figure, key=key, config={"displayModeBar": False}, alt=f"Probabilities: {told}")


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


Part = tuple[Callable[[Mapping[str, Any]], bool], Callable[[Answer], None]]
PARTS: Sequence[Part] = (
    (lambda finding: bool(finding.get("probabilities")), probabilities),
    (lambda finding: finding.get("boxes") is not None, box_list),
    (lambda finding: finding.get("outline") is not None, outlined),
    (lambda finding: finding.get("enhanced") is not None, enhanced),
    (lambda finding: bool(facts(finding)), size_of_it),
)
"""(whether the finding has it, what draws it), in the order of the page."""
