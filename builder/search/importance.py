"""Which choices of a search mattered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from builder.search.studies import StudyView, TrialView


def done(view: StudyView) -> list[TrialView]:
    """The trials that can be compared: those with a value for every objective."""
    return [trial for trial in view.trials if len(trial.values) == len(view.objectives)]


def paths(view: StudyView) -> list[str]:
    """Every choice that some trial has, in order of appearance."""
    return list(dict.fromkeys(path for trial in view.trials for path in trial.params))


def importance(view: StudyView, logarithmic: Sequence[str] = ()) -> dict[str, float]:
    """{path: share of what it explains of the first objective}, the largest first; {} with fewer than two done trials.

    PED-ANOVA (Watanabe 2023): by how much the values of the best tenth differ from those of all trials. A choice that
    only some trials have is judged among those, and counts by their share. Imports Optuna: only the driver asks.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found, trials = dict[str, float](), done(view)
    for path in paths(view):
        having = [trial for trial in trials if path in trial.params]
        values = [trial.params[path] for trial in having]
        if len(having) < 2 or len(set(map(str, values))) < 2:
            continue
        numbers = all(_number(value) for value in values)
        log = numbers and (path in logarithmic or (min(values) > 0 and max(values) / min(values) >= 100))
        distribution: Any
        if numbers:
            distribution = optuna.distributions.FloatDistribution(float(min(values)), float(max(values)), log=log)
        else:
            distribution = optuna.distributions.CategoricalDistribution(tuple(dict.fromkeys(values)))
        study = optuna.create_study(direction="maximize" if view.rising[0] else "minimize")
        study.add_trials(
            [
                optuna.create_trial(
                    params={path: float(value) if numbers else value},
                    distributions={path: distribution},
                    value=trial.values[0],
                )
                for trial, value in zip(having, values, strict=True)
            ]
        )
        told = optuna.importance.PedAnovaImportanceEvaluator().evaluate(study, params=[path])
        found[path] = max(0.0, float(told.get(path, 0.0))) * len(having) / len(trials)
    total = sum(found.values())
    shares = {path: value / total for path, value in found.items()} if total > 0 else {}
    return {path: round(share, 4) for path, share in sorted(shares.items(), key=lambda item: -item[1])}


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
