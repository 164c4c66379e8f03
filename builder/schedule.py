"""How the learning rate changes during training: one description for the loop that trains, the page that draws, and
the train.py of an export, which holds the very source of these formulas. So each stands alone: numbers in and out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from builder.parts.training import AVERAGES, SCHEDULES
from builder.spec import Choice

__all__ = ["FORMULAS", "Plateau", "factor", "half_cosine", "is_averaging", "rates", "swa_begins", "warm"]

LAST = Choice(name="none")
"""No average of the weights."""


def half_cosine(share: float) -> float:
    """Half a cosine from 1 (share 0 and below) to 0 (share 1 and beyond)."""
    return 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, share))))


def constant(step: int, steps: int, steps_per_epoch: int) -> float:
    """The full rate at every step."""
    return 1.0


def staircase(step: int, steps: int, steps_per_epoch: int, every_epochs: int, factor: float) -> float:
    """Multiplied by `factor` after every `every_epochs` whole epochs."""
    return float(factor ** (step // (every_epochs * steps_per_epoch)))


def exponential(step: int, steps: int, steps_per_epoch: int, decay: float) -> float:
    """Multiplied by `decay` over every epoch, a little at each step."""
    return float(decay ** (step / steps_per_epoch))


def polynomial(step: int, steps: int, steps_per_epoch: int, power: float) -> float:
    """The share of the training that is left, to a power."""
    return float((1 - min(step, steps - 1) / steps) ** power)


def cosine(step: int, steps: int, steps_per_epoch: int, final_fraction: float) -> float:
    """Down half a cosine (Loshchilov and Hutter 2017)."""
    return final_fraction + (1 - final_fraction) * half_cosine(step / steps)


def restarts(
    step: int, steps: int, steps_per_epoch: int, first_epochs: int, stretch: int, final_fraction: float
) -> float:
    """Down half a cosine again and again, each round `stretch` times as long (Loshchilov and Hutter 2017)."""
    length = first_epochs * steps_per_epoch
    while step >= length:
        step, length = step - length, length * stretch
    return final_fraction + (1 - final_fraction) * half_cosine(step / length)


def cyclic(
    step: int, steps: int, steps_per_epoch: int, epochs_per_cycle: int, low_fraction: float, shrink: float
) -> float:
    """Up and down in straight lines, each climb `shrink` times as high as the one before (Smith 2017)."""
    cycle, within = divmod(step / (epochs_per_cycle * steps_per_epoch), 1.0)
    return low_fraction + (1 - low_fraction) * (1 - abs(2 * within - 1)) * shrink**cycle


def one_cycle(step: int, steps: int, steps_per_epoch: int, start_divisor: float, rise_fraction: float) -> float:
    """Up to the full rate, then down to a ten-thousandth of the start (Smith 2018)."""
    if steps < 3:  # too few for a cycle: nearly all of them would be spent at its very end
        return 1.0
    start, top = 1 / start_divisor, rise_fraction * steps - 1
    if step <= top:
        return 1 - (1 - start) * half_cosine(step / top if top else 1.0)
    end = start / 1e4
    return end + (1 - end) * half_cosine((step - top) / max(1e-9, steps - 1 - top))


def warm(step: int, warmup: int) -> float:
    """Up in a straight line over the first `warmup` steps (Goyal et al. 2017), 1 from then on."""
    return min(1.0, (step + 1) / warmup) if warmup else 1.0


FORMULAS: dict[str, Callable[..., float]] = {
    "constant": constant,
    "step": staircase,
    "exponential": exponential,
    "polynomial": polynomial,
    "cosine": cosine,
    "restarts": restarts,
    "cyclic": cyclic,
    "one_cycle": one_cycle,
}
"""{schedule: its formula}: (step, steps, steps_per_epoch, its settings by name) -> share of the full rate. A warm-up
comes before it: the formula then counts the steps that are left."""


def factor(choice: Choice, step: int, epochs: int, steps_per_epoch: int, average: Choice = LAST) -> float:
    """What the optimizer's rate is multiplied by at optimizer step `step` (from 0) of `epochs * steps_per_epoch`.

    Returns a number in (0, 1]. A plateau schedule depends on the losses to come (see `Plateau`): here it gives 1 (less
    while it warms up).

    Args:
        average: of the weights; SWA keeps the rate constant in the last part of the training.

    Raises:
        UnknownPart: no schedule or average has this name.
    """
    chosen: dict[str, Any] = {**SCHEDULES[choice.name].defaults, **choice.params}
    steps_per_epoch = max(1, steps_per_epoch)
    steps = max(1, epochs * steps_per_epoch)
    if is_averaging(average, step, epochs, steps_per_epoch):
        return float({**AVERAGES["swa"].defaults, **average.params}["rate"])
    warmup = chosen.pop("warmup_epochs", 0) * steps_per_epoch
    if step < warmup:
        return warm(step, warmup)
    if choice.name == "plateau":
        return 1.0
    return FORMULAS[choice.name](step - warmup, max(1, steps - warmup), steps_per_epoch, **chosen)


def is_averaging(average: Choice, step: int, epochs: int, steps_per_epoch: int) -> bool:
    """Whether step `step` lies in the part of the training in which SWA averages, at a constant rate."""
    return average.name == "swa" and step >= swa_begins(average, epochs) * steps_per_epoch


def swa_begins(average: Choice, epochs: int) -> int:
    """After how many epochs SWA begins to average: at least one is averaged, however short the training."""
    share = {**AVERAGES["swa"].defaults, **average.params}["start_share"]
    return min(epochs - 1, int(share * epochs))


def rates(choice: Choice, lr: float, epochs: int, steps_per_epoch: int, average: Choice = LAST) -> list[float]:
    """Returns the learning rate of every optimizer step, in order."""
    steps = range(epochs * max(1, steps_per_epoch))
    return [lr * factor(choice, step, epochs, steps_per_epoch, average) for step in steps]


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
