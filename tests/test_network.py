"""Planning: shapes and costs without computing, and what is said where they fail."""

import resource
import time

import pytest
import torch

from builder.catalog import LayerSpec
from builder.network import assemble, input_shape, plan
from builder.parts.layers import LAYERS
from builder.spec import Experiment, Node


def node(name: str, id: str | None = None, inputs: tuple[str, ...] = (), **params) -> Node:
    return Node(id=id or name, name=name, params=params, inputs=inputs)


def test_costs_are_those_of_the_textbook():
    found = plan([node("conv2d", out_channels=16, kernel_size=3, padding=1)], (1, 64, 64), 2).nodes[0]
    assert found.parameters == 16 * 9 + 16
    assert found.flops == 2 * 9 * 16 * 64 * 64
    assert found.activations == 16 * 64 * 64
    whole = plan([node("flatten"), node("linear", out_features=10)], (1, 8, 8), 2)
    assert (whole.parameters, whole.flops, whole.output) == (650, 2 * 64 * 10, (10,))


@pytest.mark.parametrize(
    ("layer", "shape", "where", "value", "words"),
    [
        (node("conv3d", depth_kernel_size=9), (1, 2, 8, 8), "depth_kernel_size", 2, "spans 9 slices"),
        (node("conv3d", kernel_size=9, depth_kernel_size=1), (1, 2, 6, 6), "kernel_size", 8, "only 8 voxels"),
        (
            node("transposed_conv3d", kernel_size=3, padding=2, depth_stride=1),
            (1, 1, 8, 8),
            "padding",
            1,
            "cuts off all of the 3 voxels",
        ),
    ],
)
def test_a_depth_of_its_own_that_does_not_fit_is_told_too(layer, shape, where, value, words):
    found = plan([layer], shape, 2, layout="volume").nodes[0]
    assert words in found.message and (found.where, found.value) == (f"params.{where}", value)
    mended = layer.model_copy(update={"params": {**layer.params, where: value}})
    assert plan([mended], shape, 2, layout="volume").nodes[0].message == ""


@pytest.mark.parametrize(
    ("layer", "shape", "where", "value", "words"),
    [
        (node("conv2d", kernel_size=9, padding=0), (8, 8, 8), "params.kernel_size", 8, "only 8 px"),
        (node("conv2d", dilation=8, padding=0), (8, 8, 8), "params.kernel_size", 1, "spans 17 px"),
        (node("conv2d", groups=3), (8, 8, 8), "params.groups", 2, "3 groups do not divide 8"),
        (node("conv2d", kernel_size=0), (8, 8, 8), "params.kernel_size", 1, "between 1 and 31"),
        (node("conv2d", out_channels=1e12), (8, 8, 8), "params.out_channels", 4096, "between 1 and 4096"),
        (node("conv2d", out_channels="many"), (8, 8, 8), "params.out_channels", 16, "whole number"),
        (node("conv2d", out_chanels=3), (8, 8, 8), "params.out_chanels", None, "Did you mean out_channels"),
        (node("group_norm", num_groups=7), (8, 8, 8), "params.num_groups", 4, "7 groups"),
        (node("max_pool", padding=2), (8, 8, 8), "params.padding", 1, "more than half"),
        (node("max_pool", kernel_size=20, stride=2), (8, 8, 8), "params.kernel_size", 8, "only 8 px"),
        (node("linear"), (8, 8, 8), "", None, "expects a vector; it gets a picture"),
        (node("conv2d"), (8,), "", None, "expects a picture"),
        (node("add"), (8, 8, 8), "inputs", None, "joins two or more"),
        (node("relu", inputs=("input", "input")), (8, 8, 8), "inputs", None, "takes one input"),
        (node("relu", inputs=("later",)), (8, 8, 8), "inputs", None, "does not exist"),
        (node("conv9d"), (8, 8, 8), "name", None, "Did you mean conv"),
        (node("conv1d", kernel_size=9, padding=1), (5, 8), "params.kernel_size", 7, "sequence has only 7 steps"),
        (node("conv1d", groups=3), (5, 8), "params.groups", 2, "3 groups do not divide 8"),
        (node("average_pool_1d", kernel_size=9), (5, 8), "params.kernel_size", 5, "only 5 steps"),
        (node("lp_pool", kernel_size=9), (5, 8), "params.kernel_size", 5, "only 5 steps"),
        (node("group_norm"), (8,), "params.num_groups", 4, "a single number"),
        (node("instance_norm"), (8, 1, 1), "", None, "a single one left"),
        (
            node("transposed_conv2d", output_padding=2),
            (8, 8, 8),
            "params.output_padding",
            1,
            "less than the stride of 2",
        ),
        (node("transposed_conv2d", padding=9), (8, 8, 8), "params.padding", 7, "cuts off all of the 16 px"),
        (node("pixel_shuffle", upscale_factor=3), (8, 8, 8), "params.upscale_factor", 2, "takes 9 channels"),
        (
            node("pixel_unshuffle", downscale_factor=3),
            (8, 8, 4),
            "params.downscale_factor",
            2,
            "fill a picture of 8 x 4",
        ),
        (node("patch_embedding", patch_size=3), (8, 8, 4), "params.patch_size", 2, "Patches of 3 px do not fill"),
        (node("self_attention", heads=5), (5, 8), "params.heads", 4, "5 heads do not divide 8 features"),
        (node("transformer_block", heads=3), (5, 8), "params.heads", 2, "3 heads do not divide 8 features"),
        (node("tokens_to_maps"), (12, 8), "params.rows", 3, "12 steps do not fill a square"),
        (node("tokens_to_maps", rows=5), (12, 8), "params.rows", 4, "12 steps do not fill 5 rows"),
        (node("gru"), (8, 8, 8), "", None, "GRU expects a sequence; it gets a picture"),
        (node("rows_as_sequence"), (4, 8, 8, 8), "", None, "no place there"),
    ],
)
def test_what_does_not_fit_is_told_with_its_place_and_a_value_that_works(layer, shape, where, value, words):
    found = plan([layer], shape, 2).nodes[0]
    assert found.shape is None and words in found.message
    assert (found.where, found.value) == (where, value)
    if value is not None:
        name = where.removeprefix("params.")
        mended = layer.model_copy(update={"params": {**layer.params, name: value}})
        assert plan([mended], shape, 2).nodes[0].message == ""


def test_a_loop_or_a_wire_from_below_is_refused():
    nodes = [node("relu", "a", inputs=("b",)), node("relu", "b", inputs=("a",))]
    assert "comes later" in plan(nodes, (1, 8, 8), 2).nodes[0].message


def test_layers_below_a_fault_are_still_checked_for_their_own_settings():
    nodes = [node("linear"), node("conv2d", kernel_size=99), node("relu")]
    messages = [n.message for n in plan(nodes, (1, 8, 8), 2).nodes]
    assert messages[0] and "between 1 and 31" in messages[1] and messages[2] == ""


def test_sums_of_different_shapes_are_refused_with_both_shapes():
    nodes = [node("conv2d"), node("add", inputs=("conv2d", "input"))]
    assert "(16, 8, 8) and (1, 8, 8)" in plan(nodes, (1, 8, 8), 2).nodes[1].message


def test_a_value_that_only_looks_like_an_allowed_one_is_not_answered_from_the_cache():
    assert plan([node("conv2d", groups=1)], (1, 8, 8), 2).nodes[0].message == ""
    assert "whole number" in plan([node("conv2d", groups=True)], (1, 8, 8), 2).nodes[0].message


def test_planning_a_huge_network_allocates_nothing():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.monotonic()
    nodes = [node("flatten"), *(node("linear", f"l{k}", out_features=100_000) for k in range(4))]
    found = plan(nodes, (3, 64, 64), 2)
    assert found.parameters > 3e10
    assert time.monotonic() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_assembling_what_cannot_be_planned_says_all_of_it():
    with pytest.raises(ValueError, match="a: .*b: "):
        assemble([node("linear", "a"), node("conv2d", "b", kernel_size=99)], (1, 8, 8), 2)
    with pytest.raises(ValueError, match="no layers"):
        assemble([], (1, 8, 8), 2)


def test_a_layer_that_has_no_meta_kernel_is_tried_on_the_cpu(monkeypatch):
    class Shy(torch.nn.Module):
        def forward(self, x):
            if x.is_meta:
                raise NotImplementedError("no meta kernel")
            return x[:, :1]

    from builder.catalog import LayerSpec
    from builder.parts.layers import LAYERS

    monkeypatch.setitem(LAYERS._parts, "shy", LayerSpec("shy", "Shy", "tests.shy:Shy", "A test layer."))
    monkeypatch.setattr("builder.catalog.load", lambda path: Shy)
    assert plan([node("shy")], (4, 8, 8), 2).output == (1, 8, 8)


def test_the_scan_that_a_network_sees_is_that_of_the_data_section():
    assert input_shape(Experiment().replace("data.size_px", 96).replace("data.colour", "rgb")) == (3, 96, 96)


# -- layouts: series and sequences ------------------------------------------------------------------------------------


def test_a_picture_layer_fed_by_a_series_works_on_every_slice_with_shared_weights() -> None:
    nodes = [
        Node(id="conv", name="conv2d", params={"out_channels": 4, "stride": 2}),
        Node(id="norm", name="batch_norm"),
        Node(id="relu", name="relu"),
        Node(id="pool", name="global_pool"),
        Node(id="scores", name="class_scores"),
    ]
    planned = plan(nodes, (5, 1, 16, 16), 3, "series")
    assert [n.shape for n in planned.nodes] == [(5, 4, 8, 8)] * 3 + [(5, 4), (5, 3)]
    assert [n.layout for n in planned.nodes] == ["series"] * 3 + ["sequence"] * 2
    assert [n.each for n in planned.nodes] == [True, True, False, True, True]
    net = assemble(nodes, (5, 1, 16, 16), 3, "series", seed=0).eval()
    flat = assemble(nodes, (1, 16, 16), 3, seed=0).eval()
    scans = torch.rand(2, 5, 1, 16, 16)
    assert net(scans).shape == (2, 5, 3)
    assert torch.allclose(net(scans)[1, 3], flat(scans[1, 3:4])[0], atol=1e-6)
    assert planned.parameters == plan(nodes, (1, 16, 16), 3).parameters


def test_a_picture_layer_refuses_a_volume_in_words() -> None:
    planned = plan([Node(id="conv", name="conv2d")], (1, 8, 16, 16), 2, "volume")
    assert planned.nodes[0].message == "Convolution expects a picture; it gets a volume of shape 1 x 8 x 16 x 16."


def test_flattening_a_series_keeps_its_slices_and_flattening_those_does_not() -> None:
    nodes = [Node(id="each", name="flatten"), Node(id="all", name="flatten"), Node(id="out", name="linear")]
    planned = plan(nodes, (5, 1, 4, 4), 2, "series")
    assert [n.shape for n in planned.nodes] == [(5, 16), (80,), (64,)]


# -- taps -------------------------------------------------------------------------------------------------------------


class _Stages(torch.nn.Module):
    """Three feature stages, shallow to deep."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return x, x[:, :, ::2, ::2], x[:, :, ::4, ::4]


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = LayerSpec("stages", "Stages", f"{__name__}:_Stages", "For this test.", takes=("maps",))
    monkeypatch.setitem(LAYERS._parts, "stages", spec)


@pytest.mark.usefixtures("stages")
def test_a_wire_names_a_tap_and_a_plain_one_means_the_last() -> None:
    nodes = [
        Node(id="b", name="stages"),
        Node(id="last", name="global_pool"),
        Node(id="second", name="conv2d", inputs=("b:2",), params={"out_channels": 5}),
        Node(id="pooled", name="global_pool"),
        Node(id="both", name="concatenate", inputs=("last", "pooled")),
    ]
    planned = plan(nodes, (3, 8, 8), 2)
    assert planned["b"].taps == ((3, 8, 8), (3, 4, 4), (3, 2, 2)) and planned["b"].shape == (3, 2, 2)
    assert planned.along("b:1") == (3, 8, 8) and planned["second"].shape == (5, 4, 4)
    assert planned["both"].shape == (8,)
    net = assemble(nodes, (3, 8, 8), 2, seed=0)
    scan = torch.rand(2, 3, 8, 8)
    assert torch.allclose(net(scan)[:, :3], scan[:, :, ::4, ::4].mean((2, 3)))


@pytest.mark.usefixtures("stages")
def test_a_tap_that_is_not_there_is_refused_in_words() -> None:
    nodes = [Node(id="b", name="stages"), Node(id="relu", name="relu", inputs=("b:4",))]
    assert plan(nodes, (3, 8, 8), 2)["relu"].message == "It is fed by output 4 of 'b', but it has 3."
    nodes = [Node(id="a", name="relu"), Node(id="b", name="relu", inputs=("a:1",))]
    assert plan(nodes, (3, 8, 8), 2)["b"].message == "It is fed by output 1 of 'a', but it has only one output."


@pytest.mark.usefixtures("stages")
def test_removing_a_layer_mends_the_wires_to_its_taps() -> None:
    nodes = (
        Node(id="first", name="relu"),
        Node(id="b", name="stages"),
        Node(id="c", name="add", inputs=("b:2", "b:3")),
    )
    assert Experiment(network=nodes).remove("b").network[-1].inputs == ("first",)


# -- what a layer may ask for beyond its first input ------------------------------------------------------------------


class _Curious(torch.nn.Module):
    """Tells all that it was told."""

    def __init__(self, channels, sizes, scan_channels, scan_size):
        super().__init__()
        self.told = channels, sizes, scan_channels, scan_size

    def forward(self, x, *others):
        return x


@pytest.fixture
def curious(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = {"channels": "channels_each", "sizes": "sizes", "scan_channels": "scan_channels", "scan_size": "scan_size"}
    target = f"{__name__}:_Curious"
    spec = LayerSpec("curious", "Curious", target, "For this test.", takes=("maps",), inferred=rules, most=2)
    monkeypatch.setitem(LAYERS._parts, "curious", spec)


@pytest.mark.usefixtures("curious")
@pytest.mark.parametrize("scan", [(3, 16, 12), (5, 3, 16, 12)], ids=["picture", "series"])
def test_a_layer_may_ask_for_all_its_inputs_and_for_the_scan(scan: tuple[int, ...]) -> None:
    nodes = [Node(id="a", name="conv2d", params={"stride": 2}), Node(id="b", name="curious", inputs=("a", "input"))]
    net = assemble(nodes, scan, 2, seed=0)
    layer = getattr(net.layers["b"], "layer", net.layers["b"])
    assert layer.told == ((16, 3), ((8, 6), (16, 12)), 3, (16, 12))


@pytest.mark.usefixtures("curious")
def test_a_layer_may_take_up_to_a_number_of_inputs() -> None:
    nodes = [Node(id="b", name="curious", inputs=("input", "input", "input"))]
    assert plan(nodes, (3, 8, 8), 2)["b"].message == "Curious takes at most 2 inputs; it has 3."
    assert plan([Node(id="b", name="curious")], (3, 8, 8), 2)["b"].message == ""


def test_a_name_that_torch_keeps_for_itself_is_refused_in_words() -> None:
    planned = plan([Node(id="half", name="relu")], (1, 8, 8), 2)
    assert (
        planned["half"].message == "A layer cannot be called 'half': torch uses the word itself. Choose another name."
    )
    with pytest.raises(ValueError, match="torch uses the word"):
        assemble([Node(id="half", name="relu")], (1, 8, 8), 2)
