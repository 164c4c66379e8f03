"""A server of ours beside the app: one process of its own, found again by every page, that leaves no orphan.

It is started by a page, found by its folder (`address`), and ends when it is told to, or when the server that started
it is gone: it holds the reading end of a pipe whose other end that server has, so no manner of its death leaves it
behind. The folder holds claim.json and address.json (mode 600) while it answers, a lock, and its log.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from builder.execute import alive
from builder.locks import locked
from builder.runs import Claim, StoreError, read_json, write_atomic

__all__ = ["address", "announced", "held", "pipe_ended", "start", "stop"]

START_S = 60.0
_CHILDREN: list[subprocess.Popen[bytes]] = []


def address(place: Path) -> str | None:
    """Where the server of this folder answers; None where none runs."""
    told = read_json(place / "address.json")
    if told is None or not alive(Claim.read(place / "claim.json")):
        return None
    return str(told["url"])


def start(place: Path, command: Sequence[str], name: str, log: str, wait_s: float = START_S) -> str:
    """Sees to it that a server answers for this folder, and returns its address.

    Args:
        command: what to run, behind this Python. name: of the server, for people. log: a file's name in the folder.
    Raises:
        StoreError: it does not come up.
    """
    found = address(place)
    if found is not None:
        return found
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    (place / "address.json").unlink(missing_ok=True)
    with open(place / log, "wb") as written:
        process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.PIPE,  # never written to: its end tells that we are gone
            stdout=written,
            stderr=written,
            start_new_session=True,
            cwd=Path(__file__).parents[1],
        )
    _CHILDREN.append(process)
    until = time.monotonic() + wait_s
    while (found := address(place)) is None:
        if process.poll() is not None and not _held_by_another(place):
            raise StoreError(_why(place / log, f"{name} did not start; the details are in {place.name}/{log}."))
        if time.monotonic() > until:
            process.terminate()
            raise StoreError(f"{name} did not start within {wait_s:.0f} seconds; try again.")
        time.sleep(0.05)
    return found


def _why(log: Path, otherwise: str) -> str:
    """The one sentence that a server which refused to start left behind; else `otherwise`."""
    with contextlib.suppress(OSError):
        lines = log.read_text(errors="replace").splitlines()
        if len(lines) == 1 and lines[0].endswith("."):
            return lines[0]
    return otherwise


def stop(place: Path, wait_s: float = 5.0) -> None:
    """Ends the server of this folder, if one runs."""
    claim = Claim.read(place / "claim.json")
    if claim is not None and claim.alive:
        with contextlib.suppress(ProcessLookupError):
            os.kill(claim.pid, signal.SIGTERM)
        until = time.monotonic() + wait_s
        while claim.alive and time.monotonic() < until:
            time.sleep(0.02)
        if claim.alive:
            os.kill(claim.pid, signal.SIGKILL)
    for child in list(_CHILDREN):
        if child.poll() is not None:
            _CHILDREN.remove(child)
            if child.stdin is not None:
                child.stdin.close()
    _forget(place)


def _forget(place: Path) -> None:
    for name in ("address.json", "claim.json"):
        (place / name).unlink(missing_ok=True)


def _held_by_another(place: Path) -> bool:
    with locked(place / "lock") as free:
        return not free


# ---- in the server's own process ------------------------------------------------------------------------------------


@contextlib.contextmanager
def held(place: Path) -> Iterator[bool]:
    """Holds the folder as its one server and yields True; yields False, at once, where another has it."""
    lock = os.open(place / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
            _forget(place)
    finally:
        os.close(lock)


def announced(place: Path, url: str) -> None:
    """Writes down that this process answers at `url`."""
    Claim.of(os.getpid()).write(place / "claim.json")
    write_atomic(place / "address.json", json.dumps({"url": url}))
    os.chmod(place / "address.json", 0o600)


def pipe_ended(wait_s: float) -> bool:
    """Whether the pipe on standard input has ended; waits at most this long for it."""
    ready, _, _ = select.select([sys.stdin], [], [], wait_s)
    return bool(ready) and not os.read(sys.stdin.fileno(), 1)
