"""Image enhancement from patches to whole scans: what is cut, learned, given back, and how it is judged."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import little_run
import made_files
import numpy as np
import pytest
import taken_away
import torch

from builder import batches, checkpoint, scans, task, tiling
from builder.augment import Augment
from builder.batches import Scans
from builder.catalog import OneOf
from builder.check import problems
from builder.data import Dataset
from builder.degrade import CT_LOW_HU, CT_RANGE_HU, degrade
from builder.evaluate import evaluate
from builder.export import export
from builder.grain import own_grain
from builder.lessons import lesson
from builder.network import plan_of
from builder.opinion import OpinionRefused, second_opinion
from builder.parts.training import LOSSES
from builder.predict import Predictor
from builder.restored import restored
from builder.runs import Resumed, Run
from builder.scan import NAMED_WINDOWS, Scan, display, grey_range
from builder.spec import Choice, Data, Experiment
from builder.targets import Target, Targets
from builder.task import TASKS
from builder.train import train
from tasks.enhancement_starters import write_clean

pytestmark = pytest.mark.usefixtures("warm_children")

KIND = task.find("image_enhancement")
NOISE = Choice(name="noise", params={"dark": 0.03, "bright": 0.05})
CPU = torch.device("cpu")


def starter(name: str = "dncnn") -> Experiment:
    return next(e for e in KIND.starters() if e.name == name)


def hounsfield(picture: torch.Tensor) -> np.ndarray:
    """(H, W) HU of a picture (1, H, W) in [0, 1] under the window "ct full"."""
    return picture[0].numpy() * np.float32(CT_RANGE_HU) + np.float32(CT_LOW_HU)


def small(**changes: Any) -> Experiment:
    """Three convolutions on patches of 24 px: seconds to learn."""
    experiment = starter()
    kept = [n for n in experiment.network if n.id in ("layer_1", "layer_2", "layer_3", "layer_4", "layer_5", "picture")]
    kept[-1] = kept[-1].model_copy(update={"inputs": ("layer_5", "input")})
    experiment = experiment.replace("network", kept)
    values = {"data.size_px": 24, "data.num_patches": 8, "data.degrade": NOISE, "training.epochs": 8, **changes}
    for path, value in values.items():
        experiment = experiment.replace(path, value)
    return experiment


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def clean(home, tmp_path_factory) -> Dataset:
    folder = tmp_path_factory.mktemp("clean")
    write_clean(folder, 3, 36, 48)
    return little_run.imported(home, folder, name="clean", synthetic=True, task="image_enhancement")


@pytest.fixture(scope="module")
def run(home, clean) -> Run:
    return little_run.trained(home, small(), clean)


@pytest.fixture(scope="module")
def pairs(home, tmp_path_factory) -> Dataset:
    """Sixteen pairs: a noisy picture and the good one; sizes differ from pair to pair."""
    folder, rng = tmp_path_factory.mktemp("pairs"), np.random.default_rng(1)
    with_sizes = [(40, 48), (48, 40)]
    from PIL import Image

    with open(folder / "pairs.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("file", "target", "patient"))
        for k in range(16):
            good = made_files.texture(k, with_sizes[k % 2]).astype(np.uint16) * 200
            poor = np.clip(good + rng.normal(0, 1500, good.shape), 0, 65535).astype(np.uint16)
            Image.fromarray(good).save(folder / f"good-{k}.png")
            Image.fromarray(poor).save(folder / f"poor-{k}.png")
            rows.writerow((f"poor-{k}.png", f"good-{k}.png", f"p{k}"))
    _, dataset = made_files.imported(folder / "pairs.csv", home, "csv", name="pairs", task="image_enhancement")
    return dataset


# ---- starters and the network's end ----


@pytest.mark.parametrize("experiment", KIND.starters(), ids=lambda e: e.name)
def test_every_starter_ends_in_the_picture_that_the_task_needs(experiment):
    planned = plan_of(experiment, 0)
    assert [n.message for n in planned.nodes if n.message] == []
    assert planned.output == KIND.head(experiment.data, 0)
    assert len(KIND.when[experiment.name]) > 100
    assert set(KIND.demos.values()) <= {e.name for e in KIND.starters()}


def test_a_network_that_ends_in_something_else_is_told_so_and_mended(clean):
    wrong = small(**{"data.dataset": clean.id}).remove("picture")
    (found,) = [p for p in problems(wrong, clean.fingerprint) if p.severity == "error"]
    assert "picture" in found.message and found.fix is not None
    assert [p for p in problems(found.fix, clean.fingerprint) if p.severity == "error"] == []
    finer = small(**{"data.dataset": clean.id, "data.degrade": Choice(name="downsample"), "data.size_px": 16})
    (found,) = [p for p in problems(finer, clean.fingerprint) if p.severity == "error"]
    assert "2 times finer" in found.message and found.fix is not None
    assert plan_of(found.fix, 0).output == (1, 32, 32)


# ---- patches ----


def test_patches_are_cut_where_the_corners_say_and_only_inside_each_rows_own_picture(pairs):
    data = small(**{"data.degrade": Choice(name="none"), "data.num_patches": 3}).data
    prepared = pairs.prepared(data)
    assert prepared.images.shape == (16, 1, 48, 48)
    targets = Targets(pairs, data, prepared, np.arange(16), ("picture",))
    found = Scans(prepared, targets, CPU)
    assert len(found.indices) == 48
    chance = torch.Generator().manual_seed(7)
    for _ in range(20):
        images, target = found.batch(np.arange(48), chance)
        assert target.pictures is not None
        assert images.shape == target.pictures.shape == (48, 1, 24, 24)
        assert (images > 0).float().mean() > 0.9  # the canvas beyond a picture is black
    corners = np.array([[3, 5], [24, 11]])
    cut = prepared.patches([4, 4], corners, 24)
    for patch, (top, left) in zip(cut, corners, strict=True):
        assert np.array_equal(patch[0], prepared.images[4, 0, top : top + 24, left : left + 24])
    with pytest.raises(ValueError, match="beyond"):
        prepared.patches([4], np.array([[25, 0]]), 24)


def test_the_good_picture_of_a_pair_is_cut_at_the_same_place_with_the_same_grey_values(pairs):
    data = small(**{"data.degrade": Choice(name="none"), "data.num_patches": 1}).data
    targets = Targets(pairs, data, pairs.prepared(data), np.arange(16), ("picture",))
    images, target = Scans(targets.prepared, targets, CPU).batch(np.arange(16), torch.Generator().manual_seed(1))
    assert target.pictures is not None and targets.goals is not None
    apart = (images - target.pictures).abs() * 65535
    assert 600 < apart.mean() < 1800  # noise of 1500, nothing else: another place would differ by thousands
    scan, good = pairs.scan(0), pairs.target(0)
    assert good is not None
    exact = targets.goals.images[0, 0, : scan.pixels.shape[2], : scan.pixels.shape[3]]
    assert np.array_equal(exact, good.pixels[0, 0])


def test_validation_patches_stay_the_same_and_training_patches_do_not(clean):
    data = small().data
    targets = Targets(clean, data, clean.prepared(data), clean.indices("train"), ("picture",))
    found = Scans(targets.prepared, targets, CPU)
    first, second = found.batch(np.arange(8))[0], found.batch(np.arange(8))[0]
    assert torch.equal(first, second)
    assert torch.equal(first, Scans(targets.prepared, targets, CPU).batch(np.arange(8))[0])
    chance = torch.Generator().manual_seed(1)
    assert not torch.equal(found.batch(np.arange(8), chance)[0], found.batch(np.arange(8), chance)[0])


def test_super_resolution_cuts_squares_as_many_times_as_large(clean):
    data = small(**{"data.degrade": Choice(name="downsample", params={"scale": 2}), "data.size_px": 16}).data
    targets = Targets(clean, data, clean.prepared(data), clean.indices("train"), ("picture",))
    images, target = Scans(targets.prepared, targets, CPU).batch(np.arange(4))
    experiment = small(**{"data.degrade": data.degrade, "data.size_px": 16})
    poor, posed = KIND.pose(experiment, images, target)
    assert posed.pictures is not None
    assert images.shape[-1] == 32 and poor.shape[-1] == 16 and torch.equal(posed.pictures, images)


def test_patches_larger_than_a_scan_are_refused_in_words_with_a_size_that_fits(clean):
    found = [p for p in problems(small(**{"data.size_px": 64, "data.dataset": clean.id}), clean.fingerprint)]
    (wrong,) = [p for p in found if p.path == "data.size_px"]
    assert "48 x 48" in wrong.message and wrong.fix is not None and wrong.fix.data.size_px == 48


@pytest.mark.parametrize("slices", ["series", "volume"])
def test_whole_volumes_are_refused_with_the_reason_and_the_way_that_is_there(slices):
    (found,) = [p for p in problems(small(**{"data.slices": slices})) if p.path == "data.slices"]
    assert "slice by slice" in found.message and "none is for volumes yet" in found.message
    assert found.repair == "Use each" and found.fix is not None and found.fix.data.slices == "each"


# ---- learning ----


def test_training_lifts_the_psnr_well_over_that_of_the_input(home, run):
    told = evaluate(run, home, "test", resamples=100)
    assert told["metrics"]["psnr_gain_db"]["value"] > 2.0
    assert told["metrics"]["psnr_gain_db"]["low"] > 1.0


def test_a_stopped_run_with_patches_and_noise_goes_on_bit_for_bit(tmp_path, clean):
    experiment = small(**{"data.dataset": clean.id, "training.epochs": 2, "data.num_patches": 1})

    def events(folder: str, **options: Any) -> list[Any]:
        (tmp_path / folder).mkdir(exist_ok=True)
        return list(train(experiment, KIND, clean, tmp_path / folder, device="cpu", **options))

    events("straight")
    count = 0

    def third() -> bool:
        nonlocal count
        count += 1
        return count == 2

    events("broken", stop=third)
    again = events("broken")
    assert [e.step for e in again if isinstance(e, Resumed)] == [2]
    best = [checkpoint.load_weights(tmp_path / n / "best.safetensors").tensors for n in ("straight", "broken")]
    assert all(torch.equal(best[0][name], best[1][name]) for name in best[0])


def test_poor_and_good_pictures_of_a_pair_are_turned_alike():
    images = torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(2))
    augment = Augment([Choice(name="flip_horizontal", params={"probability": 0.5}),
                       Choice(name="flip_vertical", params={"probability": 0.5})])  # fmt: skip
    target = Target(pictures=images.repeat_interleave(2, -1).repeat_interleave(2, -2))
    moved, told = KIND.vary(small(), images, target, augment, torch.Generator().manual_seed(5))
    assert not torch.equal(moved, images) and told.pictures is not None
    assert torch.equal(told.pictures[..., ::2, ::2], moved)


@pytest.mark.parametrize("name", [n for n in KIND.losses if n != "usual"])
def test_every_loss_is_least_where_the_picture_is_the_good_one(name):
    part = LOSSES[name]
    good = torch.rand(2, 1, 24, 24, generator=torch.Generator().manual_seed(1))
    off = good + 0.1 * torch.randn(good.shape, generator=torch.Generator().manual_seed(2))
    right, wrong = (float(part.load()(x, good, **part.defaults)) for x in (good, off))
    assert right < wrong and right <= part.defaults.get("softness", 0.0) + 1e-6


def test_the_ssim_of_training_is_that_of_evaluation():
    from builder.measures.pictures import ssim as measured
    from builder.restoration import ssim

    good = torch.rand(1, 1, 40, 40, generator=torch.Generator().manual_seed(1))
    off = (good + 0.1 * torch.randn(good.shape, generator=torch.Generator().manual_seed(2))).clamp(0, 1)
    assert float(ssim(off, good)) == pytest.approx(measured(off[0].numpy(), good[0].numpy(), (0.0, 1.0)), abs=0.02)
    assert float(ssim(good, good)) == pytest.approx(1.0)


def test_to_the_loss_of_psnr_a_tenth_of_the_error_is_worth_the_same_in_quiet_and_noisy_scans():
    from builder.restoration import psnr

    good = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    error = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(2))
    ways = torch.tensor([[0.5, 0.05], [0.05, 0.05], [0.5, 0.005]]).view(3, 2, 1, 1, 1)
    both, noisy_better, quiet_better = (float(psnr(good + one * error, good, 1e-5)) for one in ways)
    assert both - noisy_better == pytest.approx(1.0, abs=1e-3) and both - quiet_better == pytest.approx(1.0, abs=1e-3)
    decibel = [-10 * np.log10(float((one**2).mean())) for one in (0.5 * error[0], 0.05 * error[1])]
    assert 10 * (10 - both) == pytest.approx(np.mean(decibel), abs=0.01)
    assert float(psnr(good, good, 1e-3)) == 0.0 and psnr(good.bfloat16(), good, 1e-3).dtype == torch.float32


def test_half_precision_leaves_the_ssim_as_it_is():
    from builder.restoration import l1_ssim, ssim

    good = torch.full((2, 1, 32, 32), 1.5)
    off = good + 0.02 * torch.randn(good.shape, generator=torch.Generator().manual_seed(2))
    whole = ssim(off, good, torch.tensor(4.0)), l1_ssim(off, good, 0.8)
    with torch.autocast("cpu", torch.bfloat16):
        half = ssim(off, good, torch.tensor(4.0)), l1_ssim(off, good, 0.8)
    assert float(whole[0].min()) > 0.95 and torch.equal(half[0], whole[0]) and torch.allclose(half[1], whole[1])
    assert ssim(off.double(), good.double()).dtype == torch.float64


# ---- whole scans ----


def predictor(run: Run) -> Predictor:
    return Predictor.open(run.folder)


def test_a_whole_scan_comes_out_the_same_however_it_is_cut(run):
    asked = predictor(run)
    picture = np.random.default_rng(2).random((1, 130, 111)).astype(np.float32)

    def through(cut: tiling.Cut) -> np.ndarray:
        net = asked._at(cut.side)

        def ask(tile: np.ndarray) -> np.ndarray:
            with torch.inference_mode():
                return net(asked.tensor(tile)).numpy()

        return tiling.whole(picture, ask, cut)

    own = asked.cut(130)
    assert own.exact and own.side >= 130
    one = through(own)
    many = through(tiling.Cut(48, own.margin, own.align, own.align, True))
    assert one.shape == (1, 130, 111)
    assert np.abs(one - many).max() < tiling.TOLERANCE * 10  # normalized values span about ten ranges
    assert np.abs(one - asked.answers([picture])[0]).max() < tiling.TOLERANCE
    blended = through(tiling.taught(48))
    assert np.abs(one - blended).max() < 0.1 and np.abs(one - blended)[:, 20:-20, 20:-20].mean() < 0.01


def test_tiles_that_do_nothing_give_the_picture_back():
    for height, width in ((20, 20), (100, 37), (24, 300)):
        picture = np.random.default_rng(1).random((3, height, width)).astype(np.float32)
        for cut in (tiling.Cut(24, 4, 4), tiling.Cut(48, 8, 8, 8), tiling.taught(32)):
            assert np.allclose(tiling.whole(picture, lambda tile: tile, cut), picture, atol=1e-6)
            twice = tiling.whole(picture, lambda tile: tile.repeat(2, -1).repeat(2, -2), cut, 2)
            assert np.allclose(twice, picture.repeat(2, -1).repeat(2, -2), atol=1e-6)


def test_a_network_that_looks_at_the_whole_tile_keeps_the_size_it_was_taught_with(run):
    asked = predictor(run)
    nodes = [*asked.experiment.network[:-1]]
    nodes.insert(1, nodes[0].model_copy(update={"id": "gate", "name": "squeeze_excite", "params": {}}))
    gated = replace(asked, experiment=asked.experiment.replace("network", [*nodes, asked.experiment.network[-1]]))
    assert gated.cut(300) == tiling.taught(24)


# ---- grey values ----


CT = Data(window="ct full", fit="patches", slices="each")
STORED = Data(window="stored range", fit="patches", slices="each")


def there_and_back(scan: Scan, data: Data, unit: int) -> np.ndarray:
    from builder.data import prepare, quantize

    pictures = [
        quantize(prepare(scan, data, k), unit).astype(np.float32) / np.float32(unit) for k in range(len(scan.pixels))
    ]
    return restored(scan, pictures, data).pixels


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
def test_every_hounsfield_unit_comes_back_exactly(photometric):
    pixels = np.arange(-1024, 3072, dtype=np.int16).reshape(1, 1, 64, 64)
    scan = Scan(pixels, bits=16, modality="CT", photometric=photometric)
    assert np.array_equal(there_and_back(scan, CT, 65535), pixels)
    assert grey_range(scan, "ct full") == (-1024.0, 3071.0)


@pytest.mark.parametrize(("kind", "bits", "unit"), [(np.uint8, 8, 255), (np.uint16, 12, 65535), (np.uint16, 16, 65535)])
def test_every_stored_value_comes_back_exactly(kind, bits, unit):
    pixels = np.linspace(0, 2**bits - 1, 64 * 64).round().astype(kind).reshape(1, 1, 64, 64)
    assert np.array_equal(there_and_back(Scan(pixels, bits=bits), STORED, unit), pixels)


def test_float_and_signed_values_come_back_within_a_step():
    pixels = np.random.default_rng(1).normal(0, 100, (2, 1, 32, 32)).astype(np.float32)
    step = (pixels.max() - pixels.min()) / 65535
    assert np.abs(there_and_back(Scan(pixels, bits=32), STORED, 65535) - pixels).max() <= step
    signed = pixels.astype(np.int16)
    assert np.array_equal(there_and_back(Scan(signed, bits=16), STORED, 65535), signed)


def test_what_the_window_cuts_off_and_padding_keep_their_values():
    pixels = np.full((1, 1, 8, 8), 40, np.int16)
    pixels[0, 0, 0] = (-3024, 5622, 3071, -1024, 0, 0, 0, 0)
    valid = np.ones((1, 8, 8), bool)
    valid[0, 7] = False
    scan = Scan(pixels, bits=16, modality="CT", valid=valid)
    back = restored(scan, [np.full((1, 8, 8), 0.5, np.float32)], CT)
    assert back.pixels[0, 0, 0, :2].tolist() == [-3024, 5622] and back.kept == 10
    assert (back.pixels[0, 0, 7] == 40).all() and back.pixels[
        0, 0, 3, 3
    ] == 1024  # the middle of -1024 to 3071, rounded
    finer = restored(scan, [np.full((1, 16, 16), 0.5, np.float32)], CT)
    assert finer.pixels.shape == (1, 1, 16, 16) and (finer.pixels[0, 0, :2, :2] == -3024).all()


def test_rounding_adds_no_bias():
    rng = np.random.default_rng(1)
    scan = Scan(rng.integers(-1000, 1000, (1, 1, 256, 256)).astype(np.int16), bits=16, modality="CT")
    answer = display(scan, "ct full")[0] + rng.normal(0, 0.01, (1, 256, 256)).astype(np.float32)
    exact = -1024.0 + 4095.0 * answer.astype(np.float64)
    assert abs(restored(scan, [answer], CT).pixels.mean() - exact.mean()) < 0.01


@pytest.mark.parametrize("window", scans.WINDOWS)
def test_the_range_told_of_a_window_is_the_one_it_shows(window):
    pixels = np.random.default_rng(1).integers(-1500, 4000, (1, 1, 32, 32)).astype(np.int16)
    scan = Scan(pixels, bits=16, modality="CT")
    low, high = grey_range(scan, window) or (0.0, 0.0)
    assert np.allclose(display(scan, window), np.clip((pixels - low) / (high - low), 0, 1), atol=1e-5)
    assert set(NAMED_WINDOWS) < set(scans.WINDOWS)


# ---- in use ----


def test_a_run_gives_back_every_slice_in_stored_values(run):
    good = np.stack([made_files.texture(k, (60, 44)).astype(np.uint16) * 150 for k in range(3)])[:, None]
    scan = Scan(good, bits=16)
    found = predictor(run).finding(scan)
    enhanced = found.found.enhanced
    assert enhanced is not None
    assert enhanced.shape == (3, 1, 60, 44) and enhanced.dtype == np.uint16
    assert set(found.found.facts) == {"mean_change_stored", "rms_change_stored"}
    assert any("estimate" in note for note in found.notes)
    assert found.plain()["enhanced"] == {"shape": [3, 1, 60, 44]} and found.probabilities == {}
    json.dumps(found.plain())


def test_a_finer_picture_has_the_scans_mean(home, clean):
    finer = small(**{
        "data.degrade": Choice(name="downsample"), "data.size_px": 16, "training.epochs": 1, "data.num_patches": 1,
        "network.picture.params.scale": 2,
    })  # fmt: skip
    run = little_run.trained(home, finer, clean)
    scan = Scan(made_files.texture(1, (30, 22)).astype(np.uint16)[None, None] * 150, bits=16)
    found = predictor(run).finding(scan)
    enhanced = found.found.enhanced
    assert enhanced is not None
    assert enhanced.shape == (1, 1, 60, 44) and found.found.facts["grid_px"] == [60, 44]
    assert enhanced.mean() == pytest.approx(scan.pixels.mean(), rel=0.2)
    told = evaluate(run, home, "test", resamples=50)
    assert told["best_baseline"] == "bicubic" and "output" in told["windows"]["all values"]["ways"]


def test_pairs_are_learned_from_and_judged(home, pairs):
    experiment = small(**{"data.degrade": Choice(name="none"), "training.epochs": 1, "data.num_patches": 2})
    assert [
        p for p in problems(experiment.replace("data.dataset", pairs.id), pairs.fingerprint) if p.severity == "error"
    ] == []
    run = little_run.trained(home, experiment, pairs)
    told = evaluate(run, home, "test", resamples=50)
    poor = [pairs.scan(k).pixels.astype(float) - pairs.target(k).pixels for k in pairs.indices("test")]
    assert told["ways"]["input"]["rmse"]["value"] == pytest.approx(
        np.mean([np.sqrt((p**2).mean()) for p in poor]), rel=1e-3
    )


def test_the_report_tells_the_network_beside_its_baselines(home, run):
    told = evaluate(run, home, "test", resamples=50)
    assert list(told["windows"]["all values"]["ways"]) == ["output", "input", "gaussian", "median", "non-local means"]
    for name in ("psnr_db", "ssim", "rmse", "bias", "psnr_gain_db", "psnr_gain_best_db", "edge_ratio", "noise_ratio"):
        assert set(told["metrics"][name]) == {"value", "low", "high"}
    assert told["examples"] and told["noise_power"]["ways"]["output"]
    json.dumps(told, allow_nan=False)
    with np.load(run.folder / "predictions-test.npz") as stored:
        poor, better, good = stored[told["examples"][0]]
        assert poor.shape == (48, 48)
        assert np.sqrt(((better - good) ** 2).mean()) < np.sqrt(((poor - good) ** 2).mean())


def test_ct_is_judged_in_two_windows_and_in_tissues():
    from tasks.enhancement_figures import _tissue_bias

    wanted = np.full((1, 64, 64), -800.0)
    wanted[:, 32:] = 40.0
    made = {"output": wanted + 2.0, "input": wanted - 1.0}
    assert np.allclose(_tissue_bias(made, wanted, np.ones((1, 64, 64), bool)), [[2, 2], [-1, -1]])


def test_a_bias_in_hounsfield_units_is_no_share(home, run):
    from tasks.enhancement_figures import report

    evaluate(run, home, "test", resamples=50)
    with np.load(run.folder / "predictions-test.npz") as stored:
        examined = dict(stored)
    shape = (len(examined["patients"]), len(examined["ways"]), 1)
    told = report({**examined, "tissues": np.array(["lung"]), "tissue_bias": np.zeros(shape)}, 50)
    assert told["metrics"]["bias_lung"] == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_a_diagnosis_run_is_asked_before_and_after(home, run, clean):
    judge = little_run.trained(
        home, little_run.starter().replace("training.epochs", 1).replace("data.size_px", 32), clean
    )
    scan = clean.scan(0)
    opinion = second_opinion(predictor(run), predictor(judge), scan)
    assert set(opinion.before) == set(opinion.after) == set(clean.classes)
    assert opinion.before == predictor(judge).finding(scan).probabilities
    assert opinion.changed == (opinion.top_before != opinion.top_after) and opinion.top_before in opinion.sentence()
    with pytest.raises(OpinionRefused, match="restores no scans"):
        second_opinion(predictor(judge), predictor(run), scan)
    with pytest.raises(OpinionRefused, match="no classes"):
        second_opinion(predictor(run), predictor(run), scan)


def test_the_command_line_writes_restored_scans_and_asks_twice(home, run, clean, monkeypatch, capsys, tmp_path):
    from builder.__main__ import main

    monkeypatch.setenv("SCANLOOM_HOME", str(home))
    scan = made_files.dicom(tmp_path / "a.dcm", 3)
    capsys.readouterr()
    assert main(["predict", run.id, str(scan), "--out", str(tmp_path / "out"), "--json"]) == 0
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    (file,) = finding["files"]
    found = predictor(run).finding(scans.read(scan)).found.enhanced
    assert found is not None and np.array_equal(scans.read(file).pixels, found)
    assert finding["enhanced"] == {"shape": [1, 1, 64, 64]} and "mean_change_stored" in finding["facts"]
    named = [str(made_files.dicom(tmp_path / f"1.2.840.{n}.dcm", n)) for n in (4, 5)]  # DICOM's numbers, as archives do
    assert main(["predict", run.id, *named, "--out", str(tmp_path / "out"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["findings"]
    assert [Path(one["files"][0]).parent.name for one in told] == ["1.2.840.4", "1.2.840.5"]
    tiny = little_run.starter().replace("training.epochs", 1).replace("data.size_px", 32)
    judge = little_run.trained(home, tiny.replace("training.seed", 7), clean)
    assert main(["second-opinion", run.id, judge.id, str(scan), "--json"]) == 0
    (opinion,) = json.loads(capsys.readouterr().out)["opinions"]
    assert set(opinion["before"]) == set(clean.classes) and opinion["sentence"]
    assert main(["evaluate", run.id, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["psnr_gain_db"]["value"] > 2
    assert main(["evaluate", run.id]) == 0 and "non-local means" in capsys.readouterr().out
    assert main(["export", run.id, "--to", "onnx", "--json"]) == 2
    assert "tiles" in json.loads(capsys.readouterr().out)["error"]


# ---- taken away ----


def test_the_exported_project_restores_whole_scans_as_the_app_does_and_can_be_taught_again(home, run, clean, tmp_path):
    from PIL import Image

    folder = export(run, home, out=tmp_path).with_suffix("")
    proof = json.loads((folder / "parity.json").read_text())
    assert proof["cases"] > 3 and max(proof["difference"].values()) <= proof["tolerance"]
    scan = clean.scan(0)
    Image.fromarray(scan.pixels[0, 0]).save(tmp_path / "scan.png")
    said = taken_away.asked(folder, tmp_path / "scan.png", tmp_path)
    ours = predictor(run).finding(scan).found.enhanced
    theirs = np.asarray(Image.open(said["enhanced"]))
    assert ours is not None and theirs.dtype == ours.dtype and np.abs(theirs.astype(int) - ours[0, 0]).max() <= 1
    assert (theirs != ours[0, 0]).mean() < 0.01
    rows = []
    for index, case in enumerate(clean.cases):
        Image.fromarray(clean.scan(index).pixels[0, 0]).save(tmp_path / f"{case.id}.png")
        rows.append((f"{case.id}.png", case.split))
    with open(tmp_path / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([("file", "split"), *rows])
    figures = taken_away.taught_again(folder, tmp_path, tmp_path)
    ours_told = taken_away.validated(run, clean, tmp_path)
    # The noise is drawn anew there, from seeds of its own: alike, not the same.
    assert figures["psnr_db"] == pytest.approx(ours_told["psnr_db"], abs=0.5)
    assert figures["ssim"] == pytest.approx(ours_told["ssim"], abs=0.02)
    assert "enhanced" in taken_away.asked(tmp_path / "trained", tmp_path / "scan.png", tmp_path)


def test_what_was_learned_from_pairs_of_several_sizes_can_be_taken_away(home, pairs, tmp_path):
    from PIL import Image

    changes = {"data.degrade": Choice(name="none"), "training.epochs": 1, "data.num_patches": 2}
    experiment = small(**changes, **{"training.loss": Choice(name="l1_ssim")})
    experiment = experiment.replace("training.augment", (Choice(name="flip_horizontal"),))
    run = little_run.trained(home, experiment, pairs)
    folder = export(run, home, out=tmp_path).with_suffix("")
    assert max(json.loads((folder / "parity.json").read_text())["difference"].values()) <= 1e-5
    rows = []
    for index, case in enumerate(pairs.cases):
        for kind, scan in (("poor", pairs.scan(index)), ("good", pairs.target(index))):
            assert scan is not None
            Image.fromarray(scan.pixels[0, 0]).save(tmp_path / f"{case.id}-{kind}.png")
        rows.append((f"{case.id}-poor.png", f"{case.id}-good.png", case.split))
    with open(tmp_path / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([("file", "target", "split"), *rows])
    figures, ours = taken_away.taught_again(folder, tmp_path, tmp_path), taken_away.validated(run, pairs, tmp_path)
    assert {name: figures[name] for name in ours} == pytest.approx(ours, rel=1e-3)


def test_an_export_is_proved_on_scans_as_they_are_whatever_views_the_run_asks_about(run):
    once = predictor(run)
    mirrored = replace(once, experiment=once.experiment.replace("training.test_time", "mirror"))
    images = np.random.default_rng(0).random((1, 1, 40, 36), np.float32)
    assert np.array_equal(mirrored.outputs(images), once.outputs(images))
    assert not np.allclose(mirrored.answers(images), once.answers(images))


@pytest.mark.parametrize("degrade", [NOISE, Choice(name="none")], ids=lambda choice: choice.name)
def test_an_exported_train_py_measures_batch_norm_on_patches_that_lie_still(degrade):
    told = lesson(KIND.says, small(**{"data.degrade": degrade}), False)
    space: dict[str, Any] = {"np": np, "torch": torch, "SETTINGS": {"size_px": 24}}
    for text in (told.files.get("degrade.py", ""), told.text):
        exec(compile(text, "train.py", "exec"), space)
    images = [torch.rand(1, 40 + k, 30, generator=torch.Generator().manual_seed(k)) for k in range(6)]
    space |= {"images": images, "targets": images, "start": 2, "end": 6}
    exec("\n".join(told.plain), space)
    once = space["batch"]
    exec("\n".join(told.plain), space)
    places = np.random.default_rng(batches._FIXED).random((6, 2))
    good = torch.stack([space["cut"](images[k], images[k], places[k])[1] for k in range(2, 6)])
    assert torch.equal(space["batch"], once) and torch.equal(once, good) == (degrade.name == "none")
    assert float((once - good).abs().mean()) < 0.2


# ---- what is said beforehand ----


def said(experiment: Experiment, path: str, **facts: Any) -> Any:
    known: dict[str, Any] = {
        "num_paired": {}, "modalities": {"CT": 9}, "cases_per_split": {"train": 5, "val": 2, "test": 2},
        "patients_per_split": {}, "sizes": {"min": [64, 64]}, "channels": {"1": 9}, "num_patients": 9,
    }  # fmt: skip
    found = [p for p in KIND.problems(experiment, SimpleNamespace(**{**known, **facts})) if p.path == path]
    assert len(found) == 1, found
    return found[0]


def test_a_set_without_pairs_is_offered_a_degradation():
    found = said(small(**{"data.degrade": Choice(name="none")}), "data.degrade")
    assert (
        found.severity == "error"
        and found.fix.data.degrade.name == "low_dose_ct_own"
        and found.fix.data.window == "ct full"
    )


def test_a_patch_brings_the_noise_of_the_slice_that_it_is_of(clean):
    data = small(**{"data.degrade": Choice(name="low_dose_ct_own"), "data.num_patches": 2}).data
    prepared = clean.prepared(data)
    targets = Targets(clean, data, prepared, clean.indices("train")[:3], ("picture",))
    grains = targets.batch(slice(0, 4), CPU, np.zeros((4, 2), np.int64)).grains
    assert grains is not None and len(grains) == 4
    for row, grain in zip(targets.rows[:4], grains, strict=True):
        whole = torch.from_numpy(prepared.images[row] / np.float32(prepared.unit))
        assert grain.numpy() == pytest.approx(own_grain(hounsfield(whole)), rel=1e-3, abs=1e-3)
    assert torch.equal(grains[0], grains[1]) and not torch.equal(grains[1], grains[2])
    assert Targets(clean, small().data, prepared, np.arange(2), ("picture",)).batch(slice(0, 2), CPU).grains is None


def test_an_exported_train_py_adds_the_same_noise_by_the_scan_itself(tmp_path):
    data = {"data.degrade": Choice(name="low_dose_ct_own"), "data.window": "ct full"}
    told = lesson(KIND.says, small(**data), False)
    space: dict[str, Any] = {}
    exec(compile(told.files["degrade.py"], "degrade.py", "exec"), space)
    whole = torch.rand(1, 64, 64, generator=torch.Generator().manual_seed(1)) * 0.1 + 0.25
    grains = torch.stack([space["grain_of"](whole)] * 2)
    assert space["grain_of"](whole) is space["grain_of"](whole)  # measured once
    patches = whole[None, :, :24, :24].repeat(2, 1, 1, 1)
    made = space["low_dose_ct_own"](patches, space["Chance"](patches, [1, 2]), dose=0.25, grains=grains)
    ours = degrade(
        patches, small(**data).data.degrade, [1, 2], torch.from_numpy(own_grain(hounsfield(whole))).expand(2, -1, -1)
    )
    assert torch.allclose(made.clamp(0, 1), ours, atol=1e-6)
    assert "grains=torch.stack([grain_of(images[int(row)]) for row in rows])" in told.text


@pytest.mark.parametrize("name", ["noise", "brightness", "gamma", "blur"])
def test_augmentations_of_grey_values_are_refused_and_flips_are_not(name):
    flips = [c.model_dump() for c in small().training.augment]
    found = said(small(**{"training.augment": [{"name": name}, *flips]}), f"training.augment.{name}")
    assert found.severity == "error" and [c.name for c in found.fix.training.augment] == [c["name"] for c in flips]


def test_augmentations_that_resample_are_warned_of():
    assert said(small(**{"training.augment": [{"name": "rotate"}]}), "training.augment.rotate").severity == "warning"


@pytest.mark.parametrize(
    ("changes", "facts", "path", "words"),
    [
        ({"data.window": "ct full"}, {"modalities": {"MR": 9}}, "data.window", "Hounsfield"),
        ({"data.degrade": Choice(name="low_dose_ct_own")}, {"modalities": {"unknown": 9}}, "data.window", "ct full"),
        ({"data.window": "stored range"}, {}, "data.window", "differs from scan to scan"),
        ({"data.colour": "rgb"}, {}, "data.colour", "grey"),
        ({}, {"channels": {"3": 9}}, "data.colour", "colour"),
        ({}, {"num_paired": {"train": 9}}, "data.degrade", "not used"),
    ],
)
def test_preparations_that_do_not_suit_are_told_with_a_repair(changes, facts, path, words):
    found = said(small(**changes), path, **facts)
    assert words in found.message and found.fix is not None


def test_options_that_mean_nothing_here_are_not_offered():
    from builder.parts.images import PREPARE

    offers = {}
    for name in ("fit", "slices", "window", "colour"):
        offer = task.offered(KIND.name, f"data.{name}", PREPARE.param(name))
        assert isinstance(offer, OneOf)
        offers[name] = offer.options
    assert offers == {
        "fit": ("patches",), "slices": ("each",), "window": ("stored range", "ct full"), "colour": ("grey", "rgb"),
    }  # fmt: skip
    assert "image_enhancement" in TASKS


def test_the_demo_is_made_of_clean_slices_with_patients(tmp_path):
    table = KIND.demo(1, tmp_path)
    rows = list(csv.DictReader(open(table, newline="")))  # noqa: SIM115
    assert len(rows) == 96 and len({row["patient"] for row in rows}) > 20
    with pytest.raises(ValueError, match="no demo set"):
        KIND.demo(1, tmp_path, "sound")
