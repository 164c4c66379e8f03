"""What stands in the way of recognition, or makes its figures doubtful, beside the end of the network."""

from __future__ import annotations

from typing import Any

from builder.spec import Experiment, Problem

FEW_CASES = 20
"""Training cases of a class under which results are mostly luck."""
SKEWED = 3.0
"""How many times more cases the commonest class may have than the rarest before weights are advised."""


def problems(experiment: Experiment, fingerprint: Any) -> list[Problem]:
    """What stands in the way of learning these classes from this data set, and what makes its figures doubtful."""
    found = _about_the_end(experiment)
    if fingerprint is None:
        return found
    classes, counts = list(fingerprint.classes), fingerprint.class_counts

    def say(message: str, severity: str = "error") -> None:
        found.append(Problem("data.dataset", message, severity))

    if not classes:
        say("The scans carry no labels. Import them with a label table, or from one folder per class.")
        return found
    if len(classes) < 2:
        say(f"The data set has one class only ({classes[0]}); recognition needs at least two. Add scans of another.")
        return found
    if fingerprint.num_patients < 3:
        who = "one patient" if fingerprint.num_patients == 1 else f"{fingerprint.num_patients} patients"
        say(
            f"All scans come from {who}; training, validation and test need at least one patient each. Add scans "
            "of other patients, or say how patients are told apart."
        )
    if astride := fingerprint.num_patients_astride:
        say(
            f"{astride} patient{'s have' if astride > 1 else ' has'} scans on more than one side of the split the "
            "source gave; figures will be too good.",
            "warning",
        )
    train = {c: counts.get("train", {}).get(c, 0) for c in classes}
    for name in classes:
        if not train[name]:
            say(f"Class {name!r} has no training scan, so it cannot be learned. Add scans of it.")
    for split, side, use, severity in (
        ("val", "validation", "the best epoch cannot be chosen by it", "error"),
        ("test", "test", "nothing can be said of it", "warning"),
    ):
        there = counts.get(split, {})
        if not sum(there.values()):
            say(f"The {side} split has no scan: {use}.", severity)
            continue
        for name in classes:
            if not there.get(name, 0):
                say(f"Class {name!r} has no scan in the {side} split: {use}.", severity)
    few = [f"{name} ({n})" for name, n in train.items() if 0 < n < FEW_CASES]
    if few:
        say(f"Few training scans: {', '.join(few)}. Under {FEW_CASES} a class, results are mostly luck.", "warning")
    least, most = min(train.values()), max(train.values())
    uneven = least and most / least > SKEWED and not fingerprint.multi_label
    if uneven and experiment.training.balance == "none" and experiment.training.loss.name != "focal":
        better = experiment.replace("training.balance", "weights")
        words = f"The commonest class has {most / least:.1f} times the scans of the rarest; the network may ignore it."
        found.append(Problem("training.balance", words, "warning", "Weigh the classes", better))
    return found


def _about_the_end(experiment: Experiment) -> list[Problem]:
    """A last softmax or sigmoid squashes twice, since the loss does it already."""
    last = experiment.network[-1] if experiment.network else None
    if last is None or last.name not in ("softmax", "sigmoid"):
        return []
    words = (
        f"The network ends in {last.name}; the loss of recognition does that itself, and doing it twice slows learning."
    )
    return [Problem(f"network.{last.id}", words, "warning", "Remove this layer", experiment.remove(last.id))]
