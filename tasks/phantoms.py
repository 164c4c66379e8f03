"""Procedural phantoms: abdomen-like slices with a known lesion, or none, and the noise of an acquisition.

Everything is drawn from one seed with numpy alone, so that a demo set exists in a second, on any machine, with
nothing to download. They are synthetic and say so: they show that the tool works, never that a model works on people.

A slice is a soft-edged body outline with fat, liver, spine, kidney, stomach gas and vessels; a patient keeps anatomy,
gain and receive-coil shading over all slices; every slice gets Rician noise (magnitude of a complex signal with
Gaussian noise in both channels: Gudbjartsson and Patz, Magn Reson Med 34:910, 1995).
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

CLASSES = ("bright lesion", "dark lesion", "no lesion")
_LESION_CONTRAST = {"bright lesion": 0.40, "dark lesion": -0.34}


@dataclass(frozen=True)
class Phantom:
    """One slice: `image` (H, W) uint16; `mask` (H, W) bool where the lesion is (all False where there is none)."""

    image: np.ndarray
    mask: np.ndarray
    label: str
    patient: str
    file: str


@dataclass(frozen=True)
class Anatomy:
    """What stays the same over all slices of one patient; positions and radii in units of half the image (-1..1)."""

    body: tuple[float, float]
    liver: tuple[float, float, float, float, float]
    kidney: tuple[float, float, float]
    gain: float
    liver_signal: float
    shading: tuple[float, float]
    noise: float

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> Anatomy:
        """One patient at random."""
        return cls(
            body=(rng.uniform(0.74, 0.92), rng.uniform(0.56, 0.74)),
            liver=(
                rng.uniform(-0.36, -0.26),
                rng.uniform(-0.12, 0.0),
                rng.uniform(0.38, 0.46),
                rng.uniform(0.30, 0.38),
                rng.uniform(-0.5, 0.1),
            ),
            kidney=(rng.uniform(0.34, 0.46), rng.uniform(0.16, 0.28), rng.uniform(0.10, 0.14)),
            gain=rng.uniform(0.88, 1.12),
            liver_signal=rng.uniform(0.42, 0.54),
            shading=(rng.uniform(-0.15, 0.15), rng.uniform(-0.15, 0.15)),
            noise=rng.uniform(0.02, 0.045),
        )


def cohort(seed: int, num_images: int = 240, size_px: int = 64) -> Iterator[Phantom]:
    """Yield `num_images` phantoms, 2 to 4 slices a patient, the three classes in turn; the same seed gives the same
    pixels.

    A patient has one class, as a patient with a finding would: that is what makes splitting by patient matter.
    """
    rng = np.random.default_rng(seed)
    made = 0
    patient = 0
    while made < num_images:
        label = CLASSES[patient % len(CLASSES)]
        anatomy = Anatomy.drawn(rng)
        for _ in range(min(int(rng.integers(2, 5)), num_images - made)):
            image, mask = draw(rng, anatomy, _LESION_CONTRAST.get(label), size_px)
            yield Phantom(image, mask, label, f"P{patient + 1:03d}", f"phantom-{made + 1:04d}.png")
            made += 1
        patient += 1


def write_cohort(folder: Path, seed: int, num_images: int = 240, size_px: int = 64) -> Path:
    """Write the cohort as 16-bit PNG files and `labels.csv` (file, label, patient); gives back `folder`."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "labels.csv", "w", newline="", encoding="utf-8") as table:
        rows = csv.writer(table)
        rows.writerow(("file", "label", "patient"))
        for phantom in cohort(seed, num_images, size_px):
            Image.fromarray(phantom.image).save(folder / phantom.file)
            rows.writerow((phantom.file, phantom.label, phantom.patient))
    return folder


def draw(
    rng: np.random.Generator,
    body: Anatomy,
    contrast: float | None,
    size_px: int,
    noise: np.random.Generator | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """One slice through one patient: (H, W) uint16 and the lesion's mask.

    Args:
        contrast: of the lesion against the liver, in units of the signal (about -0.4 to 0.5); None: no lesion.
        noise: draws the noise of the acquisition; `rng` itself where None. The same `rng` state with another `noise`
            is the same slice, taken again.
    """
    axis = (np.arange(size_px) + 0.5) / size_px * 2 - 1
    x, y = np.meshgrid(axis - rng.normal(0, 0.02), axis - rng.normal(0, 0.02))
    edge = 2.0 / size_px
    scale = rng.uniform(0.94, 1.06)

    def disc(cx: float, cy: float, rx: float, ry: float, turn: float = 0.0) -> np.ndarray:
        """Coverage of a soft-edged ellipse: (H, W) in [0, 1]."""
        u = (x - cx) * np.cos(turn) + (y - cy) * np.sin(turn)
        v = -(x - cx) * np.sin(turn) + (y - cy) * np.cos(turn)
        radius = np.sqrt((u / rx) ** 2 + (v / ry) ** 2)
        return np.clip((1 - radius) * min(rx, ry) / edge + 0.5, 0, 1)

    signal = np.zeros((size_px, size_px))

    def paint(where: np.ndarray, value: float | np.ndarray) -> None:
        np.copyto(signal, signal * (1 - where) + value * where)

    rx, ry = body.body[0] * scale, body.body[1] * scale
    paint(disc(0, 0, rx, ry), 0.78)  # fat is bright in T1-weighted MR
    paint(disc(0, 0, rx - 0.09, ry - 0.09), 0.34)  # muscle and bowel
    for _ in range(int(rng.integers(5, 10))):  # bowel loops: texture that carries no label
        loop = rng.uniform(0.05, 0.11)
        paint(
            disc(rng.uniform(-0.1, 0.5), rng.uniform(-0.3, 0.35), loop, loop * rng.uniform(0.6, 1)),
            rng.uniform(0.25, 0.5),
        )
    paint(disc(0, ry * 0.62, 0.14, 0.12), 0.62)  # vertebra
    paint(disc(0, ry * 0.62 + 0.02, 0.05, 0.05), 0.2)  # spinal canal
    cx, cy, radius = body.kidney
    paint(disc(cx, cy, radius, radius * 1.25, 0.4), 0.58)
    paint(disc(cx, cy, radius * 0.5, radius * 0.7, 0.4), 0.70)
    paint(disc(rng.uniform(0.2, 0.4), rng.uniform(-0.36, -0.24), rng.uniform(0.06, 0.14), 0.06), 0.03)  # stomach gas
    lx, ly, lrx, lry, turn = body.liver
    liver = disc(lx, ly, lrx * scale, lry * scale, turn)
    texture = _smooth(rng.normal(0, 1, signal.shape), 3)
    paint(liver, body.liver_signal + 0.02 * texture)
    for _ in range(int(rng.integers(3, 6))):  # vessels: small bright and dark spots in every class
        angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.8)
        vx, vy = lx + np.cos(angle) * reach * lrx, ly + np.sin(angle) * reach * lry
        paint(disc(vx, vy, 0.028, 0.028) * liver, body.liver_signal + rng.choice((-0.2, 0.2)))

    mask = np.zeros(signal.shape, bool)
    if contrast is not None:
        angle, reach = rng.uniform(0, 2 * np.pi), 0.6 * np.sqrt(rng.uniform(0, 1))
        size = rng.uniform(0.12, 0.20)
        mx, my = lx + np.cos(angle) * reach * lrx, ly + np.sin(angle) * reach * lry
        lesion = disc(mx, my, size, size * rng.uniform(0.75, 1.0), rng.uniform(0, np.pi))
        paint(lesion, body.liver_signal + contrast * rng.uniform(0.75, 1.15) + 0.02 * texture)
        mask = lesion > 0.5

    signal *= body.gain * (1 + body.shading[0] * x + body.shading[1] * y)
    noise = noise or rng
    real = signal + noise.normal(0, body.noise, signal.shape)
    imaginary = noise.normal(0, body.noise, signal.shape)
    magnitude = np.hypot(real, imaginary)
    return np.clip(np.round(magnitude * 36_000), 0, 65_535).astype(np.uint16), mask


def _smooth(field: np.ndarray, width: int) -> np.ndarray:
    """`field` (H, W) averaged over `width` px in both directions and scaled back to unit deviation."""
    kernel = np.ones(width) / width
    for axis in (0, 1):
        field = np.apply_along_axis(np.convolve, axis, field, kernel, mode="same")
    return field / field.std()
