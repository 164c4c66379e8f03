"""Poolings that no library has in the form we need."""

import torch
from torch import nn


class GlobalPool(nn.Module):
    """Mean, maximum, or both side by side, of each channel over all its places: (B, C, H, W) or (B, C, D, H, W) ->
    (B, C), or (B, 2C) for "both"."""

    def __init__(self, kind: str = "average"):
        super().__init__()
        self.kind = kind

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        places = tuple(range(2, x.dim()))
        if self.kind == "average":
            return x.mean(places)
        if self.kind == "maximum":
            return x.amax(places)
        return torch.cat([x.mean(places), x.amax(places)], dim=1)


class AdaptivePool(nn.Module):
    """Pools to a fixed height and width whatever comes in: (B, C, H, W) -> (B, C, size, size)."""

    def __init__(self, size: int = 4, kind: str = "average"):
        super().__init__()
        self.pool: nn.Module = nn.AdaptiveAvgPool2d(size) if kind == "average" else nn.AdaptiveMaxPool2d(size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pool(x)


class SequenceMaxPool1d(nn.MaxPool1d):
    """The strongest answer in each window of time: (B, T, F) -> (B, T', F). Args: those of `nn.MaxPool1d`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class SequenceAvgPool1d(nn.AvgPool1d):
    """The mean of each window of time: (B, T, F) -> (B, T', F). Args: those of `nn.AvgPool1d`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class SequenceAdaptivePool1d(nn.Module):
    """Pools time to a fixed number of steps whatever comes in: (B, T, F) -> (B, size, F)."""

    def __init__(self, size: int = 4, kind: str = "average"):
        super().__init__()
        self.pool: nn.Module = nn.AdaptiveAvgPool1d(size) if kind == "average" else nn.AdaptiveMaxPool1d(size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pool(x.transpose(1, 2)).transpose(1, 2)


class AdaptivePool3d(nn.Module):
    """Pools to a fixed depth, height and width whatever comes in: (B, C, D, H, W) -> (B, C, depth, size, size)."""

    def __init__(self, depth: int = 2, size: int = 4, kind: str = "average"):
        super().__init__()
        self.sizes, self.kind = (depth, size, size), kind

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        average = self.kind == "average"
        if all(side % size == 0 for side, size in zip(x.shape[2:], self.sizes, strict=True)):
            # Windows of one size: the same numbers from an operator that every format of export knows.
            window = tuple(side // size for side, size in zip(x.shape[2:], self.sizes, strict=True))
            return (nn.functional.avg_pool3d if average else nn.functional.max_pool3d)(x, window)
        return (nn.functional.adaptive_avg_pool3d if average else nn.functional.adaptive_max_pool3d)(x, self.sizes)


class LpPool(nn.Module):
    """The p-norm of each window: (sum |x|^p)^(1/p); p = 1 adds sizes up, a large p nears the maximum (Sermanet 2012).

    torch's own LPPool has no finite gradient where a whole window is zero, as it often is after a ReLU; here 1e-12
    under the root gives one.

    Args:
        norm_type: p. kernel_size, stride: of the window, along time, height and width, or all three axes of a volume.
    Input shape: (B, T, F), (B, C, H, W) or (B, C, D, H, W) float. Output: the same kind, smaller; never negative.
    """

    def __init__(self, norm_type: float = 2.0, kernel_size: int = 2, stride: int = 2):
        super().__init__()
        self.norm_type, self.kernel_size, self.stride = norm_type, kernel_size, stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        powers = x.abs().pow(self.norm_type)
        if x.dim() == 3:
            means = nn.functional.avg_pool1d(powers.transpose(1, 2), self.kernel_size, self.stride).transpose(1, 2)
        elif x.dim() == 4:
            means = nn.functional.avg_pool2d(powers, self.kernel_size, self.stride)
        else:
            means = nn.functional.avg_pool3d(powers, self.kernel_size, self.stride)
        count = self.kernel_size ** (1 if x.dim() == 3 else x.dim() - 2)
        return (means * count + 1e-12).pow(1 / self.norm_type)


class TimePool(nn.Module):
    """One vector for a whole sequence: the mean, the maximum, both, or the last or first step alone.

    Input shape: (B, T, F) float. Output shape: (B, F), or (B, 2F) for "both".
    """

    def __init__(self, kind: str = "average"):
        super().__init__()
        self.kind = kind

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.kind == "average":
            return x.mean(1)
        if self.kind == "maximum":
            return x.amax(1)
        if self.kind == "last":
            return x[:, -1]
        if self.kind == "first":
            return x[:, 0]
        return torch.cat([x.mean(1), x.amax(1)], dim=1)


class AttentionPool(nn.Module):
    """A weighted mean over time whose weights are learned: which steps (slices) matter for the answer.

    Each step is scored by a small network, tanh (and a sigmoid gate) inside; the scores become shares by softmax over
    time (Ilse et al. 2018, attention-based multiple instance learning).

    Args:
        features: F. units: width of the scoring network. gated: with the sigmoid gate of the paper's equation 9.
    Input shape: (B, T, features) float. Output shape: (B, features).
    """

    def __init__(self, features: int, units: int = 64, gated: bool = False):
        super().__init__()
        self.view = nn.Linear(features, units)
        self.gate = nn.Linear(features, units) if gated else None
        # No constant: it would shift all scores alike, and softmax does not see that.
        self.score = nn.Linear(units, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = torch.tanh(self.view(x))
        if self.gate is not None:
            seen = seen * torch.sigmoid(self.gate(x))
        shares = torch.softmax(self.score(seen), dim=1)
        return (shares * x).sum(1)
