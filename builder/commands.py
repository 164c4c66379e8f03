"""What can be asked of ScanLoom without a browser, command by command; `__main__` reads what was typed.

Each command takes the parsed arguments and returns (answer, words): the documented JSON object, and that for people.
Its docstring is the layout of the JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.execute import home

if TYPE_CHECKING:
    from builder.data import Dataset
    from builder.runs import Run, RunView
    from builder.spec import Experiment

Answer = dict[str, Any]
_LOOK_EVERY_S = 0.25


class Mistake(ValueError):
    """Something the person who typed can put right, in one clear sentence; `answer` is printed all the same."""

    def __init__(self, words: str, answer: Answer | None = None) -> None:
        super().__init__(words)
        self.answer = answer


def say(words: str) -> None:
    """Words for the person, on stderr."""
    print(words, file=sys.stderr, flush=True)


def put(text: str) -> None:
    """Text on stdout, at once: whoever reads may be gone, and that is to be known here. Letters that it cannot hold,
    and names of files that are no text, are escaped, as on stderr."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)


def data_folder() -> Path:
    """The data folder, made where it is not there yet; Mistake where it cannot be made or written to."""
    folder = home()
    try:
        _try(folder, mode=0o700)
    except OSError as error:
        why = (error.strerror or "unknown reason").lower()
        raise Mistake(
            f"The data folder {folder} cannot be used ({why}): set SCANLOOM_HOME to a folder that you may write to."
        ) from None
    return folder


def _try(folder: Path, mode: int = 0o777) -> None:
    """Makes a folder where it is not there yet, and writes to it; OSError where that cannot be done."""
    folder.mkdir(parents=True, exist_ok=True, mode=mode)
    tempfile.TemporaryFile(dir=folder).close()  # the rights alone do not tell: root, read-only file systems


def out_folder(typed: str) -> Path:
    """The folder that somebody wants files in, made where it is not there yet; Mistake where it cannot be written."""
    folder = Path(typed).expanduser().absolute()
    with writing(folder):
        _try(folder)
    return folder


@contextlib.contextmanager
def writing(place: Path) -> Iterator[None]:
    """What the disk refuses in here is a Mistake, in words."""
    from builder.runs import disk_full, disk_full_words

    try:
        yield
    except OSError as error:
        why = (error.strerror or "unknown reason").lower()
        full = disk_full(error)
        raise Mistake(disk_full_words("command") if full else f"{place} cannot be written ({why}).") from None


# -- the commands -----------------------------------------------------------------------------------------------------


def import_(asked: argparse.Namespace) -> tuple[Answer, str]:
    """{dataset, accepted, repaired, refused, skipped, cases, labelled, patients,
    ledger: [{file, status, reason, case}], warnings}

    cases: new ones; labelled: those that were there already and got labels. Where no file could be imported:
    {error, ledger}, with exit code 2; where it names classes that the data set has not: {error, new_classes}.
    """
    from dataclasses import replace

    from builder.intake import ImportFailed, NewClasses, detect, import_scans
    from builder.task import TASKS

    folder, shares = data_folder(), _shares(asked.split)
    task = asked.task.replace("-", "_")
    _ = TASKS[task]
    root = _existing(asked.source)
    labels = _existing(asked.labels) if asked.labels else None
    source = replace(detect(root, labels, task, asked.kind or ""), patient_pattern=asked.patient_pattern)
    say(f"Found {source.words}.")
    steps = import_scans(
        source,
        asked.name,
        folder,
        task=task,
        into=asked.into,
        split=shares,
        seed=asked.seed,
        keep_out_of=asked.keep_out_of or (),
        new_classes=asked.new_classes or (),
    )
    told = Telling()
    while True:
        try:
            step = next(steps)
            told.show(step.done, step.total, step.note)
        except StopIteration as end:
            report = end.value
            break
        except NewClasses as error:
            words = " ".join(shlex.quote(name) for name in error.names)
            raise Mistake(
                f"{error} To add them, say --new-classes {words}", {"error": str(error), "new_classes": [*error.names]}
            ) from None
        except ImportFailed as error:
            ledger = [_entry(entry) for entry in error.ledger]
            for line in ledger[:20]:
                say(f"  {line['status']}: {line['file']}: {line['reason']}")
            raise Mistake(str(error), {"error": str(error), "ledger": ledger}) from None
    told.end()
    ledger = [_entry(entry) for entry in report.ledger]
    for line in ledger:
        if line["status"] in ("refused", "repaired"):
            say(f"  {line['status']}: {line['file']}: {line['reason']}")
    for warning in report.warnings:
        say(f"  note: {warning}")
    names = ("accepted", "repaired", "refused", "skipped", "cases", "labelled", "patients")
    counts = {name: getattr(report, name) for name in names}
    answer = {"dataset": report.dataset, **counts, "ledger": ledger, "warnings": list(report.warnings)}
    words = ", ".join(f"{count} {name}" for name, count in counts.items())
    return answer, f"Data set {report.dataset}: {words}."


def tell(asked: argparse.Namespace) -> tuple[Answer, str]:
    """{dataset, rows, found (rows whose patient is there), scans (that got something new), told: {attribute: scans},
    notes}"""
    from builder import attributes, told_later
    from builder.data import Dataset

    folder = data_folder()
    try:
        found = told_later.tell(folder, Dataset.open(folder, asked.dataset), _existing(asked.table))
    except ValueError as error:
        raise Mistake(str(error)) from error
    told = ", ".join(f"{attributes.title(name).lower()} of {num}" for name, num in found["told"].items())
    lines = [f"{found['found']} of {found['rows']} patients of the table are there."]
    lines.append(f"{found['scans']} scans got something new: {told}." if told else "It tells nothing new.")
    return found, "\n".join([*lines, *(f"note: {note}" for note in found["notes"])])


def export_labels(asked: argparse.Namespace) -> tuple[Answer, str]:
    """{dataset, to, folder, cases, scans, boxes, masks, unlabelled (cases that carry none and were left out), notes}"""
    from builder.data import Dataset
    from builder.label_export import export_labels as exported

    dataset = Dataset.open(data_folder(), asked.dataset)
    told = Telling()
    answer: Answer = {}
    where = Path(asked.out).expanduser().absolute()
    with writing(where):
        for done, total, so_far in exported(dataset, asked.to, where):
            told.show(done, total, "cases written")
            answer = so_far.to_json()
    told.end()
    for note in answer["notes"]:
        say(f"  note: {note}")
    counts = ", ".join(f"{answer[name]} {name}" for name in ("cases", "scans", "boxes", "masks") if answer[name])
    return {"dataset": dataset.id, "to": asked.to, **answer}, f"{answer['folder']}: {counts}."


def starters(asked: argparse.Namespace) -> tuple[Answer, str]:
    """{starters: [{name, task, input, size_px, layers, epochs, when}]}; input: "maps", "series" or "volume"."""
    from builder import task

    found = [
        {
            "name": e.name,
            "task": e.task,
            "input": e.data.layout,
            "size_px": e.data.size_px,
            "layers": len(e.network),
            "epochs": e.training.epochs,
            "when": task.find(e.task).when.get(e.name, ""),
        }
        for e in _starters()
    ]
    rows = [
        (str(e["name"]), str(e["task"]), f"{e['size_px']} px, {e['layers']} layers, {e['epochs']} epochs")
        for e in found
    ]
    return {"starters": found}, table(rows)


def starter(asked: argparse.Namespace) -> tuple[Answer, str]:
    """The experiment itself, as JSON, with and without --json."""
    from builder.catalog import closest

    known = {e.name: e for e in _starters()}
    if asked.name not in known:
        raise Mistake(f"There is no starter {asked.name!r}.{closest(asked.name, list(known))}")
    return json.loads(known[asked.name].dumps()), known[asked.name].dumps().rstrip("\n")


def weights(asked: argparse.Namespace) -> tuple[Answer, str]:
    """{sha256, tensors, numbers, bytes, models}; without --json the SHA-256 alone, to be put into a layer's `file`."""
    from dataclasses import asdict

    from builder import weights as files

    if bool(asked.file) == bool(asked.fetch):
        raise Mistake("Name a file of weights, or with --fetch a timm model.")
    data_folder()
    if asked.fetch:
        there = files.source(asked.fetch)
        licence = f", licence {there.licence}" if there.licence else ""
        say(f"Contacting {there.host} for {there.what}: about {there.bytes / 1e6:,.0f} MB{licence}.")
        one = files.fetch(asked.fetch)
    else:
        one = files.take_in(_existing(asked.file))
    say(f"{one.tensors:,} tensors, {one.numbers:,} numbers.")
    return asdict(one), one.sha256


def plan(asked: argparse.Namespace) -> tuple[Answer, str]:
    """{nodes: [{id, name, shape (without batch), parameters, flops, receptive_field (px), message}], input, output,
    parameters, flops}"""
    from builder import network

    experiment, dataset = read_experiment(asked)
    classes = len(dataset.classes) if dataset is not None else 2
    planned = network.plan_of(experiment, classes)
    nodes = [
        {
            "id": n.id,
            "name": n.name,
            "shape": None if n.shape is None else list(n.shape),
            "parameters": n.parameters,
            "flops": n.flops,
            "receptive_field": list(n.receptive_field),
            "message": n.message,
        }
        for n in planned.nodes
    ]
    answer = {
        "nodes": nodes,
        "input": list(planned.input),
        "output": None if planned.output is None else list(planned.output),
        "parameters": planned.parameters,
        "flops": planned.flops,
    }
    rows = [("input", "", network.show(planned.input), "", "")]
    for n in planned.nodes:
        seen = f"sees {network.show(n.receptive_field)}" if n.receptive_field else ""
        rows.append((n.id, n.name, n.message or network.show(n.shape or ()), seen, f"{n.parameters:,}"))
    rows.append(("", "", "in all", "", f"{planned.parameters:,} parameters, {planned.flops:,} FLOPs a scan"))
    wrong = [f"{n.id}: {n.message}" for n in planned.nodes if n.message]
    if wrong:
        if not asked.json:
            put(table(rows))
        raise Mistake("The network does not fit together: " + " ".join(wrong), answer)
    return answer, table(rows)


def check(asked: argparse.Namespace) -> tuple[Answer, str]:
    """{problems: [{path, message, severity, repair}]}; exit code 2 where one of them is an error.

    An experiment that only lacks a data set (an error of path data.dataset) exits with 0: `train` takes --data.
    """
    experiment, dataset = read_experiment(asked)
    found = _problems(experiment, dataset)
    answer = {"problems": found}
    rows = [(p["severity"], p["path"], p["message"]) for p in found]
    unchosen = dataset is None  # that no data set is chosen yet is told, but is no mistake: `train` takes --data
    errors = [p for p in found if p["severity"] == "error" and not (unchosen and p["path"] == "data.dataset")]
    if errors:
        if not asked.json:
            put(table(rows))
        raise Mistake(_count_words(errors), answer)
    return answer, table(rows) if rows else "Nothing is wrong with this experiment."


def preflight(asked: argparse.Namespace) -> tuple[Answer, str]:
    """{device, batch_size, epochs, small, large: {batch, bytes, seconds, count}, lasting_bytes, peak_bytes,
    peak_measured, available_bytes, largest_batch, limited_by, steps_per_epoch, epoch_s, training_s}; keeps no weights
    """
    from builder import preflight as flying
    from builder import task

    data_folder()
    experiment, dataset = read_experiment(asked)
    if dataset is None:
        raise Mistake("No data set is chosen: name one with --data, or put its id into the experiment as data.dataset.")
    found = _problems(experiment, dataset)
    errors = [p for p in found if p["severity"] == "error"]
    if errors:
        raise Mistake(f"Nothing was tried: {_count_words(errors)}", {"error": "not tried", "problems": found})
    told = Telling()
    with tempfile.TemporaryDirectory() as folder:
        answer = flying.preflight(
            experiment,
            task.find(experiment.task),
            dataset,
            Path(folder),
            told=lambda done, total: told.show(done, total, "preparing the scans"),
        ).to_json()
    told.end()
    verdict, basis = flying.sentences(answer)
    rows = [
        (f"peak memory at batch {answer['batch_size']}", f"{answer['peak_bytes'] / 1e6:,.0f} MB"),
        ("free for it now", f"{answer['available_bytes'] / 1e6:,.0f} MB"),
        ("largest safe batch", str(answer["largest_batch"])),
        ("an epoch", f"{answer['epoch_s']:.1f} s"),
        (f"all {answer['epochs']} epochs", f"{answer['training_s'] / 60:.1f} min"),
    ]
    return answer, f"{verdict}\n{table(rows)}\n{basis}"


def train(asked: argparse.Namespace) -> tuple[Answer, str]:
    """{run, status, epochs, best: {metric, value, epoch} | null, reason, seconds}; Ctrl-C stops and saves"""
    from builder.runs import RunStore

    experiment, dataset = ready(asked)
    run = RunStore(data_folder()).create(experiment, queue=False)
    say(f"Run {run.id} on data set {dataset.id}; Ctrl-C stops it and keeps what it learned.")
    return trained(run)


def ready(asked: argparse.Namespace) -> tuple[Experiment, Dataset]:
    """The experiment in the file and its data set, looked through: what is wrong is said, and nothing starts with it.

    Raises:
        Mistake: no data set, or an error in the document.
    """
    data_folder()  # before anything else is said
    experiment, dataset = read_experiment(asked)
    if dataset is None:
        raise Mistake("No data set is chosen: name one with --data, or put its id into the experiment as data.dataset.")
    found = _problems(experiment, dataset)
    for problem in found:
        say(f"  {problem['severity']}: {problem['path']}: {problem['message']}")
    errors = [p for p in found if p["severity"] == "error"]
    if errors:
        raise Mistake(f"Nothing was started: {_count_words(errors)}", {"error": "not started", "problems": found})
    return experiment, dataset


def trained(run: Run) -> tuple[Answer, str]:
    """Trains `run` here, in a process of its own, to its end: the answer of `train`, and words."""
    view = _worked(run)
    answer = {
        "run": run.id,
        "status": view.status,
        "epochs": view.epoch,
        "best": view.best,
        "reason": view.reason,
        "seconds": round(view.seconds, 3),
    }
    if view.status == "lost" or "fault of ScanLoom's own" in view.reason:
        raise RuntimeError(f"run {run.id} ended as {view.status}; see {run.folder / 'worker.log'}")
    if view.status == "failed":
        raise Mistake(view.reason, answer)
    return answer, f"Run {run.id} is {view.status} after {view.epoch} epochs.{_best_words(view.best)}"


def _best_words(best: dict[str, Any] | None) -> str:
    """What the kept network reached, as the end of a line; "" where none is kept."""
    if not best:
        return ""
    if best["value"] is None:  # such as an AUC where all validation scans are of one class
        return f" The validation side leaves {best['metric']} undefined; the network of epoch {best['epoch']} is kept."
    return f" Best {_reached(best)} in epoch {best['epoch']}."


def _reached(best: dict[str, Any] | None) -> str:
    """ "auc 0.8123" of the kept network; "" where none is kept."""
    if not best:
        return ""
    return f"{best['metric']} {'undefined' if best['value'] is None else format(best['value'], '.4f')}"


def runs(asked: argparse.Namespace) -> tuple[Answer, str]:
    """{runs: [{run, name, status, epoch, epochs, best, reason}]}, the newest first"""
    from builder.runs import RunStore, read_json

    found = []
    for run in RunStore(data_folder()).runs():
        view = run.view()
        document = read_json(run.folder / "experiment.json") or {}
        found.append(
            {
                "run": run.id,
                "name": document.get("name", ""),
                "status": view.status,
                "epoch": view.epoch,
                "epochs": view.epochs,
                "best": view.best,
                "reason": view.reason,
            }
        )
    rows = [
        (
            r["run"],
            r["name"],
            r["status"],
            f"epoch {r['epoch']} of {r['epochs']}",
            _reached(r["best"]),
        )
        for r in found
    ]
    return {"runs": found}, table(rows) if rows else "There are no runs yet."


def evaluate(asked: argparse.Namespace) -> tuple[Answer, str]:
    """{run, split, n, patients, metrics: {name: {value, low, high}}, per_class, confusion, majority_accuracy,
    subgroups, seeds (the same recipe with others: {seeds, runs, unasked, metrics: {name: {low, high, sd, n}}} or null),
    ...}
    """
    from builder.evaluate import evaluate as measured
    from builder.siblings import spread, words

    run, told = run_of(asked.run), Telling()
    found = measured(
        run, home(), asked.split, progress=lambda done, total: told.show(done, total, "asking the network")
    )
    told.end()
    rows = [(name.replace("_", " "), with_interval(figure)) for name, figure in found["metrics"].items()]
    if "majority_accuracy" in found:
        rows.append(("accuracy of the commonest class", f"{found['majority_accuracy']:.4f}"))
    for window, row in found.get("windows", {}).items():  # restored scans beside those of plain filters
        shown = [f"{way} {with_interval(f['psnr_db'])} dB" for way, f in row["ways"].items()]
        rows.append((f"PSNR, {window} ({row['low']:g} to {row['high']:g})", "; ".join(shown)))
    for name, row in found.get("per_class", {}).items():
        told_of = [key for key in ("sensitivity", "specificity", "map50") if isinstance(row.get(key), dict)]
        rows.append((f"{name} ({row['n']})", ", ".join(f"{key} {with_interval(row[key])}" for key in told_of)))
    for rate, figure in found.get("froc", {}).get("at", {}).items():
        rows.append((f"sensitivity at {rate} false alarms a scan", with_interval(figure)))
    notes = "".join(f"\n{note}" for note in found["notes"])
    seeds = spread(run, home(), asked.split)
    if seeds and seeds["metrics"]:
        lines = [(name.replace("_", " "), words(figure)) for name, figure in seeds["metrics"].items()]
        notes += f"\nThe same recipe over {len(seeds['seeds'])} seeds (the luck of a training, not of the patients)\n"
        notes += table(lines)
    if asked.by:
        notes += _by_group(found.get("subgroups", []), asked.by, found.get("groups_said", []))
    title = f"{found['n']} scans of {found['patients']} patients, {asked.split} split, 95 % intervals over patients"
    return {**found, "seeds": seeds}, f"{title}\n{table(rows)}{notes}"


def _by_group(rows: list[Answer], by: str, said: list[str]) -> str:
    """The figures group by group, in lines; `by` is "all", or what the groups differ in."""
    from builder import attributes
    from builder.measures.named import metric_words
    from builder.subgroups import COMPARED, shown

    named = {attributes.title(name): name for name in attributes.TITLES}
    known = list(dict.fromkeys(row["about"] for row in rows))
    chosen = [row for row in rows if by == "all" or by.lower() in (row["about"].lower(), named.get(row["about"]))]
    if not chosen:
        offer = f"it can go by {', '.join(known)}" if known else "these scans are not told apart by anything"
        return f"\nNothing is known by {by!r}: {offer}."
    figures = [name for name in shown(chosen) if name in COMPARED]
    heads = [part for name in figures for part in (metric_words(name), "beside the rest")]
    lines = [("by", "group", "scans", "patients", *heads)]
    for row in chosen:
        cells = []
        for name in figures:
            rest = row.get("rest", {}).get(name)
            cells += [with_interval(row[name]) if name in row else "too few", with_interval(rest) if rest else ""]
        lines.append((row["about"], row["name"], str(row["n"]), str(row["patients"]), *cells))
    return "\n".join(["", table(lines), *(said if by == "all" else [])])


def baseline(asked: argparse.Namespace) -> tuple[Answer, str]:
    """{chosen, features, n: {train, val}, val: {n, patients, metrics, notes}, test: the same or null, seconds, at}"""
    from builder.baseline import baseline as measured
    from builder.data import Dataset

    told = Telling()
    dataset = Dataset.open(data_folder(), asked.dataset)
    found = measured(dataset, test=asked.test, told=lambda done, total: told.show(done, total, "looking at the scans"))
    told.end()
    lines = [f"{found['features']}; chosen on the validation side: {found['chosen']} ({found['seconds']:.0f} s)"]
    for side, words in (("val", "validation"), ("test", "test")):
        if found[side]:
            rows = [(name.replace("_", " "), with_interval(figure)) for name, figure in found[side]["metrics"].items()]
            lines += [f"{found[side]['n']} scans of the {words} split, 95 % intervals over patients", table(rows)]
    return found, "\n".join(lines)


def audit(asked: argparse.Namespace) -> tuple[Answer, str]:
    """{key, n, leak: {stamp, patients, counts, pairs: [{one, other, kind, words, likeness, sides, labels, across,
    conflict}]}, traces: {made, border: {auc, per_class, tells, words}}, looked (at features: not with --quick),
    naive: {honest, naive, gain, ...} or {why}, suspects: {n, of, cases} or {why}, verdicts: [{grave, about, words}],
    seconds, at}"""
    from builder.audit import audit as audited
    from builder.data import Dataset

    told = Telling()
    dataset = Dataset.open(data_folder(), asked.dataset)
    found = audited(
        dataset, look=not asked.quick, told=lambda done, total: told.show(done, total, "looking at the scans")
    )
    told.end()
    lines = [f"{'!' if verdict['grave'] else '-'} {verdict['words']}" for verdict in found["verdicts"]]
    for pair in found["leak"]["pairs"][:10]:
        sides, labels = (
            " and ".join(dict.fromkeys(part for part in pair[name] if part)) for name in ("sides", "labels")
        )
        lines.append(f"  scans {pair['one']} and {pair['other']}: {pair['words']} ({sides}; {labels or 'no label'})")
    return found, "\n".join([f"{found['n']:,} scans audited in {found['seconds']:.0f} s", *lines])


def shortcuts(asked: argparse.Namespace) -> tuple[Answer, str]:
    """{run, n, patients, with_lesions, probes: {name: {auc, accuracy, n}}, verdicts: [sentence], checkpoint}"""
    from builder.blanking import PROBES, ask

    run, told = run_of(asked.run), Telling()
    found = ask(run, data_folder(), lambda done, total: told.show(done, total, "asking with parts taken away"))
    told.end()
    rows = [(PROBES[name].title, f"AUC {with_interval(row['auc'])}") for name, row in found["probes"].items()]
    title = f"{found['n']} validation scans of {found['patients']} patients, 95 % intervals over patients"
    return found, "\n".join([title, table(rows), *found["verdicts"]])


def errors(asked: argparse.Namespace) -> tuple[Answer, str]:
    """{run, n, patients, sides, wrong, sure, rate, low (null, or {marked, cut}: of boxes, outlines and restored scans
    the lowest quarter is looked at), looked, groups: [{about, n, patients, wrong, sure, rate, outside, p, shared,
    cases: [{case, given, says, chance} or {case, mark}]}], words, edited}"""
    from builder.error_groups import NotAsked, ask

    run, told = run_of(asked.run), Telling()
    try:
        found = ask(run, data_folder(), lambda done, total: told.show(done, total, "looking at the scans"))
    except NotAsked as error:
        raise Mistake(str(error)) from error
    told.end()
    lines = [*found["looked"]]
    for words, group in zip(found["words"], [*found["groups"], None], strict=False):
        lines += [words, *(f"  {shared}" for shared in (group["shared"] if group else ()))]
    return found, "\n".join(lines)


def predict(asked: argparse.Namespace) -> tuple[Answer, str]:
    """{run, findings: [{scan, top, probabilities, covered, notes} | {scan, error}]}; a folder or zip is read as one
    series. A network for series or volumes adds slices: {of, seen: [counted from 1], telling}; what was found is told
    as the task has it: boxes: [{class, score, box, slice (from 0)}], outline: {slices: [from 0]}, enhanced: {shape},
    facts. With --out, restored scans and outlines are written, and their files told: files: [path]. like is
    {farther_than (0..1), of (training scans), unlike} or null: how far out the scan lies among them.

    The run answers on its terms (see `terms`): with a temperature, uncalibrated holds the probabilities as the network
    gives them; where it does not answer, top is "" and status ("unknown" or "refused"), reason and likeliest are added.

    worth tells how often such an answer is wrong, where the run was measured on its test side: {classes: {class:
    {answered, threshold, prevalence, by, false_discovery | false_omission}}} or {boxes: {threshold, false_discovery}}.

    Exit code 2, with the same shape, where one of the scans has an error.
    """
    from builder import nearness, operating, outlined
    from builder.derived import write
    from builder.predict import Predictor, opened
    from builder.sandbox import Sandbox
    from builder.scans import Unreadable
    from builder.service.answering import finding_of

    run = run_of(asked.run)
    predictor = Predictor.open(run.folder)
    out = out_folder(asked.out) if asked.out else None
    known = nearness.of_run(predictor, run.folder, home())
    worth = operating.worth(run, predictor.weights_sha256)
    made_by = f"run {run.id} ({predictor.experiment.name})"
    findings: list[Answer] = []
    with Sandbox() as box:
        for typed in asked.scans:
            try:
                with opened([_existing(typed)], box) as (scan, files):
                    answered, found = finding_of(predictor, known, scan, worth)
                    better, outline = answered.found.enhanced, answered.found.outline
                    if out is not None and (better is not None or outline is not None):
                        where, written = _beside(out, _stem(typed)), list[Path]()
                        with writing(where):
                            if better is not None:
                                written += write(files, scan, better, where, made_by)
                            if outline is not None:
                                written.append(outlined.write(files, scan, outline, where))
                        found["files"] = [str(path) for path in written]
            except (Unreadable, ValueError) as error:  # a misspelt path too: the other answers are not lost by it
                findings.append({"scan": typed, "error": str(error)})
            else:
                findings.append({"scan": typed, **found})
    if out is not None and not any("files" in finding or "error" in finding for finding in findings):
        say(f"  note: these answers hold no restored scan and no outline, so nothing is written to {out}.")
    answer = {"run": asked.run, "findings": findings}
    lines = []
    for finding in findings:
        if "error" in finding:
            continue
        chances = sorted(finding["probabilities"].items(), key=lambda item: -item[1])
        told = [f"{name} {chance:.3f}" for name, chance in chances]
        least = finding.get("facts", {}).get("threshold", 0.0)
        for box in finding.get("boxes", ()):
            if box["score"] >= least:
                at = f" in slice {box['slice'] + 1}" if box["slice"] or finding.get("slices") else ""
                told.append(f"{box['class']} {box['score']:.3f} at {', '.join(f'{v:g}' for v in box['box'])}{at}")
        told += [f"{name.replace('_', ' ')} {_fact(value)}" for name, value in finding.get("facts", {}).items()]
        told += finding.get("files", [])
        said = ("; " if "boxes" in finding else ", ").join(told)
        if finding.get("status"):
            refused_to = "is not answered" if finding["status"] == "refused" else "I don't know"
            said = f"{refused_to}. {finding['reason']}" + (f" ({said})" if said else "")
        lines.append(f"{finding['scan']}: {said}")
        lines.extend(f"  note: {note}" for note in finding["notes"])
    refused = [f"{f['scan']}: {f['error']}" for f in findings if "error" in f]
    if refused:
        if lines and not asked.json:
            put("\n".join(lines))
        raise Mistake(" ".join(refused), answer)
    return answer, "\n".join(lines)


def second_opinion(asked: argparse.Namespace) -> tuple[Answer, str]:
    """{run, judge, opinions: [{scan, before: {class: probability}, after, top_before, top_after, changed,
    largest_change, sentence} | {scan, error}]}

    Exit code 2, with the same shape, where one of the scans has an error.
    """
    from builder.opinion import second_opinion as asked_twice
    from builder.predict import Predictor, read
    from builder.sandbox import Sandbox
    from builder.scans import Unreadable

    restorer, judge = (Predictor.open(run_of(run).folder) for run in (asked.run, asked.judge))
    opinions: list[Answer] = []
    with Sandbox() as box:
        for typed in asked.scans:
            try:
                opinions.append({"scan": typed, **asked_twice(restorer, judge, read([_existing(typed)], box)).plain()})
            except (Unreadable, ValueError) as error:
                opinions.append({"scan": typed, "error": str(error)})
    answer = {"run": asked.run, "judge": asked.judge, "opinions": opinions}
    refused = [f"{o['scan']}: {o['error']}" for o in opinions if "error" in o]
    words = "\n".join(f"{o['scan']}: {o['sentence']}" for o in opinions if "error" not in o)
    if refused:
        if words and not asked.json:
            put(words)
        raise Mistake(" ".join(refused), answer)
    return answer, words


def export(asked: argparse.Namespace) -> tuple[Answer, str]:
    """{run | experiment, to, file, folder, parity: {cases, source, tolerance, difference, versions}}

    RUN is the id of a run, or the file of an experiment ("-": stdin), whose untrained network is then taken. Where a
    layer cannot be carried: {error, problems: [{path, message}]}, with exit code 2.
    """
    from builder import export as exports

    what: Run | Experiment
    if asked.run == "-" or asked.run.endswith(".json"):
        what, _ = read_experiment(argparse.Namespace(experiment=asked.run, data=asked.data))
        experiment, classes = what, len(exports.classes_of(what, home())[0])
        named = {"experiment": what.name}
    else:
        what = run_of(asked.run)
        experiment, classes = what.experiment, 2
        named = {"run": asked.run}
    out = Path(asked.out).expanduser().absolute() if asked.out else None
    if out is None and "experiment" in named:
        out = Path.cwd()
    problems = exports.unsupported(experiment, asked.to, classes)
    if problems:
        told = [{"path": p.path, "message": p.message} for p in problems]
        words = " ".join(f"{p.path}: {p.message}" for p in problems)
        raise Mistake(words, {"error": words, "problems": told})
    file = exports.export(what, home(), to=asked.to, out=out)
    folder = file.with_suffix("")
    usual = exports.stem_of(what, asked.to)
    if folder.name != usual:
        say(f"  note: {usual} holds something that no export wrote, or that was changed since; it stays as it is.")
    parity = json.loads((folder / "parity.json").read_text())
    answer = {**named, "to": asked.to, "file": str(file), "folder": str(folder), "parity": parity}
    if not parity["cases"]:
        return answer, str(file)
    difference = parity["difference"]["probabilities"]
    return answer, f"{file}\nLargest difference from the app over {parity['cases']} scans: {difference:.2g}."


def import_network(asked: argparse.Namespace) -> tuple[Answer, str]:
    """The experiment itself, as JSON, with and without --json; what could not be mapped is told on stderr.

    A layer that is not in the catalog stays in the network under its own name, which `check` tells. Nothing of the file
    is run, and no other file is read.
    """
    from builder.foreign import read

    found = read(_existing(asked.file)).stored()
    for note in found.notes:
        say(f"  note: {note}")
    if found.missing:
        say(f"{len(found.missing)} of {len(found.experiment.network)} layers are not in the catalog.")
    if found.experiment.weights:
        say(
            f"Its weights are stored as {found.experiment.weights[:12]}; a training of the experiment begins with them."
        )
    if asked.weights:
        if not found.tensors:
            raise Mistake("The file holds no weights.")
        file = Path(asked.weights).expanduser().absolute()
        with writing(out_folder(str(file.parent)) / file.name):
            found.save_weights(file)
        say(f"The weights are in {asked.weights}.")
    return json.loads(found.experiment.dumps()), found.experiment.dumps().rstrip("\n")


# -- what they share --------------------------------------------------------------------------------------------------


def _starters() -> list[Experiment]:
    from builder import task

    return [experiment for name in task.TASKS.names for experiment in task.find(name).starters()]


def read_experiment(asked: argparse.Namespace) -> tuple[Experiment, Dataset | None]:
    """The experiment in the file, with --data and --set applied, and its data set where it names one."""
    from builder.data import Dataset
    from builder.spec import Experiment

    try:
        text = sys.stdin.buffer.read() if asked.experiment == "-" else Path(asked.experiment).read_bytes()
    except OSError as error:
        raise Mistake(f"{asked.experiment} cannot be read: {(error.strerror or 'unknown reason').lower()}.") from None
    experiment = Experiment.loads(text)
    experiment = set_to(experiment, getattr(asked, "set", None) or ())
    if getattr(asked, "data", None):
        experiment = experiment.replace("data.dataset", asked.data)
    if not experiment.data.dataset:
        return experiment, None
    dataset = Dataset.open(data_folder(), experiment.data.dataset)
    return experiment.replace("data.dataset", dataset.id), dataset


def set_to(experiment: Experiment, settings: Sequence[str]) -> Experiment:
    """The experiment with each "path=value" applied; a value is JSON or a plain word."""
    for setting in settings:
        path, equals, typed = setting.partition("=")
        if not equals or not path:
            raise Mistake(f"--set takes path=value, as in training.epochs=3; it got {setting!r}.")
        try:
            value = json.loads(typed)
        except ValueError:
            value = typed  # a plain word
        experiment = experiment.replace(path.strip(), value)
    return experiment


def _problems(experiment: Experiment, dataset: Dataset | None) -> list[dict[str, str]]:
    from builder.check import problems

    found = problems(experiment, None if dataset is None else dataset.fingerprint)
    return [{"path": p.path, "message": p.message, "severity": p.severity, "repair": p.repair} for p in found]


def _count_words(errors: list[dict[str, str]]) -> str:
    first = f"{errors[0]['path']}: {errors[0]['message']}"
    left = len(errors) - 1
    return f"{first} (and {left} more {'error' if left == 1 else 'errors'})" if left else first


def run_of(id: str) -> Run:
    from builder.runs import RunStore

    return RunStore(data_folder()).run(id)


def _worked(run: Run) -> RunView:
    """Train `run` in a worker process of its own, telling its progress; the first Ctrl-C asks it to stop and save."""
    from builder.runs import RunFollower

    log = os.open(run.folder / "worker.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        worker = subprocess.Popen(
            [sys.executable, "-m", "builder.worker", str(run.folder)],
            cwd=Path(__file__).parents[1],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C must reach us alone, so that the worker can save
        )
    finally:
        os.close(log)

    def be_stopped(number: int, frame: object) -> None:
        if (run.folder / "stop").exists() and number == signal.SIGINT:
            worker.terminate()
        run.stop()
        say("Stopping; what it learned is being saved.")

    before = {number: signal.signal(number, be_stopped) for number in (signal.SIGINT, signal.SIGTERM)}
    follower, told, epoch = RunFollower(run), Telling(), 0
    try:
        while worker.poll() is None:
            view = follower.refresh()
            epoch = _tell(view, epoch, told)
            time.sleep(_LOOK_EVERY_S)
        view = follower.refresh()
        _tell(view, epoch, told)
        told.end()
        return view
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if worker.poll() is None:
            worker.terminate()
        worker.wait()


def _tell(view: RunView, epoch: int, told: Telling) -> int:
    """Progress, and a line for an epoch that ended since `epoch`; returns the last ended epoch."""
    ended = len(view.curves.get("val/loss", ((), ()))[0])
    if ended > epoch:
        told.end()
        figures = {name: values[-1] for name, (_, values) in view.curves.items() if "/" in name and values}
        shown = ", ".join(f"{n} {v:.4f}" for n, v in figures.items() if n.startswith(("train/", "val/")))
        say(f"  epoch {ended} of {view.epochs}: {shown}")
        return ended
    told.show(view.step, view.total, view.note)
    return epoch


class Telling:
    """A line on stderr that renews itself on a terminal; elsewhere a line at every tenth part."""

    def __init__(self) -> None:
        self._tenth, self._open, self._at = -1, False, 0.0

    def show(self, done: int, total: int, note: str) -> None:
        if not total:
            return
        words = f"  {done} of {total} {note}".rstrip()
        if sys.stderr.isatty():
            if time.monotonic() - self._at > 0.1 or done == total:
                print(f"\r\x1b[K{words}", end="", file=sys.stderr, flush=True)
                self._open, self._at = True, time.monotonic()
        elif (tenth := 10 * done // total) != self._tenth:
            self._tenth = tenth
            say(words)

    def end(self) -> None:
        """Leaves the line that renews itself."""
        if self._open:
            print(file=sys.stderr, flush=True)
            self._open = False


def _entry(entry: Any) -> dict[str, Any]:
    return {"file": entry.name, "status": entry.status, "reason": entry.reason, "case": entry.case}


def _fact(value: Any) -> str:
    """A fact of a finding; counts of classes as "cyst 4, nodule 1"."""
    return ", ".join(f"{name} {n}" for name, n in value.items()) if isinstance(value, dict) else str(value)


def _stem(typed: str) -> str:
    """What files made of a scan are called after: its name without an ending that says its kind. What stands behind
    another point is part of the name, as in those that are DICOM's numbers."""
    name = os.path.basename(os.path.abspath(os.path.expanduser(typed)))
    return re.sub(r"(\.nii)?\.[a-z][a-z0-9]{0,5}$", "", name, flags=re.IGNORECASE) or "scan"


def _beside(folder: Path, name: str) -> Path:
    """A place in `folder` that is not taken: `name`, else with a number behind it."""
    path, number = folder / name, 2
    while path.exists():
        path, number = folder / f"{name}-{number}", number + 1
    return path


def _shares(typed: str) -> tuple[float, float, float]:
    try:
        train, val, test = (float(part) for part in typed.split(","))
    except ValueError:
        raise Mistake("The split takes three numbers with commas, as in 0.7,0.15,0.15.") from None
    return train, val, test


def _existing(typed: str) -> Path:
    path = Path(typed).expanduser()
    if not path.exists():
        raise Mistake(f"There is nothing at {typed}.")
    return path.absolute()


def with_interval(figure: dict[str, float | None]) -> str:
    """A figure with its interval, in words."""
    if figure["value"] is None:
        return "undefined"
    if figure["low"] is None:
        return f"{figure['value']:.4f} (one patient: no interval)"
    return f"{figure['value']:.4f} ({figure['low']:.4f} to {figure['high']:.4f})"


def table(rows: Sequence[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]) - 1)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
        for row in rows
    )
