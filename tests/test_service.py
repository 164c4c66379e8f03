"""A run as a service: predict's own answers bit for bit, under load, behind a door, and refused in the same words."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import threading
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import corpus
import pytest

from builder import operating
from builder.__main__ import main
from builder.evaluate import evaluate
from builder.predict import read
from builder.runs import Claim, Run
from builder.sandbox import Sandbox
from builder.scan import Unreadable
from builder.service import process
from builder.service.door import TOKEN, objection
from builder.service.receiving import Limits
from tasks import phantoms
from tests.little_run import little

ROOT = Path(__file__).resolve().parents[1]
SECRET = "a-secret-of-the-test"


@dataclass(frozen=True)
class Served:
    """A little run that is served: its home, its address without and with a token, and 100 scans."""

    home: Path
    run: Run
    url: str
    guarded: str
    scans: tuple[Path, ...]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    place = tmp_path_factory.mktemp("served")
    home = place / "home"
    _, run = little(home)
    scans = phantoms.write_cohort(place / "scans", seed=11, num_images=100, size_px=48)
    ended = threading.Event()
    urls: dict[str, str] = {}
    threads = []
    for token in ("", SECRET):

        def ready(url: str, token: str = token) -> None:
            urls[token] = url

        keywords = {"port": 0, "token": token, "ready": ready, "until": ended}
        threads.append(threading.Thread(target=process.serve, args=(run, home), kwargs=keywords))
        threads[-1].start()
        deadline = time.monotonic() + 180  # one after the other: a busy machine is slow to start their children
        while token not in urls and threads[-1].is_alive() and time.monotonic() < deadline:
            time.sleep(0.02)
    try:
        yield Served(home, run, urls[""], urls[SECRET], tuple(sorted(scans.rglob("*.png"))))
    finally:
        ended.set()
        for thread in threads:
            thread.join(20)
        shutil.rmtree(home, ignore_errors=True)


def asked(url: str, body: bytes | None = None, **headers: str) -> tuple[int, dict[str, Any]]:
    """Status and JSON of an answer; a body makes it a POST."""
    request = urllib.request.Request(url, body, {k.replace("_", "-"): v for k, v in headers.items()})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


@pytest.mark.keeps_processes
def test_a_hundred_scans_are_answered_bit_for_bit_as_predict_answers_them_with_eight_of_two_hundred_in_flight(
    served: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SCANLOOM_HOME", str(served.home))
    assert main(["predict", served.run.id, *map(str, served.scans), "--json"]) == 0
    expected = json.loads(capsys.readouterr().out)
    assert len(expected["findings"]) == 100 and expected["findings"][0]["like"]["of"] > 0

    def ask(path: Path) -> tuple[int, dict[str, Any]]:
        return asked(f"{served.url}/predict?name={path}", path.read_bytes())

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, served.scans * 2))
    assert {status for status, _ in found} == {200}
    for number, (_, answer) in enumerate(found):
        assert answer == {"run": served.run.id, "findings": [expected["findings"][number % 100]]}
    assert not any((served.home / "services" / "incoming").glob("*/*")), "no scan stays on the disk"
    assert asked(f"{served.url}/health") == (200, {"status": "ready", "questions": 0})


@pytest.mark.keeps_processes
def test_bad_files_are_refused_with_the_sentences_of_the_reader(served: Served, tmp_path: Path) -> None:
    cases = [*corpus.dicom_cases(), *corpus.nifti_cases(), *corpus.image_cases()]
    path, refused = tmp_path / "case.bin", 0
    with Sandbox() as box:
        for case in cases[::6]:
            path.write_bytes(case.make())
            status, told = asked(f"{served.url}/predict", path.read_bytes())
            try:
                read([path], box)
                assert status == 200, (case.id, told)
            except Unreadable as error:
                assert status == 422 and told["error"] == error.reason, case.id
                assert told["findings"] == [{"scan": "scan", "error": error.reason}], "the shape of predict"
                refused += 1
    assert refused >= 10


@pytest.mark.keeps_processes
def test_a_zip_is_read_as_one_series_and_a_zip_of_nothing_is_refused(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SCANLOOM_HOME", str(served.home))
    packed = tmp_path / "series.zip"
    with zipfile.ZipFile(packed, "w") as file:
        for number in (0, 1, 2, 4, 5):
            file.writestr(f"{number}.dcm", corpus.slice_bytes(5.0 * number, number + 1))
    assert main(["predict", served.run.id, str(packed), "--json"]) == 0
    expected = json.loads(capsys.readouterr().out)
    assert any("slice(s) seem to be missing" in note for note in expected["findings"][0]["notes"]), "one series"
    assert asked(f"{served.url}/predict?name={packed}", packed.read_bytes()) == (200, expected)
    with zipfile.ZipFile(packed, "w"):
        pass
    assert asked(f"{served.url}/predict", packed.read_bytes())[0] == 422


@pytest.mark.keeps_processes
def test_the_terms_that_people_choose_while_it_serves_hold_for_the_next_scan_a_strange_one_is_refused(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SCANLOOM_HOME", str(served.home))
    strange = tmp_path / "strange.dcm"
    strange.write_bytes(corpus.dicom_bytes(Modality="CT"))
    for gate, status in (("refuse", "refused"), ("warn", None)):
        assert main(["terms", served.run.id, "--gate", gate]) == 0
        capsys.readouterr()
        assert main(["predict", served.run.id, str(strange), "--json"]) == 0
        expected = json.loads(capsys.readouterr().out)
        assert expected["findings"][0].get("status") == status, expected
        assert asked(f"{served.url}/predict?name={strange}", strange.read_bytes()) == (200, expected)


@pytest.mark.keeps_processes
def test_what_is_measured_and_chosen_while_it_serves_stands_beside_the_next_answer(
    served: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SCANLOOM_HOME", str(served.home))
    path = served.scans[0]
    label = evaluate(served.run, served.home, resamples=20)["classes"][0]
    for threshold in (0.0, 1.0):
        operating.choose(served.run, operating.Choice(label, threshold, 0.2, 1.0))
        assert main(["predict", served.run.id, str(path), "--json"]) == 0
        expected = json.loads(capsys.readouterr().out)
        assert expected["findings"][0]["worth"]["classes"][label]["answered"] == (threshold == 0.0)
        assert asked(f"{served.url}/predict?name={path}", path.read_bytes()) == (200, expected)


@pytest.mark.keeps_processes
def test_only_this_machine_may_ask_and_no_page_of_another_site(served: Served) -> None:
    scan = served.scans[0].read_bytes()
    assert asked(f"{served.url}/run", Host="evil.example")[0] == 403
    assert asked(f"{served.url}/predict", scan, Origin="http://evil.example")[0] == 403
    assert asked(f"{served.url}/predict", scan, Sec_Fetch_Site="cross-site")[0] == 403
    assert asked(f"{served.url}/predict", scan, Origin=served.url)[0] == 200
    # A link on a page of the app opens the service's own pages, and no more.
    for path, code in (("health", 200), ("run", 403)):
        asking = asked(f"{served.url}/{path}", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate")
        assert asking[0] == code


@pytest.mark.keeps_processes
def test_behind_a_token_nothing_is_told_without_it_but_that_the_service_is_there(served: Served) -> None:
    url, scan = served.guarded, served.scans[0].read_bytes()
    assert asked(f"{url}/health")[0] == asked(f"{url}/openapi.json")[0] == 200
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": SECRET}):
        assert asked(f"{url}/run", None, **headers)[0] == asked(f"{url}/predict", scan, **headers)[0] == 401
    right = {"Authorization": f"Bearer {SECRET}"}
    assert asked(f"{url}/run", None, **right)[1]["classes"] == list(phantoms.CLASSES)
    assert asked(f"{url}/predict", scan, Host="scans.example", **right)[0] == 200


@pytest.mark.keeps_processes
def test_the_page_and_the_schema_load_nothing_from_elsewhere(served: Served) -> None:
    for path in ("", "page.js", "page.css", "openapi.json"):
        with urllib.request.urlopen(f"{served.url}/{path}", timeout=20) as answer:
            text = answer.read().decode()
            policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert "http://" not in text.replace(served.url, "") and "https://" not in text, path
    schema = asked(f"{served.url}/openapi.json")[1]
    assert set(schema["paths"]) >= {"/health", "/run", "/predict"}
    assert asked(f"{served.url}/docs")[0] == asked(f"{served.url}/redoc")[0] == 404


@pytest.mark.keeps_processes
def test_an_upload_that_breaks_off_leaves_nothing_and_the_next_one_is_answered(served: Served) -> None:
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as half:
        half.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\nabc")
        time.sleep(0.1)
    assert asked(f"{served.url}/predict", served.scans[0].read_bytes())[0] == 200
    deadline = time.monotonic() + 10
    while any((served.home / "services" / "incoming").glob("*/*")):
        assert time.monotonic() < deadline, "half a scan stays on the disk"
        time.sleep(0.02)


def test_quotas_refuse_before_the_body_is_read_and_while_it_comes(tmp_path: Path) -> None:
    import asyncio

    from starlette.requests import Request

    from builder.service.receiving import Refused, Room

    def request(body: bytes, **headers: str) -> Request:
        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        told = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        return Request({"type": "http", "method": "POST", "headers": told}, receive)

    async def came(room: Room, one: Request) -> int:
        async with room.place() as folder:
            return (await room.receive(one, folder)).stat().st_size

    small = Room(tmp_path, Limits(scan_bytes=10))
    assert asyncio.run(came(small, request(b"0123456789"))) == 10
    for one in (request(b"", content_length="11"), request(b"01234567890")):
        with pytest.raises(Refused, match="at most") as refused:
            asyncio.run(came(small, one))
        assert refused.value.status == 413
    with pytest.raises(Refused, match="wait already"):
        asyncio.run(came(Room(tmp_path, Limits(waiting=0)), request(b"1")))
    with pytest.raises(Refused, match="nearly full"):
        asyncio.run(came(Room(tmp_path, Limits(spare_bytes=1 << 62)), request(b"1")))
    with pytest.raises(Refused, match="broke off"):
        asyncio.run(came(small, request(b"123", content_length="4")))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "192.0.2.7", "scans.example", ""])
def test_an_address_that_others_reach_needs_a_token(address: str) -> None:
    assert TOKEN in objection(address, "") and objection(address, SECRET) == ""
    assert "at least 16" in objection(address, "short") and objection("127.0.0.1", "") == objection("::1", "") == ""


@pytest.mark.keeps_processes
def test_the_command_refuses_an_open_door_and_a_port_that_is_taken_in_one_sentence(
    served: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SCANLOOM_HOME", str(served.home))
    monkeypatch.delenv(TOKEN, raising=False)
    assert main(["serve", served.run.id, "--address", "0.0.0.0"]) == 2
    assert "without a token" in capsys.readouterr().err
    assert main(["serve", served.run.id, "--port", served.url.rsplit(":", 1)[1]]) == 2
    assert "choose another with --port" in capsys.readouterr().err
    assert main(["serve", "nowhere"]) == 2


def test_a_service_beside_the_app_answers_is_found_again_and_ends_at_once_when_told(
    served: Served, tmp_path: Path
) -> None:
    assert process.address(served.home, served.run.id) is None
    url = process.start(served.home, served.run.id)
    assert process.address(served.home, served.run.id) == url == process.start(served.home, served.run.id)
    claim = Claim.read(served.home / "services" / served.run.id / "claim.json")
    assert claim is not None and asked(f"{url}/predict", served.scans[0].read_bytes())[0] == 200
    host, port = url.removeprefix("http://").split(":")
    waiting = http.client.HTTPConnection(host, int(port))
    waiting.putrequest("POST", "/predict")
    waiting.putheader("content-length", "1000")
    waiting.endheaders(b"half a scan")  # somebody who never finishes does not keep it alive
    process.stop(served.home, served.run.id)
    waiting.close()
    assert not claim.alive and process.address(served.home, served.run.id) is None
    assert not [p for p in (served.home / "services" / "incoming").iterdir() if p.name.startswith(f"{claim.pid}-")]
    assert (served.home / "services" / served.run.id / "service.log").read_text() == "", "nothing of a scan is logged"
