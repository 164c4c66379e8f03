"""A training that was interrupted ends bit for bit like one that was not: every optimizer x schedule x {average of the
weights, accumulation, RNN}. The real loop and the real checkpoint state, kept in memory instead of in files.
"""

import io
import itertools
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiers import covering

from builder import checkpoint
from builder.learner import Learner
from builder.parts.training import OPTIMIZERS, SCHEDULES
from builder.runs import Finished, Resumed
from builder.spec import Choice, Data, Experiment, Node, Training
from builder.task import find
from builder.train import _epochs
from tests.test_train import Made

NETWORKS = {
    # Batch normalization keeps sums of its own and dropout draws random numbers: both must come through.
    "maps": (
        Node(id="conv", name="conv2d", params={"out_channels": 3, "stride": 2}),
        Node(id="norm", name="batch_norm"),
        Node(id="act", name="relu"),
        Node(id="flat", name="flatten"),
        Node(id="drop", name="dropout", params={"p": 0.3}),
        Node(id="head", name="linear", params={"out_features": 2}),
    ),
    "rnn": (
        Node(id="rows", name="rows_as_sequence"),
        Node(id="gru", name="gru", params={"units": 4, "layers": 2, "dropout": 0.3}),
        Node(id="head", name="linear", params={"out_features": 2}),
    ),
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "EMA": ("maps", {"average": Choice(name="ema", params={"decay": 0.8})}),
    "SWA": ("maps", {"average": Choice(name="swa", params={"start_share": 0.5}), "clip_value": 0.5}),
    "accumulation": ("maps", {"accumulate": 2, "batch_size": 5, "balance": "sampler", "l1": 1e-5}),
    "RNN": ("rnn", {}),
}
SETTINGS = {
    "step": {"every_epochs": 1},
    "plateau": {"wait_epochs": 0, "warmup_epochs": 1},
    "cosine": {"warmup_epochs": 1},
    "restarts": {"first_epochs": 1},
    "cyclic": {"epochs_per_cycle": 2, "shrink": 0.5},
}
STOP = 4  # of 6 steps: within the second of two epochs


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("data"), counts=(24, 8))


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What would be in the run's folder: the newest checkpoint as bytes, the best weights."""
    kept = SimpleNamespace(last=b"", best={})

    def save(folder: Path, name: str, state: dict[str, Any]) -> Path:
        file = io.BytesIO()
        torch.save(state, file)
        kept.last = file.getvalue()
        return folder / name

    def load(folder: Path, name: str, check: Any = None) -> checkpoint.Loaded:
        return checkpoint.Loaded(torch.load(io.BytesIO(kept.last), weights_only=True), folder / name)

    def save_weights(path: Path, tensors: dict[str, torch.Tensor], words: dict[str, str]) -> Path:
        kept.best = {name: tensor.clone() for name, tensor in tensors.items()}
        return path

    monkeypatch.setattr("tasks.recognition.Recognition.score", lambda *_: {})  # slow, and judged elsewhere
    monkeypatch.setattr(checkpoint, "save", save)
    monkeypatch.setattr(checkpoint, "keep", lambda path, name: path)  # the best epoch's state, nobody asks for it here
    monkeypatch.setattr(checkpoint, "load_latest", load)
    monkeypatch.setattr(checkpoint, "save_weights", save_weights)
    return kept


def never() -> bool:
    return False


def learner(dataset: Made, nodes: str, **training: Any) -> Learner:
    settings = {"epochs": 2, "batch_size": 8, "monitor": "loss", "seed": 3, **training}
    experiment = Experiment(data=Data(size_px=16), network=NETWORKS[nodes], training=Training(**settings))
    made: Any = dataset
    return Learner(
        experiment,
        find("recognition"),
        made,
        dataset.made,
        Path(tempfile.mkdtemp(prefix="scanloom-exact-")),
        torch.device("cpu"),
    )


def numbers(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Everything in a state under its path; tensors as bytes."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from numbers(inner, f"{path}/{key}")
    elif isinstance(value, list | tuple):
        for key, inner in enumerate(value):
            yield from numbers(inner, f"{path}/{key}")
    else:
        yield path, value.numpy().tobytes() if isinstance(value, torch.Tensor) else value


def end(memory: SimpleNamespace) -> dict[str, Any]:
    state = torch.load(io.BytesIO(memory.last), weights_only=True)
    state["place"].pop("seconds")
    return dict(numbers({"last": state, "best": memory.best}))


CASES = [
    *itertools.product(OPTIMIZERS.names, SCHEDULES.names, ("EMA", "accumulation", "RNN")),
    *zip(OPTIMIZERS.names, itertools.cycle(SCHEDULES.names), itertools.repeat("SWA"), strict=False),
]
PLACES = {"EMA": 0, "accumulation": 1, "RNN": 2}


def in_pairs(place: int, case: tuple[str, str, str]) -> bool:
    """Whether `make test` asks for it: a third of the product, in which each two choices of a kind each meet."""
    rule, schedule, variant = case
    row, column = OPTIMIZERS.names.index(rule), SCHEDULES.names.index(schedule)
    return variant not in PLACES or (row + column + PLACES[variant]) % len(PLACES) == 0


@pytest.mark.parametrize(
    ("rule", "schedule", "variant"), covering(CASES, in_pairs), ids=[" ".join(case) for case in CASES]
)
def test_interrupted_and_uninterrupted_end_with_the_same_bits(dataset, memory, rule, schedule, variant):
    nodes, more = VARIANTS[variant]
    chosen = {
        "optimizer": Choice(name=rule),
        "schedule": Choice(name=schedule, params=SETTINGS.get(schedule, {})),
        **more,
    }
    straight, halfway = learner(dataset, nodes, **chosen), [b"", {}]

    def looked_at() -> bool:
        if straight.place.step == STOP and not halfway[0]:
            straight.save()
            halfway[:] = [memory.last, dict(memory.best)]
        return False

    told = list(_epochs(straight, looked_at, never))
    assert isinstance(told[-1], Finished) and told[-1].status == "done"
    expected = end(memory)
    memory.last, memory.best = halfway
    random.seed(99), np.random.seed(99), torch.manual_seed(99)  # a new process has another random state
    again = learner(dataset, nodes, **chosen)
    begun = {name: tensor.clone() for name, tensor in again.model.state_dict().items()}
    assert [e.step for e in again.resume() if isinstance(e, Resumed)] == [STOP]
    list(_epochs(again, never, never))
    got = end(memory)
    assert [name for name in expected if got.get(name) != expected[name]] == [] and got.keys() == expected.keys()
    assert not torch.equal(begun["layers.head.weight"], again.model.state_dict()["layers.head.weight"])
