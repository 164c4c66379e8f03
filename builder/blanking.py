"""What is a run going by? Its answers to the validation scans again, with parts of every scan taken away.

A network that still tells the classes apart when the lesion, or the whole middle of the scan, is gone goes by something
else: a marker, a border, the way the scan was made (Zech et al., PLoS Med 15:e1002683, 2018; DeGrave et al., Nat Mach
Intell 3:610, 2021). A high figure convicts; a low one acquits of nothing, as such scans are unlike any that it learned
from. The validation side is asked, so that no look at the test side is spent on it.

What is taken away is filled with the picture's own median, which no border of a black bar betrays as much.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from builder import task
from builder.data import Dataset
from builder.lettering import lettering
from builder.measures import bootstrap
from builder.measures.classes import Predictions, figures, rests_on
from builder.parting import dataset_of
from builder.predict import Predictor
from builder.runs import Run, write_atomic
from builder.targets import Targets

FILE = "blanked.json"
RESAMPLES = 1000
COARSE_PX = 16
_RING = 0.15  # of each side: what counts as border
_MIDDLE = 0.5  # of each side: what counts as the middle
_BATCH = 32
_DRAWN = 3
_FEW = 12  # cases with a lesion, below which nothing is said about lesions


class NotAsked(ValueError):
    """A run that cannot be asked like this. Its text is one sentence for people."""


@dataclass(frozen=True)
class Probe:
    """One way of taking something away.

    Attributes:
        title, help: for people. telling: a high figure says that the network goes by what is left. needs: what must be
        known to lie somewhere for it: "", "lesion" or "text". only: asked of scans that have it alone.
    """

    title: str
    help: str
    telling: bool = False
    needs: str = ""
    only: bool = False


PROBES = {
    "whole": Probe("The whole scan", "As it was learned from: what the others are compared with."),
    "without_middle": Probe(
        "Without its middle", "The middle half of each side is blank: organs are mostly there.", telling=True
    ),
    "border": Probe(
        "Its border alone", "Only the outermost 15 % of each side are left: markers, text, collimation.", telling=True
    ),
    "coarse": Probe("Blurred to 16 pixels", f"{COARSE_PX} x {COARSE_PX} grey values are left of it: no detail at all."),
    "without_lesion": Probe(
        "Without its lesions", "What people outlined or boxed is blank.", telling=True, needs="lesion"
    ),
    "lesion": Probe(
        "Its lesions alone", "Everything but what people outlined or boxed is blank.", needs="lesion", only=True
    ),
    "without_text": Probe(
        "Without its text",
        "Rows of thin bright strokes on a dark ground are blank: burnt-in letters mostly. Pale or dark letters and "
        "letters over tissue are missed, and a ruler may be taken for letters.",
        needs="text",
    ),
    "text": Probe("Its text alone", "Everything but such rows of strokes is blank.", True, needs="text", only=True),
}


def blanked(name: str, images: np.ndarray, inside: np.ndarray | None = None) -> np.ndarray:
    """Images with something taken away, as new arrays.

    Args:
        name: one of `PROBES`. images: (B, ..., H, W) float32 in [0, 1]. inside: (B, H, W) bool, where lesions
            or letters are.
    Returns: as `images`.
    """
    if name == "whole":
        return images
    height, width = images.shape[-2:]
    if name == "coarse":
        return _coarse(images)
    rows, columns = (np.arange(n) + 0.5 for n in (height, width))
    away = np.maximum(np.abs(rows / height - 0.5)[:, None], np.abs(columns / width - 0.5)[None])  # 0 middle, 0.5 edge
    if name == "without_middle":
        gone = np.broadcast_to(away < _MIDDLE / 2, (len(images), height, width))
    elif name == "border":
        gone = np.broadcast_to(away < 0.5 - _RING, (len(images), height, width))
    else:
        assert inside is not None
        gone = ~inside if PROBES[name].only else inside
    gone = gone.reshape(len(images), *[1] * (images.ndim - 3), height, width)
    fill = np.median(images, axis=(-2, -1), keepdims=True)
    return np.where(gone, fill, images).astype(np.float32)


def _coarse(images: np.ndarray) -> np.ndarray:
    import torch
    from torch.nn import functional

    flat = torch.from_numpy(images.reshape(-1, 1, *images.shape[-2:]))
    few = functional.adaptive_avg_pool2d(flat, COARSE_PX)
    return functional.interpolate(few, images.shape[-2:], mode="bilinear").numpy().reshape(images.shape)


# -- a run, asked -----------------------------------------------------------------------------------------------------


def ask(
    run: Run, home: Path, progress: Callable[[int, int], None] | None = None, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """Asks a run about its validation scans as they are and with parts taken away; kept as `blanked.json`.

    Returns, as JSON data: {run, n, patients, with_lesions, with_text, probes {name: {auc, accuracy: {value, low, high},
    n}}, verdicts [sentences], checkpoint}. Intervals are a bootstrap over patients; all probes meet the same draws.

    Raises:
        NotAsked: a task that does not tell classes apart, or no validation scan with a class, or fewer than two classes
            among them. PredictError, UnknownDataset: as elsewhere.
    """
    predictor = Predictor.open(run.folder)
    experiment, kind = predictor.experiment, task.find(predictor.experiment.task)
    if "class" not in kind.learns or len(predictor.classes) < 2:
        raise NotAsked(f"{kind.title} does not tell classes apart, so there is nothing to ask like this.")
    dataset = dataset_of(run.folder, home, experiment.data.dataset)
    cases = dataset.indices("val")
    labels = dataset.labels[cases]
    if not len(cases) or (labels.ndim == 1 and len(np.unique(labels)) < 2):
        raise NotAsked("The validation scans hold fewer than two classes: nothing can be told apart there.")
    if experiment.data.fit == "patches":
        raise NotAsked("A network that was taught with patches sees no whole scan, so nothing can be taken away of it.")
    prepared = dataset.prepared(experiment.data)
    known = ("class", "boxes", "mask") if experiment.data.layout == "maps" else ("class",)
    targets = Targets(dataset, experiment.data, prepared, cases, known)
    there = {"text": _letters(prepared, targets)}
    has = {"lesion": np.zeros(len(targets), bool), "text": np.asarray(there["text"].any((1, 2)))}
    if "boxes" in known:
        there["lesion"], has["lesion"] = lesions(targets, experiment.data.size_px)
    num_with = {what: len(np.unique(targets.cases[rows])) for what, rows in has.items()}
    names = [name for name, probe in PROBES.items() if not probe.needs or num_with[probe.needs] >= _FEW]
    chances: dict[str, Chances] = {}
    total = len(names) * len(targets)
    for at, name in enumerate(names):
        rows = []
        for start in range(0, len(targets), _BATCH):
            part = slice(start, start + _BATCH)
            images = prepared.rows(targets.rows[part]).astype(np.float32) / np.float32(prepared.unit)
            where = there.get(PROBES[name].needs)
            images = blanked(name, images, None if where is None else where[part])
            rows.append(chances_of(predictor, kind, images))
            if progress:
                progress(min(total, at * len(targets) + start + len(images)), total)
        chances[name] = joined(rows)
    _draw(run, prepared, targets, there, has, names)
    report = _report(chances, targets, has, dataset, resamples)
    told = {"run": run.id, "checkpoint": predictor.weights_sha256, **report}
    write_atomic(run.folder / FILE, json.dumps(told))
    return told


def kept(run: Run) -> dict[str, Any] | None:
    """What `ask` found last; None where it was not asked."""
    try:
        found = json.loads((run.folder / FILE).read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def drawn(run: Run, name: str) -> Path:
    """The file with a few validation scans as they were shown, side by side; perhaps it is not there."""
    return run.folder / f"blanked-{name}.png"


def _letters(prepared: Any, targets: Targets) -> np.ndarray:
    """(N, H, W) bool: where letters seem to be on each row."""
    found = []
    for start in range(0, len(targets), _BATCH):
        images = prepared.rows(targets.rows[start : start + _BATCH]).astype(np.float32) / np.float32(prepared.unit)
        found.append(lettering(images))
    return np.concatenate(found)


def _draw(
    run: Run,
    prepared: Any,
    targets: Targets,
    there: dict[str, Any],
    has: dict[str, np.ndarray],
    names: list[str],
) -> None:
    from PIL import Image

    for name in names:
        marked = has[PROBES[name].needs or "lesion"]
        chosen = np.concatenate([np.flatnonzero(marked), np.flatnonzero(~marked)])[:_DRAWN]
        images = prepared.rows(targets.rows[chosen]).astype(np.float32) / np.float32(prepared.unit)
        where = there.get(PROBES[name].needs)
        shown = blanked(name, images, None if where is None else where[chosen])
        strip = np.concatenate([_middle(image) for image in shown], 1)
        Image.fromarray((strip.clip(0, 1) * 255).round().astype(np.uint8)).save(drawn(run, name))


def _middle(image: np.ndarray) -> np.ndarray:
    """The middle slice, in grey: (H, W)."""
    while image.ndim > 3:
        image = image[image.shape[0] // 2]
    grey: np.ndarray = image.mean(0)
    return grey


Chances = tuple[np.ndarray, np.ndarray]
"""Of rows: probabilities of the classes (N, K), and how much each counts in its case (N,)."""


def chances_of(predictor: Predictor, kind: task.Task, images: np.ndarray) -> Chances:
    """What a run says of the classes of prepared images."""
    import torch

    with torch.inference_mode():
        output = predictor.run(images)
        scores = kind.evidence(predictor.experiment, output)
        if scores is None:
            raise NotAsked("This network answers without class scores, so it cannot be asked like this.")
        found: np.ndarray = (scores.sigmoid() if predictor.multi_label else scores.softmax(1)).cpu().numpy()
        return found, kind.counts(predictor.asked, output).cpu().numpy()


def joined(parts: list[Chances]) -> Chances:
    """Those of several batches."""
    return np.concatenate([chances for chances, _ in parts]), np.concatenate([counts for _, counts in parts])


def of_cases(told: Chances, cases: np.ndarray, own: np.ndarray) -> np.ndarray:
    """(n, K) probabilities of the cases `own` (n,) out of those of rows of `cases` (N,): as the task puts the rows of a
    case together, and all alike where none counts."""
    chances, counts = told
    found = []
    for case in own:
        rows = cases == case
        weights = counts[rows] if counts[rows].any() else np.ones(rows.sum())
        found.append(np.average(chances[rows], 0, weights))
    return np.stack(found).astype(np.float64)


def lesions(targets: Targets, side: int) -> tuple[np.ndarray, np.ndarray]:
    """(N, side, side) bool where lesions are, and (N,) bool which rows have any."""
    inside = np.zeros((len(targets), side, side), bool)
    if targets.masks is not None:
        inside |= targets.masks > 0
    for row, boxes in enumerate(targets.boxes or ()):
        for x0, y0, x1, y1 in boxes:
            inside[row, int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))] = True
    some = np.asarray(inside.any((1, 2)))
    return inside, some


def _report(
    chances: dict[str, Chances], targets: Targets, has: dict[str, np.ndarray], dataset: Dataset, resamples: int
) -> dict[str, Any]:
    assert targets.classes is not None
    own, first = np.unique(targets.cases, return_index=True)
    labels, patients = targets.classes[first], dataset.patients[own]
    cases_with = {what: np.array([rows[targets.cases == case].any() for case in own]) for what, rows in has.items()}
    asked: dict[str, Predictions] = {}
    probes: dict[str, Any] = {}
    for name, rows in chances.items():
        by_case = of_cases(rows, targets.cases, own)
        # Without lesions a scan shows all that it shows as it is: only scans that have one can be asked about theirs.
        use = cases_with[PROBES[name].needs] if PROBES[name].only else np.ones(len(own), bool)
        if name == "without_lesion":
            use = _looked_at(dataset, own, labels, cases_with["lesion"])
        predictions = Predictions(by_case[use], labels[use], patients[use], own[use])
        told = _figures(predictions, resamples)
        probes[name] = {**told, "n": int(use.sum())}
        asked[name] = predictions
    if "without_text" in asked:
        probes["without_text"]["lost"] = _lost(asked["whole"], asked["without_text"], resamples)
    return {
        "n": len(own),
        "patients": len(np.unique(patients)),
        "with_lesions": int(cases_with["lesion"].sum()),
        "with_text": int(cases_with["text"].sum()),
        "probes": probes,
        "verdicts": verdicts(probes),
    }


def _looked_at(dataset: Dataset, cases: np.ndarray, labels: np.ndarray, lesions: np.ndarray) -> np.ndarray:
    """(N,) bool: the cases whose lesions are known. Of a class that shows any, a scan on which nobody has looked for
    them may still hold its own, and would prove that the network needs none."""
    kinds = [tuple(np.atleast_1d(label).tolist()) for label in labels]
    showing = {kind for kind, some in zip(kinds, lesions, strict=True) if some}
    known = [dataset.cases[case].carries("boxes") or dataset.cases[case].carries("mask") for case in cases]
    return np.array([there or kind not in showing for there, kind in zip(known, kinds, strict=True)], bool)


def _figures(predictions: Predictions, resamples: int) -> dict[str, Any]:
    """auc and accuracy with intervals."""

    def told(weights: np.ndarray) -> dict[str, np.ndarray]:
        return {name: values for name, values in figures(predictions, weights).items() if name in ("auc", "accuracy")}

    return bootstrap.intervals(told, predictions.patients, resamples, rests_on=rests_on(predictions))


def _lost(whole: Predictions, without: Predictions, resamples: int) -> dict[str, Any]:
    """By how much the AUC falls where something is taken away, on the same draws of patients."""

    def told(weights: np.ndarray) -> dict[str, np.ndarray]:
        return {"lost": figures(whole, weights)["auc"] - figures(without, weights)["auc"]}

    found: dict[str, Any] = bootstrap.intervals(told, whole.patients, resamples, shares=())["lost"]
    return found


def verdicts(probes: dict[str, Any]) -> list[str]:
    """What the figures say, in sentences, the gravest first; one sentence where they accuse of nothing."""
    whole = probes["whole"]["auc"]
    said = []
    if whole["value"] is None or whole["low"] is None or whole["low"] <= 0.5:
        return [
            "On the validation scans as they are it does not tell the classes apart: nothing can be said about why."
        ]
    for name, probe in PROBES.items():
        told = probes.get(name, {}).get("auc")
        if not probe.telling or told is None or told["value"] is None or told["low"] is None or told["low"] <= 0.5:
            continue
        left = (told["value"] - 0.5) / (whole["value"] - 0.5)
        part = "nearly all" if left > 0.8 else "much" if left > 0.4 else "some"
        where = {
            "without_middle": "outside of the middle of the scan",
            "border": "on the border of the scan",
            "without_lesion": "outside of the lesions",
            "text": "in letters that are burnt into the scan",
        }[name]
        said.append(
            (
                left,
                f"{probe.title}: still AUC {told['value']:.2f} ({told['low']:.2f} to {told['high']:.2f}), of "
                f"{whole['value']:.2f} on the whole scan. {part.capitalize()} of what it goes by lies {where}.",
            )
        )
    lost = probes.get("without_text", {}).get("lost")
    if lost and lost["low"] is not None and lost["low"] > 0:
        said.append(
            (
                lost["value"] / (whole["value"] - 0.5),
                f"{PROBES['without_text'].title}: its AUC falls by {lost['value']:.2f} ({lost['low']:.2f} to "
                f"{lost['high']:.2f}). Some of what it goes by are letters that are burnt into the scan.",
            )
        )
    coarse = probes.get("coarse", {}).get("auc")
    words = [sentence for _, sentence in sorted(said, reverse=True)]
    if coarse and coarse["low"] is not None and coarse["low"] > 0.5:
        left = (coarse["value"] - 0.5) / (whole["value"] - 0.5)
        if left > 0.8:
            words.append(
                f"Blurred to {COARSE_PX} pixels: still AUC {coarse['value']:.2f}. It needs no detail: coarse "
                "brightness and position nearly suffice."
            )
    return words or [
        "With the middle, or the lesions, taken away it no longer tells the classes apart. That is as it should be, "
        "and no proof: blanked scans are unlike any that it learned from."
    ]
