"""Activation functions."""

from builder.catalog import Float, LayerSpec, OneOf


def _activation(name: str, title: str, target: str, help: str, *params, finds: str = "") -> LayerSpec:
    return LayerSpec(name, title, target, help, params, "Activation", f"activation nonlinearity {finds}")


PARTS = (
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
    LayerSpec(
        "prelu",
        "PReLU",
        "torch.nn:PReLU",
        "ReLU whose slope on the negative side is learned, one for each channel (He 2015).",
        (Float("init", 0.25, 0.0, 1.0, "Slope that learning begins with.", 0.05, title="First slope"),),
        "Activation",
        "activation nonlinearity parametric leaky",
        inferred={"num_parameters": "channels"},
        takes=("vector", "maps", "volume"),
    ),
    _activation(
        "relu6",
        "ReLU6",
        "torch.nn:ReLU6",
        "ReLU that ends at 6 (Krizhevsky 2010): safe in half precision; used in MobileNets.",
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
        "selu",
        "SELU",
        "torch.nn:SELU",
        "ELU scaled so that values keep mean 0 and spread 1 through many layers without any norm (Klambauer 2017).",
        finds="self-normalizing",
    ),
    _activation("silu", "SiLU (Swish)", "torch.nn:SiLU", "x times its sigmoid; smooth (Elfwing 2018).", finds="swish"),
    _activation("mish", "Mish", "torch.nn:Mish", "Smooth relative of SiLU: x tanh(softplus(x)) (Misra 2019)."),
    _activation(
        "hardswish",
        "Hardswish",
        "torch.nn:Hardswish",
        "SiLU drawn with straight lines: nearly the same, cheaper on phones (Howard 2019, MobileNetV3).",
        finds="swish silu",
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
        takes=("vector", "sequence", "maps", "volume"),
    ),
    LayerSpec(
        "gated_halves",
        "Gated halves",
        "builder.blocks.gating:GatedHalves",
        "Multiplies the first half of the channels by the second half: one says how much of the other counts. Give the "
        "layer before it twice the channels (NAFNet, Chen 2022; gated linear unit, Dauphin 2017).",
        (
            OneOf(
                "gate",
                "plain",
                ("plain", "sigmoid"),
                "What the second half goes through first: nothing (NAFNet), or a sigmoid (gated linear unit).",
            ),
        ),
        "Activation",
        "glu simplegate gate split multiply nafnet",
        inferred={"dim": "axis"},
        takes=("vector", "sequence", "maps", "volume"),
    ),
)
