"""An exported PyTorch project at work, in a process that cannot see ours: its figures, and a training with it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import forks
import torch

from builder import checkpoint, task
from builder.data import Dataset
from builder.learner import Learner
from builder.runs import Run

_ASK = """
import contextlib, io, json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
import train
from safetensors.torch import load_file
scans, model = Path(sys.argv[2]), train.Model()
model.load_state_dict(load_file(Path(sys.argv[1]) / "weights.safetensors"))
ones = [1] * (3 if train.SETTINGS["slices"] == "volume" else 2)
mean, std = (torch.tensor(train.SETTINGS[name]).float().reshape(-1, *ones) for name in ("mean", "std"))
loss = train.loss_of(train.load(scans / "train")[1], model, mean, std)
with torch.inference_mode():
    told = train.judged(model.eval(), *train.load(scans / "val"), loss, mean, std)
said = io.StringIO()
sys.argv = ["train.py", str(scans), "--epochs", "1"]
with contextlib.redirect_stdout(said):
    train.main()
assert not any(name.split(".")[0] in ("builder", "tasks") for name in sys.modules), "the export imports ScanLoom"
print(json.dumps({"figures": told, "said": said.getvalue()}))
"""


def taught_again(folder: Path, scans: Path, place: Path) -> dict[str, float]:
    """The figures of the exported weights on the side "val" of `scans`, by the exported train.py; which then trains one
    epoch, whose network lies in `place`/trained."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    command = [sys.executable, "-B", "-c", _ASK, str(folder), str(scans)]
    done = forks.run(command, cwd=place, capture_output=True, text=True, env=environment, timeout=200)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["said"].startswith("epoch 1: loss ") and told["said"].count("epoch") == 1
    return told["figures"]


def asked(folder: Path, scan: Path, out: Path) -> dict:
    """What predict.py in `folder` says of one scan."""
    command = [sys.executable, "-B", str(folder / "predict.py"), str(scan), "--out", str(out)]
    done = forks.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def validated(run: Run, dataset: Dataset, place: Path) -> dict[str, float]:
    """The validation figures of the weights that a run has kept, by the app's own judgement."""
    experiment, device = run.experiment, torch.device("cpu")
    prepared = dataset.prepared(experiment.data)
    learner = Learner(experiment, task.find(experiment.task), dataset, prepared, place, device)
    stored = checkpoint.load_weights(run.folder / "best.safetensors")
    checkpoint.pour(stored.tensors, learner.model, "best.safetensors")
    told = learner.judge() | {f"val/{name}": value for name, value in learner.settled.items()}
    return {
        name.removeprefix("val/"): value
        for name, value in told.items()
        if name.startswith("val/") and " of " not in name
    }
