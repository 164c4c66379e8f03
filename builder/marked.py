"""What readers and a network mark on scans: lesions as boxes, counted as found, missed and falsely alarmed.

A mark answers a lesion of its class on its slice where their intersection over union reaches `measures.boxes.FROC_IOU`,
each lesion once (as in FROC; people draw loosely, so the limit is not a strict one). An outline counts by the boxes
around its separate parts.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from builder.data import Dataset
from builder.labels import pack, unpack
from builder.measures import bootstrap
from builder.measures.boxes import FROC_IOU, SHOWN, Detections, overlaps
from builder.parting import dataset_of
from builder.runs import Run

Mark = tuple[float, float, float, float, int, int]
"""x0, y0, x1, y1 in pixels of the stored slice, class (or structure), slice."""
LEAST_PX = 4
"""Parts of an outline that are smaller, in pixels, are crumbs of a brush and count as nothing."""


def checked(marks: Sequence[Sequence[float]], num_classes: int, shape: Sequence[int]) -> tuple[Mark, ...]:
    """Marks as they are kept: corners in order, within a scan (S, H, W).

    Raises: ValueError: a class or slice that is not there, or numbers that are none.
    """
    slices, height, width = shape
    found = []
    for x0, y0, x1, y1, label, index in marks:
        if not (0 <= int(label) < num_classes and 0 <= int(index) < slices):
            raise ValueError("A mark is of no class or on no slice of this scan.")
        if not np.isfinite([x0, y0, x1, y1]).all():
            raise ValueError("A mark has a corner that is no number.")
        (left, right), (top, low) = sorted((x0, x1)), sorted((y0, y1))
        corners = (max(left, 0.0), max(top, 0.0), min(right, float(width)), min(low, float(height)))
        if corners[2] > corners[0] and corners[3] > corners[1]:
            found.append((*(round(float(v), 2) for v in corners), int(label), int(index)))
    return tuple(sorted(found, key=lambda mark: (mark[5], mark[4], mark[:4])))  # type: ignore[arg-type,return-value]


def of_mask(mask: np.ndarray) -> tuple[Mark, ...]:
    """The boxes around the separate parts of an outline (S, H, W), uint8; structure k is class k - 1."""
    from scipy.ndimage import find_objects, label

    found: list[Mark] = []
    for index, plane in enumerate(mask):
        for structure in np.unique(plane[plane > 0]):
            parts, _ = label(plane == structure, np.ones((3, 3)))
            for number, place in enumerate(find_objects(parts), 1):
                if place is not None and int((parts[place] == number).sum()) >= LEAST_PX:
                    rows, columns = place
                    corners = (float(columns.start), float(rows.start), float(columns.stop), float(rows.stop))
                    found.append((*corners, int(structure) - 1, index))
    return tuple(found)


def packed(mask: np.ndarray) -> str:
    """A mask of 0 and 1 as few letters; "" where it is empty."""
    return base64.b64encode(pack(mask)).decode() if mask.any() else ""


def unpacked(text: str, shape: Sequence[int]) -> np.ndarray:
    """Reads `packed`: uint8 of `shape`."""
    return unpack(base64.b64decode(text), tuple(shape)) if text else np.zeros(tuple(shape), np.uint8)


# -- what is read -----------------------------------------------------------------------------------------------------


def of_detections(examined: Mapping[str, np.ndarray], dataset: Dataset) -> list[dict[str, Any]]:
    """The cases of a reading of boxes, from what a network found (`lesion_detection.examined`): [{id, patient, slices
    (that it saw), truth, model: marks, scores}]; what it shows is told from its own threshold on, as in use."""
    told = Detections.from_arrays(examined)
    least = float(examined["threshold"]) if np.isfinite(examined["threshold"]) else SHOWN
    cases: dict[str, dict[str, Any]] = {}
    for image, (id, index) in enumerate(zip(examined["cases"], examined["slices"], strict=True)):
        empty = {"id": str(id), "patient": int(told.patients[image]), "slices": [], "truth": [], "model": []}
        case = cases.setdefault(str(id), {**empty, "scores": []})
        case["slices"].append(int(index))
        for k in np.flatnonzero(told.lesion_images == image):
            case["truth"].append([*map(float, told.lesions[k]), int(told.lesion_labels[k]), int(index)])
        for k in np.flatnonzero((told.images == image) & (told.scores >= least)):
            case["model"].append([*map(float, told.boxes[k]), int(told.labels[k]), int(index)])
            case["scores"].append(round(float(told.scores[k]), 4))
    return list(cases.values())


def of_outlines(
    run: Run, home: Path, cases: Sequence[int], progress: Callable[[int, int], None] | None = None
) -> list[dict[str, Any]]:
    """The cases of a reading of outlines: as `of_detections`, of what the network outlines on these cases; what counts
    are the slices that it sees."""
    from builder.predict import Predictor

    predictor = Predictor.open(run.folder)
    dataset = dataset_of(run.folder, home, predictor.experiment.data.dataset)
    data, found = predictor.experiment.data, []
    for number, case in enumerate(cases):
        true, scan = dataset.mask(case), dataset.scan(case)
        of = len(scan.pixels)
        seen = list(range(of)) if data.slices == "each" or data.blocks else [of // 2]
        answer = predictor.finding(scan).found.outline
        truth = of_mask((true > 0).astype(np.uint8)) if true is not None else ()  # a network outlines one kind
        truth = tuple(mark for mark in truth if mark[5] in seen)
        model = of_mask(answer) if answer is not None else ()
        entry: dict[str, Any] = {"id": dataset.cases[case].id, "patient": int(dataset.patients[case])}
        entry |= {"slices": seen, "truth": list(truth), "model": list(model), "scores": []}
        entry["outline"] = "" if answer is None else packed(answer)
        found.append(entry)
        if progress:
            progress(number + 1, len(cases))
    return found


# -- what it comes to -------------------------------------------------------------------------------------------------


def counted(truth: Sequence[Mark], said: Sequence[Mark], slices: Sequence[int]) -> tuple[int, int, int]:
    """(lesions found, lesions there, false alarms) of one scan, on the slices that count."""
    found, alarms = _parted(truth, said, slices)
    return len(found), sum(mark[5] in set(slices) for mark in truth), len(alarms)


def _parted(truth: Sequence[Mark], said: Sequence[Mark], slices: Sequence[int]) -> tuple[set[int], list[Mark]]:
    """Which lesions are found (numbers in `truth`), and the marks that meet none, on the slices that count."""
    counting = set(slices)
    marks = [mark for mark in said if mark[5] in counting]
    met = _matched(marks, truth)
    return {there for _, there in met}, [mark for n, mark in enumerate(marks) if n not in {one for one, _ in met}]


def _matched(marks: Sequence[Mark], others: Sequence[Mark]) -> list[tuple[int, int]]:
    """Pairs (number in `marks`, number in `others`) of one class and slice that reach the limit, each once, the closest
    first."""
    pairs = []
    for place in {mark[4:] for mark in marks} & {mark[4:] for mark in others}:
        rows, columns = ([n for n, mark in enumerate(side) if mark[4:] == place] for side in (marks, others))
        shared = overlaps(
            *(np.array([side[n][:4] for n in at], float) for side, at in ((marks, rows), (others, columns)))
        )
        while shared.max() >= FROC_IOU:
            row, column = np.unravel_index(int(shared.argmax()), shared.shape)
            pairs.append((rows[row], columns[column]))
            shared[row], shared[:, column] = -1, -1
    return pairs


def figures(counts: np.ndarray) -> bootstrap.Figures:
    """Figures of counts (readers, N, 3: found, there, false alarms), averaged over the readers: sensitivity (lesions),
    false_alarms_per_image, and image_specificity (scans without a lesion on which nothing is marked)."""

    def told(weights: np.ndarray) -> dict[str, np.ndarray]:
        parts: dict[str, list[np.ndarray]] = {}
        for rows in counts.astype(np.float64):
            found, there, alarms = rows.T
            clean = (there == 0).astype(np.float64)
            one = {
                "sensitivity": bootstrap.ratio(weights @ found, weights @ there),
                "false_alarms_per_image": bootstrap.ratio(weights @ alarms, weights.sum(1)),
                "image_specificity": bootstrap.ratio(weights @ (clean * (alarms == 0)), weights @ clean),
            }
            for name, value in one.items():
                parts.setdefault(name, []).append(value)
        return {name: np.mean(values, 0) for name, values in parts.items()}

    return told


def moves(
    truths: Sequence[Sequence[Mark]],
    alone: Sequence[Sequence[Mark]],
    both: Sequence[Sequence[Mark]],
    slices: Sequence[Sequence[int]],
) -> dict[str, int]:
    """How the network's marks moved a reader, scan by scan without and with them: lesions {gained, lost}, false alarms
    {alarms_added, alarms_dropped}. A false alarm that was only drawn otherwise stays."""
    told = {"gained": 0, "lost": 0, "alarms_added": 0, "alarms_dropped": 0}
    for truth, before, after, counting in zip(truths, alone, both, slices, strict=True):
        (found, alarms), (still, left) = (_parted(truth, said, counting) for said in (before, after))
        same = len(_matched(alarms, left))
        told["gained"] += len(still - found)
        told["lost"] += len(found - still)
        told["alarms_added"] += len(left) - same
        told["alarms_dropped"] += len(alarms) - same
    return told


SHARES = ("sensitivity", "image_specificity")
"""Figures that lie between 0 and 1."""
EVENTS = ("false_alarms_per_image",)
"""Figures that are numbers of events."""
FEWER = EVENTS
"""Figures of which less is better."""
