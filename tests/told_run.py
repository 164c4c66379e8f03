"""A run whose events are told by hand, so that what a page shows can be compared with what was told, to the point."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from playwright.sync_api import Page

from builder.runs import Claim, EpochEnded, Progress, Record, Run, RunStore, Saved, Started
from builder.spec import Experiment, Training

LOSS = ".st-key-curves-loss .scanloom-curves"
PER_EPOCH = 20
EPOCHS = 50
_RAW = f"""() => {{
    const chart = document.querySelector('{LOSS}')
    const trace = (chart?.data ?? []).find((t) => t.uid?.endsWith('step_2floss-raw')) ?? {{}}
    return [...(trace.x ?? [])].map((x) => Math.round(x * {PER_EPOCH}))
}}"""


class ToldRun:
    """A run that seems to learn in this process: one step for each `tell`, an epoch every `PER_EPOCH` steps."""

    def __init__(self, home: Path, name: str = "told by hand", epochs: int = EPOCHS) -> None:
        self.epochs = epochs
        document = Experiment(name=name, training=Training(epochs=epochs, monitor="auc"))
        self.run: Run = RunStore(home).create(document)
        Claim.of(os.getpid()).write(self.run.folder / "claim.json")
        self.record = Record(self.run.folder / "events.jsonl")
        self.record.append(Started(attempt=1, device="cpu", pid=os.getpid()))
        self.step = 0
        self.told_at: dict[int, float] = {}

    def tell(self) -> int:
        """Tells one step more; its number."""
        self.step += 1
        step, epoch, total = self.step, 1 + (self.step - 1) // PER_EPOCH, self.epochs * PER_EPOCH
        loss = 1 / (1 + 0.05 * step) + 0.02 * (step % 7)
        metrics = {"step/loss": loss, "step/lr": 0.001, "step/gradient": 1.0, "step/memory_mb": 500.0}
        self.told_at[step] = time.time()
        self.record.append(Progress(step, max(total, step), min(epoch, self.epochs), metrics))
        if step % PER_EPOCH == 0 and epoch <= self.epochs:
            scores = {"train/loss": loss, "val/loss": loss + 0.05, "val/auc": min(1.0, 0.5 + 0.01 * epoch)}
            self.record.append(EpochEnded(epoch, step, scores, 1.0))
            self.record.append(Saved(step, epoch, True, "best.safetensors"))
        return step

    def close(self) -> None:
        """Takes it out of the queue: nobody works on it any more."""
        self.record.close()
        self.run.marker.unlink(missing_ok=True)


def shown_steps(page: Page) -> list[int]:
    """The steps that the loss chart of a page shows, one point each, in order."""
    return [int(step) for step in json.loads(json.dumps(page.evaluate(_RAW)))]


def wait_for_step(page: Page, step: int, timeout_ms: int = 60_000) -> None:
    """Waits until the loss chart has the point of this step."""
    page.wait_for_function(f"(step) => (({_RAW})() ?? []).at(-1) >= step", arg=step, timeout=timeout_ms)
