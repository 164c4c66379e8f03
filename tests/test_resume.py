"""Real training under kill -9, stop and a full disk: nothing recorded is lost, the weights end bit for bit the same.

One supervisor with the real engine serves the whole file. Its data folder lies on a small disk of its own where this
user may mount one (the test of the full disk is skipped otherwise).
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from builder import checkpoint
from builder.intake import detect, import_scans
from builder.runs import EpochEnded, Run, RunView
from builder.spec import Choice, Data, Experiment, Node, Training
from builder.supervisor import code_stamp
from tests.service import HELD, Service, until
from tests.test_processes import fill

EPOCHS = 30
NETWORK = (  # batch normalization keeps sums, dropout draws numbers: both must come through
    Node(id="conv", name="conv2d", params={"out_channels": 6}),
    Node(id="norm", name="batch_norm"),
    Node(id="act", name="relu"),
    Node(id="flat", name="flatten"),
    Node(id="drop", name="dropout", params={"p": 0.2}),
    Node(id="head", name="linear", params={"out_features": 2}),
)
pytestmark = [pytest.mark.slow, pytest.mark.keeps_processes]


class Bench:
    """A service with the real engine, a small dataset in it, and a run that nothing disturbed."""

    def __init__(self, disk: Path, mounted: bool, pictures: Path) -> None:
        self.disk, self.mounted = disk, mounted
        self.service = Service(disk / "home", HELD)
        chance = np.random.default_rng(0)
        for label in ("left", "right"):
            (pictures / label).mkdir(parents=True)
            for n in range(30):
                grey = chance.normal(90, 25, (16, 16))
                grey[4:12, 2 + 8 * (label == "right") :][:, :4] += 50
                Image.fromarray(grey.clip(0, 255).astype(np.uint8)).save(pictures / label / f"{label}-{n}.png")
        steps = import_scans(detect(pictures), "spots", self.service.home)
        report: Any = None
        while report is None:
            try:
                next(steps)
            except StopIteration as end:
                report = end.value
        self.experiment = Experiment(
            name="exact",
            data=Data(dataset=report.dataset, size_px=16),
            network=NETWORK,
            training=Training(
                epochs=EPOCHS,
                batch_size=8,
                optimizer=Choice(name="adamw"),
                augment=(Choice(name="rotate"),),
                patience=0,
            ),
        )
        self.stamp = code_stamp()
        self.service.ready()
        self.reference = self.start()
        assert self.end(self.reference).attempt == 1

    def start(self) -> Run:
        return self.service.store.create(self.experiment)

    def end(self, run: Run) -> RunView:
        """Waits for the end and checks that the record has no gap and no double."""
        until(lambda: not run.view().active, 200)
        view = run.view()
        assert view.status == "done", view.reason
        steps = view.curves["val/auc"][0]
        assert len(steps) == EPOCHS and steps == sorted(set(steps))
        assert steps == on_the_board(run, "val/auc")
        until(lambda: not run.marker.exists())
        return view

    def same_weights(self, run: Run) -> None:
        ours, theirs = state(run), state(self.reference)
        assert ours.keys() == theirs.keys() and len(ours) > 4
        if code_stamp() != self.stamp:
            pytest.skip("the program was edited while this test ran: its weights may rightly differ")
        assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
        best = [checkpoint.load_weights(r.folder / "best.safetensors").tensors for r in (run, self.reference)]
        assert [name for name in best[1] if not torch.equal(best[0][name], best[1][name])] == []


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    disk = tmp_path_factory.mktemp("disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=320m", "tmpfs", str(disk)]
    mounted = subprocess.run(mount, capture_output=True).returncode == 0
    patch = pytest.MonkeyPatch()
    patch.setenv("SCANLOOM_THREADS", "1")  # several threads on busy cores only wait for each other
    try:
        bench = Bench(disk, mounted, tmp_path_factory.mktemp("pictures") / "spots")
        yield bench
    finally:
        patch.undo()
        Service(disk / "home", HELD).close()
        if mounted:
            subprocess.run(["umount", "-l", str(disk)], check=True)


def state(run: Run) -> dict[str, torch.Tensor]:
    """Every tensor of the newest checkpoint under its path: weights, sums, moments, random state."""
    loaded = checkpoint.load_latest(run.folder, "last")
    assert loaded is not None and loaded.warnings == ()
    found: dict[str, torch.Tensor] = {}

    def walk(value: Any, path: str) -> None:
        if isinstance(value, torch.Tensor):
            found[path] = value
        elif isinstance(value, dict):
            for name, inner in value.items():
                walk(inner, f"{path}/{name}")
        elif isinstance(value, list | tuple):
            for n, inner in enumerate(value):
                walk(inner, f"{path}/{n}")

    walk(loaded.state, "")
    return found


def on_the_board(run: Run, name: str) -> list[int]:
    """The steps that TensorBoard itself shows for a curve."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(run.folder / "tb"))
    board.Reload()
    return [event.step for event in board.Scalars(name)]


def recorded(run: Run) -> list[EpochEnded]:
    return [event for event in run.events() if isinstance(event, EpochEnded)]


def past(run: Run, epoch: int) -> None:
    """Waits until `epoch` is over while the run works; where it is held later on, it cannot end meanwhile."""
    until(lambda: run.view().epoch > epoch and run.view().status == "running", 200)


def test_killed_stopped_and_orphaned_a_run_ends_with_the_weights_of_an_undisturbed_one(bench: Bench) -> None:
    service = bench.service
    service.hold(6)
    run = bench.start()
    past(run, 3)
    before = recorded(run)
    service.kill(run)
    assert recorded(run)[: len(before)] == before, "what was on record stays on record"
    service.hold(12)
    past(run, 8)
    assert run.view().attempt == 2
    run.stop()
    until(lambda: run.view().status == "stopped")
    service.hold(EPOCHS - 1)
    run.resume()
    past(run, 15)
    service.kill(service.supervisor)
    service.kill(run)
    service.release()
    service.executor.ensure()
    view = bench.end(run)
    assert view.attempt == 4
    assert any("kill -9" in words for words in view.warnings)
    bench.same_weights(run)


def test_a_full_disk_in_the_middle_ends_in_words_and_resume_goes_on_exactly(bench: Bench) -> None:
    if not bench.mounted:
        pytest.skip("mounting a small disk needs root with CAP_SYS_ADMIN")
    bench.service.hold(6)
    run = bench.start()
    past(run, 3)
    ballast = fill(bench.disk)
    bench.service.release()
    until(lambda: not run.view().active, 200)
    told = run.view()
    assert told.status == "failed" and told.reason.startswith("The disk is full")
    kept = recorded(run)
    assert 3 <= len(kept) < EPOCHS
    ballast.unlink()
    until(lambda: not run.marker.exists())
    assert run.view().status == "failed" and run.view().reason.startswith("The disk is full")
    run.resume()
    assert bench.end(run).attempt >= 2
    assert recorded(run)[: len(kept)] == kept
    bench.same_weights(run)


def test_what_went_to_the_board_names_neither_the_run_nor_this_computer(bench: Bench) -> None:
    import socket

    found = b"".join(path.read_bytes() for path in bench.reference.folder.glob("tb/*"))
    names = " ".join(path.name for path in bench.reference.folder.glob("tb/*"))
    assert b"val/auc" in found and b"training.optimizer" in found
    assert b"exact" not in found
    machine = socket.gethostname().encode()
    told = bytes([len(machine)]) + machine  # as a field of its own; two letters alone occur in any picture by chance
    assert machine.decode() not in names and (told if len(machine) < 5 else machine) not in found
