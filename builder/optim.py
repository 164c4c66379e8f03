"""How the weights move: the optimizer and its learning rate over time, built from the catalog's choices."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from builder.parts.training import OPTIMIZERS, SCHEDULES
from builder.spec import Choice

_FINAL_DIVISOR = 1e4  # one-cycle ends at its start rate divided by this (Smith 2018; torch's default)
_FUSED = ("sgd", "momentum", "adam", "adamw")  # all arithmetic of a step in one kernel, on CPU and GPU alike
_GAIN = 1e-4  # a validation loss counts as better when it is lower by this share (torch's default)


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
    """The learning rate over the optimizer steps of a whole run.

    Every schedule is a pure function of the step, so it has nothing to remember and cannot drift; only "plateau" keeps
    the best validation loss and how long ago it was.

    Args:
        choice: a schedule of `parts.training.SCHEDULES`. optimizer: whose rate it moves; the rate at hand is the full
            one. steps_per_epoch: optimizer steps. epochs: of the whole run.
    """

    def __init__(self, choice: Choice, optimizer: torch.optim.Optimizer, steps_per_epoch: int, epochs: int) -> None:
        self.name = choice.name
        self.settings = settings(SCHEDULES[choice.name], choice)
        self.optimizer = optimizer
        self.steps_per_epoch, self.steps = steps_per_epoch, steps_per_epoch * epochs
        self.full = [float(group["lr"]) for group in optimizer.param_groups]
        self.level, self.best, self.waited = 1.0, math.inf, 0

    def set_rate(self, step: int) -> float:
        """Set the rate for optimizer step `step` (from 0); returns it."""
        factor = self.factor(step)
        for group, full in zip(self.optimizer.param_groups, self.full, strict=True):
            group["lr"] = full * factor
        return self.full[0] * factor

    def factor(self, step: int) -> float:
        """The share of the full rate at optimizer step `step` (from 0)."""
        s = self.settings
        if self.name == "step":
            return float(s["factor"] ** (step // self.steps_per_epoch // s["every_epochs"]))
        if self.name == "cosine":
            warmup = s["warmup_epochs"] * self.steps_per_epoch
            if step < warmup:
                return (step + 1) / warmup
            return _fall(1.0, s["final_fraction"], (step - warmup) / max(1, self.steps - warmup))
        if self.name == "one_cycle":
            start, top = 1 / s["start_divisor"], s["rise_fraction"] * self.steps - 1
            if step <= top:
                return _fall(start, 1.0, step / top if top else 1.0)
            return _fall(1.0, start / _FINAL_DIVISOR, (step - top) / max(1e-9, self.steps - 1 - top))
        return self.level

    def epoch_ended(self, loss: float) -> None:
        """Tell it the validation loss of the epoch; "plateau" lowers the rate after too many without a better one."""
        if self.name != "plateau":
            return
        if loss < self.best * (1 - _GAIN):
            self.best, self.waited = loss, 0
        else:
            self.waited += 1
        if self.waited > self.settings["wait_epochs"]:
            self.level, self.waited = self.level * self.settings["factor"], 0

    def state(self) -> dict[str, float]:
        """What a checkpoint must hold."""
        return {"level": self.level, "best": self.best, "waited": self.waited}

    def restore(self, state: Mapping[str, float]) -> None:
        """Go on from `state()`."""
        self.level, self.best, self.waited = state["level"], state["best"], int(state["waited"])


def _fall(start: float, end: float, share: float) -> float:
    """Half a cosine from `start` (share 0) to `end` (share 1)."""
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, share))) / 2
