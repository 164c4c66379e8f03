"""The Test page for every kind of finding, many scans, downloads; the Results page for every kind of report."""

# What may be missing by its type is there by the test: None fails it by itself.
# mypy: disable-error-code="index"

from __future__ import annotations

import csv
import hashlib
import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from PIL import Image
from streamlit.testing.v1 import AppTest
from test_pages_build import (  # noqa: F401  fixtures of those pages
    DONE,
    a_run,
    cats,
    learned,
    nearby,
    no_supervisor,
    pressed,
    said,
    tell,
)
from test_pages_shell import finish, opened, parameter, title_of

from builder import outputs
from builder.asking import keyed
from builder.data import Dataset
from builder.evaluate import count_opening
from builder.opinion import Opinion
from builder.runs import Run, RunStore
from builder.scan import Scan
from pages.kit import answers, batch, correction, downloads
from pages.kit.answers import Answer
from pages.kit.marks import MASK, Marks, Work

SCAN = Scan(
    np.arange(3 * 40 * 60, dtype=np.uint16).reshape(3, 1, 40, 60) % 900,
    (2.0, 0.5, 0.5), "CT", "MONOCHROME2", 12, (), None, None, None, "dicom",
)  # fmt: skip
BASE = {"top": "", "probabilities": {}, "covered": [], "notes": []}
BOXES = {
    **BASE,
    "boxes": [
        {"box": [3.0, 4.0, 20.0, 21.0], "class": "cat", "score": 0.91, "slice": 1},
        {"box": [30.0, 4.0, 44.0, 15.0], "class": "dog", "score": 0.34, "slice": 2},
    ],
}
OUTLINE = {
    "top": "dog", "probabilities": {"cat": 0.3, "dog": 0.7}, "covered": [], "notes": ["Outlined on one slice only."],
    "outline": {"slices": [1, 2]}, "facts": {"volume_ml": 1.234},
}  # fmt: skip
ENHANCED = {**BASE, "enhanced": {"shape": [3, 1, 80, 120]}}


def mask() -> np.ndarray:
    made = np.zeros((3, 40, 60), np.uint8)
    made[1:, 10:20, 20:35] = 1
    return made


def keep(folder: Path, *names: str) -> None:
    """What a predict job keeps beside its answer."""
    made = {
        "scan": SCAN.pixels,
        "mask": mask()[:, None],
        "heat": (mask() * 200)[:, None],
        "enhanced": np.repeat(np.repeat(SCAN.pixels, 2, 2), 2, 3),
    }
    for name in names:
        outputs.keep(folder, name, Scan(**{**vars(SCAN), "pixels": made[name]}))


def asked(home: Path, learned: Run, finding: dict[str, Any], *names: str, **more: Any) -> AppTest:  # noqa: F811
    """The Test page with this answer about a test scan."""
    session = opened("test", run=learned.id)
    pressed(session, "take-test-scan")
    job = next(job for job in RunStore(home).jobs() if job.kind == "predict")
    for name in ("input.png", "heat.png"):
        Image.fromarray(np.full((16, 16), 200, np.uint8)).save(job.folder / name)
    keep(job.folder, *names)
    told = {"finding": finding, "image": "input.png", "heatmap": None, "size": [16, 16], "outputs": list(names)}
    heat = {"title": "How sure each pixel is", "slices": None, "most": 1.0} if "heat" in names else None
    finish(home, "predict", {**told, "heat": heat, "telling": 1, "like": {"farther_than": 0.2, "of": 80}} | more)
    session.run()
    assert not session.exception, session.exception
    return session


def custom(session: AppTest) -> list[str]:
    """Names of the components of our own on the page."""
    return [str(element.proto.component_name) for element in session.main.get("bidi_component")]


def test_boxes_are_shown_from_a_score_that_can_be_changed(home: Path, learned: Run) -> None:  # noqa: F811
    session = asked(home, learned, BOXES, "scan")
    assert "1 lesion found" in said(session) and "scanloom-components.viewer" in " ".join(custom(session))
    job = RunStore(home).jobs()[0]
    slider = session.slider(key=f"threshold-{job.id}")
    assert slider.value == 0.5
    slider.set_value(0.3).run()
    assert "2 lesions found" in said(session) and not session.exception
    session.slider(key=f"threshold-{job.id}").set_value(0.95).run()
    assert "No lesion found" in said(session) and "No box reaches this score" in said(session)


def test_the_score_begins_where_the_validation_side_chose_it(home: Path, learned: Run) -> None:  # noqa: F811
    chosen = {**BOXES, "facts": {"threshold": 0.3123, "found": 2, "by_class": {"cat": 1}}}
    session = asked(home, learned, chosen, "scan")
    assert "2 lesions found" in said(session) and "Threshold" not in said(session)


def test_the_boxes_that_are_shown_are_those_that_the_run_itself_counts(home: Path, learned: Run) -> None:  # noqa: F811
    exact = {**BOXES, "facts": {"threshold": 0.3446, "found": 1}}
    exact["boxes"] = [{**BOXES["boxes"][0], "score": 0.3449}, {**BOXES["boxes"][1], "score": 0.3441}]
    session = asked(home, learned, exact, "scan")
    assert "1 lesion found" in said(session), "the slider stands on 0.34"
    assert batch.table([{"number": 0, "key": "k", "files": 1, "finding": exact}], {})[0]["boxes"] == 1
    job = RunStore(home).jobs()[0]
    session.slider(key=f"threshold-{job.id}").set_value(0.3).run()
    assert "2 lesions found" in said(session)
    high = {**exact, "facts": {"threshold": 0.99, "found": 0}, "boxes": [{**BOXES["boxes"][0], "score": 0.985}]}
    assert "No lesion found" in said(asked(home, learned, high, "scan"))


def test_what_was_measured_of_the_best_weights_is_not_said_of_the_last_ones(home: Path, learned: Run) -> None:  # noqa: F811
    told = {
        **RECOGNITION,
        "sets": {"levels": [{"level": 0.9, "limit": 0.5, "coverage": None}]},
        "checkpoint": hashlib.sha256((learned.folder / "best.safetensors").read_bytes()).hexdigest(),
    }
    (learned.folder / "evaluation-test.json").write_text(json.dumps(told))
    finding = {**BASE, "top": "dog", "probabilities": {"cat": 0.25, "dog": 0.75}}
    by = {"state": "best", "epoch": 2, "step": 0}
    assert "the truth is among what it names" in said(asked(home, learned, finding, "scan", by=by))
    session = asked(home, learned, finding, "scan", by={**by, "state": "last"})
    assert "the truth is among" not in said(session) and "dog · 75.0 %" in said(session).replace("\\", "")
    (learned.folder / "best.safetensors").write_bytes(b"it has learned since")
    assert "the truth is among" not in said(asked(home, learned, finding, "scan", by=by))


def test_an_answer_is_never_shown_under_another_run(home: Path, learned: Run) -> None:  # noqa: F811
    session = asked(home, learned, OUTLINE, "scan", "mask")
    other = a_run(home, "other", data__dataset=learned.experiment.data.dataset)
    tell(other, last=DONE)
    (other.folder / "best.safetensors").write_bytes(b"")
    session.query_params["run"] = other.id
    session.run()
    assert not session.exception and "No scan yet" in said(session) and "outlined" not in said(session)


def test_a_report_is_made_anew_where_other_boxes_are_shown_and_not_of_a_silent_run(
    tmp_path: Path,
    learned: Run,  # noqa: F811
) -> None:
    told = answer_of(tmp_path, learned, {**BOXES, "facts": {"threshold": 0.5}}, "scan")
    low = answer_of(tmp_path, learned, {**BOXES, "facts": {"threshold": 0.3}}, "scan")
    assert downloads.kinds(told) == ["sr"] and downloads._slot(told, "sr") != downloads._slot(low, "sr")
    silent = answer_of(tmp_path, learned, {**OUTLINE, "status": "unknown", "reason": "Not sure."}, "scan", "mask")
    assert downloads.kinds(silent) == ["seg", "nifti"]


def test_an_outline_is_told_with_its_size_its_type_and_its_slices(home: Path, learned: Run) -> None:  # noqa: F811
    session = asked(home, learned, OUTLINE, "scan", "mask", "heat")
    text = said(session).replace("\\", "")
    assert "dog · 70.0 % · outlined, 1.23 ml" in text and "Outlined on 2 slices, 2 to 3" in text
    assert "Outlined on one slice only." in text and "like its 80 training scans" in text
    assert {"make-seg", "make-sr", "make-nifti"} <= {b.key for b in session.button}
    assert session.button(key="make-seg").disabled, "a case of a data set has left its files behind"


def test_an_enhanced_scan_is_compared_with_what_it_was_made_of(home: Path, learned: Run) -> None:  # noqa: F811
    session = asked(home, learned, ENHANCED, "scan", "enhanced", "heat")
    assert "Enhanced" in said(session) and "120 × 80 px, 2 times as fine" in said(session)
    assert any("compare" in name for name in custom(session))


def test_another_network_tells_whether_it_changes_its_mind_on_the_enhanced_scan(home: Path, learned: Run) -> None:  # noqa: F811
    session = asked(home, learned, ENHANCED, "scan", "enhanced")
    pressed(session, "ask-opinion")
    job = next(job for job in RunStore(home).jobs() if job.kind == "opinion")
    assert job.payload["judge"] == learned.id
    told = Opinion({"cat": 0.6, "dog": 0.4}, {"cat": 0.3, "dog": 0.7}, "cat", "dog").plain()
    finish(home, "opinion", told)
    session.run()
    assert "The answer changes from cat" in said(session).replace("\\", "") and not session.exception


def test_a_confidence_is_told_with_the_calibration_of_the_run(home: Path, learned: Run) -> None:  # noqa: F811
    finding = {**BASE, "top": "dog", "probabilities": {"cat": 0.25, "dog": 0.75}}
    finding["uncalibrated"] = {"cat": 0.1, "dog": 0.9}
    text = said(asked(home, learned, finding, "scan")).replace("\\", "")
    assert "dog · 75.0 %" in text and "Calibrated with the temperature" in text and "itself says 90.0 %" in text


def test_a_run_that_is_not_sure_enough_says_so_and_one_that_refuses_shows_why(home: Path, learned: Run) -> None:  # noqa: F811
    finding = {**BASE, "probabilities": {"cat": 0.45, "dog": 0.55}, "status": "unknown", "likeliest": "dog"}
    finding["reason"] = "It is not sure enough: its likeliest class has 55 %."
    text = said(asked(home, learned, finding, "scan")).replace("\\", "")
    assert "I don't know" in text and "not sure enough" in text and "dog · 55" not in text
    refused = {**BASE, "status": "refused", "likeliest": "", "reason": "This scan is of modality MR."}
    text = said(asked(home, learned, refused, "scan")).replace("\\", "")
    assert "Not answered" in text and "of modality MR" in text and "refuse such scans" in text


def test_a_scan_far_from_the_training_is_told_so(home: Path, learned: Run) -> None:  # noqa: F811
    session = asked(home, learned, BOXES, "scan", like={"farther_than": 0.995, "of": 200})
    assert "farther out than 100 % of 200 training scans" in said(session).replace("\\", "")


def test_a_nifti_is_made_by_a_job_and_handed_out(home: Path, learned: Run) -> None:  # noqa: F811
    session = asked(home, learned, OUTLINE, "scan", "mask")
    pressed(session, "make-nifti")
    job = next(job for job in RunStore(home).jobs() if job.kind == "takeout")
    assert job.payload["to"] == "nifti" and job.payload["files"] == []
    (job.folder / "found.nii.gz").write_bytes(b"x")
    finish(home, "takeout", {"file": "found.nii.gz", "to": "nifti"})
    session.run()
    assert "download-nifti" in {d.key for d in session.get("download_button")}


def answer_of(folder: Path, learned: Run, finding: dict[str, Any], *names: str) -> Answer:  # noqa: F811
    keep(folder, *names)
    result = {"finding": finding, "outputs": names, "telling": 1, "heat": None}
    return Answer(learned, "job", folder, result, ("cat", "dog"), False, {})


def test_the_picture_and_the_table_hold_what_was_found(home: Path, tmp_path: Path, learned: Run) -> None:  # noqa: F811
    told = answer_of(tmp_path, learned, BOXES, "scan")
    shown = downloads.overlay(told, 1)
    assert shown.shape == (480, 720, 3) and (shown == (255, 176, 0)).all(2).sum() > 500
    rows = list(csv.DictReader(io.StringIO(downloads.table(BOXES).decode("utf-8-sig"))))
    assert [(r["kind"], r["name"], r["slice"], r["x1"]) for r in rows][0] == ("box", "cat", "2", "20.0")
    outlined = answer_of(tmp_path, learned, OUTLINE, "scan", "mask")
    assert (downloads.overlay(outlined, 1) != downloads.overlay(outlined, 0)).any()
    assert downloads.sheet(outlined, "not for clinical use")[:4] == b"\x89PNG"
    assert answers.headline(answer_of(tmp_path, learned, ENHANCED, "scan")) == "Enhanced"


# -- many scans --------------------------------------------------------------------------------------------------------


def test_many_scans_are_asked_about_in_one_job_and_listed_with_what_went_wrong(home: Path, learned: Run) -> None:  # noqa: F811
    session = opened("test", run=learned.id, scans="many")
    folder = home / "uploads" / session.session_state["ticket-ask-many"]
    with (folder / "names.jsonl").open("a") as told:
        for n, name in enumerate(("one.png", "two.png"), 1):
            (folder / f"{n:05d}.bin").write_bytes(b"x")
            told.write(json.dumps({"file": f"{n:05d}.bin", "name": name, "bytes": 1}) + "\n")
    session.run()
    job = next(job for job in RunStore(home).jobs() if job.kind == "predict-many")
    assert len(job.payload["files"]) == 2 and job.payload["run"] == learned.id
    assert job.payload["checkpoint"] == "best"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(job.folder / "scan-0000.png")
    scans = [
        {"number": 0, "key": keyed(home, "0"), "files": 1, "finding": {**OUTLINE}, "picture": "scan-0000.png"},
        {"number": 1, "key": keyed(home, "1"), "files": 1, "error": "This is a text file."},
    ]
    finish(home, "predict-many", {"scans": scans, "refused": 1})
    session.run()
    assert not session.exception and "1 scan answered, 1 refused" in said(session)
    shown = session.dataframe[0].value
    assert list(shown["Name"]) == ["one.png", "two.png"] and "text file" in shown["Remarks"][1]
    assert {"many-csv", "many-json"} <= {d.key for d in session.get("download_button")}
    other = a_run(home, "other", data__dataset=learned.experiment.data.dataset)
    tell(other, last=DONE)
    (other.folder / "last-000001.pt").write_bytes(b"")
    session.query_params["run"] = other.id
    session.run()
    assert "1 scan answered" not in said(session), "these are answers of another run"
    job = next(job for job in RunStore(home).jobs() if job.kind == "predict-many")
    assert (job.payload["run"], job.payload["checkpoint"]) == (other.id, "last"), "it has saved no best network yet"
    silent = {**OUTLINE, "top": "", "status": "unknown", "reason": "Not sure."}
    finish(home, "predict-many", {"scans": [{**scans[0], "finding": silent}, scans[1]], "refused": 1})
    session.run()
    assert "0 scans answered, 1 not answered, 1 refused" in said(session)
    pressed(session, "many-away")
    assert "No scans yet" in said(session)


def test_a_cell_is_never_taken_for_a_formula() -> None:
    rows = batch.table([{"number": 0, "key": "k", "files": 1, "error": "x"}], {"k": "=cmd()"})
    assert b"'=cmd()" in batch._csv(rows)


def test_the_choice_of_many_scans_is_kept_in_the_address(home: Path, learned: Run) -> None:  # noqa: F811
    session = opened("test", run=learned.id)
    session.button_group(key="how-many").set_value("Many scans").run()
    assert parameter(session, "scans") == "many" and not session.exception


# -- results -----------------------------------------------------------------------------------------------------------

F = {"value": 0.81, "low": 0.7, "high": 0.9}
NONE = {"value": None, "low": None, "high": None}
COMMON = {"split": "test", "n": 40, "patients": 12, "classes": ["cat", "dog"], "openings": {"run": 1, "dataset": 1}}
RELIABLE = {"n": [3, 4], "confidence": [0.6, 0.9], "right": [0.5, 1.0]}
RECOGNITION = {
    **COMMON,
    "metrics": {"auc": F, "accuracy": F},
    "per_class": {"cat": {"n": 20, "auc": F}, "dog": {"n": 20, "auc": NONE}},
    "confusion": [[18, 2], [3, 17]],
    "majority_accuracy": 0.5,
    "majority_class": "cat",
    "roc": {"cat": {"fpr": [0, 0.2, 1], "tpr": [0, 0.8, 1], "threshold": [1, 0.5, 0]}, "dog": None},
    "operating_points": {
        "cat": {"threshold": 0.4, "sensitivity": F, "specificity": F, "ppv": F, "npv": F},
        "dog": None,
    },
    "calibration": {
        "temperature": 1.5,
        "given": {"brier": 0.1, "ece": 0.08, "reliability": RELIABLE},
        "tempered": {"brier": 0.09, "ece": 0.03, "reliability": RELIABLE},
    },
    "notes": [],
}
DETECTION = {
    **COMMON,
    "metrics": {"map50": F, "map": F, "sensitivity_small": F, "sensitivity_medium": NONE, "sensitivity_large": F},
    "per_class": {"cat": {"n": 30, "map50": F, "map": F}, "dog": {"n": 12, "map50": F, "map": NONE}},
    "lesions": 42,
    "froc": {
        "iou": 0.3,
        "at": {"0.125": F, "1.0": F, "8.0": NONE},
        "curve": {
            "false_alarms": [0.1, 1, 8],
            "sensitivity": [0.4, 0.7, 0.9],
            "low": [0.3, 0.6, 0.8],
            "high": [0.5, 0.8, 1],
        },
    },
    "operating_point": {"threshold": 0.42, "chosen": "validation"},
    "sizes": {"bounds_px": [12.0, 30.0], "n": {"small": 10, "medium": 12, "large": 20}, "rule": "terciles"},
    "misses": [{"case": "c000001", "slice": 0, "box": [2.0, 3.0, 9.0, 9.0], "class": "cat", "score": None}],
    "false_alarms": [{"case": "c000000", "slice": 0, "box": [2.0, 3.0, 9.0, 9.0], "class": "dog", "score": 0.8}],
    "notes": ["Only 12 patients."],
}


def test_a_missed_lesion_leads_to_the_question_about_its_scan(home: Path, learned: Run) -> None:  # noqa: F811
    (learned.folder / "evaluation-test.json").write_text(json.dumps({**DETECTION, "run": learned.id}))
    session = opened("results", run=learned.id)
    pressed(session, "misses-0")
    assert title_of(session) == "What about this scan?"
    dataset = Dataset.open(home, learned.experiment.data.dataset)
    job = next(job for job in RunStore(home).jobs() if job.kind == "predict")
    assert dataset.cases[job.payload["case"]].id == "c000001"


def test_results_open_on_demand_and_without_a_network_say_what_to_do(home: Path) -> None:
    assert "No trained network yet" in said(opened("results"))
    run = a_run(home)
    tell(run, last=DONE)
    (run.folder / "best.safetensors").write_bytes(b"")
    session = opened("results")
    assert "is counted" in said(session)
    pressed(session, "open-test")
    assert RunStore(home).jobs()[0].payload == {"run": run.id, "split": "test"}


# -- the number to beat ------------------------------------------------------------------------------------------------


def test_the_number_to_beat_is_measured_by_a_job_and_stands_beside_the_test_figures(home: Path, learned: Run) -> None:  # noqa: F811
    (learned.folder / "evaluation-test.json").write_text(json.dumps({**RECOGNITION, "run": learned.id}))
    id = learned.experiment.data.dataset
    session = opened("results", run=learned.id)
    pressed(session, f"ask-baseline-test-{id}")
    job = next(job for job in RunStore(home).jobs() if job.kind == "baseline")
    assert job.payload == {"dataset": id, "test": True}
    from builder import baseline

    dataset = Dataset.open(home, id)
    figures = {
        "n": 4,
        "patients": 4,
        "metrics": dict.fromkeys(("auc", "accuracy", "balanced_accuracy", "f1"), F),
        "notes": [],
    }
    kept = {"key": baseline._key(dataset), "chosen": "the nearest neighbour", "val": figures, "test": figures}
    (dataset.folder / baseline.FILE).write_text(json.dumps(kept))
    finish(home, "baseline", kept)
    session.run()
    assert "The number to beat" in said(session) and "nearest neighbour on frozen features" in said(session)


# -- correcting --------------------------------------------------------------------------------------------------------


def test_a_wrong_class_is_corrected_and_kept_in_the_data_set(home: Path, learned: Run) -> None:  # noqa: F811
    finding = {**BASE, "top": "dog", "probabilities": {"cat": 0.1, "dog": 0.9}}
    session = asked(home, learned, finding, "scan")
    job = next(job for job in RunStore(home).jobs() if job.kind == "predict")
    case = int(parameter(session, "case"))
    dataset = Dataset.open(home, learned.experiment.data.dataset)
    other = next(name for name in dataset.classes if name != dataset.classes[dataset.cases[case].label])
    session.toggle(key=f"correct-{job.id}").set_value(True).run()
    session.button_group(key=f"label-{job.id}").set_value(other).run()
    pressed(session, "save-correction")
    assert "It is in the data set" in said(session) and "on the test side" in said(session)
    assert dataset.classes[Dataset.open(home, dataset.id).cases[case].label] == other


def test_what_a_network_found_becomes_labels_of_the_data_set(
    home: Path,
    tmp_path: Path,
    learned: Run,  # noqa: F811
) -> None:
    dataset = Dataset.open(home, learned.experiment.data.dataset)
    told = answer_of(tmp_path, learned, {**BOXES, **OUTLINE}, "scan", "mask")
    marks, scores = correction.proposals_of(told, dataset)
    assert [(b.x0, b.label, b.slice) for b in marks.boxes or ()] == [(3.0, dataset.classes.index("cat"), 1)]
    assert scores == [0.91] and marks.mask is not None and np.array_equal(marks.mask, mask())
    two = SimpleNamespace(classes=dataset.classes, mask_names=("liver", "tumour"))
    assert correction.proposals_of(told, cast(Dataset, two))[0].mask is None, (
        "the outline does not say of which of both it is"
    )
    said_so = correction.said_of(dataset, marks, ("dog",))
    assert said_so.boxes == ((3.0, 4.0, 20.0, 21.0, "cat", 1),) and said_so.label == ("dog",)


def test_what_is_only_proposed_is_not_saved_as_somebodys_word(home: Path, learned: Run) -> None:  # noqa: F811
    dataset = Dataset.open(home, learned.experiment.data.dataset)
    work = Work.begin("a", (3, 40, 60), Marks(), Marks(mask=mask()))
    told = answer_of(home, learned, OUTLINE)
    assert correction._said(told, dataset, work).mask is None
    work.change(MASK, work.marks.mask)
    assert correction._said(told, dataset, work).mask is not None


def test_what_a_correction_of_a_test_scan_does_to_the_figures_is_said(home: Path, learned: Run) -> None:  # noqa: F811
    finding = {**BASE, "top": "dog", "probabilities": {"cat": 0.1, "dog": 0.9}}
    text = said(asked(home, learned, finding, "scan"))
    assert "stays on the test side" in text and "teaches" not in text and "was opened" not in text
    count_opening(Dataset.open(home, learned.experiment.data.dataset), learned.id)
    assert "make its figures look better than they are" in said(asked(home, learned, finding, "scan"))
