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


class Conv3d(nn.Conv3d):
    """A convolution through a volume whose slices may lie farther apart than its pixels (nnU-Net, Isensee et al. 2021).

    Args: those of `nn.Conv3d`, the same for all three axes, and
        depth_kernel_size, depth_stride: what they are from slice to slice; 0 = as in height and width. A depth of its
            own keeps no more border than its kernel can use, so that 1 looks at each slice alone.
    Input shape: (B, in_channels, D, H, W) float. Output shape: (B, out_channels, D', H', W'), as in `nn.Conv3d`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        padding: int = 1,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        depth_kernel_size: int = 0,
        depth_stride: int = 0,
    ):
        depth = depth_kernel_size or kernel_size
        border = min(padding, dilation * (depth - 1) // 2) if depth_kernel_size else padding
        super().__init__(
            in_channels,
            out_channels,
            (depth, kernel_size, kernel_size),
            (depth_stride or stride, stride, stride),
            (border, padding, padding),
            dilation,
            groups,
            bias,
        )


class ConvTranspose3d(nn.ConvTranspose3d):
    """The way back up from `Conv3d`: a transposed convolution with a kernel and a step of its own from slice to slice.

    Args: those of `nn.ConvTranspose3d`, the same for all three axes, and
        depth_kernel_size, depth_stride: what they are from slice to slice; 0 = as in height and width. The border that
            is cut off is no more than half a depth of its own; what is added to one side is less than its step.
    Input shape: (B, in_channels, D, H, W) float. Output shape: (B, out_channels, D', H', W').
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 2,
        stride: int = 2,
        padding: int = 0,
        output_padding: int = 0,
        bias: bool = True,
        depth_kernel_size: int = 0,
        depth_stride: int = 0,
    ):
        depth, step = depth_kernel_size or kernel_size, depth_stride or stride
        border = min(padding, (depth - 1) // 2) if depth_kernel_size else padding
        more = min(output_padding, step - 1) if depth_stride else output_padding
        super().__init__(
            in_channels,
            out_channels,
            (depth, kernel_size, kernel_size),
            (step, stride, stride),
            (border, padding, padding),
            (more, output_padding, output_padding),
            bias=bias,
        )


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
