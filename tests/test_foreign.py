"""Networks of Keras and ONNX become documents and answer the same; nobody's code is run; hostile files are refused."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path

import h5py
import keras_twin
import little_run
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from builder import foreign, network, onnx_export
from builder.check import problems
from builder.export import untrained
from builder.foreign import ForeignError, Imported, read
from builder.foreign_child import parsed
from builder.predict import Predictor
from builder.spec import Experiment, Node

SIDES = {"recognition": 32, "tumor_diagnosis": 64}
STARTERS = {
    e.name: e.replace("data.size_px", px) for t, px in SIDES.items() for e in little_run.task.find(t).starters()
}


CLASS_SCORES = (Node(id="pool", name="global_pool"), Node(id="scores", name="class_scores"))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Predictor], dict[str, float | str]]:
    """Every starter as NAME/model.keras and NAME.onnx, the network behind it, and how far Keras is from it."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("foreign")
    nets = {name: untrained(experiment, root) for name, experiment in STARTERS.items()}
    for predictor in nets.values():
        for module in predictor.net.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                module.running_mean.uniform_(-0.1, 0.1)
                module.running_var.uniform_(0.8, 1.2)  # type: ignore[union-attr]
    images = {name: torch.rand(2, *network.input_shape(e)) for name, e in STARTERS.items()}
    apart = keras_twin.asked({name: p.net for name, p in nets.items()}, images, root / "keras")
    for name, found in apart.items():
        if not isinstance(found, str):  # in shares of its largest score: those of a deep network can be in the hundreds
            with torch.inference_mode():
                apart[name] = found / max(1.0, float(nets[name].net(images[name]).abs().max()))
    return root, nets, apart


def same_answers(found: Imported, predictor: Predictor) -> float:
    """Largest difference of a score between an imported network with its weights and the one it came from, in shares of
    the largest score."""
    images = torch.rand(2, *network.input_shape(predictor.experiment))
    with torch.inference_mode():
        wanted = predictor.net(images)
        return float((found.module()(images) - wanted).abs().max() / wanted.abs().max().clamp(min=1))


# -- round trips ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STARTERS)
def test_a_starter_comes_back_from_keras_as_an_equivalent_network(name, exported):
    root, nets, apart = exported
    assert not isinstance(apart[name], str) and apart[name] < 1e-4, apart[name]
    found = parsed(root / "keras" / name / "model.keras")
    assert found.missing == () and found.num_classes == 2
    assert found.experiment.data.shape == STARTERS[name].data.shape
    assert same_answers(found, nets[name]) < 1e-3  # batch norms are folded into float32 weights
    if STARTERS[name].task == found.experiment.task:  # a file does not tell what a network is for
        assert [p for p in problems(found.experiment) if p.path.startswith("network")] == []
    assert Experiment.loads(found.experiment.dumps()) == found.experiment


@pytest.mark.parametrize("name", STARTERS)
def test_a_starter_comes_back_from_onnx_as_an_equivalent_network(name, exported):
    root, nets, _ = exported
    place = root / "onnx" / name
    place.mkdir(parents=True)
    onnx_export.write(place, nets[name])
    found = parsed(place / "model.onnx")
    assert found.missing == () and found.num_classes == 2
    assert found.experiment.data.shape == STARTERS[name].data.shape
    assert same_answers(found, nets[name]) < 1e-3  # batch norms are folded into float32 weights


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
def test_a_picture_that_is_made_larger_comes_back_from_onnx(mode, align, tmp_path):
    if mode == "nearest" and align:
        return
    params = {"scale_factor": 3, "mode": mode, "align_corners": align}
    nodes = [
        Node(id="up", name="upsample", params=params),
        Node(id="norm", name="group_norm", params={"num_groups": 1}),
    ]
    predictor = untrained(Experiment(network=(*nodes, *CLASS_SCORES)).replace("data.size_px", 16), tmp_path)
    with torch.no_grad():
        for values in predictor.net.parameters():
            values.add_(torch.rand_like(values))
    onnx_export.write(tmp_path, predictor)
    found = parsed(tmp_path / "model.onnx")
    made = next(node for node in found.experiment.network if node.name == "upsample")
    assert found.missing == () and made.params.get("mode", "nearest") == mode
    assert bool(made.params.get("align_corners")) is align and same_answers(found, predictor) < 1e-4
    assert [node.params for node in found.experiment.network if node.name == "group_norm"] == [{"num_groups": 1}]


def test_a_detector_comes_back_with_what_the_catalog_lacks_left_visible(tmp_path):
    starter = next(e for e in little_run.task.find("lesion_detection").starters() if e.name == "small-detector")
    onnx_export.write(tmp_path, untrained(starter.replace("data.size_px", 64), tmp_path))
    found = parsed(tmp_path / "model.onnx")
    unknown = {node.name for node in found.experiment.network if node.id in found.missing}
    assert unknown and all(name.startswith("ONNX ") for name in unknown)
    assert {"conv2d", "batch_norm", "group_norm"} & {node.name for node in found.experiment.network}
    named = {p.path for p in problems(found.experiment)}
    assert {f"network.{id}" for id in found.missing} & {path.rsplit(".name", 1)[0] for path in named}


def test_a_file_is_read_in_a_process_of_its_own_and_its_weights_come_along(exported, tmp_path):
    root, nets, _ = exported
    found = read(root / "keras" / "tiny-cnn" / "model.keras")
    assert same_answers(found, nets["tiny-cnn"]) < 1e-6
    found.save_weights(tmp_path / "weights.safetensors")
    from safetensors.numpy import load_file

    assert set(load_file(tmp_path / "weights.safetensors")) == set(found.tensors)


# -- models that others made ------------------------------------------------------------------------------------------


def layer(kind: str, name: str, **config: object) -> dict:
    """A layer of a Sequential config."""
    return {"module": "keras.layers", "class_name": kind, "config": {"name": name, **config}, "name": name}


def sequential(*layers: dict, shape: tuple[int | None, ...] = (None, 20, 20, 1)) -> dict:
    """The config of a Sequential model, channels last as Keras has it."""
    first = layer("InputLayer", "scan", batch_shape=list(shape))
    return {"module": "keras", "class_name": "Sequential", "config": {"name": "theirs", "layers": [first, *layers]}}


CHANNELS_LAST = sequential(
    layer("Conv2D", "c", filters=4, kernel_size=[3, 3], strides=[2, 2], padding="same", data_format="channels_last",
          activation="relu", use_bias=True),
    layer("MaxPooling2D", "m", pool_size=[3, 3], strides=[2, 2], padding="same", data_format="channels_last"),
    layer("Flatten", "f", data_format="channels_last"),
    layer("Dropout", "d", rate=0.5),
    layer("Dense", "out", units=3, activation="softmax", use_bias=True),
)  # fmt: skip


def keras_file(path: Path, config: dict, arrays: dict[str, list[np.ndarray]]) -> Path:
    """A .keras file with these arrays below layers/KEY/vars."""
    packed = io.BytesIO()
    with h5py.File(packed, "w") as stored:
        for key, values in arrays.items():
            for k, value in enumerate(values):
                stored[f"layers/{key}/vars/{k}"] = value
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", packed.getvalue())
    return path


def test_a_model_with_channels_last_gives_the_same_numbers_channels_first(tmp_path):
    random = np.random.default_rng(0)
    kernel, bias = random.normal(size=(3, 3, 1, 4)).astype(np.float32), random.normal(size=4).astype(np.float32)
    dense, last = random.normal(size=(100, 3)).astype(np.float32), random.normal(size=3).astype(np.float32)
    file = keras_file(tmp_path / "theirs.keras", CHANNELS_LAST, {"conv2d": [kernel, bias], "dense": [dense, last]})
    found = parsed(file)
    assert found.missing == ()
    assert [n.name for n in found.experiment.network] == [
        *("border", "conv2d", "relu", "border", "max_pool", "flatten", "dropout", "linear", "softmax")
    ]
    image = random.random((1, 20, 20, 1)).astype(np.float32)
    # What TensorFlow computes, by hand: "same" puts the odd row of zeros behind.
    x = torch.from_numpy(image).permute(0, 3, 1, 2)
    x = torch.nn.functional.pad(x, (0, 1, 0, 1))
    x = torch.conv2d(x, torch.from_numpy(kernel).permute(3, 2, 0, 1), torch.from_numpy(bias), 2).relu()
    x = torch.nn.functional.pad(x, (0, 1, 0, 1), value=-torch.inf)
    x = torch.max_pool2d(x, 3, 2).permute(0, 2, 3, 1).flatten(1)
    wanted = (x @ torch.from_numpy(dense) + torch.from_numpy(last)).softmax(1)
    with torch.inference_mode():
        ours = found.module()(torch.from_numpy(image).permute(0, 3, 1, 2))
    assert torch.allclose(ours, wanted, atol=1e-6)


def test_what_has_no_layer_here_stays_visible_under_its_name_and_the_check_tells():
    evil = {"class_name": "__lambda__", "config": {"code": "4wEAAAAAAAAA", "defaults": None, "closure": None}}
    config = sequential(
        layer("Lambda", "trick", function=evil),
        {**layer("Fancy", "own"), "module": "somebody.package", "registered_name": "Custom>Fancy"},
        layer("GlobalAveragePooling2D", "pool", keepdims=False),
        layer("Dense", "out", units=2, activation="linear", use_bias=True),
    )
    place = json.dumps(config).encode()
    from builder.keras_import import from_config

    found = from_config(place, {})
    assert [found.experiment.at(f"network.{id}").name for id in found.missing[:2]] == ["Keras Lambda", "Keras Fancy"]
    told = [p.message for p in problems(found.experiment) if p.path.startswith("network.trick")]
    assert any("Keras Lambda" in words for words in told)
    with pytest.raises(ValueError, match="Keras Lambda"):
        found.module()


def graph(nodes: list, weights: list, shape: tuple[int | str, ...] = ("N", 1, 16, 16)) -> onnx.ModelProto:
    """An ONNX model from x to y."""
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))
    told = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    return helper.make_model(helper.make_graph(nodes, "theirs", [given], [told], weights))


def test_an_operator_that_has_no_layer_here_stays_visible(tmp_path):
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Einsum", ["a"], ["y"], equation="bchw->bhwc")]
    (tmp_path / "theirs.onnx").write_bytes(graph(nodes, []).SerializeToString())
    found = parsed(tmp_path / "theirs.onnx")
    assert [n.name for n in found.experiment.network] == ["relu", "ONNX Einsum"] and len(found.missing) == 1
    assert "Einsum" in found.notes[0]


# -- hostile files ----------------------------------------------------------------------------------------------------


def refused(file: Path, words: str) -> None:
    """Asserts that a file is refused in these words."""
    with pytest.raises(ForeignError, match=words) as error:
        parsed(file)
    assert "Traceback" not in str(error.value)


def test_weights_in_another_file_are_never_read(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(os.urandom(64))
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4, 4])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="secret")
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    (tmp_path / "theirs.onnx").write_bytes(graph([node], [tensor]).SerializeToString())
    refused(tmp_path / "theirs.onnx", "another file, which is never read")


def test_huge_numbers_are_refused_before_anything_is_made_of_them(tmp_path):
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2**40, 2**40])
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    (tmp_path / "wide.onnx").write_bytes(graph([node], [tensor]).SerializeToString())
    refused(tmp_path / "wide.onnx", "more than 500,000,000 weights")
    relu = helper.make_node("Relu", ["x"], ["y"])
    (tmp_path / "large.onnx").write_bytes(graph([relu], [], ("N", 1, 2**40, 2**40)).SerializeToString())
    refused(tmp_path / "large.onnx", "must lie between|size")
    config = sequential(layer("Dense", "d", units=10**12, use_bias=True), shape=(None, 16, 16, 1))
    (tmp_path / "wide.json").write_text(json.dumps(config))
    assert parsed(tmp_path / "wide.json").missing == ("d",)


def test_a_zip_bomb_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", json.dumps(sequential()))
        archive.writestr("model.weights.h5", bytes(300_000_000))
    refused(tmp_path / "bomb.keras", "far more than it holds")


def test_a_weight_behind_a_link_to_another_file_is_not_followed(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["vars/0"] = np.ones((100, 3), np.float32)
    packed = io.BytesIO()
    with h5py.File(packed, "w") as stored:
        stored["layers/dense"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/")
    with zipfile.ZipFile(tmp_path / "theirs.keras", "w") as archive:
        archive.writestr("config.json", json.dumps(CHANNELS_LAST))
        archive.writestr("model.weights.h5", packed.getvalue())
    assert parsed(tmp_path / "theirs.keras").tensors == {}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x80\x04\x95 a pickle", "could run code"),
        (b"\x89HDF\r\n\x1a\n", "save the model as .keras"),
        (b"{not json", "no valid JSON"),
        (b'{"class_name": "Functional", "config": {}}', "no Functional or Sequential"),
        (b"[" * 100_000, "neither a Keras model nor an ONNX graph"),
        (b"PK\3\4 broken", "damaged"),
        (b"", "neither a Keras model nor an ONNX graph"),
    ],
)
def test_what_is_no_network_is_refused_in_words(data, words, tmp_path):
    (tmp_path / "file").write_bytes(data)
    refused(tmp_path / "file", words)


def test_layers_in_a_circle_and_strange_inputs_are_refused(tmp_path):
    history = {"class_name": "__keras_tensor__", "config": {"keras_history": ["b", 0, 0]}}
    ring = [
        layer("InputLayer", "scan", batch_shape=[None, 8, 8, 1]),
        {**layer("ReLU", "a"), "inbound_nodes": [{"args": [history]}]},
        {**layer("ReLU", "b"), "inbound_nodes": [{"args": [{**history, "config": {"keras_history": ["a", 0, 0]}}]}]},
    ]
    config = {"class_name": "Functional", "config": {"name": "ring", "layers": ring}}
    (tmp_path / "ring.json").write_text(json.dumps(config))
    refused(tmp_path / "ring.json", "in a circle")
    odd: dict[tuple[int | None, ...], str] = {
        (None, 16, 17, 1): "only square",
        (None, None, None, 1): "size of its scans",
        (None, 16, 16, 7): "7 channels",
    }
    for shape, words in odd.items():
        (tmp_path / "odd.json").write_text(json.dumps(sequential(layer("ReLU", "r"), shape=shape)))
        refused(tmp_path / "odd.json", words)


def test_a_child_that_runs_out_of_memory_or_time_is_told_in_words(exported, monkeypatch):
    root, *_ = exported
    monkeypatch.setattr(foreign, "_MEMORY_BYTES", 200 << 20)
    with pytest.raises(ForeignError, match="limits|memory"):
        read(root / "keras" / "tiny-cnn" / "model.keras")
