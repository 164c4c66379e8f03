"""Activation functions."""

from builder.catalog import Float, LayerSpec


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
    _activation("silu", "SiLU (Swish)", "torch.nn:SiLU", "x times its sigmoid; smooth (Elfwing 2018).", finds="swish"),
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
        takes=("vector", "maps", "volume"),
    ),
)
