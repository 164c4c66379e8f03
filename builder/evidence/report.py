"""The report of a pack: one HTML file that opens without a network, runs no script, and prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

from builder.evidence import chapters, charts, flow, markup, measured, words
from builder.evidence.checklists import SOURCES, Filled, open_items
from builder.evidence.facts import Facts
from builder.evidence.words import shown as interval
from builder.measures.named import metric_words, written

_CHAPTERS = (
    ("results", "Results on the test side"),
    ("data", "Data: from files to sides"),
    ("recipe", "Recipe"),
    ("training", "Training"),
    ("operating", "Operating point"),
    ("leaks", "Leaks and shortcuts"),
    ("goes-by", "What it goes by"),
    ("terms", "Confidence, terms and gate"),
    ("structures", "What it makes up or hides"),
    ("reading", "Blind reading"),
    ("missing", "Not asked"),
    ("openings", "Looks at the test side"),
    ("card", "Model card"),
    ("methods", "Methods paragraph"),
    ("checklists", "Reporting checklists"),
    ("environment", "Environment"),
    ("hashes", "Hashes"),
)
_CURVES = {"lr": "Learning rate", "gradient": "Size of the gradient"}
_STATES = {"answered": "answered", "partly": "in part", "open": "open"}
_SIDES = {"train": "Training", "val": "Validation", "test": "Test"}


def html(found: Facts, lists: Mapping[str, Sequence[Filled]]) -> str:
    """The whole report."""
    bodies = {
        "results": _results(found),
        "data": _data(found),
        "recipe": _recipe(found),
        "training": _training(found),
        "operating": _operating(found),
        "leaks": chapters.leaks(found),
        "goes-by": chapters.goes_by(found) + chapters.common_errors(found),
        "terms": chapters.terms(found),
        "structures": chapters.structures(found),
        "reading": chapters.reading(found),
        "missing": chapters.missing(found),
        "openings": _openings(found),
        "card": _card(found),
        "methods": markup.p(words.methods(found))
        + markup.p("In square brackets: what only the authors know.", "faint"),
        "checklists": _checklists(lists),
        "environment": _environment(found),
        "hashes": _hashes(found),
    }
    contents = "".join(f'<li><a href="#{id}">{escape(title)}</a></li>' for id, title in _CHAPTERS if bodies[id])
    title = f"Evidence: {found['name']}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{markup.STYLE}</style></head><body><main>"
        + _head(found, title)
        + f"<nav><ol>{contents}</ol></nav>"
        + "".join(markup.section(id, title, bodies[id]) for id, title in _CHAPTERS)
        + "</main></body></html>\n"
    )


def _head(found: Facts, title: str) -> str:
    evaluation, data = found["evaluation"], found["data"]
    metrics = evaluation["metrics"]
    names = [found["headline"], *(n for n in metrics if n != found["headline"])]
    shown = [n for n in names if (metrics.get(n) or {}).get("value") is not None][:4]
    cards = "".join(markup.card(metric_words(n), interval(metrics[n])) for n in shown)
    tested = f"{evaluation['n']:,} scans of {evaluation['patients']:,} patients"
    return (
        f"<h1>{escape(title)}</h1>"
        + markup.p(f"{found['title']}, run {found['run']}. Made {found['made']} with ScanLoom.", "faint")
        + markup.p("Not for clinical use. For research and teaching; it is no medical device.", "notice")
        + (
            markup.p("Synthetic scans: no figure here says anything about patients.", "notice bad")
            if data.get("synthetic")
            else ""
        )
        + _own_sides(found)
        + f'<div class="key">{cards}{markup.card("on the test side, kept aside", tested)}</div>'
    )


def _own_sides(found: Facts) -> str:
    """What a run with sides of its own was measured on, and leaks between sides: said before any figure."""
    said: list[str] = []
    if found["came"]:
        what = found["came"].get("words") or "a part of the data"
        said.append(
            f"This run is {what}: its figures are of the scans held out of it, not of the data set's test side."
        )
    if found.get("leaky"):
        said.append(found["leaky"])
    return "".join(markup.p(words, "notice bad") for words in said)


def _results(found: Facts) -> str:
    evaluation = found["evaluation"]
    unseen = "." if found.get("leaky") else ", never seen in training."
    said = f"{evaluation['n']:,} scans of {evaluation['patients']:,} patients{unseen}"
    method = evaluation.get("interval") or {}
    shifted = [metric_words(n) for n in method.get("bias_corrected") or ()]
    how = f"{words.known(found)['uncertainty']}" + (f" Bias-corrected: {', '.join(shifted)}." if shifted else "")
    return (
        markup.p(said)
        + "".join(markup.p(note, "notice") for note in evaluation.get("notes") or ())
        + measured.summary(evaluation, found.get("baseline"))
        + markup.p(how, "faint")
        + measured.everything(evaluation)
    )


def _data(found: Facts) -> str:
    told, data = found["flow"], found["data"]
    names = {
        kind: list(dict.fromkeys(n for row in told["sides"].values() for n in row[kind]))
        for kind in ("classes", "boxes", "masks")
    }
    if not any(any(row["classes"].values()) for row in told["sides"].values()):
        names["classes"] = []
    head = ["Side", "Cases", "Used", "Patients", *names["classes"], *(f"boxes: {n}" for n in names["boxes"])]
    head += [f"outlined: {n}" for n in names["masks"]]
    rows = [
        [_SIDES[side], row["cases"], row["used"], row["patients"]]
        + [row[kind].get(n, 0) for kind in ("classes", "boxes", "masks") for n in names[kind]]
        for side, row in told["sides"].items()
    ]
    answers = words.known(found)
    reasons = [[row["status"], row["n"], row["reason"]] for row in told["reasons"]]
    return (
        markup.figure(flow.drawn(told), "Files, what became of them, and who is on which side.")
        + markup.h3("The split")
        + markup.p(f"{answers['partition']} {answers['disjoint']}")
        + markup.table(head, rows)
        + markup.h3("The scans")
        + markup.p(answers["acquired"])
        + markup.p(f"{answers['labels']} {answers['corrections']} {answers['missing']}")
        + "".join(markup.p(warning, "notice") for warning in data.get("warnings") or ())
        + (markup.h3("Files with a remark") + markup.table(["Became", "Files", "Why"], reasons) if reasons else "")
    )


def _recipe(found: Facts) -> str:
    parts = [markup.h3(title) + markup.pairs(rows) for title, rows in found["recipe"].items()]
    layers = found["layers"]
    rows = [
        [row["id"], row["layer"], row["settings"], row["from"], row["shape"], row["parameters"] or ""]
        for row in layers["rows"]
    ]
    said = f"Input {layers['input']}; {layers['parameters']:,} parameters; {layers['flops'] / 1e9:.3g} GFLOP a scan."
    return (
        "".join(parts)
        + markup.h3("Network")
        + markup.p(f"{said} Weights at the start: {found['beginning']}. It is drawn in network.svg.")
        + markup.table(["Layer", "Kind", "Settings", "Fed by", "What comes out", "Parameters"], rows)
    )


def _training(found: Facts) -> str:
    told = found["training"]
    curves: dict[str, list[tuple[str, Any, Any]]] = {}
    for name, (steps, values) in told["curves"].items():
        side, _, metric = name.partition("/")
        if side == "step" and metric == "loss":  # of single batches: they would hide the other two
            continue
        curves.setdefault(metric, []).append((side, steps, values))
    order = sorted(curves, key=lambda metric: (metric != "loss", metric != found["choices"]["monitor"], metric))
    drawn = [
        markup.figure(
            charts.lines(_sides(rows), "Step", _CURVES.get(metric, metric_words(metric)), width=440, height=270)
        )
        for metric, rows in ((metric, curves[metric]) for metric in order)
        if " of " not in metric
    ]
    best = told["best"]
    rows = [
        ("Ended as", told["status"]),
        ("Epochs", f"{told['epoch']} of {told['epochs']}"),
        (
            "Best",
            f"{metric_words(best['metric'].split('/')[-1])} {written(best['value'])} in epoch {best['epoch']}"
            if best
            else "–",
        ),
        ("Computing time", f"{told['seconds'] / 60:.1f} min"),
        ("Device", told["device"] or "not recorded"),
    ]
    return (
        markup.pairs(rows)
        + markup.beside(*drawn[:10])
        + (markup.p(f"{len(drawn) - 10} more curves are in pack.json.", "faint") if len(drawn) > 10 else "")
        + "".join(markup.p(warning, "notice") for warning in told["warnings"])
    )


def _sides(rows: Sequence[tuple[str, Any, Any]]) -> list[charts.Series]:
    """Training and validation first, in words."""
    named = {"train": "training", "val": "validation"}
    ordered = sorted(rows, key=lambda row: list(named).index(row[0]) if row[0] in named else 9)
    return [(named.get(side, side), steps, values) for side, steps, values in ordered]


def _operating(found: Facts) -> str:
    told = found.get("operating") or {}
    parts = []
    for label, row in told.items():
        parts.append(markup.h3(label))
        parts.append(
            markup.p(
                f"Answered from a probability of {row['threshold']:.3f} on. Told for people of whom "
                f"{100 * row['prevalence']:.3g} in 100 have it; one that is missed counts as much as "
                f"{row['cost']:g} false alarms."
            )
        )
        names = ("sensitivity", "specificity", "ppv", "npv", "false_discovery", "false_omission")
        titles = [*(metric_words(n) for n in names[:4]), "False-discovery rate", "False-omission rate"]
        rows = [
            [title, *(interval(row[s][name]) if row[s] else "–" for s in ("val", "test"))]
            for name, title in zip(names, titles, strict=True)
        ]
        parts.append(markup.table(["", "Validation (where it was chosen)", "Test"], rows))
        if row["test"]:
            n = row["test"]["people"]
            having = n["found"] + n["missed"]
            parts.append(
                markup.p(
                    f"Of 1,000 people {having} have it: {n['found']} are found, {n['missed']} missed. Of the other "
                    f"{1000 - having}, {n['alarmed']} are alarmed for nothing."
                )
            )
    if not parts:
        return markup.p(
            "No threshold was kept by a person (Results page, “For patients like mine”). What the validation side "
            "would choose stands among the results, where the task answers with classes."
        )
    return "".join(parts)


def _openings(found: Facts) -> str:
    rows = []
    for number, row in enumerate(found["openings"], 1):
        when = datetime.fromtimestamp(row.get("at") or 0, UTC).strftime("%Y-%m-%d %H:%M UTC")
        who = "this run" if row.get("run") == found["run"] else str(row.get("run") or "")
        rows.append([number, when, who])
    said = "Each look at the test side is counted: whoever looks often and picks the best run afterwards fools himself."
    return markup.p(said) + markup.table(["Look", "When", "For"], rows)


def _card(found: Facts) -> str:
    """The model card, from its Markdown."""
    parts: list[str] = []
    for block in words.model_card(found).split("\n\n")[1:]:
        block = block.strip()
        if block.startswith("## Figures on the test side"):
            break
        if block.startswith("## "):
            parts.append(markup.h3(block[3:]))
        elif block:
            parts.append(markup.p(block.replace("**", "")))
    return "".join(parts)


def _checklists(lists: Mapping[str, Sequence[Filled]]) -> str:
    parts = []
    for name, items in lists.items():
        open_ = open_items(list(items))
        done = len(items) - len(open_)
        parts.append(markup.h3(name))
        parts.append(markup.p(SOURCES[name], "faint"))
        parts.append(
            markup.p(
                f"{done} of {len(items)} items are answered by this pack, "
                f"{sum(i.state == 'partly' for i in items)} in part."
            )
        )
        parts.append(
            markup.table(
                ["Item", "Asked", "State", "Answer"],
                [
                    [
                        item.number,
                        f"{item.section}: {item.text}",
                        markup.state(_STATES[item.state], item.state),
                        item.answer + (f" [To add: {item.rest}.]" if item.rest else ""),
                    ]
                    for item in items
                ],
            )
        )  # fmt: skip
        parts.append(markup.p(f"For a person to answer ({name}):"))
        parts.append(markup.items([f"{i.number}, {i.section}: {i.rest}." for i in open_]))
    return "".join(parts)


def _environment(found: Facts) -> str:
    told = found["environment"]
    rows = [
        ("Python", told["python"]),
        ("System", told["system"]),
        ("Machine", told["machine"]),
        ("Processor", f"{told['processor']} ({told['cores']} cores)"),
        ("Memory", f"{told['memory_gb']:g} GB"),
        ("Graphics", ", ".join(told["graphics"]) or "none used"),
    ]
    packages = [[name, number] for name, number in told["packages"].items()]
    return markup.beside(markup.pairs(rows), markup.table(["Package", "Version"], packages))


def _hashes(found: Facts) -> str:
    told = found["hashes"]
    rows = [["Document (experiment.json)", told["document"]], ["Choices in it, in one order", found["digest"]]]
    rows += [["Weights (best.safetensors)", told["weights"]], ["Who is on which side", told["split"]]]
    rows += [
        [f"Data: {name} ({row['bytes']:,} bytes)", row["sha256"]] for name, row in told["data"].items() if row["bytes"]
    ]
    rows += [[f"Program ({told['code']['files']} files)", told["code"]["sha256"]]]
    rows += [["Looks at the test side", told["openings"]["sha256"]]]
    said = (
        "SHA-256. `python -m builder verify PACK` compares them and computes every figure again. The hashes of the "
        "files of this pack are in manifest.json."
    )
    return markup.p(said) + markup.table(["What", "SHA-256"], rows, mono=(1,))
