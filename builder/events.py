"""What can happen to a run, as facts; and the state that a list of facts comes to.

An event file is JSON lines, one event a line, kebab-case names. Names and fields are only ever added: an event of a
newer version is skipped, an unknown field of a known event is dropped, a missing one takes its default.
"""

from __future__ import annotations

import bisect
import json
import math
import sys
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple

from builder.growing import Growing
from builder.probes import Probes

ACTIVE = ("queued", "starting", "running", "paused", "restarting")
RESUMABLE = ("stopped", "failed", "lost")


@dataclass(frozen=True)
class Event:
    """One fact about a run. `at` is wall time (s since 1970), for display only; `clock` is the monotonic number of
    seconds since the attempt began, stamped by the `Record`: durations come from it, order comes from the file."""

    at: float = field(default_factory=time.time, kw_only=True)
    clock: float = field(default=0.0, kw_only=True)


@dataclass(frozen=True)
class Started(Event):
    """An attempt began. The worker fills in `attempt` and `pid`; training says the `device`."""

    attempt: int = 1
    device: str = ""
    pid: int = 0


@dataclass(frozen=True)
class Progress(Event):
    """`step` of `total` is done (optimizer steps in training, files in an import); `metrics` are per-step numbers."""

    step: int = 0
    total: int = 0
    epoch: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class EpochEnded(Event):
    """Epoch `epoch` (from 1) ended after optimizer step `step`; `metrics` are named `split/name`."""

    epoch: int = 0
    step: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class Saved(Event):
    """A checkpoint is safe on disk; `best` = it holds the best weights so far."""

    step: int = 0
    epoch: int = 0
    best: bool = False
    file: str = ""


@dataclass(frozen=True)
class Pictured(Event):
    """What the network says of the pinned scans after epoch `epoch` lies in `files` of the run's folder."""

    step: int = 0
    epoch: int = 0
    files: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Warned(Event):
    """Something a person should know; the run goes on."""

    message: str = ""


@dataclass(frozen=True)
class Noted(Event):
    """Something that was found out or chosen while the run goes on as it should: a line of its log."""

    message: str = ""


@dataclass(frozen=True)
class Probed(Event):
    """A look into the layers at optimizer step `step` (from 1): {node id: {measure of `probes.MEASURES`: number}}."""

    step: int = 0
    epoch: int = 0
    layers: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Broke(Event):
    """Numbers ran away at optimizer step `step`: `what` (output, gradient, loss, weights) of `layer`, "" = not known,
    on a batch of these `cases` (places in the data set). The end of the attempt follows."""

    step: int = 0
    epoch: int = 0
    layer: str = ""
    what: str = ""
    cases: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Resumed(Event):
    """Training continues after optimizer step `step`: later points of earlier attempts no longer count."""

    step: int = 0
    epoch: int = 0


@dataclass(frozen=True)
class Branched(Event):
    """The run goes on from what the run `parent` had saved, at step `step` of this run's own counting, in `epoch`.

    `changes`: path of a choice -> [before, now]. `carried`: what came along and what begins anew, in words.
    """

    parent: str = ""
    step: int = 0
    epoch: int = 0
    changes: dict[str, list[Any]] = field(default_factory=dict)
    carried: str = ""


@dataclass(frozen=True)
class Paused(Event):
    """Training waits after optimizer step `step`, its state saved, its network in memory; `Resumed` ends the wait."""

    step: int = 0
    epoch: int = 0
    reason: str = ""


@dataclass(frozen=True)
class Finished(Event):
    """The end. `status` is done, stopped, failed, or lost (only the supervisor says lost); `reason` is one sentence."""

    status: str = "done"
    reason: str = ""


EVENTS: dict[str, type[Event]] = {
    "started": Started,
    "progress": Progress,
    "epoch-ended": EpochEnded,
    "saved": Saved,
    "pictured": Pictured,
    "warned": Warned,
    "noted": Noted,
    "probed": Probed,
    "broke": Broke,
    "resumed": Resumed,
    "paused": Paused,
    "branched": Branched,
    "finished": Finished,
}
_NAMES = {cls: name for name, cls in EVENTS.items()}
_FIELDS = {cls: frozenset(f.name for f in fields(cls)) for cls in _NAMES}


def encode(event: Event) -> bytes:
    """`event` as one JSON line, newline included. Numbers that JSON has no word for (NaN, infinity) become null."""
    plain = asdict(event)
    if "metrics" in plain:
        numbers = {name: float(value) for name, value in plain["metrics"].items()}
        plain["metrics"] = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
    if "layers" in plain:
        plain["layers"] = {
            id: {name: float(f"{value:.4g}") if math.isfinite(value) else None for name, value in numbers.items()}
            for id, numbers in plain["layers"].items()
        }
    text = json.dumps({"event": _NAMES[type(event)], **plain}, ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def decode(line: bytes) -> Event | None:
    """The event in one line; None for an event of a newer version. ValueError when the line is no event at all."""
    plain = json.loads(line)
    if not isinstance(plain, dict) or not isinstance(plain.get("event"), str):
        raise ValueError("a line of an event file must be a JSON object with a key 'event'")
    cls = EVENTS.get(plain.pop("event"))
    if cls is None:
        return None
    known = {name: value for name, value in plain.items() if name in _FIELDS[cls]}
    if isinstance(known.get("metrics"), dict):
        named = ((sys.intern(k), v) for k, v in known["metrics"].items())  # each name once in memory, not once a line
        known["metrics"] = {k: math.nan if v is None else float(v) for k, v in named}
    if isinstance(known.get("layers"), dict):
        known["layers"] = {
            id: {k: math.nan if v is None else float(v) for k, v in numbers.items()}
            for id, numbers in known["layers"].items()
        }
    return cls(**known)


Curve = tuple[Sequence[int], Sequence[float]]
"""(steps, values) of one curve: (N,) steps, rising, and the value at each."""


LOG_KEPT = 60
"""Lines of a run's log that are kept of each kind, the newest: a run may say something every second for days."""


class Said(NamedTuple):
    """A line of a run's log. `kind` is "epoch", "best", "warning" or "state" (began, continued, ended and the like)."""

    at: float
    words: str
    kind: str = "state"


@dataclass(frozen=True)
class RunView:
    """What a page shows of a run. `curves`: name -> (steps, values), steps rising; a follower hands them out as
    `Growing`, int64 and float64: its own, which grow at its next refresh: read them, never change them. `best` =
    {metric, value, epoch} once a best model is saved, `best_step` the last step of that epoch where it is known (a
    branch counts on from its parent's epochs, of which it has no curves: an epoch's number is no place in a curve).
    `seconds` counts computing time over all attempts (monotonic), without pauses. `stopping`, `pausing`: asked to stop
    or to pause and not yet there. `probes`: the looks into the layers, the follower's own like the curves. `broke`:
    where numbers ran away, if they did in the latest attempt. `film`: the epochs that it shows, each with its last
    step. `log`: the newest LOG_KEPT lines of each kind, the oldest first; `logged`: {kind: how many there are},
    `began`: the time of the first of all, in seconds since 1970."""

    id: str = ""
    kind: str = "train"
    status: str = "queued"
    reason: str = ""
    epoch: int = 0
    epochs: int = 0
    step: int = 0
    total: int = 0
    note: str = ""
    best: dict[str, Any] | None = None
    best_step: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    curves: Mapping[str, Curve] = field(default_factory=dict)
    film: dict[int, int] = field(default_factory=dict)
    log: tuple[Said, ...] = ()
    logged: Mapping[str, int] = field(default_factory=dict)
    began: float = 0.0
    warnings: tuple[str, ...] = ()
    attempt: int = 0
    device: str = ""
    seconds: float = 0.0
    stopping: bool = False
    pausing: bool = False
    probes: Probes = field(default_factory=Probes)
    broke: Broke | None = None

    @property
    def active(self) -> bool:
        return self.status in ACTIVE

    @property
    def resumable(self) -> bool:
        return self.kind == "train" and self.status in RESUMABLE

    @property
    def own_steps(self) -> int:
        """The steps that this run itself has told of: a branch begins at its parent's, which cost it nothing."""
        steps = self.curves.get(TIME, ([], []))[0]
        return steps[-1] - steps[0] if steps else 0

    @property
    def step_s(self) -> float | None:
        """Seconds of work a step, over `own_steps`; None before there are any."""
        seconds = self.curves.get(TIME, ([], []))[1]
        return (seconds[-1] - seconds[0]) / self.own_steps if self.own_steps else None


OF = " of "
"""In the name of a curve: what follows is the class that it is about ("val/recall of benign")."""
TIME = "time/seconds"
"""Name of the curve that holds, for each step, the seconds of work up to it, over all attempts."""


class Fold:
    """Adds events one by one and can say at any time what they come to; work per event, not per history."""

    def __init__(self, monitor: str = "") -> None:
        self.monitor = monitor if "/" in monitor or not monitor else f"val/{monitor}"
        self.attempt = 0
        self.finished: Finished | None = None
        self.curves: dict[str, tuple[Growing[int], Growing[float]]] = {}
        """Curves that were told at the same steps share one row of them."""
        self._log: dict[str, deque[tuple[int, Said]]] = {}
        self._logged: dict[str, int] = {}
        self._began = 0.0
        self.film: dict[int, int] = {}
        self.warnings: list[str] = []
        self.probes = Probes()
        self.broke: Broke | None = None
        self.damaged = 0
        self.paused: Paused | None = None
        self._device = self._note = ""
        self._step = self._total = self._epoch = 0
        self._past_seconds = self._clock = 0.0
        self._ended: tuple[Growing[int], Growing[int]] = (Growing(int), Growing(int))
        """(epochs, the last step of each): what each came to is in the curves."""
        self._scores: dict[str, None] = {}
        """Names of what is told at the end of an epoch, in the order of their coming."""
        self._best_epoch: int | None = None
        self._best_before: tuple[Growing[int], Growing[int]] = (Growing(int), Growing(int))
        """(steps, epochs) at which a best model was saved."""

    def add(self, event: Event) -> None:
        if isinstance(event, Started):
            self._start(event)
        elif self.paused is not None:
            self._past_seconds -= max(0.0, event.clock - self._clock)  # waiting is no computing
        self._clock = max(self._clock, event.clock)
        self.paused = event if isinstance(event, Paused) else None
        if isinstance(event, Progress):
            if event.step or event.total:  # a note alone ("preparing the scans") moves nothing
                self._step = event.step
            self._epoch = event.epoch or self._epoch
            self._total, self._note = event.total or self._total, event.note
            self._draw(event.step, self._timed(event))
        elif isinstance(event, EpochEnded):
            self._step, self._epoch = max(event.step, self._step), event.epoch
            self._scores.update(dict.fromkeys(event.metrics))
            self._draw(event.step, self._timed(event))
            epochs, steps = self._ended
            if epochs and event.epoch <= epochs[-1]:  # told anew
                cut = bisect.bisect_left(epochs, event.epoch)
                epochs, steps = self._ended = (epochs.until(cut), steps.until(cut))
            epochs.append(event.epoch)
            steps.append(event.step)
            self._say(event, _epoch_words(event), "epoch")
        elif isinstance(event, Saved):
            if event.best:
                self._best_epoch = event.epoch
                for row, number in zip(self._best_before, (event.step, event.epoch), strict=True):
                    row.append(number)
                self._say(event, f"The best model so far is saved (epoch {event.epoch}).", "best")
            else:
                self._say(event, f"The state after step {event.step} is saved: training can go on from here.", "saved")
        elif isinstance(event, Pictured):
            self.film[event.epoch] = event.step
            self._say(event, f"The film has a picture of epoch {event.epoch}.", "saved")
        elif isinstance(event, Probed):
            self.probes.add(event.step, event.epoch, event.layers)
        elif isinstance(event, Broke):
            self.broke = event
        elif isinstance(event, Warned):
            if event.message not in self.warnings:
                self.warnings.append(event.message)
            self._say(event, event.message, "warning")
        elif isinstance(event, Noted):
            self._say(event, event.message)
        elif isinstance(event, Resumed):
            self._rewind(event)
        elif isinstance(event, Branched):
            self._step, self._epoch = event.step, event.epoch
            self._say(event, f"Branched from run {event.parent}. {event.carried}")
        elif isinstance(event, Paused):
            self._step, self._epoch = event.step, event.epoch
            self._say(event, " ".join(filter(None, ("Paused.", event.reason))))
        elif isinstance(event, Finished):
            self.finished = event
            words = {"done": "Done.", "stopped": "Stopped.", "failed": "Failed.", "lost": "Lost."}
            self._say(event, " ".join(filter(None, (words.get(event.status, event.status), event.reason))))

    @property
    def epochs(self) -> dict[int, dict[str, float]]:
        """{epoch: its metrics} of the epochs that count."""
        return {epoch: self._told_at(step) for epoch, step in zip(*self._ended, strict=True)}

    def _told_at(self, step: int) -> dict[str, float]:
        """The scores of the epoch that ended with this step."""
        found: dict[str, float] = {}
        for name in self._scores:
            steps, values = self.curves[name]
            at = bisect.bisect_left(steps, step)
            if at < len(steps) and steps[at] == step:
                found[name] = values[at]
        return found

    def _start(self, event: Started) -> None:
        self.finished = self.broke = None
        self._device = event.device or self._device
        if event.attempt == self.attempt:  # training adds the device to the worker's own first word
            if event.device:
                self._say(event, f"Computing on {event.device}.")
            return
        self._past_seconds += self._clock
        self._clock = 0.0
        self.attempt = event.attempt
        self._say(event, f"Attempt {event.attempt} began." if event.attempt > 1 else "Began.")

    def _rewind(self, event: Resumed) -> None:
        """Drops what came after the step from which training now continues: it will be computed, and told, again."""
        kept: dict[int, Growing[int]] = {}  # rows of their own: a view handed out earlier stays as it was
        for name, (steps, values) in list(self.curves.items()):
            cut = bisect.bisect_right(steps, event.step)
            self.curves[name] = (kept.setdefault(id(steps), steps.until(cut)), values.until(cut))
        self.probes = self.probes.until(event.step)
        cut = bisect.bisect_right(self._ended[1], event.step)
        self._ended = self._ended[0].until(cut), self._ended[1].until(cut)
        self.film = {epoch: step for epoch, step in self.film.items() if step <= event.step}
        saved, best = self._best_before
        left = [k for k, step in enumerate(saved) if step <= event.step]
        self._best_before = (Growing(int, (saved[k] for k in left)), Growing(int, (best[k] for k in left)))
        self._best_epoch = self._best_before[1][-1] if left else None
        self._step, self._epoch = event.step, event.epoch
        self._say(event, f"Continued from the saved state at step {event.step}.")

    def _timed(self, event: Progress | EpochEnded) -> dict[str, float]:
        """The metrics, with the seconds of work so far beside them: a curve can be drawn over time as well."""
        return {**event.metrics, TIME: self._past_seconds + self._clock} if event.metrics else {}

    def _draw(self, step: int, metrics: dict[str, float]) -> None:
        first: Growing[int] = Growing(int)
        longer: dict[int, list[str]] = {}
        for name, value in metrics.items():
            if name not in self.curves:
                self.curves[name] = (first, Growing(float))
            steps, values = self.curves[name]
            if not steps or step > steps[-1]:
                longer.setdefault(id(steps), []).append(name)
            elif step == steps[-1]:
                values.tell_anew(value)
        for names in longer.values():
            steps = self.curves[names[0]][0]
            if sum(of is steps for of, _ in self.curves.values()) > len(names):  # others were not told this time
                steps = steps.until(len(steps))
                for name in names:
                    values = self.curves[name][1]
                    self.curves[name] = (steps, values.until(len(values)))
            steps.append(step)
            for name in names:
                self.curves[name][1].append(metrics[name])

    def _say(self, event: Event, words: str, kind: str = "state") -> None:
        number = sum(self._logged.values())
        self._began = self._began if number else event.at
        self._log.setdefault(kind, deque(maxlen=LOG_KEPT)).append((number, Said(event.at, words, kind)))
        self._logged[kind] = self._logged.get(kind, 0) + 1

    def view(self, **known: Any) -> RunView:
        """The state so far. `known` = what the events cannot tell (id, kind, epochs, status, reason, stopping)."""
        best, best_step = None, None
        if self._best_epoch is not None:
            epochs, steps = self._ended
            at = bisect.bisect_left(epochs, self._best_epoch)
            if at < len(epochs) and epochs[at] == self._best_epoch:
                best_step = steps[at]
            value = self._told_at(best_step).get(self.monitor) if best_step is not None else None
            best = {"metric": self.monitor, "value": value, "epoch": self._best_epoch}
        latest = self._told_at(self._ended[1][-1]) if self._ended[1] else {}
        warnings = list(self.warnings)
        if self.damaged:
            warnings.append(f"{self.damaged} damaged line(s) of this run's record could not be read.")
        status, reason = ("running", "") if self.attempt else ("queued", "")
        if self.finished:
            status, reason = self.finished.status, self.finished.reason
        return RunView(
            **{
                "status": status,
                "reason": reason,
                "epoch": self._epoch,
                "step": self._step,
                "total": self._total,
                "note": self._note,
                "best": best,
                "best_step": best_step,
                "metrics": latest,
                "curves": dict(self.curves),
                "film": dict(self.film),
                "log": tuple(line for _, line in sorted(line for lines in self._log.values() for line in lines)),
                "logged": dict(self._logged),
                "began": self._began,
                "warnings": tuple(warnings),
                "attempt": self.attempt,
                "device": self._device,
                "seconds": self._past_seconds + self._clock,
                "probes": self.probes,
                "broke": self.broke,
                **known,
            }
        )


def _epoch_words(event: EpochEnded) -> str:
    """What an epoch came to: both losses first, then the scores of the validation side (those of one class apart)."""
    left = dict(event.metrics)
    sides = (("train/loss", "training"), ("val/loss", "validation"))
    losses = [f"{left.pop(name):.4g} in {words}" for name, words in sides if name in left]
    told = [f"loss {' and '.join(losses)}"] if losses else []
    told += [
        f"{name.partition('/')[2].replace('_', ' ')} {value:.4g}" for name, value in left.items() if OF not in name
    ]
    took = f" after {event.seconds:.3g} s" if event.seconds else ""
    return f"Epoch {event.epoch} ended{took}: {', '.join(told)}."


def fold(events: Iterable[Event], *, monitor: str = "", **known: Any) -> RunView:
    """The state that `events` come to; `monitor` names the metric of the best model, `known` fills other fields."""
    folded = Fold(monitor)
    for event in events:
        folded.add(event)
    return folded.view(**known)


def decimate(steps: Sequence[int], values: Sequence[float], num: int) -> tuple[list[int], list[float]]:
    """At most `num` (at least 4) points of a curve that still show every peak: first, last, and each bucket's extremes.

    NaN points are kept only where a bucket holds nothing else, so that a broken stretch stays visible as a gap.
    """
    count = len(steps)
    num = max(4, num)
    if count <= num:
        return list(steps), list(values)
    kept = {0, count - 1}
    buckets = (num - 2) // 2
    for bucket in range(buckets):
        span = range(1 + bucket * (count - 2) // buckets, 1 + (bucket + 1) * (count - 2) // buckets)
        finite = [i for i in span if not math.isnan(values[i])]
        kept |= {min(finite, key=values.__getitem__), max(finite, key=values.__getitem__)} if finite else {span[0]}
    order = sorted(kept)
    return [steps[i] for i in order], [values[i] for i in order]
