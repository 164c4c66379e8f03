"""Layers that learn: convolutions, linear layers and normalization."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from builder.keras_text.table import brief, converts, each_axis, typed
from builder.keras_text.writer import Variable, Writer, sizes

if TYPE_CHECKING:
    import torch


@converts("conv1d", "conv2d", "conv3d")
def _conv(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    weight, bias = w.weight(given["weight"]), given["bias"]
    rank = weight.dim() - 2
    kernel = list(weight.shape[2:])
    stride, dilation = each_axis(given["stride"], rank), each_axis(given["dilation"], rank)
    x, inside = w.variable(given["input"]), w.shape(given["input"])
    spans = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    asked = given["padding"]
    pads = [(s // 2, s - s // 2) for s in spans] if asked == "same" else [(0, 0)] * rank
    if not isinstance(asked, str):
        pads = [(p, p) for p in each_axis(asked, rank)]
    same = all(a + b == s and a == b for (a, b), s in zip(pads, spans, strict=True)) and set(stride) == {1}
    if not same and any(map(sum, pads)):
        x = zero_border(w, x, pads)
    thinned = max(stride) > 1 and max(dilation) > 1  # Keras does not do both at once
    settings = typed(
        strides=brief(stride) if max(stride) > 1 and not thinned else None,
        padding='"same"' if same and any(spans) else None,
        dilation_rate=brief(dilation) if max(dilation) > 1 else None,
        use_bias=None if bias is not None else False,
    )
    channels, groups, filters = int(inside[1] or 1), int(given["groups"]), weight.shape[0]
    axes = tuple(range(2, weight.dim()))
    if groups == channels > 1 and rank < 3 and len(set(stride)) == 1:
        times = filters // groups
        kernels = weight.reshape(groups, times, *kernel).permute(*(a for a in axes), 0, 1)
        call = f"DepthwiseConv{rank}D({brief(kernel)}{typed(depth_multiplier=times if times > 1 else None)}{settings}"
    else:
        kernels = weight.permute(*axes, 1, 0)
        call = f"Conv{rank}D({filters}, {brief(kernel)}{settings}{typed(groups=groups if groups > 1 else None)}"
    x = w.layer(call, x, [kernels, *([w.weight(bias)] if bias is not None else [])])
    if thinned:
        x = w.line(f"{x}[:, :, {', '.join(f'::{s}' for s in stride)}]", "get_item", "thinned")
    return x


@converts("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _conv_transpose(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    weight, bias = w.weight(given["weight"]), given["bias"]
    rank = weight.dim() - 2
    if given["groups"] != 1:
        raise w.unsupported("Keras has no transposed convolution in groups")
    kernel, stride = list(weight.shape[2:]), each_axis(given["stride"], rank)
    padding, dilation = each_axis(given["padding"], rank), each_axis(given["dilation"], rank)
    if max(stride) > 1 and max(dilation) > 1:
        raise w.unsupported("Keras has no transposed convolution with a stride and gaps at once")
    inside, outside = w.shape(given["input"])[2:], sizes(node)[2:]
    crops = []
    for size, out, k, s, p, d in zip(inside, outside, kernel, stride, padding, dilation, strict=True):
        whole = int(size or 0) * s + max(d * (k - 1) + 1 - s, 0)
        crops.append((p, whole - p - int(out or 0)))
    if min(c for pair in crops for c in pair) < 0:
        raise w.unsupported("its output padding is larger than its padding, which Keras' own layer cannot do")
    settings = typed(
        strides=brief(stride) if max(stride) > 1 else None,
        dilation_rate=brief(dilation) if max(dilation) > 1 else None,
        use_bias=None if bias is not None else False,
    )
    kernels = weight.permute(*range(2, weight.dim()), 1, 0)
    arrays = [kernels, *([w.weight(bias)] if bias is not None else [])]
    x = w.layer(
        f"Conv{rank}DTranspose({weight.shape[1]}, {brief(kernel)}{settings}", w.variable(given["input"]), arrays
    )
    if any(map(sum, crops)):
        pairs = repr(tuple(crops)) if rank > 1 else repr(crops[0])
        x = w.layer(f"Cropping{rank}D({pairs}{typed(data_format=_FIRST if rank == 1 else None)}", x, hint="cropped")
    return x


_FIRST = '"channels_first"'


def zero_border(w: Writer, x: Variable, pads: Sequence[tuple[int, int]]) -> Variable:
    rank = len(pads)
    words = brief([p[0] for p in pads]) if all(a == b for a, b in pads) else repr(tuple(pads))
    if rank == 1:
        words = repr(pads[0])
    return w.layer(f"ZeroPadding{rank}D({words}", x, hint="border")


@converts("linear")
def _linear(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    weight, bias = w.weight(given["weight"]), given["bias"]
    arrays = [weight.t(), *([w.weight(bias)] if bias is not None else [])]
    words = typed(use_bias=None if bias is not None else False)
    return w.layer(f"Dense({weight.shape[0]}{words}", w.variable(given["input"]), arrays)


@converts("matmul", "bmm")
def _matmul(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    left, right = given.get("self", given.get("input")), given.get("other", given.get("mat2"))
    known = w.fixed(right)
    if known is not None and known.dim() == 2:
        return w.layer(f"Dense({known.shape[1]}, use_bias=False", w.variable(left), [known])
    return w.line(f"ops.matmul({w.variable(left)}, {w.variable(right)})", "matmul")


@converts("einsum")
def _einsum(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    tensors = ", ".join(str(w.variable(t)) for t in given["tensors"])
    return w.line(f"ops.einsum({given['equation']!r}, {tensors})", "einsum")


def _learned(w: Writer, *values: Any) -> list[torch.Tensor]:
    return [w.weight(v) for v in values if v is not None]


@converts("batch_norm", "cudnn_batch_norm")
def _batch_norm(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    if given["training"]:
        raise w.unsupported("it normalizes by the batch even when it answers")
    words = typed(
        epsilon=given["eps"],
        momentum=round(1 - given["momentum"], 6),
        scale=None if given["weight"] is not None else False,
        center=None if given["bias"] is not None else False,
    )
    arrays = _learned(w, given["weight"], given["bias"], given["running_mean"], given["running_var"])
    return w.layer(f"BatchNormalization(axis=1{words}", w.variable(given["input"]), arrays)


@converts("group_norm", "instance_norm")
def _group_norm(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    if given.get("use_input_stats") is False:
        raise w.unsupported("Keras has no instance norm with running statistics")
    groups = given.get("num_groups") or int(w.shape(given["input"])[1] or 1)
    words = typed(
        epsilon=given["eps"],
        scale=None if given["weight"] is not None else False,
        center=None if given["bias"] is not None else False,
    )
    arrays = _learned(w, given["weight"], given["bias"])
    return w.layer(f"GroupNormalization({groups}, axis=1{words}", w.variable(given["input"]), arrays)


@converts("layer_norm")
def _layer_norm(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    axes = list(range(-len(given["normalized_shape"]), 0))
    words = typed(
        epsilon=given["eps"],
        scale=None if given["weight"] is not None else False,
        center=None if given["bias"] is not None else False,
    )
    arrays = _learned(w, given["weight"], given["bias"])
    axis = str(axes[0]) if len(axes) == 1 else str(axes)
    return w.layer(f"LayerNormalization(axis={axis}{words}", w.variable(given["input"]), arrays)


@converts("rms_norm")
def _rms_norm(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    if len(given["normalized_shape"]) != 1 or given["weight"] is None:
        raise w.unsupported("Keras has RMS norm over one axis only")
    epsilon = given["eps"] if given["eps"] is not None else 1.1920928955078125e-07
    call = f"RMSNormalization(axis=-1, epsilon={epsilon}"
    return w.layer(call, w.variable(given["input"]), _learned(w, given["weight"]))
