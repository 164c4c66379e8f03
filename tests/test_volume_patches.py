"""Patches of volumes: where they are cut, how they are read, put together again, learned from, and what is refused."""

# What may be missing by its type is there by the test: None fails it by itself.
# mypy: disable-error-code="union-attr, index, operator, arg-type, misc, attr-defined"

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import little_run
import nibabel
import numpy as np
import pytest
import taken_away
import torch
from PIL import Image, ImageSequence
from test_tumor_diagnosis import STARTERS, TUMOR, facts, labelled

from builder import batches, cutting, network, task, voxels
from builder.augment import Augment
from builder.batches import Scans
from builder.check import problems
from builder.data import Dataset, UnusableScan, prepare, quantize
from builder.evaluate import evaluate
from builder.export import TARGETS, export, unsupported
from builder.lessons import lesson
from builder.network import assemble
from builder.predict import Predictor
from builder.runs import Run
from builder.scan import Scan
from builder.spec import Choice, Data, Experiment, Node
from builder.targets import Target, Targets
from tasks.tumor_answers import Answer, joined

pytestmark = pytest.mark.usefixtures("warm_children")

STARTER = STARTERS["unet-3d-patches"]
CPU = torch.device("cpu")


# -- where patches are cut --------------------------------------------------------------------------------------------


def blob(size: tuple[int, int, int] = (6, 9, 10)) -> np.ndarray:
    mask = np.zeros(size, np.uint8)
    mask[1:3, 4:8, 2:6] = 1
    mask[2, 5, 3] = 0  # a hole
    return mask


def test_every_voxel_is_met_alike_inside_and_outside_by_monais_rule():
    mask = blob()
    outline = cutting.Outlined.of(mask)
    inside, total = int(mask.sum()), mask.size
    met = np.zeros(mask.shape, int)
    # One draw for each voxel: the middle of its own part of [0, 1).
    for share, count in ((1.0, inside), (0.0, total - inside)):
        for k in range(count):
            met[tuple(cutting.centre(outline, mask.shape, share, np.array([0.5, (k + 0.5) / count])))] += 1
            assert bool(mask[tuple(cutting.centre(outline, mask.shape, share, np.array([0.5, k / count])))]) == (
                share > 0
            )
    assert (met == 1).all()
    none = cutting.Outlined.of(np.zeros_like(mask))
    corner = cutting.centre(none, mask.shape, 1.0, np.array([0.0, 0.999999]))
    assert tuple(corner) == (5, 8, 9)


def test_the_share_of_patches_on_the_outline_is_that_which_was_asked_for():
    mask = blob()
    outline, draws = cutting.Outlined.of(mask), np.random.default_rng(0).random((4000, 2))
    on = np.mean([mask[tuple(cutting.centre(outline, mask.shape, 0.3, d))] for d in draws])
    assert abs(on - 0.3) < 0.03


def test_a_patch_lies_in_the_volume_or_is_centred_on_a_smaller_one():
    for middle in np.ndindex(6, 9, 10):
        corner = cutting.corner(np.array(middle), (6, 9, 10), (4, 4, 4))
        assert (corner >= 0).all() and (corner + 4 <= (6, 9, 10)).all()
        assert (corner <= middle).all() and (np.array(middle) < corner + 4).all()
    assert cutting.corner(np.array([0, 0, 0]), (6, 9, 10), (8, 4, 16)).tolist() == [-1, 0, -3]


def test_an_outline_cut_out_is_that_part_of_its_mask():
    mask = blob()
    outline = cutting.Outlined.of(mask)
    assert outline.voxels.size < mask.size / 2
    wide = np.pad(mask, 5)
    for corner in ((0, 0, 0), (1, 4, 2), (-2, 3, -4), (4, 7, 8), (2, 5, 3)):
        z, y, x = (c + 5 for c in corner)
        assert np.array_equal(outline.cut(corner, (4, 5, 3)), wide[z : z + 4, y : y + 5, x : x + 3])


def test_windows_cover_a_volume_and_overlap_by_half():
    for size in ((20, 64, 64), (8, 32, 33), (5, 31, 70)):
        seen = np.zeros(size, int)
        corners = cutting.starts(size, (8, 32, 32), 0.5)
        for corner in corners:
            low = np.maximum(corner, 0)
            seen[tuple(slice(a, c + s) for a, c, s in zip(low, corner, (8, 32, 32), strict=True))] += 1
        assert seen.min() > 0
        for axis in range(3):
            assert (np.diff(np.unique(corners[:, axis])) <= (4, 16, 16)[axis]).all()


def test_of_a_large_volume_the_patches_with_most_of_the_outline_are_judged_and_evenly_spread_ones():
    mask = np.zeros((32, 128, 128), np.uint8)
    mask[9:12, 70:90, 70:90] = 1
    outline = cutting.Outlined.of(mask)
    corners = cutting.judged(outline, mask.shape, (8, 32, 32))
    assert len(corners) == cutting.MOST_JUDGED == len(np.unique(corners, axis=0))
    assert sum(int(outline.cut(c, (8, 32, 32)).sum()) for c in corners) == mask.sum()
    whole = cutting.judged(None, (8, 64, 64), (8, 32, 32))
    assert len(whole) == 4


# -- grids ------------------------------------------------------------------------------------------------------------


def test_a_size_in_mm_sets_the_grid_and_zero_keeps_every_voxel():
    scan = Scan(np.random.default_rng(0).integers(0, 255, (10, 1, 24, 20), np.uint8), spacing_mm=(6.0, 2.0, 1.0))
    data = Data(slices="volume", fit="patches", window="stored range")
    kept = prepare(scan, data)
    assert kept.shape == (1, 10, 24, 20)
    assert np.array_equal(quantize(kept, 255)[0], scan.pixels[:, 0])
    fine = data.model_copy(update={"pixel_mm": 1.0, "slice_mm": 3.0})
    assert prepare(scan, fine).shape == (1, 20, 48, 20)
    unknown = Scan(scan.pixels, spacing_mm=(None, 2.0, 1.0))
    with pytest.raises(UnusableScan, match="how far its slices lie apart"):
        prepare(unknown, fine)


@pytest.mark.parametrize("factor", [(2.0, 2.0, 2.0), (0.5, 1.5, 1.0), (1.0, 1.0, 1.0)])
def test_what_goes_to_another_grid_and_back_stays_where_it_was(factor: tuple[float, float, float]):
    z, y, x = np.mgrid[:16, :32, :32].astype(np.float32)
    ball = (((z - 7) / 1.0) ** 2 + ((y - 17) / 2.0) ** 2 + ((x - 12) / 2.0) ** 2 < 16).astype(np.float32)
    size = [round(s * f) for s, f in zip(ball.shape, factor, strict=True)]
    there = voxels.resampled(ball[None], size)[0]
    back = voxels.chances_out(there, ball.shape)
    for axis, places in enumerate((z, y, x)):
        assert (back * places).sum() / back.sum() == pytest.approx((ball * places).sum() / ball.sum(), abs=0.05), axis
    if factor == (1.0, 1.0, 1.0):
        assert np.array_equal(back, ball)
    assert np.array_equal(voxels.mask_in(ball, [2 * s for s in ball.shape])[::2, ::2, ::2], ball)


# -- a data set of volumes of different sizes -------------------------------------------------------------------------


def volumes(folder: Path, num: int = 18) -> Path:
    """Volumes of 8 to 11 slices with a bright or dark ball, and their masks; every sixth has none of it."""
    folder.mkdir()
    rng, rows = np.random.default_rng(3), []
    for k in range(num):
        size = (8 + k % 4, 24 + 2 * (k % 3), 26)
        grid = np.indices(size).astype(float)
        middle = np.array([rng.uniform(2.5, s - 3.5) for s in size])
        far = (((grid - middle[:, None, None, None]) / np.array([1.0, 2.0, 2.0])[:, None, None, None]) ** 2).sum(0)
        kind = ("bright", "dark", "none")[2 if k % 6 == 5 else k % 2]
        mask = (far < 5).astype(np.uint8) * (kind != "none")
        image = rng.normal(120, 12, size) + mask.astype(float) * {"bright": 80, "dark": -80, "none": 0}[kind]
        affine = np.diag([1.0, 1.0, 2.0, 1.0])
        for name, stack in ((f"v{k}", image.clip(0, 255).astype(np.uint8)), (f"m{k}", mask)):
            nibabel.save(nibabel.Nifti1Image(stack.transpose(2, 1, 0), affine), folder / f"{name}.nii.gz")
        rows.append((f"v{k}.nii.gz", kind, f"p{k}", f"m{k}.nii.gz"))
    return labelled(folder, rows, ("file", "label", "patient", "mask"))


def tiny(**changes: object) -> Experiment:
    experiment = STARTER.replace("data.size_px", 16).replace("data.num_slices", 8).replace("data.num_patches", 2)
    experiment = experiment.replace("network.unet.params", {"width": 6, "levels": 3, "flat_levels": 1, "units": 0})
    for path, value in changes.items():
        experiment = experiment.replace(path.replace("__", "."), value)
    return experiment


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tmp_path_factory.mktemp("volumes") / "home"


@pytest.fixture(scope="module")
def balls(home: Path) -> Dataset:
    return little_run.imported(home, volumes(home.parent / "balls"), "balls")


@pytest.fixture(scope="module")
def run(home: Path, balls: Dataset) -> Run:
    experiment = tiny(training__epochs=14, training__batch_size=4, training__augment=[])
    experiment = experiment.replace("training.optimizer", {"name": "adamw", "params": {"lr": 0.02}})
    return little_run.trained(home, experiment, balls)


def test_blocks_are_read_as_they_lie_in_the_volume_and_black_beyond_it(balls: Dataset):
    data = tiny().data
    prepared = balls.prepared(data)
    assert prepared.images.shape[2:] == (11, 28, 26)
    for index in (0, 1, 5, len(balls) - 1):
        whole = quantize(prepare(balls.scan(index), data), prepared.unit)
        assert np.array_equal(prepared.volume(index), whole)
        wide = np.pad(whole, [(0, 0), (9, 9), (9, 9), (9, 9)])
        for corner in ((0, 0, 0), (2, 7, 3), (-3, -2, 5), (6, 20, 22), (-9, 0, 0)):
            z, y, x = (c + 9 for c in corner)
            assert np.array_equal(prepared.block(index, corner, (8, 9, 7)), wide[:, z : z + 8, y : y + 9, x : x + 7])


def test_a_batch_holds_patches_with_their_own_part_of_the_outline(balls: Dataset):
    data = tiny(data__outlined_share=1.0).data
    prepared = balls.prepared(data)
    cases = TUMOR.cases(balls, tiny(), "train")
    targets = Targets(balls, data, prepared, cases, TUMOR.learns)
    assert len(targets) == 2 * len(cases)
    scans = Scans(prepared, targets, CPU)
    images, target = scans.batch(np.arange(len(targets)), torch.Generator().manual_seed(1))
    assert images.shape == (len(targets), 1, 8, 16, 16) and target.masks.shape == images.shape
    again, same = scans.batch(np.arange(len(targets)), torch.Generator().manual_seed(1))
    assert torch.equal(images, again) and torch.equal(target.masks, same.masks)
    other, _ = scans.batch(np.arange(len(targets)), torch.Generator().manual_seed(2))
    assert not torch.equal(images, other)
    shows = np.array([balls.mask(int(case)).any() for case in targets.cases])
    assert np.array_equal(target.masks.flatten(1).any(1).numpy(), shows)
    for image, mask, case in zip(images, target.masks, targets.cases, strict=True):
        if mask.any():
            inside, around = image[mask > 0].mean(), image[mask == 0].mean()
            assert (inside > around) == (balls.classes[balls.labels[case]] == "bright")


def test_what_is_judged_covers_every_volume_and_lies_still(balls: Dataset):
    data = tiny().data
    prepared = balls.prepared(data)
    targets = Targets(balls, data, prepared, TUMOR.cases(balls, tiny(), "val"), TUMOR.learns, judged=True)
    scans = Scans(prepared, targets, CPU)
    first, target = scans.batch(slice(0, len(targets)))
    assert torch.equal(first, scans.batch(slice(0, len(targets)))[0])
    for case in np.unique(targets.cases):
        seen = target.masks[torch.from_numpy(targets.cases == case)].sum()
        assert seen >= balls.mask(int(case)).astype(bool).sum()


def test_the_slices_of_an_outline_move_as_those_of_the_volume():
    volume = torch.zeros(5, 1, 6, 32, 32)
    for z in range(6):
        volume[:, :, z, 6 + z : 18, 8 : 20 + z] = 1.0
    augment = Augment(
        [
            Choice(name="rotate", params={"degrees": 40.0, "probability": 1.0}),
            Choice(name="zoom", params={"low": 0.8, "high": 1.2, "probability": 1.0}),
            Choice(name="flip_horizontal", params={"probability": 0.5}),
        ],
        "volume",
    )
    target = Target(masks=volume.to(torch.uint8))
    images, moved = TUMOR.vary(STARTER, volume, target, augment, torch.Generator().manual_seed(3))
    assert moved.masks.shape == volume.shape and not torch.equal(images, volume)
    apart = (images > 0.5) != (moved.masks > 0)
    assert apart.float().mean() < 0.02 and moved.masks.any((0, 1, 3, 4)).all()


# -- put together again -----------------------------------------------------------------------------------------------


def test_blended_patches_of_one_picture_are_that_picture():
    rng = np.random.default_rng(0)
    whole = rng.random((13, 40, 37)).astype(np.float32)
    pieces = [
        (corner, cutting.block(whole[None], corner, (8, 16, 16))[0])
        for corner in cutting.starts(whole.shape, (8, 16, 16), 0.5)
    ]
    assert np.allclose(cutting.blended(pieces, whole.shape), whole, atol=1e-6)


def test_windows_blend_as_monai_blends_them():
    from monai.inferers.utils import sliding_window_inference

    net = torch.nn.Conv3d(1, 1, 5, padding=2).eval()
    volume = torch.randn(1, 1, 12, 24, 24, generator=torch.Generator().manual_seed(0))

    def part(corner: np.ndarray) -> np.ndarray:
        answered = net(torch.from_numpy(cutting.block(volume[0].numpy(), corner, (8, 16, 16)))[None])
        return np.asarray(answered)[0, 0]

    with torch.no_grad():
        found = sliding_window_inference(volume, (8, 16, 16), 4, net, overlap=0.5, mode="gaussian")
        theirs = np.asarray(found)[0, 0]
        corners = cutting.starts((12, 24, 24), (8, 16, 16), 0.5)
        ours = cutting.blended(((corner, part(corner)) for corner in corners), (12, 24, 24))
    assert np.abs(ours - theirs).max() < 1e-4


def test_the_type_of_a_volume_is_told_by_the_patches_that_show_a_tumor():
    full, empty = np.zeros((2, 4, 4), np.float16), np.zeros((2, 4, 4), np.float16)
    full[0, 1:3, 1:3] = 0.9
    pieces = [((0, 0, 0), Answer(np.array([0.9, 0.1]), empty)), ((2, 0, 0), Answer(np.array([0.2, 0.8]), full))]
    found = joined(iter(pieces), (4, 4, 4), True)
    assert found.types == pytest.approx([0.2, 0.8]) and found.inside.shape == (4, 4, 4)
    assert joined(iter(pieces), (4, 4, 4), False).types == pytest.approx([0.55, 0.45])
    rows = [(corner, np.concatenate([answer.types, answer.inside.reshape(-1)])) for corner, answer in pieces]
    for outlined in (True, False):  # as an exported project puts them together
        row = cutting.joined_row(iter(rows), pieces[0][1].inside.shape, (4, 4, 4), outlined)
        assert row[:2] == pytest.approx(joined(iter(pieces), (4, 4, 4), outlined).types)
    assert joined(iter(pieces[:1]), (2, 4, 4), True).types == pytest.approx([0.9, 0.1])


def predictor(experiment: Experiment) -> Predictor:
    net = network.assemble_of(experiment, 2, seed=0).eval()
    return Predictor(experiment, ("a", "b"), False, 255, np.zeros(1, np.float32), np.ones(1, np.float32), "", net)


def test_a_window_as_large_as_the_volume_gives_the_answer_to_the_whole():
    ours = predictor(tiny())
    volume = np.random.default_rng(0).random((1, 8, 16, 16)).astype(np.float32)
    with torch.inference_mode():
        straight = TUMOR.answers(ours.experiment, ours.net, ours.run(volume[None]), False)[0]
    found = ours.answers([volume])[0]
    assert np.allclose(found.inside, straight.inside, atol=1e-3) and np.allclose(found.types, straight.types, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 16, 16), (8, 10, 40), (20, 33, 17)])
def test_an_answer_is_as_large_as_the_volume_whatever_its_size(shape: tuple[int, int, int]):
    found = predictor(tiny()).answers([np.zeros((1, *shape), np.float32)])[0]
    assert found.inside.shape == shape and np.isfinite(found.inside).all()


# -- a training, its answers and figures ------------------------------------------------------------------------------


def test_a_planted_ball_is_learned_in_seconds(home: Path, run: Run):
    told = evaluate(run, home, "test", resamples=50)
    assert told["metrics"]["dice"]["value"] > 0.7
    json.dumps(told, allow_nan=False)


def test_the_outline_lies_on_the_scans_own_grid_with_its_volume(balls: Dataset, run: Run):
    ours = Predictor.open(run.folder)
    index = next(int(i) for i in balls.indices("test", by="mask") if balls.mask(int(i)).any())
    scan, true = balls.scan(index), balls.mask(index) > 0
    finding = ours.finding(scan)
    outline = finding.found.outline > 0
    assert outline.shape == true.shape == (len(scan.pixels), *scan.pixels.shape[2:])
    assert 2 * (outline & true).sum() / (outline.sum() + true.sum()) > 0.6
    assert finding.found.facts["volume_ml"] == pytest.approx(outline.sum() * 2.0 / 1000)
    assert finding.slices == tuple(range(1, len(scan.pixels) + 1)) and finding.image.shape == (1, *true.shape)
    assert finding.heatmap is None or finding.heatmap.shape == true.shape
    assert set(finding.probabilities) == set(balls.classes)
    json.dumps(finding.plain(), allow_nan=False)


def test_the_film_shows_the_middle_slice_of_the_patch_with_most_of_the_outline(balls: Dataset, run: Run):
    shown = {int(path.stem.split("-")[1]) for path in (run.folder / "film").glob("scan-*.json")}
    assert shown
    for row in shown:
        known = Image.open(run.folder / "film" / f"scan-{row}-known-outline.png")
        said = Image.open(run.folder / "film" / f"frame-00014-{row}-outline.png")
        assert known.size == said.size == (16, 16)
    assert any(np.asarray(Image.open(run.folder / "film" / f"scan-{row}-known-outline.png")).any() for row in shown)


def test_another_voxel_size_is_told_and_the_outline_comes_back_to_the_scans_grid(balls: Dataset):
    ours = predictor(tiny(data__pixel_mm=2.0, data__slice_mm=1.0))
    scan = balls.scan(0)
    finding = ours.finding(scan)
    assert finding.image.shape[1:] == (2 * len(scan.pixels), *(round(s / 2) for s in scan.pixels.shape[2:]))
    assert finding.found.outline.shape == (len(scan.pixels), *scan.pixels.shape[2:])
    assert any("pixels of 2 mm and slices 1 mm apart" in note for note in finding.notes)
    assert any("smaller than a patch" in note for note in finding.notes)


# -- what is refused --------------------------------------------------------------------------------------------------


def of_volumes(slices: tuple[int, int], sides: tuple[int, int], **more: object):
    known: dict[str, object] = {"num_slices": {"min": slices[0], "median": slices[0], "max": slices[1]}}
    known |= {"sizes": {"min": [sides[0]] * 2, "median": [sides[0]] * 2, "max": [sides[1]] * 2}}
    known |= {"spacing_mm": {k: [3.0, 1.0, 1.0] for k in ("min", "median", "max")}}
    return facts(**{**known, **more})


@pytest.mark.parametrize(
    ("changes", "known", "severity", "words", "path", "mended"),
    [
        ({"data.num_slices": 64}, of_volumes((20, 24), (64, 64)), "error", "more than twice", "data.num_slices", 24),
        ({"data.size_px": 256}, of_volumes((20, 24), (64, 70)), "error", "more than twice", "data.size_px", 64),
        ({"data.num_slices": 32}, of_volumes((20, 40), (64, 64)), "warning", "Some scans", "", None),
        ({"data.num_slices": 8}, of_volumes((1, 1), (64, 64)), "error", "single picture", "data.slices", "middle"),
        (
            {"data.pixel_mm": 0.5},
            of_volumes((20, 20), (64, 64), spacing_mm={}),
            "error",
            "0.5 mm",
            "data.pixel_mm",
            0.0,
        ),
        ({"data.size_px": 36}, of_volumes((20, 20), (64, 64)), "warning", "", "", None),
        ({"data.fit": "pad"}, of_volumes((20, 20), (64, 64)), "error", "learned from patches", "data.fit", "patches"),
        ({"data.slices": "each"}, of_volumes((20, 20), (64, 64)), "error", "single pictures", "data.fit", "pad"),
        ({"data.colour": "neighbours"}, of_volumes((20, 20), (64, 64)), "error", "three times", "data.colour", "grey"),
    ],
)
def test_impossible_patches_are_told_with_a_repair(changes, known, severity, words, path, mended):
    experiment = STARTER
    for place, value in changes.items():
        experiment = experiment.replace(place, value)
    found = [p for p in problems(experiment, known) if p.severity == severity and words in p.message]
    if not words:
        assert [p for p in problems(experiment, known) if p.severity == "error"] == []
        return
    assert found, problems(experiment, known)
    if path:
        assert found[0].repair and found[0].fix.at(path) == mended


@pytest.mark.parametrize(
    ("changes", "repair", "path", "value"),
    [
        ({"data.num_slices": 7}, "Use patches of 8 slices", "data.num_slices", 8),
        ({"data.size_px": 30}, "Use patches of 32 px", "data.size_px", 32),
        ({"data.size_px": 30, "data.num_slices": 7}, "Use patches of 8 slices of 32 px", "data.size_px", 32),
    ],
)
def test_levels_that_do_not_divide_the_patch_are_mended_by_the_patch(changes, repair, path, value):
    experiment = STARTER
    for place, given in changes.items():
        experiment = experiment.replace(place, given)
    found = [p for p in problems(experiment, of_volumes((20, 20), (64, 64))) if "levels halve" in p.message]
    assert [p.repair for p in found] == [repair]
    assert found[0].fix.at(path) == value
    assert [p for p in problems(found[0].fix, of_volumes((20, 20), (64, 64))) if p.severity == "error"] == []


def test_levels_too_many_for_pictures_get_a_number_that_fits():
    nodes = [Node(id="unet", name="monai_unet", params={"levels": 6})]
    planned = network.plan(nodes, (1, 24, 24), 2)
    assert planned.nodes[0].where == "params.levels" and planned.nodes[0].value == 4


def test_a_network_that_ends_otherwise_gets_the_head_for_volumes():
    for experiment in (
        STARTER.remove("answer"),
        STARTER.replace("network", [Node(id="conv", name="conv3d"), Node(id="relu", name="relu")]),
        STARTER.replace("network", [Node(id="pool", name="global_pool"), Node(id="end", name="class_scores")]),
    ):
        [found] = [p for p in problems(experiment, of_volumes((20, 20), (64, 64))) if "ends in" in p.message]
        assert "8 x 32 x 32 voxels" in found.message
        assert [p for p in problems(found.fix, of_volumes((20, 20), (64, 64))) if p.severity == "error"] == []


@pytest.mark.parametrize("to", TARGETS)
def test_what_an_export_cannot_do_for_volumes_is_said(to: str):
    found = unsupported(STARTER, to)
    assert bool(found) == (to in ("keras", "onnx", "torch-export"))
    assert all("overlapping patches" in p.message for p in found)
    found = unsupported(STARTER.replace("data.pixel_mm", 1.0), to)
    assert bool(found) == (to not in ("document", "svg"))


@pytest.mark.slow
def test_the_pytorch_project_outlines_whole_volumes_as_the_app_does(
    home: Path, balls: Dataset, run: Run, tmp_path: Path
):
    """The export proves itself on the scans of the data set; here its program is asked about one of them as a TIFF."""
    folder = export(run, home, "pytorch", tmp_path / "out").with_suffix("")
    assert "train.py" in (folder / "README.md").read_text()
    index = next(int(i) for i in balls.indices("test", by="mask") if balls.mask(int(i)).any())
    scan = balls.scan(index)
    first, *rest = [Image.fromarray(page) for page in scan.pixels[:, 0]]
    first.save(tmp_path / "scan.tif", save_all=True, append_images=rest)
    said = taken_away.asked(folder, tmp_path / "scan.tif", tmp_path / "answers")
    finding = Predictor.open(run.folder).finding(scan)
    pages = np.stack([np.asarray(page) for page in ImageSequence.Iterator(Image.open(said["outline"]))])
    assert ((pages > 0) != (finding.found.outline > 0)).mean() < 1e-3 and said["top"] == finding.top


def test_its_train_py_cuts_patches_and_counts_as_the_app_does(home: Path, balls: Dataset, run: Run, tmp_path: Path):
    folder = export(run, home, "pytorch", tmp_path / "out").with_suffix("")
    rows = []
    for index, case in enumerate(balls.cases):
        for name, pages in (("", balls.scan(index).pixels[:, 0]), ("-mask", balls.mask(index) * 255)):
            first, *rest = [Image.fromarray(np.ascontiguousarray(page)) for page in pages]
            first.save(tmp_path / f"{case.id}{name}.tif", save_all=True, append_images=rest)
        rows.append((f"{case.id}.tif", balls.classes[balls.labels[index]], f"{case.id}-mask.tif", case.split))
    with open(tmp_path / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([("file", "label", "mask", "split"), *rows])
    figures = taken_away.taught_again(folder, tmp_path, tmp_path)
    ours = taken_away.validated(run, balls, tmp_path)
    assert {"dice", "iou", "balanced_accuracy", "loss"} <= set(ours)
    assert {name: figures[name] for name in ours} == pytest.approx(ours, rel=1e-4, abs=1e-4)
    assert taken_away.asked(tmp_path / "trained", tmp_path / rows[0][0], tmp_path)["top"] in balls.classes


def test_what_it_measures_batch_norm_on_are_patches_that_lie_still_as_in_the_app():
    told = lesson(TUMOR.says, tiny(training__augment=[Choice(name="flip_horizontal")]), False)
    space: dict = {"np": np, "torch": torch, "cutting": cutting, "SETTINGS": {}}
    exec(told.text, space)
    outline = cutting.Outlined.of(blob((12, 30, 30)))
    volume = np.random.default_rng(0).random((1, 12, 30, 30), np.float32)
    space |= {"images": [torch.from_numpy(volume)] * 6, "targets": [(0, outline, 0, True)] * 6, "start": 2, "end": 6}
    exec("\n".join(told.plain), space)
    data, size, fixed = tiny().data, volume.shape[1:], np.random.default_rng(batches._FIXED).random((6, 2))
    for patch, chance in zip(space["batch"], fixed[2:], strict=True):
        middle = cutting.centre(outline, size, data.outlined_share, chance)
        corner = cutting.corner(middle, size, data.shape[1:])
        assert np.array_equal(patch.numpy(), cutting.block(volume, corner, data.shape[1:]))


def test_earlier_documents_keep_their_digest_and_patches_have_their_own():
    for experiment in (Experiment(), STARTERS["unet-neighbours"], task.find("image_enhancement").starters()[0]):
        for path, value in (("data.outlined_share", 0.2), ("data.pixel_mm", 1.0), ("data.slice_mm", 2.0)):
            assert experiment.replace(path, value).digest == experiment.digest
    for path, value in (("data.outlined_share", 0.2), ("data.pixel_mm", 1.0), ("data.num_slices", 16)):
        assert STARTER.replace(path, value).digest != STARTER.digest
    assert STARTER.replace("data.slice_choice", "middle").digest == STARTER.digest


# -- whole U-Nets -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "dimensions"), [("monai_unet", 2), ("monai_unet", 3), ("monai_dynunet", 3)])
def test_laid_out_flat_a_u_net_computes_what_monais_own_computes(name: str, dimensions: int):
    """The same numbers in the same parts, and MONAI's own forward through its nested chain."""
    from monai.networks.nets.dynunet import DynUNet
    from monai.networks.nets.unet import UNet

    params = {"width": 4, "levels": 3, "flat_levels": 1}
    shape = (1, *[8] * dimensions)
    node = Node(id="unet", name=name, params=params)
    ours = assemble([node], shape, 2, "volume" if dimensions == 3 else "maps", seed=0).eval()
    steps = [(1, 2, 2)[-dimensions:], (2, 2, 2)[-dimensions:]]
    torch.manual_seed(0)
    if name == "monai_unet":
        theirs: torch.nn.Module = UNet(dimensions, 1, 4, channels=[4, 8, 16], strides=steps, num_res_units=2)
    else:
        theirs = DynUNet(
            *(dimensions, 1, 1), kernel_size=[(1, 3, 3), 3, 3], strides=[1, *steps], upsample_kernel_size=steps,
            filters=[4, 8, 16], norm_name=("instance", {"affine": True}),
        )  # fmt: skip
        theirs.output_block = torch.nn.Identity()
    x = torch.randn(2, *shape)
    with torch.no_grad():
        assert torch.equal(ours(x), theirs.eval()(x))
