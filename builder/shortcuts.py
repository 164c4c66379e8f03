"""Can the class be told from how a file was made, without looking at the scan? Then a network may learn that instead.

Collections that put scans of several sources together often have it: all healthy ones come from another scanner or
another program (Zech et al., PLoS Medicine 15:e1002683, 2018; DeGrave et al., Nature Machine Intelligence 3:610, 2021).
"""

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence

_LEAST_GAIN = 0.1
_NUM_ERRORS = 3.0  # standard errors by which chance must be beaten
_TELLING = 0.8  # share of a class that one value must cover to be named as an example
_RARE = 0.5


def shortcut(facets: Mapping[str, Sequence[Hashable]], labels: Sequence[int], classes: Sequence[str]) -> str:
    """The one facet that tells the class best, as a warning in words; "" where none does.

    Each case is named after the commonest class among the other cases of the same value (leave one out, each class
    counting the same); a facet is told of when that beats naming by chance by 0.1 and by three standard errors.

    Args:
        facets: {name in words: its value for each case}. labels: class index of each case.
    """
    present = sorted(set(labels))
    if len(present) < 2:
        return ""
    chance = 1 / len(present)
    least = chance + max(_LEAST_GAIN, _NUM_ERRORS * math.sqrt(chance * (1 - chance) / len(labels)))
    scores = {name: _balanced_accuracy(values, labels) for name, values in facets.items()}
    best = max(scores, key=lambda name: scores[name], default="")
    if not best or scores[best] < least:
        return ""
    example = _example(facets[best], labels, classes)
    return (
        f"The {best} of a file alone, without its picture, names the class of {scores[best]:.0%} (each class counted "
        f"the same; by chance {chance:.0%}){example}. Scans of several sources were put together: a network may learn "
        "to tell the sources instead of the disease, and fail on yours. Look at what it looks at before you believe it."
    )


def _balanced_accuracy(values: Sequence[Hashable], labels: Sequence[int]) -> float:
    sizes = Counter(labels)
    tables: dict[Hashable, Counter[int]] = {}
    for value, label in zip(values, labels, strict=True):
        tables.setdefault(value, Counter())[label] += 1
    right: Counter[int] = Counter()
    for table in tables.values():
        for label, count in table.items():
            # Shares of their class, so that a common class does not win everywhere; the case itself is left out.
            own = (count - 1) / max(1, sizes[label] - 1)
            others = max((n / sizes[other] for other, n in table.items() if other != label), default=0.0)
            right[label] += count * (own > others)
    return sum(right[label] / sizes[label] for label in sizes) / len(sizes)


def _example(values: Sequence[Hashable], labels: Sequence[int], classes: Sequence[str]) -> str:
    """ ": 99 % of notumor are colour, 33 % of the others"; "" without a value that stands out."""
    sizes, seen = Counter(labels), Counter(zip(values, labels, strict=True))
    found: list[tuple[float, str]] = []
    for (value, label), count in seen.items():
        inside = count / sizes[label]
        outside = sum(n for (v, other), n in seen.items() if v == value and other != label) / (
            len(labels) - sizes[label]
        )
        if inside >= _TELLING and outside <= _RARE:
            words = f": {inside:.0%} of {classes[label]} are {value}, {outside:.0%} of the others"
            found.append((inside - outside, words))
    return max(found)[1] if found else ""
