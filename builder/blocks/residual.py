"""Blocks of known networks: residual, bottleneck, inverted residual, dense, Inception, NAFNet."""

import torch
from torch import nn

from builder.blocks.norm import LayerNorm2d
from builder.blocks.regularization import DropPath


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm and a shortcut (He et al. 2016, basic block; pre-addition as in the paper).

    Args:
        in_channels, out_channels: sizes of dimension 1 of input and output.
        stride: of the first convolution; the shortcut becomes a 1x1 convolution where shape changes.
        dropout: probability of dropping whole channels between the two convolutions (Zagoruyko 2016).
        drop_path: how often all but the shortcut is left out for a scan in training (stochastic depth, Huang 2016).
    Input shape: (B, in_channels, H, W) float. Output shape: (B, out_channels, ceil(H / stride), ceil(W / stride)).
    """

    PARTS = (DropPath,)  # an export writes its source, too

    def __init__(
        self, in_channels: int, out_channels: int, stride: int = 1, dropout: float = 0.0, drop_path: float = 0.0
    ):
        super().__init__()
        self.path = DropPath(drop_path)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.drop = nn.Dropout2d(dropout)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(self.drop(y)))
        return torch.relu(self.path(y) + self.shortcut(x))


class ResidualBlock3d(nn.Module):
    """Two 3x3x3 convolutions with batch norm and a shortcut (He et al. 2016, basic block) over a volume.

    Args:
        in_channels, out_channels: sizes of dimension 1 of input and output.
        stride: of the first convolution; the shortcut becomes a 1x1x1 convolution where shape changes.
        dropout: probability of dropping whole channels between the two convolutions.
        drop_path: how often all but the shortcut is left out for a scan in training (stochastic depth, Huang 2016).
    Input shape: (B, in_channels, D, H, W) float. Output shape: (B, out_channels, each side ceil(side / stride)).
    """

    PARTS = (DropPath,)  # an export writes its source, too

    def __init__(
        self, in_channels: int, out_channels: int, stride: int = 1, dropout: float = 0.0, drop_path: float = 0.0
    ):
        super().__init__()
        self.path = DropPath(drop_path)
        self.conv1 = nn.Conv3d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm3d(out_channels)
        self.conv2 = nn.Conv3d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm3d(out_channels)
        self.drop = nn.Dropout3d(dropout)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv3d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm3d(out_channels)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(self.drop(y)))
        return torch.relu(self.path(y) + self.shortcut(x))


class BottleneckBlock(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with batch norm and a shortcut: fewer channels inside, so that deep networks stay
    affordable (He et al. 2016; stride at the 3x3 convolution as in ResNet v1.5).

    Args:
        in_channels, out_channels: sizes of dimension 1 of input and output.
        stride: of the 3x3 convolution; the shortcut becomes a 1x1 convolution where shape changes.
        reduction: the 3x3 convolution has out_channels / reduction channels (at least one).
        drop_path: how often all but the shortcut is left out for a scan in training (stochastic depth, Huang 2016).
    Input shape: (B, in_channels, H, W) float. Output shape: (B, out_channels, ceil(H / stride), ceil(W / stride)).
    """

    PARTS = (DropPath,)  # an export writes its source, too

    def __init__(
        self, in_channels: int, out_channels: int, stride: int = 1, reduction: int = 4, drop_path: float = 0.0
    ):
        super().__init__()
        self.path = DropPath(drop_path)
        inner = max(1, out_channels // reduction)
        self.net = nn.Sequential(
            nn.Conv2d(in_channels, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, inner, 3, stride, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.path(self.net(x)) + self.shortcut(x))


class NafnetBlock(nn.Module):
    """A block of NAFNet (Chen et al., ECCV 2022): no activation functions, only products of halves of the channels.

    Layer norm, 1x1 convolution to twice the channels, a 3x3 filter for each channel, the product of the two halves
    (SimpleGate), weights of the channels from their means (simplified channel attention), 1x1 convolution; then layer
    norm and a gated 1x1 pair. Both parts stand beside a shortcut and begin at a tenth of their weight (in the paper at
    none, where nothing inside learns in the first step): the new block is nearly the identity.

    Args:
        channels: that come in and out. expansion: how many times wider it is before each gate; even. attention: whether
            the means of the whole picture weigh the channels; without, each answer rests on its surroundings alone.
        drop_path: how often each of the two parts is left out for a scan in training (stochastic depth, Huang 2016).
    """

    PARTS = (LayerNorm2d, DropPath)  # an export writes their source, too

    def __init__(self, channels: int, expansion: int = 2, attention: bool = True, drop_path: float = 0.0):
        super().__init__()
        self.path = DropPath(drop_path)
        if channels * expansion % 2:
            raise ValueError(f"A gate halves {channels * expansion} channels: choose an even number of them.")
        wide, half = channels * expansion, channels * expansion // 2
        self.norm, self.widen = LayerNorm2d(channels), nn.Conv2d(channels, wide, 1)
        self.filter = nn.Conv2d(wide, wide, 3, padding=1, groups=wide)
        self.attention = nn.Conv2d(half, half, 1) if attention else None
        self.narrow = nn.Conv2d(half, channels, 1)
        self.second_norm = LayerNorm2d(channels)
        self.second_widen, self.second_narrow = nn.Conv2d(channels, wide, 1), nn.Conv2d(half, channels, 1)
        self.share = nn.Parameter(torch.full((1, channels, 1, 1), 0.1))
        self.second_share = nn.Parameter(torch.full((1, channels, 1, 1), 0.1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = self.filter(self.widen(self.norm(x))).chunk(2, dim=1)
        y = first * second
        if self.attention is not None:
            y = y * self.attention(y.mean((2, 3), keepdim=True))
        x = x + self.path(self.share * self.narrow(y))
        first, second = self.second_widen(self.second_norm(x)).chunk(2, dim=1)
        return x + self.path(self.second_share * self.second_narrow(first * second))


class InvertedResidual(nn.Module):
    """Widens with a 1x1 convolution, filters each channel alone, narrows again; a shortcut where the shape stays
    (Sandler et al. 2018, MobileNetV2; with squeeze-and-excitation as in MobileNetV3 and EfficientNet).

    Args:
        in_channels, out_channels: sizes of dimension 1 of input and output.
        stride: of the depthwise 3x3 convolution. expansion: how many times wider it is inside.
        squeeze: weigh the inner channels by squeeze-and-excitation (in_channels / 4 units, at least two).
        drop_path: how often all but the shortcut is left out for a scan in training, where there is a shortcut.
    Input shape: (B, in_channels, H, W) float. Output shape: (B, out_channels, ceil(H / stride), ceil(W / stride)).
    """

    PARTS = (DropPath,)  # an export writes its source, too

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        expansion: int = 6,
        squeeze: bool = False,
        drop_path: float = 0.0,
    ):
        super().__init__()
        self.path = DropPath(drop_path)
        inner, units = in_channels * expansion, max(2, in_channels // 4)
        self.shortcut = stride == 1 and in_channels == out_channels
        self.widen = nn.Sequential(nn.Conv2d(in_channels, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU6())
        self.filter = nn.Sequential(
            nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False), nn.BatchNorm2d(inner), nn.ReLU6()
        )
        self.weigh: nn.Module | None = None
        if squeeze:
            self.weigh = nn.Sequential(
                nn.AdaptiveAvgPool2d(1), nn.Conv2d(inner, units, 1), nn.SiLU(), nn.Conv2d(units, inner, 1), nn.Sigmoid()
            )
        self.narrow = nn.Sequential(nn.Conv2d(inner, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.filter(self.widen(x))
        if self.weigh is not None:
            y = y * self.weigh(y)
        y = self.narrow(y)
        return x + self.path(y) if self.shortcut else y


class DenseBlock(nn.Module):
    """Layers that each see everything made before them and add a few channels (Huang et al. 2017, DenseNet-B: batch
    norm, ReLU, 1x1 convolution to 4 * growth_rate, batch norm, ReLU, 3x3 convolution).

    Args:
        in_channels: C. growth_rate: channels that each layer adds. layers: how many.
        dropout: share of values of each layer's answer dropped in training.
    Input shape: (B, in_channels, H, W) float. Output shape: (B, in_channels + layers * growth_rate, H, W).
    """

    def __init__(self, in_channels: int, growth_rate: int = 12, layers: int = 4, dropout: float = 0.0):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(in_channels + k * growth_rate),
                nn.ReLU(),
                nn.Conv2d(in_channels + k * growth_rate, 4 * growth_rate, 1, bias=False),
                nn.BatchNorm2d(4 * growth_rate),
                nn.ReLU(),
                nn.Conv2d(4 * growth_rate, growth_rate, 3, padding=1, bias=False),
                nn.Dropout(dropout),
            )
            for k in range(layers)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.cat([x, layer(x)], dim=1)
        return x


class InceptionBlock(nn.Module):
    """Looks at several sizes at once: 1x1, 3x3 and 5x5 convolutions and a max pooling side by side, their channels
    stacked (Szegedy et al. 2015, with batch norm as in Ioffe and Szegedy 2015).

    Args:
        in_channels: C. channels_1x1, channels_3x3, channels_5x5, channels_pool: channels that each branch gives. The
            3x3 and 5x5 convolutions follow a 1x1 convolution to half of theirs (at least one).
    Input shape: (B, in_channels, H, W) float. Output shape: (B, sum of the four, H, W).
    """

    def __init__(
        self,
        in_channels: int,
        channels_1x1: int = 16,
        channels_3x3: int = 32,
        channels_5x5: int = 8,
        channels_pool: int = 8,
    ):
        super().__init__()

        def conv(inside: int, outside: int, kernel_size: int) -> list[nn.Module]:
            filters = nn.Conv2d(inside, outside, kernel_size, padding=kernel_size // 2, bias=False)
            return [filters, nn.BatchNorm2d(outside), nn.ReLU()]

        half_3x3, half_5x5 = max(1, channels_3x3 // 2), max(1, channels_5x5 // 2)
        self.branches = nn.ModuleList(
            [
                nn.Sequential(*conv(in_channels, channels_1x1, 1)),
                nn.Sequential(*conv(in_channels, half_3x3, 1), *conv(half_3x3, channels_3x3, 3)),
                nn.Sequential(*conv(in_channels, half_5x5, 1), *conv(half_5x5, channels_5x5, 5)),
                nn.Sequential(nn.MaxPool2d(3, 1, 1), *conv(in_channels, channels_pool, 1)),
            ]
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([branch(x) for branch in self.branches], dim=1)
