"""The same recipe begun with other seeds: how much of a figure is the luck of one training.

A run's interval says how far its figure would move with other patients; it knows nothing of how far it moves when the
same network is taught once more (Bouthillier et al., MLSys 2021). Where runs of the same document but the seed have
answered the same scans, their least and largest figure and their standard deviation are told beside it.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from statistics import stdev
from typing import Any

from builder.branch import Branch
from builder.evaluate import evaluation
from builder.parting import FILE as SIDES
from builder.runs import Run, RunStore, read_json
from builder.spec import SpecError

__all__ = ["siblings", "spread", "words"]


def siblings(run: Run, home: Path) -> list[Run]:
    """Runs that were begun with the document of `run` but another seed, itself first; of one seed only the newest.

    The name and what a search may try make no difference. A branch goes on from the weights of another run, and a run
    with sides of its own learns from other scans: these are no siblings of one that does not.
    """
    recipe = _recipe(str(run.folder))
    if recipe is None:
        return [run]
    found = {recipe[2]: run}
    for other in RunStore(home).runs():
        own = _outline(str(other.folder)) if other.id != run.id else None
        if own is None or own != _outline(str(run.folder)):
            continue  # another task, data set or number of layers: its document need not be understood
        told = _recipe(str(other.folder))
        if told is not None and told[:2] == recipe[:2]:
            found.setdefault(told[2], other)
    return list(found.values())


def spread(run: Run, home: Path, split: str = "test") -> dict[str, Any] | None:
    """How each figure moves over the siblings that were asked about the same scans.

    Returns: {seeds [...], runs [ids], unasked (siblings that were not asked about these scans), metrics {name: {low,
        high (least and largest), sd, n}}}; None where no other seed was ever tried, or `run` was not asked.
    """
    found = evaluation(run, split)
    family = siblings(run, home)
    if found is None or len(family) < 2:
        return None
    same = {name: found.get(name) for name in ("dataset", "n", "edited")}
    asked = []
    for one in family:
        told = evaluation(one, split) if _fresh(one, split) else None
        if told is not None and {name: told.get(name) for name in same} == same:
            asked.append((one, told))
    metrics: dict[str, dict[str, float | int]] = {}
    for name in found["metrics"]:
        values = [told["metrics"].get(name, {}).get("value") for _, told in asked]
        known = [float(value) for value in values if value is not None]
        if len(known) > 1:
            metrics[name] = {"low": min(known), "high": max(known), "sd": stdev(known), "n": len(known)}
    return {
        "seeds": [one.experiment.training.seed for one, _ in asked],
        "runs": [one.id for one, _ in asked],
        "unasked": len(family) - len(asked),
        "metrics": metrics,
    }


def words(figure: dict[str, float | int]) -> str:
    """ "0.862 to 0.894, SD 0.016" of one figure of `spread`."""
    return f"{figure['low']:.3f} to {figure['high']:.3f}, SD {figure['sd']:.3f}"


def _fresh(run: Run, split: str) -> bool:
    """Whether a run was asked after it had learned for the last time."""
    try:
        learned = (run.folder / "best.safetensors").stat().st_mtime
        return (run.folder / f"evaluation-{split}.json").stat().st_mtime >= learned
    except OSError:
        return False


@lru_cache(maxsize=4096)
def _outline(folder: str) -> tuple[str, str, int] | None:
    """(task, data set, number of layers) of a run; documents never change."""
    document = read_json(Path(folder) / "experiment.json") or {}
    try:
        return str(document["task"]), str(document["data"]["dataset"]), len(document["network"])
    except (KeyError, TypeError):
        return None


@lru_cache(maxsize=1024)
def _recipe(folder: str) -> tuple[str, str, int] | None:
    """(digest of the document but its seed, what it learned from, seed) of a run; None for one that has no siblings."""
    place = Path(folder)
    if Branch.of(place) is not None:
        return None
    try:
        experiment = Run(place.parents[1], place.name).experiment
        sides = (place / SIDES).read_text() if (place / SIDES).is_file() else ""
    except (SpecError, OSError):
        return None
    plain = experiment.replace("training.seed", 0).replace("name", "recipe")
    return plain.digest, sides, experiment.training.seed
