"""Operators of which each becomes a layer."""

from __future__ import annotations

from typing import Any

import numpy as np

from builder.foreign import through_volume
from builder.onnx_reading.reader import TABLE, Converter, Reader, Skip, converts, hint_of, one
from builder.spec import INPUT


def bordered(r: Reader, node: Any, settings: dict[str, Any], wire: str, rank: int, fill: str) -> tuple[str, int]:
    """(wire, padding) of a window; an uneven border becomes a layer of its own."""
    auto = settings.get("auto_pad", "NOTSET")
    if auto not in ("NOTSET", "VALID"):
        raise Skip(f"auto_pad {auto}")
    pads = [int(p) for p in settings.get("pads") or [0] * 2 * rank]
    if min(pads) < 0:
        raise Skip("a border that cuts")
    if len(set(pads)) == 1:
        return wire, pads[0]
    if rank != 2:
        raise Skip("an uneven border")
    top, left, bottom, right = pads
    sides = {"left": left, "right": right, "top": top, "bottom": bottom, "fill": fill}
    return r.out.add("border", [wire], sides, hint=f"{hint_of(node)}_border"), 0


@converts("Conv", "ConvTranspose")
def _convolution(r: Reader, node: Any, settings: dict[str, Any]) -> str:
    weight, bias = r.array(node, 1), r.array(node, 2)
    assert weight is not None
    rank = weight.ndim - 2
    if rank not in (2, 3):
        raise Skip("over a sequence")
    if rank == 3 and (found := _through_volume(r, node, settings, weight, bias)):
        return found
    params = {
        "kernel_size": one(weight.shape[2:], "its window", 1),
        "stride": one(settings.get("strides"), "its step", 1),
        "bias": bias is not None,
    }
    dilation, groups = one(settings.get("dilations"), "its dilation", 1), int(settings.get("group", 1))
    tensors = {"weight": weight, **({"bias": bias} if bias is not None else {})}
    if node.op_type == "Conv":
        wire, padding = bordered(r, node, settings, r.wire(node), rank, "zero")
        params |= {"out_channels": weight.shape[0], "padding": padding, "dilation": dilation, "groups": groups}
        return r.out.add("conv2d" if rank == 2 else "conv3d", [wire], params, tensors, hint_of(node))
    whole = settings.get("auto_pad", "NOTSET") in ("NOTSET", "VALID")
    if dilation != 1 or groups != 1 or settings.get("output_shape") or not whole:
        raise Skip("with settings that ours does not have")
    params |= {
        "out_channels": weight.shape[1],
        "padding": one(settings.get("pads"), "its border", 0),
        "output_padding": one(settings.get("output_padding"), "its border", 0),
    }
    layer = "transposed_conv2d" if rank == 2 else "transposed_conv3d"
    return r.out.add(layer, [r.wire(node)], params, tensors, hint_of(node))


def _through_volume(
    r: Reader, node: Any, settings: dict[str, Any], weight: np.ndarray, bias: np.ndarray | None
) -> str | None:
    """A convolution through volumes, whose kernel and step may differ along the depth; None where ours lacks it."""
    pads = [int(p) for p in settings.get("pads") or [0] * 6]
    dilation = one(settings.get("dilations"), "its dilation", 1)
    more = settings.get("output_padding") or [0] * 3
    if settings.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or settings.get("output_shape"):
        return None
    if pads[:3] != pads[3:] or min(pads) < 0:
        return None
    params = through_volume(weight.shape[2:], settings.get("strides") or [1] * 3, pads[:3], dilation, more)
    groups, across = int(settings.get("group", 1)), node.op_type == "ConvTranspose"
    if params is None or across and (dilation != 1 or groups != 1):
        return None
    tensors = {"weight": weight, **({"bias": bias} if bias is not None else {})}
    if across:
        params |= {"out_channels": weight.shape[1], "output_padding": more[1]}
    else:
        params |= {"out_channels": weight.shape[0], "dilation": dilation, "groups": groups}
    layer = "transposed_conv3d" if across else "conv3d"
    return r.out.add(layer, [r.wire(node)], {**params, "bias": bias is not None}, tensors, hint_of(node))


@converts("BatchNormalization")
def _batch_norm(r: Reader, node: Any, settings: dict[str, Any]) -> str:
    if settings.get("training_mode") or not settings.get("spatial", 1):
        raise Skip("that takes its statistics from the batch, or one for every pixel")
    weight, bias, mean, variance = (np.asarray(r.array(node, k), np.float64) for k in range(1, 5))
    variance = variance + settings.get("epsilon", 1e-5) - 1e-5
    if (variance < 0).any():
        raise Skip("an epsilon smaller than ours")
    tensors = {"weight": weight, "bias": bias, "running_mean": mean, "running_var": variance}
    layers = {
        2: "batch_norm_1d",
        4: "batch_norm",
        5: "batch_norm_3d" if r.out.data.layout == "volume" else "batch_norm",
    }
    return r.out.add(layers[r.rank(r.wire(node))], [r.wire(node)], {}, tensors, hint_of(node))


@converts("LayerNormalization")
def _layer_norm(r: Reader, node: Any, settings: dict[str, Any]) -> str:
    rank = r.rank(r.wire(node))
    if settings.get("axis", -1) % rank != rank - 1 or rank > 3 or abs(settings.get("epsilon", 1e-5) - 1e-5) > 1e-9:
        raise Skip("with settings that ours does not have")
    weight, bias = r.array(node, 1), r.array(node, 2)
    assert weight is not None
    bias = bias if bias is not None else np.zeros_like(weight)
    return r.out.add("layer_norm", [r.wire(node)], {}, {"weight": weight, "bias": bias}, hint_of(node))


def with_channels(r: Reader, wire: str, known: np.ndarray, part: str, hint: str) -> str:
    """A factor or a term for each channel: the weight or bias of a group norm right above, else as a convolution has
    it."""
    above, alone = r.out.nodes[-1] if r.out.nodes else None, r.single(wire)
    channels = r.out.channels(wire)
    sides = len(r.out.item(wire)) - 1
    if not sides or known.shape[-sides:] != (1,) * sides or known.size != channels:
        raise Skip("with a constant")
    values = known.reshape(-1).astype(np.float32)
    if above is not None and above.id == wire and above.name == "group_norm" and alone:
        weight, bias = f"layers.{wire}.weight", f"layers.{wire}.bias"
        if part == "weight":
            r.out.tensors[weight], r.out.tensors[bias] = r.out.tensors[weight] * values, r.out.tensors[bias] * values
        else:
            r.out.tensors[bias] = r.out.tensors[bias] + values
        return wire
    ones, zeros = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    factor, term = (values, zeros) if part == "weight" else (ones, values)
    return r.out.each_channel(wire, factor, term, alone, hint)


@converts("InstanceNormalization")
def _instance_norm(r: Reader, node: Any, settings: dict[str, Any]) -> str:
    weight, bias = r.array(node, 1), r.array(node, 2)
    rank = r.rank(r.wire(node))
    if abs(settings.get("epsilon", 1e-5) - 1e-5) > 1e-9 or rank not in (4, 5) or weight is None or bias is None:
        raise Skip("with settings that ours does not have")
    layer = "instance_norm_3d" if rank == 5 and r.out.data.layout == "volume" else "instance_norm"
    return r.out.add(layer, [r.wire(node)], {"affine": True}, {"weight": weight, "bias": bias}, hint_of(node))


@converts("MaxPool", "AveragePool")
def _pool(r: Reader, node: Any, settings: dict[str, Any]) -> str:
    rank, maximum = len(settings["kernel_shape"]), node.op_type == "MaxPool"
    if rank not in (2, 3) or one(settings.get("dilations"), "its dilation", 1) != 1:
        raise Skip("with settings that ours does not have")
    kernel = one(settings["kernel_shape"], "its window", 1)
    stride = one(settings.get("strides"), "its step", 1)
    wire, padding = bordered(r, node, settings, r.wire(node), rank, "lowest" if maximum else "zero")
    if settings.get("ceil_mode") and any((s + 2 * padding - kernel) % stride for s in r.out.shape_of(wire)[-rank:]):
        raise Skip("that rounds its size up")
    if not maximum and not settings.get("count_include_pad") and (padding or wire != r.wire(node)):
        raise Skip("whose border does not count")
    layer = ("max_pool" if maximum else "average_pool") + ("" if rank == 2 else "_3d")
    params = {"kernel_size": kernel, "stride": stride, "padding": padding}
    return r.out.add(layer, [wire], params, hint=hint_of(node))


@converts("GlobalAveragePool", "GlobalMaxPool")
def _global_pool(r: Reader, node: Any, settings: dict[str, Any]) -> str:
    kind = "average" if "Average" in node.op_type else "maximum"
    return r.out.add("adaptive_pool", [r.wire(node)], {"size": 1, "kind": kind}, hint=hint_of(node))


@converts("ReduceMean", "ReduceMax")
def _reduce(r: Reader, node: Any, settings: dict[str, Any]) -> str:
    shape = r.out.shape_of(r.wire(node))
    given = settings.get("axes")
    axes = given if given is not None else np.asarray(r.array(node, 1)).tolist()
    # A series lies here with its slices in an axis of its own; in the graph they may be laid together with the batch.
    rank = len(shape) + 1 - (1 if r.out.data.layout == "series" and len(shape) == 4 else 0)
    if sorted(a % rank for a in axes) != list(range(2, rank)) or rank < 4:
        raise Skip("over other axes")
    kind = "average" if node.op_type == "ReduceMean" else "maximum"
    if settings.get("keepdims", 1):
        return r.out.add("adaptive_pool", [r.wire(node)], {"size": 1, "kind": kind}, hint=hint_of(node))
    return r.out.add("global_pool", [r.wire(node)], {"kind": kind}, hint=hint_of(node))


@converts("Gemm", "MatMul")
def _linear(r: Reader, node: Any, settings: dict[str, Any]) -> str:
    if node.input[0] not in r.wires:
        raise Skip("of a constant")
    weight, bias = r.array(node, 1), r.array(node, 2) if node.op_type == "Gemm" else None
    if weight is None or weight.ndim != 2 or settings.get("transA"):
        raise Skip("with settings that ours does not have")
    weight = weight if settings.get("transB") else weight.T
    weight = weight * np.float32(settings.get("alpha", 1.0))
    if bias is not None:
        bias = np.broadcast_to(bias * np.float32(settings.get("beta", 1.0)), (weight.shape[0],))
    tensors = {"weight": weight, **({"bias": bias} if bias is not None else {})}
    params = {"out_features": weight.shape[0], "bias": bias is not None}
    return r.out.add("linear", [r.wire(node)], params, tensors, hint_of(node))


@converts("Add", "Mul")
def _join(r: Reader, node: Any, settings: dict[str, Any]) -> str:
    feeds = [r.wires[name] for name in node.input if name in r.wires]
    if any(name not in r.wires and name not in r.fixed for name in node.input):
        raise Skip("with something that is not understood")
    known = next((r.fixed[name] for name in node.input if name in r.fixed), None)
    if known is not None:
        return _with_constant(r, node, feeds[0], known)
    gate = next((n for n in r.out.nodes if n.id == feeds[1] and n.name == "sigmoid"), None)
    gated = gate is not None and gate is r.out.nodes[-1] and fed(r, gate) == feeds[0]
    if node.op_type == "Mul" and gated and gate is not None and r.single(gate.id):
        r.out.nodes[-1] = gate.model_copy(update={"name": "silu"})  # x * sigmoid(x)
        return gate.id
    shapes = [r.out.shape_of(feed) for feed in feeds]
    stretched = all(a == b or 1 in (a, b) for a, b in zip(*shapes, strict=False)) and node.op_type == "Mul"
    if shapes[0] != shapes[1] and not (stretched and len(shapes[0]) == len(shapes[1])):
        raise Skip("of different shapes")
    return r.out.add("add" if node.op_type == "Add" else "multiply", feeds, hint=hint_of(node))


def fed(r: Reader, node: Any) -> str:
    place = r.out.nodes.index(node)
    return node.inputs[0] if node.inputs else (r.out.nodes[place - 1].id if place else INPUT)


def _with_constant(r: Reader, node: Any, wire: str, known: np.ndarray) -> str:
    """The bias of a linear layer right above it, or what a group norm ends with; else nothing that layers here do."""
    if known.ndim > 1:
        return with_channels(r, wire, known, "bias" if node.op_type == "Add" else "weight", hint_of(node))
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
        raise Skip("with a constant")
    assert above is not None
    params = {key: value for key, value in above.params.items() if key != "bias"}
    r.out.nodes[-1] = above.model_copy(update={"params": params})
    r.out.tensors[f"layers.{wire}.bias"] = np.asarray(known, np.float32)
    return wire


@converts("Concat")
def _concat(r: Reader, node: Any, settings: dict[str, Any]) -> str:
    feeds = [r.wire(node, k) for k in range(len(node.input))]
    rank = r.rank(feeds[0])  # what a series has for each slice is a vector in the graph
    if settings["axis"] % rank != (2 if rank == 3 and r.out.data.layout != "series" else 1):
        raise Skip("along another axis")
    return r.out.add("concatenate", feeds, hint=hint_of(node))


def _plain(layer: str, **wanted: float) -> Converter:
    def convert(r: Reader, node: Any, settings: dict[str, Any]) -> str:
        if any(abs(settings.get(key, value) - value) > 1e-6 for key, value in wanted.items()):
            raise Skip("with settings that ours does not have")
        return r.out.add(layer, [r.wire(node)], hint=hint_of(node))

    return convert


TABLE.update(
    Relu=_plain("relu"),
    Sigmoid=_plain("sigmoid"),
    Tanh=_plain("tanh"),
    Mish=_plain("mish"),
    HardSwish=_plain("hardswish"),
    Selu=_plain("selu", alpha=1.6732632, gamma=1.0507010),
)


@converts("Gelu")
def _gelu(r: Reader, node: Any, settings: dict[str, Any]) -> str:
    if settings.get("approximate", "none") != "none":
        raise Skip("approximate")
    return r.out.add("gelu", [r.wire(node)], hint=hint_of(node))


@converts("Swish")
def _swish(r: Reader, node: Any, settings: dict[str, Any]) -> str:
    if settings.get("alpha", 1.0) != 1.0:
        raise Skip("with a slope of its own")
    return r.out.add("silu", [r.wire(node)], hint=hint_of(node))


@converts("LeakyRelu", "Elu")
def _parametric(r: Reader, node: Any, settings: dict[str, Any]) -> str:
    layer, key, usual = ("leaky_relu", "negative_slope", 0.01) if node.op_type == "LeakyRelu" else ("elu", "alpha", 1.0)
    return r.out.add(layer, [r.wire(node)], {key: round(float(settings.get("alpha", usual)), 7)}, hint=hint_of(node))


@converts("PRelu")
def _prelu(r: Reader, node: Any, settings: dict[str, Any]) -> str:
    slope, shape = r.array(node, 1), r.out.shape_of(r.wire(node))
    item = shape[1:] if r.out.data.layout == "series" and len(shape) == 4 else shape
    each = (item[0], *[1] * len(item[1:]))
    if slope is None or len(item) == 2 or (slope.size > 1 and slope.shape not in (each, (1, *each))):
        raise Skip("with a slope for every pixel")
    return r.out.add(
        "prelu", [r.wire(node)], {}, {"weight": np.broadcast_to(slope.reshape(-1), item[:1])}, hint_of(node)
    )


@converts("Clip")
def _clip(r: Reader, node: Any, settings: dict[str, Any]) -> str:
    low, high = r.array(node, 1), r.array(node, 2)
    low = low if low is not None else settings.get("min")
    high = high if high is not None else settings.get("max")
    if low is None or high is None or float(low) != 0 or float(high) != 6:
        raise Skip("between other limits than 0 and 6")
    return r.out.add("relu6", [r.wire(node)], hint=hint_of(node))


@converts("Softmax")
def _softmax(r: Reader, node: Any, settings: dict[str, Any]) -> str:
    rank = r.rank(r.wire(node))
    if r.opset < 13 and rank != 2:
        raise Skip("over several axes at once")
    if settings.get("axis", -1 if r.opset >= 13 else 1) % rank != (2 if rank == 3 else 1):
        raise Skip("over another axis")
    return r.out.add("softmax", [r.wire(node)], hint=hint_of(node))


@converts("Identity", "Dropout", "Cast")
def _same(r: Reader, node: Any, settings: dict[str, Any]) -> str:
    if node.op_type == "Cast" and settings.get("to") != 1:
        raise Skip("to other numbers")
    return r.wire(node)


@converts("Flatten", "Reshape", "Squeeze")
def _flatten(r: Reader, node: Any, settings: dict[str, Any]) -> str:
    wire = r.wire(node)
    shape = r.out.shape_of(wire)
    size = int(np.prod(shape))
    if node.op_type == "Flatten" and settings.get("axis", 1) == 1:
        return r.out.add("flatten", [wire], hint=hint_of(node))
    if node.op_type == "Squeeze":
        given = settings.get("axes")
        axes = given if given is not None else np.asarray(r.array(node, 1)).tolist()
        if sorted(a % (len(shape) + 1) for a in axes) == list(range(2, len(shape) + 1)):
            return r.out.add("flatten", [wire], hint=hint_of(node))
    if node.op_type == "Reshape":
        wanted = target(r, node)
        if len(wanted) == 2 and wanted[1] in (-1, size):
            return r.out.add("flatten", [wire], hint=hint_of(node))
        # Slices laid together with the batch and taken apart again: what a series does here by itself.
        items = [list(shape[1:])] if r.out.data.layout == "series" else []
        if wanted[1:] in (list(shape), *items):
            return wire
    raise Skip("to another shape")


def target(r: Reader, node: Any, k: int = 1) -> list[int]:
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
    raise Skip("to a shape that depends on the scan")
