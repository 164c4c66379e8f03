"""The shell in a real browser: no foreign request, both themes, uploads to disk, curves that keep their zoom."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import forks
import pytest
from made_files import picture
from playwright.sync_api import FileChooser, Locator, Page, expect

from builder.spec import Experiment
from pages.kit import uploads
from pages.kit.draft import Draft
from tests import browser
from tests.browser import Browser, Server, keyed, settle

pytestmark = [pytest.mark.browser, pytest.mark.keeps_processes]

# Streamlit looks for its own health route below a page's path, too, before it asks at the root.
PROBES = ("_stcore/health", "_stcore/host-config")

CURVES = """
import math
import streamlit as st
from scanloom_components import Mark, Series, curves

from pages.kit import late

late.mend()
st.session_state.setdefault("n", 200)

@st.fragment(run_every=0.4)
def live():
    st.session_state.n += 10
    x = list(range(st.session_state.n))
    y = [math.sin(i / 20) + 2 for i in x]
    y[5] = None
    y[7] = math.nan
    zoom = curves(
        [
            Series("run/1 loss", "<b>first</b> <a href='http://evil.example'>x</a>", x, y, 0),
            Series("run/2 loss", "second", x, [v + 1 if v else v for v in y], 1, dash="dot"),
        ],
        key="chart", x_title="step", y_title="loss", view="same", marks=[Mark(50, "best")],
        log=st.session_state.get("log", False),
    )
    st.write(f"n={st.session_state.n} zoom={zoom}")

st.toggle("Log axis", key="log")
live()
"""


@pytest.fixture(scope="module")
def chrome(chromium: str) -> Iterator[Browser]:
    with browser.chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("home")
    browser.idle_supervisor(home)
    running = browser.start_server(home)
    yield running
    browser.stop_server(running)
    browser.end_supervisor(home)


@pytest.fixture(scope="module")
def chart_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("chart")
    (folder / "chart.py").write_text(CURVES)
    running = browser.start_server(folder, script=folder / "chart.py")
    yield running
    browser.stop_server(running)


def dropzone(page: Page) -> Locator:
    """The button of the dropzone, once the dropzone hears what happens to it: until then it is disabled."""
    button = page.get_by_role("button", name="Choose files")
    expect(button).to_be_enabled(timeout=60_000)
    return button


def complaints(chrome: Browser) -> list[str]:
    """What the browser's console complained about, but for Streamlit's probes."""
    return [text for text in chrome.complaints if "404" not in text]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("path", ["/", "/data", "/data?import=1"])
def test_no_page_asks_a_foreign_server_or_breaks_its_own_policy(
    chrome: Browser, server: Server, path: str, dark: bool
) -> None:
    chrome.complaints.clear()
    page = chrome.page(server.address, path, dark=dark)
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    background = page.evaluate("getComputedStyle(document.querySelector('[data-testid=stApp]')).backgroundColor")
    assert background == ("rgb(16, 21, 29)" if dark else "rgb(255, 255, 255)")
    page.wait_for_function("document.fonts.check('15px Inter')")  # it is fetched once a word is drawn with it
    page.close()
    assert chrome.foreign(server.address) == []
    assert any(url.startswith("ws://") for url in chrome.requests), "the request log sees web sockets"
    assert complaints(chrome) == []


def test_only_streamlits_own_probes_are_not_found(chrome: Browser, server: Server) -> None:
    missing: list[str] = []
    page = chrome.context.new_page()
    page.on("response", lambda answer: missing.append(answer.url) if answer.status >= 400 else None)
    page.goto(server.address + "/data")
    settle(page)
    page.close()
    assert [url for url in missing if not url.endswith(PROBES)] == []


def test_a_dropped_folder_goes_to_disk_and_is_recognised(chrome: Browser, server: Server, tmp_path: Path) -> None:
    for n in range(12):
        picture(tmp_path / "animals" / ("cat" if n % 2 else "dog") / f"{n}.png", n)
    page = chrome.page(server.address, "/data?import=1")
    dropzone(page)
    page.locator("input.folder").set_input_files(tmp_path / "animals")
    expect(page.get_by_text("Found a folder per class (cat, dog)")).to_be_visible(timeout=60_000)
    expect(page.get_by_text("12 files sent")).to_be_visible()
    (ticket,) = [f for f in (server.log.parent / "uploads").iterdir() if uploads.received(f.name, server.log.parent)]
    came = uploads.received(ticket.name, server.log.parent)
    assert {file.name for file in came} == {f"animals/{'cat' if n % 2 else 'dog'}/{n}.png" for n in range(12)}
    sizes = {file.name: file.path.stat().st_size for file in came}
    assert sizes["animals/dog/0.png"] == (tmp_path / "animals" / "dog" / "0.png").stat().st_size
    keyed(page, "drop-all").get_by_role("button").first.click()
    expect(page.get_by_text("Found a folder per class")).to_be_hidden(timeout=30_000)
    assert not ticket.exists()
    page.close()


def test_a_refused_upload_is_explained_and_can_be_tried_again(chrome: Browser, server: Server, tmp_path: Path) -> None:
    picture(tmp_path / "one.png", 1)
    page = chrome.page(server.address, "/data?import=1")
    refused = '{"error": "The disk is nearly full; 1 GB are kept free."}'
    page.route("**/api/upload/*", lambda route: route.fulfill(status=413, body=refused))
    dropzone(page)
    page.locator("input.files").set_input_files(tmp_path / "one.png")
    expect(page.get_by_text("The disk is nearly full; 1 GB are kept free.")).to_be_visible(timeout=30_000)
    page.unroute("**/api/upload/*")
    page.get_by_role("button", name="Try the failed ones again").click()
    expect(page.get_by_text("1 file sent")).to_be_visible(timeout=30_000)
    expect(page.get_by_text("Found 1 file without labels")).to_be_visible(timeout=60_000)
    page.close()


def test_the_dropzone_works_by_keyboard(chrome: Browser, server: Server) -> None:
    page = chrome.page(server.address, "/data?import=1")
    choosers: list[FileChooser] = []
    # Not `expect_file_chooser`: it returns before the browser has been told, and the key may be the quicker one.
    page.on("filechooser", lambda chooser: choosers.append(chooser))
    button = dropzone(page)
    button.focus()
    expect(button).to_be_focused()
    page.keyboard.press("Enter")
    for _ in range(20_000 // 50):
        if choosers:
            break
        page.wait_for_timeout(50)
    assert [chooser.is_multiple() for chooser in choosers] == [True]
    page.close()


OVERTAKEN = """async (module) => {
    const { default: draw } = await import(module)
    const place = document.createElement('div')
    place.innerHTML = `<div class="zone"><p class="lead"></p><p class="help"></p><button class="pick"></button>
        <button class="pick-folder"></button><input class="files" type="file"><input class="folder" type="file">
        <div><p class="state"></p><button class="cancel"></button><button class="again"></button></div><ul></ul></div>`
    document.body.append(place)
    const data = { url: '/nowhere', label: 'x', help: 'x', most_bytes: 1, folders: true, several: true }
    const told = []
    const call = () => draw({ parentElement: place, data, setStateValue: (name, value) => told.push(value) })
    const drop = () => {
        const files = new DataTransfer()
        files.items.add(new File(['too large'], 'scan.png'))
        const input = place.querySelector('input.files')
        input.files = files.files
        input.dispatchEvent(new Event('change'))
    }
    // What is cleaned up waits for a timer, what is drawn for a frame: a busy machine may owe it longer than any pause.
    const rest = () => new Promise((go) => setTimeout(() => requestAnimationFrame(() => requestAnimationFrame(go)), 0))
    const overtaken = call()
    drop()
    const last = call()
    overtaken()
    await rest()
    drop()
    await rest()
    const found = [told.map((report) => report.failed.length), place.querySelectorAll('li').length]
    place.remove()
    last()
    await rest()
    call()
    await rest()
    return [...found, place.querySelectorAll('li').length]
}"""


def test_a_drop_outlives_a_call_of_the_dropzone_that_a_newer_one_overtook(chrome: Browser, server: Server) -> None:
    """Streamlit cleans such a call up although the component lives on; what has been dropped must stay."""
    page = chrome.page(server.address, "/data?import=1")
    dropzone(page)
    module = next(url for url in reversed(chrome.requests) if "dropzone" in url and url.endswith(".js"))
    assert page.evaluate(OVERTAKEN, module) == [[1, 2], 2, 0]
    page.close()


def test_undo_has_a_key_that_is_not_the_text_fields_own(chrome: Browser, server: Server) -> None:
    home = server.log.parent
    made = Draft.create(Experiment(name="mine"), at_home=home)
    made.replace("training.epochs", 9)
    page = chrome.page(server.address, f"/data?import=1&draft={made.id}")
    page.get_by_text("A folder of this machine").click()
    field = keyed(page, "folder").locator("input")
    field.fill("/tmp")
    field.press("Control+z")
    settle(page)
    assert made.experiment.training.epochs == 9
    page.keyboard.press("Alt+z")
    expect(keyed(page, "undo").get_by_role("button").first).to_be_disabled()
    assert made.experiment.training.epochs == Experiment().training.epochs
    page.close()


def test_back_leads_from_page_to_page_and_not_to_half_an_address(chrome: Browser, server: Server) -> None:
    made = Draft.create(Experiment(name="mine"), at_home=server.log.parent)
    page = chrome.page(server.address, f"/data?draft={made.id}")
    length = page.evaluate("history.length")
    pages = ("Network", "Training", "Which settings win?")
    paths = ("data", "network", "training", "search")
    for name in pages:
        page.get_by_role("link", name=name, exact=True).click()
        page.wait_for_url(f"**/{paths[pages.index(name) + 1]}?draft={made.id}")
        settle(page)
    assert page.evaluate("history.length") == length + len(pages)
    for path in reversed(paths[:-1]):
        page.go_back()
        page.wait_for_url(f"**/{path}?draft={made.id}")
        settle(page)

    # What is told later on, of this page or the next, takes the place of what was told, until a hand does something.
    # All in one go: the app knows no such addresses, and shows its own again as soon as it can.
    length, *told, where = page.evaluate("""async () => {
      const change = word => { history.pushState({}, '', `${word}?draft=${word}`); return history.length }
      const told = [history.length, change('one')]
      window.dispatchEvent(new KeyboardEvent('keydown', { key: 'Shift' }))
      told.push(change('two'), change('three'))
      return new Promise(resolve => {
        window.addEventListener('popstate', () => resolve([...told, location.href]), { capture: true })
        history.back()
      })
    }""")
    assert told[0] == length and told[1] == told[2]
    assert where.endswith("/one?draft=one")
    page.close()


# -- curves ------------------------------------------------------------------------------------------------------------


def x_range(page: Page) -> list[float]:
    return [float(v) for v in page.evaluate("document.querySelector('.scanloom-curves').layout.xaxis.range")]


END = "document.querySelector('.scanloom-curves').data[0].x.at(-1)"


def points(page: Page) -> int:
    return int(page.locator(".scanloom-curves").get_attribute("data-points") or 0)


def wait_for_more(page: Page, than: int) -> int:
    page.wait_for_function(f"() => Number(document.querySelector('.scanloom-curves').dataset.points) > {than}")
    return points(page)


def test_growing_curves_keep_the_zoom_and_tell_it(chrome: Browser, chart_server: Server) -> None:
    chrome.complaints.clear()
    page = chrome.page(chart_server.address)
    page.wait_for_selector(".scanloom-curves .js-line")
    before = wait_for_more(page, wait_for_more(page, 0))
    low, high = x_range(page)  # it goes on in steps of a tenth and less, so that its labels stand still
    assert low == 0 and high % 20 == 0 and page.evaluate(END) <= high <= 1.1 * page.evaluate(END) + 20
    page.evaluate("document.querySelector('.scanloom-curves').marked = true")
    box = page.locator(".scanloom-curves .nsewdrag").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.5)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + box["height"] * 0.5, steps=8)
    page.mouse.up()
    low, high = x_range(page)
    assert 0 < low < high < 300
    expect(page.get_by_text("zoom=(")).to_be_visible(timeout=20_000)
    for _ in range(3):
        before = wait_for_more(page, before)
    assert x_range(page) == pytest.approx([low, high])
    assert page.evaluate("document.querySelector('.scanloom-curves').marked"), "the chart was mounted anew"
    assert complaints(chrome) == []
    page.close()


def test_labels_are_text_and_the_log_axis_switches_in_place(chrome: Browser, chart_server: Server) -> None:
    page = chrome.page(chart_server.address)
    page.wait_for_selector(".scanloom-curves .legendtext")
    assert page.locator(".scanloom-curves a").count() == 0
    expect(page.locator(".scanloom-curves .legendtext").first).to_contain_text("<b>first</b>")
    page.get_by_text("Log axis").click()
    page.wait_for_function("() => document.querySelector('.scanloom-curves').layout.yaxis.type === 'log'")
    page.close()


def test_the_chart_follows_the_theme_without_a_rerun(chrome: Browser, chart_server: Server) -> None:
    page = chrome.page(chart_server.address)
    page.wait_for_selector(".scanloom-curves .legendtext")
    light = page.evaluate("document.querySelector('.scanloom-curves').layout.font.color")
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(f"() => document.querySelector('.scanloom-curves').layout.font.color !== '{light}'")
    page.close()


@pytest.mark.slow
def test_the_first_page_is_interactive_soon_after_the_start(
    chrome: Browser, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """The promise is 4 s on a quiet machine; the bound here leaves room for other tests that run meanwhile."""
    began = time.monotonic()
    with forks.unused():
        running = browser.start_server(tmp_path, environment={"OMP_NUM_THREADS": "1"})
    try:
        page = chrome.context.new_page()
        page.goto(running.address)
        expect(keyed(page, "try-recognition").get_by_role("button").first).to_be_enabled(timeout=60_000)
        took_s = time.monotonic() - began
        page.close()
    finally:
        browser.stop_server(running)
        browser.end_supervisor(tmp_path)
    record_property("first_page_s", took_s)
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    assert took_s < 4.0 * max(1.0, 1.5 * load) + 2.0
