"""How well classes are told apart: figures, curves, operating points and calibration of one set of answers.

Patients are drawn within each class, so that no class vanishes from a resample; for figures that depend on how common
each class is (accuracy, F1, PPV, NPV, calibration) over all patients at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from builder.measures import bootstrap
from builder.measures.bootstrap import RESAMPLES, mean_defined, ratio
from builder.measures.ranks import Ranks
from builder.measures.slopes import slope_and_intercept

SPECIFICITIES = (0.9, 0.95)
"""Where sensitivity is read off the ROC curve."""
BINS = 15
"""Of the calibration error, as in Guo et al., ICML 2017."""
_SHIFTED = ("ece",)
_SURE = 1e-12  # probabilities nearer to 0 or 1 are moved here before a logarithm


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

    @classmethod
    def of(cls, examined: Mapping[str, np.ndarray]) -> Predictions | None:
        """The answers with classes among what a run answered on a split, of the cases whose class is known; None where
        there are none, or no two classes."""
        if any(name not in examined for name in ("probabilities", "labels", "patients", "cases")):
            return None
        chances, labels = np.asarray(examined["probabilities"], np.float64), examined["labels"]
        known = np.ones(len(labels), bool) if labels.ndim == 2 else labels >= 0
        if chances.ndim != 2 or chances.shape[1] < (1 if labels.ndim == 2 else 2) or not known.any():
            return None
        return cls(chances[known], labels[known], examined["patients"][known], examined["cases"][known])


# -- figures ----------------------------------------------------------------------------------------------------------


def areas(weights: np.ndarray, scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Area under the ROC curve for each row of `weights` (B, N): (B,) float64, NaN where one side has no weight.

    The weighted Mann-Whitney statistic; ties count half. With whole weights it equals scikit-learn's `roc_auc_score`
    on the repeated cases.
    """
    return Ranks(scores, positive).read(weights)[0]


def sensitivity_at(
    weights: np.ndarray, scores: np.ndarray, positive: np.ndarray, specificities: Sequence[float] = SPECIFICITIES
) -> np.ndarray:
    """The highest sensitivity that a threshold reaches at no less than each specificity, for each row of `weights`
    (B, N): (B, len(specificities)) float64, NaN where one side has no weight."""
    return Ranks(scores, positive).read(weights, specificities)[1]


def _by_score(weights: np.ndarray, scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weight of the positive and of the negative cases at each distinct score, ascending: two (B, scores)."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) > 0])
    sorted_weights = weights[:, order]
    signs = positive[order]
    ups = np.add.reduceat(sorted_weights * signs, starts, axis=1)
    downs = np.add.reduceat(sorted_weights * ~signs, starts, axis=1)
    return ups, downs


_BY_PREVALENCE = ("accuracy", "f1", "brier", "ece", "class/ppv", "class/npv", "class/f1")
"""Figures that change with the shares of the classes: their intervals must let the shares vary, too."""


def figures(predictions: Predictions, weights: np.ndarray, ranked: bool = True) -> dict[str, np.ndarray]:
    """Every figure for each row of `weights` (B, N): overall ones (B,), per class ones (B, K) under "class/<name>".

    `ranked` False leaves out the figures of the ROC curve, which take the most time.

    A class is answered where its probability is the largest (single-label) or at least 0.5 (multi-label). What is
    undefined (no positive case, nothing answered) is NaN and left out of means over classes.
    """
    return _Tallies(predictions).figures(weights, ranked)


class _Tallies:
    """What of each case is added up for the figures of a set of predictions: worked out once for all draws."""

    def __init__(self, predictions: Predictions) -> None:
        given, answered = _indicators(predictions)
        self.multi_label, self.num_classes = predictions.multi_label, given.shape[1]
        cells = np.concatenate([given & answered, ~given & answered, given & ~answered, ~given & ~answered], axis=1)
        self._cells = cells.astype(np.float64)
        held = _bins_of_cases(predictions, BINS)
        self._sums = np.concatenate([self._cells, _squares(predictions)[:, None], held], axis=1)
        self._probabilities, self._given = predictions.probabilities, given

    @cached_property
    def _ranks(self) -> list[Ranks]:
        return [Ranks(self._probabilities[:, k], self._given[:, k]) for k in range(self.num_classes)]

    def figures(self, weights: np.ndarray, ranked: bool = True, shares: bool = True) -> dict[str, np.ndarray]:
        """As `classes.figures`; `shares` False leaves out Brier score and calibration error."""
        sums = weights @ (self._sums if shares else self._cells)
        tp, fp, fn, tn = np.split(sums[:, : 4 * self.num_classes], 4, axis=1)
        total = weights.sum(1)
        sensitivity, specificity = ratio(tp, tp + fn), ratio(tn, tn + fp)
        f1 = ratio(2 * tp, 2 * tp + fp + fn)
        if self.multi_label:
            accuracy = ratio((tp + tn).sum(1), total * self.num_classes)
            balanced = mean_defined((sensitivity + specificity) / 2)
        else:
            accuracy, balanced = ratio(tp.sum(1), total), mean_defined(sensitivity)
        found = {"accuracy": accuracy, "balanced_accuracy": balanced, "f1": mean_defined(f1)}
        if shares:
            rest = sums[:, 4 * self.num_classes :]
            found |= {"brier": ratio(rest[:, 0], total), "ece": _error_of_bins(rest[:, 1:])}
        found |= {
            "class/sensitivity": sensitivity,
            "class/specificity": specificity,
            "class/ppv": ratio(tp, tp + fp),
            "class/npv": ratio(tn, tn + fn),
            "class/f1": f1,
        }
        if not ranked:
            return found
        columns = np.ascontiguousarray(weights.T)
        read = [ranks.of_columns(columns, SPECIFICITIES) for ranks in self._ranks]
        fixed = {f"class/{name}": np.stack([at[:, j] for _, at in read], 1) for j, name in enumerate(FIXED)}
        by_class = np.stack([area for area, _ in read], 1)
        return {"auc": mean_defined(by_class), **found, "class/auc": by_class, **fixed}


FIXED = tuple(f"sensitivity_at_specificity_{round(100 * s)}" for s in SPECIFICITIES)


def _cells(given: np.ndarray, answered: np.ndarray, weights: np.ndarray) -> list[np.ndarray]:
    """Weights of the true and false positives, false and true negatives of each class: four (B, K)."""
    cells = np.concatenate([given & answered, ~given & answered, given & ~answered, ~given & ~answered], axis=1)
    return np.split(weights @ cells.astype(weights.dtype), 4, axis=1)


def draws(predictions: Predictions, resamples: int, seed: int, stratified: bool = True) -> Iterator[np.ndarray]:
    """Yield weights (b, N) float64, `resamples` rows in all: how often each case's patient was drawn.

    Patients are drawn with replacement; `stratified`: within strata of patients that have the same set of classes
    (single-label only; strata of one patient are joined, since a stratum of one never varies).
    """
    yield from bootstrap.draws(predictions.patients, resamples, seed, _strata(predictions) if stratified else None)


def intervals(predictions: Predictions, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Any]:
    """Each figure of `figures` as {value, low, high}, or one of those for each class; None where undefined."""
    tallies = _Tallies(predictions)

    def by_class(weights: np.ndarray) -> dict[str, np.ndarray]:
        return {n: v for n, v in tallies.figures(weights, shares=False).items() if n not in _BY_PREVALENCE}

    def by_prevalence(weights: np.ndarray) -> dict[str, np.ndarray]:
        return {n: v for n, v in tallies.figures(weights, ranked=False).items() if n in _BY_PREVALENCE}

    who, on = predictions.patients, rests_on(predictions)
    result = bootstrap.intervals(by_class, who, resamples, seed, strata=_strata(predictions), rests_on=on)
    result |= bootstrap.intervals(by_prevalence, who, resamples, seed, shifted=_SHIFTED, rests_on=on)
    overall = result["balanced_accuracy"]
    if overall["low"] is not None and overall["low"] == overall["high"] and not predictions.multi_label:
        # A network that always answers the same: each class is all right or all wrong, so their exact bounds decide.
        bounds = [c for c in result["class/sensitivity"] if c["low"] is not None]
        overall["low"], overall["high"] = (float(np.mean([c[end] for c in bounds])) for end in ("low", "high"))
    return result


def rests_on(predictions: Predictions) -> dict[str, Any]:
    """{figure: patients it rests on, one number or (K,)} of `figures`, for intervals of those that are 0 or 1.

    What compares cases with a class to cases without it is no surer than the fewer of them are many, a mean over
    classes no surer than its rarest class; a class without any case here is in no mean.
    """
    given, answered = _indicators(predictions)
    having, lacking = (_patients_in(predictions, rows) for rows in (given, ~given))
    told: dict[str, Any] = {"class/sensitivity": having, "class/specificity": lacking, "class/f1": having}
    told |= {"class/ppv": _patients_in(predictions, answered), "class/npv": _patients_in(predictions, ~answered)}
    told |= dict.fromkeys([f"class/{name}" for name in ("auc", *FIXED)], np.minimum(having, lacking))
    rarest = min((int(count) for count in (*having, *lacking) if count), default=0)
    return told | dict.fromkeys(("auc", "balanced_accuracy", "f1"), rarest)


def _patients_in(predictions: Predictions, rows: np.ndarray) -> np.ndarray:
    """How many patients have a case in each column of `rows` (N, K) bool: (K,)."""
    return np.array([len(np.unique(predictions.patients[column])) for column in rows.T])


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


# -- operating points -------------------------------------------------------------------------------------------------


def youden(predictions: Predictions) -> list[float | None]:
    """For each class the threshold ("at least this probability") with the largest sensitivity + specificity - 1.

    To be chosen on the validation side and carried to the test side. It lies halfway between the two probabilities that
    it parts; of two that are equally good the lower is taken, which misses less. None where all cases, or none, are of
    the class. (Youden, Cancer 3:32-35, 1950.)
    """
    given, _ = _indicators(predictions)
    ones = np.ones((1, len(given)))
    found: list[float | None] = []
    for scores, positive in zip(predictions.probabilities.T, given.T, strict=True):
        if positive.all() or not positive.any():
            found.append(None)
            continue
        ups, downs = (side[0] for side in _by_score(ones, scores, positive))
        sensitivity = ups[::-1].cumsum()[::-1] / ups.sum()  # threshold at this score
        specificity = (downs.cumsum() - downs) / downs.sum()
        best = int((sensitivity + specificity).argmax())
        levels = np.unique(scores)
        found.append(float((levels[best] + levels[best - 1]) / 2 if best else levels[0]))
    return found


def at_thresholds(
    predictions: Predictions, thresholds: Sequence[float | None], resamples: int = RESAMPLES, seed: int = 0
) -> list[dict[str, Any] | None]:
    """How good each class is where it is answered from its threshold on, whatever the others say.

    Args:
        thresholds: K probabilities, as `youden` chooses them on the validation side.
    Returns:
        for each class {threshold, sensitivity, specificity, ppv, npv: {value, low, high}}; None without a threshold.
    """
    given, _ = _indicators(predictions)
    limits = np.array([np.inf if t is None else t for t in thresholds])
    answered = predictions.probabilities >= limits

    def of_classes(weights: np.ndarray) -> dict[str, np.ndarray]:
        tp, fp, fn, tn = _cells(given, answered, weights)
        return {"sensitivity": ratio(tp, tp + fn), "specificity": ratio(tn, tn + fp)}

    def of_answers(weights: np.ndarray) -> dict[str, np.ndarray]:
        tp, fp, fn, tn = _cells(given, answered, weights)
        return {"ppv": ratio(tp, tp + fp), "npv": ratio(tn, tn + fn)}

    sides = {"sensitivity": given, "specificity": ~given, "ppv": answered, "npv": ~answered}
    on: dict[str, Any] = {name: _patients_in(predictions, rows) for name, rows in sides.items()}
    who, strata = predictions.patients, _strata(predictions)
    told = bootstrap.intervals(of_classes, who, resamples, seed, strata=strata, rests_on=on)
    told |= bootstrap.intervals(of_answers, who, resamples, seed, rests_on=on)
    return [
        None if limit is None else {"threshold": float(limit), **{name: rows[k] for name, rows in told.items()}}
        for k, limit in enumerate(thresholds)
    ]


# -- calibration ------------------------------------------------------------------------------------------------------


def brier(predictions: Predictions, weights: np.ndarray) -> np.ndarray:
    """Brier score for each row of `weights` (B, N): (B,) in 0..1, 0 is best.

    One label: half the squared distance between the probabilities and the truth, so that for two classes it is the
    usual (p - y)^2. Several labels: mean of (p - y)^2 over labels. (Brier, Monthly Weather Review 78:1-3, 1950.)
    """
    return ratio(weights @ _squares(predictions), weights.sum(1))


def _squares(predictions: Predictions) -> np.ndarray:
    """What each case adds to the Brier score: (N,)."""
    given, _ = _indicators(predictions)
    squares = (predictions.probabilities - given) ** 2
    found: np.ndarray = squares.mean(1) if predictions.multi_label else squares.sum(1) / 2
    return found


def calibration_error(predictions: Predictions, weights: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Expected calibration error for each row of `weights` (B, N): (B,) in 0..1.

    Mean distance between confidence and share of right answers over `bins` equal bins of confidence (Guo et al., ICML
    2017). One label: the confidence is the largest probability, right is that class. Several: each label's probability,
    right is that the label is given. It is never 0 on few cases, even for perfect probabilities.
    """
    return _error_of_bins(weights @ _bins_of_cases(predictions, bins))


def _bins_of_cases(predictions: Predictions, bins: int) -> np.ndarray:
    """What each case adds to each bin of confidence: number, confidence, right answers; (N, bins * 3)."""
    confidence, right, case = _confidences(predictions)
    by_case = np.zeros((len(predictions.labels), bins, 3))
    parts = np.stack([np.ones_like(confidence), confidence, right], 1)
    np.add.at(by_case, (case, _binned(confidence, bins)), parts)
    return by_case.reshape(len(by_case), -1)


def _error_of_bins(sums: np.ndarray) -> np.ndarray:
    """The calibration error of sums (B, bins * 3) of `_bins_of_cases`: (B,)."""
    table = sums.reshape(len(sums), -1, 3)
    return ratio(np.abs(table[..., 1] - table[..., 2]).sum(1), table[..., 0].sum(1))


def reliability(predictions: Predictions, bins: int = 10) -> dict[str, list[Any]]:
    """A reliability diagram: {n, confidence, right} for each of `bins` equal bins of confidence, as defined in
    `calibration_error`; the means are None where a bin is empty."""
    confidence, right, _ = _confidences(predictions)
    held = _binned(confidence, bins)
    n = np.bincount(held, minlength=bins)

    def mean(values: np.ndarray) -> list[float | None]:
        sums = np.bincount(held, values, minlength=bins)
        return [round(float(s / c), 6) if c else None for s, c in zip(sums, n, strict=True)]

    return {"n": n.tolist(), "confidence": mean(confidence), "right": mean(right)}


def temperature(predictions: Predictions) -> float | None:
    """The temperature that makes the probabilities most likely true, to be fitted on the validation side.

    Minimizes the negative log-likelihood of `tempered` probabilities over 0.05..20 (Guo et al., ICML 2017); above 1 the
    network is too sure of itself. Where no temperature is better than none it is 1, so that it never makes the
    likelihood of what it is fitted on worse. None without cases.
    """
    from scipy.optimize import minimize_scalar

    if not len(predictions.labels):
        return None

    def cost(exponent: float) -> float:
        return surprise(predictions, float(np.exp(exponent)))

    found = minimize_scalar(cost, bounds=(np.log(0.05), np.log(20.0)), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x)) if cost(found.x) < cost(0.0) else 1.0


def surprise(predictions: Predictions, temperature: float = 1.0) -> float:
    """Mean negative log-likelihood (nats a case, or a label of several) of `tempered` probabilities; 0 is best."""
    given, _ = _indicators(predictions)
    chance = tempered(predictions.probabilities, temperature, predictions.multi_label)
    if predictions.multi_label:
        return -float(np.log(np.clip(np.where(given, chance, 1 - chance), _SURE, None)).mean())
    return -float(np.log(np.clip(chance[given], _SURE, None)).mean())


def tempered(probabilities: np.ndarray, temperature: float, multi_label: bool) -> np.ndarray:
    """Probabilities (N, K) as they would be with logits divided by `temperature`: (N, K) float64.

    The answer stays the same class; only the confidence changes.
    """
    clipped = np.clip(np.asarray(probabilities, np.float64), _SURE, 1 - _SURE)
    if multi_label:
        return 1 / (1 + np.exp(-np.log(clipped / (1 - clipped)) / temperature))
    logits = np.log(clipped) / temperature
    raised = np.exp(logits - logits.max(1, keepdims=True))
    return raised / raised.sum(1, keepdims=True)


def calibration(predictions: Predictions, fitted: float | None = None) -> dict[str, Any]:
    """{temperature, given: {brier, ece, nll, reliability, slopes [a class: {slope, intercept: {value, low, high}}]},
    tempered: the same with `fitted`, None without one}."""

    def told(these: Predictions) -> dict[str, Any]:
        ones = np.ones((1, len(these.labels)))
        given, _ = _indicators(these)
        found = {"brier": brier(these, ones)[0], "ece": calibration_error(these, ones)[0]}
        found["nll"] = surprise(these) if len(these.labels) else np.nan
        plain = {name: float(value) if np.isfinite(value) else None for name, value in found.items()}
        columns = zip(these.probabilities.T, given.T, strict=True)
        slopes = [slope_and_intercept(chances, positive, these.patients) for chances, positive in columns]
        return {**plain, "reliability": reliability(these), "slopes": slopes}

    after = None if fitted is None else told(warmed(predictions, fitted))
    return {"temperature": fitted, "given": told(predictions), "tempered": after}


def warmed(predictions: Predictions, temperature: float) -> Predictions:
    """The same answers with `tempered` probabilities."""
    moved = tempered(predictions.probabilities, temperature, predictions.multi_label)
    return Predictions(moved, predictions.labels, predictions.patients, predictions.cases)


def _confidences(predictions: Predictions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidence in 0..1, whether right (0 or 1) and the case, of each answer: three (M,); M is N, or N * K."""
    given, answered = _indicators(predictions)
    if predictions.multi_label:
        case = np.repeat(np.arange(len(given)), given.shape[1])
        return predictions.probabilities.ravel().astype(np.float64), given.ravel().astype(np.float64), case
    top = predictions.probabilities.max(1).astype(np.float64)
    return top, (given & answered).any(1).astype(np.float64), np.arange(len(given))


def _binned(confidence: np.ndarray, bins: int) -> np.ndarray:
    """The bin of each confidence: above its lower edge, up to and with its upper one."""
    edges = np.linspace(0, 1, bins + 1)
    return np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)


# -- all of it --------------------------------------------------------------------------------------------------------


def report(
    predictions: Predictions,
    classes: tuple[str, ...],
    resamples: int = RESAMPLES,
    seed: int = 0,
    *,
    thresholds: Sequence[float | None] | None = None,
    fitted: float | None = None,
) -> dict[str, Any]:
    """All figures on one set of predictions as plain JSON data.

    Args:
        thresholds: of each class, chosen on the validation side (`youden`). fitted: the temperature, likewise.
    Returns:
        {n, patients, classes, metrics {name: {value, low, high}}, per_class {class: {n, sensitivity, ..., auc,
        sensitivity_at_specificity_90, _95: {value, low, high}}}, confusion [given][answered], majority_accuracy,
        majority_class, roc {class: {fpr, tpr, threshold}}, operating_points {class: {threshold, sensitivity,
        specificity, ppv, npv}} or None, calibration (see `calibration`), interval, notes}.
    """
    told = intervals(predictions, resamples, seed)
    given, _ = _indicators(predictions)
    share, commonest = majority(predictions)
    per_class = {}
    for k, name in enumerate(classes):
        rows = {key.split("/")[1]: value[k] for key, value in told.items() if key.startswith("class/")}
        per_class[name] = {"n": int(given[:, k].sum()), **rows}
    points = None if thresholds is None else at_thresholds(predictions, thresholds, resamples, seed)
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
        "operating_points": None if points is None else dict(zip(classes, points, strict=True)),
        "calibration": calibration(predictions, fitted),
        "interval": bootstrap.described(resamples, _SHIFTED),
        "notes": _remarks(predictions, classes),
    }


def _indicators(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Which classes were given and which answered: two (N, K) bool."""
    num_classes = predictions.probabilities.shape[1]
    if predictions.multi_label:
        return predictions.labels.astype(bool), predictions.probabilities >= 0.5
    every = np.arange(num_classes)
    return predictions.labels[:, None] == every, predictions.probabilities.argmax(1)[:, None] == every


def _strata(predictions: Predictions) -> list[np.ndarray] | None:
    """Positions of the patients of each stratum in the sorted patients; None: all in one."""
    if predictions.multi_label:
        return None
    _, codes = np.unique(predictions.patients, return_inverse=True)
    has = np.zeros((int(codes.max(initial=-1)) + 1, predictions.probabilities.shape[1]), bool)
    has[codes, predictions.labels] = True
    _, kind = np.unique(has, axis=0, return_inverse=True)
    groups = [np.flatnonzero(kind == k) for k in range(int(kind.max(initial=-1)) + 1)]
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
