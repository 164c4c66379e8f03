"""The words of an export: README.md and requirements.txt."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from builder import operating, task
from builder.lessons import lesson
from builder.parts.layers import LAYERS
from builder.parts.training import OPTIMIZERS
from builder.predict import Predictor
from builder.runs import Run, read_json
from builder.spec import Experiment

_READING = ("numpy", "pillow", "pydicom")
PACKAGES: dict[str, tuple[str, ...]] = {
    "pytorch": ("torch", "safetensors", *_READING, "fastapi", "uvicorn"),
    "keras": ("keras", "torch", *_READING),
    "onnx": ("onnxruntime", *_READING),
    "torch-export": ("torch", *_READING),
    "document": (),
    "svg": (),
}
"""What the files of each target need in order to run."""


MAKERS: dict[str, tuple[str, ...]] = {"keras": ("torch",), "onnx": ("torch", "onnx", "onnxscript")}
"""What the files of a target were made with beside that."""


def versions(*packages: str) -> dict[str, str]:
    """The versions at hand, which are those that were tested."""
    return {name: version(name) for name in packages}


def requirements(to: str, experiment: Experiment) -> str:
    """The text of requirements.txt."""
    packages = list(PACKAGES[to])
    if to == "pytorch":
        taught = lesson(task.find(experiment.task).says, experiment, False)
        needed = {package for node in experiment.network for package in LAYERS[node.name].needs}
        needed |= {*taught.packages, *OPTIMIZERS[experiment.training.optimizer.name].needs}
        packages += sorted(needed - set(packages))
    return "".join(f"{name}=={number.partition('+')[0]}\n" for name, number in versions(*packages).items())


def readme(to: str, title: str, predictor: Predictor, run: Run | None) -> str:
    """The text of README.md: what this is, what is known of its quality, how it is used, what it does not do."""
    parts = [
        _head(to, title, predictor, run),
        *([_figures(run, predictor.weights_sha256)] if run is not None else []),
        _USE[to].format(**_facts(predictor)),
    ]
    if to in ("pytorch", "keras", "onnx", "torch-export"):
        parts.append(_READS)
        parts.append(_gate(to, predictor))
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _head(to: str, title: str, predictor: Predictor, run: Run | None) -> str:
    experiment, facts = predictor.experiment, predictor.fingerprint
    several = " (a scan may show several, or none)" if predictor.multi_label else ""
    classes = f"Classes: {', '.join(predictor.classes)}{several}."
    lines = [f"# {experiment.name}", ""]
    if run is not None:
        lines += [
            "**Not for clinical use.** A model trained with ScanLoom, for research and teaching. Its figures hold for "
            "scans like those it was tested on, and for no others.",
            "",
            f"Run {run.id}, exported as: {title}. {classes}",
        ]
        if predictor.leaky:
            lines += ["", f"**{predictor.leaky}**"]
        if facts.get("synthetic"):
            lines += ["", "**It was trained on synthetic phantoms: it knows nothing about people.**"]
        if facts:
            source = facts.get("patient_source", "")
            lines += [
                "",
                f"The data set: {facts.get('num_cases', 0)} scans of {facts.get('num_patients', 0)} patients (told "
                f"apart by: {source}), of modality {', '.join(facts.get('modalities', {})) or 'unknown'}.",
            ]
        if PACKAGES[to] and (said := asked_once(experiment)):
            lines += [
                "",
                f"{said} The figures below are of the average; how often a single answer is wrong was not measured.",
            ]
    else:
        lines += [
            "**Not for clinical use, and not trained.** A network built with ScanLoom that has learned nothing yet: "
            "its weights are those that a training begins with, and its answers mean nothing.",
            "",
            f"Exported as: {title}. {classes}",
        ]
    return "\n".join(lines)


def asked_once(experiment: Experiment) -> str:
    """In words, that an export asks about the scan as it is, where the run averages views; "" where it does not."""
    views = experiment.training.test_time
    if views == "off":
        return ""
    return (
        f'In ScanLoom the network is asked about several views of a scan ("{views}") and their average answers. The '
        "files of this export ask once, about the scan as it is: an answer may differ, and what was chosen for the run "
        "(temperature, silence, threshold of boxes) was chosen for the average."
    )


def _figures(run: Run, weights: str) -> str:
    report = read_json(run.folder / "evaluation-test.json")
    lines = ["## Figures on the test split", ""]
    if report is None:
        return "\n".join(
            [*lines, "The run has not been evaluated on its test split, so nothing is known of its quality."]
        )
    if report.get("checkpoint") != weights:
        lines += [
            "The run has learned on since it was evaluated on its test split, so nothing is known of these weights."
        ]
        return "\n".join(lines)
    per_class = report.get("per_class", {})
    columns = [key for key in _COLUMNS if any(isinstance(row.get(key), dict) for row in per_class.values())]
    lines += [
        f"{report['n']} scans of {report['patients']} patients; 95 % intervals from a bootstrap over patients. "
        + (
            f"Always answering the commonest class would give an accuracy of {report['majority_accuracy']:.3f}."
            if "majority_accuracy" in report
            else ""
        ),
        *_opened(report),
        "",
        "| figure | value | 95 % interval |",
        "|---|---|---|",
        *(f"| {name.replace('_', ' ')} | {_interval(figure)} |" for name, figure in report["metrics"].items()),
    ]
    if columns:
        lines += ["", f"| class | number | {' | '.join(_COLUMNS[key] for key in columns)} |"]
        lines += [f"|{'---|' * (2 + len(columns))}"]
        lines += [
            f"| {_cell(name)} | {row['n']} | {' | '.join(_short(row[key]) for key in columns)} |"
            for name, row in per_class.items()
        ]
    return "\n".join([*lines, *_worth(run, weights)])


def _worth(run: Run, weights: str) -> list[str]:
    """How often answers of the run are wrong on its test side, as lines of Markdown."""
    known = operating.worth(run, weights)
    if "boxes" in known:
        point = known["boxes"]
        rate = _short(point["false_discovery"])
        return ["", f"Of the boxes with a score of {point['threshold']:.3f} or more, this share is false: {rate}."]
    rows = [
        f"| {_cell(name)} | {row['threshold']:.3f} ({row['by']}) | {100 * row['prevalence']:.3g} in 100 | "
        f"{_short(row['false_discovery'])} | {_short(row['false_omission'])} |"
        for name, row in (known.get("classes") or {}).items()
    ]
    head = "| class | answered from, chosen by | have it | false-discovery rate | false-omission rate |"
    told = "False-discovery rate: share of such answers that is false. False-omission rate: of the others, who have it."
    return ["", told, "", head, "|---|---|---|---|---|", *rows] if rows else []


def _opened(report: dict[str, Any]) -> list[str]:
    """How often the test side was looked at."""
    told = report.get("openings") or {}
    times = int(told.get("dataset", 0))
    return (
        [f"The test side had been opened {times} {'time' if times == 1 else 'times'}, {told['run']} for this run."]
        if times
        else []
    )


_COLUMNS = {"sensitivity": "sensitivity", "specificity": "specificity", "auc": "AUC", "map50": "AP50"}
"""Figures of a class that are told where a task has them."""


def _facts(predictor: Predictor) -> dict[str, Any]:
    from builder.network import show

    data = predictor.experiment.data
    grey = data.colour == "grey"
    axes = {
        "maps": "(batch, channels, height, width)",
        "series": "(batch, slices, channels, height, width)",
        "volume": "(batch, channels, slices, height, width)",
    }
    colours = "one channel: turn colours into grey before" if grey else "three channels, or one for grey"
    kind = task.find(predictor.experiment.task)
    again = "python train.py FOLDER            # trains the same network anew; what FOLDER holds, its first lines say"
    words = {"again": again, "answer": "probabilities" if kind.says == "classes" else kind.says.replace("_", " ")}
    return {**words, "shape": show(data.shape), "axes": axes[data.layout], "colours": colours, "window": data.window}


_PROOF = """parity.json holds the largest difference between ScanLoom's answers and those of these files, asked in a
process of their own."""

_USE = {
    "pytorch": f"""
## Use

```
python -m pip install -r requirements.txt
python predict.py scan.png        # {{answer}}, one JSON line a scan
python serve.py                   # the same over HTTP, for other programs on this machine; its first lines say how
{{again}}
```

{_PROOF}
""",
    "keras": f"""
## Use

```
python -m pip install -r requirements.txt
python predict.py scan.png        # {{answer}}, one JSON line a scan
```

- model.keras: the network with its weights; `keras.saving.load_model("model.keras")` needs no code of ours.
- model.py: the same network, one line a layer; `build()` makes it anew, model.weights.h5 holds its weights.

The network takes ({{shape}}) per scan, normalized as predict.py does, channels first, and gives scores (before softmax
or sigmoid). It was tested on Keras' torch backend. Set KERAS_BACKEND to use another one; TensorFlow computes
convolutions with channels first on a graphics card only.

{_PROOF}
""",
    "onnx": f"""
## Use

```
python -m pip install -r requirements.txt
python predict.py scan.png        # {{answer}}, one JSON line a scan
```

model.onnx takes scans as they are and gives `probabilities` (and `scores`, before softmax or sigmoid, and `image`, what
the network saw). Its inputs:

- `pixels`, float32 {{axes}}: grey values of any height and width after the modality rescale (Hounsfield units for CT),
  {{colours}};
- `window`, two float64: the value shown as black and the value shown as white; for MONOCHROME1 the other way round.
  The network was made for the window "{{window}}";
- `aspect`, one float64, may be left out: height of a pixel over its width.

Inside the graph, exactly as in the app: the window, the antialiased resize with its borders, the steps of grey and
the normalization. Outside, and done by predict.py: reading files, choosing or averaging slices, turning colours into
grey, pixels that the file marks as padding, finding percentiles, and windows that are a curve or a table (it passes
such scans on already windowed, with the window 0 to 1).

{_PROOF} `from_grey_values` is the difference where the graph alone prepared the scan.
""",
    "torch-export": f"""
## Use

```
python -m pip install -r requirements.txt
python predict.py scan.png        # {{answer}}, one JSON line a scan
```

network.pt2 is a `torch.export` program: `torch.export.load("network.pt2").module()` takes prepared scans ({{shape}}
each, values from 0 to 1), normalizes them itself and gives probabilities. predict.py prepares scans for it.

{_PROOF}
""",
    "document": """
experiment.json holds every choice: data, network and training. Open it on ScanLoom's start page, or train it with
`python -m builder train experiment.json`.
""",
    "svg": """
network.svg is a drawing of the network, from top to bottom: every layer with its settings and the shape that comes out.
graph.svg is its computational graph: every operation on the way forward (blue), every gradient back (orange).
experiment.json is the network itself.
""",
}
_READS = """
predict.py reads PNG, JPEG, BMP, TIFF and DICOM images and prepares them exactly as in training. Pages of a
TIFF and frames of a DICOM image are slices; a folder is one DICOM series, its images sorted by their place.
A scan that it cannot read is answered by a line with the reason; the others keep their answers, and the exit
code is 2.

What it does not read, and says so:

- NIfTI, NRRD and enhanced DICOM, which ScanLoom reads;
- a folder with anything but the images of one DICOM series, of which ScanLoom would take the largest stack;
- PNG with 16 bits a colour, which ScanLoom reads, and TIFF with 16 bits a colour, which it refuses too;
- DICOM with a window table (VOI LUT), or whose values lie high in their words (HighBit), which ScanLoom reads.
"""


def _gate(to: str, predictor: Predictor) -> str:
    """What is done with scans unlike those of the training, and what this format cannot tell of them."""
    done = "is refused, with the reason" if predictor.terms.gate == "refuse" else "is answered, with what is unlike"
    lines = [
        "## Scans unlike those of its training",
        "",
        f"As in ScanLoom, a scan of another modality, part of the body, depth of grey, colour or size {done}.",
    ]
    if to == "pytorch":
        lines.append(
            "So is one that lies too far out in what the network makes of it (likeness.py), where the run had at least "
            "20 training scans: of up to 300 of them nearness.npz holds what the network makes of each and 8 x 8 grey "
            "values, nobody's name and no order of patients."
        )
    else:
        lines.append(
            "What ScanLoom looks at besides, how far a scan lies from them in what the network makes of it inside, is "
            "not to be had in this format and is NOT checked here: take the PyTorch project where that matters."
        )
    return "\n".join(lines)


def _interval(figure: dict[str, float | None]) -> str:
    if figure["value"] is None:
        return "undefined | |"
    if figure["low"] is None:
        return f"{figure['value']:.3f} | one patient: none"
    return f"{figure['value']:.3f} | {figure['low']:.3f} to {figure['high']:.3f}"


def _cell(name: str) -> str:
    """A class name that cannot break the table it stands in."""
    return name.replace("|", "\\|").replace("\n", " ")


def _short(figure: dict[str, float | None]) -> str:
    if figure["value"] is None:
        return "undefined"
    if figure["low"] is None:
        return f"{figure['value']:.3f} (one patient: no interval)"
    return f"{figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"
