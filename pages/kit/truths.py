"""What people said of a scan, to be shown beside what a network found on it."""

from __future__ import annotations

from typing import Any

from builder.data import Dataset
from pages.kit import volumes
from pages.kit.viewer import colour_of

__all__ = ["of_case"]

_COLOUR = "#3fc796"


def of_case(dataset: Dataset, index: int) -> dict[str, Any]:
    """Returns {label (one class, in words), boxes (for the viewer), mask (a layer)} of a case; what is not known is
    left out."""
    found: dict[str, Any] = {}
    label = dataset.cases[index].label
    if isinstance(label, int) and len(dataset.classes) > 1:
        found["label"] = dataset.classes[label]
    known = dataset.boxes(index)
    if known:
        found["boxes"] = _boxes(dataset, known)
        found.pop("label", None)
    if dataset.mask(index) is not None:
        found["mask"] = _mask(dataset, index)
    return found


def _boxes(dataset: Dataset, known: Any) -> list[Any]:
    from scanloom_components import Box

    return [
        Box(b.x0, b.y0, b.x1, b.y1, name=f"{dataset.classes[b.label]} (drawn)", colour=_COLOUR, slice=b.slice)
        for b in known
    ]


def _mask(dataset: Dataset, index: int) -> Any:
    from scanloom_components import Layer

    colours = tuple(_COLOUR if k == 0 else colour_of(k + 3) for k in range(len(dataset.mask_names)))
    names = tuple(f"{name} (drawn)" for name in dataset.mask_names)
    id = f"{dataset.id}-{index}-mask-{dataset.edited}"
    return Layer(id, volumes.of_case(dataset, index, "mask"), "mask", "Drawn by a person", names, colours)
