"""What is one layer here and several pieces in other tools: each direction of a recurrent layer, with flips and slices
around it; a norm over channels that are laid last for it; halves of the channels that gate each other.

What is read is kept as a value that is not a layer yet, until what is done with it tells which layer of ours it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from builder.foreign import Assembly, ForeignError


@dataclass(frozen=True)
class Run:
    """All states of one direction of one layer, in the order in which it read them.

    Attributes:
        source: the wire that it reads. kind: "rnn", "lstm" or "gru". backward: it reads from the end.
        tensors: {"weight_ih_l0", ...} in torch's order of gates; {} without weights.
    """

    source: str
    kind: str
    units: int
    backward: bool = False
    activation: str = "tanh"
    tensors: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Flipped:
    """A sequence read from its end."""

    what: str | Run


@dataclass(frozen=True)
class Last:
    """The last state of a direction."""

    run: Run


@dataclass(frozen=True)
class ChannelsLast:
    """Maps whose channels were laid last for a norm over them."""

    wire: str
    words = "of channels laid last"


@dataclass(frozen=True)
class Half:
    """The first (0) or second (1) half of the channels, and what it went through before it gates the other."""

    wire: str
    which: int
    gate: str = "plain"
    words = "of a part of the channels"


def gated(out: Assembly, values: list[Any], hint: str) -> str | None:
    """The layer of two halves that are multiplied; None where the values are something else."""
    if len(values) != 2 or not all(isinstance(value, Half) for value in values):
        return None
    first, second = sorted(values, key=lambda half: half.which)
    if first.wire != second.wire or (first.which, second.which) != (0, 1) or first.gate != "plain":
        return None
    return out.add("gated_halves", [first.wire], {"gate": second.gate}, hint=hint)


def flipped(value: Any) -> Any:
    """A sequence, from its end."""
    return value.what if isinstance(value, Flipped) else Flipped(value)


def begun(value: Any, kind: str, units: int, tensors: dict[str, np.ndarray], activation: str = "tanh") -> Run:
    """A direction that reads `value`; raises ForeignError where that is no sequence of the network."""
    backward = isinstance(value, Flipped)
    source = value.what if isinstance(value, Flipped) else value
    if not isinstance(source, str):
        raise ForeignError("reads another one in a way that ours does not")
    return Run(source, kind, units, backward, activation, tensors)


def joined(out: Assembly, values: list[Any], hint: str) -> str | None:
    """The layer that reads both ways, of its two directions side by side; None where the values are something else."""
    if len(values) != 2:
        return None
    first, second = values
    if isinstance(first, Last) and isinstance(second, Last):
        pair, output = (first.run, second.run), "last state"
    elif isinstance(first, Run) and isinstance(second, Flipped) and isinstance(second.what, Run):
        pair, output = (first, second.what), "all states"
    else:
        return None
    forward, backward = pair
    alike = all(getattr(forward, k) == getattr(backward, k) for k in ("source", "kind", "units", "activation"))
    if not alike or forward.backward or not backward.backward:
        return None
    return _layer(out, forward, [forward, backward], output, hint)


def settled(out: Assembly, value: Any, hint: str) -> str:
    """The wire of a value that something else reads; raises ForeignError where no layer of ours puts it out."""
    if isinstance(value, str):
        return value
    run = value.run if isinstance(value, Last) else value
    if isinstance(run, Run) and not run.backward:
        return _layer(out, run, [run], "last state" if isinstance(value, Last) else "all states", hint)
    raise ForeignError("reads from the end alone, which no layer here does")


def _layer(out: Assembly, run: Run, runs: list[Run], output: str, hint: str) -> str:
    if len(out.shape_of(run.source)) != 2:
        raise ForeignError("reads something that is no sequence")
    tensors = {f"runs.{k}.{key}": array for k, each in enumerate(runs) for key, array in each.tensors.items()}
    params: dict[str, Any] = {"units": run.units, "bidirectional": len(runs) == 2, "output": output}
    if run.kind == "rnn":
        params["activation"] = run.activation
    return out.add(run.kind, [run.source], params, tensors, hint.split("_runs_")[0])


def gates(array: np.ndarray, order: tuple[int, ...]) -> np.ndarray:
    """The gates along the first axis, put into another order."""
    parts = np.split(array, len(order))
    return np.concatenate([parts[k] for k in order])
