"""Parts of scans taken away: a network that goes by a corner marker is exposed, one that goes by the lesion is not."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import little_run
import numpy as np
import pytest
from PIL import Image

from builder import blanking, sanity
from builder.blanking import PROBES, NotAsked, ask, blanked, verdicts
from builder.data import Dataset
from builder.lettering import lettering
from builder.runs import Run
from tests.tiny_runs import tiny_run

SIDE = 32


def planted(home: Path, by: str) -> tuple[Dataset, Run]:
    """96 noisy scans of 32 px of as many patients, and a run: `by` says what tells the two classes apart."""
    rng, folder = np.random.default_rng(7), home.parent / f"{home.name}-scans"
    folder.mkdir(parents=True)
    with open(folder / "labels.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("file", "label", "patient", "mask"))
        for k in range(96):
            sick = k % 2 == 1
            image, mask = rng.normal(90, 22, (SIDE, SIDE)), np.zeros((SIDE, SIDE), np.uint8)
            x, y = rng.integers(10, 17, 2)
            mask[y : y + 6, x : x + 6] = 255
            if by == "lesion" and sick:
                image[y : y + 6, x : x + 6] += 90
            if by == "marker" and sick:
                image[1:4, 1:6] = 250
            if by == "letters":
                image[:9] = rng.normal(15, 4, (9, SIDE))
                wide = 2 if sick else 1  # of each stroke
                for at in range(2, 26, 4):
                    image[2:7, at : at + wide] = 250
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / f"s{k}.png")
            Image.fromarray(mask).save(folder / f"s{k}-mask.png")
            rows.writerow((f"s{k}.png", "sick" if sick else "well", f"p{k}", f"s{k}-mask.png"))
    dataset = little_run.imported(home, folder / "labels.csv", synthetic=True)
    experiment = little_run.starter().replace("data.size_px", SIDE).replace("training.epochs", 12)
    experiment = experiment.replace("training.augment", ()).replace("training.batch_size", 8)
    return dataset, little_run.trained(home, experiment, dataset)


def test_a_run_that_learned_a_corner_marker_is_exposed(tmp_path: Path):
    home = tmp_path / "home"
    _, run = planted(home, "marker")
    found = ask(run, home, resamples=300)
    assert found["probes"]["whole"]["auc"]["value"] > 0.9
    for name in ("without_middle", "border", "without_lesion"):
        assert found["probes"][name]["auc"]["low"] > 0.5, name  # seven patients a side: 0.59 at best
    assert found["probes"]["lesion"]["auc"]["low"] < 0.5 or found["probes"]["lesion"]["auc"]["value"] < 0.7
    assert any(words.startswith("Its border alone: still AUC") for words in found["verdicts"])
    assert any("Nearly all of what it goes by lies" in words for words in found["verdicts"])
    assert blanking.kept(run) == json.loads(json.dumps(found))
    assert all(blanking.drawn(run, name).is_file() for name in found["probes"])
    with Image.open(blanking.drawn(run, "border")) as strip:
        assert strip.size == (3 * SIDE, SIDE)


def test_a_run_that_learned_the_lesion_is_not(tmp_path: Path):
    home = tmp_path / "home"
    _, run = planted(home, "lesion")
    found = ask(run, home, resamples=300)
    assert found["probes"]["whole"]["auc"]["value"] > 0.9 and found["with_lesions"] == found["n"]
    assert found["probes"]["lesion"]["auc"]["value"] > 0.9
    for name in ("without_middle", "border", "without_lesion"):
        assert found["probes"][name]["auc"]["low"] <= 0.5, name
    assert not any("goes by lies" in words for words in found["verdicts"])


@pytest.mark.parametrize("shape", [(2, 1, 20, 20), (2, 4, 3, 20, 20)])
@pytest.mark.parametrize("name", PROBES)
def test_each_probe_takes_away_what_it_says_and_leaves_the_rest(name: str, shape: tuple[int, ...]):
    rng = np.random.default_rng(0)
    images = rng.random(shape, np.float32)
    inside = np.zeros((2, 20, 20), bool)
    inside[:, 8:12, 3:6] = True
    before = images.copy()
    found = blanked(name, images, inside)
    assert found.shape == shape and found.dtype == np.float32 and np.array_equal(images, before)
    same = (found == images).reshape(-1, 20, 20).all(0)
    expected = {
        "whole": np.ones((20, 20), bool),
        "without_middle": np.pad(np.zeros((10, 10), bool), 5, constant_values=True),
        "border": np.pad(np.zeros((14, 14), bool), 3, constant_values=True),
        "without_lesion": ~inside[0],
        "lesion": inside[0],
        "without_text": ~inside[0],
        "text": inside[0],
    }
    if name == "coarse":
        assert not same.any() and found.mean() == pytest.approx(images.mean(), abs=0.02)
    else:
        assert np.array_equal(same, expected[name])


def lettered(seed: int, words: str) -> np.ndarray:
    """A noisy scan (1, 96, 96) in [0, 1] with a round bright organ, and words burnt into its dark corner."""
    from PIL import ImageDraw

    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:96, :96]
    grey = rng.normal(20, 6, (96, 96)) + 150 * ((rows - 60) ** 2 + (columns - 50) ** 2 < 24**2)
    image = Image.fromarray(grey.clip(0, 255).astype(np.uint8))
    ImageDraw.Draw(image).text((4, 4), words, fill=255)
    return np.asarray(image, np.float32)[None] / 255


def test_burnt_in_letters_are_found_and_a_scan_without_any_is_left_alone():
    bare, written = (np.stack([lettered(seed, words) for seed in range(8)]) for words in ("", "LEFT 12"))
    assert not lettering(bare).any()
    found = lettering(written)
    letters = (written - bare)[:, 0] > 0.3
    assert bool(np.all(found.any((1, 2)))) and found[letters].mean() > 0.9 and found.mean() < 0.1
    assert not found[:, 40:].any(), "the organ is no letter"
    assert np.array_equal(lettering(np.repeat(written[:, None], 3, 1)), found), "slices share their letters"


def test_a_run_that_reads_burnt_in_letters_is_exposed(tmp_path: Path):
    told = {"whole": {"auc": {"value": 0.95, "low": 0.9, "high": 0.99}}}
    told["text"] = {"auc": {"value": 0.93, "low": 0.85, "high": 0.98}}
    lost = {"value": 0.4, "low": 0.3, "high": 0.5}
    told["without_text"] = {"auc": {"value": 0.55, "low": 0.4, "high": 0.7}, "lost": lost}
    said = " ".join(verdicts(told))
    assert "letters that are burnt into the scan" in said and "AUC falls by 0.40 (0.30 to 0.50)" in said
    home = tmp_path / "home"
    _, run = planted(home, "letters")
    found = ask(run, home, resamples=200)
    assert found["with_text"] == found["n"] and found["probes"]["text"]["auc"]["low"] > 0.5
    assert found["probes"]["without_text"]["lost"]["low"] > 0.1
    assert any(words.startswith("Its text alone: still AUC") for words in found["verdicts"])


def test_a_run_without_classes_and_one_that_learned_nothing_are_told_in_words(tmp_path: Path):
    home = tmp_path / "home"
    _, run = tiny_run(home, "image_enhancement", tmp_path / "source")
    with pytest.raises(NotAsked, match="does not tell classes apart"):
        ask(run, home)
    chance = {"value": 0.55, "low": 0.4, "high": 0.7}
    (words,) = verdicts({"whole": {"auc": chance}, "border": {"auc": {"value": 0.9, "low": 0.8, "high": 1.0}}})
    assert "does not tell the classes apart" in words


def test_lesions_that_nobody_has_looked_for_prove_nothing():
    """A network that goes by the lesions alone: of half of the sick scans nobody has drawn them, so they stay."""
    labels, cases = np.arange(100) % 2, np.arange(100)
    drawn = (labels == 1) & (cases < 50)
    rng = np.random.default_rng(0)
    whole = np.where(labels == 1, 0.9, 0.1) + rng.normal(0, 0.02, 100)
    without = np.where(drawn, 0.1, whole) + rng.normal(0, 0.02, 100)
    answers = (("whole", whole), ("without_lesion", without))
    chances = {name: (np.stack([1 - p, p], 1), np.ones(100)) for name, p in answers}
    known = [SimpleNamespace(carries=lambda by, k=k: by == "boxes" and bool(drawn[k])) for k in cases]
    has = {"lesion": drawn, "text": np.zeros(100, bool)}
    targets, dataset = SimpleNamespace(classes=labels, cases=cases), SimpleNamespace(patients=cases, cases=known)
    found = blanking._report(chances, targets, has, dataset, 200)  # type: ignore[arg-type]
    assert found["probes"]["without_lesion"]["n"] == 75 and found["with_lesions"] == 25
    assert not any("goes by lies" in words for words in found["verdicts"])


def test_a_case_of_several_slices_is_told_as_the_task_tells_it():
    """Of a tumour two slices of twelve show anything; what is said of the others is chance, and counts for nothing."""
    import torch

    from builder import task
    from builder.spec import Data, Experiment
    from tasks.tumor_answers import of_case

    kind, experiment = task.find("tumor_diagnosis"), Experiment(data=Data(size_px=16, slices="each"))
    rng, labels, cases = np.random.default_rng(0), np.arange(24) % 2, np.repeat(np.arange(24), 12)
    rows = np.full((len(cases), 2 + 16 * 16), -6.0, np.float32)
    rows[:, :2] = rng.normal(0, 4, (len(cases), 2))
    for row in np.flatnonzero(np.isin(np.arange(len(cases)) % 12, (5, 6))):
        rows[row, :2], rows[row, 2:22] = (0, 6 * labels[cases[row]] - 3), 6
    outputs = torch.from_numpy(rows)
    asked = SimpleNamespace(experiment=experiment, outlined=True)
    predictor = SimpleNamespace(experiment=experiment, multi_label=False, asked=asked, run=lambda images: outputs)
    told = blanking.chances_of(predictor, kind, rows)  # type: ignore[arg-type]
    found = blanking.of_cases(told, cases, np.arange(24))
    answers = kind.answers(experiment, None, outputs, False)
    assert np.allclose(found, [of_case([answers[k] for k in np.flatnonzero(cases == case)]) for case in range(24)])
    assert (found.argmax(1) == labels).all()
    assert {sanity._telling_row(cases, told[1], case) % 12 for case in range(24)} == {6}
    asked.outlined = False
    alike = blanking.of_cases(blanking.chances_of(predictor, kind, rows), cases, np.arange(24))  # type: ignore[arg-type]
    assert np.allclose(alike[0], told[0][:12].mean(0), atol=1e-6)
