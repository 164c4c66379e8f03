"""Children of a test that find imported what is slow to import: a small server has done it once, and forks.

A script that is taken away, a supervisor, a server of pages or a command needs an interpreter of its own; that each of
hundreds of them imports torch anew proves nothing and costs seconds of a processor. Three servers belong to a test
process, each a fork of the one before it, begun when it is first asked for:

* `decode` has the decoders, little enough for the limit of memory of a sandbox.
* `base` has torch and what else comes from outside, and nothing of ScanLoom: for what is taken away.
* `house` has the program, too: for `python -m builder`, its supervisors and workers, and `streamlit run`. Whatever such
  a child begins in the same way is a fork as well.

`Popen` is `subprocess.Popen` and `run` is `subprocess.run`: the child has its own arguments, folder, environment,
search path, pipes, session and exit code. At least one test of each kind starts an interpreter of its own (the fixture
`fresh_children`).
"""

from __future__ import annotations

import array
import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# With these no library starts a thread when it is loaded (as builder/supervisor.py has it): a fork is safe.
_THREADLESS = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}
_DOORS = ("decode", "base", "house")
_STAGES = (  # what is imported at each door, beside what those before it have
    ("gdcm", "jpeg_ls", "nibabel.nifti1", "nibabel.nifti2", "nrrd", "numpy.ma", "openjpeg", "pylibjpeg", "PIL.Image")
    + ("pydicom.pixels.decoders",),
    ("torch", "torchvision", "timm", "numpy", "pydicom", "safetensors.torch", "torch.export"),
    ("streamlit.web.cli", "streamlit.starlette", "pandas", "optuna", "builder.supervisor", "builder.__main__"),
)
_OURS = ("builder", "streamlit")  # packages of which a module may be run as a fork of `house`
_OURS_TOO = ("tests.held_supervisor",)  # those without torch are as soon there, and lighter
_CODES = {  # how the program begins its children that open files of strangers -> their server
    "from builder.forkserver import serve; serve()": "decode",
    "from builder.weights import _child; _child(*sys.argv[1:])": "base",
}
_KEPT = {"bufsize", "stdin", "stdout", "stderr", "close_fds", "cwd", "env", "text", "encoding", "errors"}
_KEPT |= {"universal_newlines", "start_new_session"}
_plain, _run = subprocess.Popen, subprocess.run
_server: subprocess.Popen[bytes] | None = None
_life: socket.socket | None = None  # while it is open the servers live
_place = ""  # the folder of their sockets; a child of `house` knows it from its server
_pids: set[int] = set()
_lock = threading.Lock()


class Popen(subprocess.Popen):  # type: ignore[type-arg]
    """`subprocess.Popen`; a child that the program begins, or a command of it, is a fork."""

    whatever = False  # whether any command of this Python is a fork
    _told: socket.socket | None = None  # its end is told here

    def __init__(self, args: Any, *more: Any, **options: Any) -> None:
        words = [os.fspath(word) for word in args] if isinstance(args, list | tuple) else []
        able = not more and not set(options) - _KEPT
        self._asked = _which(words, options.get("cwd"), options.get("env"), self.whatever) if able else ""
        super().__init__(args, *more, **options)

    def _execute_child(self, args: Any, *given: Any) -> None:
        if not self._asked:
            super()._execute_child(args, *given)  # type: ignore[misc]
            return
        cwd, env, new_session = given[4], given[5], given[-2]
        pipes = given[9:15]
        inside, outside, errors = (pipes[n] if pipes[n] != -1 else std for n, std in ((0, 0), (3, 1), (5, 2)))
        told = json.dumps(
            {
                "command": [os.fspath(word) for word in args][1:],
                "cwd": os.fspath(cwd or os.getcwd()),
                "env": {os.fsdecode(k): os.fsdecode(v) for k, v in (os.environ if env is None else env).items()},
                "session": bool(new_session),
                "group": os.getpgrp(),
            }
        ).encode()
        line = _connected(self._asked)
        fds = array.array("i", [inside, outside, errors])
        line.sendmsg([len(told).to_bytes(4, "little")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        line.sendall(told)
        numbers = _exactly(line, 4 * (1 + len(_STAGES)))
        self.pid, *servers = (int.from_bytes(numbers[n : n + 4], "little") for n in range(0, len(numbers), 4))
        _pids.update(number for number in servers if number)
        self._told = line
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]

    def _internal_poll(self, *deadstate: Any, **more: Any) -> int | None:
        if self._told is None:
            return super()._internal_poll(*deadstate, **more)  # type: ignore[misc]
        if self.returncode is None and self._waitpid_lock.acquire(False):  # type: ignore[attr-defined]
            try:
                pid, status = self._try_wait(os.WNOHANG)
                if pid == self.pid and self.returncode is None:
                    self._handle_exitstatus(status)  # type: ignore[attr-defined]
            finally:
                self._waitpid_lock.release()  # type: ignore[attr-defined]
        return self.returncode

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if self._told is None:
            return super()._try_wait(wait_flags)  # type: ignore[misc]
        if wait_flags & os.WNOHANG and not select.select([self._told], [], [], 0)[0]:
            return 0, 0
        try:
            status = int.from_bytes(_exactly(self._told, 4), "little")
        except (EOFError, OSError):  # the server is gone, and whatever it knew
            status = signal.SIGKILL
        self._told.close()
        return self.pid, status


class _Any(Popen):
    whatever = True


def run(command: Any, **options: Any) -> subprocess.CompletedProcess[Any]:
    """As `subprocess.run`; a command of this Python, with its output caught, is run by a fork that has torch."""
    if not options.get("capture_output") or set(options) - {"capture_output", "cwd", "env", "text", "timeout", "check"}:
        return _run(command, **options)
    given = {name: options[name] for name in ("cwd", "env", "text") if name in options}
    with _Any(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **given) as process:
        try:
            out, err = process.communicate(timeout=options.get("timeout"))
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(command, process.returncode, out, err)
    if options.get("check"):
        done.check_returncode()
    return done


@contextlib.contextmanager
def used() -> Iterator[None]:
    """What the program or a test begins as a module of the house is a fork."""
    subprocess.Popen = Popen  # type: ignore[misc]
    try:
        yield
    finally:
        subprocess.Popen = _plain  # type: ignore[misc]


@contextlib.contextmanager
def unused() -> Iterator[None]:
    """Within `used`: here every child is an interpreter of its own, and so is every child of a child."""
    before, subprocess.Popen = subprocess.Popen, _plain  # type: ignore[misc]
    try:
        yield
    finally:
        subprocess.Popen = before  # type: ignore[misc]


def served() -> set[int]:
    """The numbers of the servers' processes, which are no children that a test left behind."""
    return _pids


def end() -> None:
    """Ends the servers, at the end of all tests."""
    global _server, _life, _place
    if _server is not None and _life is not None:
        _life.close()
        _server.wait(20)
        shutil.rmtree(_place, ignore_errors=True)
        _pids.clear()
        _server, _life, _place = None, None, ""


def _which(words: list[str], cwd: Any, env: Any, whatever: bool) -> str:
    """The server that forks the child of a command, one of `_DOORS`; "" where it has an interpreter of its own."""
    if words[:1] != [sys.executable]:
        return ""
    rest = words[1:]
    while rest and rest[0] in ("-B", "-u", "-P"):
        rest = rest[1:]
    if rest[:1] == ["-m"] and "-P" not in words and (rest[1].split(".")[0] in _OURS or rest[1] in _OURS_TOO):
        search = (os.environ if env is None else env).get("PYTHONPATH")
        if not search and os.path.realpath(cwd or os.getcwd()) == os.path.realpath(ROOT):
            return "house"
    if rest[:1] == ["-c"] and "-P" in words and repr(ROOT) in rest[1]:
        for ending, door in _CODES.items():
            if rest[1].endswith(ending):
                return door
    return "base" if whatever else ""


def _connected(name: str) -> socket.socket:
    with _lock:
        _begun()
    line = socket.socket(socket.AF_UNIX)
    line.connect(os.path.join(_place, name))
    return line


def _begun() -> None:
    """Sees to it that the first server is there."""
    global _server, _life, _place
    if not _place or (_server is not None and _server.poll() is not None):
        _place = tempfile.mkdtemp(prefix="scanloom-forks-")
        if len(_place) > 90:  # the address of a socket has 108 bytes at most
            os.rmdir(_place)
            _place = tempfile.mkdtemp(prefix="scanloom-forks-", dir="/tmp")
        _life, its = socket.socketpair()
        doors = []
        for one in _DOORS:
            door = socket.socket(socket.AF_UNIX)
            door.bind(os.path.join(_place, one))
            door.listen(64)
            doors.append(door)
        numbers = [its.fileno(), *(door.fileno() for door in doors)]
        code = f"import runpy; runpy.run_path({__file__!r})['serve']({_place!r}, *{numbers})"
        environment = {**os.environ, **_THREADLESS}
        environment.pop("PYTHONPATH", None)
        _server = _plain([sys.executable, "-P", "-c", code], pass_fds=numbers, cwd="/", env=environment)
        _pids.add(_server.pid)
        for given in (its, *doors):
            given.close()


def _exactly(pipe: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        piece = pipe.recv(count - len(found))
        if not piece:
            raise EOFError("the server of forks has ended")
        found += piece
    return found


# -- in the server ----------------------------------------------------------------------------------------------------


def serve(place: str, life: int, *doors: int) -> None:
    """Forks a child whenever it is asked at the first of `doors`, until the tests are gone. Whoever knocks at one of
    the others makes this server fork the next one, which imports more and has these doors (see `_STAGES`)."""
    global _place
    _place = place
    stage, servers, own, wake = 0, [os.getpid()], socket.socket(fileno=doors[0]), _woken()
    lines: dict[int, socket.socket] = {}  # of the children, by their number
    later, second = list(doors[1:]), 0
    _imported(_STAGES[0])
    while True:
        watched: list[Any] = [life, wake[0], own, *later]
        ready, _, _ = select.select(watched, [], [])
        with contextlib.suppress(BlockingIOError):
            while os.read(wake[0], 4096):
                pass
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                with contextlib.suppress(KeyError, OSError):
                    line = lines.pop(ended[0])
                    line.sendall(ended[1].to_bytes(4, "little"))
                    line.close()
        if life in ready:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(second or -1, 0 if second else os.WNOHANG)
            return
        if set(ready) & set(later):
            second = os.fork()
            if second:
                for number in later:
                    os.close(number)
                later = []
                continue
            for one in (own, *lines.values()):
                one.close()
            for number in wake:
                os.close(number)
            stage, own, wake, later, lines = stage + 1, socket.socket(fileno=later[0]), _woken(), later[1:], {}
            servers.append(os.getpid())
            _imported(_STAGES[stage])
        elif own in ready:
            line, _ = own.accept()
            with contextlib.suppress(OSError, EOFError):
                pid = _forked(line, servers, [life, *wake, *later], [own, *lines.values()])
                lines[pid] = line


def _woken() -> tuple[int, int]:
    """A pipe that is written to when a child has ended."""
    reader, writer = os.pipe()
    for number in (reader, writer):
        os.set_blocking(number, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is a matter of the tests; a child hears it again
    return reader, writer


def _imported(names: tuple[str, ...]) -> None:
    sys.path.insert(0, ROOT)
    for name in names:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    if "builder.supervisor" in sys.modules:
        for name in sys.modules["builder.supervisor"].PRELOAD:
            importlib.import_module(name)
    sys.path.remove(ROOT)
    gc.collect()
    gc.freeze()


def _forked(line: socket.socket, servers: list[int], numbers: list[int], sockets: list[socket.socket]) -> int:
    """Begins what is asked for on `line`; the child says there its number and those of the servers it came from."""
    head, ancillary, *_ = line.recvmsg(4, socket.CMSG_SPACE(12))
    standard = array.array("i")
    for _level, _kind, data in ancillary:
        standard.frombytes(data)
    asked = json.loads(_exactly(line, int.from_bytes(head + _exactly(line, 4 - len(head)), "little")))
    child = os.fork()
    if not child:
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            for one in sockets:
                one.close()
            for number in numbers:
                os.close(number)
            for number, given in enumerate(standard):
                os.dup2(given, number)
            for given in standard:
                os.close(given)
            if asked["session"]:
                os.setsid()
            else:
                with contextlib.suppress(OSError):
                    os.setpgid(0, asked["group"])
            if len(servers) == len(_STAGES):
                subprocess.Popen = Popen  # type: ignore[misc]
            os.chdir(asked["cwd"])
            told = [os.getpid(), *servers, *[0] * (len(_STAGES) - len(servers))]
            line.sendall(b"".join(number.to_bytes(4, "little") for number in told))  # as it is after an exec
            line.close()
            code = _child(asked["command"], asked["cwd"], asked["env"])
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)  # whatever happens: a child never goes on as a server
    for number in standard:
        os.close(number)
    return child


def _child(command: list[str], cwd: str, env: dict[str, str]) -> int:
    """Does what `python COMMAND...` does in the folder `cwd`, where it is; returns its exit code."""
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    sys.orig_argv = [sys.executable, *command]
    flags = []
    while command and command[0] in ("-B", "-I", "-P", "-s", "-E", "-u"):
        flags.append(command.pop(0))
    sys.dont_write_bytecode = "-B" in flags or bool(env.get("PYTHONDONTWRITEBYTECODE"))
    lone = {"-I", "-P"} & set(flags)
    if "-I" not in flags and "-E" not in flags and env.get("PYTHONPATH"):
        sys.path[:0] = env["PYTHONPATH"].split(os.pathsep)
    code = 0
    try:
        if command[0] in ("-c", "-m"):
            how, what, *rest = command
            sys.argv = [how, *rest]
            if not lone:
                sys.path.insert(0, "" if how == "-c" else cwd)
            if how == "-c":
                main = type(sys)("__main__")
                sys.modules["__main__"] = main
                exec(compile(what, "<string>", "exec"), main.__dict__)
            else:
                package = hasattr(sys.modules.get(what), "__path__")
                sys.modules.pop(f"{what}.__main__" if package else what, None)  # it is not imported but run
                runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            sys.argv = list(command)
            if not lone:
                sys.path.insert(0, os.path.dirname(os.path.abspath(command[0])))
            runpy.run_path(command[0], run_name="__main__")
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            code = stop.code or 0
        else:
            print(stop.code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
        code = 1
    with contextlib.suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    return code & 0xFF
