"""Children of a test that find torch imported: a small server has done it once, and forks.

A script that is taken away, or a file that is opened in a process of its own, needs an interpreter; that each of a
hundred of them imports torch anew proves nothing and costs two seconds. `run` is `subprocess.run` for commands of this
Python: the child has its own arguments, folder, environment and search path, and nothing of ScanLoom is loaded in the
server. At least one test of each kind still starts an interpreter of its own.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from typing import Any

_PRELOADED = ("torch", "torchvision", "timm", "numpy", "PIL.Image", "pydicom", "safetensors.torch", "torch.export")
_run = subprocess.run
_server: tuple[subprocess.Popen[bytes], socket.socket] | None = None


def run(command: Any, **options: Any) -> subprocess.CompletedProcess[Any]:
    """As `subprocess.run`; a command of this Python, with its output caught, is run by a fork that has torch."""
    words = [os.fspath(word) for word in command] if isinstance(command, list | tuple) else []
    taken = {"capture_output", "cwd", "env", "text", "timeout", "check"}
    if words[:1] != [sys.executable] or not options.get("capture_output") or set(options) - taken:
        return _run(command, **options)
    pipe = _started()
    out, err = (os.memfd_create(name) for name in ("stdout", "stderr"))
    try:
        environment = dict(os.environ if options.get("env") is None else options["env"])
        cwd = os.fspath(options.get("cwd") or os.getcwd())
        asked = json.dumps({"command": words[1:], "cwd": cwd, "env": environment}).encode()
        pipe.sendmsg([len(asked).to_bytes(4, "little") + asked], [_rights(out, err)])
        child = int.from_bytes(_exactly(pipe, 4), "little")
        pipe.settimeout(options.get("timeout"))
        try:
            code = int.from_bytes(_exactly(pipe, 4), "little", signed=True)
        except TimeoutError:
            os.kill(child, signal.SIGKILL)
            pipe.settimeout(30)
            _exactly(pipe, 4)
            pipe.settimeout(None)
            raise subprocess.TimeoutExpired(command, options["timeout"]) from None
        pipe.settimeout(None)
        found: list[Any] = []
        for number in (out, err):
            os.lseek(number, 0, os.SEEK_SET)
            with os.fdopen(os.dup(number), "rb") as file:
                found.append(file.read())
    finally:
        os.close(out)
        os.close(err)
    if options.get("text"):
        found = [said.decode() for said in found]
    done = subprocess.CompletedProcess(command, code, *found)
    if options.get("check"):
        done.check_returncode()
    return done


def served() -> int | None:
    """The number of the server's process, which is no child that a test left behind; None where none was asked for."""
    return None if _server is None else _server[0].pid


def end() -> None:
    """Ends the server, at the end of all tests."""
    global _server
    if _server is not None:
        process, pipe = _server
        pipe.close()
        process.wait(20)
        _server = None


def _started() -> socket.socket:
    global _server
    if _server is None or _server[0].poll() is not None:
        ours, its = socket.socketpair()
        code = f"import runpy; runpy.run_path({__file__!r})['serve']({its.fileno()})"
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        environment.pop("PYTHONPATH", None)
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", code], pass_fds=[its.fileno()], cwd="/", env=environment
        )
        its.close()
        _server = process, ours
    return _server[1]


def _rights(*numbers: int) -> tuple[int, int, array.array[int]]:
    return socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", numbers)


def _exactly(pipe: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        piece = pipe.recv(count - len(found))
        if not piece:
            raise EOFError("the server of forks has ended")
        found += piece
    return found


# -- in the server ----------------------------------------------------------------------------------------------------


def serve(number: int) -> None:
    """Imports what is slow, then runs one child after the other, until the tests are gone."""
    for name in _PRELOADED:
        with contextlib.suppress(ImportError):
            __import__(name)
    gc.collect()
    gc.freeze()
    pipe = socket.socket(fileno=number)
    while True:
        head, ancillary, *_ = pipe.recvmsg(4, socket.CMSG_SPACE(8))
        if not head:
            return
        head += _exactly(pipe, 4 - len(head)) if len(head) < 4 else b""
        out, err = array.array("i", ancillary[0][2])
        asked = json.loads(_exactly(pipe, int.from_bytes(head, "little")))
        child = os.fork()
        if not child:
            pipe.close()
            os.dup2(out, 1)
            os.dup2(err, 2)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os._exit(_child(asked["command"], asked["cwd"], asked["env"]))
        os.close(out)
        os.close(err)
        pipe.sendall(child.to_bytes(4, "little"))
        _, status = os.waitpid(child, 0)
        with contextlib.suppress(OSError):
            pipe.sendall(os.waitstatus_to_exitcode(status).to_bytes(4, "little", signed=True))


def _child(command: list[str], cwd: str, env: dict[str, str]) -> int:
    """Does what `python COMMAND...` does, and returns its exit code."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    flags = []
    while command and command[0] in ("-B", "-I", "-P", "-s", "-E"):
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
