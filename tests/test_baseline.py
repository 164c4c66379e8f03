"""The number to beat: frozen features, what is chosen on the validation side, and what makes it void."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_files import imported, picture

from builder.baseline import BaselineError, baseline, kept
from builder.data import Dataset
from builder.evaluate import was_opened
from builder.labels import record
from tasks import phantoms
from tests.little_run import imported as taken_in


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    home = tmp_path_factory.mktemp("baseline") / "home"
    folder = phantoms.write_cohort(home.parent / "phantoms", seed=5, num_images=48, size_px=64)
    return taken_in(home, folder, synthetic=True)


def test_frozen_features_tell_phantoms_apart_better_than_guessing_and_leave_the_test_side_closed(
    dataset: Dataset,
) -> None:
    seen: list[int] = []
    found = baseline(dataset, told=lambda done, total: seen.append(done))
    assert seen[-1] == len(dataset) and found["test"] is None and not was_opened(dataset)
    assert found["val"]["metrics"]["auc"]["value"] > 0.6
    assert "regression" in found["chosen"] or "neighbour" in found["chosen"]
    assert json.loads(json.dumps(found)) == kept(dataset)
    again: list[int] = []
    baseline(dataset, test=True, told=lambda done, total: again.append(done))
    assert again == [], "the features are kept"
    after = kept(dataset)
    assert after is not None and after["test"]["metrics"]["auc"] and was_opened(dataset)
    assert after["val"] == found["val"]


def test_a_corrected_label_makes_the_baseline_void(dataset: Dataset) -> None:
    baseline(dataset)
    assert kept(dataset) is not None
    other = (int(dataset.labels[0]) + 1) % len(dataset.classes)
    record(dataset, 0, label=other, origin="corrected")
    assert kept(Dataset.open(dataset.home, dataset.id)) is None


def test_a_data_set_of_one_class_is_refused_in_a_sentence(home: Path, tmp_path: Path) -> None:
    for n in range(6):
        picture(tmp_path / "only" / f"p{n}.png", n)
    _, made = imported(tmp_path / "only", home)
    with pytest.raises(BaselineError, match="at least two classes"):
        baseline(made)
