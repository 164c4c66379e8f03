"""What holds the layers of a network together."""

from collections.abc import Iterable
from typing import Self

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase


class PerItem(nn.Module):
    """One layer for every slice of a series, or step of a sequence: (B, T, ...) -> (B, T, ...), weights shared.

    A batch norm inside takes its statistics over all items of the batch.
    """

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        steps = inputs[0].shape[1]
        out = self.layer(*[x.flatten(0, 1) for x in inputs])
        if isinstance(out, tuple):
            return tuple(y.unflatten(0, (-1, steps)) for y in out)
        return out.unflatten(0, (-1, steps))


class Network(nn.Module):
    """Layers wired as a graph without loops, run in order.

    Args:
        layers: modules by id, each after those that feed it; one that returns a tuple has taps.
        wires: what feeds each: "input" (the scan), an id (its last tap), or "id:2" (its second tap).
    Input shape: (B, ...) as planned. Output: of the last layer.
    """

    def __init__(self, layers: dict[str, nn.Module], wires: dict[str, tuple[str, ...]]):
        super().__init__()
        self.layers = nn.ModuleDict(layers)
        self.wires = wires
        self._feeds = {
            id: [(source, int(tap or 0) - 1) for source, _, tap in (wire.partition(":") for wire in sources)]
            for id, sources in wires.items()
        }
        last_use = {source: id for id, feeds in self._feeds.items() for source, _ in feeds}
        self._done_after = {id: [s for s, user in last_use.items() if user == id] for id in layers}
        self.still: tuple[str, ...] = ()

    def hold(self, ids: Iterable[str]) -> None:
        """Keeps these layers as they are: their weights do not learn, nor do the statistics of their norms."""
        self.still = tuple(ids)
        for id in self.still:
            self.layers[id].requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Sets all to training, or to use; norms of what is held are in use always."""
        super().train(mode)
        for id in self.still:
            for part in self.layers[id].modules():
                if isinstance(part, _NormBase):
                    part.eval()
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: dict[str, tuple[torch.Tensor, ...]] = {"input": (x,)}
        out = found["input"]
        for id, layer in self.layers.items():
            y = layer(*[found[source][tap] for source, tap in self._feeds[id]])
            out = y if isinstance(y, tuple) else (y,)
            for source in self._done_after[id]:  # frees memory in use; training keeps what it needs for the way back
                del found[source]
            found[id] = out
        return out[-1]
