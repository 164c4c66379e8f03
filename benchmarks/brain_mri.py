"""Brain MRI (glioma, meningioma, pituitary, no tumour) with the shipped efficientnet-lite0 starter, at 224 px.

    python benchmarks/brain_mri.py [--folder ../shared/data/brain_tumor_mri_4class] [--seeds 0]

The split is the source's own (Training / Testing), with validation taken out of its training side; the epoch is
chosen there and the test side is asked once a seed. The official split leaks, and the import says so: almost equal
pictures lie on both sides, and the colour mode of a file alone tells much of the class. So beside the official figure
stands that of the test pictures without a twin among those learned from. No patient is known. Writes
benchmarks/results/brain_mri.json and .md.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import trials  # noqa: E402

from builder.baseline import baseline, kept  # noqa: E402
from builder.data import Dataset  # noqa: E402
from builder.measures.bootstrap import RESAMPLES  # noqa: E402
from builder.measures.classes import Predictions, report  # noqa: E402
from builder.spec import Choice, Experiment  # noqa: E402

PROMISE = 0.93
EPOCHS = 25
EARLIER = (
    "The test side was opened once before, by the starter as it is (160 px, 15 epochs, chosen by accuracy): accuracy "
    "0.869 (0.819 to 0.919), where validation had said 0.923."
)
FIGURES = ("accuracy", "balanced_accuracy", "auc")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT.parent / "shared" / "data" / "brain_tumor_mri_4class")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--home", type=Path, default=ROOT / "build" / "benchmarks" / "brain-mri")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    dataset = trials.imported(arguments.home, "Brain MRI", arguments.folder)
    starter = recipe(dataset.id)
    rows: list[dict[str, Any]] = []
    for seed in arguments.seeds:
        row = trials.trained(arguments.home, starter.replace("training.seed", seed), arguments.threads)
        row["alone"] = without_twins(dataset, arguments.home / "runs" / row["run"] / "predictions-test.npz")
        rows.append(row)
    beaten = kept(dataset)
    if beaten is None or not beaten["test"]:
        beaten = baseline(dataset, test=True)
    facts = dataset.fingerprint
    measured = {
        "command": "python benchmarks/brain_mri.py",
        "class_counts": facts.class_counts,
        "duplicates": facts.duplicates,
        "warnings": facts.warnings,
        "promise": {"accuracy": PROMISE},
        "frozen_features": {name: beaten["test"]["metrics"][name] for name in FIGURES},
        "runs": rows,
    }
    trials.write("brain_mri", measured, page(rows, measured["frozen_features"], dataset))
    return 0 if min(row["test"]["accuracy"]["value"] for row in rows) >= PROMISE else 1


def recipe(dataset: str) -> Experiment:
    """The shipped starter at the pictures' own size, for longer, with flips (a head is nearly its mirror image)."""
    found = trials.starter("efficientnet-lite0").replace("data.dataset", dataset).replace("data.size_px", 224)
    augment = (Choice(name="flip_horizontal"), *found.training.augment)
    return found.replace("training.augment", augment).replace("training.epochs", EPOCHS)


def without_twins(dataset: Dataset, stored: Path) -> dict[str, Any]:
    """The figures over the test pictures of which no almost equal one lies on another side: {n, accuracy, ...}."""
    elsewhere = {case.alike for case in dataset.cases if case.split != "test"}
    lonely = {case.id for case in dataset.cases if case.split == "test" and case.alike not in elsewhere}
    with np.load(stored, allow_pickle=False) as found:
        chosen = np.array([name in lonely for name in found["cases"]])
        names = ("probabilities", "labels", "patients", "cases")
        rows = Predictions(**{name: found[name][chosen] for name in names})
    metrics = report(rows, dataset.classes, RESAMPLES)["metrics"]
    return {"n": int(chosen.sum()), **{name: metrics[name] for name in FIGURES}}


def page(rows: list[dict[str, Any]], beaten: dict[str, Any], dataset: Dataset) -> list[str]:
    """The results as Markdown."""
    facts = dataset.fingerprint
    table: list[tuple[str, ...]] = []
    for row in rows:
        minutes = f"{row['seconds'] / 60:.1f}"
        told = (f"seed {row['seed']}, epoch {row['best']['epoch']} of {row['epochs']}", str(row["n"]))
        table.append((*told, *(trials.interval(row["test"][name]) for name in FIGURES), minutes))
        alone = row["alone"]
        told = (f"seed {row['seed']}, without twins", str(alone["n"]))
        table.append((*told, *(trials.interval(alone[name]) for name in FIGURES), ""))
    num = str(rows[0]["n"])
    table.append(("frozen features, no training", num, *(trials.interval(beaten[name]) for name in FIGURES), ""))
    counts = {split: sum(classes.values()) for split, classes in facts.class_counts.items()}
    return [
        "# Brain MRI in four classes, efficientnet-lite0 with ImageNet weights",
        "",
        f"{counts['train']} / {counts['val']} / {counts['test']} pictures for training, validation and test (the "
        "source's own test side); the epoch is chosen by the AUC on validation.",
        EARLIER,
        "",
        f"| run | test pictures | {' | '.join(name.replace('_', ' ') for name in FIGURES)} | minutes |",
        f"|{'---|' * (3 + len(FIGURES))}",
        *(f"| {' | '.join(cells)} |" for cells in table),
        "",
        f"Promised: an accuracy of {PROMISE} and more on the official split.",
        "",
        "What the import said of this collection, on the page and here:",
        "",
        *(f"- {words}" for words in facts.warnings),
    ]


if __name__ == "__main__":
    sys.exit(main())
