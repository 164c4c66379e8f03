"""A run measured on a split: computed once, openings counted, refused in words where it cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import little_run
import numpy as np
import pytest

from builder import evaluate as module
from builder.data import Dataset
from builder.evaluate import EvaluateError, evaluate, evaluation
from builder.fingerprint import Fingerprint
from builder.runs import Run


@pytest.fixture(scope="module")
def little(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Dataset, Run]:
    home = tmp_path_factory.mktemp("evaluate") / "home"
    return home, *little_run.little(home)


def test_a_run_is_measured_on_its_test_split_and_the_figures_are_those_of_its_own_answers(little):
    home, dataset, run = little
    found = evaluate(run, home, resamples=100)
    rows = dataset.indices("test")
    assert (found["run"], found["split"], found["n"]) == (run.id, "test", len(rows))
    assert found["patients"] == len(set(dataset.patients[rows])) and found["synthetic"] is True
    with np.load(run.folder / "predictions-test.npz") as stored:
        answered = stored["probabilities"].argmax(1)
        assert (stored["labels"] == dataset.labels[rows]).all()
    assert found["metrics"]["accuracy"]["value"] == pytest.approx((answered == dataset.labels[rows]).mean())
    assert evaluation(run) == json.loads(json.dumps(found))


def test_answers_are_computed_once_and_each_opening_of_the_test_side_is_counted(little, monkeypatch):
    home, dataset, run = little
    before = evaluate(run, home, resamples=20)["openings"]
    monkeypatch.setattr(module.Predictor, "probabilities", lambda *_: pytest.fail("computed twice"))
    after = evaluate(run, home, resamples=20)["openings"]
    assert after == {"run": before["run"] + 1, "dataset": before["dataset"] + 1}
    assert "openings" in (evaluation(run) or {})
    lines = (dataset.folder / "test-openings.jsonl").read_text().splitlines()
    assert len(lines) == after["dataset"] and json.loads(lines[-1])["run"] == run.id


def test_looking_at_the_validation_split_opens_nothing(little):
    home, dataset, run = little
    before = (
        (dataset.folder / "test-openings.jsonl").read_text()
        if (dataset.folder / "test-openings.jsonl").exists()
        else ""
    )
    assert "openings" not in evaluate(run, home, "val", resamples=20)
    path = dataset.folder / "test-openings.jsonl"
    assert (path.read_text() if path.exists() else "") == before


def test_stored_answers_of_other_weights_are_not_used(little):
    from builder import checkpoint

    home, dataset, run = little
    old = evaluate(run, home, "val", resamples=20)
    path = run.folder / "best.safetensors"
    kept = path.read_bytes()
    stored = checkpoint.load_weights(path)
    tensors = {name: tensor * 0 if tensor.is_floating_point() else tensor for name, tensor in stored.tensors.items()}
    words = {k: v for k, v in stored.metadata.items() if k not in ("format", "version")}
    try:
        checkpoint.save_weights(path, tensors, words)
        new = evaluate(run, home, "val", resamples=20)
    finally:
        path.write_bytes(kept)
    assert new["checkpoint"] != old["checkpoint"]
    with np.load(run.folder / "predictions-val.npz") as found:
        assert np.allclose(found["probabilities"], 1 / 3)


def test_a_damaged_file_of_answers_is_computed_again(little):
    home, _, run = little
    first = evaluate(run, home, "val", resamples=20)["metrics"]
    path = run.folder / "predictions-val.npz"
    path.write_bytes(path.read_bytes()[:100])
    assert evaluate(run, home, "val", resamples=20)["metrics"] == first


def test_a_data_set_with_other_classes_is_refused_in_words(little, monkeypatch):
    home, _, run = little
    monkeypatch.setattr(
        module.Dataset,
        "open",
        classmethod(
            lambda cls, home, id: type(
                "Other", (), {"classes": ("x",), "multi_label": False, "fingerprint": Fingerprint()}
            )()
        ),
    )
    with pytest.raises(EvaluateError, match="was trained on the classes"):
        evaluate(run, home)


def test_answers_of_a_version_that_did_not_say_on_which_slice_boxes_lie_are_asked_anew():
    stored = {"key": np.array("k"), "slices": np.array([0, -1]), "scores": np.ones(2)}
    assert module._lasting(stored) is None
    assert set(module._lasting({**stored, "slices": np.array([0, 3])}) or ()) == {"slices", "scores"}
