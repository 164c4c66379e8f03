"""The reader: what comes out of files whose content is known, and what is refused in which words."""

from __future__ import annotations

import io
import itertools
import logging
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import corpus
import numpy as np
import pytest
from corpus import (
    dicom_bytes,
    dicom_dataset,
    nifti_bytes,
    picture_bytes,
    png_bytes,
    slice_bytes,
    white_is_zero,
    written,
)
from PIL import Image

from builder import scans
from builder.scans import Scan, Unreadable, Window, display

Reader = Callable[..., Scan]


@pytest.fixture
def read(tmp_path: Path) -> Reader:
    def read(data: bytes) -> Scan:
        path = tmp_path / "file"
        path.write_bytes(data)
        return scans.read(path)

    return read


@pytest.fixture
def series(tmp_path: Path) -> Reader:
    def read(files: list[bytes]) -> Scan:
        paths = [tmp_path / f"{i}" for i in range(len(files))]
        for path, data in zip(paths, files, strict=True):
            path.write_bytes(data)
        return scans.read_series(paths)

    return read


# --- DICOM: values


def test_hounsfield_units_are_integers_when_slope_and_intercept_are(read: Reader):
    stored = np.arange(256, dtype=np.uint16).reshape(16, 16) * 16
    scan = read(dicom_bytes(stored, BitsStored=12, HighBit=11, RescaleSlope=1, RescaleIntercept=-1024))
    assert scan.pixels.dtype == np.int16
    assert np.array_equal(scan.pixels[0, 0], stored.astype(int) - 1024)


def test_a_fractional_slope_gives_floats(read: Reader):
    stored = np.arange(256, dtype=np.uint16).reshape(16, 16)
    scan = read(dicom_bytes(stored, RescaleSlope=0.5, RescaleIntercept=-3))
    assert scan.pixels.dtype == np.float32
    assert np.array_equal(scan.pixels[0, 0], stored * 0.5 - 3)


def test_a_rescale_that_leaves_16_bits_gives_floats_and_no_overflow(read: Reader):
    stored = np.full((16, 16), 60000, np.uint16)
    stored[0, 0] = 0
    scan = read(dicom_bytes(stored, RescaleSlope=3, RescaleIntercept=-10))
    assert scan.pixels.dtype == np.float32
    assert scan.pixels.max() == 179990 and scan.pixels.min() == -10


def test_unsigned_16_bit_values_are_never_clipped(read: Reader):
    stored = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    scan = read(dicom_bytes(stored))
    assert scan.pixels.dtype == np.uint16 and np.array_equal(scan.pixels[0, 0], stored)


def test_junk_above_the_stored_bits_is_masked(read: Reader):
    values = (np.arange(256, dtype=np.uint16) * 16).reshape(16, 16) & 0x0FFF
    scan = read(dicom_bytes(values | 0xA000, BitsStored=12, HighBit=11))
    assert np.array_equal(scan.pixels[0, 0], values) and scan.bits == 12


def test_a_sign_bit_below_the_top_is_extended(read: Reader):
    values = np.arange(-128, 128, dtype=np.int16).reshape(16, 16) * 16
    scan = read(dicom_bytes(values & 0x0FFF, BitsStored=12, HighBit=11, PixelRepresentation=1))
    assert np.array_equal(scan.pixels[0, 0], values)


def test_values_that_lie_high_in_the_word_are_shifted_down(read: Reader):
    values = (np.arange(256, dtype=np.uint16) * 16).reshape(16, 16)
    scan = read(dicom_bytes((values << 4) | 0x0005, BitsStored=12, HighBit=15))
    assert np.array_equal(scan.pixels[0, 0], values)


def test_padding_is_masked_and_keeps_its_value(read: Reader):
    stored = np.full((16, 16), 100, np.int16)
    stored[:4] = -2000
    ds = dicom_dataset(stored, RescaleSlope=1, RescaleIntercept=-24)
    ds.add_new(0x00280120, "SS", -2000)
    scan = read(written(ds))
    assert scan.valid is not None and scan.valid.shape == (1, 16, 16)
    assert not scan.valid[0, :4].any() and scan.valid[0, 4:].all()
    assert (scan.pixels[0, 0, :4] == -2024).all()
    assert (display(scan, "ct lung")[0, 0, :4] == 0).all()


def test_a_range_of_padding_is_masked(read: Reader):
    stored = np.arange(256, dtype=np.uint16).reshape(16, 16)
    scan = read(dicom_bytes(stored, PixelPaddingValue=0, PixelPaddingRangeLimit=15))
    assert scan.valid is not None and (~scan.valid).sum() == 16


def test_a_modality_table_is_applied(read: Reader):
    item = dicom_dataset().__class__()
    item.LUTDescriptor, item.LUTData = [4, 10, 16], np.array([0, 500, 1000, 60000], "<u2").tobytes()
    stored = np.repeat(np.array([5, 10, 12, 200], np.uint16), 64).reshape(16, 16)
    scan = read(dicom_bytes(stored, ModalityLUTSequence=[item]))
    assert sorted(set(scan.pixels.ravel().tolist())) == [0, 1000, 60000]
    assert scan.pixels.dtype == np.uint16 and scan.bits == 16


def test_the_part_of_the_body_is_told_where_it_is_a_code(read: Reader):
    assert read(dicom_bytes(BodyPartExamined="CHEST")).body == "CHEST"
    assert read(dicom_bytes(BodyPartExamined="of Mrs^Example")).body == read(dicom_bytes()).body == ""


def test_palette_colours_become_red_green_and_blue(read: Reader):
    index = np.arange(256, dtype=np.uint8).reshape(16, 16)
    ds = dicom_dataset(index, PhotometricInterpretation="PALETTE COLOR")
    tables = {"Red": np.arange(256), "Green": 255 - np.arange(256), "Blue": np.full(256, 7)}
    for colour, table in tables.items():
        setattr(ds, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, 8])
        setattr(ds, f"{colour}PaletteColorLookupTableData", table.astype(np.uint8).tobytes())
    scan = read(written(ds))
    assert scan.photometric == "RGB" and scan.pixels.shape == (1, 3, 16, 16)
    assert np.array_equal(scan.pixels[0], np.stack([index, 255 - index, np.full_like(index, 7)]))


def test_ybr_becomes_rgb(read: Reader):
    grey = np.full((16, 16, 3), 128, np.uint8)
    grey[..., 0] = 90
    scan = read(dicom_bytes(grey, SamplesPerPixel=3, PhotometricInterpretation="YBR_FULL"))
    assert scan.photometric == "RGB" and (scan.pixels == 90).all()


def test_planes_of_colour_are_told_from_pixels_of_colour(read: Reader):
    rgb = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    by_pixel = dicom_bytes(rgb, SamplesPerPixel=3)
    ds = dicom_dataset(rgb, SamplesPerPixel=3, PlanarConfiguration=1)
    ds.PixelData = np.moveaxis(rgb, -1, 0).tobytes()
    for data in (by_pixel, written(ds)):
        assert np.array_equal(read(data).pixels[0], np.moveaxis(rgb, -1, 0))


def test_native_ybr_422_is_read_in_every_frame(read: Reader):
    ds = dicom_dataset(np.zeros((3, 16, 16, 3), np.uint8), SamplesPerPixel=3, PhotometricInterpretation="YBR_FULL_422")
    ds.PixelData = b"".join(bytes([10 * i + 50, 10 * i + 50, 128, 128]) * 128 for i in range(3))
    assert read(written(ds)).pixels[:, 0, 0, 0].tolist() == [50, 60, 70]


# --- DICOM: frames and space


def _enhanced(places: list[float], slopes: list[float]) -> bytes:
    new = dicom_dataset().__class__
    frames = np.stack([np.full((16, 16), i + 1, np.uint16) for i in range(len(places))])
    frames[:, 0, 0] = 0
    ds = dicom_dataset(frames)
    shared = new()
    orientation, measures = new(), new()
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    measures.PixelSpacing = [0.5, 0.25]
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    ds.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for place, slope in zip(places, slopes, strict=True):
        group, position, values = new(), new(), new()
        position.ImagePositionPatient = [0, 0, place]
        values.RescaleSlope, values.RescaleIntercept = slope, 0
        group.PlanePositionSequence, group.PixelValueTransformationSequence = [position], [values]
        groups.append(group)
    ds.PerFrameFunctionalGroupsSequence = groups
    return written(ds)


def test_enhanced_frames_are_sorted_by_position_and_rescaled_each_by_its_own_slope(read: Reader):
    scan = read(_enhanced([6.0, 0.0, 3.0], [10, 20, 30]))
    assert scan.pixels[:, 0, 1, 1].tolist() == [2 * 20, 3 * 30, 1 * 10]
    assert scan.spacing_mm == (3.0, 0.5, 0.25)


def test_frames_at_one_place_keep_their_order(read: Reader):
    scan = read(_enhanced([3.0, 3.0, 0.0], [1, 1, 1]))
    assert scan.pixels[:, 0, 1, 1].tolist() == [1, 2, 3]
    assert any("order of the file" in note for note in scan.notes)


@pytest.mark.parametrize("case", corpus.series_cases(), ids=lambda case: case.id)
def test_a_series_ends_as_the_corpus_says(case: corpus.SeriesCase, series: Reader):
    files = case.make()
    order = np.random.default_rng(1).permutation(len(files))
    shuffled = [files[i] for i in order]
    if case.end != "A":
        with pytest.raises(Unreadable) as caught:
            series(shuffled)
        _assert_plain(caught.value.reason)
        return
    scan = series(shuffled)
    assert len(scan.pixels) == case.slices
    assert any(case.note in note for note in scan.notes), scan.notes


def test_a_series_is_sorted_along_its_normal_not_by_number_or_name(series: Reader):
    places = [10.0, -5.0, 0.0, 5.0]
    files = [slice_bytes(z, i + 1, InstanceNumber=i + 1) for i, z in enumerate(places)]
    scan = series(files)
    assert scan.pixels[:, 0, 0, 0].tolist() == [2, 3, 4, 1]
    assert scan.spacing_mm == (5.0, 0.5, 0.25)


def test_a_sagittal_series_is_sorted_along_its_own_normal(series: Reader):
    files = [
        slice_bytes(0, i + 1, ImageOrientationPatient=[0, 1, 0, 0, 0, -1], ImagePositionPatient=[x, 3, 3])
        for i, x in enumerate((0.0, 4.0, 8.0))
    ]
    assert series(files).pixels[:, 0, 0, 0].tolist() == [3, 2, 1]  # P x I = R: the normal runs to the right


def test_images_of_another_series_are_left_out_and_told(series: Reader):
    files = [slice_bytes(2.0 * i + 1, i + 11, SeriesInstanceUID="1.2.826.0.1.3680043.8.498.4") for i in range(3)]
    files += [slice_bytes(2.0 * i, i + 1) for i in range(4)]
    scan = series(files)
    assert scan.pixels[:, 0, 0, 0].tolist() == [1, 2, 3, 4] and scan.spacing_mm[0] == 2.0
    assert any("3 of 7 images were left out (3 of another series)" in note for note in scan.notes), scan.notes


def test_images_of_two_patients_are_refused(series: Reader):
    files = [slice_bytes(2.0 * i, i + 1, PatientID=f"ZZPHI-{i % 2}") for i in range(4)]
    with pytest.raises(Unreadable, match="images of 2 patients") as caught:
        series(files)
    _assert_plain(caught.value.reason)


def test_the_header_tells_without_pixels(tmp_path: Path):
    path = tmp_path / "slice"
    path.write_bytes(slice_bytes(7.5, 3)[:-400])  # the pixels are cut short: the header must not care
    header = scans.read_header(path)
    assert (header.format, header.modality, header.rows, header.cols) == ("dicom", "CT", 16, 16)
    assert header.position == 7.5 and header.orientation == (1, 0, 0, 0, 1, 0) and header.number == 3
    assert header.spacing_mm == (None, 0.5, 0.25) and not header.localizer


@pytest.mark.parametrize(
    ("data", "format_", "shape"),
    [
        (picture_bytes("PNG"), "png", (1, 1, 64, 64)),
        (picture_bytes("JPEG"), "jpeg", (1, 1, 64, 64)),
        (picture_bytes("MPO", save_all=True, append_images=[Image.new("L", (16, 16))]), "jpeg", (1, 1, 64, 64)),
        (picture_bytes("BMP"), "bmp", (1, 1, 64, 64)),
        (picture_bytes("TIFF"), "tiff", (1, 1, 64, 64)),
        (nifti_bytes(), "nifti", (4, 1, 10, 8)),
        (nifti_bytes(packed=True), "nifti", (4, 1, 10, 8)),
        (dicom_bytes(), "dicom", (1, 1, 16, 16)),
    ],
    ids=["png", "jpeg", "jpeg with a preview", "bmp", "tiff", "nifti", "nifti.gz", "dicom"],
)
def test_header_and_scan_agree_for_every_format(data: bytes, format_: str, shape: tuple, tmp_path: Path):
    path = tmp_path / "any.name"  # the name says nothing: the content decides
    path.write_bytes(data)
    header, scan = scans.read_header(path), scans.read(path)
    assert header.format == scan.format == format_
    assert (header.slices, header.channels, header.rows, header.cols) == scan.pixels.shape == shape
    assert header.bits == scan.bits and header.spacing_mm[1:] == scan.spacing_mm[1:]


# --- windows


def _ramp(low: float = -1000, high: float = 1000, **facts) -> Scan:
    values = np.linspace(low, high, 400).astype(np.float32).reshape(1, 1, 20, 20)
    return Scan(values, bits=16, **facts)


def test_named_windows_follow_the_formula_of_the_standard():
    """PS3.3 C.11.2.1.2.1: y = ((x - (c - 0.5)) / (w - 1) + 0.5)."""
    scan = _ramp()
    for name, (center, width) in scans.NAMED_WINDOWS.items():
        expected = np.clip((scan.pixels - (center - 0.5)) / (width - 1) + 0.5, 0, 1)
        assert np.allclose(display(scan, name), expected, atol=1e-5), name


def test_window_functions_equal_pydicom():
    from pydicom.pixels.processing import apply_windowing

    stored = np.arange(256, dtype=np.uint16).reshape(16, 16) * 16
    for function, (center, width) in itertools.product(
        ("LINEAR", "LINEAR_EXACT", "SIGMOID"), ((2000, 1500), (100.5, 1), (4000, 7))
    ):
        ds = dicom_dataset(stored, BitsStored=12, HighBit=11)
        ds.WindowCenter, ds.WindowWidth, ds.VOILUTFunction = center, width, function
        with np.errstate(over="ignore"):
            expected = apply_windowing(stored, ds) / 4095
        scan = Scan(stored[None, None], bits=12, windows=(Window(center, width, function),))
        assert np.allclose(display(scan), expected[None, None], atol=2e-5), (function, center, width)


def test_windows_of_the_file_come_with_function_and_known_words_only(read: Reader):
    data = dicom_bytes(
        WindowCenter=[40, 400], WindowWidth=[350, 2000], WindowCenterWidthExplanation=["LUNG ZZPHI", "Ms ZZPHI"],
        VOILUTFunction="SIGMOID",
    )  # fmt: skip
    first, second = read(data).windows
    assert (first.center, first.width, first.function, first.name) == (40, 350, "SIGMOID", "lung")
    assert second.name == "window 2"


def test_a_voi_table_of_the_file_is_its_first_window(read: Reader):
    from pydicom import dcmread
    from pydicom.pixels.processing import apply_voi

    stored = np.arange(256, dtype=np.uint16).reshape(16, 16)
    item = dicom_dataset().__class__()
    item.LUTDescriptor = [200, 20, 12]
    item.LUTData = np.array([min(4095, i * i // 8) for i in range(200)], "<u2").tobytes()
    data = dicom_bytes(stored, VOILUTSequence=[item], WindowCenter=100, WindowWidth=50)
    scan = read(data)
    assert [window.function for window in scan.windows] == ["TABLE", "LINEAR"]
    ds = dcmread(io.BytesIO(data))
    assert np.allclose(display(scan)[0, 0], apply_voi(stored, ds) / 4095, atol=1e-5)


def test_damaged_windows_do_not_cost_the_scan(read: Reader):
    scan = read(dicom_bytes(WindowCenter=40, WindowWidth=0))
    assert scan.windows == ()


def test_monochrome1_is_inverted_after_the_window(read: Reader):
    plain = read(dicom_bytes(WindowCenter=100, WindowWidth=50))
    turned = read(dicom_bytes(WindowCenter=100, WindowWidth=50, PhotometricInterpretation="MONOCHROME1"))
    assert np.array_equal(plain.pixels, turned.pixels)
    assert np.allclose(display(turned), 1 - display(plain))


def test_8_bit_pictures_show_as_they_are():
    values = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    assert np.allclose(display(Scan(values)), values / 255, atol=1e-7)


def test_auto_without_a_window_ignores_outliers_and_padding():
    values: np.ndarray = np.linspace(0, 1000, 10_000).astype(np.int16).reshape(1, 1, 100, 100)
    values[0, 0, 0, :10] = 30_000
    values[0, 0, 1] = -30_000
    valid = np.ones((1, 100, 100), bool)
    valid[0, 1] = False
    picture = display(Scan(values, bits=16, valid=valid))
    assert 0.4 < picture[0, 0, 50].mean() < 0.6
    assert (picture[0, 0, 1] == 0).all()


def test_stored_range_spans_the_bits():
    values = np.array([[0, 2047], [4095, 1000]], np.uint16).reshape(1, 1, 2, 2)
    assert np.allclose(display(Scan(values, bits=12), "stored range"), values / 4095)


def test_colour_is_never_windowed(read: Reader):
    rgb = np.random.default_rng(0).integers(0, 65536, (16, 16, 3), np.uint16)
    scan = read(dicom_bytes(rgb, SamplesPerPixel=3, WindowCenter=10, WindowWidth=5))
    assert np.allclose(display(scan, "ct lung")[0], np.moveaxis(rgb, -1, 0) / 65535, atol=1e-6)


def test_an_unknown_window_is_refused_by_name():
    with pytest.raises(ValueError, match="no window called 'ct feet'"):
        display(_ramp(), "ct feet")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
@pytest.mark.parametrize("window", scans.WINDOWS)
def test_every_picture_is_float32_between_0_and_1(dtype: type, window: str):
    rng = np.random.default_rng(0)
    info = np.iinfo(dtype) if np.dtype(dtype).kind != "f" else np.finfo(np.float32)
    low, high = max(float(info.min), -1e30), min(float(info.max), 1e30)
    values: np.ndarray = rng.uniform(low, high, (2, 1, 9, 9)).astype(dtype)
    for pixels in (values, np.full_like(values, 7)):
        picture = display(Scan(pixels, bits=8 * pixels.dtype.itemsize), window)
        assert picture.dtype == np.float32 and picture.shape == pixels.shape
        assert np.isfinite(picture).all() and picture.min() >= 0 and picture.max() <= 1


# --- pictures


def test_a_16_bit_grey_png_keeps_every_bit(read: Reader):
    values = np.linspace(0, 65535, 1024).astype(np.uint16).reshape(32, 32)
    scan = read(picture_bytes("PNG", values))
    assert scan.pixels.dtype == np.uint16 and scan.bits == 16 and np.array_equal(scan.pixels[0, 0], values)


def _filtered(lines: np.ndarray, filters: np.ndarray, step: int) -> np.ndarray:
    """PNG filters applied, row by row, straight from the specification."""
    out, above = np.empty_like(lines), np.zeros(lines.shape[1], int)
    for y, line in enumerate(lines.astype(int)):
        left, corner = np.zeros_like(line), np.zeros_like(line)
        left[step:], corner[step:] = line[:-step], above[:-step]
        guess = left + above - corner
        near = np.stack([abs(guess - left), abs(guess - above), abs(guess - corner)]).argmin(0)
        paeth = np.choose(near, [left, above, corner])
        out[y] = (line - [0 * line, left, above, (left + above) // 2, paeth][filters[y]]) & 255
        above = line
    return out


@pytest.mark.parametrize(("kind", "channels"), [(2, 3), (4, 2), (6, 4)])
@pytest.mark.parametrize("shape", [(13, 17), (300, 5), (4, 40)])
def test_a_16_bit_png_with_colour_or_alpha_keeps_every_bit(kind: int, channels: int, shape: tuple, read: Reader):
    rng = np.random.default_rng(kind)
    values = rng.integers(0, 65536, (*shape, channels)).astype(">u2")
    filters = rng.integers(0, 5, shape[0])
    lines = values.reshape(shape[0], -1).view(np.uint8).reshape(shape[0], -1)
    scan = read(png_bytes(_filtered(lines, filters, 2 * channels), 16, kind, filters=filters))
    planes = np.moveaxis(values.astype(np.uint64), -1, 0)
    if kind != 2:
        planes = (planes[:-1] * planes[-1] + 32767) // 65535
    assert scan.pixels.dtype == np.uint16 and np.array_equal(scan.pixels[0], planes)


def test_colour_of_16_bits_in_a_tiff_is_refused_and_not_halved(read: Reader):
    file = io.BytesIO()
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(file, "TIFF")
    data = bytearray(file.getvalue())
    first = int.from_bytes(data[4:8], "little")
    for i in range(int.from_bytes(data[first : first + 2], "little")):
        at = first + 2 + 12 * i
        if int.from_bytes(data[at : at + 2], "little") == 258:
            where = int.from_bytes(data[at + 8 : at + 12], "little")
            data[where : where + 6] = b"\x10\0" * 3
    with pytest.raises(Unreadable, match="more than 8 bits per colour"):
        read(bytes(data))


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.float32])
def test_a_tiff_keeps_the_type_of_its_values(dtype: type, read: Reader):
    values: np.ndarray = (np.arange(400).reshape(20, 20) * 80.25 - (0 if dtype == np.uint16 else 9000)).astype(dtype)
    scan = read(picture_bytes("TIFF", values))
    assert scan.pixels.dtype == dtype and np.array_equal(scan.pixels[0, 0], values)


@pytest.mark.parametrize("top", [np.uint8(255), np.uint16(65535), np.float32(1)])
def test_a_tiff_whose_0_is_white_is_read_as_it_is_shown_and_a_mask_as_it_is_stored(top: Any, tmp_path: Path):
    values = np.linspace(0, float(top), 400).reshape(20, 20).astype(top.dtype)
    path = tmp_path / "film.tif"
    path.write_bytes(white_is_zero(picture_bytes("TIFF", values)))
    scan = scans.read(path)
    assert scan.pixels.dtype == top.dtype and np.array_equal(scan.pixels[0, 0], top - values)
    if top.dtype != np.uint8:
        assert np.array_equal(scans.collect(scans.open_mask(path, [path])).pixels[0, 0], values)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_orientation_is_applied_once(kind: str, turn: int, read: Reader):
    upright = np.zeros((24, 16), np.uint8)
    upright[:8, :8], upright[-8:, :8] = 240, 120  # bright in the upper left corner, grey in the lower left
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.T,
        6: np.rot90(upright, 1), 7: upright.T[::-1, ::-1], 8: np.rot90(upright, -1),
    }[turn]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = turn
    scan = read(picture_bytes(kind, np.ascontiguousarray(stored), exif=exif))
    assert scan.pixels.shape == (1, 1, 24, 16)
    assert np.abs(scan.pixels[0, 0].astype(int) - upright).max() < 30  # JPEG


def test_transparent_parts_are_laid_over_black_and_told(read: Reader):
    rgba = np.full((16, 16, 4), 200, np.uint8)
    rgba[..., 3] = 255
    assert any("without effect" in note for note in read(picture_bytes("PNG", rgba)).notes)
    rgba[:8, :, 3] = 0
    scan = read(picture_bytes("PNG", rgba))
    assert (scan.pixels[0, :, :8] == 0).all() and (scan.pixels[0, :, 8:] == 200).all()
    assert any("laid over black" in note for note in scan.notes)


def test_a_grey_palette_becomes_grey(read: Reader):
    image = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).convert("P")
    file = io.BytesIO()
    image.save(file, "PNG")
    scan = read(file.getvalue())
    assert scan.pixels.shape == (1, 1, 16, 16) and scan.photometric == "MONOCHROME2"


def test_one_bit_pictures_are_black_and_white(read: Reader):
    scan = read(picture_bytes("PNG", np.eye(16, dtype=bool)))
    assert set(np.unique(scan.pixels)) == {0, 255} and scan.pixels.dtype == np.uint8


# --- volumes


@pytest.mark.parametrize("axes", list(itertools.permutations("RAS")), ids="".join)
@pytest.mark.parametrize("signs", list(itertools.product((1, -1), repeat=3)), ids=str)
def test_nifti_slices_look_like_dicom_slices_of_the_same_plane(axes: tuple, signs: tuple, tmp_path: Path):
    nib: Any = pytest.importorskip("nibabel")
    voxels: np.ndarray = np.random.default_rng(0).integers(0, 1000, (5, 6, 7)).astype(np.int16)
    affine = np.eye(4)
    for column, (axis, sign) in enumerate(zip(axes, signs, strict=True)):
        affine[:3, column] = 0
        affine["RAS".index(axis), column] = sign * (column + 1)
    path = tmp_path / "volume.nii.gz"
    nib.save(nib.Nifti1Image(voxels, affine), path)
    scan = scans.read(path)
    wanted = {"S": "SPL", "A": "PIL", "R": "RIP"}[axes[2]]  # slices, rows, columns run towards these
    turn = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(wanted))
    turned = nib.load(path).as_reoriented(turn)
    assert np.array_equal(scan.pixels[:, 0], np.asanyarray(turned.dataobj))
    assert scan.spacing_mm == pytest.approx(turned.header.get_zooms())


def test_nifti_scaling_is_applied_and_integers_stay_integers(read: Reader):
    voxels = np.arange(8 * 10 * 4, dtype=np.int16).reshape(8, 10, 4)
    whole = read(nifti_bytes(voxels, scl_slope=2, scl_inter=-1000))
    assert whole.pixels.dtype == np.int16 and whole.pixels.max() == 2 * 319 - 1000
    half = read(nifti_bytes(voxels, scl_slope=0.5, scl_inter=1))
    assert half.pixels.dtype == np.float32 and half.pixels.max() == 160.5


@pytest.mark.parametrize("pixdim", [(0, 1, 1.5, 2), (0, -1, -1.5, 2), (1, 1, 1.5, -2)])
def test_a_quaternion_counts_with_lengths_that_have_no_sign_and_with_1_where_none_was_set(pixdim: tuple, read: Reader):
    turned = {"sform_code": 0, "qform_code": 1, "quatern_b": 0.5, "quatern_c": 0.5, "quatern_d": 0.5}
    wanted, mirrored = (read(nifti_bytes(**turned, pixdim=(sign, 1, 1.5, 2, 0, 0, 0, 0))) for sign in (1, -1))
    found = read(nifti_bytes(**turned, pixdim=(*pixdim, 0, 0, 0, 0)))
    assert found.grid is not None and found.grid == wanted.grid != mirrored.grid
    assert np.array_equal(found.pixels, wanted.pixels) and found.spacing_mm == wanted.spacing_mm


def test_voxels_without_orientation_are_read_and_told(read: Reader):
    scan = read(nifti_bytes(sform_code=0, qform_code=0))
    assert scan.pixels.shape == (4, 1, 10, 8)
    assert any("left and right are not known" in note for note in scan.notes)


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_an_nrrd_file_comes_back_as_it_was_written(encoding: str, dtype: type, tmp_path: Path):
    import nrrd

    voxels: np.ndarray = np.arange(8 * 9 * 5).reshape(8, 9, 5).astype(dtype)
    header = {
        "space": "left-posterior-superior",
        "space directions": np.diag([0.5, 0.75, 2.0]),
        "space origin": [0, 0, 0],
        "encoding": encoding,
    }
    path = tmp_path / "volume"
    nrrd.write(str(tmp_path / "volume.nrrd"), voxels, header)
    (tmp_path / "volume.nrrd").rename(path)
    scan = scans.read(path)
    assert scan.pixels.dtype == dtype and scan.spacing_mm == (2.0, 0.75, 0.5)
    assert np.array_equal(scan.pixels[:, 0], voxels.transpose(2, 1, 0))


def test_an_nrrd_header_with_its_voxels_elsewhere_is_refused(read: Reader):
    with pytest.raises(Unreadable, match="in a second file"):
        read(b"NRRD0004\ntype: short\ndimension: 3\nsizes: 4 4 4\nencoding: raw\ndata file: /etc/passwd\n\n")


# --- words


def _assert_plain(reason: str) -> None:
    assert 20 < len(reason) < 300 and reason[0].isupper() and reason.endswith(".")
    assert not re.search(r"Traceback|Error|Exception|0x[0-9a-f]{6}|/tmp|None", reason), reason


CANARY = "ZZPHI"


def _spoiled() -> list[bytes]:
    """Files whose values are so wrong that pydicom complains and quotes them."""
    return [
        dicom_bytes(PatientBirthDate="19000101").replace(b"19000101", b"ZZPHI-01"),
        dicom_bytes(NumberOfFrames=1, SeriesDate="20200101").replace(b"20200101", b"ZZPHI000"),
        corpus._patched(0x00280008, b"IS", b"ZZPHI ", NumberOfFrames=1),
        corpus._patched(0x00281053, b"DS", b"ZZPHI!", RescaleSlope=1, RescaleIntercept=0),
        dicom_bytes(Modality="ZZPHI^NAME", ImageType=["ZZPHI", "ZZPHI"], SeriesDescription="ZZPHI"),
        dicom_bytes(PhotometricInterpretation="ZZPHI"),
        dicom_bytes(SOPClassUID="1.2.ZZPHI", PixelData=None),
    ]


def test_nothing_of_the_content_gets_into_logs_warnings_reasons_or_notes(tmp_path: Path, caplog, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spoiled = _spoiled()
    capfd.readouterr()
    caplog.clear()
    told: list[str] = []
    with warnings.catch_warnings(record=True) as caught, caplog.at_level(logging.DEBUG):
        warnings.simplefilter("always")
        for i, data in enumerate(spoiled):
            path = tmp_path / f"{i}"
            path.write_bytes(data)
            for work in (scans.read, scans.read_header):
                try:
                    found = work(path)
                    told.append(f"{getattr(found, 'notes', '')}{found.modality}{found.photometric}")
                except Unreadable as error:
                    told.append(repr(error) + repr(error.__context__) + repr(error.__cause__))
    seen = told + [str(warning.message) for warning in caught] + [caplog.text, *capfd.readouterr()]
    assert not [words for words in seen if CANARY in words]


def test_a_reason_has_no_hidden_cause(read: Reader):
    with pytest.raises(Unreadable) as caught:
        read(dicom_bytes(NumberOfFrames=-5))
    assert caught.value.__cause__ is None and caught.value.__context__ is None


def test_folders_and_missing_files_are_refused_in_words(tmp_path: Path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(Unreadable, match="could not be opened"):
            scans.read(path)


def test_an_unknown_file_is_told_by_what_it_is(read: Reader):
    for data, words in (
        (b"GIF89a" + b"\0" * 50, "GIF animation"),
        (b"%PDF-1.4", "PDF"),
        (b"PK\3\4" + b"\0" * 9, "zip"),
    ):
        with pytest.raises(Unreadable, match=words):
            read(data)


def test_no_reader_uses_the_gpl_decoder():
    import importlib.util

    assert importlib.util.find_spec("libjpeg") is None, "pylibjpeg-libjpeg is GPL and must not be installed"


def test_sizes_are_checked_before_anything_is_decoded(read: Reader):
    with pytest.raises(Unreadable, match="GB of pixels|million pixels"):
        read(dicom_bytes(np.zeros((64, 64), np.uint16), Rows=65535, Columns=65535))
