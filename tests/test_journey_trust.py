"""From a run to what can be handed over, in a real browser: operating point, worst case, relabelled, pack, verified."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from builder import operating
from builder.data import Dataset
from builder.evaluate import evaluate
from builder.evidence import pack
from builder.runs import Claim, Run
from tests import browser
from tests.browser import Server, button, keyed
from tests.tiny_runs import tiny_run

pytestmark = [pytest.mark.browser, pytest.mark.keeps_processes, pytest.mark.timeout(600)]

Measured = tuple[Server, Dataset, Run, dict[str, Any]]
LONG_MS = 180_000  # what waits for imports of torch in a fresh supervisor, on a machine that tests run on besides


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Measured]:
    """A server over a data folder with one run that was measured on its test side."""
    home = tmp_path_factory.mktemp("trust")
    dataset, run = tiny_run(home, "tumor_diagnosis", home / "source")
    found = evaluate(run, home, resamples=40)
    server = browser.start_server(home)
    yield server, dataset, run, found
    browser.stop_server(server)
    browser.end_supervisor(home)
    for path in home.glob("*/*/claim.json"):  # a worker outlives its supervisor by design
        claim = Claim.read(path)
        if claim is not None and claim.alive:
            os.kill(claim.pid, signal.SIGKILL)


def test_from_a_run_to_evidence_that_holds(measured: Measured, chromium: str) -> None:
    server, dataset, run, found = measured
    with browser.chromium(height=1500) as chrome:
        page = chrome.page(server.address, f"/results?run={run.id}")

        # The operating point: chosen at one's own prevalence, and kept.
        card = keyed(page, "operating")
        expect(card).to_be_visible(timeout=LONG_MS)
        card.get_by_role("button", name="Keep this").first.click()
        expect(card.get_by_text(re.compile("Kept: from"))).to_be_visible(timeout=LONG_MS)
        assert operating.chosen(run)

        # The worst case is opened with a press, asked about, and given another type.
        keyed(page, "gallery-worst").locator("button:visible").first.click()
        page.wait_for_url("**/test?*", timeout=LONG_MS)
        expect(keyed(page, "correction")).to_be_visible(timeout=LONG_MS)
        keyed(page, "correction").get_by_text("Correct it").click()
        worst = next(case for case in dataset.cases if case.id == found["outlines"]["worst"][0]["case"])
        other = next(name for k, name in enumerate(dataset.classes) if k != worst.label)
        keyed(page, "correction").get_by_role("radio", name=other).first.click()
        browser.settle(page)
        button(page, "save-correction").click()
        expect(keyed(page, "correction").get_by_text("with what you said")).to_be_visible(timeout=LONG_MS)
        after = Dataset.open(run.home, dataset.id)
        assert after.edited and after.cases[dataset.cases.index(worst)].label == dataset.classes.index(other)

        # The pack: made with one press, the test side opened anew for the new label; then it is verified.
        page.goto(f"{server.address}/results?run={run.id}")
        button(page, "make-evidence").click(timeout=LONG_MS)
        expect(keyed(page, "download-evidence")).to_be_visible(timeout=LONG_MS)
        assert pack.made(run) is not None
        button(page, "verify-evidence").click()
        expect(keyed(page, "evidence").get_by_text(re.compile("holds: nothing was changed"))).to_be_visible(
            timeout=LONG_MS
        )

        # One byte of the weights, and the page names them.
        changed(run.folder / "best.safetensors")
        button(page, "verify-evidence").click()
        expect(keyed(page, "evidence").get_by_text("The weights of the run here").first).to_be_visible(timeout=LONG_MS)
        assert chrome.foreign(server.address) == []
        assert "Traceback" not in server.output


def changed(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 13
    path.write_bytes(data)
