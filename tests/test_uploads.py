"""The upload route and the door, over a real socket: streamed, bounded, whole or not at all, only from our pages."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pages.kit import uploads
from pages.kit.gate import Rules, is_loopback, refuse_open_door
from tests.browser import ROOT, free_port

SERVER = """
import sys, uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from pages.kit import gate, uploads
limits = uploads.Limits(file_bytes=300_000_000, ticket_files=4, ticket_bytes=400_000_000, spare_bytes=10_000_000)
hello = Route("/", lambda request: PlainTextResponse("hello"))
health = Route("/_stcore/health", lambda request: PlainTextResponse("ok"))
app = Starlette(routes=[hello, health, uploads.route(limits)], middleware=[Middleware(gate.Door)])
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
"""


class Service:
    """A server in its own process, with its data folder."""

    def __init__(self, home: Path, **environment: str):
        self.home, self.port = home, free_port()
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(self.port)],
            cwd=ROOT,
            env={**os.environ, "SCANLOOM_HOME": str(home), **environment},
        )
        until = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                break
            except OSError:
                if time.monotonic() > until or self.process.poll() is not None:
                    self.end()
                    raise RuntimeError("the upload server did not start") from None
                time.sleep(0.05)

    def ask(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None
    ) -> tuple[int, str, dict[str, str]]:
        """Returns status, text and headers of one request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers or {})  # type: ignore[arg-type]
            answer = connection.getresponse()
            return answer.status, answer.read().decode(), {k.lower(): v for k, v in answer.getheaders()}
        finally:
            connection.close()

    def put(self, ticket: str, body: object = b"x", **headers: str) -> tuple[int, dict[str, object]]:
        """Uploads `body`; header names are given with underscores."""
        told = {"X-Scanloom-Name": "a.dcm", **{k.replace("_", "-"): v for k, v in headers.items()}}
        status, text, _ = self.ask("PUT", f"/api/upload/{ticket}", body, told)
        return status, json.loads(text) if text.startswith("{") else {"error": text}

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(10)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    running = Service(tmp_path_factory.mktemp("home"))
    yield running
    running.end()


@pytest.fixture
def ticket(service: Service) -> str:
    return uploads.new_ticket(service.home)


def folder_of(service: Service, ticket: str) -> list[str]:
    return sorted(f.name for f in (service.home / "uploads" / ticket).iterdir())


pytestmark = pytest.mark.keeps_processes


def test_a_file_arrives_whole_under_a_name_of_ours(service: Service, ticket: str) -> None:
    body = os.urandom(3_000_000)
    status, entry = service.put(ticket, body, X_Scanloom_Name="study%201/%C3%A9tude.dcm")
    assert status == 201
    (file,) = uploads.received(ticket, service.home)
    assert (file.name, file.bytes, file.path.name) == ("study 1/étude.dcm", len(body), "00001.bin")
    assert file.path.read_bytes() == body
    assert entry["file"] == "00001.bin"
    assert folder_of(service, ticket) == ["00001.bin", "names.jsonl"]


@pytest.mark.parametrize(
    "name",
    ["../../../../tmp/evil", "/etc/passwd", "C:%5CWindows%5Cevil", "a%00b", "a%0Ab", "%E2%80%AEgpj.exe", "x" * 5000],
)
def test_the_name_that_the_browser_tells_is_never_a_path(service: Service, ticket: str, name: str) -> None:
    before = {p for p in service.home.rglob("*")}
    assert service.put(ticket, b"data", X_Scanloom_Name=name)[0] == 201
    assert folder_of(service, ticket) == ["00001.bin", "names.jsonl"]
    (file,) = uploads.received(ticket, service.home)
    assert file.name.isprintable() and len(file.name) <= 1000 and not file.name.startswith("/")
    new = {p for p in service.home.rglob("*")} - before
    assert all(p.is_relative_to(service.home / "uploads" / ticket) for p in new)


def test_an_upload_without_a_name_is_refused(service: Service, ticket: str) -> None:
    status, answer = service.put(ticket, b"data", X_Scanloom_Name="")
    assert status == 400 and "file name" in str(answer["error"])


@pytest.mark.parametrize("wrong", ["0" * 32, "..", "%2e%2e", "a" * 31, "a" * 400])
def test_an_unknown_ticket_takes_nothing(service: Service, wrong: str) -> None:
    status, answer = service.put(wrong)
    assert status in (400, 404, 409)
    assert "Traceback" not in str(answer)


def test_a_ticket_is_unguessable_and_its_folder_is_private(service: Service, ticket: str) -> None:
    assert len(ticket) == 32
    assert len({uploads.new_ticket(service.home) for _ in range(50)}) == 50
    assert (service.home / "uploads" / ticket).stat().st_mode & 0o077 == 0


def test_a_closed_ticket_takes_no_more_files_but_keeps_its_own(service: Service, ticket: str) -> None:
    assert service.put(ticket)[0] == 201
    uploads.close(ticket, service.home)
    status, answer = service.put(ticket)
    assert status == 409 and "already started" in str(answer["error"])
    assert len(uploads.received(ticket, service.home)) == 1
    uploads.discard(ticket, service.home)
    assert uploads.received(ticket, service.home) == []
    assert service.put(ticket)[0] == 409


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Host": "evil.example"},
        {"Host": "127.0.0.1:80@evil.example"},
    ],
)
def test_only_our_own_pages_may_upload(service: Service, ticket: str, headers: dict[str, str]) -> None:
    status, answer = service.put(ticket, b"data", **headers)
    assert status == 400, answer
    assert folder_of(service, ticket) == []


def test_our_own_origin_may_upload(service: Service, ticket: str) -> None:
    own = f"127.0.0.1:{service.port}"
    assert service.put(ticket, b"data", Origin=f"http://{own}", Host=own, Sec_Fetch_Site="same-origin")[0] == 201


def test_a_file_that_says_it_is_too_large_is_refused_before_it_is_read(service: Service, ticket: str) -> None:
    with socket.create_connection(("127.0.0.1", service.port), 10) as raw:
        raw.sendall(
            f"PUT /api/upload/{ticket} HTTP/1.1\r\nHost: localhost\r\nX-Scanloom-Name: a\r\n"
            f"Content-Length: 300000001\r\n\r\n".encode()
        )
        answer = b"".join(iter(lambda: raw.recv(4096), b"")).decode()
    assert " 413 " in answer and "300 MB" in answer
    assert folder_of(service, ticket) == []


def test_a_file_without_a_length_is_stopped_at_the_cap_and_leaves_nothing(service: Service, ticket: str) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(320):
            yield bytes(1_000_000)

    try:
        status, _ = service.put(ticket, endless())
    except (BrokenPipeError, ConnectionResetError):
        status = 413  # the server closed the connection on us in the middle of the body
    assert status == 413
    assert folder_of(service, ticket) == []


def test_more_files_than_allowed_are_refused(service: Service, ticket: str) -> None:
    assert [service.put(ticket)[0] for _ in range(5)] == [201, 201, 201, 201, 413]


@pytest.mark.parametrize("sent", [0, 1000, 5_000_000])
def test_an_upload_that_breaks_off_leaves_no_file(service: Service, ticket: str, sent: int) -> None:
    with socket.create_connection(("127.0.0.1", service.port), 10) as raw:
        raw.sendall(
            f"PUT /api/upload/{ticket} HTTP/1.1\r\nHost: localhost\r\nX-Scanloom-Name: a\r\n"
            f"Content-Length: 10000000\r\n\r\n".encode()
        )
        raw.sendall(bytes(sent))
        until = time.monotonic() + 10
        while folder_of(service, ticket) != ["00001.part"] and time.monotonic() < until:
            time.sleep(0.02)
        assert folder_of(service, ticket) == ["00001.part"]
    until = time.monotonic() + 10
    while folder_of(service, ticket) and time.monotonic() < until:
        time.sleep(0.02)
    assert folder_of(service, ticket) == []
    assert service.put(ticket, b"again")[0] == 201


def test_250_megabytes_go_to_disk_and_not_into_memory(service: Service, ticket: str) -> None:
    service.put(ticket, bytes(2_000_000))  # whatever is loaded on first use is loaded now
    watched = psutil.Process(service.process.pid)
    before = watched.memory_info().rss
    most = before
    block = os.urandom(1_000_000)

    def blocks() -> Iterator[bytes]:
        nonlocal most
        for _ in range(250):
            most = max(most, watched.memory_info().rss)
            yield block

    status, _ = service.put(ticket, blocks())
    assert status == 201
    assert uploads.received(ticket, service.home)[-1].bytes == 250_000_000
    assert max(most, watched.memory_info().rss) - before <= 32 * 2**20
    uploads.discard(ticket, service.home)


def test_the_sweep_takes_what_nobody_came_back_for(home: Path) -> None:
    old, new = uploads.new_ticket(home), uploads.new_ticket(home)
    folder = home / "uploads" / old
    (folder / "00001.bin").write_bytes(b"x")
    for place in (folder / "00001.bin", folder):
        os.utime(place, (1, 1))
    assert uploads.sweep(home) == 1
    assert [f.name for f in (home / "uploads").iterdir()] == [new]


# -- the door ----------------------------------------------------------------------------------------------------------


def test_every_answer_carries_the_security_headers(service: Service) -> None:
    for method, path in (("GET", "/"), ("GET", "/nowhere"), ("PUT", "/api/upload/x")):
        _, _, headers = service.ask(method, path)
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy
        assert "img-src 'self' data: blob:" in policy and "http://evil" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"


def test_a_foreign_host_name_gets_no_page(service: Service) -> None:
    assert service.ask("GET", "/", headers={"Host": "rebound.example"})[0] == 400
    assert service.ask("GET", "/", headers={"Host": f"localhost:{service.port}"})[0] == 200


def test_with_a_password_only_login_and_health_are_open(tmp_path: Path) -> None:
    closed = Service(tmp_path, SCANLOOM_LOGIN="correct horse battery")
    try:
        ticket = uploads.new_ticket(tmp_path)
        assert closed.ask("GET", "/_stcore/health")[0] == 200
        assert closed.ask("GET", "/")[0] == 401
        assert closed.put(ticket)[0] == 401
        status, _, headers = closed.ask("GET", "/", headers={"Accept": "text/html"})
        assert (status, headers["location"]) == (303, "/login")
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        assert closed.ask("POST", "/login", "password=wrong", form)[0] == 401
        foreign = {**form, "Origin": "http://evil.example"}
        assert closed.ask("POST", "/login", "password=correct+horse+battery", foreign)[0] == 400
        status, _, headers = closed.ask("POST", "/login", "password=correct+horse+battery", form)
        assert status == 303
        assert "httponly" in headers["set-cookie"].lower() and "samesite=strict" in headers["set-cookie"].lower()
        cookie = headers["set-cookie"].split(";")[0]
        assert closed.ask("GET", "/", headers={"Cookie": cookie})[0] == 200
        forged = cookie[:-1] + ("1" if cookie[-1] == "0" else "0")
        assert closed.ask("GET", "/", headers={"Cookie": forged})[0] == 401
        assert closed.ask("GET", "/", headers={"Cookie": "scanloom_login=9999999999.0"})[0] == 401
        assert closed.put(ticket, b"x", Cookie=cookie)[0] == 201
    finally:
        closed.end()


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "", "192.168.1.5", "example.org"])
def test_an_open_address_without_a_login_is_refused_with_code_2(
    address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        refuse_open_door(address, {})
    assert end.value.code == 2
    said = capsys.readouterr().err.strip()
    assert "SCANLOOM_LOGIN" in said and "\n" not in said


@pytest.mark.parametrize(
    ("address", "environment"),
    [
        ("127.0.0.1", {}),
        ("::1", {}),
        ("localhost", {}),
        ("0.0.0.0", {"SCANLOOM_LOGIN": "correct horse battery"}),
        ("0.0.0.0", {"SCANLOOM_BEHIND_PROXY": "1"}),
    ],
)
def test_a_loopback_address_or_a_decision_lets_it_start(address: str, environment: dict[str, str]) -> None:
    refuse_open_door(address, environment)


def test_a_short_password_is_refused() -> None:
    assert "12 characters" in Rules(password="secret").objection("0.0.0.0")


def test_the_real_app_refuses_to_start_in_the_open(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SCANLOOM_")}
    ended = subprocess.run(
        [sys.executable, "-m", "streamlit", "run", "app.py", "--server.address", "0.0.0.0", "--server.port", "0"],
        cwd=ROOT,
        env={**environment, "SCANLOOM_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 2
    assert "without a login" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_loopback_is_told_from_the_world() -> None:
    assert all(is_loopback(a) for a in ("127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost", "a.localhost"))
    assert not any(is_loopback(a) for a in ("0.0.0.0", "10.0.0.1", "::", "127.0.0.1.evil.example", ""))
