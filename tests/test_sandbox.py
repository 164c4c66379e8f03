"""The sandbox: the corpus of bad inputs through real limited children, and what happens when a process dies."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import corpus
import numpy as np
import psutil
import pytest
from corpus import Case, dicom_bytes, picture_bytes, png_bytes, slice_bytes
from pydicom.uid import JPEG2000, JPEGBaseline8Bit, RLELossless

from builder import scans
from builder.sandbox import Sandbox
from builder.scans import Header, Unreadable

pytestmark = pytest.mark.usefixtures("fresh_children")

ROOT = Path(__file__).parents[1]
LIMIT_S = 15.0
PARENT_GROWTH_BYTES = 50 * 2**20


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with Sandbox() as box:
        yield box


@pytest.fixture
def written(tmp_path: Path):
    def written(data: bytes, name: str = "file") -> Path:
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return written


@functools.cache
def _slow(rows: int = 6000) -> bytes:
    """A file that takes seconds to decode: a 16-bit colour PNG, 500 wide, whose every row is Paeth-filtered."""
    lines = np.random.default_rng(0).integers(0, 2, (rows, 3000), np.uint8)
    return png_bytes(lines, 16, 2, filters=np.full(len(lines), 4))


def _server(box: Sandbox) -> psutil.Process:
    assert box._server is not None
    return psutil.Process(box._server.pid)


def _runs(process: psutil.Process) -> bool:
    """True while it is there and no zombie that its new parent has not looked at yet."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _assert_plain(reason: str) -> None:
    assert 20 < len(reason) < 300 and reason[0].isupper() and reason.endswith("."), reason
    assert not re.search(r"Traceback|Error|Exception|0x[0-9a-f]{6}|/tmp|None|ZZPHI|1\.2\.826", reason), reason


# --- the corpus


@pytest.mark.parametrize(
    "case", [*corpus.dicom_cases(), *corpus.nifti_cases(), *corpus.image_cases()], ids=lambda case: case.id
)
def test_a_bad_input_ends_as_the_corpus_says(case: Case, box: Sandbox, written):
    path = written(case.make())
    before = psutil.Process().memory_info().rss
    started = time.monotonic()
    try:
        scan = box.read(path)
    except Unreadable as error:
        assert case.end in "RQ", f"it should have been read: {error.reason}"
        _assert_plain(error.reason)
    else:
        assert case.end == "A", "it should have been refused"
        assert any(case.note in note for note in scan.notes) or not case.note, scan.notes
        for note in scan.notes:
            _assert_plain(note)
        assert np.isfinite(scans.display(scan)[:, :, ::50]).all()
        del scan
    assert time.monotonic() - started < LIMIT_S
    assert psutil.Process().memory_info().rss - before < PARENT_GROWTH_BYTES + (200 << 20) * (case.end == "A")
    assert not os.listdir(box._folder), "a file of the child was left"


def test_good_files_are_read_among_bad_ones(box: Sandbox, written):
    good = written(dicom_bytes(), "good")
    for case in corpus.dicom_cases()[:6]:
        bad = written(case.make(), "bad")
        with pytest.raises(Unreadable):
            box.read(bad)
        assert box.read(good).pixels.shape == (1, 1, 16, 16)


def test_mutated_files_end_as_a_scan_or_in_words(box: Sandbox, written):
    """Cuts, flips and insertions in good files of every kind; 3,000 of them were run once with other seeds."""
    seeds = [
        dicom_bytes(WindowCenter=[4, 5], WindowWidth=[8, 9], RescaleSlope=1, RescaleIntercept=-5, PixelSpacing=[1, 1]),
        corpus._palette(),
        corpus._compressed([picture_bytes("JPEG")], str(JPEGBaseline8Bit)),
        corpus._compressed([corpus.picture_bytes("JPEG2000", no_jp2=True)], str(JPEG2000)),
        corpus._compressed(corpus._rle(1, [b"\x81\5" * 32]), str(RLELossless)),
        corpus.nifti_bytes(),
        corpus.nifti_bytes(packed=True),
        png_bytes(np.full((40, 240), 7, np.uint8), 16, 2),
        *[picture_bytes(kind) for kind in ("PNG", "JPEG", "TIFF", "BMP")],
        corpus._pages([(16, 16)] * 3),
    ]
    rng = np.random.default_rng(2026)
    for i in range(130):
        data = bytearray(seeds[i % len(seeds)])
        how = rng.integers(3)
        if how == 0:
            for place in rng.integers(0, len(data), rng.integers(1, 6)):
                data[place] = rng.integers(256)
        elif how == 1:
            data = data[: rng.integers(len(data))]
        else:
            place = rng.integers(len(data))
            data[place:place] = rng.integers(0, 256, rng.integers(1, 64), np.uint8).tobytes()
        started = time.monotonic()
        try:
            scan = box.read(written(bytes(data)))
        except Unreadable as error:
            _assert_plain(error.reason)
        else:
            assert np.isfinite(scans.display(scan)).all()
        assert time.monotonic() - started < LIMIT_S + 2


# --- the same as without it


@pytest.mark.parametrize(
    "data",
    [
        picture_bytes("PNG"),
        dicom_bytes(WindowCenter=[40, 50], WindowWidth=[80, 90], PixelPaddingValue=3),
        corpus.nifti_bytes(srow_z=[0, 0, -2.0, 0]),
        corpus.nifti_bytes(np.full((8, 9, 5), 3, np.int32)),
    ],
    ids=["png", "windows and padding", "slices in reverse", "int32"],
)
def test_a_scan_comes_back_as_it_is_read_in_process(data: bytes, box: Sandbox, written):
    path = written(data)
    plain, boxed = scans.read(path), box.read(path)
    for field in dataclasses.fields(plain):
        one, other = getattr(plain, field.name), getattr(boxed, field.name)
        if isinstance(one, np.ndarray):
            assert one.dtype == other.dtype and np.array_equal(one, other), field.name
        else:
            assert one == other, field.name


def test_slices_of_different_types_come_back_in_one(box: Sandbox, tmp_path: Path):
    """One slice has a slope of a half, so all become floats, though the first ones were written as integers."""
    paths = [tmp_path / str(i) for i in range(4)]
    for i, path in enumerate(paths):
        extra = {"RescaleSlope": 0.5, "RescaleIntercept": 0} if i == 2 else {}
        path.write_bytes(slice_bytes(3.0 * i, i + 1, **extra))
    scan = box.read(paths[::-1], series=True)
    assert scan.pixels.dtype == np.float32
    assert scan.pixels[:, 0, 0, 0].tolist() == [1, 2, 1.5, 4]


def test_a_volume_outlives_its_sandbox(written):
    with Sandbox() as box:
        scan = box.read(written(corpus.nifti_bytes()))
    scan.pixels[0] = 7  # copy on write: the array is ours
    assert scan.pixels[0].max() == 7 and scan.pixels[1].max() > 7


def test_headers_come_in_order_with_the_unreadable_in_their_places(box: Sandbox, tmp_path: Path):
    data = [slice_bytes(2.0 * i, i + 1) if i % 7 else b"nothing at all, only text" for i in range(150)]
    paths = [tmp_path / f"{i}" for i in range(len(data))]
    for path, content in zip(paths, data, strict=True):
        path.write_bytes(content)
    found = box.headers(paths)
    assert len(found) == 150
    for i, header in enumerate(found):
        if i % 7:
            assert isinstance(header, Header) and header.position == 2.0 * i and header == scans.read_header(paths[i])
        else:
            assert isinstance(header, Unreadable)


# --- limits


def test_too_much_memory_is_told_with_its_amount(written):
    path = written(picture_bytes("PNG", np.zeros((6000, 6000, 3), np.uint8)))
    with Sandbox(memory_bytes=300 << 20) as box, pytest.raises(Unreadable, match="more than 0.293 GiB of memory"):
        box.read(path)


def test_a_child_never_has_more_address_space_than_it_may(written):
    path = written(_slow())
    with Sandbox(memory_bytes=700 << 20) as box:
        reader = threading.Thread(target=lambda: _ignored(box, path))
        reader.start()
        largest = 0
        while reader.is_alive():
            for child in _server(box).children():
                try:
                    largest = max(largest, child.memory_info().vms)
                except psutil.Error:
                    continue
            time.sleep(0.02)
        reader.join()
    assert 0 < largest <= 700 << 20


def _ignored(box: Sandbox, path: Path) -> None:
    try:
        box.read(path)
    except Unreadable:
        return


def test_too_much_cpu_time_is_told(written):
    with Sandbox(cpu_s=1) as box, pytest.raises(Unreadable, match="more than 1 s to decode"):
        box.read(written(_slow(30_000)))


def test_too_much_wall_time_is_told_and_the_next_file_is_read(written):
    slow, good = written(_slow(30_000), "slow"), written(picture_bytes("PNG"), "good")
    with Sandbox(wall_s=1) as box:
        with pytest.raises(Unreadable, match="more than 1 s to decode"):
            box.read(slow)
        assert box.read(good).pixels.shape == (1, 1, 64, 64)


def test_a_child_has_no_network():
    code = """
import socket, sys
from builder.forkserver import without_network
without_network()
listener = socket.socket()
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=2)
except OSError:
    print("cut off")
else:
    print("connected")
"""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-c", code, str(port)], cwd=ROOT, capture_output=True, text=True, timeout=60
        )
    if done.stdout.strip() == "connected" and os.geteuid() != 0:
        pytest.skip("this kernel allows no network namespace to an ordinary user")
    assert done.stdout.strip() == "cut off"


# --- deaths


def _kill_children(box: Sandbox, how: signal.Signals) -> None:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        children = _server(box).children()
        if children:
            time.sleep(0.1)
            children[0].send_signal(how)
            return
        time.sleep(0.01)


def test_a_crash_of_the_decoder_is_told_and_costs_only_that_file(written):
    slow, good = written(_slow(), "slow"), written(picture_bytes("PNG"), "good")
    with Sandbox() as box:
        killer = threading.Thread(target=_kill_children, args=(box, signal.SIGSEGV))
        killer.start()
        with pytest.raises(Unreadable, match="decoder crashed"):
            box.read(slow)
        killer.join()
        assert box.read(good).pixels.shape == (1, 1, 64, 64)


def test_a_dead_server_is_started_again(written):
    path = written(picture_bytes("PNG"))
    with Sandbox() as box:
        first = _server(box).pid
        os.kill(first, signal.SIGKILL)
        assert box.read(path).pixels.shape == (1, 1, 64, 64)
        assert _server(box).pid != first


def test_a_child_dies_with_its_server(written):
    with Sandbox(wall_s=2) as box:
        reader = threading.Thread(target=_ignored, args=(box, written(_slow(16_000))))
        reader.start()
        server = _server(box)
        while not (children := server.children()):
            time.sleep(0.01)
        server.send_signal(signal.SIGKILL)
        time.sleep(1)  # it would have gone on for seconds
        assert not [child for child in children if _runs(child)]
        reader.join()


def test_a_server_that_dies_twice_on_a_file_gives_up_in_words(written):
    path = written(_slow())
    stop = threading.Event()

    def kill_servers(box: Sandbox) -> None:
        while not stop.is_set():
            try:
                server = _server(box)
                if server.children():
                    server.send_signal(signal.SIGKILL)
            except (psutil.Error, AssertionError):
                continue
            time.sleep(0.05)

    with Sandbox() as box:
        killer = threading.Thread(target=kill_servers, args=(box,))
        killer.start()
        try:
            with pytest.raises(Unreadable, match="died twice"):
                box.read(path)
        finally:
            stop.set()
            killer.join()


def test_nothing_is_left_after_an_exception(tmp_path: Path, written):
    with pytest.raises(RuntimeError, match="on purpose"), Sandbox(folder=tmp_path) as box:
        box.read(written(picture_bytes("PNG")))
        server = _server(box)
        raise RuntimeError("on purpose")
    assert not server.is_running()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_nothing_is_left_when_the_parent_is_killed(tmp_path: Path):
    (tmp_path / "slow.png").write_bytes(_slow())
    code = f"""
import sys
from pathlib import Path
from builder.sandbox import Sandbox
with Sandbox(folder=Path({str(tmp_path)!r})) as box:
    print(box._server.pid, flush=True)
    box.read(Path({str(tmp_path / "slow.png")!r}))
"""
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    server = psutil.Process(int(parent.stdout.readline()))
    until = time.monotonic() + 20
    while not server.children() and time.monotonic() < until:
        time.sleep(0.01)
    children = server.children()
    assert children
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until = time.monotonic() + 10
    while any(map(_runs, [server, *children])) and time.monotonic() < until:
        time.sleep(0.05)
    assert not [process for process in (server, *children) if _runs(process)]
    until = time.monotonic() + 5
    while len(list(tmp_path.iterdir())) > 1 and time.monotonic() < until:
        time.sleep(0.05)
    assert [path.name for path in tmp_path.iterdir()] == ["slow.png"]


def test_threads_may_share_one_sandbox(box: Sandbox, tmp_path: Path):
    paths = [tmp_path / f"{i}.png" for i in range(12)]
    for i, path in enumerate(paths):
        path.write_bytes(picture_bytes("PNG", np.full((16, 16), 10 * i + 1, np.uint8)))
    found: dict[int, int] = {}
    threads = [
        threading.Thread(target=lambda i=i: found.update({i: int(box.read(paths[i]).pixels.max())})) for i in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {i: 10 * i + 1 for i in range(12)}


def test_the_server_knows_no_torch_and_no_secrets(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SCANLOOM_LOGIN", "not-for-children")
    with Sandbox() as box:
        server = _server(box)
        assert "SCANLOOM_LOGIN" not in server.environ()
        assert not [entry.path for entry in server.memory_maps() if "torch" in entry.path]
        assert os.getsid(server.pid) != os.getsid(0)


def test_one_file_or_a_series_must_be_said(box: Sandbox):
    with pytest.raises(ValueError, match="series=True"):
        box.read([Path("a"), Path("b")])


def test_a_small_picture_takes_few_milliseconds(box: Sandbox, written):
    """Counted in CPU time of the server and its children, so that a busy machine does not matter; measured: 10 ms."""
    path, num = written(picture_bytes("PNG")), 30
    before = _server(box).cpu_times()
    for _ in range(num):
        box.read(path)
    after = _server(box).cpu_times()
    assert sum(after[:4]) - sum(before[:4]) < 0.03 * num
