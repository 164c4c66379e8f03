"""Scans that a network learned from and is then measured on: told before it learns, and stamped on what comes of it.

Whoever learns from a picture, or from another picture of the same patient, answers it from memory: the figures then say
nothing about anybody else (Kapoor and Narayanan, Patterns 4:100804, 2023). An import keeps patients and almost equal
pictures on one side; only a split that came with the data can bring a leak in.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.data import Dataset, UnknownDataset, copies
from builder.fingerprint import Fingerprint, leaks
from builder.parting import Parting
from builder.runs import Run, StoreError
from builder.spec import Experiment, Problem, SpecError

__all__ = ["STAMP", "Leak", "leak_of", "of_dataset", "of_folder", "of_run", "of_runs", "problems"]

STAMP = "LEAKY"
"""The word that every figure, page and file of such a run carries."""


@dataclass(frozen=True)
class Leak:
    """What is learned from and measured on.

    Attributes:
        train: ids of training cases whose patient or picture lies on the validation or test side. val: ids of
            validation cases, which choose the best epoch and the operating point, that have one in test. groups: how
            many such groups are known where an older version did not tell the cases.
    """

    train: tuple[str, ...] = ()
    val: tuple[str, ...] = ()
    groups: int = 0

    def __bool__(self) -> bool:
        return bool(self.train or self.val or self.groups)

    @property
    def words(self) -> str:
        """What leaks, in a sentence; "" where nothing does."""
        parts = []
        if self.train:
            parts.append(_scans(len(self.train), "training") + " also in the validation or test side")
        if self.val:
            parts.append(_scans(len(self.val), "validation") + " also in the test side")
        if self.groups:
            parts.append(f"{self.groups} pictures or patients lie on more than one side of the split")
        return f"{', and '.join(parts)}." if parts else ""

    @property
    def stamp(self) -> str:
        """The stamp with its reason: "LEAKY: 8 training scans have ..."; "" where nothing leaks."""
        return (
            f"{STAMP}: {self.words} Its figures are better than they would be on people it has never met."
            if self
            else ""
        )


def _scans(num: int, side: str) -> str:
    have = "scans have their patient or an almost equal picture" if num > 1 else "scan has its patient or an almost "
    return f"{num:,} {side} {have}{'' if num > 1 else 'equal picture'}"


def leak_of(facts: Fingerprint | Mapping[str, Any], left_out: Collection[str] = ()) -> Leak:
    """What leaks in a data set of these facts (a fingerprint, or what a run kept of one) without `left_out`."""
    plain: Mapping[str, Any] = facts.to_json() if isinstance(facts, Fingerprint) else facts
    told: Mapping[str, Sequence[str]] = plain.get("leaks") or {}
    if not told:
        duplicates = plain.get("duplicates") or {}
        return Leak(groups=int(duplicates.get("across_splits", 0)) + int(plain.get("num_patients_astride", 0) or 0))
    out = set(left_out)
    return Leak(tuple(id for id in told.get("train", ()) if id not in out), tuple(told.get("val", ())))


def of_dataset(dataset: Dataset, experiment: Experiment | None = None) -> Leak:
    """What leaks in a data set as it is known now, without what `experiment` leaves out."""
    return leak_of(dataset.fingerprint, experiment.data.exclude if experiment else ())


def of_folder(folder: Path, facts: Mapping[str, Any]) -> Leak:
    """`of_run` for the folder of a run; what is somewhere else, alone, is told of by its `facts`."""
    place = Path(folder).absolute()
    try:
        return of_run(Run(place.parents[1], place.name), facts)
    except StoreError:  # a folder of another kind of name: no data folder's run
        return leak_of(facts)


def of_run(run: Run, facts: Mapping[str, Any] | None = None) -> Leak:
    """What leaks in a run: by what is known of its data set now, else by the `facts` that it kept when it learned.

    An audit after the training counts as well: what was found later leaked all the same.
    """
    try:
        experiment = run.experiment
    except (SpecError, OSError):
        return Leak()
    found = leak_of(facts, experiment.data.exclude) if facts else Leak()
    try:
        own, dataset = Parting.of(run.folder), Dataset.open(run.home, experiment.data.dataset)
    except (UnknownDataset, OSError, ValueError):
        return found
    if own is None:
        return of_dataset(dataset, experiment) or found
    # A fold has sides of its own: what leaks between those of the data set says nothing about it.
    there = [case.fact for case in dataset.parted(own.sides).cases]
    return leak_of({"leaks": leaks(there, copies(dataset.folder))}, experiment.data.exclude)


def of_runs(runs: Iterable[Run]) -> Leak:
    """What leaks in any of several runs, each on its own sides: of an answer that they give together."""
    found = [of_run(run) for run in runs]
    train, val = ({case for leak in found for case in getattr(leak, side)} for side in ("train", "val"))
    return Leak(tuple(sorted(train)), tuple(sorted(val)), max((leak.groups for leak in found), default=0))


def problems(experiment: Experiment, fingerprint: Fingerprint) -> list[Problem]:
    """Refuses to learn from a leak that nobody has accepted; the repair leaves the leaking training scans out."""
    leak = leak_of(fingerprint, experiment.data.exclude)
    if not leak or experiment.data.leaks == "accepted":
        return []
    words = f"{leak.words} A network would be measured on what it has learned by heart."
    if leak.train and not leak.val and len(leak.train) < fingerprint.cases_per_split.get("train", 0):
        without = tuple(sorted({*experiment.data.exclude, *leak.train}))
        fixed = experiment.replace("data.exclude", without)
        which = "this training scan" if len(leak.train) == 1 else f"these {len(leak.train):,} training scans"
        return [Problem("data.leaks", words, repair=f"Leave out {which}", fix=fixed)]
    accepted = experiment.replace("data.leaks", "accepted")
    return [Problem("data.leaks", words, repair=f"Learn all the same, stamped {STAMP}", fix=accepted)]
