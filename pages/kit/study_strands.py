"""All choices of a search at once: a line for each trial through its choices to what it reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from builder.search.studies import TrialView
from builder.spec import Dimension
from pages.kit.study_figures import over, places, short, ticks
from pages.kit.study_words import option_words

__all__ = ["strands"]

_MARKS = 5


def strands(
    trials: Sequence[TrialView],
    dimensions: Sequence[Dimension],
    name: str,
    larger: bool,
    titles: Mapping[str, str],
    at: int = 0,
) -> tuple[list[Any], list[Any]]:
    """Returns (axes, lines) for `scanloom_components.strands`, the better lines behind the poorer, so that they lie on
    top. `name`: of what was reached; `larger`: more of it is better; `at`: the number of the objective."""
    from scanloom_components import Axis, Strand  # only where it is drawn: it registers itself with a running Streamlit

    there = over(trials, at)
    found = [places(dimension, there) for dimension in dimensions]
    axes = [
        Axis(_apart(k, dimensions, titles), list(zip(*ticks(dimension), strict=True)), None in found[k])
        for k, dimension in enumerate(dimensions)
    ]
    reached = np.array([trial.values[at] for trial in there], np.float64)
    low, high = float(reached.min()), float(reached.max())
    heights = (reached - low) / (high - low) if high > low else np.full(len(reached), 0.5)
    marks = [low + k / (_MARKS - 1) * (high - low) for k in range(_MARKS)] if high > low else []
    axes.append(
        Axis(name, [(k / (_MARKS - 1), f"{mark:.3g}") for k, mark in enumerate(marks)] or [(0.5, f"{low:.3g}")])
    )
    shades = heights if larger else 1 - heights
    lines = [
        Strand(
            f"Trial {there[k].number}",
            [*(along[k] for along in found), float(heights[k])],
            [
                *(
                    option_words(d.path, there[k].params[d.path]) if d.path in there[k].params else "none"
                    for d in dimensions
                ),
                f"{reached[k]:.4g}",
            ],
            float(shades[k]),
        )
        for k in np.argsort(shades, kind="stable")
    ]
    return axes, lines


def _apart(k: int, dimensions: Sequence[Dimension], titles: Mapping[str, str]) -> str:
    """The words of a choice; with its number where another choice is called the same."""
    words = [short(dimension.path, titles) for dimension in dimensions]
    return words[k] if words.count(words[k]) == 1 else f"{k + 1} {words[k]}"
