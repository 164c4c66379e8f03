"""One run by several processes: each takes its part of every batch, and all move the weights by the sum of it.

What torchrun sets (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT) makes a process one of a team; without RANK it is alone
and nothing here does anything. The process of rank 0 leads: it alone judges, writes events and saves. The others do
the same steps and keep quiet.

The result is that of one process with the whole batch, within rounding:

* the order of the scans is the same, and a batch is cut into as many parts as there are processes; of a batch with
  fewer scans than that, all do the whole and count it once;
* gradients are summed, each scan counting once, before clipping, penalties and the step, so that all do the same step.
  Losses of half precision are scaled by the same factor everywhere, and a step that overflows anywhere is left out by
  all;
* batch normalization takes mean and variance over the parts together (as torch's SyncBatchNorm, which exists for GPUs
  only).

It is not the same, only as good, where chance is thrown: dropout, augmentation and where patches are cut are thrown
anew by each process (from seed, epoch, step and rank, so that a resumed run goes on exactly). And a loss that is no
mean over scans (a Dice over the whole batch) is taken for each part by itself, as it is with `accumulate`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

WAIT = timedelta(hours=48)  # the longest pause; that a process is gone is noticed at once, by its connection
_STOP, _LOSS = 0, 1  # what travels with the gradients


class Team:
    """The processes that share the batches of a run, seen from one of them.

    Attributes:
        rank: of this process, from 0. size: how many there are. stopped: whether the leader asked all to stop.
    """

    rank, size, stopped = 0, 1, False

    @property
    def leads(self) -> bool:
        """Whether this process judges, saves and speaks for the run."""
        return self.rank == 0

    def part(self, positions: np.ndarray) -> tuple[np.ndarray, float]:
        """This process's part of a batch of positions, and the share of the batch that it counts for."""
        return positions, 1.0

    def summed(self, parameters: Sequence[nn.Parameter], loss: Tensor) -> Tensor:
        """Sums the gradients of `parameters` in place, and returns the sum of `loss` (a float64 number)."""
        return loss

    def agreed(self, value: Any) -> Any:
        """What the leader says (others may pass anything): plain JSON or None."""
        return value

    def join_norms(self, model: nn.Module) -> None:
        """Has the batch normalizations of `model` look at all parts together, while `together` says so."""

    @contextmanager
    def together(self) -> Iterator[None]:
        """Around what all processes do at the same time, with the network in training."""
        yield

    def leave(self) -> None:
        """Ends the connection to the others."""


ALONE = Team()


class Gathered(Team):
    """Several processes, connected by torch.distributed: gloo between processors, nccl between graphics cards."""

    def __init__(self, device: torch.device) -> None:
        import torch.distributed as dist

        backend = "nccl" if device.type == "cuda" else "gloo"
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group(backend, init_method="env://", timeout=WAIT)
        self.rank, self.size, self.device = dist.get_rank(), dist.get_world_size(), device
        self.wants_stop = False  # the leader was asked to stop; told with the next step
        self.stopped = False
        self._together = False
        self._bucket: Tensor | None = None

    def part(self, positions: np.ndarray) -> tuple[np.ndarray, float]:
        count = len(positions)
        if count < self.size:
            return positions, 1 / self.size
        start, end = (count * (self.rank + k) // self.size for k in (0, 1))
        return positions[start:end], (end - start) / count

    def summed(self, parameters: Sequence[nn.Parameter], loss: Tensor) -> Tensor:
        """One message for all of it: the gradients as float32, one after the other, and two numbers."""
        import torch.distributed as dist

        used = [p for p in parameters if p.requires_grad]
        length = sum(p.numel() for p in used)
        if self._bucket is None or self._bucket.numel() != length + 2:
            self._bucket = torch.zeros(length + 2, dtype=torch.float32, device=self.device)
        bucket, at = self._bucket, 0
        for p in used:
            place = bucket[at : at + p.numel()]
            place.zero_() if p.grad is None else place.copy_(p.grad.reshape(-1))
            at += p.numel()
        bucket[length + _STOP] = float(self.wants_stop)
        bucket[length + _LOSS] = loss.float()
        dist.all_reduce(bucket)
        at = 0
        for p in used:
            part = bucket[at : at + p.numel()].view_as(p)
            if p.grad is None:  # no way led to it here; where none did elsewhere it stays untouched, as in one process
                p.grad = part.to(p.dtype).clone() if bool(part.any()) else None
            else:
                p.grad.copy_(part)
            at += p.numel()
        self.stopped = self.stopped or bool(bucket[length + _STOP] > 0)
        return bucket[length + _LOSS].double()

    def agreed(self, value: Any) -> Any:
        import torch.distributed as dist

        held = [value]
        dist.broadcast_object_list(held, src=0, device=self.device)
        return held[0]

    def join_norms(self, model: nn.Module) -> None:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and not isinstance(module, nn.SyncBatchNorm):
                module.forward = _Joined(module, self)  # type: ignore[method-assign, assignment]

    @contextmanager
    def together(self) -> Iterator[None]:
        self._together = True
        try:
            yield
        finally:
            self._together = False

    def leave(self) -> None:
        import torch.distributed as dist

        if dist.is_initialized():
            dist.destroy_process_group()


class _Joined(TorchFunctionMode):
    """The forward pass of a batch normalization over the parts of all processes.

    Only the norm itself is replaced. What else a layer of its kind does stays its own: timm's have their activation
    behind it. While judging, or where one process asks the network by itself, all of it is the layer's own.
    """

    def __init__(self, module: nn.Module, team: Gathered) -> None:
        super().__init__()
        self.module, self.team, self.own = module, team, module.forward

    def __call__(self, x: Tensor) -> Tensor:
        if not (self.module.training and self.team._together):
            return cast(Tensor, self.own(x))
        with self:
            return cast(Tensor, self.own(x))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return (_normalized if func is nn.functional.batch_norm else func)(*args, **(kwargs or {}))


def _normalized(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`torch.nn.functional.batch_norm` in training, of what all processes have together: mean first, then the mean of
    what is left squared, which is as exact as one process is (Ioffe and Szegedy 2015)."""
    values = x.float()
    over = [0, *range(2, x.dim())]
    shape = [1, -1, *[1] * (x.dim() - 2)]
    count = torch.full((1,), values.numel() / values.shape[1], device=x.device)
    held = _sum_over_all(torch.cat([values.sum(over), count]))
    total = held[-1].detach()
    mean = held[:-1] / total
    off = values - mean.view(shape)
    variance = _sum_over_all(off.square().sum(over)) / total
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            unbiased = variance * (total / (total - 1).clamp(min=1))
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    result = off * torch.rsqrt(variance + eps).view(shape)
    if weight is not None:
        result = result * weight.view(shape)
    if bias is not None:
        result = result + bias.view(shape)
    return result.to(x.dtype)


class _SumOverAll(torch.autograd.Function):
    """The sum of a tensor over all processes; what comes back is summed likewise, since each one's loss hangs on it."""

    @staticmethod
    def forward(_context: Any, value: Tensor) -> Tensor:
        import torch.distributed as dist

        value = value.contiguous().clone()
        dist.all_reduce(value)
        return value

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        import torch.distributed as dist

        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return gradient


def _sum_over_all(value: Tensor) -> Tensor:
    return cast(Tensor, _SumOverAll.apply(value))


def own_device() -> str:
    """The graphics card of this process, "cpu" where there is none; of several on one machine the one that LOCAL_RANK
    counts to."""
    if not torch.cuda.is_available():
        return "cpu"
    if "LOCAL_RANK" not in os.environ or torch.cuda.device_count() < 2:
        return "cuda"
    return f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"


def team_of(device: torch.device) -> Team:
    """The team of this process, as the environment says: `ALONE` without RANK or where it is the only one."""
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return ALONE
    return Gathered(device)
