"""In a real browser: a press is done, and the way that it leads is kept, whatever else the browser asks meanwhile."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests import browser
from tests.browser import ROOT, Browser, Server

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300), pytest.mark.keeps_processes]

APP = '''
import time

import streamlit as st

from pages.kit import late

late.mend()


TELL = st.components.v2.component(
    "late.tell",
    html="<button>Tell</button>",
    js="""
let told = 0
export default ({ parentElement, setStateValue }) => {
  parentElement.querySelector('button').onclick = () => setStateValue('told', ++told)
}
""",
    isolate_styles=False,
)


@st.fragment(run_every=0.1)
def live():
    st.caption("live")


@st.fragment
def part():
    if st.button("Part"):
        time.sleep(0.2)


def first():
    live()
    part()
    TELL(key="tell", on_told_change=lambda: None)  # a component that tells something: no press to the server
    for _ in range(6):  # the press is met late, and each of these would give way
        time.sleep(0.1)
        st.empty()
    if st.button("Go"):
        st.caption("going")
        time.sleep(0.1)
        st.switch_page(SECOND)


def second():
    time.sleep(0.6)
    st.header("The second page")


SECOND = st.Page(second, title="Second")
st.navigation([st.Page(first, title="First", default=True), SECOND]).run()
'''
# The browser is busy, so it sends what is clicked, but does not hear of what the server sends meanwhile.
BUSY = """async ([first, second, forMs]) => {
    const all = [...document.querySelectorAll('button, a')]
    const named = (words) => all.find((e) => e.innerText.trim() === words)
    named(first).click()
    await new Promise((sent) => setTimeout(sent, 10))
    const from = performance.now()
    while (performance.now() - from < forMs);
    named(second).click()
}"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("late")
    script = home / "late_app.py"
    script.write_text(APP)
    running = browser.start_server(home, script=script, environment={"PYTHONPATH": str(ROOT)})
    yield running
    browser.stop_server(running)


@pytest.fixture(scope="module")
def chrome(chromium: str) -> Iterator[Browser]:
    with browser.chromium() as opened:
        yield opened


@pytest.fixture
def page(chrome: Browser, server: Server) -> Iterator[Page]:
    before, opened = len(server.output), chrome.page(server.address)
    try:
        expect(opened.get_by_role("button", name="Go")).to_be_visible()
        browser.settle(opened)
        yield opened
        assert "Traceback" not in server.output[before:]  # of an earlier test's it is told once
    finally:
        opened.close()


# When the other request comes: the press is taken, drawn but not met (600 ms), or the server is at the second page.
@pytest.mark.parametrize(
    ("way", "after_ms", "meanwhile"),
    [
        ("Go", 20, "Tell"),
        ("Go", 300, "Part"),
        ("Go", 1000, "Tell"),
        ("Go", 1000, "Part"),
        ("Go", 1000, "Go"),
        ("Second", 20, "Tell"),
        ("Second", 300, "Part"),
        ("Second", 1000, "Tell"),
    ],
)
def test_a_way_to_another_page_is_gone_whatever_the_first_one_asks(
    page: Page, way: str, after_ms: int, meanwhile: str
) -> None:
    page.evaluate(BUSY, [way, meanwhile, after_ms])
    expect(page.get_by_role("heading", name="The second page")).to_be_visible()
    page.wait_for_timeout(900)  # neither emptied nor turned back by what was under way
    expect(page.get_by_role("heading", name="The second page")).to_be_visible()
    assert page.url.endswith("/second")
    page.go_back()
    expect(page.get_by_role("button", name="Go")).to_be_visible()
    expect(page.get_by_role("heading", name="The second page")).to_be_hidden()
