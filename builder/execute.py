"""Who does the work: executors, and the identity of processes.

An executor takes jobs that lie in the store, says how they are, and cancels them. It never opens an experiment.
`LocalExecutor` hands the queue of one data folder to its supervisor, a process that outlives browser and server;
`RayExecutor` has that supervisor place the trainings on the machines of a Ray cluster. `executor` takes the one that
SCANLOOM_EXECUTOR names.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from builder.cluster import EXIT_NOT_SHARED, Cluster
from builder.locks import locked
from builder.runs import Claim, Job, StoreError, disk_full, read_json

EXIT_DISK_FULL = 28  # the worker met a full disk and could not even record that; the supervisor does it for it
EXIT_AGAIN = 143  # the worker was asked to end by a signal, saved its state, and wants to be started again

_SIGNALS = {
    signal.SIGKILL: "was ended by the system (kill -9); most often because memory ran out",
    signal.SIGTERM: "was asked to end from outside (SIGTERM)",
    signal.SIGINT: "was interrupted (Ctrl-C)",
    signal.SIGHUP: "lost its terminal (SIGHUP)",
    signal.SIGSEGV: "crashed inside a compiled library (segmentation fault)",
    signal.SIGBUS: "crashed inside a compiled library (bus error); a data file may have been cut off while it was open",
    signal.SIGABRT: "was given up by a compiled library (abort)",
    signal.SIGILL: "met an instruction that this processor does not know; the installed PyTorch does not fit it",
    signal.SIGFPE: "crashed on an arithmetic fault inside a compiled library",
    signal.SIGXCPU: "used up the processor time that this system allows",
    signal.SIGXFSZ: "reached the file size that this system allows",
}


def home() -> Path:
    """The data folder: SCANLOOM_HOME, or ~/.scanloom."""
    return Path(os.environ.get("SCANLOOM_HOME") or "~/.scanloom").expanduser().absolute()


def alive(claim: Claim | None) -> bool:
    """Whether the process that `claim` names runs: same pid, same start, same boot, and not a zombie."""
    return claim is not None and claim.alive


def exit_words(code: int | None) -> str:
    """A plain sentence for the end of a process. `code`: its exit status, minus the signal number when a signal ended
    it (as in `subprocess`), None when nobody could see it end."""
    if code is None:
        return "The working process is gone and nobody saw why; perhaps the machine was restarted or memory ran out."
    if code == 0:
        return "The working process ended without saying that its work was done."
    if code == EXIT_DISK_FULL:
        return "The disk was full."
    if code == EXIT_AGAIN:
        return "The working process was asked to end from outside (SIGTERM) and saved its state."
    if code == EXIT_NOT_SHARED:
        return (
            "The machine of the cluster that was to do the work does not see this run: SCANLOOM_HOME must name the "
            "same shared folder on every machine."
        )
    if code < 0:
        try:
            number = signal.Signals(-code)
        except ValueError:
            return f"The working process was ended by signal {-code}."
        return f"The working process {_SIGNALS.get(number, f'was ended by the signal {number.name}')}."
    return f"The working process ended with a fault (exit code {code}); the details are in its worker.log."


class Executor(Protocol):
    """What every executor can do. Its contract is tested in tests/test_execute.py for each executor in `EXECUTORS`."""

    def submit(self, job: Job) -> None:
        """Sees to it that `job` is worked on; submitting it twice, or again after it ended, starts nothing twice."""

    def poll(self, job: Job) -> str:
        """The status of `job`, one of queued, starting, running, restarting, done, stopped, failed, lost."""

    def cancel(self, job: Job) -> None:
        """Asks `job` to stop; one that waits never begins. Does nothing to one that has ended."""


class LocalExecutor:
    """Work on this machine, through the supervisor of the data folder.

    `command` is how a supervisor is started, without the data folder as its last argument.
    """

    name = "local"

    def __init__(self, home: Path | str, command: Sequence[str] = (sys.executable, "-m", "builder.supervisor")) -> None:
        self.home = Path(home).absolute()
        self.command = tuple(command)

    def submit(self, job: Job) -> None:
        job.enqueue()
        self.ensure()

    def poll(self, job: Job) -> str:
        return job.view().status

    def cancel(self, job: Job) -> None:
        job.stop()

    def running(self) -> bool:
        """Whether a supervisor holds this data folder now."""
        with locked(self.home / "supervisor.lock", shared=True) as free:
            return not free

    def ensure(self, wait_s: float = 20.0) -> bool:
        """Starts the supervisor unless there is one. Cheap (well under a millisecond) when there is, so call it often.

        Returns whether this call started it. It lives in a session of its own: neither Ctrl-C in the terminal of the
        server nor the server's death reaches it. Callers at the same moment are put in line, so that one is started.
        StoreError when it does not come up.
        """
        try:
            if self.running() and not self._is_of_another():
                return False
            self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
            with locked(self.home / "supervisor.start", wait=True):
                if self.running() and not self._is_of_another():
                    return False
                self.prepare()
                self._see_off(wait_s)
                self._start(wait_s)
        except OSError as error:
            if disk_full(error):
                raise StoreError("The disk is full, so no work can be started. Free some space.") from error
            raise StoreError(f"The data folder cannot be used ({error.strerror}). Check that it is yours.") from error
        return True

    def prepare(self) -> None:
        """Looks, before a supervisor is started, whether it could work; StoreError in words where it could not."""

    def _is_of_another(self) -> bool:
        """Whether the supervisor that is there was started for another executor."""
        facts = read_json(self.home / "supervisor.json")
        return facts is not None and facts.get("executor", self.name) != self.name

    def _see_off(self, wait_s: float) -> None:
        """Lets a supervisor of another executor leave; what it started goes on, and the next one looks after it."""
        claim = Claim.read(self.home / "supervisor.json")
        until = time.monotonic() + wait_s
        while self.running() and self._is_of_another():
            if claim is not None and claim.alive:
                os.kill(claim.pid, signal.SIGTERM)
            if time.monotonic() > until:
                raise StoreError("The service that does the work does not end, so it cannot be started anew.")
            time.sleep(0.05)

    def _start(self, wait_s: float) -> None:
        log = self.home / "supervisor.log"
        fresh = not log.exists() or log.stat().st_size > 1_000_000
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if fresh else os.O_APPEND), 0o600)
        try:
            process = subprocess.Popen(
                [*self.command, str(self.home)],
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                cwd=Path(__file__).parents[1],
                env={**os.environ, "SCANLOOM_EXECUTOR": self.name},
                close_fds=True,
            )
        finally:
            os.close(descriptor)
        until = time.monotonic() + wait_s
        while not self.running():
            if process.poll() is not None:
                raise StoreError(f"The service that does the work did not start. {exit_words(process.returncode)}")
            if time.monotonic() > until:
                raise StoreError(f"The service that does the work did not start within {wait_s:.0f} seconds.")
            time.sleep(0.01)
        # The supervisor outlives us; if it ends first it must not stay as a zombie of ours for ever.
        _CHILDREN.append(process)
        _CHILDREN[:] = [child for child in _CHILDREN if child.poll() is None]


_CHILDREN: list[subprocess.Popen[bytes]] = []


class RayExecutor(LocalExecutor):
    """Trainings on the machines of the Ray cluster that RAY_ADDRESS names; short jobs stay on this machine.

    The supervisor stays the only one who starts, restarts and mourns: Ray finds the place. Nothing here imports Ray.
    """

    name = "ray"

    def prepare(self) -> None:
        """StoreError in words without address, token or a shared data folder, or where the cluster does not answer."""
        Cluster.of(os.environ).check()


EXECUTORS: dict[str, type[LocalExecutor]] = {"local": LocalExecutor, "ray": RayExecutor}


def executor(home: Path | str) -> LocalExecutor:
    """The executor that SCANLOOM_EXECUTOR names, of the data folder `home`; that of this machine without it."""
    name = os.environ.get("SCANLOOM_EXECUTOR") or "local"
    if name not in EXECUTORS:
        raise StoreError(f"SCANLOOM_EXECUTOR is {name!r}; expected one of: {', '.join(EXECUTORS)}.")
    return EXECUTORS[name](home)
