"""Which training cases a run finds hardest: the loss of each with the run's saved weights, without augmentation.

A case with a high loss is rare, hard, or wrongly labelled; a look at it tells which.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from builder import checkpoint
from builder.checkpoint import CheckpointError
from builder.data import Dataset
from builder.spec import Experiment
from builder.task import Task

SHOWN = 60
_BATCH = 32


class NothingSaved(ValueError):
    """The run has saved no state that could be asked. Its text is one sentence for people."""


def hardest(
    experiment: Experiment,
    task: Task,
    dataset: Dataset,
    folder: Path,
    out: Path,
    *,
    device: str = "cpu",
    most: int = SHOWN,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """The training cases of a run, those with the highest loss first.

    Args:
        folder: of the run, whose newest saved state is asked. out: where pictures of the hardest cases go (PNG).
        most: how many cases are told one by one.

    Returns, as JSON data: {epoch, step (of the state), n (cases), mean, median, cases: [{index, case (id), loss, times
    (of the median), label, says, sure, picture}]}. `label`, `says` (what the network answers) and `sure` (0..1) are
    those of tasks that tell classes, "" and None otherwise. Cases with several rows (slices, patches) count their mean.

    Raises:
        NothingSaved: there is no state yet. ValueError, CheckpointError: as training itself.
    """
    import torch

    from builder.learner import LAST, Learner

    learner = Learner(experiment, task, dataset, dataset.prepared(experiment.data), folder, torch.device(device))
    found = checkpoint.load_latest(folder, LAST)
    if found is None:
        raise NothingSaved("The run has saved no state yet, so there is nothing to ask. Let it learn a little first.")
    if found.state.get("experiment") != experiment.digest:
        raise CheckpointError("The checkpoint in this run's folder belongs to another experiment.")
    learner.pour(found)
    learner.model.eval()
    rows, cases = len(learner.train.indices), learner.train.targets.cases
    losses, answers = np.full(rows, np.nan), [None] * rows
    with torch.inference_mode():
        for start in range(0, rows, _BATCH):
            part = np.arange(start, min(start + _BATCH, rows))
            images, target = task.pose(experiment, *learner.train.batch(part))
            output = learner.model(learner.normalized(images)).float()
            said = task.answers(experiment, learner.model, output, dataset.multi_label)
            for k, position in enumerate(part):
                _, alone = task.pose(experiment, *learner.train.batch(np.array([position])))
                losses[position] = float(learner.objective(output[k : k + 1], alone))
                answers[position] = said[k]
            told(int(part[-1]) + 1, rows)
    order, means = _by_case(cases, losses)
    median = float(np.median(means)) if len(means) else math.nan
    listed = [
        {
            "index": int(case),
            "case": dataset.cases[int(case)].id,
            "loss": round(float(loss), 4),
            "times": round(float(loss) / median, 1) if median > 0 else None,
            **_about(dataset, task, int(case), answers[int(np.flatnonzero(cases == case)[0])]),
            "picture": _picture(learner.train, int(np.flatnonzero(cases == case)[0]), experiment, out, int(case)),
        }
        for case, loss in zip(order[:most], means[:most], strict=True)
    ]
    place = found.state["place"]
    return {
        "epoch": place["epoch"] if place["update"] else place["epoch"] - 1,
        "step": place["step"],
        "n": len(order),
        "mean": round(float(means.mean()), 4) if len(means) else None,
        "median": round(median, 4) if math.isfinite(median) else None,
        "cases": listed,
    }


def _by_case(cases: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cases (int64) and the mean loss of each, the highest first; equal ones in the order of import."""
    names, codes = np.unique(cases, return_inverse=True)
    means = np.bincount(codes, losses) / np.maximum(1, np.bincount(codes))
    order = np.argsort(-means, kind="stable")
    return names[order], means[order]


def _about(dataset: Dataset, task: Task, case: int, answer: Any) -> dict[str, Any]:
    """What a person said of the case, and what the network says, where the task tells classes."""
    label = dataset.cases[case].label
    names = label if isinstance(label, tuple) else () if label is None else (label,)
    told: dict[str, Any] = {"label": ", ".join(dataset.classes[k] for k in names), "says": "", "sure": None}
    if task.label_kind == "class" and isinstance(answer, np.ndarray) and answer.ndim == 1:
        top = int(answer.argmax())
        told |= {"says": dataset.classes[top], "sure": round(float(answer[top]), 3)}
    return told


def _picture(scans: Any, position: int, experiment: Experiment, out: Path, case: int) -> str:
    """Writes what the network saw of a case (the middle slice of several) as PNG; the file's name."""
    from PIL import Image

    images, _ = scans.batch(np.array([position]))
    pixels = images[0].cpu().numpy()
    if experiment.data.layout != "maps":
        slices = np.moveaxis(pixels, experiment.data.channel_axis, 1)
        pixels = slices[len(slices) // 2]
    values = (np.clip(np.nan_to_num(pixels), 0, 1) * 255).round().astype(np.uint8)
    name = f"case-{case:06d}.png"
    Image.fromarray(values[0] if len(values) == 1 else values[:3].transpose(1, 2, 0)).save(out / name)
    return name
