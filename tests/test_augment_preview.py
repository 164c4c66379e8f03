"""What the designer shows: every operation on one scan, boxes and outlines moving along, with what it costs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from builder.augment_preview import preview
from builder.parts.images import AUGMENTATIONS, MIXING
from builder.scans import Scan
from builder.spec import Choice, Data


class Planted:
    """Two scans of 40 x 60 px; on the first a bright rectangle with its box and its outline."""

    def __init__(self, slices: int = 1, known: bool = True) -> None:
        self.pixels = np.full((slices, 1, 40, 60), 60, np.uint8)
        self.pixels[:, :, 10:20, 30:50] = 230
        self.known = known
        case = SimpleNamespace(shape=self.pixels.shape, spacing_mm=(None, None, None))
        self.cases = [case, case]

    def scan(self, index: int) -> Scan:
        return Scan(pixels=self.pixels if index == 0 else 255 - self.pixels, spacing_mm=(None, None, None), bits=8)

    def boxes(self, index: int):
        box = SimpleNamespace(x0=30.0, y0=10.0, x1=50.0, y1=20.0, slice=len(self.pixels) // 2)
        return (box,) if self.known else None

    def mask(self, index: int) -> np.ndarray | None:
        mask = np.zeros((len(self.pixels), 40, 60), np.uint8)
        mask[:, 12:18, 34:46] = 1  # inside the box, or its line would lie below that of the box
        return mask if self.known else None

    def examples(self, split: str) -> np.ndarray:
        return np.arange(2)


def shown(tmp_path: Path, data: Data, dataset: Planted, *names: str, **options: object) -> dict:
    choices = [Choice(name=name, params={"probability": 1.0}) for name in names]
    return preview(dataset, data, choices, 0, tmp_path, **options)  # type: ignore[arg-type]


def test_every_operation_is_shown_and_what_is_chosen_is_timed(tmp_path: Path):
    told = shown(tmp_path, Data(size_px=32), Planted(), "rotate", "noise", num=3, operations=True)
    assert set(told["operations"]) | set(told["mixed"]) == set(AUGMENTATIONS) and set(told["mixed"]) == set(MIXING)
    before = np.asarray(Image.open(tmp_path / "before.png"))
    assert before.shape == (32, 32) and len(told["after"]) == 3
    for name in told["after"]:
        assert not np.array_equal(np.asarray(Image.open(tmp_path / name)), before)
    for name, files in told["operations"].items():
        assert len(files) == (1 if name.startswith("flip") else 2)
        assert all((tmp_path / file).is_file() for file in files)
    assert set(told["cost_ms"]) == {"rotate", "noise"} and all(cost > 0 for cost in told["cost_ms"].values())
    assert told["whole_ms"] > 0 and told["batch"] == 16
    assert all(0.1 < mixed["share"] < 0.9 for mixed in told["mixed"].values())


def test_boxes_and_outlines_are_drawn_where_the_lesion_went(tmp_path: Path):
    told = shown(tmp_path, Data(size_px=60), Planted(), "flip_horizontal", num=1)
    assert told["boxes"] == 1 and told["left"] == [1] and len(told["marked"]) == 2
    scale = 5  # 60 px enlarged to at least 288
    picture = np.asarray(Image.open(tmp_path / "after-01-marked.png")).astype(int)
    orange = (picture[..., 0] > 240) & (picture[..., 2] < 60)
    rows, columns = np.nonzero(orange)
    assert [columns.min(), columns.max() + 1] == [10 * scale, 30 * scale], "30 to 50, mirrored in 60 px"
    assert [rows.min(), rows.max() + 1] == [20 * scale, 30 * scale], "10 to 20, below a border of 10"
    assert ((picture[..., 2] > 240) & (picture[..., 0] < 100)).any(), "the outline"


def test_a_scan_without_boxes_is_shown_plain_and_the_same_seed_gives_the_same_pictures(tmp_path: Path):
    pictures = []
    for seed in (3, 3, 4):
        told = shown(tmp_path, Data(size_px=32), Planted(known=False), "shift", num=1, seed=seed)
        assert told["marked"] == [] and told["boxes"] == 0 and "operations" not in told
        pictures.append((tmp_path / told["after"][0]).read_bytes())
    assert pictures[0] == pictures[1] != pictures[2]


@pytest.mark.parametrize("slices", ["series", "volume"])
def test_of_several_slices_the_middle_one_is_shown(tmp_path: Path, slices: str):
    data = Data(size_px=32, slices=slices, num_slices=3)
    told = shown(tmp_path, data, Planted(slices=5), "rotate", "elastic", num=2, operations=True)
    assert np.asarray(Image.open(tmp_path / told["after"][0])).shape == (32, 32) and told["boxes"] == 1
