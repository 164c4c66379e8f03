"""Layers of Keras that weigh, normalize, activate, join, or lay numbers out anew."""

from __future__ import annotations

from typing import Any

import numpy as np

from builder.keras_reading.reader import Reader, Skip, converts


@converts("Dense")
def _dense(r: Reader, name: str, feeds: list[str], config: dict[str, Any]) -> str:
    bias = bool(config.get("use_bias", True))
    if len(r.out.shape_of(feeds[0])) > 2:
        raise Skip("on pictures")
    tensors = r.kernels(name, (1, 0), bias)
    if feeds[0] in r.turned and tensors:
        channels, *space = r.turned[feeds[0]]
        kernel = tensors["weight"].reshape(-1, *space, channels)
        tensors["weight"] = np.moveaxis(kernel, -1, 1).reshape(len(kernel), -1)
    wire = r.out.add("linear", feeds, {"out_features": config["units"], "bias": bias}, tensors, name)
    return r.activated(wire, config, name)


@converts("BatchNormalization")
def _batch_norm(r: Reader, name: str, feeds: list[str], config: dict[str, Any]) -> str:
    shape = r.out.shape_of(feeds[0])
    axis = config.get("axis", -1)
    axis = axis[0] if isinstance(axis, list) else axis
    rank = len(shape) + 1
    if len(shape) > 1 and axis % rank != (1 if r.first else rank - 1):
        raise Skip("over another axis")
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
            raise Skip("an epsilon smaller than ours")
        tensors = {"weight": gamma, "bias": beta, "running_mean": arrays[0], "running_var": variance}
    momentum = min(1.0, max(0.001, round(1 - float(config.get("momentum", 0.99)), 6)))
    return r.out.add(layer[len(shape)], feeds, {"momentum": momentum}, tensors, name)


@converts("LayerNormalization", "GroupNormalization")
def _other_norm(r: Reader, name: str, feeds: list[str], config: dict[str, Any]) -> str:
    if abs(float(config.get("epsilon", 1e-3)) - 1e-5) > 1e-9:
        raise Skip(f"epsilon {config.get('epsilon', 1e-3)}, where ours is 1e-05")
    scaled, centred = bool(config.get("scale", True)), bool(config.get("center", True))
    norm = r.layers[name]["class_name"]
    if scaled != centred or not scaled and norm == "LayerNormalization":
        raise Skip("without scale or centre")
    r.straight(feeds[0])
    shape = r.out.shape_of(feeds[0])
    axis = config.get("axis", -1)
    axis = axis[0] if isinstance(axis, list) and len(axis) == 1 else axis
    wanted = 1 if r.first and len(shape) > 2 else len(shape)
    if not isinstance(axis, int) or axis % (len(shape) + 1) != wanted:
        raise Skip("over other axes")
    arrays = r.weights.get(name)
    tensors = {"weight": arrays[0], "bias": arrays[1]} if arrays else {}
    if norm == "LayerNormalization":
        return r.out.add("layer_norm", feeds, {}, tensors, name)
    groups = int(config["groups"])
    if not scaled:  # a group of its own for each channel is what ours calls instance norm
        layers = {3: "instance_norm", 4: "instance_norm_3d" if r.out.data.layout == "volume" else "instance_norm"}
        if groups not in (-1, shape[0]) or len(shape) not in layers:
            raise Skip("without scale or centre")
        return r.out.add(layers[len(shape)], feeds, {"affine": False}, {}, name)
    return r.out.add("group_norm", feeds, {"num_groups": shape[0] if groups == -1 else groups}, tensors, name)


@converts("Flatten")
def _flatten(r: Reader, name: str, feeds: list[str], config: dict[str, Any]) -> str:
    shape = r.out.shape_of(feeds[0])
    first = config.get("data_format", "channels_last") == "channels_first"
    if len(shape) == 4 and r.out.data.layout == "series" and (first or not r.first):
        raise Skip("of a series")
    wire = r.passed(feeds[0], r.out.add("flatten", feeds, hint=name))
    if len(shape) > 2 and (not r.first or first) and min(shape[1:]) * len(shape) and shape[1:] != (1,) * len(shape[1:]):
        r.turned[wire] = shape  # Keras lays pictures out channels last, whatever their own order
    return wire


@converts("Reshape")
def _reshape(r: Reader, name: str, feeds: list[str], config: dict[str, Any]) -> str:
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
    raise Skip(f"to {target}")


def _regrouped(r: Reader, name: str, feeds: list[str], target: list[int], shape: tuple[int, ...]) -> str:
    """Slices laid together with the batch and taken apart again: what a series does here by itself."""
    items = tuple(shape[1:])
    if target[:1] == [-1] and (tuple(target[1:]) == items or tuple(target[1:]) == shape):
        return feeds[0]
    raise Skip(f"to {target}")


@converts("Dropout", "SpatialDropout2D", "SpatialDropout3D")
def _dropout(r: Reader, name: str, feeds: list[str], config: dict[str, Any]) -> str:
    whole = config.get("noise_shape") or r.layers[name]["class_name"] != "Dropout"
    rank = len(r.out.shape_of(feeds[0]))
    layer = {3: "channel_dropout", 4: "channel_dropout_3d"}.get(rank, "dropout") if whole else "dropout"
    wire = r.out.add(layer, feeds, {"p": float(config["rate"])}, hint=name)
    return r.passed(feeds[0], wire)


@converts("Activation")
def _activation(r: Reader, name: str, feeds: list[str], config: dict[str, Any]) -> str:
    return r.activation(feeds[0], config.get("activation"), name)


@converts("ReLU")
def _relu(r: Reader, name: str, feeds: list[str], config: dict[str, Any]) -> str:
    most, slope = config.get("max_value"), float(config.get("negative_slope") or 0)
    if float(config.get("threshold") or 0) or (most is not None and (float(most) != 6 or slope)):
        raise Skip("with limits of its own")
    layer = "relu6" if most is not None else "leaky_relu" if slope else "relu"
    params = {"negative_slope": slope} if slope else {}
    return r.passed(feeds[0], r.out.add(layer, feeds, params, hint=name))


@converts("LeakyReLU", "ELU", "Gelu", "Softmax")
def _parametric(r: Reader, name: str, feeds: list[str], config: dict[str, Any]) -> str:
    kind = str(r.layers[name]["class_name"])
    if kind == "Softmax":
        return r.softmax(feeds[0], config.get("axis", -1), name)
    if kind == "Gelu":
        if config.get("approximate", True):
            raise Skip("approximate")
        return r.passed(feeds[0], r.out.add("gelu", feeds, hint=name))
    slope = config.get("negative_slope", config.get("alpha", 0.3 if kind == "LeakyReLU" else 1.0))
    layer, key = ("leaky_relu", "negative_slope") if kind == "LeakyReLU" else ("elu", "alpha")
    return r.passed(feeds[0], r.out.add(layer, feeds, {key: float(slope)}, hint=name))


@converts("PReLU")
def _prelu(r: Reader, name: str, feeds: list[str], config: dict[str, Any]) -> str:
    arrays, shape = r.weights.get(name), r.out.shape_of(feeds[0])
    r.straight(feeds[0])
    rank = len(shape)
    channel = 1 if r.first or rank == 1 else rank
    each = {*range(1, rank + 1)} - {a % (rank + 1) for a in config.get("shared_axes") or ()}
    if rank == 2 or each - {channel}:
        raise Skip("with a slope for every pixel")
    if arrays and arrays[0].size != (shape[0] if each else 1):
        raise Skip("with a slope for every pixel")
    slopes = np.broadcast_to(arrays[0].reshape(-1), shape[:1]) if arrays else None  # one for all: the same for each
    return r.out.add("prelu", feeds, {}, {} if slopes is None else {"weight": slopes}, name)


@converts("Add", "Multiply", "Concatenate")
def _join(r: Reader, name: str, feeds: list[str], config: dict[str, Any]) -> str:
    kind = str(r.layers[name]["class_name"])
    if len(feeds) < 2 or any(feed in r.turned for feed in feeds):
        raise Skip("of one thing" if len(feeds) < 2 else "of pictures laid out channels last")
    if kind == "Concatenate":
        rank = len(r.out.shape_of(feeds[0])) + 1
        first = r.first and (rank != 3 or r.out.data.layout == "series")  # a vector for each slice of a series
        if int(config.get("axis", -1)) % rank != (1 if rank == 2 or first else rank - 1):
            raise Skip("along another axis")
    return r.out.add(kind.lower(), feeds, hint=name)


@converts("GaussianNoise", "GaussianDropout", "ActivityRegularization")
def _nothing(r: Reader, name: str, feeds: list[str], config: dict[str, Any]) -> str:
    r.out.notes.append(f"{name}: left out, since it changes nothing when the network answers.")
    return feeds[0]
