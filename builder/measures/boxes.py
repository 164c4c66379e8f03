"""How well lesions are found as boxes: average precision, FROC, sensitivity by size, and the worst mistakes.

A box of the network answers a lesion of its own class where their intersection over union reaches a limit; the surest
box comes first, each lesion is answered once, and a second box on the same lesion is a false alarm (the matching of
COCO: Lin et al., ECCV 2014). Average precision is COCO's: the precision at 101 recalls, each the best at no lower
recall, with at most 100 boxes an image and class. Its values come from torchmetrics (faster-coco-eval), its intervals
from the same figure with weights, which the tests hold equal to it.

FROC (Bunch et al., J Appl Photogr Eng 4:166-171, 1978; the rates are those of LUNA16): the share of lesions found where
the threshold is the lowest that gives no more than so many false alarms an image; images without lesions count. It is
a threshold that can be set: nothing is interpolated between two of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from builder.measures import bootstrap
from builder.measures.bootstrap import RESAMPLES, mean_defined, ratio

IOUS = (0.1, 0.3, 0.5)
COCO_IOUS = tuple(round(0.5 + 0.05 * k, 2) for k in range(10))
RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False alarms an image at which FROC is read."""
FROC_IOU = 0.3
MOST = 100  # boxes an image and class, the surest, as COCO counts
SHOWN = 0.3
"""The score from which boxes are shown where none could be chosen (`operating_threshold`)."""
SIZES = ("small", "medium", "large")
_LIMITS = (*IOUS, *(iou for iou in COCO_IOUS if iou not in IOUS))
_PRECISIONS = ("map50", "map", "map30", "map10")
_RECALLS = np.linspace(0, 1, 101)
_GRID = tuple(float(rate) for rate in np.round(2.0 ** np.arange(-4, 4.01, 0.25), 4))


@dataclass(frozen=True)
class Detections:
    """What a run found on N images beside what is there; all arrays, so that one file holds it.

    Attributes:
        boxes: (M, 4) float x0 y0 x1 y1 of what was found. scores: (M,) float. labels: (M,) int.
        images: (M,) int, 0..N-1.
        lesions: (G, 4) float. lesion_labels: (G,) int. lesion_images: (G,) int.
        patients: (N,) int codes. An image is here because it was looked at: without lesions it is a negative.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    images: np.ndarray
    lesions: np.ndarray
    lesion_labels: np.ndarray
    lesion_images: np.ndarray
    patients: np.ndarray

    @classmethod
    def of(
        cls,
        found: Sequence[tuple[Any, Any, Any]],
        there: Sequence[tuple[Any, Any]],
        patients: Sequence[int] | np.ndarray,
    ) -> Detections:
        """From one entry an image: found (boxes (n, 4), scores (n,), labels (n,)), there (boxes (g, 4), labels (g,)).

        Raises:
            ValueError: the lengths differ.
        """
        if not len(found) == len(there) == len(patients):
            raise ValueError(
                f"There are {len(found)} answers, {len(there)} truths and {len(patients)} patients; expected as many "
                "of each as images."
            )

        def joined(parts: list[Any], shape: tuple[int, ...], kind: type) -> np.ndarray:
            return np.concatenate(
                [np.zeros(shape, kind), *(np.asarray(p, kind).reshape(-1, *shape[1:]) for p in parts)]
            )

        def owners(parts: list[Any]) -> np.ndarray:
            return np.repeat(np.arange(len(parts)), [len(part) for part in parts])

        return cls(
            joined([f[0] for f in found], (0, 4), float),
            joined([f[1] for f in found], (0,), float),
            joined([f[2] for f in found], (0,), int),
            owners([f[1] for f in found]),
            joined([t[0] for t in there], (0, 4), float),
            joined([t[1] for t in there], (0,), int),
            owners([t[1] for t in there]),
            np.asarray(patients),
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """Its fields, for a file."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Detections:
        """Reads `arrays`; what else there is in it is left alone."""
        return cls(**{f.name: arrays[f.name] for f in fields(cls)})


@dataclass(frozen=True)
class _Ranked:
    """The boxes of one class, the surest first, and what each answers at each limit.

    Attributes:
        order: (D,) positions in `Detections.boxes`. images: (D,). scores: (D,).
        answers: (T, D) int: the lesion (position in `Detections.lesions`), -1 where none.
        lesions: (L,) positions of the lesions of this class. lesion_images: (L,).
    """

    order: np.ndarray
    images: np.ndarray
    scores: np.ndarray
    answers: np.ndarray
    lesions: np.ndarray
    lesion_images: np.ndarray


def overlaps(boxes: np.ndarray, lesions: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes (n, 4) with lesions (g, 4): (n, g) float64; 0 where both are empty."""
    top, low = (
        np.maximum(boxes[:, None, :2], lesions[None, :, :2]),
        np.minimum(boxes[:, None, 2:], lesions[None, :, 2:]),
    )
    shared = np.clip(low - top, 0, None).prod(2)
    union = _sizes(boxes)[:, None] + _sizes(lesions)[None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def _sizes(boxes: np.ndarray) -> np.ndarray:
    """Areas in square pixels: (n,)."""
    return np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(1)


def _ranked(found: Detections, label: int, limits: Sequence[float], most: int = MOST) -> _Ranked:
    """The boxes of one class in the order and with the matches of COCO."""
    mine = np.flatnonzero(found.labels == label)
    mine = mine[np.lexsort((mine, -found.scores[mine], found.images[mine]))]  # image by image, the surest first
    images = found.images[mine]
    starts = np.flatnonzero(np.r_[True, np.diff(images) > 0]) if len(mine) else np.zeros(0, int)
    place = np.arange(len(mine)) - np.repeat(starts, np.diff(np.r_[starts, len(mine)]))
    mine = mine[place < most]
    lesions = np.flatnonzero(found.lesion_labels == label)
    lesions = lesions[np.argsort(found.lesion_images[lesions], kind="stable")]
    needed = np.minimum(np.asarray(limits), 1 - 1e-10)
    answers = np.full((len(needed), len(mine)), -1)
    images, lesion_images = found.images[mine], found.lesion_images[lesions]
    for image in np.intersect1d(images, lesion_images):
        rows = slice(*np.searchsorted(images, (image, image + 1)))
        here = lesions[slice(*np.searchsorted(lesion_images, (image, image + 1)))]
        shares = overlaps(found.boxes[mine[rows]], found.lesions[here])
        free = np.ones((len(needed), len(here)), bool)
        every = np.arange(len(needed))
        for row in np.flatnonzero(shares.max(1) >= needed.min()):
            open_to = np.where(free, shares[row], -1.0)
            best = len(here) - 1 - open_to[:, ::-1].argmax(1)  # of two that are equally near COCO takes the last
            hit = open_to[every, best] >= needed
            answers[hit, rows.start + row] = here[best[hit]]
            free[every[hit], best[hit]] = False
    rank = np.argsort(-found.scores[mine], kind="stable")
    order = mine[rank]
    return _Ranked(order, found.images[order], found.scores[order], answers[:, rank], lesions, lesion_images)


# -- average precision ------------------------------------------------------------------------------------------------


def average_precision(ranked: _Ranked, weights: np.ndarray) -> np.ndarray:
    """Average precision of one class at each limit for each row of `weights` (B, N images): (B, T) float64.

    NaN where no lesion of the class has weight. With whole weights it equals COCO's on the repeated images.

    Between two hits precision only falls, so the best precision at a recall is that of a hit: only hits are looked at.
    """
    lesions = weights[:, ranked.lesion_images].sum(1)
    drawn = weights[:, ranked.images]
    so_far = np.cumsum(drawn, axis=1)
    found = np.empty((len(weights), len(ranked.answers)))
    for k, answers in enumerate(ranked.answers):
        at = np.flatnonzero(answers >= 0)
        hits = np.cumsum(drawn[:, at], axis=1)
        precision = ratio(hits, so_far[:, at])
        best = np.maximum.accumulate(np.nan_to_num(precision)[:, ::-1], axis=1)[:, ::-1]
        recall = np.divide(hits, lesions[:, None], out=np.zeros_like(hits), where=lesions[:, None] > 0)
        reached = np.searchsorted(_RECALLS, recall, side="right")  # how many of the 101 recalls lie no higher
        gained = np.diff(reached, axis=1, prepend=0)
        found[:, k] = np.where(lesions > 0, (best * gained).sum(1) / len(_RECALLS), np.nan)
    return found


def precisions(by_class: Sequence[_Ranked], weights: np.ndarray) -> dict[str, np.ndarray]:
    """{map10, map30, map50, map: (B,), and each under "class/" (B, K)} for each row of `weights` (B, N images)."""
    tables = np.stack([average_precision(ranked, weights) for ranked in by_class], 1)  # (B, K, limits)
    found = {f"class/{_named(iou)}": tables[:, :, _LIMITS.index(iou)] for iou in IOUS}
    found["class/map"] = tables[:, :, [_LIMITS.index(iou) for iou in COCO_IOUS]].mean(2)
    return {**{name.split("/")[1]: mean_defined(table) for name, table in found.items()}, **found}


def _named(iou: float) -> str:
    return f"map{round(100 * iou)}"


def scores(found: Detections, num_classes: int) -> dict[str, float]:
    """{map50, map, map30, map10, cpm} without intervals, for the validation side while a network learns; {} without
    lesions. Needs numpy alone."""
    ones = np.ones((1, len(found.patients)))
    told = precisions([_ranked(found, label, _LIMITS) for label in range(num_classes)], ones)
    response = _response([_ranked(found, label, (FROC_IOU,)) for label in range(num_classes)])
    told["cpm"] = _cpm(_sensitivities(response, ones, RATES), RATES)
    return {name: float(told[name][0]) for name in (*_PRECISIONS, "cpm") if np.isfinite(told[name][0])}


def precision_by_class(found: Detections, num_classes: int, iou: float = 0.5) -> dict[int, float]:
    """{class: its average precision at `iou`}; a class without lesions is left out."""
    ones = np.ones((1, len(found.patients)))
    told = {k: float(average_precision(_ranked(found, k, (iou,)), ones)[0, 0]) for k in range(num_classes)}
    return {label: value for label, value in told.items() if np.isfinite(value)}


def sureness(found: Detections, num_classes: int, iou: float = 0.5) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """{class: (score of each box, whether it meets a lesion at `iou`)}; each lesion that none met adds (-1, True)."""
    told = {}
    for label in range(num_classes):
        ranked = _ranked(found, label, (iou,))
        hit = ranked.answers[0] >= 0
        missed = len(ranked.lesions) - int(hit.sum())
        told[label] = (np.r_[ranked.scores, np.full(missed, -1.0)], np.r_[hit, np.ones(missed, bool)])
    return told


def reference(found: Detections, num_classes: int) -> dict[str, np.ndarray]:
    """As `precisions` with all weights 1, computed by torchmetrics with faster-coco-eval.

    The recalls are COCO's own doubles; torchmetrics alone would round them to single precision.
    """
    import torch
    from torchmetrics.detection import MeanAveragePrecision

    metric = MeanAveragePrecision(
        backend="faster_coco_eval",
        iou_thresholds=list(_LIMITS),
        rec_thresholds=_RECALLS.tolist(),
        max_detection_thresholds=[1, 10, MOST],
        extended_summary=True,
    )
    metric.warn_on_many_detections = False
    for image in range(len(found.patients)):
        mine, true = found.images == image, found.lesion_images == image
        answered = {
            "boxes": torch.from_numpy(found.boxes[mine]),
            "scores": torch.from_numpy(found.scores[mine]),
            "labels": torch.from_numpy(found.labels[mine]),
        }
        given = {"boxes": torch.from_numpy(found.lesions[true]), "labels": torch.from_numpy(found.lesion_labels[true])}
        metric.update([answered], [given])
    told = metric.compute()
    precision = told["precision"][:, :, :, 0, -1].numpy()  # limits, recalls, observed classes; all sizes, most boxes
    table = np.full((1, num_classes, len(_LIMITS)), np.nan)
    for column, label in enumerate(np.atleast_1d(told["classes"].numpy())):
        if precision.shape[2] > column and (precision[:, :, column] > -1).all():
            table[0, int(label)] = precision[:, :, column].mean(1)
    by_iou = {f"class/{_named(iou)}": table[:, :, _LIMITS.index(iou)] for iou in IOUS}
    by_iou["class/map"] = table[:, :, [_LIMITS.index(iou) for iou in COCO_IOUS]].mean(2)
    return {**{name.split("/")[1]: mean_defined(value) for name, value in by_iou.items()}, **by_iou}


# -- free response ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Response:
    """Boxes of one class or of all, the surest first: image and tie of each, the image of each lesion that was found.

    Attributes:
        images: (D,) of every box. alarm: (D,) bool, it answers no lesion.
        hits: (T,) positions of the boxes that answer one. ends: (T,) the last position with the score of that box.
        lesion_images: (L,).
    """

    images: np.ndarray
    alarm: np.ndarray
    hits: np.ndarray
    ends: np.ndarray
    lesion_images: np.ndarray


def _response(parts: Sequence[_Ranked]) -> _Response:
    """Joins classes; of their limits the first counts."""
    scores = np.concatenate([np.zeros(0), *(part.scores for part in parts)])
    rank = np.argsort(-scores, kind="stable")
    scores = scores[rank]
    images = np.concatenate([np.zeros(0, int), *(part.images for part in parts)])[rank]
    alarm = np.concatenate([np.zeros(0, int), *(part.answers[0] for part in parts)])[rank] < 0
    hits = np.flatnonzero(~alarm)
    ends = np.searchsorted(-scores, -scores[hits], side="right") - 1
    lesion_images = np.concatenate([np.zeros(0, int), *(part.lesion_images for part in parts)])
    return _Response(images, alarm, hits, ends, lesion_images)


def _sensitivities(response: _Response, weights: np.ndarray, rates: Sequence[float]) -> np.ndarray:
    """Share of lesions found at no more than each rate of false alarms an image: (B, len(rates)), NaN without any."""
    drawn = weights[:, response.images]
    alarms = np.cumsum(drawn * response.alarm, axis=1)[:, response.ends]  # were the threshold at the score of each hit
    found = np.concatenate([np.zeros((len(weights), 1)), np.cumsum(drawn[:, response.hits], axis=1)], axis=1)
    lesions, images = weights[:, response.lesion_images].sum(1), weights.sum(1)
    told = np.empty((len(weights), len(rates)))
    for k, rate in enumerate(rates):
        within = (alarms <= (rate * images)[:, None] + 1e-9).sum(1)
        told[:, k] = ratio(found[np.arange(len(weights)), within], lesions)
    return told


def operating_threshold(found: Detections, num_classes: int, rate: float = 1.0, iou: float = FROC_IOU) -> float | None:
    """The score from which boxes are shown so that no more than `rate` false alarms an image come with them.

    To be chosen on the validation side and carried to the test side. It lies halfway between the last hit that is let
    in and the next lower score. None where no lesion is found at that rate.
    """
    ranked = [_ranked(found, label, (iou,)) for label in range(num_classes)]
    response = _response(ranked)
    scores = np.sort(np.concatenate([np.zeros(0), *(part.scores for part in ranked)]))[::-1]
    within = int((np.cumsum(response.alarm)[response.ends] <= rate * len(found.patients) + 1e-9).sum())
    if not within:
        return None
    end = int(response.ends[within - 1])
    return float(scores[end] + scores[end + 1]) / 2 if end + 1 < len(scores) else float(scores[end])


def _chosen_here(found: Detections, num_classes: int, iou: float = FROC_IOU) -> tuple[float, str]:
    """The score from which boxes are shown where nobody says it, and who chose it: "here", or "nobody"."""
    least = operating_threshold(found, num_classes, iou=iou)
    return (SHOWN, "nobody") if least is None else (least, "here")


# -- all of it --------------------------------------------------------------------------------------------------------


def report(
    found: Detections,
    classes: tuple[str, ...],
    resamples: int = RESAMPLES,
    seed: int = 0,
    *,
    threshold: float | None = None,
    chosen: str = "validation",
    iou: float = FROC_IOU,
    size_bounds_px: tuple[float, float] | None = None,
    most: int = 24,
) -> dict[str, Any]:
    """All figures on one set of detections as plain JSON data.

    Args:
        threshold: score from which a box is shown, chosen on the validation side (`operating_threshold`); without one
            it is chosen here, at one false alarm an image, and a note says so. chosen: "nobody" where validation could
            choose none, and this is the score from which the run shows boxes all the same.
        iou: how much a box must overlap a lesion, for FROC, the operating point and the mistakes.
        size_bounds_px: sides (square root of the area) that part small from medium from large lesions, such as COCO's
            (32, 96); without them the terciles of the lesions here.
        most: how many misses and false alarms are listed.
    Returns:
        {n (images), patients, classes, lesions, without_lesions (images), metrics {map50, map, map30, map10, cpm and,
        at the operating point, sensitivity, sensitivity_small, _medium, _large, ppv, false_alarms_per_image,
        image_specificity (images without lesions in which nothing is shown): {value, low, high}}, per_class {class: {n,
        map50, map, map30, map10, cpm, sensitivity}}, froc {iou, at {"0.125": {value, low, high}, ...}, curve
        {false_alarms, sensitivity, low, high}}, operating_point {threshold, chosen ("validation", "here" or
        "nobody": `SHOWN`), iou}, sizes {bounds_px, n, rule},
        misses [{image, lesion, box, class, size, score}], false_alarms [{image, box, class, score, overlap, why}],
        interval, notes}. A miss's score is that of the surest box of its class upon it (IoU 0.1), None without one.
    """
    num_classes, num_images = len(classes), len(found.patients)
    by_class = [_ranked(found, label, _LIMITS) for label in range(num_classes)]
    at_iou = [_ranked(found, label, (iou,)) for label in range(num_classes)]
    responses = [_response([part]) for part in at_iou]
    together = _response(at_iou)
    if threshold is None:
        threshold, chosen = _chosen_here(found, num_classes, iou)
    bounds, rule = _bounds(found, size_bounds_px)
    counts, names = _counts(found, at_iou, threshold, bounds)

    def figures(weights: np.ndarray) -> dict[str, np.ndarray]:
        told = precisions(by_class, weights)
        told["froc"] = _sensitivities(together, weights, _GRID)
        told["cpm"] = _cpm(told["froc"])
        told["class/cpm"] = np.stack([_cpm(_sensitivities(r, weights, RATES), RATES) for r in responses], 1)
        sums = weights @ counts
        told |= {name: ratio(sums[:, a], sums[:, b]) for name, (a, b) in names.items()}
        told["class/sensitivity"] = np.stack([told.pop(f"class{k}") for k in range(num_classes)], 1)
        return told

    who = found.patients
    having = [_num_patients(who, part.lesion_images) for part in at_iou]
    rests_on: dict[str, Any] = dict.fromkeys((*_PRECISIONS, "cpm", "froc"), _num_patients(who, together.lesion_images))
    rests_on |= dict.fromkeys([f"class/{name}" for name in (*_PRECISIONS, "cpm", "sensitivity")], having)
    for name, (_, below) in names.items():
        rests_on[name] = _num_patients(who, counts[:, below] > 0)
    told = bootstrap.intervals(
        figures,
        who,
        resamples,
        seed,
        width=len(together.images),
        shares=set(rests_on) - {"false_alarms_per_image"},
        shifted={*_PRECISIONS, *(f"class/{name}" for name in _PRECISIONS)},
        rests_on=rests_on,
        events=("false_alarms_per_image",),
    )
    exact = reference(found, num_classes) if num_images else {}
    for name, value in exact.items():
        for figure, true in zip(np.atleast_1d(told[name]), value[0] if value.ndim > 1 else value, strict=True):
            if figure["value"] is not None:
                figure["value"] = float(true)
    wanted = (*_PRECISIONS, "cpm", "sensitivity", *(f"sensitivity_{size}" for size in SIZES))
    wanted += ("ppv", "false_alarms_per_image", "image_specificity")
    per_class = {
        name: {
            "n": len(at_iou[k].lesions),
            **{key: told[f"class/{key}"][k] for key in (*_PRECISIONS, "cpm", "sensitivity")},
        }
        for k, name in enumerate(classes)
    }
    curve = told["froc"]
    sizes = _size_of(found.lesions, bounds)
    return {
        "n": num_images,
        "patients": len(np.unique(who)),
        "classes": list(classes),
        "lesions": len(found.lesions),
        "without_lesions": len(_clear_images(found)),
        "metrics": {name: told[name] for name in wanted},
        "per_class": per_class,
        "froc": {
            "iou": iou,
            "at": {f"{rate:g}": curve[_GRID.index(rate)] for rate in RATES},
            "curve": {
                "false_alarms": list(_GRID),
                **{key: [f[end] for f in curve] for key, end in (("sensitivity", "value"), ("low", "low"))},
                "high": [f["high"] for f in curve],
            },
        },
        "operating_point": {"threshold": threshold, "chosen": chosen, "iou": iou},
        "sizes": {
            "bounds_px": None if bounds is None else list(bounds),
            "n": {size: int((sizes == k).sum()) for k, size in enumerate(SIZES)},
            "rule": rule,
        },
        "misses": _misses(found, at_iou, threshold, classes, most),
        "false_alarms": _false_alarms(found, at_iou, threshold, classes, iou, most),
        "interval": bootstrap.described(resamples, _PRECISIONS),
        "notes": _remarks(classes, having, chosen, threshold),
    }


def by_image(found: Detections, num_classes: int, threshold: float | None) -> tuple[np.ndarray, bootstrap.Figures]:
    """(lesions found, boxes shown and lesions of each image (N, 3); {sensitivity, false_alarms_per_image, map50} as a
    function of weights) at a threshold, without one at that of `operating_threshold`, else at `SHOWN`."""
    parts = [_ranked(found, label, (FROC_IOU,)) for label in range(num_classes)]
    halves = [_ranked(found, label, (0.5,)) for label in range(num_classes)]
    least = _chosen_here(found, num_classes)[0] if threshold is None else threshold
    table, names = _counts(found, parts, least, None)
    hit, there, alarms = names["sensitivity"][0], names["sensitivity"][1], names["false_alarms_per_image"][0]
    counts = np.stack([table[:, hit], table[:, alarms] + table[:, hit], table[:, there]], 1)

    def figures(weights: np.ndarray) -> dict[str, np.ndarray]:
        hits, shown, lesions = (weights @ counts).T
        precision = np.stack([average_precision(half, weights)[:, 0] for half in halves], 1)
        return {
            "sensitivity": ratio(hits, lesions),
            "false_alarms_per_image": ratio(shown - hits, weights.sum(1)),
            "map50": mean_defined(precision),
        }

    return counts, figures


def _cpm(sensitivities: np.ndarray, rates: Sequence[float] = _GRID) -> np.ndarray:
    """Mean sensitivity over the seven rates of `RATES` (the score of LUNA16): (B,)."""
    return sensitivities[:, [list(rates).index(rate) for rate in RATES]].mean(1)


def _bounds(found: Detections, given: tuple[float, float] | None) -> tuple[tuple[float, float] | None, str]:
    """Sides in px that part the sizes, and the rule in words."""
    if given is not None:
        return given, f"the square root of a lesion's area, parted at {given[0]:g} and {given[1]:g} px"
    if not len(found.lesions):
        return None, "no lesion, no sizes"
    first, second = (float(b) for b in np.quantile(np.sqrt(_sizes(found.lesions)), (1 / 3, 2 / 3)))
    words = (
        f"the square root of a lesion's area, parted at the terciles of these lesions ({first:.1f}, {second:.1f} px)"
    )
    return (first, second), words


def _size_of(lesions: np.ndarray, bounds: tuple[float, float] | None) -> np.ndarray:
    """0, 1 or 2 of each lesion (n, 4): at most the first bound, at most the second, more."""
    if bounds is None:
        return np.zeros(len(lesions), int)
    return np.searchsorted(np.asarray(bounds), np.sqrt(_sizes(lesions)), side="left")


def _shown(part: _Ranked, limit: float) -> np.ndarray:
    """Which boxes of a class are shown: (D,) bool."""
    return part.scores >= limit


def _found_lesions(parts: Sequence[_Ranked], limit: float) -> np.ndarray:
    """Positions of the lesions that a shown box answers."""
    every = [part.answers[0][_shown(part, limit)] for part in parts]
    answered = np.concatenate([np.zeros(0, int), *every])
    return answered[answered >= 0]


def _counts(
    found: Detections, parts: Sequence[_Ranked], limit: float, bounds: tuple[float, float] | None
) -> tuple[np.ndarray, dict[str, tuple[int, int]]]:
    """Counts of each image (N, columns), and for each figure at the operating point the columns it is the ratio of."""
    num_images = len(found.patients)

    def per_image(images: np.ndarray) -> np.ndarray:
        return np.bincount(images, minlength=num_images).astype(np.float64)

    hit = np.zeros(len(found.lesions), bool)
    hit[_found_lesions(parts, limit)] = True
    shown = per_image(np.concatenate([np.zeros(0, int), *(part.images[_shown(part, limit)] for part in parts)]))
    hits = per_image(found.lesion_images[hit])
    clear = np.zeros(num_images)
    clear[_clear_images(found)] = 1
    columns: list[np.ndarray] = []
    names: dict[str, tuple[int, int]] = {}

    def tell(name: str, above: np.ndarray, below: np.ndarray) -> None:
        names[name] = (len(columns), len(columns) + 1)
        columns.extend((above, below))

    tell("sensitivity", hits, per_image(found.lesion_images))
    size = _size_of(found.lesions, bounds)
    for k, name in enumerate(SIZES):
        tell(
            f"sensitivity_{name}",
            per_image(found.lesion_images[hit & (size == k)]),
            per_image(found.lesion_images[size == k]),
        )
    for k in range(len(parts)):
        mine = found.lesion_labels == k
        tell(f"class{k}", per_image(found.lesion_images[hit & mine]), per_image(found.lesion_images[mine]))
    tell("ppv", hits, shown)
    tell("false_alarms_per_image", shown - hits, np.ones(num_images))
    tell("image_specificity", clear * (shown == 0), clear)
    return np.stack(columns, 1), names


def _clear_images(found: Detections) -> np.ndarray:
    """Images without any lesion."""
    return np.setdiff1d(np.arange(len(found.patients)), found.lesion_images)


def _num_patients(patients: np.ndarray, images: np.ndarray) -> int:
    return len(np.unique(patients[images]))


def _misses(
    found: Detections, parts: Sequence[_Ranked], limit: float, classes: tuple[str, ...], most: int
) -> list[dict[str, Any]]:
    """Lesions that no shown box answers: those with the least sign of being seen first, of these the largest."""
    missed = np.setdiff1d(np.arange(len(found.lesions)), _found_lesions(parts, limit))
    rows = []
    for lesion in missed:
        label, image = int(found.lesion_labels[lesion]), int(found.lesion_images[lesion])
        near = np.flatnonzero((found.images == image) & (found.labels == label))
        upon = near[overlaps(found.boxes[near], found.lesions[lesion : lesion + 1])[:, 0] >= min(IOUS)]
        score = float(found.scores[upon].max()) if len(upon) else None
        rows.append((score or 0.0, -float(_sizes(found.lesions[lesion : lesion + 1])[0]), int(lesion), score))
    return [
        {
            "image": int(found.lesion_images[lesion]),
            "lesion": lesion,
            "box": _plain(found.lesions[lesion]),
            "class": classes[int(found.lesion_labels[lesion])],
            "size_px": round(float(np.sqrt(-area)), 1),
            "score": score,
        }
        for _, area, lesion, score in sorted(rows, key=lambda row: row[:3])[:most]
    ]


def _false_alarms(
    found: Detections, parts: Sequence[_Ranked], limit: float, classes: tuple[str, ...], iou: float, most: int
) -> list[dict[str, Any]]:
    """Shown boxes that answer no lesion, the surest first."""
    wrong = np.concatenate(
        [np.zeros(0, int), *(part.order[_shown(part, limit) & (part.answers[0] < 0)] for part in parts)]
    )
    wrong = wrong[np.argsort(-found.scores[wrong], kind="stable")][:most]
    rows = []
    for box in wrong:
        here = np.flatnonzero(found.lesion_images == found.images[box])
        shares = overlaps(found.boxes[box : box + 1], found.lesions[here])[0]
        best = int(shares.argmax()) if len(here) else -1
        overlap = float(shares[best]) if len(here) else 0.0
        if overlap < min(*IOUS, iou):
            why = "nothing there"
        elif found.lesion_labels[here[best]] != found.labels[box]:
            why = "another class"
        else:
            why = "found already" if overlap >= iou else "badly placed"
        rows.append(
            {
                "image": int(found.images[box]),
                "box": _plain(found.boxes[box]),
                "class": classes[int(found.labels[box])],
                "score": round(float(found.scores[box]), 4),
                "overlap": round(overlap, 3),
                "why": why,
            }
        )
    return rows


def _plain(box: np.ndarray) -> list[float]:
    return [round(float(edge), 2) for edge in box]


def _remarks(classes: tuple[str, ...], having: Sequence[int], chosen: str, threshold: float) -> list[str]:
    said = []
    if chosen == "nobody":
        said.append(
            "No threshold could be chosen, as no lesion was found at one false alarm an image: boxes count from a "
            f"score of {threshold:g} on, as they are shown in use."
        )
    elif chosen == "here":
        said.append("The threshold was chosen on these very images, so the figures at it are too good.")
    for name, patients in zip(classes, having, strict=True):
        if patients == 0:
            said.append(f"Class {name!r} has no lesion here: its figures are undefined and left out of the means.")
        elif patients < 10:
            who = "one patient" if patients == 1 else f"{patients} patients"
            said.append(f"Class {name!r} has lesions in only {who} here: its interval tells little.")
    return said
