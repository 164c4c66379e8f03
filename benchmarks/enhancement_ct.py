"""Chest CT at a simulated quarter dose, with the shipped low-dose-ct starter; every patient is the test once.

    python benchmarks/enhancement_ct.py [--folder ../shared/data/ct_chest_dicom] [--folds 1 2 3 4 5]

Five patients with six slices each (axial, coronal, sagittal, two dates). In fold k patient k is the test, the next one
the validation, the other three are learned from: no slice of a test patient is seen before. A quarter of the dose makes
the variance of a scan's noise four times what it is: three times as much as each slice has itself is added, with its
own grain (`builder.grain`). That is a stand-in in the picture for fewer photons in the projections, the same for every
method.

The scans' own noise limits what anybody can gain: where nothing but noise is, the best estimate of a pixel mixes what
was added and what was there by their spectra (Wiener 1949), and its error is sum S0 S1 / (S0 + S1): 10 log10 4 = 6.0 dB
where both are alike. That ceiling is measured on the flattest squares of every slice and told beside the gains.

Each fold is trained and evaluated once;
folds that are done are not done again, and the results tell how many are. Writes benchmarks/results/enhancement_ct.json
and .md.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import trials  # noqa: E402

from builder import task  # noqa: E402
from builder.data import Dataset  # noqa: E402
from builder.evaluate import evaluate  # noqa: E402
from builder.intake import detect  # noqa: E402
from builder.measures.bootstrap import RESAMPLES  # noqa: E402
from builder.runs import Run, RunStore  # noqa: E402
from builder.spec import Experiment  # noqa: E402

RECIPE = {
    "data.size_px": 96,
    "data.num_patches": 64,
    "training.batch_size": 8,
    "training.epochs": 14,
    "training.optimizer.params.lr": 0.002,
    "training.mixed_precision": "bfloat16",
    "training.test_time": "mirror both",
}
"""What differs from the starter as it is shipped: longer, on larger patches, asked with its mirror images."""
SQUARE_PX = 24
FLAT_HU = {"lung": (-950.0, -650.0), "soft tissue": (-50.0, 120.0)}
EARLIER = (
    "Test patients were opened before: three of the five by the starter as it was then (DnCNN, L1: 2.7 and 2.5 dB over "
    "the input in the windows of lung and soft tissue) and by a U-Net (3.8 and 3.4 dB; 0.8 and 0.5 dB over non-local "
    "means), both with the same 26 HU added to every scan: much less than a quarter of the dose for noisy scans, more "
    "for smooth ones. Simulation and recipe were changed by the validation patient of fold 1 and those that it learns "
    "from alone."
)
PROMISED = {"gain_db": 4.0, "gain_over_best_db": 1.5, "bias_hu": 1.0}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT.parent / "shared" / "data" / "ct_chest_dicom")
    parser.add_argument("--folds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--home", type=Path, default=ROOT / "build" / "benchmarks" / "enhancement_ct")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    patients = sorted(path.name for path in arguments.folder.iterdir() if path.is_dir())
    for fold in arguments.folds:
        trained(arguments.home, split_of(arguments.home, arguments.folder, patients, fold), fold, arguments.threads)
    runs = [RunStore(arguments.home).run(name) for fold in range(1, 6) if (name := done(arguments.home, fold))]
    if runs:
        report(arguments.home, runs, len(patients))
    return 0


def split_of(home: Path, folder: Path, patients: list[str], fold: int) -> Dataset:
    """The data set of one fold: patient `fold` is the test, the next one the validation."""
    test, val = patients[fold - 1], patients[fold % len(patients)]
    home.mkdir(parents=True, exist_ok=True)
    table = home / f"fold-{fold}.csv"
    with open(table, "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("file", "label", "patient", "split"))
        for path in sorted(folder.rglob("*.dcm")):
            patient = path.relative_to(folder).parts[0]
            side = "test" if patient == test else "val" if patient == val else "train"
            rows.writerow((path.relative_to(folder).as_posix(), "chest", patient, side))
    return trials.imported(home, f"fold {fold}", detect(folder, table), task="image_enhancement")


def done(home: Path, fold: int) -> str:
    """The id of the finished run of a fold; "" without one."""
    try:
        return str(json.loads((home / f"fold-{fold}.json").read_text())["run"])
    except FileNotFoundError:
        return ""


def trained(home: Path, dataset: Dataset, fold: int, threads: int) -> None:
    """Trains and evaluates one fold, unless that is done."""
    if done(home, fold):
        return
    kind = task.find("image_enhancement")
    experiment = next(e for e in kind.starters() if e.name == "low-dose-ct")
    experiment = experiment.replace("data.dataset", dataset.id).replace("training.seed", fold)
    for path, value in RECIPE.items():
        experiment = experiment.replace(path, value)
    run = RunStore(home).create(experiment, queue=False)
    began, cpu = time.time(), children_s()
    trials.learn(run, threads)
    view = run.view()
    if view.status != "done":
        raise SystemExit(f"Fold {fold} ended as {view.status}: {view.reason}")
    facts: dict[str, Any] = {"run": run.id, "fold": fold, "seconds": time.time() - began, "cpu_s": children_s() - cpu}
    facts["peak_mb"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    began = time.time()
    facts["test"] = evaluate(run, home)["metrics"]
    facts |= {"epochs": view.epoch, "best": view.best, "evaluation_s": time.time() - began, "threads": threads}
    (home / f"fold-{fold}.json").write_text(json.dumps(facts))
    print(json.dumps(facts))


def ceilings(dataset: Dataset, experiment: Experiment) -> dict[str, list[float]]:
    """{tissue: dB that nobody can gain more than, slice by slice}, on the flattest tenth of its squares."""
    import torch

    from builder.degrade import CT_LOW_HU, CT_RANGE_HU, degrade

    found: dict[str, list[float]] = {tissue: [] for tissue in FLAT_HU}
    for index in range(len(dataset)):
        true = np.clip(dataset.scan(index).pixels[0, 0].astype(np.float32), CT_LOW_HU, CT_LOW_HU + CT_RANGE_HU)
        image = torch.from_numpy((true - CT_LOW_HU) / CT_RANGE_HU)[None, None]
        added = (degrade(image, experiment.data.degrade, [index]) - image)[0, 0].numpy() * CT_RANGE_HU
        for tissue, bounds in FLAT_HU.items():
            places = flattest(true, *bounds)
            if places:
                own = np.mean([spectrum(true[at]) for at in places], 0)
                more = np.mean([spectrum(added[at]) for at in places], 0)
                left = (own * more / (own + more)).mean()
                found[tissue].append(round(float(10 * np.log10(more.mean() / left)), 3))
    return found


def flattest(image: np.ndarray, low: float, high: float) -> list[tuple[slice, slice]]:
    """Squares of one tissue that vary least once smoothed: the flattest tenth, [] where there are fewer than 8."""
    from scipy.ndimage import gaussian_filter

    squares = []
    for y in range(0, image.shape[0] - SQUARE_PX, 8):
        for x in range(0, image.shape[1] - SQUARE_PX, 8):
            at = (slice(y, y + SQUARE_PX), slice(x, x + SQUARE_PX))
            part = image[at]
            if low < part.mean() < high and part.min() > low - 250 and part.max() < high + 250:
                squares.append((float(gaussian_filter(part, 3).std()), at))
    squares.sort(key=lambda square: square[0])
    return [at for _, at in squares[: max(8, len(squares) // 10)]] if len(squares) >= 8 else []


def spectrum(part: np.ndarray) -> np.ndarray:
    """Power of a square at each frequency, its slow changes (a quadratic surface) taken off."""
    side = len(part)
    y, x = (grid.ravel() for grid in np.mgrid[:side, :side])
    table = np.stack([np.ones(side * side), y, x, y * y, x * x, x * y], 1)
    flat = part - (table @ np.linalg.lstsq(table, part.ravel(), rcond=None)[0]).reshape(side, side)
    window = np.outer(np.hanning(side), np.hanning(side))
    return np.abs(np.fft.fft2(flat * window / np.sqrt((window**2).mean()))) ** 2 / side**2


def children_s() -> float:
    """Seconds that the processors have spent on what this process started."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def report(home: Path, runs: list[Run], wanted: int) -> None:
    """All folds as one test: every patient once, each judged by a network that never saw one of its slices."""
    kind = task.find("image_enhancement")
    parts = []
    for number, run in enumerate(runs):
        with np.load(run.folder / "predictions-test.npz", allow_pickle=False) as stored:
            parts.append({name: stored[name] for name in stored.files} | {"fold": np.array(number)})
    rows = (
        "psnr_db",
        "ssim",
        "rmse",
        "bias",
        "noise_std",
        "noise_power",
        "edge_px",
        "pixel_mm",
        "tissue_bias",
        "cases",
        "slices",
    )
    merged = dict(parts[0]) | {name: np.concatenate([part[name] for part in parts]) for name in rows}
    merged["patients"] = np.concatenate([np.full(len(part["patients"]), part["fold"]) for part in parts])
    merged["settings"] = np.array(["" for _ in merged["ways"]])  # chosen in each fold anew
    found = kind.report(merged, (), False, RESAMPLES)
    folds = [json.loads((home / f"fold-{k}.json").read_text()) for k in range(1, wanted + 1) if done(home, k)]
    met = {
        "gain_db": {name: row["ways"]["input"]["gain_db"] for name, row in found["windows"].items()},
        "gain_over_best_db": {
            name: min(
                (way["gain_db"] for key, way in row["ways"].items() if key not in ("input", "output")),
                key=lambda figure: figure["value"],
            )
            for name, row in found["windows"].items()
        },
        "bias_hu": {"all": found["metrics"]["bias"], **found["tissue_bias"]["output"]},
    }
    first = runs[0].experiment
    ceiling = ceilings(Dataset.open(home, first.data.dataset), first)
    measured = {
        "command": "python benchmarks/enhancement_ct.py",
        "recipe": RECIPE,
        "ceiling_db": ceiling,
        "promised": PROMISED,
        "folds_done": f"{len(runs)} of {wanted}",
        "met": met,
        "settings": [list(map(str, part["settings"])) for part in parts],
        "report": found,
        "folds": folds,
    }
    trials.write("enhancement_ct", measured, page(found, met, folds, wanted, ceiling))


def page(
    found: dict[str, Any],
    met: dict[str, Any],
    folds: list[dict[str, Any]],
    wanted: int,
    ceiling: dict[str, list[float]],
) -> list[str]:
    """The results as Markdown."""
    lines = [
        "# Chest CT at a simulated quarter dose",
        "",
        f"{found['n']} slices of {found['patients']} patients, each judged by a network that never saw that patient "
        "(three patients learned from, one for validation). Means over slices, 95 % intervals over patients.",
        "",
        "| window | way | PSNR dB | SSIM | the network's gain over it, dB |",
        "|---|---|---|---|---|",
    ]
    for window, row in found["windows"].items():
        for way, figures in row["ways"].items():
            cells = [trials.interval(figures[name]) for name in ("psnr_db", "ssim", "gain_db")]
            lines.append(f"| {window} ({row['low']:g} to {row['high']:g} HU) | {way} | {' | '.join(cells)} |")
    if len(folds) < wanted:
        lines += ["", f"Only {len(folds)} of {wanted} patients were tested: these figures are not final."]
    bias = ", ".join(f"{name} {trials.interval(figure)}" for name, figure in met["bias_hu"].items())
    lines += ["", f"Bias in HU: {bias}. RMSE of the output: {trials.interval(found['metrics']['rmse'])} HU."]
    for name, least in (("gain_db", 4.0), ("gain_over_best_db", 1.5)):
        for window, figure in met[name].items():
            verdict = "met" if figure["value"] >= least else "not met"
            lines.append(f"- {name.replace('_', ' ')} in the {window} window: promised {least:g}, {verdict}.")
    worst = max(abs(figure["value"]) for figure in met["bias_hu"].values())
    lines.append(f"- bias under 1 HU: {'met' if worst < PROMISED['bias_hu'] else 'not met'}.")
    told = "; ".join(
        f"{tissue} {np.mean(values):.1f} dB on average, {min(values):.1f} to {max(values):.1f} ({len(values)} slices)"
        for tissue, values in ceiling.items()
    )
    lines += [
        "",
        "The scans taken as good are noisy themselves, and no method can tell their noise from what was added. Where "
        f"nothing but noise is, the gain over the input cannot exceed: {told}. Anatomy, which must be guessed, too, "
        "takes more off.",
        "",
        EARLIER,
    ]
    seconds = [fold["seconds"] for fold in folds]
    lines += [
        "",
        f"Training of a fold: {min(seconds):.0f} to {max(seconds):.0f} s by the clock on a shared machine, "
        f"{np.mean([fold['cpu_s'] for fold in folds]):.0f} s of the processor, "
        f"{max(fold['peak_mb'] for fold in folds):.0f} MB.",
    ]
    return lines


if __name__ == "__main__":
    sys.exit(main())
