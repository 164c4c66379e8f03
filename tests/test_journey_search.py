"""A search in one real browser: three choices unlocked, eight trials, their pictures, the winner, cross-validated."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from builder.runs import Claim
from builder.search.studies import StudyStore
from builder.task import find
from pages.kit.draft import Draft
from tests import browser
from tests.browser import Browser, Server, button, keyed
from tests.test_journey import LONG_MS
from tests.tiny_runs import small_set

pytestmark = [pytest.mark.browser, pytest.mark.keeps_processes, pytest.mark.timeout(600)]
CHOICES = ("training.optimizer.params.lr", "training.optimizer", "training.label_smoothing")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("search")


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[Server]:
    running = browser.start_server(place)
    yield running
    browser.stop_server(running)
    browser.end_supervisor(place)
    for path in place.glob("*/*/claim.json"):  # a worker outlives its supervisor by design
        claim = Claim.read(path)
        if claim is not None and claim.alive:
            os.kill(claim.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def chrome(chromium: str) -> Iterator[Browser]:
    with browser.chromium(height=1100) as opened:
        yield opened


def test_three_unlocked_choices_eight_trials_and_the_winner(
    chrome: Browser, server: Server, place: Path, tmp_path: Path
) -> None:
    dataset = small_set(place, "recognition", tmp_path / "scans")
    starter = next(iter(find("recognition").starters())).replace("training.epochs", 1)
    draft = Draft.create(starter.replace("data.dataset", dataset.id).replace("data.size_px", 32), at_home=place)

    # Each lock stands beside its choice.
    page = chrome.page(server.address, f"/training?draft={draft.id}")
    for path in CHOICES:
        if path == CHOICES[2]:
            page.get_by_role("tab", name="Regularization").click()
        button(page, f"unlock:{path}").click(timeout=LONG_MS)
        expect(keyed(page, f"tried:{path}")).to_be_visible()
    assert draft.experiment.search is not None
    assert {d.path for d in draft.experiment.search.dimensions} == set(CHOICES)

    # The search: eight trials, begun by the one main button.
    page.get_by_role("link", name="Which settings win?").click()
    trials = keyed(page, "search.num_trials").locator("input")
    trials.fill("8", timeout=LONG_MS)
    trials.press("Enter")
    start = button(page, "start-search")
    expect(start).to_be_enabled()
    start.click()
    page.wait_for_url("**/search?*study=*", timeout=LONG_MS)

    # Its pictures come while it runs, and it ends by itself.
    expect(keyed(page, "study-winner").get_by_text("The winner")).to_be_visible(timeout=4 * LONG_MS)
    keyed(page, "study-view").get_by_role("radio", name="All choices").click()
    lines, over = page.locator(".strands canvas[role=img]"), page.locator(".strands canvas.over")
    expect(lines).to_have_attribute("data-lines", "8", timeout=4 * LONG_MS)
    study = StudyStore(place).studies()[0]
    view = study.view()
    assert [trial.status for trial in view.trials] == ["done"] * 8 and view.best is not None
    winner = view.best

    # A part of the last axis keeps the trials that pass there; a press on it lets go.
    last = over.evaluate("canvas => canvas.clientWidth") - 40
    over.drag_to(over, source_position={"x": last, "y": 40}, target_position={"x": last, "y": 150})
    expect(lines).not_to_have_attribute("data-kept", "8")
    over.click(position={"x": last, "y": 250})
    expect(lines).to_have_attribute("data-kept", "8")

    # The winner opens as an experiment of its own, and is an ordinary run: it is cross-validated like any.
    button(page, "best-experiment").click()
    page.wait_for_url("**/training?*draft=*", timeout=LONG_MS)
    rate = keyed(page, CHOICES[0]).locator("input")
    expect(rate).to_be_visible(timeout=LONG_MS)
    assert float(rate.input_value()) == pytest.approx(winner.params[CHOICES[0]], rel=0.01)
    page.go_back()
    page.wait_for_url("**/search?*study=*", timeout=LONG_MS)
    button(page, "worth-folds").click(timeout=LONG_MS)
    page.wait_for_url(f"**/results?*run={winner.run}*", timeout=LONG_MS)
    keyed(page, "folding-folds").get_by_role("radio", name="3").click(timeout=LONG_MS)
    button(page, "folding-begin").click()
    expect(keyed(page, "folding-chart")).to_be_visible(timeout=4 * LONG_MS)
    assert not chrome.foreign(server.address)
