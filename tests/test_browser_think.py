"""On your scan, in a real browser with a real worker: look, follow the canvas, step through, zoom into the graph."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from builder.spec import Data, Experiment, Node
from pages.kit.draft import Draft
from tests import browser
from tests.browser import Browser, keyed, settle

pytestmark = [pytest.mark.browser, pytest.mark.keeps_processes, pytest.mark.slow]

WAIT_MS = 90_000  # a cold supervisor imports torch first
NETWORK = Experiment(
    name="few",
    data=Data(size_px=32),
    network=(
        Node(id="conv", name="conv2d", params={"out_channels": 6, "stride": 2}),
        Node(id="act", name="relu"),
        Node(id="pool", name="global_pool"),
        Node(id="scores", name="class_scores"),
    ),
)


@pytest.fixture(scope="module")
def chrome(chromium: str) -> Iterator[Browser]:
    with browser.chromium(1500, 1300) as opened:
        yield opened


def test_a_look_follows_the_canvas_and_asks_nobody_outside(chrome: Browser, tmp_path: Path) -> None:
    home = tmp_path / "home"
    draft = Draft.create(NETWORK, at_home=home)
    running = browser.start_server(home)
    try:
        page = chrome.page(running.address, f"/network?draft={draft.id}")
        panel = keyed(page, "think")
        expect(panel).to_contain_text("See what every layer makes of one scan")
        keyed(page, "think-look").get_by_role("button").first.click()
        expect(panel).to_contain_text("Untrained: the weights a training with seed 0 begins with", timeout=WAIT_MS)
        settle(page)
        page.locator(".react-flow__node", has_text="conv").first.click()
        expect(panel).to_contain_text("6 x 16 x 16")
        expect(panel.get_by_alt_text("6 feature maps of conv")).to_be_visible()
        keyed(page, "think-view").get_by_role("radio", name="Step by step").or_(
            keyed(page, "think-view").get_by_role("button", name="Step by step")
        ).first.click()
        expect(panel).to_contain_text(re.compile(r"9 products add up to .* = "))
        page.locator(".react-flow__node", has_text="act").first.click()
        expect(panel).to_contain_text("This layer is neither")
        keyed(page, "think-what").get_by_text("Computational graph").click()
        drawn = keyed(page, "think-graph").locator("image")
        expect(drawn.first).to_be_visible()
        page.mouse.move(5, 5)
        keyed(page, "think-graph").scroll_into_view_if_needed()
        settle(page)
        before = drawn.first.bounding_box()
        box = keyed(page, "think-graph").bounding_box()
        assert before is not None and box is not None
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 200)
        page.mouse.wheel(0, -600)
        page.wait_for_function(
            "([one, width]) => one.getBoundingClientRect().width > 1.05 * width",  # the wheel zooms
            arg=[drawn.first.element_handle(), before["width"]],
        )
        assert chrome.foreign(running.address) == []
    finally:
        browser.stop_server(running)
        browser.end_supervisor(home)
