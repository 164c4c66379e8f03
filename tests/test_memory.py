"""Memory that runs out in the middle of a step costs speed, not learning, and is told and kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from builder import checkpoint, learner
from builder.memory import Room
from builder.runs import Resumed, Saved, Warned
from tests.test_train import PLAIN, TRICKY, Made, after, digest, experiment, finished, run

Trouble = Callable[[], BaseException]


def planted(monkeypatch: pytest.MonkeyPatch, most: int, error: Trouble = MemoryError, first: int = 1) -> None:
    """From call `first` on, a backward pass over more than `most` scans finds no memory: late in the step, when
    buffers, dice and sums have changed."""
    real, seen = torch.Tensor.backward, [0, 0]
    batch = learner.Scans.batch

    def counted(self: Any, positions: Any, *rest: Any) -> Any:
        seen[1] = len(positions) if not isinstance(positions, slice) else 0
        return batch(self, positions, *rest)

    def backward(self: torch.Tensor, *rest: Any, **more: Any) -> None:
        seen[0] += 1
        if seen[0] >= first and seen[1] > most:
            raise error()
        real(self, *rest, **more)

    monkeypatch.setattr(learner.Scans, "batch", counted)
    monkeypatch.setattr(torch.Tensor, "backward", backward)


def tensors(folder: Any) -> dict[str, torch.Tensor]:
    found = checkpoint.load_latest(folder, "last")
    assert found is not None
    moments = {
        f"{number} {name}": value
        for number, state in found.state["optimizer"]["state"].items()
        for name, value in state.items()
        if isinstance(value, torch.Tensor)
    }
    return {**found.state["model"], **moments}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    "error",
    [MemoryError, lambda: torch.OutOfMemoryError("CUDA out of memory"), lambda: RuntimeError("can't allocate memory")],
)
def test_it_learns_what_the_smaller_batch_with_more_accumulation_learns(tmp_path, monkeypatch, error):
    dataset = Made(tmp_path / "data")
    run(experiment(PLAIN, batch_size=8, accumulate=2), dataset, tmp_path / "wanted")
    planted(monkeypatch, most=8, error=error)
    events = run(experiment(PLAIN, batch_size=16), dataset, tmp_path / "run")
    assert finished(events).status == "done"
    (said,) = [e.message for e in events if isinstance(e, Warned)]
    assert "16 scans at once" in said and "8 pass" in said and "2 such parts" in said
    assert "Batch normalization" not in said
    assert same(tensors(tmp_path / "run"), tensors(tmp_path / "wanted"))


def test_the_way_back_is_complete_where_batch_statistics_and_dice_are_in_the_network(tmp_path, monkeypatch):
    """Found out in the third step: the half-done step must leave no trace in sums, buffers or random numbers."""
    dataset = Made(tmp_path / "data")
    before = experiment(TRICKY, batch_size=16)
    real = Room.__init__

    def lowered(self: Room, *rest: Any) -> None:
        real(self, *rest)
        self.at_once = 4

    with monkeypatch.context() as patched:  # the same split, known from the start
        patched.setattr(Room, "__init__", lowered)
        run(before, dataset, tmp_path / "wanted")
    with monkeypatch.context() as patched:
        planted(patched, most=4)
        events = run(before, dataset, tmp_path / "run")
    said = [e.message for e in events if isinstance(e, Warned)]
    assert len(said) == 2 and "Batch normalization" in said[1]
    assert same(tensors(tmp_path / "run"), tensors(tmp_path / "wanted"))


def test_a_resumed_run_goes_on_with_the_split_it_found(tmp_path, monkeypatch):
    dataset, chosen = Made(tmp_path / "data"), experiment(TRICKY, batch_size=12)
    with monkeypatch.context() as patched:
        planted(patched, most=6, first=3)
        run(chosen, dataset, tmp_path / "straight")
    with monkeypatch.context() as patched:
        planted(patched, most=6, first=3)
        events = run(chosen, dataset, tmp_path / "broken", stop=after(5))
        at = next(k for k, event in enumerate(events) if isinstance(event, Warned))
        assert isinstance(events[at + 1], Saved), "kept at once"
    resumed = run(chosen, dataset, tmp_path / "broken")  # now there is memory enough, and nothing changes by that
    assert [e.step for e in resumed if isinstance(e, Resumed)] == [5]
    assert not [e for e in resumed if isinstance(e, Warned)]
    assert digest(tmp_path / "straight") == digest(tmp_path / "broken")


def test_where_nothing_is_left_to_halve_the_run_ends_in_a_sentence(tmp_path, monkeypatch):
    planted(monkeypatch, most=0)
    events = run(experiment(PLAIN, batch_size=4), Made(tmp_path / "data"), tmp_path / "run")
    assert finished(events).status == "failed" and "ran out of memory" in finished(events).reason


def test_memory_that_runs_out_while_the_weights_move_is_not_tried_again(tmp_path, monkeypatch):
    """Some weights may have moved already: the same step again would move them twice."""

    def none(self: Any, closure: Any = None) -> None:
        raise MemoryError

    monkeypatch.setattr(torch.optim.AdamW, "step", none)
    events = run(experiment(PLAIN), Made(tmp_path / "data"), tmp_path / "run")
    assert finished(events).status == "failed" and not [e for e in events if isinstance(e, Warned)]


def test_a_batch_is_cut_as_an_epoch_is(tmp_path):
    room = Room(torch.nn.BatchNorm1d(3), 16, torch.device("cpu"))
    assert [len(p) for p in room.pieces([np.arange(16), np.arange(70)])] == [16, 70], "nothing was lowered"
    room.at_once = 8
    cut = room.pieces([np.arange(16), np.arange(17), np.arange(5)])
    assert [len(p) for p in cut] == [8, 8, 8, 9, 5]
    assert np.concatenate(cut).tolist() == [*range(16), *range(17), *range(5)]
