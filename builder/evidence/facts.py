"""Everything that is known of a run, as plain data: what the report, the checklists and the proof are made of.

No name, path or picture is taken up: cases are counted, pseudonyms stay where they are, what people typed into notes is
left out.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from builder import baseline, blanking, leaks, operating, task
from builder.data import SPLITS, Dataset
from builder.evaluate import evaluation, openings_file
from builder.evidence import asked, environment, hashes, recipe
from builder.operating import Choice
from builder.parting import Parting, dataset_of
from builder.runs import Run
from builder.spec import Experiment

FORMAT = 1
"""Of pack.json: a change of meaning, not of additions, counts it up."""
_POINTS = 400  # of a curve
_REASONS = 12

Facts = dict[str, Any]


class NoEvidence(ValueError):
    """A run of which no pack can be made. Its text is one sentence for people."""


def gather(run: Run, home: Path) -> Facts:
    """All that is known of a run whose test side was opened.

    Returns, as JSON data: format, run, name, task, title, made, digest, came (of sides of its own: `parting`),
    data {id, ...}, flow, recipe, layers, beginning, training, evaluation, operating, probes, asked
    (`asked.gathered`), baseline, openings, environment, hashes.

    Raises:
        NoEvidence: the test side was not opened, or labels or weights changed since. UnknownDataset, SpecError.
    """
    experiment = run.experiment
    kind, dataset = task.find(experiment.task), dataset_of(run.folder, home, experiment.data.dataset)
    found = current(run, dataset)
    return {
        "format": FORMAT,
        "run": run.id,
        "name": experiment.name,
        "task": experiment.task,
        "title": kind.title,
        "headline": kind.headline,
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "digest": experiment.digest,
        "came": dict(own.came) if (own := Parting.of(run.folder)) else {},
        "data": {"id": dataset.id, "edited": dataset.edited, **dataset.fingerprint.to_json()},
        "flow": flow(dataset, experiment),
        "recipe": recipe.said(experiment),
        "layers": recipe.layers(experiment, max(1, len(dataset.classes))),
        "beginning": recipe.beginning(experiment),
        "choices": _choices(experiment),
        "training": training(run),
        "evaluation": found,
        "leaky": leaks.of_run(run).stamp,
        "operating": points(run),
        "probes": {"blanked": blanking.kept(run)},
        "asked": asked.gathered(run, dataset),
        "baseline": baseline.kept(dataset),
        "openings": openings(dataset),
        "environment": environment.here(),
        "hashes": {
            "data": hashes.of_data(dataset),
            "split": hashes.of_split(dataset),
            "document": hashes.of_file(run.folder / "experiment.json"),
            "weights": hashes.of_file(run.folder / "best.safetensors"),
            "code": hashes.of_code(),
            "openings": hashes.of_openings(dataset),
        },
    }


def current(run: Run, dataset: Dataset) -> dict[str, Any]:
    """The figures on the test side, where they are of the weights and labels of now.

    Raises:
        NoEvidence: there are none, or they are outdated.
    """
    found = evaluation(run)
    if found is None:
        raise NoEvidence(
            f"The run {run.id} has not been measured on its test side, so there is nothing to prove: open the test "
            "side first (Results page, or the command evaluate)."
        )
    if outdated(run, dataset):
        raise NoEvidence(
            f"The figures of run {run.id} are of other weights or other labels than there are now: open the test side "
            "again, then make the pack."
        )
    return found


def outdated(run: Run, dataset: Dataset) -> bool:
    """Whether weights or labels have changed since the run was measured."""
    found = evaluation(run) or {}
    weights = hashes.of_file(run.folder / "best.safetensors")
    return found.get("checkpoint") != weights or int(found.get("edited") or 0) != dataset.edited


# -- parts ------------------------------------------------------------------------------------------------------------


def flow(dataset: Dataset, experiment: Experiment) -> dict[str, Any]:
    """How files became cases and cases sides.

    Returns:
        {files {status: n}, reasons [{status, reason, n}], cases, labelled, patients, sides {side: {cases, used (what
        the task can use), patients, classes {name: n}, boxes {name: n}, masks {name: n}}}, left_out (training cases
        that a person excluded), corrections (edits of labels since the import)}.
    """
    kind, ledger = task.find(experiment.task), dataset.ledger()
    reasons = Counter((entry.status, entry.reason) for entry in ledger if entry.reason)
    facts = dataset.fingerprint
    sides = {}
    for side in SPLITS:
        used = kind.cases(dataset, experiment, side)
        here = np.flatnonzero(dataset.splits == side)
        sides[side] = {
            "cases": len(here),
            "used": len(used),
            "patients": len(np.unique(dataset.patients[here])),
            "classes": dict(facts.class_counts.get(side) or {}),
            "boxes": dict(facts.box_counts.get(side) or {}),
            "masks": dict(facts.mask_counts.get(side) or {}),
            "pairs": int(facts.num_paired.get(side) or 0),
        }
    return {
        "files": dict(Counter(entry.status for entry in ledger)),
        "reasons": [{"status": s, "reason": r, "n": n} for (s, r), n in reasons.most_common(_REASONS)],
        "cases": len(dataset),
        "labelled": sum(side["used"] for side in sides.values()),
        "patients": facts.num_patients,
        "sides": sides,
        "left_out": len(experiment.data.exclude),
        "corrections": sum(map(len, dataset.edits.of_case.values())),
    }


def training(run: Run) -> dict[str, Any]:
    """{status, epochs, epoch, best, seconds, device, warnings, curves {name: [steps, values]}}."""
    view = run.view()
    curves = {}
    for name, (steps, values) in view.curves.items():
        if "/" not in name or name.startswith(("time/", "probe/")):
            continue
        keep = np.unique(np.linspace(0, len(steps) - 1, min(_POINTS, len(steps))).round().astype(int))
        curves[name] = [
            [int(steps[k]) for k in keep],
            [float(values[k]) if math.isfinite(values[k]) else None for k in keep],
        ]
    return {
        "status": view.status,
        "epochs": view.epochs,
        "epoch": view.epoch,
        "best": view.best,
        "seconds": round(view.seconds, 1),
        "attempts": view.attempt,
        "device": view.device,
        "warnings": list(view.warnings),
        "curves": curves,
    }


def points(run: Run, choices: Mapping[str, Choice] | None = None) -> dict[str, Any]:
    """{class: {threshold, prevalence, cost, val, test: `Separation.at` or None}} of the thresholds that were kept."""
    told = {}
    for label, choice in (operating.chosen(run) if choices is None else choices).items():
        row: dict[str, Any] = {"threshold": choice.threshold, "prevalence": choice.prevalence, "cost": choice.cost}
        for side in ("val", "test"):
            here = operating.separation(run, label, side)
            usable = here is not None and here.usable and 0 < choice.prevalence < 1
            row[side] = here.at(choice.threshold, choice.prevalence) if here is not None and usable else None
        told[label] = row
    return told


def openings(dataset: Dataset) -> list[dict[str, Any]]:
    """[{at, run}]: each look at the test side so far, the oldest first."""
    try:
        lines = openings_file(dataset).read_text().splitlines()
    except OSError:
        return []
    return [json.loads(line) for line in lines if line]


def _choices(experiment: Experiment) -> dict[str, Any]:
    """The few choices that sentences name."""
    training = experiment.training
    return {
        "size_px": experiment.data.size_px,
        "layout": experiment.data.layout,
        "fit": experiment.data.fit,
        "optimizer": training.optimizer.name,
        "epochs": training.epochs,
        "batch_size": training.batch_size,
        "accumulate": training.accumulate,
        "seed": training.seed,
        "monitor": training.monitor,
        "augment": [choice.name for choice in training.augment],
        "test_time": training.test_time,
        "patience": training.patience,
    }
