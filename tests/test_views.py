"""Test-time views: what is averaged is what one would average by hand, and boxes and outlines come back to the scan."""

from __future__ import annotations

import dataclasses
import json

import little_run
import numpy as np
import pytest
import torch
from test_train import Made, epochs, experiment, run
from test_train import dataset as dataset  # a fixture

from builder import export, views
from builder.evaluate import evaluate
from builder.parts.training import TRAINING
from builder.predict import Predictor
from builder.readme import readme
from builder.spec import Choice, Experiment
from builder.task import TASKS, find, unfit
from builder.views import VIEWS, View, back, boxes_back, seen
from tasks import phantoms
from tasks.detection_answers import fused
from tasks.tumor_answers import Answer

EXACT = sorted({view for name in VIEWS for view in VIEWS[name] if not view.degrees})


def test_every_choice_has_views_that_begin_with_the_scan_itself_and_differ():
    assert tuple(VIEWS) == TRAINING.param("test_time").options  # type: ignore[union-attr]
    image = torch.rand(1, 9, 9)
    for shown in VIEWS.values():
        assert seen(image, shown[0]) is image
        assert len({seen(image, view).numpy().tobytes() for view in shown}) == len(shown)
    assert [len(shown) for shown in VIEWS.values()] == [1, 2, 4, 8, 3]


@pytest.mark.parametrize("view", EXACT)
def test_maps_and_boxes_of_a_view_come_back_to_where_they_are(view: View):
    image = torch.zeros(2, 1, 20, 20)
    image[:, :, 3:8, 10:18] = torch.rand(5, 8)
    there = seen(image, view)
    assert np.array_equal(back(there.numpy(), view), image.numpy())
    rows, columns = there[0, 0].nonzero().unbind(1)
    box = [[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]]
    assert boxes_back(np.array(box, float), view, 20).tolist() == [[10, 3, 18, 8]]


def test_a_turned_view_turns_and_cannot_be_laid_back():
    image = torch.rand(3, 1, 33, 33)
    turned = seen(image, View(degrees=90.0))
    assert torch.allclose(turned, torch.rot90(image, 1, (2, 3)), atol=1e-5)
    with pytest.raises(ValueError, match="computing pixels anew"):
        back(image.numpy(), View(degrees=8.0))
    with pytest.raises(ValueError, match="turned lesion"):
        boxes_back(np.zeros((1, 4)), View(degrees=8.0), 20)


@pytest.mark.parametrize("name", [name for name in VIEWS if name != "off"])
def test_a_run_answers_with_the_mean_over_its_views_in_judging_and_in_use(tmp_path, dataset: Made, name: str):
    chosen = experiment(epochs=1, batch_size=16, test_time=name)
    ended = epochs(run(chosen, dataset, tmp_path / "run"))[-1]
    (tmp_path / "run" / "experiment.json").write_text(chosen.dumps())
    predictor = Predictor.open(tmp_path / "run")
    images = dataset.stored[dataset.indices("val")].astype(np.float32) / 255
    answers = np.stack(predictor.answers(images))
    by_hand = []
    with torch.inference_mode():
        for view in VIEWS[name]:
            shown = seen(torch.from_numpy(images), view).numpy()
            by_hand.append(predictor.run(shown).softmax(1).numpy())
    assert np.allclose(answers, np.mean(by_hand, 0), atol=1e-6) and not np.allclose(answers, by_hand[0], atol=1e-4)
    assert np.array_equal(answers, np.stack(predictor.answers(images))), "the same answer each time"
    labels = dataset.labels[dataset.indices("val")]
    assert ended.metrics["val/accuracy"] == pytest.approx(float((answers.argmax(1) == labels).mean()))


def test_without_the_choice_the_network_is_asked_once_about_the_scan_as_it_is():
    assert views.words("off") == "" and "2 times" in views.words("mirror")
    assert Experiment().digest == Experiment().replace("training.test_time", "off").digest
    assert Experiment().digest != Experiment().replace("training.test_time", "mirror").digest


def test_outlines_are_laid_back_before_they_are_averaged():
    inside = np.zeros((6, 6), np.float16)
    inside[1:3, 4:] = 1
    shown = VIEWS["quarter turns"]
    told = [
        [Answer(np.array([k, 1.0], np.float32), seen(torch.from_numpy(inside), v).numpy())] for k, v in enumerate(shown)
    ]
    (answer,) = find("tumor_diagnosis").together(Experiment(), shown, told)
    assert np.array_equal(answer.inside, inside) and answer.types.tolist() == [3.5, 1.0]


def test_boxes_of_several_views_are_fused_and_what_one_view_alone_sees_counts_little():
    def answer(*rows):
        boxes, scores, labels = (list(part) for part in zip(*rows, strict=True)) if rows else ([], [], [])
        return (np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32), np.array(labels, np.int64))

    one = answer(((10, 10, 20, 20), 0.9, 0), ((40, 40, 50, 50), 0.6, 1))
    two = answer(((12, 10, 22, 20), 0.3, 0), ((10, 10, 20, 20), 0.5, 1))
    boxes, scores, labels = fused([one, two])
    assert labels.tolist() == [0, 1, 1] and scores.tolist() == pytest.approx([0.6, 0.3, 0.25])
    assert boxes[0].tolist() == pytest.approx([10.5, 10, 20.5, 20])  # weighted by 0.9 and 0.3
    assert [len(part) for part in fused([answer(), answer()])] == [0, 0, 0]


def test_a_task_that_cannot_lay_a_turned_answer_back_refuses_it_in_words():
    for task in TASKS.names:
        said = [
            p
            for p in unfit(Experiment(task=task).replace("training.test_time", "small turns"))
            if "test_time" in p.path
        ]
        assert bool(said) == (task != "recognition")
        if said:
            assert "means nothing for" in said[0].message and said[0].fix is not None


def test_mixed_batches_teach_both_answers_in_their_shares(tmp_path, dataset: Made):
    """The loss of a mixed batch is the cross-entropy to soft labels, with smoothing and class weights as they are."""
    from types import SimpleNamespace

    from builder.targets import Target

    kind = find("recognition")
    labels = np.array([0, 0, 0, 1, 1, 2])
    scores, partner, share = torch.randn(6, 3), torch.tensor([3, 5, 0, 1, 4, 2]), 0.7
    train = SimpleNamespace(classes=labels, num_classes=3, multi_label=False)
    target = Target(classes=torch.from_numpy(labels), partner=partner, share=share)
    soft = torch.nn.functional.one_hot(torch.from_numpy(labels), 3).float()
    soft = share * soft + (1 - share) * soft[partner]
    smoothing = experiment(label_smoothing=0.1)
    told = kind.objective(smoothing, None, train)(scores, target)  # type: ignore[arg-type]
    assert torch.allclose(told, torch.nn.functional.cross_entropy(scores, soft, label_smoothing=0.1), atol=1e-6)
    weighted = kind.objective(experiment(balance="weights"), None, train)(scores, target)  # type: ignore[arg-type]
    weight = torch.tensor(6 / (3 * np.bincount(labels)), dtype=torch.float32)
    by_hand = -(soft * weight * scores.log_softmax(1)).sum() / weight[labels].sum()
    assert torch.allclose(weighted, by_hand, atol=1e-6)


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_the_planted_signal_is_learned_from_mixed_scans_too(tmp_path, dataset: Made, name: str):
    quick = Choice(name="adamw", params={"lr": 0.01})
    mixing = (Choice(name=name, params={"probability": 1.0}),)
    chosen = experiment(epochs=14, augment=mixing, optimizer=quick, monitor="accuracy")
    ended = epochs(run(chosen, dataset, tmp_path / "run"))
    assert max(epoch.metrics["val/accuracy"] for epoch in ended) > 0.9


def test_figures_answers_and_the_words_of_an_export_say_that_several_views_were_asked(home, tmp_path):
    folder = phantoms.write_cohort(tmp_path / "phantoms", seed=5, num_images=30, size_px=32)
    made = little_run.imported(home, folder, synthetic=True)
    chosen = little_run.starter().replace("data.size_px", 32).replace("training.epochs", 1)
    done = little_run.trained(home, chosen.replace("training.test_time", "mirror"), made)
    figures = evaluate(done, home, "val", resamples=20)
    assert any("asked 2 times" in note for note in figures["notes"])
    predictor = Predictor.open(done.folder)
    found = predictor.finding(made.scan(0))
    assert any("asked 2 times" in note and "heat map" in note for note in found.notes)
    once = dataclasses.replace(predictor, experiment=chosen).finding(made.scan(0))
    assert not any("times" in note for note in once.notes) and once.probabilities != found.probabilities
    assert 'several views of a scan ("mirror")' in readme("pytorch", "PyTorch", predictor, done)
    assert "several views" not in readme("pytorch", "PyTorch", dataclasses.replace(predictor, experiment=chosen), done)
    assert "several views" not in readme("document", "Document", predictor, done), "the document asks as the run does"
    evaluate(done, home, "test", resamples=20)
    export._write(tmp_path, export.TARGETS["pytorch"], predictor, done)
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert 'several views of a scan ("mirror")' in settings["asked_once"] and "worth" not in settings
