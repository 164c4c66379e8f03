"""Training: from an experiment and a dataset to a list of events, and two files that hold what was learned.

`train` is a generator: each fact about the run is yielded as it happens, and who listens is not its business. The loop
is explicit and small enough to be read aloud: permute, gather, vary, forward, backward, step, look, save.

Everything random comes from (seed, epoch, step) or from the random state kept in the checkpoint; so a run that is
stopped, killed and resumed ends, on a CPU, with the very weights of one that never stopped. On a GPU that holds within
rounding only: its kernels add up in no fixed order.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch

from builder import memory, parallel
from builder.checkpoint import CheckpointError
from builder.data import Dataset, Prepared, UnusableScan
from builder.learner import Learner, NotFinite
from builder.runs import EpochEnded, Event, Finished, Noted, Paused, Probed, Progress, Resumed, Saved, Started, Warned
from builder.spec import Experiment
from builder.task import Task

PROGRESS_EVERY_S = 0.25  # at most four looks at the device a second: each one waits for it
PAUSE_LOOK_S = 0.1  # how often a paused run looks whether it may go on


def train(
    experiment: Experiment,
    task: Task,
    dataset: Dataset,
    folder: Path | str,
    *,
    resume: bool = True,
    stop: Callable[[], bool] = lambda: False,
    pause: Callable[[], bool] = lambda: False,
    device: str | None = None,
    attempt: int = 1,
) -> Generator[Event, None, None]:
    """Train `experiment` on the train split of `dataset`, judging every epoch on its val split.

    Args:
        folder: of the run; `last-*.pt` and `best.safetensors` are written there.
        resume: go on from the last good checkpoint in `folder`, if any; False: forget what is there.
        stop: asked after every optimizer step; True saves and ends the run, which can be resumed from there exactly.
        pause: asked before every optimizer step; while it is True the run waits there, its state saved, its network in
            memory, and it still heeds `stop`.
        device: "cpu", "cuda", "cuda:1"; None takes a GPU where there is one.

    Yields:
        Started, [Warned, Resumed, Noted], then Progress (at most four a second), EpochEnded and Saved, and last
        Finished; a pause is Saved, Paused, and Resumed when it goes on.
        Expected trouble (full disk, memory, numbers that run away, an unusable checkpoint) ends in
        Finished("failed", one sentence); only our own faults raise.
    """
    where = torch.device(device or parallel.own_device())
    yield Started(attempt=attempt, device=_device_words(where), pid=os.getpid())
    team, asked = parallel.ALONE, stop
    try:
        team = parallel.team_of(where)
        if isinstance(team, parallel.Gathered):
            stop, pause = _told_to_all(team, stop, pause)
        prepared = None
        if team.leads:  # the scans are prepared once, and the others find them ready
            prepared = yield from _prepared(experiment, dataset, asked)
        if not team.agreed(prepared is not None or not team.leads):
            yield Finished("stopped", "Stopped on request before the first step.")
            return
        if prepared is None:
            prepared = yield from _prepared(experiment, dataset, lambda: False)
        assert prepared is not None
        if team.size > 1:
            yield Noted(f"{team.size} processes share each batch of {experiment.training.batch_size} scans.")
        elif experiment.training.processes > 1:
            yield Warned(
                f"Asked for {experiment.training.processes} processes, but only a cluster (SCANLOOM_EXECUTOR=ray) "
                "gives a run more than one: this one takes whole batches by itself. It learns the same, only slower."
            )
        try:
            learner = Learner(experiment, task, dataset, prepared, Path(folder), where, team)
        except (ValueError, LookupError) as error:  # the document asks for what cannot be: said in its own words
            yield Finished("failed", str(error))
            return
        if resume or not team.leads:
            yield from learner.resume(attempt)
        else:
            learner.forget()
            yield from learner.branch()
        if team.agreed(learner.place.step) != learner.place.step:
            raise CheckpointError("Not every process of the run sees the same saved state: is the data folder shared?")
        yield from learner.choose_way()
        yield from _epochs(learner, stop, pause)
    except NotFinite as error:
        yield error.broke
        yield Finished("failed", str(error))
    except CheckpointError as error:
        yield Finished("failed", str(error))
    except (torch.OutOfMemoryError, MemoryError, ValueError, RuntimeError, OSError) as error:
        words = _known_trouble(error, experiment)
        if not words:
            raise
        yield Finished("failed", words)
    finally:
        team.leave()


def _told_to_all(
    team: parallel.Gathered, stop: Callable[[], bool], pause: Callable[[], bool]
) -> tuple[Callable[[], bool], Callable[[], bool]]:
    """Stop and pause for a team: what the leader is asked reaches the others with the gradients of the next step, so
    that all stop after the same one; during a pause they wait for that."""

    def stopped() -> bool:
        if team.leads:
            team.wants_stop = team.wants_stop or stop()
        return team.stopped

    def paused() -> bool:
        return team.leads and pause() and not stop()

    return stopped, paused


def _epochs(learner: Learner, stop: Callable[[], bool], pause: Callable[[], bool]) -> Iterator[Event]:
    """The loop."""
    training, place = learner.experiment.training, learner.place
    total = training.epochs * len(learner.updates)
    looked, saved = -math.inf, time.monotonic()
    while place.epoch <= training.epochs and not learner.is_stale:
        began = time.monotonic() - place.seconds
        order = learner.order(place.epoch)
        for update in learner.updates[place.update :]:
            if pause() and not stop():
                yield from _waited(learner, stop, pause)
                began = looked = saved = time.monotonic()
                began -= place.seconds
                learner.pace(looked)  # a pause is no slow step
                if stop():  # its state is saved
                    yield Finished("stopped", f"Stopped on request in epoch {place.epoch}; it can go on from there.")
                    return
            batches = [order[start:end] for start, end in update]
            _, said = learner.room.within(partial(learner.update, batches), learner.loss_sum)
            now = time.monotonic()
            if said:  # kept at once: whatever happens, it goes on with what it has found out
                yield from map(Warned, said)
                yield Saved(place.step, place.epoch, False, learner.save())
            place.seconds = now - began
            if (layers := learner.watch.told()) is not None:
                yield Probed(place.step, place.epoch, layers)
            if now - looked >= PROGRESS_EVERY_S:
                yield Progress(place.step, total, place.epoch, learner.look())
                looked = time.monotonic()
            if stop():
                file = learner.save()
                yield Saved(place.step, place.epoch, False, file)
                yield Finished("stopped", f"Stopped on request in epoch {place.epoch}; it can go on from exactly here.")
                return
            if now - saved >= training.checkpoint_every_s:
                yield Saved(place.step, place.epoch, False, learner.save())
                saved = time.monotonic()
        metrics, said = learner.room.within(learner.judge)
        yield from map(Warned, said)
        place.seconds = time.monotonic() - began
        yield EpochEnded(place.epoch, place.step, metrics, place.seconds)
        yield from learner.pictured()
        better, warnings = learner.rank(metrics)
        for warning in warnings:
            yield Warned(warning)
        if better:
            yield Saved(place.step, place.epoch, True, learner.save_best())
        learner.turn_page(metrics)
        file = learner.save()
        if better:
            learner.keep_best(file)
        yield Saved(place.step, place.epoch - 1, False, file)
        saved = time.monotonic()
    yield Finished("done", learner.summary())


def _waited(learner: Learner, stop: Callable[[], bool], pause: Callable[[], bool]) -> Iterator[Event]:
    """A pause: the state is saved, and the run waits until it may go on or is to stop."""
    place = learner.place
    yield Saved(place.step, place.epoch, False, learner.save())
    if learner.device.type == "cuda":
        torch.cuda.empty_cache()  # what is not in use is for whoever works meanwhile
    yield Paused(place.step, place.epoch, "Its state is saved and its network stays in memory.")
    while pause() and not stop():
        time.sleep(PAUSE_LOOK_S)
    if not stop():
        yield Resumed(place.step, place.epoch)


class _Stopped(Exception):
    pass


def _prepared(
    experiment: Experiment, dataset: Dataset, stop: Callable[[], bool]
) -> Generator[Event, None, Prepared | None]:
    """The scans as network input, with Progress while they are made; None when stopped in between."""
    done, total, unwanted = 0, 0, False

    def note(now_done: int, of: int) -> None:
        nonlocal done, total
        done, total = now_done, of
        if unwanted or stop():
            raise _Stopped

    with ThreadPoolExecutor(1) as thread:
        future: Future[Prepared] = thread.submit(dataset.prepared, experiment.data, note)
        said = 0
        try:
            while True:
                try:
                    return future.result(PROGRESS_EVERY_S)
                except TimeoutError:
                    if done > said:
                        said = done
                        yield Progress(note=f"Preparing the scans: {done:,} of {total:,}")
        except _Stopped:
            return None
        finally:
            unwanted = True  # nobody listens any more: let the thread end


def _device_words(device: torch.device) -> str:
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def _known_trouble(error: Exception, experiment: Experiment) -> str:
    """A sentence for errors that have a plain meaning, "" for all others."""
    said = str(error)
    if memory.ran_out(error):
        what = "This machine" if isinstance(error, MemoryError) or "can't allocate" in said else "The graphics card"
        return (
            f"{what} ran out of memory, at {experiment.training.batch_size} scans a batch and with ever fewer at once: "
            "choose smaller scans or a smaller network. What was saved stays."
        )
    if "Expected more than 1 value per channel" in said:
        return (
            "Batch normalization cannot work on one scan at a time: raise the batch size to 2 or more, add training "
            "scans, or use group normalization."
        )
    if isinstance(error, UnusableScan):
        return said
    if isinstance(error, OSError):
        return f"The scans cannot be read from the disk ({(error.strerror or said).lower()}); what was saved is intact."
    return ""
