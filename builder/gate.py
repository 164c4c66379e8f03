"""What is done with a scan that is unlike those a run has learned from: it is answered with a warning, or refused.

Unlike is a scan of another modality or part of the body (where files say so), of another depth of grey, grey where the
others are in colour, far larger or smaller, or one that lies too far out in what the network itself makes of it
(`nearness`). The policy is one for a run (`Terms.gate`), and goes for every way of asking it. How often it stops a
run's own validation scans, which it should not, and scans of another data set, which it should, is measured.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from builder import nearness
from builder.calibrate import weights_of
from builder.data import Dataset
from builder.measures.operating import share
from builder.nearness import Nearness
from builder.parting import dataset_of
from builder.predict import Box, Finding, Predictor, differences
from builder.runs import Run, write_atomic
from builder.scan import Scan

__all__ = ["GROUNDS", "Looked", "answered", "kept", "look", "measure"]

FILE = "gate.json"
GROUNDS = {
    "modality": "another modality",
    "body": "another part of the body",
    "bits": "another depth of grey",
    "colour": "grey or in colour, unlike the others",
    "size": "far larger or smaller",
    "features": "unlike them in itself, or to the network",
}
"""What a scan is stopped for."""
_MOST = 200  # scans of a data set that are looked at


@dataclass(frozen=True)
class Looked:
    """What the gate sees: {ground: in words}, () where the scan passes; `like` as `Nearness.like` tells it, or None."""

    grounds: dict[str, str]
    like: dict[str, Any] | None = None

    @property
    def reason(self) -> str:
        """In words, why a scan is refused."""
        return "This scan is unlike those that the network has learned from. " + " ".join(self.grounds.values())


def look(predictor: Predictor, scan: Scan, known: Nearness | None) -> Looked:
    """Looks at a scan before it is answered. `known` as `nearness.of_run` gives it: without, features tell nothing."""
    grounds = {name: said for name, said in differences(scan, predictor.met).items() if name in GROUNDS}
    if known is None:
        return Looked(grounds)
    like = known.like(nearness.features_of(predictor, scan))
    if said := nearness.words(like):
        grounds["features"] = said
    return Looked(grounds, like)


def answered(
    predictor: Predictor, scan: Scan, known: Nearness | None, occlude: Sequence[Box] = ()
) -> tuple[Finding, dict[str, Any] | None]:
    """What a run says of a scan on its terms, and how near the training scans it lies (`Nearness.like`, or None).

    A scan that is unlike is refused, or answered with what is unlike among the notes, as `Terms.gate` says.
    """
    looked = look(predictor, scan, known)
    if looked.grounds and predictor.terms.gate == "refuse":
        return predictor.refused(scan, looked.reason), looked.like
    finding = predictor.finding(scan, occlude)
    if "features" in looked.grounds:  # the others are among its notes
        finding = replace(finding, notes=(*finding.notes, looked.grounds["features"]))
    return finding, looked.like


# -- how often it stops what ----------------------------------------------------------------------------------------


def measure(
    run: Run, home: Path, foreign: str = "", progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Looks at a run's own validation scans and at those of another data set; kept as `gate.json`.

    Own scans are looked at as the task poses them (made poor, where the run learned from that), and judged against the
    half of the validation patients that they do not belong to, so that no scan helps to set the limit that it is held
    against.

    Args:
        foreign: id of a data set whose scans are of another kind; "" for none. Those looked at before are kept.
    Returns, as JSON data: {run, checkpoint, own: {n, stopped {value, low, high}, grounds {ground: scans}}, foreign
    [{dataset, name, n, stopped, grounds}]}.
    Raises:
        PredictError, UnknownDataset: as elsewhere. ValueError: the foreign data set is the run's own.
    """
    predictor = Predictor.open(run.folder)
    own_id = predictor.experiment.data.dataset
    if foreign == own_id:
        raise ValueError("These are the scans that the run has learned from: choose another data set.")
    known = nearness.of_run(predictor, run.folder, home)
    own = dataset_of(run.folder, home, own_id)
    cases = nearness.spread(own.indices("val", labelled=False), _MOST)
    other = Dataset.open(home, foreign) if foreign else None
    others = nearness.spread(np.arange(len(other)), _MOST) if other is not None else np.zeros(0, np.int64)
    total = len(cases) + len(others)
    half = np.unique(own.patients[cases], return_inverse=True)[1] % 2 if len(cases) else np.zeros(0, int)
    seen = []
    for number, case in enumerate(cases):
        beside = None
        if known is not None:
            same = np.unique(own.patients[cases[half == half[number]]])
            beside = ~np.isin(known.own_patients, same)
        seen.append(_grounds(predictor, own.scan(int(case)), known, beside, int(case)))
        if progress:
            progress(number + 1, total)
    before = kept(run)
    rows = [
        row
        for row in (before or {}).get("foreign", ())
        if before and before["checkpoint"] == predictor.weights_sha256 and row["dataset"] != foreign
    ]
    if other is not None:
        found = []
        for number, case in enumerate(others):
            found.append(_grounds(predictor, other.scan(int(case)), known, None))
            if progress:
                progress(len(cases) + number + 1, total)
        rows.append({"dataset": other.id, "name": other.name, **_told(found, other.patients[others])})
    told = {
        "run": run.id,
        "checkpoint": predictor.weights_sha256,
        "own": _told(seen, own.patients[cases]),
        "foreign": rows,
    }
    write_atomic(run.folder / FILE, json.dumps(told))
    return told


def _grounds(
    predictor: Predictor, scan: Scan, known: Nearness | None, beside: np.ndarray | None, case: int | None = None
) -> list[str]:
    found = [name for name in differences(scan, predictor.met) if name in GROUNDS]
    if known is not None and known.unlike(known.distance(nearness.features_of(predictor, scan, case)), beside):
        found.append("features")
    return found


def _told(seen: Sequence[Sequence[str]], patients: np.ndarray) -> dict[str, Any]:
    stopped = np.array([bool(grounds) for grounds in seen], bool)
    counts = Counter(name for grounds in seen for name in grounds)
    return {"n": len(seen), "stopped": share(stopped, patients), "grounds": dict(counts)}


def kept(run: Run) -> dict[str, Any] | None:
    """What `measure` found last; None where it was not measured with the present weights."""
    try:
        found = json.loads((run.folder / FILE).read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("checkpoint") == weights_of(run) else None
