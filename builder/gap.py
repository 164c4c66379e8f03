"""The gap between training and validation, read off the curves and said in words, with what may help as documents.

What is compared are losses taken in the same way: of training scans as they are ("train_eval/loss") and of validation
scans ("val/loss"), both by the weights at the end of the epoch. "train/loss" was taken while learning: of varied scans,
with dropout on, by weights that changed meanwhile; it may well lie above the validation loss without meaning anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from builder.dropping import dropped, everywhere
from builder.network import Plan
from builder.parts.training import TRAINING
from builder.spec import Choice, Experiment
from builder.task import find

__all__ = ["Gap", "cures", "read"]

LEAST_EPOCHS = 4
_RISEN = 0.05  # share by which the validation loss must have risen over its lowest
_FALLEN = 0.05  # share by which a loss must have fallen to be falling
_LEFT = 0.1  # of the loss at the beginning: a gap below it is nothing to speak of
_WIDE = 1.5  # validation over training loss from which on the gap is wide
_LATE = 3  # epochs at the end that tell where it is going


@dataclass(frozen=True)
class Gap:
    """What the curves say.

    Attributes:
        kind: "early" (too few epochs to say), "heart" (learning by heart), "wide" (a wide gap that does not grow),
            "idle" (hardly anything is learned), "learning" (both still fall) or "together" (hand in hand).
        words: a few plain sentences. since: the epoch (from 1) from which on it is learned by heart; 0 otherwise.
        honest: the training loss was of scans as they are; False: of varied ones, for want of better.
    """

    kind: str
    words: str
    since: int = 0
    honest: bool = True


def read(curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> Gap | None:
    """What the curves of a run ({name: (steps, values)}, one value an epoch) say; None without validation."""
    val = np.asarray(curves.get("val/loss", ((), ()))[1], np.float64)
    if not len(val):
        return None
    plain = curves.get("train_eval/loss", ((), ()))[1]
    honest = len(plain) == len(val)
    train = np.asarray(plain if honest else curves.get("train/loss", ((), ()))[1], np.float64)[: len(val)]
    if len(val) < LEAST_EPOCHS or len(train) < len(val):
        return Gap("early", f"After {LEAST_EPOCHS} epochs the gap between training and validation is judged here.")
    lowest = int(np.argmin(val))
    late = min(_LATE, len(val) - 1 - lowest)
    risen = float(np.median(val[-late:]) / val[lowest] - 1) if late and val[lowest] > 0 else 0.0
    fallen = 1 - float(train[-1] / train[lowest]) if train[lowest] > 0 else 0.0
    remark = (
        ""
        if honest
        else " (The training loss of this run is of varied scans with dropout on, so it is no fair comparison.)"
    )
    if late >= 2 and risen > _RISEN and fallen > _FALLEN:
        since = lowest + 1
        return Gap(
            "heart",
            f"Learning by heart since epoch {since}: the validation loss has risen by {risen:.0%} while the training "
            f"loss fell by {fallen:.0%}. The network remembers its training scans instead of what they have in common. "
            f"The weights of the best epoch are kept, so nothing is lost.{remark}",
            since,
            honest,
        )
    if train[-1] > (1 - _FALLEN) * train[0] and train.min() > (1 - 2 * _FALLEN) * train[0]:
        return Gap(
            "idle",
            f"Hardly anything is learned: the training loss went from {train[0]:.3g} to {train[-1]:.3g} in {len(val)} "
            "epochs. The rate may be too low or too high, the brakes too strong, or the network too small for the "
            f"task.{remark}",
            honest=honest,
        )
    # Where hardly any loss is left on either side, a ratio says nothing.
    if val[-1] > _WIDE * train[-1] and val[-1] - train[-1] > _LEFT * max(val[0], train[0]):
        return Gap(
            "wide",
            f"A wide gap: the validation loss is {val[-1] / train[-1]:.1f} times the training loss. It does not grow "
            f"now, but the network knows its training scans much better than new ones.{remark}",
            honest=honest,
        )
    before = val[-1 - _LATE] if len(val) > _LATE else val[0]
    if val[-1] < (1 - _FALLEN / 2) * before and lowest >= len(val) - 2:
        return Gap("learning", f"Training and validation both still fall: more epochs may help.{remark}", honest=honest)
    return Gap(
        "together",
        f"Training and validation go hand in hand: {train[-1]:.3g} and {val[-1]:.3g}. No sign of learning by heart."
        f"{remark}",
        honest=honest,
    )


def cures(gap: Gap, experiment: Experiment, plan: Plan) -> list[tuple[str, Experiment]]:
    """What may help, as (words for a button, changed document), the likeliest first.

    Args:
        plan: of the experiment's network.
    """
    training = experiment.training
    if gap.kind in ("heart", "wide"):
        return _brakes(experiment, plan)
    if gap.kind == "learning":
        more = min(2 * training.epochs, int(TRAINING.param("epochs").high))  # type: ignore[union-attr]
        return [(f"{more} epochs", experiment.replace("training.epochs", more))] if more > training.epochs else []
    if gap.kind != "idle":
        return []
    found = []
    rate = training.optimizer.params.get("lr")
    if isinstance(rate, int | float) and not isinstance(rate, bool):
        found.append(("Learning rate x 3", experiment.replace("training.optimizer.params.lr", min(10.0, 3 * rate))))
    if share := dropped(experiment):
        found.append((f"Dropout off (it is {share:.0%})", everywhere(experiment, 0.0, plan)))
    if training.l2 > 0.001 or training.l1:
        calm = experiment.replace("training.l2", min(training.l2, 0.0001)).replace("training.l1", 0.0)
        found.append(("Weaker penalties", calm))
    return found


def _brakes(experiment: Experiment, plan: Plan) -> list[tuple[str, Experiment]]:
    training, found = experiment.training, []
    chosen = {choice.name for choice in training.augment}
    more = tuple(Choice(name=name) for name in ("rotate", "zoom", "brightness", "noise") if name not in chosen)
    grey = "picture" in find(experiment.task).learns  # there grey values are what is learned
    more = tuple(choice for choice in more if not grey or choice.name in ("rotate", "zoom"))
    if more:
        augmented = experiment.replace("training.augment", (*training.augment, *more))
        found.append((f"More augmentation: {', '.join(choice.name for choice in more)}", augmented))
    share = dropped(experiment)
    if share < 0.5:
        new = round(min(0.5, share + 0.2), 2)
        changed = everywhere(experiment, new, plan)
        if changed.network != experiment.network:
            found.append((f"Dropout {new:.0%} everywhere", changed))
    stronger = min(0.1, max(0.001, 10 * training.l2))
    if stronger > training.l2:
        found.append((f"L2 penalty {stronger:g}", experiment.replace("training.l2", stronger)))
    if not training.patience:
        found.append(("Early stopping after 5 epochs", experiment.replace("training.patience", 5)))
    return found
