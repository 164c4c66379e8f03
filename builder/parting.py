"""Sides of a run's own, other than those of its data set: a fold of a cross-validation, a part of the training scans.

    <run>/sides.json            whoever makes the run, once: {came: {...}, sides: {id of a case: train, val or test}}

A case that is not named is on no side: the run neither learns from it nor is judged on it. That is how the test side of
the data set stays closed while every other scan is held out once. The assignment is written down and never worked out
anew: what a run learned from does not change when the data set grows. Inside such a run "test" is what was held out of
it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from builder.data import Dataset
from builder.runs import read_json, write_atomic

FILE = "sides.json"


@dataclass(frozen=True)
class Parting:
    """Sides of a run's own.

    Attributes:
        sides: {id of a case: "train", "val" or "test"}. came: what made them, as plain data: {round, kind, words, ...}.
    """

    sides: Mapping[str, str]
    came: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path) -> Parting | None:
        """The sides of the run in `folder`; None where they are those of its data set.

        Raises:
            ValueError: the file is there and cannot be read: the run must not go on with other sides.
        """
        if not (folder / FILE).is_file():
            return None
        found = read_json(folder / FILE)
        try:
            assert found is not None
            return cls({str(case): str(side) for case, side in found["sides"].items()}, dict(found["came"]))
        except (AssertionError, KeyError, AttributeError, TypeError, ValueError):
            raise ValueError(
                f"The sides of run {folder.name} ({FILE}) cannot be read, so it cannot be said which scans it may "
                "learn from. Start it anew."
            ) from None

    def write(self, folder: Path) -> None:
        """Puts the sides on record in the folder of a run."""
        write_atomic(folder / FILE, json.dumps({"came": dict(self.came), "sides": dict(self.sides)}))

    @property
    def words(self) -> str:
        """What the run is a part of, such as "fold 2 of 5"."""
        return str(self.came.get("words", ""))


def adopt(folder: Path) -> None:
    """Writes the sides of a search into the folder of one of its trials, before it learns; nothing where the search has
    none, or the trial has its own already.

    Args:
        folder: of a run; `trial.json` in it names the study (see `search.studies`).
    """
    named = str((read_json(folder / "trial.json") or {}).get("study", ""))
    if not named or "/" in named or (folder / FILE).is_file():
        return
    own = Parting.of(folder.parents[1] / "studies" / named)
    if own is not None:
        own.write(folder)


def dataset_of(folder: Path, home: Path, dataset: str) -> Dataset:
    """The data set that the run in `folder` learns from, on the run's own sides.

    Raises:
        UnknownDataset, ValueError: as `Dataset.open` and `Parting.of`.
    """
    found, own = Dataset.open(home, dataset), Parting.of(folder)
    return found if own is None else found.parted(own.sides)
