"""The Keras 3 export: model.py (one line a layer), model.keras and model.weights.h5, and a predict.py.

The files of Keras are made by running that model.py in a process of its own, on Keras' torch backend; so what is proven
is what is handed out, and Keras is never imported here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from builder import task
from builder.keras_text.writer import Unsupported, keras_model, refused
from builder.listing import predict_source
from builder.network import input_shape
from builder.predict import Predictor
from builder.recognised import FILE, told
from builder.tracing import trace

if TYPE_CHECKING:
    from torch.export import ExportedProgram

TOLERANCE = 1e-4
"""Largest difference of a probability between the app and the exported model."""

_MAKE = """
import os, sys
os.environ["KERAS_BACKEND"] = "torch"
sys.path.insert(0, sys.argv[1])
import numpy
import model
net = model.build()
arrays = {}
with numpy.load(os.path.join(sys.argv[1], "weights.npz"), allow_pickle=False) as stored:
    for key in stored.files:
        layer, _, number = key.rpartition("/")
        arrays.setdefault(layer, {})[int(number)] = stored[key]
for layer, found in arrays.items():
    net.get_layer(layer).set_weights([found[k] for k in range(len(found))])
net.save(os.path.join(sys.argv[1], "model.keras"))
net.save_weights(os.path.join(sys.argv[1], "model.weights.h5"))
import zipfile
with zipfile.ZipFile(os.path.join(sys.argv[1], "model.keras"), "a") as archive:
    archive.write(os.path.join(sys.argv[1], "{FILE}"), "{FILE}")
for file in ("weights.npz", "{FILE}"):
    os.remove(os.path.join(sys.argv[1], file))
del net
"""


def unsupported(program: ExportedProgram) -> list[tuple[str, str]]:
    """(path of the layer, what Keras lacks for it) of every operator without a counterpart; `program` of a network on
    torch's meta device.
    """
    return refused(program)


def write(folder: Path, predictor: Predictor) -> str:
    """Writes model.py, predict.py and the weights; returns the code that makes Keras' own files of them."""
    experiment = predictor.experiment
    shape = input_shape(experiment)
    made = keras_model(trace(predictor.net, shape), shape, experiment.name)
    arrays = {
        f"{layer}/{k}": tensor.cpu().numpy()
        for layer, tensors in made.weights.items()
        for k, tensor in enumerate(tensors)
    }
    np.savez(folder / "weights.npz", **cast(Any, arrays))
    (folder / FILE).write_text(told(experiment, len(predictor.classes)), encoding="utf-8")
    (folder / "model.py").write_text(made.source, encoding="utf-8")
    kind = task.find(experiment.task)
    text = predict_source("network_keras.py.txt", "os", says=kind.says, activated=kind.activated_keras)
    (folder / "predict.py").write_text(text, encoding="utf-8")
    return _MAKE.replace("{FILE}", FILE)


__all__ = ["TOLERANCE", "Unsupported", "unsupported", "write"]
