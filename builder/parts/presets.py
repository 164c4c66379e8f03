"""Augmentations to begin from, by what made the scans. Pure data; each says nothing false of its own kind of scan."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Preset:
    """A set of augmentations.

    Attributes:
        name, title, help: as those of a part. kinds: of `augment_safety.kind_of` that it is made for.
        choices: (augmentation, settings), absent settings mean the defaults.
    """

    name: str
    title: str
    help: str
    kinds: tuple[str, ...]
    choices: tuple[tuple[str, dict[str, Any]], ...]


PRESETS = (
    Preset("none", "None", "Every scan is seen as it is.", (), ()),
    Preset(
        "film",
        "Chest film, careful",
        "What positioning and exposure bring, and no flip: the heart stays on its side.",
        ("film",),
        (
            ("rotate", {"degrees": 7.0}),
            ("zoom", {"low": 0.95, "high": 1.1}),
            ("shift", {"fraction": 0.04}),
            ("noise", {"sigma": 0.02, "probability": 0.3}),
            ("brightness", {"amount": 0.08}),
            ("contrast", {"amount": 0.15}),
            ("gamma", {"amount": 0.15}),
        ),
    ),
    Preset(
        "ct",
        "CT",
        "Position, breathing, dose and kernel; Hounsfield units stay what they are.",
        ("CT",),
        (
            ("rotate", {"degrees": 10.0}),
            ("zoom", {"low": 0.9, "high": 1.1}),
            ("shift", {"fraction": 0.05}),
            ("elastic", {"amount": 0.15, "probability": 0.2}),
            ("blur", {"sigma_px": 0.6, "probability": 0.15}),
            ("ct_noise", {"sigma": 0.04}),
            ("low_resolution", {"factor": 1.5, "probability": 0.15}),
        ),
    ),
    Preset(
        "mr",
        "MR",
        "Position, coils, motion and the free grey scale of MR.",
        ("MR",),
        (
            ("rotate", {"degrees": 10.0}),
            ("zoom", {"low": 0.9, "high": 1.1}),
            ("shift", {"fraction": 0.05}),
            ("elastic", {"amount": 0.15, "probability": 0.2}),
            ("noise", {"sigma": 0.03, "probability": 0.2}),
            ("brightness", {"amount": 0.1}),
            ("contrast", {"amount": 0.2}),
            ("gamma", {"amount": 0.2}),
            ("bias_field", {"amount": 0.3, "probability": 0.3}),
            ("ghosting", {"strength": 0.3, "probability": 0.15}),
            ("low_resolution", {"factor": 1.5, "probability": 0.15}),
        ),
    ),
    Preset(
        "ultrasound",
        "Ultrasound",
        "The probe moved and turned over, gain and speckle; depth stays down.",
        ("ultrasound",),
        (
            ("rotate", {"degrees": 10.0}),
            ("flip_horizontal", {}),
            ("zoom", {"low": 0.9, "high": 1.15}),
            ("shift", {"fraction": 0.05}),
            ("brightness", {"amount": 0.1}),
            ("contrast", {"amount": 0.2}),
            ("gamma", {"amount": 0.2}),
            ("speckle", {"sigma": 0.15}),
        ),
    ),
    Preset(
        "photo",
        "Photo and microscopy",
        "No up and down, no left and right; light, stain and focus vary.",
        ("colour",),
        (
            ("rotate", {"degrees": 180.0, "probability": 0.8}),
            ("flip_horizontal", {}),
            ("flip_vertical", {}),
            ("zoom", {"low": 0.9, "high": 1.1}),
            ("shift", {"fraction": 0.05}),
            ("elastic", {"amount": 0.15, "probability": 0.2}),
            ("brightness", {"amount": 0.08}),
            ("contrast", {"amount": 0.15}),
            ("blur", {"sigma_px": 0.7, "probability": 0.15}),
            ("colour", {"saturation": 0.2, "hue": 0.02}),
        ),
    ),
)
