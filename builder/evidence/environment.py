"""On what the figures were computed: this machine and the versions of what runs on it; nothing that names anybody."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import psutil

PACKAGES = (
    "torch", "torchvision", "timm", "segmentation-models-pytorch", "safetensors", "monai", "numpy", "scipy",
    "scikit-learn", "torchmetrics", "faster-coco-eval", "pydicom", "nibabel", "pillow", "pydantic", "streamlit",
)  # fmt: skip


def here() -> dict[str, Any]:
    """{python, system, machine, processor, cores, memory_gb, graphics, packages {name: version}}."""
    import torch

    graphics = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "graphics": graphics,
        "packages": {name: number for name in PACKAGES if (number := _version(name))},
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _processor() -> str:
    """The processor as it calls itself, "" where the system does not tell."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            names = (line.partition(":")[2].strip() for line in file if line.startswith("model name"))
            return next(names, "")
    except OSError:
        return platform.processor()
