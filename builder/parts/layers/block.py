"""Ready blocks of several layers."""

from builder.catalog import Float, Int, LayerSpec

PARTS = (
    LayerSpec(
        "residual_block",
        "Residual block",
        "builder.blocks.residual:ResidualBlock",
        "Two convolutions with a shortcut around them (He 2016): deep networks that still learn.",
        (
            Int("out_channels", 32, 1, 4096, "Channels that come out.", log=True),
            Int("stride", 1, 1, 4, "2 halves height and width.", unit="px"),
            Float("dropout", 0.0, 0.0, 0.9, "Share of channels dropped inside.", 0.05),
        ),
        "Blocks",
        "resnet skip shortcut",
        inferred={"in_channels": "channels"},
        takes=("maps",),
    ),
)
