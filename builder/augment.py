"""Augmentation: a batch of scans varied at random, on the device where it lies, boxes and masks moving with it.

All geometry of one image (flips, shear, zoom, rotation, shift) is composed into ONE 2 x 3 matrix, an elastic field is
added to where that points, and the image is resampled ONCE, so nothing blurs twice and only one pass over the pixels is
paid. Grey values change after that, always in the same order (see `shading`). All slices of a series or volume move by
the same matrix and field and change their grey values alike. Mixing two scans of a batch comes last, by
`Augment.mixed`, where a task can teach a part of one answer and a part of another.

Every random number comes from one generator that the caller seeds by (seed, epoch, step): the same step of the same run
is varied in the same way on every machine, in every process, after every restart.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from builder import shading

KEPT_AREA = 0.2
"""A box of which less than this share is left in the picture no longer shows its finding."""
BORDERS = {"black": "zeros", "edge": "border", "mirror": "reflection"}
"""What lies outside the picture, and how torch calls it."""
FLIPS = ("flip_horizontal", "flip_vertical")
RESAMPLED = ("shear", "zoom", "rotate", "shift", "elastic")
"""Geometry that falls between pixels; flips do not."""
MIXING = ("mixup", "cutmix")
_EDGE_POINTS = 5  # on each side of a box, where tissue bends
_BACKWARDS = 12  # steps of the fixed point; each is wrong by at most 0.4 / 0.4886 of the one before


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


class Mixed(NamedTuple):
    """A batch of which each scan holds a part of another one.

    images: (B, ...). partner: (B,) int64 on the CPU, whose part it holds. share: how much of its own is left, 0..1.
    """

    images: Tensor
    partner: Tensor
    share: float


class Augment:
    """The chosen augmentations as one callable; with nothing chosen it hands back what it was given, untouched.

    Args:
        choices: augmentations with the names and settings of `parts.images.AUGMENTATIONS`; each has a `probability`
            per image. Angles in degrees, shifts as fractions of the picture, grey values as fractions of [0, 1].
        layout: of one image: "maps" (C, H, W), "series" (S, C, H, W) or "volume" (C, D, H, W). One image, whatever its
            layout, is varied as one.
        border: what comes in from outside the picture: one of `BORDERS`.

    Raises:
        ValueError: for a name, a layout or a border that is not one of ours.
    """

    NAMES = (*FLIPS, *RESAMPLED, *shading.NAMES, *MIXING)

    def __init__(self, choices: Iterable[Chosen] = (), layout: str = "maps", border: str = "black") -> None:
        if layout not in ("maps", "series", "volume"):
            raise ValueError(f"There is no layout {layout!r}; there are maps, series and volume.")
        if border not in BORDERS:
            raise ValueError(f"There is no border {border!r}; there are {', '.join(BORDERS)}.")
        self.layout, self.border = layout, border
        self.settings: dict[str, dict[str, float]] = {}
        self.mixing: dict[str, dict[str, float]] = {}
        for choice in choices:
            if choice.name not in self.NAMES:
                raise ValueError(f"There is no augmentation {choice.name!r}; there are {', '.join(self.NAMES)}.")
            place = self.mixing if choice.name in MIXING else self.settings
            place[choice.name] = {key: float(value) for key, value in choice.params.items()}

    def __call__(
        self,
        images: Tensor,
        generator: torch.Generator,
        boxes: Sequence[Tensor] | None = None,
        masks: Tensor | None = None,
    ) -> Augmented:
        """Vary a batch; what is mixed of several scans is left to `mixed`.

        Args:
            images: (B, C, H, W), (B, S, C, H, W) or (B, C, D, H, W), as `layout` says, float in [0, 1], on any device;
                never changed in place.
            generator: a CPU generator; all random numbers come from it, or from one seeded by it (noise on a GPU).
            boxes: per image (n, 4) float, x0 y0 x1 y1 in pixels, the picture spanning 0..W and 0..H.
            masks: (B, 1, H, W) of any type; resampled to the nearest pixel, so labels stay labels.

        Images are resampled bilinearly; what lies outside the picture is as `border` says, in images and masks.
        A box becomes the hull of its moved outline, cut at the border, and is dropped (see `kept`) when less than a
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
        chance, (height, width) = self._draws(len(images), generator), images.shape[-2:]
        moves = self._moves(chance, height, width, generator)
        if moves is not None:
            images = moves.images(images, "bilinear")
            masks = None if masks is None else moves.images(masks, "nearest")
            if moved is not None:
                moved, kept = moves.boxes(moved)
        images = shading.shade(images, chance, self.settings, generator, planes)
        return Augmented(images if images.shape == shape else images.view(shape), moved, masks, kept)

    def moves(self, count: int, height: int, width: int, generator: torch.Generator) -> Moves | None:
        """Where `count` pictures of this size would be moved to, without any picture; None where nothing moves."""
        return self._moves(self._draws(count, generator), height, width, generator)

    def mixed(self, images: Tensor, generator: torch.Generator) -> Mixed | None:
        """The batch with each scan holding a part of another one, where chance says so for this batch; else None.

        mixup (Zhang et al., ICLR 2018): share * own + (1 - share) * other, share drawn from Beta(strength, strength).
        cutmix (Yun et al., ICCV 2019): a rectangle of that share of the area is taken over from the other. One share
        for the whole batch, as in both papers. With one scan there is nothing to mix.
        """
        if not self.mixing or len(images) < 2:
            return None
        chances = torch.rand(len(MIXING) + 1, generator=generator).tolist()
        fallen = [n for k, n in enumerate(MIXING) if n in self.mixing and chances[k] < self.mixing[n]["probability"]]
        partner = torch.randperm(len(images), generator=generator)
        dice = random.Random(int(torch.randint(2**62, (), generator=generator)))
        if not fallen:
            return None
        name = fallen[int(chances[-1] * len(fallen))]
        strength = max(self.mixing[name]["strength"], 1e-3)
        share = dice.betavariate(strength, strength)
        others = images[partner.to(images.device)]
        if name == "mixup":
            return Mixed(torch.lerp(others, images, share), partner, share)
        height, width = images.shape[-2:]
        side = math.sqrt(1 - share)
        x, y = dice.random() * width, dice.random() * height
        left, right = (min(width, max(0, round(x + way * side * width / 2))) for way in (-1, 1))
        top, bottom = (min(height, max(0, round(y + way * side * height / 2))) for way in (-1, 1))
        images = images.clone()
        images[..., top:bottom, left:right] = others[..., top:bottom, left:right]
        return Mixed(images, partner, 1 - (bottom - top) * (right - left) / (height * width))

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

    def _moves(self, chance: shading.Chance, height: int, width: int, generator: torch.Generator) -> Moves | None:
        if not any(name in self.settings for name in (*RESAMPLED, *FLIPS)):
            return None
        matrices = self._matrices(chance, height, width)
        between = torch.zeros(len(matrices), dtype=torch.bool)
        for name in RESAMPLED:
            if name in chance:
                between |= chance[name][0]
        bend = None
        if "elastic" in chance:
            fallen, amounts = chance["elastic"]
            setting = self.settings["elastic"]
            cells = max(2, round(1 / setting["spacing"]))
            controls = torch.rand(len(matrices), 2, cells + 3, cells + 3, generator=generator).double() * 2 - 1
            size = torch.tensor([width, height], dtype=torch.float64).view(1, 2, 1, 1) / cells
            strength = fallen.double() * (amounts[:, 0].double() + 1) / 2 * setting["amount"]
            bend = controls * size * strength.view(-1, 1, 1, 1)
        flips = {name: chance[name][0] for name in FLIPS if name in chance}
        return Moves(matrices, flips, between, bend, (height, width), BORDERS[self.border])

    def _matrices(self, chance: shading.Chance, height: int, width: int) -> Tensor:
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


class Moves(NamedTuple):
    """Where the pictures of a batch go.

    matrices: (B, 2, 3) float64, in pixels from the centre, x before y. flips: per flip (B,) bool. between: (B,) bool,
    which are resampled. bend: (B, 2, n, n) float64, control points of an elastic field, in pixels; None without one.
    size: height and width. border: as torch's grid_sample calls it. A pixel q of the result shows the place p of the
    picture for which matrix(p) = q + field(q).
    """

    matrices: Tensor
    flips: Mapping[str, Tensor]
    between: Tensor
    bend: Tensor | None
    size: tuple[int, int]
    border: str = "zeros"

    def images(self, images: Tensor, mode: str) -> Tensor:
        """(B, P, H, W) moved: resampled where `between` says so, elsewhere flipped exactly."""
        resampled = self.between.nonzero()[:, 0]
        moved = images
        for name, axis in (("flip_horizontal", -1), ("flip_vertical", -2)):
            if name in self.flips and bool((self.flips[name] & ~self.between).any()):
                meant = (self.flips[name] & ~self.between).to(images.device).view(-1, 1, 1, 1)
                moved = torch.where(meant, moved.flip(axis), moved)
        if not len(resampled):
            return moved
        bend = None if self.bend is None else self.bend[resampled]
        if len(resampled) == len(images):
            return _resample(images, self.matrices, bend, mode, self.border)
        rows = resampled.to(images.device)
        part = _resample(images[rows], self.matrices[resampled], bend, mode, self.border)
        return moved.index_copy(0, rows, part)

    def boxes(self, boxes: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Per image (n, 4) moved, as (m, 4) of those still visible, and per image (n,) bool telling which."""
        counts = [len(b) for b in boxes]
        if not sum(counts):
            return list(boxes), [torch.ones(0, dtype=torch.bool, device=b.device) for b in boxes]
        every = torch.cat(list(boxes))
        which = torch.arange(len(boxes)).repeat_interleave(torch.tensor(counts))
        hull = self.hulls(every.detach().cpu().double(), which)
        height, width = self.size
        limit = torch.tensor([width, height, width, height], dtype=torch.float64)
        clipped = torch.minimum(hull.clamp(min=0), limit)
        kept = _area(clipped) >= KEPT_AREA * _area(hull)
        there, known = clipped.to(every.device, every.dtype).split(counts), kept.to(every.device).split(counts)
        return [box[keep] for box, keep in zip(there, known, strict=True)], list(known)

    def hulls(self, boxes: Tensor, which: Tensor) -> Tensor:
        """(n, 4) float64: what boxes (n, 4) of the pictures `which` (n,) become, also where that is outside."""
        if self.bend is None:
            outline = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].view(-1, 4, 2)
        else:  # sides bend, too
            steps = torch.linspace(0, 1, _EDGE_POINTS, dtype=torch.float64)
            zero, one = torch.zeros_like(steps), torch.ones_like(steps)
            x, y = torch.cat([steps, steps, zero, one]), torch.cat([zero, one, steps, steps])
            sides = boxes[:, 2:] - boxes[:, :2]
            outline = boxes[:, None, :2] + sides[:, None] * torch.stack([x, y], 1)
        there = self.points(outline, which)
        return torch.cat([there.amin(1), there.amax(1)], dim=1)

    def points(self, points: Tensor, which: Tensor) -> Tensor:
        """(n, k, 2) float64: where points (n, k, 2), x before y in pixels, of the pictures `which` (n,) go."""
        height, width = self.size
        centre = torch.tensor([width, height], dtype=torch.float64) / 2
        matrices = self.matrices[which]
        there = (points.double() - centre) @ matrices[:, :, :2].mT + matrices[:, None, :, 2] + centre
        if self.bend is None:
            return there
        bent = self.bend[which].flatten(1).any(1)  # elastic falls on a few only
        if not bent.any():
            return there
        bend, start = self.bend[which[bent]], there[bent]
        moved = start
        for _ in range(_BACKWARDS):
            moved = start - _bent(bend, moved, self.size)
        there[bent] = moved
        return there


def _resample(images: Tensor, matrices: Tensor, bend: Tensor | None, mode: str, border: str) -> Tensor:
    """One resampling by (B, 2, 3) matrices in pixels from the centre and an elastic field. Type and device stay."""
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
    if bend is not None:
        # The field's control points go through the inverse before they are spread over the picture: a few numbers.
        inverse = torch.stack([torch.stack([a, b], 1) * 2 / width, torch.stack([c, d], 1) * 2 / height], 1)
        controls = torch.einsum("bij,bjkl->bikl", inverse, bend).to(real.device, real.dtype)
        cells = bend.shape[-1] - 3
        down_weights = _spline((torch.arange(height, dtype=torch.float64) + 0.5) / height * cells, cells)
        across = _spline((torch.arange(width, dtype=torch.float64) + 0.5) / width * cells, cells)
        field = down_weights.to(real.device, real.dtype) @ controls @ across.to(real.device, real.dtype).T
        grid += field.permute(0, 2, 3, 1)
    return F.grid_sample(real, grid, mode=mode, padding_mode=border, align_corners=False).to(images.dtype)


def _spline(places: Tensor, cells: int) -> Tensor:
    """(n, cells + 3): the weights of cubic B-splines at `places` (n,), in cells; outside of the picture as at its
    border (Rueckert et al., IEEE TMI 1999)."""
    distance = (places.clamp(0, cells)[:, None] - torch.arange(-1, cells + 2, dtype=places.dtype)).abs()
    near, far = 2 / 3 - distance**2 + distance**3 / 2, (2 - distance).clamp(min=0) ** 3 / 6
    return torch.where(distance < 1, near, far)


def _bent(bend: Tensor, points: Tensor, size: tuple[int, int]) -> Tensor:
    """(n, k, 2): the field of control points (n, 2, c, c) at points (n, k, 2) in pixels."""
    cells = bend.shape[-1] - 3
    across = _spline(points[..., 0].flatten() / size[1] * cells, cells).view(*points.shape[:2], -1)
    down = _spline(points[..., 1].flatten() / size[0] * cells, cells).view(*points.shape[:2], -1)
    return torch.einsum("nkr,ncrs,nks->nkc", down, bend, across)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def turned(images: Tensor, degrees: float) -> Tensor:
    """Pictures (..., H, W) turned counter-clockwise about their middle, bilinear, black outside."""
    angle = torch.tensor([math.radians(degrees)], dtype=torch.float64)
    zero = torch.zeros_like(angle)
    matrix = torch.stack(
        [torch.stack([angle.cos(), angle.sin(), zero], 1), torch.stack([-angle.sin(), angle.cos(), zero], 1)], 1
    )
    return _resample(images.reshape(1, -1, *images.shape[-2:]), matrix, None, "bilinear", "zeros").view(images.shape)
