"""Where weights begin: the same rule for all convolutions, linear and recurrent layers of a network."""

import torch
from torch import nn

__all__ = ["begin"]

_MATRICES = (
    *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)


@torch.no_grad()
def begin(module: nn.Module, rule: str) -> None:
    """Draws the weights of `module` and of all inside it anew; norms, biases and embeddings stay as they were.

    Args:
        rule: "he": normal, variance 2 / fan-in, so that values keep their size through ReLUs (He 2015). "xavier":
            uniform, variance 2 / (fan-in + fan-out), for tanh and sigmoid (Glorot 2010). "orthogonal": no direction
            grows or shrinks (Saxe 2014). The recurrent matrices of RNN, LSTM and GRU become orthogonal by every rule,
            each gate its own (Le 2015): drawn otherwise they would explode over the steps.
    Raises:
        ValueError: an unknown rule.
    """
    rules = {
        "he": lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="relu"),
        "xavier": nn.init.xavier_uniform_,
        "orthogonal": nn.init.orthogonal_,
    }
    if rule not in rules:
        raise ValueError(f"Unknown rule for the first weights: {rule!r}; expected one of {', '.join(rules)}.")
    for part in module.modules():
        if isinstance(part, _MATRICES):
            rules[rule](part.weight)
        elif isinstance(part, nn.RNNBase):
            for name, weight in part.named_parameters():
                if name.startswith("weight_hh"):
                    for gate in weight.split(weight.shape[1]):
                        nn.init.orthogonal_(gate)
                elif name.startswith("weight_ih"):
                    for gate in weight.split(part.hidden_size):
                        nn.init.xavier_uniform_(gate)
