"""What the validation side says of a run's confidence, and the choice of the terms on which it answers from then on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from builder import evaluate, terms
from builder.measures import conformal
from builder.measures.classes import Predictions, calibration, temperature, warmed
from builder.runs import Run, write_atomic
from builder.terms import ALWAYS, Terms

FILE = "confidence.json"


class NotCalibrated(ValueError):
    """A run whose confidence cannot be judged or chosen. Its text is one sentence for people."""


def judge(run: Run, home: Path, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Judges the confidence of a run on its validation scans; kept as `confidence.json`.

    Returns, as JSON data: {run, checkpoint, n, patients, classes, multi_label, calibration (`measures.classes`, with
    the temperature that was fitted on these very scans), silence: {given, tempered: `conformal.silence`} or None}.
    Raises:
        NotCalibrated: a task without classes. What `evaluate.answered` raises.
    """
    classes, _, examined = evaluate.answered(run, home, "val", progress)
    before = Predictions.of(examined)
    if before is None:
        raise NotCalibrated("This run tells no classes apart, so it has no confidence that could be calibrated.")
    fitted = temperature(before)
    assert fitted is not None
    silence = {"given": conformal.silence(before), "tempered": conformal.silence(warmed(before, fitted))}
    told = {
        "run": run.id,
        "checkpoint": weights_of(run),
        "n": len(before.labels),
        "patients": len(np.unique(before.patients)),
        "classes": list(classes),
        "multi_label": before.multi_label,
        "calibration": calibration(before, fitted),
        "silence": None if before.multi_label else silence,
    }
    write_atomic(run.folder / FILE, json.dumps(told))
    return told


def kept(run: Run) -> dict[str, Any] | None:
    """What `judge` found last, of the present weights; None where it was not judged."""
    try:
        found = json.loads((run.folder / FILE).read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("checkpoint") == weights_of(run) else None


def weights_of(run: Run) -> str:
    """SHA-256 of the best weights; "" without any."""
    import hashlib

    try:
        return hashlib.sha256((run.folder / "best.safetensors").read_bytes()).hexdigest()
    except OSError:
        return ""


def chosen(run: Run) -> Terms:
    """The terms on which the run answers now."""
    return Terms.of(run.folder, weights_of(run))


def choose(run: Run, *, calibrated: bool = False, by: str = ALWAYS, wanted: float = 1.0, gate: str = "warn") -> Terms:
    """Chooses the terms on which a run answers from now on, and puts them on record.

    Args:
        calibrated: whether the temperature of the validation side is put to its probabilities. by, wanted: how the
            confidence from which it answers is chosen (`terms.least_sure`). gate: one of `terms.GATES`.
    Raises:
        NotCalibrated: its confidence was not judged yet. ValueError: what cannot be chosen, in words.
    """
    made = Terms(by=by, wanted=wanted, gate=gate, weights=weights_of(run))
    if calibrated or by != ALWAYS:
        found, before = kept(run), predictions(run, "val")
        if found is None or before is None:
            raise NotCalibrated("Its confidence was not judged on the validation scans yet: do that first.")
        if calibrated:
            made = replace(made, temperature=found["calibration"]["temperature"])
            before = warmed(before, found["calibration"]["temperature"])
        if by != ALWAYS:
            made = replace(made, limit=terms.least_sure(before, by, wanted))
    return terms.keep(run.folder, made)


def predictions(run: Run, split: str) -> Predictions | None:
    """The stored answers with classes of a run on a split; None where there are none."""
    import zipfile

    try:
        with np.load(run.folder / f"predictions-{split}.npz", allow_pickle=False) as stored:
            return Predictions.of({name: stored[name] for name in stored.files})
    except (OSError, ValueError, zipfile.BadZipFile):
        return None


def on_test(run: Run) -> dict[str, Any] | None:
    """What the present terms come to on the test side (`terms.measured`); None while that is closed."""
    examined = evaluate.kept(run, "test")  # of the present weights only
    here = None if examined is None else Predictions.of(examined)
    return None if here is None else terms.measured(here, chosen(run))
