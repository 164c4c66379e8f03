"""How a step is computed: the compiled way is tried and told, half precision resumes exactly, nothing is silent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import little_run
import pytest
import torch
from torch import nn

from builder import checkpoint, preflight, ways
from builder.check import problems
from builder.data import Dataset
from builder.events import EVENTS, Fold, Noted
from builder.learner import Learner
from builder.runs import Finished, RunView
from builder.spec import Experiment
from builder.task import find
from builder.train import train
from builder.ways import Way
from pages.kit import preflight as shown
from tasks import phantoms

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = tmp_path_factory.mktemp("ways")
    folder = phantoms.write_cohort(root / "phantoms", seed=5, num_images=30, size_px=32)
    return little_run.imported(root / "home", folder, synthetic=True)


@pytest.fixture
def wanted(scans: Dataset) -> Experiment:
    small = little_run.starter().replace("data.dataset", scans.id).replace("data.size_px", 16)
    return small.replace("training.epochs", 2).replace("training.batch_size", 4)


def ended(wanted: Experiment, scans: Dataset, folder: Path, stop_at: int = 0) -> tuple[dict[str, torch.Tensor], list]:
    """The last weights and all events of a run, stopped once after `stop_at` steps and resumed."""
    asked = 0
    events: list[Any] = []

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked == stop_at

    for attempt in (1, 2) if stop_at else (1,):
        events += train(wanted, find("recognition"), scans, folder, attempt=attempt, stop=stop, device="cpu")
    assert isinstance(events[-1], Finished) and events[-1].status == "done", events[-1]
    found = checkpoint.load_latest(folder, "last")
    assert found is not None
    return found.state["model"], events


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# -- the trial --------------------------------------------------------------------------------------------------------


class Turns:
    """Steps that take as long as the network given is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **seconds: float) -> None:
        self.now, self.seconds = 0.0, seconds
        monkeypatch.setattr(ways.time, "perf_counter", lambda: self.now)

    def __call__(self, net: Any) -> None:
        self.now += self.seconds["plain" if isinstance(net, nn.Linear) else "compiled"]


@pytest.fixture
def linear(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    monkeypatch.setattr(ways, "compiler_words", lambda gpu: "")
    monkeypatch.setattr(Way, "_made", lambda self, way: f"the network, {way}")
    return nn.Linear(2, 2)


def test_auto_keeps_the_compiled_network_where_its_steps_are_shorter(linear, monkeypatch):
    way = Way(linear, "auto", CPU)
    words = way.choose(Turns(monkeypatch, plain=1.0, compiled=0.5), 1000)
    assert way.chosen == "compiled" and "500.0 ms with it, 1000.0 without. It is used" in words
    assert way.network(whole=True) == "the network, compiled" and way.network(whole=False) is linear


def test_auto_leaves_out_what_does_not_pay_and_says_the_figures(linear, monkeypatch):
    way = Way(linear, "auto", CPU)
    words = way.choose(Turns(monkeypatch, plain=1.0, compiled=0.99), 1000)
    assert way.chosen == "plain" and "does not pay here and is left out" in words
    assert way.network(whole=True) is linear
    assert "is used" in Way(linear, "on", CPU).choose(Turns(monkeypatch, plain=1.0, compiled=2.0), 1000), "as asked"


def test_a_short_training_is_not_worth_a_trial(linear, monkeypatch):
    words = Way(linear, "auto", CPU).choose(Turns(monkeypatch, plain=0.01, compiled=0.001), 100)
    assert "was not tried: the whole training takes about 1 s" in words


def test_a_compiler_that_fails_or_is_missing_never_ends_a_training(monkeypatch):
    def fails(self: Way, way: str) -> Any:
        raise RuntimeError("no such operator\nand pages of advice")

    monkeypatch.setattr(Way, "_made", fails)
    net = nn.Linear(2, 2)
    once = Turns(monkeypatch, plain=1.0)
    way = Way(net, "on", CPU)
    assert "RuntimeError: no such operator." in way.choose(once, 10) and way.network(whole=True) is net
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    way = Way(net, "on", CPU)
    assert "no C++ compiler" in way.choose(once, 10) and way.chosen == "plain"
    assert "NVIDIA GPUs only" in Way(net, "graphs", CPU).choose(once, 10)
    assert "now it goes on without" in way.restore("compiled") and way.chosen == "plain"


# -- in a run ---------------------------------------------------------------------------------------------------------


def test_a_compiled_run_is_told_and_resumes_exactly_and_the_trial_leaves_no_trace(
    wanted: Experiment, scans: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ways, "compiler_words", lambda gpu: "")
    calls: list[int] = []

    def made(self: Way, way: str) -> Any:  # what a compiler gives computes the same here, and counts its calls
        def net(images: torch.Tensor) -> torch.Tensor:
            calls.append(len(images))
            return self.model(images)

        return net

    monkeypatch.setattr(Way, "_made", made)
    plain, _ = ended(wanted, scans, tmp_path / "plain")
    on = wanted.replace("training.compile", "on")
    whole, events = ended(on, scans, tmp_path / "whole")
    assert calls and set(calls) == {4}, "whole batches only"
    assert same(plain, whole), "the trial has changed weights, statistics or random numbers"
    (noted,) = [e for e in events if isinstance(e, Noted)]
    assert "It is used." in noted.message
    again, events = ended(on, scans, tmp_path / "again", stop_at=4)
    assert same(whole, again) and len([e for e in events if isinstance(e, Noted)]) == 1, "it was chosen once"
    fold = Fold()
    fold.add(noted)
    assert (
        [line.words for line in fold.view().log] == [noted.message] and not fold.warnings and EVENTS["noted"] is Noted
    )


@pytest.mark.parametrize("half", ["bfloat16", "float16"])
def test_half_precision_is_really_computed_and_resumes_exactly(
    wanted: Experiment, scans: Dataset, tmp_path: Path, half: str
) -> None:
    chosen = wanted.replace("training.mixed_precision", half)
    one, _ = ended(chosen, scans, tmp_path / "one")
    other, _ = ended(chosen, scans, tmp_path / "other", stop_at=4)
    full, _ = ended(wanted, scans, tmp_path / "full")
    assert same(one, other) and not same(one, full)


def test_a_step_that_overflows_in_float16_is_left_out_and_the_scale_comes_down(
    wanted: Experiment, scans: Dataset, tmp_path: Path
) -> None:
    chosen = wanted.replace("training.mixed_precision", "float16")
    learner = Learner(chosen, find("recognition"), scans, scans.prepared(chosen.data), tmp_path, CPU)
    learner.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    before = {name: weight.clone() for name, weight in learner.model.named_parameters()}
    learner.update([learner.order(1)[:4]])
    assert all(torch.equal(before[name], weight) for name, weight in learner.model.named_parameters())
    assert learner.scaler.get_scale() < 2.0**40 and learner.norm.item() == 0


# -- before the start -------------------------------------------------------------------------------------------------


def test_what_this_machine_lacks_is_said_before_the_start_with_a_way_out(wanted: Experiment, monkeypatch) -> None:
    monkeypatch.setattr(ways, "has_gpu", lambda: False)
    asked = wanted.replace("training.compile", "graphs").replace("training.mixed_precision", "float16")
    asked = asked.replace("training.resident", "off")
    said = {p.path: p for p in problems(asked) if p.path.startswith("training.")}
    assert "NVIDIA GPUs only" in said["training.compile"].message
    assert "no GPU here" in said["training.mixed_precision"].message and "no GPU" in said["training.resident"].message
    for path, problem in said.items():
        assert problem.severity == "warning" and problem.fix is not None
        assert path not in {p.path for p in problems(problem.fix)}
    monkeypatch.setattr(ways, "compiler_words", lambda gpu: "There is no C++ compiler on this machine.")
    (missing,) = [p for p in problems(wanted.replace("training.compile", "on")) if p.path == "training.compile"]
    assert "no C++ compiler" in missing.message


def test_a_pre_flight_tries_the_other_settings_and_is_kept_with_the_run(
    wanted: Experiment, scans: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "TIMED_S", 0.05)
    found = preflight.preflight(wanted, find("recognition"), scans, tmp_path, device="cpu", others=True).to_json()
    assert {(o["path"], o["value"]) for o in found["others"]} == {
        ("training.channels_last", not wanted.training.channels_last),
        ("training.mixed_precision", "bfloat16"),
    }
    assert all(o["seconds"] > 0 and o["seconds_now"] > 0 for o in found["others"])
    other = {"path": "training.mixed_precision", "value": "bfloat16", "seconds": 0.9, "seconds_now": 1.0}
    slow = {"path": "training.channels_last", "value": False, "seconds": 0.99, "seconds_now": 1.0}
    assert preflight.faster({"others": [slow, other, {**other, "value": "float16", "seconds": 0.8}]}) == [
        {**other, "value": "float16", "seconds": 0.8}
    ]
    preflight.keep(tmp_path, found)
    assert preflight.kept(tmp_path) == json.loads(json.dumps(found))
    (tmp_path / preflight.FILE).write_text("{torn")
    assert preflight.kept(tmp_path) is None


def test_the_runs_page_shows_what_the_pre_flight_had_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from streamlit.testing.v1 import AppTest

    told = {"batch_size": 4, "largest_batch": 40, "limited_by": "scans", "device": "the processor", "peak_bytes": 5e6}
    told |= {
        "peak_measured": True,
        "available_bytes": 9e9,
        "epoch_s": 1.5,
        "small": {"batch": 2},
        "large": {"batch": 4},
    }
    preflight.keep(tmp_path, told)

    def page(folder: str) -> None:
        from pathlib import Path
        from types import SimpleNamespace

        from builder.runs import TIME, RunView
        from pages.kit import preflight

        ends = {"train/loss": ([4, 8, 12], [3.0, 2.0, 1.0]), TIME: ([4, 8, 12], [3.0, 5.0, 7.0])}
        preflight.foretold(SimpleNamespace(folder=Path(folder)), RunView(status="done", curves=ends))  # type: ignore[arg-type]

    session = AppTest.from_function(page, args=(str(tmp_path),)).run()
    assert not session.exception
    text = " ".join(str(element.proto) for element in session.get("html"))
    assert "about 1.5 s" in text and "2.0 s" in text
    assert shown.span(RunView().seconds) == "0.0 s"
