"""What a convolution or a pooling does at one place, number by number.

`geometry` reads a real module; `step` takes that module's real input and weights and gives every number that meets in
one output: the values under the window, the weights, the products, their sum. The sum is the module's own output there
(tests/test_look.py), so what is shown is what happens. Pure numpy: pages call it for each place without a network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil, floor, prod
from typing import Any

import numpy as np

KINDS = ("convolution", "maximum", "average", "adaptive maximum", "adaptive average")


@dataclass(frozen=True)
class Geometry:
    """How the window of a layer lies and moves.

    Attributes:
        kind: one of `KINDS`. kernel, stride, padding, dilation: one number for each axis (rows, columns).
        channels_in, channels_out: 0 where it takes any number (poolings). groups: separate groups of channels.
        mode: what stands beyond the border: "zeros", "reflect", "replicate" or "circular" (poolings: never looked at).
        counts_padding: an average divides by the whole window, border included. out: size that comes out (adaptive).
    """

    kind: str
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    channels_in: int = 0
    channels_out: int = 0
    groups: int = 1
    mode: str = "zeros"
    counts_padding: bool = True
    out: tuple[int, ...] = ()

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Geometry:
        """What `to_json` wrote."""
        facts: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in plain.items()}
        return cls(**facts)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)

    @property
    def learned(self) -> bool:
        """Whether weights take part."""
        return self.kind == "convolution"


def geometry(module: Any, shape: Sequence[int] = ()) -> Geometry | None:
    """The geometry of a torch module that moves a window over a picture (or line, or volume), else None.

    Args:
        shape: of its input without the batch, (C, *sizes); only adaptive and global poolings need it.
    """
    from torch import nn

    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        if isinstance(module.padding, str):
            total = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
            padding = tuple(t // 2 if module.padding == "same" else 0 for t in total)
        else:
            padding = tuple(module.padding)
        return Geometry(
            "convolution",
            tuple(module.kernel_size),
            tuple(module.stride),
            padding,
            tuple(module.dilation),
            module.in_channels,
            module.out_channels,
            module.groups,
            module.padding_mode,
        )
    for rank, largest, mean in (
        (1, nn.MaxPool1d, nn.AvgPool1d),
        (2, nn.MaxPool2d, nn.AvgPool2d),
        (3, nn.MaxPool3d, nn.AvgPool3d),
    ):
        if isinstance(module, largest | mean):
            kernel = _each(module.kernel_size, rank)
            return Geometry(
                "maximum" if isinstance(module, largest) else "average",
                kernel,
                _each(module.stride or kernel, rank),
                _each(module.padding, rank),
                _each(getattr(module, "dilation", 1), rank),
                counts_padding=bool(getattr(module, "count_include_pad", True)),
            )
    return _adaptive(module, tuple(shape))


def _adaptive(module: Any, shape: tuple[int, ...]) -> Geometry | None:
    """Poolings to a fixed size, ours among them (known by name: an exported class may be another object)."""
    from torch import nn

    inner = module.pool if type(module).__name__ == "AdaptivePool" else module
    sizes = shape[1:]
    if type(module).__name__ == "GlobalPool" and module.kind in ("average", "maximum") and sizes:
        out, kind = (1,) * len(sizes), module.kind
    elif isinstance(inner, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d) and len(sizes) == 2:
        out = tuple(n if o is None else int(o) for n, o in zip(sizes, _each(inner.output_size, 2), strict=True))
        kind = "average" if isinstance(inner, nn.AdaptiveAvgPool2d) else "maximum"
    else:
        return None
    kernel = tuple(max(ceil((i + 1) * n / m) - floor(i * n / m) for i in range(m)) for n, m in zip(sizes, out))  # noqa: B905
    stride = tuple(max(1, n // m) for n, m in zip(sizes, out, strict=True))
    zero, one = (0,) * len(sizes), (1,) * len(sizes)
    return Geometry(f"adaptive {kind}", kernel, stride, zero, one, out=out)


def _each(value: Any, rank: int) -> tuple[int, ...]:
    return (int(value),) * rank if isinstance(value, int) else tuple(int(v) for v in value)


@dataclass(frozen=True)
class Step:
    """All that meets in one output.

    Attributes:
        places: for each axis the positions in the input under the window; they may lie beyond the border.
        inside: (*window) bool, which of them are pixels. channels: numbers of the input channels that take part.
        values: (C, *window) float32, what stands there; beyond the border what the layer puts there (0 for a maximum,
            which never chooses it). weights, products: the same shape, None for poolings.
        sums: (C,) float64, the share of each channel. bias: added at the end. total: the output, float64.
        divisor: an average's; 1 otherwise. chosen: a maximum's place in the window, else ().
    """

    places: tuple[tuple[int, ...], ...]
    inside: np.ndarray
    channels: tuple[int, ...]
    values: np.ndarray
    weights: np.ndarray | None
    products: np.ndarray | None
    sums: np.ndarray
    bias: float
    total: float
    divisor: int = 1
    chosen: tuple[int, ...] = ()


def out_size(geometry: Geometry, sizes: Sequence[int]) -> tuple[int, ...]:
    """Sizes of the output for an input of `sizes` (rows, columns), rounded down as torch does."""
    if geometry.out:
        return geometry.out
    return tuple(
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(
            sizes, geometry.kernel, geometry.stride, geometry.padding, geometry.dilation, strict=True
        )
    )


def window(geometry: Geometry, sizes: Sequence[int], position: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """The positions of the input, for each axis, that the output at `position` is made of; beyond the border too."""
    if geometry.out:
        return tuple(
            tuple(range(floor(i * n / m), ceil((i + 1) * n / m)))
            for i, n, m in zip(position, sizes, geometry.out, strict=True)
        )
    return tuple(
        tuple(i * s - p + t * d for t in range(k))
        for i, k, s, p, d in zip(
            position, geometry.kernel, geometry.stride, geometry.padding, geometry.dilation, strict=True
        )
    )


def step(
    x: np.ndarray,
    geometry: Geometry,
    channel: int,
    position: Sequence[int],
    weight: np.ndarray | None = None,
    bias: np.ndarray | None = None,
) -> Step:
    """Computes one output of a layer.

    Args:
        x: (C, *sizes), the layer's input. channel: of the output. position: of the output, one number for each axis.
        weight: (O, C / groups, *kernel) and bias (O,) of a convolution.
    Raises:
        IndexError: there is no such channel or position. ValueError: a convolution without its weights.
    """
    sizes = x.shape[1:]
    out = out_size(geometry, sizes)
    num = geometry.channels_out or x.shape[0]
    if not 0 <= channel < num or any(not 0 <= i < n for i, n in zip(position, out, strict=True)):
        raise IndexError(f"There is no output {channel} at {tuple(position)}: it has {num} channels of {out}.")
    places = window(geometry, sizes, position)
    real = np.ones(tuple(map(len, places)), bool)
    for axis, (row, size) in enumerate(zip(places, sizes, strict=True)):
        flags = np.array([0 <= i < size for i in row])
        real &= flags.reshape([-1 if a == axis else 1 for a in range(len(sizes))])
    if geometry.learned:
        if weight is None:
            raise ValueError("A convolution needs its weights.")
        width = x.shape[0] // geometry.groups
        first = channel // (geometry.channels_out // geometry.groups) * width
        channels = tuple(range(first, first + width))
    else:
        channels = (channel,)
    values = _under(x[list(channels)], places, real, geometry.mode)
    if geometry.learned and weight is not None:
        weights = weight[channel].astype(np.float32)
        products = values.astype(np.float64) * weights
        sums = products.reshape(len(channels), -1).sum(1)
        added = 0.0 if bias is None else float(bias[channel])
        return Step(places, real, channels, values, weights, products, sums, added, float(sums.sum()) + added)
    flat = values[0].astype(np.float64)
    if geometry.kind.endswith("maximum"):
        at = int(np.where(real, flat, -np.inf).argmax())
        chosen = tuple(int(i) for i in np.unravel_index(at, flat.shape))
        best = float(flat[chosen])
        return Step(places, real, channels, values, None, None, np.array([best]), 0.0, best, 1, chosen)
    divisor = prod(flat.shape) if geometry.counts_padding else max(1, int(real.sum()))
    total = float(flat[real].sum())
    return Step(places, real, channels, values, None, None, np.array([total]), 0.0, total / divisor, divisor)


def _under(x: np.ndarray, places: Sequence[Sequence[int]], real: np.ndarray, mode: str) -> np.ndarray:
    """(C, *window) float32 of `x` at `places`, filled beyond the border as the layer fills it."""
    rows = []
    for indices, size in zip(places, x.shape[1:], strict=True):
        at = np.asarray(indices)
        if mode == "reflect" and size > 1:
            at = np.abs(at)
            at = np.where(at >= size, 2 * (size - 1) - at, at)
        elif mode == "circular":
            at = at % size
        rows.append(np.clip(at, 0, size - 1))
    values = x[(slice(None), *np.ix_(*rows))].astype(np.float32)
    return np.where(real, values, np.float32(0)) if mode == "zeros" else values
