"""Does a diagnosis model change its mind on the restored scan? The question that PSNR does not answer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from builder.predict import Predictor
from builder.scans import Scan


class OpinionRefused(ValueError):
    """Two runs that cannot be asked together. Its text is one sentence for people."""


@dataclass(frozen=True)
class Opinion:
    """What a run says of a scan before and after it was restored: probabilities by class, and who comes first."""

    before: dict[str, float]
    after: dict[str, float]
    top_before: str
    top_after: str

    @property
    def changed(self) -> bool:
        """Whether another class is named first."""
        return self.top_before != self.top_after

    @property
    def largest_change(self) -> float:
        """The largest change of any probability."""
        return max((abs(self.after[name] - self.before[name]) for name in self.before), default=0.0)

    def sentence(self) -> str:
        """In words."""
        if self.changed:
            return (
                f"The answer changes from {self.top_before} ({self.before[self.top_before]:.2f}) to {self.top_after} "
                f"({self.after[self.top_after]:.2f}): look at both scans."
            )
        return (
            f"The answer stays {self.top_before} ({self.before[self.top_before]:.2f} before, "
            f"{self.after[self.top_before]:.2f} after); no probability moves by more than {self.largest_change:.2f}."
        )

    def plain(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "before": self.before,
            "after": self.after,
            "top_before": self.top_before,
            "top_after": self.top_after,
            "changed": self.changed,
            "largest_change": self.largest_change,
            "sentence": self.sentence(),
        }


def second_opinion(restorer: Predictor, judge: Predictor, scan: Scan) -> Opinion:
    """Asks `judge` about `scan` as it is, and as `restorer` restores it.

    Raises:
        OpinionRefused: the first run restores no scans, or the second tells no classes.
    """
    enhanced = restorer.finding(scan).found.enhanced
    if enhanced is None:
        raise OpinionRefused(
            f"The run {restorer.experiment.name!r} restores no scans; name one of image enhancement first."
        )
    return compared(judge, scan, as_scan(scan, enhanced))


def compared(judge: Predictor, scan: Scan, better: Scan) -> Opinion:
    """Asks `judge` about a scan and about the same one restored.

    Raises:
        OpinionRefused: the run tells no classes.
    """
    before = judge.finding(scan)
    if not before.probabilities:
        raise OpinionRefused(
            f"The run {judge.experiment.name!r} tells no classes; name one that says what a scan shows."
        )
    after = judge.finding(better)
    return Opinion(before.probabilities, after.probabilities, before.likeliest, after.likeliest)


def as_scan(scan: Scan, enhanced: np.ndarray) -> Scan:
    """The restored pixels (S, C, H', W') as a scan like the one they came from; on a finer grid they are smaller."""
    scale = enhanced.shape[-1] // scan.pixels.shape[-1]
    z, y, x = scan.spacing_mm
    valid = scan.valid
    if scale > 1 and valid is not None:
        valid = valid.repeat(scale, -2).repeat(scale, -1)
    spacing = (z, y / scale if y else y, x / scale if x else x)
    grey = scan.photometric if enhanced.shape[1] == scan.pixels.shape[1] else "MONOCHROME2"
    return replace(scan, pixels=enhanced, spacing_mm=spacing, valid=valid, photometric=grey)
