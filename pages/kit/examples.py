"""A real scan of the chosen data set as the network will see it: what the preparation does, before any training."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from builder import voxels
from builder.data import Dataset, Summary, UnusableScan, chosen, prepare
from builder.execute import home
from builder.spec import Data

__all__ = ["Example", "example", "label_words", "picture"]


@dataclass(frozen=True)
class Example:
    """A prepared training scan.

    Attributes:
        pictures: uint8 (H, W) or (H, W, 3) each: one, or the slices of a series or volume in order; () where there is
            none. slices: which slices of the scan they are, counted from 1 (0: a black one); () for one picture.
        before: size of the scan as it was read, in words. label: its class or "".
        index: position in the data set. problem: why there is no picture, in words.
        after: size of a volume that was brought to another grid before patches are cut out of it, in words; else "".
    """

    pictures: tuple[np.ndarray, ...]
    before: str
    label: str
    index: int
    problem: str = ""
    slices: tuple[int, ...] = ()
    after: str = ""


def picture(values: np.ndarray) -> np.ndarray:
    """Turns (C, H, W) float in [0, 1] into uint8 (H, W) for one channel or (H, W, 3) for three."""
    scaled = (np.clip(values, 0, 1) * 255).round().astype(np.uint8)
    return scaled[0] if scaled.shape[0] == 1 else np.moveaxis(scaled, 0, 2)


def example(summary: Summary, data: Data, number: int) -> Example | None:
    """Prepares training scan `number` (counted round and round); None where the data set has no training scan."""
    return _example(summary.id, summary.changed, data.model_dump_json(), number)


@lru_cache(maxsize=16)
def _example(dataset: str, _changed: float, data_json: str, number: int) -> Example | None:
    opened = Dataset.open(home(), dataset)
    trained = opened.examples("train")
    if not len(trained):
        return None
    # 7919 is prime: neighbours in the import are often one patient, a big stride shows different ones.
    index = int(trained[(number * 7919) % len(trained)])
    case = opened.cases[index]
    before = _size(case.shape)
    label = label_words(opened.classes, case.label)
    try:
        data = Data.model_validate_json(data_json)
        prepared = prepare(opened.scan(index), data)
    except (UnusableScan, ValueError) as error:
        return Example((), before, label, index, str(error))
    if data.layout == "maps":
        return Example((picture(prepared),), before, label, index)
    slices = np.moveaxis(prepared, data.channel_axis, 1)
    if data.blocks:
        taken = voxels.seen(len(slices), case.shape[0])
        after = _size(slices.shape) if slices.shape[-2:] != case.shape[2:] or len(slices) != case.shape[0] else ""
        return Example(tuple(map(picture, slices)), before, label, index, slices=taken, after=after)
    taken = tuple(k + 1 for k in chosen(case.shape[0], data))
    return Example(tuple(map(picture, slices)), before, label, index, slices=taken)


def _size(shape: tuple[int, int, int, int]) -> str:
    slices, channels, height, width = shape
    kind = "colour" if channels == 3 else "grey"
    return f"{width} x {height} px, {kind}" + (f", {slices} slices" if slices > 1 else "")


def label_words(classes: tuple[str, ...], label: Any) -> str:
    """Returns a case's label, or labels, in words; "" where it has none."""
    if label is None:
        return ""
    return ", ".join(classes[k] for k in label) if isinstance(label, tuple) else classes[label]
