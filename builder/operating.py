"""From which probability on a run answers each class: chosen on the validation side by a person, carried to the test.

What people choose is appended to `choices.jsonl` in the run's folder, a line each; the last line of a class counts. The
predictions are those that an evaluation has stored: nothing is computed anew.
"""

from __future__ import annotations

import json
import math
import time
import zipfile
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from builder.evaluate import evaluation
from builder.measures.operating import Separation, rest
from builder.runs import Run, append_whole

FILE = "choices.jsonl"


@dataclass(frozen=True)
class Choice:
    """From which probability on a class is answered, and for whom that was chosen.

    Attributes:
        threshold: 0..1. prevalence: share of people who have the class where the network is to be used. cost: how many
        false alarms one that is missed may cost. at: wall time, s since 1970.
    """

    label: str
    threshold: float
    prevalence: float
    cost: float
    at: float = 0.0


def separation(run: Run, label: str, split: str) -> Separation | None:
    """The stored answers of a run on a split, seen from one class; None where there are none, or no case is known."""
    try:
        with np.load(run.folder / f"predictions-{split}.npz", allow_pickle=False) as stored:
            found = {name: stored[name] for name in ("probabilities", "labels", "patients")}
        report = json.loads((run.folder / f"evaluation-{'test' if split == 'val' else split}.json").read_text())
        column = list(report["classes"]).index(label)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    labels = found["labels"]
    known = np.ones(len(labels), bool) if labels.ndim == 2 else labels >= 0
    positive = labels[:, column] > 0 if labels.ndim == 2 else labels == column
    if found["probabilities"].shape[1] <= column or not known.any():
        return None
    return Separation(
        found["probabilities"][known, column].astype(np.float64), positive[known], found["patients"][known]
    )


def choose(run: Run, choice: Choice) -> None:
    """Puts a choice on record.

    Raises:
        ValueError: numbers out of range, in words. OSError: the folder cannot be written.
    """
    for name, value, most in (("threshold", choice.threshold, 1.0), ("prevalence", choice.prevalence, 1.0)):
        if not (math.isfinite(value) and 0 <= value <= most):
            raise ValueError(f"The {name} must lie between 0 and 1, not {value:g}.")
    if not (math.isfinite(choice.cost) and choice.cost > 0):
        raise ValueError(f"The cost of a missed case must be more than 0, not {choice.cost:g}.")
    line = json.dumps({**asdict(choice), "at": choice.at or time.time()}, ensure_ascii=False) + "\n"
    with open(run.folder / FILE, "ab") as file:
        append_whole(file.fileno(), line.encode())


def chosen(run: Run) -> dict[str, Choice]:
    """{class: the last choice}; a line that cannot be read is passed over."""
    found: dict[str, Choice] = {}
    try:
        lines = (run.folder / FILE).read_text(encoding="utf-8").splitlines()
    except OSError:
        return found
    for line in lines:
        try:
            plain: dict[str, Any] = json.loads(line)
            made = Choice(
                str(plain["label"]), float(plain["threshold"]), float(plain["prevalence"]), float(plain["cost"]),
                float(plain.get("at", 0.0)),
            )  # fmt: skip
        except (ValueError, KeyError, TypeError):
            continue
        found[made.label] = made
    return found


def told(run: Run) -> dict[str, dict[str, Any]]:
    """{class: what its chosen threshold comes to on the test side (`Separation.at`)}: for whoever reads an answer."""
    found = {}
    for label, choice in chosen(run).items():
        here = separation(run, label, "test")
        if here is not None and here.usable and 0 < choice.prevalence < 1:
            found[label] = here.at(choice.threshold, choice.prevalence)
    return found


def worth(run: Run, weights: str) -> dict[str, Any]:
    """What answers of a run are worth on its test side, for whoever gets one: {} where it was not measured.

    Args:
        weights: SHA-256 of the weights that answer; what was measured with others of the run says nothing about them.
    Returns:
        {classes {class: {threshold, prevalence, by ("a person", who kept it, or "validation", where sensitivity +
        specificity are highest), sensitivity, specificity, false_discovery, false_omission: {value, low, high}}}} of
        runs that answer with classes; {boxes {threshold, false_discovery}} of those that answer with boxes. Prevalence
        is the one that a person gave, else that of the test scans.
    """
    report = evaluation(run)
    if report is None or report.get("checkpoint") != weights:  # it has learned since
        return {}
    found: dict[str, dict[str, Any]] = {}
    for label, row in (report.get("operating_points") or {}).items():
        here = separation(run, label, "test") if row else None
        if here is not None and here.usable:
            found[label] = {**here.at(row["threshold"], here.prevalence), "by": "validation"}
    found |= {label: {**row, "by": "a person"} for label, row in told(run).items()}
    if found:
        return {"classes": {label: {name: row[name] for name in _WORTH} for label, row in found.items()}}
    point, ppv = report.get("operating_point") or {}, (report.get("metrics") or {}).get("ppv")
    if point.get("threshold") is None or not ppv:
        return {}
    return {"boxes": {"threshold": point["threshold"], "false_discovery": rest(ppv)}}


def beside(found: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """How often an answer like this one is wrong: what stands beside the scores of a finding.

    Args:
        found: a finding as JSON data (`predict.Finding.plain`); thresholds are held against the probabilities as the
            network gave them, calibrated or not. known: `worth`.
    Returns:
        {worth: {classes {class: {answered, threshold, prevalence, by, and false_discovery where it is answered, else
        false_omission}}} or {boxes ...} as `worth` tells it}; {} where nothing is known or nothing is told.
    """
    if "boxes" in known and found.get("boxes") is not None:
        return {"worth": {"boxes": known["boxes"]}}
    chances = found.get("uncalibrated") or found.get("probabilities") or {}
    rows = {}
    for label, row in (known.get("classes") or {}).items():
        if label in chances:
            yes = chances[label] >= row["threshold"]
            name = "false_discovery" if yes else "false_omission"
            kept = {key: row[key] for key in ("threshold", "prevalence", "by", name)}
            rows[label] = {"answered": bool(yes), **kept}
    return {"worth": {"classes": rows}} if rows else {}


_WORTH = ("threshold", "prevalence", "by", "sensitivity", "specificity", "false_discovery", "false_omission")
