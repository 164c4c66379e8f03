"""Breast ultrasound (BUSI) as tumour diagnosis, every image held out once: malignant or not?

    python benchmarks/tumor_busi_folds.py [--folder ../shared/data/busi_ultrasound] [--folds 5]

`tumor_busi.py` asks one split, whose 98 test images leave an interval of 0.14. Here all 391 are asked: near-duplicates
stay in one fold, and each fold's best epoch is chosen on images set aside within it. The recipe is that of
`tumor_busi.py`, with what `brain_mri_folds.py` had fixed for another collection (weights averaged, asked with its
mirror image); it was written down before any fold was asked and is not changed by what they said. No patient is known:
one image counts as one patient. The same as `python -m builder crossvalidate FILE --folds 5`, with folds side by side
where there are processors for it. Writes benchmarks/results/tumor_busi_folds.json and .md.
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
from tumor_busi import EPOCHS, PROMISE, STARTER, recipe  # noqa: E402

from builder.folds import groups_of  # noqa: E402
from builder.spec import Choice  # noqa: E402

FIGURES = ("auc", "accuracy", "balanced_accuracy")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT.parent / "shared" / "data" / "busi_ultrasound")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--home", type=Path, default=ROOT / "build" / "benchmarks" / "tumor-busi-folds")
    parser.add_argument("--beside", type=int, default=os.cpu_count() or 1, help="folds that learn at the same time")
    arguments = parser.parse_args()
    dataset = trials.imported(arguments.home, "BUSI", arguments.folder, split=(0.85, 0.15, 0.0), task="tumor_diagnosis")
    experiment = recipe(dataset.id).replace("training.average", Choice(name="ema", params={"decay": 0.98}))
    experiment = experiment.replace("training.test_time", "mirror")
    one, found = trials.folded(arguments.home, experiment, arguments.folds, arguments.beside)
    measured = {
        "command": "python benchmarks/tumor_busi_folds.py",
        "groups": len(set(groups_of(dataset))),
        "promise": {"malignant against the rest, AUC": PROMISE},
        "folds": {name: found[name] for name in ("n", "folds", "metrics", "members", "notes")},
        "report": {name: found["report"][name] for name in ("per_class", "confusion") if name in found["report"]},
        "minutes": round(sum(run.view().seconds for run in one.runs()) / 60, 1),
    }
    trials.write("tumor_busi_folds", measured, page(measured))
    return 0 if measured["report"]["per_class"]["malignant"]["auc"]["value"] >= PROMISE else 1


def page(measured: dict[str, Any]) -> list[str]:
    """The results as Markdown."""
    folds, malignant = measured["folds"], measured["report"]["per_class"]["malignant"]
    rows = [
        ("malignant against the rest, AUC", trials.interval(malignant["auc"]), ""),
        ("its sensitivity at 90 % specificity", trials.interval(malignant["sensitivity_at_specificity_90"]), ""),
    ]
    for name in FIGURES:
        told = folds["metrics"][name]
        spread = f"{told['mean']:.3f} ± {told['sd']:.3f}"
        rows.append((f"all three types, {name.replace('_', ' ')}", trials.interval(told), spread))
    verdict = "met" if malignant["auc"]["value"] >= PROMISE else "not met"
    return [
        f"# BUSI as tumour diagnosis, type alone, {folds['folds']} folds: every image held out once",
        "",
        f"{folds['n']} images (every second one of the public copy) in {measured['groups']} groups (an image and its "
        f"near-duplicates); {STARTER} (ImageNet weights), {EPOCHS} epochs, class weights, label smoothing 0.1, weight "
        "decay 0.05, weights averaged, asked with its mirror image; the epoch is chosen by the AUC on images set aside "
        "within each fold. The recipe was fixed before the folds were asked.",
        "One image = one patient, since no patient is known: expect less on new patients. The copy has no outlines.",
        "",
        "| figure | pooled out of fold (95 % over images) | mean over folds ± sd |",
        "|---|---|---|",
        *(f"| {' | '.join(cells)} |" for cells in rows),
        "",
        f"Promised: malignant against the rest with an AUC of {PROMISE} and more: {verdict}.",
        f"All folds took {measured['minutes']} minutes of one processor each.",
        "",
        *(f"* {note}" for note in folds["notes"]),
    ]


if __name__ == "__main__":
    sys.exit(main())
