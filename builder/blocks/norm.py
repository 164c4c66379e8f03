"""Normalizations that no library has in the form we need."""

import torch
from torch import nn


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of each pixel (Ba et al. 2016, as used in ConvNeXt); (B, C, H, W) or (B, F)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dim() == 2:
            return super().forward(x)
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)
