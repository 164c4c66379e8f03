"""What a branch takes over from the state of its parent, and what begins anew; both told in words.

Where nothing stands in the way everything is taken over, so that a branch without a change in what it learns from goes
on exactly as its parent would have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from builder import checkpoint, optim

Learner = Any
"""`learner.Learner`, which asks this module."""
ORDER = ("training.batch_size", "training.accumulate", "training.seed", "training.balance", "data.exclude")
"""Choices that say which scans make which step: with another one of them an epoch cannot go on in its middle."""
GROUPS = ("training.groups", "training.backbone_rate")
"""Choices that say in which order an optimizer counts what it remembers."""
FILE = "The checkpoint of the parent"


def carry(state: Mapping[str, Any], learner: Learner, changes: Mapping[str, Sequence[Any]]) -> str:
    """Pours the state of the parent into `learner`, as far as it fits the learner's own document; says how far.

    Args:
        state: of a checkpoint, as `Learner.save` wrote it. changes: path -> (before, now), from parent to branch.
    Raises:
        CheckpointError: the weights are of another network.
    """
    checkpoint.pour(state["model"], learner.model, FILE)
    carried, anew = ["the weights"], []
    if _moments(state, learner, changes):
        carried.append("the optimizer's memory of past gradients")
    else:
        anew.append("the optimizer's memory of past gradients")
    if learner.schedule.state():
        if "training.schedule.name" in changes:
            anew.append("the schedule's count of epochs without a better loss")
        else:
            learner.schedule.restore(state["schedule"])
    if learner.average is not None:
        same = "training.average.name" not in changes and "average" in state
        if same:
            learner.average.restore(state["average"])
        (carried if same else anew).append("the average of the weights")
    _place(state, learner, changes)
    learner.restore_dice(state["random"])
    asked = changes.get("training.batch_size", (learner.room.batch,))[0]
    if state.get("at_once", asked) < asked:  # the parent met the end of the memory
        learner.room.at_once = min(state["at_once"], learner.room.batch)
    anew.append("the search for the best epoch")
    place = learner.place
    where = f"It goes on in epoch {place.epoch}"
    if place.update:
        where += f", after step {place.update} of it"
    elif state["place"]["update"]:
        where += ", which begins again because its steps are others now"
    return f"{where}. Taken over: {_listed(carried)}. Begins anew: {_listed(anew)}."


def _moments(state: Mapping[str, Any], learner: Learner, changes: Mapping[str, Sequence[Any]]) -> bool:
    """Takes over what the optimizer remembers of each parameter, with the settings of the branch; False where it is
    another optimizer, one that did not learn all of these parameters, or remembered less with the settings it had."""
    saved, own = state["optimizer"], learner.optimizer.state_dict()
    names = optim.named(learner.optimizer, learner.model)
    before = state.get("remembered")
    if before is None and not any(path.startswith(GROUPS) for path in changes):
        before = names  # an older ScanLoom saved it without names; the order is that of the same groups
    if "training.optimizer.name" in changes or before is None or not set(names) <= {*before, ""}:
        return False
    at = {name: place for place, name in enumerate(before)}
    kept = {k: saved["state"][at[name]] for k, name in enumerate(names) if name and at[name] in saved["state"]}
    needed = _remembers(learner)
    if needed and not (kept and all(needed <= set(held) for held in kept.values())):
        return False
    learner.optimizer.load_state_dict({"state": kept, "param_groups": own["param_groups"]})
    return True


def _remembers(learner: Learner) -> set[str]:
    """What the optimizer of the branch, with its settings, remembers of a parameter: seen on one that is made up."""
    import torch

    made_up = torch.nn.Linear(1, 1)
    tried = optim.optimizer(learner.experiment.training.optimizer, made_up, 0.0)
    made_up(torch.ones(1, 1)).sum().backward()
    tried.step()
    return set(tried.state[made_up.weight])


def _place(state: Mapping[str, Any], learner: Learner, changes: Mapping[str, Sequence[Any]]) -> None:
    """Where the branch begins: in the middle of the parent's epoch where that has the same steps, else at its start."""
    place, before = learner.place, state["place"]
    place.epoch = before["epoch"]
    if state["scans"] == learner.scans_digest and not any(path in changes for path in ORDER):
        for name in ("update", "step", "loss_sum", "count", "seconds"):
            setattr(place, name, before[name])
    else:
        place.step = (place.epoch - 1) * len(learner.updates)
    learner.loss_sum.fill_(place.loss_sum)


def _listed(words: Sequence[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last
