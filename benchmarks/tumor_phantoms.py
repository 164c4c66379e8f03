"""Planted tumours: do the shipped small U-Nets outline them, on pictures and slice by slice on volumes?

    python benchmarks/tumor_phantoms.py [--kinds pictures volumes] [--seeds 0]

The demo sets and the starters that belong to them, as they are. Scans are synthetic; what is shown is that the tool
works. The epoch is chosen on the validation side; the test side is asked once a seed, on the scan's own grid. Writes
benchmarks/results/tumor_phantoms.json and .md.
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

PROMISE = 0.85
FIGURES = ("dice", "iou", "patient_dice", "hd95_mm", "nsd", "volume_error_ml", "false_positive_rate", "auc")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", default=["pictures", "volumes"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--home", type=Path, default=ROOT / "build" / "benchmarks" / "tumor-phantoms")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    kind = task.find("tumor_diagnosis")
    rows: list[dict[str, Any]] = []
    for demo in arguments.kinds:
        folder = arguments.home / demo
        source = folder / "labels.csv" if folder.exists() else kind.demo(0, folder, demo)
        dataset = trials.imported(arguments.home, demo, source, task="tumor_diagnosis")
        starter = next(e for e in kind.starters() if e.name == kind.demos[demo])
        for seed in arguments.seeds:
            experiment = starter.replace("data.dataset", dataset.id).replace("training.seed", seed)
            rows.append({"kind": demo, **trials.trained(arguments.home, experiment, arguments.threads)})
    measured = {
        "command": "python benchmarks/tumor_phantoms.py",
        "promise": {"dice": PROMISE},
        "peak_mb": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000),
        "runs": rows,
    }
    trials.write("tumor_phantoms", measured, _page(rows, measured["peak_mb"]))
    return 0 if min(row["test"]["dice"]["value"] for row in rows) >= PROMISE else 1


def _page(rows: list[dict[str, Any]], peak_mb: int) -> list[str]:
    table = [
        (
            *(row["kind"], row["name"], str(row["seed"]), str(row["n"]), str(row["best"]["epoch"])),
            *(trials.interval(row["test"][name]) if name in row["test"] else "" for name in FIGURES),
            f"{row['seconds'] / 60:.1f}",
        )
        for row in rows
    ]
    names = ("scans", "starter", "seed", "test cases", "best epoch", *(n.replace("_", " ") for n in FIGURES), "minutes")
    return [
        "# Planted tumours",
        "",
        "Synthetic head scans with benign and malignant tumours of known outline, and some without; a few have no mask "
        "or no type, and are used for what they have.",
        f"Minutes are wall time on a machine that other work shared; peak memory {peak_mb} MB.",
        "",
        f"| {' | '.join(names)} |",
        f"|{'---|' * len(names)}",
        *(f"| {' | '.join(cells)} |" for cells in table),
        "",
        f"Promised: Dice of {PROMISE} and more over the cases that have a tumour.",
    ]


if __name__ == "__main__":
    sys.exit(main())
