"""Which learning rate? The range test of Smith (WACV 2017): real steps at a rate that rises from far too low to far too
high, and the loss of each.

The very `Learner` that would train does the steps, with its optimizer, loss, augmentation and batch; it is thrown away
afterwards, so no weights of anybody change.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from builder.data import Dataset
from builder.spec import Experiment
from builder.task import Task

if TYPE_CHECKING:
    from builder.learner import Learner

__all__ = ["STEPS", "Rates", "search", "sentences", "suggested"]

STEPS = 100
LOW, HIGH = 1e-6, 10.0
_MEMORY = 0.9  # of the smoothed loss: about ten steps
_DIVERGED = 4.0  # times the lowest smoothed loss
_LEAST_FALL = 0.02  # share by which the loss must have fallen anywhere for the test to say something


@dataclass(frozen=True)
class Rates:
    """What was found.

    Attributes:
        rates, losses, smoothed: of each step, as many as were done. best: rate at the lowest smoothed loss.
        suggestion: the rate to use; 0 where the loss fell nowhere. steepest: where it fell fastest. tenth: of `best`.
        ended: "diverged" or "highest" (no end was seen up to the highest rate).
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    best: float
    steepest: float
    tenth: float
    suggestion: float
    ended: str

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)


def search(
    experiment: Experiment,
    task: Task,
    dataset: Dataset,
    folder: Path,
    device: str | None = None,
    steps: int = STEPS,
    told: Callable[[int, int], None] = lambda done, total: None,
    prepared: Callable[[int, int], None] = lambda done, total: None,
) -> Rates:
    """Does the test.

    Args:
        folder: where a learner may write (it does not). device: as in `train.train`. told: called after each step with
            (done, total). prepared: called as scans are prepared. Both may raise to end it.
    Raises:
        ValueError: in words, where the experiment cannot train.
    """
    import torch

    from builder.learner import Learner, NotFinite, undisturbed

    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    with undisturbed(where):
        learner = Learner(experiment, task, dataset, dataset.prepared(experiment.data, prepared), folder, where)
        learner.average = None
        learner.schedule.set_rate = _rising(learner, steps)  # type: ignore[assignment]
        losses: list[float] = []
        ended = "highest"
        for step in range(steps):
            before = (float(learner.loss_sum), learner.place.count)
            try:
                learner.update(_batches(learner))
            except NotFinite:
                ended = "diverged"
                break
            losses.append((float(learner.loss_sum) - before[0]) / (learner.place.count - before[1]))
            told(step + 1, steps)
            if not math.isfinite(losses[-1]) or _has_diverged(losses):
                ended = "diverged"
                break
    finite = [loss for loss in losses if math.isfinite(loss)]
    if len(finite) < 3:
        raise ValueError("The loss is no finite number from the first steps on: look at the network and the scans.")
    return suggested([_rate(k, steps) for k in range(len(finite))], finite, ended)


def suggested(rates: list[float], losses: list[float], ended: str) -> Rates:
    """Reads the rate off the curve: where the smoothed loss falls fastest before its lowest point, but no more than a
    tenth of the rate at that point, from which on it no longer falls."""
    smoothed = _smoothed(losses)
    lowest = int(np.argmin(smoothed))
    first = min(10, lowest)  # the mean over fewer steps still jumps
    best, suggestion, steepest = rates[lowest], 0.0, 0.0
    if smoothed[lowest] < (1 - _LEAST_FALL) * float(np.max(smoothed[: lowest + 1])) and lowest > first:
        slopes = np.gradient(smoothed, np.log(rates))
        steepest = rates[first + int(np.argmin(slopes[first : lowest + 1]))]
        suggestion = _rounded(min(steepest, best / 10))
    return Rates(tuple(rates), tuple(losses), tuple(map(float, smoothed)), best, steepest, best / 10, suggestion, ended)


def sentences(found: Mapping[str, Any]) -> list[str]:
    """What was found (`Rates.to_json`), in plain sentences: first the verdict, then what it rests on."""
    if not found["suggestion"]:
        return [
            "No rate made the loss fall within these steps: the network learns nothing here, or slowly. Look at the "
            "scans, the labels and the network before the rate.",
            f"{len(found['rates'])} steps at rates from {LOW:g} to {found['rates'][-1]:.2g}.",
        ]
    end = (
        f"at {found['rates'][-1]:.2g} it ran away"
        if found["ended"] == "diverged"
        else f"up to {found['rates'][-1]:.2g} it did not run away"
    )
    return [
        f"Use about {found['suggestion']:.2g}.",
        f"The loss fell fastest at {found['steepest']:.2g} and was lowest at {found['best']:.2g}, of which a tenth is "
        f"{found['tenth']:.2g}; {end}. The smaller is proposed. Measured in {len(found['rates'])} real steps "
        "from random weights, with your optimizer, batch and augmentation; the weights were thrown away.",
    ]


def _rate(step: int, steps: int) -> float:
    return float(LOW * (HIGH / LOW) ** (step / max(1, steps - 1)))


def _rising(learner: Learner, steps: int) -> Callable[[int], float]:
    schedule = learner.schedule

    def set_rate(step: int) -> float:
        rate = _rate(step, steps)
        for group, full in zip(schedule.optimizer.param_groups, schedule.fulls, strict=True):
            group["lr"] = rate * full / schedule.full  # layers with rates of their own keep their share
        return rate

    return set_rate


def _batches(learner: Learner) -> list[np.ndarray]:
    """The next update, over as many epochs as it takes."""
    place = learner.place
    if place.update == len(learner.updates):
        place.epoch, place.update = place.epoch + 1, 0
    order = learner.order(place.epoch)
    return [order[start:end] for start, end in learner.updates[place.update]]


def _smoothed(losses: list[float]) -> np.ndarray:
    """The running mean, unbiased at its start (as Adam's moments)."""
    mean, out = 0.0, []
    for count, loss in enumerate(losses, 1):
        mean = _MEMORY * mean + (1 - _MEMORY) * loss
        out.append(mean / (1 - _MEMORY**count))
    return np.array(out)


def _has_diverged(losses: list[float]) -> bool:
    smoothed = _smoothed(losses)
    return len(losses) > 10 and bool(smoothed[-1] > _DIVERGED * smoothed.min())


def _rounded(rate: float) -> float:
    """To two digits."""
    return float(f"{rate:.1e}")
