"""What a simple rule on frozen features makes of scans that it was not fitted to: the naive split beside the honest
one, and labels that look wrong.

The rule is logistic regression on the main axes of a packaged network's features (see `baseline`). It is fitted again
and again without some of the scans, which it is then asked about, so that no scan is answered from memory. The test
side takes no part: neither its labels nor its pictures.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

__all__ = ["main_axes", "naive", "out_of_fold", "suspects"]

AXES = 64
"""Main axes of the features that are looked at: enough for what frozen features tell, and fitted in milliseconds."""
REPEATS = 10
_HELD_OUT = 0.3
STRENGTH = 0.03  # of the regression, after the axes have unit variance; as `baseline` mostly chooses
SURER = 0.1  # for suspects: probabilities that commit themselves
_FOLDS = 5
_TIMES = 5  # as likely must another class be than the one that is given, to accuse a label
_FEWEST = 3  # groups of a class, below which it cannot be held out


def main_axes(features: np.ndarray) -> np.ndarray:
    """(N, at most 64) float64 of mean 0 and variance 1: features (N, F) on their main axes. No label is looked at."""
    centred = (features - features.mean(0)).astype(np.float64)
    centred /= centred.std(0) + 1e-6
    if len(centred) > centred.shape[1]:  # whichever of the two square matrices is the smaller one
        strength, across = np.linalg.eigh(centred.T @ centred)
        found = centred @ across[:, ::-1][:, :AXES]
    else:
        strength, along = np.linalg.eigh(centred @ centred.T)
        found = along[:, ::-1][:, :AXES]
    strength = strength[::-1][: found.shape[1]]
    found = found[:, strength > 1e-9 * max(float(strength[0]), 1e-9)]
    axes: np.ndarray = found / np.maximum(found.std(0), 1e-12)
    return axes


def naive(axes: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """What a random split of the pictures would have claimed, and what a split by patient and copies finds.

    Both hold the same number of scans back, in each repeat anew (`REPEATS` times): one draws whole groups, the other
    pictures, of which some stand beside others of their patient.

    Args:
        axes: (N, A). labels: (N,) class indices. groups: (N,), what must stay together.
    Returns: {honest, naive, gain: {value, low, high} (mean AUC over classes; the ends are the least and largest of the
        repeats, of `gain` the 2.5 and 97.5 percent points of a paired t distribution), n, groups, repeats, differs}.
        `differs` False: every scan is a group of its own, so that both splits are the same.
    """
    from scipy import stats

    random = np.random.default_rng(seed)
    own = np.unique(groups)
    found: dict[str, list[float]] = {"honest": [], "naive": []}
    for _ in range(REPEATS if len(own) < len(groups) else 0):
        held = _whole_groups(groups, labels, random)
        pictures = _pictures(int(held.sum()), labels, random)
        pair = [_area(axes, labels, out) for out in (held, pictures)]
        if all(area is not None for area in pair):
            for name, area in zip(found, pair, strict=True):
                found[name].append(float(area or 0))
    told: dict[str, Any] = {
        name: {"value": float(np.mean(areas)), "low": min(areas), "high": max(areas)} if areas else None
        for name, areas in found.items()
    }
    gains = np.array(found["naive"]) - np.array(found["honest"])
    gain = None
    if len(gains) > 2:
        # Splits overlap, so their figures are not independent: the variance is widened (Nadeau and Bengio, Machine
        # Learning 52:239, 2003).
        spread = gains.std(ddof=1) * np.sqrt(1 / len(gains) + _HELD_OUT / (1 - _HELD_OUT))
        reach = float(stats.t.ppf(0.975, len(gains) - 1) * spread)
        gain = {"value": float(gains.mean()), "low": float(gains.mean()) - reach, "high": float(gains.mean()) + reach}
    return {
        **told,
        "gain": gain,
        "n": len(labels),
        "groups": len(own),
        "repeats": len(gains),
        "differs": len(own) < len(groups),
    }


def _whole_groups(groups: np.ndarray, labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """(N,) bool: about 30 % of the scans, whole groups, every class as far as it goes."""
    held = np.zeros(len(groups), bool)
    for label in np.unique(labels):
        wanted = _HELD_OUT * (labels == label).sum()
        for group in random.permutation(np.unique(groups[labels == label])):
            if held[labels == label].sum() >= wanted:
                break
            held |= groups == group
    return held


def _pictures(num: int, labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """(N,) bool: about `num` scans, the same share of every class."""
    held = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        of_class = np.flatnonzero(labels == label)
        held[random.permutation(of_class)[: max(1, round(num * len(of_class) / len(labels)))]] = True
    return held


def _area(axes: np.ndarray, labels: np.ndarray, held: np.ndarray) -> float | None:
    """Mean AUC of the held-out scans over classes; None where they, or the others, hold fewer than two."""
    from sklearn.metrics import roc_auc_score

    if len(np.unique(labels[~held])) < 2 or len(np.unique(labels[held])) < 2:
        return None
    chances = _fitted(axes[~held], labels[~held], axes[held], int(labels.max()) + 1)
    areas = []
    for label in np.unique(labels[held]):
        positive = labels[held] == label
        areas.append(roc_auc_score(positive, chances[:, label]))
    return float(np.mean(areas))


def _fitted(
    axes: np.ndarray, labels: np.ndarray, asked: np.ndarray, num_classes: int, strength: float = STRENGTH
) -> np.ndarray:
    """(M, K) probabilities of `asked` by a regression on the others."""
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it need not converge to the last digit
        rule = LogisticRegression(C=strength, class_weight="balanced", max_iter=200).fit(axes, labels)
    found = np.zeros((len(asked), num_classes))
    found[:, rule.classes_] = rule.predict_proba(asked)
    return found


def folds(groups: np.ndarray, labels: np.ndarray, seed: int = 0, num: int = _FOLDS) -> Iterator[np.ndarray]:
    """(N,) bool each: the scans of a fold; whole groups, the classes spread evenly."""
    random = np.random.default_rng(seed)
    fold_of: dict[int, int] = {}
    filled = np.zeros((num, int(labels.max(initial=0)) + 1))
    names = random.permutation(np.unique(groups))
    sizes = {int(g): int((groups == g).sum()) for g in names}
    for group in sorted((int(g) for g in names), key=lambda g: -sizes[g]):
        own = np.bincount(labels[groups == group], minlength=filled.shape[1])
        fold = int(np.argmin((filled * own).sum(1) + 1e-3 * filled.sum(1)))
        fold_of[group] = fold
        filled[fold] += own
    of_case = np.array([fold_of[int(group)] for group in groups])
    for fold in range(num):
        yield of_case == fold


def out_of_fold(
    axes: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    num_classes: int,
    seed: int = 0,
    strength: float = STRENGTH,
) -> np.ndarray:
    """(N, K) probabilities of each scan by a rule that was fitted without its group; NaN where a fold has no rule."""
    chances = np.full((len(labels), num_classes), np.nan)
    for held in folds(groups, labels, seed):
        if held.any() and len(np.unique(labels[~held])) > 1:
            chances[held] = _fitted(axes[~held], labels[~held], axes[held], num_classes, strength)
    return chances


def suspects(chances: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
    """Scans whose label looks wrong, the most suspect first, by confident learning.

    A scan counts as of class j where its probability of j is at least the mean probability of j over the scans that
    carry j; of several such classes the likeliest. It is a suspect where that is not its label (Northcutt, Jiang and
    Chuang, JAIR 70:1373, 2021) and five times as likely: the rule is a weak one, and accuses cautiously. They are
    ordered by how much likelier the other class is.

    Args:
        chances: (N, K) out of fold. labels: (N,).
    Returns: [{row, given, says (class indices), sure, own (probabilities of the two)}].
    """
    known = np.isfinite(chances).all(1)
    num_classes = chances.shape[1]
    limits = np.array(
        [
            chances[known & (labels == k), k].mean() if (known & (labels == k)).any() else np.inf
            for k in range(num_classes)
        ]
    )
    found = []
    for row in np.flatnonzero(known):
        counted = np.flatnonzero(chances[row] >= limits)
        if not len(counted):
            continue
        says, given = int(counted[chances[row, counted].argmax()]), int(labels[row])
        if says != given and chances[row, says] > _TIMES * chances[row, given]:
            sure, own = float(chances[row, says]), float(chances[row, given])
            found.append({"row": int(row), "given": given, "says": says, "sure": round(sure, 3), "own": round(own, 3)})
    return sorted(found, key=lambda one: one["own"] - one["sure"])


def enough(labels: Sequence[int] | np.ndarray, groups: np.ndarray) -> bool:
    """Whether two classes have enough groups each to hold some out."""
    labels = np.asarray(labels)
    counts = [len(np.unique(groups[labels == label])) for label in np.unique(labels)]
    return sum(count >= _FEWEST for count in counts) >= 2 and len(labels) >= 4 * _FOLDS
