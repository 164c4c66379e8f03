"""At which step, on which batch and in which layer numbers stopped being finite, found out without waiting for a GPU.

On a processor each step is looked at when it is done. A graphics card computes ahead, and asking it at each step would
cost speed: so it notes by itself when something went wrong first, and is asked a few times a second.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

__all__ = ["Tripped", "Tripwire"]

_KEPT = 4096  # batches that are remembered; between two looks a network does far fewer steps


@dataclass(frozen=True)
class Tripped:
    """Where it happened. `parameter`: the one nearest to the output whose gradient is not finite, "" where all are not
    (then the loss was not, either) or none is. `batch`: positions of its scans."""

    step: int
    epoch: int
    parameter: str
    batch: np.ndarray


class Tripwire:
    """Watches the lengths of all gradients and the sum of the losses, step by step.

    Args:
        parameters: (name, parameter) of all that is learned, in the network's order. device: where they are.
    """

    def __init__(self, parameters: Sequence[tuple[str, Tensor]], device: torch.device) -> None:
        self.parameters = list(parameters)
        self._zero = torch.zeros((), device=device)
        self._at = torch.zeros((), dtype=torch.int64, device=device)
        self._lengths = torch.zeros(len(self.parameters), device=device)
        self._batches: deque[tuple[int, int, np.ndarray]] = deque(maxlen=_KEPT)

    @torch.no_grad()
    def note(self, step: int, epoch: int, batch: np.ndarray, loss_sum: Tensor) -> Tensor:
        """Notes optimizer step `step` (from 1) with its gradients there; returns their length, () float.

        The length is `nn.utils.get_total_norm` of the same gradients, which are gone through once for both.
        """
        self._batches.append((step, epoch, batch))
        there = [k for k, (_, p) in enumerate(self.parameters) if p.grad is not None]
        lengths = [self._zero] * len(self.parameters)
        grads = [p.grad for _, p in self.parameters if p.grad is not None]
        for k, length in zip(there, torch._foreach_norm(grads) if grads else (), strict=True):
            lengths[k] = length
        total = torch.linalg.vector_norm(torch.stack([lengths[k] for k in there])) if there else self._zero
        wild = ~(total.isfinite() & loss_sum.isfinite())
        self._lengths = torch.where(self._at == 0, torch.stack([length.float() for length in lengths]), self._lengths)
        self._at = torch.where((self._at == 0) & wild, step, self._at)
        return total

    def tripped(self) -> Tripped | None:
        """What went wrong first; None where nothing has. This waits for the device."""
        at = int(self._at)
        if not at:
            return None
        finite = self._lengths.isfinite().tolist()
        wild = [name for (name, _), fine in zip(self.parameters, finite, strict=True) if not fine]
        named = wild[-1] if wild and len(wild) < len(finite) else ""
        epoch, batch = next(((e, b) for s, e, b in self._batches if s == at), (0, np.zeros(0, np.int64)))
        return Tripped(at, epoch, named, batch)
