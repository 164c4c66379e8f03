"""What is wrong with the search of an experiment: each fault with its place, a sentence and, where possible, a repair.

The place of a dimension is "search." with its path behind: "search.training.optimizer.params.lr".
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

from builder.catalog import Catalog, Domain, Float, Int, UnknownPart, closest
from builder.network import plan_of
from builder.parts.search import COSTS, PRUNERS, SEARCH, STRATEGIES
from builder.search import objectives
from builder.search.grid import points_of, values
from builder.search.space import ABSENT, apply, domain, proposed, reachable, unlockable
from builder.spec import Choice, Dimension, Experiment, Objective, Problem, Search

MOST_OBJECTIVES = 3
_OF_LOSS = ("training.loss", "training.label_smoothing", "training.balance")
"""With another value there, the validation loss is another measure."""
MOST_POINTS = 10_000
"""Of a grid: as many combinations are no search any more."""


def faults(experiment: Experiment, num_classes: int = 2) -> list[Problem]:
    """Everything that is wrong with `experiment.search`; [] without one."""
    search = experiment.search
    if search is None:
        return []
    found = [*_space(experiment, search, num_classes), *_objectives(experiment, search)]
    for name, catalog in (("strategy", STRATEGIES), ("pruner", PRUNERS)):
        found += _part(experiment, name, catalog)
    for param in SEARCH.params:
        value = getattr(search, param.name)
        try:
            param.parse(value)
        except ValueError as error:
            near = param.nearest(value)
            found.append(_told(f"search.{param.name}", str(error), f"Use {near}", _with(experiment, param.name, near)))
    return found or [*_suits(experiment, search)]


def _with(experiment: Experiment, field: str, value: Any) -> Experiment:
    assert experiment.search is not None
    return experiment.model_copy(update={"search": experiment.search.model_copy(update={field: value})})


def _told(path: str, words: str, repair: str = "", fix: Experiment | None = None, severity: str = "error") -> Problem:
    return Problem(path, words, severity, repair if fix is not None else "", fix)


def _instead(experiment: Experiment, dimension: Dimension, put: Dimension | None) -> Experiment:
    """The document with another dimension in the place of `dimension`, or without it."""
    assert experiment.search is not None
    kept = [put if other is dimension else other for other in experiment.search.dimensions]
    return _with(experiment, "dimensions", tuple(other for other in kept if other is not None))


# ---- the space ------------------------------------------------------------------------------------------------------


def _space(experiment: Experiment, search: Search, num_classes: int) -> Iterator[Problem]:
    if not search.dimensions:
        words = "The search has nothing to choose: unlock at least one choice, such as the learning rate."
        fix = None
        if reachable(experiment, "training.optimizer.params.lr") is not None:
            first = proposed(experiment, "training.optimizer.params.lr")
            fix = _with(experiment, "dimensions", (first,))
        yield _told("search.dimensions", words, "Unlock the learning rate", fix)
    seen = set[str]()
    for dimension in search.dimensions:
        path = f"search.{dimension.path}"
        if dimension.path in seen:
            yield _told(path, "This choice is unlocked twice.", "Keep one", _instead(experiment, dimension, None))
            continue
        seen.add(dimension.path)
        there = reachable(experiment, dimension.path)
        if there is None:
            yield _told(path, _unknown(experiment, dimension.path), "Lock it", _instead(experiment, dimension, None))
            continue
        yield from _of_dimension(experiment, dimension, there, num_classes)


def _unknown(experiment: Experiment, path: str) -> str:
    known = list(unlockable(experiment))
    near = closest(path, known)
    place, _, setting = path.partition(".params.")
    if setting and place in known:
        return (
            f"No value that the search may choose at {place} has a setting {setting!r}: it would never be used.{near}"
        )
    return f"There is no choice at {path!r} that a search could make.{near}"


def _of_dimension(experiment: Experiment, dimension: Dimension, there: Domain, num_classes: int) -> Iterator[Problem]:
    path, usual = f"search.{dimension.path}", proposed(experiment, dimension.path)
    usual_fix = "Use the proposed range", _instead(experiment, dimension, usual)
    ranged = dimension.low is not None or dimension.high is not None
    if ranged and dimension.choices:
        words = f"{there.label} has both a range and a list of values; a search needs one of them."
        yield _told(path, words, *usual_fix)
    elif dimension.choices:
        yield from _of_choices(experiment, dimension, there, num_classes)
    elif not isinstance(there, Int | Float):
        words = f"{there.label} is no number: it needs a list of at least two values to choose from."
        yield _told(path, words, "Use the proposed values", _instead(experiment, dimension, usual))
    elif dimension.low is None or dimension.high is None:
        yield _told(path, f"{there.label} needs a lowest and a highest value.", *usual_fix)
    else:
        yield from _of_range(experiment, dimension, there, dimension.low, dimension.high)


def _of_range(
    experiment: Experiment, dimension: Dimension, there: Int | Float, low: int | float, high: int | float
) -> Iterator[Problem]:
    path = f"search.{dimension.path}"

    def changed(words: str, repair: str, **to: Any) -> Problem:
        return _told(path, words, repair, _instead(experiment, dimension, dimension.model_copy(update=to)))

    if low > high:
        words = f"The range of {there.label} is inverted: it goes from {low:g} to {high:g}."
        yield changed(words, "Turn it round", low=high, high=low)
        return
    if low == high:
        usual = proposed(experiment, dimension.path)
        words = f"The range of {there.label} is empty: both ends are {low:g}."
        yield _told(path, words, "Use the proposed range", _instead(experiment, dimension, usual))
        return
    for end, value in (("low", low), ("high", high)):
        try:
            there.parse(value)
        except ValueError as error:
            near = there.nearest(round(value) if isinstance(there, Int) else value)
            yield changed(str(error), f"Use {near:g}", **{end: near})
            return
    if dimension.step < 0 or dimension.step > high - low:
        words = (
            f"The steps of {there.label} are {dimension.step:g}; they must fit into the range from {low:g} to {high:g}."
        )
        yield changed(words, "Leave them out", step=0)
    elif isinstance(there, Int) and dimension.step != int(dimension.step):
        yield changed(f"{there.label} goes in whole steps, not in steps of {dimension.step:g}.", "Use 1", step=1)
    elif isinstance(there, Int) and there.step > 1 and (dimension.step or 1) % there.step:
        words = f"{there.label} goes in steps of {there.step}."
        yield changed(words, f"Use {there.step}", step=there.step, log=False)
    elif dimension.log and low <= 0:
        words = f"On a logarithmic scale {there.label} must begin above 0, not at {low:g}."
        yield changed(words, "Use an even scale", log=False)
    elif dimension.log and dimension.step > (1 if isinstance(there, Int) else 0):
        words = f"{there.label} is searched on a logarithmic scale, on which there are no even steps."
        yield changed(words, "Leave the steps out", step=0)


def _of_choices(experiment: Experiment, dimension: Dimension, there: Domain, num_classes: int) -> Iterator[Problem]:
    path, wrong, good = f"search.{dimension.path}", list[str](), []
    for value in dimension.choices:
        try:
            good.append(there.parse(value))
        except ValueError as error:
            wrong.append(str(error))
    good = [value for k, value in enumerate(good) if value not in good[:k]]
    usual = proposed(experiment, dimension.path)
    kept = dimension.model_copy(update={"choices": tuple(good)}) if len(good) > 1 else usual
    if wrong:
        yield _told(path, wrong[0], "Leave it out", _instead(experiment, dimension, kept))
    elif len(good) < len(dimension.choices) and len(good) > 1:
        words = f"A value of {there.label} is listed twice."
        yield _told(path, words, "Keep one", _instead(experiment, dimension, kept))
    elif len(good) < 2:
        words = f"{there.label} has only one value to choose from: there is nothing to search."
        fix = _instead(experiment, dimension, usual if len(usual.choices) > 1 or usual.low is not None else None)
        yield _told(path, words, "Use the proposed values", fix)
    elif ABSENT in dimension.choices and dimension.path.startswith("network."):
        yield from _of_absence(experiment, dimension, num_classes)


def _of_absence(experiment: Experiment, dimension: Dimension, num_classes: int) -> Iterator[Problem]:
    """Says it where the rest of the network cannot be without the layer."""
    if domain(experiment, dimension.path) is None:
        return
    before = {node.id for node in plan_of(experiment, num_classes).nodes if node.message}
    after = plan_of(apply(experiment, {dimension.path: ABSENT}), num_classes)
    broken = next((node for node in after.nodes if node.message and node.id not in before), None)
    if broken is not None:
        id = dimension.path.partition(".")[2]
        words = f"Without {id} the network does not fit together: {broken.id}: {broken.message}"
        yield _told(f"search.{dimension.path}", words, "Lock it", _instead(experiment, dimension, None))


# ---- the rest -------------------------------------------------------------------------------------------------------


def _objectives(experiment: Experiment, search: Search) -> Iterator[Problem]:
    known, names = objectives.known(experiment), [objective.metric for objective in search.objectives]
    for k, name in enumerate(names):
        rest = tuple(other for other in search.objectives if other.metric != name)
        if name not in known:
            words = f"This task has no {name!r} to look for; it has {', '.join(known)}.{closest(name, list(known))}"
            watched = experiment.training.monitor
            put = rest if rest else (Objective(metric=watched if watched in known else next(iter(known))),)
            repair = "Leave it out" if rest else f"Look for {put[0].metric}"
            yield _told("search.objectives", words, repair, _with(experiment, "objectives", put))
        elif name in names[:k]:
            once = (*rest, Objective(metric=name))
            yield _told(
                "search.objectives", f"{name} is named twice.", "Keep one", _with(experiment, "objectives", once)
            )
    if len(names) > MOST_OBJECTIVES:
        words = (
            f"{len(names)} objectives have hardly any trial that is not a compromise; choose up to {MOST_OBJECTIVES}."
        )
        few = search.objectives[:MOST_OBJECTIVES]
        yield _told(
            "search.objectives", words, f"Keep the first {MOST_OBJECTIVES}", _with(experiment, "objectives", few)
        )


def _part(experiment: Experiment, name: str, catalog: Catalog) -> Iterator[Problem]:
    choice: Choice = getattr(experiment.search, name)
    try:
        part = catalog[choice.name]
    except UnknownPart as error:
        near = getattr(Search(), name)
        yield _told(f"search.{name}.name", str(error), f"Use {catalog[near.name].title}", _with(experiment, name, near))
        return
    for setting, value in choice.params.items():
        path = f"search.{name}.params.{setting}"
        rest = {key: other for key, other in choice.params.items() if key != setting}
        try:
            param = part.param(setting)
        except UnknownPart as error:
            fix = _with(experiment, name, choice.model_copy(update={"params": rest}))
            yield _told(path, str(error), "Remove this setting", fix)
            continue
        try:
            param.parse(value)
        except ValueError as error:
            near = param.nearest(value)
            fix = _with(experiment, name, choice.model_copy(update={"params": {**rest, setting: near}}))
            yield _told(path, str(error), f"Use {near}", fix)


def _suits(experiment: Experiment, search: Search) -> Iterator[Problem]:
    """What each part may be by itself, but not together."""
    yield from _measure(experiment, search)
    several, strategy = len(objectives.of(experiment)) > 1, search.strategy.name
    without = "Use no pruner", _with(experiment, "pruner", Choice(name="none"))
    if search.pruner.name != "none" and several:
        words = "With several objectives no trial can be called poor early: every trial must run to its end."
        yield _told("search.pruner", words, *without)
    elif search.pruner.name != "none" and objectives.known(experiment) and _costs_only(experiment):
        words = "What a network costs is known before it is trained: there is nothing to end early."
        yield _told("search.pruner", words, *without)
    if strategy == "cmaes":
        usual = "Use TPE", _with(experiment, "strategy", Choice(name="tpe"))
        words = ""
        if several:
            words = "CMA-ES looks for one objective only."
        elif any(dimension.choices for dimension in search.dimensions):
            words = "CMA-ES moves numbers only; this search also chooses from lists."
        elif any(domain(experiment, dimension.path) is None for dimension in search.dimensions):
            words = "CMA-ES needs every choice in every trial; some here hang on others."
        elif len(search.dimensions) < 2:
            words = "CMA-ES needs at least two numbers to move."
        if words:
            yield _told("search.strategy", words, *usual)
    if strategy == "grid":
        yield from _grid(experiment, search)
    epochs = any(dimension.path == "training.epochs" for dimension in search.dimensions)
    if search.pruner.name in ("asha", "hyperband") and epochs:
        words = "The number of epochs is both searched and cut short; lock it, or end no trial early."
        yield _told("search.pruner", words, *without, severity="warning")


def _measure(experiment: Experiment, search: Search) -> Iterator[Problem]:
    """Says it where the trials would be compared by a loss that is not the same in all of them."""
    names = objectives.of(experiment)
    apart = [d for d in search.dimensions if d.path in _OF_LOSS or d.path.startswith("training.loss.")]
    apart = [d for d in apart if d.path != "training.balance" or "weights" in d.choices]
    if "loss" not in names or not apart:
        return
    there = reachable(experiment, apart[0].path)
    scores = [name for name in objectives.known(experiment) if name not in ("loss", *COSTS, *names)]
    instead = tuple(scores[0] if name == "loss" else name for name in names) if scores else ()
    fix = _with(experiment, "objectives", tuple(Objective(metric=name) for name in instead)) if scores else None
    what = there.label.lower() if there else apart[0].path
    words = f"With another {what} the loss is another measure, so the smallest is no winner: look for a score."
    yield _told("search.objectives", words, f"Look for {scores[0]}" if scores else "", fix)


def _costs_only(experiment: Experiment) -> bool:
    scores = set(objectives.known(experiment)) - set(COSTS)
    return not scores & set(objectives.of(experiment))


def _grid(experiment: Experiment, search: Search) -> Iterator[Problem]:
    points = int({**STRATEGIES["grid"].defaults, **search.strategy.params}["points"])
    sizes = [len(values(dimension, reachable(experiment, dimension.path), points)) for dimension in search.dimensions]
    if (most := prod(sizes)) > MOST_POINTS:
        words = f"The grid has up to {most:,} points; a grid is for a few choices with few values each. Choose TPE."
        yield _told("search.strategy", words, "Use TPE", _with(experiment, "strategy", Choice(name="tpe")))
        return
    if (num := len(points_of(experiment))) > search.num_trials:
        words = f"The grid has {num} points, but only {search.num_trials} trials are trained: the rest stays untried."
        fix = _with(experiment, "num_trials", num)
        yield _told("search.num_trials", words, f"Train {num} trials", fix, "warning")
