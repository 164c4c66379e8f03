"""Procedural contrast series: one lesion, many moments, and a label that only their order carries.

A patient with a liver lesion (anatomy, lesion and noise as in `phantoms`) is imaged again and again while a contrast
agent comes or goes: in "wash-in" the lesion brightens from slice to slice, in "wash-out" it darkens. The moments are
drawn before the class is known and sorted up or down by it: a set of slices is exactly as likely in one class as in the
other. What looks at slices one by one, or at their mean, cannot tell the classes apart; what reads them in order can.
Synthetic, and says so.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tasks.phantoms import Anatomy, draw

CLASSES = ("wash-in", "wash-out")
_BEFORE, _AFTER = -0.22, 0.44
"""Contrast of the lesion without and with all of the agent, in units of the signal (the liver is about 0.5)."""


@dataclass(frozen=True)
class Series:
    """One series: `slices` (S, H, W) uint16 in the order of time; `levels` (S,) in [0, 1]: agent in the lesion."""

    slices: np.ndarray
    levels: np.ndarray
    label: str
    patient: str
    file: str


def cohort(seed: int, num_series: int = 120, size_px: int = 48) -> Iterator[Series]:
    """Yield `num_series` series of 12 to 20 slices, 1 to 3 a patient, the classes in turn; a seed gives its pixels.

    A patient has one class, as in life: that is what makes splitting by patient matter.
    """
    rng = np.random.default_rng(seed)
    made = patient = 0
    while made < num_series:
        anatomy = Anatomy.drawn(rng)
        for _ in range(min(int(rng.integers(1, 4)), num_series - made)):
            levels = np.sort(rng.uniform(0, 1, int(rng.integers(12, 21))))
            still = int(rng.integers(2**62))  # one position on the table: every moment shows the same slice
            label = CLASSES[patient % len(CLASSES)]
            if label == "wash-out":
                levels = levels[::-1].copy()
            slices = [
                draw(np.random.default_rng(still), anatomy, _BEFORE + (_AFTER - _BEFORE) * level, size_px, noise=rng)[0]
                for level in levels
            ]
            yield Series(np.stack(slices), levels, label, f"P{patient + 1:03d}", f"series-{made + 1:04d}.tif")
            made += 1
        patient += 1


def write_cohort(folder: Path, seed: int, num_series: int = 120, size_px: int = 48) -> Path:
    """Write the cohort as 16-bit TIFF files, a page for each slice, and `labels.csv` (file, label, patient)."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "labels.csv", "w", newline="", encoding="utf-8") as table:
        rows = csv.writer(table)
        rows.writerow(("file", "label", "patient"))
        for series in cohort(seed, num_series, size_px):
            first, *rest = [Image.fromarray(page) for page in series.slices]
            first.save(folder / series.file, save_all=True, append_images=rest)
            rows.writerow((series.file, series.label, series.patient))
    return folder
