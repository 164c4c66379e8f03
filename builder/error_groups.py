"""Have the errors of a run something in common? Kinds of scans on which it errs more often than elsewhere.

Scans are put on a tree by how alike they look (Ward's method on the main axes of a packaged network's features, see
`baseline`). The run's own features would not do: there its errors lie together by construction, on the wrong side of
its boundary. Each branch of the tree is a candidate; the one that holds the most errors beyond what the classes of its
scans explain is told, if so much is rare by chance: the largest such excess of any branch after the errors were dealt
out anew among patients of the same classes (tree-based scan statistic: Kulldorff, Fang and Walsh, Biometrics 59:323,
2003). So many branches may be looked at and nothing is claimed where errors are scattered.

Where answers are not right or wrong (boxes, outlines, restored scans) each scan has a mark, and the quarter with the
lowest marks is looked at in place of the errors (see `measures.judged`).

Asked are scans that the run did not learn from: the validation side, and the test side where its answers are known.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from builder import attributes, baseline, task
from builder.data import Dataset
from builder.evaluate import answered, kept
from builder.fingerprint import facets
from builder.measures import bootstrap
from builder.measures.classes import Predictions
from builder.measures.judged import Judged
from builder.parting import dataset_of
from builder.runs import Run, write_atomic

__all__ = ["NotAsked", "ask", "denser", "kept_of"]

FILE = "error-groups.json"
DRAWS = 999
FEWEST = 8
"""Scans of a branch, below which it is no group."""
FEWEST_ERRORS = 5
SIDES = ("val", "test")
LOW = 0.25
"""Share of the scans that count as answered badly where answers are not right or wrong, but better or worse."""
SURE = 0.9
"""Probability from which a wrong answer counts as a confident one."""
_AXES = 12
_MOST_SCANS = 1500
_MOST_GROUPS = 4
_LEVEL = 0.05
_SHOWN = 12
_TELLING, _BEYOND = 0.6, 0.25  # share of a group that a value must cover, and by how much more than outside


class NotAsked(ValueError):
    """A run that cannot be asked like this. Its text is one sentence for people."""


def ask(
    run: Run,
    home: Path,
    progress: Callable[[int, int], None] | None = None,
    draws: int = DRAWS,
    sides: Sequence[str] = SIDES,
) -> dict[str, Any]:
    """Looks for kinds of scans on which a run errs; kept as `error-groups.json`.

    Args:
        sides: where it may look; the test side only if its answers are known.
    Returns, as JSON data: {run, n, patients, sides, wrong, sure, rate {value, low, high}, low (null, or {marked, cut}),
        looked [sentences: how many errors of how many scans],
        edited, groups [{about ("errors", "sure errors" or "low"), n, patients, wrong, sure, rate, outside (share), p,
        shared [words], cases [{case, given, says, chance} or, of "low", {case, mark}]}], words [sentences]}. Without
        classes the scans whose answer is "low" count as wrong, and none as sure.

    Raises:
        NotAsked: too few scans or errors. PredictError, EvaluateError, UnknownDataset.
    """
    asked = _answers(run, home, sides)
    dataset = dataset_of(run.folder, home, run.experiment.data.dataset)
    by_id = {case.id: index for index, case in enumerate(dataset.cases)}
    questions = [row for row in (_of_classes(asked, by_id), _of_marks(asked, by_id)) if row is not None]
    if not questions:
        raise NotAsked("No scan was answered that it did not learn from and of which the true answer is known.")
    first = questions[0]
    if len(first.places) < 3 * FEWEST:
        raise NotAsked(f"Only {len(first.places)} scans were answered that it did not learn from: too few for groups.")
    if all(errors.sum() < FEWEST_ERRORS for one in questions for _, errors in one.errors):
        raise NotAsked(
            f"It erred on {first.errors[0][1].sum()} of {len(first.places)} scans: too few errors to look for groups."
        )
    looks = baseline.features_of(dataset, progress)
    groups: list[dict[str, Any]] = []
    for one in questions:
        branches = _branches(looks[one.places], one.patients) if len(one.places) >= 3 * FEWEST else []
        taken: list[np.ndarray] = []
        for about, errors in one.errors:
            found = denser(branches, errors, one.kinds, one.patients, draws) if errors.sum() >= FEWEST_ERRORS else []
            for members, p in found:
                if any(2 * len(np.intersect1d(members, other)) > len(members) for other in taken):
                    continue  # told already
                taken.append(members)
                groups.append(_group(dataset, one, about, errors, members, p))
    wrong, low = first.errors[0][1], next((one.low for one in questions if one.low), None)
    result = {
        "run": run.id,
        "n": len(first.places),
        "patients": len(np.unique(first.patients)),
        "sides": asked.sides,
        "wrong": int(wrong.sum()),
        "sure": int(first.sure.sum()),
        "rate": _rate(wrong, first.patients),
        "low": low,
        "looked": [_looked(one) for one in questions],
        "groups": groups,
        "words": _words(groups, questions),
        "edited": dataset.edited,
    }
    write_atomic(run.folder / FILE, json.dumps(result))
    return result


def kept_of(run: Run) -> dict[str, Any] | None:
    """What `ask` found last; None where it was not asked, or the run has learned since."""
    path = run.folder / FILE
    try:
        if path.stat().st_mtime < (run.folder / "best.safetensors").stat().st_mtime:
            return None
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


# -- what is asked of which scans -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Asked:
    """What a run answered on scans that it did not learn from.

    Attributes:
        classes: of the run. sides: they lie on. judged: an entry a side (see `Task.judged`). examined: likewise.
    """

    classes: tuple[str, ...]
    sides: list[str]
    judged: list[Judged]
    examined: list[task.Examined]


@dataclass(frozen=True)
class _Question:
    """Some scans, and which of them were answered badly.

    Attributes:
        places: (N,) in the data set. patients: (N,). kinds: (N,) what errors are dealt out within (see `denser`).
        errors: [(what about, (N,) bool)]. sure: (N,) bool. order: (N,) the worst first within a group, from large to
            small. told: position -> what is kept of a scan. low: {marked, cut} where marks are asked about.
    """

    places: np.ndarray
    patients: np.ndarray
    kinds: np.ndarray
    errors: list[tuple[str, np.ndarray]]
    sure: np.ndarray
    order: np.ndarray
    told: Callable[[int], dict[str, Any]]
    low: dict[str, Any] | None = None


def _answers(run: Run, home: Path, sides: Sequence[str]) -> _Asked:
    kind = task.find(run.experiment.task)
    classes, _, examined = answered(run, home, "val")
    found = [("val", examined)]
    if "test" in sides and (test := kept(run, "test")) is not None:
        found.append(("test", test))
    told = [(side, arrays, kind.judged(arrays, len(classes))) for side, arrays in found]
    known = [(side, arrays, judged) for side, arrays, judged in told if judged is not None]
    return _Asked(
        classes, [side for side, _, _ in known], [judged for _, _, judged in known], [arrays for _, arrays, _ in known]
    )


def _some(num: int) -> np.ndarray:
    """Positions of at most `_MOST_SCANS` of that many, evenly spread."""
    return np.unique(np.linspace(0, max(0, num - 1), min(num, _MOST_SCANS)).astype(int))


def _of_classes(asked: _Asked, by_id: Mapping[str, int]) -> _Question | None:
    """Answers with classes that are wrong; None where the run tells none."""
    parts = [part for part in map(Predictions.of, asked.examined) if part is not None]
    if not parts:
        return None
    names = ("probabilities", "labels", "patients", "cases")
    told = Predictions(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))
    rows = np.array([n for n, id in enumerate(told.cases) if str(id) in by_id], np.int64)
    rows = rows[_some(len(rows))]
    chances, labels = told.probabilities[rows], told.labels[rows]
    says = (chances >= 0.5).astype(np.uint8) if labels.ndim == 2 else chances.argmax(1)
    wrong = (says != labels).any(1) if labels.ndim == 2 else says != labels
    chance = np.maximum(chances, 1 - chances).min(1) if labels.ndim == 2 else chances.max(1)
    ids = [str(id) for id in told.cases[rows]]

    def of_case(n: int) -> dict[str, Any]:
        given, said = (_named(asked.classes, side[n]) for side in (labels, says))
        return {"case": ids[n], "given": given, "says": said, "chance": round(float(chance[n]), 3)}

    sure = wrong & (chance >= SURE)
    return _Question(
        np.array([by_id[id] for id in ids], np.int64),
        told.patients[rows],
        np.array(["|".join(map(str, np.atleast_1d(label))) for label in labels]),
        [("errors", wrong), ("sure errors", sure)],
        sure,
        chance,
        of_case,
    )


def _of_marks(asked: _Asked, by_id: Mapping[str, int]) -> _Question | None:
    """Answers that are better or worse: those of the lowest quarter of marks count as errors; None without marks."""
    marks = {id: mark for judged in asked.judged for id, mark in judged.marks.items() if id in by_id}
    people = {
        str(id): patient for judged in asked.judged for id, patient in zip(judged.cases, judged.patients, strict=True)
    }
    ids = [id for id, mark in marks.items() if np.isfinite(mark)]
    ids = [ids[n] for n in _some(len(ids))] if ids else []
    if not ids:
        return None
    values = np.array([marks[id] for id in ids])
    cut = float(np.quantile(values, LOW))
    low = values <= cut if cut < values.max() else values < cut  # where most are perfect, those that are not
    return _Question(
        np.array([by_id[id] for id in ids], np.int64),
        np.array([people[id] for id in ids]),
        np.full(len(ids), ""),
        [("low", low)],
        np.zeros(len(ids), bool),
        -values,
        lambda n: {"case": ids[n], "mark": round(float(values[n]), 3)},
        {"marked": asked.judged[0].marked, "cut": float(values[low].max()) if low.any() else cut},
    )


def _group(
    dataset: Dataset, asked: _Question, about: str, errors: np.ndarray, members: np.ndarray, p: float
) -> dict[str, Any]:
    inside = np.zeros(len(errors), bool)
    inside[members] = True
    wrong = asked.errors[0][1]
    return {
        "about": about,
        "n": len(members),
        "patients": len(np.unique(asked.patients[inside])),
        "wrong": int(wrong[inside].sum()),
        "sure": int(asked.sure[inside].sum()),
        "rate": _rate(errors[inside], asked.patients[inside]),
        "outside": float(errors[~inside].mean()),
        "p": p,
        "shared": _shared(dataset, asked.places, inside),
        "cases": [
            asked.told(int(n)) for n in sorted(np.flatnonzero(inside & wrong), key=lambda n: -asked.order[n])[:_SHOWN]
        ],
    }


# -- where errors are dense -------------------------------------------------------------------------------------------


def _branches(features: np.ndarray, patients: np.ndarray) -> list[np.ndarray]:
    """Members (rows) of every branch of the tree that is large enough, of more than one patient (a hard patient is no
    kind of scan, and no rate can be told of others by one) and holds at most half of the scans."""
    from scipy.cluster.hierarchy import linkage

    centred = (features - features.mean(0)).astype(np.float64)
    centred /= centred.std(0) + 1e-6
    left, strength, _ = np.linalg.svd(centred, full_matrices=False)
    axes = left[:, :_AXES] * strength[:_AXES]
    members: dict[int, np.ndarray] = {n: np.array([n]) for n in range(len(features))}
    found = []
    for step, (one, other, _, size) in enumerate(linkage(axes, "ward")):
        own = np.concatenate([members.pop(int(one)), members.pop(int(other))])
        members[len(features) + step] = own
        if FEWEST <= size <= len(features) / 2 and len(np.unique(patients[own])) > 1:
            found.append(np.sort(own))
    return found


def denser(
    branches: Sequence[np.ndarray],
    errors: np.ndarray,
    kinds: np.ndarray,
    patients: np.ndarray,
    draws: int = DRAWS,
    seed: int = 0,
) -> list[tuple[np.ndarray, float]]:
    """Branches with more errors than chance puts into any branch, the densest first; none overlaps another.

    Args:
        branches: rows of each. errors: (N,) bool. kinds: (N,) what the errors are dealt out within (the class: that one
            class is harder is told elsewhere). patients: (N,): the errors of a patient stay together.
    Returns: [(rows, p)], p the share of `draws` in which the largest excess of all branches was as large.
    """
    if not branches or not errors.any():
        return []
    inside = np.zeros((len(branches), len(errors)), np.float32)
    for row, members in zip(inside, branches, strict=True):
        row[members] = 1
    rates = {kind: errors[kinds == kind].mean() for kind in np.unique(kinds)}
    expected = inside @ np.array([rates[kind] for kind in kinds], np.float32)
    total = float(errors.sum())
    real = _excess(inside @ errors.astype(np.float32), expected, total)
    dealt = _dealt(errors, kinds, patients, draws, np.random.default_rng(seed))
    largest = np.array([_excess(inside @ row, expected, total).max() for row in dealt])
    found: list[tuple[np.ndarray, float]] = []
    for place in np.argsort(-real):
        p = float((1 + (largest >= real[place]).sum()) / (1 + draws))
        if p > _LEVEL or len(found) == _MOST_GROUPS:
            break
        if not any(len(np.intersect1d(branches[place], other)) for other, _ in found):
            found.append((branches[place], p))
    return found


def _excess(seen: np.ndarray, expected: np.ndarray, total: float) -> np.ndarray:
    """Logarithm of how much likelier what was seen is where the branch has a rate of its own; 0 without an excess."""
    with np.errstate(divide="ignore", invalid="ignore"):
        own = seen * np.log(seen / expected)
        rest = np.where(total > seen, (total - seen) * np.log((total - seen) / (total - expected)), 0.0)
    return np.where((seen > expected) & (expected > 0), own + rest, 0.0)


def _dealt(
    errors: np.ndarray, kinds: np.ndarray, patients: np.ndarray, draws: int, random: np.random.Generator
) -> np.ndarray:
    """(draws, N) float32: the errors dealt out anew among patients who have as many scans of the same classes."""
    of_patient: dict[Any, list[int]] = {}
    for row in np.lexsort((np.arange(len(kinds)), kinds)):  # the scans of a patient in the order of their classes
        of_patient.setdefault(patients[row], []).append(int(row))
    alike: dict[tuple[str, ...], list[list[int]]] = {}
    for scans in of_patient.values():
        alike.setdefault(tuple(str(kinds[row]) for row in scans), []).append(scans)
    found = np.empty((draws, len(errors)), np.float32)
    for own in alike.values():
        rows = np.array(own)  # (patients, scans of each)
        values = errors[rows]
        for draw in found:
            draw[rows] = values[random.permutation(len(rows))]
    return found


# -- in words ---------------------------------------------------------------------------------------------------------


def _rate(errors: np.ndarray, patients: np.ndarray) -> dict[str, float | None]:
    told = bootstrap.means({"rate": errors.astype(float)})
    found: dict[str, float | None] = bootstrap.intervals(told, patients, 1000)["rate"]
    return found


def _named(classes: Sequence[str], label: Any) -> str:
    if np.ndim(label):
        return ", ".join(classes[int(k)] for k in np.flatnonzero(label)) or "none"
    return classes[int(label)]


def _shared(dataset: Dataset, places: np.ndarray, inside: np.ndarray) -> list[str]:
    """What most of a group have and few of the others: "9 of 12 are grey (31 % of the others)", most telling first."""
    cases = [dataset.cases[int(place)] for place in places]
    found: list[tuple[float, str]] = []
    values: dict[str, Sequence[str]] = dict(facets([case.fact for case in cases]))
    names = {name for case in cases for name in case.attributes}
    people = [case.patient for case in cases]
    for name in sorted(names, key=attributes.place):
        told = attributes.folded([case.attributes.get(name, "") for case in cases], people)
        title = attributes.title(name).lower()
        values[name] = [value if value.startswith(f"{title} ") else f"{title} {value}" for value in told]
    values |= _looks(dataset, places)
    for own in values.values():
        counts = Counter(value for value, there in zip(own, inside, strict=True) if there)
        for value, count in counts.most_common(1):
            share = count / int(inside.sum())
            others = sum(v == value for v, there in zip(own, inside, strict=True) if not there) / int((~inside).sum())
            if share >= _TELLING and share - others >= _BEYOND:
                words = f"{count} of {int(inside.sum())}: {value} ({others:.0%} of the others)"
                found.append((share - others, words.replace("%", " %")))
    return [words for _, words in sorted(found, reverse=True)[:4]]


def _looks(dataset: Dataset, places: np.ndarray) -> Mapping[str, Sequence[str]]:
    """How bright and how strong in contrast the pictures are beside each other, in thirds."""
    from builder.sides import in_grey, small

    thumbs = np.stack([small(in_grey(dataset.scan(int(place)))) for place in places]).astype(np.float32)
    told = {}
    for name, numbers, words in (
        ("brightness", thumbs.mean((1, 2)), ("dark pictures", "pictures of middle brightness", "bright pictures")),
        ("contrast", thumbs.std((1, 2)), ("pictures of little contrast", "of middle contrast", "of much contrast")),
    ):
        edges = np.quantile(numbers, (1 / 3, 2 / 3))
        told[name] = [words[int(third)] for third in np.searchsorted(edges, numbers, side="right")]
    return told


def _looked(asked: _Question) -> str:
    errors, num = int(asked.errors[0][1].sum()), len(asked.places)
    if asked.low is None:
        return f"{errors:,} of {num:,} scans are answered wrongly."
    marked = f"{asked.low['marked']} up to {asked.low['cut']:.2f}"
    return f"Of {num:,} scans the {errors:,} that were answered worst are looked at: {marked}."


def _words(groups: Sequence[Mapping[str, Any]], questions: Sequence[_Question]) -> list[str]:
    if not groups:
        seen = [
            f"{int(one.errors[0][1].sum())} {'worst answers' if one.low else 'errors'} on {len(one.places)} scans"
            for one in questions
        ]
        return [
            f"Its {' and its '.join(seen)} lie scattered among the kinds of scans: none holds more of them than "
            "chance would put there."
        ]
    low = next((one.low for one in questions if one.low), None)
    whats = {
        "errors": "wrong",
        "sure errors": f"wrong with at least {SURE:.0%} confidence".replace("%", " %"),
        "low": f"among the worst answered ({low['marked']} up to {low['cut']:.2f})" if low else "",
    }
    said = []
    for number, group in enumerate(groups, 1):
        rate = group["rate"]
        said.append(
            f"Group {number}: of {group['n']} scans of {group['patients']} patients that look alike "
            f"{100 * rate['value']:.0f} % are {whats[group['about']]} ({100 * rate['low']:.0f} to "
            f"{100 * rate['high']:.0f} %), of the others {100 * group['outside']:.0f} %; by chance so much happens in "
            f"{100 * group['p']:.1f} % of draws."
        )
    return said
