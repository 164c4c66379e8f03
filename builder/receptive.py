"""The receptive field: which part of the scan one number inside a network can see.

Along each axis the position i of a tensor sees an interval [jump * i + low, jump * i + high] of what went in; every
operator changes these three numbers in a known way (Araujo, Norris and Sim, Distill 2019). `Tracker` watches the real
operators of a real module run on the meta device, so that blocks, backbones and anything a library builds are followed
without a second description of them. What it does not know is taken to see all: a bound, never too small. Statistics of
normalization layers are left out, as is usual; a squeeze-and-excite gate, which looks at everything, counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from fractions import Fraction
from math import ceil, floor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Axis = tuple[int, int]
"""(number of the input, its dimension counted without the batch, from 0)."""


@dataclass(frozen=True)
class Span:
    """Position i sees [jump * i + low, jump * i + high] along `axis`, which is `size` long."""

    axis: Axis
    size: int
    jump: Fraction = Fraction(1)
    low: Fraction = Fraction(0)
    high: Fraction = Fraction(0)

    @property
    def reach(self) -> int:
        """How many positions of the axis are seen; it may be more than there are."""
        return ceil(self.high - self.low) + 1

    def then(self, jump: Fraction | int, low: Fraction | int, high: Fraction | int) -> Span:
        """The span of position j of a tensor that sees [jump * j + low, jump * j + high] of the one with this span."""
        return Span(self.axis, self.size, self.jump * jump, self.low + self.jump * low, self.high + self.jump * high)


Content = tuple[Span, ...]
"""What runs along one dimension of a tensor: nothing (), one axis, or several laid out one after the other."""


@dataclass(frozen=True)
class Field:
    """What every number of a tensor sees.

    Attributes:
        dims: the content of each dimension. whole: axes that every number sees from end to end.
    """

    dims: tuple[Content, ...]
    whole: frozenset[Axis] = frozenset()

    def everything(self) -> frozenset[Axis]:
        """Every axis that is seen, in part or whole."""
        return self.whole | {span.axis for content in self.dims for span in content}

    def spans(self) -> dict[Axis, Span]:
        """The axes of which a part is seen."""
        return {span.axis: span for content in self.dims for span in content if span.axis not in self.whole}

    def reaches(self, sizes: Mapping[Axis, int]) -> tuple[int, ...]:
        """How much of each axis one number sees, in the order of `sizes`: at most the size, 0 where nothing is seen."""
        spans = self.spans()
        return tuple(
            size if axis in self.whole else min(size, spans[axis].reach) if axis in spans else 0
            for axis, size in sizes.items()
        )


def identity(shape: Sequence[int], number: int = 0, axes: Sequence[int] | None = None) -> Field:
    """The field of an input itself (shape without the batch): each number sees itself along `axes` (None: all)."""
    seen = range(len(shape)) if axes is None else axes
    return Field(tuple((Span((number, d), size),) if d in seen else () for d, size in enumerate(shape)))


def composed(inner: Field, feeds: Sequence[Field]) -> Field:
    """The field of a layer's output in terms of the scan.

    Args:
        inner: in terms of the layer's own inputs. feeds: fields of these inputs in terms of the scan.
    """
    whole: set[Axis] = set().union(*(feed.whole for feed in feeds))
    for number, dim in inner.whole:
        whole |= {span.axis for span in feeds[number].dims[dim]}
    dims = []
    for content in inner.dims:
        new: list[Span] = []
        for span in content:
            number, dim = span.axis
            new += [under.then(span.jump, span.low, span.high) for under in feeds[number].dims[dim]]
        dims.append(_joined([tuple(new)]))
    return Field(tuple(dims), frozenset(whole))


def _joined(contents: Sequence[Content]) -> Content:
    """The union of what several tensors carry along one dimension."""
    found: dict[Axis, Span] = {}
    for content in contents:
        for span in content:
            known = found.get(span.axis)
            found[span.axis] = (
                span
                if known is None
                else replace(
                    known,
                    jump=max(known.jump, span.jump),
                    low=min(known.low, span.low),
                    high=max(known.high, span.high),
                )
            )
    return tuple(found.values())


# -- operators: each rule takes a call and gives the field of its result ----------------------------------------------


@dataclass(frozen=True)
class _Call:
    """One operator at work: `fields` and `shapes` of the tensors among its arguments that are followed."""

    name: str
    fields: tuple[Field, ...]
    shapes: tuple[tuple[int, ...], ...]
    args: Mapping[str, Any]
    out: tuple[int, ...]

    def each(self, change: Callable[[int, Span], Span | None]) -> Field:
        """`change` applied to every span of the first tensor, told the span's dimension; None: seen whole from now."""
        field, whole, dims = self.fields[0], set(self.fields[0].whole), []
        for d, content in enumerate(field.dims):
            kept = []
            for span in content:
                new = change(d, span)
                if new is None:
                    whole.add(span.axis)
                else:
                    kept.append(new)
            dims.append(tuple(kept))
        return Field(tuple(dims[: len(self.out)]), frozenset(whole))


def _all(call: _Call) -> Field:
    """Every number sees everything: for operators that mix, and for those that are not known."""
    return Field(((),) * len(call.out), frozenset().union(*(f.everything() for f in call.fields)))


def _nothing(call: _Call) -> Field:
    """A new tensor, only shaped like another."""
    return Field(((),) * len(call.out))


def _numbers(value: Any, count: int, default: int) -> list[int]:
    """An operator's setting for each of `count` axes: [] is the default, one number stands for all."""
    if value is None or (isinstance(value, list | tuple) and not value):
        return [default] * count
    if isinstance(value, int):
        return [value] * count
    return list(value) * count if len(value) == 1 else list(value)


def _windowed(call: _Call) -> Field:
    """Convolutions and poolings: a window of k points, d apart, moved by the stride."""
    args = call.args
    weight = args.get("weight")
    rank = len(call.out) - 2 if weight is not None else len(_size(args["kernel_size"]))
    kernel = list(weight.shape[2:]) if weight is not None else _numbers(args["kernel_size"], rank, 1)
    if weight is None and rank == 1 and len(call.out) > 3 and "2d" in call.name:
        rank, kernel = 2, kernel * 2
    stride = kernel if weight is None and not _size(args.get("stride")) else _numbers(args.get("stride"), rank, 1)
    padding = _numbers(args.get("padding"), rank, 0)
    dilation = _numbers(args.get("dilation"), rank, 1)
    first = len(call.out) - rank

    def change(d: int, span: Span) -> Span | None:
        if d < first:
            return None if d == first - 1 and weight is not None else span  # channels are mixed
        k, s, p, far = (values[d - first] for values in (kernel, stride, padding, dilation))
        extent = (k - 1) * far
        if not args.get("transposed"):
            return span.then(s, -p, extent - p)
        seen = extent // s  # so many inputs, less one, reach one output
        center = Fraction(p) - Fraction(extent, 2)
        return span.then(Fraction(1, s), (center / s) - Fraction(seen, 2), (center / s) + Fraction(seen, 2))

    return call.each(change)


def _size(value: Any) -> list[int]:
    return [] if value is None else [value] if isinstance(value, int) else list(value)


def _adaptive(call: _Call) -> Field:
    """Adaptive poolings: output i sees [floor(i * n / m), ceil((i + 1) * n / m))."""

    def change(d: int, span: Span) -> Span | None:
        n, m = call.shapes[0][d], call.out[d]
        if n == m:
            return span
        if m == 1:
            return None
        reach = max(ceil((i + 1) * n / m) - floor(i * n / m) for i in range(m))
        slack = Fraction(reach * m - n, 2 * m)
        return span.then(Fraction(n, m), -slack, Fraction(n, m) - 1 + slack)

    return call.each(change)


def _enlarged(taps: int) -> Callable[[_Call], Field]:
    """Upsampling by any factor, each output drawn from `taps` neighbours along an axis."""

    def rule(call: _Call) -> Field:
        def change(d: int, span: Span) -> Span:
            n, m = call.shapes[0][d], call.out[d]
            if n == m:
                return span
            center = Fraction(n, 2 * m) - Fraction(1, 2)
            half = Fraction(taps - 1, 2)
            return span.then(Fraction(n, m), center - half, center + half)

        return call.each(change)

    return rule


def _gathered(call: _Call) -> Field:
    """pixel_unshuffle: each output draws on one square of pixels, which came to lie in its channels."""
    factor = int(call.args["downscale_factor"])

    def change(d: int, span: Span) -> Span:
        return span if d < len(call.out) - 2 else span.then(factor, 0, factor - 1)

    return call.each(change)


def _padded(call: _Call) -> Field:
    pad = list(call.args["pad"] if "pad" in call.args else call.args["padding"])

    def change(d: int, span: Span) -> Span:
        place = 2 * (len(call.out) - 1 - d)
        before = pad[place] if place < len(pad) else 0
        return span.then(1, -before, -before)

    return call.each(change)


def _pointwise(call: _Call) -> Field:
    """One value out of those at the same place; dimensions line up from the right."""
    rank, dims = len(call.out), []
    for d in range(rank):
        found = []
        for field, shape in zip(call.fields, call.shapes, strict=True):
            at = d - (rank - len(shape))
            if at >= 0 and shape[at] == call.out[d]:
                found.append(field.dims[at])
        dims.append(_joined(found))
    whole = frozenset().union(*(f.whole for f in call.fields))
    lost = {
        span.axis
        for field, shape in zip(call.fields, call.shapes, strict=True)
        for at, content in enumerate(field.dims)
        if shape[at] != call.out[at + rank - len(shape)]
        for span in content
    }  # a single position of an axis, spread over others
    return Field(tuple(dims), whole | lost)


def _same(call: _Call) -> Field:
    """As the first tensor: copies, casts, and norms, whose statistics are left out."""
    return call.fields[0] if len(call.shapes[0]) == len(call.out) else _all(call)


def _permuted(call: _Call) -> Field:
    field, rank = call.fields[0], len(call.out)
    if call.name == "permute":
        order = [d % rank for d in call.args["dims"]]
    else:
        order = list(range(rank))
        one, two = (0, 1) if call.name == "t" else (call.args["dim0"] % rank, call.args["dim1"] % rank)
        if rank > 1:
            order[one], order[two] = order[two], order[one]
    return Field(tuple(field.dims[d] for d in order), field.whole)


def _reshaped(call: _Call) -> Field:
    """Views: dimensions are matched by the sizes they multiply to; merged ones carry all that they are made of."""
    field, old, new = call.fields[0], call.shapes[0], call.out
    dims: list[Content] = [()] * len(new)
    whole = set(field.whole)
    i = j = 0
    while i < len(old) or j < len(new):
        ends = [i + 1 if i < len(old) else i, j + 1 if j < len(new) else j]
        left, right = (old[i] if i < len(old) else 1), (new[j] if j < len(new) else 1)
        while left != right:
            if left < right:
                left *= old[ends[0]]
                ends[0] += 1
            else:
                right *= new[ends[1]]
                ends[1] += 1
        pieces = [span for d in range(i, ends[0]) for span in field.dims[d]]
        group = list(range(j, ends[1]))
        if pieces and not group:
            whole |= {span.axis for span in pieces}
        elif len(group) == 1:
            dims[group[0]] = tuple(pieces)
        elif ends[0] - i == 1 and len([d for d in group if new[d] > 1]) == 1:
            dims[next(d for d in group if new[d] > 1)] = tuple(pieces)
        elif pieces:
            left_over = list(pieces)
            for d in reversed(group):  # a merged dimension comes apart as it was put together
                if left_over and new[d] > 1 and _length(left_over[-1], old, field) == new[d]:
                    dims[d] = (left_over.pop(),)
            if left_over:
                for d in group:
                    dims[d] = tuple(pieces) if new[d] > 1 else ()
        i, j = ends
    return Field(tuple(dims), frozenset(whole))


def _length(span: Span, old: Sequence[int], field: Field) -> int:
    """How many positions a span has where it runs now: known from its jump, exactly where it was never windowed."""
    alone = [old[d] for d, content in enumerate(field.dims) if content == (span,)]
    return alone[0] if alone else round(span.size / span.jump)


def _sliced(call: _Call) -> Field:
    dim = call.args.get("dim", 0) % len(call.shapes[0])
    start, step = call.args.get("start") or 0, call.args.get("step") or 1
    size = call.shapes[0][dim]
    start = max(0, start + size) if start < 0 else min(start, size)
    return call.each(lambda d, span: span.then(step, start, start) if d == dim else span)


def _selected(call: _Call) -> Field:
    dim = call.args.get("dim", 0) % len(call.shapes[0])
    field = call.each(lambda d, span: None if d == dim else span)
    source = [d for d in range(len(call.shapes[0])) if d != dim]
    kept = call.fields[0].dims
    return Field(tuple(kept[d] for d in source), field.whole)


def _inserted(call: _Call) -> Field:
    """unsqueeze."""
    dims = list(call.fields[0].dims)
    dims.insert(call.args["dim"] % len(call.out), ())
    return Field(tuple(dims), call.fields[0].whole)


def _stacked(call: _Call) -> Field:
    """cat and stack: joined along a dimension; axes that run along that very dimension are then seen whole."""
    new = call.name == "stack"
    dim = call.args.get("dim", 0) % len(call.out)
    dims: list[Content] = []
    whole = frozenset().union(*(f.whole for f in call.fields))
    for d in range(len(call.out)):
        if d == dim:
            if not new:
                whole |= {span.axis for f in call.fields for span in f.dims[d]}
            dims.append(())
        else:
            at = d - 1 if new and d > dim else d
            dims.append(_joined([f.dims[at] for f in call.fields]))
    return Field(tuple(dims), whole)


def _reduced(call: _Call) -> Field:
    """Means, sums, maxima over dimensions, which are then seen whole."""
    rank = len(call.shapes[0])
    asked = call.args.get("dim")
    over = {d % rank for d in _size(asked)} if asked is not None and asked != [] else set(range(rank))
    kept = bool(call.args.get("keepdim")) or call.name in ("_softmax", "_log_softmax", "cumsum")
    field = call.fields[0]
    whole = set(field.whole) | {span.axis for d in over for span in field.dims[d]}
    dims = [() if d in over else content for d, content in enumerate(field.dims)]
    if not kept and len(call.out) == rank - len(over):
        dims = [content for d, content in enumerate(dims) if d not in over]
    return Field(tuple(dims), frozenset(whole)) if len(dims) == len(call.out) else _all(call)


def _product(call: _Call) -> Field:
    """A tensor times a matrix of weights: the last dimension is summed over, the others stay."""
    if len(call.fields) != 1 or len(call.shapes[0]) != len(call.out):
        return _all(call)
    return call.each(lambda d, span: None if d == len(call.out) - 1 else span)


_WINDOWS = (
    "convolution",
    "_convolution",
    "mkldnn_convolution",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "max_pool2d_with_indices",
    "max_pool3d_with_indices",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
)
_NORMS = (
    "native_batch_norm",
    "_native_batch_norm_legit",
    "_native_batch_norm_legit_no_training",
    "cudnn_batch_norm",
    "batch_norm",
    "_batch_norm_no_update",
    "_batch_norm_with_update",
    "native_group_norm",
    "native_layer_norm",
)
_COPIES = (
    "clone",
    "detach",
    "_to_copy",
    "contiguous",
    "alias",
    "lift_fresh",
    "native_dropout",
    "dropout",
    "feature_dropout",
    "_fused_rms_norm",
    "rms_norm",
    "_prelu_kernel",
    "hardswish",
)
_FRESH = ("new_zeros", "new_ones", "new_empty", "new_full", "zeros_like", "ones_like", "empty_like", "full_like")
_RULES: dict[str, Callable[[_Call], Field]] = {
    **dict.fromkeys(_WINDOWS, _windowed),
    **dict.fromkeys(_NORMS + _COPIES, _same),
    **dict.fromkeys(_FRESH, _nothing),
    **dict.fromkeys(("_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_max_pool2d"), _adaptive),
    **dict.fromkeys(("adaptive_max_pool3d", "adaptive_avg_pool1d", "adaptive_max_pool1d"), _adaptive),
    **dict.fromkeys(("upsample_nearest2d", "upsample_nearest1d", "upsample_nearest3d"), _enlarged(1)),
    **dict.fromkeys(("_upsample_nearest_exact2d",), _enlarged(1)),
    **dict.fromkeys(("upsample_bilinear2d", "upsample_trilinear3d", "upsample_linear1d"), _enlarged(2)),
    **dict.fromkeys(("upsample_bicubic2d",), _enlarged(4)),
    **dict.fromkeys(("constant_pad_nd", "reflection_pad2d", "replication_pad2d", "reflection_pad1d"), _padded),
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "squeeze", "flatten", "unflatten"), _reshaped),
    **dict.fromkeys(("permute", "transpose", "t"), _permuted),
    **dict.fromkeys(("mean", "sum", "amax", "amin", "logsumexp", "_softmax", "_log_softmax", "max", "min"), _reduced),
    **dict.fromkeys(("mm", "addmm", "linear"), _product),
    **dict.fromkeys(("cat", "stack"), _stacked),
    "expand": _pointwise,
    "pixel_shuffle": _enlarged(1),  # neighbouring outputs see one and the same input
    "pixel_unshuffle": _gathered,
    "unbind": _selected,
    "slice": _sliced,
    "select": _selected,
    "unsqueeze": _inserted,
}


class Tracker:
    """Follows tensors through the operators of torch: `with Tracker(tensors) as it: out = module(*tensors)`.

    Args:
        inputs: (B, ...) tensors, on any device; on the meta device nothing is computed.
    """

    def __init__(self, inputs: Sequence[torch.Tensor]) -> None:
        from torch.utils.weak import WeakIdKeyDictionary

        self._fields: Any = WeakIdKeyDictionary()
        for number, tensor in enumerate(inputs):
            field = identity(tuple(tensor.shape[1:]), number)
            self._fields[tensor] = replace(field, dims=((), *field.dims))
        self._mode: AbstractContextManager[Any] | None = None

    def __enter__(self) -> Tracker:
        self._mode = _mode(self._fields)
        self._mode.__enter__()
        return self

    def __exit__(self, *told: Any) -> None:
        assert self._mode is not None
        self._mode.__exit__(*told)

    def field(self, tensor: torch.Tensor) -> Field:
        """What each number of an output sees of the inputs, the batch left out."""
        found = self._fields.get(tensor)
        if found is None:
            return Field(((),) * (tensor.dim() - 1))
        return replace(found, dims=found.dims[1:])


def _mode(fields: Any) -> AbstractContextManager[Any]:
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            named = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | (kwargs or {})
            if _known(fields, named):
                _follow(fields, func, named, out)
            return out

    def _known(fields: Any, named: Mapping[str, Any]) -> bool:
        return any(t in fields for t in _tensors(named.values()))

    def _follow(fields: Any, func: Any, named: Mapping[str, Any], out: Any) -> None:
        name = func.overloadpacket.__name__.rstrip("_")
        pointwise = torch.Tag.pointwise in func.tags
        among = [t for t in _tensors(named.values()) if t in fields]
        for number, result in enumerate(_tensors([out])):
            call = _Call(
                name,
                tuple(fields[t] for t in among),
                tuple(tuple(t.shape) for t in among),
                named,
                tuple(result.shape),
            )
            try:
                fields[result] = _rule(call, pointwise, number)
            except (KeyError, IndexError, TypeError, ValueError, AttributeError, ZeroDivisionError):
                fields[result] = _all(call)  # called in a way that its rule does not know: a bound, never too small

    return Watching()


def _tensors(values: Any) -> list[Any]:
    import torch

    found = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += [v for v in value if isinstance(v, torch.Tensor)]
    return found


def _rule(call: _Call, pointwise: bool, number: int) -> Field:
    """The field of one result of a call. `number`: which of its results."""
    rule: Callable[[_Call], Field] = _RULES.get(call.name, _pointwise if pointwise else _all)
    mixed = rule is _windowed and len(call.fields) > 1  # weights that depend on the scan
    flat = rule in (_windowed, _adaptive) and len(call.out) != len(call.shapes[0])
    if mixed or flat:
        return _all(call)
    if call.name in ("split", "split_with_sizes", "chunk"):
        return _part(call, number)
    return rule(call)


def _part(call: _Call, number: int) -> Field:
    dim = call.args.get("dim", 0) % len(call.shapes[0])
    sizes = call.args.get("split_sizes") or call.args.get("split_size")
    start = sum(sizes[:number]) if isinstance(sizes, list | tuple) else number * int(sizes or 1)
    return call.each(lambda d, span: span.then(1, start, start) if d == dim else span)
