"""One small member of every family of timm: planned, built, taught for a step, with its stages as taps.

Being able to name any of timm's models is a promise about all of them; families differ more than members of one.
"""

import pytest
import torch
from tiers import covering

from builder.network import assemble, plan
from builder.spec import Node

FAMILIES = [
    "test_byobnet",
    "cait_xxs24_224",
    "coat_tiny",
    "convit_tiny",
    "test_convnext",
    "cpubone_nano",
    "cspnext_tiny",
    "deit_tiny_patch16_224",
    "densenet121",
    "dla46_c",
    "dpn48b",
    "edgenext_xx_small",
    "efficientformerv2_s0",
    "test_efficientnet",
    "efficientvim_m1",
    "efficientvit_b0",
    "efficientvit_m0",
    "eva02_tiny_patch14_224",
    "fasternet_t0",
    "fastvit_t8",
    "gcvit_xxtiny",
    "ghostnet_050",
    "gmixer_12_224",
    "hardcorenas_b",
    "hgnetv2_b0",
    "iformer_s",
    "inception_next_atto",
    "lcnetv2_small",
    "legacy_seresnet18",
    "levit_128s",
    "lowformer_b0",
    "test_mambaout",
    "test_maxvit",
    "mobilenetv3_small_050",
    "mobilevit_xxs",
    "test_nfnet",
    "pit_ti_224",
    "pvt_v2_b0",
    "regnetx_002",
    "repghostnet_050",
    "repvit_m1",
    "resnest14d",
    "test_resnet",
    "resnetv2_18",
    "rexnet_100",
    "shvit_s1",
    "skresnet18",
    "starnet_s050",
    "swiftformer_xs",
    "tiny_vit_5m_224",
    "visformer_tiny",
    "test_vit",
    "vit_tiny_r_s16_p8_224",
    "test_vit_relpos",
    "xcit_nano_12_p8_224",
]
"""By the module of timm that they are written in; the smallest member of each that timm has."""

NOT_AT_64_PX = ("efficientformer_l1", "crossvit_tiny_240", "halonet_h1", "inception_v3")
"""Made for other sizes and for nothing else: refused in words."""


def backbone(model: str, output: str) -> list[Node]:
    return [Node(id="b", name="timm_backbone", params={"model": model, "output": output})]


def test_the_families_are_as_many_as_promised_and_none_twice() -> None:
    from timm.models._registry import _model_to_module

    modules = [_model_to_module[model] for model in FAMILIES]
    assert len(set(modules)) == len(modules) >= 40, [m for m in modules if modules.count(m) > 1]


@pytest.mark.slow
@pytest.mark.parametrize("model", covering(FAMILIES, lambda place, model: place % 5 == 1))
def test_a_family_is_planned_built_and_taught_with_its_stages_as_taps(model: str) -> None:
    torch.set_num_threads(1)
    layers = backbone(model, "stages")
    planned = plan(layers, (3, 64, 64), 2)["b"]
    assert planned.message == "" and len(planned.taps) >= 3
    sizes = [tap[1] for tap in planned.taps]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] >= 1
    net = assemble(layers, (3, 64, 64), 2, seed=0).train()
    assert sum(p.numel() for p in net.parameters()) == planned.parameters
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    torch.manual_seed(0)
    found = net.layers["b"](torch.rand(2, 3, 64, 64))
    assert [tuple(y.shape[1:]) for y in found] == list(planned.taps)
    torch.stack([(y * torch.randn_like(y)).mean() for y in found]).sum().backward()
    silent = [name for name, p in net.named_parameters() if p.requires_grad and p.grad is None]
    assert silent == []
    optimizer.step()
    moved = [name for name, p in net.named_parameters() if not torch.equal(p, before[name])]
    assert len(moved) > len(before) / 5 and all(p.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("model", NOT_AT_64_PX)
def test_a_model_for_other_sizes_is_refused_in_words(model: str) -> None:
    said = plan(backbone(model, "stages"), (3, 64, 64), 2)["b"].message
    assert model in said and "64 px" in said
