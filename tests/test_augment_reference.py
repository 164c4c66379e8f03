"""One resampling against the same transforms one after the other, as torchvision v2 has them, for images, boxes and
outlines; on real scans where they are beside the checkout.

The reference resamples up to six times, so it is softer and its nearest pixels wander; what must agree within small
tolerances is where everything goes. How much softer it is, is asserted too: that is what one resampling is for.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as reference
from PIL import Image
from test_augment import fixed, scans, seeded
from torchvision import tv_tensors

from builder.augment import Augment, Moves, _bent
from builder.scans import read as read_scan

BILINEAR, NEAREST = reference.InterpolationMode.BILINEAR, reference.InterpolationMode.NEAREST
SIDE = 192
SETTINGS: dict[str, dict[str, float]] = {
    "flip_horizontal": {},
    "shear": {"degrees": 6.0},
    "zoom": {"low": 0.9, "high": 1.1},
    "rotate": {"degrees": 12.0},
    "shift": {"fraction": 12 / SIDE},
    "elastic": {"spacing": 0.25, "amount": 0.3},
}
IMAGE_TOLERANCE = 0.02
"""Mean absolute difference of grey values, of [0, 1]: what five more bilinear resamplings soften a real scan by."""
OUTLINE_TOLERANCE = 0.92
"""Least Dice of an outline with the reference's, both resampled to the nearest pixel, the reference five times: one of
130 pixels has a rim of 40."""
BOX_TOLERANCE = 0.75
"""Pixels by which a box may differ from the hull of the reference's moved outline points."""


def composed(seed: int = 5) -> tuple[Augment, Moves]:
    """All geometry at the far end of its range, and where it moves one picture."""
    augment = fixed(**SETTINGS)
    moves = augment.moves(1, SIDE, SIDE, seeded(seed))
    assert moves is not None and moves.bend is not None
    return augment, moves


def displacement(moves: Moves) -> torch.Tensor:
    """The elastic field as torchvision wants it: (1, H, W, 2), in units where the picture spans -1 to 1."""
    assert moves.bend is not None
    lines = torch.arange(SIDE, dtype=torch.float64) + 0.5
    places = torch.stack(torch.meshgrid(lines, lines, indexing="xy"), -1).view(1, -1, 2)
    return (_bent(moves.bend, places, moves.size).view(1, SIDE, SIDE, 2) * 2 / SIDE).float()


def in_turn(item: Any, moves: Moves, mode: Any = BILINEAR) -> Any:
    """The reference: six transforms, each resampling by itself."""
    still: dict[str, Any] = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
    item = reference.horizontal_flip(item)
    for step in ({"shear": [-6.0, 0.0]}, {"scale": 1.1}, {"angle": -12.0}, {"translate": [12, 12]}):
        item = reference.affine(item, **{**still, **step}, interpolation=mode)
    return reference.elastic(item, displacement(moves), interpolation=mode)


def points_in_turn(points: np.ndarray, moves: Moves) -> np.ndarray:
    """Points (n, 2) through the reference's steps; the elastic one inverted by looking where each pixel came from."""
    size = (SIDE, SIDE)
    points = np.stack([SIDE - points[:, 0], points[:, 1]], 1)  # torchvision flips key points as centres of pixels
    found: Any = tv_tensors.KeyPoints(torch.from_numpy(points)[:, None].float(), canvas_size=size)
    still: dict[str, Any] = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
    for step in ({"shear": [-6.0, 0.0]}, {"scale": 1.1}, {"angle": -12.0}, {"translate": [12, 12]}):
        found = reference.affine(found, **{**still, **step})
    there = found.as_subclass(torch.Tensor)[:, 0]
    lines = torch.arange(SIDE) + 0.5
    grid = torch.stack(torch.meshgrid(lines, lines, indexing="xy"), -1)
    came_from = (grid + displacement(moves)[0] * SIDE / 2).view(-1, 2)
    nearest = torch.cdist(there, came_from).argmin(1)
    return (grid.view(-1, 2)[nearest] + there - came_from[nearest]).numpy()


def read(path: Path, grey: bool = True) -> torch.Tensor:
    """(1, C, SIDE, SIDE) float in [0, 1]."""
    with Image.open(path) as opened:
        picture = np.asarray(opened.convert("L" if grey else "RGB").resize((SIDE, SIDE)), np.float32) / 255
    return torch.from_numpy(picture[None] if grey else np.moveaxis(picture, -1, 0).copy())[None]


@pytest.fixture(params=["made up", "ultrasound", "X-ray", "microscopy"])
def picture(request: pytest.FixtureRequest) -> torch.Tensor:
    if request.param == "made up":
        return scans(1, height=SIDE, width=SIDE)
    data: Path = request.getfixturevalue("shared_data")
    if request.param == "X-ray":
        stored = np.load(data / "pneumoniamnist" / "pneumoniamnist.npz")["train_images"][7]
        return torch.nn.functional.interpolate(
            torch.from_numpy(stored)[None, None].float() / 255, SIDE, mode="bicubic"
        ).clamp(0, 1)
    folder, suffix = {"ultrasound": ("busi_ultrasound/benign", "benign (1).png")}.get(request.param, ("", ""))
    path = data / folder / suffix if folder else data / "bccd_blood_cells" / "JPEGImages" / "BloodImage_00001.jpg"
    return read(path, grey=bool(folder))


def test_one_resampling_shows_what_six_transforms_in_turn_show(picture: torch.Tensor):
    augment, moves = composed()
    ours, theirs = augment(picture, seeded(5)).images, in_turn(picture, moves)
    # Six transforms in turn lose what leaves the picture on the way; compared is what they still have.
    there = (in_turn(torch.ones_like(picture), moves) > 0.999) & (
        augment(torch.ones_like(picture), seeded(5)).images > 0.999
    )
    assert float(there.float().mean()) > 0.6
    difference = float((ours - theirs).abs()[there].mean())
    assert difference < IMAGE_TOLERANCE, "the same thing in the same place"
    assert difference < 0.8 * float((ours - torch.roll(theirs, 2, -1)).abs()[there].mean()), (
        "and not two pixels beside it"
    )

    def sharpness(images: torch.Tensor) -> float:
        return float((images[..., 1:] - images[..., :-1]).abs()[there[..., 1:] & there[..., :-1]].mean())

    assert sharpness(ours) >= 0.999 * sharpness(theirs), "five resamplings less keep the detail"


@pytest.mark.parametrize("name", ["brain1", "brain2", "breast1"])
def test_an_outline_goes_where_six_transforms_in_turn_put_it(shared_data: Path, name: str):
    labels = read_scan(shared_data / "mr_tumour_nrrd" / f"{name}_label.nrrd").pixels[:, 0] > 0
    largest = Image.fromarray(labels[labels.sum((1, 2)).argmax()])
    mask = torch.from_numpy(np.asarray(largest.resize((SIDE, SIDE), Image.Resampling.NEAREST)).astype(np.uint8))[
        None, None
    ]
    assert int(mask.sum()) > 100
    augment, moves = composed()
    ours = augment(mask.float(), seeded(5), masks=mask).masks
    theirs = in_turn(tv_tensors.Mask(mask), moves, NEAREST).as_subclass(torch.Tensor)
    assert ours is not None and ours.dtype == torch.uint8
    overlap = 2 * (ours & theirs).sum() / (ours.sum() + theirs.sum())
    assert float(overlap) > OUTLINE_TOLERANCE
    centres = [found[0, 0].nonzero().double().mean(0) for found in (ours, theirs)]
    assert float((centres[0] - centres[1]).abs().max()) < BOX_TOLERANCE


def test_boxes_go_where_six_transforms_in_turn_put_their_outlines(shared_data: Path):
    annotations = sorted((shared_data / "bccd_blood_cells" / "Annotations").glob("*.xml"))[:8]
    compared = 0
    for path in annotations:
        root = ET.parse(path).getroot()
        width, height = (float(root.findtext(f"size/{side}", "0")) for side in ("width", "height"))
        names = ("xmin", "ymin", "xmax", "ymax")
        read_boxes = [[float(box.findtext(name, "0")) for name in names] for box in root.iter("bndbox")]
        boxes = np.array(read_boxes) * np.array([SIDE / width, SIDE / height] * 2)
        augment, moves = composed()
        out = augment(torch.zeros(1, 1, SIDE, SIDE), seeded(5), boxes=[torch.from_numpy(boxes)])
        assert out.boxes is not None and out.kept is not None
        steps = np.linspace(0, 1, 33)
        zero, one = np.zeros(33), np.ones(33)
        rim = np.stack([np.r_[steps, steps, zero, one], np.r_[zero, one, steps, steps]], 1)
        for box, ours in zip(boxes[out.kept[0].numpy()], out.boxes[0].numpy(), strict=True):
            moved = points_in_turn(box[:2] + rim * (box[2:] - box[:2]), moves)
            hull = np.concatenate([moved.min(0), moved.max(0)])
            if hull.min() < 2 or hull.max() > SIDE - 2:
                continue  # what lies outside has no pixel that came from it
            compared += 1
            assert np.abs(ours - hull).max() < BOX_TOLERANCE, path.name
    assert compared > 40


def test_a_planted_blob_its_box_and_its_outline_go_where_the_reference_puts_them():
    picture, mask = torch.zeros(1, 1, SIDE, SIDE), torch.zeros(1, 1, SIDE, SIDE, dtype=torch.uint8)
    picture[..., 80:120, 60:110] = 1
    mask[..., 80:120, 60:110] = 1
    augment, moves = composed()
    out = augment(picture, seeded(5), [torch.tensor([[60.0, 80, 110, 120]])], mask)
    theirs = in_turn(picture, moves) > 0.5
    assert out.masks is not None and out.boxes is not None
    bright = out.images > 0.5
    assert 2 * float((bright & theirs).sum()) / float(bright.sum() + theirs.sum()) > 0.985
    assert 2 * float(((out.masks > 0) & theirs).sum()) / float((out.masks > 0).sum() + theirs.sum()) > 0.98
    rows, columns = theirs[0, 0].nonzero().unbind(1)
    hull = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
    assert float((out.boxes[0][0] - hull).abs().max()) < 2.0  # corners fade: the reference has blurred them five times
