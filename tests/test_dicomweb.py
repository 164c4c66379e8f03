"""Archives: the administrator's list, and a real Orthanc that is asked, answered about, and given the results."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from made_files import dicom
from pydicom.uid import generate_uid

from builder import dicomweb, worker
from builder.data import Dataset
from builder.dicomweb import Archive, ArchiveError, BadQuestion
from builder.runs import Job, Run, RunStore
from tests.tiny_runs import tiny_run

PLUGINS = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


def listed(home: Path, *entries: dict[str, object], mode: int = 0o600) -> None:
    home.mkdir(parents=True, exist_ok=True)
    path = home / "dicomweb.json"
    path.write_text(json.dumps({"archives": list(entries)}))
    path.chmod(mode)


# ---- the list -------------------------------------------------------------------------------------------------------


def test_without_a_list_there_is_no_archive_and_a_name_is_refused_with_what_there_is(home: Path) -> None:
    assert dicomweb.archives(home) == ()
    with pytest.raises(BadQuestion, match="none is listed"):
        dicomweb.archive(home, "pacs")
    listed(home, {"name": "pacs", "title": "Ours", "url": "http://127.0.0.1:1/dicom-web/"})
    assert dicomweb.archive(home, "pacs") == Archive("pacs", "Ours", "http://127.0.0.1:1/dicom-web")
    for name in ("http://evil.example", "../pacs", "PACS"):
        with pytest.raises(BadQuestion, match="there is pacs"):
            dicomweb.archive(home, name)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"name": "A b", "url": "http://x"}, "small letters"),
        ({"name": "a", "url": "file:///etc/passwd"}, "http://"),
        ({"name": "a", "url": "http://me:secret@x"}, "http://"),
        ({"name": "a", "url": "http://x", "pasword": "typo"}, "pasword"),
        ({"name": "a", "url": "http://x", "store": "yes"}, "true or false"),
        ({"name": "a"}, "must be JSON like"),
    ],
)
def test_a_wrong_entry_is_refused_in_words(home: Path, entry: dict[str, object], words: str) -> None:
    listed(home, entry)
    with pytest.raises(ArchiveError, match=words):
        dicomweb.archives(home)


def test_a_password_that_others_may_read_is_refused(home: Path) -> None:
    listed(home, {"name": "a", "url": "http://x", "user": "u", "password": "p"}, mode=0o644)
    with pytest.raises(ArchiveError, match="mode to 600"):
        dicomweb.archives(home)


def test_another_file_may_be_named_by_the_environment(home: Path, tmp_path: Path) -> None:
    listed(tmp_path, {"name": "other", "url": "http://x"})
    told = {dicomweb.VARIABLE: str(tmp_path / "dicomweb.json")}
    assert [a.name for a in dicomweb.archives(home, told)] == ["other"]
    with pytest.raises(ArchiveError, match="not there"):
        dicomweb.archives(home, {dicomweb.VARIABLE: str(tmp_path / "gone.json")})


# ---- reading what an archive sends ----------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [1, 7, 1 << 20])
def test_the_parts_of_an_answer_are_told_apart_wherever_a_block_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(dicomweb, "_BLOCK_BYTES", block)
    bodies = [b"", b"\r\n--mar", bytes(range(256)), b"--mar\r\n\r\n--mar"]
    parts = [b"--mark\r\nContent-Type: application/dicom\r\n\r\n" + body + b"\r\n" for body in bodies]
    whole = b"".join(parts) + b"--mark--\r\n"
    place = tmp_path / "whole"
    place.mkdir()
    assert [path.read_bytes() for path in dicomweb._parts(io.BytesIO(whole), b"mark", place)] == bodies
    place = tmp_path / "cut"
    place.mkdir()
    with pytest.raises(ArchiveError, match="broke off"):
        dicomweb._parts(io.BytesIO(whole[:-12]), b"mark", place)


def test_an_archive_that_is_not_there_and_a_question_that_is_none_are_told_in_words(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: nobody answers
        where = Archive("pacs", "Ours", f"http://127.0.0.1:{taken.getsockname()[1]}/dicom-web")
        with pytest.raises(ArchiveError, match="cannot be reached"):
            dicomweb.search(where, patient="1")
    for asked in ({}, {"patient": "*"}, {"study": "../../x"}):
        with pytest.raises(BadQuestion):
            dicomweb.search(where, **asked)
    with pytest.raises(BadQuestion):
        dicomweb.fetch(where, "1.2", "1/../..", tmp_path)
    with pytest.raises(BadQuestion, match="takes no results"):
        dicomweb.store(where, [])


# ---- a real one -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    """An Orthanc of this test's own: its own configuration and storage, on a free port of this machine."""
    program = shutil.which("Orthanc") or "/usr/sbin/Orthanc"
    if not os.access(program, os.X_OK) or not PLUGINS.is_file():
        pytest.skip("no Orthanc on this machine (Debian, as root: 'apt-get install orthanc orthanc-dicomweb')")
    place = tmp_path_factory.mktemp("orthanc")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {
        "StorageDirectory": str(place / "storage"),
        "IndexDirectory": str(place / "index"),
        "HttpPort": port,
        "HttpBindAddresses": ["127.0.0.1"],
        "DicomServerEnabled": False,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {"reader": "the-word"},
        "Plugins": [str(PLUGINS)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (place / "orthanc.json").write_text(json.dumps(settings))
    with open(place / "log", "wb") as log:
        process = subprocess.Popen([program, str(place / "orthanc.json")], stdout=log, stderr=log, cwd=place)
    where = Archive("pacs", "Ours", f"http://127.0.0.1:{port}/dicom-web", "reader", "the-word", True)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                dicomweb.search(where, patient="nobody")
                break
            except ArchiveError:
                assert process.poll() is None and time.monotonic() < deadline, (place / "log").read_text()[-2000:]
                time.sleep(0.1)
        yield where
    finally:
        process.terminate()
        process.wait(20)
        shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="module")
def outlining(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Dataset, Run]]:
    """A run that outlines."""
    home = tmp_path_factory.mktemp("archived") / "home"
    yield home, *tiny_run(home, "tumor_diagnosis", home.parent / "scans")
    shutil.rmtree(home, ignore_errors=True)


def series_of(place: Path, num: int, study: str) -> tuple[list[Path], str]:
    """A series of CT slices of a patient called p-archive, and its identity."""
    series, frame = generate_uid(), generate_uid()
    tags = {
        "SeriesInstanceUID": series,
        "StudyInstanceUID": study,
        "FrameOfReferenceUID": frame,
        "PatientID": "p-archive",
        "PatientName": "Doe^Jane",
        "StudyDate": "20260102",
        "SliceThickness": 2,
        "SeriesNumber": 1,
    }
    files = [dicom(place / f"{n}.dcm", n + 1, 2.0 * n, InstanceNumber=n + 1, **tags) for n in range(num)]
    return files, str(series)


@pytest.mark.keeps_processes
def test_a_series_is_found_fetched_and_comes_back_as_it_was_sent(orthanc: Archive, tmp_path: Path) -> None:
    study = str(generate_uid())
    files, series = series_of(tmp_path / "sent", 5, study)
    assert len(dicomweb.store(orthanc, files)) == 5
    (found,) = dicomweb.search(orthanc, patient="p-archive", study=study)
    assert (found.study, found.series, found.modality, found.images) == (study, series, "CT", 5)
    assert found.date == "20260102" and not dicomweb.search(orthanc, study=study, modality="MR")
    place = tmp_path / "came"
    place.mkdir()
    came = [pydicom.dcmread(path) for path in dicomweb.fetch(orthanc, study, series, place)]
    sent = {pydicom.dcmread(path).SOPInstanceUID: pydicom.dcmread(path) for path in files}
    assert {c.SOPInstanceUID for c in came} == set(sent)
    assert all(np.array_equal(c.pixel_array, sent[c.SOPInstanceUID].pixel_array) for c in came)
    with pytest.raises(ArchiveError, match="does not know|no images"):
        dicomweb.fetch(orthanc, study, "1.2.3.4", place)
    with pytest.raises(ArchiveError, match="another user"):
        dicomweb.search(replace(orthanc, password="wrong"), patient="p-archive")


@pytest.mark.keeps_processes
def test_the_service_answers_about_a_series_of_the_archive_and_sends_a_report_and_a_segmentation_back(
    orthanc: Archive, outlining: tuple[Path, Dataset, Run], tmp_path: Path
) -> None:
    from starlette.testclient import TestClient

    from builder.service.answering import Answerer
    from builder.service.application import application

    home, _, run = outlining
    listed(home, {**vars(orthanc)})
    study = str(generate_uid())
    files, series = series_of(tmp_path / "sent", 3, study)
    dicomweb.store(orthanc, files)
    with Answerer(run, home) as answerer:
        client = TestClient(application(answerer, tmp_path), raise_server_exceptions=False)
        told = client.get("/archives").json()
        assert told == [{"name": "pacs", "title": "Ours", "store": True}], "neither address nor password"
        (found,) = client.get("/archives/pacs/series", params={"study": study}).json()
        assert found["series"] == series and "Doe" not in json.dumps(found)
        asked = {"study": study, "series": series}
        plain = client.post("/archives/pacs/predict", json=asked).json()
        assert set(plain) == {"run", "findings"} and plain["findings"][0]["scan"] == series
        answer = client.post("/archives/pacs/predict", json={**asked, "store": True}).json()
        assert answer["findings"] == plain["findings"]
        made = {one["kind"] for one in answer["stored"]} | {one["kind"] for one in answer["not_stored"]}
        assert made == {"sr", "seg"} and answer["stored"], answer
        for wrong, status in (({**asked, "url": "http://evil.example"}, 400), ({**asked, "study": "x"}, 400)):
            assert client.post("/archives/pacs/predict", json=wrong).status_code == status
        assert client.post("/archives/other/predict", json=asked).status_code == 400
        assert client.post("/archives/pacs/predict", json={**asked, "series": "1.9"}).status_code == 502
    kinds = {one.modality: one for one in dicomweb.search(orthanc, study=study)}
    assert set(kinds) == {"CT", *(one["kind"].upper() for one in answer["stored"])}
    place = tmp_path / "back"
    place.mkdir()
    for one in answer["stored"]:
        (path,) = dicomweb.fetch(orthanc, study, kinds[one["kind"].upper()].series, place)
        result = pydicom.dcmread(path)
        assert result.SOPInstanceUID == one["instance"] and result.PatientName == "Doe^Jane"
        assert result.StudyInstanceUID == study
        path.unlink()
    assert not list(tmp_path.glob("scan-*")), "nothing of the series stays on the disk"


@pytest.mark.keeps_processes
def test_a_page_has_a_series_fetched_asked_about_and_its_results_sent_back(
    orthanc: Archive, outlining: tuple[Path, Dataset, Run], tmp_path: Path
) -> None:
    home, _, run = outlining
    listed(home, {**vars(orthanc)})
    study, store = str(generate_uid()), RunStore(home)
    files, series = series_of(tmp_path / "sent", 3, study)
    dicomweb.store(orthanc, files)

    def done(kind: str, payload: dict[str, Any]) -> Job:
        job = store.submit_job(kind, payload)
        assert worker.run(job.folder) == 0, job.view().reason
        return job

    fetched = done("fetch", {"archive": "pacs", "study": study, "series": series})
    assert fetched.result() == {"archive": "pacs", "files": ["00001.dcm", "00002.dcm", "00003.dcm"]}
    came = [str(path) for path in sorted((fetched.folder / "scan").iterdir())]
    asked = done("predict", {"run": run.id, "checkpoint": "best", "files": came})
    sent = done("send", {"job": asked.id, "archive": "pacs", "files": came, "least": 0.0})
    told = sent.result()
    assert told is not None and {one["kind"] for one in (*told["stored"], *told["not_stored"])} == {"sr", "seg"}
    assert told["stored"] and not (sent.folder / "results").exists(), "nothing that names the patient stays"
    kinds = {one.modality for one in dicomweb.search(orthanc, study=study)}
    assert kinds == {"CT", *(one["kind"].upper() for one in told["stored"])}
    listed(home, {**vars(orthanc), "store": False})
    refused = store.submit_job("send", {"job": asked.id, "archive": "pacs", "files": came})
    worker.run(refused.folder)
    assert refused.view().status == "failed" and "takes no results" in refused.view().reason
    for folder in (fetched, asked, sent, refused):
        words = "".join(p.read_text(errors="replace") for p in folder.folder.glob("*.json*"))
        assert "Doe" not in words and "p-archive" not in words
