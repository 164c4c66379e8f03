"""The worker: each kind of work from its payload to its result, and every fault in words that name nobody."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import forks
import numpy as np
import pytest
from PIL import Image

from builder import faults, runs, worker
from builder.board import flat
from builder.runs import Job, RunStore
from builder.spec import Data, Experiment, Node, SpecError, Training
from tests.service import PROJECT

CANARY = "DOE_JANE_1960"
NETWORK = (
    Node(id="conv", name="conv2d", params={"out_channels": 4}),
    Node(id="act", name="relu"),
    Node(id="flat", name="flatten"),
    Node(id="head", name="linear", params={"out_features": 2}),
)


def work_on(*jobs: Job) -> None:
    """One worker process of its own that does these jobs one after the other."""
    script = "import sys; from pathlib import Path; from builder import worker\n"
    script += "for folder in sys.argv[1:]: worker.run(Path(folder))"
    command = [sys.executable, "-c", script, *(str(job.folder) for job in jobs)]
    done = forks.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr


class Worked:
    """One of everything, worked on once for this whole file."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.store = RunStore(home)
        ticket = home / "uploads" / "0a1b"
        for label in ("left", "right"):
            (ticket / label).mkdir(parents=True)
            for n in range(20):
                grey = np.random.default_rng(n).normal(90, 25, (16, 16))
                grey[4:12, 2 + 8 * (label == "right") :][:, :4] += 60
                Image.fromarray(grey.clip(0, 255).astype(np.uint8)).save(ticket / label / f"{CANARY}_{n}.png")
        self.ticket = ticket
        self.scan = home / "scan.png"
        shutil.copytree(ticket / "left", home / "several")
        self.brought = tuple((home / "several").iterdir())
        shutil.copy(ticket / "left" / f"{CANARY}_0.png", self.scan)
        source = {"kind": "classes", "root": str(ticket)}
        self.imported = self.submit("import", source=source, name="spots", into=None, split=None, seed=0)
        self.nothing = self.submit("import", source={"kind": "classes", "root": f"/{CANARY}/x"}, name="n")
        work_on(self.imported, self.nothing)
        told = self.imported.result()
        assert told is not None, self.imported.view().reason
        self.dataset = told["dataset"]
        self.experiment = Experiment(
            name="spots",
            data=Data(dataset=self.dataset, size_px=16),
            network=NETWORK,
            training=Training(epochs=2, batch_size=8),
        )
        self.run = self.store.create(self.experiment)
        self.orphan = self.store.create(self.experiment.replace("data.dataset", "nowhere"))
        asked: dict[str, Any] = {"run": self.run.id}
        self.by_file = self.submit("predict", **asked, files=[str(self.scan)], occlude=[[0, 0, 0.5, 0.5]])
        self.by_case = self.submit("predict", **asked, dataset=self.dataset, case=3)
        self.text = home / f"{CANARY}.png"
        self.text.write_text("no picture")
        self.several = [*(str(home / "several" / f"{CANARY}_{n}.png") for n in range(2)), str(self.text)]
        self.many = self.submit("predict-many", **asked, files=self.several)
        self.one_of_many = self.submit("predict", **asked, files=self.several, member=1)
        self.unreadable = self.submit("predict", **asked, files=[str(self.text)])
        self.unknown = self.submit("predict", run="00-00", files=[str(self.scan)])
        self.evaluated = self.submit("evaluate", **asked, split="val")
        self.exported = self.submit("export", **asked, to="pytorch")
        self.elsewhere = self.submit("export", **asked, to="fax")
        augment = [{"name": "rotate", "params": {"degrees": 20}}]
        self.augmented = self.submit("augment", dataset=self.dataset, data={"size_px": 32}, augment=augment, num=3)
        document = json.loads(self.experiment.dumps())
        self.looked = self.submit("look", experiment=document, dataset=self.dataset, case=3, run=self.run.id)
        jobs = (self.by_file, self.by_case, self.unreadable, self.unknown, self.evaluated, self.exported)
        work_on(self.run, self.orphan, *jobs, self.elsewhere, self.augmented, self.looked, self.many, self.one_of_many)

    def submit(self, kind: str, **payload: Any) -> Job:
        return self.store.submit_job(kind, payload)

    def result(self, job: Job) -> dict[str, Any]:
        found = job.result()
        assert found is not None, job.view().reason
        assert job.view().status == "done"
        return found


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory) -> Worked:
    return Worked(tmp_path_factory.mktemp("home"))


def test_every_kind_of_job_has_somebody_who_does_it() -> None:
    assert set(worker.KINDS) == set(runs.KINDS)


def test_an_import_answers_with_counts_and_leaves_neither_upload_nor_payload(worked: Worked) -> None:
    told = worked.result(worked.imported)
    assert (told["accepted"], told["refused"], told["patients"]) == (40, 0, 40)
    assert not worked.ticket.exists()
    assert not (worked.imported.folder / "payload.json").exists()


def test_a_source_that_is_not_there_is_refused_in_words_without_its_name(worked: Worked) -> None:
    view = worked.nothing.view()
    assert view.status == "failed" and view.reason and "fault of ScanLoom" not in view.reason
    assert CANARY not in view.reason


def test_a_run_trains_and_its_record_is_complete(worked: Worked) -> None:
    view = worked.run.view()
    assert view.status == "done" and view.epoch == 2 and view.device
    assert view.best is not None and view.best["metric"] == "val/auc" and view.best["value"] is not None
    assert (worked.run.folder / "best.safetensors").exists() and list((worked.run.folder / "tb").iterdir())


def test_a_run_whose_dataset_is_gone_says_so(worked: Worked) -> None:
    view = worked.orphan.view()
    assert view.status == "failed" and "dataset" in view.reason and "fault of ScanLoom" not in view.reason


def test_a_scan_is_answered_with_a_finding_and_pictures(worked: Worked) -> None:
    told = worked.result(worked.by_file)
    assert set(told["finding"]["probabilities"]) == {"left", "right"}
    assert sum(told["finding"]["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert len(told["finding"]["covered"]) == 1
    assert told["size"] == [16, 16]
    seen = np.asarray(Image.open(worked.by_file.folder / told["image"]))
    assert (seen == np.asarray(Image.open(worked.scan))).all(), "an 8-bit picture of the wanted size comes out as it is"
    if told["heatmap"] is not None:
        assert Image.open(worked.by_file.folder / told["heatmap"]).size == (16, 16)


def test_a_case_of_a_dataset_is_answered_too(worked: Worked) -> None:
    assert worked.result(worked.by_case)["finding"]["top"] in ("left", "right")


def test_many_scans_are_answered_one_by_one_and_the_bad_one_says_why(worked: Worked) -> None:
    told = worked.result(worked.many)
    assert told["refused"] == 1 and [row["number"] for row in told["scans"]] == [0, 1, 2]
    good, _, bad = told["scans"]
    assert good["finding"]["top"] in ("left", "right") and "text file" in bad["error"]
    assert Image.open(worked.many.folder / good["picture"]).mode == "RGB"
    one = worked.result(worked.one_of_many)
    assert one["finding"]["probabilities"] == told["scans"][1]["finding"]["probabilities"]
    assert one["outputs"][0] == "scan" and (worked.one_of_many.folder / "scan.npy").is_file()


@pytest.mark.parametrize("name", ["unreadable", "unknown", "elsewhere"])
def test_what_cannot_be_done_is_refused_in_words(worked: Worked, name: str) -> None:
    job: Job = getattr(worked, name)
    view = job.view()
    assert view.status == "failed" and view.reason.endswith(".")
    assert "fault of ScanLoom" not in view.reason and CANARY not in view.reason
    assert job.result() is None


def test_an_evaluation_an_export_and_a_preview_answer(worked: Worked) -> None:
    assert {"value", "low", "high"} <= set(worked.result(worked.evaluated)["metrics"]["auc"])
    assert (worked.exported.folder / worked.result(worked.exported)["file"]).suffix == ".zip"
    told = worked.result(worked.augmented)
    pictures = [np.asarray(Image.open(worked.augmented.folder / name)) for name in (told["before"], *told["after"])]
    assert [p.shape for p in pictures] == [(32, 32)] * 4
    assert not (pictures[1] == pictures[2]).all()


def test_a_look_answers_with_every_layer_and_its_arrays(worked: Worked) -> None:
    told = worked.result(worked.looked)
    assert told["order"] == ["conv", "act", "flat", "head"] and worked.run.id in told["weights"]
    maps = np.load(worked.looked.folder / told["layers"]["conv"]["maps"], allow_pickle=False)
    assert maps.shape == (4, 16, 16)


def test_no_name_is_left_in_any_log_event_or_result(worked: Worked) -> None:
    brought = (worked.text, *worked.brought)
    files = [path for path in worked.home.rglob("*") if path.is_file() and path not in brought]
    left = [path for path in files if CANARY in path.name or CANARY.encode() in path.read_bytes()]
    assert left == []


def test_a_worker_started_twice_by_hand_works_once(worked: Worked) -> None:
    claim = runs.Claim.of(os.getpid())  # we are alive and it is ours
    job = worked.submit("evaluate", run=worked.run.id)
    claim.write(job.folder / "claim.json")
    with forks.unused():
        done = subprocess.run(
            [sys.executable, "-m", "builder.worker", str(job.folder)], cwd=PROJECT, capture_output=True, text=True
        )
    assert done.returncode == 2 and "already" in done.stderr
    assert not (job.folder / "events.jsonl").exists()


@pytest.mark.parametrize("arguments", [[], ["/nowhere"], ["a", "b"]])
def test_a_worker_without_a_job_says_so(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert worker.main(arguments) == 2
    assert "usage" in capsys.readouterr().err or arguments == ["/nowhere"]


# ---- faults in words ------------------------------------------------------------------------------------------------


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


class OutOfMemoryError(RuntimeError):
    """Named like torch's own."""


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(28, "No space left on device"), "disk is full"),
        (MemoryError(), "memory of this machine"),
        (OutOfMemoryError("CUDA out of memory"), "graphics card ran out of memory"),
        (SpecError("There is no layer 'x'."), "There is no layer 'x'."),
        (KeyError("x"), "fault of ScanLoom's own (KeyError)"),
        (ValueError("numpy says /home/jane/x"), "fault of ScanLoom's own (ValueError)"),
        (KeyboardInterrupt(), "interrupted"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_each_fault_has_its_sentence(error: BaseException, words: str) -> None:
    said = faults.sentence(raised(error), "train")
    assert words in said and said.endswith(".") and "\n" not in said


def test_a_full_disk_is_known_through_the_error_that_wraps_it() -> None:
    try:
        try:
            raise OSError(28, "No space left on device")
        except OSError as error:
            raise RuntimeError("could not save") from error
    except RuntimeError as wrapped:
        assert faults.sentence(wrapped, "import") == "The disk is full. Free some space and try again."


def test_a_refusal_raised_by_our_own_code_is_shown_as_it_is() -> None:
    try:
        runs.checked_id("../x")
    except ValueError as error:
        assert faults.sentence(error, "predict") == str(error)


@pytest.mark.parametrize("private", [True, False])
def test_the_log_tells_where_and_keeps_words_that_may_name_somebody_to_itself(
    private: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    faults.note_fault(raised(RuntimeError(f"/data/{CANARY} in HOME/x")), private, Path("/data"))
    said = capsys.readouterr().err
    assert "test_worker.py" in said and "RuntimeError" in said
    assert (CANARY in said) is not private and "/data/" not in said


@pytest.fixture
def quiet() -> Iterator[None]:
    kept = {name: logging.getLogger(name) for name in ("pydicom", "nibabel", "PIL", "pylibjpeg")}
    before = {name: (logger.handlers[:], logger.propagate) for name, logger in kept.items()}
    with warnings.catch_warnings():
        yield
    for name, logger in kept.items():
        logger.handlers[:], logger.propagate = before[name]


def test_warnings_of_libraries_lose_their_words(quiet: None, capsys: pytest.CaptureFixture[str]) -> None:
    faults.quieten(private=True)
    warnings.simplefilter("always")
    warnings.warn(f"Invalid value for VR DA: '{CANARY}'", stacklevel=1)
    logging.getLogger("pydicom").warning("value %s", CANARY)
    said = capsys.readouterr().err
    assert "UserWarning" in said and CANARY not in said


# ---- the board ------------------------------------------------------------------------------------------------------


def test_settings_are_told_under_their_paths() -> None:
    told = flat(json.loads(Experiment(name="x", network=NETWORK).dumps())["training"], "training")
    assert told["training.optimizer.name"] == "adamw" and told["training.epochs"] == Training().epochs


def test_the_graph_is_drawn_after_the_first_epoch_and_no_fault_of_it_ends_the_run(
    worked: Worked, monkeypatch: pytest.MonkeyPatch
) -> None:
    from builder import graph

    first = worked.run
    again = worked.store.create(first.experiment.replace("training.epochs", 2), queue=False)
    asked: list[int] = []

    def failing(*_: Any) -> None:
        asked.append(sum(isinstance(e, runs.EpochEnded) for e in told))
        raise KeyError("an operator nobody foresaw")

    monkeypatch.setattr(graph, "trace", failing)
    told: list[runs.Event] = []
    with runs.Record(again.folder / "events.jsonl") as record:
        for event in worker.train(worker.Work(again, 1, record)):
            told.append(event)
    assert asked == [1], "once, when the first epoch had ended"
    assert [e.message for e in told if isinstance(e, runs.Warned) and "TensorBoard" in e.message]
    assert isinstance(told[-1], runs.Finished) and told[-1].status == "done"
