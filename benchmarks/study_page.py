"""What one refresh of the Search page costs with a thousand trials, on the server and in a real browser.

    python benchmarks/study_page.py [--trials 1000] [--refreshes 8]

A study of so many trials of twelve epochs is told by hand and left active, so that the page looks again by itself. For
each picture, a trial ends before every refresh (the dearest case: everything is drawn anew), and then refreshes in
which only an epoch was told (the usual case). Server: one whole run of the page's script in Streamlit's own test
runner, more than the fragment that really runs. Browser: how long Chromium's main thread was busy for a refresh. Where
a trial has ended all is drawn anew once in 10 s at most: 12 s are watched, and the dearest look counts.
Promise: both together stay under 0.3 s a refresh in the usual case (`usual_s`).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import setting

from builder.execute import LocalExecutor
from builder.runs import Claim, Record, Started
from builder.search.studies import Study

PICTURES = ("Best so far", "All choices", "What matters", "Each choice", "In pairs", "Learning curves")


def tell(study: Study, event: str, **facts: object) -> None:
    """Appends one event, as the driver does."""
    with (study.folder / "events.jsonl").open("a") as file:
        file.write(json.dumps({"event": event, "at": time.time(), "clock": 20_000.0, **facts}) + "\n")


def on_the_server(study: Study, refreshes: int, next_trial: int) -> tuple[dict[str, dict[str, float]], int]:
    """Seconds of processor for a run of the page, by picture: when a trial has ended, and when an epoch was told."""
    from streamlit.testing.v1 import AppTest

    session = AppTest.from_file(str(Path(__file__).parents[1] / "pages" / "shell.py"), default_timeout=120)
    session.run()
    session.switch_page("search.py")
    session.query_params["study"] = study.id
    session.run()
    found: dict[str, dict[str, float]] = {}
    for picture in PICTURES:
        session.segmented_control(key="study-view").set_value(picture).run()
        assert not session.exception, session.exception
        ended, usual = [], []
        for _ in range(refreshes):
            params = {"training.optimizer": "adam", "training.optimizer.params.lr": 0.002, "training.batch_size": 8}
            tell(study, "asked", trial=next_trial, params=params, run="", costs={}, requeued_from=None)
            tell(study, "ended", trial=next_trial, status="done", values=[0.85], best_epoch=9, epochs=12, seconds=3.0)
            began = time.process_time()
            session.run()
            ended.append(time.process_time() - began)
            tell(study, "asked", trial=next_trial + 1, params=params, run="", costs={}, requeued_from=None)
            tell(study, "reported", trial=next_trial + 1, epoch=1, value=0.5)
            session.run()  # a trial has begun: the table has a row more
            tell(study, "reported", trial=next_trial + 1, epoch=2, value=0.6)
            began = time.process_time()
            session.run()
            usual.append(time.process_time() - began)
            tell(study, "ended", trial=next_trial + 1, status="failed", values=[], epochs=2, seconds=1.0)
            next_trial += 2
        found[picture] = {"ended": statistics.median(ended), "usual": statistics.median(usual)}
    return found, next_trial


def in_the_browser(home: Path, study: Study, refreshes: int, next_trial: int) -> dict[str, dict[str, float]]:
    """Seconds that Chromium's main thread works for a refresh, by picture."""
    from tests import browser

    server = browser.start_server(home)
    found: dict[str, dict[str, float]] = {}
    try:
        with browser.chromium() as opened:
            page = opened.context.new_page()  # it never comes to rest: the page looks again by itself
            page.goto(f"{server.address}/search?study={study.id}")
            browser.keyed(page, "study-view").wait_for(timeout=180_000)
            client = opened.context.new_cdp_session(page)
            client.send("Performance.enable")

            def worked() -> float:
                told = client.send("Performance.getMetrics")["metrics"]
                return float(next(m["value"] for m in told if m["name"] == "TaskDuration"))

            for picture in PICTURES:
                browser.keyed(page, "study-view").get_by_role("radio", name=picture).click()
                for _ in range(20):  # until it is painted, which takes long where others work on the machine
                    before = worked()
                    page.wait_for_timeout(1500)
                    if worked() - before < 0.1:
                        break
                found[picture] = {}
                usual, ended = [], []
                for _ in range(max(2, refreshes // 2)):
                    before = worked()
                    page.wait_for_timeout(3000)  # two looks
                    usual.append((worked() - before) / 2)
                found[picture]["usual"] = statistics.median(usual)
                for _ in range(max(2, refreshes // 4)):
                    params = {"training.optimizer": "adam", "training.batch_size": 8}
                    tell(study, "asked", trial=next_trial, params=params, run="", costs={}, requeued_from=None)
                    tell(study, "ended", trial=next_trial, status="done", values=[0.8], epochs=12, seconds=3.0)
                    next_trial += 1
                    slices = [worked()]
                    for _ in range(16):  # eight looks, at one of which all is drawn anew
                        page.wait_for_timeout(750)
                        slices.append(worked())
                    ended.append(max(late - early for early, late in zip(slices, slices[2:], strict=False)))
                found[picture]["ended"] = statistics.median(ended)
    finally:
        browser.stop_server(server)
    return found


def main() -> None:
    """Measures and writes `results/study_page.json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--refreshes", type=int, default=8)
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
        server, next_trial = on_the_server(study, asked.refreshes, asked.trials)
        print(json.dumps(server, indent=1), flush=True)
        seen = in_the_browser(Path(place), study, asked.refreshes, next_trial)
        fold = time.process_time()
        Study(study.home, study.id).view()
        fold = time.process_time() - fold
    rows = {
        picture: {
            f"{kind}_{where}_s": round(found[picture][kind], 4)
            for kind in ("usual", "ended")
            for where, found in (("server", server), ("browser", seen))
        }
        for picture in PICTURES
    }
    usual = max(row["usual_server_s"] + row["usual_browser_s"] for row in rows.values())
    setting.report(
        "study_page",
        {"trials": asked.trials, "usual_s": round(usual, 3), "first_fold_s": round(fold, 3), "pictures": rows},
    )


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
