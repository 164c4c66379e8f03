"""Pre-flight: what it says of memory and time is what real steps take, and the page and the command line say it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from little_run import imported, starter
from test_intake import nearby  # noqa: F401 (a fixture)
from test_pages_build import at, buttons, drafted, pressed
from test_pages_shell import cats, finish, no_supervisor, said  # noqa: F401 (two of them are fixtures)

from builder import preflight
from builder.data import Dataset
from builder.learner import Learner
from builder.preflight import Measured
from builder.runs import RunStore
from builder.spec import Choice, Experiment
from builder.task import find
from tasks import phantoms


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = tmp_path_factory.mktemp("preflight")
    folder = phantoms.write_cohort(root / "phantoms", seed=5, num_images=48, size_px=64)
    return imported(root / "home", folder, synthetic=True)


def small(dataset: Dataset, batch: int = 8) -> Experiment:
    experiment = starter().replace("data.dataset", dataset.id).replace("data.size_px", 32)
    return experiment.replace("training.batch_size", batch).replace("training.epochs", 3)


def flown(experiment: Experiment, dataset: Dataset, folder: Path) -> preflight.Preflight:
    return preflight.preflight(experiment, find(experiment.task), dataset, folder, device="cpu")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "TIMED_S", 0.2)


def test_the_line_through_two_batches_foretells_a_third(scans: Dataset, tmp_path: Path) -> None:
    experiment = small(scans)
    found = flown(experiment, scans, tmp_path)
    each, fixed = preflight._line(found.small, found.large)
    learner = Learner(
        experiment, find("recognition"), scans, scans.prepared(experiment.data), tmp_path, torch.device("cpu")
    )
    preflight._step(learner, 2)
    for size in (16, 30):
        assert preflight._peak(learner, size) == pytest.approx(fixed + each * size, rel=0.1)
    kept = 4 * 16 * 16 * 16  # one feature map of the first layer, in bytes: less than a scan needs in all
    assert each > 3 * kept


def test_what_lasts_is_weights_and_the_moments_of_the_optimizer(scans: Dataset, tmp_path: Path) -> None:
    from builder import network

    experiment = small(scans)
    net = network.assemble_of(experiment, len(scans.classes))
    weights = sum(p.numel() for p in net.parameters())
    buffers = sum(b.numel() * b.element_size() for b in net.buffers())
    found = flown(experiment, scans, tmp_path)
    assert found.lasting_bytes == pytest.approx(4 * 3 * weights + buffers, rel=0.02), "AdamW keeps two moments a weight"
    plain = experiment.replace("training.optimizer", Choice(name="sgd"))
    assert flown(plain, scans, tmp_path).lasting_bytes == pytest.approx(4 * weights + buffers, rel=0.02)


def test_the_largest_batch_keeps_its_margin(scans: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = small(scans)
    ample = flown(experiment, scans, tmp_path)
    num = len(scans.indices("train"))
    assert (ample.largest_batch, ample.limited_by) == (num, "scans")
    each, fixed = preflight._line(ample.small, ample.large)
    room = int((ample.lasting_bytes + fixed + 20.5 * each) / preflight.MARGIN)
    monkeypatch.setattr(preflight, "_free", lambda where: room - ample.lasting_bytes)
    tight = flown(experiment, scans, tmp_path)
    assert tight.limited_by == "memory" and tight.largest_batch == 16, "20 fit; a multiple of eight is told"
    monkeypatch.setattr(preflight, "_free", lambda where: 1000)
    none = flown(experiment, scans, tmp_path)
    assert none.largest_batch == 0 and not none.peak_measured, "and the large batch is not even tried"


def test_the_time_of_an_epoch_counts_every_batch_and_the_validation(
    scans: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def foreseen(learner: Learner, size: int) -> Measured:
        return Measured(size, 1000 * size, 0.1 + 0.05 * size, 1)

    monkeypatch.setattr(preflight, "_measure", foreseen)
    monkeypatch.setattr(preflight, "_judging", lambda learner, size: 0.5)
    batches = -(-len(scans.indices("train")) // 8)
    found = flown(small(scans), scans, tmp_path)
    assert found.steps_per_epoch == batches
    assert found.epoch_s == pytest.approx(batches * (0.1 + 0.05 * 8) + 0.5)
    assert found.training_s == pytest.approx(3 * found.epoch_s)
    twice = flown(small(scans).replace("training.accumulate", 2), scans, tmp_path)
    assert twice.steps_per_epoch == -(-batches // 2) and twice.epoch_s == pytest.approx(found.epoch_s)


def test_real_steps_are_timed(scans: Dataset, tmp_path: Path) -> None:
    found = flown(small(scans), scans, tmp_path)
    assert found.small.seconds > 0 and found.large.seconds > 0 and found.large.count >= 1


def test_nothing_is_written_by_it(scans: Dataset, tmp_path: Path) -> None:
    flown(small(scans), scans, tmp_path)
    assert list(tmp_path.iterdir()) == []


def told(**changes: Any) -> dict[str, Any]:
    small_, large = Measured(2, 200, 0.1, 3), Measured(8, 800, 0.4, 3)
    found = preflight.Preflight("the processor", 16, 5, small_, large, 50, 1650, False, 9000, 64, "memory", 4, 2.0)
    return {**found.to_json(), **changes}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "A batch of 16 fits; up to 64 scans would fit safely."),
        ({"largest_batch": 8}, "A batch of 16 is too large for the free memory: at most 8 scans fit safely."),
        ({"largest_batch": 0}, "Not even two scans fit"),
        ({"limited_by": "scans"}, "Memory is no limit: even all 64 training scans"),
        ({"limited_by": "setting"}, "Memory is no limit: the largest batch that can be chosen"),
    ],
)
def test_the_verdict_comes_in_a_sentence(changes: dict[str, Any], words: str) -> None:
    verdict, basis = preflight.sentences(told(**changes))
    assert words in verdict
    assert "2 and 8 scans" in basis and "20 % of the free memory" in basis and "your batch" in basis


def test_one_measurement_alone_still_gives_a_line() -> None:
    one = Measured(2, 200, 0.1, 3)
    assert preflight._line(one, one) == (100.0, 0.0) and preflight._pace(one, one) == (0.05, 0.0)
    assert preflight._line(one, Measured(8, 150, 0.05, 3)) == (150 / 8, 0.0), "noise never makes it negative"


# -- on the page -------------------------------------------------------------------------------------------------------


def test_the_training_page_asks_shows_and_uses_it(home: Path, cats: str) -> None:  # noqa: F811
    experiment = starter().replace("data.dataset", cats).replace("training.batch_size", 16)
    draft = drafted(home, experiment)
    session = pressed(at("training", draft), "preflight-go")
    job = next(job for job in RunStore(home).jobs() if job.kind == "preflight")
    assert Experiment.checked(job.payload["experiment"]) == draft.experiment
    answer = told(largest_batch=8, digest=preflight.subject_digest(draft.experiment))
    finish(home, "preflight", json.loads(json.dumps(answer)))
    session.run()
    assert "at most 8 scans fit safely" in said(session)
    shown = " ".join(e.proto.body for e in session.get("html"))
    assert "<dt>Largest safe batch</dt><dd>about 8</dd>" in shown and "about 2.0 s" in shown
    pressed(session, "preflight-use")
    assert draft.experiment.training.batch_size == 8
    assert "Measured before the last changes" in said(session) and "preflight-use" not in buttons(session)


def test_it_cannot_be_asked_for_what_cannot_start(home: Path) -> None:
    session = at("training", drafted(home, starter()))
    assert session.button(key="preflight-go").disabled
