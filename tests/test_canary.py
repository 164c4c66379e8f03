"""A canary patient goes all the way (import, training, evaluation, prediction, export) and leaves no trace on disk."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import corpus
import little_run
import numpy as np
import pytest

from builder.__main__ import main
from builder.data import Dataset

CANARIES = (
    "ZZPHI",  # in name, id and free text
    "ZZPHI-4711",
    "19470211",  # birth date
    "1.2.826.0.1.3680043.8.498.31415926",  # study, series and instance UIDs begin with it
    "CanaryHospital",
    "zz-canary-file",  # file and folder names
)


def scan(index: int, sick: bool) -> bytes:
    """A CT slice of canary patient `index`, with the canary in every element that could carry it."""
    random = np.random.default_rng(index)
    pixels = random.integers(-1000, 300, (40, 40)).astype(np.int16)
    if sick:
        pixels[10:22, 12:24] += 1200
    uid = f"1.2.826.0.1.3680043.8.498.31415926.{index}"
    return corpus.dicom_bytes(
        pixels,
        PatientName=f"ZZPHI^CANARY^{index}",
        PatientID=f"ZZPHI-4711-{index}",
        PatientBirthDate="19470211",
        StudyDate="19470211",
        InstitutionName="CanaryHospital",
        StationName="ZZPHI-4711",
        Manufacturer="ZZPHI",
        ManufacturerModelName="CanaryHospital",
        PatientSex="F" if index % 3 else "M",
        SeriesDescription="head of ZZPHI <img src=x>",
        StudyDescription="ZZPHI CanaryHospital",
        WindowCenterWidthExplanation="ZZPHI",
        WindowCenter=[100],
        WindowWidth=[1500],
        StudyInstanceUID=f"{uid}.1",
        SeriesInstanceUID=f"{uid}.2",
        SOPInstanceUID=f"{uid}.3",
        BurnedInAnnotation="YES",
    )


def contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every name and every byte below `folder`; zip files (also npz) are looked into."""
    for path in sorted(folder.rglob("*")):
        yield f"name of {path.name}", str(path.relative_to(folder)).encode()
        if path.is_file():
            data = path.read_bytes()
            yield str(path), data
            if zipfile.is_zipfile(io.BytesIO(data)):
                with zipfile.ZipFile(io.BytesIO(data)) as packed:
                    for name in packed.namelist():
                        yield f"{path}!{name}", packed.read(name) + name.encode()


def traces(folder: Path) -> list[str]:
    found = []
    for where, data in contents(folder):
        for word in CANARIES:
            forms = (word.encode(), word.encode("utf-16-le"), word.encode("utf-16-be"), word.encode().hex().encode())
            if any(form.lower() in data.lower() for form in forms):
                found.append(f"{word} in {where}")
    return found


@pytest.mark.slow
def test_a_canary_patient_leaves_no_trace_in_data_folder_logs_tensorboard_or_export(home, tmp_path, capsys):
    source = tmp_path / "zz-canary-file-clinic"
    for index in range(24):
        place = source / ("sick" if index % 2 else "well")
        place.mkdir(parents=True, exist_ok=True)
        (place / f"zz-canary-file-{index}.dcm").write_bytes(scan(index, bool(index % 2)))
    (source / "sick" / "zz-canary-file-broken.dcm").write_bytes(scan(99, True)[:700])
    document = tmp_path / "e.json"
    document.write_text(little_run.starter().replace("data.size_px", 32).replace("training.epochs", 2).dumps())

    def ask(*words: object) -> dict:
        capsys.readouterr()
        assert main([*map(str, words), "--json"]) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    # Told to the person who typed them: the names of refused files. They are in the answer, and must not be on disk.
    imported = ask("import", source, "--name", "canary", "--kind", "classes")
    assert imported["refused"] == 1 and imported["patients"] == 24
    assert any("zz-canary-file-broken" in line["file"] for line in imported["ledger"])
    attributes = [case.attributes for case in Dataset.open(home, imported["dataset"]).cases]
    assert {row["site"] for row in attributes} == {"site 1"} and {row["scanner"] for row in attributes} == {"scanner 1"}
    run = ask("train", document, "--data", "canary")["run"]
    assert ask("evaluate", run)["n"] > 0
    asked = source / "sick" / "zz-canary-file-1.dcm"
    (finding,) = ask("predict", run, asked)["findings"]
    said = json.dumps({k: v for k, v in finding.items() if k != "scan"})
    assert not any(word in said for word in CANARIES)
    exported = ask("export", run, "--out", tmp_path / "out")
    packed = ask("evidence", run, "--out", tmp_path / "out")
    assert Path(packed["file"]).is_file() and ask("verify", packed["file"])["holds"]
    private = {case.patient for case in Dataset.open(home, imported["dataset"]).cases}
    assert len(private) == 24
    for where, data in contents(Path(packed["folder"])):
        assert not [name for name in private if name.encode() in data], f"a pseudonym in {where}"
        assert str(home).encode() not in data and str(tmp_path).encode() not in data, f"a path in {where}"

    folder = home / "runs" / run
    assert (folder / "events.jsonl").is_file() and (folder / "worker.log").is_file()
    assert list(folder.rglob("events.out.tfevents*")), "no TensorBoard file was written, so nothing was searched"
    assert Path(exported["file"]).is_file()
    assert traces(home) == []
    assert traces(tmp_path / "out") == []


def test_the_search_finds_a_trace_where_there_is_one(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("inside.txt", "the patient zzphi-4711")
    (tmp_path / "wide.bin").write_bytes("CanaryHospital".encode("utf-16-le"))
    (tmp_path / "zz-canary-file-7").mkdir()
    assert len(traces(tmp_path)) == 4  # ZZPHI and ZZPHI-4711 in the zip, the hospital, the folder's name
