"""TensorBoard: what a run writes for it, and the process that shows it: one, on this machine only, and no orphan."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from builder import spreads, task, tensorboards
from builder.board import Board
from builder.runs import Claim, Record, Run, RunStore
from builder.train import train
from tests.tiny_runs import small_set

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def boarded(home: Path, tmp_path: Path) -> Run:
    """A run of two epochs with its board."""
    dataset = small_set(home, "recognition", tmp_path / "scans")
    of = task.find("recognition")
    document = of.starters()[0].replace("data.size_px", 32).replace("training.epochs", 2)
    run = RunStore(home).create(document.replace("data.dataset", dataset.id), queue=False)
    board = Board(run.folder, 1, dataset.classes)
    board.describe(json.loads(run.experiment.dumps()), list(of.metrics))
    with Record(run.folder / "events.jsonl") as record:
        for event in train(run.experiment, of, dataset, run.folder, device="cpu"):
            record.append(event)
            board.add(event)
    board.close()
    return run


def test_a_board_has_the_film_the_spreads_the_trade_off_of_each_class_and_the_scores_of_the_kept_network(
    boarded: Run,
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(boarded.folder / "tb"), {"images": 0, "histograms": 0, "tensors": 0, "scalars": 0})
    found.Reload()
    tags = found.Tags()
    assert tags["images"] == ["film"] and 1 <= len(found.Images("film")) <= 2
    assert found.Images("film")[-1].step == boarded.view().step, "the last epoch's, also of a run this short"
    assert found.Images("film")[0].encoded_image_string.startswith(b"\x89PNG")
    learned = {name for name in tags["histograms"] if name.startswith("weights/")}
    assert learned and {n.replace("weights/", "gradients/") for n in learned} <= set(tags["histograms"])
    spread = found.Histograms(min(learned))[0].histogram_value
    assert sum(spread.bucket) == spread.num and spread.min < spread.max
    best = {name for name in tags["scalars"] if name.startswith("best/val/")}
    assert {"best/val/auc", "best/val/loss"} <= best
    curves = [name for name in tags["tensors"] if name.startswith("val/")]
    assert len(curves) == 3, "a precision-recall curve for each class"
    assert found.Tensors(curves[0])[0].tensor_proto.tensor_shape.dim[0].size == 6
    assert not list((boarded.folder / "film").glob("spreads-*")), "read once, then no longer needed"


def test_the_trade_off_counts_what_it_should() -> None:
    scores, true = np.array([0.9, 0.8, 0.3, 0.2, -1.0]), np.array([True, False, True, False, True])
    tp, fp, tn, fn, precision, recall = spreads.trade_off(scores, true)
    assert (tp[0], fp[0], tn[0], fn[0]) == (2, 2, 0, 1), "what was never found counts at no threshold"
    middle = spreads.THRESHOLDS // 2
    assert (tp[middle], fp[middle], tn[middle], fn[middle]) == (1, 1, 1, 2)
    assert precision[middle] == 0.5 and recall[middle] == pytest.approx(1 / 3) and precision[-1] == 1


SERVER = """
import sys, time
from pathlib import Path
from builder import tensorboards
print(tensorboards.start(Path(sys.argv[1]), {sys.argv[2]: "A run / with <signs>"}), flush=True)
time.sleep(600)
"""


def asked(url: str, host: str = "") -> tuple[int, bytes]:
    request = urllib.request.Request(url, headers={"Host": host} if host else {})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def gone(claim: Claim, within_s: float = 20) -> bool:
    until = time.monotonic() + within_s
    while claim.alive and time.monotonic() < until:
        time.sleep(0.05)
    return not claim.alive


def test_one_tensorboard_serves_every_page_on_this_machine_only_and_ends_with_the_server_or_when_told(
    home: Path, boarded: Run
) -> None:
    assert tensorboards.address(home) is None
    command = [sys.executable, "-c", SERVER, str(home), boarded.id]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    assert server.stdout is not None
    url = server.stdout.readline().decode().strip()
    claim = Claim.read(home / "tensorboard" / "claim.json")
    try:
        assert url.startswith("http://127.0.0.1:") and claim is not None and claim.pid != server.pid
        assert tensorboards.address(home) == url == tensorboards.start(home, {boarded.id: "again"})
        status, tags = asked(f"{url}data/plugin/scalars/tags")
        shown = json.loads(tags)
        assert status == 200 and len(shown) >= 1 and all(boarded.id in name for name in shown), tags
        assert {"val/auc", "step/loss"} <= set(shown[next(iter(shown))])
        assert asked(url, host="evil.example:80")[0] == 403
        root = "/".join(url.split("/")[:3])
        assert asked(f"{root}/data/plugin/scalars/tags")[0] == 404, "the secret part belongs to the address"
    finally:
        os.kill(server.pid, signal.SIGKILL)
        server.wait()
        server.stdout.close()
    assert gone(claim), "a server that was killed leaves no TensorBoard behind"
    assert tensorboards.address(home) is None
    again = tensorboards.start(home, {boarded.id: "once more"})
    claim = Claim.read(home / "tensorboard" / "claim.json")
    assert claim is not None and asked(again)[0] == 200
    tensorboards.stop(home)
    assert not claim.alive and tensorboards.address(home) is None
