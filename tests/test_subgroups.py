"""Figures group by group: bands of lesions, what is too few to tell, and the same numbers as for the group alone."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from builder.data import Case
from builder.labels import Box
from builder.subgroups import subgroups


def case(number: int) -> Case:
    """A grey picture of 64 x 64 pixels, of which nothing is known."""
    return Case(
        id=f"c{number:06d}",
        patient=f"p{number}",
        group=f"p{number}",
        label=0,
        split="test",
        shape=(1, 1, 64, 64),
        dtype="uint8",
        offset=0,
        valid_offset=None,
        spacing_mm=(None, None, None),
        modality="",
        photometric="MONOCHROME2",
        bits=8,
        format="png",
        windows=(),
        value_range=(0.0, 255.0),
        content=str(number),
        alike=str(number),
    )


def held(*cases: Any) -> Any:
    return SimpleNamespace(cases=cases, mask=lambda index: None)


def examined(num: int, labels: np.ndarray) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    scores = random.random(num) * 0.6 + 0.4 * labels
    return {
        "probabilities": np.stack([1 - scores, scores], 1),
        "labels": labels,
        "patients": np.arange(num) // 2,
        "cases": np.array([f"c{n:06d}" for n in range(num)]),
    }


def test_each_group_has_the_figures_that_it_has_alone():
    labels = np.arange(60) % 2
    cases = [replace(case(n), format="png" if n < 35 else "dicom") for n in range(60)]
    found = subgroups(held(*cases), told := examined(60, labels), resamples=50)
    assert [(row["about"], row["name"], row["n"]) for row in found] == [
        ("File format", "dicom files", 25),
        ("File format", "png files", 35),
    ]
    alone = roc_auc_score(labels[35:], told["probabilities"][35:, 1])
    assert found[0]["auc"]["value"] == pytest.approx(alone)
    assert found[0]["auc"]["low"] < alone < found[0]["auc"]["high"] and found[0]["patients"] == 13


def test_lesions_are_grouped_by_their_size_and_the_few_are_left_out():
    labels = np.ones(60, np.int64)
    sides = np.repeat([4.0, 14.0, 40.0, 41.0], [20, 20, 15, 5])  # px of 1 mm
    cases = [
        replace(case(n), boxes=(Box(1, 1, 1 + side, 1 + side, 0, 0),), spacing_mm=(None, 1.0, 1.0))
        for n, side in enumerate(sides)
    ]
    cases[0] = replace(cases[0], boxes=())
    found = subgroups(held(*cases), examined(60, labels), resamples=20)
    told = {row["name"]: row["n"] for row in found if row["about"] == "Size of the lesion"}
    assert list(told.items()) == [("under 10 mm", 19), ("10 to 20 mm", 20), ("over 20 mm", 20)]
    assert all(row["auc"]["value"] is None for row in found), "of one class alone there is no area"


def test_what_is_not_answered_case_by_case_has_no_groups():
    assert subgroups(held(), {"boxes": np.zeros(3)}) == []
    two = examined(12, np.arange(12) % 2)
    assert subgroups(held(*[case(n) for n in range(12)]), two, 10) == [], "all are alike"
    assert subgroups(held(case(99)), two, 10) == [], "cases that are gone"
