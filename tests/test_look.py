"""A network looked at while it works: what is kept is what the network really did, number by number."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from little_run import little
from torch import nn

from builder import look, network, stepping
from builder.blocks.pooling import AdaptivePool, GlobalPool
from builder.look import LookError
from builder.predict import PredictError
from builder.spec import Data, Experiment, Node
from builder.task import find

# -- one step of a layer --------------------------------------------------------------------------------------------

LAYERS: dict[str, nn.Module] = {
    "a plain convolution": nn.Conv2d(3, 8, 3, padding=1),
    "stride, dilation, groups, uneven": nn.Conv2d(4, 8, (3, 5), stride=2, padding=(1, 2), dilation=2, groups=2),
    "depthwise, mirrored border": nn.Conv2d(4, 4, 3, groups=4, padding=1, padding_mode="reflect", bias=False),
    "round the edge": nn.Conv2d(2, 2, 3, padding=2, padding_mode="circular"),
    "border repeated": nn.Conv2d(2, 2, 3, padding=2, padding_mode="replicate"),
    "padding by name": nn.Conv2d(2, 3, 3, padding="same"),
    "a line": nn.Conv1d(2, 3, 3, stride=2, padding=1),
    "a volume": nn.Conv3d(2, 3, 3, stride=2, padding=1),
    "maximum": nn.MaxPool2d(2),
    "maximum over a border": nn.MaxPool2d(3, 2, 1),
    "mean with its border": nn.AvgPool2d(3, 2, 1),
    "mean without": nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "adaptive maximum": AdaptivePool(4, "maximum"),
    "adaptive mean": AdaptivePool(3),
    "global mean": GlobalPool("average"),
    "global maximum": GlobalPool("maximum"),
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_sum_that_is_shown_is_the_output_of_the_layer_everywhere(name: str) -> None:
    layer = LAYERS[name]
    rank = {"Conv1d": 1, "Conv3d": 3}.get(type(layer).__name__, 2)
    x = torch.randn(1, getattr(layer, "in_channels", 4), *[9, 11, 7][:rank], generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        out = layer(x)[0]
    out = out.reshape(*out.shape, *[1] * (x.dim() - 1 - out.dim()))
    found = stepping.geometry(layer, x.shape[1:])
    assert found is not None and stepping.Geometry.from_json(json.loads(json.dumps(found.to_json()))) == found
    assert stepping.out_size(found, x.shape[2:]) == tuple(out.shape[1:])
    weight, bias = (None if t is None else t.detach().numpy() for t in map(layer._parameters.get, ("weight", "bias")))
    for place in itertools.product(*map(range, out.shape)):
        step = stepping.step(x[0].numpy(), found, place[0], place[1:], weight, bias)
        assert step.total == pytest.approx(float(out[place]), abs=2e-6)
        if step.products is not None:
            assert step.products.sum() + step.bias == pytest.approx(step.total)


def test_a_step_says_which_pixels_it_looked_at() -> None:
    found = stepping.geometry(nn.Conv2d(1, 1, 3, stride=2, padding=1, dilation=2))
    assert found is not None
    step = stepping.step(np.ones((1, 8, 8), np.float32), found, 0, (0, 1), np.ones((1, 1, 3, 3), np.float32))
    assert step.places == ((-1, 1, 3), (1, 3, 5))
    assert step.inside.tolist() == [[False] * 3, [True] * 3, [True] * 3]
    assert step.total == 6.0


def test_a_place_that_is_not_there_is_refused() -> None:
    found = stepping.geometry(nn.MaxPool2d(2))
    assert found is not None
    for channel, place in ((0, (4, 0)), (2, (0, 0)), (0, (-1, 0))):
        with pytest.raises(IndexError, match="There is no output"):
            stepping.step(np.zeros((2, 8, 8), np.float32), found, channel, place)


def test_layers_without_a_window_cannot_be_stepped_through() -> None:
    assert stepping.geometry(nn.ReLU()) is None and stepping.geometry(nn.Linear(3, 3)) is None
    assert stepping.geometry(GlobalPool("both"), (4, 8, 8)) is None


# -- a look at a draft -----------------------------------------------------------------------------------------------


def starter(name: str = "tiny-cnn") -> Experiment:
    return next(e for e in find("recognition").starters() if e.name == name)


def array(folder: Path, file: str) -> np.ndarray:
    return np.load(folder / file, allow_pickle=False)


class Looked:
    """A draft looked at with the sample CT."""

    def __init__(self, experiment: Experiment, folder: Path) -> None:
        self.folder = folder
        self.subject = look.untrained(experiment, look.sample("CT"), "sample CT")
        self.answer = look.look(self.subject, folder)
        self.layers: dict[str, dict[str, Any]] = self.answer["layers"]


@pytest.fixture(scope="module")
def looked(tmp_path_factory: pytest.TempPathFactory) -> Looked:
    return Looked(starter(), tmp_path_factory.mktemp("looked"))


def test_feature_maps_are_what_the_network_computes(looked: Looked) -> None:
    net, x = looked.subject.net, torch.from_numpy(looked.subject.scans)
    with torch.no_grad():
        for id in looked.answer["order"]:
            x = net.get_submodule("layers")[id](x)  # type: ignore[index]
            told = looked.layers[id]
            assert told["shape"] == list(x.shape[1:])
            assert (told["low"], told["high"]) == pytest.approx((float(x[0].min()), float(x[0].max())))
            kept = array(looked.folder, told["maps"])
            assert np.allclose(kept, x[0].numpy(), atol=1e-6)
    assert sum(looked.layers["conv2d_1"]["histogram"]["counts"]) == pytest.approx(16 * 32 * 32, rel=0.01)


def test_each_step_through_a_kept_layer_gives_the_next_feature_map(looked: Looked) -> None:
    steppable = [id for id, told in looked.layers.items() if told.get("step")]
    assert steppable == ["conv2d_1", "conv2d_2", "max_pool_1", "conv2d_3"]
    for id in steppable:
        told = looked.layers[id]["step"]
        found = stepping.Geometry.from_json(told["geometry"])
        weight, bias = (None if told[n] is None else array(looked.folder, told[n]) for n in ("weight", "bias"))
        maps = array(looked.folder, looked.layers[id]["maps"])
        for place in ((0, 0, 0), (3, 5, 7), (len(maps) - 1, maps.shape[1] - 1, maps.shape[2] - 1)):
            step = stepping.step(array(looked.folder, told["from"]), found, place[0], place[1:], weight, bias)
            assert step.total == pytest.approx(float(maps[place]), abs=2e-5)


def test_the_weights_shown_are_those_that_a_training_begins_with(looked: Looked) -> None:
    experiment = starter()
    net = network.assemble_of(experiment, 2, seed=experiment.training.seed)
    kept = array(looked.folder, looked.layers["conv2d_1"]["kernels"][0]["file"])
    assert np.array_equal(kept, net.get_submodule("layers")["conv2d_1"].weight.detach().numpy())  # type: ignore[index]
    assert "Untrained" in looked.answer["weights"] and "batch norms set on this scan" in looked.answer["weights"]


def test_untrained_batch_norms_do_their_work(looked: Looked) -> None:
    told = looked.layers["batch_norm_1"]
    assert told["mean"] == pytest.approx(0, abs=1e-4) and told["std"] == pytest.approx(1, abs=1e-3)


def test_the_statistics_of_pretrained_weights_stay_as_they_are() -> None:
    experiment = starter("efficientnet-lite0").replace("data.size_px", 64)
    subject = look.untrained(experiment, look.sample("CT"), "")
    assert "batch norms" not in subject.weights
    fresh = network.assemble_of(experiment, 2, seed=experiment.training.seed)
    for name, buffer in fresh.named_buffers():
        assert torch.equal(buffer, subject.net.get_buffer(name)), name


def test_a_relu_is_drawn_with_what_comes_into_it(looked: Looked) -> None:
    told = looked.layers["relu_1"]["activation"]
    x, y = np.array(told["curve"]["x"]), np.array(told["curve"]["y"])
    assert np.allclose(y, np.maximum(x, 0))
    assert told["histogram"] == looked.layers["batch_norm_1"]["histogram"]
    before = array(looked.folder, looked.layers["batch_norm_1"]["maps"])
    assert told["flat"] == told["zero"] == pytest.approx((before <= 0).mean(), abs=1e-6)
    assert (told["units"], told["dead"]) == (16, 0)


def layers_of(*names: tuple[str, dict[str, Any]] | str) -> Experiment:
    plain = [name if isinstance(name, tuple) else (name, {}) for name in names]
    nodes = tuple(Node(id=f"n{k}", name=name, params=params) for k, (name, params) in enumerate(plain))
    return Experiment(name="few", data=Data(size_px=24), network=nodes)


def test_dead_and_saturated_units_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = layers_of(("conv2d", {"out_channels": 4, "kernel_size": 1, "padding": 0}), "relu", "sigmoid")
    subject = look.untrained(experiment, look.sample("MR"), "")
    conv = subject.net.get_submodule("layers")["n0"]  # type: ignore[index]
    with torch.no_grad():
        conv.weight.zero_()
        conv.bias.copy_(torch.tensor([-1.0, 1.0, 200.0, -3.0]))
    told = look.look(subject, tmp_path)["layers"]
    assert told["n1"]["activation"]["dead"] == 2 and told["n1"]["activation"]["flat"] == 0.5
    assert told["n2"]["activation"]["dead"] == 1, "one stands at 200, where a sigmoid is flat"


def test_a_function_of_several_values_has_no_curve(tmp_path: Path) -> None:
    subject = look.untrained(layers_of("conv2d", "softmax"), look.sample("CT"), "")
    found = look.look(subject, tmp_path)["layers"]["n1"]["activation"]
    assert found["curve"] is None and sum(found["histogram"]["counts"]) > 0


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
def test_a_recurrent_layer_tells_how_far_back_it_hears(tmp_path: Path, kind: str) -> None:
    experiment = layers_of("rows_as_sequence", (kind, {"units": 8}), "class_scores")
    subject = look.untrained(experiment, look.sample("CT"), "")
    told = look.look(subject, tmp_path)["layers"]["n1"]["time"]
    assert len(told["memory"]) == 24 and told["memory"][0] < told["memory"][-1]
    rows = torch.from_numpy(subject.scans).transpose(1, 2).flatten(2)[:1]
    layer = subject.net.get_submodule("layers")["n1"]  # type: ignore[index]
    jacobian = torch.autograd.functional.jacobian(lambda x: layer(x)[0], rows)[:, 0]
    assert told["memory"] == pytest.approx(jacobian.square().sum((0, 2)).sqrt().tolist(), rel=0.8)


def test_truncated_steps_are_not_heard(tmp_path: Path) -> None:
    chosen = {"units": 4, "bptt": 5, "layers": 2, "dropout": 0.5}
    experiment = layers_of("rows_as_sequence", ("gru", chosen), "class_scores")
    subject = look.untrained(experiment, look.sample("CT"), "")
    memory = look.look(subject, tmp_path)["layers"]["n1"]["time"]["memory"]
    assert memory[:-5] == [0.0] * 19 and min(memory[-5:]) > 0
    assert not any(part.training for part in subject.net.modules()), "the look has left the network as it was"


def test_only_the_layers_above_what_is_broken_are_looked_at(tmp_path: Path) -> None:
    experiment = layers_of("conv2d", "relu", ("linear", {}), "relu")
    assert look.look(look.untrained(experiment, look.sample("CT"), ""), tmp_path)["order"] == ["n0", "n1"]
    with pytest.raises(LookError, match="no layer yet"):
        look.untrained(layers_of("linear"), look.sample("CT"), "")


def test_a_series_shows_its_middle_slice(tmp_path: Path) -> None:
    experiment = layers_of(("conv2d", {"out_channels": 3}), "relu", "max_pool", "global_pool")
    experiment = experiment.replace("data.slices", "series").replace("data.num_slices", 5)
    subject = look.untrained(experiment, look.sample("CT"), "")
    told = look.look(subject, tmp_path)["layers"]
    assert told["n0"]["shape"] == [5, 3, 24, 24] and (told["n0"]["item"], told["n0"]["items"]) == (2, 5)
    assert array(tmp_path, told["n0"]["maps"]).shape == (3, 24, 24)
    step = told["n0"]["step"]
    found = stepping.Geometry.from_json(step["geometry"])
    weight, bias = array(tmp_path, step["weight"]), array(tmp_path, step["bias"])
    one = stepping.step(array(tmp_path, step["from"]), found, 1, (4, 9), weight, bias)
    assert one.total == pytest.approx(float(array(tmp_path, told["n0"]["maps"])[1, 4, 9]), abs=2e-6)
    assert array(tmp_path, told["n3"]["maps"]).shape == (1, 5, 3)


def test_large_pictures_are_reduced_and_many_channels_cut(tmp_path: Path) -> None:
    experiment = layers_of(("conv2d", {"out_channels": 70})).replace("data.size_px", 400)
    told = look.look(look.untrained(experiment, look.sample("CT"), ""), tmp_path)["layers"]["n0"]
    assert (told["num_channels"], told["reduced"]) == (70, 3)
    assert array(tmp_path, told["maps"]).shape == (64, 133, 133)


def test_a_look_keeps_within_its_allowance_and_shows_every_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = layers_of(*(("conv2d", {"out_channels": 48}) for _ in range(6)), "global_pool", "relu")
    answers = []
    for room in (256_000_000, 400_000):
        monkeypatch.setattr(look, "MAX_FOLDER_BYTES", room)
        answers.append(look.look(look.untrained(experiment, look.sample("CT"), ""), tmp_path / str(room)))
    written = sum(path.stat().st_size for path in (tmp_path / "400000" / "arrays").iterdir())
    assert written < 400_000 + 128 * 60, "headers of files come on top"
    wide, tight = ([answer["layers"][f"n{n}"] for n in range(6)] for answer in answers)
    assert all(told["reduced"] == 1 and told["step"] for told in wide)
    assert [told["step"] for told in tight].count(None) > 2, "numbers that do not fit are not kept"
    for told in tight:
        assert told["reduced"] > 1 and array(tmp_path / "400000", told["maps"]).shape[0] == 48
        step = told["step"]
        assert step is None or all(step[name] for name in ("from", "weight", "bias"))
    vector = answers[1]["layers"]["n7"]
    assert array(tmp_path / "400000", vector["maps"]).shape == (48,)


def test_a_sample_that_does_not_exist_is_refused() -> None:
    with pytest.raises(LookError, match="no sample scan 'PET'"):
        look.sample("PET")


# -- a look at a run -------------------------------------------------------------------------------------------------


def test_a_run_shows_its_own_weights_and_only_in_its_own_network(home: Path, tmp_path: Path) -> None:
    dataset, run = little(home)
    experiment = run.experiment
    scan = dataset.scan(0)
    subject = look.of_run(run.folder, experiment.replace("name", "renamed"), scan, "case 1", dataset)
    answer = look.look(subject, tmp_path)
    assert run.id in answer["weights"] and answer["num_scans"] == 8
    from builder.predict import Predictor

    predictor = Predictor.open(run.folder)
    with torch.inference_mode():
        scores = predictor.net(predictor.tensor(predictor.prepared(scan)[None]))[0].numpy()
    assert np.allclose(array(tmp_path, answer["layers"][answer["order"][-1]]["maps"]), scores, atol=1e-5)
    first = experiment.network[0].id
    other = experiment.replace(f"network.{first}.params.out_channels", 8)
    with pytest.raises(LookError, match="another network"):
        look.of_run(run.folder, other, scan, "")
    with pytest.raises(PredictError):
        look.of_run(run.folder.parent / "0-0", experiment, scan, "")
    fresh = look.untrained(experiment, scan, "", dataset)
    assert "set on 8 scans" in fresh.weights
    assert np.allclose(fresh.scans[0], subject.scans[0], atol=1e-5), "both see the scan as the training did"


def test_what_a_look_depends_on_is_told_apart_by_its_digest() -> None:
    experiment = starter()
    same = experiment.replace("name", "other").replace("training.epochs", 99)
    assert look.subject_digest(experiment) == look.subject_digest(same)
    assert look.subject_digest(experiment) != look.subject_digest(experiment.replace("data.size_px", 96))
