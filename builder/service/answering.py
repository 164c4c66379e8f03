"""A run that stays open and answers one scan after the other: what `predict` says, word for word and bit for bit.

Files are decoded in the sandbox (`builder.sandbox`), two at a time; the network is asked by one thread at a time, one
scan at a time, so that an answer never depends on what else is asked.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any

from builder import gate, nearness, operating
from builder.predict import Finding, Predictor, opened
from builder.sandbox import Sandbox
from builder.terms import Terms

if TYPE_CHECKING:
    from builder.runs import Run
    from builder.scan import Scan

__all__ = ["Answerer", "finding_of"]

READERS = 2
"""Scans that are decoded side by side."""

Then = Callable[["Scan", Sequence[Path], Finding], Any]


def finding_of(
    predictor: Predictor, known: nearness.Nearness | None, scan: Scan, worth: dict[str, Any] | None = None
) -> tuple[Finding, dict[str, Any]]:
    """What a run says of a scan, and the same as JSON data with how like the training scans it is.

    The data are `predict.Finding.plain` with {like: `Nearness.like` or None}; a scan that is unlike them is refused, or
    has a sentence about it among its notes (`gate`). `worth`, as `operating.worth` tells it, adds how often such an
    answer is wrong (`operating.beside`). This is what `python -m builder predict` and the service say.
    """
    found, like = gate.answered(predictor, scan, known)
    told = {**found.plain(), "like": like}
    return found, {**told, **operating.beside(told, worth or {})}


class Answerer:
    """One run, open for questions. Use as a context manager: it starts the processes that decode scans.

    Raises:
        PredictError: the run cannot be rebuilt.
    """

    def __init__(self, run: Run, home: Path) -> None:
        self.run, self.home = run, home
        self.predictor = Predictor.open(run.folder)
        self._known: nearness.Nearness | None = None
        self._network = threading.Lock()
        self._boxes: SimpleQueue[Sandbox] = SimpleQueue()
        self._stack = ExitStack()

    def __enter__(self) -> Answerer:
        self._known = nearness.of_run(self.predictor, self.run.folder, self.home)
        for _ in range(READERS):
            self._boxes.put(self._stack.enter_context(Sandbox()))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def answer(self, name: str, files: Sequence[Path], then: Then | None = None) -> dict[str, Any]:
        """{run, findings: [{scan, top, probabilities, covered, notes, like, ...}]}, as `predict` has it; with `then`
        also {made: what it returns}, which is called while the scan's files are there.

        Args:
            name: what the scan is called in the answer. files: one file, a zip, or the files of one series.
        Raises:
            Unreadable: no scan, in the words of the reader. ValueError: a scan that this run cannot be asked about.
        """
        box = self._boxes.get()
        try:
            with opened(list(files), box) as (scan, paths):
                # As they are now: people measure and choose while it serves.
                weights = self.predictor.weights_sha256
                predictor = replace(self.predictor, terms=Terms.of(self.run.folder, weights))
                worth = operating.worth(self.run, weights)
                with self._network:
                    found, told = finding_of(predictor, self._known, scan, worth)
                made = {} if then is None else {"made": then(scan, paths, found)}
                return {"run": self.run.id, "findings": [{"scan": name, **told}], **made}
        finally:
            self._boxes.put(box)

    def facts(self) -> dict[str, Any]:
        """What is served: {run, name, task, classes, multi_label, epoch, weights_sha256, gate (training scans that new
        ones are compared with, 0 where nothing can be said), use}."""
        predictor = self.predictor
        return {
            "run": self.run.id,
            "name": predictor.experiment.name,
            "task": predictor.experiment.task,
            "classes": list(predictor.classes),
            "multi_label": predictor.multi_label,
            "epoch": predictor.epoch,
            "weights_sha256": predictor.weights_sha256,
            "gate": 0 if self._known is None else len(self._known.distances),
            "use": "For research and education only: not for clinical use.",
        }
