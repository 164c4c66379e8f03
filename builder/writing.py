"""A dataset being written: seen by nobody before it is complete, and gone when the import fails."""

import fcntl
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from builder.data import Dataset, UnusableScan
from builder.fingerprint import Fingerprint

GROWING = ("cases.jsonl", "pixels.bin", "masks.bin", "ledger.jsonl", "splits.jsonl")
"""The files that are appended to; dataset.json says up to which byte each of them counts."""

_ALIGN = 16


class Draft:
    """A dataset being written: nothing of it is seen before `commit`, and giving up leaves nothing behind.

    A new dataset grows in a hidden folder that is renamed at the end. Adding to one appends behind the committed sizes
    in dataset.json; replacing that file is the commit, and the next import cuts off what a broken one left.
    """

    def __init__(self, home: Path, name: str, task: str, into: str | None = None) -> None:
        self.home = Path(home)
        root = self.home / "datasets"
        root.mkdir(parents=True, exist_ok=True)
        sweep(self.home)
        self.base = Dataset.open(self.home, into) if into else None
        now = time.time()
        if self.base:
            self.id, self.folder = self.base.id, self.base.folder
            self.name, self.task, self.created = self.base.name, self.base.task, self.base.summary.created
            self.sizes = {**dict.fromkeys(GROWING, 0), **self.base.sizes}  # an earlier version knew no masks.bin
        else:
            self.id = time.strftime("%Y%m%d-%H%M%S-", time.localtime(now)) + secrets.token_hex(3)
            self.folder = root / f".importing-{self.id}"
            self.folder.mkdir()
            self.name, self.task, self.created = name, task, now
            self.sizes = dict.fromkeys(GROWING, 0)
        self._lock = self._locked()
        self.scratch = self.folder / ".scratch"
        shutil.rmtree(self.scratch, ignore_errors=True)  # of an import that was killed
        self.scratch.mkdir(mode=0o700)
        self._files = {}
        for growing in GROWING:
            file = open(self.folder / growing, "ab")  # noqa: SIM115  closed in `close`
            file.truncate(self.sizes[growing])
            self._files[growing] = file
        self.committed = False

    def _locked(self) -> int:
        lock = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise UnusableScan(
                "Another import into this dataset is running: wait until it has ended, then try again."
            ) from None
        return lock

    def append(self, name: str, data: bytes | memoryview) -> int:
        """Adds bytes to a growing file; returns the offset at which they begin."""
        offset = self.sizes[name]
        self._files[name].write(data)
        self.sizes[name] = offset + len(data)
        return offset

    def append_array(self, array: np.ndarray) -> int:
        """Adds an array to pixels.bin, aligned; returns its offset."""
        gap = -self.sizes["pixels.bin"] % _ALIGN
        if gap:
            self.append("pixels.bin", b"\0" * gap)
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        return self.append("pixels.bin", flat.data)

    def append_lines(self, name: str, lines: Iterable[str]) -> None:
        """Adds lines to a growing file."""
        for line in lines:
            self.append(name, line.encode() + b"\n")

    def commit(
        self,
        num_cases: int,
        fingerprint: Fingerprint,
        said: Iterable[str] = (),
        numbered: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Makes everything written so far the dataset.

        Args:
            said: the warnings that the cases alone do not tell.
            numbered: pseudonyms of the sites and the like that have numbers here (`attributes.Numbers`).
        """
        shutil.rmtree(self.scratch)
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        found: dict[str, Any] = {
            "version": 1,
            "name": self.name,
            "task": self.task,
            "created": self.created,
            "changed": time.time(),
            "num_cases": num_cases,
            "sizes": self.sizes,
            "fingerprint": fingerprint.to_json(),
            "said": list(said),
            **({"numbered": {kind: list(known) for kind, known in numbered.items()}} if numbered else {}),
        }
        self._describe(found)
        if self.base:
            shutil.rmtree(self.folder / "prepared", ignore_errors=True)  # of the smaller dataset
        else:
            final = self.folder.parent / self.id
            os.rename(self.folder, final)
            self.folder = final
        self.committed = True

    def renumber(self, numbered: Mapping[str, Sequence[str]]) -> None:
        """Keeps the numbers of sites and the like (see `commit`) of a dataset that gets nothing else."""
        assert self.base is not None
        found = json.loads((self.folder / "dataset.json").read_text())
        self._describe({**found, "numbered": {kind: list(known) for kind, known in numbered.items()}})

    def _describe(self, found: Mapping[str, Any]) -> None:
        """Writes dataset.json, whole or not at all."""
        draft = self.folder / f".dataset-{secrets.token_hex(4)}.json"
        with open(draft, "w") as summary:
            json.dump(found, summary, ensure_ascii=False, allow_nan=False)
            summary.flush()
            os.fsync(summary.fileno())
        os.rename(draft, self.folder / "dataset.json")

    def close(self) -> None:
        """Gives everything back; without a commit, what was written is removed."""
        for file in self._files.values():
            file.close()
        if not self.committed:
            shutil.rmtree(self.scratch, ignore_errors=True)
            if self.base:
                for name in GROWING:
                    os.truncate(self.folder / name, self.base.sizes.get(name, 0))
            else:
                shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._lock)


@contextmanager
def writing(home: Path, name: str, task: str, into: str | None = None) -> Iterator[Draft]:
    """A Draft that is closed whatever happens."""
    draft = Draft(home, name, task, into)
    try:
        yield draft
    finally:
        draft.close()


def sweep(home: Path) -> None:
    """Removes what killed imports and deletions left behind; those still running hold a lock and are let alone."""
    for folder in (Path(home) / "datasets").glob(".importing-*"):
        lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)
    for folder in (Path(home) / "datasets").glob(".deleted-*"):
        shutil.rmtree(folder, ignore_errors=True)
