"""Layers of Keras that look through a window, and borders around pictures."""

from __future__ import annotations

from typing import Any

from builder.foreign import through_volume
from builder.keras_reading.reader import Reader, Skip, converts, feeds_of, one


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
    dilation = one(config.get("dilation_rate", 1), "its dilation")
    if rank == 3:
        wire, windows = feeds[0], _through_volume(r, feeds[0], config, dilation)
    else:
        kernel, stride = one(config["kernel_size"], "its window"), one(config["strides"], "its step")
        wire, padding = bordered(r, name, feeds[0], config, kernel, stride, dilation, "zero")
        windows = {"kernel_size": kernel, "stride": stride, "padding": padding}
    channels = r.out.shape_of(wire)[-1 - rank]
    bias = bool(config.get("use_bias", True))
    params: dict[str, Any] = {**windows, "dilation": dilation, "bias": bias}
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


def _through_volume(r: Reader, wire: str, config: dict[str, Any], dilation: int) -> dict[str, int]:
    """Kernel, step and border of a convolution through volumes, whose depth may have its own."""
    kernels, steps, borders = config["kernel_size"], config["strides"], [0, 0, 0]
    if config.get("padding") == "same":
        for k, (size, kernel, step) in enumerate(zip(r.out.shape_of(wire)[-3:], kernels, steps, strict=True)):
            total = max((-(-size // step) - 1) * step + (kernel - 1) * dilation + 1 - size, 0)
            if total % 2:
                raise Skip("an uneven border")
            borders[k] = total // 2
    elif config.get("padding") != "valid":
        raise Skip(f"padding {config.get('padding')}")
    found = through_volume(kernels, steps, borders, dilation)
    if found is None:
        raise Skip("a window that differs between the axes")
    return found


@converts("Conv2DTranspose", "Conv3DTranspose")
def _transposed(r: Reader, name: str, feeds: list[str], config: dict[str, Any]) -> str:
    rank = len(config["kernel_size"])
    each = list(zip(config["kernel_size"], config["strides"], strict=True))
    plain = config.get("padding") == "valid" and all(kernel >= stride for kernel, stride in each)
    tiled = config.get("padding") == "same" and all(kernel == stride for kernel, stride in each)
    if not (plain or tiled) or one(config.get("dilation_rate", 1), "its dilation") != 1:
        raise Skip("its border")
    cut = _border_of(r, name) or [(0, 0)] * rank
    borders, more = [before for before, _ in cut], [before - after for before, after in cut]
    if rank == 3:
        windows = through_volume(config["kernel_size"], config["strides"], borders, more=more)
        if windows is None:
            raise Skip("a window that differs between the axes")
    else:
        kernel, stride = one(config["kernel_size"], "its window"), one(config["strides"], "its step")
        windows = {"kernel_size": kernel, "stride": stride, "padding": borders[0]}
    bias = bool(config.get("use_bias", True))
    params = {"out_channels": config["filters"], **windows, "output_padding": more[-1], "bias": bias}
    tensors = r.kernels(name, (rank + 1, rank, *range(rank)), bias)
    wire = r.out.add("transposed_conv2d" if rank == 2 else "transposed_conv3d", feeds, params, tensors, name)
    return r.activated(wire, config, name)


@converts("Cropping2D", "Cropping3D")
def _cropped(r: Reader, name: str, feeds: list[str], config: dict[str, Any]) -> str:
    """What is cut off right behind a transposed convolution is its border."""
    above = feeds_of(r.layers[name])[0]
    if r.layers[above]["class_name"] != f"Conv{len(config['cropping'])}DTranspose":
        raise Skip("of a picture")
    if _border_of(r, above) is None:
        raise Skip("unevenly, or of what others read whole")
    return feeds[0]


def _border_of(r: Reader, name: str) -> list[tuple[int, int]] | None:
    """(before, after) of each axis that a layer right behind the transposed convolution `name` cuts off, where that can
    be its border; None where the two stay apart."""
    readers = [other for other, layer in r.layers.items() if name in feeds_of(layer)]
    rank = len(r.layers[name]["config"]["kernel_size"])
    if len(readers) != 1 or r.layers[readers[0]]["class_name"] != f"Cropping{rank}D":
        return None
    behind = r.layers[readers[0]]
    pairs: list[tuple[int, int]] = [(int(before), int(after)) for before, after in behind["config"]["cropping"]]
    alike = rank == 3 or pairs[0] == pairs[1]
    return pairs if alike and all(before >= after >= 0 for before, after in pairs) else None


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
