"""The headless twin: each JSON, words on stderr, exit codes, and the way from scans to an export without a page."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import little_run
import pytest

from builder import commands
from builder.__main__ import main
from builder.data import Dataset
from builder.runs import EpochEnded, Finished, Record, Run, RunStore, Saved, Started
from tasks import phantoms

ROOT = Path(__file__).parents[1]
COMMANDS = (
    "import",
    "starters",
    "starter",
    "weights",
    "plan",
    "check",
    "preflight",
    "train",
    "runs",
    "pause",
    "resume",
    "branch",
    "compare",
    "note",
    "queue",
    "delete",
    "evaluate",
    "shortcuts",
    "errors",
    "predict",
    "second-opinion",
    "export",
    "import-network",
)


@pytest.fixture(scope="module")
def little(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Dataset, Run]:
    home = tmp_path_factory.mktemp("cli") / "home"
    return home, *little_run.little(home)


@pytest.fixture
def at_little(little, monkeypatch) -> tuple[Path, Dataset, Run]:
    """The little run, with SCANLOOM_HOME at its data folder."""
    monkeypatch.setenv("SCANLOOM_HOME", str(little[0]))
    return little


@pytest.fixture
def ask(capsys):
    """Runs a command with --json in this process: (exit code, the one JSON object on stdout, words on stderr)."""

    def run(*words: object) -> tuple[int, Any, str]:
        capsys.readouterr()
        code = main([*map(str, words), "--json"])
        out, err = capsys.readouterr()
        assert out.count("\n") == 1, out
        return code, json.loads(out), err

    return run


@pytest.fixture
def document(tmp_path: Path) -> Path:
    """The smallest experiment as a file."""
    path = tmp_path / "e.json"
    path.write_text(little_run.starter().replace("data.size_px", 32).replace("training.epochs", 1).dumps())
    return path


# -- documents --------------------------------------------------------------------------------------------------------


def test_starters_are_listed_and_each_can_be_printed_and_read_back(ask, capsys, tmp_path):
    code, found, _ = ask("starters")
    assert code == 0 and {"tiny-cnn", "small-cnn"} <= {s["name"] for s in found["starters"]}
    assert main(["starter", "small-cnn"]) == 0
    text = capsys.readouterr().out
    assert little_run.Experiment.loads(text) == little_run.starter("small-cnn")
    assert ask("starter", "small-cnn")[1] == json.loads(text)


def test_an_unknown_starter_is_answered_with_the_nearest_one(ask):
    code, found, words = ask("starter", "smal-cnn")
    assert code == 2 and "Did you mean small-cnn?" in words and found == {"error": words.strip()}


def test_plan_tells_every_shape_and_the_sums(ask, document):
    code, found, _ = ask("plan", document)
    assert code == 0
    nodes = {node["id"]: node for node in found["nodes"]}
    assert nodes["conv2d_1"]["shape"] == [16, 16, 16] and found["input"] == [1, 32, 32]
    assert found["parameters"] == sum(n["parameters"] for n in found["nodes"]) > 0
    assert found["flops"] > 0 and found["output"] == [2]


def test_plan_of_a_network_that_does_not_fit_gives_the_rest_of_the_plan_and_code_2(ask, document):
    code, found, words = ask("plan", document, "--set", "network.conv2d_1.params.kernel_size=99")
    assert code == 2 and "conv2d_1" in words and "99" in words
    assert next(n for n in found["nodes"] if n["id"] == "conv2d_1")["shape"] is None


def test_check_tells_everything_that_is_wrong_at_once(ask, document):
    settings = ("training.epochs=0", "network.conv2d_1.params.kernel_size=99", "training.optimizer.name=adamm")
    code, found, words = ask("check", document, "--set", *settings)
    paths = {p["path"] for p in found["problems"] if p["severity"] == "error"}
    assert code == 2 and {"training.epochs", "network.conv2d_1.params.kernel_size", "training.optimizer.name"} <= paths
    assert all(set(p) == {"path", "message", "severity", "repair"} for p in found["problems"])
    assert "more errors" in words


def test_check_of_a_starter_that_has_no_data_set_yet_is_no_mistake(ask, document):
    code, found, _ = ask("check", document)
    assert code == 0 and [p["path"] for p in found["problems"]] == ["data.dataset"]


def test_check_knows_the_data_set(ask, at_little, document):
    code, found, _ = ask("check", document, "--data", "little")
    assert code == 0 and not [p for p in found["problems"] if p["severity"] == "error"]


def test_set_takes_numbers_words_and_flags_and_refuses_wrong_paths(ask, document):
    settings = ("training.optimizer.params.lr=0.5", "data.fit=crop", "training.balance=weights")
    assert ask("check", document, "--set", *settings)[0] == 0
    for wrong, words in (
        ("training.epoch=3", "epochs"),
        ("training.epochs", "path=value"),
        ("training.epochs=lots", "epochs"),
    ):
        code, _, told = ask("check", document, "--set", wrong)
        assert code == 2 and words in told, wrong


@pytest.mark.parametrize("text", ["{", "[]", '{"network": []}', '{"version": 99, "network": []}', '{"nme": "x"}'])
def test_a_document_that_is_none_is_refused_in_one_sentence(ask, tmp_path, text):
    (tmp_path / "bad.json").write_text(text)
    code, found, words = ask("plan", tmp_path / "bad.json")
    assert code in (0, 2) and "Traceback" not in words
    if text != '{"network": []}':
        assert code == 2 and set(found) == {"error"}


def test_a_document_that_is_not_there_is_refused(ask):
    code, _, words = ask("check", "nowhere.json")
    assert code == 2 and "nowhere.json cannot be read" in words


# -- from scans to an export ------------------------------------------------------------------------------------------


def test_import_tells_the_ledger_with_the_names_that_the_person_knows(ask, tmp_path):
    folder = phantoms.write_cohort(tmp_path / "scans", seed=0, num_images=9)
    (folder / "phantom-0002.png").write_bytes(b"no picture")
    code, found, words = ask("import", folder, "--name", "nine")
    assert code == 0
    counts = ("accepted", "repaired", "refused", "skipped", "cases", "labelled", "patients")
    assert set(found) == {"dataset", *counts, "ledger", "warnings"}
    assert f"{{{', '.join(('dataset', *counts))}, ledger:" in " ".join((commands.import_.__doc__ or "").split())
    assert (found["accepted"], found["refused"]) == (8, 1)
    refused = [line for line in found["ledger"] if line["status"] == "refused"]
    assert [line["file"] for line in refused] == ["phantom-0002.png"] and refused[0]["reason"]
    assert "phantom-0002.png" in words


def test_import_takes_a_table_of_its_own_and_a_pattern_for_patients(ask, tmp_path, home):
    folder = phantoms.write_cohort(tmp_path / "scans", seed=0, num_images=8)
    with open(folder / "labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    (folder / "labels.csv").unlink()
    with open(tmp_path / "mine.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("file", "label"))
        table.writerows((row["file"], row["label"]) for row in rows)
    words = ("--labels", tmp_path / "mine.csv", "--patient-pattern", r"phantom-000(\d)")
    code, found, _ = ask("import", folder, "--name", "table", *words)
    assert code == 0 and found["patients"] == 8
    assert Dataset.open(home, "table").fingerprint.patient_source == "filename"


def test_new_classes_are_named_to_the_person_and_taken_in_when_asked_for(ask, tmp_path, home):
    first = phantoms.write_cohort(tmp_path / "first", seed=0, num_images=6)
    assert ask("import", first, "--name", "first")[0] == 0
    known = Dataset.open(home, "first").classes
    more = phantoms.write_cohort(tmp_path / "more", seed=1, num_images=6)
    (more / "labels.csv").write_text((more / "labels.csv").read_text().replace("no lesion", "scar tissue"))
    code, found, words = ask("import", more, "--name", "", "--into", "first")
    assert code == 2 and found["new_classes"] == ["scar tissue"]
    assert "--new-classes 'scar tissue'" in words
    assert ask("import", more, "--name", "", "--into", "first", "--new-classes", "scar tissue")[0] == 0
    assert Dataset.open(home, "first").classes == (*known, "scar tissue")


def test_an_import_of_nothing_is_refused(ask, tmp_path):
    assert ask("import", tmp_path / "nowhere", "--name", "x")[0] == 2
    (tmp_path / "empty").mkdir()
    assert ask("import", tmp_path / "empty", "--name", "x")[0] == 2
    assert ask("import", tmp_path, "--name", "x", "--task", "recogntion")[0] == 2


@pytest.mark.parametrize("split", ["a,b,c", "0.7,0.3", "", "0.7;0.15;0.15", "1,1,1,1"])
def test_a_split_that_is_not_three_numbers_is_the_mistake_of_who_typed_it(ask, tmp_path, split):
    folder = phantoms.write_cohort(tmp_path / "scans", seed=0, num_images=3)
    code, found, words = ask("import", folder, "--name", "x", "--split", split)
    told = "The split takes three numbers with commas, as in 0.7,0.15,0.15."
    assert code == 2 and found == {"error": told} and words == told + "\n"


@pytest.mark.parametrize(
    "words",
    [
        ("runs",),
        ("import", ROOT / "docs" / "images", "--name", "x"),
        ("train", "DOCUMENT", "--data", "x"),
        ("check", "DOCUMENT", "--data", "x"),
        ("evaluate", "20260101-000000-abcdef"),
        ("predict", "20260101-000000-abcdef", "scan.png"),
        ("export", "20260101-000000-abcdef"),
    ],
)
def test_a_data_folder_that_cannot_be_used_is_refused_by_name(ask, document, monkeypatch, words):
    monkeypatch.setenv("SCANLOOM_HOME", "/proc/nope")
    code, found, told = ask(*(document if word == "DOCUMENT" else word for word in words))
    assert code == 2 and told.count("\n") == 1 and "SCANLOOM_HOME" in told and found == {"error": told.strip()}


def test_commands_that_need_no_data_folder_do_not_ask_for_one(ask, document, monkeypatch):
    monkeypatch.setenv("SCANLOOM_HOME", "/proc/nope")
    for words in (("starters",), ("starter", "tiny-cnn"), ("plan", document), ("check", document)):
        assert ask(*words)[0] == 0, words


def test_looking_at_the_data_folder_leaves_nothing_in_it(ask, home):
    assert ask("runs")[:2] == (0, {"runs": []})
    assert list(home.iterdir()) == []


def test_preflight_tells_memory_the_largest_batch_and_the_time(ask, at_little, document):
    code, found, _ = ask("preflight", document, "--data", "little", "--set", "training.batch_size=8")
    assert code == 0 and found["batch_size"] == 8 and found["peak_measured"]
    assert found["largest_batch"] >= 2 and found["peak_bytes"] > found["lasting_bytes"] > 0
    assert found["training_s"] == pytest.approx(found["epochs"] * found["epoch_s"])
    code, found, words = ask("preflight", document)
    assert code == 2 and "No data set is chosen" in found["error"] + words


def test_plan_tells_what_each_layer_sees(ask, document):
    _, found, _ = ask("plan", document)
    assert found["nodes"][0]["receptive_field"] == [5, 5] and found["nodes"][-1]["receptive_field"] == [32, 32]


def test_runs_lists_what_there_is(ask, at_little, home):
    code, found, _ = ask("runs")
    assert code == 0 and [r["run"] for r in found["runs"]] == [at_little[2].id]
    assert set(found["runs"][0]) == {"run", "name", "status", "epoch", "epochs", "best", "reason"}


def test_runs_whose_best_figure_is_undefined_are_listed_too(ask, capsys, home):
    run = RunStore(home).create(little_run.starter(), queue=False)
    with Record(run.folder / "events.jsonl") as record:  # all validation scans are of one class: there is no AUC
        for event in (Started(), EpochEnded(1, 2, {"val/loss": 0.5}), Saved(2, 1, True), Finished("done")):
            record.append(event)
    code, found, _ = ask("runs")
    assert code == 0 and found["runs"][0]["best"]["value"] is None
    assert main(["runs"]) == 0 and "undefined" in capsys.readouterr().out


def test_shortcuts_answers_in_the_documented_shape(ask, at_little):
    code, found, _ = ask("shortcuts", at_little[2].id)
    assert code == 0 and set(found) == {
        "run",
        "n",
        "patients",
        "with_lesions",
        "with_text",
        "probes",
        "verdicts",
        "checkpoint",
    }
    assert {"whole", "border", "coarse", "without_middle"} == set(found["probes"]) and found["verdicts"]
    assert set(found["probes"]["whole"]) == {"auc", "accuracy", "n"}


def test_errors_of_few_scans_are_not_grouped(ask, at_little):
    code, found, words = ask("errors", at_little[2].id)
    assert code == 2 and "too few" in words and found == {"error": words.strip()}


def test_evaluate_answers_in_the_documented_shape(ask, at_little):
    code, found, _ = ask("evaluate", at_little[2].id, "--split", "val")
    assert code == 0 and (found["run"], found["split"]) == (at_little[2].id, "val")
    assert found["n"] == len(at_little[1].indices("val")) and found["patients"] > 0
    for name in ("auc", "accuracy", "balanced_accuracy", "f1"):
        assert set(found["metrics"][name]) == {"value", "low", "high"}


def test_predict_answers_each_scan_and_names_the_ones_it_refuses(ask, at_little, tmp_path):
    folder = phantoms.write_cohort(tmp_path / "scans", seed=7, num_images=2)
    one, bad = folder / "phantom-0001.png", tmp_path / "bad.png"
    bad.write_text("no picture")
    code, found, _ = ask("predict", at_little[2].id, one, folder / "phantom-0002.png")
    assert code == 0 and [f["scan"] for f in found["findings"]] == [str(one), str(folder / "phantom-0002.png")]
    assert set(found["findings"][0]["probabilities"]) == set(phantoms.CLASSES)
    code, found, words = ask("predict", at_little[2].id, one, bad)
    assert code == 2 and "error" in found["findings"][1] and "top" in found["findings"][0] and "bad.png" in words


def test_a_misspelt_scan_loses_none_of_the_other_answers(ask, at_little, tmp_path):
    folder = phantoms.write_cohort(tmp_path / "scans", seed=7, num_images=2)
    scans = [folder / "phantom-0001.png", tmp_path / "nowhere.png", folder / "phantom-0002.png"]
    code, found, words = ask("predict", at_little[2].id, *scans)
    assert code == 2 and set(found) == {"run", "findings"} and "nowhere.png" in words
    assert [f["scan"] for f in found["findings"]] == list(map(str, scans))
    assert ["top" in f for f in found["findings"]] == [True, False, True]
    assert set(found["findings"][1]) == {"scan", "error"}


def test_what_is_written_of_a_scan_is_called_after_its_whole_name(tmp_path):
    stems = {
        name: commands._stem(str(tmp_path / name)) for name in ("1.2.840.7.dcm", "1.2.840.9", "a.b.NII.GZ", ".png")
    }
    assert stems == {"1.2.840.7.dcm": "1.2.840.7", "1.2.840.9": "1.2.840.9", "a.b.NII.GZ": "a.b", ".png": "scan"}
    assert commands._stem(f"{tmp_path}/series/..") == tmp_path.name, "never a place above the folder"
    (tmp_path / "1.2.840.7").mkdir()
    assert commands._beside(tmp_path, "1.2.840.7") == tmp_path / "1.2.840.7-2"


def test_a_folder_that_cannot_be_written_is_the_mistake_of_who_typed_it(ask, at_little, tmp_path, document):
    home, dataset, run = at_little
    taken = tmp_path / "taken"
    taken.write_text("a file")
    assert ask("evaluate", run.id)[0] == 0
    scan = next((home.parent / f"{home.name}-phantoms").glob("*.png"))
    for words in (("predict", run.id, scan), ("evidence", run.id), ("export", run.id, "--to", "document")):
        code, found, _ = ask(*words, "--out", taken / "inside")
        assert code == 2 and "cannot be written" in found["error"], words
    network = tmp_path / "foreign.json"
    with pytest.raises(commands.Mistake, match="cannot be written"), commands.writing(network):
        raise NotADirectoryError(20, "Not a directory")
    code, found, words = ask("predict", run.id, scan, "--out", tmp_path / "out")
    assert code == 0 and "files" not in found["findings"][0] and "nothing is written" in words


def test_options_that_contradict_each_other_or_would_do_nothing_are_refused(ask, at_little):
    run = at_little[2].id
    for words, why in (
        (("queue", "--cancel"), "Name the run"),
        (("queue", run, "--up", "--down"), "not allowed with"),
        (("terms", run, "--answer", "0.8", "--mistakes", "0.1"), "not allowed with"),
        (("cluster", "head", "10.0.0.1:6379"), "joins no head"),
    ):
        code, found, _ = ask(*words)
        assert code == 2 and why in found["error"], words


def test_names_that_are_no_text_and_readers_that_go_away_break_no_answer(at_little, tmp_path):
    name = "patient\udce9.png"  # as a disk has it that was written in another alphabet
    (tmp_path / name).write_bytes(b"")
    with cli("predict", at_little[2].id, tmp_path / name, "--json", home=at_little[0]) as asked:
        out, err = asked.communicate(timeout=120)
    assert asked.returncode == 2 and json.loads(out)["findings"][0]["scan"].endswith(name), err
    with cli("starters", "--json", home=at_little[0]) as asked:
        assert asked.stdout is not None and asked.stderr is not None
        asked.stdout.close()
        err = asked.stderr.read()
    assert asked.returncode == 1 and "Traceback" not in err and "Exception" not in err, err


def test_export_tells_where_the_file_is_and_how_far_the_answers_differ(ask, at_little, tmp_path):
    code, found, _ = ask("export", at_little[2].id, "--to", "pytorch", "--out", tmp_path / "out")
    assert code == 0 and Path(found["file"]).is_file()
    assert found["parity"]["difference"]["probabilities"] <= 1e-5
    assert ask("export", at_little[2].id, "--to", "caffe")[0] == 2


def test_a_network_that_is_not_trained_is_exported_and_taken_in_again(ask, document, tmp_path):
    code, found, _ = ask("export", document, "--to", "onnx", "--out", tmp_path / "out")
    assert code == 0 and found["experiment"] == "tiny-cnn" and found["parity"]["difference"]["probabilities"] <= 1e-4
    code, back, words = ask(
        "import-network", Path(found["folder"]) / "model.onnx", "--weights", tmp_path / "w.safetensors"
    )
    assert code == 0 and back["data"]["size_px"] == 32 and (tmp_path / "w.safetensors").stat().st_size > 1000
    assert "class_scores" in [node["name"] for node in back["network"]]
    assert ask("import-network", document)[0] == 2 and ask("import-network", tmp_path / "nowhere")[0] == 2


def test_a_layer_that_a_format_cannot_carry_is_told_with_its_path(ask, document, tmp_path):
    plain = json.loads(document.read_text())
    pool = {"id": "odd", "name": "adaptive_pool", "params": {"size": 5, "kind": "maximum"}}
    plain["network"].insert(0, pool)
    (tmp_path / "odd.json").write_text(json.dumps(plain))
    code, found, _ = ask("export", tmp_path / "odd.json", "--to", "onnx", "--out", tmp_path / "out")
    assert code == 2 and [p["path"] for p in found["problems"]] == ["network.odd"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["evaluate", "export"])
@pytest.mark.parametrize("run", ["20260101-000000-abcdef", "../../etc", ""])
def test_a_run_that_is_not_there_is_refused_in_words(ask, command, run):
    code, _, words = ask(command, run)
    assert code == 2 and "run" in words.lower() and "Traceback" not in words


# -- training ---------------------------------------------------------------------------------------------------------


def cli(*words: object, home: Path, **options: Any) -> subprocess.Popen[str]:
    """The command line in a process of its own."""
    command = [sys.executable, "-m", "builder", *map(str, words)]
    environment = {**os.environ, "SCANLOOM_HOME": str(home)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment, **pipes, **options)  # type: ignore[call-overload]


def test_train_gives_a_run_that_is_done_with_words_on_stderr_and_one_object_on_stdout(at_little, document, ask):
    home, dataset, _ = at_little
    code, found, err = ask("train", document, "--data", "little", "--set", "training.epochs=2")
    assert code == 0, err
    assert (found["status"], found["epochs"]) == ("done", 2)
    assert set(found["best"]) >= {"metric", "value", "epoch"} and "epoch 2 of 2" in err
    run = Run(home, found["run"])
    assert run.experiment.data.dataset == dataset.id and run.experiment.training.epochs == 2
    assert run.view().status == "done" and (run.folder / "best.safetensors").is_file()


def test_a_branch_is_trained_here_compared_noted_deleted_and_brought_back(little, monkeypatch, ask):
    home, _, parent = little
    monkeypatch.setenv("SCANLOOM_HOME", str(home))
    with Record(parent.folder / "events.jsonl") as record:  # the little run was trained without a record
        last = max(parent.folder.glob("last-*.pt")).name
        for event in (Started(), EpochEnded(1, 2), Saved(2, 1, False, last), Finished("done")):
            record.append(event)
    code, found, _ = ask("branch", parent.id, "--set", "training.epochs=2")
    assert code == 0 and (found["status"], found["parent"], found["from_epoch"]) == ("done", parent.id, 1)
    assert found["changes"] == {"training.epochs": [1, 2]}
    code, told, _ = ask("compare", parent.id, found["run"])
    assert code == 0 and told["metrics"]["auc"]["words"] and told["changes"] == {"training.epochs": [1, 2]}
    code, told, _ = ask("note", found["run"], "longer", "--tag", "long")
    assert code == 0 and told["tags"] == ["long"] and told["notes"][0]["text"] == "longer"
    for wrong in (("pause", parent.id), ("resume", parent.id), ("queue", parent.id, "--up")):
        code, _, words = ask(*wrong)
        assert code == 2 and "only a" in words
    assert ask("queue")[1] == {"queue": []}
    code, _, words = ask("branch", parent.id, "--set", "data.size_px=48", "training.epochs=3")
    assert code == 2 and "data.size_px" in words
    assert ask("delete", found["run"])[1] == {"run": found["run"], "deleted": True}
    assert ask("delete", found["run"], "--undo")[1]["deleted"] is False
    assert Run(home, found["run"]).view().status == "done"


def test_ctrl_c_stops_a_training_which_keeps_what_it_learned_and_leaves_no_process(little, document):
    home = little[0]
    words = ("train", document, "--data", "little", "--set", "training.epochs=5000", "--json")
    with cli(*words, home=home, start_new_session=True) as process:
        deadline = time.monotonic() + 200
        assert process.stderr is not None
        for line in process.stderr:
            assert time.monotonic() < deadline
            if line.startswith("  epoch "):  # whichever is told first: several may have ended between two looks
                break
        os.killpg(process.pid, signal.SIGINT)
        out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    found = json.loads(out)
    assert found["status"] == "stopped" and found["epochs"] >= 1
    assert Run(home, found["run"]).view().resumable


def test_train_refuses_what_cannot_work_before_anything_starts(ask, at_little, document):
    home = at_little[0]
    before = set((home / "runs").iterdir())
    assert ask("train", document)[0] == 2
    assert ask("train", document, "--data", "nowhere")[0] == 2
    code, found, words = ask("train", document, "--data", "little", "--set", "network.conv2d_1.params.kernel_size=99")
    assert code == 2 and "Nothing was started" in words and found["problems"]
    assert set((home / "runs").iterdir()) == before


# -- manners ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [[], ["nonsense"], ["train"], ["import", "x"], ["evaluate", "x", "--split", "all"]])
def test_what_cannot_be_understood_is_answered_in_one_sentence_with_code_2(capsys, words):
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "Try:" in err


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_every_command_explains_itself(capsys, command):
    with pytest.raises(SystemExit) as end:
        main([*command.split(), "--help"])
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert "usage: python -m builder" in out and (not command or "JSON:" in out)


def test_a_fault_of_ours_ends_in_code_1_and_tells_where(capsys, monkeypatch):
    def broken(*_: object) -> None:
        raise TypeError("boom")

    monkeypatch.setattr(commands, "_starters", broken)
    assert main(["starters", "--json"]) == 1
    out, err = capsys.readouterr()
    assert "TypeError" in json.loads(out)["error"] and "commands.py" in err


def test_listing_runs_and_starters_imports_no_torch(home):
    code = (
        "import sys; from builder.__main__ import main; main(['runs']); main(['starters', '--json']);"
        "heavy = {'torch', 'timm', 'sklearn', 'streamlit', 'pydicom'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True)


def test_a_figure_that_the_validation_side_leaves_undefined_is_said_in_words_and_not_formatted():
    kept = {"metric": "val/auc", "value": None, "epoch": 3}
    assert (
        commands._best_words(kept) == " The validation side leaves val/auc undefined; the network of epoch 3 is kept."
    )
    assert commands._best_words({**kept, "value": 0.81234}) == " Best val/auc 0.8123 in epoch 3."
    assert commands._best_words(None) == ""
