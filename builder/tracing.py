"""A network as the graph of ATen operators it runs: what every foreign format is written from.

Operators are few, layers are many. A format that knows the operators knows every layer of the catalogue and every timm
model that is made of them, and no layer needs a second description.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from torch.export import ExportedProgram
    from torch.fx import Node


class Untraceable(ValueError):
    """A network whose operators depend on the scans, so that they cannot be written down once. In words."""


def trace(net: torch.nn.Module, shape: Sequence[int], device: str = "cpu") -> ExportedProgram:
    """The network in evaluation as a `torch.export` program, for any number of scans at a time.

    Args:
        net: takes one batch, (B, *shape) float32. shape: of one scan. device: "cpu", or "meta" for a network without
            numbers, which tells the operators all the same.
    Raises:
        Untraceable: torch cannot write the network down.
    """
    import torch

    class Whole(torch.nn.Module):
        """One named input, whatever the network calls its own."""

        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, image: torch.Tensor) -> Any:
            return self.net(image)

    from torch.export import Dim

    return _program(Whole(), (shape,), ({0: Dim.DYNAMIC},), device)


def trace_layer(layer: torch.nn.Module, shapes: Sequence[Sequence[int]]) -> ExportedProgram:
    """One layer alone as `trace` has a network: `shapes` are those of its inputs, batch left out.

    Raises:
        Untraceable: torch cannot write the layer down.
    """
    import torch

    class Alone(torch.nn.Module):
        """Inputs that are called alike, whatever the layer calls its own."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, *maps: torch.Tensor) -> Any:
            return self.layer(*maps)

    from torch.export import Dim

    return _program(Alone(), shapes, (tuple({0: Dim.DYNAMIC} for _ in shapes),), "cpu")


def _program(whole: torch.nn.Module, shapes: Sequence[Sequence[int]], free: Any, device: str) -> ExportedProgram:
    """`free`: which sizes are no rule, as `torch.export` takes it."""
    import torch
    from torch.export import export

    with quiet(), torch.no_grad():
        try:
            with torch.device(device):
                # A batch of one would be taken for a rule that there is always one.
                given = tuple(torch.zeros(2, *shape) for shape in shapes)
                program = export(whole.eval(), given, dynamic_shapes=free)
                _without_dead_ends(program.graph_module.graph)
                _without_needless_overwriting(program.graph_module.graph)
                return program
        except Exception as error:  # what export raises is of many kinds, and none is promised
            said = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise Untraceable(f"torch cannot write this network down as a graph: {said[:200]}") from error


def _without_dead_ends(graph: Any) -> None:
    """Takes out operators that do not lead to the output, such as stages of a backbone that nobody asks for: formats
    that know only ways to the output could not hold their weights.

    torch's own `eliminate_dead_code` keeps whatever leads to an operator that works in place, such as most ReLUs.
    """
    asked: set[Any] = set()
    for node in reversed(list(graph.nodes)):
        changes = bool(getattr(getattr(node.target, "_schema", None), "is_mutable", False))
        if node.op != "call_function" or node in asked or (changes and asked & set(node.all_input_nodes)):
            asked.update(node.all_input_nodes)
        elif not node.users:
            graph.erase_node(node)


def _without_needless_overwriting(graph: Any) -> None:
    """Lets an operator that works in place, such as most ReLUs, make a tensor of its own where nobody else asks for the
    one it would have overwritten: the same numbers, and torch's exporter need not take the overwriting apart.
    """
    import torch

    for node in graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if node.op != "call_function" or schema is None or not schema.is_mutable:
            continue
        given, name = node.args[0], schema.name.removeprefix("aten::")
        plain = getattr(getattr(torch.ops.aten, name.rstrip("_"), None), node.target._overloadname, None)
        # What came from a view is part of a tensor that others may ask for.
        own = given.op == "call_function" and all(r.alias_info is None for r in given.target._schema.returns)
        if plain is not None and name.endswith("_") and own and list(given.users) == [node]:
            node.target = plain


def layer_path(node: Node) -> str:
    """Dotted path, below the network's layers, of the module that ran an operator; "" for none."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = str(stack[-1][0]) if stack else ""
    for outer, kind in stack:  # the layer that works on each item is that layer
        if str(kind).endswith("PerItem"):
            path = path.replace(f"{outer}.layer", outer, 1)
    return path.removeprefix("net.").removeprefix("layers.")


@contextmanager
def quiet() -> Iterator[None]:
    """Without torch's warnings, and with attention spelled out instead of fused into an operator of torch's own."""
    import torch

    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def symbolic(node: Any) -> bool:
    """Whether a node of the graph is a number about sizes, not a tensor."""
    import torch

    value = node.meta.get("val") if hasattr(node, "meta") else None
    return isinstance(value, int | bool | float | torch.SymInt | torch.SymBool | torch.SymFloat)
