"""A real, if badly trained, run of any task in seconds: a little of its demo set, one epoch of its simplest starter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from builder import task
from builder.data import Dataset
from builder.intake import import_scans
from builder.runs import Run
from builder.sources import detect
from tasks import enhancement_starters, lesions, phantoms, tumor_phantoms
from tests.little_run import trained

SMALL: dict[str, Callable[[Path], object]] = {
    "recognition": lambda place: phantoms.write_cohort(place, seed=5, num_images=36, size_px=64),
    "lesion_detection": lambda place: lesions.write_set(place, 5, count=48),
    "tumor_diagnosis": lambda place: tumor_phantoms.write_pictures(place, 5, num_patients=24, size_px=64),
    "image_enhancement": lambda place: enhancement_starters.write_clean(place, 5, num_images=30),
}
"""What writes a little of a task's demo set into a folder."""


def small_set(home: Path, name: str, place: Path) -> Dataset:
    """A little of the demo set of a task, imported as its job does."""
    place.mkdir(parents=True)
    SMALL[name](place)
    source = replace(detect(place, task=name), synthetic=True)
    steps: Iterator[Any] = import_scans(source, f"Little {name}", home, task=name)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return Dataset.open(home, end.value.dataset)


def tiny_run(home: Path, name: str, place: Path) -> tuple[Dataset, Run]:
    """A little of the demo set of a task and a finished run of one epoch on it."""
    dataset, of = small_set(home, name, place), task.find(name)
    starter = next(s for s in of.starters() if s.name == next(iter(of.demos.values())))
    return dataset, trained(home, starter.replace("training.epochs", 1), dataset)
