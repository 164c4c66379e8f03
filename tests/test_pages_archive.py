"""The card of the Test page that fetches from an archive: looked for, chosen, asked about; the archive is made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from builder import dicomweb
from builder.dicomweb import Archive, ArchiveError, Series
from pages.kit import archive, jobs

FOUND = [Series("1.2", "1.2.1", "CT", 3, "CHEST", "20260131"), Series("1.3", "1.3.1", "MR", 1, "", "")]


def a_page() -> None:
    from pages.kit import archive

    archive.box(lambda files: None)


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch, home: Path) -> list[dict[str, Any]]:
    """What is asked of the service that fetches."""
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(dicomweb, "archives", lambda _: [Archive("a", "Archive A", "http://127.0.0.1:1")])
    monkeypatch.setattr(dicomweb, "search", lambda *_, **__: FOUND)
    monkeypatch.setattr(jobs, "submit", lambda kind, payload, slot: asked.append({"kind": kind, **payload}))
    return asked


def looked() -> AppTest:
    session = AppTest.from_function(a_page).run()
    next(b for b in session.button if b.label == "Look for scans").click().run()
    assert not session.exception
    return session


def test_the_scan_that_is_chosen_is_fetched_also_when_the_button_is_older(submitted: list[dict[str, Any]]) -> None:
    session = looked()
    assert session.radio[0].options[0].startswith("CT chest, 3 images")
    assert session.button(key="archive-ask").disabled and not submitted
    session.radio(key="archive-chosen").set_value(0).run()
    session.radio(key="archive-chosen").set_value(1)
    session.button(key="archive-ask").click().run()  # pressed before the page was drawn with the second choice
    assert submitted == [{"kind": "fetch", "archive": "a", "study": "1.3", "series": "1.3.1"}]


def test_an_archive_that_cannot_be_asked_says_so(
    submitted: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def search(*_: object, **__: object) -> list[Series]:
        raise ArchiveError("Archive A does not answer.")

    monkeypatch.setattr(dicomweb, "search", search)
    session = looked()
    assert session.error[0].value == "Archive A does not answer." and not session.radio
    assert archive.files() == []
