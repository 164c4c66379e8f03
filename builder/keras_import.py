"""A Keras 3 model -> a document: its config is read as JSON, its weights as plain arrays; no class of it is ever made.

Pictures may come channels first or last; weights are turned to channels first. Shared layers, nested models, Lambda
layers and classes of the file's own stay visible as layers that the catalog does not have.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from builder.foreign import MAX_NUMBERS, Assembly, ForeignError, Imported
from builder.keras_recognised import graph, recognised
from builder.parts.layers import LAYERS
from builder.recognised import FILE, Recognised, hint
from builder.recurrence import Last, Run, begun, flipped, gates, joined, settled
from builder.spec import INPUT

if TYPE_CHECKING:
    import h5py

_MEMBERS = ("config.json", "model.weights.h5", FILE)
_MAX_CONFIG_BYTES = 64 << 20
_MAX_RATIO = 200  # how much larger than its packed form a member may be

Arrays = dict[str, list[np.ndarray]]
"""{layer name: its arrays, in Keras' order}; those of a wrapper are all its inner ones, one after another."""


def from_archive(file: Path) -> Imported:
    """The network in a .keras file.

    Raises:
        ForeignError: in words.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            members = {info.filename: info for info in archive.infolist()}
            if "config.json" not in members:
                raise ForeignError("This zip file holds no Keras model: it has no config.json.")
            parts = {name: _member(archive, members[name]) for name in _MEMBERS if name in members}
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        raise ForeignError("This .keras file is damaged: it cannot be unpacked.") from error
    config = _config(parts["config.json"])
    weights = _arrays(parts[_MEMBERS[1]], config) if _MEMBERS[1] in parts else {}
    found = _Reader(config, weights).read()
    told = hint(parts.get(FILE), found.experiment.data.shape) if found.missing and weights else None
    if told is None:
        return found
    # Some operators have no layer, and our export told what the network ends with: it is looked for in the model.
    try:
        last = recognised(told, graph(config, weights))
        again = _Reader(config, weights, last).read() if last is not None else None
    except ForeignError:
        return found
    return again if again is not None and len(again.missing) < len(found.missing) else found


def from_config(text: bytes, weights: Arrays) -> Imported:
    """The network that the JSON of `model.to_json()` tells, without weights where none are given."""
    return _Reader(_config(text), weights).read()


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """One file of the archive; its size is believed neither from the header nor beyond a bound."""
    most = _MAX_CONFIG_BYTES if info.filename != _MEMBERS[1] else 4 * MAX_NUMBERS
    if info.file_size > most or info.file_size > _MAX_RATIO * max(info.compress_size, 1024):
        raise ForeignError("This .keras file unpacks to far more than it holds; it may be malicious.")
    with archive.open(info) as opened:
        data = opened.read(info.file_size + 1)
    if len(data) != info.file_size:
        raise ForeignError("This .keras file unpacks to something else than it says; it may be malicious.")
    return data


def _config(text: bytes) -> dict[str, Any]:
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


def _arrays(data: bytes, config: dict[str, Any]) -> Arrays:
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
                found[_name(layer)] = arrays
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


# -- layers -----------------------------------------------------------------------------------------------------------


def _name(layer: dict[str, Any]) -> str:
    return str(layer.get("name") or (layer.get("config") or {}).get("name") or layer.get("class_name"))


class _Skip(Exception):
    """A layer that has no counterpart; its words follow the layer's name."""


class _Reader:
    """Goes through the layers of a config in the order in which they compute."""

    def __init__(self, config: dict[str, Any], weights: Arrays, last: Recognised | None = None) -> None:
        """`last`: what the model ends with, where that was found to be one layer of ours."""
        self.last = last
        self.layers = {_name(layer): layer for layer in config["layers"] if isinstance(layer, dict)}
        self.config, self.weights = config, weights
        self.wires: dict[str, Any] = {}  # a wire, or a part of a recurrent layer that is no layer yet
        # A vector that was laid out from a picture channels last: {wire: (C, H, W)}.
        self.turned: dict[str, tuple[int, ...]] = {}
        formats = {str((la.get("config") or {}).get("data_format")) for la in self.layers.values()}
        self.first = "channels_first" in formats
        if {"channels_first", "channels_last"} <= formats:
            kinds = {str(la.get("class_name")) for la in self.layers.values() if _format(la) == "channels_last"}
            if kinds - {"Flatten"}:
                raise ForeignError("Some layers of this model take channels first and some last; that is not taken in.")

    def read(self) -> Imported:
        order = self._order()
        inputs = [name for name in order if self.layers[name].get("class_name") == "InputLayer"]
        shape = self._input_shape(inputs)
        volume = any(str(layer.get("class_name")).endswith("3D") for layer in self.layers.values())
        if not self.first:
            shape = (*shape[:-3], shape[-1], *shape[-3:-1]) if not volume else (shape[-1], *shape[:-1])
        self.out = Assembly(str(self.config.get("name") or "Keras model"), shape, volume)
        for name in inputs:
            self.wires[name] = INPUT
        inside = {value.rpartition("/")[0] for value in self.last.inside} if self.last is not None else set()
        for name in order:
            if name not in self.wires and name not in inside:
                self.wires[name] = self._layer(name)
        ends = [name for name, *_ in _histories(self.config.get("output_layers"))] or order[-1:]
        if self.last is not None:
            feeds = [self._settled(name.rpartition("/")[0]) for name in self.last.feeds]
            self.wires[ends[0]] = self.last.placed(self.out, feeds)
        if len(set(ends)) > 1:
            self.out.notes.append("The model has several outputs; the last layer of the list is taken as the one.")
        elif self.out.nodes and self._end(ends[0]) != self.out.nodes[-1].id:
            raise ForeignError("The output of this model is not its last layer; that is not taken in.")
        if not self.weights:
            self.out.notes.append("The file holds no weights.")
        return self.out.finished()

    def _end(self, name: str) -> str:
        """The wire behind the output; a recurrent layer there that does not fit stays visible."""
        if name not in self.wires:
            raise ForeignError("The output of this model is none of its layers.")
        try:
            return self._settled(name)
        except (_Skip, ForeignError, ValueError) as error:
            kind = f"Keras {self.layers[name].get('class_name')}"
            self.out.notes.append(f"{name}: there is no layer here for {kind} ({error}).")
            known = [wire for wire in map(self.wires.get, _feeds(self.layers[name])) if isinstance(wire, str)]
            return self.out.unknown(kind, known, name)

    def _order(self) -> list[str]:
        """Names of the layers, each after those that feed it."""
        if self.config["class_name"] == "Sequential":
            return list(self.layers)
        order: list[str] = []
        pending = dict(self.layers)
        while pending:
            ready = [n for n, layer in pending.items() if all(f in order for f in _feeds(layer))]
            if not ready:
                raise ForeignError(
                    "The layers of this model feed each other in a circle, or one that feeds is missing."
                )
            order += ready
            for name in ready:
                del pending[name]
        return order

    def _input_shape(self, inputs: list[str]) -> tuple[int, ...]:
        if len(inputs) > 1:
            raise ForeignError("The model has several inputs; a network here has one, the scan.")
        layer = self.layers[inputs[0]] if inputs else next(iter(self.layers.values()), {})
        config = layer.get("config") or {}
        shape = config.get("batch_shape") or config.get("batch_input_shape")
        if not isinstance(shape, list) or len(shape) < 4 or any(not isinstance(s, int) for s in shape[1:]):
            raise ForeignError("The model does not say the size of its scans, or takes any; fix its input shape first.")
        if len(shape) > 5:
            raise ForeignError("The input of this model has more axes than a series of pictures.")
        return tuple(shape[1:])

    def _settled(self, name: str) -> str:
        """The wire behind a layer's name, which becomes a layer now if it was not one yet."""
        if isinstance(self.wires[name], _Stretched | _Split):
            raise _Skip("of what is made larger in a way that ours does not know")
        if not isinstance(self.wires[name], str):
            self.wires[name] = settled(self.out, self.wires[name], name)
        return str(self.wires[name])

    def _layer(self, name: str) -> Any:
        layer = self.layers[name]
        kind = str(layer.get("class_name"))
        names = _feeds(layer)
        if self.config["class_name"] == "Sequential":
            names = list(self.wires)[-1:]
        own = str(layer.get("module") or "keras.layers")
        feeds: list[str] = []
        try:
            if (
                names
                and kind in _OF_RUNS
                and (made := _OF_RUNS[kind](self, name, [self.wires[n] for n in names], layer))
            ):
                return made
            feeds = [self._settled(n) for n in names] or ([] if self.wires else [INPUT])
            if len(layer.get("inbound_nodes") or [0]) > 1:
                raise _Skip("used several times")
            if not feeds:
                raise _Skip("fed by nothing")
            if kind not in _TABLE or not own.startswith(("keras.layers", "keras.src.ops", "tensorflow.keras")):
                raise _Skip("")
            config = layer.get("config")
            return _TABLE[kind](self, name, feeds, config if isinstance(config, dict) else {})
        except (_Skip, ForeignError, ValueError, KeyError, TypeError, IndexError) as error:
            why = (
                str(error)
                if isinstance(error, _Skip | ForeignError | ValueError)
                else "settings that are not understood"
            )
            label = f"Keras {kind}" + (f" ({why})" if why else "")
            self.out.notes.append(f"{name}: there is no layer here for {label}.")
            known = [wire for wire in (self.wires[n] for n in names) if isinstance(wire, str)]
            return self.out.unknown(f"Keras {kind}", feeds or known or [INPUT], name)

    # -- what the converters share --

    def activated(self, wire: str, config: dict[str, Any], name: str) -> str:
        """The wire behind a layer's own activation function."""
        kind = config.get("activation")
        if isinstance(kind, dict):
            kind = kind.get("config") if isinstance(kind.get("config"), str) else kind.get("class_name")
        try:
            return self.activation(wire, kind, f"{name}_{kind}")
        except _Skip as error:
            why = f" ({error})" if str(error) != str(kind) else ""
            self.out.notes.append(f"{name}: there is no layer here for its activation {kind}{why}.")
            return self.out.unknown(f"Keras activation {kind}", [wire], f"{name}_act")

    def activation(self, wire: str, kind: Any, hint: str) -> str:
        """The wire behind a function of keras.activations, with the settings that it has there."""
        if kind in (None, "linear"):
            return wire
        if not isinstance(kind, str) or kind not in _ACTIVATIONS:
            raise _Skip(str(kind)[:40])
        if kind == "softmax":
            return self.softmax(wire, -1, hint)
        params = {"negative_slope": 0.2} if kind == "leaky_relu" else {}  # the others have torch's own settings
        return self.passed(wire, self.out.add(_ACTIVATIONS[kind], [wire], params, hint=hint))

    def softmax(self, wire: str, axis: Any, hint: str) -> str:
        """The wire behind a softmax over channels or features; Keras' own axis is the last one, wherever they lie."""
        rank = len(self.out.shape_of(wire))
        if not isinstance(axis, int) or axis % (rank + 1) != (1 if self.first and rank > 2 else rank):
            raise _Skip("over another axis")
        return self.passed(wire, self.out.add("softmax", [wire], hint=hint))

    def passed(self, before: str, wire: str) -> str:
        """Behind a layer that keeps every number in its place."""
        if before in self.turned:
            self.turned[wire] = self.turned[before]
        return wire

    def straight(self, wire: str) -> None:
        """Refuses a layer with something of its own for each feature where these lie in Keras' order."""
        if wire in self.turned:
            raise _Skip("over a picture laid out channels last")

    def kernels(self, name: str, axes: tuple[int, ...], bias: bool, turned: bool = True) -> dict[str, np.ndarray]:
        """{weight, bias} of a layer, its kernel transposed by `axes`; {} where the file has no weights."""
        arrays = self.weights.get(name)
        if not arrays:
            return {}
        found = {"weight": arrays[0].transpose(axes) if turned else arrays[0]}
        return {**found, "bias": arrays[1]} if bias else found


def _format(layer: dict[str, Any]) -> str:
    return str((layer.get("config") or {}).get("data_format"))


def _histories(value: Any) -> Iterator[tuple[str, int, int]]:
    """Every (layer, call, output) that is named in a piece of a config, of Keras 3 or 2."""
    if isinstance(value, dict):
        history = (
            (value.get("config") or {}).get("keras_history") if value.get("class_name") == "__keras_tensor__" else None
        )
        if isinstance(history, list) and len(history) == 3:
            yield str(history[0]), int(history[1]), int(history[2])
        else:
            for inner in value.values():
                yield from _histories(inner)
    elif isinstance(value, list):
        if len(value) in (3, 4) and isinstance(value[0], str) and all(isinstance(v, int) for v in value[1:3]):
            yield value[0], value[1], value[2]
        else:
            for inner in value:
                yield from _histories(inner)


def _feeds(layer: dict[str, Any]) -> list[str]:
    return [name for name, *_ in _histories(layer.get("inbound_nodes"))]


_ACTIVATIONS = {
    "relu": "relu",
    "relu6": "relu6",
    "elu": "elu",
    "selu": "selu",
    "gelu": "gelu",
    "silu": "silu",
    "swish": "silu",
    "mish": "mish",
    "hard_silu": "hardswish",
    "hard_swish": "hardswish",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "softmax": "softmax",
    "leaky_relu": "leaky_relu",
}
_Converter = Callable[[_Reader, str, list[str], dict[str, Any]], str]
_TABLE: dict[str, _Converter] = {}


def _for(*kinds: str) -> Callable[[_Converter], _Converter]:
    def note(converter: _Converter) -> _Converter:
        _TABLE.update(dict.fromkeys(kinds, converter))
        return converter

    return note


def _one(value: Any, what: str) -> int:
    """A setting that Keras has per axis, where it is the same on all of them."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    if len(set(values)) != 1:
        raise _Skip(f"{what} differs between height and width")
    return int(values[0])


def _bordered(
    r: _Reader, name: str, wire: str, config: dict[str, Any], kernel: int, stride: int, dilation: int, fill: str
) -> tuple[str, int]:
    """(wire, padding) of a window with Keras' padding words; an uneven border becomes a layer of its own."""
    if config.get("padding") == "valid":
        return wire, 0
    if config.get("padding") != "same":
        raise _Skip(f"padding {config.get('padding')}")
    sizes = r.out.shape_of(wire)[-2:]
    pairs = []
    for size in sizes:
        total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
        pairs.append((total // 2, total - total // 2))
    (top, bottom), (left, right) = pairs
    if top == bottom == left == right and (fill == "zero" or top <= kernel // 2):
        return wire, top
    sides = {"left": left, "right": right, "top": top, "bottom": bottom, "fill": fill}
    return r.out.add("border", [wire], sides, hint=f"{name}_border"), 0


@_for("Conv2D", "Conv3D", "DepthwiseConv2D")
def _convolution(r: _Reader, name: str, feeds: list[str], config: dict[str, Any]) -> str:
    deep = r.layers[name]["class_name"] == "DepthwiseConv2D"
    rank = len(config["kernel_size"])
    kernel, stride = _one(config["kernel_size"], "its window"), _one(config["strides"], "its step")
    dilation = _one(config.get("dilation_rate", 1), "its dilation")
    if rank == 3 and config.get("padding") == "same":
        if stride != 1 or kernel % 2 == 0:
            raise _Skip("an uneven border")
        wire, padding = feeds[0], dilation * (kernel - 1) // 2
    else:
        wire, padding = _bordered(r, name, feeds[0], config, kernel, stride, dilation, "zero")
    channels = r.out.shape_of(wire)[-1 - rank]
    bias = bool(config.get("use_bias", True))
    params = {"kernel_size": kernel, "stride": stride, "padding": padding, "dilation": dilation, "bias": bias}
    space = tuple(range(rank))
    if deep:
        times = int(config.get("depth_multiplier", 1))
        params |= {"out_channels": channels * times, "groups": channels}
        tensors = r.kernels(name, (rank, rank + 1, *space), bias)
        if tensors:
            tensors["weight"] = tensors["weight"].reshape(channels * times, 1, *tensors["weight"].shape[2:])
    else:
        params |= {"out_channels": config["filters"], "groups": int(config.get("groups", 1))}
        tensors = r.kernels(name, (rank + 1, rank, *space), bias)
    wire = r.out.add("conv2d" if rank == 2 else "conv3d", [wire], params, tensors, name)
    return r.activated(wire, config, name)


@_for("Conv2DTranspose", "Conv3DTranspose")
def _transposed(r: _Reader, name: str, feeds: list[str], config: dict[str, Any]) -> str:
    rank = len(config["kernel_size"])
    kernel, stride = _one(config["kernel_size"], "its window"), _one(config["strides"], "its step")
    plain = config.get("padding") == "valid" and kernel >= stride
    tiled = config.get("padding") == "same" and kernel == stride
    if not (plain or tiled) or _one(config.get("dilation_rate", 1), "its dilation") != 1:
        raise _Skip("its border")
    bias = bool(config.get("use_bias", True))
    params = {"out_channels": config["filters"], "kernel_size": kernel, "stride": stride, "bias": bias}
    tensors = r.kernels(name, (rank + 1, rank, *range(rank)), bias)
    wire = r.out.add("transposed_conv2d" if rank == 2 else "transposed_conv3d", feeds, params, tensors, name)
    return r.activated(wire, config, name)


@_for("Cropping2D")
def _cropped(r: _Reader, name: str, feeds: list[str], config: dict[str, Any]) -> str:
    """What is cut off right behind a transposed convolution is its border."""
    (top, bottom), (left, right) = config["cropping"]
    above = r.out.nodes[-1] if r.out.nodes else None
    source = _feeds(r.layers[name])[:1]
    alone = sum(source[0] in _feeds(layer) for layer in r.layers.values()) == 1 if source else False
    if above is None or above.id != feeds[0] or above.name != "transposed_conv2d" or not alone:
        raise _Skip("of a picture")
    if (top, bottom) != (left, right) or not top >= bottom >= 0 or "padding" in above.params:
        raise _Skip("unevenly")
    part, params = LAYERS[above.name], dict(above.params)
    for key, value in (("padding", top), ("output_padding", top - bottom)):
        if part.param(key).parse(value) != part.param(key).default:
            params[key] = value
    r.out.nodes[-1] = above.model_copy(update={"params": params})
    return feeds[0]


@_for("Dense")
def _dense(r: _Reader, name: str, feeds: list[str], config: dict[str, Any]) -> str:
    bias = bool(config.get("use_bias", True))
    if len(r.out.shape_of(feeds[0])) > 2:
        raise _Skip("on pictures")
    tensors = r.kernels(name, (1, 0), bias)
    if feeds[0] in r.turned and tensors:
        channels, *space = r.turned[feeds[0]]
        kernel = tensors["weight"].reshape(-1, *space, channels)
        tensors["weight"] = np.moveaxis(kernel, -1, 1).reshape(len(kernel), -1)
    wire = r.out.add("linear", feeds, {"out_features": config["units"], "bias": bias}, tensors, name)
    return r.activated(wire, config, name)


@_for("BatchNormalization")
def _batch_norm(r: _Reader, name: str, feeds: list[str], config: dict[str, Any]) -> str:
    shape = r.out.shape_of(feeds[0])
    axis = config.get("axis", -1)
    axis = axis[0] if isinstance(axis, list) else axis
    rank = len(shape) + 1
    if len(shape) > 1 and axis % rank != (1 if r.first else rank - 1):
        raise _Skip("over another axis")
    r.straight(feeds[0])
    layer = {1: "batch_norm_1d", 3: "batch_norm", 4: "batch_norm_3d" if r.out.data.layout == "volume" else "batch_norm"}
    arrays, tensors = list(r.weights.get(name) or []), {}
    if arrays:
        ones = np.ones_like(arrays[-1])
        gamma = arrays.pop(0) if config.get("scale", True) else ones
        beta = arrays.pop(0) if config.get("center", True) else 0 * ones
        # Our epsilon is torch's; the difference is put into the variance, which gives the same numbers.
        variance = arrays[1] + np.float32(config.get("epsilon", 1e-3)) - np.float32(1e-5)
        if (variance < 0).any():
            raise _Skip("an epsilon smaller than ours")
        tensors = {"weight": gamma, "bias": beta, "running_mean": arrays[0], "running_var": variance}
    momentum = min(1.0, max(0.001, round(1 - float(config.get("momentum", 0.99)), 6)))
    return r.out.add(layer[len(shape)], feeds, {"momentum": momentum}, tensors, name)


@_for("LayerNormalization", "GroupNormalization")
def _other_norm(r: _Reader, name: str, feeds: list[str], config: dict[str, Any]) -> str:
    if abs(float(config.get("epsilon", 1e-3)) - 1e-5) > 1e-9:
        raise _Skip(f"epsilon {config.get('epsilon', 1e-3)}, where ours is 1e-05")
    if not config.get("scale", True) or not config.get("center", True):
        raise _Skip("without scale or centre")
    r.straight(feeds[0])
    shape = r.out.shape_of(feeds[0])
    axis = config.get("axis", -1)
    axis = axis[0] if isinstance(axis, list) and len(axis) == 1 else axis
    wanted = 1 if r.first and len(shape) > 2 else len(shape)
    if not isinstance(axis, int) or axis % (len(shape) + 1) != wanted:
        raise _Skip("over other axes")
    arrays = r.weights.get(name)
    tensors = {"weight": arrays[0], "bias": arrays[1]} if arrays else {}
    if r.layers[name]["class_name"] == "LayerNormalization":
        return r.out.add("layer_norm", feeds, {}, tensors, name)
    groups = int(config["groups"])
    return r.out.add("group_norm", feeds, {"num_groups": shape[0] if groups == -1 else groups}, tensors, name)


@_for("MaxPooling2D", "AveragePooling2D", "MaxPooling3D", "AveragePooling3D")
def _pooling(r: _Reader, name: str, feeds: list[str], config: dict[str, Any]) -> str:
    kind = str(r.layers[name]["class_name"])
    maximum, solid = kind.startswith("Max"), kind.endswith("3D")
    kernel, stride = _one(config["pool_size"], "its window"), _one(config["strides"], "its step")
    wire, padding = feeds[0], 0
    if config.get("padding") == "same":
        if solid:
            raise _Skip("an uneven border")
        wire, padding = _bordered(r, name, wire, config, kernel, stride, 1, "lowest" if maximum else "zero")
        if not maximum and (padding or wire != feeds[0]):
            raise _Skip("a border that does not count")
    layer = ("max_pool" if maximum else "average_pool") + ("_3d" if solid else "")
    return r.out.add(layer, [wire], {"kernel_size": kernel, "stride": stride, "padding": padding}, hint=name)


@_for("GlobalAveragePooling2D", "GlobalMaxPooling2D", "GlobalAveragePooling3D", "GlobalMaxPooling3D")
def _global_pooling(r: _Reader, name: str, feeds: list[str], config: dict[str, Any]) -> str:
    kind = "average" if "Average" in str(r.layers[name]["class_name"]) else "maximum"
    if config.get("keepdims"):
        return r.out.add("adaptive_pool", feeds, {"size": 1, "kind": kind}, hint=name)
    return r.out.add("global_pool", feeds, {"kind": kind}, hint=name)


@_for("AdaptiveAveragePooling2D", "AdaptiveMaxPooling2D")
def _adaptive_pooling(r: _Reader, name: str, feeds: list[str], config: dict[str, Any]) -> str:
    kind = "average" if "Average" in str(r.layers[name]["class_name"]) else "maximum"
    size = _one(config["output_size"], "its size")
    return r.out.add("adaptive_pool", feeds, {"size": size, "kind": kind}, hint=name)


@_for("Flatten")
def _flatten(r: _Reader, name: str, feeds: list[str], config: dict[str, Any]) -> str:
    shape = r.out.shape_of(feeds[0])
    first = config.get("data_format", "channels_last") == "channels_first"
    if len(shape) == 4 and r.out.data.layout == "series" and (first or not r.first):
        raise _Skip("of a series")
    wire = r.passed(feeds[0], r.out.add("flatten", feeds, hint=name))
    if len(shape) > 2 and (not r.first or first) and min(shape[1:]) * len(shape) and shape[1:] != (1,) * len(shape[1:]):
        r.turned[wire] = shape  # Keras lays pictures out channels last, whatever their own order
    return wire


@_for("Reshape")
def _reshape(r: _Reader, name: str, feeds: list[str], config: dict[str, Any]) -> str:
    shape = r.out.shape_of(feeds[0])
    target = list(config.get("target_shape") or config.get("newshape") or [])
    if "newshape" in config:  # the operation: with the batch, which may be laid together with the slices
        return _regrouped(r, name, feeds, target, shape)
    size = int(np.prod(shape))
    if target in ([-1], [size]):
        wire = r.passed(feeds[0], r.out.add("flatten", feeds, hint=name))
        if not r.first and len(shape) > 2:
            r.turned[wire] = shape
        return wire
    own = list(shape)
    if not r.first and len(shape) > 2:  # as Keras has them: channels last
        own = [*shape[1:], shape[0]] if r.out.data.layout == "volume" else [*shape[:-3], *shape[-2:], shape[-3]]
    if target[1:] == own[1:] and target[0] in (-1, own[0]):
        return feeds[0]
    raise _Skip(f"to {target}")


def _regrouped(r: _Reader, name: str, feeds: list[str], target: list[int], shape: tuple[int, ...]) -> str:
    """Slices laid together with the batch and taken apart again: what a series does here by itself."""
    items = tuple(shape[1:])
    if target[:1] == [-1] and (tuple(target[1:]) == items or tuple(target[1:]) == shape):
        return feeds[0]
    raise _Skip(f"to {target}")


@_for("Dropout", "SpatialDropout2D", "SpatialDropout3D")
def _dropout(r: _Reader, name: str, feeds: list[str], config: dict[str, Any]) -> str:
    whole = config.get("noise_shape") or r.layers[name]["class_name"] != "Dropout"
    rank = len(r.out.shape_of(feeds[0]))
    layer = {3: "channel_dropout", 4: "channel_dropout_3d"}.get(rank, "dropout") if whole else "dropout"
    wire = r.out.add(layer, feeds, {"p": float(config["rate"])}, hint=name)
    return r.passed(feeds[0], wire)


@_for("Activation")
def _activation(r: _Reader, name: str, feeds: list[str], config: dict[str, Any]) -> str:
    return r.activation(feeds[0], config.get("activation"), name)


@_for("ReLU")
def _relu(r: _Reader, name: str, feeds: list[str], config: dict[str, Any]) -> str:
    most, slope = config.get("max_value"), float(config.get("negative_slope") or 0)
    if float(config.get("threshold") or 0) or (most is not None and (float(most) != 6 or slope)):
        raise _Skip("with limits of its own")
    layer = "relu6" if most is not None else "leaky_relu" if slope else "relu"
    params = {"negative_slope": slope} if slope else {}
    return r.passed(feeds[0], r.out.add(layer, feeds, params, hint=name))


@_for("LeakyReLU", "ELU", "Gelu", "Softmax")
def _parametric(r: _Reader, name: str, feeds: list[str], config: dict[str, Any]) -> str:
    kind = str(r.layers[name]["class_name"])
    if kind == "Softmax":
        return r.softmax(feeds[0], config.get("axis", -1), name)
    if kind == "Gelu":
        if config.get("approximate", True):
            raise _Skip("approximate")
        return r.passed(feeds[0], r.out.add("gelu", feeds, hint=name))
    slope = config.get("negative_slope", config.get("alpha", 0.3 if kind == "LeakyReLU" else 1.0))
    layer, key = ("leaky_relu", "negative_slope") if kind == "LeakyReLU" else ("elu", "alpha")
    return r.passed(feeds[0], r.out.add(layer, feeds, {key: float(slope)}, hint=name))


@_for("PReLU")
def _prelu(r: _Reader, name: str, feeds: list[str], config: dict[str, Any]) -> str:
    arrays, shape = r.weights.get(name), r.out.shape_of(feeds[0])
    r.straight(feeds[0])
    rank = len(shape)
    channel = 1 if r.first or rank == 1 else rank
    if rank == 2 or {a % (rank + 1) for a in config.get("shared_axes") or ()} != {*range(1, rank + 1)} - {channel}:
        raise _Skip("with a slope for every pixel")
    if arrays and arrays[0].size != shape[0]:
        raise _Skip("with a slope for every pixel")
    return r.out.add("prelu", feeds, {}, {"weight": arrays[0].reshape(-1)} if arrays else {}, name)


@_for("Add", "Multiply", "Concatenate")
def _join(r: _Reader, name: str, feeds: list[str], config: dict[str, Any]) -> str:
    kind = str(r.layers[name]["class_name"])
    if len(feeds) < 2 or any(feed in r.turned for feed in feeds):
        raise _Skip("of one thing" if len(feeds) < 2 else "of pictures laid out channels last")
    if kind == "Concatenate":
        rank = len(r.out.shape_of(feeds[0])) + 1
        first = r.first and (rank != 3 or r.out.data.layout == "series")  # a vector for each slice of a series
        if int(config.get("axis", -1)) % rank != (1 if rank == 2 or first else rank - 1):
            raise _Skip("along another axis")
    return r.out.add(kind.lower(), feeds, hint=name)


@_for("ZeroPadding2D")
def _border(r: _Reader, name: str, feeds: list[str], config: dict[str, Any]) -> str:
    (top, bottom), (left, right) = config["padding"]
    if top == bottom == left == right:
        return r.out.add("zero_pad", feeds, {"padding": top}, hint=name)
    sides = {"left": left, "right": right, "top": top, "bottom": bottom}
    return r.out.add("border", feeds, sides, hint=name)


@_for("ZeroPadding3D")
def _border_3d(r: _Reader, name: str, feeds: list[str], config: dict[str, Any]) -> str:
    widths = {w for pair in config["padding"] for w in pair}
    if len(widths) != 1:
        raise _Skip("uneven")
    return r.out.add("zero_pad_3d", feeds, {"padding": widths.pop()}, hint=name)


@_for("Pad")
def _pad(r: _Reader, name: str, feeds: list[str], config: dict[str, Any]) -> str:
    pairs = config.get("pad_width") or []
    if config.get("mode", "constant") != "constant" or len(pairs) != 4 or not r.first or any(map(any, pairs[:2])):
        raise _Skip("of another kind")
    (top, bottom), (left, right) = pairs[2:]
    value = (r.layers[name]["inbound_nodes"][0].get("kwargs") or {}).get("constant_values") or 0
    if value and value > -1e38:
        raise _Skip(f"with {value}")
    sides = {"left": left, "right": right, "top": top, "bottom": bottom, "fill": "lowest" if value else "zero"}
    return r.out.add("border", feeds, sides, hint=name)


@_for("UpSampling2D")
def _upsample(r: _Reader, name: str, feeds: list[str], config: dict[str, Any]) -> str:
    if config.get("interpolation", "nearest") != "nearest":
        raise _Skip(str(config.get("interpolation"))[:20])
    return r.out.add("upsample", feeds, {"scale_factor": _one(config["size"], "its factor")}, hint=name)


@dataclass(frozen=True)
class _Stretched:
    """A picture that was made higher by one matrix and waits to be made wider by the same: bilinear or bicubic, which
    Keras lacks for channels first."""

    wire: str
    settings: dict[str, Any]


def _through_matrix(r: _Reader, name: str, values: list[Any], layer: dict[str, Any]) -> Any:
    equation = str((layer.get("config") or {}).get("equation"))
    arrays = r.weights.get(name) or []
    if len(values) != 1 or len(arrays) != 1 or arrays[0].ndim != 2:
        return None
    settings = _interpolated(arrays[0])
    if equation == "abcd,cz->abzd" and isinstance(values[0], str) and settings:
        return _Stretched(values[0], settings)
    if equation == "abcd,dz->abcz" and isinstance(values[0], _Stretched) and settings == values[0].settings:
        return r.out.add("upsample", [values[0].wire], settings, hint=name.removesuffix("_axis3"))
    return None


@dataclass(frozen=True)
class _Split:
    """Channels taken apart into squares of `factor` x `factor` pixels, and whether these lie beside each other already:
    how a pixel shuffle is written down with Keras' operations."""

    wire: str
    factor: int
    woven: bool = False


def _shuffled(r: _Reader, name: str, values: list[Any], layer: dict[str, Any]) -> Any:
    config, value = layer.get("config") or {}, values[0] if len(values) == 1 else None
    target = list(config.get("newshape") or [])
    if isinstance(value, str) and len(target) == 6 and target[2] == target[3]:
        lead, channels, factor, _, height, width = target
        whole = lead == -1 and r.out.shape_of(value) == (channels * factor**2, height, width)
        return _Split(value, factor) if whole else None
    if not isinstance(value, _Split):
        return None
    if layer.get("class_name") == "Transpose":
        right = not value.woven and list(config.get("axes") or []) == [0, 1, 4, 2, 5, 3]
        return _Split(value.wire, value.factor, woven=True) if right else None
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


@_for("GaussianNoise", "GaussianDropout", "ActivityRegularization")
def _nothing(r: _Reader, name: str, feeds: list[str], config: dict[str, Any]) -> str:
    r.out.notes.append(f"{name}: left out, since it changes nothing when the network answers.")
    return feeds[0]


# -- recurrent layers -------------------------------------------------------------------------------------------------

_OfRuns = Callable[[_Reader, str, list[Any], dict[str, Any]], Any]


def _recurrent(r: _Reader, name: str, values: list[Any], layer: dict[str, Any]) -> Any:
    config, kind = layer.get("config") or {}, str(layer["class_name"])
    arrays = r.weights.get(name) or []
    if kind != "Bidirectional":
        run = _run(config, kind, arrays, values[0])
        return run if config.get("return_sequences") else Last(run)
    inner = config.get("layer") or {}
    own = inner.get("config") or {}
    if config.get("merge_mode", "concat") != "concat":
        raise _Skip(f"merged by {config.get('merge_mode')}")
    half = len(arrays) // 2
    forward = _run(own, str(inner.get("class_name")), arrays[:half], values[0])
    backward = _run(own, str(inner.get("class_name")), arrays[half:], flipped(values[0]))
    pair = [forward, flipped(backward)] if own.get("return_sequences") else [Last(forward), Last(backward)]
    return joined(r.out, pair, name)


def _run(config: dict[str, Any], kind: str, arrays: list[np.ndarray], value: Any) -> Run:
    usual = {"activation": "tanh", "recurrent_activation": "sigmoid", "reset_after": True}
    activation = str(config.get("activation", "tanh"))
    if kind not in ("GRU", "LSTM", "SimpleRNN") or config.get("go_backwards") or config.get("return_state"):
        raise _Skip("of another kind")
    different = [
        k for k, v in usual.items() if config.get(k, v) != v and not (kind == "SimpleRNN" and k == "activation")
    ]
    if different or activation not in ("tanh", "relu"):
        raise _Skip(f"with {(different or ['activation'])[0]} of its own")
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


def _flip(r: _Reader, name: str, values: list[Any], layer: dict[str, Any]) -> Any:
    axis = (layer.get("config") or {}).get("axis")
    return flipped(values[0]) if axis in (1, [1]) else None


def _picked(r: _Reader, name: str, values: list[Any], layer: dict[str, Any]) -> Any:
    args = layer["inbound_nodes"][0]["args"]
    key = args[1] if len(args) > 1 else None
    last = isinstance(key, list) and len(key) == 2 and key[1] == -1 and isinstance(key[0], dict)
    return Last(values[0]) if last and isinstance(values[0], Run) else None


def _side_by_side(r: _Reader, name: str, values: list[Any], layer: dict[str, Any]) -> Any:
    return joined(r.out, values, name)


_OF_RUNS: dict[str, _OfRuns] = {
    **dict.fromkeys(("GRU", "LSTM", "SimpleRNN", "Bidirectional"), _recurrent),
    "EinsumDense": _through_matrix,
    **dict.fromkeys(("Reshape", "Transpose"), _shuffled),
    "Flip": _flip,
    "GetItem": _picked,
    "Concatenate": _side_by_side,
}
"""Kinds that work on what is no layer yet, such as parts of recurrent layers; a converter that returns None leaves the
layer to `_TABLE`."""
