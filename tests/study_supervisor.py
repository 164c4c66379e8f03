"""A supervisor that drives studies for real over toy trainings, see `fake_supervisor`. Only tests import it."""

from __future__ import annotations

import sys
from pathlib import Path

from builder import supervisor, worker
from builder.execute import LocalExecutor
from builder.runs import Progress
from builder.search.driver import Driver
from builder.search.ground import RunGround
from builder.search.studies import StudyStore
from tests import fake_supervisor

COMMAND = (sys.executable, "-m", "tests.study_supervisor")


def search(work: worker.Work) -> worker.Steps:
    study = StudyStore(work.home).study(work.job.payload["study"])
    ground = RunGround(work.home, study.id, LocalExecutor(work.home, COMMAND))
    driver = Driver(study, ground, stop=lambda: work.job.stop_wanted, costs=lambda made, names: {})
    for done, wanted in driver.steps():
        yield Progress(step=done, total=wanted)
    return {"study": study.id}


def run(folder: Path) -> int:
    return worker.run(folder, {"train": fake_supervisor.train, "search": search})


if __name__ == "__main__":
    supervisor.BACKOFF_S = (0.1, 0.3)
    sys.exit(supervisor.main(entry="tests.study_supervisor:run", preload=("tests.study_supervisor", "optuna")))
