"""Numbers that only grow in number, eight bytes each: what a run tells is kept for as long as somebody looks at it."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Growing"]

Number = TypeVar("Number", int, float)


class Growing(Sequence[Number], Generic[Number]):
    """A row of numbers, read like a list and equal to the list of the same numbers, at a quarter of its room.

    A list takes 32 bytes a number, this one 8 (and at most a sixteenth of spare room): whole numbers as int64, others
    as float64, so each comes back to the bit. Slices are lists of their own. As a numpy array it is always a copy:
    who still holds one does not keep the row from growing.

    Args:
        kind: int or float. numbers: to begin with.
    """

    __slots__ = ("_row",)

    def __init__(self, kind: type[Number], numbers: Iterable[Number] = ()) -> None:
        self._row: array[Number] = array("q" if kind is int else "d", numbers)  # type: ignore[arg-type]

    def append(self, number: Number) -> None:
        self._row.append(number)

    def tell_anew(self, number: Number) -> None:
        """Puts `number` in the last one's place."""
        self._row[-1] = number

    def until(self, num: int) -> Growing[Number]:
        """The first `num` numbers, as a row of its own."""
        made: Growing[Number] = object.__new__(type(self))
        made._row = self._row[:num]
        return made

    def __len__(self) -> int:
        return len(self._row)

    @overload
    def __getitem__(self, at: int) -> Number: ...
    @overload
    def __getitem__(self, at: slice) -> list[Number]: ...
    def __getitem__(self, at: int | slice) -> Number | list[Number]:
        found = self._row[at]
        return found.tolist() if isinstance(found, array) else found

    def __iter__(self) -> Iterator[Number]:
        return iter(self._row)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Growing):
            return self._row == other._row
        return self._row.tolist() == other if isinstance(other, list) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(self._row.tolist())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """(N,) int64 or float64, or of `dtype`: a copy."""
        import numpy as np

        if copy is False:
            raise ValueError("A growing row is always copied into an array; leave out copy=False.")
        return np.array(self._row, dtype)
