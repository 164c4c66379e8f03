"""The walk through an ONNX graph, and the tables of what its operators become."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from builder.foreign import Assembly, ForeignError, Imported
from builder.recognised import Recognised
from builder.recurrence import ChannelsLast, Half, settled
from builder.spec import INPUT

if TYPE_CHECKING:
    import onnx


class Skip(Exception):
    """A node that has no counterpart; its words follow the operator's name."""


class Reader:
    """Goes through the nodes of a graph, which ONNX keeps in the order in which they compute."""

    def __init__(self, model: onnx.ModelProto, last: Recognised | None = None) -> None:
        """`last`: what the graph ends with, where that was found to be one layer of ours."""
        from onnx import numpy_helper

        self.last = last
        self.graph = model.graph
        self.opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=1)
        facts = {p.key: p.value for p in model.metadata_props if p.key.startswith("scanloom.network_")}
        self.begin = text(facts.get("scanloom.network_input"))
        self.end = text(facts.get("scanloom.network_output"))
        self.fixed: dict[str, np.ndarray] = {}
        try:
            for tensor in self.graph.initializer:
                self.fixed[tensor.name] = numpy_helper.to_array(tensor)
        except (ValueError, TypeError) as error:
            raise ForeignError("The weights of this graph are damaged.") from error
        self.initial = dict(self.fixed)
        self.output = self.end or (self.graph.output[0].name if self.graph.output else "")
        self.wires: dict[str, Any] = {}  # a wire, or a part of a recurrent layer that is no layer yet
        self.users: dict[str, list[Any]] = {}
        for node in self.graph.node:
            for name in node.input:
                self.users.setdefault(name, []).append(node)

    def read(self) -> Imported:
        source, shape, whole = self._input()
        deep = any(
            node.op_type == "Conv" and len(self.fixed.get(node.input[1], np.zeros(0)).shape) == 5
            for node in self.graph.node
            if len(node.input) > 1
        )
        self.out = Assembly(self.graph.name or "ONNX graph", shape, volume=deep)
        self.wires[source] = INPUT
        if whole:
            self.out.notes.append(
                "The graph takes whole numbers, such as 0 to 255. Scans come here as numbers from 0 to 1: its answers "
                "mean nothing until it has learned again."
            )
        for node in self._nodes():
            if self.last is None or self.last.inside.isdisjoint(node.output):
                self._node(node)
        if self.last is not None:
            feeds = [self.settled(name, "last") for name in self.last.feeds]
            self.wires[self.output] = self.last.placed(self.out, feeds)
        if self.out.nodes and self._end(self.output) != self.out.nodes[-1].id:
            raise ForeignError("The output of this graph is not its last layer; that is not taken in.")
        return self.out.finished()

    def _end(self, name: str) -> str:
        """The wire behind the output; a recurrent layer there that does not fit stays visible."""
        try:
            return self.settled(name, "last")
        except (Skip, ForeignError) as error:
            self.out.notes.append(f"{name}: there is no layer here for what it ends with ({error}).")
            return self.out.unknown("ONNX recurrent layer", [], "last")

    def _nodes(self) -> list[Any]:
        """The nodes between the input and the output of the network."""
        if not self.end:
            return list(self.graph.node)
        found: list[Any] = []
        reached = {self.begin}
        for node in self.graph.node:
            feeds = [name for name in node.input if name and name not in self.fixed]
            if any(name in reached for name in feeds) or (not feeds and node.op_type == "Constant"):
                found.append(node)
                reached |= set(node.output) if feeds else set()
            if self.end in node.output:
                break
        return found

    def _input(self) -> tuple[str, tuple[int, ...], bool]:
        """(name of the value that the network begins with, its shape without the batch, whether whole numbers)."""
        from onnx import TensorProto

        if self.begin:
            known = [v for v in self.graph.value_info if v.name == self.begin]
        else:
            known = [v for v in self.graph.input if v.name not in self.fixed]
            if len(known) != 1:
                raise ForeignError(f"The graph has {len(known)} inputs; a network here has one, the scan.")
        if not known:
            raise ForeignError("The graph does not say what its network begins with.")
        dims = known[0].type.tensor_type.shape.dim
        shape = tuple(int(d.dim_value) for d in dims)
        if len(shape) < 4 or any(s < 1 for s in shape[1:]):
            raise ForeignError(
                "The graph takes scans of any size, or no pictures; a network here has one size. Fix its input shape."
            )
        kinds = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16
        return known[0].name, shape[1:], known[0].type.tensor_type.elem_type not in kinds

    def _node(self, node: Any) -> None:
        settings = {a.name: setting(a) for a in node.attribute}
        feeds = [self.wires[name] for name in node.input if name in self.wires]
        name = node.output[0] if node.output else node.name
        if feeds and all(isinstance(feed, Sizes) for feed in feeds):
            own = [self.fixed[i] for i in node.input if i in self.fixed]
            grown = node.op_type in ("Expand", "ConstantOfShape") and any(array.any() for array in own)
            self.wires[name] = Sizes("filled" if grown else "sizes")
            return
        try:
            if node.domain not in ("", "ai.onnx"):
                raise Skip(f"of {node.domain}"[:40])
            if not feeds and self._folded(node, settings):
                return
            if node.op_type in OF_PARTS and (made := OF_PARTS[node.op_type](self, node, settings)) is not None:
                self.wires[name] = made
                return
            feeds = [self.settled(i, hint_of(node)) for i in node.input if i in self.wires]
            if node.op_type not in TABLE:
                raise Skip("")
            wire = TABLE[node.op_type](self, node, settings)
        except (Skip, ForeignError, ValueError, KeyError, TypeError, IndexError) as error:
            if not feeds:
                return  # what depends on no scan and is not understood: whoever needs it says so
            why = f" ({error})" if isinstance(error, Skip | ForeignError | ValueError) and str(error) else ""
            self.out.notes.append(f"{name}: there is no layer here for ONNX {node.op_type}{why}.")
            known = [feed for feed in feeds if isinstance(feed, str) and not isinstance(feed, Sizes)]
            wire = self.out.unknown(f"ONNX {node.op_type}", known or [INPUT], hint_of(node))
        self.wires[name] = wire

    def _folded(self, node: Any, settings: dict[str, Any]) -> bool:
        """Takes note of what is a constant; says whether it was one."""
        if node.op_type == "Constant":
            value = settings.get(
                "value", settings.get("value_float", settings.get("value_int", settings.get("value_ints")))
            )
            if value is not None:
                self.fixed[node.output[0]] = np.asarray(value)
                return True
        if node.op_type == "Identity" and node.input[0] in self.fixed:
            self.fixed[node.output[0]] = self.fixed[node.input[0]]
            return True
        return False

    # -- what the converters share --

    def settled(self, name: str, hint: str) -> str:
        """The wire behind a value, which becomes a layer now if it was not one yet."""
        if isinstance(self.wires.get(name), Grouped):
            raise Skip("of channels in groups")
        if isinstance(self.wires.get(name), ChannelsLast | Half):
            raise Skip(self.wires[name].words)
        if name in self.wires and not isinstance(self.wires[name], str):
            self.wires[name] = settled(self.out, self.wires[name], hint)
        return str(self.wires.get(name, ""))

    def wire(self, node: Any, k: int = 0) -> str:
        """The wire behind an input of a node."""
        if node.input[k] not in self.wires:
            raise Skip("of a constant")
        return str(self.wires[node.input[k]])

    def array(self, node: Any, k: int) -> np.ndarray | None:
        """The constant behind an input of a node; None where the input is left out."""
        if k >= len(node.input) or not node.input[k]:
            return None
        if node.input[k] not in self.fixed:
            raise Skip("whose weights depend on the scan")
        return self.fixed[node.input[k]]

    def single(self, wire: str) -> bool:
        """Says whether one node alone reads what a wire carries, so that the layer behind it may become another."""
        names = [name for name, found in self.wires.items() if isinstance(found, str) and found == wire]
        told = {self.end, *(value.name for value in self.graph.output)}
        return sum(len(self.users.get(name, ())) for name in names) == 1 and told.isdisjoint(names)

    def rank(self, wire: str) -> int:
        """Number of axes of what a wire carries, the batch among them."""
        return len(self.out.shape_of(wire)) + 1


class Sizes(str):
    """What depends on the number of scans only: sizes, and zeros of such a size ("filled": other numbers)."""


@dataclass(frozen=True)
class Grouped:
    """Maps whose channels were laid together in groups, (B, groups, the rest), and whether each group was normalized:
    how a group norm is written down before operator set 18."""

    wire: str
    groups: int
    normalized: bool = False


def text(value: str | None) -> str:
    try:
        found = json.loads(value) if value else ""
    except ValueError:
        return ""
    return found if isinstance(found, str) else ""


def hint_of(node: Any) -> str:
    """A short name: torch's exporter files nodes under the path of their module."""
    for prop in node.metadata_props:
        if prop.key == "pkg.torch.onnx.name_scopes":
            scopes = [part.strip(" '\"") for part in prop.value.strip("[]").split(",")]
            path = [s for s in scopes if s.startswith(("net.", "layers."))]
            if path:
                return path[-1].removeprefix("net.").removeprefix("net.").removeprefix("layers.").replace(".", "_")
    return node.name.rpartition("/")[2] or node.op_type.lower()


def setting(attribute: Any) -> Any:
    from onnx import helper, numpy_helper

    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if hasattr(value, "raw_data"):
        if value.external_data:
            raise ForeignError("This graph keeps its weights in another file, which is never read.")
        return numpy_helper.to_array(value)
    return value


Converter = Callable[[Reader, Any, dict[str, Any]], str]
TABLE: dict[str, Converter] = {}


def converts(*kinds: str) -> Callable[[Converter], Converter]:
    def note(converter: Converter) -> Converter:
        TABLE.update(dict.fromkeys(kinds, converter))
        return converter

    return note


OfParts = Callable[[Reader, Any, dict[str, Any]], Any]
OF_PARTS: dict[str, OfParts] = {}
"""Kinds that work on what is no layer yet, such as parts of recurrent layers or of group norms; a converter that
returns None leaves the node to `TABLE`."""


def one(values: Any, what: str, default: int) -> int:
    if values is None:
        return default
    if len(set(values)) != 1:
        raise Skip(f"{what} differs between the axes")
    return int(values[0])
