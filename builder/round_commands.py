"""Questions that take several runs, without a browser: cross-validation and forecast; see `commands`.

Each command takes the parsed arguments and returns (answer, words): the documented JSON object, and that for people.
Its docstring is the layout of the JSON.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from builder.commands import Answer, Mistake, ready, say, table, trained
from builder.commands import data_folder as where
from builder.execute import executor
from builder.rounds import Round, RoundStore, ended_badly
from builder.runs import StoreError
from builder.spec import Experiment

USUAL = {"seed": 0, "folds": 5, "repeats": 1, "draws": 2}
"""{option: what it is where it is not given}"""


def crossvalidate(asked: argparse.Namespace) -> tuple[Answer, str]:
    """{round, kind, runs, folds, repeats, seed, task, n, patients, classes, headline, metrics: {name: {value, low, high
    (over the pool), folds, mean, sd, ranked, higher}}, members: [{run, words, fold, repeat, n, value}], report, single,
    dataset, synthetic, edited, leaky, notes, interval}

    Trains fold after fold here; Ctrl-C stops and keeps what was learned, and the id of the round goes on from there.
    With --queue the folds only join the queue of the app: {round, runs, status}. With --nested the search of the
    document is carried out inside each fold, by the app's own workers: {nested, folds, task, objective, headline, n,
    patients, metrics, members: [{study, run, words, trial, own, held_out, n}], own, held_out, optimism: {value, low,
    high}, over_fitted, words, best, best_run, dataset, synthetic, leaky}, with --queue {nested, studies, status}.
    """
    from builder import folding

    if asked.nested:
        return _nested(asked)

    def begin(experiment: Experiment) -> Round:
        if experiment.search is not None:
            say("The search in the document is left out; --nested carries it out inside each fold.")
        folds, repeats, seed = (_number_of(asked, name) for name in ("folds", "repeats", "seed"))
        return folding.begin(where(), experiment, folds, repeats, seed, queue=asked.queue)

    one = _round(asked, folding.KIND, begin)
    if asked.queue:
        return _queued(one)
    found = _answered(one)
    rows = [("metric", "pooled, 95 % interval over patients", "mean over folds", "sd")]
    for name, figure in found["metrics"].items():
        numbers = [_number(figure[key]) for key in ("value", "low", "high", "mean", "sd")]
        rows.append((name, f"{numbers[0]} ({numbers[1]} to {numbers[2]})", numbers[3], numbers[4]))
    return found, "\n".join([folding.words(found), table(rows), *found["notes"]])


def forecast(asked: argparse.Namespace) -> tuple[Answer, str]:
    """{round, kind, runs, shares, draws, seed, task, headline, dataset, synthetic, n, patients, points: [{words,
    share, draw, cases, patients, run, value, low, high}], curve: {cases, value, low, high}, law, band, now, goal,
    verdict ("needs", "enough" or "cannot tell"), needed: {cases, low, high, per_class} | null, gain_doubled: {
    value, low, high}, luck, notes, words, leaky}

    Trains here, as `crossvalidate` does; with --queue: {round, runs, status}.
    """
    from builder import forecast as engine

    def begin(experiment: Experiment) -> Round:
        draws, seed = _number_of(asked, "draws"), _number_of(asked, "seed")
        return engine.begin(where(), experiment, draws=draws, seed=seed, queue=asked.queue)

    one = _round(asked, engine.KIND, begin)
    if asked.queue:
        return _queued(one)
    found = _answered(one)
    rows = [("share", "cases", found["headline"], "95 % interval")]
    for point in found["points"]:
        interval = f"{_number(point['low'])} to {_number(point['high'])}"
        rows.append((f"{100 * point['share']:g} %", str(point["cases"]), _number(point["value"]), interval))
    return found, "\n".join([found["words"], table(rows), *found["notes"]])


def _nested(asked: argparse.Namespace) -> tuple[Answer, str]:
    from builder import nested

    named = str(asked.experiment)
    if asked.repeats is not None:
        raise Mistake("A nested estimate has no repeats: leave out --repeats.")
    if named != "-" and not Path(named).exists():
        one = nested.Nested(where(), named)
        if not (one.folder / "plan.json").is_file():
            raise Mistake(f"{named} is neither a file nor a nested estimate of this data folder.")
        _as_begun(asked)
        if one.result() is None:
            one.resume()
    else:
        experiment, _ = ready(asked)
        one = nested.begin(where(), experiment, _number_of(asked, "folds"), _number_of(asked, "seed"))
    studies = [study.id for study in one.studies()]
    say(
        f"Nested estimate {one.id}: a search in each of {len(studies)} folds; the id instead of a file goes on with it."
    )
    if asked.queue:
        return {"nested": one.id, "studies": studies, "status": "queued"}, f"{one.id}: the searches are in the queue."
    if (found := one.result()) is None:
        try:
            views = one.views()
            while any(view.active for view in views):
                executor(where()).ensure()  # whatever happened to the service: somebody waits here
                time.sleep(1.0)
                views = one.views()
        except KeyboardInterrupt:
            one.stop()
            raise
        stuck = [view for view in views if view.status != "done"]
        if stuck:
            words = f"A search is {stuck[0].status}: {stuck[0].reason} Go on with {one.id}."
            raise Mistake(words, {"error": words, "nested": one.id})
        found = nested.gather(one)
    return found, str(found["words"])


def _round(asked: argparse.Namespace, kind: str, begin: Callable[[Experiment], Round]) -> Round:
    """The round that is named, to go on with, or a new one of the experiment in the file."""
    named = str(asked.experiment)
    if named != "-" and not Path(named).exists():
        try:
            one = RoundStore(where()).round(named)
        except StoreError:
            raise Mistake(f"{named} is neither a file nor a round of this data folder.") from None
        if one.kind != kind:
            raise Mistake(f"The round {named} is of the kind {one.kind}, not {kind}.")
        _as_begun(asked)
        one.complete(queue=asked.queue)
        if asked.queue:
            one.resume()
        return one
    experiment, _ = ready(asked)
    one = begin(experiment)
    say(f"Round {one.id}: {len(one.runs())} runs; Ctrl-C stops, and the id instead of a file goes on.")
    return one


def _number_of(asked: argparse.Namespace, name: str) -> int:
    """The option that was given, else what is usual."""
    given: int | None = getattr(asked, name)
    return USUAL[name] if given is None else given


def _as_begun(asked: argparse.Namespace) -> None:
    """Refuses options that say how to begin where something goes on as it was begun."""
    given = [f"--{name}" for name in ("data", "set", *USUAL) if getattr(asked, name, None) is not None]
    if given:
        raise Mistake(f"{asked.experiment} goes on as it was begun: leave out {', '.join(given)}.")


def _queued(one: Round) -> tuple[Answer, str]:
    executor(where()).ensure()
    runs = [run.id for run in one.runs()]
    return {"round": one.id, "runs": runs, "status": "queued"}, f"Round {one.id}: {len(runs)} runs are in the queue."


def _answered(one: Round) -> dict[str, Any]:
    """Trains what has not ended, here and one after the other, and asks all; the answer that is kept where it is."""
    from builder.gathered import gather

    if (kept := one.result()) is not None:
        return kept
    members = one.members()
    for number, (member, run) in enumerate(zip(members, one.runs(), strict=True)):
        view = run.view()
        if view.status == "done":
            continue
        if view.active:
            raise Mistake(f"The run {run.id} ({member.words}) is {view.status} in the app: let it end first.")
        say(f"{member.words} ({number + 1} of {len(members)})")
        for wish in ("stop", "pause"):
            (run.folder / wish).unlink(missing_ok=True)
        answer, _ = trained(run)
        if answer["status"] != "done":
            raise Mistake(
                f"Stopped in {member.words}; what it learned is kept. Go on with the round's id: {one.id}.",
                {"error": "stopped", "round": one.id, "run": run.id, "status": answer["status"]},
            )
    bad = ended_badly(one.view().views, members)
    if bad:
        raise Mistake(bad[0], {"error": bad[0], "round": one.id})
    say("Asking about what was held out.")
    return gather(one)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
