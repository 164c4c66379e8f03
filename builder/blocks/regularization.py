"""Dropouts that torch has no single module for."""

import torch
from torch import nn


class SequenceDropout1d(nn.Dropout1d):
    """Sets whole features of a sequence to zero, over all of its time (Tompson 2015): (B, T, F) -> the same shape."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class DropPath(nn.Module):
    """Stochastic depth: in training leaves a branch out for some scans, and makes up for it in the others (Huang et
    al., ECCV 2016). In use nothing is left out.

    Args:
        rate: how often, in [0, 1).
    Input shape: (B, ...) float. Output shape: the same.
    """

    def __init__(self, rate: float = 0.0):
        super().__init__()
        self.rate = rate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or not self.rate:
            return x
        kept = torch.empty(len(x), *[1] * (x.ndim - 1), dtype=x.dtype, device=x.device).bernoulli_(1 - self.rate)
        return x * kept / (1 - self.rate)
