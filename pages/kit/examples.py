"""A real scan of the chosen data set as the network will see it: what the preparation does, before any training."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from builder.data import Dataset, Summary, UnusableScan, prepare
from builder.execute import home
from builder.spec import Data

__all__ = ["Example", "example", "picture"]


@dataclass(frozen=True)
class Example:
    """A prepared training scan.

    Attributes:
        image: uint8 (H, W) or (H, W, 3). before: size of the scan as it was read, in words. label: its class or "".
        index: position in the data set. problem: why there is no image, in words.
    """

    image: np.ndarray | None
    before: str
    label: str
    index: int
    problem: str = ""


def picture(values: np.ndarray) -> np.ndarray:
    """Turns (C, H, W) float in [0, 1] into uint8 (H, W) for one channel or (H, W, 3) for three."""
    scaled = (np.clip(values, 0, 1) * 255).round().astype(np.uint8)
    return scaled[0] if scaled.shape[0] == 1 else np.moveaxis(scaled, 0, 2)


def example(summary: Summary, data: Data, number: int) -> Example | None:
    """Prepares training scan `number` (counted round and round); None where the data set has no training scan."""
    return _example(summary.id, summary.changed, data.model_dump_json(), number)


@lru_cache(maxsize=64)
def _example(dataset: str, _changed: float, data_json: str, number: int) -> Example | None:
    opened = Dataset.open(home(), dataset)
    chosen = opened.indices("train")
    if not len(chosen):
        return None
    # 7919 is prime: neighbours in the import are often one patient, a big stride shows different ones.
    index = int(chosen[(number * 7919) % len(chosen)])
    case = opened.cases[index]
    before = _size(case.shape)
    label = _label(opened.classes, case.label)
    try:
        prepared = prepare(opened.scan(index), Data.model_validate_json(data_json))
    except (UnusableScan, ValueError) as error:
        return Example(None, before, label, index, str(error))
    return Example(picture(prepared), before, label, index)


def _size(shape: tuple[int, int, int, int]) -> str:
    slices, channels, height, width = shape
    kind = "colour" if channels == 3 else "grey"
    return f"{width} x {height} px, {kind}" + (f", {slices} slices" if slices > 1 else "")


def _label(classes: tuple[str, ...], label: Any) -> str:
    if label is None:
        return ""
    return ", ".join(classes[k] for k in label) if isinstance(label, tuple) else classes[label]
