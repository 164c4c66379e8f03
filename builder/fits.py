"""Whether a layer's settings suit what it is fed: said in words, with a value that does, before anything is built.

What depends on sizes alone is told here. Torch would tell some of it later and in its own words, and some of it, on the
meta device where shapes are found, not at all.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import gcd, prod
from typing import Any

from builder.catalog import LayerSpec

__all__ = ["Misfit", "misfit"]

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Misfit:
    """Why a setting does not suit.

    Attributes:
        message: a sentence. setting: the one it is about, "" = the layer as a whole.
        value: one that suits (None: no such repair).
    """

    message: str
    setting: str = ""
    value: int | None = None


def misfit(spec: LayerSpec, chosen: Mapping[str, Any], shape: Shape) -> Misfit | None:
    """Returns the first reason why `spec` with the settings `chosen` cannot work on `shape`; None where it can.

    Args:
        chosen: every setting, each within its domain. shape: of one item of the first input, batch left out.
    """
    given = {**spec.fixed, **chosen}
    for rule in _RULES:
        found = rule(spec, given, shape)
        if found:
            return found
    return None


def _sides(shape: Shape) -> tuple[Shape, str, str]:
    """(sizes that a window slides over, their unit, what they belong to)."""
    if len(shape) == 2:
        return shape[:1], "steps", "sequence"
    return shape[1:], *(("voxels", "volume") if len(shape) == 4 else ("px", "picture"))


def _channels(shape: Shape) -> int:
    return shape[-1] if len(shape) == 2 else shape[0]


def _divisor(most: int, *counts: int) -> int:
    """The largest number up to `most` that divides all `counts`."""
    whole = gcd(*counts)
    return next(d for d in range(min(most, whole), 0, -1) if whole % d == 0)


def _window(spec: LayerSpec, chosen: Mapping[str, Any], shape: Shape) -> Misfit | None:
    if "kernel_size" not in chosen or "output_padding" in chosen or len(shape) < 2:
        return None
    sizes, unit, what = _sides(shape)
    kernel, padding, dilation = chosen["kernel_size"], chosen.get("padding", 0), chosen.get("dilation", 1)
    deep = chosen.get("depth_kernel_size", 0)
    if deep:  # its border is as wide as it can use, and the other two axes are judged by the other kernel
        reach, room = (deep - 1) * dilation + 1, sizes[0] + 2 * min(padding, dilation * (deep - 1) // 2)
        if reach > room:
            words = f"Its window spans {reach} slices but the volume has only {room} here, padding included."
            return Misfit(words, "depth_kernel_size", max(1, (sizes[0] - 1) // dilation + 1))
        sizes = sizes[1:]
    if spec.group == "Pooling" and padding > kernel // 2:
        words = f"Padding {padding} is more than half the window of {kernel} {unit}."
        return Misfit(words, "padding", kernel // 2)
    reach, room = (kernel - 1) * dilation + 1, min(sizes) + 2 * padding
    if reach > room:
        words = f"Its window spans {reach} {unit} but the {what} has only {room} {unit} here, padding included."
        return Misfit(words, "kernel_size", max(1, (room - 1) // dilation + 1))
    return None


def _enlarged(spec: LayerSpec, chosen: Mapping[str, Any], shape: Shape) -> Misfit | None:
    if "output_padding" not in chosen:
        return None
    stride, padding, extra = chosen["stride"], chosen["padding"], chosen["output_padding"]
    if extra >= stride:
        return Misfit(f"Output padding {extra} must be less than the stride of {stride}.", "output_padding", stride - 1)
    steps = [stride] * len(_sides(shape)[0])
    if chosen.get("depth_stride"):
        steps[0] = chosen["depth_stride"]
    sides = [(size - 1) * step for size, step in zip(_sides(shape)[0], steps, strict=True)]
    # A depth of its own cuts off no more than it has (`blocks.convolution.ConvTranspose3d`).
    grown = min(sides[1:] if chosen.get("depth_kernel_size") else sides) + chosen["kernel_size"] + extra
    if grown - 2 * padding < 1:
        words = f"Padding {padding} cuts off all of the {grown} {_sides(shape)[1]} that come out."
        return Misfit(words, "padding", (grown - 1) // 2)
    return None


def _groups(spec: LayerSpec, chosen: Mapping[str, Any], shape: Shape) -> Misfit | None:
    channels = _channels(shape)
    if "groups" in chosen:
        count, outs = chosen["groups"], chosen["out_channels"]
        if channels % count or outs % count:
            words = f"{count} groups do not divide {channels} channels coming in and {outs} going out."
            return Misfit(words, "groups", _divisor(count, channels, outs))
    if "num_groups" in chosen:
        count, fits = chosen["num_groups"], _alone(chosen["num_groups"], channels, shape)
        words = ""
        if channels % count:
            words = f"{count} groups do not divide {channels} channels coming in."
        elif count == channels == prod(shape):
            words = f"Each of {count} groups would hold a single number: centred, all of them are zero."
        if words:
            return Misfit(words, "num_groups", fits) if fits else Misfit(words)
    return None


def _alone(most: int, channels: int, shape: Shape) -> int:
    """The largest number of groups up to `most` that divides the channels and leaves a group two numbers; 0 = none."""
    most = min(most, channels // 2) if prod(shape) == channels else most
    return _divisor(most, channels) if most else 0


def _instances(spec: LayerSpec, chosen: Mapping[str, Any], shape: Shape) -> Misfit | None:
    sizes, unit, what = _sides(shape) if len(shape) > 1 else ((2,), "", "")
    if spec.name.startswith("instance_norm") and prod(sizes) == 1:
        return Misfit(f"{spec.title} compares the {unit} of one {what}, and this one has a single one left.")
    return None


def _heads(spec: LayerSpec, chosen: Mapping[str, Any], shape: Shape) -> Misfit | None:
    if "heads" in chosen and shape[-1] % chosen["heads"]:
        words = f"{chosen['heads']} heads do not divide {shape[-1]} features."
        return Misfit(words, "heads", _divisor(chosen["heads"], shape[-1]))
    return None


def _tiles(spec: LayerSpec, chosen: Mapping[str, Any], shape: Shape) -> Misfit | None:
    for setting, words in (("patch_size", "Patches of {0} px do"), ("downscale_factor", "Squares of {0} px do")):
        side = chosen.get(setting, 1)
        if any(size % side for size in _sides(shape)[0]):
            said = f"{words.format(side)} not fill a picture of {' x '.join(map(str, shape[1:]))} px."
            return Misfit(said, setting, _divisor(side, *shape[1:]))
    return None


def _shuffled(spec: LayerSpec, chosen: Mapping[str, Any], shape: Shape) -> Misfit | None:
    factor = chosen.get("upscale_factor", 1)
    if shape[0] % factor**2:
        fits = next(f for f in range(factor, 0, -1) if shape[0] % f**2 == 0)
        words = (
            f"{factor} times larger takes {factor**2} channels for each one: they do not divide {shape[0]} channels."
        )
        return Misfit(words, "upscale_factor", fits)
    return None


def _rows(spec: LayerSpec, chosen: Mapping[str, Any], shape: Shape) -> Misfit | None:
    if "rows" not in chosen:
        return None
    rows, steps = chosen["rows"], shape[0]
    if rows and steps % rows:
        return Misfit(f"{steps} steps do not fill {rows} rows.", "rows", _divisor(rows, steps))
    if not rows and round(steps**0.5) ** 2 != steps:
        return Misfit(f"{steps} steps do not fill a square.", "rows", _divisor(int(steps**0.5), steps))
    return None


def _halved(spec: LayerSpec, chosen: Mapping[str, Any], shape: Shape) -> Misfit | None:
    """Whole U-Nets: every side must divide as often as their levels halve it, and more than one number must be left."""
    if "levels" not in chosen or "width" not in chosen:
        return None
    sizes, unit, what = _sides(shape)
    flat = chosen.get("flat_levels", 0) if len(sizes) == 3 else 0

    def fits(levels: int) -> bool:
        factors = [2 ** max(0, levels - 1 - flat), *[2 ** (levels - 1)] * 2][-len(sizes) :]
        left = [size / factor for size, factor in zip(sizes, factors, strict=True)]
        return all(size == int(size) for size in left) and prod(left) > 1

    levels = chosen["levels"]
    if fits(levels):
        return None
    low = int(spec.param("levels").low)  # type: ignore[union-attr]
    value = next((k for k in range(levels - 1, low - 1, -1) if fits(k)), None)
    kept = f" (slices {max(0, levels - 1 - flat)} times)" if flat else ""
    said = f"{levels} levels halve each side {levels - 1} times{kept}, but the {what} of {_show(sizes)} {unit} here "
    said += "does not divide that often, or a single number would be left of it."
    return Misfit(said, "levels", value) if value else Misfit(said)


def _show(sizes: Shape) -> str:
    return " x ".join(map(str, sizes))


def _eighths(spec: LayerSpec, chosen: Mapping[str, Any], shape: Shape) -> Misfit | None:
    """Group norm of eight groups inside."""
    if spec.name != "monai_segresnet" or chosen["width"] % 8 == 0:
        return None
    return Misfit(f"Width {chosen['width']} is not a multiple of 8.", "width", max(8, round(chosen["width"] / 8) * 8))


_RULES: tuple[Callable[[LayerSpec, Mapping[str, Any], Shape], Misfit | None], ...] = (
    _window,
    _enlarged,
    _groups,
    _instances,
    _heads,
    _tiles,
    _shuffled,
    _rows,
    _halved,
    _eighths,
)
