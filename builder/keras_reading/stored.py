"""What lies in a .keras file: the config as JSON, the weights as plain arrays."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from builder.foreign import MAX_NUMBERS, ForeignError

if TYPE_CHECKING:
    import h5py

CONFIG, WEIGHTS = "config.json", "model.weights.h5"
_MAX_CONFIG_BYTES = 64 << 20
_MAX_RATIO = 200  # how much larger than its packed form a member may be

Arrays = dict[str, list[np.ndarray]]
"""{layer name: its arrays, in Keras' order}; those of a wrapper are all its inner ones, one after another."""


def member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """One file of the archive; its size is believed neither from the header nor beyond a bound."""
    most = _MAX_CONFIG_BYTES if info.filename != WEIGHTS else 4 * MAX_NUMBERS
    if info.file_size > most or info.file_size > _MAX_RATIO * max(info.compress_size, 1024):
        raise ForeignError("This .keras file unpacks to far more than it holds; it may be malicious.")
    with archive.open(info) as opened:
        data = opened.read(info.file_size + 1)
    if len(data) != info.file_size:
        raise ForeignError("This .keras file unpacks to something else than it says; it may be malicious.")
    return data


def config_of(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise ForeignError("The config of this model is no valid JSON.") from None
    if isinstance(found, dict) and found.get("class_name") in ("Functional", "Sequential", "Model"):
        inner = found.get("config")
        if isinstance(inner, dict) and isinstance(inner.get("layers"), list):
            return {"class_name": found["class_name"], **inner}
    raise ForeignError("This is no Functional or Sequential model of Keras.")


# -- weights ----------------------------------------------------------------------------------------------------------


def arrays_of(data: bytes, config: dict[str, Any]) -> Arrays:
    """The arrays of model.weights.h5 by layer, as Keras files them: by class, counted in the order of the layers."""
    import h5py

    found: Arrays = {}
    counts: dict[str, int] = {}
    total = 0
    try:
        with h5py.File(BytesIO(data), "r") as stored:
            for layer in config["layers"]:
                stem = _snake(str(layer.get("class_name")))
                number = counts.get(stem, 0)
                counts[stem] = number + 1
                place = f"layers/{stem}_{number}" if number else f"layers/{stem}"
                group = _hard(stored, place)
                if group is None or not str(layer.get("module", "keras.layers")).startswith("keras.layers"):
                    continue
                arrays = []
                for array in _datasets(group, 0):
                    total += array.size
                    if total > MAX_NUMBERS:
                        raise ForeignError(f"The model has more than {MAX_NUMBERS:,} weights.")
                    if array.dtype.kind != "f" or array.external or array.is_virtual:
                        raise ForeignError("The weights of this model are stored in a way that is not read.")
                    arrays.append(np.asarray(array[()], np.float32))
                found[name_of(layer)] = arrays
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        if isinstance(error, ForeignError):
            raise
        raise ForeignError("The weights of this model are damaged.") from error
    return found


def _snake(name: str) -> str:
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def _hard(stored: h5py.Group, path: str) -> h5py.Group | None:
    """The group at a path, through hard links only: a link could lead to another file."""
    import h5py

    place: Any = stored
    for step in path.split("/"):
        if not isinstance(place.get(step, getlink=True) if step in place else None, h5py.HardLink):
            return None
        place = place[step]
    return place if isinstance(place, h5py.Group) else None


def _datasets(group: h5py.Group, depth: int) -> Iterator[h5py.Dataset]:
    """All arrays below a group: its own, then those of what it wraps (the forward way before the backward one)."""
    import h5py

    if depth > 6:
        return
    own = _hard(group, "vars")
    if own is not None:
        for key in sorted(own, key=lambda text: int(text) if text.isdecimal() else 10**6):
            if isinstance(own.get(key, getlink=True), h5py.HardLink) and isinstance(own[key], h5py.Dataset):
                yield own[key]
    for key in sorted(group, key=lambda text: (text != "forward_layer", text)):
        inner = _hard(group, key) if key != "vars" else None
        if inner is not None:
            yield from _datasets(inner, depth + 1)


def name_of(layer: dict[str, Any]) -> str:
    return str(layer.get("name") or (layer.get("config") or {}).get("name") or layer.get("class_name"))
