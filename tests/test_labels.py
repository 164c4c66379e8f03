"""Labels beyond a class: how boxes, masks and clean scans are kept, edited, and counted; old datasets stay readable."""

import json
import multiprocessing
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from made_files import decode_nearby, imported, picture, texture
from PIL import Image

from builder.data import Case, Dataset, datasets
from builder.fingerprint import Fingerprint
from builder.labels import Box, LabelRefused, name_classes, pack, record, unpack
from builder.sources import Source, SourceRefused


@pytest.fixture(autouse=True)
def _nearby(monkeypatch: pytest.MonkeyPatch) -> None:
    decode_nearby(monkeypatch)


def _table(root: Path, text: str) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "labels.csv").write_text(text)
    return root


@pytest.fixture
def plain(tmp_path: Path, home: Path) -> Dataset:
    """Six pictures of 64 x 48 pixels about which nothing is known."""
    for n in range(6):
        picture(tmp_path / "plain" / f"{n}.png", n, (48, 64))
    return imported(tmp_path / "plain", home)[1]


# -- a table tells everything -----------------------------------------------------------------------------------------


def test_a_table_tells_boxes_negatives_and_classes(tmp_path, home):
    for n in range(5):
        picture(tmp_path / "in" / f"{n}.png", n)
    rows = "0.png,1,2,11,12.5,cell\n0.png,20,20,40,40,clot\n1.png,0,0,64,64,cell\n2.png,,,,,\n3.png,5,5,9,9,clot\n"
    report, dataset = imported(_table(tmp_path / "in", f"file,x0,y0,x1,y1,label\n{rows}"), home)
    assert dataset.classes == ("cell", "clot") and report.cases == 4
    assert dataset.boxes(0) == (Box(1, 2, 11, 12.5, 0), Box(20, 20, 40, 40, 1))
    assert dataset.boxes(1) == (Box(0, 0, 64, 64, 0),)
    assert dataset.boxes(2) == ()
    assert dataset.labels.tolist() == [-1] * 4
    found = dataset.fingerprint
    assert sum(n for counts in found.box_counts.values() for n in counts.values()) == 4
    assert sum(found.num_boxed.values()) == 4 and sum(found.num_empty["boxes"].values()) == 1
    assert found.box_sizes_px["max"] == [64, 64] and found.box_sizes_px["min"] == [4, 4]
    assert not any("carry no label" in warning for warning in found.warnings)


def test_a_table_tells_masks_and_classes_and_absent_is_not_empty(tmp_path, home):
    root = tmp_path / "in"
    for n in range(4):
        picture(root / f"{n}.png", n)
    mask = np.zeros((64, 64), np.uint8)
    mask[10:20, 30:41] = 255
    for name, values in (("0m", mask), ("1m", np.zeros_like(mask))):
        Image.fromarray(values).save(root / f"{name}.png")
    rows = "0.png,sick,0m.png\n1.png,well,1m.png\n2.png,sick,\n3.png,,0m.png\n"
    _, dataset = imported(_table(root, f"file,label,mask\n{rows}"), home)
    assert [case.label for case in dataset.cases] == [0, 1, 0, None]
    assert np.array_equal(dataset.mask(0), (mask > 0).astype(np.uint8)[None])
    assert dataset.mask(1) is not None and not dataset.mask(1).any()
    assert dataset.mask(2) is None
    assert dataset.mask_names == ("lesion",)
    assert sum(dataset.fingerprint.num_masked.values()) == 3
    assert sum(dataset.fingerprint.num_empty["mask"].values()) == 1


def test_a_table_tells_the_clean_scan_of_a_pair_also_a_larger_one(tmp_path, home):
    root = tmp_path / "in"
    for n in range(3):
        picture(root / "low" / f"{n}.png", n, (32, 32))
        picture(root / "high" / f"{n}.png", n + 50, (64, 64))
    rows = "".join(f"low/{n}.png,high/{n}.png\n" for n in range(3))
    report, dataset = imported(_table(root, f"file,target\n{rows}"), home)
    assert len(dataset) == 3 and report.accepted == 6
    assert np.array_equal(dataset.target(1).pixels[0, 0], texture(51, (64, 64)))
    assert np.array_equal(dataset.scan(1).pixels[0, 0], texture(1, (32, 32)))
    assert sum(dataset.fingerprint.num_paired.values()) == 3 and dataset.classes == ()


# -- edits ------------------------------------------------------------------------------------------------------------


def test_an_edit_is_seen_at_once_and_by_everybody_who_opens_the_dataset_later(plain, home):
    assert plain.boxes(0) is None and plain.mask(0) is None and plain.progress() == (0, 6)
    assert name_classes(plain, ["cell"], ["tumour"]) == (("cell",), ("tumour",))
    mask = np.zeros((1, 48, 64), bool)
    mask[0, 3:9, 5:50] = True
    record(plain, 0, boxes=[Box(1, 2, 3.25, 4, 0)], who="Ada", origin="corrected")
    record(plain, 1, mask=mask)
    record(plain, 2, label=0)
    record(plain, 3, boxes=())
    for dataset in (plain, Dataset.open(home, plain.id)):
        assert dataset.boxes(0) == (Box(1, 2, 3.25, 4, 0),)
        shown = dataset.mask(1)
        assert shown is not None and np.array_equal(shown, mask.astype(np.uint8)) and not shown.flags.writeable
        assert dataset.labels.tolist() == [-1, -1, 0, -1, -1, -1]
        assert dataset.boxes(3) == () and dataset.boxes(4) is None
        assert [dataset.progress(by)[0] for by in ("class", "boxes", "mask", "target", "anything")] == [1, 2, 1, 0, 4]
        (edit,) = dataset.history(0)
        assert (edit.who, edit.origin) == ("Ada", "corrected") and edit.at > 1.7e9
        found = dataset.fingerprint
        assert sum(found.num_boxed.values()) == 2 and sum(found.num_masked.values()) == 1
        assert found.classes == ("cell",) and found.mask_names == ("tumour",)
    boxed = [i for split in ("train", "val", "test") for i in plain.indices(split, by="boxes")]
    assert sorted(boxed) == [0, 3]


def test_the_newest_edit_holds_and_what_is_cleared_is_unknown_again(plain, home):
    name_classes(plain, ["a", "b"])
    record(plain, 0, boxes=[Box(1, 1, 5, 5, 0)])
    record(plain, 0, boxes=[Box(2, 2, 6, 6, 1)], label=1)
    assert plain.boxes(0) == (Box(2, 2, 6, 6, 1),) and plain.labels[0] == 1
    record(plain, 0, clear=["boxes", "class"], origin="cleared")
    assert plain.boxes(0) is None and plain.labels[0] == -1
    assert [edit.origin for edit in plain.history(0)] == ["drawn", "drawn", "cleared"]


def test_a_dataset_in_use_does_not_change_under_a_training(plain, home):
    in_use = Dataset.open(home, plain.id)
    assert in_use.labels.tolist() == [-1] * 6
    name_classes(plain, ["a"])
    record(plain, 0, label=0)
    assert in_use.labels.tolist() == [-1] * 6 and in_use.classes == ()
    in_use.refresh()
    assert in_use.labels.tolist() == [0, -1, -1, -1, -1, -1]


def test_the_list_of_datasets_counts_edits_in_and_tells_that_something_changed(plain, home):
    before = datasets(home)[0]
    name_classes(plain, ["a"])
    record(plain, 0, label=0)
    (after,) = datasets(home)
    assert after.changed > before.changed and after.fingerprint.classes == ("a",)
    kept = (plain.folder / "labelled.json").stat().st_mtime_ns
    assert datasets(home)[0].fingerprint == after.fingerprint
    assert (plain.folder / "labelled.json").stat().st_mtime_ns == kept, "counted again though nothing changed"
    said = Counter(after.fingerprint.warnings)
    assert set(said.values()) == {1}, "a warning is said twice"


def test_equal_masks_are_stored_once_and_an_edit_that_says_nothing_is_refused(plain):
    name_classes(plain, structures=["tumour"])
    mask = np.ones((1, 48, 64), np.uint8)
    record(plain, 0, mask=mask)
    record(plain, 1, mask=mask)
    assert len(list((plain.folder / "drawn").iterdir())) == 1
    with pytest.raises(LabelRefused, match="must say something"):
        record(plain, 0)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ({"boxes": [Box(5, 5, 5, 9, 0)]}, "Box 1 does not lie in the picture"),
        ({"boxes": [Box(9, 5, 5, 9, 0)]}, "does not lie in the picture"),
        ({"boxes": [Box(0, 0, 64.5, 9, 0)]}, "within 64 x 48 pixels"),
        ({"boxes": [Box(float("nan"), 0, 5, 9, 0)]}, "must be numbers"),
        ({"boxes": [Box(0, 0, 5, 9, 0, slice=1)]}, "lies in slice 1"),
        ({"boxes": [Box(0, 0, 5, 9, 3)]}, "is of class 3, but the dataset has 1 classes"),
        ({"label": 4}, "has 1 classes"),
        ({"label": (0,)}, "one class a scan"),
        ({"mask": np.zeros((1, 64, 48), np.uint8)}, "the mask is uint8 (1, 64, 48)"),
        ({"mask": np.zeros((1, 48, 64), np.float32)}, "float32"),
        ({"mask": np.full((1, 48, 64), 2, np.uint8)}, "shows structure 2, but the dataset has 1"),
        ({"clear": ["target"]}, "clears any of class, boxes, mask"),
        ({"boxes": (), "origin": "guessed"}, "comes from one of drawn"),
        ({"boxes": (), "who": "a\nb"}, "printable"),
    ],
)
def test_an_edit_that_cannot_be_is_refused_in_words_and_leaves_no_trace(plain, edit, words):
    name_classes(plain, ["cell"], ["tumour"])
    before = (plain.folder / "edits.jsonl").read_bytes()
    with pytest.raises(LabelRefused) as refused:
        record(plain, 0, **edit)
    assert words.lower() in str(refused.value).lower() and str(refused.value).endswith(".")
    assert (plain.folder / "edits.jsonl").read_bytes() == before


def test_names_are_added_behind_those_that_are_there(plain):
    assert name_classes(plain, ["b", "a", "b"])[0] == ("b", "a")
    assert name_classes(plain, ["c", "a"])[0] == ("b", "a", "c")
    for bad in ("", " ", "x" * 101, "a\x00b"):
        with pytest.raises(LabelRefused):
            name_classes(plain, [bad])


def test_a_line_that_was_cut_off_is_not_read_and_the_next_edit_mends_the_file(plain, home):
    name_classes(plain, ["cell"])
    record(plain, 0, label=0)
    with open(plain.folder / "edits.jsonl", "ab") as file:
        file.write(b'{"at":1.0,"who":"","ori')
    again = Dataset.open(home, plain.id)
    assert again.labels[0] == 0 and again.edits.num == 2
    record(again, 1, label=0)
    assert Dataset.open(home, plain.id).labels.tolist()[:2] == [0, 0]
    assert all(json.loads(line) for line in (plain.folder / "edits.jsonl").read_text().splitlines())


def _label_many(home: Path, id: str, index: int) -> None:
    dataset = Dataset.open(home, id)
    for _ in range(25):
        record(dataset, index, label=0)


@pytest.mark.keeps_processes
def test_two_writers_lose_no_edit(plain, home):
    name_classes(plain, ["cell"])
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_label_many, args=(home, plain.id, index)) for index in (0, 1)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    plain.refresh()
    assert len(plain.history(0)) == len(plain.history(1)) == 25


def test_a_mask_survives_packing_and_a_damaged_one_is_told():
    mask = np.random.default_rng(0).integers(0, 4, (3, 20, 31)).astype(np.uint8)
    assert np.array_equal(unpack(pack(mask), mask.shape), mask)
    for wrong in (b"", b"noise", pack(mask)[:-9]):
        with pytest.raises(OSError, match="damaged"):
            unpack(wrong, mask.shape)
    with pytest.raises(OSError, match="damaged"):
        unpack(pack(mask), (3, 20, 30))


# -- datasets of earlier versions, and adding to one ------------------------------------------------------------------


def _as_before(dataset: Dataset) -> None:
    """Takes away from a dataset on disk what earlier versions did not write."""
    found = json.loads((dataset.folder / "dataset.json").read_text())
    del found["sizes"]["masks.bin"], found["said"]
    new = ("num_boxed", "num_masked", "num_paired", "num_empty", "box_counts", "mask_counts", "box_sizes_px")
    for name in (*new, "mask_names"):
        del found["fingerprint"][name]
    (dataset.folder / "dataset.json").write_text(json.dumps(found))
    (dataset.folder / "masks.bin").unlink()


def test_a_dataset_of_an_earlier_version_is_read_edited_and_added_to(tmp_path, home):
    for n in range(12):
        picture(tmp_path / "in" / "ab"[n % 2] / f"{n}.png", n)
    _, dataset = imported(tmp_path / "in", home)
    _as_before(dataset)
    old = Dataset.open(home, dataset.id)
    assert old.boxes(0) is None and old.mask(0) is None and old.fingerprint.num_boxed == {}
    record(old, 0, label=1)
    edited = Dataset.open(home, dataset.id)
    assert edited.labels[0] == 1 and max(Counter(edited.fingerprint.warnings).values(), default=1) == 1
    before = edited.fingerprint.warnings
    picture(tmp_path / "more" / "a" / "99.png", 99)
    picture(tmp_path / "more" / "b" / "98.png", 98)
    _, grown = imported(tmp_path / "more", home, "classes", into=dataset.id)
    assert len(grown) == 14 and grown.labels[0] == 1, "an edit is kept when scans are added"
    assert set(grown.fingerprint.warnings) == set(before)


def test_cases_without_labels_are_written_as_before(plain):
    line = plain.cases[0].to_json()
    assert not {"boxes", "mask", "target"} & set(json.loads(line))
    assert Case.from_json(line) == plain.cases[0]


def test_a_fingerprint_with_labels_survives_json(tmp_path, home):
    picture(tmp_path / "in" / "0.png", 0)
    _, dataset = imported(_table(tmp_path / "in", "file,x0,y0,x1,y1,label\n0.png,1,1,9,9,cell\n"), home)
    found = dataset.fingerprint
    assert Fingerprint.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_a_scan_that_is_there_already_is_skipped_by_the_labels_it_came_with_and_by_those_it_has(tmp_path, home):
    picture(tmp_path / "in" / "0.png", 0)
    root = _table(tmp_path / "in", "file,x0,y0,x1,y1,label\n0.png,1,1,9,9,cell\n")
    _, dataset = imported(root, home)
    record(dataset, 0, boxes=[Box(1, 1, 8, 8, 0)], origin="corrected")
    picture(root / "1.png", 1)
    for edge, num in ((9, 2), (8, 2)):
        rows = f"0.png,1,1,{edge},{edge},cell\n1.png,2,2,9,9,cell\n"
        source = Source("csv", _table(root, f"file,x0,y0,x1,y1,label\n{rows}"))
        try:
            report, dataset = imported(source, home, into=dataset.id)
            assert report.labelled == 0
        except ValueError as error:
            assert "already in the dataset" in str(error)
        now = Dataset.open(home, dataset.id)
        assert len(now) == num and now.boxes(0) == (Box(1, 1, 8, 8, 0),)


def test_other_labels_of_a_scan_that_is_there_become_edits_and_no_second_scan(tmp_path, home):
    for n in range(3):
        picture(tmp_path / "in" / f"{n}.png", n)
    root = _table(tmp_path / "in", "file,x0,y0,x1,y1,label\n0.png,1,1,9,9,cell\n1.png,,,,,\n")
    _, dataset = imported(root, home)
    table = _table(root, "file,x0,y0,x1,y1,label\n0.png,2,2,7,7,cell\n1.png,3,3,8,8,cell\n")
    report, dataset = imported(table, home, into=dataset.id)
    assert (report.cases, report.labelled, report.accepted) == (0, 2, 2)
    assert len(dataset) == 2 and len(Dataset.open(home, dataset.id).imported) == 2
    assert dataset.boxes(0) == (Box(2, 2, 7, 7, 0),) and dataset.boxes(1) == (Box(3, 3, 8, 8, 0),)
    assert [edit.origin for edit in dataset.history(0)] == ["imported"]
    reasons = {entry.reason for entry in report.ledger if entry.status == "accepted"}
    assert reasons == {"This scan is already in the dataset; it got the boxes told here."}
    assert {entry.case for entry in report.ledger if entry.status == "accepted"} == {"c000000", "c000001"}
    assert dataset.fingerprint.num_boxed == {"train": 2} or sum(dataset.fingerprint.num_boxed.values()) == 2


def test_boxes_with_their_classes_come_to_scans_that_had_none(tmp_path, home):
    for n in range(2):
        picture(tmp_path / "in" / f"{n}.png", n)
    _, dataset = imported(Source("folder", tmp_path / "in"), home)
    assert dataset.classes == ()
    table = _table(tmp_path / "in", "file,x0,y0,x1,y1,label\n0.png,2,2,7,7,cell\n1.png,3,3,8,8,clot\n")
    report, dataset = imported(Source("csv", table), home, into=dataset.id)
    assert (report.cases, report.labelled) == (0, 2) and dataset.classes == ("cell", "clot")
    assert [dataset.boxes(n)[0].label for n in range(2)] == [0, 1]


def test_masks_for_scans_that_are_there_are_added_once(tmp_path, home):
    for n in range(2):
        picture(tmp_path / "in" / f"{n}.png", n)
    _, dataset = imported(Source("folder", tmp_path / "in"), home)
    for n in range(2):
        picture(tmp_path / "both" / "images" / f"{n}.png", n)
        size = np.asarray(Image.open(tmp_path / "both" / "images" / f"{n}.png")).shape[:2]
        mask = np.zeros(size, np.uint8)
        mask[2 : 4 + n, 3:6] = 255
        (tmp_path / "both" / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(tmp_path / "both" / "masks" / f"{n}.png")
    source = Source("masks", tmp_path / "both")
    report, dataset = imported(source, home, into=dataset.id)
    assert (report.cases, report.labelled) == (0, 2) and dataset.mask_names == ("lesion",)
    assert [int(dataset.mask(n).sum()) for n in range(2)] == [6, 9]
    with pytest.raises(SourceRefused, match="already in the dataset"):
        imported(source, home, into=dataset.id)


def test_a_closed_side_takes_no_labels_of_an_import(tmp_path, home):
    picture(tmp_path / "in" / "0.png", 0)
    root = _table(tmp_path / "in", "file,x0,y0,x1,y1,label,split\n0.png,1,1,9,9,cell,test\n")
    _, dataset = imported(root, home)
    picture(root / "1.png", 1)
    rows = "0.png,2,2,7,7,cell,test\n1.png,3,3,8,8,cell,train\n"
    table = _table(root, f"file,x0,y0,x1,y1,label,split\n{rows}")
    report, dataset = imported(table, home, into=dataset.id, keep_out_of=("test",))
    assert report.labelled == 0 and dataset.boxes(0) == (Box(1, 1, 9, 9, 0),)
    assert "takes no more labels" in next(e.reason for e in report.ledger if e.status == "refused")
