"""The supervisor of one data folder: it moves the queue, with or without a browser or a server.

`python -m builder.supervisor HOME` takes the folder's lock (a second one leaves at once), imports torch and the engine
once, and forks a worker for each job, oldest first: a forked worker has everything imported and begins at once.
For that the supervisor itself never runs a torch operation, never touches CUDA and never starts a thread: none of the
three survives a fork.

* A worker is a session of its own, known by pid + start + boot id. Its claim is on disk before it may do anything; if
  the supervisor dies first, the worker reads an end of file and leaves. So a job is never worked on twice.
* The end of a supervisor, by whatever means, ends no worker. The next one adopts the living (by their claims) and
  restarts the dead.
* A worker that ended without its last word: a training run is started again, `ATTEMPTS` times in all, then it is lost;
  a short job has failed. Only then, when its writer is dead, does the supervisor write into an event file.
* A paused training keeps its process, its network in memory, and gives its place (with several graphics cards: its
  card) to whoever waits. It goes on when that place is free again, before anything that waits in the queue.
* With SCANLOOM_EXECUTOR=ray a training is placed on a machine of the cluster instead of forked. Its claim names the
  place; whether it lives is what the cluster says, and that is asked and written down here. An attempt has one id
  there, so that a supervisor that died between claim and asking asks again, and starts nothing twice.
* When the program on disk has changed, the supervisor replaces itself in place (exec) before it forks anything from
  code that is no longer there. Its pid, its lock and its children stay.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import glob
import hashlib
import importlib
import json
import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from builder import wastebin
from builder.cluster import EXIT_NOT_SHARED, Cluster, Need, submission
from builder.execute import EXIT_DISK_FULL, alive, exit_words
from builder.runs import (
    CONTINUED,
    TROUBLE,
    Claim,
    Event,
    Finished,
    Job,
    Marker,
    Paused,
    Record,
    RunStore,
    Started,
    StoreError,
    Warned,
    disk_full,
    disk_full_words,
    markers,
    write_atomic,
)

ENTRY = "builder.worker:run"
PRELOAD = (  # what a first step and a first answer need; each was seconds of a run's start before it stood here
    "torch",
    "torch._dynamo",
    "torch.utils.tensorboard.summary",
    "tensorboard.plugins.hparams.metadata",
    "safetensors.torch",
    "sklearn.metrics",
    "PIL.Image",
    "timm",
    "builder.blocks.network",
    "builder.worker",
    "builder.train",
    "builder.predict",
    "builder.evaluate",
    "builder.intake",
    "builder.export",
    "tasks.recognition",
    "tasks.lesion_detection",
)
# Read when the libraries are loaded: with these, none of them starts a thread, so a fork is safe.
THREADLESS = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}
ATTEMPTS = 3
BACKOFF_S = (0.5, 5.0)  # before the second and the third attempt
SHORT_SLOTS = 2
WATCHERS = ("search",)
NICE, TRAINING_NICE = 5, 10
"""Who gives way where processors are short: pages (0) go first, then what somebody waits for (the supervisor and its
short jobs), then trainings; five steps are three times the share."""
POLL_S = 0.1
STOP_PATIENCE_S = 60.0
SWEEP_EVERY_S = 3600.0
LOOK_EVERY_S = 2.0  # how often an idle supervisor looks whether the program has changed
MOST_PLACED = 64  # trainings in the hands of a cluster at the same time; it puts them in line itself
ASK_EVERY_S = 1.0  # how often a cluster is asked after each of them
TROUBLE_S = 5.0  # before a cluster that did not answer is tried again
RECKON_S = 60.0
LOCK_VARIABLE = "SCANLOOM_LOCK_FD"
PROJECT = Path(__file__).parents[1]


@dataclass
class Worker:
    """A living worker process. `ours`: it is our child, so the system tells us how it ends."""

    job: Job
    marker: Marker
    claim: Claim
    ours: bool
    stop_seen: float | None = None
    asked: float = -1e9  # when the cluster was asked after it last
    stop_asked: float = -1e9  # when it may be asked again to end it


def code_stamp() -> str:
    """A digest of names, sizes and times of the program's files: it changes when the program is updated."""
    digest = hashlib.sha256(sys.version.encode())
    for folder in ("builder", "tasks"):
        for path in sorted((PROJECT / folder).rglob("*.py")):
            with contextlib.suppress(FileNotFoundError):
                facts = path.stat()
                digest.update(f"{path}:{facts.st_size}:{facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def num_gpus() -> int:
    """How many NVIDIA cards the system shows, without waking the CUDA driver (a fork after that would break it)."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    return len(glob.glob("/dev/nvidia[0-9]*"))


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Supervisor:
    """Moves the queue of `home`. `entry` is the function (module:name) that a worker runs on its job folder; it gives
    back the exit code. `preload` is imported once, before the first fork."""

    def __init__(self, home: Path, entry: str = ENTRY, preload: Sequence[str] = PRELOAD) -> None:
        self.home = home
        self.entry = entry
        self.preload = tuple(preload)
        self.num_gpus = num_gpus()
        self.train_slots = max(1, int(os.environ.get("SCANLOOM_SLOTS") or self.num_gpus or 1))
        self.idle_s = float(os.environ.get("SCANLOOM_IDLE_S") or 900)
        self.threads = max(1, int(os.environ.get("SCANLOOM_THREADS") or usable_cores() // self.train_slots))
        self.stamp = code_stamp()
        self.workers: dict[str, Worker] = {}
        self._not_before: dict[str, float] = {}
        self._retries: dict[str, int] = {}  # job id -> the attempt whose death is on record; the next one is due
        self._unrecorded: dict[str, tuple[Marker, Event]] = {}
        self.executor = os.environ.get("SCANLOOM_EXECUTOR") or "local"
        self.cluster = Cluster.of(os.environ) if self.executor == "ray" else None
        self._leave = False
        self._described = False
        self._lock = -1
        self._wake = (-1, -1)

    # ------------------------------------------------------------------------------------------------------- its life

    def serve(self) -> int:
        """Works until it is told to leave (SIGTERM) or was idle for long; returns the exit code."""
        if not self._take_lock():
            say("Another supervisor has this data folder; leaving.")
            return 0
        os.environ.update(THREADLESS)
        os.nice(max(0, NICE - os.nice(0)))  # the imports must not hold up the first page; an exec keeps what it had
        self._watch_signals()
        self._describe(ready=False)
        self._load()
        self._describe(ready=True)
        say(f"Ready: {self.train_slots} place(s) for training, {SHORT_SLOTS} for short jobs.")
        busy_at = time.monotonic()
        swept_at, looked_at = -SWEEP_EVERY_S, busy_at
        while not self._leave:
            try:
                wanted = self._tick()
            except OSError as error:  # a full or broken disk must not end the one who will report it
                say(f"The data folder cannot be used now ({error.strerror}); trying again.")
                time.sleep(1.0)
                continue
            now = time.monotonic()
            if wanted or self.workers:
                busy_at = now
            elif now - swept_at > SWEEP_EVERY_S:
                swept_at = now
                RunStore(self.home).sweep()
                wastebin.sweep(self.home)
            elif now > looked_at + LOOK_EVERY_S:
                looked_at = now
                if code_stamp() != self.stamp:
                    self._renew()
            elif now - busy_at > self.idle_s and self._let_go():
                say("Nothing to do for a while; leaving.")
                return 0
            self._pause()
        say("Asked to leave; the workers go on.")
        return 0

    def _take_lock(self) -> bool:
        inherited = os.environ.pop(LOCK_VARIABLE, None)
        if inherited is not None:
            self._lock = int(inherited)
            os.set_inheritable(self._lock, False)
        else:
            self._lock = os.open(self.home / "supervisor.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        for _ in range(200):  # somebody may be looking, for some microseconds, whether the lock is free
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                time.sleep(0.005)
        return False

    def _let_go(self) -> bool:
        """Gives the lock back to leave; False (lock taken again) when something was asked for at the last moment."""
        fcntl.flock(self._lock, fcntl.LOCK_UN)
        return not markers(self.home) or not self._take_lock()

    def _watch_signals(self) -> None:
        self._wake = os.pipe()
        for descriptor in self._wake:
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(self._wake[1], warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # wakes the pause; the work is done in the loop
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._be_told_to_leave)

    def _be_told_to_leave(self, *_: object) -> None:
        self._leave = True

    def _pause(self) -> None:
        select.select([self._wake[0]], [], [], POLL_S)
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake[0], 4096)

    def _describe(self, ready: bool) -> None:
        """Says in supervisor.json who we are; on a full disk, once there is room again."""
        facts = {**asdict(Claim.of(os.getpid())), "stamp": self.stamp, "ready": ready, "threads": self.threads}
        facts["executor"] = self.executor
        try:
            write_atomic(self.home / "supervisor.json", json.dumps(facts))
            self._described = True
        except OSError:
            self._described = False

    def _load(self) -> None:
        began = time.monotonic()
        for name in self.preload:
            try:
                importlib.import_module(name)
            except Exception as error:  # a worker that needs it will say so in its run; others can work
                say(f"{name} cannot be imported: {type(error).__name__}: {error}")
        num_threads = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 1
        if num_threads != 1:
            say(f"{num_threads} threads after the imports: some library started one, and forks may hang.")
        gc.collect()
        gc.freeze()  # what is loaded now stays shared with the workers: no collector writes into it
        say(f"Imports took {time.monotonic() - began:.1f} s.")

    def _renew(self) -> None:
        """Becomes the new program, with pid, lock and children, once the files have been still for a moment."""
        stamp = code_stamp()
        time.sleep(0.3)
        if code_stamp() != stamp:
            return
        say("The program has changed; starting anew.")
        os.set_inheritable(self._lock, True)
        os.environ[LOCK_VARIABLE] = str(self._lock)
        signal.set_wakeup_fd(-1)
        for descriptor in self._wake:
            os.close(descriptor)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])

    # ------------------------------------------------------------------------------------------------------ the queue

    def _tick(self) -> bool:
        """Looks at everything once; whether anything is wanted."""
        if not self._described:
            self._describe(ready=True)
        self._collect()
        for id, (marker, event) in list(self._unrecorded.items()):
            if self._due(id):
                self._close(marker, event)
        wanted = markers(self.home)
        for worker in self.workers.values():
            if worker.job.kind == "train":
                self._mind_pause(worker)
        for marker in wanted:
            if marker.id in self.workers:
                self._mind_stop(self.workers[marker.id])
            elif marker.id not in self._unrecorded and self._due(marker.id):
                self._advance(marker)
        return bool(wanted)

    def _due(self, id: str) -> bool:
        return time.monotonic() >= self._not_before.get(id, 0.0)

    def _advance(self, marker: Marker) -> None:
        """One step for a wanted job without a worker of ours: adopt, end, mourn or start."""
        job = Job(self.home, marker.kind, marker.id)
        if not job.folder.is_dir():
            self._retries.pop(job.id, None)
            job.marker.unlink(missing_ok=True)
            return
        claim = job.claim
        if claim is not None and alive(claim):
            if claim.attempt > marker.after:
                say(f"{job.id}: adopted process {claim.pid}.")
                self.workers[job.id] = Worker(job, marker, claim, ours=False)
            return  # otherwise the worker of an earlier asking is just leaving
        attempt = max(claim.attempt if claim else 0, marker.after)
        if claim is not None and claim.attempt > marker.after and self._retries.get(job.id) != claim.attempt:
            self._mourn(job, marker, claim, None)
        elif job.stop_wanted:
            self._close(marker, Finished("stopped", "It was taken out of the queue before it began."))
        elif (slot := self._free_slot(job)) is not None:
            if code_stamp() != self.stamp:
                self._renew()
            else:
                self._start(job, marker, attempt + 1, slot)

    def _free_slot(self, job: Job) -> int | None:
        """A free place for `job`, None when there is none. A run that waits for its next try keeps its place.

        What only watches over other jobs takes no place: it must neither wait for them nor keep them waiting.
        """
        if job.kind in WATCHERS:
            return 0
        training = job.kind == "train"
        if training and self.cluster is not None:  # the cluster puts them in line; each comes when its place is free
            placed = [w for w in self.workers.values() if w.claim.place]
            return 0 if len(placed) < MOST_PLACED else None
        at_work = [w for w in self.workers.values() if not w.claim.away and w.job.kind not in WATCHERS]
        taken = {w.claim.slot for w in at_work if (w.job.kind == "train") == training}
        free = [slot for slot in range(self.train_slots if training else SHORT_SLOTS) if slot not in taken]
        waits = [id for id in self._retries if id != job.id and (self.home / "runs" / id).is_dir()]
        kept = len(waits) if training and job.id not in self._retries else 0
        return free[0] if len(free) > kept else None

    def _mind_pause(self, worker: Worker) -> None:
        """Lends the place of a paused training to others, and gives it back once it may go on and the place is free."""
        if worker.claim.place:
            return  # its place in the cluster stays its own while it waits
        wanted = worker.job.pause_wanted and not worker.job.stop_wanted
        if not worker.claim.away:
            if wanted and isinstance(worker.job.last_event(), Paused):
                self._lend(worker, True)
                if not worker.job.pause_wanted:  # taken back meanwhile: see `worker.Work.pause` for the order
                    self._lend(worker, False)
        elif not wanted:
            others = [w for w in self.workers.values() if w is not worker and w.job.kind == "train"]
            if all(w.claim.away or w.claim.slot != worker.claim.slot for w in others):
                self._lend(worker, False)

    def _lend(self, worker: Worker, away: bool) -> None:
        claim = replace(worker.claim, away=away)
        claim.write(worker.job.folder / "claim.json")
        worker.claim = claim

    def _mind_stop(self, worker: Worker) -> None:
        """A worker that does not heed a wish to stop within a minute is ended; its last saved state stays."""
        if not worker.job.stop_wanted:
            worker.stop_seen = None
        elif worker.stop_seen is None:
            worker.stop_seen = time.monotonic()
        elif worker.claim.place:
            self._stop_placed(worker)
        elif time.monotonic() - worker.stop_seen > STOP_PATIENCE_S and worker.claim.alive:
            os.kill(worker.claim.pid, signal.SIGKILL)

    def _start(self, job: Job, marker: Marker, attempt: int, slot: int) -> None:
        if job.kind == "train" and self.cluster is not None:
            self._place(job, marker, attempt)
            return
        reader, writer = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            pid = os.fork()
        except OSError as error:  # no memory, or too many processes: later, perhaps
            os.close(reader)
            os.close(writer)
            self._later(job, error)
            return
        if pid == 0:
            os.close(writer)
            self._become_worker(job, slot, reader)  # never comes back
        os.close(reader)
        try:
            claim = Claim.of(pid, attempt, slot)
            claim.write(job.folder / "claim.json")
            os.write(writer, b"go")
        except OSError as error:
            # Not claimed, so not released: the child reads an end of file and leaves; it is collected as a stranger.
            self._later(job, error)
        else:
            self.workers[job.id] = Worker(job, marker, claim, ours=True)
            self._not_before.pop(job.id, None)
            self._retries.pop(job.id, None)
            say(f"{job.id}: {job.kind}, attempt {attempt}, process {pid}.")
        finally:
            os.close(writer)

    def _later(self, job: Job, error: OSError) -> None:
        say(f"{job.id}: cannot be started now ({error.strerror}).")
        self._not_before[job.id] = time.monotonic() + 2.0

    def _become_worker(self, job: Job, slot: int, reader: int) -> None:
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            os.close(self._lock)
            for descriptor in self._wake:
                os.close(descriptor)
            os.setsid()
            if job.kind == "train":
                os.nice(TRAINING_NICE - NICE)
            with contextlib.suppress(OSError):  # let memory pressure take the training, not the server
                Path("/proc/self/oom_score_adj").write_text("500")
            if os.read(reader, 2) != b"go":
                os._exit(0)
            os.close(reader)
            stdio_to(job.folder / "worker.log")
            # The working threads of a run are a fixed number: sums in another order would be other weights.
            os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(self.threads)
            if self.num_gpus and job.kind == "train":
                visible = (os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(self.num_gpus)))).split(
                    ","
                )
                os.environ["CUDA_VISIBLE_DEVICES"] = visible[slot % len(visible)]
            module, _, function = self.entry.partition(":")
            code = getattr(importlib.import_module(module), function)(job.folder)
        except BaseException as error:
            with contextlib.suppress(OSError):
                print(f"The worker could not begin: {type(error).__name__}", file=sys.stderr)
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    # -------------------------------------------------------------------------------------------------- in a cluster

    def _place(self, job: Job, marker: Marker, attempt: int) -> None:
        """Asks the cluster for a place for an attempt; where it does not answer, the job waits and that is told."""
        assert self.cluster is not None
        try:
            need = self._need(job)
            # On disk before the cluster hears of it, so that no attempt is ever asked for under two numbers.
            claim = Claim.placed(submission(job.id, attempt), attempt)
            claim.write(job.folder / "claim.json")
            self.cluster.submit(job.id, attempt, need)
        except StoreError as error:
            self._in_trouble(job, error)
            # Whether it was heard is unknown, so the claim stays: who asks after it asks again, under the same id.
            if (held := job.claim) is not None and held.place and held.attempt == attempt:
                self.workers[job.id] = Worker(job, marker, held, ours=False, asked=time.monotonic())
            return
        self.workers[job.id] = Worker(job, marker, claim, ours=False)
        self._out_of_trouble()
        self._not_before.pop(job.id, None)
        self._retries.pop(job.id, None)
        say(f"{job.id}: {job.kind}, attempt {attempt}, placed in the cluster; it takes {need.words}.")

    def _ask_after(self, worker: Worker) -> None:
        """What the cluster says of a placed attempt; of one that it never heard of, it is asked for again."""
        job, attempt = worker.job, worker.claim.attempt
        if self.cluster is None:  # it was placed by a supervisor of a cluster: begun anew here, it notices and leaves
            self._take_back(worker, None, "It was placed in a cluster, which is not used any more.")
            return
        if time.monotonic() < worker.asked + ASK_EVERY_S:
            return
        worker.asked = time.monotonic()
        try:
            place = self.cluster.place(job.id, attempt)
            if place.state == "absent":
                if self._has_begun(worker):  # the head was started anew and has forgotten what ran
                    self._take_back(worker, None, "The cluster was started anew.")
                else:
                    self.cluster.submit(job.id, attempt, self._need(job))
            elif place.state == "ended":
                self._take_back(worker, place.code, place.words)
        except StoreError as error:
            self._in_trouble(job, error)
            worker.asked = time.monotonic() + TROUBLE_S
        else:
            self._out_of_trouble()

    def _take_back(self, worker: Worker, code: int | None, words: str) -> None:
        worker.claim = replace(worker.claim, gone=True)
        worker.claim.write(worker.job.folder / "claim.json")
        self._bury(worker, code, words)

    def _stop_placed(self, worker: Worker) -> None:
        """Ends a placed attempt that is to stop: at once where it still waits, after a while where it does not heed."""
        now = time.monotonic()
        if self.cluster is None or now < worker.stop_asked:
            return
        worker.stop_asked = now + ASK_EVERY_S
        assert worker.stop_seen is not None
        if now - worker.stop_seen <= STOP_PATIENCE_S and self._has_begun(worker):
            return
        worker.stop_asked = now + STOP_PATIENCE_S
        try:
            self.cluster.stop(worker.job.id, worker.claim.attempt)
        except StoreError as error:
            self._in_trouble(worker.job, error)

    @staticmethod
    def _has_begun(worker: Worker) -> bool:
        return any(isinstance(e, Started) and e.attempt == worker.claim.attempt for e in worker.job.events())

    def _need(self, job: Job) -> Need:
        """What a training takes of a machine. A child reckons it: it opens the document, which is not our business."""
        file = job.folder / "need.json"
        if (known := Need.read(file)) is not None:
            return known
        assert self.cluster is not None
        nodes = self.cluster.nodes()
        write_atomic(job.folder / "machines.json", json.dumps({"machines": [asdict(node) for node in nodes]}))
        pid = os.fork()
        if pid == 0:
            try:
                os.close(self._lock)
                stdio_to(job.folder / "worker.log")
                importlib.import_module("builder.needs").reckon(job.folder)
            finally:
                os._exit(0)
        until = time.monotonic() + RECKON_S
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            if time.monotonic() > until:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                break
            time.sleep(0.005)
        return Need.read(file) or Need(gpus=1.0 if any(node.gpus for node in nodes) else 0.0)

    def _in_trouble(self, job: Job, error: StoreError) -> None:
        """Says in the log and in the data folder why nothing can be placed now; it is tried again."""
        say(f"{job.id}: {error}")
        self._not_before[job.id] = time.monotonic() + TROUBLE_S
        with contextlib.suppress(OSError):
            write_atomic(self.home / TROUBLE, f"{error}\n")

    def _out_of_trouble(self) -> None:
        (self.home / TROUBLE).unlink(missing_ok=True)

    # ----------------------------------------------------------------------------------------------------- their ends

    def _collect(self) -> None:
        """Takes note of every worker that has ended: our children with their exit code, the adopted without."""
        by_pid = {worker.claim.pid: worker for worker in self.workers.values()}
        # Seen dead before the children are asked: one that dies in between is told by its exit code. A child of ours
        # that is dying, or has threads that are, is told later; it is not one that nobody saw end.
        strangers = [worker for worker in self.workers.values() if not worker.ours and not worker.claim.place]
        gone = [worker for worker in strangers if not worker.claim.alive]
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                break
            if ended is None:
                break
            # While the dead one is not collected its pid cannot be reused: now what it left behind can be ended safely.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if os.getpgid(ended.si_pid) == ended.si_pid:
                    os.killpg(ended.si_pid, signal.SIGKILL)
            code = os.waitstatus_to_exitcode(os.waitpid(ended.si_pid, 0)[1])
            worker = by_pid.get(ended.si_pid)
            if worker is not None:
                self._bury(worker, code)
        for worker in list(self.workers.values()):
            if worker.claim.place:
                self._ask_after(worker)
            elif worker in gone:
                self._bury(worker, None)

    def _bury(self, worker: Worker, code: int | None, words: str = "") -> None:
        del self.workers[worker.job.id]
        marker = Marker.read(worker.job.marker) or worker.marker  # a resume may have been asked for meanwhile
        if worker.claim.attempt > marker.after:
            self._mourn(worker.job, marker, worker.claim, code, words)

    def _mourn(self, job: Job, marker: Marker, claim: Claim, code: int | None, words: str = "") -> None:
        """What follows from the death of the process of `claim`: nothing (it had finished), a next try, or the end."""
        attempt, last = 0, None
        for event in job.events():
            attempt = event.attempt if isinstance(event, Started) else attempt
            last = event
        if isinstance(last, Finished) and attempt > marker.after:
            self._settle(job, marker)
            return
        words = words or exit_words(code)
        tries = claim.attempt - marker.after
        say(f"{job.id}: {claim.place or f'process {claim.pid}'} ended without a last word. {words}")
        if job.stop_wanted and claim.place and attempt < claim.attempt:
            self._close(marker, Finished("stopped", "It was taken out of the queue before it began."))
        elif job.stop_wanted:
            self._close(marker, Finished("stopped", "It did not answer the wish to stop and was ended."))
        elif code == EXIT_DISK_FULL:
            self._close(marker, Finished("failed", disk_full_words(job.kind)))
        elif job.kind not in CONTINUED or code == EXIT_NOT_SHARED:
            self._close(marker, Finished("failed", words))
        elif tries >= ATTEMPTS:
            reason = f"{words} It was tried {ATTEMPTS} times; press Resume to try again from the last saved state."
            self._close(marker, Finished("lost", reason))
        else:
            warning = f"{words} It continues from its last saved state (attempt {tries + 1} of {ATTEMPTS})."
            if not (isinstance(last, Warned) and last.message == warning):
                self._record(job, Warned(warning))
            self._retries[job.id] = claim.attempt
            self._not_before[job.id] = time.monotonic() + BACKOFF_S[min(tries, len(BACKOFF_S)) - 1]

    def _record(self, job: Job, event: Event) -> bool:
        try:
            with Record(job.folder / "events.jsonl") as record:
                record.append(event, sync=True)
        except OSError as error:
            say(f"{job.id}: its end cannot be recorded now ({'disk full' if disk_full(error) else error.strerror}).")
            return False
        return True

    def _close(self, marker: Marker, event: Event) -> None:
        """Writes the last word for a job whose process is dead; keeps trying while the disk refuses it."""
        job = Job(self.home, marker.kind, marker.id)
        if self._record(job, event):
            self._unrecorded.pop(job.id, None)
            self._settle(job, marker)
        else:
            self._unrecorded[job.id] = (marker, event)
            self._not_before[job.id] = time.monotonic() + 1.0

    def _settle(self, job: Job, marker: Marker) -> None:
        self._not_before.pop(job.id, None)
        self._retries.pop(job.id, None)
        (job.folder / "payload.json").unlink(missing_ok=True)
        job.settle(marker.after)


def stdio_to(log: Path) -> None:
    """Sends standard output and errors of this process to `log` and gives it no input."""
    empty = os.open(os.devnull, os.O_RDWR)
    try:
        target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError:  # a full disk: the run itself will say so
        target = empty
    os.dup2(empty, 0)
    os.dup2(target, 1)
    os.dup2(target, 2)


def say(words: str) -> None:
    """One line for supervisor.log: ids and facts of processes, nothing of what is trained."""
    with contextlib.suppress(OSError):
        print(time.strftime("%Y-%m-%d %H:%M:%S"), words, flush=True)


def main(arguments: Sequence[str] | None = None, *, entry: str = ENTRY, preload: Sequence[str] = PRELOAD) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    if len(arguments) != 1 or not Path(arguments[0]).is_dir():
        print("usage: python -m builder.supervisor DATA_FOLDER (an existing folder)", file=sys.stderr)
        return 2
    return Supervisor(Path(arguments[0]).absolute(), entry, preload).serve()


if __name__ == "__main__":
    sys.exit(main())
