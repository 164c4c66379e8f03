"""A traced network as ONNX operators: torch's own exporter, and what it knows."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from contextlib import contextmanager, redirect_stdout
from functools import lru_cache
from io import StringIO
from typing import TYPE_CHECKING, Any

from builder.tracing import Untraceable, layer_path, quiet, symbolic

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx
    from torch.export import ExportedProgram

OPSET = 20


def written(program: ExportedProgram, inputs: Sequence[str], outputs: Sequence[str]) -> onnx.ModelProto:
    """A traced network as an ONNX model whose values are called so at either end.

    Raises:
        Untraceable: an operator that ONNX lacks.
    """
    import torch

    with _silent():
        try:
            made = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=list(inputs),
                output_names=list(outputs),
            )
        except Exception as error:  # the exporter raises many kinds, each with pages of advice
            missing = re.search(r"No ONNX function found for <OpOverload\(op='([\w.]+)'", str(error))
            why = f"the operator {missing[1]} has no counterpart in ONNX" if missing else type(error).__name__
            raise Untraceable(f"torch cannot write this network down for ONNX: {why}.") from error
    assert made is not None
    return made.model_proto


def unsupported(program: ExportedProgram) -> list[tuple[str, str]]:
    """(path of the layer, what ONNX lacks for it) of every operator that torch's exporter does not know.

    Args:
        program: of a network on torch's meta device.
    """
    if not _missing(program, _TAKEN_APART):
        return []
    # Some operators are taken apart into smaller ones that ONNX has: only doing it tells.
    with _silent():
        return _missing(program.run_decompositions(_smaller()), frozenset())


_TAKEN_APART = frozenset(
    {"batch_norm", "rms_norm", "movedim", "moveaxis", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "alpha_dropout"}
)
"""Operators that torch's exporter takes apart into smaller ones which ONNX has, whatever their settings."""


def _missing(program: ExportedProgram, fine: frozenset[str]) -> list[tuple[str, str]]:
    """The operators of a graph that torch's exporter has no ONNX for, beside those whose name is in `fine`."""
    found = []
    for node in program.graph.nodes:
        if node.op == "call_function" and hasattr(node.target, "_schema") and not symbolic(node):
            name = node.target._schema.name.removeprefix("aten::")
            if name not in fine and not name.startswith("_assert") and not _known(node.target):
                found.append((layer_path(node), f"the operator {name} has no counterpart in ONNX."))
    return found


@lru_cache(maxsize=1)
def _written() -> frozenset[Any]:
    """The operators that torch's exporter writes as ONNX."""
    from torch.onnx._internal.exporter import _decomp, _registration

    return frozenset(_decomp.get_onnx_implemented_overloads(_registration.ONNXRegistry.from_torchlib()))


def _smaller() -> Any:
    """How torch's exporter takes the others apart."""
    from torch.onnx._internal.exporter import _decomp

    return _decomp.create_onnx_friendly_decomposition_table(set(_written()))


@lru_cache(maxsize=4096)
def _known(operator: Any) -> bool:
    """Whether torch's exporter writes an operator, or the one that does the same without working in place."""
    import torch

    plain = getattr(torch.ops.aten, operator._schema.name.removeprefix("aten::").rstrip("_"), None)
    return operator in _written() or getattr(plain, operator._overloadname, None) in _written()


@contextmanager
def _silent() -> Iterator[None]:
    """Without the exporter's progress and remarks."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with quiet(), redirect_stdout(StringIO()):
            yield
    finally:
        logging.disable(before)
