"""What a network of tumour diagnosis answers: its row taken apart, laid on the scan's grid, and made one of a case."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from builder import cutting, voxels
from builder.data import place
from builder.spec import Data
from builder.targets import Targets

if TYPE_CHECKING:
    import torch

    from builder.data import Dataset

THRESHOLD = 0.5
"""Chance from which a pixel is inside. It is not chosen on the validation side: the losses aim at a half, the best
value on a few dozen validation scans is mostly luck, and an exported network needs no number beside its weights."""


class Answer(NamedTuple):
    """What is said of one prepared picture, or volume: `types` (K,) float32 probabilities, `inside` (H, W) or (D, H, W)
    float16 chances."""

    types: np.ndarray
    inside: np.ndarray


def types_of(num_classes: int) -> int:
    """How many type scores there are for so many classes: a single one would tell nothing."""
    return num_classes if num_classes > 1 else 0


def grid_of(data: Data) -> tuple[int, ...]:
    """(H, W) of a prepared picture, (D, H, W) of a patch of a volume: where an outline is told."""
    return data.shape[1:]


def parted(output: torch.Tensor, grid: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """The types (B, K) and the outline (B, *grid) of a row (B, K + places of the grid)."""
    num_types = output.shape[-1] - prod(grid)
    return output[:, :num_types], output[:, num_types:].unflatten(1, tuple(grid))


def masks_of(targets: Targets, rows: slice) -> np.ndarray:
    """The outlines that rows of what is judged should have: uint8 (n, H, W), of patches of volumes (n, D, H, W)."""
    if targets.masks is not None:
        return targets.masks[rows]
    assert targets.corners is not None
    return targets.masks_at(np.arange(len(targets))[rows], targets.corners[rows])


def shown(train: Targets) -> np.ndarray:
    """(N,) bool: which rows show any of their outline; of patches of volumes, which may."""
    if train.masks is not None:
        found: np.ndarray = np.asarray(train.masks.any((1, 2)))
        return found
    return np.array([case in train.outlines and bool(train.outlines[case].voxels.any()) for case in train.cases], bool)


def joined(pieces: Iterable[tuple[Sequence[int], Any]], size: Sequence[int], outlined: bool) -> Answer:
    """The answer to a volume out of those to its patches: chances blended where patches overlap, types as `of_case`
    makes them one."""
    types, weights = [], []

    def chances() -> Iterator[tuple[Sequence[int], np.ndarray]]:
        for corner, answer in pieces:
            types.append(answer.types.astype(np.float64))
            weights.append(float((answer.inside >= THRESHOLD).sum()) if outlined else 1.0)
            yield corner, answer.inside

    inside = cutting.blended(chances(), size).astype(np.float16)
    shares = np.array(weights if any(weights) else [1.0] * len(weights))
    return Answer(((shares[:, None] * np.stack(types)).sum(0) / shares.sum()).astype(np.float32), inside)


def seen_of(data: Data, of: int) -> range:
    """Positions of the slices of a scan that the network is shown: each by itself, of a volume all."""
    return range(of) if data.slices == "each" or data.blocks else range(of // 2, of // 2 + 1)


def on_grid(data: Data, answers: Sequence[Any], shape: tuple[int, ...], aspect: float) -> np.ndarray:
    """The chances of the slices of one scan, float32 (S, H, W) on its own grid; 0 where the network saw nothing."""
    slices, height, width = shape
    if data.blocks:
        return voxels.chances_out(answers[0].inside, shape)
    where = place(height, width, data, aspect)
    chance = np.zeros(shape, np.float32)
    for index, answer in zip(seen_of(data, slices), answers, strict=True):
        chance[index] = where.map_out(answer.inside.astype(np.float32), height, width)
    return chance


def of_case(answers: Sequence[Any], outlined: bool = True) -> np.ndarray:
    """The types (K,) of a case from its slices: their mean, each counting as much as is outlined on it.

    A slice beside the tumour shows nothing of its type, and none such has taught it (see `teaching`); asked all the
    same, it would drown the few that do. Where nothing is outlined, or no outline was learned, all count alike. (The
    surest slice alone would be the largest of many errors.)
    """
    types = np.stack([answer.types for answer in answers]).astype(np.float64)
    weights = np.array([(answer.inside >= THRESHOLD).sum() if outlined else 1 for answer in answers], np.float64)
    weights = weights if weights.any() else np.ones(len(answers))
    return (weights[:, None] * types).sum(0) / weights.sum()


class Showing:
    """Answers for a case whether its mask shows anything on any slice; each is read once."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.known: dict[int, bool] = {}

    def __call__(self, case: int) -> bool:
        if case not in self.known:
            mask = self.dataset.mask(case)
            self.known[case] = mask is not None and bool(mask.any())
        return self.known[case]


def teaching(
    classes: np.ndarray, showing: np.ndarray, masked: np.ndarray, cases: np.ndarray, shows: Callable[[int], bool]
) -> np.ndarray:
    """(B,) bool: the rows that teach their type: not a slice or patch without tumour of a case that has one elsewhere.

    Args:
        showing: (B,) bool, which show any of their outline.
    """
    rows = classes >= 0
    for row in np.flatnonzero(rows & masked):
        if not showing[row] and shows(int(cases[row])):
            rows[row] = False
    return rows


def type_scores(chances: np.ndarray, given: np.ndarray) -> dict[str, float]:
    """auc (mean over the types, one against the rest) and balanced_accuracy; what is undefined is left out."""
    from sklearn.metrics import roc_auc_score

    if not np.isfinite(chances).all():
        return {}
    true = given[:, None] == np.arange(chances.shape[1])
    areas = [roc_auc_score(t, c) for t, c in zip(true.T, chances.T, strict=True) if t.any() and not t.all()]
    answered = chances.argmax(1)
    recalls = [(answered[t] == k).mean() for k, t in enumerate(true.T) if t.any()]
    found = {"balanced_accuracy": float(np.mean(recalls))}
    return found | ({"auc": float(np.mean(areas))} if areas else {})
