"""Augmentation: a batch of scans varied at random, on the device where it lies, boxes and masks moving with it.

All geometry of one image (flips, shear, zoom, rotation, shift) is composed into ONE 2 x 3 matrix and resampled ONCE, so
nothing blurs twice and only one pass over the pixels is paid. Grey values change after that, always in the same order:
blur, contrast and brightness, gamma, colour, noise, whatever order they were chosen in. All slices of a series or
volume move by the same matrix and change their grey values alike; only noise is new in every pixel, as in a scanner.

Every random number comes from one generator that the caller seeds by (seed, epoch, step): the same step of the same run
is varied in the same way on every machine, in every process, after every restart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

_KEPT_AREA = 0.2  # a box of which less than this share is left in the picture no longer shows its finding
_RESAMPLED = ("rotate", "zoom", "shift", "shear")  # geometry that falls between pixels; flips do not
_FLIPS = ("flip_horizontal", "flip_vertical")
# Luma and chroma of NTSC television: rotating and scaling the (I, Q) plane is hue and saturation as one matrix.
_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


class Chosen(Protocol):
    """What `spec.Choice` looks like from here: the name of an augmentation and its settings, defaults filled in."""

    @property
    def name(self) -> str: ...
    @property
    def params(self) -> Mapping[str, Any]: ...


class Augmented(NamedTuple):
    """A varied batch.

    images: as they came, float in [0, 1]. boxes: per image (m, 4) of the boxes still visible. masks: (B, 1, H, W).
    kept: per image (n,) bool, which of the boxes that came in are among `boxes`. What did not come in is None.
    """

    images: Tensor
    boxes: list[Tensor] | None = None
    masks: Tensor | None = None
    kept: list[Tensor] | None = None


class Augment:
    """The chosen augmentations as one callable; with nothing chosen it hands back what it was given, untouched.

    Args:
        choices: augmentations with the names and settings of `parts.images.AUGMENTATIONS`; each has a `probability`
            per image. Angles in degrees, shifts as fractions of the picture, grey values as fractions of [0, 1].
        layout: of one image: "maps" (C, H, W), "series" (S, C, H, W) or "volume" (C, D, H, W). One image, whatever its
            layout, is varied as one.

    Raises:
        ValueError: for a name or a layout that is not one of ours.
    """

    NAMES = (
        *_FLIPS,
        *("shear", "zoom", "rotate", "shift"),
        *("blur", "contrast", "brightness", "gamma", "colour", "noise"),
    )

    def __init__(self, choices: Iterable[Chosen] = (), layout: str = "maps") -> None:
        if layout not in ("maps", "series", "volume"):
            raise ValueError(f"There is no layout {layout!r}; there are maps, series and volume.")
        self.layout = layout
        self.settings: dict[str, dict[str, float]] = {}
        for choice in choices:
            if choice.name not in self.NAMES:
                raise ValueError(f"There is no augmentation {choice.name!r}; there are {', '.join(self.NAMES)}.")
            self.settings[choice.name] = {key: float(value) for key, value in choice.params.items()}

    def __call__(
        self,
        images: Tensor,
        generator: torch.Generator,
        boxes: Sequence[Tensor] | None = None,
        masks: Tensor | None = None,
    ) -> Augmented:
        """Vary a batch.

        Args:
            images: (B, C, H, W), (B, S, C, H, W) or (B, C, D, H, W), as `layout` says, float in [0, 1], on any device;
                never changed in place.
            generator: a CPU generator; all random numbers come from it, or from one seeded by it (noise on a GPU).
            boxes: per image (n, 4) float, x0 y0 x1 y1 in pixels, the picture spanning 0..W and 0..H.
            masks: (B, 1, H, W) of any type; resampled to the nearest pixel, so labels stay labels.

        Images are resampled bilinearly; what lies outside the picture is 0 (black), in images and masks.
        A box becomes the hull of its moved corners, cut at the border, and is dropped (see `kept`) when less than a
        fifth of that hull is left.
        """
        moved = None if boxes is None else list(boxes)
        kept = None if boxes is None else [torch.ones(len(b), dtype=torch.bool, device=b.device) for b in boxes]
        if not self.settings or not len(images):
            return Augmented(images, moved, masks, kept)
        shape = images.shape
        # One transform an image: slices are to it what channels are, more planes that go the same way.
        images = images.flatten(1, -3)
        planes = {"maps": (1, shape[1], 1), "series": (*shape[1:3], 1), "volume": (1, *shape[1:3])}[self.layout]
        chance = self._draws(len(images), generator)
        if any(name in self.settings for name in (*_RESAMPLED, *_FLIPS)):
            height, width = images.shape[-2:]
            matrices = self._matrices(chance, height, width)
            flips = {name: chance[name][0] for name in _FLIPS if name in chance}
            between = torch.zeros(len(images), dtype=torch.bool)
            for name in _RESAMPLED:
                if name in chance:
                    between |= chance[name][0]
            images = _move(images, matrices, flips, between, "bilinear")
            masks = None if masks is None else _move(masks, matrices, flips, between, "nearest")
            if moved is not None:
                pairs = [_move_boxes(b, m, height, width) for b, m in zip(moved, matrices, strict=True)]
                moved, kept = [box for box, _ in pairs], [keep for _, keep in pairs]
        images = self._shade(images, chance, generator, planes)
        return Augmented(images if images.shape == shape else images.view(shape), moved, masks, kept)

    # ---- chance ----

    def _draws(self, count: int, generator: torch.Generator) -> dict[str, tuple[Tensor, Tensor]]:
        """Per augmentation: which images it falls on (B,) bool, and two numbers in [-1, 1) for its amounts (B, 2).

        All on the CPU, so that asking which images are meant never waits for a GPU.
        """
        numbers = torch.rand(count, len(self.settings), 3, generator=generator)
        return {
            name: (numbers[:, k, 0] < setting.get("probability", 1.0), numbers[:, k, 1:] * 2 - 1)
            for k, (name, setting) in enumerate(self.settings.items())
        }

    # ---- geometry ----

    def _matrices(self, chance: Mapping[str, tuple[Tensor, Tensor]], height: int, width: int) -> Tensor:
        """(B, 2, 3): where a point goes, in pixels from the centre, x before y. Flip, shear, zoom, rotate, shift.

        A positive angle turns the picture counter-clockwise as seen on the screen.
        """
        count = len(next(iter(chance.values()))[0])
        total = torch.eye(3, dtype=torch.float64).repeat(count, 1, 1)

        def then(name: str, entries: Mapping[tuple[int, int], Tensor]) -> None:
            nonlocal total
            step = torch.eye(3, dtype=torch.float64).repeat(count, 1, 1)
            meant = chance[name][0]
            for (row, column), value in entries.items():
                step[:, row, column] = torch.where(meant, value.double(), step[:, row, column])
            total = step @ total

        for name, axis in (("flip_horizontal", 0), ("flip_vertical", 1)):
            if name in chance:
                then(name, {(axis, axis): torch.full((count,), -1.0)})
        if "shear" in chance:
            slant = (chance["shear"][1][:, 0].double() * math.radians(self.settings["shear"]["degrees"])).tan()
            then("shear", {(0, 1): slant})
        if "zoom" in chance:
            low, high = self.settings["zoom"]["low"], self.settings["zoom"]["high"]
            scale = low + (high - low) * (chance["zoom"][1][:, 0] + 1) / 2
            then("zoom", {(0, 0): scale, (1, 1): scale})
        if "rotate" in chance:
            angle = chance["rotate"][1][:, 0].double() * math.radians(self.settings["rotate"]["degrees"])
            then("rotate", {(0, 0): angle.cos(), (0, 1): angle.sin(), (1, 0): -angle.sin(), (1, 1): angle.cos()})
        if "shift" in chance:
            fraction = self.settings["shift"]["fraction"]
            by = chance["shift"][1] * fraction
            then("shift", {(0, 2): by[:, 0] * width, (1, 2): by[:, 1] * height})
        return total[:, :2]

    # ---- grey values ----

    def _shade(
        self,
        images: Tensor,
        chance: Mapping[str, tuple[Tensor, Tensor]],
        generator: torch.Generator,
        planes: tuple[int, int, int],
    ) -> Tensor:
        """Blur, contrast and brightness, gamma, colour, noise; each only on the images it falls on; back in [0, 1].

        Args:
            images: (B, P, H, W). planes: how the P planes lie: (slices before the channels, channels, slices within).
        """
        meant = {name: rows for name in chance if len(rows := chance[name][0].nonzero()[:, 0])}
        meant = {n: r for n, r in meant.items() if n not in _RESAMPLED + _FLIPS}
        if "colour" in meant and planes[1] != 3:
            del meant["colour"]  # hue and saturation mean nothing on grey scans
        if not meant:
            return images
        device, kind = images.device, images.dtype

        def amounts(name: str, column: int = 0) -> Tensor:
            """The drawn numbers of the images meant, in [-1, 1), ready to multiply with (m, 1, 1, 1)."""
            return chance[name][1][meant[name], column].to(device, kind).view(-1, 1, 1, 1)

        images = images.clone()
        if "blur" in meant:
            rows = meant["blur"].to(device)
            sigma = (amounts("blur") + 1) / 2 * self.settings["blur"]["sigma_px"]
            images[rows] = _blur(images[rows], sigma.flatten(), self.settings["blur"]["sigma_px"])
        if "contrast" in meant or "brightness" in meant:
            scale = torch.ones(len(images), 1, 1, 1, dtype=kind, device=device)
            offset = torch.zeros_like(scale)
            if "contrast" in meant:
                rows = meant["contrast"].to(device)
                scale[rows] += amounts("contrast") * self.settings["contrast"]["amount"]
                offset = images.mean((1, 2, 3), keepdim=True) * (1 - scale)
            if "brightness" in meant:
                offset[meant["brightness"].to(device)] += amounts("brightness") * self.settings["brightness"]["amount"]
            images.mul_(scale).add_(offset)
        if "gamma" in meant:
            rows = meant["gamma"].to(device)
            images[rows] = images[rows].clamp_(0, 1).pow_(1 + amounts("gamma") * self.settings["gamma"]["amount"])
        if "colour" in meant:
            rows = meant["colour"].to(device)
            saturation = 1 + amounts("colour").flatten() * self.settings["colour"]["saturation"]
            hue = amounts("colour", 1).flatten() * self.settings["colour"]["hue"] * 2 * math.pi
            mix = _colour_matrices(saturation, hue)
            part = images[rows].unflatten(1, planes)
            images[rows] = torch.einsum("bij,bsjdhw->bsidhw", mix, part).flatten(1, 3)
        if "noise" in meant:
            rows = meant["noise"].to(device)
            sigma = (amounts("noise") + 1) / 2 * self.settings["noise"]["sigma"]
            source = generator
            if device.type != "cpu":
                source = torch.Generator(device)
                source.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            noise = torch.randn((len(rows), *images.shape[1:]), generator=source, device=device, dtype=kind)
            images.index_add_(0, rows, noise.mul_(sigma))
        return images.clamp_(0, 1)


def _move(images: Tensor, matrices: Tensor, flips: Mapping[str, Tensor], between: Tensor, mode: str) -> Tensor:
    """Images moved by their matrices: resampled where `between` says so, elsewhere flipped exactly."""
    resampled = between.nonzero()[:, 0]
    if len(resampled) == len(images):
        return _resample(images, matrices, mode)
    moved = images
    for name, axis in (("flip_horizontal", -1), ("flip_vertical", -2)):
        if name in flips and bool((flips[name] & ~between).any()):
            meant = (flips[name] & ~between).to(images.device).view(-1, 1, 1, 1)
            moved = torch.where(meant, moved.flip(axis), moved)
    if len(resampled):
        rows = resampled.to(images.device)
        part = _resample(images[rows], matrices[resampled], mode)
        moved = moved.index_copy(0, rows, part)
    return moved


def _resample(images: Tensor, matrices: Tensor, mode: str) -> Tensor:
    """One resampling by (B, 2, 3) matrices in pixels from the centre. Outside is 0. Type and device stay."""
    height, width = images.shape[-2:]
    (a, b, right), (c, d, down) = matrices.unbind(1)[0].unbind(1), matrices.unbind(1)[1].unbind(1)
    # grid_sample asks of each pixel where it comes from: the inverse, in units where the picture spans -1 to 1.
    determinant = a * d - b * c
    a, b, c, d = d / determinant, -b / determinant, -c / determinant, a / determinant
    x_part = torch.stack([a, b * height / width, -(a * right + b * down) * 2 / width], 1)
    y_part = torch.stack([c * width / height, d, -(c * right + d * down) * 2 / height], 1)
    real = images if images.is_floating_point() else images.float()
    parts = torch.stack([x_part, y_part]).to(real.device, real.dtype).unsqueeze(-1)
    columns = (torch.arange(width, dtype=real.dtype, device=real.device) * 2 + 1) / width - 1
    rows = (torch.arange(height, dtype=real.dtype, device=real.device) * 2 + 1) / height - 1
    # An affine grid is a sum of a row and a column; F.affine_grid multiplies matrices instead, ten times slower.
    grid = torch.empty(len(images), height, width, 2, dtype=real.dtype, device=real.device)
    for axis, (by_column, by_row, origin) in enumerate(part.unbind(1) for part in parts):
        torch.add((by_column * columns)[:, None, :], (by_row * rows + origin)[:, :, None], out=grid[..., axis])
    return F.grid_sample(real, grid, mode=mode, padding_mode="zeros", align_corners=False).to(images.dtype)


def _move_boxes(boxes: Tensor, matrix: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Boxes (n, 4) moved by one (2, 3) matrix, as (m, 4) of those still visible, and (n,) bool telling which."""
    if not len(boxes):
        return boxes, torch.ones(0, dtype=torch.bool, device=boxes.device)
    centre = torch.tensor([width, height], dtype=torch.float64, device=boxes.device) / 2
    corners = boxes.double()[:, [0, 1, 2, 1, 2, 3, 0, 3]].view(-1, 4, 2) - centre
    there = corners @ matrix[:, :2].to(boxes.device).T + matrix[:, 2].to(boxes.device) + centre
    hull = torch.cat([there.amin(1), there.amax(1)], dim=1)
    limit = torch.tensor([width, height, width, height], dtype=torch.float64, device=boxes.device)
    clipped = torch.minimum(hull.clamp(min=0), limit)
    kept = _area(clipped) >= _KEPT_AREA * _area(hull)
    return clipped[kept].to(boxes.dtype), kept


def _area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _blur(images: Tensor, sigma: Tensor, largest: float) -> Tensor:
    """Gaussian blur with a sigma (in pixels) per image, borders repeated; two passes of one dimension each."""
    count, channels, height, width = images.shape
    radius = min(max(1, math.ceil(3 * largest)), 15)
    offsets = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
    kernels = torch.exp(-0.5 * (offsets / sigma.clamp(min=1e-3).view(-1, 1)) ** 2)
    kernels = (kernels / kernels.sum(1, keepdim=True)).repeat_interleave(channels, 0).view(count * channels, 1, 1, -1)
    flat = images.reshape(1, count * channels, height, width)
    flat = F.conv2d(F.pad(flat, (radius, radius, 0, 0), mode="replicate"), kernels, groups=count * channels)
    kernels = kernels.transpose(2, 3)
    flat = F.conv2d(F.pad(flat, (0, 0, radius, radius), mode="replicate"), kernels, groups=count * channels)
    return flat.view(count, channels, height, width)


def _colour_matrices(saturation: Tensor, hue: Tensor) -> Tensor:
    """(m, 3, 3) RGB to RGB: the chroma plane turned by `hue` (radians) and scaled by `saturation`; luma stays."""
    to_yiq = _YIQ.to(saturation.device, saturation.dtype)
    turn = torch.zeros(len(hue), 3, 3, dtype=hue.dtype, device=hue.device)
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = saturation * hue.cos()
    turn[:, 1, 2] = -saturation * hue.sin()
    turn[:, 2, 1] = saturation * hue.sin()
    return torch.linalg.inv(to_yiq) @ turn @ to_yiq
