"""What tests/forks.py runs is told apart from an interpreter of its own by nothing that a test asks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import forks
import pytest

SAYS = "import json, os, sys; print(json.dumps([sys.argv, os.getcwd(), dict(os.environ), __name__, sys.path[0]]))"


@pytest.mark.parametrize("how", ["code", "script", "refusal", "trouble", "killed"])
def test_a_fork_does_what_an_interpreter_does(how, tmp_path):
    (tmp_path / "one.py").write_text(SAYS)
    ending = {"refusal": "sys.exit('No such scan.')", "trouble": "1 / 0", "killed": "os.kill(os.getpid(), 9)"}
    words = ["one.py", "a", "b"] if how == "script" else ["-B", "-c", f"import os, sys; {ending.get(how, SAYS)}", "a"]
    given = {"cwd": tmp_path, "env": {"PATH": "/bin", "LC_ALL": "C.UTF-8"}, "capture_output": True, "text": True}
    here, there = (run([sys.executable, *words], **given) for run in (forks.run, subprocess.run))
    assert (here.returncode, here.stdout) == (there.returncode, there.stdout)
    assert here.stderr.splitlines()[-1:] == there.stderr.splitlines()[-1:]


def test_a_fork_sees_nothing_of_scanloom_and_has_its_time():
    asked = [sys.executable, "-c", "import sys; print([m for m in sys.modules if m[:7] in ('builder', 'tasks')])"]
    assert forks.run(asked, capture_output=True, cwd="/", env={}).stdout == b"[]\n"
    assert forks.run([sys.executable, "-c", "import builder"], capture_output=True, cwd="/", env={}).returncode == 1
    with pytest.raises(subprocess.TimeoutExpired):
        forks.run([sys.executable, "-c", "import time; time.sleep(60)"], capture_output=True, timeout=0.3)
    with pytest.raises(subprocess.CalledProcessError):
        forks.run([sys.executable, "-c", "raise SystemExit(3)"], capture_output=True, check=True)


def test_a_command_of_the_house_is_a_fork_with_its_own_session_folder_and_end(home):
    given = {"cwd": Path(__file__).parents[1], "env": {**os.environ, "SCANLOOM_HOME": str(home)}, "text": True}
    command = [sys.executable, "-m", "builder", "runs", "no-such-run", "--json"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    told = []
    for begin in (forks.Popen, forks._plain):
        with begin(command, **pipes, **given) as process:
            told.append((*process.communicate(), process.returncode))
    assert told[0] == told[1] and told[0][2] == 2
    (home / "held").mkdir(parents=True)
    held = [sys.executable, "-m", "builder.supervisor", str(home / "held")]
    process = forks.Popen(held, start_new_session=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, **given)
    assert os.getsid(process.pid) == process.pid and process.poll() is None
    assert os.readlink(f"/proc/{process.pid}/cwd") == str(given["cwd"])
    process.kill()
    assert process.wait(30) == -9
    assert {process.pid}.isdisjoint(forks.served())
