"""An ONNX graph -> a document: read as data, never run; no other file that it names is ever opened.

Of a model that ScanLoom exported only the network itself is taken, between the values that its metadata name; its
preparation of scans is told by the settings of the data.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from builder.foreign import MAX_NUMBERS, ForeignError, Imported
from builder.onnx_reading import layers, parts, pictures
from builder.onnx_reading.reader import Reader
from builder.onnx_recognised import graph, recognised
from builder.recognised import KEY, hint

if TYPE_CHECKING:
    import onnx

_MAX_GRAPH_NODES = 20_000


def from_onnx(file: Path) -> Imported:
    """The network in an .onnx file.

    Raises:
        ForeignError: in words.
    """
    import onnx

    try:
        model = onnx.load(str(file), load_external_data=False)
    except Exception as error:  # what protobuf raises on bytes that are none of its own is of its own kinds
        raise ForeignError("This is neither a Keras model nor an ONNX graph, or it is damaged.") from error
    graph = model.graph
    if not graph.node:
        raise ForeignError("This is neither a Keras model nor an ONNX graph, or it holds no network.")
    if len(graph.node) > _MAX_GRAPH_NODES:
        raise ForeignError(f"The graph has {len(graph.node)} nodes; at most {_MAX_GRAPH_NODES} are taken in.")
    numbers = 0
    for tensor in graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise ForeignError(
                "This graph keeps its weights in another file, which is never read; save it with its weights inside."
            )
        count = int(np.prod([max(0, d) for d in tensor.dims], dtype=np.float64))
        numbers += count
        if any(d < 0 for d in tensor.dims) or numbers > MAX_NUMBERS:
            raise ForeignError(f"The graph says it has more than {MAX_NUMBERS:,} weights.")
    return _read(model)


def _read(model: onnx.ModelProto) -> Imported:
    """Operator by operator; where some have no layer and our export told what the network ends with, that layer is
    looked for in the graph."""
    reader = Reader(model)
    found = reader.read()
    facts = {p.key: p.value for p in model.metadata_props}
    told = hint(facts.get(KEY), found.experiment.data.shape) if found.missing else None
    if told is None:
        return found
    try:
        last = recognised(told, graph(model.graph.node, reader.initial, reader.output))
        again = Reader(model, last).read() if last is not None else None
    except ForeignError:
        return found
    return again if again is not None and len(again.missing) < len(found.missing) else found


__all__ = ["from_onnx", "layers", "parts", "pictures"]
