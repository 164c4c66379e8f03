"""Asking a run about scans: which files make one scan, and what is kept of an answer for people to look at.

What a browser shows of a scan lies in the job's folder as `builder.outputs` writes it; no name of a file is in it.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from builder import outputs, voxels
from builder.data import Pseudonyms, pixel_aspect, place
from builder.decoding import decode
from builder.gathering import Found, SourceRefused, gather
from builder.predict import Finding, Predictor
from builder.scan import Grid, Scan, Unreadable, display
from builder.sources import Item

__all__ = [
    "Came",
    "enhanced_scan",
    "files_of",
    "keep",
    "keyed",
    "picture_of",
    "scans_in",
    "telling_slice",
    "the_scan_in",
]

_SIDE_PX = 128  # of the small pictures in a list of answers


@dataclass(frozen=True)
class Came:
    """One scan of several that came together, or files that are none.

    Attributes:
        number: counted from 0. scan: None where it was refused, with `reason` in words.
        paths: the files that make it, which last until the next one is asked for.
        name: "3", or "3/inside.dcm" of a zip: which file of those that came.
    """

    number: int
    scan: Scan | None
    paths: tuple[Path, ...]
    name: str
    reason: str = ""

    @property
    def num_files(self) -> int:
        """How many files make it."""
        return max(1, len(self.paths))


def scans_in(paths: Sequence[Path]) -> Generator[Came, None, None]:
    """The scans in files, folders and zips, grouped by series as an import groups them; what is none, with the reason.

    Files that are plainly no scan (documents, tables) are left out in silence, as an import skips them.
    """
    with tempfile.TemporaryDirectory(prefix="scanloom-ask-") as folder:
        items, refused = _gathered(paths, Path(folder))
        count = 0
        for outcome in decode(items, Path(folder)) if items else ():
            if outcome.status == "skipped":
                continue
            made = tuple(item.found.path for item in outcome.items)
            yield Came(count, outcome.scan, made, outcome.items[0].found.name, outcome.reason)
            count += 1
        for name, reason in refused:
            yield Came(count, None, (), name, reason)
            count += 1


def _gathered(paths: Sequence[Path], folder: Path) -> tuple[list[Item], list[tuple[str, str]]]:
    """The files in files, folders and zips, called by the number of what they came in; what was refused, and why."""
    items: list[Item] = []
    refused: list[tuple[str, str]] = []
    for number, path in enumerate(paths):
        scratch = folder / f"in-{number}"
        scratch.mkdir()
        try:
            gathered = gather(path, scratch)
        except SourceRefused as error:
            refused.append((str(number), str(error)))
            continue
        alone = len(gathered.found) == 1 and gathered.found[0].path == path
        for found in gathered.found:
            if not found.name.lower().endswith(".csv"):
                name = str(number) if alone else f"{number}/{found.name}"
                items.append(Item(Found(found.path, name, found.bytes), bundle=""))
        refused += [(f"{number}/{left.name}", left.reason) for left in gathered.left if left.status == "refused"]
    return items, refused


@contextlib.contextmanager
def files_of(paths: Sequence[Path], member: int | None = None) -> Iterator[tuple[Path, ...]]:
    """The files of one scan, unpacked where they came in a zip: of all of `paths`, or of scan `member` in them."""
    if member is None:
        with tempfile.TemporaryDirectory(prefix="scanloom-ask-") as folder:
            items, _ = _gathered(paths, Path(folder))
            yield tuple(item.found.path for item in items)
        return
    with contextlib.closing(scans_in(paths)) as coming:
        for came in coming:
            if came.number == member:
                yield came.paths
                return
    yield ()


def the_scan_in(paths: Sequence[Path], number: int) -> Scan:
    """Scan `number` of those in `paths`, counted as `scans_in` counts them.

    Raises:
        scans.Unreadable: it was refused, or there are not so many.
    """
    with contextlib.closing(scans_in(paths)) as coming:
        for came in coming:
            if came.number == number and came.scan is not None:
                return came.scan
            if came.number == number:
                raise Unreadable(came.reason)
    raise Unreadable("This scan is not there any more: drop the files again.")


def keyed(home: Path, name: str) -> str:
    """The pseudonym under which a name of `Came` is told, as the ledger of an import tells it."""
    return Pseudonyms(home)("name", name)


# -- what is kept of an answer ----------------------------------------------------------------------------------------


def keep(folder: Path, scan: Scan, finding: Finding, predictor: Predictor) -> dict[str, Any]:
    """Writes the scan and what was found on it into the job's folder, for the viewer and for downloads.

    Returns: {outputs: names that were kept, heat: {title, slices (from 0), most, method (of
    `saliency`, where it is one)} or None}.
    """
    found = finding.found
    outputs.keep(folder, "scan", scan)
    kept = ["scan"]
    heat: dict[str, Any] | None = None
    if found.outline is not None:
        outputs.keep(folder, "mask", _plane(scan, found.outline.astype(np.uint8)))
        kept.append("mask")
    if found.enhanced is not None:
        better = enhanced_scan(scan, found.enhanced)
        outputs.keep(folder, "enhanced", better)
        kept.append("enhanced")
        change, most = _change(scan, better)
        outputs.keep(folder, "heat", _plane(better, change))
        heat = {"title": "What has changed", "slices": None, "most": most}
    elif found.chance is not None:
        outputs.keep(folder, "heat", _plane(scan, _bytes(found.chance)))
        heat = {"title": "How sure each pixel is", "slices": None, "most": 1.0}
    elif finding.heatmap is not None:
        slices, maps = _on_the_scan(scan, finding, predictor)
        if slices:
            outputs.keep(folder, "heat", _plane(scan, _bytes(maps)))
            heat = {"title": f"What speaks for {finding.likeliest} (Grad-CAM)", "slices": slices, "most": 1.0}
            heat["method"] = "grad_cam"
    return {"outputs": [*kept, *(["heat"] if heat else [])], "heat": heat}


def enhanced_scan(scan: Scan, pixels: np.ndarray) -> Scan:
    """The enhanced picture as a scan like the one it was made of: same kind of values, spacing by its size.

    Args:
        pixels: (S, C, H', W') in the stored values of the scan.
    """
    height, width = scan.pixels.shape[2:]
    down, across = pixels.shape[2] / height, pixels.shape[3] / width
    spacing = [None if s is None else s / by for s, by in zip(scan.spacing_mm, (1.0, down, across), strict=True)]
    kind = scan.pixels.dtype
    if kind.kind in "iu":
        limits = np.iinfo(kind)
        pixels = np.clip(np.rint(pixels), limits.min, limits.max)
    same = pixels.shape == scan.pixels.shape
    grid = scan.grid
    if grid is not None and not same:  # finer pixels: the centre of the first one moves towards the corner
        slice_step, row, column = (np.array(step) for step in grid.steps)
        shift = (0.5 / down - 0.5) * row + (0.5 / across - 0.5) * column
        grid = Grid(
            _vector(np.array(grid.origin) + shift),
            (_vector(slice_step), _vector(row / down), _vector(column / across)),
            tuple(_vector(np.array(origin) + shift) for origin in grid.origins),
        )
    return replace(
        scan,
        pixels=np.ascontiguousarray(pixels, kind),
        spacing_mm=(spacing[0], spacing[1], spacing[2]),
        valid=scan.valid if same else None,
        grid=grid,
    )


def _vector(values: np.ndarray) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z


def picture_of(scan: Scan, finding: Finding) -> np.ndarray:
    """A small picture of the slice that tells most, with what was found on it: uint8 (h, w, 3), longest side 128.

    Boxes and outlines in amber; of an enhanced scan, the enhanced slice.
    """
    from PIL import Image, ImageDraw

    found = finding.found
    index = telling_slice(len(scan.pixels), finding)
    shown = scan if found.enhanced is None else enhanced_scan(scan, found.enhanced)
    grey = np.rint(display(shown, only=[index])[0] * 255)
    colour = np.repeat(grey[:1], 3, 0) if len(grey) != 3 else grey
    image = Image.fromarray(np.moveaxis(colour.astype(np.uint8), 0, -1))
    height, width = scan.pixels.shape[2:]
    scale = _SIDE_PX / max(image.size)
    image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    draw = ImageDraw.Draw(image)
    across, down = image.width / width, image.height / height
    for box in found.boxes or ():
        if box.slice == index and box.score >= found.facts.get("threshold", 0.0):
            draw.rectangle((box.x0 * across, box.y0 * down, box.x1 * across - 1, box.y1 * down - 1), outline="#ffb000")
    if found.outline is not None:
        inside = Image.fromarray((found.outline[index] > 0).astype(np.uint8) * 255).resize(image.size)
        edge = _edge(np.asarray(inside) > 127)
        array = np.asarray(image).copy()
        array[edge] = (255, 176, 0)
        return array
    return np.asarray(image)


def telling_slice(num_slices: int, finding: Finding) -> int:
    """The slice of the scan, from 0, on which most was found: the largest outline, the surest box, the most heat; else
    the middle one."""
    found = finding.found
    if found.outline is not None and found.outline.any():
        return int(found.outline.sum((1, 2), dtype=np.int64).argmax())
    if found.boxes:
        return int(found.boxes[0].slice)
    if finding.slices and 0 < finding.slices[finding.telling] <= num_slices:
        return finding.slices[finding.telling] - 1
    return num_slices // 2


def _edge(inside: np.ndarray) -> np.ndarray:
    """Pixels of a region (h, w) bool that touch its outside."""
    padded = np.pad(inside, 1)
    around = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inside & ~around


def _on_the_scan(scan: Scan, finding: Finding, predictor: Predictor) -> tuple[list[int], np.ndarray]:
    """The heat of the slices that were seen, on the scan's own grid: (slices from 0, (n, H, W) float in 0..1)."""
    assert finding.heatmap is not None
    height, width = scan.pixels.shape[2:]
    data = predictor.experiment.data
    if data.blocks:  # the heat lies on the volume's own grid, or on that of the voxel size that was asked for
        num_slices = len(scan.pixels)
        return list(range(num_slices)), voxels.chances_out(finding.heatmap, (num_slices, height, width))
    placement = place(height, width, data, pixel_aspect(scan))
    maps = finding.heatmap[None] if finding.heatmap.ndim == 2 else finding.heatmap
    slices = [n - 1 for n in finding.slices] if finding.slices else [len(scan.pixels) // 2]
    found: dict[int, np.ndarray] = {}
    for index, heat in zip(slices, maps, strict=False):
        if index >= 0:  # a black slice beside the scan has no place on it
            found[index] = placement.map_out(heat, height, width)
    order = sorted(found)
    return order, np.stack([found[k] for k in order]) if order else np.zeros((0, height, width), np.float32)


def _change(scan: Scan, better: Scan) -> tuple[np.ndarray, float]:
    """How much each pixel changed: uint8 (S, H', W'), 255 = `most` in stored values or more (its 99.5th percentile)."""
    before = np.asarray(scan.pixels, np.float32)
    after = np.asarray(better.pixels, np.float32)
    if before.shape != after.shape:
        from scipy.ndimage import zoom

        factors = [a / b for a, b in zip(after.shape, before.shape, strict=True)]
        before = zoom(before, factors, order=1, grid_mode=True, mode="nearest")
    change = np.abs(after - before).mean(1)
    most = float(np.percentile(change[:, ::2, ::2], 99.5)) or float(change.max()) or 1.0
    return _bytes(change / most), most


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(np.nan_to_num(values), 0, 1) * 255).astype(np.uint8)


def _plane(scan: Scan, values: np.ndarray) -> Scan:
    """A mask or heat map (S, H, W) as an output beside the scan."""
    return replace(
        scan,
        pixels=values[:, None],
        photometric="MONOCHROME2",
        bits=8,
        windows=(),
        notes=(),
        valid=None,
        patient=None,
        study=None,
        series=None,
    )
