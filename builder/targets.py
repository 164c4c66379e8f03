"""What is known of scans, as a network is taught it: labels in pixels of the prepared picture, batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from builder import cutting, voxels
from builder.data import Dataset, Prepared, pixel_aspect, place
from builder.grain import own_grain
from builder.parts.images import OWN_NOISE
from builder.scan import NAMED_WINDOWS
from builder.spec import Data

if TYPE_CHECKING:
    import torch

KINDS = ("class", "boxes", "mask", "picture")
"""What may be known of a scan: its class or classes, boxes around lesions, an outline, the good picture it should
become."""

UNKNOWN = -2
"""The kind of a scan of which nothing is known that classes could be balanced by."""


@dataclass(frozen=True)
class Target:
    """What is known of the scans of one batch, on the device. What a task does not ask for is None.

    Attributes:
        classes: (B,) int64, -1 where unknown; with several labels a scan (B, L) float of 0 and 1.
        boxes: per scan (n, 4) float32, x0 y0 x1 y1 in pixels of the prepared picture. labels: per scan (n,) int64.
        masks: (B, 1, H, W), of volumes (B, 1, D, H, W), uint8, 1 inside the outline.
        masked: (B,) bool, which scans have one (absent is not empty).
        pictures: (B, C, H', W') float32 in [0, 1]: what the picture should become.
        grains: (B, k, k) float32, HU: the noise of the CT slices that patches are of (`grain.own_grain`).
        cases: (B,) int64, positions in the data set. slices: (B,) int64, -1 where not one slice is shown.
        partner: (B,) int64, the scan of the batch that each one is mixed with, None where none is; share: how much of
            its own answer holds, the rest is its partner's.
    """

    classes: torch.Tensor | None = None
    boxes: list[torch.Tensor] | None = None
    labels: list[torch.Tensor] | None = None
    masks: torch.Tensor | None = None
    masked: torch.Tensor | None = None
    pictures: torch.Tensor | None = None
    grains: torch.Tensor | None = None
    cases: torch.Tensor | None = None
    slices: torch.Tensor | None = None
    partner: torch.Tensor | None = None
    share: float = 1.0

    def but(self, **changes: Any) -> Target:
        """The same with some fields replaced."""
        return replace(self, **changes)


class Targets:
    """What is known of the rows of one split, ready to be gathered.

    Where patches are cut, a row stands here once for each patch of an epoch (`Data.num_patches`), or of volumes that
    are judged once for each of `cutting.judged`.

    Attributes:
        rows: int64 (N,) positions in `Prepared.images`. cases, slices: int64 (N,) what each row shows (slice -1: not
            one slice).
        classes: int64 (N,), -1 unknown, or uint8 (N, L); None where the task does not ask.
        boxes: per row (n, 4) float32 in pixels of the prepared picture; labels: per row (n,) int64.
        masks: uint8 (N, side, side), None of patches of volumes; masked: bool (N,).
        outlines: {case: its outline} of those that have one, of patches of volumes. corners: int64 (N, 3), where the
            patches that are judged lie; None while learning, when they lie elsewhere each time.
        goals: the good scans of pairs, row by row as `prepared`; None without pairs.
        grains: {row of `prepared`: the noise of its slice}, filled as it is asked for; None where nothing goes by it.
        num_classes: of the data set. multi_label: several labels a scan.
    """

    def __init__(
        self,
        dataset: Dataset,
        data: Data,
        prepared: Prepared,
        cases: np.ndarray,
        kinds: Sequence[str] = ("class",),
        judged: bool = False,
    ) -> None:
        self.dataset, self.data, self.prepared = dataset, data, prepared
        self.rows = prepared.rows_of(cases)
        self.outlines: dict[int, cutting.Outlined] = {}
        self.corners: np.ndarray | None = None
        if data.blocks and "mask" in kinds:
            self._take_outlines()
        if data.blocks and judged:
            self._cover()
        elif data.fit == "patches":
            self.rows = np.repeat(self.rows, data.num_patches)
        places = np.array([prepared.place_of(row) for row in self.rows], np.int64).reshape(-1, 2)
        self.cases, self.slices = places[:, 0], places[:, 1]
        self.num_classes, self.multi_label = len(dataset.classes), dataset.multi_label
        self.classes: np.ndarray | None = dataset.labels[self.cases] if "class" in kinds else None
        self.boxes: list[np.ndarray] | None = None
        self.labels: list[np.ndarray] | None = None
        self.masks: np.ndarray | None = None
        self.masked: np.ndarray | None = None
        if "boxes" in kinds:
            found = [self._boxes(int(case), int(index)) for case, index in places]
            self.boxes, self.labels = [boxes for boxes, _ in found], [labels for _, labels in found]
        if "mask" in kinds and data.blocks:
            self.masked = np.array([int(case) in self.outlines for case in self.cases], bool)
        elif "mask" in kinds:
            self._take_masks(places)
        self.goals: Prepared | None = None
        if "picture" in kinds and data.degrade.name == "none":
            self.goals = dataset.goals(data)
        self.grains: dict[int, np.ndarray] | None = None
        if "picture" in kinds and data.degrade.name in OWN_NOISE:
            self.grains = {}

    def __len__(self) -> int:
        return len(self.rows)

    def placement(self, case: int) -> Any:
        """Where the slices of a case lie in the prepared picture."""
        known = self.dataset.cases[case]
        return place(known.shape[2], known.shape[3], self.data, pixel_aspect(known))

    def shown(self, case: int, index: int) -> list[int]:
        """The slices of a case that a row shows: `index`, else the one or all that were made one picture."""
        count = self.dataset.cases[case].shape[0]
        if index >= 0:
            return [index]
        return [count // 2] if self.data.slices == "middle" or count == 1 else list(range(count))

    def lesions(self, case: int, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Boxes (n, 4) float64 in pixels of the scan, and labels (n,) int64, of what a row shows (`over_slices`)."""
        shown = set(self.shown(case, index))
        known = [box for box in self.dataset.boxes(case) or () if box.slice in shown]
        corners = np.array([(box.x0, box.y0, box.x1, box.y1) for box in known], np.float64).reshape(-1, 4)
        labels, slices = (np.array([getattr(box, name) for box in known], np.int64) for name in ("label", "slice"))
        return over_slices(corners, labels, slices)

    def _boxes(self, case: int, index: int) -> tuple[np.ndarray, np.ndarray]:
        corners, labels = self.lesions(case, index)
        moved = self.placement(case).boxes_in(corners)
        side = self.data.size_px
        cut = moved.clip(0, side)
        area = (moved[:, 2] - moved[:, 0]) * (moved[:, 3] - moved[:, 1])
        kept = (cut[:, 2] - cut[:, 0]) * (cut[:, 3] - cut[:, 1]) > 0.2 * area  # "crop" may cut a lesion away
        return cut[kept].astype(np.float32), labels[kept]

    def _take_outlines(self) -> None:
        assert self.prepared.sizes is not None
        for case in self.rows:  # of volumes the rows are the cases
            mask = self.dataset.mask(int(case))
            if mask is not None:
                size = self.prepared.sizes[case]
                self.outlines[int(case)] = cutting.Outlined.of(voxels.mask_in(mask, [int(s) for s in size]))

    def _cover(self) -> None:
        assert self.prepared.sizes is not None
        patch, sizes = self.data.shape[1:], self.prepared.sizes
        found = [cutting.judged(self.outlines.get(int(row)), sizes[row], patch) for row in self.rows]
        self.rows = np.repeat(self.rows, [len(corners) for corners in found])
        self.corners = np.concatenate(found) if found else np.zeros((0, 3), np.int64)

    def drawn(self, positions: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """int64 (B, 3): where patches of the volumes at `positions` are cut; `draws`: (B, 2) numbers in [0, 1)."""
        assert self.prepared.sizes is not None
        patch, share = self.data.shape[1:], self.data.outlined_share
        made = np.zeros((len(positions), 3), np.int64)
        for found, row, chance in zip(made, self.rows[positions], draws, strict=True):
            size = self.prepared.sizes[row]
            found[:] = cutting.corner(cutting.centre(self.outlines.get(int(row)), size, share, chance), size, patch)
        return made

    def masks_at(self, positions: np.ndarray, corners: np.ndarray) -> np.ndarray:
        """uint8 (B, D, H, W): the outlines in the patches of volumes at `corners`; 0 where there is none."""
        patch = self.data.shape[1:]
        made = np.zeros((len(positions), *patch), np.uint8)
        for out, row, corner in zip(made, self.rows[positions], corners, strict=True):
            if int(row) in self.outlines:
                out[:] = self.outlines[int(row)].cut(corner, patch)
        return made

    def _take_masks(self, places: np.ndarray) -> None:
        side = self.data.size_px
        self.masks = np.zeros((len(places), side, side), np.uint8)
        self.masked = np.zeros(len(places), bool)
        last, mask = -1, None
        for row, (case, index) in enumerate(places):
            if case != last:  # the rows of a case follow each other
                last, mask = case, self.dataset.mask(int(case))
            if mask is None:
                continue
            self.masked[row] = True
            flat = (mask[self.shown(int(case), int(index))] > 0).any(0)
            if flat.any():
                self.masks[row] = self.placement(int(case)).mask_in(flat, side)

    def batch(self, positions: np.ndarray | slice, device: torch.device, corners: np.ndarray | None = None) -> Target:
        """What is known at `positions` of the split, on the device.

        Args:
            corners: (B, 2), where patches are cut: row and column of each one's first pixel; of volumes (B, 3), slice,
                row and column.
        """
        import torch

        if isinstance(positions, slice):
            positions = np.arange(len(self.rows))[positions]

        def sent(array: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device)

        pictures = None
        if self.goals is not None and corners is not None:
            scale = self.data.scale
            cut = self.goals.patches(self.rows[positions], corners * scale, self.data.size_px * scale)
            pictures = sent(cut.astype(np.float32)).div_(self.goals.unit)
        classes = None
        if self.classes is not None:
            classes = sent(self.classes[positions])
            classes = classes.float() if classes.ndim > 1 else classes
        return Target(
            classes=classes,
            boxes=None if self.boxes is None else [sent(self.boxes[k]) for k in positions],
            labels=None if self.labels is None else [sent(self.labels[k]) for k in positions],
            masks=None if self.masked is None else sent(self._masks(positions, corners)[:, None]),
            masked=None if self.masked is None else sent(self.masked[positions]),
            pictures=pictures,
            grains=None if self.grains is None else sent(np.stack([self._grain(k) for k in self.rows[positions]])),
            cases=sent(self.cases[positions]),
            slices=sent(self.slices[positions]),
        )

    def _grain(self, row: int) -> np.ndarray:
        assert self.grains is not None and self.prepared.sizes is not None
        if row not in self.grains:
            height, width = self.prepared.sizes[row]
            shown = self.prepared.rows([row])[0, :, :height, :width].astype(np.float32).mean(0) / self.prepared.unit
            center, width_hu = NAMED_WINDOWS["ct full"]
            self.grains[row] = own_grain(center - width_hu / 2 + (width_hu - 1) * shown)
        return self.grains[row]

    def kinds(self) -> np.ndarray:
        """(N,) int64, what each row counts as where classes are balanced.

        Of several labels or boxes the rarest one in the split, -1 without any; else as `class_or_outline` says. A patch
        of a volume counts as its volume does: where patches lie in it is up to `Data.outlined_share`.
        """
        if self.classes is not None and self.classes.ndim == 2:
            return _rarest([np.flatnonzero(row) for row in self.classes])
        if self.classes is None and self.labels is not None:
            return _rarest(self.labels)
        outlines: Sequence[Any] = [None] * len(self.rows)
        if self.masked is not None:
            known: Any = self.outlines if self.masks is None else self.masks
            places = self.cases if self.masks is None else np.arange(len(self.rows))
            outlines = [known[int(k)] if there else None for k, there in zip(places, self.masked, strict=True)]
        return class_or_outline(np.full(len(self.rows), -1) if self.classes is None else self.classes, outlines)

    def _masks(self, positions: np.ndarray, corners: np.ndarray | None) -> np.ndarray:
        if self.masks is not None:
            return self.masks[positions]
        assert corners is not None
        return self.masks_at(positions, corners)

    def facts(self) -> list[np.ndarray]:
        """All that is known, as arrays: what a run's digest is made of."""
        found = [self.cases, self.slices]
        found += [array for array in (self.classes, self.masks, self.masked) if array is not None]
        found += [np.array(self.corners)] if self.corners is not None else []
        for case, outline in self.outlines.items():
            found += [np.array([case, *outline.begin, *outline.voxels.shape]), outline.voxels]
        found += [self.goals.mean, self.goals.std] if self.goals is not None else []
        for parts in (self.boxes, self.labels):
            if parts is not None:
                found += [np.array([len(part) for part in parts]), *parts]
        return found


def over_slices(boxes: np.ndarray, labels: np.ndarray, slices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lesions in one picture of several slices: boxes (m, 4) and labels (m,).

    A lesion is drawn once on each slice that it crosses. Where these are one picture, boxes of one class on different
    slices are one lesion if half of the smaller one lies in the other, or others join them so: its box is their hull.

    Args:
        boxes: (n, 4) x0 y0 x1 y1. labels: (n,). slices: (n,), on which each was drawn.
    """
    low, high = np.maximum(boxes[:, None, :2], boxes[:, :2]), np.minimum(boxes[:, None, 2:], boxes[:, 2:])
    shared, areas = (high - low).clip(0).prod(2), (boxes[:, 2:] - boxes[:, :2]).prod(1)
    alike = (shared > 0) & (2 * shared >= np.minimum(areas[:, None], areas))
    alike &= (labels[:, None] == labels) & (slices[:, None] != slices)
    lesion = np.arange(len(boxes))
    for one, other in np.argwhere(alike):
        lesion[lesion == lesion[other]] = lesion[one]
    first = np.sort(np.unique(lesion, return_index=True)[1])
    own = [boxes[lesion == lesion[k]] for k in first]
    hulls = [np.concatenate([part[:, :2].min(0), part[:, 2:].max(0)]) for part in own]
    return np.array(hulls, np.float64).reshape(-1, 4), labels[first]


def class_or_outline(classes: np.ndarray, outlines: Sequence[Any]) -> np.ndarray:
    """(N,) int64, what each row counts as where classes are balanced: its class; where fewer than two are known, 1 with
    an outline and 0 with an empty one. `UNKNOWN` where that is not known of a row.

    Args:
        classes: (N,) int64, -1 unknown. outlines: of each row, with a method `any`; None where it has none.
    """
    if len(np.unique(classes[classes >= 0])) > 1:
        return np.where(classes >= 0, classes, UNKNOWN)
    return np.array([UNKNOWN if outline is None else int(outline.any()) for outline in outlines], np.int64)


def _rarest(labels: Sequence[np.ndarray]) -> np.ndarray:
    """Of the labels of each row the one that the fewest rows have, -1 for a row without labels."""
    most = max((int(row.max()) for row in labels if len(row)), default=-1)
    having = np.zeros(most + 1, np.int64)
    for row in labels:
        having[np.unique(row)] += 1
    return np.array([min(row, key=lambda name: (having[name], name)) if len(row) else -1 for row in labels], np.int64)
