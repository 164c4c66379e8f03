"""The walk through the layers of a Keras model, and the tables of what they become."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from builder.foreign import Assembly, ForeignError, Imported
from builder.keras_reading.stored import Arrays, name_of
from builder.recognised import Recognised
from builder.recurrence import ChannelsLast, Half, settled
from builder.spec import INPUT


@dataclass(frozen=True)
class Stretched:
    """A picture that was made higher by one matrix and waits to be made wider by the same: bilinear or bicubic, which
    Keras lacks for channels first."""

    wire: str
    settings: dict[str, Any]


@dataclass(frozen=True)
class Split:
    """Channels taken apart into squares of `factor` x `factor` pixels, and whether these lie beside each other already:
    how a pixel shuffle is written down with Keras' operations."""

    wire: str
    factor: int
    woven: bool = False


class Skip(Exception):
    """A layer that has no counterpart; its words follow the layer's name."""


class Reader:
    """Goes through the layers of a config in the order in which they compute."""

    def __init__(self, config: dict[str, Any], weights: Arrays, last: Recognised | None = None) -> None:
        """`last`: what the model ends with, where that was found to be one layer of ours."""
        self.last = last
        self.layers = {name_of(layer): layer for layer in config["layers"] if isinstance(layer, dict)}
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
        ends = [name for name, *_ in histories(self.config.get("output_layers"))] or order[-1:]
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
        except (Skip, ForeignError, ValueError) as error:
            kind = f"Keras {self.layers[name].get('class_name')}"
            self.out.notes.append(f"{name}: there is no layer here for {kind} ({error}).")
            known = [wire for wire in map(self.wires.get, feeds_of(self.layers[name])) if isinstance(wire, str)]
            return self.out.unknown(kind, known, name)

    def _order(self) -> list[str]:
        """Names of the layers, each after those that feed it."""
        if self.config["class_name"] == "Sequential":
            return list(self.layers)
        order: list[str] = []
        pending = dict(self.layers)
        while pending:
            ready = [n for n, layer in pending.items() if all(f in order for f in feeds_of(layer))]
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
        if isinstance(self.wires[name], Stretched | Split):
            raise Skip("of what is made larger in a way that ours does not know")
        if isinstance(self.wires[name], ChannelsLast | Half):
            raise Skip(self.wires[name].words)
        if not isinstance(self.wires[name], str):
            self.wires[name] = settled(self.out, self.wires[name], name)
        return str(self.wires[name])

    def _layer(self, name: str) -> Any:
        layer = self.layers[name]
        kind = str(layer.get("class_name"))
        names = feeds_of(layer)
        if self.config["class_name"] == "Sequential":
            names = list(self.wires)[-1:]
        own = str(layer.get("module") or "keras.layers")
        feeds: list[str] = []
        try:
            if (
                names
                and kind in OF_PARTS
                and (made := OF_PARTS[kind](self, name, [self.wires[n] for n in names], layer))
            ):
                return made
            feeds = [self._settled(n) for n in names] or ([] if self.wires else [INPUT])
            if len(layer.get("inbound_nodes") or [0]) > 1:
                raise Skip("used several times")
            if not feeds:
                raise Skip("fed by nothing")
            if kind not in TABLE or not own.startswith(("keras.layers", "keras.src.ops", "tensorflow.keras")):
                raise Skip("")
            config = layer.get("config")
            return TABLE[kind](self, name, feeds, config if isinstance(config, dict) else {})
        except (Skip, ForeignError, ValueError, KeyError, TypeError, IndexError) as error:
            why = (
                str(error)
                if isinstance(error, Skip | ForeignError | ValueError)
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
        except Skip as error:
            why = f" ({error})" if str(error) != str(kind) else ""
            self.out.notes.append(f"{name}: there is no layer here for its activation {kind}{why}.")
            return self.out.unknown(f"Keras activation {kind}", [wire], f"{name}_act")

    def activation(self, wire: str, kind: Any, hint: str) -> str:
        """The wire behind a function of keras.activations, with the settings that it has there."""
        if kind in (None, "linear"):
            return wire
        if not isinstance(kind, str) or kind not in _ACTIVATIONS:
            raise Skip(str(kind)[:40])
        if kind == "softmax":
            return self.softmax(wire, -1, hint)
        params = {"negative_slope": 0.2} if kind == "leaky_relu" else {}  # the others have torch's own settings
        return self.passed(wire, self.out.add(_ACTIVATIONS[kind], [wire], params, hint=hint))

    def softmax(self, wire: str, axis: Any, hint: str) -> str:
        """The wire behind a softmax over channels or features; Keras' own axis is the last one, wherever they lie."""
        rank = len(self.out.shape_of(wire))
        if not isinstance(axis, int) or axis % (rank + 1) != (1 if self.first and rank > 2 else rank):
            raise Skip("over another axis")
        return self.passed(wire, self.out.add("softmax", [wire], hint=hint))

    def passed(self, before: str, wire: str) -> str:
        """Behind a layer that keeps every number in its place."""
        if before in self.turned:
            self.turned[wire] = self.turned[before]
        return wire

    def single(self, name: str) -> bool:
        """Says whether one layer alone reads what the layer called `name` puts out, which is not the output."""
        ends = [end for end, *_ in histories(self.config.get("output_layers"))]
        return name not in ends and sum(feeds_of(layer).count(name) for layer in self.layers.values()) == 1

    def straight(self, wire: str) -> None:
        """Refuses a layer with something of its own for each feature where these lie in Keras' order."""
        if wire in self.turned:
            raise Skip("over a picture laid out channels last")

    def kernels(self, name: str, axes: tuple[int, ...], bias: bool, turned: bool = True) -> dict[str, np.ndarray]:
        """{weight, bias} of a layer, its kernel transposed by `axes`; {} where the file has no weights."""
        arrays = self.weights.get(name)
        if not arrays:
            return {}
        found = {"weight": arrays[0].transpose(axes) if turned else arrays[0]}
        return {**found, "bias": arrays[1]} if bias else found


def _format(layer: dict[str, Any]) -> str:
    return str((layer.get("config") or {}).get("data_format"))


def histories(value: Any) -> Iterator[tuple[str, int, int]]:
    """Every (layer, call, output) that is named in a piece of a config, of Keras 3 or 2."""
    if isinstance(value, dict):
        history = (
            (value.get("config") or {}).get("keras_history") if value.get("class_name") == "__keras_tensor__" else None
        )
        if isinstance(history, list) and len(history) == 3:
            yield str(history[0]), int(history[1]), int(history[2])
        else:
            for inner in value.values():
                yield from histories(inner)
    elif isinstance(value, list):
        if len(value) in (3, 4) and isinstance(value[0], str) and all(isinstance(v, int) for v in value[1:3]):
            yield value[0], value[1], value[2]
        else:
            for inner in value:
                yield from histories(inner)


def feeds_of(layer: dict[str, Any]) -> list[str]:
    return [name for name, *_ in histories(layer.get("inbound_nodes"))]


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
Converter = Callable[[Reader, str, list[str], dict[str, Any]], str]
TABLE: dict[str, Converter] = {}


def converts(*kinds: str) -> Callable[[Converter], Converter]:
    def note(converter: Converter) -> Converter:
        TABLE.update(dict.fromkeys(kinds, converter))
        return converter

    return note


OfParts = Callable[[Reader, str, list[Any], dict[str, Any]], Any]
OF_PARTS: dict[str, OfParts] = {}
"""Kinds that work on what is no layer yet, such as parts of recurrent layers; a converter that returns None leaves the
layer to `TABLE`."""


def one(value: Any, what: str) -> int:
    """A setting that Keras has per axis, where it is the same on all of them."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    if len(set(values)) != 1:
        raise Skip(f"{what} differs between height and width")
    return int(values[0])
