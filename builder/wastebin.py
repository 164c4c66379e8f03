"""Deleted runs: out of every list at once, back with one press, gone for good after two weeks or on a full disk.

home/bin/<id>/              the folder of the run as it was, and `deleted`, made when it came here
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from builder.runs import Run, RunStore, StoreError, checked_id, read_json

KEPT_S = 14 * 86400.0
SHORT_BYTES = 1_000_000_000  # with less than this free the oldest go before their time
_WHEN = "deleted"


@dataclass(frozen=True)
class Gone:
    """A deleted run that can still come back. `at`: seconds since 1970."""

    id: str
    name: str
    at: float
    bytes: int


def discard(store: RunStore, id: str) -> None:
    """Deletes a run that has ended, so that it can come back. StoreError while it waits or works."""
    run = store.run(id)
    if run.view().active:
        raise StoreError(f"The run {id} is still waiting or running; stop it first.")
    place = store.home / "bin"
    place.mkdir(exist_ok=True, mode=0o700)
    (run.folder / _WHEN).touch()
    os.rename(run.folder, place / id)


def restore(store: RunStore, id: str) -> Run:
    """Brings a deleted run back as it was. StoreError where it is gone for good."""
    folder = store.home / "bin" / checked_id(id)
    try:
        os.rename(folder, store.home / "runs" / id)
    except OSError:
        raise StoreError("This run is gone for good: deleted runs are kept for two weeks, space permitting.") from None
    run = store.run(id)
    (run.folder / _WHEN).unlink(missing_ok=True)
    return run


def content(home: Path) -> list[Gone]:
    """The deleted runs, the last deleted first."""
    found = []
    for folder in _folders(home):
        with contextlib.suppress(OSError):
            document = read_json(folder / "experiment.json") or {}
            num_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            at = (folder / _WHEN).stat().st_mtime
            found.append(Gone(folder.name, str(document.get("name") or "Unreadable experiment"), at, num_bytes))
    return sorted(found, key=lambda gone: gone.at, reverse=True)


def remove(home: Path, id: str) -> None:
    """Takes a deleted run away for good."""
    folder = home / "bin" / checked_id(id)
    passing = folder.with_name(f".gone-{id}-{secrets.token_hex(4)}")
    with contextlib.suppress(FileNotFoundError):
        os.rename(folder, passing)
        shutil.rmtree(passing)


def sweep(home: Path, kept_s: float = KEPT_S, short_bytes: int = SHORT_BYTES) -> int:
    """Takes away for good what was deleted long ago and, while the disk is short, the oldest of the rest; how many."""
    gone, now = 0, time.time()
    for entry in reversed(content(home)):
        if now - entry.at > kept_s or shutil.disk_usage(home).free < short_bytes:
            remove(home, entry.id)
            gone += 1
    for left in (home / "bin").glob(".gone-*"):
        shutil.rmtree(left, ignore_errors=True)
    return gone


def _folders(home: Path) -> list[Path]:
    place = home / "bin"
    return [folder for folder in place.iterdir() if not folder.name.startswith(".")] if place.is_dir() else []
