"""ONNX graphs in the form in which a layer of ours is found again (`builder.recognised`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from builder.onnx_operators import written
from builder.recognised import Graph, Hint, Marked, Operation, Recognised, settled
from builder.tracing import Untraceable, trace_layer


def recognised(hint: Hint, theirs: Graph) -> Recognised | None:
    """The layer of the hint, where a graph ends with what torch's exporter writes for it; None where it does not.

    Raises:
        ForeignError: the layer of the hint cannot be built, or is too large.
    """
    from onnx import numpy_helper

    marked = Marked(hint)
    begins = [f"map_{k}" for k in range(len(hint.shapes))]
    try:
        model = written(trace_layer(marked.layer, hint.shapes), begins, ["rows"])
    except Untraceable:
        return None
    fixed = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return marked.compared(graph(model.graph.node, fixed, "rows", tuple(begins)), theirs)


def graph(nodes: Iterable[Any], fixed: Mapping[str, np.ndarray], end: str, begins: tuple[str, ...] = ()) -> Graph:
    """Nodes of an ONNX graph with the constants that are known of it."""
    from onnx import helper, numpy_helper

    idle = {settled({"domain": "", "operator": kind, "output": 0}): value for kind, value in _IDLE.items()}
    found = Graph(end, begins, fixed=dict(fixed), idle=idle)
    for node in nodes:
        settings: dict[str, Any] = {"domain": node.domain, "operator": node.op_type}
        for attribute in node.attribute:
            value = helper.get_attribute_value(attribute)
            if node.op_type == "Constant" and attribute.name == "value" and not value.external_data:
                found.fixed[node.output[0]] = numpy_helper.to_array(value)
            settings[attribute.name] = value if isinstance(value, int | float | bytes) else repr(value)
        inputs = tuple(node.input)
        if node.op_type == "Conv" and len(inputs) == 2 and inputs[1] in found.fixed:  # a bias of zeros is left out
            weight = found.fixed[inputs[1]]
            bias = f"bias of {node.output[0]}"
            found.fixed[bias] = np.zeros(len(weight), weight.dtype)
            inputs = (*inputs, bias)
        for k, name in enumerate(node.output):
            found.made[name] = Operation(settled({**settings, "output": k}), inputs)
    return found


_IDLE = {"Add": 0.0, "Mul": 1.0}
