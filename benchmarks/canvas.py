"""How fast the network canvas is at 60 layers, in a real Chromium: painted, answered, dragged, and its memory.

    .venv/bin/python benchmarks/canvas.py [--layers 60] [--rounds 20] [--edits 500]

Measured in the page. "painted": from the event of the gesture (pointer up, key down) until the first frame that shows
it, which waits for no server. "answered": until the new shapes, or the red sentence, stand in the layers; server,
planner and browser are all in it. "frame": the time between two frames while a layer is dragged. "parameter" is painted
by Streamlit's own field; what is measured is the time until its new shapes stand in the layers. Memory is that of the
page after a forced collection, once a quarter of the edits is made and at their end.

It starts its own server in a data folder of its own and ends it. Results: benchmarks/results/canvas.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from builder.spec import Data, Experiment, Node  # noqa: E402

# The clock starts in the event itself; `found` is looked at in every frame from then on.
CLOCK = """
addEventListener('pointerup', () => { window.gestureAt = performance.now() }, true)
addEventListener('keydown', () => { window.gestureAt = performance.now() }, true)
window.inside = () => window.canvasRoot ??=
  [...document.querySelectorAll('*')].find((e) => e.shadowRoot?.querySelector('.nw'))?.shadowRoot
window.card = (id) => window.inside().querySelector(`.react-flow__node[data-id="${id}"]`)
window.shape = (id) => window.card(id)?.querySelector('.nw-shape')?.textContent
window.watch = (found) => { window.seen = new Promise((done) => {
  const old = window.gestureAt
  const look = () => {
    const is = window.gestureAt !== old && found()
    is ? requestAnimationFrame(() => done(performance.now() - window.gestureAt)) : requestAnimationFrame(look) }
  look() }) }
"""


def deep(num_layers: int) -> Experiment:
    """A network of `num_layers` layers: convolution, norm, activation over and over, with a sum after each sixth."""
    nodes: list[Node] = [Node(id="first", name="conv2d", params={"out_channels": 16})]
    names = ("conv2d", "batch_norm", "relu")
    while len(nodes) < num_layers - 2:
        k = len(nodes)
        if k % 7 == 0:
            nodes.append(Node(id=f"n{k}", name="add", inputs=(nodes[-1].id, nodes[-4].id)))
        else:
            name = names[k % 3]
            nodes.append(Node(id=f"n{k}", name=name, params={"out_channels": 16} if name == "conv2d" else {}))
    nodes += [Node(id="pool", name="global_pool"), Node(id="scores", name="class_scores")]
    return Experiment(name="deep", data=Data(size_px=64), network=tuple(nodes))


def spread(found: list[float]) -> dict[str, float]:
    """Median, 95th percentile and worst in ms."""
    ordered = sorted(found)
    p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return {
        "median": round(statistics.median(ordered), 1),
        "p95": round(p95, 1),
        "worst": round(ordered[-1], 1),
        "of": len(ordered),
    }


class Canvas:
    """A page with the network on its canvas."""

    def __init__(self, page: Any, address: str, draft: str):
        self.page = page
        page.add_init_script(CLOCK)
        page.goto(f"{address}/network?draft={draft}")
        page.locator(".react-flow__node[data-id=scores]").wait_for(timeout=120_000)
        page.wait_for_function("() => window.shape('scores') === '2'", timeout=120_000)
        self.rest()

    def rest(self) -> None:
        """Waits until Python has answered all, and a moment longer: one measurement must not lie in another's rerun."""
        self.page.locator(".nw[data-waits=false]").wait_for(timeout=60_000)
        self.page.wait_for_function(
            "() => document.querySelector('[data-testid=stApp]').dataset.testScriptState === 'notRunning'"
        )
        self.page.wait_for_timeout(350)

    def timed(self, act: Callable[[], None], *shown: str) -> list[float]:
        """Milliseconds from the gesture of `act` until each of these JavaScript expressions is true on screen."""
        for number, expression in enumerate(shown):
            self.page.evaluate(f"() => {{ window.watch(() => {expression}); window.seen{number} = window.seen; 0 }}")
        act()
        return [float(self.page.evaluate(f"window.seen{number}")) for number in range(len(shown))]

    def middle(self, place: Any) -> tuple[float, float]:
        place.scroll_into_view_if_needed()
        box = place.bounding_box()
        return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def gestures(canvas: Canvas, rounds: int) -> dict[str, list[float]]:
    """Adds by drop onto a wire, deletes by key, types a number that breaks a sum and one that mends it, undoes."""
    page, times = canvas.page, {}
    item = page.locator(".nw-item[data-layer=relu]")

    def note(name: str, found: list[float]) -> None:
        for kind, value in zip(("painted", "answered"), found, strict=False):
            times.setdefault(f"{name} {kind}", []).append(value)

    for k in range(rounds):
        id = f"relu_{k + 1}"
        wire = canvas.middle(page.locator(".react-flow__edge[data-id='n2>n3'] .react-flow__edge-interaction"))
        x, y = canvas.middle(item)
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(*wire, steps=6)
        note("add", canvas.timed(page.mouse.up, f"!!window.card('{id}')", f"/^16/.test(window.shape('{id}') ?? '')"))
        canvas.rest()
        page.locator(f".react-flow__node[data-id={id}]").focus()
        answered = "window.inside().querySelector('.nw').dataset.waits === 'false'"
        note("delete", canvas.timed(lambda: page.keyboard.press("Delete"), f"!window.card('{id}')", answered))
        canvas.rest()
        note("undo", canvas.timed(lambda: page.keyboard.press("Control+z"), f"!!window.card('{id}')", answered))
        canvas.rest()
        page.keyboard.press("Control+z")
        page.wait_for_function(f"() => !window.card('{id}')")
        canvas.rest()

    page.locator(".react-flow__node[data-id=n6]").click(position={"x": 20, "y": 10})
    field = page.locator("[class*='st-key-network-n6-params-out_channels'] input")
    field.wait_for()
    canvas.rest()
    for k in range(rounds):
        broken = k % 2 == 0
        field.fill(str(16 + 8 * broken))
        shown = (
            "window.card('n7').querySelector('.nw-wrong.error')" if broken else "window.shape('n7') === '16 × 64 × 64'"
        )
        found = canvas.timed(lambda: field.press("Enter"), f"!!({shown})")
        times.setdefault("red sentence answered" if broken else "parameter answered", []).append(found[0])
        canvas.rest()
    for k in range(rounds):
        id = f"n{8 + 3 * (k % 2)}"
        card = page.locator(f".react-flow__node[data-id={id}]")
        form = f"!!document.querySelector('.st-key-form-of-{id} label')"
        picked = f"window.card('{id}').classList.contains('selected')"
        note("open", canvas.timed(lambda c=card: c.click(position={"x": 20, "y": 10}), picked, form))
        canvas.rest()
    return times


def frames(canvas: Canvas, rounds: int) -> list[float]:
    """Times between frames while a layer of the middle is dragged about."""
    page, found = canvas.page, []
    for _ in range(max(2, rounds // 4)):
        x, y = canvas.middle(page.locator(".react-flow__node[data-id=n30]"))
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 4, y + 4)
        page.evaluate(
            "() => { window.frames_ = []; let last = 0; window.going = true\n"
            "const step = (now) => { if (last) window.frames_.push(now - last); last = now;"
            " if (window.going) requestAnimationFrame(step) }; requestAnimationFrame(step); 0 }"
        )
        for step in range(40):
            page.mouse.move(x + 3 * step * (1 if step % 2 else 0.9), y + 2 * step)
        found += page.evaluate("() => { window.going = false; return window.frames_ }")
        page.mouse.up()
        canvas.rest()
        page.keyboard.press("Control+z")
        canvas.rest()
    return [float(f) for f in found]


def memory(canvas: Canvas, edits: int) -> dict[str, Any]:
    """The page's heap, DOM nodes and listeners after a quarter of the edits and after all."""
    page = canvas.page
    tools = page.context.new_cdp_session(page)
    tools.send("Performance.enable")
    tools.send("HeapProfiler.enable")

    def now() -> dict[str, float]:
        canvas.rest()
        tools.send("HeapProfiler.collectGarbage")
        told = {m["name"]: m["value"] for m in tools.send("Performance.getMetrics")["metrics"]}
        return {
            "heap_mb": round(told["JSHeapUsedSize"] / 1e6, 2),
            "nodes": told["Nodes"],
            "listeners": told["JSEventListeners"],
        }

    page.locator(".react-flow__node[data-id=n9]").click(position={"x": 20, "y": 10})
    found: dict[str, Any] = {"start": now()}
    for k in range(edits // 2):
        page.locator(".nw-item[data-layer=relu]").evaluate("e => e.click()")
        page.wait_for_timeout(60)
        page.keyboard.press("Control+z")
        page.wait_for_timeout(60)
        if k == edits // 8:
            found["quarter"] = now()
    found["end"] = now()
    found["edits"] = edits
    found["mounts"] = page.evaluate("window.scanloomNetworkMounts")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--edits", type=int, default=500)
    chosen = parser.parse_args()
    from tests import browser

    with tempfile.TemporaryDirectory(prefix="scanloom-canvas-") as folder:
        home = Path(folder)
        os.environ["SCANLOOM_HOME"] = folder
        os.environ["SCANLOOM_IDLE_S"] = "2"
        from pages.kit.draft import Draft

        draft = Draft.create(deep(chosen.layers), at_home=home)
        server = browser.start_server(home)
        try:
            with browser.chromium(width=1400, height=900) as chrome:
                canvas = Canvas(chrome.context.new_page(), server.address, draft.id)
                time.sleep(8)  # what the server warms after its start
                load = os.getloadavg()[0]
                times = gestures(canvas, chosen.rounds)
                times["drag frame"] = frames(canvas, chosen.rounds)
                told: dict[str, Any] = {"layers": chosen.layers, "load_at_start": round(load, 2)}
                told["ms"] = {name: spread(found) for name, found in times.items()}
                for name, found in told["ms"].items():
                    print(f"{name:24s} {found}", flush=True)
                told["memory"] = memory(canvas, chosen.edits)
        finally:
            browser.stop_server(server)
            browser.end_supervisor(home)
    print(json.dumps(told["memory"]))
    told = {
        "benchmark": "canvas",
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} cores, {platform.system()}, no GPU (SwiftShader)",
        **told,
    }
    folder = ROOT / "benchmarks" / "results"
    (folder / "canvas.json").write_text(json.dumps(told, indent=2) + "\n")


if __name__ == "__main__":
    main()
