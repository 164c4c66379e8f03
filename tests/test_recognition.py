"""The recognition task: its loss, its scores, what it refuses, its starters and its demo set."""

from __future__ import annotations

import csv
import hashlib
import os
from pathlib import Path

import little_run
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict

from builder import network
from builder.data import Fingerprint
from builder.losses import Focal, Labels
from builder.parts.layers import LAYERS
from builder.spec import Experiment, Node, Training
from builder.task import unfit
from tasks import phantoms
from tasks.recognition import Recognition

RECOGNITION = Recognition()
STARTERS = RECOGNITION.starters()


def fingerprint(**changes: object) -> Fingerprint:
    counts = {"train": {"a": 50, "b": 40}, "val": {"a": 9, "b": 8}, "test": {"a": 9, "b": 8}}
    facts = {"num_cases": 124, "num_patients": 60, "classes": ("a", "b"), "class_counts": counts, **changes}
    return Fingerprint(**facts)  # type: ignore[arg-type]


def said(problems: list, severity: str = "error") -> str:
    return " ".join(p.message for p in problems if p.severity == severity)


# -- loss -------------------------------------------------------------------------------------------------------------


def test_without_weights_or_smoothing_the_loss_is_plain_cross_entropy():
    output, target = torch.randn(8, 3), torch.randint(0, 3, (8,))
    loss = RECOGNITION.class_loss(Training(), np.array([0, 1, 2]), 3, False)
    assert torch.allclose(loss(output, target), torch.nn.functional.cross_entropy(output, target))


def test_class_weights_make_each_class_count_the_same_and_average_one_over_the_cases():
    labels = np.array([0] * 90 + [1] * 10)
    loss = RECOGNITION.class_loss(Training(balance="weights"), labels, 2, False)
    weight = loss.weight.numpy()  # type: ignore[attr-defined]
    assert weight[0] * 90 == pytest.approx(weight[1] * 10)
    assert weight[labels].mean() == pytest.approx(1)


def test_a_class_without_training_cases_gets_a_finite_weight():
    loss = RECOGNITION.class_loss(Training(balance="weights"), np.array([0, 0, 1]), 3, False)
    assert torch.isfinite(loss.weight).all()  # type: ignore[attr-defined]


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_the_focal_loss_has_a_gradient_where_an_answer_is_entirely_sure(gamma: float):
    for loss, target in ((Focal(gamma), torch.tensor([0, 1])), (Labels(gamma), torch.tensor([[1.0, 0.0], [0.0, 1.0]]))):
        scores = torch.tensor([[40.0, -40.0], [2.0, -1.0]], requires_grad=True)
        loss(scores, target).backward()
        assert scores.grad is not None and scores.grad.isfinite().all() and scores.grad[1].abs().min() > 0
    scores, target = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3
    each = torch.nn.functional.cross_entropy(scores, target, reduction="none")
    missed = 1 - scores.softmax(1)[torch.arange(8), target]
    assert torch.allclose(Focal(gamma)(scores, target), (each * missed**gamma).mean(), rtol=1e-6)


def test_several_labels_are_learned_by_binary_cross_entropy_with_smoothing_and_positive_weights():
    labels = np.array([[1, 0], [1, 0], [0, 0], [0, 1]], np.uint8)
    output, target = torch.randn(4, 2), torch.from_numpy(labels).float()
    plain = torch.nn.functional.binary_cross_entropy_with_logits
    got = RECOGNITION.class_loss(Training(), labels, 2, True)(output, target)
    assert torch.allclose(got, plain(output, target))
    got = RECOGNITION.class_loss(Training(balance="weights", label_smoothing=0.2), labels, 2, True)(output, target)
    assert torch.allclose(got, plain(output, target * 0.8 + 0.1, pos_weight=torch.tensor([1.0, 3.0])))


def test_probabilities_sum_to_one_for_one_label_and_stand_alone_for_several():
    output = torch.randn(5, 4)
    assert torch.allclose(RECOGNITION.activate(Experiment(), output, False).sum(1), torch.ones(5))
    assert torch.allclose(RECOGNITION.activate(Experiment(), output, True), output.sigmoid())


# -- scores -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_classes", [2, 4])
def test_scores_equal_those_of_scikit_learn(num_classes: int):
    random = np.random.default_rng(0)
    labels = random.integers(0, num_classes, 200)
    chances = random.dirichlet(np.ones(num_classes), 200)
    got = RECOGNITION.score(chances, labels, False)
    answered = chances.argmax(1)
    wide = chances if num_classes > 2 else chances[:, 1]
    assert got["auc"] == pytest.approx(roc_auc_score(labels, wide, multi_class="ovr"))
    assert got["accuracy"] == pytest.approx((answered == labels).mean())
    assert got["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, answered))
    assert got["f1"] == pytest.approx(f1_score(labels, answered, average="macro"))


def test_a_class_that_does_not_occur_is_left_out_of_the_auc_and_nothing_is_nan():
    chances = np.array([[0.7, 0.2, 0.1], [0.4, 0.5, 0.1], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1]])
    got = RECOGNITION.score(chances, np.array([0, 1, 0, 1]), False)
    assert got["auc"] == 1.0 and got["f1"] == 1.0
    assert all(np.isfinite(list(got.values())))


def test_one_class_alone_has_no_auc_but_an_accuracy():
    got = RECOGNITION.score(np.array([[0.7, 0.3], [0.4, 0.6]]), np.array([0, 0]), False)
    assert "auc" not in got and got["accuracy"] == 0.5


def test_probabilities_that_are_no_numbers_give_no_scores():
    assert RECOGNITION.score(np.full((3, 2), np.nan), np.array([0, 1, 1]), False) == {}


def test_with_several_labels_accuracy_is_the_mean_over_labels():
    labels = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1]], np.uint8)
    chances = np.array([[0.9, 0.2, 0.6], [0.1, 0.8, 0.1], [0.6, 0.4, 0.2], [0.3, 0.1, 0.9]])
    got = RECOGNITION.score(chances, labels, True)
    assert got["accuracy"] == pytest.approx(((chances >= 0.5) == labels).mean())
    assert got["auc"] == pytest.approx(roc_auc_score(labels, chances, average="macro"))
    assert got["f1"] == pytest.approx(f1_score(labels, chances >= 0.5, average="macro"))


# -- what it refuses --------------------------------------------------------------------------------------------------


def test_one_class_only_is_refused_in_words():
    found = RECOGNITION.problems(STARTERS[0], fingerprint(classes=("healthy",)))
    assert "one class only (healthy)" in said(found) and "at least two" in said(found)


def test_scans_without_labels_are_refused_with_what_to_do():
    assert "carry no labels" in said(RECOGNITION.problems(STARTERS[0], fingerprint(classes=())))


def test_one_patient_only_is_refused_in_words():
    assert "one patient" in said(RECOGNITION.problems(STARTERS[0], fingerprint(num_patients=1)))


def test_a_class_missing_from_the_training_split_is_an_error_and_from_the_test_split_a_warning():
    counts = {"train": {"a": 50, "b": 0}, "val": {"a": 9, "b": 8}, "test": {"a": 9, "b": 0}}
    found = RECOGNITION.problems(STARTERS[0], fingerprint(class_counts=counts))
    assert "'b' has no training scan" in said(found)
    assert "'b' has no scan in the test split" in said(found, "warning")


def test_an_empty_validation_split_is_an_error_since_no_epoch_could_be_chosen():
    counts = {"train": {"a": 50, "b": 40}, "val": {"a": 0, "b": 0}, "test": {"a": 9, "b": 8}}
    assert "validation split has no scan" in said(RECOGNITION.problems(STARTERS[0], fingerprint(class_counts=counts)))


@pytest.mark.parametrize(("num", "words"), [(1, "1 patient has scans on more than"), (3, "3 patients have scans on")])
def test_patients_on_more_than_one_side_are_warned_of(num, words):
    found = RECOGNITION.problems(STARTERS[0], fingerprint(num_patients_astride=num))
    assert words in said(found, "warning") and "figures will be too good" in said(found, "warning")
    assert "more than one side" not in said(RECOGNITION.problems(STARTERS[0], fingerprint()), "warning")


def test_few_cases_are_warned_of():
    counts = {"train": {"a": 50, "b": 5}, "val": {"a": 9, "b": 8}, "test": {"a": 9, "b": 8}}
    assert "b (5)" in said(RECOGNITION.problems(STARTERS[0], fingerprint(class_counts=counts)), "warning")


def test_skewed_classes_get_a_repair_that_weighs_them():
    counts = {"train": {"a": 500, "b": 40}, "val": {"a": 9, "b": 8}, "test": {"a": 9, "b": 8}}
    facts = fingerprint(class_counts=counts)
    found = next(p for p in RECOGNITION.problems(STARTERS[0], facts) if p.path == "training.balance")
    assert found.fix is not None and found.fix.training.balance == "weights"
    assert not [p for p in RECOGNITION.problems(found.fix, facts) if p.path == "training.balance"]


def test_a_last_softmax_is_told_and_taken_away_by_the_repair():
    doubled = STARTERS[0].insert(Node(id="soft", name="softmax"))
    found = next(p for p in RECOGNITION.problems(doubled, fingerprint()) if p.path == "network.soft")
    assert found.fix == STARTERS[0]


def test_an_unknown_score_to_watch_is_told_with_a_repair():
    wrong = STARTERS[0].replace("training.monitor", "dice")
    found = next(p for p in unfit(wrong) if p.path == "training.monitor")
    assert found.severity == "error" and found.fix is not None and found.fix.training.monitor == "auc"


# -- starters ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("experiment", STARTERS, ids=lambda e: e.name)
def test_a_starter_is_made_of_catalogue_layers_fits_any_number_of_classes_and_survives_its_own_json(experiment):
    assert all(node.name in LAYERS for node in experiment.network)
    for num_classes in (2, 7):
        planned = network.plan_of(experiment, num_classes)
        assert planned.output == RECOGNITION.head(experiment.data, num_classes)
        assert not [node.message for node in planned.nodes if node.message]
    assert type(experiment).loads(experiment.dumps()) == experiment
    assert not [p for p in RECOGNITION.problems(experiment, fingerprint()) if p.severity == "error"]


def test_starters_have_names_of_their_own_and_the_promised_ones_are_there():
    names = [e.name for e in STARTERS]
    assert len(set(names)) == len(names)
    assert {"small-cnn", "tiny-cnn", "residual-cnn", "efficientnet-lite0", "vgg-style"} <= set(names)


# -- demo -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cohort() -> list[phantoms.Phantom]:
    return list(phantoms.cohort(seed=3))


def test_the_same_seed_gives_the_same_files_and_another_seed_others(tmp_path: Path):
    def digest(folder: Path) -> str:
        sums = [hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())]
        return hashlib.sha256("".join(sums).encode()).hexdigest()

    made = [phantoms.write_cohort(tmp_path / str(k), seed, num_images=8) for k, seed in enumerate((1, 1, 2))]
    assert digest(made[0]) == digest(made[1]) != digest(made[2])


def test_the_demo_writes_16_bit_pngs_and_a_table_of_file_label_and_patient(tmp_path: Path):
    table = RECOGNITION.demo(0, tmp_path / "demo")
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["file", "label", "patient"] and len(rows) == 240
    assert {row["label"] for row in rows} == set(phantoms.CLASSES)
    pixels = np.asarray(Image.open(table.parent / rows[0]["file"]))
    assert pixels.dtype == np.uint16 and pixels.shape == (64, 64) and pixels.max() > 4096


def test_a_patient_has_two_to_four_slices_of_one_class(cohort):
    slices: dict[str, list[str]] = {}
    for phantom in cohort[:-4]:  # the last patient may be cut short
        slices.setdefault(phantom.patient, []).append(phantom.label)
    assert {len(labels) for labels in list(slices.values())[:-1]} == {2, 3, 4}
    assert all(len(set(labels)) == 1 for labels in slices.values())


def test_a_lesion_lies_where_the_mask_says_and_only_there(cohort):
    for label, sign in (("bright lesion", 1), ("dark lesion", -1)):
        found = [p for p in cohort if p.label == label]
        inside = np.mean([p.image[p.mask].mean() for p in found])
        near = []
        for p in found:
            ys, xs = np.nonzero(p.mask)
            ring = np.zeros_like(p.mask)
            ring[max(0, ys.min() - 3) : ys.max() + 4, max(0, xs.min() - 3) : xs.max() + 4] = True
            near.append(np.median(p.image[ring & ~p.mask]))
        assert sign * (inside - np.mean(near)) > 4000
    assert not any(p.mask.any() for p in cohort if p.label == "no lesion")


def test_the_demo_cannot_be_solved_by_brightness(cohort):
    labels = np.array([phantoms.CLASSES.index(p.label) for p in cohort])
    patients = [p.patient for p in cohort]
    means = np.array([[p.image.mean()] for p in cohort])
    means = (means - means.mean()) / means.std()
    chances = cross_val_predict(
        LogisticRegression(), means, labels, groups=patients, cv=GroupKFold(5), method="predict_proba"
    )
    assert roc_auc_score(labels, chances, multi_class="ovr") < 0.75


@pytest.mark.slow
def test_the_tiny_cnn_learns_the_demo_and_looks_at_the_lesions(home: Path, tmp_path: Path):
    from builder.evaluate import evaluate
    from builder.predict import Predictor

    table = RECOGNITION.demo(0, tmp_path / "demo")
    dataset = little_run.imported(home, table.parent, synthetic=True)
    assert dataset.fingerprint.patient_source == "csv" and dataset.synthetic
    run = little_run.trained(home, little_run.starter("tiny-cnn"), dataset)
    measured = evaluate(run, home)
    assert measured["metrics"]["auc"]["value"] > 0.9
    assert measured["majority_accuracy"] < 0.5 < measured["metrics"]["accuracy"]["value"]

    predictor = Predictor.open(run.folder)
    shares, areas, hits = [], [], []
    for phantom in phantoms.cohort(seed=99, num_images=40):  # slices that no split holds
        if not phantom.mask.any():
            continue
        image = (phantom.image / phantom.image.max()).astype(np.float32)[None]
        heat = predictor.heatmap(image, phantoms.CLASSES.index(phantom.label))
        assert heat is not None
        ys, xs = np.nonzero(phantom.mask)
        box = np.s_[max(0, ys.min() - 4) : ys.max() + 5, max(0, xs.min() - 4) : xs.max() + 5]
        shares.append(heat[box].sum() / heat.sum())
        areas.append(phantom.mask[box].size / phantom.mask.size)
        hits.append(heat[box].max() == heat.max())
    assert len(shares) > 20 and np.mean(hits) > 0.9
    assert np.mean(shares) > 2.5 * np.mean(areas), (np.mean(shares), np.mean(areas))


def test_several_labels_a_scan_are_learned_from_a_table_and_measured_per_label(home: Path, tmp_path: Path):
    from builder.evaluate import evaluate

    random, source = np.random.default_rng(0), tmp_path / "several"
    source.mkdir()
    spots = {"red": (np.s_[5:15, 5:15], 0), "green": (np.s_[20:32, 25:40], 1), "blue": (np.s_[20:32, 5:15], 2)}
    with open(source / "labels.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("file", "label", "patient"))
        for index in range(60):
            pixels = random.integers(0, 60, (40, 50, 3)).astype(np.uint8)
            shown = [name for name in spots if random.random() < 0.4]
            for name in shown:
                where, channel = spots[name]
                pixels[..., channel][where] += 180
            Image.fromarray(pixels).save(source / f"{index}.png")
            table.writerow((f"{index}.png", "|".join(shown), f"P{index // 2}"))
    dataset = little_run.imported(home, source)
    assert dataset.multi_label and dataset.classes == ("blue", "green", "red")
    experiment = little_run.starter().replace("data.size_px", 32).replace("data.colour", "rgb")
    run = little_run.trained(home, experiment.replace("training.epochs", 6), dataset)
    found = evaluate(run, home, resamples=50)
    assert found["metrics"]["auc"]["value"] > 0.9 and found["majority_class"] is None
    assert np.array(found["confusion"]).shape == (3, 2, 2)


def test_reading_the_task_and_its_starters_does_not_import_torch():
    import subprocess
    import sys

    code = (
        "import sys; from builder import task; task.find('recognition').starters();"
        "assert not {'torch', 'sklearn', 'timm'} & set(sys.modules)"
    )
    root = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, env={**os.environ, "PYTHONPATH": str(root)})
