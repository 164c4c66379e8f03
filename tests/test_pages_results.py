"""The Results page draws what the tasks' own reports hold: real runs of every task; no part that none of them has."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest
from test_intake import nearby  # noqa: F401 (a fixture)
from test_pages_build import no_supervisor  # noqa: F401 (a fixture)

from builder import blanking, calibrate, operating
from builder.data import Dataset
from builder.evaluate import evaluate, examples
from builder.evidence import pack, verify
from builder.hallucination import audit
from builder.labels import record
from builder.runs import Run, RunStore
from builder.task import TASKS
from pages.kit import figures, trust
from tests.test_pages_shell import opened, said, title_of
from tests.tiny_runs import tiny_run

pytestmark = pytest.mark.usefixtures("nearby")
Reported = tuple[Path, Run, dict[str, Any]]


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Reported]:
    """Gives (home, run, its report on the test scans) of a task; each is trained once."""
    made: dict[str, Reported] = {}

    def of(task: str) -> Reported:
        if task not in made:
            home = tmp_path_factory.mktemp(task)
            _, run = tiny_run(home, task, home / "source")
            made[task] = (home, run, evaluate(run, home, resamples=40))
        return made[task]

    return of


def shown(home: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    monkeypatch.setenv("SCANLOOM_HOME", str(home))
    return opened("results", run=run.id)


def whole(report: dict[str, Any]) -> dict[str, Any]:
    return {**(report.get("outlines") or {}), **report}


@pytest.mark.parametrize("task", TASKS)
def test_every_part_of_a_report_is_drawn_and_every_figure_has_a_name(
    task: str, reported: Callable[[str], Reported], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, run, report = reported(task)
    session = shown(home, run, monkeypatch)
    assert title_of(session) == "Can I trust it?"
    text = said(session).replace("\\", "")
    parts = [part for part in figures.SECTIONS if whole(report).get(part[0])]
    galleries = [words for name, (words, _) in trust._GALLERIES.items() if whole(report).get(name)]
    assert len(parts) >= 3, "a report of which little is shown"
    assert not [title for _, title, _, _ in parts if title not in text]
    assert not [words for words in galleries if words not in text]
    assert not [name for name in report["metrics"] if name not in figures.METRICS]
    listed = [row for name in trust._GALLERIES for row in whole(report).get(name) or ()]
    assert all(int(row.get("slice", 0)) >= 0 for row in listed), "a place in the scan"


@pytest.mark.parametrize("task", TASKS)
def test_a_pack_of_any_task_holds_and_its_report_tells_every_figure(
    task: str, reported: Callable[[str], Reported]
) -> None:
    home, run, report = reported(task)
    file = pack.make(run, home, resamples=40)
    looks = (home / "datasets" / report["dataset"] / "test-openings.jsonl").read_bytes()
    found = verify.verify(file, home)
    numbers = found["numbers"]
    assert found["holds"] and numbers["checked"] == numbers["holding"] == numbers["exact"] > 20, found["words"]
    assert not [item for item in found["items"] if item["state"] != "same"]
    assert (home / "datasets" / report["dataset"] / "test-openings.jsonl").read_bytes() == looks, "no look was counted"
    html = (file.with_suffix("") / "report.html").read_text()
    assert not re.search(r"<script|<img|<link|@import|url\((?!#)|https?://(?!www\.w3\.org/)", html), "it stands alone"
    told = [*report["metrics"].values(), *((report.get("outlines") or {}).get("metrics") or {}).values()]
    assert not [figure for figure in told if figures.interval(figure) not in html]
    assert html.count("<svg") >= 4


def test_no_part_of_the_page_waits_for_what_no_report_holds(reported: Callable[[str], Reported]) -> None:
    held = {name for task in TASKS for name, value in whole(reported(task)[2]).items() if value}
    assert {name for name, *_ in figures.SECTIONS} - held <= {"subgroups"}, "the little scans are all of one kind"
    assert not set(trust._GALLERIES) - held - {"misses", "false_alarms", "false_positives"}, "a run may be without flaw"


def test_enhanced_scans_stand_beside_filters_and_what_is_still_wrong_is_shown(
    reported: Callable[[str], Reported], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, run, report = reported("image_enhancement")
    session = shown(home, run, monkeypatch)
    text = said(session)
    good, came = (report["ways"][way]["noise_std"]["value"] for way in ("true", "input"))
    assert "Before, after, and what is still wrong" in text and "of the input's noise is left" in text
    assert f"the good scans themselves have {100 * good / came:.0f} % of it" in text
    table = session.dataframe[0].value
    assert {"This network", "The input as it is", "Gaussian filter", "Non-local means"} <= set(table["Picture"])
    spread = report["per_picture"]["psnr_db"]
    assert len(spread["output"]) == report["n"] and set(spread) >= {"output", "input", "gaussian"}
    assert all(row["case"] and row["slice"] >= 0 for row in report["worst_images"])
    found = examples(run)
    assert found and all(one.shape[0] == 3 for one in found)
    pictures, reach = trust._four(found[0])
    assert reach > 0 and [picture.dtype for picture in pictures] == [np.uint8] * 4
    wrong = found[0][1] - found[0][2]
    brightest = np.unravel_index(wrong.argmax(), wrong.shape)
    red, _, blue = (int(v) for v in pictures[3][brightest])
    assert red > blue, "too bright is red"


def test_figures_that_are_older_than_a_correction_say_so(
    reported: Callable[[str], Reported], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, run, _ = reported("recognition")
    assert "were changed since" not in said(shown(home, run, monkeypatch))
    record(Dataset.open(home, run.experiment.data.dataset), 0, label=1, origin="corrected")
    assert "were changed since" in said(shown(home, run, monkeypatch))


def test_a_run_that_kept_no_examples_has_none(reported: Callable[[str], Reported]) -> None:
    assert examples(reported("recognition")[1]) == []


def test_a_threshold_is_chosen_at_ones_own_prevalence_kept_and_told_beside_answers(
    reported: Callable[[str], Reported], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, run, report = reported("recognition")
    session = shown(home, run, monkeypatch)
    assert "For patients like mine" in said(session) and "1,000" in said(session)
    label: Any = session.segmented_control(key=f"operating-class-{run.id}").value
    key = f"{run.id}-{label}"
    session.number_input(key=f"prevalence-{key}").set_value(2.0).run()
    here = operating.separation(run, label, "test")
    assert here is not None
    middle = round(float(np.median(here.scores)), 3)
    session.slider(key=f"threshold-{key}").set_value(middle).run()
    assert "**20** have it" in said(session)
    session.segmented_control(key=f"drawn-{key}").set_value("Decision curve").run()
    assert "acting on the network's answer" in said(session)
    session.number_input(key=f"cost-{key}").set_value(2.0)  # and pressed before the page was drawn anew
    session.button(key=f"keep-{key}").click().run()
    kept = operating.chosen(run)[label]
    assert (kept.threshold, kept.prevalence, kept.cost) == (middle, 0.02, 2.0)
    assert f"Kept: from {middle:.5g}, at 2 in 100" in said(session)
    (yes,), (no,) = words_of(run, {label: middle}), words_of(run, {label: middle - 0.001})
    assert f"{label}: yes" in yes and "Where 2 of 100 have it, such answers are false" in yes
    assert f"{label}: no" in no and "people cleared like this have it all the same" in no
    session.slider(key=f"threshold-{key}").set_value(0.99).run()
    assert "What is shown now is not kept" in said(session)
    operating.choose(run, operating.Choice(label, 1.0, 0.02, 1.0))
    assert "No test scan was answered so" in words_of(run, {label: 1.0})[0]
    session.button(key=f"best-{key}").click().run()
    before = operating.separation(run, label, "val")
    assert before is not None and not session.exception
    best = session.slider(key=f"threshold-{key}").value
    assert best == before.cheapest(0.02, 2.0), "to the last digit: sure networks have scores nearer than a step"


def words_of(run: Run, probabilities: dict[str, float]) -> list[str]:
    from pages.kit.operating import in_words

    return in_words(run, probabilities)


@pytest.mark.usefixtures("no_supervisor")
def test_what_a_run_goes_by_is_asked_for_and_shown(
    reported: Callable[[str], Reported], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, run, _ = reported("recognition")
    session = shown(home, run, monkeypatch)
    session.button(key="ask-blanked").click().run()
    assert not session.exception and not session.error
    assert [job.payload for job in RunStore(home).jobs() if job.kind == "blanked"] == [{"run": run.id}]
    found = blanking.ask(run, home, resamples=40)
    session = shown(home, run, monkeypatch)
    text = said(session).replace("\\", "")
    assert all(words in text for words in found["verdicts"]) and "Its border alone" in text
    home, run, _ = reported("image_enhancement")
    assert "What does it go by?" not in said(shown(home, run, monkeypatch))


def test_beside_an_answer_stands_all_that_it_may_be(
    reported: Callable[[str], Reported], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pages.kit import answers

    _, run, report = reported("recognition")
    assert set(report["sets"]) == {"levels", "patients"} and len(report["silence"]["answered"]) > 1

    def said_of(chances: dict[str, float], limit: float | None, **more: Any) -> str:
        row = {"level": 0.9, "limit": limit, **more}
        monkeypatch.setattr(answers, "current", lambda _: {"sets": {"levels": [row]}})
        finding = {"probabilities": chances}
        return answers.named(answers.Answer(run, "", run.folder, {"finding": finding}, tuple(chances), False, {}))

    chances = {"a": 0.2, "b": 0.5, "c": 0.3}
    assert said_of(chances, 0.25).endswith("Here: **b, c**.") and "In 90 of 100 scans" in said_of(chances, 0.25)
    assert "names **nothing**" in said_of(chances, 0.6) and "it does not know" in said_of(chances, 0.1)
    assert said_of(chances, None) == ""
    broken = {"value": 0.8, "low": 0.7, "high": 0.87}
    assert "(on its test scans, in 80)" in said_of(chances, 0.25, coverage=broken)
    assert "test scans" not in said_of(chances, 0.25, coverage={**broken, "high": 0.93})


# -- the terms, its maps, and what it makes up ------------------------------------------------------------------------


def test_the_terms_of_a_run_are_chosen_on_the_page_and_told_with_what_they_come_to(
    reported: Callable[[str], Reported], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, run, _ = reported("recognition")
    calibrate.judge(run, home)
    session = shown(home, run, monkeypatch)
    assert "Calibrate its probabilities" in {toggle.label for toggle in session.toggle}
    session.toggle(key=f"terms-calibrated-{run.id}").set_value(True).run()
    assert calibrate.chosen(run).temperature
    choice: Any = session.segmented_control(key=f"terms-by-{run.id}")
    choice.set_value("coverage").run()
    now = calibrate.chosen(run)
    assert (now.by, now.wanted) == ("coverage", 0.8) and now.temperature and now.limit
    session.slider(key=f"terms-wanted-coverage-{run.id}").set_value(40.0).run()
    assert calibrate.chosen(run).wanted == 0.4 and not session.exception
    assert "test scan" in said(session) and "It answers from a confidence of" in said(session)
    policy: Any = session.segmented_control(key=f"terms-gate-{run.id}")
    policy.set_value("refuse").run()
    assert calibrate.chosen(run).gate == "refuse" and calibrate.chosen(run).wanted == 0.4
    stopped = {"value": 0.05, "low": 0.01, "high": 0.2}
    told: dict[str, Any] = {
        "checkpoint": calibrate.weights_of(run),
        "own": {"n": 40, "stopped": stopped, "grounds": {"features": 2}},
    }
    told["foreign"] = [{"dataset": "x", "name": "Others", "n": 30, "stopped": stopped, "grounds": {"size": 9}}]
    (run.folder / "gate.json").write_text(json.dumps(told))
    text = said(session.run()).replace("\\", "")
    assert "Of 40 own validation scans" in text and "or to the network (2)" in text and "*Others*" in text
    (run.folder / "terms.jsonl").unlink()


def test_maps_that_fail_their_tests_are_told_with_the_reason(
    reported: Callable[[str], Reported], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, run, _ = reported("tumor_diagnosis")
    alike = {"last": 0.9, "upper": 0.8, "all": 0.7}
    row = {"randomised": alike, "shifted": 0.9, "empty": 0.0}
    part = {"value": 0.4, "low": 0.3, "high": 0.5}
    lesions = {"n": 9, "hit": part, "inside": part, "area": 0.05}
    methods = {"grad_cam": {**row, "ok": False, "reason": "They show the picture.", "lesions": lesions}}
    methods["occlusion"] = {**row, "ok": True, "reason": "", "lesions": None}
    told = {"checkpoint": calibrate.weights_of(run), "n": 5, "learned": {"ok": True, "reason": ""}, "methods": methods}
    (run.folder / "explained.json").write_text(json.dumps(told))
    text = said(shown(home, run, monkeypatch)).replace("\\", "")
    assert "Grad-CAM**: They show the picture." in text and "Covering parts**: passed" in text
    assert "it covers 5 % of the scan" in text
    from pages.kit.explained import verdict

    assert verdict(run, "grad_cam") and verdict(run, "occlusion") == "" and verdict(run, "integrated_gradients") is None
    (run.folder / "explained.json").unlink()


def test_an_enhancer_shows_what_it_made_up_and_what_a_diagnosis_says(
    reported: Callable[[str], Reported], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, run, _ = reported("image_enhancement")
    session = shown(home, run, monkeypatch)
    assert {"ask-audited"} <= {button.key for button in session.button}
    assert "names no classes here" in said(session), "why there is no test of maps"
    audit(run, home, resamples=40)
    text = said(shown(home, run, monkeypatch))
    assert "Does it make things up?" in text and "A mild filter invents nothing" in text
