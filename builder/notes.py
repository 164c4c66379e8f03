"""What people write about a run: notes and tags, in a file of its own beside what the run tells.

runs/<id>/notes.jsonl       one entry a line, append-only: {at, who, note} or {at, who, tag} or {at, who, untag}
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import dataclass
from typing import Any

from builder.runs import Run, StoreError, append_whole

MOST_NOTE = 4000
MOST_TAG = 40
_KINDS = ("note", "tag", "untag")


@dataclass(frozen=True)
class Note:
    """A remark. `at`: seconds since 1970. `who`: whom the person said to be, "" where nobody asked."""

    at: float
    who: str
    text: str


@dataclass(frozen=True)
class Notes:
    """All that was written about a run: `notes`, the oldest first, and the `tags` that hold now, in their order."""

    notes: tuple[Note, ...] = ()
    tags: tuple[str, ...] = ()


def read(run: Run) -> Notes:
    """What was written about `run`; a line that was cut off while it was written counts as not there."""
    try:
        whole = (run.folder / "notes.jsonl").read_bytes().rpartition(b"\n")[0]
    except OSError:
        return Notes()
    notes: list[Note] = []
    tags: dict[str, None] = {}
    for line in whole.splitlines():
        with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
            entry: dict[str, Any] = json.loads(line)
            if "note" in entry:
                notes.append(Note(float(entry["at"]), str(entry.get("who", "")), str(entry["note"])))
            elif "tag" in entry:
                tags[str(entry["tag"])] = None
            else:
                tags.pop(str(entry["untag"]), None)
    return Notes(tuple(notes), tuple(tags))


def write(run: Run, kind: str, text: str, who: str = "") -> Notes:
    """Adds a note or tag to `run`, or takes a tag off ("untag"); returns all that holds now.

    Raises:
        StoreError: an empty or too long text, unprintable characters in a tag, or a disk that refuses.
    """
    text = text.strip()
    if kind not in _KINDS:
        raise StoreError(f"One writes a {', '.join(_KINDS[:-1])} or {_KINDS[-1]}, not a {kind!r}.")
    most = MOST_NOTE if kind == "note" else MOST_TAG
    if not text or len(text) > most or (kind != "note" and not text.isprintable()):
        raise StoreError(f"A {kind.removeprefix('un')} has 1 to {most:,} printable characters.")
    known = read(run)
    if (kind == "tag") == (text in known.tags) and kind != "note":
        return known
    line = json.dumps({"at": round(time.time(), 3), "who": who[:100], kind: text}, ensure_ascii=False) + "\n"
    try:
        descriptor = os.open(run.folder / "notes.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            append_whole(descriptor, line.encode())  # one write: lines of two people never mix
        finally:
            os.close(descriptor)
    except OSError as error:
        raise StoreError(f"The note could not be kept ({(error.strerror or 'unknown reason').lower()}).") from error
    return read(run)
