"""The computational graph of a network: every operation on the way forward, every gradient on the way back.

Both are read off torch itself while the network runs on the meta device, where nothing is computed: the way forward
from the operators that are called, the way back from autograd's own graph (`grad_fn`, `next_functions`), down to the
`AccumulateGrad` of each weight. Operations are grouped by the layer that they belong to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

from builder import network
from builder.network import Shape, show
from builder.spec import INPUT, Experiment, Node

if TYPE_CHECKING:
    import torch

LOSS = "loss"
"""The name of the group that holds the loss."""
COLLAPSED = 40
"""Operations a layer may have before it is drawn as one."""

Edge = tuple[str, str]


@dataclass(frozen=True)
class Operation:
    """One step of the computation.

    Attributes:
        kind: "forward"; "backward": a node of autograd's graph; "weight": where the gradient of a weight arrives;
            "scan": what goes in.
        layer: id of the node it belongs to, "input" or "loss". name: torch's own. shape: of what comes out, () unknown.
        note: a weight's name in its layer; of several operations drawn as one, how many.
    """

    id: str
    kind: str
    layer: str
    name: str
    shape: Shape = ()
    note: str = ""


@dataclass(frozen=True)
class Graph:
    """Operations in the order of their execution; edges as pairs of ids, in the direction in which numbers flow.

    `layers`: the groups in order, with what people call them.
    """

    operations: tuple[Operation, ...]
    forward: tuple[Edge, ...]
    backward: tuple[Edge, ...]
    layers: tuple[tuple[str, str], ...]

    def of(self, layer: str) -> list[Operation]:
        """The operations of one layer."""
        return [o for o in self.operations if o.layer == layer]

    def by_layer(self, more_than: int = 0) -> Graph:
        """The graph with each layer of more than `more_than` operations drawn as one each way, weights together."""
        new: dict[str, str] = {}
        made: dict[str, Operation] = {}
        for layer, _ in self.layers:
            own = self.of(layer)
            if len([o for o in own if o.kind in ("forward", "backward")]) <= more_than or layer == INPUT:
                made |= {o.id: o for o in own}
                new |= {o.id: o.id for o in own}
                continue
            for kind in ("forward", "backward", "weight"):
                parts = [o for o in own if o.kind == kind]
                if not parts:
                    continue
                one = parts[0] if kind != "forward" else parts[-1]
                if len(parts) > 1:
                    numbers = sum(prod(o.shape) for o in parts)
                    words = {
                        "forward": f"{len(parts)} operations",
                        "backward": f"{len(parts)} steps back",
                        "weight": f"{len(parts)} weights",
                    }[kind]
                    note = f"{numbers:,} numbers" if kind == "weight" else ""
                    shape = () if kind == "weight" else one.shape
                    one = replace(one, id=f"{layer}.{kind}", name=words, note=note, shape=shape)
                made[one.id] = one
                new |= {o.id: one.id for o in parts}

        def moved(edges: Sequence[Edge]) -> tuple[Edge, ...]:
            found = [(new[a], new[b]) for a, b in edges]
            return tuple(dict.fromkeys((a, b) for a, b in found if a != b))

        return Graph(tuple(made.values()), moved(self.forward), moved(self.backward), self.layers)


def trace(experiment: Experiment, num_classes: int, titles: dict[str, str] | None = None) -> Graph:
    """Runs an experiment's network forward and back on the meta device and writes down what happens.

    Args:
        titles: what people call each layer, by its id (default: the id).
    Raises:
        ValueError: the network cannot be planned; all sentences at once.
    """
    import torch

    with torch.device("meta"):
        net = network.assemble_of(experiment, num_classes, trained=True)
        scan = torch.empty((2, *network.input_shape(experiment)))
    called = titles or {}
    layers = ((INPUT, "Scan"), *((n.id, called.get(n.id, n.id)) for n in experiment.network), (LOSS, "Loss"))
    return record(net, scan, experiment.network, layers)


def record(net: Any, scan: torch.Tensor, nodes: Sequence[Node], layers: tuple[tuple[str, str], ...]) -> Graph:
    """Writes down one pass, forward and back, of a `blocks.network.Network` in training mode over a batch `scan`."""
    import torch
    from torch.nn import functional

    net.train()
    recorder = _Recorder(scan)
    outs: dict[str, tuple[torch.Tensor, ...]] = {}

    def begin(id: str) -> Any:
        def hook(module: Any, args: Any) -> None:
            recorder.layer = id

        return hook

    def end(id: str) -> Any:
        def hook(module: Any, args: Any, out: Any) -> None:
            outs[id] = out if isinstance(out, tuple) else (out,)
            recorder.layer = LOSS

        return hook

    modules = net.get_submodule("layers")
    hooks = [modules[n.id].register_forward_pre_hook(begin(n.id)) for n in nodes]
    hooks += [modules[n.id].register_forward_hook(end(n.id)) for n in nodes]
    try:
        with recorder.mode():
            result = net(scan)
            if result.dim() == 2:  # class scores
                loss = functional.cross_entropy(result, torch.zeros(len(result), dtype=torch.long, device=scan.device))
            else:
                loss = result.square().mean()
    finally:
        for hook in hooks:
            hook.remove()
    outs[LOSS] = (loss,)
    names = {id(p): name for name, p in net.named_parameters()}
    operations, backward = _back(outs, names)
    first = next((o.id for o in operations if o.layer == LOSS and o.kind == "backward"), "")
    root = [(recorder.last, first)] if first else []
    return Graph(
        tuple(recorder.operations + operations),
        tuple(dict.fromkeys(recorder.edges)),
        tuple(dict.fromkeys(root + backward)),
        layers,
    )


class _Recorder:
    """Writes down each operator that something made of the scan goes into."""

    def __init__(self, scan: torch.Tensor) -> None:
        from torch.utils.weak import WeakIdKeyDictionary

        self.operations = [Operation("scan", "scan", INPUT, "scan", tuple(scan.shape[1:]))]
        self.edges: list[Edge] = []
        self.layer = INPUT
        self._source: Any = WeakIdKeyDictionary()
        self._source[scan] = "scan"

    @property
    def last(self) -> str:
        return self.operations[-1].id

    def mode(self) -> Any:
        from torch.utils._python_dispatch import TorchDispatchMode

        recorder = self

        class Writing(TorchDispatchMode):
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                out = func(*args, **(kwargs or {}))
                recorder.note(func.overloadpacket.__name__, [*args, *(kwargs or {}).values()], out)
                return out

        return Writing()

    def note(self, name: str, args: list[Any], out: Any) -> None:
        """Adds one call; what only renames a tensor (detach, alias) is passed through."""
        sources = [self._source[t] for t in _tensors(args) if t in self._source]
        if not sources:
            return
        results = _tensors(out if isinstance(out, list | tuple) else [out])
        if name in ("detach", "alias", "lift_fresh") or not results:
            for result in results:
                self._source[result] = sources[0]
            return
        id = f"f{len(self.operations)}"
        self.operations.append(Operation(id, "forward", self.layer, name, tuple(results[0].shape[1:])))
        self.edges += [(source, id) for source in sources]
        for result in results:
            self._source[result] = id


def _tensors(values: Any) -> list[Any]:
    import torch

    found = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += [v for v in value if isinstance(v, torch.Tensor)]
    return found


def _back(outs: dict[str, tuple[Any, ...]], names: dict[int, str]) -> tuple[list[Operation], list[Edge]]:
    """Autograd's graph, grouped: what hangs below a layer's output and below no earlier one's belongs to that layer."""
    ids: dict[Any, str] = {}
    found: list[Operation] = []
    edges: list[Edge] = []

    def id_of(function: Any) -> str:
        return ids.setdefault(function, f"b{len(ids)}")

    done: set[Any] = set()
    for layer, tensors in outs.items():
        pending = [t.grad_fn for t in tensors if t.grad_fn is not None]
        while pending:
            function = pending.pop(0)
            if function in done:
                continue
            done.add(function)
            weight = getattr(function, "variable", None)
            if weight is not None:
                full = names.get(id(weight), "")
                owner = full.split(".")[1] if full.startswith("layers.") else layer
                short = ".".join(full.split(".")[2:]) or full
                found.append(Operation(id_of(function), "weight", owner, "AccumulateGrad", tuple(weight.shape), short))
                continue
            found.append(Operation(id_of(function), "backward", layer, function.name().rsplit("::", 1)[-1]))
            for below, _ in function.next_functions:
                if below is not None:
                    edges.append((id_of(function), id_of(below)))
                    pending.append(below)
    return found, edges


def sentence(graph: Graph) -> str:
    """The graph in a few words."""
    count = {kind: len([o for o in graph.operations if o.kind == kind]) for kind in ("forward", "backward", "weight")}
    numbers = sum(prod(o.shape) for o in graph.operations if o.kind == "weight")
    return (
        f"{count['forward']} operations forward, {count['backward']} back; gradients arrive at {count['weight']} "
        f"weights of {numbers:,} numbers in all. The scan itself, {show(graph.operations[0].shape)}, needs none."
    )
