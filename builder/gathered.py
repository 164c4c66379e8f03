"""What a round's runs say together: each kind of round has its own way of asking them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from builder import folding, forecast, seeds
from builder.rounds import Round

_WAYS: dict[str, Callable[..., dict[str, Any]]] = {
    folding.KIND: folding.gather,
    forecast.KIND: forecast.gather,
    seeds.KIND: seeds.gather,
}


def gather(one: Round, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Asks the runs of a round and keeps the answer there (`folding.gather`, `forecast.gather`, `seeds.gather`).

    Raises:
        FoldError: not all of them have learned to their end. PredictError, EvaluateError: as elsewhere.
    """
    return _WAYS[one.kind](one, progress=progress)
