"""What a search looks for: scores of the task, which may rise or fall, and costs, which fall."""

from __future__ import annotations

from builder.parts.search import COSTS
from builder.spec import Experiment
from builder.task import TASKS, find


def known(experiment: Experiment) -> dict[str, bool]:
    """{what a search of this experiment can look for: True where higher is better}: its scores, then the costs."""
    scores = {**find(experiment.task).metrics, "loss": False} if experiment.task in TASKS else {"loss": False}
    return {**scores, **dict.fromkeys(COSTS, False)}


def of(experiment: Experiment) -> tuple[str, ...]:
    """What the experiment's search looks for: as it says, else the score that the training watches."""
    chosen = experiment.search.objectives if experiment.search else ()
    return tuple(objective.metric for objective in chosen) or (experiment.training.monitor,)


def rising(experiment: Experiment) -> tuple[bool, ...]:
    """For each of `of`, whether higher is better."""
    directions = known(experiment)
    return tuple(directions.get(metric, True) for metric in of(experiment))
