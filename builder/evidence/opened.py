"""Opening a pack, which may come from anywhere: only the files that a pack has, no larger than they may be."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from builder.evidence.pack import MANIFEST

_LARGEST = 16 << 30  # bytes of the weights
_LARGEST_TEXT = 256 << 20
_SUFFIXES = (".json", ".jsonl", ".md", ".csv", ".svg", ".html", ".safetensors")
_MOST_FILES = 64


class NoPack(ValueError):
    """Something that is no evidence pack. Its text is one sentence for people."""


@contextmanager
def opened(pack: Path, place: Path) -> Iterator[Path]:
    """The folder of a pack: itself, or a zip unpacked below `place` for as long as one is within.

    Raises:
        NoPack: neither, with the reason.
    """
    if pack.is_dir():
        inner = [path.parent for path in pack.glob(f"*/{MANIFEST}")]
        folder = pack if (pack / MANIFEST).is_file() or len(inner) != 1 else inner[0]
        if not (folder / MANIFEST).is_file():
            raise NoPack(f"{pack.name} is no evidence pack: it holds no {MANIFEST}. Name the folder or zip of a pack.")
        yield folder
        return
    if not zipfile.is_zipfile(pack):
        raise NoPack(f"{pack.name} is no evidence pack: expected the zip, or the folder, that ScanLoom made.")
    with tempfile.TemporaryDirectory(prefix=".pack-", dir=place) as passing:
        with zipfile.ZipFile(pack) as packed:
            _unpack(packed, Path(passing))
        if not (Path(passing) / MANIFEST).is_file():
            raise NoPack(f"{pack.name} is no evidence pack: it holds no {MANIFEST}.")
        yield Path(passing)


def _unpack(packed: zipfile.ZipFile, folder: Path) -> None:
    files = [info for info in packed.infolist() if not info.is_dir()]
    if len(files) > _MOST_FILES:
        raise NoPack(f"The zip is no evidence pack: it holds {len(files)} files, a pack at most {_MOST_FILES}.")
    for info in files:
        name = PurePosixPath(info.filename)
        if len(name.parts) > 2 or ".." in name.parts or name.is_absolute() or name.suffix not in _SUFFIXES:
            raise NoPack("The zip is no evidence pack: it holds files that no pack has.")
        most = _LARGEST if name.suffix == ".safetensors" else _LARGEST_TEXT
        if info.file_size > most:
            raise NoPack("The zip is no evidence pack: a file in it is larger than any of a pack.")
        try:
            with packed.open(info) as source, open(folder / name.name, "xb") as target:
                shutil.copyfileobj(_Limited(source, most), target)
        except (zipfile.BadZipFile, FileExistsError, NotImplementedError, RuntimeError, EOFError, OSError) as error:
            raise NoPack(
                f"The file {name.name} of the zip cannot be read: it is damaged, so the pack does not hold. "
                "Fetch the zip again."
            ) from error


class _Limited:
    """Reads no more than a zip entry may hold, whatever its header says."""

    def __init__(self, source: object, most: int) -> None:
        self._source, self._left = source, most

    def read(self, size: int = -1) -> bytes:
        part: bytes = self._source.read(size)  # type: ignore[attr-defined]
        self._left -= len(part)
        if self._left < 0:
            raise NoPack("The zip is no evidence pack: a file in it grows beyond what a pack holds.")
        return part
