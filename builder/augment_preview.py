"""What augmentation does to one scan of the data set, as pictures: each operation by itself and all of them together,
boxes and outlines moving along; and what each costs, measured."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from builder import cutting
from builder.data import Dataset, pixel_aspect, place, prepare
from builder.parts.images import AUGMENTATIONS, MIXING
from builder.spec import Choice, Data

if TYPE_CHECKING:
    import torch

_SHOWN_PX = 288  # marked pictures are enlarged to at least this, so that a line is thinner than a lesion
_SMALL_PX = 144  # those of single operations
_BATCH, _MOST_VALUES = 16, 2_000_000
_REPEATS = 2
_BOX, _LINE = (255, 176, 32), (64, 220, 255)
_BOTH_WAYS = ("rotate", "zoom", "shift", "shear", "contrast", "brightness", "gamma", "colour")


def preview(
    dataset: Dataset,
    data: Data,
    choices: Sequence[Choice],
    case: int,
    folder: Path,
    *,
    seed: int = 0,
    num: int = 6,
    border: str = "black",
    operations: bool = False,
) -> dict[str, Any]:
    """Writes PNG files into `folder` and says which: of a series or volume the middle slice.

    Args:
        case: position in the data set. num: varied copies. operations: also each operation of the catalog by itself,
            the chosen ones as they are set, the others with their defaults, at the ends of their range.

    Returns, as JSON data: {before, after: [...]} plain pictures of the prepared size; marked: the same names with boxes
        and outlines drawn in, [] where none are known; boxes: how many; left: how many of them in each of `after`;
        operations {name: [pictures]}; mixed {name: {picture, share}}; cost_ms {name of a chosen one: of one scan that
        it falls on}; whole_ms: of one scan with the chosen chances; device, batch: what that was measured with.
    """
    import torch

    from builder.augment import Augment

    image = torch.from_numpy(_prepared(dataset, data, case))
    boxes, mask = _known(dataset, data, case)
    view = _View(folder, data)
    batch = image.expand(num, *image.shape).contiguous()
    complete = [_complete(choice) for choice in choices]
    augment = Augment(complete, data.layout, border)
    varied = augment(
        batch,
        torch.Generator().manual_seed(seed),
        boxes=None if boxes is None else [boxes] * num,
        masks=None if mask is None else mask.expand(num, *mask.shape).contiguous(),
    )
    told: dict[str, Any] = {"before": view.plain("before.png", image), "after": [], "marked": [], "left": []}
    told["boxes"] = 0 if boxes is None else len(boxes)
    known = boxes is not None or mask is not None
    if known:
        told["marked"].append(view.marked("before-marked.png", image, boxes, mask))
    for n, picture in enumerate(varied.images):
        name = f"after-{n + 1:02d}"
        told["after"].append(view.plain(f"{name}.png", picture))
        own = None if varied.boxes is None else varied.boxes[n]
        if known:
            told["marked"].append(
                view.marked(f"{name}-marked.png", picture, own, None if varied.masks is None else varied.masks[n])
            )
        if own is not None:
            told["left"].append(len(own))
    if not operations:
        return told
    chosen = {choice.name: choice for choice in complete}
    told["operations"], told["mixed"] = {}, {}
    for name in AUGMENTATIONS:
        choice = chosen.get(name, _complete(Choice(name=name)))
        if name in MIXING:
            told["mixed"][name] = _mixed(dataset, data, choice, case, image, view, seed)
        else:
            told["operations"][name] = _ends(choice, data, border, image, boxes, mask, view)
    return told | _costs(image, data, border, complete)


def _prepared(dataset: Dataset, data: Data, case: int) -> np.ndarray:
    """A scan as the network sees it: of a volume that is learned from patches the middle one."""
    image = prepare(dataset.scan(case), data)
    return cutting.middle(image, data.shape[1:]) if data.blocks else image


def _complete(choice: Choice) -> Choice:
    return Choice(name=choice.name, params={**AUGMENTATIONS[choice.name].defaults, **choice.params})


def _known(dataset: Dataset, data: Data, case: int) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Boxes (n, 4) and the outline (1, H, W) of a case, in pixels of the prepared picture; None where not known."""
    import torch

    stored = dataset.cases[case]
    laid, middle = place(stored.shape[2], stored.shape[3], data, pixel_aspect(stored)), stored.shape[0] // 2
    boxes, mask = None, None
    found = dataset.boxes(case)
    if found is not None and data.fit != "patches":
        every = data.slices in ("mean", "maximum")
        corners = np.array([(b.x0, b.y0, b.x1, b.y1) for b in found if every or b.slice == middle], np.float64)
        moved = laid.boxes_in(corners.reshape(-1, 4)).clip(0, data.size_px)
        boxes = torch.from_numpy(moved[((moved[:, 2:] - moved[:, :2]) > 0).all(1)]).float()
    outlined = dataset.mask(case)
    if outlined is not None and data.fit != "patches":
        mask = torch.from_numpy(laid.mask_in((outlined[middle] > 0).astype(np.uint8), data.size_px))[None]
    return boxes, mask


class _View:
    """Writes what is shown of a prepared scan: the middle one of several slices."""

    def __init__(self, folder: Path, data: Data) -> None:
        self.folder, self.data = folder, data

    def picture(self, image: torch.Tensor) -> np.ndarray:
        """uint8 (H, W) or (H, W, 3)."""
        values = image.numpy()
        if self.data.layout != "maps":
            values = np.moveaxis(values, self.data.channel_axis, 1)[self.data.num_slices // 2]
        grey = (np.clip(np.nan_to_num(values), 0, 1) * 255).round().astype(np.uint8)
        return grey[0] if len(grey) == 1 else np.moveaxis(grey, 0, -1)

    def plain(self, name: str, image: torch.Tensor, most: int = 0) -> str:
        """As it is; not larger than `most`, where that is given."""
        from PIL import Image

        shown = Image.fromarray(self.picture(image))
        if most and max(shown.size) > most:
            shown.thumbnail((most, most))
        shown.save(self.folder / name)
        return name

    def marked(
        self, name: str, image: torch.Tensor, boxes: torch.Tensor | None, mask: torch.Tensor | None, px: int = _SHOWN_PX
    ) -> str:
        """With boxes and the outline drawn in."""
        from PIL import Image, ImageDraw

        shown = Image.fromarray(self.picture(image)).convert("RGB")
        scale = max(1, -(-px // max(shown.size)))
        shown = shown.resize((shown.width * scale, shown.height * scale), Image.Resampling.NEAREST)
        if mask is not None:
            inside = np.kron(mask[0].numpy() > 0, np.ones((scale, scale), bool))
            line, pixels = _edge(inside, max(1, scale // 2)), np.array(shown)
            pixels[line] = _LINE
            shown = Image.fromarray(pixels)
        pen = ImageDraw.Draw(shown)
        for box in [] if boxes is None else (boxes * scale).tolist():
            x0, y0, x1, y1 = box
            if x1 - x0 > 1 and y1 - y0 > 1:
                pen.rectangle((x0, y0, x1 - 1, y1 - 1), outline=_BOX, width=2)
        shown.save(self.folder / name)
        return name


def _edge(inside: np.ndarray, width: int) -> np.ndarray:
    """The pixels of a region that are at most `width` from its rim."""
    core = inside.copy()
    for _ in range(width):
        around = np.pad(core, 1)
        core = core & around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
    return inside & ~core


def _ends(
    choice: Choice,
    data: Data,
    border: str,
    image: torch.Tensor,
    boxes: torch.Tensor | None,
    mask: torch.Tensor | None,
    view: _View,
) -> list[str]:
    """One operation by itself: at both ends of its range, or half and whole where it goes one way only."""
    import torch

    from builder.augment import Augment

    class Set(Augment):
        """An amount that is set instead of drawn."""

        amount = 0.0

        def _draws(self, count: int, generator: torch.Generator) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
            return {
                n: (torch.ones(count, dtype=torch.bool), torch.full((count, 2), self.amount)) for n in self.settings
            }

    names = []
    for n, amount in enumerate((-1.0, 1.0) if choice.name in _BOTH_WAYS else (0.0, 1.0)):
        if choice.name.startswith("flip") and n:
            break
        operation = Set([choice], data.layout, border)
        operation.amount = amount
        varied = operation(
            image[None].contiguous(),
            torch.Generator().manual_seed(n),
            boxes=None if boxes is None else [boxes],
            masks=None if mask is None else mask[None],
        )
        name = f"operation-{choice.name}-{n}.png"
        own = varied.boxes[0] if varied.boxes else None
        if boxes is not None or mask is not None:
            outline = None if varied.masks is None else varied.masks[0]
            names.append(view.marked(name, varied.images[0], own, outline, _SMALL_PX))
        else:
            names.append(view.plain(name, varied.images[0], 2 * _SMALL_PX))
    return names


def _mixed(
    dataset: Dataset, data: Data, choice: Choice, case: int, image: torch.Tensor, view: _View, seed: int
) -> dict[str, Any]:
    """{picture, share}: the scan mixed with another training scan."""
    import torch

    from builder.augment import Augment

    others = [index for index in dataset.examples("train").tolist() if index != case]
    if not others:
        return {}
    other = torch.from_numpy(_prepared(dataset, data, others[(seed * 7919 + case) % len(others)]))
    augment = Augment([Choice(name=choice.name, params={**choice.params, "probability": 1.0})], data.layout)
    for again in range(seed, seed + 50):  # a partner is drawn: of two scans each is its own half of the time
        mixed = augment.mixed(torch.stack([image, other]), torch.Generator().manual_seed(again))
        if mixed is not None and mixed.partner[0] == 1 and 0.15 < mixed.share < 0.85:
            break
    assert mixed is not None
    return {
        "picture": view.plain(f"operation-{choice.name}-0.png", mixed.images[0], 2 * _SMALL_PX),
        "share": round(mixed.share, 3),
    }


def _costs(image: torch.Tensor, data: Data, border: str, complete: Sequence[Choice]) -> dict[str, Any]:
    """{cost_ms, whole_ms, batch, device}: of one scan, the quicker of two passes over a whole batch."""
    import torch

    from builder.augment import Augment

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    count = max(1, min(_BATCH, _MOST_VALUES // image.numel()))
    batch = image.expand(count, *image.shape).contiguous().to(device)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # beside a training several threads wait for each other more than they compute

    def cost(choices: Sequence[Choice]) -> float:
        augment, times = Augment(choices, data.layout, border), []
        for repeat in range(_REPEATS + 1):
            chance = torch.Generator().manual_seed(repeat)
            began = time.perf_counter()
            varied = augment(batch, chance).images
            augment.mixed(varied, chance)
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
        return round(1000 * min(times[1:]) / count, 4)

    try:
        each = {c.name: cost([Choice(name=c.name, params={**c.params, "probability": 1.0})]) for c in complete}
        whole = cost(complete)
    finally:
        torch.set_num_threads(threads)
    where = torch.cuda.get_device_name() if device.type == "cuda" else "one processor core"
    return {"cost_ms": each, "whole_ms": whole, "batch": count, "device": where}
