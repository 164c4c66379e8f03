"""Optuna's samplers and pruners as the catalogs name them.

A sampler is made anew for every trial, seeded by the search's seed and the trial's number: what it draws depends on
these and on the trials before, never on how often the driver was killed. So a search that went on gives, one trial at a
time, the very trials of one that never stopped.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from builder.catalog import load
from builder.parts.search import PRUNERS, STRATEGIES
from builder.spec import Experiment, Search

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

Settings = Mapping[str, Any]


def sampler(search: Search, number: int) -> BaseSampler:
    """What draws trial `number` of this search."""
    from optuna.exceptions import ExperimentalWarning

    part = STRATEGIES[search.strategy.name]
    seed = (search.seed * 1_000_003 + number) % 2**32
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        made: BaseSampler = load(part.target)({**part.defaults, **search.strategy.params}, seed, search.parallel > 1)
    return made


def pruner(experiment: Experiment) -> BasePruner:
    """What ends trials of this experiment's search early."""
    from optuna.pruners import NopPruner

    assert experiment.search is not None
    chosen = experiment.search.pruner
    part = PRUNERS[chosen.name]
    if not part.target:
        return NopPruner()
    made: BasePruner = load(part.target)({**part.defaults, **chosen.params}, experiment.training.epochs)
    return made


def grid(settings: Settings, seed: int, several: bool) -> BaseSampler:
    """The points of a grid are put into the queue (`grid.points_of`); nothing is left to draw."""
    return random(settings, seed, several)


def random(settings: Settings, seed: int, several: bool) -> BaseSampler:
    """Uniform draws; logarithmic ones where the range says so."""
    from optuna.samplers import RandomSampler

    return RandomSampler(seed=seed)


def tpe(settings: Settings, seed: int, several: bool) -> BaseSampler:
    """TPE that looks at all choices together (Falkner 2018), those that hang on others in groups of their own.

    With several trials at once those at work count as poor, so that not all of them go to the same place.
    """
    from optuna.samplers import TPESampler

    first = int(settings["first_random"])
    return TPESampler(n_startup_trials=first, seed=seed, multivariate=True, group=True, constant_liar=several)


def cmaes(settings: Settings, seed: int, several: bool) -> BaseSampler:
    """CMA-ES; its cloud is kept in the storage from trial to trial."""
    from optuna.samplers import CmaEsSampler

    first = int(settings["first_random"])
    return CmaEsSampler(n_startup_trials=first, seed=seed, warn_independent_sampling=False)


def median(settings: Settings, epochs: int) -> BasePruner:
    from optuna.pruners import MedianPruner

    return MedianPruner(n_startup_trials=int(settings["first_whole"]), n_warmup_steps=int(settings["least_epochs"]))


def asha(settings: Settings, epochs: int) -> BasePruner:
    from optuna.pruners import SuccessiveHalvingPruner

    return SuccessiveHalvingPruner(int(settings["least_epochs"]), int(settings["factor"]))


def hyperband(settings: Settings, epochs: int) -> BasePruner:
    from optuna.pruners import HyperbandPruner

    least = int(settings["least_epochs"])
    return HyperbandPruner(least, max(epochs, least + 1), int(settings["factor"]))
