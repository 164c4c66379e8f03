"""What is said of restored scans: the scan handed back, and the figures of whole slices beside those of baselines."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from builder.classical import enlarged, tuned
from builder.likeness import BINS, TISSUES_HU, likeness, windows
from builder.measures.bootstrap import CONFIDENCE, METHOD, intervals, means
from builder.restored import ct_range, restored
from builder.task import Asked, Examined, Found

if TYPE_CHECKING:
    from builder.data import Dataset
    from builder.scan import Scan

CT_RANGE_HU = ct_range()[1] - ct_range()[0]
MOST_SLICES = 8
"""Slices of one case that are judged, spread evenly: neighbours tell nearly the same."""
_TUNED_ON = 4
_EXAMPLES = 4
_NETWORK, _INPUT = "network", "input"


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
    """Restores up to `MOST_SLICES` slices of each case by the network and by each baseline, and compares.

    Args:
        others: cases of other splits, on which the strengths of the baselines are chosen.
    Returns: methods (M,), windows (W,), tissues (T,); psnr_db, ssim (N, M, W); rmse, bias, noise, edges (N, M);
        tissue_bias (N, M, T); power (N, M, BINS); reference_noise (N,); patients, slices (N,), cases (N,) ids; strengths
        (JSON), unit; example_<k> (3, H, W) float32 of the first cases: poor, restored and good in stored values.
    """
    data = asked.experiment.data
    is_ct = data.window == "ct full"
    classical: dict[str, Any] = {}
    if data.scale == 1:
        sample = [question for case in others[: 4 * _TUNED_ON] for question in _questions(asked, dataset, case, 1, pairs)]
        step = max(1, len(sample) // _TUNED_ON)
        sample = sample[::step][:_TUNED_ON]
        pictured = [(_flat(poor), _flat(good)) for _, _, poor, good, _ in sample]
        classical = tuned(pictured) if pictured else {}
    methods = [_NETWORK, _INPUT, *classical] if data.scale == 1 else [_NETWORK, "bicubic", "bilinear"]
    rows: list[list[Any]] = []
    about: list[tuple[int, int, str]] = []
    examples: dict[str, np.ndarray] = {}
    names: list[str] = []
    floor = []
    for number, case in enumerate(cases.tolist()):
        for scan, place, poor, good, line in _questions(asked, dataset, case, MOST_SLICES, pairs):
            low, high = line
            (answer,) = asked.answers([poor])  # type: ignore[arg-type]
            better = _flat(pictures(asked, [answer])[0])
            flat = _flat(poor)
            if data.scale == 1:
                tries = [better, flat, *(method(flat, strength) for method, strength in classical.values())]
            else:
                tries = [better, *(enlarged(flat, data.scale, how) for how in methods[1:])]
            wanted = low + (high - low) * _flat(good)
            counted = _counted(scan, place, wanted, line, is_ct)
            within = windows(wanted, is_ct)
            names = list(within)
            step = (high - low) / asked.unit if scan.pixels.dtype.kind == "f" else 1.0
            values = [np.rint((low + (high - low) * one) / step) * step for one in tries]
            rows.append([likeness(value, wanted, counted, within, is_ct) for value in values])
            floor.append(likeness(wanted, wanted, counted, within, is_ct).noise)
            about.append((int(dataset.patients[case]), place, dataset.cases[case].id))
            if len(examples) < _EXAMPLES and f"example_{number}" not in examples:
                kept = (values[1], values[0], wanted)
                examples[f"example_{number}"] = np.stack(kept).astype(np.float32)
        if progress:
            progress(number + 1, len(cases))
    tissues = list(TISSUES_HU) if is_ct else []

    def table(read: Callable[[Any], Any]) -> np.ndarray:
        return np.array([[read(one) for one in row] for row in rows], np.float64)

    return {
        "methods": np.array(methods),
        "windows": np.array(names),
        "tissues": np.array(tissues, dtype="<U20"),
        "psnr_db": table(lambda one: [one.psnr_db[name] for name in names]),
        "ssim": table(lambda one: [one.ssim[name] for name in names]),
        "tissue_bias": table(lambda one: [one.tissue_bias[name] for name in tissues]),
        **{name: table(lambda one, name=name: getattr(one, name)) for name in ("rmse", "bias", "noise", "edges", "power")},
        "reference_noise": np.array(floor),
        "patients": np.array([patient for patient, _, _ in about], np.int64),
        "slices": np.array([place for _, place, _ in about], np.int64),
        "cases": np.array([case for _, _, case in about]),
        "strengths": np.array(json.dumps({name: float(strength) for name, (_, strength) in classical.items()})),
        "unit": np.array("HU" if is_ct else "stored values"),
        **examples,
    }


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


def _flat(picture: np.ndarray) -> np.ndarray:
    """One plane (H, W) of a picture (C, H, W): its grey value, or the mean of its colours."""
    return np.asarray(picture[0] if len(picture) == 1 else picture.mean(0), np.float32)


def _counted(
    scan: Scan, place: int, wanted: np.ndarray, line: tuple[float, float], is_ct: bool
) -> np.ndarray:
    """(H, W) bool: pixels that are neither padding nor cut off by the window."""
    counted = np.ones(wanted.shape, bool)
    source = scan.pixels[place][:, : wanted.shape[0], : wanted.shape[1]]
    if source.shape[1:] == wanted.shape:
        counted &= ((source >= line[0]) & (source <= line[1])).all(0)
        if scan.valid is not None:
            counted &= scan.valid[place][: wanted.shape[0], : wanted.shape[1]]
    return counted


# -- figures --------------------------------------------------------------------------------------------------------


def report(examined: Examined, resamples: int, seed: int = 0) -> dict[str, Any]:
    """{n, patients, metrics, methods, windows, spectrum, edges, ...}: every figure with its interval over patients."""
    methods, names = [str(m) for m in examined["methods"]], [str(w) for w in examined["windows"]]
    tissues, unit = [str(t) for t in examined["tissues"]], str(examined["unit"])
    patients = examined["patients"]
    everybody = len(np.unique(patients))
    given, rivals = methods[1], methods[1:]

    def told(values: dict[str, np.ndarray]) -> dict[str, Any]:
        return intervals(means(values), patients, resamples, seed, shares=())

    table: dict[str, Any] = {}
    for m, method in enumerate(methods):
        values = {f"psnr_db {w}": examined["psnr_db"][:, m, k] for k, w in enumerate(names)}
        values |= {f"ssim {w}": examined["ssim"][:, m, k] for k, w in enumerate(names)}
        values |= {name: examined[name][:, m] for name in ("rmse", "bias", "noise", "edges")}
        values |= {f"bias {t}": examined["tissue_bias"][:, m, k] for k, t in enumerate(tissues)}
        figures = told(values)
        table[method] = {
            "windows": {w: {"psnr_db": figures[f"psnr_db {w}"], "ssim": figures[f"ssim {w}"]} for w in names},
            **{name: figures[name] for name in ("rmse", "bias", "noise", "edges")},
            "tissue_bias": {t: figures[f"bias {t}"] for t in tissues},
        }
    best = {
        w: max(rivals, key=lambda method, w=w: table[method]["windows"][w]["psnr_db"]["value"]) for w in names
    }
    gains: dict[str, np.ndarray] = {}
    for k, w in enumerate(names):
        psnr = examined["psnr_db"][:, :, k]
        gains[f"gain_db {w}"] = psnr[:, 0] - psnr[:, 1]
        gains[f"gain_over_best_db {w}"] = psnr[:, 0] - psnr[:, methods.index(best[w])]
    gained = told(gains)
    own = table[_NETWORK]
    first = names[0]
    metrics = {
        "psnr_db": own["windows"][first]["psnr_db"],
        "ssim": own["windows"][first]["ssim"],
        "rmse": own["rmse"],
        "bias": own["bias"],
        "gain_db": gained[f"gain_db {first}"],
        "gain_over_best_db": gained[f"gain_over_best_db {first}"],
        "edges": own["edges"],
    }
    power = examined["power"].mean(0)
    notes = [
        f"PSNR and SSIM after the window {first} ({_ends(first)}), data range 1 after windowing; RMSE and bias in {unit}.",
        "Full-reference figures often disagree with readers: look at the pictures and at what a diagnosis model says.",
    ]
    if rivals[1:]:
        notes.append("Strengths of the baselines: the best on scans of another split.")
    if everybody < 5:
        notes.append(f"Only {everybody} patients: the intervals are rough.")
    if own["edges"]["value"] is not None and own["edges"]["value"] < 0.9:
        notes.append(f"Edges are {100 * (1 - own['edges']['value']):.0f} % less steep than in the good scans.")
    return {
        "n": len(patients),
        "patients": everybody,
        "unit": unit,
        "metrics": metrics,
        "methods": table,
        "windows": {w: {"best_baseline": best[w], "gain_db": gained[f"gain_db {w}"],
                        "gain_over_best_db": gained[f"gain_over_best_db {w}"], "range": _ends(w)} for w in names},
        "given": given,
        "strengths": json.loads(str(examined["strengths"])),
        "reference_noise": float(np.nanmean(examined["reference_noise"])),
        "spectrum": {
            "cycles_per_px": [round((k + 0.5) / BINS / 2, 4) for k in range(BINS)],
            **{method: [float(v) for v in power[m]] for m, method in enumerate(methods[:2])},
        },
        "interval": f"{100 * CONFIDENCE:.0f} % {METHOD}",
        "notes": notes,
    }


def _ends(window: str) -> str:
    from builder.likeness import WINDOWS_HU

    if window not in WINDOWS_HU:
        return "from the darkest to the brightest value of the good scan"
    center, width = WINDOWS_HU[window]
    return f"{center - width / 2:g} to {center + width / 2:g} HU"
