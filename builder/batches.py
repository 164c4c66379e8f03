"""From prepared scans to batches on the device: the order, the cutting into steps, the gather, the normalization."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from builder.data import Prepared, UnusableScan
from builder.spec import Data, Experiment
from builder.targets import UNKNOWN, Target, Targets

_BALANCED = 1  # keeps the random numbers of the balanced order apart from those of the plain one
_FIXED = 2026  # seeds the places of the patches that are judged
RESIDENT_SHARE = 0.25  # of the free GPU memory that the scans may take; else they come batch by batch
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # torchvision's constants for pretrained backbones


def permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    """The order of the train scans in an epoch, as int64 positions; the same for the same seed, always."""
    return np.random.default_rng((seed, epoch)).permutation(count)


def balanced(seed: int, epoch: int, kinds: np.ndarray) -> np.ndarray:
    """An order like `permutation` in which every kind comes equally often, at equal length: int64 positions.

    Scans of a rare kind come again once all of them have been taken; of a common kind every epoch takes others. Scans
    of no known kind (`targets.UNKNOWN`) come once each.

    Args:
        kinds: (N,) int64, what each scan counts as.
    """
    chance = np.random.default_rng((seed, epoch, _BALANCED))
    known = kinds != UNKNOWN
    names = np.unique(kinds[known])
    if not len(names):
        return permutation(seed, epoch, len(kinds))
    share, over = divmod(int(known.sum()), len(names))
    extra = chance.permutation(len(names)) < over  # which kinds come once more, where it does not divide evenly
    drawn = [np.flatnonzero(~known)]
    for name, more in zip(names, extra, strict=True):
        members, wanted = np.flatnonzero(kinds == name), share + int(more)
        rounds = [chance.permutation(members) for _ in range(-(-wanted // len(members)))]
        drawn.append(np.concatenate([*rounds, members[:0]])[:wanted])
    return chance.permutation(np.concatenate(drawn))


def updates(count: int, batch_size: int, accumulate: int) -> list[list[tuple[int, int]]]:
    """What an epoch over `count` scans consists of: optimizer steps, each a list of batches (start, end).

    Every scan is used. A last batch of a single scan joins the one before it: batch normalization has no use for one
    scan, and dropping it would hide it from learning. Accumulation never reaches over the end of an epoch.
    """
    edges = list(range(0, count, batch_size))
    if len(edges) > 1 and count - edges[-1] == 1 and batch_size > 1:
        edges.pop()
    batches = list(zip(edges, [*edges[1:], count], strict=True))
    return [batches[k : k + accumulate] for k in range(0, len(batches), accumulate)]


def normalization(experiment: Experiment, prepared: Prepared) -> tuple[list[float], list[float]]:
    """Mean and spread per channel that are taken off and divided by, for values in [0, 1]."""
    channels = experiment.data.channels
    chosen = experiment.data.normalize
    if chosen == "none":
        return [0.0] * channels, [1.0] * channels
    if chosen == "imagenet":
        # A grey scan stands for three equal channels: their average.
        mean, std = (list(v) if channels == 3 else [sum(v) / 3] * channels for v in IMAGENET)
        return mean, std
    return [float(v) for v in prepared.mean], [float(v) for v in prepared.std]


def by_channel(values: Sequence[float], data: Data, device: torch.device) -> Tensor:
    """One float32 number per channel, shaped to be added to a batch: (C, 1, 1), of volumes (C, 1, 1, 1)."""
    return torch.tensor(values, dtype=torch.float32, device=device).view(-1, *[1] * (-data.channel_axis - 1))


class Scans:
    """The scans of one split: a batch is one gather, as floats in [0, 1] on the device, with what is known of them.

    Small sets live on the GPU as the bytes they are; otherwise each batch is read from the prepared file, past the
    memory map, so that the process does not grow with the data.

    With `Data.fit` "patches" a batch holds squares cut out of the pictures: anywhere while learning, always at the same
    places to judge; of volumes blocks, by the rules of `cutting`. Where the good scan itself is degraded to a coarser
    grid (`Data.scale`), the squares are that many times as large.
    """

    def __init__(self, prepared: Prepared, targets: Targets, device: torch.device, resident: bool = True) -> None:
        self.prepared, self.targets, self.device = prepared, targets, device
        self.indices = targets.rows
        self.side = 0
        self.block = targets.data.shape[1:] if targets.data.blocks else ()
        if targets.data.fit == "patches" and not self.block:
            self.side = targets.data.size_px * (1 if targets.goals is not None else targets.data.scale)
            self.fixed = self._corners(np.random.default_rng(_FIXED).random((len(self.indices), 2)), self.indices)
        # Volumes are as large as they come: of those only patches are ever read.
        there = resident and device.type == "cuda" and not self.block
        self.resident = self._upload() if there else None

    def _upload(self) -> Tensor | None:
        row_bytes = self.prepared.images[:1].nbytes
        free_bytes, _ = torch.cuda.mem_get_info(self.device)
        rows, self.held = np.unique(self.indices, return_inverse=True)
        if len(rows) * row_bytes > RESIDENT_SHARE * free_bytes:
            return None
        parts = [self._read(part) for part in np.array_split(rows, max(1, len(rows) // 1024))]
        return torch.cat([part.to(self.device) for part in parts])

    def _read(self, indices: np.ndarray) -> Tensor:
        rows = self.prepared.rows(indices)
        # torch cannot gather unsigned 16 bit numbers on a GPU; as signed ones they travel the same.
        return torch.from_numpy(rows.view(np.int16) if rows.dtype == np.uint16 else rows)

    def _corners(self, chance: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Numbers (B, 2) in [0, 1) as row and column of the first pixel of a patch inside each row's own picture."""
        assert self.prepared.sizes is not None
        room = self.prepared.sizes[rows] - self.side + 1
        if (room < 1).any():
            height, width = self.prepared.sizes[rows[(room < 1).any(1)][0]]
            raise UnusableScan(
                f"Patches of {self.side} pixels cannot be cut out of a scan of {width} x {height}: choose smaller ones."
            )
        return np.floor(chance * room).astype(np.int64)

    def _block_corners(self, positions: np.ndarray, draws: np.ndarray | None) -> np.ndarray:
        """int64 (B, 3): where blocks are cut out of volumes."""
        if draws is None and self.targets.corners is not None:
            return self.targets.corners[positions]
        if draws is None:
            draws = np.random.default_rng(_FIXED).random((len(self.indices), 2))[positions]
        return self.targets.drawn(positions, draws)

    def batch(self, positions: np.ndarray | slice, chance: torch.Generator | None = None) -> tuple[Tensor, Target]:
        """Images (B, *shape of a row) float32 in [0, 1] and what is known of them, on the device, at `positions`.

        Args:
            chance: a CPU generator that says where patches are cut; None: always at the same places.
        """
        if isinstance(positions, slice):
            positions = np.arange(len(self.indices))[positions]
        corners = None
        if self.side or self.block:
            draws = None
            if chance is not None:
                draws = torch.rand(len(positions), 2, generator=chance, dtype=torch.float64).numpy()
            if self.block:
                corners = self._block_corners(positions, draws)
            else:
                corners = self.fixed[positions] if draws is None else self._corners(draws, self.indices[positions])
        stored = self._gathered(positions, corners)
        images = stored.float()
        if stored.dtype == torch.int16:
            images = images.add_((images < 0) * 65536.0)
        return images.div_(self.prepared.unit), self.targets.batch(positions, self.device, corners)

    def _gathered(self, positions: np.ndarray, corners: np.ndarray | None) -> Tensor:
        """The rows at `positions`, or the squares at `corners` in them, as they are stored, on the device."""
        if self.resident is not None:
            places = torch.from_numpy(self.held[positions]).to(self.device)
            if corners is None:
                return self.resident[places]
            lines = torch.arange(self.side, device=self.device)
            tops, lefts = (lines + torch.from_numpy(side).to(self.device)[:, None] for side in corners.T)
            channels = torch.arange(self.resident.shape[1], device=self.device)[None, :, None, None]
            return self.resident[places[:, None, None, None], channels, tops[:, None, :, None], lefts[:, None, None]]
        if corners is None:
            stored = self._read(self.indices[positions])
        else:
            rows = self.indices[positions]
            if self.block:
                blocks = [self.prepared.block(*place, self.block) for place in zip(rows, corners, strict=True)]
                cut = np.stack(blocks)
            else:
                cut = self.prepared.patches(rows, corners, self.side)
            stored = torch.from_numpy(cut.view(np.int16) if cut.dtype == np.uint16 else cut)
        return stored.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else stored
