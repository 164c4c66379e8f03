"""Pictures that are almost the same: a second export, another caption, the next frame, the other contrast.

Thumbnails are compared twice. A coarse look (8 x 8 means) sorts out nearly all pairs in one matrix product. The close
look correlates what is left of the 64 x 64 thumbnail after its blurred self is taken away: organs at the same place
look alike when blurred, but speckle, texture and edges agree only in pictures of one body. On BUSI (391 pictures) plain
correlation reaches 0.96 for different patients while that of details stays below 0.4, and everything above 0.5 is
visibly one lesion; on the four-class brain MR set all pairs above 0.8 that were looked at are one head.
"""

import numpy as np

COARSE = 0.95
DETAIL = (0.80, 0.90, 0.97, 0.99)
"""The first is used, unless a cluster becomes a giant: then the pictures share an overlay, and more must agree."""
_FLAT = 2.0  # grey levels: a thumbnail that varies less shows nothing
_BLOCK = 1024
_BLUR_PX = 9


def near_duplicates(thumbs: np.ndarray, order: np.ndarray, since: int = 0) -> list[int]:
    """Groups almost equal pictures.

    A picture joins the first earlier picture that it resembles and that itself joined nobody, so that A like B and
    B like C does not make A and C a pair: no chain grows over neighbouring slices.

    Args:
        thumbs: uint8 (N, 64, 64).
        order: int (N,), where the first, second... picture lies in `thumbs`.
        since: pictures before this place in the order were compared earlier; only later ones may join.

    Returns: for each place in the order the place of the picture it belongs to (its own when alone).
    """
    belongs = list(range(len(order)))
    places = np.array([p for p in range(len(order)) if thumbs[order[p]].std() > _FLAT], np.int64)
    positions = order[places]
    if len(positions) < 2:
        return belongs
    coarse = np.empty((len(positions), 64), np.float32)
    for start in range(0, len(positions), _BLOCK):
        block = np.asarray(thumbs[positions[start : start + _BLOCK]], np.float32)
        coarse[start : start + _BLOCK] = _unit(block.reshape(len(block), 8, 8, 8, 8).mean(axis=(2, 4)))
    first_new = int(np.searchsorted(places, since))
    pairs = _pairs(thumbs, positions, coarse, first_new)
    giant = max(20, len(positions) // 20)
    for threshold in DETAIL:
        heads = _heads(pairs, len(positions), threshold)
        if np.bincount(heads, minlength=1).max() <= giant:
            break
    for row, head in enumerate(heads):
        belongs[int(places[row])] = int(places[head])
    return belongs


def _pairs(
    thumbs: np.ndarray, positions: np.ndarray, coarse: np.ndarray, first_new: int
) -> list[tuple[int, int, float]]:
    """(row, earlier row, correlation of details) of all pairs that pass the coarse look and the lowest threshold."""
    details: dict[int, np.ndarray] = {}

    def detail(row: int) -> np.ndarray:
        if row not in details:
            if len(details) > 4 * _BLOCK:
                details.clear()  # memory stays flat; what is needed again is computed again
            picture = np.asarray(thumbs[positions[row]], np.float32)
            details[row] = _unit((picture - _blurred(picture))[None])[0]
        return details[row]

    pairs = []
    for start in range(first_new, len(positions), _BLOCK):
        stop = min(start + _BLOCK, len(positions))
        alike = coarse[start:stop] @ coarse[:stop].T > COARSE
        for row in range(start, stop):
            for other in np.flatnonzero(alike[row - start, :row]):
                value = float(detail(row) @ detail(int(other)))
                if value >= DETAIL[0]:
                    pairs.append((row, int(other), value))
    return pairs


def _heads(pairs: list[tuple[int, int, float]], num: int, threshold: float) -> list[int]:
    """The row that each row belongs to: the earliest it resembles that belongs to itself."""
    heads = list(range(num))
    for row, other, value in pairs:  # in order of row, then of other
        if value >= threshold and heads[row] == row and heads[other] == other:
            heads[row] = other
    return heads


def _unit(pictures: np.ndarray) -> np.ndarray:
    """Each picture as a vector of mean 0 and length 1, so that a product is a correlation."""
    flat = pictures.reshape(len(pictures), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)


def _blurred(picture: np.ndarray) -> np.ndarray:
    """Means over a square window, the border continued."""
    half = _BLUR_PX // 2
    padded = np.pad(picture, half, mode="reflect")
    sums = np.pad(padded.cumsum(axis=0, dtype=np.float64).cumsum(axis=1), ((1, 0), (1, 0)))
    size = _BLUR_PX
    window = sums[size:, size:] - sums[:-size, size:] - sums[size:, :-size] + sums[:-size, :-size]
    return (window / size**2).astype(np.float32)
