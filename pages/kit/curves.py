"""From what runs have told to the lines of a chart: which axis, how smooth, how many points, which epoch was best."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from builder.measures.named import spoken, with_value
from builder.runs import OF, TIME, RunView
from pages.kit.charts import Points, reached, smooth

__all__ = [
    "AXES",
    "NOISY",
    "Line",
    "across",
    "axes",
    "best_at",
    "best_value",
    "best_words",
    "latest",
    "lines",
    "name_words",
    "of_score",
    "scores",
    "steps_at",
    "title",
]

AXES = ("step", "epoch", "minutes")
NOISY = ("step/loss", "step/gradient", "step/scans_per_s")  # what a mean may stand for; a learning rate is no noise
_POINTS = 300
_SMOOTHED_POINTS = 750  # smoothing walks point by point; more than these no eye tells apart
BY_CLASS = " by class"
"""Behind the name of a score: its curves of all classes together."""


@dataclass(frozen=True)
class Line:
    """One line of a chart: `id` stays the same from update to update; `color` is a place in the theme's palette."""

    id: str
    label: str
    x: list[float]
    y: list[float]
    color: int
    dash: str = "solid"
    width: float = 2.0
    opacity: float = 1.0
    legend: bool = True


def axes(views: Sequence[RunView]) -> tuple[str, ...]:
    """Returns the axes along which all of these runs can be drawn; time only where each has told its times."""
    timed = all(TIME in view.curves for view in views if view.curves)
    return AXES if timed and any(TIME in view.curves for view in views) else AXES[:2]


def across(view: RunView, steps: Sequence[float], axis: str) -> list[float]:
    """Returns where optimizer steps lie on an axis: as they are, in epochs, or in minutes of computing."""
    if axis == "epoch" and view.total and view.epochs:
        return [step * view.epochs / view.total for step in steps]
    if axis == "minutes" and TIME in view.curves:
        return (reached(steps, *view.curves[TIME]) / 60).tolist()
    return list(steps)


def best_at(view: RunView, axis: str) -> float | None:
    """Returns where the best epoch ended on an axis; None while there is none."""
    return None if view.best_step is None else across(view, [view.best_step], axis)[0]


def best_words(view: RunView) -> str:
    """The best score in words, "" while there is none."""
    best = view.best or {}
    if best.get("value") is None:
        return ""
    split, _, metric = str(best["metric"]).partition("/")
    return f"best {'' if split == 'val' else f'{_SPLITS.get(split, split)} '}{with_value(metric, best['value'])}"


def best_value(view: RunView, name: str) -> float | None:
    """Returns what a curve of whole epochs was at the best epoch; None where it was not told."""
    at = best_at(view, "step")
    steps, values = view.curves.get(name, ([], []))
    return next((value for step, value in zip(steps, values, strict=True) if step == at), None)


def latest(view: RunView, name: str) -> float | None:
    """Returns the newest value of a curve; None where it has none."""
    values = view.curves.get(name, ([], []))[1]
    return values[-1] if values else None


def scores(views: Sequence[RunView]) -> list[str]:
    """Returns the names of all curves but the losses and the clock, scores of whole epochs first, then those of single
    classes (of one run also all classes together), then what is told of steps."""
    names = dict.fromkeys(name for view in views for name in view.curves)
    rest = [name for name in names if not name.endswith("/loss") and name != TIME]
    if len(views) == 1:
        rest += list(dict.fromkeys(name.partition(OF)[0] + BY_CLASS for name in rest if OF in name))
    return sorted(rest, key=lambda name: (name.startswith("step/"), OF in name, name.endswith(BY_CLASS)))


def of_score(views: Sequence[RunView], score: str) -> list[str]:
    """Returns the curves that a name of `scores` stands for."""
    if not score.endswith(BY_CLASS):
        return [score]
    begin = score.removesuffix(BY_CLASS) + OF
    return [name for name in dict.fromkeys(n for view in views for n in view.curves) if name.startswith(begin)]


def steps_at(view: RunView, at: tuple[float, float], axis: str) -> tuple[float, float]:
    """Returns a range of an axis as a range of optimizer steps: `across` the other way round."""
    if axis == "epoch" and view.total and view.epochs:
        return at[0] * view.total / view.epochs, at[1] * view.total / view.epochs
    if axis == "minutes" and view.curves.get(TIME, ([], []))[0]:
        known, seconds = view.curves[TIME]
        first, last = bisect_right(seconds, 60 * at[0]) - 1, bisect_left(seconds, 60 * at[1])
        return float(known[max(0, first)]), float(known[min(last, len(known) - 1)])
    return at


def lines(
    views: Sequence[RunView],
    labels: Sequence[str],
    names: Sequence[str],
    *,
    axis: str = "step",
    smoothing: float = 0.0,
    first: int = 0,
    window: tuple[float, float] | None = None,
) -> list[Line]:
    """Returns the lines of `names` for each run, thinned to what an eye can see.

    One run: a colour per name. Several runs: a colour per run, the first name solid and the others dotted. With
    `smoothing` in (0, 1) a running mean stands in front of what is noisy, and the line itself pale behind it. `first`:
    place in the palette of the first colour. `window`: the part of the axis that is looked at closely; it is shown
    finer. The best epoch is a dot on each line of whole epochs.
    """
    made: list[Line] = []
    several = len(views) > 1
    for place, (view, label) in enumerate(zip(views, labels, strict=True)):
        for number, name in enumerate(n for n in names if n in view.curves):
            steps, values = view.curves[name]
            if not steps:
                continue
            words = _LOSSES.get(name) or name_words(name)
            text = f"{label}: {words}" if several else words
            color = place if several else first + names.index(name)
            dash = "dot" if several and number else "solid"
            fine = name in NOISY
            id = f"{view.id}-{name}"  # names of classes and all: of two lines with one id the browser draws one
            curve = Points(steps, values)
            raw_x, raw_y = curve.thinned(_POINTS, steps_at(view, window, axis) if window else None)
            x = across(view, raw_x.tolist(), axis)
            if smoothing > 0 and len(steps) > 2 and name in NOISY:
                soft_x, soft_y = curve.means(_SMOOTHED_POINTS)
                at = across(view, soft_x.tolist(), axis)
                made.append(Line(f"{id}-raw", text, x, raw_y.tolist(), color, dash, 1.0, 0.25, False))
                made.append(Line(id, text, at, smooth(soft_y.tolist(), smoothing).tolist(), color, dash, 1.5, 0.8))
            else:
                thick, pale = (1.0, 0.45) if fine else (2.0, 1.0)
                made.append(Line(id, text, x, raw_y.tolist(), color, dash, thick, pale))
            best = None if fine or name.startswith("step/") else best_value(view, name)
            if best is not None and len(steps) > 1:
                at_best = best_at(view, axis)
                assert at_best is not None
                made.append(Line(f"{id}-best", f"{text}, best epoch", [at_best], [best], color, legend=False))
    return made


_LOSSES = {  # the axis says loss
    "val/loss": "validation",
    "train/loss": "training, varied",
    "train_eval/loss": "training, as they are",
    "step/loss": "single steps",
}
_SPLITS = {"train": "training", "train_eval": "training (scans as they are)", "val": "validation", "step": ""}


def name_words(name: str) -> str:
    """Returns the name of a curve in words: "val/balanced_accuracy" -> "validation balanced accuracy"."""
    split, _, metric = name.partition("/")
    if name == "step/loss":
        return "loss of single steps"
    words = {
        "lr": "learning rate",
        "gradient": "length of the gradient",
        "scans_per_s": "scans a second",
        "memory_mb": "memory in MB",
        "gpu_memory_mb": "memory of the GPU in MB",
    }
    metric, of, which = metric.partition(OF)
    if of:
        return f"{_SPLITS.get(split, split)} {words.get(metric) or spoken(metric)}{OF}{which}".strip()
    if metric.endswith(BY_CLASS):
        return f"{name_words(name.removesuffix(BY_CLASS))}{BY_CLASS}"
    return f"{_SPLITS.get(split, split)} {words.get(metric) or spoken(metric)}".strip()


def title(name: str) -> str:
    """Returns the name of a curve in words, as a title: "val/loss" -> "Validation loss"."""
    words = name_words(name)
    return words[:1].upper() + words[1:]
