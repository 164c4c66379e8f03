"""A learning curve: an inverse power law through figures at several sizes, with a band from many draws.

    error(n) = floor + scale * n ** -rate,   floor >= least, scale >= 0

Test errors of networks follow such laws over orders of magnitude (Cortes et al., NIPS 1993; Hestness et al.,
arXiv:1712.00409; for predicting the size of a study Figueroa et al., BMC Med Inform Decis Mak 12:8, 2012; what such
extrapolations are worth: Viering and Loog, IEEE TPAMI 45:7799, 2023). A curve that does not rise is fitted by scale 0,
so that nothing is promised. Linear in floor and scale, so a grid over the rate solves every draw at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

REACH = 10.0
"""How many times the present number of cases is looked ahead; beyond it nothing is said."""
BAND = 0.90
"""Share of the draws that lie within the band."""
_RATES = np.geomspace(0.05, 2.0, 60)


@dataclass(frozen=True)
class Curve:
    """A law for each of B draws, the first one through the figures as they were measured.

    Attributes:
        floor, scale, rate: (B,) float64, of the error. sign: 1 where a higher figure is better, else -1. best: the
        figure at error 0.
    """

    floor: np.ndarray
    scale: np.ndarray
    rate: np.ndarray
    sign: float
    best: float

    def at(self, sizes: np.ndarray) -> np.ndarray:
        """The figure of each draw at each size (S,): (B, S)."""
        n = np.asarray(sizes, np.float64)[None]
        error = self.floor[:, None] + self.scale[:, None] * n ** -self.rate[:, None]
        return self.best - self.sign * error

    def band(self, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(figure, low, high) at each size; low and high hold `BAND` of the draws."""
        drawn = self.at(sizes)
        low, high = np.quantile(drawn, ((1 - BAND) / 2, (1 + BAND) / 2), axis=0)
        return drawn[0], low, high

    def size_for(self, gain: float, size: float) -> np.ndarray:
        """(B,): at how many cases each draw is better by `gain` than at `size`; infinite where it never is."""
        wanted = self.scale * size**-self.rate - gain  # of the part of the error that falls
        with np.errstate(divide="ignore", over="ignore"):
            needed = (self.scale / np.maximum(wanted, 1e-300)) ** (1 / self.rate)
        return np.where((wanted > 0) & (self.scale > 0), needed, np.inf)


def fit(sizes: np.ndarray, values: np.ndarray, *, higher: bool = True, bounded: bool = True) -> Curve:
    """Laws through figures at sizes.

    Args:
        sizes: (P,) cases learned from, of at least three different sizes. values: (B, P) the figures, a row a draw.
        higher: whether more is better. bounded: the figure cannot pass 1 (0 where less is better).
    Raises:
        ValueError: fewer than three sizes, or values that are no numbers.
    """
    n, drawn = np.asarray(sizes, np.float64), np.atleast_2d(np.asarray(values, np.float64))
    if len(np.unique(n)) < 3:
        raise ValueError("A learning curve needs figures at three sizes at least.")
    if not np.isfinite(drawn).all():
        raise ValueError("A learning curve needs figures that are numbers.")
    sign = 1.0 if higher else -1.0
    best = 1.0 if bounded and higher else 0.0
    error = sign * (best - drawn)
    least = 0.0 if bounded else -np.inf
    found = [np.full(len(drawn), np.inf), *(np.zeros(len(drawn)) for _ in range(3))]
    mean = error.mean(1)
    for rate in _RATES:
        x = n**-rate
        spread = x - x.mean()
        scale = np.maximum(error @ spread / (spread @ spread), 0.0)
        floor = mean - scale * x.mean()
        low = floor < least
        if low.any():
            floor = np.where(low, least, floor)
            scale = np.where(low, np.maximum((error - floor[:, None]) @ x / (x @ x), 0.0), scale)
        missed = ((error - floor[:, None] - scale[:, None] * x) ** 2).sum(1)
        better = missed < found[0] - 1e-15
        found = [
            np.where(better, new, old)
            for new, old in zip((missed, floor, scale, np.full(len(drawn), rate)), found, strict=True)
        ]
    return Curve(found[1], found[2], found[3], sign, best)
