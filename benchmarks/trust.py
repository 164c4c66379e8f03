"""How long the Results page's statistics take: the bootstrap of a large test side, and a move of the threshold.

Asked for: 2,000 resamples of 20,000 cases in under 5 s on two cores, a threshold move in under 0.2 s. Told are wall and
processor time of this process; on a busy machine only the second says anything.

    .venv/bin/python benchmarks/trust.py [--out benchmarks/results/trust.json]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from builder.measures import classes  # noqa: E402
from builder.measures.classes import Predictions  # noqa: E402
from builder.measures.operating import Separation  # noqa: E402

CASES, RESAMPLES = 20_000, 2_000


def drawn(num_classes: int, per_patient: int = 1, seed: int = 0) -> Predictions:
    """Answers to 20,000 cases, right more often than not."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, CASES)
    scores = rng.normal(0, 1, (CASES, num_classes))
    scores[np.arange(CASES), labels] += 1.5
    chances = np.exp(scores)
    return Predictions(
        chances / chances.sum(1, keepdims=True), labels.astype(np.int64), np.arange(CASES) // per_patient,
        np.arange(CASES),
    )  # fmt: skip


def timed(work: Callable[[], object], rounds: int = 1) -> dict[str, float]:
    """{wall_s, cpu_s} of one round, the mean of `rounds`."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(rounds):
        work()
    return {
        "wall_s": round((time.perf_counter() - wall) / rounds, 4),
        "cpu_s": round((time.process_time() - cpu) / rounds, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    found: dict[str, Any] = {}
    for num_classes, per_patient in ((2, 1), (4, 1), (2, 4)):
        of = drawn(num_classes, per_patient)
        name = f"bootstrap, {num_classes} classes, {CASES // per_patient:,} patients"
        found[name] = timed(lambda of=of: classes.intervals(of, RESAMPLES))  # type: ignore[misc]
    of = drawn(2)
    here = Separation(of.probabilities[:, 1], of.labels == 1, of.patients)
    here.at(0.5, 0.1)
    move = lambda: (here.at(0.37, 0.1), here.course(0.1), here.decision_curve(0.1))  # noqa: E731
    found["threshold move, 20,000 cases"] = timed(move, 20)
    told = {
        "cases": CASES,
        "resamples": RESAMPLES,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "found": found,
    }
    print(json.dumps(told, indent=1))
    if asked.out:
        asked.out.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
