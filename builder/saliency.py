"""Where in a scan does what speaks for a class lie? Three ways to ask a network, each with its own weakness.

All answer about the same score: the class's log-odds against the others (its logit where a scan may have several), and
all keep only what speaks for the class, so that they can be compared. Whether a map says anything about what was
learned is another question (`sanity`).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from builder import task
from builder.predict import Predictor
from builder.spec import Experiment

if TYPE_CHECKING:
    import torch

__all__ = ["METHODS", "Method", "explain", "refused", "score"]


@dataclass(frozen=True)
class Method:
    """A way of asking. `title` and `help` are for people."""

    title: str
    help: str


METHODS = {
    "grad_cam": Method(
        "Grad-CAM",
        "The maps of a late layer, weighed by how much the class depends on each: quick and coarse (Selvaraju et al. "
        "2017).",
    ),
    "occlusion": Method(
        "Covering parts",
        "A grey patch is moved over the scan; where the class loses most, its evidence lies. It needs no look inside, "
        "but a patch is strange to the network, too (Zeiler and Fergus 2014). Of a series or volume a quarter of the "
        "slices is covered at a time.",
    ),
    "integrated_gradients": Method(
        "Integrated gradients",
        "The slopes of the class along the way from an even grey picture to the scan, added up pixel by pixel: fine "
        "and restless (Sundararajan et al. 2017).",
    ),
}
STRIDES = 7  # places of the grey patch along a side
_PATCH = 0.25  # its side, of the picture's
_STEPS = 16  # on the way from grey to the scan
_SMOOTH = 1 / 50  # of the side: the width over which fine maps are smoothed for the eye
_BATCH = 32


def refused(experiment: Experiment, num_classes: int, method: str = "grad_cam") -> str:
    """Why a run cannot be explained like this, in a sentence; "" where it can."""
    kind = task.find(experiment.task)
    if "class" not in kind.learns or num_classes < 2:
        return (
            f"{kind.title} names no classes here, so there is no answer to explain with a map: what it found is drawn "
            "on the scan itself."
        )
    if method != "grad_cam" and experiment.data.fit == "patches":
        return "This network was taught with patches and sees no whole scan: only Grad-CAM can be asked of it."
    return ""


def explain(predictor: Predictor, image: np.ndarray, class_index: int, method: str) -> np.ndarray | None:
    """Where what speaks for a class lies in one prepared image of `spec.Data.shape`: (H, W), of several slices
    (S, H, W), float32 in [0, 1] with a largest value of 1; None where nothing speaks for it.

    Raises:
        KeyError: no such method.
    """
    if method == "grad_cam":
        return predictor.heatmap(image, class_index)
    heat = {"occlusion": _occlusion, "integrated_gradients": _integrated}[method](predictor, image, class_index)
    heat = np.maximum(heat, 0)
    most = float(heat.max(initial=0.0))
    return (heat / most).astype(np.float32) if np.isfinite(most) and most > 0 else None


def score(predictor: Predictor, output: torch.Tensor, class_index: int) -> torch.Tensor:
    """(B,) what speaks for a class in what a network puts out (B, ...): log-odds, or a logit of several labels."""
    import torch

    scores = task.find(predictor.experiment.task).evidence(predictor.experiment, output)
    assert scores is not None, "asked about a network without class scores"
    own = scores[:, class_index]
    if predictor.multi_label:
        return own
    others = torch.cat([scores[:, :class_index], scores[:, class_index + 1 :]], 1)
    return own - others.logsumexp(1)


def _occlusion(predictor: Predictor, image: np.ndarray, class_index: int) -> np.ndarray:
    """(H, W), of a series or volume (S, H, W): mean loss of the score under the patches that cover a place.

    Of several slices a patch covers a quarter, in neighbouring ones: what lies in one of them alone is told from what
    lies in all, and the network still sees the rest of the stack.
    """
    import torch

    data = predictor.experiment.data
    deep = 1 if data.layout == "maps" else predictor.num_slices
    stack = image[None] if data.layout == "maps" else np.moveaxis(image, data.channel_axis, 1)  # (S, C, H, W)
    size = (deep, *image.shape[-2:])
    grey = np.median(stack, axis=(-2, -1), keepdims=True)
    extents = [max(1, round(_PATCH * side)) for side in size]
    # Slices are few and dear: quarters beside one another. Along the picture the patches overlap.
    counts = (-(-deep // extents[0]), STRIDES, STRIDES)
    starts = [
        np.unique(np.rint(np.linspace(0, side - extent, count)).astype(int))
        for side, extent, count in zip(size, extents, counts, strict=True)
    ]
    places = [
        tuple(slice(int(start), int(start) + extent) for start, extent in zip(corner, extents, strict=True))
        for corner in product(*starts)
    ]
    losses: list[float] = []
    step = max(1, _BATCH // predictor.num_slices)
    with torch.inference_mode():
        whole = float(score(predictor, predictor.run(image[None]), class_index)[0])
        for at in range(0, len(places), step):
            covered = []
            for slices, rows, columns in places[at : at + step]:
                row = stack.copy()
                row[slices, :, rows, columns] = grey[slices]
                covered.append(row[0] if data.layout == "maps" else np.moveaxis(row, 1, data.channel_axis))
            losses += (whole - score(predictor, predictor.run(np.stack(covered)), class_index)).tolist()
    sums, times = np.zeros(size), np.zeros(size)
    for place, loss in zip(places, losses, strict=True):
        sums[place] += loss
        times[place] += 1
    heat = sums / np.maximum(times, 1)
    return heat[0] if data.layout == "maps" else heat


def _integrated(predictor: Predictor, image: np.ndarray, class_index: int) -> np.ndarray:
    """(H, W) or (S, H, W): what speaks for the class, pixel by pixel, summed over channels and smoothed for the eye."""
    from scipy.ndimage import gaussian_filter

    maps = _attributed(predictor, image, class_index).sum(predictor.experiment.data.channel_axis)
    sigma = _SMOOTH * max(maps.shape[-2:])
    return np.asarray(gaussian_filter(np.maximum(maps, 0), [0] * (maps.ndim - 2) + [sigma, sigma]))


def _attributed(predictor: Predictor, image: np.ndarray, class_index: int) -> np.ndarray:
    """Integrated gradients of every value of an image, from an even grey picture: they add up to the score's change."""
    import torch

    grey = np.broadcast_to(np.median(image, axis=(-2, -1), keepdims=True), image.shape)
    slopes = np.zeros(image.shape, np.float64)
    step = max(1, _BATCH // 4 // predictor.num_slices)
    shares = (np.arange(_STEPS) + 0.5) / _STEPS
    for start in range(0, _STEPS, step):
        part = shares[start : start + step].reshape(-1, *[1] * image.ndim)
        inputs = predictor.tensor(grey + part * (image - grey)).requires_grad_(True)
        # As for Grad-CAM: without cuDNN recurrent layers go back in eval mode, too.
        with torch.enable_grad(), torch.backends.cudnn.flags(enabled=inputs.ndim == 4):
            told = score(predictor, predictor.net(inputs).float(), class_index).sum()
            (found,) = torch.autograd.grad(told, inputs)
        slopes += found.double().sum(0).cpu().numpy()
    shape = [1] * image.ndim
    shape[predictor.experiment.data.channel_axis] = -1
    return np.asarray((image - grey) / predictor.std.reshape(shape) * slopes / _STEPS)
