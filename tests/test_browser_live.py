"""The live curve in a real browser, point by point: a zoom that stays, a reload, a second tab, a killed server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, WebSocket
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

from tests import browser
from tests.browser import Browser, settle
from tests.told_run import LOSS, PER_EPOCH, ToldRun, shown_steps, wait_for_step

pytestmark = [pytest.mark.browser, pytest.mark.keeps_processes, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def chrome(chromium: str) -> Iterator[Browser]:
    with browser.chromium(height=1100) as opened:
        yield opened


def told(run: ToldRun, page: Page, num: int = 3) -> list[int]:
    """Tells a few steps more and returns what the page then shows."""
    for _ in range(num):
        run.tell()
    wait_for_step(page, run.step)
    return shown_steps(page)


def test_a_hover_a_zoom_a_reload_a_second_tab_and_a_killed_server_leave_the_same_curve_without_a_hole(
    chrome: Browser, tmp_path: Path
) -> None:
    run = ToldRun(tmp_path)
    for _ in range(50):
        run.tell()
    server = browser.start_server(tmp_path)
    port = int(server.address.rsplit(":", 1)[1])
    try:
        page = chrome.page(server.address, f"/runs?run={run.run.id}")
        page.wait_for_selector(f"{LOSS} .nsewdrag", timeout=90_000)
        assert told(run, page) == list(range(1, run.step + 1))

        page.evaluate(f"document.querySelector('{LOSS}').marked = true")
        plot = page.locator(f"{LOSS} .nsewdrag").bounding_box()
        assert plot is not None
        box = f"document.querySelector('{LOSS} .hoverlayer').textContent"
        for nudge in (0, 2):
            page.mouse.move(plot["x"] + plot["width"] * 0.9 + nudge, plot["y"] + plot["height"] * 0.5)
        page.wait_for_function(f"{box} !== ''")
        for _ in range(3):  # the mouse rests: the box stays, and tells what is under it by then
            before = page.evaluate(box)
            for _ in range(20):  # the axis goes on in steps: until then the same point may lie under the mouse
                told(run, page)
                page.wait_for_function(f"{box} !== ''")
                if page.evaluate(box) != before:
                    break
            assert page.evaluate(box) not in ("", before)

        page.mouse.move(plot["x"] + plot["width"] * 0.2, plot["y"] + plot["height"] * 0.5)
        page.mouse.down()
        page.mouse.move(plot["x"] + plot["width"] * 0.7, plot["y"] + plot["height"] * 0.5, steps=6)
        page.mouse.up()
        zoom = page.evaluate(f"[...document.querySelector('{LOSS}').layout.xaxis.range]")
        for _ in range(3):
            told(run, page)
        assert page.evaluate(f"[...document.querySelector('{LOSS}').layout.xaxis.range]") == zoom
        assert page.evaluate(f"document.querySelector('{LOSS}').marked"), "the chart was mounted anew"
        # What Streamlit marks to time itself is not kept for as long as somebody watches.
        page.wait_for_function("performance.getEntriesByName('notRunning').length === 0")

        second = chrome.page(server.address, f"/runs?run={run.run.id}")
        wait_for_step(second, run.step)
        assert told(run, second) == list(range(1, run.step + 1))
        wait_for_step(page, run.step)
        second.close()

        page.reload()
        wait_for_step(page, run.step)
        assert shown_steps(page) == list(range(1, run.step + 1))

        server.kill()
        for _ in range(7):  # the training goes on without a server
            run.tell()
        server = browser.start_server(tmp_path, port=port)
        wait_for_step(page, run.step, timeout_ms=120_000)
        settle(page)
        assert told(run, page) == list(range(1, run.step + 1))
    finally:
        browser.stop_server(server)
        run.close()
        browser.end_supervisor(tmp_path)


def test_the_end_of_a_long_run_is_shown_step_by_step(chrome: Browser, tmp_path: Path) -> None:
    run = ToldRun(tmp_path, epochs=1500)
    for _ in range(20_003):
        run.tell()
    server = browser.start_server(tmp_path)
    try:
        page = chrome.page(server.address, f"/runs?run={run.run.id}")
        wait_for_step(page, run.step)
        assert told(run, page)[-1] == run.step == 20_006  # 1000.3 epochs
        assert told(run, page, 1)[-1] == run.step == 20_007  # 1000.35: five digits are too few
        page.close()
    finally:
        browser.stop_server(server)
        run.close()
        browser.end_supervisor(tmp_path)


def test_the_zoom_is_neither_that_of_another_run_nor_of_other_heights(chrome: Browser, tmp_path: Path) -> None:
    runs = [ToldRun(tmp_path, name, epochs) for name, epochs in (("long", 50), ("short", 5))]
    for run in runs:
        for _ in range(run.epochs * PER_EPOCH):
            run.tell()
        run.close()
    server = browser.start_server(tmp_path)
    axes = f"(({{xaxis, yaxis}}) => [xaxis.range[0], yaxis.range[0]])(document.querySelector('{LOSS}')._fullLayout)"
    try:
        page = chrome.page(server.address, f"/runs?run={runs[0].run.id}")
        page.wait_for_selector(f"{LOSS} .nsewdrag", timeout=90_000)
        settle(page)
        plot = page.locator(f"{LOSS} .nsewdrag").bounding_box()
        assert plot is not None
        middle = plot["y"] + plot["height"] / 2
        page.mouse.move(plot["x"] + plot["width"] * 0.6, middle - 60)
        page.mouse.down()
        page.mouse.move(plot["x"] + plot["width"] * 0.8, middle + 40, steps=5)
        page.mouse.up()
        page.wait_for_function(f"{axes}[0] > 25 && {axes}[1] > 0.1")
        page.get_by_text("Log. loss").click()  # a loss of 0.3 is no longer 10 to the 0.3
        page.wait_for_function(f"{axes}[0] > 25 && {axes}[1] < -1")
        browser.button(page, f"only-{runs[1].run.id}").click()
        page.wait_for_function(f"{axes}[0] < 1")
        page.close()
    finally:
        browser.stop_server(server)
        browser.end_supervisor(tmp_path)


def test_the_browser_keeps_no_drawing_of_the_past(chrome: Browser, tmp_path: Path) -> None:
    """Streamlit's browser part keeps large messages, to be spared them the next time. Where a look of a live part takes
    longer than the time to the next one, as on a machine that trains, it lets go of none: 1.4 MB a minute, and the list
    of them in each request."""
    run = ToldRun(tmp_path, epochs=100)
    for _ in range(1500):
        run.tell()
    server = browser.start_server(tmp_path)
    came: list[ForwardMsg] = []
    listed: list[int] = []

    def look(socket: WebSocket) -> None:
        socket.on("framereceived", lambda frame: came.append(ForwardMsg.FromString(frame)))  # type: ignore[arg-type]
        socket.on("framesent", lambda frame: asked(BackMsg.FromString(frame)))  # type: ignore[arg-type]

    def asked(message: BackMsg) -> None:
        if message.WhichOneof("type") == "rerun_script":
            listed.append(len(message.rerun_script.cached_message_hashes))

    page = chrome.context.new_page()
    try:
        page.on("websocket", look)
        page.goto(f"{server.address}/runs?run={run.run.id}")
        page.wait_for_selector(f"{LOSS} .nsewdrag", timeout=90_000)
        for _ in range(2):
            run.tell()
            wait_for_step(page, run.step)
        large = [message for message in came if message.ByteSize() > 10_000]
        assert len(large) >= 3 and not any(message.metadata.cacheable for message in large)
        assert len(listed) >= 3 and not any(listed)
    finally:
        page.close()
        browser.stop_server(server)
        run.close()
        browser.end_supervisor(tmp_path)
