"""Tumour diagnosis: the packed answer, its losses, what is absent, the way back to the scan's grid, the figures."""

# What may be missing by its type is there by the test: None fails it by itself.
# mypy: disable-error-code="union-attr, index, operator, arg-type, misc, attr-defined"

from __future__ import annotations

import csv
import json
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import little_run
import nibabel
import nrrd
import numpy as np
import pytest
import taken_away
import torch
from PIL import Image, ImageSequence
from tiers import covering

from builder import commands, lessons, losses, network, outlined, scans, task
from builder.augment import Augment
from builder.check import problems, suits
from builder.data import Dataset, Fingerprint, place
from builder.evaluate import evaluate
from builder.export import export, unsupported, untrained
from builder.measures.extent import extent, longest_diameter
from builder.measures.named import METRICS
from builder.network import assemble, plan
from builder.parts.training import LOSSES
from builder.predict import Predictor, read
from builder.runs import Run
from builder.sandbox import Sandbox
from builder.scan import Scan
from builder.spec import Choice, Data, Experiment, Node, Training
from builder.targets import Target
from tasks import tumor_figures, tumor_phantoms
from tasks.tumor_answers import Answer, of_case, on_grid, parted, teaching
from tasks.tumor_diagnosis import TumorDiagnosis

pytestmark = pytest.mark.usefixtures("warm_children")

TUMOR = TumorDiagnosis()
STARTERS = {e.name: e for e in TUMOR.starters()}
SIXTEEN = Experiment(task="tumor_diagnosis", data=Data(size_px=16))


def tiny(**changes: object) -> Experiment:
    """The small U-Net, smaller: 48 px, 6 channels."""
    experiment = STARTERS["small-unet"].replace("data.size_px", 48)
    for node in experiment.network:
        if node.name == "conv2d":
            path = f"network.{node.id}.params.out_channels"
            experiment = experiment.replace(path, int(node.params["out_channels"]) // 2)
    for path, value in changes.items():
        experiment = experiment.replace(path.replace("__", "."), value)
    return experiment


# -- the head and its row ---------------------------------------------------------------------------------------------


def head(num_classes: int, **params: object) -> torch.nn.Module:
    nodes = [
        Node(id="fine", name="conv2d", params={"out_channels": 4}),
        Node(id="deep", name="max_pool"),
        Node(id="answer", name="type_and_outline", params=params, inputs=("fine", "deep")),
    ]
    return assemble(nodes, (1, 16, 16), num_classes, seed=0).eval()


def test_the_row_holds_the_types_first_and_then_the_outline_row_by_row():
    net = head(3)
    answer = net.layers.get_submodule("answer")
    x = torch.randn(2, 1, 16, 16)
    with torch.no_grad():
        scores, outline = parted(net(x), (16, 16))
        fine = net.layers.get_submodule("fine")(x)
        assert torch.equal(outline, answer.outline(fine)[:, 0])
        deep = torch.nn.functional.max_pool2d(fine, 2)
        vector = torch.cat([deep.mean((2, 3)), deep.amax((2, 3))], 1)
        assert torch.allclose(scores, answer.types(vector))
    assert scores.shape == (2, 3) and outline.shape == (2, 16, 16)


@pytest.mark.parametrize("num_classes", [0, 1])
def test_with_fewer_than_two_types_the_row_is_the_outline_alone(num_classes: int):
    net = head(num_classes)
    out = net(torch.randn(2, 1, 16, 16))
    assert out.shape == (2, 256) and parted(out, (16, 16))[0].shape == (2, 0)
    assert TUMOR.head(Data(size_px=16), num_classes) == (256,)
    assert torch.equal(TUMOR.activate(SIXTEEN, out, False), out.sigmoid())
    assert TUMOR.evidence(SIXTEEN, out) is None


def test_a_vector_may_tell_the_type_and_is_taken_as_it_is():
    nodes = [
        Node(id="fine", name="conv2d", params={"out_channels": 4}),
        Node(id="pooled", name="global_pool"),
        Node(id="answer", name="type_and_outline", inputs=("fine", "pooled")),
    ]
    assert plan(nodes, (1, 16, 16), 2).output == (2 + 256,)
    wrong = [nodes[0], nodes[1], nodes[2].model_copy(update={"inputs": ("pooled", "fine")})]
    assert "wire them first" in plan(wrong, (1, 16, 16), 2).nodes[-1].message


def test_activation_is_a_softmax_of_the_types_and_a_sigmoid_of_the_pixels():
    row = torch.randn(2, 3 + 256)
    scores, inside = parted(TUMOR.activate(SIXTEEN, row, False), (16, 16))
    assert torch.allclose(scores, row[:, :3].softmax(1)) and torch.allclose(inside.flatten(1), row[:, 3:].sigmoid())


@pytest.mark.parametrize("name", STARTERS)
def test_a_starter_fits_its_task_and_says_when_to_take_it(name: str):
    experiment = STARTERS[name]
    for num_classes in (1, 2, 5):
        planned = network.plan_of(experiment, num_classes)
        assert [n.message for n in planned.nodes if n.message] == []
        assert suits(planned.output, TUMOR.head(experiment.data, num_classes))
    assert len(TUMOR.when[name]) > 100
    assert task.unfit(experiment) == []
    known = {"num_slices": {"min": 20, "median": 20, "max": 20}, "sizes": {"min": [64, 64], "max": [64, 64]}}
    shown = facts(**known) if experiment.data.layout == "volume" else facts()
    assert [p for p in problems(experiment, shown) if p.severity == "error"] == []


# -- losses -----------------------------------------------------------------------------------------------------------


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    chance = torch.Generator().manual_seed(3)
    return torch.randn(3, 1, 8, 8, generator=chance), (torch.rand(3, 1, 8, 8, generator=chance) > 0.7).to(torch.uint8)


def counted(logits: torch.Tensor, masks: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Soft (true, false, missed) pixels of the whole batch."""
    inside, true = logits.sigmoid(), masks.float()
    return (inside * true).sum(), (inside * (1 - true)).sum(), ((1 - inside) * true).sum()


def loss_of(name: str, **params: float) -> torch.Tensor:
    logits, masks = pair()
    return losses.of_outlines(Choice(name=name, params=params))(logits, masks)


# With masks of 0 and 1, smp's overlap (half of sums minus differences) equals the soft counts of the papers.
def test_dice_and_cross_entropy_is_that_of_its_formula_and_the_usual_one():
    logits, masks = pair()
    true, false, missed = counted(logits, masks)
    dice = 1 - (2 * true + 2) / (2 * true + false + missed + 2)
    pixels = torch.nn.functional.binary_cross_entropy_with_logits(logits, masks.float())
    torch.testing.assert_close(loss_of("usual"), 0.5 * dice + 0.5 * pixels)
    torch.testing.assert_close(loss_of("dice_ce", dice=0.8), 0.8 * dice + 0.2 * pixels)
    sure = torch.where(masks > 0, logits.sigmoid(), 1 - logits.sigmoid())
    focal = ((1 - sure) ** 3 * -sure.log()).mean()
    torch.testing.assert_close(loss_of("dice_focal", dice=0.25, gamma=3.0), 0.25 * dice + 0.75 * focal)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_the_focal_loss_of_pixels_is_smps_and_has_a_gradient_where_background_is_entirely_sure(gamma: float):
    from segmentation_models_pytorch.losses import FocalLoss

    loss = losses.DiceFocal(dice=0.0, gamma=gamma)
    logits, masks = pair()
    torch.testing.assert_close(loss(logits, masks), FocalLoss("binary", gamma=gamma)(logits, masks.float()))
    logits[0], masks[0] = -40.0, 0
    logits.requires_grad_()
    loss(logits, masks).backward()
    assert logits.grad is not None and logits.grad.isfinite().all() and logits.grad[1].abs().min() > 0


def test_dice_is_monais_over_the_batch():
    from monai.losses.dice import DiceLoss

    logits, masks = pair()
    theirs = DiceLoss(sigmoid=True, batch=True, smooth_nr=2.0, smooth_dr=2.0)(logits, masks)
    torch.testing.assert_close(loss_of("dice_ce", dice=1.0), theirs)


def test_tversky_weighs_false_and_missed_pixels_as_it_says():
    true, false, missed = counted(*pair())
    wanted = (1 - (true + 1) / (true + 0.2 * false + 0.8 * missed + 1)) ** 2
    torch.testing.assert_close(loss_of("tversky", alpha=0.2, beta=0.8, gamma=2.0), wanted)


def test_the_lovasz_hinge_is_the_jaccard_loss_where_answers_are_certain():
    """For margins of exactly 0 or 2 it is the sum over the sorted errors: twice 1 - Jaccard."""
    masks = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    masks[..., :2, :] = 1
    logits = torch.where(masks > 0, 1.0, -1.0)
    logits[..., 1, :2] = -1.0  # two missed
    logits[..., 3, 0] = 1.0  # one false
    answered = logits > 0
    jaccard = (answered & (masks > 0)).sum() / (answered | (masks > 0)).sum()
    for per_scan in (False, True):
        found = losses.of_outlines(Choice(name="lovasz", params={"per_scan": per_scan}))(logits, masks)
        torch.testing.assert_close(found, 2 * (1 - jaccard))


@pytest.mark.parametrize("name", TUMOR.losses)
def test_every_loss_of_the_task_falls_along_its_gradient_and_knows_the_weight_of_the_type(name: str):
    logits, masks = pair()
    logits.requires_grad_(True)
    loss = losses.of_outlines(Choice(name=name))
    assert loss.type_weight == 0.5
    before = loss(logits, masks)
    before.backward()
    assert torch.isfinite(logits.grad).all() and loss((logits - logits.grad).detach(), masks) < before
    loss = losses.of_outlines(Choice(name=name))
    assert torch.isfinite(loss(torch.randn(2, 1, 4, 4), torch.zeros(2, 1, 4, 4, dtype=torch.uint8)))


def test_every_setting_of_an_outline_loss_is_one_of_its_class():
    for name in TUMOR.losses[1:]:
        assert {p.name for p in LOSSES[name].params} <= set(
            losses.of_outlines(Choice(name=name)).__init__.__annotations__
        )


# -- what is absent ---------------------------------------------------------------------------------------------------


class FakeSet:
    """As much of a data set as a loss asks for: masks by case."""

    def __init__(self, masks: dict[int, np.ndarray]) -> None:
        self.masks = masks

    def mask(self, case: int) -> np.ndarray | None:
        return self.masks.get(case)


def lesson(classes: list[int], masks: np.ndarray, masked: list[bool], training: Training | None = None, **more):
    known = {k: masks[k] for k, m in enumerate(masked) if m}
    train = SimpleNamespace(
        classes=np.array(classes),
        masks=masks,
        masked=np.array(masked),
        cases=np.arange(len(classes)),
        num_classes=2,
        dataset=FakeSet({**known, **more.get("known", {})}),
    )
    target = Target(
        classes=torch.tensor(classes),
        masks=torch.from_numpy(masks)[:, None],
        masked=torch.tensor(masked),
        cases=torch.arange(len(classes)),
    )
    experiment = tiny(data__size_px=16).model_copy(update={"training": training or Training()})
    return TUMOR.objective(experiment, None, train), target


def test_a_scan_without_a_mask_teaches_no_outline_and_one_without_a_type_no_type():
    masks = np.zeros((3, 16, 16), np.uint8)
    masks[1, 4:9, 4:9] = 1
    objective, target = lesson([0, -1, 1], masks, [False, True, False])
    row = torch.randn(3, 2 + 256, requires_grad=True)
    objective(row, target).backward()
    types, pixels = row.grad[:, :2].abs().sum(1) > 0, row.grad[:, 2:].abs().sum(1) > 0
    assert types.tolist() == [True, False, True] and pixels.tolist() == [False, True, False]


def test_an_empty_mask_is_no_absent_one():
    masks = np.zeros((2, 16, 16), np.uint8)
    objective, target = lesson([0, 1], masks, [True, False])
    row = torch.randn(2, 2 + 256, requires_grad=True)
    objective(row, target).backward()
    assert (row.grad[:, 2:].abs().sum(1) > 0).tolist() == [True, False]
    assert (row.grad[0, 2:] > 0).all()  # every pixel is told to lie outside


def test_a_batch_that_teaches_nothing_gives_a_loss_of_zero_and_no_gradient():
    objective, target = lesson([0, -1], np.zeros((2, 16, 16), np.uint8), [False, False])
    row = torch.randn(2, 2 + 256, requires_grad=True)
    loss = objective(
        row[1:], Target(target.classes[1:], masks=target.masks[1:], masked=target.masked[1:], cases=target.cases[1:])
    )
    loss.backward()
    assert loss.item() == 0 and not row.grad.any()


def test_the_type_counts_as_much_beside_the_outline_as_is_said():
    masks = np.zeros((2, 16, 16), np.uint8)
    masks[0, 3:7, 3:7] = 1
    row = torch.randn(2, 2 + 256)
    entropy = torch.nn.functional.cross_entropy(row[:, :2], torch.tensor([0, 1]))
    found = []
    for weight in (0.0, 0.5, 2.0):
        training = Training(loss=Choice(name="dice_ce", params={"type_weight": weight}))
        objective, target = lesson([0, 1], masks, [True, True], training)
        found.append(objective(row, target))
    torch.testing.assert_close(found[1] - found[0], 0.5 * entropy)
    torch.testing.assert_close(found[2] - found[0], 2 * entropy)


def test_a_slice_beside_the_tumor_does_not_teach_its_type_but_a_scan_without_any_does():
    classes, masked, cases = np.array([1, 1, 0, -1, 1]), np.array([1, 1, 1, 1, 0], bool), np.array([0, 0, 1, 2, 3])
    masks = np.zeros((5, 4, 4), np.uint8)
    masks[0, 1, 1] = 1
    rows = teaching(classes, masks.any((1, 2)), masked, cases, lambda case: case == 0)
    assert rows.tolist() == [True, False, True, False, True]


def test_outlines_move_with_the_pictures():
    masks = torch.zeros(6, 1, 48, 48, dtype=torch.uint8)
    masks[:, :, 10:22, 14:34] = 1
    augment = Augment(
        [
            Choice(name="rotate", params={"degrees": 40.0, "probability": 1.0}),
            Choice(name="shift", params={"fraction": 0.1, "probability": 1.0}),
            Choice(name="flip_horizontal", params={"probability": 0.5}),
        ]
    )
    images, target = TUMOR.vary(
        tiny(), masks.float(), Target(masks=masks, classes=torch.zeros(6)), augment, torch.Generator().manual_seed(0)
    )
    moved = target.masks
    assert moved.dtype == torch.uint8 and not torch.equal(moved, masks)
    both = ((images > 0.5) & (moved > 0)).sum((1, 2, 3)) / ((images > 0.5) | (moved > 0)).sum((1, 2, 3))
    assert (both > 0.93).all()  # bilinear and nearest differ by half a pixel along the edge
    assert target.classes is not None


# -- the answer of a case, on its own grid ----------------------------------------------------------------------------


def answer(types: list[float], inside: np.ndarray) -> Answer:
    return Answer(np.array(types, np.float32), inside.astype(np.float16))


def test_the_type_of_a_case_is_told_by_its_slices_as_much_as_is_outlined_on_them():
    large, small, none = (np.pad(np.ones((k, k)), (0, 8 - k)) for k in (4, 2, 0))
    slices = [answer([0.9, 0.1], large), answer([0.4, 0.6], small), answer([0.0, 1.0], none)]
    assert of_case(slices) == pytest.approx([(16 * 0.9 + 4 * 0.4) / 20, (16 * 0.1 + 4 * 0.6) / 20], abs=1e-6)
    assert of_case(slices[2:] * 2) == pytest.approx([0, 1])
    assert of_case(slices, outlined=False) == pytest.approx([1.3 / 3, 1.7 / 3], abs=1e-6)


@pytest.mark.parametrize("fit", ["pad", "stretch", "crop"])
@pytest.mark.parametrize("shape", [(90, 140), (140, 90), (64, 64)])
@pytest.mark.parametrize("aspect", [1.0, 1.8])
def test_an_outline_comes_back_to_the_scans_own_grid_within_a_pixel(fit: str, shape: tuple[int, int], aspect: float):
    data = Data(size_px=64, fit=fit)
    height, width = shape
    true = np.zeros(shape, np.uint8)
    true[height // 2 - 14 : height // 2 + 9, width // 2 - 12 : width // 2 + 17] = 1
    where = place(height, width, data, aspect)
    inside = where.mask_in(true, 64)
    found = on_grid(data, [answer([], inside)], (1, height, width), aspect)[0] >= 0.5
    # One pixel of the coarser of the two grids.
    reach = [
        max(1.0, (where.source[k + 2] - where.source[k]) / side) for k, side in ((1, where.height), (0, where.width))
    ]
    for axis, step in ((1, reach[0]), (0, reach[1])):
        ours, theirs = (np.flatnonzero(mask.any(axis)) for mask in (found, true))
        assert abs(ours[0] - theirs[0]) <= step and abs(ours[-1] - theirs[-1]) <= step


def asked(data: Data, classes: tuple[str, ...] = ("benign", "malignant"), **facts: object) -> task.Asked:
    experiment = tiny().model_copy(update={"data": data})
    mean, std = np.zeros(1), np.ones(1)
    return task.Asked(experiment, classes, False, None, None, "cpu", mean, std, 255, fingerprint=dict(facts))  # type: ignore[arg-type]


def test_the_volume_of_a_box_is_exact_and_its_diameter_nearly_the_diagonal():
    data = Data(size_px=64, slices="each")
    scan = Scan(np.zeros((6, 1, 64, 64), np.uint8), spacing_mm=(5.0, 2.0, 1.5))
    inside = np.zeros((64, 64))
    inside[10:20, 30:50] = 1
    empty = np.zeros((64, 64))
    data = data.model_copy(update={"fit": "stretch"})
    slices = [answer([0.2, 0.8], inside if 1 <= k < 5 else empty) for k in range(6)]
    found = TUMOR.found(asked(data), scan, slices)
    assert found.facts["volume_ml"] == pytest.approx(4 * 5.0 * (10 * 2.0) * (20 * 1.5) / 1000)
    assert found.facts["area_mm2"] == pytest.approx(600) and found.facts["slices"] == 4
    assert found.facts["longest_diameter_mm"] == pytest.approx(np.hypot(18, 30), abs=1e-3)
    assert found.outline.shape == (6, 64, 64) and found.outline.dtype == np.uint8
    assert np.array_equal(found.outline[2], inside) and not found.outline[0].any()
    assert found.top == "malignant" and found.probabilities["malignant"] == pytest.approx(0.8)
    json.dumps(found.facts)


@pytest.mark.parametrize(
    ("spacing", "whole", "volume", "words"),
    [
        ((None, 2.0, 2.0), True, None, "how far its slices lie apart"),
        ((5.0, None, None), True, None, "how large a pixel is"),
        ((5.0, 2.0, 2.0), False, None, "Only the middle one of 2 slices"),
        ((5.0, 2.0, 2.0), True, 0.08, ""),
    ],
)
def test_what_cannot_be_measured_is_none_and_said_so(spacing, whole, volume, words):
    outline = np.zeros((2, 8, 8), np.uint8)
    outline[1, 2:4, 2:4] = 1
    facts, notes = extent(outline, spacing, whole)
    assert facts["volume_ml"] == volume and words in " ".join(notes)
    assert (facts["area_mm2"] is None) == (spacing[1] is None) and facts["area_px"] == 4


def test_the_longest_diameter_is_that_of_one_piece_in_one_slice():
    mask = np.zeros((2, 40, 40), bool)
    y, x = np.mgrid[:40, :40] + 0.5
    mask[0] = np.hypot(y - 20, x - 15) < 8
    mask[1, 3, 3], mask[1, 36, 36] = True, True  # far apart, but two pieces
    assert longest_diameter(mask) == pytest.approx(16, abs=1)
    assert longest_diameter(mask, 3.0, 1.0) == pytest.approx(48, abs=2)
    assert longest_diameter(np.ones((1, 1, 7), bool)) == 7
    assert longest_diameter(np.zeros((2, 4, 4), bool)) == 0


def test_nothing_outlined_is_said_and_has_no_size():
    found = TUMOR.found(
        asked(Data(size_px=16)),
        Scan(np.zeros((1, 1, 16, 16), np.uint8), spacing_mm=(1.0, 1.0, 1.0)),
        [answer([0.7, 0.3], np.zeros((16, 16)))],
    )
    assert "No tumor is outlined." in found.notes and found.facts["volume_ml"] == 0 and found.facts["slices"] == 0


def test_a_network_that_learned_no_outline_tells_none():
    known = asked(Data(size_px=16), num_masked={"train": 0, "val": 0})
    found = TUMOR.found(known, Scan(np.zeros((1, 1, 16, 16), np.uint8)), [answer([0.7, 0.3], np.ones((16, 16)))])
    assert found.outline is None and found.top == "benign" and "type alone" in found.notes[0]


def test_of_a_volume_of_which_the_middle_slice_is_seen_that_one_is_outlined():
    scan = Scan(np.zeros((5, 1, 16, 16), np.uint8), spacing_mm=(1.0, 1.0, 1.0))
    found = TUMOR.found(asked(Data(size_px=16, slices="middle")), scan, [answer([0.7, 0.3], np.ones((16, 16)))])
    assert np.flatnonzero(found.outline.any((1, 2))).tolist() == [2] and found.facts["volume_ml"] is None


@pytest.mark.parametrize(("slices", "volume", "num"), [("each", 6.4, 20), ("middle", None, 20), ("middle", 0.32, 1)])
def test_volumes_are_judged_only_where_every_slice_is_seen(slices: str, volume: float | None, num: int):
    """A tumour of 64 mm2 on each of `num` slices, 5 mm apart, of which one column is missed."""
    mask = np.zeros((num, 16, 16), np.uint8)
    mask[:, 4:12, 4:12] = 1
    data = Data(size_px=16, slices=slices)
    rows = num if slices == "each" else 1
    one = answer([0.7, 0.3], np.where(np.arange(16) == 4, 0, mask[0]))
    dataset = SimpleNamespace(
        cases=[SimpleNamespace(id="c0", spacing_mm=(5.0, 1.0, 1.0))],
        labels=np.zeros(1, int),
        patients=np.zeros(1, int),
        mask=lambda case: mask,
        prepared=lambda data: SimpleNamespace(
            rows_of=lambda cases: np.arange(rows),
            rows=lambda which: np.zeros((rows, 1, 16, 16), np.uint8),
            place_of=lambda row: (0, row if slices == "each" else -1),
            unit=255,
        ),
    )
    known = replace(asked(data), answers=lambda images: [one] * rows)
    told = tumor_figures.report(
        tumor_figures.examined(known, dataset, np.zeros(1, int)), ("benign", "malignant"), resamples=20
    )["metrics"]
    if volume is None:
        assert told["volume_ml"]["value"] is None and told["volume_error_ml"]["value"] is None
        assert told["area_mm2"]["value"] == 64 and told["area_difference_mm2"]["value"] == -8
        assert {name for name in told if "area" in name} <= set(METRICS)
    else:
        assert told["volume_ml"]["value"] == pytest.approx(volume)
        assert told["volume_difference_ml"]["value"] == pytest.approx(-volume / 8)
    assert told["hd95_mm"]["value"] == 1.0


# -- what stands in the way -------------------------------------------------------------------------------------------


def facts(**changes: object) -> Fingerprint:
    counts = {split: {"benign": 30, "malignant": 30} for split in ("train", "val", "test")}
    masked = {"train": 60, "val": 20, "test": 20}
    known = {"num_cases": 180, "num_patients": 90, "classes": ("benign", "malignant"), "class_counts": counts}
    known |= {"num_masked": masked, "mask_names": ("tumor",), "num_slices": {"min": 1, "median": 1, "max": 1}}
    return Fingerprint(**{**known, **changes})  # type: ignore[arg-type]


NOTHING = {"train": 0, "val": 0, "test": 0}


@pytest.mark.parametrize(
    ("changes", "severity", "words"),
    [
        ({"num_masked": NOTHING, "classes": (), "class_counts": {}}, "error", "neither outlines nor two types"),
        ({"multi_label": True}, "error", "A tumor has one type"),
        ({"num_patients": 1}, "error", "one patient"),
        ({"num_masked": NOTHING}, "warning", "only the type is learned"),
        ({"classes": ("tumor",), "class_counts": {}}, "warning", "only the outline is learned"),
        ({"num_masked": {"train": 8, "val": 3, "test": 3}}, "warning", "Only 8 training scans have an outline"),
        ({"num_slices": {"min": 9, "median": 9, "max": 9}}, "warning", "the network sees the middle one"),
        ({"num_empty": {"mask": {"train": 60, "val": 20}}}, "error", "Every outline of the training scans is empty"),
        ({"class_counts": {"train": {"benign": 9}, "val": {}, "test": {}}}, "error", "of type 'malignant'"),
        ({"num_patients_astride": 2}, "warning", "2 patients have scans on more than one side"),
    ],
)
def test_what_stands_in_the_way_is_told(changes, severity, words):
    found = TUMOR.problems(STARTERS["small-unet"], facts(**changes))
    assert any(words in p.message and p.severity == severity for p in found), found


def test_nothing_is_said_of_a_good_data_set():
    assert TUMOR.problems(STARTERS["small-unet"], facts()) == []


def test_a_balance_that_has_nothing_to_balance_is_told_with_a_repair():
    plain = STARTERS["small-unet"]
    outlines: dict[str, Any] = {"classes": ("tumor",), "class_counts": {}}
    for balance, more, told in (
        ("sampler", {}, True),
        ("sampler", {"num_empty": {"mask": {"train": 20}}}, False),
        ("sampler", {"num_slices": {"min": 1, "median": 1, "max": 9}}, False),
        ("weights", {"num_empty": {"mask": {"train": 20}}}, True),
    ):
        document = plain.replace("training.balance", balance)
        found = [p for p in TUMOR.problems(document, facts(**outlines, **more)) if p.path == "training.balance"]
        assert [p.severity for p in found] == ["warning"] * told and all(p.fix == plain for p in found)
        assert not [p for p in TUMOR.problems(document, facts()) if p.path == "training.balance"]


def test_repairs_of_the_data_side_are_documents_that_stand():
    several = facts(num_slices={"min": 9, "median": 9, "max": 9})
    [found] = TUMOR.problems(STARTERS["small-unet"], several)
    assert found.fix is not None and found.fix.data.slices == "each"
    watching = STARTERS["small-unet"].replace("training.monitor", "auc")
    [found] = TUMOR.problems(watching, facts(classes=("tumor",), class_counts={}))
    assert found.fix is not None and found.fix.training.monitor == "dice"


def network_of(*layers: tuple[str, dict]) -> Experiment:
    experiment = Experiment(name="x", task="tumor_diagnosis", data=Data(size_px=64))
    for name, params in layers:
        experiment = experiment.insert(Node(id=experiment.fresh_id(name), name=name, params=params))
    return experiment


ENDS = {
    "scores of a plain CNN": (
        network_of(
            *(("conv2d", {"out_channels": 4}), ("relu", {}), ("max_pool", {}), ("conv2d", {"out_channels": 8})),
            *(("max_pool", {}), ("conv2d", {"out_channels": 8}), ("global_pool", {}), ("class_scores", {})),
        ),
        "U-Net decoder",
    ),
    "scores of a backbone": (
        network_of(("timm_backbone", {"model": "resnet10t"}), ("global_pool", {}), ("class_scores", {})),
        "give its stages",
    ),
    "maps of one size": (network_of(("conv2d", {"out_channels": 4}), ("mask_scores", {})), "Add the type and outline"),
}


@pytest.mark.parametrize("name", ENDS)
def test_a_network_that_ends_in_something_else_is_mended_with_one_button(name: str):
    experiment, words = ENDS[name]
    found = [p for p in problems(experiment, facts()) if "The network ends in" in p.message]
    assert len(found) == 1 and words in found[0].repair, found
    fixed = found[0].fix
    assert fixed is not None and fixed.network[-1].name == "type_and_outline"
    assert [p for p in problems(fixed, facts()) if p.path.startswith("network")] == []


def test_a_decoder_at_the_end_gets_the_head_alone():
    experiment = STARTERS["efficientnet-unet"].remove("answer")
    [found] = [p for p in problems(experiment, facts()) if "The network ends in" in p.message]
    assert found.repair == "Add the type and outline" and found.fix.network[-1].inputs == ("decoder", "backbone:5")


# -- the demo set, a training, its figures ----------------------------------------------------------------------------


def test_a_demo_set_that_does_not_exist_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="pictures, volumes"):
        TUMOR.demo(0, tmp_path, "films")


def test_phantoms_are_the_same_for_the_same_seed_and_their_tumors_lie_where_the_mask_says():
    made = []
    for _ in range(2):
        rng = np.random.default_rng(1)
        body, tumor = tumor_phantoms.Head.drawn(rng), tumor_phantoms.Tumor.drawn(rng, "benign")
        made.append(tumor_phantoms.draw(rng, body, tumor, tumor.centre[2], 64))
    assert all(np.array_equal(a, b) for a, b in zip(*made, strict=True))
    image, mask = made[0]
    around = np.roll(mask, 4, 0) | np.roll(mask, -4, 0) | np.roll(mask, 4, 1) | np.roll(mask, -4, 1)
    assert mask.any() and image[mask > 0].mean() > 1.3 * image[(around > 0) & (mask == 0)].mean()


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tmp_path_factory.mktemp("tumor") / "home"


@pytest.fixture(scope="module")
def pictures(kept: Path) -> tuple[Dataset, Run]:
    """36 patients with planted tumours, and a run of a small U-Net on them."""
    folder = tumor_phantoms.write_pictures(kept.parent / "pictures", 4, 36, 48)
    dataset = little_run.imported(kept, folder / "labels.csv", "pictures", synthetic=True)
    experiment = tiny(training__epochs=24, training__batch_size=8)
    return dataset, little_run.trained(kept, experiment, dataset)


def test_a_planted_tumor_is_found_after_half_a_minute(pictures: tuple[Dataset, Run], kept: Path):
    dataset, run = pictures
    told = evaluate(run, kept, "test", resamples=100)
    assert told["metrics"]["dice"]["value"] > 0.7 and told["metrics"]["auc"]["value"] is not None
    wanted = {"dice", "iou", "hd95_mm", "nsd", "volume_error_ml", "patient_dice", "false_positive_rate", "auc"}
    assert wanted <= set(told["metrics"])
    assert {"n", "patients", "metrics", "per_class", "confusion", "outlines", "interval", "notes", "typed"} <= set(told)
    row = told["per_class"]["malignant"]
    assert "sensitivity_at_specificity_90" in row
    ids = {case.id for case in dataset.cases}
    assert all(row["case"] in ids for row in told["outlines"]["worst"])
    assert (
        told["outlines"]["with_lesion"] + told["outlines"]["without_lesion"] < told["n"] or told["n"] == told["typed"]
    )
    json.dumps(told, allow_nan=False)


def test_what_is_found_in_a_scan_is_told_in_words_and_numbers(pictures: tuple[Dataset, Run]):
    dataset, run = pictures
    index = next(i for i in dataset.indices("train", by="mask") if dataset.mask(i).any())
    finding = Predictor.open(run.folder).finding(dataset.scan(index))
    true = dataset.mask(index) > 0
    outline = finding.found.outline > 0
    assert 2 * (outline & true).sum() / (outline.sum() + true.sum()) > 0.7
    assert finding.found.facts["volume_ml"] == pytest.approx(outline.sum() * 24 / 1000)
    assert set(finding.probabilities) == {"benign", "malignant", "no tumor"}
    assert finding.heatmap is None or finding.heatmap.shape == (48, 48)
    assert finding.top in finding.probabilities
    json.dumps(finding.plain(), allow_nan=False)


def test_the_heat_map_asks_for_the_type_and_not_for_the_pixels(pictures: tuple[Dataset, Run]):
    dataset, run = pictures
    predictor = Predictor.open(run.folder)
    heat = [predictor.heatmap(predictor.prepared(dataset.scan(0)), k) for k in range(3)]
    told = [h for h in heat if h is not None]
    assert told and all(h.max() == pytest.approx(1) and h.shape == (48, 48) for h in told)


def labelled(folder: Path, rows: list[tuple[str, str, str, str]], columns: tuple[str, ...]) -> Path:
    with open(folder / "labels.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(columns)
        table.writerows(rows)
    return folder / "labels.csv"


def blobs(folder: Path, masks: bool, types: bool) -> Path:
    """24 pictures of 16 px with a bright or dark square, with masks or types or both."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for k in range(24):
        x, y, bright = int(rng.integers(2, 9)), int(rng.integers(2, 9)), k % 2
        mask = np.zeros((16, 16), np.uint8)
        mask[y : y + 5, x : x + 5] = 255
        picture = rng.normal(120, 8, (16, 16)) + np.where(mask > 0, 90 if bright else -90, 0)
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / f"s{k}.png")
        Image.fromarray(mask).save(folder / f"m{k}.png") if masks else None
        rows.append((f"s{k}.png", ("dark", "bright")[bright], f"p{k}", f"m{k}.png"))
    columns = ["file", *(["label"] if types else []), "patient", *(["mask"] if masks else [])]
    picked = [tuple(c for c, keep in zip(row, (True, types, True, masks), strict=True) if keep) for row in rows]
    return labelled(folder, picked, tuple(columns))  # type: ignore[arg-type]


SMALL = network_of(
    *(("conv2d", {"out_channels": 8}), ("batch_norm", {}), ("relu", {}), ("conv2d", {"out_channels": 8})),
    *(("batch_norm", {}), ("relu", {}), ("type_and_outline", {})),
)


@pytest.mark.parametrize(("masks", "types"), [(True, False), (False, True)])
def test_outlines_alone_and_types_alone_are_learned(home: Path, tmp_path: Path, masks: bool, types: bool):
    dataset = little_run.imported(home, blobs(tmp_path / "blobs", masks, types))
    assert (dataset.fingerprint.num_masked.get("train", 0) > 0) == masks and (len(dataset.classes) > 1) == types
    monitor = "dice" if masks else "auc"
    experiment = SMALL.replace("data.size_px", 16).replace("training.monitor", monitor)
    experiment = experiment.replace("training.epochs", 12).replace("training.batch_size", 8)
    experiment = experiment.replace("training.optimizer", {"name": "adamw", "params": {"lr": 0.02}})
    errors = [
        p
        for p in problems(experiment.replace("data.dataset", dataset.id), dataset.fingerprint)
        if p.severity == "error"
    ]
    assert errors == []
    run = little_run.trained(home, experiment, dataset)
    told = evaluate(run, home, "test", resamples=50)["metrics"]
    assert ("dice" in told) == masks and ("auc" in told) == types
    assert told[monitor]["value"] > 0.7
    finding = Predictor.open(run.folder).finding(dataset.scan(0))
    assert (finding.found.outline is not None) == masks and bool(finding.top) == types
    if masks:
        assert finding.found.facts["volume_ml"] is None and finding.found.facts["area_px"] > 0
    said = taken_away.asked(proven(run, home, "pytorch", tmp_path), tmp_path / "blobs" / "s0.png", tmp_path / "told")
    assert ("outline" in said) == masks and ("probabilities" in said) == types
    assert (said.get("notes") == ["No training scan had an outline, so this network tells the type alone."]) == types


def test_a_volume_is_outlined_slice_by_slice_and_judged_as_one(home: Path, tmp_path: Path):
    folder = tumor_phantoms.write_volumes(tmp_path / "volumes", 0, 15, 32, 4)
    dataset = little_run.imported(home, folder / "labels.csv", "volumes", synthetic=True)
    experiment = SMALL.replace("data.size_px", 32).replace("training.epochs", 1).replace("training.monitor", "dice")
    experiment = experiment.replace("data.slices", "each").replace("data.colour", "neighbours")
    run = little_run.trained(home, experiment, dataset)
    told = evaluate(run, home, "test", resamples=50)
    assert told["n"] == len(TUMOR.cases(dataset, experiment, "test"))
    finding = Predictor.open(run.folder).finding(dataset.scan(0))
    assert finding.found.outline.shape == (4, 32, 32) and finding.slices == (1, 2, 3, 4)
    assert finding.found.facts["volume_ml"] is not None
    assert finding.heatmap is None or finding.heatmap.shape == (4, 32, 32)


# -- files ------------------------------------------------------------------------------------------------------------


def test_a_written_outline_lies_on_its_scan_in_space(home: Path, tmp_path: Path):
    """A volume that is turned, mirrored and scaled: the file of its outline is read back as the very same outline."""
    rng = np.random.default_rng(0)
    affine = np.array([[0, -2.0, 0, 5], [1.5, 0, 0, -7], [0, 0, -4.0, 3], [0, 0, 0, 1]])
    image = nibabel.Nifti1Image(rng.integers(0, 99, (9, 8, 5)).astype(np.int16), affine)
    image.header.set_slope_inter(0.5, -3)
    nibabel.save(image, tmp_path / "scan.nii.gz")
    with Sandbox() as box:
        scan = read([tmp_path / "scan.nii.gz"], box)
        outline = (rng.random(scan.pixels[:, 0].shape) > 0.6).astype(np.uint8)
        for number in (1, 2):
            path = outlined.write([tmp_path / "scan.nii.gz"], scan, outline, tmp_path / "out")
            assert path.name == ("outline.nii.gz", "outline-2.nii.gz")[number - 1]
            again = read([path], box)
            assert np.array_equal(again.pixels[:, 0], outline) and again.spacing_mm == scan.spacing_mm
        assert np.allclose(nibabel.load(path).affine, affine)


def test_a_written_outline_keeps_the_unit_of_its_scan(tmp_path: Path):
    image = nibabel.Nifti1Image(np.zeros((9, 8, 5), np.int16), np.diag([-20, -20, 40, 1]))
    image.header.set_xyzt_units("micron", "sec")
    nibabel.save(image, tmp_path / "scan.nii")
    scan = scans.read(tmp_path / "scan.nii")
    path = outlined.write([tmp_path / "scan.nii"], scan, np.ones((5, 8, 9), np.uint8), tmp_path)
    assert scans.read(path).spacing_mm == scan.spacing_mm == pytest.approx((0.04, 0.02, 0.02))
    assert scans.read(path).grid == scan.grid


@pytest.mark.parametrize("shape", [(3, 9, 8, 5), (1, 9, 8, 5), (3, 9, 8), (9, 8, 5), (9, 8)])
@pytest.mark.parametrize("placed", [True, False])
def test_the_outline_of_an_nrrd_volume_has_its_axes_in_space_and_no_colours(
    tmp_path: Path, shape: tuple[int, ...], placed: bool
):
    rng = np.random.default_rng(0)
    coloured = len(shape) > 2 and shape[0] < 4
    lead, axes = int(coloured), len(shape) - int(coloured)
    nothing = [np.full((lead, 3), np.nan), np.full(lead, np.nan)]
    header: dict = {"kinds": ["RGB-color" if shape[0] == 3 else "list"] * lead + ["domain"] * axes}
    if placed and axes == 3:
        header |= {"space": "left-posterior-superior", "space origin": [1.0, 2.0, 3.0]}
        header["space directions"] = np.vstack([nothing[0], np.diag([0.5, 0.75, 2.0])])
    else:
        header["spacings"] = np.concatenate([nothing[1], [0.5, 0.75, 2.0][:axes]])
    nrrd.write(str(tmp_path / "scan.nrrd"), rng.integers(0, 255, shape).astype(np.uint8), header, index_order="F")
    scan = scans.read(tmp_path / "scan.nrrd")
    outline = (rng.random(scan.pixels[:, 0].shape) > 0.6).astype(np.uint8)
    again = scans.read(outlined.write([tmp_path / "scan.nrrd"], scan, outline, tmp_path))
    assert np.array_equal(again.pixels[:, 0], outline)
    assert (again.spacing_mm, again.grid) == (scan.spacing_mm, scan.grid)


def test_the_command_line_writes_the_outline_beside_what_it_tells(
    pictures: tuple[Dataset, Run], kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SCANLOOM_HOME", str(kept))
    _, run = pictures
    scan = kept.parent / "pictures" / "phantom-001-1.nii.gz"
    asked = Namespace(run=run.id, scans=[str(scan)], out=str(tmp_path), json=True)
    answer, words = commands.predict(asked)
    [finding] = answer["findings"]
    [file] = finding["files"]
    written = np.asanyarray(nibabel.load(file).dataobj)
    assert written.shape == (48, 48, 1) and written.sum() == finding["facts"]["area_px"]
    assert finding["top"] in words and "volume ml" in words and file in words
    answer, words = commands.evaluate(Namespace(run=run.id, split="test", by=None, json=True))
    assert "dice" in words and "hd95 mm" in words and "auc" in words


# -- taken away -------------------------------------------------------------------------------------------------------


def proven(experiment: Experiment | Run, home: Path, to: str, out: Path) -> Path:
    """The folder of an export whose parity was proved."""
    folder = export(experiment, home, to=to, out=out).with_suffix("")
    proof = json.loads((folder / "parity.json").read_text())
    assert proof["cases"] > 0 and max(proof["difference"].values()) <= proof["tolerance"]
    return folder


def test_an_exported_train_py_reads_exported_outlines_and_counts_as_the_app_does(
    pictures: tuple[Dataset, Run], kept: Path, tmp_path: Path
):
    dataset, run = pictures
    folder = proven(run, kept, "pytorch", tmp_path)
    rows = []
    for index, case in enumerate(dataset.cases):
        scan, mask = dataset.scan(index), dataset.mask(index)
        Image.fromarray(scan.pixels[0, 0]).save(tmp_path / f"{case.id}.tif")
        if mask is not None:
            Image.fromarray(mask[0] * 255).save(tmp_path / f"{case.id}-mask.png")
        label = dataset.labels[index]
        said = dataset.classes[label] if label >= 0 else ""
        rows.append((f"{case.id}.tif", said, f"{case.id}-mask.png" if mask is not None else "", case.split))
    with open(tmp_path / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([("file", "label", "mask", "split"), *rows])
    figures = taken_away.taught_again(folder, tmp_path, tmp_path)
    ours = taken_away.validated(run, dataset, tmp_path)
    assert {"dice", "iou", "auc", "balanced_accuracy", "loss"} <= set(ours)
    assert {name: figures[name] for name in ours} == pytest.approx(ours, rel=1e-4, abs=1e-4)
    assert taken_away.asked(tmp_path / "trained", tmp_path / rows[0][0], tmp_path)["top"] in dataset.classes


def test_an_exported_train_py_does_not_teach_the_type_on_the_one_slice_it_sees_beside_the_tumor(tmp_path: Path):
    mask = np.zeros((3, 1, 16, 16), np.uint8)
    mask[0, 0, 4:8, 4:8] = 1
    files = {"scan.tif": np.zeros_like(mask), "beside.tif": mask, "none.tif": np.zeros_like(mask)}
    space: dict[str, Any] = {"np": np, "torch": torch, "csv": csv, "Image": Image}
    space |= {
        "SETTINGS": {"slices": "middle", "size_px": 16},
        "class_of": ["benign", "malignant"].index,
        "read": lambda file: SimpleNamespace(pixels=files[file.name], aspect=1.0),
        "pictures": lambda scan: np.zeros((1, 1, 16, 16), np.float32),
        "placed": lambda *_: ((0.0, 0.0, 16.0, 16.0), 0, 0, 16, 16),
    }
    exec(lessons.lesson(TUMOR.says, SMALL.replace("data.size_px", 16), False).text, space)
    rows = [("scan.tif", "benign", name) for name in ("beside.tif", "none.tif", "")]
    (tmp_path / "train").mkdir()
    labelled(tmp_path / "train", rows, ("file", "label", "mask"))  # type: ignore[arg-type]
    _, targets = space["load"](tmp_path / "train")
    assert [teaches for *_, teaches in targets] == [False, True, True]


@pytest.mark.parametrize("to", ["pytorch", "onnx"])
def test_an_exported_network_tells_the_type_and_writes_the_very_outline_of_the_app(home: Path, tmp_path: Path, to: str):
    experiment = SMALL.replace("data.size_px", 32)
    folder = proven(experiment, home, to, tmp_path)
    assert (folder / "train.py").exists() == ("train.py" in (folder / "README.md").read_text()) == (to == "pytorch")
    pixels = np.random.default_rng(1).integers(0, 256, (50, 41), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "scan.png")
    said = taken_away.asked(folder, tmp_path / "scan.png", tmp_path / "answers")
    finding = untrained(experiment, home).finding(Scan(pixels[None, None], bits=8))
    written = np.asarray(Image.open(said["outline"]))
    assert np.array_equal(written > 0, finding.found.outline[0] > 0) and written.shape == (50, 41)
    assert said["pixels"] == finding.found.facts["area_px"]
    assert said["top"] == finding.top
    assert said["probabilities"][said["top"]] == pytest.approx(finding.probabilities[finding.top], abs=1e-4)


def test_the_outlines_of_several_slices_are_the_pages_of_one_file(home: Path, tmp_path: Path):
    experiment = SMALL.replace("data.size_px", 32).replace("data.slices", "each").replace("data.colour", "neighbours")
    folder = proven(experiment.replace("data.fit", "crop"), home, "pytorch", tmp_path)
    pixels = np.random.default_rng(1).integers(0, 256, (3, 50, 41), np.uint8)
    pages = [Image.fromarray(page) for page in pixels]
    pages[0].save(tmp_path / "scan.tif", save_all=True, append_images=pages[1:])
    said = taken_away.asked(folder, tmp_path / "scan.tif", tmp_path)
    finding = untrained(experiment.replace("data.fit", "crop"), home).finding(Scan(pixels[:, None], bits=8))
    with Image.open(said["outline"]) as file:
        written = [np.asarray(page) > 0 for page in ImageSequence.Iterator(file)]
    assert np.array_equal(np.stack(written), finding.found.outline > 0)
    assert said["probabilities"]["class 1"] == pytest.approx(finding.probabilities["class 1"], abs=1e-4)


FORMATS = ("pytorch", "keras", "onnx", "torch-export")
OF_PICTURES = [name for name in STARTERS if name != "unet-3d-patches"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "to"),
    # One format a starter, each format at least once; all of them in `make exhaustive`.
    covering(
        product(OF_PICTURES, FORMATS), lambda place, case: place // len(FORMATS) % len(FORMATS) == place % len(FORMATS)
    ),
)
def test_every_starter_for_pictures_can_be_taken_away_in_every_format(name: str, to: str):
    assert unsupported(STARTERS[name], to, 3) == ()
