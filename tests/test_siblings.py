"""Several seeds as spread: runs of one document but the seed, and what is none of these."""

from __future__ import annotations

import json
import os
from pathlib import Path

import little_run
import pytest

from builder import siblings
from builder.runs import Run, RunStore
from builder.spec import Experiment


def answered(home: Path, document: Experiment, auc: float | None, *, n: int = 40) -> Run:
    """A run that has learned and, where a figure is given, was asked about the test side."""
    run = RunStore(home).create(document, queue=False)
    (run.folder / "best.safetensors").write_bytes(b"weights")
    if auc is not None:
        told = {"dataset": "d", "n": n, "edited": 0, "metrics": {"auc": {"value": auc, "low": 0, "high": 1}}}
        (run.folder / "evaluation-test.json").write_text(json.dumps(told))
    return run


@pytest.fixture
def document() -> Experiment:
    return little_run.starter().replace("data.dataset", "d")


def test_runs_that_differ_in_the_seed_alone_are_told_as_a_spread(home, document):
    first, *_ = [answered(home, document.replace("training.seed", k), auc) for k, auc in enumerate((0.8, 0.9, 0.86))]
    answered(home, document.replace("training.seed", 9).replace("name", "again"), 0.7)  # a name makes no other recipe
    answered(home, document.replace("training.seed", 4), None)
    answered(home, document.replace("training.epochs", 77), 0.1)
    answered(home, document.replace("data.dataset", "other"), 0.1)
    found = siblings.spread(first, home)
    assert found is not None and sorted(found["seeds"]) == [0, 1, 2, 9] and found["unasked"] == 1
    auc = found["metrics"]["auc"]
    assert (auc["low"], auc["high"], auc["n"]) == (0.7, 0.9, 4) and auc["sd"] == pytest.approx(0.0870, abs=1e-4)
    assert siblings.words(auc) == "0.700 to 0.900, SD 0.087"


def test_one_training_has_no_spread_and_other_scans_or_newer_weights_are_not_mixed_in(home, document):
    first = answered(home, document, 0.8)
    assert siblings.spread(first, home) is None
    answered(home, document.replace("training.seed", 1), 0.9, n=41)  # the data set has grown since
    stale = answered(home, document.replace("training.seed", 2), 0.9)
    os.utime(stale.folder / "evaluation-test.json", (1, 1))  # it has learned since
    found = siblings.spread(first, home)
    assert found is not None and found["metrics"] == {} and found["unasked"] == 2


def test_branches_and_folds_are_no_siblings(home, document):
    first = answered(home, document, 0.8)
    branch = answered(home, document.replace("training.seed", 1), 0.9)
    (branch.folder / "branch.json").write_text(json.dumps({"parent": first.id, "step": 1, "epoch": 1, "changes": {}}))
    fold = answered(home, document.replace("training.seed", 2), 0.9)
    (fold.folder / "sides.json").write_text(json.dumps({"came": {}, "sides": {"c000000": "train"}}))
    assert siblings.siblings(first, home) == [first] and siblings.spread(first, home) is None
    assert siblings.siblings(branch, home) == [branch]
