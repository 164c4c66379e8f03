"""PneumoniaMNIST (28 px, official splits) with the shipped small-cnn starter, unchanged but for data set and seed.

    python benchmarks/pneumoniamnist.py [--npz ../shared/data/pneumoniamnist/pneumoniamnist.npz] [--seeds 0 1 2]

Each seed is an ordinary run: the best epoch is chosen by validation AUC, the test split is opened once, at the end.
Writes benchmarks/results/pneumoniamnist.json and .md. Runs that are done in --home are not repeated.
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

PEERS = (
    ("ResNet-18, 28 px (MedMNIST v2, Sci Data 10:41, 2023, table 3)", 0.944, 0.854),
    ("ResNet-50, 28 px (same table)", 0.948, 0.854),
    ("ResNet-50, 224 px (same table)", 0.962, 0.884),
    ("AutoKeras (same table)", 0.947, 0.878),
    ("Google AutoML Vision (same table)", 0.991, 0.946),
)
WANTED = {"auc": 0.970, "accuracy": 0.88}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = ROOT.parent / "shared" / "data" / "pneumoniamnist" / "pneumoniamnist.npz"
    parser.add_argument("--npz", type=Path, default=shared)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--home", type=Path, default=ROOT / "build" / "benchmarks" / "pneumoniamnist")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    dataset = trials.imported(arguments.home, "PneumoniaMNIST", arguments.npz)
    starter = trials.starter("small-cnn").replace("data.dataset", dataset.id)
    rows = [
        trials.trained(arguments.home, starter.replace("training.seed", seed), arguments.threads)
        for seed in arguments.seeds
    ]
    means = {name: sum(row["test"][name]["value"] for row in rows) / len(rows) for name in WANTED}
    reached = all(means[name] >= least for name, least in WANTED.items())
    command = "python benchmarks/pneumoniamnist.py"
    measured = {"command": command, "wanted": WANTED, "mean": means, "reached": reached, "runs": rows}
    trials.write("pneumoniamnist", measured, _page(rows, means, reached))
    return 0 if reached else 1


def _page(rows: list[dict[str, Any]], means: dict[str, float], reached: bool) -> list[str]:
    table = [
        (
            str(row["seed"]),
            str(row["best"]["epoch"]),
            f"{row['best']['value']:.4f}",
            trials.interval(row["test"]["auc"]),
            trials.interval(row["test"]["accuracy"]),
            f"{row['test']['balanced_accuracy']['value']:.3f}",
            f"{row['seconds'] / 60:.1f}",
        )
        for row in rows
    ]
    return [
        "# PneumoniaMNIST, small-cnn starter",
        "",
        "Official splits (4,708 / 524 / 624), best epoch by validation AUC, test opened once a run. The npz is a",
        "rebuilt copy whose split sizes equal the official ones (see SOURCE.txt beside it). Minutes are wall time on a",
        "machine that other work may have shared.",
        "",
        "| seed | best epoch | val AUC | test AUC (95 %) | test accuracy (95 %) | balanced accuracy | minutes |",
        "|---|---|---|---|---|---|---|",
        *(f"| {' | '.join(cells)} |" for cells in table),
        f"| **mean** | | | **{means['auc']:.4f}** | **{means['accuracy']:.4f}** | | |",
        "",
        f"Wanted: AUC >= {WANTED['auc']}, accuracy >= {WANTED['accuracy']}: {'reached' if reached else 'NOT reached'}.",
        f"Always answering the commonest class: accuracy {rows[0]['majority_accuracy']:.3f}.",
        "",
        "| others, as published | AUC | accuracy |",
        "|---|---|---|",
        *(f"| {name} | {auc} | {accuracy} |" for name, auc, accuracy in PEERS),
    ]


if __name__ == "__main__":
    sys.exit(main())
