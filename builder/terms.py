"""The terms on which a run answers: with which temperature, from which confidence on, and what of scans unlike its own.

People choose them on the validation side, once; from then on every answer of the run goes by them, wherever it is
asked: on the page, by the command line, by the service and in an export. What is chosen is appended to `terms.jsonl` in
the run's folder, a line each; the last line counts. It belongs to the weights it was chosen for: of other weights,
nothing but the gate is left of it.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from builder.measures.classes import Predictions, tempered, warmed
from builder.measures.operating import share
from builder.runs import append_whole

FILE = "terms.jsonl"
ANSWERED, UNKNOWN, REFUSED = "answered", "unknown", "refused"
GATES = {
    "warn": "Answer, and say what is unlike",
    "refuse": "Refuse to answer",
}
"""What is done with a scan that is unlike those of the training."""
ALWAYS, COVERAGE, RISK = "", "coverage", "risk"
_ALIKE = 1e-6  # confidences nearer than this are one: the same scan alone and among others comes out so near


@dataclass(frozen=True)
class Said:
    """What is told of the classes: probabilities with the run's temperature, and whether it answers."""

    probabilities: dict[str, float]
    status: str = ANSWERED
    reason: str = ""


@dataclass(frozen=True)
class Terms:
    """On which terms a run answers.

    Attributes:
        temperature: that the log-odds are divided by; None: they stay as the network gives them.
        by: "" where every scan is answered; "coverage" or "risk" says what the confidence was chosen by, and `wanted`
            which share of the validation scans it was to answer, or how many of its answers might be wrong there.
        limit: the confidence (largest probability, with the temperature) from which it answers; None: from any.
        gate: one of `GATES`. weights: SHA-256 of the weights that all this was chosen for. at: wall time, s since 1970.
        note: a remark for whoever reads an answer, "" without one.
    """

    temperature: float | None = None
    by: str = ALWAYS
    wanted: float = 1.0
    limit: float | None = None
    gate: str = "warn"
    weights: str = ""
    at: float = 0.0
    note: str = ""

    @classmethod
    def of(cls, folder: Path, weights: str) -> Terms:
        """What was chosen last for these weights; a line that cannot be read is passed over."""
        found = cls()
        try:
            lines = (Path(folder) / FILE).read_text(encoding="utf-8").splitlines()
        except OSError:
            return found
        for line in lines:
            try:
                plain = json.loads(line)
                found = cls(**{name: plain[name] for name in _NAMES})
            except (ValueError, KeyError, TypeError):
                continue
        if found.weights == weights or not (found.temperature or found.limit):
            return found
        note = (
            "The temperature and the confidence from which it answers were chosen for other weights of this run, so "
            "they are left out: choose them again."
        )
        return cls(gate=found.gate, weights=weights, note=note)

    def said(self, probabilities: dict[str, float], multi_label: bool) -> Said:
        """What is told of a network's probabilities: the very same mapping where no temperature is put to them."""
        told = probabilities
        if probabilities and self.temperature is not None:
            told = self._warm(probabilities, multi_label)
        if self.limit is None or multi_label or not told:
            return Said(told)
        most = max(told.values())
        if most >= self.limit - _ALIKE:
            return Said(told)
        return Said(told, UNKNOWN, self._reason(most))

    def _warm(self, probabilities: Mapping[str, float], multi_label: bool) -> dict[str, float]:
        assert self.temperature is not None
        row = tempered(np.array([list(probabilities.values())]), self.temperature, multi_label)[0]
        return dict(zip(probabilities, map(float, row), strict=True))

    def _reason(self, most: float) -> str:
        chosen = (
            f"so that it answers {100 * self.wanted:.3g} of 100 validation scans"
            if self.by == COVERAGE
            else f"so that at most {100 * self.wanted:.3g} of 100 of its answers are wrong on the validation scans"
        )
        return (
            f"It is not sure enough: its likeliest class has {_percent(most)}, and it answers from "
            f"{_percent(self.limit or 0.0)} on ({chosen})."
        )

    def plain(self) -> dict[str, Any]:
        """As JSON data, without what was noted."""
        return {name: value for name, value in asdict(self).items() if name in _NAMES}


_NAMES = tuple(field.name for field in fields(Terms) if field.name != "note")


def _percent(value: float) -> str:
    """Never rounded up to a hundred, and never so far that two that differ look the same at the limit."""
    return f"{math.floor(10000 * value) / 100:g} %"


# -- choosing ---------------------------------------------------------------------------------------------------------


def least_sure(before: Predictions, by: str, wanted: float) -> float:
    """The confidence from which a run answers, chosen on the validation side.

    Args:
        by: "coverage": it is to answer a share `wanted` of the cases; "risk": of its answers a share of at most
            `wanted` may be wrong, and as many cases as that allows are answered. Equal confidences go together.
    Raises:
        ValueError: several labels a case; a share that is out of range; no confidence keeps the mistakes that low.
    """
    if before.multi_label:
        raise ValueError("With several labels a scan there is no single answer to keep silent about.")
    if by not in (COVERAGE, RISK):
        raise ValueError(f"A confidence is chosen by coverage or by risk, not by {by!r}.")
    if not (math.isfinite(wanted) and 0 < wanted < 1):
        raise ValueError(f"The share must lie between 0 and 1, not {wanted:g}.")
    confidence = before.probabilities.max(1)
    order = np.argsort(-confidence, kind="stable")
    wrong = (before.probabilities.argmax(1) != before.labels)[order].cumsum()
    ends = np.flatnonzero(np.diff(confidence[order], append=-1.0) != 0)
    if by == COVERAGE:
        at = ends[np.searchsorted(ends + 1, wanted * len(order) - 1e-9)]
        return float(confidence[order][at])
    fine = ends[wrong[ends] <= wanted * (ends + 1) + 1e-9]
    if not len(fine):
        raise ValueError(
            f"On the validation scans no confidence keeps the mistakes at {100 * wanted:.3g} of 100 or fewer: the "
            "surest answers are wrong as often. Allow more, or have it answer fewer scans."
        )
    return float(confidence[order][fine[-1]])


def measured(here: Predictions, terms: Terms) -> dict[str, Any] | None:
    """What terms come to on a split: {n, answered (share of all), right (of the answered), silent_right (of those it
    keeps silent about, how many would have been right): {value, low, high}}; None with several labels a case."""
    if here.multi_label:
        return None
    warm = here if terms.temperature is None else warmed(here, terms.temperature)
    answered = warm.probabilities.max(1) >= (terms.limit or 0.0) - _ALIKE
    right = warm.probabilities.argmax(1) == here.labels
    return {
        "n": len(right),
        "answered": share(answered, here.patients),
        "right": share(right[answered], here.patients[answered]),
        "silent_right": share(right[~answered], here.patients[~answered]),
    }


def keep(folder: Path, terms: Terms) -> Terms:
    """Puts terms on record and gives them back with their time.

    Raises:
        ValueError: numbers out of range, in words. OSError: the folder cannot be written.
    """
    if terms.gate not in GATES:
        raise ValueError(f"A gate is one of {', '.join(GATES)}, not {terms.gate!r}.")
    for name, value in (("temperature", terms.temperature), ("confidence", terms.limit)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError(f"The {name} must be more than 0, not {value:g}.")
    made = replace(terms, at=terms.at or time.time(), note="")
    with open(Path(folder) / FILE, "ab") as file:
        append_whole(file.fileno(), (json.dumps(made.plain()) + "\n").encode())
    return made
