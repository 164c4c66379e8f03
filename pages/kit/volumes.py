"""Scans to the browser, fetched once and whole: GET /api/volume/case/... and /api/volume/job/...

A page makes the address (`of_case`, `of_output`); it names ids, never a path, and carries a mark that only this server
run can make, so that another program on this machine cannot read scans by guessing ids. The login, where there is one,
stands in front of it all (`gate.Door`).

The answer is `SCANVOL1`, the length of the header (uint32, little endian), the header (JSON, padded with spaces to a
multiple of 16 bytes in all), the pixels (S, C, H, W) little endian, and, where the header says so, one bit per pixel
that is no padding (numpy.packbits). It is streamed from the file it lies in.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import struct
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from anyio import to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from builder import outputs
from builder.data import Dataset, UnknownDataset
from builder.execute import home
from builder.labels import Packed, edits_size
from builder.runs import RunStore, StoreError
from builder.scans import Scan
from pages.kit.gate import same_origin
from pages.kit.scans import axes_of, samples, windows_of
from pages.kit.words import size

__all__ = [
    "MOST_BYTES",
    "header_of",
    "mark",
    "mask_version",
    "of_case",
    "of_output",
    "of_reading",
    "of_sample",
    "routes",
]

MOST_BYTES = 1 << 30
"""A browser tab holds no more than this of one scan."""
MAGIC = b"SCANVOL1"
_BLOCK_BYTES = 1 << 20
_KEY = secrets.token_bytes(32)  # of this server run


def of_case(dataset: Dataset, index: int, what: str = "scan") -> str:
    """Returns the address of a case's pixels, for the pages of this server run only.

    Args:
        what: "scan", "mask" (uint8, structure per pixel) or "target" (the clean scan of a pair).
    """
    return _marked(f"/api/volume/case/{dataset.id}/{index}/{what}")


def of_output(job: str, name: str) -> str:
    """Returns the address of what a job wrote, by the job's id and a name of `builder.outputs.NAMES`."""
    return _marked(f"/api/volume/job/{job}/{name}")


def of_reading(run: str, reading: str, index: int) -> str:
    """Returns the address of what the network outlines on a scan of a reading: (S, 1, H, W), 1 inside."""
    return _marked(f"/api/volume/reading/{run}/{reading}/{index}")


def of_sample(name: str) -> str:
    """Returns the address of one of the scans that come with pydicom (`pages.kit.scans.samples`)."""
    return _marked(f"/api/volume/sample/{name}")


def _marked(path: str) -> str:
    return f"{path}?key={mark(path)}"


def mark(path: str) -> str:
    """Returns what a page writes behind an address: only this server run can make it."""
    return hmac.new(_KEY, path.encode(), hashlib.sha256).hexdigest()[:32]


def header_of(scan: Scan, version: str) -> dict[str, Any]:
    """Returns what the viewer must know about a scan: shape, dtype, spacing, windows to choose from; no identity."""
    slices, channels, height, width = scan.pixels.shape
    unit = "HU" if scan.modality == "CT" else ""
    return {
        "version": version,
        "shape": [slices, channels, height, width],
        "dtype": scan.pixels.dtype.name,
        "spacing_mm": list(scan.spacing_mm),
        "modality": scan.modality,
        "photometric": scan.photometric,
        "bits": scan.bits,
        "unit": unit,
        "axes": axes_of(scan),
        "valid": scan.valid is not None,
        "windows": [
            {**asdict(window), "name": name, "title": words} for name, (words, window) in windows_of(scan).items()
        ],
    }


# -- the route --------------------------------------------------------------------------------------------------------


class _Refused(Exception):
    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status = status


def routes(at_home: Callable[[], Path] = home) -> list[Route]:
    """Returns the routes for `st.App(routes=...)`."""

    async def case(request: Request) -> Response:
        return await _answered(request, lambda: _case(at_home(), **request.path_params))

    async def job(request: Request) -> Response:
        return await _answered(request, lambda: _output(at_home(), **request.path_params))

    async def reading(request: Request) -> Response:
        return await _answered(request, lambda: _reading(at_home(), **request.path_params))

    async def sample(request: Request) -> Response:
        return await _answered(request, lambda: _sample(**request.path_params))

    endpoints: dict[str, Callable[[Request], Awaitable[Response]]] = {
        "/api/volume/case/{dataset}/{index:int}/{what}": case,
        "/api/volume/job/{id}/{name}": job,
        "/api/volume/reading/{run}/{id}/{index:int}": reading,
        "/api/volume/sample/{name}": sample,
    }
    return [Route(path, endpoint, methods=["GET"]) for path, endpoint in endpoints.items()]


async def _answered(request: Request, find: Callable[[], tuple[Scan, str]]) -> Response:
    try:
        if not same_origin(request.headers):
            raise _Refused(400, "This request does not come from a page of this server.")
        if not hmac.compare_digest(request.query_params.get("key", ""), mark(request.url.path)):
            raise _Refused(403, "This address belongs to an earlier run of the server: reload the page.")
        scan, version = await to_thread.run_sync(find)
        return await to_thread.run_sync(_answer, scan, version, request.headers.get("if-none-match", ""))
    except _Refused as refusal:
        return JSONResponse({"error": str(refusal)}, refusal.status, {"cache-control": "no-store"})


def _case(at_home: Path, dataset: str, index: int, what: str) -> tuple[Scan, str]:
    try:
        opened = _opened(str(at_home), dataset, _changed(at_home, dataset))
        case = opened.cases[index]
    except (UnknownDataset, IndexError, OSError):
        raise _Refused(404, "This scan is gone: its dataset may have been deleted.") from None
    part = _PARTS.get(what)
    found = part(opened, index) if part is not None else None
    if found is None:
        raise _Refused(404, "There is nothing of this kind for this scan.")
    return found, f"{case.content}-{what}{_version(case.mask) if what == 'mask' else ''}"


def _mask(dataset: Dataset, index: int) -> Scan | None:
    mask = dataset.mask(index)
    return None if mask is None else Scan(mask[:, None], dataset.cases[index].spacing_mm)


_PARTS: dict[str, Callable[[Dataset, int], Scan | None]] = {
    "scan": lambda dataset, index: dataset.scan(index),
    "mask": _mask,
    "target": lambda dataset, index: dataset.target(index),
}
"""What a case has that can be looked at, by the last part of its address."""


def _version(packed: Packed | None) -> str:
    return "" if packed is None else f"-{packed.drawn or packed.offset}"


def mask_version(dataset: Dataset, index: int) -> str:
    """Returns what changes with the mask of a case; "" where it has none."""
    return _version(dataset.cases[index].mask)


def _changed(at_home: Path, dataset: str) -> tuple[float, int]:
    """What changes with an import into a dataset and with each edit of its labels."""
    if not dataset.replace("-", "").isalnum():
        raise UnknownDataset("There is no dataset with this id.")
    folder = at_home / "datasets" / dataset
    return (folder / "dataset.json").stat().st_mtime, edits_size(folder)


@lru_cache(maxsize=4)
def _opened(at_home: str, dataset: str, changed: tuple[float, int]) -> Dataset:
    """`changed` is part of the key: a dataset that has grown, or was edited, is opened anew."""
    return Dataset.open(Path(at_home), dataset)


def _output(at_home: Path, id: str, name: str) -> tuple[Scan, str]:
    try:
        folder = RunStore(at_home).job(id).folder
        found = outputs.kept(folder, name)
        at = (folder / f"{name}.npy").stat().st_mtime_ns
    except (StoreError, LookupError, OSError, ValueError):
        raise _Refused(404, "This answer is gone, or has no such picture: ask again.") from None
    return found, f"{id}-{name}-{at}"


def _reading(at_home: Path, run: str, id: str, index: int) -> tuple[Scan, str]:
    from builder import reader  # the app's first page comes without it

    try:
        case = next(r for r in reader.readings(RunStore(at_home).run(run)) if r.id == id).cases[index]
    except (StoreError, LookupError, StopIteration, OSError, ValueError):
        raise _Refused(404, "This reading is gone.") from None
    if not case.shape:
        raise _Refused(404, "In this reading nothing is outlined.")
    return Scan(case.outlined()[:, None]), f"{run}-{id}-{index}"


def _sample(name: str) -> tuple[Scan, str]:
    found = samples().get(name)
    if found is None:
        raise _Refused(404, "There is no sample of this name.")
    return found, f"sample-{name}"


def _answer(scan: Scan, version: str, known: str) -> Response:
    num_bytes = int(scan.pixels.nbytes)
    if num_bytes > MOST_BYTES:
        raise _Refused(
            413, f"This scan has {size(num_bytes)}; a browser can show at most {size(MOST_BYTES)}. Split the volume."
        )
    text = json.dumps(header_of(scan, version), separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    text += b" " * (-(len(MAGIC) + 4 + len(text)) % 16)
    head = MAGIC + struct.pack("<I", len(text)) + text
    tag = f'"{hashlib.sha256(head).hexdigest()[:32]}"'
    # Kept by the browser, but asked about each time: a scan that was deleted, or a login that has ended, shows nothing.
    headers = {"etag": tag, "cache-control": "private, no-cache", "vary": "cookie"}
    if known == tag:
        return Response(status_code=304, headers=headers)
    valid = b"" if scan.valid is None else np.packbits(scan.valid).tobytes()
    headers["content-length"] = str(len(head) + num_bytes + len(valid))
    return StreamingResponse(_blocks(head, scan.pixels, valid), 200, headers, "application/octet-stream")


def _blocks(head: bytes, pixels: np.ndarray, valid: bytes) -> Iterator[bytes]:
    yield head
    flat = pixels.reshape(-1)
    step = max(1, _BLOCK_BYTES // flat.dtype.itemsize)
    little = flat.dtype.newbyteorder("<")
    for start in range(0, len(flat), step):
        yield np.asarray(flat[start : start + step], little).tobytes()
    if valid:
        yield valid
