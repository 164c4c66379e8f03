"""Contrast series in which only the order of slices carries the label: CNN + BiGRU against the mean of slice scores.

    python benchmarks/series_order.py [--seeds 0 1 2] [--series 240]

The set is synthetic (`tasks.perfusion`): the moments of a series are drawn before its class is known, and sorted up
(wash-in) or down (wash-out) by it. All networks share the CNN over each slice, the recipe, the scans and the splits;
what differs is what joins the slices: the shipped cnn-bigru, the same with errors that travel back four slices at most
(truncated back-propagation through time), and the mean over time of the scores of each slice, which cannot know the
order. The shipped small-3d-cnn is measured beside them. The best epoch is chosen by validation AUC; the test split is
opened once a run. The difference is that of the mean AUC over seeds, on the same resampled patients for both networks
(paired bootstrap, Efron and Tibshirani 1993). Writes benchmarks/results/series_order.json and .md.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import trials  # noqa: E402

from builder.intake import Source  # noqa: E402
from builder.measures.classes import Predictions, draws, figures  # noqa: E402
from builder.runs import RunStore  # noqa: E402
from builder.spec import Experiment, Node  # noqa: E402
from tasks import perfusion  # noqa: E402

SPLIT = (0.5, 0.15, 0.35)
RESAMPLES = 5000
OURS, BASE = "cnn-bigru", "mean of slice scores"


def networks() -> dict[str, Experiment]:
    """What is compared, by name; all but the 3-D network have the same layers up to the vector of each slice."""
    ours = trials.starter("cnn-bigru")
    scores = ours.remove("gru_1").remove("dropout_1")  # class scores of each slice ...
    mean = scores.insert(Node(id="time_pool_1", name="time_pool", params={"kind": "average"}))  # ... and their mean
    return {
        OURS: ours,
        "cnn-bigru, truncated at 4": ours.replace("network.gru_1.params.bptt", 4),
        BASE: mean.replace("name", BASE),
        "small-3d-cnn": trials.starter("small-3d-cnn"),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--series", type=int, default=240)
    parser.add_argument("--home", type=Path, default=ROOT / "build" / "benchmarks" / "series_order")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    name = f"Contrast series, {arguments.series}"
    made = arguments.home.parent / f"{arguments.home.name}-files"
    source = Source("csv", perfusion.write_cohort(made, seed=0, num_series=arguments.series), synthetic=True)
    dataset = trials.imported(arguments.home, name, source, split=SPLIT)
    shutil.rmtree(made)
    rows: list[dict[str, Any]] = []
    for seed in arguments.seeds:
        for what, experiment in networks().items():
            chosen = experiment.replace("data.dataset", dataset.id).replace("training.seed", seed)
            rows.append({"network": what, **trials.trained(arguments.home, chosen, arguments.threads)})
    answers = {
        what: [_predictions(arguments.home, row["run"]) for row in rows if row["network"] == what]
        for what in networks()
    }
    means = {what: _auc(found) for what, found in answers.items()}
    differences = {what: _paired(answers[what], answers[BASE]) for what in answers if what != BASE}
    better = differences[OURS]["low"] > 0
    facts = dataset.fingerprint
    measured = {
        "command": "python benchmarks/series_order.py",
        "split": SPLIT,
        "class_counts": facts.class_counts,
        "patients_per_split": facts.patients_per_split,
        "num_slices": facts.num_slices,
        "mean_auc": means,
        "auc_difference_from_the_mean_of_slice_scores": differences,
        "interval": {"confidence": 0.95, "method": "paired percentile bootstrap over patients", "resamples": RESAMPLES},
        "better": better,
        "runs": rows,
    }
    trials.write("series_order", measured, _page(rows, means, differences, facts, better))
    return 0 if better else 1


def _predictions(home: Path, run: str) -> Predictions:
    """What a run answered on the test split, as `evaluate` stored it."""
    with np.load(RunStore(home).run(run).folder / "predictions-test.npz", allow_pickle=False) as stored:
        return Predictions(**{f.name: stored[f.name] for f in fields(Predictions)})


def _auc(found: list[Predictions], weights: np.ndarray | None = None) -> Any:
    """Test AUC, mean over the seeds: a number, or (B,) for weights (B, N)."""
    given = np.ones((1, len(found[0].labels))) if weights is None else weights
    mean = np.mean([figures(predictions, given)["auc"] for predictions in found], axis=0)
    return float(mean[0]) if weights is None else mean


def _paired(ours: list[Predictions], theirs: list[Predictions]) -> dict[str, float]:
    """{value, low, high, share_not_better} of the difference in mean AUC, over the same drawn patients."""
    drawn = [_auc(ours, weights) - _auc(theirs, weights) for weights in draws(ours[0], RESAMPLES, seed=0)]
    every = np.concatenate(drawn)
    low, high = np.percentile(every, [2.5, 97.5])
    return {
        "value": _auc(ours) - _auc(theirs),
        "low": float(low),
        "high": float(high),
        "share_not_better": float((every <= 0).mean()),
    }


def _page(
    rows: list[dict[str, Any]], means: dict[str, float], differences: dict[str, Any], facts: Any, better: bool
) -> list[str]:
    cases = {split: sum(classes.values()) for split, classes in facts.class_counts.items()}
    table = [
        (
            row["network"],
            str(row["seed"]),
            str(row["best"]["epoch"]),
            trials.interval(row["test"]["auc"]),
            trials.interval(row["test"]["accuracy"]),
            f"{row['seconds']:.0f}",
        )
        for row in rows
    ]
    return [
        "# Series whose order alone tells",
        "",
        f"{facts.num_cases} synthetic contrast series of {facts.num_slices['min']} to {facts.num_slices['max']} "
        "slices, "
        f"{cases['train']} / {cases['val']} / {cases['test']} for training, validation and test "
        f"({facts.patients_per_split['test']} patients).",
        "The same moments in rising order are one class, in falling order the other: no slice, and no mean over",
        "slices, tells them apart. Seconds are wall time on a machine that other work may have shared.",
        "",
        "| network | seed | best epoch | test AUC (95 %) | test accuracy (95 %) | seconds |",
        "|---|---|---|---|---|---|",
        *(f"| {' | '.join(cells)} |" for cells in table),
        *(f"| **{what}, mean** | | | **{mean:.3f}** | | |" for what, mean in means.items()),
        "",
        f"| minus {BASE} | difference in mean test AUC (95 %, paired over patients) | resamples without a gain |",
        "|---|---|---|",
        *(
            f"| {what} | {trials.interval(found)} | {100 * found['share_not_better']:.2f} % |"
            for what, found in differences.items()
        ),
        "",
        f"Wanted: {OURS} above the {BASE}, the interval above 0: {'reached' if better else 'NOT reached'}.",
    ]


if __name__ == "__main__":
    sys.exit(main())
