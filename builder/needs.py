"""What a training takes of a machine of a cluster: processors, and how much of a graphics card.

Reckoned before it is placed, from the document alone: the weights with their gradients and the optimizer's moments,
and what one batch leaves in the layers until the way back, found by sending shapes through the network (nothing is
computed). Two runs share a card where both fit. A wrong reckoning costs speed, not the run: where memory runs out,
fewer scans pass through the network at once (`memory`).
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from builder.cluster import Need
from builder.data import Dataset
from builder.runs import Run, read_json, write_atomic
from builder.spec import Experiment

CONTEXT_BYTES = 600_000_000  # what CUDA and its libraries take for each process
MARGIN = 1.4  # kernels' scratch space, what autocast keeps twice, fragments
SHARES = (0.125, 0.25, 0.5, 1.0)  # of a card: few sizes, so that they fill it


def reckon(folder: Path) -> None:
    """Writes need.json into the folder of a run, beside machines.json with the machines of the cluster as they are."""
    run = Run(folder.parents[1], folder.name)
    experiment = run.experiment
    machines = read_list(folder / "machines.json")
    classes = len(Dataset.open(run.home, experiment.data.dataset).classes)
    need = need_of(experiment, classes, machines)
    write_atomic(folder / "need.json", json.dumps(need.to_json()))


def read_list(path: Path) -> list[dict[str, Any]]:
    """The machines in a file of the supervisor's; [] where there are none."""
    plain = read_json(path)
    return list(plain.get("machines", ())) if plain else []


def need_of(experiment: Experiment, num_classes: int, machines: list[dict[str, Any]]) -> Need:
    """What each process of a training takes, on machines such as these.

    Args:
        machines: {cpus, gpus, card_bytes} each, as `cluster.Node`.

    On a machine with graphics cards the processors go with the card. Elsewhere a process takes SCANLOOM_THREADS
    processors, one without that.
    """
    processes = experiment.training.processes
    threads = max(1, int(os.environ.get("SCANLOOM_THREADS") or 1))
    with_cards = [m for m in machines if m["gpus"] >= 1]
    if not with_cards:
        most = max((m["cpus"] for m in machines), default=float(threads))
        return Need(float(max(1.0, min(threads, most))), 0.0, processes)
    bytes = memory_of(experiment, num_classes)
    card = min(m["card_bytes"] for m in with_cards)
    share = share_of(bytes, card) if processes == 1 else 1.0  # NCCL wants a card for each process
    per_card = min(m["cpus"] / m["gpus"] for m in with_cards)
    return Need(max(0.1, math.floor(per_card * share * 10) / 10), share, processes, bytes)


def share_of(bytes: int, card_bytes: int) -> float:
    """The smallest share of a card with `card_bytes` that holds `bytes`; all of it where either is unknown (0)."""
    if not bytes or not card_bytes:
        return 1.0
    return next((share for share in SHARES if share * card_bytes >= bytes), 1.0)


def memory_of(experiment: Experiment, num_classes: int) -> int:
    """Bytes that one process of a training is expected to take on its graphics card; 0 where that cannot be reckoned.

    A batch leaves in every layer what comes out of it, in float32; a process takes its part of the batch.
    """
    import torch

    from builder import network

    passed = 0

    def note(_module: Any, _inputs: Any, output: Any) -> None:
        nonlocal passed
        for tensor in output if isinstance(output, tuple | list) else (output,):
            if isinstance(tensor, torch.Tensor):
                passed += tensor.numel() * 4

    try:
        shape = network.input_shape(experiment)
        with torch.device("meta"):
            net = network.assemble_of(experiment.replace("weights", ""), num_classes)
        for module in net.modules():
            if not list(module.children()):
                module.register_forward_hook(note)
        net.train()
        batch = max(2, math.ceil(experiment.training.batch_size / experiment.training.processes))
        with torch.no_grad():
            net.to("meta")(torch.zeros(batch, *shape, device="meta"))
        weights = sum(p.numel() * p.element_size() for p in net.parameters())
    except (RuntimeError, ValueError, TypeError, NotImplementedError):
        return 0  # an operator without shapes of its own: then it gets a card for itself
    return int((4 * weights + passed) * MARGIN) + CONTEXT_BYTES
