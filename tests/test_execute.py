"""Executors keep one contract; a supervisor is started once, by whoever asks first."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder import execute
from builder.execute import LocalExecutor, RayExecutor, alive, exit_words
from builder.locks import locked
from builder.runs import Claim, RunStore, StoreError
from builder.spec import Experiment, Training
from tests.fake_jobs import FakeJobs
from tests.service import FAKE, PROJECT, Service, until


@pytest.fixture
def service(home: Path) -> Iterator[Service]:
    service = Service(home)
    yield service
    service.close()


@pytest.fixture(params=sorted(execute.EXECUTORS))
def executor(
    request: pytest.FixtureRequest, service: Service, monkeypatch: pytest.MonkeyPatch
) -> Iterator[execute.Executor]:
    """Every executor there is, with toy workers: being listed is being tested. (Ray itself: tests/test_cluster.py.)"""
    if request.param == "ray":
        jobs = FakeJobs()
        for name, value in jobs.environment().items():
            monkeypatch.setenv(name, value)
        service.executor = RayExecutor(service.home, FAKE)
        yield service.executor
        service.close()
        jobs.close()
        return
    made = {"local": lambda: LocalExecutor(service.home, FAKE)}
    yield made[request.param]()


# ---- the contract ---------------------------------------------------------------------------------------------------


def test_a_submitted_run_is_worked_on_to_its_end(executor: execute.Executor, service: Service) -> None:
    run = service.store.create(Experiment(training=Training(epochs=2)))
    executor.submit(run)
    until(lambda: executor.poll(run) == "done")
    assert (run.folder / "weights.txt").exists()
    until(lambda: not run.marker.exists())


def test_submitting_again_and_again_starts_it_once(executor: execute.Executor, service: Service) -> None:
    job = service.store.submit_job("predict", {"question": 6})
    for _ in range(3):
        executor.submit(job)
    until(lambda: executor.poll(job) == "done")
    executor.submit(job)
    time.sleep(0.4)
    assert (service.home / "begun.txt").read_text().splitlines() == [job.id]
    assert job.result() == {"answer": 6}
    assert executor.poll(job) == "done"


def test_a_cancelled_run_stops_and_says_so(executor: execute.Executor, service: Service) -> None:
    run = service.store.create(Experiment(training=Training(epochs=1000)))
    executor.submit(run)
    until(lambda: run.view().step > 3)
    executor.cancel(run)
    until(lambda: executor.poll(run) == "stopped")
    saved = run.view().step
    run.resume()
    executor.submit(run)
    until(lambda: run.view().step > saved + 3)
    executor.cancel(run)
    until(lambda: executor.poll(run) == "stopped")


def test_cancelling_what_has_ended_changes_nothing(executor: execute.Executor, service: Service) -> None:
    job = service.store.submit_job("predict", {})
    executor.submit(job)
    until(lambda: executor.poll(job) == "done")
    executor.cancel(job)
    assert executor.poll(job) == "done" and not job.view().stopping


def test_what_fails_is_failed_with_a_reason(executor: execute.Executor, service: Service) -> None:
    job = service.store.submit_job("predict", {"do": "kill"})
    executor.submit(job)
    until(lambda: executor.poll(job) == "failed")
    assert "memory ran out" in job.view().reason


# ---- the supervisor of a folder -------------------------------------------------------------------------------------


def test_ensure_starts_a_supervisor_once_in_a_session_of_its_own(service: Service) -> None:
    executor = LocalExecutor(service.home, FAKE)
    assert not executor.running()
    assert executor.ensure()
    assert executor.running()
    assert not executor.ensure()
    until(lambda: service.supervisor is not None)
    claim = service.supervisor
    assert claim is not None and alive(claim)
    assert os.getsid(claim.pid) == claim.pid != os.getsid(0)


def test_ensure_is_cheap_when_there_is_one(service: Service) -> None:
    executor = LocalExecutor(service.home, FAKE)
    executor.ensure()
    began = time.perf_counter()
    for _ in range(100):
        executor.ensure()
    assert (time.perf_counter() - began) / 100 < 0.005


def test_four_processes_that_race_start_one_supervisor_and_one_worker(service: Service) -> None:
    script = (
        "import sys; from pathlib import Path; from builder.execute import LocalExecutor;"
        "from builder.runs import RunStore;"
        f"home = Path({str(service.home)!r}); sys.stdin.readline();"
        f"job = RunStore(home).submit_job('predict', {{}}, id='abc');"
        f"print(LocalExecutor(home, {FAKE!r}).ensure())"
    )
    service.home.mkdir()
    racers = [
        subprocess.Popen([sys.executable, "-c", script], stdin=-1, stdout=-1, text=True, cwd=PROJECT) for _ in range(4)
    ]
    time.sleep(0.5)  # all are at the line
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    answers = [racer.communicate(timeout=30)[0].strip() for racer in racers]
    assert sorted(answers) == ["False", "False", "False", "True"]
    until(lambda: service.store.job("abc").view().status == "done")
    assert (service.home / "begun.txt").read_text().splitlines() == ["abc"]
    assert (service.home / "supervisor.log").read_text().count("Ready:") == 1


def test_a_second_supervisor_leaves_at_once(service: Service) -> None:
    LocalExecutor(service.home, FAKE).ensure()
    second = subprocess.run([*FAKE, str(service.home)], cwd=PROJECT, capture_output=True, text=True, timeout=30)
    assert second.returncode == 0
    assert "Another supervisor" in second.stdout


def test_a_supervisor_with_nothing_to_do_leaves_and_one_with_a_late_wish_does_not(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCANLOOM_IDLE_S", "0.4")
    executor = LocalExecutor(service.home, FAKE)
    executor.ensure()
    job = service.store.submit_job("predict", {"do": "sleep"})
    until(lambda: job.view().status == "running")
    time.sleep(0.8)
    assert executor.running(), "it does not leave while somebody works"
    job.stop()
    until(lambda: not executor.running())


def test_a_supervisor_that_cannot_start_is_said_in_words(home: Path) -> None:
    with pytest.raises(StoreError, match="did not start. The working process ended with a fault"):
        LocalExecutor(home, (sys.executable, "-c", "raise SystemExit(3)")).ensure()


def test_a_folder_that_cannot_be_used_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be used"):
        LocalExecutor(tmp_path / "file" / "home", FAKE).ensure()


# ---- words ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (None, "nobody saw why"),
        (0, "without saying"),
        (1, "exit code 1"),
        (-signal.SIGKILL, "memory ran out"),
        (-signal.SIGSEGV, "segmentation fault"),
        (-signal.SIGTERM, "asked to end"),
        (-signal.SIGUSR1, "SIGUSR1"),
        (-200, "signal 200"),
        (execute.EXIT_DISK_FULL, "disk was full"),
        (execute.EXIT_AGAIN, "saved its state"),
    ],
)
def test_each_end_of_a_process_has_a_sentence(code: int | None, words: str) -> None:
    said = exit_words(code)
    assert words in said and said.endswith(".") and "Traceback" not in said


def test_home_is_what_the_environment_says_or_a_folder_of_the_users(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SCANLOOM_HOME", str(tmp_path))
    assert execute.home() == tmp_path
    monkeypatch.delenv("SCANLOOM_HOME")
    assert execute.home() == Path.home() / ".scanloom"


def test_nobody_is_not_alive() -> None:
    assert not alive(None)
    assert alive(Claim.of(os.getpid()))


def test_a_lock_is_held_by_one_and_looked_at_by_many(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked(path) as mine:
        assert mine
        with locked(path, shared=True) as free:
            assert not free
    with locked(path, shared=True) as one, locked(path, shared=True) as other:
        assert one and other
    assert RunStore(tmp_path).runs() == []
