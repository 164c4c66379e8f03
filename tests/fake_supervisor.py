"""A supervisor whose workers do toy work: the process side under test without torch. Product code never imports this.

The toy training is as exact as the real one must be: a chain of digests, one per step, saved after every epoch.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from builder import supervisor, worker
from builder.runs import (
    Claim,
    EpochEnded,
    Finished,
    Paused,
    Progress,
    Resumed,
    Run,
    Saved,
    Started,
    encode,
    write_atomic,
)

STEPS_PER_EPOCH = 5


def train(work: worker.Work) -> worker.Steps:
    assert isinstance(work.job, Run)
    training = work.job.experiment.training
    step_s = training.l1 or 0.01  # the toy's speed
    yield Started(device="cpu")
    state: dict[str, Any] = {"step": 0, "value": f"seed {training.seed}"}
    last = work.folder / "last.json"
    if last.exists():
        state = json.loads(last.read_text())
        yield Resumed(step=state["step"], epoch=state["step"] // STEPS_PER_EPOCH)
    total = training.epochs * STEPS_PER_EPOCH
    for step in range(state["step"] + 1, total + 1):
        if work.pause() and not work.stop():
            write_atomic(last, json.dumps(state))
            yield Paused(step=state["step"], epoch=state["step"] // STEPS_PER_EPOCH)
            while work.pause() and not work.stop():
                time.sleep(0.01)
            if work.stop():
                yield Finished("stopped")
                return None
            yield Resumed(step=state["step"], epoch=state["step"] // STEPS_PER_EPOCH)
        time.sleep(step_s)
        while step > held_at(work.home) and not work.stop():
            time.sleep(0.005)
        state = {"step": step, "value": hashlib.sha256(f"{state['value']} {step}".encode()).hexdigest()}
        epoch = (step - 1) // STEPS_PER_EPOCH + 1
        yield Progress(step=step, total=total, epoch=epoch, metrics={"step/loss": 1 / step})
        if step % STEPS_PER_EPOCH == 0 or work.stop():
            if step % STEPS_PER_EPOCH == 0:
                yield EpochEnded(epoch=epoch, step=step, metrics={"val/auc": 1 - 1 / step}, seconds=step_s)
            write_atomic(last, json.dumps(state))
            yield Saved(step=step, epoch=epoch, best=True, file=last.name)
        if work.stop():
            yield Finished("stopped")
            return None
    write_atomic(work.folder / "weights.txt", state["value"])
    return None


def held_at(home: Path) -> float:
    """The step after which the toy waits, so that a test can choose its moment on a busy machine, too."""
    try:
        return float((home / "hold").read_text() or "inf")
    except FileNotFoundError:
        return float("inf")


def predict(work: worker.Work) -> worker.Steps:
    payload = work.job.payload
    with open(work.home / "begun.txt", "a") as file:
        file.write(f"{work.job.id}\n")
    yield Progress(step=1, total=2, note="toy")
    if payload.get("brim"):  # fill the last block of the event file, so that one more line needs a new one
        size = (work.folder / "events.jsonl").stat().st_size + len(encode(Progress(step=1, total=2))) + 40
        yield Progress(step=1, total=2, note="x" * (-size % 4096))
    while (work.home / "wait").exists():
        time.sleep(0.005)
    if payload.get("do") == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if payload.get("do") == "exit":
        os._exit(payload["code"])
    if payload.get("do") == "child":
        child = subprocess.Popen(["sleep", "60"])
        Claim.of(child.pid).write(work.folder / "child.json")
        os.kill(os.getpid(), signal.SIGKILL)
    if payload.get("do") == "raise":
        raise RuntimeError(payload["words"])
    if payload.get("do") == "sleep":
        while True:
            time.sleep(0.02)
            yield Progress(step=1, total=2)
    return {"answer": payload.get("question")}


def run(folder: Path) -> int:
    return worker.run(folder, {"train": train, "predict": predict})


if __name__ == "__main__":
    supervisor.BACKOFF_S = (0.1, 0.3)
    sys.exit(supervisor.main(entry="tests.fake_supervisor:run", preload=("tests.fake_supervisor",)))
