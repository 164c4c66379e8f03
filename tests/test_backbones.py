"""Backbones whole, in taps and in parts; decoders over them and over a user's own layers; heads."""

from typing import Any

import pytest
import torch
from torch import nn

from builder.blocks.backbone import TimmBackbone, TimmStage
from builder.blocks.decoder import FPNDecoder, UnetDecoder
from builder.blocks.head import BoxHead, ImageHead, MaskScores
from builder.check import problems
from builder.listing import model_source
from builder.network import assemble, plan
from builder.spec import Data, Experiment, Node

SMALL = "test_resnet"  # timm's own, 0.4 M weights, five stages


def node(name: str, id: str, *inputs: str, **params) -> Node:
    return Node(id=id, name=name, inputs=inputs, params=params)


def owned(experiment: Experiment, num_classes: int) -> nn.Module:
    """The network as its exported code builds it."""
    made: dict = {}
    exec(compile(model_source(experiment, num_classes), "model.py", "exec"), made)
    return made["Model"]()


# -- taps and frozen parts --------------------------------------------------------------------------------------------


def test_the_stages_of_a_backbone_are_taps_shallow_to_deep() -> None:
    planned = plan([node("timm_backbone", "b", model=SMALL, output="stages")], (1, 64, 64), 2)
    taps = planned["b"].taps
    assert [t[1] for t in taps] == [32, 16, 8, 4, 2] and planned["b"].shape == taps[-1]
    net = assemble([node("timm_backbone", "b", model=SMALL, output="stages")], (1, 64, 64), 2, seed=0).eval()
    for batch in (1, 3):
        found = net.layers["b"](torch.rand(batch, 1, 64, 64))
        assert [tuple(t.shape) for t in found] == [(batch, *t) for t in taps]


def test_a_transformer_without_levels_gives_four_maps_of_one_size() -> None:
    planned = plan([node("timm_backbone", "b", model="test_vit", output="stages")], (3, 64, 64), 2)
    assert planned["b"].taps == ((64, 4, 4),) * 4


def test_the_taps_are_what_the_whole_model_computes_on_its_way() -> None:
    taps = TimmBackbone(3, 64, SMALL, output="stages").eval()
    whole = TimmBackbone(3, 64, SMALL).eval()
    whole.load_state_dict(taps.state_dict())
    x = torch.rand(2, 3, 64, 64)
    assert torch.equal(taps(x)[-1], whole(x))


@pytest.mark.parametrize("model", [SMALL, "test_vit", "test_convnext", "test_efficientnet"])
@pytest.mark.parametrize("output", ["map", "stages"])
def test_frozen_stages_and_their_statistics_stand_still_and_the_rest_learns(model: str, output: str) -> None:
    torch.manual_seed(0)
    net = TimmBackbone(1, 64, model, output=output, frozen_stages=2).train()
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], 0.1)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    found = net(torch.rand(4, 1, 64, 64))
    sum((y * torch.randn_like(y)).sum() for y in (found if output == "stages" else (found,))).backward()
    optimizer.step()
    after = net.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    frozen = {n for n, p in net.named_parameters() if not p.requires_grad}
    assert frozen and moved and not moved & frozen
    assert not {n for n in moved if "running" in n and f"{n.rpartition('.')[0]}.weight" in frozen}
    if model == SMALL:
        assert not [n for n in moved if n.startswith(("net.conv1", "net.bn1", "net.layer1."))]
        assert {"net.layer2.0.bn1.running_mean", "net.layer2.0.downsample.1.weight"} <= moved
    assert all(p.grad is not None for p in net.parameters() if p.requires_grad)


@pytest.mark.parametrize("model", [SMALL, "test_vit", "test_convnext", "tf_efficientnet_lite0"])
def test_stochastic_depth_grows_inside_a_known_model_in_training_only(model: str) -> None:
    torch.manual_seed(0)
    net, plain = TimmBackbone(1, 64, model, drop_path=0.5), TimmBackbone(1, 64, model)
    with torch.no_grad():
        for parameter in net.parameters():  # timm begins branches at zero: leaving them out would change nothing yet
            parameter.add_(0.5 if parameter.dim() == 1 else 0.0)
    plain.load_state_dict(net.state_dict())
    paths: list[Any] = [part for part in net.modules() if type(part).__name__ == "DropPath"]
    rates = [part.drop_prob for part in paths if part.drop_prob]
    assert rates == sorted(rates) and max(rates) <= 0.5 and rates
    x = torch.rand(1, 1, 64, 64).expand(16, -1, -1, -1)
    with torch.no_grad():
        assert torch.equal(net.eval()(x), plain.eval()(x))
        for part in (*net.train().modules(), *plain.train().modules()):  # what else differs while it learns
            if isinstance(part, nn.BatchNorm2d | nn.Dropout):
                part.eval()
        alike, other = ((y - y[:1]).abs().max() / y.abs().max() for y in (plain(x), net(x)))
        assert float(alike) < 1e-4 and float(other) > 1e-3


def test_a_model_without_branches_refuses_stochastic_depth_in_words() -> None:
    (planned,) = plan([node("timm_backbone", "b", model="vgg11", drop_path=0.2)], (1, 64, 64), 2).nodes
    assert "vgg11 has no branches" in planned.message and "set its stochastic depth to 0" in planned.message


def test_more_frozen_stages_than_there_are_is_told() -> None:
    found = plan([node("timm_backbone", "b", model=SMALL, frozen_stages=6)], (1, 64, 64), 2)["b"]
    assert f"{SMALL} has 5 stages; its first 6 cannot be frozen." in found.message


def test_weights_that_only_a_classifier_would_use_do_not_pretend_to_learn() -> None:
    net = TimmBackbone(1, 64, "test_convnext").train()  # its last norm belongs to the pooled output
    net(torch.rand(2, 1, 64, 64)).sum().backward()
    assert all(p.grad is not None for p in net.parameters() if p.requires_grad)


def test_a_size_that_a_model_was_not_made_for_is_told_in_words() -> None:
    found = plan([node("timm_backbone", "b", model="efficientformer_l1")], (3, 64, 64), 2)["b"]
    assert "efficientformer_l1 does not work on scans of 64 px" in found.message


# -- one stage at a time ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["stage", "map", "pooled"])
@pytest.mark.parametrize("model", [SMALL, "test_efficientnet", "test_mambaout"])
def test_the_stages_one_after_another_are_the_whole_model(model: str, output: str) -> None:
    whole = TimmBackbone(1, 64, model, output="stages" if output == "stage" else output).eval()
    x = y = torch.rand(2, 1, 64, 64)
    num = len(whole.indices) or len(whole.stages(whole.net))
    for stage in range(1, num + 1):
        part = TimmStage(y.shape[1], y.shape[2], model, stage, output=output if stage == num else "stage").eval()
        part.load_state_dict({name: whole.state_dict()[name] for name in part.state_dict()})
        y = part(y)
    wanted = whole(x)[-1] if output == "stage" else whole(x)
    assert torch.equal(y, wanted)


@pytest.mark.parametrize(
    ("params", "shape", "words"),
    [
        ({"model": "test_vit"}, (3, 64, 64), "test_vit cannot be parted into stages"),
        ({"model": SMALL, "stage": 6}, (96, 4, 4), f"{SMALL} has 5 stages; there is no stage 6."),
        ({"model": SMALL, "stage": 2}, (7, 32, 32), f"Stage 2 of {SMALL} takes 32 channels; it gets 7."),
        ({"model": SMALL, "output": "map"}, (1, 64, 64), f"Only the last stage of {SMALL} (5) can give output 'map'."),
    ],
)
def test_a_stage_that_cannot_be_is_told_in_words(params: dict, shape: tuple[int, ...], words: str) -> None:
    assert words in plan([node("timm_stage", "s", **params)], shape, 2)["s"].message


def test_a_frozen_stage_stands_still() -> None:
    part = TimmStage(1, 64, SMALL, 1, frozen=True).train()
    before = {name: value.clone() for name, value in part.state_dict().items()}
    part(torch.rand(4, 1, 64, 64))
    assert not any(p.requires_grad for p in part.parameters())
    assert all(torch.equal(value, before[name]) for name, value in part.state_dict().items())


# -- weights meet other numbers of channels ---------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_the_first_convolution_of_stored_weights_is_adapted_as_stated(channels: int) -> None:
    def built(channels: int) -> TimmBackbone:
        return TimmBackbone(channels, 32, "tf_efficientnet_lite0", "installed package").eval()

    rgb, own = built(3).net.conv_stem.weight, built(channels).net.conv_stem.weight
    if channels == 1:
        torch.testing.assert_close(own, rgb.sum(1, keepdim=True))
        grey = torch.rand(2, 1, 32, 32)
        torch.testing.assert_close(built(1)(grey), built(3)(grey.expand(-1, 3, -1, -1)), rtol=1e-3, atol=1e-4)
    else:
        wanted = torch.cat([rgb, rgb], 1)[:, :channels] * (3 / channels)
        torch.testing.assert_close(own, wanted)


# -- decoders ---------------------------------------------------------------------------------------------------------

TAPS = ("b:1", "b:2", "b:3", "b:4", "b:5")


@pytest.mark.parametrize(
    ("decoder", "wires", "size"),
    [
        ("unet_decoder", TAPS, 32),
        ("unet_decoder", TAPS[1:3], 16),
        ("unetplusplus_decoder", TAPS, 32),
        ("unetplusplus_decoder", TAPS[3:], 4),
        ("fpn_decoder", TAPS[1:], 16),
        ("fpn_decoder", TAPS[:2], 32),
        ("deeplab_decoder", ("b:2", "b:4"), 16),
    ],
)
def test_a_decoder_takes_the_taps_of_a_backbone_and_its_export_computes_the_same(decoder, wires, size) -> None:
    experiment = Experiment(
        data=Data(size_px=64),
        network=(
            node("timm_backbone", "b", model=SMALL, output="stages"),
            node(decoder, "d", *wires),
            node("mask_scores", "m"),
        ),
    )
    planned = plan(experiment.network, (1, 64, 64), 3)
    assert [n.message for n in planned.nodes if n.message] == []
    assert (planned["d"].shape or ())[1:] == (size, size) and planned.output == (3, 64, 64)
    net = assemble(experiment.network, (1, 64, 64), 3, seed=0)
    net.train()(torch.rand(2, 1, 64, 64)).square().sum().backward()
    for name in ("d", "m"):
        assert all(p.grad is not None for p in net.layers[name].parameters())
    net.eval()
    export = owned(experiment, 3).eval()
    export.load_state_dict({key.removeprefix("layers."): value for key, value in net.state_dict().items()})
    for batch in (1, 3):
        x = torch.rand(batch, 1, 64, 64)
        assert net(x).shape == (batch, 3, 64, 64) and torch.equal(export(x), net(x))


@pytest.mark.parametrize("decoder", ["unet_decoder", "unetplusplus_decoder"])
@pytest.mark.parametrize(("wires", "size"), [(("b:1", "b:2", "b:3"), 64), (("input", "b:1", "b:2"), 64)])
def test_a_u_net_goes_up_to_the_scan_itself_where_asked(decoder: str, wires: tuple[str, ...], size: int) -> None:
    nodes = [
        node("timm_backbone", "b", model=SMALL, output="stages"),
        node(decoder, "d", *wires, out_channels=8, resolution="scan"),
    ]
    assert plan(nodes, (1, 64, 64), 2).output == (8, size, size)
    assert assemble(nodes, (1, 64, 64), 2, seed=0).eval()(torch.rand(2, 1, 64, 64)).shape == (2, 8, size, size)


def test_decoders_take_a_users_own_layers_of_any_channels_and_strides() -> None:
    nodes = [
        node("conv2d", "a", out_channels=5),
        node("conv2d", "c", out_channels=7, stride=3),
        node("conv2d", "e", out_channels=3, stride=2),
        node("unet_decoder", "d", "a", "c", "e", out_channels=9),
    ]
    assert plan(nodes, (2, 50, 50), 2).output == (9, 50, 50)
    assert assemble(nodes, (2, 50, 50), 2, seed=0).eval()(torch.rand(1, 2, 50, 50)).shape == (1, 9, 50, 50)


@pytest.mark.parametrize(
    ("decoder", "wires", "words"),
    [
        ("unet_decoder", ("b:3", "b:2", "b:1"), "Wire them the other way round."),
        ("unet_decoder", ("b:1", "b:1"), "each smaller than the last: 32 x 32, 32 x 32"),
        ("unet_decoder", ("b:1", "b:3", "b:2"), "shallow to deep"),
        ("unet_decoder", ("b:1",), "joins two or more layers"),
        ("unetplusplus_decoder", ("b:1", "b:3"), "half as large as the one before it; it gets 32 x 32, 8 x 8"),
        ("fpn_decoder", ("b:1", "b:3"), "half as large as the one before it"),
        ("deeplab_decoder", ("b:1", "b:2", "b:3"), "takes at most 2 inputs; it has 3"),
        ("deeplab_decoder", ("b:4", "b:2"), "DeepLabV3+ needs its maps shallow to deep"),
    ],
)
def test_maps_in_a_wrong_order_are_refused_in_words(decoder: str, wires: tuple[str, ...], words: str) -> None:
    nodes = [node("timm_backbone", "b", model=SMALL, output="stages"), node(decoder, "d", *wires)]
    assert words in plan(nodes, (1, 64, 64), 2)["d"].message


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ((node("unet_decoder", "d", "b:3", "b:1", "b:2"),), "Order its maps shallow to deep"),
        ((node("unet_decoder", "d", "b"),), "Feed it the stages of b"),
        ((node("fpn_decoder", "d", "b", "input"),), "Feed it the stages of b"),
        ((node("deeplab_decoder", "d", "b", "input"),), "Order its maps shallow to deep"),
        ((node("deeplab_decoder", "d", "b:1", "b:2", "b:3"),), "Order its maps shallow to deep"),
    ],
)
def test_a_decoder_wired_wrongly_is_mended_by_a_button(layers: tuple[Node, ...], words: str) -> None:
    body = node("timm_backbone", "b", model=SMALL, output="stages")
    experiment = Experiment(data=Data(size_px=64), network=(body, *layers))
    (problem,) = [p for p in problems(experiment) if p.path.startswith("network.d") and p.severity == "error"]
    assert problem.repair == words and problem.fix is not None
    planned = plan(problem.fix.network, (1, 64, 64), 2)
    assert planned["d"].message == "" and planned["d"].shape is not None


def test_a_backbone_with_one_map_gives_its_stages_to_a_decoder_by_a_button() -> None:
    layers = (node("timm_backbone", "b", model=SMALL), node("unet_decoder", "d", "b"))
    experiment = Experiment(data=Data(size_px=64), network=layers)
    (problem,) = [p for p in problems(experiment) if p.path.startswith("network.d") and p.severity == "error"]
    assert problem.repair == "Let b give its stages and feed it those" and problem.fix is not None
    assert problem.fix.at("network.d.inputs") == ("b:1", "b:2", "b:3", "b:4", "b:5")
    assert plan(problem.fix.network, (1, 64, 64), 2).output == (16, 32, 32)


def test_taps_of_one_size_are_no_food_for_a_u_net() -> None:
    nodes = [
        node("timm_backbone", "b", model="test_vit", output="stages"),
        node("unet_decoder", "d", "b:1", "b:2", "b:3", "b:4"),
    ]
    assert "each smaller than the last: 4 x 4, 4 x 4" in plan(nodes, (3, 64, 64), 2)["d"].message


def test_the_pyramid_is_that_of_segmentation_models_where_that_one_can_be_built() -> None:
    from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder as Theirs

    channels = (4, 8, 16, 32)
    theirs = Theirs([1, *channels], 5, pyramid_channels=16, segmentation_channels=32).eval()
    ours = FPNDecoder(channels, ((32, 32), (16, 16), (8, 8), (4, 4)), 16, 32).eval()
    values = list(theirs.state_dict().values())
    ours.load_state_dict(dict(zip(ours.state_dict(), values, strict=True)))
    maps = [torch.rand(2, c, 32 // 2**k, 32 // 2**k) for k, c in enumerate(channels)]
    torch.testing.assert_close(ours(*maps), theirs(maps))


def test_decoders_over_some_of_the_stages_answer_the_same_in_keras(tmp_path) -> None:
    import keras_twin

    body = node("timm_backbone", "b", model=SMALL, output="stages")
    wired = {"unetplusplus_decoder": TAPS[:3], "fpn_decoder": TAPS[1:4], "deeplab_decoder": ("b:2", "b:4")}
    nets, images = {}, {}
    for name, wires in wired.items():
        layers = (body, node(name, "d", *wires), node("mask_scores", "m"))
        nets[name] = assemble(layers, (1, 64, 64), 3, seed=0).eval()
        images[name] = torch.rand(2, 1, 64, 64)
    nets["boxes"] = assemble((body, node("box_head", "h", "b:3", "b:4")), (1, 64, 64), 3, seed=0).eval()
    images["boxes"] = torch.rand(2, 1, 64, 64)
    found = keras_twin.asked(nets, images, tmp_path)
    assert {name: told for name, told in found.items() if isinstance(told, str) or not told < 1e-4} == {}


def test_the_u_net_is_that_of_segmentation_models() -> None:
    from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder as Theirs

    channels = (4, 8, 16)
    ours = UnetDecoder(channels, ((16, 16), (8, 8), (4, 4)), (32, 32), 4, "scan", attention=False).eval()
    theirs = Theirs([1, *channels], [16, 8, 4], n_blocks=3).eval()
    theirs.load_state_dict(ours.steps.state_dict())
    maps = [torch.rand(1, c, 16 // 2**k, 16 // 2**k) for k, c in enumerate(channels)]
    assert torch.equal(ours(*maps), theirs([torch.rand(1, 1, 32, 32), *maps]))


# -- heads ------------------------------------------------------------------------------------------------------------


def test_mask_scores_come_at_the_size_of_the_scan_or_of_the_maps() -> None:
    x = torch.rand(2, 6, 8, 8)
    assert MaskScores(6, 3, (32, 24))(x).shape == (2, 3, 32, 24)
    assert MaskScores(6, 3, (32, 24), full_size=False)(x).shape == (2, 3, 8, 8)
    flat = MaskScores(6, 3, (32, 24))
    nn.init.zeros_(flat.scores.weight)
    assert flat.scores.bias is not None
    nn.init.constant_(flat.scores.bias, 2.0)
    assert torch.equal(flat(x), torch.full((2, 3, 32, 24), 2.0))


def test_every_place_of_a_box_head_knows_where_it_lies_on_the_scan() -> None:
    head = BoxHead((6, 8), ((4, 3), (2, 2)), 5, (32, 24)).eval()
    out = head(torch.rand(2, 6, 4, 3), torch.rand(2, 8, 2, 2))
    assert out.shape == (2, 12 + 4, 5 + 5) and (out[..., 5:9] >= 0).all()
    centers = head.get_buffer("centers")
    assert centers[:4].tolist() == [[4, 4], [12, 4], [20, 4], [4, 12]]
    assert centers[12:].tolist() == [[6, 8], [18, 8], [6, 24], [18, 24]]


def test_the_distances_of_a_box_head_are_pixels_of_the_scan() -> None:
    head = BoxHead((4,), ((2, 4),), 2, (32, 32)).eval()
    regression = head.towers.regression_head
    nn.init.zeros_(regression.bbox_reg.weight)
    nn.init.ones_(regression.bbox_reg.bias)  # one step of the map: 8 px across, 16 px down
    assert head(torch.rand(1, 4, 2, 4))[0, :, 2:6].unique(dim=0).tolist() == [[8, 16, 8, 16]]


def test_a_picture_may_be_learned_as_what_to_add_to_the_scan() -> None:
    head = ImageHead((6, 1), 1, (16, 16), residual=True)
    nn.init.zeros_(head.picture.weight)
    assert head.picture.bias is not None
    nn.init.zeros_(head.picture.bias)
    scan = torch.rand(2, 1, 16, 16)
    assert torch.equal(head(torch.rand(2, 6, 8, 8), scan), scan)


@pytest.mark.parametrize(
    ("params", "wires", "words"),
    [
        ({"residual": True}, ("a",), "needs the scan itself as its second input"),
        ({"residual": True}, ("a", "a"), "must be the scan (1 channels), not 6 maps"),
        ({}, ("a", "input"), "only where it learns the difference"),
    ],
)
def test_an_image_head_that_is_wired_wrongly_is_told_in_words(params: dict, wires: tuple[str, ...], words: str) -> None:
    nodes = [node("conv2d", "a", out_channels=6), node("image_head", "h", *wires, **params)]
    assert words in plan(nodes, (1, 16, 16), 2)["h"].message


@pytest.mark.parametrize(
    "layers",
    [
        (node("conv2d", "a", out_channels=6), node("image_head", "h", "a", "input", residual=True)),
        (node("timm_backbone", "b", model=SMALL, output="stages"), node("box_head", "h", "b:3", "b:4", "b:5")),
        (node("timm_stage", "b", model=SMALL), node("timm_stage", "c", model=SMALL, stage=2)),
    ],
    ids=["image", "boxes", "stages"],
)
def test_the_export_of_heads_and_stages_computes_the_same(layers: tuple[Node, ...]) -> None:
    experiment = Experiment(data=Data(size_px=64), network=layers)
    assert Experiment.loads(experiment.dumps()) == experiment
    net = assemble(layers, (1, 64, 64), 3, seed=0).eval()
    export = owned(experiment, 3).eval()
    export.load_state_dict({key.removeprefix("layers."): value for key, value in net.state_dict().items()})
    x = torch.rand(2, 1, 64, 64)
    assert torch.equal(export(x), net(x))
