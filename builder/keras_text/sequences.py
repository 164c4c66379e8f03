"""Recurrent layers and attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from builder.keras_text.table import LOWEST, converts, typed
from builder.keras_text.writer import Several, Stacked, Writer

if TYPE_CHECKING:
    import torch


@converts("scaled_dot_product_attention")
def _attention(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    import torch

    query, key, value = (w.variable(given[name]) for name in ("query", "key", "value"))
    inside, others = w.shape(given["query"]), w.shape(given["key"])
    if given.get("enable_gqa"):
        raise w.unsupported("it shares keys among groups of heads")
    rank = len(inside)
    scale = given["scale"] if given["scale"] is not None else int(inside[-1] or 1) ** -0.5
    turned = tuple(range(rank - 2)) + (rank - 1, rank - 2)
    x = w.line(f"ops.transpose({key}, {turned})", "transpose", "keys")
    x = w.line(f"ops.matmul({query}, {x})", "matmul", "match")
    x = w.line(f"{x} * {float(scale)}", "multiply", "scaled")
    rows, columns = int(inside[-2] or 1), int(others[-2] or 1)
    mask = given["attn_mask"]
    if given["is_causal"]:
        hidden = torch.ones(rows, columns, device=w.device).triu(1) * LOWEST
        x = w.affine(x, [*inside[:-1], columns], None, hidden)
    elif mask is not None:
        known = w.fixed(mask)
        if known is None:
            x = w.line(f"{x} + {w.variable(mask)}", "add", "masked")
        else:
            hidden = torch.where(known, 0.0, LOWEST) if known.dtype == torch.bool else known.clamp(min=LOWEST)
            x = w.affine(x, [*inside[:-1], columns], None, hidden)
    x = w.line(f"ops.softmax({x}, axis=-1)", "softmax", "weights")
    return w.line(f"ops.matmul({x}, {value})", "matmul")


@converts("lstm", "gru", "rnn_tanh", "rnn_relu")
def _rnn(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    """Stacked layers, each way by Keras' own layer. The last states are read off the sequences it puts out."""
    kind = node.target._schema.name.removeprefix("aten::")
    states = given["hx"] if isinstance(given["hx"], list | tuple) else [given["hx"]]
    for state in states:
        known = w.fixed(state)
        if known is None or (not known.is_meta and bool(known.any())):
            raise w.unsupported("its first state depends on the scan")
    ways = 2 if given["bidirectional"] else 1
    tensors = [w.weight(p) for p in given["params"]]
    each = 4 if given["has_biases"] else 2
    if len(tensors) != each * given["num_layers"] * ways:
        raise w.unsupported("Keras has no recurrent layer with a projection")
    x, last = w.variable(given["input"]), []
    if not given["batch_first"]:
        x = w.line(f"ops.transpose({x}, (1, 0, 2))", "transpose", "turned")
    named = {"lstm": "LSTM", "gru": "GRU"}.get(kind, "SimpleRNN")
    for k in range(given["num_layers"]):
        own = tensors[k * ways * each : (k + 1) * ways * each]
        units = own[1].shape[1]
        words = typed(
            activation='"relu"' if kind == "rnn_relu" else None, use_bias=None if given["has_biases"] else False
        )
        arrays = [array for way in range(ways) for array in _gates(kind, own[way * each : (way + 1) * each])]
        call = f"{named}({units}{words}, return_sequences=True"
        x = w.layer(f"Bidirectional(layers.{call})" if ways == 2 else call, x, arrays, "" if k == 0 else f"{k + 1}")
        forward = f"{x}[:, -1, :{units}]" if ways == 2 else f"{x}[:, -1]"
        if kind == "lstm" and _used(node, 2):
            raise w.unsupported("it uses the cell state, which Keras' layer keeps to itself")
        if _used(node, 1):
            last.append(w.line(forward, "get_item", f"last{k + 1}"))
            if ways == 2:
                last.append(w.line(f"{x}[:, 0, {units}:]", "get_item", f"first{k + 1}"))
        if given["dropout"] and k + 1 < given["num_layers"]:
            x = w.layer(f"Dropout({given['dropout']}", x, hint=f"dropout{k + 1}")
    if not given["batch_first"] and _used(node, 0):
        x = w.line(f"ops.transpose({x}, (1, 0, 2))", "transpose", "back")
    return Several((x, Stacked(tuple(last)) if last else None, None))


def _used(node: Any, index: int) -> bool:
    """Whether somebody looks at a result (exported graphs hold a getitem for every one, used or not)."""
    return any(user.args[1] == index and user.users for user in node.users)


def _gates(kind: str, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Weights of one way of one layer, in Keras' order of gates (torch's GRU: reset, update, new)."""
    import torch

    inner, recurrent, *biases = tensors
    if kind == "gru":

        def reordered(tensor: torch.Tensor) -> torch.Tensor:
            reset, update, new = tensor.chunk(3)
            return torch.cat([update, reset, new])

        inner, recurrent, *biases = (reordered(t) for t in tensors)
        return [inner.t(), recurrent.t(), *([torch.stack(biases)] if biases else [])]
    return [inner.t(), recurrent.t(), *([biases[0] + biases[1]] if biases else [])]
