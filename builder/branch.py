"""A branch: a new run that goes on from what another has saved, with some choices changed.

    <run>/branch.json           whoever makes the branch, once: parent, step, epoch, changes, who, at
          parent-00000001.pt    the parent's checkpoint, the very bytes (a link), so that nothing the parent does or
                                suffers later changes where the branch came from

The parent is not touched. The document of the branch stays the whole truth about what it does; branch.json says only
where it came from. What is carried over and what begins anew, `carrying` decides and tells.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from builder import checkpoint
from builder.parting import Parting
from builder.runs import EpochEnded, Run, RunStore, Saved, StoreError, read_json, write_atomic
from builder.spec import Experiment

PARENT = "parent"
"""Name of the checkpoint that a branch begins with."""
PEAK = "peak"
"""Name of the checkpoint of the end of a run's best epoch, which is kept however many follow."""
CHANGEABLE = ("name", "training", "data.exclude")
"""What may differ from the parent: everything else would make other weights or other scans of it."""


@dataclass(frozen=True)
class Branch:
    """Where a run came from.

    Attributes:
        parent: id of the run. step, epoch: of the state that was taken. changes: path -> (before, now).
        who: whom the person said to be. at: seconds since 1970.
    """

    parent: str
    step: int
    epoch: int
    changes: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    who: str = ""
    at: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {**self.__dict__, "changes": {path: list(values) for path, values in self.changes.items()}}

    @classmethod
    def of(cls, folder: Path) -> Branch | None:
        """Where the run in `folder` came from; None for one that began by itself."""
        found = read_json(folder / "branch.json")
        if found is None:
            return None
        try:
            changes = {str(path): (before, now) for path, (before, now) in found["changes"].items()}
            return cls(
                str(found["parent"]),
                int(found["step"]),
                int(found["epoch"]),
                changes,
                str(found.get("who", "")),
                float(found.get("at", 0)),
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            return None


def changes_of(before: Experiment, now: Experiment) -> dict[str, tuple[Any, Any]]:
    """What differs: {path: (before, now)}. What a search may try is no part of what a run does."""
    one, other = (e.model_copy(update={"search": None}) for e in (before, now))
    return one.diff(other)


def hindrances(before: Experiment, now: Experiment) -> list[str]:
    """Paths of changes that a branch cannot have."""
    return [path for path in changes_of(before, now) if not any(_below(path, allowed) for allowed in CHANGEABLE)]


def _below(path: str, place: str) -> bool:
    return path == place or path.startswith(f"{place}.")


def saved(run: Run) -> list[Saved]:
    """The states of a run that lie on the disk and can be gone on from, the newest first."""
    found = {event.file: event for event in run.events() if isinstance(event, Saved) and not event.best and event.file}
    return [event for event in reversed(found.values()) if (run.folder / event.file).is_file()]


def best(run: Run) -> Saved | None:
    """The state at the end of a run's best epoch so far; None where none is kept."""
    file = checkpoint.newest(run.folder, PEAK)
    if file is None:
        return None
    name = file.name.replace(PEAK, "last", 1)
    found = [event for event in run.events() if isinstance(event, Saved) and event.file == name]
    return replace(found[-1], file=file.name) if found else None


def states_of(run: Run, from_best: bool) -> list[Saved]:
    """The states that a branch could begin with, the one to take first: that of the best epoch, or `saved`."""
    if not from_best:
        return saved(run)
    state = best(run)
    return [state] if state is not None else []


def epochs_done(run: Run, from_best: bool = False) -> int:
    """How many whole epochs the state that a branch begins with has behind it, 0 without one: a branch must ask for
    more."""
    states = states_of(run, from_best)
    if not states:
        return 0
    at_end = [e.epoch for e in run.events() if isinstance(e, EpochEnded) and e.step == states[0].step]
    return max([states[0].epoch - 1, *at_end])


def branch(
    store: RunStore,
    parent: Run,
    experiment: Experiment,
    *,
    who: str = "",
    queue: bool = True,
    id: str | None = None,
    from_best: bool = False,
) -> Run:
    """A new run of `experiment` that goes on from the newest saved state of `parent`, or the end of its best epoch.

    Raises:
        StoreError: nothing is saved yet, the document changes what a branch cannot change, or it ends before it begins.
    """
    before = parent.experiment
    refused = hindrances(before, experiment)
    if refused:
        raise StoreError(
            f"A branch goes on with the weights and the scans of its parent, so {_listed(refused)} cannot be changed "
            "in it. Start a new run for that."
        )
    states = states_of(parent, from_best)
    if not states:
        raise StoreError(
            "The state of the run's best epoch is not kept (an older ScanLoom trained it, or no epoch has ended yet): "
            "go on from its newest state."
            if from_best
            else "The run has saved no state yet: a branch begins from a saved one. Let it learn a little first."
        )
    ended = epochs_done(parent, from_best)
    if experiment.training.epochs <= ended:
        upto = f"The best state is that of epoch {ended}" if from_best else f"The run has learned for {ended} epochs"
        raise StoreError(f"{upto} already: ask for more than {ended} epochs.")
    own = Parting.of(parent.folder)
    for state in states:  # a parent at work drops older states: then the newer one is there
        came = Branch(parent.id, state.step, state.epoch, changes_of(before, experiment), who, time.time())
        file = parent.folder / state.file

        def fill(folder: Path, file: Path = file, came: Branch = came) -> None:
            checkpoint.lend(file, folder, PARENT)
            if own is not None:  # it must not learn from what was held out of its parent
                own.write(folder)
            write_atomic(folder / "branch.json", json.dumps(came.to_json(), ensure_ascii=False))

        try:
            return store.create(experiment, id=id, queue=queue, fill=fill)
        except StoreError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
    raise StoreError("The saved states of the run are gone: it has just saved new ones. Try again.")


def _listed(paths: Sequence[str]) -> str:
    shown = ", ".join(paths[:3])
    return f"{shown} and {len(paths) - 3} more choices" if len(paths) > 3 else shown


@dataclass(frozen=True)
class Limb:
    """A run in its place in the tree: `depth` 0 for one that stands by itself, `branch` says where it came from."""

    run: Run
    depth: int
    branch: Branch | None


def tree(runs: Iterable[Run]) -> list[Limb]:
    """The runs with branches below their parents: roots in the order given, branches by their time.

    A branch whose parent is not among `runs` stands by itself, still saying where it came from.
    """
    known = list(runs)
    branches = {run.id: Branch.of(run.folder) for run in known}
    below: dict[str, list[Run]] = {}
    roots = []
    for run in known:
        came = branches[run.id]
        if came is not None and came.parent in branches and came.parent < run.id:  # ids grow: never a circle
            below.setdefault(came.parent, []).append(run)
        else:
            roots.append(run)
    found: list[Limb] = []

    def grow(run: Run, depth: int) -> None:
        found.append(Limb(run, depth, branches[run.id]))
        for child in sorted(below.get(run.id, ()), key=lambda r: r.id):
            grow(child, depth + 1)

    for run in roots:
        grow(run, 0)
    return found
