"""What TensorBoard shows beside curves, sparsely and small: how weights and gradients are spread, and how precision and
recall go together. Written as a file when an epoch ends, read by the board, then no longer needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from builder.runs import read_json
from builder.task import Sureness

if TYPE_CHECKING:
    import torch

__all__ = ["read", "trade_off", "wanted", "write"]

MOST = 60  # tensors; of larger networks the first, the last and every few between
SAMPLE = 20_000  # numbers looked at of a tensor, evenly taken
BINS = 30
THRESHOLDS = 65
EPOCHS = 30  # of a run about so many have spreads


def wanted(epoch: int, epochs: int) -> bool:
    """Whether an epoch has spreads."""
    return epoch <= 3 or epoch == epochs or epoch % max(1, epochs // EPOCHS) == 0


def write(path: Path, model: torch.nn.Module, sure: Sureness) -> None:
    """Writes the spreads of the learned weights and their last gradients, and the trade-off of each class."""
    learned = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    picked = [learned[k] for k in np.unique(np.linspace(0, len(learned) - 1, min(MOST, len(learned))).astype(int))]
    spreads: dict[str, Any] = {}
    for name, parameter in picked:
        called = name.removeprefix("layers.")
        spreads[f"weights/{called}"] = spread(parameter)
        if parameter.grad is not None:
            spreads[f"gradients/{called}"] = spread(parameter.grad)
    told = {
        "spreads": {name: found for name, found in spreads.items() if found},
        "trade_off": {str(k): trade_off(*pair).tolist() for k, pair in sure.items()},
    }
    path.write_text(json.dumps(told), encoding="utf-8")


def spread(tensor: torch.Tensor) -> dict[str, Any]:
    """{limits (BINS,) right edges, counts (BINS,), min, max, num, sum, squares} of a tensor; {} where it is not
    finite."""
    flat = tensor.detach().flatten()
    values = flat[:: -(-len(flat) // SAMPLE)].float().cpu().numpy().astype(np.float64)
    if not len(values) or not np.isfinite(values).all():
        return {}
    counts, edges = np.histogram(values, BINS)
    return {
        "limits": [float(f"{v:.5g}") for v in edges[1:]],
        "counts": counts.tolist(),
        "min": float(values.min()),
        "max": float(values.max()),
        "num": len(values),
        "sum": float(values.sum()),
        "squares": float((values**2).sum()),
    }


def trade_off(scores: np.ndarray, true: np.ndarray) -> np.ndarray:
    """(6, THRESHOLDS) float: true and false positives, true and false negatives, precision and recall at thresholds
    from 0 to 1, rising. A score counts from its threshold on; one of -1 (never found) counts at none."""
    limits = np.linspace(0, 1, THRESHOLDS)
    order = np.sort(scores[true.astype(bool)]), np.sort(scores[~true.astype(bool)])
    tp, fp = (len(part) - np.searchsorted(part, limits, side="left") for part in order)
    fn, tn = len(order[0]) - tp, len(order[1]) - fp
    precision = np.divide(tp, tp + fp, out=np.ones(THRESHOLDS), where=tp + fp > 0)
    recall = tp / max(1, len(order[0]))
    return np.stack([tp, fp, tn, fn, precision, recall]).astype(np.float64)


def read(path: Path) -> dict[str, Any]:
    """What `write` wrote: {spreads: {name: spread}, trade_off: {class: rows}}; empty ones where there is none."""
    found = read_json(path) or {}
    return {"spreads": found.get("spreads") or {}, "trade_off": found.get("trade_off") or {}}
