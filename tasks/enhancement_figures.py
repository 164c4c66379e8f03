"""What is said of restored scans: the scan handed back, and the figures of whole slices beside those of baselines."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from builder.measures import pictures as measured
from builder.measures.baselines import baselines, settle
from builder.measures.bootstrap import intervals, means
from builder.restored import as_stored, ct_range, restored
from builder.task import Asked, Examined, Found, Restoration

if TYPE_CHECKING:
    from builder.data import Dataset
    from builder.scan import Scan

CT_RANGE_HU = ct_range()[1] - ct_range()[0]
MOST_SLICES = 8
"""Slices of one case that are judged, spread evenly: neighbours tell nearly the same."""
WINDOWS_HU = {"lung": (-1350.0, 150.0), "soft tissue": (-160.0, 240.0)}
"""Windows in which CT is judged (-600 / 1500 and 40 / 400), the headline's first."""
TISSUES_HU = {"lung": (-950.0, -600.0), "soft tissue": (-150.0, 150.0)}
"""Hounsfield units of the good scan, smoothed, that count as a tissue: a mean error there would change measurements."""
_TUNED_ON = 4
_LEAST_PIXELS = 200
_EXAMPLES = 4


def pictures(asked: Asked, answers: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Normalized answers (C, H, W) as pictures in which 0 and 1 are the ends of the window."""
    mean, std = (np.asarray(v, np.float32).reshape(-1, 1, 1) for v in (asked.mean, asked.std))
    return [answer * std + mean for answer in answers]


def found(asked: Asked, scan: Scan, answers: Sequence[np.ndarray]) -> Found:
    """The better scan in stored values, with how much it differs from the one that came."""
    data = asked.experiment.data
    better = restored(scan, pictures(asked, answers), data)
    is_ct = data.window == "ct full"
    unit = "hu" if is_ct else "stored"
    facts: dict[str, Any] = {}
    notes = []
    if data.scale > 1:
        height, width = better.pixels.shape[-2:]
        facts["grid_px"] = [height, width]
        notes.append(f"The picture has {data.scale} times as many rows and columns: {width} x {height} pixels.")
    elif better.pixels.shape == scan.pixels.shape:
        apart = better.pixels.astype(np.float64) - scan.pixels
        facts[f"mean_change_{unit}"] = round(float(apart.mean()), 4)
        facts[f"rms_change_{unit}"] = round(float(np.sqrt((apart**2).mean())), 4)
    if better.pixels.shape[1] < scan.pixels.shape[1]:
        notes.append("The scan is in colour; this network answers in grey.")
    if better.kept:
        share = 100 * better.kept / scan.pixels.size
        notes.append(
            f"{better.kept:,} pixels ({share:.2g} %) are padding or lie outside of the window; they keep their values."
        )
    notes.append("What a network restores is an estimate: look at the original, too, before you trust a detail.")
    return Found(enhanced=better.pixels, facts=facts, notes=tuple(notes))


# -- whole slices, judged -------------------------------------------------------------------------------------------


def examined(
    asked: Asked,
    dataset: Dataset,
    cases: np.ndarray,
    others: Sequence[int],
    pairs: bool,
    progress: Callable[[int, int], None] | None = None,
) -> Examined:
    """Restores up to `MOST_SLICES` slices of each case by the network and by each filter, and compares.

    Args:
        others: cases of other splits, on which the settings of the filters are chosen.
    Returns: the arrays of `measures.pictures.Pictures`; tissues (T,) and tissue_bias (N, M, T) in stored values, NaN
        where a slice has too little of one; slices (N,), cases (N,) ids; unit; example_<k> (3, H, W) float32 of the
        first cases: poor, restored and good, in stored values.
    """
    data = asked.experiment.data
    is_ct, windows = data.window == "ct full", _windows(asked, dataset)
    settings = _settled(asked, dataset, others, pairs, next(iter(windows.values())))
    ways: list[str] = []
    rows: list[dict[str, np.ndarray]] = []
    tissues: list[np.ndarray] = []
    about: list[tuple[int, int, str]] = []
    examples: dict[str, np.ndarray] = {}
    for number, case in enumerate(cases.tolist()):
        for one in restorations(asked, dataset, np.array([case]), MOST_SLICES, pairs):
            wanted, better, counted = one.target, one.output, one.counted[None]
            made = {measured.OUTPUT: better, **baselines(one.source, settings, data.scale)}
            made = {way: np.where(counted, picture, wanted) for way, picture in made.items()}
            rows.append(measured.compare(made, wanted, windows, one.pixel_mm, one.counted))
            ways = list(made)
            tissues.append(_tissue_bias(made, wanted, counted) if is_ct else np.zeros((len(made), 0)))
            about.append((int(dataset.patients[case]), one.slice, dataset.cases[case].id))
            if len(examples) < _EXAMPLES and f"example_{number}" not in examples:
                shown = (made[measured.INPUT], better, wanted)
                examples[f"example_{number}"] = np.stack([part.mean(0) for part in shown]).astype(np.float32)
        if progress:
            progress(number + 1, len(cases))
    found = measured.Pictures.of(
        rows, np.array([patient for patient, _, _ in about], np.int64), ways, windows, settings
    )
    return {
        **found.arrays(),
        "tissues": np.array(list(TISSUES_HU) if is_ct else [], dtype="<U20"),
        "tissue_bias": np.array(tissues, np.float64),
        "slices": np.array([place for _, place, _ in about], np.int64),
        "cases": np.array([case for _, _, case in about]),
        "unit": np.array("HU" if is_ct else ""),
        **examples,
    }


def restorations(asked: Asked, dataset: Dataset, cases: np.ndarray, most: int, pairs: bool) -> Iterator[Restoration]:
    """Up to `most` slices of each case, evenly spread, as the network restores them; seen through the first window."""
    data, window = asked.experiment.data, next(iter(_windows(asked, dataset).values()))
    for case in cases.tolist():
        for scan, place, poor, good, line in _questions(asked, dataset, case, most, pairs):
            (answer,) = asked.answers([poor])
            wanted, better = _stored(good, line), _stored(pictures(asked, [answer])[0], line)
            better = as_stored(better, scan).astype(np.float64)  # as it is handed back
            counted, spacing = _counted(scan, place, wanted, line)[0], scan.spacing_mm[2]
            pixel_mm = spacing / data.scale if spacing else None
            yield Restoration(case, place, _stored(poor, line), better, wanted, counted, pixel_mm, window)


def _windows(asked: Asked, dataset: Dataset) -> dict[str, tuple[float, float]]:
    """Windows in which the pictures are judged, in stored values, the headline's first."""
    if asked.experiment.data.window == "ct full":
        return WINDOWS_HU
    low, high = (float(v) for v in dataset.fingerprint.value_range)
    return {"all values": (low, high if high > low else low + 1)}


def _settled(
    asked: Asked, dataset: Dataset, others: Sequence[int], pairs: bool, window: tuple[float, float]
) -> dict[str, float]:
    """The filters with the settings that serve best on slices of another split; {} where there is no other."""
    step = max(1, len(others) // _TUNED_ON)
    sample = [q for case in others[::step][:_TUNED_ON] for q in _questions(asked, dataset, case, 1, pairs)]
    sources, targets = ([_stored(q[k], q[4]) for q in sample] for k in (2, 3))
    return settle(sources, targets, window, asked.experiment.data.scale) if sample else {}


def _questions(asked: Asked, dataset: Dataset, case: int, most: int, pairs: bool) -> list[Any]:
    """Slices of a case, evenly spread: (scan, slice, poor (C, H, W), good (C, H', W'), (low, high) of the window)."""
    import torch

    from builder.data import prepare, quantize
    from builder.degrade import degrade
    from builder.scan import grey_range

    data, unit = asked.experiment.data, asked.unit
    scan = dataset.scan(case)
    line = grey_range(scan, data.window)
    assert line is not None
    count = len(scan.pixels)
    places = sorted({(2 * k + 1) * count // (2 * min(most, count)) for k in range(min(most, count))})
    goals = dataset.goals(data) if pairs else None
    rows = dataset.prepared(data).rows_of(np.array([case])) if pairs else ()
    asked_of = []
    for place in places:
        image = quantize(prepare(scan, data, place), unit).astype(np.float32) / np.float32(unit)
        if goals is not None:
            height, width = (side * data.scale for side in image.shape[-2:])
            good = goals.rows(rows[place : place + 1])[0][:, :height, :width].astype(np.float32) / np.float32(unit)
            poor = image
        else:
            good = image
            height, width = (side // data.scale * data.scale for side in image.shape[-2:])
            good = good[:, :height, :width]
            seed = zlib.crc32(f"{dataset.cases[case].id} {place}".encode())
            made = degrade(torch.from_numpy(good[None].copy()), data.degrade, [seed])[0].numpy()
            poor = quantize(made, unit).astype(np.float32) / np.float32(unit)
        asked_of.append((scan, place, poor, good, line))
    return asked_of


def _stored(picture: np.ndarray, line: tuple[float, float]) -> np.ndarray:
    """A picture (C, H, W), 0 and 1 the ends of the window, in stored values; MONOCHROME1 stays turned on both sides."""
    low, high = line
    return low + (high - low) * np.asarray(picture, np.float64)


def _counted(scan: Scan, place: int, wanted: np.ndarray, line: tuple[float, float]) -> np.ndarray:
    """(1, H, W) bool: pixels that are neither padding nor cut off by the window."""
    height, width = wanted.shape[-2:]
    source = scan.pixels[place]
    scale = max(1, height // source.shape[-2])
    counted = ((source >= line[0]) & (source <= line[1])).all(0)
    if scan.valid is not None:
        counted = counted & scan.valid[place]
    return counted.repeat(scale, 0).repeat(scale, 1)[None, :height, :width]


def _tissue_bias(made: dict[str, np.ndarray], wanted: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """(M, T): mean of picture - true within each tissue of `TISSUES_HU`."""
    from scipy.ndimage import gaussian_filter

    smooth = gaussian_filter(wanted.mean(0), 2.0)
    table = np.full((len(made), len(TISSUES_HU)), np.nan)
    for t, (low, high) in enumerate(TISSUES_HU.values()):
        inside = counted[0] & (smooth >= low) & (smooth <= high)
        if inside.sum() >= _LEAST_PIXELS:
            table[:, t] = [(picture - wanted).mean(0)[inside].mean() for picture in made.values()]
    return table


# -- figures --------------------------------------------------------------------------------------------------------


def report(examined: Examined, resamples: int, seed: int = 0) -> dict[str, Any]:
    """As `measures.pictures.report`, with tissue_bias {way: {tissue: {value, low, high}}} where that is known, its
    `worst` as worst_images with their case and slice, and the names of the examples kept (`evaluate.examples`).
    """
    names = [field.name for field in fields(measured.Pictures)]
    found = measured.Pictures(**{name: examined[name] for name in names})
    told = measured.report(found, resamples, seed, unit=str(examined["unit"]))
    tissues = [str(tissue) for tissue in examined["tissues"]]
    ways = [str(way) for way in found.ways]
    if tissues:
        table = {(w, t): examined["tissue_bias"][:, i, k] for i, w in enumerate(ways) for k, t in enumerate(tissues)}
        figures = means({f"{w}/{t}": values for (w, t), values in table.items()})
        bias = intervals(figures, found.patients, resamples, seed, shares=())
        told["tissue_bias"] = {w: {t: bias[f"{w}/{t}"] for t in tissues} for w in ways}
        told["metrics"] |= {f"bias_{t.replace(' ', '_')}": bias[f"{measured.OUTPUT}/{t}"] for t in tissues}
    if told["metrics"]["edge_mm"]["value"] is None:  # no scan tells the size of its pixels
        del told["metrics"]["edge_mm"]
    edges = told["metrics"]["edge_ratio"]["value"]
    if edges and edges > 1.15:
        told["notes"].append(f"Edges are {100 * (edges - 1):.0f} % wider than in the good scans.")
    told["notes"].append(
        "Such figures often disagree with readers: look at the pictures, and ask whether a diagnosis changes its mind."
    )
    places = zip(examined["cases"], examined["slices"], strict=True)
    where = [{"case": str(case), "slice": int(place)} for case, place in places]
    told["worst_images"] = [{**row, **where[row["picture"]]} for row in told.pop("worst")]
    told["examples"] = sorted(name for name in examined if name.startswith("example_"))
    return told
