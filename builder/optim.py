"""How the weights move: the optimizer and its learning rate over time, built from the catalog's choices."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from builder import schedule
from builder.parts.training import OPTIMIZERS, SCHEDULES
from builder.schedule import LAST, Plateau
from builder.shares import Share, owner
from builder.spec import Choice

_FUSED = ("sgd", "momentum", "adam", "adamw")  # all arithmetic of a step in one kernel, on CPU and GPU alike


def weights(model: nn.Module) -> list[Tensor]:
    """The parameters that L1 and L2 penalties act on: matrices and filters, not biases and scales of norms."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad and parameter.ndim > 1]


def penalized(model: nn.Module, otherwise: Mapping[str, Share] = MappingProxyType({})) -> list[tuple[Tensor, float]]:
    """`weights`, each with what its L1 penalty is multiplied by; those that have none are left out."""
    found = [
        (parameter, otherwise.get(owner(name), Share()).l1)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.ndim > 1
    ]
    return [(parameter, times) for parameter, times in found if times]


def optimizer(
    choice: Choice, model: nn.Module, l2: float, otherwise: Mapping[str, Share] = MappingProxyType({})
) -> torch.optim.Optimizer:
    """The chosen optimizer over what `model` learns; `l2` is its weight decay, on `weights` only.

    Args:
        otherwise: {node id: how it learns} of the layers that learn otherwise than the rest.

    Raises:
        UnknownPart, ValueError: in words, for an unknown optimizer or setting.
    """
    part = OPTIMIZERS[choice.name]
    chosen = settings(part, choice)
    rest = Share()
    kinds: dict[tuple[float, float, bool], list[Tensor]] = {(1.0, 1.0, True): [], (1.0, 1.0, False): []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            share = otherwise.get(owner(name), rest)
            braked = parameter.ndim > 1
            kinds.setdefault((share.lr, share.l2 if braked else 1.0, braked), []).append(parameter)
    groups = [
        {"params": parameters, "lr": chosen["lr"] * lr, "weight_decay": l2 * times if braked else 0.0}
        for (lr, times, braked), parameters in kinds.items()
        if parameters
    ]
    if not any(group["lr"] for group in groups):
        raise ValueError(
            "The network has nothing to learn: it needs a layer with weights, such as a convolution or a linear layer, "
            "whose learning rate is above 0."
        )
    fused = {"fused": True} if choice.name in _FUSED else {}
    built: torch.optim.Optimizer = part.load()(groups, **part.arguments(chosen), **fused)
    return built


def named(built: torch.optim.Optimizer, model: nn.Module) -> list[str]:
    """Names of the parameters of `model` in the order in which the optimizer's state counts them, which groups decide;
    "" for one that does not learn."""
    names = {parameter: name if parameter.requires_grad else "" for name, parameter in model.named_parameters()}
    return [names[parameter] for group in built.param_groups for parameter in group["params"]]


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
        choice: a schedule of `parts.training.SCHEDULES`. optimizer: whose rate it moves; the rates at hand are the full
            ones. steps_per_epoch: optimizer steps. epochs: of the whole run. average: of the weights.
        full: the rate that is told to people: that of the layers that learn like most.
    """

    def __init__(
        self,
        choice: Choice,
        optimizer: torch.optim.Optimizer,
        steps_per_epoch: int,
        epochs: int,
        average: Choice = LAST,
        full: float = 0.0,
    ) -> None:
        chosen = settings(SCHEDULES[choice.name], choice)
        self.choice, self.average = Choice(name=choice.name, params=chosen), average
        self.optimizer, self.steps_per_epoch, self.epochs = optimizer, steps_per_epoch, epochs
        self.fulls = [float(group["lr"]) for group in optimizer.param_groups]
        self.full = full or self.fulls[0]
        waits = {name: value for name, value in chosen.items() if name != "warmup_epochs"}
        self.plateau = Plateau(**waits) if choice.name == "plateau" else None

    def set_rate(self, step: int) -> float:
        """Set the rates for optimizer step `step` (from 0); returns that of the layers that learn like most."""
        factor = self.factor(step)
        for group, full in zip(self.optimizer.param_groups, self.fulls, strict=True):
            group["lr"] = full * factor
        return self.full * factor

    def factor(self, step: int) -> float:
        """The share of the full rate at optimizer step `step` (from 0)."""
        share = schedule.factor(self.choice, step, self.epochs, self.steps_per_epoch, self.average)
        if self.plateau is None or schedule.is_averaging(self.average, step, self.epochs, self.steps_per_epoch):
            return share
        return share * self.plateau.level

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
