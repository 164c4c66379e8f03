"""How well a run tells types and outlines: what it answered on the cases of a split, and the figures made of that."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from builder.data import pixel_aspect
from builder.measures import outlines
from builder.measures.classes import Predictions
from builder.measures.classes import report as report_types
from builder.task import Asked, Examined
from tasks.tumor_answers import THRESHOLD, of_case, on_grid, seen_of, types_of

if TYPE_CHECKING:
    from builder.data import Dataset

_AT_ONCE = 16  # pictures asked about together


def examined(
    asked: Asked,
    dataset: Dataset,
    cases: np.ndarray,
    progress: Callable[[int, int], None] | None = None,
) -> Examined:
    """{probabilities (N, K), labels (N,), patients (N,), cases (N,) ids, masked (N,) bool} and the arrays of
    `measures.outlines.Outlines` of the masked cases, measured on their own grid; of scans of which the network sees
    one of several slices without volumes."""
    data = asked.experiment.data
    prepared = dataset.prepared(data)
    outlined = asked.outlined
    types, compared = [], []
    masked = np.zeros(len(cases), bool)
    step = 1 if data.slices == "each" or data.blocks else _AT_ONCE
    for start in range(0, len(cases), step):
        part = cases[start : start + step]
        rows = prepared.rows_of(part)
        images = prepared.volume(rows[0])[None] if data.blocks else prepared.rows(rows)
        answers = asked.answers(images.astype(np.float32) / np.float32(prepared.unit))
        owners = np.array([prepared.place_of(row)[0] for row in rows])
        for k, case in enumerate(part):
            own = [answers[row] for row in np.flatnonzero(owners == case)]
            types.append(of_case(own, outlined))
            mask = dataset.mask(int(case)) if outlined else None
            if mask is None:
                continue
            masked[start + k] = True
            known = dataset.cases[int(case)]
            chance = on_grid(data, own, mask.shape, pixel_aspect(known))
            seen = list(seen_of(data, len(mask)))
            depth, row, column = known.spacing_mm
            spacing = depth if len(seen) == len(mask) else None, row, column  # of some of its slices there is no volume
            compared.append(outlines.compare(chance[seen] >= THRESHOLD, mask[seen] > 0, spacing))
        if progress:
            progress(min(start + step, len(cases)), len(cases))
    told = outlines.Outlines.of(compared, dataset.patients[cases][masked]).arrays()
    return {
        "probabilities": np.stack(types) if types else np.zeros((0, types_of(len(asked.classes)))),
        "labels": dataset.labels[cases],
        "patients": dataset.patients[cases],
        "cases": np.array([dataset.cases[i].id for i in cases]),
        "masked": masked,
        **{f"outline_{name}": values for name, values in told.items()},
    }


def report(examined: Examined, classes: tuple[str, ...], resamples: int, seed: int = 0) -> dict[str, Any]:
    """{n, patients, metrics, interval, notes} over all cases; of those with an outline {outlines: what
    `measures.outlines.report` tells beside the metrics}, of those with a type all that `measures.classes.report`
    tells."""
    told: dict[str, Any] = {"metrics": {}, "notes": []}
    masked = examined["masked"]
    if masked.any():
        part = outlines.report(outlined(examined), resamples, seed)
        ids = examined["cases"][masked]
        for row in (*part["worst"], *part["false_positives"]):
            row["case"] = str(ids[row["case"]])
        told["metrics"] |= part.pop("metrics")
        told["notes"] += part.pop("notes")
        told["interval"] = part.pop("interval")
        told["outlines"] = part
    typed = examined["labels"] >= 0
    if types_of(len(classes)) and typed.any():
        rows = [examined[name][typed] for name in ("probabilities", "labels", "patients", "cases")]
        part = report_types(Predictions(*rows), classes, resamples, seed)
        told["metrics"] |= part.pop("metrics")
        told["notes"] += part.pop("notes")
        told = {**part, **told, "typed": part["n"]}
    return {
        **told,
        "n": len(masked),
        "patients": len(np.unique(examined["patients"])),
        "classes": list(classes),
    }


def outlined(examined: Examined) -> outlines.Outlines:
    """The outlines among what `examined` kept."""
    return outlines.Outlines(**{n.removeprefix("outline_"): v for n, v in examined.items() if n.startswith("outline_")})
