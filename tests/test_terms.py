"""The terms on which a run answers: a temperature, "I don't know", and what is done with scans unlike its own."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from little_run import little

from builder import calibrate, export, gate, nearness, terms
from builder.__main__ import main
from builder.calibrate import NotCalibrated
from builder.data import Dataset
from builder.evaluate import evaluate
from builder.listing import predict_source
from builder.measures.classes import Predictions, surprise, temperature, warmed
from builder.measures.conformal import limit, sets
from builder.measures.slopes import slope_and_intercept
from builder.predict import Predictor
from builder.readme import readme
from builder.runs import Run
from builder.terms import COVERAGE, RISK, Terms, least_sure, measured

Learned = tuple[Path, Dataset, Run]


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Learned:
    """(home, data set, run) of a little run that was evaluated."""
    home = tmp_path_factory.mktemp("terms") / "home"
    dataset, run = little(home)
    evaluate(run, home, resamples=20)
    return home, dataset, run


@pytest.fixture
def run(learned: Learned) -> Iterator[Run]:
    """The run, without terms before and after."""
    yield learned[2]
    (learned[2].folder / terms.FILE).unlink(missing_ok=True)


def answers(seed: int, num: int = 300, classes: int = 3, sharp: float = 2.5) -> Predictions:
    """True chances of `classes` classes, and answers that are `sharp` times as sure; two cases a patient."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.2, (num, classes))
    chance = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (rng.random((num, 1)) > chance.cumsum(1)[:, :-1]).sum(1)
    told = np.exp(sharp * logits)
    return Predictions(told / told.sum(1, keepdims=True), labels, np.arange(num) // 2, np.arange(num))


# -- temperature ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sharp", [0.2, 0.7, 1.0, 2.5, 8.0])
def test_a_temperature_never_makes_the_likelihood_on_validation_worse(sharp: float) -> None:
    for seed in range(12):
        for found in (answers(seed, 40, 2 + seed % 3, sharp), answers(seed, 7, 2, sharp)):
            fitted = temperature(found)
            assert fitted is not None and surprise(found, fitted) <= surprise(found)
            assert surprise(warmed(found, fitted)) == pytest.approx(surprise(found, fitted), abs=1e-9)


def test_slope_and_intercept_equal_a_logistic_regression_and_their_intervals_hold() -> None:
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(1)
    odds = rng.normal(0.3, 1.5, 800)
    truth = rng.random(800) < 1 / (1 + np.exp(-(0.4 + 0.6 * odds)))
    told = slope_and_intercept(1 / (1 + np.exp(-odds)), truth, np.arange(800))
    theirs = LogisticRegression(C=1e12, tol=1e-10).fit(odds[:, None], truth)
    assert told["slope"]["value"] == pytest.approx(theirs.coef_[0, 0], abs=1e-4)
    held = 0
    for seed in range(200):  # true slope 0.5; two cases of a patient are the same case
        rng = np.random.default_rng(seed)
        odds = np.repeat(rng.normal(0, 1.5, 120), 2)
        truth = np.repeat(rng.random(120) < 1 / (1 + np.exp(-0.5 * odds[::2])), 2)
        slope = slope_and_intercept(1 / (1 + np.exp(-odds)), truth, np.arange(240) // 2)["slope"]
        held += slope["low"] <= 0.5 <= slope["high"]  # type: ignore[operator]
    assert 0.91 <= held / 200 <= 0.99


def test_classes_that_are_parted_without_a_mistake_or_hardly_occur_have_no_slope() -> None:
    chance = np.r_[np.linspace(0.05, 0.4, 20), np.linspace(0.6, 0.95, 20)]
    nothing = {"value": None, "low": None, "high": None}
    assert slope_and_intercept(chance, chance > 0.5, np.arange(40))["slope"] == nothing
    assert slope_and_intercept(chance, np.arange(40) < 3, np.arange(40))["intercept"] == nothing


def test_sets_hold_the_truth_within_two_points_of_what_is_said() -> None:
    for level in (0.8, 0.9, 0.95):
        held = []
        for seed in range(150):
            least = limit(answers(seed, 200), level)
            here = answers(5000 + seed, 200)
            assert least is not None
            held.append(sets(here.probabilities, least)[np.arange(200), here.labels].mean())
        assert abs(np.mean(held) - level) < 0.02, level


# -- "I don't know" ----------------------------------------------------------------------------------------------------


def test_a_confidence_is_chosen_by_coverage_or_by_risk_and_keeps_it_on_validation() -> None:
    found = answers(3)
    for wanted in (0.1, 0.5, 0.8):
        told = measured(found, Terms(limit=least_sure(found, COVERAGE, wanted)))
        assert told is not None and wanted <= told["answered"]["value"] <= wanted + 0.01
    everything = measured(found, Terms())
    assert everything is not None and everything["answered"]["value"] == 1
    told = measured(found, Terms(limit=least_sure(found, RISK, 0.3)))
    assert told is not None and 1 - told["right"]["value"] <= 0.3 and told["answered"]["value"] > 0.2
    assert told["right"]["value"] > everything["right"]["value"] > told["silent_right"]["value"]


def test_what_cannot_be_chosen_is_said_in_words() -> None:
    found = answers(3)
    wrong = Predictions(found.probabilities, (found.probabilities.argmax(1) + 1) % 3, found.patients, found.cases)
    with pytest.raises(ValueError, match="no confidence keeps the mistakes"):
        least_sure(wrong, RISK, 0.05)
    with pytest.raises(ValueError, match="between 0 and 1"):
        least_sure(found, COVERAGE, 1.5)
    several = Predictions(found.probabilities, np.eye(3, dtype=np.uint8)[found.labels], found.patients, found.cases)
    with pytest.raises(ValueError, match="several labels"):
        least_sure(several, COVERAGE, 0.5)
    assert measured(several, Terms()) is None


def test_nothing_is_chosen_before_the_validation_side_was_asked(learned: Learned, run: Run) -> None:
    (run.folder / calibrate.FILE).unlink(missing_ok=True)
    with pytest.raises(NotCalibrated, match="do that first"):
        calibrate.choose(run, calibrated=True)
    assert calibrate.choose(run, gate="refuse").gate == "refuse" == calibrate.chosen(run).gate
    with pytest.raises(ValueError, match="A gate is one of"):
        calibrate.choose(run, gate="shut")


def test_a_run_answers_on_its_terms_from_then_on(learned: Learned, run: Run) -> None:
    home, dataset, _ = learned
    found = calibrate.judge(run, home)
    assert found == json.loads(json.dumps(calibrate.kept(run)))
    heat = found["calibration"]["temperature"]
    scan = dataset.scan(int(dataset.indices("test")[0]))
    before = Predictor.open(run.folder).finding(scan)
    assert before.status == "answered" and not before.uncalibrated and "status" not in before.plain()

    calibrate.choose(run, calibrated=True)
    warm = Predictor.open(run.folder).finding(scan)
    assert warm.uncalibrated == pytest.approx(before.probabilities) and warm.top == before.top
    by_hand = np.array(list(before.probabilities.values())) ** (1 / heat)
    assert list(warm.probabilities.values()) == pytest.approx(by_hand / by_hand.sum(), abs=1e-6)

    sure = max(warm.probabilities.values())
    terms.keep(run.folder, replace(calibrate.chosen(run), by=COVERAGE, wanted=0.5, limit=sure + 0.01))
    silent = Predictor.open(run.folder).finding(scan)
    assert (silent.status, silent.top, silent.likeliest) == ("unknown", "", before.top)
    assert "50 of 100 validation scans" in silent.reason
    told = silent.plain()
    assert told["status"] == "unknown" and told["top"] == "" and told["probabilities"] and told["uncalibrated"]
    terms.keep(run.folder, replace(calibrate.chosen(run), limit=sure))
    assert Predictor.open(run.folder).finding(scan).status == "answered", "from this confidence on"


def test_terms_of_other_weights_are_left_out_and_that_is_said(learned: Learned, run: Run) -> None:
    terms.keep(run.folder, Terms(temperature=2.0, limit=0.9, gate="refuse", weights="of before"))
    with open(run.folder / terms.FILE, "a") as file:
        file.write("cut off")
    now = Predictor.open(run.folder).terms
    assert now.temperature is None and now.limit is None and now.gate == "refuse" and "other weights" in now.note
    assert now.note in Predictor.open(run.folder).finding(learned[1].scan(0)).notes


# -- the gate ---------------------------------------------------------------------------------------------------------


def test_a_scan_of_another_kind_is_answered_with_a_warning_or_refused(learned: Learned, run: Run) -> None:
    home, dataset, _ = learned
    predictor = Predictor.open(run.folder)
    known = nearness.of_run(predictor, run.folder, home)
    strange = replace(dataset.scan(0), pixels=np.zeros((1, 1, 900, 700), np.uint8))
    finding, like = gate.answered(predictor, strange, known)
    assert finding.status == "answered" and any("900" in note for note in finding.notes) and like is not None
    calibrate.choose(run, gate="refuse")
    finding, _ = gate.answered(Predictor.open(run.folder), strange, known)
    assert (finding.status, finding.top, finding.probabilities) == ("refused", "", {})
    assert "unlike those that the network has learned from" in finding.reason and "700 x 900" in finding.reason
    assert finding.image.shape == (1, 32, 32)
    own, _ = gate.answered(Predictor.open(run.folder), dataset.scan(0), None)
    assert own.status == "answered"


def test_scans_like_the_validation_scans_are_stopped_no_more_often_than_is_said() -> None:
    stopped = []
    for seed in range(2000):
        far = np.random.default_rng(seed).exponential(1, 41)
        nothing = np.zeros(0)
        known = nearness.Nearness(
            nothing, nothing, nothing, nothing, nothing, np.sort(far[:5]), far[:40], np.arange(40)
        )
        stopped.append(known.unlike(float(far[40])))
    assert np.mean(stopped) <= nearness.ALPHA + 0.015
    assert known.unlike(1000.0) and not known.unlike(0.0)
    few = replace(known, own=known.own[:5], own_patients=np.arange(5))
    assert few.unlike(1000.0) and not few.unlike(float(few.distances[0])), "then the training scans tell"


def test_what_the_gate_stops_is_measured_on_own_and_foreign_scans(learned: Learned, run: Run, tmp_path: Path) -> None:
    from tests.tiny_runs import small_set

    home, dataset, _ = learned
    other = small_set(home, "lesion_detection", tmp_path / "other")
    found = gate.measure(run, home, other.id)
    assert found["own"]["n"] == len(dataset.indices("val", labelled=False))
    assert found["own"]["stopped"]["value"] <= 0.5
    (row,) = found["foreign"]
    assert row["n"] == len(other) and row["stopped"]["value"] > 0.9 and row["grounds"]["features"] > 0
    again = gate.measure(run, home)
    assert again["foreign"] == found["foreign"], "what was measured before is kept"
    with pytest.raises(ValueError, match="choose another"):
        gate.measure(run, home, dataset.id)


# -- without a browser, and in an export ------------------------------------------------------------------------------


def test_terms_are_chosen_and_told_on_the_command_line(
    learned: Learned, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SCANLOOM_HOME", str(learned[0]))
    given = ["terms", run.id, "--calibrate", "on", "--answer", "0.5", "--gate", "refuse", "--json"]
    assert main(given) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["temperature"] and told["by"] == COVERAGE and told["gate"] == "refuse" and told["limit"]
    assert set(told["on_test"]) == {"n", "answered", "right", "silent_right"}
    assert main(["terms", run.id]) == 0 and "answers from a confidence" in capsys.readouterr().out
    assert main(["terms", run.id, "--answer", "-1"]) == 2


def test_an_exported_network_answers_on_the_same_terms(learned: Learned, run: Run) -> None:
    source = (Path(calibrate.__file__).parent / "templates" / "predict.py.txt").read_text()
    space: dict[str, Any] = {"np": np}
    start, end = source.index("def on_terms"), source.index('if __name__ == "__main__"')
    exec(source[start:end], space)
    chances = {"a": 0.2, "b": 0.5, "c": 0.3}
    for several in (False, True):
        chosen = Terms(temperature=1.7, limit=0.6)
        space["SETTINGS"] = {"terms": chosen.plain(), "multi_label": several}
        theirs = space["on_terms"]({"top": "b", "probabilities": chances})
        ours = chosen.said(chances, several)
        assert theirs["probabilities"] == pytest.approx(ours.probabilities, abs=1e-6)
        assert theirs.get("status", "answered") == ours.status


@pytest.fixture
def taken_away(learned: Learned, run: Run, tmp_path: Path) -> Iterator[Any]:
    """predict.py of the run's PyTorch project, imported from a folder of its own, and forgotten afterwards."""
    terms.keep(run.folder, Terms(gate="refuse", weights=calibrate.weights_of(run)))
    export._write(tmp_path, export.TARGETS["pytorch"], export.trained(run), run)
    names = {path.stem for path in tmp_path.glob("*.py")}
    sys.path.insert(0, str(tmp_path))
    try:
        yield importlib.import_module("predict")
    finally:
        sys.path.remove(str(tmp_path))
        for name in names:
            sys.modules.pop(name, None)


def test_the_gate_of_an_exported_network_stops_what_the_app_stops_for_the_same_reasons(
    learned: Learned, run: Run, taken_away: Any, tmp_path: Path
) -> None:
    import pydicom
    from pydicom.data import get_testdata_file

    from builder.scans import read

    home, dataset, _ = learned
    known = nearness.of_run(Predictor.open(run.folder), run.folder, home)
    assert known is not None
    facts = {**Predictor.open(run.folder).fingerprint, "modalities": {"CT": 9, "unknown": 1}, "bodies": {"CHEST": 9}}
    predictor = replace(Predictor.open(run.folder), fingerprint=facts)
    taken_away.SETTINGS["expects"] |= {"modalities": facts["modalities"], "bodies": facts["bodies"]}
    file = pydicom.dcmread(str(get_testdata_file("MR_small.dcm")))
    file.BodyPartExamined = "BRAIN"
    file.save_as(tmp_path / "other.dcm")
    own = [dataset.scan(int(case)) for case in dataset.indices("val")[:4]]
    noise = replace(own[0], pixels=np.random.default_rng(0).integers(0, 255, own[0].pixels.shape, np.uint8))
    huge = replace(own[0], pixels=np.zeros((1, 3, 900, 900), np.uint8), bits=12, modality="CT", body="CHEST")
    asked = [*own, noise, huge, read(tmp_path / "other.dcm")]
    model, stopped = taken_away.load(), []
    for scan in asked:
        looked = gate.look(predictor, scan, known)
        theirs = taken_away.Scan(scan.pixels, scan.bits, scan.photometric, (), None, 1.0, scan.modality, scan.body)
        if scan is asked[-1]:
            theirs = taken_away.read(tmp_path / "other.dcm")
        said = taken_away.answer_to(model, theirs, taken_away.pictures(theirs), tmp_path / "scan")
        assert said.get("status", "answered") == ("refused" if looked.grounds else "answered"), looked
        assert said.get("reason", "") == (looked.reason if looked.grounds else "")
        stopped.append(set(looked.grounds))
    assert not any(stopped[:3]) and "features" in stopped[4], stopped
    assert {"bits", "colour", "size"} <= stopped[5] and {"modality", "body"} <= stopped[6], stopped


def test_formats_that_show_nothing_of_the_inside_of_a_network_say_that_it_is_not_checked(learned: Learned) -> None:
    predictor = Predictor.open(learned[2].folder)
    for to in ("keras", "onnx", "torch-export"):
        assert "is NOT checked here" in " ".join(readme(to, to, predictor, None).split())
        assert "too_far" in predict_source(f"network_{to.removeprefix('torch-').replace('export', 'program')}.py.txt")
    assert "is NOT checked here" not in readme("pytorch", "pytorch", predictor, None)
