"""The text of a Keras 3 model that computes what a traced network computes, and the weights of its layers.

One line a layer, named by the ids of the document; the modules beside this one know the operators. Only Keras' own
layers and operations are written, so that the saved model opens anywhere without code of ours.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from builder.listing import quoted
from builder.tracing import layer_path, symbolic

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram
    from torch.fx import Node


class Unsupported(ValueError):
    """What the format cannot carry, in words. `layer`: path of the module below the document's layers."""

    def __init__(self, words: str, layer: str = "") -> None:
        super().__init__(words)
        self.layer = layer


@dataclass(frozen=True)
class Fixed:
    """A value that is known without a scan: a weight, a buffer, or what was computed of them. Batch axis of size 1."""

    tensor: torch.Tensor


@dataclass(frozen=True)
class Variable:
    """A name in the text of the model."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Several:
    """Several results of one operator, by position; those that no format has are None."""

    parts: tuple[Any, ...]


@dataclass(frozen=True)
class Stacked:
    """Variables that torch stacks along axis 0, such as the last states of the layers of an RNN."""

    parts: tuple[Variable, ...]


@dataclass
class KerasModel:
    """What comes out.

    Attributes:
        source: the text of model.py. weights: {layer name: arrays in the order of `layer.get_weights()`}.
    """

    source: str
    weights: dict[str, list[torch.Tensor]] = field(default_factory=dict)


def keras_model(
    program: ExportedProgram, shape: Sequence[int], name: str, further: Sequence[Sequence[int]] = ()
) -> KerasModel:
    """Writes a traced network down for Keras.

    Args:
        shape: of one scan. name: of the network, as a person typed it. further: shapes of what else it takes, for a
            layer alone that has several inputs.
    Raises:
        Unsupported: an operator that Keras, or this writer, does not have.
    """
    writer = Writer(program)
    output = writer.written()
    clash = {n for n in writer.weightless | set(writer.weights) if re.sub(r"_\d+$", "", n) in writer.operations}
    if clash:  # Keras names its operations itself: "add", "add_1"
        writer = Writer(program, avoid=frozenset(clash))
        output = writer.written()
    used = [f"from keras import {', '.join(w for w in ('layers', 'ops') if any(f'{w}.' in li for li in writer.lines))}"]
    size = ", ".join(map(str, shape))
    inputs = {("scan" if k == 1 else f"scan_{k}"): tuple(one) for k, one in enumerate((shape, *further), 1)}
    taken = "scan" if not further else f"[{', '.join(inputs)}]"
    called = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_") or "network"
    lines = [
        f'"""The network {quoted(name)}, exported by ScanLoom for Keras 3 (any backend).',
        "",
        f"Input: (B, {size}) float32, normalized (see predict.py), channels first.",
        "Not for clinical use.",
        '"""',
        "",
        "import keras",
        *(used if used[0] != "from keras import " else []),
        "",
        'keras.config.set_image_data_format("channels_first")',
        "",
        "",
        "def build():",
        '    """The network with fresh weights; model.keras and model.weights.h5 hold the exported ones."""',
        *(f'    {scan} = keras.Input({one!r}, name="{scan}")' for scan, one in inputs.items()),
        *(f"    {line}" for line in writer.lines),
        f'    return keras.Model({taken}, {output}, name="{called}")',
        "",
    ]
    return KerasModel("\n".join(lines), writer.weights)


def refused(program: ExportedProgram) -> list[tuple[str, str]]:
    """(path of the layer, why) of everything in a traced network that cannot be written down; [] for none."""
    writer = Writer(program, collect=True)
    try:
        writer.written()
    except Unsupported as error:
        writer.refusals.append((error.layer, str(error)))
    return writer.refusals


class Writer:
    """Walks the graph and writes a line for each operator; the converters of `TABLE` call back into it."""

    def __init__(self, program: ExportedProgram, avoid: frozenset[str] = frozenset(), collect: bool = False) -> None:
        """`avoid`: names that layers must not have. `collect`: note what cannot be written and go on."""
        import torch

        self.program = program
        self.lines: list[str] = []
        self.weights: dict[str, list[torch.Tensor]] = {}
        self.weightless: set[str] = set()
        self.operations: set[str] = set()
        self.avoid, self.collect = avoid, collect
        self.refusals: list[tuple[str, str]] = []
        self.values: dict[Node, Any] = {}
        self.device = next((t.device for t in program.state_dict.values()), torch.device("cpu"))
        self._taken = {"scan", "keras", "layers", "ops"}
        self._node: Any = None
        self._busy: dict[str, int] = {}
        for node in program.graph.nodes:
            schema = getattr(node.target, "_schema", None)
            if schema is not None and schema.name not in _SILENT and not symbolic(node):
                path = layer_path(node)
                self._busy[path] = self._busy.get(path, 0) + 1

    def written(self) -> str:
        """Writes all lines; returns the name of the output."""
        import torch

        signature = self.program.graph_signature
        stored = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        lifted = signature.inputs_to_lifted_tensor_constants
        output, scans = "", 0
        wanted = self._wanted()
        for node in self.program.graph.nodes:
            self._node = node
            if node.op == "call_function" and node not in wanted:
                continue
            if node.op == "placeholder":
                if node.name in stored:
                    self.values[node] = Fixed(self._stored(stored[node.name]))
                elif node.name in lifted:
                    self.values[node] = Fixed(self.program.constants[lifted[node.name]])
                else:
                    scans += 1
                    self.values[node] = Variable("scan" if scans == 1 else f"scan_{scans}")
                    self._taken.add(str(self.values[node]))
            elif node.op == "call_function" and not symbolic(node):
                with torch.no_grad():
                    self._attempt(node)
            elif node.op == "output":
                results = node.args[0]
                if len(results) != 1:
                    raise Unsupported(f"it puts out {len(results)} tensors; a Keras export has one.")
                output = str(self.variable(results[0]))
        return output

    def _wanted(self) -> set[Node]:
        """The nodes that the output depends on; what works in place is among them."""
        wanted: set[Node] = set()
        for node in reversed(self.program.graph.nodes):
            schema = getattr(node.target, "_schema", None)
            if node.op == "output" or node in wanted or (schema is not None and schema.name.endswith("_")):
                wanted |= {node, *node.all_input_nodes}
        return wanted

    def _stored(self, key: str) -> torch.Tensor:
        found = self.program.state_dict.get(key)
        return (found if found is not None else self.program.constants[key]).detach()

    def _attempt(self, node: Node) -> None:
        try:
            self._call(node)
        except Unsupported as error:
            if not self.collect:
                raise
            self.refusals.append((error.layer, str(error)))
            several = isinstance(node.meta["val"], list | tuple)
            missing = Variable("missing")
            self.values[node] = Several((missing,) * len(node.meta["val"])) if several else missing

    def _call(self, node: Node) -> None:
        from builder.keras_text.converters import TABLE

        if getattr(node.target, "__name__", "") == "getitem":
            part = self.values[node.args[0]].parts[node.args[1]]  # type: ignore[index]
            if part is None and node.users:
                raise self.unsupported("it uses a result that Keras does not hand out")
            self.values[node] = part
            return
        operator = node.target._schema.name.removeprefix("aten::")  # type: ignore[union-attr]
        if operator in (
            "_assert_tensor_metadata",
            "_assert_scalar",
            "sym_constrain_range_for_size",
            "sym_constrain_range",
        ):
            return
        if self._fold(node, operator):
            return
        plain = operator.rstrip("_") if not operator.startswith("_") else operator
        if plain not in TABLE:
            raise self.unsupported(f"the operator {plain} has no counterpart in Keras")
        self.values[node] = TABLE[plain](self, node, arguments(node))
        if operator.endswith("_") and node.args:
            self.values[node.args[0]] = self.values[node]  # type: ignore[index]  # it worked in place

    def _fold(self, node: Node, operator: str) -> bool:
        """Computes here what needs no scan, such as an index into a table of positions; says whether it was so."""
        import torch
        from torch.utils import _pytree as tree

        flat = [v for v in tree.tree_leaves((node.args, node.kwargs)) if hasattr(v, "op")]
        if any(not isinstance(self.values.get(v), Fixed) for v in flat if not symbolic(v)):
            return False
        sized = [v for v in flat if symbolic(v)]
        if sized and operator not in ("zeros", "ones", "full", "expand", "new_zeros", "new_ones", "new_full", "empty"):
            return False
        fill = {v: self.values[v].tensor if not symbolic(v) else 1 for v in flat}
        args, kwargs = tree.tree_map(
            lambda v: fill.get(v, v) if hasattr(v, "op") else v, (node.args, dict(node.kwargs))
        )
        if sized and operator == "expand":
            own = args[0]
            args = (own, [1 if hasattr(v, "op") else v for v in node.args[1]])  # type: ignore[union-attr]
        if kwargs.get("device") is not None:
            kwargs["device"] = self.device
        found = node.target(*args, **kwargs)  # type: ignore[operator]
        if isinstance(found, torch.Tensor):
            self.values[node] = Fixed(found)
        else:
            self.values[node] = Several(tuple(Fixed(part) for part in found))
        return True

    # -- what converters ask for --------------------------------------------------------------------------------------

    def unsupported(self, words: str) -> Unsupported:
        """The refusal of the operator at hand."""
        return Unsupported(f"{words}.", layer_path(self._node))

    def variable(self, value: Any) -> Variable:
        """The variable that holds a value of the graph; what is known already becomes one that a layer puts out."""
        found = self.values[value] if hasattr(value, "op") else value
        if isinstance(found, Stacked):
            return self.line(f"ops.stack([{', '.join(map(str, found.parts))}], axis=0)", "stack")
        if isinstance(found, Fixed):
            return self.constant(found.tensor)
        if not isinstance(found, Variable):
            raise self.unsupported("it works on something that is no tensor")
        return found

    def fixed(self, value: Any) -> torch.Tensor | None:
        """The tensor behind a value that needs no scan; None for one that does."""
        found = self.values.get(value) if hasattr(value, "op") else None
        return found.tensor if isinstance(found, Fixed) else None

    def weight(self, value: Any) -> torch.Tensor:
        """Like `fixed`, for what must be known, such as the filters of a convolution."""
        found = self.fixed(value)
        if found is None:
            raise self.unsupported("its weights depend on the scan")
        return found

    def shape(self, value: Any) -> tuple[int | None, ...]:
        """Sizes of a value of the graph, batch first; None where it depends on the number of scans."""
        return sizes(value)

    def name(self, hint: str = "") -> str:
        """A free name for what the operator at hand puts out, after the module that runs it."""
        path = layer_path(self._node)
        stem = re.sub(r"\W+", "_", path, flags=re.ASCII) or "x"
        if self._busy.get(path, 0) > 1:
            operator = getattr(self._node.target, "_schema", None)
            stem += "_" + (operator.name.removeprefix("aten::").rstrip("_") if operator else "part")
        if hint:
            stem += f"_{hint}"
        if keyword.iskeyword(stem) or not stem[0].isalpha():
            stem = f"layer_{stem}"
        if stem in self.avoid:
            stem += "_layer"
        name, count = stem, 2
        while name in self._taken:
            name, count = f"{stem}_{count}", count + 1
        self._taken.add(name)
        return name

    def layer(
        self, call: str, inputs: Any, weights: Sequence[torch.Tensor] = (), hint: str = "", trainable: bool = True
    ) -> Variable:
        """Writes `name = layers.<call>(..., name="name")(inputs)`; `call` ends before the closing bracket."""
        name = self.name(hint)
        if weights:
            self.weights[name] = [w.detach() for w in weights]
        else:
            self.weightless.add(name)
        given = f"[{', '.join(map(str, inputs))}]" if isinstance(inputs, list | tuple) else str(inputs)
        words = "" if trainable else ", trainable=False"
        comma = "" if call.endswith("(") else ", "
        self.lines.append(f'{name} = layers.{call}{comma}name="{name}"{words})({given})')
        return Variable(name)

    def line(self, expression: str, operation: str, hint: str = "") -> Variable:
        """Writes `name = expression`, which is one operation that Keras names `operation` itself."""
        self.operations.add(operation)
        name = self.name(hint)
        self.lines.append(f"{name} = {expression}")
        return Variable(name)

    def affine(
        self,
        x: Variable,
        rank_sizes: Sequence[int | None],
        scale: torch.Tensor | None,
        shift: torch.Tensor | None,
        hint: str = "",
    ) -> Variable:
        """Writes x * scale + shift with weights of their own, each broadcast over `x` (sizes as from `shape`)."""
        import torch

        rank = len(rank_sizes)
        tensors = [t.reshape((1,) * (rank - t.dim()) + tuple(t.shape)) for t in (scale, shift) if t is not None]
        for tensor in tensors:
            if tensor.dim() > rank or any(s != 1 and s != own for s, own in zip(tensor.shape, rank_sizes, strict=True)):
                raise self.unsupported("it joins a constant that is larger than what comes in")
            if tensor.shape[0] != 1:
                raise self.unsupported("it holds a constant for every scan of a batch")
        letters = "abcdefgh"[:rank]
        factor = tensors[0] if scale is not None else torch.ones((1,) * rank, device=self.device)
        axes = [k for k, size in enumerate(factor.shape) if size > 1] or [rank - 1]
        kernel_sizes = [int(rank_sizes[k] or 1) for k in axes]
        kernel = factor.reshape([factor.shape[k] for k in axes]).expand(kernel_sizes).contiguous()
        weights, bias = [kernel], ""
        if shift is not None:
            moved = tensors[-1]
            first = next((k for k, size in enumerate(moved.shape) if size > 1), rank - 1)
            wanted = [int(s or 1) for s in rank_sizes[first:]]
            weights.append(moved.reshape(tuple(moved.shape)[first:]).expand(wanted).contiguous())
            bias = f', bias_axes="{letters[first:]}"'
        inner = "".join(letters[k] for k in axes)
        out = tuple(rank_sizes[1:])
        return self.layer(f'EinsumDense("{letters},{inner}->{letters}", {out!r}{bias}', x, weights, hint)

    def constant(self, tensor: torch.Tensor) -> Variable:
        """Writes something that is the same for every scan, such as a class token, as a layer that sees nothing."""
        import torch

        if tensor.dim() < 2 or tensor.shape[0] != 1 or not tensor.is_floating_point():
            raise self.unsupported("it holds a constant that Keras cannot keep as a weight")
        flat = tensor.reshape(-1)
        source = next(
            n for n in self.program.graph.nodes if n.op == "placeholder" and self.values.get(n) == Variable("scan")
        )
        zeros = ", ".join(["0"] * (len(sizes(source)) - 2))
        nothing = self.line(f"ops.zeros_like(scan[:, {zeros}{', ' if zeros else ''}:1])", "zeros_like", "nothing")
        self.operations.add("get_item")
        weights = [torch.zeros(1, len(flat), device=flat.device), flat]
        made = self.layer(f"Dense({len(flat)}", nothing, weights, "token")
        return self.layer(f"Reshape({tuple(tensor.shape[1:])!r}", made, hint="shaped") if tensor.dim() > 2 else made


_SILENT = {
    "aten::zeros",
    "aten::ones",
    "aten::full",
    "aten::contiguous",
    "aten::detach",
    "aten::_assert_tensor_metadata",
}
"""Operators that no reader of the model's text has to hear of."""


def sizes(value: Any) -> tuple[int | None, ...]:
    """Sizes of a tensor of the graph, None where they depend on the number of scans."""
    return tuple(int(s) if isinstance(s, int) else None for s in value.meta["val"].shape)


def arguments(node: Node) -> dict[str, Any]:
    """Every argument of an operator by its name in torch's schema, defaults filled in."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    found = {a.name: a.default_value if a.has_default_value() else None for a in schema}
    found.update(zip([a.name for a in schema], node.args, strict=False))
    return {**found, **node.kwargs}
