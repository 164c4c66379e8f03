"""Pictures that are almost the same: a second export, another caption, the next frame, turned, mirrored, recompressed.

Thumbnails are compared twice. A coarse look (8 x 8 means) sorts out nearly all pairs in one matrix product. The close
look correlates what is left of the 64 x 64 thumbnail after its blurred self is taken away: organs at the same place
look alike when blurred, but speckle, texture and edges agree only in pictures of one body. On BUSI (391 pictures) plain
correlation reaches 0.96 for different patients while that of details stays below 0.4, and everything above 0.5 is
visibly one lesion; on the four-class brain MR set all pairs above 0.8 that were looked at are one head.

Turned and mirrored copies are looked for in rings around the middle: turning a picture shifts each ring, which leaves
the strength of its Fourier terms as it was (the Fourier-Mellin idea; Casasent and Psaltis, Applied Optics 15:1795,
1976), so that the nearest pictures by these strengths are the candidates, and the best shift of the rings against each
other says how much of the details agrees, and by which angle. How much must agree is told by the set itself: pictures
that are drawn by one program, or show little but one outline, agree by chance as much as no two real scans do.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

COARSE = 0.95
DETAIL = 0.80
"""Least correlation of details."""
LEVELS = 4
"""The first is used, unless a cluster becomes a giant: then the pictures share an overlay, and more must agree: each
level halves what may differ."""
_MOST_LINKS = 50  # a picture
_FLAT = 2.0  # grey levels: a thumbnail that varies less shows nothing
_BLOCK = 512
_BLUR_PX = 9
TURNED = 0.8
"""Least agreement of rings: what different pictures reach by chance in a set of real scans stays below 0.5."""
_RADII_PX = np.arange(3.0, 31.0, 1.25)
_ANGLES = 96
_TERMS = 25  # of the Fourier series of each ring that are compared in the first look
_AXES = 96  # of the first look that are kept
_CANDIDATES = 12
_CHANCE_PAIRS = 4000
_FEW = 12  # pictures, below which a set does not tell what chance does


@dataclass(frozen=True)
class Pair:
    """Two pictures that are almost the same.

    Attributes:
        one, other: places, the earlier first. likeness: 0..1, correlation of the details.
        turned_deg: by how much the second is turned (counter-clockwise, 0..359), after mirroring left to right where
            `mirrored`.
    """

    one: int
    other: int
    likeness: float
    turned_deg: int = 0
    mirrored: bool = False

    @property
    def words(self) -> str:
        """How the second came from the first: "turned by 90 degrees", "mirrored", "almost the same"."""
        turned = min(self.turned_deg, 360 - self.turned_deg) > 3
        if self.mirrored and abs(self.turned_deg - 180) <= 3:
            return "mirrored top to bottom"
        parts = ["mirrored"] * self.mirrored + [f"turned by {self.turned_deg} degrees"] * turned
        return " and ".join(parts) or "almost the same"


def near_duplicates(thumbs: np.ndarray, order: np.ndarray, since: int = 0, scratch: Path | None = None) -> list[int]:
    """Groups almost equal pictures: what is linked to each other, over others too, belongs to the first of them.

    Where links would make one giant of many pictures (neighbouring slices, a common overlay), more must agree; where
    even that does not part it, a picture joins the first earlier picture that it resembles and that itself joined
    nobody, so that no chain grows.

    Args:
        thumbs: uint8 (N, 64, 64).
        order: int (N,), where the first, second... picture lies in `thumbs`.
        since: pictures before this place in the order were compared earlier; only later ones may join.
        scratch: folder for what would take 8 kB of memory a picture.

    Returns: for each place in the order the place of the picture it belongs to (its own when alone).
    """
    links, places = _links(thumbs, order, since, scratch)
    belongs = list(range(len(order)))
    num, first_new = len(places), int(np.searchsorted(places, since))
    if not len(links.one):
        return belongs
    heads = _components(links, num) if links.parted else _heads(links, num)
    for row in range(first_new, num):
        belongs[int(places[row])] = int(places[heads[row]])
    return belongs


def _chance_pairs(num: int) -> tuple[np.ndarray, np.ndarray]:
    """Two different pictures (M,) each, of which nearly all pairs show two different things."""
    if num * (num - 1) // 2 <= _CHANCE_PAIRS:
        return np.triu_indices(num, 1)  # type: ignore[return-value]
    one, other = np.random.default_rng(0).integers(0, num, (2, _CHANCE_PAIRS))
    return one[one != other], other[one != other]


def _least(chance: np.ndarray, usual: float, num: int) -> float:
    """How much must agree: as usual, more where different pictures of the set nearly agree as much by chance."""
    if num < _FEW:
        return usual
    often = float(np.quantile(chance, 0.99 if len(chance) > _CHANCE_PAIRS // 2 else 0.95))
    return max(usual, 1 - (1 - often) / 4)


def _level(likeness: np.ndarray, least: float) -> np.ndarray:
    """(M,) the strictest level, 0 to 3, that each passes."""
    found: np.ndarray = (likeness[:, None] >= 1 - (1 - least) / 2 ** np.arange(LEVELS) - 1e-6).sum(1) - 1
    return found


@dataclass(frozen=True)
class _Links:
    """Pairs of rows that agree as much as the set asks for, in the order of the later, then the earlier row.

    Attributes:
        one, other: (M,) rows, the earlier first. likeness: (M,). turn: (M,) degrees. mirrored: (M,).
        parted: whether they make no giant.
    """

    one: np.ndarray
    other: np.ndarray
    likeness: np.ndarray
    turn: np.ndarray
    mirrored: np.ndarray
    parted: bool = True


def _links(thumbs: np.ndarray, order: np.ndarray, since: int, scratch: Path | None) -> tuple[_Links, np.ndarray]:
    """The links among the pictures that show something, and the places of these in the order."""
    places = np.array([p for p in range(len(order)) if thumbs[order[p]].std() > _FLAT], np.int64)
    num, first_new = len(places), int(np.searchsorted(places, since))
    none = np.zeros(0, np.int64)
    if num < 2 or first_new >= num:
        return _Links(none, none, none.astype(float), none, none.astype(bool)), places
    turned, least = _turned(thumbs, order[places], first_new, scratch)
    parts: list[tuple[np.ndarray, ...]] = [(*turned, _level(turned[2], least))]
    coarse, details = _looks(thumbs, order[places], scratch)
    one, other = _chance_pairs(num)
    plainly = _least(np.einsum("nk,nk->n", details[one], details[other], dtype=np.float32), DETAIL, num)
    lowest, held = 0, 0
    for row, column, value in _close(coarse, details, first_new):
        row, column, value = (part[value >= plainly] for part in (row, column, value))
        level = _level(value, plainly)
        zeros = np.zeros(len(row), np.int64)
        parts.append((column, row, np.minimum(value, 1), zeros, zeros.astype(bool), level))
        held += len(row)
        while held > _MOST_LINKS * num and lowest < LEVELS - 1:  # a giant for certain: not worth the memory
            lowest += 1
            parts = [tuple(column[part[5] >= lowest] for column in part) for part in parts]
            held = sum(len(part[0]) for part in parts)
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    giant = max(20, num // 20)
    for strictness in range(lowest, LEVELS):
        kept = columns[5] >= strictness
        links = _unique(*(column[kept] for column in columns[:5]))
        if not len(links.one) or np.bincount(_components(links, num)).max() <= giant:
            return links, places
    return _Links(links.one, links.other, links.likeness, links.turn, links.mirrored, parted=False), places


def _unique(one: np.ndarray, other: np.ndarray, likeness: np.ndarray, turn: np.ndarray, mirrored: np.ndarray) -> _Links:
    """Each pair once, as it is most alike, as it stands in turns that are equally good."""
    best = np.lexsort((mirrored, -likeness.round(4), one, other))
    one, other = one[best], other[best]
    first = np.r_[True, (one[1:] != one[:-1]) | (other[1:] != other[:-1])] if len(one) else np.zeros(0, bool)
    at = best[first]
    return _Links(one[first], other[first], likeness[at], turn[at], mirrored[at])


def _components(links: _Links, num: int) -> np.ndarray:
    """(num,): the first row that each row is linked to, over others too."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    table = coo_array((np.ones(len(links.one), bool), (links.one, links.other)), shape=(num, num))
    _, names = connected_components(table, directed=False)
    first = np.full(names.max() + 1, num)
    np.minimum.at(first, names, np.arange(num))
    found: np.ndarray = first[names]
    return found


def _heads(links: _Links, num: int) -> np.ndarray:
    """(num,): the first earlier row that each row is linked to and that itself belongs to nobody else."""
    heads = np.arange(num)
    for earlier, row in zip(links.one, links.other, strict=True):
        if heads[row] == row and heads[earlier] == earlier:
            heads[row] = earlier
    return heads


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


def pairs(thumbs: np.ndarray, scratch: Path | None = None) -> list[Pair]:
    """All pairs of pictures (uint8 (N, 64, 64)) that are almost the same, also turned and mirrored; the most alike
    first."""
    links, places = _links(thumbs, np.arange(len(thumbs)), 0, scratch)
    found = [
        Pair(int(places[one]), int(places[other]), float(likeness), int(turn), bool(mirrored))
        for one, other, likeness, turn, mirrored in zip(
            links.one, links.other, links.likeness, links.turn, links.mirrored, strict=True
        )
    ]
    return sorted(found, key=lambda pair: (-round(pair.likeness, 4), pair.one, pair.other))


def _close(
    coarse: np.ndarray, details: np.ndarray, first_new: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(rows, earlier rows, correlation of details) of the pairs that both looks find alike, block by block."""
    num = len(coarse)
    for start in range(first_new, num, _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, num))
        own = details[rows].astype(np.float32)
        for begin in range(0, rows[-1] + 1, _BLOCK):
            columns = np.arange(begin, min(begin + _BLOCK, rows[-1] + 1))
            alike = (coarse[rows] @ coarse[columns].T > COARSE) & (columns < rows[:, None])
            some = np.flatnonzero(alike.any(axis=0))
            if len(some):
                close = own @ details[columns[some]].astype(np.float32).T
                row, column = np.nonzero(alike[:, some] & (close >= DETAIL))
                yield rows[row], columns[some[column]], close[row, column]


# -- turned and mirrored ----------------------------------------------------------------------------------------------


_Turned = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Earlier rows, later rows, likeness, turn in degrees, mirrored: (M,) each."""


def _turned(thumbs: np.ndarray, positions: np.ndarray, first_new: int, scratch: Path | None) -> tuple[_Turned, float]:
    """Pairs whose rings agree after some turn, mirrored or not, of which one is new; and how much had to agree."""
    num = len(positions)
    spectra, strengths = _rings(thumbs, positions, scratch)
    least = _least(_agreement(spectra, *_chance_pairs(num))[0], TURNED if num >= _FEW else 0.98, num)
    parts = []
    for one, other in _candidates(strengths, first_new):
        likeness, turn, mirrored = _agreement(spectra, one, other)
        kept = likeness >= least
        parts.append((one[kept], other[kept], np.minimum(likeness[kept], 1), turn[kept], mirrored[kept]))
    one, other, likeness, turn, mirrored = (np.concatenate(column) for column in zip(*parts, strict=True))
    return (one, other, likeness, turn, mirrored), least


def _rings(thumbs: np.ndarray, positions: np.ndarray, scratch: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """Fourier series of the rings of each picture's details, complex64 (N, rings, angles / 2 + 1), each picture of
    length 1; and the strengths of their first terms on their main axes, unit vectors (N, at most 96) float32."""
    shape = (len(positions), len(_RADII_PX), _ANGLES // 2 + 1)
    spectra = np.memmap(scratch / "rings", np.complex64, "w+", shape=shape) if scratch else np.empty(shape, "c8")
    strengths = np.empty((len(positions), len(_RADII_PX) * _TERMS), np.float32)
    angles = np.arange(_ANGLES) * 2 * np.pi / _ANGLES
    middle = (thumbs.shape[1] - 1) / 2
    down, across = (middle + _RADII_PX[:, None] * turn(angles) for turn in (np.sin, np.cos))
    top, left = np.floor(down).astype(int), np.floor(across).astype(int)
    low, right = (down - top).astype(np.float32), (across - left).astype(np.float32)
    weight = np.sqrt(_RADII_PX)[:, None].astype(np.float32)  # an outer ring shows more of the picture
    for start in range(0, len(positions), _BLOCK):
        block = np.asarray(thumbs[positions[start : start + _BLOCK]], np.float32)
        block = block - _blurred(block)
        upper = block[:, top, left] * (1 - right) + block[:, top, left + 1] * right
        lower = block[:, top + 1, left] * (1 - right) + block[:, top + 1, left + 1] * right
        rings = (upper * (1 - low) + lower * low) * weight
        rings -= rings.mean(axis=(1, 2), keepdims=True)
        rings /= np.maximum(np.linalg.norm(rings, axis=(1, 2), keepdims=True), 1e-6)
        series = np.fft.rfft(rings, axis=2)
        spectra[start : start + _BLOCK] = series
        strengths[start : start + _BLOCK] = np.abs(series[:, :, :_TERMS]).reshape(len(block), -1)
    strengths -= strengths.mean(0)
    sample = strengths[:: max(1, len(strengths) // 4000)]
    _, axes = np.linalg.eigh(sample.T @ sample)
    strengths = strengths @ axes[:, -_AXES:].astype(np.float32)
    return spectra, strengths / np.maximum(np.linalg.norm(strengths, axis=1, keepdims=True), 1e-9)


def _candidates(strengths: np.ndarray, first_new: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(earlier, later) rows of the pictures that are nearest to each new one, block by block."""
    num = len(strengths)
    most = min(_CANDIDATES, num - 1)
    for start in range(first_new, num, _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, num))
        near = strengths[rows] @ strengths.T
        near[np.arange(len(rows)), rows] = -np.inf
        nearest = np.argpartition(-near, most - 1, axis=1)[:, :most]
        one, other = np.repeat(rows, most), nearest.ravel()
        both = np.unique(np.stack([np.minimum(one, other), np.maximum(one, other)], 1), axis=0)
        yield both[:, 0], both[:, 1]


def _agreement(spectra: np.ndarray, one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(M,) each: the best correlation over all turns, the turn from one to other in degrees, whether mirrored."""
    best, angle, mirrored = (np.empty(len(one), kind) for kind in (np.float32, np.int64, bool))
    for start in range(0, len(one), _BLOCK):
        part = slice(start, start + _BLOCK)
        first, second = spectra[one[part]], spectra[other[part]]
        straight = np.fft.irfft((np.conj(first) * second).sum(1), n=_ANGLES)
        over = np.fft.irfft((first * second).sum(1), n=_ANGLES)
        mirrored[part] = over.max(1) > straight.max(1) + 1e-4
        chosen = np.where(mirrored[part, None], over, straight)
        best[part] = chosen.max(1)
        # Rows run downwards: what runs on in this count of angles turns clockwise to the eye. Counting them backwards
        # swaps top and bottom, which is half a turn more than swapping left and right.
        angle[part] = (-chosen.argmax(1) * 360 // _ANGLES + 180 * mirrored[part]) % 360
    return best, angle, mirrored


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
