"""Is a map of where a network looked worth looking at? Tests that a map must pass before it is shown in colour.

A network must tell classes apart in the first place: one that guesses has nothing to explain. A map must change when
the weights are taken away: one that stays shows the edges of the picture and not what was learned (Adebayo et al.,
NeurIPS 2018; layers lose their weights from the top down). And it must stay when the scan moves by a few pixels
(Kindermans et al. 2019; Yeh et al., NeurIPS 2019). What passes all three may still be wrong: where lesions were drawn,
it is measured how much of the map lies on them (pointing game: Zhang et al., IJCV 126:1084, 2018).

Asked are validation scans, so that no look at the test side is spent on it.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from builder import blanking
from builder.data import Dataset
from builder.measures import bootstrap
from builder.measures.classes import Predictions, figures, rests_on, surprise
from builder.parting import dataset_of
from builder.predict import Predictor
from builder.runs import Run, write_atomic
from builder.saliency import METHODS, explain, refused
from builder.targets import Targets

FILE = "explained.json"
LAYERS = {"last": 0.0, "upper": 0.5, "all": 1.0}
"""How much of a network loses its weights, from the top down: its last layer, its upper half, all of it."""
ALIKE = 0.5
"""From which mean rank correlation on two maps count as the same."""
SHIFT = 0.02  # of the side
_ASKED = 5  # scans whose maps are compared
_LESIONS = 24  # scans with a lesion on which maps are laid
_GRID = 32  # maps are compared on so many places a side
_NEAR = 0.02  # of the side: a hit may lie so far outside of a lesion
_FEW = 5  # scans with a lesion below which nothing is said of overlap


class NotAsked(ValueError):
    """A run whose maps cannot be tested. Its text is one sentence for people."""


def examine(
    run: Run, home: Path, progress: Callable[[int, int], None] | None = None, resamples: int = 1000
) -> dict[str, Any]:
    """Tests what each method of `saliency` shows of a run; kept as `explained.json`.

    Returns, as JSON data: {run, checkpoint, n (scans asked), learned {ok, reason}, methods {name: {ok, reason,
    randomised {last, upper, all}, shifted: mean rank correlations, empty (share of scans without a map), lesions: {n,
    hit, inside {value, low, high}, area (share of the scan that is lesion: what a map that knows nothing reaches)} or
    None}}}.
    Raises:
        NotAsked: a task or a run without classes. UnknownDataset, PredictError: as elsewhere.
    """
    predictor = Predictor.open(run.folder)
    if words := refused(predictor.experiment, len(predictor.classes)):
        raise NotAsked(words)
    if predictor.experiment.data.fit == "patches":
        raise NotAsked("A network that was taught with patches sees no whole scan, so its maps cannot be tested here.")
    told = {"run": run.id, "checkpoint": predictor.weights_sha256}
    told |= of_predictor(
        predictor, dataset_of(run.folder, home, predictor.experiment.data.dataset), progress, resamples
    )
    write_atomic(run.folder / FILE, json.dumps(told))
    return told


def of_predictor(
    predictor: Predictor,
    dataset: Dataset,
    progress: Callable[[int, int], None] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """As `examine`, of a network with whatever weights it has; nothing is written."""
    asked = _Asked.of(predictor, dataset, resamples)
    methods = [name for name in METHODS if not refused(predictor.experiment, len(predictor.classes), name)]
    without = {name: randomised(predictor, share, asked.images, seed) for name, share in LAYERS.items()}
    total = len(methods) * (len(asked.images) * (2 + len(LAYERS)) + len(asked.marked))
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, total)

    found: dict[str, Any] = {}
    for name in methods:
        maps = []
        for image, top in zip(asked.images, asked.tops, strict=True):
            maps.append(explain(predictor, image, top, name))
            step()
        alike = {}
        for layers, other in without.items():
            pairs = []
            for image, top, own in zip(asked.images, asked.tops, maps, strict=True):
                pairs.append(_alike(own, explain(other, image, top, name)))
                step()
            alike[layers] = float(np.mean(pairs))
        shifted = []
        for image, top, own in zip(asked.images, asked.tops, maps, strict=True):
            shifted.append(_after_shift(predictor, image, top, name, own))
            step()
        empty = float(np.mean([own is None for own in maps]))
        moved = float(np.mean(shifted))
        row = {"randomised": alike, "shifted": moved, "empty": empty}
        reason = asked.reason or _reason(alike["all"], moved, empty)
        lesions = _on_lesions(predictor, asked, name, step, resamples)
        found[name] = {"ok": not reason, "reason": reason, **row, "lesions": lesions}
    learned = {"ok": not asked.reason, "reason": asked.reason}
    return {"n": len(asked.images), "learned": learned, "methods": found}


def kept(run: Run, checkpoint: str = "") -> dict[str, Any] | None:
    """What `examine` found last; None where it was not tested, or for other weights than `checkpoint` ("": any)."""
    try:
        found = json.loads((run.folder / FILE).read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or (checkpoint and found.get("checkpoint") != checkpoint):
        return None
    return found


def doubt(found: dict[str, Any] | None, method: str) -> str | None:
    """Why a method's maps are not to be believed, in a sentence; "" where they passed, None where nobody tested."""
    row = ((found or {}).get("methods") or {}).get(method)
    return None if row is None else str(row["reason"])


def _reason(randomised: float, shifted: float, empty: float) -> str:
    if empty > 0.5:
        return "On most scans it shows nothing that speaks for the answer."
    if randomised >= ALIKE:
        return (
            f"Its maps stay much the same with all weights taken away (rank correlation {randomised:.2f}): they show "
            "the picture, not what was learned."
        )
    if shifted < ALIKE:
        return (
            f"Its maps change where the scan moves by a few pixels (rank correlation {shifted:.2f}): what they show is "
            "chance."
        )
    return ""


# -- what is asked ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Asked:
    """What is asked about.

    Attributes:
        images: a few prepared scans of all classes. tops: the class that each is called. reason: why this network has
        nothing to explain, "" where it has. marked: prepared scans with a lesion; inside: (M, side, side) bool where it
        is; called: their classes; patients: (M,).
    """

    images: list[np.ndarray]
    tops: list[int]
    reason: str
    marked: list[np.ndarray]
    inside: np.ndarray
    called: list[int]
    patients: np.ndarray

    @classmethod
    def of(cls, predictor: Predictor, dataset: Dataset, resamples: int) -> _Asked:
        from builder import task

        experiment, kind = predictor.experiment, task.find(predictor.experiment.task)
        cases = dataset.indices("val")
        if not len(cases):
            raise NotAsked("There is no validation scan with a class to ask about.")
        prepared = dataset.prepared(experiment.data)
        known = ("class", "boxes", "mask") if experiment.data.layout == "maps" else ("class",)
        targets = Targets(dataset, experiment.data, prepared, cases, known)
        rows = [
            blanking.chances_of(predictor, kind, _images(prepared, targets.rows[k : k + 32]))
            for k in range(0, len(targets), 32)
        ]
        told, counts = answered = blanking.joined(rows)
        own, first = np.unique(targets.cases, return_index=True)
        assert targets.classes is not None
        by_case = blanking.of_cases(answered, targets.cases, own)
        answers = Predictions(by_case, targets.classes[first], dataset.patients[own], own)
        picked = _spread_over_classes(answers, _ASKED)
        telling = [_telling_row(targets.cases, counts, own[k]) for k in picked]
        images = [_images(prepared, targets.rows[k : k + 1])[0] for k in telling]
        marked, inside = np.zeros(0, np.int64), np.zeros((0, 1, 1), bool)
        if "boxes" in known:
            every, some = blanking.lesions(targets, experiment.data.size_px)
            marked = _one_a_case(targets.cases, every, some)[:_LESIONS]
            inside = every[marked]
        return cls(
            images=images,
            tops=[int(told[k].argmax()) for k in telling],
            reason=_guesses(answers, resamples),
            marked=[_images(prepared, targets.rows[k : k + 1])[0] for k in marked],
            inside=inside,
            called=[int(told[k].argmax()) for k in marked],
            patients=dataset.patients[targets.cases[marked]],
        )


def _images(prepared: Any, rows: np.ndarray) -> np.ndarray:
    found: np.ndarray = prepared.rows(rows).astype(np.float32) / np.float32(prepared.unit)
    return found


def _telling_row(cases: np.ndarray, counts: np.ndarray, case: int) -> int:
    """The row of a case that counts most, whose map a finding shows; of those that count alike the middle one."""
    rows = np.flatnonzero(cases == case)
    rows = rows[counts[rows] == counts[rows].max()]
    return int(rows[len(rows) // 2])


def _one_a_case(cases: np.ndarray, inside: np.ndarray, some: np.ndarray) -> np.ndarray:
    """Of every case with a lesion the row that shows most of it, evenly spread over the cases."""
    sizes = inside.sum((1, 2))
    best = [int(max(np.flatnonzero(cases == case), key=lambda k: sizes[k])) for case in np.unique(cases[some])]
    keep = np.unique(np.linspace(0, max(0, len(best) - 1), min(_LESIONS, len(best))).astype(int))
    return np.array(best, np.int64)[keep]


def _spread_over_classes(answers: Predictions, most: int) -> list[int]:
    """Positions of cases that are rightly answered where there are such, the classes in turn, of different patients."""
    called = answers.probabilities.argmax(1)
    rows = np.arange(len(called))
    right = answers.labels[rows, called] > 0 if answers.multi_label else called == answers.labels
    queues = [
        [int(k) for k in sorted(np.flatnonzero(called == c), key=lambda k: not right[k])]
        for c in range(answers.probabilities.shape[1])
    ]
    found: list[int] = []
    while len(found) < most and any(queues):
        for queue in queues:
            if queue and len(found) < most:
                found.append(queue.pop(0))
    return found


def _guesses(answers: Predictions, resamples: int) -> str:
    """Why a network has nothing to explain; "" where it tells the classes apart.

    Its answers must beat guessing (balanced accuracy, or the AUC with several labels) by more than chance, and its
    probabilities must surprise less than the mere shares of the classes do.
    """
    name = "auc" if answers.multi_label else "balanced_accuracy"
    least = 0.5 if answers.multi_label else 1 / answers.probabilities.shape[1]

    def told(weights: np.ndarray) -> dict[str, np.ndarray]:
        return {name: figures(answers, weights, ranked=answers.multi_label)[name]}

    figure = bootstrap.intervals(told, answers.patients, resamples, rests_on=rests_on(answers))[name]
    given = answers.labels if answers.multi_label else np.eye(answers.probabilities.shape[1])[answers.labels]
    shares = np.broadcast_to(given.mean(0), answers.probabilities.shape)
    idle = surprise(Predictions(shares, answers.labels, answers.patients, answers.cases))
    if figure["low"] is not None and figure["low"] > least and surprise(answers) < idle:
        return ""
    return (
        "On its validation scans it does not tell the classes apart better than guessing: there is nothing to explain."
    )


# -- the tests --------------------------------------------------------------------------------------------------------


def randomised(predictor: Predictor, share: float, images: list[np.ndarray], seed: int = 0) -> Predictor:
    """The run with the weights of its uppermost layers shuffled, each layer's among themselves; its scale stays.

    Args:
        share: of the layers that learn, from the top; 0 is the last one alone. images: on which the layers that keep a
            running mean see it anew, so that no layer goes silent for want of it.
    """
    import torch

    net = copy.deepcopy(predictor.net)
    layers = [m for m in net.modules() if any(True for _ in m.parameters(recurse=False))]
    upper = layers[::-1][: max(1, round(share * len(layers)))]
    chance = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in upper:
            for values in layer.parameters(recurse=False):
                flat = values.detach().flatten()
                values.copy_(flat[torch.randperm(len(flat), generator=chance).to(flat.device)].view_as(values))
    norms = [m for m in net.modules() if getattr(m, "running_mean", None) is not None]
    for norm in norms:
        norm.reset_running_stats()  # type: ignore[operator]
        norm.momentum = None  # type: ignore[assignment]
        norm.train()
    shuffled = replace(predictor, net=net, _grown={})
    if norms:
        with torch.no_grad():
            for start in range(0, len(images), 4):
                part = np.stack(images[start : start + 4])
                shuffled.run(np.concatenate([part, part[:, ..., ::-1]]))
        net.eval()
    return shuffled


def _alike(first: np.ndarray | None, second: np.ndarray | None) -> float:
    """Rank correlation (Spearman) of two maps on a coarse grid; 0 where one of them is not there or is even."""
    from scipy.stats import rankdata

    if first is None or second is None:
        return 0.0
    one, other = (rankdata(_coarse(values).ravel()) for values in (first, second))
    if not one.std() or not other.std():
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])


def _coarse(values: np.ndarray) -> np.ndarray:
    """Means over at most `_GRID` places a side; of several slices (S, ...)."""
    import torch
    from torch.nn import functional

    height, width = values.shape[-2:]
    flat = torch.from_numpy(np.ascontiguousarray(values, np.float32)).reshape(-1, 1, height, width)
    return functional.adaptive_avg_pool2d(flat, (min(_GRID, height), min(_GRID, width))).numpy()


def _after_shift(predictor: Predictor, image: np.ndarray, top: int, method: str, own: np.ndarray | None) -> float:
    """How like its map the map of the same scan is, moved a little down and right and the map moved back."""
    by = max(1, round(SHIFT * max(image.shape[-2:])))
    ahead, back = [(0, 0)] * (image.ndim - 2) + [(by, 0), (by, 0)], np.s_[..., by:, by:]
    moved = np.pad(image, ahead, mode="edge")[..., : image.shape[-2], : image.shape[-1]]
    again = explain(predictor, np.ascontiguousarray(moved), top, method)
    if own is None or again is None:
        return float(own is None and again is None)
    return _alike(own[..., :-by, :-by], again[back])


def _on_lesions(
    predictor: Predictor, asked: _Asked, method: str, step: Callable[[], None], resamples: int
) -> dict[str, Any] | None:
    """How much of the maps lies on drawn lesions; None where too few are drawn."""
    if len(asked.marked) < _FEW:
        return None
    from scipy.ndimage import binary_dilation

    hits, shares = np.zeros(len(asked.marked)), np.zeros(len(asked.marked))
    near = max(1, round(_NEAR * asked.inside.shape[-1]))
    for k, (image, top) in enumerate(zip(asked.marked, asked.called, strict=True)):
        heat = explain(predictor, image, top, method)
        step()
        if heat is None or not heat.any():
            continue
        wide = binary_dilation(asked.inside[k], iterations=near)
        hits[k] = wide.ravel()[int(heat.argmax())]
        shares[k] = float(heat[asked.inside[k]].sum() / heat.sum())
    found = bootstrap.intervals(bootstrap.means({"hit": hits, "inside": shares}), asked.patients, resamples)
    return {"n": len(hits), **found, "area": float(asked.inside.mean())}
