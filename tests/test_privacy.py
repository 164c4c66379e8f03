"""A canary patient is imported in every way there is: not one byte of it may stay on disk, in logs or in warnings."""

import json
import logging
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import pytest
from made_files import dicom, drained, imported, picture
from PIL import PngImagePlugin

from builder.data import Dataset
from builder.intake import Source, SourceRefused, import_scans
from builder.spec import Data
from builder.writing import sweep

CANARY = "ZZPHI"
_UID = "1.2.826.0.1.99887766"


def _spellings() -> list[bytes]:
    texts = (CANARY, CANARY.lower(), _UID, "19330228")
    return [text.encode(coding) for text in texts for coding in ("utf-8", "utf-16-le", "utf-16-be")]


def _traces(folder: Path) -> list[str]:
    found = []
    for path in folder.rglob("*"):
        if CANARY.lower() in str(path.relative_to(folder)).lower():
            found.append(f"name: {path.name}")
        if path.is_file():
            data = path.read_bytes()
            found += [f"{path.relative_to(folder)}: {word!r}" for word in _spellings() if word in data]
    return found


def _canary_dicom(path: Path, seed: int, **more) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an age that is none: pydicom would repeat it
        return dicom(
            path,
            seed,
            PatientName=f"{CANARY}^CANARY",
            PatientID=f"{CANARY}-1",
            PatientBirthDate="19330228",
            StudyDate="19330228",
            StudyInstanceUID=f"{_UID}.1",
            SeriesInstanceUID=f"{_UID}.2.{seed}",
            SOPInstanceUID=f"{_UID}.3.{seed}",
            SeriesDescription=f"<b>{CANARY}</b>",
            InstitutionName=CANARY,
            ImageComments=CANARY,
            WindowCenter=40,
            WindowWidth=400,
            WindowCenterWidthExplanation=CANARY,
            Manufacturer=CANARY,
            ManufacturerModelName=CANARY,
            StationName=CANARY,
            PatientSex="F",
            PatientAge=CANARY,
            **more,
        )


def _canary_png(path: Path, seed: int) -> Path:
    from PIL import Image

    picture(path, seed)
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", CANARY)
    with Image.open(path) as image:
        image.save(path, pnginfo=text)
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """DICOM files, pictures, a table and a zip, all named after the patient."""
    root = tmp_path / f"{CANARY} folder"
    for n in range(3):
        _canary_dicom(root / f"{CANARY}-{n}.dcm", n)
        _canary_png(root / f"{CANARY}_{n}.png", 10 + n)
    with zipfile.ZipFile(root / f"{CANARY}.zip", "w") as archive:
        for n in range(2):
            archive.write(_canary_png(tmp_path / "spare" / f"{n}.png", 20 + n), f"{CANARY}/{CANARY}{n}.png")
    (root / f"bad {CANARY}.dcm").write_bytes(_canary_dicom(tmp_path / "spare" / "bad.dcm", 30).read_bytes()[:900])
    (root / f"odd.{CANARY}").write_bytes(b"neither scan nor text \x00\x01" + CANARY.encode())
    (root / f"{CANARY}.txt").write_text(CANARY)
    files = [f"{CANARY}-{n}.dcm" for n in range(3)] + [f"{CANARY}_{n}.png" for n in range(3)]
    files += [f"{CANARY}.zip/{CANARY}/{CANARY}{n}.png" for n in range(2)]
    rows = [f"{name},{'sick' if n % 2 else 'well'},{CANARY} {n}" for n, name in enumerate(files)]
    (root / "labels.csv").write_text("\n".join(["file,label,patient", *rows]))
    return root


def test_no_byte_of_a_canary_patient_stays(source, home, tmp_path, caplog, recwarn, capfd):
    caplog.set_level(logging.DEBUG)
    warnings.simplefilter("always")
    report, dataset = imported(Source("csv", source), home)
    assert report.accepted + report.repaired == 8 and dataset.classes == ("sick", "well")
    folder, _ = imported(Source("folder", source, patient_pattern=r"(ZZPHI)"), home, name="folder")
    assert folder.accepted + folder.repaired == 8
    single, _ = imported(source / f"{CANARY}-0.dcm", home, name="single")
    imported(source / f"{CANARY}.zip", home, name="zip")
    ticket = home / "uploads" / "t"
    ticket.mkdir(parents=True)
    (ticket / "00001.bin").write_bytes((source / f"{CANARY}-1.dcm").read_bytes())
    (ticket / "names.jsonl").write_text(json.dumps({"file": "00001.bin", "name": f"{CANARY}.dcm", "bytes": 1}))
    imported(ticket, home, name="upload")
    for path in ticket.iterdir():  # the worker removes a ticket when its import ends
        path.unlink()
    dataset.prepared(Data(size_px=32))
    assert _traces(home) == []
    out, err = capfd.readouterr()
    said = [out, err, caplog.text, *(str(warning.message) for warning in recwarn), *report.warnings, *folder.warnings]
    said += [json.dumps(report.to_json()), json.dumps(dataset.fingerprint.to_json()), repr(report), repr(folder.ledger)]
    assert not [text for text in said if CANARY.lower() in text.lower() or _UID in text]
    assert dataset.find(f"{CANARY}-0.dcm"), "the person who knows the name still finds the file"


def test_a_failing_import_of_a_canary_leaves_and_says_nothing(source, home, capfd):
    (source / "labels.csv").write_text(f"file,label\n{CANARY} missing.png,a\n{CANARY}-0.dcm,\n")
    for wrong in (
        Source("csv", source),
        Source("folder", source, labels=source / f"{CANARY}.csv"),
        Source("folder", source / CANARY),
        Source("folder", source, patient_pattern=f"(no {CANARY} here)"),
        Source("files", source / f"bad {CANARY}.dcm"),
        Source("medmnist", source / f"{CANARY}.zip"),
    ):
        with pytest.raises(SourceRefused) as refused:
            drained(import_scans(wrong, "set", home))
        assert CANARY not in str(refused.value)
    assert _traces(home) == []
    assert CANARY not in "".join(capfd.readouterr())


def test_what_a_killed_import_had_unpacked_is_gone_after_the_next_start(source, home):
    code = """
import sys, time
from pathlib import Path
from builder.intake import Source, import_scans
steps = import_scans(Source("files", Path(sys.argv[1])), "set", Path(sys.argv[2]))
next(steps), next(steps)
print("unpacked", flush=True)
time.sleep(60)
"""
    command = [sys.executable, "-c", code, str(source / f"{CANARY}.zip"), str(home)]
    root = Path(__file__).parents[1]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root) as process:
        assert process.stdout is not None and process.stdout.readline() == b"unpacked\n"
        assert _traces(home), "the test looks at the moment when the pictures lie unpacked"
        process.kill()
    sweep(home)
    assert _traces(home) == [] and list((home / "datasets").iterdir()) == []


def test_the_same_patient_is_recognised_across_imports_without_being_stored(tmp_path, home):
    _canary_dicom(tmp_path / "one" / "a.dcm", 1)
    _canary_dicom(tmp_path / "two" / "b.dcm", 2)
    _, first = imported(tmp_path / "one", home)
    imported(tmp_path / "two", home, into=first.id)
    cases = Dataset.open(home, first.id).cases
    assert cases[0].patient == cases[1].patient and cases[0].group == cases[1].group
    assert len(cases[0].patient) == 32 and cases[0].series != cases[1].series
