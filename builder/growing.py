"""Numbers that only grow in number, without a Python object for each: what a run tells is kept while somebody looks."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Growing"]

Number = TypeVar("Number", int, float)


_LEAST = 16


class Growing(Sequence[Number], Generic[Number]):
    """A row of numbers, read like a list and equal to the list of the same numbers, at a quarter of its room.

    A list takes 32 bytes a number, this one 8 and as much spare room at most: whole numbers as int64, others as
    float64, so each comes back to the bit. Room is taken in doubling steps, so a row seldom moves in memory and leaves
    few holes. Slices are lists of their own. As a numpy array it is always a copy: who still holds one does not keep
    the row from growing.

    Args:
        kind: int or float. numbers: to begin with.
    """

    __slots__ = ("_num", "_row")

    def __init__(self, kind: type[Number], numbers: Iterable[Number] = ()) -> None:
        self._row: array[Number] = array("q" if kind is int else "d", numbers)  # type: ignore[arg-type]
        self._num = len(self._row)

    def append(self, number: Number) -> None:
        if self._num == len(self._row):
            self._row.frombytes(bytes(self._row.itemsize * max(_LEAST, self._num)))
        self._row[self._num] = number
        self._num += 1

    def tell_anew(self, number: Number) -> None:
        """Puts `number` in the last one's place."""
        self._row[self._num - 1] = number

    def until(self, num: int) -> Growing[Number]:
        """The first `num` numbers, as a row of its own."""
        made: Growing[Number] = object.__new__(type(self))
        made._row = self._row[: min(num, self._num)]
        made._num = len(made._row)
        return made

    def __len__(self) -> int:
        return self._num

    @overload
    def __getitem__(self, at: int) -> Number: ...
    @overload
    def __getitem__(self, at: slice) -> list[Number]: ...
    def __getitem__(self, at: int | slice) -> Number | list[Number]:
        if isinstance(at, slice):
            return (
                self._row[slice(*at.indices(self._num))].tolist() if at.step in (None, 1) else self._told()[at].tolist()
            )
        if not -self._num <= at < self._num:
            raise IndexError("There is no number at this place.")
        return self._row[at % self._num]

    def __iter__(self) -> Iterator[Number]:
        return islice(self._row, self._num)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Growing):
            return self._told() == other._told()
        return self._told().tolist() == other if isinstance(other, list) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(self._told().tolist())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """(N,) int64 or float64, or of `dtype`: a copy."""
        import numpy as np

        if copy is False:
            raise ValueError("A growing row is always copied into an array; leave out copy=False.")
        return np.array(self._told(), dtype)

    def _told(self) -> array[Number]:
        return self._row[: self._num]
