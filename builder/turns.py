"""The order in which waiting trainings begin, and how a person changes it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from builder.runs import Marker, Run, markers, queue_held, write_atomic


def waiting(home: Path) -> list[Run]:
    """The trainings that wait for their turn, the next one first."""
    return [Run(home, m.id) for m in _waiting(home)]


def _waiting(home: Path) -> list[Marker]:
    return [m for m in markers(home) if m.kind == "train" and Run(home, m.id).view().status == "queued"]


def move(home: Path, id: str, by: int) -> bool:
    """Moves a waiting training `by` places (negative: sooner), held within the queue; False where it waits no more.

    Only the numbers of waiting ones change hands: what has begun keeps its own, and so does what each asking meant.
    """
    queue = _waiting(home)
    at = next((k for k, marker in enumerate(queue) if marker.id == id), None)
    if at is None:
        return False
    numbers = [marker.number for marker in queue]
    queue.insert(min(max(at + by, 0), len(queue) - 1), queue.pop(at))
    with queue_held(home):
        for marker, number in zip(queue, numbers, strict=True):
            path = home / "queue" / marker.id
            now = Marker.read(path)  # it may have ended meanwhile: an asking is never brought back
            if now is not None and now.number != number:
                moved = replace(now, number=number)
                write_atomic(path, json.dumps({"kind": moved.kind, "number": moved.number, "after": moved.after}))
    return True
