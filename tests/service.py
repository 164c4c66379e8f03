"""A supervisor under test: how it is started, found, killed, and cleaned up whatever happened to it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from builder.execute import LocalExecutor
from builder.runs import Claim, Job, RunStore, write_atomic

PROJECT = Path(__file__).resolve().parents[1]
FAKE = (sys.executable, "-m", "tests.fake_supervisor")
HELD = (sys.executable, "-m", "tests.held_supervisor")


def until(true: Callable[[], object], seconds: float = 60.0) -> None:
    """Waits for a condition; fails when it does not come."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "what was waited for did not come"
        time.sleep(0.01)


class Service:
    """The data folder `home` and the processes that work in it."""

    def __init__(self, home: Path, command: tuple[str, ...] = FAKE) -> None:
        self.home = home
        self.store = RunStore(home)
        self.executor = LocalExecutor(home, command)
        self._seen: set[tuple[int, str, str]] = set()

    @property
    def supervisor(self) -> Claim | None:
        claim = Claim.read(self.home / "supervisor.json")
        return claim if claim is not None and claim.alive else None

    def workers(self) -> list[Claim]:
        claims = [Claim.read(path) for path in self.home.glob("*/*/claim.json")]
        return [claim for claim in claims if claim is not None and claim.alive and not claim.place]

    def ready(self) -> None:
        """Waits until the imports are done, so that the next job meets a warm pool."""
        self.executor.ensure()

        def told() -> bool:
            try:
                return bool(json.loads((self.home / "supervisor.json").read_text())["ready"])
            except FileNotFoundError:
                return False

        until(told, 60)

    def hold(self, step: int) -> None:
        """Lets toy trainings get as far as `step` (real ones, with `HELD`, to the end of that epoch) and wait there."""
        self.home.mkdir(parents=True, exist_ok=True)
        write_atomic(self.home / "hold", str(step))

    def release(self) -> None:
        (self.home / "hold").unlink()

    def kill(self, what: Claim | Job | None, number: int = signal.SIGKILL) -> None:
        """Sends a signal to a process of ours and, when that must end it, waits until it is dead."""
        claim = what.claim if isinstance(what, Job) else what
        assert claim is not None and claim.alive
        os.kill(claim.pid, number)
        if number == signal.SIGKILL:
            until(lambda: not claim.alive)

    def close(self) -> None:
        def ended() -> bool:  # again and again: a supervisor may be just starting, or just starting a worker
            for claim in [self.supervisor, *self.workers()]:
                if claim is not None:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(claim.pid, signal.SIGKILL)
            return not self.executor.running() and not self.workers()

        until(ended)
