"""The points of a grid: every combination of the values once, in the order of the dimensions.

A choice that hangs on another one is varied only where it is there, so no two points are the same document.
"""

from __future__ import annotations

import math
from typing import Any

from builder.catalog import Domain, Int
from builder.parts.search import STRATEGIES
from builder.search.space import apply, domain, ordered
from builder.spec import Dimension, Experiment

Point = dict[str, Any]


def values(dimension: Dimension, there: Domain | None, points: int) -> tuple[Any, ...]:
    """The values of one dimension: its choices, or up to `points` numbers evenly spread over its range."""
    if dimension.choices:
        return dimension.choices
    assert dimension.low is not None and dimension.high is not None
    low, high = float(dimension.low), float(dimension.high)
    shares = [k / (points - 1) for k in range(points)]
    if dimension.log:
        found = [math.exp(math.log(low) + share * (math.log(high) - math.log(low))) for share in shares]
    else:
        found = [low + share * (high - low) for share in shares]
    step = dimension.step or (1 if isinstance(there, Int) else 0)
    if step:
        most = math.floor((high - low) / step + 1e-9)
        found = [low + step * min(most, round((value - low) / step)) for value in found]
    neat: list[Any] = [min(max(float(f"{value:.10g}"), low), high) for value in found]
    if isinstance(there, Int):
        neat = [int(round(value)) for value in neat]
    return tuple(dict.fromkeys(neat))


def points_of(experiment: Experiment) -> list[Point]:
    """Every point of the search's grid as {path: value}, of the choices that are there in that point."""
    assert experiment.search is not None
    search = experiment.search
    num = int({**STRATEGIES["grid"].defaults, **search.strategy.params}["points"])
    points: list[tuple[Point, Experiment]] = [({}, experiment.model_copy(update={"search": None}))]
    for dimension in ordered(search.dimensions):
        wider: list[tuple[Point, Experiment]] = []
        for point, document in points:
            there = domain(document, dimension.path)
            if there is None:
                wider.append((point, document))
                continue
            for value in values(dimension, there, num):
                wider.append(({**point, dimension.path: value}, apply(document, {dimension.path: value})))
        points = wider
    return [point for point, _ in points]
