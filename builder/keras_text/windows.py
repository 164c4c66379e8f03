"""Pooling and resizing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from builder.keras_text.learned import zero_border
from builder.keras_text.table import LOWEST, brief, converts, each_axis, typed
from builder.keras_text.writer import Several, Variable, Writer, sizes

if TYPE_CHECKING:
    import torch


def _windows(
    w: Writer, node: Any, given: dict[str, Any], rank: int
) -> tuple[list[int], list[int], list[tuple[int, int]]]:
    """(sides, steps, borders) of a pooling; a border grows on the far side where torch rounds up."""
    x = given.get("self", given.get("input"))
    kernel = each_axis(given["kernel_size"], rank)
    stride = each_axis(given["stride"], rank) if given["stride"] else kernel
    if max(each_axis(given.get("dilation") or 1, rank)) > 1:
        raise w.unsupported("Keras has no pooling with gaps in its window")
    borders = []
    inside, outside = w.shape(x)[-rank:], sizes(_first_of(node))[-rank:]
    for size, out, k, s, p in zip(inside, outside, kernel, stride, each_axis(given["padding"] or 0, rank), strict=True):
        beyond = (int(out or 0) - 1) * s + k - (int(size or 0) + 2 * p)
        borders.append((p, p + max(0, beyond)))
    return kernel, stride, borders


def _first_of(node: Any) -> Any:
    """The node of the first result where an operator has several."""
    if isinstance(node.meta["val"], list | tuple):
        return next(user for user in node.users if user.args[1] == 0)
    return node


def _pool(w: Writer, kind: str, rank: int, x: Variable, kernel: list[int], stride: list[int]) -> Variable:
    words = "" if kernel == stride else typed(strides=brief(stride))
    return w.layer(f"{kind}Pooling{rank}D({brief(kernel)}{words}", x)


@converts("max_pool1d", "max_pool2d", "max_pool3d")
def _max_pool(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    rank = int(node.target._schema.name[-2])
    kernel, stride, borders = _windows(w, node, given, rank)
    x = w.variable(given["self"])
    if any(map(sum, borders)):
        pairs = ", ".join(str(b) for b in [(0, 0), (0, 0), *borders])
        x = w.line(f"ops.pad({x}, ({pairs}), constant_values={LOWEST})", "pad", "border")
    return _pool(w, "Max", rank, x, kernel, stride)


@converts("avg_pool1d", "avg_pool2d", "avg_pool3d")
def _average_pool(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    import torch

    rank = int(node.target._schema.name[-2])
    if given.get("divisor_override"):
        raise w.unsupported("Keras has no average pooling with a divisor of its own")
    kernel, stride, borders = _windows(w, node, given, rank)
    x, inside = w.variable(given["self"]), w.shape(given["self"])
    if not any(map(sum, borders)):
        return _pool(w, "Average", rank, x, kernel, stride)
    x = _pool(w, "Average", rank, zero_border(w, x, borders), kernel, stride)
    # What lies outside counts in Keras; torch may leave it out. The ratio is the same for every scan.
    ones = torch.ones(1, 1, *(int(s or 1) for s in inside[2:]))
    average = getattr(torch.nn.functional, f"avg_pool{rank}d")
    flat = [p for pair in reversed(borders) for p in pair]
    ours = average(torch.nn.functional.pad(ones, flat), kernel, stride)
    theirs = average(ones, kernel, stride, given["padding"], given["ceil_mode"], given["count_include_pad"])
    if torch.equal(ours, theirs) or given["count_include_pad"] and all(a == b for a, b in borders):
        return x
    return w.affine(x, sizes(node), (theirs / ours).to(w.device), None)


@converts("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d")
def _adaptive_average(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    return _adaptive(w, given, "Average")


@converts("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d")
def _adaptive_maximum(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    return Several((_adaptive(w, given, "Max"), None))


def _adaptive(w: Writer, given: dict[str, Any], kind: str) -> Variable:
    inside = w.shape(given["self"])[2:]
    rank, x = len(inside), w.variable(given["self"])
    wanted = [size if size is not None else inside[k] for k, size in enumerate(each_axis(given["output_size"], rank))]
    if all(size == 1 for size in wanted):
        return w.layer(f"Global{kind}Pooling{rank}D(keepdims=True", x)
    if wanted == list(inside):
        return x
    if all(int(a or 1) % int(b or 1) == 0 for a, b in zip(inside, wanted, strict=True)):
        kernel = [int(a or 1) // int(b or 1) for a, b in zip(inside, wanted, strict=True)]
        return _pool(w, kind, rank, x, kernel, kernel)
    return w.layer(f"Adaptive{kind}Pooling{rank}D({brief(wanted)}", x)


@converts("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_bilinear2d", "upsample_linear1d")
@converts("upsample_trilinear3d", "upsample_bicubic2d", "_upsample_nearest_exact2d", "_upsample_bilinear2d_aa")
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
        return w.layer(f"UpSampling2D({brief(factors)}", x)
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


@converts("pixel_shuffle")
def _pixel_shuffle(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    r = given["upscale_factor"]
    _, channels, height, width = (int(s or 1) for s in w.shape(given["self"]))
    x = w.line(
        f"ops.reshape({w.variable(given['self'])}, {(-1, channels // r**2, r, r, height, width)})", "reshape", "split"
    )
    x = w.line(f"ops.transpose({x}, (0, 1, 4, 2, 5, 3))", "transpose", "woven")
    return w.line(f"ops.reshape({x}, {(-1, channels // r**2, height * r, width * r)})", "reshape")


@converts("pixel_unshuffle")
def _pixel_unshuffle(w: Writer, node: Any, given: dict[str, Any]) -> Any:
    r = given["downscale_factor"]
    _, channels, height, width = (int(s or 1) for s in w.shape(given["self"]))
    x = w.line(
        f"ops.reshape({w.variable(given['self'])}, {(-1, channels, height // r, r, width // r, r)})", "reshape", "split"
    )
    x = w.line(f"ops.transpose({x}, (0, 1, 3, 5, 2, 4))", "transpose", "woven")
    return w.line(f"ops.reshape({x}, {(-1, channels * r**2, height // r, width // r)})", "reshape")
