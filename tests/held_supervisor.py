"""The real supervisor, whose trainings can be held after an epoch: a test chooses its moment, however busy the machine
is. Product code never imports this.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from builder import supervisor, worker
from builder.runs import EpochEnded
from tests.fake_supervisor import held_at


def train(work: worker.Work) -> worker.Steps:
    """The real training; it waits at the end of the epoch that the file `hold` names, before that epoch is saved."""
    for event in worker.train(work):
        yield event
        if isinstance(event, EpochEnded):
            while event.epoch >= held_at(work.home) and not work.stop():
                time.sleep(0.005)
    return None


def run(folder: Path) -> int:
    return worker.run(folder, {**worker.KINDS, "train": train})


if __name__ == "__main__":
    preload = (*supervisor.PRELOAD, "tests.held_supervisor")
    sys.exit(supervisor.main(entry="tests.held_supervisor:run", preload=preload))
