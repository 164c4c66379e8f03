"""The live view, measured: `python benchmarks/live.py [--updates 60] [--soak-minutes 0] [--only NAME ...]`.

* update: what an update of the Runs page costs the server to prepare for 3 runs of 100,000 points each, 20 new points
  in each update (draw the lines, as JSON), and what the first drawing costs.
* latency: from the moment a number is appended to the run's events to the moment Chromium has drawn its point (the
  first animation frame after the chart holds it), while the chart is zoomed; whether the zoom stayed and the chart was
  mounted once.
* watched: the processor time of a training over what is left of it without all that is done to look at it (numbers,
  film, board, record on disk), within one and the same run.
* soak: memory of the server process and of the page's JavaScript over the given minutes, four numbers a second, sampled
  forty times. A line is laid through the samples of the second half. Noise, of what is measured: `noise_mb`, the
  standard deviation of the samples about that line, and `slope_error_mb_per_minute`, the standard error that this
  noise gives the slope. Growth beyond noise is a slope of more than twice its standard error (19 times in 20, noise
  alone makes no such slope). What is kept of a number told is growth like any other. `growth_mb` is what the slope
  comes to in the second half. Beside it, in the same minutes and sampled at the same moments, stands `silent`: another
  server and the page of a run with as many numbers, which asks as often and to which nothing is told. What grows there,
  too, is of asking and drawing, not of the numbers. (Where nothing asks, at the page of a run that has ended, neither
  changes by 0.01 MB in half a minute.) The browser of a soak does not compile JavaScript: machine code comes and goes
  by half a megabyte at a time, as V8 likes, and would hide what the page itself keeps.

The browser parts start their own server in a data folder of their own and end it. Results go to results/live.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import setting  # noqa: E402

from builder.growing import Growing  # noqa: E402
from builder.runs import RunView  # noqa: E402

NAMES = ("update", "latency", "watched", "soak")
_UNCOMPILED = ("--js-flags=--no-opt --no-maglev --no-sparkplug --no-flush-bytecode",)
_WATCH = """(selector) => {
    window.seen = {}
    const look = () => {
        requestAnimationFrame(look)
        const chart = document.querySelector(selector)
        const trace = (chart?.data ?? []).find((t) => t.uid?.endsWith('step_2floss-raw'))
        const last = Math.round((trace?.x?.at(-1) ?? 0) * 20)
        if (last && !window.seen[last]) window.seen[last] = Date.now() / 1000
    }
    look()
}"""


def update(updates: int) -> dict[str, Any]:
    """Seconds to prepare one update of three runs with 100,000 points each, each with a score beside the losses."""
    from pages.kit import curves

    num, new = 100_000, 20
    chance = np.random.default_rng(0)
    lists = []
    for _ in range(3):
        values = (1 / (1 + 1e-4 * np.arange(num)) + chance.normal(0, 0.02, num)).tolist()
        steps = Growing(int, range(num))  # told together, so they share their steps
        lists.append({name: (steps, Growing(float, values)) for name in ("step/loss", "train/loss", "val/auc")})

    def short(value: float) -> float:  # as the component sends it
        return float(f"{value:.5g}")

    def once() -> tuple[float, float, int, int]:
        began, began_cpu = time.perf_counter(), time.process_time()
        views = [RunView(id=f"r{k}", status="running", total=num, epochs=50, curves=c) for k, c in enumerate(lists)]
        names = [["step/loss", "train/loss"], ["val/auc"]]
        made = [curves.lines(views, ["a", "b", "c"], n, axis="epoch", smoothing=0.6) for n in names]
        told = [{"x": [short(v) for v in ln.x], "y": [short(v) for v in ln.y]} for ln in [*made[0], *made[1]]]
        text = json.dumps(told)
        took = time.perf_counter() - began, time.process_time() - began_cpu
        return *took, len(text), sum(len(ln.x) for ln in [*made[0], *made[1]])

    first, _, size, points = once()
    took = []
    for _ in range(updates):
        for curves_of in lists:
            for _ in range(new):
                steps = curves_of["step/loss"][0]
                steps.append(len(steps))
                for _, values in curves_of.values():
                    values.append(values[-1])
        took.append(once()[:2])
    return {
        "runs": 3,
        "points_of_a_curve": num,
        "curves_drawn": 9,
        "first_s": round(first, 4),
        "update_s_median": round(statistics.median(wall for wall, _ in took), 4),
        "update_s_p95": _percentile([wall for wall, _ in took], 0.95),
        "update_cpu_s_median": round(statistics.median(cpu for _, cpu in took), 4),
        "update_cpu_s_max": round(max(cpu for _, cpu in took), 4),
        "points_sent": points,
        "kB_sent": round(size / 1000, 1),
        "allowed_s": 0.2,
    }


def _percentile(values: list[float], share: float) -> float:
    return round(float(np.percentile(values, 100 * share)), 3)


@contextmanager
def _served(home: Path, run: Any) -> Iterator[Any]:
    """A server that shows the told runs of `home`; the supervisor of the folder is ended with it."""
    from tests import browser

    server = browser.start_server(home, environment={"OMP_NUM_THREADS": "1"})
    try:
        yield server
    finally:
        browser.stop_server(server)
        run.close()
        browser.end_supervisor(home)


def _opened(chrome: Any, server: Any, run: Any) -> Any:
    """The page of a run, once its curve is drawn."""
    from tests.told_run import LOSS

    page = chrome.page(server.address, f"/runs?run={run.run.id}")
    page.wait_for_selector(f"{LOSS} .nsewdrag", timeout=120_000)
    return page


def watched_page(updates: int, soak_s: float) -> dict[str, Any]:
    """Latency over `updates` numbers under a zoom; then, where `soak_s` is given, memory while numbers come in."""
    from tests import browser
    from tests.told_run import EPOCHS, LOSS, ToldRun, wait_for_step

    def told(home: Path) -> ToldRun:
        run = ToldRun(home, epochs=4000 if soak_s else EPOCHS)  # no number of a soak lies beyond the plan
        # A soak begins where all curves (of steps and of epochs, also smoothed), and the log, are shown at their limit.
        for _ in range(40_000 if soak_s else 40):
            run.tell()
        return run

    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place, ExitStack() as stack:
        run = told(Path(place) / "told")
        server = stack.enter_context(_served(Path(place) / "told", run))
        chrome = stack.enter_context(browser.chromium(height=1100, flags=_UNCOMPILED if soak_s else ()))
        page = _opened(chrome, server, run)
        if soak_s:
            silent = told(Path(place) / "silent")
            beside = stack.enter_context(_served(Path(place) / "silent", silent))
            still = _opened(chrome, beside, silent)
            page.bring_to_front()
        page.wait_for_timeout(15_000)  # the server's own imports are over
        if updates:
            plot = page.locator(f"{LOSS} .nsewdrag").bounding_box()
            assert plot is not None
            page.mouse.move(plot["x"] + plot["width"] * 0.2, plot["y"] + plot["height"] * 0.5)
            page.mouse.down()
            page.mouse.move(plot["x"] + plot["width"] * 0.7, plot["y"] + plot["height"] * 0.5, steps=6)
            page.mouse.up()
            reach = f"[...document.querySelector('{LOSS}').layout.xaxis.range]"
            zoom = page.evaluate(reach)
            page.evaluate(f"document.querySelector('{LOSS}').marked = true")
            page.evaluate(_WATCH, LOSS)
            chance = np.random.default_rng(1)
            begin = run.step
            for _ in range(updates):
                run.tell()
                page.wait_for_timeout(1000 * float(chance.uniform(0.9, 1.9)))
            wait_for_step(page, run.step)
            page.wait_for_function("(step) => window.seen[step]", arg=run.step)
            seen = {int(step): at for step, at in page.evaluate("window.seen").items()}
            waits = []
            for step in range(begin + 1, run.step + 1):
                later = [at for other, at in seen.items() if other >= step]
                waits.append(min(later) - run.told_at[step])
            found["latency"] = {
                "updates": updates,
                "p50_s": _percentile(waits, 0.5),
                "p95_s": _percentile(waits, 0.95),
                "max_s": round(max(waits), 3),
                "allowed_p95_s": 1.5,
                "zoom_kept": page.evaluate(reach) == zoom,
                "mounted_once": bool(page.evaluate(f"!!document.querySelector('{LOSS}').marked")),
            }
            print(json.dumps(found["latency"]), flush=True)
        if soak_s:
            pairs = {"told": (page, server.process.pid), "silent": (still, beside.process.pid)}
            found["soak"] = _soak(pairs, run, soak_s)
    return found


def _soak(pairs: dict[str, tuple[Any, int]], run: Any, soak_s: float) -> dict[str, Any]:
    """Memory at about forty moments of `soak_s` seconds in which four numbers a second come in to the page `told` and
    none to the page `silent`; each with the process of its server."""
    page = pairs["told"][0]
    looks = []
    for of, pid in pairs.values():
        devtools = of.context.new_cdp_session(of)
        devtools.send("Performance.enable")
        looks.append((psutil.Process(pid), devtools))
    rows: list[list[float]] = []
    began, every = time.monotonic(), max(10.0, soak_s / 40)
    due = 0.0
    while (now := time.monotonic() - began) < soak_s:
        run.tell()
        if now >= due:
            due += every
            row = [now / 60]
            for process, devtools in looks:
                devtools.send("HeapProfiler.collectGarbage")
                told = {m["name"]: m["value"] for m in devtools.send("Performance.getMetrics")["metrics"]}
                row += [process.memory_info().rss / 1e6, told["JSHeapUsedSize"] / 1e6]
            rows.append(row)
            print(" ".join(f"{mb:.2f}" for mb in row), flush=True)
        page.wait_for_timeout(250)
    table = np.array(rows)
    late = table[len(table) // 2 :]  # what is loaded once is loaded by then

    def about(column: int) -> dict[str, Any]:
        slope, level = np.polyfit(late[:, 0], late[:, column], 1)
        noise = float((late[:, column] - (slope * late[:, 0] + level)).std())
        spread = float(np.sqrt(((late[:, 0] - late[:, 0].mean()) ** 2).sum()))
        error = noise * np.sqrt(len(late) / (len(late) - 2)) / spread  # of the slope, from the residuals
        return {
            "first_mb": round(float(table[0, column]), 1),
            "middle_mb": round(float(late[0, column]), 1),
            "last_mb": round(float(table[-1, column]), 1),
            "growth_mb_per_minute_second_half": round(float(slope), 4),
            "slope_error_mb_per_minute": round(float(error), 4),
            "growth_mb": round(float(slope * (late[-1, 0] - late[0, 0])), 2),
            "noise_mb": round(noise, 2),
            "beyond_noise": bool(slope > 2 * error),
            "samples_mb": " ".join(f"{mb:.2f}" for mb in table[:, column]),
        }

    head = {"minutes": round(soak_s / 60, 1), "numbers_told": run.step}
    of = {"server": about(1), "page": about(2)}
    return {**head, **of, "silent": {"server": about(3), "page": about(4)}}


def watched(repeats: int) -> dict[str, Any]:
    """CPU seconds of a training over those that are left without everything that is done to look at it: numbers told,
    the film, the board, the record on disk. Both within one run, so that other load falls on both alike."""
    import torch

    from builder import board, task, train
    from builder.film import Film
    from builder.learner import Learner
    from builder.runs import Finished, Pictured, Record, RunStore
    from tests.tiny_runs import small_set

    torch.set_num_threads(1)
    spent = {"cpu": 0.0}

    def counted(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def call(*args: Any, **more: Any) -> Any:
            began = time.process_time()
            try:
                return real(*args, **more)
            finally:
                spent["cpu"] += time.process_time() - began

        setattr(owner, name, call)

    for owner, name in ((Film, "take"), (Film, "frame"), (Learner, "look"), (board.Board, "add"), (Record, "append")):
        counted(owner, name)
    found = []
    with tempfile.TemporaryDirectory() as place:
        home = Path(place) / "home"
        dataset = small_set(home, "recognition", Path(place) / "scans")
        of = task.find("recognition")
        starter = next(s for s in of.starters() if s.name == next(iter(of.demos.values())))
        document = starter.replace("data.size_px", 96).replace("training.epochs", 25)
        document = document.replace("data.dataset", dataset.id)
        for repeat in range(repeats + 1):  # the first one imports
            run = RunStore(home).create(document, queue=False)
            shown = board.Board(run.folder, 1, dataset.classes)
            pictures, whole, looking = 0, 0.0, 0.0
            spent["cpu"], began = 0.0, time.process_time()
            with Record(run.folder / "events.jsonl") as record:
                for event in train.train(document, of, dataset, run.folder, device="cpu"):
                    record.append(event)
                    if isinstance(event, Finished):  # the board's last picture comes when nothing waits for it
                        whole, looking = time.process_time() - began, spent["cpu"]
                    shown.add(event)
                    pictures += isinstance(event, Pictured)
            shown.close()
            if repeat:
                found.append((whole, whole / (whole - looking), pictures))
    return {
        "repeats": repeats,
        "run_cpu_s": round(statistics.median(row[0] for row in found), 2),
        "pictures_in_the_film": [row[2] for row in found],
        "ratio_median": round(statistics.median(row[1] for row in found), 4),
        "ratios": [round(row[1], 4) for row in found],
        "allowed": 1.02,
    }


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--updates", type=int, default=60)
    asked.add_argument("--repeats", type=int, default=5)
    asked.add_argument("--soak-minutes", type=float, default=0.0)
    asked.add_argument("--only", nargs="*", default=list(NAMES), choices=NAMES)
    chosen = asked.parse_args()
    path = setting.RESULTS / "live.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    found = {name: known[name] for name in NAMES if name in known}
    if "update" in chosen.only:
        found["update"] = update(chosen.updates)
    if "watched" in chosen.only:
        found["watched"] = watched(chosen.repeats)
    if "latency" in chosen.only or ("soak" in chosen.only and chosen.soak_minutes):
        updates = chosen.updates if "latency" in chosen.only else 0
        found |= watched_page(updates, 60 * chosen.soak_minutes if "soak" in chosen.only else 0.0)
    found["streamlit"] = version("streamlit")
    found["cores_in_use_by_others"] = round(os.getloadavg()[0], 1)
    setting.report("live", found)


if __name__ == "__main__":
    main()
