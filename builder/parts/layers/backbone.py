"""Whole known networks as feature extractors, and their stages one at a time."""

from builder.catalog import Digest, Flag, Float, Idle, Int, LayerSpec, OneOf, Text

_MODEL = Text(
    "model", "resnet18", "Name in the timm library, such as resnet18 or tf_efficientnet_lite0.", "timm:list_models"
)
_WEIGHTS = OneOf(
    "weights",
    "none",
    ("none", "installed package", "file", "download"),
    "Where it starts: at random; with ImageNet weights from an installed package (tf_efficientnet_lite0); with a file "
    "that you took in; or with timm's weights, once you fetched them (nothing is fetched by itself). Weights for colour "
    "are adapted: grey gets the sum over red, green and blue; other numbers of channels get them in turn, times 3 / "
    "channels.",
)
_FILE = Digest("file", "The file of weights that you took in, by its SHA-256.", title="Weights file")
_PATH = Float(
    "drop_path",
    0.0,
    0.0,
    0.9,
    "How often the model's last branch is left out for a scan in training; it grows to there from 0 at the first one "
    "(Huang 2016). Models without branches refuse it.",
    0.05,
    title="Stochastic depth",
)
_STILL = Idle("drop_path", "frozen", True, "The model is frozen: nothing of it is left out.")

PARTS = (
    LayerSpec(
        "timm_backbone",
        "timm backbone",
        "builder.blocks.backbone:TimmBackbone",
        "A whole known network (any of timm's models) as feature extractor.",
        (
            _MODEL,
            _WEIGHTS,
            _FILE,
            OneOf(
                "output",
                "map",
                ("map", "pooled", "stages"),
                "Feature map (pool it next), one vector per scan, or the maps of all its stages, shallow to deep, for a "
                "decoder.",
            ),
            Flag("frozen", False, "Keep its weights as they are; only the layers after it learn."),
            Int(
                "frozen_stages",
                0,
                0,
                12,
                "Keep the weights of its first stages as they are: they see edges and textures, which all scans share.",
                unit="stages",
            ),
            _PATH,
        ),
        "Backbones",
        "pretrained resnet efficientnet vit convnext transfer encoder timm",
        inferred={"in_channels": "channels", "size_px": "size"},
        takes=("maps",),
        untrained={"weights": "none", "file": ""},
        needs=("timm",),
        idle=(
            Idle("frozen_stages", "frozen", True, "The whole model is frozen already, its first stages with it."),
            _STILL,
        ),
    ),
    LayerSpec(
        "timm_stage",
        "timm stage",
        "builder.blocks.backbone:TimmStage",
        "One stage of a known network (timm's), so that you can put layers between its stages or freeze some of them.",
        (
            _MODEL,
            Int("stage", 1, 1, 12, "Which of the model's stages, counted from the scan."),
            _WEIGHTS,
            _FILE,
            OneOf(
                "output",
                "stage",
                ("stage", "map", "pooled"),
                "Its map; for the last stage also the model's own feature map, or one vector per scan.",
            ),
            Flag("frozen", False, "Keep its weights as they are."),
            _PATH,
        ),
        "Backbones",
        "pretrained resnet efficientnet convnext transfer encoder level",
        inferred={"in_channels": "channels", "size_px": "size"},
        takes=("maps",),
        untrained={"weights": "none", "file": ""},
        needs=("timm",),
        idle=(_STILL,),
    ),
)
