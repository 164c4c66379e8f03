"""Chest CT at a simulated quarter dose, with a small U-Net; every patient is the test once.

    python benchmarks/enhancement_ct.py [--grain white|own] [--folder ../shared/data/ct_chest_dicom] [--folds 1 2 3 4 5]

Five patients with six slices each (axial, coronal, sagittal, two dates). In fold k patient k is the test, the next one
the validation, the other three are learned from: no slice of a test patient is seen before. A quarter of the dose makes
the variance of a scan's noise four times what it is, so three times as much is added, stronger where there is more
matter (`builder.degrade`): a stand-in in the picture for fewer photons in the projections, the same for every method.
In one of two ways:

* white: Gaussian noise that goes by the signal, each pixel on its own (the simplest stand-in), and equally strong for
  all scans, as automatic exposure control has it: full dose is 15 HU in water (the median of these slices is 16),
  so 26 HU are added.
* own: as strong as each slice's own noise asks for, and with its grain (`builder.grain`): nearer to a scan of a quarter
  of the dose, and harder. The scans' own noise then limits what anybody can gain: where nothing but noise is, the best
  estimate of a pixel mixes what was added and what was there by their spectra (Wiener 1949), and its error is
  sum S0 S1 / (S0 + S1): 10 log10 4 = 6.0 dB where both are alike. Most of the grain of these scans is slower than 0.15
  cycles a pixel and looks like anatomy.

The ceiling is measured on the flattest squares of every slice and told beside the gains. Each fold is trained and
evaluated once; folds that are done are not done again, and the results tell how many are. Writes
benchmarks/results/enhancement_ct_<grain>.json and .md.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
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
from builder.spec import Choice, Experiment  # noqa: E402

COMMON = {
    "data.size_px": 96,
    "data.num_patches": 64,
    "training.batch_size": 8,
    "training.epochs": 12,
    "training.optimizer.params.lr": 0.002,
    "training.mixed_precision": "bfloat16",
    "training.test_time": "mirror both",
}
RECIPES: dict[str, dict[str, Any]] = {
    "white": {
        "data.degrade": Choice(name="low_dose_ct", params={"dose": 0.25, "sigma_hu": 15.0, "grain_px": 0.0}),
        "training.loss": Choice(name="psnr"),
        "training.average": Choice(name="ema", params={"decay": 0.995}),
    },
    "own": {},
}
"""What differs from the starter as it is shipped: longer, on larger patches, asked with its mirror images; with white
noise the loss of PSNR and averaged weights, too."""
SQUARE_PX = 24
FLAT_HU = {"lung": (-950.0, -650.0), "soft tissue": (-50.0, 120.0)}
EARLIER = (
    "Three of the five patients were opened before, with 26 HU of slightly grained noise added to every scan alike "
    "(2.7 and 2.5 dB over the input in the windows of lung and soft tissue by a DnCNN, 3.8 and 3.4 dB by this U-Net, "
    "which was 0.8 and 0.5 dB over non-local means), and the first with the grain of each scan (3.4 and 3.2 dB, 0.9 "
    "over non-local means). Simulations and recipes were changed by the patients that fold 1 learns from and is "
    "validated on, who are tests in the other folds: the white one was taken up when that with the grain of the scans "
    "had shown how little anybody can gain there. The patient of the first fold, who had no say in that: "
)
SIMULATED = {"white": "white noise, the same for every scan", "own": "each scan's own noise, with its grain"}
OTHER = {
    "white": "The easier of two simulations; that with the noise of each scan itself: enhancement_ct_own.md.",
    "own": "The harder of two simulations; the simpler one: enhancement_ct_white.md.",
}
PROMISED = {"gain_db": 4.0, "gain_over_best_db": 1.5, "bias_hu": 1.0}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT.parent / "shared" / "data" / "ct_chest_dicom")
    parser.add_argument("--folds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--grain", choices=tuple(RECIPES), default="white")
    parser.add_argument("--home", type=Path, default=ROOT / "build" / "benchmarks" / "enhancement_ct")
    parser.add_argument("--beside", type=int, default=os.cpu_count() or 1, help="folds that learn at the same time")
    arguments = parser.parse_args()
    home = arguments.home / arguments.grain
    patients = sorted(path.name for path in arguments.folder.iterdir() if path.is_dir())
    jobs = [
        (fold, begun(home, split_of(home, arguments.folder, patients, fold), fold, arguments.grain))
        for fold in arguments.folds
        if not done(home, fold)
    ]
    waiting = [run for _, run in jobs if run.view().status != "done"]
    with ThreadPoolExecutor(max(1, arguments.beside)) as crew:
        list(crew.map(lambda run: trials.learn(run, 1), waiting))
    for fold, run in jobs:
        judged(home, run, fold)
    runs = [RunStore(home).run(name) for fold in range(1, 6) if (name := done(home, fold))]
    if runs:
        report(home, runs, len(patients), arguments.grain)
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


def begun(home: Path, dataset: Dataset, fold: int, grain: str) -> Run:
    """The run of a fold, which waits; or the one that was left unfinished."""
    kind = task.find("image_enhancement")
    experiment = next(e for e in kind.starters() if e.name == "low-dose-ct")
    experiment = trials.edited(
        experiment, {"data.dataset": dataset.id, "training.seed": fold, **COMMON, **RECIPES[grain]}
    )
    store = RunStore(home)
    return next((run for run in store.runs() if run.experiment == experiment), None) or store.create(
        experiment, queue=False
    )


def judged(home: Path, run: Run, fold: int) -> None:
    """Evaluates the run of a fold on its test patient, once, and writes down that it is done."""
    view = run.view()
    if view.status != "done":
        raise SystemExit(f"Fold {fold} ended as {view.status}: {view.reason}")
    began = time.time()
    facts = {"run": run.id, "fold": fold, "seconds": view.seconds, "test": evaluate(run, home)["metrics"]}
    facts |= {"epochs": view.epoch, "best": view.best, "evaluation_s": time.time() - began}
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


def report(home: Path, runs: list[Run], wanted: int, grain: str) -> None:
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
    own = kind.report(parts[0], (), False, RESAMPLES)
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
        "command": f"python benchmarks/enhancement_ct.py --grain {grain}",
        "experiment": first.model_dump(mode="json"),
        "ceiling_db": ceiling,
        "promised": PROMISED,
        "folds_done": f"{len(runs)} of {wanted}",
        "met": met,
        "settings": [list(map(str, part["settings"])) for part in parts],
        "report": found,
        "first_fold": own["windows"],
        "folds": folds,
    }
    trials.write(f"enhancement_ct_{grain}", measured, page(found, met, folds, wanted, ceiling, grain, own))


def own_gains(report: dict[str, Any]) -> str:
    """What the first patient alone gains, in words."""
    told = []
    for name, row in report["windows"].items():
        ways = {way: figures["gain_db"]["value"] for way, figures in row["ways"].items() if way != "output"}
        over = min(gain for way, gain in ways.items() if way != "input")
        told.append(f"{ways['input']:.1f} dB over the input and {over:.1f} over the best filter in the {name} window")
    return ", ".join(told)


def page(
    found: dict[str, Any],
    met: dict[str, Any],
    folds: list[dict[str, Any]],
    wanted: int,
    ceiling: dict[str, list[float]],
    grain: str,
    first: dict[str, Any],
) -> list[str]:
    """The results as Markdown."""
    lines = [
        f"# Chest CT at a simulated quarter dose: {SIMULATED[grain]}",
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
        OTHER[grain],
        "",
        f"{EARLIER}{own_gains(first)}.",
    ]
    seconds = [fold["seconds"] for fold in folds]
    told = f"{min(seconds):.0f} to {max(seconds):.0f} s on one thread, beside others"
    lines += [
        "",
        f"Training of a fold: {told}; evaluation {max(fold['evaluation_s'] for fold in folds):.0f} s at most.",
    ]
    return lines


if __name__ == "__main__":
    sys.exit(main())
