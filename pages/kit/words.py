"""Numbers, times and paths as plain words."""

from __future__ import annotations

import re
import time
from typing import Any

__all__ = ["ago", "amount", "duration", "path_words", "plain", "size", "value_words"]

_SECTIONS = {"training", "data", "network", "params", "augment"}


def plain(text: str) -> str:
    """Returns `text` so that Streamlit's markdown shows it letter by letter: no formatting, links or formulas."""
    return re.sub(r"([\\`*_{}\[\]()<>#+\-!|~$:&])", r"\\\1", " ".join(text.split()))


def size(num_bytes: float) -> str:
    """Returns a number of bytes as people say it: 1536 -> "1.5 kB"."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if num_bytes < 1000 or unit == "GB":
            return f"{num_bytes:,.0f} {unit}" if unit == "bytes" or num_bytes >= 100 else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    raise AssertionError("unreachable")


def amount(count: int, noun: str, plural: str = "") -> str:
    """Returns "1 scan", "2 scans", "1,204 scans"."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def duration(seconds: float) -> str:
    """Returns a span of time in one or two units: 75 -> "1 min 15 s"."""
    seconds = max(0, round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def ago(at: float, now: float | None = None) -> str:
    """Returns how long ago a wall-clock time was: "just now", "3 min ago", "yesterday", "12 days ago"."""
    seconds = (time.time() if now is None else now) - at
    if seconds < 45:
        return "just now"
    if seconds < 3600:
        return f"{max(1, round(seconds / 60))} min ago"
    if seconds < 86_400:
        return f"{round(seconds / 3600)} h ago"
    days = round(seconds / 86_400)
    return "yesterday" if days == 1 else f"{days} days ago"


def path_words(path: str) -> str:
    """Returns the path of a choice in words: "training.optimizer.params.lr" -> "Optimizer: lr"."""
    names = [n.replace("_", " ") for n in path.split(".") if n not in _SECTIONS]
    if not names:
        names = [path.rsplit(".", 1)[-1].replace("_", " ")]
    return ": ".join([names[0][:1].upper() + names[0][1:], *names[1:]])


def value_words(value: Any) -> str:
    """Returns a document's value short enough for a button: numbers plainly, lists and choices by name."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return f"{len(value)} entries"
    if isinstance(value, dict):
        return str(value.get("name", f"{len(value)} settings"))
    return str(getattr(value, "name", value))
