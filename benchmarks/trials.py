"""What the accuracy benchmarks share: import once, train in a worker, evaluate once, write what was measured."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from builder import folding, task
from builder.data import Dataset, datasets
from builder.evaluate import evaluate, evaluation
from builder.intake import Source, detect, import_scans
from builder.rounds import Round, RoundStore
from builder.runs import Run, RunStore
from builder.spec import Experiment

RESULTS = Path(__file__).parent / "results"


def imported(home: Path, name: str, source: Path | Source, **options: Any) -> Dataset:
    """The data set called `name` in `home`, imported from `source` where it is not there yet."""
    if any(summary.name == name for summary in datasets(home)):
        return Dataset.open(home, name)
    steps = import_scans(source if isinstance(source, Source) else detect(source), name, home, **options)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return Dataset.open(home, end.value.dataset)


def starter(name: str) -> Experiment:
    """A shipped starter of the recognition task."""
    return next(e for e in task.find("recognition").starters() if e.name == name)


def edited(experiment: Experiment, edits: dict[str, Any]) -> Experiment:
    """The document with these paths replaced."""
    for path, value in edits.items():
        experiment = experiment.replace(path, value)
    return experiment


def trained(home: Path, experiment: Experiment, threads: int) -> dict[str, Any]:
    """Train `experiment` in a worker process (unless `home` has it done) and evaluate it on the test split, once."""
    store = RunStore(home)
    run = next((run for run in store.runs() if run.experiment == experiment), None) or store.create(
        experiment, queue=False
    )
    view = run.view()
    if view.status != "done":
        learn(run, threads)
        view = run.view()
    if view.status != "done" or view.best is None:
        raise SystemExit(f"The run {run.id} ended as {view.status}: {view.reason}")
    found = evaluation(run) or evaluate(run, home)
    return {
        "run": run.id,
        "name": experiment.name,
        "seed": experiment.training.seed,
        "epochs": view.epoch,
        "best": view.best,
        "seconds": view.seconds,
        "threads": threads,
        "n": found["n"],
        "patients": found["patients"],
        "test": found["metrics"],
        **{name: found[name] for name in ("majority_accuracy", "per_class", "confusion") if name in found},
    }


def folded(home: Path, experiment: Experiment, num: int, beside: int) -> tuple[Round, dict[str, Any]]:
    """(the cross-validation of `experiment` in `num` folds, what it comes to), folds that are done in `home` taken as
    they are. As `python -m builder crossvalidate`, with `beside` folds learning at the same time, one thread each."""
    known = RoundStore(home).about(experiment, folding.KIND)
    one = known[0] if known else folding.begin(home, experiment, num, queue=False)
    one.complete(queue=False)
    waiting = [run for run in one.runs() if run.view().status != "done"]
    with ThreadPoolExecutor(max(1, beside)) as crew:
        list(crew.map(lambda run: learn(run, 1), waiting))
    return one, one.result() or folding.gather(one)


def learn(run: Run, threads: int) -> None:
    """Trains a run, or goes on with it, in a worker of its own."""
    root = Path(__file__).parents[1]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-m", "builder.worker", str(run.folder)], check=True, env=environment, cwd=root)


def write(name: str, measured: dict[str, Any], lines: list[str]) -> None:
    """Write `measured` as results/<name>.json and `lines`, with machine and versions, as results/<name>.md."""
    RESULTS.mkdir(exist_ok=True)
    document = {"measured": datetime.now(UTC).date().isoformat(), "machine": machine(), **measured}
    (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=2) + "\n")
    about = ", ".join(f"{key} {value}" for key, value in machine().items())
    text = "\n".join([*lines, "", f"Measured {document['measured']} with `{measured['command']}` on: {about}.", ""])
    (RESULTS / f"{name}.md").write_text(text)
    print(text)


def machine() -> dict[str, Any]:
    """What it was measured on, and with which versions."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        **({"gpu": gpu} if (gpu := _gpu()) else {}),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "timm", "numpy", "scikit-learn")},
    }


def interval(figure: dict[str, Any]) -> str:
    """0.981 (0.972 to 0.988); of one patient, who has no interval, the figure alone."""
    if figure["low"] is None:
        return f"{figure['value']:.3f}"
    return f"{figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"


def _gpu() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else ""


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
