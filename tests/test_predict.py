"""From a run and a scan to a finding: same preprocessing as training, honest heat maps, refusals in a sentence."""

from __future__ import annotations

import io
import pickle
from dataclasses import replace
from pathlib import Path

import little_run
import numpy as np
import pytest
import torch
from torch import nn

from builder import checkpoint, network
from builder.data import Dataset
from builder.predict import PredictError, Predictor, blanked, differences, grad_cam, read
from builder.runs import Run, RunStore
from builder.sandbox import Sandbox
from builder.scans import Scan, Unreadable
from builder.spec import Choice, Node


@pytest.fixture(scope="module")
def little(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Dataset, Run]:
    home = tmp_path_factory.mktemp("predict") / "home"
    return home, *little_run.little(home)


@pytest.fixture(scope="module")
def predictor(little) -> Predictor:
    return Predictor.open(little[2].folder)


@pytest.fixture
def copy(little, tmp_path: Path) -> Run:
    """The run in a folder of its own, to be spoiled."""
    home, _, run = little
    import shutil

    shutil.copytree(run.folder, tmp_path / "runs" / run.id)
    return Run(tmp_path, run.id)


# -- answers ----------------------------------------------------------------------------------------------------------


def test_a_scan_is_prepared_to_the_very_values_that_training_saw(little, predictor):
    _, dataset, run = little
    stored = dataset.prepared(run.experiment.data)
    for index in range(0, len(dataset), 7):
        seen = stored.images[index].astype(np.float32) / np.float32(stored.unit)
        assert np.array_equal(predictor.prepared(dataset.scan(index)), seen)


def test_probabilities_are_those_of_the_network_on_normalized_images(little, predictor):
    _, dataset, run = little
    images = np.stack([predictor.prepared(dataset.scan(i)) for i in range(5)])
    net = network.assemble(run.experiment.network, network.input_shape(run.experiment), len(dataset.classes))
    net.load_state_dict(checkpoint.load_weights(run.folder / "best.safetensors").tensors)
    stats = dataset.prepared(run.experiment.data)
    normal = (images - stats.mean[:, None, None]) / stats.std[:, None, None]
    with torch.no_grad():
        wanted = net.eval()(torch.from_numpy(normal.astype(np.float32))).softmax(1).numpy()
    assert np.allclose(predictor.probabilities(images), wanted, atol=1e-6)


def test_no_images_give_no_answers(predictor):
    assert predictor.probabilities(np.zeros((0, 1, 32, 32), np.float32)).shape == (0, 3)


def test_a_finding_names_every_class_its_top_and_a_heat_map_of_the_input_size(little, predictor):
    _, dataset, _ = little
    found = predictor.finding(dataset.scan(0))
    assert set(found.probabilities) == set(dataset.classes)
    assert sum(found.probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert found.probabilities[found.top] == max(found.probabilities.values())
    assert found.image.shape == (1, 32, 32)
    if found.heatmap is not None:
        assert found.heatmap.shape == (32, 32) and found.heatmap.min() >= 0 and found.heatmap.max() == pytest.approx(1)
    else:
        assert any("no heat map" in note for note in found.notes)


def test_covering_a_region_tells_what_the_answer_would_be_without_it(little, predictor):
    _, dataset, _ = little
    scan = dataset.scan(0)
    found = predictor.finding(scan, occlude=[(0.0, 0.0, 1.0, 1.0), (0.4, 0.4, 0.6, 0.6)])
    empty = np.full((1, 1, 32, 32), np.median(found.image), np.float32)
    wanted = predictor.probabilities(empty)[0]
    assert list(found.covered[0].probabilities.values()) == pytest.approx(wanted.tolist(), abs=1e-6)
    for covered in found.covered:
        for name, change in covered.change.items():
            assert change == pytest.approx(covered.probabilities[name] - found.probabilities[name], abs=1e-6)
    assert found.plain()["covered"][1]["box"] == [0.4, 0.4, 0.6, 0.6]


def test_blanking_changes_the_box_and_nothing_else():
    image = np.random.default_rng(0).random((2, 10, 20)).astype(np.float32)
    found = blanked(image, (0.25, 0.5, 0.5, 0.8))
    assert np.allclose(found[:, 5:8, 5:10], np.median(image, axis=(1, 2))[:, None, None])
    found[:, 5:8, 5:10] = image[:, 5:8, 5:10]
    assert np.array_equal(found, image)


def test_even_the_smallest_region_covers_a_pixel():
    image = np.random.default_rng(0).random((1, 8, 8)).astype(np.float32)
    assert (blanked(image, (0.5, 0.5, 0.5001, 0.5001)) != image).sum() == 1


@pytest.mark.parametrize("box", [(0.5, 0, 0.4, 1), (0, 0, 1.2, 1), (-0.1, 0, 1, 1), (float("nan"), 0, 1, 1)])
def test_a_region_that_is_none_is_refused(little, predictor, box):
    with pytest.raises(PredictError, match="fractions from 0 to 1"):
        predictor.finding(little[1].scan(0), occlude=[box])


def test_a_file_is_decoded_in_the_sandbox_and_one_that_is_no_scan_is_refused(tmp_path, predictor):
    from PIL import Image

    Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64) * 16).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("not a picture")
    with Sandbox() as box:
        assert predictor.finding(read([tmp_path / "a.png"], box)).top in predictor.classes
        with pytest.raises(Unreadable):
            read([tmp_path / "b.png"], box)


# -- heat maps --------------------------------------------------------------------------------------------------------


class Spots(nn.Module):
    """Class 1 = how much bright 3 x 3 spot there is; class 0 = its opposite. No training: the truth is known."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({"filter": nn.Conv2d(1, 2, 3, padding=1, bias=False), "act": nn.ReLU(inplace=True)})
        filters = torch.stack([torch.ones(1, 3, 3) / 9, -torch.ones(1, 3, 3) / 9])
        self.layers["filter"].weight.data = filters  # type: ignore[union-attr]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.layers["act"](self.layers["filter"](x))
        bright = maps[:, 0].pow(2).mean((1, 2))
        return torch.stack([-bright, bright], 1)


def test_the_heat_lies_on_the_spot_that_decides_and_an_in_place_layer_after_it_does_no_harm():
    image = torch.zeros(1, 1, 32, 32)
    image[..., 20:23, 8:11] = 1
    net = Spots().eval()
    heat = grad_cam(net, net.layers["filter"], image, 1)
    assert heat is not None and heat.shape == (32, 32) and heat.max() == pytest.approx(1)
    assert heat[18:25, 6:13].sum() > 0.99 * heat.sum()


def test_where_nothing_speaks_for_a_class_there_is_no_heat_map():
    image = torch.zeros(1, 1, 32, 32)
    image[..., 20:23, 8:11] = 1
    net = Spots().eval()
    assert grad_cam(net, net.layers["filter"], image, 0) is None


class Votes(nn.Module):
    """Class 0 has one logit for every picture; a dark spot speaks for it only by lowering the logit of class 1."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({"grey": nn.Identity()})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        grey = self.layers["grey"](x)
        return torch.stack([torch.zeros(len(x)), grey.mean((1, 2, 3))], 1)


def test_what_lowers_the_other_classes_is_evidence_too_where_classes_exclude_each_other():
    image = torch.zeros(1, 1, 16, 16)
    image[..., 3:6, 3:6] = -1
    net = Votes().eval()
    heat = grad_cam(net, net.layers["grey"], image + 0.0, 0)
    assert heat is not None and heat[2:7, 2:7].sum() > 0.99 * heat.sum()
    assert grad_cam(net, net.layers["grey"], image, 1) is None


def test_a_heat_map_leaves_no_hook_and_no_gradient_behind():
    net = Spots().eval()
    layer = net.layers["filter"]
    grad_cam(net, layer, torch.rand(1, 1, 16, 16), 1)
    assert not layer._forward_hooks and all(p.grad is None for p in net.parameters())


def test_a_network_without_a_layer_that_keeps_height_and_width_says_that_it_has_no_heat_map(little, tmp_path):
    home, dataset, run = little
    flat = run.experiment.model_copy(
        update={"network": (Node(id="f", name="flatten"), Node(id="s", name="class_scores")), "name": "flat"}
    )
    other = little_run.trained(home, flat, dataset)
    found = Predictor.open(other.folder).finding(dataset.scan(0))
    assert found.heatmap is None and any("no heat map" in note for note in found.notes)


# -- unlike the training ----------------------------------------------------------------------------------------------

TRAINED_ON = {
    "modalities": {"CT": 30},
    "bodies": {"CHEST": 28, "unknown": 2},
    "bits": {"12": 30},
    "channels": {"1": 30},
    "sizes": {"min": [256, 256], "median": [512, 512], "max": [512, 512]},
}
LIKE = Scan(np.zeros((1, 1, 512, 512), np.int16), modality="CT", bits=12, format="dicom")


def test_a_scan_like_those_of_the_training_is_not_remarked_on():
    assert differences(LIKE, TRAINED_ON) == {}


@pytest.mark.parametrize(
    ("scan", "words"),
    [
        (replace(LIKE, modality="MR"), "of modality MR"),
        (replace(LIKE, modality=""), "does not say its modality"),
        (replace(LIKE, body="KNEE"), "shows KNEE"),
        (replace(LIKE, bits=8), "8 bits"),
        (replace(LIKE, pixels=np.zeros((1, 3, 512, 512), np.uint8)), "coloured"),
        (replace(LIKE, pixels=np.zeros((1, 1, 64, 64), np.int16)), "64 x 64"),
        (replace(LIKE, pixels=np.zeros((1, 1, 2048, 2048), np.int16)), "2048 x 2048"),
    ],
)
def test_a_scan_unlike_those_of_the_training_is_told(scan: Scan, words: str):
    assert any(words in note for note in differences(scan, TRAINED_ON).values())


def test_a_coarse_scan_is_what_a_network_for_finer_ones_has_learned_from(little):
    predictor = replace(Predictor.open(little[2].folder), fingerprint=TRAINED_ON)
    coarse = replace(LIKE, pixels=np.zeros((1, 1, 64, 64), np.int16))
    assert list(differences(coarse, predictor.met)) == ["size"]
    finer = predictor.experiment.replace("data.degrade", Choice(name="downsample", params={"scale": 4}))
    predictor = replace(predictor, experiment=finer)
    assert differences(coarse, predictor.met) == differences(LIKE, predictor.met) == {}
    assert list(differences(replace(LIKE, pixels=coarse.pixels[..., ::4, ::4]), predictor.met)) == ["size"]


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_a_run_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(PredictError, match="There is no run"):
        Predictor.open(tmp_path / "nowhere")


def test_a_run_without_saved_weights_is_refused(little, tmp_path):
    run = RunStore(tmp_path).create(little[2].experiment, queue=False)
    with pytest.raises(PredictError, match="no saved weights"):
        Predictor.open(run.folder)


def test_weights_with_one_flipped_bit_are_refused(copy):
    path = copy.folder / "best.safetensors"
    data = bytearray(path.read_bytes())
    data[-1000] ^= 4
    path.write_bytes(data)
    with pytest.raises(PredictError, match="damaged"):
        Predictor.open(copy.folder)


def test_weights_of_another_network_are_refused_though_they_are_whole(copy):
    path = copy.folder / "best.safetensors"
    stored = checkpoint.load_weights(path)
    names = list(stored.tensors)
    tensors = {**stored.tensors, names[0]: torch.zeros(3, 3)}
    checkpoint.save_weights(path, tensors, _words(stored.metadata))
    with pytest.raises(PredictError, match="another network"):
        Predictor.open(copy.folder)


def test_weights_of_another_experiment_are_refused(copy):
    changed = copy.experiment.replace("training.epochs", 7)
    (copy.folder / "experiment.json").write_text(changed.dumps())
    with pytest.raises(PredictError, match="another experiment"):
        Predictor.open(copy.folder)


def test_weights_that_are_no_numbers_are_refused(copy):
    path = copy.folder / "best.safetensors"
    stored = checkpoint.load_weights(path)
    name = next(n for n, t in stored.tensors.items() if t.is_floating_point())
    tensors = {**stored.tensors, name: stored.tensors[name] * float("nan")}
    checkpoint.save_weights(path, tensors, _words(stored.metadata))
    with pytest.raises(PredictError, match="no finite numbers"):
        Predictor.open(copy.folder)


def test_weights_that_do_not_say_what_they_were_trained_on_are_refused(copy):
    path = copy.folder / "best.safetensors"
    stored = checkpoint.load_weights(path)
    words = {k: v for k, v in _words(stored.metadata).items() if k != "classes"}
    checkpoint.save_weights(path, stored.tensors, words)
    with pytest.raises(PredictError, match="do not say the classes"):
        Predictor.open(copy.folder)


class Evil:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple:
        return open, (str(self.canary), "w")


@pytest.mark.parametrize("kind", ["raw pickle", "torch zip", "legacy"])
def test_weights_with_a_pickle_inside_are_refused_and_never_run(copy, tmp_path, kind):
    canary, path = tmp_path / "ran", copy.folder / "best.safetensors"
    if kind == "raw pickle":
        path.write_bytes(pickle.dumps(Evil(canary)))
    else:
        buffer = io.BytesIO()
        torch.save({"state": Evil(canary)}, buffer, _use_new_zipfile_serialization=kind == "torch zip")
        path.write_bytes(buffer.getvalue())
    with pytest.raises(PredictError, match="damaged or not a safetensors file"):
        Predictor.open(copy.folder)
    assert not canary.exists()


def test_a_run_that_began_with_imagenet_weights_opens_without_them_and_without_the_internet(little, monkeypatch):
    home, dataset, run = little
    nodes = (
        Node(id="body", name="timm_backbone", params={"model": "test_resnet", "weights": "none"}),
        Node(id="pool", name="global_pool"),
        Node(id="scores", name="class_scores"),
    )
    small = run.experiment.model_copy(update={"network": nodes, "name": "timm"})
    other = little_run.trained(home, small, dataset)
    asked = other.experiment.replace("network.body.params.weights", "download")
    (other.folder / "experiment.json").write_text(asked.dumps())
    path = other.folder / "best.safetensors"
    stored = checkpoint.load_weights(path)
    checkpoint.save_weights(path, stored.tensors, {**_words(stored.metadata), "experiment": asked.digest})
    assert Predictor.open(other.folder).finding(dataset.scan(0)).top in dataset.classes


def _words(metadata: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in metadata.items() if name not in ("format", "version", "sha256")}
