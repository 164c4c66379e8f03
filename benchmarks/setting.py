"""What both sides of a comparison share: made-up scans on disk, a shipped network, and the report.

Ratios are medians over interleaved repetitions (ours, theirs, ours, theirs ...) in one process with one thread, so that
other load on the machine falls on both sides alike. Each is told for wall time and for the processor time of the
process, which other load hardly touches.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from builder.data import Prepared  # noqa: E402
from builder.fingerprint import Fingerprint  # noqa: E402
from builder.spec import Data, Experiment, Node, Training  # noqa: E402
from builder.task import find  # noqa: E402

RESULTS = Path(__file__).parent / "results"


class Scans:
    """Random scans of `size_px`, two classes, all in the train split; as `data.Dataset` offers them."""

    multi_label = False
    classes = ("absent", "present")

    def __init__(self, folder: Path, count: int, size_px: int, write: bool = True) -> None:
        chance = np.random.default_rng(0)
        if write:
            folder.mkdir(parents=True, exist_ok=True)
            shape = (count, 1, size_px, size_px)
            stored = np.lib.format.open_memmap(folder / "images.npy", mode="w+", dtype=np.uint8, shape=shape)
            for start in range(0, count, 256):
                stored[start : start + 256] = chance.integers(0, 256, stored[start : start + 256].shape, np.uint8)
            stored.flush()
        self.labels = chance.integers(0, 2, count)
        self.fingerprint = Fingerprint(num_cases=count, classes=self.classes)
        images = np.load(folder / "images.npy", mmap_mode="r")
        file = (folder / "images.npy").open("rb")
        self.made = Prepared(images, 255, np.array([0.5]), np.array([0.29]), file)

    def indices(self, split: str) -> np.ndarray:
        """Everything is for training: what is compared is the loop, not the judging."""
        return np.arange(len(self.labels) if split == "train" else 0)

    def prepared(self, data: Data, progress: Any = None) -> Prepared:
        """The scans are network input already."""
        return self.made


def starter(name: str, **training: Any) -> Experiment:
    """A shipped starter of recognition, with other settings of training."""
    found = next(e for e in find("recognition").starters() if e.name == name)
    settings = {**found.training.model_dump(), "monitor": "loss", "patience": 0, **training}
    return found.model_copy(update={"training": Training(**settings)})


def light(**training: Any) -> Experiment:
    """A network of two strided convolutions: on a CPU it costs about as little a scan as a large one on a GPU."""
    nodes = (
        Node(id="conv", name="conv2d", params={"out_channels": 8, "kernel_size": 5, "stride": 4, "padding": 2}),
        Node(id="act", name="relu"),
        Node(id="conv_b", name="conv2d", params={"out_channels": 16, "stride": 2}),
        Node(id="act_b", name="relu"),
        Node(id="pool", name="global_pool"),
        Node(id="head", name="class_scores"),
    )
    return Experiment(name="light", data=Data(size_px=64), network=nodes, training=Training(monitor="loss", **training))


@dataclass(frozen=True)
class Seconds:
    """What one repetition took: by the clock on the wall, and by the processor alone."""

    wall: float
    cpu: float


def now() -> tuple[float, float]:
    """Wall and processor clock, for `since`."""
    return time.perf_counter(), time.process_time()


def since(began: tuple[float, float]) -> Seconds:
    """What has passed since `began = now()`."""
    wall, cpu = now()
    return Seconds(wall - began[0], cpu - began[1])


def interleaved(sides: dict[str, Iterator[None]], repetitions: int) -> dict[str, list[Seconds]]:
    """Runs each side in turn, `repetitions` times after one that does not count.

    A side is an iterator: one `next` makes ready (not timed), the next one does the work (timed), and so on.
    """
    found: dict[str, list[Seconds]] = {name: [] for name in sides}
    for repetition in range(repetitions + 1):
        for name, side in sides.items():
            next(side)
            began = now()
            next(side)
            if repetition:
                found[name].append(since(began))
    return found


def compared(theirs: Sequence[Seconds], ours: Sequence[Seconds], count: int) -> dict[str, float]:
    """How many times faster ours is (medians over repetitions, each against its neighbour), and scans a second."""
    pairs = list(zip(theirs, ours, strict=True))
    return {
        "ratio": round(statistics.median(t.wall / o.wall for t, o in pairs), 3),
        "ratio_cpu": round(statistics.median(t.cpu / o.cpu for t, o in pairs), 3),
        "scans_per_s_ours": round(count / statistics.median(o.wall for o in ours), 1),
        "scans_per_cpu_s_ours": round(count / statistics.median(o.cpu for o in ours), 1),
        "scans_per_cpu_s_theirs": round(count / statistics.median(t.cpu for t in theirs), 1),
    }


def report(name: str, found: dict[str, Any]) -> None:
    """Prints `found` with machine and versions as JSON, and keeps it in results/."""
    versions = {}
    for package in ("torch", "torchvision", "monai", "kornia", "numpy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "absent"
    whole = {
        "benchmark": name,
        "date": time.strftime("%Y-%m-%d"),
        "load_average": round(os.getloadavg()[0], 1),
        "machine": f"{_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} thread(s), {platform.system()}",
        **({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}),
        "python": platform.python_version(),
        "versions": versions,
        **found,
    }
    text = json.dumps(whole, indent=2) + "\n"
    print(text, end="")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(text)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown processor"
