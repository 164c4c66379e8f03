"""Test-time views: a scan asked about several times, mirrored or turned, and how answers are brought back to the scan.

The network is asked once for each view; what its task makes of the answers together is `Task.together`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import torch

_DEGREES = 8.0


class View(NamedTuple):
    """How a picture is shown: first its axes are swapped, then it is mirrored, then turned counter-clockwise."""

    swap: bool = False
    across: bool = False
    down: bool = False
    degrees: float = 0.0


AS_IT_IS = View()
VIEWS: dict[str, tuple[View, ...]] = {
    "off": (AS_IT_IS,),
    "mirror": (AS_IT_IS, View(across=True)),
    "mirror both": tuple(View(across=a, down=d) for a in (False, True) for d in (False, True)),
    "quarter turns": tuple(View(s, a, d) for s in (False, True) for a in (False, True) for d in (False, True)),
    "small turns": (AS_IT_IS, View(degrees=_DEGREES), View(degrees=-_DEGREES)),
}
"""By the name of `parts.training.TRAINING`'s choice "test_time"; the first view is always the scan as it is."""
_WORDS = {
    "mirror": "as it is and mirrored",
    "mirror both": "as it is, mirrored, upside down and both",
    "quarter turns": "in all eight mirrored and quarter turned ways",
    "small turns": f"as it is and turned by {_DEGREES:g} degrees both ways",
}


def words(name: str) -> str:
    """What is done, as a sentence for an answer; "" where nothing is."""
    if name not in _WORDS:
        return ""
    return f"The network was asked {len(VIEWS[name])} times, {_WORDS[name]}; the answer is their average."


def seen(images: torch.Tensor, view: View) -> torch.Tensor:
    """Pictures (..., H, W) as the view shows them; the very tensor where that is as they are. Corners that a turn
    leaves empty are black (0)."""
    if view.swap:
        images = images.mT
    axes = [axis for axis, chosen in ((-1, view.across), (-2, view.down)) if chosen]
    if axes:
        images = images.flip(axes)
    if view.degrees:
        from builder.augment import turned

        images = turned(images, view.degrees)
    return images


def back(maps: np.ndarray, view: View) -> np.ndarray:
    """Maps (..., H, W) that answer to a view, laid on the scan again. Raises ValueError for a view that is turned."""
    if view.degrees:
        raise ValueError("What is seen of a turned picture cannot be laid back without computing pixels anew.")
    if view.across:
        maps = maps[..., ::-1]
    if view.down:
        maps = maps[..., ::-1, :]
    return np.ascontiguousarray(maps.swapaxes(-1, -2) if view.swap else maps)


def boxes_back(boxes: np.ndarray, view: View, side: float) -> np.ndarray:
    """Boxes (n, 4), x0 y0 x1 y1, found on a view of a square picture of `side` px, on the picture itself."""
    if view.degrees:
        raise ValueError("A box around a turned lesion is no box around the lesion.")
    x0, y0, x1, y1 = np.asarray(boxes, np.float32).reshape(-1, 4).T
    if view.across:
        x0, x1 = side - x1, side - x0
    if view.down:
        y0, y1 = side - y1, side - y0
    return np.stack([y0, x0, y1, x1] if view.swap else [x0, y0, x1, y1], 1)
