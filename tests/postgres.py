"""A PostgreSQL server of a test's own, on loopback: made, cut off as a power cut does it, started again, taken away."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

from tests.service import until

USER = "studies"


def programs() -> Path | None:
    """The folder of `initdb` and `postgres`; None where there is no PostgreSQL."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if path := shutil.which("initdb"):
        found.append(Path(path).resolve().parent)
    return max(found, default=None, key=lambda folder: [int(part) for part in folder.parts if part.isdigit()])


class Postgres:
    """One server with an empty database; `url` is what SCANLOOM_STUDIES says to use it."""

    def __init__(self, programs: Path) -> None:
        self.programs = programs
        self.place = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
        self.who: dict[str, str] = {}
        if os.geteuid() == 0:  # the server refuses to be root
            owner = next(name for name in ("postgres", "nobody") if name in {entry.pw_name for entry in pwd.getpwall()})
            self.who = {"user": owner}
            os.chown(self.place, pwd.getpwnam(owner).pw_uid, -1)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        made: list[str | Path] = [
            programs / "initdb",
            "-D",
            self.place / "data",
            "-U",
            USER,
            "--auth=trust",
            "--no-sync",
            "--locale=C",
            "-EUTF8",
        ]
        subprocess.run(made, check=True, capture_output=True, cwd="/tmp", timeout=60, **self.who)  # type: ignore[call-overload]
        self.start()

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://{USER}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Starts the server and waits until it answers."""
        words: list[str | Path] = [
            self.programs / "postgres",
            "-D",
            self.place / "data",
            "-p",
            str(self.port),
            "-k",
            self.place,
        ]
        # The machine stays up: what the server has written is there after its death without waiting for the disk.
        words += ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        with open(self.place / "log", "ab") as log:
            self.process = subprocess.Popen(words, stdout=log, stderr=log, cwd="/tmp", **self.who)  # type: ignore[call-overload]
        until(self.answers)

    def answers(self) -> bool:
        assert self.process.poll() is None, (self.place / "log").read_text()
        asked: list[str | Path] = [self.programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(asked, check=False).returncode == 0

    def cut(self) -> None:
        """Ends the server without a farewell to anybody; what was committed is found again at the next start."""
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(30)

    def close(self) -> None:
        if self.process.poll() is None:
            self.cut()
        shutil.rmtree(self.place, ignore_errors=True)
