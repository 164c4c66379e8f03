"""How the learning rate changes during training: one description for the loop that trains and the page that draws."""

from __future__ import annotations

from math import cos, inf, isnan, pi
from typing import Any

from builder.parts.training import SCHEDULES
from builder.spec import Choice

__all__ = ["Plateau", "factor", "rates"]

_END = 1e-4
"""What one cycle leaves of its first rate at the very end (Smith 2018: several orders of magnitude below)."""
_LEAST_GAIN = 1e-4
"""Share by which the loss must fall to count as an improvement."""


def _settings(choice: Choice) -> dict[str, Any]:
    return {**SCHEDULES[choice.name].defaults, **choice.params}


def factor(choice: Choice, step: int, epochs: int, steps_per_epoch: int) -> float:
    """What the optimizer's rate is multiplied by at optimizer step `step` (from 0) of `epochs * steps_per_epoch`.

    Returns a number in (0, 1]. A plateau schedule depends on the losses to come (see `Plateau`): here it gives 1.

    Raises:
        UnknownPart: no schedule has this name.
    """
    chosen = _settings(choice)
    steps_per_epoch = max(1, steps_per_epoch)
    total = max(1, epochs * steps_per_epoch)
    if choice.name == "step":
        return float(chosen["factor"] ** (step // (chosen["every_epochs"] * steps_per_epoch)))
    if choice.name == "cosine":
        warmup = chosen["warmup_epochs"] * steps_per_epoch
        if step < warmup:
            return float((step + 1) / warmup)
        left: float = chosen["final_fraction"]
        return left + (1 - left) * _fall((step - warmup) / max(1, total - warmup))
    if choice.name == "one_cycle":
        start, top = 1 / chosen["start_divisor"], chosen["rise_fraction"] * total - 1
        if step <= top:
            return float(1 - (1 - start) * _fall(step / top if top else 1.0))
        end = start * _END
        return float(end + (1 - end) * _fall((step - top) / max(1e-9, total - 1 - top)))
    return 1.0


def _fall(share: float) -> float:
    """Half a cosine from 1 (share 0) to 0 (share 1 and beyond)."""
    return 0.5 * (1 + cos(pi * min(1.0, max(0.0, share))))


def rates(choice: Choice, lr: float, epochs: int, steps_per_epoch: int) -> list[float]:
    """Returns the learning rate of every optimizer step, in order."""
    return [lr * factor(choice, step, epochs, steps_per_epoch) for step in range(epochs * max(1, steps_per_epoch))]


class Plateau:
    """The rate drops when the validation loss has not improved for `wait_epochs` epochs. Its state can be saved."""

    def __init__(self, choice: Choice) -> None:
        chosen = _settings(choice)
        self._wait: int = chosen["wait_epochs"]
        self._times: float = chosen["factor"]
        self.factor = 1.0
        self._best: float | None = None
        self._waited = 0

    def after(self, val_loss: float) -> float:
        """Takes in the loss of the epoch that ended; returns the factor of the epoch to come. NaN is no improvement."""
        best = inf if self._best is None else self._best - _LEAST_GAIN * abs(self._best)
        if not isnan(val_loss) and val_loss < best:
            self._best, self._waited = val_loss, 0
        else:
            self._waited += 1
            if self._waited > self._wait:
                self.factor, self._waited = self.factor * self._times, 0
        return self.factor

    def state(self) -> dict[str, Any]:
        """What `restore` needs to go on exactly here, as plain JSON."""
        return {"factor": self.factor, "best": self._best, "waited": self._waited}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes back to a saved state."""
        self.factor, self._best, self._waited = state["factor"], state["best"], state["waited"]
