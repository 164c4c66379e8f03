"""How good a run is: figures with 95 % intervals from a bootstrap over patients, on predictions that are stored once.

The figures themselves are in `measures`.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from builder import leaks, task, views
from builder.data import Dataset
from builder.measures.bootstrap import RESAMPLES
from builder.parting import Parting, dataset_of
from builder.predict import Predictor
from builder.runs import Run, write_atomic
from builder.spec import Experiment
from builder.subgroups import subgroups, verdicts


class EvaluateError(ValueError):
    """A run that cannot be evaluated as asked. Its text is one sentence for people."""


# -- runs -------------------------------------------------------------------------------------------------------------


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
    side that is looked at often is no test any more. A run with sides of its own (`parting`) is asked about those; its
    test side is what was held out of it, and nothing is opened.

    Returns, as JSON data: run, split, task, n, patients, classes, metrics {name: {value, low, high}}, what else the
    task's `report` tells (recognition: per_class, confusion, majority_accuracy, majority_class, roc; detection: froc,
    ...), interval, notes, dataset, synthetic, leaky (the
    stamp, "" without a leak), checkpoint (SHA-256 of the weights), openings {run, dataset} (test only).
    A value is None where it is undefined.

    Raises:
        PredictError: the run cannot be rebuilt. UnknownDataset: its data set is gone.
        EvaluateError: the split has no labelled case, or the data set's classes have changed since.
    """
    predictor, dataset = _opened(run, home)
    experiment = predictor.experiment
    kind = task.find(experiment.task)
    cases = _cases(dataset, experiment, split)
    examined = _examined(run, predictor, dataset, split, cases, progress)
    figures = kind.report(examined, predictor.classes, predictor.multi_label, resamples)
    chosen_on = kind.cases(dataset, experiment, "val") if split == "test" else np.zeros(0, np.int64)
    if len(chosen_on):
        before = _examined(run, predictor, dataset, "val", chosen_on)
        figures |= kind.carried(before, examined, predictor.classes, predictor.multi_label, resamples)
    if said := views.words(experiment.training.test_time):
        figures["notes"] = [*figures.get("notes", ()), said]
    judged = kind.judged(examined, len(predictor.classes))
    if judged is not None and (parts := subgroups(dataset, judged, min(resamples, 500))):
        figures["subgroups"], figures["groups_said"] = parts, verdicts(parts, judged.headlines)
    result = {
        "run": run.id,
        "split": split,
        "task": experiment.task,
        **figures,
        "dataset": dataset.id,
        "edited": dataset.edited,
        "synthetic": dataset.synthetic,
        "leaky": leaks.of_run(run, predictor.fingerprint).stamp,
        "checkpoint": predictor.weights_sha256,
        "at": time.time(),
    }
    if own := Parting.of(run.folder):
        result["came"] = dict(own.came)  # its test side is what was held out of it: the data set's own stays closed
    elif split == "test":
        result["openings"] = count_opening(dataset, run.id)
    write_atomic(run.folder / f"evaluation-{split}.json", json.dumps(result))
    return result


def answered(
    run: Run, home: Path, split: str, progress: Callable[[int, int], None] | None = None
) -> tuple[tuple[str, ...], bool, task.Examined]:
    """(classes, several labels a scan, what the best weights of `run` answer on a split): as kept, else asked now.

    Raises as `evaluate`. The test side is not counted as opened: ask `kept` there.
    """
    predictor, dataset = _opened(run, home)
    cases = _cases(dataset, predictor.experiment, split)
    return predictor.classes, predictor.multi_label, _examined(run, predictor, dataset, split, cases, progress)


def kept(run: Run, split: str) -> task.Examined | None:
    """What the run answered when it was last evaluated on a split; None where it was not, or has learned since."""
    if current(run, split) is None:
        return None
    try:
        with np.load(run.folder / f"predictions-{split}.npz", allow_pickle=False) as stored:
            return _lasting(stored)
    except (OSError, ValueError, zipfile.BadZipFile):
        return None


def _opened(run: Run, home: Path) -> tuple[Predictor, Dataset]:
    predictor = Predictor.open(run.folder, device=_device())
    dataset = dataset_of(run.folder, home, predictor.experiment.data.dataset)
    tells_kinds = {"class", "boxes"} & set(task.find(predictor.experiment.task).learns)
    if (tells_kinds and dataset.classes != predictor.classes) or dataset.multi_label != predictor.multi_label:
        raise EvaluateError(
            f"The run was trained on the classes {', '.join(predictor.classes)}; the data set now has "
            f"{', '.join(dataset.classes)}. Train anew, or evaluate on the data set it was trained on."
        )
    return predictor, dataset


def _cases(dataset: Dataset, experiment: Experiment, split: str) -> np.ndarray:
    cases = task.find(experiment.task).cases(dataset, experiment, split)
    if not len(cases):
        raise EvaluateError(f"The {split} split of data set {dataset.name!r} has no labelled case to evaluate on.")
    return cases


def evaluation(run: Run, split: str = "test") -> dict[str, Any] | None:
    """The figures of the last `evaluate`, without opening anything; None where there are none."""
    try:
        found = json.loads((run.folder / f"evaluation-{split}.json").read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def current(run: Run, split: str = "test") -> dict[str, Any] | None:
    """As `evaluation`; None also where the run has learned since: they are the figures of other weights."""
    found = evaluation(run, split)
    try:
        weights = hashlib.sha256((run.folder / "best.safetensors").read_bytes()).hexdigest()
    except OSError:
        return None
    return found if found is not None and found.get("checkpoint") == weights else None


def examples(run: Run, split: str = "test") -> list[np.ndarray]:
    """Pictures that a task kept beside its figures, (3, H, W) float32 in stored values: what came, what the run made of
    it, and what it should be. [] where there are none."""
    try:
        with np.load(run.folder / f"predictions-{split}.npz", allow_pickle=False) as stored:
            return [stored[name] for name in sorted(stored.files) if name.startswith("example_")]
    except (OSError, ValueError, zipfile.BadZipFile):
        return []


def _examined(
    run: Run,
    predictor: Predictor,
    dataset: Dataset,
    split: str,
    cases: np.ndarray,
    progress: Callable[[int, int], None] | None = None,
) -> task.Examined:
    """What the run answers on these cases: as it was kept, else asked now and kept."""
    key = _key(predictor, dataset, cases)
    examined = _stored(run, split, key)
    if examined is None:
        examined = task.find(predictor.experiment.task).examined(predictor.asked, dataset, cases, progress)
        temporary = run.folder / f".predictions-{split}.{os.getpid()}.npz"
        np.savez_compressed(temporary, key=key, **examined)  # type: ignore[arg-type]
        os.replace(temporary, run.folder / f"predictions-{split}.npz")
    return examined


def _stored(run: Run, split: str, key: str) -> task.Examined | None:
    """What an earlier call was told; None where there is nothing, or it is of other weights or other cases."""
    path = run.folder / f"predictions-{split}.npz"
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            if str(stored["key"]) != key:
                return None
            return _lasting(stored)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None  # cut off while it was written: it can be computed again


def _lasting(stored: Mapping[str, np.ndarray]) -> task.Examined | None:
    """The arrays of a file; None where an earlier version did not say which slice a box lies on: that is asked anew."""
    found = {name: stored[name] for name in stored if name != "key"}
    return None if (found.get("slices", np.zeros(0)) < 0).any() else found


def _key(predictor: Predictor, dataset: Dataset, cases: np.ndarray) -> str:
    """Changes with the weights, the cases, and what people have said of them since (corrected labels)."""
    named = f"{predictor.weights_sha256} {dataset.id} {' '.join(dataset.cases[i].id for i in cases)}"
    if predictor.experiment.training.test_time != "off":
        named += f" {predictor.experiment.training.test_time}"
    return hashlib.sha256(f"{named} {dataset.edited}".encode()).hexdigest()


def count_opening(dataset: Dataset, who: str) -> dict[str, int]:
    """Counts one opening of the test side by a run (or "baseline"): {run: by this one, dataset: by all}, this one
    included."""
    path = openings_file(dataset)
    line = json.dumps({"at": time.time(), "run": who}) + "\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, line.encode())  # one write: lines of two processes never mix
    finally:
        os.close(descriptor)
    runs = [json.loads(found)["run"] for found in path.read_text().splitlines() if found]
    return {"run": runs.count(who), "dataset": len(runs)}


def openings(dataset: Dataset) -> int:
    """How often anybody has looked at the test side."""
    try:
        return sum(1 for line in openings_file(dataset).read_text().splitlines() if line)
    except OSError:
        return 0


def was_opened(dataset: Dataset) -> bool:
    """Whether anybody has looked at the test side: from then on no scan may join it."""
    return openings_file(dataset).is_file()


def openings_file(dataset: Dataset) -> Path:
    return dataset.folder / "test-openings.jsonl"


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
