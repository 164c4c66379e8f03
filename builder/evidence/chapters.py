"""The chapters of a report on what was asked besides figures: leaks and shortcuts, what the network goes by, its
confidence and gate, what it makes up, and who read beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from builder.blanking import PROBES
from builder.evidence import charts, markup
from builder.evidence.asked import KINDS
from builder.evidence.facts import Facts
from builder.evidence.words import shown as interval
from builder.gate import GROUNDS
from builder.hallucination import WAYS
from builder.measures.named import metric_words, written
from builder.measures.structures import KINDS as STRUCTURES
from builder.saliency import METHODS
from builder.subgroups import COMPARED, shown
from builder.task import find
from builder.terms import GATES

_SIDES = {"val": "Validation", "test": "Test"}
_READERS = {"alone": "Reader alone", "model": "Network alone", "with_model": "Reader with the network"}
_TRACES = {"made": "How a file was made, alone", "border": "The border of the picture, alone"}
_PAIRS = {
    "same": "the same picture",
    "near": "almost the same picture",
    "turned": "turned, mirrored, resized or recompressed copies",
    "seen": "alike to a network",
}


def asked(found: Facts, name: str) -> dict[str, Any]:
    """What was found by one of `asked.KINDS`; {} where nobody asked, as in packs of earlier versions."""
    return dict((found.get("asked") or {}).get(name) or {})


def leaks(found: Facts) -> str:
    """Who is on two sides, what gives the label away, what a random split would have claimed, the number to beat."""
    data = found["data"]
    twins = data.get("duplicates") or {}
    rows = [
        ("Patients on more than one side", data.get("num_patients_astride", 0)),
        ("Groups of equal pictures", twins.get("exact", 0)),
        ("Groups of almost equal pictures", twins.get("near", 0)),
        ("Groups that lie on more than one side", twins.get("across_splits", 0)),
        ("Groups with different labels", twins.get("label_conflicts", 0)),
    ]
    return markup.h3("Seen at the import") + markup.pairs(rows) + _audit(asked(found, "audit")) + _baseline(found)


def _audit(told: Mapping[str, Any]) -> str:
    if not told:
        return ""
    counts = told["leak"]["counts"]
    parts = [markup.h3("The audit of the data")]
    parts += [markup.p(row["words"], "notice bad" if row["grave"] else "") for row in told["verdicts"]]
    rows = [[f"{words[0].upper()}{words[1:]}", counts.get(kind, 0)] for kind, words in _PAIRS.items()]
    rows += [["Of all these, on two sides of the split", counts.get("across", 0)]]
    rows += [["Of all these, with two labels", counts.get("conflicts", 0)]]
    parts.append(markup.table(["What looks alike", "Pairs"], rows))
    shortcuts = [(words, told["traces"][n]["auc"]) for n, words in _TRACES.items() if told["traces"].get(n)]
    shortcuts += [
        (str(row.get("title") or metric_words(n)), row.get("auc"))
        for n, row in told["traces"].items()
        if n not in _TRACES and isinstance(row, Mapping)
    ]
    measured = [(words, figure) for words, figure in shortcuts if figure and figure.get("value") is not None]
    if measured:
        parts.append(markup.p("Can the label be told without looking at the patient?"))
        parts.append(
            markup.figure(
                charts.intervals(
                    measured, "AUC of such a rule (0.5 is guessing)", x_range=(0.0, 1.0), upright=0.5
                )
            )
        )  # fmt: skip
        parts.append(markup.table(["Rule that sees only", "AUC"], [[w, interval(f)] for w, f in measured]))
    naive = told["naive"]
    if naive.get("naive") and naive.get("honest"):
        rows = [["A random split would have claimed", interval(naive["naive"])]]
        rows += [["Patients and copies kept apart", interval(naive["honest"])]]
        rows += [["Of the claim, memory", interval(naive["gain"])]] if naive.get("gain") else []
        parts.append(markup.table(["Frozen features, AUC", "Value (least and most of the repeats)"], rows))
    if told.get("relabelled"):
        parts.append(markup.p("Labels were corrected after this audit.", "notice"))
    return "".join(parts)


def _baseline(found: Facts) -> str:
    baseline = found.get("baseline") or {}
    if not baseline:
        return ""
    sides = [(_SIDES[s], baseline[s]) for s in ("val", "test") if baseline.get(s)]
    rows = [[title, metric_words(n), interval(f)] for title, side in sides for n, f in side["metrics"].items()]
    said = f"{baseline.get('features', '')}; chosen on the validation side: {baseline.get('chosen', '')}."
    return (
        markup.h3("The number to beat: frozen features, no training")
        + markup.p(said)
        + markup.table(["Side", "Figure", "Value (95 % interval)"], rows)
    )


def goes_by(found: Facts) -> str:
    """The probes with parts of the scans taken away, and whether its heat maps can be believed."""
    parts: list[str] = []
    probes = found["probes"]
    if blanked := probes.get("blanked"):
        parts.append(markup.h3("Parts of the scans taken away"))
        shown = [(PROBES[n].title, row["auc"]) for n, row in blanked["probes"].items() if n in PROBES]
        parts.append(
            markup.figure(
                charts.intervals(
                    shown, "AUC on the validation scans (0.5 is guessing)", x_range=(0.0, 1.0), upright=0.5
                )
            )
        )  # fmt: skip
        rows = [
            [PROBES[n].title, interval(r["auc"]), interval(r["accuracy"]), r["n"]]
            for n, r in blanked["probes"].items()
            if n in PROBES
        ]
        parts.append(markup.table(["Shown", "AUC", "Accuracy", "Cases"], rows))
        parts += [markup.p(said, "notice") for said in blanked["verdicts"]]
        if blanked.get("checkpoint") != found["hashes"]["weights"]:
            parts.append(markup.p("These probes were asked of earlier weights of the run.", "notice bad"))
    for name, told in probes.items():
        if name != "blanked" and told:
            parts.append(markup.h3(metric_words(name)) + markup.other(told))
    return "".join(parts) + _explained(asked(found, "explained"))


def _explained(told: Mapping[str, Any]) -> str:
    if not told:
        return ""
    parts = [
        markup.h3("Its heat maps: can they be believed?"),
        markup.p(
            "A map must change once the weights are taken away and stay where the scan moves by a few pixels. How like "
            f"each other two maps are (rank correlation, mean of {told['n']} validation scans) should be under 0.5 "
            "without weights, over 0.5 after a move. What passes may still be wrong."
        ),
    ]
    drawn = any(row.get("lesions") for row in told["methods"].values())
    rows = []
    for name, row in told["methods"].items():
        lesions = row.get("lesions")
        rows.append(
            [
                METHODS[name].title if name in METHODS else name,
                markup.state("passed", "answered") if row["ok"] else markup.state("failed: shown in grey", "open"),
                *(written(row["randomised"][k]) for k in ("last", "upper", "all")),
                written(row["shifted"]),
                *([interval(lesions["hit"])] if lesions else ["–"] if drawn else []),
            ]
        )
        if row["reason"]:
            parts.append(markup.p(f"{METHODS[name].title if name in METHODS else name}: {row['reason']}", "notice"))
    head = ["Map", "Tests", "No last layer", "No upper half", "No weights", "Moved"]
    return "".join(parts) + markup.table([*head, *(["Hottest place on a lesion"] if drawn else [])], rows)


def terms(found: Facts) -> str:
    """Its confidence, the terms on which it answers, and its gate."""
    return _confidence(asked(found, "confidence")) + _on_terms(asked(found, "terms")) + _gate(asked(found, "gate"))


def _confidence(told: Mapping[str, Any]) -> str:
    if not told:
        return ""
    calibration = told["calibration"]
    rows = [("As it answers", calibration["given"]), ("With its temperature", calibration.get("tempered"))]
    series = [(n, r["reliability"]["confidence"], r["reliability"]["right"]) for n, r in rows if r]
    drawn = [
        charts.lines(
            series, "Confidence", "Share that is right", x_range=(0, 1), y_range=(0, 1.02), diagonal=True, dots=True,
            width=380, height=270,
        )
    ]  # fmt: skip
    silence = told.get("silence") or {}
    if silence.get("given"):
        kept = silence.get("tempered") or silence["given"]
        known = [v for v in kept["right"] if v is not None]
        drawn.append(
            charts.lines(
                [("right", kept["answered"], kept["right"])], "Share of scans that it answers, the surest first",
                "Share of those that is right", x_range=(0, 1.02), y_range=(max(0.0, min(known) - 0.05), 1.01),
                width=380, height=270,
            )
        )  # fmt: skip
    table = [[name, written(row["brier"]), written(row["ece"])] for name, row in rows if row]
    said = f"{told['n']:,} validation scans of {told['patients']:,} patients, on which the temperature "
    said += (
        f"{written(calibration['temperature'])} was fitted. What it comes to on the test side stands in the results."
    )
    return (
        markup.h3("Is its confidence right?")
        + markup.p(said)
        + markup.beside(*(markup.figure(svg) for svg in drawn))
        + markup.table(["", "Brier score (0 is best)", "Calibration error (0 is best)"], table)
    )


def _on_terms(told: Mapping[str, Any]) -> str:
    if not told:
        return markup.h3("The terms on which it answers") + markup.p(
            "None were chosen: it answers every scan, with its probabilities as the network gives them, and says where "
            "a scan is unlike those of the training."
        )
    warm, limit = told["temperature"], told["limit"]
    rows = [
        ("Probabilities", f"temperature {warm:.3f}" if warm else "as the network gives them"),
        ("Answers", "every scan" if limit is None else f"from a confidence of {limit:.4f} on, else “I don't know”"),
        ("A scan unlike those of its training", GATES.get(told["gate"], told["gate"])),
    ]
    parts = [markup.h3("The terms on which it answers"), markup.pairs(rows)]
    if told.get("note"):
        parts.append(markup.p(told["note"], "notice"))
    if here := told.get("on_test"):
        rows = [("Test scans that it answers", interval(here["answered"])), ("Of those right", interval(here["right"]))]
        if limit is not None:
            rows.append(("Of those it keeps silent about, it would have been right", interval(here["silent_right"])))
        parts.append(markup.pairs(rows))
    return "".join(parts)


def _gate(told: Mapping[str, Any]) -> str:
    if not told:
        return ""
    sides = [("Its own validation scans, which it should let pass", told["own"])]
    sides += [(f"{row['name']}, which it should stop", row) for row in told.get("foreign") or ()]
    rows = [
        [
            words,
            row["n"],
            interval(row["stopped"]),
            "; ".join(f"{GROUNDS.get(name, name)} ({n})" for name, n in row["grounds"].items()) or "–",
        ]
        for words, row in sides
    ]
    return markup.h3("How often its gate stops what") + markup.table(
        ["Scans", "Looked at", "Stopped", "What for"], rows
    )


def common_errors(found: Facts) -> str:
    """Kinds of scans on which it errs more often than elsewhere."""
    told = asked(found, "common_errors")
    if not told:
        return ""
    sides = " and ".join({"val": "validation", "test": "test"}[side] for side in told["sides"])
    parts = [markup.h3("Have its errors something in common?")]
    parts.append(markup.p(f"{' '.join(told['looked'])} These are {sides} scans, put together by how alike they look."))
    for number, words in enumerate(told["words"]):
        group = told["groups"][number] if told["groups"] else None
        parts.append(markup.p(words, "notice bad" if group else "notice"))
        if group and group["shared"]:
            parts.append(markup.items(group["shared"]))
    if told["groups"]:
        rows = [
            [k, g["n"], g["patients"], g["wrong"], interval(g["rate"]), written(g["outside"]), written(g["p"])]
            for k, g in enumerate(told["groups"], 1)
        ]
        head = ["Group", "Scans", "Patients", "Badly answered", "Rate in it", "Rate elsewhere", "p"]
        parts.append(markup.table(head, rows))
        said = "The worst of many groups was picked: on new scans its rate will mostly be lower."
        parts.append(markup.p(said, "faint"))
    return "".join(parts)


def structures(found: Facts) -> str:
    """What an enhancer makes up or hides, and what a diagnosis says of its scans."""
    told, diagnosis, parts = asked(found, "structures"), asked(found, "diagnosis"), []
    if told:
        parts.append(
            markup.p(f"{told['n']:,} validation slices of {told['patients']:,} patients, restored and searched.")
        )
        parts += [markup.p(words, "notice bad" if words.startswith("It ") else "notice") for words in told["verdicts"]]
        rows = [[WAYS[way], *(interval(row[kind]) for kind in STRUCTURES)] for way, row in told["ways"].items()]
        titles = [kind.replace("_", " ").capitalize() for kind in STRUCTURES]
        parts.append(markup.table(["A slice, on average", *titles], rows))
        parts.append(markup.p("; ".join(f"{k.replace('_', ' ')}: {words}" for k, words in STRUCTURES.items()), "faint"))
    if diagnosis:
        parts.append(markup.h3("Is a diagnosis better on its scans?"))
        bad = diagnosis["verdict"] == "worse"
        parts.append(markup.p(diagnosis["words"], "notice bad" if bad else "notice"))
        rows2 = [["As they came", interval(diagnosis["before"])], ["Restored", interval(diagnosis["after"])]]
        rows2 += [["Difference", interval(diagnosis["gain"])]]
        parts.append(markup.table([f"Right answers of “{diagnosis['name']}”", "Share"], rows2))
    return "".join(parts)


def reading(found: Facts) -> str:
    """Readers alone, the network alone, and both together."""
    parts = []
    for told in asked(found, "readings").get("reports") or ():
        side = {"val": "validation", "test": "test"}[told["split"]]
        parts.append(markup.h3(f"Reading {told['reading']}: {told['cases']:,} scans of the {side} side"))
        people = [(row["reader"], row) for row in told["readers"]]
        if told.get("together"):
            people.append(("All readers, averaged", told["together"]))
        for who, row in people:
            parts.append(markup.p(f"{who}: {row['n']:,} scans of {row['patients']:,} patients, read to the end."))
            names = list(row["alone"])
            sides = list(_READERS)
            rows = [[_figure_words(n), *(interval(row[side].get(n)) for side in sides)] for n in names]
            parts.append(markup.table(["", *(_READERS[side] for side in sides)], rows))
            parts.append(markup.items(_differences(row)))
    if parts:
        said = "Readers saw neither label nor network before their first answer. 95 % intervals over patients: they "
        parts.insert(0, markup.p(f"{said}speak of other patients, not of other readers.", "faint"))
    return "".join(parts)


def _figure_words(name: str) -> str:
    kind, _, label = name.partition(" of ")
    return f"{metric_words(kind)} of {label}" if label else metric_words(name)


def _differences(row: Mapping[str, Any]) -> list[str]:
    """Of each pair the differences that count: of balanced accuracy, or of lesions found and false alarms."""
    names = ("balanced_accuracy", "sensitivity", "false_alarms_per_image")
    return [
        f"{metric_words(name)}: {figures[name]['words']}"
        for figures in row["differences"].values()
        for name in names
        if name in figures
    ]


def missing(found: Facts) -> str:
    """What nobody asked, and where it can be asked."""
    kind = find(found["task"]).label_kind
    skipped = {"structures", "diagnosis"} if kind != "picture" else {"confidence", "terms", "explained"}
    skipped |= {"confidence", "terms", "explained"} if kind == "boxes" else set()
    rows = [f"{KINDS[n].where}." for n in KINDS if n not in skipped and not asked(found, n)]
    if kind in ("class", "outline"):
        if not found["probes"].get("blanked"):
            rows.insert(1, "Probes with parts of the scans taken away (Results page, “What does it go by?”).")
        if not found.get("baseline"):
            rows.append("The baseline of frozen features (Data page, or the command baseline).")
    return markup.items(rows)


def subgroups(found: Mapping[str, Any], told: Sequence[Mapping[str, Any]]) -> str:
    """Figures group by group, whatever groups and figures were told, with their difference to the rest."""
    figures = shown(told)
    head = ["They differ in", "Group", "Cases", "Patients"]
    for name in figures:
        head += [metric_words(name), *(["Beside the rest"] if name in COMPARED else [])]
    rows = [
        [row.get("about", ""), row.get("name", ""), row.get("n"), row.get("patients"), *_of_group(row, figures)]
        for row in told
    ]
    said = [*(found.get("groups_said") or ()), *(str(row["words"]) for row in told if row.get("words"))]
    parts = [markup.p(words, "notice bad" if " than on the rest (" in words else "notice") for words in said]
    beside = "Beside the rest: how much higher (+) or lower (-) than on all other scans; an interval without 0 is more "
    beside += "than chance. Groups of fewer than ten scans or five patients are counted, and no figure is told of them."
    return "".join(parts) + markup.table(head, rows) + markup.p(beside, "faint")


def _of_group(row: Mapping[str, Any], figures: Sequence[str]) -> list[str]:
    """The cells of a group: each figure, and its difference to the rest where groups are compared by it."""
    cells = []
    for name in figures:
        cells.append(interval(row[name]) if row.get(name) else "too few")
        if name in COMPARED:
            apart = (row.get("rest") or {}).get(name)
            cells.append(f"{'+' if (apart['value'] or 0) > 0 else ''}{interval(apart)}" if apart else "–")
    return cells
