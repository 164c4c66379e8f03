"""What looking into the layers costs a training: steps that are looked at against their neighbours that are not.

    python benchmarks/watching.py [--looks 25]

One run a network, in which every fifth step is looked at (a real run looks at ten early ones, then at one in 64 or
fewer). A step with a look is timed against the mean of the steps before and after it, wall and processor, so that other
load falls on both alike. From the median ratio follows what a run of 1,000 and of 10,000 steps pays for being watched.
Promise: a run of 1,000 steps is at most 2 % slower (`cost_of_1000_steps`).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import setting
import torch

from builder.health import Watch
from builder.runs import Probed, Saved
from builder.spec import Experiment
from builder.task import find
from builder.train import train

_APART = 5


class Clock:
    """Asked after each optimizer step whether to stop; knows how long each took, looks included."""

    def __init__(self, looks: int) -> None:
        self.looks = looks
        self.steps: list[setting.Seconds | None] = []
        self.began: tuple[float, float] | None = None

    def __call__(self) -> bool:
        self.steps.append(setting.since(self.began) if self.began is not None else None)
        self.began = setting.now()
        return len(self.steps) > self.looks * _APART + _APART

    def pause(self) -> None:
        """What comes now is not a step."""
        self.began = None


def measured(experiment: Experiment, scans: setting.Scans, folder: Path, looks: int) -> dict[str, float]:
    """How many times longer a step with a look takes, and the share that whole runs pay for it."""
    clock, told = Clock(looks), 0
    for event in train(experiment, find("recognition"), scans, folder, device="cpu", stop=clock):  # type: ignore[arg-type]
        told += isinstance(event, Probed)
        if isinstance(event, Saved):
            clock.pause()
    found: dict[str, float] = {"looks": told}
    for name in ("wall", "cpu"):
        ratios = []
        for k in range(2 * _APART - 1, len(clock.steps) - 1, _APART):
            before, here, after = clock.steps[k - 1 : k + 2]
            if before and here and after:
                ratios.append(2 * getattr(here, name) / (getattr(before, name) + getattr(after, name)))
        extra = statistics.median(ratios) - 1
        end = "" if name == "wall" else "_cpu"
        found |= {
            f"look_costs_steps{end}": round(extra, 3),
            f"cost_of_1000_steps{end}": round(extra * looks_in(1000) / 1000, 4),
            f"cost_of_10000_steps{end}": round(extra * looks_in(10_000) / 10_000, 4),
        }
    return found


def looks_in(total: int) -> int:
    """How many steps of a run of `total` are looked at."""
    every = Watch.spacing(total)
    return sum(Watch.due(step, every) for step in range(1, total + 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--looks", type=int, default=25)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    Watch.is_due = lambda self, step: step % _APART == 0  # type: ignore[method-assign]
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, size_px, batch_size in (
            *(("tiny-cnn", 64, 16), ("small-cnn", 28, 64), ("vgg-style", 64, 16), ("residual-cnn", 64, 16)),
            ("light", 64, 32),
        ):
            scans = setting.Scans(Path(folder) / f"{name}-scans", 1024, size_px)
            settings = {"augment": (), "epochs": 1000, "batch_size": batch_size}
            experiment = setting.light(**settings) if name == "light" else setting.starter(name, **settings)
            run = Path(folder) / name
            words = f"{name}, {size_px} px, batches of {batch_size}"
            found[words] = measured(experiment, scans, run, chosen.looks)
    promise = "every cost_of_1000_steps <= 0.02"
    setting.report("watching", {"promise": promise, "looks_in_1000_steps": looks_in(1000), "found": found})


if __name__ == "__main__":
    main()
