"""Augmentation operation by operation: ours against torchvision v2, MONAI and kornia, on the same batch, on the CPU.

    python benchmarks/augmentation_operations.py [--repetitions 7] [--size 128] [--batch 32]

A batch of grey pictures lies in memory as float; each side varies every picture by amounts of its own, with the same
ranges and a probability of 1. torchvision v2 and MONAI draw one amount a call, so they are called picture by picture,
as in their loaders; kornia and ours take the batch as it is. One process, one thread. kornia is no requirement of
ScanLoom: where it is not installed its column is left out (`pip install --target DIR --no-deps kornia kornia-rs`, and
PYTHONPATH).

No promise is made for single operations; the whole recipe (rotate, flip, zoom, shift, brightness, noise) is promised to
be the fastest of all.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import setting
import torch
from torch import Tensor

from builder.augment import Augment
from builder.parts.images import AUGMENTATIONS
from builder.spec import Choice

Vary = Callable[[Tensor], Any]
RECIPE = ("rotate", "flip_horizontal", "zoom", "shift", "brightness", "noise")
OPERATIONS = (*(name for name in AUGMENTATIONS if name != "colour"), "recipe")


def ours(name: str) -> Vary:
    """Our operation, or the recipe."""
    chosen = RECIPE if name == "recipe" else (name,)
    params = [
        {**AUGMENTATIONS[n].defaults, "probability": 0.5 if n == "flip_horizontal" and name == "recipe" else 1.0}
        for n in chosen
    ]
    augment = Augment([Choice(name=n, params=p) for n, p in zip(chosen, params, strict=True)])
    chance = torch.Generator().manual_seed(0)
    if name in ("mixup", "cutmix"):
        return lambda batch: augment.mixed(batch, chance)
    return lambda batch: augment(batch, chance).images


def _settings(name: str) -> dict[str, Any]:
    return AUGMENTATIONS[name].defaults


def _each(transform: Callable[[Tensor], Any]) -> Vary:
    return lambda batch: torch.stack([torch.as_tensor(transform(picture)) for picture in batch])


def torchvision_v2(name: str, size: int) -> Vary | None:
    """The nearest thing in torchvision's v2 transforms; None where it has none."""
    from torchvision.transforms import v2

    linear = v2.InterpolationMode.BILINEAR
    if name in ("mixup", "cutmix"):
        kind = v2.MixUp if name == "mixup" else v2.CutMix
        mix, labels = kind(num_classes=2, alpha=_settings(name)["strength"]), None

        def mixed(batch: Tensor) -> Any:
            nonlocal labels
            labels = torch.zeros(len(batch), dtype=torch.int64) if labels is None else labels
            return mix(batch, labels)

        return mixed
    s = {n: _settings(n) for n in AUGMENTATIONS}
    found = {
        "rotate": lambda: v2.RandomRotation(s["rotate"]["degrees"], interpolation=linear),
        "flip_horizontal": lambda: v2.RandomHorizontalFlip(1.0),
        "flip_vertical": lambda: v2.RandomVerticalFlip(1.0),
        "zoom": lambda: v2.RandomAffine(0, scale=(s["zoom"]["low"], s["zoom"]["high"]), interpolation=linear),
        "shift": lambda: v2.RandomAffine(0, translate=(s["shift"]["fraction"],) * 2, interpolation=linear),
        "shear": lambda: v2.RandomAffine(0, shear=s["shear"]["degrees"], interpolation=linear),
        "elastic": lambda: v2.ElasticTransform(50.0, 5.0, interpolation=linear),
        "noise": lambda: v2.GaussianNoise(0.0, s["noise"]["sigma"]),
        "brightness": lambda: v2.ColorJitter(brightness=s["brightness"]["amount"]),
        "contrast": lambda: v2.ColorJitter(contrast=s["contrast"]["amount"]),
        "blur": lambda: v2.GaussianBlur(2 * math.ceil(3 * s["blur"]["sigma_px"]) + 1, (0.01, s["blur"]["sigma_px"])),
        "cutout": lambda: v2.RandomErasing(1.0, (0.01, s["cutout"]["size"] ** 2), value=0.5),
        "recipe": lambda: v2.Compose(
            [
                v2.RandomAffine(
                    s["rotate"]["degrees"],
                    (s["shift"]["fraction"],) * 2,
                    (s["zoom"]["low"], s["zoom"]["high"]),
                    interpolation=linear,
                ),
                v2.RandomHorizontalFlip(),
                v2.ColorJitter(brightness=s["brightness"]["amount"]),
                v2.GaussianNoise(0.0, s["noise"]["sigma"]),
            ]
        ),
    }
    return _each(found[name]()) if name in found else None


def monai(name: str, size: int) -> Vary | None:
    """The nearest thing in MONAI's transforms; None where it has none."""
    from monai import transforms as m

    s = {n: _settings(n) for n in AUGMENTATIONS}
    radians = math.radians(s["rotate"]["degrees"])
    affine = {"prob": 1.0, "padding_mode": "zeros", "mode": "bilinear"}
    found = {
        "rotate": lambda: m.RandRotate(range_x=radians, prob=1.0, padding_mode="zeros"),
        "flip_horizontal": lambda: m.RandFlip(1.0, 1),
        "flip_vertical": lambda: m.RandFlip(1.0, 0),
        "zoom": lambda: m.RandZoom(1.0, s["zoom"]["low"], s["zoom"]["high"]),
        "shift": lambda: m.RandAffine(translate_range=s["shift"]["fraction"] * size, **affine),
        "shear": lambda: m.RandAffine(shear_range=math.tan(math.radians(s["shear"]["degrees"])), **affine),
        "elastic": lambda: m.Rand2DElastic((size * 0.25,) * 2, (0, 5), prob=1.0, padding_mode="zeros"),
        "noise": lambda: m.RandGaussianNoise(1.0, std=s["noise"]["sigma"]),
        "brightness": lambda: m.RandShiftIntensity(s["brightness"]["amount"], prob=1.0),
        "contrast": lambda: m.RandScaleIntensity(s["contrast"]["amount"], prob=1.0),
        "gamma": lambda: m.RandAdjustContrast(1.0, (1 - s["gamma"]["amount"], 1 + s["gamma"]["amount"])),
        "blur": lambda: m.RandGaussianSmooth(*([(0.01, s["blur"]["sigma_px"])] * 3), prob=1.0),
        "bias_field": lambda: m.RandBiasField(3, (-0.3, 0.3), prob=1.0),
        "low_resolution": lambda: m.RandSimulateLowResolution(
            1.0, upsample_mode="bilinear", zoom_range=(1 / s["low_resolution"]["factor"], 1.0)
        ),
        "cutout": lambda: m.RandCoarseDropout(
            1, (int(0.06 * size),) * 2, max_holes=2, max_spatial_size=(int(s["cutout"]["size"] * size),) * 2, prob=1.0
        ),
        "recipe": lambda: m.Compose(
            [
                m.RandAffine(
                    rotate_range=radians,
                    translate_range=s["shift"]["fraction"] * size,
                    scale_range=0.1,
                    **affine,
                ),
                m.RandFlip(0.5, 1),
                m.RandShiftIntensity(s["brightness"]["amount"], prob=1.0),
                m.RandGaussianNoise(1.0, std=s["noise"]["sigma"]),
            ]
        ),
    }
    return _each(found[name]()) if name in found else None


def kornia(name: str, size: int) -> Vary | None:
    """The nearest thing in kornia's batched augmentations; None where it has none, or where it is not installed."""
    if importlib.util.find_spec("kornia") is None:
        return None
    import kornia.augmentation as k

    s = {n: _settings(n) for n in AUGMENTATIONS}
    light = s["brightness"]["amount"]
    if name in ("mixup", "cutmix"):
        mix = k.RandomMixUpV2(p=1.0) if name == "mixup" else k.RandomCutMixV2(p=1.0)
        return lambda batch: mix(batch, torch.zeros(len(batch), dtype=torch.int64))
    found = {
        "rotate": lambda: k.RandomRotation(s["rotate"]["degrees"], p=1.0),
        "flip_horizontal": lambda: k.RandomHorizontalFlip(p=1.0),
        "flip_vertical": lambda: k.RandomVerticalFlip(p=1.0),
        "zoom": lambda: k.RandomAffine(0.0, scale=(s["zoom"]["low"], s["zoom"]["high"]), p=1.0),
        "shift": lambda: k.RandomAffine(0.0, translate=(s["shift"]["fraction"],) * 2, p=1.0),
        "shear": lambda: k.RandomAffine(0.0, shear=s["shear"]["degrees"], p=1.0),
        "elastic": lambda: k.RandomElasticTransform((31, 31), (5.0, 5.0), p=1.0),
        "noise": lambda: k.RandomGaussianNoise(0.0, s["noise"]["sigma"], p=1.0),
        "brightness": lambda: k.RandomBrightness((1 - light, 1 + light), p=1.0),
        "contrast": lambda: k.RandomContrast((1 - s["contrast"]["amount"], 1 + s["contrast"]["amount"]), p=1.0),
        "gamma": lambda: k.RandomGamma((1 - s["gamma"]["amount"], 1 + s["gamma"]["amount"]), p=1.0),
        "blur": lambda: k.RandomGaussianBlur((7, 7), (0.01, s["blur"]["sigma_px"]), p=1.0),
        "cutout": lambda: k.RandomErasing((0.01, s["cutout"]["size"] ** 2), value=0.5, p=1.0),
        "recipe": lambda: k.AugmentationSequential(
            k.RandomAffine(
                s["rotate"]["degrees"], (s["shift"]["fraction"],) * 2, (s["zoom"]["low"], s["zoom"]["high"]), p=1.0
            ),
            k.RandomHorizontalFlip(p=0.5),
            k.RandomBrightness((1 - light, 1 + light), p=1.0),
            k.RandomGaussianNoise(0.0, s["noise"]["sigma"], p=1.0),
            data_keys=["input"],
        ),
    }
    return found[name]() if name in found else None


def side(vary: Vary, batch: Tensor) -> Iterator[None]:
    """Varies the batch over and over, four times a turn."""
    while True:
        yield
        with torch.inference_mode():
            for _ in range(4):
                vary(batch)
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    batch = torch.rand(chosen.batch, 1, chosen.size, chosen.size)
    peers = {"torchvision v2": torchvision_v2, "MONAI": monai, "kornia": kornia}
    table: dict[str, Any] = {}
    for name in OPERATIONS:
        sides = {"ours": ours(name)}
        sides |= {peer: found for peer, build in peers.items() if (found := build(name, chosen.size)) is not None}
        seconds = setting.interleaved({n: side(vary, batch) for n, vary in sides.items()}, chosen.repetitions)
        row = {
            n: round(1000 * statistics.median(s.cpu for s in took) / 4 / chosen.batch, 4) for n, took in seconds.items()
        }
        ratios = {
            n: round(statistics.median(t.cpu / o.cpu for t, o in zip(seconds[n], seconds["ours"], strict=True)), 2)
            for n in row
            if n != "ours"
        }
        table[name] = {"ms_a_scan": row, "times_ours": ratios}
    setting.report(
        "augmentation_operations",
        {
            "what": f"batches of {chosen.batch} grey pictures of {chosen.size} px, each varied; processor time",
            "repetitions": chosen.repetitions,
            "promise": "the recipe: faster than every peer",
            "found": table,
        },
    )


if __name__ == "__main__":
    main()
