"""The number to beat: how well a network that was never taught these scans tells them apart.

Features of the packaged EfficientNet-Lite0 (trained on everyday photographs, Tan and Le, ICML 2019), frozen, and on top
of them either logistic regression or the nearest neighbours; which of them, and how strongly held back, is chosen on
the validation side. Nothing is trained by gradient steps, so it takes seconds to a minute.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from builder.data import Dataset
from builder.evaluate import count_opening
from builder.measures.classes import Predictions, report
from builder.runs import write_atomic
from builder.spec import Data, Experiment, Node

__all__ = ["BaselineError", "baseline", "features_of", "kept"]

FILE = "baseline.json"
TITLE = "Frozen features"
_VERSION = 1
_SIDE_PX = 160
_SLICES = 8  # of a series, spread over it; their features are averaged
_BATCH = 16
_RESAMPLES = 500
_STRENGTHS = (0.003, 0.03, 0.3, 3.0)
_NEIGHBOURS = (1, 5, 15)
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the photographs it was trained on


class BaselineError(ValueError):
    """No baseline can be made of this data set. Its text is one sentence for people."""


@dataclass(frozen=True)
class _Candidate:
    """A way from features to probabilities: `fit` takes (features, labels) and returns features -> (N, K)."""

    words: str
    fit: Callable[[np.ndarray, np.ndarray], Callable[[np.ndarray], np.ndarray]]


def kept(dataset: Dataset) -> dict[str, Any] | None:
    """What the last `baseline` of these scans and labels found; None where there is none, or they have changed."""
    try:
        found = json.loads((dataset.folder / FILE).read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("key") == _key(dataset) else None


def baseline(dataset: Dataset, *, test: bool = False, told: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Measures the baseline of a data set and keeps it there.

    Args:
        test: also on the test side, which counts as an opening of it.
        told: is given (scans done, scans in all) while the features are made.
    Returns: {chosen (words), features, n: {train, val}, val, test or None, seconds, key, at}; val and test are
        {n, metrics {name: {value, low, high}}, notes}.
    Raises:
        BaselineError: fewer than two classes have training scans, or the validation side has none.
    """
    began = time.monotonic()
    sides = {name: dataset.indices(name) for name in ("train", "val", "test")}
    labels = dataset.labels
    if len(dataset.classes) < 2 or len(_present(labels[sides["train"]])) < 2:
        raise BaselineError("The baseline tells classes apart: it needs training scans of at least two classes.")
    if not len(sides["val"]):
        raise BaselineError("The baseline is chosen on the validation side, which has no labelled scan.")
    features = features_of(dataset, told)
    train = features[sides["train"]]
    mean, std = train.mean(0), train.std(0) + 1e-6
    features = (features - mean) / std
    best: tuple[float, _Candidate, dict[str, Any]] | None = None
    num = len(dataset.classes)
    for candidate in _candidates(dataset.multi_label, num):
        answer = candidate.fit(features[sides["train"]], labels[sides["train"]])
        score = _score(answer(features[sides["val"]]), labels[sides["val"]])
        if best is None or score > best[0]:
            best = (score, candidate, {"answer": answer})
    assert best is not None
    answer = best[2]["answer"]

    def figures(side: str) -> dict[str, Any]:
        cases = sides[side]
        found = Predictions(
            answer(features[cases]),
            labels[cases],
            dataset.patients[cases],
            np.array([dataset.cases[i].id for i in cases]),
        )
        whole = report(found, dataset.classes, _RESAMPLES)
        return {name: whole[name] for name in ("n", "patients", "metrics", "notes")}

    before = kept(dataset)
    on_test = before["test"] if before else None
    if test:
        if not len(sides["test"]):
            raise BaselineError("The test side has no labelled scan to measure the baseline on.")
        on_test = figures("test")
        count_opening(dataset, "baseline")
    result = {
        "key": _key(dataset),
        "chosen": best[1].words,
        "features": f"EfficientNet-Lite0, {features.shape[1]:,} features of {_SIDE_PX} px",
        "n": {name: len(sides[name]) for name in ("train", "val")},
        "val": figures("val"),
        "test": on_test,
        "seconds": round(time.monotonic() - began, 2),
        "at": time.time(),
    }
    write_atomic(dataset.folder / FILE, json.dumps(result))
    return result


# -- from features to classes -----------------------------------------------------------------------------------------


def _candidates(multi_label: bool, num_classes: int) -> Iterator[_Candidate]:
    for strength in _STRENGTHS:
        yield _Candidate(f"logistic regression (C = {strength:g})", _logistic(strength, multi_label, num_classes))
    for k in _NEIGHBOURS:
        words = "the nearest neighbour" if k == 1 else f"the {k} nearest neighbours"
        yield _Candidate(words, _nearest(k, multi_label, num_classes))


def _logistic(
    strength: float, multi_label: bool, num_classes: int
) -> Callable[[np.ndarray, np.ndarray], Callable[[np.ndarray], np.ndarray]]:
    def fit(features: np.ndarray, labels: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        from sklearn.linear_model import LogisticRegression

        def model(target: np.ndarray) -> Any:
            made = LogisticRegression(C=strength, class_weight="balanced", max_iter=400)
            return made.fit(features, target)

        if not multi_label:
            one = model(labels)

            def answer(rows: np.ndarray) -> np.ndarray:
                found = np.zeros((len(rows), num_classes), np.float32)
                found[:, one.classes_] = one.predict_proba(rows)
                return found

            return answer
        each = [model(column) if 0 < column.mean() < 1 else float(column.mean()) for column in labels.T]

        def answers(rows: np.ndarray) -> np.ndarray:
            columns = [np.full(len(rows), m) if isinstance(m, float) else m.predict_proba(rows)[:, 1] for m in each]
            return np.stack(columns, 1).astype(np.float32)

        return answers

    return fit


def _nearest(
    k: int, multi_label: bool, num_classes: int
) -> Callable[[np.ndarray, np.ndarray], Callable[[np.ndarray], np.ndarray]]:
    def fit(features: np.ndarray, labels: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        known = _unit(features)
        given = labels.astype(np.float32) if multi_label else np.eye(num_classes, dtype=np.float32)[labels]

        def answer(rows: np.ndarray) -> np.ndarray:
            near = np.argsort(-(_unit(rows) @ known.T), 1)[:, : min(k, len(known))]
            found: np.ndarray = given[near].mean(1)
            return found

        return answer

    return fit


def _unit(rows: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    made: np.ndarray = rows / np.maximum(length, 1e-9)
    return made


def _score(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean AUC over classes, the accuracy where no class has one; what the choice goes by."""
    from sklearn.metrics import roc_auc_score

    given = labels.astype(bool) if labels.ndim == 2 else labels[:, None] == np.arange(probabilities.shape[1])
    areas = [roc_auc_score(g, p) for g, p in zip(given.T, probabilities.T, strict=True) if g.any() and not g.all()]
    if areas:
        return float(np.mean(areas))
    return float((given == (probabilities >= 0.5)).mean())


def _present(labels: np.ndarray) -> np.ndarray:
    return np.flatnonzero(labels.any(0)) if labels.ndim == 2 else np.unique(labels[labels >= 0])


# -- features ---------------------------------------------------------------------------------------------------------


def features_of(dataset: Dataset, told: Callable[[int, int], None] | None) -> np.ndarray:
    """(N, F) float32: of every case, also of those that were imported later; what was made once is kept."""
    path = dataset.folder / f"baseline-features-{_VERSION}.npy"
    made: np.ndarray | None = None
    with contextlib.suppress(OSError, ValueError):  # not there, or cut off while it was written
        made = np.load(path, allow_pickle=False)
    begin = 0 if made is None else min(len(made), len(dataset))
    if made is not None and begin == len(dataset):
        return made[: len(dataset)]
    rows = [] if made is None else [made]
    net, data = _network(dataset)
    shape = (-1, *[1] * (-data.channel_axis - 1))
    mean, std = (np.array(values, np.float32).reshape(shape) for values in (_MEAN, _STD))
    import torch

    from builder.data import prepare

    step = max(1, _BATCH // (data.num_slices if data.layout == "series" else 1))
    with torch.inference_mode():
        for start in range(begin, len(dataset), step):
            cases = range(start, min(start + step, len(dataset)))
            images = np.stack([prepare(dataset.scan(case), data) for case in cases])
            output = net(torch.from_numpy((images - mean) / std)).float().numpy()
            rows.append(output.mean(1) if output.ndim == 3 else output)
            if told:
                told(cases[-1] + 1, len(dataset))
    table = np.concatenate(rows).astype(np.float32)
    draft = dataset.folder / f".{path.name}.{os.getpid()}.npy"
    np.save(draft, table)
    os.replace(draft, path)
    return table


def _network(dataset: Dataset) -> tuple[Any, Data]:
    from builder import network

    stacked = dataset.fingerprint.num_slices.get("max", 1) > 1
    slices: dict[str, Any] = {"slices": "series", "num_slices": _SLICES} if stacked else {}
    data = Data(dataset=dataset.id, size_px=_SIDE_PX, colour="rgb", normalize="imagenet", **slices)
    nodes = (
        Node(
            id="backbone",
            name="timm_backbone",
            params={"model": "tf_efficientnet_lite0", "weights": "installed package"},
        ),
        Node(id="pool", name="global_pool"),
    )
    experiment = Experiment(name="baseline", data=data, network=nodes)
    return network.assemble_of(experiment, 2).eval(), data


def _key(dataset: Dataset) -> str:
    """Changes with the scans, their labels and their sides."""
    parts = [str(_VERSION), dataset.id, *dataset.classes]
    digest = hashlib.sha256(" ".join(parts).encode())
    digest.update(np.ascontiguousarray(dataset.labels).tobytes())
    digest.update("".join(dataset.splits).encode())
    return digest.hexdigest()
