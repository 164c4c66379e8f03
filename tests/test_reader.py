"""Blind reading: what readers see and when, what is kept of it, and planted readers whose figures are known."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from builder import evaluate, marked, reader
from builder.__main__ import main
from builder.predict import Predictor
from builder.reader import ALONE, BOTH, Reading, ReadingRefused
from builder.reading_report import report
from builder.runs import Run
from tests.little_run import little

CLASSES = ("none", "lesion")


def planted(folder: Path, num: int = 200, seed: int = 3, model_right: float = 0.8) -> Reading:
    """A reading of two classes with a model that is right on a given share of the cases, two cases a patient."""
    random = np.random.default_rng(seed)
    cases = []
    for k in range(num):
        truth = int(random.random() < 0.4)
        said = truth if random.random() < model_right else 1 - truth
        chances = [0.2, 0.8] if said else [0.7, 0.3]
        cases.append(
            {"id": f"c{k}", "index": k, "patient": k // 2, "truth": [truth], "model": [said], "probabilities": chances}
        )
    folder.mkdir(parents=True)
    told = {"run": "r", "dataset": "d", "split": "val", "seed": seed, "at": 0.0}
    told |= {"classes": CLASSES, "multi_label": False, "cases": cases}
    (folder / "reading.json").write_text(json.dumps(told))
    return Reading(folder)


def read_all(reading: Reading, name: str, alone, both, seconds: float = 4.0) -> None:
    """Lets a planted reader go through all cases: `alone(case)` and `both(case, first)` give class indices."""
    lines = []
    for case in reading.order(name):
        first = alone(case)
        for stage, said in ((ALONE, first), (BOTH, both(case, first))):
            entry = {"reader": name, "case": case.id, "stage": stage, "answer": [said], "seconds": seconds}
            lines.append(json.dumps({"at": 0.0, **entry}) + "\n")
    with open(reading.folder / "answers.jsonl", "a") as file:
        file.writelines(lines)


def test_a_reader_who_follows_the_model_becomes_the_model_and_one_who_never_does_stays_as_they_were(tmp_path):
    reading = planted(tmp_path / "1")
    random = np.random.default_rng(0)
    read_all(reading, "FOLLOWS", lambda c: c.truth[0] ^ int(random.random() < 0.4), lambda c, first: c.model[0])
    read_all(reading, "STAYS", lambda c: c.truth[0], lambda c, first: first)
    follows, stays = report(reading, resamples=400)["readers"]
    assert follows["reader"] == "FOLLOWS" and follows["with_model"] == follows["model"]
    apart = follows["differences"]["with_model - alone"]["accuracy"]
    moves = follows["changes"]
    assert apart["difference"] == pytest.approx((moves["to_right"] - moves["to_wrong"]) / 200) and apart["low"] > 0
    assert "The reader with the network is better than alone" in apart["words"]
    assert moves["followed_wrong"] == moves["to_wrong"] > 0 and moves["rescued"] == moves["to_right"]
    assert sum(moves[k] for k in ("to_right", "to_wrong", "kept_right", "kept_wrong")) == 200
    assert stays["changes"]["kept_right"] == 200 and stays["alone"]["accuracy"]["value"] == 1
    assert "the same as alone" in stays["differences"]["with_model - alone"]["accuracy"]["words"]
    assert stays["differences"]["alone - model"]["sensitivity of lesion"]["low"] > 0
    assert follows["seconds"] == {"alone": 4.0, "with_model": 4.0}


def test_figures_are_those_of_a_count_by_hand_and_of_all_readers_their_mean(tmp_path):
    reading = planted(tmp_path / "1", num=60)
    for name, share in (("A", 0.1), ("B", 0.3)):
        random = np.random.default_rng(len(name) + int(share * 100))
        wrong = {case.id: random.random() < share for case in reading.cases}
        read_all(reading, name, lambda c, w=wrong: c.truth[0] ^ int(w[c.id]), lambda c, first: first)
    told = report(reading, resamples=200)
    said = reading.answers()
    for mine in told["readers"]:
        answers = said[mine["reader"]].said[ALONE]
        hits = [answers[c.id] == c.truth for c in reading.cases if c.truth == (1,)]
        free = [answers[c.id] == c.truth for c in reading.cases if c.truth == (0,)]
        assert mine["alone"]["sensitivity of lesion"]["value"] == pytest.approx(np.mean(hits))
        assert mine["alone"]["specificity of lesion"]["value"] == pytest.approx(np.mean(free))
        assert mine["alone"]["balanced_accuracy"]["value"] == pytest.approx((np.mean(hits) + np.mean(free)) / 2)
    together = told["together"]
    assert together["readers"] == 2 and together["patients"] == 30
    mean = np.mean([mine["alone"]["accuracy"]["value"] for mine in told["readers"]])
    assert together["alone"]["accuracy"]["value"] == pytest.approx(mean)


def test_a_class_of_five_patients_that_was_always_right_is_not_told_as_surely_as_all_the_others(tmp_path):
    """Nothing missed of five: the exact lower bound is 0.478 (Clopper and Pearson), whatever else was read."""
    reading = planted(tmp_path / "1", num=40)
    told = json.loads((reading.folder / "reading.json").read_text())
    for k, case in enumerate(told["cases"]):
        case["truth"], case["patient"] = [int(k < 5)], k
    (reading.folder / "reading.json").write_text(json.dumps(told))
    reading = Reading(reading.folder)
    read_all(reading, "A", lambda c: c.truth[0], lambda c, first: first)
    alone = report(reading, resamples=100)["readers"][0]["alone"]
    assert alone["sensitivity of lesion"]["low"] == pytest.approx(0.478, abs=1e-3)
    assert alone["balanced_accuracy"]["low"] == pytest.approx(0.478, abs=1e-3)
    assert alone["specificity of lesion"]["low"] == pytest.approx(0.900, abs=1e-3)


def test_the_interval_of_a_paired_difference_covers_no_difference_in_95_of_100_studies(tmp_path):
    """Readers who change their minds at random, as often for better as for worse."""
    covered = 0
    for study in range(60):
        reading = planted(tmp_path / str(study), num=100, seed=study)
        random = np.random.default_rng(1000 + study)
        alone = {c.id: c.truth[0] ^ int(random.random() < 0.3) for c in reading.cases}
        both = {c.id: c.truth[0] ^ int(random.random() < 0.3) for c in reading.cases}
        read_all(reading, "A", lambda c, a=alone: a[c.id], lambda c, first, b=both: b[c.id])
        (mine,) = report(reading, resamples=300)["readers"]
        apart = mine["differences"]["with_model - alone"]["accuracy"]
        covered += apart["low"] <= 0 <= apart["high"]
        assert ("not shown" in apart["words"]) == (apart["low"] <= 0 <= apart["high"])
    assert 52 <= covered <= 60


def test_every_reader_meets_the_cases_in_an_order_of_their_own_and_goes_on_after_a_reload_where_they_were(tmp_path):
    reading = planted(tmp_path / "1", num=40)
    orders = [[case.id for case in reading.order(name)] for name in ("A", "B", "A")]
    assert orders[0] == orders[2] != orders[1] and sorted(orders[0]) == sorted(orders[1])
    assert orders[0] != [case.id for case in reading.cases]
    turn = reading.turn("A")
    assert turn is not None and (turn.case.id, turn.stage, turn.done, turn.of) == (orders[0][0], ALONE, 0, 40)
    reading.say("A", turn.case.id, ALONE, (1,), 3.2)
    again = Reading(reading.folder).turn("A")
    assert again is not None and (again.case.id, again.stage) == (orders[0][0], BOTH)
    reading.say("A", again.case.id, BOTH, (0,), 1.0)
    after = Reading(reading.folder).turn("A")
    assert after is not None and (after.case.id, after.stage, after.done) == (orders[0][1], ALONE, 1)
    other = reading.turn("B")
    assert other is not None and other.case.id == orders[1][0]
    assert report(reading, resamples=50)["readers"][0]["n"] == 1, "only what was read to the end is counted"


def test_what_was_answered_is_never_changed_and_nothing_but_an_answer_is_taken(tmp_path):
    reading = planted(tmp_path / "1", num=4)
    first = reading.order("A")[0].id
    for answer in ((), (0, 1), (2,), (-1,)):
        with pytest.raises(ReadingRefused, match="Choose one"):
            reading.say("A", first, ALONE, answer, 1)
    with pytest.raises(ReadingRefused, match="answered already"):
        reading.say("A", first, BOTH, (0,), 1)
    reading.say("A", first, ALONE, (0,), 1)
    before = (reading.folder / "answers.jsonl").read_bytes()
    with pytest.raises(ReadingRefused, match="answered already"):
        reading.say("A", first, ALONE, (1,), 1)
    with open(reading.folder / "answers.jsonl", "a") as file:  # a second tab that wrote all the same, and a cut line
        late = {"at": 1.0, "reader": "A", "case": first, "stage": ALONE, "answer": [1], "seconds": 9}
        file.write(json.dumps(late) + "\n" + json.dumps(late)[:20])
    assert reading.answers()["A"].said[ALONE] == {first: (0,)} and reading.answers()["A"].seconds[ALONE] == {first: 1}
    assert (reading.folder / "answers.jsonl").read_bytes().startswith(before)


def test_several_labels_of_one_scan_are_judged_label_by_label(tmp_path):
    reading = planted(tmp_path / "1", num=3)
    told = json.loads((reading.folder / "reading.json").read_text())
    told["multi_label"] = True
    for case, truth in zip(told["cases"], ([0, 1], [], [1]), strict=True):
        case["truth"], case["patient"] = truth, case["index"]
    (reading.folder / "reading.json").write_text(json.dumps(told))
    reading = Reading(reading.folder)
    answers = {"c0": (0,), "c1": (), "c2": (0, 1)}
    while turn := reading.turn("A"):
        reading.say("A", turn.case.id, turn.stage, answers[turn.case.id], 1)
    alone = report(reading, resamples=50)["readers"][0]["alone"]
    assert alone["accuracy"]["value"] == pytest.approx(1 / 3)
    assert alone["sensitivity of none"]["value"] == 1 and alone["specificity of none"]["value"] == 0.5
    assert alone["sensitivity of lesion"]["value"] == 0.5 and alone["specificity of lesion"]["value"] == 1


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Run]]:
    home = tmp_path_factory.mktemp("reading") / "home"
    _, run = little(home)
    yield home, run


def test_a_reading_of_the_test_side_asks_the_model_first_and_each_reader_opens_that_side_once(
    learned: tuple[Path, Run], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home, run = learned
    monkeypatch.setenv("SCANLOOM_HOME", str(home))
    reading = reader.begin(run, home, "test", num=4, seed=1)
    assert len(reading.cases) == 4 and [r.id for r in reader.readings(run)] == [reading.id]
    for case in reading.cases:
        assert case.model == (int(np.argmax(case.probabilities)),) and len(case.truth) == 1
    dataset = evaluate.Dataset.open(home, reading.dataset)
    assert not evaluate.was_opened(dataset), "nobody has seen a scan yet"
    assert reading.join("  M. K. ", home) == "M. K." == reading.join("M. K.", home)
    reading.join("second", home)
    assert reading.join("SECOND", home) == "second", "one person, who typed otherwise the next day"
    openings = (dataset.folder / "test-openings.jsonl").read_text().splitlines()
    assert len(openings) == 2
    for name in ("", "<b>", "x" * 25, "a/b"):
        with pytest.raises(ReadingRefused, match="initials or a code"):
            reading.join(name, home)
    while turn := reading.turn("second"):
        reading.say("second", turn.case.id, turn.stage, turn.case.truth, 2.0)
    capsys.readouterr()
    assert main(["readings", run.id, "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)["readings"]
    assert [mine["reader"] for mine in told["readers"]] == ["second"] and told["together"] is None
    assert told["readers"][0]["with_model"]["accuracy"]["value"] == 1
    assert set(json.loads((reading.folder / "reading.json").read_text())["cases"][0]) == {
        *("id", "index", "patient", "truth", "model", "probabilities", "silent")
    }
    other = reader.begin(run, home, "val")
    assert [r.id for r in reader.readings(run)] == ["1", "2"] and other.split == "val"


def test_as_many_cases_are_read_as_are_asked_for_where_some_have_no_known_class(
    learned: tuple[Path, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, run = learned
    classes, several, examined = evaluate.answered(run, home, "val")
    labels = np.where(np.arange(len(examined["labels"])) % 2, -1, examined["labels"])
    monkeypatch.setattr(evaluate, "answered", lambda *about: (classes, several, {**examined, "labels": labels}))
    known = int((labels >= 0).sum())
    assert known > 2
    for num in (known - 1, 0):
        reading = reader.begin(run, home, "val", num=num)
        assert len(reading.cases) == (num or known) and all(min(case.truth) >= 0 for case in reading.cases)


# -- lesions that are boxed or outlined -------------------------------------------------------------------------------


def marked_reading(folder: Path, num: int = 60) -> Reading:
    """One slice of 64 px a case, each second one with two lesions; the model finds one of them, and one false alarm on
    every case that is clean."""
    cases = []
    for k in range(num):
        truth = [[4, 4, 14, 14, 0, 0], [40, 40, 50, 52, 0, 0]] if k % 2 else []
        model = [[4, 5, 14, 15, 0, 0]] if truth else [[30, 30, 36, 36, 0, 0]]
        case = {"id": f"c{k}", "index": k, "patient": k // 2, "truth": truth, "model": model, "probabilities": [0.9]}
        cases.append(case | {"shape": [1, 64, 64], "slices": [0]})
    folder.mkdir(parents=True)
    told = {"run": "r", "dataset": "d", "split": "val", "seed": 1, "at": 0.0, "kind": "boxes"}
    (folder / "reading.json").write_text(
        json.dumps(told | {"classes": ["lesion"], "multi_label": False, "cases": cases})
    )
    return Reading(folder)


def test_marked_lesions_are_counted_for_reader_model_and_both_with_paired_intervals(tmp_path):
    reading = marked_reading(tmp_path / "1")
    while turn := reading.turn("A"):
        loose = tuple((x0 - 1, y0 - 2, x1 + 1, y1, 0, 0) for x0, y0, x1, y1, *_ in turn.case.truth)
        answer = loose[1:] if turn.stage == ALONE else loose  # the reader alone misses the lesion that the model finds
        reading.say("A", turn.case.id, turn.stage, answer, 5.0)
    (told,) = report(reading, resamples=100)["readers"]
    assert told["alone"]["sensitivity"]["value"] == told["model"]["sensitivity"]["value"] == 0.5
    assert (
        told["with_model"]["sensitivity"]["value"] == 1 and told["with_model"]["false_alarms_per_image"]["value"] == 0
    )
    assert told["model"]["false_alarms_per_image"]["value"] == 0.5 and told["model"]["image_specificity"]["value"] == 0
    assert told["alone"]["image_specificity"]["value"] == 1
    assert told["changes"] == {"gained": 30, "lost": 0, "alarms_added": 0, "alarms_dropped": 0}
    fewer = told["differences"]["with_model - model"]["false_alarms_per_image"]
    assert fewer["high"] < 0 and "better than the network" in fewer["words"], "fewer false alarms are better"


def test_outlines_on_slices_that_a_network_never_sees_do_not_count(monkeypatch):
    mask = np.zeros((5, 20, 20), np.uint8)
    mask[1:4, 4:9, 4:9] = 1
    answer = np.zeros_like(mask)
    answer[2] = mask[2]
    data = SimpleNamespace(dataset="d", slices="middle", blocks=False)
    asked = SimpleNamespace(
        experiment=SimpleNamespace(data=data),
        finding=lambda scan: SimpleNamespace(found=SimpleNamespace(outline=answer)),
    )
    scans = SimpleNamespace(
        mask=lambda case: mask,
        scan=lambda case: SimpleNamespace(pixels=mask[:, None]),
        cases=[SimpleNamespace(id="c000000")],
        patients=[0],
    )
    monkeypatch.setattr(Predictor, "open", lambda folder: asked)
    monkeypatch.setattr(marked, "dataset_of", lambda *of: scans)
    run = SimpleNamespace(folder=Path())
    for slices, seen in (("middle", [2]), ("each", [0, 1, 2, 3, 4])):
        data.slices = slices
        (case,) = marked.of_outlines(run, Path(), [0])  # type: ignore[arg-type]
        assert case["slices"] == seen and {mark[5] for mark in case["truth"]} == {1, 2, 3} & set(seen)
        assert marked.counted(case["truth"], case["model"], seen)[:2] == (1, len(case["truth"]))


def test_boxes_of_a_network_that_knows_no_slice_are_not_compared_with_those_of_readers(monkeypatch):
    experiment = SimpleNamespace(task="lesion_detection", data=SimpleNamespace(dataset="d", slices="maximum"))
    case = SimpleNamespace(id="c000000", shape=(5, 1, 20, 20))
    scans = SimpleNamespace(classes=("a",), cases=[case], indices=lambda split, by: np.array([0]))
    monkeypatch.setattr(reader, "dataset_of", lambda *of: scans)
    with pytest.raises(ReadingRefused, match="does not know on which of them a lesion lies"):
        reader.begin(SimpleNamespace(experiment=experiment, folder=Path()), Path())  # type: ignore[arg-type]


def test_a_mark_answers_one_lesion_of_its_class_and_slice(tmp_path):
    one, other = (4.0, 4.0, 14.0, 14.0, 0, 0), (5.0, 4.0, 15.0, 14.0, 0, 0)
    assert marked.counted((one,), (one, other), (0,)) == (1, 1, 1), "a second mark on a lesion is a false alarm"
    assert marked.counted((one,), ((*one[:4], 1, 0),), (0,)) == (0, 1, 1), "another class"
    assert marked.counted((one,), ((*one[:4], 0, 1),), (0, 1)) == (0, 1, 1), "another slice"
    assert marked.counted((one,), ((*one[:4], 0, 1),), (0,)) == (0, 1, 0), "a slice that does not count"
    here, there, away = (float(n) for n in (500, 600, 700))
    two, first, second = ((x, x, x + 20, x + 20, 0, 0) for x in (here, there, away))
    nudged = (there + 1, there, there + 20, there + 20, 0, 0)
    moves = marked.moves([(one, two)] * 2, [(one, first)] * 2, [(two, second), (one, nudged)], [(0,)] * 2)
    assert moves == {"gained": 1, "lost": 1, "alarms_added": 1, "alarms_dropped": 1}, (
        "one lesion for another on one scan"
    )
    reading = marked_reading(tmp_path / "1", num=2)
    turn = reading.turn("A")
    assert turn is not None
    for bad in (((1, 1, 5, 5, 3, 0),), ((1, 1, 5, 5, 0, 9),), ((1, 1, float("nan"), 5, 0, 0),)):
        with pytest.raises(ReadingRefused, match="A mark"):
            reading.say("A", turn.case.id, turn.stage, bad, 1.0)
    with pytest.raises(ReadingRefused, match="not of this scan's size"):
        reading.outline("A", turn.case.id, turn.stage, np.ones((1, 5, 5), np.uint8), 1.0)
    mask = np.zeros((1, 64, 64), np.uint8)
    mask[0, 10:20, 30:44], mask[0, 40:50, 5:9], mask[0, 60, 60] = 2, 2, 2
    reading.outline("A", turn.case.id, turn.stage, mask, 1.0)
    mine = Reading(reading.folder).answers()["A"]
    assert mine.said[ALONE][turn.case.id] == ((5.0, 40.0, 9.0, 50.0, 0, 0), (30.0, 10.0, 44.0, 20.0, 0, 0)), "no crumb"
    assert (mine.outline(ALONE, turn.case) == (mask > 0)).all()
