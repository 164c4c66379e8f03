"""What a page draws of a study, as plain data made from its view: no chart here, and no storage is opened."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from builder.search.studies import StudyView, TrialView


@dataclass(frozen=True)
class Axis:
    """One axis of parallel coordinates.

    Attributes:
        path: of the choice, or the name of an objective. log: its places are to be spread logarithmically.
        words: of a choice from a list, in the order of their places 0, 1, ...; () for numbers.
        places: one for each row, NaN where the trial does not have the choice.
    """

    path: str
    log: bool
    words: tuple[str, ...]
    places: tuple[float, ...]


def done(view: StudyView) -> list[TrialView]:
    """The trials that can be compared: those with a value for every objective."""
    return [trial for trial in view.trials if len(trial.values) == len(view.objectives)]


def paths(view: StudyView) -> list[str]:
    """Every choice that some trial has, in order of appearance."""
    return list(dict.fromkeys(path for trial in view.trials for path in trial.params))


def best_so_far(view: StudyView, objective: int = 0) -> tuple[list[int], list[float]]:
    """(numbers of trials, the best value of an objective up to each), in the order in which they began."""
    numbers, best = list[int](), list[float]()
    better = max if view.rising[objective] else min
    for trial in done(view):
        numbers.append(trial.number)
        best.append(better(best[-1], trial.values[objective]) if best else trial.values[objective])
    return numbers, best


def coordinates(view: StudyView, logarithmic: Sequence[str] = ()) -> tuple[list[Axis], list[int]]:
    """(an axis for every choice and every objective, the numbers of the trials: one row each).

    Args:
        logarithmic: paths that are searched on a logarithmic scale.
    """
    trials = done(view)
    axes = [_axis(path, [trial.params.get(path) for trial in trials], path in logarithmic) for path in paths(view)]
    for k, name in enumerate(view.objectives):
        axes.append(Axis(name, False, (), tuple(trial.values[k] for trial in trials)))
    return axes, [trial.number for trial in trials]


def _axis(path: str, values: list[Any], log: bool) -> Axis:
    if all(value is None or _number(value) for value in values):
        return Axis(path, log, (), tuple(math.nan if value is None else float(value) for value in values))
    words = tuple(dict.fromkeys(str(value) for value in values if value is not None))
    places = tuple(math.nan if value is None else float(words.index(str(value))) for value in values)
    return Axis(path, False, words, places)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def slices(view: StudyView, path: str, objective: int = 0) -> tuple[list[Any], list[float], list[int]]:
    """(values of one choice, values of an objective, numbers) of the trials that have the choice."""
    found = [trial for trial in done(view) if path in trial.params]
    return (
        [trial.params[path] for trial in found],
        [trial.values[objective] for trial in found],
        [trial.number for trial in found],
    )


@dataclass(frozen=True)
class Contour:
    """An objective over two choices: the surface between the trials, and the trials themselves.

    Attributes:
        x, y: (W,), (H,) places of the surface; words are places 0, 1, ... surface: (H, W) values, weighted by nearness.
        words_x, words_y: of choices from a list, else (). trials: (place x, place y, value, number) of each.
    """

    x: np.ndarray
    y: np.ndarray
    surface: np.ndarray
    words_x: tuple[str, ...]
    words_y: tuple[str, ...]
    trials: list[tuple[float, float, float, int]]


def contour(
    view: StudyView, path_x: str, path_y: str, logarithmic: Sequence[str] = (), objective: int = 0, size: int = 24
) -> Contour | None:
    """The surface over two choices; None with fewer than three trials that have both.

    Between the trials every point takes the mean of all, each by the inverse square of its distance (Shepard 1968), in
    the units of the range (logarithmic where it is searched so).
    """
    found = [trial for trial in done(view) if path_x in trial.params and path_y in trial.params]
    if len(found) < 3:
        return None
    axes = [_axis(path, [trial.params[path] for trial in found], path in logarithmic) for path in (path_x, path_y)]
    values = np.array([trial.values[objective] for trial in found])
    units, places = [], []
    for axis in axes:
        here = np.log(axis.places) if axis.log else np.array(axis.places)
        low, high = float(here.min()), float(here.max())
        units.append((here - low) / ((high - low) or 1.0))
        spread = np.linspace(low, high, max(2, len(axis.words)) if axis.words else size)
        places.append((spread, (spread - low) / ((high - low) or 1.0), axis.log))
    points = np.stack(units, 1)
    (x, ux, log_x), (y, uy, log_y) = places
    grid = np.stack(np.meshgrid(ux, uy), -1).reshape(-1, 1, 2)
    weights = 1.0 / (((grid - points[None]) ** 2).sum(-1) + 1e-4)
    surface = (weights * values).sum(1) / weights.sum(1)
    rows = zip(axes[0].places, axes[1].places, values.tolist(), (trial.number for trial in found), strict=True)
    return Contour(
        np.exp(x) if log_x else x,
        np.exp(y) if log_y else y,
        surface.reshape(len(y), len(x)),
        axes[0].words,
        axes[1].words,
        list(rows),
    )


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
