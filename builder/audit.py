"""The audit of a data set: what leaks between the sides, what gives the label away, which labels look wrong.

It is made once for a set of scans and labels and kept in the data set's folder (`audit.json`); the pairs of almost
equal pictures that it finds beside those of the import are kept for good (`copies.json`) and count in every later
check, figure and stamp. Of the test side only the pictures are compared with the others; where one is in a pair, its
label is told with it.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from builder import attributes, baseline, leaks, outside, traces
from builder.data import Dataset, copies
from builder.duplicates import Pair, pairs
from builder.fingerprint import Fact, facets
from builder.runs import write_atomic
from builder.sides import MIN_ALIKE_PX, in_grey, small
from builder.splits import join

__all__ = ["audit", "kept"]

FILE = "audit.json"
_VERSION = 1
MOST = 200
"""Pairs and suspects that are told one by one; all are counted."""
NOT_LOOKED = "The network's features were not asked for."
"""Why an audit that did not look at features says nothing of them."""
_SPOKEN = {
    "sex": "The patient's sex",
    "age": "The patient's age",
    "site": "The site",
    "scanner": "The scanner",
    "field": "The field strength",
    "voltage": "The tube voltage",
    "source": "The source folder",
}
_SEEN = 0.9
"""Agreement (cosine) of frozen features from which two pictures of different sides count as alike to a network."""


def kept(dataset: Dataset) -> dict[str, Any] | None:
    """What the last audit of these scans found, with `relabelled` where labels were corrected since; None where there
    is none, or the scans have changed."""
    try:
        found = json.loads((dataset.folder / FILE).read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict):
        return None
    now, then = _key(dataset), str(found.get("key"))
    if then.rpartition(" ")[0] != now.rpartition(" ")[0]:
        return None
    return {**found, "relabelled": then != now}


def audit(
    dataset: Dataset, *, look: bool = True, told: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, Any]:
    """Audits a data set and keeps what was found.

    Args:
        look: also ask frozen features (seconds a hundred scans, once): the naive split, suspects, likeness to a
            network. Without it these are None.
        told: is given (scans done, scans in all).

    Returns, as JSON data: {key, n, leak {stamp, patients (that lie on several sides), counts {same, near, turned, seen,
        across, conflicts}, pairs [{one, other (case numbers), kind, words, likeness, sides, labels, across,
        conflict}]}, traces {made, border, and those of sex, age, site, ... that vary: see `traces.asked`}, looked
        (whether features were asked), naive (see `outside.naive`) or {why}, suspects {n, of, cases [{index, case,
        given, says, sure, own}]} or {why}, verdicts [{grave, about, words}], seconds, at}.
    """
    began = time.monotonic()
    thumbs, borders = _pictures(dataset, told)
    features = baseline.features_of(dataset, told) if look and _tells_classes(dataset) else None
    found = _pairs(dataset, thumbs)
    if features is not None:
        found += _seen_alike(dataset, features, found)
    _keep_copies(dataset, found)
    dataset.refresh()
    groups = np.array(
        join(len(dataset), dataset.groups.tolist(), pairs=[(pair["one"], pair["other"]) for pair in found])
    )
    learned = np.concatenate([dataset.indices("train"), dataset.indices("val")])
    counts = {kind: sum(pair["kind"] == kind for pair in found) for kind in ("same", "near", "turned", "seen")}
    counts |= {
        flag: sum(pair[name] for pair in found) for flag, name in (("across", "across"), ("conflicts", "conflict"))
    }
    result = {
        "key": _key(dataset),
        "n": len(dataset),
        "leak": {
            "stamp": leaks.of_dataset(dataset).stamp,
            "patients": dataset.fingerprint.num_patients_astride,
            "counts": counts,
            "pairs": _telling_first(found)[:MOST],
        },
        "traces": _traces(dataset, learned, groups, borders),
        "looked": features is not None,
        "naive": _naive(dataset, learned, groups, features),
        "suspects": _suspects(dataset, learned, groups, features),
    }
    result |= {"verdicts": _verdicts(result), "seconds": round(time.monotonic() - began, 2), "at": time.time()}
    write_atomic(dataset.folder / FILE, json.dumps(result))
    return result


def _telling_first(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What lies on two sides first, then what has two labels, the most alike first, the kinds taking turns."""
    place: dict[tuple[Any, ...], int] = {}
    turns: list[tuple[tuple[bool, bool], int, int, dict[str, Any]]] = []
    for pair in sorted(found, key=lambda pair: -pair["likeness"]):
        own = (not pair["across"], not pair["conflict"])
        place[own, pair["kind"]] = place.get((own, pair["kind"]), -1) + 1
        turns.append((own, place[own, pair["kind"]], len(turns), pair))
    return [turn[3] for turn in sorted(turns, key=lambda turn: turn[:3])]


def _key(dataset: Dataset) -> str:
    """Changes with the scans and their labels; sides never change."""
    return f"{_VERSION} {dataset.id} {len(dataset)} {dataset.edited}"


def _tells_classes(dataset: Dataset) -> bool:
    return len(dataset.classes) > 1 and any(case.label is not None for case in dataset.cases)


# -- pairs ------------------------------------------------------------------------------------------------------------


def _pictures(dataset: Dataset, told: Callable[[int, int], None]) -> tuple[np.ndarray, np.ndarray]:
    """Thumbnails uint8 (N, 64, 64) and what the borders of the pictures show, float32 (N, F)."""
    thumbs = np.zeros((len(dataset), 64, 64), np.uint8)
    borders = []
    for index in range(len(dataset)):
        shown = in_grey(dataset.scan(index))
        thumbs[index] = small(shown)
        borders.append(traces.border(thumbs[index], shown))
        told(index + 1, len(dataset))
    return thumbs, np.stack(borders)


def _pairs(dataset: Dataset, thumbs: np.ndarray) -> list[dict[str, Any]]:
    """Equal and almost equal pictures: those of the import and those that a thorough look finds."""
    cases = dataset.cases
    found: dict[tuple[int, int], tuple[str, str, float]] = {}
    first: dict[str, int] = {}
    for index, case in enumerate(cases):
        if case.value_range[0] == case.value_range[1]:
            continue  # blank pictures are nobody's
        one = first.setdefault(case.content, index)
        if one != index:
            found[one, index] = ("same", "the same picture", 1.0)
    large = np.array([i for i, case in enumerate(cases) if min(case.shape[2:]) >= MIN_ALIKE_PX], np.int64)
    if len(large):
        with tempfile.TemporaryDirectory(dir=dataset.folder, prefix=".audit-") as scratch:
            for pair in pairs(thumbs[large], Path(scratch)):
                place = int(large[pair.one]), int(large[pair.other])
                found.setdefault(place, (_kind(pair), pair.words, pair.likeness))
    for index, case in enumerate(cases):
        one = first.get(case.alike, index)
        if one != index and case.content != case.alike and (one, index) not in found:
            found[one, index] = ("near", "almost the same", 0.8)
    return [_told(dataset, one, other, *what) for (one, other), what in found.items()]


def _kind(pair: Pair) -> str:
    return "near" if pair.words == "almost the same" else "turned"


def _told(dataset: Dataset, one: int, other: int, kind: str, words: str, likeness: float) -> dict[str, Any]:
    both = dataset.cases[one], dataset.cases[other]
    labels = [_label(dataset, case.label) for case in both]
    return {
        "one": one,
        "other": other,
        "kind": kind,
        "words": words,
        "likeness": round(likeness, 3),
        "sides": [case.split for case in both],
        "labels": labels,
        "across": both[0].split != both[1].split,
        "conflict": None not in (both[0].label, both[1].label) and labels[0] != labels[1],
    }


def _label(dataset: Dataset, label: int | tuple[int, ...] | None) -> str:
    if label is None:
        return ""
    return ", ".join(dataset.classes[k] for k in (label if isinstance(label, tuple) else (label,))) or "none"


def _seen_alike(dataset: Dataset, features: np.ndarray, known: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Pictures of different sides and patients that a network can hardly tell apart, beside those known."""
    unit = features - features.mean(0)
    unit = unit / np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-9)
    there = {(pair["one"], pair["other"]) for pair in known}
    found = []
    sides, patients = dataset.splits, dataset.patients
    for start in range(0, len(unit), 512):
        rows = np.arange(start, min(start + 512, len(unit)))
        near = unit[rows] @ unit.T
        apart = (sides[rows, None] != sides[None]) & (patients[rows, None] != patients[None])
        for row, column in zip(*np.nonzero((near >= _SEEN) & apart), strict=True):
            one, other = int(rows[row]), int(column)
            if one < other and (one, other) not in there:
                words = "alike to a network"
                found.append(_told(dataset, one, other, "seen", words, min(1.0, float(near[row, column]))))
    return found


def _keep_copies(dataset: Dataset, found: Sequence[dict[str, Any]]) -> None:
    """Adds what the import did not know to what is kept; likeness to a network alone is no proof and is not."""
    known = set(copies(dataset.folder))
    alike = [case.alike for case in dataset.cases]
    fresh = {
        (pair["one"], pair["other"])
        for pair in found
        if pair["kind"] in ("near", "turned") and alike[pair["one"]] != alike[pair["other"]]
    }
    if fresh - known:
        write_atomic(dataset.folder / "copies.json", json.dumps(sorted(known | fresh)))


# -- what gives the label away, and what looks wrong ------------------------------------------------------------------


def _traces(dataset: Dataset, learned: np.ndarray, groups: np.ndarray, borders: np.ndarray) -> dict[str, Any]:
    if dataset.multi_label or not _tells_classes(dataset):
        return {}
    labels, patients = dataset.labels[learned], dataset.patients[learned]
    facts = [dataset.cases[int(index)].fact for index in learned]
    shared = (labels, groups[learned], patients, dataset.classes)
    return {
        "made": traces.asked(
            "How a file was made (colour, size, bit depth, format)", traces.table(facets(facts)), *shared
        ),
        "border": traces.asked("The border of a picture with what is written there", borders[learned], *shared),
        **{name: _alone(name, values, shared) for name, values in _told_of(facts).items()},
    }


def _alone(
    name: str, values: Sequence[str], shared: tuple[np.ndarray, np.ndarray, np.ndarray, Sequence[str]]
) -> dict[str, Any]:
    """What one attribute alone tells of the class."""
    spoken = _SPOKEN.get(name, f"{attributes.title(name)} of a scan")
    meaning = traces.OF_PEOPLE if name in ("sex", "age") else traces.OF_MACHINES
    return traces.asked(spoken, traces.table({name: values}), *shared, meaning)


def _told_of(facts: Sequence[Fact]) -> dict[str, list[str]]:
    """{attribute: value of each scan, "" where its file does not say}: that it is missing may tell the class, too."""
    names = {name for fact in facts for name in fact.attributes}
    found = {name: [fact.attributes.get(name, "") for fact in facts] for name in sorted(names, key=attributes.place)}
    return {name: values for name, values in found.items() if len(set(values)) > 1}


def _unasked(dataset: Dataset, learned: np.ndarray, groups: np.ndarray, features: np.ndarray | None) -> str:
    """Why frozen features are not asked; "" where they are."""
    if dataset.multi_label or not _tells_classes(dataset):
        return "It takes scans that carry one class each."
    if not outside.enough(dataset.labels[learned], groups[learned]):
        return "Too few patients of two classes to hold some back."
    return NOT_LOOKED if features is None else ""


def _naive(dataset: Dataset, learned: np.ndarray, groups: np.ndarray, features: np.ndarray | None) -> dict[str, Any]:
    if why := _unasked(dataset, learned, groups, features):
        return {"why": why}
    assert features is not None
    return outside.naive(outside.main_axes(features[learned]), dataset.labels[learned], groups[learned])


def _suspects(dataset: Dataset, learned: np.ndarray, groups: np.ndarray, features: np.ndarray | None) -> dict[str, Any]:
    if why := _unasked(dataset, learned, groups, features):
        return {"why": why}
    assert features is not None
    labels = dataset.labels[learned]
    axes = outside.main_axes(features[learned])
    chances = outside.out_of_fold(axes, labels, groups[learned], len(dataset.classes), strength=outside.SURER)
    found = outside.suspects(chances, labels)
    cases = [
        {
            "index": int(learned[one["row"]]),
            "case": dataset.cases[int(learned[one["row"]])].id,
            "given": dataset.classes[one["given"]],
            "says": dataset.classes[one["says"]],
            "sure": one["sure"],
            "own": one["own"],
        }
        for one in found[:MOST]
    ]
    return {"n": len(found), "of": len(learned), "cases": cases}


def _verdicts(found: dict[str, Any]) -> list[dict[str, Any]]:
    """What the audit says in sentences, the gravest first."""
    leak, said = found["leak"], []
    counts = leak["counts"]
    if leak["stamp"]:
        said.append((True, "leak", leak["stamp"]))
    else:
        said.append((False, "leak", "No patient and no picture lies on two sides of the split."))
    if counts["conflicts"]:
        num = counts["conflicts"]
        words = "pairs of (almost) equal pictures carry" if num > 1 else "pair of (almost) equal pictures carries"
        said.append(
            (True, "conflict", f"{num} {words} two labels: one of each must be wrong, or one lesion is in two classes.")
        )
    if counts["seen"]:
        num = counts["seen"]
        words = "pairs of pictures on different sides are" if num > 1 else "pair of pictures on different sides is"
        said.append((False, "seen", f"{num} {words} nearly the same to a network: look whether they show one person."))
    silent = []
    for name, trace in found["traces"].items():
        if trace["tells"] == "nothing" and name not in ("made", "border"):
            silent.append((attributes.title(name).lower(), trace["auc"]))
        else:
            said.append((trace["tells"] != "nothing", "trace", trace["words"]))
    if known := [f"{name} (AUC {auc['value']:.2f})" for name, auc in silent if auc and auc["value"] is not None]:
        said.append((False, "trace", f"Alone, these do not tell the classes apart: {', '.join(known)}."))
    if unknown := [name for name, auc in silent if not auc or auc["value"] is None]:
        said.append((False, "trace", f"Too few patients of two classes to ask: {', '.join(unknown)}."))
    naive = found["naive"]
    if naive.get("gain"):
        said.append((False, "naive", _naive_words(naive)))
    elif naive.get("differs") is False:
        words = "Every scan counts as a patient of its own, so a random split and an honest one are the same here."
        said.append((False, "naive", words))
    suspects = found["suspects"]
    if suspects.get("n"):
        many = f"{suspects['n']} labels are" if suspects["n"] > 1 else "One label is"
        said.append(
            (
                False,
                "suspects",
                f"{many} worth a second look, of {suspects['of']:,}: a rule that never saw them says otherwise.",
            )
        )
    return [
        {"grave": grave, "about": about, "words": words} for grave, about, words in sorted(said, key=lambda s: not s[0])
    ]


def _naive_words(naive: dict[str, Any]) -> str:
    claimed, honest, gain = naive["naive"]["value"], naive["honest"]["value"], naive["gain"]
    told = (
        f"A random split would have claimed an AUC of {claimed:.2f}; kept apart by patient and copy it is {honest:.2f}"
    )
    if gain["low"] > 0:
        return f"{told}: {gain['value']:.2f} of it is memory ({gain['low']:.2f} to {gain['high']:.2f})."
    return f"{told}: with these scans the difference is not more than chance."
