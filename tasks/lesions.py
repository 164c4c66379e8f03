"""Synthetic pictures with lesions of two kinds and their boxes, for a first try: honest noise, known truth.

Each picture is a piece of tissue with structure of its own and the noise of an acquisition. A "nodule" is bright and
filled, a "cyst" a bright rim around a dark inside; a third of the pictures have neither. Vessels, long and bright, are
there to be told apart from nodules.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

CLASSES = ("nodule", "cyst")
SIDE_PX = 96


@dataclass(frozen=True)
class Picture:
    """A picture (H, W) uint8, and its lesions: boxes (n, 4) x0 y0 x1 y1 in pixels with their classes (n,)."""

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    patient: str


def pictures(seed: int, count: int = 240, side_px: int = SIDE_PX) -> Iterator[Picture]:
    """Draws pictures; two of each patient, the same patients for the same seed."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        yield _picture(rng, f"P{number // 2 + 1:03d}", number % 3 == 2, side_px)


def _picture(rng: np.random.Generator, patient: str, clear: bool, side: int) -> Picture:
    y, x = np.mgrid[0:side, 0:side] + 0.5
    signal = 0.35 + _smooth(rng, side, 8) * 0.10 + _smooth(rng, side, 3) * 0.05
    for _ in range(int(rng.integers(2, 5))):  # vessels
        angle, through = rng.uniform(0, np.pi), rng.uniform(0.2, 0.8, 2) * side
        away = np.abs((x - through[0]) * np.sin(angle) - (y - through[1]) * np.cos(angle))
        signal += 0.25 * np.clip(rng.uniform(1.0, 2.0) - away + 0.5, 0, 1)
    boxes: list[tuple[float, float, float, float]] = []
    labels: list[int] = []
    for _ in range(0 if clear else int(rng.integers(1, 4))):
        label, radius = int(rng.integers(0, 2)), rng.uniform(5, 12)
        cx, cy = rng.uniform(radius + 2, side - radius - 2, 2)
        if any(np.hypot(cx - (b[0] + b[2]) / 2, cy - (b[1] + b[3]) / 2) < radius + (b[2] - b[0]) / 2 for b in boxes):
            continue  # lesions do not lie on each other
        wide = radius * rng.uniform(0.8, 1.25)
        away = np.hypot((x - cx) / wide, (y - cy) / radius)
        filled = np.clip((1 - away) * min(wide, radius) + 0.5, 0, 1)
        if label == 0:
            signal = signal * (1 - filled) + filled * rng.uniform(0.62, 0.8)
        else:
            inner = np.clip((0.72 - away) * min(wide, radius) + 0.5, 0, 1)
            signal = signal * (1 - filled) + filled * rng.uniform(0.65, 0.8)
            signal = signal * (1 - inner) + inner * rng.uniform(0.12, 0.2)
        boxes.append((cx - wide, cy - radius, cx + wide, cy + radius))
        labels.append(label)
    noisy = signal + rng.normal(0, 0.05, signal.shape) * np.sqrt(np.clip(signal, 0.05, 1) / 0.35)
    image = np.rint(np.clip(noisy, 0, 1) * 255).astype(np.uint8)
    return Picture(image, np.array(boxes, np.float64).reshape(-1, 4), np.array(labels, np.int64), patient)


def _smooth(rng: np.random.Generator, side: int, cells: int) -> np.ndarray:
    """Slow variation in about -1..1: random values on a coarse grid, stretched."""
    from PIL import Image

    coarse = Image.fromarray(rng.normal(0, 1, (cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))


def write_set(folder: Path, seed: int, count: int = 240, side_px: int = SIDE_PX) -> Path:
    """Writes the pictures as PNG, their boxes as COCO (`boxes.json`) and the patients in the file names; returns the
    folder."""
    from PIL import Image

    (folder / "images").mkdir(parents=True, exist_ok=True)
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for number, picture in enumerate(pictures(seed, count, side_px), 1):
        name = f"{picture.patient}_{number:04d}.png"
        Image.fromarray(picture.image).save(folder / "images" / name)
        images.append({"id": number, "file_name": name, "width": side_px, "height": side_px})
        for (x0, y0, x1, y1), label in zip(picture.boxes.tolist(), picture.labels.tolist(), strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": label + 1,
                    "bbox": [round(x0, 2), round(y0, 2), round(x1 - x0, 2), round(y1 - y0, 2)],
                    "area": round((x1 - x0) * (y1 - y0), 2),
                    "iscrowd": 0,
                }
            )
    document = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": k, "name": name} for k, name in enumerate(CLASSES, 1)],
    }
    (folder / "boxes.json").write_text(json.dumps(document))
    return folder
