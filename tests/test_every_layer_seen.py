"""Every layer of the catalog, on everything it works on: its receptive field bounds its gradient, it can be looked at,
and its computational graph can be drawn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from test_parts import alone, every_layer, shape_of
from torch import nn
from torch.nn.modules.instancenorm import _InstanceNorm as InstanceNorm

from builder import drawing, graph, look
from builder.catalog import LayerSpec
from builder.network import SEEN, assemble, plan
from builder.spec import Experiment


@every_layer
def test_no_number_is_moved_by_more_than_its_receptive_field(spec: LayerSpec, layout: str) -> None:
    """What the gradient of single numbers shows lies within what is told; a norm's statistics are left out."""
    nodes, shape = alone(spec, layout=layout), shape_of(spec, layout)
    planned = plan(nodes, shape, 3, layout)
    told = planned.nodes[-1].receptive_field
    assert len(told) == len(planned.extent) and all(0 <= t <= n for t, n in zip(told, planned.extent, strict=True))
    net = assemble(nodes, shape, 3, layout, seed=0).eval()
    if any(isinstance(m, nn.GroupNorm | nn.LayerNorm | InstanceNorm) for m in net.modules()):
        pytest.skip("its statistics see all, and are not counted (builder/receptive.py says so)")
    x = torch.randn(1, *shape, generator=torch.Generator().manual_seed(1), requires_grad=True)
    out = net(x).flatten()
    other = tuple(d for d in range(len(shape)) if d not in SEEN[layout])
    for place in np.linspace(0, len(out) - 1, 7).astype(int).tolist() if told else ():
        (slope,) = torch.autograd.grad(out[place], x, retain_graph=True, allow_unused=True)
        if slope is None or not slope.abs().sum():
            continue
        moved = (slope[0] != 0).sum(dim=other) if other else slope[0]
        found = moved.nonzero()
        extent = (found.max(0).values - found.min(0).values + 1).tolist()
        assert all(e <= t for e, t in zip(extent, told, strict=True)), f"{extent} of {told}"


@every_layer
def test_a_layer_can_be_looked_at(spec: LayerSpec, layout: str, tmp_path: Path) -> None:
    nodes, shape = tuple(alone(spec, layout=layout)), shape_of(spec, layout)
    planned = plan(nodes, shape, 3, layout)
    net = assemble(nodes, shape, 3, layout, seed=0).eval()
    scans = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    subject = look.Subject(Experiment(network=nodes), nodes, planned, net, scans, scans[0], "noise", "random")
    answer = look.look(subject, tmp_path)
    json.dumps(answer, allow_nan=False)
    told = answer["layers"]["layer"]
    assert told["shape"] == list(planned["layer"].shape or ()) and told["wild"] == 0
    kept = np.load(tmp_path / told["maps"], allow_pickle=False)
    assert kept.ndim == (1 if planned["layer"].layout == "vector" else 3) and np.isfinite(kept).all()
    for kernels in told["kernels"]:
        assert np.load(tmp_path / kernels["file"], allow_pickle=False).ndim == 4


@every_layer
def test_a_layers_graph_can_be_drawn_forward_and_back(spec: LayerSpec, layout: str) -> None:
    nodes, shape = alone(spec, layout=layout), shape_of(spec, layout)
    with torch.device("meta"):
        net = assemble(nodes, shape, 3, layout, trained=True)
        scan = torch.empty((4, *shape))
    layers = (("input", "Scan"), *((n.id, n.id) for n in nodes), (graph.LOSS, "Loss"))
    traced = graph.record(net, scan, nodes, layers)
    assert [o for o in traced.of("layer") if o.kind == "forward"] or spec.name == "flatten"
    weights = {o.note for o in traced.of("layer") if o.kind == "weight"}
    own = {name for name, p in net.get_submodule("layers")["layer"].named_parameters() if p.requires_grad}  # type: ignore[index]
    assert weights == own
    for detail in ("layers", "operations"):
        assert "nan" not in drawing.graph_drawing(traced, detail=detail).svg.lower()
