"""Import: every file ends in the ledger, labels and patients come from where they are told, bad tables say why."""

import json
import unicodedata
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from corpus import dicom_cases, image_cases, nifti_cases
from made_files import decode_nearby, dicom, drained, imported, npz, picture, texture
from PIL import Image

from builder.data import Dataset
from builder.fingerprint import Fingerprint
from builder.intake import ImportFailed, NewClasses, Source, SourceRefused, detect, import_scans
from builder.labels import name_classes, record
from builder.sources import new_classes, spelled_alike
from builder.tables import TableRefused, read_table


@pytest.fixture
def nearby(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decodes in this process: the sandbox has its own tests, and the logic of import is quicker without it."""

    decode_nearby(monkeypatch)


def _refused(source: Source, home: Path, **options) -> str:
    with pytest.raises(SourceRefused) as refused:
        drained(import_scans(source, "set", home, **options))
    assert not list((home / "datasets").glob("*")), "nothing may be left behind"
    text = str(refused.value)
    assert text.endswith(".") and "\n" not in text
    return text


def _classes(root: Path, num: int = 12) -> Path:
    for n in range(num):
        picture(root / ("cat" if n % 2 else "dog") / f"{n}.png", n)
    return root


# -- every file ends in the ledger


def test_each_file_is_accepted_repaired_refused_or_skipped_with_its_reason(tmp_path, home, nearby):
    root = _classes(tmp_path / "in", 4)
    (root / "cat" / "empty.png").write_bytes(b"")
    (root / "cat" / "noise.png").write_bytes(np.random.default_rng(0).bytes(500))
    (root / "dog" / "cut.png").write_bytes((root / "dog" / "0.png").read_bytes()[:300])
    (root / "cat" / "notes.txt").write_text("x")
    (root / "cat" / "Thumbs.db").write_bytes(b"x")
    (root / "cat" / ".hidden.png").write_bytes(b"x")
    (root / "__MACOSX").mkdir()
    (root / "__MACOSX" / "._0.png").write_bytes(b"x")
    (root / "LICENSE").write_text("x")
    (root / "alone.png").write_bytes((root / "dog" / "0.png").read_bytes())
    (root / "old.rar").write_bytes(b"Rar!\x1a\x07\x01\x00" + bytes(600))
    (root / "cat" / "link.png").symlink_to(root / "dog" / "0.png")
    Image.fromarray(texture(77)).convert("CMYK").save(root / "dog" / "cmyk.jpg")
    report, dataset = imported(root, home, "classes")
    status = {entry.name: entry.status for entry in report.ledger}
    assert len(status) == sum(1 for path in root.rglob("*") if not path.is_dir())
    assert Counter(status.values()) == {"accepted": 4, "repaired": 1, "refused": 5, "skipped": 6}
    assert status["dog/cmyk.jpg"] == "repaired"
    assert {n for n, s in status.items() if s == "refused"} == {
        "cat/empty.png",
        "cat/noise.png",
        "dog/cut.png",
        "alone.png",
        "old.rar",
    }
    assert all(entry.reason for entry in report.ledger if entry.status != "accepted")
    stored = dataset.ledger()
    assert [(e.status, e.reason, e.case) for e in stored] == [(e.status, e.reason, e.case) for e in report.ledger]
    assert not any(entry.name for entry in stored)
    for name in ("dog/cut.png", "cut.png", "./dog/cut.png", "dog\\cut.png"):
        assert [entry.status for entry in dataset.find(name)] == ["refused"]


def test_nothing_readable_is_one_sentence_with_the_reasons(tmp_path, home, nearby):
    (tmp_path / "in").mkdir()
    for n in range(3):
        (tmp_path / "in" / f"{n}.png").write_bytes(b"")
    text = _refused(Source("files", tmp_path / "in"), home)
    assert text == "None of the 3 files was imported: 3 x the file is empty."
    with pytest.raises(ImportFailed) as failed:
        drained(import_scans(Source("files", tmp_path / "in"), "set", home))
    assert len(failed.value.ledger) == 3


@pytest.mark.parametrize("kind", ["folder", "classes", "csv", "medmnist", "files"])
def test_an_empty_or_missing_folder_is_refused(tmp_path, home, kind):
    (tmp_path / "empty").mkdir()
    assert "empty" in _refused(Source(kind, tmp_path / "empty"), home)
    assert "no file or folder" in _refused(Source(kind, tmp_path / "ZZPHI"), home)


def test_progress_counts_files_and_never_names_them(tmp_path, home, nearby):
    steps = import_scans(Source("classes", _classes(tmp_path / "ZZPHI")), "set", home)
    told = [(step.done, step.total, step.note) for step in steps]
    assert told[-1][:2] == (12, 12)
    assert [done for done, _, _ in told] == sorted(done for done, _, _ in told)
    assert not any("ZZPHI" in note or ".png" in note for _, _, note in told)


def test_a_disk_without_room_is_told_before_anything_is_read(tmp_path, home, nearby, monkeypatch):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 9 * 10**8, 10**8))
    for source in (Source("classes", _classes(tmp_path / "in", 4)), Source("medmnist", npz(tmp_path / "x.npz"))):
        assert "0.1 GB are free: nothing was imported" in _refused(source, home)


# -- folders as classes, official splits


def test_folder_names_are_the_classes(tmp_path, home, nearby):
    _, dataset = imported(_classes(tmp_path / "in"), home)
    assert dataset.classes == ("cat", "dog")
    for number in range(12):
        (entry,) = dataset.find(f"{number}.png")
        case = dataset.cases[int(entry.case[1:])]
        assert dataset.classes[case.label] == ("cat" if number % 2 else "dog")


def test_train_and_test_folders_are_kept_and_val_is_taken_from_train(tmp_path, home, nearby):
    for side, num in (("Training", 20), ("Testing", 6)):
        for n in range(num):
            picture(
                tmp_path / "in" / side / ("a" if n % 2 else "b") / f"{side}{n}.png", n if side == "Training" else 50 + n
            )
    _, dataset = imported(tmp_path / "in", home)
    counts = Counter(dataset.splits.tolist())
    assert counts["test"] == 6 and counts["train"] + counts["val"] == 20 and counts["val"] >= 2
    assert dataset.fingerprint.official_split and dataset.fingerprint.patient_source == "official split"
    assert not any("names no patients" in words for words in dataset.fingerprint.warnings)
    for n in range(6):
        (entry,) = dataset.find(f"Testing{n}.png")
        assert dataset.splits[int(entry.case[1:])] == "test"


def test_a_wrapping_folder_and_a_zip_make_no_difference(tmp_path, home, nearby):
    root = _classes(tmp_path / "in" / "wrap" / "deeper")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in root.rglob("*.png"):
            archive.write(path, f"wrap/{path.relative_to(root)}")
    _, folder = imported(tmp_path / "in", home, name="folder")
    _, packed = imported(tmp_path / "a.zip", home, name="zip")
    assert folder.classes == packed.classes == ("cat", "dog")
    assert sorted(c.content for c in folder.cases) == sorted(c.content for c in packed.cases)
    assert not list(packed.folder.rglob("*.bin.*")) and not (packed.folder / ".scratch").exists()


def test_an_upload_ticket_is_read_by_the_names_it_remembers(tmp_path, home, nearby):
    root = _classes(tmp_path / "in", 6)
    ticket = home / "uploads" / "abc"
    ticket.mkdir(parents=True)
    lines = []
    for n, path in enumerate(sorted(root.rglob("*.png")), 1):
        (ticket / f"{n:05d}.bin").write_bytes(path.read_bytes())
        name = f"../{path.relative_to(root)}" if n == 1 else str(path.relative_to(root))
        lines.append(json.dumps({"file": f"{n:05d}.bin", "name": name, "bytes": 1}))
    lines += [json.dumps({"file": "../../salt", "name": "cat/x.png"}), '{"file": "0000']
    (ticket / "names.jsonl").write_text("\n".join(lines))
    report, dataset = imported(ticket, home)
    assert (report.accepted, len(report.ledger)) == (6, 6)
    assert dataset.classes == ("cat", "dog") and dataset.find("0.png")


def test_one_class_only_is_imported_and_said(tmp_path, home, nearby):
    for n in range(5):
        picture(tmp_path / "in" / "cat" / f"{n}.png", n)
    _, dataset = imported(tmp_path / "in", home, "classes")
    assert dataset.classes == ("cat",)
    assert any("only one class" in warning for warning in dataset.fingerprint.warnings)


def test_a_single_folder_that_may_be_a_class_is_imported_without_labels_and_says_what_to_do(tmp_path, home, nearby):
    for n in range(3):
        picture(tmp_path / "in" / "cat" / f"{n}.png", n)
        picture(tmp_path / "flat" / f"{n}.png", n)
        dicom(tmp_path / "series" / "Doe" / f"{n}.dcm", n)
    report, dataset = imported(tmp_path / "in", home, name="one folder")
    assert dataset.classes == () and "choose a folder per class" in detect(tmp_path / "in").words
    (told,) = (words for words in report.warnings if "--kind classes" in words)
    assert "table of labels (CSV)" in told and "cat" not in told
    for other in ("flat", "series"):
        assert not any("--kind" in words for words in imported(tmp_path / other, home, name=other)[0].warnings), other
    again, dataset = imported(tmp_path / "in", home, "classes", name="labelled")
    assert dataset.classes == ("cat",) and not any("--kind" in words for words in again.warnings)


def test_a_class_with_a_single_image_is_said_to_be_missing_elsewhere(tmp_path, home, nearby):
    root = _classes(tmp_path / "in")
    picture(root / "bird" / "only.png", 99)
    warnings = " ".join(imported(root, home)[1].fingerprint.warnings)
    assert "The val split holds no case of bird" in warnings and "The test split holds no case of bird" in warnings


def test_folders_that_are_called_like_the_patients_in_them_are_no_classes(tmp_path, home, nearby):
    for n in range(4):
        dicom(tmp_path / "in" / f"Doe{n}" / "x.dcm", n, PatientID=f"Doe{n}")
    assert "called like the patients" in _refused(Source("classes", tmp_path / "in"), home)
    assert detect(tmp_path / "in").kind == "folder"


# -- tables


def _table(root: Path, text: str | bytes, name: str = "labels.csv") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


def _pictures(root: Path, num: int = 6) -> Path:
    for n in range(num):
        picture(root / f"{n}.png", n)
    return root


ROWS = "file,label,patient\n" + "".join(f"{n}.png,{'ab'[n % 2]},p{n // 2}\n" for n in range(6))


@pytest.mark.parametrize(
    ("encode", "note"),
    [
        (lambda text: text.encode(), ""),
        (lambda text: text.encode("utf-8-sig"), ""),
        (lambda text: text.encode("utf-16"), "UTF-16"),
        (lambda text: text.replace("p0", "Müller").encode("latin-1"), "Latin-1"),
        (lambda text: text.replace(",", ";").encode(), "semicolons"),
        (lambda text: text.replace(",", "\t").encode(), "tabs"),
        (lambda text: text.replace("\n", "\r\n").encode(), ""),
        (lambda text: text.replace("file,label,patient", " Filename , Class,PATIENT ID").encode(), ""),
        (lambda text: text.replace("\n", "\n\n").encode(), ""),
    ],
)
def test_tables_are_read_generously_in_form(tmp_path, home, nearby, encode, note):
    root = _table(_pictures(tmp_path / "in"), encode(ROWS))
    report, dataset = imported(root, home)
    assert report.accepted == 6 and report.patients == 3 and dataset.classes == ("a", "b")
    assert dataset.fingerprint.patient_source == "csv"
    assert note in " ".join(report.warnings)
    assert [entry.reason for entry in report.ledger if entry.status == "skipped"] == ["the label table"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("0.png,a\n1.png,b\n", "none called 'file' and none called 'label'"),
        ("file,diagnose\n0.png,a\n", "none called 'label'"),
        ("file,label\n", "no rows below the first line"),
        ("file,label\n0.png,a,x\n1.png\n", "rows 2 and 3 have another number of columns"),
        ("file,label\n0.png,\n1.png,b\n", "row 2 has no label"),
        ("file,label\n,a\n1.png,b\n", "row 2 has no file name"),
        ("file,label,patient\n0.png,a,\n1.png,b,p\n", "row 2 has no patient"),
        ("file,label,split\n0.png,a,train\n1.png,b,nowhere\n", "row 3 has a split other than train, val or test"),
        ("file,label\n0.png,a\nZZPHI.png,b\n", "row 3 names a file that is not there"),
        ("file,label\n0.png,a\n../../etc/passwd,b\n", "row 3 names a file that is not there"),
        ("file,label\n/etc/passwd,a\n1.png,b\n", "row 2 names a file that is not there"),
        ("file,label\n0.png,a\n0.png,b\n", "row 3 contradicts earlier rows"),
        (b"\xff\xfeabc", "UTF-16"),
        (b"PK\x03\x04" + bytes(50), "spreadsheet"),
        (b"\xff\x00\x81file", "not text"),
        ("file,label," + ",".join(f"c{n}" for n in range(2000)) + "\n", "more than 1000 columns"),
        ("file,label\n" + "\n".join(f"{n}.png,ZZPHI{n}" for n in range(60)), "60 different values"),
        ("file,label\n0.png," + "x" * 200_000 + "\n", "longer than 100,000 characters"),
    ],
)
def test_a_table_that_cannot_be_used_says_why_without_repeating_its_cells(tmp_path, home, nearby, text, words):
    root = _table(_pictures(tmp_path / "in"), text)
    found = _refused(Source("csv", root), home)
    assert words in found
    assert "ZZPHI" not in found and "passwd" not in found and "0.png" not in found


def test_all_that_is_wrong_with_a_table_is_said_at_once(tmp_path):
    root = _table(tmp_path, "file,label,patient,split\na.png,,p,train\nb.png,x,,train\nc.png,x,p,later\nd.png,x\n")
    with pytest.raises(TableRefused) as refused:
        read_table(root / "labels.csv")
    assert str(refused.value) == (
        "The label table cannot be used: row 5 has another number of columns than the first line (4); row 2 has no "
        "label; row 3 has no patient, while others have one; row 4 has a split other than train, val or test. Correct "
        "the table and import again."
    )


def test_a_million_columns_are_refused_quickly(tmp_path):
    root = _table(tmp_path, "file,label" + ",x" * 1_000_000 + "\n")
    with pytest.raises(TableRefused, match="more than 1000 columns"):
        read_table(root / "labels.csv")


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_table_names_a_file_with_an_umlaut_however_either_writes_it(tmp_path, home, nearby, form):
    for n, letter in enumerate("äö"):
        picture(tmp_path / "in" / f"{unicodedata.normalize(form, letter)}.png", n)
    other = unicodedata.normalize("NFD" if form == "NFC" else "NFC", "file,label\nä.png,a\nö.png,b\n")
    (tmp_path / "in" / "labels.csv").write_text(other, encoding="utf-8")
    report, dataset = imported(tmp_path / "in", home)
    assert report.accepted == 2 and dataset.classes == ("a", "b")


def test_two_files_whose_names_differ_only_in_how_an_umlaut_is_written_are_both_there(tmp_path, home, nearby):
    for n, letter in enumerate(("\u00e4", "a\u0308")):
        picture(tmp_path / "in" / f"{letter}.png", n)
    assert imported(tmp_path / "in", home, "folder")[0].accepted == 2


def test_formula_cells_are_labels_like_others(tmp_path, home, nearby):
    root = _table(_pictures(tmp_path / "in", 2), "file,label\n0.png,=cmd|' /C calc'!A0\n1.png,@SUM(1)\n")
    _, dataset = imported(root, home)
    assert dataset.multi_label  # "|" joins labels
    assert set(dataset.classes) == {"=cmd", "' /C calc'!A0", "@SUM(1)"}


def test_files_that_the_table_does_not_name_are_skipped_and_said(tmp_path, home, nearby):
    root = _table(_pictures(tmp_path / "in"), "file,label\n0.png,a\n1.png,b\n")
    report, _ = imported(root, home)
    assert Counter(e.reason for e in report.ledger if e.status == "skipped") == {
        "not in the label table": 4,
        "the label table": 1,
    }


def test_a_table_elsewhere_and_a_table_as_the_source_are_understood(tmp_path, home, nearby):
    _pictures(tmp_path / "in")
    table = _table(tmp_path / "other", ROWS, "any.csv") / "any.csv"
    report, dataset = imported(Source("folder", tmp_path / "in", labels=table), home)
    assert report.accepted == 6 and dataset.classes == ("a", "b")
    (tmp_path / "in" / "mine.csv").write_text(ROWS)
    assert detect(tmp_path / "in" / "mine.csv").kind == "csv"
    assert imported(tmp_path / "in" / "mine.csv", home, name="again")[0].accepted == 6


def test_several_labels_make_a_multi_label_dataset(tmp_path, home, nearby):
    rows = "file,label\n0.png,mass|effusion\n1.png,mass\n2.png,\n3.png,effusion\n"
    _, dataset = imported(_table(_pictures(tmp_path / "in", 4), rows), home)
    assert dataset.multi_label and dataset.classes == ("effusion", "mass")
    found = {e.name: dataset.labels[int(e.case[1:])].tolist() for n in range(4) for e in dataset.find(f"{n}.png")}
    assert list(found.values()) and dataset.labels.sum() == 4 and dataset.labels.dtype == np.uint8


def test_a_split_column_is_kept_and_a_patient_in_two_splits_is_said(tmp_path, home, nearby):
    rows = "file,label,patient,split\n" + "".join(
        f"{n}.png,{'ab'[n % 2]},p{n // 2},{('train', 'train', 'train', 'valid', 'test', 'test')[n]}\n" for n in range(6)
    )
    _, dataset = imported(_table(_pictures(tmp_path / "in"), rows), home)
    assert Counter(dataset.splits.tolist()) == {"train": 3, "val": 1, "test": 2}
    assert any("1 patient sits in more than one split" in warning for warning in dataset.fingerprint.warnings)
    assert dataset.fingerprint.num_patients_astride == 1
    before = {k: v for k, v in dataset.fingerprint.to_json().items() if k != "num_patients_astride"}
    assert Fingerprint.from_json(before).num_patients_astride == 0  # a dataset.json of before there was the field


def test_a_row_may_name_the_folder_of_a_series(tmp_path, home, nearby):
    for k in range(3):
        dicom(tmp_path / "in" / "s1" / f"{k}.dcm", k, k * 2.0, SeriesInstanceUID="1.2.7")
        dicom(tmp_path / "in" / "s2" / f"{k}.dcm", 10 + k, k * 2.0, SeriesInstanceUID="1.2.8")
    report, dataset = imported(_table(tmp_path / "in", "file,label\ns1,a\ns2,b\n"), home)
    assert report.cases == 2 and [case.shape[0] for case in dataset.cases] == [3, 3]


# -- patients


def test_patients_never_cross_a_split(tmp_path, home, nearby):
    rows = "file,label,patient\n" + "".join(f"{n}.png,{'ab'[n % 2]},p{n // 4}\n" for n in range(40))
    _, dataset = imported(_table(_pictures(tmp_path / "in", 40), rows), home)
    assert dataset.fingerprint.num_patients == 10
    for patient in set(dataset.patients):
        assert len(set(dataset.splits[dataset.patients == patient])) == 1
    assert set(dataset.splits) == {"train", "val", "test"}


def test_a_pattern_finds_the_patient_in_the_file_name(tmp_path, home, nearby):
    for n in range(12):
        picture(tmp_path / "in" / ("a" if n % 2 else "b") / f"p{n // 3}_{n}.png", n)
    source = Source("classes", tmp_path / "in", patient_pattern=r"(p\d+)_")
    report, dataset = imported(source, home)
    assert report.patients == 4 and dataset.fingerprint.patient_source == "filename"


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("(p", "no regular expression"),
        ("p", "has 0 groups"),
        ("(p)(q)", "has 2 groups"),
        (r"(ZZ\d)", "finds no patient in 12 of 12 file names"),
        ("x" * 400, "longer than 300"),
    ],
)
def test_a_pattern_that_cannot_work_is_refused(tmp_path, home, nearby, pattern, words):
    assert words in _refused(Source("classes", _classes(tmp_path / "in"), patient_pattern=pattern), home)


def test_images_without_patients_count_as_one_patient_each_and_that_is_said(tmp_path, home, nearby):
    _, dataset = imported(_classes(tmp_path / "in"), home)
    assert dataset.fingerprint.patient_source == "one image = one patient" and dataset.fingerprint.num_patients == 12
    assert any("each image counts as one patient" in warning for warning in dataset.fingerprint.warnings)


def test_one_patient_only_is_said(tmp_path, home, nearby):
    for n in range(4):
        dicom(tmp_path / "in" / f"{n}.dcm", n)
    _, dataset = imported(tmp_path / "in", home)
    assert dataset.fingerprint.num_patients == 1 and set(dataset.splits) == {"train"}
    assert any("one patient" in warning for warning in dataset.fingerprint.warnings)


# -- duplicates


def test_equal_and_almost_equal_pictures_stay_on_one_side(tmp_path, home, nearby):
    root = tmp_path / "in"
    for n in range(30):
        picture(root / ("a" if n % 2 else "b") / f"{n}.png", n)
    for n in range(5):
        picture(root / ("a" if n % 2 else "b") / f"copy{n}.png", n, colour=True)
        Image.fromarray(texture(10 + n)).save(root / ("b" if n % 2 else "a") / f"lossy{n}.jpg", quality=60)
    _, dataset = imported(root, home)
    assert dataset.fingerprint.duplicates == {"exact": 5, "near": 5, "across_splits": 0, "label_conflicts": 5}
    assert any(
        "5 groups of equal or almost equal pictures carry different labels" in w for w in dataset.fingerprint.warnings
    )


def test_blank_pictures_bind_nobody(tmp_path, home, nearby):
    rows = "file,label,patient\n"
    for n in range(8):
        path = tmp_path / "in" / f"{n}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.zeros((64, 64), np.uint8)).save(path)
        rows += f"{n}.png,{'ab'[n % 2]},p{n}\n"
    _, dataset = imported(_table(tmp_path / "in", rows), home)
    assert len(set(dataset.groups)) == 8


def test_copies_across_an_official_split_are_counted_and_left(tmp_path, home, nearby):
    for side, seeds in (("train", range(10)), ("test", (0, 1, 20, 21))):
        for seed in seeds:
            picture(tmp_path / "in" / side / ("a" if seed % 2 else "b") / f"{seed}.png", seed)
    _, dataset = imported(tmp_path / "in", home)
    assert dataset.fingerprint.duplicates["across_splits"] == 2
    assert Counter(dataset.splits.tolist())["test"] == 4
    assert any("2 of them in test" in warning for warning in dataset.fingerprint.warnings)


# -- adding


def test_adding_keeps_every_case_on_its_side_and_skips_what_is_there(tmp_path, home, nearby):
    _, before = imported(_classes(tmp_path / "in", 20), home)
    sides = {case.content: case.split for case in before.cases}
    report, after = imported(_classes(tmp_path / "in", 44), home, into=before.id)
    assert (report.accepted, report.skipped) == (24, 20)
    assert {c.content: c.split for c in after.cases if c.content in sides} == sides
    assert len(after.cases) == 44 and len(after.ledger()) == 64
    assert [entry.n for entry in after.ledger()] == list(range(64))
    counts = Counter(after.splits.tolist())
    assert abs(counts["train"] / 44 - 0.7) < 0.05


def test_a_known_patient_and_a_copy_go_where_their_group_is(tmp_path, home, nearby):
    def table(root: Path, first: int, num: int) -> Path:
        rows = "file,label,patient\n" + "".join(f"{n}.png,{'ab'[n % 2]},p{n % 10}\n" for n in range(first, first + num))
        for n in range(first, first + num):
            picture(root / f"{n}.png", n)
        return _table(root, rows)

    _, before = imported(table(tmp_path / "one", 0, 20), home)
    side_of = {case.patient: case.split for case in before.cases}
    _, after = imported(table(tmp_path / "two", 20, 10), home, into=before.id)
    assert all(case.split == side_of[case.patient] for case in after.cases)
    assert after.fingerprint.num_patients == 10


def test_other_classes_are_refused_when_adding(tmp_path, home, nearby):
    _, before = imported(_classes(tmp_path / "in"), home)
    picture(tmp_path / "more" / "cat" / "1.png", 50)
    picture(tmp_path / "more" / "ZZPHI" / "2.png", 51)
    with pytest.raises(SourceRefused, match="knows the classes cat, dog; this source has 1 other") as refused:
        imported(tmp_path / "more", home, "classes", into=before.id)
    assert "ZZPHI" not in str(refused.value)
    assert isinstance(refused.value, NewClasses) and refused.value.names == ("ZZPHI",)
    assert Dataset.open(home, before.id).classes == ("cat", "dog")


def test_new_classes_that_are_welcome_follow_the_known_ones_and_no_label_changes(tmp_path, home, nearby):
    _, before = imported(_classes(tmp_path / "in"), home)
    held = before.labels.tolist()
    picture(tmp_path / "more" / "dog" / "1.png", 50)
    picture(tmp_path / "more" / "ant" / "2.png", 51)  # in the alphabet before all that are there
    source = detect(tmp_path / "more", kind="classes")
    assert new_classes(source, before.classes) == ("ant",)
    report, after = imported(tmp_path / "more", home, "classes", into=before.id, new_classes=("ant",))
    assert after.classes == after.fingerprint.classes == ("cat", "dog", "ant")
    assert after.labels.tolist() == [*held, 2, 1]
    assert report.cases == 2


def test_a_class_that_was_named_on_the_canvas_while_an_import_ran_keeps_its_number(tmp_path, home, nearby):
    _, before = imported(_classes(tmp_path / "in"), home)
    for n in range(2):
        picture(tmp_path / "more" / "newt" / f"{n}.png", 50 + n)
    steps = import_scans(detect(tmp_path / "more", kind="classes"), "", home, into=before.id, new_classes=("newt",))
    next(steps)
    next(steps)  # the classes of the source have their first numbers
    opened = Dataset.open(home, before.id)
    name_classes(opened, ["frog"])
    record(opened, 0, label=2)
    for _ in steps:
        pass
    after = Dataset.open(home, before.id)
    assert after.classes == ("cat", "dog", "frog", "newt")
    assert after.labels[0] == 2 and set(after.labels[len(before) :].tolist()) == {3}


def test_new_classes_in_a_zip_are_seen_without_unpacking_its_scans(tmp_path, home, nearby):
    rows = "file,label\n" + "".join(f"{n}.png,{'ab'[n]}\n" for n in range(2))
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        archive.writestr("labels.csv", rows)
        for n in range(2):
            picture(tmp_path / f"{n}.png", n)
            archive.write(tmp_path / f"{n}.png", f"{n}.png")
    assert new_classes(detect(tmp_path / "in.zip"), ("a",)) == ("b",)
    assert spelled_alike(("Benign", "cysts", "new"), ("benign", "cyst")) == {"Benign": "benign", "cysts": "cyst"}


# -- DICOM


def test_the_slices_of_a_series_become_one_case_in_order(tmp_path, home, nearby):
    order = [3, 0, 4, 1, 2]
    for n, k in enumerate(order):
        dicom(tmp_path / "in" / f"{n}.dcm", k, 2.5 * k, SeriesInstanceUID="1.2.9")
    report, dataset = imported(tmp_path / "in", home)
    assert (report.accepted, report.cases) == (5, 1)
    assert dataset.cases[0].spacing_mm[0] == pytest.approx(2.5)
    pixels = dataset.scan(0).pixels[:, 0]
    assert all(np.array_equal(pixels[k], texture(k).astype(np.int16) * 4 - 400) for k in range(5))


def test_single_files_of_different_series_stay_cases_of_one_patient(tmp_path, home, nearby):
    for n in range(6):
        dicom(tmp_path / "in" / f"{n}.dcm", n, 0.0, PatientID=f"p{n // 2}")
    report, dataset = imported(tmp_path / "in", home)
    assert (report.cases, report.patients) == (6, 3) and dataset.fingerprint.patient_source == "dicom"


def test_each_file_is_a_case_of_its_own_when_asked(tmp_path, home, nearby):
    for n in range(4):
        dicom(tmp_path / "in" / f"{n}.dcm", n, float(n), SeriesInstanceUID="1.2.9")
    assert imported(Source("folder", tmp_path / "in", group_series=False), home)[0].cases == 4


def test_a_bad_slice_costs_only_itself(tmp_path, home, nearby):
    for n in range(5):
        dicom(tmp_path / "in" / f"{n}.dcm", n, 2.0 * n, SeriesInstanceUID="1.2.9")
    path = tmp_path / "in" / "2.dcm"
    path.write_bytes(path.read_bytes()[:-5000])
    report, dataset = imported(tmp_path / "in", home)
    assert {e.name: e.status for e in report.ledger} == {
        f"{n}.dcm": "refused" if n == 2 else "repaired" for n in range(5)
    }
    assert dataset.cases[0].shape[0] == 4
    assert "1 of 5 slices could not be read" in dataset.cases[0].notes[0]


def test_other_sizes_and_orientations_in_a_series_become_cases_of_their_own(tmp_path, home, nearby):
    for n in range(3):
        dicom(tmp_path / "in" / f"a{n}.dcm", n, 2.0 * n, SeriesInstanceUID="1.2.9")
    dicom(tmp_path / "in" / "wide.dcm", np.zeros((32, 64), np.int16) + 5, 1.0, SeriesInstanceUID="1.2.9")
    sagittal = {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1], "ImagePositionPatient": [1, 0, 0]}
    dicom(tmp_path / "in" / "side.dcm", 9, SeriesInstanceUID="1.2.9", **sagittal)
    report, dataset = imported(tmp_path / "in", home)
    assert sorted(case.shape[0] for case in dataset.cases) == [1, 1, 3] and report.refused == 0


def test_one_image_twice_counts_once_and_a_false_claim_is_refused(tmp_path, home, nearby):
    first = dicom(tmp_path / "in" / "1.dcm", 1, SOPInstanceUID="1.2.3.4")
    (tmp_path / "in" / "2.dcm").write_bytes(first.read_bytes())
    dicom(tmp_path / "in" / "3.dcm", 1, SOPInstanceUID="1.2.3.4", SeriesDescription="other bytes")
    dicom(tmp_path / "in" / "4.dcm", 2, SOPInstanceUID="1.2.3.4")
    report, _ = imported(tmp_path / "in", home)
    status = {e.name: (e.status, e.reason) for e in report.ledger}
    assert report.cases == 1 and status["1.dcm"][0] == "accepted"
    assert status["2.dcm"] == ("skipped", "an exact copy of another file of this import")
    assert status["3.dcm"] == ("skipped", "the same image as another file of this import, packed in another way")
    assert status["4.dcm"][0] == "refused" and "claims to be the same image" in status["4.dcm"][1]


def test_an_unreadable_first_claimant_leaves_its_place_to_the_next(tmp_path, home, nearby):
    first = dicom(tmp_path / "in" / "1.dcm", 1, SOPInstanceUID="1.2.3.4")
    dicom(tmp_path / "in" / "2.dcm", 1, SOPInstanceUID="1.2.3.4", SeriesDescription="other bytes")
    first.write_bytes(first.read_bytes()[:-4000])
    report, _ = imported(tmp_path / "in", home)
    assert {e.name: e.status for e in report.ledger} == {"1.dcm": "refused", "2.dcm": "accepted"}


def test_a_segmentation_that_refers_to_no_image_is_refused_with_words(tmp_path, home, nearby):
    dicom(tmp_path / "in" / "seg.dcm", 1, Modality="SEG")
    dicom(tmp_path / "in" / "ct.dcm", 2)
    report, _ = imported(tmp_path / "in", home)
    (reason,) = (entry.reason for entry in report.ledger if entry.status == "refused")
    assert reason.startswith("This is a segmentation that does not say which images it was drawn on")


def test_burnt_in_names_are_warned_of(tmp_path, home, nearby):
    dicom(tmp_path / "in" / "a.dcm", 1, BurnedInAnnotation="YES")
    dicom(tmp_path / "in" / "b.dcm", 2, Modality="US")
    dicom(tmp_path / "in" / "c.dcm", 3)
    report, _ = imported(tmp_path / "in", home)
    assert any(warning.startswith("2 scans are ultrasound") and "burnt" in warning for warning in report.warnings)


# -- MedMNIST


def test_broken_medmnist_files_are_refused_with_one_sentence(tmp_path, home):
    good = dict(np.load(npz(tmp_path / "good.npz")))
    for name, change, words in [
        ("keys", {"train_images": None, "val_images": None, "test_images": None}, "MedMNIST layout"),
        ("nolabels", {"val_labels": None}, "no val_labels"),
        ("short", {"val_labels": good["val_labels"][:3]}, "10 val_images but 3 val_labels"),
        ("float", {"train_labels": good["train_labels"] + 0.5}, "whole numbers"),
        ("shape", {"val_images": good["val_images"][:, :20]}, "different shapes"),
        ("type", {"train_images": good["train_images"].astype(np.int64)}, "number types"),
        (
            "flat",
            {f"{s}_images": good[f"{s}_images"].reshape(-1, 784) for s in ("train", "val", "test")},
            "pictures of shape",
        ),
    ]:
        arrays = {key: value for key, value in {**good, **change}.items() if value is not None}
        np.savez(tmp_path / f"{name}.npz", **arrays)
        assert words in _refused(Source("medmnist", tmp_path / f"{name}.npz"), home), name
    objects = np.empty(40, object)
    objects[:] = [{"ZZPHI": 1}] * 40
    np.savez(tmp_path / "objects.npz", **{**good, "train_images": objects}, allow_pickle=True)
    assert "Python objects" in _refused(Source("medmnist", tmp_path / "objects.npz"), home)
    raw = (tmp_path / "good.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(raw[: len(raw) // 2])
    assert "npz" in _refused(Source("medmnist", tmp_path / "cut.npz"), home)


def test_colour_volumes_and_several_labels_of_medmnist_are_understood(tmp_path, home):
    random = np.random.default_rng(0)
    for name, shape, labels, expected in [
        ("rgb", (6, 28, 28, 3), np.arange(6)[:, None] % 2, (1, 3, 28, 28)),
        ("volume", (6, 12, 28, 28), np.arange(6)[:, None] % 2, (12, 1, 28, 28)),
        ("many", (6, 28, 28), random.integers(0, 2, (6, 14)), (1, 1, 28, 28)),
    ]:
        images = random.integers(0, 256, shape, dtype=np.uint8)
        np.savez_compressed(tmp_path / f"{name}.npz", train_images=images, train_labels=labels)
        _, dataset = imported(tmp_path / f"{name}.npz", home, name=name)
        assert dataset.cases[0].shape == expected
        assert dataset.multi_label == (name == "many")
        if name == "rgb":
            assert np.array_equal(dataset.scan(0).pixels[0], images[0].transpose(2, 0, 1))
        if name == "many":
            assert np.array_equal(dataset.labels, labels)
        assert set(dataset.splits) == {"train", "val", "test"}, "what the file leaves out is taken from train"


def test_a_known_medmnist_file_brings_its_class_names(tmp_path, home):
    assert imported(npz(tmp_path / "pneumoniamnist.npz"), home)[1].classes == ("normal", "pneumonia")


# -- strangers' files


@pytest.mark.slow
def test_one_good_scan_among_the_whole_corpus_of_bad_ones_is_imported(tmp_path, home):
    cases = [*dicom_cases(), *nifti_cases(), *image_cases()]
    root = tmp_path / "in"
    root.mkdir()
    for n, case in enumerate(cases):
        (root / f"{n:03d}").write_bytes(case.make())
    dicom(root / "good.dcm", 1, PatientID="good")
    picture(root / "good.png", 2)
    report, dataset = imported(root, home, "folder")
    status = {entry.name: entry for entry in report.ledger}
    assert len(status) == len(cases) + 2 and not any(e.status == "accepted" and not e.case for e in report.ledger)
    assert status["good.dcm"].status == status["good.png"].status == "accepted"
    wrong = [case.id for n, case in enumerate(cases) if case.end in "RQ" and status[f"{n:03d}"].case]
    assert not wrong, "files that must be refused became cases"
    assert all(entry.reason for entry in report.ledger if entry.status in ("refused", "skipped"))
    assert all(np.isfinite(dataset.scan(index).pixels).all() for index in range(len(dataset)))


def test_a_bad_zip_among_good_files_costs_only_itself(tmp_path, home, nearby):
    root = _pictures(tmp_path / "in", 2)
    (root / "broken.zip").write_bytes(b"PK\x03\x04" + bytes(100))
    with zipfile.ZipFile(root / "mixed.zip", "w") as archive:
        archive.write(root / "0.png", "inside/0.png")
        archive.writestr("../out.png", b"x")
        archive.writestr("inside/deep.zip", (root / "broken.zip").read_bytes())
        archive.writestr("__MACOSX/._0.png", b"x")
        archive.writestr("inside/empty.png", b"")
    report, dataset = imported(root, home)
    assert {e.name: e.status for e in report.ledger} == {
        "0.png": "accepted",
        "1.png": "accepted",
        "broken.zip": "refused",
        "mixed.zip/inside/0.png": "accepted",
        "mixed.zip/../out.png": "refused",
        "mixed.zip/inside/deep.zip": "refused",
        "mixed.zip/__MACOSX/._0.png": "skipped",
        "mixed.zip/inside/empty.png": "refused",
    }
    assert len(dataset) == 3


def test_a_file_that_may_not_be_read_costs_only_itself(tmp_path, home, nearby, monkeypatch):
    root = _pictures(tmp_path / "in", 3)
    real = open

    def guarded(file, *args, **kwargs):
        if str(file).endswith("1.png") and str(root) in str(file):
            raise PermissionError(13, "Permission denied", str(file))
        return real(file, *args, **kwargs)

    monkeypatch.setattr("builtins.open", guarded)
    report, _ = imported(root, home)
    assert {e.name: e.reason for e in report.ledger if e.status == "refused"} == {
        "1.png": "it could not be read (Permission denied)"
    }


# -- real scans (skipped where they are absent)


def test_pneumoniamnist_keeps_its_official_split_and_its_eight_leaks_are_found(shared_data, home):
    report, dataset = imported(shared_data / "pneumoniamnist", home)
    assert Counter(dataset.splits.tolist()) == {"train": 4708, "val": 524, "test": 624}
    assert (report.accepted, report.skipped, report.refused) == (5856, 1, 0)
    assert dataset.fingerprint.duplicates["across_splits"] == 8
    assert dataset.fingerprint.class_counts["test"] == {"normal": 234, "pneumonia": 390}


@pytest.mark.slow
def test_brain_tumor_mri_is_imported_whole_with_its_official_test(shared_data, home):
    root = shared_data / "brain_tumor_mri_4class"
    report, dataset = imported(root, home)
    assert detect(root).kind == "classes"
    assert report.accepted + report.repaired + report.refused + report.skipped == 761 == len(report.ledger)
    assert (report.cases, report.refused, report.skipped) == (760, 0, 1)
    assert dataset.classes == ("glioma", "meningioma", "notumor", "pituitary")
    assert dataset.fingerprint.class_counts["test"] == dict.fromkeys(dataset.classes, 40)
    assert all(count == 26 for count in dataset.fingerprint.class_counts["val"].values())
    sizes = Counter(case.alike for case in dataset.cases)
    assert max(sizes.values()) <= 10, "one head in eight slices, turned; neighbouring slices do not grow into a giant"
    assert dataset.fingerprint.duplicates["across_splits"] >= 15


@pytest.mark.slow
def test_busi_keeps_its_near_duplicates_together(shared_data, home):
    report, dataset = imported(shared_data / "busi_ultrasound", home)
    assert (report.cases, len(report.ledger)) == (391, 392)
    assert dataset.classes == ("benign", "malignant", "normal")
    assert dataset.fingerprint.duplicates["near"] >= 16 and dataset.fingerprint.duplicates["across_splits"] == 0
    assert max(Counter(case.alike for case in dataset.cases).values()) <= 5
    for one, other in [("benign (433).png", "malignant (145).png"), ("malignant (116).png", "malignant (18).png")]:
        cases = [dataset.cases[int(dataset.find(name)[0].case[1:])] for name in (one, other)]
        assert cases[0].group == cases[1].group and cases[0].split == cases[1].split
    assert all(count > 0 for counts in dataset.fingerprint.class_counts.values() for count in counts.values())


def test_the_ct_head_series_is_one_case_with_its_oddities_told(shared_data, home):
    report, dataset = imported(shared_data / "ct_head_series", home)
    assert (report.accepted + report.repaired, report.skipped, report.cases) == (28, 2, 1)
    case = dataset.cases[0]
    assert case.shape == (28, 1, 512, 512) and case.dtype == "int16" and case.modality == "CT"
    notes = " ".join(case.notes)
    assert "unevenly spaced" in notes and "tilt" in notes
    assert dataset.scan(0).pixels.min() < -900


def test_every_file_of_the_dicom_torture_folder_ends_in_the_ledger(shared_data, home):
    root = shared_data / "dicom_torture"
    report, dataset = imported(root, home, "folder")
    assert len(report.ledger) == sum(1 for path in root.rglob("*") if path.is_file())
    assert report.accepted + report.repaired >= 60 and report.refused >= 50
    assert all(entry.reason for entry in report.ledger if entry.status in ("refused", "skipped"))
    status = {Path(entry.name).name: entry for entry in report.ledger}
    outlined = status["liver_1frame.dcm"]  # its series lies in another folder of the collection
    assert outlined.status == "accepted" and dataset.mask(int(outlined.case[1:])).any()
    assert "radiotherapy plan" in status["rtplan.dcm"].reason
    cases = {case.id for case in dataset.cases}
    assert {entry.case for entry in report.ledger if entry.case} == cases
    for index in range(len(dataset)):
        assert np.isfinite(dataset.scan(index).pixels).all()
