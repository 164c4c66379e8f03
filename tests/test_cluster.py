"""More than one machine, with Ray itself: two raylets on loopback. One test, because the cluster starts once for it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

pytest.importorskip("ray", reason="requirements-cluster.txt is not installed")

from builder import task
from builder.execute import executor
from builder.runs import Resumed, Run, RunStore, Saved, Warned
from builder.search.studies import Study, StudyStore
from builder.spec import Dimension, Experiment, Search
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


def searched(home: Path, experiment: Experiment, **search: Any) -> Study:
    """A search for the best rate of learning, begun."""
    space = (Dimension(path="training.optimizer.params.lr", low=1e-3, high=0.1, log=True),)
    return StudyStore(home).create(experiment.replace("search", Search(dimensions=space, **search)))


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_two_machines(cluster: Raylets, tmp_path: Path) -> None:
    home = cluster.home
    dataset = imported(home, phantoms.write_cohort(tmp_path / "scans", seed=5, num_images=36, size_px=64))
    one_process = little(dataset, processes=1)
    began = time.monotonic()

    def told(what: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {what}")

    # ---- a search of eight trials finds its places on both machines
    study = searched(home, one_process, num_trials=8, parallel=4)
    until(lambda: [trial.run for trial in study.view().trials])
    executor(home).submit(Run(home, study.view().trials[0].run))
    until(lambda: study.view().status == "done", 400)
    trials = study.view().trials
    runs = [Run(home, trial.run) for trial in trials]
    assert [(trial.number, trial.status) for trial in trials] == [(number, "done") for number in range(8)]
    assert len({run.id for run in runs}) == len(RunStore(home).runs()) == 8
    assert len({cluster.node_of(run) for run in runs}) == 2, "both machines have worked"
    assert all(run.view().attempt == 1 for run in runs), "asked twice, started once"
    told("a search of eight trials")

    # ---- one run by two processes, one on each machine, learns what one process learns
    store = RunStore(home)
    together = store.create(little(dataset))
    executor(home).submit(together)
    alone = store.create(little(dataset), queue=False)
    events = list(train(alone.experiment, task.find("recognition"), dataset, alone.folder, device="cpu"))
    until(lambda: together.view().status not in ("queued", "starting", "running"), 240)
    assert together.view().status == "done", (together.folder / "worker.log").read_text()
    np.testing.assert_allclose(curve(together.events()), curve(events), rtol=2e-5)
    told("two processes")

    # ---- a machine is lost in the middle of a trial: it goes on, elsewhere, from what was saved
    study = searched(home, little(dataset, processes=1, epochs=400, checkpoint_every_s=1), num_trials=2, parallel=2)
    until(lambda: len(study.view().trials) == 2)
    long = [Run(home, trial.run) for trial in study.view().trials]
    until(lambda: all(run.view().epoch >= 2 for run in long), 240)
    gone = cluster.lose_further()
    (lost,) = (run for run in long if cluster.node_of(run) == gone)
    (kept,) = (run for run in long if run is not lost)
    saved = max(e.step for e in lost.events() if isinstance(e, Saved) and not e.best)  # best: weights alone
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
    until(lambda: not study.view().active)
    trials = study.view().trials
    assert {trial.run for trial in trials} == {run.id for run in long} and len(trials) == 2
    assert [trial.retried for trial in trials] == [int(trial.run == lost.id) for trial in trials]
    assert all(trial.status == "stopped" and trial.curve[0] == sorted(set(trial.curve[0])) for trial in trials)
    told("it went on elsewhere")
    until(lambda: not lost.marker.exists() and not kept.marker.exists())
