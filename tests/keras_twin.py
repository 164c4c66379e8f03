"""Many small networks asked in Keras at once: starting Keras costs seconds, so one process answers for all of them."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import forks
import numpy as np
import torch

from builder.keras_text.writer import Unsupported, keras_model
from builder.tracing import trace

_ASK = """
import importlib.util, os, sys, zipfile
import keras, numpy
root = sys.argv[1]
for name in sorted(os.listdir(root)):
    place = os.path.join(root, name)
    try:
        spec = importlib.util.spec_from_file_location("model_" + name, os.path.join(place, "model.py"))
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        net, arrays = module.build(), {}
        with numpy.load(os.path.join(place, "weights.npz")) as stored:
            for key in stored.files:
                layer, _, number = key.rpartition("/")
                arrays.setdefault(layer, {})[int(number)] = stored[key]
        for layer, found in arrays.items():
            net.get_layer(layer).set_weights([found[k] for k in range(len(found))])
        net.save(os.path.join(place, "model.keras"))
        hint = os.path.join(place, "scanloom.json")
        if os.path.exists(hint):
            with zipfile.ZipFile(os.path.join(place, "model.keras"), "a") as archive:
                archive.write(hint, "scanloom.json")
        again = keras.saving.load_model(os.path.join(place, "model.keras"), safe_mode=True)
        images = numpy.load(os.path.join(place, "images.npy"))
        numpy.save(os.path.join(place, "answers.npy"), keras.ops.convert_to_numpy(again(images, training=False)))
    except Exception as error:
        with open(os.path.join(place, "error.txt"), "w") as file:
            file.write(type(error).__name__ + ": " + str(error)[:500])
"""


def asked(
    nets: dict[str, torch.nn.Module], images: dict[str, torch.Tensor], root: Path, hints: dict[str, str] | None = None
) -> dict[str, float | str]:
    """{name: largest difference between the network and its saved and loaded Keras twin, or why there is none}.

    `hints`: {name: what the export tells of the last layer}.
    """
    found: dict[str, float | str] = {}
    ours = {}
    for name, net in nets.items():
        place = root / name
        shape = tuple(images[name].shape[1:])
        try:
            made = keras_model(trace(net.eval(), shape), shape, name)
        except Unsupported as error:
            found[name] = f"unsupported: {error}"
            continue
        place.mkdir(parents=True)
        (place / "model.py").write_text(made.source)
        if hints:
            (place / "scanloom.json").write_text(hints[name])
        arrays = {f"{layer}/{k}": t.numpy() for layer, tensors in made.weights.items() for k, t in enumerate(tensors)}
        np.savez(place / "weights.npz", **arrays)  # type: ignore[arg-type]
        np.save(place / "images.npy", images[name].numpy())
        with torch.inference_mode():
            ours[name] = net(images[name]).numpy()
    environment = {**os.environ, "KERAS_BACKEND": "torch"}
    forks.run([sys.executable, "-c", _ASK, str(root)], env=environment, check=True, timeout=500, capture_output=True)
    for name, answer in ours.items():
        place = root / name
        if (place / "error.txt").exists():
            found[name] = (place / "error.txt").read_text()
            continue
        theirs = np.load(place / "answers.npy")
        found[name] = float(np.abs(theirs - answer).max()) if theirs.shape == answer.shape else f"shape {theirs.shape}"
    return found


_FILE = """
import importlib.util, json, os, sys
found = []
for k in range(int(sys.argv[2])):
    spec = importlib.util.spec_from_file_location(f"alone_{k}", os.path.join(sys.argv[1], f"{k}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found.append(json.loads(module.build().to_json())["config"])
print(json.dumps(found))
"""


def filed(texts: list[str], place: Path) -> dict[str, dict]:
    """{text: the config of the model that it makes}, as `keras_recognised.filed`, asked of Keras in one process."""
    place.mkdir(parents=True)
    for k, text in enumerate(texts):
        (place / f"{k}.py").write_text(text)
    environment = {**os.environ, "KERAS_BACKEND": "torch"}
    command = [sys.executable, "-c", _FILE, str(place), str(len(texts))]
    done = forks.run(command, env=environment, check=True, timeout=500, capture_output=True, text=True)
    return dict(zip(texts, json.loads(done.stdout.splitlines()[-1]), strict=True))
