"""The evidence pack: complete, silent about people, standing alone; and the check that names what was changed."""

from __future__ import annotations

import json
import os
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from builder import audit, calibrate, error_groups, gate, operating, reader, sanity
from builder.__main__ import main
from builder.data import Dataset
from builder.evaluate import evaluate
from builder.evidence import asked, checklists, facts, hashes, measured, pack, verify
from builder.evidence.opened import NoPack
from builder.labels import record
from builder.operating import Choice
from builder.runs import Run
from tests.little_run import little

Packed = tuple[Path, Run, Path]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    """(home, run, zip of its pack); every task's pack is made and verified in test_pages_results."""
    home = tmp_path_factory.mktemp("packed")
    dataset, run = little(home)
    evaluate(run, home, resamples=40)
    operating.choose(run, Choice(dataset.classes[0], 0.4, 0.1, 2.0))
    return home, run, pack.make(run, home, resamples=40)


def bad(found: dict[str, Any]) -> list[str]:
    return [item["item"] for item in found["items"] if item["state"] not in verify.GOOD]


def flipped(path: Path, at: int) -> None:
    """Changes one byte; 13 is no power of two, so that a letter becomes another sign."""
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 13
    path.write_bytes(data)


CHANGES = (
    ("datasets/{data}/pixels.bin", -7, "The scans"),
    ("datasets/{data}/cases.jsonl", 9, "The cases and their labels"),
    ("datasets/{data}/splits.jsonl", 30, "The split"),
    ("runs/{run}/best.safetensors", -5, "The weights of the run here"),
    ("runs/{run}/experiment.json", 40, "The document of the run here"),
    ("{pack}/best.safetensors", -5, "The weights in the pack"),
    ("{pack}/experiment.json", 40, "The document in the pack"),
    ("{pack}/split.csv", 30, "The split in the pack"),
    ("{pack}/report.html", 900, "The report"),
    ("{pack}/manifest.json", 5, "The list of hashes"),
    ("datasets/{data}/test-openings.jsonl", 8, "The openings of the test side"),
)


@pytest.mark.parametrize(("where", "at", "item"), CHANGES, ids=[item for _, _, item in CHANGES])
def test_one_changed_byte_is_named(where: str, at: int, item: str, packed: Packed, tmp_path: Path) -> None:
    origin, run, file = packed
    home = tmp_path / "home"
    shutil.copytree(origin, home, copy_function=os.link)  # bytes are shared until one is changed
    folder = home / file.with_suffix("").relative_to(origin)
    path = home / where.format(data=run.experiment.data.dataset, run=run.id, pack=folder.relative_to(home))
    own = path.with_name("passing")
    shutil.copyfile(path, own)
    flipped(own, at)
    own.replace(path)
    found = verify.verify(folder, home)
    assert not found["holds"] and item in bad(found), found["words"]
    assert found["words"].startswith("The pack does not hold") and item in found["words"]
    if item == "The scans":
        assert re.search(r"c\d{6} \((train|val|test)\)", found["words"]), "which case it is"


def test_the_checklists_have_every_item_of_their_source_and_say_what_people_must_add(packed: Packed) -> None:
    _, _, file = packed
    assert [item.number for item in checklists.CLAIM] == [str(n) for n in range(1, 45)]
    assert {item.number.rstrip("abcdefg") for item in checklists.TRIPOD} == {str(n) for n in range(1, 28)}
    assert len(checklists.TRIPOD) == 52, "the parts of its items"
    found = json.loads((file.with_suffix("") / "pack.json").read_text())
    for items in checklists.filled(found).values():
        left = checklists.open_items(items)
        assert 5 < len(left) < len(items) and all(item.rest for item in left)
        assert all(item.answer and not item.rest for item in items if item not in left)
    found["probes"], found["evaluation"]["confusion"] = {"blanked": None}, None
    found["evaluation"]["subgroups"], found["asked"] = [], {}
    less = checklists.filled(found)["CLAIM 2024"]
    assert {"30", "31", "39"} <= {item.number for item in less if item.state == "open"}, "nothing is made up"


def test_what_else_was_asked_has_its_chapters_and_comes_out_again(
    packed: Packed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin, run, _ = packed
    home = tmp_path / "home"
    shutil.copytree(origin, home)
    run = Run(home, run.id)
    dataset = Dataset.open(home, run.experiment.data.dataset)
    audit.audit(dataset, look=False)
    calibrate.judge(run, home)
    calibrate.choose(run, calibrated=True, by="coverage", wanted=0.8, gate="refuse")
    gate.measure(run, home)
    sanity.examine(run, home, resamples=50)
    monkeypatch.setattr(error_groups, "FEWEST_ERRORS", 1)
    monkeypatch.setattr(error_groups, "FEWEST", 2)
    error_groups.ask(run, home)
    reading = reader.begin(run, home, "val", num=4)
    name = reading.join("Zz-7", home)
    while (turn := reading.turn(name)) is not None:
        reading.say(name, turn.case.id, turn.stage, (0,), 3.0)
    file = pack.make(run, home, resamples=40)
    with zipfile.ZipFile(file) as made:
        texts = {name.rpartition("/")[2]: made.read(name) for name in made.namelist()}
    assert not any(b"Zz-7" in text for text in texts.values()), "initials say who somebody is"
    report = texts["report.html"].decode()
    for words in (
        *("The audit of the data", "Is its confidence right?", "The terms on which it answers"),
        *("How often its gate stops what", "Its heat maps: can they be believed?", "Reader 1: 4 scans"),
        "Have its errors something in common?",
    ):
        assert words in report, words
    assert "The audit of the data for leaks" not in report, "it was asked"
    group = {"about": "Colour", "name": "grey", "n": 12, "patients": 9, "auc": {"value": 0.8, "low": 0.7, "high": 0.9}}
    group["rest"] = {"auc": {"value": -0.1, "low": -0.2, "high": -0.01}}
    told = measured.everything({"subgroups": [group], "groups_said": ["Worse."], "metrics": {}, "classes": []})
    assert "-0.100 (-0.200 to -0.010)" in told and "Worse." in told, "the difference to the rest"
    assert "0.800 (0.700–0.900)" in measured.everything({"subgroups": [group], "metrics": {}, "classes": []})
    found = verify.verify(file, home)
    assert found["holds"], (found["words"], found["numbers"]["failing"][:5])
    parts = {part.partition(".")[0] for part in found["numbers"]["by_part"]}
    assert parts >= {"evaluation", "audit", "confidence", "terms", "gate", "explained", "readings", "common_errors"}
    assert any("nobody was asked again" in words for words in found["not_checked"])
    answers = {item.number: item for item in checklists.filled(json.loads(texts["pack.json"]))["CLAIM 2024"]}
    assert "tested without weights" in answers["31"].answer and "Its gate stops" in answers["30"].answer


def test_a_number_that_does_not_come_out_again_is_named(packed: Packed, tmp_path: Path) -> None:
    home, _, file = packed
    folder = tmp_path / "pack"
    shutil.copytree(file.with_suffix(""), folder)
    found = json.loads((folder / "pack.json").read_text())
    found["evaluation"]["metrics"]["auc"]["value"] = 0.999
    (folder / "pack.json").write_text(json.dumps(found))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["pack.json"] = hashes.of_file(folder / "pack.json")
    (folder / "manifest.json").write_text(json.dumps(manifest))  # a forger who also writes the list anew
    told = verify.verify(folder, home)
    assert [n["place"] for n in told["numbers"]["failing"]] == ["evaluation.metrics.auc.value"]
    assert bad(told) == ["The list of hashes"], "no pack with this list was made here"


def test_what_comes_behind_does_not_break_a_pack_and_what_is_relabelled_needs_a_new_one(
    packed: Packed, tmp_path: Path
) -> None:
    origin, run, _ = packed
    home = tmp_path / "home"
    shutil.copytree(origin, home)
    run = Run(home, run.id)
    file = pack.made(run)
    assert file is not None
    dataset = Dataset.open(home, run.experiment.data.dataset)
    case = int(dataset.indices("test")[0])
    other = (int(dataset.labels[case]) + 1) % len(dataset.classes)
    record(dataset, case, label=other, who="a reader")
    found = verify.verify(file, home)
    assert found["holds"], found["words"]
    assert {i["item"]: i["state"] for i in found["items"]}["The labels that people corrected"] == "grown"

    with pytest.raises(facts.NoEvidence, match="open the test side again"):
        facts.current(run, Dataset.open(home, dataset.id))
    looks = hashes.of_openings(dataset)["count"]
    again = pack.make(run, home, resamples=40)
    assert hashes.of_openings(dataset)["count"] == looks + 1, "that look is counted"
    assert verify.verify(again, home)["holds"]
    assert json.loads((again.with_suffix("") / "pack.json").read_text())["flow"]["corrections"] == 1


def test_a_run_that_was_not_measured_has_no_evidence(home: Path, packed: Packed, tmp_path: Path) -> None:
    origin, run, _ = packed
    copy = tmp_path / "home"
    shutil.copytree(origin, copy, copy_function=os.link)
    (copy / "runs" / run.id / "evaluation-test.json").unlink()
    with pytest.raises(facts.NoEvidence, match="open the test side first"):
        pack.make(Run(copy, run.id), copy)


def test_a_quick_audit_is_made_again_as_quickly_whatever_else_stood_in_the_way(packed: Packed, monkeypatch) -> None:
    _, run, _ = packed
    looks: list[bool] = []

    def audited(dataset: Dataset, look: bool, told: object) -> dict[str, Any]:
        looks.append(look)
        return {}

    monkeypatch.setattr(asked.audit, "audit", audited)
    several = {"why": "It takes scans that carry one class each."}
    for said in (
        {"looked": False, "naive": several},
        {"looked": True, "naive": several},
        {"naive": {"why": audit.NOT_LOOKED}},  # of an earlier version
        {"naive": {"gain": None}},
    ):
        asked._audited_again(run, said, None)
    assert looks == [False, True, False, True]


def test_a_pack_in_which_somebody_has_worked_is_not_replaced(packed: Packed, tmp_path: Path) -> None:
    home, run, _ = packed
    folder = pack.make(run, home, tmp_path, resamples=40).with_suffix("")
    assert pack.make(run, home, tmp_path, resamples=40).with_suffix("") == folder, "as it was packed: made anew"
    answered = (folder / "checklists.csv").read_text() + "answered by hand\n"
    (folder / "checklists.csv").write_text(answered)
    with pytest.raises(facts.NoEvidence, match=r"changed since it was packed \(checklists.csv\)"):
        pack.make(run, home, tmp_path, resamples=40)
    assert (folder / "checklists.csv").read_text() == answered


def test_a_zip_that_is_no_pack_is_refused(home: Path, tmp_path: Path) -> None:
    home.mkdir()
    for number, names in enumerate((["a/b/c.json"], ["../manifest.json"], ["x/run.py"], ["x/other.json"])):
        path = tmp_path / f"{number}.zip"
        with zipfile.ZipFile(path, "w") as made:
            for name in names:
                made.writestr(name, "{}")
        with pytest.raises(NoPack, match="no evidence pack"):
            verify.verify(path, home)
    (tmp_path / "some.txt").write_text("x")
    for path in (tmp_path / "some.txt", tmp_path):
        with pytest.raises(NoPack, match="no evidence pack"):
            verify.verify(path, home)
    assert not list((home / "jobs").iterdir()), "nothing is left behind"


def test_the_command_line_makes_and_verifies_a_pack(
    packed: Packed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home, run, _ = packed
    monkeypatch.setenv("SCANLOOM_HOME", str(home))
    assert main(["evidence", run.id, "--out", str(tmp_path / "out"), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert set(made["open"]) == {"CLAIM 2024", "TRIPOD+AI"} and Path(made["file"]).is_file()
    assert main(["verify", made["file"], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["holds"]
    flipped(Path(made["folder"]) / "best.safetensors", -3)
    assert main(["verify", made["folder"], "--json"]) == 2
    told = json.loads(capsys.readouterr().out)
    assert not told["holds"] and told["numbers"]["checked"] == 0 and "The weights in the pack" in bad(told)
    assert main(["verify", str(tmp_path / "nothing")]) == 2
    assert "There is nothing at" in capsys.readouterr().err


def test_a_finding_tells_how_often_such_an_answer_is_wrong(packed: Packed) -> None:
    _, run, _ = packed
    known = operating.worth(run, calibrate.weights_of(run))
    label = next(iter(operating.chosen(run)))
    assert known["classes"][label]["by"] == "a person" and known["classes"][label]["threshold"] == 0.4
    others = [row["by"] for name, row in known["classes"].items() if name != label]
    assert set(others) <= {"validation"}, "classes that nobody chose for are told as the validation side chose"
    for chance, name in ((0.9, "false_discovery"), (0.1, "false_omission")):
        told = operating.beside({"probabilities": {label: 0.5}, "uncalibrated": {label: chance}}, known)
        row = told["worth"]["classes"][label]
        assert row["answered"] == (chance > 0.4) and row[name] == known["classes"][label][name]
    assert operating.beside({"probabilities": {"something else": 1.0}}, known) == {}
    assert operating.worth(run, "of other weights") == {}, "a run that has learned since it was evaluated"
    assert operating.worth(Run(run.home, "20260101-000000-000000"), "") == {}
