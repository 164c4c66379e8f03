"""Sentences out of facts: the methods paragraph of a paper, the model card, and the answers to the checklists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from builder.evidence.facts import Facts
from builder.measures import named
from builder.measures.named import metric_words
from builder.task import find

_SIDES = {"train": "training", "val": "validation", "test": "test"}
_CLINICAL = (
    "**Not for clinical use.** A model trained with ScanLoom, for research and teaching. It is no medical device; its "
    "figures hold for scans like those it was tested on, and for no others."
)
_TAKEN_AWAY = "The network was asked with parts of the scans taken away (see the probes)."
_PATIENTS = {
    "dicom": "is told by the patient identity in the DICOM files",
    "csv": "is told by a table that came with the scans",
    "filename": "is told by a pattern in the file names",
    "official split": "is not known; the split that came with the scans was kept",
    "one image = one patient": "is not known; each image counted as a patient of its own",
}


def shown(figure: Mapping[str, float | None] | None) -> str:
    """A figure with its interval; of one patient, which a note says once, the figure alone."""
    return named.interval(figure).partition(" (one patient")[0]


def known(found: Facts) -> dict[str, str]:
    """What a run knows, by the keys that the checklists ask for; "" where nothing is known."""
    data, flow, choices = found["data"], found["flow"], found["choices"]
    evaluation, layers, recipe = found["evaluation"], found["layers"], found["recipe"]
    sides = flow["sides"]
    task = found["title"].lower()
    probes = found["probes"].get("blanked")
    sizes = data.get("sizes") or {}
    asked = found.get("asked") or {}
    augmented = ", ".join(title.lower() for title, _ in recipe["Augmentation"] if title != "None")
    counted = "; ".join(
        f"{_SIDES[s]}: {row['cases']} cases of {row['patients']} patients{_classes(row)}" for s, row in sides.items()
    )
    return {
        "kind": f"A deep neural network for {task} on medical scans.",
        "goal": "A model is developed and evaluated on scans that were kept aside.",
        "source": f"{flow['cases']} scans of {flow['patients']} patients, modality {_modalities(data)}"
        + (", synthetic phantoms" if data.get("synthetic") else "")
        + ".",
        "flow": _flow(flow),
        "preparation": "; ".join(f"{name.lower()} {value}" for name, value in recipe["Preparation"]) + ".",
        "subsets": "All cases with a usable label were used"
        + (f", but {flow['left_out']} training cases that a person left out." if flow["left_out"] else "."),
        "privacy": "Names, identities, dates and file names are not stored; patients are keyed pseudonyms. Pixels are "
        "stored as they came: text burnt into them stays.",
        "missing": _missing(flow),
        "acquired": _acquired(data, sizes),
        "labels": _labels(found),
        "corrections": f"{flow['corrections']} labels were given or corrected here; the others came with the scans."
        if flow["corrections"]
        else "All labels came with the scans; none was changed in ScanLoom.",
        "partition": _partition(data),
        "proportions": f"{_partition(data)} {counted}.",
        "preparation_alike": "; ".join(f"{name.lower()} {value}" for name, value in recipe["Preparation"])
        + ". The same for every scan, whoever it is of.",
        "groups": _groups(found),
        "performance": " ".join(filter(None, [results(found, 4) + ".", _groups(found), _reading(asked)])),
        "disjoint": _disjoint(data),
        "size": f"{evaluation['n']} test cases of {evaluation['patients']} patients, as many as there were.",
        "model": f"{len(layers['rows'])} layers with {layers['parameters']:,} learned numbers on an input of "
        f"{layers['input']}; all of it in experiment.json and in the table of layers.",
        "software": "ScanLoom; Python " + _versions(found),
        "beginning": f"{found['beginning']} (seed {choices['seed']}).",
        "training": f"{choices['epochs']} epochs at most, {_optimizer(found)}, batches of {choices['batch_size']}; "
        + (f"augmentation: {augmented}" if augmented else "no augmentation")
        + ". Every setting is in the recipe.",
        "selection": _selection(found),
        "ensemble": "One network"
        + ("; no ensemble." if choices["test_time"] == "off" else f", its views averaged ({choices['test_time']})."),
        "metrics": ", ".join(metric_words(name) for name in evaluation["metrics"]) + ".",
        "uncertainty": _uncertainty(evaluation),
        "robust": " ".join([*(probes["verdicts"] if probes else ()), *filter(None, [_groups(found), _gate(asked)])]),
        "explained": " ".join(filter(None, [_TAKEN_AWAY if probes else "", _maps(asked)])),
        "internal": f"{evaluation['n']} cases of {evaluation['patients']} patients that were kept aside "
        f"({_openings(found)}).",
        "external": "",
        "sides": counted + ".",
        "results": results(found, 4) + ".",
        "diagnostic": _diagnostic(found),
        "failures": _failures(evaluation),
        "limits": " ".join(
            [*filter(None, [found.get("leaky")]), *data.get("warnings", ()), *evaluation.get("notes", ())]
        ),
        "pack": "This pack: document, weights, figures and hashes, which `python -m builder verify` checks.",
        "available": "Document and weights are in this pack; the network can be exported as plain code.",
        "predictors": "The pixels of the scan are all that it is given; no clinical variable and no reader's opinion.",
        "updating": "The model was not updated after it was evaluated.",
        "predictions": "Document and weights in this pack compute them; one code prepares scans in training and use.",
        "imbalance": f"Balance of the classes in training: {_setting(recipe, 'Class balance') or 'none'}."
        + _temperature(asked),
        "output": " ".join(filter(None, [_output(found), _terms(asked)])),
        "differences": "The same preparation; augmentation only in training. " + _partition(data),
        "poor": "Files that cannot be read are refused with the reason; scans unlike the training scans are "
        + ("refused too." if (asked.get("terms") or {}).get("gate") == "refuse" else "told of.")
        + (f" {_gate(asked)}" if _gate(asked) else ""),
        "users": "A scan is given as a file; no expertise in programming is needed.",
    }  # fmt: skip


def methods(found: Facts) -> str:
    """A paragraph for the methods section of a paper; what only its authors know stands in square brackets."""
    data, flow, choices = found["data"], found["flow"], found["choices"]
    evaluation, layers, training = found["evaluation"], found["layers"], found["training"]
    sides = flow["sides"]
    numbers = ", ".join(f"{row['cases']} ({row['patients']} patients) for {_SIDES[s]}" for s, row in sides.items())
    augmented = ", ".join(title.lower() for title, _ in found["recipe"]["Augmentation"] if title != "None")
    prepared = dict(found["recipe"]["Preparation"])
    sentences = [
        f"We developed a deep neural network for {found['title'].lower()} with ScanLoom, a tool that builds networks "
        "without programming on PyTorch " + (found["environment"]["packages"].get("torch") or "") + ".",
        f"The data set held {flow['cases']} scans (modality: {_modalities(data)}) of {flow['patients']} patients "
        "[source, dates, centres, ethics approval]"
        + ("; these are synthetic phantoms, so the results say nothing about patients" if data.get("synthetic") else "")
        + ".",
        _flow(flow),
        f"{_partition(data)} There were {numbers}. {_disjoint(data)}",
        f"{_labels(found)} [who annotated, and how].",
        f"Each scan was brought to {layers['input']} (fit: {prepared.get('Fit', choices['fit'])}, window: "
        f"{prepared.get('Window', 'auto')}, normalization: {prepared.get('Normalize', '')}).",
        f"The network had {len(layers['rows'])} layers and {layers['parameters']:,} parameters; initial weights: "
        f"{found['beginning'].replace('Pretrained: ', '').replace('Random', 'random')}.",
        "Training scans were varied by " + augmented + "." if augmented else "No augmentation was used.",
        f"It was trained for {training['epoch'] or choices['epochs']} epochs with {_optimizer(found)} and batches of "
        f"{choices['batch_size']} (seed {choices['seed']}). {_selection(found)}",
        f"Performance was measured on {evaluation['n']} test scans of {evaluation['patients']} patients"
        + (f". {found['leaky']} " if found.get("leaky") else " that had no part in training or selection. ")
        + f"{_openings(found).capitalize()}. {_uncertainty(evaluation)}",
        f"On the test side: {results(found, 4)}.",
        _points_words(found),
        f"Document, weights, figures and SHA-256 hashes are in the evidence pack of run {found['run']}.",
    ]
    return " ".join(sentence.strip() for sentence in sentences if sentence.strip())


def model_card(found: Facts) -> str:
    """The model card as Markdown (after Mitchell et al., Model Cards for Model Reporting, FAT* 2019)."""
    answers, data, evaluation = known(found), found["data"], found["evaluation"]
    asked = found.get("asked") or {}
    lines = [f"# Model card: {found['name']}", "", _CLINICAL, ""]
    if found.get("leaky"):
        lines += [f"**{found['leaky']}**", ""]
    if data.get("synthetic"):
        lines += ["**It was trained on synthetic phantoms: it knows nothing about people.**", ""]
    for title, text in (
        ("What it is", f"{answers['kind']} {answers['model']} Run {found['run']}."),
        ("What it gives", answers["output"]),
        ("Meant for", "Research and teaching. [What it is meant for, for whom, and where it must not be used.]"),
        ("Trained on", f"{answers['source']} {answers['sides']} {answers['acquired']}"),
        ("Truth", f"{answers['labels']} {answers['corrections']}"),
        ("Split", f"{answers['partition']} {answers['disjoint']}"),
        ("Training", f"{answers['training']} {answers['beginning']} {answers['selection']}"),
        ("Measured", f"{answers['results']} {answers['uncertainty']} {_openings(found).capitalize()}."),
        ("Where it fails", answers["failures"] or "[Look at the worst cases.]"),
        ("What it goes by", answers["robust"] or "Not asked: the probes were not run."),
        ("Heat maps", _maps(asked) or "They were not tested."),
        ("When it keeps silent", _terms(asked) or "Never: it answers every scan."),
        ("Beside readers", _reading(asked) or "Nobody has read against it here."),
        ("Limits", answers["limits"] or "None was noted. [Limits of the study.]"),
        ("Privacy", answers["privacy"]),
    ):
        lines += [f"## {title}", "", text.strip(), ""]
    lines += ["## Figures on the test side", "", "| figure | value (95 % interval) |", "|---|---|"]
    lines += [f"| {metric_words(name)} | {shown(figure)} |" for name, figure in evaluation["metrics"].items()]
    return "\n".join(lines) + "\n"


def results(found: Facts, most: int) -> str:
    """The first figures with their intervals, the headline first: "AUC 0.931 (0.90–0.96), ..."."""
    metrics = found["evaluation"]["metrics"]
    names = [found["headline"], *(name for name in metrics if name != found["headline"])]
    told = [f"{metric_words(n)} {shown(metrics[n])}" for n in names if (metrics.get(n) or {}).get("value") is not None]
    return "; ".join(told[:most]) or "no figure is defined on these cases"


# -- single facts -----------------------------------------------------------------------------------------------------


def _modalities(data: Mapping[str, Any]) -> str:
    return ", ".join(name for name in data.get("modalities") or {} if name != "unknown") or "not stated in the files"


def _classes(row: Mapping[str, Any]) -> str:
    told = [f"{name} {n}" for name, n in (row["classes"] or {}).items()] if any((row["classes"] or {}).values()) else []
    told += [f"{n} boxes of {name}" for name, n in (row["boxes"] or {}).items()]
    told += [f"{name} outlined in {n}" for name, n in (row["masks"] or {}).items()]
    told += [f"{row['pairs']} pairs"] if row.get("pairs") else []
    return f" ({', '.join(told)})" if told else ""


def _flow(flow: Mapping[str, Any]) -> str:
    files = flow["files"]
    told = [f"{files[s]} {s}" for s in ("accepted", "repaired", "refused", "skipped") if files.get(s)]
    return (
        f"Of {sum(files.values())} files {', '.join(told)}; they gave {flow['cases']} cases of {flow['patients']} "
        f"patients, {flow['labelled']} of them with a usable label."
    )


def _missing(flow: Mapping[str, Any]) -> str:
    gone = flow["cases"] - flow["labelled"]
    return (
        f"{gone} cases without a usable label were left out; nothing was imputed." if gone else "No label is missing."
    )


def _acquired(data: Mapping[str, Any], sizes: Mapping[str, Any]) -> str:
    told = [f"Modality: {_modalities(data)}"]
    if sizes.get("median"):
        told.append(f"median size {sizes['median'][1]} x {sizes['median'][0]} px")
    if (data.get("num_slices") or {}).get("max", 1) > 1:
        told.append(f"{data['num_slices']['min']} to {data['num_slices']['max']} slices")
    median = (data.get("spacing_mm") or {}).get("median")
    if median and all(v is not None for v in median):
        told.append("median spacing " + " x ".join(f"{v:.2f}" for v in median) + " mm (z, y, x)")
    told.append("stored as " + ", ".join(f"{bits} bit ({n})" for bits, n in (data.get("bits") or {}).items()))
    return "; ".join(told) + "."


def _labels(found: Facts) -> str:
    data = found["data"]
    if "picture" in find(found["task"]).learns:
        return "Each scan has a better one as its target, or was made poorer by a known amount."
    told = []
    if data.get("classes"):
        told.append(
            f"classes {', '.join(data['classes'])}" + (" (several may hold)" if data.get("multi_label") else "")
        )
    if any((data.get("num_boxed") or {}).values()):
        told.append("boxes around lesions")
    if any((data.get("num_masked") or {}).values()):
        told.append("outlines of " + ", ".join(data.get("mask_names") or ("lesions",)))
    return ("The truth is what people said of the scans: " + "; ".join(told) + ".") if told else ""


def _partition(data: Mapping[str, Any]) -> str:
    if data.get("official_split"):
        return "The split that came with the data was kept."
    return (
        "Patients were parted at random into training, validation and test sides, and stay there when data are added."
    )


def _disjoint(data: Mapping[str, Any]) -> str:
    source = str(data.get("patient_source") or "")
    twins = int((data.get("duplicates") or {}).get("across_splits") or 0)
    told = f"Which scans are of one patient {_PATIENTS.get(source, source)}."
    astride = int(data.get("num_patients_astride") or 0)
    told += f" {astride} patients are on more than one side." if astride else " No known patient is on two sides."
    return told + (f" {twins} pictures occur, exactly or almost, on more than one side." if twins else "")


def _selection(found: Facts) -> str:
    best, monitor = found["training"]["best"], metric_words(found["choices"]["monitor"])
    where = f" (epoch {best['epoch']})" if best else ""
    return f"The weights with the best {monitor} on the validation side were kept{where}."


def _uncertainty(evaluation: Mapping[str, Any]) -> str:
    told = evaluation.get("interval") or {}
    return f"95 % intervals: {told.get('method', 'bootstrap over patients')}, {told.get('resamples', 0):,} resamples."


def _openings(found: Facts) -> str:
    if found["came"]:
        what = found["came"].get("words") or "sides of its own"
        return f"they were held out of this run ({what}); the test side stayed closed"
    own, all_ = sum(row.get("run") == found["run"] for row in found["openings"]), len(found["openings"])
    times = "once" if own == 1 else f"{own} times"
    return f"the test side was opened {times} for this run, {all_} in all"


def _diagnostic(found: Facts) -> str:
    rows = found["evaluation"].get("per_class") or {}
    told = []
    for name, row in rows.items():
        parts = [f"{metric_words(k).lower()} {shown(row[k])}" for k in ("sensitivity", "specificity") if row.get(k)]
        if parts:
            told.append(f"{name}: {', '.join(parts)}")
    return "; ".join(told) + "." if told else results(found, 3) + "."


def _failures(evaluation: Mapping[str, Any]) -> str:
    told = []
    counts = evaluation.get("confusion")
    if counts and not isinstance(counts[0][0], list):
        names = evaluation["classes"]
        wrong = [(n, names[i], names[k]) for i, row in enumerate(counts) for k, n in enumerate(row) if n and i != k]
        told += [f"{n} of {a} taken for {b}" for n, a, b in sorted(wrong, reverse=True)[:3]]
    if evaluation.get("misses"):
        told.append(f"{len(evaluation['misses'])} of the missed lesions are listed")
    if evaluation.get("false_alarms"):
        told.append(f"{len(evaluation['false_alarms'])} of the false alarms are listed")
    worst = [row for row in evaluation.get("worst") or () if row.get("dice") is not None]
    if worst:
        told.append(f"lowest Dice {worst[0]['dice']:.2f}")
    return "; ".join(told).capitalize() + "." if told else ""


def _groups(found: Facts) -> str:
    """Which groups were measured apart; "" where none were."""
    abouts = list(dict.fromkeys(row["about"] for row in found["evaluation"].get("subgroups") or () if row.get("about")))
    return f"Measured group by group: {', '.join(about.lower() for about in abouts)}." if abouts else ""


def _gate(asked: Mapping[str, Any]) -> str:
    """What the gate stops; "" where that was not measured."""
    told = asked.get("gate") or {}
    if not told:
        return ""
    others = "; ".join(f"{shown(row['stopped'])} of {row['n']} of another set" for row in told.get("foreign") or ())
    words = f"Its gate stops {shown(told['own']['stopped'])} of {told['own']['n']} validation scans"
    return f"{words}{'; ' if others else ''}{others}."


def _maps(asked: Mapping[str, Any]) -> str:
    """Which heat maps passed their tests; "" where they were not tested."""
    rows = (asked.get("explained") or {}).get("methods") or {}
    passed = [name.replace("_", " ") for name, row in rows.items() if row["ok"]]
    failed = [name.replace("_", " ") for name, row in rows.items() if not row["ok"]]
    told = [f"passed: {', '.join(passed)}"] if passed else []
    told += [f"failed and are shown in grey: {', '.join(failed)}"] if failed else []
    return f"Heat maps were tested without weights and on moved scans; {'; '.join(told)}." if told else ""


def _terms(asked: Mapping[str, Any]) -> str:
    """When it keeps silent; "" where it always answers."""
    told = asked.get("terms") or {}
    if not told.get("limit"):
        return ""
    here = told.get("on_test") or {}
    measured = f" (of the test scans {shown(here['answered'])}, right {shown(here['right'])})" if here else ""
    return f"It answers from a confidence of {told['limit']:.3f} on, else it says that it does not know{measured}."


def _temperature(asked: Mapping[str, Any]) -> str:
    """That its probabilities were recalibrated; "" where they were not."""
    warm = (asked.get("terms") or {}).get("temperature")
    return f" Its probabilities were recalibrated on the validation side (temperature {warm:.2f})." if warm else ""


def _reading(asked: Mapping[str, Any]) -> str:
    """How readers did; "" where nobody read."""
    reports = (asked.get("readings") or {}).get("reports") or ()
    people = sum(len(report["readers"]) for report in reports)
    who = "reader" if people == 1 else "readers"
    return f"{people} {who} read blind, then with the network: see the chapter on it." if people else ""


def _output(found: Facts) -> str:
    kind = {
        "recognition": "A probability for each class",
        "tumor_diagnosis": "A type with its probability, and an outline where it was taught one",
        "lesion_detection": "Boxes with a class and a score",
        "image_enhancement": "The scan restored, in its own stored values",
    }.get(found["task"], "An answer for each scan")
    return f"{kind}. {_points_words(found)}".strip()


def _points_words(found: Facts) -> str:
    told = []
    for label, row in (found.get("operating") or {}).items():
        here = row.get("test")
        if here:
            told.append(
                f"{label} is answered from a probability of {row['threshold']:.3f} on (sensitivity "
                f"{shown(here['sensitivity'])}, specificity {shown(here['specificity'])}; where "
                f"{100 * row['prevalence']:.3g} of 100 have it, "
                f"false-discovery rate {shown(here['false_discovery'])}, "
                f"false-omission rate {shown(here['false_omission'])})"
            )
    point = found["evaluation"].get("operating_point") or {}
    if not told and point.get("threshold") is not None:
        return f"Boxes are shown from a score of {point['threshold']:.2f} on, {named.chosen_by(point)}."
    points = found["evaluation"].get("operating_points") or {}
    if not told and any(points.values()):
        return "Thresholds of the classes were chosen on the validation side (highest sensitivity + specificity)."
    return ("; ".join(told) + ".")[:1].upper() + ("; ".join(told) + ".")[1:] if told else ""


def _optimizer(found: Facts) -> str:
    """The optimizer as people write it."""
    return _setting(found["recipe"], "Optimizer").partition(":")[0] or str(found["choices"]["optimizer"])


def _setting(recipe: Mapping[str, Any], label: str) -> str:
    return next((value for name, value in recipe["Training"] if name == label), "")


def _versions(found: Facts) -> str:
    packages = found["environment"]["packages"]
    shown = ", ".join(f"{n} {packages[n]}" for n in ("torch", "torchvision", "timm", "monai", "numpy") if n in packages)
    return f"{found['environment']['python']}, {shown}."
