"""What a run rests on, as SHA-256: the data, who is on which side, the document, the weights and the code.

A data set only grows: what a later import or correction adds lies behind what was there. So each of its files is known
by its first bytes, as many as there were, and a pack can still be checked when scans have come in since.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from builder.data import Dataset, pixels_digest
from builder.evaluate import openings_file
from builder.runs import read_json

_CHUNK = 1 << 20
_CODE = ("builder", "tasks")
_PASSING = ("name", "changed", "sizes", "fingerprint", "num_cases", "said", "numbered")
"""Entries of dataset.json that are no data, or that an import may change; what they say is checked by other items."""


def of_bytes(data: bytes) -> str:
    """SHA-256 (hex) of bytes."""
    return hashlib.sha256(data).hexdigest()


def of_file(path: Path, first: int | None = None) -> str:
    """SHA-256 (hex) of a file, or of its first bytes; "" where it is not there or shorter."""
    found, left = hashlib.sha256(), first
    try:
        with open(path, "rb") as file:
            while left is None or left > 0:
                part = file.read(_CHUNK if left is None else min(_CHUNK, left))
                if not part:
                    break
                found.update(part)
                left = None if left is None else left - len(part)
    except OSError:
        return ""
    return found.hexdigest() if not left else ""


def of_data(dataset: Dataset) -> dict[str, dict[str, Any]]:
    """{file of the data set: {bytes, sha256}}: scans, masks, cases, sides, ledger, and what people corrected since."""
    sizes = dict(dataset.sizes)
    sizes["edits.jsonl"] = dataset.edited
    found = {name: {"bytes": size, "sha256": of_file(dataset.folder / name, size)} for name, size in sizes.items()}
    if not sizes["edits.jsonl"]:  # nobody has corrected anything: there is no file
        found["edits.jsonl"] = {"bytes": 0, "sha256": of_bytes(b"")}
    for path in sorted((dataset.folder / "drawn").glob("*")):
        size = path.stat().st_size
        found[f"drawn/{path.name}"] = {"bytes": size, "sha256": of_file(path, size)}
    described = lasting(read_json(dataset.folder / "dataset.json") or {})
    found["dataset.json"] = {"bytes": len(described), "sha256": of_bytes(described)}
    return found


def lasting(described: Mapping[str, Any]) -> bytes:
    """What of a dataset.json no import and no person may change, in one order."""
    kept = {name: value for name, value in described.items() if name not in _PASSING}
    fingerprint = described.get("fingerprint") or {}
    kept["fingerprint"] = {name: fingerprint.get(name) for name in ("multi_label", "synthetic", "patient_source")}
    return json.dumps(kept, sort_keys=True).encode()


def of_split(dataset: Dataset) -> str:
    """SHA-256 (hex) of who is on which side: case, patient and side of every case, in order."""
    rows = "".join(f"{case.id} {case.patient} {case.split}\n" for case in dataset.imported)
    return of_bytes(rows.encode())


def of_openings(dataset: Dataset) -> dict[str, Any]:
    """{bytes, sha256, count}: the openings of the test side so far."""
    try:
        found = openings_file(dataset).read_bytes()
    except OSError:
        found = b""
    return {"bytes": len(found), "sha256": of_bytes(found), "count": found.count(b"\n")}


def of_code() -> dict[str, Any]:
    """{sha256, files}: the program that computed the figures, all its Python sources by their places."""
    root = Path(__file__).resolve().parents[2]
    paths = sorted(path for package in _CODE for path in (root / package).rglob("*.py"))
    rows = "".join(f"{path.relative_to(root).as_posix()} {of_file(path)}\n" for path in paths)
    return {"sha256": of_bytes(rows.encode()), "files": len(paths)}


def changed_cases(dataset: Dataset, most: int = 5) -> list[str]:
    """Ids of cases whose pixels are not those that were imported, at most `most` of them."""
    found = []
    for index, case in enumerate(dataset.imported):
        if pixels_digest(dataset.scan(index).pixels) != case.content:
            found.append(f"{case.id} ({case.split})")
            if len(found) == most:
                break
    return found
