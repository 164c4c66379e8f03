"""Ready experiments of recognition, made of layers of the catalogue, and when to take which."""

from __future__ import annotations

from typing import Any

from builder.spec import Choice, Data, Experiment, Node, Training

NAME = "recognition"
WHEN = {
    "tiny-cnn": (
        "For a first look: a few layers that learn in about a minute without a GPU. Take it for small grey pictures, "
        "to see whether there is anything to learn at all, and as the score that anything larger has to beat."
    ),
    "vgg-style": (
        "For lessons and comparisons: pairs of 3x3 convolutions with a pooling after each, the plainest way to go "
        "deep. Its linear layers see the whole picture, so it suits findings that always lie in the same place; with "
        "few scans it soon learns them by heart."
    ),
    "small-cnn": (
        "For collections of thousands of tiny pictures such as MedMNIST (28 px): residual blocks, strong "
        "augmentation, weights for rare classes. Fast on any machine; too coarse for findings of a few pixels in a "
        "large scan."
    ),
    "residual-cnn": (
        "The first choice for your own pictures when you have some hundreds to thousands of them and want to learn "
        "from nothing: residual blocks at 128 px. It wants a GPU, or patience."
    ),
    "efficientnet-lite0": (
        "For few scans (dozens to hundreds): it begins with what it learned on a million photographs and is "
        "fine-tuned on yours. Often the best figures for pictures, in the fewest epochs; it expects three channels "
        "and is heavier than the others."
    ),
    "efficientnet-multiscale": (
        "For findings of very different sizes, from a speck to a whole organ, when you have hundreds of scans: the "
        "same ImageNet network, looked at after its third, fourth and last stage at once; its first two stages are "
        "kept as they are. Take it where efficientnet-lite0 misses what is small or fine. With a GPU let all of it "
        "learn (frozen stages 0), and longer: 24 epochs at 224 px told 94% of 760 brain MRI pictures right, eight "
        "epochs of its later stages 90%."
    ),
    "cnn-bigru": (
        "For a case of several slices or moments whose order means something: contrast that washes in or out, a "
        "lesion followed from slice to slice, a short clip. The same small CNN looks at each slice, then a GRU reads "
        "what it found from first to last and back. Needs far fewer weights than a 3-D network. Where order means "
        "nothing, a pooling over time instead of the GRU is as good and simpler."
    ),
    "small-3d-cnn": (
        "For small volumes in which a finding reaches over neighbouring slices and its shape in depth matters, such "
        "as nodules in CT. 3-D convolutions see depth as they see height and width, but cost much more memory and "
        "time: begin with few, small slices. With thick slices far apart cnn-bigru is often the better start."
    ),
}
_MILD = (
    Choice(name="rotate", params={"degrees": 10.0}),
    Choice(name="shift", params={"fraction": 0.05}),
    Choice(name="brightness"),
)
_STRONG = (
    Choice(name="rotate", params={"degrees": 10.0, "probability": 1.0}),
    Choice(name="zoom", params={"low": 0.85, "high": 1.15, "probability": 1.0}),
    Choice(name="shift", params={"fraction": 0.08, "probability": 1.0}),
    Choice(name="brightness", params={"amount": 0.1, "probability": 1.0}),
    Choice(name="contrast", params={"amount": 0.3, "probability": 1.0}),
    Choice(name="gamma", params={"amount": 0.3, "probability": 1.0}),
)

_Layer = tuple[str, dict[str, Any]]


def starters() -> tuple[Experiment, ...]:
    """Ready experiments, the simplest first."""
    return (
        _starter(
            "tiny-cnn",
            Data(size_px=64),
            Training(
                optimizer=Choice(name="adamw", params={"lr": 0.01}),
                schedule=Choice(name="one_cycle"),
                augment=(
                    Choice(name="rotate", params={"degrees": 8.0}),
                    Choice(name="shift", params={"fraction": 0.05}),
                    Choice(name="brightness", params={"amount": 0.1}),
                ),
                epochs=30,
                batch_size=16,
                l2=0.01,
            ),
            ("conv2d", {"out_channels": 16, "kernel_size": 5, "stride": 2, "padding": 2, "bias": False}),
            ("batch_norm", {}),
            ("relu", {}),
            ("conv2d", {"out_channels": 24, "bias": False}),
            ("batch_norm", {}),
            ("relu", {}),
            ("max_pool", {}),
            ("conv2d", {"out_channels": 48, "bias": False}),
            ("batch_norm", {}),
            ("relu", {}),
            ("global_pool", {"kind": "both"}),
            ("dropout", {"p": 0.2}),
            ("class_scores", {}),
        ),
        _starter(
            "vgg-style",
            Data(size_px=64),
            Training(
                optimizer=Choice(name="adam", params={"lr": 0.001}),
                schedule=Choice(name="cosine"),
                augment=_MILD,
                epochs=30,
            ),
            *_vgg_level(16),
            *_vgg_level(32),
            *_vgg_level(64),
            ("flatten", {}),
            ("linear", {"out_features": 128}),
            ("relu", {}),
            ("dropout", {"p": 0.5}),
            ("class_scores", {}),
        ),
        _starter(
            "small-cnn",
            Data(size_px=28),
            Training(
                optimizer=Choice(name="adamw", params={"lr": 0.003}),
                schedule=Choice(name="one_cycle"),
                augment=_STRONG,
                epochs=25,
                batch_size=128,
                l2=0.05,
                label_smoothing=0.1,
                balance="weights",
            ),
            ("conv2d", {"out_channels": 16, "bias": False}),
            ("batch_norm", {}),
            ("relu", {}),
            ("residual_block", {"out_channels": 16}),
            ("residual_block", {"out_channels": 32, "stride": 2}),
            ("residual_block", {"out_channels": 64, "stride": 2}),
            ("global_pool", {}),
            ("dropout", {"p": 0.3}),
            ("class_scores", {}),
        ),
        _starter(
            "residual-cnn",
            Data(size_px=128),
            Training(
                optimizer=Choice(name="adamw", params={"lr": 0.002}),
                schedule=Choice(name="one_cycle"),
                augment=_STRONG,
                epochs=40,
                l2=0.05,
                label_smoothing=0.1,
                balance="weights",
            ),
            ("conv2d", {"out_channels": 32, "kernel_size": 5, "stride": 2, "padding": 2, "bias": False}),
            ("batch_norm", {}),
            ("relu", {}),
            ("residual_block", {"out_channels": 32, "stride": 2}),
            ("residual_block", {"out_channels": 64, "stride": 2}),
            ("residual_block", {"out_channels": 64}),
            ("residual_block", {"out_channels": 128, "stride": 2}),
            ("residual_block", {"out_channels": 128}),
            ("global_pool", {}),
            ("dropout", {"p": 0.3}),
            ("class_scores", {}),
        ),
        _starter(
            "efficientnet-lite0",
            Data(size_px=160, colour="rgb", normalize="imagenet"),
            Training(
                optimizer=Choice(name="adamw", params={"lr": 0.0005}),
                schedule=Choice(name="one_cycle"),
                augment=_STRONG,
                epochs=15,
                batch_size=16,
                l2=0.05,
                label_smoothing=0.1,
                balance="weights",
            ),
            ("timm_backbone", {"model": "tf_efficientnet_lite0", "weights": "installed package"}),
            ("global_pool", {}),
            ("dropout", {"p": 0.3}),
            ("class_scores", {}),
        ),
        _multiscale(),
        _starter(
            "cnn-bigru",
            Data(slices="series", num_slices=12, size_px=48),
            Training(
                optimizer=Choice(name="adamw", params={"lr": 0.004}),
                schedule=Choice(name="one_cycle"),
                augment=_MILD,
                epochs=20,
                batch_size=16,
                l2=0.01,
            ),
            ("conv2d", {"out_channels": 12, "kernel_size": 5, "stride": 2, "padding": 2, "bias": False}),
            ("batch_norm", {}),
            ("relu", {}),
            ("conv2d", {"out_channels": 24, "stride": 2, "bias": False}),
            ("batch_norm", {}),
            ("relu", {}),
            ("conv2d", {"out_channels": 32, "bias": False}),
            ("batch_norm", {}),
            ("relu", {}),
            ("global_pool", {"kind": "both"}),
            ("gru", {"units": 32, "bidirectional": True}),
            ("dropout", {"p": 0.2}),
            ("class_scores", {}),
        ),
        _starter(
            "small-3d-cnn",
            Data(slices="volume", num_slices=12, size_px=48),
            Training(
                optimizer=Choice(name="adamw", params={"lr": 0.004}),
                schedule=Choice(name="one_cycle"),
                augment=_MILD,
                epochs=20,
                batch_size=8,
                l2=0.01,
            ),
            ("conv3d", {"out_channels": 12, "stride": 2, "bias": False}),
            ("batch_norm_3d", {}),
            ("relu", {}),
            ("conv3d", {"out_channels": 24, "bias": False}),
            ("batch_norm_3d", {}),
            ("relu", {}),
            ("max_pool_3d", {}),
            ("conv3d", {"out_channels": 48, "bias": False}),
            ("batch_norm_3d", {}),
            ("relu", {}),
            ("global_pool", {"kind": "both"}),
            ("dropout", {"p": 0.2}),
            ("class_scores", {}),
        ),
    )


def _vgg_level(channels: int) -> tuple[_Layer, ...]:
    """Two convolutions and a pooling (Simonyan and Zisserman 2015), with the batch norms that came later."""
    one: tuple[_Layer, ...] = (("conv2d", {"out_channels": channels, "bias": False}), ("batch_norm", {}), ("relu", {}))
    return (*one, *one, ("max_pool", {}))


def _multiscale() -> Experiment:
    """Stages of an ImageNet backbone at three depths, each pooled, side by side (after Hariharan et al. 2015).

    Their features lie on scales of their own, maxima far above means: without the norm the first steps have a gradient
    of 100 and more, which is cut, and an epoch is lost on it.
    """
    experiment = Experiment(
        name="efficientnet-multiscale",
        task=NAME,
        data=Data(size_px=160, colour="rgb", normalize="imagenet"),
        training=Training(
            optimizer=Choice(name="adamw", params={"lr": 0.0005}),
            schedule=Choice(name="one_cycle"),
            augment=_STRONG,
            epochs=15,
            batch_size=16,
            l2=0.05,
            label_smoothing=0.1,
            balance="weights",
        ),
    )
    body = {
        "model": "tf_efficientnet_lite0",
        "weights": "installed package",
        "output": "stages",
        "frozen_stages": 2,
    }
    nodes = [Node(id="backbone", name="timm_backbone", params=body)]
    nodes += [
        Node(id=f"pool_{k}", name="global_pool", params={"kind": "both"}, inputs=(f"backbone:{k}",)) for k in (3, 4, 5)
    ]
    nodes += [
        Node(id="scales", name="concatenate", inputs=("pool_3", "pool_4", "pool_5")),
        Node(id="norm", name="batch_norm_1d"),
        Node(id="dropout", name="dropout", params={"p": 0.3}),
        Node(id="scores", name="class_scores"),
    ]
    return experiment.replace("network", nodes)


def _starter(name: str, data: Data, training: Training, *layers: _Layer) -> Experiment:
    experiment = Experiment(name=name, task=NAME, data=data, training=training)
    for layer, params in layers:
        experiment = experiment.insert(Node(id=experiment.fresh_id(layer), name=layer, params=params))
    return experiment
