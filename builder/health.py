"""Looks into the layers while they learn: gradients, steps of the weights, what comes out, what flows back.

A look costs a good part of a step, so only some steps are looked at: a few of the first ones, then one in 64 or
fewer. Which ones is a matter of the step's number alone, so that a resumed run looks at the same ones.
Looking reads and changes nothing: no random number is drawn, no gradient touched, and a watched run ends with the very
weights of an unwatched one. On a GPU a look waits for the device once, at its end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from builder.network import plan_of
from builder.spec import Experiment

__all__ = ["Watch"]

_EARLY = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)  # looked at in every run: what is ill shows early
_EVERY = 64
_MOST_LOOKS = 400  # of a whole run, besides the early ones: its record stays small
_SILENT_LOOKS = 4  # a channel that gave only zeros in so many looks counts as dead
_MOST_VALUES = 1 << 15  # of a layer's output and its gradient; more tell nothing new
_MOST_WEIGHTS = 1 << 12  # of a parameter, for its step; evenly spread over it
_RECTIFIED = (
    "relu",
    "relu6",
    "residual_block",
    "residual_block_3d",
    "bottleneck_block",
)  # what they give ends in a ReLU
_FLAT = {"sigmoid": (0.02, 0.98), "tanh": (-0.97, 0.97)}  # beyond these the slope is under 1/12 of its steepest
_SHORT = 8  # steps of a sequence; through fewer no gradient gets lost


class Watch:
    """Watches one network learn; its methods are called around the parts of each optimizer step.

    Args:
        model: the network (`blocks.network.Network`). experiment, num_classes: what it was built from.
        total: optimizer steps of the whole run.
    """

    def __init__(self, model: nn.Module, experiment: Experiment, num_classes: int, total: int) -> None:
        self.model = model
        self.every = self.spacing(total)
        plan = plan_of(experiment, num_classes)
        self._names = {node.id: node.name for node in plan.nodes}
        self._layouts = {node.id: node.layout for node in plan.nodes}
        layers = model.get_submodule("layers")
        self._layers: dict[str, nn.Module] = {node.id: layers.get_submodule(node.id) for node in plan.nodes}
        self._weights = [
            (id, parameter)
            for id, layer in self._layers.items()
            for parameter in layer.parameters()
            if parameter.requires_grad
        ]
        self._silent: dict[str, Tensor] = {}  # per channel the number of looks since it last gave something
        self._looks = 0
        self._hooks: list[RemovableHandle] = []
        self._looking = False
        self._found: dict[tuple[str, str], Tensor] = {}
        self._before: list[Tensor] = []

    @staticmethod
    def spacing(total: int) -> int:
        """Steps from one look to the next, once the early ones are over, in a run of `total` steps."""
        return max(_EVERY, math.ceil(total / _MOST_LOOKS))

    @staticmethod
    def due(step: int, every: int) -> bool:
        """Whether optimizer step `step` (from 1) is looked at where every `every`th one is."""
        return step in _EARLY or step % every == 0

    def is_due(self, step: int) -> bool:
        """Whether optimizer step `step` (from 1) of this run is looked at."""
        return self.due(step, self.every)

    # ---- around a step ----

    def begin(self, step: int) -> None:
        """Before the forward pass of optimizer step `step` (from 1)."""
        self.passed()  # a step that failed in between leaves its hooks behind
        self._looking = self.is_due(step)
        if not self._looking:
            return
        self._found, self._before = {}, []
        self._looks += 1
        for id, layer in self._layers.items():
            self._hooks.append(layer.register_forward_hook(self._output_hook(id)))
            inner = layer.layer if hasattr(layer, "layer") and isinstance(layer.layer, nn.Module) else layer
            if self._names[id] in ("rnn", "lstm", "gru"):
                for direction in range(int(getattr(inner, "directions", 1))):
                    run = inner.get_submodule(f"runs.{direction}")
                    self._hooks.append(run.register_forward_pre_hook(self._time_hook(id)))

    def passed(self) -> None:
        """After the way back of a batch: of several batches in one step, only the first is looked at."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    @torch.no_grad()
    def before_step(self) -> None:
        """With all gradients of the step there, before they are clipped and the optimizer moves the weights."""
        if not self._looking:
            return
        whole = [(k, p.grad) for k, (_, p) in enumerate(self._weights) if p.grad is not None]
        if whole:
            norms = torch._foreach_norm([gradient for _, gradient in whole])
            for (k, _), norm in zip(whole, norms, strict=True):
                self._found[str(k), "gradient"] = norm.float()
        self._before = [_spread(parameter).clone() for _, parameter in self._weights]

    @torch.no_grad()
    def after_step(self) -> None:
        """After the optimizer has moved the weights."""
        if not self._looking or not self._before:
            return
        after = [_spread(parameter) for _, parameter in self._weights]
        moved = torch._foreach_norm(torch._foreach_sub(after, self._before))
        lengths = zip(torch._foreach_norm(self._before), torch._foreach_norm(after), moved, strict=True)
        for k, (was, now, step) in enumerate(lengths):
            self._found[str(k), "weight"] = torch.maximum(was, now).float()
            self._found[str(k), "moved"] = step.float()
        self._before = []

    def told(self) -> dict[str, dict[str, float]] | None:
        """What the step just done has shown, {node id: {measure: number}}; None where it was not looked at."""
        if not self._looking:
            return None
        self._looking = False
        keys = list(self._found)
        values = torch.stack([self._found[key] for key in keys]).tolist() if keys else []
        numbers = dict(zip(keys, values, strict=True))
        self._found = {}
        told: dict[str, dict[str, float]] = {id: {} for id in self._layers}
        for (id, measure), value in numbers.items():
            if id in told:
                told[id][measure] = value
        for id, sums in self._by_layer(numbers).items():
            told[id]["gradient"] = math.sqrt(sums["gradient"])
            if sums["weight"] > 0:
                told[id]["update"] = math.sqrt(sums["moved"] / sums["weight"])
        return told

    def _by_layer(self, numbers: Mapping[tuple[str, str], float]) -> dict[str, dict[str, float]]:
        """Squared lengths of each layer's parameters together; one without a gradient counts as zero."""
        found: dict[str, dict[str, float]] = {}
        for k, (id, _) in enumerate(self._weights):
            sums = found.setdefault(id, {"gradient": 0.0, "weight": 0.0, "moved": 0.0})
            for name in sums:
                sums[name] += numbers.get((str(k), name), 0.0) ** 2
        return found

    # ---- hooks ----

    def _output_hook(self, id: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            out = output[-1] if isinstance(output, tuple) else output
            if not isinstance(out, Tensor) or not out.is_floating_point() or not out.requires_grad:
                return
            with torch.no_grad():
                self._describe(id, out.detach())

            def back(gradient: Tensor) -> None:
                seen = _some(gradient.detach())  # the length of all scans' gradient is told from that of some
                length = torch.linalg.vector_norm(seen, dtype=torch.float32)
                self._found[id, "flow"] = length * math.sqrt(len(gradient) / len(seen))

            out.register_hook(back)

        return hook

    def _describe(self, id: str, out: Tensor) -> None:
        """Notes mean, spread and what is typical of the kind of layer, from some scans of the batch."""
        seen = _some(out).float()
        spread, mean = torch.std_mean(seen, correction=0)
        self._found[id, "mean"], self._found[id, "std"] = mean, spread
        name = self._names[id]
        if name in _FLAT:
            low, high = _FLAT[name]
            self._found[id, "saturated"] = ((seen < low) | (seen > high)).float().mean()
        if name in _RECTIFIED:
            channel = 2 if seen.ndim == 3 or self._layouts[id] == "series" else 1
            silent = seen.amax([d for d in range(seen.ndim) if d != channel]) <= 0
            since = torch.where(silent, self._silent.get(id, torch.zeros_like(silent, dtype=torch.int32)) + 1, 0)
            self._silent[id] = since
            if self._looks >= _SILENT_LOOKS:
                self._found[id, "dead"] = (since >= _SILENT_LOOKS).float().mean()

    def _time_hook(self, id: str) -> Callable[..., Any]:
        """Lets the gradient by each step of a sequence be seen, whole sequences only (not pieces of truncated BPTT)."""

        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> Any:
            x = inputs[0]
            if len(inputs) > 1 or x.shape[1] < _SHORT or not torch.is_grad_enabled():
                return None
            x = x.view_as(x) if x.requires_grad else x.detach().requires_grad_()

            def back(gradient: Tensor) -> None:
                by_step = torch.linalg.vector_norm(gradient.detach(), dim=(0, 2), dtype=torch.float32)
                reach = by_step[0] / by_step[-1]
                heard = (by_step > 0.01 * by_step.max()).sum().float()
                for name, value in (("reach", reach), ("heard", heard)):
                    before = self._found.get((id, name))
                    self._found[id, name] = value if before is None else torch.maximum(before, value)

            x.register_hook(back)
            return (x,)

        return hook


def _some(values: Tensor) -> Tensor:
    """The first scans of a batch (B, ...), as many as are needed to tell something of all: at least two."""
    return values[: max(2, _MOST_VALUES // max(1, values[0].numel()))]


def _spread(parameter: Tensor) -> Tensor:
    """Some values of a parameter, evenly spread over its memory; a view where it can be one."""
    flat = parameter.detach()
    if flat.ndim in (4, 5):  # filters may lie channels last: in that order they are one piece again
        order = torch.channels_last if flat.ndim == 4 else torch.channels_last_3d
        if not flat.is_contiguous() and flat.is_contiguous(memory_format=order):
            flat = flat.movedim(1, -1)
    return flat.reshape(-1)[:: max(1, flat.numel() // _MOST_WEIGHTS)]
