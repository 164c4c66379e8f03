"""Figures of answers that are classes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

RESAMPLES = 2000
CONFIDENCE = 0.95
_CELLS = 4_000_000  # weights held at once: 32 MB


@dataclass(frozen=True)
class Predictions:
    """What a run answered on one split.

    Attributes:
        probabilities: (N, K) float. labels: (N,) int64, or (N, K) uint8 for multi-label. patients: (N,) int codes.
        cases: (N,) case ids.
    """

    probabilities: np.ndarray
    labels: np.ndarray
    patients: np.ndarray
    cases: np.ndarray

    @property
    def multi_label(self) -> bool:
        """True where a case may have several classes, or none."""
        return self.labels.ndim == 2


# -- figures ----------------------------------------------------------------------------------------------------------


def areas(weights: np.ndarray, scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Area under the ROC curve for each row of `weights` (B, N): (B,) float64, NaN where one side has no weight.

    The weighted Mann-Whitney statistic; ties count half. With whole weights it equals scikit-learn's `roc_auc_score`
    on the repeated cases.
    """
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) > 0])
    sorted_weights = weights[:, order]
    signs = positive[order]
    ups = np.add.reduceat(sorted_weights * signs, starts, axis=1)
    downs = np.add.reduceat(sorted_weights * ~signs, starts, axis=1)
    below = np.cumsum(downs, axis=1) - downs / 2
    pairs = ups.sum(1) * downs.sum(1)
    return _ratio((ups * below).sum(1), pairs)


_BY_PREVALENCE = ("accuracy", "f1", "class/ppv", "class/npv", "class/f1")
"""Figures that change with the shares of the classes: their intervals must let the shares vary, too."""


def figures(predictions: Predictions, weights: np.ndarray, ranked: bool = True) -> dict[str, np.ndarray]:
    """Every figure for each row of `weights` (B, N): overall ones (B,), per class ones (B, K) under "class/<name>".

    `ranked` False leaves out the areas under the ROC curve, which take the most time.

    A class is answered where its probability is the largest (single-label) or at least 0.5 (multi-label). What is
    undefined (no positive case, nothing answered) is NaN and left out of means over classes.
    """
    given, answered = _indicators(predictions)
    num_classes = given.shape[1]
    cells = np.concatenate([given & answered, ~given & answered, given & ~answered, ~given & ~answered], axis=1)
    tp, fp, fn, tn = np.split(weights @ cells.astype(weights.dtype), 4, axis=1)
    total = weights.sum(1)
    sensitivity, specificity = _ratio(tp, tp + fn), _ratio(tn, tn + fp)
    f1 = _ratio(2 * tp, 2 * tp + fp + fn)
    if predictions.multi_label:
        accuracy, balanced = _ratio((tp + tn).sum(1), total * num_classes), _mean((sensitivity + specificity) / 2)
    else:
        accuracy, balanced = _ratio(tp.sum(1), total), _mean(sensitivity)
    found = {
        "accuracy": accuracy,
        "balanced_accuracy": balanced,
        "f1": _mean(f1),
        "class/sensitivity": sensitivity,
        "class/specificity": specificity,
        "class/ppv": _ratio(tp, tp + fp),
        "class/npv": _ratio(tn, tn + fn),
        "class/f1": f1,
    }
    if not ranked:
        return found
    area = np.stack([areas(weights, predictions.probabilities[:, k], given[:, k]) for k in range(num_classes)], 1)
    return {"auc": _mean(area), **found, "class/auc": area}


def draws(predictions: Predictions, resamples: int, seed: int, stratified: bool = True) -> Iterator[np.ndarray]:
    """Yield weights (b, N) float64, `resamples` rows in all: how often each case's patient was drawn.

    Patients are drawn with replacement; `stratified`: within strata of patients that have the same set of classes
    (single-label only; strata of one patient are joined, since a stratum of one never varies).
    """
    rng = np.random.default_rng(seed)
    _, codes = np.unique(predictions.patients, return_inverse=True)
    strata = _strata(predictions, codes) if stratified else [np.arange(int(codes.max()) + 1)]
    num_cases, num_patients = len(codes), int(codes.max()) + 1
    rows = max(1, min(resamples, _CELLS // max(num_cases, num_patients)))
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        times = np.zeros((count, num_patients))
        for members in strata:
            picked = rng.integers(0, len(members), (count, len(members)))
            flat = picked + np.arange(count)[:, None] * len(members)
            times[:, members] = np.bincount(flat.ravel(), minlength=count * len(members)).reshape(count, -1)
        yield times[:, codes]


def intervals(predictions: Predictions, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Any]:
    """Each figure of `figures` as {value, low, high}, or one of those for each class; None where undefined."""
    values = figures(predictions, np.ones((1, len(predictions.labels))))
    spread: dict[str, list[np.ndarray]] = {name: [] for name in values}
    for weights in draws(predictions, resamples, seed):
        for name, drawn in figures(predictions, weights).items():
            if name not in _BY_PREVALENCE:
                spread[name].append(drawn)
    for weights in draws(predictions, resamples, seed, stratified=False):
        for name, drawn in figures(predictions, weights, ranked=False).items():
            if name in _BY_PREVALENCE:
                spread[name].append(drawn)
    tails = [100 * (1 - CONFIDENCE) / 2, 100 * (1 + CONFIDENCE) / 2]

    def told(value: float, drawn: np.ndarray, patients: int) -> dict[str, float | None]:
        drawn = drawn[np.isfinite(drawn)]
        if not np.isfinite(value) or not len(drawn):
            return {"value": None, "low": None, "high": None}
        low, high = np.percentile(drawn, tails)
        if low == high and value in (0.0, 1.0):
            bound = ((1 - CONFIDENCE) / 2) ** (1 / max(1, patients))
            low, high = (bound, 1.0) if value else (0.0, 1 - bound)
        return {"value": float(value), "low": float(low), "high": float(high)}

    having, lacking = _patients_by_class(predictions)
    smallest = int(min(np.minimum(having, lacking), default=0))
    result: dict[str, Any] = {}
    for name, value in values.items():
        drawn = np.concatenate(spread[name])
        if value.ndim == 1:
            rests_on = len(np.unique(predictions.patients)) if name == "accuracy" else smallest
            result[name] = told(value[0], drawn, rests_on)
        else:
            on = lacking if name in ("class/specificity", "class/npv") else having
            result[name] = [told(value[0, k], drawn[:, k], int(on[k])) for k in range(value.shape[1])]
    overall = result["balanced_accuracy"]
    if overall["low"] is not None and overall["low"] == overall["high"] and not predictions.multi_label:
        # A network that always answers the same: each class is all right or all wrong, so their exact bounds decide.
        bounds = [c for c in result["class/sensitivity"] if c["low"] is not None]
        overall["low"], overall["high"] = (float(np.mean([c[end] for c in bounds])) for end in ("low", "high"))
    return result


def _patients_by_class(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """How many patients have a case of each class (K,), and how many have one without it (K,)."""
    given, _ = _indicators(predictions)

    def count(rows: np.ndarray) -> int:
        return len(np.unique(predictions.patients[rows]))

    return np.array([count(g) for g in given.T]), np.array([count(~g) for g in given.T])


def confusion(predictions: Predictions) -> list[Any]:
    """Counts [given class][answered class]; for multi-label one [[tn, fp], [fn, tp]] for each class."""
    from sklearn.metrics import confusion_matrix, multilabel_confusion_matrix

    given, answered = _indicators(predictions)
    if predictions.multi_label:
        return multilabel_confusion_matrix(given, answered).tolist()
    classes = np.arange(given.shape[1])
    return confusion_matrix(predictions.labels, answered.argmax(1), labels=classes).tolist()


def curve(predictions: Predictions, class_index: int, most: int = 200) -> dict[str, list[float]] | None:
    """ROC points of one class against the rest, at most `most`: {fpr, tpr, threshold}; None where one side is empty."""
    from sklearn.metrics import roc_curve

    given, _ = _indicators(predictions)
    positive = given[:, class_index]
    if positive.all() or not positive.any():
        return None
    fpr, tpr, threshold = roc_curve(positive, predictions.probabilities[:, class_index])
    keep = np.unique(np.linspace(0, len(fpr) - 1, min(most, len(fpr))).round().astype(int))
    threshold = np.minimum(threshold, 1.0)
    return {
        "fpr": np.round(fpr[keep], 6).tolist(),
        "tpr": np.round(tpr[keep], 6).tolist(),
        "threshold": np.round(threshold[keep], 6).tolist(),
    }


def majority(predictions: Predictions) -> tuple[float, int]:
    """Accuracy of always answering the commonest class, and that class; multi-label: mean over classes, and -1."""
    given, _ = _indicators(predictions)
    share = given.mean(0)
    if predictions.multi_label:
        return float(np.maximum(share, 1 - share).mean()), -1
    return float(share.max()), int(share.argmax())


def report(
    predictions: Predictions, classes: tuple[str, ...], resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """All figures on one set of predictions as plain JSON data (layout: `evaluate`)."""
    told = intervals(predictions, resamples, seed)
    given, _ = _indicators(predictions)
    share, commonest = majority(predictions)
    per_class = {}
    for k, name in enumerate(classes):
        rows = {key.split("/")[1]: value[k] for key, value in told.items() if key.startswith("class/")}
        per_class[name] = {"n": int(given[:, k].sum()), **rows}
    return {
        "n": len(given),
        "patients": len(np.unique(predictions.patients)),
        "classes": list(classes),
        "metrics": {name: value for name, value in told.items() if "/" not in name},
        "per_class": per_class,
        "confusion": confusion(predictions),
        "majority_accuracy": share,
        "majority_class": classes[commonest] if commonest >= 0 else None,
        "roc": {name: curve(predictions, k) for k, name in enumerate(classes)},
        "interval": {"confidence": CONFIDENCE, "method": "percentile bootstrap over patients", "resamples": resamples},
        "notes": _remarks(predictions, classes),
    }


def _indicators(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Which classes were given and which answered: two (N, K) bool."""
    num_classes = predictions.probabilities.shape[1]
    if predictions.multi_label:
        return predictions.labels.astype(bool), predictions.probabilities >= 0.5
    every = np.arange(num_classes)
    return predictions.labels[:, None] == every, predictions.probabilities.argmax(1)[:, None] == every


def _strata(predictions: Predictions, codes: np.ndarray) -> list[np.ndarray]:
    """Patient codes by stratum."""
    num_patients = int(codes.max()) + 1
    if predictions.multi_label:
        return [np.arange(num_patients)]
    has = np.zeros((num_patients, predictions.probabilities.shape[1]), bool)
    has[codes, predictions.labels] = True
    _, kind = np.unique(has, axis=0, return_inverse=True)
    groups = [np.flatnonzero(kind == k) for k in range(int(kind.max()) + 1)]
    single = [g for g in groups if len(g) == 1]
    return [g for g in groups if len(g) > 1] + ([np.concatenate(single)] if single else [])


def _remarks(predictions: Predictions, classes: tuple[str, ...]) -> list[str]:
    given, _ = _indicators(predictions)
    said = []
    for k, name in enumerate(classes):
        patients = len(np.unique(predictions.patients[given[:, k]]))
        if patients == 0:
            said.append(
                f"Class {name!r} has no case here: its sensitivity and AUC are undefined and left out of the means."
            )
        elif patients < 10:
            who = "one patient" if patients == 1 else f"{patients} patients"
            said.append(f"Class {name!r} has only {who} here: its interval tells little.")
    return said


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full(np.broadcast(above, below).shape, np.nan), where=below > 0)


def _mean(per_class: np.ndarray) -> np.ndarray:
    """Mean over the classes where the figure is defined: (B, K) -> (B,)."""
    defined = np.isfinite(per_class)
    return _ratio(np.where(defined, per_class, 0).sum(1), defined.sum(1).astype(float))
