"""TensorBoard, for whoever wants it: one process of its own for a data folder, on this machine's own address only.

`python -m builder.tensorboards DATA_FOLDER` serves the runs that are linked in `tensorboard/runs`. It is started by a
page (`start`), found again by every other (`address`), and ends when it is told to, when nobody has looked for a while,
or when the server that started it is gone (see `beside`). Its address has a secret part, so that other people on this
machine see nothing.
"""

from __future__ import annotations

import re
import secrets
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from builder import beside, leaks
from builder.runs import Run

__all__ = ["address", "start", "stop"]

FOLDER = "tensorboard"
IDLE_S = 1800.0
LOOK_S = 0.5
_HOSTS = ("127.0.0.1", "localhost")


def address(home: Path) -> str | None:
    """Where the TensorBoard of a data folder answers; None where none runs."""
    return beside.address(home / FOLDER)


def start(home: Path, runs: Mapping[str, str], wait_s: float = beside.START_S) -> str:
    """Sees to it that TensorBoard shows these runs ({id: name}, beside those it shows already) and returns its address.

    A run that learned from a known leak is shown under a name that begins with the stamp.

    StoreError when it does not come up.
    """
    place = home / FOLDER
    (place / "runs").mkdir(parents=True, exist_ok=True, mode=0o700)
    for id, name in runs.items():
        stamp = f"{leaks.STAMP} " if leaks.of_run(Run(home, id)) else ""
        link = place / "runs" / f"{stamp}{re.sub(r'[^A-Za-z0-9 ._-]', '_', name)[:40].strip(' .') or 'run'} {id}"
        for other in (place / "runs").glob(f"* {id}"):
            if not other.name.startswith(stamp):  # an audit has found a leak since
                other.unlink()
        if not link.is_symlink():
            link.symlink_to(home / "runs" / id / "tb", target_is_directory=True)
    command = ["-m", "builder.tensorboards", str(home)]
    return beside.start(place, command, "TensorBoard", "tensorboard.log", wait_s)


def stop(home: Path, wait_s: float = 5.0) -> None:
    """Ends the TensorBoard of a data folder, if one runs, and forgets which runs it showed."""
    beside.stop(home / FOLDER, wait_s)
    shutil.rmtree(home / FOLDER / "runs", ignore_errors=True)


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
    with beside.held(place) as ours:
        if not ours:
            print("Another TensorBoard has this data folder; leaving.")
            return 0
        _serve(place, idle_s)
    return 0


def _serve(place: Path, idle_s: float) -> None:
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
    beside.announced(place, url if secret in url else url.rstrip("/") + secret + "/")
    while not ended and time.monotonic() - guards[0].asked_at < idle_s:
        if beside.pipe_ended(LOOK_S):
            break


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    if len(arguments) != 1 or not (Path(arguments[0]) / FOLDER).is_dir():
        print("usage: python -m builder.tensorboards DATA_FOLDER (with a folder 'tensorboard')", file=sys.stderr)
        return 2
    return serve(Path(arguments[0]).absolute())


if __name__ == "__main__":
    sys.exit(main())
