"""What `make test` asks of a whole product of combinations, and what is left to `make exhaustive` (CI runs both)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest

THE_REST = pytest.mark.exhaustive


def covering(cases: Iterable[Any], covers: Callable[[int, Any], bool]) -> list[Any]:
    """Parameters of a test: the cases for which `covers(place, case)` holds, the others in `make exhaustive` only."""
    made = []
    for place, case in enumerate(cases):
        values = case if isinstance(case, tuple) else (case,)
        made.append(pytest.param(*values, marks=() if covers(place, case) else THE_REST))
    assert any(not one.marks for one in made), "nothing is left for `make test`"
    return made
