"""Breast ultrasound (BUSI) as tumour diagnosis: the type alone, since this copy has no outlines. Malignant or not?

    python benchmarks/tumor_busi.py [--folder ../shared/data/busi_ultrasound] [--seeds 0]

A shipped starter with ImageNet weights, as it is but for the score it watches (there is no Dice without outlines) and
its epochs. Near-duplicates stay on one side (the import sees to it); no patient is known, so one image counts as one
patient. The epoch is chosen on the validation side; the test side is asked once a seed. Writes
benchmarks/results/tumor_busi.json and .md.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import trials  # noqa: E402

from builder import task  # noqa: E402
from builder.spec import Experiment  # noqa: E402

SPLIT = (0.6, 0.15, 0.25)
STARTER = "efficientnet-deeplab"
EPOCHS = 15
PROMISE = 0.88


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT.parent / "shared" / "data" / "busi_ultrasound")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--home", type=Path, default=ROOT / "build" / "benchmarks" / "tumor-busi")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    dataset = trials.imported(arguments.home, "BUSI", arguments.folder, split=SPLIT, task="tumor_diagnosis")
    experiment = recipe(dataset.id)
    rows: list[dict[str, Any]] = []
    for seed in arguments.seeds:
        rows.append(trials.trained(arguments.home, experiment.replace("training.seed", seed), arguments.threads))
    facts = dataset.fingerprint
    measured = {
        "command": "python benchmarks/tumor_busi.py",
        "split": SPLIT,
        "class_counts": facts.class_counts,
        "duplicates": facts.duplicates,
        "promise": {"malignant against the rest, AUC": PROMISE},
        "peak_mb": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000),
        "runs": rows,
    }
    trials.write("tumor_busi", measured, _page(rows, facts, measured["peak_mb"]))
    return 0 if min(row["per_class"]["malignant"]["auc"]["value"] for row in rows) >= PROMISE else 1


def recipe(dataset: str) -> Experiment:
    """The starter for a copy without outlines: it watches the AUC, and its classes weigh alike."""
    found = next(e for e in task.find("tumor_diagnosis").starters() if e.name == STARTER)
    found = found.replace("data.dataset", dataset).replace("training.monitor", "auc")
    found = found.replace("training.epochs", EPOCHS).replace("training.balance", "weights")
    return found.replace("training.label_smoothing", 0.1).replace("training.l2", 0.05)


def _page(rows: list[dict[str, Any]], facts: Any, peak_mb: int) -> list[str]:
    table = [
        (
            str(row["seed"]),
            str(row["best"]["epoch"]),
            trials.interval(row["per_class"]["malignant"]["auc"]),
            trials.interval(row["per_class"]["malignant"]["sensitivity_at_specificity_90"]),
            trials.interval(row["test"]["auc"]),
            trials.interval(row["test"]["balanced_accuracy"]),
            f"{row['seconds'] / 60:.1f}",
        )
        for row in rows
    ]
    counts = {split: sum(classes.values()) for split, classes in facts.class_counts.items()}
    return [
        f"# BUSI as tumour diagnosis, {STARTER} starter, type alone",
        "",
        f"{facts.num_cases} images (every second one of the public copy), {counts['train']} / {counts['val']} / "
        f"{counts['test']} for training, validation and test; {facts.duplicates['near']} groups of near-duplicates, "
        "each on one side.",
        "One image = one patient, since no patient is known: expect less on new patients. The copy has no outlines.",
        f"{EPOCHS} epochs, class weights, label smoothing 0.1, weight decay 0.05, as the recognition starter of the "
        "same backbone; the epoch is chosen by the validation AUC.",
        f"Minutes are wall time on a machine that other work shared; peak memory {peak_mb} MB.",
        "",
        "| seed | best epoch | malignant against the rest, AUC | sensitivity at 90 % specificity | mean AUC | balanced "
        "accuracy | minutes |",
        "|---|---|---|---|---|---|---|",
        *(f"| {' | '.join(cells)} |" for cells in table),
        "",
        f"Promised: malignant against the rest with an AUC of {PROMISE} and more.",
    ]


if __name__ == "__main__":
    sys.exit(main())
