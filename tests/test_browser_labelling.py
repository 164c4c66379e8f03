"""Labels drawn in a real browser and read back through the dataset: boxes, outlines and strokes where the hand was."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import nibabel
import nrrd
import numpy as np
import pytest
from made_files import case_of, decode_nearby, dicom, imported, picture, segmentation, texture
from PIL import Image
from playwright.sync_api import Page, expect

from builder.data import Dataset
from builder.intake import detect
from builder.label_export import BOXES, FORMATS, export_labels
from builder.labels import Box, name_classes, record
from tests import browser
from tests.browser import Browser, Server, keyed, steady

pytestmark = [pytest.mark.browser, pytest.mark.keeps_processes]

SOON_MS = 30_000
HEIGHT, WIDTH = 48, 64


@pytest.fixture(scope="module")
def chrome(chromium: str) -> Iterator[Browser]:
    with browser.chromium(1400, 1000) as opened:
        yield opened


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("home")
    browser.idle_supervisor(home)
    running = browser.start_server(home)
    yield running
    browser.stop_server(running)
    browser.end_supervisor(home)


class Desk:
    """The Label tab over one scan, with what is needed to draw at places of the scan."""

    def __init__(self, chrome: Browser, server: Server, dataset: Dataset, what: str):
        self.dataset = dataset
        self.page: Page = chrome.page(server.address, f"/data?dataset={dataset.id}&scan=0")
        self.page.get_by_role("tab", name="Label").click()
        self.page.get_by_role("radio", name=what, exact=True).click()
        self.canvas = self.page.locator("canvas.upper-canvas")
        expect(self.canvas).to_be_visible(timeout=SOON_MS)
        steady(self.canvas)  # the canvas takes up its beginning

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a place of the scan lies on the screen; the margin is known from the size of the canvas alone."""
        box = self.canvas.bounding_box()
        assert box
        size = self.canvas.evaluate("c => [c.width, c.height]")
        slices, _, height, width = self.dataset.cases[0].shape
        margin = math.ceil(20 * max(height, width) / 610)
        across, down = size[0] / (width + 2 * margin), size[1] / (height + 2 * margin)
        assert across > 2, "drawn enlarged"
        return box["x"] + (x + margin) * across, box["y"] + (y + margin) * down

    def drag(self, *places: tuple[float, float]) -> None:
        self.page.mouse.move(*self.at(*places[0]))
        self.page.mouse.down()
        for place in places[1:]:
            self.page.mouse.move(*self.at(*place), steps=8)
        self.page.mouse.up()

    def touch(self, *places: tuple[float, float]) -> None:
        """One finger that comes down, moves and lifts."""
        session = self.page.context.new_cdp_session(self.page)
        for number, place in enumerate([*places, None]):
            kind = "touchEnd" if place is None else "touchMove" if number else "touchStart"
            points = [] if place is None else [dict(zip("xy", self.at(*place), strict=True))]
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        session.detach()

    def says(self, text: str) -> None:
        expect(self.page.get_by_text(text).first).to_be_visible(timeout=SOON_MS)

    def on_slice(self, number: int) -> None:
        handle = keyed(self.page, "label-slice").get_by_role("slider")
        expect(handle).to_have_attribute("aria-valuetext", str(number), timeout=SOON_MS)

    def press(self, key: str) -> None:
        self.page.keyboard.press(key)

    def restarted(self) -> None:
        """Waits until the canvas has taken up a new beginning."""
        self.page.wait_for_timeout(400)  # the page begins to run
        steady(self.canvas, 0.3)

    def known(self) -> Dataset:
        """The dataset as another process would read it."""
        return Dataset.open(self.dataset.home, self.dataset.id)


def edges(box: Box) -> np.ndarray:
    return np.array([box.x0, box.y0, box.x1, box.y1])


def test_boxes_are_stored_where_they_were_drawn_and_corrected_without_moving_the_others(
    chrome: Browser, server: Server, tmp_path: Path
) -> None:
    for n in range(3):
        picture(tmp_path / "in" / f"{n}.png", n, (HEIGHT, WIDTH))
    dataset = imported(tmp_path / "in", server.log.parent, name="cells")[1]
    name_classes(dataset, classes=["cell", "lesion"])
    exact = Box(3.137, 5.251, 17.873, 14.019, 0)
    record(dataset, 0, boxes=[exact], origin="drawn")
    desk = Desk(chrome, server, dataset, "Boxes")
    desk.says("1 of 3 scans labelled with boxes")
    desk.press("2")
    expect(keyed(desk.page, "tint1-label-boxes-1").locator("button[kind=primary]")).to_be_visible(timeout=SOON_MS)
    desk.restarted()  # the canvas takes up the other colour
    desk.drag((30, 10), (52, 33))
    desk.says("2 boxes here")
    first, second = desk.known().boxes(0) or ()
    assert first == exact, "a box that nobody touched keeps its numbers"
    assert np.abs(edges(second) - (30, 10, 52, 33)).max() < 0.5
    assert second.label == 1
    # beyond the edge: cut off there
    desk.drag((60, 40), (65.5, 49.5))
    desk.says("3 boxes here")
    third = (desk.known().boxes(0) or ())[2]
    assert (third.x1, third.y1) == (WIDTH, HEIGHT)
    desk.press("z")
    desk.says("2 boxes here")
    desk.restarted()
    # moved with the canvas's own pencil
    desk.page.mouse.move(*desk.at(32, 20))
    desk.page.locator(".dc-toolbar").get_by_role("button", name="Edit").click()
    desk.drag((40, 20), (44, 26))
    desk.says("5 edits")
    first, second = desk.known().boxes(0) or ()
    assert first == exact
    assert np.abs(edges(second) - (34, 16, 56, 39)).max() < 0.5
    # the keys: next scan, nothing there, and none of them while somebody writes
    initials = desk.page.get_by_role("textbox", name="Your initials")
    initials.fill("n0")
    initials.press("Enter")
    desk.says("1 of 3 scans labelled with boxes")
    assert "scan=0" in desk.page.url
    desk.page.locator("h1").click()
    desk.press("n")
    desk.says("Scan c000001")
    desk.restarted()
    desk.press("0")
    desk.says("2 of 3 scans labelled with boxes")
    known = desk.known()
    assert known.boxes(1) == ()
    assert (known.history(1)[-1].who, known.history(1)[-1].origin) == ("n0", "drawn")
    desk.press("u")
    desk.says("Scan c000002")
    assert known.boxes(2) is None
    desk.page.mouse.move(*desk.at(32, 20))
    desk.page.locator(".dc-toolbar").get_by_role("button", name="Edit").click()  # the pencil is put down again
    desk.restarted()
    # a finger; and a key that takes the canvas away as soon as the box is drawn
    desk.touch((6, 30), (12, 34), (20, 42))
    desk.says("1 box here")
    desk.restarted()
    desk.drag((30, 6), (44, 20))
    desk.press("p")
    desk.says("Scan c000001")
    touched, hurried = desk.known().boxes(2) or ()
    assert np.abs(edges(touched) - (6, 30, 20, 42)).max() < 0.5
    assert np.abs(edges(hurried) - (30, 6, 44, 20)).max() < 0.5
    desk.restarted()
    desk.press("n")
    desk.says("2 boxes here")
    desk.restarted()
    keyed(desk.page, "label-clear-boxes").locator("button:visible").first.click()
    expect(desk.page.get_by_text("2 boxes here")).to_have_count(0, timeout=SOON_MS)
    desk.restarted()
    # a quick hand, and a window that changes as quickly as the slider goes: the canvas loses nothing of it
    for x in (4, 20, 36):
        desk.drag((x, 6), (x + 12, 18))
        desk.page.wait_for_timeout(100)
    desk.says("3 boxes here")
    keyed(desk.page, "label-window").click()
    desk.page.get_by_role("option", name="By hand").click()
    level = keyed(desk.page, "label-window-level").locator("input[type=range]")
    level.focus()
    for _ in range(12):
        desk.press("ArrowRight")
        desk.page.wait_for_timeout(50)
    desk.restarted()
    desk.drag((10, 25), (40, 40))
    desk.says("4 boxes here")
    drawn = desk.known().boxes(2) or ()
    assert (
        np.abs(
            [edges(b) for b in drawn] - np.array([(x, 6, x + 12, 18) for x in (4, 20, 36)] + [(10, 25, 40, 40)])
        ).max()
        < 0.5
    )
    desk.page.close()


def test_outlines_and_strokes_become_a_mask_at_the_resolution_of_the_scan(
    chrome: Browser, server: Server, tmp_path: Path
) -> None:
    for n in range(4):
        dicom(tmp_path / "in" / f"{n}.dcm", n, 2.0 * n, SeriesInstanceUID="1.2.9")
    dataset = imported(tmp_path / "in", server.log.parent, name="series")[1]
    name_classes(dataset, structures=["tumour", "cyst"])
    desk = Desk(chrome, server, dataset, "Outlines")  # opens on slice 3 of 4
    for place in ((10, 8), (30, 8), (30, 20), (10, 20), (10, 8)):
        desk.page.mouse.click(*desk.at(*place))
        desk.page.wait_for_timeout(60)
    desk.says("Marked: slice 3")
    mask = desk.known().mask(0)
    assert mask is not None
    expected = np.zeros((4, 64, 64), np.uint8)
    expected[2, 8:20, 10:30] = 1
    wrong = np.argwhere(mask != expected)
    assert all(abs(r - 8) <= 1 or abs(r - 19) <= 1 or abs(c - 10) <= 1 or abs(c - 29) <= 1 for _, r, c in wrong), wrong
    assert len(wrong) <= 66, "off by a pixel at most"
    # the brush, with the second structure, on another slice
    desk.restarted()
    desk.press("PageDown")
    desk.on_slice(4)
    desk.press("d")
    expect(desk.page.get_by_text("Width (pixels of the scan)")).to_be_visible(timeout=SOON_MS)
    desk.press("2")
    expect(keyed(desk.page, "tint1-label-mask-1").locator("button[kind=primary]")).to_be_visible(timeout=SOON_MS)
    desk.restarted()
    desk.drag((20, 30), (44, 30))
    desk.says("Marked: slices 3 to 4")
    mask = desk.known().mask(0)
    assert mask is not None
    rows, columns = np.nonzero(mask[3] == 2)
    assert np.abs(np.array([rows.min(), rows.max() + 1]) - (26, 34)).max() <= 1, "8 pixels wide"
    assert np.abs(np.array([columns.min(), columns.max() + 1]) - (16, 48)).max() <= 1, "with round ends"
    assert (mask[2] == 1).sum() > 200, "the other slice stays"
    desk.press("e")
    desk.restarted()
    desk.restarted()
    desk.drag((32, 20), (32, 40))
    desk.says("3 edits")
    rubbed = desk.known().mask(0)
    assert rubbed is not None
    assert not rubbed[3, 24:36, 29:35].any()
    assert (rubbed[3, 28:32, 20:26] == 2).all()
    desk.press("z")
    desk.says("4 edits")
    np.testing.assert_array_equal(desk.known().mask(0), mask)
    # below it the viewer: what it shows is where the canvas goes
    desk.page.get_by_text("In the viewer, too").click()
    viewer = desk.page.locator(".viewer")
    expect(viewer).to_have_attribute("data-slice", "3", timeout=SOON_MS)
    desk.page.locator(".viewer .stage").focus()
    desk.press("Home")
    expect(viewer).to_have_attribute("data-slice", "0", timeout=SOON_MS)
    desk.on_slice(1)
    expect(viewer).to_have_attribute("data-slice", "0")
    desk.page.close()


# -- the whole round --------------------------------------------------------------------------------------------------


def one_scan_of_each_format(root: Path, home: Path) -> tuple[Dataset, dict[str, Box], dict[str, np.ndarray]]:
    """A dataset of eight scans, each imported with a label in another format, as another program would write it; the
    boxes and the masks (S, H, W) that those files name, by format, in the order of the scans."""
    volume = np.zeros((3, HEIGHT, WIDTH), np.uint8)
    volume[0, 4:9, 30:50] = volume[1, 5:17, 7:33] = 1
    volume[1, 5, 7] = 0
    boxes = {
        "voc": Box(5.5, 6, 20.25, 18, 0),
        "yolo": Box(8, 6, 24, 15, 0),
        "coco": Box(4.4, 7.7, 16.7, 17.6, 0),
        "csv": Box(3.5, 4.25, 15, 16.125, 0),
    }
    masks = {"png": volume[1:2], "nifti": volume, "nrrd": volume, "dicom-seg": volume}
    for number, format in enumerate((*boxes, "png"), 1):
        picture(root / format / "images" / f"{format}.png", number, (HEIGHT, WIDTH))
    edges = zip(("xmin", "ymin", "xmax", "ymax"), boxes["voc"].to_json(), strict=False)
    told = "".join(f"<{name}>{edge}</{name}>" for name, edge in edges)
    (root / "voc" / "images" / "voc.xml").write_text(
        f"<annotation><filename>voc.png</filename><size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
        f"<object><name>cell</name><bndbox>{told}</bndbox></object></annotation>"
    )
    (root / "yolo" / "labels").mkdir()
    (root / "yolo" / "labels" / "yolo.txt").write_text(f"0 {16 / WIDTH} {10.5 / HEIGHT} {16 / WIDTH} {9 / HEIGHT}\n")
    (root / "yolo" / "data.yaml").write_text("names: [cell]\n")
    coco = {
        "images": [{"id": 1, "file_name": "images/coco.png", "width": WIDTH, "height": HEIGHT}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 7, "bbox": [4.4, 7.7, 12.3, 9.9]}],
        "categories": [{"id": 7, "name": "cell"}],
    }
    (root / "coco" / "boxes.json").write_text(json.dumps(coco))
    (root / "csv" / "boxes.csv").write_text("file,x0,y0,x1,y1,label\nimages/csv.png,3.5,4.25,15,16.125,cell\n")
    (root / "png" / "masks").mkdir()
    Image.fromarray(volume[1] * 255).save(root / "png" / "masks" / "png.png")
    (root / "png" / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "tumour": 255}}))
    for seed, (format, ending) in enumerate({"nifti": ".nii.gz", "nrrd": ".nrrd"}.items()):
        voxels = np.random.default_rng(seed).normal(100, 20, volume.shape[::-1]).astype(np.int16)
        for part, values in (("imagesTr", voxels), ("labelsTr", volume.T)):
            path = root / format / part / f"{format}{'_0000' * (part == 'imagesTr')}{ending}"
            path.parent.mkdir(parents=True)
            if format == "nifti":  # the first axis to the left, the second to the back, as pictures are looked at
                nibabel.save(nibabel.Nifti1Image(values, np.diag([-0.5, -0.5, 2, 1])), path)
            else:
                place = {"space": "left-posterior-superior", "space origin": [0, 0, 0]}
                nrrd.write(str(path), values, {**place, "space directions": np.diag([0.5, 0.5, 2])})
        (root / format / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "tumour": 1}}))
    nobody = dict.fromkeys(("PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"), "")
    tags = {**nobody, "AccessionNumber": "", "ReferringPhysicianName": "", "SliceThickness": 2.0}
    tags |= {"SeriesInstanceUID": "1.2.9.1", "FrameOfReferenceUID": "1.2.9.2"}
    slices = [
        dicom(
            root / "dicom-seg" / f"{n}.dcm",
            texture(50 + n, (HEIGHT, WIDTH)).astype(np.int16) * 4,
            2.0 * n,
            InstanceNumber=n + 1,
            **tags,
        )
        for n in range(3)
    ]
    segmentation(root / "dicom-seg" / "seg.dcm", slices, {"tumour": volume})
    dataset: Dataset | None = None
    for format in (*boxes, *masks):
        into = {"into": dataset.id} if dataset else {"name": "all"}
        report, dataset = imported(detect(root / format), home, **into)
        assert report.refused == 0, format
    assert dataset and dataset.classes == ("cell",) and dataset.mask_names == ("tumour",)
    return dataset, boxes, masks


def test_each_label_format_comes_in_is_edited_on_the_canvas_and_goes_out_and_in_without_moving(
    chrome: Browser, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode_nearby(monkeypatch)
    home = server.log.parent
    dataset, boxes, masks = one_scan_of_each_format(tmp_path, home)
    assert {*boxes} == {*BOXES} and {*boxes, *masks} == {*FORMATS}, "none is left out"
    desk = Desk(chrome, server, dataset, "Boxes")
    for index in range(len(boxes)):
        desk.says(f"Scan {dataset.cases[index].id}")
        desk.says("1 box here")
        steady(desk.canvas)
        desk.drag((34, 22), (52, 40))
        desk.says("2 boxes here")
        desk.press("n")
    desk.page.get_by_role("radio", name="Outlines", exact=True).click()
    desk.says("Click corner after corner")
    desk.press("d")
    expect(desk.page.get_by_text("Width (pixels of the scan)")).to_be_visible(timeout=SOON_MS)
    for index in range(len(boxes), len(dataset)):
        desk.says(f"Scan {dataset.cases[index].id}")
        desk.says("As it came with the import")
        steady(desk.canvas)
        desk.drag((12, 36), (44, 36))
        desk.says("Corrected ")
        desk.press("n")
    desk.page.close()
    known = desk.known()
    for index, (format, planted) in enumerate(boxes.items()):
        kept, drawn = known.boxes(index) or ()
        assert np.abs(edges(kept) - edges(planted)).max() < 1e-6, format
        assert np.abs(edges(drawn) - (34, 22, 52, 40)).max() < 0.5, format
    for index, (format, outlined) in enumerate(masks.items(), len(boxes)):
        mask = known.mask(index)
        assert mask is not None
        rows, columns = np.nonzero(mask[len(mask) // 2, 28:])
        assert np.abs(np.array([rows.min(), rows.max() + 1]) - (4, 12)).max() <= 1, format
        assert np.abs(np.array([columns.min(), columns.max() + 1]) - (8, 48)).max() <= 1, format
        untouched = mask.copy()
        untouched[len(mask) // 2, 28:] = 0
        np.testing.assert_array_equal(untouched, outlined, err_msg=format)
    for to in FORMATS:
        list(export_labels(known, to, tmp_path / "out" / to))
        report, back = imported(detect(tmp_path / "out" / to), home, name=to)
        assert report.refused == 0, to
        for index, case in enumerate(known.cases):
            if case.carries("boxes") and to in BOXES:
                again = back.boxes(case_of(back, case.id)) or ()
                moved = [
                    np.abs(edges(a) - edges(b)).max() for a, b in zip(known.boxes(index) or (), again, strict=True)
                ]
                assert max(moved) < 0.5, (to, case.id)
            if case.carries("mask") and to not in BOXES:
                mask = known.mask(index)
                assert mask is not None
                parts = [f"{case.id}-{n:04d}" for n in range(len(mask))] if to == "png" and len(mask) > 1 else [case.id]
                masks_again = [back.mask(case_of(back, part)) for part in parts]
                np.testing.assert_array_equal(np.concatenate([m for m in masks_again if m is not None]), mask, str(to))
