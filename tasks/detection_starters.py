"""Ready experiments of lesion detection, the simplest first, and when to take which."""

from __future__ import annotations

from typing import Any

from builder.spec import Choice, Data, Experiment, Node, Training

WHEN = {
    "small-detector": (
        "For a first look and for small pictures: a few layers of your own, seen at two finenesses, that learn from "
        "nothing in a few minutes without a GPU. Take it to see whether lesions can be found at all, and as the score "
        "that anything larger has to beat."
    ),
    "efficientnet-fcos": (
        "The first choice for real scans: begins with what it learned on a million photographs, looks at three or four "
        "sizes of lesions at once, and needs no sizes of boxes to be set. Good with some dozens to hundreds of scans."
    ),
    "efficientnet-fine": (
        "For small lesions in large scans: as efficientnet-fcos, with one more, finer level (a place every four "
        "pixels). Finds what is only a few pixels wide; slower and hungrier for memory."
    ),
    "efficientnet-retinanet": (
        "The same network with set sizes and shapes of boxes (RetinaNet). It learns more slowly from few scans; take "
        "it where lesions are all of much the same size and shape, or to compare with published work."
    ),
    "efficientnet-two-stage": (
        "The same network in two steps (after Faster R-CNN): it proposes places first and looks at each of them again. "
        "Take it where what is found is often something else that looks alike; slower than efficientnet-fcos."
    ),
    "slices-fcos": (
        "For series and volumes: looks at every slice, with the slice before and the one after it as colours (2.5-D), "
        "so that a vessel that goes on is told from a nodule that ends."
    ),
}

_GEOMETRY = (
    Choice(name="flip_horizontal"),
    Choice(name="zoom", params={"low": 0.8, "high": 1.25, "probability": 0.7}),
    Choice(name="shift", params={"fraction": 0.08, "probability": 0.7}),
)
_GREY = (Choice(name="brightness"), Choice(name="contrast"))


def _node(id: str, name: str, inputs: tuple[str, ...] = (), **params: Any) -> Node:
    return Node(id=id, name=name, inputs=inputs, params=params)


def _level(number: int, channels: int, stride: int) -> list[Node]:
    """A convolution, its norm and activation."""
    return [
        _node(f"conv_{number}", "conv2d", out_channels=channels, stride=stride, bias=False),
        _node(f"norm_{number}", "batch_norm"),
        _node(f"act_{number}", "relu"),
    ]


def _small() -> Experiment:
    """Four levels from nothing, a pyramid over the last two."""
    nodes = [
        *_level(1, 16, 2),
        *_level(2, 32, 2),
        _node("block_2", "residual_block", out_channels=32),
        *_level(3, 64, 2),
        _node("block_3", "residual_block", out_channels=64),
        _node("pyramid", "feature_pyramid", ("block_2", "block_3"), out_channels=64),
        _node("boxes", "box_head", ("pyramid:1", "pyramid:2"), hidden=64, num_convs=1),
    ]
    return Experiment(
        name="small-detector",
        task="lesion_detection",
        data=Data(size_px=96),
        network=tuple(nodes),
        training=Training(
            optimizer=Choice(name="adamw", params={"lr": 0.004}),
            schedule=Choice(name="one_cycle"),
            augment=(*_GEOMETRY, *_GREY),
            epochs=25,
            batch_size=16,
            l2=0.01,
            clip_norm=5.0,
            monitor="map50",
        ),
    )


def _efficientnet(name: str, stages: tuple[int, ...], head: str, data: Data, **more: Any) -> Experiment:
    """The packaged ImageNet backbone, a pyramid over some of its stages, a head over its levels."""
    wires = tuple(f"backbone:{k}" for k in stages)
    levels = tuple(f"pyramid:{k}" for k in range(1, len(stages) + 1))
    nodes = (
        _node(
            "backbone",
            "timm_backbone",
            model="tf_efficientnet_lite0",
            weights="installed package",
            output="stages",
        ),
        _node("pyramid", "feature_pyramid", wires, out_channels=96),
        _node("boxes", head, levels, hidden=96, num_convs=2),
    )
    settings: dict[str, Any] = {
        "optimizer": Choice(name="adamw", params={"lr": 0.001}),
        "schedule": Choice(name="one_cycle"),
        "augment": (*_GEOMETRY, *_GREY),
        "epochs": 25,
        "batch_size": 8,
        "l2": 0.01,
        "clip_norm": 5.0,
        "monitor": "map50",
    }
    return Experiment(
        name=name, task="lesion_detection", data=data, network=nodes, training=Training(**settings, **more)
    )


_COLOUR = Data(size_px=320, colour="rgb", normalize="imagenet")
STARTERS = (
    _small(),
    _efficientnet("efficientnet-fcos", (3, 4, 5), "box_head", _COLOUR),
    _efficientnet("efficientnet-fine", (2, 3, 4, 5), "box_head", _COLOUR),
    _efficientnet("efficientnet-retinanet", (3, 4, 5), "anchor_head", _COLOUR),
    _efficientnet("efficientnet-two-stage", (3, 4, 5), "two_stage_head", _COLOUR),
    _efficientnet(
        "slices-fcos",
        (3, 4, 5),
        "box_head",
        Data(size_px=256, colour="neighbours", normalize="imagenet", slices="each"),
    ),
)
