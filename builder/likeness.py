"""How far a scan lies from those of a training: what the network makes of it, its grey values, how restless it is.

It needs nothing else of ours: exported networks carry this file as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

ALPHA = 0.05
"""The share of scans like the validation scans that are told as unlike the training."""
FAR = 0.99
"""Without enough validation scans: one that is farther out than this share of the training scans is told so."""
NEIGHBOURS = 5
_BATCH = 32
SIDE = 8
"""Of the small picture."""
LEVELS = 4
"""Of fineness, each half the one before."""


@dataclass(frozen=True)
class Nearness:
    """The training scans as a run's last layer sees them.

    Attributes:
        rows: (N, F) float32, standardized: what the network makes of each, its grey values, its restlessness.
        mean, scale: (F,) of the standardization. parts: (3,) how many columns belong to each. usual: (3,) the median
        distance in each.
        distances: (N,) float64, ascending: of each training scan to its nearest ones of other patients.
        own: (V,) float64, of the validation scans to their nearest training scans, in the order of `own_patients` (V,).
    """

    rows: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    parts: np.ndarray
    usual: np.ndarray
    distances: np.ndarray
    own: np.ndarray
    own_patients: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    def distance(self, features: np.ndarray) -> float:
        """The mean distance of `features` (F,) to the nearest training scans."""
        apart = apart_of(self.rows, (features - self.mean) / self.scale, self.parts)
        return float((apart / self.usual).mean())

    def farther_than(self, features: np.ndarray) -> float:
        """The share (0..1) of the training scans that lie nearer to the others than `features` (F,) do."""
        return float(np.searchsorted(self.distances, self.distance(features), side="left") / len(self.distances))

    def unlike(self, distance: float, beside: np.ndarray | None = None) -> bool:
        """Whether a scan lies too far out.

        Args:
            beside: (V,) bool, the validation scans that it is compared with; None: all.
        """
        own = self.own if beside is None else self.own[beside]
        if (len(own) + 1) * ALPHA < 1:  # too few to tell so small a share
            return bool(np.searchsorted(self.distances, distance, side="left") >= FAR * len(self.distances))
        return bool((1 + (own >= distance).sum()) / (1 + len(own)) <= ALPHA)

    def like(self, features: np.ndarray) -> dict[str, Any]:
        """{farther_than (0..1), of (training scans), unlike}, as JSON data."""
        far = self.unlike(self.distance(features))
        return {"farther_than": self.farther_than(features), "of": len(self.distances), "unlike": far}


def apart_of(rows: np.ndarray, standard: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """(3,): the mean distance of `standard` (F,) to its nearest rows (N, F) in each part."""
    squares = (rows - standard) ** 2
    ends = np.cumsum(parts)
    each = [squares[:, end - size : end].mean(1) for size, end in zip(parts, ends, strict=True)]
    return np.array([np.sort(np.sqrt(row))[:NEIGHBOURS].mean() for row in each])


def words(like: dict[str, Any]) -> str:
    """A sentence for a scan that is unlike the training scans (`Nearness.like`); "" for one that is not."""
    if not like["unlike"]:
        return ""
    return (
        "The scan looks unlike the training scans, in itself or to the network: it lies farther out than "
        f"{100 * like['farther_than']:.0f} % of {like['of']} of them. The answer may mean little."
    )


def load(path: Path) -> Nearness:
    """What `np.savez` of a `Nearness` wrote.

    Raises:
        KeyError: it lacks something, as what an earlier version wrote does.
    """
    with np.load(path, allow_pickle=False) as kept:
        there = [f.name for f in fields(Nearness) if f.name in kept.files or f.default_factory is MISSING]
        return Nearness(**{name: kept[name] for name in there})


def middle(image: np.ndarray, side: int) -> np.ndarray:
    """The middle (C, side, side) of a picture, black where it is smaller."""
    height, width = image.shape[-2:]
    top, left = max(0, (height - side) // 2), max(0, (width - side) // 2)
    part = image[..., top : top + side, left : left + side]
    whole = np.zeros((*image.shape[:-2], side, side), image.dtype)
    whole[..., : part.shape[-2], : part.shape[-1]] = part
    return whole


def _thumbnails(grey: np.ndarray) -> np.ndarray:
    """(B, 64): pictures (B, H, W) as 8 x 8 grey values."""
    import torch
    from torch.nn import functional

    small = functional.adaptive_avg_pool2d(torch.from_numpy(np.ascontiguousarray(grey, np.float32))[:, None], SIDE)
    return small.flatten(1).numpy()


def _restlessness(grey: np.ndarray) -> np.ndarray:
    """(B, 8): the logarithm of the mean step between neighbours, down and across, at four finenesses."""
    told = []
    for _ in range(LEVELS):
        for axis in (1, 2):
            steps = np.abs(np.diff(grey, axis=axis))
            told.append(np.log(1e-4 + steps.mean((1, 2)) if steps.size else np.full(len(grey), 1e-4)))
        height, width = (max(1, side // 2) for side in grey.shape[1:])
        if min(grey.shape[1:]) >= 2:
            grey = grey[:, : 2 * height, : 2 * width].reshape(len(grey), height, 2, width, 2).mean((2, 4))
    return np.stack(told, 1)


def described(
    images: np.ndarray, layer: torch.nn.Module, run: Callable[[np.ndarray], object], num_slices: int = 1
) -> np.ndarray:
    """(B, F) float32: what the network makes of prepared images, their grey values, and how restless they are.

    Args:
        layer: the network's last one that learns: told is what goes into it, averaged over places. run: asks the
            network about a part of the images. num_slices: of each image, so that no part is too large.
    """
    grey = images.reshape(len(images), -1, *images.shape[-2:]).mean(1)
    inner = _features(images, layer, run, num_slices)
    return np.concatenate([inner, _thumbnails(grey), _restlessness(grey)], 1).astype(np.float32)


def _features(
    images: np.ndarray, layer: torch.nn.Module, run: Callable[[np.ndarray], object], num_slices: int
) -> np.ndarray:
    """(B, F) float32: what goes into the layer, averaged over places."""
    import torch

    held: list[torch.Tensor] = []

    def keep(module: Any, inputs: tuple[Any, ...]) -> None:
        held.extend(_tensors(inputs))

    hook = layer.register_forward_pre_hook(keep)
    step = max(1, _BATCH // num_slices)
    made = []
    try:
        with torch.inference_mode():
            for start in range(0, len(images), step):
                held.clear()
                part = images[start : start + step]
                run(part)
                made.append(torch.cat([_pooled(t, len(part)) for t in held], 1).cpu().numpy())
    finally:
        hook.remove()
    return np.concatenate(made).astype(np.float32)


def _tensors(inputs: Any) -> list[torch.Tensor]:
    import torch

    if isinstance(inputs, torch.Tensor):
        return [inputs]
    return [t for part in inputs for t in _tensors(part)] if isinstance(inputs, tuple | list) else []


def _pooled(values: torch.Tensor, batch: int) -> torch.Tensor:
    """(B, F): maps averaged over height and width, all else one after the other."""
    flat = values.float()
    if flat.ndim >= 4:
        flat = flat.mean((-2, -1))
    return flat.reshape(batch, -1)
