"""What was found, as files of other programs: read again with their own libraries, on the scan's own grid."""

# What may be missing by its type is there by the test: None fails it by itself.
# mypy: disable-error-code="attr-defined, index"

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from made_files import dicom, picture
from pydicom.uid import ComputedRadiographyImageStorage, generate_uid

from builder import outputs
from builder.scan import Grid, Scan
from builder.takeout import TakeoutRefused, nifti, report, segmentation

FINDING = {
    "probabilities": {},
    "boxes": [
        {"box": [3.0, 5.0, 20.0, 31.5], "class": "nodule", "score": 0.9, "slice": 2},
        {"box": [1.0, 1.0, 4.0, 4.0], "class": "nodule", "score": 0.2, "slice": 0},
    ],
}


@pytest.fixture
def asked(tmp_path: Path) -> tuple[Path, list[Path], np.ndarray]:
    """A job's folder with a scan and its mask, the four files of the series (in no order), and the mask."""
    job, frame, series = tmp_path / "job", generate_uid(), generate_uid()
    job.mkdir()
    where = {"FrameOfReferenceUID": frame, "SeriesInstanceUID": series, "PatientName": "Doe^Jane", "SliceThickness": 2}
    files = [dicom(tmp_path / f"{n}.dcm", n, 2.0 * z, **where) for n, z in enumerate((3, 1, 0, 2))]
    scan = Scan(
        np.zeros((4, 1, 64, 64), np.int16), (2.0, 0.5, 0.5), "CT", "MONOCHROME2", 16, (), None, None, None, "dicom"
    )
    outputs.keep(job, "scan", scan)
    mask = np.zeros((4, 64, 64), np.uint8)
    mask[1, 10:20, 30:50] = 1
    mask[2, 12:18, 33:44] = 1
    outputs.keep(job, "mask", replace(scan, pixels=mask[:, None], bits=8))
    return job, files, mask


def test_a_mask_becomes_a_segmentation_whose_frames_lie_on_the_right_slices(
    tmp_path: Path, asked: tuple[Path, list[Path], np.ndarray]
) -> None:
    job, files, mask = asked
    made = pydicom.dcmread(segmentation(job, files, ["Lesion"], tmp_path / "seg.dcm"))
    assert made.Modality == "SEG" and made.PatientName == "Doe^Jane" and made.NumberOfFrames == 2
    uid_at = {pydicom.dcmread(f).ImagePositionPatient[2]: pydicom.dcmread(f).SOPInstanceUID for f in files}
    for frame, group in zip(made.pixel_array, made.PerFrameFunctionalGroupsSequence, strict=True):
        z = float(group.PlanePositionSequence[0].ImagePositionPatient[2])
        assert np.array_equal(frame, mask[round(z / 2)])
        source = group.DerivationImageSequence[0].SourceImageSequence[0]
        assert source.ReferencedSOPInstanceUID == uid_at[z]


def test_a_segmentation_is_written_of_files_that_do_not_say_how_thick_a_slice_is(tmp_path: Path) -> None:
    job, where = tmp_path / "job", {"FrameOfReferenceUID": generate_uid(), "SeriesInstanceUID": generate_uid()}
    job.mkdir()
    files = [dicom(tmp_path / f"{n}.dcm", n, 2.0 * n, **where) for n in range(3)]
    mask = np.zeros((3, 64, 64), np.uint8)
    mask[1, 3:9, 3:9] = 1
    outputs.keep(job, "mask", Scan(mask[:, None], format="dicom"))
    made = pydicom.dcmread(segmentation(job, files, ["Lesion"], tmp_path / "seg.dcm"))
    assert made.NumberOfFrames == 1 and np.array_equal(made.pixel_array.reshape(64, 64), mask[1])


def test_boxes_become_a_structured_report_over_the_images_they_lie_on(
    tmp_path: Path, asked: tuple[Path, list[Path], np.ndarray]
) -> None:
    import highdicom as hd

    job, files, _ = asked
    report(job, files, FINDING, tmp_path / "sr.dcm", least=0.5)
    made = hd.sr.srread(tmp_path / "sr.dcm")
    (group,) = made.content.get_planar_roi_measurement_groups()
    assert group.roi.value.tolist()[0] == [3.0, 5.0] and group.roi.value.max() == 31.5
    assert group.get_measurements()[0].value == pytest.approx(0.9)
    assert group.get_qualitative_evaluations()[0].value.meaning == "nodule"
    at = next(f for f in files if pydicom.dcmread(f).ImagePositionPatient[2] == 4)
    (image,) = group.roi.ContentSequence[0].ReferencedSOPSequence
    assert image.ReferencedSOPInstanceUID == pydicom.dcmread(at).SOPInstanceUID


def test_names_of_any_script_stand_in_a_report_as_they_are(tmp_path: Path) -> None:
    import highdicom as hd

    job, name = tmp_path / "job", "Läsion 病变"
    job.mkdir()
    file = dicom(tmp_path / "0.dcm", 0, SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Jürgen")
    outputs.keep(job, "scan", Scan(np.zeros((1, 1, 64, 64), np.int16), format="dicom"))
    finding = {"probabilities": {}, "boxes": [{"box": [3.0, 5.0, 20.0, 31.5], "class": name, "score": 0.9, "slice": 0}]}
    made = hd.sr.srread(report(job, [file], finding, tmp_path / "sr.dcm"))
    (group,) = made.content.get_planar_roi_measurement_groups()
    assert group.get_qualitative_evaluations()[0].value.meaning == name and made.PatientName == "Müller^Jürgen"


@pytest.mark.parametrize(
    ("kind", "more"),
    [("CT", {}), ("CT", {"SliceThickness": None}), ("CR", {}), ("DX", {"PatientOrientation": "", "Laterality": ""})],
)
def test_a_report_is_written_of_files_that_say_little_of_how_they_lie(tmp_path: Path, kind: str, more: dict) -> None:
    job = tmp_path / "job"
    job.mkdir()
    uid = {"CT": "1.2.840.10008.5.1.4.1.1.2", "CR": "1.2.840.10008.5.1.4.1.1.1", "DX": "1.2.840.10008.5.1.4.1.1.1.1"}[
        kind
    ]
    file = dicom(tmp_path / "0.dcm", 0, 0.0 if more else None, SOPClassUID=uid, Modality=kind, **more)
    outputs.keep(job, "scan", Scan(np.zeros((1, 1, 64, 64), np.int16), format="dicom"))
    made = pydicom.dcmread(report(job, [file], {"probabilities": {"nodule": 0.7}}, tmp_path / "sr.dcm"))
    (evidence,) = made.CurrentRequestedProcedureEvidenceSequence
    (image,) = evidence.ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert image.ReferencedSOPInstanceUID == pydicom.dcmread(file).SOPInstanceUID


def test_without_a_box_or_a_place_in_the_patient_the_file_is_refused_in_words(
    tmp_path: Path, asked: tuple[Path, list[Path], np.ndarray]
) -> None:
    job, files, _ = asked
    with pytest.raises(TakeoutRefused, match="no box reaches"):
        report(job, files, FINDING, tmp_path / "sr.dcm", least=0.95)
    silent = {**FINDING, "probabilities": {"nodule": 0.6}, "status": "unknown", "reason": "It is not sure enough."}
    with pytest.raises(TakeoutRefused, match="no answer to report. It is not sure enough"):
        report(job, files, silent, tmp_path / "sr.dcm")
    with pytest.raises(TakeoutRefused, match="4 slices but comes from 3 files"):
        segmentation(job, files[:3], ["Lesion"], tmp_path / "seg.dcm")
    with pytest.raises(TakeoutRefused, match="no DICOM images"):
        segmentation(job, [picture(tmp_path / "x.png", 1)], ["Lesion"], tmp_path / "seg.dcm")
    loose = [dicom(tmp_path / f"loose{n}.dcm", n, float(n), SeriesInstanceUID="1.2.9") for n in range(4)]
    with pytest.raises(TakeoutRefused, match="where they lie in the patient"):
        segmentation(job, loose, ["Lesion"], tmp_path / "seg.dcm")
    where = {"FrameOfReferenceUID": "1.2.5", "SeriesInstanceUID": "1.2.6"}
    twice = [dicom(tmp_path / f"twice{n}.dcm", n, 2.0 * (n // 2), **where) for n in range(4)]
    with pytest.raises(TakeoutRefused, match="at the same place"):
        segmentation(job, twice, ["Lesion"], tmp_path / "seg.dcm")


def test_films_and_slices_that_leave_out_what_a_library_tells_are_reported_and_outlined(
    tmp_path: Path, asked: tuple[Path, list[Path], np.ndarray]
) -> None:
    job = tmp_path / "other"
    job.mkdir()
    where = {"FrameOfReferenceUID": generate_uid(), "SeriesInstanceUID": generate_uid()}
    slices = [dicom(tmp_path / f"s{n}.dcm", n, 2.0 * n, **where) for n in range(4)]  # no SliceThickness
    made = pydicom.dcmread(segmentation(asked[0], slices, ["Lesion"], tmp_path / "seg.dcm"))
    assert made.NumberOfFrames == 2
    film = {"SOPClassUID": ComputedRadiographyImageStorage, "Modality": "CR", "PatientOrientation": ""}
    scan = Scan(np.zeros((1, 1, 64, 64), np.int16), (None, 0.5, 0.5), "CR", format="dicom")
    outputs.keep(job, "scan", scan)
    boxes = [{**FINDING["boxes"][0], "slice": 0}]
    finding = {"probabilities": {"nodule": 0.7}, "boxes": boxes}
    for file in (dicom(tmp_path / "film.dcm", 1, **film), slices[0]):
        made = pydicom.dcmread(report(job, [file], finding, tmp_path / "sr.dcm"))
        (study,) = made.CurrentRequestedProcedureEvidenceSequence
        (image,) = study.ReferencedSeriesSequence[0].ReferencedSOPSequence
        assert image.ReferencedSOPInstanceUID == pydicom.dcmread(file).SOPInstanceUID


@pytest.mark.parametrize(
    ("letters", "patient"),
    [("", "Doe^Jane"), ("ISO_IR 100", "Müller^Jörg"), (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎")],
)
def test_names_of_patients_and_classes_stay_whole_whatever_letters_the_source_has(
    tmp_path: Path, letters: str | list[str], patient: str
) -> None:
    file = dicom(tmp_path / "a.dcm", 1, 0.0, SpecificCharacterSet=letters, PatientName=patient, SliceThickness=2)
    outputs.keep(tmp_path, "scan", Scan(np.zeros((1, 1, 64, 64), np.int16), format="dicom"))
    made = pydicom.dcmread(report(tmp_path, [file], {"probabilities": {"结节 Ödem": 0.7}}, tmp_path / "sr.dcm"))
    assert made.PatientName == patient and "结节 Ödem" in str(made)


def test_an_enhanced_film_on_which_small_values_are_white_is_no_negative_as_nifti(
    tmp_path: Path, asked: tuple[Path, list[Path], np.ndarray]
) -> None:
    film = np.arange(8 * 12, dtype=np.uint16).reshape(1, 1, 8, 12) * 40
    outputs.keep(asked[0], "enhanced", Scan(film, photometric="MONOCHROME1", bits=12, format="dicom"))
    found = nibabel.load(nifti(asked[0], tmp_path / "a.nii.gz"))
    assert np.array_equal(np.asarray(found.dataobj), 4095 - film[:, 0].transpose(2, 1, 0))


def test_a_nifti_keeps_voxels_spacing_and_what_is_known_of_directions(
    tmp_path: Path, asked: tuple[Path, list[Path], np.ndarray]
) -> None:
    job, _, mask = asked
    found = nibabel.load(nifti(job, tmp_path / "a.nii.gz"))
    assert np.array_equal(np.asarray(found.dataobj), mask.transpose(2, 1, 0))
    assert found.header.get_zooms() == pytest.approx((0.5, 0.5, 2.0)) and found.header["sform_code"] == 0
    grid = Grid((-10.0, 7.0, 30.0), ((0.0, 0.0, 2.0), (0.0, 0.5, 0.0), (0.5, 0.0, 0.0)))
    outputs.keep(job, "mask", replace(outputs.kept(job, "scan"), pixels=mask[:, None], bits=8, grid=grid))
    known = nibabel.load(nifti(job, tmp_path / "b.nii.gz"))
    assert np.allclose(np.diag(known.affine), (-0.5, -0.5, 2.0, 1)) and known.header["sform_code"] == 1
    assert known.affine[:3, 3] == pytest.approx((10.0, -7.0, 30.0))
