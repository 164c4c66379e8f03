"""Labels in prepared pixels: where a box, a mask and an answer land, there and back; slices as samples of their own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from builder.cutting import Outlined
from builder.data import Dataset, place, prepare
from builder.scan import Scan
from builder.spec import Data
from builder.targets import UNKNOWN, Targets, class_or_outline, over_slices

FITS = ("pad", "stretch", "crop")


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("aspect", [1.0, 1.7])
def test_a_box_goes_into_the_prepared_picture_and_back(fit: str, aspect: float) -> None:
    placement = place(60, 100, Data(size_px=64, fit=fit), aspect)
    boxes = np.array([[10.0, 5.0, 30.5, 40.0], [0.0, 0.0, 100.0, 60.0]])
    assert np.allclose(placement.boxes_out(placement.boxes_in(boxes)), boxes)


@pytest.mark.parametrize("fit", FITS)
def test_a_mask_lands_where_its_pixels_land_and_comes_back_to_them(fit: str) -> None:
    mask = np.zeros((60, 100), np.uint8)
    mask[20:40, 35:65] = 1
    data = Data(size_px=128, fit=fit)
    placement = place(60, 100, data)
    there = placement.mask_in(mask, 128)
    scan = Scan((mask * 255)[None, None])
    seen = prepare(scan, data)[0] > 0.5
    assert (there.astype(bool) != seen).mean() < 0.01  # a border pixel may round either way
    back = placement.map_out(there.astype(np.float32), 60, 100) > 0.5
    assert np.array_equal(back, mask.astype(bool))


def test_an_answer_brought_back_does_not_shift() -> None:
    """A ramp over the prepared picture is the same ramp on the scan's grid (half-pixel centres)."""
    data = Data(size_px=64, fit="stretch")
    ramp = np.tile((np.arange(64) + 0.5) / 64, (64, 1)).astype(np.float32)
    back = place(32, 200, data).map_out(ramp, 32, 200)
    expected = (np.arange(200) + 0.5) / 200
    inside = slice(2, -2)  # beyond the outermost centres the last value goes on
    assert np.abs(back[5][inside] - expected[inside]).max() < 1e-5


def test_a_slice_with_its_neighbours_has_them_as_channels_and_the_border_repeats_itself() -> None:
    pixels = np.stack([np.full((1, 16, 16), 40 * k, np.uint8) for k in range(4)])
    data = Data(size_px=16, slices="each", colour="neighbours", window="stored range")
    seen = [np.rint(prepare(Scan(pixels), data, k)[:, 0, 0] * 255).tolist() for k in range(4)]
    assert seen == [[0, 0, 40], [0, 40, 80], [40, 80, 120], [80, 120, 120]]


class Labelled:
    """A stand-in for a data set: two cases of three slices and one, with boxes and masks."""

    classes, multi_label = ("a", "b"), False
    labels = np.array([1, -1])
    cases = (
        SimpleNamespace(shape=(3, 1, 20, 40), spacing_mm=(1.0, 1.0, 1.0)),
        SimpleNamespace(shape=(1, 1, 20, 40), spacing_mm=(1.0, 1.0, 1.0)),
    )

    def boxes(self, index: int) -> Any:
        if index:
            return None
        return (
            SimpleNamespace(x0=10.0, y0=5.0, x1=20.0, y1=15.0, label=1, slice=2),
            SimpleNamespace(x0=0.0, y0=0.0, x1=4.0, y1=4.0, label=0, slice=0),
        )

    def mask(self, index: int) -> np.ndarray | None:
        if index == 0:
            return None
        mask = np.zeros((1, 20, 40), np.uint8)
        mask[0, 5:15, 10:20] = 3
        return mask


def of(data: Data, cases: list[int], kinds: tuple[str, ...]) -> Targets:
    from builder.data import Prepared

    places = np.array([(0, 0), (0, 1), (0, 2), (1, 0)]) if data.slices == "each" else None
    empty = np.zeros((0, 1, 40, 40), np.uint8)
    prepared = Prepared(empty, 255, np.zeros(1), np.ones(1), None, places)
    dataset: Dataset = Labelled()  # type: ignore[assignment]
    return Targets(dataset, data, prepared, np.array(cases), kinds)


def test_each_slice_is_a_sample_with_its_own_boxes_and_the_class_of_its_case() -> None:
    found = of(Data(size_px=40, slices="each"), [0, 1], ("class", "boxes"))
    assert len(found) == 4 and found.cases.tolist() == [0, 0, 0, 1] and found.slices.tolist() == [0, 1, 2, 0]
    target = found.batch(np.array([2, 1, 3]), torch.device("cpu"))
    assert target.classes is not None and target.classes.tolist() == [1, 1, -1]
    assert target.boxes is not None and target.labels is not None
    assert [len(boxes) for boxes in target.boxes] == [1, 0, 0]
    assert target.boxes[0].tolist() == [[10.0, 15.0, 20.0, 25.0]]  # 10 rows of black above: 20 x 40 padded to 40 x 40
    assert target.labels[0].tolist() == [1]


def test_the_middle_slice_carries_only_its_own_boxes_and_the_maximum_carries_all() -> None:
    assert [len(b) for b in of(Data(size_px=40), [0], ("boxes",)).boxes or ()] == [0]
    assert [len(b) for b in of(Data(size_px=40, slices="maximum"), [0], ("boxes",)).boxes or ()] == [2]


def test_boxes_of_one_lesion_on_several_slices_become_their_hull() -> None:
    drawn = [(0, 0, 8, 8), (2, 2, 10, 6), (9, 4, 11, 6), (0, 0, 8, 8), (1, 1, 9, 9), (30, 0, 38, 8), (36, 0, 44, 8)]
    labels, slices = np.array([0, 0, 0, 1, 0, 0, 0]), np.array([0, 1, 2, 1, 0, 0, 1])
    boxes, told = over_slices(np.array(drawn, float), labels, slices)
    # The third overlaps the second by half of itself; the fifth, on the slice of the first, is joined by the second.
    assert boxes.tolist() == [[0, 0, 11, 9], [0, 0, 8, 8], [30, 0, 38, 8], [36, 0, 44, 8]]
    assert told.tolist() == [0, 1, 0, 0], "another class, and a quarter of overlap, are lesions of their own"
    alone, _ = over_slices(np.array(drawn[:2], float), labels[:2], np.zeros(2, int))
    assert len(alone) == 2, "whoever drew two boxes on one slice saw two lesions"
    assert [part.shape for part in over_slices(np.zeros((0, 4)), labels[:0], slices[:0])] == [(0, 4), (0,)]


def test_a_missing_mask_is_not_an_empty_one() -> None:
    found = of(Data(size_px=40), [0, 1], ("mask",))
    assert found.masked is not None and found.masks is not None
    assert found.masked.tolist() == [False, True]
    assert found.masks[1].sum() == 100 and set(np.unique(found.masks[1])) == {0, 1}


def test_without_two_classes_a_balance_is_of_outlines_and_empty_ones() -> None:
    assert of(Data(size_px=40), [0, 1], ("class", "mask")).kinds().tolist() == [UNKNOWN, 1]
    masks = np.zeros((4, 2, 2), np.uint8)
    masks[0] = 1
    masked = np.array([True, True, False, True])
    assert class_or_outline(
        np.full(4, -1), [m if k else None for m, k in zip(masks, masked, strict=True)]
    ).tolist() == [*(1, 0, UNKNOWN, 0)]
    pictures: Any = SimpleNamespace(rows=np.arange(4), labels=None, masks=masks, masked=masked)
    volumes: Any = SimpleNamespace(rows=np.array([5, 5, 6, 7]), labels=None, masks=None, masked=masked)
    volumes.cases, volumes.outlines = volumes.rows, {5: Outlined.of(masks[:1]), 7: Outlined.of(masks[1:2])}
    for classes, kinds in (([-1] * 4, None), ([1, -1, -1, 1], None), ([1, -1, 0, 1], [1, UNKNOWN, 0, 1])):
        pictures.classes = volumes.classes = np.array(classes)
        assert Targets.kinds(pictures).tolist() == (kinds or [1, 0, UNKNOWN, 0])
        assert Targets.kinds(volumes).tolist() == (kinds or [1, 1, UNKNOWN, 0])


def test_a_lesion_that_the_crop_cuts_away_is_not_asked_for() -> None:
    found = of(Data(size_px=20, fit="crop", slices="maximum"), [0], ("boxes",))
    assert found.boxes is not None and [len(b) for b in found.boxes] == [1]
