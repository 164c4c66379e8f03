"""Decoders of segmentation-models-pytorch (Iakubovskii 2019, MIT), fed by maps from anywhere: shallow to deep."""

import torch
from torch import nn


class Decoder(nn.Module):
    """What decoders have in common: they check the maps that they are given."""

    @staticmethod
    def check(title: str, sizes: tuple[tuple[int, int], ...], halving: bool = False) -> None:
        """Raises ValueError, in words, unless the maps come shallow to deep, each smaller than the one before it.

        Args:
            sizes: (height, width) of each. halving: each must be exactly half as large as the one before it.
        """
        words = ", ".join(f"{h} x {w}" for h, w in sizes)
        if len(sizes) < 2:
            raise ValueError(f"{title} needs at least two maps, shallow to deep; it gets {words}.")
        for above, below in zip(sizes, sizes[1:], strict=False):
            if below[0] >= above[0] or below[1] >= above[1]:
                order = " Wire them the other way round." if sizes == tuple(sorted(sizes)) else ""
                raise ValueError(f"{title} needs its maps shallow to deep, each smaller than the last: {words}.{order}")
            if halving and (2 * below[0], 2 * below[1]) != above:
                raise ValueError(
                    f"{title} needs each map half as large as the one before it; it gets {words}. Choose maps that "
                    "follow each other, and a scan whose size divides evenly (a multiple of 32 px)."
                )


class UnetDecoder(Decoder):
    """U-Net's way back up (Ronneberger et al. 2015): doubles the deepest map step by step, joined with each map above.

    Args:
        channels: of each map, shallow to deep. sizes: (height, width) of each. scan_size: (height, width).
        out_channels: of the maps that come out; each step below has twice as many, at most 512.
        resolution: "shallowest" (that of the first map) or "scan" (one more step, without a map to join).
        attention: squeeze-and-excite over space and channels in each step (Roy et al. 2018).
    Input shape: a (B, C, h, w) for each map. Output shape: (B, out_channels, height, width).
    Raises:
        ValueError: in words, for maps in another order.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        sizes: tuple[tuple[int, int], ...],
        scan_size: tuple[int, int],
        out_channels: int = 16,
        resolution: str = "shallowest",
        attention: bool = False,
    ):
        super().__init__()
        from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder as Steps

        self.check("U-Net", sizes)
        # smp drops its first map and takes from it only the size at which the last step ends.
        self.end = tuple(scan_size) if resolution == "scan" else tuple(sizes[0])
        num_steps = len(sizes) if self.end != tuple(sizes[0]) else len(sizes) - 1
        widths = [min(max(512, out_channels), out_channels * 2**k) for k in range(num_steps)][::-1]
        kind = "scse" if attention else None
        self.steps = Steps([0, *channels], widths, n_blocks=num_steps, attention_type=kind)

    def forward(self, *maps: torch.Tensor) -> torch.Tensor:
        return self.steps([maps[0].new_empty(1, 1, *self.end), *maps])


class UnetPlusPlusDecoder(Decoder):
    """U-Net++ (Zhou et al. 2018): a U-Net whose skips pass through nested steps of their own.

    Args, shapes and errors: as `UnetDecoder`; each map must be half as large as the one before it, and the scan twice
    as large as the first where `resolution` is "scan" (or as large).
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        sizes: tuple[tuple[int, int], ...],
        scan_size: tuple[int, int],
        out_channels: int = 16,
        resolution: str = "shallowest",
    ):
        super().__init__()
        from segmentation_models_pytorch.decoders.unetplusplus.decoder import UnetPlusPlusDecoder as Steps

        self.check("U-Net++", sizes, halving=True)
        further = resolution == "scan" and tuple(scan_size) != tuple(sizes[0])
        if further:
            self.check("U-Net++ up to the scan's size", (scan_size, *sizes), halving=True)
        num_steps = len(sizes) if further else len(sizes) - 1
        widths = [min(max(512, out_channels), out_channels * 2**k) for k in range(num_steps)][::-1]
        self.steps = Steps([0, *channels], widths if further else [*widths, out_channels], n_blocks=len(sizes))
        if not further:  # its last step doubles once more, without a map to join
            self.steps.blocks[f"x_0_{self.steps.depth}"] = nn.Identity()

    def forward(self, *maps: torch.Tensor) -> torch.Tensor:
        return self.steps([maps[0], *maps])


class FPNDecoder(Decoder):
    """Feature pyramid for segmentation (Lin et al. 2017; Kirillov et al. 2019): every level joins the one below, is
    brought to the size of the first, and all are summed.

    Args:
        channels, sizes: of each map, shallow to deep; each half as large as the one before it.
        pyramid_channels: of the levels. out_channels: of what comes out; a multiple of 32. dropout: share of channels
            dropped at the end.
    Output shape: (B, out_channels, height, width) of the first map.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        sizes: tuple[tuple[int, int], ...],
        pyramid_channels: int = 128,
        out_channels: int = 64,
        dropout: float = 0.2,
    ):
        super().__init__()
        from segmentation_models_pytorch.decoders.fpn.decoder import FPNBlock, SegmentationBlock

        self.check("FPN", sizes, halving=True)
        if out_channels % 32:
            near = max(32, round(out_channels / 32) * 32)
            raise ValueError(f"FPN's group norm needs output channels in 32s: {near} instead of {out_channels}.")
        self.top = nn.Conv2d(channels[-1], pyramid_channels, 1)
        self.joins = nn.ModuleList(FPNBlock(pyramid_channels, c) for c in channels[-2::-1])
        self.levels = nn.ModuleList(
            SegmentationBlock(pyramid_channels, out_channels, n_upsamples=k) for k in range(len(channels) - 1, -1, -1)
        )
        self.drop = nn.Dropout2d(dropout)

    def forward(self, *maps: torch.Tensor) -> torch.Tensor:
        levels = [self.top(maps[-1])]
        for join, skip in zip(self.joins, maps[-2::-1], strict=True):
            levels.append(join(levels[-1], skip))
        # smp's MergeBlock stacks along the batch to add up; formats other than torch cannot follow that.
        found = self.levels[0](levels[0])
        for layer, x in zip(self.levels[1:], levels[1:], strict=True):
            found = found + layer(x)
        return self.drop(found)


class FeaturePyramid(Decoder):
    """Feature pyramid that keeps its levels (Lin et al. 2017; torchvision's): every map learns from the coarser ones.

    Args:
        channels, sizes: of each map, shallow to deep, each smaller than the last. out_channels: of every map that comes
            out.
    Input shape: a (B, C, h, w) for each map. Output shape: as many (B, out_channels, h, w), shallow to deep.
    """

    def __init__(self, channels: tuple[int, ...], sizes: tuple[tuple[int, int], ...], out_channels: int = 64):
        super().__init__()
        from torchvision.ops import FeaturePyramidNetwork

        self.check("A feature pyramid", sizes)
        self.levels = FeaturePyramidNetwork(list(channels), out_channels)

    def forward(self, *maps: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.levels({str(k): x for k, x in enumerate(maps)}).values())


class DeepLabDecoder(Decoder):
    """DeepLabV3+ (Chen et al. 2018): looks at the deep map through holes of several widths, and joins a shallow one.

    Args:
        channels, sizes: of the shallow map (details; a quarter of the scan in the paper) and the deep one.
        out_channels: of what comes out. rate: gaps of the narrowest dilated convolution; the others have 2 and 3 times
            as wide ones (12 in the paper, for a deep map of a sixteenth). dropout: inside.
    Output shape: (B, out_channels, height, width) of the shallow map. Training needs batches of two scans and more.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        sizes: tuple[tuple[int, int], ...],
        out_channels: int = 128,
        rate: int = 12,
        dropout: float = 0.5,
    ):
        super().__init__()
        from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3PlusDecoder as Steps

        self.check("DeepLabV3+", sizes)
        self.steps = Steps(
            [0, 0, channels[0], channels[1]],
            encoder_depth=3,
            out_channels=out_channels,
            atrous_rates=(rate, 2 * rate, 3 * rate),
            output_stride=16,
            aspp_separable=True,
            aspp_dropout=dropout,
        )
        self.steps.up = nn.Upsample(size=tuple(sizes[0]), mode="bilinear", align_corners=True)

    def forward(self, details: torch.Tensor, deep: torch.Tensor) -> torch.Tensor:
        return self.steps([details, details, details, deep])
