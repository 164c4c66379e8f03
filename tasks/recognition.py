"""Recognition: which of several classes a scan belongs to or, with several labels a scan, which findings it shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from builder.measures import conformal
from builder.measures.classes import Predictions, report
from builder.measures.judged import Judged, of_classes
from builder.spec import Data, Experiment, Problem, Training
from builder.task import Asked, Examined, Found, Objective, Shown, Sureness, Task
from tasks import perfusion, phantoms, recognition_checks, recognition_starters

if TYPE_CHECKING:
    import torch

    from builder.augment import Augment
    from builder.data import Dataset
    from builder.losses import ClassLoss
    from builder.scan import Scan
    from builder.targets import Target, Targets
    from builder.views import View

_READ_BYTES = 256 << 20  # of prepared scans, as floats, at once


class Recognition(Task):
    """Images -> classes. Output: one logit a class; softmax for one label a scan, sigmoid for several."""

    name = "recognition"
    title = "Medical image recognition"
    label_kind = "class"
    headline = "auc"
    metrics = {"auc": True, "balanced_accuracy": True, "accuracy": True, "f1": True, "loss": False}
    losses = ("usual", "focal")
    leaves_out = {"data.slices": ("each",), "data.fit": ("patches",)}
    demos = {"pictures": "tiny-cnn", "series": "cnn-bigru"}
    mixes = True
    when = recognition_starters.WHEN

    def head(self, data: Data, num_classes: int) -> tuple[int | None, ...]:
        """One score for each class."""
        return (num_classes,)

    def objective(self, experiment: Experiment, model: Any, train: Targets) -> Objective:
        """The loss over classes that `class_loss` makes."""
        import torch

        assert train.classes is not None
        loss = self.class_loss(experiment.training, train.classes, train.num_classes, train.multi_label)

        class Lesson(torch.nn.Module):
            """A module, so that the weights of the classes go to the device with it."""

            def __init__(self) -> None:
                super().__init__()
                self.loss = loss

            def forward(self, output: torch.Tensor, target: Any) -> torch.Tensor:
                own = self.loss(output, target.classes)
                if target.partner is None:
                    return own
                # Both parts hold the same classes, only in another order: class weights and smoothing stay as they are.
                return target.share * own + (1 - target.share) * self.loss(output, target.classes[target.partner])

        return Lesson()

    def vary(
        self, experiment: Experiment, images: torch.Tensor, target: Target, augment: Augment, chance: torch.Generator
    ) -> tuple[torch.Tensor, Target]:
        """Varied, and where it is chosen each mixed with another of the batch, whose answer then counts in part."""
        images = augment(images, chance).images
        mixed = augment.mixed(images, chance)
        if mixed is None:
            return images, target
        return mixed.images, target.but(partner=mixed.partner.to(images.device), share=mixed.share)

    def class_loss(
        self, training: Training, train_labels: np.ndarray, num_classes: int, multi_label: bool
    ) -> ClassLoss:
        """As `losses.of_classes`."""
        from builder.losses import of_classes

        return of_classes(training, train_labels, num_classes, multi_label)

    def activate(self, experiment: Experiment, output: torch.Tensor, multi_label: bool) -> torch.Tensor:
        """Logits (B, K) -> probabilities (B, K)."""
        return output.sigmoid() if multi_label else output.softmax(1)

    def evidence(self, experiment: Experiment, output: torch.Tensor) -> torch.Tensor | None:
        """All that it puts out."""
        return output

    def answers(self, experiment: Experiment, model: Any, output: torch.Tensor, multi_label: bool) -> list[Any]:
        """Probabilities (K,) float32 of each row."""
        return list(self.activate(experiment, output, multi_label).float().cpu().numpy())

    def together(self, experiment: Experiment, shown: Sequence[View], answers: Sequence[Sequence[Any]]) -> list[Any]:
        """The mean probabilities (K,) float32 of each row."""
        return list(np.stack([np.stack(told) for told in answers]).mean(0, dtype=np.float32)) if answers[0] else []

    def scores(self, experiment: Experiment, answers: Sequence[Any], targets: Targets) -> dict[str, float]:
        """As `score`."""
        assert targets.classes is not None
        return self.score(np.stack(answers), targets.classes, targets.multi_label)

    def shown(
        self,
        experiment: Experiment,
        answer: Any,
        settled: dict[str, float],
        restored: Callable[[np.ndarray], np.ndarray],
    ) -> Shown:
        """The probabilities."""
        return Shown(chances=tuple(float(p) for p in answer))

    def sureness(self, experiment: Experiment, answers: Sequence[Any], targets: Targets) -> Sureness:
        """The probability of each class, and whether it is the (or a) right one."""
        assert targets.classes is not None
        probabilities, given = np.stack(answers), targets.classes
        every = np.arange(probabilities.shape[1])
        true = given.astype(bool) if targets.multi_label else given[:, None] == every
        return {int(k): (probabilities[:, k], true[:, k]) for k in every}

    def by_class(self, experiment: Experiment, answers: Sequence[Any], targets: Targets) -> dict[str, dict[int, float]]:
        """recall: the share of a class's scans that were called it, as in `score`."""
        sure = self.sureness(experiment, answers, targets)
        called = np.stack([scores for scores, _ in sure.values()], 1)
        if not np.isfinite(called).all():
            return {}
        hits = called >= 0.5 if targets.multi_label else called.argmax(1)[:, None] == np.arange(len(sure))
        return {"recall": {k: float(hits[true, k].mean()) for k, (_, true) in sure.items() if true.any()}}

    def found(self, asked: Asked, scan: Scan, answers: Sequence[Any]) -> Found:
        """The probabilities, and the likeliest class."""
        probabilities = {name: float(value) for name, value in zip(asked.classes, answers[0], strict=True)}
        return Found(probabilities, asked.classes[int(np.argmax(answers[0]))])

    def examined(
        self,
        asked: Asked,
        dataset: Dataset,
        cases: np.ndarray,
        progress: Callable[[int, int], None] | None = None,
    ) -> Examined:
        """{probabilities (N, K), labels (N,) or (N, L), patients (N,), cases (N,) ids}."""
        prepared = dataset.prepared(asked.experiment.data)
        answers: list[Any] = []
        step = max(1, min(256, _READ_BYTES // (4 * int(np.prod(prepared.images.shape[1:])))))
        for start in range(0, len(cases), step):
            rows = prepared.rows(cases[start : start + step])
            answers += asked.answers(rows.astype(np.float32) / np.float32(prepared.unit))
            if progress:
                progress(min(start + step, len(cases)), len(cases))
        return {
            "probabilities": np.stack(answers),
            "labels": dataset.labels[cases],
            "patients": dataset.patients[cases],
            "cases": np.array([dataset.cases[i].id for i in cases]),
        }

    def truth(self, examined: Examined) -> dict[str, np.ndarray]:
        """The classes."""
        return {"classes": examined["labels"]}

    def report(
        self, examined: Examined, classes: tuple[str, ...], multi_label: bool, resamples: int, seed: int = 0
    ) -> dict[str, Any]:
        """As `measures.classes.report`."""
        return report(Predictions(**examined), classes, resamples, seed)

    def carried(
        self,
        chosen_on: Examined,
        examined: Examined,
        classes: tuple[str, ...],
        multi_label: bool,
        resamples: int,
        seed: int = 0,
    ) -> dict[str, Any]:
        """As `measures.conformal.carried`."""
        return conformal.carried(Predictions(**chosen_on), Predictions(**examined), classes, resamples, seed)

    def judged(self, examined: Examined, num_classes: int) -> Judged | None:
        """As `measures.judged.of_classes`."""
        return of_classes(examined)

    def score(self, probabilities: np.ndarray, labels: np.ndarray, multi_label: bool) -> dict[str, float]:
        """AUC (mean over classes, one against the rest), accuracy, balanced accuracy and macro F1.

        A class is answered where its probability is largest (one label) or at least 0.5 (several); accuracy with
        several labels is the mean over labels, as MedMNIST defines it. Classes that do not occur, or alone occur,
        have no AUC and are left out of its mean; a metric that no class defines is left out. Probabilities that are
        not finite give {}.
        """
        from sklearn.metrics import f1_score, roc_auc_score

        if not len(labels) or not np.isfinite(probabilities).all():
            return {}
        every = np.arange(probabilities.shape[1])
        given = labels.astype(bool) if multi_label else labels[:, None] == every
        answered = probabilities >= 0.5 if multi_label else probabilities.argmax(1)[:, None] == every
        areas = [roc_auc_score(g, p) for g, p in zip(given.T, probabilities.T, strict=True) if g.any() and not g.all()]
        recalls = [a[g].mean() for g, a in zip(given.T, answered.T, strict=True) if g.any()]
        if multi_label:
            rest = [(~a[~g]).mean() for g, a in zip(given.T, answered.T, strict=True) if not g.all()]
            recalls = [np.mean([*recalls, *rest])] if len(recalls) == len(rest) == len(every) else []
        accuracy = (given == answered).mean() if multi_label else answered[given].mean()
        known = [k for k in every if given[:, k].any() or answered[:, k].any()]
        scores = {"accuracy": float(accuracy)}
        if areas:
            scores["auc"] = float(np.mean(areas))
        if recalls:
            scores["balanced_accuracy"] = float(np.mean(recalls))
        if known:
            scores["f1"] = float(f1_score(given[:, known], answered[:, known], average="macro", zero_division=0.0))
        return scores

    def problems(self, experiment: Experiment, fingerprint: Any) -> list[Problem]:
        """As `recognition_checks.problems`."""
        return recognition_checks.problems(experiment, fingerprint)

    def demo(self, seed: int, folder: Path, kind: str = "") -> Path:
        """Writes 240 synthetic slices (see `phantoms`), or 120 contrast series of which only the order tells (see
        `perfusion`), and gives back their labels.csv."""
        write = {"": phantoms.write_cohort, "pictures": phantoms.write_cohort, "series": perfusion.write_cohort}
        if kind not in write:
            raise ValueError(f"There is no demo set {kind!r}; there are {', '.join(self.demos)}.")
        return write[kind](folder, seed) / "labels.csv"

    def starters(self) -> tuple[Experiment, ...]:
        """Ready experiments, the simplest first."""
        return recognition_starters.starters()
