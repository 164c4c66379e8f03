"""The network canvas in a real browser: built by mouse and by keyboard, broken, mended and undone, mounted once."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping

import pytest
from playwright.sync_api import Locator, Route, expect

from builder.spec import UNWIRED, Data, Experiment, Node
from pages.kit.draft import Draft
from pages.kit.wiring import unfold
from tests import browser
from tests.browser import Browser, Server, keyed

pytestmark = [pytest.mark.browser, pytest.mark.keeps_processes, pytest.mark.timeout(300)]

LONG_MS = 90_000  # the first plan of a server imports torch
SOON_MS = 15_000
RESIDUAL = {
    "conv2d_1": ("input",),
    "batch_norm_1": ("conv2d_1",),
    "relu_1": ("batch_norm_1",),
    "conv2d_2": ("relu_1",),
    "add_1": ("conv2d_2", "relu_1"),
    "global_pool_1": ("add_1",),
    "linear_1": ("global_pool_1",),
}


@pytest.fixture(scope="module")
def chrome(chromium: str) -> Iterator[Browser]:
    with browser.chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("canvas")
    browser.idle_supervisor(home)
    running = browser.start_server(home)
    yield running
    browser.stop_server(running)
    browser.end_supervisor(home)


def node(id: str, name: str = "relu", *inputs: str, **params: int) -> Node:
    return Node(id=id, name=name, inputs=inputs, params=params)


def deep(num_layers: int = 60) -> tuple[Node, ...]:
    """A long network with a skip in every eighth place."""
    made = [node("first", "conv2d")]
    for k in range(num_layers - 3):
        skips = k % 8 == 7
        made.append(
            node(f"n{k}", "add", made[-1].id, made[-3].id) if skips else node(f"n{k}", ("batch_norm", "relu")[k % 2])
        )
    return (*made, node("pool", "global_pool"), node("scores", "class_scores"))


class Canvas:
    """A page with a draft on its canvas."""

    def __init__(self, chrome: Browser, server: Server, *nodes: Node, dark: bool = False, draft: Draft | None = None):
        self.draft = draft or Draft.create(
            Experiment(name="mine", data=Data(size_px=32), network=nodes), at_home=server.log.parent
        )
        self.page = chrome.page(server.address, f"/network?draft={self.draft.id}", dark=dark)
        expect(self.layer("input")).to_be_visible(timeout=LONG_MS)
        self.page.bring_to_front()
        self.page.wait_for_function("() => document.fonts.status === 'loaded'")

    def layer(self, id: str) -> Locator:
        return self.page.locator(f".react-flow__node[data-id='{id}']")

    def shape(self, id: str) -> Locator:
        return self.layer(id).locator(".nw-shape")

    def item(self, name: str) -> Locator:
        return self.page.locator(f".nw-item[data-layer={name}]")

    def handle(self, id: str, kind: str) -> Locator:
        return self.layer(id).locator(f".react-flow__handle.{kind}")

    def wire(self, id: str) -> Locator:
        return self.page.locator(f".react-flow__edge[data-id='{id}'] .react-flow__edge-interaction")

    @property
    def feeds(self) -> dict[str, tuple[str, ...]]:
        """What feeds each layer of the document on disk."""
        return unfold(self.draft.experiment.network)

    def middle(self, place: Locator) -> tuple[float, float]:
        place.scroll_into_view_if_needed()
        box = place.bounding_box()
        assert box is not None
        return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def drag(self, start: Locator, end: tuple[float, float] | Locator) -> None:
        """Presses on the middle of one thing and lets go on another, or at a point of the page."""
        x, y = self.middle(start)
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.mouse.move(x + 9, y + 9, steps=2)
        self.page.mouse.move(*(end if isinstance(end, tuple) else self.middle(end)), steps=10)
        self.page.mouse.up()

    def stage_point(self, right: float, down: float) -> tuple[float, float]:
        """A point of the canvas, by its share of width and height."""
        box = self.page.locator(".nw-stage").bounding_box()
        assert box is not None
        return box["x"] + box["width"] * right, box["y"] + box["height"] * down

    def becomes(self, feeds: Mapping[str, tuple[str, ...]]) -> None:
        """Waits until the document on disk has these wires and the canvas nothing that Python has not answered."""
        for _ in range(30_000 // 50):
            if self.feeds == feeds:
                break
            self.page.wait_for_timeout(50)
        assert self.feeds == feeds
        self.answered()
        expect(self.page.locator(".react-flow__node:not(.react-flow__node-frame)")).to_have_count(len(feeds) + 1)

    def answered(self) -> None:
        """Waits until Python has answered all that the canvas told."""
        expect(self.page.locator(".nw[data-waits=false]")).to_be_visible(timeout=LONG_MS)

    def focus(self, id: str) -> None:
        self.layer(id).click(position={"x": 60, "y": 12})
        expect(self.layer(id)).to_be_focused()

    @property
    def mounts(self) -> int:
        return int(self.page.evaluate("window.scanloomNetworkMounts"))

    def close(self) -> None:
        self.page.close()


@pytest.fixture
def empty(chrome: Browser, server: Server) -> Iterator[Canvas]:
    canvas = Canvas(chrome, server)
    yield canvas
    canvas.close()


def test_a_network_is_built_from_nothing_by_mouse_broken_mended_and_undone_to_the_start(
    empty: Canvas, chrome: Browser, server: Server
) -> None:
    chrome.complaints.clear()
    page = empty.page
    expect(page.get_by_text("No layers yet")).to_be_visible()
    empty.item("conv2d").click()  # clicked: after the scan
    empty.becomes({"conv2d_1": ("input",)})
    expect(empty.shape("conv2d_1")).to_have_text("16 × 32 × 32")
    empty.drag(empty.item("relu"), empty.stage_point(0.15, 0.75))  # dropped: fed by nothing yet, and told so
    expect(empty.layer("relu_1")).to_contain_text("Nothing is connected to it yet", timeout=SOON_MS)
    empty.becomes({"relu_1": (), "conv2d_1": ("input",)})
    empty.drag(empty.handle("conv2d_1", "source"), empty.handle("relu_1", "target"))
    empty.becomes({"conv2d_1": ("input",), "relu_1": ("conv2d_1",)})
    empty.drag(empty.item("batch_norm"), empty.middle(empty.wire("conv2d_1>relu_1")))  # onto a wire
    empty.becomes({"conv2d_1": ("input",), "batch_norm_1": ("conv2d_1",), "relu_1": ("batch_norm_1",)})
    empty.drag(empty.item("conv2d"), empty.layer("relu_1"))  # onto a layer: after it
    expect(empty.layer("conv2d_2")).to_be_visible()
    empty.item("add").click()  # a joining layer takes the skip with it
    empty.item("global_pool").click()
    empty.item("linear").click()
    empty.becomes(RESIDUAL)
    expect(empty.shape("linear_1")).to_have_text(re.compile(r"^\d+$"), timeout=SOON_MS)

    # Broken: the sum no longer fits; its sentence stands in the layer, with the button that mends it.
    empty.layer("conv2d_2").click()
    channels = keyed(page, "network.conv2d_2.params.out_channels").locator("input")
    channels.fill("24")
    channels.press("Enter")
    expect(empty.layer("add_1").locator(".nw-wrong.error")).to_be_visible(timeout=SOON_MS)
    expect(empty.layer("global_pool_1").locator(".nw-shape")).to_have_text("no shape yet")
    expect(page.get_by_role("button", name="1 layer needs attention")).to_be_visible()
    empty.layer("add_1").locator(".nw-repair").click()
    expect(empty.layer("add_1").locator(".nw-wrong")).to_be_hidden(timeout=SOON_MS)
    expect(empty.shape("add_1")).to_have_text(re.compile("^(16|24) × 32 × 32$"))
    assert len(empty.feeds) > len(RESIDUAL)

    # Undone to the start: the repair, the number, and each layer.
    for _ in range(30):
        if page.locator("[data-tool=undo]").is_disabled():
            break
        page.keyboard.press("Control+z")
        empty.answered()
    empty.becomes({})
    expect(page.get_by_text("No layers yet")).to_be_visible()
    while page.locator("[data-tool=redo]").is_enabled():
        page.keyboard.press("Control+y")
        empty.answered()
    expect(empty.shape("add_1")).to_have_text(re.compile("^(16|24) × 32 × 32$"), timeout=SOON_MS)
    assert empty.mounts == 1
    assert chrome.foreign(server.address) == []
    assert [text for text in chrome.complaints if "404" not in text] == []
    assert "Traceback" not in server.output


def test_a_network_is_built_from_nothing_by_keyboard(empty: Canvas) -> None:
    page = empty.page
    empty.layer("input").focus()

    def added(words: str, id: str) -> None:
        page.keyboard.press("/")
        expect(page.locator(".nw-search input")).to_be_focused()
        page.keyboard.type(words)
        page.keyboard.press("ArrowDown")
        expect(page.locator(".nw-item:focus")).to_be_visible()
        page.keyboard.press("Enter")
        expect(empty.layer(id)).to_be_visible()

    added("convolution filter", "conv2d_1")
    added("batch norm", "batch_norm_1")
    added("relu", "relu_1")
    added("convolution filter", "conv2d_2")
    added("class scores", "class_scores_1")
    empty.becomes(
        {
            "conv2d_1": ("input",),
            "batch_norm_1": ("conv2d_1",),
            "relu_1": ("batch_norm_1",),
            "conv2d_2": ("relu_1",),
            "class_scores_1": ("conv2d_2",),
        }
    )
    expect(empty.layer("class_scores_1").locator(".nw-wrong.error")).to_be_visible(timeout=SOON_MS)

    # From layer to layer, one deleted, others put in, a skip connected: no mouse.
    empty.layer("class_scores_1").focus()
    page.keyboard.press("Delete")
    expect(empty.layer("conv2d_2")).to_be_focused()
    added("concat", "concatenate_1")
    empty.layer("concatenate_1").focus()
    page.keyboard.press("Delete")
    expect(empty.layer("conv2d_2")).to_be_focused()
    added("add", "add_1")
    added("global pool", "global_pool_1")
    added("linear", "linear_1")
    empty.becomes(RESIDUAL)

    page.keyboard.press("Escape")
    empty.layer("linear_1").focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    expect(empty.layer("add_1")).to_be_focused()
    page.keyboard.press("ArrowUp")
    expect(empty.layer("conv2d_2")).to_be_focused()
    page.keyboard.press("c")  # connect from here; the next layer is proposed and already fed by it
    expect(page.locator(".nw-link")).to_contain_text("conv2d_2 → add_1")
    expect(page.locator(".nw-link")).to_contain_text("already gets this")
    page.keyboard.press("ArrowUp")
    expect(page.locator(".nw-link")).to_contain_text("a loop")
    page.keyboard.press("Enter")
    expect(page.locator(".nw-toast")).to_contain_text("That would be a loop")
    page.keyboard.press("Escape")
    for key in ("Home", "ArrowDown", "c"):
        page.keyboard.press(key)
    for _ in range(3):
        page.keyboard.press("ArrowDown")
    expect(page.locator(".nw-link")).to_contain_text("conv2d_1 → add_1")
    page.keyboard.press("Enter")
    empty.becomes(RESIDUAL | {"add_1": ("conv2d_2", "relu_1", "conv2d_1")})
    page.keyboard.press("Control+z")
    empty.becomes(RESIDUAL)

    # Enter leads into the form; what is typed there is in the layer at once.
    empty.layer("conv2d_2").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowDown")
    expect(empty.layer("conv2d_1")).to_be_focused()
    page.keyboard.press("Enter")
    field = keyed(page, "network.conv2d_1.params.out_channels").locator("input")
    expect(field).to_be_focused(timeout=SOON_MS)
    field.fill("20")
    field.press("Enter")
    expect(empty.shape("conv2d_1")).to_have_text("20 × 32 × 32", timeout=SOON_MS)
    assert empty.mounts == 1


def test_a_wire_that_cannot_be_is_refused_in_words(chrome: Browser, server: Server) -> None:
    canvas = Canvas(
        chrome, server, node("a", "conv2d"), node("b"), node("pool", "global_pool"), node("s", "class_scores")
    )
    before = canvas.feeds
    for source, target, words in (
        ("b", "a", "a loop"),
        ("a", "pool", "takes one input and has one"),
        ("a", "s", "takes one input and has one"),
    ):
        canvas.drag(canvas.handle(source, "source"), canvas.handle(target, "target"))
        expect(canvas.page.locator(".nw-toast")).to_contain_text(words)
        canvas.page.locator(".nw-toast button").click()
    canvas.layer("s").click()
    canvas.page.mouse.click(*canvas.middle(canvas.wire("pool>s")))
    canvas.page.keyboard.press("Delete")
    canvas.becomes(before | {"s": ()})
    canvas.drag(canvas.handle("b", "source"), canvas.handle("s", "target"))
    expect(canvas.page.locator(".nw-toast")).to_contain_text("takes a vector")
    expect(canvas.page.locator(".nw-toast")).to_contain_text("gives a picture")
    assert canvas.feeds == before | {"s": ()}
    canvas.close()


def test_wires_reach_their_layers_where_the_style_sheet_comes_after_the_program(
    chrome: Browser, server: Server
) -> None:
    def late(route: Route) -> None:
        time.sleep(1)
        route.continue_()

    chrome.context.route("**/network.css*", late)
    canvas = Canvas(chrome, server, node("a"), node("b"))
    chrome.context.unroute("**/network.css*")
    ends = [
        [canvas.wire(id).bounding_box() for id in ("input>a", "a>b")],
        [canvas.layer(id).bounding_box() for id in "ab"],
    ]
    for wire, layer in zip(*ends, strict=True):
        assert wire and layer and wire["height"] < 60 and abs(wire["y"] + wire["height"] - layer["y"]) < 15
    canvas.close()


def test_copy_paste_duplicate_delete_and_blocks_of_several_layers(chrome: Browser, server: Server) -> None:
    canvas = Canvas(chrome, server, node("a", "conv2d", out_channels=40), node("b"), node("pool", "global_pool"))
    page = canvas.page
    canvas.focus("a")
    canvas.layer("b").click(modifiers=["Shift"])
    page.keyboard.press("Control+d")
    canvas.becomes({"a": ("input",), "b": ("a",), "conv2d_1": ("b",), "relu_1": ("conv2d_1",), "pool": ("relu_1",)})
    assert canvas.draft.experiment.at("network.conv2d_1.params.out_channels") == 40
    page.keyboard.press("Control+x")  # the copies are still chosen
    canvas.becomes({"a": ("input",), "b": ("a",), "pool": ("b",)})
    canvas.focus("b")
    page.keyboard.press("Control+v")
    canvas.becomes({"a": ("input",), "b": ("a",), "conv2d_2": ("b",), "relu_2": ("conv2d_2",), "pool": ("relu_2",)})
    assert canvas.draft.experiment.at("network.conv2d_2.params.out_channels") == 40
    page.keyboard.press("Control+g")
    block = page.locator(".nw-block")
    expect(block).to_contain_text("2 layers")
    expect(canvas.layer("conv2d_2")).to_have_count(0)
    expect(block.locator(".nw-shape")).to_have_text("40 × 32 × 32")
    block.get_by_role("button", name="Open the block").click()
    expect(canvas.layer("conv2d_2")).to_be_visible()
    expect(page.locator(".nw-frame")).to_be_visible()
    canvas.answered()
    page.reload()
    expect(page.locator(".nw-frame")).to_be_visible(timeout=SOON_MS)
    canvas.focus("a")
    page.keyboard.press("Control+a")
    page.keyboard.press("Delete")
    canvas.becomes({})
    page.keyboard.press("Control+z")
    expect(canvas.layer("relu_2")).to_be_visible()
    canvas.close()


def test_a_number_that_is_being_typed_while_a_layer_is_dropped_is_not_lost(chrome: Browser, server: Server) -> None:
    canvas = Canvas(chrome, server, node("a", "conv2d"), node("pool", "global_pool"), node("s", "class_scores"))
    canvas.layer("a").click()
    field = keyed(canvas.page, "network.a.params.out_channels").locator("input")
    expect(field).to_be_visible(timeout=SOON_MS)
    field.click()
    field.fill("37")  # no Enter: the hand goes straight to the palette
    canvas.drag(canvas.item("relu"), canvas.layer("a"))
    canvas.becomes({"a": ("input",), "relu_1": ("a",), "pool": ("relu_1",), "s": ("pool",)})
    expect(canvas.shape("relu_1")).to_have_text("37 × 32 × 32", timeout=SOON_MS)
    assert canvas.draft.experiment.at("network.a.params.out_channels") == 37
    canvas.close()


def test_a_burst_of_gestures_loses_nothing(chrome: Browser, server: Server) -> None:
    canvas = Canvas(chrome, server, node("a", "conv2d"))
    canvas.layer("a").click()
    for _ in range(7):
        canvas.item("relu").click(no_wait_after=True)
    expect(canvas.layer("relu_7")).to_be_visible()
    canvas.becomes({"a": ("input",)} | {f"relu_{k}": (f"relu_{k - 1}" if k > 1 else "a",) for k in range(1, 8)})
    canvas.close()


def test_two_tabs_do_not_fight(chrome: Browser, server: Server) -> None:
    one = Canvas(chrome, server, node("a", "conv2d"), node("pool", "global_pool"), node("s", "class_scores"))
    two = Canvas(chrome, server, draft=one.draft)
    one.layer("a").click()
    one.item("relu").click()
    one.becomes({"a": ("input",), "relu_1": ("a",), "pool": ("relu_1",), "s": ("pool",)})
    two.layer("s").click()
    two.page.keyboard.press("Delete")  # this tab has not heard of the other's layer
    two.becomes({"a": ("input",), "relu_1": ("a",), "pool": ("relu_1",)})
    two.layer("a").click()
    two.item("relu").click()  # the same id is free here, but not there
    two.becomes({"a": ("input",), "relu_2": ("a",), "relu_1": ("relu_2",), "pool": ("relu_1",)})
    one.item("gelu").click()
    one.becomes({"a": ("input",), "relu_2": ("a",), "relu_1": ("relu_2",), "gelu_1": ("relu_1",), "pool": ("gelu_1",)})
    one.close()
    two.close()


def test_a_layer_that_was_moved_stays_there_after_a_reload_and_moves_back_by_undo(
    chrome: Browser, server: Server
) -> None:
    canvas = Canvas(chrome, server, node("a", "conv2d"), node("b"))
    before = canvas.layer("b").bounding_box()
    assert before is not None
    x, y = canvas.middle(canvas.layer("b"))
    canvas.drag(canvas.layer("b"), (x + 120, y + 40))
    for _ in range(100):
        if canvas.draft.layout:
            break
        canvas.page.wait_for_timeout(50)
    assert set(canvas.draft.layout["moved"]) == {"b"}
    canvas.page.reload()
    expect(canvas.layer("b")).to_be_visible(timeout=LONG_MS)
    after, above = canvas.layer("b").bounding_box(), canvas.layer("a").bounding_box()
    assert after and above and after["x"] > above["x"] + 60
    canvas.focus("a")
    canvas.page.keyboard.press("Control+z")
    canvas.answered()
    for _ in range(100):
        if not canvas.draft.layout:
            break
        canvas.page.wait_for_timeout(50)
    assert canvas.draft.layout == {}
    assert canvas.draft.experiment.network == (node("a", "conv2d"), node("b"))
    canvas.close()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_sixty_layers_are_readable_at_once_and_follow_the_theme(chrome: Browser, server: Server, dark: bool) -> None:
    canvas = Canvas(chrome, server, *deep(), dark=dark)
    page = canvas.page
    expect(canvas.shape("scores")).to_have_text("2", timeout=LONG_MS)
    stage = page.locator(".nw-stage").bounding_box()
    boxes = [one.bounding_box() for one in page.locator(".react-flow__node").all()]
    assert stage and len(boxes) == 61
    found = [b for b in boxes if b is not None]
    for box in found:  # every layer is in sight, and none covers another
        assert stage["x"] <= box["x"] and box["x"] + box["width"] <= stage["x"] + stage["width"] + 1
        assert stage["y"] <= box["y"] and box["y"] + box["height"] <= stage["y"] + stage["height"] + 1
    for k, a in enumerate(found):
        for b in found[k + 1 :]:
            apart = a["x"] + a["width"] <= b["x"] or b["x"] + b["width"] <= a["x"]
            assert apart or a["y"] + a["height"] <= b["y"] or b["y"] + b["height"] <= a["y"]
    title = canvas.layer("n3").locator(".nw-title")
    high = title.bounding_box()
    assert high and high["height"] > 8, "a title is large enough to be read with the whole network in sight"
    card = canvas.layer("n3").locator(".nw-card")
    assert card.evaluate("e => getComputedStyle(e).backgroundColor") == (
        "rgb(16, 21, 29)" if dark else "rgb(255, 255, 255)"
    )
    page.locator("[data-tool=fold]").click()
    expect(page.locator(".nw-block")).to_have_count(1)
    expect(canvas.layer("n3")).to_have_count(0)
    page.locator("[data-tool=unfold]").click()
    expect(canvas.layer("n3")).to_be_visible()
    canvas.close()


def test_layers_are_named_to_a_screen_reader_and_the_list_shows_the_same_network(
    chrome: Browser, server: Server
) -> None:
    canvas = Canvas(chrome, server, node("a", "conv2d"), node("s", "class_scores"))
    page = canvas.page
    expect(canvas.layer("a")).to_have_attribute("aria-label", re.compile(r"Convolution, a, .*gives 16 × 32 × 32"))
    expect(canvas.layer("s")).to_have_attribute("aria-label", re.compile("Problem: Class scores"))
    expect(page.get_by_role("button", name="Add ReLU", exact=True)).to_be_attached()
    expect(page.get_by_role("button", name="Undo", exact=True).last).to_be_attached()
    canvas.item("relu").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_text("ReLU added", exact=False).first).to_be_attached()
    keyed(page, "network-view").get_by_text("List", exact=True).click()
    expect(page.locator(".st-key-layers").get_by_text("relu_1")).to_be_visible(timeout=SOON_MS)
    canvas.close()


def test_a_layer_dropped_in_a_document_is_unwired_on_disk(chrome: Browser, server: Server) -> None:
    canvas = Canvas(chrome, server, node("a", "conv2d"), node("loose", "relu", UNWIRED))
    expect(canvas.layer("loose")).to_contain_text("Nothing is connected to it yet", timeout=LONG_MS)
    canvas.layer("loose").locator(".nw-repair").click()
    canvas.becomes({"a": ("input",), "loose": ("a",)})
    canvas.close()
