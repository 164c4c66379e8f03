"""The PyTorch project: model.py, train.py, predict.py and serve.py, which need nothing of ScanLoom, and the weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from builder import network, task
from builder.lessons import lesson
from builder.likeness import Nearness
from builder.listing import START, TEMPLATES, attributes, model_source, predict_source, train_source
from builder.nearness import last_layer
from builder.parts.layers import LAYERS
from builder.predict import Predictor
from builder.prepared import Prepared
from builder.spec import Experiment
from builder.weights import reached

if TYPE_CHECKING:
    import torch
    from torch import nn

TOLERANCE = 1e-5
"""Largest difference of a probability between the app and the exported code."""


def write(folder: Path, predictor: Predictor) -> str:
    """Writes the project; nothing has to be done before it can be asked."""
    from safetensors.torch import save

    experiment = predictor.experiment
    kind = task.find(experiment.task)
    names = attributes(experiment)
    (folder / "weights.safetensors").write_bytes(save(_tensors(predictor.net, names)))
    (folder / "likeness.py").write_text((Path(__file__).parent / "likeness.py").read_text("utf-8"), encoding="utf-8")
    network_text, packages, beside = _way(experiment)
    begins, stored = _start(experiment, len(predictor.classes), names)
    taught = lesson(kind.says, experiment, predictor.multi_label)
    texts = {
        "model.py": model_source(experiment, len(predictor.classes)),
        "predict.py": predict_source(network_text, *packages, says=kind.says, activated=kind.activated),
        "serve.py": _serve_source(),
        "train.py": train_source(
            experiment,
            predictor.multi_label,
            begins,
            kind.says,
            [id for id, name in names.items() if any(tensor.startswith(f"{name}.") for tensor in stored)],
        ),
        **taught.files,
    }
    if stored:
        (folder / START).write_bytes(save(stored))
    if experiment.training.augment:
        for name in ("augment.py", "shading.py"):  # they need nothing else of ours
            text = (Path(__file__).parent / name).read_text(encoding="utf-8")
            texts[name] = text.replace("from builder import shading", "import shading")
    if "from initial import begin" in texts["train.py"]:
        texts["initial.py"] = (Path(__file__).parent / "blocks" / "initial.py").read_text(encoding="utf-8")
    for name in beside:
        texts[name] = (Path(__file__).parent / name).read_text(encoding="utf-8")
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return ""


def _way(experiment: Experiment) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """How predict.py asks the network: (the text of its own, what that imports, the modules of ours beside it)."""
    if experiment.data.blocks:
        return "network_volumes.py.txt", ("cutting", "likeness", "torch"), ("cutting.py",)
    if experiment.data.fit == "patches":
        return "network_pictures.py.txt", ("likeness", "tiling", "torch"), ("tiling.py",)
    return "", (), ()


def put_nearness(folder: Path, predictor: Predictor, known: Nearness) -> dict[str, str] | None:
    """Writes nearness.npz, with which predict.py tells how far a scan lies from those of the training; which patient a
    row is of stays here.

    Returns: {layer: its name in model.py} for settings.json; None where the network has no layer that learns.
    """
    layer = attributes(predictor.experiment).get(last_layer(predictor))
    if layer is None:
        return None
    np.savez_compressed(folder / "nearness.npz", **{k: v for k, v in vars(known).items() if k != "own_patients"})
    return {"layer": layer}


def _serve_source() -> str:
    """The text of serve.py: predict.py over HTTP."""
    return (TEMPLATES / "serve.py.txt").read_text(encoding="utf-8")


def _tensors(net: nn.Module, names: Mapping[str, str]) -> dict[str, torch.Tensor]:
    """The state of the layers in `names` {node id: name in the exported class}, as the exported class calls it."""
    found = {}
    for key, tensor in net.state_dict().items():
        _, id, rest = key.split(".", 2)
        if id in names:
            found[f"{names[id]}.{rest}"] = tensor.detach().cpu().contiguous()
    return found


def _start(experiment: Experiment, num_classes: int, names: Mapping[str, str]) -> tuple[str, dict[str, torch.Tensor]]:
    """(one of `listing.BEGINS`, the stored weights that a training of the network begins with)."""
    begun = {}
    for node in experiment.network:
        untrained, given = LAYERS[node.name].untrained, network.settings(node)
        if any(given[name] != value for name, value in untrained.items()):
            begun[node.id] = names[node.id]
    if not begun and not experiment.weights:
        return "random", {}
    try:
        net = network.assemble_of(experiment, num_classes)
        if experiment.weights:
            begun |= {id: names[id] for id in reached(net, experiment.weights).begun}
        return "stored", _tensors(net, begun)
    except ValueError:  # a file of weights that somebody removed since
        return "gone", {}


def normalization(experiment: Experiment) -> tuple[np.ndarray, np.ndarray]:
    """(mean, std) per channel of a network that has seen no scan: those of the document, else 0 and 1."""
    from builder.batches import normalization as chosen

    data = experiment.data
    empty = np.zeros((0, *data.shape), np.uint8)
    mean, std = chosen(experiment, Prepared(empty, 255, np.zeros(data.channels), np.ones(data.channels)))
    return np.asarray(mean, np.float32), np.asarray(std, np.float32)
