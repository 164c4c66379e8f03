"""How the weights move: the optimizer and its learning rate over time, built from the catalog's choices."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from builder import schedule
from builder.parts.training import OPTIMIZERS, SCHEDULES
from builder.schedule import Plateau
from builder.spec import Choice

_FUSED = ("sgd", "momentum", "adam", "adamw")  # all arithmetic of a step in one kernel, on CPU and GPU alike


def weights(model: nn.Module) -> list[Tensor]:
    """The parameters that L1 and L2 penalties act on: matrices and filters, not biases and scales of norms."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad and parameter.ndim > 1]


def optimizer(choice: Choice, model: nn.Module, l2: float) -> torch.optim.Optimizer:
    """The chosen optimizer over what `model` learns; `l2` is its weight decay, on `weights` only.

    Raises:
        UnknownPart, ValueError: in words, for an unknown optimizer or setting.
    """
    part = OPTIMIZERS[choice.name]
    penalized = weights(model)
    ids = {id(parameter) for parameter in penalized}
    others = [parameter for parameter in model.parameters() if parameter.requires_grad and id(parameter) not in ids]
    groups = [{"params": penalized, "weight_decay": l2}, {"params": others, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise ValueError(
            "The network has nothing to learn: add a layer with weights, such as a convolution or a linear layer."
        )
    fused = {"fused": True} if choice.name in _FUSED else {}
    built: torch.optim.Optimizer = part.load()(groups, **settings(part, choice), **fused)
    return built


def settings(part: Any, choice: Choice) -> dict[str, Any]:
    """The settings of a choice with the catalog's defaults filled in; raises UnknownPart or ValueError in words."""
    for name in choice.params:
        part.param(name)
    return {domain.name: domain.parse(choice.params.get(domain.name, domain.default)) for domain in part.params}


class Schedule:
    """The learning rate over the optimizer steps of a whole run, by the formulas of `builder.schedule`.

    Every schedule is a pure function of the step, so it has nothing to remember and cannot drift; only "plateau" keeps
    the best validation loss and how long ago it was.

    Args:
        choice: a schedule of `parts.training.SCHEDULES`. optimizer: whose rate it moves; the rate at hand is the full
            one. steps_per_epoch: optimizer steps. epochs: of the whole run.
    """

    def __init__(self, choice: Choice, optimizer: torch.optim.Optimizer, steps_per_epoch: int, epochs: int) -> None:
        chosen = settings(SCHEDULES[choice.name], choice)
        self.choice = Choice(name=choice.name, params=chosen)
        self.optimizer, self.steps_per_epoch, self.epochs = optimizer, steps_per_epoch, epochs
        self.full = [float(group["lr"]) for group in optimizer.param_groups]
        self.plateau = Plateau(**chosen) if choice.name == "plateau" else None

    def set_rate(self, step: int) -> float:
        """Set the rate for optimizer step `step` (from 0); returns it."""
        factor = self.factor(step)
        for group, full in zip(self.optimizer.param_groups, self.full, strict=True):
            group["lr"] = full * factor
        return self.full[0] * factor

    def factor(self, step: int) -> float:
        """The share of the full rate at optimizer step `step` (from 0)."""
        if self.plateau is not None:
            return self.plateau.level
        return schedule.factor(self.choice, step, self.epochs, self.steps_per_epoch)

    def epoch_ended(self, loss: float) -> None:
        """Tell it the validation loss of the epoch; "plateau" lowers the rate after too many without a better one."""
        if self.plateau is not None:
            self.plateau.after(loss)

    def state(self) -> dict[str, float]:
        """What a checkpoint must hold."""
        return self.plateau.state() if self.plateau is not None else {}

    def restore(self, state: dict[str, float]) -> None:
        """Go on from `state()`."""
        if self.plateau is not None:
            self.plateau.restore(state)
