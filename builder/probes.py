"""What a run's probes come to: for each layer a row of numbers over the steps at which somebody looked."""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["MEASURES", "Measure", "Probes"]


@dataclass(frozen=True)
class Measure:
    """One number that is told of a layer. `log`: its size is told by powers of ten. `share`: it lies in 0..1."""

    title: str
    help: str
    log: bool = False
    share: bool = False


MEASURES: dict[str, Measure] = {
    "gradient": Measure(
        "Gradient of the weights",
        "Length of the loss's gradient by the layer's weights, before any clipping: how loudly the layer is told what "
        "to do better.",
        log=True,
    ),
    "update": Measure(
        "Step of the weights",
        "How far the optimizer moved the layer's weights in one step, as a share of their own length. About a "
        "thousandth is usual once learning is under way.",
        log=True,
    ),
    "dead": Measure(
        "Dead units",
        "Share of the channels behind a ReLU that gave nothing but zeros in the last batches looked at: they learn "
        "nothing any more.",
        share=True,
    ),
    "saturated": Measure(
        "Saturated values",
        "Share of what comes out of a sigmoid or tanh that lies at its flat ends, where no gradient passes.",
        share=True,
    ),
    "std": Measure("Spread of what comes out", "Standard deviation of the layer's output over a batch.", log=True),
    "mean": Measure("Mean of what comes out", "Mean of the layer's output over a batch."),
    "flow": Measure(
        "Gradient that flows back",
        "Length of the loss's gradient by the layer's output, also for layers without weights.",
        log=True,
    ),
    "reach": Measure(
        "Gradient through time",
        "Of recurrent layers: the gradient at the first step as a share of that at the last one. Far below 1 the layer "
        "forgets, far above 1 it explodes.",
        log=True,
    ),
}
"""Measures by name, in the order in which they are offered."""


@dataclass
class Probes:
    """All probes of a run, layer by layer.

    Attributes:
        steps: optimizer steps (counted from 1) that were looked at, rising. epochs: the epoch of each.
        layers: {node id: {measure: one number for each of `steps`, NaN where it was not told}}, in the network's order.
    """

    steps: list[int] = field(default_factory=list)
    epochs: list[int] = field(default_factory=list)
    layers: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def add(self, step: int, epoch: int, layers: Mapping[str, Mapping[str, float]]) -> None:
        """Adds one look; an earlier step than the last is a repetition and changes nothing."""
        if self.steps and step <= self.steps[-1]:
            return
        before = len(self.steps)
        self.steps.append(step)
        self.epochs.append(epoch)
        for id, numbers in layers.items():
            rows = self.layers.setdefault(id, {})
            for name, value in numbers.items():
                rows.setdefault(name, [math.nan] * before).append(value)
        for rows in self.layers.values():
            for row in rows.values():
                if len(row) == before:
                    row.append(math.nan)

    def until(self, step: int) -> Probes:
        """What was known after optimizer step `step`, as lists of its own."""
        cut = bisect.bisect_right(self.steps, step)
        layers = {id: {name: row[:cut] for name, row in rows.items()} for id, rows in self.layers.items()}
        return Probes(self.steps[:cut], self.epochs[:cut], layers)

    def row(self, id: str, measure: str) -> list[float]:
        """One number for each of `steps`; [] where the measure was never told of this layer."""
        return self.layers.get(id, {}).get(measure, [])

    def known(self, measure: str) -> list[str]:
        """The layers of which a measure was told, in the network's order."""
        return [id for id, rows in self.layers.items() if any(not math.isnan(v) for v in rows.get(measure, ()))]

    def last(self, id: str, measure: str, num: int = 1) -> list[float]:
        """The newest `num` numbers that are known, the newest last."""
        return [v for v in self.row(id, measure) if not math.isnan(v)][-num:]


def thinned(steps: Sequence[int], num: int) -> list[int]:
    """Positions of at most `num` of the steps, first and last among them, spread evenly."""
    count = len(steps)
    if count <= num:
        return list(range(count))
    return sorted({round(k * (count - 1) / (num - 1)) for k in range(num)})
