"""What converters share: the table itself, and how settings are typed.

A converter gets the writer, the node and the operator's arguments by name; it writes lines and returns the value. What
it cannot carry exactly it refuses in words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from builder.keras_text.writer import Writer

Converter = Callable[[Writer, Any, dict[str, Any]], Any]
TABLE: dict[str, Converter] = {}
LOWEST = -3e38
"""Stands for minus infinity in borders that a maximum must never choose."""


def converts(*operators: str) -> Callable[[Converter], Converter]:
    def note(converter: Converter) -> Converter:
        TABLE.update(dict.fromkeys(operators, converter))
        return converter

    return note


def each_axis(value: Any, rank: int) -> list[int]:
    """A setting that torch takes once for all axes or once per axis."""
    listed = list(value) if isinstance(value, list | tuple) else [value]
    return [int(v) for v in (listed * rank if len(listed) == 1 else listed)]


def brief(values: Sequence[Any]) -> str:
    """(3, 3) -> "3", (3, 5) -> "(3, 5)"."""
    return str(values[0]) if len(set(values)) == 1 else repr(tuple(values))


def positive(value: int, rank: int) -> int:
    return value % rank


def typed(**settings: Any) -> str:
    """The settings that differ from Keras' own, as they are typed; those that are None are left to Keras."""
    return "".join(f", {name}={value}" for name, value in settings.items() if value is not None)
