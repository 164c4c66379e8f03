"""Checkpoints survive kills, full disks and bit rot, and nothing in one can run code or fill the memory."""

import errno
import hashlib
import io
import json
import os
import random
import resource
import signal
import time
import zipfile
from pathlib import Path

import pytest
import torch

from builder import checkpoint
from builder.checkpoint import CheckpointError, load_latest, load_weights, pour, save, save_weights


def state_of(number: int, size: int = 1000) -> dict:
    generator = torch.Generator().manual_seed(number)
    return {
        "step": number,
        "model": {"weight": torch.randn(size, generator=generator), "scale": torch.tensor(1.5)},
        "optimizer": {"state": {0: {"exp_avg": torch.randn(10, generator=generator)}}, "groups": [{"lr": 1e-3}]},
        "python": (3, (1, 2, 3), None),
        "done": False,
    }


def same(a: dict, b: dict) -> bool:
    return a["step"] == b["step"] and torch.equal(a["model"]["weight"], b["model"]["weight"])


def disguise(path: Path, write) -> None:
    """Put foreign content into `path` under a manifest that fits it, as an attacker would."""
    write(path)
    content = path.read_bytes()
    manifest = {"version": 1, "file": path.name, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    path.with_suffix(".json").write_text(json.dumps(manifest))


# ---- the protocol ----


def test_what_was_saved_comes_back(tmp_path):
    saved = state_of(7)
    file = save(tmp_path, "last", saved)
    found = load_latest(tmp_path, "last")
    assert found is not None and found.file == file and found.warnings == ()
    assert same(found.state, saved)
    assert found.state["python"] == (3, (1, 2, 3), None) and found.state["done"] is False
    assert found.state["optimizer"]["groups"] == [{"lr": 1e-3}]


def test_nothing_saved_is_none_not_an_error(tmp_path):
    assert load_latest(tmp_path, "last") is None
    assert load_latest(tmp_path / "nowhere", "last") is None


def test_three_are_kept_and_stray_temporary_files_are_swept(tmp_path):
    stray = tmp_path / ".last-00000009.pt.tmp-4711"
    stray.write_bytes(b"half")
    for number in range(6):
        save(tmp_path, "last", state_of(number))
    assert sorted(f.name for f in tmp_path.iterdir()) == [
        f"last-{n:08d}.{suffix}" for n in (4, 5, 6) for suffix in ("json", "pt")
    ]


def test_a_checkpoint_without_a_manifest_was_never_finished(tmp_path):
    save(tmp_path, "last", state_of(1))
    save(tmp_path, "last", state_of(2)).with_suffix(".json").unlink()
    found = load_latest(tmp_path, "last")
    assert found is not None and found.state["step"] == 1 and found.warnings == ()


def test_a_crash_at_any_system_call_leaves_the_last_good_one(tmp_path, monkeypatch):
    """At every fsync and rename of a save the power may fail: after each prefix a good one must be found."""

    class PowerFails(BaseException):
        pass

    calls = 0
    for fails_at in range(1, 20):
        folder = tmp_path / str(fails_at)
        save(folder, "last", state_of(1))
        calls = 0

        def failing(real, fails_at=fails_at):
            def call(*args):
                nonlocal calls
                calls += 1
                if calls == fails_at:
                    raise PowerFails
                return real(*args)

            return call

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", failing(os.fsync))
            patched.setattr(os, "replace", failing(os.replace))
            try:
                save(folder, "last", state_of(2))
                finished = True
            except PowerFails:
                finished = False
        found = load_latest(folder, "last")
        assert found is not None and found.warnings == ()
        assert same(found.state, state_of(found.state["step"]))
        if finished:
            assert found.state["step"] == 2 and fails_at > 6  # two files, each: fsync, rename, fsync of the folder
            return
    pytest.fail("a save should end within twenty system calls")


def save_for_ever(folder: Path, number: int, acknowledge: int) -> None:
    torch.set_num_threads(1)
    while True:
        number += 1
        weight = torch.full((400_000,), float(number))
        save(folder, "last", {"step": number, "weight": weight})
        save_weights(folder / "best.safetensors", {"weight": weight}, {"step": str(number)})
        os.write(acknowledge, number.to_bytes(8, "big"))


def test_twenty_kills_in_the_middle_of_saving_leave_no_unreadable_checkpoint(tmp_path):
    chance = random.Random(5)
    number, torn = 0, 0
    for _ in range(20):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                save_for_ever(tmp_path, number, writer)
            finally:
                os._exit(1)
        os.close(writer)
        try:
            answers = os.read(reader, 8)  # it has saved once: now kill it somewhere in the next saves
            time.sleep(chance.uniform(0, 0.06))
        finally:
            os.kill(child, signal.SIGKILL)
            assert os.waitpid(child, 0)[1] == signal.SIGKILL, "the writer failed by itself"
        while more := os.read(reader, 4096):
            answers += more
        os.close(reader)
        acknowledged = int.from_bytes(answers[-8:], "big")
        torn += bool(list(tmp_path.glob(".*")))
        found = load_latest(tmp_path, "last")
        assert found is not None and found.warnings == ()
        number = found.state["step"]
        assert number >= acknowledged, "an acknowledged checkpoint was lost"
        assert bool((found.state["weight"] == number).all())
        best = load_weights(tmp_path / "best.safetensors")
        assert int(best.metadata["step"]) >= acknowledged
        assert bool((best.tensors["weight"] == int(best.metadata["step"])).all())
    assert torn, "no kill fell into a write: the test proves nothing"
    save(tmp_path, "last", {"step": number + 1})
    save_weights(tmp_path / "best.safetensors", {}, {})
    assert not list(tmp_path.glob(".*")), "temporary files of killed writers are swept"


# ---- damage ----


def test_a_hundred_bit_flips_are_all_detected_and_the_checkpoint_before_is_used(tmp_path):
    save(tmp_path, "last", state_of(1))
    newest = save(tmp_path, "last", state_of(2))
    chance = random.Random(1)
    for file in (newest, newest.with_suffix(".json")):
        whole = file.read_bytes()
        for _ in range(100 if file == newest else 30):
            damaged = bytearray(whole)
            damaged[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
            file.write_bytes(damaged)
            found = load_latest(tmp_path, "last")
            assert found is not None
            if found.state["step"] == 2:  # a flip in the manifest's own words (not size or hash) may do no harm
                assert file.suffix == ".json" and same(found.state, state_of(2))
            else:
                assert same(found.state, state_of(1)) and len(found.warnings) == 1
                assert "damaged" in found.warnings[0] and "before it is used" in found.warnings[0]
        file.write_bytes(whole)


def test_twenty_truncations_are_all_detected(tmp_path):
    save(tmp_path, "last", state_of(1))
    newest = save(tmp_path, "last", state_of(2))
    whole = newest.read_bytes()
    for k in range(20):
        newest.write_bytes(whole[: len(whole) * k // 20])
        found = load_latest(tmp_path, "last")
        assert found is not None and found.state["step"] == 1 and "damaged" in found.warnings[0]


def test_when_none_is_good_the_reason_is_said_and_nothing_starts_afresh(tmp_path):
    for number in (1, 2):
        file = save(tmp_path, "last", state_of(number))
        file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"damaged.*1 older"):
        load_latest(tmp_path, "last")


def test_flips_and_truncations_of_weights_are_all_detected(tmp_path):
    path = save_weights(tmp_path / "best.safetensors", {"a": torch.randn(50, 3), "b": torch.ones(2)}, {"epoch": "3"})
    whole = path.read_bytes()
    chance = random.Random(2)
    for _ in range(100):
        damaged = bytearray(whole)
        damaged[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            load_weights(path)
    for k in range(20):
        path.write_bytes(whole[: len(whole) * k // 20])
        with pytest.raises(CheckpointError):
            load_weights(path)
    path.write_bytes(whole)
    assert load_weights(path).metadata["epoch"] == "3"


# ---- a full disk ----


def test_a_full_disk_keeps_what_was_saved_and_is_said_in_plain_words(tmp_path):
    """A file size limit stands for the full disk: the write of the big checkpoint fails in its middle."""
    save(tmp_path, "last", state_of(1))
    save_weights(tmp_path / "best.safetensors", state_of(1)["model"], {"epoch": "1"})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for _ in range(10):
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        try:
            with pytest.raises(CheckpointError, match=r"disk is full.*is intact.*resume"):
                save(tmp_path, "last", state_of(2, size=200_000))
            with pytest.raises(CheckpointError, match="disk is full"):
                save_weights(tmp_path / "best.safetensors", state_of(2, size=200_000)["model"], {"epoch": "2"})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        found = load_latest(tmp_path, "last")
        assert found is not None and same(found.state, state_of(1)) and found.warnings == ()
        assert load_weights(tmp_path / "best.safetensors").metadata["epoch"] == "1"
        assert not list(tmp_path.glob(".*")), "the half-written file gives its room back"


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_no_room_at_the_flush_or_the_rename_is_the_same_sentence(tmp_path, monkeypatch, call):
    save(tmp_path, "last", state_of(1))

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, call, full)
        with pytest.raises(CheckpointError, match="disk is full"):
            save(tmp_path, "last", state_of(2))
    found = load_latest(tmp_path, "last")
    assert found is not None and found.state["step"] == 1
    assert save(tmp_path, "last", state_of(3)).exists()


# ---- content that must not be opened ----


class Evil:
    def __reduce__(self):
        return (os.mkdir, (os.environ["CANARY"],))


def write_evil_zip(path: Path) -> None:
    torch.save({"format": "scanloom-checkpoint", "version": 1, "state": {"x": Evil()}}, path)


def write_evil_pickle(path: Path) -> None:
    torch.save({"x": Evil()}, path, _use_new_zipfile_serialization=False)


def write_deflated(path: Path) -> None:
    plain = io.BytesIO()
    torch.save({"format": "scanloom-checkpoint", "version": 1, "state": {"x": torch.zeros(1_000_000)}}, plain)
    with zipfile.ZipFile(plain) as stored, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as deflated:
        for entry in stored.infolist():
            deflated.writestr(entry.filename, stored.read(entry))


def write_expanded(path: Path) -> None:
    bomb = torch.ones(1).expand(10**6, 10**6)
    torch.save({"format": "scanloom-checkpoint", "version": 1, "state": {"model": {"w": [bomb]}}}, path)


def write_meta(path: Path) -> None:
    bomb = torch.empty(10**6, 10**6, device="meta")
    torch.save({"format": "scanloom-checkpoint", "version": 1, "state": {"w": bomb}}, path)


def write_other_version(path: Path) -> None:
    torch.save({"format": "scanloom-checkpoint", "version": 99, "state": {}}, path)


def write_foreign(path: Path) -> None:
    torch.save({"weight": torch.ones(3)}, path)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (write_evil_zip, "could run code"),
        (write_evil_pickle, "could run code"),
        (write_deflated, "compressed"),
        (write_expanded, r"claims more numbers in state\.model\.w\.0"),
        (write_meta, "claims more numbers"),
        (write_other_version, "version 99 .* reads version 1"),
        (write_foreign, "not a checkpoint of ScanLoom"),
        (lambda path: path.write_bytes(b""), "no checkpoint"),
        (lambda path: path.write_bytes(os.urandom(3000)), "no checkpoint"),
    ],
    ids=["evil zip", "evil pickle", "deflated", "expanded", "meta", "version", "foreign", "empty", "noise"],
)
def test_each_hostile_checkpoint_is_refused_with_one_sentence(tmp_path, monkeypatch, write, words):
    canary = tmp_path / "canary"
    monkeypatch.setenv("CANARY", str(canary))
    good = save(tmp_path, "last", state_of(1))
    path = good.with_name("last-00000002.pt")
    disguise(path, write)
    with pytest.raises(CheckpointError, match=words) as caught:
        checkpoint.load(path)
    said = str(caught.value)
    assert said.endswith(".") and "\n" not in said and ". " not in said and str(tmp_path) not in said
    found = load_latest(tmp_path, "last")
    assert found is not None and found.state["step"] == 1 and words.split()[0][:5] in found.warnings[0]
    assert not canary.exists()


def test_the_canary_would_sing_if_the_pickle_were_opened(tmp_path, monkeypatch):
    """The control: the same file, opened without our guard, does run code."""
    canary = tmp_path / "canary"
    monkeypatch.setenv("CANARY", str(canary))
    write_evil_zip(tmp_path / "evil.pt")
    torch.load(tmp_path / "evil.pt", weights_only=False)
    assert canary.exists()


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path: write_evil_zip(path), "not a safetensors file"),
        (lambda path: path.write_bytes(b""), "not a safetensors file"),
        (lambda path: None, "no saved weights"),
    ],
)
def test_foreign_weights_are_refused(tmp_path, monkeypatch, write, words):
    monkeypatch.setenv("CANARY", str(tmp_path / "canary"))
    write(tmp_path / "best.safetensors")
    with pytest.raises(CheckpointError, match=words):
        load_weights(tmp_path / "best.safetensors")
    assert not (tmp_path / "canary").exists()


def test_weights_of_another_version_or_another_program_are_refused(tmp_path, monkeypatch):
    from safetensors.torch import save_file

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "VERSION", 2)
        save_weights(tmp_path / "new.safetensors", {"a": torch.ones(1)}, {})
    with pytest.raises(CheckpointError, match="version 2 .* reads version 1"):
        load_weights(tmp_path / "new.safetensors")
    save_file({"a": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="not written by ScanLoom"):
        load_weights(tmp_path / "other.safetensors")


def test_tied_and_strided_and_half_weights_come_back_equal(tmp_path):
    weight = torch.randn(4, 6)
    tensors = {
        "tied": weight,
        "again": weight,
        "turned": weight.T,
        "half": weight.bfloat16(),
        "count": torch.tensor(3),
        "none": torch.empty(0, 2),
    }
    found = load_weights(save_weights(tmp_path / "w.safetensors", tensors, {"experiment": "abc"}))
    assert found.metadata["experiment"] == "abc"
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in tensors.items())


def test_weights_of_another_network_are_refused_and_change_nothing():
    model = torch.nn.Linear(3, 2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"another network: weight is 5 x 3 there and 2 x 3 here \(and 1 more"):
        pour(torch.nn.Linear(3, 5).state_dict(), model)
    with pytest.raises(CheckpointError, match="bias is missing there"):
        pour(torch.nn.Linear(3, 2, bias=False).state_dict(), model)
    with pytest.raises(CheckpointError, match="unknown here"):
        pour({**before, "extra": torch.ones(1)}, model)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())
    other = torch.nn.Linear(3, 2)
    pour(before, other)
    assert torch.equal(other.weight, model.weight)
