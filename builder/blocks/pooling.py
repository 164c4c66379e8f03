"""Poolings that no library has in the form we need."""

import torch
from torch import nn


class GlobalPool(nn.Module):
    """Mean, maximum, or both side by side, over height and width: (B, C, H, W) -> (B, C) or (B, 2C)."""

    def __init__(self, kind: str = "average"):
        super().__init__()
        self.kind = kind

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.kind == "average":
            return x.mean((2, 3))
        if self.kind == "maximum":
            return x.amax((2, 3))
        return torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1)


class AdaptivePool(nn.Module):
    """Pools to a fixed height and width whatever comes in: (B, C, H, W) -> (B, C, size, size)."""

    def __init__(self, size: int = 4, kind: str = "average"):
        super().__init__()
        self.pool: nn.Module = nn.AdaptiveAvgPool2d(size) if kind == "average" else nn.AdaptiveMaxPool2d(size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pool(x)
