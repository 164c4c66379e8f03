"""What does a winner give over the default, and is it more than luck? Both trained again with several fresh seeds.

A search shows the best of many trials, and the best of many lucky ones looks better than it is. Here the default and
the winner begin anew with seeds that the search never used, the same seeds for both, and both answer the same
validation scans. The interval of the difference holds the luck of a training (over seeds, Student's t) and that of the
patients (paired bootstrap) together. The search chose by these very scans, so what is left of that flattery only the
estimate with a search inside each fold (`nested`) or the test side can tell.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from builder import task
from builder.data import Dataset
from builder.evaluate import answered
from builder.folding import bare
from builder.folds import FoldError
from builder.forecast import drawn, stamped
from builder.measures import bootstrap
from builder.rounds import Member, Round, RoundStore, numbered
from builder.runs import Run
from builder.spec import Experiment

KIND = "seeds"
SEEDS = (2, 20)
RESAMPLES = 1000
ARMS = ("default", "winner")


def members(default: Experiment, winner: Experiment, seeds: int = 3) -> list[Member]:
    """The runs: for each fresh seed the default and the winner.

    Raises:
        FoldError: a number of seeds out of range, or documents that cannot be compared case by case.
    """
    if not SEEDS[0] <= seeds <= SEEDS[1]:
        raise FoldError(f"The number of seeds must lie between {SEEDS[0]} and {SEEDS[1]}, not {seeds}.")
    if default.task != winner.task or default.data.dataset != winner.data.dataset:
        raise FoldError("Only documents of the same task on the same data set can be compared case by case.")
    if not bare(default).diff(bare(winner).replace("name", default.name)):
        raise FoldError("The winner is the default: there is nothing to compare.")
    first = max(default.training.seed, winner.training.seed) + 1
    found = []
    for seed in range(first, first + seeds):
        for arm, document in zip(ARMS, (default, winner), strict=True):
            plain = document if document.search is None else document.replace("search", None)
            about = {"words": f"{arm}, seed {seed}", "arm": arm, "seed": seed}
            found.append(Member(about, plain.replace("training.seed", seed)))
    return numbered(found)


def begin(
    home: Path, default: Experiment, winner: Experiment, seeds: int = 3, *, of: str = "", queue: bool = True
) -> Round:
    """Begins the comparison; its runs join the queue.

    Args:
        of: id of the study or run that it is about.
    Raises: as `members`, and StoreError.
    """
    made = members(default, winner, seeds)
    changes = {path: list(pair) for path, pair in bare(default).diff(bare(winner)).items() if path != "name"}
    return RoundStore(home).begin(KIND, winner, made, {"seeds": seeds, "changes": changes}, of=of, queue=queue)


def gather(
    one: Round, resamples: int = RESAMPLES, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Asks all about the validation scans and compares seed by seed; kept in the round.

    Returns, as JSON data: as `told`, and {round, kind, runs, seeds, changes, task, headline, dataset, synthetic, n,
    patients, leaky (the stamp, "" where nothing that they are judged on was learned from)}.

    Raises:
        FoldError: not all have learned to their end, or as `forecast.drawn`. PredictError, EvaluateError.
    """
    view = one.view()
    if not view.ended:
        raise FoldError(f"{view.done} of {len(view.views)} trainings have ended: the others must learn first.")
    experiment, parts = one.experiment, one.members()
    kind, dataset = task.find(experiment.task), Dataset.open(one.home, experiment.data.dataset)
    name, noted, judged = kind.headline, [], 0
    for number, member in enumerate(parts):
        classes, multi_label, examined = answered(Run(one.home, member.run), one.home, "val")
        with bootstrap.noting() as asked:
            kind.report(examined, classes, multi_label, 2)
        noted.append(next((a for a in asked if name in a.figures(np.ones((1, len(a.patients))))), None))
        judged = len(examined["cases"])
        if progress:
            progress(number + 1, len(parts) + 1)
    known = [one_asked for one_asked in noted if one_asked is not None]
    if len(known) < len(noted):
        raise FoldError(f"The figure {name} is not defined on the validation scans, so nothing can be compared.")
    values = drawn(known, name, resamples)
    columns = [[k for k, member in enumerate(parts) if member.about["arm"] == arm] for arm in ARMS]
    found = told(values[:, columns[0]], values[:, columns[1]], name, higher=kind.metrics.get(name, True))
    found |= stamped(found, [Run(one.home, member.run) for member in parts])
    found["by_seed"] = [
        {**pair, "seed": int(parts[k].about["seed"])} for k, pair in zip(columns[0], found["by_seed"], strict=True)
    ]
    return one.keep(
        {
            **one.settings,
            "task": experiment.task,
            "headline": name,
            "dataset": dataset.id,
            "synthetic": dataset.synthetic,
            "n": judged,
            "patients": len(np.unique(known[0].patients)),
            **found,
        }
    )


def told(default: np.ndarray, winner: np.ndarray, name: str, higher: bool = True) -> dict[str, Any]:
    """What the figures of both say.

    Args:
        default, winner: (1 + B, S): each seed's figure as it is, then on each draw of patients.
    Returns: {by_seed [{default, winner, difference}], default, winner (means over seeds), difference, low, high (95 %,
        over seeds and patients), sd (of the difference over seeds), verdict ("better", "worse" or "not shown"), words,
        notes}.
    """
    from scipy.stats import t

    apart = winner - default
    seeds = apart.shape[1]
    mean, sd = float(apart[0].mean()), float(apart[0].std(ddof=1))
    of_patients = float(apart[1:].mean(1).std(ddof=1)) if len(apart) > 2 else 0.0
    reach = float(t.ppf(0.975, seeds - 1)) * math.sqrt(sd**2 / seeds + of_patients**2)
    low, high = mean - reach, mean + reach
    verdict = "not shown" if low <= 0 <= high else "better" if (mean > 0) == higher else "worse"
    span = f"{mean:+.3f} {name}, 95 % interval {low:+.3f} to {high:+.3f} over {seeds} seeds and the patients"
    words = {
        "better": f"The winner is better than the default: {span}.",
        "worse": f"The winner is worse than the default: {span}.",
        "not shown": f"The winner is not shown to be better than the default: {span}.",
    }[verdict]
    return {
        "by_seed": [
            {"default": float(a), "winner": float(b), "difference": float(b - a)}
            for a, b in zip(default[0], winner[0], strict=True)
        ],
        "default": float(default[0].mean()),
        "winner": float(winner[0].mean()),
        "difference": mean,
        "low": low,
        "high": high,
        "sd": sd,
        "verdict": verdict,
        "words": words,
        "notes": _notes(seeds),
    }


def _notes(seeds: int) -> Sequence[str]:
    found = [
        "The search chose the winner by these very validation scans, which flatters it: the estimate with the search "
        "inside each fold, or the test scans, tell how much is left.",
    ]
    if seeds < 5:
        found.append(f"{seeds} seeds tell little about the luck of a training; five or more narrow the interval.")
    return found
