"""What one refresh of the Search page costs with a thousand trials, on the server and in a real browser.

    python benchmarks/study_page.py [--trials 1000] [--rounds 5]

A study of so many trials of twelve epochs is told by hand and left active, so that the page looks again by itself every
1.5 s. What is counted is the time that the server's process and Chromium's main thread worked, together. Usual: an
ordinary look, an epoch was told. Ended: a trial is over, and all is drawn anew, once in 10 s at most, the picture and
the rest of the page each by a refresh of its own; 15 s are watched, and the dearest 1.5 s in them are `window`: one
such refresh and the ordinary look that falls into any 1.5 s. `ended` is without that look. Medians, by picture.
Promise: server and browser together stay under 0.3 s a refresh.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import setting

from builder.execute import LocalExecutor
from builder.runs import Claim, Record, Started
from builder.search.studies import Study

PICTURES = ("Best so far", "All choices", "What matters", "Each choice", "In pairs", "Learning curves")
PARAMS = {"training.optimizer": "adam", "training.optimizer.params.lr": 0.002, "training.batch_size": 8}
LOOK_S = 1.5


def tell(study: Study, event: str, **facts: object) -> None:
    """Appends one event, as the driver does."""
    with (study.folder / "events.jsonl").open("a") as file:
        file.write(json.dumps({"event": event, "at": time.time(), "clock": 20_000.0, **facts}) + "\n")


def looks(home: Path, study: Study, rounds: int, running: int) -> dict[str, dict[str, float]]:
    """Seconds of a look by picture: of an ordinary one, and of the dearest after a trial has ended, with its shares.

    running: the number of the last trial, which is not over.
    """
    from tests import browser

    server = browser.start_server(home)
    process = psutil.Process(server.process.pid)
    trial = running
    found: dict[str, dict[str, float]] = {}
    try:
        with browser.chromium() as opened:
            page = opened.context.new_page()  # it never comes to rest: the page looks again by itself
            page.goto(f"{server.address}/search?study={study.id}")
            browser.keyed(page, "study-view").wait_for(timeout=180_000)
            client = opened.context.new_cdp_session(page)
            client.send("Performance.enable")

            def worked() -> np.ndarray:
                told = client.send("Performance.getMetrics")["metrics"]
                spent = process.cpu_times()
                return np.array(
                    [spent.user + spent.system, next(m["value"] for m in told if m["name"] == "TaskDuration")]
                )

            def watched(seconds: float) -> np.ndarray:
                """(N, 2) seconds of server and browser in each two neighbouring slices, as long as one look."""
                slices = [worked()]
                for _ in range(round(2 * seconds / LOOK_S)):
                    page.wait_for_timeout(1000 * LOOK_S / 2)
                    slices.append(worked())
                return np.array(slices[2:]) - np.array(slices[:-2])

            for picture in PICTURES:
                browser.keyed(page, "study-view").get_by_role("radio", name=picture).click()
                page.wait_for_timeout(12_000)
                usual, windows = [], []
                for round_ in range(rounds):
                    trial += 1
                    asked = {"trial": trial, "params": PARAMS, "run": "", "costs": {}, "requeued_from": None}
                    tell(study, "asked", **asked)
                    tell(study, "ended", trial=trial, status="done", values=[0.85], epochs=12, seconds=3.0)
                    last = watched(15)
                    windows.append(last[last.sum(1).argmax()])
                    tell(study, "reported", trial=running, epoch=7 + round_, value=0.5)
                    usual.append(watched(3)[::2].mean(0))
                found[picture] = {
                    f"{kind}_{where}s": round(float(np.median(values)), 3)
                    for kind, told in (
                        ("usual", np.array(usual)),
                        ("ended", np.array(windows) - np.array(usual)),
                        ("window", np.array(windows)),
                    )
                    for where, values in (("", told.sum(1)), ("server_", told[:, 0]), ("browser_", told[:, 1]))
                }
                print(picture, json.dumps(found[picture]), flush=True)
    finally:
        browser.stop_server(server)
    return found


def main() -> None:
    """Measures and writes `results/study_page.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    LocalExecutor.ensure = lambda self, wait_s=0.0: False  # type: ignore[assignment, method-assign]
    with tempfile.TemporaryDirectory() as place:
        os.environ["SCANLOOM_HOME"] = place
        from tests.told_study import told

        study = told(Path(place), asked.trials, running=1, finished="")
        job = study.resume()
        Claim.of(os.getpid()).write(job.folder / "claim.json")  # it seems to be driven from here: the page looks again
        with Record(job.folder / "events.jsonl") as record:
            record.append(Started(attempt=1, device="cpu", pid=os.getpid()))
        found = looks(Path(place), study, asked.rounds, asked.trials - 1)
        fold = time.process_time()
        Study(study.home, study.id).view()
        fold = time.process_time() - fold
    dearest = {kind: max(row[f"{kind}_s"] for row in found.values()) for kind in ("usual", "ended", "window")}
    setting.report(
        "study_page",
        {
            "trials": asked.trials,
            **{f"{kind}_s": seconds for kind, seconds in dearest.items()},
            "first_fold_s": round(fold, 3),
            "pictures": found,
        },
    )


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
