"""Last layers, one for each kind of answer. (Class scores are a plain linear layer.)"""

import torch
from torch import nn


class MaskScores(nn.Module):
    """One score a class and pixel: a 1x1 convolution, brought to the scan's size (bilinear).

    Args:
        in_channels: of the maps. classes: number of them. scan_size: (height, width). full_size: scale up to it.
    Input shape: (B, in_channels, h, w). Output shape: (B, classes, height, width) scores before softmax or sigmoid.
    """

    def __init__(self, in_channels: int, classes: int, scan_size: tuple[int, int], full_size: bool = True):
        super().__init__()
        self.scores = nn.Conv2d(in_channels, classes, 1)
        self.size = tuple(scan_size) if full_size else ()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.scores(x)
        if not self.size or y.shape[2:] == self.size:
            return y
        return nn.functional.interpolate(y, self.size, mode="bilinear", align_corners=False)


class ImageHead(nn.Module):
    """A picture like the scan: a 3x3 convolution, brought to the scan's size times `scale` (bilinear) where it is not.

    Args:
        channels: of the maps and, with `residual`, of the scan. scan_channels, scan_size: of the scan.
        residual: the layers before it learn what to add to the scan (Zhang et al. 2017); the scan is the second input,
            enlarged by cubic convolution (Keys 1981) where `scale` is more than 1.
        scale: how many times finer the picture is than the scan (super-resolution).
    Output shape: (B, scan_channels, scale * height, scale * width), unbounded.
    Raises:
        ValueError: in words, when the scan is missing with `residual`, or is there without it.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        scan_channels: int,
        scan_size: tuple[int, int],
        residual: bool = False,
        scale: int = 1,
    ):
        super().__init__()
        if residual and len(channels) != 2:
            raise ValueError("To learn the difference, the image head needs the scan itself as its second input.")
        if residual and channels[1] != scan_channels:
            raise ValueError(f"The second input must be the scan ({scan_channels} channels), not {channels[1]} maps.")
        if not residual and len(channels) != 1:
            raise ValueError("The image head takes a second input, the scan, only where it learns the difference.")
        self.size, self.scale = (scan_size[0] * scale, scan_size[1] * scale), scale
        self.picture = nn.Conv2d(channels[0], scan_channels, 3, padding=1)

    def forward(self, x: torch.Tensor, scan: torch.Tensor | None = None) -> torch.Tensor:
        y = self.picture(x)
        if y.shape[2:] != self.size:
            y = nn.functional.interpolate(y, self.size, mode="bilinear", align_corners=False)
        if scan is None:
            return y
        if self.scale > 1:
            scan = nn.functional.interpolate(scan, self.size, mode="bicubic", align_corners=False)
        return scan + y


class BoxHead(nn.Module):
    """Boxes without anchors (FCOS, Tian et al. 2019; the towers are torchvision's): every place of every map says
    which class covers it, how far the box reaches from it, and how central it lies.

    Args:
        channels, sizes: of each map, (height, width). classes: number of them. scan_size: (height, width).
        hidden: channels inside, a multiple of 32. num_convs: 3x3 convolutions of each of the two towers.
    Input shape: a (B, C, h, w) for each map. Output shape: (B, T, classes + 5); T places, map after map, row by row.
    Last dimension:
        [0, classes)          logits, one a class (sigmoid, no background class)
        classes + 0, 1, 2, 3  distances from the place to the box's left, top, right, bottom edge, px of the scan, >= 0
        classes + 4           logit of the centreness
    `centers` (T, 2) float holds x and y of each place, px of the scan, from its top left corner.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        sizes: tuple[tuple[int, int], ...],
        classes: int,
        scan_size: tuple[int, int],
        hidden: int = 64,
        num_convs: int = 2,
    ):
        super().__init__()
        from torchvision.models.detection.fcos import FCOSHead

        if hidden % 32:
            near = max(32, round(hidden / 32) * 32)
            raise ValueError(f"The box head's group norm needs inner channels in 32s: {near} instead of {hidden}.")
        self.entry = nn.ModuleList(nn.Conv2d(c, hidden, 1) for c in channels)
        self.towers = FCOSHead(hidden, 1, classes, num_convs)
        steps, centers = [], []
        for height, width in sizes:
            y, x = scan_size[0] / height, scan_size[1] / width
            rows, columns = (torch.arange(height) + 0.5) * y, (torch.arange(width) + 0.5) * x
            centers.append(torch.cartesian_prod(rows, columns).flip(1))
            steps.append(torch.tensor([[x, y, x, y]]).expand(height * width, 4))
        self.register_buffer("centers", torch.cat(centers), persistent=False)
        self.register_buffer("steps", torch.cat(steps), persistent=False)

    def forward(self, *maps: torch.Tensor) -> torch.Tensor:
        found = self.towers([entry(x) for entry, x in zip(self.entry, maps, strict=True)])
        distances = found["bbox_regression"] * self.steps  # torchvision's are in steps of the map
        return torch.cat([found["cls_logits"], distances, found["bbox_ctrness"]], dim=2)
