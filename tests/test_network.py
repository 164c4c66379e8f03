"""Planning: shapes and costs without computing, and what is said where they fail."""

import resource
import time

import pytest
import torch

from builder.network import assemble, input_shape, plan
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
        (node("conv3d"), (8, 8, 8), "name", None, "Did you mean conv2d"),
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
