"""The process behind `sandbox.Sandbox`: it forks one limited child per request; the child decodes and writes pixels.

Requests and answers are lines of JSON on stdin and stdout. Nothing that a child says is trusted but these lines, and it
says only our own words.
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
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any, BinaryIO

import numpy as np

from builder import scans
from builder.scan import MAX_DECODED_BYTES, Tally, Unreadable, check_count

MAX_ANSWER_BYTES = 64 * 2**20
MAX_FILE_BYTES = 2 * MAX_DECODED_BYTES
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38


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
    without_network()
    warm_up()
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
        remove(config["folder"])


def remove(folder: str) -> None:
    """Take away a sandbox's folder and what is in it."""
    if folder:
        with contextlib.suppress(OSError):
            for name in os.listdir(folder):
                os.unlink(os.path.join(folder, name))
            os.rmdir(folder)


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


def without_network() -> None:
    """A network namespace of its own, without any interface, where the kernel allows one."""
    libc = ctypes.CDLL(None, use_errno=True)
    unshare = getattr(libc, "unshare", None)
    if unshare is not None and unshare(_CLONE_NEWNET) != 0:
        unshare(_CLONE_NEWUSER | _CLONE_NEWNET)


def warm_up() -> None:
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
    if request.get("mask_of"):
        reading = scans.open_mask(files[0], request["mask_of"])
    else:
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
