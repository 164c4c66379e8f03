"""Layers of Keras that look through a window, and borders around pictures."""

from __future__ import annotations

from typing import Any

from builder.keras_reading.reader import Reader, Skip, converts, feeds_of, one
from builder.parts.layers import LAYERS


def bordered(
    r: Reader, name: str, wire: str, config: dict[str, Any], kernel: int, stride: int, dilation: int, fill: str
) -> tuple[str, int]:
    """(wire, padding) of a window with Keras' padding words; an uneven border becomes a layer of its own."""
    if config.get("padding") == "valid":
        return wire, 0
    if config.get("padding") != "same":
        raise Skip(f"padding {config.get('padding')}")
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


@converts("Conv2D", "Conv3D", "DepthwiseConv2D")
def _convolution(r: Reader, name: str, feeds: list[str], config: dict[str, Any]) -> str:
    deep = r.layers[name]["class_name"] == "DepthwiseConv2D"
    rank = len(config["kernel_size"])
    kernel, stride = one(config["kernel_size"], "its window"), one(config["strides"], "its step")
    dilation = one(config.get("dilation_rate", 1), "its dilation")
    if rank == 3 and config.get("padding") == "same":
        if stride != 1 or kernel % 2 == 0:
            raise Skip("an uneven border")
        wire, padding = feeds[0], dilation * (kernel - 1) // 2
    else:
        wire, padding = bordered(r, name, feeds[0], config, kernel, stride, dilation, "zero")
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


@converts("Conv2DTranspose", "Conv3DTranspose")
def _transposed(r: Reader, name: str, feeds: list[str], config: dict[str, Any]) -> str:
    rank = len(config["kernel_size"])
    kernel, stride = one(config["kernel_size"], "its window"), one(config["strides"], "its step")
    plain = config.get("padding") == "valid" and kernel >= stride
    tiled = config.get("padding") == "same" and kernel == stride
    if not (plain or tiled) or one(config.get("dilation_rate", 1), "its dilation") != 1:
        raise Skip("its border")
    bias = bool(config.get("use_bias", True))
    params = {"out_channels": config["filters"], "kernel_size": kernel, "stride": stride, "bias": bias}
    tensors = r.kernels(name, (rank + 1, rank, *range(rank)), bias)
    wire = r.out.add("transposed_conv2d" if rank == 2 else "transposed_conv3d", feeds, params, tensors, name)
    return r.activated(wire, config, name)


@converts("Cropping2D")
def _cropped(r: Reader, name: str, feeds: list[str], config: dict[str, Any]) -> str:
    """What is cut off right behind a transposed convolution is its border."""
    (top, bottom), (left, right) = config["cropping"]
    above = r.out.nodes[-1] if r.out.nodes else None
    source = feeds_of(r.layers[name])[:1]
    alone = sum(source[0] in feeds_of(layer) for layer in r.layers.values()) == 1 if source else False
    if above is None or above.id != feeds[0] or above.name != "transposed_conv2d" or not alone:
        raise Skip("of a picture")
    if (top, bottom) != (left, right) or not top >= bottom >= 0 or "padding" in above.params:
        raise Skip("unevenly")
    part, params = LAYERS[above.name], dict(above.params)
    for key, value in (("padding", top), ("output_padding", top - bottom)):
        if part.param(key).parse(value) != part.param(key).default:
            params[key] = value
    r.out.nodes[-1] = above.model_copy(update={"params": params})
    return feeds[0]


@converts("MaxPooling2D", "AveragePooling2D", "MaxPooling3D", "AveragePooling3D")
def _pooling(r: Reader, name: str, feeds: list[str], config: dict[str, Any]) -> str:
    kind = str(r.layers[name]["class_name"])
    maximum, solid = kind.startswith("Max"), kind.endswith("3D")
    kernel, stride = one(config["pool_size"], "its window"), one(config["strides"], "its step")
    wire, padding = feeds[0], 0
    if config.get("padding") == "same":
        if solid:
            raise Skip("an uneven border")
        wire, padding = bordered(r, name, wire, config, kernel, stride, 1, "lowest" if maximum else "zero")
        if not maximum and (padding or wire != feeds[0]):
            raise Skip("a border that does not count")
    layer = ("max_pool" if maximum else "average_pool") + ("_3d" if solid else "")
    return r.out.add(layer, [wire], {"kernel_size": kernel, "stride": stride, "padding": padding}, hint=name)


@converts("GlobalAveragePooling2D", "GlobalMaxPooling2D", "GlobalAveragePooling3D", "GlobalMaxPooling3D")
def _global_pooling(r: Reader, name: str, feeds: list[str], config: dict[str, Any]) -> str:
    kind = "average" if "Average" in str(r.layers[name]["class_name"]) else "maximum"
    if config.get("keepdims"):
        return r.out.add("adaptive_pool", feeds, {"size": 1, "kind": kind}, hint=name)
    return r.out.add("global_pool", feeds, {"kind": kind}, hint=name)


@converts("AdaptiveAveragePooling2D", "AdaptiveMaxPooling2D")
def _adaptive_pooling(r: Reader, name: str, feeds: list[str], config: dict[str, Any]) -> str:
    kind = "average" if "Average" in str(r.layers[name]["class_name"]) else "maximum"
    size = one(config["output_size"], "its size")
    return r.out.add("adaptive_pool", feeds, {"size": size, "kind": kind}, hint=name)


@converts("ZeroPadding2D")
def _border(r: Reader, name: str, feeds: list[str], config: dict[str, Any]) -> str:
    (top, bottom), (left, right) = config["padding"]
    if top == bottom == left == right:
        return r.out.add("zero_pad", feeds, {"padding": top}, hint=name)
    sides = {"left": left, "right": right, "top": top, "bottom": bottom}
    return r.out.add("border", feeds, sides, hint=name)


@converts("ZeroPadding3D")
def _border_3d(r: Reader, name: str, feeds: list[str], config: dict[str, Any]) -> str:
    widths = {w for pair in config["padding"] for w in pair}
    if len(widths) != 1:
        raise Skip("uneven")
    return r.out.add("zero_pad_3d", feeds, {"padding": widths.pop()}, hint=name)


@converts("Pad")
def _pad(r: Reader, name: str, feeds: list[str], config: dict[str, Any]) -> str:
    pairs = config.get("pad_width") or []
    if config.get("mode", "constant") != "constant" or len(pairs) != 4 or not r.first or any(map(any, pairs[:2])):
        raise Skip("of another kind")
    (top, bottom), (left, right) = pairs[2:]
    value = (r.layers[name]["inbound_nodes"][0].get("kwargs") or {}).get("constant_values") or 0
    if value and value > -1e38:
        raise Skip(f"with {value}")
    sides = {"left": left, "right": right, "top": top, "bottom": bottom, "fill": "lowest" if value else "zero"}
    return r.out.add("border", feeds, sides, hint=name)


@converts("UpSampling2D")
def _upsample(r: Reader, name: str, feeds: list[str], config: dict[str, Any]) -> str:
    if config.get("interpolation", "nearest") != "nearest":
        raise Skip(str(config.get("interpolation"))[:20])
    return r.out.add("upsample", feeds, {"scale_factor": one(config["size"], "its factor")}, hint=name)
