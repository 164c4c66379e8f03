"""What only a machine with an NVIDIA GPU can show: the same engine there, its ways of computing, its memory.

Skipped where there is none. `num_gpus` looks for cards without waking CUDA, which a process that forks must not do.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from builder import augment, checkpoint, network, preflight, task, ways
from builder.batches import Scans
from builder.events import Broke, EpochEnded, Noted, Started, Warned
from builder.learner import Learner
from builder.parts.images import AUGMENTATIONS
from builder.predict import Predictor
from builder.runs import Finished, Run, RunStore
from builder.spec import Choice, Experiment, Node
from builder.supervisor import num_gpus
from builder.targets import Targets
from builder.train import train
from tasks import phantoms
from tests import little_run, tiny_runs
from tests.service import Service, until
from tests.test_train import AUGMENT, PLAIN, TRICKY, Made, Poison, experiment, replaced

pytestmark = pytest.mark.skipif(not num_gpus(), reason="needs an NVIDIA GPU")
GPU = torch.device("cuda")


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    """Float32 products as exact as on the processor, so that both can be compared; settings of others put back."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = before
    torch.cuda.empty_cache()


def run(wanted: Experiment, dataset: Any, folder: Path, of: str = "recognition", **options: Any) -> list[Any]:
    events = list(train(wanted, task.find(of), dataset, folder, **{"device": "cuda", **options}))
    assert isinstance(events[-1], Finished), events[-1]
    return events


def losses(events: list[Any]) -> list[float]:
    return [event.metrics["train/loss"] for event in events if isinstance(event, EpochEnded)]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found = checkpoint.load_latest(folder, "last")
    assert found is not None
    return found.state["model"]


# -- the same learning ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resident", ["auto", "off"])
@pytest.mark.parametrize("nodes", [PLAIN, TRICKY[:-2] + TRICKY[-1:]], ids=["plain", "normalized"])
def test_it_learns_what_the_processor_learns(tmp_path: Path, nodes: Any, resident: str) -> None:
    """Augmented, with weights averaged and gradients clipped: that chance is thrown on the processor in both."""
    dataset: Any = Made(tmp_path / "data")
    varied = tuple(choice for choice in AUGMENT if choice.name != "noise")
    settings: dict[str, Any] = {"resident": resident, "mixed_precision": "off", "clip_norm": 1.0}
    wanted = experiment(nodes, augment=varied, average=Choice(name="ema"), **settings)
    here = run(wanted, dataset, tmp_path / "cpu", device="cpu")
    there = run(wanted, dataset, tmp_path / "gpu")
    assert "cuda" in next(e for e in there if isinstance(e, Started)).device
    np.testing.assert_allclose(losses(there), losses(here), rtol=2e-3)
    for name, one in weights(tmp_path / "cpu").items():
        torch.testing.assert_close(weights(tmp_path / "gpu")[name].cpu(), one, rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("stop_at", [1, 4, 7])
def test_a_run_stopped_and_resumed_ends_as_an_uninterrupted_one(tmp_path: Path, stop_at: int) -> None:
    """With dropout, whose random numbers the GPU throws itself. Sums on a GPU may come in another order: within
    rounding."""
    dataset: Any = Made(tmp_path / "data")
    asked = [0]
    wanted = experiment(TRICKY, augment=AUGMENT, average=Choice(name="ema"))
    whole = run(wanted, dataset, tmp_path / "whole")

    def stop() -> bool:
        asked[0] += 1
        return asked[0] == stop_at

    first = run(wanted, dataset, tmp_path / "two", stop=stop)
    assert first[-1].status == "stopped"
    second = run(wanted, dataset, tmp_path / "two", attempt=2)
    np.testing.assert_allclose(losses(first) + losses(second), losses(whole), rtol=1e-4)
    for name, one in weights(tmp_path / "whole").items():
        torch.testing.assert_close(weights(tmp_path / "two")[name], one, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", sorted(set(AUGMENTATIONS) - set(augment.MIXING)))
def test_each_augmentation_does_there_what_it_does_here(name: str) -> None:
    """Same scans, same chance: within half a grey level of 255 for nearly all pixels; outlines and boxes with them.
    The grains of noise a card throws itself: as strong, not the same."""
    part, chance = AUGMENTATIONS[name], torch.Generator().manual_seed(3)
    settings = {**part.defaults, **({"probability": 1.0} if "probability" in part.defaults else {})}
    made = augment.Augment([Choice(name=name, params=settings)])
    images = nn.functional.avg_pool2d(torch.rand(6, 1, 40, 40, generator=chance), 5, 1, 2)
    masks = (images > 0.5).to(torch.uint8)
    boxes = [torch.tensor([[8.0, 9.0, 20.0, 25.0]]) for _ in images]

    def varied(where: str) -> augment.Augmented:
        ours = torch.Generator().manual_seed(11)
        return made(images.to(where), ours, [box.to(where) for box in boxes], masks.to(where))

    here, there = varied("cpu"), varied("cuda")
    if name in ("noise", "speckle", "ct_noise"):
        strength, theirs = (float((v.images.cpu() - images).std()) for v in (here, there))
        assert strength > 0.005 and theirs == pytest.approx(strength, rel=0.1)
    else:
        assert ((here.images - there.images.cpu()).abs() > 0.5 / 255).float().mean() < 0.01
    assert here.masks is not None and there.masks is not None and here.boxes is not None and there.boxes is not None
    assert (here.masks != there.masks.cpu()).float().mean() < 0.01
    for one, other in zip(here.boxes, there.boxes, strict=True):
        torch.testing.assert_close(one, other.cpu(), atol=0.01, rtol=0)


# -- ways of computing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", ["on", "graphs", "auto"])
def test_a_compiled_run_learns_the_same_and_says_what_it_brought(tmp_path: Path, asked: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(ways, "WORTH_S", 0.0)
    dataset: Any = Made(tmp_path / "data")
    plain = run(experiment(PLAIN), dataset, tmp_path / "plain")
    events = run(experiment(PLAIN, compile=asked), dataset, tmp_path / "compiled")
    assert events[-1].status == "done"
    noted = [e.message for e in events if isinstance(e, Noted)][-1]
    assert "ms with it" in noted and "could not be used" not in noted, noted
    np.testing.assert_allclose(losses(events), losses(plain), rtol=1e-2)


@pytest.mark.parametrize("half", ["bfloat16", "float16", "auto"])
@pytest.mark.parametrize("channels_last", [True, False])
def test_half_precision_learns_in_either_order_of_memory(tmp_path: Path, half: str, channels_last: bool) -> None:
    dataset: Any = Made(tmp_path / "data")
    settings: dict[str, Any] = {"mixed_precision": half, "channels_last": channels_last, "epochs": 12}
    told = losses(run(experiment(PLAIN, **settings), dataset, tmp_path / "run"))
    assert np.isfinite(told).all() and told[-1] < 0.9 * told[0]


def test_scans_that_fit_live_on_the_gpu_and_are_the_same_there(tmp_path: Path) -> None:
    dataset: Any = Made(tmp_path / "data")
    wanted = experiment(PLAIN)
    rows = dataset.indices("train")
    targets = Targets(dataset, wanted.data, dataset.prepared(wanted.data), rows)
    held, read = (Scans(dataset.prepared(wanted.data), targets, GPU, resident) for resident in (True, False))
    assert held.resident is not None and read.resident is None
    some = np.array([3, 0, 5])
    for one, other in zip(held.batch(some), read.batch(some), strict=True):
        if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
            assert one.device.type == "cuda" and torch.equal(one, other)


def test_what_is_not_finite_is_found_a_little_later_and_told_of_its_own_step(tmp_path: Path, monkeypatch: Any) -> None:
    """On a GPU nobody waits for each loss: the tripwire tells which step and epoch it was."""
    monkeypatch.setattr(network, "assemble", replaced("act_b", lambda: Poison(7)))
    events = run(experiment(epochs=10, batch_size=12), Made(tmp_path / "data"), tmp_path / "run")
    assert events[-1].status == "failed" and "in epoch 2, step 7:" in events[-1].reason, events[-1].reason
    assert "the loss was not a finite number (noticed a moment after" in events[-1].reason


def test_the_layer_in_which_it_broke_is_found_by_doing_the_steps_once_more(tmp_path: Path) -> None:
    far_too_fast = {"optimizer": Choice(name="sgd", params={"lr": 8.0}), "clip_norm": 0.0, "l2": 1.0}
    wanted = experiment(PLAIN, epochs=9, mixed_precision="off", schedule=Choice(name="constant"), **far_too_fast)
    events = run(wanted, Made(tmp_path / "data", (96, 0)), tmp_path / "run")
    broke = next(event for event in events if isinstance(event, Broke))
    assert broke.layer in {node.id for node in PLAIN} and len(broke.cases) == 16, broke


# -- memory -----------------------------------------------------------------------------------------------------------


def test_a_card_that_is_full_halves_the_batch_and_says_so(tmp_path: Path) -> None:
    """Really full: the card's memory is bounded so that sixteen scans do not fit, and eight do."""
    dataset: Any = Made(tmp_path / "data")
    width = 4096
    nodes = (
        Node(id="conv", name="conv2d", params={"out_channels": width}),
        Node(id="act", name="relu"),
        Node(id="pool", name="global_pool"),
        Node(id="head", name="class_scores"),
    )
    wanted = experiment(nodes, batch_size=16, epochs=1, resident="off")
    map_bytes = 16 * width * wanted.data.size_px**2 * 4  # of the convolution; the activation's is as large
    learner = Learner(wanted, task.find("recognition"), dataset, dataset.made, tmp_path, GPU)
    learner.update([learner.order(1)[:2]])  # the libraries' own memory is taken
    before, total = torch.cuda.memory_reserved(), torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((before + 1.6 * map_bytes) / total)
    try:
        events = run(wanted, dataset, tmp_path / "run")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert events[-1].status == "done", events[-1]
    said = [e.message for e in events if isinstance(e, Warned)]
    assert said and "16 scans at once" in said[0] and "graphics card" in said[0]


def test_the_pre_flight_tells_what_the_training_takes(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(preflight, "TIMED_S", 0.3)
    dataset: Any = Made(tmp_path / "data")
    wanted = experiment(TRICKY)
    of = task.find("recognition")
    found = preflight.preflight(wanted, of, dataset, tmp_path / "flight")
    assert torch.cuda.get_device_name() in found.device
    learner = Learner(wanted, of, dataset, dataset.prepared(wanted.data), tmp_path, GPU)
    learner.update([learner.order(1)[:16]])
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    learner.update([learner.order(1)[:16]])
    took = torch.cuda.max_memory_allocated() - before
    assert 0.5 * took <= found.peak_bytes - found.lasting_bytes <= 2.0 * took + 2**20
    assert found.limited_by == "scans" and found.small.seconds < 5


# -- every task, through the processes --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(tiny_runs.SMALL))
def test_each_task_learns_there_and_answers_the_same_on_the_processor(tmp_path: Path, name: str) -> None:
    dataset, of = tiny_runs.small_set(tmp_path / "home", name, tmp_path / "place"), task.find(name)
    starter = next(s for s in of.starters() if s.name == next(iter(of.demos.values())))
    wanted = starter.replace("training.epochs", 6).replace("data.dataset", dataset.id)
    run_ = RunStore(tmp_path / "home").create(wanted, queue=False)
    events = run(run_.experiment, dataset, run_.folder, of=name)
    assert events[-1].status == "done", events[-1]
    assert losses(events)[-1] < losses(events)[0]
    images = np.stack([dataset.prepared(wanted.data).rows(np.array([k]))[0] for k in range(3)])
    here, there = (Predictor.open(run_.folder, device=device).outputs(images) for device in ("cpu", "cuda"))
    for one, other in zip(here, there, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(other, one, rtol=1e-2, atol=2e-3 * max(1.0, float(np.abs(one).max())))


def test_a_supervisor_forks_a_training_that_computes_on_the_gpu(home: Path) -> None:
    """The supervisor has torch imported and never touches CUDA: its child may."""
    folder = phantoms.write_cohort(home.parent / f"{home.name}-phantoms", seed=5, num_images=36, size_px=64)
    dataset = little_run.imported(home, folder, synthetic=True)
    wanted = little_run.starter().replace("data.size_px", 32).replace("training.epochs", 2)

    def ended(one: Run) -> bool:
        return not one.view().active

    service = Service(home, (sys.executable, "-m", "builder.supervisor"))
    try:
        runs = [
            service.store.create(wanted.replace("data.dataset", dataset.id).replace("training.seed", seed))
            for seed in (1, 2)
        ]
        service.executor.ensure()
        for one in runs:
            until(partial(ended, one), 120)
            assert one.view().status == "done", (one.view().reason, (home / "supervisor.log").read_text()[-2000:])
            lines = [json.loads(line) for line in (one.folder / "events.jsonl").read_text().splitlines()]
            assert any("cuda" in str(line.get("device", "")) for line in lines)
            assert any(k == "step/gpu_memory_mb" for k in one.view().curves)
    finally:
        service.close()
