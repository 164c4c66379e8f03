"""Copies are found however they were turned or saved, traces that tell the label are exposed, and a leak is stamped."""

from __future__ import annotations

import io
import json
from pathlib import Path

import little_run
import numpy as np
import pytest
from PIL import Image

from builder import outside, traces
from builder.audit import audit, kept
from builder.data import Dataset
from builder.duplicates import near_duplicates, pairs
from builder.evaluate import count_opening, evaluate, openings
from builder.intake import import_scans
from builder.leaks import leak_of, of_dataset, of_run
from builder.leaks import problems as leak_problems
from builder.sides import small
from builder.sources import detect

SIDE = 128


def scene(seed: int) -> np.ndarray:
    """uint8 (128, 128): a body in the middle, never quite the same, and structures of its own inside."""
    random = np.random.default_rng(seed)
    down, across = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    high, wide = random.uniform(44, 58, 2)
    body = 60.0 * (down**2 / high**2 + across**2 / wide**2 < 1)
    for _ in range(14):
        y, x = random.uniform(-38, 38, 2)
        size, value = random.uniform(3, 12), random.uniform(-40, 90)
        body += value * np.exp(-((down - y) ** 2 + (across - x) ** 2) / (2 * size**2))
    return np.clip(body + random.normal(0, 4, body.shape), 0, 255).astype(np.uint8)


def saved_again(picture: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def turned(picture: np.ndarray, way: int) -> np.ndarray:
    if way % 5 == 4:
        return np.asarray(Image.fromarray(picture).rotate(11 + way, Image.Resampling.BICUBIC))
    found = np.rot90(picture, way % 4)
    return found[:, ::-1] if way % 2 else found


def thumb(picture: np.ndarray) -> np.ndarray:
    return small(picture.astype(np.float32) / 255)


@pytest.fixture(scope="module")
def planted() -> tuple[np.ndarray, set[tuple[int, int]], dict[str, set[tuple[int, int]]]]:
    """Thumbnails of 240 scenes and of 20 equal, turned, saved and resized copies each; the pairs, all and by kind."""
    scenes = [scene(n) for n in range(240)]
    copies = {
        "equal": [(n, scenes[n]) for n in range(20)],
        "turned": [(n, turned(scenes[n], n)) for n in range(20, 40)],
        "saved": [(n, saved_again(scenes[n], 25 + n % 40)) for n in range(40, 60)],
        "resized": [(n, np.asarray(Image.fromarray(scenes[n]).resize((70 + n, 70 + n)))) for n in range(60, 80)],
    }
    pictures, by_kind = list(scenes), {}
    for kind, made in copies.items():
        by_kind[kind] = {(n, len(pictures) + place) for place, (n, _) in enumerate(made)}
        pictures += [picture for _, picture in made]
    return np.stack([thumb(p) for p in pictures]), set().union(*by_kind.values()), by_kind


def test_copies_are_found_turned_mirrored_resized_and_saved_again(planted):
    thumbs, pairs_there, by_kind = planted
    found = {(pair.one, pair.other) for pair in pairs(thumbs)}
    for kind, there in by_kind.items():
        assert len(found & there) >= 0.95 * len(there), f"{kind}: {len(found & there)} of {len(there)}"
    assert len(found - pairs_there) <= 0.01 * len(found), "false pairs"


def test_an_import_groups_what_the_audit_calls_a_copy(planted):
    thumbs, pairs_there, _ = planted
    belongs = near_duplicates(thumbs, np.arange(len(thumbs)))
    assert sum(belongs[one] == belongs[other] for one, other in pairs_there) >= 0.95 * len(pairs_there)
    assert sum(place != own for own, place in enumerate(belongs)) <= len(pairs_there) + 1


def test_how_a_copy_was_turned_is_told_in_words():
    scenes = [scene(n) for n in range(30)]
    found = {pair.other: pair for pair in pairs(np.stack([thumb(p) for p in [*scenes, np.rot90(scenes[3])]]))}
    assert found[30].words == "turned by 90 degrees", "np.rot90 turns counter-clockwise"
    mirrored = pairs(np.stack([thumb(p) for p in [*scenes, scenes[5][:, ::-1], scenes[6][::-1]]]))
    assert {pair.other: pair.words for pair in mirrored} == {30: "mirrored", 31: "mirrored top to bottom"}
    (both,) = pairs(np.stack([thumb(p) for p in [*scenes, np.rot90(scenes[8][:, ::-1])]]))
    assert both.words == "mirrored and turned by 90 degrees"


def test_pictures_that_a_program_drew_are_not_taken_for_copies():
    """Little but one outline: they agree by chance as much as no real scans do, so more is asked of them."""
    random = np.random.default_rng(0)
    down, across = np.mgrid[:64, :64] - 31.5
    drawn = []
    for _ in range(120):
        disc = 120.0 * (down**2 + across**2 < random.uniform(24, 26) ** 2)
        drawn.append(np.clip(disc + random.normal(40, 6, disc.shape), 0, 255).astype(np.uint8))
    assert pairs(np.stack(drawn)) == []
    found = pairs(np.stack([*drawn, np.rot90(drawn[7])]))
    assert [(pair.one, pair.other) for pair in found] == [(7, 120)]


# -- traces -----------------------------------------------------------------------------------------------------------


def test_a_planted_corner_marker_is_found_and_clean_pictures_are_not_accused():
    labels = np.arange(120) % 2
    groups = np.arange(120)
    clean = [scene(1000 + n) for n in range(120)]
    marked = [picture.copy() for picture in clean]
    for picture, label in zip(marked, labels, strict=True):
        if label:
            picture[4:10, 112:124] = 255

    def judged(pictures: list[np.ndarray]) -> dict:
        rows = np.stack([traces.border(thumb(p), p.astype(np.float32) / 255) for p in pictures])
        return traces.asked("The border", rows, labels, groups, groups, ("a", "b"))

    assert judged(clean)["tells"] == "nothing"
    accused = judged(marked)
    assert accused["tells"] == "nearly all" and accused["auc"]["low"] > 0.9 and "without a look" in accused["words"]


def test_how_files_were_made_is_judged_on_patients_the_rule_has_not_seen():
    random = np.random.default_rng(1)
    labels = random.integers(0, 2, 200)
    groups = np.arange(200) // 2
    labels = labels[groups]
    shortcut = ["colour" if (label == 1) != (random.random() < 0.1) else "grey" for label in labels]
    told = traces.asked("The file", traces.table({"colour": shortcut}), labels, groups, groups, ("a", "b"))
    assert told["tells"] == "nearly all" and 0.75 < told["auc"]["low"] < told["auc"]["value"] < 0.97
    chance = [str(random.integers(0, 4)) for _ in labels]
    assert traces.asked("It", traces.table({"x": chance}), labels, groups, groups, ("a", "b"))["tells"] == "nothing"
    of_patient = [f"p{group}" for group in groups]  # each patient its own value: tells a patient, but no new one
    told = traces.asked("It", traces.table({"x": of_patient}), labels, groups, groups, ("a", "b"))
    assert told["tells"] == "nothing"
    assert traces.asked("It", traces.table({"x": ["same"] * 200}), labels, groups, groups, ("a", "b"))["auc"] is None


# -- what a rule on frozen features tells -----------------------------------------------------------------------------


def of_patients(random: np.random.Generator, patients: int, each: int, effect: float) -> tuple[np.ndarray, ...]:
    """Features (N, 40), labels and groups: each patient looks like itself, its class shows a little."""
    labels = np.repeat(np.arange(patients) % 2, each)
    groups = np.repeat(np.arange(patients), each)
    features = 2 * random.normal(size=(patients, 40))[groups] + random.normal(size=(patients * each, 40))
    features[:, 0] += effect * labels
    return features, labels, groups


def test_a_random_split_claims_what_an_honest_one_does_not_find():
    features, labels, groups = of_patients(np.random.default_rng(0), 40, 6, 0.0)
    found = outside.naive(outside.main_axes(features), labels, groups)
    assert found["naive"]["value"] > 0.85 and abs(found["honest"]["value"] - 0.5) < 0.15
    assert found["gain"]["low"] > 0 and found["differs"]
    alone = outside.naive(outside.main_axes(features), labels, np.arange(len(labels)))
    assert alone == {
        "honest": None,
        "naive": None,
        "gain": None,
        "n": 240,
        "groups": 240,
        "repeats": 0,
        "differs": False,
    }


def test_labels_that_were_swapped_come_first_among_the_suspects():
    random = np.random.default_rng(2)
    labels = np.arange(300) % 3
    features = random.normal(size=(300, 30))
    features[np.arange(300), labels] += 4
    swapped = random.permutation(300)[:15]
    given = labels.copy()
    given[swapped] = (labels[swapped] + 1) % 3
    groups = np.arange(300)
    found = outside.suspects(
        outside.out_of_fold(outside.main_axes(features), given, groups, 3, strength=outside.SURER), given
    )
    hit = {one["row"] for one in found} & set(swapped.tolist())
    assert len(hit) >= 8, "half of them, by a rule that accuses cautiously"
    assert len(hit) >= 0.8 * len(found), "and few of the others"
    assert all(one["says"] == labels[one["row"]] for one in found if one["row"] in set(swapped.tolist()))


def test_folds_keep_groups_whole_and_hold_every_scan_once():
    random = np.random.default_rng(3)
    groups = random.integers(0, 30, 200)
    labels = random.integers(0, 3, 200)
    parts = np.stack(list(outside.folds(groups, labels)))
    assert (parts.sum(0) == 1).all()
    for group in np.unique(groups):
        assert parts[:, groups == group].any(1).sum() == 1
    assert parts.sum(1).min() > 20


# -- a data set and its leak ------------------------------------------------------------------------------------------


def leaking(place: Path, home: Path) -> Dataset:
    """48 scenes in a split of their own: a patient in two sides, a turned copy in test, a copy with another label."""
    place.mkdir()
    rows = ["file,label,patient,split"]
    for n in range(48):
        side = "train" if n < 30 else "val" if n < 39 else "test"
        picture = scene(n)
        if n == 40:
            picture = np.rot90(scene(2)).copy()
        if n == 5:
            picture = saved_again(scene(4), 60)
        Image.fromarray(picture).save(place / f"s{n:02d}.png")
        patient = "p01" if n == 31 else f"p{n:02d}"
        rows.append(f"s{n:02d}.png,{'ill' if n % 2 else 'well'},{patient},{side}")
    (place / "labels.csv").write_text("\n".join(rows))
    steps = import_scans(detect(place, place / "labels.csv"), "Leaking", home)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return Dataset.open(home, end.value.dataset)


@pytest.fixture(scope="module")
def audited(tmp_path_factory) -> Dataset:
    place = tmp_path_factory.mktemp("leaking")
    dataset = leaking(place / "set", place / "home")
    audit(dataset, look=False)
    return Dataset.open(dataset.home, dataset.id)


def test_the_audit_finds_what_was_planted_and_every_later_check_knows(audited):
    found = kept(audited)
    stored = json.loads((audited.folder / "audit.json").read_text())
    assert found == {**stored, "relabelled": False} and found["looked"] is False
    there = {(pair["one"], pair["other"]): pair for pair in found["leak"]["pairs"]}
    assert there[2, 40]["across"] and there[2, 40]["words"] == "turned by 90 degrees"
    assert there[4, 5]["conflict"] and not there[4, 5]["across"]
    assert set(there) == {(2, 40), (4, 5)} and found["leak"]["patients"] == 1
    leak = of_dataset(audited)
    assert leak.train == ("c000001", "c000002") and not leak.val
    assert found["leak"]["stamp"] == leak.stamp and leak.stamp.startswith("LEAKY: 2 training scans have")
    assert [verdict["about"] for verdict in found["verdicts"] if verdict["grave"]] == ["leak", "conflict"]


def test_nobody_learns_from_a_leak_unasked(audited):
    experiment = little_run.starter().replace("data.dataset", audited.id)
    (problem,) = leak_problems(experiment, audited.fingerprint)
    assert problem.path == "data.leaks" and problem.severity == "error"
    assert problem.fix is not None and problem.fix.data.exclude == ("c000001", "c000002")
    assert leak_problems(problem.fix, audited.fingerprint) == []
    accepted = experiment.replace("data.leaks", "accepted")
    assert leak_problems(accepted, audited.fingerprint) == []
    assert accepted.digest != experiment.digest
    assert leak_of({"duplicates": {"across_splits": 3}}).groups == 3, "what an older version kept is not lost"
    assert not leak_of({})


def _stamped_in_tensorboard(run, stamp):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import plugin_data_pb2

    from builder.board import Board

    board = Board(run.folder, 9, leaky=stamp)
    board.describe(json.loads(run.experiment.dumps()), ["auc"])
    board.close()
    (file,) = (run.folder / "tb").glob("*.9.LEAKY")
    told = EventAccumulator(str(file), {"tensors": 0})
    told.Reload()
    assert stamp in told.Tensors("LEAKY/text_summary")[0].tensor_proto.string_val[0].decode()
    content = told.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    settings = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert settings["LEAKY"].string_value == stamp and "training.epochs" in settings


def test_the_stamp_stays_on_figures_answers_and_files(audited, tmp_path):
    from builder import export
    from builder.predict import Predictor

    experiment = little_run.starter().replace("data.size_px", 32).replace("training.epochs", 1)
    run = little_run.trained(audited.home, experiment.replace("data.leaks", "accepted"), audited)
    stamp = of_run(run).stamp
    assert stamp.startswith("LEAKY")
    assert openings(audited) == 0
    count_opening(audited, "baseline")
    assert evaluate(run, audited.home, "test", resamples=5)["leaky"] == stamp
    assert openings(audited) == 2
    assert Predictor.open(run.folder).finding(audited.scan(0)).notes[0] == stamp
    _stamped_in_tensorboard(run, stamp)
    export._write(tmp_path, export.TARGETS["pytorch"], Predictor.open(run.folder), run)  # all files but the proof
    words = (tmp_path / "README.md").read_text()
    assert stamp in words and "opened 2 times, 1 for this run" in words
    assert json.loads((tmp_path / "settings.json").read_text())["leaky"] == stamp


@pytest.mark.slow
def test_pneumoniamnist_has_its_eight_twins(shared_data, tmp_path):
    found = little_run.imported(tmp_path / "home", shared_data / "pneumoniamnist")
    assert found.fingerprint.duplicates["across_splits"] >= 8
    assert len(of_dataset(found).train) >= 8
