"""Losses of pictures, and how alike two pictures are: what image enhancement is taught and watched with.

Pictures are (B, C, H, W) float; in a loss both come normalized as the network sees them.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_WINDOW_PX, _SIGMA_PX = 11, 1.5  # Wang et al. 2004


def l1(output: Tensor, good: Tensor) -> Tensor:
    """Mean absolute difference."""
    return F.l1_loss(output, good)


def mse(output: Tensor, good: Tensor) -> Tensor:
    """Mean squared difference."""
    return F.mse_loss(output, good)


def psnr(output: Tensor, good: Tensor, softness: float) -> Tensor:
    """Mean over pictures of log10(1 + mse / softness^2): a decade less is 10 dB more PSNR (Chen et al., CVPRW 2021).

    As the negative PSNR itself, except that it stays above zero and flattens below `softness`. The squares are summed
    in float32, picture by picture.
    """
    squares = ((output.float() - good.float()) ** 2).flatten(1).mean(1)
    return torch.log1p(squares / softness**2).mean() / math.log(10)


def charbonnier(output: Tensor, good: Tensor, softness: float) -> Tensor:
    """Mean of sqrt(difference^2 + softness^2): L1 that is smooth at zero (Charbonnier et al. 1994)."""
    return ((output - good) ** 2 + softness**2).sqrt().mean()


def l1_ssim(output: Tensor, good: Tensor, share: float) -> Tensor:
    """(1 - share) L1 + share (1 - SSIM) (Zhao et al., IEEE TCI 3:47, 2017).

    The range of values that SSIM needs is taken as four standard deviations: of the batch of good pictures.
    """
    span = 4 * good.std().clamp(min=1e-3)
    return (1 - share) * l1(output, good) + share * (1 - ssim(output, good, span).mean())


def ssim(one: Tensor, other: Tensor, data_range: float | Tensor = 1.0) -> Tensor:
    """Structural similarity (Wang et al., IEEE TIP 13:600, 2004): (B,), 1 where two pictures are the same.

    Gaussian window of 11 px (sigma 1.5 px; smaller in smaller pictures), places where it fits, mean over channels.
    Counted in float32 or finer, whatever autocast says: a spread is the small difference of two large squares.
    """
    with torch.autocast(one.device.type, enabled=False):
        exact = torch.promote_types(torch.promote_types(one.dtype, other.dtype), torch.float32)
        return _alike(one.to(exact), other.to(exact), data_range)


def _alike(one: Tensor, other: Tensor, data_range: float | Tensor) -> Tensor:
    channels = one.shape[1]
    window = min(_WINDOW_PX, *one.shape[-2:])
    places = torch.arange(window, dtype=one.dtype, device=one.device) - (window - 1) / 2
    line = torch.exp(-0.5 * (places / _SIGMA_PX) ** 2)
    line = (line / line.sum()).expand(5 * channels, 1, 1, window)

    stack = torch.cat([one, other, one * one, other * other, one * other], 1)
    stack = F.conv2d(F.conv2d(stack, line, groups=5 * channels), line.transpose(2, 3), groups=5 * channels)
    mean, mean_other, square, square_other, product = stack.chunk(5, 1)
    first, second = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    spread, spread_other = square - mean**2, square_other - mean_other**2
    shared = product - mean * mean_other
    alike = (2 * mean * mean_other + first) * (2 * shared + second)
    return (alike / ((mean**2 + mean_other**2 + first) * (spread + spread_other + second))).mean((1, 2, 3))
