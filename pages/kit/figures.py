"""How good a run is, drawn: figures with intervals, curves, tables, galleries of the worst, by what a report holds.

Nothing here asks which task it is: each part is drawn where the report has what it needs (`SECTIONS`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import streamlit as st

from builder import siblings, subgroups
from builder.measures.named import METRICS, chosen_by, interval, metric_words, written
from pages.kit import charts
from pages.kit.pairs import pairs
from pages.kit.words import amount, plain

__all__ = ["METRICS", "SECTIONS", "confusion", "interval", "metric_words", "summary"]

MEANINGS = {
    "Sensitivity": "Of the scans of this class, the share that was recognised.",
    "Specificity": "Of the scans of other classes, the share that was not taken for this one.",
    "PPV": "When it answers this class, how often that is right (among scans like these).",
    "NPV": "When it does not answer this class, how often that is right (among scans like these).",
    "F1": "Harmonic mean of sensitivity and PPV.",
    "AUC": "How well this class is told from the rest at any threshold; 0.5 is guessing.",
    "AP at IoU 0.5": "Average precision: a box counts as right where it overlaps the lesion by half.",
}
_BAND = "rgba(74,120,239,.18)"


def summary(found: Mapping[str, Any], seeds: Mapping[str, Any] | None = None) -> None:
    """Draws all figures with their intervals, what they stand on, and the remarks.

    Args:
        seeds: how they move over trainings with other seeds (`siblings.spread`); None where there was one training.
    """
    moved = seeds["metrics"] if seeds else {}
    many = f"{amount(found['n'], 'scan')} of {amount(found['patients'], 'patient')}"
    st.caption(f"{many}, never seen in training. In brackets the 95 % interval over patients.")
    if found.get("synthetic"):
        st.caption(":orange[:material/science: Synthetic scans: these numbers say nothing about real ones.]")
    rows = []
    for name, figure in found["metrics"].items():
        rows.append((metric_words(name), interval(figure)))
        if name in moved:
            rows.append((f"over {moved[name]['n']} seeds", siblings.words(moved[name])))
        if name == "accuracy" and found.get("majority_accuracy") is not None:
            who = f' ("{found["majority_class"]}")' if found.get("majority_class") else ""
            rows.append((f"Always the commonest class{who}", f"{found['majority_accuracy']:.3f}"))
    pairs(rows, figures=True)
    if moved:
        st.caption(
            "Over seeds: the same recipe taught again, asked about the same scans, from the least to the largest: the "
            "luck of a training. The interval in brackets is another thing: the luck of which patients were asked."
        )
    if seeds and seeds["unasked"]:
        runs = amount(seeds["unasked"], "run")
        st.caption(f"Not asked about these scans yet: {runs} of this recipe with other seeds.")
    openings = found.get("openings") or {}
    if openings:
        st.caption(
            f"These test scans were opened {amount(openings['dataset'], 'time')} in all, "
            f"{openings['run']} of them for this run."
        )


def notes(found: Mapping[str, Any]) -> None:
    """Draws what a reader of the figures should know."""
    for note in found.get("notes", ()):
        st.caption(f":orange[:material/warning: {plain(note)}]")


# -- classes ----------------------------------------------------------------------------------------------------------


def per_class(found: Mapping[str, Any]) -> None:
    """A row a class."""
    st.dataframe(
        [
            {
                "Class": name,
                "Number": row["n"],
                **{metric_words(key): interval(row[key]) for key in sorted(row, key=_last_f1) if key != "n"},
            }
            for name, row in found["per_class"].items()
        ],
        hide_index=True,
        key="per-class",
        column_config={name: st.column_config.TextColumn(help=words) for name, words in MEANINGS.items()},
    )


def _last_f1(name: str) -> int:
    """The order of the columns: the AUC first, then as they come, F1 last."""
    return {"auc": 0, "map50": 0, "f1": 2}.get(name, 1)


def confusion(classes: Sequence[str], counts: Sequence[Sequence[int]], key: str = "confusion") -> None:
    """Draws which class was answered for which."""
    import plotly.graph_objects as go

    names = [escape(name) for name in classes]
    shares = [[c / max(1, sum(row)) for c in row] for row in counts]
    dark = st.context.theme.type == "dark"
    figure = go.Figure(
        go.Heatmap(
            z=shares,
            x=names,
            y=names,
            text=[[str(c) for c in row] for row in counts],
            texttemplate="%{text}",
            hovertemplate="is %{y}, answered %{x}: %{text}<extra></extra>",
            textfont={"color": "#e7ecf3"} if dark else {},
            colorscale=[[0, "#10151d"], [1, "#2f5fd0"]] if dark else [[0, "#ffffff"], [1, charts.palette()[0]]],
            zmin=0,
            zmax=1,
            showscale=False,
            xgap=2,
            ygap=2,
        )
    )
    figure.update_layout(
        height=110 + 44 * len(names),
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        xaxis={"title": "Answered", "type": "category"},
        yaxis={"title": "Is", "type": "category", "autorange": "reversed", "automargin": True},
    )
    st.plotly_chart(figure, key=key, config={"displayModeBar": False}, alt="Which class was answered for which")


def whom_for_whom(found: Mapping[str, Any]) -> None:
    """The table of mistakes; with several labels a scan one for each label."""
    counts = found["confusion"]
    if not counts:
        return
    if not isinstance(counts[0][0], list):
        confusion(found["classes"], counts)
        return
    st.dataframe(
        [
            {"Label": name, "Found": tp, "Missed": fn, "False alarms": fp, "Rightly not named": tn}
            for name, ((tn, fp), (fn, tp)) in zip(found["classes"], counts, strict=True)
        ],
        hide_index=True,
        key="confusion-labels",
    )


def roc(found: Mapping[str, Any]) -> None:
    """ROC curves, one a class, with the operating points."""
    drawn = [(name, row["fpr"], row["tpr"]) for name, row in (found["roc"] or {}).items() if row]
    if not drawn:
        return
    points = {
        name: (1 - row["specificity"]["value"], row["sensitivity"]["value"])
        for name, row in (found.get("operating_points") or {}).items()
        if row and row["specificity"]["value"] is not None and row["sensitivity"]["value"] is not None
    }
    lines(
        drawn,
        key="roc",
        x_title="1 - specificity",
        y_title="Sensitivity",
        x_range=(0, 1),
        y_range=(0, 1.02),
        diagonal=True,
        points=points,
    )


def operating_points(found: Mapping[str, Any]) -> None:
    """Where each class is answered from, as the validation side chose it."""
    rows = found.get("operating_points")
    if not isinstance(rows, Mapping):
        return
    st.dataframe(
        [
            {"Class": name, "Answered from": f"{100 * row['threshold']:.1f} %"}
            | {metric_words(key): interval(row[key]) for key in ("sensitivity", "specificity", "ppv", "npv")}
            for name, row in rows.items()
            if row
        ],
        hide_index=True,
        key="operating-points",
    )
    st.caption("Chosen on the validation scans (sensitivity + specificity at its highest), measured here.")


def calibration(found: Mapping[str, Any]) -> None:
    """How often an answer of a given confidence is right, as it is and with the temperature of the validation side."""
    told = found["calibration"]
    kinds = [("As it answers", told["given"]), ("Calibrated", told.get("tempered"))]
    drawn = []
    for name, row in kinds:
        if row:
            at = [(c, r) for c, r in zip(row["reliability"]["confidence"], row["reliability"]["right"], strict=True)]
            drawn.append((name, [c for c, _ in at if c is not None], [r for c, r in at if c is not None]))
    lines(
        drawn,
        key="calibration",
        x_title="Confidence",
        y_title="Share that is right",
        x_range=(0, 1),
        y_range=(0, 1.02),
        diagonal=True,
        mode="lines+markers",
    )
    if told.get("temperature"):
        sure = "too sure" if told["temperature"] > 1 else "not sure enough"
        after = told["tempered"]["ece"] if told.get("tempered") else None
        st.caption(
            f"Its temperature is {told['temperature']:.2f}: it is {sure} of itself. Calibration error "
            f"{written(told['given']['ece'])}{f', {written(after)} once calibrated' if after is not None else ''}. "
            "Whether it answers calibrated is chosen under *When it answers, and how sure*."
        )
    _slopes(found, told)


def _slopes(found: Mapping[str, Any], told: Mapping[str, Any]) -> None:
    """The calibration slope and intercept of each class, as it answers and calibrated; of two classes, of one."""
    names = list(found["classes"])
    shown = range(1, 2) if len(names) == 2 and not isinstance(found["confusion"][0][0], list) else range(len(names))
    rows = []
    for words, kind in (("as it answers", told["given"]), ("calibrated", told.get("tempered"))):
        slopes = (kind or {}).get("slopes") or ()  # an evaluation of before tells none
        for k in shown if slopes else ():
            if slopes[k]["slope"]["value"] is not None:
                figures = {"Slope": interval(slopes[k]["slope"]), "Intercept": interval(slopes[k]["intercept"])}
                rows.append({"Class": names[k], "How": words, **figures})
    if rows:
        st.dataframe(rows, hide_index=True, key="calibration-slopes")
        st.caption(
            "A slope under 1: too sure of itself; 1 is right. An intercept above 0: it names the class too seldom; 0 "
            "is right."
        )


def held(found: Mapping[str, Any]) -> None:
    """How large the sets of classes are that hold the truth as often as is said, and whether they did here."""
    told = found["sets"]
    rows = [row for row in told["levels"] if row["limit"] is not None]
    if rows:
        st.dataframe(
            [
                {
                    "Promised": f"{100 * row['level']:.0f} of 100",
                    "Held here": interval(row["coverage"]),
                    "Names": f"{row['size']:.2f}",
                    "Right, if one": interval(row["right_when_single"]),
                }
                for row in rows
            ],
            hide_index=True,
            key="sets",
        )
    broken = [row for row in rows if not kept_promise(row)]
    if broken:
        st.caption(
            ":orange[:material/warning: The promise was not kept here: these scans do not come as the validation scans "
            "came (another source, other patients).]"
        )
    small = [f"{100 * row['level']:.0f}" for row in told["levels"] if row["limit"] is None]
    if small:
        st.caption(
            f":orange[:material/warning: {amount(told['patients'], 'validation patient')} are too few to promise "
            f"{' or '.join(small)} of 100.]"
        )
    st.caption(
        "Instead of one class it may name all that are likely enough. Chosen on the validation scans; it holds "
        "for scans that come as those came (split conformal sets), whatever its confidences are worth."
    )


def kept_promise(row: Mapping[str, Any]) -> bool:
    """Whether the test side leaves it possible that a level of sets holds the truth as often as was said."""
    high = row["coverage"]["high"]
    return high is None or high >= row["level"]


def kept_silent(found: Mapping[str, Any]) -> None:
    """The share that is right among the surest answers, over how many are answered."""
    told = found["silence"]
    lines(
        [("right", told["answered"], told["right"])],
        key="silence",
        x_title="Share of scans that it answers, the surest first",
        y_title="Share of those that is right",
        x_range=(0, 1.02),
        y_range=(max(0.0, min(told["right"]) - 0.05), 1.01),
    )
    st.caption('If it is let to say "I do not know" where it is least sure, the rest should be more often right.')


# -- boxes ------------------------------------------------------------------------------------------------------------


def froc(found: Mapping[str, Any]) -> None:
    """Sensitivity against false alarms an image, with the band over patients."""
    import plotly.graph_objects as go

    curve = found["froc"]["curve"]
    x, colour = curve["false_alarms"], charts.palette()[0]
    figure = go.Figure()
    if all(v is not None for v in (*curve["low"], *curve["high"])):
        figure.add_scatter(
            x=[*x, *reversed(x)],
            y=[*curve["high"], *reversed(curve["low"])],
            fill="toself",
            fillcolor=_BAND,
            line={"width": 0},
            hoverinfo="skip",
            name="95 % interval",
        )
    figure.add_scatter(x=x, y=curve["sensitivity"], mode="lines", line={"color": colour, "width": 2}, name="FROC")
    at = {float(rate): row for rate, row in found["froc"]["at"].items() if row["value"] is not None}
    figure.add_scatter(
        x=list(at), y=[row["value"] for row in at.values()], mode="markers", marker={"color": colour}, name="read off"
    )
    figure.update_layout(
        height=320,
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        xaxis={"title": "False alarms an image", "type": "log", "tickvals": [0.125, 0.25, 0.5, 1, 2, 4, 8, 16]},
        yaxis={"title": f"Lesions found (IoU {found['froc']['iou']:g})", "range": [0, 1.02]},
        showlegend=False,
    )
    told = ", ".join(f"{row['value']:.2f} at {rate:g}" for rate, row in at.items())
    st.plotly_chart(figure, key="froc", config={"displayModeBar": False}, alt=f"Sensitivity by false alarms: {told}")


def shown_from(found: Mapping[str, Any]) -> None:
    """The score from which boxes are shown, and by whom it was chosen."""
    point = found["operating_point"]
    if point.get("threshold") is None:
        return
    st.caption(f"Boxes are shown from a score of {point['threshold']:.2f} on, {chosen_by(point)}.")


def by_size(found: Mapping[str, Any]) -> None:
    """Sensitivity for small, medium and large lesions."""
    sizes, metrics = found["sizes"], found["metrics"]
    bounds = sizes.get("bounds_px")
    names = ("small", "medium", "large")
    counts = sizes.get("n") or {}
    told = dict(zip(names, counts, strict=False)) if isinstance(counts, list) else counts
    words = {name: name for name in names}
    if bounds:
        low, high = bounds
        words = {"small": f"small, under {low:.0f} px", "medium": "medium", "large": f"large, from {high:.0f} px"}
    bars_with_intervals(
        {
            f"{words[name]} ({told.get(name, 0)})": metrics.get(f"sensitivity_{name}")
            for name in names
            if metrics.get(f"sensitivity_{name}")
        },
        key="by-size",
        y_title="Sensitivity",
    )


def bars_with_intervals(rows: Mapping[str, Mapping[str, Any]], *, key: str, y_title: str) -> None:
    """Draws bars with the reach of their intervals; what is undefined has none."""
    import plotly.graph_objects as go

    known = {name: row for name, row in rows.items() if row.get("value") is not None}
    figure = go.Figure(
        go.Bar(
            x=[escape(name) for name in known],
            y=[row["value"] for row in known.values()],
            marker={"color": charts.palette()[0], "cornerradius": 3},
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [_reach(row, "high") for row in known.values()],
                "arrayminus": [_reach(row, "low") for row in known.values()],
                "color": "#8a94a6",
            },
        )
    )
    figure.update_layout(
        height=260,
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        xaxis={"type": "category"},
        yaxis={"title": y_title, "rangemode": "tozero"},
        bargap=0.4,
    )
    told = ", ".join(f"{name} {row['value']:.2f}" for name, row in known.items())
    st.plotly_chart(figure, key=key, config={"displayModeBar": False}, alt=f"{y_title}: {told}")


def _reach(row: Mapping[str, Any], end: str) -> float:
    return 0.0 if row.get(end) is None else abs(float(row[end]) - float(row["value"]))


# -- outlines ---------------------------------------------------------------------------------------------------------


def empty_cases(found: Mapping[str, Any]) -> None:
    """Cases with and without lesion, told apart."""
    st.caption(
        f"{amount(found['with_lesion'], 'case')} with a lesion, {found['without_lesion']} without. Overlap is measured "
        "on those with one; those without are told by what is outlined in them all the same."
    )
    listed = found.get("false_positives") or ()
    if listed:
        st.caption(
            "Outlined where nothing is: "
            + ", ".join(f"{_size_words(row)}" for row in listed[:6])
            + (f" and {len(listed) - 6} more" if len(listed) > 6 else "")
            + "."
        )


def _size_words(row: Mapping[str, Any]) -> str:
    return f"{row['ml']:.2f} ml" if row.get("ml") is not None else amount(int(row.get("voxels", 0)), "pixel")


def overlap(found: Mapping[str, Any]) -> None:
    """How the Dice of the cases is spread; the quartiles in words where single cases are not told."""
    values = [v for v in (found.get("cases") or {}).get("dice", ()) if v is not None]
    if values:
        counts, edges = np.histogram(values, bins=np.linspace(0, 1, 11))
        named = {f"{a:.1f}–{b:.1f}": {"Cases": int(n)} for a, b, n in zip(edges, edges[1:], counts, strict=False)}
        charts.bars(named, key="dice-spread", x_title="Dice of a case", y_title="Cases")
    told = [
        (metric_words(name), " · ".join(written(v) for v in row))
        for name, row in (found.get("quartiles") or {}).items()
        if row
    ]
    if told:
        st.caption("Lower quarter, middle and upper quarter of the cases:")
        pairs(told, figures=True)


def volumes(found: Mapping[str, Any]) -> None:
    """Bland and Altman: the difference of volumes against their mean, one point a case (Lancet 1986)."""
    import plotly.graph_objects as go

    rows = found.get("cases") or {}
    pairs_of = [
        (a, b)
        for a, b in zip(rows.get("volume_ml", ()), rows.get("answered_ml", ()), strict=False)
        if a is not None and b is not None
    ]
    if len(pairs_of) < 3:
        st.caption("Too few cases with a known volume for a picture.")
        return
    true, answered = (np.array(column, float) for column in zip(*pairs_of, strict=True))
    difference, mean = answered - true, (answered + true) / 2
    middle, spread = float(difference.mean()), 1.96 * float(difference.std(ddof=1))
    colours = charts.palette()
    figure = go.Figure(go.Scatter(x=mean, y=difference, mode="markers", marker={"color": colours[0]}, name="a case"))
    for at, words in ((middle, "mean"), (middle - spread, "-1.96 SD"), (middle + spread, "+1.96 SD")):
        figure.add_hline(y=at, line={"color": colours[1], "dash": "solid" if words == "mean" else "dash", "width": 1})
        figure.add_annotation(x=1, xref="paper", xanchor="right", y=at, yanchor="bottom", text=words, showarrow=False)
    figure.update_layout(
        height=300,
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        xaxis={"title": "Mean of true and answered volume (ml)"},
        yaxis={"title": "Answered - true (ml)"},
        showlegend=False,
    )
    st.plotly_chart(figure, key="bland-altman", config={"displayModeBar": False}, alt="Volumes, answered against true")
    st.caption(
        f"On average {middle:+.2f} ml; 95 % of the cases lie between {middle - spread:.2f} and "
        f"{middle + spread:.2f} ml of the truth (Bland and Altman)."
    )


# -- pictures ---------------------------------------------------------------------------------------------------------


def against_baselines(found: Mapping[str, Any]) -> None:
    """Each figure beside those of the input as it is and of plain filters: a table a window, one in stored values."""
    unit = f" {found['unit']}" if found.get("unit") else ""
    for number, (window, told) in enumerate(found["windows"].items()):
        st.markdown(f"**Window: {plain(window)}** ({told['low']:g} to {told['high']:g}{unit})")
        st.dataframe(
            [
                {"Picture": _way_words(way)}
                | {metric_words(key): interval(row[key]) for key in ("psnr_db", "ssim")}
                | {metric_words("gain_db"): "" if way == _OUTPUT else interval(row["gain_db"])}
                for way, row in told["ways"].items()
            ],
            hide_index=True,
            key=f"baselines-{number}",
        )
    st.markdown(f"**In stored values{f' ({plain(unit.strip())})' if unit else ''}**")
    keys = ("rmse", "bias", "noise_std", "noise_frequency", "edge_px")
    tissues = found.get("tissue_bias") or {}
    st.dataframe(
        [
            {"Picture": _way_words(way)}
            | {metric_words(key): interval(row[key]) for key in keys}
            | {f"Bias, {tissue}": interval(value) for tissue, value in (tissues.get(way) or {}).items()}
            | {"Setting, chosen on validation": row["setting"]}
            for way, row in found["ways"].items()
        ],
        hide_index=True,
        key="baselines-stored",
    )


_OUTPUT, _INPUT, _TRUE = "output", "input", "true"
_WAYS = {_OUTPUT: "This network", _INPUT: "The input as it is", _TRUE: "The good scan"}


def _way_words(name: str) -> str:
    return _WAYS.get(name) or f"{name[0].upper()}{name[1:]} filter".replace("means filter", "means")


def by_image(found: Mapping[str, Any]) -> None:
    """How a figure is spread over the pictures, for the network, the input and the filters."""
    import plotly.graph_objects as go

    colours = charts.palette()
    for number, (figure_name, rows) in enumerate(found["per_picture"].items()):
        made = go.Figure(
            [
                go.Box(
                    y=[v for v in values if v is not None],
                    name=_way_words(name),
                    marker={"color": colours[k % len(colours)]},
                )
                for k, (name, values) in enumerate(rows.items())
            ]
        )
        made.update_layout(
            height=280,
            margin={"l": 8, "r": 8, "t": 8, "b": 8},
            yaxis={"title": metric_words(figure_name)},
            showlegend=False,
        )
        words = f"{metric_words(figure_name)} over the pictures"
        st.plotly_chart(made, key=f"per-picture-{number}", config={"displayModeBar": False}, alt=words)


def noise(found: Mapping[str, Any]) -> None:
    """The noise where the scan is flat, frequency by frequency, and the width of edges."""
    told, best = found["noise_power"], found.get("best_baseline")
    at = told["cycles_per_px"]
    drawn = []
    for way in filter(None, (_OUTPUT, _INPUT, _TRUE, best)):
        values = told["ways"].get(way) or ()
        if any(value is not None for value in values):
            drawn.append((_way_words(way), at, values))
    if drawn:
        lines(drawn, key="spectrum", x_title="Frequency (cycles a pixel)", y_title="Noise power", log_y=True)
    else:
        st.caption("No part of these scans is flat enough to measure noise in.")
    said, metrics = [], found["metrics"]
    left, edges = ((metrics.get(name) or {}).get("value") for name in ("noise_ratio", "edge_ratio"))
    if left is not None:
        said.append(f"{100 * left:.0f} % of the input's noise is left{_own_unrest(found)}.")
    if edges is not None:
        wider = f"{100 * abs(edges - 1):.0f} % {'wider' if edges >= 1 else 'narrower'} than"
        said.append(f"Edges are {'as wide as' if abs(edges - 1) < 0.005 else wider} in the good scans.")
    if said:
        st.caption(" ".join(said))


def _own_unrest(found: Mapping[str, Any]) -> str:
    """How uneven the good scans are themselves in those places: noise of their own, or a texture that no figure tells
    from noise. Beside it, what is left can be read: more is noise that stayed, less is texture that went."""
    good, came = ((found["ways"].get(way, {}).get("noise_std") or {}).get("value") for way in (_TRUE, _INPUT))
    return (
        f"; the good scans themselves have {100 * good / came:.0f} % of it, as noise or texture"
        if good and came
        else ""
    )


# -- the parts of a report --------------------------------------------------------------------------------------------


def lines(
    drawn: Sequence[tuple[str, Sequence[float], Sequence[float]]],
    *,
    key: str,
    x_title: str,
    y_title: str,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    diagonal: bool = False,
    points: Mapping[str, tuple[float, float]] | None = None,
    mode: str = "lines",
    log_y: bool = False,
    height: int = 320,
) -> None:
    """Draws finished curves."""
    import plotly.graph_objects as go

    colours = charts.palette()
    figure = go.Figure()
    if diagonal:
        figure.add_scatter(
            x=[0, 1], y=[0, 1], mode="lines", line={"color": "#8a94a6", "dash": "dot", "width": 1}, hoverinfo="skip",
            showlegend=False,
        )  # fmt: skip
    for number, (name, x, y) in enumerate(drawn):
        colour = colours[number % len(colours)]
        figure.add_scatter(x=list(x), y=list(y), mode=mode, name=escape(name), line={"color": colour, "width": 2})
        if points and name in points:
            figure.add_scatter(
                x=[points[name][0]], y=[points[name][1]], mode="markers", marker={"color": colour, "size": 10},
                name=escape(name), showlegend=False,
            )  # fmt: skip
    figure.update_layout(
        height=height,
        margin={"l": 8, "r": 8, "t": 8, "b": 8},
        xaxis={"title": x_title, **({"range": list(x_range)} if x_range else {})},
        yaxis={
            "title": y_title,
            **({"range": list(y_range)} if y_range else {}),
            **({"type": "log", "dtick": 1} if log_y else {}),
        },
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"},
        showlegend=len(drawn) > 1,
    )
    st.plotly_chart(figure, key=key, config={"displayModeBar": False}, alt=f"{y_title} by {x_title}")


def by_group(found: Mapping[str, Any]) -> None:
    """A row a group: by people, scanner and site, by lesion, by size, by how the file was made."""
    for words in found.get("groups_said", ()):
        worse = " than on the rest (" in words
        st.markdown(f":{'orange' if worse else 'gray'}[:material/{'warning' if worse else 'info'}: {plain(words)}]")
    shown = subgroups.shown(found["subgroups"])
    st.dataframe(
        [
            {
                "By": row["about"],
                "Group": row["name"],
                "Scans": row["n"],
                "Patients": row["patients"],
                **_of_group(row, shown),
            }
            for row in found["subgroups"]
        ],
        hide_index=True,
        key="subgroups",
        column_config={"Group": st.column_config.TextColumn(width=180)},
        height="content" if len(found["subgroups"]) <= 16 else 560,
    )
    st.caption(
        "In brackets 95 % intervals over patients. Beside the rest: how much higher (+) or lower (−) than on all other "
        "scans; an interval without 0 is more than chance. Groups of fewer than five patients are told as “other”, "
        "figures of fewer than ten scans or five patients are not told."
    )


def _of_group(row: Mapping[str, Any], shown: Sequence[str]) -> dict[str, str]:
    """The figures of a group in the columns of the table, the difference to the rest beside those told in words."""
    found = {}
    for name in shown:
        found[metric_words(name)] = interval(row[name]) if name in row else "too few"
        if name in subgroups.COMPARED:
            found[f"{metric_words(name)} beside the rest"] = _apart(row.get("rest", {}).get(name))
    return found


def _apart(figure: Mapping[str, float | None] | None) -> str:
    """ "−0.12 (−0.20 to −0.03)"; "" where there is nothing to compare with."""
    if not figure or figure["value"] is None:
        return ""
    value, low, high = (None if figure[k] is None else f"{figure[k]:+.3f}" for k in ("value", "low", "high"))
    return f"{value} ({low} to {high})".replace("-", "\u2212") if low is not None else str(value)


Section = tuple[str, str, Callable[[Mapping[str, Any]], None], bool]
SECTIONS: tuple[Section, ...] = (
    ("confusion", "Who was taken for whom", whom_for_whom, False),
    ("roc", "ROC curves", roc, False),
    ("calibration", "Is its confidence right?", calibration, False),
    ("operating_points", "Where it answers from", operating_points, True),
    ("sets", "When it names all that it may be", held, False),
    ("silence", "When it may keep silent", kept_silent, False),
    ("froc", "Lesions found against false alarms (FROC)", froc, False),
    ("sizes", "By size of the lesion", by_size, False),
    ("operating_point", "From which score on", shown_from, False),
    ("quartiles", "Case by case", overlap, False),
    ("cases", "Volumes", volumes, False),
    ("with_lesion", "Cases without a lesion", empty_cases, False),
    ("noise_power", "What became of noise and edges", noise, False),
    ("per_picture", "Picture by picture", by_image, False),
    ("windows", "Beside the input and plain filters", against_baselines, True),
    ("per_class", "Class by class", per_class, True),
    ("subgroups", "Group by group", by_group, True),
)
"""(key of the report, title, what draws it, whether it takes the whole width), in the order of the page."""
