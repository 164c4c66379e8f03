"""The computational graph is torch's own, and its drawing can be read."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from builder import drawing, graph, network
from builder.board import Board
from builder.layered import arrange
from builder.spec import Data, Experiment, Node
from builder.task import find

SVG = "{http://www.w3.org/2000/svg}"


def starters() -> dict[str, Experiment]:
    return {e.name: e for e in find("recognition").starters()}


def skip_network(name: str = "skip") -> Experiment:
    nodes = (
        Node(id="a", name="conv2d"),
        Node(id="b", name="relu"),
        Node(id="c", name="conv2d"),
        Node(id="add", name="add", inputs=("c", "a")),
        Node(id="pool", name="global_pool"),
        Node(id="scores", name="class_scores"),
    )
    return Experiment(name=name, data=Data(size_px=32), network=nodes)


@pytest.mark.parametrize("name", ["tiny-cnn", "vgg-style", "small-cnn"])
def test_the_way_forward_is_the_one_that_torch_export_finds(name: str) -> None:
    experiment = starters()[name]
    net = network.assemble_of(experiment, 2, seed=0).train()
    example = torch.randn(2, *network.input_shape(experiment))
    exported = torch.export.export(net, (example,), strict=False).run_decompositions()
    wanted = Counter(
        node.target.overloadpacket.__name__  # type: ignore[union-attr]
        for node in exported.graph.nodes
        if node.op == "call_function" and hasattr(node.target, "overloadpacket")
    )
    told = Counter(
        o.name for o in graph.trace(experiment, 2).operations if o.kind == "forward" and o.layer != graph.LOSS
    )
    for operator in ("convolution", "relu", "max_pool2d_with_indices", "amax"):
        assert told[operator] == wanted[operator], operator
    norms = [sum(n for k, n in count.items() if "batch_norm" in k) for count in (told, wanted)]
    assert norms[0] == norms[1]


@pytest.mark.parametrize("name", ["tiny-cnn", "small-cnn", "residual-cnn"])
def test_a_gradient_arrives_once_at_every_weight_of_every_layer(name: str) -> None:
    experiment = starters()[name]
    traced = graph.trace(experiment, 2)
    net = network.assemble_of(experiment, 2, trained=True)
    told = {f"layers.{o.layer}.{o.note}": o.shape for o in traced.operations if o.kind == "weight"}
    assert told == {name: tuple(p.shape) for name, p in net.named_parameters()}
    arrivals = [b for _, b in traced.backward]
    assert all(arrivals.count(o.id) == 1 for o in traced.operations if o.kind == "weight")


def test_operations_lie_in_the_layer_that_does_them_each_way() -> None:
    traced = graph.trace(skip_network(), 2)
    for layer, ahead, back in (("a", "convolution", "ConvolutionBackward0"), ("b", "relu", "ReluBackward0")):
        assert [(o.kind, o.name) for o in traced.of(layer) if o.kind != "weight"] == [
            ("forward", ahead),
            ("backward", back),
        ]
    owner = {o.id: o.layer for o in traced.operations}
    flows = {(owner[a], owner[b]) for a, b in traced.forward if owner[a] != owner[b]}
    assert flows >= {("input", "a"), ("a", "b"), ("b", "c"), ("c", "add"), ("a", "add"), ("scores", "loss")}
    returns = {(owner[a], owner[b]) for a, b in traced.backward if owner[a] != owner[b]}
    assert returns == {(b, a) for a, b in flows if a != "input"}, "gradients go the same ways back, not into the scan"


def test_a_frozen_backbone_has_no_way_back() -> None:
    nodes = (
        Node(id="net", name="timm_backbone", params={"model": "resnet10t", "frozen": True}),
        Node(id="pool", name="global_pool"),
        Node(id="scores", name="class_scores"),
    )
    experiment = Experiment(name="frozen", data=Data(size_px=64, colour="rgb"), network=nodes)
    traced = graph.trace(experiment, 2)
    assert {o.layer for o in traced.operations if o.kind == "weight"} == {"scores"}
    assert not [o for o in traced.of("net") if o.kind == "backward"]


def test_a_layer_of_many_operations_is_drawn_as_one_each_way() -> None:
    traced = graph.trace(starters()["small-cnn"], 2)
    few = traced.by_layer()
    block = few.of("residual_block_2")
    assert [(o.kind, o.name.split()[0]) for o in block][:2] == [("forward", "9"), ("backward", "9")]
    assert len(few.operations) < len(traced.operations) == len(traced.by_layer(40).operations)
    ids = {o.id for o in few.operations}
    assert {i for edge in few.forward + few.backward for i in edge} <= ids


def test_a_network_that_does_not_fit_together_has_no_graph() -> None:
    broken = Experiment(name="broken", network=(Node(id="a", name="linear"),))
    with pytest.raises(ValueError, match="a: "):
        graph.trace(broken, 2)


def test_tensorboard_reads_the_graph_back(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.compat.proto.graph_pb2 import GraphDef

    traced = graph.trace(skip_network(), 2)
    board = Board(tmp_path, 1)
    board.draw(traced)
    board.close()
    (file,) = (tmp_path / "tb").iterdir()
    (found,) = [GraphDef.FromString(e.graph_def) for e in EventFileLoader(str(file)).Load() if e.graph_def]
    nodes = {node.name: node for node in found.node}
    assert len(nodes) == len(traced.operations)
    assert all(source in nodes for node in found.node for source in node.input)
    add = next(node for name, node in nodes.items() if name.startswith("add/add"))
    assert {source.split("/")[0] for source in add.input} == {"a", "c"}
    assert [d.size for d in add.attr["_output_shapes"].list.shape[0].dim] == [16, 32, 32]
    assert {n.split("/")[0] for n in nodes if "/back/weights/weight" in n} == {"a", "c", "scores"}


# -- the layout --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_boxes_never_overlap_and_every_edge_runs_down(seed: int) -> None:
    dice = random.Random(seed)
    num = dice.randint(2, 40)
    sizes = {k: (dice.uniform(20, 200), dice.uniform(20, 90)) for k in range(num)}
    edges = [(a, b) for b in range(1, num) for a in dice.sample(range(b), min(b, dice.randint(1, 3)))]
    placed = arrange(sizes, edges)
    boxes = [(x, y, x + sizes[k][0], y + sizes[k][1]) for k, (x, y) in placed.places.items()]
    for k, one in enumerate(boxes):
        assert one[0] >= -0.01 and one[2] <= placed.width + 0.01 and one[3] <= placed.height + 0.01
        for other in boxes[k + 1 :]:
            assert one[2] <= other[0] + 0.01 or other[2] <= one[0] + 0.01 or one[3] <= other[1] or other[3] <= one[1]
    for (a, b), bends in placed.bends.items():
        down = [boxes[a][3], *(y for _, y in bends), boxes[b][1]]
        assert down == sorted(down)


def test_a_chain_stands_in_one_line() -> None:
    placed = arrange({k: (40.0 + 10 * k, 20.0) for k in range(5)}, [(k, k + 1) for k in range(4)])
    middles = [x + (40 + 10 * k) / 2 for k, (x, _) in placed.places.items()]
    assert max(middles) - min(middles) < 0.01


def test_a_circle_is_refused() -> None:
    with pytest.raises(ValueError, match="circle"):
        arrange({"a": (1.0, 1.0), "b": (1.0, 1.0)}, [("a", "b"), ("b", "a")])


# -- the drawing -------------------------------------------------------------------------------------------------------


def words_of(svg: str) -> list[str]:
    return ["".join(t.itertext()) for t in ElementTree.fromstring(svg).iter(f"{SVG}text")]


@pytest.mark.parametrize("dark", [False, True])
def test_the_network_is_drawn_with_every_layer_and_wire(dark: bool) -> None:
    svg = drawing.network_svg(skip_network(), dark=dark)
    words = words_of(svg)
    assert {"Scan", "Convolution", "ReLU", "Add", "Class scores"} <= set(words)
    assert "16 x 32 x 32 · 160 parameters" in words
    paths = [p for p in ElementTree.fromstring(svg).iter(f"{SVG}path") if p.get("marker-end")]
    assert len(paths) == 7 and "nan" not in svg.lower()


def test_a_broken_network_is_drawn_with_what_is_wrong() -> None:
    experiment = Experiment(name="broken", network=(Node(id="a", name="linear"), Node(id="b", name="relu")))
    assert any("Linear expects" in words for words in words_of(drawing.network_svg(experiment)))


@pytest.mark.parametrize("detail", ["layers", "operations"])
@pytest.mark.parametrize("name", ["tiny-cnn", "small-cnn", "efficientnet-lite0"])
def test_the_graph_is_drawn_forward_and_back(name: str, detail: str) -> None:
    experiment = starters()[name]
    svg = drawing.graph_svg(experiment, detail=detail)
    root = ElementTree.fromstring(svg)
    ends = Counter(str(p.get("marker-end")) for p in root.iter(f"{SVG}path") if p.get("marker-end"))
    assert ends["url(#to)"] > 3 and ends["url(#back)"] > 3 and ends["url(#grad)"] >= 2
    assert "nan" not in svg.lower() and len(svg) < 500_000
    found = drawing.graph_drawing(graph.trace(experiment, 2), detail=detail)
    assert all(0 <= m.x <= found.width and 0 <= m.y <= found.height for m in found.marks)


def test_a_recurrent_layer_is_unrolled_with_its_gradient_and_its_cuts() -> None:
    words = words_of(drawing.unrolled_svg("GRU", [0.0, 0.0, 0.5, 1.0, 2.0], 3))
    assert {"GRU, unrolled over 5 steps", "x1", "x5", "25 %", "100 %", "last state"} <= set(words)
    assert words.count("✕") == 1
    assert "86 more" in words_of(drawing.unrolled_svg("RNN", [1.0] * 100))


def test_a_name_cannot_become_markup() -> None:
    experiment = skip_network('<script>alert("x")</script> & more')
    svg = drawing.network_svg(experiment)
    root = ElementTree.fromstring(svg)
    assert not list(root.iter(f"{SVG}script")) and "<script" not in svg
