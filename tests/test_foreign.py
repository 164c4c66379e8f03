"""Networks of Keras and ONNX become documents and answer the same; nobody's code is run; hostile files are refused."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import h5py
import keras_twin
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from tiers import covering

from builder import foreign, keras_recognised, network, onnx_export, task
from builder.check import problems
from builder.export import untrained
from builder.foreign import ForeignError, Imported, read
from builder.foreign_child import parsed
from builder.locks import locked
from builder.predict import Predictor
from builder.recognised import KEY, Marked, hint, told
from builder.spec import Experiment, Node


def small(starter: Experiment) -> Experiment:
    """A starter with smaller scans, and with a small backbone of the same family: torch's exporter takes ten seconds
    for the real one, which one starter keeps."""
    sides = {"recognition": 32, "tumor_diagnosis": 32, "lesion_detection": 64, "image_enhancement": 24}
    found = starter.replace("data.size_px", sides[starter.task])
    if any(node.id == "backbone" for node in starter.network):
        found = found.replace("network.backbone.params.model", "test_efficientnet")
        found = found.replace("network.backbone.params.weights", "none")
    return found


HEADS = ("small-detector", "efficientnet-retinanet", "efficientnet-two-stage")
STARTERS = {e.name: small(e) for name in task.TASKS.names for e in task.find(name).starters()}


def in_a_format(first: int) -> list[Any]:
    """The starters, each kind of last layer once in `make test`: of several, one comes back from Keras and another from
    ONNX. Every layer is asked for both by tests/test_catalogue_formats.py, every starter by `make exhaustive`."""
    kinds: dict[str, list[str]] = {}
    for name, starter in STARTERS.items():
        kinds.setdefault(f"{starter.task} {starter.network[-1].name}", []).append(name)
    kept = {names[first % len(names)] for names in kinds.values()}
    return covering(STARTERS, lambda place, name: name in kept)


CLASS_SCORES = (Node(id="pool", name="global_pool"), Node(id="scores", name="class_scores"))


@pytest.fixture(scope="module")
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Predictor], dict[str, float | str]]:
    """Every starter that is asked for: as NAME/model.keras, the network behind each, and how far Keras is from it."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("foreign")
    if "PYTEST_XDIST_WORKER" in os.environ:  # workers are next to each other: the second takes what the first has made
        root = root.parent.parent / "foreign"
        root.mkdir(exist_ok=True)
    items: list[Any] = request.session.items
    asked = {item.callspec.params["name"] for item in items if _of_a_starter(item)}
    asked |= {"tiny-cnn", *HEADS}  # what other tests take
    nets = {name: untrained(experiment, root) for name, experiment in STARTERS.items() if name in asked}
    for predictor in nets.values():
        for module in predictor.net.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and not module.running_mean.any():  # type: ignore[union-attr]
                # Statistics that a folded norm shows; those of a pretrained backbone stay as they are.
                module.running_mean.uniform_(-0.1, 0.1)  # type: ignore[union-attr]
                module.running_var.uniform_(0.8, 1.2)  # type: ignore[union-attr]
    images = {name: torch.rand(2, *network.input_shape(p.experiment)) for name, p in nets.items()}
    hints = {name: told(p.experiment, len(p.classes)) for name, p in nets.items()}
    kept = root / "apart.json"
    with locked(root / "lock", wait=True):
        if kept.exists():
            return root, nets, json.loads(kept.read_text())
        of_keras = {item.callspec.params["name"] for item in items if _of_a_starter(item, "keras")}
        of_keras |= {"tiny-cnn", *HEADS}
        apart = keras_twin.asked({n: p.net for n, p in nets.items() if n in of_keras}, images, root / "keras", hints)
        for name, found in apart.items():
            if not isinstance(found, str):  # in shares of its largest score: deep networks have scores in the hundreds
                with torch.inference_mode():
                    apart[name] = found / max(1.0, float(nets[name].net(images[name]).abs().max()))
        kept.write_text(json.dumps(apart))
    return root, nets, apart


def _of_a_starter(item: Any, format: str = "") -> bool:
    return item.path == Path(__file__) and item.name.startswith(f"test_a_starter_comes_back_from_{format}")


@pytest.fixture(scope="module")
def filed(exported, tmp_path_factory) -> dict[str, dict]:
    """{text of a last layer: how Keras files it}, all of them asked in one process: each start of Keras takes five
    seconds."""
    layers = []
    for predictor in exported[1].values():
        experiment = predictor.experiment
        if experiment.network[-1].name in ("box_head", "anchor_head", "two_stage_head"):
            found = hint(told(experiment, len(predictor.classes)), experiment.data.shape)
            made = keras_recognised.alone(Marked(found)) if found is not None else None
            assert made is not None
            layers.append(made.source)
    return keras_twin.filed(layers, tmp_path_factory.mktemp("alone") / "models")


def same_answers(found: Imported, predictor: Predictor) -> float:
    """Largest difference of a score between an imported network with its weights and the one it came from, in shares of
    the largest score."""
    images = torch.rand(2, *network.input_shape(predictor.experiment), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted = predictor.net(images)
        return float((found.module()(images) - wanted).abs().max() / wanted.abs().max().clamp(min=1))


# -- round trips ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", in_a_format(0))
def test_a_starter_comes_back_from_keras_as_an_equivalent_network(name, exported, filed, monkeypatch):
    monkeypatch.setattr(keras_recognised, "filed", filed.get)
    root, nets, apart = exported
    assert not isinstance(apart[name], str) and apart[name] < 1e-4, apart[name]
    found = parsed(root / "keras" / name / "model.keras")
    assert found.missing == () and found.num_classes == 2
    assert found.experiment.data.shape == STARTERS[name].data.shape
    assert same_answers(found, nets[name]) < 1e-4  # batch norms are folded into float32 weights
    if STARTERS[name].task == found.experiment.task:  # a file does not tell what a network is for
        assert [p for p in problems(found.experiment) if p.path.startswith("network")] == []
    assert Experiment.loads(found.experiment.dumps()) == found.experiment


@pytest.mark.parametrize("name", in_a_format(1))
def test_a_starter_comes_back_from_onnx_as_an_equivalent_network(name, exported):
    root, nets, _ = exported
    place = root / "onnx" / name
    place.mkdir(parents=True)
    onnx_export.write(place, nets[name])
    found = parsed(place / "model.onnx")
    assert found.missing == () and found.num_classes == 2
    assert found.experiment.data.shape == STARTERS[name].data.shape
    assert same_answers(found, nets[name]) < 1e-4  # batch norms are folded into float32 weights


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


@pytest.mark.parametrize("name", HEADS)
def test_the_head_of_a_detector_comes_back_as_the_head_that_can_learn(name, exported, filed, monkeypatch):
    monkeypatch.setattr(keras_recognised, "filed", filed.get)
    root, nets, _ = exported
    found, before = parsed(root / "keras" / name / "model.keras"), nets[name].experiment
    assert found.experiment.task == "lesion_detection"
    assert found.experiment.network[-1].name == before.network[-1].name
    assert network.settings(found.experiment.network[-1]) == network.settings(before.network[-1])


def changed(model: onnx.ModelProto, how: str) -> None:
    """Changes the graph of a detector beyond what its hint says."""
    steps = next(t for t in model.graph.initializer if t.name.endswith("boxes.steps"))
    if how == "a constant of the head":
        steps.CopyFrom(onnx.numpy_helper.from_array(2 * onnx.numpy_helper.to_array(steps), steps.name))
    elif how == "an operator of the head":
        last = next(node for node in model.graph.node if node.output[0] == "scores")
        last.attribute[0].i = 1
    elif how == "weights that the towers share":
        towers = [n for n in model.graph.node if n.op_type == "Conv" and "towers.classification_head.conv.0.weight"
                  in n.input[1]]  # fmt: skip
        weight = next(t for t in model.graph.initializer if t.name == towers[-1].input[1])
        other = onnx.numpy_helper.from_array(1 + onnx.numpy_helper.to_array(weight), "another")
        model.graph.initializer.append(other)
        towers[-1].input[1] = "another"
    elif how == "no hint":
        del model.metadata_props[[p.key for p in model.metadata_props].index(KEY)]
    else:
        facts = json.loads(next(p.value for p in model.metadata_props if p.key == KEY))
        facts |= {"another layer": {"layer": "anchor_head"}, "no layer": {"layer": "evil"}}.get(how, {"shapes": [[1]]})
        next(p for p in model.metadata_props if p.key == KEY).value = json.dumps(facts)


@pytest.mark.parametrize(
    "how",
    ["a constant of the head", "an operator of the head", "weights that the towers share", "no hint", "another layer",
     "no layer", "other shapes"],
)  # fmt: skip
def test_a_head_that_is_not_what_the_hint_says_stays_visible_as_it_is(how, detector):
    model = onnx.load_from_string(detector.read_bytes())
    changed(model, how)
    (detector.parent / "changed.onnx").write_bytes(model.SerializeToString())
    found = parsed(detector.parent / "changed.onnx")
    unknown = {node.name for node in found.experiment.network if node.id in found.missing}
    assert unknown and all(name.startswith("ONNX ") for name in unknown)
    assert "conv2d" in {node.name for node in found.experiment.network}
    named = {p.path for p in problems(found.experiment)}
    assert {f"network.{id}" for id in found.missing} & {path.rsplit(".name", 1)[0] for path in named}


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest detector as ONNX."""
    place = tmp_path_factory.mktemp("detector")
    maps = Node(id="maps", name="conv2d", params={"out_channels": 4, "stride": 2})
    finer = Node(id="finer", name="conv2d", params={"out_channels": 4, "stride": 2})
    head = Node(id="boxes", name="box_head", params={"hidden": 32, "num_convs": 1}, inputs=("maps", "finer"))
    experiment = Experiment(task="lesion_detection", network=(maps, finer, head)).replace("data.size_px", 16)
    onnx_export.write(place, untrained(experiment, place))
    found = parsed(place / "model.onnx")
    assert found.missing == () and found.experiment.network[-1].name == "box_head"
    return place / "model.onnx"


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


def test_a_graph_that_takes_whole_numbers_is_told_to_have_to_learn_again(tmp_path):
    nodes = [helper.make_node("Cast", ["x"], ["a"], to=TensorProto.FLOAT), helper.make_node("Relu", ["a"], ["y"])]
    model = graph(nodes, [])
    for kind, notes in ((TensorProto.UINT8, 1), (TensorProto.FLOAT, 0)):
        model.graph.input[0].type.tensor_type.elem_type = kind
        (tmp_path / "theirs.onnx").write_bytes(model.SerializeToString())
        found = parsed(tmp_path / "theirs.onnx")
        assert [n.name for n in found.experiment.network] == ["relu"] and len(found.notes) == notes
        assert all("whole numbers" in note for note in found.notes)


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
