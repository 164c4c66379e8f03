"""A trained run to take away: readable PyTorch code that needs nothing of ScanLoom, with a proof that it answers the
same.

The network is spelled out from the document; blocks that no library has come with their own source. The proof runs the
exported code in a fresh Python process on the same scans; an export that differs is never handed out.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from builder.data import Dataset, UnknownDataset
from builder.listing import TEMPLATES, attributes, model_source, train_source
from builder.parts.layers import LAYERS
from builder.predict import Predictor
from builder.runs import Run, read_json, write_atomic
from builder.scans import NAMED_WINDOWS, Scan
from builder.spec import Experiment

TARGETS = ("pytorch",)
TOLERANCE = 1e-5
"""Largest difference of a probability between the app and the exported code."""
_CASES = 16
_TIMEOUT_S = 300


class ExportError(ValueError):
    """A run that cannot be exported. Its text is one sentence for people."""


def export(run: Run, home: Path, to: str = "pytorch", out: Path | None = None) -> Path:
    """Write a stand-alone copy of a trained run and give back its zip file.

    The folder beside the zip (same name without ".zip") holds model.py, predict.py, train.py, settings.json,
    weights.safetensors, requirements.txt, README.md and parity.json {cases, source, tolerance, difference {input,
    probabilities}, versions}.

    Args:
        out: the folder to write into; the run's own folder `exports` by default.
    Raises:
        ExportError: an unknown format, a folder that cannot be written, or an export whose answers differ from the
            app's by more than `TOLERANCE`.
        PredictError: the run cannot be rebuilt.
    """
    if to not in TARGETS:
        raise ExportError(f"There is no export to {to!r}; there is {', '.join(TARGETS)}.")
    predictor = Predictor.open(run.folder)
    out = Path(out) if out is not None else run.folder / "exports"
    name = f"{run.id}-{to}"
    with _writing(out):
        out.mkdir(parents=True, exist_ok=True)
        passing = tempfile.TemporaryDirectory(prefix=".export-", dir=out)
    with passing:
        folder = Path(passing.name) / name
        with _writing(out):
            folder.mkdir()
            _write(folder, run, predictor)
        proof = _proof(folder, predictor, home)
        if max(proof["difference"].values()) > TOLERANCE:
            most = max(proof["difference"].values())
            raise ExportError(
                f"The exported code answers differently from the app (by up to {most:.2g}; {TOLERANCE:g} is allowed), "
                "so it is not handed out. This is a fault of ScanLoom's own."
            )
        with _writing(out):
            write_atomic(folder / "parity.json", json.dumps(proof, indent=2) + "\n")
            archive = Path(passing.name) / f"{name}.zip"
            with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
                for file in sorted(folder.iterdir()):
                    packed.write(file, f"{name}/{file.name}")
            shutil.rmtree(out / name, ignore_errors=True)
            folder.rename(out / name)
            archive.replace(out / archive.name)
    return out / f"{name}.zip"


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """What the disk refuses in here is told in words."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ExportError(f"The folder {out} cannot be written ({reason}).") from error


def _write(folder: Path, run: Run, predictor: Predictor) -> None:
    experiment = predictor.experiment
    settings = {
        "classes": list(predictor.classes),
        "multi_label": predictor.multi_label,
        **experiment.data.model_dump(exclude={"dataset"}),
        "unit": predictor.unit,
        "mean": [float(v) for v in predictor.mean],
        "std": [float(v) for v in predictor.std],
        "named_windows": {name: list(pair) for name, pair in NAMED_WINDOWS.items()},
    }
    names = attributes(experiment)
    tensors = {}
    for key, tensor in predictor.net.state_dict().items():
        _, id, rest = key.split(".", 2)
        tensors[f"{names[id]}.{rest}"] = tensor.detach().cpu().contiguous()
    from safetensors.torch import save

    (folder / "weights.safetensors").write_bytes(save(tensors))
    texts = {
        "settings.json": json.dumps(settings, indent=2, ensure_ascii=False) + "\n",
        "model.py": model_source(experiment, len(predictor.classes)),
        "predict.py": (TEMPLATES / "predict.py.txt").read_text(encoding="utf-8"),
        "train.py": train_source(experiment, predictor.multi_label),
        "requirements.txt": _requirements(experiment),
        "README.md": _readme(run, predictor),
    }
    if experiment.training.augment:
        texts["augment.py"] = (Path(__file__).parent / "augment.py").read_text(encoding="utf-8")
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")


# -- words ------------------------------------------------------------------------------------------------------------


def _versions(*packages: str) -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in packages}


def _requirements(experiment: Experiment) -> str:
    packages = ["torch", "safetensors", "numpy", "pillow", "pydicom"]
    packages += sorted({package for node in experiment.network for package in LAYERS[node.name].needs})
    return "".join(f"{name}=={number.partition('+')[0]}\n" for name, number in _versions(*packages).items())


def _readme(run: Run, predictor: Predictor) -> str:
    experiment = predictor.experiment
    report = read_json(run.folder / "evaluation-test.json")
    facts = predictor.fingerprint
    lines = [
        f"# {experiment.name}",
        "",
        "**Not for clinical use.** A model trained with ScanLoom, for research and teaching. Its figures hold for "
        "scans like those it was tested on, and for no others.",
        "",
        f"Run {run.id}. Classes: {', '.join(predictor.classes)}"
        + (" (a scan may show several, or none)." if predictor.multi_label else "."),
    ]
    if facts.get("synthetic"):
        lines += ["", "**It was trained on synthetic phantoms: it knows nothing about people.**"]
    if facts:
        source = facts.get("patient_source", "")
        lines += [
            "",
            f"The data set: {facts.get('num_cases', 0)} scans of {facts.get('num_patients', 0)} patients (told apart "
            f"by: {source}), of modality {', '.join(facts.get('modalities', {})) or 'unknown'}.",
        ]
    lines += ["", "## Figures on the test split", ""]
    if report is None:
        lines += ["The run has not been evaluated on its test split, so nothing is known of its quality."]
    else:
        columns = ("sensitivity", "specificity", "auc")
        lines += [
            f"{report['n']} scans of {report['patients']} patients; 95 % intervals from a bootstrap over patients. "
            f"Always answering the commonest class would give an accuracy of {report['majority_accuracy']:.3f}.",
            "",
            "| figure | value | 95 % interval |",
            "|---|---|---|",
            *(f"| {name.replace('_', ' ')} | {_interval(figure)} |" for name, figure in report["metrics"].items()),
            "",
            "| class | scans | sensitivity | specificity | AUC |",
            "|---|---|---|---|---|",
            *(
                f"| {_cell(name)} | {row['n']} | {' | '.join(_short(row[key]) for key in columns)} |"
                for name, row in report["per_class"].items()
            ),
        ]
    lines += [
        "",
        "## Use",
        "",
        "```",
        "python -m pip install -r requirements.txt",
        "python predict.py scan.png        # probabilities, one JSON line a scan",
        "python train.py FOLDER            # trains the same network anew on FOLDER/train/CLASS/*, FOLDER/val/CLASS/*",
        "```",
        "",
        "predict.py reads PNG, JPEG, BMP, TIFF and DICOM images and prepares them exactly as in training. Pages of a",
        "TIFF and frames of a DICOM image are slices; a folder is one DICOM series, its images sorted by their place.",
        "A scan that it cannot read is answered by a line with the reason; the others keep their answers, and the exit",
        "code is 2.",
        "parity.json holds the largest difference between ScanLoom's answers and those of this code, run in a process",
        "of its own.",
        "",
        "What it does not read, and says so:",
        "",
        "- NIfTI, NRRD and enhanced DICOM, which ScanLoom reads;",
        "- a folder with anything but the images of one DICOM series, of which ScanLoom would take the largest stack;",
        "- PNG with 16 bits a colour, which ScanLoom reads, and TIFF with 16 bits a colour, which it refuses too;",
        "- DICOM with a window table (VOI LUT), which ScanLoom reads.",
        "",
    ]
    return "\n".join(lines)


def _interval(figure: dict[str, float | None]) -> str:
    if figure["value"] is None:
        return "undefined | |"
    return f"{figure['value']:.3f} | {figure['low']:.3f} to {figure['high']:.3f}"


def _cell(name: str) -> str:
    """A class name that cannot break the table it stands in."""
    return name.replace("|", "\\|").replace("\n", " ")


def _short(figure: dict[str, float | None]) -> str:
    if figure["value"] is None:
        return "undefined"
    return f"{figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"


# -- the proof --------------------------------------------------------------------------------------------------------

_CHECK = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
import predict
cases = np.load(sys.argv[2], allow_pickle=False)
images = []
for k in range(int(cases["num"])):
    window = cases[f"window{k}"]
    words = (*map(float, window[:2]), str(window[2]), cases[f"table{k}"]) if len(window) else ()
    valid = cases[f"valid{k}"] if cases[f"valid{k}"].size else None
    images.append(predict.prepare(predict.Scan(
        cases[f"pixels{k}"], int(cases[f"bits{k}"]), str(cases[f"photometric{k}"]), words, valid,
    float(cases[f"aspect{k}"]) )))
model = predict.load()
answers = predict.probabilities(model, np.stack(images))
assert not any(name.split(".")[0] in ("builder", "tasks") for name in sys.modules), "the export imports ScanLoom"
np.savez(sys.argv[3], images=np.stack(images), answers=answers)
"""


def _proof(folder: Path, predictor: Predictor, home: Path) -> dict[str, Any]:
    """Largest differences between the app and the exported code in a fresh process, on stored scans of the data set."""
    source, scans = _scans(predictor, home)
    ours = np.stack([predictor.prepared(scan) for scan in scans])
    answers = predictor.probabilities(ours)
    with tempfile.TemporaryDirectory(prefix="scanloom-parity-") as place:
        given, told = Path(place) / "cases.npz", Path(place) / "answers.npz"
        np.savez(given, **_packed(scans))
        command = [sys.executable, "-I", "-B", "-c", _CHECK, str(folder), str(given), str(told)]
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
        if done.returncode:
            raise ExportError(f"The exported code does not run, so it is not handed out: {_last_line(done.stderr)}")
        with np.load(told, allow_pickle=False) as found:
            images, theirs = found["images"], found["answers"]
    return {
        "cases": len(scans),
        "source": source,
        "tolerance": TOLERANCE,
        "difference": {
            "input": float(np.abs(images - ours).max()),
            "probabilities": float(np.abs(theirs - answers).max()),
        },
        "versions": {"python": sys.version.split()[0], **_versions("torch", "numpy", "pillow")},
    }


def _scans(predictor: Predictor, home: Path) -> tuple[str, list[Scan]]:
    """Scans spread over the data set; where it is gone, random pictures of the training's size, said so."""
    data = predictor.experiment.data
    try:
        dataset = Dataset.open(home, data.dataset)
        chosen = np.unique(np.linspace(0, len(dataset) - 1, min(_CASES, len(dataset))).astype(int))
        return "scans of the data set", [dataset.scan(int(i)) for i in chosen]
    except UnknownDataset:
        random = np.random.default_rng(0)
        kind, top = (np.uint8, 256) if predictor.unit == 255 else (np.uint16, 65536)
        slices = 1 if data.layout == "maps" else data.num_slices + 3
        shape = (slices, data.channels, data.size_px + 3, data.size_px)
        photometric = "RGB" if data.channels == 3 else "MONOCHROME2"
        pictures = [random.integers(0, top, shape).astype(kind) for _ in range(_CASES)]
        scans = [Scan(pixels, photometric=photometric, bits=8 * kind().itemsize) for pixels in pictures]
        return "random pictures (the data set is gone)", scans


def _packed(scans: list[Scan]) -> dict[str, Any]:
    from builder.prepared import pixel_aspect

    packed: dict[str, Any] = {"num": len(scans)}
    for k, scan in enumerate(scans):
        first = scan.windows[:1]
        packed |= {
            f"pixels{k}": scan.pixels,
            f"bits{k}": scan.bits,
            f"photometric{k}": scan.photometric,
            f"window{k}": np.array([[str(w.center), str(w.width), w.function] for w in first]).reshape(-1),
            f"table{k}": np.array([v for w in first for v in w.table], np.float64),
            f"valid{k}": scan.valid if scan.valid is not None else np.zeros(0, bool),
            f"aspect{k}": pixel_aspect(scan),
        }
    return packed


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it ended without a word."
