"""One run by two processes learns what one process learns, and their end is the end of both. Without Ray: `env://`."""

from __future__ import annotations

import copy
import os
import socket
import subprocess
import sys
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from builder import task
from builder.checkpoint import load_latest
from builder.cluster import submission
from builder.data import Dataset
from builder.parallel import Gathered
from builder.runs import Claim, EpochEnded, Event, Run, RunStore, Warned
from builder.spec import Choice, Experiment, Node
from builder.train import train
from tasks import phantoms
from tests.little_run import imported, starter
from tests.service import PROJECT

NETWORK = (
    Node(id="conv", name="conv2d", params={"out_channels": 6}),
    Node(id="norm", name="batch_norm"),
    Node(id="relu", name="relu"),
    Node(id="pool", name="global_pool"),
    Node(id="head", name="class_scores"),
)


def little(dataset: Dataset, **training: object) -> Experiment:
    """A network with batch normalization, batches that do not divide by two, and no chance but the order's."""
    plain = starter().replace("data.size_px", 32).replace("data.dataset", dataset.id).replace("network", NETWORK)
    settings = {"epochs": 3, "batch_size": 7, "augment": (), "optimizer": Choice(name="sgd"), "processes": 2}
    for name, value in (settings | training).items():
        plain = plain.replace(f"training.{name}", value)
    return plain


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(run: Run, num: int = 2) -> list[subprocess.Popen[bytes]]:
    """The processes of a run, as `team` or torchrun would start them."""
    attempt = (run.claim.attempt if run.claim else 0) + 1
    claim = Claim.placed(submission(run.id, attempt), attempt)
    claim.write(run.folder / "claim.json")
    together = {"WORLD_SIZE": str(num), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [
        subprocess.Popen(
            [sys.executable, "-m", "builder.placed", run.id, str(claim.attempt)],
            env={**os.environ, **together, "RANK": str(rank), "SCANLOOM_HOME": str(run.home)},
            cwd=PROJECT,
        )
        for rank in range(num)
    ]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    place = tmp_path_factory.mktemp("parallel")
    return imported(place / "home", phantoms.write_cohort(place / "scans", seed=5, num_images=36, size_px=64))


def curve(events: Iterable[Event]) -> np.ndarray:
    """Losses of every epoch: (epochs, 3)."""
    names = ("train/loss", "train_eval/loss", "val/loss")
    return np.array([[e.metrics[n] for n in names] for e in events if isinstance(e, EpochEnded)])


def test_two_processes_learn_what_one_does_with_the_whole_batch(dataset: Dataset) -> None:
    alone = RunStore(dataset.home).create(little(dataset), queue=False)
    events = list(train(alone.experiment, task.find("recognition"), dataset, alone.folder, device="cpu"))
    assert any("takes whole batches by itself" in e.message for e in events if isinstance(e, Warned)), "it is told"
    together = RunStore(dataset.home).create(alone.experiment, queue=False)
    assert [process.wait(120) for process in start(together)] == [0, 0], (together.folder / "worker.log").read_text()
    assert together.view().status == "done"
    one, two = curve(events), curve(together.events())
    assert one.shape == two.shape == (3, 3)
    np.testing.assert_allclose(two, one, rtol=2e-5)
    weights = [load_latest(run.folder, "last") for run in (alone, together)]
    assert weights[0] is not None and weights[1] is not None
    for name, value in weights[0].state["model"].items():
        torch.testing.assert_close(weights[1].state["model"][name], value, rtol=1e-4, atol=1e-5)
    assert sum(isinstance(event, EpochEnded) for event in together.events()) == 3, "one of them speaks"


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(3), BatchNormAct2d(3), nn.BatchNorm2d(3, momentum=None, affine=False)])
def test_a_norm_that_is_joined_does_all_that_it_does_alone(norm: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}.items():
        monkeypatch.setenv(name, str(value))
    joined, scans = copy.deepcopy(norm), torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    team = Gathered(torch.device("cpu"))
    try:
        team.join_norms(joined)
        for _ in range(2):
            with team.together():
                torch.testing.assert_close(joined(scans), norm(scans))
    finally:
        team.leave()
    for name, value in norm.state_dict().items():
        torch.testing.assert_close(joined.state_dict()[name], value)
