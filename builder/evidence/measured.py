"""The results of a report: each part of an evaluation as tables and figures, whatever task it is of.

A part that is not known here (of a newer measure) is told as plain tables, so none is ever left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from builder.evidence import chapters, charts, markup
from builder.evidence.words import shown as interval
from builder.measures.named import chosen_by, metric_words, written

Found = Mapping[str, Any]
_WAYS = {"output": "This network", "input": "The input as it is", "true": "The good scan"}
_ABREAST = 4  # classes that stand beside each other on a page
_TOLD = (
    "run", "split", "task", "n", "patients", "dataset", "edited", "synthetic", "checkpoint", "at", "openings",
    "interval", "notes", "classes", "lesions", "without_lesions", "majority_accuracy", "majority_class",
    "without_lesion", "unit", "best_baseline", "examples", "typed", "ways", "tissue_bias", "groups_said",
)  # fmt: skip
"""Entries that are told elsewhere in the report."""


def everything(found: Found) -> str:
    """All parts of an evaluation, in the order of the page."""
    outlines = found.get("outlines") or {}
    whole = {**outlines, **found}
    if outlines:  # two answers at once: the figures of the outline have a table of their own
        whole["outline_metrics"] = outlines.get("metrics")
    parts = []
    for name, value in _ordered(whole):
        if name in _TOLD or name == "outlines" or not value:
            continue
        title, draw = _PARTS.get(name, (metric_words(name), lambda told, _, n=name: markup.other(told[n])))  # type: ignore[misc]
        inside = draw(whole, value)
        if inside:
            parts.append(markup.h3(title) + inside)
    return "".join(parts)


def summary(found: Found, baseline: Found | None) -> str:
    """Every overall figure with its interval, beside what needs no learning."""
    test = (baseline or {}).get("test") or {}
    rows = []
    for name, figure in found["metrics"].items():
        beside = (test.get("metrics") or {}).get(name)
        row: list[Any] = [metric_words(name), interval(figure)]
        rows.append([*row, interval(beside) if beside else ""] if test else row)
        if name == "accuracy" and found.get("majority_accuracy") is not None:
            who = f' ("{found["majority_class"]}")' if found.get("majority_class") else ""
            row = [f"Always the commonest class{who}", written(found["majority_accuracy"])]
            rows.append([*row, ""] if test else row)
    head = ["Figure", "Value (95 % interval)", *(["Frozen features, no training"] if test else [])]
    shares = [(metric_words(n), f) for n, f in found["metrics"].items() if _share(f)]
    drawn = charts.intervals(shares, "Value, with its 95 % interval over patients", x_range=(0.0, 1.0))
    return markup.table(head, rows) + markup.figure(drawn if len(shares) > 1 else "")


def _share(figure: Found) -> bool:
    ends = [figure[end] for end in ("value", "low", "high") if figure.get(end) is not None]
    return bool(ends) and all(0 <= v <= 1 for v in ends)


def _ordered(whole: Found) -> list[tuple[str, Any]]:
    known = [name for name in _PARTS if name in whole]
    return [(name, whole[name]) for name in [*known, *(n for n in whole if n not in _PARTS and n != "metrics")]]


# -- classes ----------------------------------------------------------------------------------------------------------


def _confusion(found: Found, counts: Any) -> str:
    if not isinstance(counts[0][0], list):
        return markup.figure(
            charts.matrix(found["classes"], counts), "Each field: number of cases; darker is more of its row."
        )
    rows = [[n, tp, fn, fp, tn] for n, ((tn, fp), (fn, tp)) in zip(found["classes"], counts, strict=True)]
    return markup.table(["Label", "Found", "Missed", "False alarms", "Rightly not named"], rows)


def _roc(found: Found, told: Any) -> str:
    points = {
        name: (1 - row["specificity"]["value"], row["sensitivity"]["value"])
        for name, row in (found.get("operating_points") or {}).items()
        if row and row["specificity"]["value"] is not None and row["sensitivity"]["value"] is not None
    }
    drawn = charts.lines(
        [(name, row["fpr"], row["tpr"]) for name, row in told.items() if row], "1 - specificity", "Sensitivity",
        x_range=(0, 1), y_range=(0, 1.02), diagonal=True, marks=points,
    )  # fmt: skip
    return markup.figure(drawn, "Dots: the thresholds that the validation side chose." if points else "")


def _calibration(found: Found, told: Any) -> str:
    rows = [("As it answers", told["given"]), ("Calibrated", told.get("tempered"))]
    series = [(n, row["reliability"]["confidence"], row["reliability"]["right"]) for n, row in rows if row]
    drawn = charts.lines(
        series, "Confidence", "Share that is right", x_range=(0, 1), y_range=(0, 1.02), diagonal=True, dots=True
    )
    more = {k: v for k, v in told.items() if k not in ("given", "tempered", "temperature") and v is not None}
    temperature = written(told["temperature"]) if told.get("temperature") else "not fitted"
    table = markup.table(
        ["", "Brier score", "Calibration error"],
        [[n, written(row["brier"]), written(row["ece"])] for n, row in rows if row],
    )
    words = markup.p(f"Temperature, fitted on the validation side: {temperature}.", "faint")
    return markup.figure(drawn) + table + words + (markup.other(more) if more else "")


def _operating_points(found: Found, told: Any) -> str:
    if not isinstance(told, Mapping):
        return ""
    keys = ("sensitivity", "specificity", "ppv", "npv")
    rows = [
        [
            name,
            f"{100 * row['threshold']:.1f} %",
            *(interval(row[key]) for key in keys),
            _rest(row["ppv"]),
            _rest(row["npv"]),
        ]
        for name, row in told.items()
        if row
    ]
    head = [
        "Class",
        "Answered from",
        *(metric_words(key) for key in keys),
        "False-discovery rate",
        "False-omission rate",
    ]
    words = "Chosen on the validation scans (sensitivity + specificity at its highest), measured on the test scans."
    return markup.table(head, rows) + (markup.p(words, "faint") if rows else "")


def _rest(figure: Found) -> str:
    """What is left to 1, with its interval."""
    ends = {"value": figure.get("value"), "low": figure.get("high"), "high": figure.get("low")}
    return interval({end: None if v is None else 1 - v for end, v in ends.items()})


def _per_class(found: Found, told: Any) -> str:
    names = list(dict.fromkeys(key for row in told.values() for key in row if key != "n"))
    order = sorted(names, key=lambda name: {"auc": 0, "map50": 0, "f1": 2}.get(name, 1))
    if len(told) <= _ABREAST:  # a class a column: as wide as a page
        rows = [[metric_words(key), *(interval(row.get(key)) for row in told.values())] for key in order]
        return markup.table(["", *told], [["Number", *(row["n"] for row in told.values())], *rows])
    rows = [[name, row["n"], *(interval(row.get(key)) for key in order)] for name, row in told.items()]
    return markup.table(["Class", "Number", *(metric_words(key) for key in order)], rows)


def _sets(found: Found, told: Any) -> str:
    rows = [
        [
            f"{100 * row['level']:.0f} of 100",
            interval(row["coverage"]),
            f"{row['size']:.2f}",
            interval(row["right_when_single"]),
        ]
        for row in told["levels"]
        if row.get("limit") is not None
    ]
    words = (
        "Sets of classes that hold the truth as often as is promised (split conformal), chosen on the validation side."
    )
    return markup.table(["Promised", "Held here", "Classes named", "Right, if one"], rows) + markup.p(words, "faint")


def _silence(found: Found, told: Any) -> str:
    low = max(0.0, min(v for v in told["right"] if v is not None) - 0.05)
    return markup.figure(
        charts.lines(
            [("right", told["answered"], told["right"])],
            "Share of scans that it answers, the surest first",
            "Share of those that is right",
            x_range=(0, 1.02),
            y_range=(low, 1.01),
        )  # fmt: skip
    )


# -- boxes ------------------------------------------------------------------------------------------------------------


def _froc(found: Found, told: Any) -> str:
    curve = told["curve"]
    whole = all(v is not None for v in (*curve["low"], *curve["high"]))
    drawn = charts.lines(
        [("FROC", curve["false_alarms"], curve["sensitivity"])], "False alarms an image",
        f"Lesions found (IoU {told['iou']:g})", y_range=(0, 1.02), log_x=True, x_ticks=(0.125, 0.25, 0.5, 1, 2, 4, 8),
        band=(curve["false_alarms"], curve["low"], curve["high"]) if whole else None,
    )  # fmt: skip
    rows = [[f"{float(rate):g}", interval(row)] for rate, row in told["at"].items()]
    return markup.figure(drawn, "Grey: the 95 % interval." if whole else "") + markup.table(
        ["False alarms an image", "Sensitivity"], rows
    )


def _point(found: Found, told: Any) -> str:
    if told.get("threshold") is None:
        return ""
    return markup.p(f"Boxes are shown from a score of {told['threshold']:.3f} on, {chosen_by(told)}.")


def _sizes(found: Found, told: Any) -> str:
    metrics, counts = found["metrics"], told.get("n") or {}
    rows = [
        (
            f"{name} ({counts.get(name, 0) if isinstance(counts, Mapping) else ''})",
            metrics.get(f"sensitivity_{name}") or {},
        )
        for name in ("small", "medium", "large")
    ]
    drawn = charts.intervals(rows, "Sensitivity", x_range=(0.0, 1.0))
    return markup.figure(drawn, f"Size: {told['rule']}." if told.get("rule") else "")


def _listed(found: Found, told: Any) -> str:
    """Cases by their ids: the places of a gallery, without pictures."""
    names = [n for n in ("case", "slice", "class", "size_px", "score", "dice", "ml", "voxels", "psnr_db", "gain_db")]
    names = [n for n in names if any(n in row for row in told)]
    rows = [[row.get(n) for n in names] for row in told[:24]]
    return markup.table([metric_words(n) for n in names], rows)


# -- outlines ---------------------------------------------------------------------------------------------------------


def _outline_metrics(found: Found, told: Any) -> str:
    return markup.table(
        ["Figure", "Value (95 % interval)"], [[metric_words(name), interval(figure)] for name, figure in told.items()]
    )


def _quartiles(found: Found, told: Any) -> str:
    rows = [[metric_words(name), *(written(v) for v in row)] for name, row in told.items() if row]
    spread = [v for v in (found.get("cases") or {}).get("dice", ()) if v is not None]
    drawn = ""
    if spread:
        counts, edges = np.histogram(spread, bins=np.linspace(0, 1, 11))
        named = [(f"{a:.1f}–{b:.1f}", int(n)) for a, b, n in zip(edges, edges[1:], counts, strict=False)]
        drawn = charts.bars(named, "Dice of a case", "Cases")
    return markup.figure(drawn) + markup.table(["Case by case", "Lower quarter", "Middle", "Upper quarter"], rows)


def _volumes(found: Found, told: Any) -> str:
    pairs = [
        (a, b)
        for a, b in zip(told.get("volume_ml", ()), told.get("answered_ml", ()), strict=False)
        if a is not None and b is not None
    ]
    if len(pairs) < 3:
        return ""
    true, answered = (np.array(column, float) for column in zip(*pairs, strict=True))
    difference = answered - true
    middle, reach = float(difference.mean()), 1.96 * float(difference.std(ddof=1))
    drawn = charts.lines(
        [("a case", ((true + answered) / 2).tolist(), difference.tolist())], "Mean of true and answered volume (ml)",
        "Answered - true (ml)", joined=False,
        levels=[(middle, "mean"), (middle - reach, "-1.96 SD"), (middle + reach, "+1.96 SD")],
    )  # fmt: skip
    words = (
        f"On average {middle:+.2f} ml; 95 % lie between {middle - reach:.2f} and {middle + reach:.2f} ml of the truth."
    )
    return markup.figure(drawn, f"{words} (Bland and Altman, Lancet 1986.)")


def _empty(found: Found, told: Any) -> str:
    return markup.p(
        f"{told} cases with a lesion, {found.get('without_lesion', 0)} without. Overlap is measured on those with one; "
        "those without are told by what is outlined in them all the same."
    )


# -- pictures ---------------------------------------------------------------------------------------------------------


def _way(name: str) -> str:
    return _WAYS.get(name) or f"{name[0].upper()}{name[1:]} filter".replace("means filter", "means")


def _windows(found: Found, told: Any) -> str:
    unit, parts = f" {found['unit']}" if found.get("unit") else "", []
    for window, row in told.items():
        parts.append(markup.p(f"Window: {window} ({row['low']:g} to {row['high']:g}{unit})"))
        head = ["Picture", *(metric_words(key) for key in ("psnr_db", "ssim", "gain_db"))]
        rows = [
            [
                _way(way),
                interval(r["psnr_db"]),
                interval(r["ssim"]),
                "" if way == "output" else interval(r.get("gain_db")),
            ]
            for way, r in row["ways"].items()
        ]
        parts.append(markup.table(head, rows))
    keys, tissues = ("rmse", "bias", "noise_std", "noise_frequency", "edge_px"), found.get("tissue_bias") or {}
    named = list(dict.fromkeys(tissue for row in tissues.values() for tissue in row))
    columns = {
        _way(way): [
            *(interval(row[key]) for key in keys),
            *(interval((tissues.get(way) or {}).get(tissue)) for tissue in named),
            row["setting"],
        ]
        for way, row in (found.get("ways") or {}).items()
    }  # fmt: skip
    titles = [*(metric_words(k) for k in keys), *(f"Bias, {t}" for t in named), "Setting, chosen on validation"]
    rows = [[title, *cells] for title, *cells in zip(titles, *columns.values(), strict=True)]
    return "".join(parts) + markup.p(f"In stored values{unit}") + markup.table(["", *columns], rows)


def _noise(found: Found, told: Any) -> str:
    drawn = [
        (way, told["ways"].get(way) or ()) for way in ("output", "input", "true", found.get("best_baseline") or "")
    ]
    series = [(_way(way), told["cycles_per_px"], values) for way, values in drawn if any(v is not None for v in values)]
    if not series:
        return markup.p("No part of these scans is flat enough to measure noise in.")
    return markup.figure(charts.lines(series, "Frequency (cycles a pixel)", "Noise power", log_y=True))


def _per_picture(found: Found, told: Any) -> str:
    return markup.beside(
        *(
            markup.figure(charts.spread({_way(way): values for way, values in rows.items()}, metric_words(name)))
            for name, rows in told.items()
        )
    )


_PARTS: dict[str, tuple[str, Callable[[Found, Any], str]]] = {
    "per_class": ("Class by class", _per_class),
    "confusion": ("Who was taken for whom", _confusion),
    "roc": ("ROC curves", _roc),
    "operating_points": ("Where it answers from", _operating_points),
    "calibration": ("Is its confidence right?", _calibration),
    "subgroups": ("Group by group", chapters.subgroups),
    "sets": ("When it names all that it may be", _sets),
    "silence": ("When it may keep silent", _silence),
    "froc": ("Lesions found against false alarms (FROC)", _froc),
    "sizes": ("By size of the lesion", _sizes),
    "operating_point": ("From which score on", _point),
    "outline_metrics": ("The outlines", _outline_metrics),
    "with_lesion": ("Cases without a lesion", _empty),
    "quartiles": ("Case by case", _quartiles),
    "cases": ("Volumes", _volumes),
    "windows": ("Beside the input and plain filters", _windows),
    "noise_power": ("What became of the noise", _noise),
    "per_picture": ("Picture by picture", _per_picture),
    "undefined": ("Cases where a figure is undefined", lambda found, told: markup.other(told)),
    "tolerance": ("Tolerance of the surface Dice", lambda found, told: markup.other(told)),
    "misses": ("Lesions that were missed, the gravest first", _listed),
    "false_alarms": ("False alarms, the surest first", _listed),
    "worst": ("The worst outlines", _listed),
    "false_positives": ("Outlined where nothing is", _listed),
    "worst_images": ("The worst pictures", _listed),
}
"""{entry of an evaluation: (title, what tells it)}, in the order of the page."""
