"""Who dies when, and what is left: kill -9 of everybody, full disks, reused pids, programs that change under way.

The toy training (tests/fake_supervisor.py) makes the matrix fast; the last part does the hard cases with the real one.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from builder import supervisor
from builder.execute import EXIT_DISK_FULL
from builder.runs import Claim, Event, Finished, Record, Run, RunView, Started
from builder.spec import Experiment, Training
from tests.fake_supervisor import STEPS_PER_EPOCH
from tests.service import FAKE, PROJECT, Service, until

EPOCHS = 8


@pytest.fixture
def service(home: Path) -> Iterator[Service]:
    service = Service(home)
    yield service
    service.close()


def toy(epochs: int = EPOCHS, step_s: float = 0.015) -> Experiment:
    return Experiment(name="toy", training=Training(epochs=epochs, l1=step_s))


def expected(epochs: int) -> str:
    value = f"seed {Training().seed}"
    for step in range(1, epochs * STEPS_PER_EPOCH + 1):
        value = hashlib.sha256(f"{value} {step}".encode()).hexdigest()
    return value


def complete(run: Run, epochs: int = EPOCHS) -> RunView:
    """Waits for the end and checks what must hold after any fault: exact result, no gap, no double, nothing left."""
    until(lambda: not run.view().active)
    view = run.view()
    assert view.status == "done", (view.status, view.reason)
    assert (run.folder / "weights.txt").read_text() == expected(epochs)
    assert view.curves["step/loss"][0] == list(range(1, epochs * STEPS_PER_EPOCH + 1))
    assert view.curves["val/auc"][0] == [STEPS_PER_EPOCH * (e + 1) for e in range(epochs)]
    until(lambda: not run.marker.exists())
    assert not [p.name for p in run.folder.iterdir() if p.name.endswith(".tmp") or p.name == ".reserve"]
    return view


# ---- kill -9 --------------------------------------------------------------------------------------------------------


def test_a_killed_worker_is_started_again_and_ends_with_the_same_weights(service: Service) -> None:
    run = service.store.create(toy())
    service.hold(18)
    service.executor.ensure()
    until(lambda: run.view().epoch > 3)
    recorded = (run.folder / "events.jsonl").read_bytes()
    service.kill(run)
    service.release()
    view = complete(run)
    assert (run.folder / "events.jsonl").read_bytes().startswith(recorded[: recorded.rfind(b"\n") + 1])
    assert view.attempt == 2
    assert any("kill -9" in words and "attempt 2 of 3" in words for words in view.warnings)


def test_a_killed_worker_is_back_within_seconds(service: Service) -> None:
    run = service.store.create(toy(epochs=1000))
    service.executor.ensure()
    until(lambda: run.view().epoch > 1)
    service.kill(run)
    began = time.monotonic()
    until(lambda: run.view().attempt == 2)
    assert time.monotonic() - began < 5


def test_a_killed_supervisor_takes_no_worker_with_it_and_the_next_one_adopts(service: Service) -> None:
    run = service.store.create(toy())
    service.hold(13)
    service.executor.ensure()
    until(lambda: run.view().epoch > 2)
    first, worker = service.supervisor, run.claim
    service.kill(first)
    service.hold(27)
    until(lambda: run.view().step == 27)
    assert run.view().status == "running"
    assert service.executor.ensure()
    until(lambda: "adopted" in (service.home / "supervisor.log").read_text())
    service.release()
    view = complete(run)
    assert view.attempt == 1 and run.claim == worker, "it was never started a second time"


def test_when_worker_and_supervisor_are_killed_the_next_supervisor_goes_on(service: Service) -> None:
    run = service.store.create(toy())
    service.hold(18)
    service.executor.ensure()
    until(lambda: run.view().epoch > 3)
    service.kill(service.supervisor)
    service.kill(run)
    assert run.view().status == "restarting"
    service.release()
    service.executor.ensure()
    view = complete(run)
    assert view.attempt == 2
    assert any("nobody saw why" in words for words in view.warnings)


def test_a_killed_server_takes_nobody_with_it(service: Service) -> None:
    script = (
        "import time; from builder.execute import LocalExecutor;"
        f"LocalExecutor({str(service.home)!r}, {FAKE!r}).ensure(); print('up', flush=True); time.sleep(60)"
    )
    run = service.store.create(toy())
    service.hold(8)
    server = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=PROJECT)
    assert server.stdout is not None and server.stdout.readline() == b"up\n"
    until(lambda: run.view().epoch > 1)
    server.kill()
    server.wait()
    server.stdout.close()
    assert service.supervisor is not None
    service.release()
    assert complete(run).attempt == 1


def test_a_supervisor_that_is_told_to_end_leaves_its_workers_working(service: Service) -> None:
    run = service.store.create(toy())
    service.hold(8)
    service.executor.ensure()
    until(lambda: run.view().epoch > 1)
    first = service.supervisor
    service.kill(first, signal.SIGTERM)
    until(lambda: not service.executor.running())
    assert run.view().status == "running"
    service.release()
    assert complete_without_supervisor(run).status == "done"
    service.executor.ensure()
    until(lambda: not run.marker.exists())
    assert complete(run).attempt == 1


def complete_without_supervisor(run: Run) -> RunView:
    until(lambda: not run.view().active)
    return run.view()


def is_running(run: Run, attempt: int) -> bool:
    view = run.view()
    return view.attempt == attempt and view.status == "running"


def test_a_run_that_dies_three_times_is_lost_and_can_be_resumed(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = service.store.create(toy())
    service.hold(13)
    service.executor.ensure()
    for attempt in (1, 2, 3):
        until(partial(is_running, run, attempt))
        service.kill(run)
    until(lambda: run.view().status == "lost")
    view = run.view()
    assert "3 times" in view.reason and "Resume" in view.reason
    until(lambda: not run.marker.exists())
    service.release()
    run.resume()
    assert complete(run).attempt == 4


def test_the_page_comes_first_then_what_is_waited_for_and_training_last(service: Service) -> None:
    if os.getpriority(os.PRIO_PROCESS, 0):
        pytest.skip("these tests do not run at priority 0 themselves")
    run = service.store.create(toy(epochs=1000))
    service.executor.ensure()
    until(lambda: run.view().step > 1)
    job = service.store.submit_job("predict", {"do": "sleep"})
    until(lambda: job.view().step)
    supervising, answering, claim = service.supervisor, job.claim, run.claim
    assert supervising is not None and answering is not None and claim is not None
    here = os.getpriority(os.PRIO_PROCESS, 0)
    order = [os.getpriority(os.PRIO_PROCESS, pid) for pid in (supervising.pid, answering.pid, claim.pid)]
    assert here < order[0] == order[1] < order[2] == here + 10


def test_a_worker_asked_to_end_from_outside_saves_and_is_started_again(service: Service) -> None:
    run = service.store.create(toy())
    service.hold(13)
    service.executor.ensure()
    until(lambda: run.view().epoch > 2)
    service.kill(run, signal.SIGTERM)
    service.release()
    view = complete(run)
    assert view.attempt == 2 and any("state is saved" in words for words in view.warnings)


def test_a_child_that_dies_between_two_looks_is_told_by_its_exit_code(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = service.store.submit_job("predict", {})
    supervising = supervisor.Supervisor(service.home)
    child = subprocess.Popen(["sleep", "60"])
    worker = supervisor.Worker(job, supervisor.markers(service.home)[0], Claim.of(child.pid, 1), ours=True)
    supervising.workers[job.id] = worker
    child.kill()
    until(lambda: not worker.claim.alive)
    with monkeypatch.context() as patch:
        patch.setattr(os, "waitid", lambda *_: None)  # the children were asked a moment too early
        supervising._collect()
    assert job.view().active
    ask, how = os.waitid, os.WEXITED | os.WNOWAIT | os.WNOHANG
    monkeypatch.setattr(os, "waitid", lambda *_: ask(os.P_PID, child.pid, how))  # no other child of these tests
    supervising._collect()
    assert "kill -9" in job.view().reason
    child.wait()


def test_a_resume_in_the_moment_of_the_end_is_not_lost(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    run = service.store.create(toy())
    child = subprocess.Popen(["sleep", "60"])
    claim = Claim.of(child.pid, 1)
    claim.write(run.folder / "claim.json")
    with Record(run.folder / "events.jsonl") as record:
        record.append(Started(attempt=1))
        record.append(Finished("stopped"))
    child.kill()
    child.wait()
    supervising = supervisor.Supervisor(service.home)
    worker = supervisor.Worker(run, supervisor.markers(service.home)[0], claim, ours=False)
    supervising.workers[run.id] = worker
    look = Run.events

    def resumed_meanwhile(self: Run) -> list[Event]:
        found = list(look(self))
        self.resume()  # the supervisor has read the queue, and is just reading how the run ended
        return found

    monkeypatch.setattr(Run, "events", resumed_meanwhile)
    supervising._collect()
    assert run.marker.exists() and run.view().status == "queued"
    assert not supervising.workers


@pytest.mark.parametrize("tear", [b'{"event": "prog', b'{"event": "epoch-ended", "metrics": {"val/auc": 0.5}'])
def test_a_line_torn_by_the_kill_is_not_counted(service: Service, tear: bytes) -> None:
    run = service.store.create(toy())
    service.hold(13)
    service.executor.ensure()
    until(lambda: run.view().epoch > 2)
    service.kill(service.supervisor)
    service.kill(run)
    with open(run.folder / "events.jsonl", "ab") as file:
        file.write(tear)
    service.release()
    service.executor.ensure()
    view = complete(run)
    assert not any("damaged" in words for words in view.warnings)


def test_a_short_job_whose_worker_dies_has_failed_and_is_not_repeated(service: Service) -> None:
    killed = service.store.submit_job("predict", {"do": "kill"})
    left = service.store.submit_job("predict", {"do": "exit", "code": 3})
    service.executor.ensure()
    until(lambda: killed.view().status == left.view().status == "failed")
    assert "kill -9" in killed.view().reason and "exit code 3" in left.view().reason
    assert sorted((service.home / "begun.txt").read_text().split()) == sorted([killed.id, left.id])
    assert killed.payload == {} and not (killed.folder / "payload.json").exists()


def test_what_a_dead_worker_started_is_ended_with_it(service: Service) -> None:
    """Decoders are children of the worker, in its process group."""
    job = service.store.submit_job("predict", {"do": "child"})
    service.executor.ensure()
    until(lambda: job.view().status == "failed")
    child = Claim.read(job.folder / "child.json")
    assert child is not None
    until(lambda: not child.alive)


# ---- who a process is -----------------------------------------------------------------------------------------------


def test_a_reused_pid_is_not_taken_for_the_worker(service: Service) -> None:
    run = service.store.create(toy(epochs=2))
    me = Claim.of(os.getpid())
    Claim(me.pid, "12345", me.boot, 1).write(run.folder / "claim.json")  # our pid, but another start
    with Record(run.folder / "events.jsonl") as record:
        record.append(Started(attempt=1, pid=me.pid))
    service.executor.ensure()
    assert complete(run, 2).attempt == 2


def test_a_claim_from_before_the_reboot_is_dead(service: Service) -> None:
    run = service.store.create(toy(epochs=2))
    me = Claim.of(os.getpid())
    Claim(me.pid, me.start, "another-boot", 1).write(run.folder / "claim.json")
    service.executor.ensure()
    assert complete(run, 2).attempt == 2


def test_a_worker_without_a_word_from_its_supervisor_does_nothing(service: Service) -> None:
    """A supervisor killed between the fork and the claim: its child must leave without having touched the job."""
    script = (
        "import os, signal; from pathlib import Path; from builder import supervisor; from builder.runs import Claim\n"
        "def die(self, path): os.kill(os.getpid(), signal.SIGKILL)\n"
        "Claim.write = die\n"
        "supervisor.Supervisor._describe = lambda self, ready: None\n"
        f"supervisor.main([{str(service.home)!r}], entry='tests.fake_supervisor:run', preload=())"
    )
    run = service.store.create(toy(epochs=2))
    died = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, timeout=30, stdout=subprocess.DEVNULL)
    assert died.returncode == -signal.SIGKILL
    time.sleep(0.3)
    assert not (run.folder / "events.jsonl").exists() and run.view().status == "queued"
    service.executor.ensure()
    assert complete(run, 2).attempt == 1


# ---- the queue ------------------------------------------------------------------------------------------------------


def test_the_queue_moves_oldest_first_one_training_at_a_time_with_nobody_looking(service: Service) -> None:
    queued = [service.store.create(toy(epochs=2, step_s=0.01)) for _ in range(3)]
    service.executor.ensure()
    until(lambda: all(not run.marker.exists() for run in queued))
    spans = []
    for run in queued:
        events = list(run.events())
        spans.append((events[0].at, events[-1].at))
        assert complete(run, 2).attempt == 1
    assert all(before[1] <= after[0] for before, after in zip(spans, spans[1:], strict=False))


def test_a_short_job_does_not_wait_for_a_training(service: Service) -> None:
    run = service.store.create(toy(epochs=1000))
    service.executor.ensure()
    until(lambda: run.view().step > 1)
    job = service.store.submit_job("predict", {"question": 1})
    until(lambda: job.view().status == "done")
    assert run.view().status == "running"


def test_a_waiting_run_that_is_stopped_never_begins(service: Service) -> None:
    first, second = (service.store.create(toy(epochs=1000)) for _ in range(2))
    service.executor.ensure()
    until(lambda: first.view().step > 1)
    second.stop()
    until(lambda: second.view().status == "stopped")
    assert second.claim is None and "queue" in second.view().reason
    first.stop()
    until(lambda: first.view().status == "stopped")
    second.resume()
    until(lambda: second.view().status == "running")


def test_a_stopped_run_has_saved_and_resumes_to_the_same_weights(service: Service) -> None:
    run = service.store.create(toy())
    service.hold(13)
    service.executor.ensure()
    until(lambda: run.view().epoch > 2)
    run.stop()
    until(lambda: run.view().status == "stopped")
    service.release()
    run.resume()
    assert complete(run).attempt == 2


def test_a_stopped_short_job_stops(service: Service) -> None:
    job = service.store.submit_job("predict", {"do": "sleep"})
    service.executor.ensure()
    until(lambda: job.view().status == "running")
    job.stop()
    until(lambda: job.view().status == "stopped")


def test_a_worker_that_does_not_heed_a_stop_is_ended(home: Path) -> None:
    command = (
        sys.executable,
        "-c",
        "import sys; from builder import supervisor; supervisor.STOP_PATIENCE_S = 0.5;"
        "sys.exit(supervisor.main(entry='tests.fake_supervisor:run', preload=()))",
    )
    service = Service(home, command)
    try:
        run = service.store.create(toy(epochs=1000))
        service.executor.ensure()
        until(lambda: run.view().epoch > 1)
        service.kill(run, signal.SIGSTOP)
        run.stop()
        until(lambda: run.view().status == "stopped")
        assert "did not answer" in run.view().reason
    finally:
        service.close()


def test_a_fault_in_a_job_that_reads_files_leaves_no_name_anywhere(service: Service) -> None:
    job = service.store.submit_job("predict", {"do": "raise", "words": "cannot read /scans/DOE^JANE.dcm"})
    service.executor.ensure()
    until(lambda: job.view().status == "failed")
    assert "RuntimeError" in job.view().reason
    assert "fake_supervisor.py" in (job.folder / "worker.log").read_text()
    until(lambda: not job.marker.exists())
    left = [path for path in service.home.rglob("*") if path.is_file() and b"JANE" in path.read_bytes()]
    assert left == []


def test_a_changed_program_replaces_the_supervisor_in_place_and_the_run_goes_on(home: Path, tmp_path: Path) -> None:
    """The stamp is of the program's files; here of a folder of ours."""
    program = tmp_path / "builder"
    program.mkdir()
    (program / "part.py").write_text("1")
    command = (
        sys.executable,
        "-c",
        "import sys; from pathlib import Path; from builder import supervisor;"
        f"supervisor.PROJECT = Path({str(tmp_path)!r}); supervisor.LOOK_EVERY_S = 0.1;"
        "sys.exit(supervisor.main(entry='tests.fake_supervisor:run', preload=()))",
    )
    service = Service(home, command)
    try:
        first, second = (service.store.create(toy(epochs=3, step_s=0.03)) for _ in range(2))
        service.executor.ensure()
        service.hold(5)
        until(lambda: first.view().step > 1)
        before = service.supervisor
        (program / "part.py").write_text("changed")
        service.release()
        assert complete(first, 3).attempt == 1
        assert complete(second, 3).attempt == 1
        assert service.supervisor == before, "same process, same lock"
        log = (home / "supervisor.log").read_text()
        assert log.count("The program has changed") == 1 and log.count("Ready:") == 2
    finally:
        service.close()


def test_no_gpu_is_woken_and_no_thread_started_before_a_fork(home: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from builder import supervisor;"
        "s = supervisor.Supervisor(Path(sys.argv[1]));"
        "os.environ.update(supervisor.THREADLESS);"
        "s._load();"
        "import torch; assert not torch.cuda.is_initialized();"
        "print(len(os.listdir('/proc/self/task')))"
    )
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", script, str(home)], cwd=PROJECT, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.splitlines()[-1] == "1", done.stdout + done.stderr
    assert "cannot be imported" not in done.stdout


@pytest.mark.parametrize(("visible", "num"), [("", 0), ("0", 1), ("0,3", 2), ("-1", 0)])
def test_cards_are_counted_without_waking_them(visible: str, num: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert supervisor.num_gpus() == num


def test_with_two_places_two_runs_train_at_once(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCANLOOM_SLOTS", "2")
    pair = [service.store.create(toy(epochs=1000)) for _ in range(2)]
    service.executor.ensure()
    until(lambda: all(run.view().status == "running" for run in pair))
    claims = [run.claim for run in pair]
    assert {claim.slot for claim in claims if claim} == {0, 1}


# ---- a full disk ----------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 2 MB; skips where this user may not mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"mounting a small disk needs root with CAP_SYS_ADMIN here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path) -> Path:
    """Takes every byte that is left."""
    ballast = place / "ballast"
    with open(ballast, "ab", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    return ballast


def test_a_full_disk_ends_the_run_in_words_loses_nothing_and_resume_goes_on(small_disk: Path) -> None:
    service = Service(small_disk / "home")
    try:
        run = service.store.create(toy())
        service.hold(13)
        service.executor.ensure()
        until(lambda: run.view().epoch > 2)
        ballast = fill(small_disk)
        service.release()
        until(lambda: not run.view().active)
        recorded = run.view()
        assert recorded.status == "failed" and recorded.reason.startswith("The disk is full.")
        ballast.unlink()
        until(lambda: not run.marker.exists())
        view = run.view()
        assert view.status == "failed" and view.reason.startswith("The disk is full.")
        assert view.step >= recorded.step >= 2 * STEPS_PER_EPOCH
        run.resume()
        assert complete(run).attempt == 2
    finally:
        service.close()


def test_an_end_that_cannot_be_recorded_is_recorded_once_there_is_room(small_disk: Path) -> None:
    """The worker says by its exit code that not even its last word found room; the supervisor keeps it in mind."""
    service = Service(small_disk / "home")
    try:
        service.home.mkdir()
        (service.home / "wait").touch()  # empty: taking it away makes no room
        job = service.store.submit_job("predict", {"do": "exit", "code": EXIT_DISK_FULL, "brim": True})
        service.executor.ensure()
        until(lambda: "xx" in job.view().note)
        ballast = fill(small_disk)
        (service.home / "wait").unlink()
        until(lambda: not job.view().active)
        assert job.view().reason.startswith("The disk is full.")
        assert not [e for e in job.events() if isinstance(e, Finished)]
        ballast.unlink()
        until(lambda: [e for e in job.events() if isinstance(e, Finished)])
        assert job.view().status == "failed" and job.view().reason.startswith("The disk is full.")
    finally:
        service.close()


def test_a_worker_killed_while_the_disk_is_full_goes_on_by_itself_when_there_is_room(small_disk: Path) -> None:
    service = Service(small_disk / "home")
    try:
        run = service.store.create(toy())
        service.hold(13)
        service.executor.ensure()
        until(lambda: run.view().epoch > 2)
        ballast = fill(small_disk)
        service.kill(run)
        time.sleep(0.5)
        assert run.view().reason.startswith("The disk is full.")
        ballast.unlink()
        service.release()
        assert complete(run).attempt == 2
    finally:
        service.close()


def test_a_run_asked_for_before_the_disk_was_full_waits_and_begins_when_there_is_room(small_disk: Path) -> None:
    service = Service(small_disk / "home")
    try:
        run = service.store.create(toy(epochs=2))
        ballast = fill(small_disk)
        assert service.executor.ensure(), "the supervisor starts even now"
        time.sleep(0.5)
        assert run.view().status == "queued" and run.view().reason.startswith("The disk is full")
        ballast.unlink()
        assert complete(run, 2).attempt == 1
        until(lambda: service.supervisor is not None)
    finally:
        service.close()
