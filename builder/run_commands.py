"""What can be asked of runs without a browser: pause, resume, branch, compare, order, notes; see `commands`.

Each command takes the parsed arguments and returns (answer, words): the documented JSON object, and that for people.
Its docstring is the layout of the JSON.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from builder.commands import Answer, Mistake, data_folder, out_folder, put, run_of, say, set_to, table, trained
from builder.execute import executor


def pause(asked: argparse.Namespace) -> tuple[Answer, str]:
    """{run, status, pausing (it is asked to, and saves its state), epoch, step}"""
    run = run_of(asked.run)
    run.pause()
    view = run.view()
    answer = {
        "run": run.id,
        "status": view.status,
        "pausing": view.pausing,
        "epoch": view.epoch,
        "step": view.step,
    }
    return answer, f"Run {run.id} pauses in epoch {view.epoch}; resume {run.id} lets it go on."


def resume(asked: argparse.Namespace) -> tuple[Answer, str]:
    """{run, status, epochs, best, reason, seconds}; a paused run goes on where it waits, and is not waited for.

    A stopped, failed or lost run goes on here from its last saved state; Ctrl-C stops it and saves.
    """
    run = run_of(asked.run)
    before = run.view()
    if before.status == "paused":
        run.resume()
        executor(data_folder()).ensure()
        view = run.view()
        answer = {
            "run": run.id,
            "status": view.status,
            "epochs": view.epoch,
            "best": view.best,
            "reason": view.reason,
            "seconds": round(view.seconds, 3),
        }
        return answer, f"Run {run.id} goes on."
    if not before.resumable:
        raise Mistake(
            f"The run {run.id} is {before.status}: only a paused, stopped, failed or lost run can be resumed."
        )
    for wish in ("stop", "pause"):
        (run.folder / wish).unlink(missing_ok=True)
    return trained(run)


def branch(asked: argparse.Namespace) -> tuple[Answer, str]:
    """{run, status, epochs, best, reason, seconds, parent, from_epoch, changes: {path: [before, now]}}

    Trains here, as `train` does; with --queue it only joins the queue of the app.
    """
    from builder.branch import Branch
    from builder.branch import branch as branched
    from builder.runs import RunStore

    parent = run_of(asked.run)
    experiment = set_to(parent.experiment, asked.set or ())
    made = branched(
        RunStore(data_folder()), parent, experiment, who="command line", queue=asked.queue, from_best=asked.best
    )
    came = Branch.of(made.folder)
    assert came is not None
    origin = {
        "parent": parent.id,
        "from_epoch": came.epoch,
        "changes": {path: list(values) for path, values in came.changes.items()},
    }
    say(f"Run {made.id} goes on from run {parent.id}, epoch {came.epoch}.")
    if asked.queue:
        executor(data_folder()).ensure()
        view = made.view()
        answer = {"run": made.id, "status": view.status, "epochs": 0, "best": None, "reason": "", "seconds": 0.0}
        return {**answer, **origin}, f"Run {made.id} is {view.status}."
    answer, words = trained(made)
    return {**answer, **origin}, words


def compare(asked: argparse.Namespace) -> tuple[Answer, str]:
    """{first, second, split, n, patients, metrics: {name: {first, second, difference, low, high, better, verdict,
    words; also both, undefined_first, undefined_second where a figure leaves other cases out of the two}}, watched,
    confidence, resamples, notes, changes: {path: [first, second]}}

    difference = second - first, with a 95 % interval from a bootstrap over the patients that both were asked about.
    """
    from builder.compare import compare as compared

    first, second = run_of(asked.first), run_of(asked.second)
    found = compared(first, second, data_folder(), asked.split)
    differs = first.experiment.diff(second.experiment)
    answer = {**found, "changes": {path: list(values) for path, values in differs.items()}}
    rows: list[tuple[str, ...]] = [("figure", "first", "second", "")]
    rows += [
        (name.replace("_", " "), _number(told["first"]), _number(told["second"]), told["words"])
        for name, told in found["metrics"].items()
    ]
    lines = [f"{found['n']} cases of {found['patients']} patients, {asked.split} split", table(rows)]
    lines += [f"  {path}: {_said(a)} -> {_said(b)}" for path, (a, b) in differs.items()]
    lines += [f"  note: {note}" for note in found["notes"]]
    return answer, "\n".join(lines)


def note(asked: argparse.Namespace) -> tuple[Answer, str]:
    """{run, notes: [{at, who, text}], tags}; --tag and --untag may be given several times, TEXT may be left out."""
    from builder import notes

    run = run_of(asked.run)
    for kind, texts in (("tag", asked.tag), ("untag", asked.untag), ("note", [asked.text] if asked.text else None)):
        for text in texts or ():
            notes.write(run, kind, text, asked.who)
    held = notes.read(run)
    answer = {"run": run.id, "notes": [dict(vars(n)) for n in held.notes], "tags": list(held.tags)}
    lines = [f"tags: {', '.join(held.tags)}"] if held.tags else []
    lines += [f"{n.who or 'somebody'}: {n.text}" for n in held.notes]
    return answer, "\n".join(lines) or "Nothing was written about this run."


def queue(asked: argparse.Namespace) -> tuple[Answer, str]:
    """{queue: [run]}, the next one first; RUN with --up or --down is moved one place, with --cancel taken out."""
    from builder import turns

    home = data_folder()
    if not asked.run and (asked.up or asked.down or asked.cancel):
        raise Mistake("Name the run that shall be moved or cancelled, as in: queue RUN --up")
    if asked.run:
        run = run_of(asked.run)
        if run.view().status != "queued":
            raise Mistake(f"The run {run.id} is {run.view().status}: only a waiting one can be moved or cancelled.")
        if asked.cancel:
            run.stop()
            executor(home).ensure()
        elif asked.up or asked.down:
            turns.move(home, run.id, -1 if asked.up else 1)
        else:
            raise Mistake("Say what to do with the run: --up, --down or --cancel.")
    found = [run.id for run in turns.waiting(home) if not run.stop_wanted]
    return {"queue": found}, "\n".join(found) or "Nothing waits."


def cluster(asked: argparse.Namespace) -> tuple[Answer, str]:
    """never printed: it becomes the machine's part of the cluster, until Ctrl-C"""
    import os

    from builder import cluster_start

    if not os.environ.get("SCANLOOM_HOME"):
        raise Mistake("Set SCANLOOM_HOME to the data folder that all machines of the cluster share.")
    if asked.part == "head" and asked.head:
        raise Mistake("The first machine joins no head; --address says under which of its own addresses it is reached.")
    if asked.part == "join" and ":" not in (asked.head or ""):
        raise Mistake("Name the head that this machine joins, as in: cluster join 10.0.0.1:6379")
    join = asked.head if asked.part == "join" else ""
    words = cluster_start.command(join, address=asked.address or "", more=asked.ray or ())
    environment = cluster_start.environment(data_folder(), make_token=asked.part == "head")
    if not join:
        say(
            f"The head of a cluster. Other machines: python -m builder cluster join ADDRESS:{cluster_start.PORT}; "
            f"ScanLoom here: SCANLOOM_EXECUTOR=ray RAY_ADDRESS=http://127.0.0.1:{cluster_start.JOBS_PORT}"
        )
    os.execve(words[0], words, environment)


def delete(asked: argparse.Namespace) -> tuple[Answer, str]:
    """{run (or study), deleted}; it can come back for two weeks, with --undo. A search goes with all its trials."""
    from builder import wastebin
    from builder.discarding import discard
    from builder.runs import RunStore
    from builder.search.studies import Study

    store = RunStore(data_folder())
    if asked.undo:
        kind = "study" if wastebin.restore(store, asked.run).parent.name == "studies" else "run"
        return {kind: asked.run, "deleted": False}, f"{kind.title()} {asked.run} is back."
    study, kind = Study(store.home, asked.run), "run"
    if study.folder.is_dir():
        discard(study)
        kind = "study"
    else:
        wastebin.discard(store, asked.run)
    words = f"{kind.title()} {asked.run} is deleted; --undo brings it back for two weeks."
    return {kind: asked.run, "deleted": True}, words


def evidence(asked: argparse.Namespace) -> tuple[Answer, str]:
    """{run, file, folder, open: {checklist: [item]}}; open: items of the checklists that a person has to answer.

    Where labels were corrected since the test side was opened, it is opened again, which counts.
    """
    from builder.evidence import checklists, pack
    from builder.runs import read_json

    run = run_of(asked.run)
    file = pack.make(run, data_folder(), out_folder(asked.out) if asked.out else None)
    folder = file.with_suffix("")
    lists = checklists.filled(read_json(folder / pack.DATA) or {})
    told = {name: [item.number for item in checklists.open_items(items)] for name, items in lists.items()}
    lines = [str(file), *(f"{name}: items for a person: {', '.join(numbers)}" for name, numbers in told.items())]
    return {"run": run.id, "file": str(file), "folder": str(folder), "open": told}, "\n".join(lines)


def verify(asked: argparse.Namespace) -> tuple[Answer, str]:
    """{run, digest, made, holds, words, items: [{item, state, words}], numbers: {checked, holding, exact, failing:
    [{place, said, now}], by_part, all: [[place, said, now, holds]]}, not_checked}; exit code 2 where it does not hold
    """
    from builder.evidence.verify import verify as verified

    pack = Path(asked.pack).expanduser()
    if not pack.exists():
        raise Mistake(f"There is nothing at {asked.pack}.")
    answer = verified(pack, data_folder())
    lines = [f"  {item['state']}: {item['item']}: {item['words']}" for item in answer["items"]]
    lines += [f"  {held} of {of} hold: {part}" for part, (held, of) in answer["numbers"]["by_part"].items()]
    lines += [f"  {n['place']}: {n['said']} then, {n['now']} now" for n in answer["numbers"]["failing"][:20]]
    lines += [f"  not checked: {words}" for words in answer["not_checked"]]
    if not answer["holds"]:
        if not asked.json:
            put("\n".join(lines))
        raise Mistake(answer["words"], answer)
    return answer, "\n".join([answer["words"], *lines])


def serve(asked: argparse.Namespace) -> tuple[Answer, str]:
    """{run, url}, once the service has ended: it answers until Ctrl-C.

    On another address than this machine's own the environment variable SCANLOOM_SERVICE_TOKEN must hold a secret, which
    clients send as "Authorization: Bearer ...".
    """
    import os

    from builder.service.door import TOKEN
    from builder.service.process import serve as served

    run, told = run_of(asked.run), []

    def ready(url: str) -> None:
        told.append(url)
        say(f"Run {run.id} answers at {url}; Ctrl-C ends it. Not for clinical use.")
        say(f'  curl --data-binary @scan.dcm "{url}/predict?name=scan.dcm"')

    served(run, data_folder(), asked.address, asked.port, os.environ.get(TOKEN, ""), ready)
    return {"run": run.id, "url": told[0]}, "The service has ended."


def readings(asked: argparse.Namespace) -> tuple[Answer, str]:
    """{run, readings: [what `reading_report.report` tells: {reading, split, kind, cases, readers, together, ...}]}"""
    from builder import reader
    from builder.reading_report import report

    run = run_of(asked.run)
    found = [report(one) for one in reader.readings(run)]
    lines = []
    for told in found:
        lines.append(f"Reading {told['reading']}, {told['split']} split, {told['cases']} scans")
        for mine in told["readers"]:
            moved = mine["changes"]
            more = moved["to_right"] if "to_right" in moved else moved["gained"]
            how = f"{more} changed to the right" if "to_right" in moved else f"{more} more lesions found"
            lines.append(f"  {mine['reader']}: {mine['n']} read; {how}")
            for apart in mine["differences"].values():
                names = ("accuracy",) if "accuracy" in apart else ("sensitivity", "false_alarms_per_image")
                lines += [f"    {name.replace('_', ' ')}: {apart[name]['words']}" for name in names]
    return {"run": run.id, "readings": found}, "\n".join(lines) or "Nobody has read scans against this run."


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _said(value: Any) -> str:
    return "default" if value is None else str(value)
