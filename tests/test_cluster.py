"""More than one machine, with Ray itself: two raylets on loopback. One test, because the cluster starts once for it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

pytest.importorskip("ray", reason="requirements-cluster.txt is not installed")

from builder import task
from builder.execute import executor
from builder.runs import Resumed, Run, RunStore, Saved, Warned
from builder.train import train
from tasks import phantoms
from tests.little_run import imported
from tests.raylets import Raylets
from tests.service import Service, until
from tests.test_cluster_parallel import curve, little


@pytest.fixture
def cluster(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Raylets]:
    made = Raylets(home)
    for name, value in made.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(home / "ray.token"))
    service = Service(home)
    yield made
    with contextlib.suppress(AssertionError):
        service.close()
    made.close()


def worker_of(run: Run) -> psutil.Process:
    """The process that trains a run, wherever Ray put it."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if words[1:4] == ["-m", "builder.placed", run.id]:
            return process
    raise AssertionError(f"nobody trains {run.id}")


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_two_machines(cluster: Raylets, tmp_path: Path) -> None:
    home = cluster.home
    dataset = imported(home, phantoms.write_cohort(tmp_path / "scans", seed=5, num_images=36, size_px=64))
    one_process = little(dataset, processes=1)
    began = time.monotonic()

    def told(what: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {what}")

    # ---- eight runs find their places on both machines
    store = RunStore(home)
    runs = [store.create(one_process.replace("training.seed", seed)) for seed in range(8)]
    for run in runs:
        executor(home).submit(run)
        executor(home).submit(run)
    until(lambda: all(run.view().status == "done" for run in runs), 400)
    assert len({cluster.node_of(run) for run in runs}) == 2, "both machines have worked"
    assert all(run.view().attempt == 1 for run in runs), "asked twice, started once"
    told("eight runs")

    # ---- one run by two processes, one on each machine, learns what one process learns
    together = store.create(little(dataset))
    executor(home).submit(together)
    alone = store.create(little(dataset), queue=False)
    events = list(train(alone.experiment, task.find("recognition"), dataset, alone.folder, device="cpu"))
    until(lambda: together.view().status not in ("queued", "starting", "running"), 240)
    assert together.view().status == "done", (together.folder / "worker.log").read_text()
    np.testing.assert_allclose(curve(together.events()), curve(events), rtol=2e-5)
    told("two processes")

    # ---- a machine is lost in the middle of a run: it goes on, elsewhere, from what was saved
    long = [store.create(little(dataset, processes=1, epochs=400, checkpoint_every_s=1, seed=s)) for s in range(2)]
    for run in long:
        executor(home).submit(run)
    until(lambda: all(run.view().epoch >= 2 for run in long), 240)
    gone = cluster.lose_further()
    (lost,) = (run for run in long if cluster.node_of(run) == gone)
    (kept,) = (run for run in long if run is not lost)
    saved = max(e.step for e in lost.events() if isinstance(e, Saved))
    told("a machine is gone")
    kept.stop()
    until(lambda: any(isinstance(e, Resumed) for e in lost.events()), 240)
    assert any("left the cluster" in e.message for e in lost.events() if isinstance(e, Warned))
    assert next(e.step for e in lost.events() if isinstance(e, Resumed)) >= saved
    until(lambda: lost.view().status == "running" and lost.view().attempt == 2)
    lost.stop()
    until(lambda: lost.view().status == "stopped" and kept.view().status == "stopped", 240)
    curves = lost.view().curves.values()
    assert curves and all(steps == sorted(set(steps)) for steps, _ in curves), "no epoch is counted twice"
    told("it went on elsewhere")
    until(lambda: not lost.marker.exists() and not kept.marker.exists())
