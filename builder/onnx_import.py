"""An ONNX graph -> a document: read as data, never run; no other file that it names is ever opened.

Of a model that ScanLoom exported only the network itself is taken, between the values that its metadata name; its
preparation of scans is told by the settings of the data.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from builder.foreign import MAX_NUMBERS, Assembly, ForeignError, Imported
from builder.onnx_recognised import graph, recognised
from builder.recognised import KEY, Recognised, hint
from builder.recurrence import Last, Run, begun, flipped, gates, joined, settled
from builder.spec import INPUT

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
    reader = _Reader(model)
    found = reader.read()
    facts = {p.key: p.value for p in model.metadata_props}
    told = hint(facts.get(KEY), found.experiment.data.shape) if found.missing else None
    if told is None:
        return found
    try:
        last = recognised(told, graph(model.graph.node, reader.initial, reader.output))
        again = _Reader(model, last).read() if last is not None else None
    except ForeignError:
        return found
    return again if again is not None and len(again.missing) < len(found.missing) else found


class _Skip(Exception):
    """A node that has no counterpart; its words follow the operator's name."""


class _Reader:
    """Goes through the nodes of a graph, which ONNX keeps in the order in which they compute."""

    def __init__(self, model: onnx.ModelProto, last: Recognised | None = None) -> None:
        """`last`: what the graph ends with, where that was found to be one layer of ours."""
        from onnx import numpy_helper

        self.last = last
        self.graph = model.graph
        self.opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=1)
        facts = {p.key: p.value for p in model.metadata_props if p.key.startswith("scanloom.network_")}
        self.begin = _text(facts.get("scanloom.network_input"))
        self.end = _text(facts.get("scanloom.network_output"))
        self.fixed: dict[str, np.ndarray] = {}
        try:
            for tensor in self.graph.initializer:
                self.fixed[tensor.name] = numpy_helper.to_array(tensor)
        except (ValueError, TypeError) as error:
            raise ForeignError("The weights of this graph are damaged.") from error
        self.initial = dict(self.fixed)
        self.output = self.end or (self.graph.output[0].name if self.graph.output else "")
        self.wires: dict[str, Any] = {}  # a wire, or a part of a recurrent layer that is no layer yet
        self.users: dict[str, list[Any]] = {}
        for node in self.graph.node:
            for name in node.input:
                self.users.setdefault(name, []).append(node)

    def read(self) -> Imported:
        source, shape = self._input()
        deep = any(
            node.op_type == "Conv" and len(self.fixed.get(node.input[1], np.zeros(0)).shape) == 5
            for node in self.graph.node
            if len(node.input) > 1
        )
        self.out = Assembly(self.graph.name or "ONNX graph", shape, volume=deep)
        self.wires[source] = INPUT
        for node in self._nodes():
            if self.last is None or self.last.inside.isdisjoint(node.output):
                self._node(node)
        if self.last is not None:
            feeds = [self.settled(name, "last") for name in self.last.feeds]
            self.wires[self.output] = self.last.placed(self.out, feeds)
        if self.out.nodes and self._end(self.output) != self.out.nodes[-1].id:
            raise ForeignError("The output of this graph is not its last layer; that is not taken in.")
        return self.out.finished()

    def _end(self, name: str) -> str:
        """The wire behind the output; a recurrent layer there that does not fit stays visible."""
        try:
            return self.settled(name, "last")
        except (_Skip, ForeignError) as error:
            self.out.notes.append(f"{name}: there is no layer here for what it ends with ({error}).")
            return self.out.unknown("ONNX recurrent layer", [], "last")

    def _nodes(self) -> list[Any]:
        """The nodes between the input and the output of the network."""
        if not self.end:
            return list(self.graph.node)
        found: list[Any] = []
        reached = {self.begin}
        for node in self.graph.node:
            feeds = [name for name in node.input if name and name not in self.fixed]
            if any(name in reached for name in feeds) or (not feeds and node.op_type == "Constant"):
                found.append(node)
                reached |= set(node.output) if feeds else set()
            if self.end in node.output:
                break
        return found

    def _input(self) -> tuple[str, tuple[int, ...]]:
        """(name of the value that the network begins with, its shape without the batch)."""
        if self.begin:
            known = [v for v in self.graph.value_info if v.name == self.begin]
        else:
            known = [v for v in self.graph.input if v.name not in self.fixed]
            if len(known) != 1:
                raise ForeignError(f"The graph has {len(known)} inputs; a network here has one, the scan.")
        if not known:
            raise ForeignError("The graph does not say what its network begins with.")
        dims = known[0].type.tensor_type.shape.dim
        shape = tuple(int(d.dim_value) for d in dims)
        if len(shape) < 4 or any(s < 1 for s in shape[1:]):
            raise ForeignError(
                "The graph takes scans of any size, or no pictures; a network here has one size. Fix its input shape."
            )
        return known[0].name, shape[1:]

    def _node(self, node: Any) -> None:
        settings = {a.name: _setting(a) for a in node.attribute}
        feeds = [self.wires[name] for name in node.input if name in self.wires]
        name = node.output[0] if node.output else node.name
        if feeds and all(isinstance(feed, _Sizes) for feed in feeds):
            own = [self.fixed[i] for i in node.input if i in self.fixed]
            grown = node.op_type in ("Expand", "ConstantOfShape") and any(array.any() for array in own)
            self.wires[name] = _Sizes("filled" if grown else "sizes")
            return
        try:
            if node.domain not in ("", "ai.onnx"):
                raise _Skip(f"of {node.domain}"[:40])
            if not feeds and self._folded(node, settings):
                return
            if node.op_type in _OF_RUNS and (made := _OF_RUNS[node.op_type](self, node, settings)) is not None:
                self.wires[name] = made
                return
            feeds = [self.settled(i, _hint(node)) for i in node.input if i in self.wires]
            if node.op_type not in _TABLE:
                raise _Skip("")
            wire = _TABLE[node.op_type](self, node, settings)
        except (_Skip, ForeignError, ValueError, KeyError, TypeError, IndexError) as error:
            if not feeds:
                return  # what depends on no scan and is not understood: whoever needs it says so
            why = f" ({error})" if isinstance(error, _Skip | ForeignError | ValueError) and str(error) else ""
            self.out.notes.append(f"{name}: there is no layer here for ONNX {node.op_type}{why}.")
            known = [feed for feed in feeds if isinstance(feed, str) and not isinstance(feed, _Sizes)]
            wire = self.out.unknown(f"ONNX {node.op_type}", known or [INPUT], _hint(node))
        self.wires[name] = wire

    def _folded(self, node: Any, settings: dict[str, Any]) -> bool:
        """Takes note of what is a constant; says whether it was one."""
        if node.op_type == "Constant":
            value = settings.get(
                "value", settings.get("value_float", settings.get("value_int", settings.get("value_ints")))
            )
            if value is not None:
                self.fixed[node.output[0]] = np.asarray(value)
                return True
        if node.op_type == "Identity" and node.input[0] in self.fixed:
            self.fixed[node.output[0]] = self.fixed[node.input[0]]
            return True
        return False

    # -- what the converters share --

    def settled(self, name: str, hint: str) -> str:
        """The wire behind a value, which becomes a layer now if it was not one yet."""
        if isinstance(self.wires.get(name), _Grouped):
            raise _Skip("of channels in groups")
        if name in self.wires and not isinstance(self.wires[name], str):
            self.wires[name] = settled(self.out, self.wires[name], hint)
        return str(self.wires.get(name, ""))

    def wire(self, node: Any, k: int = 0) -> str:
        """The wire behind an input of a node."""
        if node.input[k] not in self.wires:
            raise _Skip("of a constant")
        return str(self.wires[node.input[k]])

    def array(self, node: Any, k: int) -> np.ndarray | None:
        """The constant behind an input of a node; None where the input is left out."""
        if k >= len(node.input) or not node.input[k]:
            return None
        if node.input[k] not in self.fixed:
            raise _Skip("whose weights depend on the scan")
        return self.fixed[node.input[k]]

    def single(self, wire: str) -> bool:
        """Says whether one node alone reads what a wire carries, so that the layer behind it may become another."""
        names = [name for name, found in self.wires.items() if isinstance(found, str) and found == wire]
        told = {self.end, *(value.name for value in self.graph.output)}
        return sum(len(self.users.get(name, ())) for name in names) == 1 and told.isdisjoint(names)

    def rank(self, wire: str) -> int:
        """Number of axes of what a wire carries, the batch among them."""
        return len(self.out.shape_of(wire)) + 1


def _text(value: str | None) -> str:
    try:
        found = json.loads(value) if value else ""
    except ValueError:
        return ""
    return found if isinstance(found, str) else ""


def _hint(node: Any) -> str:
    """A short name: torch's exporter files nodes under the path of their module."""
    for prop in node.metadata_props:
        if prop.key == "pkg.torch.onnx.name_scopes":
            scopes = [part.strip(" '\"") for part in prop.value.strip("[]").split(",")]
            path = [s for s in scopes if s.startswith(("net.", "layers."))]
            if path:
                return path[-1].removeprefix("net.").removeprefix("net.").removeprefix("layers.").replace(".", "_")
    return node.name.rpartition("/")[2] or node.op_type.lower()


def _setting(attribute: Any) -> Any:
    from onnx import helper, numpy_helper

    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if hasattr(value, "raw_data"):
        if value.external_data:
            raise ForeignError("This graph keeps its weights in another file, which is never read.")
        return numpy_helper.to_array(value)
    return value


_Converter = Callable[[_Reader, Any, dict[str, Any]], str]
_TABLE: dict[str, _Converter] = {}


def _for(*kinds: str) -> Callable[[_Converter], _Converter]:
    def note(converter: _Converter) -> _Converter:
        _TABLE.update(dict.fromkeys(kinds, converter))
        return converter

    return note


def _one(values: Any, what: str, default: int) -> int:
    if values is None:
        return default
    if len(set(values)) != 1:
        raise _Skip(f"{what} differs between the axes")
    return int(values[0])


def _bordered(r: _Reader, node: Any, settings: dict[str, Any], wire: str, rank: int, fill: str) -> tuple[str, int]:
    """(wire, padding) of a window; an uneven border becomes a layer of its own."""
    auto = settings.get("auto_pad", "NOTSET")
    if auto not in ("NOTSET", "VALID"):
        raise _Skip(f"auto_pad {auto}")
    pads = [int(p) for p in settings.get("pads") or [0] * 2 * rank]
    if min(pads) < 0:
        raise _Skip("a border that cuts")
    if len(set(pads)) == 1:
        return wire, pads[0]
    if rank != 2:
        raise _Skip("an uneven border")
    top, left, bottom, right = pads
    sides = {"left": left, "right": right, "top": top, "bottom": bottom, "fill": fill}
    return r.out.add("border", [wire], sides, hint=f"{_hint(node)}_border"), 0


@_for("Conv", "ConvTranspose")
def _convolution(r: _Reader, node: Any, settings: dict[str, Any]) -> str:
    weight, bias = r.array(node, 1), r.array(node, 2)
    assert weight is not None
    rank = weight.ndim - 2
    if rank not in (2, 3):
        raise _Skip("over a sequence")
    params = {
        "kernel_size": _one(weight.shape[2:], "its window", 1),
        "stride": _one(settings.get("strides"), "its step", 1),
        "bias": bias is not None,
    }
    dilation, groups = _one(settings.get("dilations"), "its dilation", 1), int(settings.get("group", 1))
    tensors = {"weight": weight, **({"bias": bias} if bias is not None else {})}
    if node.op_type == "Conv":
        wire, padding = _bordered(r, node, settings, r.wire(node), rank, "zero")
        params |= {"out_channels": weight.shape[0], "padding": padding, "dilation": dilation, "groups": groups}
        return r.out.add("conv2d" if rank == 2 else "conv3d", [wire], params, tensors, _hint(node))
    whole = settings.get("auto_pad", "NOTSET") in ("NOTSET", "VALID")
    if dilation != 1 or groups != 1 or settings.get("output_shape") or not whole:
        raise _Skip("with settings that ours does not have")
    params |= {
        "out_channels": weight.shape[1],
        "padding": _one(settings.get("pads"), "its border", 0),
        "output_padding": _one(settings.get("output_padding"), "its border", 0),
    }
    layer = "transposed_conv2d" if rank == 2 else "transposed_conv3d"
    return r.out.add(layer, [r.wire(node)], params, tensors, _hint(node))


@_for("BatchNormalization")
def _batch_norm(r: _Reader, node: Any, settings: dict[str, Any]) -> str:
    if settings.get("training_mode") or not settings.get("spatial", 1):
        raise _Skip("that takes its statistics from the batch, or one for every pixel")
    weight, bias, mean, variance = (np.asarray(r.array(node, k), np.float64) for k in range(1, 5))
    variance = variance + settings.get("epsilon", 1e-5) - 1e-5
    if (variance < 0).any():
        raise _Skip("an epsilon smaller than ours")
    tensors = {"weight": weight, "bias": bias, "running_mean": mean, "running_var": variance}
    layers = {
        2: "batch_norm_1d",
        4: "batch_norm",
        5: "batch_norm_3d" if r.out.data.layout == "volume" else "batch_norm",
    }
    return r.out.add(layers[r.rank(r.wire(node))], [r.wire(node)], {}, tensors, _hint(node))


@_for("LayerNormalization")
def _layer_norm(r: _Reader, node: Any, settings: dict[str, Any]) -> str:
    rank = r.rank(r.wire(node))
    if settings.get("axis", -1) % rank != rank - 1 or rank > 3 or abs(settings.get("epsilon", 1e-5) - 1e-5) > 1e-9:
        raise _Skip("with settings that ours does not have")
    weight, bias = r.array(node, 1), r.array(node, 2)
    assert weight is not None
    bias = bias if bias is not None else np.zeros_like(weight)
    return r.out.add("layer_norm", [r.wire(node)], {}, {"weight": weight, "bias": bias}, _hint(node))


@dataclass(frozen=True)
class _Grouped:
    """Maps whose channels were laid together in groups, (B, groups, the rest), and whether each group was normalized:
    how a group norm is written down before operator set 18."""

    wire: str
    groups: int
    normalized: bool = False


def _grouped(r: _Reader, node: Any, settings: dict[str, Any]) -> Any:
    """Laid in groups, or taken apart again behind the normalization: then it is a group norm."""
    value = r.wires.get(node.input[0])
    if isinstance(value, _Grouped):
        if not value.normalized:
            return None
        channels = r.out.shape_of(value.wire)[0]
        tensors = {"weight": np.ones(channels), "bias": np.zeros(channels)}
        return r.out.add("group_norm", [value.wire], {"num_groups": value.groups}, tensors, _hint(node))
    users = r.users.get(node.output[0], ())
    target = r.fixed.get(node.input[1])
    if len(users) != 1 or users[0].op_type != "InstanceNormalization" or target is None or target.size != 3:
        return None
    wire = r.settled(node.input[0], _hint(node))
    lead, groups, rest = (int(v) for v in target.reshape(-1))
    if len(r.out.shape_of(wire)) != 3 or lead != 0 or rest != -1 or groups < 1:
        return None
    return _Grouped(wire, groups)


def _normalized(r: _Reader, node: Any, settings: dict[str, Any]) -> Any:
    value = r.wires.get(node.input[0])
    if not isinstance(value, _Grouped):
        return None
    weight, bias = r.array(node, 1), r.array(node, 2)
    plain = weight is not None and bias is not None and (weight == 1).all() and not bias.any()
    users = r.users.get(node.output[0], ())
    if (
        not plain
        or len(users) != 1
        or users[0].op_type != "Reshape"
        or abs(settings.get("epsilon", 1e-5) - 1e-5) > 1e-9
    ):
        raise _Skip("over groups, with settings that ours does not have")
    return _Grouped(value.wire, value.groups, normalized=True)


def _with_channels(r: _Reader, wire: str, known: np.ndarray, part: str) -> str:
    """A factor or a term for each channel, right behind a group norm: its weight or bias."""
    above = r.out.nodes[-1] if r.out.nodes else None
    key = f"layers.{wire}.{part}"
    alone = all(len(r.users.get(name, ())) == 1 and name != r.end for name, found in r.wires.items() if found == wire)
    if above is None or above.id != wire or above.name != "group_norm" or not alone:
        raise _Skip("with a constant")
    if known.shape[-2:] != (1, 1) or known.size != len(r.out.tensors[key]):
        raise _Skip("with a constant")
    values, weight, bias = known.reshape(-1).astype(np.float32), f"layers.{wire}.weight", f"layers.{wire}.bias"
    if part == "weight":
        r.out.tensors[weight], r.out.tensors[bias] = r.out.tensors[weight] * values, r.out.tensors[bias] * values
    else:
        r.out.tensors[bias] = r.out.tensors[bias] + values
    return wire


@_for("InstanceNormalization")
def _instance_norm(r: _Reader, node: Any, settings: dict[str, Any]) -> str:
    weight, bias = r.array(node, 1), r.array(node, 2)
    if abs(settings.get("epsilon", 1e-5) - 1e-5) > 1e-9 or r.rank(r.wire(node)) != 4 or weight is None or bias is None:
        raise _Skip("with settings that ours does not have")
    return r.out.add("instance_norm", [r.wire(node)], {"affine": True}, {"weight": weight, "bias": bias}, _hint(node))


@_for("MaxPool", "AveragePool")
def _pool(r: _Reader, node: Any, settings: dict[str, Any]) -> str:
    rank, maximum = len(settings["kernel_shape"]), node.op_type == "MaxPool"
    if rank not in (2, 3) or _one(settings.get("dilations"), "its dilation", 1) != 1:
        raise _Skip("with settings that ours does not have")
    kernel = _one(settings["kernel_shape"], "its window", 1)
    stride = _one(settings.get("strides"), "its step", 1)
    wire, padding = _bordered(r, node, settings, r.wire(node), rank, "lowest" if maximum else "zero")
    if settings.get("ceil_mode") and any((s + 2 * padding - kernel) % stride for s in r.out.shape_of(wire)[-rank:]):
        raise _Skip("that rounds its size up")
    if not maximum and not settings.get("count_include_pad") and (padding or wire != r.wire(node)):
        raise _Skip("whose border does not count")
    layer = ("max_pool" if maximum else "average_pool") + ("" if rank == 2 else "_3d")
    params = {"kernel_size": kernel, "stride": stride, "padding": padding}
    return r.out.add(layer, [wire], params, hint=_hint(node))


@_for("GlobalAveragePool", "GlobalMaxPool")
def _global_pool(r: _Reader, node: Any, settings: dict[str, Any]) -> str:
    kind = "average" if "Average" in node.op_type else "maximum"
    return r.out.add("adaptive_pool", [r.wire(node)], {"size": 1, "kind": kind}, hint=_hint(node))


@_for("ReduceMean", "ReduceMax")
def _reduce(r: _Reader, node: Any, settings: dict[str, Any]) -> str:
    shape = r.out.shape_of(r.wire(node))
    given = settings.get("axes")
    axes = given if given is not None else np.asarray(r.array(node, 1)).tolist()
    # A series lies here with its slices in an axis of its own; in the graph they may be laid together with the batch.
    rank = len(shape) + 1 - (1 if r.out.data.layout == "series" and len(shape) == 4 else 0)
    if sorted(a % rank for a in axes) != list(range(2, rank)) or rank < 4:
        raise _Skip("over other axes")
    kind = "average" if node.op_type == "ReduceMean" else "maximum"
    if settings.get("keepdims", 1):
        return r.out.add("adaptive_pool", [r.wire(node)], {"size": 1, "kind": kind}, hint=_hint(node))
    return r.out.add("global_pool", [r.wire(node)], {"kind": kind}, hint=_hint(node))


@_for("Gemm", "MatMul")
def _linear(r: _Reader, node: Any, settings: dict[str, Any]) -> str:
    if node.input[0] not in r.wires:
        raise _Skip("of a constant")
    weight, bias = r.array(node, 1), r.array(node, 2) if node.op_type == "Gemm" else None
    if weight is None or weight.ndim != 2 or settings.get("transA"):
        raise _Skip("with settings that ours does not have")
    weight = weight if settings.get("transB") else weight.T
    weight = weight * np.float32(settings.get("alpha", 1.0))
    if bias is not None:
        bias = np.broadcast_to(bias * np.float32(settings.get("beta", 1.0)), (weight.shape[0],))
    tensors = {"weight": weight, **({"bias": bias} if bias is not None else {})}
    params = {"out_features": weight.shape[0], "bias": bias is not None}
    return r.out.add("linear", [r.wire(node)], params, tensors, _hint(node))


@_for("Add", "Mul")
def _join(r: _Reader, node: Any, settings: dict[str, Any]) -> str:
    feeds = [r.wires[name] for name in node.input if name in r.wires]
    if any(name not in r.wires and name not in r.fixed for name in node.input):
        raise _Skip("with something that is not understood")
    known = next((r.fixed[name] for name in node.input if name in r.fixed), None)
    if known is not None:
        return _with_constant(r, node, feeds[0], known)
    gate = next((n for n in r.out.nodes if n.id == feeds[1] and n.name == "sigmoid"), None)
    gated = gate is not None and gate is r.out.nodes[-1] and _fed(r, gate) == feeds[0]
    if node.op_type == "Mul" and gated and gate is not None and r.single(gate.id):
        r.out.nodes[-1] = gate.model_copy(update={"name": "silu"})  # x * sigmoid(x)
        return gate.id
    if r.out.shape_of(feeds[0]) != r.out.shape_of(feeds[1]):
        raise _Skip("of different shapes")
    return r.out.add("add" if node.op_type == "Add" else "multiply", feeds, hint=_hint(node))


def _fed(r: _Reader, node: Any) -> str:
    place = r.out.nodes.index(node)
    return node.inputs[0] if node.inputs else (r.out.nodes[place - 1].id if place else INPUT)


def _with_constant(r: _Reader, node: Any, wire: str, known: np.ndarray) -> str:
    """The bias of a linear layer right above it, or what a group norm ends with; else nothing that layers here do."""
    if known.ndim > 1:
        return _with_channels(r, wire, known, "bias" if node.op_type == "Add" else "weight")
    above = r.out.nodes[-1] if r.out.nodes else None
    key = f"layers.{wire}.weight"
    linear = above is not None and above.id == wire and above.name == "linear" and known.ndim == 1
    if (
        node.op_type != "Add"
        or not linear
        or f"layers.{wire}.bias" in r.out.tensors
        or known.shape[0] != len(r.out.tensors[key])
        or not r.single(wire)
    ):
        raise _Skip("with a constant")
    assert above is not None
    params = {key: value for key, value in above.params.items() if key != "bias"}
    r.out.nodes[-1] = above.model_copy(update={"params": params})
    r.out.tensors[f"layers.{wire}.bias"] = np.asarray(known, np.float32)
    return wire


@_for("Concat")
def _concat(r: _Reader, node: Any, settings: dict[str, Any]) -> str:
    feeds = [r.wire(node, k) for k in range(len(node.input))]
    rank = r.rank(feeds[0])  # what a series has for each slice is a vector in the graph
    if settings["axis"] % rank != (2 if rank == 3 and r.out.data.layout != "series" else 1):
        raise _Skip("along another axis")
    return r.out.add("concatenate", feeds, hint=_hint(node))


def _plain(layer: str, **wanted: float) -> _Converter:
    def convert(r: _Reader, node: Any, settings: dict[str, Any]) -> str:
        if any(abs(settings.get(key, value) - value) > 1e-6 for key, value in wanted.items()):
            raise _Skip("with settings that ours does not have")
        return r.out.add(layer, [r.wire(node)], hint=_hint(node))

    return convert


_TABLE.update(
    Relu=_plain("relu"),
    Sigmoid=_plain("sigmoid"),
    Tanh=_plain("tanh"),
    Mish=_plain("mish"),
    HardSwish=_plain("hardswish"),
    Selu=_plain("selu", alpha=1.6732632, gamma=1.0507010),
)


@_for("Gelu")
def _gelu(r: _Reader, node: Any, settings: dict[str, Any]) -> str:
    if settings.get("approximate", "none") != "none":
        raise _Skip("approximate")
    return r.out.add("gelu", [r.wire(node)], hint=_hint(node))


@_for("Swish")
def _swish(r: _Reader, node: Any, settings: dict[str, Any]) -> str:
    if settings.get("alpha", 1.0) != 1.0:
        raise _Skip("with a slope of its own")
    return r.out.add("silu", [r.wire(node)], hint=_hint(node))


@_for("LeakyRelu", "Elu")
def _parametric(r: _Reader, node: Any, settings: dict[str, Any]) -> str:
    layer, key, usual = ("leaky_relu", "negative_slope", 0.01) if node.op_type == "LeakyRelu" else ("elu", "alpha", 1.0)
    return r.out.add(layer, [r.wire(node)], {key: round(float(settings.get("alpha", usual)), 7)}, hint=_hint(node))


@_for("PRelu")
def _prelu(r: _Reader, node: Any, settings: dict[str, Any]) -> str:
    slope, shape = r.array(node, 1), r.out.shape_of(r.wire(node))
    item = shape[1:] if r.out.data.layout == "series" and len(shape) == 4 else shape
    each = (item[0], *[1] * len(item[1:]))
    if slope is None or len(item) == 2 or (slope.size > 1 and slope.shape not in (each, (1, *each))):
        raise _Skip("with a slope for every pixel")
    return r.out.add("prelu", [r.wire(node)], {}, {"weight": np.broadcast_to(slope.reshape(-1), item[:1])}, _hint(node))


@_for("Clip")
def _clip(r: _Reader, node: Any, settings: dict[str, Any]) -> str:
    low, high = r.array(node, 1), r.array(node, 2)
    low = low if low is not None else settings.get("min")
    high = high if high is not None else settings.get("max")
    if low is None or high is None or float(low) != 0 or float(high) != 6:
        raise _Skip("between other limits than 0 and 6")
    return r.out.add("relu6", [r.wire(node)], hint=_hint(node))


@_for("Softmax")
def _softmax(r: _Reader, node: Any, settings: dict[str, Any]) -> str:
    rank = r.rank(r.wire(node))
    if r.opset < 13 and rank != 2:
        raise _Skip("over several axes at once")
    if settings.get("axis", -1 if r.opset >= 13 else 1) % rank != (2 if rank == 3 else 1):
        raise _Skip("over another axis")
    return r.out.add("softmax", [r.wire(node)], hint=_hint(node))


@_for("Identity", "Dropout", "Cast")
def _same(r: _Reader, node: Any, settings: dict[str, Any]) -> str:
    if node.op_type == "Cast" and settings.get("to") != 1:
        raise _Skip("to other numbers")
    return r.wire(node)


@_for("Flatten", "Reshape", "Squeeze")
def _flatten(r: _Reader, node: Any, settings: dict[str, Any]) -> str:
    wire = r.wire(node)
    shape = r.out.shape_of(wire)
    size = int(np.prod(shape))
    if node.op_type == "Flatten" and settings.get("axis", 1) == 1:
        return r.out.add("flatten", [wire], hint=_hint(node))
    if node.op_type == "Squeeze":
        given = settings.get("axes")
        axes = given if given is not None else np.asarray(r.array(node, 1)).tolist()
        if sorted(a % (len(shape) + 1) for a in axes) == list(range(2, len(shape) + 1)):
            return r.out.add("flatten", [wire], hint=_hint(node))
    if node.op_type == "Reshape":
        target = _target(r, node)
        if len(target) == 2 and target[1] in (-1, size):
            return r.out.add("flatten", [wire], hint=_hint(node))
        # Slices laid together with the batch and taken apart again: what a series does here by itself.
        items = [list(shape[1:])] if r.out.data.layout == "series" else []
        if target[1:] in (list(shape), *items):
            return wire
    raise _Skip("to another shape")


def _target(r: _Reader, node: Any, k: int = 1) -> list[int]:
    """The shape behind input `k`, such as that of a Reshape; -1 for sizes computed from the number of scans."""
    if node.input[k] in r.fixed:
        return [int(v) for v in r.fixed[node.input[k]].reshape(-1)]
    for other in r.graph.node:
        if node.input[k] in other.output and other.op_type == "Concat":
            parts: list[int] = []
            for name in other.input:
                known = r.fixed.get(name)
                parts += [int(v) for v in known.reshape(-1)] if known is not None else [-1]
            return parts
    raise _Skip("to a shape that depends on the scan")


class _Sizes(str):
    """What depends on the number of scans only: sizes, and zeros of such a size ("filled": other numbers)."""


@_for("Pad")
def _pad(r: _Reader, node: Any, settings: dict[str, Any]) -> str:
    pads = np.asarray(settings["pads"] if "pads" in settings else r.array(node, 1)).reshape(-1)
    value = r.array(node, 2)
    number = float(settings.get("value", 0.0) if value is None else value)
    rank = r.rank(r.wire(node))
    half = [int(p) for p in pads]
    begin, end = half[:rank], half[rank:]
    if settings.get("mode", "constant") != "constant" or (number and number > -1e38) or rank != 4 or len(end) != 4:
        raise _Skip("of another kind")
    if any(begin[:2] + end[:2]) or min(half) < 0:
        raise _Skip("over other axes")
    sides = {"left": begin[3], "right": end[3], "top": begin[2], "bottom": end[2]}
    if not any(sides.values()):
        return r.wire(node)
    if len(set(sides.values())) == 1 and not number:
        return r.out.add("zero_pad", [r.wire(node)], {"padding": begin[3]}, hint=_hint(node))
    fill = "lowest" if number else "zero"
    return r.out.add("border", [r.wire(node)], {**sides, "fill": fill}, hint=_hint(node))


@_for("DepthToSpace")
def _pixel_shuffle(r: _Reader, node: Any, settings: dict[str, Any]) -> str:
    if settings.get("mode", "DCR") != "CRD":
        raise _Skip("in another order")
    return r.out.add("pixel_shuffle", [r.wire(node)], {"upscale_factor": settings["blocksize"]}, hint=_hint(node))


@_for("Resize")
def _resize(r: _Reader, node: Any, settings: dict[str, Any]) -> str:
    wire = r.wire(node)
    shape = r.out.shape_of(wire)
    if len(shape) != 3:
        raise _Skip("of what is no picture")
    scales = r.array(node, 2)
    if scales is not None and scales.size == 4 and set(scales[:2]) == {1.0}:
        factors = {float(scale) for scale in scales[2:]}
    elif len(node.input) > 3:  # to a size, of which the number of scans may be computed
        factors = {wanted / side for wanted, side in zip(_target(r, node, 3)[-2:], shape[-2:], strict=True)}
    else:
        raise _Skip("of another kind")
    way = settings.get("coordinate_transformation_mode", "half_pixel")
    mode = _ENLARGED.get((settings.get("mode", "nearest"), way.removeprefix("pytorch_")))
    if mode == "nearest" and (way, settings.get("nearest_mode", "round_prefer_floor")) not in _NEAREST:
        mode = None
    if mode == "bicubic" and settings.get("cubic_coeff_a", -0.75) != -0.75:
        mode = None
    if mode is None:
        raise _Skip("of another kind")
    params: dict[str, Any] = {"mode": mode, "align_corners": way == "align_corners"}
    if len(factors) != 1 or next(iter(factors)) % 1:
        raise _Skip("by another factor")
    factor = int(factors.pop())
    if factor == 1:
        return wire
    return r.out.add("upsample", [wire], {"scale_factor": factor, **params}, hint=_hint(node))


_ENLARGED = {
    ("nearest", "asymmetric"): "nearest",
    ("nearest", "half_pixel"): "nearest",
    ("linear", "half_pixel"): "bilinear",
    ("linear", "align_corners"): "bilinear",
    ("cubic", "half_pixel"): "bicubic",
    ("cubic", "align_corners"): "bicubic",
}
"""{(mode, where the pixels lie): mode of our layer}."""
_NEAREST = {("asymmetric", "floor"), ("half_pixel", "round_prefer_floor"), ("half_pixel", "floor")}
"""Ways of rounding that repeat each pixel when the picture grows by a whole factor."""


# -- recurrent layers -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Turned:
    """A sequence with its steps before the scans, as ONNX' recurrent layers have it."""

    what: Any


_OfRuns = Callable[[_Reader, Any, dict[str, Any]], Any]


def _size(r: _Reader, node: Any, settings: dict[str, Any]) -> Any:
    return _Sizes("sizes")


def _turn(r: _Reader, node: Any, settings: dict[str, Any]) -> Any:
    value, order = r.wires.get(node.input[0]), list(settings.get("perm", ()))
    if isinstance(value, _Turned):
        if order == [1, 0, 2]:
            return value.what
        return value if order == [0, 2, 1, 3] else None
    return _Turned(value) if order == [1, 0, 2] and value is not None else None


def _recurrent(r: _Reader, node: Any, settings: dict[str, Any]) -> Any:
    value = r.wires.get(node.input[0])
    if not isinstance(value, _Turned) or settings.get("layout") or settings.get("direction", "forward") != "forward":
        raise _Skip("that reads in a way that ours does not")
    if any(str(r.wires.get(name)) != "sizes" for name in node.input[4:] if name):
        raise _Skip("with states or lengths of its own")
    usual = {"GRU": settings.get("linear_before_reset") == 1, "LSTM": not settings.get("input_forget"), "RNN": True}
    if not usual[node.op_type] or settings.get("activations") or settings.get("clip"):
        raise _Skip("with gates of another kind")
    inner, recurrent, bias = (r.array(node, k) for k in (1, 2, 3))
    assert inner is not None and recurrent is not None
    # ONNX: update, reset, new; and input, output, forget, cell.
    order = {"GRU": (1, 0, 2), "LSTM": (0, 2, 3, 1), "RNN": (0,)}[node.op_type]
    both = bias[0] if bias is not None else np.zeros(2 * inner.shape[1], np.float32)
    tensors = {"weight_ih_l0": gates(inner[0], order), "weight_hh_l0": gates(recurrent[0], order)}
    tensors |= {f"bias_{side}_l0": gates(b, order) for side, b in zip(("ih", "hh"), np.split(both, 2), strict=True)}
    return _Turned(begun(value.what, node.op_type.lower(), recurrent.shape[-1], tensors))


def _laid(r: _Reader, node: Any, settings: dict[str, Any]) -> Any:
    """The axis of directions is taken out of the states of a recurrent layer."""
    value = r.wires.get(node.input[0])
    return value if isinstance(value, _Turned) and isinstance(value.what, Run) else None


def _picked(r: _Reader, node: Any, settings: dict[str, Any]) -> Any:
    value, index = r.wires.get(node.input[0]), r.fixed.get(node.input[1])
    last = index is not None and index.size == 1 and int(index.reshape(-1)[0]) == -1 and settings.get("axis", 0) == 1
    return Last(value) if last and isinstance(value, Run) else None


def _reversed(r: _Reader, node: Any, settings: dict[str, Any]) -> Any:
    begin, end, axes, steps = (r.fixed.get(node.input[k]) if k < len(node.input) else None for k in range(1, 5))
    if begin is None or end is None or axes is None or steps is None:
        return None
    found = [int(v.reshape(-1)[0]) for v in (begin, end, axes, steps) if v.size == 1]
    if len(found) != 4 or found[0] != -1 or found[1] > -(2**31) or found[2:] != [1, -1]:
        return None
    return flipped(r.wires[node.input[0]])


def _side_by_side(r: _Reader, node: Any, settings: dict[str, Any]) -> Any:
    return joined(r.out, [r.wires.get(name) for name in node.input], _hint(node))


_OF_RUNS: dict[str, _OfRuns] = {
    "Shape": _size,
    "Transpose": _turn,
    **dict.fromkeys(("GRU", "LSTM", "RNN"), _recurrent),
    "Reshape": lambda r, node, settings: _grouped(r, node, settings) or _laid(r, node, settings),
    "Squeeze": _laid,
    "InstanceNormalization": _normalized,
    "Gather": _picked,
    "Slice": _reversed,
    "Concat": _side_by_side,
}
"""Kinds that work on parts of recurrent layers or of group norms; a converter that returns None leaves the node to
`_TABLE`."""
