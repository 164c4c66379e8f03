"""Throughput of our training loop against the shortest loop one can write, over tensors that lie in memory.

    python benchmarks/loop.py [--steps 150]

Same network, same scans, same batches, same optimizer, no augmentation. Ours reads bytes from the prepared file, makes
floats of them, normalizes, clips gradients, follows a schedule, watches for numbers that run away, asks whether to stop
and tells its progress; theirs has normalized floats at hand and does nothing but step. After each step of ours one of
theirs is done, so that both meet the same load of the machine. Judging and saving after an epoch are not timed
(theirs does neither). Promise: ours >= 0.95 of theirs.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import setting
import torch
from torch import Tensor, nn

from builder import network
from builder.runs import Saved
from builder.spec import Experiment
from builder.task import find
from builder.train import train


class Duel:
    """Asked after each optimizer step of ours whether to stop, it lets theirs do a step, and times both."""

    def __init__(self, step: Callable[[], None], steps: int) -> None:
        self.step, self.steps = step, steps
        self.ours: list[setting.Seconds] = []
        self.theirs: list[setting.Seconds] = []
        self.began: tuple[float, float] | None = None

    def __call__(self) -> bool:
        if self.began is not None:
            self.ours.append(setting.since(self.began))
            began = setting.now()
            self.step()
            self.theirs.append(setting.since(began))
        self.began = setting.now()
        return len(self.ours) >= self.steps

    def pause(self) -> None:
        """What comes now is not a step."""
        self.began = None


def their_step(experiment: Experiment, scans: setting.Scans) -> Callable[[], None]:
    """One optimizer step of a hand-written loop."""
    training = experiment.training
    order_in_memory = torch.channels_last if training.channels_last else torch.contiguous_format
    model = network.assemble(experiment.network, network.input_shape(experiment), 2, seed=0)
    model = model.to(memory_format=order_in_memory).train()  # type: ignore[call-overload]
    images = torch.from_numpy(scans.made.images[:].astype("float32"))
    images = ((images / 255 - 0.5) / 0.29).contiguous(memory_format=order_in_memory)
    target = torch.from_numpy(scans.labels)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.001)
    loss_of = nn.CrossEntropyLoss()

    def batches() -> Iterator[Tensor]:
        while True:
            yield from torch.randperm(len(images)).split(training.batch_size)

    order = batches()

    def step() -> None:
        batch = next(order)
        optimizer.zero_grad(set_to_none=True)
        loss_of(model(images[batch]), target[batch]).backward()
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=150)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    count, found = 1024, {}
    with tempfile.TemporaryDirectory() as folder:
        for name, size_px in (("tiny-cnn", 64), ("small-cnn", 28)):
            scans = setting.Scans(Path(folder) / f"{size_px}", count, size_px)
            for batch_size in (16, 64):
                experiment = setting.starter(name, augment=(), epochs=1000, batch_size=batch_size)
                duel = Duel(their_step(experiment, scans), chosen.steps)
                run = Path(folder) / f"{name}-{batch_size}"
                for event in train(experiment, find("recognition"), scans, run, device="cpu", stop=duel):  # type: ignore[arg-type]
                    if isinstance(event, Saved):
                        duel.pause()
                found[f"{name}, {size_px} px, batches of {batch_size}"] = setting.compared(
                    duel.theirs[5:], duel.ours[5:], batch_size
                )
    setting.report("loop", {"promise": "every ratio >= 0.95", "steps": chosen.steps, "found": found})


if __name__ == "__main__":
    main()
