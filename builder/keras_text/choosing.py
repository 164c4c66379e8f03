"""Operators that choose among values: comparisons, the largest ones, places that depend on the scan."""

from __future__ import annotations

from typing import Any

from builder.keras_text.table import converts, positive
from builder.keras_text.writer import Several, Variable, Writer, sizes


@converts("ge", "gt", "le", "lt")
def _compared(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    name = {"ge": "greater_equal", "gt": "greater", "le": "less_equal", "lt": "less"}[_name(node)]
    other = w.variable(given["other"]) if hasattr(given["other"], "op") else float(given["other"])
    return w.line(f"ops.{name}({w.variable(given['self'])}, {other})", name)


@converts("where")
def _where(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    if any(not hasattr(given.get(key), "op") for key in ("condition", "self", "other")):
        raise w.unsupported("it lists the places at which something holds")
    words = ", ".join(str(w.variable(given[key])) for key in ("condition", "self", "other"))
    return w.line(f"ops.where({words})", "where")


@converts("topk")
def _largest(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    rank = len(w.shape(given["self"]))
    if positive(given["dim"], rank) != rank - 1 or not given["largest"]:
        raise w.unsupported("it picks the smallest values, or along another axis than the last")
    pair = w.line(f"ops.top_k({w.variable(given['self'])}, {given['k']})", "top_k")
    return Several(tuple(Variable(f"{pair}[{k}]") for k in range(2)))


@converts("gather")
def _gather(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    inside, outside = w.shape(given["self"]), sizes(node)
    axis = positive(given["dim"], len(inside))
    if not axis or any(a != b for k, (a, b) in enumerate(zip(inside, outside, strict=True)) if k != axis):
        raise w.unsupported("it gathers values over scans, or of a part of what comes in")
    words = f"{w.variable(given['self'])}, {w.variable(given['index'])}, axis={axis}"
    return w.line(f"ops.take_along_axis({words})", "take_along_axis")


@converts("grid_sampler", "grid_sampler_2d")
def _sampled(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    """Bilinear samples as a product: a pixel counts by a triangle around it, across and down, and not beyond the edge.

    Keras has no sampling at places of the scan's own; written so, it needs no indices.
    """
    import torch

    if given["interpolation_mode"] or given["padding_mode"] or given["align_corners"]:
        raise w.unsupported("it samples pictures in another way than bilinear with zeros around")
    _, channels, height, width = w.shape(given["input"])
    rows, columns = sizes(node)[2:]
    if channels is None or height is None or width is None or rows is None or columns is None:
        raise w.unsupported("it samples as many places as the scan says")
    count = rows * columns
    points = w.layer(f"Reshape(({count}, 2)", w.variable(given["grid"]), hint="points")
    near = []
    for axis, size, word in ((1, height, "down"), (0, width, "across")):
        at = w.line(f"{points}[:, :, {axis}:{axis + 1}]", "get_item", word)
        wide = w.line(f"ops.concatenate([{at}] * {size}, axis=2)", "concatenate", f"{word}_wide")
        # Edge to edge is -1 to 1; a pixel's own place is its centre.
        scale = torch.tensor([size / 2], device=w.device)
        shift = size / 2 - 0.5 - torch.arange(size, device=w.device)
        away = w.affine(wide, (None, count, size), scale, shift, f"{word}_away")
        far = w.line(f"ops.abs({away})", "absolute", f"{word}_far")
        inner = w.line(f"1.0 - {far}", "subtract", f"{word}_share")
        near.append(w.layer("ReLU(", inner, hint=f"{word}_near"))
    down = w.layer(f"Reshape(({count}, {height}, 1)", near[0], hint="down_shaped")
    across = w.layer(f"Reshape(({count}, 1, {width})", near[1], hint="across_shaped")
    both = w.line(f"{down} * {across}", "multiply", "both")
    shares = w.layer(f"Reshape(({count}, {height * width})", both, hint="shares")
    flat = w.layer(f"Reshape(({channels}, {height * width})", w.variable(given["input"]), hint="flat")
    found = w.line(f'ops.einsum("bcp,bsp->bcs", {flat}, {shares})', "einsum", "sampled")
    return w.layer(f"Reshape(({channels}, {rows}, {columns})", found, hint="samples")


def _name(node: Any) -> str:
    return str(node.target._schema.name.removeprefix("aten::").rstrip("_"))
