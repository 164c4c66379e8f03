"""What every test of ScanLoom stands on: its own data folder, no network, one thread, and no process left behind."""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

# Before any test module imports torch, streamlit or huggingface_hub: they read these once, at import.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # two pytest workers on two cores: more threads only wait for each other
os.environ.setdefault("SCANLOOM_THREADS", "1")  # and so it is with trainings in processes of their own
os.environ["STREAMLIT_BROWSER_GATHER_USAGE_STATS"] = "false"
os.environ.pop("SCANLOOM_BEHIND_PROXY", None)

import forks
import psutil
import pytest
from _pytest.assertion import rewrite
from streamlit.components.v2 import manifest_scanner

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
GRACE_S = 5.0  # a process that was told to end gets this long
LONG_FIRST = (
    "cluster foreign journey_tasks catalogue_formats journey_search tumor_diagnosis journey_learning series_runs "
    "journey_trust families canvas cli journey weights export exactness browser_shell export_formats parts "
    "lesion_detection processes image_enhancement browser_labelling train sandbox backbones browser_live film "
    "volume_patches every_layer_seen service recognition evidence worker pages_build browser_viewer resume "
    "pages_results browser_think begin_weights dicomweb pages_shell search_killed blanking cluster_parallel "
    "search check setup"
)
"""Files that take long, each beside one that mostly waits: they start first, so that the end has only short ones."""
_MARK = "SCANLOOM_TEST_PARENT"  # every child of this test process inherits it, also one in its own session
_older = set(psutil.pids())  # processes that were there before any test: none is a child, and to ask each is slow
_count = itertools.count(1)
_loaded = 0  # modules that the collector of garbage passes by


def pytest_sessionstart(session: pytest.Session) -> None:
    """Each worker first rewrites the asserts of its share of the files: in a fresh clone all of them would else rewrite
    every file, at the same time."""
    own, count = os.environ.get("PYTEST_XDIST_WORKER", ""), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if count < 2 or not own or sys.dont_write_bytecode or rewrite.assertstate_key not in session.config.stash:
        return
    state = session.config.stash[rewrite.assertstate_key]
    files = sorted(Path(__file__).parent.glob("test_*.py"))
    for file in files[int(own.removeprefix("gw")) :: count]:
        kept = rewrite.get_cache_dir(file) / (file.stem + rewrite.PYC_TAIL)
        if rewrite._read_pyc(file, kept) is None and rewrite.try_makedirs(kept.parent):
            digest, code = rewrite._rewrite_test(file, session.config)
            rewrite._write_pyc(state, code, digest, kept)


@pytest.hookimpl(hookwrapper=True)
def pytest_collection() -> Iterator[None]:
    """What is imported and collected, mostly torch and thousands of tests, stays: no garbage is sought in it."""
    gc.disable()
    # Each page drawn in a test would read what 160 packages say of themselves, to find those with components.
    manifest_scanner.scan_component_manifests = functools.cache(manifest_scanner.scan_component_manifests)
    yield
    _stays()
    gc.enable()
    gc.set_threshold(20_000, 20, 20)  # tracing makes millions of objects, of which few are garbage


def pytest_runtest_teardown() -> None:
    """What a test was the first to import stays, too: Streamlit seeks garbage after every drawing of a page."""
    if len(sys.modules) > _loaded + 100:
        _stays()


def _stays() -> None:
    global _loaded
    _loaded = len(sys.modules)
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long files first, all others as they came."""
    place = {f"test_{name}": n for n, name in enumerate(LONG_FIRST.split())}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


@pytest.fixture(scope="session", autouse=True)
def _scanloom_root() -> Iterator[Path]:
    """The folder under which every data folder of a test lies; wider fixtures too never touch the real data."""
    root = Path(tempfile.mkdtemp(prefix="scanloom-test-"))
    os.environ["SCANLOOM_HOME"] = str(root / "wide")
    os.environ[_MARK] = str(os.getpid())
    with forks.used():
        yield root
    forks.end()
    left = _descendants()
    words = _words(left)
    _end(left)
    shutil.rmtree(root, ignore_errors=True)
    if left:
        pytest.fail(f"the test session left processes behind: {words}")


@pytest.fixture(autouse=True)
def home(_scanloom_root: Path) -> Iterator[Path]:
    """A data folder of this test's own (not yet created), to which SCANLOOM_HOME points."""
    before = os.environ.get("SCANLOOM_HOME")
    folder = _scanloom_root / f"home-{next(_count)}"
    os.environ["SCANLOOM_HOME"] = str(folder)
    yield folder
    if before is None:
        os.environ.pop("SCANLOOM_HOME", None)
    else:
        os.environ["SCANLOOM_HOME"] = before
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def _no_process_left(request: pytest.FixtureRequest, home: Path) -> Iterator[None]:
    """Fails a test that leaves a process running (mark `keeps_processes` where a wider fixture ends it)."""
    before = set(psutil.pids())
    yield
    if request.node.get_closest_marker("keeps_processes") or before.issuperset(psutil.pids()):
        return  # to ask whose child each process is takes milliseconds, thousands of times
    deadline = time.monotonic() + GRACE_S
    while left := [process for process in _descendants() if process.pid not in before]:
        if time.monotonic() > deadline:
            words = _words(left)
            _end(left)
            pytest.fail(f"this test left processes behind: {words}")
        time.sleep(0.05)


@pytest.fixture(scope="module")
def warm_children() -> Iterator[None]:
    """Children that the program or a test of this file runs with this Python find torch imported (tests/forks.py)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "run", forks.run)
        yield


@pytest.fixture(scope="module")
def fresh_children() -> Iterator[None]:
    """Supervisors, servers of pages and commands are interpreters of their own, as a user starts them."""
    with forks.unused():
        yield


@pytest.fixture
def a_fresh_child() -> Iterator[None]:
    """As `fresh_children`, for one test."""
    with forks.unused():
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real scans beside the checkout; skips where it is absent (scans are never committed)."""
    folder = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the folder of real scans beside the checkout is absent")
    return folder


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a Chromium; skips without one (`make test` installs it, or says how, before it starts pytest)."""
    for name in BROWSERS:
        if path := shutil.which(name):
            return path
    pytest.skip("no Chromium on this machine")


def _descendants() -> list[psutil.Process]:
    """The living processes that this test process started, by ancestry or, where re-parented, by an inherited mark."""
    own = str(os.getpid())
    found = {process.pid: process for process in psutil.Process().children(recursive=True)}
    pids = set(psutil.pids())
    _older.intersection_update(pids)  # a number that is free again may be given to a child
    for pid in pids - _older - {os.getpid(), *found}:
        with contextlib.suppress(psutil.Error, OSError):
            process = psutil.Process(pid)
            if process.environ().get(_MARK) == own:
                found[process.pid] = process
    return [process for process in found.values() if _counts(process)]


def _counts(process: psutil.Process) -> bool:
    """Whether a process is alive and no helper of Python's, or of all tests, that ends with its parent."""
    if process.pid in forks.served():
        return False
    with contextlib.suppress(psutil.Error):
        return process.status() != psutil.STATUS_ZOMBIE and "resource_tracker" not in " ".join(process.cmdline())
    return False


def _words(processes: list[psutil.Process]) -> str:
    words = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            words.append(f"{process.pid} ({' '.join(process.cmdline())[:120]})")
    return ", ".join(words) or "already gone"


def _end(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(processes, timeout=5)
