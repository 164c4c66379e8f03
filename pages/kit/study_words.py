"""A search in words: its objectives, its choices, their values, the state of a trial."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from builder.parts.search import COSTS
from builder.search import space
from builder.search.studies import Study, StudyView
from builder.spec import Experiment
from pages.kit import locks
from pages.kit.curves import name_words

__all__ = ["STATES", "experiment_of", "metric_words", "names_of", "number_words", "option_words", "titles_of"]

STATES = {
    "queued": "waiting",
    "running": "running",
    "done": "done",
    "pruned": "ended early",
    "failed": "failed",
    "refused": "over a limit",
    "stopped": "stopped",
    "lost": "lost",
}
"""What became of a trial, in words."""


def metric_words(name: str) -> str:
    """Returns an objective in words."""
    return COSTS[name].title if name in COSTS else name_words(f"val/{name}").removeprefix("validation ")


def names_of(view: StudyView) -> list[str]:
    """What the search looks for, in words."""
    return [words[:1].upper() + words[1:] for words in map(metric_words, view.objectives)]


@lru_cache(maxsize=64)
def _document(folder: Path) -> Experiment:
    return Experiment.loads((folder / "experiment.json").read_text(encoding="utf-8"))


def experiment_of(study: Study) -> Experiment:
    """The document of a search; it never changes, so it is read once."""
    return _document(study.folder)


@lru_cache(maxsize=64)
def _titles(folder: Path) -> dict[str, str]:
    experiment = _document(folder)
    unlocked = experiment.search.dimensions if experiment.search else ()
    return {d.path: locks.title(d.path, space.reachable(experiment, d.path)) for d in unlocked}


def titles_of(study: Study) -> dict[str, str]:
    """The words of each unlocked choice, by its path."""
    return _titles(study.folder)


def number_words(value: float) -> str:
    """Returns what a trial reached: 0.8872, or 31,000."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def option_words(path: str, value: Any) -> str:
    """Returns what a trial chose at `path`, in words."""
    return locks.option_words(path, value)
