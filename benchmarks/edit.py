"""How long a page edit takes until the new shapes stand in the list, for a network of 60 layers, in a real Chromium.

    .venv/bin/python benchmarks/edit.py [--layers 60] [--rounds 10]

Measured in the page, from the key press or click until the new shapes stand on screen; server, planner and browser are
all in it. It starts its own server in a data folder of its own and ends it, and writes results/edit.json.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import setting  # noqa: E402

from builder.spec import Choice, Data, Experiment, Node, Training  # noqa: E402

PROMISED_MS = 300

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]


def deep(num_layers: int) -> Experiment:
    """A plain network of `num_layers` layers, of which the first decides the channels of none and the last of two."""
    names = ("conv2d", "batch_norm", "relu")
    nodes: list[Node] = []
    for k in range(num_layers - 2):
        name = names[k % 3]
        params = {"out_channels": 16} if name == "conv2d" else {}
        nodes.append(Node(id=f"{name}_{k + 1}", name=name, params=params))
    nodes += [Node(id="pool", name="global_pool"), Node(id="scores", name="class_scores")]
    training = Training(optimizer=Choice(name="adamw"))
    return Experiment(name="deep", data=Data(size_px=64), network=tuple(nodes), training=training)


CLOCK = """for (const kind of ['keydown', 'click'])
  addEventListener(kind, () => { window.pressedAt = performance.now() }, true)"""


def timed(page: Any, act: Callable[[], None], shown: str) -> float:
    """Milliseconds from the key press or click of `act` until the JavaScript expression `shown` is true in the page."""
    act()
    waiting = f"""new Promise((done, fail) => {{ const look = () => ({shown})
        ? done(performance.now() - window.pressedAt)
        : performance.now() - window.pressedAt > 30000 ? fail(new Error('never: ' + {json.dumps(shown)}))
        : requestAnimationFrame(look); look() }})"""
    return float(page.evaluate(waiting))


CARDS = "[...document.querySelectorAll('.st-key-layers [data-testid=stRadioGroup]>div')]"


OPEN = f"{CARDS}.findIndex(card => card.dataset.selected === 'true')"


def code(id: str) -> str:
    """JavaScript for the shape on the card of a layer."""
    return f"{CARDS}.find(card => card.querySelector('label span span, label p span')?.textContent === '{id}')?.querySelector('code')?.textContent"  # noqa: E501


def card(page: Any, id: str) -> Any:
    """What is clicked to open a layer."""
    return page.locator("[data-testid=stRadioOption]").filter(has=page.get_by_text(id, exact=True))


def spread(found: list[float]) -> dict[str, float]:
    """Median, 95th percentile and worst of some times, in whole milliseconds."""
    ordered = sorted(found)
    return {
        "median": round(statistics.median(ordered)),
        "p95": round(ordered[math.ceil(0.95 * len(ordered)) - 1]),
        "worst": round(ordered[-1]),
        "num": len(ordered),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=10)
    chosen = parser.parse_args()
    if CHROMIUM is None:
        sys.exit("This needs Chromium on the PATH.")
    from playwright.sync_api import sync_playwright

    folder = Path(tempfile.mkdtemp(prefix="scanloom-edit-"))
    os.environ["SCANLOOM_HOME"] = str(folder)
    os.environ["SCANLOOM_IDLE_S"] = "2"  # the supervisor that the server starts leaves by itself
    from pages.kit.draft import Draft

    draft = Draft.create(deep(chosen.layers), at_home=folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", str(port)),
            *("--server.address", "127.0.0.1", "--server.headless", "true"),
        ],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    times: dict[str, list[float]] = {
        "number": [],
        "open": [],
        "add": [],
        "add after add": [],
        "move": [],
        "delete": [],
        "undo": [],
    }
    try:
        for _ in range(200):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=1)
                break
            except OSError:
                time.sleep(0.1)
        with sync_playwright() as play:
            browser = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            page = browser.new_page(viewport={"width": 1400, "height": 950})
            page.add_init_script(CLOCK)
            page.goto(f"http://127.0.0.1:{port}/network?draft={draft.id}")
            page.locator(".st-key-network-view").get_by_text("List", exact=True).click(timeout=90_000)
            card(page, "scores").wait_for(timeout=90_000)
            page.wait_for_timeout(1500)
            card(page, "conv2d_1").click()
            page.locator(".st-key-palette").get_by_text("Activation", exact=True).click()  # shut at first
            box = page.locator("[class*='st-key-network-conv2d_1-params-out_channels'] input")
            box.wait_for()
            page.wait_for_timeout(500)
            for k in range(chosen.rounds):
                channels = 20 + k
                box.fill(str(channels))
                times["number"].append(
                    timed(page, lambda: box.press("Enter"), f"{code('conv2d_1')} === '{channels} x 64 x 64'")
                )
                page.wait_for_timeout(700)
            for k in range(chosen.rounds):
                id = "conv2d_4" if k % 2 else "conv2d_7"
                opened = f"document.querySelector('[class*=\"st-key-network-{id}-params-out_channels\"] input')"
                times["open"].append(timed(page, card(page, id).click, f"!!{opened}"))
                page.wait_for_timeout(500)
            num = f"{CARDS}.length"
            for _ in range(chosen.rounds):
                here, above = page.evaluate(num), page.evaluate(OPEN)
                times["add"].append(
                    timed(page, page.locator(".st-key-add-relu button:visible").first.click, f"{num} === {here + 1}")
                )
                page.wait_for_function(f"{OPEN} === {above + 1}")
                page.wait_for_timeout(500)
                again = page.locator(".st-key-add-relu button:visible").first
                times["add after add"].append(timed(page, again.click, f"{num} === {here + 2}"))
                page.wait_for_function(f"{OPEN} === {above + 2}")
                page.wait_for_timeout(500)
                place = page.evaluate(OPEN)
                times["move"].append(
                    timed(page, page.locator(".st-key-up-layer button:visible").click, f"{OPEN} === {place - 1}")
                )
                page.wait_for_timeout(500)
                times["delete"].append(
                    timed(page, page.locator(".st-key-delete-layer button:visible").click, f"{num} === {here + 1}")
                )
                page.wait_for_timeout(500)
                times["undo"].append(
                    timed(page, page.locator(".st-key-undo button:visible").first.click, f"{num} === {here + 2}")
                )
                page.wait_for_timeout(500)
                page.locator(".st-key-undo button:visible").first.click()  # the move
                page.wait_for_timeout(700)
                for left in (here + 1, here):
                    timed(page, page.locator(".st-key-undo button:visible").first.click, f"{num} === {left}")
                    page.wait_for_timeout(500)
                page.wait_for_timeout(500)
            chromium = browser.version
            browser.close()
    finally:
        server.terminate()
        server.wait(20)
        shutil.rmtree(folder, ignore_errors=True)
    told = {name: spread(found) for name, found in times.items()}
    setting.report(
        "edit",
        {
            "promise": f"a page edit shows its new shapes in under {PROMISED_MS} ms (median), list of layer cards",
            "layers": chosen.layers,
            "streamlit": version("streamlit"),
            "chromium": chromium,
            "ms": told,
            "passed": all(found["median"] < PROMISED_MS for found in told.values()),
        },
    )


if __name__ == "__main__":
    main()
