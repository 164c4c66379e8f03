"""Breast ultrasound (BUSI) as tumour diagnosis, every image held out once: malignant or not?

    python benchmarks/tumor_busi_folds.py [--folder ../shared/data/busi_ultrasound] [--folds 5]

`tumor_busi.py` asks one split, whose 98 test images leave an interval of 0.14. Here all 391 are asked: near-duplicates
stay in one fold, and each fold's best epoch is chosen on images set aside within it. The recipe is one of a few
candidates, chosen on what the first fold learns from before any fold is asked (`choosing.py`;
results/tumor_busi_folds_choice.json, taken away to choose anew). No patient is known: one image counts as one patient.
The same as `python -m builder crossvalidate FILE --folds 5`, with folds side by side where there are processors for it.
Minutes on a GPU. Writes benchmarks/results/tumor_busi_folds.json and .md.
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

import choosing  # noqa: E402
import trials  # noqa: E402
from tumor_busi import PROMISE, STARTER, recipe  # noqa: E402

from builder.folds import groups_of  # noqa: E402
from builder.runs import Run  # noqa: E402
from builder.spec import Choice, Experiment  # noqa: E402

NAME = "tumor_busi_folds"
FIGURES = ("auc", "accuracy", "balanced_accuracy")
DECIDES = ("val/auc",)
ULTRASOUND = (
    Choice(name="flip_horizontal"),
    Choice(name="rotate", params={"degrees": 15.0}),
    Choice(name="zoom", params={"low": 0.8, "high": 1.25, "probability": 0.8}),
    Choice(name="shift", params={"fraction": 0.08, "probability": 0.8}),
    Choice(name="elastic"),
    Choice(name="brightness", params={"amount": 0.15}),
    Choice(name="contrast", params={"amount": 0.3}),
    Choice(name="gamma", params={"amount": 0.3}),
    Choice(name="blur"),
    Choice(name="speckle"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT.parent / "shared" / "data" / "busi_ultrasound")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--home", type=Path, default=ROOT / "build" / "benchmarks" / "tumor-busi-folds")
    parser.add_argument("--beside", type=int, default=os.cpu_count() or 1, help="folds that learn at the same time")
    arguments = parser.parse_args()
    dataset = trials.imported(arguments.home, "BUSI", arguments.folder, split=(0.9, 0.1, 0.0), task="tumor_diagnosis")
    candidates = recipes(dataset.id)
    chosen = choosing.chosen(arguments.home, NAME, candidates, DECIDES, arguments.folds, arguments.beside)
    one, found = trials.folded(arguments.home, candidates[chosen], arguments.folds, arguments.beside)
    measured = {
        "command": f"python benchmarks/{NAME}.py",
        "recipe": chosen,
        "experiment": candidates[chosen].model_dump(mode="json"),
        "groups": len(set(groups_of(dataset))),
        "promise": {"malignant against the rest, AUC": PROMISE},
        "folds": {name: found[name] for name in ("n", "folds", "metrics", "members", "notes")},
        "report": {name: found["report"][name] for name in ("per_class", "confusion") if name in found["report"]},
        "first_fold_auc": own_auc(one.runs()[0], dataset.classes.index("malignant")),
        "minutes": round(sum(run.view().seconds for run in one.runs()) / 60, 1),
    }
    trials.write(NAME, measured, page(measured))
    return 0 if measured["report"]["per_class"]["malignant"]["auc"]["value"] >= PROMISE else 1


def recipes(dataset: str) -> dict[str, Experiment]:
    """The candidates, by name: that of `tumor_busi.py` with its weights averaged (EMA) and asked with the mirror image,
    and what a GPU has time for."""
    ema = {"training.average": Choice(name="ema", params={"decay": 0.98}), "training.test_time": "mirror"}
    short = trials.edited(recipe(dataset), ema)
    longer = trials.edited(
        short, {"training.epochs": 40, "training.average": Choice(name="ema", params={"decay": 0.99})}
    )
    varied = trials.edited(longer, {"training.augment": ULTRASOUND, "training.epochs": 30, "training.batch_size": 16})
    calm = {"training.optimizer": Choice(name="adamw", params={"lr": 0.0003})}
    return {
        "as tumor_busi.py": short,
        "varied strongly, 224 px, lower rate": trials.edited(varied, {"data.size_px": 224} | calm),
    }


def own_auc(run: Run, kind: int) -> float:
    """How well one fold alone tells one type from the rest, on what it holds out: the area under the ROC curve."""
    from sklearn.metrics import roc_auc_score

    with np.load(run.folder / "predictions-test.npz", allow_pickle=False) as stored:
        return round(float(roc_auc_score(stored["labels"] == kind, stored["probabilities"][:, kind])), 3)


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
        f"near-duplicates); {STARTER} (ImageNet weights), class weights, label smoothing 0.1, weight decay 0.05, "
        "weights averaged, asked with its mirror image; the epoch is chosen by the AUC (mean over the three types) on "
        "images set aside within each fold.",
        *choosing.words(NAME),
        "",
        "One image = one patient, since no patient is known: expect less on new patients. The copy has no outlines.",
        "",
        "| figure | pooled out of fold (95 % over images) | mean over folds ± sd |",
        "|---|---|---|",
        *(f"| {' | '.join(cells)} |" for cells in rows),
        "",
        f"Promised: malignant against the rest with an AUC of {PROMISE} and more: {verdict}.",
        f"The first fold, whose images had no say in the choice: {measured['first_fold_auc']:.3f}. "
        f"All folds took {measured['minutes']} minutes in all, side by side with others.",
        "",
        *(f"* {note}" for note in folds["notes"]),
    ]


if __name__ == "__main__":
    sys.exit(main())
