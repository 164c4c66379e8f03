"""Networks of other tools as a document: Keras (.keras, its JSON config) and ONNX, read without running anyone's code.

Files are parsed in a child process with limits on memory, time and what it may write; no class of the file's choosing
is ever made, no other file is ever read. What has a layer in the catalog becomes that layer, with its weights; what has
none stays in the network under its own name, which the check then tells.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from builder import network
from builder.parts.layers import LAYERS
from builder.spec import INPUT, Data, Experiment, Node
from builder.weights import keep, surroundings

if TYPE_CHECKING:
    import torch

MAX_FILE_BYTES = 2 << 30
MAX_NODES = 1500
MAX_NUMBERS = 500_000_000
"""Largest number of weights that is taken in: 2 GB."""
_MEMORY_BYTES = 12 << 30  # the most, whatever the size of the file
_CPU_S, _WALL_S = 240, 300


class ForeignError(ValueError):
    """A file that cannot be taken in. Its text is one sentence for people."""


@dataclass(frozen=True)
class Imported:
    """A foreign network.

    Attributes:
        experiment: a new document with its layers and, as far as the file tells, the size of its scans.
        tensors: its weights by the names of `network.assemble_of(...).state_dict()`; {} where the file has none.
        num_classes: what its last layer puts out. missing: ids of layers that the catalog does not have.
        notes: what was changed or left out on the way, in words.
    """

    experiment: Experiment
    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    num_classes: int = 2
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def module(self) -> torch.nn.Module:
        """The network with its weights.

        Raises:
            ValueError: it has layers that the catalog does not have, or does not fit together.
        """
        import torch

        net = network.assemble_of(self.experiment, self.num_classes, trained=True)
        state = {name: torch.from_numpy(np.array(array)) for name, array in self.tensors.items()}
        lacking, _ = net.load_state_dict(state, strict=False)
        lacking = [name for name in lacking if not name.endswith("num_batches_tracked")]
        if lacking:
            raise ForeignError(f"The file has no weights for {lacking[0]} (and {len(lacking) - 1} more).")
        return net.eval()

    def stored(self) -> Imported:
        """The same with its weights in the data folder and named by the document: a training begins with them.

        Raises:
            WeightsError: they cannot be stored.
        """
        if not self.tensors:
            return self
        return replace(self, experiment=self.experiment.replace("weights", keep(self.tensors).sha256))

    def save_weights(self, file: Path) -> None:
        """Writes the weights as .safetensors."""
        from safetensors.numpy import save_file

        save_file({name: np.ascontiguousarray(array) for name, array in self.tensors.items()}, file)


def read(file: Path) -> Imported:
    """The network in a file of Keras or ONNX.

    Raises:
        ForeignError: it is neither, it is damaged or too large, or it asks for something that is never done.
    """
    file = Path(file).absolute()
    try:
        size = file.stat().st_size
    except OSError as error:
        raise ForeignError(f"{file.name} cannot be read ({(error.strerror or 'unknown reason').lower()}).") from None
    if size > MAX_FILE_BYTES:
        raise ForeignError(f"The file has {size / 1e9:.1f} GB; at most {MAX_FILE_BYTES / 1e9:.1f} GB are taken in.")
    with tempfile.TemporaryDirectory(prefix="scanloom-foreign-") as place:
        code = (
            f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r}); "
            "from builder.foreign_child import main; main(*sys.argv[1:])"
        )
        command = [sys.executable, "-I", "-B", "-c", code, str(file), place, str(_MEMORY_BYTES), str(_CPU_S)]
        try:
            done = subprocess.run(
                command, cwd=place, env=surroundings(), capture_output=True, text=True, timeout=_WALL_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise ForeignError("Reading this file takes too long; it may be damaged or malicious.") from None
        answer = Path(place) / "answer.json"
        if done.returncode or not answer.exists():
            raise ForeignError("This file could not be read within its limits; it may be damaged or malicious.")
        found = json.loads(answer.read_text(encoding="utf-8"))
        if "refused" in found:
            raise ForeignError(found["refused"])
        tensors = {}
        if (Path(place) / "weights.safetensors").exists():
            from safetensors.numpy import load_file

            tensors = load_file(Path(place) / "weights.safetensors")
    return Imported(
        Experiment.checked(found["experiment"]),
        tensors,
        int(found["num_classes"]),
        tuple(found["missing"]),
        tuple(found["notes"]),
    )


# -- putting a document together --------------------------------------------------------------------------------------


class Assembly:
    """Collects the layers of a foreign network; readers call it in the order in which the network computes."""

    def __init__(self, name: str, shape: Sequence[int], volume: bool = False) -> None:
        """`shape`: of one scan, channels first: (C, H, W), (S, C, H, W) or, with `volume`, (C, D, H, W)."""
        self.nodes: list[Node] = []
        self.tensors: dict[str, np.ndarray] = {}
        self.notes: list[str] = []
        self.missing: list[str] = []
        self.numbers = 0
        self.data = _data(tuple(shape), volume)
        self.name = name
        self.task, self.num_classes = Experiment().task, 2  # a file of another tool tells neither
        self._planning = network.Planning(self.data.shape, 2, self.data.layout)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one scan, as the document says."""
        return self.data.shape

    def add(
        self,
        layer: str,
        inputs: Sequence[str],
        params: dict[str, Any] | None = None,
        tensors: dict[str, np.ndarray] | None = None,
        hint: str = "",
    ) -> str:
        """Adds a layer of the catalog; returns the wire that it puts out. A setting at its default is left out.

        Raises:
            ForeignError: a setting outside its domain, or too many layers or numbers.
        """
        part = LAYERS[layer]
        chosen = {}
        for key, value in (params or {}).items():
            domain = part.param(key)
            parsed = domain.parse(value)
            if parsed != domain.default:
                chosen[key] = parsed
        id = self._place(layer, inputs, chosen, hint)
        for key, array in (tensors or {}).items():
            self.numbers += array.size
            if self.numbers > MAX_NUMBERS:
                raise ForeignError(f"The network has more than {MAX_NUMBERS:,} weights.")
            self.tensors[f"layers.{id}.{key}"] = np.asarray(array, np.float32)
        return id

    def unknown(self, label: str, inputs: Sequence[str], hint: str = "") -> str:
        """Adds what the catalog does not have, visible under its own name."""
        id = self._place(re.sub(r"[^\w .:()-]+", " ", label).strip()[:80] or "unknown", inputs, {}, hint)
        self.missing.append(id)
        return id

    def _place(self, name: str, inputs: Sequence[str], params: dict[str, Any], hint: str) -> str:
        if len(self.nodes) >= MAX_NODES:
            raise ForeignError(f"The network has more than {MAX_NODES} layers.")
        stem = re.sub(r"\W+", "_", hint or name, flags=re.ASCII).strip("_")[:36] or "layer"
        stem = stem if stem[0].isalpha() else f"layer_{stem}"[:36]
        taken = {node.id for node in self.nodes} | {INPUT}
        id = next(i for i in (stem, *(f"{stem[:32]}_{k}" for k in range(2, MAX_NODES + 3))) if i not in taken)
        above = self.nodes[-1].id if self.nodes else INPUT
        wires = () if tuple(inputs) == (above,) else tuple(inputs)
        self.nodes.append(Node(id=id, name=name, params=params, inputs=wires))
        return id

    def shape_of(self, wire: str) -> tuple[int, ...]:
        """Sizes of what a wire carries, batch left out.

        Raises:
            ForeignError: it cannot be told, since a layer above it is missing or does not fit.
        """
        while (k := len(self._planning.planned)) < len(self.nodes):  # each is planned once, as it was added
            node, above = self.nodes[k], self.nodes[k - 1].id if k else INPUT
            self._planning.add(node, node.inputs or (above,))
        shape = self._planning.along(wire)
        if shape is None:
            raise ForeignError(f"the size of what comes in cannot be told ({wire})")
        return shape

    def item(self, wire: str) -> tuple[int, ...]:
        """As `shape_of`, of one slice where a wire carries a series of them."""
        shape = self.shape_of(wire)
        return shape[1:] if self.data.layout == "series" and len(shape) == 4 else shape

    def channels(self, wire: str) -> int:
        """Channels of maps or of a volume."""
        return self.item(wire)[0]

    def each_channel(self, wire: str, factor: np.ndarray, term: np.ndarray, alone: bool, hint: str) -> str:
        """The wire behind a factor and a term (C,) for each channel: they go into the convolution right above where
        nothing else reads that (`alone`), else into one that looks at each channel and pixel alone.

        Raises:
            ForeignError: there are no maps.
        """
        rank, above = len(self.item(wire)) - 1, self.nodes[-1] if self.nodes else None
        if rank not in (2, 3):
            raise ForeignError("a number for each channel of what is no picture")
        weight, bias = f"layers.{wire}.weight", f"layers.{wire}.bias"
        if alone and above is not None and above.id == wire and above.name == f"conv{rank}d" and weight in self.tensors:
            before = self.tensors.get(bias, np.zeros_like(factor))
            self.tensors[weight] = self.tensors[weight] * factor.reshape(-1, *[1] * (rank + 1))
            self.tensors[bias] = before * factor + term
            params = {key: value for key, value in above.params.items() if key != "bias"}
            self.nodes[-1] = above.model_copy(update={"params": params})
            return wire
        params = {"out_channels": len(factor), "kernel_size": 1, "padding": 0, "groups": len(factor)}
        tensors = {"weight": factor.reshape(-1, *[1] * (rank + 1)), "bias": term}
        return self.add(f"conv{rank}d", [wire], params, tensors, hint)

    def _experiment(self) -> Experiment:
        name = self.name[:120] or "Imported"
        return Experiment(name=name, task=self.task, data=self.data, network=tuple(self.nodes))

    def finished(self) -> Imported:
        """The document; a linear layer at the end becomes the class scores, which fit any data set."""
        classes = self.num_classes
        if self.nodes:
            last = self.nodes[-1]
            if last.name == "linear" and last.params.get("bias", True):
                classes = int(last.params.get("out_features", LAYERS["linear"].defaults["out_features"]))
                self.nodes[-1] = last.model_copy(update={"name": "class_scores", "params": {}})
        planned = network.plan_of(self._experiment(), classes).nodes if not self.missing else ()
        each = {f"layers.{node.id}." for node in planned if node.each}
        tensors = {}
        for key, array in self.tensors.items():  # a layer that works on each item lies one step deeper
            owner = ".".join(key.split(".")[:2]) + "."
            tensors[f"{owner}layer.{key.removeprefix(owner)}" if owner in each else key] = array
        return Imported(self._experiment(), tensors, classes, tuple(self.missing), tuple(self.notes))


def through_volume(
    kernel: Sequence[int],
    stride: Sequence[int],
    border: Sequence[int],
    dilation: int = 1,
    more: Sequence[int] = (0, 0, 0),
) -> dict[str, int] | None:
    """Settings of our convolutions through volumes from what others say per axis (depth, height, width); None where
    height and width differ, or the border along the depth is not the one ours would have.

    `more`: what a transposed one adds to one side of each axis.
    """
    if any(a != b for _, a, b in (kernel, stride, border, more)):
        return None
    found = {"kernel_size": kernel[1], "stride": stride[1], "padding": border[1]}
    if stride[0] != stride[1]:
        found["depth_stride"] = stride[0]
    if kernel[0] != kernel[1] or border[0] != border[1]:
        found["depth_kernel_size"] = kernel[0]
        if border[0] != min(border[1], dilation * (kernel[0] - 1) // 2):
            return None
    return found if more[0] == (min(more[1], stride[0] - 1) if "depth_stride" in found else more[1]) else None


def _data(shape: tuple[int, ...], volume: bool) -> Data:
    """How scans become this input; sizes must be those a prepared scan can have."""
    if len(shape) not in (3, 4) or any(not isinstance(s, int) or s < 1 for s in shape):
        raise ForeignError(
            f"The network takes an input of shape {' x '.join(map(str, shape))}; pictures (channels, height, width), "
            "series and volumes of one fixed size can be taken in."
        )
    slices: dict[str, Any] = {} if len(shape) == 3 else {"slices": "volume" if volume else "series"}
    channels = shape[1] if len(shape) == 4 and not volume else shape[0]
    if slices:
        slices["num_slices"] = shape[1] if volume else shape[0]
    if shape[-1] != shape[-2]:
        raise ForeignError(f"The network takes scans of {shape[-1]} x {shape[-2]} px; only square ones are made here.")
    if channels not in (1, 3):
        raise ForeignError(f"The network takes {channels} channels; scans have one (grey) or three (colour).")
    found = Data(size_px=shape[-1], colour="rgb" if channels == 3 else "grey", normalize="none", **slices)
    from builder.parts.images import PREPARE

    for key, value in (("size_px", found.size_px), ("num_slices", found.num_slices)):
        try:
            PREPARE.param(key).parse(value)
        except ValueError as error:
            raise ForeignError(str(error)) from None
    return found
