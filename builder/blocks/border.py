"""Borders that differ from side to side."""

import torch
from torch import nn


class Border(nn.Module):
    """Adds a border of its own width to each side: (B, C, H, W) -> (B, C, H + top + bottom, W + left + right).

    Args:
        left, right, top, bottom: widths in pixels. fill: "zero", or "lowest" for a border that a maximum never chooses.
    """

    def __init__(self, left: int = 0, right: int = 1, top: int = 0, bottom: int = 1, fill: str = "zero"):
        super().__init__()
        self.sides, self.value = (left, right, top, bottom), 0.0 if fill == "zero" else -3e38

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.pad(x, self.sides, value=self.value)
