"""Operators that work on what is no layer yet: directions of recurrent layers, channels in groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from builder.onnx_reading.reader import OF_PARTS, Grouped, Reader, Sizes, Skip, hint_of
from builder.recurrence import ChannelsLast, Half, Last, Run, begun, flipped, gated, gates, joined


def _grouped(r: Reader, node: Any, settings: dict[str, Any]) -> Any:
    """Laid in groups, or taken apart again behind the normalization: then it is a group norm."""
    value = r.wires.get(node.input[0])
    if isinstance(value, Grouped):
        if not value.normalized:
            return None
        channels = r.out.shape_of(value.wire)[0]
        tensors = {"weight": np.ones(channels), "bias": np.zeros(channels)}
        return r.out.add("group_norm", [value.wire], {"num_groups": value.groups}, tensors, hint_of(node))
    users = r.users.get(node.output[0], ())
    target = r.fixed.get(node.input[1])
    if len(users) != 1 or users[0].op_type != "InstanceNormalization" or target is None or target.size != 3:
        return None
    wire = r.settled(node.input[0], hint_of(node))
    lead, groups, rest = (int(v) for v in target.reshape(-1))
    if len(r.out.shape_of(wire)) != 3 or lead != 0 or rest != -1 or groups < 1:
        return None
    return Grouped(wire, groups)


def _normalized(r: Reader, node: Any, settings: dict[str, Any]) -> Any:
    value = r.wires.get(node.input[0])
    if not isinstance(value, Grouped):
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
        raise Skip("over groups, with settings that ours does not have")
    return Grouped(value.wire, value.groups, normalized=True)


@dataclass(frozen=True)
class Turned:
    """A sequence with its steps before the scans, as ONNX' recurrent layers have it."""

    what: Any


def _size(r: Reader, node: Any, settings: dict[str, Any]) -> Any:
    return Sizes("sizes")


def _turn(r: Reader, node: Any, settings: dict[str, Any]) -> Any:
    value, order = r.wires.get(node.input[0]), list(settings.get("perm", ()))
    if isinstance(value, Turned):
        if order == [1, 0, 2]:
            return value.what
        return value if order == [0, 2, 1, 3] else None
    if isinstance(value, ChannelsLast):
        return value.wire if order == [0, len(order) - 1, *range(1, len(order) - 1)] else None
    if isinstance(value, str) and order == [0, *range(2, len(order)), 1] and len(order) > 3:
        users = {user.op_type for user in r.users.get(node.output[0], ())}
        maps = len(order) == r.rank(value) and r.out.data.layout != "series"
        return ChannelsLast(value) if users == {"LayerNormalization"} and maps else None
    return Turned(value) if order == [1, 0, 2] and value is not None else None


def _over_channels(r: Reader, node: Any, settings: dict[str, Any]) -> Any:
    """A layer norm over channels that were laid last."""
    value = r.wires.get(node.input[0])
    if not isinstance(value, ChannelsLast):
        return None
    rank = r.rank(value.wire)
    if settings.get("axis", -1) % rank != rank - 1 or abs(settings.get("epsilon", 1e-5) - 1e-5) > 1e-9:
        raise Skip("with settings that ours does not have")
    weight, bias = r.array(node, 1), r.array(node, 2)
    assert weight is not None
    tensors = {"weight": weight, "bias": np.zeros_like(weight) if bias is None else bias}
    return ChannelsLast(r.out.add("layer_norm", [value.wire], {}, tensors, hint_of(node)))


def _halved(r: Reader, node: Any, settings: dict[str, Any]) -> Any:
    """Channels or features in two halves."""
    wire = r.settled(node.input[0], hint_of(node))
    shape = r.out.shape_of(wire)
    axis = settings.get("axis", 0) % (len(shape) + 1)
    sizes = r.array(node, 1)
    even = sizes is None or len({int(size) for size in sizes.reshape(-1)}) == 1
    places = axis == (2 if len(shape) == 2 else 1) and (len(shape) < 4 or r.out.data.layout != "series")
    if len(node.output) != 2 or not even or not places or shape[axis - 1] % 2:
        return None
    r.wires[node.output[1]] = Half(wire, 1)
    return Half(wire, 0)


def _shut(r: Reader, node: Any, settings: dict[str, Any]) -> Any:
    value = r.wires.get(node.input[0])
    return Half(value.wire, value.which, "sigmoid") if isinstance(value, Half) and value.gate == "plain" else None


def _gate(r: Reader, node: Any, settings: dict[str, Any]) -> Any:
    return gated(r.out, [r.wires.get(name) for name in node.input], hint_of(node))


def _recurrent(r: Reader, node: Any, settings: dict[str, Any]) -> Any:
    value = r.wires.get(node.input[0])
    if not isinstance(value, Turned) or settings.get("layout") or settings.get("direction", "forward") != "forward":
        raise Skip("that reads in a way that ours does not")
    if any(str(r.wires.get(name)) != "sizes" for name in node.input[4:] if name):
        raise Skip("with states or lengths of its own")
    usual = {"GRU": settings.get("linear_before_reset") == 1, "LSTM": not settings.get("input_forget"), "RNN": True}
    if not usual[node.op_type] or settings.get("activations") or settings.get("clip"):
        raise Skip("with gates of another kind")
    inner, recurrent, bias = (r.array(node, k) for k in (1, 2, 3))
    assert inner is not None and recurrent is not None
    # ONNX: update, reset, new; and input, output, forget, cell.
    order = {"GRU": (1, 0, 2), "LSTM": (0, 2, 3, 1), "RNN": (0,)}[node.op_type]
    both = bias[0] if bias is not None else np.zeros(2 * inner.shape[1], np.float32)
    tensors = {"weight_ih_l0": gates(inner[0], order), "weight_hh_l0": gates(recurrent[0], order)}
    tensors |= {f"bias_{side}_l0": gates(b, order) for side, b in zip(("ih", "hh"), np.split(both, 2), strict=True)}
    return Turned(begun(value.what, node.op_type.lower(), recurrent.shape[-1], tensors))


def _laid(r: Reader, node: Any, settings: dict[str, Any]) -> Any:
    """The axis of directions is taken out of the states of a recurrent layer."""
    value = r.wires.get(node.input[0])
    return value if isinstance(value, Turned) and isinstance(value.what, Run) else None


def _picked(r: Reader, node: Any, settings: dict[str, Any]) -> Any:
    value, index = r.wires.get(node.input[0]), r.fixed.get(node.input[1])
    last = index is not None and index.size == 1 and int(index.reshape(-1)[0]) == -1 and settings.get("axis", 0) == 1
    return Last(value) if last and isinstance(value, Run) else None


def _reversed(r: Reader, node: Any, settings: dict[str, Any]) -> Any:
    begin, end, axes, steps = (r.fixed.get(node.input[k]) if k < len(node.input) else None for k in range(1, 5))
    if begin is None or end is None or axes is None or steps is None:
        return None
    found = [int(v.reshape(-1)[0]) for v in (begin, end, axes, steps) if v.size == 1]
    if len(found) != 4 or found[0] != -1 or found[1] > -(2**31) or found[2:] != [1, -1]:
        return None
    return flipped(r.wires[node.input[0]])


def _side_by_side(r: Reader, node: Any, settings: dict[str, Any]) -> Any:
    return joined(r.out, [r.wires.get(name) for name in node.input], hint_of(node))


OF_PARTS.update(
    {
        "Shape": _size,
        "Transpose": _turn,
        **dict.fromkeys(("GRU", "LSTM", "RNN"), _recurrent),
        "Reshape": lambda r, node, settings: _grouped(r, node, settings) or _laid(r, node, settings),
        "Squeeze": _laid,
        "InstanceNormalization": _normalized,
        "LayerNormalization": _over_channels,
        "Split": _halved,
        "Sigmoid": _shut,
        "Mul": _gate,
        "Gather": _picked,
        "Slice": _reversed,
        "Concat": _side_by_side,
    }
)
