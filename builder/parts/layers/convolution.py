"""Convolutions: learned filters that slide over the input."""

from builder.catalog import Flag, Int, LayerSpec

PARTS = (
    LayerSpec(
        "conv2d",
        "Convolution",
        "torch.nn:Conv2d",
        "Slides small learned filters over the picture; each answers to one pattern (an edge, a texture, a spot).",
        (
            Int("out_channels", 16, 1, 4096, "Number of filters = channels that come out.", log=True),
            Int("kernel_size", 3, 1, 31, "Side of each filter.", unit="px"),
            Int("stride", 1, 1, 16, "Step between two positions; 2 halves height and width.", unit="px"),
            Int("padding", 1, 0, 64, "Border added on each side; kernel // 2 keeps the size at stride 1.", unit="px"),
            Int("dilation", 1, 1, 32, "Gaps between filter points: a wider view for the same cost.", unit="px"),
            Int(
                "groups",
                1,
                1,
                4096,
                "Channels are split into this many separate groups; must divide both counts.",
                log=True,
            ),
            Flag("bias", True, "Adds a learned constant to each filter; needless right before a batch norm."),
        ),
        "Convolution",
        "filter kernel feature dilated grouped depthwise cnn",
        inferred={"in_channels": "channels"},
        takes=("maps",),
    ),
)
