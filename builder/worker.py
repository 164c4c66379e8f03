"""The worker: the only place where engine and store meet. `python -m builder.worker FOLDER`, or `run(folder)` forked.

It reads the document in the folder, lets the engine work, and writes every event it yields. Whatever goes wrong becomes
a last word in one plain sentence; the technical side of it goes to worker.log, which holds no personal data.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

from builder.board import Board
from builder.execute import EXIT_AGAIN, EXIT_DISK_FULL, alive
from builder.faults import note_fault, quieten, sentence
from builder.runs import (
    CONTINUED,
    Claim,
    EpochEnded,
    Event,
    Finished,
    Job,
    Paused,
    Progress,
    Record,
    Run,
    Saved,
    Started,
    StoreError,
    Warned,
    disk_full,
    read_json,
    write_atomic,
)

RESERVE_BYTES = 65536
TELL_EVERY_S = 0.2
LOOK_EVERY_S = 0.05  # how often the stop file is looked for, at most
FENCE_EVERY_S = 1.0  # how often a run in a cluster looks whether it is still the one that was asked for
EXIT_FENCED = 75  # another attempt has the run: this one says nothing more
# They read files from outside: what their faults say may name a person.
PRIVATE_KINDS = (
    "import",
    "predict",
    "predict-many",
    "explain",
    "takeout",
    "fetch",
    "send",
    "correct",
    "weights",
    "network",
    "verify",
)


class Stopped(Exception):
    """A short job was asked to stop in the middle of a step."""


Steps = Generator[Event, None, dict[str, Any] | None]  # what a handler returns is the job's result


@dataclass
class Work:
    """One job in the hands of this process."""

    job: Job
    attempt: int
    record: Record
    board: Board | None = None
    told_to_end: bool = False  # by a signal, not by a person
    _looked: float = field(default=-1.0, repr=False)
    _stop: bool = field(default=False, repr=False)
    _looked_pause: float = field(default=-1.0, repr=False)
    _pause: bool = field(default=False, repr=False)
    _waiting: bool = field(default=False, repr=False)
    _told: float = field(default=-1.0, repr=False)
    _note: str | None = field(default=None, repr=False)
    _fenced: float = field(default=-1.0, repr=False)

    @property
    def home(self) -> Path:
        return self.job.home

    @property
    def folder(self) -> Path:
        return self.job.folder

    def stop(self) -> bool:
        """Whether the job should stop now; cheap enough to ask after every step."""
        now = time.monotonic()
        self._leave_to_a_later_one(now)
        if not self._stop and now - self._looked > LOOK_EVERY_S:
            self._looked, self._stop = now, self.job.stop_wanted
        return self._stop or self.told_to_end

    def pause(self) -> bool:
        """Whether a training should wait now. Once it waits it goes on only when its place is its own again: the
        supervisor lends that to others, and says so in the claim."""
        now = time.monotonic()
        if now - self._looked_pause > LOOK_EVERY_S:
            # This order, the supervisor's being the other way round: one of the two always sees what the other did.
            self._looked_pause, self._pause = now, self.job.pause_wanted
            if self._waiting and not self._pause:
                claim = self.job.claim
                self._pause = claim is not None and claim.away
        return self._pause

    def _leave_to_a_later_one(self, now: float) -> None:
        """In a cluster a machine may be given up for dead that only was cut off. Once another attempt has the run, this
        one must not write another word."""
        if _placed() and now - self._fenced > FENCE_EVERY_S:
            self._fenced = now
            claim = self.job.claim
            if claim is not None and (claim.place != _placed() or claim.gone):
                os._exit(EXIT_FENCED)

    def count(self, done: int, total: int) -> None:
        """For engine functions that report through a callback: tells a step, and leaves when the job is to stop."""
        self.tell(Progress(step=done, total=total, note=self._note or ""))
        if self.stop():
            raise Stopped

    def tell(self, event: Event) -> None:
        """Puts `event` on record, and its numbers on the board. Of a short job's steps a few a second are enough."""
        if isinstance(event, Progress) and self.job.kind != "train":
            if time.monotonic() - self._told < TELL_EVERY_S and event.note == self._note:
                return
            self._told, self._note = time.monotonic(), event.note
        if isinstance(event, Started):
            event = replace(event, attempt=self.attempt, pid=os.getpid())
        self._waiting = isinstance(event, Paused)
        self._leave_to_a_later_one(time.monotonic())
        self.record.append(event, sync=isinstance(event, Saved | EpochEnded | Paused | Finished))
        if self.board is not None:
            self.board.add(event)


Handler = Callable[[Work], Steps]


# ---- the kinds of work ----------------------------------------------------------------------------------------------


def train(work: Work) -> Steps:
    """Trains the run's experiment; continues where its last checkpoint was made."""
    from builder import leaks, task
    from builder.parting import adopt, dataset_of
    from builder.train import train as training

    assert isinstance(work.job, Run)
    adopt(work.folder)
    experiment = work.job.experiment
    dataset = dataset_of(work.folder, work.home, experiment.data.dataset)
    work.board = Board(work.folder, work.attempt, dataset.classes, leaks.of_run(work.job).stamp)
    work.board.describe(json.loads(experiment.dumps()), list(task.find(experiment.task).metrics))
    kind = task.find(experiment.task)
    steps = training(experiment, kind, dataset, work.folder, attempt=work.attempt, stop=work.stop, pause=work.pause)
    first = False  # the first epoch has just ended
    for event in steps:
        yield event
        first = first or (isinstance(event, EpochEnded) and event.epoch == 1)
        if first and isinstance(event, Saved) and not event.best:  # nothing waits for the drawing, nothing is lost
            first = False
            yield from _draw(work, experiment, max(2, len(dataset.classes)))
    return None


def _draw(work: Work, experiment: Any, num_classes: int) -> Iterator[Event]:
    """Writes the computational graph for TensorBoard; a network that cannot be followed without data goes without.

    The dice of the training stay as they are.
    """
    import torch

    from builder.graph import trace
    from builder.learner import undisturbed

    assert work.board is not None
    try:
        with undisturbed(torch.device("cpu")):
            work.board.draw(trace(experiment, num_classes))
    except OSError:
        raise  # the disk is full
    except Exception as error:
        note_fault(error, private=False, root=work.home)
        yield Warned("TensorBoard shows no graph: a layer of this network cannot be followed without data.")


def import_scans(work: Work) -> Steps:
    """Imports scans into a dataset; the result is the report without names: {dataset, accepted, repaired, ...}."""
    from builder.intake import Source

    payload = work.job.payload
    options = {name: payload[name] for name in ("task", "into", "seed") if payload.get(name) is not None}
    if payload.get("split") is not None:
        options["split"] = tuple(payload["split"])
    options["keep_out_of"] = tuple(payload.get("keep_out_of") or ())
    options["new_classes"] = tuple(payload.get("new_classes") or ())
    source = Source.from_json(payload["source"])
    try:
        return (yield from _intake(work, source, payload.get("name") or "", options))
    finally:
        _drop_ticket(work.home, source.root, source.labels)


def demo(work: Work) -> Steps:
    """Makes a synthetic set of the task (`kind`, else its first) and imports it; the result is the import's report."""
    from builder import task
    from builder.sources import detect

    kind = task.find(work.job.payload["task"])
    yield Progress(note="drawing synthetic scans")
    place = work.folder / "demo"
    place.mkdir()
    try:
        wanted = str(work.job.payload.get("kind") or "")
        made = kind.demo(int(work.job.payload.get("seed") or 0), place, wanted)
        labels = made if made.is_file() else None  # a table, or a folder that is read as any other
        source = replace(detect(place if labels else made, labels, kind.name), synthetic=True)
        return (yield from _intake(work, source, kind.demo_name(wanted), {"task": kind.name}))
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _intake(work: Work, source: Any, name: str, options: Mapping[str, Any]) -> Steps:
    from builder.intake import import_scans as taking_in

    steps = taking_in(source, name, work.home, **options)
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            return end.value.to_json()
        yield Progress(step=step.done, total=step.total, note=step.note)


def predict(work: Work) -> Steps:
    """Asks a run about one scan: {run, by, finding, image, heatmap, size, outputs, heat, like}; the pictures are PNG
    files in the job folder.

    Of a series or volume `image` and `heatmap` are those of the most telling slice; `images` and `heatmaps` are those
    of all slices that were seen. `outputs` and `heat` are those of `asking.keep`: the scan itself and what was found on
    it, for the viewer. `like` is {farther_than (0..1), of (training scans)}, None where nothing can be said.

    The scan is either in `files` (one, or the slices of a series; number `member` of them where there are several
    scans), or `case` number n of `dataset`.
    """
    from builder import gate, nearness
    from builder.asking import keep, telling_slice
    from builder.predict import Predictor

    payload = work.job.payload
    yield Progress(step=0, total=4, note="reading the scan")
    scan = _scan_of(work)
    yield Progress(step=1, total=4, note="preparing the network")
    asked = Run(work.home, payload["run"])
    state = payload.get("checkpoint") or "best"
    predictor = Predictor.open(asked.folder, checkpoint=state)
    answered_by = {"state": state, "epoch": predictor.epoch, "step": predictor.step}
    if payload.get("occlude"):  # a question beside the first one, which has kept the scan and passed the gate
        finding = predictor.finding(scan, occlude=[tuple(box) for box in payload["occlude"]])
        told = {"run": asked.id, "finding": finding.plain(), "by": answered_by}
        return {**told, **_pictures(work.folder, finding)}
    yield Progress(step=2, total=4, note="comparing it with the training scans")
    # The last state is of the moment: how near the training scans lie is not kept for it.
    known = nearness.of_run(predictor, asked.folder, work.home) if state == "best" else None
    yield Progress(step=3, total=4, note="asking the network")
    finding, like = gate.answered(predictor, scan, known)
    result: dict[str, Any] = {"run": asked.id, "finding": finding.plain(), "by": answered_by, "like": like}
    result |= _pictures(work.folder, finding)
    result |= keep(work.folder, scan, finding, predictor)
    result["telling"] = telling_slice(len(scan.pixels), finding)
    return result


def _scan_of(work: Work) -> Any:
    """The scan that a question is about (see `predict`)."""
    from builder.asking import the_scan_in
    from builder.data import Dataset
    from builder.predict import read
    from builder.sandbox import Sandbox

    payload = work.job.payload
    files = [Path(file) for file in payload.get("files") or ()]
    if files and payload.get("member") is not None:
        return the_scan_in(files, int(payload["member"]))
    if files:
        with Sandbox() as box:
            return read(files, box)
    return Dataset.open(work.home, payload["dataset"]).scan(int(payload["case"]))


def explain(work: Work) -> Steps:
    """Where what speaks for the answer to a scan lies, by one method of `saliency`: {method, heatmap, heatmaps}, names
    of PNG files, None and [] where nothing speaks for it. The payload is that of `predict`, with {method}."""
    import numpy as np

    from builder import saliency
    from builder.predict import Predictor

    payload = work.job.payload
    method = str(payload["method"])
    yield Progress(step=0, total=2, note="reading the scan")
    scan = _scan_of(work)
    yield Progress(step=1, total=2, note="asking where it looks")
    predictor = Predictor.open(Run(work.home, payload["run"]).folder, checkpoint=payload.get("checkpoint") or "best")
    if method not in saliency.METHODS:
        raise StoreError(f"There is no way to ask called {method!r}; there are {', '.join(saliency.METHODS)}.")
    if words := saliency.refused(predictor.experiment, len(predictor.classes), method):
        raise StoreError(words)
    finding = predictor.finding(scan)
    if not finding.likeliest:
        raise StoreError("The run names no class for this scan, so there is no answer to explain.")
    each = finding.slices and predictor.experiment.data.slices == "each"
    image = finding.image[finding.telling] if each else finding.image
    heat = saliency.explain(predictor, image, predictor.classes.index(finding.likeliest), method)
    names: list[str] = []
    if heat is not None:
        if each:  # of slices that are answered one by one the most telling one is asked about
            maps = np.zeros((len(finding.slices), *heat.shape[-2:]), np.float32)
            maps[finding.telling] = heat
            heat = maps
        _save_picture(work.folder / "heat.png", heat[None] if heat.ndim == 2 else heat[finding.telling][None])
        for n in range(len(finding.slices)):
            _save_picture(work.folder / f"heat-{n:03d}.png", heat[n][None])
            names.append(f"heat-{n:03d}.png")
    return {"method": method, "heatmap": None if heat is None else "heat.png", "heatmaps": names}


def audited(work: Work) -> Steps:
    """Searches restored scans for what was made up or taken away: `hallucination.audit`. The payload is {run}."""
    from builder.hallucination import audit

    yield Progress(note="searching restored scans")
    return audit(Run(work.home, work.job.payload["run"]), work.home, work.count)


def diagnosed(work: Work) -> Steps:
    """Whether a diagnosis is more often right on restored scans, by {run, judge}: `hallucination.diagnose`."""
    from builder.hallucination import diagnose

    yield Progress(note="asking the other network, before and after")
    payload = work.job.payload
    return diagnose(Run(work.home, payload["run"]), Run(work.home, payload["judge"]), work.home, work.count)


def explained(work: Work) -> Steps:
    """Tests what a run's heat maps are worth; the result is `sanity.examine`."""
    from builder.sanity import examine

    yield Progress(note="asking with and without its weights")
    return examine(Run(work.home, work.job.payload["run"]), work.home, work.count)


def _pictures(folder: Path, finding: Any) -> dict[str, Any]:
    """Writes what the network saw, and where it looked, as PNG files: {image, heatmap, size, images?, heatmaps?}."""
    import numpy as np

    heat = finding.heatmap
    result: dict[str, Any] = {"size": list(np.shape(finding.image)[-2:])}
    _save_picture(folder / "input.png", finding.pictures[finding.telling])
    if heat is not None:
        _save_picture(folder / "heat.png", heat[None] if heat.ndim == 2 else heat[finding.telling][None])
    if finding.slices:
        names = [f"{n:03d}.png" for n in range(len(finding.slices))]
        for name, values in zip(names, finding.pictures, strict=True):
            _save_picture(folder / f"input-{name}", values)
        for name, values in zip(names, () if heat is None else heat, strict=heat is not None):
            _save_picture(folder / f"heat-{name}", values[None])
        result["images"] = [f"input-{name}" for name in names]
        result["heatmaps"] = [] if heat is None else [f"heat-{name}" for name in names]
    return {**result, "image": "input.png", "heatmap": None if heat is None else "heat.png"}


def predict_many(work: Work) -> Steps:
    """Asks a run about every scan in `files`: {run, checkpoint (which state of it), scans: [...], refused (how many)};
    pictures are PNG files in the folder.

    Each of scans is {number, key (pseudonym of its first file's name), files (how many), finding, telling, picture,
    slices} or {number, key, files, error}. The files are grouped by series as an import groups them.
    """
    import numpy as np
    from PIL import Image

    from builder import gate, nearness
    from builder.asking import keyed, picture_of, scans_in, telling_slice
    from builder.predict import Predictor

    payload = work.job.payload
    files = [Path(file) for file in payload["files"]]
    yield Progress(note="preparing the network")
    run, state = Run(work.home, payload["run"]), payload.get("checkpoint") or "best"
    predictor = Predictor.open(run.folder, checkpoint=state)
    known = nearness.of_run(predictor, run.folder, work.home) if state == "best" else None  # as in `predict`
    yield Progress(note="reading the scans")
    rows: list[dict[str, Any]] = []
    read, total = 0, len(files)
    for came in scans_in(files):
        row: dict[str, Any] = {"number": came.number, "key": keyed(work.home, came.name), "files": came.num_files}
        rows.append(row)
        read += came.num_files
        yield Progress(step=read, total=max(total, read), note=f"scan {came.number + 1}")
        if came.scan is None:
            row["error"] = came.reason
            continue
        try:
            finding, like = gate.answered(predictor, came.scan, known)
        except ValueError as error:  # words for people: this scan cannot be asked about, the others can
            row["error"] = str(error)
            continue
        told = finding.plain()
        if like is not None:
            row["like"] = like
        name = f"scan-{came.number:04d}.png"
        Image.fromarray(np.ascontiguousarray(picture_of(came.scan, finding))).save(work.folder / name)
        row |= {"finding": told, "picture": name, "slices": len(came.scan.pixels)}
        row["telling"] = telling_slice(len(came.scan.pixels), finding)
    if not rows:
        raise StoreError("There is no scan among these files.")
    refused = sum("error" in row for row in rows)
    return {"run": run.id, "checkpoint": state, "scans": rows, "refused": refused}


def evaluate(work: Work) -> Steps:
    """Measures a run on one split; the result is the evaluation."""
    from builder.evaluate import evaluate as measured

    payload = work.job.payload
    yield Progress(note="measuring")
    run = Run(work.home, payload["run"])
    return measured(run, work.home, split=payload.get("split") or "test", progress=work.count)


def compare(work: Work) -> Steps:
    """Judges two runs on the same cases of a split: `compare.compare`. The payload is {first, second, split}."""
    from builder.compare import compare as compared

    payload = work.job.payload
    yield Progress(note="asking both")
    first, second = (Run(work.home, payload[name]) for name in ("first", "second"))
    return compared(first, second, work.home, payload.get("split") or "val", progress=work.count)


def hardest(work: Work) -> Steps:
    """The training cases that a run finds hardest: `hardest.hardest`, with its pictures in the job folder."""
    from builder import task
    from builder.hardest import hardest as found
    from builder.parting import dataset_of

    run = Run(work.home, work.job.payload["run"])
    experiment = run.experiment
    dataset = dataset_of(run.folder, work.home, experiment.data.dataset)
    yield Progress(note="asking about every training scan")
    kind = task.find(experiment.task)
    return {**found(experiment, kind, dataset, run.folder, work.folder, told=work.count), "edited": dataset.edited}


def baseline(work: Work) -> Steps:
    """Measures frozen features on `dataset`, with `test` also on its test side; the result is `baseline.baseline`."""
    from builder.baseline import baseline as measured
    from builder.data import Dataset

    payload = work.job.payload
    yield Progress(note="looking at the scans")
    dataset = Dataset.open(work.home, payload["dataset"])
    return measured(dataset, test=bool(payload.get("test")), told=work.count)


def audit(work: Work) -> Steps:
    """Audits `dataset`; the result is that of `audit.audit`."""
    from builder.audit import audit as audited
    from builder.data import Dataset

    yield Progress(note="looking at the scans")
    return audited(Dataset.open(work.home, work.job.payload["dataset"]), told=work.count)


def blanked(work: Work) -> Steps:
    """Asks a run about its validation scans with parts taken away; the result is `blanking.ask`."""
    from builder.blanking import ask

    yield Progress(note="asking with parts taken away")
    return ask(Run(work.home, work.job.payload["run"]), work.home, work.count)


def error_groups(work: Work) -> Steps:
    """Looks for kinds of scans on which a run errs; the result is `error_groups.ask`."""
    from builder.error_groups import ask

    yield Progress(note="asking and comparing scans")
    return ask(Run(work.home, work.job.payload["run"]), work.home, work.count)


def reading(work: Work) -> Steps:
    """Begins a blind reading (`reader.begin`): {run, reading, cases}. The payload is {run, split, num, seed, kind}."""
    from builder.reader import begin

    payload = work.job.payload
    yield Progress(note="asking the network about the scans")
    run = Run(work.home, payload["run"])
    made = begin(
        run,
        work.home,
        payload["split"],
        int(payload["num"]),
        int(payload["seed"]),
        work.count,
        str(payload.get("kind", "")),
    )
    return {"run": run.id, "reading": made.id, "cases": len(made.cases)}


def gather(work: Work) -> Steps:
    """What the runs of a round, or the searches of a nested estimate, say together once all have ended:
    `folding.gather` and its like. The payload is {round} or {nested}."""
    from builder import nested
    from builder.gathered import gather as gathered
    from builder.rounds import RoundStore

    yield Progress(note="asking about what was held out")
    if "nested" in work.job.payload:
        return nested.gather(nested.Nested(work.home, str(work.job.payload["nested"])), progress=work.count)
    return gathered(RoundStore(work.home).round(str(work.job.payload["round"])), work.count)


def evidence(work: Work) -> Steps:
    """Makes the evidence pack of a run in the run's own folder: {run, file (its name), digest (of its document)}."""
    from builder.evidence.pack import make

    yield Progress(note="gathering the evidence")
    run = Run(work.home, work.job.payload["run"])
    return {"run": run.id, "file": make(run, work.home, told=work.count).name, "digest": run.experiment.digest}


def verify(work: Work) -> Steps:
    """Checks an evidence pack, made here or uploaded: `verify.verify`. The payload is {run} or {file}."""
    from builder.evidence.pack import made
    from builder.evidence.verify import verify as verified

    payload = work.job.payload
    yield Progress(note="comparing hashes, then asking the network again")
    file = Path(payload["file"]) if payload.get("file") else made(Run(work.home, payload["run"]))
    if file is None:
        raise StoreError("No evidence pack of this run was made here yet.")
    try:
        return verified(file, work.home, place=work.folder, told=work.count)
    finally:
        if payload.get("file"):
            _drop_ticket(work.home, file)


def confidence(work: Work) -> Steps:
    """Judges a run's confidence on its validation scans; the result is `calibrate.judge`."""
    from builder.calibrate import judge

    yield Progress(note="asking the validation scans")
    return judge(Run(work.home, work.job.payload["run"]), work.home, work.count)


def gated(work: Work) -> Steps:
    """Measures what a run's gate stops: `gate.measure`. The payload is {run, foreign (id of a data set, or "")}."""
    from builder.gate import measure

    yield Progress(note="looking at the scans")
    payload = work.job.payload
    return measure(Run(work.home, payload["run"]), work.home, str(payload.get("foreign") or ""), work.count)


def export(work: Work) -> Steps:
    """Packs a run, or the network of an experiment that is not trained, to take away: {file, to, digest, parity}.

    The file is a zip in the job folder; digest is that of the experiment; parity is the proof that the export answers
    as the app does.
    """
    from builder.export import export as packed
    from builder.spec import Experiment

    payload = work.job.payload
    yield Progress(note="packing and proving")
    what = Experiment.checked(payload["experiment"]) if "experiment" in payload else Run(work.home, payload["run"])
    made = Path(packed(what, work.home, to=payload.get("to") or "pytorch", out=work.folder / "out"))
    proof = json.loads((made.with_suffix("") / "parity.json").read_bytes())
    digest = (what if isinstance(what, Experiment) else what.experiment).digest
    return {
        "file": str(made.relative_to(work.folder)),
        "to": payload.get("to") or "pytorch",
        "digest": digest,
        "parity": proof,
    }


def takeout(work: Work) -> Steps:
    """Writes what a predict job found as a file for other programs: {file (in the job folder), to}.

    The payload is {job, to (one of `takeout.KINDS`), files (of the scan), member, least (score of boxes)}.
    """
    from builder import takeout as making
    from builder.asking import files_of

    payload = work.job.payload
    yield Progress(note="writing the file")
    asked = Job(work.home, "predict", str(payload["job"]))
    told, to = asked.result(), str(payload["to"])
    if told is None:
        raise StoreError("This answer is gone: ask again.")
    if to not in making.KINDS:
        raise StoreError(f"A finding is written as one of {', '.join(making.KINDS)}, not as {to!r}.")
    notes = [str(note) for note in (told.get("finding") or {}).get("notes") or ()]
    if to == "nifti":
        return {"file": making.nifti(asked.folder, work.folder / "found.nii.gz").name, "to": to}
    with files_of([Path(file) for file in payload.get("files") or ()], payload.get("member")) as files:
        if to == "seg":
            names = payload.get("names") or ["Lesion"]
            made = making.segmentation(asked.folder, files, names, work.folder / "mask.dcm", notes)
        elif to == "derived":
            made_by = " ".join([f"run {payload.get('run') or ''}", *(n for n in notes if n.startswith("LEAKY"))])
            made = making.derived(asked.folder, files, made_by, work.folder / "enhanced")
        else:
            least = float(payload.get("least") or 0)
            made = making.report(asked.folder, files, told["finding"], work.folder / "report.dcm", least)
    return {"file": str(made.relative_to(work.folder)), "to": to}


def fetch(work: Work) -> Steps:
    """Fetches a series from an archive of the administrator's list: {archive, files (names in the folder `scan`)}.

    The payload is {archive, study, series}. What was fetched goes with the job's folder.
    """
    from builder import dicomweb

    payload = work.job.payload
    yield Progress(note="fetching the scan")
    where = dicomweb.archive(work.home, str(payload["archive"]))
    place = work.folder / "scan"
    shutil.rmtree(place, ignore_errors=True)  # of a try before that was lost
    place.mkdir(mode=0o700)
    files = dicomweb.fetch(where, str(payload["study"]), str(payload["series"]), place)
    return {"archive": where.name, "files": [file.name for file in files]}


def send(work: Work) -> Steps:
    """Sends what a predict job found back to the archive that its scan came from: {archive, stored [{kind, instance}],
    not_stored [{kind, why}]}.

    The payload is {job, archive, files (of the scan), least (score of boxes)}.
    """
    from builder import dicomweb, takeout

    payload = work.job.payload
    yield Progress(note="writing and sending the results")
    where = dicomweb.archive(work.home, str(payload["archive"]))
    if not where.store:
        dicomweb.store(where, [])  # says why not
    asked = Job(work.home, "predict", str(payload["job"]))
    told = asked.result()
    if told is None:
        raise StoreError("This answer is gone: ask again.")
    files = [Path(file) for file in payload["files"]]
    place = work.folder / "results"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(mode=0o700)
    made, refused = takeout.results(asked.folder, files, told["finding"], place, float(payload.get("least") or 0))
    instances = dicomweb.store(where, [path for _, path in made]) if made else []
    shutil.rmtree(place, ignore_errors=True)  # they name the patient
    stored = [{"kind": kind, "instance": uid} for (kind, _), uid in zip(made, instances, strict=True)]
    return {
        "archive": where.name,
        "stored": stored,
        "not_stored": [{"kind": kind, "why": why} for kind, why in refused],
    }


def opinion(work: Work) -> Steps:
    """Asks a run that tells classes about a scan and about the same one restored; the result is `Opinion.plain`.

    The payload is {job (the predict job that restored it), judge (the run)}.
    """
    from builder import outputs
    from builder.opinion import compared
    from builder.predict import Predictor

    payload = work.job.payload
    yield Progress(note="asking the other network")
    folder = Job(work.home, "predict", str(payload["job"])).folder
    judge = Predictor.open(Run(work.home, payload["judge"]).folder)
    try:
        scan, better = outputs.kept(folder, "scan"), outputs.kept(folder, "enhanced")
    except LookupError as error:
        raise StoreError(str(error)) from None
    return compared(judge, scan, better).plain()


def correct(work: Work) -> Steps:
    """Takes a dropped scan into a data set with what a person says of it: `feedback.take_back`'s result.

    The payload is {dataset, files, member or none, said (as `feedback.Said.to_json`), who}.
    """
    from builder.feedback import Said, take_back

    payload = work.job.payload
    place = work.folder / "scan"
    place.mkdir()
    files = [Path(file) for file in payload["files"]]
    member = payload.get("member")
    said = Said.from_json(payload["said"])
    steps = take_back(work.home, payload["dataset"], files, said, place, member=member, who=payload.get("who") or "")
    try:
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                return end.value
            yield Progress(step=step.done, total=step.total, note=step.note)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def foreign_network(work: Work) -> Steps:
    """Reads an uploaded network of Keras or ONNX and stores its weights, which the experiment names: {experiment,
    missing, notes, weights (their SHA-256, "" for none)}."""
    from builder.foreign import read

    file = Path(work.job.payload["file"])
    yield Progress(note="reading the network")
    try:
        found = read(file).stored()
    finally:
        _drop_ticket(work.home, file)
    return {
        "experiment": found.experiment.model_dump(mode="json"),
        "missing": list(found.missing),
        "notes": list(found.notes),
        "weights": found.experiment.weights,
    }


def augment(work: Work) -> Steps:
    """Shows what the augmentations do to one case and what they cost: the words of `augment_preview.preview`, with the
    PNG files that they name in the job folder."""
    from builder.augment_preview import preview
    from builder.data import Dataset
    from builder.spec import Choice, Data

    payload = work.job.payload
    yield Progress(note="reading the scan")
    dataset = Dataset.open(work.home, payload["dataset"])
    case = payload.get("case")
    if case is None:
        case = next(iter(dataset.examples("train")), 0)
    return preview(
        dataset,
        Data(**(payload.get("data") or {})),
        [Choice(**choice) for choice in payload.get("augment") or ()],
        int(case),
        work.folder,
        seed=int(payload.get("seed") or 0),
        num=max(1, min(12, int(payload.get("num") or 6))),
        border=str(payload.get("border") or "black"),
        operations=bool(payload.get("operations")),
    )


def look(work: Work) -> Steps:
    """Runs the network of a draft, or a run of the same network, on one scan and keeps what each layer made of it.

    The payload is {experiment, run or none, and either dataset and case, or sample}; for the answer see `look.look`.
    """
    from builder import look as looking
    from builder.data import Dataset
    from builder.spec import Experiment

    payload = work.job.payload
    yield Progress(step=0, total=3, note="reading the scan")
    experiment = Experiment.checked(payload["experiment"])
    dataset = Dataset.open(work.home, payload["dataset"]) if payload.get("dataset") else None
    words = str(payload.get("words") or "")
    if dataset is not None and payload.get("case") is not None:
        scan = dataset.scan(int(payload["case"]))
    else:
        scan = looking.sample(payload.get("sample") or "CT")
    yield Progress(step=1, total=3, note="preparing the network")
    if payload.get("run"):
        subject = looking.of_run(Run(work.home, payload["run"]).folder, experiment, scan, words, dataset)
    else:
        subject = looking.untrained(experiment, scan, words, dataset)
    yield Progress(step=2, total=3, note="looking at every layer")
    return looking.look(subject, work.folder)


def weights(work: Work) -> Steps:
    """Takes in a file of weights, or fetches timm's own where a person asked for that; the result is `Stored`.

    The payload is {file: an uploaded file} or {fetch: the name of a timm model}.
    """
    from dataclasses import asdict

    from builder import weights as files

    model = work.job.payload.get("fetch")
    if model:
        yield Progress(note=f"fetching from {files.source(model).host}")
        return asdict(files.fetch(model))
    file = Path(work.job.payload["file"])
    yield Progress(note="reading the file")
    try:
        return asdict(files.take_in(file))
    finally:
        _drop_ticket(work.home, file)


def preflight(work: Work) -> Steps:
    """Tries a few steps of a training and throws them away: `preflight.Preflight.to_json`, and the digest."""
    from builder import preflight as flying
    from builder import task
    from builder.data import Dataset
    from builder.spec import Experiment

    experiment = Experiment.checked(work.job.payload["experiment"])
    dataset = Dataset.open(work.home, experiment.data.dataset)
    yield Progress(note="preparing the scans")

    def prepared(done: int, total: int) -> None:
        work.count(done, total)
        if done == total:
            work.tell(Progress(step=done, total=total, note="trying a few steps"))

    found = flying.preflight(experiment, task.find(experiment.task), dataset, work.folder, told=prepared, others=True)
    return {**found.to_json(), "digest": flying.subject_digest(experiment)}


def finder(work: Work) -> Steps:
    """Looks for a learning rate: `finder.Rates.to_json`, and the digest of what it was found for."""
    from builder import finder as finding
    from builder import task
    from builder.data import Dataset
    from builder.preflight import subject_digest
    from builder.spec import Experiment

    experiment = Experiment.checked(work.job.payload["experiment"])
    dataset = Dataset.open(work.home, experiment.data.dataset)
    yield Progress(note="preparing the scans")

    def stepped(done: int, total: int) -> None:
        if done == 1:
            work.tell(Progress(step=done, total=total, note="stepping at rising rates"))
        work.count(done, total)

    kind = task.find(experiment.task)
    found = finding.search(experiment, kind, dataset, work.folder, told=stepped, prepared=work.count)
    return {**found.to_json(), "digest": subject_digest(experiment)}


def search(work: Work) -> Steps:
    """Drives a study to its end: {study, status, trials (that ended), best (a number or none)}; the payload is {study}.

    It computes nothing itself: its trials are runs in the queue, so it takes no place of those for training.
    """
    from builder.check import problems
    from builder.data import Dataset
    from builder.execute import executor
    from builder.parting import Parting
    from builder.search.driver import Driver, costs_of
    from builder.search.ground import RunGround
    from builder.search.studies import StudyStore

    study = StudyStore(work.home).study(str(work.job.payload["study"]))
    yield Progress(note="reading the study")
    dataset = Dataset.open(work.home, study.experiment.data.dataset)
    num_classes, own = len(dataset.classes), Parting.of(study.folder)

    def sound(made: Any) -> list[str]:
        # On sides of its own, what leaks between those of the data set says nothing about a trial.
        asked = made if own is None else made.replace("data.leaks", "accepted")
        return [p.message for p in problems(asked, dataset.fingerprint) if p.severity == "error"]

    driver = Driver(
        study,
        RunGround(work.home, study.id, executor(work.home)),
        stop=lambda: work.stop() and work.job.stop_wanted,  # not where a signal ends this process alone
        sound=sound,
        costs=lambda made, names: costs_of(made, names, num_classes),
        wait_s=60.0,
    )
    for done, wanted in driver.steps():
        yield Progress(step=done, total=wanted, note="searching")
    view = study.view()
    best = view.best.number if view.best else None
    return {"study": study.id, "status": view.status, "trials": sum(t.ended for t in view.trials), "best": best}


KINDS: dict[str, Handler] = {
    "train": train,
    "import": import_scans,
    "demo": demo,
    "predict": predict,
    "predict-many": predict_many,
    "takeout": takeout,
    "fetch": fetch,
    "send": send,
    "correct": correct,
    "opinion": opinion,
    "evaluate": evaluate,
    "compare": compare,
    "hardest": hardest,
    "baseline": baseline,
    "audit": audit,
    "blanked": blanked,
    "error-groups": error_groups,
    "reading": reading,
    "gather": gather,
    "evidence": evidence,
    "verify": verify,
    "confidence": confidence,
    "audited": audited,
    "diagnosed": diagnosed,
    "explain": explain,
    "explained": explained,
    "gated": gated,
    "export": export,
    "augment": augment,
    "look": look,
    "preflight": preflight,
    "finder": finder,
    "weights": weights,
    "network": foreign_network,
    "search": search,
}


def _save_picture(path: Path, image: Any) -> None:
    """Writes (C, H, W) float in [0, 1] as an 8-bit grey or RGB PNG."""
    import numpy as np
    from PIL import Image

    values = (np.clip(np.nan_to_num(np.asarray(image)), 0, 1) * 255).round().astype(np.uint8)
    Image.fromarray(values[0] if len(values) == 1 else values.transpose(1, 2, 0)).save(path)


def _drop_ticket(home: Path, *places: Path | None) -> None:
    """Removes the upload that an import has read: the dataset now holds what it needs of it."""
    uploads = (home / "uploads").resolve()
    for place in places:
        if place is not None and place.resolve().is_relative_to(uploads) and place.resolve() != uploads:
            shutil.rmtree(uploads / place.resolve().relative_to(uploads).parts[0], ignore_errors=True)


# ---- from a folder to its last word ---------------------------------------------------------------------------------


def run(folder: Path, kinds: Mapping[str, Handler] = KINDS) -> int:
    """Works on the job in `folder`; returns the exit code of the process (the last word is in the events)."""
    folder = Path(folder).absolute()
    job = _job(folder)
    if int(os.environ.get("RANK", "0")) > 0:
        return follow(job)
    quieten(private=job.kind in PRIVATE_KINDS)
    attempt = _attempt(job)
    with Record(folder / "events.jsonl") as record:
        work = Work(job, attempt, record)

        def be_told_to_end(number: int, frame: FrameType | None) -> None:
            work.told_to_end = True

        signal.signal(signal.SIGTERM, be_told_to_end)
        reserve = folder / ".reserve"
        try:
            _set_aside(reserve)
            work.tell(Started())
            _settle_threads()
            last, result = _work(work, kinds[job.kind])
            if result is not None:
                write_atomic(folder / "result.json", json.dumps(result))
        except BaseException as error:
            last = Finished("failed", sentence(error, job.kind))
            note_fault(error, private=job.kind in PRIVATE_KINDS, root=job.home)
        finally:
            reserve.unlink(missing_ok=True)  # on a full disk: the room for the last word
            if work.board is not None:
                work.board.close()
        if last is None:
            return EXIT_AGAIN
        (folder / "payload.json").unlink(missing_ok=True)
        work.board = None
        try:
            work.tell(last)
        except OSError as error:
            if disk_full(error):
                return EXIT_DISK_FULL
            raise
    return 0


def follow(job: Job) -> int:
    """Does the steps of a run of which another process has rank 0, and says nothing; returns the exit code."""
    from builder import task
    from builder.parting import adopt, dataset_of
    from builder.train import train as training

    assert isinstance(job, Run)
    _settle_threads()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    claim = job.claim
    adopt(job.folder)  # it may be here before the one that leads
    experiment = job.experiment
    dataset = dataset_of(job.folder, job.home, experiment.data.dataset)
    kind = task.find(experiment.task)
    last: Event | None = None
    for event in training(experiment, kind, dataset, job.folder, attempt=claim.attempt if claim else 1):
        last = event
    return 0 if isinstance(last, Finished) and last.status in ("done", "stopped") else 1


def _work(work: Work, handler: Handler) -> tuple[Finished | None, dict[str, Any] | None]:
    """Runs the handler to its end. Returns (last word, result); no last word when a signal, and no person, ended it."""
    steps = handler(work)
    while True:
        try:
            event = next(steps)
            if isinstance(event, Finished):
                break
            work.tell(event)
            if work.job.kind != "train" and work.stop():
                steps.close()
                raise Stopped
        except StopIteration as end:
            return Finished("done"), end.value
        except Stopped:
            event = Finished("stopped")
            break
    if event.status != "stopped" or work.job.stop_wanted or not work.told_to_end:
        return event, None
    if work.job.kind in CONTINUED:
        work.tell(Warned("The working process was asked to end from outside; its state is saved."))
        return None, None
    return Finished("failed", "The working process was asked to end from outside; start it again."), None


def _job(folder: Path) -> Job:
    if (folder / "experiment.json").is_file():
        return Run(folder.parents[1], folder.name)
    document = read_json(folder / "job.json")
    if document is None or document.get("kind") not in KINDS:
        raise StoreError(f"{folder.name} is no run and no job: it has neither an experiment.json nor a job.json.")
    return Job(folder.parents[1], str(document["kind"]), folder.name)


def _attempt(job: Job) -> int:
    """The number of this attempt: from the supervisor's claim, or claimed here when started by hand."""
    claim = job.claim
    if claim is not None and claim.place and claim.place == _placed():
        return claim.attempt
    if claim is not None and claim.pid == os.getpid() and alive(claim):
        return claim.attempt
    if claim is not None and alive(claim):
        raise StoreError(f"{job.id} is being worked on by {claim.place or f'process {claim.pid}'} already.")
    attempt = max(claim.attempt if claim else 0, job.view().attempt) + 1
    Claim.of(os.getpid(), attempt).write(job.folder / "claim.json")
    return attempt


def _placed() -> str:
    """The id of the place in a cluster that this process was given (`placed`); "" on the supervisor's own machine."""
    return os.environ.get("SCANLOOM_PLACE", "")


def _set_aside(reserve: Path) -> None:
    """Keeps a little room on the disk, so that the last word fits when nothing else does."""
    with open(reserve, "wb") as file:
        file.write(bytes(RESERVE_BYTES))
        file.flush()
        os.fsync(file.fileno())


def _settle_threads() -> None:
    """As many computing threads as the supervisor gave us: a fixed number, so that sums come out the same each time."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    if "torch" in sys.modules and given.isdigit():
        import torch

        torch.set_num_threads(int(given))


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    if len(arguments) != 1:
        print("usage: python -m builder.worker FOLDER (a run's or a job's folder)", file=sys.stderr)
        return 2
    try:
        return run(Path(arguments[0]))
    except StoreError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
