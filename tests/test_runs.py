"""The run store: events, their fold, the follower, and what is refused."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from builder import runs
from builder.events import LOG_KEPT
from builder.runs import (
    TIME,
    Branched,
    Broke,
    Claim,
    EpochEnded,
    Event,
    Finished,
    Fold,
    Job,
    Noted,
    Paused,
    Pictured,
    Probed,
    Progress,
    Record,
    Resumed,
    Run,
    RunFollower,
    RunStore,
    Saved,
    Started,
    StoreError,
    Warned,
    decimate,
    decode,
    encode,
    fold,
)
from builder.spec import Experiment, Training

EVERY_EVENT = (
    Started(attempt=2, device="cpu", pid=7, at=1.5),
    Progress(step=3, total=9, epoch=1, metrics={"step/loss": 0.5}, note="ö", at=2.0),
    EpochEnded(epoch=1, step=9, metrics={"val/auc": 0.75}, seconds=1.25, at=3.0),
    Saved(step=9, epoch=1, best=True, file="last-1.pt", at=4.0),
    Pictured(step=9, epoch=1, files=["film/frame-00001.json"], at=4.5),
    Warned(message="line\nbreak", at=5.0),
    Noted(message="tried", at=5.5),
    Probed(step=8, epoch=1, layers={"conv": {"gradient": 0.5}}, at=5.6),
    Broke(step=8, epoch=1, layer="conv", what="output", cases=[3], at=5.7),
    Resumed(step=9, epoch=1, at=6.0),
    Paused(step=9, epoch=1, reason="asked", at=6.5),
    Branched("p", 9, 1, {"training.epochs": [2, 3]}, "It goes on.", at=6.6),
    Finished(status="stopped", reason="asked", at=7.0),
)


@pytest.fixture
def store(home: Path) -> RunStore:
    return RunStore(home)


@pytest.fixture
def run(store: RunStore) -> Run:
    return store.create(Experiment(name="t", training=Training(epochs=4, monitor="auc")))


def put(job: Job, *events: Event) -> None:
    with Record(job.folder / "events.jsonl") as record:
        for event in events:
            record.append(event)


# ---- events ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", EVERY_EVENT, ids=lambda e: type(e).__name__)
def test_an_event_is_one_line_and_comes_back_equal(event: Event) -> None:
    line = encode(event)
    assert line.count(b"\n") == 1 and line.endswith(b"\n")
    assert decode(line) == event


def test_every_kind_of_event_is_covered_above() -> None:
    assert {type(event) for event in EVERY_EVENT} == set(runs.Event.__subclasses__())


def test_a_number_that_json_does_not_know_becomes_null_and_comes_back_as_nan() -> None:
    line = encode(Progress(metrics={"a": math.nan, "b": math.inf}))
    assert json.loads(line)["metrics"] == {"a": None, "b": None}
    back = decode(line)
    assert isinstance(back, Progress) and math.isnan(back.metrics["a"])


def test_an_event_of_a_newer_version_is_skipped_and_an_unknown_field_dropped() -> None:
    assert decode(b'{"event": "dreamt", "at": 1}') is None
    assert decode(b'{"event": "warned", "at": 1, "message": "m", "colour": "red"}') == Warned("m", at=1)


@pytest.mark.parametrize("line", [b"{", b"3", b"{}", b'{"event": 4}', b"\xff"])
def test_a_line_that_is_no_event_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError):
        decode(line)


def test_the_record_stamps_monotonic_seconds_that_a_wrong_wall_clock_does_not_change(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Record(run.folder / "events.jsonl") as record:
        record.append(Started())
        monkeypatch.setattr(time, "time", lambda: 86400.0 * 365)  # the clock jumps back by decades
        time.sleep(0.05)
        record.append(Progress(step=1))
    view = run.view()
    assert 0.04 < view.seconds < 5
    assert view.step == 1


def test_the_next_writer_cuts_a_torn_line_off_and_no_reader_ever_saw_it(run: Run) -> None:
    put(run, Started(), Progress(step=1))
    follower = RunFollower(run)
    path = run.folder / "events.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"event": "progress", "st')
    assert follower.refresh().step == 1
    put(run, Progress(step=2))
    assert follower.refresh().step == 2
    assert path.read_bytes().startswith(whole)
    assert [type(e).__name__ for e in run.events()] == ["Started", "Progress", "Progress"]
    assert follower.refresh().warnings == ()


def test_a_torn_line_longer_than_one_block_is_cut_off_whole(run: Run) -> None:
    path = run.folder / "events.jsonl"
    path.write_bytes(encode(Started()) + b"x" * 200_000)
    put(run)
    assert path.read_bytes() == path.read_bytes()[: path.read_bytes().find(b"\n") + 1]
    path.write_bytes(b"x" * 200_000)
    put(run)
    assert path.read_bytes() == b""


def test_a_damaged_line_in_the_middle_is_counted_and_said(run: Run) -> None:
    put(run, Started())
    with open(run.folder / "events.jsonl", "ab") as file:
        file.write(b"\x00\x00\x00\n")
    put(run, Progress(step=5))
    view = run.view()
    assert view.step == 5
    assert view.warnings == ("1 damaged line(s) of this run's record could not be read.",)


def test_a_line_that_the_disk_takes_only_in_part_is_taken_back(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    with Record(run.folder / "events.jsonl") as record:
        record.append(Started())
        before = (run.folder / "events.jsonl").read_bytes()

        def half(descriptor: int, data: bytes) -> int:
            if len(data) < 20:
                raise OSError(28, "No space left on device")
            return real(descriptor, data[:-10])

        monkeypatch.setattr(os, "write", half)
        with pytest.raises(OSError):
            record.append(Progress(step=1))
        monkeypatch.undo()
        assert (run.folder / "events.jsonl").read_bytes() == before
        record.append(Progress(step=2))
    assert [getattr(e, "step", None) for e in run.events()] == [None, 2]


# ---- the fold -------------------------------------------------------------------------------------------------------


def training_events(last: int = 3) -> list[Event]:
    told: list[Event] = [Started(attempt=1, device="cpu", pid=1)]
    for epoch in range(1, last + 1):
        for step in (2 * epoch - 1, 2 * epoch):
            told.append(Progress(step=step, total=8, epoch=epoch, metrics={"step/loss": 1 / step}))
        told.append(EpochEnded(epoch=epoch, step=2 * epoch, metrics={"val/auc": 0.5 + epoch / 10}, seconds=1))
        told.append(Saved(step=2 * epoch, epoch=epoch, best=True, file="f"))
    return told


def test_the_state_of_a_run_is_what_its_events_come_to() -> None:
    view = fold([*training_events(), Finished("done")], monitor="auc", epochs=4)
    assert (view.status, view.epoch, view.epochs, view.step, view.total) == ("done", 3, 4, 6, 8)
    assert view.best == {"metric": "val/auc", "value": pytest.approx(0.8), "epoch": 3}
    assert view.curves["step/loss"][0] == [1, 2, 3, 4, 5, 6]
    assert view.curves["val/auc"] == ([2, 4, 6], [pytest.approx(v) for v in (0.6, 0.7, 0.8)])
    assert view.device == "cpu" and view.attempt == 1
    assert view.log[-1][1] == "Done."


def test_of_a_long_log_the_newest_lines_of_each_kind_are_kept_and_all_are_counted() -> None:
    many = [EpochEnded(epoch=n, step=n, metrics={"val/auc": 0.5}, at=float(n)) for n in range(1, 5001)]
    view = fold([Warned("Look.", at=0.5), *many[:4000], Noted("Said.", at=4000.5), *many[4000:]], monitor="auc")
    kinds = [line.kind for line in view.log]
    assert kinds == ["warning", "state", *["epoch"] * LOG_KEPT] and view.began == 0.5
    assert [line.at for line in view.log[2:]] == [float(n) for n in range(5001 - LOG_KEPT, 5001)]
    assert view.logged == {"warning": 1, "state": 1, "epoch": 5000}


def test_after_resumed_the_later_points_of_the_old_attempt_are_gone_and_none_is_doubled() -> None:
    again = [
        Started(attempt=2, device="cpu"),
        Resumed(step=4, epoch=2),
        Progress(step=5, epoch=3, metrics={"step/loss": 9.0}),
        Progress(step=6, epoch=3, metrics={"step/loss": 8.0}),
    ]
    view = fold([*training_events(), *again], monitor="auc")
    assert view.curves["step/loss"] == ([1, 2, 3, 4, 5, 6], [1, 1 / 2, 1 / 3, 1 / 4, 9.0, 8.0])
    assert view.curves["val/auc"][0] == [2, 4]
    assert view.best is not None and view.best["epoch"] == 2 and view.best["value"] == pytest.approx(0.7)
    assert view.status == "running" and view.attempt == 2


def test_a_view_handed_out_before_a_resume_stays_as_it_was() -> None:
    folded = Fold("auc")
    for event in training_events():
        folded.add(event)
    before = folded.view()
    folded.add(Resumed(step=0))
    assert before.curves["step/loss"][0] == [1, 2, 3, 4, 5, 6]
    assert folded.view().curves["step/loss"] == ([], [])
    assert folded.view().best is None


def test_curves_hold_what_was_told_to_the_bit_in_eight_bytes_a_number_whoever_tells_when() -> None:
    folded, chance = Fold(), np.random.default_rng(0)
    losses, number = chance.normal(size=100_000), 100_000
    lists: dict[str, tuple[list[int], list[float]]] = {}
    tracemalloc.start()
    begin = tracemalloc.get_traced_memory()[0]
    for step in range(1, number + 1):
        folded._draw(step, {"step/loss": losses[step - 1], "step/lr": 0.1, "step/gradient": math.nan})
    bytes_a_step = (tracemalloc.get_traced_memory()[0] - begin) / number
    tracemalloc.stop()
    assert folded.curves["step/loss"] == (list(range(1, number + 1)), losses.tolist())
    assert np.array_equal(np.asarray(folded.curves["step/loss"][1]), losses)
    assert bytes_a_step < 4 * 8 * 1.1, "three curves and the steps they share"

    folded = Fold()
    for step in range(1, 400):  # some curves are told rarely, some begin late, some steps come again
        told = {name: chance.normal() for k, name in enumerate("abcd") if step > 20 * k and step % (k + 1) == 0}
        for at in (step, step, step - 1):
            folded._draw(at, told)
            for name, value in told.items():
                steps, values = lists.setdefault(name, ([], []))
                if not steps or at > steps[-1]:
                    steps.append(at)
                    values.append(value)
                elif at == steps[-1]:
                    values[-1] = value
        if step == 200:
            before = folded.view().curves
            copy = {name: (list(steps), list(values)) for name, (steps, values) in before.items()}
            folded.add(Resumed(step=150))
            for name, (steps, values) in lists.items():
                cut = sum(at <= 150 for at in steps)
                lists[name] = (steps[:cut], values[:cut])
    assert folded.curves == lists and len(lists) == 4
    assert before == copy, "what was handed out before the resume"


def test_a_note_alone_moves_neither_step_nor_total() -> None:
    view = fold([*training_events(), Started(attempt=2), Progress(note="Preparing the scans: 3 of 9")])
    assert (view.step, view.total, view.note) == (6, 8, "Preparing the scans: 3 of 9")


def test_seconds_add_up_over_attempts() -> None:
    events = [
        Started(attempt=1),
        Progress(step=1, clock=10.0),
        Started(attempt=2),
        Started(attempt=2, device="cpu", clock=0.5),
        Progress(step=2, clock=2.5),
    ]
    assert fold(events).seconds == 12.5


def test_the_same_warning_twice_is_one_warning() -> None:
    assert fold([Started(), Warned("w"), Warned("w")]).warnings == ("w",)


# ---- the follower ---------------------------------------------------------------------------------------------------


def test_a_follower_reads_only_what_was_appended(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    put(run, *training_events())
    follower = RunFollower(run)
    follower.refresh()
    seen: list[bytes] = []

    def counted(line: bytes) -> Event | None:
        seen.append(line)
        return decode(line)

    monkeypatch.setattr(runs, "decode", counted)
    follower.refresh()
    assert seen == []
    put(run, Progress(step=7, epoch=4, metrics={"step/loss": 0.1}))
    view = follower.refresh()
    assert len(seen) == 1
    assert view.curves["step/loss"][0][-1] == 7
    assert view == RunFollower(run).refresh()


def test_a_follower_of_a_long_run_stays_fast(run: Run) -> None:
    with open(run.folder / "events.jsonl", "wb") as file:
        file.write(encode(Started()))
        for step in range(1, 20_001):
            file.write(encode(Progress(step=step, epoch=1, metrics={"step/loss": 1.0, "step/lr": 0.1})))
    follower = RunFollower(run)
    follower.refresh()
    put(run, Progress(step=20_001, metrics={"step/loss": 1.0}))
    began = time.perf_counter()
    view = follower.refresh()
    assert time.perf_counter() - began < 0.05
    assert len(view.curves["step/loss"][0]) == 20_001


# ---- status: what the events cannot tell ----------------------------------------------------------------------------


def claim(run: Run, attempt: int, alive: bool) -> None:
    true = Claim.of(os.getpid(), attempt)
    (true if alive else Claim(true.pid, "1", true.boot, attempt)).write(run.folder / "claim.json")


def test_status_from_queue_to_done(run: Run) -> None:
    assert run.view().status == "queued"
    claim(run, 1, alive=True)
    assert run.view().status == "starting"
    put(run, Started(attempt=1))
    assert run.view().status == "running"
    run.stop()
    assert run.view().stopping
    put(run, Finished("done"))
    assert run.view().status == "done"
    assert not run.view().stopping
    run.marker.unlink()
    assert run.view().status == "done"


def test_a_dead_process_with_a_wish_for_it_is_restarting_and_without_one_it_is_lost(run: Run) -> None:
    claim(run, 1, alive=False)
    put(run, Started(attempt=1))
    assert run.view().status == "restarting"
    run.marker.unlink()
    view = run.view()
    assert view.status == "lost" and view.reason and view.resumable


def test_a_full_disk_is_said_even_when_nothing_could_be_recorded(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    claim(run, 1, alive=False)
    put(run, Started(attempt=1))
    monkeypatch.setattr(runs, "_free_bytes", lambda _: 0)
    view = run.view()
    assert view.status == "failed" and view.reason.startswith("The disk is full.")


def test_a_resumed_run_is_queued_again_and_its_old_end_no_longer_counts(run: Run) -> None:
    claim(run, 1, alive=False)
    put(run, Started(attempt=1), Finished("failed", "x"))
    run.marker.unlink()
    (run.folder / "stop").touch()
    assert run.view().status == "failed"
    run.resume()
    run.resume()
    assert run.view().status == "queued"
    assert not run.stop_wanted
    claim(run, 2, alive=True)
    assert run.view().status == "starting"
    put(run, Started(attempt=2))
    assert run.view().status == "running"


def test_only_what_can_be_resumed_is_resumed(run: Run) -> None:
    claim(run, 1, alive=False)
    put(run, Started(attempt=1), Finished("done"))
    run.marker.unlink()
    with pytest.raises(StoreError, match="is done"):
        run.resume()


# ---- processes and their names --------------------------------------------------------------------------------------


def test_a_claim_names_one_process_and_no_other(home: Path) -> None:
    me = Claim.of(os.getpid())
    assert me.alive
    assert not Claim(me.pid, str(int(float(me.start)) + 1), me.boot).alive, "same pid, other start: it was reused"
    assert not Claim(me.pid, me.start, "another boot").alive
    me.write(home / "claim.json")
    assert Claim.read(home / "claim.json") == me


def test_a_zombie_is_dead() -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    claim = Claim.of(child.pid)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert Path(f"/proc/{child.pid}").exists()
    assert not claim.alive
    child.wait()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"pid": "x", "start": "1", "boot": "b"}'])
def test_a_damaged_claim_is_no_claim(home: Path, text: str) -> None:
    home.mkdir()
    (home / "claim.json").write_text(text)
    assert Claim.read(home / "claim.json") is None


@pytest.mark.parametrize("text", ["", "{", "{}", '{"kind": "train", "number": "x", "after": 0}', '{"kind": 3}'])
def test_a_damaged_wish_is_no_wish_and_the_queue_goes_on(run: Run, text: str) -> None:
    (run.home / "queue" / "ab").write_text(text)
    assert [m.id for m in runs.markers(run.home)] == [run.id]


# ---- the store ------------------------------------------------------------------------------------------------------


def test_a_run_keeps_its_experiment_and_is_found_again(store: RunStore, run: Run) -> None:
    assert store.run(run.id).experiment == run.experiment
    assert [r.id for r in store.runs()] == [run.id]
    assert runs._FRESH.match(run.id)


def test_ids_only_grow_even_when_the_clock_is_set_back(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = Experiment()
    real = time.time_ns
    made = [store.create(experiment).id for _ in range(3)]
    for day in (-1, 0, 1, -1):
        monkeypatch.setattr(time, "time_ns", lambda day=day: real() + day * 86_400_000_000_000)
        made.append(store.create(experiment).id)
    assert made == sorted(made) and len(set(made)) == 7
    assert [run.id for run in store.runs()] == made[::-1]
    assert [m.id for m in runs.markers(store.home)] == made, "the queue keeps the order of asking"


def test_the_last_id_of_a_second_is_followed_by_the_next_second(tmp_path: Path) -> None:
    (tmp_path / "29991231-235959-ffffff").mkdir()
    assert RunStore._fresh_id(tmp_path) == "30000101-000000-000000"


@pytest.mark.parametrize("id", ["..", "../x", "a/b", "/etc", "", "A", "run", "a" * 65, ".", "a\n", "a\x00"])
def test_an_id_is_never_a_path(store: RunStore, id: str) -> None:
    for ask in (store.run, store.job, store.delete, lambda i: store.create(Experiment(), id=i)):
        with pytest.raises(StoreError):
            ask(id)


def test_the_same_id_twice_is_one_run(store: RunStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: store.create(Experiment(), id="abc-1").id, range(16)))
    assert set(made) == {"abc-1"}
    assert len(store.runs()) == 1 and len(runs.markers(store.home)) == 1
    assert sorted(os.listdir(store.home / "runs")) == ["abc-1"], "no passing folder is left"


def test_a_double_click_after_the_end_does_not_start_the_run_again(store: RunStore, run: Run) -> None:
    claim(run, 1, alive=False)
    put(run, Started(), Finished("done"))
    run.marker.unlink()
    store.create(run.experiment, id=run.id)
    assert run.view().status == "done" and not run.marker.exists()


def test_a_short_job_keeps_its_payload_apart(store: RunStore) -> None:
    job = store.submit_job("predict", {"files": ["/tmp/x"]})
    assert store.job(job.id).kind == "predict"
    assert job.payload == {"files": ["/tmp/x"]}
    assert json.loads((job.folder / "job.json").read_text()) == {"kind": "predict"}
    assert job.result() is None


@pytest.mark.parametrize("kind", ["train", "rm", ""])
def test_an_unknown_kind_of_job_is_refused(store: RunStore, kind: str) -> None:
    with pytest.raises(StoreError, match="short job"):
        store.submit_job(kind, {})


def test_only_what_has_ended_is_deleted_or_archived(store: RunStore, run: Run) -> None:
    for ask in (store.delete, store.archive):
        with pytest.raises(StoreError, match="stop it first"):
            ask(run.id)
    run.marker.unlink()
    put(run, Started(), Finished("done"))
    store.archive(run.id)
    assert store.runs() == [] and [r.id for r in store.runs(archived=True)] == [run.id]
    store.archive(run.id, archived=False)
    store.delete(run.id)
    assert store.runs(archived=True) == []
    with pytest.raises(StoreError, match="no run"):
        store.run(run.id)


def test_a_full_disk_refuses_a_new_run_in_words_and_leaves_nothing(
    store: RunStore, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="The disk is full"):
        store.create(Experiment())
    monkeypatch.undo()
    assert os.listdir(store.home / "runs") == [run.id]


def test_the_sweep_takes_old_short_jobs_and_leftovers_and_nothing_else(store: RunStore, run: Run) -> None:
    old, waiting, fresh = (store.submit_job("predict", {}) for _ in range(3))
    for job in (old, fresh):
        job.marker.unlink()
        put(job, Started(), Finished("done"))
    long_ago = time.time() - 200_000
    leftover = store.home / "runs" / ".new-x"
    leftover.mkdir()
    cut_short, at_work = (run.folder / f".result.json.1.{end}.tmp" for end in "ab")
    for path in (cut_short, at_work):
        path.write_text("{")
    for path in (old.folder, waiting.folder, leftover, run.folder, cut_short):
        os.utime(path, (long_ago, long_ago))
    assert store.sweep() == 3
    assert {job.id for job in store.jobs()} == {waiting.id, fresh.id}
    assert not leftover.exists() and run.folder.exists()
    assert at_work.exists() and not cut_short.exists()


def test_a_file_is_never_seen_half_written(home: Path) -> None:
    path = home / "f.json"
    texts = [json.dumps({"n": n, "pad": "x" * 20_000}) for n in range(2)]
    runs.write_atomic(path, texts[0])
    done = threading.Event()
    seen: list[str] = []

    def read() -> None:
        while not done.is_set():
            seen.append(path.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    for n in range(60):
        runs.write_atomic(path, texts[n % 2])
    done.set()
    reader.join()
    assert set(seen) <= set(texts)
    assert os.listdir(home) == ["f.json"]


# ---- decimation -----------------------------------------------------------------------------------------------------


def test_decimation_keeps_every_peak_and_the_ends() -> None:
    steps = list(range(100_000))
    values = [math.sin(s / 900) for s in steps]
    values[54_321], values[77_777] = 50.0, -50.0
    few_steps, few = decimate(steps, values, 500)
    assert len(few) <= 500 and len(few_steps) == len(few)
    assert max(few) == 50.0 and min(few) == -50.0
    assert few_steps == sorted(set(few_steps)) and few_steps[0] == 0 and few_steps[-1] == 99_999


def test_a_short_curve_is_left_alone_and_a_broken_stretch_stays_visible() -> None:
    assert decimate([1, 2], [3.0, 4.0], 10) == ([1, 2], [3.0, 4.0])
    values = [1.0] * 400 + [math.nan] * 200 + [1.0] * 400
    _, few = decimate(list(range(1000)), values, 50)
    assert any(math.isnan(v) for v in few)


def test_the_store_is_imported_without_torch_and_at_once() -> None:
    words = "import sys, builder.runs, builder.execute; assert not {'torch', 'numpy', 'pydantic'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", words], check=True, cwd=Path(__file__).parents[1])


def test_seconds_of_work_are_a_curve_over_all_attempts_and_rewind_with_the_others() -> None:
    events = [
        Started(attempt=1, device="cpu"),
        Progress(step=1, metrics={"step/loss": 2.0}, clock=10.0),
        Progress(step=2, metrics={"step/loss": 1.0}, clock=20.0),
        Started(attempt=2, device="cpu", clock=0.5),
        Resumed(step=1, epoch=1, clock=1.0),
        Progress(step=2, metrics={"step/loss": 1.0}, clock=4.0),
    ]
    assert fold(events).curves[TIME] == ([1, 2], [10.0, 24.0])
