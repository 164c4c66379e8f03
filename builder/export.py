"""A network to take away: as readable code or in a format that other tools run, with a proof that it answers the same.

A trained run, or a network that has not learned anything yet. Every target writes a folder; the proof asks what was
written, in a fresh Python process and on the same scans; an export that differs is never handed out.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from builder import keras_export, nearness, network, onnx_export, operating, program_export, pytorch_export, task
from builder.data import Dataset, UnknownDataset
from builder.drawing import graph_svg, network_svg
from builder.predict import Predictor
from builder.prepared import pixel_aspect
from builder.readme import MAKERS, PACKAGES, asked_once, readme, requirements, versions
from builder.runs import Run, write_atomic
from builder.scans import NAMED_WINDOWS, Scan
from builder.spec import Experiment, Problem
from builder.tracing import Untraceable, trace

if TYPE_CHECKING:
    from torch.export import ExportedProgram

TOLERANCE = pytorch_export.TOLERANCE
"""Largest difference of a probability between the app and the exported PyTorch code."""
EXPECTED = ("modalities", "bodies", "bits", "channels", "sizes")
"""What of the training scans every export knows, so that it tells scans that are unlike them."""
_CASES = 16
_TIMEOUT_S = 300


class ExportError(ValueError):
    """A network that cannot be exported. Its text is one sentence for people."""


@dataclass(frozen=True)
class Target:
    """A format.

    Attributes:
        title, help: for people. tolerance: the largest difference of a probability; None where nothing is computed.
    """

    name: str
    title: str
    help: str
    tolerance: float | None = None


TARGETS: dict[str, Target] = {
    t.name: t
    for t in (
        Target(
            "pytorch",
            "PyTorch project",
            "Readable code with weights: the network, its training and how scans are prepared.",
            TOLERANCE,
        ),
        Target(
            "keras",
            "Keras 3",
            "A .keras file with the weights, and the same network as a readable model.py.",
            keras_export.TOLERANCE,
        ),
        Target(
            "onnx",
            "ONNX",
            "One file for onnxruntime, from grey values to probabilities: window, resize and normalization inside.",
            onnx_export.TOLERANCE,
        ),
        Target(
            "torch-export",
            "torch.export program",
            "A .pt2 file: the network as a fixed graph that torch runs without any model code.",
            program_export.TOLERANCE,
        ),
        Target("document", "Document", "Every choice as one JSON file, which ScanLoom opens again."),
        Target("svg", "Drawing", "The network as a picture for a paper or a slide (SVG)."),
    )
}


# -- what is exported -------------------------------------------------------------------------------------------------


def trained(run: Run) -> Predictor:
    """What is exported of a run: its best weights, with the preparation of its training.

    Raises:
        PredictError: the run cannot be rebuilt.
    """
    return Predictor.open(run.folder)


def untrained(experiment: Experiment, home: Path) -> Predictor:
    """What is exported of a network that has learned nothing: the weights that a training of it would begin with.

    Classes are those of its data set; two that are called "class 1" and "class 2" where none is chosen. Scans are not
    shifted and scaled by a data set's mean and spread, which only a training takes.

    Raises:
        ExportError: a network that does not fit together.
    """
    classes, multi_label, unit, facts = classes_of(experiment, home)
    try:
        net = network.assemble_of(experiment, len(classes), seed=experiment.training.seed)
    except ValueError as error:
        raise ExportError(f"The network cannot be built. {error}") from error
    mean, std = pytorch_export.normalization(experiment)
    return Predictor(experiment, classes, multi_label, unit, mean, std, "", net.eval(), facts)


def classes_of(experiment: Experiment, home: Path) -> tuple[tuple[str, ...], bool, int, dict[str, Any]]:
    """(classes, several labels a scan, steps of grey, facts) of an experiment's data set, or two classes without one.

    Raises:
        ExportError: a data set that is named but not there.
    """
    if not experiment.data.dataset:
        return ("class 1", "class 2"), False, 255, {}
    try:
        dataset = Dataset.open(home, experiment.data.dataset)
    except UnknownDataset as error:
        raise ExportError(str(error)) from error
    return tuple(dataset.classes), dataset.multi_label, dataset.unit, dataset.fingerprint.to_json()


def unsupported(experiment: Experiment, to: str, num_classes: int = 2) -> tuple[Problem, ...]:
    """What a format cannot carry of a network, each with the layer's path; () where nothing stands in the way.

    Nothing is computed: the operators are read off the network on torch's meta device. What is wrong with the network
    itself is told too.

    Raises:
        ExportError: an unknown format.
    """
    _target(to)
    return _unsupported(experiment.dumps(), to, num_classes)


@lru_cache(maxsize=64)
def _unsupported(document: str, to: str, num_classes: int) -> tuple[Problem, ...]:
    experiment = Experiment.loads(document)
    planned = network.plan_of(experiment, num_classes)
    wrong = [Problem(f"network.{n.id}", n.message) for n in planned.nodes if n.message]
    if not planned.nodes:
        wrong = [Problem("network", "The network has no layers.")]
    if wrong and to != "document":
        return tuple(wrong)
    if to in (refused := task.find(experiment.task).not_exported(experiment.data)):
        return (Problem("network", f"{TARGETS[to].title}: {refused[to]}"),)
    check = {"keras": keras_export.unsupported, "onnx": onnx_export.unsupported, "torch-export": lambda program: []}
    if to not in check:
        return ()
    try:
        found = check[to](_operators(document, num_classes))
    except Untraceable as error:
        return (Problem("network", f"{TARGETS[to].title}: {error}"),)
    return tuple(
        Problem(
            f"network.{path.split('.')[0]}" if path else "network",
            f"{TARGETS[to].title} cannot carry this layer: {words}",
        )
        for path, words in dict(found).items()
    )


@lru_cache(maxsize=2)
def _operators(document: str, num_classes: int) -> ExportedProgram:
    """A network written down as operators, without numbers: a page asks about all formats in turn."""
    import torch

    experiment = Experiment.loads(document)
    with torch.device("meta"):
        net = network.assemble_of(experiment, num_classes, trained=True).eval()
    return trace(net, network.input_shape(experiment), "meta")


def _target(to: str) -> Target:
    if to not in TARGETS:
        raise ExportError(f"There is no export to {to!r}; there is {', '.join(TARGETS)}.")
    return TARGETS[to]


# -- writing ----------------------------------------------------------------------------------------------------------


def export(what: Run | Experiment, home: Path, to: str = "pytorch", out: Path | None = None) -> Path:
    """Write a stand-alone copy of a network and give back its zip file.

    The folder beside the zip (same name without ".zip") holds what the target writes, the document as experiment.json,
    README.md and parity.json {cases, source, tolerance, difference {input, probabilities}, versions}. Both are called
    `stem_of`; where something lies there that no export wrote, or that was changed since, it stays as it is and "-2",
    "-3", ... is added to the name.

    Args:
        what: a trained run, or an experiment, whose network is taken as a training of it would begin.
        out: the folder to write into; the run's own folder `exports` by default.
    Raises:
        ExportError: an unknown format, a folder that cannot be written, a layer that the format cannot carry, or an
            export whose answers differ from the app's by more than the target's tolerance.
        PredictError: the run cannot be rebuilt.
    """
    target = _target(to)
    run = what if isinstance(what, Run) else None
    predictor = trained(what) if isinstance(what, Run) else untrained(what, home)
    problems = unsupported(predictor.experiment, to, len(predictor.classes))
    if problems:
        raise ExportError(" ".join(f"{p.path.removeprefix('network.')}: {p.message}" for p in problems))
    if out is None and run is None:
        raise ExportError("Say where the export is to be written.")
    out = Path(out) if out is not None else what.folder / "exports"  # type: ignore[union-attr]
    name = stem_of(what, to)
    with _writing(out):
        out.mkdir(parents=True, exist_ok=True)
        passing = tempfile.TemporaryDirectory(prefix=".export-", dir=out)
    with passing:
        folder = Path(passing.name) / name
        with _writing(out):
            folder.mkdir()
            before = _write(folder, target, predictor, run)
        proof = _proof(folder, target, predictor, home, before)
        most = float(np.max([0.0, *proof["difference"].values()]))  # one that is no number shows
        if target.tolerance is not None and not most <= target.tolerance:
            raise ExportError(
                f"The exported code answers differently from the app (by up to {most:.2g}; {target.tolerance:g} is "
                "allowed), so it is not handed out. This is a fault of ScanLoom's own."
            )
        with _writing(out):
            name = _free(out, name)
            write_atomic(folder / "parity.json", json.dumps(proof, indent=2) + "\n")
            archive = Path(passing.name) / f"{name}.zip"
            with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
                for file in sorted(folder.iterdir()):
                    packed.write(file, f"{name}/{file.name}")
            if (out / name).exists():
                (out / name).rename(Path(passing.name) / "before")  # goes with the passing folder
            folder.rename(out / name)
            archive.replace(out / archive.name)
    return out / f"{name}.zip"


def stem_of(what: Run | Experiment, to: str) -> str:
    """What an export is called, without ".zip", where nothing stands in its place."""
    return f"{what.id if isinstance(what, Run) else file_name(what.name)}-{to}"


def _free(out: Path, name: str) -> str:
    """The first of `name`, `name`-2, ... under which nothing lies in `out` but an export as it was written."""
    number, free = 1, name
    while not _untouched(out / free, out / f"{free}.zip"):
        number += 1
        free = f"{name}-{number}"
    return free


def _untouched(folder: Path, archive: Path) -> bool:
    """Whether folder and zip may be replaced: an export, every file of the folder as it lies in the zip, or nothing."""
    if not os.path.lexists(folder) and not os.path.lexists(archive):
        return True
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        return False
    try:
        with zipfile.ZipFile(archive) as packed:
            written = {info.filename: info for info in packed.infolist()}
            if f"{folder.name}/parity.json" not in written:
                return False
            for file in sorted(folder.rglob("*")):
                if "__pycache__" in file.parts or (file.is_dir() and not file.is_symlink()):
                    continue  # Python's own copies of the code, not a person's
                info = written.get(f"{folder.name}/{file.relative_to(folder).as_posix()}")
                if info is None or file.is_symlink() or file.stat().st_size != info.file_size:
                    return False
                if zlib.crc32(file.read_bytes()) != info.CRC:
                    return False
    except (OSError, zipfile.BadZipFile):
        return False
    return True


def file_name(name: str) -> str:
    """A network's name as part of a file name: letters, digits, "-" and "_"."""
    return re.sub(r"[^\w-]+", "-", name, flags=re.ASCII).strip("-")[:60] or "network"


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """What the disk refuses in here is told in words."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ExportError(f"The folder {out} cannot be written ({reason}).") from error


def _write(folder: Path, target: Target, predictor: Predictor, run: Run | None) -> str:
    """Writes all files but the proof; returns what a fresh process has to do before it can be asked."""
    experiment = predictor.experiment
    settings = {
        "classes": list(predictor.classes),
        "multi_label": predictor.multi_label,
        **experiment.data.model_dump(exclude={"dataset", "exclude", "leaks"}),
        **({"leaky": predictor.leaky} if predictor.leaky else {}),
        "settled": predictor.settled,
        "outlined": predictor.asked.outlined,
        "terms": {name: getattr(predictor.terms, name) for name in ("temperature", "limit", "gate")},
        "expects": {name: predictor.met.get(name) or {} for name in EXPECTED},
        "unit": predictor.unit,
        "mean": [float(v) for v in predictor.mean],
        "std": [float(v) for v in predictor.std],
        "named_windows": {name: list(pair) for name, pair in NAMED_WINDOWS.items()},
    }
    if said := asked_once(experiment):
        settings["asked_once"] = said
    elif run is not None and (known := operating.worth(run, predictor.weights_sha256)):
        settings["worth"] = known
    if run is not None and target.name == "pytorch" and (near := nearness.of_run(predictor, run.folder, run.home)):
        settings |= {"nearness": told} if (told := pytorch_export.put_nearness(folder, predictor, near)) else {}
    texts = {
        "experiment.json": experiment.dumps(),
        "README.md": readme(target.name, target.title, predictor, run),
    }
    if target.tolerance is not None:
        texts["requirements.txt"] = requirements(target.name, experiment)
        texts["settings.json"] = json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
    if experiment.data.fit == "patches" and not experiment.data.blocks and target.tolerance is not None:
        reach, align = predictor.sight() or (None, 1)
        settings["tiles"] = {"reach": reach, "align": align, "scale": experiment.data.scale}
        texts["settings.json"] = json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
    if target.name == "svg":
        texts["network.svg"] = network_svg(experiment, len(predictor.classes))
        texts["graph.svg"] = graph_svg(experiment, len(predictor.classes))
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    writers = {
        "pytorch": pytorch_export.write,
        "keras": keras_export.write,
        "onnx": onnx_export.write,
        "torch-export": program_export.write,
    }
    try:
        return writers[target.name](folder, predictor) if target.name in writers else ""
    except Untraceable as error:
        raise ExportError(str(error)) from error


# -- the proof --------------------------------------------------------------------------------------------------------

_CHECK = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
import predict
cases = np.load(sys.argv[2], allow_pickle=False)
images, straight = [], []
for k in range(int(cases["num"])):
    window = cases[f"window{k}"]
    words = (*map(float, window[:2]), str(window[2]), cases[f"table{k}"]) if len(window) else ()
    valid = cases[f"valid{k}"] if cases[f"valid{k}"].size else None
    scan = predict.Scan(
        cases[f"pixels{k}"], int(cases[f"bits{k}"]), str(cases[f"photometric{k}"]), words, valid,
    float(cases[f"aspect{k}"]) )
    images.append(predict.prepare(scan))
    if hasattr(predict, "straight"):
        straight.append(predict.straight(scan))
model = predict.load()
one_size = len({image.shape for image in images}) == 1
answers = predict.probabilities(model, np.stack(images) if one_size else images)
if any(given is not None for given in straight):
    whole = np.stack([answers[k] if s is None else predict.ask(model, *s)[0] for k, s in enumerate(straight)])
    told = {"straight": whole, "num_straight": sum(s is not None for s in straight)}
else:
    told = {}
assert not any(name.split(".")[0] in ("builder", "tasks") for name in sys.modules), "the export imports ScanLoom"
pairs = zip(images, answers)
kept = {f"{name}{k}": value for k, pair in enumerate(pairs) for name, value in zip(("image", "answer"), pair)}
np.savez(sys.argv[3], **kept, **told)
"""


def _proof(folder: Path, target: Target, predictor: Predictor, home: Path, before: str) -> dict[str, Any]:
    """Largest differences between the app and the export in a fresh process, on stored scans of the data set."""
    used = {"python": sys.version.split()[0], **versions(*PACKAGES[target.name], *MAKERS.get(target.name, ()))}
    if target.tolerance is None:
        same = Experiment.loads((folder / "experiment.json").read_bytes()).digest == predictor.experiment.digest
        assert same, "the document does not read back as itself"
        return {"cases": 0, "source": "nothing is computed", "tolerance": 0.0, "difference": {}, "versions": used}
    source, scans = _scans(predictor, home)
    ours = [predictor.prepared(scan) for scan in scans]
    answers = predictor.outputs(ours)
    with tempfile.TemporaryDirectory(prefix="scanloom-parity-") as place:
        given, told = Path(place) / "cases.npz", Path(place) / "answers.npz"
        np.savez(given, **_packed(scans))
        command = [sys.executable, "-I", "-B", "-c", before + _CHECK, str(folder), str(given), str(told)]
        try:
            done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise ExportError(
                f"The exported code had not answered {len(scans)} scans after {_TIMEOUT_S} seconds, so it could not be "
                "proved and is not handed out. A smaller network or smaller scans, or a machine with less to do, help."
            ) from error
        if done.returncode:
            raise ExportError(f"The exported code does not run, so it is not handed out: {_last_line(done.stderr)}")
        with np.load(told, allow_pickle=False) as found:
            difference = {
                "input": float(np.max([_apart(found[f"image{k}"], mine) for k, mine in enumerate(ours)])),
                "probabilities": float(np.max([_apart(found[f"answer{k}"], mine) for k, mine in enumerate(answers)])),
            }
            if "straight" in found:
                difference["from_grey_values"] = _apart(found["straight"], np.stack(answers))
    return {
        "cases": len(scans),
        "source": source,
        "tolerance": target.tolerance,
        "difference": difference,
        "versions": used,
    }


def _apart(theirs: np.ndarray, ours: np.ndarray) -> float:
    """The largest difference; NaN, which no tolerance allows, where the shapes differ."""
    return float(np.abs(theirs - ours).max()) if theirs.shape == ours.shape else float("nan")


def _scans(predictor: Predictor, home: Path) -> tuple[str, list[Scan]]:
    """Scans spread over the data set; where there is none, random pictures of the training's size, said so."""
    data = predictor.experiment.data
    why = "no data set is chosen"
    if data.dataset:
        try:
            dataset = Dataset.open(home, data.dataset)
            chosen = np.unique(np.linspace(0, len(dataset) - 1, min(_CASES, len(dataset))).astype(int))
            return "scans of the data set", [dataset.scan(int(i)) for i in chosen]
        except UnknownDataset:
            why = "the data set is gone"
    random = np.random.default_rng(0)
    kind, top = (np.uint8, 256) if predictor.unit == 255 else (np.uint16, 65536)
    slices = 1 if data.layout == "maps" else data.num_slices + 3
    shape = (slices, data.channels, data.size_px + 3, data.size_px)
    photometric = "RGB" if data.channels == 3 else "MONOCHROME2"
    pictures = [random.integers(0, top, shape).astype(kind) for _ in range(_CASES)]
    scans = [Scan(pixels, photometric=photometric, bits=8 * kind().itemsize) for pixels in pictures]
    return f"random pictures ({why})", scans


def _packed(scans: list[Scan]) -> dict[str, Any]:
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
