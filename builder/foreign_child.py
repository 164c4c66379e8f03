"""The process that reads a foreign network: limits first, then the file, then the answer as JSON and safetensors."""

from __future__ import annotations

import json
import os
from pathlib import Path

from builder.foreign import MAX_NUMBERS, ForeignError, Imported
from builder.weights import confined


def main(file: str, place: str, memory_bytes: str, cpu_s: str) -> None:
    """Writes answer.json ({experiment, num_classes, missing, notes} or {refused}) and weights.safetensors."""
    try:
        size = os.path.getsize(file)
        confined(int(cpu_s), 4 * MAX_NUMBERS + (64 << 20), 6 * size, int(memory_bytes))
        found = parsed(Path(file))
        if found.tensors:
            found.save_weights(Path(place) / "weights.safetensors")
        answer = {
            "experiment": found.experiment.model_dump(mode="json"),
            "num_classes": found.num_classes,
            "missing": list(found.missing),
            "notes": list(found.notes),
        }
    except ForeignError as error:
        words = str(error)
        answer = {"refused": words[:1].upper() + words[1:]}
    except (MemoryError, RecursionError):
        answer = {"refused": "This file asks for more memory than it may have; it may be damaged or malicious."}
    (Path(place) / "answer.json").write_text(json.dumps(answer), encoding="utf-8")


def parsed(file: Path) -> Imported:
    """The network in a file, by what its first bytes say; raises ForeignError."""
    with open(file, "rb") as opened:
        head = opened.read(16)
    if head.startswith(b"PK\3\4"):
        from builder.keras_import import from_archive

        return from_archive(file)
    if head.startswith(b"\x89HDF"):
        raise ForeignError("This is an HDF5 file, the old way of Keras; save the model as .keras.")
    if head.startswith(b"\x80") or head.startswith(b"\x1f\x8b"):
        raise ForeignError("This file could run code when it is opened (a pickle), so it is not opened.")
    if head.lstrip().startswith(b"{"):
        from builder.keras_import import from_config

        if file.stat().st_size > 64 << 20:
            raise ForeignError("This JSON file is too large for the config of a network.")
        return from_config(file.read_bytes(), {})
    from builder.onnx_import import from_onnx

    return from_onnx(file)
