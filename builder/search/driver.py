"""The driver of a study: asks Optuna for values, lets them be trained as ordinary runs, tells what came of them.

One driver a study (a lock in its folder), in a process of its own. Optuna's storage is the record of which trials there
are, the study's events are what people see of it; after a kill the next driver brings the two together and goes on with
the runs that are there, so no trial is begun, told or counted twice:

* a trial's run is named in the storage before it is made, and making a run of the same name twice makes one;
* a trial without a name was killed while its values were drawn: they are drawn again, and come out the same;
* all there is to say of an ended trial is in the storage before it counts as ended, so its event can be written later.

Trials are asked and told one by one, from one process, so Optuna's heartbeats (which only its own `optimize` sends)
have nothing to watch: whether a trial's process lives is known from its run, whether the driver lives from its job.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from builder.catalog import Domain, Int, OneOf
from builder.locks import locked
from builder.network import plan_of
from builder.parts.search import COSTS
from builder.parts.training import TRAINING
from builder.runs import StoreError, append_whole
from builder.search import objectives, strategies
from builder.search.grid import points_of
from builder.search.ground import Ground, Look
from builder.search.space import apply, domain, neat, ordered
from builder.search.studies import Study, StudyFold, told
from builder.spec import Dimension, Experiment, SpecError
from builder.task import offered

if TYPE_CHECKING:
    import optuna

POLL_S = 0.05
PATIENCE_S = 120.0
"""How long a storage that does not answer (a database that is being restarted) is waited for."""
MOST_REFUSED = 200
"""So many refused in a row: the limits leave next to nothing of the space."""
WEIGH_FROM = 8
"""Ended trials from which on it is worth asking which choices matter."""

R = TypeVar("R")


class StorageGone(StoreError):
    """The storage did not answer for long; the message is a sentence for people."""


class Driver:
    """Drives one study to its end. `for done, wanted in driver.steps(): ...`

    Args:
        storage: Optuna's, or None for the one of the study. ground: where trials are carried out.
        stop: asked many times a second. sound: {what is wrong with a document}, in words; [] = it can be trained.
        costs: (document) -> {name of `COSTS`: number}; it is asked only for what the search needs.
        wait_s: how long an earlier driver that is just leaving is waited for.
    """

    def __init__(
        self,
        study: Study,
        ground: Ground,
        *,
        storage: Any = None,
        stop: Callable[[], bool] = lambda: False,
        sound: Callable[[Experiment], Sequence[str]] = lambda experiment: (),
        costs: Callable[[Experiment, Sequence[str]], dict[str, float]] | None = None,
        poll_s: float = POLL_S,
        wait_s: float = 0.0,
    ) -> None:
        self.study, self.ground, self.stop, self.sound, self.poll_s = study, ground, stop, sound, poll_s
        self.wait_s = wait_s
        self.experiment = study.experiment
        assert self.experiment.search is not None
        self.search = self.experiment.search
        self.costs = costs or costs_of
        self.metrics, self.rising = objectives.of(self.experiment), objectives.rising(self.experiment)
        self.points = points_of(self.experiment) if self.search.strategy.name == "grid" else None
        self._storage = storage
        self._began = time.monotonic()
        self._leaving = set[int]()  # asked to stop under an earlier driver, and still saving
        self._fold = StudyFold(study.id, self.experiment)
        self._looks: dict[int, Look] = {}
        self._weighed = 0
        self._refused_in_a_row = 0
        self._known: list[Any] | None = None
        self._record = -1

    # ------------------------------------------------------------------------------------------------------- its life

    def steps(self) -> Iterator[tuple[int, int]]:
        """Works until the budget is used up or it is asked to stop; yields (trials that ended, trials wanted)."""
        until = time.monotonic() + self.wait_s
        while True:
            with locked(self.study.folder / "driver.lock") as free:
                if free:
                    yield from self._alone()
                    return
            if time.monotonic() >= until:
                raise StoreError("This study is being driven already.")
            time.sleep(0.2)

    def _alone(self) -> Iterator[tuple[int, int]]:
        way = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._record = os.open(self.study.folder / "events.jsonl", way, 0o600)
        try:
            yield from self._steps()
        finally:
            os.close(self._record)

    def _steps(self) -> Iterator[tuple[int, int]]:
        self._read_record()
        self._tell("began")
        self.optuna = self._open()
        self._catch_up()
        ended = False
        try:
            while True:
                self._heed()
                moved = self._mind()
                reason = self._spent()
                if self.stop():
                    break
                if reason is None and len(self._open_trials()) < max(1, self.search.parallel):
                    self._ask()
                    moved = True
                elif reason is not None and not self._open_trials():
                    self._weigh(always=True)
                    self._tell("finished", status="done", reason=reason)
                    ended = True
                    return
                trials = self._all()
                yield sum(trial.state.is_finished() for trial in trials), self._wanted()
                if not moved:
                    self._weigh()  # while all learn: between two trials nobody waits for it
                    time.sleep(self.poll_s)
        finally:
            if not ended and self.stop():
                for trial in self._open_trials():
                    if name := trial.user_attrs.get("run"):
                        self.ground.stop(name)
                self._tell("finished", status="stopped", reason="Stopped on request; it can go on from here.")

    def _tell(self, kind: str, **facts: Any) -> None:
        """Puts an event on record, and into what is known here."""
        clock = round(time.monotonic() - self._began, 3)
        event = {"event": kind, "at": round(time.time(), 3), "clock": clock, **facts}
        append_whole(self._record, json.dumps(event, allow_nan=False).encode() + b"\n")
        if kind in ("began", "finished", "ended"):
            os.fsync(self._record)
        self._fold.add(event)

    def _read_record(self) -> None:
        """Reads what earlier drivers wrote; a torn last line is cut off."""
        text = Path(self.study.folder / "events.jsonl").read_bytes()
        whole = text.rfind(b"\n") + 1
        if whole < len(text):
            os.ftruncate(self._record, whole)
        for event in told(text[:whole]):
            self._fold.add(event)

    # --------------------------------------------------------------------------------------------------- the storage

    def _open(self) -> optuna.Study:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = self._storage
        if storage is None:
            storage = self._kept(lambda: storage_at(self.study.storage_url))
        ways = optuna.study.StudyDirection
        directions = [ways.MAXIMIZE if up else ways.MINIMIZE for up in self.rising]
        made = self._kept(
            lambda: optuna.create_study(
                storage=storage,
                study_name=self.study.id,
                directions=directions,
                pruner=strategies.pruner(self.experiment),
                load_if_exists=True,
            )
        )
        if made.metric_names is None:
            self._kept(lambda: made.set_metric_names(list(self.metrics)))
            self._kept(lambda: made.set_user_attr("experiment", self.experiment.name))
        return made

    def _kept(self, call: Callable[[], R]) -> R:
        """What a call of the storage gives, tried again while its database is away (a restart, a busy file).

        A change that failed half-way is safe to repeat: each is one transaction, or says that it is done already.
        """
        import optuna

        until, wait_s = time.monotonic() + PATIENCE_S, 0.1
        self._known = None  # nobody else writes, so what was read holds until we do
        while True:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                    return call()
            except _storage_troubles() as error:
                if time.monotonic() > until or self.stop():
                    raise StorageGone(
                        "The database of the studies does not answer. Everything so far is kept; resume the study when "
                        "it is back."
                    ) from error
                time.sleep(wait_s)
                wait_s = min(2.0, wait_s * 2)

    def _all(self) -> list[optuna.trial.FrozenTrial]:
        if self._known is None:
            found = self._kept(lambda: self.optuna.get_trials(deepcopy=False))
            self._known = found
        return self._known

    def _open_trials(self) -> list[optuna.trial.FrozenTrial]:
        return [trial for trial in self._all() if trial.state.name == "RUNNING"]

    def _note(self, trial: optuna.trial.FrozenTrial, **facts: Any) -> None:
        """Writes facts about a trial into the storage."""
        for key, value in facts.items():
            if trial.user_attrs.get(key) != value:
                self._set("set_trial_user_attr", trial, key, value)

    def _set(self, change: str, trial: optuna.trial.FrozenTrial, *facts: Any) -> None:
        """A change of a trial in the storage, without drawing its values anew as a handle of Optuna would."""
        self._kept(lambda: getattr(self.optuna._storage, change)(trial._trial_id, *facts))

    # ------------------------------------------------------------------------------------------------- after a kill

    def _catch_up(self) -> None:
        """Brings storage, events and runs together after whatever ended the driver before."""
        for trial in self._all():
            known = self._fold.trials.get(trial.number)
            facts = trial.user_attrs
            if known is None and ("run" in facts or trial.state.is_finished()):
                self._tell_asked(trial)
            if trial.state.is_finished():
                if (known is None or not known.ended) and "ended" in facts:
                    self._tell("ended", trial=trial.number, **facts["ended"])
            elif trial.state.name == "RUNNING" and "run" not in facts:
                self._begin(trial._trial_id, trial.number)
            elif trial.state.name == "RUNNING":
                self.ground.begin(facts["run"], self._document(trial.number, trial.params), trial.number)
                look = self.ground.look(facts["run"])
                if look.status == "stopped" and "prune" not in facts:
                    self._again(trial, look)
                elif look.status == "lost" and "prune" not in facts:
                    self.ground.again(facts["run"])
                elif "prune" in facts:  # perhaps it was never told
                    self.ground.stop(facts["run"])
                elif look.stopping:
                    self._leaving.add(trial.number)

    def _tell_asked(self, trial: optuna.trial.FrozenTrial) -> None:
        facts = trial.user_attrs
        more = {"requeued_from": facts["requeued_from"]} if "requeued_from" in facts else {}
        costs = {name: facts[name] for name in COSTS if name in facts}
        values = {path: neat(value) for path, value in trial.params.items()}
        self._tell("asked", trial=trial.number, params=values, run=facts.get("run", ""), costs=costs, **more)

    # ------------------------------------------------------------------------------------------------- the next trial

    def _wanted(self) -> int:
        wishes = self.study.wishes()
        return self.search.num_trials + sum(wish.get("extend", 0) + ("requeue" in wish) for wish in wishes)

    def _heed(self) -> None:
        """Puts trials into the queue that people want once more."""
        for place, wish in enumerate(self.study.wishes()):
            if "requeue" not in wish or any(trial.user_attrs.get("wish") == place for trial in self._all()):
                continue
            again = next((trial for trial in self._all() if trial.number == wish["requeue"]), None)
            if again is not None:
                facts = {"wish": place, "requeued_from": again.number}
                self._kept(partial(self.optuna.enqueue_trial, again.params, facts))

    def _spent(self) -> str | None:
        """Why no further trial begins; None while one may."""
        trials, search = self._all(), self.search
        begun = [trial for trial in trials if _outcome(trial) != "refused" and trial.state.name != "WAITING"]
        waiting = any(trial.state.name == "WAITING" for trial in trials)
        if len(begun) >= self._wanted():
            return f"All {self._wanted()} trials have been tried."
        if search.max_minutes and self._fold.seconds + self._since() > search.max_minutes * 60:
            return f"The {search.max_minutes:g} minutes are over."
        if search.max_gpu_hours and self._computed_s(trials) > search.max_gpu_hours * 3600:
            return f"The trials have computed for {search.max_gpu_hours:g} hours together."
        if self._refused_in_a_row >= MOST_REFUSED:
            return f"{MOST_REFUSED} trials in a row were over a limit or could not be trained: the space is too narrow."
        if self.points is not None and not waiting and self._next_point(trials) is None:
            return f"Every one of the {len(self.points)} points of the grid has been tried."
        return None

    def _since(self) -> float:
        """Seconds since the last event: what the fold cannot know yet."""
        return max(0.0, time.monotonic() - self._began - self._fold.clock)

    def _computed_s(self, trials: list[optuna.trial.FrozenTrial]) -> float:
        ended = sum(float((trial.user_attrs.get("ended") or {}).get("seconds", 0.0)) for trial in trials)
        return ended + sum(look.seconds for look in self._looks.values())

    def _next_point(self, trials: list[optuna.trial.FrozenTrial]) -> int | None:
        tried = {trial.user_attrs.get("point") for trial in trials}
        return next((k for k in range(len(self.points or ())) if k not in tried), None)

    def _ask(self) -> None:
        trials = self._all()
        waiting = [trial.number for trial in trials if trial.state.name == "WAITING"]
        if self.points is not None and not waiting:
            point = self._next_point(trials)
            assert point is not None
            self._kept(lambda: self.optuna.enqueue_trial(self.points[point], {"point": point}))  # type: ignore[index]
            waiting = [len(trials)]
        number = min(waiting, default=len(trials))
        self.optuna.sampler = strategies.sampler(self.search, number)
        asked = self._kept(self.optuna.ask)
        self._begin(asked._trial_id, asked.number, asked)

    def _begin(self, trial_id: int, number: int, asked: optuna.trial.Trial | None = None) -> None:
        """Draws the values of a trial and lets it be carried out, from wherever an earlier driver was killed in it."""
        import optuna

        self.optuna.sampler = strategies.sampler(self.search, number)
        trial = asked or self._kept(lambda: optuna.trial.Trial(self.optuna, trial_id))
        values = self._draw(trial)
        document = self._document(number, values)
        frozen = self._frozen(number)
        needed = self._needed_costs()
        wrong = list(self.sound(document))
        costs = self.costs(document, needed) if not wrong else {}
        limits = {name: getattr(self.search, f"max_{name}") for name in COSTS}
        wrong += [
            f"{COSTS[name].title}: {costs[name]:,.6g} where at most {limit:,.6g} are wanted."
            for name, limit in limits.items()
            if limit and name in costs and costs[name] > limit
        ]
        self._note(frozen, **costs)
        if wrong:
            self._refused_in_a_row += 1
            self._end(number, "refused", reason=wrong[0])
            return
        self._refused_in_a_row = 0
        run = self.ground.fresh()
        self._note(frozen, run=run)
        self.ground.begin(run, document, number)
        self._tell_asked(self._frozen(number))

    def _draw(self, trial: optuna.trial.Trial) -> dict[str, Any]:
        """{path: value} of every choice that is there in this trial, those that others hang on first."""
        values: dict[str, Any] = {}
        document = self.experiment
        for dimension in ordered(self.search.dimensions):
            there = domain(document, dimension.path)
            if there is None:
                continue
            values[dimension.path] = self._kept(partial(suggest, trial, dimension, there))
            document = apply(document, {dimension.path: values[dimension.path]})
        return values

    def _document(self, number: int, values: Mapping[str, Any]) -> Experiment:
        """The experiment of a trial; its best epoch is judged by what the search looks for."""
        made = apply(self.experiment, values)
        name = f"{self.experiment.name[:100]}, trial {number}"
        with contextlib.suppress(SpecError):
            made = made.replace("name", name)
        watched = self.metrics[0]
        monitor = offered(made.task, "training.monitor", TRAINING.param("monitor"))
        if len(self.metrics) == 1 and isinstance(monitor, OneOf) and watched in monitor.options:
            made = made.replace("training.monitor", watched)
        return made

    def _needed_costs(self) -> list[str]:
        wanted = {name for name in COSTS if getattr(self.search, f"max_{name}")} | set(self.metrics)
        return [name for name in COSTS if name in wanted or name != "milliseconds"]

    def _frozen(self, number: int) -> optuna.trial.FrozenTrial:
        return self._all()[number]

    # --------------------------------------------------------------------------------------------- trials at work

    def _mind(self) -> bool:
        """Looks at every trial at work: reports its epochs, ends poor ones early, tells those that ended."""
        moved = False
        for trial in self._open_trials():
            name = trial.user_attrs.get("run")
            if name is None:  # the storage went away while its values were drawn
                self._begin(trial._trial_id, trial.number)
                continue
            look = self._looks[trial.number] = self.ground.look(name)
            moved |= self._report(trial, look)
            if look.attempts > self._attempts(trial):
                self._note(trial, attempts=look.attempts)
                self._mark_retried(
                    self._frozen(trial.number), "Its process was ended; it went on from its last saved state."
                )
            if look.ended:
                moved = True
                self._conclude(self._frozen(trial.number), look)
        return moved

    def _report(self, trial: optuna.trial.FrozenTrial, look: Look) -> bool:
        """Tells the storage each new epoch's score; asks a poor trial to end. With several objectives none is poor."""
        metric = self.metrics[0]
        if metric in COSTS:
            return False
        known = self._fold.trials[trial.number].curve[0] if trial.number in self._fold.trials else []
        last = known[-1] if known else 0
        moved = False
        for epoch in [epoch for epoch in sorted(look.epochs) if epoch > last]:
            value = look.epochs[epoch].get(f"val/{metric}")
            if value is None or not math.isfinite(value):
                continue
            if len(self.metrics) == 1:
                self._set("set_trial_intermediate_value", trial, epoch, value)
            self._tell("reported", trial=trial.number, epoch=epoch, value=value)
            moved = True
            if len(self.metrics) > 1 or self.search.pruner.name == "none" or look.ended:
                continue
            if "prune" not in trial.user_attrs and epoch < self._epochs(trial) and self._poor(trial.number):
                self._note(trial, prune=epoch)
                self.ground.stop(trial.user_attrs["run"])
                return True
        return moved

    def _poor(self, number: int) -> bool:
        """Whether the pruner would end a trial now."""
        return bool(self._kept(lambda: self.optuna.pruner.prune(self.optuna, self._frozen(number))))

    def _epochs(self, trial: optuna.trial.FrozenTrial) -> int:
        return int(trial.params.get("training.epochs", self.experiment.training.epochs))

    def _attempts(self, trial: optuna.trial.FrozenTrial) -> int:
        """How many attempts of a trial are accounted for: by a wish to go on, or told as ended processes."""
        facts = trial.user_attrs
        return int(facts.get("attempts", 1 + int(facts.get("retried", 0))))

    def _again(self, trial: optuna.trial.FrozenTrial, look: Look) -> None:
        """Lets a trial go on that was stopped or given up; the attempt to come is not told as an ended process."""
        self._note(trial, attempts=look.attempts + 1)
        self.ground.again(trial.user_attrs["run"])

    def _mark_retried(self, trial: optuna.trial.FrozenTrial, reason: str) -> None:
        self._note(trial, retried=int(trial.user_attrs.get("retried", 0)) + 1)
        self._tell("retried", trial=trial.number, reason=reason)

    def _conclude(self, trial: optuna.trial.FrozenTrial, look: Look) -> None:
        """What follows from the end of a trial's run."""
        facts = trial.user_attrs
        if look.status == "stopped" and trial.number in self._leaving:
            self._leaving.discard(trial.number)
            self._again(trial, look)
            return
        if look.status == "lost" and not facts.get("again") and "prune" not in facts:
            self._note(trial, again=True)
            self._mark_retried(trial, look.reason or "Its process was ended; it was begun again.")
            self._again(trial, look)
            return
        more: dict[str, Any] = {
            "best_epoch": look.best_epoch,
            "epochs": max(look.epochs, default=0),
            "seconds": round(look.seconds, 3),
            "retried": int(facts.get("retried", 0)),
        }
        if look.status == "done":
            values = self._values(facts, look)
            if values is None:
                self._end(trial.number, "failed", reason="It has no score to be compared by.", **more)
            else:
                self._end(trial.number, "done", values, **more)
        elif "prune" in facts and look.status in ("stopped", "lost"):
            words = f"It was ended after epoch {facts['prune']}: others were better by then."
            self._end(trial.number, "pruned", reason=words, **more)
        elif look.status == "stopped":
            self._end(trial.number, "stopped", reason=look.reason or "It was stopped by hand.", **more)
        else:
            self._end(trial.number, "failed", reason=look.reason or "It failed.", **more)

    def _values(self, facts: Mapping[str, Any], look: Look) -> list[float] | None:
        """One value for each objective: scores of the epoch whose model is kept, and costs."""
        metric, up = self.metrics[0], self.rising[0]
        best = look.best_epoch
        if best not in look.epochs:
            scores = {epoch: found.get(f"val/{metric}", math.nan) for epoch, found in look.epochs.items()}
            scores = {epoch: value for epoch, value in scores.items() if math.isfinite(value)}
            best = (max if up else min)(scores, key=scores.__getitem__) if scores else max(look.epochs, default=0)
        found = []
        for name in self.metrics:
            value = facts.get(name) if name in COSTS else look.epochs.get(best, {}).get(f"val/{name}")
            if value is None or not math.isfinite(value):
                return None
            found.append(float(value))
        return found

    def _end(self, number: int, status: str, values: Sequence[float] = (), **facts: Any) -> None:
        """Writes down all there is to say of a trial, then counts it as ended, then tells it."""
        from optuna.trial import TrialState

        trial = self._frozen(number)
        ended = {"status": status, "values": list(values), **facts}
        self._note(trial, ended=ended, status=status, **({"reason": facts["reason"]} if facts.get("reason") else {}))
        state = {"done": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "refused": TrialState.PRUNED}
        self.optuna.sampler = strategies.sampler(self.search, number)
        self._kept(
            lambda: self.optuna.tell(
                number,
                list(values) if status == "done" else None,
                state=state.get(status, TrialState.FAIL),
                skip_if_finished=True,
            )
        )
        self._looks.pop(number, None)
        if number not in self._fold.trials:
            self._tell_asked(self._frozen(number))
        self._tell("ended", trial=number, **ended)

    def _weigh(self, always: bool = False) -> None:
        """Tells which choices matter, now and then: it costs more the more trials there are."""
        from builder.search.importance import importance

        done = sum(trial.status == "done" for trial in self._fold.trials.values())
        if done < WEIGH_FROM or done == self._weighed or (not always and done < self._weighed * 1.1):
            return
        self._weighed = done
        logarithmic = [dimension.path for dimension in self.search.dimensions if dimension.log]
        found = importance(self._fold.view([], status="running", reason=""), logarithmic)
        if found:
            self._tell("weighed", importance=found)


# ---- plain functions ------------------------------------------------------------------------------------------------


def suggest(trial: Any, dimension: Dimension, there: Domain) -> Any:
    """The value that a trial of Optuna gets for a dimension."""
    if dimension.choices:
        return trial.suggest_categorical(dimension.path, dimension.choices)
    assert dimension.low is not None and dimension.high is not None
    low, high, step = dimension.low, dimension.high, dimension.step
    if step and not dimension.log:
        high = low + step * math.floor((high - low) / step + 1e-9)
    if isinstance(there, Int):
        return trial.suggest_int(dimension.path, int(low), int(high), step=int(step) or 1, log=dimension.log)
    high = float(f"{high:.12g}")
    return trial.suggest_float(
        dimension.path, float(low), high, step=float(step) if step and not dimension.log else None, log=dimension.log
    )


def costs_of(experiment: Experiment, names: Sequence[str], num_classes: int = 2) -> dict[str, float]:
    """What a network costs, of `names`; nothing is trained."""
    planned = plan_of(experiment, num_classes)
    found: dict[str, float] = {}
    if "parameters" in names:
        found["parameters"] = float(planned.parameters)
    if "memory_mb" in names:
        found["memory_mb"] = round(planned.training_bytes(experiment.training.batch_size) / 2**20, 3)
    if "milliseconds" in names:
        from builder.search.timing import milliseconds

        found["milliseconds"] = milliseconds(experiment, num_classes)
    return found


def storage_at(url: str) -> Any:
    """Optuna's storage at `url`: a file here (SQLite), or a database server (PostgreSQL).

    Never Optuna's journal file: a torn write breaks it for ever.
    """
    from optuna.storages import RDBStorage

    if url.startswith("sqlite:"):
        made = RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 30.0}})
        with made.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")  # a fifth of the waiting, and as safe
        return made
    return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})


def _storage_troubles() -> tuple[type[Exception], ...]:
    """What a storage raises while its database is away. UnboundLocalError: Optuna 5.0.0 when the server goes down
    while a trial's state is being set."""
    import optuna
    from sqlalchemy.exc import InterfaceError, OperationalError

    return (optuna.exceptions.StorageInternalError, OperationalError, InterfaceError, UnboundLocalError)


def _outcome(trial: Any) -> str:
    return str(trial.user_attrs.get("status", ""))
