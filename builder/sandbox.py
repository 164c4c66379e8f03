"""Files of strangers are decoded in a child process with limits; only pixels and facts come back.

`Sandbox` starts one fresh Python, without torch, that has the readers imported and forks one child per file. The child
may use 1 GiB of address space, 10 s of CPU, a bounded temporary file and no network; whatever kills it becomes an
`Unreadable` in words. Slices are written to the file as they are decoded, so the child never holds a whole volume.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from builder import scans
from builder.scan import MAX_DECODED_BYTES, Header, Scan, Tally, Unreadable, Window, check_count

START_S = 30.0
MAX_ANSWER_BYTES = 64 * 2**20
MAX_FILE_BYTES = 2 * MAX_DECODED_BYTES
SERIES_S_PER_FILE = 0.25
HEADERS_PER_CHILD = 64
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38


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
            _remove(self._folder)
            self._folder = ""

    def read(self, paths: Path | str | Sequence[Path | str], series: bool = False) -> Scan:
        """One file, or with `series` the DICOM files of one series, as a scan.

        The pixels lie in a file that has no name any more: they take no memory until they are touched, and the space
        is given back with the array. Raises: Unreadable, also when the child died of a limit.
        """
        files = [str(Path(path).absolute()) for path in ([paths] if isinstance(paths, str | Path) else paths)]
        if not series and len(files) != 1:
            raise ValueError(f"One file is read at a time, {len(files)} came; pass series=True for a DICOM series.")
        extra = SERIES_S_PER_FILE * max(0, len(files) - 1)
        with self._lock:
            self._number += 1
            name = os.path.join(self._folder, f"{self._number}.pixels")
            try:
                answers = self._ask({"files": files, "series": series, "name": name, "extra_s": extra}, extra)
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
        code = f"import sys; sys.path.insert(0, {root!r}); from builder.sandbox import serve; serve()"
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
    shape = tuple(answer["shape"])
    pixels = np.asarray(np.memmap(name, answer["dtype"], "c", shape=shape))
    valid = None
    if answer["valid"]:
        valid = np.asarray(np.memmap(f"{name}.valid", bool, "c", shape=(shape[0], *shape[2:])))
    return Scan(pixels=pixels, valid=valid, **facts)


def _header(fields: dict[str, Any]) -> Header:
    for key in ("origin", "orientation", "spacing_mm"):
        fields[key] = None if fields[key] is None else tuple(fields[key])
    return Header(**fields)


def _remove(folder: str) -> None:
    if folder:
        with contextlib.suppress(OSError):
            for name in os.listdir(folder):
                os.unlink(os.path.join(folder, name))
            os.rmdir(folder)


# --- the server: a fresh process, see Sandbox._start


def serve() -> None:
    """Fork one limited child per request read from stdin, until stdin ends or the parent is gone."""
    answers = os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 1)  # C libraries print; stdout is for answers only
    os.dup2(nothing, 2)
    requests = _Lines(0)
    config = json.loads(requests.next(None) or b"{}")
    if not config:
        return
    parent = os.getppid()
    _without_network()
    _warm_up()
    gc.collect()
    gc.freeze()
    _send(answers, {"ready": True})
    try:
        while (line := requests.next(parent)) is not None:
            if not _fork(json.loads(line), config, answers, parent):
                break
            _send(answers, {"end": True})
    except BrokenPipeError:
        pass
    finally:
        _remove(config["folder"])


class _Lines:
    """Lines of a file descriptor."""

    def __init__(self, number: int):
        self._number = number
        self._data = b""

    def next(self, parent: int | None) -> bytes | None:
        """The next line, None at the end or when process `parent` is gone."""
        while b"\n" not in self._data:
            ready, _, _ = select.select([self._number], [], [], 2)
            if not ready:
                if parent is not None and os.getppid() != parent:
                    return None
                continue
            piece = os.read(self._number, 1 << 16)
            if not piece:
                return None
            self._data += piece
        line, _, self._data = self._data.partition(b"\n")
        return line


def _send(number: int, message: dict[str, Any]) -> None:
    _pass_on(number, json.dumps(message).encode() + b"\n")


def _pass_on(number: int, content: bytes) -> None:
    data = memoryview(content)
    while data:
        data = data[os.write(number, data) :]


def _without_network() -> None:
    """A network namespace of its own, without any interface, where the kernel allows one."""
    libc = ctypes.CDLL(None, use_errno=True)
    unshare = getattr(libc, "unshare", None)
    if unshare is not None and unshare(_CLONE_NEWNET) != 0:
        unshare(_CLONE_NEWUSER | _CLONE_NEWNET)


def _warm_up() -> None:
    """Import what decoding needs, so that no child has to."""
    import gdcm  # noqa: F401
    import jpeg_ls  # noqa: F401
    import nibabel.nifti1
    import nibabel.nifti2  # noqa: F401
    import nrrd  # noqa: F401
    import numpy.ma  # noqa: F401 (for nrrd)
    import openjpeg  # noqa: F401
    import pylibjpeg  # noqa: F401
    from PIL import Image
    from pydicom.pixels import get_decoder
    from pydicom.uid import JPEG2000, RLELossless

    Image.init()
    for syntax in (JPEG2000, RLELossless):
        get_decoder(syntax)


def _fork(request: dict[str, Any], config: dict[str, Any], answers: int, parent: int) -> bool:
    """Let a child answer `request` and pass its answers on. False when the parent is gone."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        os.close(answers)
        os.close(0)
        _child(request, config, writer)
    os.close(writer)
    until = time.monotonic() + config["wall"] + request["extra_s"]
    late, alone, passed, rest = False, False, 0, b""
    try:
        while True:
            ready, _, _ = select.select([reader, 0], [], [], min(2, max(0, until - time.monotonic())))
            if reader in ready:
                piece = os.read(reader, 1 << 16)
                if not piece:
                    break
                passed += len(piece)
                if passed > MAX_ANSWER_BYTES:
                    late = True
                    break
                whole, newline, rest = (rest + piece).rpartition(b"\n")
                _pass_on(answers, whole + newline)  # half a line would spoil what comes after it
            elif ready or os.getppid() != parent:  # no second request comes before the answer: stdin has ended
                alone = True
                break
            if time.monotonic() >= until:
                late = True
                break
    finally:
        os.close(reader)
        if late or alone:
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    if alone:
        return False
    if late:
        _send(answers, {"reason": _too_slow(config["wall"] + request["extra_s"])})
    elif os.WIFSIGNALED(status) or os.WEXITSTATUS(status):
        _send(answers, {"reason": _death(status, config, request["extra_s"])})
    return True


def _too_slow(seconds: float) -> str:
    return f"The file needed more than {seconds:.0f} s to decode; it may be damaged or malicious: export it again."


def _death(status: int, config: dict[str, Any], extra_s: float) -> str:
    name = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if name in (signal.SIGXCPU, signal.SIGKILL):
        return _too_slow(config["cpu"] + extra_s)
    return "The decoder crashed on this file, which is damaged or malicious; export it again from its source."


# --- the child


def _child(request: dict[str, Any], config: dict[str, Any], writer: int) -> None:
    """Never returns. Whatever happens here, only JSON lines of our own words leave."""
    gc.disable()
    try:
        _limit(config, request["extra_s"])
        if request.get("headers"):
            for file in request["files"]:
                _send(writer, _answer(partial(_told_header, file), config))
        else:
            _send(writer, _answer(lambda: _poured(request), config))
    except BaseException:
        os._exit(1)
    os._exit(0)


def _limit(config: dict[str, Any], extra_s: float) -> None:
    seconds = max(1, round(config["cpu"] + extra_s))
    for what, soft, hard in (
        (resource.RLIMIT_CPU, seconds, seconds + 1),
        (resource.RLIMIT_AS, config["memory"], config["memory"]),
        (resource.RLIMIT_FSIZE, MAX_FILE_BYTES, MAX_FILE_BYTES),
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_NOFILE, 64, 64),
    ):
        resource.setrlimit(what, (soft, hard))
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # without its server a child has no purpose
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def _answer(work: Callable[[], dict[str, Any]], config: dict[str, Any]) -> dict[str, Any]:
    full = False
    try:
        return work()
    except Unreadable as error:
        reason = error.reason
        full = reason == scans.TOO_MUCH_MEMORY
    except MemoryError:
        reason, full = "", True
    except OSError as error:
        reason = "The disk is full: there is no room to decode the file; make room and try again."
        if error.errno != errno.ENOSPC:
            reason = "The file grows too large when it is decoded; it may be damaged or malicious."
    if full:
        size = config["memory"] / 2**30
        reason = f"The file needed more than {size:.3g} GiB of memory to decode; it may be damaged or malicious."
    return {"reason": reason}


def _told_header(file: str) -> dict[str, Any]:
    return {"header": asdict(scans.read_header(file))}


def _poured(request: dict[str, Any]) -> dict[str, Any]:
    """Decode slice by slice into the file `request["name"]`; what is needed to open it again."""
    files = request["files"]
    reading = scans.open_series(files) if request["series"] else scans.open_scan(files[0])
    name = request["name"]
    tally = Tally()
    order: list[tuple[int, str]] = []
    masked: set[int] = set()
    shape: tuple[int, ...] = ()
    with open(f"{name}.raw", "wb", buffering=0) as raw, contextlib.ExitStack() as stack:
        mask: BinaryIO | None = None
        for piece in reading.slices:
            values = tally.add(piece.pixels)
            shape = values.shape
            _write(raw, values)
            order.append((piece.index, values.dtype.str))
            if piece.valid is not None:
                if mask is None:
                    mask = stack.enter_context(open(f"{name}.valid", "wb", buffering=0))
                mask.seek(piece.index * shape[1] * shape[2])
                _write(mask, piece.valid)
                masked.add(piece.index)
        if mask is not None:
            for index in set(range(len(order))) - masked:
                mask.seek(index * shape[1] * shape[2])
                _write(mask, np.ones(shape[1:], bool))
    check_count(len({index for index, _ in order}), reading.num_slices)
    if [index for index, _ in order] == list(range(len(order))) and len({kind for _, kind in order}) == 1:
        os.rename(f"{name}.raw", name)
    else:
        _arrange(name, order, shape, tally.dtype)
    reading.notes.extend(tally.notes)
    facts = asdict(reading.scan(np.empty(0), None))
    del facts["pixels"], facts["valid"]
    return {"facts": facts, "shape": [len(order), *shape], "dtype": tally.dtype.str, "valid": bool(masked)}


def _write(stream: BinaryIO, values: np.ndarray) -> None:
    data = memoryview(np.ascontiguousarray(values).reshape(-1).view(np.uint8))  # type: ignore[arg-type]
    while data:
        data = data[stream.write(data) :]


def _arrange(name: str, order: list[tuple[int, str]], shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Write the slices again, in their order and all in one dtype."""
    count = int(np.prod(shape))
    places, at = {}, 0
    for index, kind in order:
        places[index] = (at, kind)
        at += count * np.dtype(kind).itemsize
    with open(f"{name}.raw", "rb") as raw, open(name, "wb", buffering=0) as stream:
        for index in range(len(order)):
            start, kind = places[index]
            _write(stream, np.fromfile(raw, kind, count, offset=start - raw.tell()).astype(dtype))
