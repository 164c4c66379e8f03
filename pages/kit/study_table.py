"""All trials as the rows of a table: state, what each reached, its epochs, and its choices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from builder.search.studies import TrialView
from pages.kit.study_words import STATES, option_words

__all__ = ["columns", "rows"]


def rows(trials: Sequence[TrialView], names: Sequence[str], titles: Mapping[str, str]) -> dict[str, list[Any]]:
    """Returns the table as columns of equal length; what a trial has not is None."""
    found: dict[str, list[Any]] = {
        "Trial": [t.number for t in trials],
        "State": [STATES.get(t.status, t.status) + (" (restarted)" if t.retried else "") for t in trials],
    }
    for k, name in enumerate(names):
        found[name] = [t.values[k] if len(t.values) > k else None for t in trials]
    found["Epochs"] = [t.epochs or None for t in trials]
    found["Seconds"] = [round(t.seconds) if t.seconds else None for t in trials]
    for path, title in titles.items():
        found[_free(title, found)] = [_cell(path, t.params.get(path)) for t in trials]
    return found


def columns(rows: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """How the columns of `rows` are shown."""
    floats = [n for n, column in rows.items() if any(isinstance(value, float) for value in column)]
    return {
        "Trial": st.column_config.NumberColumn(width=60, pinned=True),
        "State": st.column_config.TextColumn(width=125),
        **{name: st.column_config.NumberColumn(format="%.4g") for name in floats},
        "Epochs": st.column_config.NumberColumn(width=70),
        "Seconds": st.column_config.NumberColumn(width=80),
    }


def _free(title: str, taken: Mapping[str, Any]) -> str:
    return title if title not in taken else _free(f"{title} ", taken)


def _cell(path: str, value: Any) -> Any:
    """Numbers stay numbers, so that a column sorts by them."""
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    return option_words(path, value)
