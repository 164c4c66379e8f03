"""From the click to the first step: how long a run waits before it learns, from the warm pool and from a cold start.

    python benchmarks/start.py [--runs 5] [--json] [--save]

Warm: the supervisor is up (as it is while the app runs); measured from `RunStore.create` to the first `Progress` in the
run's event file, as a page would see it. Cold: the same work in a fresh Python without the pool. The network is a small
CNN on 64 synthetic scans of 28 x 28 pixels, prepared beforehand by one run that does not count, as for every second run
on a dataset. Prints the parts of the way, too.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from builder.execute import LocalExecutor  # noqa: E402
from builder.runs import Claim, Progress, Run, RunStore, Started  # noqa: E402
from builder.spec import Data, Experiment, Node, Training  # noqa: E402

LIMIT_S = 1.0  # what the issue asks of the warm pool
NETWORK = (
    Node(id="conv_a", name="conv2d", params={"out_channels": 16}),
    Node(id="act_a", name="relu"),
    Node(id="pool", name="max_pool"),
    Node(id="conv_b", name="conv2d", params={"out_channels": 32}),
    Node(id="act_b", name="relu"),
    Node(id="flat", name="flatten"),
    Node(id="head", name="linear", params={"out_features": 2}),
)


def dataset(home: Path, pictures: Path) -> str:
    """The id of a small dataset, imported the ordinary way."""
    import numpy as np
    from PIL import Image

    from builder.intake import detect, import_scans

    chance = np.random.default_rng(0)
    for label in ("left", "right"):
        (pictures / label).mkdir(parents=True)
        for n in range(32):
            grey = chance.normal(90, 25, (28, 28))
            grey[8:20, (2 if label == "left" else 16) :][:, :8] += 60
            Image.fromarray(grey.clip(0, 255).astype(np.uint8)).save(pictures / label / f"{n}.png")
    steps = import_scans(detect(pictures), "start", home)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value.dataset


def moments(run: Run, began: float) -> dict[str, float]:
    """Seconds from the click (wall time) to each mark on the way; waits for the first step."""
    deadline = time.monotonic() + 120
    marks: dict[str, float] = {}
    while "first step" not in marks:
        if time.monotonic() > deadline:
            raise SystemExit(f"The run {run.id} made no step within two minutes: {run.view().status}.")
        claim = run.folder / "claim.json"
        if claim.exists():
            marks.setdefault("claimed", claim.stat().st_mtime - began)
        for event in run.events():
            if isinstance(event, Started):
                marks.setdefault("started", event.at - began)
            if isinstance(event, Progress) and event.step:
                marks.setdefault("first step", event.at - began)
        time.sleep(0.005)
    marks["seen by a page"] = time.time() - began
    return marks


def ended(run: Run) -> None:
    run.stop()
    while run.view().active or run.marker.exists():
        time.sleep(0.01)


def measure(num_runs: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as place:
        home = Path(place) / "home"
        store, executor = RunStore(home), LocalExecutor(home)
        data = Data(dataset=dataset(home, Path(place) / "pictures"), size_px=28)
        experiment = Experiment(name="start", data=data, network=NETWORK, training=Training(epochs=1000, batch_size=16))
        began = time.monotonic()
        executor.ensure()
        told = home / "supervisor.json"
        while not (told.exists() and json.loads(told.read_text())["ready"]):
            time.sleep(0.05)
        pool_s = time.monotonic() - began
        try:
            warm = []
            for n in range(num_runs + 1):
                clicked = time.time()
                run = store.create(experiment)
                marks = moments(run, clicked)
                ended(run)
                if n:  # the first one prepares the scans
                    warm.append(marks)
            clicked = time.time()
            run = store.create(experiment, queue=False)
            process = subprocess.Popen([sys.executable, "-m", "builder.worker", str(run.folder)], cwd=ROOT)
            cold = moments(run, clicked)
            ended(run)
            process.wait()
        finally:
            claim = Claim.read(home / "supervisor.json")
            if claim is not None and claim.alive:
                os.kill(claim.pid, 15)
                while claim.alive:
                    time.sleep(0.01)
    middle = {name: statistics.median(marks[name] for marks in warm) for name in warm[0]}
    rounded = {name: round(seconds, 3) for name, seconds in cold.items()}
    return {
        "benchmark": "start",
        "date": time.strftime("%Y-%m-%d"),
        "promise": f"warm, first step: under {LIMIT_S:.0f} s",
        "warm_s": {name: round(seconds, 3) for name, seconds in middle.items()},
        "warm_all_s": [round(marks["first step"], 3) for marks in warm],
        "cold_s": rounded,
        "pool_ready_s": round(pool_s, 1),
        "limit_s": LIMIT_S,
        "passed": middle["first step"] < LIMIT_S,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "torch": version("torch"),
        "python": platform.python_version(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--save", action="store_true", help="also write benchmarks/results/start.json")
    asked = parser.parse_args()
    found = measure(asked.runs)
    if asked.save:
        (ROOT / "benchmarks" / "results" / "start.json").write_text(json.dumps(found, indent=2) + "\n")
    if asked.json:
        print(json.dumps(found, indent=1))
    else:
        for name, seconds in found["warm_s"].items():
            print(f"warm: {name:16} {seconds:6.2f} s (median of {asked.runs})")
        cold, pool = found["cold_s"]["first step"], found["pool_ready_s"]
        print(f"cold: first step       {cold:6.2f} s;  pool ready after {pool:.1f} s")
        print(f"{found['machine']}, Python {found['python']}: {'under' if found['passed'] else 'OVER'} {LIMIT_S:.0f} s")
    return 0 if found["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
