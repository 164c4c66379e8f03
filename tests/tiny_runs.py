"""A real, if badly trained, run of any task in seconds: its own demo set, one epoch of its simplest starter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from builder import task
from builder.data import Dataset
from builder.intake import Source, import_scans
from builder.runs import Run
from tests.little_run import trained


def demo_set(home: Path, name: str, place: Path, kind: str = "") -> Dataset:
    """The demo set of a task, imported as its job does."""
    of = task.find(name)
    place.mkdir(parents=True)
    made = of.demo(5, place, kind)
    labels = made if made.is_file() else None
    source = Source("csv" if labels else "folder", place if labels else made, labels, synthetic=True)
    steps: Iterator[Any] = import_scans(source, of.demo_name(kind), home, task=name)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return Dataset.open(home, end.value.dataset)


def tiny_run(home: Path, name: str, place: Path, **changes: Any) -> tuple[Dataset, Run]:
    """The demo set of a task and a finished run of one epoch on it."""
    dataset = demo_set(home, name, place)
    of = task.find(name)
    starter = next(s for s in of.starters() if s.name == next(iter(of.demos.values())))
    experiment = replace_all(starter, {"training.epochs": 1, **changes})
    return dataset, trained(home, experiment, dataset)


def replace_all(experiment: Any, changes: dict[str, Any]) -> Any:
    """The experiment with settings changed, path by path."""
    for path, value in changes.items():
        experiment = experiment.replace(path, value)
    return experiment
