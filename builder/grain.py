"""The noise that a CT scan has by itself: how strong it is and what grain it has, told from its even places.

A quarter of the dose is four times the variance of the scan's own noise, so what has to be added is three times as much
as is there, of the same texture: this is how lower doses are put into scans whose projections are not at hand (Britten
et al., Br J Radiol 77:323, 2004, in the picture; Yu et al., J Comput Assist Tomogr 36:477, 2012, with a noise map, in
the projections). How much is there differs from scan to scan by slice thickness, kernel and patient.

Only numpy, so that an exported train.py carries the source.
"""

from __future__ import annotations

import numpy as np

SQUARE_PX, STEP_PX, REACH_PX = 24, 8, 8
"""Side of the squares that are looked at, how far apart they begin, and how far the grain reaches to each side."""
SOFT_HU = (-50.0, 120.0)
"""Means of squares of soft tissue: the evenest matter there is inside of a body, and near to water."""
MOST_HU = 250.0
"""A square of one tissue stays this near to it."""
LEAST_SQUARES = 8


def own_grain(picture: np.ndarray) -> np.ndarray:
    """The noise of one slice, as what white noise has to be smoothed with to become like it.

    Of the squares of soft tissue (of all that vary, where there are fewer than 8) the evenest tenth is taken, by the
    spread of its coarse means. Slow changes (a quadratic surface) come off, and the mean power at each frequency is the
    noise-power spectrum; its root is the amplitude of the grain. Up and down, left and right count as the same, so that
    a mirrored scan has the same grain. Anatomy that is left in the evenest squares is taken for noise.

    Args:
        picture: (H, W) float, Hounsfield units; places of one value throughout (padding) tell nothing.
    Returns: (17, 17) float32, HU: standard normal noise convolved with it has the strength that the slice has in water
        (the variance is taken to go with 1/2 + 1/2 attenuation, as in `degrade`). Zeros, where nothing varies.
    """
    side = min(SQUARE_PX, *picture.shape)
    windows = np.lib.stride_tricks.sliding_window_view(np.asarray(picture, np.float32), (side, side))
    squares = windows[::STEP_PX, ::STEP_PX].reshape(-1, side, side)
    middle, lowest, highest = squares.mean((1, 2)), squares.min((1, 2)), squares.max((1, 2))
    varies = highest > lowest
    soft = varies & (middle > SOFT_HU[0]) & (middle < SOFT_HU[1])
    soft &= (lowest > SOFT_HU[0] - MOST_HU) & (highest < SOFT_HU[1] + MOST_HU)
    squares = squares[soft if soft.sum() >= LEAST_SQUARES else varies]
    reach = min(REACH_PX, (side - 1) // 2)
    if not len(squares):
        return np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    block = max(1, side // 4)
    coarse = squares[:, : block * (side // block), : block * (side // block)]
    coarse = coarse.reshape(len(squares), side // block, block, side // block, block).mean((2, 4))
    order = np.argsort(coarse.std((1, 2)), kind="stable")
    evenest = squares[order[: max(LEAST_SQUARES, len(squares) // 10)]].astype(np.float64)
    y, x = (grid.ravel() for grid in np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j])
    slow = np.stack([np.ones(side * side), y, x, y * y, x * x, x * y], 1)
    flat = evenest.reshape(len(evenest), -1).T
    rest = (flat - slow @ np.linalg.lstsq(slow, flat, rcond=None)[0]).T.reshape(evenest.shape)
    taper = np.outer(np.hanning(side + 2)[1:-1], np.hanning(side + 2)[1:-1])
    power = np.abs(np.fft.fft2(rest * taper / np.sqrt((taper**2).mean()))) ** 2 / side**2
    matter = 0.5 + 0.5 * np.maximum(0.0, 1.0 + evenest.mean((1, 2)) / 1000.0)
    spectrum = (power / matter[:, None, None]).mean(0)
    back = -np.arange(side) % side
    spectrum = (spectrum + spectrum[back]) / 2
    spectrum = (spectrum + spectrum[:, back]) / 2
    whole = np.fft.fftshift(np.fft.ifft2(np.sqrt(spectrum)).real)
    middle_px = side // 2
    grain = whole[middle_px - reach : middle_px + reach + 1, middle_px - reach : middle_px + reach + 1]
    total = float(np.sqrt((grain**2).sum()))
    return (grain * (np.sqrt(spectrum.mean()) / total if total else 0.0)).astype(np.float32)
