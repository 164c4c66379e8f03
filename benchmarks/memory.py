"""Memory while training, with some scans and with ten times as many.

    python benchmarks/memory.py [--count 2500]

Each size is trained in a process of its own, with augmentation and checkpoints; told is the largest resident memory of
that process. Promise: ten times the scans, under 10 % more.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import setting

SIZE_PX = 64


def child(folder: Path, count: int) -> None:
    """Trains one epoch on scans that lie in `folder` and prints the largest resident memory in bytes."""
    import torch

    from builder.runs import EpochEnded, Finished
    from builder.spec import Choice
    from builder.task import find
    from builder.train import train

    torch.set_num_threads(1)
    augment = (Choice(name="rotate"), Choice(name="zoom"), Choice(name="noise"))
    experiment = setting.light(augment=augment, epochs=2, batch_size=32)
    scans = setting.Scans(folder, count, SIZE_PX, write=False)
    steps = 0
    for event in train(experiment, find("recognition"), scans, folder / "run", device="cpu"):  # type: ignore[arg-type]
        if isinstance(event, EpochEnded):
            steps = event.step
        if isinstance(event, Finished):
            assert event.status == "done", event.reason
    # Not getrusage: its maximum is inherited from the process that started this one.
    status = Path("/proc/self/status").read_text()
    peak = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024
    print(json.dumps({"peak_bytes": peak, "steps": steps}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=2500)
    parser.add_argument("--child", nargs=2, metavar=("FOLDER", "COUNT"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        child(Path(chosen.child[0]), int(chosen.child[1]))
        return
    found = {}
    for count in (chosen.count, 10 * chosen.count):
        with tempfile.TemporaryDirectory() as folder:
            setting.Scans(Path(folder), count, SIZE_PX)
            command = [sys.executable, __file__, "--child", folder, str(count)]
            told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        found[f"{count} scans"] = {
            "peak_mb": round(told["peak_bytes"] / 1e6, 1),
            "scans_mb": round(count * SIZE_PX**2 / 1e6, 1),
            "steps": told["steps"],
        }
    small, large = (entry["peak_mb"] for entry in found.values())
    promise = "ten times the scans: under 10 % more"
    setting.report(
        "memory", {"promise": promise, "growth_percent": round(100 * (large / small - 1), 2), "found": found}
    )


if __name__ == "__main__":
    main()
