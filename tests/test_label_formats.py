"""Labels by format: what each kind of label file means, and what is refused by name."""

import json
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import nibabel
import nrrd
import numpy as np
import pytest
from made_files import decode_nearby, dicom, drained, imported, picture, segmentation, texture
from PIL import Image

from builder.boxfiles import LabelFileRefused, read_coco, read_voc, read_yolo, read_yolo_names
from builder.data import Dataset
from builder.intake import Report, Source, SourceRefused, detect, import_scans
from builder.labels import Box, record


@pytest.fixture(autouse=True)
def _nearby(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not request.node.name.endswith("in_the_sandbox"):
        decode_nearby(monkeypatch)


def _written(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def _pictures(folder: Path, num: int, first: int = 0, size: tuple[int, int] = (40, 60)) -> None:
    for n in range(first, first + num):
        picture(folder / f"{n}.png", n, size)


def _of(dataset: Dataset, name: str) -> int:
    """The position of the case that a file became part of."""
    entry = next(entry for entry in dataset.find(name) if entry.case)
    assert entry.case
    return int(entry.case[1:])


def _shown(dataset: Dataset, index: int) -> np.ndarray:
    """The mask of a case that has one."""
    mask = dataset.mask(index)
    assert mask is not None
    return mask


def _told(report: Report) -> dict[str, tuple[str, str]]:
    return {entry.name: (entry.status, entry.reason) for entry in report.ledger}


def _seen(root: Path, home: Path, **options: Any) -> tuple[Report, Dataset]:
    """Imports what `detect` sees, as the command line does."""
    return imported(detect(root), home, **options)


def _refused(source: Source, home: Path, **options: Any) -> str:
    with pytest.raises(SourceRefused) as refused:
        drained(import_scans(source, "set", home, **options))
    text = str(refused.value)
    assert text.endswith(".") and "\n" not in text and "ZZ" not in text
    return text


# -- Pascal VOC -------------------------------------------------------------------------------------------------------


def _voc(*boxes: tuple[str, float, float, float, float], size: tuple[int, int] = (60, 40), name: str = "x.png") -> str:
    objects = "".join(
        f"<object><name>{label}</name><part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
        f"<bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
        for label, x0, y0, x1, y1 in boxes
    )
    return (
        f"<annotation><folder>f</folder><filename>{name}</filename><path>/home/ZZPHI/{name}</path>"
        f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>{objects}</annotation>"
    )


def test_voc_folders_with_their_lists_are_read_and_the_split_is_kept(tmp_path, home):
    root = tmp_path / "VOC"
    _pictures(root / "JPEGImages", 6)
    for n in range(5):
        _written(root / "Annotations" / f"{n}.xml", _voc(("cell", n, 1, n + 10.5, 20)) if n else _voc())
    for side, numbers in (("train", (0, 1, 2)), ("val", (3,)), ("test", (4,)), ("trainval", (0, 1, 2, 3))):
        _written(root / "ImageSets" / "Main" / f"{side}.txt", "".join(f"{n}\n" for n in numbers))
    _written(root / "ImageSets" / "Main" / "cell_train.txt", "0  1\n1 -1\n")
    source = detect(root)
    assert source.kind == "voc" and "6 files with boxes in Pascal-VOC files" in source.words
    report, dataset = imported(source, home)
    assert len(dataset) == 6 and dataset.classes == ("cell",)
    assert dataset.boxes(_of(dataset, "0.png")) == (), "an annotation without objects is a negative"
    assert dataset.boxes(_of(dataset, "2.png")) == (Box(2, 1, 12.5, 20, 0),)
    assert dataset.boxes(_of(dataset, "5.png")) is None, "no annotation says nothing"
    sides = [str(dataset.splits[_of(dataset, f"{n}.png")]) for n in range(6)]
    assert sides == ["train", "train", "train", "val", "test", "train"]
    assert any("1 scan stands in no list of the split" in words for words in report.warnings)
    assert any("1 scan has no label file" in words for words in report.warnings)
    told = _told(report)
    assert told["Annotations/1.xml"] == ("accepted", "") and told["ImageSets/Main/val.txt"][0] == "skipped"
    assert dataset.find("1.xml")[0].case == dataset.find("1.png")[0].case


def test_voc_beside_the_pictures_in_folders_of_a_split_and_in_a_zip(tmp_path, home):
    root = tmp_path / "in"
    for side, first in (("train", 0), ("valid", 10), ("test", 20)):
        _pictures(root / side, 3, first)
        for n in range(first, first + 3):
            _written(root / side / f"{n}.xml", _voc(("clot", 5, 5, 15, 15), ("cell", 1, 1, 4, 4)))
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for path in sorted(root.rglob("*.*")):
            archive.write(path, f"top/{path.relative_to(root)}")
    for source in (root, tmp_path / "in.zip"):
        assert detect(source).kind == "voc"
        _, dataset = _seen(source, home, name=source.name)
        assert Counter(dataset.splits.tolist()) == {"train": 3, "val": 3, "test": 3}
        assert dataset.classes == ("cell", "clot") and dataset.boxes(0) == (Box(5, 5, 15, 15, 1), Box(1, 1, 4, 4, 0))


def test_an_annotation_that_is_called_otherwise_finds_its_picture_by_the_name_in_it(tmp_path, home):
    _pictures(tmp_path / "in", 2)
    _written(tmp_path / "in" / "a.xml", _voc(("cell", 1, 1, 9, 9), name="1.png"))
    _, dataset = _seen(tmp_path / "in", home)
    assert dataset.boxes(_of(dataset, "1.png")) and dataset.boxes(_of(dataset, "0.png")) is None


@pytest.mark.parametrize(
    ("boxes", "kept", "words"),
    [
        (((1, 1, 9, 9), (5, 5, 5, 9)), 1, "1 box was refused (no area)"),
        (((1, 1, 9, 9), (9, 9, 3, 12)), 1, "1 box was refused (its edges the wrong way round)"),
        (((1, 1, 9, 9), (70, 5, 90, 9)), 1, "1 box was refused (outside the picture)"),
        (((1, 1, 9, 9), (50, 5, 90, 9)), 1, "1 box was refused (more than half outside the picture)"),
        (((-1, 1, 9, 9), (50, 5, 61, 9)), 2, "2 boxes were cut off at the edge of the picture"),
        (((5, 5, 5, 9), (6, 5, 6, 9)), None, "2 boxes were refused (no area)"),
    ],
)
def test_bad_boxes_are_refused_each_by_itself_and_the_scan_keeps_the_rest(tmp_path, home, boxes, kept, words):
    _pictures(tmp_path / "in", 2)
    _written(tmp_path / "in" / "0.xml", _voc(*(("cell", *box) for box in boxes)))
    _written(tmp_path / "in" / "1.xml", _voc(("cell", 1, 1, 3, 3)))
    report, dataset = _seen(tmp_path / "in", home)
    found = dataset.boxes(_of(dataset, "0.png"))
    assert (None if found is None else len(found)) == kept
    status, reason = _told(report)["0.xml"]
    assert status == ("refused" if kept is None else "repaired") and words in reason
    assert any("box" in warning for warning in report.warnings)
    for box in found or ():
        assert 0 <= box.x0 < box.x1 <= 60 and 0 <= box.y0 < box.y1 <= 40


_BOMB = '<!DOCTYPE a [<!ENTITY b "ha"><!ENTITY c "&b;&b;&b;">]><annotation><filename>&c;</filename></annotation>'
_FETCH = '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><annotation><filename>&b;</filename></annotation>'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<annotation><object>", "damaged"),
        ("", "damaged"),
        (_BOMB, "document type"),
        (_FETCH, "document type"),
        ("<html/>", "no Pascal-VOC annotation"),
        ("<annotation>" + "<a>" * 60, "nested too deeply"),
        (_voc(("ZZcell", 1, 1, 5, 5)).replace("<xmin>1</xmin><ymin>", "<xmin>ZZ</xmin><ymin>"), "no number"),
        (_voc(("", 1, 1, 5, 5)), "names a class by nothing"),
        (_voc(("ZZcell", float("nan"), 1, 5, 5)), "no number"),
        (_voc(("cell", 1, 1, 5, 5), size=(640, 480)), "drawn on a picture of another size"),
    ],
)
def test_an_annotation_that_cannot_be_used_is_refused_by_name_and_its_scan_stays_unlabelled(
    tmp_path, home, text, words
):
    _pictures(tmp_path / "in", 3)
    _written(tmp_path / "in" / "0.xml", text)
    _written(tmp_path / "in" / "1.xml", _voc(("cell", 1, 1, 5, 5)))
    _written(tmp_path / "in" / "99.xml", _voc(("cell", 1, 1, 5, 5), name="ZZ.png"))
    report, dataset = _seen(tmp_path / "in", home)
    status, reason = _told(report)["0.xml"]
    assert status == "refused" and words in reason and "ZZ" not in reason
    assert dataset.boxes(_of(dataset, "0.png")) is None
    status, reason = _told(report)["99.xml"]
    assert status == "refused" and "is not in this import" in reason


def test_two_annotations_of_one_scan_that_contradict_are_both_refused_and_equal_ones_are_read_once(tmp_path, home):
    _pictures(tmp_path / "in" / "JPEGImages", 3)
    for n in range(3):
        _written(tmp_path / "in" / "Annotations" / f"{n}.xml", _voc(("cell", 1, 1, 5, 5)))
    _written(tmp_path / "in" / "JPEGImages" / "0.xml", _voc(("cell", 1, 1, 6, 6)))
    _written(tmp_path / "in" / "JPEGImages" / "1.xml", _voc(("cell", 1, 1, 5, 5)))
    report, dataset = _seen(tmp_path / "in", home)
    told = _told(report)
    assert told["Annotations/0.xml"][0] == told["JPEGImages/0.xml"][0] == "refused"
    assert "contradict" in told["JPEGImages/0.xml"][1] and dataset.boxes(_of(dataset, "0.png")) is None
    assert len(dataset.boxes(_of(dataset, "1.png")) or ()) == 1


def test_a_class_that_the_dataset_does_not_know_is_refused(tmp_path, home):
    for part, label in (("in", "cell"), ("more", "ZZclot")):
        _pictures(tmp_path / part, 2, 10 * len(part))
        for path in sorted((tmp_path / part).glob("*.png")):
            _written(path.with_suffix(".xml"), _voc((label, 1, 1, 5, 5)))
    _, dataset = _seen(tmp_path / "in", home)
    assert "knows the classes cell; this source has 1 other" in _refused(
        detect(tmp_path / "more"), home, into=dataset.id
    )


# -- YOLO -------------------------------------------------------------------------------------------------------------


def test_yolo_folders_with_a_data_yaml(tmp_path, home):
    root = tmp_path / "in"
    for side, first in (("train", 0), ("val", 10)):
        _pictures(root / "images" / side, 4, first)
        for n in range(first, first + 3):
            _written(
                root / "labels" / side / f"{n}.txt", "1 0.5 0.5 0.1 0.25\n0 0.25 0.125 0.5 0.25\n" if n % 10 else ""
            )
    _written(root / "data.yaml", "train: images/train\nval: images/val\nnc: 3\nnames: [cell, clot, unused]\n")
    source = detect(root)
    assert source.kind == "yolo" and "YOLO" in source.words
    report, dataset = imported(source, home)
    assert dataset.classes == ("cell", "clot")
    assert dataset.boxes(_of(dataset, "11.png")) == (Box(27, 15, 33, 25, 1), Box(0, 0, 30, 10, 0))
    assert dataset.boxes(_of(dataset, "10.png")) == () and dataset.boxes(_of(dataset, "13.png")) is None
    assert Counter(dataset.splits.tolist())["val"] == 4 and dataset.fingerprint.official_split
    assert _told(report)["data.yaml"] == ("skipped", "the names of the classes")


def test_yolo_beside_the_pictures_with_classes_txt_and_outlines(tmp_path, home):
    _pictures(tmp_path / "in", 2)
    _written(tmp_path / "in" / "0.txt", "0 0.1 0.1 0.5 0.2 0.3 0.7\n")
    _written(tmp_path / "in" / "1.txt", "0 0.5 0.5 1.0 1.0\n")
    _written(tmp_path / "in" / "classes.txt", "cell\nclot\n")
    _, dataset = _seen(tmp_path / "in", home)
    assert dataset.boxes(_of(dataset, "0.png")) == (Box(6, 4, 30, 28, 0),)
    assert dataset.boxes(_of(dataset, "1.png")) == (Box(0, 0, 60, 40, 0),)


def test_yolo_files_that_cannot_be_used_are_refused_by_name(tmp_path, home):
    _pictures(tmp_path / "in", 4)
    texts = (b"0 0.5 0.5 0.1 0.1\n", b"7 0.5 0.5 0.1 0.1\n", b"0 0.5 0.5\n", b"\xff\xfe\x00")
    for n, text in enumerate(texts):
        _written(tmp_path / "in" / f"{n}.txt", text)
    _written(tmp_path / "in" / "9.txt", "0 0.5 0.5 0.1 0.1\n")
    _written(tmp_path / "in" / "classes.txt", "cell\n")
    report, dataset = _seen(tmp_path / "in", home)
    told = _told(report)
    assert [told[f"{n}.txt"][0] for n in (0, 1, 2, 3, 9)] == ["accepted"] + ["refused"] * 4
    assert "Line 1 is of class 7, but only 1 classes have a name" in told["1.txt"][1]
    assert "no YOLO box" in told["2.txt"][1] and "not in this import" in told["9.txt"][1]
    assert [dataset.boxes(i) is None for i in range(4)] == [False, True, True, True]


@pytest.mark.parametrize(
    "text", ["a: &a [1]\nnames: {5000000: x}", "names: 3", "- x", ": :", "names: [" + "a" * 200 + "]"]
)
def test_a_yaml_without_usable_names_is_told(text):
    with pytest.raises(LabelFileRefused):
        read_yolo_names("data.yaml", text.encode())


# -- COCO -------------------------------------------------------------------------------------------------------------


def _coco(names: dict[int, str], boxes: list[tuple[int, int, list[float]]], **more: Any) -> str:
    return json.dumps(
        {
            "images": [{"id": k, "file_name": name, "width": 60, "height": 40} for k, name in names.items()],
            "categories": [{"id": 3, "name": "cell"}, {"id": 7, "name": "clot"}, {"id": 9, "name": "unused"}],
            "annotations": [
                {"id": n, "image_id": image, "category_id": category, "bbox": bbox, "iscrowd": 0}
                for n, (image, category, bbox) in enumerate(boxes)
            ],
            **more,
        }
    )


def test_coco_files_one_for_each_side(tmp_path, home):
    root = tmp_path / "in"
    for side, first in (("train2017", 0), ("val2017", 0)):
        _pictures(root / side, 3, first + 10 * (side == "val2017"))
        for path in sorted((root / side).glob("*.png")):
            path.rename(path.with_name(f"{int(path.stem) % 10}.png"))  # the same names on both sides
        text = _coco(
            {4: "0.png", 5: "1.png", 6: "ZZgone.png"},
            [(4, 7, [1, 2, 10, 5.5]), (4, 3, [0, 0, 60, 40]), (6, 3, [1, 1, 2, 2])],
        )
        _written(root / "annotations" / f"instances_{side}.json", text)
    source = detect(root)
    assert source.kind == "coco"
    report, dataset = imported(source, home)
    assert len(dataset) == 4 and dataset.classes == ("cell", "clot")
    assert Counter(dataset.splits.tolist())["val"] == 2
    by_split = {str(dataset.splits[i]): i for i in range(4) if dataset.boxes(i)}
    assert dataset.boxes(by_split["val"]) == (Box(1, 2, 11, 7.5, 1), Box(0, 0, 60, 40, 0))
    assert Counter(dataset.boxes(i) == () for i in range(4)) == {True: 2, False: 2}, (
        "an image without any is a negative"
    )
    told = _told(report)
    assert told["ZZgone.png"][0] == "refused" and "not here" in told["ZZgone.png"][1]
    assert told["train2017/2.png"] == ("skipped", "not in the label file")


def test_a_coco_file_may_lie_elsewhere_or_be_the_source_itself(tmp_path, home):
    _pictures(tmp_path / "in" / "images", 2)
    text = _coco({1: "0.png", 2: "1.png"}, [(1, 3, [1, 1, 5, 5])])
    inside, outside = _written(tmp_path / "in" / "a.json", text), _written(tmp_path / "b.json", text)
    for number, source in enumerate((detect(inside), detect(tmp_path / "in" / "images", outside))):
        assert source.kind == "coco"
        _, dataset = imported(source, home, name=f"set {number}")
        assert dataset.boxes(_of(dataset, "0.png")) == (Box(1, 1, 6, 6, 0),)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            _coco({1: "0.png"}, [(1, 3, [1, 1, 5, 5]), (2, 3, [1, 1, 2, 2])]),
            "1 annotation of an image that the file does",
        ),
        (_coco({1: "0.png"}, [(1, 4, [1, 1, 5, 5])]), "1 annotation of a category that the file does not list"),
        (_coco({1: "0.png"}, [(1, 3, [1, 1, 5])]), "with a bbox that is not four numbers"),
        (_coco({1: "0.png"}, [(1, 3, [1, 1, 5, float("nan")])]), "not four numbers"),
        (_coco({1: "0.png", 2: "0.png"}, []), "lists 1 file name twice"),
        (_coco({1: ""}, []), "without a number of its own or a file_name"),
        ('{"images": [], "annotations": {}', "damaged"),
        ('{"images": {}, "annotations": []}', "no COCO file"),
        ('{"images": ' + "[" * 100_000, "damaged"),
    ],
)
def test_a_coco_file_that_contradicts_itself_is_refused_in_one_sentence(tmp_path, home, text, words):
    _pictures(tmp_path / "in", 1)
    _written(tmp_path / "in" / "labels.json", text)
    assert words in _refused(Source("coco", tmp_path / "in"), home)


def test_two_coco_files_that_contradict_each_other_leave_the_scan_unlabelled(tmp_path, home):
    _pictures(tmp_path / "in", 2)
    for name, edge in (("a.json", 5), ("b.json", 6)):
        _written(
            tmp_path / "in" / name, _coco({1: "0.png", 2: "1.png"}, [(1, 3, [1, 1, edge, 5]), (2, 3, [1, 1, 5, 5])])
        )
    report, dataset = _seen(tmp_path / "in", home)
    assert dataset.boxes(_of(dataset, "0.png")) is None and len(dataset.boxes(_of(dataset, "1.png")) or ()) == 1
    assert "contradict" in _told(report)["0.png"][1]


def test_what_the_parsers_read_is_what_the_formats_say():
    assert read_voc(_voc(("a", 1, 2, 3, 4)).encode()).boxes.boxes[0].name == "a"
    assert read_yolo(b"\xef\xbb\xbf0 .5 .5 1e-1 .2", ()).boxes[0].x1 == pytest.approx(0.55)
    assert read_yolo_names("data.yaml", b"names:\n  0: a\n  2: c\n") == ("a", "1", "c")
    crowd = json.loads(_coco({1: "a"}, [(1, 3, [0, 0, 2, 2]), (1, 7, [0, 0, 2, 2])]))
    crowd["annotations"][1]["iscrowd"] = 1
    found = read_coco(json.dumps(crowd).encode())
    assert (
        len(found.pictures["a"].boxes) == 1 and found.classes == ("cell",) and "1 crowd was left out" in found.notes[0]
    )


def test_several_kinds_of_label_files_are_told_and_can_be_chosen(tmp_path, home):
    _pictures(tmp_path / "in", 2)
    for n in range(2):
        _written(tmp_path / "in" / f"{n}.xml", _voc(("cell", 1, 1, 5, 5)))
        _written(tmp_path / "in" / f"{n}.txt", "0 0.5 0.5 0.5 0.5\n")
    source = detect(tmp_path / "in")
    assert source.choices == ("voc", "yolo", "folder") and "could also be read as YOLO files" in source.words
    _, dataset = imported(Source("yolo", tmp_path / "in"), home)
    assert dataset.classes == ("0",) and dataset.boxes(0) == (Box(15, 10, 45, 30, 0),)


# -- masks ------------------------------------------------------------------------------------------------------------


def _mask(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def _spot(top: int, left: int, value: int = 255, size: tuple[int, int] = (40, 60)) -> np.ndarray:
    mask = np.zeros(size, np.uint8)
    mask[top : top + 5, left : left + 7] = value
    return mask


def test_the_layout_of_busi_gives_classes_and_masks_and_unites_several_masks(tmp_path, home):
    root = tmp_path / "BUSI"
    for label in ("benign", "malignant", "normal"):
        for n in range(1, 4):
            picture(root / label / f"{label} ({n}).png", hash(label) % 50 + 60 * n, (40, 60))
            _mask(root / label / f"{label} ({n})_mask.png", _spot(5, 5) if label != "normal" else _spot(0, 0, 0))
    _mask(root / "benign" / "benign (2)_mask_1.png", _spot(20, 30))
    source = detect(root)
    assert (
        source.kind == "classes"
        and "benign, malignant, normal" in source.words
        and "9 of them with a mask" in source.words
    )
    report, dataset = imported(source, home)
    assert len(dataset) == 9 and dataset.classes == ("benign", "malignant", "normal")
    assert dataset.mask_names == ("lesion",)
    two = dataset.mask(_of(dataset, "benign (2).png"))
    assert two is not None and np.array_equal(two[0] > 0, (_spot(5, 5) + _spot(20, 30)) > 0)
    empty = dataset.mask(_of(dataset, "normal (1).png"))
    assert empty is not None and not empty.any()
    assert sum(dataset.fingerprint.num_empty["mask"].values()) == 3
    assert dataset.labels[_of(dataset, "malignant (3).png")] == 1
    assert report.accepted == 19


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("images/{}.png", "masks/{}.png"),
        ("images/sub/{}.png", "masks/sub/{}.png"),
        ("a/images/{}.jpg", "a/labels/{}.png"),
        ("{}.png", "masks/{}.png"),
        ("imgs/{}.png", "masks/{}_mask.png"),
        ("{}.png", "{}_seg.png"),
        ("{}.png", "{}-label.png"),
        ("{}_image.png", "{}_label.png"),
        ("x {}.png", "x {} mask.png"),
    ],
)
def test_masks_are_found_beside_their_scans(tmp_path, home, image, mask):
    root = tmp_path / "in"
    for n in range(3):
        picture(root / image.format(n), n, (40, 60))
    for n in range(2):
        _mask(root / mask.format(n), _spot(n, n))
    source = detect(root)
    assert source.kind == "masks" and "3 files, 2 of them with a mask" in source.words
    _, dataset = imported(source, home)
    assert len(dataset) == 3
    for n in range(3):
        found = dataset.mask(_of(dataset, Path(image.format(n)).name))
        assert found is None if n == 2 else found is not None and np.array_equal(found[0] > 0, _spot(n, n) > 0)


def test_folders_that_are_no_masks_of_the_scans_stay_classes(tmp_path, home):
    for n in range(4):
        picture(tmp_path / "in" / ("mask" if n % 2 else "no mask") / f"{n}.png", n)
        picture(tmp_path / "on" / ("label" if n % 2 else "image") / f"{n}.png", n)
    assert detect(tmp_path / "in").kind == "classes" and detect(tmp_path / "on").kind == "classes"
    _, dataset = _seen(tmp_path / "in", home)
    assert dataset.classes == ("mask", "no mask") and dataset.fingerprint.num_masked["train"] == 0


def test_masks_of_a_table_with_classes_are_found_too(tmp_path, home):
    root = tmp_path / "in"
    _pictures(root / "images", 3)
    _mask(root / "masks" / "1.png", _spot(1, 1))
    _written(root / "labels.csv", "file,label\nimages/0.png,a\nimages/1.png,b\n")
    report, dataset = _seen(root, home)
    assert len(dataset) == 2 and dataset.mask(1) is not None and dataset.mask(0) is None
    assert _told(report)["images/2.png"] == ("skipped", "not in the label table")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (_spot(1, 1, size=(60, 40)), "The mask has 40 x 60 pixels, but its scan 60 x 40 pixels"),
        (texture(3, (40, 60)), "many shades of grey"),
        (np.dstack([_spot(1, 1), _spot(9, 9), _spot(1, 1)]), "in colours"),
    ],
)
def test_a_mask_that_cannot_be_one_is_refused_by_name_and_the_scan_stays_without(tmp_path, home, values, words):
    _pictures(tmp_path / "in", 2)
    _mask(tmp_path / "in" / "0_mask.png", values)
    _mask(tmp_path / "in" / "1_mask.png", _spot(1, 1))
    _mask(tmp_path / "in" / "9_mask.png", _spot(1, 1))
    report, dataset = _seen(tmp_path / "in", home)
    status, reason = _told(report)["0_mask.png"]
    assert status == "refused" and words in reason
    assert dataset.mask(_of(dataset, "0.png")) is None and dataset.mask(_of(dataset, "1.png")) is not None
    assert _told(report)["9_mask.png"][0] == "refused" and "its scan is not here" in _told(report)["9_mask.png"][1]


def test_two_masks_of_one_scan_that_name_different_structures_at_one_place_contradict(tmp_path, home):
    _pictures(tmp_path / "in", 1)
    _mask(tmp_path / "in" / "0_mask_1.png", _spot(1, 1, 1))
    _mask(tmp_path / "in" / "0_mask_2.png", _spot(2, 2, 2))
    report, dataset = _seen(tmp_path / "in", home)
    assert "contradict" in _told(report)["0_mask_2.png"][1]
    assert np.array_equal(_shown(dataset, 0)[0] > 0, _spot(1, 1) > 0)


def test_smooth_edges_of_a_black_and_white_mask_are_cut_at_half_and_told(tmp_path, home):
    wide = np.zeros((40, 60), np.uint8)
    wide[8:30, 10:50] = 255
    Image.fromarray(wide).resize((120, 80)).resize((60, 40), Image.Resampling.BILINEAR)
    _pictures(tmp_path / "in", 2)
    _mask(tmp_path / "in" / "0_mask.jpg", wide)
    _mask(tmp_path / "in" / "1_mask.png", wide)
    report, dataset = _seen(tmp_path / "in", home)
    assert _told(report)["0_mask.jpg"][0] == "repaired" and "cut at half" in _told(report)["0_mask.jpg"][1]
    assert dataset.mask_names == ("lesion",)
    assert np.array_equal(_shown(dataset, _of(dataset, "0.png")), _shown(dataset, _of(dataset, "1.png")))


def test_structures_keep_their_numbers_as_names_and_palette_colours_are_numbers(tmp_path, home):
    _pictures(tmp_path / "in", 2)
    both = _spot(1, 1, 2) + _spot(20, 20, 10)
    image = Image.fromarray(both, "P")
    image.putpalette([n * 37 % 256 for n in range(768)])
    image.save(tmp_path / "in" / "0_mask.png")
    _mask(tmp_path / "in" / "1_mask.png", _spot(5, 5, 10))
    _, dataset = _seen(tmp_path / "in", home)
    assert dataset.mask_names == ("2", "10")
    found = dataset.mask(_of(dataset, "0.png"))
    assert found is not None and np.array_equal(found[0] == 1, both == 2) and np.array_equal(found[0] == 2, both == 10)
    more = tmp_path / "more"
    picture(more / "5.png", 5, (40, 60))
    _mask(more / "5_mask.png", _spot(1, 1, 10))
    _, grown = _seen(more, home, into=dataset.id)
    last = grown.mask(2)
    assert last is not None and np.array_equal(last[0] == 2, _spot(1, 1) > 0)
    _mask(more / "5_mask.png", _spot(1, 1, 3))
    picture(more / "5.png", 6, (40, 60))
    assert "those of this source show 1 other" in _refused(detect(more), home, into=dataset.id)
    assert len(Dataset.open(home, dataset.id)) == 3


# -- volumes: the same place in millimetres ---------------------------------------------------------------------------

AFFINE = np.array([[-0.8, 0, 0, 60.0], [0, 0.9, 0, -50.0], [0, 0, 3.0, 20.0], [0, 0, 0, 1]])


def _volume(path: Path, voxels: np.ndarray, affine: np.ndarray | None = AFFINE) -> Path:
    """Voxels (i, j, k) as NIfTI (an affine in RAS mm, None for none) or NRRD."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith(".nrrd"):
        header = {}
        if affine is not None:
            lps = np.diag([-1, -1, 1]) @ affine[:3]
            header = {"space": "left-posterior-superior", "space directions": lps[:, :3].T, "space origin": lps[:, 3]}
        nrrd.write(str(path), voxels, header)
        return path
    nibabel.save(nibabel.Nifti1Image(voxels, affine), path)
    return path


def _head(seed: int = 0, shape: tuple[int, int, int] = (14, 12, 6)) -> np.ndarray:
    return np.random.default_rng(seed).normal(300, 80, shape).astype(np.int16)


def _tumour(shape: tuple[int, int, int] = (14, 12, 6)) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    mask[3:7, 2:5, 1:4] = 1
    return mask


def _points(voxels: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """The outlined voxels as LPS mm, sorted."""
    places = np.argwhere(voxels > 0)
    ras = places @ affine[:3, :3].T + affine[:3, 3]
    return np.array(sorted(map(tuple, np.round(ras * [-1, -1, 1], 3))))


def _points_of(dataset: Dataset, index: int) -> np.ndarray:
    grid, mask = dataset.cases[index].grid, dataset.mask(index)
    assert grid is not None and mask is not None
    return np.array(sorted(map(tuple, np.round(grid.at(np.argwhere(mask > 0)), 3))))


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd"])
@pytest.mark.parametrize("flip", ["", "i", "j", "k", "ij", "ijk"])
def test_a_mask_lies_where_its_header_says_in_millimetres_however_it_is_stored(tmp_path, home, ending, flip):
    affine, voxels, mask = AFFINE.copy(), _head(), _tumour()
    for axis in ("ijk".index(letter) for letter in flip):  # the same body, stored the other way round
        affine[:3, 3] += affine[:3, axis] * (voxels.shape[axis] - 1)
        affine[:3, axis] *= -1
        mask = np.flip(mask, axis)
    _volume(tmp_path / "in" / f"0{ending}", voxels)
    _volume(tmp_path / "in" / f"0_seg{ending}", mask, affine)
    _, dataset = _seen(tmp_path / "in", home)
    assert np.allclose(_points_of(dataset, 0), _points(_tumour(), AFFINE), atol=2e-3)
    scan = dataset.scan(0)
    outlined = scan.pixels[:, 0][_shown(dataset, 0) > 0]
    assert sorted(outlined.tolist()) == sorted(voxels[_tumour() > 0].tolist()), (
        "the voxels themselves are those outlined"
    )


def test_a_mask_stored_along_other_axes_or_of_a_part_is_laid_over_voxel_by_voxel(tmp_path, home):
    turned = AFFINE[:, [2, 0, 1, 3]]
    part = AFFINE.copy()
    part[:3, 3] += AFFINE[:3, :3] @ [2, 1, 1]
    for name, mask, affine in (
        ("turned", _tumour().transpose(2, 0, 1), turned),
        ("part", _tumour()[2:10, 1:8, 1:5], part),
    ):
        _volume(tmp_path / name / "0.nii.gz", _head(), AFFINE)
        _volume(tmp_path / name / "0_seg.nii.gz", np.ascontiguousarray(mask), affine)
        report, dataset = _seen(tmp_path / name, home, name=name)
        assert np.allclose(_points_of(dataset, 0), _points(_tumour(), AFFINE), atol=2e-3), name
        assert _told(report)["0_seg.nii.gz"][0] == "repaired"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a + [[0, 0, 0, 0.4], [0] * 4, [0] * 4, [0] * 4], "elsewhere"),  # half a voxel
        (lambda a: a @ np.diag([1.25, 1, 1, 1]), "elsewhere"),
        (lambda a: a + [[0, 0, 0, 80.0], [0] * 4, [0] * 4, [0] * 4], "outside its scan"),  # a hundred voxels
        (lambda a: None, ""),
    ],
)
def test_a_mask_at_another_place_is_refused_and_one_that_tells_no_place_is_taken_as_stored(
    tmp_path, home, change, words
):
    affine = change(AFFINE)
    _volume(tmp_path / "in" / "imagesTr" / "a_0000.nii.gz", _head())
    _volume(tmp_path / "in" / "labelsTr" / "a.nii.gz", _tumour(), affine)
    report, dataset = _seen(tmp_path / "in", home)
    status, reason = _told(report)["labelsTr/a.nii.gz"]
    if words:
        assert status == "refused" and words in reason and dataset.mask(0) is None
    else:
        assert np.allclose(_points_of(dataset, 0), _points(_tumour(), AFFINE), atol=2e-3)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (_tumour((14, 12, 5)), "12 x 14 pixels in 5 slices, but its scan 12 x 14 pixels in 6 slices"),
        (_tumour().astype(np.float32) * 0.5, "fractions"),
        (_tumour().astype(np.float32) / 255, "fractions"),  # near 0 all over, but no scaled 0
        (np.linspace(0, 1, 14 * 12 * 6, dtype=np.float32).reshape(14, 12, 6), "fractions"),
        (_tumour().astype(np.int16) * -3, "below 0"),
        (np.arange(14 * 12 * 6, dtype=np.int16).reshape(14, 12, 6), "different values"),
    ],
)
def test_a_volume_that_is_no_mask_of_its_scan_is_refused_by_name(tmp_path, home, mask, words):
    _volume(tmp_path / "in" / "0.nii.gz", _head(), None)
    _volume(tmp_path / "in" / "0_label.nii.gz", mask, None)
    report, dataset = _seen(tmp_path / "in", home)
    status, reason = _told(report)["0_label.nii.gz"]
    assert status == "refused" and (words in reason or words.replace("12 x 14", "14 x 12") in reason)
    assert dataset.mask(0) is None


@pytest.mark.parametrize("kind", [np.uint8, np.int16])
def test_whole_numbers_that_nibabel_scaled_under_the_header_of_the_scan_are_those_again(tmp_path, home, kind):
    scan = _volume(tmp_path / "in" / "0.nii.gz", _head())
    header = nibabel.Nifti1Image.from_filename(scan).header.copy()
    header.set_data_dtype(kind)
    mask = _tumour().astype(np.float64)
    mask[9:12, 2:5, 1:4] = 2
    path = tmp_path / "in" / "0_seg.nii.gz"
    nibabel.save(nibabel.Nifti1Image(mask, AFFINE, header), path)
    stored = nibabel.Nifti1Image.from_filename(path).get_fdata()
    assert np.array_equal(np.rint(stored), mask) and not np.array_equal(stored, mask)
    report, dataset = _seen(tmp_path / "in", home)
    status, reason = _told(report)["0_seg.nii.gz"]
    assert status == "repaired" and "stored scaled" in reason
    assert np.bincount(_shown(dataset, 0).ravel()).tolist() == np.bincount(mask.ravel().astype(int)).tolist()


def test_a_dataset_json_names_the_structures_and_contrasts_of_one_body_stay_together(tmp_path, home):
    root = tmp_path / "in"
    for n in range(4):
        for contrast in range(2):
            _volume(root / "imagesTr" / f"case{n}_000{contrast}.nii.gz", _head(10 * n + contrast))
        _volume(root / "labelsTr" / f"case{n}.nii.gz", _tumour() * (1 + n % 2))
    _written(root / "dataset.json", json.dumps({"labels": {"background": 0, "tumour": 1, "edema": 2}}))
    report, dataset = _seen(root, home)
    assert dataset.mask_names == ("edema", "tumour") and len(dataset) == 8
    assert report.patients == 4
    for n in range(4):
        a, b = (_of(dataset, f"case{n}_000{contrast}.nii.gz") for contrast in range(2))
        assert dataset.splits[a] == dataset.splits[b]
        assert np.unique(_shown(dataset, a)).tolist() == [0, 1 if n % 2 else 2]


def test_masks_are_decoded_in_the_sandbox(tmp_path, home):
    _volume(tmp_path / "in" / "0.nii.gz", _head())
    _volume(
        tmp_path / "in" / "0_seg.nii.gz",
        np.flip(_tumour(), 0),
        AFFINE @ np.diag([-1, 1, 1, 1]) + [[0, 0, 0, -0.8 * 13]] + 0,
    )
    _volume(tmp_path / "in" / "1.nii.gz", _head(1))
    _written(tmp_path / "in" / "1_seg.nii.gz", b"\x1f\x8b" + b"noise" * 20)
    report, dataset = _seen(tmp_path / "in", home)
    assert _told(report)["1_seg.nii.gz"][0] == "refused"
    assert dataset.mask(_of(dataset, "1.nii.gz")) is None


def test_three_real_tumours_lie_where_their_own_headers_say(shared_data, home):
    """The proof in millimetres: voxel -> mm by the header of the label file, mm -> voxel of the imported arrays."""
    root = shared_data / "mr_tumour_nrrd"
    if not root.is_dir():
        pytest.skip("the folder mr_tumour_nrrd is absent from the real scans")
    _, dataset = _seen(root, home)
    for name, num in (("brain1", 4137), ("brain2", 453), ("breast1", 143)):
        index = _of(dataset, f"{name}_image.nrrd")
        label, header = nrrd.read(str(root / f"{name}_label.nrrd"))
        voxels = np.argwhere(label > 0)
        assert header["space"] == "left-posterior-superior" and len(voxels) == num
        points = voxels @ header["space directions"] + header["space origin"]
        grid, mask = dataset.cases[index].grid, dataset.mask(index)
        assert grid is not None and mask is not None
        places = np.linalg.solve(np.array(grid.steps).T, (points - np.array(grid.origin)).T).T
        assert np.abs(places - np.rint(places)).max() < 1e-3, "a voxel of the mask is a voxel of the scan"
        assert {*map(tuple, np.rint(places).astype(int))} == {*map(tuple, np.argwhere(mask > 0))}
        image, of_image = nrrd.read(str(root / f"{name}_image.nrrd"))
        back = (grid.at(np.argwhere(mask > 0)) - of_image["space origin"]) @ np.linalg.inv(of_image["space directions"])
        values = image[tuple(np.rint(back).astype(int).T)]
        assert np.array_equal(values, dataset.scan(index).pixels[:, 0][mask > 0]), (
            "and shows what the image shows there"
        )


# -- DICOM segmentations ----------------------------------------------------------------------------------------------


def _slices(folder: Path, num: int = 5, seed: int = 0, **tags: Any) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    told = {
        "SeriesInstanceUID": f"1.2.3.{seed + 1}",
        "FrameOfReferenceUID": f"1.2.4.{seed + 1}",
        "PatientID": f"p{seed}",
        "PatientName": "",
        "PatientBirthDate": "",
        "PatientSex": "",
        "StudyDate": "",
        "StudyTime": "",
        "AccessionNumber": "",
        "StudyID": "",
        "ReferringPhysicianName": "",
        "SliceThickness": 2.5,
        **tags,
    }
    return [
        dicom(
            folder / f"{(7 * n) % num}.dcm",  # names say nothing about the order
            texture(100 * seed + n, (32, 40)).astype(np.int16) * 3,
            position=2.5 * n,
            InstanceNumber=num - n,
            SOPInstanceUID=f"1.2.5.{seed + 1}.{n + 1}",
            **told,
        )
        for n in range(num)
    ]


def _outline(num: int = 5) -> np.ndarray:
    mask = np.zeros((num, 32, 40), bool)
    mask[1:4, 5:9, 10:30] = True
    mask[1, 5, 10] = False
    return mask


def test_a_dicom_segmentation_lies_on_its_series_whatever_the_files_are_called(tmp_path, home):
    files = _slices(tmp_path / "in" / "a")
    _slices(tmp_path / "in" / "b", seed=1)
    other = np.zeros_like(_outline())
    other[4, 20:22, 3:5] = True
    segmentation(tmp_path / "in" / "seg.dcm", files, {"tumour": _outline(), "node": other})
    report, dataset = _seen(tmp_path / "in", home)
    assert len(dataset) == 2 and dataset.mask_names == ("node", "tumour")
    index = _of(dataset, "seg.dcm")
    mask = dataset.mask(index)
    assert mask is not None and np.array_equal(mask == 2, _outline()) and np.array_equal(mask == 1, other)
    assert dataset.mask(1 - index) is None
    assert _told(report)["seg.dcm"] == ("accepted", "")
    for n in range(5):
        assert np.array_equal(dataset.scan(index).pixels[n, 0], texture(n, (32, 40)).astype(np.int16) * 3)


def test_a_segmentation_of_another_series_is_refused_by_name(tmp_path, home):
    _slices(tmp_path / "in" / "a")
    elsewhere = _slices(tmp_path / "elsewhere", seed=1)
    segmentation(tmp_path / "in" / "seg.dcm", elsewhere, {"tumour": _outline()})
    report, dataset = _seen(tmp_path / "in", home)
    status, reason = _told(report)["seg.dcm"]
    assert status == "refused" and "segmentation of another series" in reason
    assert dataset.mask(0) is None


def test_segments_that_share_a_pixel_are_refused_and_missing_slices_are_told(tmp_path, home):
    files = _slices(tmp_path / "in")
    segmentation(tmp_path / "in" / "seg.dcm", files, {"a": _outline(), "b": _outline()})
    report, dataset = _seen(tmp_path / "in", home)
    assert "share a pixel" in _told(report)["seg.dcm"][1] and dataset.mask(0) is None
    segmentation(tmp_path / "in" / "seg.dcm", files, {"a": _outline()})
    files[1].unlink()
    report, dataset = _seen(tmp_path / "in", home, name="again")
    assert _told(report)["seg.dcm"][0] == "repaired" and "not in this import" in _told(report)["seg.dcm"][1]
    kept = np.delete(_outline(), 1, axis=0)
    assert np.array_equal(_shown(dataset, 0), kept)


def test_one_segmentation_for_each_structure_is_united(tmp_path, home):
    files = _slices(tmp_path / "in")
    other = np.zeros_like(_outline())
    other[0, 20:25, 3:9] = True
    segmentation(tmp_path / "in" / "s1.dcm", files, {"tumour": _outline()})
    segmentation(tmp_path / "in" / "s2.dcm", files, {"node": other})
    _, dataset = _seen(tmp_path / "in", home)
    assert dataset.mask_names == ("node", "tumour")
    assert np.array_equal(_shown(dataset, 0), other * 1 + _outline() * 2)


def test_a_segment_that_is_called_like_the_patient_loses_its_name(tmp_path, home):
    files = _slices(tmp_path / "in", PatientID="ZZPHI-4711")
    segmentation(tmp_path / "in" / "seg.dcm", files, {"ZZPHI-4711 left": _outline()})
    _, dataset = _seen(tmp_path / "in", home)
    assert dataset.mask_names == ("1",)


# -- pairs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("low", "high"), [("input", "target"), ("noisy", "clean"), ("LR", "HR"), ("quarter", "full")])
def test_pairs_in_two_folders(tmp_path, home, low, high):
    root, factor = tmp_path / "in", 2 if low == "LR" else 1
    for n in range(4):
        picture(root / low / f"{n}.png", n, (32, 40))
        picture(root / high / f"{n}.png", n + 30, (32 * factor, 40 * factor))
    picture(root / low / "8.png", 8, (32, 40))
    picture(root / high / "9.png", 9, (32, 40))
    source = detect(root, task="image_enhancement")
    assert source.kind == "pairs" and "4 pairs of a scan and its clean scan; 2 files have no partner" in source.words
    report, dataset = imported(source, home)
    assert len(dataset) == 4
    for n in range(4):
        target = dataset.target(_of(dataset, f"{low}/{n}.png"))
        assert target is not None and np.array_equal(target.pixels[0, 0], texture(n + 30, (32 * factor, 40 * factor)))
    assert _told(report)[f"{low}/8.png"][0] == _told(report)[f"{high}/9.png"][0] == "refused"


def test_folders_called_low_and_high_are_classes_unless_enhancement_is_meant(tmp_path, home):
    for n in range(6):
        picture(tmp_path / "in" / "low" / f"{n}.png", n)
        picture(tmp_path / "in" / "high" / f"{n}.png", n + 20)
    assert detect(tmp_path / "in").kind == "classes"
    assert detect(tmp_path / "in", task="image_enhancement").kind == "pairs"


def test_pairs_of_series_and_of_volumes(tmp_path, home):
    low, high = tmp_path / "in" / "ld" / "p0", tmp_path / "in" / "fd" / "p0"
    _slices(low)
    _slices(high, seed=3)
    _volume(tmp_path / "in" / "ld" / "v.nii.gz", _head())
    _volume(tmp_path / "in" / "fd" / "v.nii.gz", _head(1))
    _, dataset = _seen(tmp_path / "in", home)
    series, volume = _of(dataset, "ld/p0/1.dcm"), _of(dataset, "ld/v.nii.gz")
    target = dataset.target(series)
    assert target is not None and target.pixels.shape == (5, 1, 32, 40)
    assert np.array_equal(target.pixels[2, 0], texture(302, (32, 40)).astype(np.int16) * 3)
    clean = dataset.target(volume)
    assert clean is not None and clean.pixels.shape == dataset.scan(volume).pixels.shape


def test_a_pair_of_sizes_that_do_not_fit_or_with_an_unreadable_half_is_left_out_as_a_whole(tmp_path, home):
    for n in range(3):
        picture(tmp_path / "in" / "noisy" / f"{n}.png", n, (32, 40))
        picture(tmp_path / "in" / "clean" / f"{n}.png", n + 30, (33, 40) if n == 1 else (32, 40))
    (tmp_path / "in" / "clean" / "2.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))
    report, dataset = _seen(tmp_path / "in", home)
    assert len(dataset) == 1
    told = _told(report)
    assert "sizes must be equal" in told["clean/1.png"][1] and told["noisy/1.png"][0] == "refused"
    assert told["noisy/2.png"][0] == told["clean/2.png"][0] == "refused"


# -- a side that takes no more scans ----------------------------------------------------------------------------------


def test_scans_are_kept_out_of_a_side_that_was_opened(tmp_path, home):
    root = tmp_path / "in"
    rows = "".join(f"{n}.png,{'ab'[n % 2]},p{n}\n" for n in range(20))
    _pictures(root, 20)
    _written(root / "labels.csv", f"file,label,patient\n{rows}")
    _, dataset = _seen(root, home)
    tested = next(i for i in range(20) if dataset.splits[i] == "test")
    trained = next(i for i in range(20) if dataset.splits[i] == "train")
    more = tmp_path / "more"
    _pictures(more, 30, 100)
    rows = "".join(f"{n}.png,a,{'p' + str({100: tested, 101: trained}.get(n, n))}\n" for n in range(100, 130))
    _written(more / "labels.csv", f"file,label,patient\n{rows}")
    report, grown = _seen(more, home, into=dataset.id, keep_out_of=("test",))
    assert len(grown) == 49, "the scan of the patient in the test side is left out"
    assert Counter(grown.splits.tolist())["test"] == Counter(dataset.splits.tolist())["test"]
    status, reason = _told(report)["100.png"]
    assert status == "refused" and "belongs to the test side" in reason
    assert grown.splits[_of(grown, "101.png")] == "train"
    assert [case.id for case in grown.cases] == [f"c{n:06d}" for n in range(49)]


def test_an_almost_equal_scan_of_a_closed_side_is_left_out_too(tmp_path, home):
    root = tmp_path / "in"
    _pictures(root, 20, size=(64, 64))
    _, dataset = _seen(root, home)
    tested = next(i for i in range(20) if dataset.splits[i] == "test")
    name = next(n for n in range(20) if _of(dataset, f"{n}.png") == tested)
    more = tmp_path / "more"
    near = np.clip(texture(name, (64, 64)).astype(int) + 1, 0, 255).astype(np.uint8)
    _mask(more / "near.png", near)
    _mask(more / "copy.png", texture(name, (64, 64)))
    _pictures(more, 3, 200, (64, 64))
    report, grown = _seen(more, home, into=dataset.id, keep_out_of=("test",))
    told = _told(report)
    assert told["near.png"][0] == "refused" and "test side" in told["near.png"][1]
    assert told["copy.png"][0] in ("refused", "skipped")
    assert len(grown) == 23 and all(_of(grown, f"{n}.png") >= 20 for n in (200, 201, 202))
    assert {entry.case for entry in grown.ledger() if entry.case} == {case.id for case in grown.cases}


# -- boxes on slices --------------------------------------------------------------------------------------------------


def test_boxes_of_single_files_of_a_series_lie_in_their_slices(tmp_path, home):
    files = _slices(tmp_path / "in")
    names = {n: file.name for n, file in enumerate(files)}
    text = json.loads(_coco(names, [(1, 3, [1, 1, 4, 4]), (4, 3, [1, 1, 4, 4]), (4, 7, [2, 2, 4, 4])]))
    for image in text["images"]:
        image.update(width=40, height=32)
    _written(tmp_path / "in" / "labels.json", json.dumps(text))
    _, dataset = _seen(tmp_path / "in", home)
    assert len(dataset) == 1
    found = sorted(dataset.boxes(0) or (), key=lambda box: (box.slice, box.label))
    assert found == [Box(1, 1, 5, 5, 0, 1), Box(1, 1, 5, 5, 0, 4), Box(2, 2, 6, 6, 1, 4)]


def test_boxes_of_a_folder_or_a_volume_tell_their_slices(tmp_path, home):
    _slices(tmp_path / "in" / "s")
    _volume(tmp_path / "in" / "v.nii.gz", _head())
    rows = "s,1,1,5,5,a,3\ns,1,1,6,6,a,0\nv.nii.gz,2,2,6,6,a,5\nv.nii.gz,2,2,6,6,a,6\n"
    _written(tmp_path / "in" / "labels.csv", f"file,x0,y0,x1,y1,label,slice\n{rows}")
    report, dataset = _seen(tmp_path / "in", home)
    by_name = {name: dataset.boxes(_of(dataset, name)) for name in ("s/1.dcm", "v.nii.gz")}
    assert by_name["s/1.dcm"] == (Box(1, 1, 5, 5, 0, 3), Box(1, 1, 6, 6, 0, 0))
    assert by_name["v.nii.gz"] == (Box(2, 2, 6, 6, 0, 5),)
    assert "in a slice that is not there" in _told(report)["v.nii.gz"][1]


# -- real boxes -------------------------------------------------------------------------------------------------------


def test_the_blood_cells_of_bccd_come_in_with_their_split(shared_data, home):
    root = shared_data / "bccd_blood_cells"
    if not root.is_dir():
        pytest.skip("the folder bccd_blood_cells is absent from the real scans")
    report, dataset = _seen(root, home)
    assert len(dataset) == 364 and dataset.classes == ("Platelets", "RBC", "WBC")
    assert Counter(dataset.splits.tolist()) == {"train": 205, "val": 87, "test": 72}
    counts = Counter(dataset.classes[box.label] for i in range(364) for box in dataset.boxes(i) or ())
    assert counts == {"RBC": 4153, "WBC": 372, "Platelets": 361}, "4155 red cells, but for two boxes without area"
    assert any("2 boxes were refused (2 no area)" in words for words in report.warnings)
    repaired = [entry.name for entry in report.ledger if entry.status == "repaired"]
    assert len(repaired) == 2 and all(name.endswith(".xml") for name in repaired)
    assert len(report.ledger) == sum(1 for path in root.rglob("*") if path.is_file())


# -- privacy ----------------------------------------------------------------------------------------------------------


def test_no_name_out_of_a_label_file_stays_on_disk(tmp_path, home):
    root = tmp_path / "ZZPHI-folder"
    _pictures(root, 3)
    for n in range(3):
        (root / f"{n}.png").rename(root / f"ZZPHI-{n}.png")
    _written(root / "coco" / "ZZPHI.json", _coco({n: f"ZZPHI-{n}.png" for n in range(3)}, [(0, 3, [1, 1, 5, 5])]))
    _, dataset = _seen(root, home)
    record(dataset, 0, boxes=())
    _written(root / "voc" / "a.xml", _voc(("cell", 1, 1, 5, 5), name="ZZPHI-1.png"))
    imported(Source("voc", root), home, name="voc")
    for path in home.rglob("*"):
        assert "ZZPHI" not in path.name
        if path.is_file():
            assert b"ZZPHI" not in path.read_bytes(), path
