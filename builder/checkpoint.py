"""Saving a run so that nothing, not even a kill in the middle of a write, can lose it.

A checkpoint is a temporary file in the same folder, flushed to the disk, renamed into place, the folder flushed too,
and only then its manifest (size and SHA-256), written the same way. A checkpoint without a manifest was never finished
and is passed over; one that does not match its manifest is damaged, and the one before it is used, with a warning.
(Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014; plain `torch.save` lost 57 of 60 under kill -9.)

Weights travel on their own as safetensors: one file with its digest inside, so that one rename replaces it whole.

Nothing read here can run code: `torch.load` is only ever called with `weights_only=True`, and files that would grow in
memory (compressed entries, tensors larger than what is stored for them) are refused.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    import torch

FORMAT = "scanloom-checkpoint"
VERSION = 1
KEEP = 3
_CHUNK_BYTES = 1 << 20


class CheckpointError(Exception):
    """A checkpoint that cannot be written or must not be read; the message is one sentence for a person."""


@dataclass(frozen=True)
class Loaded:
    """The newest good checkpoint: its state, its file, and a sentence for each newer one that was passed over."""

    state: dict[str, Any]
    file: Path
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Weights:
    """Tensors by name, as `state_dict` names them, and the plain strings saved beside them."""

    tensors: dict[str, torch.Tensor]
    metadata: dict[str, str]


# ---- a whole run ----------------------------------------------------------------------------------------------------


def save(folder: Path | str, name: str, state: Mapping[str, Any], keep: int = KEEP) -> Path:
    """Write `state` as the newest checkpoint `name`-<number>.pt and drop all but the newest `keep`.

    `state` may hold tensors, numbers, strings, None and lists, tuples and dicts of them: what `weights_only` reads.
    Raises CheckpointError when it cannot be written (full disk, no permission); the earlier checkpoints stay.
    """
    import torch

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _sweep(folder, name)
    numbers = _numbers(folder, name)
    path = folder / f"{name}-{max(numbers, default=0) + 1:08d}.pt"
    content = {"format": FORMAT, "version": VERSION, "state": dict(state)}
    digest, num_bytes = _write_atomically(path, lambda file: torch.save(content, file))
    manifest = {"version": VERSION, "file": path.name, "sha256": digest, "bytes": num_bytes}
    try:
        _write_atomically(_manifest(path), lambda file: file.write(json.dumps(manifest).encode()))
    except CheckpointError:
        path.unlink(missing_ok=True)
        raise
    complete = [number for number in numbers if _manifest(folder / f"{name}-{number:08d}.pt").exists()]
    kept = set(complete[-(keep - 1) :] if keep > 1 else [])
    _drop(folder, name, [number for number in numbers if number not in kept])
    return path


def load_latest(folder: Path | str, name: str, check: Callable[[dict[str, Any]], None] | None = None) -> Loaded | None:
    """The newest checkpoint `name` that is whole, on the CPU; None where none was ever finished.

    A damaged or foreign one is passed over with a sentence in `warnings`. `check` may look at a state and raise
    CheckpointError as well. Raises CheckpointError, with the newest one's reason, where none of them is good.
    """
    folder = Path(folder)
    warnings: list[str] = []
    for number in reversed(_numbers(folder, name)):
        path = folder / f"{name}-{number:08d}.pt"
        if not _manifest(path).exists():
            continue  # a kill between the two renames: this checkpoint was never finished
        try:
            state = load(path)
            if check is not None:
                check(state)
        except CheckpointError as error:
            warnings.append(f"{error} The checkpoint before it is used instead.")
            continue
        return Loaded(state, path, tuple(warnings))
    if warnings:
        reason = warnings[0].removesuffix(" The checkpoint before it is used instead.")
        others = f" ({len(warnings) - 1} older ones cannot be used either.)" if len(warnings) > 1 else ""
        raise CheckpointError(reason + others)
    return None


def lend(path: Path, folder: Path, name: str) -> Path:
    """Gives `folder` the checkpoint at `path` as its first one called `name`: the same bytes, not a second time.

    Raises FileNotFoundError where it is gone.
    """
    lent = folder / f"{name}-{1:08d}.pt"
    _same_bytes(path, lent)
    return lent


def keep(path: Path, name: str) -> Path:
    """Keeps the checkpoint at `path` beside it as `name`, under its own number, however many follow it: the same bytes,
    not a second time. What was kept under that name before goes once the new one is there.

    Raises CheckpointError where the disk refuses.
    """
    folder, number = path.parent, path.stem.rpartition("-")[2]
    kept = folder / f"{name}-{number}.pt"
    try:
        _same_bytes(path, kept)
    except OSError as error:
        raise CheckpointError(
            f"{kept.name} could not be saved ({_cause(error)}). What was saved before is intact."
        ) from error
    _drop(folder, name, [other for other in _numbers(folder, name) if other != int(number)])
    return kept


def newest(folder: Path | str, name: str) -> Path | None:
    """The file of the newest checkpoint `name` that was finished, unread; None where there is none."""
    paths = (Path(folder) / f"{name}-{number:08d}.pt" for number in reversed(_numbers(Path(folder), name)))
    return next((path for path in paths if _manifest(path).exists()), None)


def _same_bytes(path: Path, other: Path) -> None:
    """Links the checkpoint at `path` to `other`, or copies it on a file system without links."""
    for there, here in ((path, other), (_manifest(path), _manifest(other))):  # the manifest last, as when saving
        here.unlink(missing_ok=True)  # never write into what may be a link
        try:
            os.link(there, here)
        except FileNotFoundError:
            raise
        except OSError:
            shutil.copyfile(there, here)
    _sync_folder(other.parent)


def discard(folder: Path | str, name: str) -> None:
    """Remove every checkpoint `name` in `folder`: for a run that begins anew."""
    folder = Path(folder)
    _drop(folder, name, _numbers(folder, name))


def _drop(folder: Path, name: str, numbers: list[int]) -> None:
    for number in numbers:
        path = folder / f"{name}-{number:08d}.pt"
        _manifest(path).unlink(missing_ok=True)  # the manifest goes first: a file without one is never read
        path.unlink(missing_ok=True)


def load(path: Path | str) -> dict[str, Any]:
    """The state in one checkpoint file, tensors on the CPU; CheckpointError unless it is whole, ours and harmless."""
    import torch

    path = Path(path)
    try:
        manifest = json.loads(_manifest(path).read_bytes())
        expected, num_bytes = str(manifest["sha256"]), int(manifest["bytes"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"The manifest of checkpoint {path.name} is missing or damaged.") from error
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size != num_bytes:
                raise CheckpointError(
                    f"Checkpoint {path.name} is damaged: it has {size} bytes and should have {num_bytes}."
                )
            if _digest(file) != expected:
                raise CheckpointError(f"Checkpoint {path.name} is damaged: its content does not match its checksum.")
            file.seek(0)
            _refuse_bomb(file, path.name, size)
            file.seek(0)
            content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"Checkpoint {path.name} cannot be read from the disk ({_cause(error)}).") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, TypeError, LookupError) as error:
        raise CheckpointError(
            f"Checkpoint {path.name} holds something other than plain numbers and tensors; it was not opened, because "
            "such a file could run code."
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT or not isinstance(content.get("state"), dict):
        raise CheckpointError(f"{path.name} is not a checkpoint of ScanLoom.")
    if content.get("version") != VERSION:
        raise CheckpointError(
            f"Checkpoint {path.name} was written in version {content.get('version')} of the format, and this ScanLoom "
            f"reads version {VERSION}; resume it with the ScanLoom that wrote it."
        )
    for where, tensor in _tensors(content["state"]):
        if _claims_more_than_it_holds(tensor):
            raise CheckpointError(
                f"Checkpoint {path.name} claims more numbers in {where} than it holds; it was not opened, because it "
                "would fill the memory."
            )
    return content["state"]


# ---- weights alone --------------------------------------------------------------------------------------------------


def save_weights(path: Path | str, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> Path:
    """Write `tensors` and `metadata` as one safetensors file, replacing `path` whole or not at all.

    The format version and a SHA-256 over names, shapes, types, values and metadata are added to the metadata.
    Raises CheckpointError when it cannot be written; what was at `path` stays.
    """
    from safetensors.torch import save as serialize

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path.parent, path.name)
    # A clone each: safetensors refuses tensors that share memory, as tied weights do.
    plain = {name: tensor.detach().to("cpu").contiguous().clone() for name, tensor in tensors.items()}
    words = {**metadata, "format": FORMAT, "version": str(VERSION)}
    words["sha256"] = _weights_digest(plain, words)
    _write_atomically(path, lambda file: file.write(serialize(plain, words)))
    return path


def load_weights(path: Path | str) -> Weights:
    """The tensors (on the CPU) and metadata of a file from `save_weights`; CheckpointError unless it is whole."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
    except FileNotFoundError as error:
        raise CheckpointError(f"There are no saved weights {path.name} in this run yet.") from error
    except OSError as error:
        raise CheckpointError(f"The weights {path.name} cannot be read from the disk ({_cause(error)}).") from error
    except (SafetensorError, ValueError, RuntimeError, TypeError) as error:
        raise CheckpointError(f"The weights {path.name} are damaged or not a safetensors file.") from error
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"The weights {path.name} were not written by ScanLoom, or their header is damaged.")
    if metadata.get("version") != str(VERSION):
        raise CheckpointError(
            f"The weights {path.name} were written in version {metadata.get('version')} of the format, and this "
            f"ScanLoom reads version {VERSION}; open them with the ScanLoom that wrote them."
        )
    expected = metadata.pop("sha256", "")
    if _weights_digest(tensors, metadata) != expected:
        raise CheckpointError(f"The weights {path.name} are damaged: their content does not match their checksum.")
    return Weights(tensors, metadata)


def pour(tensors: Mapping[str, torch.Tensor], model: torch.nn.Module, file: str = "The checkpoint") -> None:
    """Copy saved tensors into `model`; CheckpointError, before anything changes, when they fit another network."""
    own = model.state_dict()
    wrong = [f"{name} is missing there" for name in own if name not in tensors]
    wrong += [f"{name} is unknown here" for name in tensors if name not in own]
    wrong += [
        f"{name} is {_shape(tensor)} there and {_shape(own[name])} here"
        for name, tensor in tensors.items()
        if name in own and (tensor.shape != own[name].shape)
    ]
    if wrong:
        more = f" (and {len(wrong) - 1} more differences)" if len(wrong) > 1 else ""
        raise CheckpointError(f"{file} belongs to another network: {wrong[0]}{more}.")
    model.load_state_dict(dict(tensors))


# ---- the protocol ---------------------------------------------------------------------------------------------------


class _Hashing:
    """A file open for writing that also sums up what passes, and keeps the error that C++ callers would blur."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.sha256, self.num_bytes = file, hashlib.sha256(), 0
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            self.file.write(data)
        except OSError as error:
            self.error = error
            raise
        self.sha256.update(data)
        self.num_bytes += len(data)
        return len(data)

    def flush(self) -> None:
        self.file.flush()


def _write_atomically(path: Path, write: Callable[[Any], object]) -> tuple[str, int]:
    """Replace `path` by what `write` puts out, whole or not at all; the SHA-256 and size of what was written."""
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    hashing: _Hashing | None = None
    try:
        with temporary.open("wb") as file:
            hashing = _Hashing(file)
            write(hashing)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:
        # torch's zip writer turns a failed write into a RuntimeError of its own; the true cause is kept by the wrapper.
        cause = error if isinstance(error, OSError) else (hashing.error if hashing is not None else None)
        temporary.unlink(missing_ok=True)
        if cause is None:
            raise
        if cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            free_mb = shutil.disk_usage(path.parent).free / 1e6
            raise CheckpointError(
                f"The disk is full: {path.name} could not be saved ({free_mb:.0f} MB are free). What was saved before "
                "is intact; make room and resume the run."
            ) from cause
        raise CheckpointError(
            f"{path.name} could not be saved ({_cause(cause)}). What was saved before is intact."
        ) from cause
    return hashing.sha256.hexdigest(), hashing.num_bytes


def _sync_folder(folder: Path) -> None:
    """Make the renames in `folder` outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sweep(folder: Path, name: str) -> None:
    """Remove the temporary files that killed writers of `name` left; a run has one writer, so none is in use."""
    for stray in folder.glob(f".{name}*.tmp-*"):
        stray.unlink(missing_ok=True)


def _numbers(folder: Path, name: str) -> list[int]:
    pattern = re.compile(re.escape(name) + r"-(\d{8,})\.pt")
    return sorted(int(match[1]) for file in folder.glob(f"{name}-*.pt") if (match := pattern.fullmatch(file.name)))


def _manifest(path: Path) -> Path:
    return path.with_suffix(".json")


def _digest(file: BinaryIO) -> str:
    sha256 = hashlib.sha256()
    while chunk := file.read(_CHUNK_BYTES):
        sha256.update(chunk)
    return sha256.hexdigest()


def _weights_digest(tensors: Mapping[str, torch.Tensor], words: Mapping[str, str]) -> str:
    import torch

    sha256 = hashlib.sha256(json.dumps(sorted((k, v) for k, v in words.items() if k != "sha256")).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        sha256.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        if tensor.numel():
            sha256.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha256.hexdigest()


def _refuse_bomb(file: BinaryIO, name: str, size: int) -> None:
    """Raise unless `file` is a zip whose entries are stored as they are, so that reading it takes its own size."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise CheckpointError(
            f"Checkpoint {name} is in the old pickle format or no checkpoint at all; it was not opened, because such a "
            "file could run code."
        ) from error
    grows = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    if grows or sum(entry.file_size for entry in entries) > size:
        raise CheckpointError(
            f"Checkpoint {name} is compressed, which ScanLoom never writes; it was not opened, because it could fill "
            "the memory."
        )


def _tensors(value: Any, where: str = "state") -> Iterator[tuple[str, torch.Tensor]]:
    """Each tensor in nested dicts, lists and tuples, with the path to it."""
    import torch

    if isinstance(value, torch.Tensor):
        yield where, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _tensors(item, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _tensors(item, f"{where}.{index}")


def _claims_more_than_it_holds(tensor: torch.Tensor) -> bool:
    """True for expanded, sparse and memoryless tensors: small in the file, without bound when copied."""
    import torch

    if tensor.layout != torch.strided or tensor.device.type != "cpu":
        return True
    return tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes()


def _shape(tensor: torch.Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "one number"


def _cause(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()
