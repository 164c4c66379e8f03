"""TensorBoard, for whoever wants it: one process of its own for a data folder, on this machine's own address only.

`python -m builder.tensorboards DATA_FOLDER` serves the runs that are linked in `tensorboard/runs`. It is started by a
page (`start`), found again by every other (`address`), and ends when it is told to, when nobody has looked for a while,
or when the server that started it is gone: it holds the reading end of a pipe whose other end that server has, so no
manner of its death leaves an orphan. Its address has a secret part, so that other people on this machine see nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from builder.execute import alive, locked
from builder.runs import Claim, StoreError, read_json, write_atomic

__all__ = ["address", "start", "stop"]

FOLDER = "tensorboard"
IDLE_S = 1800.0
LOOK_S = 0.5
START_S = 60.0
_HOSTS = ("127.0.0.1", "localhost")
_CHILDREN: list[subprocess.Popen[bytes]] = []


def address(home: Path) -> str | None:
    """Where the TensorBoard of a data folder answers; None where none runs."""
    told = read_json(home / FOLDER / "address.json")
    if told is None or not alive(Claim.read(home / FOLDER / "claim.json")):
        return None
    return str(told["url"])


def start(home: Path, runs: Mapping[str, str], wait_s: float = START_S) -> str:
    """Sees to it that TensorBoard shows these runs ({id: name}, beside those it shows already) and returns its address.

    StoreError when it does not come up.
    """
    place = home / FOLDER
    (place / "runs").mkdir(parents=True, exist_ok=True, mode=0o700)
    for id, name in runs.items():
        link = place / "runs" / f"{re.sub(r'[^A-Za-z0-9 ._-]', '_', name)[:40].strip(' .') or 'run'} {id}"
        if not link.is_symlink():
            link.symlink_to(home / "runs" / id / "tb", target_is_directory=True)
    found = address(home)
    if found is not None:
        return found
    (place / "address.json").unlink(missing_ok=True)
    with open(place / "tensorboard.log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "builder.tensorboards", str(home)],
            stdin=subprocess.PIPE,  # never written to: its end tells that we are gone
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=Path(__file__).parents[1],
        )
    _CHILDREN.append(process)
    until = time.monotonic() + wait_s
    while (found := address(home)) is None:
        if process.poll() is not None and not _held(home):
            raise StoreError("TensorBoard did not start; the details are in tensorboard/tensorboard.log.")
        if time.monotonic() > until:
            process.terminate()
            raise StoreError(f"TensorBoard did not start within {wait_s:.0f} seconds; try again.")
        time.sleep(0.05)
    return found


def stop(home: Path, wait_s: float = 5.0) -> None:
    """Ends the TensorBoard of a data folder, if one runs, and forgets which runs it showed."""
    claim = Claim.read(home / FOLDER / "claim.json")
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
    for name in ("address.json", "claim.json"):
        (home / FOLDER / name).unlink(missing_ok=True)
    shutil.rmtree(home / FOLDER / "runs", ignore_errors=True)


def _held(home: Path) -> bool:
    """Whether some TensorBoard has this data folder."""
    with locked(home / FOLDER / "lock") as free:
        return not free


# ---- the process itself ---------------------------------------------------------------------------------------------


class Guard:
    """In front of TensorBoard: only requests that name this machine; and when the last one came."""

    def __init__(self, app: Callable[..., Any]) -> None:
        self.app, self.asked_at = app, time.monotonic()

    def __call__(self, environ: dict[str, Any], respond: Callable[..., Any]) -> Any:
        self.asked_at = time.monotonic()
        host = str(environ.get("HTTP_HOST", "")).rsplit(":", 1)[0].lower()
        if host not in _HOSTS:
            respond("403 Forbidden", [("Content-Type", "text/plain")])
            return [b"TensorBoard answers on this machine only."]
        return self.app(environ, respond)


def serve(home: Path, idle_s: float = IDLE_S) -> int:
    """Serves until it is told to end, nobody looks any more, or the pipe on standard input ends."""
    place = home / FOLDER
    lock = os.open(place / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("Another TensorBoard has this data folder; leaving.")
        return 0
    ended = False

    def end(*_: object) -> None:
        nonlocal ended
        ended = True

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from tensorboard import program

    guards: list[Guard] = []

    def guarded(app: Any, flags: Any) -> Any:
        guards.append(Guard(app))
        return program.WerkzeugServer(guards[0], flags)

    board = program.TensorBoard(server_class=guarded)
    secret = f"/{secrets.token_urlsafe(18)}"
    settings = {
        "logdir": str(place / "runs"),
        "host": "127.0.0.1",
        "port": "0",
        "path_prefix": secret,
        "load_fast": "false",  # the fast loader is a process of its own, which would outlive this one
        "reload_interval": "5",
        "window_title": "ScanLoom: TensorBoard",
    }
    board.configure(argv=["tensorboard", *(f"--{name}={value}" for name, value in settings.items())])
    url = board.launch()
    Claim.of(os.getpid()).write(place / "claim.json")
    write_atomic(place / "address.json", json.dumps({"url": url if secret in url else url.rstrip("/") + secret + "/"}))
    os.chmod(place / "address.json", 0o600)
    while not ended and time.monotonic() - guards[0].asked_at < idle_s:
        ready, _, _ = select.select([sys.stdin], [], [], LOOK_S)
        if ready and not os.read(sys.stdin.fileno(), 1):
            break
    for name in ("address.json", "claim.json"):
        (place / name).unlink(missing_ok=True)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    if len(arguments) != 1 or not (Path(arguments[0]) / FOLDER).is_dir():
        print("usage: python -m builder.tensorboards DATA_FOLDER (with a folder 'tensorboard')", file=sys.stderr)
        return 2
    return serve(Path(arguments[0]).absolute())


if __name__ == "__main__":
    sys.exit(main())
