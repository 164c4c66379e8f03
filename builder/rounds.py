"""A round: several ordinary runs that answer one question together, such as the folds of a cross-validation.

    HOME/rounds/<id>/plan.json      whoever begins the round, once: kind, document, data set, settings, members
                     sides/<n>.json the sides of member n, for a run of it that must be made again
                     result.json    what the runs said together, once all have ended (see `folding`, `forecast`)

A member is a run like any other: its document, events, checkpoints and pages are its own; only its sides are those of
the round. So a round has no state beside that of its runs, needs no process of its own, and what was killed, stopped or
lost goes on as runs go on. A member that somebody has deleted is made anew.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from builder.data import copies_found_since
from builder.parting import Parting
from builder.runs import Run, RunStore, RunView, StoreError, read_json, write_atomic
from builder.spec import Experiment, SpecError

PLACE = "rounds"
KINDS = ("folds", "forecast", "seeds")
_PARTED = ("folds", "forecast")
"""Kinds whose members never learn from the sides of the data set."""
_ENDED_WELL = ("done",)
_MEMBER = re.compile(r"(\d{8}-\d{6}-[0-9a-f]{6})-[0-9a-f]{2,}(?:-\d+)?")  # as `complete` names the runs


@dataclass(frozen=True)
class Member:
    """One run of a round.

    Attributes:
        run: its id, "" before it is made. about: what it is in the round, as plain data with `words`.
        experiment: its document. sides: its own, None for those of the data set.
    """

    about: Mapping[str, Any]
    experiment: Experiment
    sides: Mapping[str, str] | None = None
    run: str = ""

    @property
    def words(self) -> str:
        """What it is called, such as "fold 2 of 5"."""
        return str(self.about.get("words", ""))


@dataclass(frozen=True)
class RoundView:
    """How a round is going.

    Attributes:
        views: of each member's run, None where the run is gone. ended: all have learned to their end. active: how many
        wait or learn. steps: (done, in all) over the runs that told how many they take.
    """

    views: tuple[RunView | None, ...]

    @property
    def done(self) -> int:
        """How many have learned to their end."""
        return sum(view is not None and view.status in _ENDED_WELL for view in self.views)

    @property
    def active(self) -> int:
        """How many wait or learn."""
        return sum(view is not None and view.active for view in self.views)

    @property
    def ended(self) -> bool:
        """Whether all have learned to their end."""
        return self.done == len(self.views)

    @property
    def share(self) -> float:
        """How much of the learning is done, 0..1."""
        parts = [
            0.0 if v is None else 1.0 if v.status in _ENDED_WELL else min(1.0, v.step / v.total) if v.total else 0.0
            for v in self.views
        ]
        return sum(parts) / max(1, len(parts))

    @property
    def stopping(self) -> bool:
        """Whether all that is active has been asked to stop."""
        return self.active > 0 and all(v.stopping for v in self.views if v is not None and v.active)


class Round:
    """A round on disk."""

    def __init__(self, home: Path, id: str) -> None:
        self.home, self.id = Path(home), id
        self.folder = self.home / PLACE / id

    def _plan(self) -> dict[str, Any]:
        found = read_json(self.folder / "plan.json")
        if found is None:
            raise StoreError(f"There is no round {self.id!r} in this data folder.")
        return found

    @property
    def plan(self) -> dict[str, Any]:
        """{kind, name, at, experiment, dataset, settings, of (what it is about: a run, a study, or ""), members}."""
        return self._plan()

    @property
    def kind(self) -> str:
        """One of `KINDS`."""
        return str(self.plan["kind"])

    @property
    def experiment(self) -> Experiment:
        """The document that all members come from."""
        return Experiment.checked(self.plan["experiment"])

    @property
    def settings(self) -> dict[str, Any]:
        """What was asked for: numbers of folds, shares, seeds, ..."""
        return dict(self.plan["settings"])

    def members(self) -> list[Member]:
        """The members in their order; `sides` are read where they are asked for, from the run (see `sides`)."""
        return [
            Member(dict(one["about"]), Experiment.checked(one["experiment"]), None, self._run(number, one))
            for number, one in enumerate(self.plan["members"])
        ]

    def runs(self) -> list[Run]:
        """The runs of the members, in order; some may be gone."""
        return [Run(self.home, self._run(number, one)) for number, one in enumerate(self.plan["members"])]

    def named(self) -> list[tuple[str, Run]]:
        """(what it is called, its run) of each member; cheaper than `members`, which reads documents."""
        plan = self.plan["members"]
        return [(str(one["about"].get("words", "")), Run(self.home, self._run(k, one))) for k, one in enumerate(plan)]

    def _run(self, number: int, one: Mapping[str, Any]) -> str:
        """The id of a member's run; where the round was killed while it was made, the one that it will have."""
        return str(one["run"] or f"{self.id}-{number:02x}")

    def view(self, view_of: Callable[[Run], RunView] = Run.view) -> RoundView:
        """How it is going.

        Args:
            view_of: tells the state of a run; one that remembers what it has read is cheaper than reading it all.
        """
        return RoundView(
            tuple(view_of(run) if (run.folder / "experiment.json").is_file() else None for run in self.runs())
        )

    def result(self) -> dict[str, Any] | None:
        """What was found; None before that, or where a run was made anew or an audit has found copies since."""
        file, plan = self.folder / "result.json", self.plan
        found = read_json(file)
        if found is None or copies_found_since(self.home, str(plan["experiment"]["data"]["dataset"]), file):
            return None
        return found if found.get("runs") == [run.id for run in self.runs()] else None

    def keep(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """Puts what was found on record."""
        whole = {"round": self.id, "kind": self.kind, "runs": [run.id for run in self.runs()], **found}
        write_atomic(self.folder / "result.json", json.dumps(whole))
        return whole

    def stop(self) -> None:
        """Asks every run to stop; each saves its state first."""
        for run in self.runs():
            if (run.folder / "experiment.json").is_file():
                run.stop()

    def resume(self) -> None:
        """Lets every run that was stopped, failed or lost go on, and makes those anew that are gone."""
        self.complete(queue=True)
        for run in self.runs():
            if run.view().resumable:
                run.resume()

    def complete(self, queue: bool) -> None:
        """Makes the runs that are not there (any more). StoreError where it is not known which scans one may learn
        from."""
        plan = self._plan()
        store = RunStore(self.home)
        changed = False
        for number, one in enumerate(plan["members"]):
            if one["run"] and (self.home / "runs" / one["run"] / "experiment.json").is_file():
                continue
            sides = read_json(self.folder / "sides" / f"{number}.json")
            if sides is None and plan["kind"] in _PARTED:
                raise StoreError(
                    f"The sides of {one['about'].get('words', 'a run')} cannot be read, so it cannot be said which "
                    "scans it may learn from. Put this question away and ask it anew."
                )
            parting = None if sides is None else Parting(sides, self._came(plan, one))

            def fill(folder: Path, parting: Parting | None = parting) -> None:
                if parting is not None:
                    parting.write(folder)

            # The id is told by the round: killed here and asked again, it finds the run that is there already.
            again = int(one.get("again", -1)) + 1
            id = f"{self.id}-{number:02x}" + (f"-{again}" if again else "")
            one |= {"again": again, "run": store.create(_document(one), id=id, queue=queue, fill=fill).id}
            changed = True
        if changed:
            write_atomic(self.folder / "plan.json", json.dumps(plan))

    def _came(self, plan: Mapping[str, Any], one: Mapping[str, Any]) -> dict[str, Any]:
        return {"round": self.id, "kind": plan["kind"], **one["about"]}

    def forget(self) -> None:
        """Takes the round away for good; its runs stay, as runs like any other."""
        if self.view().active:
            raise StoreError("The round is still at work: stop it first.")
        passing = self.folder.with_name(f".gone-{self.id}-{secrets.token_hex(4)}")
        os.rename(self.folder, passing)
        shutil.rmtree(passing)


class RoundStore:
    """The rounds of one data folder."""

    def __init__(self, home: Path | str) -> None:
        self.home = Path(home)

    def begin(
        self,
        kind: str,
        experiment: Experiment,
        members: Iterable[Member],
        settings: Mapping[str, Any],
        *,
        of: str = "",
        queue: bool = True,
    ) -> Round:
        """A new round; its runs join the queue in their order.

        Args:
            settings: plain data. of: id of the run or study that it is about. queue: False: the runs are made, no more.
        Raises:
            StoreError: the disk is full, or there is nothing to do.
        """
        if kind not in KINDS:
            raise StoreError(f"A round is one of {', '.join(KINDS)}, not {kind!r}.")
        members = list(members)
        if not members:
            raise StoreError("A round of no runs says nothing.")
        parent = self.home / PLACE
        made = f"{datetime.fromtimestamp(time.time(), UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
        passing = parent / f".new-{secrets.token_hex(8)}"
        try:
            (passing / "sides").mkdir(parents=True, mode=0o700)
            for number, member in enumerate(members):
                if member.sides is not None:
                    write_atomic(passing / "sides" / f"{number}.json", json.dumps(dict(member.sides)))
            plan = {
                "kind": kind,
                "name": experiment.name,
                "at": time.time(),
                "experiment": experiment.model_dump(mode="json"),
                "settings": dict(settings),
                "of": of,
                "members": [
                    {"run": "", "about": dict(m.about), "experiment": m.experiment.model_dump(mode="json")}
                    for m in members
                ],
            }
            write_atomic(passing / "plan.json", json.dumps(plan))
            os.rename(passing, parent / made)
        except OSError as error:
            words = (error.strerror or "unknown reason").lower()
            raise StoreError(f"The round cannot be written to the data folder ({words}).") from error
        finally:
            shutil.rmtree(passing, ignore_errors=True)
        found = Round(self.home, made)
        found.complete(queue)
        return found

    def rounds(self, kind: str = "") -> list[Round]:
        """Every round, the newest first; of one kind where one is named."""
        try:
            names = sorted((name for name in os.listdir(self.home / PLACE) if name[:1].isdigit()), reverse=True)
        except FileNotFoundError:
            return []
        found = [Round(self.home, name) for name in names if (self.home / PLACE / name / "plan.json").is_file()]
        return [one for one in found if not kind or one.kind == kind]

    def round(self, id: str) -> Round:
        """The round called `id`; StoreError when there is none."""
        found = Round(self.home, id)
        if not _is_id(id) or not (found.folder / "plan.json").is_file():
            raise StoreError(f"There is no round {id!r} in this data folder.")
        return found

    def about(self, experiment: Experiment, kind: str) -> list[Round]:
        """The rounds of a kind that ask about this very document (its name aside), the newest first."""
        wanted = _subject(experiment)
        found = []
        for one in self.rounds(kind):
            try:
                if _subject(one.experiment) == wanted:
                    found.append(one)
            except SpecError:
                continue
        return found


def round_of(run: Run) -> str:
    """The id of the round that a run is a member of, as its own id says; "" where it is in none, or that is gone."""
    found = _MEMBER.fullmatch(run.id)
    return found[1] if found and (run.home / PLACE / found[1] / "plan.json").is_file() else ""


def _document(one: Mapping[str, Any]) -> Experiment:
    return Experiment.checked(one["experiment"])


def _subject(experiment: Experiment) -> str:
    return experiment.replace("name", "of a round").digest


def _is_id(id: str) -> bool:
    return bool(id) and all(letter in "0123456789abcdef-" for letter in id)


def renamed(experiment: Experiment, words: str) -> Experiment:
    """The document under a name that says which part of a round it is."""
    return experiment.replace("name", f"{words} · {experiment.name[: 117 - len(words)]}")


def ended_badly(views: Sequence[RunView | None], members: Sequence[Member]) -> list[str]:
    """A sentence for each run that ended without an answer."""
    found = []
    for view, member in zip(views, members, strict=True):
        if view is None:
            found.append(f"{member.words}: its run was deleted; Go on makes it anew.")
        elif not view.active and view.status not in _ENDED_WELL:
            found.append(f"{member.words}: {view.status}. {view.reason}".strip())
    return found


def numbered(members: Iterable[Member]) -> list[Member]:
    """Members whose documents carry their own names."""
    return [replace(m, experiment=renamed(m.experiment, m.words)) for m in members]
