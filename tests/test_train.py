"""Training learns what is planted, goes on bit by bit where it stopped, and never keeps what ran away."""

import hashlib
import itertools
import json
import math
import os
import random
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from builder import checkpoint, learner, network, optim
from builder.batches import Scans, normalization, permutation, updates
from builder.fingerprint import Fingerprint
from builder.parts.training import OPTIMIZERS, SCHEDULES
from builder.prepared import Prepared
from builder.runs import EpochEnded, Finished, Progress, Resumed, Saved, Started, Warned
from builder.spec import Choice, Data, Experiment, Group, Node, Training
from builder.targets import Targets
from builder.task import find
from builder.train import train

SIZE = 16


class Made:
    """A dataset as `data.Dataset` offers it: a bright spot, left (class 0) or right (class 1), in noise."""

    def __init__(self, folder: Path, counts=(48, 24), unit=255, multi_label=False, shares=(0.5, 0.5), noise=0.15):
        chance = np.random.default_rng(3)
        total = sum(counts)
        self.labels = chance.choice(2, total, p=shares).astype(np.int64)
        values = chance.normal(0.4, noise, (total, 1, SIZE, SIZE))
        for picture, label in zip(values, self.labels, strict=True):
            row, column = chance.integers(2, SIZE - 5), chance.integers(1, 4) + label * SIZE // 2
            picture[0, row : row + 4, column : column + 4] += 0.4
        if multi_label:
            self.labels = np.stack([self.labels, chance.integers(0, 2, total)], 1).astype(np.uint8)
        stored = np.rint(values.clip(0, 1) * unit).astype(np.uint8 if unit == 255 else np.uint16)
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "images.npy", stored)
        self.splits = np.array(["train"] * counts[0] + ["val"] * counts[1])
        self.classes, self.multi_label = ("left", "right"), multi_label
        self.patients = np.arange(total)
        self.cases = [SimpleNamespace(id=str(case)) for case in range(total)]
        self.fingerprint = Fingerprint(num_cases=total, classes=self.classes)
        self.stored = np.load(folder / "images.npy", mmap_mode="r")
        grey = stored[: counts[0]] / unit
        file = (folder / "images.npy").open("rb")
        self.made = Prepared(self.stored, unit, grey.mean((0, 2, 3)), grey.std((0, 2, 3)), file)

    def indices(self, split):
        return np.flatnonzero(self.splits == split)

    def prepared(self, data, progress=None):
        return self.made


PLAIN = (
    Node(id="conv", name="conv2d", params={"out_channels": 8}),
    Node(id="act", name="relu"),
    Node(id="pool", name="max_pool"),
    Node(id="conv_b", name="conv2d", params={"out_channels": 8}),
    Node(id="act_b", name="relu"),
    Node(id="flat", name="flatten"),
    Node(id="head", name="linear", params={"out_features": 2}),
)
# Batch normalization keeps sums of its own and dropout draws random numbers: both must survive a resume.
TRICKY = (
    Node(id="conv", name="conv2d", params={"out_channels": 4, "stride": 2}),
    Node(id="norm", name="batch_norm"),
    Node(id="act", name="relu"),
    Node(id="flat", name="flatten"),
    Node(id="drop", name="dropout", params={"p": 0.3}),
    Node(id="head", name="linear", params={"out_features": 2}),
)
AUGMENT = (
    Choice(name="rotate", params={"probability": 0.7}),
    Choice(name="noise", params={"probability": 0.7}),
    Choice(name="flip_vertical"),
)


def experiment(nodes=PLAIN, data=None, **training: Any) -> Experiment:
    settings = {"epochs": 3, "batch_size": 16, "optimizer": Choice(name="adamw"), **training}
    return Experiment(
        name="test",
        data=data or Data(size_px=SIZE),
        network=nodes,
        training=Training(**{"monitor": "loss", **settings}),
    )


def replaced(layer: str, module: Callable[[], nn.Module]) -> Callable[..., nn.Module]:
    """`network.assemble` with another module in the place of one layer."""
    real = network.assemble

    def assemble(*args: Any, **settings: Any) -> nn.Module:
        model = real(*args, **settings)
        layers = model.layers
        assert isinstance(layers, nn.ModuleDict)
        layers[layer] = module()
        return model

    return assemble


def run(experiment, dataset, folder, **options) -> list:
    return list(train(experiment, find("recognition"), dataset, folder, **{"device": "cpu", **options}))


def finished(events) -> Finished:
    assert isinstance(events[-1], Finished) and sum(isinstance(e, Finished) for e in events) == 1
    return events[-1]


def epochs(events) -> list[EpochEnded]:
    return [event for event in events if isinstance(event, EpochEnded)]


def digest(folder) -> str:
    """SHA-256 over every number a run ends with: weights, buffers, optimizer, random state, place."""
    found = checkpoint.load_latest(folder, "last")
    assert found is not None
    state = found.state
    state["place"] = {**state["place"], "seconds": 0}
    sha256 = hashlib.sha256()

    def add(value):
        if isinstance(value, torch.Tensor):
            sha256.update(value.contiguous().numpy().tobytes())
        elif isinstance(value, dict):
            for key in sorted(value, key=str):
                sha256.update(str(key).encode())
                add(value[key])
        elif isinstance(value, list | tuple):
            for item in value:
                add(item)
        else:
            sha256.update(repr(value).encode())

    add(state)
    return sha256.hexdigest()


def after(count: int):
    """A stop that is asked for after `count` optimizer steps."""
    steps = itertools.count(1)
    return lambda: next(steps) >= count


def telling(writer: int, waits_at: int) -> Callable[[], bool]:
    """A stop that writes the number of each step into a pipe and never stops; at one of them it waits for ever."""
    steps = itertools.count(1)

    def stop() -> bool:
        step = next(steps)
        os.write(writer, bytes([step]))
        while step >= waits_at:
            time.sleep(1)
        return False

    return stop


@pytest.fixture
def dataset(tmp_path):
    return Made(tmp_path / "data")


# ---- it learns ----


def test_a_tiny_network_learns_the_planted_signal_and_tells_it_in_events(tmp_path):
    dataset = Made(tmp_path / "data", counts=(160, 80))
    chosen = experiment(epochs=8, optimizer=Choice(name="adamw", params={"lr": 0.005}), monitor="auc")
    events = run(chosen, dataset, tmp_path / "run")
    assert isinstance(events[0], Started) and events[0].device == "cpu" and events[0].pid > 0
    assert [e.epoch for e in epochs(events)] == list(range(1, 9)) and epochs(events)[-1].step == 80
    assert epochs(events)[-1].metrics["train/loss"] < 0.5 * epochs(events)[0].metrics["train/loss"]
    best = max(e.metrics["val/auc"] for e in epochs(events))
    assert best > 0.95
    assert set(epochs(events)[0].metrics) >= {"train/loss", "val/loss", "val/auc", "val/accuracy"}
    assert finished(events).status == "done"
    assert "All 8 epochs are done" in finished(events).reason and f"{best:.4g}" in finished(events).reason
    progress = [e for e in events if isinstance(e, Progress) and e.step]
    assert progress and progress[0].step == 1 and progress[0].total == 80
    assert set(progress[0].metrics) == {"step/loss", "step/lr", "step/gradient", "step/memory_mb"}
    order = [type(e).__name__ for e in events if isinstance(e, EpochEnded | Saved)]
    assert order[:3] == ["EpochEnded", "Saved", "Saved"], "the best is announced after the epoch it is of"


def test_best_holds_the_weights_of_the_best_epoch_with_all_that_using_them_needs(tmp_path, monkeypatch):
    dataset = Made(tmp_path / "data", counts=(48, 24))
    heard = iter([0.6, 0.9, 0.7, 0.8])
    monkeypatch.setattr("tasks.recognition.Recognition.score", lambda *_: {"auc": next(heard)})
    chosen = experiment(epochs=4, monitor="auc")
    events, weights = [], {}
    for event in train(chosen, find("recognition"), cast(Any, dataset), tmp_path / "run", device="cpu"):
        events.append(event)
        if isinstance(event, Saved) and not event.best:
            found = checkpoint.load_latest(tmp_path / "run", "last")
            assert found is not None
            weights[event.epoch] = found.state["model"]["layers.head.weight"]
    best = checkpoint.load_weights(tmp_path / "run" / "best.safetensors")
    assert torch.equal(best.tensors["layers.head.weight"], weights[2])
    assert not torch.equal(weights[2], weights[4])
    facts = {
        name: json.loads(best.metadata[name]) for name in ("classes", "multi_label", "unit", "mean", "std", "epoch")
    }
    assert facts["classes"] == ["left", "right"] and facts["unit"] == 255 and facts["epoch"] == 2
    assert facts["mean"] == pytest.approx(dataset.made.mean.tolist())
    assert best.metadata["experiment"] == chosen.digest and best.metadata["metric"] == "auc"
    assert json.loads(best.metadata["value"]) == 0.9
    assert Fingerprint.from_json(json.loads(best.metadata["fingerprint"])) == dataset.fingerprint
    assert [e.epoch for e in events if isinstance(e, Saved) and e.best] == [1, 2]
    model = network.assemble(chosen.network, network.input_shape(chosen), 2)
    checkpoint.pour(best.tensors, model)


def test_among_epochs_of_one_score_the_one_with_the_lowest_validation_loss_is_the_best(tmp_path, dataset, monkeypatch):
    monkeypatch.setattr("tasks.recognition.Recognition.score", lambda *_: {"auc": 1.0})
    rates = Choice(name="adamw", params={"lr": 0.02})
    events = run(experiment(epochs=5, monitor="auc", optimizer=rates), dataset, tmp_path / "run")
    losses = [e.metrics["val/loss"] for e in epochs(events)]
    bests = [e.epoch for e in events if isinstance(e, Saved) and e.best]
    assert len(bests) > 1, "the first epoch is not the best here"
    assert bests[-1] == losses.index(min(losses)) + 1


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path, dataset):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(experiment(TRICKY, seed=seed, augment=AUGMENT, epochs=2), dataset, tmp_path / name)
    assert digest(tmp_path / "a") == digest(tmp_path / "b") != digest(tmp_path / "c")


def test_sixteen_bit_scans_and_several_labels_a_scan_are_learned(tmp_path):
    dataset = Made(tmp_path / "data", counts=(160, 80), unit=65535, multi_label=True)
    chosen = experiment(epochs=8, optimizer=Choice(name="adamw", params={"lr": 0.005}))
    events = run(chosen, dataset, tmp_path / "run")
    assert finished(events).status == "done"
    # The second label is a coin: only the first can be learned, so half of the accuracy is luck.
    assert epochs(events)[-1].metrics["val/accuracy"] > 0.65


def test_small_batches_accumulated_are_the_large_batch(tmp_path, dataset):
    """Without batch normalization, 4 batches of 4 give the gradient of one of 16."""
    results = []
    for name, size, accumulate in (("whole", 16, 1), ("parts", 4, 4)):
        chosen = experiment(
            epochs=2, batch_size=size, accumulate=accumulate, optimizer=Choice(name="sgd", params={"lr": 0.1})
        )
        run(chosen, dataset, tmp_path / name)
        results.append(checkpoint.load_weights(tmp_path / name / "best.safetensors").tensors)
    assert all(torch.allclose(results[0][n], results[1][n], atol=1e-5) for n in results[0])


# ---- resume ----

# Every optimizer and every schedule through real files; all pairs of them, in memory, in test_exactness.
PAIRS = itertools.zip_longest(OPTIMIZERS.names, SCHEDULES.names, fillvalue=SCHEDULES.names[0])
MATRIX = [(rule, schedule) for rule, schedule in PAIRS if rule in OPTIMIZERS]


@pytest.mark.parametrize(("rule", "schedule"), MATRIX, ids=[f"{o} {s}" for o, s in MATRIX])
def test_every_optimizer_with_every_schedule_steps_and_resumes_bit_exactly(tmp_path, dataset, rule, schedule):
    """Uninterrupted, and stopped in the middle of an epoch and resumed by a fresh start: the very same numbers."""
    settings: dict[str, dict[str, Any]] = {
        "step": {"every_epochs": 1},
        "plateau": {"wait_epochs": 0},
        "cosine": {"warmup_epochs": 1},
    }
    chosen = experiment(
        TRICKY,
        optimizer=Choice(name=rule),
        schedule=Choice(name=schedule, params=settings.get(schedule, {})),
        epochs=2,
        batch_size=7,
        accumulate=2,
        augment=AUGMENT,
        l1=1e-5,
        label_smoothing=0.05,
    )
    straight = run(chosen, dataset, tmp_path / "straight")
    assert finished(straight).status == "done"
    stopped = run(chosen, dataset, tmp_path / "broken", stop=after(6))  # 4 steps an epoch: in the middle of the second
    assert finished(stopped).status == "stopped" and "epoch 2" in finished(stopped).reason
    random.seed(99), np.random.seed(99), torch.manual_seed(99)  # a new process has another random state
    resumed = run(chosen, dataset, tmp_path / "broken")
    assert [(e.step, e.epoch) for e in resumed if isinstance(e, Resumed)] == [(6, 2)]
    assert finished(resumed).status == "done" and [e.epoch for e in epochs(resumed)] == [2]
    assert digest(tmp_path / "straight") == digest(tmp_path / "broken")
    assert epochs(straight)[-1].metrics == epochs(resumed)[-1].metrics
    best = [checkpoint.load_weights(tmp_path / n / "best.safetensors").tensors for n in ("straight", "broken")]
    assert all(torch.equal(best[0][name], best[1][name]) for name in best[0])
    start = network.assemble(TRICKY, (1, SIZE, SIZE), 2, seed=0).state_dict()
    assert not torch.equal(start["layers.head.weight"], best[0]["layers.head.weight"])


@pytest.mark.parametrize("stops", [(1,), (3,), (4,), (5, 2), (1, 1, 1, 1, 1), (4, 4)], ids=str)
def test_a_run_stopped_at_any_step_any_number_of_times_ends_the_same(tmp_path, dataset, stops):
    chosen = experiment(TRICKY, epochs=3, batch_size=12, augment=AUGMENT, patience=2)
    run(chosen, dataset, tmp_path / "straight")
    for count in stops:
        events = run(chosen, dataset, tmp_path / "broken", stop=after(count))
        assert finished(events).status == "stopped"
    run(chosen, dataset, tmp_path / "broken")
    assert digest(tmp_path / "straight") == digest(tmp_path / "broken")


def test_a_run_killed_between_two_checkpoints_repeats_what_was_lost_exactly(tmp_path, dataset):
    chosen = experiment(TRICKY, epochs=3, batch_size=12, augment=AUGMENT)
    run(chosen, dataset, tmp_path / "straight")
    events = train(chosen, find("recognition"), dataset, tmp_path / "broken", device="cpu")
    for event in events:  # dropped in the second epoch, as by kill -9: nothing is saved at this point
        if isinstance(event, EpochEnded) and event.epoch == 2:
            break
    events.close()
    resumed = run(chosen, dataset, tmp_path / "broken")
    assert [e.epoch for e in resumed if isinstance(e, Resumed)] == [2]
    assert digest(tmp_path / "straight") == digest(tmp_path / "broken")


def test_judging_and_what_it_imports_leave_the_dice_as_they_were(tmp_path, dataset, monkeypatch):
    """sklearn brings rich along, which throws Python's dice when it is imported: in the first epoch of a process."""
    chosen = experiment(TRICKY, epochs=2, augment=AUGMENT)
    run(chosen, dataset, tmp_path / "quiet")
    kind = find("recognition")
    real: Any = type(kind).score  # type: ignore[attr-defined]

    def noisy(*args: Any) -> dict[str, float]:
        random.random(), np.random.random(), torch.rand(3)
        return real(*args)

    monkeypatch.setattr("tasks.recognition.Recognition.score", noisy)
    run(chosen, dataset, tmp_path / "noisy")
    assert digest(tmp_path / "quiet") == digest(tmp_path / "noisy")


def test_five_kills_of_the_process_change_nothing(tmp_path, dataset):
    """kill -9 at several steps, in the middle of epochs and after them: the last attempt ends with the same weights."""
    chosen = experiment(TRICKY, epochs=10, batch_size=12, augment=AUGMENT, checkpoint_every_s=1)  # 40 steps
    run(chosen, dataset, tmp_path / "straight")
    for kill_at in (2, 3, 5, 3, 6):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                torch.set_num_threads(1)
                # Killed while it works, but on a busy machine not later than 4 steps on: it must not end by itself.
                run(chosen, dataset, tmp_path / "broken", stop=telling(writer, waits_at=kill_at + 4))
            finally:
                os._exit(1)
        os.close(writer)
        try:
            while (told := os.read(reader, 1)) and told[0] < kill_at:
                pass
        finally:
            os.kill(child, signal.SIGKILL)
            status = os.waitpid(child, 0)[1]
            os.close(reader)
        assert told and status == signal.SIGKILL, "the child ended by itself"
    assert finished(run(chosen, dataset, tmp_path / "broken")).status == "done"
    assert digest(tmp_path / "straight") == digest(tmp_path / "broken")


def test_a_damaged_checkpoint_costs_only_the_way_from_the_one_before(tmp_path, dataset):
    chosen = experiment(TRICKY, epochs=3, augment=AUGMENT)
    run(chosen, dataset, tmp_path / "straight")
    run(chosen, dataset, tmp_path / "broken", stop=after(8))
    newest = sorted((tmp_path / "broken").glob("last-*.pt"))[-1]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    events = run(chosen, dataset, tmp_path / "broken")
    assert any(isinstance(e, Warned) and "damaged" in e.message for e in events)
    assert digest(tmp_path / "straight") == digest(tmp_path / "broken")


def test_with_no_good_checkpoint_left_it_says_so_and_does_not_start_afresh(tmp_path, dataset):
    run(experiment(), dataset, tmp_path / "run", stop=after(4))
    for file in (tmp_path / "run").glob("last-*.pt"):
        file.write_bytes(b"rot")
    end = finished(run(experiment(), dataset, tmp_path / "run"))
    assert end.status == "failed" and "damaged" in end.reason


def test_the_checkpoint_of_another_experiment_is_refused(tmp_path, dataset):
    run(experiment(), dataset, tmp_path / "run", stop=after(4))
    end = finished(run(experiment(l2=0.5), dataset, tmp_path / "run"))
    assert end.status == "failed" and "belongs to another experiment" in end.reason


def test_an_attempt_after_one_that_saved_nothing_says_that_it_begins_anew(tmp_path, dataset):
    assert not any(isinstance(e, Resumed) for e in run(experiment(epochs=1), dataset, tmp_path / "first"))
    events = run(experiment(epochs=1), dataset, tmp_path / "second", attempt=2)
    assert [(e.step, e.epoch) for e in events if isinstance(e, Resumed)] == [(0, 0)]


@pytest.mark.parametrize(("stop_at", "counts"), [(5, (64, 24)), (3, (64, 24)), (3, (48, 30))])
def test_a_run_does_not_go_on_over_other_scans_and_says_what_to_do(tmp_path, dataset, stop_at, counts):
    """In the middle of an epoch, between two, and where only the validation side has grown."""
    chosen = experiment(epochs=3)
    run(chosen, dataset, tmp_path / "run", stop=after(stop_at))
    before = digest(tmp_path / "run")
    events = run(chosen, Made(tmp_path / "grown", counts=counts), tmp_path / "run")
    assert finished(events).status == "failed" and "have changed" in finished(events).reason
    assert "new experiment" in finished(events).reason and not epochs(events)
    assert digest(tmp_path / "run") == before
    assert finished(run(chosen, dataset, tmp_path / "run")).status == "done"


def test_a_fresh_start_forgets_what_is_there(tmp_path, dataset):
    run(experiment(seed=1), dataset, tmp_path / "run", stop=after(4))
    run(experiment(seed=2), dataset, tmp_path / "run", resume=False)
    run(experiment(seed=2), dataset, tmp_path / "other")
    assert digest(tmp_path / "run") == digest(tmp_path / "other")


def test_resuming_a_finished_run_says_done_at_once(tmp_path, dataset):
    run(experiment(), dataset, tmp_path / "run")
    events = run(experiment(), dataset, tmp_path / "run")
    assert finished(events).status == "done" and not epochs(events)


def test_long_epochs_are_saved_in_between(tmp_path, dataset, monkeypatch):
    ticks = itertools.count(0, 0.6)
    monkeypatch.setattr("builder.train.time.monotonic", lambda: next(ticks))
    events = run(experiment(epochs=1, batch_size=4, checkpoint_every_s=1), dataset, tmp_path / "run")
    between = [e for e in events if isinstance(e, Saved) and e.step < 12]
    assert len(between) >= 3


# ---- numbers that run away ----


class Poison(nn.Module):
    """Passes its input on, but for one forward pass in training."""

    def __init__(self, at: int, value: float = math.nan):
        super().__init__()
        self.at, self.value, self.seen = at, value, 0

    def forward(self, x):
        self.seen += self.training
        return x * self.value if self.training and self.at <= self.seen < self.at + 2 else x


@pytest.mark.parametrize("at", range(1, 21))
def test_not_a_number_stops_at_that_step_names_the_layer_and_saves_nothing(tmp_path, dataset, monkeypatch, at):
    poison = replaced("act_b", lambda: Poison(at, math.nan if at % 2 else math.inf))
    monkeypatch.setattr(network, "assemble", poison)
    events = run(experiment(epochs=10, batch_size=12), dataset, tmp_path / "run")
    end = finished(events)
    epoch = (at - 1) // 4 + 1
    assert end.status == "failed" and f"in epoch {epoch}, step {at}:" in end.reason
    assert "layer act_b was not a finite number" in end.reason and "learning rate" in end.reason
    assert len(epochs(events)) == epoch - 1
    found = checkpoint.load_latest(tmp_path / "run", "last")
    assert (found is None) == (epoch == 1)
    if found is not None:
        assert found.state["place"]["step"] == (epoch - 1) * 4
        assert all(bool(t.isfinite().all()) for t in found.state["model"].values())
        best = checkpoint.load_weights(tmp_path / "run" / "best.safetensors").tensors
        assert all(bool(t.isfinite().all()) for t in best.values())
        assert f"from epoch {found.state['place']['best_epoch']}, are kept" in end.reason


def test_a_gradient_that_is_not_finite_is_named_too(tmp_path, dataset, monkeypatch):
    class Cliff(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, *gradients):
            return gradients[0] * math.inf

    class Steep(nn.Module):
        def forward(self, x):
            return Cliff.apply(x)

    monkeypatch.setattr(network, "assemble", replaced("act_b", Steep))
    end = finished(run(experiment(), dataset, tmp_path / "run"))
    assert end.status == "failed" and "the gradient of conv_b was not a finite number" in end.reason


def test_a_learning_rate_far_too_high_ends_in_words_and_keeps_what_was_good(tmp_path, dataset):
    chosen = experiment(optimizer=Choice(name="sgd", params={"lr": 10.0}), clip_norm=0.0, epochs=30, l2=1.0)
    end = finished(run(chosen, dataset, tmp_path / "run"))
    assert end.status == "failed" and "ran away" in end.reason
    for file in (tmp_path / "run").glob("*.safetensors"):
        assert all(bool(t.isfinite().all()) for t in checkpoint.load_weights(file).tensors.values())


# ---- brakes ----


def final_weights(tmp_path, dataset, name, **training) -> torch.Tensor:
    run(experiment(**{"epochs": 12, "l2": 0.0, **training}), dataset, tmp_path / name)
    found = checkpoint.load_latest(tmp_path / name, "last")
    assert found is not None
    model = {n: t for n, t in found.state["model"].items() if t.ndim > 1}
    return torch.cat([t.flatten() for t in model.values()])


def test_l1_makes_weights_sparse_and_l2_makes_them_small(tmp_path, dataset):
    fast = {"optimizer": Choice(name="adamw", params={"lr": 0.01})}
    plain = final_weights(tmp_path, dataset, "plain", **fast)
    sparse = final_weights(tmp_path, dataset, "sparse", l1=0.01, **fast)
    small = final_weights(tmp_path, dataset, "small", l2=1.0, **fast)

    def near_zero(weights):
        return float((weights.abs() < 0.02 * plain.std()).float().mean())

    assert near_zero(sparse) > 3 * near_zero(plain) and near_zero(sparse) > 2 * near_zero(small)
    assert float(small.norm()) < 0.9 * float(plain.norm())


def test_an_l1_penalty_that_no_layer_is_given_changes_nothing(tmp_path, dataset):
    nobody = (Group(name="all", nodes=("conv", "conv_b", "head"), l1_factor=0.0),)
    short = {"epochs": 1, "groups": nobody}
    plain, told = (final_weights(tmp_path, dataset, str(l1), l1=l1, **short) for l1 in (0.0, 0.01))
    assert torch.equal(plain, told)


@pytest.mark.parametrize("name", OPTIMIZERS.names)
def test_an_optimizer_does_what_its_plain_form_in_torch_does(name):
    """Also with filters in channels_last order, where a fused kernel could mistake one layout for another."""
    models = []
    for plain in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 2))
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        choice, part = Choice(name=name), OPTIMIZERS[name]
        weights, others = optim.weights(model), [p for p in model.parameters() if p.ndim == 1]
        groups = [{"params": weights, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
        built = part.load()(groups, **part.defaults, foreach=False) if plain else optim.optimizer(choice, model, 0.01)
        images = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
        for _ in range(8):
            built.zero_grad()
            model(images.contiguous(memory_format=torch.channels_last)).square().mean().backward()
            built.step()
        models.append(model)
    for ours, theirs in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4, rtol=1e-3)


def test_without_momentum_nothing_looks_ahead_and_with_it_nesterov_does():
    model = nn.Linear(2, 2)
    for momentum, looks in ((0, False), (0.0, False), (0.5, True)):
        made = optim.optimizer(Choice(name="momentum", params={"momentum": momentum}), model, 0.0)
        assert made.defaults["nesterov"] is looks and made.defaults["momentum"] == momentum


def test_penalties_leave_biases_and_norms_alone():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2))
    groups = optim.optimizer(Choice(name="sgd"), model, 0.1).param_groups
    assert [(len(g["params"]), g["weight_decay"]) for g in groups] == [(2, 0.1), (4, 0.0)]
    assert {id(p) for p in groups[0]["params"]} == {id(p) for p in optim.weights(model)}


def test_early_stopping_ends_after_its_patience_also_over_a_resume(tmp_path, dataset, monkeypatch):
    scores = [0.5, 0.8, 0.7, 0.7, 0.7, 0.9, 0.9]
    for name, stop_at in (("straight", None), ("broken", 10)):
        heard = iter(scores)
        monkeypatch.setattr("tasks.recognition.Recognition.score", lambda *_, heard=heard: {"auc": next(heard)})
        chosen = experiment(epochs=7, patience=3, monitor="auc")
        events = []
        if stop_at:
            events = run(chosen, dataset, tmp_path / name, stop=after(stop_at))
        events += run(chosen, dataset, tmp_path / name)
        assert len(epochs(events)) == 5
        assert events[-1].status == "done"
        assert "Stopped early after epoch 5" in events[-1].reason and "epoch 2" in events[-1].reason
        again = run(chosen, dataset, tmp_path / name)
        assert not epochs(again) and finished(again).status == "done"


def test_class_weights_help_the_rare_class(tmp_path):
    dataset = Made(tmp_path / "data", counts=(200, 200), shares=(0.93, 0.07), noise=0.25)
    recall = {}
    for weighted in (False, True):
        chosen = experiment(
            epochs=4, balance="weights" if weighted else "none", optimizer=Choice(name="adamw", params={"lr": 0.003})
        )
        events = run(chosen, dataset, tmp_path / f"run-{weighted}")
        recall[weighted] = epochs(events)[-1].metrics["val/balanced_accuracy"]
    assert recall[True] > recall[False] + 0.1


def test_label_smoothing_makes_answers_less_sure(tmp_path, dataset):
    losses = {}
    for smoothing in (0.0, 0.4):
        chosen = experiment(epochs=15, label_smoothing=smoothing, optimizer=Choice(name="adamw", params={"lr": 0.01}))
        events = run(chosen, dataset, tmp_path / str(smoothing))
        losses[smoothing] = epochs(events)[-1].metrics["train/loss"]
    assert losses[0.0] < 0.1 and losses[0.4] > 0.4  # the entropy of (0.8, 0.2) is 0.5


# ---- stopping, validation, trouble ----


def test_preparing_the_scans_is_told_and_can_be_stopped(tmp_path, dataset, monkeypatch):
    def slowly(data, progress):
        for done in range(1, 11):
            time.sleep(0.05)
            progress(done, 10)
        return dataset.made

    monkeypatch.setattr(dataset, "prepared", slowly)
    events = run(experiment(epochs=1), dataset, tmp_path / "run")
    notes = [e.note for e in events if isinstance(e, Progress) and e.note.startswith("Preparing")]
    assert notes and notes[0].endswith("of 10") and finished(events).status == "done"
    end = finished(run(experiment(), dataset, tmp_path / "other", stop=after(3)))
    assert end.status == "stopped" and "before the first step" in end.reason
    assert not (tmp_path / "other").exists()


def test_a_consumer_that_goes_away_while_scans_are_prepared_does_not_wait_for_all_of_them(
    tmp_path, dataset, monkeypatch
):
    reached = []

    def slowly(data, progress):
        for done in range(1, 1000):
            time.sleep(0.02)
            reached.append(done)
            progress(done, 1000)

    monkeypatch.setattr(dataset, "prepared", slowly)
    events = train(experiment(), find("recognition"), dataset, tmp_path / "run", device="cpu")
    assert isinstance(next(events), Started) and isinstance(next(events), Progress)
    events.close()
    assert len(reached) < 100


def test_without_validation_scans_the_training_loss_decides_and_it_is_said(tmp_path):
    dataset = Made(tmp_path / "data", counts=(32, 0))
    events = run(experiment(monitor="auc"), dataset, tmp_path / "run")
    assert sum(isinstance(e, Warned) and "no validation scans" in e.message for e in events) == 1
    assert finished(events).status == "done" and "training loss" in finished(events).reason
    assert (tmp_path / "run" / "best.safetensors").exists()


def test_a_score_that_cannot_be_computed_gives_way_to_the_loss_and_it_is_said(tmp_path):
    dataset = Made(tmp_path / "data")
    dataset.labels[48:] = 0  # one class in the validation split: no AUC
    events = run(experiment(monitor="auc"), dataset, tmp_path / "run")
    warned = [e.message for e in events if isinstance(e, Warned)]
    assert len(warned) == 1 and "'auc' cannot be computed" in warned[0]
    assert "validation loss" in finished(events).reason


@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 31, 33])
def test_every_scan_is_used_once_and_no_batch_has_a_single_one(count):
    for accumulate in (1, 3):
        steps = updates(count, 16, accumulate)
        flat = [batch for step in steps for batch in step]
        assert [i for start, end in flat for i in range(start, end)] == list(range(count))
        assert all(end - start > 1 for start, end in flat) or count == 1
        assert all(len(step) <= accumulate for step in steps)


def test_a_last_batch_of_one_scan_works_with_batch_normalization(tmp_path):
    nodes = (
        Node(id="conv", name="conv2d", params={"out_channels": 4, "kernel_size": SIZE, "padding": 0}),
        Node(id="norm", name="batch_norm"),  # over one number a channel and scan
        Node(id="flat", name="flatten"),
        Node(id="head", name="linear", params={"out_features": 2}),
    )
    events = run(experiment(nodes), Made(tmp_path / "data", counts=(33, 8)), tmp_path / "run")
    assert finished(events).status == "done"
    alone = run(experiment(nodes), Made(tmp_path / "one", counts=(1, 8)), tmp_path / "other")
    assert finished(alone).status == "failed" and "one scan at a time" in finished(alone).reason


def test_a_full_disk_ends_the_run_in_words_and_it_can_be_resumed(tmp_path, dataset, monkeypatch):
    chosen = experiment(TRICKY, augment=AUGMENT)
    run(chosen, dataset, tmp_path / "straight")
    real, calls = checkpoint.save, itertools.count(1)

    def full(*args, **settings):
        if next(calls) == 2:
            raise checkpoint.CheckpointError("The disk is full: make room and resume the run.")
        return real(*args, **settings)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "save", full)
        end = finished(run(chosen, dataset, tmp_path / "broken"))
    assert end.status == "failed" and "disk is full" in end.reason
    run(chosen, dataset, tmp_path / "broken")
    assert digest(tmp_path / "straight") == digest(tmp_path / "broken")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "graphics card ran out of memory, at 16 scans"),
        (MemoryError(), "machine ran out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"), "machine ran out"),
        (OSError(5, "Input/output error"), r"cannot be read from the disk \(input/output error\)"),
    ],
)
def test_expected_trouble_ends_in_a_sentence(tmp_path, dataset, monkeypatch, error, words):
    def trouble(*_):
        raise error

    monkeypatch.setattr(learner.Scans, "batch", trouble)
    end = finished(run(experiment(), dataset, tmp_path / "run"))
    assert end.status == "failed"
    assert re.search(words, end.reason) and end.reason.endswith(".")


def test_a_fault_of_ours_is_not_hidden(tmp_path, dataset, monkeypatch):
    def fault(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr(learner.Scans, "batch", fault)
    with pytest.raises(RuntimeError, match="a bug"):
        run(experiment(), dataset, tmp_path / "run")


def test_a_choice_that_cannot_be_is_said_in_words(tmp_path, dataset):
    for changed, words in (
        ({"optimizer": Choice(name="adma")}, "Did you mean"),
        ({"augment": (Choice(name="rotat"),)}, "rotat"),
        ({"nodes": (Node(id="act", name="relu"), Node(id="flat", name="flatten"))}, "nothing to learn"),
    ):
        end = finished(run(experiment(**changed), dataset, tmp_path / "run"))
        assert end.status == "failed" and words in end.reason


# ---- the pieces ----


def test_an_order_is_a_permutation_of_its_own_for_each_epoch_and_seed():
    orders = [permutation(seed, epoch, 50) for seed, epoch in ((0, 1), (0, 2), (1, 1))]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert not np.array_equal(orders[0], orders[1]) and not np.array_equal(orders[0], orders[2])
    assert np.array_equal(orders[0], permutation(0, 1, 50))


@pytest.mark.parametrize("unit", [255, 65535])
def test_a_batch_is_the_stored_scans_between_zero_and_one(tmp_path, unit):
    dataset = Made(tmp_path / "data", unit=unit)
    scans = Scans(
        dataset.made, Targets(cast(Any, dataset), Data(), dataset.made, dataset.indices("val")), torch.device("cpu")
    )
    images, target = scans.batch(np.array([5, 0, 7]))
    expected = dataset.stored[[53, 48, 55]].astype(np.float64) / unit
    assert images.dtype == torch.float32 and np.allclose(images.numpy(), expected, atol=1e-7)
    assert target.classes is not None and target.classes.tolist() == dataset.labels[[53, 48, 55]].tolist()


def test_normalization_is_what_the_experiment_says(tmp_path):
    dataset = Made(tmp_path / "data")
    chosen = experiment(data=Data(size_px=SIZE, normalize="dataset"))
    mean, std = normalization(chosen, dataset.made)
    images = torch.from_numpy(dataset.stored[:48] / 255.0)
    assert float(((images - mean[0]) / std[0]).mean()) == pytest.approx(0, abs=1e-6)
    assert float(((images - mean[0]) / std[0]).std()) == pytest.approx(1, abs=1e-3)
    assert normalization(experiment(data=Data(size_px=SIZE, normalize="none")), dataset.made) == ([0.0], [1.0])
    grey = normalization(experiment(data=Data(size_px=SIZE, normalize="imagenet")), dataset.made)
    assert grey[0][0] == pytest.approx(0.449) and grey[1][0] == pytest.approx(0.226)


def rates(name: str, params: dict, steps_per_epoch: int, epochs: int, losses=()) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.5)
    schedule = optim.Schedule(Choice(name=name, params=params), optimizer, steps_per_epoch, epochs)
    found = []
    for epoch in range(epochs):
        found += [schedule.set_rate(epoch * steps_per_epoch + k) for k in range(steps_per_epoch)]
        assert optimizer.param_groups[0]["lr"] == found[-1]
        schedule.epoch_ended(losses[epoch] if losses else 1.0)
    return found


def reference_rates(build, steps_per_epoch: int, epochs: int, per_epoch: bool, losses=()) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.5)
    schedule = build(optimizer)
    found = []
    for epoch in range(epochs):
        for _ in range(steps_per_epoch):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if not per_epoch:
                schedule.step()
        if per_epoch:
            schedule.step(*([losses[epoch]] if losses else []))
    return found


def test_schedules_agree_with_torch():
    from torch.optim import lr_scheduler as torchs

    steps, count = 5, 8
    total = steps * count
    losses = [1.0, 0.9, 0.95, 0.91, 0.92, 0.89999, 0.5, 0.6]
    pairs = [
        (rates("constant", {}, steps, count), [0.5] * total),
        (
            rates("step", {"every_epochs": 3, "factor": 0.2}, steps, count),
            reference_rates(lambda o: torchs.StepLR(o, 3, 0.2), steps, count, True),
        ),
        (
            rates("cosine", {"final_fraction": 0.1}, steps, count),
            reference_rates(lambda o: torchs.CosineAnnealingLR(o, total, 0.05), steps, count, False),
        ),
        (
            rates("one_cycle", {}, steps, count),
            reference_rates(
                lambda o: torchs.OneCycleLR(o, 0.5, total_steps=total + 1, cycle_momentum=False), steps, count, False
            ),
        ),
        (
            rates("plateau", {"wait_epochs": 1, "factor": 0.3}, steps, count, losses),
            reference_rates(lambda o: torchs.ReduceLROnPlateau(o, factor=0.3, patience=1), steps, count, True, losses),
        ),
    ]
    for ours, theirs in pairs[:3] + pairs[4:]:
        assert ours == pytest.approx(theirs, rel=1e-9)
    assert pairs[3][0] == pytest.approx(pairs[3][1], rel=0.08, abs=0.02)  # ours ends one step earlier


def test_cosine_can_warm_up_first():
    found = rates("cosine", {"warmup_epochs": 2}, 5, 6)
    assert found[0] == pytest.approx(0.05) and found[9] == found[10] == pytest.approx(0.5) and found[-1] < 0.01
    assert all(a < b for a, b in itertools.pairwise(found[:10]))
