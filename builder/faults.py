"""Faults in words: a plain sentence for the person, the technical side for worker.log, personal data for neither."""

from __future__ import annotations

import contextlib
import errno
import logging
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

from builder.runs import disk_full, disk_full_words

_PROJECT = Path(__file__).resolve().parents[1]


def sentence(error: BaseException, kind: str) -> str:
    """What a person is told of `error`: its own words where they were written for people, else what it amounts to."""
    if disk_full(error):
        return disk_full_words(kind)
    name = type(error).__name__
    if name == "OutOfMemoryError":
        return "The graphics card ran out of memory. Choose a smaller batch, smaller scans or a smaller network."
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return "The memory of this machine ran out. Choose a smaller batch, smaller scans or a smaller network."
    if name == "AcceleratorError":
        return "The graphics card reported a fault and had to be let go. Press Resume to continue on it."
    if _ours(error) and str(error):
        return str(error)
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return "The work was interrupted from outside."
    return f"A fault of ScanLoom's own ({name}) ended the work; the details are in its worker.log."


def _ours(error: BaseException) -> bool:
    """Whether the words of `error` were written in this project: its class is ours, or our code raised a ValueError."""
    if type(error).__module__.split(".")[0] in ("builder", "tasks"):
        return True
    frames = traceback.extract_tb(error.__traceback__)
    if not frames or not isinstance(error, ValueError | LookupError) or isinstance(error, KeyError | IndexError):
        return False
    raised, line = Path(frames[-1].filename), (frames[-1].line or "").lstrip()
    inside = any(raised.is_relative_to(_PROJECT / part) for part in ("builder", "tasks"))
    return inside and line.startswith("raise ")


def note_fault(error: BaseException, private: bool, root: Path) -> None:
    """Writes the technical side of `error` to worker.log: places in the code, and its words where they name nobody."""
    with contextlib.suppress(OSError):
        seen: BaseException | None = error
        while seen is not None:
            words = "" if private else f": {str(seen).replace(str(root), 'HOME')}"
            print(f"{type(seen).__name__}{words}", file=sys.stderr)
            for frame in traceback.extract_tb(seen.__traceback__):
                print(f"  {_short(frame.filename)}:{frame.lineno} in {frame.name}", file=sys.stderr)
            seen = seen.__cause__ or seen.__context__
        sys.stderr.flush()


def _short(filename: str) -> str:
    parts = Path(filename).parts
    return "/".join(parts[parts.index("site-packages") + 1 :] if "site-packages" in parts else parts[-2:])


def quieten(private: bool = False) -> None:
    """Keeps values of scans out of worker.log: pydicom's warnings and log lines print them."""
    for name in ("pydicom", "nibabel", "PIL", "pylibjpeg"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.addHandler(logging.NullHandler())
        logger.propagate = False

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: Any = None,
        line: str | None = None,
    ) -> None:
        words = "" if private else f": {message}"
        with contextlib.suppress(OSError):
            print(f"{category.__name__} at {_short(filename)}:{lineno}{words}", file=sys.stderr, flush=True)

    warnings.showwarning = show
    warnings.filterwarnings("ignore", module="pydicom")
