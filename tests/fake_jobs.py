"""The part of Ray's Jobs API that ScanLoom asks, with the toy worker instead of ours: the contract without Ray.

`python -m tests.fake_jobs RUN ATTEMPT` is what it starts for a job.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "a-token-of-the-tests"
NODES = [{"node_id": "n1", "state": "ALIVE", "resources_total": {"CPU": 2.0}}]


class FakeJobs:
    """A cluster with one machine, on a free port of 127.0.0.1. `open`: it asks for no token, as Ray by default."""

    def __init__(self, open: bool = False) -> None:
        self.open = open
        self.jobs: dict[str, subprocess.Popen[bytes]] = {}
        self.asked: list[dict[str, Any]] = []
        self.messages: dict[str, str] = {}
        self.deaf = False
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self, "GET")

            def do_POST(self) -> None:
                outer.answer(self, "POST")

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def environment(self) -> dict[str, str]:
        return {
            "SCANLOOM_EXECUTOR": "ray",
            "RAY_ADDRESS": self.address,
            "RAY_AUTH_TOKEN": TOKEN,
            "SCANLOOM_RAY_MODULE": "tests.fake_jobs",
        }

    def answer(self, request: BaseHTTPRequestHandler, method: str) -> None:
        body = json.loads(request.rfile.read(int(request.headers.get("Content-Length") or 0)) or b"{}")
        plain: dict[str, Any] = {}
        status = 500
        if not self.open and request.headers.get("Authorization") != f"Bearer {TOKEN}":
            status = 401
        elif not self.deaf:
            status, plain = self._said(method, request.path, body)
        data = json.dumps(plain).encode()
        request.send_response(status)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    def _said(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if path == "/api/version":
            return 200, {"ray_version": "2.60.0"}
        if path.startswith("/api/v0/nodes"):
            return 200, {"data": {"result": {"result": NODES}}}
        if (method, path) == ("POST", "/api/jobs/"):
            name = body["submission_id"]
            if name in self.jobs:
                return 500, {}
            self.asked.append(body)
            self.jobs[name] = subprocess.Popen(
                shlex.split(body["entrypoint"].partition("exec ")[2].replace('"$SCANLOOM_PYTHON"', sys.executable)),
                start_new_session=True,
            )
            return 200, {"submission_id": name}
        name = path.removeprefix("/api/jobs/").removesuffix("/stop")
        process = self.jobs.get(name)
        if process is None:
            return 404, {}
        if path.endswith("/stop"):
            process.terminate()
            return 200, {"stopped": True}
        code = process.poll()
        status = "RUNNING" if code is None else "SUCCEEDED" if code == 0 else "FAILED"
        told = None if code is None or code < 0 else code  # Ray, too, does not see the end of what its node's end ended
        words = "The actor died because its node has died." if code is not None and code < 0 else ""
        return 200, {"status": status, "driver_exit_code": told, "message": words, "driver_node_id": "n1"}

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        for process in self.jobs.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


if __name__ == "__main__":
    from builder import placed
    from tests.fake_supervisor import run

    sys.exit(placed.main(work=run))
