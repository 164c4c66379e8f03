"""What a network of lesion detection answers: its rows made boxes, and the boxes of several views made one answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from builder.data import pixel_aspect, place
from builder.task import FoundBox

if TYPE_CHECKING:
    import torch

    from builder.data import Placement
    from builder.scan import Scan
    from builder.task import Asked

LEAST_SCORE = 0.01
"""Boxes that are less sure than this are nothing; the figures need what is unsure, too."""
OVERLAP = 0.5
"""Of two boxes of one class that overlap more than this (IoU) only the surer one stays."""
MOST = 100  # boxes a picture, as COCO counts

_LEAST_PX = 0.5  # of a box on the scan

SLICE_BY_SLICE = (
    "Each slice is an image of its own: a lesion counts once on every slice that it was drawn on, and false alarms are "
    "those of a slice, not of a scan."
)
"""Said beside figures where scans have several images."""

Answer = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Boxes (n, 4) float32 in pixels of the prepared picture, scores (n,) float32, labels (n,) int64, the surest first."""


def finder(model: Any) -> Any:
    """The last layer of a network: the one that knows what its rows mean."""
    return list(model.layers.values())[-1]


def chosen(boxes: torch.Tensor, scores: torch.Tensor, side: int) -> Answer:
    """The boxes of one picture out of all rows: (R, 4) and (R, K); non-maximum suppression within each class."""
    import torch
    from torchvision.ops import batched_nms

    rows, labels = (scores > LEAST_SCORE).nonzero().unbind(1)
    sure = scores[rows, labels]
    if len(sure) > 1000:  # the surest, as torchvision takes them
        sure, order = sure.topk(1000)
        rows, labels = rows[order], labels[order]
    there = boxes[rows]
    real = ((there[:, 2] - there[:, 0]) > 0.5) & ((there[:, 3] - there[:, 1]) > 0.5)
    there, sure, labels = there[real], sure[real], labels[real]
    kept = batched_nms(there.float(), sure, labels, OVERLAP)[:MOST]
    parts = (there[kept].float(), sure[kept].float(), labels[kept].to(torch.int64))
    found = [part.cpu().numpy() for part in parts]
    return found[0], found[1], found[2]


def fused(told: Sequence[Answer]) -> Answer:
    """One answer out of those to several views of a picture, on the picture itself: weighted boxes fusion (Solovyev,
    Image and Vision Computing 2021). Boxes of one class that overlap one another (IoU above `OVERLAP`) become their
    mean, each counting by its score; its score is the sum of the surest in each view over the number of views.
    """
    boxes, scores, labels = (np.concatenate([answer[k] for answer in told]) for k in range(3))
    views = np.repeat(np.arange(len(told)), [len(answer[1]) for answer in told])
    found: list[tuple[np.ndarray, float, int]] = []
    left = np.argsort(-scores, kind="stable")
    while len(left):
        first = left[0]
        alike = (labels[left] == labels[first]) & (_iou(boxes[first], boxes[left]) > OVERLAP)
        alike[0] = True
        group, left = left[alike], left[~alike]
        _, surest = np.unique(views[group], return_index=True)  # sorted by score: the first of each view
        group = group[np.sort(surest)]
        mean = np.average(boxes[group], axis=0, weights=scores[group])
        found.append((mean, float(scores[group].sum() / len(told)), int(labels[first])))
    found = sorted([f for f in found if f[1] > LEAST_SCORE], key=lambda f: -f[1])[:MOST]
    return (
        np.array([f[0] for f in found], np.float32).reshape(-1, 4),
        np.array([f[1] for f in found], np.float32),
        np.array([f[2] for f in found], np.int64),
    )


def on_scan(answer: Answer, where: Placement) -> Answer:
    """The answer to a prepared picture as a user sees it: in pixels of the scan (boxes float64), cut at its edges,
    without what lies in the border around it only."""
    boxes, scores, labels = answer
    edges = np.array(where.source, np.float64).reshape(2, 2)
    cut = where.boxes_out(boxes.astype(np.float64)).clip(np.tile(edges[0], 2), np.tile(edges[1], 2))
    there = (cut[:, 2:] - cut[:, :2] >= _LEAST_PX).all(1)
    return cut[there], scores[there], labels[there]


def shown_boxes(asked: Asked, scan: Scan, answers: Sequence[Answer]) -> list[FoundBox]:
    """The boxes on the scan, the surest first. Those of slices seen as one picture stand on the middle one."""
    height, width = scan.pixels.shape[2:]
    placement = place(height, width, asked.experiment.data, pixel_aspect(scan))
    told, middle = [], len(scan.pixels) // 2
    for index, answer in enumerate(answers):
        boxes, scores, labels = on_scan(answer, placement)
        for (x0, y0, x1, y1), score, label in zip(boxes.tolist(), scores, labels, strict=True):
            at = index if len(answers) > 1 else middle
            told.append(FoundBox(x0, y0, x1, y1, asked.classes[int(label)], float(score), at))
    return sorted(told, key=lambda box: -box.score)


def _iou(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    common = (high - low).clip(0).prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (box[2:] - box[:2]).prod()
    return common / np.maximum(areas - common, 1e-9)
