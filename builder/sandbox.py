"""Files of strangers are decoded in a child process with limits; only pixels and facts come back.

`Sandbox` starts one fresh Python, without torch, that has the readers imported and forks one child per file. The child
may use 1 GiB of address space, 10 s of CPU, a bounded temporary file and no network; whatever kills it becomes an
`Unreadable` in words. Slices are written to the file as they are decoded, so the child never holds a whole volume.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from builder.forkserver import MAX_ANSWER_BYTES, remove
from builder.scan import Grid, Header, Scan, Unreadable, Window

START_S = 30.0
SERIES_S_PER_FILE = 0.25
HEADERS_PER_CHILD = 64


class Sandbox:
    """Reads scans in limited children.

    Args:
        memory_bytes: address space of a child, its libraries included.
        cpu_s, wall_s: CPU and clock time for one file; a series gets `SERIES_S_PER_FILE` more for each further file.
        folder: where pixels are written while they are decoded; by default the folder for temporary files.

    Use as a context manager. One file is read at a time; threads wait for each other.
    """

    def __init__(self, memory_bytes: int = 1 << 30, cpu_s: float = 10, wall_s: float = 15, folder: Path | None = None):
        self.memory_bytes, self.cpu_s, self.wall_s = memory_bytes, cpu_s, wall_s
        self._parent_folder = folder
        self._folder: str = ""
        self._server: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._number = 0
        self._heard = bytearray()

    def __enter__(self) -> Sandbox:
        self._folder = tempfile.mkdtemp(prefix="scanloom-sandbox-", dir=self._parent_folder)
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the server and its child, and remove the folder. Scans that were read stay usable."""
        with self._lock:
            self._stop()
            remove(self._folder)
            self._folder = ""

    def read(
        self,
        paths: Path | str | Sequence[Path | str],
        series: bool = False,
        mask_of: Sequence[Path | str] = (),
    ) -> Scan:
        """One file, or with `series` the DICOM files of one series, as a scan; or a mask of the scan in `mask_of`.

        The pixels lie in a file that has no name any more: they take no memory until they are touched, and the space
        is given back with the array. Raises: Unreadable, also when the child died of a limit.
        """
        files = [str(Path(path).absolute()) for path in ([paths] if isinstance(paths, str | Path) else paths)]
        if not series and len(files) != 1:
            raise ValueError(f"One file is read at a time, {len(files)} came; pass series=True for a DICOM series.")
        scan = [str(Path(path).absolute()) for path in mask_of]
        extra = SERIES_S_PER_FILE * (max(0, len(files) - 1) + len(scan))
        with self._lock:
            self._number += 1
            name = os.path.join(self._folder, f"{self._number}.pixels")
            try:
                answers = self._ask(
                    {"files": files, "series": series, "mask_of": scan, "name": name, "extra_s": extra}, extra
                )
                answer = answers[-1] if answers else {}
                if "facts" not in answer:
                    raise Unreadable(answer.get("reason") or "The decoder stopped without an answer; try again.")
                return _scan(answer, name)
            finally:
                for path in (name, f"{name}.valid", f"{name}.raw"):
                    with contextlib.suppress(OSError):
                        os.unlink(path)

    def headers(self, paths: Sequence[Path | str]) -> list[Header | Unreadable]:
        """The header of each file, in order; an Unreadable in the place of one that cannot be read."""
        files = [str(Path(path).absolute()) for path in paths]
        found: list[Header | Unreadable] = []
        while len(found) < len(files):
            batch = files[len(found) : len(found) + HEADERS_PER_CHILD]
            with self._lock:
                answers = self._ask({"files": batch, "headers": True, "extra_s": 0}, 0)
            for answer in answers[: len(batch)]:
                found.append(_header(answer["header"]) if "header" in answer else Unreadable(answer["reason"]))
            if not answers:
                found.append(Unreadable("The decoder stopped without an answer; try again."))
        return found

    # the server

    def _start(self) -> None:
        root = str(Path(__file__).resolve().parents[1])
        code = f"import sys; sys.path.insert(0, {root!r}); from builder.forkserver import serve; serve()"
        keep = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "TMPDIR", "LANG") if name in os.environ}
        single = {name: "1" for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        self._server = subprocess.Popen(
            [sys.executable, "-P", "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**keep, **single},
            start_new_session=True,
            bufsize=0,
        )
        limits = {"memory": self.memory_bytes, "cpu": self.cpu_s, "wall": self.wall_s, "folder": self._folder}
        self._tell(self._server, limits)
        if self._hear(self._server, time.monotonic() + START_S) != {"ready": True}:
            self._stop()
            raise RuntimeError("The process that decodes scans did not start; check the installation (make setup).")

    def _stop(self) -> None:
        server, self._server = self._server, None
        if server is None:
            return
        assert server.stdin is not None and server.stdout is not None
        self._heard.clear()
        with contextlib.suppress(OSError):
            server.stdin.close()  # the server ends its child and itself
        try:
            server.wait(2)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()
        server.stdout.close()

    def _ask(self, request: dict[str, Any], extra_s: float) -> list[dict[str, Any]]:
        """The answers of the child. A server that died is started again, once."""
        for _ in range(2):
            if self._server is None or self._server.poll() is not None:
                self._stop()
                self._start()
            assert self._server is not None
            try:
                answers = self._talk(self._server, request, time.monotonic() + self.wall_s + extra_s + 10)
            except OSError:
                answers = None
            except BaseException:  # the answer to come would be taken for that of the next file
                self._kill()
                raise
            if answers is not None:
                return answers
            self._kill()
        raise Unreadable("The process that decodes scans died twice on this file; it may be damaged or malicious.")

    def _talk(self, server: subprocess.Popen[bytes], request: dict[str, Any], until: float) -> list[dict] | None:
        self._tell(server, request)
        answers: list[dict[str, Any]] = []
        while (answer := self._hear(server, until)) is not None:
            if answer.get("end"):
                return answers
            answers.append(answer)
        return None

    def _kill(self) -> None:
        if self._server is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._server.pid, signal.SIGKILL)
            self._stop()

    @staticmethod
    def _tell(server: subprocess.Popen[bytes], message: dict[str, Any]) -> None:
        assert server.stdin is not None
        data = memoryview(json.dumps(message).encode() + b"\n")
        while data:
            data = data[server.stdin.write(data) or 0 :]

    def _hear(self, server: subprocess.Popen[bytes], until: float) -> dict[str, Any] | None:
        """One line of the server, None when it is gone, silent or talks nonsense."""
        assert server.stdout is not None
        while (end := self._heard.find(b"\n")) < 0:
            ready, _, _ = select.select([server.stdout], [], [], max(0, until - time.monotonic()))
            piece = os.read(server.stdout.fileno(), 1 << 16) if ready else b""
            if not piece or len(self._heard) > MAX_ANSWER_BYTES:
                return None
            self._heard += piece
        line = bytes(self._heard[:end])
        del self._heard[: end + 1]
        try:
            answer = json.loads(line)
        except ValueError:
            return None
        return answer if isinstance(answer, dict) else None


def _scan(answer: dict[str, Any], name: str) -> Scan:
    facts = answer["facts"]
    facts["windows"] = tuple(Window(**{**fields, "table": tuple(fields["table"])}) for fields in facts["windows"])
    facts["spacing_mm"], facts["notes"] = tuple(facts["spacing_mm"]), tuple(facts["notes"])
    facts["grid"] = facts["grid"] and Grid.from_json(facts["grid"])
    facts["order"] = tuple(facts["order"])
    facts["names"] = tuple((int(value), str(name)) for value, name in facts["names"])
    shape = tuple(answer["shape"])
    pixels = np.asarray(np.memmap(name, answer["dtype"], "c", shape=shape))
    valid = None
    if answer["valid"]:
        valid = np.asarray(np.memmap(f"{name}.valid", bool, "c", shape=(shape[0], *shape[2:])))
    return Scan(pixels=pixels, valid=valid, **facts)


def _header(fields: dict[str, Any]) -> Header:
    for key in ("origin", "orientation", "spacing_mm", "outlines"):
        fields[key] = None if fields[key] is None else tuple(fields[key])
    return Header(**fields)
