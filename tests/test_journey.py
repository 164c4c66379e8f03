"""The whole way in one real browser: demo, one layer more, training, live curves, reload, an answer, stop."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from playwright.sync_api import Locator, Page, expect

from builder.runs import Claim
from tests import browser
from tests.browser import Browser, Server, button, keyed, steady

pytestmark = [
    pytest.mark.browser,
    pytest.mark.keeps_processes,
    pytest.mark.timeout(600),
    pytest.mark.usefixtures("fresh_children"),  # the whole way, from the start of the server on, as a user goes it
]

LONG_MS = 120_000  # what waits for imports of torch in a fresh supervisor, on a machine that tests run on besides
LOSS = ".st-key-curves-loss .scanloom-curves"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("journey")
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


def points(page: Page) -> int:
    return int(page.locator(LOSS).get_attribute("data-points") or 0)


def wait_for_more(page: Page, than: int) -> int:
    page.wait_for_function(f"() => Number(document.querySelector('{LOSS}')?.dataset.points) > {than}", timeout=LONG_MS)
    return points(page)


def zoomed(page: Page) -> list[float]:
    return [float(v) for v in page.evaluate(f"document.querySelector('{LOSS}').layout.xaxis.range")]


def card(page: Page, id: str) -> Locator:
    return page.locator("[data-testid=stRadioGroup] > div").filter(has=page.get_by_text(id, exact=True))


def shape_of(page: Page, id: str) -> Locator:
    return card(page, id).locator("code").first  # while the list is drawn anew, the old one may still stand beside it


def test_from_nothing_to_an_answer_about_a_scan(chrome: Browser, server: Server) -> None:
    page = chrome.page(server.address)
    button(page, "try-recognition").click()
    expect(page.get_by_role("heading", name="Training", level=1)).to_be_visible(timeout=LONG_MS)
    expect(button(page, "start-training")).to_be_enabled(timeout=LONG_MS)

    # The network: one layer more, its shape at once; and a mistake that is mended by its button.
    page.get_by_role("link", name="Network", exact=True).click()
    keyed(page, "network-view").get_by_role("radio", name="List").click(timeout=LONG_MS)
    expect(shape_of(page, "relu_1")).to_be_visible(timeout=LONG_MS)
    before = shape_of(page, "relu_1").text_content()
    card(page, "relu_1").locator("label").click()
    expect(keyed(page, "inspector").get_by_role("heading", name="ReLU")).to_be_visible(timeout=30_000)
    keyed(page, "palette").get_by_text("Regularization").click()  # a group that is shut at first
    button(page, "add:channel_dropout").click()
    expect(shape_of(page, "channel_dropout_1")).to_have_text(before or "", timeout=30_000)
    keyed(page, "palette-search").locator("input").fill("scores")  # found, and drawn, by what it does
    keyed(page, "palette-search").locator("input").press("Enter")
    steady(button(page, "add:class_scores"))
    button(page, "add:class_scores").click()
    expect(page.get_by_text("needs attention")).to_be_visible(timeout=30_000)
    button(page, "undo").click()
    expect(page.get_by_text("needs attention")).to_be_hidden(timeout=30_000)
    expect(shape_of(page, "channel_dropout_1")).to_be_visible()

    # Training: long enough to be watched, begun by the one main button.
    button(page, "to-training").click()
    epochs = keyed(page, "training.epochs").locator("input")
    epochs.fill("5000")  # no machine is through with them before the journey is
    epochs.press("Enter")
    start = button(page, "start-training")
    expect(start).to_be_enabled(timeout=30_000)
    steps = page.evaluate("history.length")
    start.click()
    page.wait_for_url("**/runs?*run=*", timeout=60_000)
    assert page.evaluate("history.length") == steps + 1  # one press, one step back

    # The curve moves, and a zoom stays while points come in.
    page.wait_for_selector(f"{LOSS} .nsewdrag", timeout=LONG_MS)
    grown = wait_for_more(page, 8)
    plot = page.locator(f"{LOSS} .nsewdrag").bounding_box()
    assert plot is not None
    page.mouse.move(plot["x"] + plot["width"] * 0.2, plot["y"] + plot["height"] * 0.5)
    page.mouse.down()
    page.mouse.move(plot["x"] + plot["width"] * 0.7, plot["y"] + plot["height"] * 0.5, steps=8)
    page.mouse.up()
    zoom = zoomed(page)
    grown = wait_for_more(page, max(grown, points(page)))
    assert zoomed(page) == pytest.approx(zoom)

    # A reload loses nothing.
    address = page.url
    page.reload()
    assert wait_for_more(page, 0) >= grown
    assert page.url == address

    # A scan is answered by the best network so far, while the training goes on.
    button(page, "to-test").click(timeout=LONG_MS)
    button(page, "take-test-scan").click(timeout=LONG_MS)
    answer = keyed(page, "answer")
    expect(answer).to_be_visible(timeout=LONG_MS)
    expect(answer.get_by_text("Its label is")).to_be_visible()
    expect(answer.locator(".js-plotly-plot .bars .point")).to_have_count(3, timeout=30_000)
    seen = keyed(page, "as-seen")
    expect(seen.locator("img")).to_have_count(2)
    expect(seen.get_by_text("(Grad-CAM)")).to_be_visible()

    # Two parts of it are covered, one after the other.
    cover = keyed(page, "cover-card")
    canvas = cover.locator("canvas").last
    canvas.scroll_into_view_if_needed()
    corner = canvas.bounding_box()
    assert corner is not None
    for words in ("Ask with it covered", "Ask with each of 2 covered"):
        page.mouse.move(corner["x"] + 20, corner["y"] + 20)
        page.mouse.down()
        page.mouse.move(corner["x"] + 120, corner["y"] + 90, steps=4)
        page.mouse.up()
        expect(button(page, "ask-covered")).to_contain_text(words)
        expect(button(page, "ask-covered")).to_be_enabled()
        corner["y"] += 110
    button(page, "ask-covered").click()
    expect(cover.get_by_text("Box 2: ")).to_be_visible(timeout=LONG_MS)

    # Stopped only after asking; then its state is told, and it can be resumed.
    button(page, "to-run").click()
    button(page, "stop-run").click(timeout=LONG_MS)
    button(page, "really-stop").click()
    expect(button(page, "resume-run")).to_be_visible(timeout=LONG_MS)
    expect(page.get_by_text("Stopped at epoch")).to_be_visible()

    assert chrome.foreign(server.address) == []
    # A picture that a later run of the page replaced before the browser fetched it: Streamlit has dropped it by then.
    overtaken = ("404", "Image source error")
    assert [text for text in chrome.complaints if not any(words in text for words in overtaken)] == []
    assert "Traceback" not in server.output
    page.close()
