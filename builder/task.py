"""The contract of a task: what its labels are, what a network must end in, how it is taught, scored and shown.

Adding a task is one module in `tasks/` with a subclass of `Task`, and one entry in `TASKS`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from builder.catalog import Catalog, Part
from builder.spec import Experiment, Problem, Training

if TYPE_CHECKING:
    import torch

TASKS = Catalog(
    "task",
    (
        Part(
            "recognition",
            "Medical image recognition",
            "tasks.recognition:Recognition",
            "Which of several classes a scan belongs to (or, with several labels, which findings it shows).",
        ),
    ),
)


def find(name: str) -> "Task":
    """Returns the task called `name`; raises UnknownPart with "did you mean"."""
    return TASKS[name].load()()


@dataclass(frozen=True)
class Step:
    """What one batch gives: a scalar loss to go back from, and the raw output (logits), both on the device."""

    loss: "torch.Tensor"
    output: "torch.Tensor"


Objective = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]
"""(output, target) -> scalar loss."""


class Task(ABC):
    """One of the things ScanLoom can teach a network.

    Attributes:
        name, title, help: as in `TASKS`. label_kind: "class" (one or several classes a scan).
        headline: the metric people look at first. metrics: {name: True where higher is better}.
        demos: {kind of demo set: name of the starter that suits it}, the simplest first.
        when: {name of a starter: one paragraph for people on when to use it}.
    """

    name: str
    title: str
    label_kind: str
    headline: str
    metrics: dict[str, bool]
    demos: dict[str, str]
    when: dict[str, str]

    @abstractmethod
    def head(self, num_classes: int) -> tuple[int, ...]:
        """Returns the shape, without the batch, that the network's last layer must have."""

    @abstractmethod
    def objective(self, training: Training, train_labels: np.ndarray, num_classes: int, multi_label: bool) -> Objective:
        """Returns the loss as `training` asks for it (class weights from `train_labels`, label smoothing).

        Args:
            train_labels: (N,) int64 class indices, or (N, L) uint8 for several labels a scan.
        Returns:
            a callable (output (B, K) float, target (B,) int64 or (B, L) float) -> scalar; it may be an nn.Module and is
            moved to the device by the caller if so.
        """

    def step(self, model: Any, images: "torch.Tensor", target: "torch.Tensor", objective: Objective) -> Step:
        """Runs one batch: images (B, C, H, W) float, normalized; target as in `objective`."""
        output = model(images)
        return Step(objective(output.float(), target), output)

    @abstractmethod
    def activate(self, output: "torch.Tensor", multi_label: bool) -> "torch.Tensor":
        """Turns raw output (B, K) into probabilities (B, K) in [0, 1]."""

    @abstractmethod
    def score(self, probabilities: np.ndarray, labels: np.ndarray, multi_label: bool) -> dict[str, float]:
        """Returns each metric of `metrics` (but "loss") for probabilities (N, K) and labels (N,) or (N, L).

        A metric that cannot be computed (one class only) is left out, never NaN.
        """

    @abstractmethod
    def problems(self, experiment: Experiment, fingerprint: Any) -> list[Problem]:
        """Returns what is wrong with the data or the training for this task (a class missing from a split, ...)."""

    @abstractmethod
    def demo(self, seed: int, folder: Path, kind: str = "") -> Path:
        """Writes a small synthetic set into `folder` (scans and labels.csv) and returns the path of labels.csv.

        Args:
            kind: one of `demos`; "" for the first.
        """

    @abstractmethod
    def starters(self) -> tuple[Experiment, ...]:
        """Returns ready experiments made of catalogue parts only, the simplest first; `name` identifies them."""
