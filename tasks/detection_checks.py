"""What is wrong, or doubtful, about an experiment of lesion detection, beside the end of its network."""

from __future__ import annotations

from typing import Any

import numpy as np

from builder.data import size_in
from builder.spec import Data, Experiment, Problem

SMALL_PX = 6.0
"""Side of a lesion in prepared pixels under which a network hardly sees it."""


def problems(experiment: Experiment, fingerprint: Any) -> list[Problem]:
    """What stands in the way of learning boxes from this data set, and what makes its figures doubtful."""
    found = _without_meaning(experiment)
    if fingerprint is None:
        return found

    def say(message: str, severity: str = "error") -> None:
        found.append(Problem("data.dataset", message, severity))

    boxed = fingerprint.num_boxed
    if not sum(boxed.values()):
        say(
            "No scan of this data set has boxes. Draw some on the Data page, or import them (Pascal VOC, YOLO, "
            "COCO or a table)."
        )
        return found
    counts = fingerprint.box_counts
    if not boxed.get("train"):
        say("The training side has no scan labelled with boxes: nothing can be learned.")
    if not boxed.get("val"):
        say("The validation side has no scan labelled with boxes: the best epoch cannot be chosen.")
    if not boxed.get("test"):
        say("The test side has no scan labelled with boxes: nothing can be said of it.", "warning")
    for name in fingerprint.classes:
        if boxed.get("train") and not counts.get("train", {}).get(name):
            say(f"No training scan has a box of class {name!r}: it cannot be found.", "warning")
        for split, side, use in (
            ("val", "validation", "choose the best epoch"),
            ("test", "test", "tell how well it is found"),
        ):
            if boxed.get(split) and not counts.get(split, {}).get(name):
                say(
                    f"No {side} scan has a box of class {name!r}: nothing there can {use} for it.",
                    "warning",
                )
    if fingerprint.num_patients < 3:
        say("Training, validation and test need at least one patient each. Add scans of other patients.")
    named = [name for name, count in counts.get("train", {}).items() if count]
    single = not fingerprint.num_slices or fingerprint.num_slices["max"] == 1  # of several slices some show nothing
    empty = fingerprint.num_empty.get("boxes", {}).get("train", 0)
    if experiment.training.balance == "sampler" and len(named) == 1 and single and not empty:
        words = (
            f"Each training scan has boxes, all of class {named[0]!r}: the sampler has nothing to balance and changes "
            "nothing."
        )
        off = experiment.replace("training.balance", "none")
        found.append(Problem("training.balance", words, "warning", "Switch it off", off))
    smallest = _smallest_px(experiment.data, fingerprint)
    if smallest is not None and smallest < SMALL_PX:
        larger = min(1024, int(np.ceil(experiment.data.size_px * SMALL_PX / smallest / 32) * 32))
        words = (
            f"Half of the lesions would be smaller than {SMALL_PX:.0f} px after preparation ({smallest:.1f} px): a "
            "network hardly sees them."
        )
        fix = experiment.replace("data.size_px", larger) if larger > experiment.data.size_px else None
        found.append(Problem("data.size_px", words, "warning", f"Use {larger} px" if fix else "", fix))
    return found


def _smallest_px(data: Data, fingerprint: Any) -> float | None:
    """Side of the middle lesion in prepared pixels; None where no box is known."""
    sizes, scans = fingerprint.box_sizes_px, fingerprint.sizes
    if not sizes or not scans:
        return None
    return float(np.sqrt(np.prod(size_in(sizes["median"], scans["median"], data))))


def _without_meaning(experiment: Experiment) -> list[Problem]:
    """Settings of training that the loss of boxes does not know."""
    found = []
    for setting, usual, words in (
        (
            "label_smoothing",
            (0.0,),
            "The focal loss of boxes takes labels as they are: label smoothing changes nothing.",
        ),
        (
            "balance",
            ("none", "sampler"),
            "The focal loss of boxes weighs by how hard a place is: class weights change nothing.",
        ),
    ):
        path = f"training.{setting}"
        if experiment.at(path) not in usual:
            found.append(Problem(path, words, "warning", "Switch it off", experiment.replace(path, usual[0])))
    return found
