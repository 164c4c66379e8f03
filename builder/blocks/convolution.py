"""Convolutions and resizing that torch has no single module for."""

import torch
from torch import nn


class SequenceConv1d(nn.Conv1d):
    """A convolution along time, features as channels (LeCun 1989; Keras' Conv1D).

    Args: those of `nn.Conv1d`.
    Input shape: (B, T, in_channels) float. Output shape: (B, T', out_channels), T' as in `nn.Conv1d`.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class SeparableConv2d(nn.Module):
    """A depthwise convolution, then a 1x1 convolution that mixes the channels (Chollet 2017, Xception).

    Args:
        in_channels, out_channels: sizes of dimension 1 of input and output.
        kernel_size, stride, padding, dilation: of the depthwise convolution, in pixels.
        bias: of the 1x1 convolution (the depthwise one needs none: the mixing after it is linear too).
    Input shape: (B, in_channels, H, W) float. Output shape: (B, out_channels, H', W'), as in `nn.Conv2d`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        padding: int = 1,
        dilation: int = 1,
        bias: bool = True,
    ):
        super().__init__()
        self.depthwise = nn.Conv2d(
            in_channels, in_channels, kernel_size, stride, padding, dilation, groups=in_channels, bias=False
        )
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pointwise(self.depthwise(x))


class Resize(nn.Module):
    """Interpolates pictures to one height and width, whatever comes in.

    Args:
        height, width: in pixels. mode: "nearest" or "bilinear" (half-pixel centres, no antialiasing).
    Input shape: (B, C, H, W) float. Output shape: (B, C, height, width).
    """

    def __init__(self, height: int = 32, width: int = 32, mode: str = "bilinear"):
        super().__init__()
        self.size, self.mode = (height, width), mode

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.interpolate(x, self.size, mode=self.mode)


class Resize3d(nn.Module):
    """Interpolates volumes to one depth, height and width, whatever comes in.

    Args:
        depth, height, width: in voxels. mode: "nearest" or "trilinear" (half-voxel centres, no antialiasing).
    Input shape: (B, C, D, H, W) float. Output shape: (B, C, depth, height, width).
    """

    def __init__(self, depth: int = 16, height: int = 32, width: int = 32, mode: str = "trilinear"):
        super().__init__()
        self.size, self.mode = (depth, height, width), mode

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.interpolate(x, self.size, mode=self.mode)


class Upsample(nn.Upsample):
    """A picture made larger: (B, C, H, W) -> (B, C, scale_factor * H, scale_factor * W).

    Args:
        mode: "nearest", "bilinear" or "bicubic". align_corners: the middles of the corner pixels stay where they are,
            instead of the corners of the picture; "nearest" has no such choice.
    """

    def __init__(self, scale_factor: int, mode: str = "nearest", align_corners: bool = False):
        aligned = None if mode == "nearest" else align_corners
        super().__init__(scale_factor=scale_factor, mode=mode, align_corners=aligned)
