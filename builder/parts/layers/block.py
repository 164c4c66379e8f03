"""Ready blocks of several layers."""

from builder.catalog import Flag, Float, Int, LayerSpec

_CHANNELS = Int("out_channels", 32, 1, 4096, "Channels that come out.", log=True)
_STRIDE = Int("stride", 1, 1, 4, "2 halves height and width.", unit="px")
_DROPPED = Float("dropout", 0.0, 0.0, 0.9, "Share of channels dropped inside.", 0.05)
_PATH = Float(
    "drop_path",
    0.0,
    0.0,
    0.9,
    "How often all but the shortcut is left out for a scan in training (Huang 2016): less learning by heart in deep networks.",
    0.05,
    title="Stochastic depth",
)
_REDUCTION = Int(
    "reduction", 16, 1, 64, "How many times fewer units the small network inside has than there are channels.", log=True
)


def _branch(name: str, default: int, words: str) -> Int:
    return Int(name, default, 1, 4096, f"Channels that come out of {words}.", log=True)


PARTS = (
    LayerSpec(
        "residual_block",
        "Residual block",
        "builder.blocks.residual:ResidualBlock",
        "Two convolutions with a shortcut around them (He 2016): deep networks that still learn.",
        (_CHANNELS, _STRIDE, _DROPPED, _PATH),
        "Blocks",
        "resnet skip shortcut",
        inferred={"in_channels": "channels"},
        takes=("maps",),
    ),
    LayerSpec(
        "residual_block_3d",
        "Residual block 3-D",
        "builder.blocks.residual:ResidualBlock3d",
        "Two 3-D convolutions with a shortcut around them (He 2016), for volumes.",
        (_CHANNELS, Int("stride", 1, 1, 4, "2 halves depth, height and width.", unit="voxels"), _DROPPED, _PATH),
        "Blocks",
        "resnet skip shortcut volumetric",
        inferred={"in_channels": "channels"},
        takes=("volume",),
    ),
    LayerSpec(
        "bottleneck_block",
        "Bottleneck block",
        "builder.blocks.residual:BottleneckBlock",
        "A residual block that narrows to fewer channels, filters, and widens again (He 2016): affordable depth, as in "
        "ResNet-50.",
        (
            Int("out_channels", 64, 1, 4096, "Channels that come out.", log=True),
            _STRIDE,
            Int("reduction", 4, 1, 16, "How many times fewer channels the 3x3 convolution inside has.", log=True),
            _PATH,
        ),
        "Blocks",
        "resnet50 residual skip shortcut",
        inferred={"in_channels": "channels"},
        takes=("maps",),
    ),
    LayerSpec(
        "inverted_residual",
        "Inverted residual block",
        "builder.blocks.residual:InvertedResidual",
        "Widens, filters each channel alone, narrows again (Sandler 2018, MobileNetV2): strong for its small cost.",
        (
            _CHANNELS,
            _STRIDE,
            Int("expansion", 6, 1, 12, "How many times wider it is inside."),
            Flag("squeeze", False, "Weighs the inner channels by squeeze-and-excite, as in EfficientNet."),
            _PATH,
        ),
        "Blocks",
        "mobilenet efficientnet mbconv depthwise skip shortcut light",
        inferred={"in_channels": "channels"},
        takes=("maps",),
    ),
    LayerSpec(
        "dense_block",
        "Dense block",
        "builder.blocks.residual:DenseBlock",
        "Layers that each see everything made before them and add a few channels (Huang 2017, DenseNet).",
        (
            Int("growth_rate", 12, 1, 512, "Channels that each layer adds.", log=True),
            Int("layers", 4, 1, 32, "How many layers."),
            Float("dropout", 0.0, 0.0, 0.9, "Share of each layer's values dropped.", 0.05),
        ),
        "Blocks",
        "densenet skip concatenate",
        inferred={"in_channels": "channels"},
        takes=("maps",),
    ),
    LayerSpec(
        "inception_block",
        "Inception block",
        "builder.blocks.residual:InceptionBlock",
        "Looks at several sizes at once: 1x1, 3x3 and 5x5 convolutions and a pooling side by side (Szegedy 2015).",
        (
            _branch("channels_1x1", 16, "the 1x1 convolution"),
            _branch("channels_3x3", 32, "the 3x3 convolution"),
            _branch("channels_5x5", 8, "the 5x5 convolution"),
            _branch("channels_pool", 8, "the pooling"),
        ),
        "Blocks",
        "googlenet multi-scale parallel branches",
        inferred={"in_channels": "channels"},
        takes=("maps",),
    ),
    LayerSpec(
        "nafnet_block",
        "NAFNet block",
        "builder.blocks.residual:NafnetBlock",
        "A restoration block without activation functions: channels gate each other (Chen 2022). Begins nearly as the identity, "
        "so that many can be stacked; it keeps size and channels.",
        (
            Int("expansion", 2, 1, 8, "How many times wider it is before each gate."),
            Flag(
                "attention",
                True,
                "Weighs channels by their mean over the whole picture. Without it every answer rests on its surroundings "
                "alone, and whole scans come out the same however they are cut into tiles.",
            ),
            _PATH,
        ),
        "Blocks",
        "restoration denoise enhancement simple gate residual shortcut",
        inferred={"channels": "channels"},
        takes=("maps",),
    ),
    LayerSpec(
        "squeeze_excite",
        "Squeeze-and-excite",
        "builder.blocks.gating:SqueezeExcite",
        "Weighs each channel by what the whole picture or volume holds (Hu 2018): learns which channels matter now.",
        (_REDUCTION,),
        "Blocks",
        "senet channel attention gate",
        inferred={"channels": "channels"},
        takes=("maps", "volume"),
    ),
    LayerSpec(
        "cbam",
        "CBAM",
        "builder.blocks.gating:CBAM",
        "Weighs channels first, then places (Woo 2018, convolutional block attention module): what matters, and where.",
        (_REDUCTION,),
        "Blocks",
        "channel spatial attention gate",
        inferred={"channels": "channels"},
        takes=("maps",),
    ),
)
