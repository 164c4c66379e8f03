"""Every layer of the catalogue in Keras and in ONNX: the same answers within 1e-4, or a reason in words why not.

All layers are asked together: one process of Keras, a few graphs of ONNX. Backbones have tests of their own. A layer
that takes several layouts is asked for one in `make test`, and every other layer in ONNX; the rest is asked in
`make exhaustive`.
"""

from __future__ import annotations

import logging
from math import prod
from pathlib import Path

import keras_twin
import numpy as np
import onnxruntime
import pytest
import torch
from test_parts import LAYERS, alone, layouts_of, shape_of
from tiers import covering
from torch import nn

from builder.network import assemble
from builder.onnx_operators import OPSET
from builder.tracing import trace

TOLERANCE = 1e-4
ACTIVATIONS = {"relu", "leaky_relu", "relu6", "elu", "gelu", "selu", "silu", "mish", "hardswish", "sigmoid", "tanh"}
POINTWISE = ACTIVATIONS | {"add", "multiply", "dropout"}
"""Layers that see one number at a time: what a format makes of them does not know the layout, so two are enough."""
CASES = {
    f"{spec.name}_{layout}": (spec, layout)
    for spec in LAYERS.values()
    for layout in layouts_of(spec)
    if (not spec.takes or layout in spec.takes) and not spec.target.startswith("builder.blocks.backbone:")
    if spec.name not in POINTWISE or layout in ("vector", "volume")
}
FIRST = {next(name for name, (one, _) in CASES.items() if one is spec) for spec, _ in CASES.values()}
OTHERS = set(CASES) - FIRST
AT_ONCE = 12  # layers in one graph: what torch's exporter does to all of it takes longer and longer
NOT_IN_KERAS = {
    "unet_decoder_maps": "new_empty",
    "two_stage_head_maps": "the operator ge",
    "fpn_decoder_maps": "a figure over the scans of a batch",
}
"""Layers that Keras cannot carry, with the word of the reason that the user reads."""


@pytest.fixture(params=covering(["first", "others"], lambda place, which: place == 0), scope="module")
def layers(request: pytest.FixtureRequest) -> dict[str, tuple[nn.Module, torch.Tensor]]:
    """Each layer with weights and running statistics that are not those of the start, and three scans for it."""
    found: dict[str, tuple[nn.Module, torch.Tensor]] = {}
    for name, (spec, layout) in CASES.items():
        if name not in (FIRST if request.param == "first" else OTHERS):
            continue
        shape = shape_of(spec, layout)
        net = assemble(alone(spec, layout=layout), shape, 3, layout, seed=0).eval()
        generator = torch.Generator().manual_seed(1)
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None:
                module.running_mean.uniform_(-0.3, 0.3, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)  # type: ignore[union-attr]
        found[name] = net, torch.randn(3, *shape, generator=generator)
    return found


@pytest.mark.slow
def test_keras_computes_what_every_layer_computes_or_says_why_it_cannot(layers, tmp_path: Path) -> None:
    nets = {name: net for name, (net, _) in layers.items()}
    told = keras_twin.asked(nets, {name: scans for name, (_, scans) in layers.items()}, tmp_path)
    refused = {name: words for name, words in told.items() if isinstance(words, str)}
    assert {n: w for n, w in refused.items() if not w.startswith("unsupported: ") or n not in NOT_IN_KERAS} == {}
    assert all(reason in refused.get(name, reason) for name, reason in NOT_IN_KERAS.items())
    assert {name: d for name, d in told.items() if not isinstance(d, str) and not d < TOLERANCE} == {}
    assert set(told) == set(layers)


class Together(nn.Module):
    """Layers side by side: one long row of numbers in, of which each takes the first it needs; all answers out."""

    def __init__(self, layers: dict[str, tuple[nn.Module, torch.Tensor]]):
        super().__init__()
        self.nets = nn.ModuleDict({name: net for name, (net, _) in layers.items()})
        self.shapes = {name: tuple(scans.shape[1:]) for name, (_, scans) in layers.items()}

    def forward(self, row: torch.Tensor) -> torch.Tensor:
        scans = {name: row[:, : prod(shape)].unflatten(1, shape) for name, shape in self.shapes.items()}
        return torch.cat([net(scans[name]).flatten(1) for name, net in self.nets.items()], dim=1)


@pytest.mark.slow
@pytest.mark.parametrize("half", covering([0, 1], lambda place, half: half == 0))
def test_onnx_computes_what_every_layer_computes(layers, half: int) -> None:
    names, differ, told = list(layers)[half::2], {}, 0
    for start in range(0, len(names), AT_ONCE):
        net = Together({name: layers[name] for name in names[start : start + AT_ONCE]}).eval()
        longest = max(prod(shape) for shape in net.shapes.values())
        logging.disable(logging.WARNING)
        try:
            # Optimized, as exports are: else the bias that a 3-D convolution does not have comes out without a size.
            made = torch.onnx.export(trace(net, (longest,)), dynamo=True, verbose=False, opset_version=OPSET)
        finally:
            logging.disable(logging.NOTSET)
        assert made is not None
        session = onnxruntime.InferenceSession(made.model_proto.SerializeToString())
        row = torch.randn(3, longest, generator=torch.Generator().manual_seed(2))
        answer = session.run(None, {session.get_inputs()[0].name: row.numpy()})[0]
        with torch.inference_mode():
            ours = {
                name: one(row[:, : prod(net.shapes[name])].unflatten(1, net.shapes[name]))
                for name, one in net.nets.items()
            }
        edges = np.cumsum([0, *(out[0].numel() for out in ours.values())])
        for (name, out), low, high in zip(ours.items(), edges[:-1], edges[1:], strict=True):
            gap = float(np.abs(answer[:, low:high] - out.flatten(1).numpy()).max())
            if not gap < TOLERANCE:
                differ[name] = gap
            told += 1
    assert differ == {} and told == len(names)
