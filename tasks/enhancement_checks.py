"""What is wrong, or doubtful, about an experiment of image enhancement."""

from __future__ import annotations

from typing import Any

from builder.parts.images import AUGMENTATIONS, DEGRADATIONS, HOUNSFIELD
from builder.spec import Choice, Experiment, Problem

GREY = tuple(
    part.name for part in AUGMENTATIONS.values() if part.group in ("Intensity", "Scanner") or part.name == "cutout"
)
SOFTENING = ("rotate", "zoom", "shear", "shift", "elastic")
"""Augmentations that resample: they soften the good scan, too."""
FEW_PATIENTS = 3


def problems(experiment: Experiment, fingerprint: Any) -> list[Problem]:
    """What stands in the way of learning to restore these scans, and what makes the answer doubtful."""
    return [*_about_training(experiment), *(_about_scans(experiment, fingerprint) if fingerprint else ())]


def _about_training(experiment: Experiment) -> list[Problem]:
    found = []
    augment = experiment.training.augment
    for choice in augment:
        without = experiment.replace("training.augment", [c for c in augment if c is not choice])
        path = f"training.augment.{choice.name}"
        if choice.name in GREY:
            words = (
                f"{AUGMENTATIONS[choice.name].title} changes grey values, which are the very thing that is learned "
                "here. What makes a scan poor is chosen under Preparation, degradation."
            )
            found.append(Problem(path, words, "error", "Remove it", without))
        elif choice.name in SOFTENING:
            words = (
                f"{AUGMENTATIONS[choice.name].title} computes pixels between pixels, which softens the good scan: the "
                "network learns softer pictures. Flips move pixels without changing them."
            )
            found.append(Problem(path, words, "warning", "Remove it", without))
    last = experiment.network[-1] if experiment.network else None
    headed = any(node.name == "image_head" for node in experiment.network[:-1])
    if last is not None and headed and last.name in ("relu", "sigmoid", "tanh", "softmax"):
        words = f"The network ends in {last.name}, which bends or cuts off grey values; a picture needs them all."
        found.append(Problem(f"network.{last.id}", words, "error", "Remove this layer", experiment.remove(last.id)))
    if experiment.data.degrade.name in HOUNSFIELD and experiment.data.window != "ct full":
        words = "A lower dose is stated in Hounsfield units; that needs the window ct full."
        fixed = experiment.replace("data.window", "ct full")
        found.append(Problem("data.window", words, "error", "Use ct full", fixed))
    return found


def _about_scans(experiment: Experiment, facts: Any) -> list[Problem]:
    data, found = experiment.data, []

    def say(path: str, words: str, severity: str = "error", repair: str = "", fix: Experiment | None = None) -> None:
        found.append(Problem(path, words, severity, repair, fix))

    pairs = sum(facts.num_paired.values())
    counts = facts.num_paired if data.degrade.name == "none" else facts.cases_per_split or facts.patients_per_split
    if data.degrade.name == "none" and not pairs:
        is_ct = set(facts.modalities) == {"CT"}
        better = "low_dose_ct_own" if is_ct else "noise"
        fixed = experiment.replace("data.degrade", Choice(name=better))
        fixed = fixed.replace("data.window", "ct full") if is_ct else fixed
        words = (
            "The data set holds no pairs of a poor and a good scan. Import them with a table that has a column "
            "target, or choose how the scans are made poor: the network then learns the way back."
        )
        say("data.degrade", words, "error", f"Use {DEGRADATIONS[better].title.lower()}", fixed)
        return found
    if data.degrade.name != "none" and pairs:
        words = f"{pairs} scans come with a good one, which are not used: the scans themselves are taken as good."
        say(
            "data.degrade",
            words,
            "warning",
            "Learn from the pairs",
            experiment.replace("data.degrade", Choice(name="none")),
        )
    sides = facts.sizes.get("min") or ()
    side = data.size_px * (1 if data.degrade.name == "none" else data.scale)
    if sides and min(sides) < side:
        largest = max(16, min(sides) // (side // data.size_px) // 8 * 8)
        words = f"Patches of {side} px do not fit the smallest scan, which has {sides[1]} x {sides[0]}."
        fits = largest * (side // data.size_px) <= min(sides)
        smaller = experiment.replace("data.size_px", largest) if fits else None
        say("data.size_px", words, "error", f"Use {largest} px" if fits else "", smaller)
    others = [name for name in facts.modalities if name not in ("CT", "unknown")]
    if data.window == "ct full" and others:
        words = f"The window ct full is for Hounsfield units; this data set holds {', '.join(others)}."
        say("data.window", words, "error", "Use stored range", experiment.replace("data.window", "stored range"))
    if data.window == "stored range" and set(facts.modalities) == {"CT"}:
        words = (
            "The stored range of a CT scan differs from scan to scan, so a grey value would not mean the same "
            "everywhere."
        )
        say("data.window", words, "warning", "Use ct full", experiment.replace("data.window", "ct full"))
    coloured, grey = facts.channels.get("3", 0), facts.channels.get("1", 0)
    if data.colour == "grey" and coloured:
        words = f"{coloured} scans are in colour; their answers would be grey."
        say("data.colour", words, "warning", "Use rgb", experiment.replace("data.colour", "rgb"))
    if data.colour == "rgb" and grey and not coloured:
        words = (
            "The scans are grey: three equal channels only make it slower, and noise in each of them easier to undo."
        )
        say("data.colour", words, "error", "Use grey", experiment.replace("data.colour", "grey"))
    if not counts.get("train"):
        say("data.dataset", "There is no training scan. Add some, or change the split.")
    if not counts.get("val"):
        say("data.dataset", "The validation split has no scan: the best epoch cannot be chosen by it.")
    if not counts.get("test"):
        say("data.dataset", "The test split has no scan: nothing can be said of it.", "warning")
    if facts.num_patients < FEW_PATIENTS:
        who = "one patient" if facts.num_patients == 1 else f"{facts.num_patients} patients"
        words = f"All scans come from {who}; training, validation and test need one each."
        say("data.dataset", words)
    return found
