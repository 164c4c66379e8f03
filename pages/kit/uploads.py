"""Files from the browser, streamed to disk: PUT /api/upload/<ticket>, one request per file.

A ticket is a folder `home/uploads/<ticket>/` whose unguessable name the page makes up. A file arrives as `NNNNN.part`,
is synced and renamed to `NNNNN.bin`; the name that the browser told is only text, a line in `names.jsonl`. Nothing is
held in memory beyond one block, and an upload that breaks leaves nothing behind.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from anyio import to_thread
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from builder.execute import home
from pages.kit.gate import same_origin
from pages.kit.words import size

__all__ = [
    "Limits",
    "Received",
    "close",
    "discard",
    "folder_of",
    "is_coming",
    "is_open",
    "new_ticket",
    "received",
    "route",
    "sweep",
]

_TICKET = re.compile(r"[A-Za-z0-9_-]{32}")
_BLOCK_BYTES = 1 << 20
_CLOSED = ".closed"
_NAMES = "names.jsonl"
NAME_HEADER = "x-scanloom-name"


@dataclass(frozen=True)
class Limits:
    """How much may come in: bytes a file, files and bytes a ticket, bytes of all tickets; and what is kept free."""

    file_bytes: int = 8 << 30
    ticket_files: int = 100_000
    ticket_bytes: int = 40 << 30
    total_bytes: int = 80 << 30
    spare_bytes: int = 1 << 30


@dataclass(frozen=True)
class Received:
    """A file that arrived: where it lies, what the browser called it (text, never a path), its size."""

    path: Path
    name: str
    bytes: int


class _Refused(Exception):
    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status = status


def new_ticket(at_home: Path | None = None) -> str:
    """Makes the folder of a new ticket and returns the ticket: 192 random bits, so that only the page knows it."""
    ticket = secrets.token_urlsafe(24)
    folder = (at_home or home()) / "uploads" / ticket
    folder.mkdir(parents=True, mode=0o700)
    return ticket


def folder_of(ticket: str, at_home: Path | None = None) -> Path:
    """Returns the ticket's folder; raises LookupError with a sentence for a ticket that is none or is used up."""
    folder = (at_home or home()) / "uploads" / ticket
    if not _TICKET.fullmatch(ticket) or not folder.is_dir():
        raise LookupError("This upload is no longer known here. Reload the page and drop the files again.")
    return folder


def is_open(ticket: str, at_home: Path | None = None) -> bool:
    """Says whether files may still be added under this ticket."""
    try:
        return not (folder_of(ticket, at_home) / _CLOSED).exists()
    except LookupError:
        return False


def received(ticket: str, at_home: Path | None = None) -> list[Received]:
    """Returns the files that have arrived completely under a ticket, in order; [] for a ticket that is gone."""
    try:
        folder = folder_of(ticket, at_home)
        lines = (folder / _NAMES).read_text().splitlines()
    except (LookupError, FileNotFoundError):
        return []
    told = [json.loads(line) for line in lines]
    return [Received(folder / entry["file"], entry["name"], entry["bytes"]) for entry in told]


def is_coming(ticket: str, at_home: Path | None = None) -> bool:
    """Says whether a file is on its way under this ticket."""
    try:
        return any(folder_of(ticket, at_home).glob("*.part"))
    except LookupError:
        return False


def close(ticket: str, at_home: Path | None = None) -> Path:
    """Takes no more files under this ticket and returns its folder: called when the import starts."""
    folder = folder_of(ticket, at_home)
    (folder / _CLOSED).touch()
    return folder


def discard(ticket: str, at_home: Path | None = None) -> None:
    """Deletes a ticket and all that arrived under it."""
    try:
        shutil.rmtree(folder_of(ticket, at_home))
    except LookupError:
        return


def sweep(at_home: Path | None = None, older_s: float = 86_400) -> int:
    """Deletes tickets in which nothing happened for `older_s` seconds; returns how many. For the server's start."""
    num_swept = 0
    for folder in ((at_home or home()) / "uploads").glob("*"):
        if folder.is_dir() and time.time() - max(f.stat().st_mtime for f in (folder, *folder.iterdir())) > older_s:
            shutil.rmtree(folder)
            num_swept += 1
    return num_swept


def route(limits: Limits = Limits(), at_home: Callable[[], Path] = home) -> Route:  # noqa: B008 (frozen)
    """Returns the upload route for `st.App(routes=...)`."""
    door = _Uploads(limits, at_home)
    endpoint: Callable[[Request], Awaitable[Response]] = door.put
    return Route("/api/upload/{ticket}", endpoint, methods=["PUT"])


@dataclass
class _Tally:
    files: int
    bytes: int
    last_number: int


class _Uploads:
    def __init__(self, limits: Limits, at_home: Callable[[], Path]):
        self._limits = limits
        self._home = at_home
        self._tallies: dict[Path, _Tally] = {}  # of every ticket, so that a request need not count the others' files
        self._coming: dict[str, int] = {}  # bytes that running requests have written, by part file

    async def put(self, request: Request) -> Response:
        try:
            entry = await self._take(request)
        except _Refused as refusal:
            return _refusal(refusal.status, str(refusal))
        except ClientDisconnect:
            return _refusal(400, "The upload broke off; nothing of it was kept.")
        except OSError as error:
            return _refusal(507, f"The file could not be written ({os.strerror(error.errno or 0)}).")
        return JSONResponse(entry, 201)

    async def _take(self, request: Request) -> dict[str, Any]:
        if not same_origin(request.headers):
            raise _Refused(400, "This upload does not come from a page of this server.")
        try:
            folder = folder_of(request.path_params["ticket"], self._home())
        except LookupError as error:
            raise _Refused(409, str(error)) from None
        if (folder / _CLOSED).exists():
            raise _Refused(409, "The import of these files has already started. Reload the page to add more.")
        name = _name_of(request)
        declared = _declared_bytes(request)
        tally = self._tally_of(folder)
        if tally.files >= self._limits.ticket_files:
            raise _Refused(413, f"More than {self._limits.ticket_files:,} files at once. Put them into a zip file.")
        room = self._room(folder, tally)
        if declared > room[0]:
            raise _Refused(413, f"This file has {size(declared)}; {room[1]}.")
        part = _new_part(folder, tally)
        try:
            num_bytes = await self._stream(request, part, folder, *room)
            if declared >= 0 and num_bytes != declared:
                raise _Refused(400, "The upload broke off; nothing of it was kept.")
            if not folder.is_dir() or (folder / _CLOSED).exists():
                raise _Refused(409, "The import started before this file had arrived.")
            file = part.with_suffix(".bin")
            await to_thread.run_sync(partial(_settle, part, file))
            tally.files, tally.bytes = tally.files + 1, tally.bytes + num_bytes
            entry = {"file": file.name, "name": name, "bytes": num_bytes}
            with (folder / _NAMES).open("a") as names:
                names.write(json.dumps(entry) + "\n")
            return entry
        finally:
            self._coming.pop(str(part), None)
            part.unlink(missing_ok=True)

    async def _stream(self, request: Request, part: Path, folder: Path, room: int, why: str) -> int:
        num_bytes, block, since_look = 0, bytearray(), 0
        with part.open("r+b", buffering=0) as file:
            async for chunk in request.stream():
                block += chunk
                num_bytes += len(chunk)
                since_look += len(chunk)
                self._coming[str(part)] = num_bytes
                if num_bytes > room:
                    raise _Refused(413, f"Stopped after {size(num_bytes)}: {why}.")
                if since_look > 64 * _BLOCK_BYTES:
                    since_look = 0
                    if shutil.disk_usage(folder).free < self._limits.spare_bytes:
                        raise _Refused(413, f"The disk is nearly full; {size(self._limits.spare_bytes)} are kept free.")
                if len(block) >= _BLOCK_BYTES:
                    await to_thread.run_sync(file.write, bytes(block))
                    block.clear()
            if block:
                await to_thread.run_sync(file.write, bytes(block))
            await to_thread.run_sync(os.fsync, file.fileno())
        return num_bytes

    def _tally_of(self, folder: Path) -> _Tally:
        """Returns the count of one ticket; looked up on the disk once, kept up to date from then on."""
        for gone in [known for known in self._tallies if not known.is_dir()]:
            del self._tallies[gone]
        for ticket in folder.parent.iterdir():
            if ticket not in self._tallies and ticket.is_dir():
                files = list(ticket.glob("*.bin"))
                last = max((int(f.stem) for f in files if f.stem.isdigit()), default=0)
                self._tallies[ticket] = _Tally(len(files), sum(f.stat().st_size for f in files), last)
        return self._tallies[folder]

    def _room(self, folder: Path, tally: _Tally) -> tuple[int, str]:
        """Returns how many bytes one more file may have, and the reason for that bound in words."""
        limits = self._limits
        coming = sum(self._coming.values())
        total = sum(t.bytes for t in self._tallies.values())
        free = shutil.disk_usage(folder).free - limits.spare_bytes - coming
        bounds = (
            (limits.file_bytes, f"one file may have at most {size(limits.file_bytes)}"),
            (
                limits.ticket_bytes - tally.bytes - coming,
                f"all files of one import may have at most {size(limits.ticket_bytes)}",
            ),
            (
                limits.total_bytes - total - coming,
                f"uploads that wait for import may have at most {size(limits.total_bytes)}",
            ),
            (free, f"the disk has room for {size(max(0, free))} ({size(limits.spare_bytes)} are kept free)"),
        )
        return min(bounds)


def _name_of(request: Request) -> str:
    """The relative path that the browser tells, percent-encoded in a header; only text for people and suffixes."""
    name = unquote(request.headers.get(NAME_HEADER, ""), errors="replace").replace("\\", "/")
    name = "".join(c for c in name if c.isprintable())[:1000].strip("/ ")
    if not name:
        raise _Refused(400, f"The upload tells no file name (header {NAME_HEADER}).")
    return name


def _declared_bytes(request: Request) -> int:
    told = request.headers.get("content-length")
    if told is None:
        return -1
    if not told.isdigit():
        raise _Refused(400, "The upload's length is not a number.")
    return int(told)


def _new_part(folder: Path, tally: _Tally) -> Path:
    """Creates the next NNNNN.part; two requests at once never get the same number."""
    while True:
        tally.last_number += 1
        part = folder / f"{tally.last_number:05d}.part"
        try:
            os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            continue
        return part


def _settle(part: Path, file: Path) -> None:
    os.rename(part, file)
    descriptor = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refusal(status: int, sentence: str) -> Response:
    """The answer to a refused upload; the connection is closed because the rest of the body is not read."""
    return JSONResponse({"error": sentence}, status, {"connection": "close"})
