"""Activations, arithmetic, and figures over whole axes."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from builder.keras_text.table import LOWEST, TABLE, Converter, converts, each_axis, positive, typed
from builder.keras_text.writer import Several, Writer, sizes

if TYPE_CHECKING:
    import torch


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


@converts("relu")
def _relu(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    return w.layer("ReLU(", w.variable(given["self"]))


@converts("relu6", "hardtanh", "clamp", "clamp_min", "clamp_max", "clip")
def _clamp(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    name = node.target._schema.name
    default = {"aten::relu6": (0.0, 6.0), "aten::hardtanh": (given.get("min_val"), given.get("max_val"))}
    bounds: tuple[Any, Any] = default.get(name.rstrip("_"), (given.get("min"), given.get("max")))
    low, high = bounds
    x = w.variable(given["self"])
    if low == 0 and high is not None:
        return w.layer(f"ReLU(max_value={float(high)}", x)
    if high is None:
        return w.line(f"ops.maximum({x}, {float(low)})", "maximum")
    if low is None:
        return w.line(f"ops.minimum({x}, {float(high)})", "minimum")
    return w.line(f"ops.clip({x}, {float(low)}, {float(high)})", "clip")


@converts("leaky_relu")
def _leaky_relu(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    return w.layer(f"LeakyReLU({given['negative_slope']}", w.variable(given["self"]))


@converts("elu")
def _elu(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    if given["scale"] != 1 or given["input_scale"] != 1:
        raise w.unsupported("Keras has no scaled ELU but SELU")
    return w.layer(f"ELU({given['alpha']}", w.variable(given["self"]))


@converts("celu")
def _celu(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    return w.line(f"ops.celu({w.variable(given['self'])}, alpha={given['alpha']})", "celu")


@converts("gelu")
def _gelu(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    if given["approximate"] == "tanh":
        return w.line(f"ops.gelu({w.variable(given['self'])}, approximate=True)", "gelu")
    return w.line(f"ops.gelu({w.variable(given['self'])}, approximate=False)", "gelu")


@converts("softplus")
def _softplus(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    if given["beta"] != 1:
        raise w.unsupported("Keras has softplus without a slope of its own only")
    return w.layer('Activation("softplus"', w.variable(given["self"]))


@converts("prelu")
def _prelu(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    slope, inside = w.weight(given["weight"]), w.shape(given["self"])
    rank = len(inside)
    shared = list(range(2, rank)) if slope.numel() > 1 or inside[1] == 1 else list(range(1, rank))
    shape = [1] * (rank - 1)
    shape[0] = slope.numel()
    words = typed(shared_axes=shared if shared else None).removeprefix(", ")
    return w.layer(f"PReLU({words}", w.variable(given["self"]), [slope.reshape(shape)])


@converts("softmax", "_softmax")
def _softmax(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    rank = len(w.shape(given["self"]))
    axis = positive(given["dim"], rank)
    return w.layer(f"Softmax(axis={-1 if axis == rank - 1 else axis}", w.variable(given["self"]))


@converts("log_softmax")
def _log_softmax(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    return w.line(f"ops.log_softmax({w.variable(given['self'])}, axis={given['dim']})", "log_softmax")


@converts("glu")
def _glu(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    return w.line(f"ops.glu({w.variable(given['self'])}, axis={given['dim']})", "glu")


@converts("dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout")
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


@converts("add")
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


@converts("sub", "rsub")
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


@converts("mul")
def _mul(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    a, b = given["self"], given["other"]
    for x, known in ((a, w.fixed(b)), (b, w.fixed(a))):
        if known is not None:
            return _scaled(w, x, known)
    if hasattr(a, "op") and hasattr(b, "op") and w.shape(a) == w.shape(b):
        return w.layer("Multiply(", [w.variable(a), w.variable(b)])
    return w.line(f"{_operand(w, a)} * {_operand(w, b)}", "multiply")


@converts("div", "true_divide")
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
    return w.affine(*_stretched(w, x, by), None, by)


def _scaled(w: Writer, x: Any, by: torch.Tensor) -> Any:
    return w.affine(*_stretched(w, x, by), by, None)


def _stretched(w: Writer, x: Any, by: torch.Tensor) -> tuple[Any, list[int | None]]:
    """A value as wide as a constant that it meets, and its sizes: a side of 1 is repeated."""
    inside, found = list(w.shape(x)), w.variable(x)
    for axis, size in enumerate(reversed(by.shape), 1):
        if axis < len(inside) and inside[-axis] == 1 and size > 1:
            inside[-axis] = size
            place = len(inside) - axis
            found = w.line(f"ops.concatenate([{found}] * {size}, axis={place})", "concatenate", "stretched")
    return found, inside


@converts("masked_fill")
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
        for name in (
            "sqrt",
            "rsqrt",
            "exp",
            "log",
            "abs",
            "erf",
            "sin",
            "cos",
            "square",
            "reciprocal",
            "expm1",
            "log1p",
        )
    }
)
TABLE["neg"] = _plain("negative")


@converts("pow")
def _pow(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    base, power = given["self"], given["exponent"]
    return w.line(f"ops.power({_operand(w, base)}, {_operand(w, power)})", "power")


@converts("maximum", "minimum")
def _extreme_of_two(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    name = node.target._schema.name.removeprefix("aten::")
    return w.line(f"ops.{name}({w.variable(given['self'])}, {w.variable(given['other'])})", name)


def _over(function: str, pooling: str = "") -> Converter:
    def convert(w: Writer, node: Any, given: dict[str, Any]) -> Any:
        x, inside = given["self"], w.shape(given["self"])
        asked = given.get("dim")
        axes = range(len(inside)) if asked is None or asked == [] else each_axis(asked, 1)
        axes = sorted(positive(a, len(inside)) for a in axes)
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


@converts("max", "min")
def _extreme(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    name = node.target._schema.name.removeprefix("aten::")
    if given.get("other") is not None:
        both = f"{w.variable(given['self'])}, {w.variable(given['other'])}"
        return w.line(f"ops.{name}imum({both})", f"{name}imum")
    return Several((_over(name)(w, node, given), None))


@converts("std", "var")
def _spread(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    name = node.target._schema.name.removeprefix("aten::")
    inside = w.shape(given["self"])
    axes = sorted(positive(a, len(inside)) for a in (given["dim"] or range(len(inside))))
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


@converts("linalg_vector_norm", "norm")
def _norm(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    order = given.get("ord", given.get("p"))
    if order != 2:
        raise w.unsupported("it takes a length other than the Euclidean one")
    x = w.line(f"ops.square({w.variable(given['self'])})", "square", "squared")
    axes = [positive(a, len(w.shape(given["self"]))) for a in each_axis(given["dim"], 1)]
    keep = ", keepdims=True" if given.get("keepdim") else ""
    x = w.line(f"ops.sum({x}, axis={tuple(axes)}{keep})", "sum", "summed")
    return w.line(f"ops.sqrt({x})", "sqrt")
