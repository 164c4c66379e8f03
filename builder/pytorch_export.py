"""The PyTorch project: model.py, train.py and predict.py, which need nothing of ScanLoom, and the weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from builder import task
from builder.listing import attributes, model_source, predict_source, train_source
from builder.predict import Predictor
from builder.prepared import Prepared
from builder.spec import Experiment

TOLERANCE = 1e-5
"""Largest difference of a probability between the app and the exported code."""


def write(folder: Path, predictor: Predictor) -> str:
    """Writes the project; nothing has to be done before it can be asked."""
    from safetensors.torch import save

    experiment = predictor.experiment
    kind = task.find(experiment.task)
    names = attributes(experiment)
    tensors = {}
    for key, tensor in predictor.net.state_dict().items():
        _, id, rest = key.split(".", 2)
        tensors[f"{names[id]}.{rest}"] = tensor.detach().cpu().contiguous()
    (folder / "weights.safetensors").write_bytes(save(tensors))
    texts = {
        "model.py": model_source(experiment, len(predictor.classes)),
        "predict.py": predict_source(says=kind.says, activated=kind.activated),
    }
    retrains = kind.label_kind == "class"  # the one loop that is written out plainly
    if retrains:
        texts["train.py"] = train_source(experiment, predictor.multi_label)
    if retrains and experiment.training.augment:
        texts["augment.py"] = (Path(__file__).parent / "augment.py").read_text(encoding="utf-8")
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return ""


def normalization(experiment: Experiment) -> tuple[np.ndarray, np.ndarray]:
    """(mean, std) per channel of a network that has seen no scan: those of the document, else 0 and 1."""
    from builder.batches import normalization as chosen

    data = experiment.data
    empty = np.zeros((0, *data.shape), np.uint8)
    mean, std = chosen(experiment, Prepared(empty, 255, np.zeros(data.channels), np.ones(data.channels)))
    return np.asarray(mean, np.float32), np.asarray(std, np.float32)
