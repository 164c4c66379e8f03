"""Figures of outlines: by hand, equal to MONAI on the whole grid, empty cases apart, nothing undefined as a number."""

from __future__ import annotations

import json
import math
import time
import warnings

import numpy as np
import pytest
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_iou, compute_surface_dice
from scipy.ndimage import gaussian_filter

from builder.measures import outlines
from builder.measures.outlines import Outlines, compare, report, scores

SQUARE = np.zeros((20, 20), bool)
SQUARE[5:10, 5:10] = True
NOTHING = np.zeros((20, 20), bool)


def blobs(seed: int, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Two blotchy masks that mostly agree and run over the border of the picture."""
    random = np.random.default_rng(seed)
    one = gaussian_filter(random.normal(0, 1, shape), 2) > 0.02
    return gaussian_filter(one + 0.3 * random.normal(0, 1, shape), 1) > 0.5, one


def values(told: dict) -> dict[str, float | None]:
    return {name: figure["value"] for name, figure in told["metrics"].items()}


# -- one case ---------------------------------------------------------------------------------------------------------


def test_a_square_moved_by_two_pixels_by_hand():
    told = compare(np.roll(SQUARE, 2, 1), SQUARE, (4.0, 0.5, 0.5), tolerance=0.5)
    assert (told["both"], told["answered"], told["given"]) == (15, 25, 25)
    assert told["hd95"] == pytest.approx(1.0) and told["in_mm"] == 1
    # of each edge of 16 pixels the 5 of the outer column and the middle of the inner one lie two pixels off
    assert told["nsd"] == pytest.approx(10 / 16)
    assert told["voxel_ml"] == pytest.approx(0.001) and told["pixel_mm2"] == pytest.approx(0.25)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("shape", [(8, 20, 24), (1, 30, 30)])
def test_distances_equal_those_of_monai_on_the_whole_grid(seed: int, shape: tuple[int, ...]):
    answered, given = blobs(seed, shape)
    spacing: tuple[float, float, float] = (2.5, 0.7, 0.9)
    told = compare(answered, given, spacing, tolerance=1.0)
    flat = shape[0] == 1
    a, b = (torch.tensor(mask[0] if flat else mask)[None, None] for mask in (answered, given))
    steps = list(spacing[1:] if flat else spacing)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        farthest = compute_hausdorff_distance(a, b, include_background=True, percentile=95, spacing=steps)
        within = compute_surface_dice(a, b, class_thresholds=[1.0], include_background=True, spacing=steps)
    assert told["hd95"] == pytest.approx(float(farthest), abs=1e-6)
    assert told["nsd"] == pytest.approx(float(within), abs=1e-6)
    dice, iou = outlines.overlap(*(np.array([told[name]]) for name in ("both", "answered", "given")))
    assert dice[0] == pytest.approx(float(compute_dice(a, b)), abs=1e-6)
    assert iou[0] == pytest.approx(float(compute_iou(a, b)), abs=1e-6)


def test_a_slice_needs_no_distance_of_slices_to_be_measured_in_mm_and_a_volume_does():
    moved = np.roll(SQUARE, 2, 1)
    flat = compare(moved, SQUARE, (None, 0.5, 0.5))
    assert (flat["in_mm"], flat["hd95"]) == (1, pytest.approx(1.0)) and math.isnan(flat["voxel_ml"])
    deep = compare(np.stack([moved] * 3), np.stack([SQUARE] * 3), (None, 0.5, 0.5))
    assert (deep["in_mm"], deep["hd95"]) == (0, pytest.approx(2.0)) and math.isnan(deep["voxel_ml"])
    for unknown in ((None, None, None), (0.0, 0.0, 0.0), (1.0, math.nan, 1.0)):
        told = compare(moved, SQUARE, unknown)
        assert told["in_mm"] == 0 and math.isnan(told["pixel_mm2"])


def test_where_an_outline_is_empty_there_is_no_distance():
    for pair in ((NOTHING, SQUARE), (SQUARE, NOTHING)):
        told = compare(*pair, (1.0, 1.0, 1.0))
        assert math.isnan(told["hd95"]) and told["nsd"] == 0
    assert math.isnan(compare(NOTHING, NOTHING)["nsd"])


def test_masks_of_another_shape_are_refused_in_words():
    with pytest.raises(ValueError, match=r"expected the same \(slices, rows, columns\)"):
        compare(np.zeros((2, 4, 4)), np.zeros((1, 4, 4)))
    with pytest.raises(ValueError, match="expected the same"):
        compare(np.zeros(4), np.zeros(4))


def test_surfaces_are_measured_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compare(np.roll(SQUARE, 1, 0), SQUARE)


# -- all cases --------------------------------------------------------------------------------------------------------


def made(seed: int = 0, num_cases: int = 60, patients: int = 30) -> Outlines:
    """Outlines of random quality; every third case has no lesion."""
    random = np.random.default_rng(seed)
    cases = []
    for k in range(num_cases):
        moved = np.roll(SQUARE, random.integers(0, 4, 2), (0, 1))
        cases.append(compare(moved if k % 3 or random.random() < 0.5 else NOTHING, SQUARE if k % 3 else NOTHING))
    return Outlines.of(cases, np.arange(num_cases) % patients)


def test_a_case_without_a_lesion_never_enters_the_overlap():
    pairs = [(SQUARE, SQUARE), (np.roll(SQUARE, 2, 1), SQUARE), (NOTHING, NOTHING), (SQUARE, NOTHING)]
    found = Outlines.of([compare(a, g, (2.0, 1.0, 1.0)) for a, g in pairs], [0, 1, 2, 3])
    told = report(found, resamples=100)
    got = values(told)
    assert got["dice"] == pytest.approx((1 + 0.6) / 2) and got["iou"] == pytest.approx((1 + 15 / 35) / 2)
    assert got["hd95_mm"] == pytest.approx((0 + 2) / 2) and got["missed"] == 0
    assert got["false_positive_rate"] == 0.5 and got["false_volume_ml"] == pytest.approx(0.05 / 2)
    assert (told["with_lesion"], told["without_lesion"]) == (2, 2)
    assert [row["case"] for row in told["worst"]] == [1, 0]
    assert told["false_positives"] == [{"case": 3, "voxels": 25, "ml": pytest.approx(0.05)}]
    assert told["tolerance"] == {"value": 2.0, "unit": "mm"} and "hd95_px" not in got


def test_a_lesion_that_is_not_outlined_at_all_counts_nought_and_has_no_distance():
    pairs = [(NOTHING, SQUARE), (SQUARE, SQUARE)]
    told = report(Outlines.of([compare(a, g, (1.0, 1.0, 1.0)) for a, g in pairs], [0, 1]), resamples=100)
    got = values(told)
    assert (got["dice"], got["nsd"], got["missed"], got["hd95_mm"]) == (0.5, 0.5, 0.5, 0)
    assert told["undefined"] == {"dice": 0, "iou": 0, "hd95_mm": 1, "nsd": 0}
    assert any("In one lesion case nothing is outlined" in note for note in told["notes"])
    assert told["worst"][0]["hd95"] is None


def test_the_slices_of_a_patient_are_pooled_before_the_overlap_of_the_patient():
    small = np.zeros((20, 20), bool)
    small[0, 0] = True
    pairs = [(SQUARE, SQUARE), (NOTHING, small), (small, NOTHING), (np.roll(SQUARE, 2, 1), SQUARE)]
    told = report(Outlines.of([compare(a, g) for a, g in pairs], [7, 7, 7, 8]), resamples=100)
    got = values(told)
    assert got["dice"] == pytest.approx((1 + 0 + 0.6) / 3)
    assert got["patient_dice"] == pytest.approx((2 * 25 / (26 + 26) + 0.6) / 2)
    assert got["patient_iou"] == pytest.approx((25 / 27 + 15 / 35) / 2)


def test_volumes_in_millilitres_by_hand():
    bigger = SQUARE.copy()
    bigger[10, 5:10] = True
    smaller = SQUARE.copy()
    smaller[5:7] = False
    pairs = [(bigger, SQUARE), (smaller, SQUARE)]
    got = values(report(Outlines.of([compare(a, g, (10.0, 1.0, 1.0)) for a, g in pairs], [0, 1]), resamples=50))
    assert got["volume_ml"] == pytest.approx(0.25)
    assert got["volume_difference_ml"] == pytest.approx((0.05 - 0.1) / 2)
    assert got["volume_error_ml"] == pytest.approx((0.05 + 0.1) / 2)


def test_without_spacing_distances_and_sizes_are_told_in_pixels_and_a_note_says_so():
    cases = [compare(np.roll(SQUARE, 2, 1), SQUARE), compare(np.roll(SQUARE, 2, 1), SQUARE, (None, 0.5, 0.5))]
    told = report(Outlines.of(cases, [0, 1]), resamples=50)
    got = values(told)
    assert (got["hd95_px"], got["hd95_mm"]) == (pytest.approx(2.0), pytest.approx(1.0))
    assert got["volume_ml"] is None and got["size_px"] == 25 and got["area_mm2"] == pytest.approx(6.25)
    assert told["tolerance"]["unit"] == "mm or px"
    assert any("One lesion case does not say how large a voxel is" in note for note in told["notes"])


def test_intervals_hold_the_value_and_pool_by_patient():
    told = report(made(), resamples=400)
    for name in ("dice", "iou", "nsd", "patient_dice", "false_positive_rate"):
        figure = told["metrics"][name]
        assert figure["low"] < figure["value"] < figure["high"], name
    assert told["quartiles"]["dice"] == sorted(told["quartiles"]["dice"])
    apart = report(Outlines(**{**made().arrays(), "patients": np.arange(60)}), resamples=400)
    assert apart["metrics"]["dice"]["value"] == told["metrics"]["dice"]["value"]


def test_a_case_that_weighs_three_counts_like_three_cases():
    found = made(3, patients=60)
    figures, _ = outlines._figures(found)
    weights = np.random.default_rng(0).integers(0, 4, (3, 60))
    weighed = figures(weights.astype(float))
    for row, times in enumerate(weights):
        again = {name: np.repeat(array, times, axis=0) for name, array in found.arrays().items()}
        again["patients"] = np.arange(times.sum())
        counted = outlines._figures(Outlines(**again))[0](np.ones((1, times.sum())))
        for name, value in counted.items():
            assert weighed[name][row] == pytest.approx(value[0], nan_ok=True), name


def test_outlines_that_always_fit_are_no_certainty():
    told = report(Outlines.of([compare(SQUARE, SQUARE)] * 12, np.arange(12) // 2), resamples=50)
    assert told["metrics"]["dice"] == {"value": 1.0, "low": pytest.approx(0.025 ** (1 / 6)), "high": 1.0}
    assert told["metrics"]["hd95_px"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert told["metrics"]["missed"]["high"] == pytest.approx(1 - 0.025 ** (1 / 6))


@pytest.mark.parametrize("cases", [[], [(NOTHING, NOTHING)], [(SQUARE, NOTHING)]])
def test_without_lesions_overlap_is_none_and_said_in_words(cases: list):
    told = report(Outlines.of([compare(a, g) for a, g in cases], np.arange(len(cases))), resamples=20)
    json.dumps(told, allow_nan=False)
    assert told["metrics"]["dice"] == {"value": None, "low": None, "high": None}
    assert any("No case here has a lesion" in note for note in told["notes"])


def test_a_95_percent_interval_of_dice_covers_the_truth_about_95_times_in_a_hundred():
    random, trials, covered = np.random.default_rng(0), 200, 0
    for _ in range(trials):
        good = np.repeat(random.beta(6, 2, 40), 3)  # three alike slices of each of 40 patients
        given = np.full(120, 100.0)
        both = good * 100
        nan = np.full(120, math.nan)
        numbers = (both, given, given, nan, nan, nan == 0, nan, nan, nan, np.repeat(np.arange(40), 3))
        dice = report(Outlines(*numbers), resamples=200)["metrics"]["dice"]
        covered += dice["low"] <= 6 / 8 <= dice["high"]
    assert 0.9 <= covered / trials <= 0.985, covered / trials


def test_the_arrays_make_the_same_report_again():
    found = made()
    again = Outlines.from_arrays({**found.arrays(), "more": np.zeros(1)})
    assert report(again, resamples=20) == report(found, resamples=20)


def test_scores_while_learning_leave_out_pictures_without_a_lesion():
    told = scores([SQUARE, np.roll(SQUARE, 2, 1), SQUARE], [SQUARE, SQUARE, NOTHING])
    assert told == {"dice": pytest.approx(0.8), "iou": pytest.approx((1 + 15 / 35) / 2)}
    assert scores([SQUARE], [NOTHING]) == {}


def test_two_thousand_resamples_of_five_hundred_cases_take_seconds():
    random = np.random.default_rng(0)
    counts = random.integers(1, 100, (3, 500)).astype(float)
    ones = np.ones(500)
    numbers = (counts.min(0), *counts[1:], *random.random((2, 500)), ones > 0, ones, ones, ones, np.arange(500))
    found = Outlines(*numbers)
    began = time.process_time()
    report(found)
    assert time.process_time() - began < 4
