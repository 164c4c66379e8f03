"""The scan viewer in a real browser: the same picture as the reader's, slices, windows, millimetres, overlays."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Locator, Page, expect

from builder import outputs
from builder.runs import RunStore
from builder.scan import Grid, Scan, Window, display
from tests import browser
from tests.browser import Browser, Server, keyed

pytestmark = [pytest.mark.browser, pytest.mark.keeps_processes]

APP = """
import streamlit as st
from pages.kit import volumes
app = st.App("page.py", routes=volumes.routes())
"""
UPRIGHT = Grid((0.0, 0.0, 0.0), ((0.0, 0.0, 6.0), (0.0, 2.0, 0.0), (2.0, 0.0, 0.0)))
ABOVE = 21  # rows above the ruler
PAGE = """
import streamlit as st
from scanloom_components import Box, compare
from pages.kit import viewer

q = st.query_params
job, kind = q["job"], q.get("kind", "")
options = {"height": 384}
if kind == "over":
    options |= {
        "boxes": [
            Box(10, 6, 30, 20, "nodule", "#ffb000", slice=2, score=0.87),
            Box(2, 2, 8, 8, "cyst", "#4fc3dc", slice=1),
        ],
        "layers": [
            viewer.mask_of_output(job, ["tumour"]),
            viewer.heat_of_output(job, "evidence"),
        ],
        "opacity": 1.0,
    }
if kind == "follow":
    options |= {"follow": True, "slice": st.session_state.get("go")}
st.session_state.runs = st.session_state.get("runs", 0) + 1
if kind == "compare":
    part = ("scan", viewer.mask_of_output(job, ["tumour"]).url, "scan")
    compare("pair", part, part, key="c")
seen = viewer.show_output(job, "scan", "v", **options)
st.text(f"runs={st.session_state.runs} slice={seen.slice if seen else None} level={seen.center if seen else None}")
if kind == "follow":
    st.button("Go to slice 1", on_click=lambda: st.session_state.update(go=0))
"""


@pytest.fixture(scope="module")
def chrome(chromium: str) -> Iterator[Browser]:
    with browser.chromium(1200, 800) as opened:
        yield opened


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("viewer")
    (folder / "app.py").write_text(APP)
    (folder / "page.py").write_text(PAGE)
    running = browser.start_server(folder, script=folder / "app.py")
    yield running
    browser.stop_server(running)


class Shown:
    """A page with the viewer over a scan that a job has written."""

    def __init__(self, chrome: Browser, server: Server, kind: str = "", dark: bool = False, **written: Scan):
        job = RunStore(server.log.parent).submit_job("predict", {})
        for name, scan in written.items():
            outputs.keep(job.folder, name, scan)
        self.page: Page = chrome.page(server.address, f"/?job={job.id}&kind={kind}", dark=dark)
        self.root = self.page.locator(".viewer")
        self.stage = self.page.locator(".viewer .stage")
        self.words = self.page.locator(".viewer .told")
        expect(self.root).to_have_attribute("data-ready", "true")

    def pane(self, plane: int = 0) -> Locator:
        return self.page.locator(f".viewer .pane[data-plane='{plane}'] canvas")

    def painted(self) -> None:
        """Waits until what was asked for has been painted."""
        self.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def pixels(self, height: int, width: int, plane: int = 0) -> np.ndarray:
        """What the canvas shows at the middle of each pixel of a cut: uint8 (height, width, 3)."""
        self.painted()
        found: Any = self.pane(plane).evaluate(
            """(canvas, [rows, columns]) => {
                const scale = Math.min(canvas.height / rows, canvas.width / columns)
                const [left, top] = [(canvas.width - columns * scale) / 2, (canvas.height - rows * scale) / 2]
                const all = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data
                const found = []
                for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) {
                    const x = Math.floor(left + (c + 0.5) * scale), y = Math.floor(top + (r + 0.5) * scale)
                    found.push(...all.subarray(4 * (y * canvas.width + x), 4 * (y * canvas.width + x) + 3))
                }
                return found
            }""",
            [height, width],
        )
        return np.array(found, np.uint8).reshape(height, width, 3)

    def at(self, x: float, y: float, height: int, width: int, plane: int = 0) -> tuple[float, float]:
        """Where a place of a cut (in its pixels, square ones) lies on the screen."""
        box = self.pane(plane).bounding_box()
        assert box
        scale = min(box["height"] / height, box["width"] / width)
        left = box["x"] + (box["width"] - width * scale) / 2
        return left + x * scale, box["y"] + (box["height"] - height * scale) / 2 + y * scale

    def touch(self, *moments: list[tuple[float, float]]) -> None:
        """Fingers as they lie at each moment, in pixels of the screen; who lies nowhere at the next one has lifted."""
        session = self.page.context.new_cdp_session(self.page)
        before = 0
        for fingers in [*moments, []]:
            kind = "touchStart" if len(fingers) > before else "touchEnd" if len(fingers) < before else "touchMove"
            points = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(fingers)]
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
            before = len(fingers)
        session.detach()


def ct(slices: int = 5) -> Scan:
    """Noise in HU, 5 slices of 24 x 40; a corner of each is padding."""
    pixels = np.random.default_rng(1).integers(-1000, 1500, (slices, 1, 24, 40)).astype(np.int16)
    valid = np.ones((slices, 24, 40), bool)
    valid[:, :3, :5] = False
    return Scan(
        *(pixels, (4.0, 2.0, 2.0), "CT"),
        bits=16,
        windows=(Window(30, 310), Window(100, 900, "SIGMOID", "soft")),
        valid=valid,
    )


def test_the_picture_is_that_of_the_reader_for_every_kind_of_scan_and_window(chrome: Browser, server: Server) -> None:
    scan = ct()
    shown = Shown(chrome, server, scan=scan)
    wanted = {"file 0": "auto", "ct lung": "ct lung", "ct bone": "ct bone", "file 1": "soft"}
    for name, window in wanted.items():
        shown.page.get_by_label("Window", exact=True).select_option(name)
        expected = np.rint(display(scan, window)[2, 0] * 255)
        found = shown.pixels(24, 40)
        assert np.abs(found[:ABOVE, :, 0] - expected[:ABOVE]).max() <= 1, name
        assert (found[:3, :5] == 0).all(), "padding is black"
    shown.page.get_by_role("button", name="Invert").click()
    inverted = shown.pixels(24, 40)[..., 0]
    assert np.abs(inverted[3:ABOVE] - (255 - expected[3:ABOVE])).max() <= 1
    assert (inverted[:3, :5] == 0).all(), "padding stays black"
    shown.page.close()
    random = np.random.default_rng(2)
    x_ray = Scan(random.integers(0, 4096, (1, 1, 24, 40)).astype(np.uint16), photometric="MONOCHROME1", bits=12)
    colour = Scan(random.integers(0, 256, (1, 3, 24, 40)).astype(np.uint8), photometric="RGB")
    floats = Scan(random.normal(0, 3, (1, 1, 24, 40)).astype(np.float32), windows=(Window(0, 8, "LINEAR_EXACT"),))
    for other in (x_ray, colour, floats):
        shown = Shown(chrome, server, scan=other)
        if other is x_ray:
            shown.page.get_by_label("Window", exact=True).select_option("full")
        expected = np.rint(np.moveaxis(display(other, "stored range" if other is x_ray else "auto")[0], 0, -1) * 255)
        assert np.abs(shown.pixels(24, 40) - expected)[:ABOVE].max() <= 1, other.photometric
        expect(shown.page.get_by_label("Slice", exact=True)).to_be_hidden()  # one picture has no slices to choose from
        shown.page.close()


_TURNING = """stage => {
    let n = 0
    const turn = () => stage.dispatchEvent(new WheelEvent('wheel', {deltaY: n % 2 ? -100 : 100, cancelable: true}))
    const timer = setInterval(() => { turn(); if (++n > 20) clearInterval(timer) }, 100)
}"""


def test_wheel_keys_and_drags_move_through_the_scan_and_python_hears_of_it_once_they_rest(
    chrome: Browser, server: Server
) -> None:
    scan = ct()
    shown = Shown(chrome, server, "follow", scan=scan)
    page = shown.page
    asked = sum("/api/volume/" in url for url in chrome.requests)
    expect(shown.root).to_have_attribute("data-slice", "2")
    page.mouse.move(*shown.at(20.5, 12.5, 24, 40))
    expect(shown.words).to_have_text(f"x 20, y 12, slice 3 · {scan.pixels[2, 0, 12, 20]} HU".replace("-", "−"))
    page.mouse.wheel(0, 100)
    expect(shown.root).to_have_attribute("data-slice", "3")
    for _ in range(3):
        page.mouse.wheel(0, -20)  # a touchpad: small ways add up to one slice
    expect(shown.root).to_have_attribute("data-slice", "2")
    shown.stage.focus()
    for key, slice in (("ArrowDown", "3"), ("End", "4"), ("Home", "0"), ("PageDown", "4"), ("ArrowLeft", "3")):
        page.keyboard.press(key)
        expect(shown.root).to_have_attribute("data-slice", slice)
    expect(shown.stage).to_have_attribute("aria-label", re.compile("slice 4 of 5"))
    expect(page.get_by_text("slice=3")).to_be_visible()
    runs = int(re.findall(r"runs=(\d+)", page.get_by_text("runs=").inner_text())[0])
    assert runs < 9, "a rerun for each key would be one too many"
    level = page.get_by_label("Level of the window")
    before = float(level.input_value())
    x, y = shown.at(20, 12, 24, 40)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 100, y + 60, steps=5)
    page.mouse.up()
    assert float(level.input_value()) > before
    assert float(page.get_by_label("Width of the window").input_value()) > 310
    expect(page.get_by_label("Window", exact=True)).to_have_value("own")
    expect(page.get_by_text(re.compile(r"level=[^3]"))).to_be_visible()
    # a finger does what the mouse does, and two of them zoom without touching the window
    width = page.get_by_label("Width of the window")
    held = level.input_value(), width.input_value()
    shown.touch([(x, y)], [(x + 30, y - 20)], [(x + 60, y - 40)])
    expect(level).not_to_have_value(held[0])
    assert float(level.input_value()) < float(held[0])
    assert float(width.input_value()) > float(held[1])
    touched, ruler = level.input_value(), pane_ruler(shown)
    shown.touch(
        [(x - 10, y)],
        [(x - 16, y + 12)],  # the first finger moves before the second lies there
        [(x - 16, y + 12), (x + 10, y)],
        [(x - 40, y + 12), (x + 40, y)],
        [(x - 60, y + 12), (x + 60, y), (x, y + 50)],  # the heel of the hand
        [(x - 80, y + 12), (x + 80, y)],
        [(x - 90, y + 30)],
    )
    shown.painted()
    assert pane_ruler(shown) > 2 * ruler
    assert level.input_value() == touched
    shown.touch([(x, y)], [(x, y + 30)], [(x, y + 60)])
    expect(level).not_to_have_value(touched)
    slices = page.get_by_label("Slice", exact=True).bounding_box()
    assert slices
    shown.touch([(slices["x"] + slices["width"] / 2, slices["y"] + slices["height"] / 2)])
    expect(shown.root).to_have_attribute("data-slice", "2")
    expect(page.get_by_text("slice=2")).to_be_visible()
    shown.stage.evaluate(_TURNING)  # Python asks for a slice while the hand still moves
    expect(shown.root).to_have_attribute("data-slice", "3")
    page.get_by_role("button", name="Go to slice 1").click()
    expect(page.get_by_text("slice=3")).to_be_visible()  # it has rested, and Python has heard so
    expect(shown.root).to_have_attribute("data-slice", "0")
    assert sum("/api/volume/" in url for url in chrome.requests) == asked, "the scan is fetched once"
    page.close()


def pane_ruler(shown: Shown) -> float:
    """Screen pixels of a millimetre, as the ruler tells them."""
    pane = shown.page.locator(".viewer .pane").first
    told, px = pane.get_attribute("data-ruler"), pane.get_attribute("data-ruler-px")
    return float(px or 0) / float((told or "0").split()[0])


def test_lengths_are_those_of_the_scan(chrome: Browser, server: Server) -> None:
    flat = Scan(np.zeros((1, 1, 20, 40), np.uint8) + 90, (None, 4.0, 1.0))  # pixels four times as high as wide
    shown = Shown(chrome, server, scan=flat)
    page, box = shown.page, shown.pane().bounding_box()
    assert box
    scale = min(box["height"] / 80, box["width"] / 40)  # screen pixels a millimetre
    pane = page.locator(".viewer .pane").first
    told, px = pane.get_attribute("data-ruler"), float(pane.get_attribute("data-ruler-px") or 0)
    assert told and told.endswith(" mm")
    assert px == pytest.approx(float(told.split()[0]) * scale, abs=0.01)
    middle = box["x"] + box["width"] / 2
    page.mouse.move(middle + 19.5 * scale, box["y"] + 79 * scale)
    expect(shown.words).to_contain_text("x 39, y 19")
    page.get_by_role("button", name="Measure").click()
    page.mouse.click(middle - 12 * scale, box["y"] + 20 * scale)
    page.mouse.move(middle + 4 * scale, box["y"] + 26 * scale)
    page.mouse.click(middle + 12 * scale, box["y"] + 30 * scale)
    shown.painted()
    assert measured(shown) == ["26.0 mm"]
    page.keyboard.press("Escape")
    assert measured(shown) == []
    page.close()
    shown = Shown(chrome, server, scan=Scan(np.zeros((1, 1, 24, 48), np.uint8) + 90))
    shown.stage.focus()
    shown.page.keyboard.press("m")
    shown.page.mouse.move(*shown.at(4, 10, 24, 48))
    shown.page.mouse.down()
    shown.page.mouse.move(*shown.at(14, 10, 24, 48), steps=4)
    shown.page.mouse.up()
    assert measured(shown) == ["10.0 px"], "a length without a spacing is none in millimetres"
    shown.page.close()


def measured(shown: Shown) -> list[str]:
    """The lengths that the viewer has written."""
    shown.painted()
    told = shown.root.get_attribute("data-lengths") or ""
    return told.split(" | ") if told else []


def test_three_planes_show_one_voxel_from_three_sides(chrome: Browser, server: Server) -> None:
    z, y, x = np.mgrid[0:8, 0:24, 0:40]
    volume = Scan((z * 20 + y * 3 + x).astype(np.uint8)[:, None], (6.0, 2.0, 2.0), grid=UPRIGHT)
    shown = Shown(chrome, server, scan=volume)
    page = shown.page
    shown.stage.focus()
    page.keyboard.press("3")
    names = page.locator(".viewer .pane .name")
    expect(names).to_have_text(["Axial 5 / 8", "Coronal 13 / 24", "Sagittal 21 / 40"])
    # the coronal plane: 40 columns of 2 mm, 8 slices of 6 mm, the head up
    box = shown.pane(1).bounding_box()
    assert box
    scale = min(box["height"] / 48, box["width"] / 80)
    left, top = box["x"] + box["width"] / 2 - 40 * scale, box["y"] + box["height"] / 2 - 24 * scale
    page.mouse.click(left + (2 * 30 + 1) * scale, top + (6 * 1 + 3) * scale)
    expect(names).to_have_text(["Axial 7 / 8", "Coronal 13 / 24", "Sagittal 31 / 40"])
    expect(shown.words).to_have_text(f"x 30, y 12, slice 7 · {6 * 20 + 12 * 3 + 30}")
    page.mouse.wheel(0, 100)
    expect(names.nth(1)).to_have_text("Coronal 14 / 24")
    page.close()


def test_boxes_masks_and_heat_maps_lie_where_they_belong(chrome: Browser, server: Server) -> None:
    grey = Scan(np.full((4, 1, 24, 40), 100, np.uint8))
    mask = np.zeros((4, 1, 24, 40), np.uint8)
    mask[2, 0, 14:20, 32:38] = 1
    heat = np.zeros((4, 1, 6, 10), np.uint8)  # of a quarter of the size: stretched over the scan
    heat[2, 0, 0, 0] = 255
    chrome.complaints.clear()
    shown = Shown(chrome, server, "over", dark=True, scan=grey, mask=Scan(mask), heat=Scan(heat))
    chips = shown.page.locator(".viewer .chip")
    expect(chips).to_have_text(["nodule", "cyst", "tumour", "evidence"])
    expect(shown.page.locator(".viewer .marks i")).to_have_count(2)
    shown.page.wait_for_timeout(100)
    at_mask = (mask[2, 0] > 0) & ~np.pad(mask[2, 0, 15:19, 33:37], ((15, 5), (33, 3))).astype(bool)
    found = shown.pixels(24, 40).astype(int)
    assert (np.abs(found[at_mask] - (255, 176, 0)).max(1) < 3).all(), "the outline of the mask"
    inside = found[15:19, 33:37].reshape(-1, 3)
    assert (np.abs(inside - (np.array((255, 176, 0)) * 0.45 + 55)).max(1) < 4).all(), "its inside lets the scan through"
    assert (found[21:, :20] == 100).all(), "elsewhere is the scan itself"
    assert found[0, 0].max() > 200, "the hottest place is bright"
    scale = 384 / 24
    edge: Any = shown.pane().evaluate(
        "(c, [x, y]) => [...c.getContext('2d').getImageData(c.width / 2 - 20 * 16 + x, y, 1, 1).data]",
        [20 * scale, 20 * scale],
    )
    assert np.abs(np.array(edge[:3]) - (255, 176, 0)).max() < 3, "the lower edge of the box is that of row 19"
    shown.page.mouse.move(*shown.at(34.5, 16.5, 24, 40))
    expect(shown.words).to_have_text("x 34, y 16, slice 3 · 100 · tumour")
    chips.nth(2).click()
    assert (shown.pixels(24, 40)[15:19, 33:37] == 100).all(), "a press on its name hides it"
    assert [text for text in chrome.complaints if "404" not in text] == []
    shown.page.close()


def test_a_scan_that_does_not_come_is_told_in_words_and_can_be_asked_for_again(chrome: Browser, server: Server) -> None:
    job = RunStore(server.log.parent).submit_job("predict", {})
    page = chrome.page(server.address, f"/?job={job.id}")
    message = page.locator(".viewer .message")
    expect(message).to_contain_text("This answer is gone, or has no such picture")
    outputs.keep(job.folder, "scan", ct())
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".viewer")).to_have_attribute("data-ready", "true")
    expect(message).to_be_hidden()
    assert keyed(page, "v").count() == 1
    page.close()


OVERTAKEN = """async (module) => {
    const { default: draw } = await import(module)
    const place = document.createElement('div')
    place.innerHTML = '<div class="compare"></div>'
    document.body.append(place)
    const part = { id: 'x', url: '/nowhere', name: 'x' }
    const call = () => draw({ parentElement: place, data: { id: 'x', before: part, after: part, height: 300 } })
    const overtaken = call()
    const divider = place.querySelector('input')
    divider.value = '200'
    const last = call()
    overtaken()
    await new Promise((go) => setTimeout(go, 0))  // after the timer of the clean-up, which began before
    call()
    const found = place.querySelector('input').value
    place.remove()
    last()
    return found
}"""


def test_a_comparison_outlives_a_call_that_a_newer_one_overtook(chrome: Browser, server: Server) -> None:
    """Streamlit cleans such a call up although the component lives on; where the divider lies must stay."""
    shown = Shown(chrome, server, "compare", scan=ct(), mask=Scan(np.zeros((5, 1, 24, 40), np.uint8)))
    expect(shown.page.locator(".compare canvas")).to_be_visible()
    module = next(url for url in reversed(chrome.requests) if "compare" in url and url.endswith(".js"))
    assert shown.page.evaluate(OVERTAKEN, module) == "200"
    shown.page.close()
