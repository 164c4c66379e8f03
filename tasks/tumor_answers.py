"""What a network of tumour diagnosis answers: its row taken apart, laid on the scan's grid, and made one of a case."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isqrt
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from builder.data import place
from builder.spec import Data
from builder.task import Asked

if TYPE_CHECKING:
    import torch

    from builder.data import Dataset

THRESHOLD = 0.5
"""Chance from which a pixel is inside. It is not chosen on the validation side: the losses aim at a half, the best
value on a few dozen validation scans is mostly luck, and an exported network needs no number beside its weights."""


class Answer(NamedTuple):
    """What is said of one prepared picture: `types` (K,) float32 probabilities, `inside` (H, W) float16 chances."""

    types: np.ndarray
    inside: np.ndarray


def types_of(num_classes: int) -> int:
    """How many type scores there are for so many classes: a single one would tell nothing."""
    return num_classes if num_classes > 1 else 0


def parted(output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The types (B, K) and the outline (B, side, side) of a row (B, K + side * side).

    The side is the largest whose square fits: exact as long as there are at most 2 * side types.
    """
    count = output.shape[-1]
    side = isqrt(count)
    num_types = count - side * side
    return output[:, :num_types], output[:, num_types:].unflatten(1, (side, side))


def seen_of(data: Data, of: int) -> range:
    """Positions of the slices of a scan that the network is shown, each by itself."""
    return range(of) if data.slices == "each" else range(of // 2, of // 2 + 1)


def on_grid(data: Data, answers: Sequence[Any], shape: tuple[int, ...], aspect: float) -> np.ndarray:
    """The chances of the slices of one scan, float32 (S, H, W) on its own grid; 0 where the network saw nothing."""
    slices, height, width = shape
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


def taught_outlines(asked: Asked) -> bool:
    """Whether the run's training scans had outlines at all; assumed where it is not known."""
    counts = asked.fingerprint.get("num_masked")
    return not isinstance(counts, dict) or bool(counts.get("train", 0))


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
    classes: np.ndarray, masks: np.ndarray, masked: np.ndarray, cases: np.ndarray, shows: Callable[[int], bool]
) -> np.ndarray:
    """(B,) bool: the rows that teach their type: not a slice without tumour of a case that has one elsewhere."""
    rows = classes >= 0
    for row in np.flatnonzero(rows & masked):
        if not masks[row].any() and shows(int(cases[row])):
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
