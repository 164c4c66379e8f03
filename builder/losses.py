"""What a wrong answer costs, where that is more than torch's own cross-entropy: of classes, and of outlines.

Losses of outlines are modules `(logits (N, 1, H, W), masks (N, 1, H, W) of 0 and 1) -> scalar` over all their scans at
once; their settings are those of `parts.training.LOSSES`. The overlaps are of segmentation-models-pytorch (Iakubovskii
2019, MIT), taken over the whole batch: a scan without a tumour has no overlap of its own, yet every wrong pixel on it
counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from builder.parts.training import LOSSES

if TYPE_CHECKING:
    from builder.spec import Choice, Training

ClassLoss = Callable[[Tensor, Tensor], Tensor]
"""(scores (B, K), labels (B,) int64 or (B, L) float) -> scalar."""

MOST_WEIGHT = 100.0
"""Largest weight of the positive cases of a label."""
_SMOOTH = 1.0  # pixels: keeps an overlap of next to nothing from jumping


def focused(losses: Tensor, sure: Tensor, gamma: float) -> Tensor:
    """Each of `losses` times (1 - sure) ^ gamma (Lin et al., ICCV 2017).

    A power below 1 has no finite slope at 0, and the slope of what is entirely sure would be no number: there it is 0.

    Args:
        sure: the probability of what is true, of the same shape.
    """
    return losses * (1 - sure).clamp(min=torch.finfo(sure.dtype).tiny) ** gamma


# -- classes ----------------------------------------------------------------------------------------------------------


def of_classes(training: Training, train_labels: np.ndarray, num_classes: int, multi_label: bool) -> ClassLoss:
    """Cross-entropy (softmax, or one binary cross-entropy a class) or focal loss, with label smoothing and class
    weights as asked.

    Weights: N / (K * cases of the class), so that they average 1 over the cases; for several labels the weight of a
    positive case is negatives / positives, at most 100. Label smoothing: Szegedy et al., CVPR 2016.

    Args:
        train_labels: (N,) int64 classes, or (N, L) of 0 and 1: what the weights are counted on.
    """
    smoothing = training.label_smoothing
    gamma = float(_settings(training.loss)["gamma"]) if training.loss.name == "focal" else 0.0
    weight = None
    if not multi_label:
        counts = np.bincount(train_labels, minlength=num_classes)
        if training.balance == "weights":
            weight = torch.tensor(len(train_labels) / (num_classes * np.maximum(counts, 1)), dtype=torch.float32)
        if not gamma:
            return nn.CrossEntropyLoss(weight=weight, label_smoothing=smoothing)
        return Focal(gamma, weight, smoothing)
    if training.balance == "weights":
        positives = train_labels.sum(0).astype(np.float64)
        ratio = np.clip((len(train_labels) - positives) / np.maximum(positives, 1), 1 / MOST_WEIGHT, MOST_WEIGHT)
        weight = torch.tensor(ratio, dtype=torch.float32)
    return Labels(gamma, weight, smoothing)


class Focal(nn.Module):
    """Cross-entropy times (1 - probability of the true class) ^ gamma (Lin et al., ICCV 2017).

    Args:
        weight: (K,) of the classes. smoothing: share of each label spread over all classes.
    """

    PARTS = (focused,)  # an export writes its source, too
    weight: Tensor | None

    def __init__(self, gamma: float = 2.0, weight: Tensor | None = None, smoothing: float = 0.0):
        super().__init__()
        self.gamma, self.smoothing = gamma, smoothing
        self.register_buffer("weight", weight)

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        """(B, K) and (B,) int64 -> scalar."""
        each = functional.cross_entropy(scores, labels, self.weight, label_smoothing=self.smoothing, reduction="none")
        sure = scores.softmax(1).gather(1, labels[:, None])[:, 0]
        counted = 1.0 if self.weight is None else self.weight[labels].sum() / len(labels)
        return focused(each, sure, self.gamma).mean() / counted


class Labels(nn.Module):
    """Binary cross-entropy of several labels a scan, focal where `gamma` is not 0.

    Args:
        weight: (L,) of the positive cases. smoothing: share of each label drawn to a half.
    """

    PARTS = (focused,)
    weight: Tensor | None

    def __init__(self, gamma: float = 0.0, weight: Tensor | None = None, smoothing: float = 0.0):
        super().__init__()
        self.gamma, self.smoothing = gamma, smoothing
        self.register_buffer("weight", weight)

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        """(B, L) and (B, L) of 0 and 1 -> scalar."""
        soft = labels.float() * (1 - self.smoothing) + self.smoothing / 2
        if not self.gamma:
            return functional.binary_cross_entropy_with_logits(scores, soft, pos_weight=self.weight)
        each = functional.binary_cross_entropy_with_logits(scores, soft, pos_weight=self.weight, reduction="none")
        sure = torch.where(labels > 0.5, scores.sigmoid(), (-scores).sigmoid())
        return focused(each, sure, self.gamma).mean()


# -- outlines ---------------------------------------------------------------------------------------------------------


class DiceCrossEntropy(nn.Module):
    """dice * (1 - Dice) + (1 - dice) * binary cross-entropy. Dice: Milletari et al., 3DV 2016, of the whole batch.

    Args:
        type_weight: how much a wrong type counts beside it; for whoever puts the two together.
    """

    def __init__(self, dice: float = 0.5, type_weight: float = 0.5):
        super().__init__()
        from segmentation_models_pytorch.losses import DiceLoss

        self.share, self.type_weight = dice, type_weight
        self.overlap = DiceLoss("binary", smooth=_SMOOTH)

    def pixels(self, logits: Tensor, masks: Tensor) -> Tensor:
        """The part that counts every pixel by itself."""
        return functional.binary_cross_entropy_with_logits(logits, masks)

    def forward(self, logits: Tensor, masks: Tensor) -> Tensor:
        """See the module."""
        masks = masks.to(logits.dtype)
        return self.share * self.overlap(logits, masks) + (1 - self.share) * self.pixels(logits, masks)


class DiceFocal(DiceCrossEntropy):
    """dice * (1 - Dice) + (1 - dice) * focal loss of the pixels (Lin et al., ICCV 2017)."""

    PARTS = (focused,)

    def __init__(self, dice: float = 0.5, gamma: float = 2.0, type_weight: float = 0.5):
        super().__init__(dice, type_weight)
        self.gamma = gamma

    def pixels(self, logits: Tensor, masks: Tensor) -> Tensor:
        """The part that counts every pixel by itself."""
        each = functional.binary_cross_entropy_with_logits(logits, masks, reduction="none")
        return focused(each, (-each).exp(), self.gamma).mean()


class Tversky(nn.Module):
    """(1 - TP / (TP + alpha FP + beta FN)) ^ gamma over the batch (Salehi et al. 2017; Abraham and Khan 2019).

    A batch without a single tumour teaches nothing by it.
    """

    def __init__(self, alpha: float = 0.3, beta: float = 0.7, gamma: float = 1.0, type_weight: float = 0.5):
        super().__init__()
        from segmentation_models_pytorch.losses import TverskyLoss

        self.type_weight = type_weight
        self.overlap = TverskyLoss("binary", smooth=_SMOOTH, alpha=alpha, beta=beta, gamma=gamma)

    def forward(self, logits: Tensor, masks: Tensor) -> Tensor:
        """See the module."""
        return self.overlap(logits, masks.to(logits.dtype))


class Lovasz(nn.Module):
    """The Lovasz hinge (Berman et al., CVPR 2018): a convex bound of 1 - Jaccard, over the batch or scan by scan."""

    def __init__(self, per_scan: bool = False, type_weight: float = 0.5):
        super().__init__()
        from segmentation_models_pytorch.losses import LovaszLoss

        self.type_weight = type_weight
        self.hinge = LovaszLoss("binary", per_image=per_scan)

    def forward(self, logits: Tensor, masks: Tensor) -> Tensor:
        """See the module."""
        return self.hinge(logits, masks.to(logits.dtype))


def of_outlines(choice: Choice) -> nn.Module:
    """The loss of outlines that was chosen, with its `type_weight`; Dice and cross-entropy for the usual one."""
    name = "dice_ce" if choice.name == "usual" else choice.name
    return LOSSES[name].load()(**_settings(choice.model_copy(update={"name": name})))


def _settings(choice: Choice) -> dict[str, float]:
    part = LOSSES[choice.name]
    return {p.name: p.parse(choice.params.get(p.name, p.default)) for p in part.params}  # type: ignore[misc]
