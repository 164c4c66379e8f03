"""Numbers that only grow in number: what a run tells is kept for as long as somebody looks at it, the newest in memory
and the rest in a scratch file, so a run of a week takes no more memory than one of an hour."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any, Generic, TypeVar, overload

if TYPE_CHECKING:
    import numpy as np

__all__ = ["PAGE", "Growing"]

Number = TypeVar("Number", int, float)
PAGE = 1024
"""Numbers that are put into the scratch file together. Of each row between one and two times as many stay in memory."""
_EACH = 8  # bytes a number


class _Scratch:
    """A file without a name that pages are put into and read from; gone when the process ends. Thread-safe."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - open for as long as the process lives
        self._lock = threading.Lock()
        self._free: list[int] = []
        self._num = 0

    def put(self, page: bytes) -> int:
        """Writes a page and returns its place.

        Raises:
            OSError: there is no room on the disk.
        """
        with self._lock:
            place = self._free.pop() if self._free else self._num
            self._num = max(self._num, place + 1)
        try:
            done = 0
            while done < len(page):
                done += os.pwrite(self._file.fileno(), page[done:], place * PAGE * _EACH + done)
        except OSError:
            self.give_back(place)
            raise
        return place

    def read(self, place: int, at: int, num: int) -> bytes:
        """`num` numbers of a page from its number `at` on."""
        return os.pread(self._file.fileno(), num * _EACH, (place * PAGE + at) * _EACH)

    def give_back(self, place: int) -> None:
        # Not under the lock: the collector may call this while this very thread holds it. Adding to a list is one step.
        self._free.append(place)


_scratch: _Scratch | None = None
_making = threading.Lock()


def _here() -> _Scratch:
    """This process's own: a child must not write into the file that it has inherited."""
    global _scratch
    with _making:
        if _scratch is None or _scratch.process != os.getpid():
            _scratch = _Scratch()
        return _scratch


class _Page:
    """PAGE numbers that no longer change, in the scratch file; in memory where the disk has no room."""

    __slots__ = ("_kept", "_place", "_scratch")

    def __init__(self, numbers: bytes) -> None:
        self._kept: bytes | None = None
        self._scratch: _Scratch | None = None
        self._place = 0
        try:
            scratch = _here()
            self._place = scratch.put(numbers)
            self._scratch = scratch
        except OSError:
            self._kept = numbers

    def read(self, at: int = 0, num: int = PAGE) -> bytes:
        if self._scratch is not None:
            return self._scratch.read(self._place, at, num)
        assert self._kept is not None
        return self._kept[at * _EACH : (at + num) * _EACH]

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # half made
            if self._scratch is not None and self._scratch.process == os.getpid():
                self._scratch.give_back(self._place)


class Growing(Sequence[Number], Generic[Number]):
    """A row of numbers, read like a list and equal to the list of the same numbers, in at most 16 KiB of memory.

    Whole numbers are int64, others float64, so each comes back to the bit. Slices are lists of their own. As a numpy
    array it is always a copy: who still holds one does not keep the row from growing. Only its owner may add to it;
    others may read meanwhile. A child of the process that it was made in must not use it.

    Args:
        kind: int or float. numbers: to begin with.
    """

    __slots__ = ("_now",)
    _now: tuple[tuple[_Page, ...], array[Number]]
    """(pages, the newest numbers): changed together, so who reads meanwhile sees the one or the other state."""

    def __init__(self, kind: type[Number], numbers: Iterable[Number] = ()) -> None:
        row: array[Number] = array("q" if kind is int else "d")  # type: ignore[assignment]
        self._now = (), row
        for number in numbers:
            self.append(number)

    def append(self, number: Number) -> None:
        row = self._now[1]
        row.append(number)
        if len(row) >= 2 * PAGE:
            self._now = (*self._now[0], _Page(row[:PAGE].tobytes())), row[PAGE:]

    def tell_anew(self, number: Number) -> None:
        """Puts `number` in the last one's place."""
        self._now[1][-1] = number

    def until(self, num: int) -> Growing[Number]:
        """The first `num` numbers, as a row of its own."""
        pages = self._now[0]
        whole = min(max(num - 1, 0) // PAGE, len(pages))  # the last one stays in memory: it may be told anew
        rest = self._between(whole * PAGE, num)
        made: Growing[Number] = object.__new__(type(self))
        made._now = pages[:whole], rest
        return made

    def _between(self, start: int, stop: int) -> array[Number]:
        """The numbers from `start` up to `stop` (at least 0 each), as far as there are any."""
        pages, row = self._now
        found = row[:0]
        for place in range(start // PAGE, min(len(pages), -(-stop // PAGE))):
            first, last = max(start - place * PAGE, 0), min(stop - place * PAGE, PAGE)
            found.frombytes(pages[place].read(first, last - first))
        known = len(pages) * PAGE
        return found + row[max(0, start - known) : max(0, stop - known)]

    def array(self, start: int, stop: int) -> np.ndarray:
        """The numbers from `start` up to `stop` (at least 0 each), as far as there are any, int64 or float64."""
        import numpy as np

        found = self._between(start, stop)
        return np.frombuffer(found, np.dtype(found.typecode))

    def __len__(self) -> int:
        pages, row = self._now
        return len(pages) * PAGE + len(row)

    @overload
    def __getitem__(self, at: int) -> Number: ...
    @overload
    def __getitem__(self, at: slice) -> list[Number]: ...
    def __getitem__(self, at: int | slice) -> Number | list[Number]:
        if isinstance(at, slice):
            places = range(len(self))[at]
            if not places:
                return []
            low, high = min(places[0], places[-1]), max(places[0], places[-1])
            return self._between(low, high + 1)[:: places.step].tolist()
        pages, row = self._now
        known = len(pages) * PAGE
        place = at + known + len(row) if at < 0 else at
        if place >= known:
            return row[place - known]
        if place < 0:
            raise IndexError("there is nothing beyond a row's ends")
        return self._between(place, place + 1)[0]

    def __iter__(self) -> Iterator[Number]:
        pages, row = self._now
        for page in pages:
            part = row[:0]
            part.frombytes(page.read())
            yield from part
        yield from row

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Growing):
            return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))
        return list(self) == other if isinstance(other, list) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(list(self))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """(N,) int64 or float64, or of `dtype`: a copy."""
        import numpy as np

        if copy is False:
            raise ValueError("A growing row is always copied into an array; leave out copy=False.")
        pages, row = self._now
        kind = np.dtype(row.typecode)
        parts = [page.read() for page in pages]
        parts.append(row.tobytes())  # a copy: a row whose memory numpy still looks at could not grow meanwhile
        return np.frombuffer(b"".join(parts), kind).astype(dtype or kind)
