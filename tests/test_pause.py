"""A pause keeps a training warm and exact, gives its place to others, and outlives everybody's death."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from builder import checkpoint
from builder.runs import (
    Claim,
    Paused,
    Progress,
    Record,
    Resumed,
    Run,
    RunStore,
    Saved,
    Started,
    StoreError,
    fold,
)
from builder.spec import Experiment, Training
from builder.train import train
from tests.service import Service, until
from tests.test_processes import complete, toy
from tests.test_train import AUGMENT, TRICKY, Made, digest, experiment, find, finished, run


@pytest.fixture
def service(home: Path) -> Iterator[Service]:
    service = Service(home)
    yield service
    service.close()


class Asked:
    """A wish to pause before some optimizer steps (counted from 1) that is taken back after a few looks."""

    def __init__(self, *before: int, looks: int = 3) -> None:
        self.before, self.looks, self.calls, self.left = before, looks, itertools.count(1), 0

    def __call__(self) -> bool:
        if self.left:
            self.left -= 1
            return self.left > 0
        if next(self.calls) in self.before:
            self.left = self.looks
        return self.left > 0


# ---- the engine -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [(1,), (2, 3), (7,), (1, 5, 6, 12)], ids=str)
def test_a_paused_and_resumed_run_equals_the_uninterrupted_one_bit_for_bit(tmp_path, monkeypatch, before):
    monkeypatch.setattr("builder.train.PAUSE_LOOK_S", 0.0)
    chosen, dataset = experiment(TRICKY, epochs=3, batch_size=12, augment=AUGMENT), Made(tmp_path / "data")
    straight = run(chosen, dataset, tmp_path / "straight")
    paused = run(chosen, dataset, tmp_path / "paused", pause=Asked(*before))
    assert len([e for e in paused if isinstance(e, Paused)]) == len(before)
    assert finished(paused).reason == finished(straight).reason
    assert digest(tmp_path / "straight") == digest(tmp_path / "paused")
    best = [checkpoint.load_weights(tmp_path / n / "best.safetensors").tensors for n in ("straight", "paused")]
    assert all(torch.equal(best[0][name], best[1][name]) for name in best[0])


def test_a_pause_is_saved_told_and_ended_by_resumed(tmp_path, monkeypatch):
    monkeypatch.setattr("builder.train.PAUSE_LOOK_S", 0.0)
    events = run(experiment(epochs=1), Made(tmp_path / "data"), tmp_path / "run", pause=Asked(3))
    at = next(k for k, event in enumerate(events) if isinstance(event, Paused))
    saved, paused, resumed = events[at - 1 : at + 2]
    assert isinstance(saved, Saved) and isinstance(paused, Paused) and isinstance(resumed, Resumed)
    assert (saved.step, paused.step, resumed.step, paused.epoch) == (2, 2, 2, 1)


def test_killed_while_paused_it_goes_on_exactly(tmp_path, monkeypatch):
    chosen = experiment(TRICKY, epochs=2, batch_size=12, augment=AUGMENT)
    dataset: Any = Made(tmp_path / "data")
    run(chosen, dataset, tmp_path / "straight")
    events = train(chosen, find("recognition"), dataset, tmp_path / "broken", device="cpu", pause=Asked(3, looks=999))
    assert any(isinstance(event, Paused) for event in events)  # and dropped there, as by kill -9
    events.close()
    resumed = run(chosen, dataset, tmp_path / "broken")
    assert [e.step for e in resumed if isinstance(e, Resumed)] == [2]
    assert digest(tmp_path / "straight") == digest(tmp_path / "broken")


def test_a_paused_run_that_is_stopped_ends_there_and_can_go_on_exactly(tmp_path, monkeypatch):
    monkeypatch.setattr("builder.train.PAUSE_LOOK_S", 0.0)
    chosen, dataset = experiment(TRICKY, epochs=2, batch_size=12, augment=AUGMENT), Made(tmp_path / "data")
    run(chosen, dataset, tmp_path / "straight")
    looks = itertools.count(1)
    events = run(chosen, dataset, tmp_path / "broken", pause=Asked(3, looks=10**6), stop=lambda: next(looks) > 20)
    assert finished(events).status == "stopped" and not [e for e in events if isinstance(e, Resumed)]
    run(chosen, dataset, tmp_path / "broken")
    assert digest(tmp_path / "straight") == digest(tmp_path / "broken")


# ---- what it comes to -----------------------------------------------------------------------------------------------


def test_the_time_of_a_pause_is_no_time_of_computing() -> None:
    events = [
        Started(attempt=1),
        Progress(step=1, clock=10.0, metrics={"step/loss": 1.0}),
        Paused(step=1, epoch=1, clock=11.0),
    ]
    assert fold(events).seconds == 11.0
    events += [Resumed(step=1, epoch=1, clock=500.0), Progress(step=2, clock=504.0, metrics={"step/loss": 1.0})]
    assert fold(events).seconds == 15.0
    assert fold(events).curves["step/loss"][0] == [1, 2]


def test_a_run_is_pausing_then_paused_then_running_in_words(home: Path) -> None:
    store = RunStore(home)
    paused = store.create(Experiment(name="t", training=Training(epochs=4)))
    with pytest.raises(StoreError, match="is queued"):
        paused.pause()
    claim = Claim.of(os.getpid(), 1)
    claim.write(paused.folder / "claim.json")
    tell(paused, Started(attempt=1), Progress(step=1, total=4))
    paused.pause()
    assert paused.view().pausing and paused.view().status == "running"
    tell(paused, Saved(step=1), Paused(step=1, epoch=1))
    view = paused.view()
    assert view.status == "paused" and view.active and not view.pausing
    with pytest.raises(StoreError, match="stop it first"):
        store.delete(paused.id)
    paused.resume()
    assert not paused.pause_wanted and paused.view().status == "paused", "until it says that it goes on"
    tell(paused, Resumed(step=1, epoch=1))
    assert paused.view().status == "running"


def tell(run: Run, *events: object) -> None:
    with Record(run.folder / "events.jsonl") as record:
        for event in events:
            record.append(event)  # type: ignore[arg-type]


# ---- processes ------------------------------------------------------------------------------------------------------


def paused(run: Run) -> bool:
    return run.view().status == "paused"


def test_a_paused_run_lends_its_place_and_goes_on_when_it_is_free_again(service: Service) -> None:
    first, second = service.store.create(toy()), service.store.create(toy(epochs=1000))
    service.hold(13)
    service.executor.ensure()
    until(lambda: first.view().epoch > 2)
    worker = first.claim
    assert worker is not None and second.view().status == "queued"
    first.pause()
    service.release()
    until(lambda: paused(first))
    until(lambda: second.view().step > 1)
    assert paused(first) and worker.alive, "its network stays in memory"
    first.resume()
    until(lambda: "has its place" in first.view().reason)
    assert second.view().status == "running"
    second.stop()
    view = complete(first)
    claim = first.claim
    assert view.attempt == 1 and claim is not None and claim.pid == worker.pid and not claim.away


def test_killed_while_paused_it_is_paused_again_and_still_exact(service: Service) -> None:
    run = service.store.create(toy())
    service.hold(8)
    service.executor.ensure()
    until(lambda: run.view().epoch > 1)
    run.pause()
    service.release()
    until(lambda: paused(run))
    service.kill(service.supervisor)
    service.kill(run)
    service.executor.ensure()
    until(lambda: run.view().attempt == 2 and paused(run))
    service.kill(service.supervisor)  # the next one adopts a worker that is away
    run.resume()
    service.executor.ensure()
    assert complete(run).attempt == 2


def test_a_paused_run_heeds_a_stop_and_resumes(service: Service) -> None:
    run = service.store.create(toy())
    service.hold(8)
    service.executor.ensure()
    until(lambda: run.view().epoch > 1)
    run.pause()
    service.release()
    until(lambda: paused(run))
    run.stop()
    until(lambda: run.view().status == "stopped")
    run.resume()
    assert complete(run).attempt == 2
