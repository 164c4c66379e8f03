"""The film: what validation answered about the pinned scans, epoch by epoch, for every task; bounded, and no part of
what is learned."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from builder import checkpoint, film, task
from builder.data import Dataset
from builder.events import Fold, Pictured, Resumed, decode, encode
from builder.film import Film
from builder.predict import Predictor
from builder.runs import EpochEnded, Finished, Run, RunStore, Saved
from builder.spec import Experiment
from builder.train import train
from tests.tiny_runs import SMALL, small_set

QUICK: dict[str, Callable[[Experiment], Experiment]] = {
    "recognition": lambda e: e.replace("data.size_px", 32),
    "lesion_detection": lambda e: e.replace("data.size_px", 64),
    "tumor_diagnosis": lambda e: e.replace("data.size_px", 32),
    "image_enhancement": lambda e: e.replace("data.size_px", 32),
}


def started(home: Path, name: str, dataset: Dataset, epochs: int = 2) -> Run:
    of = task.find(name)
    starter = next(s for s in of.starters() if s.name == next(iter(of.demos.values())))
    document = QUICK[name](starter).replace("training.epochs", epochs).replace("data.dataset", dataset.id)
    return RunStore(home).create(document, queue=False)


def events_of(run: Run, dataset: Dataset) -> list[Any]:
    told = list(train(run.experiment, task.find(run.experiment.task), dataset, run.folder, device="cpu"))
    assert isinstance(told[-1], Finished) and told[-1].status == "done", told[-1]
    return told


@pytest.mark.parametrize("name", SMALL)
def test_every_epoch_has_a_picture_of_what_the_network_says_of_the_pinned_scans(
    home: Path, tmp_path: Path, name: str
) -> None:
    dataset = small_set(home, name, tmp_path / "scans")
    run = started(home, name, dataset)
    told = events_of(run, dataset)
    pictured = [event for event in told if isinstance(event, Pictured)]
    assert [event.epoch for event in pictured] == [1, 2]
    assert [e.step for e in pictured] == [e.step for e in told if isinstance(e, EpochEnded)]
    for event in pictured:
        assert all((run.folder / file).is_file() for file in event.files)
        assert decode(encode(event)) == event
    frame = film.read_frame(run.folder, 2)
    assert frame is not None and frame["epoch"] == 2 and 1 <= len(frame["scans"]) <= film.USUAL_SCANS
    val = {dataset.cases[i].id for i in task.find(name).cases(dataset, run.experiment, "val")}
    for said in frame["scans"]:
        scan = film.read_scan(run.folder, said["scan"])
        assert scan is not None and scan["case"] in val
        picture = Image.open(run.folder / "film" / scan["seen"])
        assert picture.size == (scan["width"], scan["height"]) and len(set(picture.tobytes())) > 1
        LOOKS[name](run.folder / "film", said, scan["known"])
    sizes = [path.stat().st_size for path in (run.folder / "film").iterdir()]
    assert sum(sizes) < 300_000 and not list((run.folder / "film").glob(".*"))


def _recognised(folder: Path, said: dict[str, Any], known: dict[str, Any]) -> None:
    assert sum(said["chances"]) == pytest.approx(1, abs=1e-3) and len(known["classes"]) == 1


def _boxed(folder: Path, said: dict[str, Any], known: dict[str, Any]) -> None:
    for x0, y0, x1, y1, _, score in said["boxes"] + known["boxes"]:
        assert 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1 and 0 < score <= 1


def _outlined(folder: Path, said: dict[str, Any], known: dict[str, Any]) -> None:
    for outline in (said["outline"], known["outline"]):
        assert Image.open(folder / outline).mode == "1"
    assert known["outline"] != said["outline"]


def _restored(folder: Path, said: dict[str, Any], known: dict[str, Any]) -> None:
    answer, good = (np.asarray(Image.open(folder / which["picture"]), float) for which in (said, known))
    assert answer.shape == good.shape and np.corrcoef(answer.ravel(), good.ravel())[0, 1] > 0.5


LOOKS = {
    "recognition": _recognised,
    "lesion_detection": _boxed,
    "tumor_diagnosis": _outlined,
    "image_enhancement": _restored,
}


@pytest.fixture
def phantoms(home: Path, tmp_path: Path) -> Dataset:
    return small_set(home, "recognition", tmp_path / "scans")


def test_the_film_shows_what_the_kept_network_says_and_leaves_the_training_as_it_is(
    home: Path, phantoms: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = started(home, "recognition", phantoms)
    told = events_of(run, phantoms)
    best = [event.epoch for event in told if isinstance(event, Saved) and event.best][-1]
    frame = film.read_frame(run.folder, best)
    assert frame is not None
    places = {case.id: index for index, case in enumerate(phantoms.cases)}
    predictor, prepared = Predictor.open(run.folder), phantoms.prepared(run.experiment.data)
    for said in frame["scans"]:
        scan = film.read_scan(run.folder, said["scan"])
        assert scan is not None
        case = places[scan["case"]]
        assert scan["known"]["classes"] == [int(phantoms.labels[case])]
        image = prepared.rows(prepared.rows_of(np.array([case]))).astype(np.float32) / np.float32(prepared.unit)
        assert said["chances"] == pytest.approx(predictor.probabilities(image)[0].tolist(), abs=2e-4)
    monkeypatch.setattr(Film, "wanted", lambda self, epoch: False)
    bare = started(home, "recognition", phantoms)
    assert not any(isinstance(event, Pictured) for event in events_of(bare, phantoms))
    one, two = (checkpoint.load_latest(r.folder, "last", lambda state: None) for r in (run, bare))
    assert one is not None and two is not None
    for key, value in one.state["model"].items():
        assert torch.equal(value, two.state["model"][key])
    assert torch.equal(one.state["random"]["torch"], two.state["random"]["torch"])


def test_scans_that_a_person_pins_are_in_the_next_picture_and_strangers_are_not(home: Path, phantoms: Dataset) -> None:
    run = started(home, "recognition", phantoms)
    val = [phantoms.cases[i].id for i in task.find("recognition").cases(phantoms, run.experiment, "val")]
    film.pin(run.folder, [val[-1], "nobody"])
    pins_after_one: list[str] = []
    for event in train(run.experiment, task.find("recognition"), phantoms, run.folder, device="cpu"):
        if isinstance(event, Pictured) and event.epoch == 1:
            frame = film.read_frame(run.folder, 1)
            assert frame is not None
            pins_after_one = [(film.read_scan(run.folder, said["scan"]) or {})["case"] for said in frame["scans"]]
            film.pin(run.folder, [])
    assert pins_after_one == [val[-1]]
    frame = film.read_frame(run.folder, 2)
    assert frame is not None
    kinds = {tuple((film.read_scan(run.folder, s["scan"]) or {})["known"]["classes"]) for s in frame["scans"]}
    assert len(kinds) == len(phantoms.classes), "without pins there is a scan of every class"


def test_a_long_training_has_a_film_of_bounded_length_and_share_of_the_time(home: Path, phantoms: Dataset) -> None:
    document = started(home, "recognition", phantoms, epochs=5000).experiment
    made = Film(home, task.find("recognition"), document, None, np.zeros(1), np.ones(1))
    assert not made.wanted(1), "without validation scans there is nothing to show"
    made.val = type("Some", (), {"indices": [0]})()
    shown = [epoch for epoch in range(1, 5001) if made.wanted(epoch)]
    assert shown[: film.EVERY] == list(range(1, film.EVERY + 1)) and shown[-1] == 5000
    assert len(shown) <= film.EVERY + film.MOST_FRAMES + 1
    made.spent_s = 10.0  # of no time at all
    assert not made.wanted(2) and made.wanted(1)


def test_a_rewound_run_forgets_the_pictures_of_what_will_be_told_again() -> None:
    folded = Fold()
    for epoch in (1, 2, 3):
        folded.add(Pictured(10 * epoch, epoch, [f"film/frame-{epoch:05d}.json"]))
    before = folded.view()
    folded.add(Resumed(step=25, epoch=3))
    assert list(folded.view().film) == [1, 2] and list(before.film) == [1, 2, 3]


def test_a_damaged_picture_of_a_film_is_none(tmp_path: Path) -> None:
    (tmp_path / "film").mkdir()
    (tmp_path / "film" / "frame-00001.json").write_text('{"epoch": 1, "sc')
    assert film.read_frame(tmp_path, 1) is None and film.read_scan(tmp_path, 0) is None
    (tmp_path / film.PINNED).write_text(json.dumps({"cases": "abc"}))
    assert film.chosen(tmp_path) == []


def test_the_pages_get_the_files_of_a_film_and_nothing_else_of_the_run(home: Path) -> None:
    from starlette.applications import Starlette
    from starlette.testclient import TestClient

    from pages.kit import films

    run = RunStore(home).create(Experiment(), queue=False)
    (run.folder / "film").mkdir()
    (run.folder / "film" / "frame-00001.json").write_text('{"epoch": 1}')
    (run.folder / "film" / "secret.json").write_text("{}")
    base, key = films.address(run.id)
    client = TestClient(Starlette(routes=films.routes(lambda: home)))
    assert client.get(f"{base}/frame-00001.json", params={"key": key}).json() == {"epoch": 1}
    assert client.get(f"{base}/frame-00001.json", params={"key": "0" * 32}).status_code == 403
    for name in ("secret.json", "frame-00002.json", "..%2Fexperiment.json", "%2E%2E%2Fevents.jsonl"):
        assert client.get(f"{base}/{name}", params={"key": key}).status_code == 404
    elsewhere = {"sec-fetch-site": "cross-site"}
    assert client.get(f"{base}/frame-00001.json", params={"key": key}, headers=elsewhere).status_code == 400


def test_the_points_of_a_curve_show_every_peak_and_the_part_looked_at_closely_finer() -> None:
    from pages.kit.charts import Points

    steps, values = list(range(20_001)), [0.0] * 20_001
    values[12_345], values[777], values[-1] = 9.0, -9.0, 7.0
    curve = Points(steps, [*values, 1.0])  # one row may have grown meanwhile
    assert curve.num == 20_001
    x, y = curve.thinned(300)
    assert len(x) < 700 and {12_345.0, 777.0} <= set(x) and (y.max(), y.min()) == (9, -9)
    near_x, near_y = curve.thinned(300, (12_300, 12_400))
    assert set(range(12_300, 12_401)) <= set(near_x) and {0.0, 20_000.0, 777.0} <= set(near_x)
    assert (np.diff(near_x) > 0).all() and near_y[list(near_x).index(12_345)] == 9
    ends, means = Points(list(range(1000)), [1.0, 3.0] * 500).means(100)
    assert len(means) == 100 and set(means) == {2.0} and ends[-1] == 999
