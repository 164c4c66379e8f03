"""Networks for tumour diagnosis to begin from, made of catalogue layers."""

from __future__ import annotations

from typing import Any

from builder.spec import Choice, Data, Experiment, Node, Training

WHEN = {
    "small-unet": (
        "For a first look, and for grey scans of your own when you have dozens to hundreds with outlines: a U-Net "
        "(Ronneberger 2015) of a few layers that learns from nothing in two minutes without a GPU. The type is told "
        "from its deepest maps. The score that anything larger has to beat."
    ),
    "efficientnet-unet": (
        "For few scans, and for most of your own data: an encoder that has seen a million photographs, its five stages "
        "wired into a U-Net decoder. Sharp outlines and the best types; it expects three channels and wants a GPU or "
        "some patience."
    ),
    "efficientnet-fpn": (
        "For tumors of very different sizes in one data set: the same encoder with a feature pyramid (Lin 2017). "
        "Lighter and faster than the U-Net; its outlines are a quarter as fine, which shows on small tumors."
    ),
    "efficientnet-deeplab": (
        "For large tumors whose border is told by what surrounds them (liver, lung, skin): DeepLabV3+ (Chen 2018) "
        "looks at wide surroundings through convolutions with gaps. Less suited to tumors of a few pixels."
    ),
    "unet-neighbours": (
        "For volumes (CT, MR) outlined slice by slice: each slice is looked at with the one before and the one after "
        "it as three channels (2.5-D), so that a vessel is told from a nodule, at the price of a 2-D network. The "
        "answer for the case is made of all its slices, with its volume in millilitres."
    ),
    "unet-3d-patches": (
        "3-D patches, small U-Net: for volumes (CT, MR) whose slices lie close together, up to about three times as "
        "far apart as pixels, when 2.5-D is not enough: outlines hang together from slice to slice, and a ball is told "
        "from a tube. It learns from blocks cut out of the volumes at their own resolution, half on a tumor, so that "
        "large scans cost no more memory than small ones; whole volumes go through it in overlapping blocks. "
        "Several times slower than 2.5-D; with thick slices raise its flat levels, or stay with 2.5-D."
    ),
}

_AUGMENT = (
    Choice(name="rotate", params={"degrees": 15.0}),
    Choice(name="zoom", params={"low": 0.9, "high": 1.15}),
    Choice(name="shift", params={"fraction": 0.06}),
    Choice(name="flip_horizontal"),
    Choice(name="brightness", params={"amount": 0.08}),
    Choice(name="contrast", params={"amount": 0.2}),
)
_Step = tuple[str, str, dict[str, Any], tuple[str, ...]]


def starters() -> tuple[Experiment, ...]:
    """All of them, the simplest first; `name` identifies them."""
    return (
        _starter("small-unet", Data(size_px=96), _training(20, 0.004, 8), *_small_unet(12)),
        _pretrained("efficientnet-unet", _unet),
        _pretrained("efficientnet-fpn", _fpn),
        _pretrained("efficientnet-deeplab", _deeplab),
        _starter(
            "unet-neighbours",
            Data(size_px=64, slices="each", colour="neighbours"),
            _training(12, 0.004, 16),
            *_small_unet(12),
        ),
        _starter(
            "unet-3d-patches",
            Data(size_px=32, num_slices=8, slices="volume", fit="patches", num_patches=6),
            _training(16, 0.004, 6),
            ("unet", "monai_unet", {"width": 12, "levels": 3, "flat_levels": 1}, ()),
            ("answer", "type_and_outline", {}, ("unet", "unet:1")),
        ),
    )


def _training(epochs: int, rate: float, batch_size: int) -> Training:
    return Training(
        optimizer=Choice(name="adamw", params={"lr": rate}),
        schedule=Choice(name="one_cycle"),
        augment=_AUGMENT,
        epochs=epochs,
        batch_size=batch_size,
        l2=0.01,
        monitor="dice",
    )


def _small_unet(width: int) -> tuple[_Step, ...]:
    """Four levels of two convolutions, each half as large and twice as wide as the one above."""
    steps: list[_Step] = []
    for level in range(1, 5):
        if level > 1:
            steps.append((f"down_{level}", "max_pool", {}, ()))
        for part in ("a", "b"):
            steps += [
                (f"conv_{level}{part}", "conv2d", {"out_channels": width * 2 ** (level - 1), "bias": False}, ()),
                (f"norm_{level}{part}", "batch_norm", {}, ()),
                (f"relu_{level}{part}", "relu", {}, ()),
            ]
    levels = tuple(f"relu_{level}b" for level in range(1, 5))
    return (
        *steps,
        ("decoder", "unet_decoder", {"out_channels": width}, levels),
        ("answer", "type_and_outline", {}, ("decoder", levels[-1])),
    )


_BACKBONE: _Step = (
    "backbone",
    "timm_backbone",
    {"model": "tf_efficientnet_lite0", "weights": "installed package", "output": "stages"},
    (),
)
_ANSWER: _Step = ("answer", "type_and_outline", {"dropout": 0.3}, ("decoder", "backbone:5"))
_unet: _Step = (
    "decoder",
    "unet_decoder",
    {"out_channels": 16, "resolution": "scan"},
    tuple(f"backbone:{k}" for k in range(1, 6)),
)
_fpn: _Step = (
    "decoder",
    "fpn_decoder",
    {"pyramid_channels": 96, "out_channels": 64},
    tuple(f"backbone:{k}" for k in range(2, 6)),
)
_deeplab: _Step = ("decoder", "deeplab_decoder", {"out_channels": 96, "rate": 6}, ("backbone:2", "backbone:4"))


def _pretrained(name: str, decoder: _Step) -> Experiment:
    data = Data(size_px=160, colour="rgb", normalize="imagenet")
    training = _training(20, 0.0008, 8)
    return _starter(name, data, training, _BACKBONE, decoder, _ANSWER)


def _starter(name: str, data: Data, training: Training, *steps: _Step) -> Experiment:
    nodes = [Node(id=id, name=layer, params=params, inputs=inputs) for id, layer, params, inputs in steps]
    experiment = Experiment(name=name, task="tumor_diagnosis", data=data, training=training)
    return experiment.replace("network", nodes)
