"""Cross-validation: every scan that is not closed away is held out once, and all answers to held-out scans are judged.

Each fold is an ordinary run with sides of its own (`parting`, `rounds`). Its best epoch is chosen on scans set aside
within the fold, never on what it is then asked about, and the test side of the data set stays closed. The out-of-fold
answers are put in one pool, so that the interval is a bootstrap over all patients; the spread over folds stands beside
it. An interval from the spread of folds alone would be too narrow: folds share what they learned from, and no unbiased
estimate of that variance exists (Bengio and Grandvalet, JMLR 5:1089, 2004).

Pooling answers of several networks is exact for figures that are counted case by case (accuracy, Dice, PSNR, F1: Forman
and Scholz, SIGKDD Explor 12:49, 2010). Figures that rank scores across cases (AUC, mAP) also compare a score of one
network with one of another, which mostly costs a little; the mean over folds has no such part and is told beside.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from builder import leaks, task
from builder.branch import Branch
from builder.data import Dataset
from builder.evaluate import answered, evaluate, kept
from builder.folds import FOLDS, REPEATS, FoldError, pool, sides_of_folds
from builder.measures import bootstrap
from builder.measures.bootstrap import RESAMPLES
from builder.rounds import Member, Round, RoundStore, numbered
from builder.runs import Run
from builder.spec import Experiment

KIND = "folds"
RANKED = ("auc", "average_precision", "map", "map50", "map30", "map10", "cpm")
"""Figures that compare scores of one case with those of another: see above."""
APART = 0.02
"""How far pooled and mean figures may lie apart before it is said that the networks' scores are on other scales."""
_OF_FOLD = 200  # resamples of a fold's own report: its intervals are read on the page of its run only


def members(dataset: Dataset, experiment: Experiment, folds: int = 5, repeats: int = 1, seed: int = 0) -> list[Member]:
    """The runs of a cross-validation of `experiment`: fold after fold, repeat after repeat.

    A repeat folds anew and begins with other weights (its seed is one more), so that both kinds of luck are in the
    spread. Cases of `data.exclude` are never learned from; they are held out and judged like any other.

    Raises:
        FoldError: numbers out of range, or fewer patients than the folds need.
    """
    if not REPEATS[0] <= repeats <= REPEATS[1]:
        raise FoldError(f"The number of repeats must lie between {REPEATS[0]} and {REPEATS[1]}, not {repeats}.")
    if not FOLDS[0] <= folds <= FOLDS[1]:
        raise FoldError(f"The number of folds must lie between {FOLDS[0]} and {FOLDS[1]}, not {folds}.")
    kind = task.find(experiment.task)
    usable = np.union1d(*(kind.cases(dataset, experiment, side) for side in ("train", "val")))
    cases = pool(dataset, usable)
    if not len(cases):
        raise FoldError(f"The data set {dataset.name!r} has no labelled scan outside its test side: nothing to fold.")
    plain = bare(experiment)
    found = []
    for repeat in range(repeats):
        base = plain.replace("training.seed", plain.training.seed + repeat)
        for fold, sides in enumerate(sides_of_folds(dataset, cases, folds, seed + repeat, experiment.data.exclude)):
            words = f"fold {fold + 1} of {folds}" + (f", repeat {repeat + 1}" if repeats > 1 else "")
            about = {"words": words, "fold": fold, "folds": folds, "repeat": repeat}
            found.append(Member(about, base, sides))
    return numbered(found)


def bare(experiment: Experiment) -> Experiment:
    """The document without what sides of one's own take the place of (cases left out) and without a search."""
    plain = experiment.replace("data.exclude", ())
    return plain if plain.search is None else plain.replace("search", None)


def begin(
    home: Path,
    experiment: Experiment,
    folds: int = 5,
    repeats: int = 1,
    seed: int = 0,
    *,
    of: str = "",
    queue: bool = True,
) -> Round:
    """Begins a cross-validation; its runs join the queue.

    Args:
        of: id of the run whose document this is, if any: its own figure is set beside.
    Raises:
        FoldError: as `members`. UnknownDataset, StoreError.
    """
    dataset = Dataset.open(home, experiment.data.dataset)
    made = members(dataset, experiment, folds, repeats, seed)
    settings = {"folds": folds, "repeats": repeats, "seed": seed}
    return RoundStore(home).begin(KIND, experiment, made, settings, of=of, queue=queue)


def gather(
    one: Round, resamples: int = RESAMPLES, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Asks each fold about what was held out of it, pools the answers and judges the pool; kept in the round.

    Returns, as JSON data: {round, kind, runs, folds, repeats, seed, task, n, patients, classes, headline, metrics
    {name: {value, low, high (pooled), folds [(repeats * folds)], mean, sd (over folds), ranked, higher}}, members
    [{run, words, fold, repeat, n, value (of the headline)}], report (the task's own, of the first repeat's pool),
    single {run, split, metrics} or None, dataset, synthetic, edited, leaky (the stamp, "" where nothing that was held
    out was learned from), notes, interval}. Predictions stay in the round's folder as `out-of-fold-<repeat>.npz`.

    Raises:
        FoldError: not all folds have learned to their end. PredictError, EvaluateError: as `evaluate`.
    """
    view = one.view()
    if not view.ended:
        raise FoldError(f"{view.done} of {len(view.views)} folds have ended: the others must learn first.")
    experiment, settings, parts = one.experiment, one.settings, one.members()
    kind = task.find(experiment.task)
    dataset = Dataset.open(one.home, experiment.data.dataset)
    told: list[tuple[Member, task.Examined, dict[str, Any]]] = []
    for number, member in enumerate(parts):
        run = Run(one.home, member.run)
        report = evaluate(run, one.home, "test", resamples=_OF_FOLD)
        examined = kept(run, "test")
        assert examined is not None
        told.append((member, examined, report))
        if progress:
            progress(number + 1, len(parts) + 1)
    classes, multi_label = dataset.classes, dataset.multi_label
    pools = []
    for repeat in range(int(settings["repeats"])):
        answers = kind.pooled([examined for member, examined, _ in told if member.about["repeat"] == repeat])
        pools.append(answers)
        draft = one.folder / f".out-of-fold-{repeat}.{os.getpid()}.npz"
        np.savez_compressed(draft, **answers)  # type: ignore[arg-type]
        os.replace(draft, one.folder / f"out-of-fold-{repeat}.npz")
    whole, metrics = judged(kind, pools, classes, multi_label, resamples)
    leaky = leaks.of_runs(Run(one.home, member.run) for member in parts).stamp
    for name, figure in metrics.items():
        values = [report["metrics"].get(name, {}).get("value") for _, _, report in told]
        figure |= _spread(values)
        figure |= {"folds": values, "ranked": name in RANKED, "higher": kind.metrics.get(name)}
    found = {
        **settings,
        "task": experiment.task,
        "n": whole["n"],
        "patients": whole["patients"],
        "classes": list(classes),
        "headline": kind.headline if kind.headline in metrics else next(iter(metrics), ""),
        "metrics": metrics,
        "members": [
            {
                "run": member.run,
                **member.about,
                "n": report["n"],
                "value": report["metrics"].get(kind.headline, {}).get("value"),
            }
            for member, _, report in told
        ],
        "report": {**whole, "metrics": {n: {k: f[k] for k in ("value", "low", "high")} for n, f in metrics.items()}},
        "single": _single(one, kind),
        "dataset": dataset.id,
        "synthetic": dataset.synthetic,
        "edited": dataset.edited,
        "leaky": leaky,
        "notes": [*notes(metrics, settings, len(pools[0]["patients"]), leaky), *_begun(one)],
        "interval": whole.get("interval", bootstrap.described(resamples)),
    }
    return one.keep(found)


def judged(
    kind: task.Task, pools: Sequence[task.Examined], classes: tuple[str, ...], multi_label: bool, resamples: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the task's report of the first pool, {metric: {value, low, high}} averaged over pools of the same patients)."""
    if len(pools) == 1:
        whole = kind.report(pools[0], classes, multi_label, resamples)
        return whole, {name: dict(figure) for name, figure in whole["metrics"].items()}
    noted = []
    for answers in pools:
        with bootstrap.noting() as asked:
            whole = kind.report(answers, classes, multi_label, 2)
        noted.append(asked)
    first = kind.report(pools[0], classes, multi_label, resamples)
    averaged = bootstrap.averaged(noted, resamples)
    return first, {name: averaged[name] for name in whole["metrics"] if name in averaged}


def _begun(one: Round) -> list[str]:
    """Warnings about what every fold begins with: weights that may know what is held out of it, or nothing, where the
    run that this is about went on from another one."""
    found, experiment = [], one.experiment
    if experiment.weights or any(node.params.get("weights") == "file" for node in experiment.network):
        found.append(
            "Every fold begins with stored weights. If they were learned from these scans, no scan was really held out "
            "and the figures are too good."
        )
    of = str(one.plan.get("of") or "")
    if of and Branch.of(Run(one.home, of).folder) is not None:
        found.append(
            "The run that this is about went on from another one. Every fold began its settings anew, so these are the "
            "figures of another recipe."
        )
    return found


def _spread(values: Sequence[float | None]) -> dict[str, float | None]:
    """Mean and standard deviation over folds where a fold has the figure."""
    known = [value for value in values if value is not None]
    return {
        "mean": float(np.mean(known)) if known else None,
        "sd": float(np.std(known, ddof=1)) if len(known) > 1 else None,
    }


def _single(one: Round, kind: task.Task) -> dict[str, Any] | None:
    """What the run that this is about reached on the validation side it chose its epoch by."""
    of = str(one.plan.get("of") or "")
    run = Run(one.home, of) if of else None
    if run is None or not (run.folder / "best.safetensors").is_file():
        return None
    classes, multi_label, examined = answered(run, one.home, "val")
    report = kind.report(examined, classes, multi_label, _OF_FOLD)
    return {"run": of, "split": "val", "n": report["n"], "metrics": report["metrics"]}


def notes(
    metrics: Mapping[str, Mapping[str, Any]], settings: Mapping[str, Any], cases: int, leaky: str = ""
) -> list[str]:
    """What a reader of the figures should know; the stamp of a leak takes the place of what it makes untrue."""
    folds, repeats = int(settings["folds"]), int(settings["repeats"])
    apart = leaky or "Each scan was answered by a network that had seen no scan of its patient."
    found = [
        f"{apart} {folds} networks answered in all"
        + (f", {repeats} times over." if repeats > 1 else ".")
        + " The test scans stayed closed."
    ]
    for name, figure in metrics.items():
        value, mean = figure.get("value"), figure.get("mean")
        if figure.get("ranked") and value is not None and mean is not None and abs(value - mean) > APART:
            found.append(
                f"{name}: {value:.3f} in the pool, {mean:.3f} as the mean over folds. The networks' scores are not on "
                "one scale, so the mean over folds says more about one network."
            )
        low, high = figure.get("low"), figure.get("high")
        sd = figure.get("sd")
        if figure.get("ranked") and None not in (sd, low, high) and sd > (high - low):  # type: ignore[operator]
            found.append(
                f"{name} differs more from fold to fold (standard deviation {sd:.3f}) than the interval says: which "
                "scans it learned from matters much. More data, or more repeats, would tell more."
            )
    if cases / folds < 20:
        found.append(f"About {cases / folds:.0f} scans a fold: the figure of one fold alone says next to nothing.")
    return found


def words(found: Mapping[str, Any]) -> str:
    """The result in one sentence."""
    name = str(found["headline"])
    figure = found["metrics"].get(name)
    if not figure or figure["value"] is None:
        return "No figure is defined on the held-out scans."
    value = f"{figure['value']:.3f}"
    if figure["low"] is not None:
        value += f" (95 % interval {figure['low']:.3f} to {figure['high']:.3f})"
    spread = "" if figure.get("sd") is None else f"; over folds {figure['mean']:.3f} ± {figure['sd']:.3f}"
    return f"{name} {value} over {found['n']:,} held-out scans of {found['patients']:,} patients{spread}."
