"""Poolings: fewer positions, each standing for a window."""

from builder.catalog import Flag, Float, Int, LayerSpec, OneOf


def _window(unit: str, halves: str) -> tuple[Int, ...]:
    side = "Length of the window." if unit == "steps" else "Side of the window."
    return (
        Int("kernel_size", 2, 1, 31, side, unit=unit),
        Int("stride", 2, 1, 16, f"Step of the window; 2 halves {halves}.", unit=unit),
        Int("padding", 0, 0, 15, "Border added on each side; at most half the window.", unit=unit),
    )


_MAPS, _TIME, _VOLUME = (
    _window(unit, halves)
    for unit, halves in (("px", "height and width"), ("steps", "the length"), ("voxels", "depth, height and width"))
)
_KEPT = OneOf("kind", "average", ("average", "maximum"), "What is kept of each window.")

PARTS = (
    LayerSpec(
        "max_pool",
        "Max pooling",
        "torch.nn:MaxPool2d",
        "Keeps the strongest answer in each window: smaller picture, small shifts forgiven.",
        _MAPS,
        "Pooling",
        "shrink downsample halve",
        takes=("maps",),
    ),
    LayerSpec(
        "average_pool",
        "Average pooling",
        "torch.nn:AvgPool2d",
        "Keeps the mean of each window: smaller and smoother.",
        _MAPS,
        "Pooling",
        "shrink downsample halve mean",
        takes=("maps",),
    ),
    LayerSpec(
        "max_pool_1d",
        "Max pooling 1-D",
        "builder.blocks.pooling:SequenceMaxPool1d",
        "Keeps each feature's strongest answer in each window of time: a shorter sequence.",
        _TIME,
        "Pooling",
        "shrink downsample halve shorten temporal",
        takes=("sequence",),
    ),
    LayerSpec(
        "average_pool_1d",
        "Average pooling 1-D",
        "builder.blocks.pooling:SequenceAvgPool1d",
        "Keeps each feature's mean over each window of time: a shorter, smoother sequence.",
        _TIME,
        "Pooling",
        "shrink downsample halve shorten temporal mean",
        takes=("sequence",),
    ),
    LayerSpec(
        "max_pool_3d",
        "Max pooling 3-D",
        "torch.nn:MaxPool3d",
        "Keeps the strongest answer in each window of a volume: smaller, small shifts forgiven.",
        _VOLUME,
        "Pooling",
        "shrink downsample halve volumetric",
        takes=("volume",),
    ),
    LayerSpec(
        "average_pool_3d",
        "Average pooling 3-D",
        "torch.nn:AvgPool3d",
        "Keeps the mean of each window of a volume: smaller and smoother.",
        _VOLUME,
        "Pooling",
        "shrink downsample halve mean volumetric",
        takes=("volume",),
    ),
    LayerSpec(
        "lp_pool",
        "Lp pooling",
        "builder.blocks.pooling:LpPool",
        "Keeps the p-norm of each window (Sermanet 2012): p = 1 adds sizes up, a large p nears the strongest answer.",
        (
            Float("norm_type", 2.0, 1.0, 8.0, "The p: 1 adds up, 2 is the root of the sum of squares.", 0.5, title="p"),
            Int("kernel_size", 2, 1, 31, "Side of the window (its length in a sequence).", unit="px"),
            Int("stride", 2, 1, 16, "Step of the window; 2 halves every side.", unit="px"),
        ),
        "Pooling",
        "shrink downsample halve power norm generalized mean",
        takes=("maps", "sequence", "volume"),
    ),
    LayerSpec(
        "adaptive_pool",
        "Adaptive pooling",
        "builder.blocks.pooling:AdaptivePool",
        "Pools to a fixed height and width whatever comes in.",
        (Int("size", 4, 1, 64, "Height and width that come out.", unit="px"), _KEPT),
        "Pooling",
        "shrink downsample",
        takes=("maps",),
    ),
    LayerSpec(
        "adaptive_pool_1d",
        "Adaptive pooling 1-D",
        "builder.blocks.pooling:SequenceAdaptivePool1d",
        "Pools a sequence to a fixed number of steps whatever comes in.",
        (Int("size", 4, 1, 1024, "Steps that come out.", unit="steps"), _KEPT),
        "Pooling",
        "shrink downsample shorten temporal",
        takes=("sequence",),
    ),
    LayerSpec(
        "adaptive_pool_3d",
        "Adaptive pooling 3-D",
        "builder.blocks.pooling:AdaptivePool3d",
        "Pools a volume to a fixed depth, height and width whatever comes in.",
        (
            Int("depth", 2, 1, 64, "Depth that comes out.", unit="voxels"),
            Int("size", 4, 1, 64, "Height and width that come out.", unit="voxels"),
            _KEPT,
        ),
        "Pooling",
        "shrink downsample volumetric",
        takes=("volume",),
    ),
    LayerSpec(
        "global_pool",
        "Global pooling",
        "builder.blocks.pooling:GlobalPool",
        "One number per channel: its mean or maximum over the whole picture or volume. The usual step before the class "
        "scores.",
        (OneOf("kind", "average", ("average", "maximum", "both"), "What is kept of each channel."),),
        "Pooling",
        "gap flatten vector shrink",
        takes=("maps", "volume"),
    ),
    LayerSpec(
        "time_pool",
        "Pooling over time",
        "builder.blocks.pooling:TimePool",
        "One vector for a whole sequence: each feature's mean or maximum over time, or the last or first step alone.",
        (
            OneOf(
                "kind",
                "average",
                ("average", "maximum", "both", "last", "first"),
                "What is kept: the mean, the maximum, both side by side, or the last or first step.",
            ),
        ),
        "Pooling",
        "global mean max last state temporal sequence slices vector shrink",
        takes=("sequence",),
    ),
    LayerSpec(
        "attention_pool",
        "Attention pooling",
        "builder.blocks.pooling:AttentionPool",
        "One vector for a whole sequence: a mean whose weights are learned (Ilse 2018), so that the steps or slices that "
        "matter count most.",
        (
            Int("units", 64, 1, 4096, "Width of the small network that weighs the steps.", log=True),
            Flag("gated", False, "Weighs with a second, gating half: tells fine differences apart."),
        ),
        "Pooling",
        "multiple instance learning mil temporal weighted slices global sequence",
        inferred={"features": "features"},
        takes=("sequence",),
    ),
)
