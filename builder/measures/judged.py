"""Answers case by case: the figures of any part of the cases, and a mark for each where answers are not right or wrong.

What a task answers differs (classes, boxes, outlines, pictures); who looks at groups of cases asks here, and needs not
know which it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from builder.measures import boxes, classes, outlines, pictures
from builder.measures.bootstrap import Figures, means

__all__ = [
    "EVENTS",
    "LESS_IS_BETTER",
    "SHARES",
    "SHIFTED",
    "Judged",
    "Part",
    "of_boxes",
    "of_classes",
    "of_outlines",
    "of_pictures",
]

SHARES = ("auc", "accuracy", "balanced_accuracy", "map50", "sensitivity", "dice", "ssim")
"""Figures of a part that lie in 0..1."""
SHIFTED = ("map50",)
"""Figures that resampling moves."""
EVENTS = ("false_alarms_per_image",)
"""Figures of a part that are numbers of events."""
LESS_IS_BETTER = ("false_alarms_per_image",)


@dataclass(frozen=True)
class Part:
    """Figures that rest on the same rows.

    Attributes:
        rows: (N,) bool. names: of the figures. headlines: those by which groups are compared in words.
        figures: some of its rows, (N,) bool, -> their figures as a function of weights (B, as many as they are).
        rests_on: some of its rows -> how many patients figures of them rest on, as `bootstrap.intervals` takes it.
    """

    rows: np.ndarray
    names: tuple[str, ...]
    headlines: tuple[str, ...]
    figures: Callable[[np.ndarray], Figures]
    rests_on: Callable[[np.ndarray], Mapping[str, Any]] = lambda rows: {}


@dataclass(frozen=True)
class Judged:
    """What was answered, a row for each picture that is judged by itself: a case, or one of its slices.

    Attributes:
        cases: (N,) ids. patients: (N,) codes. parts: its figures.
        marks: {case id: how good its answer is, more is better}; {} where answers are right or wrong. marked: what such
            a mark is called.
    """

    cases: np.ndarray
    patients: np.ndarray
    parts: tuple[Part, ...]
    marks: Mapping[str, float]
    marked: str = ""

    @property
    def headlines(self) -> tuple[str, ...]:
        """The figures by which groups are compared in words."""
        return tuple(name for part in self.parts for name in part.headlines)


def of_classes(examined: Mapping[str, np.ndarray]) -> Judged | None:
    """Answers with classes, of the cases whose class is known (see `classes.Predictions.of`); None where none is."""
    told = classes.Predictions.of(examined)
    if told is None:
        return None
    names = ("auc", "accuracy", "balanced_accuracy")

    def only(rows: np.ndarray) -> classes.Predictions:
        return classes.Predictions(told.probabilities[rows], told.labels[rows], told.patients[rows], told.cases[rows])

    def figures(rows: np.ndarray) -> Figures:
        own = only(rows)
        return lambda weights: {n: v for n, v in classes.figures(own, weights).items() if n in names}

    def rests_on(rows: np.ndarray) -> Mapping[str, Any]:
        return classes.rests_on(only(rows))

    part = Part(np.ones(len(told.cases), bool), names, ("auc",), figures, rests_on)
    return Judged(told.cases, told.patients, (part,), {})


def of_boxes(found: boxes.Detections, cases: np.ndarray, num_classes: int, threshold: float | None) -> Judged:
    """Lesions found as boxes, at the threshold that validation chose (without one: see `boxes.by_image`).

    The mark of a case is how well boxes and lesions agree: 2 x lesions found / (boxes shown + lesions), the Dice
    coefficient of counts; 1 where there are neither.
    """
    counts, whole = boxes.by_image(found, num_classes, threshold)
    num = len(found.patients)

    def figures(rows: np.ndarray) -> Figures:
        def of_rows(weights: np.ndarray) -> dict[str, np.ndarray]:
            spread = np.zeros((len(weights), num))
            spread[:, rows] = weights
            return whole(spread)

        return of_rows

    names = ("sensitivity", "false_alarms_per_image", "map50")
    part = Part(np.ones(num, bool), names, names[:2], figures)
    ids, codes = np.unique(cases, return_inverse=True)
    hits, shown, lesions = (np.bincount(codes, column, minlength=len(ids)) for column in counts.T)
    agreed = np.divide(2 * hits, shown + lesions, out=np.ones(len(ids)), where=shown + lesions > 0)
    return Judged(cases, found.patients, (part,), _by_case(ids, agreed), "agreement of boxes and lesions")


def of_outlines(examined: Mapping[str, np.ndarray], found: outlines.Outlines, masked: np.ndarray) -> Judged | None:
    """Outlines and types of the same cases; None where neither is known.

    Args:
        examined: {cases (N,), patients (N,)} and, of those with a type, what `of_classes` reads.
        found: of the cases that `masked` (N,) bool names.

    The mark of a case is its Dice, and without a lesion 1 where nothing is outlined, else 0.
    """
    cases, patients = examined["cases"], examined["patients"]
    parts: list[Part] = []
    marks: dict[str, float] = {}
    if masked.any():
        own, _ = outlines.overlap(found.both, found.answered, found.given)
        dice = np.full(len(cases), np.nan)
        dice[masked] = np.where(found.given > 0, own, np.nan)
        parts.append(Part(np.isfinite(dice), ("dice",), ("dice",), lambda rows: means({"dice": dice[rows]})))
        marks = _by_case(cases[masked], np.where(np.isnan(own), 1.0, own))
    if (types := of_classes(examined)) is not None:
        (part,), typed = types.parts, np.isin(cases, types.cases)
        of_types = (lambda rows: part.figures(rows[typed])), (lambda rows: part.rests_on(rows[typed]))
        parts.append(Part(typed, part.names, part.headlines, *of_types))
    return Judged(cases, patients, tuple(parts), marks, "Dice") if parts else None


def of_pictures(found: pictures.Pictures, cases: np.ndarray) -> Judged:
    """Restored pictures, seen through the first window. The mark of a case is the mean PSNR (dB) that its slices gained
    over the input."""
    out, came = (list(found.ways).index(way) for way in (pictures.OUTPUT, pictures.INPUT))
    psnr, ssim = found.psnr_db[:, :, 0], found.ssim[:, :, 0]
    told = {"psnr_gain_db": psnr[:, out] - psnr[:, came], "psnr_db": psnr[:, out], "ssim": ssim[:, out]}
    part = Part(
        np.ones(len(cases), bool),
        tuple(told),
        ("psnr_gain_db",),
        lambda rows: means({name: values[rows] for name, values in told.items()}),
    )
    ids, codes = np.unique(cases, return_inverse=True)
    gained = np.bincount(codes, told["psnr_gain_db"], minlength=len(ids)) / np.bincount(codes, minlength=len(ids))
    return Judged(cases, found.patients, (part,), _by_case(ids, gained), "PSNR gained over the input, in dB")


def _by_case(ids: np.ndarray, marks: np.ndarray) -> dict[str, float]:
    return {str(id): float(mark) for id, mark in zip(ids, marks, strict=True)}
