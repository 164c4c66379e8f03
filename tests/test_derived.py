"""Restored scans as files: read back equal, in the same place, told as derived, true to the DICOM standard."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import corpus
import made_files
import numpy as np
import pydicom
import pytest
from dicom_rules import errors
from PIL import Image
from pydicom.uid import generate_uid

from builder import outlined, scans
from builder.derived import WriteRefused, write
from builder.opinion import as_scan

MADE_BY = "run 20261126-041842-abcdef (dncnn)"
WHOLE: dict[str, Any] = {
    "PatientName": "Doe^Jane", "PatientBirthDate": "19700101", "PatientSex": "F", "StudyDate": "20200101",
    "StudyTime": "120000", "ReferringPhysicianName": "", "StudyID": "1", "AccessionNumber": "", "Manufacturer": "Maker",
    "SeriesNumber": 3, "FrameOfReferenceUID": "1.2.3.4", "PositionReferenceIndicator": "", "InstanceNumber": 1,
    "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"], "SliceThickness": 2.5, "KVP": 120, "AcquisitionNumber": 1,
    "RescaleIntercept": -1024, "PatientPosition": "HFS", "PixelRepresentation": 0, "BitsStored": 12, "HighBit": 11,
    "RescaleType": "HU", "SeriesDescription": "Thorax",
}  # fmt: skip
"""What a CT image must have besides what `made_files.dicom` writes."""


def ct(path: Path, seed: int = 1, position: float = 0.0, **tags: Any) -> Path:
    pixels = made_files.texture(seed).astype(np.int16) * 8
    return made_files.dicom(path, pixels, position, **{**WHOLE, **tags})


def better(scan: scans.Scan) -> np.ndarray:
    """Something else of the same type: every value moved by 1 or 2, up or down."""
    moves = np.random.default_rng(5).integers(1, 3, scan.pixels.shape) * np.where(scan.pixels > 0, -1, 1)
    return (scan.pixels + moves).astype(scan.pixels.dtype)


def test_a_ct_slice_is_written_as_a_derived_image_that_reads_back_equal_and_passes_dicom_validator(tmp_path):
    source = ct(tmp_path / "a.dcm")
    scan = scans.read(source)
    (file,) = write([source], scan, better(scan), tmp_path / "out", MADE_BY)
    again = scans.read(file)
    assert np.array_equal(again.pixels, better(scan)) and again.pixels.dtype == scan.pixels.dtype
    assert (again.spacing_mm, again.bits, again.patient) == (scan.spacing_mm, scan.bits, scan.patient)
    assert errors(source) == {}
    assert errors(file) == {}
    was, made = pydicom.dcmread(source), pydicom.dcmread(file)
    assert made.ImageType == ["DERIVED", "SECONDARY", "AXIAL"]
    assert MADE_BY in made.DerivationDescription and "not for diagnosis" in made.DerivationDescription
    assert made.SOPInstanceUID != was.SOPInstanceUID and made.SeriesInstanceUID != was.SeriesInstanceUID
    assert (
        made.StudyInstanceUID == was.StudyInstanceUID
        and made.file_meta.MediaStorageSOPInstanceUID == made.SOPInstanceUID
    )
    assert made.SourceImageSequence[0].ReferencedSOPInstanceUID == was.SOPInstanceUID
    assert (made.RescaleSlope, made.RescaleIntercept, made.BitsStored) == (1, -1024, 12)
    assert made.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian
    assert made.SeriesDescription == "Thorax [enhanced]"


def test_what_made_it_is_told_whole_beside_a_patient_of_other_letters(tmp_path):
    source = ct(tmp_path / "a.dcm", SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Jörg")
    scan = scans.read(source)
    (file,) = write([source], scan, better(scan), tmp_path / "out", "run 1 (深い)")
    made = pydicom.dcmread(file)
    assert "(深い)" in made.DerivationDescription and made.PatientName == "Müller^Jörg" and errors(file) == {}


def test_the_validator_sees_what_is_missing(tmp_path):
    source = ct(tmp_path / "a.dcm")
    data = pydicom.dcmread(source)
    del data.KVP
    data.save_as(source)
    assert any("KVP" in wrong or "0018,0060" in wrong for found in errors(source).values() for wrong in found)


def test_a_series_keeps_the_place_of_each_slice_whatever_the_order_of_its_files(tmp_path):
    series, files = generate_uid(), []
    for number, position in enumerate((7.5, 0.0, 5.0, 2.5)):
        files.append(
            ct(tmp_path / f"{number}.dcm", number, position, SeriesInstanceUID=series, InstanceNumber=number + 1)
        )
    scan = scans.read_series(files)
    made = write(files, scan, better(scan), tmp_path / "out", MADE_BY)
    assert np.array_equal(scans.read_series(made).pixels, better(scan))
    found = [pydicom.dcmread(file) for file in made]
    assert [float(one.ImagePositionPatient[2]) for one in found] == [0.0, 2.5, 5.0, 7.5]
    assert len({one.SeriesInstanceUID for one in found}) == 1 and found[0].SeriesInstanceUID != series
    assert len({one.SOPInstanceUID for one in found}) == 4
    assert all(errors(file) == {} for file in made)


def test_a_fractional_rescale_comes_back_within_half_a_step(tmp_path):
    source = ct(tmp_path / "a.dcm", RescaleSlope=0.5, RescaleIntercept=-100.25)
    scan = scans.read(source)
    wanted = scan.pixels + np.float32(0.2)
    (file,) = write([source], scan, wanted, tmp_path, MADE_BY)
    assert np.abs(scans.read(file).pixels - wanted).max() <= 0.25 + 1e-4


def test_values_beyond_the_bits_of_the_file_become_the_nearest_it_can_hold(tmp_path):
    source = ct(tmp_path / "a.dcm")
    scan = scans.read(source)
    wild = np.where(np.indices(scan.pixels.shape)[-1] % 2, np.int16(20000), np.int16(-20000))
    (file,) = write([source], scan, wild, tmp_path, MADE_BY)
    assert set(np.unique(scans.read(file).pixels)) == {-1024, 3071}


def test_padding_that_is_a_range_of_values_stays_padding(tmp_path):
    pixels = np.where(np.eye(32) > 0, -1800, 50).astype(np.int16)
    tags = {"PixelPaddingValue": -2000, "PixelPaddingRangeLimit": -1500}
    source = made_files.dicom(tmp_path / "a.dcm", pixels, 0.0, **tags)
    scan = scans.read(source)
    (file,) = write([source], scan, scan.pixels, tmp_path / "out", MADE_BY)
    valid, before = scans.read(file).valid, scan.valid
    assert valid is not None and before is not None and np.array_equal(valid, before) and int((~valid).sum()) == 32


def test_values_that_lie_high_in_the_word_are_written_low_and_read_back_equal(tmp_path):
    values = np.arange(32 * 32, dtype=np.uint16).reshape(32, 32) * 4 + 3
    high: dict[str, Any] = {"PixelRepresentation": 0, "BitsStored": 12, "HighBit": 15}
    source = made_files.dicom(tmp_path / "a.dcm", (values << 4).view(np.int16), 0.0, **high)
    scan = scans.read(source)
    assert np.array_equal(scan.pixels[0, 0], values)
    (file,) = write([source], scan, scan.pixels, tmp_path / "out", MADE_BY)
    assert np.array_equal(scans.read(file).pixels[0, 0], values) and pydicom.dcmread(file).HighBit == 11


def test_a_finer_grid_has_smaller_pixels_and_the_same_outer_edges(tmp_path):
    source = ct(tmp_path / "a.dcm")
    scan = scans.read(source)
    (file,) = write([source], scan, scan.pixels.repeat(2, -1).repeat(2, -2), tmp_path, MADE_BY)
    made = pydicom.dcmread(file)
    assert (made.Rows, made.Columns, [float(v) for v in made.PixelSpacing]) == (128, 128, [0.25, 0.25])
    # Pixel centres: the first old one was at 0, its edge half a pixel before; so is the edge of the first new one.
    assert [float(v) for v in made.ImagePositionPatient] == [-0.125, -0.125, 0.0]
    assert scans.read(file).pixels.shape == (1, 1, 128, 128) and errors(file) == {}


def test_the_frames_of_a_multi_frame_file_stay_in_their_order(tmp_path):
    frames = np.stack([made_files.texture(k).astype(np.int16) for k in range(3)])
    source = tmp_path / "a.dcm"
    ds = corpus.dicom_dataset(frames.astype(np.uint16), NumberOfFrames=3)
    source.write_bytes(corpus.written(ds))
    scan = scans.read(source)
    assert len(scan.pixels) == 3
    (file,) = write([source], scan, better(scan), tmp_path / "out", MADE_BY)
    assert np.array_equal(scans.read(file).pixels, better(scan))


def test_a_table_of_values_that_cannot_be_taken_back_is_refused_in_words(tmp_path):
    source = ct(tmp_path / "a.dcm")
    data = pydicom.dcmread(source)
    table = pydicom.Dataset()
    table.LUTDescriptor, table.LUTData, table.ModalityLUTType = [4096, 0, 16], list(range(4096)), "US"
    table["LUTDescriptor"].VR, table["LUTData"].VR = "US", "US"
    del data.RescaleSlope, data.RescaleIntercept
    data.ModalityLUTSequence = [table]
    data.save_as(source)
    scan = scans.read(source)
    with pytest.raises(WriteRefused, match="cannot be taken back"):
        write([source], scan, scan.pixels, tmp_path, MADE_BY)


@pytest.mark.parametrize("slope", [1.0, 0.5])
@pytest.mark.parametrize("packed", [False, True])
def test_a_nifti_volume_lies_where_it_lay(tmp_path, packed, slope):
    import nibabel

    voxels = np.random.default_rng(2).integers(-500, 500, (7, 6, 5)).astype(np.int16)
    matrix = np.array([[0, -0.8, 0, 3], [0.7, 0, 0, -2], [0, 0, -2.0, 5], [0, 0, 0, 1]])
    image = nibabel.Nifti1Image(voxels, matrix)
    image.header.set_slope_inter(slope, 0.0)
    source = tmp_path / ("v.nii.gz" if packed else "v.nii")
    nibabel.save(image, source)
    scan, old = scans.read(source), np.asarray(nibabel.load(source).affine)  # type: ignore[attr-defined]
    wanted = scan.pixels + 1
    (file,) = write([source], scan, wanted.astype(scan.pixels.dtype), tmp_path / "out", MADE_BY)
    assert np.allclose(scans.read(file).pixels, wanted)
    assert np.allclose(nibabel.load(file).affine, old)  # type: ignore[attr-defined]
    (finer,) = write([source], scan, scan.pixels.repeat(2, -1).repeat(2, -2), tmp_path / "finer", MADE_BY)
    made: Any = nibabel.load(finer)
    edge = [-0.5, -0.5, -0.5, 1]
    assert np.allclose((made.affine @ edge)[:2], (old @ edge)[:2])
    assert scans.read(finer).spacing_mm == pytest.approx((2.0, *(v / 2 for v in scan.spacing_mm[1:] if v)))
    assert gzip.decompress(file.read_bytes())[:2] in (b"\x5c\x01", b"\x01\x5c")  # 348: a NIfTI-1 header


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["Nifti1Image", "Nifti2Image"])
def test_a_nifti_volume_is_told_by_its_content_not_by_its_name(tmp_path, kind, packed):
    import nibabel

    voxels = np.random.default_rng(2).integers(0, 500, (7, 6, 5)).astype(np.int16)
    data = getattr(nibabel, kind)(voxels, np.diag([-0.5, -0.5, 2.0, 1.0])).to_bytes()
    source = tmp_path / "00001.bin"  # as an upload lies
    source.write_bytes(gzip.compress(data) if packed else data)
    scan = scans.read(source)
    (file,) = write([source], scan, better(scan), tmp_path / "out", MADE_BY)
    again = scans.read(file)
    assert np.array_equal(again.pixels, better(scan)) and again.grid == scan.grid
    outline = (scan.pixels[:, 0] > 250).astype(np.uint8)
    laid = scans.read(outlined.write([source], scan, outline, tmp_path / "out"))
    assert np.array_equal(laid.pixels[:, 0], outline) and laid.grid == scan.grid


def test_an_nrrd_volume_lies_where_it_lay(tmp_path):
    import nrrd

    voxels = np.random.default_rng(2).integers(0, 500, (7, 6, 5)).astype(np.int16)
    header: dict[str, Any] = {
        "space": "left-posterior-superior", "space origin": [1.0, 2.0, 3.0],
        "space directions": [[0.5, 0, 0], [0, 0.5, 0], [0, 0, 2.0]], "kinds": ["domain"] * 3,
    }  # fmt: skip
    source = tmp_path / "v.nrrd"
    nrrd.write(str(source), voxels, header)
    scan = scans.read(source)
    (file,) = write([source], scan, better(scan), tmp_path / "out", MADE_BY)
    assert np.array_equal(scans.read(file).pixels, better(scan))
    assert np.allclose(nrrd.read_header(str(file))["space directions"], header["space directions"])
    (finer,) = write([source], scan, scan.pixels.repeat(2, -1).repeat(2, -2), tmp_path / "finer", MADE_BY)
    made = nrrd.read_header(str(finer))
    assert np.allclose(made["space origin"], [0.875, 1.875, 3.0]) and made["space directions"][0][0] == 0.25


@pytest.mark.parametrize(("kind", "ending"), [(np.uint8, ".png"), (np.uint16, ".png"), (np.float32, ".tiff")])
def test_pictures_keep_their_bits(tmp_path, kind, ending):
    pixels = (np.random.default_rng(3).random((1, 1, 20, 24)) * (250 if kind == np.uint8 else 60000)).astype(kind)
    scan = scans.Scan(pixels, format="picture", bits=8 * np.dtype(kind).itemsize)
    (file,) = write([], scan, pixels, tmp_path, MADE_BY)
    assert file.suffix == ending and np.array_equal(np.asarray(Image.open(file)), pixels[0, 0])
    (second,) = write([], scan, pixels, tmp_path, MADE_BY)
    assert second != file  # a name that is taken is left alone


def test_sixteen_bit_colour_is_refused_in_words(tmp_path):
    pixels = np.zeros((1, 3, 8, 8), np.uint16)
    with pytest.raises(WriteRefused, match="Colour"):
        write([], scans.Scan(pixels, photometric="RGB", bits=16), pixels, tmp_path, MADE_BY)


def test_a_restored_scan_is_asked_about_like_the_one_it_came_from():
    valid = np.ones((1, 8, 8), bool)
    valid[0, 0, 0] = False
    scan = scans.Scan(np.zeros((1, 1, 8, 8), np.int16), spacing_mm=(2.0, 0.5, 0.5), valid=valid, modality="CT")
    finer = as_scan(scan, np.ones((1, 1, 16, 16), np.int16))
    assert finer.spacing_mm == (2.0, 0.25, 0.25) and finer.modality == "CT"
    assert finer.valid is not None and int((~finer.valid).sum()) == 4
