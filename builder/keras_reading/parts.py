"""Layers of Keras that work on what is no layer yet: directions of recurrent layers, enlarged and shuffled pictures,
channels laid last, halves of the channels."""

from __future__ import annotations

from typing import Any

import numpy as np

from builder.keras_reading.reader import OF_PARTS, Reader, Skip, Split, Stretched, feeds_of
from builder.recurrence import ChannelsLast, Half, Last, Run, begun, flipped, gated, gates, joined


def _through_matrix(r: Reader, name: str, values: list[Any], layer: dict[str, Any]) -> Any:
    equation = str((layer.get("config") or {}).get("equation"))
    arrays = r.weights.get(name) or []
    if len(values) == 1 and equation in ("abcd,b->abcd", "abcde,b->abcde"):
        return _each_channel(r, name, values[0], layer, arrays)
    if len(values) != 1 or len(arrays) != 1 or arrays[0].ndim != 2:
        return None
    settings = _interpolated(arrays[0])
    if equation == "abcd,cz->abzd" and isinstance(values[0], str) and settings:
        return Stretched(values[0], settings)
    if equation == "abcd,dz->abcz" and isinstance(values[0], Stretched) and settings == values[0].settings:
        return r.out.add("upsample", [values[0].wire], settings, hint=name.removesuffix("_axis3"))
    return None


def _each_channel(r: Reader, name: str, wire: Any, layer: dict[str, Any], arrays: list[np.ndarray]) -> Any:
    """A factor for each channel, and a term that is the same all over each."""
    config = layer.get("config") or {}
    if not isinstance(wire, str) or not r.first or not arrays or config.get("activation") not in (None, "linear"):
        return None
    factor, rank = arrays[0].reshape(-1), len(r.out.item(wire))
    term = np.zeros_like(factor)
    if len(arrays) > 1:
        flat = arrays[1].reshape(len(factor), -1) if arrays[1].ndim == rank else arrays[1].reshape(1, -1)
        if len(flat) != len(factor) or (flat != flat[:, :1]).any():
            return None
        term = flat[:, 0]
    if rank != _named(config) or r.out.channels(wire) != len(factor):
        return None
    return r.out.each_channel(wire, factor, term, r.single(feeds_of(layer)[0]), name)


def _named(config: dict[str, Any]) -> int:
    """Number of sizes, batch left out, that the equation of a layer names."""
    return len(str(config.get("equation")).partition(",")[0]) - 1


def _laid_last(r: Reader, name: str, values: list[Any], layer: dict[str, Any]) -> Any:
    value, dims = values[0], list((layer.get("config") or {}).get("dims") or [])
    there, back = [*range(2, len(dims) + 1), 1], [len(dims), *range(1, len(dims))]
    if isinstance(value, ChannelsLast):
        return value.wire if dims == back else None
    users = {str(other["class_name"]) for other in r.layers.values() if name in feeds_of(other)}
    maps = isinstance(value, str) and r.first and r.out.data.layout != "series" and len(dims) > 2
    return ChannelsLast(value) if maps and dims == there and users == {"LayerNormalization"} else None


def _over_channels(r: Reader, name: str, values: list[Any], layer: dict[str, Any]) -> Any:
    """A layer norm over channels that were laid last."""
    value, config = values[0], layer.get("config") or {}
    if not isinstance(value, ChannelsLast):
        return None
    rank, axis = len(r.out.shape_of(value.wire)) + 1, config.get("axis", -1)
    axes = axis if isinstance(axis, list) else [axis]
    usual = abs(float(config.get("epsilon", 1e-3)) - 1e-5) < 1e-9 and config.get("scale", True)
    if [a % rank for a in axes] != [rank - 1] or not usual or not config.get("center", True):
        raise Skip("with settings that ours does not have")
    arrays = r.weights.get(name)
    tensors = {"weight": arrays[0], "bias": arrays[1]} if arrays else {}
    return ChannelsLast(r.out.add("layer_norm", [value.wire], {}, tensors, name))


def _half(r: Reader, value: Any, key: Any) -> Half | None:
    """The half of the channels or features that a key of slices picks."""
    if not isinstance(value, str) or not isinstance(key, list) or r.out.data.layout == "series":
        return None
    ranges = [tuple((one.get("config") or {}).get(k) for k in ("start", "stop", "step")) for one in key if _slice(one)]
    shape = r.out.shape_of(value)
    axis = len(ranges) - 1
    places = axis == (1 if r.first or len(shape) < 3 else len(shape)) if len(shape) != 2 else axis == 2
    if len(ranges) != len(key) or not places or any(any(one) for one in ranges[:-1]) or shape[axis - 1] % 2:
        return None
    middle = shape[axis - 1] // 2
    halves: dict[Any, int] = {(None, middle, None): 0, (middle, None, None): 1, (0, middle, None): 0}
    which = halves.get(ranges[-1])
    return None if which is None else Half(value, which)


def _slice(value: Any) -> bool:
    return isinstance(value, dict) and value.get("class_name") == "__slice__"


def _shut(r: Reader, name: str, values: list[Any], layer: dict[str, Any]) -> Any:
    value = values[0]
    shuts = (layer.get("config") or {}).get("activation") == "sigmoid"
    plain = isinstance(value, Half) and value.gate == "plain"
    return Half(value.wire, value.which, "sigmoid") if plain and shuts else None


def _gate(r: Reader, name: str, values: list[Any], layer: dict[str, Any]) -> Any:
    return gated(r.out, values, name)


def _shuffled(r: Reader, name: str, values: list[Any], layer: dict[str, Any]) -> Any:
    config, value = layer.get("config") or {}, values[0] if len(values) == 1 else None
    target = list(config.get("newshape") or [])
    if isinstance(value, str) and len(target) == 6 and target[2] == target[3]:
        lead, channels, factor, _, height, width = target
        whole = lead == -1 and r.out.shape_of(value) == (channels * factor**2, height, width)
        return Split(value, factor) if whole else None
    if not isinstance(value, Split):
        return None
    if layer.get("class_name") == "Transpose":
        right = not value.woven and list(config.get("axes") or []) == [0, 1, 4, 2, 5, 3]
        return Split(value.wire, value.factor, woven=True) if right else None
    channels, height, width = r.out.shape_of(value.wire)
    larger = [-1, channels // value.factor**2, height * value.factor, width * value.factor]
    if not value.woven or target != larger:
        return None
    return r.out.add("pixel_shuffle", [value.wire], {"upscale_factor": value.factor}, hint=name)


def _interpolated(matrix: np.ndarray) -> dict[str, Any]:
    """The settings of our layer that does to a line what this matrix (in, out) does; {} where there are none."""
    import torch

    count, wanted = matrix.shape
    if wanted % count or not 1 < wanted // count <= 16:
        return {}
    steps = torch.eye(count)[None, :, :, None]
    for mode in ("bilinear", "bicubic"):
        for align in (False, True):
            size = (wanted, 1)
            made = torch.nn.functional.interpolate(steps, size, mode=mode, align_corners=align)[0, :, :, 0]
            if np.allclose(made.numpy(), matrix, atol=1e-5):
                return {"scale_factor": wanted // count, "mode": mode, "align_corners": align}
    return {}


def _recurrent(r: Reader, name: str, values: list[Any], layer: dict[str, Any]) -> Any:
    config, kind = layer.get("config") or {}, str(layer["class_name"])
    arrays = r.weights.get(name) or []
    if kind != "Bidirectional":
        run = _run(config, kind, arrays, values[0])
        return run if config.get("return_sequences") else Last(run)
    inner = config.get("layer") or {}
    own = inner.get("config") or {}
    if config.get("merge_mode", "concat") != "concat":
        raise Skip(f"merged by {config.get('merge_mode')}")
    half = len(arrays) // 2
    forward = _run(own, str(inner.get("class_name")), arrays[:half], values[0])
    backward = _run(own, str(inner.get("class_name")), arrays[half:], flipped(values[0]))
    pair = [forward, flipped(backward)] if own.get("return_sequences") else [Last(forward), Last(backward)]
    return joined(r.out, pair, name)


def _run(config: dict[str, Any], kind: str, arrays: list[np.ndarray], value: Any) -> Run:
    usual = {"activation": "tanh", "recurrent_activation": "sigmoid", "reset_after": True}
    activation = str(config.get("activation", "tanh"))
    if kind not in ("GRU", "LSTM", "SimpleRNN") or config.get("go_backwards") or config.get("return_state"):
        raise Skip("of another kind")
    different = [
        k for k, v in usual.items() if config.get(k, v) != v and not (kind == "SimpleRNN" and k == "activation")
    ]
    if different or activation not in ("tanh", "relu"):
        raise Skip(f"with {(different or ['activation'])[0]} of its own")
    units, tensors = int(config["units"]), {}
    order = {"GRU": (1, 0, 2), "LSTM": (0, 1, 2, 3), "SimpleRNN": (0,)}[kind]  # GRU: update, reset, new in Keras
    if arrays:
        inner, recurrent = (gates(a.T, order) for a in arrays[:2])
        zeros = np.zeros(len(inner), np.float32)
        biases = [zeros, zeros]
        if len(arrays) > 2:
            biases = list(arrays[2]) if arrays[2].ndim == 2 else [arrays[2], zeros]
        tensors = {"weight_ih_l0": inner, "weight_hh_l0": recurrent}
        tensors |= {
            f"bias_{side}_l0": gates(np.asarray(b), order) for side, b in zip(("ih", "hh"), biases, strict=True)
        }
    return begun(value, {"SimpleRNN": "rnn"}.get(kind, kind.lower()), units, tensors, activation)


def _flip(r: Reader, name: str, values: list[Any], layer: dict[str, Any]) -> Any:
    axis = (layer.get("config") or {}).get("axis")
    return flipped(values[0]) if axis in (1, [1]) else None


def _picked(r: Reader, name: str, values: list[Any], layer: dict[str, Any]) -> Any:
    args = layer["inbound_nodes"][0]["args"]
    key = args[1] if len(args) > 1 else None
    if half := _half(r, values[0], key):
        return half
    last = isinstance(key, list) and len(key) == 2 and key[1] == -1 and isinstance(key[0], dict)
    return Last(values[0]) if last and isinstance(values[0], Run) else None


def _side_by_side(r: Reader, name: str, values: list[Any], layer: dict[str, Any]) -> Any:
    return joined(r.out, values, name)


OF_PARTS.update(
    {
        **dict.fromkeys(("GRU", "LSTM", "SimpleRNN", "Bidirectional"), _recurrent),
        "EinsumDense": _through_matrix,
        **dict.fromkeys(("Reshape", "Transpose"), _shuffled),
        "Flip": _flip,
        "GetItem": _picked,
        "Permute": _laid_last,
        "LayerNormalization": _over_channels,
        "Activation": _shut,
        "Multiply": _gate,
        "Concatenate": _side_by_side,
    }
)
