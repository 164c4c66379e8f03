"""How good a run is: figures with 95 % intervals from a bootstrap over patients, on predictions that are stored once.

The figures themselves are in `measures`.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import zipfile
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from builder.data import Dataset
from builder.measures.bootstrap import RESAMPLES
from builder.measures.classes import Predictions, report
from builder.predict import Predictor
from builder.runs import Run, write_atomic

_READ_BYTES = 256 << 20  # of prepared scans, as floats, at once


class EvaluateError(ValueError):
    """A run that cannot be evaluated as asked. Its text is one sentence for people."""


def evaluate(
    run: Run,
    home: Path,
    split: str = "test",
    *,
    resamples: int = RESAMPLES,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """How good the best weights of `run` are on a split of its data set.

    Predictions are computed once and kept in the run's folder (`predictions-<split>.npz`), the figures beside them
    (`evaluation-<split>.json`). Each call on the test split is counted in the data set's `test-openings.jsonl`: a test
    side that is looked at often is no test any more.

    Returns, as JSON data: run, split, what `measures.classes.report` gives, dataset, synthetic, checkpoint (SHA-256 of
    the weights), at (when), openings {run, dataset} (test only). A value is None where it is undefined.

    Raises:
        PredictError: the run cannot be rebuilt. UnknownDataset: its data set is gone.
        EvaluateError: the split has no labelled case, or the data set's classes have changed since.
    """
    predictor = Predictor.open(run.folder, device=_device())
    dataset = Dataset.open(home, predictor.experiment.data.dataset)
    if dataset.classes != predictor.classes or dataset.multi_label != predictor.multi_label:
        raise EvaluateError(
            f"The run was trained on the classes {', '.join(predictor.classes)}; the data set now has "
            f"{', '.join(dataset.classes)}. Train anew, or evaluate on the data set it was trained on."
        )
    predictions = _stored(run, split, predictor, dataset) or _computed(run, split, predictor, dataset, progress)
    result = {
        "run": run.id,
        "split": split,
        **report(predictions, predictor.classes, resamples),
        "dataset": dataset.id,
        "synthetic": dataset.synthetic,
        "checkpoint": predictor.weights_sha256,
        "at": time.time(),
    }
    if split == "test":
        result["openings"] = _opened(run, dataset)
    write_atomic(run.folder / f"evaluation-{split}.json", json.dumps(result))
    return result


def evaluation(run: Run, split: str = "test") -> dict[str, Any] | None:
    """The figures of the last `evaluate`, without opening anything; None where there are none."""
    try:
        found = json.loads((run.folder / f"evaluation-{split}.json").read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _computed(
    run: Run, split: str, predictor: Predictor, dataset: Dataset, progress: Callable[[int, int], None] | None
) -> Predictions:
    indices = dataset.indices(split)
    if not len(indices):
        raise EvaluateError(f"The {split} split of data set {dataset.name!r} has no labelled case to evaluate on.")
    prepared = dataset.prepared(predictor.experiment.data)
    parts = []
    step = max(1, min(256, _READ_BYTES // (4 * int(np.prod(prepared.images.shape[1:])))))
    for start in range(0, len(indices), step):
        rows = prepared.rows(indices[start : start + step])
        parts.append(predictor.probabilities(rows.astype(np.float32) / np.float32(prepared.unit)))
        if progress:
            progress(min(start + step, len(indices)), len(indices))
    cases = np.array([dataset.cases[i].id for i in indices])
    found = Predictions(np.concatenate(parts), dataset.labels[indices], dataset.patients[indices], cases)
    temporary = run.folder / f".predictions-{split}.{os.getpid()}.npz"
    np.savez(temporary, key=_key(predictor, dataset, cases), **asdict(found))
    os.replace(temporary, run.folder / f"predictions-{split}.npz")
    return found


def _stored(run: Run, split: str, predictor: Predictor, dataset: Dataset) -> Predictions | None:
    """The predictions of an earlier call; None where there are none, or they are of other weights or other cases."""
    path = run.folder / f"predictions-{split}.npz"
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            cases = np.array([dataset.cases[i].id for i in dataset.indices(split)])
            if str(stored["key"]) != _key(predictor, dataset, cases):
                return None
            return Predictions(**{f.name: stored[f.name] for f in fields(Predictions)})
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None  # cut off while it was written: it can be computed again


def _key(predictor: Predictor, dataset: Dataset, cases: np.ndarray) -> str:
    named = f"{predictor.weights_sha256} {dataset.id} {' '.join(cases)}"
    return hashlib.sha256(named.encode()).hexdigest()


def _opened(run: Run, dataset: Dataset) -> dict[str, int]:
    """Count one opening of the test side: {run: by this run, dataset: by all runs}, this one included."""
    path = dataset.folder / "test-openings.jsonl"
    line = json.dumps({"at": time.time(), "run": run.id}) + "\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, line.encode())  # one write: lines of two processes never mix
    finally:
        os.close(descriptor)
    runs = [json.loads(found)["run"] for found in path.read_text().splitlines() if found]
    return {"run": runs.count(run.id), "dataset": len(runs)}


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
