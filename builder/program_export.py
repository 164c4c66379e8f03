"""The `torch.export` program: the network as a fixed graph with its weights, which needs no model code to run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from builder import task
from builder.listing import predict_source
from builder.network import input_shape
from builder.predict import Predictor
from builder.tracing import trace

if TYPE_CHECKING:
    import torch

TOLERANCE = 1e-5
"""Largest difference of a probability between the app and the exported program."""


def write(folder: Path, predictor: Predictor) -> str:
    """Writes network.pt2 (prepared scans in [0, 1] -> probabilities) and predict.py."""
    import torch

    program = trace(answering(predictor), input_shape(predictor.experiment))
    torch.export.save(program, folder / "network.pt2")
    says = task.find(predictor.experiment.task).says
    text = predict_source("network_program.py.txt", "torch", says=says)
    (folder / "predict.py").write_text(text, encoding="utf-8")
    return ""


def answering(predictor: Predictor) -> torch.nn.Module:
    """The network with what the app does around it: (B, ...) in [0, 1] -> probabilities."""
    import torch

    shape = (-1, *[1] * (-predictor.experiment.data.channel_axis - 1))
    kind = task.find(predictor.experiment.task)

    class Answering(torch.nn.Module):
        """Normalizes, computes, and turns scores into probabilities."""

        mean: torch.Tensor
        std: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.net = predictor.net
            self.register_buffer("mean", torch.from_numpy(predictor.mean).reshape(shape))
            self.register_buffer("std", torch.from_numpy(predictor.std).reshape(shape))

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return kind.exported(
                predictor.experiment, self.net, self.net((image - self.mean) / self.std), predictor.multi_label
            )

    return Answering().eval()
