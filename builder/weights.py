"""Files of pretrained weights: taken in once, known from then on by the SHA-256 of their content and never by a path.

`home/weights/<sha256>.safetensors` holds the tensors, `<sha256>.json` beside it how many there are and, for weights
that timm knows, of which models. A safetensors file is kept byte for byte, so that its name is what `sha256sum` says of
it; a .pth file is turned into one. Files of strangers are opened in a child process that may neither run their code
(`weights_only`), nor take all memory, nor use the network.

Nothing here contacts anyone but `fetch`, which only a person's click or command calls.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from builder.catalog import Digest, LayerSpec, closest

__all__ = [
    *("Beginning", "Source", "Stored", "WeightsError", "begin", "beginning", "fetch", "fetched", "fits", "keep"),
    *("located", "source", "stored", "take_in"),
]

MOST_BYTES = 16 << 30
"""Largest file that is taken in."""
PACKAGED = "tf_efficientnet_lite0"
"""The one model whose weights an installed package carries."""
_TIMEOUT_S = 600
_ROOM_BYTES = 2 << 30  # what a child may use beyond its libraries and four times the file


class WeightsError(ValueError):
    """Weights that cannot be had or used. Its text is one sentence for people."""


@dataclass(frozen=True)
class Stored:
    """A file of weights that was taken in.

    Attributes:
        sha256: of its content; its name. tensors, numbers: how many it holds. bytes: its size.
        models: the timm models that it was fetched for; none for a file of the user's own.
    """

    sha256: str
    tensors: int
    numbers: int
    bytes: int
    models: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """Where it lies."""
        return _folder() / f"{self.sha256}.safetensors"


@dataclass(frozen=True)
class Source:
    """Where timm's weights of a model would come from: what is said before anyone is asked.

    Attributes:
        host: name of the server. what: repository or address there. bytes: about how much, from the model's own size.
        licence: as timm tells it, "" where it does not.
    """

    host: str
    what: str
    bytes: int
    licence: str = ""


def _folder() -> Path:
    from builder.execute import home

    return home() / "weights"


def stored() -> list[Stored]:
    """All weights on this machine, the newest first."""
    found = []
    for file in _folder().glob("*.json"):
        with contextlib.suppress(OSError, ValueError, TypeError):
            one = _read(file)
            if one.sha256 == file.stem and one.path.is_file():
                found.append((file.stat().st_mtime, one))
    return [one for _, one in sorted(found, key=lambda pair: (-pair[0], pair[1].sha256))]


def _read(side: Path) -> Stored:
    told = json.loads(side.read_text(encoding="utf-8"))
    model = told.pop("model", "")  # as it was written once: the last one alone
    return Stored(**{**told, "models": tuple(told.get("models", [model] if model else []))})


def fetched(model: str) -> Stored | None:
    """The weights that were fetched for a timm model, None where they were not."""
    return next((one for one in stored() if model in one.models), None)


def take_in(file: Path, model: str = "") -> Stored:
    """Copies a .safetensors, .pth or .pt file into the data folder and says what it holds.

    Args:
        model: the timm model that it was fetched for.
    Raises:
        WeightsError: it is no such file, holds other things than tensors, is too large, or the disk is full.
    """
    file, folder = Path(file), _folder()
    try:
        size = file.stat().st_size
        if not file.is_file() or not size:
            raise WeightsError("There is no such file, or it is empty.")
        if size > MOST_BYTES:
            raise WeightsError(f"The file has {size / 2**30:,.1f} GiB; at most {MOST_BYTES >> 30} GiB are taken in.")
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(prefix=".incoming-", dir=folder) as passing:
            made = Path(passing) / "weights.safetensors"
            told = _opened_by_a_child(file, made)
            with made.open("rb") as content:
                sha256 = hashlib.file_digest(content, "sha256").hexdigest()
                os.fsync(content.fileno())
            with _alone(folder):
                models = {model} - {""}
                with contextlib.suppress(OSError, ValueError, TypeError):
                    models |= {*_read(folder / f"{sha256}.json").models}
                numbers = told["tensors"], told["numbers"], made.stat().st_size
                one = Stored(sha256, *numbers, tuple(sorted(models)))
                made.replace(one.path)
                side = Path(passing) / "side.json"
                side.write_text(json.dumps(asdict(one)) + "\n", encoding="utf-8")
                side.replace(folder / f"{sha256}.json")
    except OSError as error:
        raise WeightsError(
            f"The file could not be taken in ({(error.strerror or 'unknown reason').lower()})."
        ) from None
    return one


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else writes beside the weights meanwhile."""
    import fcntl

    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _opened_by_a_child(file: Path, made: Path) -> dict[str, int]:
    """Lets a limited child read `file` and write it as safetensors; {tensors, numbers}."""
    root = str(Path(__file__).resolve().parents[1])
    code = f"import sys; sys.path.insert(0, {root!r}); from builder.weights import _child; _child(*sys.argv[1:])"
    command = [sys.executable, "-P", "-B", "-c", code, str(file.absolute()), str(made.absolute())]
    try:
        done = subprocess.run(
            command, capture_output=True, env=surroundings(), timeout=_TIMEOUT_S, check=False, cwd=made.parent
        )
    except subprocess.TimeoutExpired:
        raise WeightsError(f"Reading the file took more than {_TIMEOUT_S // 60} minutes; it was given up.") from None
    try:
        told = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        raise WeightsError(
            "The file could not be read: the process that opened it ended without an answer, most often because the "
            "file is damaged or needs too much memory."
        ) from None
    if "refused" in told:
        raise WeightsError(str(told["refused"]))
    return {name: int(told[name]) for name in ("tensors", "numbers")}


def surroundings() -> dict[str, str]:
    """The environment of a child that opens files of strangers: nothing that a library might obey, no secret."""
    keep = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "LANG") if name in os.environ}
    return {**keep, **{name: "1" for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")}}


# -- in the child -----------------------------------------------------------------------------------------------------


def confined(
    cpu_s: int, file_bytes: int, room_bytes: int, most_bytes: int | None = None, with_torch: bool = True
) -> None:
    """Limits this process for good: CPU time, the size of what it writes, no network, no core file, and memory.

    Args:
        room_bytes: address space beyond the libraries and `_ROOM_BYTES`. most_bytes: in all, libraries included.
        with_torch: torch is among the libraries; to import it takes seconds.
    """
    import resource

    from builder.forkserver import without_network

    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    without_network()
    if with_torch:
        import torch

        torch.set_num_threads(1)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    room = used + room_bytes + _ROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (room if most_bytes is None else min(room, most_bytes),) * 2)


def _child(file: str, made: str) -> None:
    """Reads weights under limits, writes them, and prints one line of JSON: {tensors, numbers} or {refused}."""
    size = os.path.getsize(file)
    try:
        safe = _begins_as_safetensors(Path(file))
        confined(_TIMEOUT_S, 2 * size + (64 << 20), 4 * size, with_torch=not safe)
        told = _copied(Path(file), Path(made)) if safe else _converted(Path(file), Path(made))
    except WeightsError as error:
        told = {"refused": str(error)}
    except MemoryError:
        told = {"refused": "The file needs too much memory; it was not taken in."}
    print(json.dumps(told), flush=True)


def _begins_as_safetensors(file: Path) -> bool:
    with file.open("rb") as content:
        head = content.read(9)
    return len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") < file.stat().st_size


def _copied(file: Path, made: Path) -> dict[str, Any]:
    """A .safetensors file stays as it is, once its header fits its content: no tensor is made, torch not needed."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as tensors:
            sizes = [tensors.get_slice(name).get_shape() for name in tensors.keys()]  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError("The file is damaged: its safetensors header does not fit its content.") from error
    if not sizes:
        raise WeightsError("The file holds no weights.")
    shutil.copyfile(file, made)
    return {"tensors": len(sizes), "numbers": sum(_count(s) for s in sizes)}


def _converted(file: Path, made: Path) -> dict[str, Any]:
    """A file of `torch.save`, written anew as .safetensors."""
    from safetensors.torch import save_file

    found = _pickled(file)
    if not found:
        raise WeightsError("The file holds no weights by name (a state dict); a whole pickled model is not opened.")
    # A copy each: safetensors refuses tensors that share memory, as tied weights do.
    plain = {name: found[name].detach().contiguous().clone() for name in sorted(found)}
    save_file(plain, made)
    return {"tensors": len(plain), "numbers": sum(t.numel() for t in plain.values())}


def _count(sizes: list[int]) -> int:
    number = 1
    for size in sizes:
        number *= size
    return number


def _pickled(file: Path) -> dict[str, Any]:
    """The tensors by name in a file of `torch.save`; of several state dicts inside (as training scripts write them) the
    one with the most tensors, the first of equals."""
    import zipfile

    import torch

    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
        packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
        if packed or sum(entry.file_size for entry in entries) > file.stat().st_size:
            raise WeightsError("The file is compressed in a way that torch.save never writes; it was not opened.")
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # bytes of a stranger may make the reader stumble in any way
        if "memory" in str(error).lower():
            raise MemoryError from error
        raise WeightsError(
            "The file is no .safetensors file and holds something other than plain tensors; it was not opened, because "
            "such a file could run code."
        ) from error
    best: dict[str, Any] = {}
    for candidate in _dicts(content):
        plain = {name: value for name, value in candidate.items() if _plain(name, value)}
        if len(plain) > len(best):
            best = plain
    return best


def _plain(name: Any, value: Any) -> bool:
    import torch

    return isinstance(name, str) and isinstance(value, torch.Tensor) and value.layout == torch.strided


def _dicts(content: Any, depth: int = 0) -> Iterator[Mapping[Any, Any]]:
    if isinstance(content, Mapping) and depth < 4:
        yield content
        for value in content.values():
            yield from _dicts(value, depth + 1)


# -- for a layer ------------------------------------------------------------------------------------------------------


def located(spec: LayerSpec, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a layer's settings with paths of files in the place of their digests, ready to build it.

    Raises:
        WeightsError: the weights it asks for are not on this machine.
    """
    files = [p.name for p in spec.params if isinstance(p, Digest)]
    if not files:
        return dict(chosen)
    if said := missing(spec, chosen):
        raise WeightsError(said[1])
    weights, model = chosen.get("weights"), chosen.get("model", "")
    if weights == "download":
        one = fetched(model)
        return {**chosen, "weights": "file", files[0]: _whole(one.sha256 if one else "")}
    return {**chosen, files[0]: _whole(chosen[files[0]]) if weights == "file" else ""}


def _whole(sha256: str) -> str:
    """The path of stored weights; WeightsError where their content is no longer what their name says."""
    path = _folder() / f"{sha256}.safetensors"
    with path.open("rb") as content:
        if hashlib.file_digest(content, "sha256").hexdigest() != sha256:
            raise WeightsError(_damaged(sha256))
    return str(path)


def _damaged(sha256: str) -> str:
    return f"The weights {sha256[:12]} are damaged on the disk. Take the file in again."


def missing(spec: LayerSpec, chosen: Mapping[str, Any]) -> tuple[str, str] | None:
    """What keeps a layer from the weights it asks for: (the setting it is about, a sentence), or None."""
    files = [p.name for p in spec.params if isinstance(p, Digest)]
    weights, model = chosen.get("weights"), str(chosen.get("model", ""))
    if not files:
        return None
    if weights == "installed package" and model != PACKAGED:
        return "weights", f"No installed package carries weights of {model}; only of {PACKAGED}."
    if weights not in ("file", "download"):
        return None
    if weights == "download":
        if fetched(model) is not None:
            return None
        return "weights", (
            f"The weights that timm knows for {model} are not on this machine yet, and nothing is fetched by itself. "
            f"Fetch them in this layer's form, or with 'python -m builder weights --fetch {model}'."
        )
    sha256 = chosen[files[0]]
    if not sha256:
        return files[0], "No file of weights is chosen. Take one in, in this layer's form, or choose other weights."
    if not (_folder() / f"{sha256}.safetensors").is_file():
        return files[0], (
            f"The weights {sha256[:12]} are not on this machine. Take the file in again; it is known by its content."
        )
    try:
        found, total = fits(model, sha256)
    except WeightsError as error:
        return files[0], str(error)
    if found < total:
        return files[0], f"The file does not fit {model}: {found} of its {total} weights are in it."
    return None


@lru_cache(maxsize=64)
def fits(model: str, sha256: str) -> tuple[int, int]:
    """How many of a timm model's weights a stored file holds, by name and size, and how many there are.

    A prefix that all have in the file ("module.") is taken off. The first convolution may have other channels.

    Raises:
        WeightsError: timm has no such model, or the file is damaged.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    with torch.device("meta"):
        net = _made(model, num_classes=0)
    wanted = {name: list(tensor.shape) for name, tensor in net.state_dict().items()}
    try:
        with safe_open(_folder() / f"{sha256}.safetensors", framework="pt") as file:
            there = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise WeightsError(_damaged(sha256)) from error
    first = next(iter(wanted), "")
    ends = {name.removesuffix(first) for name in there if name.endswith(first)} | {""}
    stems = _stems(model)

    def same(name: str, shape: list[int] | None) -> bool:
        if shape is None:
            return False
        own = wanted[name]
        return shape == own or (name in stems and len(shape) == len(own) and shape[:1] + shape[2:] == own[:1] + own[2:])

    return max(sum(same(name, there.get(prefix + name)) for name in wanted) for prefix in ends), len(wanted)


def _made(model: str, **given: Any) -> Any:
    """A timm model; WeightsError where timm has none of this name (it would look for some names on the internet)."""
    import timm

    try:
        if timm.is_model(model):
            return timm.create_model(model, **given)
    except RuntimeError:  # a set of weights that it does not know
        pass
    raise WeightsError(f"timm has no model {model!r}.{closest(model, timm.list_models())}")


def _stems(model: str) -> set[str]:
    import timm

    cfg = timm.get_pretrained_cfg(model)
    told: Any = (cfg.first_conv or ()) if cfg is not None else ()
    return {f"{name}.weight" for name in ((told,) if isinstance(told, str) else told)}


# -- for a whole network ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Beginning:
    """How far stored weights go in a network.

    Attributes:
        begun: ids of the layers that begin with them, whole. others: of those that learn and are not in them.
    """

    begun: tuple[str, ...]
    others: tuple[str, ...]


def keep(tensors: Mapping[str, Any]) -> Stored:
    """Stores the weights of a network (arrays by the names of its state dict); raises WeightsError."""
    import numpy as np
    from safetensors.numpy import save_file

    folder = _folder()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(prefix=".keeping-", dir=folder) as passing:
            file = Path(passing) / "network.safetensors"
            save_file({name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}, file)
            return take_in(file)
    except OSError as error:
        raise WeightsError(
            f"The weights could not be stored ({(error.strerror or 'unknown reason').lower()})."
        ) from None


def beginning(wanted: Mapping[str, tuple[int, ...]], sha256: str) -> Beginning:
    """How far stored weights go in a network whose state dict has these sizes. A layer begins with them as a whole or
    not at all.

    Raises:
        WeightsError: they are not on this machine, or damaged.
    """
    there = _held(sha256)
    layers: dict[str, bool] = {}
    for name, size in wanted.items():
        if not name.endswith("num_batches_tracked"):
            id = name.split(".")[1]
            layers[id] = layers.get(id, True) and there.get(name) == tuple(size)
    begun = tuple(id for id, fits in layers.items() if fits)
    return Beginning(begun, tuple(id for id in layers if id not in begun))


def reached(net: Any, sha256: str) -> Beginning:
    """As `beginning`, of a network at hand."""
    return beginning({name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}, sha256)


def _held(sha256: str) -> dict[str, tuple[int, ...]]:
    """Sizes of the tensors of stored weights, by name."""
    from safetensors import SafetensorError, safe_open

    path = _folder() / f"{sha256}.safetensors"
    if not path.is_file():
        raise WeightsError(
            f"The weights {sha256[:12]} are not on this machine. Take the file in again; it is known by its content."
        )
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise WeightsError(_damaged(sha256)) from error


def begin(net: Any, sha256: str) -> Beginning:
    """Puts stored weights into a network, changed in place; says which layers begin with them.

    Raises:
        WeightsError: they are not on this machine, damaged, or fit none of its layers.
    """
    from safetensors.torch import load_file

    found = reached(net, sha256)
    if not found.begun:
        raise WeightsError(f"The weights {sha256[:12]} are of another network: they fit none of its layers.")
    given = load_file(_whole(sha256))
    own = net.state_dict()
    net.load_state_dict({n: given[n] for n in own if n in given and n.split(".")[1] in found.begun}, strict=False)
    return found


# -- timm's own -------------------------------------------------------------------------------------------------------


def source(model: str) -> Source:
    """Says, without asking anyone, where timm would fetch the weights of a model from; WeightsError where it knows
    none."""
    from urllib.parse import urlparse

    import timm
    import torch

    with torch.device("meta"):
        num_bytes = 4 * sum(p.numel() for p in _made(model).parameters())
    cfg = timm.get_pretrained_cfg(model)
    if cfg is not None and cfg.hf_hub_id:
        from huggingface_hub import constants

        host = urlparse(constants.ENDPOINT).netloc
        return Source(host, str(cfg.hf_hub_id), num_bytes, str(cfg.license or ""))
    if cfg is not None and cfg.url:
        return Source(urlparse(str(cfg.url)).netloc, str(cfg.url), num_bytes, str(cfg.license or ""))
    raise WeightsError(f"timm knows no stored weights for {model}. Take a file of your own in, or begin at random.")


def fetch(model: str) -> Stored:
    """Fetches timm's weights of a model from the server that `source` names, and takes them in.

    Only a person's click or command may lead here. Raises: WeightsError, also where the server cannot be reached.
    """
    import timm

    there = source(model)
    cfg = timm.get_pretrained_cfg(model)
    assert cfg is not None
    folder = _folder()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=folder) as passing:
        try:
            if cfg.hf_hub_id:
                file = _from_hub(str(cfg.hf_hub_id), cfg.hf_hub_filename, passing)
            else:
                from torch.hub import download_url_to_file

                file = Path(passing) / "fetched"
                told = re.search(r"-([0-9a-f]{8,})\.", str(cfg.url))  # timm's addresses carry the digest's beginning
                download_url_to_file(str(cfg.url), str(file), told[1] if told else None, progress=False)
        except WeightsError:
            raise
        except Exception as error:  # whatever a network and its libraries may raise
            raise WeightsError(
                f"The weights of {model} could not be fetched from {there.host} ({type(error).__name__}). Check that "
                "this machine reaches it, or take a file in that you fetched elsewhere."
            ) from error
        return take_in(file.resolve(), model)


def _from_hub(repository: str, name: str | None, passing: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    for file in (name,) if name else ("model.safetensors", "pytorch_model.bin"):
        with contextlib.suppress(EntryNotFoundError):
            return Path(hf_hub_download(repository, file, cache_dir=passing))
    raise WeightsError(f"{repository} holds no file of weights that timm reads.")
