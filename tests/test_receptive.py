"""The receptive field that planning tells is the one that the gradient shows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from builder.blocks.norm import LayerNorm2d
from builder.blocks.pooling import AdaptivePool, GlobalPool
from builder.blocks.residual import ResidualBlock
from builder.network import plan, plan_of
from builder.parts.layers import LAYERS
from builder.receptive import Tracker
from builder.spec import Node
from builder.task import find

SIDE = 40


def told(module: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
    """What one output of `module` sees of each axis but the first, as the tracker says."""
    with torch.device("meta"):
        x = torch.empty((2, *shape))
    module = module.to("meta").eval()
    with torch.no_grad(), Tracker([x]) as tracker:
        out = module(x)
    return tracker.field(out).reaches({(0, d): size for d, size in enumerate(shape) if d})


def measured(module: nn.Module, shape: tuple[int, ...], samples: int = 24, around: int = 3) -> tuple[int, ...]:
    """The widest extent of the gradient of an inner output with respect to the scan.

    Many random scans, so that each place of a pooling window is the largest at some time; several outputs, since those
    of an upsampling see differently much.
    """
    torch.manual_seed(0)
    module = module.eval()
    for parameter in module.parameters():
        nn.init.uniform_(parameter, 0.05, 0.2)
    x = torch.rand(samples, *shape, requires_grad=True)
    out = module(x)
    places = [[()]] if out.dim() == 2 else [range(n // 2 - around, n // 2 + around) for n in out.shape[2:]]
    widest = [0] * (len(shape) - 1)
    for place in torch.cartesian_prod(*[torch.tensor(list(p)) for p in places]) if out.dim() > 2 else [()]:
        value = out[(slice(None), slice(None), *[int(i) for i in torch.atleast_1d(place)])] if len(place) else out
        (slope,) = torch.autograd.grad(value.sum(), x, retain_graph=True)
        seen = (slope.abs().sum((0, 1)) > 0).nonzero()
        extent = seen.max(0).values - seen.min(0).values + 1
        widest = [max(w, int(e)) for w, e in zip(widest, extent, strict=True)]
    return tuple(widest)


def conv(*args: int, **settings: int) -> nn.Conv2d:
    return nn.Conv2d(*args, **settings)  # type: ignore[arg-type]


CASES: dict[str, Callable[[], nn.Module]] = {
    "a convolution": lambda: conv(1, 3, 5, padding=2),
    "a stride": lambda: nn.Sequential(conv(1, 2, 5, stride=2, padding=2), conv(2, 2, 3, stride=2, padding=1)),
    "dilation": lambda: nn.Sequential(conv(1, 2, 3, dilation=4, padding=4), nn.ReLU(), conv(2, 2, 3, dilation=2)),
    "no padding, uneven windows": lambda: nn.Sequential(conv(1, 2, 4), nn.AvgPool2d(3, 2), conv(2, 2, 2)),
    "pooling": lambda: nn.Sequential(conv(1, 2, 3, padding=1), nn.MaxPool2d(2), conv(2, 2, 3), nn.MaxPool2d(3, 2, 1)),
    "residual blocks": lambda: nn.Sequential(ResidualBlock(1, 4, 2), ResidualBlock(4, 4)),
    "transposed by two": lambda: nn.Sequential(conv(1, 2, 3, stride=2, padding=1), nn.ConvTranspose2d(2, 2, 4, 2, 1)),
    "transposed, then convolved": lambda: nn.Sequential(
        conv(1, 2, 3, stride=2, padding=1), nn.ConvTranspose2d(2, 2, 3, 2, 1, 1), conv(2, 1, 3, padding=1)
    ),
    "enlarged": lambda: nn.Sequential(
        conv(1, 2, 3, stride=2, padding=1), nn.Upsample(scale_factor=2), conv(2, 1, 3, padding=1)
    ),
    "enlarged smoothly": lambda: nn.Sequential(
        conv(1, 2, 3, stride=2, padding=1), nn.Upsample(scale_factor=2, mode="bilinear"), conv(2, 1, 3, padding=1)
    ),
    "pixel shuffle": lambda: nn.Sequential(
        conv(1, 8, 3, stride=2, padding=1), nn.PixelShuffle(2), conv(2, 1, 3, padding=1)
    ),
    "pixel unshuffle": lambda: nn.Sequential(conv(1, 2, 3, padding=1), nn.PixelUnshuffle(2), conv(8, 1, 3, padding=1)),
    "adaptive pooling": lambda: nn.Sequential(conv(1, 2, 3, padding=1), AdaptivePool(8)),
    "global pooling": lambda: nn.Sequential(conv(1, 2, 3, padding=1), GlobalPool("average")),
    "norms by the place": lambda: nn.Sequential(conv(1, 8, 3, padding=1), nn.BatchNorm2d(8), LayerNorm2d(8)),
    "mirrored border": lambda: nn.Sequential(nn.ReflectionPad2d(2), conv(1, 2, 5)),
    "patches": lambda: nn.Sequential(conv(1, 4, 8, stride=8), nn.GELU()),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_told_is_what_the_gradient_shows(name: str) -> None:
    shape = (1, SIDE, SIDE)
    around = 2 if name in ("adaptive pooling", "patches") else 3
    assert told(CASES[name](), shape) == measured(CASES[name](), shape, around=around)


def test_every_starter_is_told_as_its_gradient_shows() -> None:
    """On the last layer that keeps a picture, with a scan so large that its border is not met."""
    from builder.network import assemble

    for experiment in find("recognition").starters():
        nodes = experiment.network
        if experiment.data.layout != "maps" or any(n.name.startswith("timm_") for n in nodes):
            continue
        shape = (experiment.data.channels, 200, 200)
        planned = plan(nodes, shape, 2)
        pictures = [k for k, n in enumerate(planned.nodes) if n.layout == "maps"]
        if not pictures:
            continue
        last = pictures[-1]
        net = assemble(nodes[: last + 1], shape, 2, seed=0)
        assert planned.nodes[last].receptive_field == measured(net, shape, samples=4, around=1), experiment.name


@pytest.mark.parametrize("name", [s.name for s in LAYERS.values() if s.group in ("Activation", "Regularization")])
def test_no_activation_and_no_dropout_looks_further_than_its_own_place(name: str) -> None:
    layouts = LAYERS[name].takes or ("maps",)
    shape = {"sequence": (16, 8), "maps": (8, 16, 12), "volume": (8, 6, 16, 12)}[
        [k for k in layouts if k != "vector"][-1]
    ]
    (found,) = plan([Node(id="a", name=name)], shape, 2, [k for k in layouts if k != "vector"][-1]).nodes
    assert set(found.receptive_field) == {1}


def test_after_a_linear_layer_all_is_seen_and_a_plain_flatten_changes_nothing() -> None:
    nodes = [Node(id="c", name="conv2d"), Node(id="f", name="flatten"), Node(id="l", name="linear")]
    planned = plan(nodes, (1, 16, 20), 2)
    assert [n.receptive_field for n in planned.nodes] == [(3, 3), (3, 3), (16, 20)]


def test_a_skip_sees_what_its_widest_branch_sees() -> None:
    nodes = [
        Node(id="a", name="conv2d", params={"kernel_size": 3, "padding": 1}),
        Node(id="b", name="conv2d", params={"kernel_size": 7, "padding": 3}),
        Node(id="c", name="add", inputs=("a", "b")),
    ]
    assert plan(nodes, (1, 32, 32), 2)["c"].receptive_field == (9, 9)


def test_each_slice_of_a_series_sees_itself_until_slices_are_joined() -> None:
    nodes = [
        Node(id="conv", name="conv2d"),
        Node(id="pool", name="global_pool"),
        Node(id="flat", name="flatten"),
        Node(id="out", name="linear"),
    ]
    planned = plan(nodes, (5, 1, 16, 16), 2, "series")
    assert [n.receptive_field for n in planned.nodes] == [(1, 3, 3), (1, 16, 16), (1, 16, 16), (5, 16, 16)]


def test_a_layer_that_fits_nowhere_has_no_receptive_field_and_those_below_neither() -> None:
    nodes = [Node(id="a", name="linear"), Node(id="b", name="relu")]
    assert [n.receptive_field for n in plan(nodes, (1, 8, 8), 2).nodes] == [(), ()]


def test_what_is_told_never_exceeds_the_scan() -> None:
    experiment = next(e for e in find("recognition").starters() if e.name == "residual-cnn")
    assert all(max(n.receptive_field) <= 128 for n in plan_of(experiment, 2).nodes)


class _Unknown(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.fft2(x).real


def test_an_operator_that_nobody_knows_is_taken_to_see_all() -> None:
    assert told(_Unknown(), (1, 16, 16)) == (16, 16)
