"""A scan that comes by HTTP, streamed to the disk: one block in memory, quotas, and nothing left of what broke off."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from anyio import to_thread
from starlette.requests import ClientDisconnect, Request

__all__ = ["Limits", "Refused", "Room"]

_BLOCK_BYTES = 1 << 20
_LOOK_BYTES = 64 << 20  # how often the free disk is looked at


@dataclass(frozen=True)
class Limits:
    """What may come in: bytes a scan, bytes of all scans at once, bytes of the disk that are kept free, seconds without
    a byte, and how many questions may wait or be answered at once."""

    scan_bytes: int = 2 << 30
    total_bytes: int = 8 << 30
    spare_bytes: int = 1 << 30
    silent_s: float = 30.0
    waiting: int = 32


class Refused(Exception):
    """A request that is not answered: its HTTP status, and a sentence for people."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Room:
    """The folder for scans on their way, and how much of it is taken. Asked in one event loop only."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.folder, self.limits = folder, limits
        self._coming_bytes = 0
        self._questions = 0

    @property
    def questions(self) -> int:
        """How many questions wait or are answered now."""
        return self._questions

    @asynccontextmanager
    async def place(self) -> AsyncIterator[Path]:
        """A folder of one question, which is gone afterwards.

        Raises: Refused: too many wait already.
        """
        if self._questions >= self.limits.waiting:
            raise Refused(503, f"{self._questions} scans wait already: ask again in a moment.")
        self._questions += 1
        folder = Path(tempfile.mkdtemp(prefix="scan-", dir=self.folder))
        try:
            yield folder
        finally:
            self._questions -= 1
            shutil.rmtree(folder, ignore_errors=True)

    async def receive(self, request: Request, folder: Path) -> Path:
        """The body of a request as a file in `folder`.

        Raises: Refused: nothing came, too much, too slowly, or the disk is full.
        """
        declared = _declared_bytes(request)
        self._check(max(declared, 0), max(declared, 0))
        path, num_bytes = folder / "came.bin", 0
        try:
            with path.open("xb", buffering=0) as file:
                block, since_look = bytearray(), 0
                coming = request.stream().__aiter__()
                while (chunk := await self._next(coming)) is not None:
                    block += chunk
                    num_bytes += len(chunk)
                    since_look += len(chunk)
                    self._coming_bytes += len(chunk)
                    if num_bytes > self.limits.scan_bytes or since_look > _LOOK_BYTES:
                        self._check(num_bytes, 0)
                        since_look = 0
                    if len(block) >= _BLOCK_BYTES:
                        await to_thread.run_sync(file.write, bytes(block))
                        block.clear()
                if block:
                    await to_thread.run_sync(file.write, bytes(block))
        except ClientDisconnect:
            raise Refused(400, "The upload broke off; nothing of it was kept.") from None
        except OSError as error:
            raise Refused(507, f"The scan could not be written ({os.strerror(error.errno or 0)}).") from None
        finally:
            self._coming_bytes -= num_bytes
        if not num_bytes and declared < 0:  # an empty file is told by the reader
            raise Refused(400, "The request holds no scan: send the file as the body (curl --data-binary @FILE).")
        if declared >= 0 and num_bytes != declared:
            raise Refused(400, "The upload broke off; nothing of it was kept.")
        return path

    async def _next(self, coming: AsyncIterator[bytes]) -> bytes | None:
        try:
            return await asyncio.wait_for(anext(coming), self.limits.silent_s)
        except StopAsyncIteration:
            return None
        except TimeoutError:
            raise Refused(408, f"Nothing came for {self.limits.silent_s:g} seconds; nothing was kept.") from None

    def _check(self, num_bytes: int, more: int) -> None:
        """Refuses a scan of `num_bytes`, of which `more` are still to come."""
        limits = self.limits
        if num_bytes > limits.scan_bytes:
            raise Refused(413, f"One scan may have at most {limits.scan_bytes / 2**20:,.0f} MiB here.")
        if self._coming_bytes + more > limits.total_bytes:
            raise Refused(503, "Too many large scans come at once: ask again in a moment.")
        if shutil.disk_usage(self.folder).free - more < limits.spare_bytes:
            raise Refused(507, f"The disk is nearly full; {limits.spare_bytes / 2**20:,.0f} MiB are kept free.")


def _declared_bytes(request: Request) -> int:
    """The length that a request tells, -1 where it tells none."""
    told = request.headers.get("content-length")
    if told is None:
        return -1
    if not told.isdigit():
        raise Refused(400, "The length of the request is not a number.")
    return int(told)
