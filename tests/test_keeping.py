"""Keeping runs in order: deleted and brought back, noted and tagged, moved in the queue, one run on each card."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest
from planted import study_of

from builder import notes, turns, wastebin
from builder.discarding import discard
from builder.runs import Finished, Record, Run, RunStore, Started, StoreError, markers
from builder.search.studies import StudyStore
from builder.spec import Experiment
from tests.service import Service, until
from tests.test_processes import complete, toy


@pytest.fixture
def store(home: Path) -> RunStore:
    return RunStore(home)


def ended(store: RunStore, name: str = "t") -> Run:
    run = store.create(Experiment(name=name), queue=False)
    with Record(run.folder / "events.jsonl") as record:
        record.append(Started())
        record.append(Finished("done"))
    return run


# ---- the bin --------------------------------------------------------------------------------------------------------


def test_a_deleted_run_is_out_of_every_list_and_comes_back_as_it_was(store: RunStore) -> None:
    run = ended(store, "mine")
    before = {path.name: path.read_bytes() for path in run.folder.iterdir()}
    wastebin.discard(store, run.id)
    assert store.runs(archived=True) == [] and [gone.name for gone in wastebin.content(store.home)] == ["mine"]
    with pytest.raises(StoreError, match="no run"):
        store.run(run.id)
    back = wastebin.restore(store, run.id)
    assert {path.name: path.read_bytes() for path in back.iterdir()} == before
    assert wastebin.content(store.home) == []
    with pytest.raises(StoreError, match="is not deleted"):
        wastebin.restore(store, run.id)
    wastebin.discard(store, run.id)
    wastebin.remove(store.home, run.id)
    with pytest.raises(StoreError, match="gone for good"):
        wastebin.restore(store, run.id)


def test_a_run_at_work_is_not_deleted(store: RunStore) -> None:
    run = store.create(Experiment())
    with pytest.raises(StoreError, match="stop it first"):
        wastebin.discard(store, run.id)


def test_after_two_weeks_or_on_a_full_disk_the_oldest_goes_for_good(store: RunStore) -> None:
    old, newer, newest = (ended(store, name) for name in ("old", "newer", "newest"))
    for run, days in ((old, 15), (newer, 3), (newest, 1)):
        wastebin.discard(store, run.id)
        then = time.time() - days * 86400
        os.utime(store.home / "bin" / run.id / "deleted", (then, then))
    assert wastebin.sweep(store.home, short_bytes=0) == 1
    assert [gone.name for gone in wastebin.content(store.home)] == ["newest", "newer"]
    assert wastebin.sweep(store.home, short_bytes=1 << 62) == 2
    assert wastebin.content(store.home) == [] and os.listdir(store.home / "bin") == []


@pytest.mark.parametrize("id", ["../runs", "/etc", "", "."])
def test_the_bin_never_takes_an_id_for_a_path(store: RunStore, id: str) -> None:
    for ask in (wastebin.restore, wastebin.discard, lambda s, i: wastebin.remove(s.home, i)):
        with pytest.raises(StoreError):
            ask(store, id)


def test_a_search_at_work_is_not_deleted_and_one_killed_while_it_is_deleted_is_deleted_by_the_next_press(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of(store.home)
    runs = [ended(store, "trial 0"), store.create(Experiment(name="trial 1")), ended(store, "trial 2")]
    for number, run in enumerate(runs):
        (run.folder / "trial.json").write_text(json.dumps({"study": study.id, "trial": number}))
    with pytest.raises(StoreError, match="still waits"):
        discard(study)
    runs[1].marker.unlink()
    whole, rename = {str(path) for path in store.home.rglob("*")}, os.rename
    left = iter(range(2))

    def killed(source: object, target: object) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        rename(source, target)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        discard(study)
    monkeypatch.undo()
    assert [one.id for one in StudyStore(store.home).studies()] == [study.id] and len(store.runs()) == 1
    discard(study)
    assert StudyStore(store.home).studies() == [] and store.runs(archived=True) == []
    assert [(gone.id, gone.place) for gone in wastebin.content(store.home)] == [(study.id, "studies")]
    assert wastebin.content(store.home, "runs") == []
    wastebin.restore(store, study.id)
    assert {str(path) for path in store.home.rglob("*")} - {str(store.home / "bin")} == whole


# ---- notes and tags -------------------------------------------------------------------------------------------------


def test_notes_and_tags_are_kept_in_a_file_of_their_own_with_who_and_when(store: RunStore) -> None:
    run = ended(store)
    events = (run.folder / "events.jsonl").read_bytes()
    notes.write(run, "note", " looks good\nbut small ", "Dr. A")
    notes.write(run, "tag", "paper")
    notes.write(run, "tag", "paper")
    held = notes.write(run, "tag", "v2")
    assert held.tags == ("paper", "v2") and [n.text for n in held.notes] == ["looks good\nbut small"]
    assert held.notes[0].who == "Dr. A" and abs(held.notes[0].at - time.time()) < 60
    assert notes.write(run, "untag", "paper").tags == ("v2",)
    assert len((run.folder / "notes.jsonl").read_text().splitlines()) == 4, "append-only, and nothing twice"
    with open(run.folder / "notes.jsonl", "ab") as file:
        file.write(b'{"tag": "torn')
    assert notes.read(run) == notes.read(run) and notes.read(run).tags == ("v2",)
    assert (run.folder / "events.jsonl").read_bytes() == events


@pytest.mark.parametrize(("kind", "text"), [("note", " "), ("tag", "a" * 41), ("tag", "a\nb"), ("rm", "x")])
def test_what_is_no_note_or_tag_is_refused(store: RunStore, kind: str, text: str) -> None:
    with pytest.raises(StoreError):
        notes.write(ended(store), kind, text)


# ---- the queue ------------------------------------------------------------------------------------------------------


def test_a_waiting_run_moves_up_and_down_and_no_further_than_the_ends(store: RunStore) -> None:
    a, b, c = (store.create(Experiment()) for _ in range(3))
    store.submit_job("predict", {})

    def order() -> list[str]:
        return [run.id for run in turns.waiting(store.home)]

    assert order() == [a.id, b.id, c.id]
    assert turns.move(store.home, c.id, -1) and order() == [a.id, c.id, b.id]
    assert turns.move(store.home, c.id, -9) and order() == [c.id, a.id, b.id]
    assert turns.move(store.home, c.id, 9) and order() == [a.id, b.id, c.id]
    assert sorted(m.number for m in markers(store.home)) == [1, 2, 3, 4]
    a.marker.unlink()
    assert not turns.move(store.home, a.id, 1) and not a.marker.exists()


def test_the_queue_is_worked_on_in_the_new_order(home: Path) -> None:
    service = Service(home)
    try:
        queued = [service.store.create(toy(epochs=1)) for _ in range(4)]
        service.hold(0)
        service.executor.ensure()
        until(lambda: queued[0].view().status == "running")
        turns.move(home, queued[3].id, -2)
        queued[2].stop()
        until(lambda: queued[2].view().status == "stopped")
        service.release()
        for run in (queued[0], queued[1], queued[3]):
            complete(run, 1)
        began = {run.id: next(iter(run.events())).at for run in queued if run.claim}
        assert sorted(began, key=began.__getitem__) == [queued[0].id, queued[3].id, queued[1].id]
    finally:
        service.close()


def test_with_two_cards_each_run_sees_one_of_its_own_and_keeps_it_over_a_pause(home: Path) -> None:
    """Cards are faked: what counts is what the worker is allowed to see."""
    script = (
        "import json, os, sys; from builder import supervisor, worker; from tests import fake_supervisor as fake\n"
        "def train(work):\n"
        "    (work.folder / 'sees.json').write_text(json.dumps(os.environ.get('CUDA_VISIBLE_DEVICES')))\n"
        "    yield from fake.train(work)\n"
        "fake.run = lambda folder: worker.run(folder, {'train': train, 'predict': fake.predict})\n"
        "sys.exit(supervisor.main(entry='tests.fake_supervisor:run', preload=('tests.fake_supervisor',)))"
    )
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = "GPU-a,GPU-b"
    service = Service(home, (sys.executable, "-c", script))
    try:
        first, second, third = (service.store.create(toy(epochs=1000)) for _ in range(3))
        service.executor.ensure()
        until(lambda: first.view().step > 0 and second.view().step > 0)
        assert [json.loads((run.folder / "sees.json").read_text()) for run in (first, second)] == ["GPU-a", "GPU-b"]
        assert third.view().status == "queued"
        second.pause()
        until(lambda: third.view().step > 0)
        assert json.loads((third.folder / "sees.json").read_text()) == "GPU-b"
        second.resume()
        first.stop()  # a free card that is not its own is of no use to it
        until(lambda: first.view().status == "stopped")
        time.sleep(0.3)
        assert second.view().status == "paused"
        third.stop()
        until(lambda: second.view().status == "running")
    finally:
        service.close()
        if before is None:
            del os.environ["CUDA_VISIBLE_DEVICES"]
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = before
