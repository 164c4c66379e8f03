"""Operators that change the size of a picture."""

from __future__ import annotations

from typing import Any

import numpy as np

from builder.onnx_reading.layers import target
from builder.onnx_reading.reader import Reader, Skip, converts, hint_of


@converts("Pad")
def _pad(r: Reader, node: Any, settings: dict[str, Any]) -> str:
    pads = np.asarray(settings["pads"] if "pads" in settings else r.array(node, 1)).reshape(-1)
    value = r.array(node, 2)
    number = float(settings.get("value", 0.0) if value is None else value)
    rank = r.rank(r.wire(node))
    half = [int(p) for p in pads]
    begin, end = half[:rank], half[rank:]
    if settings.get("mode", "constant") != "constant" or (number and number > -1e38) or rank != 4 or len(end) != 4:
        raise Skip("of another kind")
    if any(begin[:2] + end[:2]) or min(half) < 0:
        raise Skip("over other axes")
    sides = {"left": begin[3], "right": end[3], "top": begin[2], "bottom": end[2]}
    if not any(sides.values()):
        return r.wire(node)
    if len(set(sides.values())) == 1 and not number:
        return r.out.add("zero_pad", [r.wire(node)], {"padding": begin[3]}, hint=hint_of(node))
    fill = "lowest" if number else "zero"
    return r.out.add("border", [r.wire(node)], {**sides, "fill": fill}, hint=hint_of(node))


@converts("DepthToSpace")
def _pixel_shuffle(r: Reader, node: Any, settings: dict[str, Any]) -> str:
    if settings.get("mode", "DCR") != "CRD":
        raise Skip("in another order")
    return r.out.add("pixel_shuffle", [r.wire(node)], {"upscale_factor": settings["blocksize"]}, hint=hint_of(node))


@converts("Resize")
def _resize(r: Reader, node: Any, settings: dict[str, Any]) -> str:
    wire = r.wire(node)
    shape = r.out.shape_of(wire)
    if len(shape) != 3:
        raise Skip("of what is no picture")
    scales = r.array(node, 2)
    if scales is not None and scales.size == 4 and set(scales[:2]) == {1.0}:
        factors = {float(scale) for scale in scales[2:]}
    elif len(node.input) > 3:  # to a size, of which the number of scans may be computed
        factors = {wanted / side for wanted, side in zip(target(r, node, 3)[-2:], shape[-2:], strict=True)}
    else:
        raise Skip("of another kind")
    way = settings.get("coordinate_transformation_mode", "half_pixel")
    mode = _ENLARGED.get((settings.get("mode", "nearest"), way.removeprefix("pytorch_")))
    if mode == "nearest" and (way, settings.get("nearest_mode", "round_prefer_floor")) not in _NEAREST:
        mode = None
    if mode == "bicubic" and settings.get("cubic_coeff_a", -0.75) != -0.75:
        mode = None
    if mode is None:
        raise Skip("of another kind")
    params: dict[str, Any] = {"mode": mode, "align_corners": way == "align_corners"}
    if len(factors) != 1 or next(iter(factors)) % 1:
        raise Skip("by another factor")
    factor = int(factors.pop())
    if factor == 1:
        return wire
    return r.out.add("upsample", [wire], {"scale_factor": factor, **params}, hint=hint_of(node))


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
