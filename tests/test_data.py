"""The dataset on disk and the one preprocessing: what was imported comes back, and use sees what training saw."""

import json
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_files import dicom, drained, imported, npz, picture, texture

from builder import data as data_module
from builder.data import Dataset, Pseudonyms, UnknownDataset, UnusableScan, datasets, delete, place, prepare, quantize
from builder.fingerprint import Fingerprint
from builder.intake import Source, SourceRefused, import_scans
from builder.scan import Scan, Window, display
from builder.spec import Data
from builder.writing import sweep, writing


@pytest.fixture
def small(tmp_path: Path, home: Path) -> Dataset:
    return imported(npz(tmp_path / "small.npz"), home)[1]


def _scan(pixels: np.ndarray, **facts) -> Scan:
    return Scan(pixels, bits=8 * pixels.dtype.itemsize, **facts)


# -- reading


def test_a_dataset_gives_back_what_was_imported(tmp_path, home):
    path = npz(tmp_path / "x.npz")
    _, dataset = imported(path, home)
    arrays = np.load(path)
    for split in ("train", "val", "test"):
        rows = dataset.indices(split)
        assert np.array_equal(np.stack([dataset.scan(i).pixels[0, 0] for i in rows]), arrays[f"{split}_images"])
        assert np.array_equal(dataset.labels[rows], arrays[f"{split}_labels"][:, 0])
    assert dataset.classes == ("class 0", "class 1")
    assert len(dataset) == 60 and len(set(dataset.patients)) == 60


def test_windows_padding_and_spacing_survive_the_way_to_disk(tmp_path, home):
    pixels = (texture(0).astype(np.int16) * 8 - 1000).astype(np.int16)
    pixels[:8] = -2000
    table = (0.0, 0.25, 1.0)
    scan = Scan(
        pixels[None, None],
        (2.5, 0.5, 0.75),
        "CT",
        "MONOCHROME1",
        16,
        (Window(40, 400, "SIGMOID"), Window(0, 300, "TABLE", "", table)),
        format="dicom",
        notes=("noted",),
        valid=(pixels > -2000)[None],
    )
    back = _stored(home, scan)
    assert np.array_equal(back.pixels, scan.pixels) and back.pixels.dtype == np.int16
    assert back.valid is not None and np.array_equal(back.valid, pixels[None] > -2000)
    nothing = np.zeros(0)
    bare, wanted = replace(back, pixels=nothing, valid=None), replace(scan, pixels=nothing, valid=None)
    assert bare == wanted
    for window in ("auto", "percentile", "ct lung"):
        assert np.array_equal(display(back, window), display(scan, window))


def _stored(home: Path, scan: Scan) -> Scan:
    """The scan after a round trip through a dataset of one case."""
    from builder import intake
    from builder.decoding import Outcome
    from builder.sources import Arrangement, Found, Item

    with writing(home, "one", "recognition") as draft:
        run = intake._Intake(draft, Arrangement("folder", (), ()), False)
        run._accept(Outcome((Item(Found(Path("x"), "x", 1)),), scan), scan)
        id = run.finish({"train": 1, "val": 0, "test": 0}, 0).dataset
    return Dataset.open(home, id).scan(0)


@settings(max_examples=25, deadline=None)
@given(
    dtype=st.sampled_from(["uint8", "uint16", "int16", "float32"]),
    shape=st.tuples(st.integers(1, 3), st.sampled_from([1, 3]), st.integers(4, 9), st.integers(4, 9)),
    seed=st.integers(0, 9),
)
def test_every_type_and_shape_survives_the_way_to_disk(tmp_path_factory, dtype, shape, seed):
    pixels = (np.random.default_rng(seed).normal(100, 50, shape)).astype(dtype)
    back = _stored(tmp_path_factory.mktemp("home"), Scan(pixels, bits=8))
    assert back.pixels.dtype == dtype and np.array_equal(back.pixels, pixels)


def test_a_volume_is_mapped_and_not_read(tmp_path, home, monkeypatch):
    monkeypatch.setattr(data_module, "_READ_BYTES", 10)
    _, dataset = imported(npz(tmp_path / "x.npz"), home)
    assert isinstance(dataset.scan(0).pixels.base, np.memmap) or isinstance(dataset.scan(0).pixels, np.memmap)


def test_datasets_are_listed_without_reading_their_cases(small, home):
    (small.folder / "cases.jsonl").write_text("broken")
    (summary,) = datasets(home)
    assert (summary.name, summary.num_cases, summary.fingerprint.classes) == ("set", 60, ("class 0", "class 1"))
    assert summary.bytes > 60 * 28 * 28


def test_a_dataset_opens_by_name_when_only_one_has_it(tmp_path, home, small):
    assert Dataset.open(home, "set").id == small.id
    imported(npz(tmp_path / "y.npz", seed=1), home)
    with pytest.raises(UnknownDataset, match="2 datasets are called 'set'"):
        Dataset.open(home, "set")
    with pytest.raises(UnknownDataset, match="known are: set"):
        Dataset.open(home, "other")


@pytest.mark.parametrize("id", ["../../etc", "20260101-000000-abcdef", "", "/"])
def test_an_id_is_never_a_path(home, small, id):
    with pytest.raises(UnknownDataset):
        Dataset.open(home, id)
    with pytest.raises(UnknownDataset):
        delete(home, id)
    assert small.folder.exists()


def test_deleting_leaves_nothing(small, home):
    delete(home, small.id)
    assert datasets(home) == [] and list((home / "datasets").iterdir()) == []


def test_pseudonyms_hold_on_one_machine_and_only_there(tmp_path):
    here, again, there = Pseudonyms(tmp_path / "a"), Pseudonyms(tmp_path / "a"), Pseudonyms(tmp_path / "b")
    assert here("patient", "Doe") == again("patient", " Doe ") != here("name", "Doe")
    assert here("patient", "Doe") != there("patient", "Doe")
    assert (tmp_path / "a" / "salt").stat().st_mode & 0o777 == 0o600


def test_two_processes_agree_on_the_salt(tmp_path):
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(Pseudonyms(tmp_path)("x", "y"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1 and len(found) == 8


# -- writing


def test_an_import_that_fails_half_way_leaves_nothing(tmp_path, home):
    steps = import_scans(Source("files", npz(tmp_path / "x.npz")), "half", home)
    next(steps)
    next(steps)
    steps.close()
    assert datasets(home) == [] and list((home / "datasets").iterdir()) == []


def test_adding_that_fails_half_way_leaves_the_dataset_as_it_was(tmp_path, home, small):
    before = {path.name: path.read_bytes() for path in small.folder.iterdir() if path.is_file()}
    steps = import_scans(Source("files", npz(tmp_path / "y.npz", seed=1)), "", home, into=small.id)
    next(steps)
    next(steps)
    steps.close()
    assert {path.name: path.read_bytes() for path in small.folder.iterdir() if path.is_file()} == before


def test_what_a_killed_import_wrote_behind_the_end_is_cut_off(tmp_path, home, small):
    with open(small.folder / "cases.jsonl", "a") as file:
        file.write('{"half a line')
    with open(small.folder / "pixels.bin", "ab") as pixels:
        pixels.write(b"garbage")
    assert len(Dataset.open(home, small.id).cases) == 60
    _, grown = imported(npz(tmp_path / "y.npz", seed=1), home, into=small.id)
    assert len(grown.cases) == 120
    first = np.load(tmp_path / "y.npz")["train_images"][0]
    assert np.array_equal(grown.scan(60).pixels[0, 0], first)


def test_leftovers_of_killed_imports_are_swept_but_running_ones_are_not(home):
    with writing(home, "running", "recognition") as draft:
        dead = home / "datasets" / ".importing-20200101-000000-000000"
        dead.mkdir()
        (dead / "pixels.bin").write_bytes(b"x")
        sweep(home)
        assert not dead.exists() and draft.folder.exists()


def test_two_imports_into_one_dataset_do_not_mix(tmp_path, home, small):
    with writing(home, "", "recognition", small.id), pytest.raises(SourceRefused, match="Another import"):
        drained(import_scans(Source("files", npz(tmp_path / "y.npz", seed=1)), "", home, into=small.id))
    assert len(Dataset.open(home, small.id).cases) == 60


def test_a_full_disk_is_told_and_nothing_stays(tmp_path, home, monkeypatch):
    from builder.writing import Draft

    def full(self, array):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Draft, "append_array", full)
    with pytest.raises(SourceRefused, match="disk became full"):
        drained(import_scans(Source("files", npz(tmp_path / "x.npz")), "full", home))
    assert list((home / "datasets").iterdir()) == []


# -- preparing


@pytest.mark.parametrize("fit", ["pad", "stretch", "crop"])
@pytest.mark.parametrize("colour", ["grey", "rgb"])
@pytest.mark.parametrize("size", [(40, 64), (64, 40), (64, 64), (300, 20)])
def test_every_fit_gives_a_square_in_zero_to_one(fit, colour, size):
    scan = _scan(texture(0, size)[None, None])
    image = prepare(scan, Data(size_px=32, fit=fit, colour=colour))
    assert image.shape == (3 if colour == "rgb" else 1, 32, 32) and image.dtype == np.float32
    assert image.min() >= 0 and image.max() <= 1 and image.flags.c_contiguous


@pytest.mark.parametrize("fit", ["pad", "stretch", "crop"])
def test_a_picture_of_the_wanted_size_is_not_touched(fit):
    pixels = texture(3)
    image = prepare(_scan(pixels[None, None]), Data(size_px=64, fit=fit))
    assert np.array_equal(quantize(image, 255)[0], pixels)


def test_padding_keeps_the_shape_and_makes_black_borders():
    image = prepare(_scan(np.full((1, 1, 20, 40), 255, np.uint8)), Data(size_px=40, fit="pad"))[0]
    assert np.array_equal(image[10:30], np.ones((20, 40)))
    assert not image[:10].any() and not image[30:].any()


def test_padding_keeps_the_shape_of_the_body_when_pixels_are_not_square():
    scan = _scan(np.full((1, 1, 20, 40), 255, np.uint8), spacing_mm=(None, 2.0, 1.0))
    assert prepare(scan, Data(size_px=40, fit="pad")).min() == 1.0


def test_crop_takes_the_middle():
    pixels = np.zeros((1, 1, 20, 60), np.uint8)
    pixels[..., 20:40] = 255
    assert prepare(_scan(pixels), Data(size_px=20, fit="crop")).min() == 1.0


def test_reducing_is_antialiased():
    stripes = np.zeros((1, 1, 64, 64), np.uint8)
    stripes[..., ::2] = 255
    image = prepare(_scan(stripes), Data(size_px=16))
    assert np.abs(image[..., 2:-2] - 0.5).max() < 0.1


def test_slices_become_one_picture_as_asked():
    volume = np.stack([np.full((1, 16, 16), value, np.uint8) for value in (0, 255, 51)])
    values = {s: float(prepare(_scan(volume), Data(size_px=16, slices=s)).max()) for s in ("middle", "mean", "maximum")}
    assert values == pytest.approx({"middle": 1.0, "mean": 0.4, "maximum": 1.0})


def test_colour_becomes_grey_by_luminance_and_grey_becomes_three_equal_channels():
    red = np.zeros((1, 3, 16, 16), np.uint8)
    red[:, 0] = 255
    assert prepare(_scan(red, photometric="RGB"), Data(size_px=16)).max() == pytest.approx(0.299)
    grey = prepare(_scan(texture(0, (16, 16))[None, None]), Data(size_px=16, colour="rgb"))
    assert np.array_equal(grey[0], grey[1]) and np.array_equal(grey[0], grey[2])


def test_the_same_picture_saved_as_grey_and_as_rgb_gives_the_same_input():
    pixels = texture(5, (40, 40))[None, None]
    rgb = _scan(np.repeat(pixels, 3, axis=1), photometric="RGB")
    assert np.array_equal(prepare(_scan(pixels), Data(size_px=32)), prepare(rgb, Data(size_px=32)))


def test_white_is_black_on_monochrome1_film():
    pixels = texture(5)[None, None]
    film = prepare(_scan(pixels, photometric="MONOCHROME1"), Data(size_px=64))
    assert np.allclose(film, 1 - prepare(_scan(pixels), Data(size_px=64)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused(value):
    pixels = np.zeros((1, 1, 16, 16), np.float32)
    pixels[0, 0, 3, 3] = value
    with pytest.raises(UnusableScan, match="not finite"):
        prepare(_scan(pixels), Data(size_px=16))


def test_quantizing_twice_changes_nothing():
    for unit, kind in ((255, np.uint8), (65535, np.uint16)):
        every = np.arange(unit + 1, dtype=kind)
        assert np.array_equal(quantize(every.astype(np.float32) / np.float32(unit), unit), every)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.integers(1, 200), st.sampled_from(["pad", "stretch", "crop"]), st.floats(0.2, 5))
def test_a_place_lies_in_the_square_and_leads_back_into_the_picture(height, width, fit, aspect):
    found = place(height, width, Data(size_px=64, fit=fit), aspect)
    assert found.left >= 0 and found.top >= 0
    assert found.left + found.width <= 64 and found.top + found.height <= 64
    x, y = found.to_source(found.left + found.width / 2, found.top + found.height / 2)
    assert x == pytest.approx(width / 2, abs=1e-3) and y == pytest.approx(height / 2, abs=1e-3)


def test_prepared_images_are_the_whole_dataset_with_the_statistics_of_train(small):
    told: list[tuple[int, int]] = []
    made = small.prepared(Data(size_px=28), lambda done, total: told.append((done, total)))
    assert made.images.shape == (60, 1, 28, 28) and made.images.dtype == np.uint8 and made.unit == 255
    assert np.array_equal(made.images[7, 0], small.scan(7).pixels[0, 0])
    train = made.images[small.indices("train")] / 255
    assert made.mean[0] == pytest.approx(train.mean()) and made.std[0] == pytest.approx(train.std())
    assert told[-1] == (60, 60)
    told.clear()
    small.prepared(Data(size_px=28, normalize="none"), lambda done, total: told.append((done, total)))
    assert not told, "normalisation does not change the stored pixels: the cache is used"


def test_rows_read_from_the_file_equal_the_map(small):
    made = small.prepared(Data(size_px=28))
    rows = np.array([5, 0, 59, 5, -1])
    assert np.array_equal(made.rows(rows), made.images[rows])
    out = np.empty((5, 1, 28, 28), np.uint8)
    assert made.rows(rows, out) is out
    with pytest.raises(IndexError):
        made.rows([60])


def test_sixteen_bit_sources_keep_more_than_eight_bits(tmp_path, home):
    deep = np.random.default_rng(0).integers(0, 65536, (10, 28, 28), dtype=np.uint16)
    np.savez(tmp_path / "deep.npz", train_images=deep, train_labels=np.arange(10)[:, None] % 2)
    _, dataset = imported(tmp_path / "deep.npz", home)
    made = dataset.prepared(Data(size_px=28, window="stored range"))
    assert made.unit == 65535 and np.array_equal(made.images[:, 0], deep)


def test_two_builders_at_once_end_with_one_whole_cache(small):
    results, errors = [], []

    def build():
        try:
            results.append(Dataset.open(small.home, small.id).prepared(Data(size_px=48)))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=build) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and all(np.array_equal(results[0].images, r.images) for r in results)
    assert len(list((small.folder / "prepared").iterdir())) == 1


def test_a_build_that_breaks_off_leaves_no_cache(small):
    def broken(done: int, total: int) -> None:
        if done == 30:
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError):
        small.prepared(Data(size_px=28), broken)
    assert list((small.folder / "prepared").iterdir()) == []


def test_adding_cases_makes_new_prepared_images_and_keeps_open_ones_readable(tmp_path, home, small):
    before = small.prepared(Data(size_px=28))
    first = before.images[:].copy()
    _, grown = imported(npz(tmp_path / "y.npz", seed=1), home, into=small.id)
    assert grown.prepared(Data(size_px=28)).images.shape[0] == 120
    assert np.array_equal(before.rows(range(60)), first)


@pytest.mark.parametrize(
    "data", [Data(size_px=32), Data(size_px=48, colour="rgb", window="ct soft tissue", fit="crop")]
)
def test_a_file_in_use_gives_bit_for_bit_what_training_saw(tmp_path, home, data):
    from builder.sandbox import Sandbox

    folder = tmp_path / "scans"
    files = [
        dicom(folder / "a" / "one.dcm", 1, PatientID="p1", WindowCenter=40, WindowWidth=300),
        dicom(folder / "b" / "two.dcm", 2, PatientID="p2", PixelSpacing=[0.5, 0.8], PixelPaddingValue=-400),
        picture(folder / "b" / "three.png", 3, (50, 80)),
        picture(folder / "a" / "four.jpg", 4, (90, 33), colour=True),
    ]
    _, dataset = imported(folder, home, "classes")
    made = dataset.prepared(data)
    with Sandbox() as box:
        for file in files:
            (entry,) = dataset.find(file.name)
            index = [case.id for case in dataset.cases].index(entry.case)
            used = quantize(prepare(box.read(file), data), made.unit)
            assert np.array_equal(used, made.images[index]), file.name


# -- the fingerprint, and the price of importing this module


def test_a_fingerprint_survives_json_and_ignores_what_it_does_not_know(small):
    plain = json.loads(json.dumps(small.fingerprint.to_json()))
    assert Fingerprint.from_json({**plain, "from_the_future": 1}) == small.fingerprint


def test_the_ledger_finds_a_file_by_its_typed_name_and_holds_none(small):
    (entry,) = small.find("train 3")
    assert (entry.status, entry.case, entry.name) == ("accepted", "c000003", "")
    assert small.find("train 999") == []


def test_importing_data_is_quick_and_brings_nothing_heavy():
    code = """
import numpy, pydantic, sys, time
start = time.process_time()
import builder.data
print(time.process_time() - start)
heavy = [n for n in ("torch", "sklearn", "scipy", "PIL", "pydicom", "pandas") if n in sys.modules]
assert not heavy, heavy
"""
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(3)]
    assert min(float(run.stdout) for run in runs) < 0.2
