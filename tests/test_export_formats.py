"""Keras, ONNX, torch.export, the document and the drawing: each proven, each refusing by name what it cannot carry."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import keras_twin
import little_run
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from builder import keras_export, network, onnx_export
from builder.data import Dataset
from builder.export import ExportError, export, unsupported, untrained
from builder.runs import Run
from builder.scan import Scan, Window
from builder.spec import Experiment, Node
from builder.tracing import trace


@pytest.fixture(scope="module")
def little(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Dataset, Run]:
    home = tmp_path_factory.mktemp("formats") / "home"
    return home, *little_run.little(home)


def taken(what: Run | Experiment, home: Path, to: str, out: Path) -> tuple[Path, dict]:
    """The unpacked zip of an export, and its proof."""
    file = export(what, home, to, out)
    with zipfile.ZipFile(file) as packed:
        packed.extractall(out / "taken")
    folder = out / "taken" / file.stem
    return folder, json.loads((folder / "parity.json").read_text())


def small(*nodes: Node, size_px: int = 16) -> Experiment:
    """An experiment with these layers and class scores below them."""
    experiment = little_run.starter().replace("data.size_px", size_px)
    return experiment.model_copy(update={"network": (*nodes, Node(id="scores", name="class_scores"))})


# -- each format, of a run --------------------------------------------------------------------------------------------


def test_keras_gets_readable_code_weights_and_a_proof_on_real_scans(little, tmp_path):
    home, _, run = little
    folder, proof = taken(run, home, "keras", tmp_path)
    names = {file.name for file in folder.iterdir()}
    assert {"model.py", "model.keras", "model.weights.h5", "predict.py", "experiment.json", "README.md"} <= names
    assert "weights.npz" not in names
    assert proof["cases"] == 16 and proof["source"] == "scans of the data set"
    assert proof["difference"]["input"] == 0 and 0 <= proof["difference"]["probabilities"] <= 1e-4
    source = (folder / "model.py").read_text()
    assert 'name="class_scores_1")(dropout_1)' in source and "builder" not in source
    layers = [line for line in source.splitlines() if "layers." in line and " = " in line]
    assert len(layers) >= len(run.experiment.network) - 1


def test_onnx_goes_from_grey_values_to_probabilities_by_itself(little, tmp_path):
    home, dataset, run = little
    folder, proof = taken(run, home, "onnx", tmp_path)
    assert proof["difference"]["input"] == 0
    assert proof["difference"]["probabilities"] <= 1e-4 and proof["difference"]["from_grey_values"] <= 1e-4
    model = onnx.load(folder / "model.onnx")
    facts = {p.key: json.loads(p.value) for p in model.metadata_props if p.key.startswith("scanloom.")}
    assert facts["scanloom.classes"] == list(dataset.classes)
    assert [i.name for i in model.graph.input] == ["pixels", "window", "aspect"]
    assert model.graph.output[0].type.tensor_type.shape.dim[0].dim_param


def test_a_torch_export_program_answers_without_model_code(little, tmp_path):
    home, dataset, run = little
    folder, proof = taken(run, home, "torch-export", tmp_path)
    assert proof["difference"]["probabilities"] <= 1e-5
    net = torch.export.load(folder / "network.pt2").module()
    for count in (1, 3):
        assert net(torch.rand(count, 1, 32, 32)).shape == (count, len(dataset.classes))


def test_the_document_reads_back_and_the_drawing_shows_every_layer(little, tmp_path):
    home, _, run = little
    folder, proof = taken(run, home, "document", tmp_path / "document")
    assert proof["difference"] == {}
    assert Experiment.loads((folder / "experiment.json").read_bytes()).digest == run.experiment.digest
    folder, _ = taken(run, home, "svg", tmp_path / "svg")
    drawn = ElementTree.fromstring((folder / "network.svg").read_text())
    words = " ".join(drawn.itertext())
    assert all(node.id in words for node in run.experiment.network)
    assert len(drawn.findall(".//{*}rect[@class='layer']")) == len(run.experiment.network) + 1


def test_a_network_that_is_not_trained_is_exported_with_the_weights_a_training_begins_with(tmp_path):
    experiment = small(Node(id="conv", name="conv2d"), Node(id="pool", name="global_pool"))
    folder, proof = taken(experiment, tmp_path / "home", "onnx", tmp_path / "out")
    assert proof["source"] == "random pictures (no data set is chosen)" and proof["difference"]["probabilities"] <= 1e-4
    assert "not trained" in (folder / "README.md").read_text()
    begun = network.assemble_of(experiment, 2, seed=experiment.training.seed)
    ours = untrained(experiment, tmp_path / "home").net
    assert all(torch.equal(a, b) for a, b in zip(begun.state_dict().values(), ours.state_dict().values(), strict=True))


def test_an_export_that_differs_is_withheld(little, tmp_path, monkeypatch):
    home, _, run = little
    honest = onnx_export.predict_source
    monkeypatch.setattr(
        onnx_export, "predict_source", lambda *a, **k: honest(*a, **k).replace("low, high]", "low, high * 1.1]")
    )
    with pytest.raises(ExportError, match="answers differently"):
        export(run, home, "onnx", tmp_path)
    assert not list(tmp_path.iterdir())


# -- the preparation inside the ONNX graph ----------------------------------------------------------------------------


@pytest.mark.parametrize("fit", ["pad", "stretch", "crop"])
def test_the_graph_prepares_scans_of_any_size_exactly_as_the_app_does(fit, tmp_path):
    experiment = small(Node(id="pool", name="global_pool"), size_px=24).replace("data.fit", fit)
    predictor = untrained(experiment, tmp_path)
    onnx_export.write(tmp_path, predictor)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    random = np.random.default_rng(0)
    for height, width, aspect in [
        (24, 24, 1.0),
        (70, 50, 1.0),
        (13, 90, 1.0),
        (10, 7, 1.0),
        (65, 41, 2.5),
        (200, 201, 0.4),
    ]:
        pixels = random.integers(-1000, 1500, (1, 1, height, width)).astype(np.int16)
        spacing = (None, aspect, 1.0)
        for photometric in ("MONOCHROME2", "MONOCHROME1"):
            scan = Scan(pixels, photometric=photometric, bits=16, spacing_mm=spacing, windows=(Window(40.0, 401.0),))
            ends = (-160.5, 239.5) if photometric == "MONOCHROME2" else (239.5, -160.5)
            image, answer = session.run(
                ["image", "probabilities"],
                {"pixels": pixels.astype(np.float32), "window": np.array(ends), "aspect": np.array([aspect])},
            )
            ours = predictor.prepared(scan)
            # Inverting rounds once more or once less than the app; a whole step of grey may then turn.
            steps = np.abs(image[0] - ours) * predictor.unit
            assert (steps > 0.5).mean() < (0.001 if photometric == "MONOCHROME2" else 0.01), (height, width)
            assert np.abs(answer - predictor.probabilities(ours[None])).max() < 1e-4


# -- what cannot be carried is named before the click -----------------------------------------------------------------


class Odd(nn.Module):
    """Something that no format has."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.digamma()


def test_a_layer_that_a_format_cannot_carry_is_named_with_the_operator():
    net = nn.ModuleDict({"fine": nn.ReLU(), "odd": Odd()})

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = net

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layers["odd"](self.layers["fine"](x))

    with torch.device("meta"):
        program = trace(Whole().eval(), (4, 8), "meta")
    for target in (keras_export, onnx_export):
        found = dict(target.unsupported(program))
        assert set(found) == {"odd"} and "digamma" in found["odd"], target


def test_a_layer_that_onnx_lacks_is_told_and_the_export_refused_before_anything_is_written(tmp_path):
    experiment = small(
        Node(id="shrink", name="adaptive_pool", params={"size": 5, "kind": "maximum"}),
        Node(id="pool", name="global_pool"),
    )
    (problem,) = unsupported(experiment, "onnx")
    assert problem.path == "network.shrink" and "adaptive_max_pool2d" in problem.message
    assert not unsupported(experiment, "keras") and not unsupported(experiment, "torch-export")
    with pytest.raises(ExportError, match="shrink"):
        export(experiment, tmp_path, "onnx", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_network_that_does_not_fit_together_is_refused_in_its_own_words(tmp_path):
    broken = small(Node(id="far", name="conv2d", params={"kernel_size": 31, "padding": 0}))
    (problem, *_) = unsupported(broken, "keras")
    assert problem.path == "network.far" and "window spans" in problem.message
    with pytest.raises(ExportError, match="window spans"):
        export(broken, tmp_path, "keras", tmp_path / "out")
    with pytest.raises(ExportError, match="no export to 'caffe'"):
        unsupported(broken, "caffe")


# -- operators --------------------------------------------------------------------------------------------------------


class Last(nn.Module):
    """First step and last states of a recurrent layer."""

    def __init__(self, layer: nn.Module, ways: int):
        super().__init__()
        self.layer, self.ways = layer, ways

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out, state = self.layer(x)
        state = state[0] if isinstance(state, tuple) else state
        return torch.cat([out[:, 0], *(state[-k] for k in range(1, self.ways + 1))], dim=1)


class Tokens(nn.Module):
    """A class token, positions, layer scale and a transformer block."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.place = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 7, 8))
        self.scale = nn.Parameter(torch.randn(8))
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.place
        return self.block(x * self.scale)[:, 0]


def operators() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """Networks that together use most operators of the table, with the shape of one scan."""
    line = nn.Sequential
    return {
        "convolutions": (
            line(
                nn.Conv2d(4, 8, 3, stride=2, dilation=2, padding=1, groups=2),
                nn.PReLU(8),
                nn.Conv2d(8, 16, 3, groups=8, padding=1),
                nn.ConvTranspose2d(16, 4, 3, 2, 1, 1),
                nn.Mish(),
                nn.Hardswish(),
                nn.PixelShuffle(2),
                nn.Upsample(scale_factor=2),
                nn.UpsamplingBilinear2d(scale_factor=1.5),
                nn.AdaptiveAvgPool2d(5),
                nn.GroupNorm(1, 1),
                nn.InstanceNorm2d(1, affine=True),
            ),
            (4, 13, 13),
        ),
        "pools": (
            line(
                nn.MaxPool2d(3, 2, 1, ceil_mode=True),
                nn.AvgPool2d(3, 2, 1),
                nn.AvgPool2d(3, 1, 1, count_include_pad=False),
                nn.AdaptiveMaxPool2d(2),
                nn.Dropout2d(0.2),
                nn.Flatten(),
                nn.ELU(0.5),
                nn.LeakyReLU(0.2),
                nn.GELU(),
                nn.SiLU(),
                nn.Softmax(1),
            ),
            (3, 22, 22),
        ),
        "sequence": (line(nn.Conv1d(3, 4, 3, 2, 1), nn.BatchNorm1d(4), nn.MaxPool1d(2), nn.Flatten()), (3, 17)),
        "volume": (
            line(nn.Conv3d(2, 4, 3, 2, 1), nn.BatchNorm3d(4), nn.ConvTranspose3d(4, 2, 2, 2), nn.MaxPool3d(2)),
            (2, 9, 16, 16),
        ),
        "lstm": (Last(nn.LSTM(5, 4, 2, batch_first=True, bidirectional=True), 2), (6, 5)),
        "gru": (Last(nn.GRU(5, 4, batch_first=True, bidirectional=True), 2), (6, 5)),
        "rnn": (Last(nn.RNN(5, 4, nonlinearity="relu", bias=False, batch_first=True), 1), (6, 5)),
        "tokens": (Tokens(), (6, 8)),
        "borders": (
            line(nn.ReflectionPad2d(1), nn.ZeroPad2d((1, 2, 0, 1)), nn.Softplus(), nn.Hardsigmoid()),
            (3, 5, 5),
        ),
    }


def unsettled(net: nn.Module) -> nn.Module:
    """The network with running statistics that are not 0 and 1."""
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
            module.running_mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    return net.eval()


def test_keras_answers_as_torch_does_for_operators(tmp_path):
    torch.manual_seed(0)
    nets = {name: unsettled(net) for name, (net, _) in operators().items()}
    images = {name: torch.rand(3, *shape) for name, (_, shape) in operators().items()}
    found = keras_twin.asked(nets, images, tmp_path)
    assert {name: told for name, told in found.items() if isinstance(told, str) or not told < 1e-4} == {}
    assert set(found) == set(nets)


def test_onnx_answers_as_torch_does_for_recurrent_layers_and_attention():
    torch.manual_seed(0)
    for name in ("gru", "tokens"):
        net, shape = operators()[name]
        images = torch.rand(3, *shape)
        made = torch.onnx.export(trace(net.eval(), shape), dynamo=True, verbose=False)
        assert made is not None
        session = onnxruntime.InferenceSession(made.model_proto.SerializeToString())
        answer = session.run(None, {session.get_inputs()[0].name: images.numpy()})[0]
        with torch.inference_mode():
            assert np.abs(answer - net(images).numpy()).max() < 1e-4, name


def test_the_drawing_escapes_what_people_type_and_marks_what_is_wrong():
    from builder.drawing import network_svg

    nodes = (
        Node(id="a", name="conv2d"),
        Node(id="b", name="no such <layer>"),
        Node(id="c", name="add", inputs=("a", "input")),
    )
    experiment = small(*nodes).model_copy(update={"name": '<script>"&'})
    text = network_svg(experiment, 2)
    assert "<script>" not in text and "no such &lt;layer&gt;" in text
    ElementTree.parse(io.StringIO(text))
    assert text.count('class="wrong"') >= 2
