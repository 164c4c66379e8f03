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
from builder.measures import boxes, outlines, pictures
from builder.measures.judged import Judged, of_boxes, of_classes, of_outlines, of_pictures
from builder.subgroups import subgroups, verdicts


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


def judged(told: dict[str, np.ndarray]) -> Judged:
    found = of_classes(told)
    assert found is not None
    return found


def test_each_group_has_the_figures_that_it_has_alone():
    labels = np.arange(60) % 2
    cases = [replace(case(n), format="png" if n < 35 else "dicom") for n in range(60)]
    found = subgroups(held(*cases), judged(told := examined(60, labels)), resamples=50)
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
    found = subgroups(held(*cases), judged(examined(60, labels)), resamples=20)
    told = {row["name"]: row["n"] for row in found if row["about"] == "Size of the lesion"}
    assert list(told.items()) == [("under 10 mm", 19), ("10 to 20 mm", 20), ("over 20 mm", 20)]
    assert all(row["auc"]["value"] is None for row in found), "of one class alone there is no area"


def test_where_all_are_alike_or_cases_are_gone_there_are_no_groups():
    two = judged(examined(12, np.arange(12) % 2))
    assert subgroups(held(*[case(n) for n in range(12)]), two, 10) == [], "all are alike"
    assert subgroups(held(case(99)), two, 10) == [], "cases that are gone"


def rows_of(told: Judged, names: list[str]) -> dict[str, dict[str, Any]]:
    cases = [replace(case(n), attributes={"site": name}) for n, name in enumerate(names)]
    return {row["name"]: row for row in subgroups(held(*cases), told, 100) if row["about"] == "Site"}


SITES = ["site 1" if n < 20 else "site 2" for n in range(40)]
IDS = np.array([f"c{n:06d}" for n in range(40)])


def test_boxes_are_told_group_by_group_with_what_is_missed_and_alarmed_for_nothing():
    lesion, off = [[0.0, 0, 10, 10]], [[30.0, 30, 40, 40]]
    found = [(off if n < 20 and n % 2 else lesion, [0.9], [0]) for n in range(40)]  # half of site 1 is missed
    detections = boxes.Detections.of(found, [(lesion, [0])] * 40, np.arange(40))
    judged = of_boxes(detections, IDS, 1, 0.5)
    one, two = rows_of(judged, SITES).values()
    whole = boxes.report(detections, ("lesion",), 20, threshold=0.5)["metrics"]
    assert one["sensitivity"]["value"] == 0.5 and two["sensitivity"]["value"] == 1
    assert one["false_alarms_per_image"]["value"] == 0.5 and whole["sensitivity"]["value"] == 0.75
    every = np.ones(40, bool)
    own = judged.parts[0].figures(every)(np.ones((1, 40)))
    for name, values in own.items():
        assert values[0] == pytest.approx(whole[name]["value"]), name
    assert one["rest"]["sensitivity"]["value"] == -0.5 and one["rest"]["false_alarms_per_image"]["low"] > 0
    first, second, *_ = verdicts([one, two], judged.headlines)
    assert "Site, site 1: a sensitivity of 0.50, 0.50 lower than on the rest" in first
    assert "a number of false alarms an image of 0.50, 0.50 higher than on the rest" in second
    assert judged.marks[IDS[1]] == 0 and judged.marks[IDS[0]] == 1


def test_a_group_in_which_all_is_found_or_told_apart_rests_on_its_own_patients():
    lesion, none = [[0.0, 0, 10, 10]], np.zeros((0, 4))
    there = [lesion if n % 20 < 5 else none for n in range(40)]  # five of each site have a lesion
    found = boxes.Detections.of(
        [(b, [0.9] * len(b), [0] * len(b)) for b in there], [(b, [0] * len(b)) for b in there], np.arange(40)
    )
    for row in rows_of(of_boxes(found, IDS, 1, 0.5), SITES).values():
        assert row["sensitivity"] == {"value": 1.0, "low": pytest.approx(0.025 ** (1 / 5)), "high": 1.0}
    labels = (np.arange(40) % 20 < 5).astype(np.int64)
    told = {**examined(40, labels), "patients": np.arange(40), "probabilities": np.eye(2)[labels]}
    for row in rows_of(judged(told), SITES).values():
        assert row["auc"] == row["balanced_accuracy"]
        assert row["auc"] == {"value": 1.0, "low": pytest.approx(0.025 ** (1 / 5)), "high": 1.0}
        assert row["accuracy"]["low"] == pytest.approx(0.025 ** (1 / 20))


def test_outlines_and_types_are_told_group_by_group_each_by_the_cases_that_have_them():
    masked = np.arange(40) % 4 != 3  # of a quarter nobody drew an outline
    both = np.where(np.arange(40) < 20, 5.0, 9.0)[masked]
    told = [outlines.compare(np.zeros((1, 4, 4)), np.zeros((1, 4, 4)))] * len(both)
    found = outlines.Outlines.of(
        [{**row, "both": b, "answered": 10.0, "given": 10.0} for row, b in zip(told, both, strict=True)],
        np.arange(40)[masked],
    )
    labels = np.where(np.arange(40) < 30, np.arange(40) % 2, -1)  # the type of ten is unknown
    examples = {**examined(40, np.arange(40) % 2), "labels": labels, "patients": np.arange(40)}
    judged = of_outlines(examples, found, masked)
    assert judged is not None
    one, two = rows_of(judged, SITES).values()
    assert one["n"] == 20 and one["dice"]["value"] == 0.5
    assert two["dice"]["value"] == pytest.approx(0.9)
    assert one["rest"]["dice"]["value"] == pytest.approx(-0.4)
    assert one["auc"]["value"] is not None and two["accuracy"]["value"] is not None, "ten of these have a type"
    few = rows_of(judged, ["site 1" if n < 28 else "site 2" for n in range(40)])
    assert few["site 2"] == {"about": "Site", "name": "site 2", "n": 12, "patients": 12, "few": True}, "nine outlines"
    assert "rest" not in few["site 1"], "so there is nothing to compare with"


def test_restored_slices_are_told_scan_by_scan():
    num = 80  # two slices a scan
    first = np.arange(num) < 40
    shape = {"ways": ["output", "input"], "windows": {"all": (0.0, 1.0)}}
    rows = [
        {
            "psnr_db": np.array([[31.0 if here else 34.0], [30.0]]),
            "ssim": np.array([[0.8], [0.7]]),
            **{name: np.zeros(2) for name in ("rmse", "bias")},
            **{name: np.zeros(3) for name in ("noise_std", "edge_px")},
            "noise_power": np.zeros((3, len(pictures.texture.FREQUENCIES))),
            "pixel_mm": np.array(1.0),
        }
        for here in first
    ]
    found = pictures.Pictures.of(rows, np.repeat(np.arange(40), 2), shape["ways"], shape["windows"])  # type: ignore[arg-type]
    judged = of_pictures(found, np.repeat(IDS, 2))
    one, two = rows_of(judged, SITES).values()
    assert one["n"] == 20 and one["psnr_gain_db"]["value"] == 1 and two["psnr_gain_db"]["value"] == 4
    assert "a gain in PSNR (dB) of 1.00, 3.00 lower than on the rest" in verdicts([one, two], judged.headlines)[0]
    assert judged.marks[IDS[0]] == 1 and judged.marks[IDS[39]] == 4
