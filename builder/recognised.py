"""A layer of ours found again in a graph of another tool's operators.

Heads that find boxes are dozens of small operators for which there is no layer each. Our exports tell beside the graph
which layer a network ends with; that is no more than a hint. The layer is written down anew, alone, with a number of
its own for every weight, and the two graphs are compared operator by operator, from the output up. Where they are the
same, the file's graph is this layer; where each marked number came to lie tells which weight of the file it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from builder import network
from builder.foreign import MAX_NUMBERS, ForeignError
from builder.parts.layers import LAYERS
from builder.spec import Experiment, Node

if TYPE_CHECKING:
    import torch

FILE = "scanloom.json"
"""Member of a .keras file that holds the hint."""
KEY = "scanloom.network_end"
"""Entry of an ONNX model's metadata that holds it."""
_MOST_WEIGHTS = 500_000_000
_MARK = 0x0DA24260  # 1e-30 as a float32; the marks after it are the floats that follow, far below any true constant


@dataclass(frozen=True)
class Hint:
    """The layer that a network ends with, as its export told it.

    Attributes:
        shapes: of what feeds it, batch left out. num_classes, scan: number of classes, and shape of the scan.
    """

    node: Node
    shapes: tuple[tuple[int, ...], ...]
    num_classes: int
    scan: tuple[int, ...]
    task: str


def told(experiment: Experiment, num_classes: int) -> str:
    """The hint about a network, as JSON."""
    planned = network.plan_of(experiment, num_classes)
    last, node = planned.nodes[-1], experiment.network[-1]
    shapes = [planned.along(wire) for wire in last.inputs]
    facts = {"id": node.id, "layer": node.name, "params": node.params, "shapes": shapes, "num_classes": num_classes}
    return json.dumps({**facts, "task": experiment.task})


def hint(text: str | bytes | None, scan: tuple[int, ...]) -> Hint | None:
    """The hint in a file; None where there is none, or none that can be understood."""
    try:
        facts = json.loads(text or "{}")
        node = Node(id=facts["id"], name=facts["layer"], params=facts["params"])
        shapes = tuple(tuple(int(size) for size in shape) for shape in facts["shapes"])
        found = Hint(node, shapes, int(facts["num_classes"]), scan, str(facts["task"])[:80])
        network.settings(node)
    except (ValueError, KeyError, TypeError, RecursionError):  # an unknown layer is a KeyError
        return None
    numbers = [found.num_classes, *(size for shape in shapes for size in shape)]
    bounded = shapes and len(shapes) <= 16 and all(0 < n <= 1 << 16 for n in numbers) and found.num_classes <= 4096
    return found if bounded and sum(map(prod, shapes)) <= MAX_NUMBERS else None


# -- graphs -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Operation:
    """What makes a value. `kind`: the operator with all its settings. `arrays`: what it holds of its own."""

    kind: str
    inputs: tuple[str, ...]
    arrays: tuple[np.ndarray, ...] = ()


@dataclass
class Graph:
    """Operators in a form that two graphs of one tool can be compared in.

    Attributes:
        made: {value: what makes it}. fixed: values that are known. begins: what is given. end: what comes out.
        idle: {kind of an operation: number with which it changes nothing}, such as 0 for a sum: exporters leave these
            out.
    """

    end: str
    begins: tuple[str, ...] = ()
    made: dict[str, Operation] = field(default_factory=dict)
    fixed: dict[str, np.ndarray] = field(default_factory=dict)
    idle: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Recognised:
    """A layer that a graph ends with.

    Attributes:
        feeds: values of the graph that feed it. inside: values that are its own. tensors: its weights, by the names of
            its state dict.
    """

    hint: Hint
    feeds: tuple[str, ...]
    inside: frozenset[str]
    tensors: dict[str, np.ndarray]

    def placed(self, out: Any, wires: list[str]) -> str:
        """Adds the layer to a network that is put together (`Assembly`), fed by `wires`; returns its wire.

        Raises:
            ForeignError: what feeds it has other sizes than it was told.
        """
        shapes = tuple(tuple(out.shape_of(wire)) for wire in wires)
        if shapes != self.hint.shapes or tuple(out.shape) != self.hint.scan:
            raise ForeignError("what feeds the last layer has other sizes than the file says")
        out.num_classes, out.task = self.hint.num_classes, self.hint.task
        node = self.hint.node
        return str(out.add(node.name, wires, dict(node.params), self.tensors, node.id))


class Marked:
    """A layer whose every weight is a number of its own."""

    def __init__(self, hint: Hint) -> None:
        """Raises ForeignError where the layer cannot be built, or is too large."""
        import torch

        self.hint = hint
        try:
            with torch.device("meta"):
                sizes = self._built().state_dict()
            if sum(t.numel() for t in sizes.values()) > min(_MOST_WEIGHTS, MAX_NUMBERS):
                raise ForeignError("The last layer of this network has more weights than can be taken in.")
            self.layer = self._built().eval()
        except ForeignError:
            raise
        except Exception as error:  # sizes that a file says may make a layer stumble in any way
            raise ForeignError("The last layer that this file tells of cannot be built.") from error
        self.places: dict[str, tuple[int, tuple[int, ...]]] = {}
        count = 0
        with torch.no_grad():
            for key, tensor in self.layer.state_dict().items():
                if tensor.dtype != torch.float32:
                    raise ForeignError("The last layer of this network keeps numbers that are no weights.")
                self.places[key] = (count, tuple(tensor.shape))
                marks = np.arange(_MARK + count, _MARK + count + tensor.numel(), dtype=np.uint32)
                tensor.copy_(torch.from_numpy(marks.view(np.float32)).reshape(tensor.shape))
                count += tensor.numel()
        self.count = count

    def _built(self) -> torch.nn.Module:
        hint = self.hint
        spec = LAYERS[hint.node.name]
        takes = spec.most if spec.most else 1 if spec.inputs == 1 else len(hint.shapes)
        if len(hint.shapes) > takes:
            raise ForeignError("The last layer that this file tells of takes fewer inputs.")
        return network.build(hint.node, hint.shapes, hint.num_classes, trained=True, scan=hint.scan)

    def compared(self, ours: Graph, theirs: Graph) -> Recognised | None:
        """The layer with the weights of `theirs`, where that ends with the operators of `ours`; None where it differs.

        Args:
            ours: this layer alone, begun by its inputs in order.
        """
        same: dict[str, str] = {}  # {value of ours: value of theirs}
        arrays: list[tuple[np.ndarray, np.ndarray]] = []
        waiting = [(ours.end, theirs.end)]
        while waiting:
            here, there = waiting.pop()
            if here in same:
                if same[here] != there:
                    return None
                continue
            if here in ours.fixed:  # one constant of ours may be two of theirs
                if there not in theirs.fixed:
                    return None
                arrays.append((ours.fixed[here], theirs.fixed[there]))
                continue
            same[here] = there
            if here in ours.begins or not here:
                if there in theirs.fixed or bool(here) != bool(there):
                    return None
                continue
            own, other = ours.made.get(here), theirs.made.get(there)
            if own is not None and own.kind in ours.idle and (other is None or own.kind != other.kind):
                known = [name for name in own.inputs if name in ours.fixed]
                rest = [name for name in own.inputs if name not in ours.fixed]
                if len(known) != 1 or len(rest) != 1:
                    return None
                array = ours.fixed[known[0]]
                arrays.append((array, np.full_like(array, ours.idle[own.kind])))
                waiting.append((rest[0], there))
                continue
            if own is None or other is None or own.kind != other.kind or len(own.inputs) != len(other.inputs):
                return None
            if len(own.arrays) != len(other.arrays):
                return None
            arrays += zip(own.arrays, other.arrays, strict=True)
            waiting += zip(own.inputs, other.inputs, strict=True)
        if any(begin not in same for begin in ours.begins):
            return None
        tensors = self._weights(arrays)
        feeds = tuple(same[begin] for begin in ours.begins)
        inside = frozenset(there for here, there in same.items() if here and here not in ours.begins)
        return None if tensors is None or inside & set(feeds) else Recognised(self.hint, feeds, inside, tensors)

    def _weights(self, arrays: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, np.ndarray] | None:
        """The weights by name, of pairs of arrays of which the first hold marks or what is the same in every file."""
        values, known = np.zeros(self.count, np.float32), np.zeros(self.count, bool)
        for own, other in arrays:
            if own.shape != other.shape or own.dtype != other.dtype:
                return None
            if own.dtype != np.float32:
                if not np.array_equal(own, other):
                    return None
                continue
            marks = np.ascontiguousarray(own).reshape(-1).view(np.uint32).astype(np.int64) - _MARK
            flat = np.ascontiguousarray(other).reshape(-1)
            marked = (marks >= 0) & (marks < self.count)
            if not np.allclose(own.reshape(-1)[~marked], flat[~marked], rtol=1e-6, atol=0, equal_nan=True):
                return None
            places, found = marks[marked], flat[marked]
            before = known[places]
            again = values[places][before]
            values[places], known[places] = found, True
            if not np.array_equal(again, found[before]) or not np.array_equal(values[places], found):
                return None  # what the layer shares, such as towers over several maps, must be shared there too
        if not known.all():
            return None
        return {key: values[at : at + prod(shape)].reshape(shape) for key, (at, shape) in self.places.items()}


def settled(facts: Mapping[str, Any]) -> str:
    """Settings of an operator as one text."""
    return json.dumps(facts, sort_keys=True, default=repr)
