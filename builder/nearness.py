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

Scans of the data set are compared as the task poses them (`Task.pose`): a network that learned to mend scans that were
made poor has met poor ones, and it is poor ones that it is for.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from builder import cutting, likeness, task
from builder.data import Dataset, UnknownDataset
from builder.likeness import ALPHA, FAR, LEVELS, SIDE, Nearness, apart_of, middle, words
from builder.parting import dataset_of
from builder.predict import Predictor
from builder.scan import Scan
from builder.targets import Target

__all__ = ["ALPHA", "FAR", "Nearness", "last_layer", "of_run", "spread", "words"]

_MOST_ROWS = 300  # of the training side: enough for a share of 99 %, seconds on a processor
_MOST_OWN = 150  # of the validation side: enough for a share of 5 %
_FEWEST = 20
_LEAST = 0.02  # spread of a grey value


def of_run(predictor: Predictor, folder: Path, home: Path) -> Nearness | None:
    """What was kept for these weights in the run's folder, else made now from the training side of its data set.

    None where the data set is gone or has fewer than 20 training scans: then nothing can be said.
    """
    path = folder / "nearness.npz"
    poor = predictor.experiment.data.degrade.name
    # Of runs that learn from scans made poor, what an earlier version wrote compares with the good ones.
    key = predictor.weights_sha256 if poor == "none" else f"{predictor.weights_sha256} {poor}"
    try:
        with np.load(path, allow_pickle=False) as kept:
            known = str(kept["key"]) == key
        if known:
            return likeness.load(path)
    except (OSError, ValueError, KeyError):
        pass  # not there, of other weights, of an earlier version, or cut off while it was written: it is made (again)
    made = _made(predictor, folder, home)
    if made is not None:
        draft = folder / f".nearness.{os.getpid()}.npz"
        np.savez_compressed(draft, key=key, **vars(made))
        os.replace(draft, path)
    return made


def features_of(predictor: Predictor, scan: Scan, case: int | None = None) -> np.ndarray:
    """(F,) float32: of the scan, the mean over its slices where each is a picture of its own.

    Args:
        case: its position in the data set, of a scan that the run's own task is to pose; None: it is as it came.
    """
    data = predictor.experiment.data
    slices = range(len(scan.pixels)) if data.slices == "each" else (None,)
    images = [predictor.prepared(scan, k) for k in slices]
    if case is not None:
        images = _posed(predictor, images, case)
    if data.blocks:  # as below
        images = [cutting.middle(image, data.shape[1:]) for image in images]
    elif data.fit == "patches":  # of any size: the middle tells as much, and every scan the same amount
        images = [middle(image, data.size_px) for image in images]
    found: np.ndarray = _described(predictor, np.stack(images)).mean(0)
    return found


def _posed(predictor: Predictor, images: list[np.ndarray], case: int) -> list[np.ndarray]:
    """The pictures of a case of the data set as the task poses them while they are judged."""
    import torch

    experiment, count = predictor.experiment, len(images)
    known = Target(cases=torch.full((count,), case), slices=torch.arange(count))
    posed, _ = task.find(experiment.task).pose(experiment, torch.from_numpy(np.stack(images)), known)
    return list(posed.numpy())


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
    parts = np.array([table.shape[1] - SIDE**2 - 2 * LEVELS, SIDE**2, 2 * LEVELS])
    scale[parts[0] :] = np.maximum(scale[parts[0] :], _LEAST)  # a corner that is always black tells little
    table = ((table - mean) / scale).astype(np.float32)
    groups = dataset.groups[cases]
    beside = [table[groups != group] for group in groups]
    apart = [apart_of(others, row, parts) for others, row in zip(beside, table, strict=True) if len(others)]
    if len(apart) < _FEWEST:
        return None
    usual = np.median(apart, axis=0) + 1e-9
    mean, scale = mean.astype(np.float32), scale.astype(np.float32)
    own = [apart_of(table, (row - mean) / scale, parts) for row in _table(predictor, dataset, held_out)]
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
        return np.stack([features_of(predictor, dataset.scan(int(case)), int(case)) for case in cases])
    prepared, rows = dataset.prepared(data), []
    for case in cases:
        places = prepared.rows_of(np.array([case]))
        images = prepared.rows(places[:: max(1, len(places) // 8)]).astype(np.float32) / np.float32(prepared.unit)
        rows.append(_described(predictor, images).mean(0))
    return np.stack(rows)


def _described(predictor: Predictor, images: np.ndarray) -> np.ndarray:
    """(B, F) float32 of prepared images (`likeness.described`)."""
    layer = predictor.net.get_submodule(f"layers.{last_layer(predictor)}")
    return likeness.described(images, layer, predictor.run, predictor.num_slices)


def last_layer(predictor: Predictor) -> str:
    """The id of the network's last layer that learns something, else of its last one."""
    network = predictor.experiment.network
    for node in reversed(network):
        if any(True for _ in predictor.net.get_submodule(f"layers.{node.id}").parameters()):
            return node.id
    return network[-1].id
