"""Figures of pictures: by hand, equal to torchmetrics, beside filters that do what they say; noise and edges."""

from __future__ import annotations

import json
import math
import time

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from builder.measures import baselines as filters
from builder.measures import texture
from builder.measures.baselines import baselines, bicubic, filtered, noise_level, non_local_means, psnr, settle
from builder.measures.pictures import Pictures, compare, report, scores, ssim

SOFT, LUNG = (-160.0, 240.0), (-1350.0, 150.0)
WINDOWS = {"ct soft tissue": SOFT, "ct lung": LUNG}


def body(side: int = 128, blur: float = 0.8) -> np.ndarray:
    """A phantom in HU: air, tissue, a bone and a vessel."""
    row, column = np.ogrid[:side, :side]
    made = np.where((row - side / 2) ** 2 + (column - side / 2) ** 2 < (0.42 * side) ** 2, 50.0, -1000.0)
    made[side // 4 : side // 4 + side // 8, side // 3 : side // 3 + side // 8] = 400
    made[(row - 0.6 * side) ** 2 + (column - 0.6 * side) ** 2 < (0.07 * side) ** 2] = 120
    return gaussian_filter(made, blur)


def noisy(sigma: float = 30.0, seed: int = 0, side: int = 128) -> np.ndarray:
    return body(side) + np.random.default_rng(seed).normal(0, sigma, (side, side))


def told_of(seeds: range, patients: int = 6) -> Pictures:
    pictures = []
    for seed in seeds:
        source = noisy(seed=seed, side=128)
        output = gaussian_filter(source, 0.9)
        made = {"output": output, "input": source, "gaussian": gaussian_filter(source, 0.5)}
        pictures.append(compare(made, body(128), WINDOWS, 0.7))
    who = np.arange(len(pictures)) % patients
    return Pictures.of(pictures, who, ("output", "input", "gaussian"), WINDOWS, {"gaussian": 0.5})


# -- one picture ------------------------------------------------------------------------------------------------------


def test_figures_by_hand():
    target = np.zeros((4, 4))
    made = {"output": target + 2, "input": target - 40}
    told = compare(made, target, {"narrow": (-10.0, 10.0), "wide": (-100.0, 100.0)})
    assert told["psnr_db"] == pytest.approx(np.array([[20.0, 40.0], [20 * math.log10(2), 20 * math.log10(5)]]))
    assert told["rmse"].tolist() == [2, 40] and told["bias"].tolist() == [2, -40]
    assert np.isnan(told["ssim"]).all(), "smaller than its Gaussian"
    assert np.isnan(told["noise_std"]).all() and np.isnan(told["edge_px"]).all() and np.isnan(told["pixel_mm"])


def test_padding_around_a_scan_makes_no_figure_better():
    """The same errors with as much padding beside them, which every way has right, are the same figures."""
    target, poor = body(96), noisy(seed=3, side=96)
    alone = compare({"output": poor, "input": poor}, target, WINDOWS)
    wide, made = np.full((96, 192), -2000.0), np.full((96, 192), -2000.0)
    wide[:, :96], made[:, :96] = target, poor
    inside = np.arange(192) < 96
    told = compare({"output": made, "input": made}, wide, WINDOWS, counted=np.tile(inside, (96, 1)))
    for name in ("psnr_db", "rmse", "bias"):
        assert told[name] == pytest.approx(alone[name]), name
    assert told["ssim"] == pytest.approx(alone["ssim"], abs=0.02)  # it looks 5 px around, also at the border
    assert compare({"output": made, "input": made}, wide, WINDOWS)["ssim"][0, 0] > told["ssim"][0, 0] + 0.05


def test_psnr_and_ssim_equal_those_of_torchmetrics_within_the_window():
    target, source = body(), noisy()
    for low, high in WINDOWS.values():
        pair = [torch.from_numpy(np.clip(p, low, high) - low)[None, None] / (high - low) for p in (source, target)]
        theirs = float(peak_signal_noise_ratio(*pair, data_range=1.0))  # type: ignore[arg-type, misc]
        assert psnr(source, target, (low, high)) == pytest.approx(theirs, abs=1e-4)
        likeness = float(structural_similarity_index_measure(*pair, data_range=1.0))  # type: ignore[arg-type, misc]
        assert ssim(source[None], target[None], (low, high)) == pytest.approx(likeness, abs=1e-9)
    random = np.random.default_rng(0)
    colours = [gaussian_filter(random.random((3, 40, 50)), (0, 1, 1)) for _ in range(2)]
    pair = [torch.from_numpy(p)[None] for p in colours]
    likeness = float(structural_similarity_index_measure(*pair, data_range=1.0))  # type: ignore[arg-type, misc]
    assert ssim(colours[0], colours[1], (0.0, 1.0)) == pytest.approx(likeness, abs=1e-9)


def test_pictures_that_are_the_same_have_a_hundred_decibels_and_a_note_says_so():
    same = compare({"output": body(), "input": noisy()}, body(), WINDOWS)
    assert same["psnr_db"][0].tolist() == [100, 100] and same["ssim"][0] == pytest.approx([1, 1])
    told = report(Pictures.of([same], [0], ("output", "input"), WINDOWS), resamples=10)
    assert any("PSNR counts 100 dB" in note for note in told["notes"]) and told["best_baseline"] is None
    assert "psnr_gain_best_db" not in told["metrics"]


@pytest.mark.parametrize(
    ("made", "windows", "words"),
    [
        ({"output": np.zeros((4, 5)), "input": np.zeros((4, 4))}, WINDOWS, "expected the same"),
        ({"output": np.full((4, 4), np.nan), "input": np.zeros((4, 4))}, WINDOWS, "not finite"),
        ({"output": np.zeros((4, 4))}, WINDOWS, "'input' is missing"),
        ({"output": np.zeros(4), "input": np.zeros((4, 4))}, WINDOWS, "expected .channels, rows, columns."),
        ({"output": np.zeros((4, 4)), "input": np.zeros((4, 4))}, {"w": (5.0, 5.0)}, "expected the low end first"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_words(made: dict, windows: dict, words: str):
    with pytest.raises(ValueError, match=words):
        compare(made, np.zeros((4, 4)), windows)


# -- filters ----------------------------------------------------------------------------------------------------------


def test_non_local_means_is_the_sum_that_its_paper_writes():
    random = np.random.default_rng(0)
    picture, sigma, strength = random.normal(0, 1, (20, 21)), 0.8, 0.9
    margin = 11
    padded = np.pad(picture, margin, mode="reflect")
    expected = np.zeros_like(picture)
    for row, column in np.ndindex(picture.shape):
        y, x = row + margin, column + margin
        mine = padded[y - 2 : y + 3, x - 2 : x + 3]
        total = weight = 0.0
        for down in range(-6, 7):
            for right in range(-6, 7):
                theirs = padded[y + down - 2 : y + down + 3, x + right - 2 : x + right + 3]
                alike = math.exp(-max(((mine - theirs) ** 2).mean() - 2 * sigma**2, 0) / (strength * sigma) ** 2)
                total, weight = total + alike * padded[y + down, x + right], weight + alike
        expected[row, column] = total / weight
    assert non_local_means(picture, strength, sigma) == pytest.approx(expected, abs=1e-5)


def test_the_noise_of_a_picture_is_estimated():
    assert noise_level(noisy(30.0, side=256)) == pytest.approx(30, rel=0.05)
    padded = np.pad(noisy(30.0, side=256), 200, constant_values=-1000.0)
    assert noise_level(padded) == pytest.approx(30, rel=0.05), "padding has no noise"
    assert noise_level(np.zeros((8, 8))) == 0 and (non_local_means(np.zeros((8, 8)), 1.0) == 0).all()


def test_each_filter_is_given_the_setting_that_serves_it_best_on_validation_pictures():
    sources, targets = [noisy(seed=k, side=64)[None] for k in range(3)], [body(64)[None]] * 3
    chosen = settle(sources, targets, SOFT)
    assert set(chosen) == set(filters.SETTINGS)
    test, true = noisy(seed=9, side=64)[None], body(64)[None]
    for name, setting in chosen.items():
        best = {s: np.mean([psnr(filtered(p, name, s), true, SOFT) for p in sources]) for s in filters.SETTINGS[name]}
        assert setting == max(best, key=lambda s: best[s])
        assert psnr(filtered(test, name, setting), true, SOFT) > psnr(test, true, SOFT) + 1, name
    made = baselines(test, chosen)
    assert list(made) == ["input", *chosen] and all(picture.shape == (1, 64, 64) for picture in made.values())
    assert (made["input"] == test).all()
    assert filters.described("gaussian", 0.8) == "sigma 0.8 px" and filters.described("median", 3) == "3 x 3 px"


def test_enlarging_is_compared_with_repeated_pixels_and_bicubic():
    small = body(128)[None, ::2, ::2]
    chosen = settle([small], [body(128)[None]], SOFT, scale=2)
    made = baselines(small, chosen, scale=2)
    assert list(made) == ["input", "bicubic"] and made["bicubic"].shape == made["input"].shape == (1, 128, 128)
    assert (made["input"][0, ::2, 1::2] == small).all()
    ramp = np.add.outer(np.arange(8.0), 2 * np.arange(8.0))[None]
    inner = (slice(None), slice(6, 10), slice(6, 10))
    expected = np.add.outer((np.arange(16) - 0.5) / 2, np.arange(16) - 0.5)[None]
    assert bicubic(ramp, 2)[inner] == pytest.approx(expected[inner], abs=1e-5), "a plane stays a plane, in place"


def test_an_unknown_filter_is_refused_by_name():
    with pytest.raises(ValueError, match="no filter 'wiener'"):
        filtered(np.zeros((1, 4, 4)), "wiener", 1.0)


# -- noise and edges --------------------------------------------------------------------------------------------------


def test_white_noise_has_a_flat_power_whose_sum_is_its_variance():
    random = np.random.default_rng(0)
    picture = random.normal(0, 5, (512, 512)) + np.add.outer(np.arange(512.0), np.arange(512.0))  # on a slope
    squares = texture.flat_squares(np.zeros((512, 512)), picture, (-1.0, 1.0), 200)
    power = texture.noise_power(picture, squares)
    assert power[1:] == pytest.approx(25, rel=0.1)
    assert texture.noise_std(picture, squares) == pytest.approx(5, rel=0.02)
    assert texture.mean_frequency(power) == pytest.approx(texture.FREQUENCIES.mean(), rel=0.03)


def test_blurring_takes_the_fine_noise_first_as_its_transfer_function_says():
    picture = np.random.default_rng(0).normal(0, 5, (512, 512))
    squares = texture.flat_squares(np.zeros((512, 512)), picture, (-1.0, 1.0), 200)
    before = texture.noise_power(picture, squares)
    after = texture.noise_power(gaussian_filter(picture, 1.0), squares)
    transfer = np.exp(-2 * (math.pi * texture.FREQUENCIES) ** 2) ** 2
    assert (after / before)[2:8] == pytest.approx(transfer[2:8], rel=0.12)
    assert texture.mean_frequency(after) < 0.6 * texture.mean_frequency(before)


def test_flat_squares_lie_where_the_true_picture_is_flat_and_not_in_the_padding():
    target = np.pad(body(128), 64, constant_values=-1000.0)
    source = np.pad(noisy(), 64, constant_values=-1000.0)
    squares = texture.flat_squares(target, source)
    assert squares
    for top, left in squares:
        assert np.ptp(source[top : top + 32, left : left + 32]) > 0
        assert np.ptp(target[top : top + 32, left : left + 32]) < 60
    assert texture.flat_squares(np.zeros((20, 20)), noisy(side=20)) == []
    assert texture.flat_squares(body(64), noisy(side=64)) == [], "a square across the skin is no flat one"


def test_noise_of_the_true_picture_itself_leaves_its_squares_flat():
    random = np.random.default_rng(0)
    grainy = gaussian_filter(random.normal(0, 30, (256, 256)), 0.8)  # about 10 HU, correlated as in CT
    target = body(256) + grainy
    source = target + gaussian_filter(random.normal(0, 40, (256, 256)), 0.8)
    squares = texture.flat_squares(target, source)
    assert len(squares) >= 6
    assert all(np.ptp(body(256)[top : top + 32, left : left + 32]) < 20 for top, left in squares)
    assert texture.noise_std(target, squares) == pytest.approx(grainy.std(), rel=0.1)


@pytest.mark.parametrize("blur", [1.0, 1.5, 2.0])
def test_the_width_of_an_edge_is_that_of_its_blur(blur: float):
    row, column = np.ogrid[:128, :128]
    sharp = np.where(row + 0.3 * column > 80, 100.0, 0.0)
    target, output = gaussian_filter(sharp, 0.7), gaussian_filter(sharp, blur)
    edges = texture.strong_edges(target)
    assert len(edges[0]) >= 10
    width = texture.edge_width(output, target, edges)
    assert width == pytest.approx(
        2 * 1.2816 * math.hypot(blur, 0.4), rel=0.08
    )  # pixels and interpolation add about 0.4
    noise = np.random.default_rng(0).normal(0, 10, target.shape)
    assert texture.edge_width(output + noise, target, edges) == pytest.approx(width, rel=0.15), "noise is averaged away"
    lighter = 0.5 * output + 20
    assert texture.edge_width(lighter, target, edges) == pytest.approx(width, rel=1e-6), "contrast is no sharpness"


def test_edges_to_the_padding_count_only_where_there_are_few_others():
    scan = gaussian_filter(np.kron(np.indices((5, 5)).sum(0) % 2 * 100.0, np.ones((32, 32))), 1.5)
    scan += np.linspace(0, 20, 160)
    padded = np.pad(scan, 40, constant_values=-3000.0)
    width = texture.edge_width(padded, padded, texture.strong_edges(padded))
    assert width == pytest.approx(2 * 1.2816 * math.hypot(1.5, 0.4), rel=0.08), "not the step to the padding"
    alone = np.pad(np.zeros((60, 60)), 40, constant_values=-3000.0)
    assert texture.edge_width(alone, alone, texture.strong_edges(alone)) < 2


def test_noise_is_read_in_what_the_window_shows():
    target, source = body(256), noisy(side=256)
    everywhere = texture.flat_squares(target, source, most=200)
    assert any(target[t : t + 32, c : c + 32].mean() < -900 for t, c in everywhere)
    shown = texture.flat_squares(target, source, SOFT)
    assert shown and all(SOFT[0] < target[t : t + 32, c : c + 32].mean() < SOFT[1] for t, c in shown)


def test_a_flat_picture_has_no_edge():
    assert len(texture.strong_edges(np.zeros((64, 64)))[0]) == 0
    assert math.isnan(
        texture.edge_width(np.zeros((64, 64)), np.zeros((64, 64)), texture.strong_edges(np.zeros((64, 64))))
    )


# -- the report -------------------------------------------------------------------------------------------------------


def test_the_report_tells_every_way_beside_the_output():
    found = told_of(range(12))
    told = report(found, resamples=200, unit="HU")
    json.dumps(told, allow_nan=False)
    values = {name: figure["value"] for name, figure in told["metrics"].items()}
    soft = told["windows"]["ct soft tissue"]
    assert soft["data_range"] == 400 and told["best_baseline"] == "gaussian" and told["unit"] == "HU"
    assert (
        values["psnr_db"] == pytest.approx(found.psnr_db[:, 0, 0].mean()) == soft["ways"]["output"]["psnr_db"]["value"]
    )
    gain = found.psnr_db[:, 0, 0] - found.psnr_db[:, 1, 0]
    assert values["psnr_gain_db"] == pytest.approx(gain.mean()) == soft["ways"]["input"]["gain_db"]["value"]
    over_best = (found.psnr_db[:, 0, 0] - found.psnr_db[:, 2, 0]).mean()
    assert values["psnr_gain_best_db"] == pytest.approx(over_best)
    lung = told["windows"]["ct lung"]["ways"]["gaussian"]["psnr_db"]["value"]
    assert lung == pytest.approx(found.psnr_db[:, 2, 1].mean())
    assert values["noise_ratio"] == pytest.approx(found.noise_std[:, 0].mean() / found.noise_std[:, 1].mean())
    assert values["noise_ratio"] < 0.6 and values["edge_ratio"] > 1.1
    assert values["edge_mm"] == pytest.approx(0.7 * values["edge_px"])
    assert told["ways"]["gaussian"]["setting"] == "sigma 0.5 px" and told["ways"]["true"]["rmse"]["value"] is None
    assert told["ways"]["input"]["noise_frequency"]["value"] > values["noise_frequency"]
    assert len(told["noise_power"]["ways"]["true"]) == len(told["noise_power"]["cycles_per_px"])
    for name in ("psnr_db", "ssim", "rmse", "bias", "psnr_gain_db"):
        figure = told["metrics"][name]
        assert figure["low"] < figure["value"] < figure["high"], name
    assert told["worst"][0]["gain_db"] == pytest.approx(gain.min(), abs=1e-5)
    assert told["quartiles"]["psnr_db"] == sorted(told["quartiles"]["psnr_db"])


def test_a_bias_that_never_changes_keeps_its_value_as_interval_and_one_patient_has_none():
    pictures = [compare({"output": body(64) + 3, "input": noisy(seed=k, side=64)}, body(64), WINDOWS) for k in range(3)]
    several = report(Pictures.of(pictures, [0, 1, 2], ("output", "input"), WINDOWS), resamples=50)["metrics"]["bias"]
    assert several == {"value": pytest.approx(3), "low": pytest.approx(3), "high": pytest.approx(3)}
    alone = report(Pictures.of(pictures, [7, 7, 7], ("output", "input"), WINDOWS), resamples=50)["metrics"]["bias"]
    assert alone == {"value": pytest.approx(3), "low": None, "high": None}


def test_a_picture_that_weighs_three_counts_like_three_pictures():
    from builder.measures.pictures import _best_filter, _figures

    found = told_of(range(8))
    weights = np.random.default_rng(0).integers(0, 4, (3, 8))
    weighed = _figures(found, _best_filter(found))(weights.astype(float))
    alike = {"ways", "windows", "bounds", "settings"}
    for row, times in enumerate(weights):
        again = {k: v if k in alike else np.repeat(v, times, axis=0) for k, v in found.arrays().items()}
        counted = _figures(Pictures(**again), 2)(np.ones((1, times.sum())))
        for name, value in counted.items():
            assert weighed[name][row] == pytest.approx(value[0], nan_ok=True), name


def test_small_pictures_are_told_without_what_needs_room():
    pictures = [compare({"output": np.ones((8, 8)), "input": np.zeros((8, 8))}, np.eye(8), {"all": (0.0, 1.0)})] * 2
    told = report(Pictures.of(pictures, [0, 1], ("output", "input"), {"all": (0.0, 1.0)}), resamples=20)
    json.dumps(told, allow_nan=False)
    for name in ("ssim", "noise_std", "noise_ratio", "noise_frequency", "edge_px", "edge_mm", "edge_ratio"):
        assert told["metrics"][name]["value"] is None, name
    assert len(told["notes"]) == 4
    nothing = report(Pictures.of([], [], ("output", "input"), WINDOWS), resamples=20)
    assert nothing["metrics"]["psnr_db"]["value"] is None and nothing["n"] == 0
    json.dumps(nothing, allow_nan=False)


def test_the_arrays_make_the_same_report_again():
    found = told_of(range(3))
    again = Pictures.from_arrays({**found.arrays(), "more": np.zeros(1)})
    assert report(again, resamples=20) == report(found, resamples=20)


def test_scores_while_learning_are_those_of_whole_pictures_from_nought_to_one():
    random = np.random.default_rng(0)
    target = gaussian_filter(random.random((1, 40, 40)), (0, 2, 2))
    output = target + 0.1
    told = scores([output, target], [target, target])
    assert told["psnr_db"] == pytest.approx((20 + 100) / 2) and told["rmse"] == pytest.approx(0.05)
    assert told["ssim"] < 1
    assert set(scores([output[:, :5]], [target[:, :5]])) == {"psnr_db", "rmse"} and scores([], []) == {}


def test_a_picture_of_a_hospital_size_is_compared_in_seconds():
    target, source = body(512), noisy(side=512)
    made = {"output": source, "input": source, "gaussian": source}
    began = time.process_time()
    compare(made, target, WINDOWS)
    assert time.process_time() - began < 4
