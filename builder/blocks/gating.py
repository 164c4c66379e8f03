"""Blocks that weigh channels and places."""

import torch
from torch import nn


class SqueezeExcite(nn.Module):
    """Weighs each channel by what all channels hold on average (Hu et al. 2018, squeeze-and-excitation).

    Args:
        channels: C. reduction: the small network inside has C / reduction units (at least two).
    Input shape: (B, C, H, W) or (B, C, D, H, W) float. Output shape: the same.
    """

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        units = max(2, channels // reduction)
        self.squeeze, self.excite = nn.Linear(channels, units), nn.Linear(units, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shares = torch.sigmoid(self.excite(torch.relu(self.squeeze(x.flatten(2).mean(2)))))
        return x * shares.unflatten(1, (-1, *[1] * (x.dim() - 2)))


class CBAM(nn.Module):
    """Weighs channels first, then places (Woo et al. 2018, convolutional block attention module).

    Args:
        channels: C. reduction: the network of the channel half has C / reduction units (at least two).
    Input shape: (B, C, H, W) float. Output shape: the same.
    """

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        units = max(2, channels // reduction)
        self.shared = nn.Sequential(
            nn.Linear(channels, units, bias=False), nn.ReLU(), nn.Linear(units, channels, bias=False)
        )
        self.places = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.norm = nn.BatchNorm2d(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x * torch.sigmoid(self.shared(x.mean((2, 3))) + self.shared(x.amax((2, 3))))[:, :, None, None]
        seen = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1)
        return x * torch.sigmoid(self.norm(self.places(seen)))
