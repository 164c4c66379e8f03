"""ATen operator -> Keras: one small converter each, the only place that knows both.

A converter gets the writer, the node and the operator's arguments by name; it writes lines and returns the value. What
it cannot carry exactly it refuses in words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

from builder.keras_code import Fixed, Several, Stacked, Variable, Writer, sizes

if TYPE_CHECKING:
    import torch

Converter = Callable[[Writer, Any, dict[str, Any]], Any]
TABLE: dict[str, Converter] = {}
LOWEST = -3e38
"""Stands for minus infinity in borders that a maximum must never choose."""


def _for(*operators: str) -> Callable[[Converter], Converter]:
    def note(converter: Converter) -> Converter:
        TABLE.update(dict.fromkeys(operators, converter))
        return converter

    return note


def _each(value: Any, rank: int) -> list[int]:
    """A setting that torch takes once for all axes or once per axis."""
    listed = list(value) if isinstance(value, list | tuple) else [value]
    return [int(v) for v in (listed * rank if len(listed) == 1 else listed)]


def _short(values: Sequence[Any]) -> str:
    """(3, 3) -> "3", (3, 5) -> "(3, 5)"."""
    return str(values[0]) if len(set(values)) == 1 else repr(tuple(values))


def _axis(value: int, rank: int) -> int:
    return value % rank


def _words(**settings: Any) -> str:
    """The settings that differ from Keras' own, as they are typed; those that are None are left to Keras."""
    return "".join(f", {name}={value}" for name, value in settings.items() if value is not None)


# -- convolutions and linear layers -----------------------------------------------------------------------------------


@_for("conv1d", "conv2d", "conv3d")
def _conv(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    weight, bias = w.weight(given["weight"]), given["bias"]
    rank = weight.dim() - 2
    kernel = list(weight.shape[2:])
    stride, dilation = _each(given["stride"], rank), _each(given["dilation"], rank)
    x, inside = w.variable(given["input"]), w.shape(given["input"])
    spans = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    asked = given["padding"]
    pads = [(s // 2, s - s // 2) for s in spans] if asked == "same" else [(0, 0)] * rank
    if not isinstance(asked, str):
        pads = [(p, p) for p in _each(asked, rank)]
    same = all(a + b == s and a == b for (a, b), s in zip(pads, spans, strict=True)) and set(stride) == {1}
    if not same and any(map(sum, pads)):
        x = _zero_border(w, x, pads)
    thinned = max(stride) > 1 and max(dilation) > 1  # Keras does not do both at once
    settings = _words(
        strides=_short(stride) if max(stride) > 1 and not thinned else None,
        padding='"same"' if same and any(spans) else None,
        dilation_rate=_short(dilation) if max(dilation) > 1 else None,
        use_bias=None if bias is not None else False,
    )
    channels, groups, filters = int(inside[1] or 1), int(given["groups"]), weight.shape[0]
    axes = tuple(range(2, weight.dim()))
    if groups == channels > 1 and rank < 3 and len(set(stride)) == 1:
        times = filters // groups
        kernels = weight.reshape(groups, times, *kernel).permute(*(a for a in axes), 0, 1)
        call = f"DepthwiseConv{rank}D({_short(kernel)}{_words(depth_multiplier=times if times > 1 else None)}{settings}"
    else:
        kernels = weight.permute(*axes, 1, 0)
        call = f"Conv{rank}D({filters}, {_short(kernel)}{settings}{_words(groups=groups if groups > 1 else None)}"
    x = w.layer(call, x, [kernels, *([w.weight(bias)] if bias is not None else [])])
    if thinned:
        x = w.line(f"{x}[:, :, {', '.join(f'::{s}' for s in stride)}]", "get_item", "thinned")
    return x


@_for("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _conv_transpose(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    weight, bias = w.weight(given["weight"]), given["bias"]
    rank = weight.dim() - 2
    if given["groups"] != 1:
        raise w.unsupported("Keras has no transposed convolution in groups")
    kernel, stride = list(weight.shape[2:]), _each(given["stride"], rank)
    padding, dilation = _each(given["padding"], rank), _each(given["dilation"], rank)
    if max(stride) > 1 and max(dilation) > 1:
        raise w.unsupported("Keras has no transposed convolution with a stride and gaps at once")
    inside, outside = w.shape(given["input"])[2:], sizes(node)[2:]
    crops = []
    for size, out, k, s, p, d in zip(inside, outside, kernel, stride, padding, dilation, strict=True):
        whole = int(size or 0) * s + max(d * (k - 1) + 1 - s, 0)
        crops.append((p, whole - p - int(out or 0)))
    if min(c for pair in crops for c in pair) < 0:
        raise w.unsupported("its output padding is larger than its padding, which Keras' own layer cannot do")
    settings = _words(
        strides=_short(stride) if max(stride) > 1 else None,
        dilation_rate=_short(dilation) if max(dilation) > 1 else None,
        use_bias=None if bias is not None else False,
    )
    kernels = weight.permute(*range(2, weight.dim()), 1, 0)
    arrays = [kernels, *([w.weight(bias)] if bias is not None else [])]
    x = w.layer(f"Conv{rank}DTranspose({weight.shape[1]}, {_short(kernel)}{settings}", w.variable(given["input"]), arrays)
    if any(map(sum, crops)):
        pairs = repr(tuple(crops)) if rank > 1 else repr(crops[0])
        x = w.layer(f"Cropping{rank}D({pairs}{_words(data_format=_FIRST if rank == 1 else None)}", x, hint="cropped")
    return x


_FIRST = '"channels_first"'


def _zero_border(w: Writer, x: Variable, pads: Sequence[tuple[int, int]]) -> Variable:
    rank = len(pads)
    words = _short([p[0] for p in pads]) if all(a == b for a, b in pads) else repr(tuple(pads))
    if rank == 1:
        words = repr(pads[0])
    return w.layer(f"ZeroPadding{rank}D({words}", x, hint="border")


@_for("linear")
def _linear(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    weight, bias = w.weight(given["weight"]), given["bias"]
    arrays = [weight.t(), *([w.weight(bias)] if bias is not None else [])]
    words = _words(use_bias=None if bias is not None else False)
    return w.layer(f"Dense({weight.shape[0]}{words}", w.variable(given["input"]), arrays)


@_for("matmul", "bmm")
def _matmul(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    left, right = given.get("self", given.get("input")), given.get("other", given.get("mat2"))
    known = w.fixed(right)
    if known is not None and known.dim() == 2:
        return w.layer(f"Dense({known.shape[1]}, use_bias=False", w.variable(left), [known])
    return w.line(f"ops.matmul({w.variable(left)}, {w.variable(right)})", "matmul")


@_for("einsum")
def _einsum(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    tensors = ", ".join(str(w.variable(t)) for t in given["tensors"])
    return w.line(f"ops.einsum({given['equation']!r}, {tensors})", "einsum")


# -- normalization ----------------------------------------------------------------------------------------------------


def _learned(w: Writer, *values: Any) -> list[torch.Tensor]:
    return [w.weight(v) for v in values if v is not None]


@_for("batch_norm", "cudnn_batch_norm")
def _batch_norm(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    if given["training"]:
        raise w.unsupported("it normalizes by the batch even when it answers")
    words = _words(
        epsilon=given["eps"],
        momentum=round(1 - given["momentum"], 6),
        scale=None if given["weight"] is not None else False,
        center=None if given["bias"] is not None else False,
    )
    arrays = _learned(w, given["weight"], given["bias"], given["running_mean"], given["running_var"])
    return w.layer(f"BatchNormalization(axis=1{words}", w.variable(given["input"]), arrays)


@_for("group_norm", "instance_norm")
def _group_norm(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    if given.get("use_input_stats") is False:
        raise w.unsupported("Keras has no instance norm with running statistics")
    groups = given.get("num_groups") or int(w.shape(given["input"])[1] or 1)
    words = _words(
        epsilon=given["eps"],
        scale=None if given["weight"] is not None else False,
        center=None if given["bias"] is not None else False,
    )
    arrays = _learned(w, given["weight"], given["bias"])
    return w.layer(f"GroupNormalization({groups}, axis=1{words}", w.variable(given["input"]), arrays)


@_for("layer_norm")
def _layer_norm(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    axes = list(range(-len(given["normalized_shape"]), 0))
    words = _words(
        epsilon=given["eps"],
        scale=None if given["weight"] is not None else False,
        center=None if given["bias"] is not None else False,
    )
    arrays = _learned(w, given["weight"], given["bias"])
    axis = str(axes[0]) if len(axes) == 1 else str(axes)
    return w.layer(f"LayerNormalization(axis={axis}{words}", w.variable(given["input"]), arrays)


@_for("rms_norm")
def _rms_norm(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    if len(given["normalized_shape"]) != 1 or given["weight"] is None:
        raise w.unsupported("Keras has RMS norm over one axis only")
    epsilon = given["eps"] if given["eps"] is not None else 1.1920928955078125e-07
    call = f"RMSNormalization(axis=-1, epsilon={epsilon}"
    return w.layer(call, w.variable(given["input"]), _learned(w, given["weight"]))


# -- pooling and resizing ---------------------------------------------------------------------------------------------


def _windows(w: Writer, node: Any, given: dict[str, Any], rank: int) -> tuple[list[int], list[int], list[tuple[int, int]]]:
    """(sides, steps, borders) of a pooling; a border grows on the far side where torch rounds up."""
    x = given.get("self", given.get("input"))
    kernel = _each(given["kernel_size"], rank)
    stride = _each(given["stride"], rank) if given["stride"] else kernel
    if max(_each(given.get("dilation") or 1, rank)) > 1:
        raise w.unsupported("Keras has no pooling with gaps in its window")
    borders = []
    inside, outside = w.shape(x)[-rank:], sizes(_first_of(node))[-rank:]
    for size, out, k, s, p in zip(inside, outside, kernel, stride, _each(given["padding"] or 0, rank), strict=True):
        beyond = (int(out or 0) - 1) * s + k - (int(size or 0) + 2 * p)
        borders.append((p, p + max(0, beyond)))
    return kernel, stride, borders


def _first_of(node: Any) -> Any:
    """The node of the first result where an operator has several."""
    if isinstance(node.meta["val"], list | tuple):
        return next(user for user in node.users if user.args[1] == 0)
    return node


def _pool(w: Writer, kind: str, rank: int, x: Variable, kernel: list[int], stride: list[int]) -> Variable:
    words = "" if kernel == stride else _words(strides=_short(stride))
    return w.layer(f"{kind}Pooling{rank}D({_short(kernel)}{words}", x)


@_for("max_pool1d", "max_pool2d", "max_pool3d")
def _max_pool(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    rank = int(node.target._schema.name[-2])
    kernel, stride, borders = _windows(w, node, given, rank)
    x = w.variable(given["self"])
    if any(map(sum, borders)):
        pairs = ", ".join(str(b) for b in [(0, 0), (0, 0), *borders])
        x = w.line(f"ops.pad({x}, ({pairs}), constant_values={LOWEST})", "pad", "border")
    return _pool(w, "Max", rank, x, kernel, stride)


@_for("avg_pool1d", "avg_pool2d", "avg_pool3d")
def _average_pool(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    import torch

    rank = int(node.target._schema.name[-2])
    if given.get("divisor_override"):
        raise w.unsupported("Keras has no average pooling with a divisor of its own")
    kernel, stride, borders = _windows(w, node, given, rank)
    x, inside = w.variable(given["self"]), w.shape(given["self"])
    if not any(map(sum, borders)):
        return _pool(w, "Average", rank, x, kernel, stride)
    x = _pool(w, "Average", rank, _zero_border(w, x, borders), kernel, stride)
    # What lies outside counts in Keras; torch may leave it out. The ratio is the same for every scan.
    ones = torch.ones(1, 1, *(int(s or 1) for s in inside[2:]))
    average = getattr(torch.nn.functional, f"avg_pool{rank}d")
    flat = [p for pair in reversed(borders) for p in pair]
    ours = average(torch.nn.functional.pad(ones, flat), kernel, stride)
    theirs = average(ones, kernel, stride, given["padding"], given["ceil_mode"], given["count_include_pad"])
    if torch.equal(ours, theirs) or given["count_include_pad"] and all(a == b for a, b in borders):
        return x
    return w.affine(x, sizes(node), (theirs / ours).to(w.device), None)


@_for("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d")
def _adaptive_average(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    return _adaptive(w, given, "Average")


@_for("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d")
def _adaptive_maximum(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    return Several((_adaptive(w, given, "Max"), None))


def _adaptive(w: Writer, given: dict[str, Any], kind: str) -> Variable:
    inside = w.shape(given["self"])[2:]
    rank, x = len(inside), w.variable(given["self"])
    wanted = [size if size is not None else inside[k] for k, size in enumerate(_each(given["output_size"], rank))]
    if all(size == 1 for size in wanted):
        return w.layer(f"Global{kind}Pooling{rank}D(keepdims=True", x)
    if wanted == list(inside):
        return x
    if all(int(a or 1) % int(b or 1) == 0 for a, b in zip(inside, wanted, strict=True)):
        kernel = [int(a or 1) // int(b or 1) for a, b in zip(inside, wanted, strict=True)]
        return _pool(w, kind, rank, x, kernel, kernel)
    return w.layer(f"Adaptive{kind}Pooling{rank}D({_short(wanted)}", x)


@_for("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_bilinear2d", "upsample_linear1d")
@_for("upsample_trilinear3d", "upsample_bicubic2d", "_upsample_nearest_exact2d", "_upsample_bilinear2d_aa")
def _upsample(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    import torch

    source = given.get("input", given.get("self"))
    inside, outside, x = w.shape(source), sizes(node), w.variable(source)
    if inside == outside:
        return x
    rank = len(inside) - 2
    name = node.target._schema.name.removeprefix("aten::")
    factors = [int(b or 1) // int(a or 1) for a, b in zip(inside[2:], outside[2:], strict=True)]
    whole = all(int(a or 1) * f == b for a, f, b in zip(inside[2:], factors, outside[2:], strict=True))
    if name == "upsample_nearest2d" and whole:
        return w.layer(f"UpSampling2D({_short(factors)}", x)
    # Resizing is linear and separable: what it does to each axis is a matrix, which torch itself tells.
    ways = {"nearest": "nearest", "exact": "nearest-exact", "linear": "linear", "cubic": "bicubic"}
    mode = next(v for k, v in reversed(ways.items()) if k in name)
    for axis in range(2, 2 + rank):
        a, b = int(inside[axis] or 1), int(outside[axis] or 1)
        if a == b:
            continue
        steps = torch.eye(a)[None]
        options: dict[str, Any] = {"align_corners": given["align_corners"]} if "align_corners" in given else {}
        if mode == "bicubic":
            wide = torch.nn.functional.interpolate(steps[..., None], (b, 1), mode="bicubic", **options)
            matrix = wide[0, :, :, 0]
        elif name.endswith("_aa"):
            wide = torch.nn.functional.interpolate(
                steps[..., None].expand(-1, -1, -1, 2), (b, 2), mode="bilinear", antialias=True, **options
            )
            matrix = wide[0, :, :, 0]
        else:
            matrix = torch.nn.functional.interpolate(steps, b, mode=mode, **options)[0]
        x = _along(w, x, len(inside), axis, matrix.to(w.device), [*sizes(node)[1:axis], b, *inside[axis + 1 :]])
    return x


def _along(w: Writer, x: Variable, rank: int, axis: int, matrix: torch.Tensor, out: Sequence[int | None]) -> Variable:
    """One axis through a matrix (in, out) that does not learn."""
    letters = "abcdefgh"[:rank]
    after = letters.replace(letters[axis], "z")
    call = f'EinsumDense("{letters},{letters[axis]}z->{after}", {tuple(out)!r}'
    return w.layer(call, x, [matrix.contiguous()], hint=f"axis{axis}", trainable=False)


@_for("pixel_shuffle")
def _pixel_shuffle(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    r = given["upscale_factor"]
    _, channels, height, width = (int(s or 1) for s in w.shape(given["self"]))
    x = w.line(f"ops.reshape({w.variable(given['self'])}, {(-1, channels // r**2, r, r, height, width)})", "reshape", "split")
    x = w.line(f"ops.transpose({x}, (0, 1, 4, 2, 5, 3))", "transpose", "woven")
    return w.line(f"ops.reshape({x}, {(-1, channels // r**2, height * r, width * r)})", "reshape")


@_for("pixel_unshuffle")
def _pixel_unshuffle(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    r = given["downscale_factor"]
    _, channels, height, width = (int(s or 1) for s in w.shape(given["self"]))
    x = w.line(f"ops.reshape({w.variable(given['self'])}, {(-1, channels, height // r, r, width // r, r)})", "reshape", "split")
    x = w.line(f"ops.transpose({x}, (0, 1, 3, 5, 2, 4))", "transpose", "woven")
    return w.line(f"ops.reshape({x}, {(-1, channels * r**2, height // r, width // r)})", "reshape")


# -- activations ------------------------------------------------------------------------------------------------------


def _activation(name: str) -> Converter:
    def convert(w: Writer, node: Any, given: dict[str, Any]) -> Any:
        return w.layer(f'Activation("{name}"', w.variable(given["self"]))

    return convert


TABLE.update(
    {
        "silu": _activation("silu"),
        "mish": _activation("mish"),
        "hardswish": _activation("hard_silu"),
        "hardsigmoid": _activation("hard_sigmoid"),
        "sigmoid": _activation("sigmoid"),
        "tanh": _activation("tanh"),
        "selu": _activation("selu"),
        "log_sigmoid": _activation("log_sigmoid"),
        "softsign": _activation("softsign"),
    }
)


@_for("relu")
def _relu(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    return w.layer("ReLU(", w.variable(given["self"]))


@_for("relu6", "hardtanh", "clamp", "clamp_min", "clamp_max", "clip")
def _clamp(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    name = node.target._schema.name
    default = {"aten::relu6": (0.0, 6.0), "aten::hardtanh": (given.get("min_val"), given.get("max_val"))}
    low, high = default.get(name.rstrip("_"), (given.get("min"), given.get("max")))
    x = w.variable(given["self"])
    if low == 0 and high is not None:
        return w.layer(f"ReLU(max_value={float(high)}", x)
    if high is None:
        return w.line(f"ops.maximum({x}, {float(low)})", "maximum")
    if low is None:
        return w.line(f"ops.minimum({x}, {float(high)})", "minimum")
    return w.line(f"ops.clip({x}, {float(low)}, {float(high)})", "clip")


@_for("leaky_relu")
def _leaky_relu(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    return w.layer(f"LeakyReLU({given['negative_slope']}", w.variable(given["self"]))


@_for("elu")
def _elu(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    if given["scale"] != 1 or given["input_scale"] != 1:
        raise w.unsupported("Keras has no scaled ELU but SELU")
    return w.layer(f"ELU({given['alpha']}", w.variable(given["self"]))


@_for("celu")
def _celu(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    return w.line(f"ops.celu({w.variable(given['self'])}, alpha={given['alpha']})", "celu")


@_for("gelu")
def _gelu(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    if given["approximate"] == "tanh":
        return w.line(f"ops.gelu({w.variable(given['self'])}, approximate=True)", "gelu")
    return w.line(f"ops.gelu({w.variable(given['self'])}, approximate=False)", "gelu")


@_for("softplus")
def _softplus(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    if given["beta"] != 1:
        raise w.unsupported("Keras has softplus without a slope of its own only")
    return w.layer('Activation("softplus"', w.variable(given["self"]))


@_for("prelu")
def _prelu(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    slope, inside = w.weight(given["weight"]), w.shape(given["self"])
    rank = len(inside)
    shared = list(range(2, rank)) if slope.numel() > 1 or inside[1] == 1 else list(range(1, rank))
    shape = [1] * (rank - 1)
    shape[0] = slope.numel()
    words = _words(shared_axes=shared if shared else None).removeprefix(", ")
    return w.layer(f"PReLU({words}", w.variable(given["self"]), [slope.reshape(shape)])


@_for("softmax", "_softmax")
def _softmax(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    rank = len(w.shape(given["self"]))
    axis = _axis(given["dim"], rank)
    return w.layer(f"Softmax(axis={-1 if axis == rank - 1 else axis}", w.variable(given["self"]))


@_for("log_softmax")
def _log_softmax(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    return w.line(f"ops.log_softmax({w.variable(given['self'])}, axis={given['dim']})", "log_softmax")


@_for("glu")
def _glu(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    return w.line(f"ops.glu({w.variable(given['self'])}, axis={given['dim']})", "glu")


@_for("dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout")
def _dropout(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    x, inside = w.variable(given["input"]), w.shape(given["input"])
    if not given["p"]:
        return x
    name = node.target._schema.name
    if "alpha" in name:
        return w.layer(f"AlphaDropout({given['p']}", x)
    whole = ""
    if "feature" in name:
        whole = f", noise_shape=(None, {inside[1]}, {', '.join('1' * (len(inside) - 2))})"
    return w.layer(f"Dropout({given['p']}{whole}", x)


# -- arithmetic -------------------------------------------------------------------------------------------------------


@_for("add")
def _add(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    times = given.get("alpha", 1)
    a, b = given["self"], given["other"]
    known = w.fixed(b)
    if known is not None:
        return _shifted(w, a, known * times)
    if w.fixed(a) is not None and times == 1:
        return _shifted(w, b, w.weight(a))
    if not hasattr(b, "op"):
        return w.line(f"{w.variable(a)} + {float(b * times)}", "add")
    if times == 1 and w.shape(a) == w.shape(b):
        return w.layer("Add(", [w.variable(a), w.variable(b)])
    scaled = w.variable(b) if times == 1 else w.line(f"{w.variable(b)} * {float(times)}", "multiply", "scaled")
    return w.line(f"{w.variable(a)} + {scaled}", "add")


@_for("sub", "rsub")
def _sub(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    a, b = given["self"], given["other"]
    if node.target._schema.name == "aten::rsub":
        a, b = b, a
    if w.fixed(b) is not None:
        return _shifted(w, a, -w.weight(b))
    if w.fixed(a) is not None:
        shift = w.weight(a)
        return w.affine(w.variable(b), sizes(node), -shift.new_ones((1,)), shift)
    return w.line(f"{_operand(w, a)} - {_operand(w, b)}", "subtract")


@_for("mul")
def _mul(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    a, b = given["self"], given["other"]
    for x, known in ((a, w.fixed(b)), (b, w.fixed(a))):
        if known is not None:
            return _scaled(w, x, known)
    if hasattr(a, "op") and hasattr(b, "op") and w.shape(a) == w.shape(b):
        return w.layer("Multiply(", [w.variable(a), w.variable(b)])
    return w.line(f"{_operand(w, a)} * {_operand(w, b)}", "multiply")


@_for("div", "true_divide")
def _div(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    if given.get("rounding_mode"):
        raise w.unsupported("it divides and rounds")
    known = w.fixed(given["other"])
    if known is not None:
        return _scaled(w, given["self"], 1 / known)
    return w.line(f"{_operand(w, given['self'])} / {_operand(w, given['other'])}", "true_divide")


def _operand(w: Writer, value: Any) -> str:
    return str(w.variable(value)) if hasattr(value, "op") else str(float(value))


def _shifted(w: Writer, x: Any, by: torch.Tensor) -> Any:
    return w.affine(w.variable(x), w.shape(x), None, by)


def _scaled(w: Writer, x: Any, by: torch.Tensor) -> Any:
    return w.affine(w.variable(x), w.shape(x), by, None)


@_for("masked_fill")
def _masked_fill(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    mask = w.fixed(given["mask"])
    if mask is None or hasattr(given["value"], "op"):
        raise w.unsupported("it hides values by a rule that depends on the scan")
    value = max(float(given["value"]), LOWEST)
    return w.affine(w.variable(given["self"]), w.shape(given["self"]), (~mask).float(), mask.float() * value)


def _plain(function: str, operation: str | None = None) -> Converter:
    def convert(w: Writer, node: Any, given: dict[str, Any]) -> Any:
        return w.line(f"ops.{function}({w.variable(given['self'])})", operation or function)

    return convert


TABLE.update(
    {
        name: _plain(name)
        for name in ("sqrt", "rsqrt", "exp", "log", "abs", "erf", "sin", "cos", "square", "reciprocal", "expm1", "log1p")
    }
)
TABLE["neg"] = _plain("negative")


@_for("pow")
def _pow(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    base, power = given["self"], given["exponent"]
    return w.line(f"ops.power({_operand(w, base)}, {_operand(w, power)})", "power")


@_for("maximum", "minimum")
def _extreme_of_two(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    name = node.target._schema.name.removeprefix("aten::")
    return w.line(f"ops.{name}({w.variable(given['self'])}, {w.variable(given['other'])})", name)


# -- over whole axes --------------------------------------------------------------------------------------------------


def _over(function: str, pooling: str = "") -> Converter:
    def convert(w: Writer, node: Any, given: dict[str, Any]) -> Any:
        x, inside = given["self"], w.shape(given["self"])
        asked = given.get("dim")
        axes = range(len(inside)) if asked is None or asked == [] else _each(asked, 1)
        axes = sorted(_axis(a, len(inside)) for a in axes)
        if 0 in axes:
            raise w.unsupported("it takes a figure over the scans of a batch")
        keep = bool(given.get("keepdim"))
        rank = len(inside) - 2
        if pooling and rank > 0 and axes == list(range(2, rank + 2)):
            return w.layer(f"Global{pooling}Pooling{rank}D({'keepdims=True' if keep else ''}", w.variable(x))
        axis = axes[0] if len(axes) == 1 else tuple(axes)
        words = f", axis={axis}{', keepdims=True' if keep else ''}"
        return w.line(f"ops.{function}({w.variable(x)}{words})", function)

    return convert


TABLE.update(mean=_over("mean", "Average"), amax=_over("max", "Max"), amin=_over("min"), sum=_over("sum"))


@_for("max", "min")
def _extreme(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    name = node.target._schema.name.removeprefix("aten::")
    if given.get("other") is not None:
        both = f"{w.variable(given['self'])}, {w.variable(given['other'])}"
        return w.line(f"ops.{name}imum({both})", f"{name}imum")
    return Several((_over(name)(w, node, given), None))


@_for("std", "var")
def _spread(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    name = node.target._schema.name.removeprefix("aten::")
    inside = w.shape(given["self"])
    axes = sorted(_axis(a, len(inside)) for a in (given["dim"] or range(len(inside))))
    correction = given.get("correction", 1 if given.get("unbiased", True) else 0)
    correction = 1 if correction is None else correction
    if 0 in axes:
        raise w.unsupported("it takes a figure over the scans of a batch")
    count = prod(int(inside[a] or 1) for a in axes)
    words = f", axis={tuple(axes)}{', keepdims=True' if given.get('keepdim') else ''}"
    x = w.line(f"ops.var({w.variable(given['self'])}{words})", "var", "variance")
    if correction:
        x = w.line(f"{x} * {count / (count - correction)}", "multiply", "corrected")
    return w.line(f"ops.sqrt({x})", "sqrt") if name == "std" else x


@_for("linalg_vector_norm", "norm")
def _norm(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    order = given.get("ord", given.get("p"))
    if order != 2:
        raise w.unsupported("it takes a length other than the Euclidean one")
    x = w.line(f"ops.square({w.variable(given['self'])})", "square", "squared")
    axes = [_axis(a, len(w.shape(given["self"]))) for a in _each(given["dim"], 1)]
    keep = ", keepdims=True" if given.get("keepdim") else ""
    x = w.line(f"ops.sum({x}, axis={tuple(axes)}{keep})", "sum", "summed")
    return w.line(f"ops.sqrt({x})", "sqrt")


# -- shapes -----------------------------------------------------------------------------------------------------------


@_for("contiguous", "clone", "alias", "detach", "lift_fresh_copy", "dropout_identity", "identity")
def _same(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    return w.variable(given.get("self", given.get("input")))


@_for("to", "_to_copy", "type_as", "float")
def _to(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    if node.meta["val"].dtype != given["self"].meta["val"].dtype:
        raise w.unsupported("it changes the kind of numbers in between")
    return w.variable(given["self"])


@_for("view", "reshape", "_unsafe_view", "flatten", "unflatten", "view_as", "reshape_as")
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


@_for("squeeze", "unsqueeze")
def _squeeze(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    inside, outside = w.shape(given["self"]), sizes(node)
    if inside == outside:
        return w.variable(given["self"])
    if node.target._schema.name == "aten::unsqueeze":
        return w.line(f"ops.expand_dims({w.variable(given['self'])}, {_axis(given['dim'], len(outside))})", "expand_dims")
    return _reshape(w, node, given)


@_for("permute", "transpose", "movedim", "moveaxis", "swapaxes", "swapdims", "t", "numpy_T", "mT", "adjoint")
def _transpose(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    rank = len(sizes(node))
    order = list(range(rank))
    name = node.target._schema.name.removeprefix("aten::").rstrip("_")
    if name == "permute":
        order = [_axis(d, rank) for d in given["dims"]]
    elif name in ("movedim", "moveaxis"):
        sources, places = ([_axis(d, rank) for d in _each(given[k], 1)] for k in ("source", "destination"))
        order = [d for d in order if d not in sources]
        for place, source in sorted(zip(places, sources, strict=True)):
            order.insert(place, source)
    else:
        pair = (given.get("dim0", given.get("axis0")), given.get("dim1", given.get("axis1")))
        a, b = (_axis(d, rank) for d in (pair if pair[0] is not None else (-2, -1)))
        order[a], order[b] = order[b], order[a]
    x = w.variable(given["self"])
    if order == list(range(rank)):
        return x
    if order[0] == 0:
        return w.layer(f"Permute({tuple(order[1:])!r}", x)
    return w.line(f"ops.transpose({x}, {tuple(order)!r})", "transpose")


@_for("expand", "expand_as", "broadcast_to", "repeat")
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


@_for("cat", "concat", "concatenate")
def _cat(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    axis = _axis(given["dim"], len(sizes(node)))
    return w.layer(f"Concatenate(axis={axis}", [w.variable(t) for t in given["tensors"]])


@_for("stack")
def _stack(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    parts = ", ".join(str(w.variable(t)) for t in given["tensors"])
    return w.line(f"ops.stack([{parts}], axis={_axis(given['dim'], len(sizes(node)))})", "stack")


def _picked(w: Writer, x: Any, axis: int, words: str) -> Variable:
    axis = _axis(axis, len(w.shape(x)))
    if w.shape(x)[axis] is None:
        raise w.unsupported("it picks single scans out of a batch")
    return w.line(f"{w.variable(x)}[{':, ' * axis}{words}]", "get_item")


@_for("select")
def _select(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    found = w.values[given["self"]]
    if isinstance(found, Stacked) and given["dim"] == 0:
        return found.parts[given["index"]]
    return _picked(w, given["self"], given["dim"], str(given["index"]))


def _range(start: int, end: int | None, size: int | None, step: int = 1) -> str:
    last = "" if end is None or size is None or end >= size else str(end)
    return f"{start or ''}:{last}{f':{step}' if step != 1 else ''}"


@_for("slice", "narrow")
def _slice(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    inside = w.shape(given["self"])
    axis = _axis(given["dim"], len(inside))
    start, end = given.get("start") or 0, given.get("end")
    if "length" in given:
        end = start + given["length"]
    if inside == sizes(node):
        return w.variable(given["self"])
    size = inside[axis]
    start = start + size if start < 0 and size is not None else start
    end = end + size if end is not None and end < 0 and size is not None else end
    return _picked(w, given["self"], axis, _range(start, end, size, given.get("step", 1)))


@_for("chunk", "split", "split_with_sizes", "tensor_split", "unbind")
def _split(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    inside = w.shape(given["self"])
    axis = _axis(given["dim"], len(inside))
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


@_for("index_select", "index")
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


@_for("pad", "constant_pad_nd", "reflection_pad2d", "replication_pad2d")
def _pad(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    flat = given.get("pad", given.get("padding"))
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
        return _zero_border(w, x, pairs[2:])
    kinds = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}
    if mode not in kinds:
        raise w.unsupported(f"Keras has no border of the kind {mode}")
    words = f', mode="{kinds[mode]}"' if mode != "constant" else f", constant_values={float(max(value, LOWEST))}"
    return w.line(f"ops.pad({x}, {tuple(pairs)!r}{words})", "pad")


@_for("roll", "flip")
def _roll(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    if node.target._schema.name == "aten::flip":
        return w.line(f"ops.flip({w.variable(given['self'])}, axis={tuple(given['dims'])})", "flip")
    words = f"{tuple(given['shifts'])}, axis={tuple(given['dims'])}"
    return w.line(f"ops.roll({w.variable(given['self'])}, {words})", "roll")


@_for("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full")
def _filled(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    import torch

    name = node.target._schema.name
    value = 1.0 if "ones" in name else float(given.get("fill_value") or 0)
    return Fixed(torch.full([s or 1 for s in sizes(node)], value, device=w.device))


# -- sequences --------------------------------------------------------------------------------------------------------


@_for("scaled_dot_product_attention")
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


@_for("lstm", "gru", "rnn_tanh", "rnn_relu")
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
        words = _words(
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

