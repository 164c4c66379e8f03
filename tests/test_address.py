"""The address of a page: a request that was under way carries the old one, and takes nothing back."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import streamlit as st

from pages.kit import address


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What stands in the address; Streamlit fills it anew from each request."""
    params: dict[str, str] = {}
    monkeypatch.setattr(st, "query_params", params)
    monkeypatch.setattr(st, "session_state", {})
    return params


def test_a_late_request_does_not_take_back_what_a_page_has_written(url: dict[str, str]) -> None:
    url["run"] = "old"
    address.put("run", "new")
    assert url["run"] == "new"
    url["run"] = "old"  # a timer's request that was under way
    assert address.get("run") == "new" and url["run"] == "new"
    address.put("run", "newest")
    for late in ("old", "new"):
        url["run"] = late
        assert address.get("run") == "newest"


def test_what_was_taken_away_does_not_come_back_with_a_late_request(url: dict[str, str]) -> None:
    url["job"] = "7"
    address.drop("job")
    assert "job" not in url
    url["job"] = "7"
    assert address.get("job") == "" and "job" not in url


def test_another_value_than_the_replaced_one_is_believed(url: dict[str, str]) -> None:
    url["run"] = "old"
    address.put("run", "new")
    url["run"] = "third"  # typed, or a link
    assert address.get("run") == "third"


def test_after_some_seconds_and_on_another_page_the_address_is_believed(
    url: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url["run"] = "old"
    address.put("run", "new")
    url["run"] = "old"
    address.on_page("results")
    assert address.get("run") == "old"
    address.put("run", "new")
    url["run"] = "old"
    monkeypatch.setattr(address, "_LATE_S", 0.0)  # the person went back in the history a while later
    assert address.get("run") == "old"


def test_who_goes_back_in_the_history_is_followed_at_once(url: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    address.on_page("runs")
    url["run"] = "old"
    address.put("run", "new")
    url["run"] = "old"
    monkeypatch.setattr(address, "get_script_run_ctx", lambda **_: SimpleNamespace(is_history_navigation=True))
    address.on_page("runs")
    assert address.get("run") == "old"


def test_nothing_but_this_module_reads_or_writes_the_address() -> None:
    pages = Path(address.__file__).parents[1]
    direct = re.compile(r"\bst\.query_params")  # a route's own request.query_params are another thing
    assert [p.name for p in pages.rglob("*.py") if direct.search(p.read_text())] == ["address.py"]
