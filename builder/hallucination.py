"""Does an enhanced scan show what is not there, or hide what is? And does a diagnosis get better by it, or worse?

Whole slices of the validation side are restored and searched for structures that the good scan has not, and for those
that it has and the restored one has not (`measures.structures`), beside what a plain filter does. A run that tells
classes is asked about its own validation scans as they came and restored, and counted right or wrong.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from builder import task
from builder.calibrate import weights_of
from builder.measures import bootstrap
from builder.measures.baselines import bicubic, filtered
from builder.measures.structures import KINDS, MADE_UP, Blob, differing
from builder.opinion import OpinionRefused, as_scan
from builder.parting import dataset_of
from builder.predict import Predictor
from builder.restored import restored
from builder.runs import Run, write_atomic
from builder.scan import Scan
from builder.task import Restoration

FILE = "hallucination.json"
OPINIONS = "diagnosis.json"
SHOWN = 12  # structures in the gallery
_CASES, _SLICES = 60, 2
_MOST = 200  # scans that a diagnosis is asked about
_AROUND_PX = 32
_SIDE_PX = 160
_FILTER = ("gaussian", 1.0)  # beside which the network is counted: a plain, mild one
WAYS = {"output": "This network", "filter": "A mild Gaussian filter", "input": "The input as it is"}


class NotAudited(ValueError):
    """A run that cannot be asked like this. Its text is one sentence for people."""


# -- structures -------------------------------------------------------------------------------------------------------


def audit(
    run: Run, home: Path, progress: Callable[[int, int], None] | None = None, resamples: int = 1000
) -> dict[str, Any]:
    """Searches restored validation slices for structures made up or taken away; kept as `hallucination.json`, with a
    gallery of the strongest as `hallucination-<number>.png` (as it came, as it was made, as it should be).

    Returns, as JSON data: {run, checkpoint, n (slices), patients, unit, window [low, high], ways {way: {kind: number a
    slice {value, low, high}}}, slices (with any structure made up, a share {value, low, high}), shown [{kind, case,
    slice, y, x, diameter_px, diameter_mm, contrast, before, after, true}], verdicts [sentences]}.
    Raises:
        NotAudited: a run that restores no scans, or no validation scan with a good one. PredictError, UnknownDataset.
    """
    predictor = Predictor.open(run.folder)
    kind, experiment = task.find(predictor.experiment.task), predictor.experiment
    if kind.label_kind != "picture":
        raise NotAudited(f"{kind.title} makes no pictures, so there is nothing in them that could be made up.")
    dataset = dataset_of(run.folder, home, experiment.data.dataset)
    cases = kind.cases(dataset, experiment, "val")
    if not len(cases):
        raise NotAudited("There is no validation scan with a good one beside it.")
    cases = cases[np.unique(np.linspace(0, len(cases) - 1, min(_CASES, len(cases))).astype(int))]
    done, before = 0, -1
    counts: dict[str, list[list[int]]] = {way: [] for way in WAYS}
    patients: list[int] = []
    seen: list[tuple[Blob, Restoration]] = []
    for one in kind.restorations(predictor.asked, dataset, cases, _SLICES):
        came = bicubic(one.source, one.target.shape[-1] // one.source.shape[-1])
        made = {"output": one.output, "filter": filtered(came, *_FILTER), "input": came}
        target, source = one.target.mean(0), came.mean(0)
        for way, picture in made.items():
            blobs = differing(picture.mean(0), source, target, one.window, one.pixel_mm, one.counted)
            counts[way].append([sum(blob.kind == name for blob in blobs) for name in KINDS])
            if way == "output":
                seen += [(blob, one) for blob in blobs]
        patients.append(int(dataset.patients[one.case]))
        done, before = done + (one.case != before), one.case
        if progress:
            progress(min(done, len(cases)), len(cases))
    if not patients:
        raise NotAudited("There is no validation scan with a good one beside it.")
    shown = _strongest(seen)
    for number, (blob, one) in enumerate(shown):
        _draw(run.folder / f"hallucination-{number:02d}.png", blob, one)
    told = _told(counts, np.array(patients), resamples)
    ids = [{"case": dataset.cases[one.case].id, "slice": one.slice} for _, one in shown]
    found = {
        "run": run.id,
        "checkpoint": predictor.weights_sha256,
        "n": len(patients),
        "patients": len(set(patients)),
        "unit": "HU" if experiment.data.window == "ct full" else "",
        "window": list(seen[0][1].window) if seen else None,
        **told,
        "shown": [{**blob.plain(), **place} for (blob, _), place in zip(shown, ids, strict=True)],
    }
    found["verdicts"] = verdicts(found)
    write_atomic(run.folder / FILE, json.dumps(found))
    return found


def kept(run: Run) -> dict[str, Any] | None:
    """What `audit` found last; None where nobody asked about the present weights."""
    return _of_now(run, FILE)


def drawn(run: Run, number: int) -> Path:
    """The file with a structure of the gallery; perhaps it is not there."""
    return run.folder / f"hallucination-{number:02d}.png"


def _strongest(seen: Sequence[tuple[Blob, Restoration]]) -> list[tuple[Blob, Restoration]]:
    """Those for the gallery: what was made up first, of each kind the strongest, at most two of a slice."""
    order = list(KINDS)
    ranked = sorted(seen, key=lambda pair: (order.index(pair[0].kind), -abs(pair[0].contrast)))
    taken: dict[tuple[int, int, str], int] = {}
    of_kind: dict[str, int] = {}
    found = []
    for blob, one in ranked:
        place = (one.case, one.slice, blob.kind)
        if taken.get(place, 0) < 2 and of_kind.get(blob.kind, 0) < SHOWN // len(KINDS):
            taken[place] = taken.get(place, 0) + 1
            of_kind[blob.kind] = of_kind.get(blob.kind, 0) + 1
            found.append((blob, one))
    return found


def _draw(path: Path, blob: Blob, one: Restoration) -> None:
    """Writes what came, what was made and what is true around a structure, side by side, a ring around it."""
    from PIL import Image, ImageDraw

    low, high = one.window
    scale = one.target.shape[-1] // one.source.shape[-1]
    top = int(np.clip(blob.y - _AROUND_PX, 0, max(0, one.target.shape[-2] - 2 * _AROUND_PX)))
    left = int(np.clip(blob.x - _AROUND_PX, 0, max(0, one.target.shape[-1] - 2 * _AROUND_PX)))
    tiles = []
    for picture in (bicubic(one.source, scale), one.output, one.target):
        part = picture.mean(0)[top : top + 2 * _AROUND_PX, left : left + 2 * _AROUND_PX]
        grey = np.clip((part - low) / (high - low), 0, 1) * 255
        tile = Image.fromarray(grey.round().astype(np.uint8)).resize((_SIDE_PX, _SIDE_PX)).convert("RGB")
        across, down = _SIDE_PX / part.shape[1], _SIDE_PX / part.shape[0]
        x, y, radius = (blob.x - left + 0.5) * across, (blob.y - top + 0.5) * down, 0.9 * blob.diameter_px * across
        ImageDraw.Draw(tile).ellipse((x - radius, y - radius, x + radius, y + radius), outline=(255, 90, 95), width=2)
        tiles.append(np.asarray(tile))
    Image.fromarray(np.concatenate(tiles, 1)).save(path)


def _told(counts: dict[str, list[list[int]]], patients: np.ndarray, resamples: int) -> dict[str, Any]:
    table = {way: np.array(rows, np.float64) for way, rows in counts.items()}
    columns = {f"{way}/{kind}": rows[:, k] for way, rows in table.items() for k, kind in enumerate(KINDS)}
    columns["slices"] = (table["output"][:, list(KINDS).index(MADE_UP)] > 0).astype(np.float64)
    events = [name for name in columns if name != "slices"]
    told = bootstrap.means(columns)
    found = bootstrap.intervals(told, patients, resamples, shares=("slices",), events=events)
    ways = {way: {kind: found[f"{way}/{kind}"] for kind in KINDS} for way in table}
    return {"ways": ways, "slices": found["slices"]}


def verdicts(found: dict[str, Any]) -> list[str]:
    """What the numbers say, in sentences; one that acquits of nothing where they accuse of nothing."""
    words = {
        "made_up": "It shows structures that are neither in what came nor in the good scan",
        "from_noise": "It shows structures that it made of noise",
        "taken_away": "It hides structures that the good scan has",
    }
    said = []
    for kind, what in words.items():
        own, plain = (found["ways"][way][kind] for way in ("output", "filter"))
        if own["value"] is None or own["value"] <= 0:
            continue
        reach = "one patient: no interval" if own["low"] is None else f"{own['low']:.2g} to {own['high']:.2g}"
        many = f"{own['value']:.2g} a slice ({reach})"
        said.append(f"{what}: {many}; a mild plain filter {plain['value']:.2g}.")
    return said or [
        f"On {found['n']} validation slices no structure was made up or taken away that a reader could see (from "
        "5 % of the window on). That is no proof: smaller and fainter ones are not looked for."
    ]


# -- a diagnosis, asked on both sides -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sides:
    """A scan as it came (made poor where the run learned from that) and as it was restored."""

    before: Scan
    after: Scan


def diagnose(
    run: Run,
    judge: Run,
    home: Path,
    progress: Callable[[int, int], None] | None = None,
    resamples: int = bootstrap.RESAMPLES,
) -> dict[str, Any]:
    """Whether a run that tells classes is more often right on its validation scans once they are restored; kept as
    `diagnosis.json` in the folder of the restoring run.

    Where the restoring run learned from good scans that were made poor, the scans are made poor in the same way first.

    Returns, as JSON data: {run, judge, name, n, patients, refused, poor (whether they were made poor first), before,
    after (shares that are right), gain (after - before), changed (share of other answers) {value, low, high}, better,
    worse (numbers of scans), verdict, words}.
    Raises:
        NotAudited: a run that restores no scans, a judge without classes or with several labels, or without labelled
            validation scans; no scan that both could be asked about. PredictError, UnknownDataset.
    """
    restorer, doctor = Predictor.open(run.folder), Predictor.open(judge.folder)
    if task.find(restorer.experiment.task).label_kind != "picture":
        raise NotAudited(f"The run {restorer.experiment.name!r} restores no scans; name one of image enhancement.")
    if restorer.experiment.data.scale > 1 and restorer.experiment.data.degrade.name != "none":
        raise NotAudited(
            "A run that makes scans finer was taught with smaller ones; a diagnosis cannot be asked about these."
        )
    if doctor.multi_label or len(doctor.classes) < 2 or "class" not in task.find(doctor.experiment.task).learns:
        raise NotAudited(f"The run {doctor.experiment.name!r} does not name one class of several for a scan.")
    dataset = dataset_of(judge.folder, home, doctor.experiment.data.dataset)
    cases = dataset.indices("val")
    if not len(cases):
        raise NotAudited("The diagnosis run has no validation scan whose class is known.")
    cases = cases[np.unique(np.linspace(0, len(cases) - 1, min(_MOST, len(cases))).astype(int))]
    rows, asked, refused, poor = [], [], 0, restorer.experiment.data.degrade.name != "none"
    for number, case in enumerate(cases.tolist()):
        try:
            sides = _sides(restorer, dataset.scan(case), case)
            answers = [doctor.finding(scan).likeliest for scan in (sides.before, sides.after)]
        except ValueError:
            refused += 1
            continue
        finally:
            if progress:
                progress(number + 1, len(cases))
        truth = dataset.classes[int(dataset.labels[case])]
        rows.append([answers[0] == truth, answers[1] == truth, answers[0] != answers[1]])
        asked.append(case)
    if not rows:
        raise NotAudited("None of the diagnosis run's validation scans can be restored by this run.")
    found = _compared(np.array(rows, np.float64), dataset.patients[np.array(asked)], resamples)
    told = {
        "run": run.id,
        "checkpoint": restorer.weights_sha256,
        "judge": judge.id,
        "name": doctor.experiment.name,
        "n": len(rows),
        "patients": len(np.unique(dataset.patients[np.array(asked)])),
        "refused": refused,
        "poor": poor,
        **found,
    }
    write_atomic(run.folder / OPINIONS, json.dumps(told))
    return told


def diagnosed(run: Run) -> dict[str, Any] | None:
    """What `diagnose` found last; None where nobody asked about the present weights."""
    return _of_now(run, OPINIONS)


def _of_now(run: Run, file: str) -> dict[str, Any] | None:
    found = _read(run.folder / file)
    return found if found is not None and found.get("checkpoint") == weights_of(run) else None


def _sides(restorer: Predictor, scan: Scan, seed: int) -> Sides:
    before = _made_poor(restorer, scan, seed) if restorer.experiment.data.degrade.name != "none" else scan
    enhanced = restorer.finding(before).found.enhanced
    if enhanced is None:
        raise OpinionRefused("This run restores no scans.")
    return Sides(before, as_scan(before, enhanced))


def _made_poor(restorer: Predictor, scan: Scan, seed: int) -> Scan:
    """The scan as the restoring run's training made scans poor, in its stored values and on its own grid."""
    import torch

    from builder.degrade import degrade

    data = restorer.experiment.data
    pictures = []
    for place in range(len(scan.pixels)):
        good = torch.from_numpy(np.ascontiguousarray(restorer.prepared(scan, place)[None]))
        pictures.append(degrade(good, data.degrade, [1_000_003 * seed + place])[0].numpy())
    return replace(scan, pixels=restored(scan, pictures, data).pixels)


def _compared(rows: np.ndarray, patients: np.ndarray, resamples: int) -> dict[str, Any]:
    """Figures of (n, 3): right before, right after, another answer."""
    columns = {"before": rows[:, 0], "after": rows[:, 1], "changed": rows[:, 2], "gain": rows[:, 1] - rows[:, 0]}
    found = bootstrap.intervals(bootstrap.means(columns), patients, resamples, shares=("before", "after", "changed"))
    gain = found["gain"]
    better, worse = int((columns["gain"] > 0).sum()), int((columns["gain"] < 0).sum())
    shown = gain["low"] is not None and (gain["low"] > 0 or gain["high"] < 0)
    verdict = ("better" if gain["value"] > 0 else "worse") if shown else "not shown"
    words = {
        "better": "The diagnosis is more often right on restored scans.",
        "worse": "The diagnosis is less often right on restored scans: do not restore scans for it.",
        "not shown": "The diagnosis is not shown to be right more often, or less often, on restored scans.",
    }[verdict]
    low, high = gain["low"], gain["high"]
    reach = "one patient: no interval" if low is None else f"{100 * low:+.1f} to {100 * high:+.1f}"
    words += (
        f" Right before {100 * found['before']['value']:.1f} of 100, after {100 * found['after']['value']:.1f}: "
        f"{100 * gain['value']:+.1f} points ({reach}). It changes its mind on "
        f"{100 * found['changed']['value']:.1f} of 100 scans: {better} turn right, {worse} turn wrong."
    )
    return {**found, "better": better, "worse": worse, "verdict": verdict, "words": words}


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
