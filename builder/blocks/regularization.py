"""Dropouts that torch has no single module for."""

import torch
from torch import nn


class SequenceDropout1d(nn.Dropout1d):
    """Sets whole features of a sequence to zero, over all of its time (Tompson 2015): (B, T, F) -> the same shape."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)
