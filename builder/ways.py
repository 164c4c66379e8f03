"""How a step is computed: as the network is written, or compiled by torch first; in which precision.

Compiling costs from seconds to minutes and brings something only for some networks on some machines. So it is tried:
both ways do the same steps, side by side, and the faster one is kept and told, with its figures. Whoever resumes a run
goes on in the way that was chosen, since the two agree within rounding only.

Only whole batches in a step that nobody looks into are computed in the compiled way: a last, smaller batch would be
compiled anew, and what `health.Watch` hangs into the layers a compiled network does not see.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import statistics
import time
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["GRAPHS", "HALVES", "PLAIN", "Way", "compiler_words", "has_gpu"]

PLAIN, COMPILED, GRAPHS = "plain", "compiled", "graphs"
HALVES = ("bfloat16", "float16")
"""Settings of `mixed_precision` that name a precision, by torch's own names."""
WORTH_S = 180.0
"""A training that would take less than this is not worth a trial: compiling alone often takes a minute."""
WORTH_SHARE = 0.97
"""The compiled way is kept where its steps take less than this share of the plain ones."""
_TRIED_S, _MOST_TRIED = 4.0, 12

Try = Callable[[Any], None]
"""One forward and backward pass through the network given, over a whole batch, leaving no trace."""


@lru_cache(maxsize=1)
def has_gpu() -> bool:
    """Whether torch can use a GPU here."""
    import torch

    return torch.cuda.is_available()


def compiler_words(gpu: bool) -> str:
    """Why torch cannot compile on this machine, as a sentence; "" where it can.

    For the processor it writes C++ and needs a compiler of this machine's; for a GPU it needs Triton.
    """
    if gpu:
        missing = importlib.util.find_spec("triton") is None
        return "Triton, which compiles for the GPU, is not installed on this machine." if missing else ""
    named = os.environ.get("CXX", "")
    if any(map(shutil.which, filter(None, (named, "g++", "clang++", "c++")))):
        return ""
    return "There is no C++ compiler on this machine, which compiling for the processor needs."


class Way:
    """The way in which one run computes its steps.

    Args:
        model: the network. asked: `training.compile`: off, auto, on or graphs.
        backend: of torch.compile; for tests.

    Attributes:
        chosen: "plain", "compiled" or "graphs" (compiled, and started as one CUDA graph); "" until it is chosen.
    """

    def __init__(self, model: nn.Module, asked: str, device: torch.device, backend: str = "inductor") -> None:
        self.model, self.asked, self.device, self.backend = model, asked, device, backend
        self.chosen = PLAIN if asked == "off" else ""
        self._compiled: Any = None

    def network(self, whole: bool) -> Any:
        """What to call in the next pass: the compiled network for a `whole` batch, where that way was chosen."""
        if not whole or self.chosen not in (COMPILED, GRAPHS):
            return self.model
        if self._compiled is None:
            self._compiled = self._made(self.chosen)
        if self.chosen == GRAPHS:
            import torch

            torch.compiler.cudagraph_mark_step_begin()
        return self._compiled

    def restore(self, chosen: str) -> str:
        """Goes on as an earlier attempt did; says in words where this machine cannot, "" where it can."""
        self.chosen, self._compiled = chosen, None
        lacking = compiler_words(self.device.type == "cuda") if chosen in (COMPILED, GRAPHS) else ""
        if not lacking:
            return ""
        self.chosen = PLAIN
        return f"The run was compiled before; now it goes on without, which rounds otherwise. {lacking}"

    def choose(self, once: Try, num_steps: int) -> str:
        """Chooses the way and says in words which one, and why; "" where nothing was asked or it is chosen already.

        Args:
            once: does one step of the network it is given. num_steps: that are still to be done.
        """
        if self.chosen:
            return ""
        self.chosen = PLAIN
        gpu = self.device.type == "cuda"
        if self.asked == GRAPHS and not gpu:
            return "Not started as CUDA graphs: this run computes on the processor, and they exist on NVIDIA GPUs only."
        if lacking := compiler_words(gpu):
            return f"Not compiled. {lacking}"
        once(self.model)  # the first step of all pays for what any first step pays for
        plain_s = self._timed(once, self.model, 3)
        if self.asked == "auto" and plain_s * num_steps < WORTH_S:
            return (
                f"Compiling was not tried: the whole training takes about {plain_s * num_steps:.0f} s, and compiling "
                "alone often takes a minute."
            )
        ways = {"auto": [COMPILED, GRAPHS] if gpu else [COMPILED], "on": [COMPILED], GRAPHS: [GRAPHS]}[self.asked]
        return " ".join(self._tried(way, once) for way in ways)

    def _tried(self, way: str, once: Try) -> str:
        """Compiles, compares, keeps what is faster (in any case where it was not left to the trial)."""
        name = "CUDA graphs" if way == GRAPHS else "torch.compile"
        before = self.network(whole=True)
        try:
            made = self._made(way)
            began = time.perf_counter()
            for _ in range(3 if way == GRAPHS else 1):  # the first passes warm up and record
                once(made)
            cost_s = time.perf_counter() - began
            now_s, new_s = self._compared(once, before, made)
        except Exception as error:  # compilers fail in many ways, and none of them may end a training
            words = str(error).strip().partition("\n")[0][:160]
            return f"{name} could not be used: {type(error).__name__}{f': {words}' if words else ''}."
        told = (
            f"{name}, tried for {cost_s:.0f} s: a step takes {1000 * new_s:.1f} ms with it, {1000 * now_s:.1f} without"
        )
        if self.asked == "auto" and new_s > WORTH_SHARE * now_s:
            return f"{told}. It does not pay here and is left out."
        self.chosen, self._compiled = way, made
        return f"{told}. It is used."

    def _made(self, way: str) -> Any:
        import torch

        if self.backend == "inductor":
            from torch._inductor import config

            config.compile_threads = 1  # no processes of its own: a worker is one process, and is ended as one
            return torch.compile(self.model, dynamic=False, mode="reduce-overhead" if way == GRAPHS else None)
        return torch.compile(self.model, dynamic=False, backend=self.backend)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            import torch

            torch.cuda.synchronize(self.device)

    def _timed(self, once: Try, net: Any, most: int) -> float:
        found: list[float] = []
        began = time.perf_counter()
        while not found or (len(found) < most and time.perf_counter() - began < _TRIED_S):
            self._wait()
            at = time.perf_counter()
            once(net)
            self._wait()
            found.append(time.perf_counter() - at)
        return statistics.median(found)

    def _compared(self, once: Try, one: Any, other: Any) -> tuple[float, float]:
        """Median seconds of a step through each, in turns, so that other work on the machine falls on both alike."""
        pairs: list[tuple[float, float]] = []
        began = time.perf_counter()
        while len(pairs) < 3 or (len(pairs) < _MOST_TRIED and time.perf_counter() - began < 2 * _TRIED_S):
            pairs.append((self._timed(once, one, 1), self._timed(once, other, 1)))
        return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)
