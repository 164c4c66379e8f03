"""Several processes for one run: asks Ray for a place for each, starts them, and ends all where one ends badly.

Runs as the job that the supervisor asked the cluster for (`placed`). Places are taken all at once or not at all (a
placement group), so two such runs never wait for each other's half. Each process is an ordinary one, started like
torchrun starts it, in a place that Ray holds; Ray's own training library is not needed (docs/decisions). No process is
started again by itself: the run as a whole goes on from its last checkpoint, which is what the supervisor does with any
run that dies.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from builder.cluster import Need
from builder.runs import Run

_PROJECT = Path(__file__).parents[1]
_LOOK_S = 0.2
_DIES_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)


def gathered(run: Run, attempt: int, need: Need) -> int:
    """Works on an attempt of `run` with `need.processes` processes; the exit code of the one that leads, or of the
    first that ended badly."""
    import ray
    from ray.util.placement_group import placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    try:
        bundle = {"CPU": need.cpus} | ({"GPU": need.gpus} if need.gpus else {})
        group = placement_group([bundle] * need.processes, strategy="PACK")
        ray.get(group.ready())

        def at(place: int, function: Any, *arguments: Any) -> Any:
            strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=place)
            remote = ray.remote(num_cpus=need.cpus, num_gpus=need.gpus, max_retries=0, scheduling_strategy=strategy)(
                function
            )
            return remote.remote(*arguments)

        address, port = ray.get(at(0, meeting_point))
        command = [run.id, str(attempt)]
        ranks = [at(k, be_one, command, k, need.processes, address, port) for k in range(need.processes)]
        left, code = list(ranks), 0
        while left and not code:
            done, left = ray.wait(left, num_returns=1, timeout=None)
            try:
                code = ray.get(done[0])
            except ray.exceptions.RayError as error:
                print(f"A process of the run is gone: {type(error).__name__}", file=sys.stderr)
                code = 1
            if done[0] == ranks[0]:
                break  # it led: what it says is what happened
        return int(code)
    finally:
        ray.shutdown()  # ends what still runs in the places


def meeting_point() -> tuple[str, int]:
    """(address of this machine in the cluster, a port that is free there)."""
    import ray

    address = ray.util.get_node_ip_address()
    with socket.socket() as probe:
        probe.bind((address, 0))
        return address, probe.getsockname()[1]


def be_one(command: list[str], rank: int, size: int, address: str, port: int) -> int:
    """Runs the process of `rank` here, to its end; returns its exit code. It ends when this process ends."""
    environment = {
        **os.environ,
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_RANK": "0",  # Ray shows each process its own card only
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
        "PYTHONPATH": str(_PROJECT),
        **_interface(),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "builder.placed", *command], env=environment, cwd=_PROJECT, preexec_fn=_end_with_parent
    )
    try:
        while process.poll() is None:
            time.sleep(_LOOK_S)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    return process.returncode


def _end_with_parent() -> None:
    """In the child: a signal when its parent dies, by whatever means (Linux)."""
    ctypes.CDLL(None).prctl(_DIES_WITH_PARENT, signal.SIGKILL)


def _interface() -> dict[str, str]:
    """Which network card gloo and NCCL shall use: the one the cluster is on. Both guess by host name, often wrongly."""
    import psutil
    import ray

    own = ray.util.get_node_ip_address()
    for name, addresses in psutil.net_if_addrs().items():
        if any(a.address == own for a in addresses):
            return {"GLOO_SOCKET_IFNAME": name, "NCCL_SOCKET_IFNAME": name}
    return {}
