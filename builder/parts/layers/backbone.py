"""Whole known networks as feature extractors."""

from builder.catalog import Flag, LayerSpec, OneOf, Text

PARTS = (
    LayerSpec(
        "timm_backbone",
        "timm backbone",
        "builder.blocks.backbone:TimmBackbone",
        "A whole known network (any of timm's models) as feature extractor.",
        (
            Text(
                "model",
                "resnet18",
                "Name in the timm library, such as resnet18 or tf_efficientnet_lite0.",
                "timm:list_models",
            ),
            OneOf(
                "weights",
                "none",
                ("none", "installed package", "download"),
                "Where it starts: at random; with ImageNet weights from an installed package (tf_efficientnet_lite0); or "
                "with ImageNet weights downloaded by timm (this asks the internet).",
            ),
            OneOf("output", "map", ("map", "pooled"), "Feature map (pool it next), or one vector per scan."),
            Flag("frozen", False, "Keep its weights as they are; only the layers after it learn."),
        ),
        "Blocks",
        "pretrained resnet efficientnet vit convnext transfer",
        inferred={"in_channels": "channels", "size_px": "size"},
        takes=("maps",),
        untrained={"weights": "none"},
        needs=("timm",),
    ),
)
