"""Grey values of a batch varied at random: exposure, focus, and what MR, CT and ultrasound machines add of their own.

Always in the same order, whatever order they were chosen in: bias field, blur, low resolution, ghosting, contrast and
brightness, gamma, colour, speckle, CT noise, noise, erased patches. All slices of a series or volume change alike; only
what is noise in a scanner is new in every pixel. Everything is computed on the device for all scans of a batch at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

Chance = Mapping[str, tuple[Tensor, Tensor]]
"""Per augmentation: which images it falls on (B,) bool, and two numbers in [-1, 1) for its amounts (B, 2); on the
CPU."""

NAMES = (
    *("bias_field", "blur", "low_resolution", "ghosting", "contrast", "brightness", "gamma", "colour"),
    *("speckle", "ct_noise", "noise", "cutout"),
)
_DARK_SHARE = 0.25  # of the variance of CT noise that is left in black
_LEAST_PATCH = 0.3  # an erased patch is at least this share of the largest
# Luma and chroma of NTSC television: rotating and scaling the (I, Q) plane is hue and saturation as one matrix.
_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


def shade(
    images: Tensor,
    chance: Chance,
    settings: Mapping[str, Mapping[str, float]],
    generator: torch.Generator,
    planes: tuple[int, int, int],
) -> Tensor:
    """The batch with its grey values changed where chance says so; in [0, 1], of the same type, on the same device.

    Args:
        images: (B, P, H, W) float in [0, 1]; never changed in place. planes: how the P planes lie: (slices before the
            channels, channels, slices within). settings: by augmentation, as in the catalog. generator: on the CPU.
    """
    meant = {name: rows for name in NAMES if name in chance and len(rows := chance[name][0].nonzero()[:, 0])}
    if "colour" in meant and planes[1] != 3:
        del meant["colour"]  # hue and saturation mean nothing on grey scans
    if not meant:
        return images
    device, kind = images.device, images.dtype

    def drawn(name: str, column: int = 0) -> Tensor:
        """The drawn numbers of the images meant, in [-1, 1), ready to multiply with (m, 1, 1, 1)."""
        return chance[name][1][meant[name], column].to(device, kind).view(-1, 1, 1, 1)

    def upto(name: str, setting: str, column: int = 0) -> Tensor:
        """Amounts from 0 to the setting, (m, 1, 1, 1)."""
        return (drawn(name, column) + 1) / 2 * settings[name][setting]

    noise: list[torch.Generator] = []

    def normal(count: int) -> Tensor:
        """White noise (count, P, H, W), from a generator of the device that the one on the CPU has seeded."""
        if not noise:
            noise.append(generator)
            if device.type != "cpu":
                noise[0] = torch.Generator(device)
                noise[0].manual_seed(int(torch.randint(2**62, (), generator=generator)))
        return torch.randn((count, *images.shape[1:]), generator=noise[0], device=device, dtype=kind)

    height, width = images.shape[-2:]
    images = images.clone()
    if "bias_field" in meant:
        rows = meant["bias_field"].to(device)
        field = _bias_fields(len(rows), height, width, generator).to(device, kind)
        images[rows] = (images[rows] * (upto("bias_field", "amount") * field).exp()).clamp_(0, 1)
    if "blur" in meant:
        rows = meant["blur"].to(device)
        images[rows] = _blur(images[rows], upto("blur", "sigma_px").flatten(), settings["blur"]["sigma_px"])
    if "low_resolution" in meant:
        rows = meant["low_resolution"].to(device)
        factor = 1 + (drawn("low_resolution").flatten() + 1) / 2 * (settings["low_resolution"]["factor"] - 1)
        down = _coarse(height, factor)[:, None]
        across = down if width == height else _coarse(width, factor)[:, None]
        images[rows] = down @ images[rows] @ across.transpose(2, 3)
    if "ghosting" in meant:
        _ghost(images, meant["ghosting"], upto("ghosting", "strength"), chance["ghosting"][1], settings["ghosting"])
    if "contrast" in meant or "brightness" in meant:
        scale = torch.ones(len(images), 1, 1, 1, dtype=kind, device=device)
        offset = torch.zeros_like(scale)
        if "contrast" in meant:
            rows = meant["contrast"].to(device)
            scale[rows] += drawn("contrast") * settings["contrast"]["amount"]
            offset = images.mean((1, 2, 3), keepdim=True) * (1 - scale)
        if "brightness" in meant:
            offset[meant["brightness"].to(device)] += drawn("brightness") * settings["brightness"]["amount"]
        images.mul_(scale).add_(offset)
    if "gamma" in meant:
        rows = meant["gamma"].to(device)
        images[rows] = images[rows].clamp_(0, 1).pow_(1 + drawn("gamma") * settings["gamma"]["amount"])
    if "colour" in meant:
        rows = meant["colour"].to(device)
        saturation = 1 + drawn("colour").flatten() * settings["colour"]["saturation"]
        hue = drawn("colour", 1).flatten() * settings["colour"]["hue"] * 2 * math.pi
        mix = _colour_matrices(saturation, hue)
        part = images[rows].unflatten(1, planes)
        images[rows] = torch.einsum("bij,bsjdhw->bsidhw", mix, part).flatten(1, 3)
    if "speckle" in meant:
        rows = meant["speckle"].to(device)
        grains = _grained(normal(len(rows)), settings["speckle"]["grain_px"])
        images[rows] = images[rows].clamp_(0, 1) * grains.mul_(upto("speckle", "sigma")).add_(1)
    if "ct_noise" in meant:
        rows = meant["ct_noise"].to(device)
        part = images[rows].clamp_(0, 1)
        spread = (part * (1 - _DARK_SHARE) + _DARK_SHARE).sqrt_().mul_(upto("ct_noise", "sigma"))
        images[rows] = part + _grained(normal(len(rows)), settings["ct_noise"]["grain_px"]).mul_(spread)
    if "noise" in meant:
        rows = meant["noise"].to(device)
        images.index_add_(0, rows, normal(len(rows)).mul_(upto("noise", "sigma")))
    images.clamp_(0, 1)
    if "cutout" in meant:
        rows = meant["cutout"].to(device)
        holes = erased(len(rows), height, width, settings["cutout"], generator).to(device)
        part = images[rows]
        images[rows] = torch.where(patched(holes, height, width), part.mean((1, 2, 3), keepdim=True), part)
    return images


def _bias_fields(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """(count, 1, H, W): polynomials of the third degree with random coefficients, largest absolute value 1 (the model
    of Van Leemput et al., IEEE TMI 1999, for the sensitivity of MR coils)."""
    weights = torch.rand(count, 9, generator=generator) * 2 - 1
    x, y = torch.linspace(-1, 1, width)[None, :], torch.linspace(-1, 1, height)[:, None]
    powers = [(i, j) for i in range(4) for j in range(4) if 0 < i + j <= 3]
    basis = torch.stack([(x**i * y**j).expand(height, width) for i, j in powers])
    fields = torch.einsum("bk,khw->bhw", weights, basis)
    return (fields / fields.abs().amax((1, 2), keepdim=True).clamp(min=1e-6))[:, None]


def _coarse(side: int, factor: Tensor) -> Tensor:
    """(m, side, side): what a line of `side` pixels becomes on a grid `factor` (m,) times coarser and back: each coarse
    pixel the mean of what it covers, between their centres a straight line."""
    count = (side / factor).round().clamp(min=1)[:, None, None]
    size = side / count
    coarse = torch.arange(int(count.max()), dtype=factor.dtype, device=factor.device)
    fine = torch.arange(side, dtype=factor.dtype, device=factor.device)
    begin = coarse[:, None] * size
    down = (torch.minimum(begin + size, fine + 1) - torch.maximum(begin, fine)).clamp(min=0) / size
    centre = torch.minimum(((fine[:, None] + 0.5) / size - 0.5).clamp(min=0), count - 1)
    before = centre.floor().long()
    after = torch.minimum(before + 1, count.long() - 1)
    low, high = (down.gather(1, rows.expand(-1, -1, side)) for rows in (before, after))
    return torch.lerp(low, high, centre - before)


def _ghost(images: Tensor, rows: Tensor, strength: Tensor, numbers: Tensor, settings: Mapping[str, float]) -> None:
    """Weakens every n-th line of k-space in place: n - 1 faint copies of the scan appear along the phase direction,
    which is one of the two at random; the middle line stays. The magnitude is taken, as MR does, so ghosts are bright
    in black."""
    most = max(2, int(settings["ghosts"]))
    second = (numbers[rows, 1] + 1) / 2
    across = second < 0.5
    number = 2 + ((second * 2) % 1 * (most - 1)).floor().clamp(max=most - 2)
    for axis, chosen in ((-1, across), (-2, ~across)):
        if not bool(chosen.any()):
            continue
        these = rows[chosen].to(images.device)
        side = images.shape[axis]
        lines = torch.arange(side // 2 + 1)
        hit = (lines % number[chosen, None].clamp(max=max(2, side // 2)) == 0) & (lines > 0)
        gain = 1 - hit.to(images.device, images.dtype) * strength[chosen.to(images.device)].flatten()[:, None]
        gain = gain[:, None, None, :] if axis == -1 else gain[:, None, :, None]
        images[these] = torch.fft.irfft(torch.fft.rfft(images[these], dim=axis) * gain, n=side, dim=axis).abs_()


def _blur(images: Tensor, sigma: Tensor, largest: float) -> Tensor:
    """Gaussian blur with a sigma (in pixels) per image, borders repeated; two passes of one dimension each."""
    count, channels, height, width = images.shape
    radius = min(max(1, math.ceil(3 * largest)), 15)
    offsets = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
    kernels = torch.exp(-0.5 * (offsets / sigma.clamp(min=1e-3).view(-1, 1)) ** 2)
    kernels = (kernels / kernels.sum(1, keepdim=True)).repeat_interleave(channels, 0).view(count * channels, 1, 1, -1)
    flat = images.reshape(1, count * channels, height, width)
    flat = F.conv2d(F.pad(flat, (radius, radius, 0, 0), mode="replicate"), kernels, groups=count * channels)
    kernels = kernels.transpose(2, 3)
    flat = F.conv2d(F.pad(flat, (0, 0, radius, radius), mode="replicate"), kernels, groups=count * channels)
    return flat.view(count, channels, height, width)


def _grained(noise: Tensor, grain_px: float) -> Tensor:
    """White noise made coarser by a Gaussian of `grain_px`; its standard deviation stays 1."""
    if grain_px < 0.05:
        return noise
    offsets = torch.arange(-math.ceil(3 * grain_px), math.ceil(3 * grain_px) + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (offsets / grain_px) ** 2)
    smooth = _blur(noise, torch.full((len(noise),), grain_px, dtype=noise.dtype, device=noise.device), grain_px)
    return smooth.div_(float((kernel / kernel.sum()).square().sum()))


def _colour_matrices(saturation: Tensor, hue: Tensor) -> Tensor:
    """(m, 3, 3) RGB to RGB: the chroma plane turned by `hue` (radians) and scaled by `saturation`; luma stays."""
    to_yiq = _YIQ.to(saturation.device, saturation.dtype)
    turn = torch.zeros(len(hue), 3, 3, dtype=hue.dtype, device=hue.device)
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = saturation * hue.cos()
    turn[:, 1, 2] = -saturation * hue.sin()
    turn[:, 2, 1] = saturation * hue.sin()
    return torch.linalg.inv(to_yiq) @ turn @ to_yiq


def erased(count: int, height: int, width: int, settings: Mapping[str, float], generator: torch.Generator) -> Tensor:
    """(count, patches, 4) float32: the rectangles that cutout covers, x0 y0 x1 y1 in pixels, cut at the border; those
    of an image that has fewer are empty (DeVries and Taylor 2017; Zhong et al. 2020)."""
    most = max(1, int(settings["patches"]))
    draws = torch.rand(count, most, 5, generator=generator)
    sides = (_LEAST_PATCH + (1 - _LEAST_PATCH) * draws[..., :2]) * settings["size"]
    number = 1 + (draws[:, :1, 4] * most).floor()
    sides = sides * (torch.arange(most) < number)[..., None]
    scale = torch.tensor([width, height])
    low, high = (((draws[..., 2:4] + way * sides / 2) * scale).round() for way in (-1, 1))
    return torch.cat([torch.maximum(low, torch.zeros(2)), torch.minimum(high, scale)], -1)


def patched(rectangles: Tensor, height: int, width: int) -> Tensor:
    """(m, 1, H, W) bool, true inside any of the rectangles (m, n, 4) of an image."""
    columns = torch.arange(width, device=rectangles.device) + 0.5
    rows = torch.arange(height, device=rectangles.device) + 0.5
    x0, y0, x1, y1 = (side[..., None] for side in rectangles.unbind(-1))
    across, down = (columns > x0) & (columns < x1), (rows > y0) & (rows < y1)
    return (down[..., :, None] & across[..., None, :]).any(1, keepdim=True)
