"""Lesion detection: heads that know their geometry, boxes that move along, planted lesions that are found."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import taken_away
import torch

from builder import lessons, network
from builder.augment import Augment
from builder.blocks.head import AnchorHead, BoxHead, Finder, TwoStageHead
from builder.check import problems
from builder.data import Dataset, Prepared, place
from builder.evaluate import evaluate
from builder.labels import Box
from builder.measures.boxes import Detections, overlaps
from builder.measures.named import chosen_by
from builder.runs import Finished, RunStore
from builder.scan import Scan
from builder.spec import Choice, Data, Experiment, Node
from builder.targets import Target, Targets, over_slices
from builder.task import Asked
from builder.train import train
from tasks import detection_answers, lesions
from tasks.detection_answers import SLICE_BY_SLICE, chosen
from tasks.lesion_detection import LesionDetection, of_targets

pytestmark = pytest.mark.usefixtures("warm_children")

TASK = LesionDetection()
STARTERS = TASK.starters()
SIZES = ((16, 16), (8, 8))
BOXES = torch.tensor([[8.0, 8.0, 30.0, 26.0], [30.0, 34.0, 60.0, 62.0]])
LABELS = torch.tensor([1, 0])


def head(kind: type[Finder]) -> Any:
    torch.manual_seed(0)
    return kind((8, 8), SIZES, 2, (64, 64), hidden=32, num_convs=1)  # type: ignore[call-arg]


# -- heads ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [BoxHead, AnchorHead])
def test_a_perfect_output_comes_back_as_the_boxes_and_costs_less_than_any_other(kind: type[Finder]) -> None:
    finder = head(kind)
    output = perfect(finder)
    boxes, scores = finder.decode(output)
    found, sure, labels = chosen(boxes[0], scores[0], 64)
    best = overlaps(found[:2], BOXES.numpy().astype(np.float64)).max(0)
    assert (best > 0.98).all() and sorted(labels[:2].tolist()) == [0, 1] and (sure[:2] > 0.9).all()
    right = finder.loss(output, [BOXES], [LABELS])
    moved = finder.loss(output, [BOXES + torch.tensor([9.0, 0.0, 9.0, 0.0])], [LABELS])
    other = finder.loss(output, [BOXES], [1 - LABELS])
    assert right < 1.0 and moved > right + 0.1 and other > right + 0.1  # what is left is the entropy of centreness


def perfect(finder: Any) -> torch.Tensor:
    """The output that says exactly where the boxes are, and nothing anywhere else."""
    match = finder.match(BOXES)
    rows = (match >= 0).nonzero()[:, 0]
    wanted = BOXES[match[rows]]
    wide = 5 if isinstance(finder, BoxHead) else 4
    output = torch.zeros(1, len(match), 2 + wide)
    output[..., :2] = -12.0
    output[0, rows, LABELS[match[rows]]] = 12.0
    if isinstance(finder, BoxHead):
        center = getattr(finder, "centers")[rows]  # noqa: B009
        output[0, rows, 2:4], output[0, rows, 4:6] = center - wanted[:, :2], wanted[:, 2:] - center
        low, high = output[0, rows, 2:6].reshape(-1, 2, 2).transpose(1, 2).sort(2).values.unbind(2)
        central = (low / high).prod(1).sqrt()
        output[0, rows, 6] = central.clamp(0.001, 0.999).logit()
        surest = [rows[(match[rows] == k)][central[match[rows] == k].argmax()] for k in range(2)]
        output[0, surest, 6] = 12.0
    else:
        anchor = finder.anchors[rows]
        output[0, rows, 2:4] = ((wanted[:, :2] + wanted[:, 2:]) / 2 - anchor[:, :2]) / anchor[:, 2:]
        output[0, rows, 4:6] = ((wanted[:, 2:] - wanted[:, :2]) / anchor[:, 2:]).log()
    return output


@pytest.mark.parametrize("kind", [BoxHead, AnchorHead, TwoStageHead])
def test_the_loss_of_a_head_reaches_every_weight_with_lesions_and_is_finite_without(kind: type[Finder]) -> None:
    finder = head(kind)
    maps = [torch.randn(2, 8, *size) for size in SIZES]
    there = [BOXES, BOXES[:0]]
    if kind is TwoStageHead:  # its last step learns from proposals that are near: be one of those
        there[0] = finder(*maps)[0, -2:, -4:].detach() + torch.tensor([0.0, 0.0, 0.1, 0.1])
    finder.loss(finder(*maps), there, [LABELS, LABELS[:0]]).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in finder.parameters())
    finder.zero_grad()
    clear = finder.loss(finder(*maps), [BOXES[:0]] * 2, [LABELS[:0]] * 2)
    clear.backward()
    assert torch.isfinite(clear) and all(torch.isfinite(p.grad).all() for p in finder.parameters())


def test_what_the_second_stage_sees_of_a_proposal_is_what_roi_align_gives() -> None:
    from torchvision.ops import roi_align

    finder = head(TwoStageHead)
    finder.proposals = 2
    maps, proposals = torch.randn(2, 5, 16, 16), torch.rand(2, 2, 2) * 30
    proposals = torch.cat([proposals, proposals + torch.tensor([9.0, 21.0])], 2)
    theirs = roi_align(maps, list(proposals), finder.CELLS, 16 / 64, 2, aligned=True)
    assert torch.allclose(finder.pooled(maps, proposals), theirs.flatten(1).unflatten(0, (2, 2)), atol=1e-5)


def test_both_stages_learn_two_lesions_by_heart() -> None:
    finder = head(TwoStageHead)
    maps = [torch.randn(2, 8, *size, generator=torch.Generator().manual_seed(3)).requires_grad_() for size in SIZES]
    optimizer = torch.optim.Adam([*finder.parameters(), *maps], 0.01)
    begun = [p.detach().clone() for p in finder.parameters()]
    for _ in range(200):
        optimizer.zero_grad()
        loss = finder.loss(finder(*maps), [BOXES, BOXES[:0]], [LABELS, LABELS[:0]])
        loss.backward()
        optimizer.step()
    assert all((p - before).abs().sum() > 0 for p, before in zip(finder.parameters(), begun, strict=True))
    boxes, scores = (part.detach() for part in finder.decode(finder(*maps)))
    found, sure, labels = chosen(boxes[0], scores[0], 64)
    for box, label in zip(BOXES.numpy().astype(np.float64), LABELS.tolist(), strict=True):
        shares = overlaps(found[sure > 0.5].astype(np.float64), box[None])[:, 0]
        assert shares.max() > 0.7 and labels[sure > 0.5][shares.argmax()] == label
    assert scores[1].max() < 0.5  # nothing is there


def test_each_box_is_looked_for_by_the_level_that_is_meant_for_its_size() -> None:
    finder = head(BoxHead)
    small, large = torch.tensor([[10.0, 10.0, 20.0, 20.0]]), torch.tensor([[2.0, 2.0, 62.0, 62.0]])
    on_first = finder.match(small)[: 16 * 16] >= 0
    assert on_first.any() and not (finder.match(small)[16 * 16 :] >= 0).any()
    edges = (finder.match(large)[: 16 * 16] >= 0).sum(), (finder.match(large)[16 * 16 :] >= 0).sum()
    assert edges[1] > 0


def test_of_two_boxes_around_a_place_the_smaller_one_is_looked_for() -> None:
    finder = head(BoxHead)
    both = torch.tensor([[0.0, 0.0, 40.0, 40.0], [14.0, 14.0, 26.0, 26.0]])
    center = int((finder.centers[: 16 * 16] - 20).abs().sum(1).argmin())
    assert finder.match(both)[center] == 1


def test_a_lesion_that_lies_between_all_places_is_looked_for_by_the_nearest() -> None:
    finder = head(BoxHead)
    tiny = torch.tensor([[31.5, 31.5, 32.5, 32.5]])  # places lie at 2, 6, ..., 30, 34: none is inside
    (at,) = (finder.match(tiny) >= 0).nonzero()[:, 0].tolist()
    assert at < 16 * 16 and (finder.centers[at] - 32).abs().max() <= 2.0
    output = finder(*[torch.randn(1, 8, *size) for size in SIZES])
    loss = finder.loss(output, [tiny], [torch.tensor([0])])
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(finder.towers.regression_head.bbox_reg.weight.grad).all()


# -- learning ---------------------------------------------------------------------------------------------------------


def test_boxes_move_with_the_picture_and_those_that_leave_it_take_their_class_along() -> None:
    image = torch.zeros(1, 1, 32, 32)
    image[0, 0, 4:10, 20:30] = 1.0
    target = Target(
        boxes=[torch.tensor([[20.0, 4.0, 30.0, 10.0], [0.0, 28.0, 2.0, 32.0]])], labels=[torch.tensor([1, 0])]
    )
    augment = Augment([Choice(name="flip_horizontal", params={"probability": 1.0})])
    images, moved = TASK.vary(Experiment(), image, target, augment, torch.Generator().manual_seed(0))
    assert moved.boxes is not None and moved.labels is not None
    x0, y0, x1, y1 = (int(v) for v in moved.boxes[0][0])
    assert images[0, 0, y0:y1, x0:x1].min() == 1.0 and images.sum() == 60.0
    away = Augment([Choice(name="shift", params={"fraction": 0.5, "probability": 1.0})])
    for seed in range(20):
        _, far = TASK.vary(Experiment(), image, target, away, torch.Generator().manual_seed(seed))
        assert far.boxes is not None and far.labels is not None
        assert len(far.boxes[0]) == len(far.labels[0])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Dataset]:
    """A small detector that has learned a small synthetic set."""
    from builder.intake import detect, import_scans

    home = tmp_path_factory.mktemp("home")
    made = lesions.write_set(tmp_path_factory.mktemp("made"), 0, count=120, side_px=64)
    steps = import_scans(detect(made), "lesions", home, task="lesion_detection")
    while True:
        try:
            next(steps)
        except StopIteration as end:
            report = end.value
            break
    experiment = STARTERS[0].replace("data.dataset", report.dataset).replace("data.size_px", 64)
    experiment = experiment.replace("training.epochs", 12).replace("training.batch_size", 8)
    run = RunStore(home).create(experiment, queue=False)
    dataset = Dataset.open(home, report.dataset)
    events = list(train(experiment, TASK, dataset, run.folder, device="cpu"))
    last = events[-1]
    assert isinstance(last, Finished) and last.status == "done", last
    return home, run, dataset


def test_planted_lesions_are_found(trained: tuple[Path, Any, Dataset]) -> None:
    home, run, dataset = trained
    assert set(dataset.classes) == set(lesions.CLASSES) and dataset.fingerprint.num_boxed["train"] > 60
    told = evaluate(run, home, "test", resamples=50)
    assert told["task"] == "lesion_detection" and told["metrics"]["map50"]["value"] > 0.5
    assert told["metrics"]["map50"]["low"] <= told["metrics"]["map50"]["value"] <= told["metrics"]["map50"]["high"]
    assert told["without_lesions"] > 0 and told["operating_point"]["chosen"] == "validation"
    assert {"map50", "map", "map30", "map10", "cpm", "sensitivity_small"} <= set(told["metrics"])
    assert set(told["froc"]["at"]) >= {"0.125", "1", "8"} or set(told["froc"]["at"]) >= {"0.125", "1.0", "8.0"}
    assert all(entry["case"].startswith("c") for entry in told["misses"])


def test_an_answer_lies_on_the_scans_own_pixels(trained: tuple[Path, Any, Dataset]) -> None:
    from builder.predict import Predictor

    _, run, dataset = trained
    predictor = Predictor.open(run.folder)
    assert 0 < predictor.settled["threshold"] < 1
    hits = total = 0
    for index in dataset.indices("test", by="boxes"):
        finding = predictor.finding(dataset.scan(int(index)))
        assert finding.found.boxes is not None and finding.heatmap is None
        sure = [b for b in finding.found.boxes if b.score >= predictor.settled["threshold"]]
        for lesion in dataset.boxes(int(index)) or ():
            total += 1
            one = np.array([[lesion.x0, lesion.y0, lesion.x1, lesion.y1]])
            hits += any(
                overlaps(np.array([[b.x0, b.y0, b.x1, b.y1]]), one)[0, 0] > 0.3
                and b.label == dataset.classes[lesion.label]
                for b in sure
            )
    assert total > 10 and hits / total > 0.5


@pytest.mark.parametrize("fit", ["pad", "stretch", "crop"])
def test_boxes_come_back_from_any_preparation(fit: str) -> None:
    data = Data(size_px=64, fit=fit)
    lesion = np.array([[70.0, 30.0, 90.0, 50.0]])
    scan = Scan(np.zeros((3, 1, 80, 160), np.uint8), spacing_mm=(1.0, 0.8, 0.4))
    inside = place(80, 160, data, 2.0).boxes_in(lesion).astype(np.float32)
    asked = Asked(Experiment(data=data), ("a",), False, None, list, "cpu", np.zeros(1), np.ones(1), 255)
    answer = (inside, np.array([0.9], np.float32), np.array([0]))
    (box,) = TASK.found(asked, scan, [answer]).boxes or ()
    assert np.allclose([box.x0, box.y0, box.x1, box.y1], lesion[0], atol=1e-3)
    assert box.label == "a" and box.slice == 1  # the middle one of three was seen


@pytest.mark.parametrize("how", ["middle", "mean", "maximum"])
def test_boxes_of_slices_seen_as_one_picture_stand_on_the_middle_one_and_say_so(how: str) -> None:
    templates = Path(network.__file__).parent / "templates"
    scan = Scan(np.zeros((20, 1, 64, 64), np.uint8))
    one, experiment = np.ones(1), Experiment(data=Data(size_px=64, slices=how))
    asked = Asked(experiment, ("a",), False, None, list, "cpu", one, one, 255)
    answer = (np.array([[10, 10, 20, 20]], np.float32), np.array([0.9], np.float32), np.array([0]))
    found = TASK.found(asked, scan, [answer])
    assert [box.slice for box in found.boxes or ()] == [10]
    assert any("does not know in which slice" in note for note in found.notes) == (how != "middle")
    settings = {"size_px": 64, "slices": how, "fit": "pad", "classes": ["a"], "settled": {}}
    space: dict[str, Any] = {"np": np, "SETTINGS": settings}
    source = (templates / "predict.py.txt").read_text()
    exec(source[source.index("def placed") : source.index("def resized")], space)
    exec((templates / "told_boxes.py.txt").read_text(), space)
    taken = SimpleNamespace(pixels=scan.pixels, aspect=1.0)
    told = space["told"](taken, np.array([[[10, 10, 20, 20, 0.9]]], np.float32), Path())
    assert [box["slice"] for box in told["boxes"]] == [10]
    assert told.get("notes", []) == list(found.notes)


@pytest.mark.parametrize("threshold", [0.02, 0.5])
def test_an_exported_program_tells_the_boxes_that_the_app_tells(threshold: float) -> None:
    """Of many at random: some beyond the border, more than are counted."""
    rng, templates = np.random.default_rng(0), Path(network.__file__).parent / "templates"
    middles, sides = rng.uniform(-3, 35, (400, 2)), rng.uniform(1, 14, (400, 2))
    row = np.concatenate([middles - sides / 2, middles + sides / 2, rng.random((400, 2))], 1).astype(np.float32)
    data, scan = Data(size_px=32, fit="pad"), Scan(np.zeros((1, 1, 40, 70), np.uint8))
    answer = detection_answers.chosen(torch.from_numpy(row[:, :4]).clamp(0, 32), torch.from_numpy(row[:, 4:]), 32)
    known = Asked(Experiment(data=data), ("a", "b"), False, None, list, "cpu", np.ones(1), np.ones(1), 255)
    ours = [box for box in detection_answers.shown_boxes(known, scan, [answer]) if box.score >= threshold]
    settings = {**data.model_dump(), "classes": ["a", "b"], "settled": {"threshold": threshold}}
    space: dict[str, Any] = {"np": np, "SETTINGS": settings}
    source = (templates / "predict.py.txt").read_text()
    exec(source[source.index("def placed") : source.index("def resized")], space)
    exec((templates / "told_boxes.py.txt").read_text(), space)
    told = space["told"](SimpleNamespace(pixels=scan.pixels, aspect=1.0), row[None], Path())["boxes"]
    assert [box["score"] for box in told] == pytest.approx([box.score for box in ours], abs=1e-4) and len(ours) > 9
    assert [box["class"] for box in told] == [box.label for box in ours]
    assert np.allclose([box["box"] for box in told], [[b.x0, b.y0, b.x1, b.y1] for b in ours], atol=0.02)


def in_the_border() -> tuple[Any, Any, Any]:
    """(targets of a scan of 100 x 200 px in a padded square, the answer to it, the lesion on the scan): a box that
    reaches into the border around the scan, and a surer one that lies in the border only."""
    where = place(100, 200, Data(size_px=64), 1.0)
    answer = np.array([[10.0, 0, 30, 12], [10, 6, 30, 30]], np.float32), np.array([0.9, 0.8]), np.array([0, 0])
    inside = np.array([[10.0, where.top, 30, 30]])
    (lesion,) = where.boxes_out(inside)
    dataset = SimpleNamespace(
        cases=[SimpleNamespace(id="c0")],
        patients=np.arange(1),
        boxes=lambda case: [SimpleNamespace(x0=lesion[0], y0=lesion[1], x1=lesion[2], y1=lesion[3], label=0, slice=0)],
        prepared=lambda data: SimpleNamespace(rows=lambda rows: np.zeros((1, 1, 64, 64), np.uint8), unit=255),
    )
    targets = Boxed(dataset, where, [inside], [np.zeros(1, int)])
    return targets, answer, lesion


class Boxed:
    """As much of `Targets` as boxes are judged by, of one scan."""

    lesions = Targets.lesions

    def __init__(self, dataset: Any, where: Any, boxes: list[Any], labels: list[Any]) -> None:
        self.dataset, self.boxes, self.labels = dataset, boxes, labels
        self.rows = self.cases = self.slices = np.zeros(1, int)
        self.placement, self.shown = (lambda case: where), (lambda case, index: [0])

    def __len__(self) -> int:
        return 1


def test_boxes_are_judged_as_they_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    targets, answer, lesion = in_the_border()
    experiment = Experiment(data=Data(size_px=64))
    asked = Asked(experiment, ("a",), False, None, lambda images: [answer], "cpu", np.zeros(1), np.ones(1), 255)
    (shown,) = TASK.found(asked, Scan(np.zeros((1, 1, 100, 200), np.uint8)), [answer]).boxes or ()
    assert np.allclose([shown.x0, shown.y0, shown.x1, shown.y1], lesion)
    monkeypatch.setattr("tasks.lesion_detection.Targets", lambda *about: targets)
    for judged in (
        of_targets([answer], targets),  # where the threshold is chosen
        Detections.from_arrays(TASK.examined(asked, targets.dataset, np.zeros(1, int))),
    ):
        assert len(judged.scores) == 1 and overlaps(judged.boxes, judged.lesions)[0, 0] == pytest.approx(1)


def test_an_exported_train_py_judges_boxes_as_they_are_shown() -> None:
    targets, (boxes, scores, labels), lesion = in_the_border()
    text = (Path(lessons.__file__).parent / "templates" / "lesson_boxes.py.txt").read_text()
    text = text.replace("$varied", "    return images, known\n").replace("$over_slices", inspect.getsource(over_slices))
    wanted = [n for n in ast.parse(text).body if getattr(n, "name", "") in ("on_scan", "boxes_of", "over_slices")]
    module: dict[str, Any] = {"np": np, "torch": torch, "SETTINGS": {"slices": "each", "size_px": 64}}
    module |= {"class_of": ["a"].index, "placed": lambda *size: ((0, 0, 200, 100), 0, 16, 64, 32)}
    exec(compile(ast.Module(wanted, []), "train.py", "exec"), module)
    scan = SimpleNamespace(pixels=np.zeros((1, 1, 100, 200)), aspect=1.0)
    line = dict(zip(("x0", "y0", "x1", "y1"), lesion, strict=True)) | {"label": "a"}
    there, _, where = module["boxes_of"](scan, 0, [{name: str(value) for name, value in line.items()}])
    left, sure, _ = module["on_scan"](boxes, scores, labels, where)
    assert sure.tolist() == [0.8] and np.allclose(left, there.numpy()) and np.allclose(left, targets.boxes[0])
    module["SETTINGS"]["slices"] = "maximum"
    scan.pixels, again = np.zeros((3, 1, 100, 200)), [{**line, "slice": k} for k in range(3)]
    assert np.allclose(module["boxes_of"](scan, 0, again)[0], targets.boxes[0]), "one lesion on three slices"
    assert module["boxes_of"](scan, 0, [{**line, "x0": ""}])[0].shape == (0, 4)


@pytest.mark.parametrize(("how", "images", "lesions"), [("maximum", 1, 2), ("mean", 1, 2), ("each", 5, 4)])
def test_a_lesion_drawn_on_every_slice_that_it_crosses_is_one_where_these_are_one_picture(
    how: str, images: int, lesions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found once, it is found: not one of three, with two missed."""
    drawn = [Box(9 + k, 10, 20 - k, 20, 0, k + 1) for k in range(3)] + [Box(40, 40, 50, 50, 0, 1)]
    dataset: Any = SimpleNamespace(
        cases=[SimpleNamespace(id="c0", shape=(5, 1, 64, 64), spacing_mm=(1.0, 1.0, 1.0))],
        patients=np.arange(1),
        classes=("a",),
        multi_label=False,
        boxes=lambda case: drawn,
    )
    rows, data = np.zeros((images, 1, 64, 64), np.uint8), Data(size_px=64, slices=how)
    places = np.stack([np.zeros(5, int), np.arange(5)], 1) if how == "each" else None
    dataset.prepared = lambda data: Prepared(rows, 255, np.zeros(1), np.ones(1), places=places)
    found = np.array([[9, 10, 20, 20], [40, 40, 50, 50]], np.float32), np.array([0.9, 0.8]), np.array([0, 0])
    asked = Asked(
        Experiment(data=data), ("a",), False, None, lambda rows: [found] * len(rows), "cpu", np.ones(1), np.ones(1), 255
    )
    told = TASK.report(TASK.examined(asked, dataset, np.zeros(1, int)), ("a",), False, 10)
    assert (told["n"], told["lesions"], told["metrics"]["sensitivity"]["value"]) == (images, lesions, 1.0)
    assert (SLICE_BY_SLICE in told["notes"]) == (how == "each")


def test_a_run_that_could_choose_no_score_is_judged_from_the_one_it_shows_boxes_from() -> None:
    lesion, off = [10.0, 10, 20, 20], [60.0, 60, 80, 80]
    found = [([lesion, off], [0.9, 0.5], [0, 0])] * 6  # here a threshold of 0.7 could be chosen
    examined = {
        **Detections.of(found, [([lesion], [0])] * 6, np.arange(6)).arrays(),
        "cases": np.array([f"c{n}" for n in range(6)]),
        "slices": np.zeros(6, np.int64),
        "threshold": np.array(np.nan),
    }
    told = TASK.report(examined, ("a",), False, 20)
    assert told["operating_point"] == {"threshold": 0.3, "chosen": "nobody", "iou": 0.3}
    assert told["metrics"]["false_alarms_per_image"]["value"] == 1 and len(told["false_alarms"]) == 6
    groups = TASK.judged(examined, 1)
    assert groups is not None and set(groups.marks.values()) == {2 / 3}
    pooled = TASK.pooled([examined, examined])  # of several runs, each with a score of its own
    assert TASK.report(pooled, ("a",), False, 20)["operating_point"]["chosen"] == "here"
    chosen = {**examined, "threshold": np.array(0.6)}
    assert TASK.report(chosen, ("a",), False, 20)["operating_point"]["chosen"] == "validation"
    assert chosen_by(told["operating_point"]) == "as none could be chosen"


# -- taken away -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("to", ["pytorch", "onnx", "torch-export", "document", "svg"])
def test_an_exported_detector_finds_the_same_boxes(to: str, trained: tuple[Path, Any, Dataset], tmp_path: Path) -> None:
    import json
    import sys

    import forks
    from PIL import Image

    from builder.export import export
    from builder.predict import Predictor

    home, run, dataset = trained
    folder = export(run, home, to=to, out=tmp_path).with_suffix("")
    if to in ("document", "svg"):
        return
    proof = json.loads((folder / "parity.json").read_text())
    assert proof["cases"] > 5 and proof["difference"]["input"] < 1e-6
    predictor = Predictor.open(run.folder)
    index = next(int(i) for i in dataset.indices("test", by="boxes") if dataset.boxes(int(i)))
    scan = dataset.scan(index)
    Image.fromarray(np.asarray(scan.pixels[0, 0])).save(tmp_path / "scan.png")
    command = [sys.executable, str(folder / "predict.py"), str(tmp_path / "scan.png")]
    done = forks.run(command, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    ours = [b for b in predictor.finding(scan).found.boxes or () if b.score >= predictor.settled["threshold"]]
    assert len(told["boxes"]) == len(ours) > 0
    for box, own in zip(told["boxes"], ours, strict=True):
        assert box["class"] == own.label and abs(box["score"] - own.score) < 1e-3 and box["slice"] == own.slice
        assert np.allclose(box["box"], (own.x0, own.y0, own.x1, own.y1), atol=0.05)
    words = (folder / "README.md").read_text()
    assert "boxes, one JSON line a scan" in words and ("train.py" in words) == (to == "pytorch") and "{" not in words


@pytest.mark.slow
def test_an_exported_train_py_reads_exported_boxes_and_counts_as_the_app_does(
    trained: tuple[Path, Any, Dataset], tmp_path: Path
) -> None:
    import json

    from builder.export import export
    from builder.label_export import export_labels

    home, run, dataset = trained
    folder = export(run, home, out=tmp_path).with_suffix("")
    list(export_labels(dataset, "csv", tmp_path / "scans"))
    told = json.loads((folder / "settings.json").read_text())
    assert told.pop("settled")["threshold"] > 0
    (folder / "settings.json").write_text(json.dumps({**told, "settled": {}}))  # as of a network that is not trained
    figures = taken_away.taught_again(folder, tmp_path / "scans", tmp_path)
    ours = taken_away.validated(run, dataset, tmp_path)
    assert {"map50", "cpm", "loss", "threshold"} <= set(ours)
    assert {name: figures[name] for name in ours} == pytest.approx(ours, rel=1e-4, abs=1e-4)
    scan = next((tmp_path / "scans" / "scans").iterdir())
    assert "boxes" in taken_away.asked(tmp_path / "trained", scan, tmp_path)
    again = json.loads((tmp_path / "trained" / "settings.json").read_text())
    assert again["settled"]["threshold"] > 0, "its own validation scans chose it"


def test_keras_is_refused_in_words() -> None:
    from builder.export import unsupported

    (problem,) = unsupported(STARTERS[0], "keras")
    assert "cannot be read off its rows" in problem.message


def test_slices_one_by_one_with_their_neighbours_are_samples_and_answers_of_their_own() -> None:
    data = Data(size_px=32, slices="each", colour="neighbours")
    scan = Scan(np.zeros((3, 1, 32, 32), np.uint8))
    asked = Asked(Experiment(data=data), ("a",), False, None, list, "cpu", np.zeros(3), np.ones(3), 255)
    none = (np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    some = (np.array([[4.0, 4.0, 12.0, 12.0]], np.float32), np.array([0.9], np.float32), np.array([0]))
    (box,) = TASK.found(asked, scan, [none, none, some]).boxes or ()
    assert box.slice == 2 and (box.x0, box.y1) == (4.0, 12.0)


# -- what it refuses, and starters ------------------------------------------------------------------------------------


def test_a_data_set_without_boxes_is_refused_in_words(trained: tuple[Path, Any, Dataset]) -> None:
    from dataclasses import replace

    _, run, dataset = trained
    assert not [p for p in problems(run.experiment, dataset.fingerprint) if p.severity == "error"]
    bare = replace(dataset.fingerprint, num_boxed={}, box_counts={}, box_sizes_px={})
    said = [p.message for p in TASK.problems(run.experiment, bare)]
    assert any("No scan of this data set has boxes" in words for words in said)
    tiny = run.experiment.replace("data.size_px", 16)
    (small,) = [p for p in TASK.problems(tiny, dataset.fingerprint) if p.path == "data.size_px"]
    assert small.severity == "warning" and small.fix is not None and small.fix.data.size_px > 16
    wide = replace(dataset.fingerprint, box_sizes_px={"median": [40, 40]}, sizes={"median": [100, 400]})
    for fit, told in (("pad", 1), ("crop", 0), ("stretch", 0)):  # 40 px of 400, of 100, or of both become 32 px
        document = tiny.replace("data.size_px", 32).replace("data.fit", fit)
        said = [p.message for p in TASK.problems(document, wide) if "hardly sees them" in p.message]
        assert len(said) == told and all("(3.2 px)" in words for words in said)


def test_a_sampler_that_has_nothing_to_balance_is_told_with_a_repair(trained: tuple[Path, Any, Dataset]) -> None:
    from dataclasses import replace

    known = replace(trained[2].fingerprint, box_counts={"train": {"cat": 9, "dog": 0}}, num_empty={})
    document = STARTERS[0].replace("training.balance", "sampler")
    (found,) = [p for p in TASK.problems(document, known) if p.path == "training.balance"]
    assert found.severity == "warning" and "'cat'" in found.message and found.fix == STARTERS[0]
    empty = replace(known, num_empty={"boxes": {"train": 2}})
    for other in (empty, replace(known, box_counts={"train": {"cat": 9, "dog": 2}})):
        assert not [p for p in TASK.problems(document, other) if p.path == "training.balance"]


@pytest.mark.parametrize(("setting", "value"), [("label_smoothing", 0.1), ("balance", "weights")])
def test_a_setting_that_changes_nothing_is_told_with_a_repair(setting: str, value: Any) -> None:
    path = f"training.{setting}"
    (found,) = [p for p in TASK.problems(STARTERS[0].replace(path, value), None) if p.path == path]
    assert found.severity == "warning" and found.fix == STARTERS[0].replace(path, STARTERS[0].at(path))


def test_every_validation_score_is_one_of_the_tasks_metrics() -> None:
    from builder.measures.boxes import Detections, scores

    one = np.array([[4.0, 4.0, 12.0, 12.0]])
    found = Detections.of([(one, [0.9], [0])], [(one, [0])], [0])
    told = scores(found, 1)
    assert {name: told[name] for name in TASK.metrics if name != "loss"} == pytest.approx(
        {"map50": 1.0, "map": 1.0, "cpm": 1.0}
    )


def test_a_network_that_ends_in_class_scores_gets_a_head_by_a_press() -> None:
    from builder.data import Fingerprint

    wrong = STARTERS[0].remove("boxes").insert(Node(id="pool", name="global_pool"))
    wrong = wrong.insert(Node(id="scores", name="class_scores"))
    found = [p for p in problems(wrong, None) if p.severity == "error" and p.path.startswith("network")]
    assert found and found[0].fix is not None
    assert isinstance(Fingerprint, type)


@pytest.mark.parametrize("experiment", STARTERS, ids=lambda e: e.name)
def test_a_starter_is_planned_and_teaches(experiment: Experiment) -> None:
    assert experiment.name in TASK.when
    planned = network.plan_of(experiment, 3)
    assert not [node.message for node in planned.nodes if node.message]
    small = experiment.replace("data.size_px", 64)
    net = network.assemble_of(small, 3, seed=0)
    images = torch.rand(2, *small.data.shape)
    target = Target(boxes=[BOXES, BOXES[:0]], labels=[LABELS, LABELS[:0]])
    loss = TASK.step(net, images, target, TASK.objective(small, net, None)).loss  # type: ignore[arg-type]
    loss.backward()
    assert torch.isfinite(loss)
    assert type(experiment).loads(experiment.dumps()) == experiment
