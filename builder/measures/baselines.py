"""What a picture becomes without any learning: the filters that an enhancing network has to beat.

Each has one setting, the best of a few on the validation side (`settle`), so that the comparison is fair to the filter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

SETTINGS: dict[str, tuple[float, ...]] = {
    "gaussian": (0.4, 0.6, 0.8, 1.0, 1.3, 1.7, 2.2),
    "median": (3.0, 5.0, 7.0),
    "non-local means": (0.4, 0.7, 1.0, 1.4, 2.0, 2.8),
}
WORDS = {
    "gaussian": "sigma {:g} px",
    "median": "{:g} x {:g} px",
    "non-local means": "strength {:g} times the noise, patches of 5 px within 13 px",
    "bicubic": "Keys, a = -0.5",
    "input": "as it came",
}
_PATCH, _REACH = 5, 6
_NORMAL = 0.6745  # median of |x| of a standard normal x


def baselines(source: np.ndarray, settings: Mapping[str, float], scale: int = 1) -> dict[str, np.ndarray]:
    """{"input": the picture as it came, and each filter of `settings` by name}, all float64 (C, scale*H, scale*W).

    Args:
        source: (C, H, W) in stored values. settings: as `settle` makes them.
        scale: how many times larger the enhanced picture is; the input is then enlarged by repeating its pixels.
    """
    made = {"input": np.asarray(source, np.float64).repeat(scale, axis=1).repeat(scale, axis=2)}
    for name, setting in settings.items():
        made[name] = bicubic(source, scale) if name == "bicubic" else filtered(source, name, setting)
    return made


def settle(
    sources: Sequence[np.ndarray],
    targets: Sequence[np.ndarray],
    window: tuple[float, float],
    scale: int = 1,
    most: int = 8,
) -> dict[str, float]:
    """The setting of each filter that has the best mean PSNR on validation pictures; for enlarging, bicubic alone.

    Args:
        sources, targets: (C, H, W) pictures in stored values. window: (low, high) within which PSNR is taken.
        most: pictures looked at, spread over all.
    """
    if scale > 1:
        return {"bicubic": -0.5}
    rows = np.unique(np.linspace(0, len(sources) - 1, min(most, len(sources))).round().astype(int))
    chosen = {}
    for name, options in SETTINGS.items():
        means = [
            np.mean([psnr(filtered(sources[k], name, option), targets[k], window) for k in rows]) for option in options
        ]
        chosen[name] = options[int(np.argmax(means))]
    return chosen


def described(name: str, setting: float | None) -> str:
    """The setting in words."""
    return WORDS[name].format(setting, setting) if name in WORDS else ""


def filtered(picture: np.ndarray, name: str, setting: float) -> np.ndarray:
    """A picture (C, H, W) through one filter of `SETTINGS`, channel by channel: float64 of the same shape."""
    from scipy import ndimage

    picture = np.asarray(picture, np.float64)
    if name == "gaussian":
        return np.stack([ndimage.gaussian_filter(channel, setting, mode="reflect") for channel in picture])
    if name == "median":
        return np.stack([ndimage.median_filter(channel, int(setting), mode="reflect") for channel in picture])
    if name == "non-local means":
        return np.stack([non_local_means(channel, setting) for channel in picture])
    raise ValueError(f"There is no filter {name!r}; there are {', '.join(SETTINGS)}.")


def non_local_means(picture: np.ndarray, strength: float, sigma: float | None = None) -> np.ndarray:
    """Non-local means of one channel (H, W): float64.

    Each pixel becomes the mean of the pixels up to 6 px away, weighed by exp(-max(d2 - 2 sigma2, 0) / h2): d2 is the
    mean squared difference of the 5 x 5 patches around both, h is `strength` times the noise (Buades, Coll and Morel,
    CVPR 2005; IPOL 1:208-212, 2011).

    Args:
        sigma: standard deviation of the noise; None: estimated from the picture (`noise_level`).
    """
    from scipy import ndimage

    height, width = picture.shape
    sigma = noise_level(picture) if sigma is None else sigma
    if not sigma or not strength:
        return np.asarray(picture, np.float64)
    margin = _REACH + _PATCH
    padded = np.pad(
        np.asarray(picture, np.float32), margin, mode="reflect" if min(height, width) > margin else "symmetric"
    )
    total, weight = padded.astype(np.float64), np.ones(padded.shape)
    for down in range(_REACH + 1):
        for right in range(-_REACH if down else 1, _REACH + 1):
            other = np.roll(padded, (-down, -right), (0, 1))
            distance = ndimage.uniform_filter((padded - other) ** 2, _PATCH)
            alike = np.exp(-np.maximum(distance - 2 * sigma**2, 0) / (strength * sigma) ** 2)
            total += alike * other
            weight += alike
            total += np.roll(alike * padded, (down, right), (0, 1))  # the pair seen from its other end
            weight += np.roll(alike, (down, right), (0, 1))
    return (total / weight)[margin : margin + height, margin : margin + width]


def noise_level(picture: np.ndarray) -> float:
    """Standard deviation of the noise of one channel (H, W), from its finest diagonal details (Donoho and Johnstone,
    Biometrika 81:425-455, 1994)."""
    even = np.asarray(picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2], np.float64)
    details = (even[::2, ::2] - even[1::2, ::2] - even[::2, 1::2] + even[1::2, 1::2]) / 2
    details = details[details != 0]  # padding around the scan has no noise and tells nothing
    return float(np.median(np.abs(details)) / _NORMAL) if details.size else 0.0


def bicubic(picture: np.ndarray, scale: int) -> np.ndarray:
    """A picture (C, H, W) enlarged `scale` times with Pillow's bicubic kernel: float64 (C, scale*H, scale*W)."""
    from PIL import Image

    size = (picture.shape[2] * scale, picture.shape[1] * scale)
    channels = [Image.fromarray(np.ascontiguousarray(channel, np.float32)) for channel in picture]
    return np.stack([np.asarray(c.resize(size, Image.Resampling.BICUBIC), np.float64) for c in channels])


MOST_DB = 100.0
"""Of the peak signal-to-noise ratio: of pictures that are the same it has no value."""


def psnr(picture: np.ndarray, target: np.ndarray, window: tuple[float, float]) -> float:
    """Peak signal-to-noise ratio in dB after clipping both to a window, whose width is the peak; at most 100."""
    low, high = window
    error = np.mean((np.clip(picture, low, high) - np.clip(target, low, high)) ** 2, dtype=np.float64)
    if error <= 0:
        return MOST_DB
    return float(min(MOST_DB, 10 * np.log10((high - low) ** 2 / error)))
