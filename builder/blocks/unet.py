"""Whole U-Nets of MONAI (Apache-2.0), for volumes and for pictures: scan in, fine maps as large as the scan out.

Each gives two things: first its deepest maps, from which a head may tell what a scan shows, then the fine ones.
"""

from typing import Any

import torch
from torch import nn


class Monai(nn.Module):
    """What the U-Nets have in common."""

    @staticmethod
    def steps(dimensions: int, levels: int, flat_levels: int) -> list[tuple[int, ...]]:
        """By how much each step down halves (depth, height, width): the first `flat_levels` leave the depth alone."""
        flat = flat_levels if dimensions == 3 else 0
        return [(1 if k < flat else 2, 2, 2)[-dimensions:] for k in range(levels - 1)]


class ResidualUnet(Monai):
    """MONAI's U-Net of residual units (Kerfoot et al. 2018): halves by strided convolutions, grows by transposed ones.

    Args:
        channels: of the scan, or of what feeds it. dimensions: 2 for pictures, 3 for volumes.
        width: channels of the first level and of the fine maps; each level below has twice as many.
        levels: how many there are; each but the last halves the sides. flat_levels: how many of them, from the top,
            halve height and width only, for slices that lie far apart.
        units: convolutions in each residual unit, 0 for a single plain one. norm: "instance" or "batch".
        dropout: share dropped after each convolution.
    Input shape: (B, C, H, W) or (B, C, D, H, W). Output shapes: the deepest maps (B, width * 2 ** (levels - 1), ...),
        each side divided by what the steps halve; then (B, width, ...) at the input's size.
    """

    def __init__(
        self,
        channels: int,
        dimensions: int,
        width: int = 16,
        levels: int = 4,
        flat_levels: int = 0,
        units: int = 2,
        norm: str = "instance",
        dropout: float = 0.0,
    ):
        super().__init__()
        from monai.networks.nets.unet import UNet

        whole = UNet(
            dimensions,
            channels,
            width,
            channels=[width * 2**k for k in range(levels)],
            strides=self.steps(dimensions, levels, flat_levels),  # type: ignore[arg-type]  # it takes tuples
            num_res_units=units,
            norm=norm,
            dropout=dropout,
        )
        # MONAI nests each level into the one above; laid out flat, the deepest maps can be handed out as well.
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        level: Any = whole.model
        for _ in range(levels - 1):
            down, inner, up = level
            self.downs.append(down)
            self.ups.insert(0, up)
            level = inner.submodule
        self.bottom = level

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        kept = []
        for down in self.downs:
            x = down(x)
            kept.append(x)
        deepest = x = self.bottom(x)
        for up in self.ups:
            x = up(torch.cat([kept.pop(), x], 1))
        return deepest, x


class DynamicUnet(Monai):
    """MONAI's DynUNet, the plain network of nnU-Net (Isensee et al. 2021): two convolutions a level.

    Args, shapes: as `ResidualUnet`. residual: with a shortcut around the two convolutions of each level down.
    """

    def __init__(
        self,
        channels: int,
        dimensions: int,
        width: int = 16,
        levels: int = 4,
        flat_levels: int = 0,
        residual: bool = False,
        norm: str = "instance",
        dropout: float = 0.0,
    ):
        super().__init__()
        from monai.networks.nets.dynunet import DynUNet

        steps = self.steps(dimensions, levels, flat_levels)
        # A level that keeps its depth looks at its own slice alone, as nnU-Net has it for slices far apart.
        kernels = [tuple(1 if side == 1 else 3 for side in step) for step in steps]
        whole = DynUNet(
            dimensions,
            channels,
            1,
            kernel_size=[*kernels, (3,) * dimensions],
            strides=[(1,) * dimensions, *steps],
            upsample_kernel_size=steps,
            filters=[min(width * 2**k, max(320, width)) for k in range(levels)],
            norm_name=(norm, {"affine": True}),
            dropout=dropout or None,
            res_block=residual,
        )
        # MONAI holds each level twice, once in a nested chain; here they stand once.
        self.downs = nn.ModuleList([whole.input_block, *whole.downsamples])
        self.bottom, self.ups = whole.bottleneck, whole.upsamples

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        kept = []
        for down in self.downs:
            x = down(x)
            kept.append(x)
        deepest = x = self.bottom(x)
        for up in self.ups:
            x = up(x, kept.pop())
        return deepest, x


class SegmentationResNet(Monai):
    """MONAI's SegResNet (Myronenko 2018): residual blocks with group norm, a deep way down and a light way up.

    Args, shapes: as `ResidualUnet`. width: a multiple of 8, the number of groups. blocks: residual blocks of each level
        down; the way up has one. dropout: share of channels dropped after the first convolution.
    """

    def __init__(
        self,
        channels: int,
        dimensions: int,
        width: int = 16,
        levels: int = 4,
        blocks: int = 2,
        dropout: float = 0.0,
    ):
        super().__init__()
        from monai.networks.nets.segresnet import SegResNet

        self.net = SegResNet(
            dimensions,
            width,
            channels,
            width,
            dropout_prob=dropout or None,
            act="RELU",
            blocks_down=(1, *[blocks] * (levels - 1)),
            blocks_up=(1,) * (levels - 1),
        )

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        deepest, kept = self.net.encode(x)
        return deepest, self.net.decode(deepest, kept[::-1])
