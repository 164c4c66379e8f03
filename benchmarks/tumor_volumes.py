"""Volumes outlined slice by slice (2.5-D) and from 3-D patches: two starters side by side on the same planted tumours.

    python benchmarks/tumor_volumes.py [--kinds volumes 3-D] [--seeds 0] [--threads 2]

The demo sets of volumes (10 slices of 6 mm; 20 slices of 3 mm; pixels of 2 mm) and the starters as they are. Scans are
synthetic; what is shown is how the two ways compare, not how well either does on people. The epoch is chosen on the
validation side; the test side is asked once a run, on the scan's own grid. Writes benchmarks/results/tumor_volumes.json
and .md.
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

from builder import task  # noqa: E402

PROMISE = 0.85
STARTERS = ("unet-neighbours", "unet-3d-patches")
FIGURES = ("dice", "iou", "hd95_mm", "nsd", "volume_error_ml", "false_positive_rate", "auc")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", default=["volumes", "3-D"])
    parser.add_argument("--starters", nargs="+", default=list(STARTERS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--home", type=Path, default=ROOT / "build" / "benchmarks" / "tumor-volumes")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--train-only", action="store_true", help="train, so that another call finds the runs done")
    arguments = parser.parse_args()
    kind = task.find("tumor_diagnosis")
    rows: list[dict[str, Any]] = []
    for demo in arguments.kinds:
        folder = arguments.home / demo
        source = folder / "labels.csv" if folder.exists() else kind.demo(0, folder, demo)
        dataset = trials.imported(arguments.home, demo, source, task="tumor_diagnosis")
        slices = int(dataset.fingerprint.num_slices["median"])
        for starter in (e for e in kind.starters() if e.name in arguments.starters):
            for seed in arguments.seeds:
                experiment = starter.replace("data.dataset", dataset.id).replace("training.seed", seed)
                row = trials.trained(arguments.home, experiment, arguments.threads)
                rows.append({"kind": demo, "slices": slices, **row})
    if arguments.train_only:
        return 0
    command = " ".join(["python benchmarks/tumor_volumes.py", *sys.argv[1:]])
    measured = {"command": command, "promise": {"dice": PROMISE}, "runs": rows}
    trials.write("tumor_volumes", measured, _page(rows))
    return 0 if min(row["test"]["dice"]["value"] for row in rows) >= PROMISE else 1


def _page(rows: list[dict[str, Any]]) -> list[str]:
    table = [
        (
            *(f"{row['slices']} slices", row["name"], str(row["seed"]), str(row["n"]), str(row["best"]["epoch"])),
            *(trials.interval(row["test"][name]) if name in row["test"] else "" for name in FIGURES),
            f"{row['seconds'] / 60:.1f} ({row['threads']})",
        )
        for row in rows
    ]
    names = ("scans", "starter", "seed", "test cases", "best epoch", *(n.replace("_", " ") for n in FIGURES))
    return [
        "# Volumes: slice by slice and from 3-D patches",
        "",
        "Synthetic head scans of 60 patients with benign and malignant tumours of known outline, and some without, as "
        "10 slices of 6 mm and as 20 slices of 3 mm. unet-neighbours looks at each slice with its two "
        "neighbours (2.5-D), unet-3d-patches at blocks of 8 slices of 32 x 32 px.",
        "On 10 slices unet-neighbours is also in tumor_phantoms.md. Minutes are wall time (processor threads), "
        "on a shared machine: they say little.",
        "",
        f"| {' | '.join((*names, 'minutes'))} |",
        f"|{'---|' * (len(names) + 1)}",
        *(f"| {' | '.join(cells)} |" for cells in table),
        "",
        f"Promised: Dice of {PROMISE} and more over the cases that have a tumour.",
    ]


if __name__ == "__main__":
    sys.exit(main())
