"""Ready experiments of image enhancement, made of layers of the catalogue, and clean phantoms for a first go."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from builder.spec import Choice, Data, Experiment, Node, Training
from tasks import phantoms

NAME = "image_enhancement"
WHEN = {
    "dncnn": (
        "The first choice against noise, and the baseline of all others: eight convolutions learn the noise, which is"
        " taken off the scan (after DnCNN, Zhang 2017). It looks only a few pixels around each pixel, so that it "
        "cannot invent much, learns in a minute or two without a GPU, and gives the same result however a scan is cut"
        " into tiles."
    ),
    "red-cnn": (
        "For CT at low dose, the network most others are measured against (RED-CNN, Chen 2017): convolutions and "
        "their mirror image, with shortcuts between them. Slower than dncnn, a little wider view; take it to compare "
        "with the literature."
    ),
    "residual-unet": (
        "For what reaches further than a few pixels, such as ripples, streaks and broad blur: a small U-Net that also"
        " looks at coarser versions of the scan. More weights; wants hundreds of slices."
    ),
    "nafnet-small": (
        "For the best figures when time is at hand: blocks without activation functions, in which channels gate each "
        "other (NAFNet, Chen 2022). Slower per step than dncnn, and learns longer before it overtakes it."
    ),
    "low-dose-ct": (
        "For CT in Hounsfield units: a quarter of the dose is imitated in the picture, by the noise that each scan has "
        "itself, and a small U-Net learns the way back, over the whole range from air to bone. Give it many slices: "
        "from a few dozen it does not pass non-local means by much. No method can gain more than 6 dB where there is "
        "nothing but noise, since the scans taken as good have their own. See the bias in the evaluation before you "
        "measure in its answers."
    ),
    "edsr-lite-x2": (
        "For scans on too coarse a grid: twice the rows and columns (EDSR, Lim 2017, with pixel shuffle, Shi 2016). "
        "It adds to the bicubically enlarged scan what the training scans taught it. Detail that no pixel holds is "
        "guessed: for looking, not for measuring."
    ),
    "edsr-lite-x4": (
        "Four times the rows and columns. At this step most detail is guessed from what the training scans looked "
        "like; compare with the bicubic picture beside it before you believe any of it."
    ),
}
_CONTRASTS = {"bright lesion": 0.40, "dark lesion": -0.34}
_FLIPS = (Choice(name="flip_horizontal"), Choice(name="flip_vertical"))
_Layer = tuple[str, dict[str, Any]]


def starters() -> tuple[Experiment, ...]:
    """The simplest first."""
    noisy = Choice(name="noise", params={"dark": 0.03, "bright": 0.08})
    quarter = Choice(name="low_dose_ct_own", params={"dose": 0.25})
    return (
        _ended("dncnn", _data(noisy, num_patches=4), _training(0.002, 10), _dncnn(8, 32)),
        _ended("red-cnn", _data(noisy, num_patches=4), _training(0.001, 14), _red_cnn(32)),
        _ended("residual-unet", _data(noisy, num_patches=4), _training(0.002, 14), _unet(24)),
        _ended("nafnet-small", _data(noisy, num_patches=4), _training(0.002, 14), _nafnet(24, 4)),
        _ended(
            "low-dose-ct",
            _data(quarter, num_patches=16, size_px=64, window="ct full"),
            _training(0.001, 40).model_copy(update={"loss": Choice(name="mse")}),
            _unet(24),
        ),
        _ended("edsr-lite-x2", _finer(2), _training(0.002, 14, 16), _edsr(32, 4, 2)),
        _ended("edsr-lite-x4", _finer(4), _training(0.002, 20, 16), _edsr(32, 4, 4)),
    )


def _data(degrade: Choice, num_patches: int, size_px: int = 48, window: str = "stored range") -> Data:
    return Data(size_px=size_px, fit="patches", num_patches=num_patches, window=window, slices="each", degrade=degrade)


def _finer(scale: int) -> Data:
    coarse = Choice(name="downsample", params={"scale": scale})
    return _data(coarse, num_patches=4, size_px=48 if scale == 2 else 24)


def _training(lr: float, epochs: int, batch_size: int = 16) -> Training:
    return Training(
        optimizer=Choice(name="adamw", params={"lr": lr}),
        schedule=Choice(name="one_cycle"),
        augment=_FLIPS,
        epochs=epochs,
        batch_size=batch_size,
        monitor="psnr_db",
    )


def _ended(name: str, data: Data, training: Training, nodes: list[Node]) -> Experiment:
    """The network with a head that adds to the scan what the layers before it found."""
    params: dict[str, Any] = {"residual": True} | ({"scale": data.scale} if data.scale > 1 else {})
    head = Node(id="picture", name="image_head", params=params, inputs=(nodes[-1].id, "input"))
    made = Experiment(name=name, task=NAME, data=data, training=training)
    return made.replace("network", [*nodes, head])


def _chain(prefix: str, layers: list[_Layer], inputs: tuple[str, ...] = ()) -> list[Node]:
    """Layers one after another; the first is fed by `inputs`."""
    return [
        Node(id=f"{prefix}_{k}", name=name, params=params, inputs=inputs if k == 1 else ())
        for k, (name, params) in enumerate(layers, 1)
    ]


def _dncnn(depth: int, channels: int) -> list[Node]:
    """Convolution and ReLU, then convolution, batch norm and ReLU again and again; the head is the last convolution."""
    layers: list[_Layer] = [("conv2d", {"out_channels": channels}), ("relu", {})]
    for _ in range(depth - 2):
        layers += [("conv2d", {"out_channels": channels, "bias": False}), ("batch_norm", {}), ("relu", {})]
    return _chain("layer", layers)


def _red_cnn(channels: int) -> list[Node]:
    """Five convolutions of 5x5 and their mirror image, with sums across; borders are padded so that sizes stay."""
    wide: dict[str, Any] = {"out_channels": channels, "kernel_size": 5, "padding": 2}
    back: dict[str, Any] = {"out_channels": channels, "kernel_size": 5, "stride": 1, "padding": 2}
    nodes: list[Node] = []
    for k in range(1, 6):
        nodes += [Node(id=f"down_{k}", name="conv2d", params=wide), Node(id=f"down_{k}_on", name="relu")]
    for k in range(5, 1, -1):
        nodes.append(Node(id=f"up_{k}", name="transposed_conv2d", params=back))
        if k % 2 == 1:  # after the first and the third step up
            nodes.append(Node(id=f"join_{k}", name="add", inputs=(f"up_{k}", f"down_{k - 1}_on")))
        nodes.append(Node(id=f"up_{k}_on", name="relu"))
    return nodes


def _unet(channels: int) -> list[Node]:
    """Three levels; going up, each is enlarged, joined with the one beside it and mixed."""

    def level(name: str, width: int, feed: tuple[str, ...] = ()) -> list[Node]:
        layers: list[_Layer] = [("conv2d", {"out_channels": width}), ("relu", {})] * 2
        return _chain(name, layers, feed)

    return [
        *level("fine", channels),
        Node(id="halve", name="max_pool"),
        *level("middle", 2 * channels),
        Node(id="quarter", name="max_pool"),
        *level("coarse", 3 * channels),
        Node(id="enlarge_1", name="upsample", params={"mode": "bilinear"}),
        Node(id="beside_middle", name="concatenate", inputs=("enlarge_1", "middle_4")),
        *level("middle_up", 2 * channels),
        Node(id="enlarge_2", name="upsample", params={"mode": "bilinear"}),
        Node(id="beside_fine", name="concatenate", inputs=("enlarge_2", "fine_4")),
        *level("fine_up", channels),
    ]


def _nafnet(channels: int, blocks: int) -> list[Node]:
    layers: list[_Layer] = [("conv2d", {"out_channels": channels}), *[("nafnet_block", {})] * blocks]
    return _chain("layer", layers)


def _edsr(channels: int, blocks: int, scale: int) -> list[Node]:
    """Residual blocks without batch norm (Lim 2017), a long shortcut around them, then pixel shuffle."""
    nodes = [Node(id="first", name="conv2d", params={"out_channels": channels})]
    before = "first"
    for k in range(1, blocks + 1):
        nodes += [
            Node(id=f"block_{k}_a", name="conv2d", params={"out_channels": channels}, inputs=(before,)),
            Node(id=f"block_{k}_on", name="relu"),
            Node(id=f"block_{k}_b", name="conv2d", params={"out_channels": channels}),
            Node(id=f"block_{k}", name="add", inputs=(f"block_{k}_b", before)),
        ]
        before = f"block_{k}"
    nodes.append(Node(id="around", name="add", inputs=(before, "first")))
    for k in range(1, scale // 2 + 1):
        nodes += [
            Node(id=f"spread_{k}", name="conv2d", params={"out_channels": 4 * channels}),
            Node(id=f"finer_{k}", name="pixel_shuffle"),
        ]
    return nodes


def write_clean(folder: Path, seed: int, num_images: int = 96, size_px: int = 96) -> Path:
    """Writes slices of phantoms without any noise as 16-bit PNG files and `labels.csv` (file, label, patient), which it
    gives back. The labels are not needed to learn: with them a recognition run can be asked for a second opinion."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    with open(folder / "labels.csv", "w", newline="", encoding="utf-8") as table:
        rows = csv.writer(table)
        rows.writerow(("file", "label", "patient"))
        made = patient = 0
        while made < num_images:
            anatomy = replace(phantoms.Anatomy.drawn(rng), noise=0.0)
            label = phantoms.CLASSES[patient % len(phantoms.CLASSES)]
            for _ in range(min(int(rng.integers(2, 5)), num_images - made)):
                image, _ = phantoms.draw(rng, anatomy, _CONTRASTS.get(label), size_px)
                Image.fromarray(image).save(folder / f"clean-{made + 1:04d}.png")
                rows.writerow((f"clean-{made + 1:04d}.png", label, f"P{patient + 1:03d}"))
                made += 1
            patient += 1
    return folder / "labels.csv"
