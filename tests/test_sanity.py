"""Maps of where a network looked: three ways to ask, and what a map must pass before it is shown in colour."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from test_blanking import SIDE, planted

from builder import sanity
from builder.data import Dataset
from builder.predict import Predictor
from builder.runs import Run
from builder.saliency import METHODS, explain, refused, score
from builder.sanity import NotAsked, examine, kept, of_predictor, randomised
from builder.spec import Data
from tests.tiny_runs import tiny_run


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Dataset, Run]:
    """A run that learned to see a planted bright square, which is outlined on every scan."""
    home = tmp_path_factory.mktemp("sanity") / "home"
    return (home, *planted(home, "lesion"))


def scans_with(dataset: Dataset, label: str, predictor: Predictor, num: int = 4) -> list[tuple[np.ndarray, np.ndarray]]:
    """(prepared scan, where its square is) of some validation scans of a class."""
    cases = [int(c) for c in dataset.indices("val") if dataset.classes[dataset.labels[c]] == label][:num]
    return [(predictor.prepared(dataset.scan(c)), np.asarray(dataset.mask(c))[0] > 0) for c in cases]


@pytest.mark.parametrize("method", METHODS)
def test_every_way_to_ask_shows_the_planted_lesion(method: str, learned: tuple[Path, Dataset, Run]) -> None:
    _, dataset, run = learned
    predictor = Predictor.open(run.folder)
    sick = predictor.classes.index("sick")
    inside = []
    for image, square in scans_with(dataset, "sick", predictor):
        heat = explain(predictor, image, sick, method)
        assert heat is not None and heat.shape == (SIDE, SIDE) and heat.dtype == np.float32
        assert heat.min() >= 0 and heat.max() == pytest.approx(1)
        inside.append(heat[square].sum() / heat.sum() / square.mean())
    assert np.mean(inside) > 2, "more of the heat than a map that knows nothing would lay there"


@pytest.mark.parametrize("stack", ["series", "volume"])
def test_covering_parts_tells_in_which_slices_the_evidence_lies(stack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from builder import saliency

    data = Data(slices=stack, num_slices=8, size_px=28)
    sums = (slice(None), slice(4, 6), 0) if stack == "series" else (slice(None), 0, slice(4, 6))

    def run(batch: np.ndarray) -> torch.Tensor:
        """A network that looks at one corner of slices 5 and 6."""
        return torch.from_numpy(batch[sums][..., :8, :8].sum((1, 2, 3))[:, None])

    monkeypatch.setattr(saliency, "score", lambda predictor, output, class_index: output[:, class_index])
    predictor = cast("Predictor", SimpleNamespace(experiment=SimpleNamespace(data=data), num_slices=8, run=run))
    image = np.zeros(data.shape, np.float32)
    np.moveaxis(image, data.channel_axis, 1)[4:6, 0, :8, :8] = 1
    heat = explain(predictor, image, 0, "occlusion")
    assert heat is not None and heat.shape == (8, 28, 28)
    assert heat[4:6].sum() == pytest.approx(heat.sum()) and heat[4, 0, 0] == pytest.approx(1)
    assert heat[4, :8, :8].mean() > 5 * heat[4, 14:, 14:].mean()


def test_integrated_gradients_add_up_to_the_change_of_the_score(learned: tuple[Path, Dataset, Run]) -> None:
    import torch

    from builder import saliency

    _, dataset, run = learned
    predictor = Predictor.open(run.folder)
    ((image, _),) = scans_with(dataset, "sick", predictor, 1)
    raw = saliency._attributed(predictor, image, 0)
    grey = np.broadcast_to(np.median(image, axis=(-2, -1), keepdims=True), image.shape)
    with torch.no_grad():
        ends = score(predictor, predictor.run(np.stack([grey, image])), 0)
    assert raw.sum() == pytest.approx(float(ends[1] - ends[0]), rel=0.1, abs=0.1)


def test_maps_of_a_run_that_learned_are_tested_and_laid_on_the_lesions(learned: tuple[Path, Dataset, Run]) -> None:
    home, _, run = learned
    found = examine(run, home, resamples=100)
    assert found == json.loads(json.dumps(kept(run, found["checkpoint"]))) and kept(run, "other weights") is None
    assert found["learned"]["ok"] and set(found["methods"]) == set(METHODS)
    passed = [name for name, row in found["methods"].items() if row["ok"]]
    assert "occlusion" in passed, found["methods"]
    for name, row in found["methods"].items():
        assert set(row["randomised"]) == set(sanity.LAYERS) and row["ok"] == (not row["reason"])
        assert sanity.doubt(found, name) == row["reason"]
        lesions = row["lesions"]
        assert lesions["n"] >= 5 and lesions["inside"]["low"] <= lesions["inside"]["value"] <= lesions["inside"]["high"]
        assert 0.01 < lesions["area"] < 0.1 and 0 <= lesions["hit"]["value"] <= 1
    assert sanity.doubt(None, "occlusion") is None and sanity.doubt(found, "no such") is None


def test_with_randomised_weights_every_explanation_is_greyed(
    learned: tuple[Path, Dataset, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, dataset, run = learned
    predictor = Predictor.open(run.folder)
    monkeypatch.setattr(sanity, "_ASKED", 2)
    monkeypatch.setattr(sanity, "_LESIONS", 0)
    images = [image for image, _ in scans_with(dataset, "sick", predictor)]
    for seed in range(6):
        found = of_predictor(randomised(predictor, 1.0, images, seed), dataset, resamples=200)
        greyed = [bool(row["reason"]) for row in found["methods"].values()]
        assert len(greyed) == len(METHODS) and all(greyed), (seed, found)


def test_a_map_of_the_picture_alone_fails_without_weights_and_a_restless_one_under_a_shift(
    learned: tuple[Path, Dataset, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, dataset, run = learned
    chance = np.random.default_rng(0)

    def drawn(predictor: Predictor, image: np.ndarray, class_index: int, method: str) -> np.ndarray:
        return image.mean(0) if method == "grad_cam" else chance.random((SIDE, SIDE)).astype(np.float32)

    monkeypatch.setattr(sanity, "explain", drawn)
    found = of_predictor(Predictor.open(run.folder), dataset, resamples=100)["methods"]
    assert "not what was learned" in found["grad_cam"]["reason"] and found["grad_cam"]["randomised"]["all"] == 1
    assert "what they show is chance" in found["occlusion"]["reason"]


def test_only_the_uppermost_layers_lose_their_weights_and_the_run_keeps_its_own(
    learned: tuple[Path, Dataset, Run],
) -> None:
    import torch

    predictor = Predictor.open(learned[2].folder)
    own = {name: values.clone() for name, values in predictor.net.named_parameters()}
    image = np.zeros((1, SIDE, SIDE), np.float32)
    changed = []
    for share in sanity.LAYERS.values():
        other = dict(randomised(predictor, share, [image]).net.named_parameters())
        changed.append([name for name in own if not torch.equal(own[name], other[name])])
        same = (torch.equal(own[n].flatten().sort()[0], other[n].flatten().sort()[0]) for n in own)
        assert all(same), "shuffled, not drawn anew: their scale stays"
    assert len(changed[0]) < len(changed[1]) < len(changed[2])
    assert {name.split(".")[1] for name in changed[0]} == {list(own)[-1].split(".")[1]}
    assert all(torch.equal(own[name], values) for name, values in predictor.net.named_parameters())


def test_tasks_without_classes_say_so_in_words(tmp_path: Path) -> None:
    home = tmp_path / "home"
    _, run = tiny_run(home, "image_enhancement", tmp_path / "source")
    with pytest.raises(NotAsked, match="names no classes here"):
        examine(run, home)
    assert "only Grad-CAM" in refused(tumor().replace("data.fit", "patches"), 2, "occlusion") and not refused(
        tumor(), 2, "occlusion"
    )
    assert "names no classes" in refused(tumor(), 1)


def tumor():  # type: ignore[no-untyped-def]
    from builder import task

    return next(s for s in task.find("tumor_diagnosis").starters() if s.data.fit != "patches")
