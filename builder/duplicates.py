"""Pictures that are almost the same: a second export, another caption, the next frame, the other contrast.

Thumbnails are compared twice. A coarse look (8 x 8 means) sorts out nearly all pairs in one matrix product. The close
look correlates what is left of the 64 x 64 thumbnail after its blurred self is taken away: organs at the same place
look alike when blurred, but speckle, texture and edges agree only in pictures of one body. On BUSI (391 pictures) plain
correlation reaches 0.96 for different patients while that of details stays below 0.4, and everything above 0.5 is
visibly one lesion; on the four-class brain MR set all pairs above 0.8 that were looked at are one head.
"""

from pathlib import Path

import numpy as np

COARSE = 0.95
DETAIL = (0.80, 0.90, 0.97, 0.99)
"""The first is used, unless a cluster becomes a giant: then the pictures share an overlay, and more must agree."""
_FLAT = 2.0  # grey levels: a thumbnail that varies less shows nothing
_BLOCK = 512
_BLUR_PX = 9


def near_duplicates(thumbs: np.ndarray, order: np.ndarray, since: int = 0, scratch: Path | None = None) -> list[int]:
    """Groups almost equal pictures.

    A picture joins the first earlier picture that it resembles and that itself joined nobody, so that A like B and
    B like C does not make A and C a pair: no chain grows over neighbouring slices.

    Args:
        thumbs: uint8 (N, 64, 64).
        order: int (N,), where the first, second... picture lies in `thumbs`.
        since: pictures before this place in the order were compared earlier; only later ones may join.
        scratch: folder for what would take 8 kB of memory a picture.

    Returns: for each place in the order the place of the picture it belongs to (its own when alone).
    """
    belongs = list(range(len(order)))
    places = np.array([p for p in range(len(order)) if thumbs[order[p]].std() > _FLAT], np.int64)
    if len(places) < 2:
        return belongs
    coarse, details = _looks(thumbs, order[places], scratch)
    heads = _heads(coarse, details, int(np.searchsorted(places, since)))
    giant = max(20, len(places) // 20)
    chosen = next((row for row in heads if np.bincount(row).max() <= giant), heads[-1])
    for row, head in enumerate(chosen):
        belongs[int(places[row])] = int(places[head])
    return belongs


def _looks(thumbs: np.ndarray, positions: np.ndarray, scratch: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """The coarse look (N, 64) float32 and the close look (N, 4096) float16 of each picture, as unit vectors."""
    shape = (len(positions), thumbs.shape[1] * thumbs.shape[2])
    details = np.memmap(scratch / "details", np.float16, "w+", shape=shape) if scratch else np.empty(shape, np.float16)
    coarse = np.empty((len(positions), 64), np.float32)
    for start in range(0, len(positions), _BLOCK):
        block = np.asarray(thumbs[positions[start : start + _BLOCK]], np.float32)
        coarse[start : start + _BLOCK] = _unit(block.reshape(len(block), 8, 8, 8, 8).mean(axis=(2, 4)))
        details[start : start + _BLOCK] = _unit(block - _blurred(block))
    return coarse, details


def _heads(coarse: np.ndarray, details: np.ndarray, first_new: int) -> np.ndarray:
    """(thresholds, N): under each threshold the row that each row belongs to."""
    num = len(coarse)
    heads = np.tile(np.arange(num), (len(DETAIL), 1))
    for start in range(first_new, num, _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, num))
        own = details[rows].astype(np.float32)
        pairs = []
        for begin in range(0, rows[-1] + 1, _BLOCK):
            columns = np.arange(begin, min(begin + _BLOCK, rows[-1] + 1))
            settled = columns < start
            columns = columns[~settled | (heads[:, columns] == columns).any(axis=0)]
            alike = (coarse[rows] @ coarse[columns].T > COARSE) & (columns < rows[:, None])
            some = np.flatnonzero(alike.any(axis=0))
            if len(some):
                close = own @ details[columns[some]].astype(np.float32).T
                row, column = np.nonzero(alike[:, some] & (close >= DETAIL[0]))
                pairs.append((rows[row], columns[some[column]], close[row, column]))
        if pairs:
            row, column, value = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
            for index in np.lexsort((column, row)):
                _join(heads, int(row[index]), int(column[index]), float(value[index]))
    return heads


def _join(heads: np.ndarray, row: int, earlier: int, value: float) -> None:
    for threshold, head in zip(DETAIL, heads, strict=True):
        if value >= threshold and head[row] == row and head[earlier] == earlier:
            head[row] = earlier


def _unit(pictures: np.ndarray) -> np.ndarray:
    """Each picture as a vector of mean 0 and length 1, so that a product is a correlation."""
    flat = pictures.reshape(len(pictures), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)


def _blurred(pictures: np.ndarray) -> np.ndarray:
    """Means over a square window, the border mirrored: (N, H, W)."""
    half = _BLUR_PX // 2
    padded = np.pad(pictures, ((0, 0), (half, half), (half, half)), mode="reflect").astype(np.float64)
    sums = np.pad(padded.cumsum(axis=1).cumsum(axis=2), ((0, 0), (1, 0), (1, 0)))
    size = _BLUR_PX
    window = sums[:, size:, size:] - sums[:, :-size, size:] - sums[:, size:, :-size] + sums[:, :-size, :-size]
    return (window / size**2).astype(np.float32)
