"""Runs on disk: one document goes down, one list of events comes up, one file is touched.

Layout of the data folder, and who writes what (one writer per file)::

    runs/<id>/experiment.json   whoever starts the run, once; of a branch also branch.json (see `branch`)
    jobs/<id>/job.json          whoever submits the short job, once; payload.json beside it goes when the job ends
    queue/<id>                  "somebody wants this": made by submit and resume, removed by the supervisor at the end
    <folder>/claim.json         the supervisor, before the worker may begin: whose process this is
    <folder>/events.jsonl       the worker; after the worker's death (and only then) the supervisor
    <folder>/stop               touched by whoever wants it to stop
    <folder>/pause              touched by whoever wants a training to wait; taken away to let it go on

The state of a run is the fold of its events plus two facts that no event can tell: is it wanted, does its process live.
No torch here, and nothing of what is trained: the store knows documents and events only.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from builder.events import (
    ACTIVE,
    OF,
    TIME,
    Branched,
    Broke,
    EpochEnded,
    Event,
    Finished,
    Fold,
    Noted,
    Paused,
    Pictured,
    Probed,
    Progress,
    Resumed,
    RunView,
    Said,
    Saved,
    Started,
    Warned,
    decimate,
    decode,
    encode,
    fold,
)
from builder.locks import locked

if TYPE_CHECKING:
    from builder.spec import Experiment

__all__ = [
    "CONTINUED",
    "KINDS",
    "OF",
    "TIME",
    "Branched",
    "Broke",
    "Claim",
    "EpochEnded",
    "Event",
    "Finished",
    "Fold",
    "Job",
    "Marker",
    "Noted",
    "Paused",
    "Probed",
    "Pictured",
    "Progress",
    "Record",
    "Resumed",
    "Run",
    "RunFollower",
    "RunStore",
    "RunView",
    "Said",
    "Saved",
    "Started",
    "StoreError",
    "Warned",
    "append_whole",
    "decimate",
    "decode",
    "disk_full",
    "disk_full_words",
    "encode",
    "fold",
    "markers",
    "queue_held",
    "write_atomic",
]

KINDS = (
    "train",
    "import",
    "demo",
    "predict",
    "predict-many",
    "takeout",
    "fetch",
    "send",
    "correct",
    "opinion",
    "evaluate",
    "compare",
    "hardest",
    "baseline",
    "blanked",
    "error-groups",
    "reading",
    "gather",
    "evidence",
    "verify",
    "confidence",
    "audited",
    "diagnosed",
    "explain",
    "explained",
    "gated",
    "audit",
    "export",
    "augment",
    "look",
    "preflight",
    "finder",
    "weights",
    "network",
    "search",
)
CONTINUED = ("train", "search")
"""Kinds whose work goes on from a saved state: one whose process was ended is started again."""
_TAIL_BYTES = 16384  # longer than any one event
_ID = re.compile(r"^[0-9a-f-]{1,64}\Z")


class StoreError(ValueError):
    """What was asked of the run store cannot be done; the message is one plain sentence."""


def append_whole(descriptor: int, data: bytes) -> None:
    """Appends `data` to an open file whole or, when the disk refuses (OSError), not at all."""
    written = 0
    try:
        while written < len(data):
            written += os.write(descriptor, data[written:])
    except OSError:
        os.ftruncate(descriptor, os.fstat(descriptor).st_size - written)  # a file has one writer
        raise


class Record:
    """The writing end of an event file: whole lines only, flushed at each append.

    A torn last line (a killed writer) is cut off on opening, a half-written line (full disk) is taken back, so the file
    always consists of whole lines. Readers never pass the last newline, so no reader can have seen what is cut.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._began = time.monotonic()
        size = os.fstat(self._fd).st_size
        keep = size
        while keep > 0:
            start = max(0, keep - 65536)
            cut = os.pread(self._fd, keep - start, start).rfind(b"\n")
            if cut >= 0:
                keep = start + cut + 1
                break
            keep = start
        if keep < size:
            os.ftruncate(self._fd, keep)

    def append(self, event: Event, sync: bool = False) -> None:
        """Adds `event`; with `sync` it is on the disk on return. An OSError (disk full) leaves the file as it was."""
        line = encode(replace(event, clock=round(time.monotonic() - self._began, 3)))
        append_whole(self._fd, line)
        if sync:
            os.fsync(self._fd)

    def close(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> Record:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def write_atomic(path: Path, text: str) -> None:
    """Writes `text` to `path` so that a reader or a crash sees the old or the new content, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.parent / f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes a rename inside `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file of ours; None where the file is absent or holds no object."""
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None
    return plain if isinstance(plain, dict) else None


@dataclass(frozen=True)
class Claim:
    """Which process owns a folder: a pid alone is reused, so its start and the boot belong to its name.

    `away`: it is paused and its place is free for others; it goes on only once the place is its own again.
    `place`: of a run on a machine of a cluster, which no pid of this one names, its id there (`cluster.submission`);
    `gone`: the cluster says that it has ended.
    """

    pid: int
    start: str
    boot: str
    attempt: int = 1
    slot: int = 0
    away: bool = False
    place: str = ""
    gone: bool = False

    @classmethod
    def placed(cls, place: str, attempt: int) -> Claim:
        """The claim of what runs on another machine; its pid is one that no system gives (never 0: that is a group)."""
        return cls(2**31 - 1, "", "", attempt, place=place)

    @classmethod
    def of(cls, pid: int, attempt: int = 1, slot: int = 0) -> Claim:
        """The claim of the process that now has `pid`; its start is "" when there is none. `slot`: which of the places
        for work it takes (with several graphics cards: which card)."""
        return cls(pid, _start_and_state(pid)[0], _boot(), attempt, slot)

    @classmethod
    def read(cls, path: Path) -> Claim | None:
        plain = read_json(path)
        if plain is None:
            return None
        try:
            attempt, slot = int(plain.get("attempt", 1)), int(plain.get("slot", 0))
            away, place, gone = bool(plain.get("away")), str(plain.get("place") or ""), bool(plain.get("gone"))
            return cls(int(plain["pid"]), str(plain["start"]), str(plain["boot"]), attempt, slot, away, place, gone)
        except (KeyError, TypeError, ValueError):
            return None

    def write(self, path: Path) -> None:
        write_atomic(path, json.dumps(asdict(self)))

    @property
    def alive(self) -> bool:
        """Whether exactly this process runs now. A zombie (ended, not yet collected) is dead. What runs elsewhere lives
        until the supervisor, who asks the cluster, writes down that it is gone."""
        if self.place:
            return not self.gone
        if self.boot != _boot():
            return False
        start, state = _start_and_state(self.pid)
        return start != "" and start == self.start and state not in "ZX"


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return str(int(psutil.boot_time()))


def _start_and_state(pid: int) -> tuple[str, str]:
    """(start, state letter) of a process; ("", "X") when there is none.

    On Linux the start is in clock ticks since boot: psutil's own figure is wall time and moves when the clock is set.
    """
    if os.path.exists("/proc/self/stat"):
        try:
            after_name = Path(f"/proc/{int(pid)}/stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            return "", "X"
        return (after_name[19], after_name[0]) if len(after_name) > 19 else ("", "X")
    try:
        process = psutil.Process(pid)
        return f"{process.create_time():.2f}", "Z" if process.status() == psutil.STATUS_ZOMBIE else "R"
    except psutil.Error:
        return "", "X"


class Job:
    """One piece of work in the queue: a folder with a document, events and perhaps a result."""

    def __init__(self, home: Path, kind: str, id: str) -> None:
        self.home, self.kind, self.id = home, kind, checked_id(id)
        self.folder = home / ("runs" if kind == "train" else "jobs") / self.id

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.kind}, {self.id})"

    @property
    def marker(self) -> Path:
        return self.home / "queue" / self.id

    @property
    def claim(self) -> Claim | None:
        return Claim.read(self.folder / "claim.json")

    @property
    def payload(self) -> dict[str, Any]:
        """What the job is to work on; {} once it has ended (it may name folders of this machine, so it is not kept)."""
        return read_json(self.folder / "payload.json") or {}

    def result(self) -> dict[str, Any] | None:
        """What the job answered; None before it is done."""
        return read_json(self.folder / "result.json")

    @property
    def stop_wanted(self) -> bool:
        return (self.folder / "stop").exists()

    @property
    def archived(self) -> bool:
        return (self.folder / "archived").exists()

    @property
    def pause_wanted(self) -> bool:
        return (self.folder / "pause").exists()

    def stop(self) -> None:
        """Asks the job to stop; a waiting one is taken out of the queue, a training one saves its state first."""
        if self.view().active:
            (self.folder / "stop").touch()

    def enqueue(self) -> None:
        """Puts the job into the queue unless it is there, has begun, or has ended: asking twice starts it once."""
        if not self.marker.exists() and self.claim is None and not (self.folder / "events.jsonl").exists():
            self._want(after=0)

    def _want(self, after: int) -> None:
        with queue_held(self.home):
            numbers = [m.number for m in markers(self.home)]
            marker = {"kind": self.kind, "number": max(numbers, default=0) + 1, "after": after}
            write_atomic(self.marker, json.dumps(marker))

    def settle(self, after: int) -> None:
        """Takes the job out of the queue, its asking of `after` being met; one that came meanwhile stays (a resume at
        the moment of the end). Only a supervisor calls this."""
        with queue_held(self.home):
            now = Marker.read(self.marker)
            if now is None or now.after <= after:
                self.marker.unlink(missing_ok=True)

    def events(self) -> Iterator[Event]:
        """Every event so far, oldest first."""
        lines, _ = _whole_lines(self.folder / "events.jsonl", 0)
        for line in lines:
            with contextlib.suppress(ValueError, TypeError):
                event = decode(line)
                if event is not None:
                    yield event

    def last_event(self) -> Event | None:
        """The newest event; reads the end of the record only. None without one, or of a newer version."""
        try:
            with open(self.folder / "events.jsonl", "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
                lines = file.read().rpartition(b"\n")[0].split(b"\n")
            return decode(lines[-1]) if lines[-1] else None
        except (OSError, ValueError, TypeError):
            return None

    def view(self) -> RunView:
        return RunFollower(self).refresh()


class Run(Job):
    """A training run: a job whose document is an experiment, and which can be continued."""

    def __init__(self, home: Path, id: str) -> None:
        super().__init__(home, "train", id)

    @property
    def experiment(self) -> Experiment:
        from builder.spec import Experiment

        return Experiment.loads((self.folder / "experiment.json").read_text(encoding="utf-8"))

    def pause(self) -> None:
        """Asks the run to save its state and wait, its network in memory; its place is free for others meanwhile."""
        view = self.view()
        if view.status not in ("starting", "running", "restarting") or view.stopping:
            raise StoreError(f"The run {self.id} is {view.status}: only a training that is at work can be paused.")
        (self.folder / "pause").touch()

    def resume(self) -> None:
        """Lets a paused run go on; puts a stopped, failed or lost one back into the queue, to continue from its last
        saved state."""
        view = self.view()
        (self.folder / "pause").unlink(missing_ok=True)
        if view.active and not view.stopping:
            return
        if not view.resumable:
            raise StoreError(
                f"The run {self.id} is {view.status}: only a paused, stopped, failed or lost run can be resumed."
            )
        (self.folder / "stop").unlink(missing_ok=True)
        claim = self.claim
        try:
            self._want(after=max(view.attempt, claim.attempt if claim else 0))
        except OSError as error:
            raise _in_words(error) from error


@dataclass(frozen=True)
class Marker:
    """A line of the queue: `number` orders it; attempts up to `after` belong to earlier askings."""

    id: str
    kind: str
    number: int
    after: int

    @classmethod
    def read(cls, path: Path) -> Marker | None:
        plain = read_json(path)
        if plain is None:
            return None
        try:
            return cls(path.name, str(plain["kind"]), int(plain["number"]), int(plain["after"]))
        except (KeyError, TypeError, ValueError):
            return None


@contextlib.contextmanager
def queue_held(home: Path) -> Iterator[None]:
    """Nobody else changes the queue meanwhile; hold it for moments only, the supervisor waits for it."""
    with locked(home / "queue.lock", wait=True):
        yield


def markers(home: Path) -> list[Marker]:
    """What is wanted, the oldest asking first."""
    try:
        names = os.listdir(home / "queue")
    except FileNotFoundError:
        return []
    found = [Marker.read(home / "queue" / name) for name in names if _ID.match(name)]
    return sorted((m for m in found if m is not None and m.kind in KINDS), key=lambda m: (m.number, m.id))


_GOES_ON = "It goes on in a moment."
_WAITS = "It waits for a free place in the cluster, or its program is being loaded there."
TROUBLE = "cluster.trouble"
"""In the data folder: a sentence of the supervisor's on why nothing can be placed in the cluster now."""


class RunFollower:
    """Follows one run: each `refresh` reads only what was appended since the last one."""

    def __init__(self, run: Job) -> None:
        self.run = run
        self.offset = 0
        self._known: dict[str, Any] = {"id": run.id, "kind": run.kind}
        monitor = ""
        if isinstance(run, Run) and (document := read_json(run.folder / "experiment.json")):
            training = document.get("training") or {}
            self._known["epochs"] = int(training.get("epochs") or 0)
            monitor = str(training.get("monitor") or "")
        self._monitor = monitor
        self._fold = Fold(monitor)

    @property
    def epochs(self) -> dict[int, dict[str, float]]:
        """{epoch from 1: its metrics} of the epochs that count, as of the last refresh."""
        return self._fold.epochs

    def refresh(self) -> RunView:
        # The marker and the process first, the events last: the end is written before the marker goes, so this order
        # can never see "not wanted, not alive, not finished" of a run that just ended.
        run = self.run
        marker = Marker.read(run.marker)
        claim = run.claim
        alive = claim is not None and claim.alive
        path = run.folder / "events.jsonl"
        if self.offset and (not path.exists() or path.stat().st_size < self.offset):
            self.offset, self._fold = 0, Fold(self._monitor)
        lines, self.offset = _whole_lines(path, self.offset)
        for line in lines:
            try:
                event = decode(line)
            except (ValueError, TypeError):
                self._fold.damaged += 1
                continue
            if event is not None:
                self._fold.add(event)
        status, reason = self._status(marker, claim, alive)
        if status == "running" and self._fold.paused is not None:
            status, reason = "paused", "" if run.pause_wanted else _GOES_ON
            if claim is not None and claim.away and not run.pause_wanted:
                reason = "Another training has its place; it goes on when that one ends."
        stopping = status in ACTIVE and run.stop_wanted
        pausing = status in ("starting", "running", "restarting") and run.pause_wanted and not stopping
        return self._fold.view(status=status, reason=reason, stopping=stopping, pausing=pausing, **self._known)

    def _status(self, marker: Marker | None, claim: Claim | None, alive: bool) -> tuple[str, str]:
        ended, attempt = self._fold.finished, self._fold.attempt
        if marker is not None:
            claimed = claim is not None and claim.attempt > marker.after
            if ended and (attempt > marker.after or (claimed and not alive)):
                return ended.status, ended.reason
            if not claimed:
                full = _free_bytes(self.run.home) < 65536
                return "queued", "The disk is full; it begins when there is space again." if full else self._trouble()
            if alive:
                running = claim is not None and attempt == claim.attempt
                waits = claim is not None and claim.place and not running
                return ("running" if running else "starting"), _WAITS if waits else ""
            if _free_bytes(self.run.home) < 65536:
                return "failed", disk_full_words(self.run.kind)
            return "restarting", "The process that did the work is gone; it is being started again."
        if ended:
            return ended.status, ended.reason
        if alive:
            return "running", ""
        return "lost", "The process that did the work is gone and left no last word."

    def _trouble(self) -> str:
        """Why a training cannot be placed now, where the cluster does not answer."""
        if self.run.kind != "train":
            return ""
        with contextlib.suppress(OSError):
            return (self.run.home / TROUBLE).read_text(encoding="utf-8").strip()
        return ""


class RunStore:
    """Runs and short jobs of one data folder."""

    def __init__(self, home: Path | str) -> None:
        self.home = Path(home)

    def create(
        self,
        experiment: Experiment,
        kind: str = "train",
        *,
        id: str | None = None,
        queue: bool = True,
        fill: Callable[[Path], object] | None = None,
    ) -> Run:
        """A new run of `experiment`, in the queue at once (`queue=False`: only on disk). The same `id` again gives the
        run that is there already, so that a double click starts one run. StoreError when the disk is full.

        Args:
            fill: writes into the folder what else belongs there, before anybody can see it.
        """
        if kind != "train":
            raise StoreError(f"A run is of the kind train, not {kind!r}; short jobs go through submit_job.")
        made = self.make("runs", id, {"experiment.json": experiment.dumps()}, fill)
        run = Run(self.home, made)
        self._queue(run, queue)
        return run

    def submit_job(self, kind: str, payload: dict[str, Any], *, id: str | None = None) -> Job:
        """A new short job in the queue. `payload` must be plain JSON."""
        if kind not in KINDS or kind == "train":
            raise StoreError(f"A short job is one of {', '.join(KINDS[1:])}, not {kind!r}.")
        texts = {"job.json": json.dumps({"kind": kind}), "payload.json": json.dumps(payload)}
        job = Job(self.home, kind, self.make("jobs", id, texts))
        self._queue(job, True)
        return job

    def _queue(self, job: Job, queue: bool) -> None:
        if queue:
            try:
                job.enqueue()
            except OSError as error:
                raise _in_words(error) from error

    def make(
        self, place: str, id: str | None, texts: dict[str, str], fill: Callable[[Path], object] | None = None
    ) -> str:
        """Makes a folder in `place` whole or not at all: filled under a passing name, then renamed into place.

        Returns its name: `id`, or a fresh one; the same `id` again leaves what is there. StoreError: the disk is full.
        """
        parent = self.home / place
        passing = parent / f".new-{secrets.token_hex(8)}"
        try:
            passing.mkdir(parents=True, mode=0o700)
            for name, text in texts.items():
                write_atomic(passing / name, text)
            if fill is not None:
                fill(passing)
            while True:
                made = checked_id(id) if id is not None else self._fresh_id(parent)
                try:
                    os.rename(passing, parent / made)
                    sync_folder(parent)
                    return made
                except OSError as error:
                    if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                        raise
                    if id is not None:
                        return made
        except OSError as error:
            raise _in_words(error) from error
        finally:
            shutil.rmtree(passing, ignore_errors=True)

    def fresh_id(self) -> str:
        """A name for a run that is to be made later (`create(id=)`): it sorts behind all there are now."""
        parent = self.home / "runs"
        parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self._fresh_id(parent)

    @staticmethod
    def _fresh_id(parent: Path) -> str:
        """Like 20260115-141503-f07733 (UTC; the tail is the part of the second). Ids only grow, even when the clock is
        set back, so that sorting by id is the order of creation."""
        now = time.time_ns() // 1000
        made = datetime.fromtimestamp(now // 1_000_000, UTC).strftime("%Y%m%d-%H%M%S")
        made = f"{made}-{(now % 1_000_000) * 16 + secrets.randbelow(16):06x}"
        newest = max((name for name in os.listdir(parent) if _FRESH.match(name)), default="")
        if made > newest:
            return made
        head, tail = newest[:16], int(newest[16:], 16)
        if tail < 0xFFFFFF:
            return f"{head}{tail + 1:06x}"
        later = datetime.strptime(head, "%Y%m%d-%H%M%S-").replace(tzinfo=UTC).timestamp() + 1
        return datetime.fromtimestamp(later, UTC).strftime("%Y%m%d-%H%M%S") + "-000000"

    def run(self, id: str) -> Run:
        """The run called `id`; StoreError when there is none."""
        run = Run(self.home, id)
        if not (run.folder / "experiment.json").is_file():
            raise StoreError(f"There is no run {id!r} in this data folder.")
        return run

    def job(self, id: str) -> Job:
        """The short job called `id`; StoreError when there is none."""
        document = read_json(self.home / "jobs" / checked_id(id) / "job.json")
        if document is None:
            raise StoreError(f"There is no job {id!r} in this data folder.")
        return Job(self.home, str(document["kind"]), id)

    def runs(self, archived: bool = False) -> list[Run]:
        """Every run, the newest first; those that were put away only with `archived`."""
        found = [Run(self.home, id) for id in self._ids("runs")]
        return [run for run in found if archived or not run.archived]

    def jobs(self) -> list[Job]:
        """Every short job, the newest first."""
        found = ((id, read_json(self.home / "jobs" / id / "job.json")) for id in self._ids("jobs"))
        return [Job(self.home, str(document["kind"]), id) for id, document in found if document]

    def _ids(self, place: str) -> list[str]:
        try:
            return sorted((name for name in os.listdir(self.home / place) if _ID.match(name)), reverse=True)
        except FileNotFoundError:
            return []

    def archive(self, id: str, archived: bool = True) -> None:
        """Puts a finished run out of sight, or back."""
        run = self._ended(self.run(id))
        if archived:
            (run.folder / "archived").touch()
        else:
            (run.folder / "archived").unlink(missing_ok=True)

    def delete(self, id: str) -> None:
        """Removes a finished run or short job for good. StoreError while it is waiting or running."""
        job = self.run(id) if (self.home / "runs" / checked_id(id)).is_dir() else self.job(id)
        self._ended(job)
        passing = job.folder.with_name(f".gone-{job.id}-{secrets.token_hex(4)}")
        os.rename(job.folder, passing)  # at once out of every list, also when removing is cut short
        shutil.rmtree(passing)

    def _ended(self, job: Any) -> Any:
        if job.view().active:
            raise StoreError(f"The run {job.id} is still waiting or running; stop it first.")
        return job

    def sweep(self, jobs_older_than_s: float = 86400.0) -> int:
        """Removes what nobody will come back for: ended short jobs after a day (they may hold pictures of a scan) and
        leftovers of cut-short writing, folders and files, after an hour. Returns how many went."""
        gone = 0
        now = time.time()
        for place in ("runs", "jobs"):
            folder = self.home / place
            for entry in list(folder.iterdir()) if folder.is_dir() else []:
                with contextlib.suppress(FileNotFoundError):
                    age_s = now - entry.stat().st_mtime
                    if entry.name.startswith((".new-", ".gone-")) and age_s > 3600:
                        shutil.rmtree(entry)
                        gone += 1
            for left in folder.glob("*/.*.tmp"):  # of `write_atomic`, after a power cut
                with contextlib.suppress(FileNotFoundError):
                    if now - left.stat().st_mtime > 3600:
                        left.unlink()
                        gone += 1
        for job in self.jobs():
            with contextlib.suppress(FileNotFoundError):
                if now - job.folder.stat().st_mtime > jobs_older_than_s and not job.view().active:
                    self.delete(job.id)
                    gone += 1
        return gone


_FRESH = re.compile(r"^\d{8}-\d{6}-[0-9a-f]{6}\Z")


def checked_id(id: str) -> str:
    """`id` when it can be a run's name and never a path; StoreError otherwise."""
    if not isinstance(id, str) or not _ID.match(id):
        raise StoreError("A run id consists of the digits 0-9, the letters a-f and dashes only.")
    return id


def _whole_lines(path: Path, offset: int) -> tuple[list[bytes], int]:
    """(whole lines from `offset` on, the offset after them); a torn last line stays for the next time."""
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            chunk = file.read()
    except FileNotFoundError:
        return [], offset
    end = chunk.rfind(b"\n") + 1
    return [line for line in chunk[:end].split(b"\n") if line], offset + end


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def disk_full(error: BaseException | None) -> bool:
    """Whether `error`, or what caused it, is a full disk or a used-up quota."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        seen.append(error)
        error = error.__cause__ or error.__context__
    return False


def disk_full_words(kind: str) -> str:
    """The sentence for a job of `kind` that a full disk ended."""
    if kind == "train":
        return "The disk is full. Free some space, then press Resume: everything recorded so far is kept."
    return "The disk is full. Free some space and try again."


def _in_words(error: OSError) -> StoreError:
    if disk_full(error):
        return StoreError("The disk is full, so nothing could be started. Free some space and try again.")
    return StoreError(f"The data folder cannot be written ({error.strerror}). Check that it exists and is yours.")
