"""Throughput of our training loop against the shortest loop one can write, over tensors that lie in memory.

    python benchmarks/loop.py [--epochs 7] [--count 1024]

Same network, same scans, same batches, same optimizer, no augmentation. Ours reads bytes from the prepared file, makes
floats of them, normalizes, clips gradients, follows a schedule, watches for numbers that run away, asks whether to stop
and tells its progress; theirs has normalized floats at hand and does nothing but step. Promise: ours >= 0.95 of theirs.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import setting
import torch
from torch import nn

from builder import network
from builder.runs import EpochEnded, Saved
from builder.spec import Experiment
from builder.task import find
from builder.train import train


def ours(experiment: Experiment, scans: setting.Scans, folder: Path) -> Iterator[None]:
    """Epochs of `train`; saving after each epoch is not timed (theirs keeps nothing)."""
    yield
    for event in train(experiment, find("recognition"), scans, folder, device="cpu"):  # type: ignore[arg-type]
        if isinstance(event, EpochEnded) or (isinstance(event, Saved) and not event.best):
            yield


def theirs(experiment: Experiment, scans: setting.Scans) -> Iterator[None]:
    """Epochs of a hand-written loop."""
    training = experiment.training
    order_in_memory = torch.channels_last if training.channels_last else torch.contiguous_format
    model = network.assemble(experiment.network, network.input_shape(experiment), 2, seed=0)
    model = model.to(memory_format=order_in_memory)  # type: ignore[call-overload]
    images = torch.from_numpy(scans.made.images[:].astype("float32"))
    images = ((images / 255 - 0.5) / 0.29).contiguous(memory_format=order_in_memory)
    target = torch.from_numpy(scans.labels)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.001)
    loss_of = nn.CrossEntropyLoss()
    while True:
        yield
        model.train()
        for batch in torch.randperm(len(images)).split(training.batch_size):
            optimizer.zero_grad(set_to_none=True)
            loss_of(model(images[batch]), target[batch]).backward()
            optimizer.step()
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=7)
    parser.add_argument("--count", type=int, default=1024)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, size_px in (("tiny-cnn", 64), ("small-cnn", 28)):
            for batch_size in (16, 64):
                scans = setting.Scans(Path(folder) / f"{size_px}", chosen.count, size_px)
                experiment = setting.starter(name, augment=(), epochs=chosen.epochs + 2, batch_size=batch_size)
                mine = ours(experiment, scans, Path(folder) / f"{name}-{batch_size}")
                plain = theirs(experiment, scans)
                seconds = setting.interleaved({"ours": mine, "theirs": plain}, chosen.epochs)
                found[f"{name}, {size_px} px, batches of {batch_size}"] = setting.compared(
                    seconds["theirs"], seconds["ours"], chosen.count
                )
    setting.report("loop", {"promise": "every ratio >= 0.95", "repetitions": chosen.epochs, "found": found})


if __name__ == "__main__":
    main()
