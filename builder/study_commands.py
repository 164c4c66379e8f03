"""What can be asked of studies without a browser; see `commands`.

Each command takes the parsed arguments and returns (answer, words): the documented JSON object, and that for people.
Its docstring is the layout of the JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from builder.commands import Answer, Mistake, data_folder, read_experiment, say, table
from builder.execute import executor

if TYPE_CHECKING:
    from builder.search.studies import Study, StudyView

_LOOK_EVERY_S = 0.25


def search(asked: argparse.Namespace) -> tuple[Answer, str]:
    """{study, status, reason, objectives, best: number | null, front: [number], importance: {path: share}, wanted,
    seconds, trials: [{number, run, status, values, best_epoch, epochs, params: {path: value}, costs, retried, seconds,
    reason}]}

    The trials are runs in the queue of the app. Ctrl-C stops the search and keeps everything; --resume goes on.
    """
    from builder.check import problems
    from builder.search.studies import StudyStore
    from builder.spec import Choice

    store = StudyStore(data_folder())
    if asked.resume:
        study = store.study(asked.experiment)
        given = [f"--{name}" for name in ("data", "set", "strategy") if getattr(asked, name) is not None]
        if given:
            raise Mistake(f"A study goes on as it was begun: leave out {', '.join(given)}, or begin a new one.")
        if asked.trials is not None:
            study.extend(asked.trials)
        study.resume()
        return _followed(study)
    experiment, dataset = read_experiment(asked)
    if experiment.search is None:
        raise Mistake(
            'This experiment has no search: unlock choices on the pages, or write what may be chosen under "search".'
        )
    if dataset is None:
        raise Mistake("No data set is chosen: name one with --data, or put its id into the experiment as data.dataset.")
    changed: dict[str, Any] = {}
    if asked.trials is not None:
        changed["num_trials"] = asked.trials
    if asked.strategy:
        same = asked.strategy == experiment.search.strategy.name
        changed["strategy"] = experiment.search.strategy if same else Choice(name=asked.strategy)
    experiment = experiment.model_copy(update={"search": experiment.search.model_copy(update=changed)})
    found = problems(experiment, dataset.fingerprint)
    for problem in found:
        say(f"  {problem.severity}: {problem.path}: {problem.message}")
    errors = [problem for problem in found if problem.severity == "error"]
    if errors:
        told = [{name: getattr(p, name) for name in ("path", "message", "severity", "repair")} for p in found]
        words = f"Nothing was started: {errors[0].path}: {errors[0].message}"
        raise Mistake(words, {"error": "not started", "problems": told})
    study = store.create(experiment, num_classes=len(dataset.classes))
    say(f"Study {study.id} on data set {dataset.id}; Ctrl-C stops it and keeps everything.")
    return _followed(study)


def _followed(study: Study) -> tuple[Answer, str]:
    """Waits for the end of a study, telling each trial that ends."""
    from builder.search.studies import StudyFollower

    follower, told = StudyFollower(study), set[int]()
    service = executor(study.home)
    with _stopping(study):
        while True:
            view = follower.refresh()
            for trial in view.trials:
                if trial.ended and trial.number not in told:
                    told.add(trial.number)
                    values = ", ".join(f"{value:.4f}" for value in trial.values) or trial.reason
                    say(f"  trial {trial.number} ({len(told)} of {view.wanted}): {trial.status} {values}")
            if not view.active:
                break
            service.ensure()  # whatever happened to the service: somebody waits here
            time.sleep(_LOOK_EVERY_S)
    answer = _answer(view)
    if view.status == "failed" or (view.status == "interrupted" and not view.trials):
        raise Mistake(view.reason or "The search ended without a word.", answer)
    return answer, _words(view)


@contextlib.contextmanager
def _stopping(study: Study) -> Iterator[None]:
    """Within it, Ctrl-C asks the study to stop."""

    def be_stopped(number: int, frame: object) -> None:
        study.stop()
        say("Stopping; the state of the running trials is being saved.")

    before = {number: signal.signal(number, be_stopped) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _answer(view: StudyView) -> Answer:
    names = ("number", "run", "status", "best_epoch", "epochs", "params", "costs", "retried", "seconds", "reason")
    return {
        "study": view.id,
        "status": view.status,
        "reason": view.reason,
        "objectives": list(view.objectives),
        "best": view.best.number if view.best else None,
        "front": list(view.front),
        "importance": view.importance,
        "trials": [
            {**{name: getattr(trial, name) for name in names}, "values": list(trial.values)} for trial in view.trials
        ],
        "wanted": view.wanted,
        "seconds": view.seconds,
    }


def _words(view: StudyView) -> str:
    rows: list[tuple[str, ...]] = [("trial", "status", *view.objectives, "settings")]
    for trial in view.trials:
        values = [f"{value:.4f}" for value in trial.values] or ["–"] * len(view.objectives)
        settings = ", ".join(f"{path.rpartition('.')[2]} {_short(value)}" for path, value in trial.params.items())
        rows.append((str(trial.number), trial.status, *values, settings))
    lines = [table(rows), f"Study {view.id} is {view.status}. {view.reason}".rstrip()]
    if view.best:
        lines.append(f"The best is trial {view.best.number}, run {view.best.run}.")
    if view.front:
        lines.append(f"The best compromises are the trials {', '.join(map(str, view.front))}.")
    if view.importance:
        lines.append("What mattered: " + ", ".join(f"{path} {share:.0%}" for path, share in view.importance.items()))
    return "\n".join(lines)


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
