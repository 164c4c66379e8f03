"""Every layer a user can pick. Pure data: adding a layer is adding one entry here (and nothing anywhere else).

A setting's name is the keyword argument of the layer's target; `inferred` arguments are filled in from the input.
"""

from builder.catalog import Catalog, Flag, Float, Int, LayerSpec, OneOf, Text

MAPS = (4,)
VECTORS = (2,)
EITHER = (2, 4)


def _activation(name: str, title: str, target: str, help: str, *params, finds: str = "") -> LayerSpec:
    return LayerSpec(name, title, target, help, params, "Activation", f"activation nonlinearity {finds}")


def _window(kernel: int, padding: int) -> tuple[Int, ...]:
    return (
        Int("kernel_size", kernel, 1, 31, "Side of the window.", unit="px"),
        Int("stride", kernel, 1, 16, "Step of the window; 2 halves height and width.", unit="px"),
        Int("padding", padding, 0, 15, "Border added on each side; at most half the window.", unit="px"),
    )


LAYERS = Catalog(
    "layer",
    (
        LayerSpec(
            "conv2d",
            "Convolution",
            "torch.nn:Conv2d",
            "Slides small learned filters over the picture; each answers to one pattern (an edge, a texture, a spot).",
            (
                Int("out_channels", 16, 1, 4096, "Number of filters = channels that come out.", log=True),
                Int("kernel_size", 3, 1, 31, "Side of each filter.", unit="px"),
                Int("stride", 1, 1, 16, "Step between two positions; 2 halves height and width.", unit="px"),
                Int(
                    "padding", 1, 0, 64, "Border added on each side; kernel // 2 keeps the size at stride 1.", unit="px"
                ),
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
            ranks=MAPS,
        ),
        LayerSpec(
            "max_pool",
            "Max pooling",
            "torch.nn:MaxPool2d",
            "Keeps the strongest answer in each window: smaller picture, small shifts forgiven.",
            _window(2, 0),
            "Pooling",
            "shrink downsample halve",
            ranks=MAPS,
        ),
        LayerSpec(
            "average_pool",
            "Average pooling",
            "torch.nn:AvgPool2d",
            "Keeps the mean of each window: smaller and smoother.",
            _window(2, 0),
            "Pooling",
            "shrink downsample halve mean",
            ranks=MAPS,
        ),
        LayerSpec(
            "adaptive_pool",
            "Adaptive pooling",
            "builder.blocks:AdaptivePool",
            "Pools to a fixed height and width whatever comes in.",
            (
                Int("size", 4, 1, 64, "Height and width that come out.", unit="px"),
                OneOf("kind", "average", ("average", "maximum"), "What is kept of each window."),
            ),
            "Pooling",
            "shrink downsample",
            ranks=MAPS,
        ),
        LayerSpec(
            "global_pool",
            "Global pooling",
            "builder.blocks:GlobalPool",
            "One number per channel: its mean or maximum over the whole picture. The usual step before the class scores.",
            (OneOf("kind", "average", ("average", "maximum", "both"), "What is kept of each channel."),),
            "Pooling",
            "gap flatten vector shrink",
            ranks=MAPS,
        ),
        LayerSpec(
            "batch_norm",
            "Batch norm",
            "torch.nn:BatchNorm2d",
            "Centres and scales each channel over the batch (Ioffe and Szegedy 2015): faster, steadier learning; a cure for "
            "vanishing and exploding gradients.",
            (Float("momentum", 0.1, 0.001, 1.0, "How fast the running mean follows.", 0.01),),
            "Normalization",
            "normalise stabilise",
            inferred={"num_features": "channels"},
            ranks=MAPS,
        ),
        LayerSpec(
            "group_norm",
            "Group norm",
            "torch.nn:GroupNorm",
            "Normalizes groups of channels within each scan (Wu and He 2018): works with tiny batches.",
            (Int("num_groups", 8, 1, 1024, "Number of groups; must divide the channels.", log=True),),
            "Normalization",
            "normalise instance",
            inferred={"num_channels": "channels"},
            ranks=EITHER,
        ),
        LayerSpec(
            "layer_norm",
            "Layer norm",
            "builder.blocks:LayerNorm2d",
            "Normalizes all channels of each pixel, or all features of each scan (Ba et al. 2016).",
            (),
            "Normalization",
            "normalise",
            inferred={"normalized_shape": "channels"},
            ranks=EITHER,
        ),
        LayerSpec(
            "dropout",
            "Dropout",
            "torch.nn:Dropout",
            "Sets single values to zero at random in training (Srivastava 2014): less learning by heart.",
            (Float("p", 0.3, 0.0, 0.95, "Share that is dropped.", 0.05, title="Share dropped"),),
            "Regularization",
            "overfitting",
        ),
        LayerSpec(
            "channel_dropout",
            "Channel dropout",
            "torch.nn:Dropout2d",
            "Sets whole channels to zero at random in training (Tompson 2015); the right dropout between convolutions.",
            (Float("p", 0.1, 0.0, 0.95, "Share of channels that is dropped.", 0.05, title="Share dropped"),),
            "Regularization",
            "overfitting spatial dropout",
            ranks=MAPS,
        ),
        LayerSpec(
            "flatten",
            "Flatten",
            "torch.nn:Flatten",
            "Lays the whole picture out as one long vector, so that linear layers can read it.",
            (),
            "Shape",
            "vector reshape",
        ),
        LayerSpec(
            "linear",
            "Linear",
            "torch.nn:Linear",
            "Every output is a weighted sum of all inputs (a fully connected layer).",
            (
                Int("out_features", 64, 1, 100_000, "Number of outputs.", log=True),
                Flag("bias", True, "Adds a learned constant to each output."),
            ),
            "Linear",
            "dense fully connected",
            inferred={"in_features": "features"},
            ranks=VECTORS,
        ),
        LayerSpec(
            "class_scores",
            "Class scores",
            "torch.nn:Linear",
            "The usual last layer of recognition: one score per class of the data set, however many there are.",
            (),
            "Linear",
            "head output classifier logits",
            inferred={"in_features": "features", "out_features": "classes"},
            ranks=VECTORS,
        ),
        _activation(
            "relu", "ReLU", "torch.nn:ReLU", "Keeps positive values, sets negative ones to zero (Nair and Hinton 2010)."
        ),
        _activation(
            "leaky_relu",
            "Leaky ReLU",
            "torch.nn:LeakyReLU",
            "ReLU that lets a little of the negative side through: no dead units (Maas 2013).",
            Float("negative_slope", 0.01, 0.0, 1.0, "Slope on the negative side.", 0.01),
        ),
        _activation(
            "elu",
            "ELU",
            "torch.nn:ELU",
            "Smooth on the negative side, down to -alpha (Clevert 2016).",
            Float("alpha", 1.0, 0.01, 10.0, "Depth of the negative side.", 0.1),
        ),
        _activation(
            "gelu", "GELU", "torch.nn:GELU", "Smooth relative of ReLU used in transformers (Hendrycks and Gimpel 2016)."
        ),
        _activation(
            "silu", "SiLU (Swish)", "torch.nn:SiLU", "x times its sigmoid; smooth (Elfwing 2018).", finds="swish"
        ),
        _activation(
            "sigmoid",
            "Sigmoid",
            "torch.nn:Sigmoid",
            "Squeezes to 0..1. Deep stacks of it make gradients vanish.",
            finds="logistic squash",
        ),
        _activation(
            "tanh",
            "Tanh",
            "torch.nn:Tanh",
            "Squeezes to -1..1. Deep stacks of it make gradients vanish.",
            finds="squash",
        ),
        LayerSpec(
            "softmax",
            "Softmax",
            "torch.nn:Softmax",
            "Turns scores into shares that sum to one over channels or features. Not as the last layer: the loss does it.",
            (),
            "Activation",
            "activation probabilities",
            inferred={"dim": "axis"},
        ),
        LayerSpec(
            "add",
            "Add",
            "builder.blocks:Add",
            "Sum of two or more layers of one shape: a skip connection, through which gradients flow freely.",
            (),
            "Join",
            "skip shortcut residual plus merge",
            inputs=2,
        ),
        LayerSpec(
            "concatenate",
            "Concatenate",
            "builder.blocks:Concatenate",
            "Stacks the channels (or features) of two or more layers.",
            (),
            "Join",
            "merge join cat skip",
            inputs=2,
            ranks=EITHER,
        ),
        LayerSpec(
            "residual_block",
            "Residual block",
            "builder.blocks:ResidualBlock",
            "Two convolutions with a shortcut around them (He 2016): deep networks that still learn.",
            (
                Int("out_channels", 32, 1, 4096, "Channels that come out.", log=True),
                Int("stride", 1, 1, 4, "2 halves height and width.", unit="px"),
                Float("dropout", 0.0, 0.0, 0.9, "Share of channels dropped inside.", 0.05),
            ),
            "Blocks",
            "resnet skip shortcut",
            inferred={"in_channels": "channels"},
            ranks=MAPS,
        ),
        LayerSpec(
            "timm_backbone",
            "timm backbone",
            "builder.blocks:TimmBackbone",
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
            ranks=MAPS,
            untrained={"weights": "none"},
        ),
    ),
)
