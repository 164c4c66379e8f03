"""The second try of what has just failed: few, alone, told, and no way round a fault."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests import again


@pytest.fixture
def failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which pytest leaves what has failed."""
    file = tmp_path / "lastfailed"
    monkeypatch.setattr(again, "FAILED", file)
    return file


def trying(monkeypatch: pytest.MonkeyPatch, code: int) -> list[list[str]]:
    tried: list[list[str]] = []

    def run(command: list[str], **_: object) -> SimpleNamespace:
        tried.append(command)
        return SimpleNamespace(returncode=code)

    monkeypatch.setattr(subprocess, "run", run)
    return tried


def test_what_passes_now_is_told_and_passes(
    failed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failed.write_text(json.dumps({"tests/test_a.py::test_x": True}))
    tried = trying(monkeypatch, 0)
    assert again.main() == 0
    assert tried[0][-1] == "tests/test_a.py::test_x"
    assert "Passed at the second try only" in capsys.readouterr().out


@pytest.mark.parametrize(("number", "tries"), [(0, 0), (1, 1), (again.MOST, 1), (again.MOST + 1, 0)])
def test_what_fails_twice_and_what_fails_in_numbers_fails(
    failed: Path, monkeypatch: pytest.MonkeyPatch, number: int, tries: int
) -> None:
    failed.write_text(json.dumps({f"tests/test_a.py::test_{n}": True for n in range(number)}))
    tried = trying(monkeypatch, 1)
    assert again.main() == 1
    assert len(tried) == tries
