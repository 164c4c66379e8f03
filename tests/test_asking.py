"""Asking about scans: which files make one, what is kept of an answer, and how far a scan is from the training."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from builder import nearness, outputs
from builder.asking import enhanced_scan, keep, picture_of, scans_in, telling_slice, the_scan_in
from builder.data import Dataset
from builder.predict import Finding, Predictor
from builder.runs import Run
from builder.scan import Scan, Unreadable
from builder.spec import Data
from builder.task import Found, FoundBox
from tests.little_run import little
from tests.made_files import dicom

BARE = Finding({}, "", None, np.zeros((1, 8, 8), np.float32))


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Dataset, Run]:
    home = tmp_path_factory.mktemp("asking") / "home"
    return home, *little(home)


def a_scan(slices: int = 3, height: int = 20, width: int = 30) -> Scan:
    pixels = np.random.default_rng(1).integers(0, 900, (slices, 1, height, width)).astype(np.uint16)
    return Scan(pixels, (2.0, 0.5, 0.5), "CT", "MONOCHROME2", 12, (), "name", "study", "series", "dicom")


def test_files_that_came_together_are_grouped_by_series_and_what_is_none_says_why(tmp_path: Path) -> None:
    for n in range(3):
        dicom(tmp_path / f"a{n}.dcm", n, float(n), SeriesInstanceUID="1.2.3")
    for n in range(2):
        dicom(tmp_path / f"b{n}.dcm", 10 + n, float(n), SeriesInstanceUID="1.2.4")
    Image.fromarray(np.zeros((9, 9), np.uint8) + 7).save(tmp_path / "c.png")
    (tmp_path / "d.png").write_text("no picture")
    files = sorted(tmp_path.iterdir())
    found = list(scans_in(files))
    assert sorted((c.num_files, c.scan is not None) for c in found) == [(1, False), (1, True), (2, True), (3, True)]
    assert [c.number for c in found] == [0, 1, 2, 3]
    refused = next(c for c in found if c.scan is None)
    assert refused.name == "6" and "text file" in refused.reason
    archive = tmp_path / "all.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in files:
            file.write(path, f"DOE/{path.name}")
    zipped = list(scans_in([archive]))
    assert [c.num_files for c in zipped] == [c.num_files for c in found]
    assert zipped[0].name == "0/DOE/a0.dcm"


def test_one_of_several_scans_is_read_again_by_its_number(tmp_path: Path) -> None:
    for n in range(3):
        Image.fromarray(np.full((9, 9), 40 * n, np.uint8)).save(tmp_path / f"{n}.png")
    files = sorted(tmp_path.iterdir())
    assert the_scan_in(files, 2).pixels.max() == 80
    with pytest.raises(Unreadable, match="not there any more"):
        the_scan_in(files, 3)


def test_what_is_kept_for_the_viewer_is_the_scan_and_what_was_found_without_a_name(
    tmp_path: Path, learned: tuple[Path, Dataset, Run]
) -> None:
    _, dataset, run = learned
    predictor = Predictor.open(run.folder)
    scan = replace(dataset.scan(0), patient="DOE")
    told = keep(tmp_path, scan, predictor.finding(scan), predictor)
    assert told["outputs"][0] == "scan" and np.array_equal(outputs.kept(tmp_path, "scan").pixels, scan.pixels)
    assert "DOE" not in (tmp_path / "scan.json").read_text()
    if told["heat"]:
        heat = outputs.kept(tmp_path, "heat").pixels
        assert heat.shape == (1, 1, *scan.pixels.shape[2:]) and heat.max() > 200 and told["heat"]["slices"] == [0]


def test_an_outline_and_how_sure_each_pixel_is_lie_on_the_scans_own_grid(
    tmp_path: Path, learned: tuple[Path, Dataset, Run]
) -> None:
    predictor, scan = Predictor.open(learned[2].folder), a_scan()
    outline = np.zeros((3, 20, 30), np.uint8)
    outline[2, 4:9, 5:11] = 1
    chance = outline.astype(np.float32) * 0.8
    told = keep(tmp_path, scan, replace(BARE, found=Found(outline=outline, chance=chance)), predictor)
    assert told == {"outputs": ["scan", "mask", "heat"], "heat": {"title": "How sure each pixel is"} | told["heat"]}
    assert np.array_equal(outputs.kept(tmp_path, "mask").pixels[:, 0], outline)
    assert outputs.kept(tmp_path, "heat").pixels.max() == 204
    assert telling_slice(3, replace(BARE, found=Found(outline=outline))) == 2


@pytest.mark.parametrize("side", [8, 32])
def test_the_heat_of_a_volume_seen_at_another_voxel_size_lies_on_the_scans_own_grid(
    tmp_path: Path, learned: tuple[Path, Dataset, Run], side: int
) -> None:
    predictor, scan = Predictor.open(learned[2].folder), a_scan(6, 16, 16)
    data = Data(size_px=16, fit="patches", slices="volume", num_slices=8, pixel_mm=0.5 * 16 / side, slice_mm=4)
    predictor = replace(predictor, experiment=predictor.experiment.model_copy(update={"data": data}))
    heat = np.zeros((3, side, side), np.float32)
    heat[1:, side * 3 // 4 :, side * 3 // 4 :] = 1  # the last slices, lower right
    seen = replace(BARE, heatmap=heat, slices=(2, 4, 6), num_slices=6, layout="volume", likeliest="a")
    told = keep(tmp_path, scan, seen, predictor)
    assert told["heat"]["slices"] == [0, 1, 2, 3, 4, 5]
    kept = outputs.kept(tmp_path, "heat").pixels[:, 0]
    assert kept.shape == (6, 16, 16) and (kept[3:, 13:, 13:] == 255).all()
    assert not (kept[0].any() or kept[:, :11].any() or kept[:, :, :11].any())


def test_an_enhanced_scan_keeps_its_kind_of_values_and_tells_what_has_changed(
    tmp_path: Path, learned: tuple[Path, Dataset, Run]
) -> None:
    predictor, scan = Predictor.open(learned[2].folder), a_scan()
    better = scan.pixels.astype(np.float32) + 3.4
    better[0, 0, 0, 0] = -50
    told = keep(tmp_path, scan, replace(BARE, found=Found(enhanced=better)), predictor)
    kept = outputs.kept(tmp_path, "enhanced")
    assert kept.pixels.dtype == np.uint16 and kept.pixels[0, 0, 0, 0] == 0 and told["heat"]["most"] == 3.0
    assert np.array_equal(kept.pixels.ravel()[1:], scan.pixels.ravel()[1:] + 3)
    double = enhanced_scan(scan, np.zeros((3, 1, 40, 60), np.float32))
    assert double.spacing_mm == (2.0, 0.25, 0.25)
    keep(tmp_path, scan, replace(BARE, found=Found(enhanced=np.zeros((3, 1, 40, 60)))), predictor)
    assert outputs.kept(tmp_path, "heat").pixels.shape == (3, 1, 40, 60)


def test_a_small_picture_shows_the_slice_with_the_surest_box() -> None:
    boxes = (FoundBox(5, 4, 12, 15, "cell", 0.9, 2), FoundBox(0, 0, 3, 3, "cell", 0.4, 0))
    shown = picture_of(a_scan(), replace(BARE, found=Found(boxes=boxes)))
    assert shown.shape == (85, 128, 3) and (shown == (255, 176, 0)).all(2).sum() > 60
    assert telling_slice(3, replace(BARE, found=Found(boxes=boxes))) == 2


def test_a_scan_of_the_training_is_like_it_and_noise_is_not(learned: tuple[Path, Dataset, Run]) -> None:
    home, dataset, run = learned
    predictor = Predictor.open(run.folder)
    known = nearness.of_run(predictor, run.folder, home)
    assert known is not None and (run.folder / "nearness.npz").is_file()
    shares = [
        known.farther_than(nearness.features_of(predictor, dataset.scan(int(case))))
        for case in dataset.indices("train")[:8]
    ]
    assert np.mean(shares) < 0.8
    noise = np.random.default_rng(0).integers(0, 255, (1, 1, 64, 64)).astype(np.uint8)
    like = known.like(nearness.features_of(predictor, replace(dataset.scan(0), pixels=noise)))
    assert like["farther_than"] > 0.99 and like["unlike"] and "unlike" in nearness.words(like)
    assert not nearness.words({"farther_than": 0.5, "of": 30, "unlike": False})
    again = nearness.of_run(predictor, run.folder, home)
    assert again is not None and np.array_equal(again.distances, known.distances)
    early = {name: getattr(known, name) for name in ("rows", "mean", "scale", "distances")}
    np.savez(run.folder / "nearness.npz", key=predictor.weights_sha256, **early)  # as the first version kept it
    again = nearness.of_run(predictor, run.folder, home)
    assert again is not None and np.array_equal(again.own, known.own), "is made anew"


def test_without_the_training_scans_nothing_is_said_of_likeness(
    tmp_path: Path, learned: tuple[Path, Dataset, Run]
) -> None:
    assert nearness.of_run(Predictor.open(learned[2].folder), tmp_path, tmp_path / "nowhere") is None
