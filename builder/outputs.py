"""Scans that a job writes for people to look at: `<name>.npy` in its folder, and `<name>.json` with what must be known.

The names are a closed list, so that a browser can ask for one by the job's id and a name, and never by a path. No
identity of a patient, study or series is written.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from builder.scan import Grid, Scan, Window

__all__ = ["NAMES", "keep", "kept"]

NAMES = ("scan", "mask", "heat", "enhanced", "target")
"""scan: what was asked about. mask: uint8 structure per pixel, 0 = none. heat: uint8, 255 = most. enhanced, target:
pictures of the scan."""


def keep(folder: Path, name: str, scan: Scan) -> None:
    """Writes `scan` as an output of the job whose folder this is; an older one of the same name is replaced.

    Args:
        name: one of `NAMES`. scan: pixels (S, C, H, W) uint8, uint16, int16 or float32. A mask has C = 1 and the size
            of the scan; a heat map has C = 1 and any H and W, which are stretched over the scan.
    Raises:
        ValueError: an unknown name, or pixels of another kind.
    """
    if name not in NAMES:
        raise ValueError(f"A job has no output called {name!r}: choose one of {', '.join(NAMES)}.")
    pixels = np.ascontiguousarray(scan.pixels)
    if pixels.ndim != 4 or pixels.dtype.name not in ("uint8", "uint16", "int16", "float32"):
        raise ValueError(f"Pixels (S, C, H, W) of at most 16 bits or float32 were expected, not {pixels.dtype} pixels.")
    facts = asdict(replace(scan, pixels=np.empty(0), valid=None, patient=None, study=None, series=None))
    for left_out in ("pixels", "valid", "order", "names", "attributes", "unnumbered"):
        del facts[left_out]
    facts["grid"] = None if scan.grid is None else scan.grid.to_json()
    valid_file = folder / f"{name}.valid.npy"
    if scan.valid is None:
        valid_file.unlink(missing_ok=True)
    else:
        np.save(valid_file, np.packbits(scan.valid))
    np.save(folder / f"{name}.npy", pixels)
    (folder / f"{name}.json").write_text(json.dumps(facts, ensure_ascii=False))


def kept(folder: Path, name: str) -> Scan:
    """Returns an output again; its pixels are a read-only map of the file.

    Raises:
        LookupError: the job has written no such output, or its folder is gone.
    """
    if name not in NAMES:
        raise LookupError(f"A job has no output called {name!r}.")
    try:
        facts = json.loads((folder / f"{name}.json").read_text())
        pixels = np.load(folder / f"{name}.npy", mmap_mode="r")
    except (FileNotFoundError, ValueError):
        raise LookupError("This job has no such output (any more): run it again.") from None
    facts["windows"] = tuple(Window(**{**window, "table": tuple(window["table"])}) for window in facts["windows"])
    facts["grid"] = None if facts["grid"] is None else Grid.from_json(facts["grid"])
    facts["spacing_mm"], facts["notes"] = tuple(facts["spacing_mm"]), tuple(facts["notes"])
    valid = None
    packed = folder / f"{name}.valid.npy"
    if packed.is_file():
        slices, _, height, width = pixels.shape
        num = slices * height * width
        valid = np.unpackbits(np.load(packed), count=num).astype(bool).reshape(slices, height, width)
    return Scan(pixels=pixels, valid=valid, **facts)
