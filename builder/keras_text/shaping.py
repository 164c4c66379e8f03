"""Operators that only lay numbers out anew."""

from __future__ import annotations

from typing import Any

from builder.keras_text.learned import zero_border
from builder.keras_text.table import LOWEST, converts, each_axis, positive
from builder.keras_text.writer import Fixed, Several, Stacked, Variable, Writer, sizes


@converts("contiguous", "clone", "alias", "detach", "lift_fresh_copy", "dropout_identity", "identity")
def _same(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    return w.variable(given.get("self", given.get("input")))


@converts("to", "_to_copy", "type_as", "float")
def _to(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    if node.meta["val"].dtype != given["self"].meta["val"].dtype:
        raise w.unsupported("it changes the kind of numbers in between")
    return w.variable(given["self"])


@converts("view", "reshape", "_unsafe_view", "flatten", "unflatten", "view_as", "reshape_as")
def _reshape(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    inside, outside, x = w.shape(given["self"]), sizes(node), w.variable(given["self"])
    if inside == outside:
        return x
    if outside.count(None) > 1:
        raise w.unsupported("it lays numbers out in a way that depends on the number of scans")
    if str(given["self"].meta["val"].shape[0]) == str(node.meta["val"].shape[0]):
        return w.layer(f"Reshape({outside[1:]!r}", x)  # Keras' own Flatten would turn the channels to the back first
    target = tuple(-1 if s is None else s for s in outside)
    return w.line(f"ops.reshape({x}, {target!r})", "reshape")


@converts("squeeze", "unsqueeze")
def _squeeze(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    inside, outside = w.shape(given["self"]), sizes(node)
    if inside == outside:
        return w.variable(given["self"])
    if node.target._schema.name == "aten::unsqueeze":
        return w.line(
            f"ops.expand_dims({w.variable(given['self'])}, {positive(given['dim'], len(outside))})", "expand_dims"
        )
    return _reshape(w, node, given)


@converts("permute", "transpose", "movedim", "moveaxis", "swapaxes", "swapdims", "t", "numpy_T", "mT", "adjoint")
def _transpose(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    rank = len(sizes(node))
    order = list(range(rank))
    name = node.target._schema.name.removeprefix("aten::").rstrip("_")
    if name == "permute":
        order = [positive(d, rank) for d in given["dims"]]
    elif name in ("movedim", "moveaxis"):
        sources, places = ([positive(d, rank) for d in each_axis(given[k], 1)] for k in ("source", "destination"))
        order = [d for d in order if d not in sources]
        for place, source in sorted(zip(places, sources, strict=True)):
            order.insert(place, source)
    else:
        pair = (given.get("dim0", given.get("axis0", -2)), given.get("dim1", given.get("axis1", -1)))
        a, b = (positive(int(d), rank) for d in pair)
        order[a], order[b] = order[b], order[a]
    x = w.variable(given["self"])
    if order == list(range(rank)):
        return x
    if order[0] == 0:
        return w.layer(f"Permute({tuple(order[1:])!r}", x)
    return w.line(f"ops.transpose({x}, {tuple(order)!r})", "transpose")


@converts("expand", "expand_as", "broadcast_to", "repeat")
def _expand(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    inside, outside, x = w.shape(given["self"]), sizes(node), w.variable(given["self"])
    if len(inside) != len(outside):
        raise w.unsupported("it repeats what it gets along a new axis")
    for axis, (a, b) in enumerate(zip(inside, outside, strict=True)):
        if a != b:
            if a is None or b is None or b % a:
                raise w.unsupported("it repeats scans")
            x = w.line(f"ops.concatenate([{x}] * {b // a}, axis={axis})", "concatenate", "repeated")
    return x


@converts("cat", "concat", "concatenate")
def _cat(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    axis = positive(given["dim"], len(sizes(node)))
    return w.layer(f"Concatenate(axis={axis}", [w.variable(t) for t in given["tensors"]])


@converts("stack")
def _stack(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    parts = ", ".join(str(w.variable(t)) for t in given["tensors"])
    return w.line(f"ops.stack([{parts}], axis={positive(given['dim'], len(sizes(node)))})", "stack")


def _picked(w: Writer, x: Any, axis: int, words: str) -> Variable:
    axis = positive(axis, len(w.shape(x)))
    if w.shape(x)[axis] is None:
        raise w.unsupported("it picks single scans out of a batch")
    return w.line(f"{w.variable(x)}[{':, ' * axis}{words}]", "get_item")


@converts("select")
def _select(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    found = w.values[given["self"]]
    if isinstance(found, Stacked) and given["dim"] == 0:
        return found.parts[given["index"]]
    return _picked(w, given["self"], given["dim"], str(given["index"]))


def _range(start: int, end: int | None, size: int | None, step: int = 1) -> str:
    last = "" if end is None or size is None or end >= size else str(end)
    return f"{start or ''}:{last}{f':{step}' if step != 1 else ''}"


@converts("slice", "narrow")
def _slice(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    inside = w.shape(given["self"])
    axis = positive(given["dim"], len(inside))
    start, end = given.get("start") or 0, given.get("end")
    if "length" in given:
        end = start + given["length"]
    if inside == sizes(node):
        return w.variable(given["self"])
    size = inside[axis]
    start = start + size if start < 0 and size is not None else start
    end = end + size if end is not None and end < 0 and size is not None else end
    return _picked(w, given["self"], axis, _range(start, end, size, given.get("step", 1)))


@converts("chunk", "split", "split_with_sizes", "tensor_split", "unbind")
def _split(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    inside = w.shape(given["self"])
    axis = positive(given["dim"], len(inside))
    parts, begin = [], 0
    for part in node.meta["val"]:
        if node.target._schema.name == "aten::unbind":
            words, begin = str(begin), begin + 1
        else:
            words, begin = _range(begin, begin + part.shape[axis], inside[axis]), begin + part.shape[axis]
        parts.append(words)
    used = {user.args[1] for user in node.users}
    return Several(
        tuple(_picked(w, given["self"], axis, words) if k in used else None for k, words in enumerate(parts))
    )


@converts("index_select", "index")
def _index(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    if "indices" in given:
        places = [k for k, v in enumerate(given["indices"]) if v is not None]
        if len(places) != 1:
            raise w.unsupported("it picks values along several axes at once")
        axis, index = places[0], w.fixed(given["indices"][places[0]])
    else:
        axis, index = given["dim"], w.fixed(given["index"])
    if index is None or index.dim() != 1 or index.is_floating_point():
        raise w.unsupported("it picks values by a rule that depends on the scan")
    places = index.tolist() if not index.is_meta else [0] * len(index)
    return w.line(f"ops.take({w.variable(given['self'])}, {places}, axis={axis})", "take")


@converts("pad", "constant_pad_nd", "reflection_pad2d", "replication_pad2d")
def _pad(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    flat: list[int] = given["pad"] if "pad" in given else given["padding"]
    mode, value = given.get("mode", "constant"), given.get("value") or 0
    rank = len(w.shape(given["self"]))
    pairs = [(0, 0)] * (rank - len(flat) // 2) + [(flat[k], flat[k + 1]) for k in range(len(flat) - 2, -1, -2)]
    x = w.variable(given["self"])
    if not any(map(sum, pairs)) and all(a == 0 for a, _ in pairs):
        return x
    if min(p for pair in pairs for p in pair) < 0:
        if any(p > 0 for pair in pairs for p in pair):
            raise w.unsupported("it adds and cuts borders at once")
        words = ", ".join(f"{-a or ''}:{b or ''}" for a, b in pairs)
        return w.line(f"{x}[{words}]", "get_item")
    if mode == "constant" and not value and rank > 2 and pairs[:2] == [(0, 0), (0, 0)]:
        return zero_border(w, x, pairs[2:])
    kinds = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}
    if mode not in kinds:
        raise w.unsupported(f"Keras has no border of the kind {mode}")
    words = f', mode="{kinds[mode]}"' if mode != "constant" else f", constant_values={float(max(value, LOWEST))}"
    return w.line(f"ops.pad({x}, {tuple(pairs)!r}{words})", "pad")


@converts("roll", "flip")
def _roll(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    if node.target._schema.name == "aten::flip":
        return w.line(f"ops.flip({w.variable(given['self'])}, axis={tuple(given['dims'])})", "flip")
    words = f"{tuple(given['shifts'])}, axis={tuple(given['dims'])}"
    return w.line(f"ops.roll({w.variable(given['self'])}, {words})", "roll")


@converts("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full")
def _filled(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    import torch

    name = node.target._schema.name
    value = 1.0 if "ones" in name else float(given.get("fill_value") or 0)
    return Fixed(torch.full([s or 1 for s in sizes(node)], value, device=w.device))
