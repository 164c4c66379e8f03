"""Which recipe: chosen on what the first fold of a cross-validation learns from, before any fold is asked.

What the first fold holds out is on no side here. The rest is parted into four; each candidate learns three parts and
is judged on the fourth, `PARTS` times, which also chooses the epoch: a little kind, to all candidates alike. The one
with the best mean over figures and parts is taken. The other folds hold out what has had a say in this, so a figure
over all folds is a little kind, too; that of the first fold is not.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import trials

from builder import folds, task
from builder.data import Dataset
from builder.events import OF as OF_CLASS
from builder.parting import Parting
from builder.runs import Run, RunStore
from builder.spec import Experiment

PARTS, OF = 2, 4


def chosen(
    home: Path, name: str, recipes: Mapping[str, Experiment], figures: Sequence[str], num_folds: int, beside: int
) -> str:
    """The name of the best of `recipes`; what was found is kept as results/<name>_choice.json, and read from there.

    Args:
        figures: of the validation, such as "val/auc", of which the mean decides.
    """
    place = trials.RESULTS / f"{name}_choice.json"
    if place.is_file():
        return str(json.loads(place.read_text())["chosen"])
    first = next(iter(recipes.values()))
    sides = parts(Dataset.open(home, first.data.dataset), first, num_folds)
    jobs = []
    for number, own in enumerate(sides[:PARTS]):
        for recipe, experiment in recipes.items():
            run = RunStore(home).create(experiment, queue=False)
            Parting(own, {"words": f"{recipe}, part {number + 1}"}).write(run.folder)
            jobs.append((recipe, run))
    with ThreadPoolExecutor(max(1, beside)) as crew:
        list(crew.map(lambda job: trials.learn(job[1], 1), jobs))
    rows: dict[str, dict[str, Any]] = {}
    for recipe in recipes:
        told = [best(run) for named, run in jobs if named == recipe]
        means = {figure: round(statistics.fmean(one[figure] for one in told), 4) for figure in figures}
        seconds = round(sum(run.view().seconds for named, run in jobs if named == recipe), 1)
        rows[recipe] = {**means, "parts": told, "seconds": seconds}
    winner = max(rows, key=lambda recipe: statistics.fmean(rows[recipe][figure] for figure in figures))
    found = {"chosen": winner, "figures": list(figures), "machine": trials.machine(), "recipes": rows}
    place.write_text(json.dumps(found, indent=2) + "\n")
    return winner


def parts(dataset: Dataset, experiment: Experiment, num_folds: int) -> list[dict[str, str]]:
    """{id of a case: "train" or "val"} of each part; who the first of `num_folds` folds holds out is in none."""
    kind = task.find(experiment.task)
    usable = np.union1d(*(kind.cases(dataset, experiment, side) for side in ("train", "val")))
    held = folds.sides_of_folds(dataset, folds.pool(dataset, usable), num_folds)[0]
    rest = [k for k in folds.pool(dataset, usable) if held.get(dataset.cases[k].id) in ("train", "val")]
    inner = folds.sides_of_folds(dataset, np.array(rest), OF, seed=1)
    return [{case: "val" if side == "test" else "train" for case, side in one.items()} for one in inner]


def best(run: Run) -> dict[str, float]:
    """What the validation said of the epoch that is kept: {name of a figure: value} and the epoch."""
    view = run.view()
    if view.status != "done" or view.best is None:
        raise SystemExit(f"The run {run.id} ended as {view.status}: {view.reason}")
    lines = map(json.loads, (run.folder / "events.jsonl").read_text().splitlines())
    ended = {row["epoch"]: row["metrics"] for row in lines if "train/loss" in (row.get("metrics") or {})}
    told = {name: round(value, 4) for name, value in ended[view.best["epoch"]].items() if OF_CLASS not in name}
    return told | {"epoch": view.best["epoch"], "epochs": view.epoch}


def words(name: str) -> list[str]:
    """The choice as Markdown."""
    found = json.loads((trials.RESULTS / f"{name}_choice.json").read_text())
    figures = found["figures"]
    return [
        f"Recipe: *{found['chosen']}*, chosen on what the first fold learns from, before the folds were asked. Each "
        f"candidate learned {OF - 1} of {OF} parts of it and was judged on the rest, {PARTS} times (the epoch was "
        "chosen there, too: a little kind to all). The other folds hold out what had a say in this choice.",
        "",
        f"| recipe | {' | '.join(figure.removeprefix('val/').replace('_', ' ') for figure in figures)} | each part |",
        f"|---|{'---|' * len(figures)}---|",
        *(
            f"| {'**' + recipe + '**' if recipe == found['chosen'] else recipe} | "
            f"{' | '.join(f'{row[figure]:.3f}' for figure in figures)} | "
            f"{', '.join(f'{part[figures[0]]:.3f}' for part in row['parts'])} |"
            for recipe, row in found["recipes"].items()
        ),
    ]
