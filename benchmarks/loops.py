"""Throughput of our training loop against a hand-written one, Lightning, fastai and MONAI's supervised trainer.

    PYTHON benchmarks/loops.py [--repetitions 5] [--scans 1024]

The libraries are no part of ScanLoom: run it with a Python that has them and ScanLoom's packages, such as a virtual
environment of its own with `pip install --no-deps lightning fastai pytorch-ignite ...` and a .pth file that names the
site-packages of .venv. One that cannot be imported is named as not measured.

Every side trains the same network with AdamW on the same scans in batches of 32, one thread. Each in its usual way:
theirs take normalized floats in memory through torch's DataLoader (no workers), the hand-written loop and ours cut
whole batches; ours reads bytes from the prepared file, normalizes, clips gradients, follows a schedule, looks into the
layers now and then, asks whether to stop and tells its progress. With augmentation theirs vary one scan at a time:
torchvision v2 (one affine), MONAI its dictionary transforms. The second epoch of each fit is timed, training only, in
turns. A ratio above 1: ours is faster.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import augmentation
import setting
import torch
from torch import Tensor, nn

from builder import network
from builder.runs import Finished
from builder.spec import Experiment
from builder.task import find
from builder.train import train

BATCH, EPOCHS = 32, 2
Fit = Callable[[Experiment, setting.Scans, bool], setting.Seconds]
"""Trains for two epochs and tells what the second one took."""


class Watch:
    """Takes the time of the last epoch: `begin` and `end` around each."""

    def begin(self, *_: Any) -> None:
        self.at = setting.now()

    def end(self, *_: Any) -> None:
        self.took = setting.since(self.at)


def model_of(experiment: Experiment) -> nn.Module:
    """The network, in the memory order that the experiment says."""
    order = torch.channels_last if experiment.training.channels_last else torch.contiguous_format
    model = network.assemble(experiment.network, network.input_shape(experiment), 2, seed=0)
    return model.to(memory_format=order)  # type: ignore[call-overload, no-any-return]


def floats(scans: setting.Scans) -> tuple[Tensor, Tensor]:
    """All scans as normalized floats, and their classes."""
    images = torch.from_numpy(scans.made.images[:].astype("float32"))
    return (images / 255 - 0.5) / 0.29, torch.from_numpy(scans.labels)


def loader(scans: setting.Scans, varied: bool) -> Any:
    """A DataLoader as people write it."""
    if varied:
        return augmentation.torchvision_batches(scans, BATCH)()
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*floats(scans)), BATCH, shuffle=True)


def ours(experiment: Experiment, scans: setting.Scans, varied: bool) -> setting.Seconds:
    """ScanLoom. The pause between two epochs (judging, saving) lies between two looks at `stop` and is left out."""
    steps = len(scans.labels) // BATCH
    marks: list[tuple[float, float]] = []

    def stop() -> bool:
        marks.append(setting.now())
        return False

    with tempfile.TemporaryDirectory() as folder:
        *_, last = train(experiment, find("recognition"), scans, Path(folder), device="cpu", stop=stop)  # type: ignore[arg-type]
    assert isinstance(last, Finished) and last.status == "done", last
    (first, *_, end), share = marks[-steps:], steps / (steps - 1)
    return setting.Seconds((end[0] - first[0]) * share, (end[1] - first[1]) * share)


def by_hand(experiment: Experiment, scans: setting.Scans, varied: bool) -> setting.Seconds:
    """The shortest loop: over tensors in memory, varied ones through the DataLoader."""
    model, watch, loss_of = model_of(experiment).train(), Watch(), nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.001)
    images, target = floats(scans)

    def whole() -> Iterator[tuple[Tensor, Tensor]]:
        for batch in torch.randperm(len(images)).split(BATCH):
            yield images[batch], target[batch]

    for _ in range(EPOCHS):
        watch.begin()
        batches: Iterable[tuple[Tensor, Tensor]] = loader(scans, True) if varied else whole()
        for seen, wanted in batches:
            optimizer.zero_grad(set_to_none=True)
            loss_of(model(seen), wanted).backward()
            optimizer.step()
        watch.end()
    return watch.took


def with_lightning(experiment: Experiment, scans: setting.Scans, varied: bool) -> setting.Seconds:
    """Lightning's Trainer, without logger, bars and checkpoints."""
    lightning = import_module("lightning.pytorch")
    watch = Watch()

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net, self.loss_of = model_of(experiment), nn.CrossEntropyLoss()

        def training_step(self, batch: tuple[Tensor, Tensor], number: int) -> Tensor:
            return self.loss_of(self.net(batch[0]), batch[1])  # type: ignore[no-any-return]

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=0.001)

    class Timer(lightning.Callback):  # type: ignore[misc, name-defined]
        def on_train_epoch_start(self, *_: Any) -> None:
            watch.begin()

        def on_train_epoch_end(self, *_: Any) -> None:
            watch.end()

    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=EPOCHS, callbacks=[Timer()], enable_model_summary=False, **quiet
    )
    trainer.fit(Module(), loader(scans, varied))
    return watch.took


def with_fastai(experiment: Experiment, scans: setting.Scans, varied: bool) -> setting.Seconds:
    """fastai's Learner over plain loaders of torch, without bar; its judging is not timed."""
    basics = import_module("fastai.basics")
    watch, images = Watch(), floats(scans)

    class Timer(basics.Callback):  # type: ignore[misc, name-defined]
        def before_train(self) -> None:
            watch.begin()

        def after_train(self) -> None:
            watch.end()

    few = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images[0][:2], images[1][:2]), 2)
    learner = basics.Learner(
        basics.DataLoaders(loader(scans, varied), few, device="cpu"),
        model_of(experiment),
        loss_func=nn.CrossEntropyLoss(),
        opt_func=basics.partial(basics.OptimWrapper, opt=torch.optim.AdamW),
        cbs=[Timer()],
    )
    with learner.no_logging():
        learner.fit(EPOCHS, lr=0.001)
    return watch.took


def with_monai(experiment: Experiment, scans: setting.Scans, varied: bool) -> setting.Seconds:
    """MONAI's SupervisedTrainer on ignite."""
    engines, events = import_module("monai.engines"), import_module("ignite.engine").Events
    watch, model = Watch(), model_of(experiment)

    class Again:
        """MONAI's varied batches, epoch after epoch."""

        batches = staticmethod(augmentation.monai_batches(scans, BATCH))

        def __iter__(self) -> Iterator[Any]:
            return iter(self.batches())

        def __len__(self) -> int:
            return -(-len(scans.labels) // BATCH)

    trainer = engines.SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=EPOCHS,
        train_data_loader=Again() if varied else loader(scans, False),
        epoch_length=-(-len(scans.labels) // BATCH),
        network=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=0.001),
        loss_function=nn.CrossEntropyLoss(),
    )
    trainer.add_event_handler(events.EPOCH_STARTED, watch.begin)
    trainer.add_event_handler(events.EPOCH_COMPLETED, watch.end)
    trainer.run()
    return watch.took


PEERS: dict[str, tuple[Fit, tuple[str, ...]]] = {
    "hand-written": (by_hand, ("torch",)),
    "Lightning": (with_lightning, ("lightning",)),
    "fastai": (with_fastai, ("fastai",)),
    "MONAI SupervisedTrainer": (with_monai, ("monai", "pytorch-ignite")),
}
MODULES = {"pytorch-ignite": "ignite", "fastai": "fastai.basics"}


def missing(packages: tuple[str, ...]) -> str:
    """Why a peer cannot be measured here; "" where it can."""
    for package in packages:
        try:
            import_module(MODULES.get(package, package))
        except Exception as error:  # whatever a library does when it is imported
            return f"{package}: {type(error).__name__}: {str(error)[:120]}"
    return ""


def table(found: dict[str, Any], versions: dict[str, str], absent: dict[str, str]) -> str:
    """The result as a page."""
    names = [name for name in PEERS if name not in absent]
    lines = [
        "# Our loop against others",
        "",
        "Written by `benchmarks/loops.py`: how many times faster ours is (medians over turns), by processor time and,",
        "in brackets, by the wall. Above 1, ours is faster. Same network, scans, batches of 32, optimizer; one thread.",
        "",
        "| network | " + " | ".join(f"{name} {versions.get(name, '')}".strip() for name in names) + " |",
        "|:--" + "|--:" * len(names) + "|",
    ]
    for title, ratios in found.items():
        cells = [f"{ratios[n]['ratio_cpu']:.2f} ({ratios[n]['ratio']:.2f})" for n in names]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    lines += ["", *(f"Not measured here: {name} ({why})." for name, why in absent.items())]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--scans", type=int, default=1024)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in ("lightning", "lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "ignite", "monai"):
        logging.getLogger(name).setLevel(logging.ERROR)
    absent = {name: why for name, (_, packages) in PEERS.items() if (why := missing(packages))}
    versions = {}
    for name, (_, packages) in PEERS.items():
        try:
            versions[name] = version(packages[0])
        except PackageNotFoundError:
            versions[name] = "absent"
    sides: dict[str, Fit] = {"ours": ours} | {n: fit for n, (fit, _) in PEERS.items() if n not in absent}
    found: dict[str, Any] = {}
    settings = [("light", 64, False), ("tiny-cnn", 64, False), ("tiny-cnn", 64, True)]
    with tempfile.TemporaryDirectory() as folder:
        scans = setting.Scans(Path(folder), chosen.scans, 64)
        for name, _, varied in settings:
            training: dict[str, Any] = {"epochs": EPOCHS, "batch_size": BATCH}
            training["augment"] = augmentation.CHOICES if varied else ()
            made = setting.light(**training) if name == "light" else setting.starter(name, **training)
            times: dict[str, list[setting.Seconds]] = {side: [] for side in sides}
            for _ in range(chosen.repetitions):
                for side, fit in sides.items():
                    times[side].append(fit(made, scans, varied))
            title = f"{name}, 64 px{', augmented' if varied else ''}"
            found[title] = {
                n: setting.compared(t, times["ours"], chosen.scans) for n, t in times.items() if n != "ours"
            }
            print(title, {n: statistics.median(s.cpu for s in t) for n, t in times.items()}, time.ctime(), flush=True)
    setting.report(
        "loops",
        {
            "promise": "ours >= 0.95 of the best, or a word why",
            "peers": versions,
            "not_measured": absent,
            "repetitions": chosen.repetitions,
            "scans": chosen.scans,
            "found": found,
        },
    )
    (setting.RESULTS / "loops.md").write_text(table(found, versions, absent))


if __name__ == "__main__":
    main()
