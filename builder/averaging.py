"""Averages of the weights over the steps of a training: calmer than the last ones, so they are judged and kept.

The arithmetic and the copy are `torch.optim.swa_utils.AveragedModel`; here is when it is fed, and what becomes of the
statistics that batch normalization keeps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, get_swa_multi_avg_fn

from builder.parts.training import AVERAGES
from builder.schedule import swa_begins
from builder.spec import Choice

__all__ = ["Average", "Ema", "Swa", "average"]


class Average(ABC):
    """A second set of weights beside those of `model`.

    `told` is called after every optimizer step; `ready` says whether the average stands for the run by now; `measure`
    brings its batch normalization up to date before it is judged.
    """

    copy: AveragedModel

    @abstractmethod
    def told(self, model: nn.Module, epoch: int, last_of_epoch: bool) -> None:
        """Takes in the weights after an optimizer step of `epoch` (from 1)."""

    @property
    def ready(self) -> bool:
        """Whether there is an average to be judged, kept and used instead of the weights themselves."""
        return int(self.copy.n_averaged) > 0

    @abstractmethod
    def measure(self, batches: Iterable[Tensor]) -> None:
        """Brings what must be measured on scans up to date.

        Args:
            batches: training scans, normalized (B, ...); only asked for where something is measured.
        """

    def state(self) -> dict[str, Any]:
        """What `restore` needs to go on exactly here."""
        return self.copy.state_dict()

    def restore(self, state: dict[str, Any]) -> None:
        """Goes back to a saved state."""
        self.copy.load_state_dict(state)


class Ema(Average):
    """The exponential moving average: after each step, average = d * average + (1 - d) * weights.

    d rises from 0.1 to `decay` as (1 + n) / (10 + n) after n steps, as TensorFlow's does: a short training is not held
    back by its random start. The statistics of batch normalization are averaged in the same way.
    """

    def __init__(self, model: nn.Module, epochs: int, decay: float) -> None:
        self.decay = decay
        self.copy = AveragedModel(model, multi_avg_fn=self._mix, use_buffers=True).eval().requires_grad_(False)

    @torch.no_grad()
    def _mix(self, ours: Any, theirs: Any, _: Any) -> None:
        count = int(self.copy.n_averaged)  # it lives on the CPU: no waiting for a GPU
        kept = min(self.decay, (1 + count) / (10 + count))
        if ours[0].is_floating_point():
            torch._foreach_lerp_(ours, theirs, 1 - kept)
        else:
            torch._foreach_copy_(ours, theirs)  # counters

    def told(self, model: nn.Module, epoch: int, last_of_epoch: bool) -> None:
        """See `Average`."""
        self.copy.update_parameters(model)

    def measure(self, batches: Iterable[Tensor]) -> None:
        """Nothing: its statistics were averaged along."""


class Swa(Average):
    """Stochastic weight averaging: the plain mean of the weights at the end of each of the last epochs.

    The statistics of batch normalization belong to other weights: they are measured anew on the training scans.
    """

    def __init__(self, model: nn.Module, epochs: int, start_share: float, rate: float) -> None:
        self.begins = swa_begins(Choice(name="swa", params={"start_share": start_share, "rate": rate}), epochs)
        self.copy = AveragedModel(model, multi_avg_fn=get_swa_multi_avg_fn()).eval().requires_grad_(False)

    def told(self, model: nn.Module, epoch: int, last_of_epoch: bool) -> None:
        """See `Average`."""
        if last_of_epoch and epoch > self.begins:
            self.copy.update_parameters(model)

    def measure(self, batches: Iterable[Tensor]) -> None:
        """See `Average`.

        As `torch.optim.swa_utils.update_bn`, which would also reset layers that are kept as they were stored.
        """
        model = self.copy.module.train()
        norms = [part for part in model.modules() if isinstance(part, _BatchNorm) and part.training]
        usual = [part.momentum for part in norms]
        for part in norms:
            part.reset_running_stats()
            part.momentum = None  # the plain mean over all batches
        if norms:
            with torch.no_grad():
                for batch in batches:
                    model(batch)
        for part, momentum in zip(norms, usual, strict=True):
            part.momentum = momentum
        model.eval()


def average(choice: Choice, model: nn.Module, epochs: int) -> Average | None:
    """The chosen average of what `model` learns in `epochs`; None where none is chosen. UnknownPart in words."""
    part = AVERAGES[choice.name]
    if not part.target:
        return None
    chosen = {domain.name: domain.parse(choice.params.get(domain.name, domain.default)) for domain in part.params}
    made: Average = part.load()(model, epochs, **chosen)
    return made
