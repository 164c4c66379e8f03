"""Do I have enough data? The same training with an eighth, a quarter, a half and all of the training patients.

Smaller parts lie within larger ones, hold whole patients and every class in proportion. All trainings take about as
many steps, so that what differs is what they learned from and not how long. Best epochs are chosen within each part;
all are judged on the validation side of the data set, which chooses nothing here; the test side stays closed. Through
the figures goes an inverse power law (`curve_fit`), with a band from draws of patients and the luck of training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from builder import leaks, task
from builder.curve_fit import BAND, REACH, Curve, fit
from builder.data import Dataset
from builder.evaluate import evaluate, kept
from builder.folding import bare
from builder.folds import FoldError, groups_of, labels_of, nested_subsets, set_aside, validation_share
from builder.measures import bootstrap
from builder.parts.training import SCHEDULES
from builder.rounds import Member, Round, RoundStore, numbered
from builder.runs import Run
from builder.spec import Choice, Experiment

KIND = "forecast"
SHARES = (0.125, 0.25, 0.5, 1.0)
DRAWS = 2
GOALS = {"psnr_db": 0.5}
"""What is asked for of a headline figure; 0.02 of any other."""
GOAL = 0.02
RESAMPLES = 1000
_FEWEST = 24  # training patients
_LONGEST = 10_000  # epochs
_WIDE = 6.0  # a band from n to more than so many times n tells nothing one could plan by


def members(
    dataset: Dataset, experiment: Experiment, shares: Sequence[float] = SHARES, draws: int = DRAWS, seed: int = 0
) -> list[Member]:
    """The runs of a forecast, the smallest parts first.

    Args:
        shares: rising, the last is 1. draws: how many parts of each share below 1, each with a seed of its own.
    Raises:
        FoldError: too few patients, no validation side, or shares that are none.
    """
    if sorted(set(shares)) != list(shares) or not shares or shares[0] <= 0 or shares[-1] != 1 or len(shares) < 3:
        raise FoldError("The shares must be three or more rising numbers above 0, the last of them 1.")
    if not 1 <= draws <= 20:
        raise FoldError(f"The number of draws must lie between 1 and 20, not {draws}.")
    kind = task.find(experiment.task)
    unwanted = set(experiment.data.exclude)
    ids = [case.id for case in dataset.cases]
    train = [int(i) for i in kind.cases(dataset, experiment, "train") if ids[i] not in unwanted]
    judged = [int(i) for i in kind.cases(dataset, experiment, "val")]
    if not judged:
        raise FoldError("A forecast is judged on the validation side, which has no labelled scan.")
    if len({dataset.cases[i].patient for i in judged}) < 2:
        raise FoldError("All validation scans are of one patient, so nothing can be said about others.")
    groups, labels = groups_of(dataset), labels_of(dataset)
    own, known = [groups[i] for i in train], [labels[i] for i in train]
    if len(set(own)) < _FEWEST:
        raise FoldError(
            f"A forecast needs {_FEWEST} training patients at least; there are {len(set(own))}: a curve through parts "
            "of so few would be luck."
        )
    plain, found = bare(experiment), []
    for draw in range(draws):
        for share, part in zip(shares, nested_subsets(own, known, shares, seed + draw), strict=True):
            if share == 1 and draw:
                continue
            inside = [i for i in train if groups[i] in part]
            aside = set_aside(
                [groups[i] for i in inside], [labels[i] for i in inside], validation_share(dataset), seed + draw, 0
            )
            sides = {ids[i]: "val" if groups[i] in aside else "train" for i in inside} | {
                ids[i]: "test" for i in judged
            }
            words = f"{100 * share:g} % of the patients" + (f", draw {draw + 1}" if draws > 1 and share < 1 else "")
            about = {"words": words, "share": share, "draw": draw, "cases": len(inside), "patients": len(part)}
            document = _as_long(plain, len(train) / len(inside))
            document = document.replace("training.seed", plain.training.seed + draw)
            found.append(Member(about, document, sides))
    return numbered(sorted(found, key=lambda m: (m.about["share"], m.about["draw"])))


def _as_long(experiment: Experiment, times: float) -> Experiment:
    """The document with as many more epochs as its part is smaller, and as much more of all that is told in epochs."""
    epochs = min(_LONGEST, max(experiment.training.epochs, round(experiment.training.epochs * times)))
    patience = min(_LONGEST, math.ceil(experiment.training.patience * times))
    found = experiment.replace("training.epochs", epochs)
    found = found.replace("training.schedule", _stretched(experiment.training.schedule, times))
    return found.replace("training.patience", min(patience, 1000)) if experiment.training.patience else found


def _stretched(schedule: Choice, times: float) -> Choice:
    """The schedule over epochs that are `times` as short: else the rate of a small part would fall early, and the curve
    would tell of that."""
    part, own = SCHEDULES[schedule.name], dict(schedule.params)
    for param in part.params if times != 1 else ():
        value: Any = own.get(param.name, param.default)
        if "epochs" in param.name:
            own[param.name] = param.nearest(round(value * times))
        elif (schedule.name, param.name) == ("exponential", "decay"):  # what is left after one epoch
            own[param.name] = param.nearest(value ** (1 / times))
    return schedule.model_copy(update={"params": own})


def begin(
    home: Path,
    experiment: Experiment,
    shares: Sequence[float] = SHARES,
    draws: int = DRAWS,
    seed: int = 0,
    *,
    of: str = "",
    queue: bool = True,
) -> Round:
    """Begins a forecast; its runs join the queue. Raises as `members`, and UnknownDataset, StoreError."""
    dataset = Dataset.open(home, experiment.data.dataset)
    made = members(dataset, experiment, shares, draws, seed)
    settings = {"shares": list(shares), "draws": draws, "seed": seed}
    return RoundStore(home).begin(KIND, experiment, made, settings, of=of, queue=queue)


def gather(
    one: Round, resamples: int = RESAMPLES, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Judges each training on the same scans and fits the curve; kept in the round.

    Returns, as JSON data: as `told`, and {round, kind, runs, shares, draws, seed, task, headline, dataset, synthetic,
    n, patients (of those judged), leaky (the stamp, "" where nothing that they are judged on was learned from)}.

    Raises:
        FoldError: not all have learned to their end, or as `drawn`. PredictError, EvaluateError.
    """
    view = one.view()
    if not view.ended:
        raise FoldError(f"{view.done} of {len(view.views)} trainings have ended: the others must learn first.")
    experiment, parts = one.experiment, one.members()
    kind, dataset = task.find(experiment.task), Dataset.open(one.home, experiment.data.dataset)
    name, noted, judged = kind.headline, [], 0
    for number, member in enumerate(parts):
        run = Run(one.home, member.run)
        evaluate(run, one.home, "test", resamples=100)
        examined = kept(run, "test")
        assert examined is not None
        with bootstrap.noting() as asked:
            kind.report(examined, dataset.classes, dataset.multi_label, 2)
        noted.append(next((a for a in asked if name in a.figures(np.ones((1, len(a.patients))))), None))
        judged = len(examined["cases"])
        if progress:
            progress(number + 1, len(parts) + 1)
    if any(a is None for a in noted):
        raise FoldError(f"The figure {name} is not defined on the validation scans, so there is no curve.")
    values = drawn([a for a in noted if a is not None], name, resamples)
    sides = [case.split for case in dataset.cases]
    counts = {
        label: int((dataset.labels[np.array(sides) == "train"] == k).sum())
        for k, label in enumerate(dataset.classes)
        if dataset.labels.ndim == 1
    }
    points = [{**member.about, "run": member.run} for member in parts]
    found = told(points, values, name, counts, higher=kind.metrics.get(name, True), bounded=name not in GOALS)
    found |= stamped(found, [Run(one.home, member.run) for member in parts])
    return one.keep(
        {
            **one.settings,
            "task": experiment.task,
            "headline": name,
            "dataset": dataset.id,
            "synthetic": dataset.synthetic,
            "n": judged,
            "patients": len(np.unique(noted[0].patients)) if noted[0] is not None else 0,
            **found,
        }
    )


def stamped(found: Mapping[str, Any], runs: Sequence[Run]) -> dict[str, str]:
    """{leaky: the stamp of what these runs learned from and are judged on, words: the answer's, behind the stamp}."""
    leaky = leaks.of_runs(runs).stamp
    return {"leaky": leaky, "words": f"{leaky} {found['words']}".lstrip()}


def drawn(noted: Sequence[bootstrap.Asked], name: str, resamples: int) -> np.ndarray:
    """(1 + resamples, P): the figure of each training as it is, then on each draw of patients, the same for all.

    Raises:
        FoldError: one patient, or a training without the figure: there is nothing that could be drawn.
    """
    people = np.unique(noted[0].patients)
    if len(people) < 2:
        raise FoldError("All validation scans are of one patient, so nothing can be said about others.")
    codes = [np.searchsorted(people, one.patients) for one in noted]
    rows = [np.array([float(one.figures(np.ones((1, len(one.patients))))[name][0]) for one in noted])[None]]
    width = max(*(len(of) for of in codes), *(one.width for one in noted))
    for times in bootstrap.draws(people, resamples, 0, noted[0].strata, width):
        rows.append(np.stack([one.figures(times[:, of])[name] for one, of in zip(noted, codes, strict=True)], 1))
    found = np.concatenate(rows)
    whole = np.isfinite(found).all(1)  # a draw without one of the classes has no figure
    if not whole[0] or whole.sum() < 2:
        raise FoldError(f"The figure {name} is not defined on the validation scans for every training.")
    return found[whole]


def told(
    points: Sequence[Mapping[str, Any]],
    values: np.ndarray,
    name: str,
    counts: Mapping[str, int],
    *,
    higher: bool = True,
    bounded: bool = True,
    goal: float | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """What a learning curve says.

    Args:
        points: of each training {cases, share, draw, ...}. values: (B, P) its figure as measured, then on each draw of
            patients. counts: training cases of each class now. goal: the gain that is asked about.
    Returns: {points [{..., value, low, high}], curve {cases, value, low, high}, band, goal, verdict ("needs", "enough"
        or "cannot tell"), needed {cases, low, high (None: no end in sight), per_class} or None, gain_doubled {value,
        low, high}, luck (standard deviation between draws of one size, None with one draw), notes, words}.
    """
    sizes = np.array([float(point["cases"]) for point in points])
    now = float(sizes.max())
    goal = GOALS.get(name, GOAL) if goal is None else goal
    luck = _luck(sizes, values[0])
    rng = np.random.default_rng(seed)
    shaken = values.copy()
    shaken[1:] += rng.normal(0, luck or 0.0, shaken[1:].shape)
    if bounded:
        shaken = shaken.clip(0, 1)
    curve = fit(sizes, shaken, higher=higher, bounded=bounded)
    sign = 1.0 if higher else -1.0
    at = np.unique(np.concatenate([np.geomspace(sizes.min(), REACH * now, 60), sizes]))
    value, low, high = curve.band(at)
    twice = sign * (curve.at(np.array([2 * now])) - curve.at(np.array([now])))[:, 0]
    tails = ((1 - BAND) / 2, (1 + BAND) / 2)
    gain = {"value": float(twice[0]), **dict(zip(("low", "high"), map(float, np.quantile(twice, tails)), strict=True))}
    verdict, needed = _needed(curve, goal, now, counts)
    ends = np.quantile(values[1:], (0.025, 0.975), axis=0) if len(values) > 1 else np.stack([values[0]] * 2)
    found = {
        "points": [
            {**point, "value": float(v), "low": float(a), "high": float(b)}
            for point, v, a, b in zip(points, values[0], *ends, strict=True)
        ],
        "curve": {"cases": at.tolist(), "value": value.tolist(), "low": low.tolist(), "high": high.tolist()},
        "law": {"floor": float(curve.floor[0]), "scale": float(curve.scale[0]), "rate": float(curve.rate[0])},
        "band": BAND,
        "now": now,
        "goal": goal,
        "higher": higher,
        "ceiling": bool(bounded and float(sign * (curve.best - curve.at(np.array([now]))[0, 0])) < goal),
        "verdict": verdict,
        "needed": needed,
        "gain_doubled": gain,
        "luck": luck,
        "notes": _notes(luck, len(values)),
    }
    return {**found, "words": words(found, name)}


def _luck(sizes: np.ndarray, values: np.ndarray) -> float | None:
    """Standard deviation between trainings on parts of one size, pooled over sizes; None where no size has two."""
    squares, freedom = 0.0, 0
    for size in np.unique(np.round(sizes, -int(max(0, math.floor(math.log10(max(1.0, sizes.min()))) - 1)))):
        own = values[np.isclose(sizes, size, rtol=0.1)]
        if len(own) > 1:
            squares, freedom = squares + float(((own - own.mean()) ** 2).sum()), freedom + len(own) - 1
    return math.sqrt(squares / freedom) if freedom else None


def _needed(curve: Curve, goal: float, now: float, counts: Mapping[str, int]) -> tuple[str, dict[str, Any] | None]:
    """Whether the data can tell how many more cases the goal takes, and how many."""
    sizes = curve.size_for(goal, now)
    low, high = (float(v) for v in np.quantile(sizes, ((1 - BAND) / 2, (1 + BAND) / 2), method="nearest"))
    if low > REACH * now:
        return "enough", None
    middle = float(np.quantile(sizes, 0.5, method="nearest"))
    total = sum(counts.values())

    def further(size: float) -> int | None:
        return int(math.ceil(size - now)) if size <= REACH * now else None

    def by_class(size: float) -> dict[str, int] | None:
        more = further(size)
        return None if more is None or not total else {c: math.ceil(more * n / total) for c, n in counts.items()}

    needed = {"cases": further(middle), "low": further(low), "high": further(high), "per_class": by_class(middle)}
    needed["per_class_low"] = by_class(low)
    needed["per_class_high"] = by_class(high)
    told = high <= REACH * now and high - now <= _WIDE * (low - now)
    return ("needs" if told else "cannot tell"), needed


def _notes(luck: float | None, rows: int) -> list[str]:
    found = [
        "A forecast takes for granted that further scans come from where these came from. Scans of another hospital or "
        "scanner can help more than the curve says.",
        "All trainings took about as many steps: the smaller parts were seen more often.",
    ]
    if luck is None:
        found.append(
            "One training of each size: the band does not hold the luck of a training. Take two draws or more."
        )
    return found


def words(found: Mapping[str, Any], name: str) -> str:
    """The answer in one or two sentences."""
    goal, gain, needed = found["goal"], found["gain_doubled"], found["needed"]
    if found["verdict"] == "enough" and found["ceiling"]:
        return (
            f"{name} is within {goal:g} of the most that it can be on these scans, so no number of further cases can "
            f"give {goal:+g}. Harder or other scans to judge by would tell more."
        )
    if found["verdict"] == "enough":
        return (
            f"More of the same data will not help: even {REACH:g} times as many cases would hardly give {goal:+g} "
            f"{name}. Look at labels, image size or the network instead."
        )
    twice = f"Twice as many cases would give {gain['value']:+.3f} {name} ({gain['low']:+.3f} to {gain['high']:+.3f})."
    if found["verdict"] == "needs":
        per = needed["per_class"]
        split = f" ({', '.join(f'{n:,} more {c}' for c, n in per.items())})" if per and len(per) > 1 else ""
        return (
            f"For {goal:+g} {name} about {needed['cases']:,} further cases are needed{split}; the band says "
            f"{needed['low']:,} to {needed['high']:,}. {twice}"
        )
    most = f"more than {REACH:g} times the present number" if needed["high"] is None else f"{needed['high']:,}"
    return (
        f"These data cannot tell how many cases {goal:+g} {name} would take: from {needed['low']:,} further ones to "
        f"{most}. {twice} More validation scans or more draws would narrow the band."
    )
