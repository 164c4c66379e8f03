"""Figures of boxes: by hand, equal to torchmetrics with faster-coco-eval and to MONAI, with intervals that cover."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import pytest
from monai.metrics import compute_froc_curve_data

from builder.measures import boxes as module
from builder.measures.bootstrap import intervals
from builder.measures.boxes import (
    RATES,
    SHOWN,
    Detections,
    operating_threshold,
    overlaps,
    precisions,
    reference,
    report,
    scores,
)

NAMES = ("a", "b", "c")
FIGURES = ("map10", "map30", "map50", "map", "class/map10", "class/map50", "class/map")


def found(num_images: int = 40, seed: int = 0, noise: int = 6, decimals: int = 12, patients: int = 20) -> Detections:
    """Random lesions of three classes, each answered twice, nearly and badly, beside `noise` boxes upon nothing."""
    random = np.random.default_rng(seed)

    def scattered(count: int) -> np.ndarray:
        corner = random.uniform(0, 80, (count, 2))
        return np.concatenate([corner, corner + random.uniform(4, 40, (count, 2))], axis=1)

    answers, truths = [], []
    for _ in range(num_images):
        lesions = scattered(int(random.integers(0, 5)))
        classes = random.integers(0, 3, len(lesions))
        moved = [lesions + random.normal(0, by, lesions.shape) for by in (0.5, 3)]
        every = np.concatenate([*moved, scattered(noise)])
        every = np.concatenate([np.minimum(every[:, :2], every[:, 2:]), np.maximum(every[:, :2], every[:, 2:])], axis=1)
        labels = np.concatenate([classes, classes, random.integers(0, 3, noise)])
        labels = np.where(random.random(len(labels)) < 0.1, random.integers(0, 3, len(labels)), labels)
        sure = random.normal(np.repeat([0.65, 0.45], [2 * len(lesions), noise]), 0.15)
        answers.append((every, np.round(np.clip(sure, 0, 1), decimals), labels))
        truths.append((lesions, classes))
    return Detections.of(answers, truths, np.arange(num_images) % patients)


def ranked(these: Detections, limits: tuple[float, ...] = module._LIMITS) -> list[Any]:
    return [module._ranked(these, label, limits) for label in range(3)]


def repeated(these: Detections, times: np.ndarray) -> Detections:
    """The images as often as told, one after the other."""
    images = np.repeat(np.arange(len(times)), times)
    answers = [(these.boxes[m], these.scores[m], these.labels[m]) for m in (these.images == i for i in images)]
    truths = [(these.lesions[m], these.lesion_labels[m]) for m in (these.lesion_images == i for i in images)]
    return Detections.of(answers, truths, np.arange(len(images)))


def one_image(*shown: tuple[float, float], lesions: int = 2) -> Detections:
    """Lesions of 10 px in a row, 20 px apart; each box (offset in px of the first lesion, score)."""
    there = np.array([[20.0 * k, 0, 20 * k + 10, 10] for k in range(lesions)]).reshape(-1, 4)
    boxes = np.array([[at, 0, at + 10, 10] for at, _ in shown]).reshape(-1, 4)
    answer = (boxes, np.array([score for _, score in shown]), np.zeros(len(shown), int))
    return Detections.of([answer], [(there, np.zeros(lesions, int))], [0])


# -- average precision ------------------------------------------------------------------------------------------------


def test_overlaps_by_hand():
    given = overlaps(np.array([[0, 0, 10, 10.0]]), np.array([[5, 0, 15, 10.0], [0, 0, 10, 10], [20, 20, 30, 30]]))
    assert given[0] == pytest.approx([50 / 150, 1, 0])
    assert overlaps(np.zeros((1, 4)), np.zeros((1, 4))).item() == 0


def test_average_precision_by_hand():
    told = scores(one_image((0, 0.9), (100, 0.8), (20, 0.7)), 1)
    assert told["map50"] == pytest.approx((51 + 50 * 2 / 3) / 101)  # a hit, a false alarm, the second hit
    assert scores(one_image((0, 0.9), (0, 0.8)), 1)["map50"] == pytest.approx(51 / 101)  # found twice is found once
    shifted = scores(one_image((4, 0.9), lesions=1), 1)  # IoU 6/14
    assert (shifted["map10"], shifted["map30"], shifted["map50"], shifted["map"]) == (1, 1, 0, 0)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("decimals", [12, 1])  # one decimal: most scores are tied
def test_average_precision_equals_that_of_torchmetrics(seed: int, decimals: int):
    these = found(seed=seed, decimals=decimals)
    ours, theirs = precisions(ranked(these), np.ones((1, 40))), reference(these, 3)
    for name in FIGURES:
        assert ours[name] == pytest.approx(theirs[name], abs=1e-12), name
    assert 0.2 < ours["map"][0] < 0.9


def test_at_most_a_hundred_boxes_of_an_image_and_class_count():
    these = found(4, noise=900)
    assert np.bincount(these.images[these.labels == 0]).max() > 200
    ours, theirs = precisions(ranked(these), np.ones((1, 4))), reference(these, 3)
    for name in FIGURES:
        assert ours[name] == pytest.approx(theirs[name], abs=1e-12), name


def test_what_torchmetrics_does_by_itself_differs_only_by_its_rounded_recalls():
    import torch
    from torchmetrics.detection import MeanAveragePrecision

    these = found(seed=3)
    metric = MeanAveragePrecision(backend="faster_coco_eval")
    for image in range(40):
        mine, true = these.images == image, these.lesion_images == image
        one = {"boxes": these.boxes[mine], "scores": these.scores[mine], "labels": these.labels[mine]}
        other = {"boxes": these.lesions[true], "labels": these.lesion_labels[true]}
        metric.update([{k: torch.tensor(v) for k, v in one.items()}], [{k: torch.tensor(v) for k, v in other.items()}])
    told = metric.compute()
    assert scores(these, 3)["map"] == pytest.approx(float(told["map"]), abs=2e-3)
    assert scores(these, 3)["map50"] == pytest.approx(float(told["map_50"]), abs=2e-3)


def test_an_image_that_weighs_three_counts_like_three_images():
    these = found(seed=5)
    weights = np.random.default_rng(2).integers(0, 4, (4, 40))
    weighed = precisions(ranked(these), weights.astype(float))
    for row, times in enumerate(weights):
        again = repeated(these, times)
        counted, theirs = precisions(ranked(again), np.ones((1, times.sum()))), reference(again, 3)
        for name in FIGURES:
            assert weighed[name][row] == pytest.approx(counted[name][0], abs=1e-12), name
            assert weighed[name][row] == pytest.approx(theirs[name][0], abs=1e-12), name


def test_a_class_without_lesions_has_no_precision_and_is_left_out_of_the_mean():
    these = found(seed=1)
    keep = these.lesion_labels != 2
    less = Detections(
        these.boxes,
        these.scores,
        these.labels,
        these.images,
        these.lesions[keep],
        these.lesion_labels[keep],
        these.lesion_images[keep],
        these.patients,
    )
    ours = precisions(ranked(less), np.ones((1, 40)))
    assert np.isnan(ours["class/map50"][0, 2]) and ours["map50"][0] == pytest.approx(ours["class/map50"][0, :2].mean())
    assert ours["map50"][0] == pytest.approx(reference(less, 3)["map50"][0], abs=1e-12)
    told = report(less, NAMES, resamples=40)
    assert told["per_class"]["c"]["map50"] == {"value": None, "low": None, "high": None}
    assert any("'c' has no lesion" in note for note in told["notes"])
    json.dumps(told, allow_nan=False)


# -- free response ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("decimals", [12, 1])
def test_sensitivity_at_a_rate_is_the_best_point_of_monais_curve_that_keeps_it(seed: int, decimals: int):
    these = found(seed=seed, decimals=decimals, noise=25)
    parts = ranked(these, (0.3,))
    response = module._response(parts)
    every = np.concatenate([part.scores for part in parts])
    hit = np.concatenate([part.answers[0] for part in parts]) >= 0
    alarms, sensitivity = compute_froc_curve_data(every[~hit], every[hit], len(these.lesions), 40)
    ours = module._sensitivities(response, np.ones((1, 40)), RATES)[0]
    lowest = every.min()  # MONAI leaves out the lowest threshold of all
    everything = ((every[~hit] >= lowest).sum() / 40, hit.sum() / len(these.lesions))
    for rate, value in zip(RATES, ours, strict=True):
        reached = [s for a, s in [*zip(alarms, sensitivity, strict=True), everything] if a <= rate]
        assert value == pytest.approx(max(reached)), rate


def test_free_response_counts_weights_like_repeated_images():
    these = found(seed=7)
    weights = np.random.default_rng(3).integers(0, 4, (5, 40))
    weighed = module._sensitivities(module._response(ranked(these, (0.3,))), weights.astype(float), RATES)
    for row, times in enumerate(weights):
        again = module._response(ranked(repeated(these, times), (0.3,)))
        assert weighed[row] == pytest.approx(module._sensitivities(again, np.ones((1, times.sum())), RATES)[0])


def test_images_without_lesions_let_more_false_alarms_pass():
    busy = one_image((0, 0.5), (100, 0.9), (150, 0.8))  # two false alarms before the first hit, one image
    response = module._response([module._ranked(busy, 0, (0.3,))])
    assert module._sensitivities(response, np.ones((1, 1)), (1.0, 2.0)).tolist() == [[0, 0.5]]
    empty = (np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))
    more = Detections.of(
        [(busy.boxes, busy.scores, busy.labels), empty],
        [(busy.lesions, busy.lesion_labels), (np.zeros((0, 4)), np.zeros(0, int))],
        [0, 1],
    )
    response = module._response([module._ranked(more, 0, (0.3,))])
    assert module._sensitivities(response, np.ones((1, 2)), (1.0, 2.0)).tolist() == [[0.5, 0.5]]


def test_tied_scores_come_in_together():
    these = one_image((0, 0.9), (100, 0.9), (20, 0.9))
    response = module._response([module._ranked(these, 0, (0.3,))])
    assert module._sensitivities(response, np.ones((1, 1)), (0.5, 1.0)).tolist() == [[0, 1]]


def test_the_operating_threshold_keeps_its_rate_and_lies_between_two_scores():
    these = one_image((0, 0.9), (100, 0.8), (20, 0.7), (150, 0.4))
    assert operating_threshold(these, 1, rate=1.0) == pytest.approx(0.55)
    assert operating_threshold(these, 1, rate=0.5) == pytest.approx(0.85)
    assert operating_threshold(one_image((100, 0.8)), 1) is None
    assert operating_threshold(one_image((0, 0.3)), 1) == 0.3


# -- the report -------------------------------------------------------------------------------------------------------


def test_the_report_by_hand():
    told = report(one_image((0, 0.9), (100, 0.8), (22, 0.3)), ("nodule",), resamples=50, threshold=0.5)
    assert (told["n"], told["patients"], told["lesions"], told["without_lesions"]) == (1, 1, 2, 0)
    values = {name: figure["value"] for name, figure in told["metrics"].items()}
    assert values["sensitivity"] == 0.5 and values["ppv"] == 0.5 and values["false_alarms_per_image"] == 1
    assert values["image_specificity"] is None
    assert values["cpm"] == pytest.approx((3 * 0.5 + 4 * 1) / 7)  # the second hit comes with one false alarm
    (missed,), (alarm,) = told["misses"], told["false_alarms"]
    assert (missed["image"], missed["lesion"], missed["score"], missed["box"]) == (0, 1, 0.3, [20, 0, 30, 10])
    assert (alarm["why"], alarm["score"], alarm["overlap"]) == ("nothing there", 0.8, 0)
    assert told["operating_point"] == {"threshold": 0.5, "chosen": "validation", "iou": 0.3}
    assert told["metrics"]["sensitivity"]["low"] is None, "one patient has no interval"


def test_false_alarms_say_why():
    there = (np.array([[0, 0, 10, 10.0], [40, 0, 50, 10]]), np.array([0, 1]))
    boxes = np.array([[0, 0, 10, 10.0], [1, 0, 11, 10], [40, 0, 50, 10], [7, 0, 17, 10], [80, 0, 90, 10]])
    answer = (boxes, np.array([0.9, 0.8, 0.7, 0.6, 0.5]), np.zeros(5, int))
    told = report(Detections.of([answer], [there], [0]), ("a", "b"), resamples=10, threshold=0.1)
    assert [row["why"] for row in told["false_alarms"]] == [
        "found already",
        "another class",
        "badly placed",
        "nothing there",
    ]
    assert [row["class"] for row in told["misses"]] == ["b"]


def test_the_worst_miss_is_the_one_with_no_sign_and_of_these_the_largest():
    lesions = np.array([[0, 0, 10, 10.0], [20, 0, 50, 30], [60, 0, 70, 10]])
    answer = (np.array([[60, 0, 70, 10.0]]), np.array([0.2]), np.zeros(1, int))
    these = Detections.of([answer], [(lesions, np.zeros(3, int))], [0])
    told = report(these, ("a",), resamples=10, threshold=0.5)
    assert [row["lesion"] for row in told["misses"]] == [1, 0, 2]
    assert [row["score"] for row in told["misses"]] == [None, None, 0.2]
    assert len(report(these, ("a",), resamples=10, threshold=0.5, most=1)["misses"]) == 1


def test_sensitivity_by_size_parts_the_lesions_at_their_terciles_or_where_it_is_told():
    sides = [10, 11, 40, 41, 100, 101]
    lesions = np.array([[0, 200.0 * k, side, 200 * k + side] for k, side in enumerate(sides)])
    answer = (lesions[[0, 2, 3]], np.array([0.9, 0.9, 0.9]), np.zeros(3, int))
    these = Detections.of([answer], [(lesions, np.zeros(6, int))], [0])
    for told in (report(these, ("a",), resamples=10), report(these, ("a",), resamples=10, size_bounds_px=(32, 96))):
        values = [told["metrics"][f"sensitivity_{size}"]["value"] for size in ("small", "medium", "large")]
        assert values == [0.5, 1.0, 0.0] and told["sizes"]["n"] == {"small": 2, "medium": 2, "large": 2}
    assert told["sizes"]["bounds_px"] == [32, 96] and "32 and 96 px" in told["sizes"]["rule"]


def test_the_report_tells_a_threshold_chosen_on_the_same_images():
    these = found()
    told = report(these, NAMES, resamples=20)
    assert told["operating_point"]["chosen"] == "here" and any("these very images" in n for n in told["notes"])
    assert told["metrics"]["false_alarms_per_image"]["value"] <= 1
    for name, value in scores(these, 3).items():
        assert told["metrics"][name]["value"] == pytest.approx(value, abs=1e-12), name
    wide = report(these, NAMES, resamples=300)
    for name in ("map50", "map", "cpm", "sensitivity", "ppv"):
        figure = wide["metrics"][name]
        assert figure["low"] < figure["value"] < figure["high"], name
    curve = wide["froc"]["curve"]
    assert curve["sensitivity"] == sorted(curve["sensitivity"])
    band = zip(curve["low"], curve["sensitivity"], curve["high"], strict=True)
    assert all(low <= value <= high for low, value, high in band)
    assert wide["froc"]["at"]["1"]["value"] == curve["sensitivity"][curve["false_alarms"].index(1.0)]


def test_a_figure_of_few_patients_is_no_surer_for_the_many_it_is_not_about():
    """Sixty patients: two with a small lesion, thirty with a large one, of which a third box finds one."""
    small, large = np.array([[10, 10, 14, 14.0]]), np.array([[10, 10, 60, 60.0]])
    there = [small] * 2 + [large] * 30 + [np.zeros((0, 4))] * 28
    sure = [0.9] * 3 + [0.1] * 29 + [0.0] * 28
    answers = [(b, np.full(len(b), s), np.zeros(len(b), int)) for b, s in zip(there, sure, strict=True)]
    these = Detections.of(answers, [(b, np.zeros(len(b), int)) for b in there], np.arange(60))
    told = report(these, ("a",), resamples=100, threshold=0.5, size_bounds_px=(8, 32))["metrics"]
    assert told["sensitivity_small"] == {"value": 1.0, "low": pytest.approx(0.025 ** (1 / 2)), "high": 1.0}
    assert told["ppv"] == {"value": 1.0, "low": pytest.approx(0.025 ** (1 / 3)), "high": 1.0}
    assert told["image_specificity"]["low"] == pytest.approx(0.025 ** (1 / 28))


@pytest.mark.parametrize("kind", ["no box", "no lesion", "nothing", "no image"])
def test_what_cannot_be_computed_is_told_as_none(kind: str):
    empty, none = (np.zeros((0, 4)), np.zeros(0), np.zeros(0, int)), (np.zeros((0, 4)), np.zeros(0, int))
    answer = (np.array([[0, 0, 10, 10.0]]), np.array([0.9]), np.array([0]))
    lesion = (np.array([[0, 0, 10, 10.0]]), np.array([0]))
    these = {
        "no box": Detections.of([empty] * 3, [lesion] * 3, np.arange(3)),
        "no lesion": Detections.of([answer] * 3, [none] * 3, np.arange(3)),
        "nothing": Detections.of([empty] * 3, [none] * 3, np.arange(3)),
        "no image": Detections.of([], [], []),
    }[kind]
    told = report(these, NAMES, resamples=20)
    json.dumps(told, allow_nan=False)
    assert told["operating_point"] == {"threshold": SHOWN, "chosen": "nobody", "iou": 0.3} and told["notes"]
    values = {name: figure["value"] for name, figure in told["metrics"].items()}
    if kind == "no box":
        assert values["map50"] == 0 and values["sensitivity"] == 0 and values["ppv"] is None
        assert told["metrics"]["sensitivity"]["high"] == pytest.approx(1 - 0.025 ** (1 / 3)), "three patients"
        assert len(told["misses"]) == 3
    else:
        assert values["map50"] is None and values["cpm"] is None and values["sensitivity"] is None
        assert scores(these, 3) == {}
    if kind in ("no lesion", "nothing"):
        assert values["image_specificity"] == (kind == "nothing"), "in use the box is shown"


def test_without_a_threshold_boxes_are_judged_as_they_are_shown():
    wrong = (np.array([[60, 60, 80, 80.0]] * 4), np.array([0.9, 0.8, 0.7, 0.2]), np.zeros(4, int))
    there = [(np.full((int(n < 10), 4), [10, 10, 20, 20.0]), np.zeros(int(n < 10), int)) for n in range(20)]
    these = Detections.of([wrong] * 20, there, np.arange(20))
    told = report(these, ("a",), resamples=50)
    values = {name: figure["value"] for name, figure in told["metrics"].items()}
    assert values["false_alarms_per_image"] == 3 and values["image_specificity"] == 0 and values["ppv"] == 0
    assert len(told["false_alarms"]) == 24 and told["operating_point"]["chosen"] == "nobody"
    assert any("count from a score of 0.3 on" in note for note in told["notes"])
    assert report(these, ("a",), 50, threshold=SHOWN, chosen="nobody") == told, "as where validation could choose none"
    counts, figures = module.by_image(these, 1, None)
    assert counts[:, 1].tolist() == [3] * 20 and figures(np.ones((1, 20)))["false_alarms_per_image"] == 3


def test_as_many_answers_as_images_are_asked_for():
    with pytest.raises(ValueError, match="as many of each as images"):
        Detections.of([], [(np.zeros((0, 4)), np.zeros(0))], [0])


def test_the_arrays_of_detections_make_them_again():
    these = found()
    again = Detections.from_arrays({**these.arrays(), "more": np.zeros(1)})
    assert scores(again, 3) == scores(these, 3)


def test_a_95_percent_interval_of_average_precision_covers_the_truth_about_95_times_in_a_hundred():
    def sample(random: np.random.Generator, num: int) -> Detections:
        """One lesion an image, found with chance 0.7; one false alarm; two alike images of each patient."""
        lesion = np.array([[0, 0, 10, 10.0]])
        answers, truths = [], []
        for _ in range(num):
            at = [lesion] if random.random() < 0.7 else []
            boxes = np.concatenate([*at, [[50, 50, 60, 60.0]]])
            sure = np.concatenate([random.normal(1, 1, len(at)), random.normal(0, 1, 1)])
            for _ in range(2):
                answers.append((boxes, sure, np.zeros(len(boxes), int)))
                truths.append((lesion, np.zeros(1, int)))
        return Detections.of(answers, truths, np.repeat(np.arange(num), 2))

    truth = scores(sample(np.random.default_rng(99), 6000), 1)["map50"]
    random, trials, covered = np.random.default_rng(0), 120, 0
    for _ in range(trials):
        these = sample(random, 100)
        part = module._ranked(these, 0, (0.5,))

        def figures(weights: np.ndarray, part: Any = part) -> dict[str, np.ndarray]:
            return {"map50": module.average_precision(part, weights)[:, 0]}

        told = intervals(figures, these.patients, 200, seed=1, shifted=("map50",))["map50"]
        covered += told["low"] <= truth <= told["high"]
    assert 0.9 <= covered / trials <= 0.99, covered / trials


def test_two_thousand_resamples_of_five_hundred_images_take_seconds():
    these = found(500, noise=20, patients=500)
    began = time.process_time()
    report(these, NAMES)
    assert time.process_time() - began < 20


def test_no_false_alarm_on_a_few_patients_is_no_promise():
    """The exact bound of a Poisson number (Garwood 1936): -ln 0.025 = 3.69 exposures, here one a patient."""
    hit = (np.array([[0.0, 0, 10, 10]]), np.array([0.9]), np.array([0]))
    there = hit[0], hit[2]
    for patients, high in (([0, 1, 2], 3.689 / 3), ([0, 0, 0], 3.689)):
        told = report(Detections.of([hit] * 3, [there] * 3, patients), ("a",), resamples=50, threshold=0.5)
        figure = told["metrics"]["false_alarms_per_image"]
        assert (figure["value"], figure["low"]) == (0, 0) and figure["high"] == pytest.approx(high, abs=1e-3)
