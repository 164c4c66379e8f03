"""Throughput of our training loop against a hand-written one, Lightning, fastai and MONAI's supervised trainer.

    PYTHON benchmarks/loops.py [--repetitions 5] [--scans 1024] [--device cuda]

The libraries are no part of ScanLoom: run it with a Python that has them and ScanLoom's packages, such as a virtual
environment of its own with `pip install --no-deps lightning fastai pytorch-ignite ...` and a .pth file that names the
site-packages of .venv. One that cannot be imported is named as not measured.

Every side trains the same network with AdamW on the same scans in batches of 32, one thread. Each in its usual way:
theirs take normalized floats in memory through torch's DataLoader (no workers), the hand-written loop and ours cut
whole batches; ours reads bytes from the prepared file, normalizes, clips gradients, follows a schedule, looks into the
layers now and then, asks whether to stop and tells its progress. With augmentation theirs vary one scan at a time:
torchvision v2 (one affine), MONAI its dictionary transforms. The second epoch of each fit is timed, training only, in
turns. A ratio above 1: ours is faster.

On a GPU (--device cuda, results/loops-cuda.*) all sides compute in float32 as torch does it by default, the ratio is by
the clock on the wall, and the libraries' loaders pin their memory; a network of a shipped starter's weight stands
beside the light ones, since there the card works and not only the loop.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
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


DEVICE = torch.device("cpu")  # where all sides compute; told by --device


def waited() -> None:
    """What was given to a GPU is done."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


class Watch:
    """Takes the time of the last epoch: `begin` and `end` around each."""

    def begin(self, *_: Any) -> None:
        waited()
        self.at = setting.now()

    def end(self, *_: Any) -> None:
        waited()
        self.took = setting.since(self.at)


def model_of(experiment: Experiment) -> nn.Module:
    """The network, in the memory order that the experiment says."""
    order = torch.channels_last if experiment.training.channels_last else torch.contiguous_format
    model = network.assemble(experiment.network, network.input_shape(experiment), 2, seed=0)
    return model.to(device=DEVICE, memory_format=order)  # type: ignore[call-overload, no-any-return]


def floats(scans: setting.Scans) -> tuple[Tensor, Tensor]:
    """All scans as normalized floats, and their classes."""
    images = torch.from_numpy(scans.made.images[:].astype("float32"))
    return (images / 255 - 0.5) / 0.29, torch.from_numpy(scans.labels)


def loader(scans: setting.Scans, varied: bool) -> Any:
    """A DataLoader as people write it."""
    if varied:
        return augmentation.torchvision_batches(scans, BATCH)()
    held = torch.utils.data.TensorDataset(*floats(scans))
    return torch.utils.data.DataLoader(held, BATCH, shuffle=True, pin_memory=DEVICE.type == "cuda")


def ours(experiment: Experiment, scans: setting.Scans, varied: bool) -> setting.Seconds:
    """ScanLoom. The pause between two epochs (judging, saving) lies between two looks at `stop` and is left out."""
    steps = len(scans.labels) // BATCH
    marks: list[tuple[float, float]] = []

    def stop() -> bool:
        if not len(marks) % steps:  # between two epochs; within one nobody waits for the card
            waited()
        marks.append(setting.now())
        return False

    with tempfile.TemporaryDirectory() as folder:
        *_, last = train(experiment, find("recognition"), scans, Path(folder), device=str(DEVICE), stop=stop)  # type: ignore[arg-type]
    assert isinstance(last, Finished) and last.status == "done", last
    (first, *_, end), share = marks[-steps:], steps / (steps - 1)
    return setting.Seconds((end[0] - first[0]) * share, (end[1] - first[1]) * share)


def by_hand(experiment: Experiment, scans: setting.Scans, varied: bool) -> setting.Seconds:
    """The shortest loop: over tensors in memory, varied ones through the DataLoader."""
    model, watch, loss_of = model_of(experiment).train(), Watch(), nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.001)
    images, target = (held.to(DEVICE) for held in floats(scans))

    def whole() -> Iterator[tuple[Tensor, Tensor]]:
        for batch in torch.randperm(len(images)).split(BATCH):
            yield images[batch], target[batch]

    for _ in range(EPOCHS):
        watch.begin()
        batches: Iterable[tuple[Tensor, Tensor]] = loader(scans, True) if varied else whole()
        for seen, wanted in batches:
            optimizer.zero_grad(set_to_none=True)
            seen, wanted = seen.to(DEVICE, non_blocking=True), wanted.to(DEVICE, non_blocking=True)
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
        accelerator="gpu" if DEVICE.type == "cuda" else "cpu",
        devices=1,
        max_epochs=EPOCHS,
        callbacks=[Timer()],
        enable_model_summary=False,
        **quiet,
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
        basics.DataLoaders(loader(scans, varied), few, device=DEVICE),
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
        device=DEVICE,
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
    if DEVICE.type == "cuda":
        return table_of_card(found, versions, absent, names)
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


def table_of_card(found: dict[str, Any], versions: dict[str, str], absent: dict[str, str], names: Sequence[str]) -> str:
    """The result of a GPU as a page: by the wall alone."""
    lines = [
        "# Our loop against others, on a GPU",
        "",
        f"Written by `benchmarks/loops.py --device cuda` on {torch.cuda.get_device_name()}, torch {torch.__version__}:",
        "how many times faster ours is by the clock on the wall (medians over turns). Above 1, ours is faster. Same",
        "network, scans, batches of 32, optimizer; float32.",
        "",
        "| network | ours, scans a second | " + " | ".join(f"{n} {versions.get(n, '')}".strip() for n in names) + " |",
        "|:--" + "|--:" * (len(names) + 1) + "|",
    ]
    for title, ratios in found.items():
        cells = [f"{ratios[name]['ratio']:.2f}" for name in names]
        lines.append(f"| {title} | {ratios[names[0]]['scans_per_s_ours']:,.0f} | " + " | ".join(cells) + " |")
    lines += ["", *(f"Not measured here: {name} ({why})." for name, why in absent.items())]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    global DEVICE
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--scans", type=int, default=1024)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    chosen = parser.parse_args()
    DEVICE = torch.device(chosen.device)
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
    settings += [("residual-cnn", 128, False)] if DEVICE.type == "cuda" else []
    with tempfile.TemporaryDirectory() as folder:
        for name, size, varied in settings:
            scans = setting.Scans(Path(folder) / str(size), chosen.scans, size)
            training: dict[str, Any] = {"epochs": EPOCHS, "batch_size": BATCH, "mixed_precision": "off"}
            training["augment"] = augmentation.CHOICES if varied else ()
            made = setting.light(**training) if name == "light" else setting.starter(name, **training)
            times: dict[str, list[setting.Seconds]] = {side: [] for side in sides}
            for _ in range(chosen.repetitions):
                for side, fit in sides.items():
                    times[side].append(fit(made, scans, varied))
            title = f"{name}, {size} px{', augmented' if varied else ''}"
            found[title] = {
                n: setting.compared(t, times["ours"], chosen.scans) for n, t in times.items() if n != "ours"
            }
            print(title, {n: statistics.median(s.cpu for s in t) for n, t in times.items()}, time.ctime(), flush=True)
    title = "loops-cuda" if DEVICE.type == "cuda" else "loops"
    setting.report(
        title,
        {
            "promise": "ours >= 0.95 of the best, or a word why",
            "peers": versions,
            "not_measured": absent,
            "repetitions": chosen.repetitions,
            "scans": chosen.scans,
            "found": found,
        },
    )
    (setting.RESULTS / f"{title}.md").write_text(table(found, versions, absent))


if __name__ == "__main__":
    main()
