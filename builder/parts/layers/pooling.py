"""Poolings: fewer positions, each standing for a window."""

from builder.catalog import Int, LayerSpec, OneOf


def _window(kernel: int, padding: int) -> tuple[Int, ...]:
    return (
        Int("kernel_size", kernel, 1, 31, "Side of the window.", unit="px"),
        Int("stride", kernel, 1, 16, "Step of the window; 2 halves height and width.", unit="px"),
        Int("padding", padding, 0, 15, "Border added on each side; at most half the window.", unit="px"),
    )


PARTS = (
    LayerSpec(
        "max_pool",
        "Max pooling",
        "torch.nn:MaxPool2d",
        "Keeps the strongest answer in each window: smaller picture, small shifts forgiven.",
        _window(2, 0),
        "Pooling",
        "shrink downsample halve",
        takes=("maps",),
    ),
    LayerSpec(
        "average_pool",
        "Average pooling",
        "torch.nn:AvgPool2d",
        "Keeps the mean of each window: smaller and smoother.",
        _window(2, 0),
        "Pooling",
        "shrink downsample halve mean",
        takes=("maps",),
    ),
    LayerSpec(
        "adaptive_pool",
        "Adaptive pooling",
        "builder.blocks.pooling:AdaptivePool",
        "Pools to a fixed height and width whatever comes in.",
        (
            Int("size", 4, 1, 64, "Height and width that come out.", unit="px"),
            OneOf("kind", "average", ("average", "maximum"), "What is kept of each window."),
        ),
        "Pooling",
        "shrink downsample",
        takes=("maps",),
    ),
    LayerSpec(
        "global_pool",
        "Global pooling",
        "builder.blocks.pooling:GlobalPool",
        "One number per channel: its mean or maximum over the whole picture. The usual step before the class scores.",
        (OneOf("kind", "average", ("average", "maximum", "both"), "What is kept of each channel."),),
        "Pooling",
        "gap flatten vector shrink",
        takes=("maps",),
    ),
)
