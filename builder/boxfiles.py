"""Boxes as label files tell them, before anybody knows the picture they belong to."""

from dataclasses import dataclass

from builder.gathering import Found


@dataclass(frozen=True)
class Drawn:
    """A box with the name of its class; edges in pixels, or in shares of the picture's sides (see `BoxList`)."""

    x0: float
    y0: float
    x1: float
    y1: float
    name: str
    slice: int = 0


@dataclass(frozen=True)
class BoxList:
    """What is said of the boxes of one picture; no boxes mean that somebody looked and found none.

    Attributes:
        relative: the edges are shares of width and height, 0 to 1.
        size_px: (width, height) that the picture has by what the label file says, None where it does not.
        found: the label file of this one picture; None where one file tells of all.
    """

    boxes: tuple[Drawn, ...]
    relative: bool = False
    size_px: tuple[int, int] | None = None
    found: Found | None = None
