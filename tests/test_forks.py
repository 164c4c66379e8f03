"""What tests/forks.py runs is told apart from an interpreter of its own by nothing that a test asks."""

from __future__ import annotations

import subprocess
import sys

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
