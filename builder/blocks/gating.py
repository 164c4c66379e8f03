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


class GatedHalves(nn.Module):
    """The first half of the channels (or features) times the second half: one half says how much of the other counts.

    Args:
        dim: where they lie, counted with the batch. gate: "plain" multiplies as it is (SimpleGate of NAFNet, Chen et
            al. 2022), "sigmoid" brings the second half to 0..1 first (gated linear unit, Dauphin et al. 2017).
    Input shape: (B, 2 C, ...) float; (B, T, 2 F) for dim = 2. Output shape: half as many there.
    Raises:
        ValueError: in words, for a number that cannot be halved.
    """

    def __init__(self, dim: int = 1, gate: str = "plain"):
        super().__init__()
        self.dim, self.gate = dim, gate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[self.dim] % 2:
            raise ValueError(f"A gate halves what comes in; it needs an even number, not {x.shape[self.dim]}.")
        first, second = x.chunk(2, dim=self.dim)
        return first * (torch.sigmoid(second) if self.gate == "sigmoid" else second)


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
