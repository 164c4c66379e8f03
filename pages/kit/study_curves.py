"""The learning curves of all trials in few lines: what ended early in grey, the rest by how good it became."""

from __future__ import annotations

from collections.abc import Sequence

from builder.search.studies import StudyView, TrialView
from pages.kit.charts import thinned
from pages.kit.curves import Line

__all__ = ["lines", "ranked"]

_POINTS = 6_000  # of one picture; more than these no browser draws at ease
_FEW = 12  # so many running trials have a line with a name each
_GRADES = ("the weakest third", "the middle third", "the best third")


def ranked(view: StudyView) -> list[TrialView]:
    """Returns the trials, the best first: by the first objective, those that are over before the others."""

    def rank(trial: TrialView) -> tuple[int, float, int]:
        if not trial.values or trial.status == "running":
            return 2, 0.0, trial.number
        return int(trial.status != "done"), -trial.values[0] if view.rising[0] else trial.values[0], trial.number

    return sorted(view.trials, key=rank)


def lines(view: StudyView, colours: Sequence[str], faint: str) -> list[Line]:
    """Returns a line for each kind of trial, its trials one after another with gaps between.

    Args:
        colours: of the weakest, the middle and the best third, and of the best trial. faint: of what ended early.
    """
    drawn = [trial for trial in view.trials if trial.curve[0]]
    each = max(4, _POINTS // max(1, len(drawn)))
    made: list[Line] = []

    def add(id: str, words: str, some: Sequence[TrialView], color: str, width: float, opacity: float) -> None:
        xs: list[float] = []
        ys: list[float] = []
        for trial in some:
            x, y = thinned(*trial.curve, each // 2)
            xs += [*x.tolist(), float(x[-1])]
            ys += [*y.tolist(), float("nan")]
        if xs:
            made.append(Line(id, words, xs[:-1], ys[:-1], color, "solid", width, opacity))  # type: ignore[arg-type]

    order = [t for t in ranked(view) if t.status == "done" and t.curve[0]][::-1]
    top = order.pop() if order else None
    add("pruned", "ended early", [t for t in drawn if t.status == "pruned"], faint, 1.2, 0.8)
    third = -(-len(order) // 3)
    for k, words in enumerate(_GRADES):
        add(f"grade-{k}", words, order[k * third : (k + 1) * third], colours[k], 1.5, 0.75)
    running = [t for t in drawn if t.status == "running"]
    if len(running) > _FEW:
        add("running", "running", running, colours[4], 2.0, 0.9)
    else:
        for trial in running:
            add(f"running-{trial.number}", f"trial {trial.number}, running", [trial], colours[4], 2.0, 0.9)
    if top is not None:
        add("best", f"trial {top.number}, the best", [top], colours[3], 3.0, 1.0)
    return made
