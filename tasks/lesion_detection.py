"""Lesion detection: where damage and lesions lie, as boxes, and of which kind each is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from builder.measures import boxes as measures
from builder.measures import judged
from builder.measures.boxes import Detections
from builder.spec import Data, Experiment, Node, Problem
from builder.targets import Targets
from builder.task import Asked, Examined, Found, Objective, Shown, Sureness, Task, pooled_rows
from builder.views import View, boxes_back
from tasks import detection_checks, lesions
from tasks.detection_answers import SLICE_BY_SLICE, Answer, chosen, finder, fused, on_scan, shown_boxes
from tasks.detection_starters import STARTERS, WHEN

if TYPE_CHECKING:
    import torch

    from builder.augment import Augment
    from builder.data import Dataset
    from builder.scan import Scan
    from builder.targets import Target

_CUT = 8  # layers that a repair may take away at most, and one
_ROWS = 16


class LesionDetection(Task):
    """Scans -> boxes. Output: a row of class logits and a box for every place; the last layer says what a row means."""

    name = "lesion_detection"
    title = "Lesion detection"
    label_kind = "boxes"
    learns = ("boxes",)
    headline = "map50"
    metrics = {"map50": True, "map": True, "cpm": True, "loss": False}
    leaves_out = {
        "data.slices": ("series", "volume"),
        "data.fit": ("patches",),
        "training.border": ("edge", "mirror"),
        "training.test_time": ("small turns",),
    }
    says = "boxes"
    activated = "torch.cat(list(model.children())[-1].decode(scores), -1)"
    no_export = {"keras": "boxes cannot be read off its rows without code of ours; take PyTorch, ONNX or torch.export."}
    demos = {"lesions": "small-detector"}
    when = WHEN

    # -- what the network must be ---------------------------------------------------------------------------------

    def head(self, data: Data, num_classes: int) -> tuple[int | None, ...]:
        """A row of scores and a box for every place, however many there are."""
        return (None, None)

    def wanted(self, data: Data, num_classes: int) -> str:
        """In words."""
        return "lesion detection needs boxes: end it in a layer of the group Heads that finds boxes."

    def endings(self, experiment: Experiment, num_classes: int) -> list[tuple[str, Experiment]]:
        """A box head at the end, or behind the last layer that still keeps maps."""
        head = Node(id=experiment.fresh_id("box_head"), name="box_head")
        edits, words = [("Add a box head", experiment.insert(head))], "End in a box head instead of "
        shorter = experiment
        while len(shorter.network) > 1 and len(edits) < _CUT:
            last = shorter.network[-1]
            words += f"{'' if shorter is experiment else ', '}{last.id}"
            shorter = shorter.remove(last.id)
            edits.append((words, shorter.insert(head)))
        return edits

    # -- learning -------------------------------------------------------------------------------------------------

    def cases(self, dataset: Dataset, experiment: Experiment, split: str) -> np.ndarray:
        """Those that somebody has looked at: with boxes, or with none on purpose."""
        return dataset.indices(split, by="boxes")

    def objective(self, experiment: Experiment, model: Any, train: Targets) -> Objective:
        """The loss of the last layer, which knows where its rows lie."""
        head = finder(model)

        def loss(output: torch.Tensor, target: Target) -> torch.Tensor:
            assert target.boxes is not None and target.labels is not None
            return head.loss(output, target.boxes, target.labels)

        return loss

    def vary(
        self, experiment: Experiment, images: torch.Tensor, target: Target, augment: Augment, chance: torch.Generator
    ) -> tuple[torch.Tensor, Target]:
        """Pictures and boxes moved alike; a box that leaves the picture is no longer asked for."""
        varied = augment(images, chance, boxes=target.boxes)
        assert varied.boxes is not None and varied.kept is not None and target.labels is not None
        labels = [label[kept.to(label.device)] for label, kept in zip(target.labels, varied.kept, strict=True)]
        return varied.images, target.but(boxes=varied.boxes, labels=labels)

    # -- judging --------------------------------------------------------------------------------------------------

    def answers(self, experiment: Experiment, model: Any, output: torch.Tensor, multi_label: bool) -> list[Answer]:
        """The boxes of each picture, the surest first, without those that say the same twice."""
        side = experiment.data.size_px
        boxes, scores = finder(model).decode(output)
        return [chosen(b, s, side) for b, s in zip(boxes.clamp(0, side), scores, strict=True)]

    def together(
        self, experiment: Experiment, shown: Sequence[View], answers: Sequence[Sequence[Answer]]
    ) -> list[Answer]:
        """The boxes of all views of each picture, those of one lesion fused (see `fused`)."""
        side = experiment.data.size_px
        rows = zip(*answers, strict=True)
        return [
            fused([(boxes_back(b, v, side), s, n) for (b, s, n), v in zip(row, shown, strict=True)]) for row in rows
        ]

    def exported(self, experiment: Experiment, model: Any, output: torch.Tensor, multi_label: bool) -> torch.Tensor:
        """Rows (B, R, 4 + K): a box, x0 y0 x1 y1 in px of the prepared picture, and a score for each class."""
        import torch

        return torch.cat(finder(model).decode(output), -1)

    def scores(self, experiment: Experiment, answers: Sequence[Answer], targets: Targets) -> dict[str, float]:
        """map50, map and cpm over the validation pictures."""
        found = of_targets(answers, targets)
        return measures.scores(found, targets.num_classes)

    def settled(self, experiment: Experiment, answers: Sequence[Answer], targets: Targets) -> dict[str, float]:
        """{threshold}: the score from which boxes are shown, chosen at one false alarm a picture at most."""
        threshold = measures.operating_threshold(of_targets(answers, targets), targets.num_classes)
        return {} if threshold is None else {"threshold": float(threshold)}

    def shown(
        self,
        experiment: Experiment,
        answer: Answer,
        settled: dict[str, float],
        restored: Callable[[np.ndarray], np.ndarray],
    ) -> Shown:
        """The boxes from the score that this epoch's validation chose."""
        threshold = settled.get("threshold", measures.SHOWN)
        rows = zip(*(part.tolist() for part in answer), strict=True)
        boxes = tuple((*box, int(label), float(score)) for box, score, label in rows if score >= threshold)
        return Shown(boxes=boxes)

    def sureness(self, experiment: Experiment, answers: Sequence[Answer], targets: Targets) -> Sureness:
        """The score of each box, and whether it meets a lesion of its class; lesions that none met stand at -1."""
        return measures.sureness(of_targets(answers, targets), targets.num_classes)

    def by_class(
        self, experiment: Experiment, answers: Sequence[Answer], targets: Targets
    ) -> dict[str, dict[int, float]]:
        """ap50: average precision where half of a box and its lesion must be shared."""
        return {"ap50": measures.precision_by_class(of_targets(answers, targets), targets.num_classes)}

    # -- in use ---------------------------------------------------------------------------------------------------

    def found(self, asked: Asked, scan: Scan, answers: Sequence[Answer]) -> Found:
        """The boxes on the scan's own pixels, from the score that validation chose on."""
        threshold = asked.settled.get("threshold", measures.SHOWN)
        told = shown_boxes(asked, scan, answers)
        shown = [box for box in told if box.score >= threshold]
        count = {name: sum(box.label == name for box in shown) for name in asked.classes}
        facts = {
            "threshold": round(threshold, 4),
            "found": len(shown),
            "by_class": {k: n for k, n in count.items() if n},
        }
        notes = [] if shown else [f"No lesion is surer than {threshold:.2g}, the score from which boxes are shown."]
        if told and len(scan.pixels) > 1 and asked.experiment.data.slices in ("mean", "maximum"):
            notes.append(
                "The network saw all slices as one picture, so it does not know in which slice a lesion lies: its "
                "boxes are shown on the middle one."
            )
        return Found(boxes=tuple(told), facts=facts, notes=tuple(notes))

    def examined(
        self,
        asked: Asked,
        dataset: Dataset,
        cases: np.ndarray,
        progress: Callable[[int, int], None] | None = None,
    ) -> Examined:
        """The arrays of `measures.boxes.Detections`, an image a picture, in pixels of the scans, with `cases` (N,) ids,
        `slices` (N,) and `threshold` (): the score that validation chose, NaN without one."""
        experiment = asked.experiment
        prepared = dataset.prepared(experiment.data)
        targets = Targets(dataset, experiment.data, prepared, cases, self.learns)
        found: list[Any] = []
        for start in range(0, len(targets), _ROWS):
            rows = targets.rows[start : start + _ROWS]
            images = prepared.rows(rows).astype(np.float32) / np.float32(prepared.unit)
            for case, answer in zip(targets.cases[start:], asked.answers(images), strict=False):
                found.append(on_scan(answer, targets.placement(int(case))))
            if progress:
                progress(min(start + _ROWS, len(targets)), len(targets))
        there, slices = [], []
        for case, index in zip(targets.cases.tolist(), targets.slices.tolist(), strict=True):
            seen = targets.shown(case, index)
            slices.append(seen[len(seen) // 2])
            there.append(targets.lesions(case, index))
        detections = Detections.of(found, there, dataset.patients[targets.cases])
        return {
            **detections.arrays(),
            "cases": np.array([dataset.cases[case].id for case in targets.cases]),
            "slices": np.array(slices, np.int64),
            "threshold": np.array(asked.settled.get("threshold", np.nan)),
        }

    def pooled(self, parts: Sequence[Examined]) -> Examined:
        """Images are counted on; the threshold is none, as each run has chosen its own, and `pooled` () says so."""
        begin = np.cumsum([0, *(len(part["patients"]) for part in parts)])
        shifted = [
            {
                name: values + begin[k] if name in ("images", "lesion_images") else values
                for name, values in part.items()
                if name != "threshold"
            }
            for k, part in enumerate(parts)
        ]
        return {**pooled_rows(shifted), "threshold": np.array(np.nan), "pooled": np.array(True)}

    def truth(self, examined: Examined) -> dict[str, np.ndarray]:
        """Which slices were looked at, and the lesions on them."""
        there = np.stack([examined["lesion_images"], examined["lesion_labels"]])
        return {"slices": examined["slices"], "lesions": there, "boxes": examined["lesions"]}

    def report(
        self, examined: Examined, classes: tuple[str, ...], multi_label: bool, resamples: int, seed: int = 0
    ) -> dict[str, Any]:
        """As `measures.boxes.report`, with the id of its case on each miss and false alarm."""
        detections = Detections.from_arrays(examined)
        threshold, chosen = _shown_from(examined)
        told = measures.report(detections, classes, resamples, seed, threshold=threshold, chosen=chosen)
        for entry in (*told["misses"], *told["false_alarms"]):
            entry["case"] = str(examined["cases"][entry["image"]])
            entry["slice"] = int(examined["slices"][entry["image"]])
        if len(set(zip(examined["cases"], examined["slices"], strict=True))) > len(np.unique(examined["cases"])):
            told["notes"].append(SLICE_BY_SLICE)
        return told

    def judged(self, examined: Examined, num_classes: int) -> judged.Judged | None:
        """As `measures.judged.of_boxes`."""
        threshold, _ = _shown_from(examined)
        return judged.of_boxes(Detections.from_arrays(examined), examined["cases"], num_classes, threshold)

    # -- the way in -----------------------------------------------------------------------------------------------

    def problems(self, experiment: Experiment, fingerprint: Any) -> list[Problem]:
        """What stands in the way of learning boxes from this data set, and what makes its figures doubtful."""
        found: list[Problem] = []
        last = experiment.network[-1].name if experiment.network else ""
        if last and last not in HEADS:
            words = self.wanted(experiment.data, 0)
            for repair, fixed in self.endings(experiment, 0):
                found.append(Problem(f"network.{experiment.network[-1].id}", _sentence(words), "error", repair, fixed))
                break
        return [*found, *detection_checks.problems(experiment, fingerprint)]

    def demo(self, seed: int, folder: Path, kind: str = "") -> Path:
        """Writes 240 synthetic pictures with lesions of two kinds, some without, and their boxes (COCO)."""
        if kind not in ("", *self.demos):
            raise ValueError(f"There is no demo set {kind!r}; there are {', '.join(self.demos)}.")
        return lesions.write_set(folder, seed)

    def starters(self) -> tuple[Experiment, ...]:
        """Ready experiments, the simplest first."""
        return STARTERS


HEADS = ("box_head", "anchor_head", "two_stage_head")
"""Last layers that find boxes."""


def of_targets(answers: Sequence[Answer], targets: Targets) -> Detections:
    """What was found, as a user sees it, beside what is there in the prepared pictures; in pixels of the scans."""
    assert targets.boxes is not None and targets.labels is not None
    places = [targets.placement(int(case)) for case in targets.cases]
    found = [on_scan(answer, where) for answer, where in zip(answers, places, strict=True)]
    known = zip(targets.boxes, targets.labels, places, strict=True)
    there = [(where.boxes_out(boxes), labels) for boxes, labels, where in known]
    return Detections.of(found, there, targets.dataset.patients[targets.cases])


def _shown_from(examined: Examined) -> tuple[float | None, str]:
    """The score from which a run shows boxes, and who chose it: "validation" or "nobody". None of pooled runs."""
    threshold = float(examined["threshold"])
    if np.isfinite(threshold):
        return threshold, "validation"
    return (None, "here") if "pooled" in examined else (measures.SHOWN, "nobody")


def _sentence(words: str) -> str:
    return words[0].upper() + words[1:]
