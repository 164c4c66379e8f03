"""Normalizations that no library has in the form we need."""

import torch
from torch import nn


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of each pixel or voxel (Ba et al. 2016, as used in ConvNeXt), or over all features
    of each vector or step: (B, C, H, W), (B, C, D, H, W), (B, F) or (B, T, F) -> the same shape."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dim() < 4:
            return super().forward(x)
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class SequenceInstanceNorm1d(nn.InstanceNorm1d):
    """Centres and scales each feature over the time of its own sequence: (B, T, F) -> the same shape."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)
