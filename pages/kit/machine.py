"""This machine in words, without importing torch: processor, memory, GPU, disk."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pages.kit.words import size

__all__ = ["Machine", "free_disk_bytes", "memory_words", "this_machine"]


@dataclass(frozen=True)
class Machine:
    """What trains here. `gpus` are the names the driver tells; () means that training runs on the processor."""

    processor: str
    num_cores: int
    memory_bytes: int
    gpus: tuple[str, ...]

    @property
    def words(self) -> str:
        """Short, for the sidebar: "NVIDIA H100" or "2 processor cores, no GPU"."""
        return self.gpus[0] if self.gpus else f"{self.num_cores} processor cores, no GPU"


def _first(path: str, key: str) -> str:
    """Returns what follows `key:` in a file of the kernel, "" where there is none."""
    try:
        for line in Path(path).read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    except OSError:
        return ""
    return ""


@lru_cache(maxsize=1)
def this_machine() -> Machine:
    """Asks the operating system once. Only NVIDIA GPUs with a loaded driver count; Apple's chips are told as a GPU."""
    cards = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    gpus = tuple(_first(str(card), "Model") or "NVIDIA GPU" for card in cards)
    if not gpus and platform.system() == "Darwin" and platform.machine() == "arm64":
        gpus = ("Apple GPU",)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    processor = _first("/proc/cpuinfo", "model name") or platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(processor, cores, memory, gpus)


def free_disk_bytes(folder: Path) -> int:
    """Returns the free bytes of the disk on which `folder` lies or will lie."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def memory_words() -> str:
    """This machine's memory, such as "24.0 GB"."""
    return size(this_machine().memory_bytes)
