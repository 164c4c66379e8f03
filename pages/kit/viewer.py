"""Scans to look through: the viewer over a case of a dataset, over what a job wrote, or over a sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from builder.data import Dataset
from builder.scans import Scan
from pages.kit import scans, volumes
from pages.kit.words import plain

__all__ = [
    "COLOURS",
    "colour_of",
    "heat_of_output",
    "mask_of_output",
    "over",
    "show",
    "show_output",
    "show_sample",
    "tell_facts",
]

COLOURS = (
    *("#ffb000", "#4fc3dc", "#f07aa5", "#7ee081", "#a68bff", "#ff7f50"),
    *("#e3e34f", "#6f9bff", "#c9a27a", "#c7d0dd"),
)
"""Of classes and structures, in order; all of them stand out on black and on white."""


def colour_of(number: int) -> str:
    """Returns the colour of a class or structure, counted from 0."""
    return COLOURS[number % len(COLOURS)]


def show(dataset: Dataset, index: int, key: str, **options: Any) -> Any:
    """Draws a case of a dataset with what it is labelled with.

    Args:
        options: of `scanloom_components.viewer`: height, planes, slice, follow, or other boxes and layers.
    Returns: what is seen (`scanloom_components.Seen`) or None.
    """
    from scanloom_components import viewer

    case = dataset.cases[index]
    options = {**over(dataset, index), **options}
    return viewer(
        f"{dataset.id}-{index}-{case.content}",
        volumes.of_case(dataset, index),
        key=key,
        label=f"Scan {case.id}",
        **options,
    )


def over(dataset: Dataset, index: int) -> dict[str, Any]:
    """Returns the boxes and the mask that a case is labelled with, as options for the viewer."""
    from scanloom_components import Box, Layer

    boxes = [
        Box(b.x0, b.y0, b.x1, b.y1, dataset.classes[b.label], colour_of(b.label), b.slice)
        for b in dataset.boxes(index) or ()
    ]
    mask = dataset.cases[index].mask
    if mask is None or not mask.present:
        return {"boxes": boxes}
    version = volumes.mask_version(dataset, index)
    names = dataset.mask_names
    url = volumes.of_case(dataset, index, "mask")
    colours = tuple(colour_of(k) for k in range(len(names)))
    return {"boxes": boxes, "layers": [Layer(f"{dataset.id}-{index}{version}", url, "mask", "Mask", names, colours)]}


def show_output(job: str, name: str, key: str, **options: Any) -> Any:
    """Draws what a job wrote (`builder.outputs`), such as the scan that was asked about."""
    from scanloom_components import viewer

    return viewer(f"{job}-{name}", volumes.of_output(job, name), key=key, **options)


def show_sample(name: str, key: str, **options: Any) -> Any:
    """Draws one of the scans that come with pydicom."""
    from scanloom_components import viewer

    return viewer(f"sample-{name}", volumes.of_sample(name), key=key, label=f"A {name} scan", **options)


def mask_of_output(job: str, names: Sequence[str], name: str = "mask") -> Any:
    """Returns a job's mask as a layer for `show_output`; `names` are those of structure 1, 2, ..."""
    from scanloom_components import Layer

    colours = tuple(colour_of(k) for k in range(len(names)))
    return Layer(f"{job}-{name}", volumes.of_output(job, name), "mask", "Mask", tuple(names), colours)


def heat_of_output(job: str, title: str, name: str = "heat", slices: Sequence[int] | None = None) -> Any:
    """Returns a job's heat map as a layer; `slices` are the scan's slices it belongs to, None for all of them."""
    from scanloom_components import Layer

    known = None if slices is None else tuple(slices)
    return Layer(f"{job}-{name}", volumes.of_output(job, name), "heat", title, slices=known)


def tell_facts(scan: Scan) -> None:
    """Draws what a scan is, and what had to be repaired in it."""
    st.caption(scans.facts(scan))
    for note in scan.notes:
        st.caption(f":orange[:material/build: {plain(note)}]")
