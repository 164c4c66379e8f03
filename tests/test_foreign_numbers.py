"""A network of another tool gives the numbers that its own tool gives, or tells which of its layers it cannot have."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from builder import foreign, network, weights
from builder.foreign import Imported
from builder.foreign_child import parsed


def made(name: str, *shape: int, seed: int = 0) -> TensorProto:
    """A weight of this name, drawn at random."""
    return numpy_helper.from_array(np.random.default_rng(seed).normal(0, 0.4, shape).astype(np.float32), name)


def graph(nodes: list, tensors: list, shape: tuple[int, ...] = (1, 16, 16), opset: int = 20) -> onnx.ModelProto:
    """An ONNX model from x to y."""
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape])
    told = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    whole = helper.make_graph(nodes, "theirs", [given], [told], tensors)
    return helper.make_model(whole, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def apart(model: onnx.ModelProto, place: Path, shape: tuple[int, ...] = (1, 16, 16)) -> tuple[Imported, float]:
    """(what is taken in, largest difference from onnxruntime's answer, 0 where a layer is told to be missing)."""
    (place / "theirs.onnx").write_bytes(model.SerializeToString())
    found = parsed(place / "theirs.onnx")
    if found.missing:
        return found, 0.0
    scans = np.random.default_rng(1).normal(size=(2, *shape)).astype(np.float32)
    (theirs,) = onnxruntime.InferenceSession(model.SerializeToString()).run(["y"], {"x": scans})
    with torch.inference_mode():
        ours = found.module()(torch.from_numpy(scans)).numpy()
    assert ours.shape == theirs.shape
    return found, float(np.abs(ours - theirs).max())


def node(kind: str, feeds: str, told: str = "y", **settings: Any) -> onnx.NodeProto:
    """A node that reads the values named in `feeds`, with spaces between them."""
    return helper.make_node(kind, feeds.split(), [told], **settings)


FLAT, CONV = node("Flatten", "x", "f"), node("Conv", "x k", "c", pads=[1, 1, 1, 1])
KERNEL, MATRIX, VECTOR = made("k", 3, 1, 3, 3), made("w", 256, 4), made("b", 4)
NORM = [numpy_helper.from_array(np.full(3, v, np.float32), n) for n, v in zip("gbmv", (1, 0.2, 0.1, 0.7), strict=True)]


@pytest.mark.parametrize(
    ("nodes", "weights", "opset", "missing"),
    [
        pytest.param(
            [CONV, node("Sigmoid", "c", "s"), node("Mul", "c s", "z"), node("Add", "z s")], [KERNEL], 20, "",
            id="a sigmoid that something else reads too",
        ),
        pytest.param(
            [FLAT, node("MatMul", "f w", "m"), node("Add", "m b", "a"), node("Mul", "a m")],
            [MATRIX, VECTOR], 20, "Add",
            id="a product that something else reads too",
        ),
        pytest.param([CONV, node("Selu", "c", alpha=0.3)], [KERNEL], 20, "Selu", id="a SELU with a slope of its own"),
        pytest.param([CONV, node("Selu", "c")], [KERNEL], 20, "", id="a plain SELU"),
        pytest.param([CONV, node("Softmax", "c", axis=1)], [KERNEL], 11, "Softmax", id="an old softmax of a picture"),
        pytest.param([CONV, node("Softmax", "c", axis=1)], [KERNEL], 13, "", id="a softmax of a picture"),
        pytest.param(
            [FLAT, node("MatMul", "f w", "m"), node("Softmax", "m")], [MATRIX], 11, "", id="an old softmax of a vector"
        ),
        pytest.param(
            [CONV, node("PRelu", "c q")], [made("k", 16, 1, 3, 3), made("q", 16)], 20, "PRelu",
            id="a slope for every column, as many as channels",
        ),
        pytest.param(
            [node("Sqrt", "h", "r"), CONV, node("Add", "c r")],
            [KERNEL, numpy_helper.from_array(np.asarray(2, np.float32), "h")], 20, "Add",
            id="a sum with a constant that is computed",
        ),
    ],
)  # fmt: skip
def test_a_graph_gives_onnxruntimes_numbers_or_tells_what_is_missing(nodes, weights, opset, missing, tmp_path):
    found, off = apart(graph(nodes, weights, opset=opset), tmp_path)
    assert off < 1e-5
    names = [found.experiment.at(f"network.{id}").name for id in found.missing]
    assert names == ([f"ONNX {missing}"] if missing else []) or names[:1] == [f"ONNX {missing}"]


@pytest.mark.parametrize("training", [0, 1])
def test_a_batch_norm_in_training_is_not_taken_for_one_at_rest(training, tmp_path):
    nodes = [CONV, node("BatchNormalization", "c g b m v", training_mode=training)]
    found, off = apart(graph(nodes, [KERNEL, *NORM]), tmp_path)
    assert off < 1e-5 and bool(found.missing) == bool(training)


def test_a_product_that_is_an_output_too_keeps_its_numbers(tmp_path):
    model = graph([FLAT, node("MatMul", "f w", "m"), node("Add", "m b", "y")], [MATRIX, VECTOR])
    model.graph.output.append(helper.make_tensor_value_info("m", TensorProto.FLOAT, None))
    found, _ = apart(model, tmp_path)
    assert found.missing


def drawn(seed: int) -> onnx.ModelProto:
    """A random graph: pictures through windows, norms, activations and joins, mostly to a vector at the end."""
    random = np.random.default_rng(seed)
    opset = int(random.choice([11, 13, 20, 20]))
    new = ["Mish", "HardSwish"] if opset == 20 else []
    nodes: list[onnx.NodeProto] = []
    weights: list[TensorProto] = []
    values: dict[tuple[int, ...], list[str]] = {(1, 16, 16): ["x"]}
    here = "x"
    shape: tuple[int, ...] = (1, 16, 16)

    def array(*sizes: int, positive: bool = False) -> str:
        numbers = random.normal(0, 0.5, sizes).astype(np.float32)
        weights.append(numpy_helper.from_array(np.abs(numbers) + 0.3 if positive else numbers, f"w{len(weights)}"))
        return weights[-1].name

    def step(kind: str, *feeds: str, **settings: Any) -> str:
        nodes.append(helper.make_node(kind, list(feeds), [f"v{len(nodes)}"], **settings))
        return nodes[-1].output[0]

    for _ in range(int(random.integers(4, 12))):
        kind = str(random.choice(["window", "norm", "plain", "plain", "join", "pool", "settings", "softmax", "flat"]))
        channels = shape[0]
        if kind == "window" and len(shape) == 3:
            channels = int(random.integers(1, 5)) * 2
            here = step("Conv", here, array(channels, shape[0], 3, 3), array(channels), pads=[1, 1, 1, 1])
        elif kind == "window":
            channels = int(random.integers(2, 9))
            here = step("MatMul", here, array(shape[0], channels))
            values.setdefault((channels,), []).append(here)
            here = step("Add", here, array(channels)) if random.random() < 0.7 else here
        elif kind == "norm":
            names = [array(channels, positive=k in (0, 3)) for k in range(4)]
            training = {"training_mode": 0} if opset == 20 else {}
            here = step("BatchNormalization", here, *names, epsilon=float(random.choice([1e-5, 1e-3])), **training)
        elif kind == "plain":
            here = step(str(random.choice(["Relu", "Sigmoid", "Tanh", "Identity", *new])), here)
        elif kind == "settings":
            chosen = str(random.choice(["Elu", "LeakyRelu", "Selu", "Clip", "PRelu", *(["Gelu"] if new else [])]))
            if chosen in ("Elu", "LeakyRelu", "Selu"):
                here = step(chosen, here, **({"alpha": 0.3} if random.random() < 0.5 else {}))
            elif chosen == "Gelu":
                here = step("Gelu", here, approximate=str(random.choice(["none", "tanh"])))
            elif chosen == "PRelu":
                sizes = [(channels, *[1] * (len(shape) - 1)), shape[-1:]]
                here = step("PRelu", here, array(*sizes[int(random.integers(2))]))
            else:
                low, high = (numpy_helper.from_array(np.asarray(v, np.float32), f"l{len(nodes)}{v}") for v in (0, 6))
                weights.extend([low, high])
                here = step("Clip", here, low.name, high.name)
        elif kind == "join" and values.get(shape):
            other = str(random.choice(values[shape]))
            if random.random() < 0.4:
                values[shape].append(other := step("Sigmoid", here))
            here = step(str(random.choice(["Add", "Mul"])), here, other)
        elif kind == "pool" and len(shape) == 3 and shape[1] >= 4:
            here = step(str(random.choice(["MaxPool", "AveragePool"])), here, kernel_shape=[2, 2], strides=[2, 2])
            shape = (channels, shape[1] // 2, shape[2] // 2)
        elif kind == "softmax":
            here = step("Softmax", here, axis=int(random.choice([1, 1, -1])))
        elif kind == "flat" and len(shape) == 3 and random.random() < 0.5:
            here = step("Flatten", here)
            shape, channels = (int(np.prod(shape)),), int(np.prod(shape))
        shape = (channels, *shape[1:])
        values.setdefault(shape, []).append(here)
    nodes.append(helper.make_node("Relu", [here], ["y"]))
    return graph(nodes, weights, opset=opset)


def test_random_graphs_give_onnxruntimes_numbers_or_tell_what_is_missing(tmp_path):
    torch.set_num_threads(1)
    whole = 0
    for seed in range(30):
        found, off = apart(drawn(seed), tmp_path)
        assert off < 1e-3, f"seed {seed} differs by {off}: {[n.name for n in found.experiment.network]}"
        whole += not found.missing
    assert whole >= 10, "too few of the graphs are taken in whole to say anything"


# -- Keras ------------------------------------------------------------------------------------------------------------


def test_models_of_keras_give_its_numbers_or_tell_what_is_missing(tmp_path):
    script = Path(__file__).with_name("keras_theirs.py")
    environment = {**os.environ, "KERAS_BACKEND": "torch", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, str(script), str(tmp_path)], env=environment, check=True, timeout=300)
    files = sorted(tmp_path.glob("*.keras"))
    whole, wrong = set(), []
    for file in files:
        found = parsed(file)
        with np.load(file.with_suffix(".npz")) as stored:
            scans, answer = torch.from_numpy(stored["scans"]), torch.from_numpy(stored["answer"])
        if found.missing:
            continue
        whole.add(file.stem)
        with torch.inference_mode():
            ours = found.module()(scans if " first" in file.stem else scans.permute(0, 3, 1, 2))
        ours = ours.permute(0, 2, 3, 1) if ours.dim() == 4 and " first" not in file.stem else ours
        if ours.shape != answer.shape or not torch.allclose(ours, answer, rtol=1e-3, atol=1e-3):
            wrong.append(f"{file.stem}: {[n.name for n in found.experiment.network]}")
    assert wrong == []
    assert len(files) >= 25 and sum(name.startswith("drawn") for name in whole) >= 5
    assert {"conv with leaky_relu", "conv with elu", "flatten, softmax", "softmax of a picture"} <= whole


# -- what does not fit, and how long it takes -------------------------------------------------------------------------


def test_a_recurrent_layer_behind_what_is_unknown_stays_visible():
    from builder.keras_import import from_config

    def layer(kind: str, name: str, **config: Any) -> dict[str, Any]:
        return {"module": "keras.layers", "class_name": kind, "config": {"name": name, **config}, "name": name}

    layers = [
        layer("InputLayer", "scan", batch_shape=[None, 4, 16, 16, 1]),
        layer("TimeDistributed", "each", layer=layer("Flatten", "inner")),
        layer("GRU", "steps", units=4),
    ]
    config = {"class_name": "Sequential", "config": {"name": "theirs", "layers": layers}}
    found = from_config(json.dumps(config).encode(), {})
    names = [found.experiment.at(f"network.{id}").name for id in found.missing]
    assert names == ["Keras TimeDistributed", "Keras GRU"]


def test_each_layer_is_planned_once_while_a_graph_is_read(tmp_path, monkeypatch):
    planned: list[str] = []
    add = network.Planning.add

    def counted(self: Any, node: Any, *rest: Any) -> None:
        planned.append(node.id)
        add(self, node, *rest)

    monkeypatch.setattr(network.Planning, "add", counted)
    nodes = [node("Flatten", "x", "v0"), *(node("Softmax", f"v{k}", f"v{k + 1}") for k in range(60))]
    found, off = apart(graph([*nodes, node("Relu", "v60")], []), tmp_path)
    assert not found.missing and off < 1e-5
    assert len(planned) < 5 * len(found.experiment.network)


def test_the_child_has_the_walls_that_its_words_promise(tmp_path):
    code = """
import json, resource, socket, sys
from builder.foreign_child import main
import builder.foreign_child as child
def parsed(file):
    names = ("FSIZE", "AS", "CORE", "CPU")
    facts = {name: resource.getrlimit(getattr(resource, "RLIMIT_" + name))[1] for name in names}
    facts["interfaces"] = [name for _, name in socket.if_nameindex() if name != "lo"]
    print(json.dumps(facts))
    raise child.ForeignError("seen")
child.parsed = parsed
main(*sys.argv[1:])
"""
    (tmp_path / "file").write_bytes(b"x")
    root = str(Path(foreign.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "file"), str(tmp_path), str(12 << 30), "60"],
        env={**weights.surroundings(), "PYTHONPATH": root}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    facts = json.loads(done.stdout.splitlines()[-1])
    assert 0 < facts["FSIZE"] < 3 << 30 and 0 < facts["AS"] <= 12 << 30
    assert facts["CORE"] == 0 and facts["CPU"] == 60 and facts["interfaces"] == []


def test_the_child_inherits_no_secret(tmp_path, monkeypatch):
    seen: list[dict[str, str]] = []
    monkeypatch.setenv("SCANLOOM_SECRET", "hunter2")

    def run(*_: Any, env: dict[str, str] | None = None, **__: Any) -> Any:
        seen.append(dict(os.environ) if env is None else env)
        return subprocess.CompletedProcess([], 1)

    monkeypatch.setattr(foreign.subprocess, "run", run)  # type: ignore[attr-defined]
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(foreign.ForeignError):
        foreign.read(tmp_path / "file")
    assert seen and "SCANLOOM_SECRET" not in seen[0]
