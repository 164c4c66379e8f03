"""Augmented training: ours against torchvision's transforms in a DataLoader and MONAI's dictionary transforms.

    python benchmarks/augmentation.py [--repetitions 5] [--count 256]

All three vary every scan by rotation, left-right flip, crop (zoom and shift), brightness and noise, and train the same
network on the same scans in the same batches. "training" is the whole of it; "scans alone" is the way of a batch from
the disk to the network's door, without the network. One process, one thread, no loader workers on any side.
kornia, where it is installed (see augmentation_operations.py), varies whole batches as ours does: no promise is made.
Promise: >= 3x torchvision's and >= 5x MONAI's throughput. On a CPU the network's own step, equal for all, soon
outweighs everything else: how much is won then depends on the network, so a light one and two shipped ones are told.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import setting
import torch
from torch import Tensor, nn

from builder import network
from builder.learner import Learner
from builder.spec import Choice, Experiment
from builder.task import find

DEGREES, ZOOM, SHIFT, BRIGHTNESS, NOISE = 10.0, (0.9, 1.1), 0.1, 0.1, 0.03
CHOICES = (
    Choice(name="rotate", params={"degrees": DEGREES, "probability": 1.0}),
    Choice(name="flip_horizontal", params={"probability": 0.5}),
    Choice(name="zoom", params={"low": ZOOM[0], "high": ZOOM[1], "probability": 1.0}),
    Choice(name="shift", params={"fraction": SHIFT, "probability": 1.0}),
    Choice(name="brightness", params={"amount": BRIGHTNESS, "probability": 1.0}),
    Choice(name="noise", params={"sigma": NOISE, "probability": 1.0}),
)
Batches = Iterable[tuple[Tensor, Tensor]]


def ours(learner: Learner, alone: bool) -> Iterator[None]:
    """Epochs over all scans in our way."""
    epoch = 0
    while True:
        yield
        order = torch.randperm(len(learner.train.indices)).numpy()
        for step in learner.updates:
            batches = [order[start:end] for start, end in step]
            if not alone:
                learner.update(batches)
                continue
            for positions in batches:
                images, _ = learner.train.batch(positions)
                chance = torch.Generator().manual_seed(epoch)
                learner.normalized(learner.augment(images, chance).images)
        epoch += 1
        yield


def theirs(batches: Callable[[], Batches], experiment: Experiment, alone: bool) -> Iterator[None]:
    """Epochs over all scans with a loader of theirs and a hand-written step."""
    model = network.assemble(experiment.network, network.input_shape(experiment), 2, seed=0)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.001)
    loss_of = nn.CrossEntropyLoss()
    while True:
        yield
        for images, target in batches():
            images = images.contiguous(memory_format=torch.channels_last)
            if alone:
                continue
            optimizer.zero_grad(set_to_none=True)
            loss_of(model(images), target).backward()
            optimizer.step()
        yield


def torchvision_batches(scans: setting.Scans, batch_size: int) -> Callable[[], Batches]:
    """A DataLoader whose dataset varies one scan at a time with torchvision's v2 transforms."""
    from torchvision.transforms import v2

    vary = v2.Compose(
        [
            v2.RandomAffine(DEGREES, (SHIFT, SHIFT), ZOOM, interpolation=v2.InterpolationMode.BILINEAR),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.ColorJitter(brightness=BRIGHTNESS),
            v2.GaussianNoise(0.0, NOISE),
            v2.Normalize([0.5], [0.29]),
        ]
    )
    return _loader(scans, batch_size, vary, torch.utils.data.DataLoader)


def torchvision_steps(scans: setting.Scans, batch_size: int) -> Callable[[], Batches]:
    """The same with one transform for each thing, as tutorials have it: rotate, then crop and resize."""
    from torchvision.transforms import v2

    size = scans.made.images.shape[-1]
    vary = v2.Compose(
        [
            v2.RandomRotation(DEGREES, interpolation=v2.InterpolationMode.BILINEAR),
            v2.RandomHorizontalFlip(),
            v2.RandomResizedCrop(size, scale=(0.8, 1.0), ratio=(1.0, 1.0)),
            v2.ToDtype(torch.float32, scale=True),
            v2.ColorJitter(brightness=BRIGHTNESS),
            v2.GaussianNoise(0.0, NOISE),
            v2.Normalize([0.5], [0.29]),
        ]
    )
    return _loader(scans, batch_size, vary, torch.utils.data.DataLoader)


def _loader(
    scans: setting.Scans, batch_size: int, vary: Callable[[Tensor], Tensor], kind: Any
) -> Callable[[], Batches]:
    images, labels = torch.from_numpy(scans.made.images[:].copy()), torch.from_numpy(scans.labels)

    class Each(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
            return vary(images[index]), labels[index]

    loader = kind(Each(), batch_size=batch_size, shuffle=True)
    return lambda: loader


def kornia_batches(scans: setting.Scans, batch_size: int) -> Callable[[], Batches]:
    """Batches varied as a whole with kornia, as its documentation has it."""
    import kornia.augmentation as k

    images, labels = torch.from_numpy(scans.made.images[:].copy()), torch.from_numpy(scans.labels)
    vary = k.AugmentationSequential(
        k.RandomAffine(DEGREES, (SHIFT, SHIFT), ZOOM, p=1.0),
        k.RandomHorizontalFlip(p=0.5),
        k.RandomBrightness((1 - BRIGHTNESS, 1 + BRIGHTNESS), p=1.0),
        k.RandomGaussianNoise(0.0, NOISE, p=1.0),
        data_keys=["input"],
    )
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), batch_size, shuffle=True)

    def batches() -> Batches:
        for stored, target in loader:
            yield (vary(stored.float() / 255) - 0.5) / 0.29, target

    return batches


def monai_batches(scans: setting.Scans, batch_size: int) -> Callable[[], Batches]:
    """MONAI's loader with its dictionary transforms."""
    from monai.data import DataLoader, Dataset
    from monai.transforms import (
        Compose,
        RandFlipd,
        RandGaussianNoised,
        RandRotated,
        RandShiftIntensityd,
        RandSpatialCropd,
        RandZoomd,
        Resized,
        ScaleIntensityRanged,
    )

    size = scans.made.images.shape[-1]
    radians = DEGREES * 3.14159 / 180
    vary = Compose(
        [
            ScaleIntensityRanged("image", 0, 255, 0.0, 1.0),
            RandRotated("image", range_x=radians, prob=1.0, padding_mode="zeros"),
            RandFlipd("image", prob=0.5, spatial_axis=1),
            RandZoomd("image", prob=1.0, min_zoom=ZOOM[0], max_zoom=ZOOM[1]),
            RandSpatialCropd("image", [int(size * (1 - SHIFT))] * 2, random_size=False),
            Resized("image", [size, size], mode="bilinear"),
            RandShiftIntensityd("image", BRIGHTNESS, prob=1.0),
            RandGaussianNoised("image", prob=1.0, std=NOISE),
        ]
    )
    records = [
        {"image": image, "label": int(label)} for image, label in zip(scans.made.images[:], scans.labels, strict=True)
    ]
    loader = DataLoader(Dataset(records, vary), batch_size=batch_size, shuffle=True, num_workers=0)

    def batches() -> Batches:
        for record in loader:
            yield (record["image"].as_tensor() - 0.5) / 0.29, record["label"]

    return batches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--count", type=int, default=256)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    batch_size = 32
    found: dict[str, Any] = {}
    peers = {
        "torchvision v2, one affine": torchvision_batches,
        "torchvision v2, a transform for each": torchvision_steps,
        "MONAI, dictionary transforms": monai_batches,
    }
    if importlib.util.find_spec("kornia") is not None:
        peers["kornia, whole batches"] = kornia_batches
    with tempfile.TemporaryDirectory() as folder:
        for name, size_px in (("light", 64), ("tiny-cnn", 64), ("small-cnn", 28)):
            scans = setting.Scans(Path(folder) / f"{size_px}", chosen.count, size_px)
            wanted: dict[str, Any] = {"augment": CHOICES, "epochs": 1000, "batch_size": batch_size}
            experiment = setting.light(**wanted) if name == "light" else setting.starter(name, **wanted)
            for alone in (False,) if name == "tiny-cnn" else (False, True):
                learner = Learner(
                    experiment,
                    find("recognition"),
                    scans,  # type: ignore[arg-type]
                    scans.made,
                    Path(folder) / "run",
                    torch.device("cpu"),
                )
                sides = {"ours": ours(learner, alone)}
                sides |= {peer: theirs(build(scans, batch_size), experiment, alone) for peer, build in peers.items()}
                seconds = setting.interleaved(sides, chosen.repetitions)
                what = "scans alone" if alone else f"training {name}"
                found[f"{what}, {size_px} px, batches of {batch_size}"] = {
                    peer: setting.compared(seconds[peer], seconds["ours"], chosen.count) for peer in peers
                }
    promise = "light network and scans alone: >= 3 against torchvision, >= 5 against MONAI"
    setting.report("augmentation", {"promise": promise, "repetitions": chosen.repetitions, "found": found})


if __name__ == "__main__":
    main()
