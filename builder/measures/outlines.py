"""How well an outline fits: overlap, distance of the surfaces in millimetres, volume; cases without a lesion apart.

Everything is measured on the scan's own grid, once a case; the numbers of all cases then make the figures. A case
without a lesion has no overlap: it never enters Dice (averaged in, empty slices turn 0.79 into 0.93), but is told apart
as how often, and how much, is outlined where nothing is. Figures are means over cases that have a lesion; "patient_"
ones pool the voxels of all cases of a patient first, its empty ones too.

Dice: 2 |A and B| / (|A| + |B|). IoU: |A and B| / |A or B|. HD95: the 95th percentile of the distance from one surface
to the other, the larger of both directions; NSD: the share of both surfaces that lies within a tolerance of the other
(Nikolov et al., arXiv:1809.04430). Both are MONAI's, on the edge voxels of the masks: in three dimensions where a case
has several slices, else in the plane.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from builder.measures import bootstrap
from builder.measures.bootstrap import RESAMPLES, ratio

TOLERANCE = 2.0
"""Of the surface distance, in mm (in pixels where the spacing is unknown): about what two readers differ by."""
Spacing = tuple[float | None, float | None, float | None]


@dataclass(frozen=True)
class Outlines:
    """Numbers of N cases; all arrays, so that one file holds them.

    Attributes:
        both, answered, given: (N,) voxels in both outlines, in the network's, in the true one.
        hd95, nsd: (N,) float, NaN where they are undefined. in_mm: (N,) bool: the distances are mm, else pixels.
        voxel_ml: (N,) float, NaN where the distance of the slices is unknown. pixel_mm2: (N,), NaN where unknown.
        tolerance: (N,) of `nsd`. patients: (N,) int codes.
    """

    both: np.ndarray
    answered: np.ndarray
    given: np.ndarray
    hd95: np.ndarray
    nsd: np.ndarray
    in_mm: np.ndarray
    voxel_ml: np.ndarray
    pixel_mm2: np.ndarray
    tolerance: np.ndarray
    patients: np.ndarray

    @classmethod
    def of(cls, cases: Sequence[dict[str, float]], patients: Sequence[int] | np.ndarray) -> Outlines:
        """From what `compare` told of each case."""
        names = [f.name for f in fields(cls) if f.name != "patients"]
        columns = {name: np.array([case[name] for case in cases], np.float64) for name in names}
        columns["in_mm"] = columns["in_mm"].astype(bool)
        return cls(**columns, patients=np.asarray(patients))

    def arrays(self) -> dict[str, np.ndarray]:
        """Its fields, for a file."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Outlines:
        """Reads `arrays`; what else there is in it is left alone."""
        return cls(**{f.name: arrays[f.name] for f in fields(cls)})


def compare(
    answered: np.ndarray,
    given: np.ndarray,
    spacing_mm: Spacing = (None, None, None),
    tolerance: float = TOLERANCE,
) -> dict[str, float]:
    """The numbers of one case, as `Outlines` names them.

    Args:
        answered, given: (S, H, W) or (H, W) masks on the scan's own grid; anything but 0 is inside.
        spacing_mm: of slices, rows and columns; None (or no positive number) where unknown. Distances are in mm only
            where all that they cross is known.
        tolerance: of the surface distance, in the unit of the distances.

    HD95 is undefined (NaN) where either outline is empty; NSD is 0 where one is, undefined where both are.

    Raises:
        ValueError: the masks differ in shape, or are neither (S, H, W) nor (H, W).
    """
    if answered.shape != given.shape or answered.ndim not in (2, 3):
        raise ValueError(
            f"The outlines have the shapes {answered.shape} and {given.shape}; expected the same (slices, rows, "
            "columns) of the scan."
        )
    one, other = (np.asarray(mask).reshape(-1, *mask.shape[-2:]) != 0 for mask in (answered, given))
    slices, rows, columns = (value if value and math.isfinite(value) and value > 0 else None for value in spacing_mm)
    flat = len(one) == 1
    known = rows is not None and columns is not None and (flat or slices is not None)
    area = rows * columns if rows and columns else math.nan
    told = {
        "both": float((one & other).sum()),
        "answered": float(one.sum()),
        "given": float(other.sum()),
        "hd95": math.nan,
        "nsd": math.nan,
        "in_mm": float(known),
        "voxel_ml": area * slices / 1000 if slices else math.nan,
        "pixel_mm2": area,
        "tolerance": tolerance,
    }
    if told["answered"] and told["given"]:
        steps = [float(step) if known and step else 1.0 for step in (slices, rows, columns)]
        told["hd95"], told["nsd"] = _surfaces(one, other, steps[1:] if flat else steps, tolerance)
    elif told["answered"] or told["given"]:
        told["nsd"] = 0.0
    return told


def _surfaces(one: np.ndarray, other: np.ndarray, steps: list[float], tolerance: float) -> tuple[float, float]:
    """HD95 and NSD of two masks (S, H, W) that are not empty; `steps` are two for one slice, else three."""
    import torch
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    box = tuple(slice(max(0, int(k.min()) - 1), int(k.max()) + 2) for k in np.nonzero(one | other))
    a, b = (torch.from_numpy(np.ascontiguousarray(mask[box]))[None, None] for mask in (one, other))
    if len(steps) == 2:
        a, b = a[:, :, 0], b[:, :, 0]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module="monai")  # it warns of its own calls
        farthest = compute_hausdorff_distance(a, b, include_background=True, percentile=95, spacing=steps)
        within = compute_surface_dice(a, b, class_thresholds=[tolerance], include_background=True, spacing=steps)
    return float(farthest), float(within)


def overlap(both: np.ndarray, answered: np.ndarray, given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Dice and IoU from counts of voxels (N,): two (N,) float64, NaN where both outlines are empty."""
    return ratio(2 * both, answered + given), ratio(both, answered + given - both)


def scores(answered: Sequence[np.ndarray], given: Sequence[np.ndarray]) -> dict[str, float]:
    """{dice, iou}: means over the pictures that have a lesion, for the validation side while a network learns; {}
    without any. Masks of any shape, pairwise the same; anything but 0 is inside."""
    pairs = [(np.asarray(a) != 0, np.asarray(g) != 0) for a, g in zip(answered, given, strict=True)]
    counts = np.array([((a & g).sum(), a.sum(), g.sum()) for a, g in pairs if g.any()], np.float64).reshape(-1, 3)
    if not len(counts):
        return {}
    dice, iou = overlap(*counts.T)
    return {"dice": float(dice.mean()), "iou": float(iou.mean())}


def report(found: Outlines, resamples: int = RESAMPLES, seed: int = 0, *, most: int = 24) -> dict[str, Any]:
    """All figures on one set of outlines as plain JSON data.

    Args:
        most: how many of the worst cases are listed.
    Returns:
        {n (cases), patients, with_lesion, without_lesion, metrics {dice, iou, hd95_mm, nsd, missed (share of lesion
        cases without a voxel in common), patient_dice, patient_iou, volume_ml (true, mean of lesion cases),
        volume_difference_ml (answered - true), volume_error_ml (its size), false_positive_rate (share of cases without
        lesion in which something is outlined), false_volume_ml (mean over these cases): {value, low, high}}, undefined
        {figure: lesion cases that have none}, cases {dice, volume_ml, answered_ml: one a case, None where undefined},
        quartiles {figure: [lower, median, upper]}, tolerance {value, unit},
        worst [{case, dice, iou, hd95, nsd, unit, volume_ml, answered_ml}], false_positives [{case, voxels, ml}],
        interval, notes}.

        Cases whose spacing is unknown have their distances under hd95_px. Where no volume is known, sizes are told as
        area_mm2, area_difference_mm2, area_error_mm2, false_area_mm2 or, without any spacing, as size_px, ...
    """
    lesion = found.given > 0
    figures, names = _figures(found)
    who = found.patients
    with_lesion = len(np.unique(who[lesion]))
    rests_on = {name: with_lesion for name in names}
    rests_on |= dict.fromkeys(("false_positive_rate",), len(np.unique(who[~lesion])))
    shares = ("dice", "iou", "nsd", "missed", "patient_dice", "patient_iou", "false_positive_rate")
    told = bootstrap.intervals(figures, who, resamples, seed, shares=shares, rests_on=rests_on, defined=_defined(found))
    dice, iou = overlap(found.both, found.answered, found.given)
    per_case = {"dice": dice, "iou": iou, "hd95_mm": found.hd95, "nsd": found.nsd}
    per_case["hd95_mm"] = np.where(found.in_mm, found.hd95, np.nan)
    if "hd95_px" in names:
        per_case["hd95_px"] = np.where(found.in_mm, np.nan, found.hd95)
    return {
        "n": len(who),
        "patients": len(np.unique(who)),
        "with_lesion": int(lesion.sum()),
        "without_lesion": int((~lesion).sum()),
        "metrics": told,
        "undefined": {name: int(np.isnan(values[lesion]).sum()) for name, values in per_case.items()},
        "quartiles": {name: _quartiles(values[lesion]) for name, values in per_case.items()},
        "tolerance": {
            "value": float(found.tolerance[0]) if len(who) else TOLERANCE,
            "unit": "mm" if found.in_mm.all() else "px" if not found.in_mm.any() else "mm or px",
        },
        "cases": _by_case(found, dice),
        "worst": _worst(found, dice, iou, most),
        "false_positives": _false_positives(found, most),
        "interval": bootstrap.described(resamples),
        "notes": _remarks(found, with_lesion),
    }


def _figures(found: Outlines) -> tuple[bootstrap.Figures, list[str]]:
    """All figures as a function of weights, and their names."""
    lesion, empty = found.given > 0, found.given == 0
    dice, iou = overlap(found.both, found.answered, found.given)

    def of(rows: np.ndarray, values: np.ndarray) -> np.ndarray:
        return np.where(rows, values, np.nan)

    by_case = {
        "dice": of(lesion, dice),
        "iou": of(lesion, iou),
        "hd95_mm": of(lesion & found.in_mm, found.hd95),
        "nsd": of(lesion, found.nsd),
        "missed": of(lesion, found.both == 0),
    }
    if (~found.in_mm & lesion).any():
        by_case["hd95_px"] = of(lesion & ~found.in_mm, found.hd95)
    apart = {"false_positive_rate": of(empty, found.answered > 0)}
    for kind, unit, unit_size in _units(found):
        answered, given = found.answered * unit_size, found.given * unit_size
        by_case[f"{kind}_{unit}"] = of(lesion, given)
        by_case[f"{kind}_difference_{unit}"] = of(lesion, answered - given)
        by_case[f"{kind}_error_{unit}"] = of(lesion, np.abs(answered - given))
        apart[f"false_{kind}_{unit}"] = of(empty, answered)
    _, first, code = np.unique(found.patients, return_index=True, return_inverse=True)
    pooled = [np.bincount(code, counts, minlength=len(first)) for counts in (found.both, found.answered, found.given)]
    patient = {
        name: np.where(pooled[2] > 0, values, np.nan)
        for name, values in zip(("patient_dice", "patient_iou"), overlap(*pooled), strict=True)
    }
    of_cases, of_patients, of_empty = (bootstrap.means(values) for values in (by_case, patient, apart))

    def figures(weights: np.ndarray) -> dict[str, np.ndarray]:
        return {**of_cases(weights), **of_patients(weights[:, first]), **of_empty(weights)}

    return figures, [*by_case, *patient, *apart]


def _defined(found: Outlines) -> dict[str, np.ndarray]:
    """{figure: (N,) bool, the cases that have it} of those that a lesion case lacks where nothing is outlined."""
    there = (found.given > 0) & np.isfinite(found.hd95)
    return {"hd95_mm": there & found.in_mm, "hd95_px": there & ~found.in_mm}


def _units(found: Outlines) -> list[tuple[str, str, np.ndarray]]:
    """How sizes are told: (kind, unit, size of a voxel (N,)); millilitres always, else what is known."""
    units = [("volume", "ml", found.voxel_ml)]
    without = np.isnan(found.voxel_ml)
    if (without & ~np.isnan(found.pixel_mm2)).any():
        units.append(("area", "mm2", np.where(without, found.pixel_mm2, np.nan)))
    if np.isnan(found.pixel_mm2).any():
        units.append(("size", "px", np.where(np.isnan(found.pixel_mm2), 1.0, np.nan)))
    return units


def _quartiles(values: np.ndarray) -> list[float] | None:
    values = values[np.isfinite(values)]
    return [float(q) for q in np.percentile(values, (25, 50, 75))] if len(values) else None


def _by_case(found: Outlines, dice: np.ndarray) -> dict[str, list[float | None]]:
    """Overlap and sizes of every case, for figures that show each of them."""
    lesion = found.given > 0
    return {
        "dice": [_plain(value) if there else None for value, there in zip(dice, lesion, strict=True)],
        "volume_ml": [_plain(value) for value in np.where(lesion, found.given * found.voxel_ml, np.nan)],
        "answered_ml": [_plain(value) for value in np.where(lesion, found.answered * found.voxel_ml, np.nan)],
    }


def _worst(found: Outlines, dice: np.ndarray, iou: np.ndarray, most: int) -> list[dict[str, Any]]:
    """Lesion cases, the least overlap first; of those without any, the largest lesion."""
    rows = np.flatnonzero(found.given > 0)
    rows = rows[np.lexsort((-found.given[rows], dice[rows]))][:most]
    return [
        {
            "case": int(k),
            "dice": _plain(dice[k]),
            "iou": _plain(iou[k]),
            "hd95": _plain(found.hd95[k]),
            "nsd": _plain(found.nsd[k]),
            "unit": "mm" if found.in_mm[k] else "px",
            "volume_ml": _plain(found.given[k] * found.voxel_ml[k]),
            "answered_ml": _plain(found.answered[k] * found.voxel_ml[k]),
        }
        for k in rows
    ]


def _false_positives(found: Outlines, most: int) -> list[dict[str, Any]]:
    """Cases without a lesion in which something is outlined, the most first."""
    rows = np.flatnonzero((found.given == 0) & (found.answered > 0))
    rows = rows[np.argsort(-found.answered[rows], kind="stable")][:most]
    return [
        {"case": int(k), "voxels": int(found.answered[k]), "ml": _plain(found.answered[k] * found.voxel_ml[k])}
        for k in rows
    ]


def _plain(value: float) -> float | None:
    return round(float(value), 6) if math.isfinite(value) else None


def _remarks(found: Outlines, with_lesion: int) -> list[str]:
    lesion = found.given > 0
    said = []
    if not with_lesion:
        said.append("No case here has a lesion outlined: overlap and distances are undefined.")
    elif with_lesion < 10:
        who = "one patient here has" if with_lesion == 1 else f"{with_lesion} patients here have"
        said.append(f"Only {who} a lesion outlined: the intervals tell little.")
    blank = int((lesion & (found.answered == 0)).sum())
    if blank:
        cases = "one lesion case" if blank == 1 else f"{blank} lesion cases"
        said.append(f"In {cases} nothing is outlined: Dice and NSD count 0 there, HD95 is undefined and left out.")
    unknown = int((lesion & ~found.in_mm).sum())
    if unknown:
        cases = "One lesion case does" if unknown == 1 else f"{unknown} lesion cases do"
        said.append(
            f"{cases} not say how large a voxel is: distances there are in pixels (hd95_px; NSD within pixels)."
        )
    return said
