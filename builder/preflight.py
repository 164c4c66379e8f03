"""Before a training: what one real step takes in memory and time, and what follows for the whole run.

The very `Learner` that would train does a few steps on real scans, with its augmentation, optimizer and loss, at two
batch sizes. Memory is a fixed part and a part for each scan, so two measurements give the line, and the line the
largest batch; a margin is kept. Everything beyond what was measured is an estimate and says so.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from builder.data import Dataset
from builder.parts.training import TRAINING
from builder.spec import Experiment
from builder.task import Task

if TYPE_CHECKING:
    from builder.learner import Learner

MARGIN = 0.8
"""Share of the free memory that a batch may take."""
MAX_STEP_S = 20.0
"""A single step that is measured should not take longer than this; of larger batches the time is extrapolated."""
TIMED_S = 4.0
"""How long steps of one size are repeated to time them."""


@dataclass(frozen=True)
class Measured:
    """Steps of one size. bytes: peak of what one step needs above what stays. seconds: the median of `count` steps."""

    batch: int
    bytes: int
    seconds: float
    count: int


@dataclass(frozen=True)
class Other:
    """The same step with one setting changed. seconds, seconds_now: medians of steps in turns, with it and without."""

    path: str
    value: str | bool
    seconds: float
    seconds_now: float


@dataclass(frozen=True)
class Preflight:
    """What a training will take.

    Attributes:
        device: in words. batch_size, epochs: of the experiment. small, large: what was measured.
        lasting_bytes: weights, their gradients' moments and what else stays between steps.
        peak_bytes: of a step at `batch_size`, with what lasts; `peak_measured` is False where it is extrapolated.
        available_bytes: what this machine has for it now. largest_batch: the largest that stays within `MARGIN` of it,
            no larger than the training scans or the setting allow; 0 where not even two scans fit.
        limited_by: "memory", "scans" or "setting".
        others: settings of this machine's use that were tried beside those of the experiment.
        steps_per_epoch: optimizer steps. epoch_s: seconds for an epoch, validation included.
    """

    device: str
    batch_size: int
    epochs: int
    small: Measured
    large: Measured
    lasting_bytes: int
    peak_bytes: int
    peak_measured: bool
    available_bytes: int
    largest_batch: int
    limited_by: str
    steps_per_epoch: int
    epoch_s: float
    others: tuple[Other, ...] = ()

    @property
    def training_s(self) -> float:
        """Seconds for all epochs, without early stopping."""
        return self.epoch_s * self.epochs

    def to_json(self) -> dict[str, Any]:
        """As plain JSON, with `training_s`."""
        return {**asdict(self), "training_s": self.training_s}


def preflight(
    experiment: Experiment,
    task: Task,
    dataset: Dataset,
    folder: Path,
    device: str | None = None,
    told: Callable[[int, int], None] = lambda done, total: None,
    others: bool = False,
) -> Preflight:
    """Measures; a first call for a new preparation prepares all scans, as the training would (they are kept).

    Args:
        folder: where a learner may write (it does not). device: as in `train.train`. told: called as scans are
            prepared, with (done, total); may raise to end it. others: also try the other precisions and memory orders.
    Raises:
        ValueError: in words, where the experiment cannot train (no scans, no network). NotFinite: its numbers ran away
            in these steps already.
    """
    import torch

    from builder.batches import updates
    from builder.learner import Learner

    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    prepared = dataset.prepared(experiment.data, told)
    learner = Learner(experiment, task, dataset, prepared, folder, where)
    num = len(learner.train.indices)
    batch = min(experiment.training.batch_size, num)
    least = min(2, num)
    _step(learner, least)  # the first one also makes the optimizer's memory
    lasting = _lasting(learner)
    free = _free(where) + (lasting if where.type == "cpu" else 0)  # what this process holds, the training will hold
    small = _measure(learner, least)
    large = small
    size = batch
    while size > least:
        guess_bytes, guess_s = small.bytes / least * size, small.seconds / least * size
        if guess_bytes < 0.5 * free and guess_s < MAX_STEP_S:
            large = _measure(learner, size)
            break
        size = max(least, size // 2)
    each, fixed = _line(small, large)
    wanted = fixed + each * batch if batch != large.batch else large.bytes
    room = MARGIN * free - lasting - fixed
    fits = int(room // each) if each > 0 else num
    most = int(TRAINING.param("batch_size").high)  # type: ignore[union-attr]
    largest = min(fits, num, most)
    if largest > 8 and fits < min(num, most):
        largest -= largest % 8
    rate, begin = _pace(small, large)
    per_batch = begin + rate * batch
    cut = updates(num, experiment.training.batch_size, experiment.training.accumulate)
    batches = sum(map(len, cut))
    tried = _others(learner, large.batch) if others else ()
    judged = _judging(learner, large.batch) if learner.val is not None else 0.0
    return Preflight(
        device=_words(where),
        batch_size=experiment.training.batch_size,
        epochs=experiment.training.epochs,
        small=small,
        large=large,
        lasting_bytes=lasting,
        peak_bytes=int(lasting + wanted),
        peak_measured=batch == large.batch,
        available_bytes=int(free),
        largest_batch=max(0, largest) if fits >= least else 0,
        limited_by="memory" if fits < min(num, most) else "scans" if num <= most else "setting",
        steps_per_epoch=len(cut),
        epoch_s=batches * per_batch + judged,
        others=tried,
    )


def subject_digest(experiment: Experiment) -> str:
    """Names what the figures depend on: everything but the experiment's given name."""
    return experiment.model_copy(update={"name": "x"}).digest[:16]


def sentences(found: Mapping[str, Any]) -> list[str]:
    """What was found (`Preflight.to_json`), in plain sentences: first the verdict, then what it rests on."""
    batch, largest = found["batch_size"], found["largest_batch"]
    if not largest:
        verdict = "Not even two scans fit into the free memory: choose smaller scans or a smaller network."
    elif batch > largest and found["limited_by"] == "memory":
        verdict = f"A batch of {batch} is too large for the free memory: at most {largest} scans fit safely."
    elif found["limited_by"] == "memory":
        verdict = f"A batch of {batch} fits; up to {largest} scans would fit safely."
    elif found["limited_by"] == "scans":
        verdict = f"Memory is no limit: even all {largest} training scans would fit into one batch."
    else:
        verdict = f"Memory is no limit: the largest batch that can be chosen, {largest}, fits."
    sizes = sorted({found["small"]["batch"], found["large"]["batch"]})
    basis = (
        f"Measured on {found['device']} with real steps of {' and '.join(map(str, sizes))} scans; "
        f"{'other sizes are' if found['peak_measured'] else 'your batch and other sizes are'} estimated from these "
        f"on a straight line, and {100 * (1 - MARGIN):.0f} % of the free memory is left alone."
    )
    return [verdict, basis]


FILE = "preflight.json"
FASTER = 0.95
"""A setting is worth a word where a step takes less than this share of the time with it."""


def keep(folder: Path, found: Mapping[str, Any]) -> None:
    """Keeps what was found beside the run that was started on it: `kept` gives it back."""
    file = folder / FILE
    beside = file.with_suffix(".tmp")
    beside.write_text(json.dumps(dict(found)))
    os.replace(beside, file)


def kept(folder: Path) -> dict[str, Any] | None:
    """What the pre-flight of this run had found; None where none was made, or its file cannot be read."""
    try:
        found = json.loads((folder / FILE).read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "epoch_s" in found else None


def faster(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The settings with which a step was clearly faster, the fastest first; of one path only the best."""
    good = [o for o in found.get("others") or () if o["seconds"] < FASTER * o["seconds_now"]]
    good.sort(key=lambda o: o["seconds"] / o["seconds_now"])
    return list({o["path"]: o for o in reversed(good)}.values())[::-1]


def _others(learner: Learner, size: int) -> tuple[Other, ...]:
    """Steps with the other memory order and, where it is left to the machine, with half precision."""
    training, found = learner.experiment.training, []
    wanted: list[tuple[str, str | bool]] = []
    if learner.experiment.data.layout == "maps":
        wanted.append(("training.channels_last", not training.channels_last))
    if training.mixed_precision == "auto":
        halves = ("bfloat16", "float16") if learner.device.type == "cuda" else ("bfloat16",)
        wanted += [("training.mixed_precision", half) for half in (*halves, "off")]
    for path, value in wanted:
        if value == "off" and learner.half is None:
            continue  # that is what was measured
        changed = learner.experiment.replace(path, value)
        other = type(learner)(changed, learner.task, learner.dataset, learner.prepared, learner.folder, learner.device)
        pairs: list[tuple[float, float]] = []
        began = time.perf_counter()
        while len(pairs) < 4 or (len(pairs) < 9 and time.perf_counter() - began < TIMED_S):
            pairs.append((_seconds(other, size), _seconds(learner, size)))
        new, now = (float(np.median([p[k] for p in pairs[1:]])) for k in (0, 1))
        found.append(Other(path, value, new, now))
    return tuple(found)


def _seconds(learner: Learner, size: int) -> float:
    at = time.perf_counter()
    _step(learner, size)
    return time.perf_counter() - at


def _step(learner: Learner, size: int) -> None:
    """One optimizer step over the first `size` training scans."""
    learner.update([np.arange(size)])
    _wait(learner)


def _wait(learner: Learner) -> None:
    import torch

    if learner.device.type == "cuda":
        torch.cuda.synchronize(learner.device)


def _measure(learner: Learner, size: int) -> Measured:
    """Peak memory of one step, then the median time of a few."""
    needed = _peak(learner, size)
    times: list[float] = []
    began = time.perf_counter()
    while not times or (time.perf_counter() - began < TIMED_S and len(times) < 9):
        at = time.perf_counter()
        _step(learner, size)
        times.append(time.perf_counter() - at)
    return Measured(size, needed, float(np.median(times)), len(times))


def _peak(learner: Learner, size: int) -> int:
    """Bytes that one step needs at most above what is there before it.

    On a GPU torch's allocator knows. On the CPU the profiler writes down every allocation and release of tensors, whose
    running sum has a highest point; the resident size of the process would not do, since freed memory stays with it.
    """
    import torch

    if learner.device.type == "cuda":
        learner.optimizer.zero_grad(set_to_none=True)
        torch.cuda.reset_peak_memory_stats(learner.device)
        before = torch.cuda.memory_allocated(learner.device)
        _step(learner, size)
        return int(torch.cuda.max_memory_allocated(learner.device) - before)
    from torch.profiler import ProfilerActivity, profile

    learner.optimizer.zero_grad(set_to_none=True)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        _step(learner, size)
    results: Any = profiler.profiler
    changes = [e for e in results.kineto_results.events() if e.name() == "[memory]"]
    now = highest = 0
    for change in sorted(changes, key=lambda e: e.start_ns()):
        now += change.nbytes()
        highest = max(highest, now)
    return int(highest)


def _lasting(learner: Learner) -> int:
    """Bytes that stay between steps: weights, buffers, their average and the optimizer's moments."""
    import torch

    held = [*learner.model.parameters(), *learner.model.buffers()]
    held += list(learner.average.copy.state_dict().values()) if learner.average is not None else []
    held += [v for state in learner.optimizer.state.values() for v in state.values() if isinstance(v, torch.Tensor)]
    return sum(t.numel() * t.element_size() for t in held)


def _free(where: Any) -> int:
    """Bytes that a training could take on this device now; in a container, no more than that is allowed."""
    import torch

    if where.type == "cuda":
        free, _ = torch.cuda.mem_get_info(where)
        return int(free + torch.cuda.memory_reserved(where))
    import psutil

    free = psutil.virtual_memory().available
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        cache = next(
            (
                int(line.split()[1])
                for line in Path("/sys/fs/cgroup/memory.stat").read_text().splitlines()
                if line.startswith("inactive_file ")
            ),
            0,
        )
    except (OSError, ValueError):
        return int(free)
    return int(free) if limit == "max" else int(min(free, max(0, int(limit) - used + cache)))


def _line(small: Measured, large: Measured) -> tuple[float, float]:
    """(bytes a scan, bytes whatever the batch) through two measurements; with one, all is taken to grow with it."""
    if large.batch == small.batch:
        return small.bytes / small.batch, 0.0
    each = (large.bytes - small.bytes) / (large.batch - small.batch)
    if each <= 0:  # so small that the noise is larger
        return large.bytes / large.batch, 0.0
    return each, max(0.0, small.bytes - each * small.batch)


def _pace(small: Measured, large: Measured) -> tuple[float, float]:
    """(seconds a scan, seconds whatever the batch) of a step."""
    if large.batch == small.batch:
        return small.seconds / small.batch, 0.0
    rate = (large.seconds - small.seconds) / (large.batch - small.batch)
    if rate <= 0:
        return 0.0, large.seconds
    return rate, max(0.0, small.seconds - rate * small.batch)


def _judging(learner: Learner, size: int) -> float:
    """Seconds for the validation scans, from one batch of them."""
    import torch

    assert learner.val is not None
    num = len(learner.val.indices)
    size = min(size, num)
    learner.model.eval()
    with torch.inference_mode(), learner.precision():
        at = time.perf_counter()
        images, _ = learner.task.pose(learner.experiment, *learner.val.batch(slice(0, size)))
        learner.model(learner.normalized(images))
        _wait(learner)
    learner.model.train()
    return (time.perf_counter() - at) * ceil(num / size)


def _words(where: Any) -> str:
    import torch

    return torch.cuda.get_device_name(where) if where.type == "cuda" else "the processor"
