"""How good is what a search finds? A whole search inside each outer fold, its winner judged on what was held out of it.

    HOME/nested/<id>/plan.json    whoever begins it, once: document with its search, folds, the studies, sides
                     result.json  what came of it, once every search has ended

The best of many trials was chosen by its validation scans, and its figure on these is the best of many draws: too good,
the more so the more trials and the fewer scans (Cawley and Talbot, JMLR 11:2079, 2010; Varma and Simon, BMC
Bioinformatics 7:91, 2006). In a nested estimate each search sees only its fold's own training and validation scans; the
winner then answers scans that chose nothing. The difference between the two is what the search has over-fitted its
validation scans by.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from builder import leaks, task
from builder.data import Dataset, copies_found_since
from builder.evaluate import answered, evaluate, kept
from builder.folding import KIND as FOLDS_KIND
from builder.folding import judged
from builder.folding import members as parts_of
from builder.folds import FoldError
from builder.measures.bootstrap import RESAMPLES
from builder.parting import Parting
from builder.runs import Run, StoreError, read_json, write_atomic
from builder.search.studies import Study, StudyStore, StudyView
from builder.spec import Experiment

PLACE = "nested"
_GONE = "One of its searches was deleted: bring it back from the deleted searches, or put the estimate away."


class Nested:
    """A nested estimate on disk."""

    def __init__(self, home: Path, id: str) -> None:
        self.home, self.id = Path(home), id
        self.folder = self.home / PLACE / id

    @property
    def plan(self) -> dict[str, Any]:
        """{experiment, folds, seed, of (id of the study that it is about), at, studies [ids]}."""
        found = read_json(self.folder / "plan.json")
        if found is None:
            raise StoreError(f"There is no nested estimate {self.id!r} in this data folder.")
        return found

    @property
    def experiment(self) -> Experiment:
        """The document with its search."""
        return Experiment.checked(self.plan["experiment"])

    def studies(self) -> list[Study]:
        """The searches, fold after fold."""
        return [Study(self.home, id) for id in self.plan["studies"]]

    def views(self) -> list[StudyView]:
        """How each search is going; one that somebody has deleted is interrupted, and its reason says so."""
        return [
            study.view() if _is_there(study) else StudyView(study.id, status="interrupted", reason=_GONE)
            for study in self.studies()
        ]

    def stop(self) -> None:
        """Asks every search to stop; their trials save their state."""
        for study in self.studies():
            study.stop()

    def resume(self) -> None:
        """Lets every search that has not ended go on. StoreError where one of them was deleted."""
        studies = self.studies()
        if not all(map(_is_there, studies)):
            raise StoreError(_GONE)
        for study in studies:
            if study.view().status != "done":
                study.resume()

    def result(self, views: Sequence[StudyView] | None = None) -> dict[str, Any] | None:
        """What was found; None before that, or where a search has found another winner, or an audit copies, since.

        Args:
            views: of the searches, for who has them.
        """
        file = self.folder / "result.json"
        found = read_json(file)
        if found is None or copies_found_since(self.home, str(self.plan["experiment"]["data"]["dataset"]), file):
            return None
        told = [row.get("run") for row in found["members"]]
        now = [view.best for view in (self.views() if views is None else views)]
        same = all(best is None or best.run == run for best, run in zip(now, told, strict=True))
        best = _best_run(self)
        return found if same and (best is None or best.id == found.get("best_run", best.id)) else None


def begin(home: Path, experiment: Experiment, folds: int = 3, seed: int = 0, *, of: str = "") -> Nested:
    """Begins a search in each of `folds` outer folds.

    Args:
        of: id of the study on all scans that it is about: its best value is set beside.
    Raises:
        FoldError: as `folding.members`, or several objectives. StoreError: the document has no search.
    """
    if experiment.search is None:
        raise StoreError("This experiment has no search: unlock a choice first.")
    if len(experiment.search.objectives) > 1:
        raise FoldError("A search for several objectives has no one winner, so it has no nested estimate.")
    dataset = Dataset.open(home, experiment.data.dataset)
    parts = parts_of(dataset, experiment, folds, 1, seed)
    plain = experiment.replace("data.exclude", ())
    id = f"{datetime.fromtimestamp(time.time(), UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
    made = []
    for part in parts:
        assert part.sides is not None
        parting = Parting(part.sides, {"round": id, "kind": PLACE, **part.about, "words": f"search in {part.words}"})
        named = plain.replace("name", f"{part.words} · {experiment.name[:100]}")
        study = StudyStore(home).create(named, queue=False, num_classes=len(dataset.classes))
        parting.write(study.folder)
        made.append(study)
    plan = {
        "experiment": experiment.model_dump(mode="json"),
        "folds": folds,
        "seed": seed,
        "of": of,
        "at": time.time(),
        "studies": [study.id for study in made],
    }
    try:
        write_atomic(home / PLACE / id / "plan.json", json.dumps(plan))
    except OSError as error:
        words = (error.strerror or "unknown reason").lower()
        raise StoreError(f"The estimate cannot be written to the data folder ({words}).") from error
    for study in made:
        study.resume()
    return Nested(home, id)


def known(home: Path, of: str = "") -> list[Nested]:
    """Every nested estimate, the newest first; those about one study where it is named."""
    try:
        names = sorted((name for name in os.listdir(Path(home) / PLACE) if name[:1].isdigit()), reverse=True)
    except FileNotFoundError:
        return []
    found = [Nested(home, name) for name in names if (Path(home) / PLACE / name / "plan.json").is_file()]
    return [one for one in found if not of or one.plan.get("of") == of]


def gather(
    one: Nested, resamples: int = RESAMPLES, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Asks each fold's winner about what was held out of its search; kept beside the plan.

    Returns, as JSON data: as `told`, and {nested, folds, task, objective, headline, n, patients, metrics {name: {value,
    low, high}}, members [{study, run, words, trial, own, held_out, n}], best (of the study on all scans, or None) and
    best_run (its run, or ""), dataset, synthetic, leaky (the stamp, "" where nothing that was held out was learned
    from)}.

    Raises:
        FoldError: a search has not ended, or has no winner. PredictError, EvaluateError: as `evaluate`.
    """
    views = one.views()
    waiting = [view for view in views if view.status != "done"]
    if waiting:
        raise FoldError(f"{len(views) - len(waiting)} of {len(views)} searches have ended: the others must end first.")
    experiment = one.experiment
    kind, dataset = task.find(experiment.task), Dataset.open(one.home, experiment.data.dataset)
    objective = views[0].objectives[0]
    rows, pools = [], []
    for number, (study, view) in enumerate(zip(one.studies(), views, strict=True)):
        if view.best is None or not view.best.run:
            raise FoldError(f"The search in fold {number + 1} has no winner: none of its trials came to an end.")
        run = Run(one.home, view.best.run)
        report = evaluate(run, one.home, "test", resamples=200)
        examined = kept(run, "test")
        assert examined is not None
        pools.append(examined)
        held = report["metrics"].get(objective, {}).get("value")
        rows.append(
            {
                "study": study.id,
                "run": run.id,
                "words": f"fold {number + 1} of {len(views)}",
                "trial": view.best.number,
                "own": _own(run, kind, objective),
                "held_out": held,
                "n": report["n"],
            }
        )
        if progress:
            progress(number + 1, len(views) + 1)
    whole, metrics = judged(kind, [kind.pooled(pools)], dataset.classes, dataset.multi_label, resamples)
    best_run = _best_run(one)
    best = None if best_run is None else _own(best_run, kind, objective)
    leaky = leaks.of_runs(Run(one.home, row["run"]) for row in rows).stamp
    answer = told(rows, metrics.get(objective), objective, best, rising=views[0].rising[0])
    if leaky:
        answer["words"] = f"{leaky} {answer['words']}"
    found = {
        "nested": one.id,
        "kind": FOLDS_KIND,
        "folds": len(views),
        "task": experiment.task,
        "objective": objective,
        "headline": kind.headline,
        "n": whole["n"],
        "patients": whole["patients"],
        "metrics": metrics,
        "members": rows,
        "best": best,
        "best_run": "" if best_run is None else best_run.id,
        "dataset": dataset.id,
        "synthetic": dataset.synthetic,
        "leaky": leaky,
        **answer,
    }
    write_atomic(one.folder / "result.json", json.dumps(found))
    return found


def _own(run: Run, kind: task.Task, objective: str) -> float | None:
    """What a winner reaches on the scans that it was chosen by, judged as what is held out is: the score told while it
    learned may be another measure of the same name (of prepared pixels, of other windows)."""
    classes, multi_label, examined = answered(run, run.home, "val")
    figure = kind.report(examined, classes, multi_label, 2)["metrics"].get(objective)
    return None if figure is None else figure["value"]


def _best_run(one: Nested) -> Run | None:
    """The best trial of the study on all scans; None where that is gone, or nothing is kept of it."""
    of = str(one.plan.get("of") or "")
    if not of or not _is_there(Study(one.home, of)):
        return None
    best = Study(one.home, of).view().best
    run = None if best is None or not best.run else Run(one.home, best.run)
    return run if run is not None and (run.folder / "best.safetensors").is_file() else None


def _is_there(study: Study) -> bool:
    return (study.folder / "experiment.json").is_file()


def told(
    rows: Sequence[Mapping[str, Any]],
    pooled: Mapping[str, float | None] | None,
    name: str,
    best: float | None = None,
    rising: bool = True,
) -> dict[str, Any]:
    """What the winners' own figures are worth.

    Args:
        rows: of each fold {own: the winner's figure on the scans it was chosen by, held_out: the same on those held
            out}; None where it is undefined.
    Returns: {own, held_out (means over folds), optimism {value, low, high} (own - held out, turned so that more than 0
        is flattery; 95 % over folds, Student's t), over_fitted, words}; numbers are None where a fold has no figure.
    """
    from scipy.stats import t

    pairs = [(row["own"], row["held_out"]) for row in rows if None not in (row["own"], row["held_out"])]
    if len(pairs) < 2:
        return {
            "own": None, "held_out": None, "optimism": None, "over_fitted": False,
            "words": f"{name} is not defined on these scans, so nothing can be said about the search.",
        }  # fmt: skip
    own, held = (np.array(column, float) for column in zip(*pairs, strict=True))
    apart = (own - held) * (1 if rising else -1)
    mean = float(apart.mean())
    reach = float(t.ppf(0.975, len(apart) - 1)) * float(apart.std(ddof=1)) / math.sqrt(len(apart))
    low, high = mean - reach, mean + reach
    over = low > 0
    estimate = f"{float(held.mean()):.3f}"
    if pooled and pooled.get("value") is not None and pooled.get("low") is not None:
        estimate = f"{pooled['value']:.3f} ({pooled['low']:.3f} to {pooled['high']:.3f})"
    shown = f"The best trial's own {name} is {best:.3f}. " if best is not None else ""
    words = (
        f"{shown}On scans that chose nothing, what such a search finds reaches {name} {estimate}. Inside the folds the "
        f"winners' own figures were {float(own.mean()):.3f} on average. "
    )
    words += (
        f"The search has over-fitted its validation scans: they flatter its winner by {mean:.3f} "
        f"({low:.3f} to {high:.3f}). Believe the lower figure."
        if over
        else f"That the search has over-fitted its validation scans is not shown: the difference is {mean:+.3f} "
        f"({low:+.3f} to {high:+.3f})."
    )
    return {
        "own": float(own.mean()),
        "held_out": float(held.mean()),
        "optimism": {"value": mean, "low": low, "high": high},
        "over_fitted": bool(over),
        "words": words,
    }


def forget(one: Nested) -> None:
    """Takes the estimate away for good; its searches and their runs stay."""
    if any(view.active for view in one.views()):
        raise StoreError("The searches are still at work: stop them first.")
    passing = one.folder.with_name(f".gone-{one.id}-{secrets.token_hex(4)}")
    os.rename(one.folder, passing)
    shutil.rmtree(passing)
