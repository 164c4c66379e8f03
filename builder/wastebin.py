"""Deleted runs and searches: out of every list at once, back with one press, gone for good after two weeks or on a full
disk.

home/bin/<id>/              the folder as it was, and
              deleted       made when it came here: {place (runs or studies), bytes}
              with/<place>/ what went with it, such as the trials of a search
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.runs import RunStore, StoreError, checked_id, read_json

KEPT_S = 14 * 86400.0
SHORT_BYTES = 1_000_000_000  # with less than this free the oldest go before their time
PLACES = ("runs", "studies")
_WHEN = "deleted"
_WITH = "with"


@dataclass(frozen=True)
class Gone:
    """A deleted run or search that can still come back. `at`: seconds since 1970. `place`: one of `PLACES`."""

    id: str
    name: str
    at: float
    bytes: int
    place: str = "runs"


def discard(store: RunStore, id: str) -> None:
    """Deletes a run that has ended, so that it can come back. StoreError while it waits or works."""
    run = store.run(id)
    if run.view().active:
        raise StoreError(f"The run {id} is still waiting or running; stop it first.")
    put(store.home, "runs", run.id)


def put(home: Path, place: str, id: str, belonging: Sequence[str] = ()) -> None:
    """Puts a folder into the bin, and into it what belongs to it; whoever asks has seen to it that nothing is at work.

    What belongs goes first: killed in between, the folder is still in its list, and deleting it again ends the work.

    Args:
        place: one of `PLACES`. belonging: folders of the data folder, such as "runs/20260115-141503-f07733".
    """
    folder = home / place / checked_id(id)
    for name in belonging:
        with contextlib.suppress(FileNotFoundError):  # it went there before
            (folder / _WITH / name).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.rename(home / name, folder / _WITH / name)
    (home / "bin").mkdir(exist_ok=True, mode=0o700)
    (folder / _WHEN).write_text(json.dumps({"place": place, "bytes": _bytes(folder)}))
    os.rename(folder, home / "bin" / id)


def restore(store: RunStore, id: str) -> Path:
    """Brings a deleted run or search back as it was; its folder. StoreError where it is gone for good, or was not
    deleted."""
    folder = store.home / "bin" / checked_id(id)
    if not folder.exists() and any((store.home / there / id).exists() for there in PLACES):
        raise StoreError(f"{id} is not deleted: there is nothing to bring back.")
    place = _told(folder)[0]
    try:
        for kept in sorted(folder.glob(f"{_WITH}/*/*")):  # killed in between, the rest comes at the next press
            (store.home / kept.parent.name).mkdir(exist_ok=True, mode=0o700)
            os.rename(kept, store.home / kept.parent.name / kept.name)
        shutil.rmtree(folder / _WITH, ignore_errors=True)
        os.rename(folder, store.home / place / id)
    except OSError:
        raise StoreError("It is gone for good: what was deleted is kept for two weeks, space permitting.") from None
    back = store.home / place / id
    (back / _WHEN).unlink(missing_ok=True)
    return back


def content(home: Path, *places: str) -> list[Gone]:
    """What was deleted, the last first; of all `PLACES`, or of those named."""
    found = []
    for folder in _folders(home):
        with contextlib.suppress(OSError):
            place, num_bytes = _told(folder)
            if place not in (places or PLACES):
                continue
            document = read_json(folder / "experiment.json") or {}
            at = (folder / _WHEN).stat().st_mtime
            found.append(Gone(folder.name, str(document.get("name") or "Unreadable experiment"), at, num_bytes, place))
    return sorted(found, key=lambda gone: gone.at, reverse=True)


def remove(home: Path, id: str) -> None:
    """Takes something deleted away for good."""
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


def _told(folder: Path) -> tuple[str, int]:
    """(place, bytes) of a folder in the bin."""
    told = read_json(folder / _WHEN) or {}  # empty: an earlier version's, of a run
    place = str(told.get("place", "runs"))
    return place if place in PLACES else "runs", int(told["bytes"] if "bytes" in told else _bytes(folder))


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
