"""A real, if badly trained, run in seconds: 36 phantoms at 32 px, one epoch, through the real import and loop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from builder import task
from builder.data import Dataset
from builder.intake import detect, import_scans
from builder.runs import Run, RunStore
from builder.spec import Experiment
from builder.train import train
from tasks import phantoms


def starter(name: str = "tiny-cnn") -> Experiment:
    """A shipped starter."""
    return next(e for e in task.find("recognition").starters() if e.name == name)


def imported(home: Path, source: Path, name: str = "little", **options: object) -> Dataset:
    """The data set made of `source`."""
    found = replace(detect(source), synthetic=bool(options.pop("synthetic", False)))
    steps: Iterator = import_scans(found, name, home, **options)  # type: ignore[arg-type]
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return Dataset.open(home, end.value.dataset)


def trained(home: Path, experiment: Experiment, dataset: Dataset) -> Run:
    """A finished run of `experiment` on `dataset`."""
    run = RunStore(home).create(experiment.replace("data.dataset", dataset.id), queue=False)
    *_, last = train(run.experiment, task.find(experiment.task), dataset, run.folder, device="cpu")
    assert last.status == "done", last  # type: ignore[attr-defined]
    return run


def little(home: Path) -> tuple[Dataset, Run]:
    """36 phantoms of about 12 patients and a run of one epoch on them."""
    folder = phantoms.write_cohort(home.parent / f"{home.name}-phantoms", seed=5, num_images=36, size_px=64)
    dataset = imported(home, folder, synthetic=True)
    experiment = starter().replace("data.size_px", 32).replace("training.epochs", 1)
    return dataset, trained(home, experiment, dataset)
