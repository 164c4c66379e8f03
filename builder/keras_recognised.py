"""Keras models in the form in which a layer of ours is found again (`builder.recognised`)."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from builder.keras_text.writer import KerasModel, Unsupported, keras_model
from builder.recognised import Graph, Hint, Marked, Operation, Recognised, settled
from builder.tracing import Untraceable, trace_layer
from builder.weights import surroundings

_TELL = """
import sys
sys.path.insert(0, sys.argv[1])
import model
print(model.build().to_json())
"""
_TIMEOUT_S = 120


def recognised(hint: Hint, theirs: Graph) -> Recognised | None:
    """The layer of the hint, where a model ends with what our export writes for it; None where it does not.

    Keras itself says how it files what our text makes, in a process of its own. Nothing of the stranger's goes there.

    Raises:
        ForeignError: the layer of the hint cannot be built, or is too large.
    """
    marked = Marked(hint)
    made = alone(marked)
    config = filed(made.source) if made is not None else None
    if made is None or config is None:
        return None
    arrays = {name: [np.asarray(tensor) for tensor in tensors] for name, tensors in made.weights.items()}
    return marked.compared(graph(config, arrays), theirs)


def alone(marked: Marked) -> KerasModel | None:
    """The layer as a Keras model of its own; None where Keras cannot carry it."""
    first, *further = marked.hint.shapes
    try:
        return keras_model(trace_layer(marked.layer, marked.hint.shapes), first, "alone", further)
    except (Untraceable, Unsupported):
        return None


def filed(text: str) -> dict[str, Any] | None:
    """The config of the model that our text makes, as Keras files it; None where Keras gives no answer."""
    with tempfile.TemporaryDirectory(prefix="scanloom-alone-") as place:
        (Path(place) / "model.py").write_text(text, encoding="utf-8")
        command = [sys.executable, "-I", "-B", "-c", _TELL, place]
        around = {**surroundings(), "KERAS_BACKEND": "torch", "KERAS_HOME": place}
        try:
            done = subprocess.run(
                command, cwd=place, env=around, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
            )
            found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])["config"]
        except (subprocess.TimeoutExpired, ValueError, IndexError, KeyError):
            return None
    return found


def graph(config: dict[str, Any], arrays: dict[str, list[np.ndarray]]) -> Graph:
    """The layers of a model's config with their arrays."""
    layers = {str(layer.get("name")): layer for layer in config["layers"]}
    ends: list[str] = []
    _told(config.get("output_layers"), ends, bare=True)
    begins: list[str] = []
    _told(config.get("input_layers"), begins, bare=True)
    found = Graph(ends[0] if len(ends) == 1 else "", tuple(begins))
    wanted = set(ends)
    for name, layer in layers.items():
        inputs: list[str] = []
        calls = _told(layer.get("inbound_nodes"), inputs)
        own = {key: _told(value, []) for key, value in (layer.get("config") or {}).items() if key != "name"}
        facts = {key: layer.get(key) for key in ("module", "class_name", "registered_name")}
        wanted.update(inputs)
        found.made[name] = Operation(
            settled({**facts, "config": own, "calls": calls}), tuple(inputs), tuple(arrays.get(name, ()))
        )
    # A result is called "layer/0"; the layer alone stands for all that it puts out.
    for value in wanted:  # each result of a layer is a value
        name, _, number = value.rpartition("/")
        if name in layers:
            whole = found.made[name]
            found.made[value] = Operation(f"{number} of {whole.kind}", whole.inputs, whole.arrays)
    return found


def _told(value: Any, inputs: list[str], bare: bool = False) -> Any:
    """A piece of a config without the names and numbers that each writing makes anew; names go to `inputs` as
    "layer/result". `bare`: they stand there as [layer, call, result] alone."""
    if isinstance(value, dict):
        if value.get("class_name") == "__keras_tensor__":
            history = (value.get("config") or {}).get("keras_history") or [None, 0, 0]
            inputs.append(f"{history[0]}/{history[2]}")
            return f"input, call {history[1]}"
        return {key: _told(inner, inputs, bare) for key, inner in value.items() if key != "shared_object_id"}
    if isinstance(value, list):
        if bare and len(value) == 3 and isinstance(value[0], str):
            inputs.append(f"{value[0]}/{value[2]}")
            return None
        return [_told(inner, inputs, bare) for inner in value]
    return value
