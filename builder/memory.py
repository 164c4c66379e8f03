"""When memory runs out in the middle of a step: the same step again, with half as many scans at once.

The learning stays what it was: gradients of the parts are added up, each scan counting once, before the weights move.
So the result is that of the smaller batch with twice the accumulation from the start, where nothing depends on what
stands together in a batch (batch normalization does: it then takes its averages over fewer scans).
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

T = TypeVar("T")
_SAID = ("can't allocate memory", "CUDA out of memory", "ALLOC_FAILED", "CUDA error: out of memory")


def ran_out(error: BaseException) -> bool:
    """Whether `error` says that memory ran out, of the graphics card or of the machine."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _SAID)


class Room:
    """How many scans of a batch pass through the network at once, and the way back out of a step that found no memory.

    Args:
        batch: scans of a batch as the document asks for them.
    """

    def __init__(self, model: nn.Module, batch: int, device: torch.device) -> None:
        self.model, self.batch, self.device = model, batch, device
        self.at_once = batch
        self.moving = False  # the weights are being changed: there is no way back from there
        self._buffers = list(model.buffers())
        self._before: _Before | None = None

    def pieces(self, batches: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The batches of one optimizer step, cut so that at most `at_once` scans pass through the network together.

        A last piece of one scan joins the one before it, as in `batches.updates`. Where memory has never run out,
        nothing is cut.
        """
        if self.at_once == self.batch:
            return list(batches)
        found: list[np.ndarray] = []
        for batch in batches:
            edges = list(range(0, len(batch), self.at_once))
            if len(edges) > 1 and len(batch) - edges[-1] == 1 and self.at_once > 1:
                edges.pop()
            found += [batch[a:b] for a, b in zip(edges, [*edges[1:], len(batch)], strict=True)]
        return found

    def within(self, act: Callable[[], T], *changed: Tensor) -> tuple[T, list[str]]:
        """Does `act`; where memory runs out, again from the same state with half as many scans at once.

        Args:
            act: reads `at_once` each time. changed: tensors that it changes, besides the buffers of the network.
        Returns: what `act` gives, and a sentence for each time that memory ran out.
        Raises:
            What `act` raises, memory included where nothing is left to halve.
        """
        said: list[str] = []
        self._before = _Before.of([*self._buffers, *changed], self.device, self._before)
        while True:
            try:
                return act(), said
            except (MemoryError, RuntimeError) as error:
                if self.moving or not ran_out(error) or self.at_once <= self._fewest:
                    raise
                machine = "This machine" if isinstance(error, MemoryError) else _who(self.device)
            # Only here, with the error gone, is nothing of the failed step held any more.
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self._before.put_back(self.device)
            before, self.at_once = self.at_once, max(self._fewest, -(-self.at_once // 2))
            said.append(self._words(machine, before))

    @property
    def _fewest(self) -> int:
        return 2 if self._has_batch_statistics else 1  # batch normalization has no use for one scan

    @property
    def _has_batch_statistics(self) -> bool:
        return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in self.model.modules())

    def _words(self, machine: str, before: int) -> str:
        parts = -(-self.batch // self.at_once)
        words = (
            f"{machine} ran out of memory with {before} scans at once. From here on {self.at_once} pass through the "
            f"network at once, and {parts} such parts are added up before a step: it learns as before, only slower."
        )
        if self._has_batch_statistics:
            words += (
                f" Batch normalization now takes its averages over {self.at_once} scans, which changes it a little."
            )
        return words


def _who(device: torch.device) -> str:
    return "The graphics card" if device.type == "cuda" else "This machine"


@dataclass
class _Before:
    """All that half a step may have changed, as it was before the step: buffers, the sum of losses, the dice.

    Weights and optimizer are not among it: they move at the end of a step only.
    """

    live: list[Tensor]
    kept: list[Tensor]
    dice: dict[str, Any]

    @classmethod
    def of(cls, live: list[Tensor], device: torch.device, again: _Before | None) -> _Before:
        """Takes note. `again`: an earlier note of as many tensors, whose memory is used for this one."""
        if again is not None and [t.shape for t in again.kept] == [t.shape for t in live]:
            kept = again.kept
            for olds, tensors in _by_type(kept, live):  # one command each, however many layers keep something
                torch._foreach_copy_(olds, tensors)
        else:
            kept = [tensor.detach().clone() for tensor in live]
        dice: dict[str, Any] = {"cpu": torch.get_rng_state()}
        if device.type == "cuda":
            dice["cuda"] = torch.cuda.get_rng_state(device)
        return cls(live, kept, dice)

    @torch.no_grad()
    def put_back(self, device: torch.device) -> None:
        """Everything is as it was."""
        for tensor, old in zip(self.live, self.kept, strict=True):
            tensor.copy_(old)
        torch.set_rng_state(self.dice["cpu"])
        if "cuda" in self.dice:
            torch.cuda.set_rng_state(self.dice["cuda"], device)


def _by_type(olds: Sequence[Tensor], tensors: Sequence[Tensor]) -> list[tuple[list[Tensor], list[Tensor]]]:
    groups: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
    for old, tensor in zip(olds, tensors, strict=True):
        pair = groups.setdefault(tensor.dtype, ([], []))
        pair[0].append(old)
        pair[1].append(tensor)
    return list(groups.values())
