"""The ONNX export: one model from grey values to probabilities, preparation included, and a predict.py around it.

The network comes from torch's own exporter. The preparation in front of it is written here: the window, Pillow's
antialiased resize as two matrices in double precision (so that it rounds to the same steps of grey), the grey steps and
the normalization. What an ONNX graph cannot hold stays in predict.py: reading files, choosing slices, windows that are
no straight line.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from builder import task
from builder.listing import predict_source
from builder.network import input_shape
from builder.onnx_operators import OPSET, unsupported, written
from builder.predict import Predictor
from builder.recognised import KEY, told
from builder.spec import Data
from builder.tracing import trace

if TYPE_CHECKING:
    import onnx
    import torch

TOLERANCE = 1e-4
"""Largest difference of a probability between the app and the exported model."""
NETWORK_INPUT, NETWORK_OUTPUT = "normalized", "scores"
"""Names of the values between which the network itself lies: an import cuts the preparation off there."""


def write(folder: Path, predictor: Predictor) -> str:
    """Writes model.onnx and predict.py."""
    import onnx
    from onnx import compose

    net = _network(predictor)
    before = _preparation(predictor, net.ir_version)
    whole = compose.merge_models(
        before, net, io_map=[(NETWORK_INPUT, NETWORK_INPUT)], outputs=["probabilities", NETWORK_OUTPUT, "image"]
    )
    whole.graph.name = "network"
    whole.doc_string = "Exported by ScanLoom. Not for clinical use."
    facts = {
        "classes": list(predictor.classes),
        "multi_label": predictor.multi_label,
        "network_input": NETWORK_INPUT,
        "network_output": NETWORK_OUTPUT,
        **predictor.experiment.data.model_dump(exclude={"dataset", "exclude", "leaks"}),
        **({"leaky": predictor.leaky} if predictor.leaky else {}),
    }
    for key, value in facts.items():
        whole.metadata_props.add(key=f"scanloom.{key}", value=json.dumps(value, ensure_ascii=False))
    whole.metadata_props.add(key=KEY, value=told(predictor.experiment, len(predictor.classes)))
    onnx.checker.check_model(whole)
    (folder / "model.onnx").write_bytes(whole.SerializeToString())
    says = task.find(predictor.experiment.task).says
    text = predict_source("network_onnx.py.txt", "onnxruntime", says=says)
    (folder / "predict.py").write_text(text, encoding="utf-8")
    return ""


def _network(predictor: Predictor) -> onnx.ModelProto:
    """normalized scans -> probabilities and scores, by torch's exporter."""
    import torch

    kind = task.find(predictor.experiment.task)

    class Scoring(torch.nn.Module):
        """The network, and what the app makes of its scores."""

        def __init__(self) -> None:
            super().__init__()
            self.net = predictor.net

        def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            scores = self.net(image)
            return kind.exported(predictor.experiment, self.net, scores, predictor.multi_label), scores

    program = trace(Scoring().eval(), input_shape(predictor.experiment))
    return written(program, [NETWORK_INPUT], ["probabilities", NETWORK_OUTPUT])


# -- the preparation as a graph ---------------------------------------------------------------------------------------


class _Graph:
    """Writes ONNX nodes as calls: `g("Mul", a, b)` returns the name of the product."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def __call__(self, operator: str, *inputs: str | np.ndarray, out: str = "", **settings: Any) -> str:
        from onnx import helper, numpy_helper

        names = []
        for value in inputs:
            if isinstance(value, np.ndarray):
                name = f"prepare_constant_{len(self.constants)}"
                self.constants.append(numpy_helper.from_array(value, name))
                names.append(name)
            else:
                names.append(value)
        out = out or f"prepare_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, names, [out], name=f"prepare/{len(self.nodes)}", **settings))
        return out


def _double(*values: float) -> np.ndarray:
    return np.array(values, np.float64)


def _preparation(predictor: Predictor, ir_version: int) -> onnx.ModelProto:
    """pixels of any height and width, window and aspect -> normalized scans, and the prepared image on the way."""
    from onnx import TensorProto, helper, numpy_helper

    data = predictor.experiment.data
    single, double, size = TensorProto.FLOAT, TensorProto.DOUBLE, data.size_px
    g = _Graph()
    low, span = _window(g)
    shown = g("Sub", "pixels", low)
    flat = g("Equal", span, np.zeros(1, np.float32))
    shown = g("Div", shown, g("Where", flat, np.ones(1, np.float32), span))
    shown = g("Clip", shown, np.array(0, np.float32), np.array(1, np.float32))
    shown = g("Where", flat, np.zeros(1, np.float32), shown)
    image = _square(g, shown, data)
    unit = np.array([predictor.unit], np.float32)
    image = g("Clip", image, np.array(0, np.float32), np.array(1, np.float32))
    image = g("Div", g("Round", g("Mul", image, unit)), unit)
    inner = list(data.shape)
    if data.colour == "rgb":  # a grey scan becomes three equal channels
        inner[data.channel_axis] = 3
        triple = [1] * (len(inner) + 1)
        triple[data.channel_axis] = 3
        image = g("Expand", image, np.array(triple, np.int64))
    g("Identity", image, out="image")
    sides = (-1, *[1] * (-data.channel_axis - 1))
    mean, std = (np.asarray(v, np.float32).reshape(sides) for v in (predictor.mean, predictor.std))
    g("Div", g("Sub", "image", mean), std, out=NETWORK_INPUT)
    given: list[Any] = ["batch", *inner[:-2], "height", "width"]
    if data.colour == "rgb":
        given[data.channel_axis] = "colours"
    inputs = [
        helper.make_tensor_value_info("pixels", single, given),
        helper.make_tensor_value_info("window", double, [2]),
        helper.make_tensor_value_info("aspect", double, [1]),
    ]
    outputs = [
        helper.make_tensor_value_info("image", single, ["batch", *inner]),
        helper.make_tensor_value_info(NETWORK_INPUT, single, ["batch", *inner]),
    ]
    # An input with a value of its own may be left out: square pixels are the rule.
    constants = [*g.constants, numpy_helper.from_array(_double(1.0), "aspect")]
    graph = helper.make_graph(g.nodes, "preparation", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = ir_version
    assert size == inner[-1]
    return model


def _window(g: _Graph) -> tuple[str, str]:
    """(black, white - black) as float32, each of one number: the difference is taken in double, as the app does."""
    from onnx import TensorProto

    low = g("Slice", "window", np.array([0]), np.array([1]))
    high = g("Slice", "window", np.array([1]), np.array([2]))
    return g("Cast", low, to=TensorProto.FLOAT), g("Cast", g("Sub", high, low), to=TensorProto.FLOAT)


def _square(g: _Graph, shown: str, data: Data) -> str:
    """`builder.prepared.place` and Pillow's bilinear resize (mode "F"): columns first, then rows, each a matrix."""
    from onnx import TensorProto

    shape = g("Shape", shown)
    height = g("Cast", g("Slice", shape, np.array([-2]), np.array([-1])), to=TensorProto.DOUBLE)
    width = g("Cast", g("Slice", shape, np.array([-1]), np.array([2**31])), to=TensorProto.DOUBLE)
    zero, size = _double(0.0), _double(data.size_px)
    tall = g("Mul", height, "aspect")
    rows = columns = (zero, size)
    part_rows, part_columns = (zero, height), (zero, width)
    if data.fit == "pad":
        scale = g("Div", size, g("Max", tall, width))
        rows, columns = (_placed(g, g("Round", g("Mul", side, scale)), size) for side in (tall, width))
    elif data.fit == "crop":
        side = g("Min", tall, width)
        part_rows = _middle(g, height, g("Div", side, "aspect"))
        part_columns = _middle(g, width, side)
    x = g("Cast", shown, to=TensorProto.DOUBLE)
    across = g("Transpose", _resizing(g, width, part_columns, columns, data.size_px), perm=[1, 0])
    # Pillow keeps what it has between the two passes in single precision.
    x = g("Cast", g("Cast", g("MatMul", x, across), to=TensorProto.FLOAT), to=TensorProto.DOUBLE)
    down = _resizing(g, height, part_rows, rows, data.size_px)
    return g("Cast", g("MatMul", down, x), to=TensorProto.FLOAT)


def _placed(g: _Graph, wanted: str, size: np.ndarray) -> tuple[Any, Any]:
    """(first, number) of the rows that a picture takes in the middle of the square."""
    number = g("Min", size, g("Max", _double(1.0), wanted))
    return g("Floor", g("Div", g("Sub", size, number), _double(2.0))), number


def _middle(g: _Graph, whole: str, side: str) -> tuple[Any, Any]:
    """(begin, end) of the middle part of an axis, rounded as Pillow takes a box: in single precision."""
    from onnx import TensorProto

    begin = g("Div", g("Sub", whole, side), _double(2.0))
    ends = (begin, g("Add", begin, side))
    first, last = (g("Cast", g("Cast", v, to=TensorProto.FLOAT), to=TensorProto.DOUBLE) for v in ends)
    return first, last


def _resizing(g: _Graph, length: str, part: tuple[Any, Any], place: tuple[Any, Any], size: int) -> str:
    """The matrix (size, length) that resamples one axis: a triangle around each new pixel, as wide as it shrinks."""
    from onnx import TensorProto

    (begin, end), (first, number) = part, place
    step = g("Div", g("Sub", end, begin), number)
    reach = g("Max", step, _double(1.0))
    at = g("Sub", np.arange(size, dtype=np.float64)[:, None], first)
    center = g("Add", begin, g("Mul", g("Add", at, _double(0.5)), step))
    whole = g("Cast", length, to=TensorProto.INT64)
    squeezed = g("Squeeze", whole, np.array([0]))
    old = g("Cast", g("Range", np.array(0), squeezed, np.array(1)), to=TensorProto.DOUBLE)
    apart = g("Mul", g("Add", g("Sub", old, center), _double(0.5)), g("Div", _double(1.0), reach))
    weights = g("Max", g("Sub", _double(1.0), g("Abs", apart)), _double(0.0))
    total = g("ReduceSum", weights, np.array([1]), keepdims=1)
    weights = g("Div", weights, g("Max", total, _double(1e-300)))
    inside = g("And", g("GreaterOrEqual", at, _double(0.0)), g("Less", at, number))
    return g("Where", inside, weights, _double(0.0))


__all__ = ["TOLERANCE", "unsupported", "write"]
