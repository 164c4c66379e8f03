"""Series and volumes: which slices are taken, what is kept of them, and that only their order can be learned from."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_files import imported, texture
from PIL import Image

from builder import network
from builder.augment import Augment
from builder.batches import by_channel, normalization
from builder.check import problems
from builder.data import Dataset, UnusableScan, chosen, prepare, quantize
from builder.fingerprint import Fingerprint
from builder.parts.images import AUGMENTATIONS
from builder.prepared import digest
from builder.scan import Scan, Window
from builder.spec import Choice, Data, Experiment, Node, Problem

SERIES = Data(slices="series", num_slices=6, size_px=16)
VOLUME = SERIES.model_copy(update={"slices": "volume"})


def tiff(path: Path, slices: np.ndarray) -> Path:
    """Writes (S, H, W) or (S, H, W, 3) as the pages of a TIFF."""
    first, *rest = [Image.fromarray(page) for page in slices]
    path.parent.mkdir(parents=True, exist_ok=True)
    first.save(path, save_all=True, append_images=rest)
    return path


def stack(num_slices: int, side: int = 16, colour: bool = False, kind: Any = np.uint8) -> Scan:
    """A scan whose slices are all different."""
    pixels = np.stack([texture(k, (side, side)) for k in range(num_slices)])[:, None].astype(kind)
    if colour:
        pixels = np.concatenate([pixels, pixels[:, :, ::-1], pixels[:, :, :, ::-1]], 1)
    return Scan(pixels, photometric="RGB" if colour else "MONOCHROME2", bits=8 * pixels.dtype.itemsize)


# -- which slices -----------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(have=st.integers(1, 300), wanted=st.integers(2, 64), way=st.sampled_from(["spread", "middle"]))
def test_slices_keep_their_order_and_lie_evenly_about_the_middle(have, wanted, way):
    taken = chosen(have, Data(slices="series", num_slices=wanted, slice_choice=way))
    real = [index for index in taken if index >= 0]
    assert len(taken) == wanted and real and real == sorted(real) and real[0] >= 0 and real[-1] < have
    if way == "spread":
        assert len(real) == wanted and max(np.diff(real)) <= -(-have // wanted) + 1
        if wanted % 2 == 0:
            assert [have - 1 - index for index in reversed(real)] == real, "backwards it is the same choice"
        if have <= wanted:
            assert set(real) == set(range(have)), "no slice of a short scan is left out"
    else:
        assert real == list(range(real[0], real[-1] + 1)) and len(real) == min(have, wanted)
        assert abs(taken.count(-1) - max(0, wanted - have)) == 0


def test_as_many_slices_as_there_are_means_each_of_them_once():
    for way in ("spread", "middle"):
        assert chosen(6, SERIES.model_copy(update={"slice_choice": way})) == (0, 1, 2, 3, 4, 5)
    assert chosen(3, SERIES) == (0, 0, 1, 1, 2, 2)
    assert chosen(3, SERIES.model_copy(update={"slice_choice": "middle"})) == (-1, -1, 0, 1, 2, -1)
    with pytest.raises(ValueError, match="choose spread or middle"):
        chosen(3, SERIES.model_copy(update={"slice_choice": "all"}))


# -- what a prepared series is ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("colour", ["grey", "rgb"])
@pytest.mark.parametrize("coloured", [False, True])
def test_every_slice_is_prepared_as_the_single_picture_would_be(colour, coloured):
    scan, data = stack(9, 21, coloured), SERIES.model_copy(update={"colour": colour, "window": "stored range"})
    made = prepare(scan, data)
    channels = 3 if colour == "rgb" else 1
    assert made.shape == data.shape == (6, channels, 16, 16) and made.dtype == np.float32
    for index, found in zip(chosen(9, data), made, strict=True):
        one = replace(scan, pixels=scan.pixels[index : index + 1])
        assert np.array_equal(found, prepare(one, data.model_copy(update={"slices": "middle"})))
    volume = prepare(scan, data.model_copy(update={"slices": "volume"}))
    assert volume.shape == (channels, 6, 16, 16) and volume.flags.c_contiguous
    assert np.array_equal(volume, np.moveaxis(made, 0, 1))


def test_all_slices_share_one_grey_range_that_of_the_whole_scan():
    pixels = np.zeros((5, 1, 16, 16), np.int16)
    pixels += (np.arange(5, dtype=np.int16) * 100)[:, None, None, None]
    pixels[:, :, 0, 0] += 50
    made = prepare(Scan(pixels, bits=16), Data(slices="series", num_slices=5, size_px=16, window="percentile"))
    means = made.mean((1, 2, 3))
    assert (np.diff(means) > 0.2).all() and means[0] < 0.05 and means[-1] > 0.9
    windowed = Scan(pixels, bits=16, modality="CT", windows=(Window(200, 400),))
    made = prepare(windowed, Data(slices="series", num_slices=2, size_px=16))
    assert made[0, 0, 8, 8] == pytest.approx(0.25, abs=0.01) and made[1, 0, 8, 8] == pytest.approx(0.75, abs=0.01)


def test_slices_that_are_missing_are_black_even_where_black_is_bright():
    scan = replace(stack(2), photometric="MONOCHROME1")
    made = prepare(scan, Data(slices="series", num_slices=4, size_px=16, slice_choice="middle"))
    assert not made[0].any() and not made[3].any() and made[1].any() and made[2].any()


def test_a_scan_that_cannot_be_a_series_is_refused_in_words():
    with pytest.raises(UnusableScan, match="2 channels"):
        prepare(Scan(np.zeros((4, 2, 16, 16), np.uint8)), SERIES)
    with pytest.raises(UnusableScan, match="not finite"):
        prepare(Scan(np.full((4, 1, 16, 16), np.nan, np.float32)), SERIES)


def test_padding_stays_black_in_the_slices_that_were_taken():
    valid = np.ones((7, 16, 16), bool)
    valid[3, :8] = False
    made = prepare(replace(stack(7), valid=valid), Data(slices="series", num_slices=7, size_px=16))
    assert not made[3, 0, :8].any() and made[2, 0, :8].any() and made[3, 0, 8:].any()


# -- prepared once, on disk -------------------------------------------------------------------------------------------


@pytest.fixture
def dataset(tmp_path: Path, home: Path) -> Dataset:
    """Twelve series of 4 to 9 pages, two classes."""
    for k in range(12):
        pages = np.stack([texture(100 * k + page, (20, 20)) for page in range(4 + k % 6)])
        tiff(tmp_path / "src" / ("even" if k % 2 else "odd") / f"series-{k}.tif", pages)
    return imported(tmp_path / "src", home)[1]


@pytest.mark.parametrize("data", [SERIES, VOLUME], ids=["series", "volume"])
def test_a_dataset_of_series_is_kept_as_a_memory_map_with_what_use_sees(dataset: Dataset, data: Data):
    made = dataset.prepared(data)
    assert made.images.shape == (12, *data.shape) and isinstance(made.images, np.memmap)
    for index in (0, 5, 11):
        again = quantize(prepare(dataset.scan(index), data), made.unit)
        assert np.array_equal(made.images[index], again)
    assert np.array_equal(made.rows([7, 2]), made.images[[7, 2]])
    train = made.images[dataset.splits == "train"] / made.unit
    axes = (0, 1, 3, 4) if data.slices == "series" else (0, 2, 3, 4)
    assert made.mean == pytest.approx(train.mean(axes)) and made.std == pytest.approx(train.std(axes))
    mean, std = normalization(Experiment(data=data), made)
    batch = torch.from_numpy(made.images[:3] / made.unit).float()
    normal = (batch - by_channel(mean, data, torch.device("cpu"))) / by_channel(std, data, torch.device("cpu"))
    assert normal.shape == batch.shape and abs(float(normal.mean())) < 1


def test_colour_statistics_are_those_of_each_channel_in_both_layouts(tmp_path: Path, home: Path):
    for k in range(6):
        pages = np.stack(
            [np.dstack([texture(9 * k + p), texture(9 * k + p) // 2, texture(9 * k + p) // 4]) for p in (0, 1)]
        )
        tiff(tmp_path / "rgb" / "ab"[k % 2] / f"{k}.tif", pages)
    dataset = imported(tmp_path / "rgb", home)[1]
    found = [dataset.prepared(d.model_copy(update={"colour": "rgb", "num_slices": 2})).mean for d in (SERIES, VOLUME)]
    assert np.array_equal(found[0], found[1]) and found[0][0] > 1.8 * found[0][1] > 3.2 * found[0][2]


def test_another_number_or_choice_of_slices_is_another_cache_and_pictures_keep_theirs():
    old = digest(Data(), 255, 10)
    assert old == "bab43c4159d13516", "caches from before series existed stay reachable"
    assert digest(Data(num_slices=40), 255, 10) == old
    changes: list[dict[str, Any]] = [{}, {"num_slices": 7}, {"slice_choice": "middle"}, {"slices": "volume"}]
    assert len({digest(SERIES.model_copy(update=change), 255, 10) for change in changes}) == 4


# -- the document -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("colour", "channels"), [("grey", 1), ("rgb", 3)])
def test_the_shape_of_the_input_is_in_the_document(colour, channels):
    def shape(**data: Any) -> tuple[int, ...]:
        return network.input_shape(Experiment(data=Data(size_px=32, colour=colour, **data)))

    assert shape() == (channels, 32, 32)
    assert shape(slices="series", num_slices=5) == (5, channels, 32, 32)
    assert shape(slices="volume", num_slices=5) == (channels, 5, 32, 32)


def test_documents_from_before_series_load_unchanged_with_the_digest_they_had():
    now = Experiment()
    old = now.model_dump(mode="json")
    del old["data"]["num_slices"], old["data"]["slice_choice"]
    assert Experiment.checked(old) == now
    assert now.digest == "6bfab1ac2e6e895ec5d3ddb45b752276f5e14c2942439b0147bf6cbb1207ce48"
    series = now.replace("data.slices", "series")
    assert len({e.digest for e in (now, series, series.replace("data.num_slices", 20))}) == 3


# -- varied as one ----------------------------------------------------------------------------------------------------


def augment(layout: str, **chosen: dict[str, float]) -> Augment:
    complete = [
        Choice(name=name, params={**AUGMENTATIONS[name].defaults, "probability": 1.0, **params})
        for name, params in chosen.items()
    ]
    return Augment(complete, layout=layout)


def varied(made: Augment, images: torch.Tensor, seed: int = 4) -> torch.Tensor:
    return made(images, torch.Generator().manual_seed(seed)).images


GEOMETRY: dict[str, dict[str, float]] = {"rotate": {"degrees": 40.0}, "zoom": {}, "shift": {"fraction": 0.2}}
GREY: dict[str, dict[str, float]] = {"brightness": {"amount": 0.3}, "gamma": {"amount": 0.5}, "blur": {}}


@pytest.mark.parametrize("layout", ["series", "volume"])
@pytest.mark.parametrize("chosen", [GEOMETRY, {"flip_vertical": {}}, GREY, GEOMETRY | GREY], ids=lambda c: " ".join(c))
def test_all_slices_of_a_case_are_varied_alike_and_cases_differently(layout, chosen):
    one = torch.rand(1, 1, 24, 24, generator=torch.Generator().manual_seed(0)) * 0.6 + 0.2
    same = one.expand(4, 5, 1, 24, 24) if layout == "series" else one[:, None].expand(4, 1, 5, 24, 24)
    out = varied(augment(layout, **chosen), same.contiguous())
    assert out.shape == same.shape and out.is_contiguous()
    slices = out if layout == "series" else out.transpose(1, 2)
    assert torch.allclose(slices, slices[:, :1].expand_as(slices), atol=1e-6)
    if "flip_vertical" not in chosen:
        assert (slices[0, 0] - slices[1, 0]).abs().max() > 0.01
    assert not torch.equal(out, same)


@pytest.mark.parametrize("layout", ["series", "volume"])
def test_a_series_is_varied_as_its_slices_would_be_each_with_the_same_dice(layout):
    images = torch.rand(3, 4, 1, 20, 20) * 0.5 + 0.2
    given = images if layout == "series" else images.transpose(1, 2).contiguous()
    out = varied(augment(layout, **GEOMETRY, brightness={}), given)
    out = out if layout == "series" else out.transpose(1, 2)
    for k in range(4):
        alone = varied(augment("maps", **GEOMETRY, brightness={}), images[:, k])
        assert torch.allclose(out[:, k], alone, atol=1e-6)


@pytest.mark.parametrize("layout", ["series", "volume"])
def test_colour_jitter_turns_the_colours_of_every_slice_alike(layout):
    images = torch.rand(2, 4, 3, 8, 8) * 0.4 + 0.3
    given = images if layout == "series" else images.transpose(1, 2).contiguous()
    jitter = {"colour": {"saturation": 0.4, "hue": 0.1}}
    out = varied(augment(layout, **jitter), given)
    out = out if layout == "series" else out.transpose(1, 2)
    for k in range(4):
        assert torch.allclose(out[:, k], varied(augment("maps", **jitter), images[:, k]), atol=1e-5)
    grey = given[:, :, :1] if layout == "series" else given[:, :1]
    assert torch.equal(varied(augment(layout, **jitter), grey.contiguous()), grey)


def test_noise_is_new_in_every_slice():
    out = varied(augment("series", noise={"sigma": 0.2}), torch.full((1, 3, 1, 16, 16), 0.5))
    assert (out[0, 0] - out[0, 1]).abs().mean() > 0.001


def test_an_unknown_layout_is_refused():
    with pytest.raises(ValueError, match="maps, series and volume"):
        Augment([], layout="film")


# -- what the check says of it ----------------------------------------------------------------------------------------


def about_slices(data: Data, **num_slices: int) -> list[Problem]:
    """What the check says of `data.slices` and its settings for data of so many slices."""
    counts = {split: {"a": 30, "b": 30} for split in ("train", "val", "test")}
    facts = Fingerprint(num_cases=180, num_patients=90, classes=("a", "b"), class_counts=counts, num_slices=num_slices)
    found = problems(Experiment(data=data.model_copy(update={"dataset": "x"})), facts)
    return [p for p in found if p.path in ("data.slices", "data.num_slices", "data.slice_choice")]


def test_a_series_of_single_pictures_is_refused_with_a_repair():
    for data in (SERIES, VOLUME):
        (problem,) = about_slices(data, min=1, median=1, max=1)
        assert problem.severity == "error" and f"a {data.slices} needs scans of several slices" in problem.message
        assert problem.fix is not None and problem.fix.data.slices == "middle"
        assert not about_slices(problem.fix.data, min=1, median=1, max=1)


@pytest.mark.parametrize(
    ("counts", "way", "words", "better"),
    [
        ({"min": 3, "median": 4, "max": 9}, "spread", "of only 3 slices.*shown several times", 4),
        ({"min": 3, "median": 4, "max": 9}, "middle", "of only 3 slices.*black slices", 4),
        ({"min": 1, "median": 8, "max": 9}, "spread", "single pictures", 2),
        ({"min": 2, "median": 8, "max": 9}, "spread", "", None),
        ({"min": 6, "median": 6, "max": 6}, "spread", "", None),
    ],
)
def test_scans_of_too_few_slices_are_warned_of_with_a_number_that_fits(counts, way, words, better):
    found = about_slices(SERIES.model_copy(update={"slice_choice": way}), **counts)
    if not words:
        assert not found
        return
    (problem,) = found
    assert problem.severity == "warning" and re.search(words, problem.message), problem.message
    assert problem.fix is not None and problem.fix.data.num_slices == better


def test_pictures_of_a_series_need_no_word_and_odd_numbers_are_mended():
    assert not about_slices(Data(), min=1, median=1, max=1) and not about_slices(Data(), min=9, median=9, max=9)
    (problem,) = about_slices(SERIES.model_copy(update={"num_slices": 1}), min=9, median=9, max=9)
    assert problem.severity == "error" and problem.fix is not None and problem.fix.data.num_slices == 2


def test_memory_is_counted_for_every_slice_and_too_many_are_refused_in_words():
    nodes = [Node(id="conv", name="conv2d", params={"out_channels": 64}), Node(id="pool", name="global_pool")]
    nodes += [Node(id="gru", name="gru"), Node(id="out", name="class_scores")]
    one = Experiment(data=SERIES, network=tuple(nodes))
    planned = network.plan_of(one, 2)
    assert planned["conv"].activations == 6 * 64 * 16 * 16 and planned["conv"].each
    assert planned.training_bytes(4) > 2 * 4 * 4 * planned["conv"].activations
    counts = {split: {"a": 30, "b": 30} for split in ("train", "val", "test")}
    slices = {"min": 600, "median": 600, "max": 600}
    facts = Fingerprint(num_cases=180, num_patients=90, classes=("a", "b"), class_counts=counts, num_slices=slices)
    huge = one.replace("data.num_slices", 512).replace("data.size_px", 1024).replace("data.dataset", "x")
    found = [p for p in problems(huge, facts) if p.severity == "error"]
    assert found and "GiB" in found[0].message
