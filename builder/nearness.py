"""How like the training scans a scan is, in what the network itself makes of it just before its last layer.

The features that go into the last layer are averaged over places, standardized by the training scans, and compared by
the mean distance to the five nearest training scans of other patients (deep nearest neighbours, Sun et al., ICML 2022).
A last layer knows only what tells its classes apart, and may take an ultrasound for a brain: so the picture itself is
compared in the same way, as 8 x 8 grey values and by how restless it is at four finenesses. The three distances, each
as a multiple of its usual size among the training scans, are averaged.
Every training scan has such a distance, too: the share of them that is nearer says how far out a new scan lies.

A network knows its training scans by heart, so new ones of the very same kind lie farther out than those. What counts
as too far is therefore told by the validation scans: of scans that come as they came, no more than `ALPHA` lie so far
out by chance (conformal p-values: Bates et al., Ann Stat 51:149-178, 2023).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from builder import cutting
from builder.data import Dataset, UnknownDataset
from builder.parting import dataset_of
from builder.predict import Predictor
from builder.scan import Scan

if TYPE_CHECKING:
    import torch

__all__ = ["ALPHA", "FAR", "Nearness", "of_run", "spread", "words"]

ALPHA = 0.05
"""The share of scans like the validation scans that are told as unlike the training."""
FAR = 0.99
"""Without enough validation scans: one that is farther out than this share of the training scans is told so."""
NEIGHBOURS = 5
_MOST_ROWS = 300  # of the training side: enough for a share of 99 %, seconds on a processor
_MOST_OWN = 150  # of the validation side: enough for a share of 5 %
_FEWEST = 20
_BATCH = 32
_SIDE = 8  # of the small picture
_LEVELS = 4  # of fineness, each half the one before
_LEAST = 0.02  # spread of a grey value


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
    own_patients: np.ndarray

    def distance(self, features: np.ndarray) -> float:
        """The mean distance of `features` (F,) to the nearest training scans."""
        apart = _apart(self.rows, (features - self.mean) / self.scale, self.parts)
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


def _apart(rows: np.ndarray, standard: np.ndarray, parts: np.ndarray) -> np.ndarray:
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


def of_run(predictor: Predictor, folder: Path, home: Path) -> Nearness | None:
    """What was kept for these weights in the run's folder, else made now from the training side of its data set.

    None where the data set is gone or has fewer than 20 training scans: then nothing can be said.
    """
    path = folder / "nearness.npz"
    key = predictor.weights_sha256
    try:
        with np.load(path, allow_pickle=False) as kept:
            if str(kept["key"]) == key:
                return Nearness(**{field.name: kept[field.name] for field in fields(Nearness)})
    except (OSError, ValueError, KeyError):
        pass  # not there, of other weights, or cut off while it was written: it is made (again)
    made = _made(predictor, folder, home)
    if made is not None:
        draft = folder / f".nearness.{os.getpid()}.npz"
        np.savez_compressed(draft, key=key, **vars(made))
        os.replace(draft, path)
    return made


def features_of(predictor: Predictor, scan: Scan) -> np.ndarray:
    """(F,) float32: of the scan, the mean over its slices where each is a picture of its own."""
    data = predictor.experiment.data
    slices = range(len(scan.pixels)) if data.slices == "each" else (None,)
    images = [predictor.prepared(scan, k) for k in slices]
    if data.blocks:  # as below
        images = [cutting.middle(image, data.shape[1:]) for image in images]
    elif data.fit == "patches":  # of any size: the middle tells as much, and every scan the same amount
        images = [_middle(image, data.size_px) for image in images]
    found: np.ndarray = _described(predictor, np.stack(images)).mean(0)
    return found


def _middle(image: np.ndarray, side: int) -> np.ndarray:
    """The middle (C, side, side) of a picture, black where it is smaller."""
    height, width = image.shape[-2:]
    top, left = max(0, (height - side) // 2), max(0, (width - side) // 2)
    part = image[..., top : top + side, left : left + side]
    whole = np.zeros((*image.shape[:-2], side, side), image.dtype)
    whole[..., : part.shape[-2], : part.shape[-1]] = part
    return whole


def _made(predictor: Predictor, folder: Path, home: Path) -> Nearness | None:
    data = predictor.experiment.data
    try:
        dataset = dataset_of(folder, home, data.dataset)
    except UnknownDataset:
        return None
    cases = dataset.indices("train", labelled=False)
    if len(cases) < _FEWEST:
        return None
    cases, held_out = spread(cases), spread(dataset.indices("val", labelled=False), _MOST_OWN)
    table = _table(predictor, dataset, cases)
    mean, scale = table.mean(0), table.std(0) + 1e-6 * (1 + np.abs(table).max())
    parts = np.array([table.shape[1] - _SIDE**2 - 2 * _LEVELS, _SIDE**2, 2 * _LEVELS])
    scale[parts[0] :] = np.maximum(scale[parts[0] :], _LEAST)  # a corner that is always black tells little
    table = ((table - mean) / scale).astype(np.float32)
    groups = dataset.groups[cases]
    beside = [table[groups != group] for group in groups]
    apart = [_apart(others, row, parts) for others, row in zip(beside, table, strict=True) if len(others)]
    if len(apart) < _FEWEST:
        return None
    usual = np.median(apart, axis=0) + 1e-9
    mean, scale = mean.astype(np.float32), scale.astype(np.float32)
    own = [_apart(table, (row - mean) / scale, parts) for row in _table(predictor, dataset, held_out)]
    return Nearness(
        rows=table,
        mean=mean,
        scale=scale,
        parts=parts,
        usual=usual,
        distances=np.sort((np.array(apart) / usual).mean(1)),
        own=(np.array(own).reshape(-1, len(parts)) / usual).mean(1),
        own_patients=dataset.patients[held_out],
    )


def spread(cases: np.ndarray, most: int = _MOST_ROWS) -> np.ndarray:
    """At most `most` of them, evenly spread."""
    return cases[np.unique(np.linspace(0, max(0, len(cases) - 1), min(len(cases), most)).astype(int))]


def _table(predictor: Predictor, dataset: Dataset, cases: np.ndarray) -> np.ndarray:
    """(N, F) float32: the features of cases of a data set."""
    data = predictor.experiment.data
    if not len(cases):
        return np.zeros((0, 1), np.float32)  # nothing is asked of it
    if data.fit == "patches":  # every scan has a size of its own
        return np.stack([features_of(predictor, dataset.scan(int(case))) for case in cases])
    prepared, rows = dataset.prepared(data), []
    for case in cases:
        places = prepared.rows_of(np.array([case]))
        images = prepared.rows(places[:: max(1, len(places) // 8)]).astype(np.float32) / np.float32(prepared.unit)
        rows.append(_described(predictor, images).mean(0))
    return np.stack(rows)


def _described(predictor: Predictor, images: np.ndarray) -> np.ndarray:
    """(B, F) float32: what the network makes of prepared images, their grey values, and how restless they are."""
    grey = images.reshape(len(images), -1, *images.shape[-2:]).mean(1)
    return np.concatenate([_features(predictor, images), _thumbnails(grey), _restlessness(grey)], 1).astype(np.float32)


def _thumbnails(grey: np.ndarray) -> np.ndarray:
    """(B, 64): pictures (B, H, W) as 8 x 8 grey values."""
    import torch
    from torch.nn import functional

    small = functional.adaptive_avg_pool2d(torch.from_numpy(np.ascontiguousarray(grey, np.float32))[:, None], _SIDE)
    return small.flatten(1).numpy()


def _restlessness(grey: np.ndarray) -> np.ndarray:
    """(B, 8): the logarithm of the mean step between neighbours, down and across, at four finenesses."""
    told = []
    for _ in range(_LEVELS):
        for axis in (1, 2):
            steps = np.abs(np.diff(grey, axis=axis))
            told.append(np.log(1e-4 + steps.mean((1, 2)) if steps.size else np.full(len(grey), 1e-4)))
        height, width = (max(1, side // 2) for side in grey.shape[1:])
        if min(grey.shape[1:]) >= 2:
            grey = grey[:, : 2 * height, : 2 * width].reshape(len(grey), height, 2, width, 2).mean((2, 4))
    return np.stack(told, 1)


def _features(predictor: Predictor, images: np.ndarray) -> np.ndarray:
    """(B, F) float32: what goes into the network's last layer that learns, averaged over places."""
    import torch

    held: list[torch.Tensor] = []

    def keep(module: Any, inputs: tuple[Any, ...]) -> None:
        held.extend(_tensors(inputs))

    hook = _last(predictor).register_forward_pre_hook(keep)
    step = max(1, _BATCH // predictor.num_slices)
    made = []
    try:
        with torch.inference_mode():
            for start in range(0, len(images), step):
                held.clear()
                part = images[start : start + step]
                predictor.run(part)
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


def _last(predictor: Predictor) -> torch.nn.Module:
    """The last layer of the network that learns something."""
    for node in reversed(predictor.experiment.network):
        module = predictor.net.get_submodule(f"layers.{node.id}")
        if any(True for _ in module.parameters()):
            return module
    return predictor.net.get_submodule(f"layers.{predictor.experiment.network[-1].id}")
