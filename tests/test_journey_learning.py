"""How it learns, in one real browser: augmentation designed on a scan, a start, a warning, its cure, the comparison."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from builder.runs import Claim
from tests import browser
from tests.browser import Browser, Server, button, keyed

pytestmark = [pytest.mark.browser, pytest.mark.keeps_processes, pytest.mark.timeout(600)]

LONG_MS = 120_000  # what waits for imports of torch in a fresh supervisor, on a machine that tests run on besides


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("learning")
    running = browser.start_server(home)
    yield running
    browser.stop_server(running)
    browser.end_supervisor(home)
    for path in home.glob("*/*/claim.json"):  # a worker outlives its supervisor by design
        claim = Claim.read(path)
        if claim is not None and claim.alive:
            os.kill(claim.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def chrome(chromium: str) -> Iterator[Browser]:
    with browser.chromium(height=1100) as opened:
        yield opened


def number(page: Page, path: str, value: str) -> None:
    field = keyed(page, path).locator("input")
    field.fill(value)
    field.press("Enter")


def test_a_rate_that_is_too_high_is_warned_of_cured_and_compared(chrome: Browser, server: Server) -> None:
    page = chrome.page(server.address)
    button(page, "try-recognition").click()
    expect(page.get_by_role("heading", name="Training", level=1)).to_be_visible(timeout=LONG_MS)

    # The augmentation is designed on a scan of one's own: one operation more, and the pictures follow.
    button(page, "show-varied").click(timeout=LONG_MS)
    stage = keyed(page, "stage")
    expect(stage.locator("img").nth(1)).to_be_visible(timeout=LONG_MS)
    before = stage.locator("img").nth(1).get_attribute("src")
    page.locator("[class*=st-key-operation-off-]:visible").first.locator("label").first.click()
    expect(stage.locator("img").nth(1)).not_to_have_attribute("src", before or "", timeout=LONG_MS)

    # A rate a thousand times too high is a user's choice; the first looks into the layers say what comes of it.
    number(page, "training.optimizer.params.lr", "10")
    number(page, "training.epochs", "4")
    start = button(page, "start-training")
    expect(start).to_be_enabled(timeout=30_000)
    start.click()
    page.wait_for_url("**/runs?*run=*", timeout=60_000)
    ill = page.url.rsplit("run=", 1)[1]
    warned = keyed(page, "finding-rate-high")
    expect(warned).to_be_visible(timeout=LONG_MS)
    expect(warned).to_contain_text("rate")

    # One press begins the cured run and lays it over the ill one, with what differs in words.
    button(page, "start-rate-high-0").click()
    page.wait_for_url(re.compile(rf"run=(?!{ill}).+{ill}"), timeout=60_000)
    differs = keyed(page, "differs")
    expect(differs).to_be_visible(timeout=LONG_MS)
    loss = page.locator(".st-key-curves-loss .scanloom-curves")
    page.wait_for_function(
        "() => (document.querySelector('.st-key-curves-loss .scanloom-curves')?.data ?? [])"
        ".filter(t => (t.y ?? []).length > 1).length >= 3",
        timeout=LONG_MS,
    )
    expect(loss).to_be_visible()

    # Both, learned out, are judged on the same scans, with an interval and in words.
    expect(button(page, "stop-run")).to_be_hidden(timeout=LONG_MS)
    button(page, "compare-go").click(timeout=LONG_MS)
    expect(keyed(page, "difference").get_by_role("table")).to_be_visible(timeout=LONG_MS)
    assert chrome.foreign(server.address) == []
    assert "Traceback" not in server.output
    page.close()
