"""The route by which scans go to the browser: whole and exact, only by an address of ours, only what is listed."""

from __future__ import annotations

import asyncio
import json
import struct
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from made_files import dicom, imported
from starlette.applications import Starlette
from starlette.middleware import Middleware

from builder import marked, outputs, reader
from builder.data import Dataset, delete
from builder.runs import RunStore
from builder.scan import Grid, Scan, Window
from pages.kit import gate, volumes
from pages.kit.scans import axes_of, facts


@pytest.fixture
def series(home: Path, tmp_path: Path) -> Dataset:
    """A data set of one CT series: 5 slices of 40 x 56, padding in a corner."""
    random = np.random.default_rng(3)
    for n in range(5):
        pixels = random.integers(-1000, 1500, (40, 56)).astype(np.int16)
        pixels[:4, :7] = -2000
        dicom(
            *(tmp_path / "in" / f"{n}.dcm", pixels, 2.5 * n),
            SeriesInstanceUID="1.2.9",
            WindowCenter=30,
            WindowWidth=310,
            PixelPaddingValue=-2000,
        )
    return imported(tmp_path / "in", home)[1]


def ask(url: str, rules: gate.Rules = gate.Rules(), **headers: str) -> tuple[int, dict[str, str], bytes]:  # noqa: B008
    """Status, headers and body of a GET, with the door in front as in app.py."""
    app = Starlette(routes=volumes.routes(), middleware=[Middleware(gate.Door, rules=rules)])
    parts = urlsplit(url)
    sent = {"host": "localhost", **{name.replace("_", "-"): value for name, value in headers.items()}}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": parts.path,
        "raw_path": parts.path.encode(),
        "query_string": parts.query.encode(),
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in sent.items()],
        "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 1),
        "state": {},
    }
    told: list[dict[str, object]] = []

    async def receive() -> dict[str, object]:
        await asyncio.sleep(3600)
        return {"type": "http.disconnect"}

    async def send(message: dict[str, object]) -> None:
        told.append(message)

    asyncio.run(app(scope, receive, send))  # type: ignore[arg-type]
    status = int(told[0]["status"])  # type: ignore[call-overload]
    answered = {name.decode(): value.decode() for name, value in told[0]["headers"]}  # type: ignore[attr-defined]
    return status, answered, b"".join(message.get("body", b"") for message in told[1:])  # type: ignore[misc]


def parsed(body: bytes) -> tuple[dict, np.ndarray, bytes]:
    """The header, the pixels and what follows them, read as the viewer does."""
    assert body[:8] == b"SCANVOL1"
    (length,) = struct.unpack("<I", body[8:12])
    header = json.loads(body[12 : 12 + length])
    assert (12 + length) % 16 == 0, "arrays of four bytes must be aligned"
    count = int(np.prod(header["shape"]))
    pixels = np.frombuffer(body, np.dtype(header["dtype"]).newbyteorder("<"), count, 12 + length)
    return header, pixels.reshape(header["shape"]), body[12 + length + pixels.nbytes :]


def test_a_series_arrives_whole_and_exact_with_what_the_viewer_must_know(series: Dataset) -> None:
    status, headers, body = ask(volumes.of_case(series, 0))
    assert status == 200
    assert int(headers["content-length"]) == len(body)
    header, pixels, rest = parsed(body)
    scan = series.scan(0)
    np.testing.assert_array_equal(pixels, scan.pixels)
    assert scan.valid is not None
    valid = np.unpackbits(np.frombuffer(rest, np.uint8), count=scan.valid.size).reshape(scan.valid.shape)
    np.testing.assert_array_equal(valid.astype(bool), scan.valid)
    assert header["spacing_mm"] == [2.5, 0.5, 0.5]
    assert (header["unit"], header["axes"], header["photometric"]) == ("HU", "LPH", "MONOCHROME2")
    assert [w["name"] for w in header["windows"]] == [
        *("file 0", "percentile", "full", "ct lung", "ct soft tissue", "ct brain", "ct bone", "ct full")
    ]
    assert (header["windows"][0]["center"], header["windows"][0]["width"]) == (30, 310)


def test_a_scan_that_is_known_already_is_not_sent_again_and_never_shown_unasked(series: Dataset) -> None:
    url = volumes.of_case(series, 0)
    _, headers, _ = ask(url)
    assert headers["cache-control"] == "private, no-cache"
    status, _, body = ask(url, if_none_match=headers["etag"])
    assert (status, body) == (304, b"")
    delete(series.home, series.id)
    status, _, body = ask(url, if_none_match=headers["etag"])
    assert status == 404
    assert "gone" in json.loads(body)["error"]


def test_only_an_address_made_by_a_page_of_this_server_is_answered(series: Dataset) -> None:
    url = volumes.of_case(series, 0)
    path = urlsplit(url).path
    for other in (path, f"{path}?key=", f"{path}?key={'0' * 32}", url.replace("/0/scan", "/1/scan")):
        status, headers, body = ask(other)
        assert status == 403, other
        assert "reload the page" in json.loads(body)["error"]
        assert headers["cache-control"] == "no-store"
    assert ask(url, sec_fetch_site="cross-site")[0] == 400
    assert ask(url, origin="http://evil.example")[0] == 400
    assert ask(url, rules=gate.Rules(password="a long password"))[0] == 401


def test_what_is_not_there_is_refused_in_words_and_no_path_leads_out(series: Dataset, home: Path) -> None:
    strangers = (
        f"/api/volume/case/{series.id}/1/scan",
        f"/api/volume/case/{series.id}/0/nothing",
        "/api/volume/case/20200101-000000-abcdef/0/scan",
        "/api/volume/case/..%2f..%2fetc/0/scan",
        f"/api/volume/job/{series.id}/scan",
        f"/api/volume/job/{series.id}/payload",
        "/api/volume/job/../scan",
        "/api/volume/sample/unknown",
    )
    for path in strangers:
        status, _, body = ask(volumes._marked(path))
        assert status == 404, path
        assert str(home) not in body.decode()


def test_a_job_shows_what_it_wrote_by_its_id_and_a_listed_name(home: Path) -> None:
    job = RunStore(home).submit_job("predict", {})
    pixels = np.linspace(-1, 1, 2 * 12 * 10, dtype=np.float32).reshape(2, 1, 12, 10)
    valid = np.ones((2, 12, 10), bool)
    valid[1, 3] = False
    scan = Scan(
        pixels,
        (3.0, 0.5, 0.25),
        "MR",
        windows=(Window(0, 2, "TABLE", "x", (0.0, 0.5, 1.0)),),
        patient="somebody",
        valid=valid,
        grid=Grid((1.0, 2.0, 3.0), ((0.0, 0.0, 3.0), (0.0, 0.5, 0.0), (0.25, 0.0, 0.0))),
    )
    outputs.keep(job.folder, "scan", scan)
    assert "somebody" not in (job.folder / "scan.json").read_text()
    again = outputs.kept(job.folder, "scan")
    np.testing.assert_array_equal(again.pixels, pixels)
    np.testing.assert_array_equal(again.valid, valid)
    assert (again.spacing_mm, again.windows, again.grid, again.patient) == (
        scan.spacing_mm,
        scan.windows,
        scan.grid,
        None,
    )
    header, sent, _ = parsed(ask(volumes.of_output(job.id, "scan"))[2])
    np.testing.assert_array_equal(sent, pixels)
    assert header["windows"][0]["table"] == [0.0, 0.5, 1.0]
    first = ask(volumes.of_output(job.id, "scan"))[1]["etag"]
    outputs.keep(job.folder, "scan", Scan(pixels + 1))
    assert ask(volumes.of_output(job.id, "scan"))[1]["etag"] != first
    assert not (job.folder / "scan.valid.npy").exists()
    assert ask(volumes.of_output(job.id, "mask"))[0] == 404
    with pytest.raises(ValueError, match="no output called"):
        outputs.keep(job.folder, "payload", scan)
    with pytest.raises(ValueError, match="float64"):
        outputs.keep(job.folder, "heat", Scan(pixels.astype(np.float64)))


def test_a_scan_that_no_browser_can_hold_is_refused_with_its_size(
    series: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volumes, "MOST_BYTES", 1000)
    status, _, body = ask(volumes.of_case(series, 0))
    assert status == 413
    assert "22.4 kB" in json.loads(body)["error"]


def test_the_letters_of_a_scan_are_those_of_the_patient() -> None:
    def letters(columns: tuple, rows: tuple, slices: tuple) -> str:
        return axes_of(Scan(np.zeros((1, 1, 4, 4), np.uint8), grid=Grid((0.0, 0.0, 0.0), (slices, rows, columns))))

    assert letters((1, 0, 0), (0, 1, 0), (0, 0, 5)) == "LPH"
    assert letters((1, 0, 0), (0, 0, -1), (0, 3, 0)) == "LFP"
    assert letters((0, 1, 0), (0, 0, -1), (-2, 0, 0)) == "PFR"
    assert letters((0.7, 0.7, 0), (0, 0, -1), (-0.5, 0.5, 0.1)) == "-F-"
    assert axes_of(Scan(np.zeros((1, 1, 4, 4), np.uint8))) == ""


def test_the_size_of_a_pixel_is_told_in_the_order_of_the_pixels_width_first() -> None:
    told = facts(Scan(np.zeros((1, 1, 64, 128), np.uint8), (None, 2.0, 1.0), "MR"))
    assert "128 × 64 px" in told and "pixel 1.00 × 2.00 mm" in told


def test_what_a_network_outlines_on_a_scan_of_a_reading_is_sent(home: Path) -> None:
    run = home / "runs" / "20260101-000000-abcdef"
    folder = run / reader.FOLDER / "1"
    folder.mkdir(parents=True)
    (run / "experiment.json").write_text("{}")
    mask = np.zeros((2, 6, 5), np.uint8)
    mask[1, 2:4, 1:3] = 1
    case = {"id": "c", "index": 0, "patient": 0, "truth": [], "model": [[1, 2, 3, 4, 0, 1]], "probabilities": []}
    case |= {"shape": list(mask.shape), "slices": [0, 1], "outline": marked.packed(mask)}
    told = {"run": run.name, "dataset": "d", "split": "val", "seed": 1, "at": 0.0, "kind": "outlines"}
    told |= {"classes": ["lesion"], "multi_label": False, "cases": [case]}
    (folder / "reading.json").write_text(json.dumps(told))
    np.testing.assert_array_equal(parsed(ask(volumes.of_reading(run.name, "1", 0))[2])[1][:, 0], mask)
    assert ask(volumes.of_reading(run.name, "1", 7))[0] == ask(volumes.of_reading(run.name, "2", 0))[0] == 404
    assert ask(volumes.of_reading(run.name, "1", 0).split("?")[0])[0] == 403, "a reader who has not answered yet"
