"""Tumour diagnosis: what kind of tumour a scan shows, and where it ends, in one network.

The output is one row: K type scores, then the outline's logits (see `blocks.head.TypeAndOutline`), of a picture or of a
patch of a volume; volumes are looked at patch by patch, and their answers put together. K is the number of
classes, or 0 where the data set has fewer than two: then there is only the outline. The outline is binary, inside the
tumour or not: several structures in a mask count as one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from builder.data import pixel_aspect
from builder.measures import conformal, outlines
from builder.measures.classes import Predictions
from builder.measures.extent import extent
from builder.measures.judged import Judged, of_outlines
from builder.spec import Data, Experiment, Problem
from builder.targets import Target, Targets
from builder.task import Asked, Examined, Found, Objective, Shown, Task
from builder.views import View, back
from tasks import tumor_checks, tumor_figures, tumor_lesson, tumor_phantoms, tumor_starters
from tasks.tumor_answers import (
    THRESHOLD,
    Answer,
    grid_of,
    joined,
    masks_of,
    of_case,
    on_grid,
    parted,
    type_scores,
    types_of,
)

if TYPE_CHECKING:
    import torch

    from builder.augment import Augment
    from builder.data import Dataset
    from builder.scan import Scan

_PATCHES = "a volume is looked at in overlapping patches whose answers are put together, which this format"
_BROUGHT = (
    "volumes are brought to another voxel size, which the program beside the network does not do. Outline volumes here "
    "(python -m builder predict RUN SCAN --out FOLDER), or train with voxels as they are (0 mm)."
)


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
        "data.slices": ("mean", "maximum", "series"),
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
    demos = {"pictures": "small-unet", "volumes": "unet-neighbours", "3-D": "unet-3d-patches"}
    when = tumor_starters.WHEN

    # -- what the network must be ---------------------------------------------------------------------------------

    def head(self, data: Data, num_classes: int) -> tuple[int | None, ...]:
        """One score for each type, where there are two and more, and one for each pixel or voxel."""
        return (types_of(num_classes) + prod(grid_of(data)),)

    def wanted(self, data: Data, num_classes: int) -> str:
        """In words, for a network that ends in something else."""
        types, sizes = types_of(num_classes), " x ".join(map(str, grid_of(data)))
        scores = f"{types} type scores and " if types else ""
        places = "voxels" if data.layout == "volume" else "pixels"
        return (
            f"this task needs {scores}an outline of {sizes} {places} in one row: end it in the layer Type and outline."
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
        """As `tumor_lesson.objective`."""
        return tumor_lesson.objective(experiment, train)

    def vary(
        self, experiment: Experiment, images: torch.Tensor, target: Target, augment: Augment, chance: torch.Generator
    ) -> tuple[torch.Tensor, Target]:
        """The outlines move with the pictures; all slices of a volume's outline go one way, as its slices do."""
        assert target.masks is not None
        moved = augment(images, chance, masks=target.masks.flatten(1, -3))
        assert moved.masks is not None
        return moved.images, target.but(masks=moved.masks.view(target.masks.shape))

    def not_exported(self, data: Data) -> dict[str, str]:
        """Networks for patches of volumes: only the PyTorch project looks at whole volumes, at their own voxels."""
        if not data.blocks:
            return {}
        refused = dict.fromkeys(("keras", "onnx", "torch-export"), f"{_PATCHES} does not do; take the PyTorch project.")
        return refused | ({"pytorch": _BROUGHT} if data.pixel_mm or data.slice_mm else {})

    # -- judging while it learns ----------------------------------------------------------------------------------

    def activate(self, experiment: Experiment, output: torch.Tensor, multi_label: bool) -> torch.Tensor:
        """The same row with probabilities: softmax over the types, sigmoid of every pixel."""
        import torch

        scores, pixels = parted(output, grid_of(experiment.data))
        inside = pixels.flatten(1).sigmoid()
        return torch.cat([scores.softmax(1), inside], 1) if scores.shape[1] else inside

    def evidence(self, experiment: Experiment, output: torch.Tensor) -> torch.Tensor | None:
        """The scores of the types (B, K)."""
        scores, _ = parted(output, grid_of(experiment.data))
        return scores if scores.shape[1] else None

    def counts(self, asked: Asked, output: torch.Tensor) -> torch.Tensor:
        """How much is outlined on each row, as `tumor_answers.of_case` has it."""
        if not asked.outlined:
            return output.new_ones(len(output))
        _, pixels = parted(output.float(), grid_of(asked.experiment.data))
        return (pixels.sigmoid().half() >= THRESHOLD).flatten(1).sum(1).float()

    def answers(self, experiment: Experiment, model: Any, output: torch.Tensor, multi_label: bool) -> list[Any]:
        """An `Answer` for each row."""
        scores, pixels = parted(output.float(), grid_of(experiment.data))
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
        """dice and iou: means over the cases that have a tumour, of all their slices or patches together, in prepared
        pixels; auc and balanced_accuracy of the types, case by case."""
        assert targets.classes is not None and targets.masked is not None
        outlined = bool(targets.masked.any())
        names, begins = np.unique(targets.cases, return_index=True)
        counts, chances, given = [], [], []
        for begin, end in zip(begins, [*begins[1:], len(targets)], strict=True):
            rows = slice(int(begin), int(end))
            true = masks_of(targets, rows) > 0 if targets.masked[begin] else None
            if true is not None and true.any():
                inside = np.stack([answer.inside for answer in answers[rows]]) >= THRESHOLD
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

    def joined(self, asked: Asked, pieces: Iterable[tuple[Sequence[int], Any]], size: Sequence[int]) -> Any:
        """As `tumor_answers.joined`."""
        return joined(pieces, size, asked.outlined)

    def found(self, asked: Asked, scan: Scan, answers: Sequence[Any]) -> Found:
        """The type, the outline on the scan's own grid, and how large it is.

        Nothing is done to the outline beside the threshold: small islands stay, since a second small tumour looks just
        like one.
        """
        data, spacing = asked.experiment.data, scan.spacing_mm
        of = len(scan.pixels)
        outlined = asked.outlined
        types = of_case(answers, outlined)
        chances = {name: float(p) for name, p in zip(asked.classes, types, strict=False)} if len(types) else {}
        top = asked.classes[int(types.argmax())] if len(types) else ""
        if not outlined:
            words = "No training scan had an outline, so this network tells the type alone."
            return Found(chances, top, notes=(words,))
        chance = on_grid(data, answers, (of, *scan.pixels.shape[2:]), pixel_aspect(scan))
        outline = (chance >= THRESHOLD).astype(np.uint8)
        whole = data.slices == "each" or of == 1 or data.blocks
        facts, notes = extent(outline, spacing, whole)
        return Found(chances, top, outline=outline, chance=chance, facts=facts, notes=tuple(notes))

    def examined(
        self,
        asked: Asked,
        dataset: Dataset,
        cases: np.ndarray,
        progress: Callable[[int, int], None] | None = None,
    ) -> Examined:
        """As `tumor_figures.examined`."""
        return tumor_figures.examined(asked, dataset, cases, progress)

    def truth(self, examined: Examined) -> dict[str, np.ndarray]:
        """The types, and of a run that tells outlines how much of each case is outlined on what it was shown."""
        masked = examined["masked"]
        if not masked.any():
            return {"types": examined["labels"]}
        given = np.full(len(masked), -1, np.int64)
        given[masked] = examined["outline_given"]
        return {"types": examined["labels"], "outlines": given}

    def report(
        self, examined: Examined, classes: tuple[str, ...], multi_label: bool, resamples: int, seed: int = 0
    ) -> dict[str, Any]:
        """As `tumor_figures.report`."""
        return tumor_figures.report(examined, classes, resamples, seed)

    def carried(
        self,
        chosen_on: Examined,
        examined: Examined,
        classes: tuple[str, ...],
        multi_label: bool,
        resamples: int,
        seed: int = 0,
    ) -> dict[str, Any]:
        """Of the types, as `measures.conformal.carried`; {} where either side has none."""
        before, here = Predictions.of(chosen_on), Predictions.of(examined)
        return {} if before is None or here is None else conformal.carried(before, here, classes, resamples, seed)

    def judged(self, examined: Examined, num_classes: int) -> Judged | None:
        """As `measures.judged.of_outlines`."""
        return of_outlines(examined, tumor_figures.outlined(examined), examined["masked"])

    # -- the way in -----------------------------------------------------------------------------------------------

    def problems(self, experiment: Experiment, fingerprint: Any) -> list[Problem]:
        """As `tumor_checks.problems`."""
        return tumor_checks.problems(experiment, fingerprint)

    def demo(self, seed: int, folder: Path, kind: str = "") -> Path:
        """Writes synthetic scans with planted tumours (see `tumor_phantoms`) and gives back their labels.csv."""
        if kind not in ("", *self.demos):
            raise ValueError(f"There is no demo set {kind!r}; there are {', '.join(self.demos)}.")
        writes = {"volumes": tumor_phantoms.write_volumes, "3-D": tumor_phantoms.write_close_volumes}
        return writes.get(kind, tumor_phantoms.write_pictures)(folder, seed) / "labels.csv"

    def starters(self) -> tuple[Experiment, ...]:
        """Ready experiments, the simplest first."""
        return tumor_starters.starters()
