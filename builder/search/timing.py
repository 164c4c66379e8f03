"""How long a network takes for one scan on this machine's processor, before anything is learned."""

from __future__ import annotations

import time

from builder.network import assemble_of, input_shape
from builder.spec import Experiment

_LOOKS = 7


def milliseconds(experiment: Experiment, num_classes: int) -> float:
    """Median time of the forward pass of one prepared scan, in ms, on the processor: its weights are drawn at random.

    Torch's own random state stays as it is.
    """
    import torch

    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        net = assemble_of(experiment.replace("weights", ""), num_classes, trained=True).eval()
        scan = torch.zeros(1, *input_shape(experiment))
        net(scan)  # the first one sets things up
        taken = []
        for _ in range(_LOOKS):
            began = time.perf_counter()
            net(scan)
            taken.append(time.perf_counter() - began)
    return round(1000 * sorted(taken)[_LOOKS // 2], 3)
