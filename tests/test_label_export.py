"""Labels go out and come back: import, edit, export, import again, in every format, without moving."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import corpus
import nibabel
import nrrd
import numpy as np
import pydicom
import pytest
from made_files import case_of, decode_nearby, dicom, imported, picture, texture
from PIL import Image

from builder.__main__ import main
from builder.data import Dataset
from builder.intake import detect
from builder.label_export import BOXES, FORMATS, Exported, ExportRefused, export_labels
from builder.labels import Box, name_classes, record
from builder.scan import display

MASKS = tuple(name for name in FORMATS if name not in BOXES)


@pytest.fixture(autouse=True)
def _nearby(monkeypatch: pytest.MonkeyPatch) -> None:
    decode_nearby(monkeypatch)


def _exported(dataset: Dataset, to: str, out: Path) -> Exported:
    return list(export_labels(dataset, to, out))[-1][2]


@pytest.fixture
def pictures(tmp_path: Path, home: Path) -> Dataset:
    """Ten pictures: 8 and 16 bit, grey and colour, with boxes, masks and classes that were drawn and corrected."""
    root = tmp_path / "in"
    for n in range(10):
        path = picture(root / f"{n}.png", n, (40, 61), colour=n == 3)
        if n == 4:
            Image.fromarray(texture(4, (40, 61)).astype(np.uint16) * 200 + 7).save(path)
    _, dataset = imported(root, home)
    name_classes(dataset, ["cell & clot", "été <b>"], ["tumour", "edema"])
    random = np.random.default_rng(0)
    for index in range(8):
        corners = np.sort(random.uniform(0, (61, 40), (3, 2, 2)).round(3), axis=1)
        wide = [c for c in corners.tolist() if min(np.subtract(c[1], c[0])) > 1]
        boxes = [Box(a[0], a[1], b[0], b[1], k % 2) for k, (a, b) in enumerate(wide)]
        record(dataset, index, boxes=[Box(1, 1, 9, 9, 0)])
        record(dataset, index, boxes=boxes if index else [], origin="corrected", who="Ada")
        mask = np.zeros((1, 40, 61), np.uint8)
        if index > 1:
            mask[0, index : index + 9, 5:50] = 1
            mask[0, 20:25, index:20] = 2
        record(dataset, index, mask=mask, label=index % 2 if index < 6 else None)
    return dataset


@pytest.mark.parametrize("to", BOXES)
def test_boxes_come_back_within_half_a_pixel(pictures, home, tmp_path, to):
    done = _exported(pictures, to, tmp_path / "out")
    assert (done.cases, done.scans, done.unlabelled) == (8, 8, 2)
    source = detect(tmp_path / "out")
    assert source.kind == to
    report, back = imported(source, home, name="back")
    assert report.refused == 0 and len(back) == 8
    moved = 0.0
    for index in range(8):
        case = pictures.cases[index]
        again = case_of(back, case.id)
        ours, theirs = pictures.boxes(index), back.boxes(again)
        assert ours is not None and theirs is not None and len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            assert pictures.classes[a.label] == back.classes[b.label]
            moved = max(moved, *(abs(p - q) for p, q in zip(a.to_json()[:4], b.to_json()[:4], strict=True)))
        assert back.cases[again].content == case.content, "and the pixels are the same"
        assert back.splits[again] == case.split
    assert moved < 0.002


@pytest.mark.parametrize("to", MASKS)
def test_masks_classes_and_sides_come_back_exactly(pictures, home, tmp_path, to):
    done = _exported(pictures, to, tmp_path / "out")
    assert (done.cases, done.masks, done.unlabelled) == (8, 8, 2)
    source = detect(tmp_path / "out")
    assert source.kind == "csv"
    report, back = imported(source, home, name="back")
    assert report.refused == 0 and len(back) == 8
    for index in range(8):
        case = pictures.cases[index]
        again = case_of(back, case.id)
        ours, theirs = pictures.mask(index), back.mask(again)
        assert ours is not None and theirs is not None
        for k, name in enumerate(pictures.mask_names, 1):
            assert np.array_equal(ours == k, theirs == back.mask_names.index(name) + 1), name
        label = -1 if case.label is None else back.classes.index(pictures.classes[case.label])
        assert back.labels[again] == label
        assert back.splits[again] == case.split
        assert np.array_equal(back.scan(again).pixels, pictures.scan(index).pixels)


def test_what_was_exported_can_be_edited_and_exported_again(pictures, home, tmp_path):
    _exported(pictures, "voc", tmp_path / "one")
    _, back = imported(detect(tmp_path / "one"), home, name="back")
    record(back, 3, boxes=[Box(2.25, 3, 17, 30, 1)], origin="corrected")
    _exported(back, "coco", tmp_path / "two")
    _, again = imported(detect(tmp_path / "two"), home, name="again")
    boxes = again.boxes(case_of(again, back.cases[3].id))
    assert boxes is not None and len(boxes) == 1
    box = boxes[0]
    assert box.to_json()[:4] == [2.25, 3, 17, 30] and again.classes[box.label] == back.classes[1]


# -- volumes ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def volumes(tmp_path: Path, home: Path) -> Dataset:
    """A CT series, evenly spaced and oblique, one that is uneven, and a NIfTI volume; each with a mask and boxes."""
    root = tmp_path / "in"
    tilt = [1, 0, 0, 0, 0.8, 0.6]
    places = {"even": [3.0 * n for n in range(5)], "uneven": [0, 3, 5, 9, 12.5]}
    for seed, (name, at) in enumerate(places.items()):
        for n, z in enumerate(at):
            pixels = texture(10 * seed + n, (32, 40)).astype(np.int16) * 8 - 1000
            tags: dict[str, Any] = {"SeriesInstanceUID": f"1.2.3.{seed}", "PatientID": f"p{seed}", "InstanceNumber": n}
            place = [10.5, -0.6 * z, 0.8 * z] if name == "even" else [1, 2, z]
            orientation = tilt if name == "even" else [1, 0, 0, 0, 1, 0]
            dicom(
                root / name / f"{n}.dcm",
                pixels,
                ImagePositionPatient=place,
                ImageOrientationPatient=orientation,
                PixelSpacing=[0.7, 0.6],
                **tags,
            )
    affine = np.array([[-1.5, 0, 0, 30], [0, -1.25, 0, 40], [0, 0, 4, -7], [0, 0, 0, 1.0]])
    voxels = np.random.default_rng(5).normal(0, 1, (40, 32, 4)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(voxels, affine), root / "v.nii.gz")
    _, dataset = imported(root, home, "folder")
    assert len(dataset) == 3 and all(case.grid for case in dataset.cases)
    name_classes(dataset, ["nodule"], ["tumour"])
    for index in range(3):
        slices, _, height, width = dataset.cases[index].shape
        mask = np.zeros((slices, height, width), np.uint8)
        mask[1:3, 4 + index : 20, 7:9] = 1
        record(dataset, index, mask=mask, boxes=[Box(3, 4, 10, 20.5, 0, 1), Box(3, 4, 9, 20, 0, 3)], label=0)
    return dataset


def _even(volumes: Dataset) -> int:
    """The position of the evenly spaced series."""
    return next(
        n for n, case in enumerate(volumes.cases) if case.format == "dicom" and case.grid and not case.grid.origins
    )


def _points(dataset: Dataset, index: int) -> np.ndarray:
    grid, mask = dataset.cases[index].grid, dataset.mask(index)
    assert grid is not None and mask is not None
    return grid.at(np.argwhere(mask > 0))


@pytest.mark.parametrize("to", ["nifti", "nrrd", "dicom-seg"])
def test_masks_of_volumes_come_back_at_the_same_place_in_millimetres(volumes, home, tmp_path, to):
    done = _exported(volumes, to, tmp_path / "out")
    report, back = imported(detect(tmp_path / "out"), home, name="back")
    assert report.refused == 0 and len(back) == 3 and back.mask_names == ("tumour",)
    for index, case in enumerate(volumes.cases):
        again = case_of(back, case.id)
        mask = volumes.mask(index)
        assert np.array_equal(mask, back.mask(again)), case.format
        pixels = volumes.scan(index).pixels
        error = np.abs(back.scan(again).pixels.astype(float) - pixels).max()
        assert error <= (1e-4 if to == "dicom-seg" and pixels.dtype.kind == "f" else 0)
        assert case.grid is not None
        if case.grid.origins and to != "dicom-seg":
            assert any("Unevenly spaced" in note for note in done.notes)
        else:
            assert np.allclose(_points(back, again), _points(volumes, index), atol=1e-3)
    if to == "dicom-seg":
        assert any("rounded" in note for note in done.notes)


@pytest.mark.parametrize("to", ["voc", "yolo", "coco", "png"])
def test_in_formats_of_pictures_a_volume_becomes_a_picture_a_slice(volumes, home, tmp_path, to):
    done = _exported(volumes, to, tmp_path / "out")
    assert done.scans == 14
    _, back = imported(detect(tmp_path / "out"), home, name="back")
    assert len(back) == 14
    index = _even(volumes)
    case = volumes.cases[index]
    (entry,) = back.find(f"{case.id}-0001.png")[:1]
    assert entry.case
    again = int(entry.case[1:])
    if to == "png":
        ours, theirs = volumes.mask(index), back.mask(again)
        assert ours is not None and theirs is not None and np.array_equal(ours[1], theirs[0])
    else:
        boxes = back.boxes(again)
        assert boxes is not None and len(boxes) == 1
        box = boxes[0]
        assert np.allclose(box.to_json()[:4], [3, 4, 10, 20.5], atol=0.002) and box.slice == 0
    values = back.scan(again).pixels[0].astype(int)
    assert np.array_equal(values - 32768, volumes.scan(index).pixels[1])
    assert {"Signed values", "Fractions were"} <= {" ".join(note.split()[:2]) for note in done.notes}
    assert any("whose pictures they are" in note for note in done.notes) != (to == "png"), "a table has the patients"


def test_a_list_of_one_side_is_no_split_that_keeps_patients_apart(home, tmp_path):
    for n in range(12):
        picture(tmp_path / "in" / f"{n}.png", n)
    _, dataset = imported(tmp_path / "in", home)
    name_classes(dataset, ["cell"])
    for index in dataset.indices("train", labelled=False):
        record(dataset, int(index), boxes=[Box(1, 1, 9, 9, 0)])
    _exported(dataset, "voc", tmp_path / "out")
    _, back = imported(detect(tmp_path / "out"), home, name="back")
    assert len(set(back.splits.tolist())) > 1, "the other sides are drawn from what the list has for training"
    assert back.fingerprint.patient_source == "one image = one patient"
    assert any("names no patients" in words for words in back.fingerprint.warnings)


def test_a_table_keeps_volumes_whole_with_the_slices_of_boxes(volumes, home, tmp_path):
    _exported(volumes, "csv", tmp_path / "out")
    _, back = imported(detect(tmp_path / "out"), home, name="back")
    assert len(back) == 3
    for index, case in enumerate(volumes.cases):
        again = case_of(back, case.id)
        assert back.boxes(again) == volumes.boxes(index)
        assert np.array_equal(back.scan(again).pixels, volumes.scan(index).pixels)


def test_other_programs_read_what_was_exported(volumes, tmp_path):
    import highdicom

    _exported(volumes, "dicom-seg", tmp_path / "seg")
    index = _even(volumes)
    case = volumes.cases[index]
    (path,) = (tmp_path / "seg").rglob(f"{case.id}-seg.dcm")
    found = highdicom.seg.segread(path)
    files = sorted(path.with_name(case.id).glob("*.dcm"))
    series = [pydicom.dcmread(file) for file in files]
    planes = found.get_pixels_by_source_instance(
        [one.SOPInstanceUID for one in series], assert_missing_frames_are_empty=True
    )
    assert np.array_equal(planes[..., 0], volumes.mask(index))
    assert found.get_segment_description(1).segment_label == "tumour"
    assert [one.PatientName for one in series] == [""] * 5 and series[0].ImageType[0] == "DERIVED"
    hu = series[1].pixel_array * float(series[1].RescaleSlope) + float(series[1].RescaleIntercept)
    assert np.array_equal(hu, volumes.scan(index).pixels[1, 0])
    _exported(volumes, "nrrd", tmp_path / "nrrd")
    (path,) = (tmp_path / "nrrd").rglob(f"{case.id}_label.nrrd")
    voxels, header = nrrd.read(str(path))
    points = np.argwhere(voxels > 0) @ header["space directions"] + header["space origin"]
    ours = {tuple(point) for point in np.round(_points(volumes, index), 2)}
    assert {tuple(point) for point in np.round(points, 2)} == ours
    _exported(volumes, "nifti", tmp_path / "nifti")
    (path,) = (tmp_path / "nifti").glob(f"labels*/{case.id}.nii.gz")
    image = nibabel.Nifti1Image.from_filename(path)
    places = np.argwhere(np.asanyarray(image.dataobj) > 0)
    lps = nibabel.affines.apply_affine(image.affine, places) * [-1, -1, 1]
    assert {tuple(p) for p in np.round(lps, 2)} == {tuple(p) for p in np.round(_points(volumes, index), 2)}
    told = json.loads((tmp_path / "nifti" / "dataset.json").read_text())
    assert told["labels"] == {"background": 0, "tumour": 1} and told["file_ending"] == ".nii.gz"


@pytest.mark.parametrize("to", ["nifti", "nrrd", "csv", "png", "voc"])
def test_a_film_on_which_small_values_are_white_comes_back_as_it_was_shown(home, tmp_path, to):
    kinds: dict[str, dict[str, Any]] = {
        "uint8": {},
        "uint16": {"BitsStored": 12, "HighBit": 11},
        "int16": {"RescaleSlope": 1, "RescaleIntercept": -3},
        "float32": {"RescaleSlope": 0.5, "RescaleIntercept": 0},
    }
    (tmp_path / "in").mkdir()
    for seed, (kind, tags) in enumerate(kinds.items()):
        values = texture(seed, (32, 40)) if kind == "uint8" else texture(seed, (32, 40)).astype(np.uint16) * 16
        uid = f"1.2.3.{seed}"
        data = corpus.dicom_bytes(
            values, PhotometricInterpretation="MONOCHROME1", SeriesInstanceUID=uid, SOPInstanceUID=uid, **tags
        )
        (tmp_path / "in" / f"{kind}.dcm").write_bytes(data)
    _, films = imported(tmp_path / "in", home)
    assert sorted(films.scan(index).pixels.dtype.name for index in range(4)) == sorted(kinds)
    name_classes(films, ["nodule"], ["tumour"])
    mask = np.zeros((1, 32, 40), np.uint8)
    mask[0, 3:9, 4:20] = 1
    for index in range(4):
        record(films, index, mask=mask, boxes=[Box(4, 3, 20, 9, 0)])
    done = _exported(films, to, tmp_path / "out")
    assert any("white on black were inverted" in note for note in done.notes)
    _, back = imported(detect(tmp_path / "out"), home, name="back")
    for index, case in enumerate(films.cases):
        again = case_of(back, case.id)
        shown, before = (display(scan) for scan in (back.scan(again), films.scan(index)))
        assert np.abs(shown - before).max() < 1e-4
        if to in MASKS:
            assert np.array_equal(back.mask(again), mask), "and a mask has no brightness"


# -- refusals, and the command line -----------------------------------------------------------------------------------


def test_what_cannot_be_exported_is_refused_in_words(tmp_path, home, pictures):
    picture(tmp_path / "bare" / "0.png", 0)
    _, bare = imported(tmp_path / "bare", home, name="bare")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    for dataset, to, out, words in (
        (bare, "voc", "out", "has no boxes"),
        (bare, "nifti", "out", "has no masks"),
        (pictures, "voc", "full", "not empty"),
        (pictures, "dicom", "out", "format is unknown"),
    ):
        with pytest.raises(ExportRefused, match=words):
            _exported(dataset, to, tmp_path / out)
        assert not (tmp_path / "out").exists()


def test_a_stack_without_places_cannot_become_a_segmentation(tmp_path, home):
    pages = [Image.fromarray(texture(n, (32, 40))) for n in range(3)]
    (tmp_path / "in").mkdir()
    pages[0].save(tmp_path / "in" / "0.tif", save_all=True, append_images=pages[1:])
    _, dataset = imported(tmp_path / "in", home)
    name_classes(dataset, structures=["tumour"])
    mask = np.ones((3, 32, 40), np.uint8)
    record(dataset, 0, mask=mask)
    with pytest.raises(ExportRefused, match="does not say where it lies"):
        _exported(dataset, "dicom-seg", tmp_path / "out")
    for to in ("nifti", "nrrd"):
        _exported(dataset, to, tmp_path / to)
        _, back = imported(detect(tmp_path / to), home, name=to)
        assert np.array_equal(back.mask(0), mask) and back.cases[0].spacing_mm == (None, None, None)


def test_the_command_line_exports_labels_and_imports_them_again(pictures, home, tmp_path, capsys):
    def ask(*words: object) -> dict[str, Any]:
        capsys.readouterr()
        assert main([*map(str, words), "--json"]) == 0, capsys.readouterr().err
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    answer = ask("export-labels", pictures.id, "--to", "yolo", "--out", tmp_path / "out")
    wanted = {"dataset", "to", "folder", "cases", "scans", "boxes", "masks", "unlabelled", "notes"}
    assert set(answer) == wanted and answer["cases"] == 8 and answer["masks"] == 0 and answer["unlabelled"] == 2
    again = ask("import", tmp_path / "out", "--name", "again")
    assert again["cases"] == 8 and Dataset.open(home, again["dataset"]).fingerprint.num_boxed["train"]
    assert main(["export-labels", pictures.id, "--to", "yolo", "--out", str(tmp_path / "out")]) == 2
    assert "not empty" in capsys.readouterr().err


def test_several_classes_none_of_them_and_nobody_has_looked_come_back_as_such(home, tmp_path):
    rows = ("a|b", "a", "", "b")
    for n in range(len(rows)):
        Image.fromarray((texture(50 + n, (20, 30)) > 90).astype(np.uint8) * 255).save(
            picture(tmp_path / f"in/m{n}.png", n)
        )
        picture(tmp_path / "in" / f"{n}.png", n, (20, 30))
    table = "".join(f"{n}.png,{label},m{n}.png\n" for n, label in enumerate(rows))
    (tmp_path / "in" / "labels.csv").write_text(f"file,label,mask\n{table}")
    _, dataset = imported(detect(tmp_path / "in"), home)
    record(dataset, 0, label=(1,))
    record(dataset, 3, clear=("class",))
    _exported(dataset, "png", tmp_path / "out")
    _, back = imported(detect(tmp_path / "out"), home, name="back")
    assert back.multi_label and back.classes == ("a", "b"), "though no scan shows several by now"
    assert [back.cases[case_of(back, case.id)].label for case in dataset.cases] == [(1,), (0,), (), None]


def test_structures_of_any_script_come_back_from_a_segmentation(home, tmp_path):
    dicom(tmp_path / "in" / "0.dcm", 0)
    _, dataset = imported(tmp_path / "in", home)
    names = ("Läsion", "腫瘍", "оток")
    name_classes(dataset, structures=names)
    mask = np.zeros((1, *dataset.cases[0].shape[2:]), np.uint8)
    for k in range(3):
        mask[0, 5 * k : 5 * k + 4, 2:9] = k + 1
    record(dataset, 0, mask=mask)
    _exported(dataset, "dicom-seg", tmp_path / "out")
    _, back = imported(detect(tmp_path / "out"), home, name="back")
    again = back.mask(0)
    assert again is not None and sorted(back.mask_names) == sorted(names)
    for k, name in enumerate(names, 1):
        assert np.array_equal(mask == k, again == back.mask_names.index(name) + 1), name
