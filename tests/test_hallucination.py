"""What an enhanced scan makes up or hides: a planted structure is exposed, a harmless filter is not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from builder import hallucination, task
from builder.__main__ import main
from builder.data import Dataset
from builder.hallucination import NotAudited, audit, diagnose
from builder.measures.structures import FROM_NOISE, KINDS, MADE_UP, TAKEN_AWAY, differing
from builder.runs import Run
from builder.task import Restoration
from tasks.image_enhancement import ImageEnhancement
from tests.tiny_runs import tiny_run

WINDOW = (-160.0, 240.0)
Y, X = 150, 90


def scene(seed: int, side: int = 192) -> tuple[np.ndarray, np.ndarray]:
    """(a true picture with organs, a straight vessel and round structures; the same with noise), HU."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side]
    true = 40 + 20 * np.sin(columns / 40) + 10 * np.cos(rows / 30)
    true[(rows - 70) ** 2 + (columns - 50) ** 2 < 25**2] += 80
    true[:, 130:138] += 60
    for _ in range(4):
        y, x = rng.integers(20, 100, 2)
        true += blob(y, x, 70, 3.5, side)
    return true, true + rng.normal(0, 25, true.shape)


def blob(y: float, x: float, high: float, sigma: float, side: int = 192) -> np.ndarray:
    rows, columns = np.mgrid[:side, :side]
    return np.asarray(high * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * sigma**2)))


# -- the search -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("harmless", [0.0, 0.7, 1.2], ids=["the input", "a mild filter", "a stronger one"])
def test_what_makes_nothing_up_is_not_accused(harmless: float) -> None:
    for seed in range(6):
        true, source = scene(seed)
        made = gaussian_filter(source, harmless) if harmless else source
        assert differing(made, source, true, WINDOW) == []
        assert differing(true, source, true, WINDOW) == []


@pytest.mark.parametrize(("high", "sigma"), [(60.0, 3.0), (-60.0, 2.5), (90.0, 6.0)])
def test_a_structure_that_was_made_up_is_found_with_its_size_and_contrast(high: float, sigma: float) -> None:
    for seed in range(6):
        true, source = scene(seed)
        made = gaussian_filter(source, 1.2) + blob(Y, X, high, sigma)
        (found,) = differing(made, source, true, WINDOW, 0.7)
        assert found.kind == MADE_UP and np.hypot(found.y - Y, found.x - X) < 3
        size = 2 * np.sqrt(2) * sigma
        assert 0.6 * size < found.diameter_px < 1.6 * size and found.diameter_mm == 0.7 * found.diameter_px
        assert 0.3 < found.contrast / high < 1 and abs(found.true) < 0.2 * abs(high)


def test_a_structure_that_was_taken_away_and_one_made_of_noise_are_told_apart() -> None:
    true, source = scene(1)
    with_it = blob(Y, X, 70, 3.5)
    (found,) = differing(gaussian_filter(source, 1.2), source + with_it, true + with_it, WINDOW)
    assert found.kind == TAKEN_AWAY and found.contrast == found.true and abs(found.after) < 0.5 * found.true
    (found,) = differing(gaussian_filter(source, 1.2) + with_it, source + with_it, true, WINDOW)
    assert found.kind == FROM_NOISE and found.diameter_mm is None


def test_lines_what_lies_outside_and_what_no_reader_sees_do_not_count() -> None:
    true, source = scene(2)
    line = np.zeros_like(true)
    line[:, 100:103] = 70
    assert differing(gaussian_filter(source, 1.2) + line, source, true, WINDOW) == []
    counted = np.ones(true.shape, bool)
    counted[Y - 20 : Y + 20] = False
    made = gaussian_filter(source, 1.2) + blob(Y, X, 90, 4)
    assert differing(made, source, true, WINDOW, counted=counted) == []
    assert differing(made - 1000, source - 1000, true - 1000, WINDOW) == [], "all of it is black in this window"


# -- a run, audited ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def enhancer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Dataset, Run]:
    home = tmp_path_factory.mktemp("enhancer")
    dataset, run = tiny_run(home, "image_enhancement", home / "source")
    return home, dataset, run


@pytest.mark.parametrize("planted", [True, False])
def test_an_enhancer_that_adds_a_structure_is_exposed_and_a_harmless_one_is_not(
    planted: bool, enhancer: tuple[Path, Dataset, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, _, run = enhancer
    own = ImageEnhancement.restorations

    def restorations(*given: Any) -> Any:
        for one in own(*given):
            size = one.target.shape[-1]
            wide = one.window[1] - one.window[0]
            added = blob(size // 2, size // 2, 0.6 * wide, 3, size) if planted else 0.0
            made = np.clip(gaussian_filter(one.source, (0, 0.7, 0.7)) + added, *one.window)
            yield replace(one, output=made)

    monkeypatch.setattr(ImageEnhancement, "restorations", restorations)
    found = audit(run, home, resamples=100)
    assert found == json.loads(json.dumps(hallucination.kept(run)))
    added = found["ways"]["output"][MADE_UP]["value"]
    assert set(found["ways"]) == set(hallucination.WAYS) and set(found["ways"]["filter"]) == set(KINDS)
    if planted:
        assert added > 0.5 > found["ways"]["filter"][MADE_UP]["value"]
        assert any("neither in what came nor in the good scan" in words for words in found["verdicts"])
        assert found["shown"] and all(hallucination.drawn(run, k).is_file() for k in range(len(found["shown"])))
        assert found["slices"]["low"] > 0.1
    else:
        assert added == 0 and not any("neither in what came" in words for words in found["verdicts"])


def test_restorations_are_the_slices_that_an_evaluation_judges(enhancer: tuple[Path, Dataset, Run]) -> None:
    from builder.predict import Predictor

    home, dataset, run = enhancer
    predictor = Predictor.open(run.folder)
    kind = task.find("image_enhancement")
    cases = kind.cases(dataset, predictor.experiment, "val")[:2]
    made = list(kind.restorations(predictor.asked, dataset, cases, 2))
    assert {one.case for one in made} == set(cases.tolist()) and all(isinstance(one, Restoration) for one in made)
    assert made[0].output.shape == made[0].target.shape == (1, *made[0].counted.shape)
    assert not list(task.find("recognition").restorations(predictor.asked, dataset, cases, 2))
    bright = replace(predictor.asked, answers=lambda images: [np.full_like(image, 99) for image in images])
    (over,) = kind.restorations(bright, dataset, cases[:1], 1)
    assert over.output.max() == 65535, "judged is what is handed back, and 16 bits hold no more"


def test_poor_scans_are_what_an_enhancer_knows_and_good_ones_are_not(
    enhancer: tuple[Path, Dataset, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    from builder import gate, nearness
    from builder.predict import Predictor

    home, dataset, run = enhancer
    monkeypatch.setattr(nearness, "_FEWEST", 5)
    predictor = Predictor.open(run.folder)
    known = nearness.of_run(predictor, run.folder, home)
    assert known is not None
    for case in dataset.indices("val", labelled=False).tolist():
        good = dataset.scan(case)
        poor = hallucination._made_poor(predictor, good, case + 1000)
        far, near = (known.distance(nearness.features_of(predictor, scan)) for scan in (good, poor))
        assert near < 2 < far, "in multiples of the usual distance"
        assert known.unlike(far) and not known.unlike(near)
    assert gate.measure(run, home)["own"]["stopped"]["value"] == 0


def test_a_diagnosis_is_counted_before_and_after_with_a_paired_interval(
    enhancer: tuple[Path, Dataset, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, _, run = enhancer
    _, judge = tiny_run(home, "recognition", tmp_path / "scans")
    told = diagnose(run, judge, home, resamples=100)
    assert told == json.loads(json.dumps(hallucination.diagnosed(run))) and told["poor"]
    gain = told["gain"]
    assert gain["value"] == pytest.approx(told["after"]["value"] - told["before"]["value"])
    assert gain["low"] <= gain["value"] <= gain["high"] and told["n"] + told["refused"] > 0
    assert (told["better"] - told["worse"]) / told["n"] == pytest.approx(gain["value"])
    with pytest.raises(NotAudited, match="restores no scans"):
        diagnose(judge, judge, home)
    with pytest.raises(NotAudited, match="does not name one class"):
        diagnose(run, run, home)
    with pytest.raises(NotAudited, match="makes no pictures"):
        audit(judge, home)


def test_the_command_line_tells_both(
    enhancer: tuple[Path, Dataset, Run], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home, _, run = enhancer
    monkeypatch.setenv("SCANLOOM_HOME", str(home))
    assert main(["hallucinations", run.id]) == 0
    out = capsys.readouterr().out
    assert "A mild Gaussian filter" in out and "made up" in out
    assert main(["explain", run.id]) == 2 and "names no classes" in capsys.readouterr().err


@pytest.mark.parametrize(("right", "verdict"), [(20, "better"), (0, "worse"), (10, "not shown")])
def test_the_verdict_follows_the_interval(right: int, verdict: str) -> None:
    turned = np.arange(20) < right
    rows = np.stack([~turned, turned, np.ones(20, bool)], 1).astype(float)
    told = hallucination._compared(rows, np.arange(20), 400)
    assert told["verdict"] == verdict and (told["better"], told["worse"]) == (right, 20 - right)
    assert "changes its mind on 100.0 of 100" in told["words"]
    alone = hallucination._compared(rows, np.zeros(20), 50)
    assert alone["verdict"] == "not shown" and "one patient: no interval" in alone["words"]
