"""An attempt of a run on a machine of a cluster: `python -m builder.placed RUN ATTEMPT`, what Ray is asked to start.

The machine's own SCANLOOM_HOME says where it sees the shared data folder. Of a run with several processes this one asks
Ray for a place for each (`team`), and computes nothing. With RANK in the environment, as `team` or torchrun sets it, it
is one of them.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from builder.cluster import EXIT_NOT_SHARED, Need, submission
from builder.execute import home
from builder.runs import Claim, Run, StoreError
from builder.supervisor import TRAINING_NICE, stdio_to

SEEN_WITHIN_S = 20.0  # a network folder shows what another machine wrote a little later


def main(arguments: list[str] | None = None, work: Callable[[Path], int] | None = None) -> int:
    """Works on the attempt that `arguments` name; the exit code is `worker.run`'s, or EXIT_NOT_SHARED."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if len(arguments) != 2 or not arguments[1].isdigit():
        print("usage: python -m builder.placed RUN ATTEMPT", file=sys.stderr)
        return 2
    attempt = int(arguments[1])
    try:
        run = Run(home(), arguments[0])
    except StoreError as error:
        print(error, file=sys.stderr)
        return 2
    if not _seen(run, attempt):
        print("This machine does not see the run: SCANLOOM_HOME must name the shared folder.", file=sys.stderr)
        return EXIT_NOT_SHARED
    need = Need.read(run.folder / "need.json") or Need()
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(max(1, int(need.cpus)))
    os.environ["SCANLOOM_PLACE"] = submission(run.id, attempt)
    stdio_to(run.folder / "worker.log")
    with contextlib.suppress(OSError):
        os.nice(max(0, TRAINING_NICE - os.nice(0)))
    if need.processes > 1 and "RANK" not in os.environ:
        from builder.team import gathered

        return gathered(run, attempt, need)
    if work is not None:
        return work(run.folder)
    from builder.worker import run as worked

    return worked(run.folder)


def _seen(run: Run, attempt: int) -> bool:
    """Whether this machine sees the claim of the attempt; waits a little for it."""
    wanted = submission(run.id, attempt)
    until = time.monotonic() + SEEN_WITHIN_S
    while True:
        claim = Claim.read(run.folder / "claim.json")
        if claim is not None and claim.place == wanted:
            return True
        if claim is not None and claim.attempt > attempt:
            return False
        if time.monotonic() > until or not run.home.is_dir():
            return False
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
