"""The contract of the catalogs: what is listed is built, planned, run, taught, exported and refused as it says."""

import math
from collections.abc import Callable

import pytest
import torch
from fed import FEEDS, fed
from tiers import covering

from builder import network
from builder.catalog import LAYOUTS, Catalog, Digest, Flag, Float, Int, LayerSpec, OneOf, Part, Text, UnknownPart
from builder.listing import model_source
from builder.network import assemble, plan, settings
from builder.parts.images import AUGMENTATIONS, PREPARE
from builder.parts.layers import LAYERS
from builder.parts.training import OPTIMIZERS, SCHEDULES, TRAINING
from builder.spec import Data, Experiment, Node, Training

Shape = tuple[int, ...]
SHAPES = {  # by layout; 16 tokens fill a square
    "vector": (16,),
    "sequence": (16, 16),
    "maps": (8, 16, 24),
    "series": (3, 8, 16, 24),
    "volume": (8, 6, 16, 24),
}
ITEMS = {"sequence": "vector", "series": "maps"}
PARTS = [*LAYERS.values(), *OPTIMIZERS.values(), *SCHEDULES.values(), *AUGMENTATIONS.values(), PREPARE, TRAINING]


def layouts_of(spec: LayerSpec) -> list[str]:
    """All that the layer works on: what it takes, and series or sequences of that, where an item's result has a place
    there."""
    found = [k for k in LAYOUTS if not spec.takes or k in spec.takes or ITEMS.get(k) in spec.takes]
    return [k for k in found if (spec.name, k) not in NO_PLACE]


NO_PLACE = {
    ("rows_as_sequence", "series"),
    ("patch_embedding", "series"),
    ("box_head", "series"),
    ("two_stage_head", "series"),
    ("anchor_head", "series"),
    ("type_and_outline", "vector"),
    ("type_and_outline", "sequence"),
}
"""A series of sequences is no layout, and no outline can be told from vectors alone: refused in words, which tests of
their own see."""


def shape_of(spec: LayerSpec, layout: str) -> Shape:
    if spec.name in ("timm_backbone", "timm_stage"):
        return {"maps": (1, 64, 64), "series": (2, 1, 64, 64)}[layout]
    if spec.name in FEEDS:
        return {"maps": (8, 32, 48), "series": (2, 8, 32, 48), "volume": (8, 8, 16, 24)}[layout]
    if spec.group == "U-Nets":  # all sides halve three times
        return {"maps": (2, 16, 24), "series": (2, 2, 16, 24), "volume": (2, 8, 16, 24)}[layout]
    return SHAPES[layout]


def alone(spec: LayerSpec, params: dict | None = None, layout: str = "maps") -> list[Node]:
    """The layer alone behind the scan; joins get the scan twice, decoders and heads maps of it."""
    if nodes := fed(spec, params, layout):
        return nodes
    inputs = ("input",) * spec.inputs if spec.inputs > 1 else ()
    return [Node(id="layer", name=spec.name, params=params or {}, inputs=inputs)]


CASES = [(spec, layout) for spec in LAYERS.values() for layout in layouts_of(spec)]
ASKED = {spec.name: layouts_of(spec)[place % len(layouts_of(spec))] for place, spec in enumerate(LAYERS.values())}
every_layer = pytest.mark.parametrize(
    ("spec", "layout"),
    covering(CASES, lambda _, case: ASKED[case[0].name] == case[1]),
    ids=[f"{spec.name}-{layout}" for spec, layout in CASES],
)
"""Every layer on all that it works on; on one of them in `make test`, not on the same for all layers."""


@every_layer
def test_a_layers_planned_shape_and_parameters_are_those_of_the_real_module(spec: LayerSpec, layout: str) -> None:
    nodes, shape = alone(spec, layout=layout), shape_of(spec, layout)
    planned = plan(nodes, shape, 3, layout)
    assert planned.nodes[-1].message == ""
    net = assemble(nodes, shape, 3, layout, seed=0).eval()
    for batch in (1, 3):
        with torch.no_grad():
            out = net(torch.randn(batch, *shape))
        assert tuple(out.shape) == (batch, *(planned.output or ()))
        assert torch.isfinite(out).all()
    assert sum(p.numel() for p in net.parameters()) == planned.parameters
    assert len(planned.output or ()) == len(SHAPES[planned.nodes[-1].layout])


@every_layer
def test_a_gradient_reaches_every_weight_and_the_input_of_a_layer(spec: LayerSpec, layout: str) -> None:
    nodes, shape = alone(spec, layout=layout), shape_of(spec, layout)
    net = assemble(nodes, shape, 3, layout, seed=0).train()
    torch.manual_seed(0)
    x = torch.randn(4, *shape, requires_grad=True)
    out = net(x)
    (out * torch.randn(out.shape)).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
    # timm begins with the last norm of a residual branch at zero: its other weights learn from the second step on.
    starts_silent = spec.target.startswith("builder.blocks.backbone:")
    silent = [
        name
        for name, p in net.named_parameters()
        if p.grad is None or not torch.isfinite(p.grad).all() or not (p.grad.abs().sum() > 0 or starts_silent)
    ]
    assert silent == []


@every_layer
def test_a_layer_comes_back_from_json_the_same(spec: LayerSpec, layout: str) -> None:
    every_setting = {p.name: p.default for p in spec.params}
    for params in ({}, every_setting):
        before = Experiment(network=tuple(alone(spec, params, layout)))
        after = Experiment.loads(before.dumps())
        assert after == before and after.digest == before.digest
        assert plan(after.network, shape_of(spec, layout), 3, layout).nodes[-1].message == ""


@every_layer
def test_the_exported_code_of_a_layer_computes_the_same_numbers_bit_for_bit(
    spec: LayerSpec, layout: str, exported: Callable[..., torch.nn.Module]
) -> None:
    nodes, shape = alone(spec, layout=layout), shape_of(spec, layout)
    net = assemble(nodes, shape, 3, layout, seed=0).eval()
    owned = exported(nodes, shape, layout)
    owned.load_state_dict({name.removeprefix("layers."): value for name, value in net.state_dict().items()})
    owned.eval()
    x = torch.randn(3, *shape)
    with torch.no_grad():
        assert torch.equal(owned(x), net(x))


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Callable[..., torch.nn.Module]:
    """Runs the text of an exported model.py by itself and returns its model, for a network fed by any layout."""

    def run(nodes: list[Node], shape: Shape, layout: str) -> torch.nn.Module:
        monkeypatch.setattr(network, "input_shape", lambda experiment: shape)
        monkeypatch.setattr(network, "input_layout", lambda experiment: layout)
        source = model_source(Experiment(network=tuple(nodes)), 3)
        assert "builder" not in source
        space: dict = {}
        exec(compile(source, "model.py", "exec"), space)
        return space["Model"]()

    return run


@pytest.mark.parametrize("spec", [s for s in LAYERS.values() if not s.name.startswith("timm_")], ids=lambda s: s.name)
def test_every_setting_of_a_layer_changes_something(spec: LayerSpec) -> None:
    """No option that does nothing: a changed value changes what comes out, the weights, a gradient or the words."""

    def seen(params):
        layout = layouts_of(spec)[-1]
        nodes, shape = alone(spec, params, layout), shape_of(spec, layout)
        planned = plan(nodes, shape, 3, layout)
        if planned.output is None:
            return planned.nodes[-1].message
        net = assemble(nodes, shape, 3, layout, seed=0).train()
        torch.manual_seed(1)
        x = torch.randn(4, *shape, generator=torch.Generator().manual_seed(2), requires_grad=True)
        out = net(x)
        (out * torch.randn(out.shape, generator=torch.Generator().manual_seed(3))).sum().backward()
        held = {**net.state_dict(), **dict(net.named_buffers())}  # also geometry, which is no weight to keep
        state = {k: v.double().sum().item() for k, v in held.items()}
        slope = 0.0 if x.grad is None else round(x.grad.double().abs().sum().item(), 4)
        return planned.output, planned.parameters, round(out.double().abs().sum().item(), 6), state, slope

    needs = {  # a setting that is idle beside one value of another one is tried beside another value
        idle.name: {idle.other: next(v for v in variants(spec.param(idle.other)) if v != idle.value)}
        for idle in spec.idle
    }
    for domain in spec.params:
        rest = needs.get(domain.name, {})
        if domain.name == "drop_path" and "out_channels" in spec.defaults:  # there is a shortcut where the shape stays
            layout = layouts_of(spec)[-1]
            rest = {**rest, "out_channels": shape_of(spec, layout)[1 if layout == "series" else 0]}
        same = (domain.default, spec.defaults.get(domain.name.removeprefix("depth_")))  # 0 for a depth: as in the plane
        other = next(v for v in (*variants(domain), 3) if v not in same)
        assert seen(rest) != seen({**rest, domain.name: other}), f"{spec.name}.{domain.name} = {other} changes nothing"


def variants(domain) -> list:
    match domain:
        case Int():
            near = [2, 4, 1, 0, 3, domain.low]
        case Float():
            near = [domain.default / 2 or (domain.low + domain.high) / 2, (domain.low + domain.high) / 2]
        case OneOf():
            return list(domain.options)
        case Flag():
            return [True, False]
        case _:
            return [domain.default + "?"]
    return [v for v in near if domain.low <= v <= domain.high]


@pytest.mark.parametrize("part", PARTS, ids=lambda p: p.name)
def test_a_part_explains_itself_and_its_defaults_are_allowed(part):
    assert part.help.endswith(".") and len(part.help) > 20
    assert part.title and part.name.isidentifier()
    assert len({p.name for p in part.params}) == len(part.params)
    for domain in part.params:
        assert domain.help.endswith(".") and domain.label
        assert domain.parse(domain.default) == domain.default
        if part.target and not isinstance(part, LayerSpec) and part.target.startswith("torch"):
            assert callable(part.load())


@pytest.mark.parametrize("part", PARTS, ids=lambda p: p.name)
def test_values_outside_a_domain_are_refused_in_words_and_the_nearest_is_allowed(part):
    for domain in part.params:
        wrong = {
            Int: [domain.__dict__.get("low", 0) - 1, 10**12, math.nan, 1.5, "3", None, True, []],
            Float: [domain.__dict__.get("low", 0) - 1.0, 1e30, math.inf, math.nan, "x", None, False],
            OneOf: ["no such option", None, 3],
            Flag: [1, "yes", None],
            Text: ["no_such_model_anywhere", "", 3],
            Digest: ["no digest", "F" * 64, 3, None],
        }[type(domain)]
        for value in wrong:
            with pytest.raises(ValueError, match=r"\w+ .*\."):
                domain.parse(value)
            assert domain.parse(domain.nearest(value)) is not None


@pytest.mark.parametrize("part", OPTIMIZERS.values(), ids=lambda p: p.name)
def test_an_optimizer_walks_down_a_slope(part):
    weight = torch.nn.Parameter(torch.tensor([3.0]))
    optimizer = part.load()([weight], **part.defaults)
    for _ in range(200):
        optimizer.zero_grad()
        (weight**2).sum().backward()
        optimizer.step()
    assert abs(weight.item()) < 2.97


def test_the_documents_sections_hold_exactly_the_settings_of_the_catalog():
    assert set(Data.model_fields) - {"dataset", "degrade", "exclude", "leaks"} == {p.name for p in PREPARE.params}
    assert set(Training.model_fields) - {"optimizer", "schedule", "loss", "augment", "average", "groups"} == {
        p.name for p in TRAINING.params
    }


@pytest.mark.parametrize(
    "words", ["relu", "activation", "shrink", "skip", "overfitting", "pretrained", "dilated", "time", "memory"]
)
def test_layers_are_found_by_what_they_do(words):
    assert LAYERS.search(words)


def test_relu_is_found_first_by_its_name_and_all_words_must_match():
    assert "relu" in [p.name for p in LAYERS.search("relu")]
    assert LAYERS.search("relu zebra") == []


def test_unknown_names_get_did_you_mean():
    with pytest.raises(UnknownPart, match="Did you mean conv2d"):
        LAYERS["conv2"]
    with pytest.raises(UnknownPart, match="Did you mean out_channels"):
        LAYERS["conv2d"].param("out_chanels")
    with pytest.raises(ValueError, match="Did you mean resnet18"):
        settings(Node(id="a", name="timm_backbone", params={"model": "resnet81"}))


def test_a_catalog_refuses_two_parts_of_one_name():
    with pytest.raises(ValueError, match="share a name"):
        Catalog("thing", (Part("a", "A", "", "x"), Part("a", "B", "", "y")))


@pytest.mark.parametrize(
    "model", ["resnet18", "tf_efficientnet_lite0", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"]
)
@pytest.mark.parametrize("output", ["map", "pooled"])
def test_timm_models_of_every_kind_give_a_map_or_a_vector(model, output):
    nodes = [Node(id="b", name="timm_backbone", params={"model": model, "output": output})]
    planned = plan(nodes, (1, 64, 64), 2)
    assert planned.nodes[-1].message == ""
    assert len(planned.output or ()) == (3 if output == "map" else 1)
    assert planned.parameters > 1e6


def test_a_frozen_backbone_does_not_learn_and_keeps_its_statistics():
    nodes = [Node(id="b", name="timm_backbone", params={"model": "resnet10t", "frozen": True})]
    net = assemble(nodes, (1, 32, 32), 2).train()
    assert not any(p.requires_grad for p in net.parameters())
    before = {k: v.clone() for k, v in net.state_dict().items()}
    net(torch.rand(4, 1, 32, 32))
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_installed_imagenet_weights_are_used_and_adapted_to_grey():
    def stem(channels, weights):
        nodes = [Node(id="b", name="timm_backbone", params={"model": "tf_efficientnet_lite0", "weights": weights})]
        return assemble(nodes, (channels, 32, 32), 2, seed=0).layers.get_submodule("b.net")

    rgb, grey, random = stem(3, "installed package"), stem(1, "installed package"), stem(1, "none")
    torch.testing.assert_close(rgb.conv_stem.weight.sum(1, keepdim=True), grey.conv_stem.weight)
    assert not torch.equal(grey.blocks[0][0].conv_dw.weight, random.blocks[0][0].conv_dw.weight)
    nodes = [Node(id="b", name="timm_backbone", params={"model": "resnet18", "weights": "installed package"})]
    with pytest.raises(ValueError, match="No installed package carries weights of resnet18"):
        assemble(nodes, (1, 32, 32), 2)


def test_the_same_seed_gives_the_same_weights_and_leaves_the_random_state_alone():
    nodes = [Node(id="a", name="conv2d")]
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    one, two, other = (assemble(nodes, (1, 8, 8), 2, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    weights = [next(n.parameters()) for n in (one, two, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_wiring_by_inputs_computes_what_the_wires_say():
    nodes = [
        Node(id="a", name="conv2d", params={"out_channels": 4}),
        Node(id="b", name="relu"),
        Node(id="c", name="add", inputs=("a", "b", "b")),
        Node(id="d", name="concatenate", inputs=("c", "input")),
    ]
    net = assemble(nodes, (2, 6, 6), 2, seed=0)
    x = torch.rand(3, 2, 6, 6)
    a = net.layers.get_submodule("a")(x)
    torch.testing.assert_close(net(x), torch.cat([a + 2 * a.relu(), x], 1))


def test_group_and_layer_norm_normalize_what_they_say():
    x = torch.rand(2, 8, 5, 5) * 7 + 3
    layer = assemble([Node(id="n", name="layer_norm")], (8, 5, 5), 2)(x)
    assert layer.mean(1).abs().max() < 1e-4 and (layer.std(1, unbiased=False) - 1).abs().max() < 1e-2
    group = assemble([Node(id="n", name="group_norm", params={"num_groups": 2})], (8, 5, 5), 2)(x)
    assert group.unflatten(1, (2, 4)).flatten(2).mean(2).abs().max() < 1e-4


def test_labels_are_words_without_units():
    assert LAYERS["conv2d"].param("kernel_size").label == "Kernel size"
    assert TRAINING.param("checkpoint_every_s").label == "Checkpoint every"
    assert PREPARE.param("size_px").label == "Size"
