"""Two runs side by side: what differs in their documents, and whether one is shown to be better on the same cases.

Both runs answered the very same cases; patients are drawn with replacement and both are judged on each draw, so what
makes a patient hard is the same for both and drops out of the difference (paired bootstrap: Efron and Tibshirani 1993,
ch. 13; over patients, as every interval here).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from builder import leaks, task
from builder.data import Dataset
from builder.evaluate import answered, evaluation, kept
from builder.measures import bootstrap
from builder.measures.bootstrap import RESAMPLES
from builder.measures.classes import Predictions
from builder.measures.delong import delong
from builder.parting import Parting
from builder.runs import Run

LOWER = (
    "loss",
    "rmse",
    "brier",
    "ece",
    "hd95_mm",
    "hd95_px",
    "missed",
    "false_positive_rate",
    "false_alarms_per_image",
)
"""Figures of which less is better, besides those that a task says so of."""
HIGHER = ("nsd", "iou", "patient_dice", "patient_iou", "map", "map50", "map30", "map10", "cpm", "psnr_gain_db")


class CompareError(ValueError):
    """Two runs that cannot be compared as asked. Its text is one sentence for people."""


def compare(
    first: Run,
    second: Run,
    home: Path,
    split: str = "val",
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Whether `second` is shown to be better than `first` on the cases of a split of their common data set.

    The test side is only compared where both runs were evaluated on it: comparing opens it no further time.

    Returns, as JSON data: {first, second (ids), split, n, patients, metrics: {name: {first, second, difference (of
    second from first), low, high, better ("higher", "lower" or ""), verdict ("better", "worse",
    "not shown", "differs", "same" or "undefined"), words; and where a figure leaves other cases out of the two: both,
    undefined_first, undefined_second (see `bootstrap.differences`)}}, watched (the figure the first run was chosen by,
    "" where it is not among them), delong {class: see `measures.delong`} where classes are told apart, confidence,
    resamples, notes}.

    Raises:
        CompareError: other tasks, data sets, cases or true answers, or a test side that one of them has not been
            evaluated on.
    """
    if first.id == second.id:
        raise CompareError("These are the same run: choose two.")
    one, other = first.experiment, second.experiment
    if one.task != other.task or one.data.dataset != other.data.dataset:
        raise CompareError("Only runs of the same task on the same data set can be compared case by case.")
    kind = task.find(one.task)
    if split == "test":
        dataset = Dataset.open(home, one.data.dataset)
        # Each with the classes that it was taught: the data set may have got more since.
        found = [
            (tuple((evaluation(run, "test") or {}).get("classes") or dataset.classes), dataset.multi_label, examined)
            for run in (first, second)
            for examined in (kept(run, "test"),)
        ]
        if any(examined is None for *_, examined in found):
            raise CompareError(
                "Both runs must be evaluated on the test scans first: comparing does not open the test side again."
            )
    else:
        found = [answered(run, home, split, progress) for run in (first, second)]
    if found[0][0] != found[1][0]:
        raise CompareError(
            f"One run was taught the classes {', '.join(found[0][0])}, the other {', '.join(found[1][0])}: only runs "
            "that tell the same classes apart can be compared."
        )
    told = [examined for *_, examined in found if examined is not None]
    _same_cases((first, second), *told)
    _same_truth(kind, (first, second), told, split)
    noted = []
    for classes, multi_label, examined in found:
        assert examined is not None
        with bootstrap.noting() as asked:
            report = kind.report(examined, classes, multi_label, resamples=2, seed=seed)
        noted.append((asked, report["metrics"], examined))
    metrics: dict[str, Any] = {}
    for a, b in zip(noted[0][0], noted[1][0], strict=False):
        for name, figure in bootstrap.differences(a, b, resamples, seed).items():
            if name in noted[0][1] and name in noted[1][1] and name not in metrics:
                metrics[name] = _told(figure, name, kind.metrics)
    order = [name for name in (kind.headline, *noted[0][1]) if name in metrics]
    tested = _tested(found[0][0], noted[0][2], noted[1][2])
    watched = one.training.monitor if one.training.monitor in metrics else ""
    return {
        "first": first.id,
        "second": second.id,
        "split": split,
        "n": len(noted[0][2]["cases"]),
        "patients": len(np.unique(noted[0][2]["patients"])),
        "metrics": {name: metrics[name] for name in dict.fromkeys(order)},
        "watched": watched,
        "delong": tested,
        "confidence": bootstrap.CONFIDENCE,
        "resamples": resamples,
        "notes": [*_stamps(first, second), *_delong_words(tested), *_notes(split, len(metrics))],
    }


def _same_cases(runs: Sequence[Run], one: task.Examined, other: task.Examined) -> None:
    cases = [set(map(str, examined["cases"])) for examined in (one, other)]
    if cases[0] == cases[1]:
        return
    words = (
        f"The two runs were asked about other cases ({len(cases[0])} and {len(cases[1])}, "
        f"{len(cases[0] & cases[1])} in common)"
    )
    own = [Parting.of(run.folder) for run in runs]
    if own[0] != own[1]:
        parts = ", ".join(f"run {run.id} is {p.words}" for run, p in zip(runs, own, strict=True) if p is not None)
        raise CompareError(f"{words}: {parts}, and each part of such a question has sides of its own.")
    raise CompareError(f"{words}: evaluate both again, since scans or labels have come in between.")


def _same_truth(kind: task.Task, runs: Sequence[Run], told: Sequence[task.Examined], split: str) -> None:
    """Refuses what was judged by other true answers, with why they are others: a difference would be theirs."""
    one, other = (kind.truth(examined) for examined in told)
    apart = [name for name in one if name in other and not _alike(one[name], other[name])]
    if not apart:
        return
    changed = runs[0].experiment.diff(runs[1].experiment)
    asked = {path.removeprefix("data."): pair for path, pair in changed.items() if path.startswith("data.")}
    ways = [
        f"{name}: {' and '.join('none' if value is None else str(value) for value in pair)}"
        for name, pair in asked.items()
        if name not in ("exclude", "leaks")
    ]
    edits = [(evaluation(run, split) or {}).get("edited") for run in runs] if split == "test" else [0, 0]
    words = f"The two runs were judged by different {' and '.join(apart)}, so a difference says nothing of the networks"
    if edits[0] != edits[1] or not ways:
        words += "; labels or scans have changed between their evaluations: evaluate both again"
    if ways:
        words += f"; their Data settings differ ({', '.join(ways[:6])}): take runs that are asked alike"
    raise CompareError(f"{words}.")


def _alike(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays hold the same; what was measured but for the rounding of another machine."""
    if one.shape != other.shape:
        return False
    if one.dtype.kind != "f":
        return bool(np.array_equal(one, other))
    return bool(np.allclose(one, other, rtol=1e-4, equal_nan=True))


def _told(figure: Mapping[str, float | None], name: str, known: Mapping[str, bool]) -> dict[str, Any]:
    """One figure with its verdict and a sentence, and with which cases it leaves out."""
    told = _verdict(figure, name, known)
    if "both" in figure:
        told["words"] += (
            f" Taken over the {figure['both']} that have it in both; it is undefined in "
            f"{figure['undefined_first']} more for the first and in {figure['undefined_second']} more for the second."
        )
    return told


def _verdict(figure: Mapping[str, float | None], name: str, known: Mapping[str, bool]) -> dict[str, Any]:
    """The figure with what it says of the second run."""
    rising = known.get(name, True if name in HIGHER else False if name in LOWER else None)
    better = "" if rising is None else "higher" if rising else "lower"
    difference, low, high = figure["difference"], figure["low"], figure["high"]
    told = {**figure, "better": better}
    if difference is None:
        return {**told, "verdict": "undefined", "words": "One of the two has no such figure here."}
    if low is None or high is None:
        return {**told, "verdict": "undefined", "words": "One patient: nothing can be said about others."}
    span = f"{difference:+.3f}, 95 % interval {low:+.3f} to {high:+.3f}"
    if low == high == 0:
        return {**told, "verdict": "same", "words": "The same on every draw of patients."}
    if low <= 0 <= high:
        word = "better" if rising is not None else "different"
        return {**told, "verdict": "not shown", "words": f"The second is not shown to be {word}: {span}."}
    if rising is None:
        word = "higher" if difference > 0 else "lower"
        return {**told, "verdict": "differs", "words": f"The second is {word}: {span}."}
    good = (difference > 0) == rising
    return {
        **told,
        "verdict": "better" if good else "worse",
        "words": f"The second is {'better' if good else 'worse'}: {span}.",
    }


def _tested(classes: Sequence[str], first: task.Examined, second: task.Examined) -> dict[str, Any]:
    """{class: DeLong's test of its area under the ROC curve} over the cases whose class is known; of two classes the
    second, {} where none are told."""
    one, other = Predictions.of(first), Predictions.of(second)
    if one is None or other is None or one.probabilities.shape != other.probabilities.shape:
        return {}
    order = [np.argsort(told.cases) for told in (one, other)]
    scores = [told.probabilities[at] for told, at in zip((one, other), order, strict=True)]
    labels, patients = one.labels[order[0]], one.patients[order[0]]
    found = {}
    for k, name in enumerate(classes):
        if not one.multi_label and len(classes) == 2 and k == 0:
            continue  # its area is that of the second
        positive = labels[:, k] > 0 if one.multi_label else labels == k
        told = delong(scores[0][:, k], scores[1][:, k], positive, patients)
        if told is not None:
            found[name] = told
    return found


def _delong_words(tested: Mapping[str, Any]) -> list[str]:
    if not tested:
        return []
    told = [
        f"{name} {test['difference']:+.3f} ({test['low']:+.3f} to {test['high']:+.3f}), "
        f"p {'< 0.001' if test['p'] < 0.001 else '= ' + format(test['p'], '.3f')}"
        for name, test in tested.items()
    ]
    return [f"DeLong's test of the AUC, cases of one patient counted together: {'; '.join(told)}."]


def _stamps(first: Run, second: Run) -> list[str]:
    found = {which: leaks.of_run(run).stamp for which, run in (("first", first), ("second", second))}
    if found["first"] == found["second"]:
        return [found["first"]] if found["first"] else []
    return [f"Of the {which} run: {stamp}" for which, stamp in found.items() if stamp]


def _notes(split: str, num: int) -> list[str]:
    found = []
    if split == "val":
        found.append(
            "The validation scans also chose the best epoch of both runs, which flatters both a little; the test scans "
            "do not."
        )
    if num > 1:
        found.append(
            f"Of {num} figures one in twenty seems to differ by chance alone: decide beforehand which of them counts."
        )
    return found
