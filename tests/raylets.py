"""A Ray cluster of two machines on this one, as `python -m builder cluster` starts them, and how they die."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import psutil

from builder import cluster_start
from builder.cluster import Cluster, Node, submission
from builder.runs import Run
from tests.service import PROJECT, until


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


class Raylets:
    """Two machines with one processor each, in the data folder `home`; `head` and `further` are their processes."""

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir(parents=True, exist_ok=True)
        self.place = Path(tempfile.mkdtemp(prefix="sr-", dir="/tmp"))  # a short path: sockets lie in it
        self.port, jobs, agent, further_agent = free_ports(4)
        self.address = f"http://127.0.0.1:{jobs}"
        self.started: list[subprocess.Popen[bytes]] = []
        self.shell = cluster_start.environment(home, make_token=True) | {"OMP_NUM_THREADS": "1"}
        little = ["--num-cpus=1", "--object-store-memory=80000000"]
        # Where another Ray has the usual port of its agent, ours would go without one, and no job would find a place.
        ports = [f"--port={self.port}", f"--dashboard-port={jobs}", f"--dashboard-agent-listen-port={agent}"]
        self.head = self._start(
            cluster_start.command(address="127.0.0.1", more=[*ports, *little, f"--temp-dir={self.place}"])
        )
        self.token = (home / "ray.token").read_text()
        until(self._answers)
        self._further = cluster_start.command(
            f"127.0.0.1:{self.port}", more=[*little, f"--dashboard-agent-listen-port={further_agent}"]
        )
        self.further = self._start(self._further)
        until(lambda: len(self.nodes()) == 2)

    def environment(self) -> dict[str, str]:
        """What ScanLoom is started with."""
        return {"SCANLOOM_EXECUTOR": "ray", "RAY_ADDRESS": self.address, "SCANLOOM_HOME": str(self.home)}

    def _start(self, words: list[str]) -> subprocess.Popen[bytes]:
        with open(self.place / f"start-{len(self.started)}.log", "wb") as log:
            process = subprocess.Popen(
                words, env=self.shell, cwd=PROJECT, stdout=log, stderr=log, start_new_session=True
            )
        self.started.append(process)
        return process

    def _answers(self) -> bool:
        assert self.head.poll() is None, (self.place / "start-0.log").read_text()
        try:
            self.cluster.check()
        except ValueError:
            return False
        return True

    @property
    def cluster(self) -> Cluster:
        return Cluster(self.address, self.token)

    def nodes(self) -> list[Node]:
        return self.cluster.nodes()

    def node_of(self, run: Run, attempt: int = 1) -> str:
        return self.cluster.place(run.id, attempt).node

    def placed(self, run: Run, attempt: int) -> dict[str, Any]:
        """What Ray itself says of an attempt."""
        request = urllib.request.Request(
            f"{self.address}/api/jobs/{submission(run.id, attempt)}", headers={"Authorization": f"Bearer {self.token}"}
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            return dict(json.load(answer))

    def lose_further(self) -> str:
        """Kills all of the second machine at once, as a power cut would; returns its id."""
        (gone,) = (n.id for n in self.nodes() if n.id != self._head_id())
        self._end(self.further)
        return gone

    def _head_id(self) -> str:
        request = urllib.request.Request(
            f"{self.address}/api/v0/nodes?detail=1", headers={"Authorization": f"Bearer {self.token}"}
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            rows = json.load(answer)["data"]["result"]["result"]
        return next(str(row["node_id"]) for row in rows if row["is_head_node"])

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        """By process id, with all that it started: `ray stop` would end other people's, too."""
        with contextlib.suppress(psutil.NoSuchProcess):
            tree = psutil.Process(process.pid)
            for one in [*tree.children(recursive=True), tree]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.send_signal(signal.SIGKILL)
        process.wait(20)

    def close(self) -> None:
        for process in self.started:
            if process.poll() is None:
                self._end(process)
        marked = str(self.home)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:  # what Ray's own children started outlives their parent for a moment
            left = [p for p in psutil.process_iter() if p.pid != os.getpid() and _belongs(p, marked)]
            if not left:
                break
            for one in left:
                with contextlib.suppress(psutil.Error):
                    one.kill()
            time.sleep(0.2)
        shutil.rmtree(self.place, ignore_errors=True)


def _belongs(process: psutil.Process, home: str) -> bool:
    """Whether a process was started by our raylets."""
    try:
        shell = process.environ()
    except (psutil.Error, OSError):
        return False
    return shell.get("SCANLOOM_HOME") == home and shell.get("RAY_AUTH_MODE") == "token"
