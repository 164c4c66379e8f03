"""The server of a run: as a command in the foreground (`serve`), or beside the app, started and ended by a page.

`python -m builder.service DATA_FOLDER RUN` is the second one: on 127.0.0.1 only, ended with the app (see `beside`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from builder import beside
from builder.service.door import Door, objection

if TYPE_CHECKING:
    from builder.runs import Run

__all__ = ["PORT", "ServiceRefused", "address", "serve", "start", "stop"]

PORT = 8600
PORTS = range(PORT, PORT + 100)
FOLDER = "services"
GRACE_S = 1.0
"""How long answers that are under way may take once the service is told to end."""
LOOPBACK = "127.0.0.1"


class ServiceRefused(ValueError):
    """A service that must not or cannot start. Its text is one sentence for people."""


# ---- seen from a page -----------------------------------------------------------------------------------------------


def address(home: Path, run_id: str) -> str | None:
    """Where the service of a run answers; None where none was started from a page."""
    return beside.address(home / FOLDER / run_id)


def start(home: Path, run_id: str) -> str:
    """Sees to it that a service for the run answers on this machine, and returns its address.

    StoreError when it does not come up.
    """
    command = ["-m", "builder.service", str(home), run_id]
    return beside.start(home / FOLDER / run_id, command, "The service", "service.log")


def stop(home: Path, run_id: str) -> None:
    """Ends the service of a run that was started from a page."""
    beside.stop(home / FOLDER / run_id, wait_s=10.0)


# ---- the server itself ----------------------------------------------------------------------------------------------


def serve(
    run: Run,
    home: Path,
    host: str = LOOPBACK,
    port: int | None = PORT,
    token: str = "",
    ready: Callable[[str], None] = lambda url: None,
    until: threading.Event | None = None,
) -> None:
    """Serves a run until the process is told to end (SIGINT, SIGTERM), or `until` is set.

    Args:
        port: None takes the first free one from 8600 on, 0 any. token: "" asks for none, on a loopback address only.
        ready: is told the address once questions are answered.
    Raises:
        ServiceRefused: an open address without a token, or an address that cannot be had.
        PredictError: the run cannot be rebuilt.
    """
    if said := objection(host, token):
        raise ServiceRefused(said)
    import uvicorn

    from builder.faults import quieten
    from builder.service.answering import Answerer
    from builder.service.application import application

    quieten(private=True)
    taken = _socket(host, port)
    incoming = home / FOLDER / "incoming"
    incoming.mkdir(parents=True, exist_ok=True, mode=0o700)
    _sweep(incoming)
    folder = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=incoming))
    try:
        with taken, Answerer(run, home) as answerer:
            config = uvicorn.Config(
                Door(application(answerer, folder), token),
                log_level="critical",  # a log line or a traceback could name what was asked about
                access_log=False,
                server_header=False,
                lifespan="off",
                ws="none",
                timeout_keep_alive=5,
                timeout_graceful_shutdown=int(GRACE_S),
            )
            server = uvicorn.Server(config)
            if until is not None:
                threading.Thread(target=_ended_by, args=(until, server), daemon=True).start()
            with _told_to_end():
                ready(_url(taken))
                server.run(sockets=[taken])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _told_to_end() -> Iterator[None]:
    """Lets this process go on after its server was told to end: the server raises the signal once more when it has."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ended_by(until: threading.Event, server: object) -> None:
    until.wait()
    server.should_exit = True  # type: ignore[attr-defined]


def _socket(host: str, port: int | None) -> socket.socket:
    """A socket that is bound to the address; the port is refused where it is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    why = ""
    for number in PORTS if port is None else (port,):
        made = socket.socket(family, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            made.bind((host.strip("[]"), number))
            made.listen(128)
            return made
        except OSError as error:
            made.close()
            why = (error.strerror or str(error)).lower()
        except OverflowError:
            made.close()
            why = "a port is a number up to 65535"
    tried = f"port {port}" if port is not None else f"ports {PORTS.start} to {PORTS.stop - 1}"
    raise ServiceRefused(f"The service cannot listen on {host}, {tried} ({why}): choose another with --port.")


def _url(taken: socket.socket) -> str:
    host, port = taken.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _sweep(incoming: Path) -> None:
    """Deletes what a service that was killed has left."""
    for folder in incoming.glob("*-*"):
        pid = folder.name.split("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(folder, ignore_errors=True)


def main(arguments: list[str]) -> int:
    """Serves beside the app until it is told to end or the app is gone; returns the exit code."""
    from builder.runs import RunStore

    if len(arguments) != 2:
        print("usage: python -m builder.service DATA_FOLDER RUN", file=sys.stderr)
        return 2
    home, id = Path(arguments[0]).absolute(), arguments[1]
    try:
        run = RunStore(home).run(id)
        place = home / FOLDER / run.id
        with beside.held(place) as ours:
            if not ours:
                print("Another service has this run; leaving.", file=sys.stderr)
                return 0
            ended = threading.Event()
            threading.Thread(target=_watch, args=(ended,), daemon=True).start()
            serve(run, home, LOOPBACK, None, "", lambda url: beside.announced(place, url), ended)
    except ValueError as error:  # the words of the engine
        print(error, file=sys.stderr)
        return 2
    return 0


def _watch(ended: threading.Event) -> None:
    """Sets `ended` when the pipe on standard input ends: the app is gone."""
    while not beside.pipe_ended(60.0):
        pass
    ended.set()
