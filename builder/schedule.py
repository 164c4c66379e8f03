"""How the learning rate changes during training: one description for the loop that trains, the page that draws, and
the train.py of an export, which holds the very source of these formulas. So each stands alone: numbers in and out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from builder.parts.training import SCHEDULES
from builder.spec import Choice

__all__ = ["FORMULAS", "Plateau", "factor", "half_cosine", "rates"]


def half_cosine(share: float) -> float:
    """Half a cosine from 1 (share 0 and below) to 0 (share 1 and beyond)."""
    return 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, share))))


def constant(step: int, steps: int, steps_per_epoch: int) -> float:
    """The full rate at every step."""
    return 1.0


def staircase(step: int, steps: int, steps_per_epoch: int, every_epochs: int, factor: float) -> float:
    """Multiplied by `factor` after every `every_epochs` whole epochs."""
    return float(factor ** (step // (every_epochs * steps_per_epoch)))


def cosine(step: int, steps: int, steps_per_epoch: int, warmup_epochs: int, final_fraction: float) -> float:
    """Up in a straight line for the first epochs, then down half a cosine (Loshchilov and Hutter 2017)."""
    warmup = warmup_epochs * steps_per_epoch
    if step < warmup:
        return (step + 1) / warmup
    return final_fraction + (1 - final_fraction) * half_cosine((step - warmup) / max(1, steps - warmup))


def one_cycle(step: int, steps: int, steps_per_epoch: int, start_divisor: float, rise_fraction: float) -> float:
    """Up to the full rate, then down to a ten-thousandth of the start (Smith 2018)."""
    if steps < 3:  # too few for a cycle: nearly all of them would be spent at its very end
        return 1.0
    start, top = 1 / start_divisor, rise_fraction * steps - 1
    if step <= top:
        return 1 - (1 - start) * half_cosine(step / top if top else 1.0)
    end = start / 1e4
    return end + (1 - end) * half_cosine((step - top) / max(1e-9, steps - 1 - top))


FORMULAS: dict[str, Callable[..., float]] = {
    "constant": constant,
    "step": staircase,
    "cosine": cosine,
    "one_cycle": one_cycle,
}
"""{schedule: its formula}: (step, steps, steps_per_epoch, its settings by name) -> share of the full rate."""


def factor(choice: Choice, step: int, epochs: int, steps_per_epoch: int) -> float:
    """What the optimizer's rate is multiplied by at optimizer step `step` (from 0) of `epochs * steps_per_epoch`.

    Returns a number in (0, 1]. A plateau schedule depends on the losses to come (see `Plateau`): here it gives 1.

    Raises:
        UnknownPart: no schedule has this name.
    """
    chosen: dict[str, Any] = {**SCHEDULES[choice.name].defaults, **choice.params}
    if choice.name == "plateau":
        return 1.0
    steps_per_epoch = max(1, steps_per_epoch)
    return FORMULAS[choice.name](step, max(1, epochs * steps_per_epoch), steps_per_epoch, **chosen)


def rates(choice: Choice, lr: float, epochs: int, steps_per_epoch: int) -> list[float]:
    """Returns the learning rate of every optimizer step, in order."""
    return [lr * factor(choice, step, epochs, steps_per_epoch) for step in range(epochs * max(1, steps_per_epoch))]


class Plateau:
    """The rate drops by `factor` when the validation loss has not improved for `wait_epochs` epochs.

    `level` is the share of the full rate at hand.
    """

    def __init__(self, wait_epochs: int, factor: float) -> None:
        self.wait_epochs, self.factor = wait_epochs, factor
        self.level, self.best, self.waited = 1.0, math.inf, 0

    def after(self, loss: float) -> float:
        """Takes in the loss of the epoch that ended; returns the level of the epoch to come. NaN is no improvement."""
        if loss < self.best * (1 - 1e-4):  # a smaller gain does not count (torch's default)
            self.best, self.waited = loss, 0
        else:
            self.waited += 1
        if self.waited > self.wait_epochs:
            self.level, self.waited = self.level * self.factor, 0
        return self.level

    def state(self) -> dict[str, float]:
        """What `restore` needs to go on exactly here."""
        return {"level": self.level, "best": self.best, "waited": self.waited}

    def restore(self, state: dict[str, float]) -> None:
        """Goes back to a saved state."""
        self.level, self.best, self.waited = state["level"], state["best"], int(state["waited"])
