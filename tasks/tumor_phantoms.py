"""Procedural head scans with a planted tumour of known type and outline, or none, and the noise of an acquisition.

Everything is drawn from one seed with numpy alone. They are synthetic and say so: they show that the tool works, never
that a model works on people. A benign tumour is smooth, round and even; a malignant one is lobed, has a dark core and a
bright rim, and swelling around it, which is not part of its outline. Both are as large and as bright on average, so
that neither size nor brightness alone tells the type. Noise is Rician (Gudbjartsson and Patz 1995).
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

CLASSES = ("benign", "malignant", "no tumor")
SPACING_MM = (6.0, 2.0, 2.0)
"""Of slices, rows and columns; slices closer together where a volume has more of them."""
_UNMASKED, _UNTYPED = 9, 7
"""Every ninth patient with a tumour has no mask, every seventh no type: what is absent is not empty."""


@dataclass(frozen=True)
class Head:
    """What stays the same over the slices of one patient; radii in units of half the picture."""

    radii: tuple[float, float]
    ventricle: float
    grey: float
    gain: float
    shading: tuple[float, float]
    noise: float

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> Head:
        """One patient at random."""
        return cls(
            radii=(rng.uniform(0.70, 0.80), rng.uniform(0.82, 0.92)),
            ventricle=rng.uniform(0.07, 0.12),
            grey=rng.uniform(0.40, 0.48),
            gain=rng.uniform(0.85, 1.15),
            shading=(rng.uniform(-0.12, 0.12), rng.uniform(-0.12, 0.12)),
            noise=rng.uniform(0.02, 0.04),
        )


@dataclass(frozen=True)
class Tumor:
    """A planted tumour: centre (x, y, z) and radius in units of half the picture, its lobes as waves of the radius."""

    kind: str
    centre: tuple[float, float, float]
    radius: float
    aspect: float
    turn: float
    waves: tuple[tuple[float, float], ...]

    @classmethod
    def drawn(cls, rng: np.random.Generator, kind: str) -> Tumor:
        """One of a kind at random, within the brain."""
        angle, reach = rng.uniform(0, 2 * np.pi), 0.42 * np.sqrt(rng.uniform(0.05, 1))
        most = 0.16 if kind == "malignant" else 0.02
        return cls(
            kind=kind,
            centre=(np.cos(angle) * reach, np.sin(angle) * reach * 1.1, rng.uniform(-0.3, 0.3)),
            radius=rng.uniform(0.14, 0.24),
            aspect=rng.uniform(0.8, 1.0),
            turn=rng.uniform(0, np.pi),
            waves=tuple((rng.uniform(0.3, 1) * most, rng.uniform(0, 2 * np.pi)) for _ in range(4)),
        )


def draw(
    rng: np.random.Generator, head: Head, tumor: Tumor | None, z: float, size_px: int
) -> tuple[np.ndarray, np.ndarray]:
    """One slice: (H, W) uint16 and the tumour's mask (H, W) uint8 of 0 and 1.

    Args:
        z: of the slice, -1 to 1 from the lowest to the highest.
    """
    axis = (np.arange(size_px) + 0.5) / size_px * 2 - 1
    x, y = np.meshgrid(axis, axis)
    edge = 2.0 / size_px

    def disc(cx: float, cy: float, rx: float, ry: float, turn: float = 0.0) -> np.ndarray:
        u = (x - cx) * np.cos(turn) + (y - cy) * np.sin(turn)
        v = -(x - cx) * np.sin(turn) + (y - cy) * np.cos(turn)
        return np.clip((1 - np.sqrt((u / rx) ** 2 + (v / ry) ** 2)) * min(rx, ry) / edge + 0.5, 0, 1)

    signal = np.zeros((size_px, size_px))

    def paint(where: np.ndarray, value: float | np.ndarray) -> None:
        np.copyto(signal, signal * (1 - where) + value * where)

    size = np.sqrt(1 - (0.55 * z) ** 2)
    rx, ry = head.radii[0] * size, head.radii[1] * size
    paint(disc(0, 0, rx, ry), 0.75)  # scalp
    paint(disc(0, 0, rx - 0.05, ry - 0.05), 0.08)  # skull
    paint(disc(0, 0, rx - 0.11, ry - 0.11), 0.18)  # fluid around the brain
    brain = disc(0, 0, rx - 0.14, ry - 0.14)
    texture = _smooth(rng.normal(0, 1, signal.shape))
    paint(brain, head.grey + 0.02 * texture)
    for _ in range(int(rng.integers(10, 18))):  # folds: small dark and bright spots in every class
        angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0.35, 1)
        spot = rng.uniform(0.02, 0.045)
        where = disc(np.cos(angle) * reach * (rx - 0.2), np.sin(angle) * reach * (ry - 0.2), spot, spot)
        paint(where * brain, head.grey + rng.choice((-0.16, 0.14)))
    for side in (-1, 1):
        paint(disc(side * 0.13, -0.05, head.ventricle * size * 0.7, head.ventricle * size * 1.8, side * 0.3), 0.16)
    mask = np.zeros(signal.shape, np.uint8)
    if tumor is not None:
        mask = _plant(tumor, z, x, y, edge, texture, head.grey, paint)
    signal *= head.gain * (1 + head.shading[0] * x + head.shading[1] * y)
    noisy = np.hypot(signal + rng.normal(0, head.noise, signal.shape), rng.normal(0, head.noise, signal.shape))
    return np.clip(np.round(noisy * 20_000), 0, 32_767).astype(np.uint16), mask


def _plant(
    tumor: Tumor, z: float, x: np.ndarray, y: np.ndarray, edge: float, texture: np.ndarray, grey: float, paint: object
) -> np.ndarray:
    """Paints what a slice at `z` shows of a tumour, and returns its mask."""
    beside = (z - tumor.centre[2]) / (1.9 * tumor.radius)
    if abs(beside) >= 1:
        return np.zeros(x.shape, np.uint8)
    here = tumor.radius * np.sqrt(1 - beside**2)
    u = (x - tumor.centre[0]) * np.cos(tumor.turn) + (y - tumor.centre[1]) * np.sin(tumor.turn)
    v = -(x - tumor.centre[0]) * np.sin(tumor.turn) + (y - tumor.centre[1]) * np.cos(tumor.turn)
    angle = np.arctan2(v, u)
    border = here * (1 + sum(a * np.cos((k + 2) * angle + phase) for k, (a, phase) in enumerate(tumor.waves)))
    outward = np.hypot(u, v / tumor.aspect) - border
    inside = np.clip(0.5 - outward / edge, 0, 1)
    if tumor.kind == "malignant":
        paint(np.clip(1 - outward / (0.6 * here), 0, 1) * 0.5, grey + 0.12)  # type: ignore[operator]  # swelling
        core = np.clip((-outward - 0.35 * here) / (0.15 * here), 0, 1)
        paint(inside, grey + 0.34 - 0.42 * core + 0.05 * texture)  # type: ignore[operator]
    else:
        paint(inside, grey + 0.22 + 0.01 * texture)  # type: ignore[operator]
    return (inside > 0.5).astype(np.uint8)


def write_pictures(folder: Path, seed: int, num_patients: int = 110, size_px: int = 96) -> Path:
    """Two slices through the tumour (or anywhere) of each patient, each a scan of its own; see `_write`."""
    return _write(folder, seed, num_patients, size_px, 0)


def write_volumes(folder: Path, seed: int, num_patients: int = 60, size_px: int = 64, num_slices: int = 10) -> Path:
    """One volume of each patient; see `_write`."""
    return _write(folder, seed, num_patients, size_px, num_slices)


def write_close_volumes(folder: Path, seed: int, num_patients: int = 60, size_px: int = 64) -> Path:
    """As `write_volumes`, with 20 slices, 3 mm apart; see `_write`."""
    return _write(folder, seed, num_patients, size_px, 20)


def _write(folder: Path, seed: int, num_patients: int, size_px: int, num_slices: int) -> Path:
    """NIfTI files of scans and masks, and labels.csv (file, label, patient, mask); gives back `folder`."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "labels.csv", "w", newline="", encoding="utf-8") as table:
        rows = csv.writer(table)
        rows.writerow(("file", "label", "patient", "mask"))
        for number in range(1, num_patients + 1):
            kind = CLASSES[number % len(CLASSES)]
            head, tumor = Head.drawn(rng), Tumor.drawn(rng, kind) if kind != CLASSES[2] else None
            middle, reach = (tumor.centre[2], tumor.radius) if tumor else (0.0, 0.4)
            stacks = (
                [np.linspace(-0.75, 0.75, num_slices)] if num_slices else rng.uniform(-1, 1, (2, 1)) * reach + middle
            )
            for part, stack in enumerate(stacks, 1):
                scan, mask = zip(*(draw(rng, head, tumor, float(z), size_px) for z in stack), strict=True)
                name = f"phantom-{number:03d}-{part}.nii.gz"
                masked = not (tumor and number % _UNMASKED == 0)
                apart = 60.0 / num_slices if num_slices else SPACING_MM[0]
                _save(folder / name, np.stack(scan), apart)
                if masked:
                    _save(folder / name.replace(".nii", "-mask.nii"), np.stack(mask), apart)
                typed = number % _UNTYPED != 0 or not masked
                rows.writerow(
                    (name, kind if typed else "", f"P{number:03d}", name.replace(".nii", "-mask.nii") if masked else "")
                )
    return folder


def _save(path: Path, stack: np.ndarray, apart_mm: float) -> None:
    """Writes (S, H, W) as NIfTI with its spacing."""
    import nibabel

    affine = np.diag([SPACING_MM[2], SPACING_MM[1], apart_mm, 1.0])
    nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(stack.transpose(2, 1, 0)), affine), path)


def _smooth(field: np.ndarray) -> np.ndarray:
    """`field` averaged over 3 px in both directions, of unit deviation."""
    padded = np.pad(field, 1, mode="edge")
    near = [padded[a : a + len(field), b : b + len(field)] for a in range(3) for b in range(3)]
    total = np.sum(near, axis=0)
    return total / total.std()
