"""Starting the machines of a cluster: `ray start` with what ScanLoom needs, in the foreground until Ctrl-C.

Always with a token; the data folder, the program and its Python go to Ray in the environment, where a placed run finds
them. Ending one is ending this process: `ray stop` would end every Ray of the machine, other people's too.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from builder.cluster import token_file
from builder.runs import StoreError

PORT, JOBS_PORT = 6379, 8265
PROJECT = Path(__file__).parents[1]


def token_of(home: Path, make: bool) -> Path:
    """The file of the token, RAY_AUTH_TOKEN_PATH or ray.token in the data folder; with `make` it is made where there is
    none, readable by its owner only. StoreError in words where it is missing."""
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or token_file(home)).expanduser()
    if not path.exists():
        if not make:
            raise StoreError(
                f"There is no token at {path}: start the head first, and see that this machine has the same data "
                "folder (SCANLOOM_HOME), or copy the file and name it in RAY_AUTH_TOKEN_PATH."
            )
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
    return path


def environment(home: Path, make_token: bool) -> dict[str, str]:
    """What Ray is started with. A machine that is gone is noticed after about ten seconds."""
    return {
        "RAY_health_check_period_ms": "2000",
        "RAY_health_check_failure_threshold": "3",
        "RAY_health_check_timeout_ms": "5000",
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_of(home, make_token)),
        "RAY_USAGE_STATS_ENABLED": "0",
        "SCANLOOM_HOME": str(home),
        "SCANLOOM_PROGRAM": str(PROJECT),
        "SCANLOOM_PYTHON": sys.executable,
        "PYTHONPATH": str(PROJECT),
    }


def command(join: str = "", *, address: str = "", more: Sequence[str] = ()) -> list[str]:
    """The words of `ray start`.

    Args:
        join: HOST:PORT of the head; "" starts a head. address: of this machine in the cluster; "" lets Ray find it.
        more: further words for `ray start`.
    """
    ray = Path(sys.executable).with_name("ray")
    if not ray.exists():
        raise StoreError(
            "Ray is not installed here: '.venv/bin/python -m pip install -r requirements-cluster.txt -c "
            "constraints.txt' installs it."
        )
    words = [str(ray), "start", "--block", "--disable-usage-stats"]
    if join:
        words += ["--address", join]
    else:
        words += ["--head", f"--port={PORT}", "--dashboard-host=127.0.0.1", f"--dashboard-port={JOBS_PORT}"]
    if address:
        words.append(f"--node-ip-address={address}")
    card_mb = smallest_card_mb()
    if card_mb:
        words.append(f'--resources={{"card_mb": {card_mb}}}')
    return [*words, *more]


def smallest_card_mb() -> int:
    """Memory of the smallest NVIDIA graphics card of this machine in megabytes; 0 without one."""
    asks = shutil.which("nvidia-smi")
    if asks is None:
        return 0
    try:
        said = subprocess.run(
            [asks, "--query-gpu=memory.total", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        ).stdout
        return int(min(float(line) for line in said.split()) * 1.048576)
    except (subprocess.SubprocessError, ValueError, OSError):
        return 0
