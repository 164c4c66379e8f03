"""Tumour diagnosis: what kind of tumour a scan shows, and where it ends, in one network.

The output is one row: K type scores, then the outline's logits (see `blocks.head.TypeAndOutline`). K is the number of
classes, or 0 where the data set has fewer than two: then there is only the outline. The outline is binary, inside the
tumour or not: several structures in a mask count as one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from builder.data import pixel_aspect
from builder.measures import outlines
from builder.measures.classes import Predictions
from builder.measures.classes import report as report_types
from builder.measures.extent import extent
from builder.spec import Data, Experiment, Problem
from builder.targets import Target, Targets
from builder.task import Asked, Examined, Found, Objective, Shown, Task
from builder.views import View, back
from tasks import tumor_checks, tumor_phantoms, tumor_starters
from tasks.tumor_answers import (
    THRESHOLD,
    Answer,
    Showing,
    of_case,
    on_grid,
    parted,
    seen_of,
    taught_outlines,
    teaching,
    type_scores,
    types_of,
)

if TYPE_CHECKING:
    import torch

    from builder.augment import Augment
    from builder.data import Dataset
    from builder.scan import Scan

_AT_ONCE = 16  # pictures asked about together


class TumorDiagnosis(Task):
    """Images -> types and outlines. Output: (B, K + H * W), logits of the types, then of every pixel."""

    name = "tumor_diagnosis"
    title = "Tumor diagnosis"
    label_kind = "outline"
    learns = ("class", "mask")
    headline = "dice"
    metrics = {"dice": True, "iou": True, "auc": True, "balanced_accuracy": True, "loss": False}
    losses = ("usual", "dice_ce", "dice_focal", "tversky", "lovasz")
    leaves_out = {
        "data.slices": ("mean", "maximum", "series", "volume"),
        "data.fit": ("patches",),
        "training.border": ("edge", "mirror"),
        "training.test_time": ("small turns",),
    }
    says = "type_and_outline"
    activated = "(torch.cat([scores[:, :TYPES].softmax(1), scores[:, TYPES:].sigmoid()], 1))"
    activated_keras = (
        "(ops.concatenate([ops.softmax(scores[:, :TYPES], axis=1), ops.sigmoid(scores[:, TYPES:])], axis=1) if TYPES "
        "else ops.sigmoid(scores))"
    )
    own = {"THRESHOLD": THRESHOLD, "Answer": Answer, "of_case": of_case, "type_scores": type_scores}
    demos = {"pictures": "small-unet", "volumes": "unet-neighbours"}
    when = tumor_starters.WHEN

    # -- what the network must be ---------------------------------------------------------------------------------

    def head(self, data: Data, num_classes: int) -> tuple[int | None, ...]:
        """One score for each type, where there are two and more, and one for each pixel."""
        return (types_of(num_classes) + data.size_px**2,)

    def wanted(self, data: Data, num_classes: int) -> str:
        """In words, for a network that ends in something else."""
        types, side = types_of(num_classes), data.size_px
        scores = f"{types} type scores and " if types else ""
        return (
            f"this task needs {scores}an outline of {side} x {side} pixels in one row: end it in the layer Type and "
            "outline."
        )

    def endings(self, experiment: Experiment, num_classes: int) -> list[tuple[str, Experiment]]:
        """As `tumor_checks.endings`."""
        return tumor_checks.endings(experiment, num_classes)

    # -- learning -------------------------------------------------------------------------------------------------

    def cases(self, dataset: Dataset, experiment: Experiment, split: str) -> np.ndarray:
        """Those with a type or an outline: each is used for what it has."""
        typed = dataset.indices(split) if types_of(len(dataset.classes)) else np.zeros(0, np.int64)
        return np.union1d(typed, dataset.indices(split, by="mask")).astype(np.int64)

    def objective(self, experiment: Experiment, model: Any, train: Targets) -> Objective:
        """Loss of the outlines + `type_weight` * cross-entropy of the types, each over the scans that have them."""
        import torch

        from builder import losses

        assert train.classes is not None and train.masks is not None and train.masked is not None
        outline = losses.of_outlines(experiment.training.loss)
        shows = Showing(train.dataset)
        taught = train.classes[teaching(train.classes, train.masks, train.masked, train.cases, shows)]
        plain = experiment.training.model_copy(update={"loss": experiment.training.loss.model_copy(update=_USUAL)})
        kinds = None
        if types_of(train.num_classes) and len(taught):
            kinds = losses.of_classes(plain, taught, train.num_classes, False)

        class Lesson(torch.nn.Module):
            """A module, so that the weights of the classes go to the device with it."""

            def __init__(self) -> None:
                super().__init__()
                self.outline, self.kinds = outline, kinds

            def forward(self, output: torch.Tensor, target: Target) -> torch.Tensor:
                assert target.classes is not None and target.masks is not None and target.masked is not None
                scores, pixels = parted(output)
                loss = output.sum() * 0.0  # a batch may have nothing to teach
                if target.masked.any():
                    loss = loss + self.outline(pixels[target.masked][:, None], target.masks[target.masked])
                if self.kinds is not None:
                    assert target.cases is not None
                    known = (target.classes, target.masks, target.masked, target.cases)
                    given, masks, masked, cases = (tensor.cpu().numpy() for tensor in known)
                    rows = torch.from_numpy(teaching(given, masks, masked, cases, shows)).to(output.device)
                    if rows.any():
                        weight = float(self.outline.type_weight)  # type: ignore[arg-type]
                        loss = loss + weight * self.kinds(scores[rows], target.classes[rows])
                return loss

        return Lesson()

    def vary(
        self, experiment: Experiment, images: torch.Tensor, target: Target, augment: Augment, chance: torch.Generator
    ) -> tuple[torch.Tensor, Target]:
        """The outlines move with the pictures."""
        moved = augment(images, chance, masks=target.masks)
        return moved.images, target.but(masks=moved.masks)

    # -- judging while it learns ----------------------------------------------------------------------------------

    def activate(self, output: torch.Tensor, multi_label: bool) -> torch.Tensor:
        """The same row with probabilities: softmax over the types, sigmoid of every pixel."""
        import torch

        scores, pixels = parted(output)
        inside = pixels.flatten(1).sigmoid()
        return torch.cat([scores.softmax(1), inside], 1) if scores.shape[1] else inside

    def evidence(self, output: torch.Tensor) -> torch.Tensor | None:
        """The scores of the types (B, K)."""
        scores, _ = parted(output)
        return scores if scores.shape[1] else None

    def answers(self, experiment: Experiment, model: Any, output: torch.Tensor, multi_label: bool) -> list[Any]:
        """An `Answer` for each row."""
        scores, pixels = parted(output.float())
        types = (scores.softmax(1) if scores.shape[1] else scores).cpu().numpy()
        inside = pixels.sigmoid().half().cpu().numpy()
        return [Answer(*row) for row in zip(types, inside, strict=True)]

    def together(self, experiment: Experiment, shown: Sequence[View], answers: Sequence[Sequence[Any]]) -> list[Any]:
        """An `Answer` for each row: the mean of the types, and of the chances that each pixel lies inside."""
        found = []
        for told in zip(*answers, strict=True):
            laid = [back(answer.inside.astype(np.float32), view) for answer, view in zip(told, shown, strict=True)]
            types = np.stack([answer.types for answer in told]).mean(0, dtype=np.float32)
            found.append(Answer(types, np.stack(laid).mean(0).astype(np.float16)))
        return found

    def scores(self, experiment: Experiment, answers: Sequence[Any], targets: Targets) -> dict[str, float]:
        """dice and iou: means over the cases that have a tumour, of all their slices together, in prepared pixels; auc
        and balanced_accuracy of the types, case by case."""
        assert targets.classes is not None and targets.masks is not None and targets.masked is not None
        outlined = bool(targets.masked.any())
        names, begins = np.unique(targets.cases, return_index=True)
        counts, chances, given = [], [], []
        for begin, end in zip(begins, [*begins[1:], len(targets)], strict=True):
            rows = slice(int(begin), int(end))
            if targets.masked[begin] and targets.masks[rows].any():
                inside = np.stack([answer.inside for answer in answers[rows]]) >= THRESHOLD
                true = targets.masks[rows] > 0
                counts.append(((inside & true).sum(), inside.sum(), true.sum()))
            if targets.classes[begin] >= 0:
                chances.append(of_case(answers[rows], outlined))
                given.append(targets.classes[begin])
        found = {}
        if counts:
            dice, iou = outlines.overlap(*np.array(counts, np.float64).T)
            found = {"dice": float(dice.mean()), "iou": float(iou.mean())}
        if given and types_of(targets.num_classes):
            found |= type_scores(np.stack(chances), np.array(given))
        return found

    def shown(
        self,
        experiment: Experiment,
        answer: Any,
        settled: dict[str, float],
        restored: Callable[[np.ndarray], np.ndarray],
    ) -> Shown:
        """The outline, and the probabilities of the types where there are several."""
        chances = tuple(float(p) for p in answer.types) or None
        return Shown(chances=chances, outline=answer.inside >= THRESHOLD)

    def by_class(self, experiment: Experiment, answers: Sequence[Any], targets: Targets) -> dict[str, dict[int, float]]:
        """recall: the share of a type's pictures that were called it."""
        given = targets.classes
        if given is None or not types_of(targets.num_classes) or not (given >= 0).any():
            return {}
        called = np.stack([answer.types for answer in answers]).argmax(1)
        return {"recall": {int(k): float((called[given == k] == k).mean()) for k in np.unique(given[given >= 0])}}

    # -- in use ---------------------------------------------------------------------------------------------------

    def found(self, asked: Asked, scan: Scan, answers: Sequence[Any]) -> Found:
        """The type, the outline on the scan's own grid, and how large it is.

        Nothing is done to the outline beside the threshold: small islands stay, since a second small tumour looks just
        like one.
        """
        data, spacing = asked.experiment.data, scan.spacing_mm
        of = len(scan.pixels)
        outlined = taught_outlines(asked)
        types = of_case(answers, outlined)
        chances = {name: float(p) for name, p in zip(asked.classes, types, strict=False)} if len(types) else {}
        top = asked.classes[int(types.argmax())] if len(types) else ""
        if not outlined:
            words = "No training scan had an outline, so this network tells the type alone."
            return Found(chances, top, notes=(words,))
        chance = on_grid(data, answers, (of, *scan.pixels.shape[2:]), pixel_aspect(scan))
        outline = (chance >= THRESHOLD).astype(np.uint8)
        whole = data.slices == "each" or of == 1
        facts, notes = extent(outline, spacing, whole)
        return Found(chances, top, outline=outline, chance=chance, facts=facts, notes=tuple(notes))

    def examined(
        self,
        asked: Asked,
        dataset: Dataset,
        cases: np.ndarray,
        progress: Callable[[int, int], None] | None = None,
    ) -> Examined:
        """{probabilities (N, K), labels (N,), patients (N,), cases (N,) ids, masked (N,) bool} and the arrays of
        `measures.outlines.Outlines` of the masked cases, measured on their own grid."""
        data = asked.experiment.data
        prepared = dataset.prepared(data)
        outlined = taught_outlines(asked)
        types, compared = [], []
        masked = np.zeros(len(cases), bool)
        step = 1 if data.slices == "each" else _AT_ONCE
        for start in range(0, len(cases), step):
            part = cases[start : start + step]
            rows = prepared.rows_of(part)
            answers = asked.answers(prepared.rows(rows).astype(np.float32) / np.float32(prepared.unit))
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
                compared.append(outlines.compare(chance[seen] >= THRESHOLD, mask[seen] > 0, known.spacing_mm))
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

    def report(
        self, examined: Examined, classes: tuple[str, ...], multi_label: bool, resamples: int, seed: int = 0
    ) -> dict[str, Any]:
        """{n, patients, metrics, interval, notes} over all cases; of those with an outline {outlines: what
        `measures.outlines.report` tells beside the metrics}, of those with a type all that `measures.classes.report`
        tells."""
        told: dict[str, Any] = {"metrics": {}, "notes": []}
        masked = examined["masked"]
        if masked.any():
            arrays = {n.removeprefix("outline_"): v for n, v in examined.items() if n.startswith("outline_")}
            part = outlines.report(outlines.Outlines(**arrays), resamples, seed)
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

    # -- the way in -----------------------------------------------------------------------------------------------

    def problems(self, experiment: Experiment, fingerprint: Any) -> list[Problem]:
        """As `tumor_checks.problems`."""
        return tumor_checks.problems(experiment, fingerprint)

    def demo(self, seed: int, folder: Path, kind: str = "") -> Path:
        """Writes synthetic scans with planted tumours (see `tumor_phantoms`) and gives back their labels.csv."""
        if kind not in ("", *self.demos):
            raise ValueError(f"There is no demo set {kind!r}; there are {', '.join(self.demos)}.")
        write = tumor_phantoms.write_volumes if kind == "volumes" else tumor_phantoms.write_pictures
        return write(folder, seed) / "labels.csv"

    def starters(self) -> tuple[Experiment, ...]:
        """Ready experiments, the simplest first."""
        return tumor_starters.starters()


_USUAL = {"name": "usual", "params": {}}
