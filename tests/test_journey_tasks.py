"""Each task in one real browser: a scan is dropped, the finding is seen on it, corrected on the canvas, and the scan is
back in the data set with what the person said."""

# What may be missing by its type is there by the test: None fails it by itself.
# mypy: disable-error-code="index"

from __future__ import annotations

import math
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from builder.data import Dataset
from builder.runs import Claim, Run
from tests import browser
from tests.browser import Browser, Server, button, keyed
from tests.made_files import dicom
from tests.tiny_runs import tiny_run

pytestmark = [pytest.mark.browser, pytest.mark.keeps_processes, pytest.mark.timeout(900)]

LONG_MS = 180_000  # what waits for imports of torch in a fresh supervisor, on a machine that tests run on besides


class House:
    """A data folder with a run of each task, made by the engine, and a server over it."""

    def __init__(self, folder: Path) -> None:
        self.home, self.folder = folder / "home", folder
        self.made: dict[str, tuple[Dataset, Run]] = {}

    def of(self, task: str) -> tuple[Dataset, Run]:
        if task not in self.made:
            self.made[task] = tiny_run(self.home, task, self.folder / task)
        return self.made[task]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    return House(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def server(house: House) -> Iterator[Server]:
    running = browser.start_server(house.home)
    yield running
    browser.stop_server(running)
    browser.end_supervisor(house.home)
    for path in house.home.glob("*/*/claim.json"):  # a worker outlives its supervisor by design
        claim = Claim.read(path)
        if claim is not None and claim.alive:
            os.kill(claim.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def chrome(chromium: str) -> Iterator[Browser]:
    with browser.chromium(height=1500) as opened:
        yield opened


def asked(house: House, server: Server, chrome: Browser, task: str, scan: Path) -> tuple[Page, Dataset]:
    """The Test page with an answer of the task's run about a dropped scan."""
    dataset, run = house.of(task)
    page = chrome.page(server.address, f"/test?run={run.id}")
    expect(page.locator("button.pick").first).to_be_enabled(timeout=LONG_MS)  # the dropzone's script listens by now
    page.locator("input.files").first.set_input_files(scan)
    expect(keyed(page, "answer")).to_be_visible(timeout=LONG_MS)
    return page, dataset


def seen(page: Page, what: str = ".viewer") -> None:
    """The scan is there: the browser has fetched the volume and drawn it."""
    expect(page.locator(f"{what}[data-ready=true]").first).to_be_visible(timeout=LONG_MS)


def correcting(page: Page) -> None:
    keyed(page, "correction").get_by_text("Correct it").click()


def canvas(page: Page) -> Locator:
    found = keyed(page, "correction").locator("canvas.upper-canvas")
    expect(found).to_be_visible(timeout=LONG_MS)
    return found


def dragged(page: Page, over: Locator, side: int, begin: tuple[float, float], end: tuple[float, float]) -> None:
    """Draws from one place of a square scan to another, in its pixels; the canvas has a margin around the scan."""
    over.scroll_into_view_if_needed()
    browser.steady(over)  # it is mounted twice when it first comes
    box = over.bounding_box()
    assert box is not None
    margin = math.ceil(20 * side / 610)
    scale = box["width"] / (side + 2 * margin)

    def at(place: tuple[float, float]) -> tuple[float, float]:
        return box["x"] + (place[0] + margin) * scale, box["y"] + (place[1] + margin) * scale

    page.mouse.move(*at(begin))
    page.mouse.down()
    page.mouse.move(*at(end), steps=8)
    page.mouse.up()


def saved(page: Page, house: House, dataset: Dataset) -> tuple[Dataset, int]:
    """Saves, and returns the data set as it is on the disk and the position of the scan that is new in it."""
    before = len(Dataset.open(house.home, dataset.id))
    expect(button(page, "save-correction")).to_be_enabled(timeout=LONG_MS)
    button(page, "save-correction").click()
    expect(keyed(page, "correction").get_by_text("It is in the data set")).to_be_visible(timeout=LONG_MS)
    after = Dataset.open(house.home, dataset.id)
    assert len(after) == before + 1
    return after, before


def a_picture(path: Path, draw: Callable[[np.ndarray], None], side: int = 96) -> Path:
    grey = np.random.default_rng(3).normal(60, 8, (side, side))
    draw(grey)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grey.clip(0, 255).astype(np.uint8)).save(path)
    return path


def bright_spot(grey: np.ndarray) -> None:
    grey[30:50, 40:62] += 110


def quiet(page: Page, server: Server, chrome: Browser) -> None:
    """Nothing went to another host, nothing was complained about."""
    assert chrome.foreign(server.address) == []
    assert [text for text in chrome.complaints if "404" not in text] == []
    assert "Traceback" not in server.output
    page.close()


def test_recognition_a_class_is_corrected_and_the_scan_joins_the_data(
    house: House, server: Server, chrome: Browser, tmp_path: Path
) -> None:
    page, dataset = asked(house, server, chrome, "recognition", a_picture(tmp_path / "scan.png", bright_spot))
    seen(page)
    expect(keyed(page, "answer").locator(".js-plotly-plot .bars .point")).to_have_count(3, timeout=LONG_MS)
    correcting(page)
    other = dataset.classes[-1]
    keyed(page, "correction").get_by_role("radio", name=other).click()
    after, index = saved(page, house, dataset)
    assert after.classes[after.cases[index].label] == other
    quiet(page, server, chrome)


def test_detection_a_box_is_drawn_on_the_scan_and_kept_in_its_pixels(
    house: House, server: Server, chrome: Browser, tmp_path: Path
) -> None:
    page, dataset = asked(house, server, chrome, "lesion_detection", a_picture(tmp_path / "scan.png", bright_spot, 128))
    seen(page)
    expect(keyed(page, "answer").get_by_text("Show boxes from a score of")).to_be_visible()
    correcting(page)
    over = canvas(page)
    dragged(page, over, 128, (32, 32), (64, 64))
    expect(keyed(page, "correcting-list").locator("button").first).to_be_visible(timeout=LONG_MS)
    after, index = saved(page, house, dataset)
    boxes = after.boxes(index) or ()
    drawn = [b for b in boxes if max(abs(b.x0 - 32), abs(b.y0 - 32), abs(b.x1 - 64), abs(b.y1 - 64)) < 0.75]
    assert len(drawn) == 1, boxes
    quiet(page, server, chrome)


def test_tumour_an_outline_is_painted_and_kept_as_a_mask(
    house: House, server: Server, chrome: Browser, tmp_path: Path
) -> None:
    page, dataset = asked(house, server, chrome, "tumor_diagnosis", a_picture(tmp_path / "scan.png", bright_spot))
    seen(page)
    correcting(page)
    button(page, "correcting-tool-brush").click()
    over = canvas(page)
    dragged(page, over, 96, (43, 33), (58, 43))
    expect(button(page, "correcting-undo")).to_be_enabled(timeout=LONG_MS)  # the page has heard of the stroke
    after, index = saved(page, house, dataset)
    mask = after.mask(index)
    assert mask is not None and mask[0, 33:43, 43:58].mean() > 0.3
    quiet(page, server, chrome)


def test_enhancement_is_compared_with_the_divider_and_goes_home_as_it_came(
    house: House, server: Server, chrome: Browser, tmp_path: Path
) -> None:
    scan = dicom(tmp_path / "scan.dcm", (np.random.default_rng(1).normal(40, 30, (96, 96))).astype(np.int16))
    page, _ = asked(house, server, chrome, "image_enhancement", scan)
    seen(page, ".compare")
    stage = page.locator(".compare .stage canvas")

    def pixels() -> str:
        return str(stage.evaluate("c => c.toDataURL()"))

    middle = pixels()
    page.get_by_label("Divider between before and after").fill("1000")
    assert pixels() != middle, "all of it is the scan before"
    button(page, "make-derived").click()
    with page.expect_download(timeout=LONG_MS) as coming:
        keyed(page, "download-derived").locator("button:visible").first.click(timeout=LONG_MS)
    taken = tmp_path / "taken.dcm"
    shutil.copy(coming.value.path(), taken)
    import pydicom

    made = pydicom.dcmread(taken)
    assert made.ImageType[:2] == ["DERIVED", "SECONDARY"] and made.pixel_array.shape == (96, 96)
    quiet(page, server, chrome)
