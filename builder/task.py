"""The contract of a task: what its labels are, what a network must end in, how it is taught, scored and shown.

Adding a task is one module in `tasks/` with a subclass of `Task`, and one entry in `TASKS`. The engine knows tasks by
this contract alone; nobody outside of `tasks/` asks which one it is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from builder.catalog import Catalog, Domain, OneOf, Part
from builder.parts.images import PREPARE
from builder.parts.training import LOSSES, TRAINING
from builder.spec import Data, Experiment, Problem

if TYPE_CHECKING:
    import torch

    from builder.augment import Augment
    from builder.data import Dataset
    from builder.measures.judged import Judged
    from builder.scan import Scan
    from builder.targets import Target, Targets
    from builder.views import View

TASKS = Catalog(
    "task",
    (
        Part(
            "recognition",
            "Medical image recognition",
            "tasks.recognition:Recognition",
            "Which of several classes a scan belongs to (or, with several labels, which findings it shows).",
        ),
        Part(
            "lesion_detection",
            "Lesion detection",
            "tasks.lesion_detection:LesionDetection",
            "Where lesions lie, each with a box around it, and of which kind each is.",
        ),
        Part(
            "tumor_diagnosis",
            "Tumor diagnosis",
            "tasks.tumor_diagnosis:TumorDiagnosis",
            "What kind of tumor a scan shows (benign, malignant, ...) and its outline, in one network.",
        ),
        Part(
            "image_enhancement",
            "Image enhancement",
            "tasks.image_enhancement:ImageEnhancement",
            "A better scan from a poor one: less noise, lower dose, sharper, or on a finer grid.",
        ),
    ),
)


def find(name: str) -> Task:
    """Returns the task called `name`; raises UnknownPart with "did you mean"."""
    return TASKS[name].load()()


@dataclass(frozen=True)
class Step:
    """What one batch gives: a scalar loss to go back from, and the raw output, both on the device."""

    loss: torch.Tensor
    output: torch.Tensor


Objective = Callable[["torch.Tensor", "Target"], "torch.Tensor"]
"""(output of the network, what is known) -> scalar loss, the mean over the scans of the batch."""

Sureness = dict[int, tuple[np.ndarray, np.ndarray]]
"""{class: (scores (N,) float, -1 for what was never found; whether it is true (N,) bool)}."""

Examined = dict[str, np.ndarray]
"""What a run answered on the cases of a split, beside what is known of them: arrays that can be kept in a file."""


@dataclass(frozen=True)
class FoundBox:
    """A lesion that a network found: x0 y0 x1 y1 in pixels of the scan, its class, a score in 0..1, and the slice."""

    x0: float
    y0: float
    x1: float
    y1: float
    label: str
    score: float
    slice: int = 0

    def plain(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "box": [round(v, 2) for v in (self.x0, self.y0, self.x1, self.y1)],
            "class": self.label,
            "score": round(self.score, 4),
            "slice": self.slice,
        }


@dataclass(frozen=True)
class Found:
    """What a task makes of a network's answers to one scan. What the task does not tell is empty.

    Attributes:
        probabilities: by class, each 0..1. top: the class that the scan is called after, "" without one.
        boxes: the lesions, the surest first; None where the task finds no boxes.
        outline: (S, H, W) uint8 on the scan's own grid, 1 inside; chance: (S, H, W) float32, how sure each pixel is.
        enhanced: (S, C, H', W') in the stored values of the scan (Hounsfield units for CT).
        facts: numbers in words' order for people and files: {"volume_ml": 1.2, ...}.
        notes: remarks in words.
    """

    probabilities: dict[str, float] = field(default_factory=dict)
    top: str = ""
    boxes: tuple[FoundBox, ...] | None = None
    outline: np.ndarray | None = None
    chance: np.ndarray | None = None
    enhanced: np.ndarray | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Shown:
    """One answer as a film shows it, in pixels of the prepared picture. What the task does not tell is None.

    Attributes:
        chances: by class, each 0..1. boxes: (x0, y0, x1, y1, class, score), the surest first.
        outline: (H, W) bool, True inside. picture: (C, H', W') float32 in [0, 1].
    """

    chances: tuple[float, ...] | None = None
    boxes: tuple[tuple[float, float, float, float, int, float], ...] | None = None
    outline: np.ndarray | None = None
    picture: np.ndarray | None = None


@dataclass(frozen=True)
class Restoration:
    """A slice of a scan that a run has restored, all in stored values.

    Attributes:
        case: position in the data set; slice: from 0. source: as it came, (C, h, w); output: as it was made, and
        target: as it should be, (C, H, W), perhaps finer. counted: (H, W) bool, what is neither padding nor cut off.
        pixel_mm: side of a pixel of `target`, None where unknown. window: (low, high) of what a reader looks at.
    """

    case: int
    slice: int
    source: np.ndarray
    output: np.ndarray
    target: np.ndarray
    counted: np.ndarray
    pixel_mm: float | None
    window: tuple[float, float]


@dataclass(frozen=True)
class Asked:
    """A run at work, as a task may see it.

    Attributes:
        experiment, classes, multi_label: of the run. model: the network on its device, in eval mode.
        answers: (images (B, *spec.Data.shape) float32 in [0, 1]) -> one answer a row, as `Task.answers` makes them.
            With `Data.fit` "patches" images are whole pictures (C, H, W), or volumes (C, D, H, W), of any size.
        device: of the model. mean, std: (C,) float32 of the normalization. unit: steps of grey.
        settled: what the validation side has chosen (see `Task.settled`).
        fingerprint: facts about the training data, as `Fingerprint.to_json` told them; {} where they are not known.
    """

    experiment: Experiment
    classes: tuple[str, ...]
    multi_label: bool
    model: Any
    answers: Callable[[np.ndarray | Sequence[np.ndarray]], list[Any]]
    device: str
    mean: np.ndarray
    std: np.ndarray
    unit: int
    settled: dict[str, float] = field(default_factory=dict)
    fingerprint: dict[str, Any] = field(default_factory=dict)

    @property
    def outlined(self) -> bool:
        """Whether the run's training scans had outlines at all; assumed where it is not known."""
        counts = self.fingerprint.get("num_masked")
        return not isinstance(counts, dict) or bool(counts.get("train", 0))


class Task(ABC):
    """One of the things ScanLoom can teach a network.

    Attributes:
        name, title, help: as in `TASKS`.
        label_kind: "class", "boxes", "outline" or "picture": what a person says of a scan.
        learns: the kinds of `targets.KINDS` it is taught with.
        headline: the metric people look at first. metrics: {name: True where higher is better}.
        losses: names of `LOSSES` it offers, the usual one first.
        leaves_out: {path of a setting: options that mean nothing here}. why_not: {path: {option: why, as a sentence}},
            where the reason is not plain.
        mixes: whether two scans may be mixed in training, so that a part of each answer holds.
        keeps_grey: augmentation must not change grey values (they are what is learned).
        says: what an exported predict.py prints: the name of a template told_<says>.py.txt in `builder/templates`.
        activated: `exported` as Python text, of `scores` that `model` put out, for code that needs nothing of ours.
        activated_keras: the same for Keras, with its `ops`.
        no_export: {name of a format: why it cannot carry this task, in words}.
        own: {name: a function, class or number of the task that its lesson in an exported train.py needs as source}.
        demos: {kind of demo set: name of the starter that suits it}, the simplest first.
        when: {name of a starter: one paragraph for people on when to use it}.
    """

    name: str
    title: str
    label_kind: str
    learns: tuple[str, ...] = ("class",)
    headline: str
    metrics: dict[str, bool]
    losses: tuple[str, ...] = ("usual",)
    leaves_out: dict[str, tuple[str, ...]] = {}
    why_not: dict[str, dict[str, str]] = {}
    mixes: bool = False
    says: str = "classes"
    activated: str = '(scores.sigmoid() if SETTINGS["multi_label"] else scores.softmax(1))'
    activated_keras: str = '(ops.sigmoid(scores) if SETTINGS["multi_label"] else ops.softmax(scores, axis=1))'
    no_export: dict[str, str] = {}
    own: dict[str, Any] = {}
    demos: dict[str, str]
    when: dict[str, str]

    # -- what the network must be ---------------------------------------------------------------------------------

    @abstractmethod
    def head(self, data: Data, num_classes: int) -> tuple[int | None, ...]:
        """Returns the shape, without the batch, that the network's last layer must have; None for any size."""

    def wanted(self, data: Data, num_classes: int) -> str:
        """Says in words what the network must end in, to go on after "The network ends in ..., but "."""
        return f"this task needs {num_classes} classes: one score for each."

    def endings(self, experiment: Experiment, num_classes: int) -> list[tuple[str, Experiment]]:
        """Repairs (words, repaired document) for a network that ends in something else, the best first; []: those of a
        network that ends in class scores."""
        return []

    # -- learning -------------------------------------------------------------------------------------------------

    def cases(self, dataset: Dataset, experiment: Experiment, split: str) -> np.ndarray:
        """int64 positions of the cases of a split that this task can use."""
        return dataset.indices(split)

    @abstractmethod
    def objective(self, experiment: Experiment, model: Any, train: Targets) -> Objective:
        """Returns the loss as the experiment asks for it.

        Args:
            model: the network (its last layer may know how it is taught). train: what is known of the training side.
        """

    def vary(
        self, experiment: Experiment, images: torch.Tensor, target: Target, augment: Augment, chance: torch.Generator
    ) -> tuple[torch.Tensor, Target]:
        """One training batch, varied: images (B, C, H, W) float in [0, 1] and what is known of them, moved along."""
        return augment(images, chance).images, target

    def pose(self, experiment: Experiment, images: torch.Tensor, target: Target) -> tuple[torch.Tensor, Target]:
        """One validation batch, always the same: as it is, unless the question must be made first (a scan degraded)."""
        return images, target

    def step(self, model: Any, images: torch.Tensor, target: Target, objective: Objective) -> Step:
        """Runs one batch: images (B, C, H, W) float, normalized."""
        output = model(images)
        return Step(objective(output.float(), target), output)

    def not_exported(self, data: Data) -> dict[str, str]:
        """{name of a format: why it cannot carry this task with scans prepared like this, in words}."""
        return self.no_export

    # -- judging while it learns ----------------------------------------------------------------------------------

    @abstractmethod
    def answers(self, experiment: Experiment, model: Any, output: torch.Tensor, multi_label: bool) -> list[Any]:
        """What the network says, one entry a row of the output (B, ...) float32: whatever `scores` understands."""

    @abstractmethod
    def scores(self, experiment: Experiment, answers: Sequence[Any], targets: Targets) -> dict[str, float]:
        """Returns each metric of `metrics` (but "loss") on the validation side, in prepared pixels.

        A metric that cannot be computed (one class only) is left out, never NaN.
        """

    def together(self, experiment: Experiment, shown: Sequence[View], answers: Sequence[Sequence[Any]]) -> list[Any]:
        """One answer a row out of those to several views of it: answers[k] holds a row each to view `shown[k]`."""
        raise ValueError(f"{self.title} asks about the scan as it is only; set the test-time views to off.")

    def settled(self, experiment: Experiment, answers: Sequence[Any], targets: Targets) -> dict[str, float]:
        """What is chosen on the validation side of the best epoch and used ever after, such as a threshold."""
        return {}

    @abstractmethod
    def shown(
        self,
        experiment: Experiment,
        answer: Any,
        settled: dict[str, float],
        restored: Callable[[np.ndarray], np.ndarray],
    ) -> Shown:
        """What a film shows of one of `answers`.

        Args:
            settled: what this epoch's validation chose. restored: takes a normalized picture back to [0, 1].
        """

    def sureness(self, experiment: Experiment, answers: Sequence[Any], targets: Targets) -> Sureness:
        """How sure the network was, beside what is true, for a precision-recall curve of each class; {}: no such."""
        return {}

    def by_class(self, experiment: Experiment, answers: Sequence[Any], targets: Targets) -> dict[str, dict[int, float]]:
        """{name of a score: {class: its value}} on the validation side; a class that cannot be judged is left out."""
        return {}

    def activate(self, experiment: Experiment, output: torch.Tensor, multi_label: bool) -> torch.Tensor:
        """Turns raw output (B, ...) into what an exported network puts out: as it is, or probabilities in [0, 1]."""
        return output

    def exported(self, experiment: Experiment, model: Any, output: torch.Tensor, multi_label: bool) -> torch.Tensor:
        """What an exported network puts out for the network's own `output`; its last layer may say what that means."""
        return self.activate(experiment, output, multi_label)

    def evidence(self, experiment: Experiment, output: torch.Tensor) -> torch.Tensor | None:
        """The class scores (B, K) among what a network puts out (B, ...): what a heat map asks about; None without."""
        return None

    def counts(self, asked: Asked, output: torch.Tensor) -> torch.Tensor:
        """(B,) how much each row's classes count in those of its case, where a case has several; all alike here."""
        return output.new_ones(len(output))

    # -- in use ---------------------------------------------------------------------------------------------------

    def joined(self, asked: Asked, pieces: Iterable[tuple[Sequence[int], Any]], size: Sequence[int]) -> Any:
        """The one answer to a whole volume of `size` (depth, height, width) out of those to its patches.

        Args:
            pieces: (first voxel of a patch, its answer); patches overlap, and reach beyond a volume smaller than they.
        Raises:
            ValueError: a task that leaves patches of volumes out.
        """
        raise ValueError(f"{self.title} cannot be asked about patches of volumes.")

    @abstractmethod
    def found(self, asked: Asked, scan: Scan, answers: Sequence[Any]) -> Found:
        """What is said of one scan.

        Args:
            answers: one entry, or with `Data.slices` "each" one a slice.
        """

    @abstractmethod
    def examined(
        self,
        asked: Asked,
        dataset: Dataset,
        cases: np.ndarray,
        progress: Callable[[int, int], None] | None = None,
    ) -> Examined:
        """Asks the run about the cases of a split and returns what the figures need: arrays, one file's worth."""

    @abstractmethod
    def report(
        self, examined: Examined, classes: tuple[str, ...], multi_label: bool, resamples: int, seed: int = 0
    ) -> dict[str, Any]:
        """All figures as plain JSON data: {n, patients, metrics: {name: {value, low, high}}, notes, interval, ...}."""

    @abstractmethod
    def truth(self, examined: Examined) -> dict[str, np.ndarray]:
        """By what the answers were judged, {what it is, in a word for people: numbers}: runs are only compared where
        it is the same for both."""

    def pooled(self, parts: Sequence[Examined]) -> Examined:
        """What several runs answered on different cases, as one: rows below rows. What is no row of a case must be the
        same in all.

        Raises:
            ValueError: the parts are not of one kind.
        """
        return pooled_rows(parts)

    def carried(
        self,
        chosen_on: Examined,
        examined: Examined,
        classes: tuple[str, ...],
        multi_label: bool,
        resamples: int,
        seed: int = 0,
    ) -> dict[str, Any]:
        """What is chosen on the validation side (`chosen_on`) and judged on another: thresholds, calibration. It joins
        the report."""
        return {}

    def judged(self, examined: Examined, num_classes: int) -> Judged | None:
        """The same answers case by case, for whoever looks at groups of cases; None where nothing can be said so."""
        return None

    def restorations(self, asked: Asked, dataset: Dataset, cases: np.ndarray, most: int) -> Iterator[Restoration]:
        """Up to `most` slices of each case as a task that makes pictures restores them; none of other tasks."""
        return iter(())

    # -- the way in -----------------------------------------------------------------------------------------------

    @abstractmethod
    def problems(self, experiment: Experiment, fingerprint: Any) -> list[Problem]:
        """Returns what is wrong with the data or the training for this task (a class missing from a split, ...)."""

    @abstractmethod
    def demo(self, seed: int, folder: Path, kind: str = "") -> Path:
        """Writes a small synthetic set into `folder` and returns the path that is to be imported (a table of labels, or
        the folder).

        Args:
            kind: one of `demos`; "" for the first.
        """

    def demo_name(self, kind: str = "") -> str:
        """What the demo set of this kind is called as a data set."""
        return f"Demo: {self.title}{f', {kind}' if kind else ''} (synthetic)"

    @abstractmethod
    def starters(self) -> tuple[Experiment, ...]:
        """Returns ready experiments made of catalogue parts only, the simplest first; `name` identifies them."""


def pooled_rows(parts: Sequence[Examined], fixed: Sequence[str] = ()) -> Examined:
    """Arrays of several parts, rows below rows.

    Args:
        fixed: names of arrays that are no rows: taken of the first part, where they must be as in all others.
    """
    names = set(parts[0])
    if any(set(part) != names for part in parts):
        raise ValueError("These answers are not of one kind, so they cannot be pooled: evaluate the runs again.")
    found: Examined = {}
    for name in parts[0]:
        first = parts[0][name]
        if name not in fixed and first.ndim:
            found[name] = np.concatenate([part[name] for part in parts])
            continue
        if any(not np.array_equal(part[name], first) for part in parts):
            raise ValueError(f"The runs differ in {name}, so their answers cannot be pooled.")
        found[name] = first
    return found


def learned_cases(task: Task, dataset: Dataset, experiment: Experiment) -> np.ndarray:
    """int64 positions of the training cases that are learned from: those of the task, without those left out by name.

    Raises:
        ValueError: in words, where `data.exclude` names what is no training case of this data set.
    """
    found = task.cases(dataset, experiment, "train")
    if not experiment.data.exclude:
        return found
    names, unwanted = [dataset.cases[index].id for index in found], set(experiment.data.exclude)
    unknown = sorted(unwanted - {case.id for case in dataset.cases if case.split == "train"})
    if unknown:
        raise ValueError(
            f"{len(unknown)} of the {len(unwanted)} cases that are to be left out are no training cases of this data "
            f"set, first {unknown[0]}: take them off the list (data.exclude)."
        )
    return found[[name not in unwanted for name in names]]


def offered(task: str, path: str, domain: Domain) -> Domain:
    """A setting's domain as this task offers it: without the options that mean nothing to it.

    Args:
        path: of the setting, such as "data.slices". domain: as the catalog declares it.
    """
    if not isinstance(domain, OneOf) or task not in TASKS:
        return domain
    kind = find(task)
    options = domain.options
    if path == "training.monitor":
        options = tuple(name for name in options if name in kind.metrics)
    options = tuple(name for name in options if name not in kind.leaves_out.get(path, ()))
    if options == domain.options:
        return domain
    return replace(domain, options=options, default=domain.default if domain.default in options else options[0])


def losses(task: str) -> Catalog:
    """The losses that this task offers, the usual one first."""
    names = find(task).losses if task in TASKS else LOSSES.names[:1]
    return Catalog(LOSSES.name, tuple(LOSSES[name] for name in names))


def unfit(experiment: Experiment) -> list[Problem]:
    """Settings whose option means nothing to the experiment's task, and a loss that it does not have."""
    found = []
    for prefix, part in (("data", PREPARE), ("training", TRAINING)):
        for domain in part.params:
            path = f"{prefix}.{domain.name}"
            here = offered(experiment.task, path, domain)
            if not isinstance(here, OneOf) or not isinstance(domain, OneOf) or here is domain:
                continue
            value = experiment.at(path)
            if value in here.options or value not in domain.options:  # what is no option at all is said elsewhere
                continue
            near = find(experiment.task).headline if path == "training.monitor" else here.default
            title, is_score = TASKS[experiment.task].title, path == "training.monitor"
            words = (
                f"{title} has no score {value!r}; it has {', '.join(here.options)}."
                if is_score
                else find(experiment.task).why_not.get(path, {}).get(str(value))
                or f"{value!r} means nothing for {title.lower()}; choose {_listed(here.options)}."
            )
            repair = f"Watch {near}" if is_score else f"Use {near}"
            found.append(Problem(path, words, "error", repair, experiment.replace(path, near)))
    name = experiment.training.loss.name
    known = losses(experiment.task)
    if name in LOSSES and name not in known:
        words = f"{TASKS[experiment.task].title} has no {LOSSES[name].title} loss; choose {_listed(known.names)}."
        usual = experiment.replace("training.loss", {"name": "usual", "params": {}})
        found.append(Problem("training.loss", words, "error", "Use its usual one", usual))
    return found


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
