"""A Keras 3 model -> a document: its config is read as JSON, its weights as plain arrays; no class of it is ever made.

Pictures may come channels first or last; weights are turned to channels first. Shared layers, nested models, Lambda
layers and classes of the file's own stay visible as layers that the catalog does not have.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

from builder.foreign import ForeignError, Imported
from builder.keras_reading import layers, parts, windows
from builder.keras_reading.reader import Reader
from builder.keras_reading.stored import CONFIG, WEIGHTS, Arrays, arrays_of, config_of, member
from builder.keras_recognised import graph, recognised
from builder.recognised import FILE, hint


def from_archive(file: Path) -> Imported:
    """The network in a .keras file.

    Raises:
        ForeignError: in words.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            members = {info.filename: info for info in archive.infolist()}
            if CONFIG not in members:
                raise ForeignError("This zip file holds no Keras model: it has no config.json.")
            stored = {name: member(archive, members[name]) for name in (CONFIG, WEIGHTS, FILE) if name in members}
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        raise ForeignError("This .keras file is damaged: it cannot be unpacked.") from error
    config = config_of(stored[CONFIG])
    weights = arrays_of(stored[WEIGHTS], config) if WEIGHTS in stored else {}
    found = Reader(config, weights).read()
    told = hint(stored.get(FILE), found.experiment.data.shape) if found.missing and weights else None
    if told is None:
        return found
    # Some operators have no layer, and our export told what the network ends with: it is looked for in the model.
    try:
        last = recognised(told, graph(config, weights))
        again = Reader(config, weights, last).read() if last is not None else None
    except ForeignError:
        return found
    return again if again is not None and len(again.missing) < len(found.missing) else found


def from_config(text: bytes, weights: Arrays) -> Imported:
    """The network that the JSON of `model.to_json()` tells, without weights where none are given."""
    return Reader(config_of(text), weights).read()


__all__ = ["from_archive", "from_config", "layers", "parts", "windows"]
